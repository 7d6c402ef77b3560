"""`ahmf study levels`: what each number of levels, the paper's m, brings and costs; Figure 1 of the paper with numbers.

What is written into the study's folder: `levels.md`, the tables and what they say; `levels.csv`, every number; and two
pictures, each as SVG and PNG: `levels`, error against time, and `curves`, error against steps.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ahmf_jax.writing import write_whole
from experiments.plots import COLOURS, MARKERS, save, tidy
from experiments.studies import outcome, tables
from experiments.studies.cost import Cost
from experiments.studies.outcome import Spread, by_seed, cell, difference, places, plus_minus, signed, spread
from experiments.studies.standing import Standing, read
from experiments.studies.study import Row as Planned
from experiments.studies.study import Study
from experiments.studies.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, CURVES = "levels", "curves"
FIELD = "model.num_levels"
LARGEST = 2400  # points squared, the area of the circle of the row that takes most memory


def plan(numbers: Sequence[int], seeds: int) -> list[Planned]:
    """A trial for each number of levels and seed; seed by seed, so that what is finished can be compared early."""
    return [Planned(f"m = {m}", {FIELD: m, "seed": seed}) for seed, m in itertools.product(range(seeds), numbers)]


@dataclass(frozen=True)
class Row:
    """A number of levels.

    Attributes:
      m: the number.
      planned: seeds.
      mae, rmse: of the complete trials, by seed, in the study's unit.
      gain: part of the interpolation's MAE that is gone, by seed.
      seconds: of training, without compiling and validating, by seed.
      curves: validation MAE by step, by seed; of trials that are not complete, too.
      cost: None before it is measured.
    """

    m: int
    planned: int
    mae: dict[int, float]
    rmse: dict[int, float]
    gain: dict[int, float]
    seconds: dict[int, float]
    curves: dict[int, list[tuple[int, float]]]
    cost: Cost | None


def rows(study: Study) -> list[Row]:
    """The study's rows as they are now, the smallest m first."""
    return _rows(read(study))


def _rows(standing: Standing) -> list[Row]:
    costs = outcome.costs(standing.study)
    found = []
    for trials in standing.rows.values():
        done = [t for t in trials if t.state == "complete"]
        mae = by_seed(trials, "mae")
        floors = {
            t.fields["seed"]: t.attributes["floor"]["mae"] for t in done if "mae" in t.attributes.get("floor", {})
        }
        found.append(
            Row(
                m=trials[0].fields[FIELD],
                planned=outcome.planned(trials),
                mae=mae,
                rmse=by_seed(trials, "rmse"),
                gain={seed: 1 - mae[seed] / floor for seed, floor in floors.items() if floor > 0 and seed in mae},
                seconds={
                    t.fields["seed"]: t.attributes["training"]["seconds"] for t in done if "training" in t.attributes
                },
                curves={t.fields["seed"]: list(t.curve) for t in trials if t.curve},
                cost=outcome.cost_of(standing.study, trials[0], costs),
            )
        )
    return sorted(found, key=lambda row: row.m)


def brings(found: Sequence[Row], unit: str) -> Table:
    """The errors, and the change from the row before."""
    digits = places(value for row in found for value in (*row.mae.values(), *row.rmse.values()))
    unit = f" ({unit})" if unit else ""
    heads = ("m", "seeds", f"MAE{unit}", f"RMSE{unit}", "under the interpolation", "MAE less that of the m before")
    lines = []
    before: Row | None = None
    for row in found:
        gain = spread(100 * value for value in row.gain.values())
        change = difference(row.mae, before.mae) if before else None
        lines.append(
            (
                Cell(str(row.m), row.m),
                Cell(outcome.seeds(len(row.mae), row.planned), len(row.mae)),
                cell(spread(row.mae.values()), digits),
                cell(spread(row.rmse.values()), digits),
                Cell(f"{plus_minus(gain, 1)} %", gain.mean) if gain else Cell(""),
                Cell(f"{signed(change, digits)}: {change.word}", change.mean) if change else Cell(""),
            )
        )
        before = row if row.mae else before
    return Table("What m brings: mean ± standard deviation over the seeds", heads, tuple(lines))


def takes(found: Sequence[Row]) -> Table:
    """The costs."""
    heads = (
        "m",
        "parameters",
        "inference, GFLOP",
        "inference, ms",
        "inference, MiB",
        "training step, GFLOP",
        "training step, ms",
        "training step, MiB",
        "training, all steps",
        "compiling, inference + step",
    )
    lines = []
    for row in found:
        seconds, cost = spread(row.seconds.values()), row.cost
        training = Cell(f"{seconds.mean:,.0f} s", seconds.mean) if seconds else Cell("")
        if cost is None:
            lines.append((Cell(str(row.m), row.m), *(Cell(""),) * 7, training, Cell("")))
            continue
        lines.append(
            (
                Cell(str(row.m), row.m),
                Cell(f"{cost.parameters:,}", cost.parameters),
                _plain(cost.inference_gflop),
                _plain(cost.inference_ms),
                _plain(cost.inference_mib),
                _plain(cost.train_gflop),
                _plain(cost.train_step_ms),
                _plain(cost.train_mib),
                training,
                Cell(
                    f"{cost.inference_compile_s:.1f} s + {cost.train_compile_s:.1f} s",
                    cost.inference_compile_s + cost.train_compile_s,
                ),
            )
        )
    return Table("What m costs", heads, tuple(lines))


def _plain(value: float | None) -> Cell:
    """A number with four digits, or all before the point."""
    if value is None:
        return Cell("")
    digits = max(3 - math.floor(math.log10(value)), 0) if value > 0 else 0
    return Cell(f"{value:.{digits}f}", value)


def sentences(found: Sequence[Row]) -> list[str]:
    """What the numbers say, in words."""
    measured = [row for row in found if row.mae]
    if not measured:
        return ["No training is complete yet."]
    digits = places(value for row in measured for value in row.mae.values())
    best = min(measured, key=lambda row: statistics.mean(row.mae.values()))
    said = [f"The smallest mean MAE is that of m = {best.m}: {plus_minus(spread(best.mae.values()), digits)}."]
    for before, row in itertools.pairwise(measured):
        said += _step(before, row, digits)
    if len(measured) > 2:
        said += _step(measured[0], measured[-1], digits)
    return said


def _step(before: Row, row: Row, digits: int) -> list[str]:
    """From one number of levels to another."""
    change = difference(row.mae, before.mae)
    if change is None:
        return [f"m = {before.m} and m = {row.m} have no seed in common yet."]
    verb = "falls" if change.mean < 0 else "rises"
    said = f"From m = {before.m} to m = {row.m} MAE {verb} by {abs(change.mean):.{digits}f}"
    if math.isnan(change.error):
        return [f"{said}, with one seed in common: nothing tells how much of that is chance."]
    verdict = "within the spread" if change.word == "within the spread" else "more than the spread explains"
    return [
        f"{said} ± {change.error:.{digits}f} (95 % interval {change.low:+z.{digits}f} to {change.high:+z.{digits}f}, "
        f"{change.n} seeds): {verdict}."
    ]


def markdown(study: Study) -> str:
    """The page of the study: origin, pictures, tables, and what they say."""
    standing = read(study)
    found = _rows(standing)
    costs = [row.cost for row in found if row.cost]
    parts = ["\n".join(outcome.origin(standing))]
    if any(row.mae for row in found) and costs:
        parts.append(f"![error against inference time, the circle's area the memory, by m]({NAME}.svg)")
    parts += [tables.markdown(brings(found, standing.unit)), _method(), tables.markdown(takes(found))]
    if costs:
        parts.append(outcome.how_measured(costs[0]))
    parts.append("\n".join(f"- {sentence}" for sentence in sentences(found)))
    if any(row.curves for row in found):
        parts.append(f"![validation error by step, by m]({CURVES}.svg)")
    return "\n\n".join(parts) + "\n"


def _method() -> str:
    return (
        "Mean ± standard deviation over the seeds, which draw the initial values and the patches. The last column "
        "compares seed by seed: mean difference ± its standard error; it is within the spread where its 95 % interval "
        "(Student's t) has a 0 in it."
    )


def study_figures(study: Study, folder: Path) -> list[Path]:
    """Writes table and pictures of a study, finished or not, into a folder that is there; the files.

    Raises:
      InputError: it cannot be written.
    """
    standing = read(study)
    found = _rows(standing)
    made = [folder / f"{NAME}.md", folder / f"{NAME}.csv"]
    write_whole(made[0], markdown(study).encode())
    write_whole(made[1], as_csv(found))
    pictures = {NAME: figure_1(found, standing.unit), CURVES: curves(found, standing.unit)}
    for name, picture in pictures.items():
        made += [] if picture is None else save(picture, folder / name)
    return made


def as_csv(found: Sequence[Row]) -> bytes:
    """A line a row, with every number that the tables have."""
    heads = ["m", "seeds", "planned", "mae", "mae_sd", "rmse", "rmse_sd", "gain", "gain_sd", "training_s"]
    costs = [
        "parameters",
        "inference_gflop",
        "train_gflop",
        "inference_ms",
        "inference_mib",
        "train_step_ms",
        "train_mib",
        "inference_compile_s",
        "train_compile_s",
    ]
    lines = []
    for row in found:
        stats = [spread(of.values()) or Spread(math.nan, math.nan, 0) for of in (row.mae, row.rmse, row.gain)]
        seconds = spread(row.seconds.values())
        lines.append(
            [row.m, len(row.mae), row.planned]
            + [number for s in stats for number in (s.mean, s.deviation)]
            + [seconds and seconds.mean]
            + [row.cost and getattr(row.cost, name) for name in costs]
        )
    return outcome.as_csv([*heads, *costs], lines)


def figure_1(found: Sequence[Row], unit: str) -> "Figure | None":
    """MAE against inference time, the circle's area the memory, a circle an m; None before both are known."""
    import matplotlib
    from matplotlib.figure import Figure

    known = [(row, row.cost, spread(row.mae.values())) for row in found]
    points = [(row, cost, mae) for row, cost, mae in known if cost is not None and mae is not None]
    if not points:
        return None
    memory = [cost.inference_mib for _, cost, _ in points]
    largest = max((m for m in memory if m is not None), default=None)
    height, width = points[0][1].size
    with matplotlib.rc_context({"text.parse_math": False}):  # a unit may have a $ in it
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for row, cost, mae in points:
            area = 100 if largest is None or cost.inference_mib is None else LARGEST * cost.inference_mib / largest
            colour = _colour(found, row)
            axes.scatter([cost.inference_ms], [mae.mean], s=area, color=colour, alpha=0.35, linewidths=0)
            error = None if math.isnan(mae.deviation) else mae.deviation
            axes.errorbar([cost.inference_ms], [mae.mean], yerr=error, fmt="o", color=colour, capsize=4, markersize=4)
            said = "" if cost.inference_mib is None else f"\n{cost.inference_mib:.0f} MiB"
            axes.annotate(
                f"m = {row.m}{said}",
                (cost.inference_ms, mae.mean),
                xytext=(math.sqrt(area / math.pi) + 4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.margins(0.2)
        axes.set_xlabel(f"inference, {height} x {width}, NumPy to NumPy (ms)")
        axes.set_ylabel(f"MAE ({unit})" if unit else "MAE")
        counts = sorted({mae.n for *_, mae in points})
        of = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        axes.set_title(
            f"Area: peak memory. Bars: standard deviation over {of} seeds. {points[0][1].hardware}", fontsize=8
        )
        tidy(axes)
    return figure


def curves(found: Sequence[Row], unit: str) -> "Figure | None":
    """Validation MAE against the step: the mean over the seeds that are there at a step, and each seed thin."""
    import matplotlib
    from matplotlib.figure import Figure

    if not any(row.curves for row in found):
        return None
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for index, row in enumerate(found):
            colour = _colour(found, row)
            at: dict[int, list[float]] = {}
            for curve in row.curves.values():
                axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.4)
                for step, value in curve:
                    at.setdefault(step, []).append(value)
            if at:
                steps = sorted(at)
                style: dict[str, Any] = {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 5}
                means = [statistics.mean(at[step]) for step in steps]
                axes.plot(steps, means, linewidth=1.8, label=f"m = {row.m}", **style)
        axes.set_xlabel("step")
        axes.set_ylabel(f"validation MAE ({unit})" if unit else "validation MAE")
        axes.legend(frameon=False)
        tidy(axes)
    return figure


def _colour(found: Sequence[Row], row: Row) -> str:
    return COLOURS[list(found).index(row) % len(COLOURS)]


def summary(study: Study) -> str:
    """What the command prints at its end: both tables, and what they say."""
    from experiments.studies.show import block

    standing = read(study)
    found = _rows(standing)
    parts = [block(brings(found, standing.unit), None), block(takes(found), None), "\n".join(sentences(found))]
    return "\n\n".join(parts)
