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

from experiments.studies import charts, outcome, tables
from experiments.studies.cost import Cost
from experiments.studies.outcome import by_seed, difference, places, signed
from experiments.studies.standing import Spread, Standing, read, spread
from experiments.studies.study import Row as Planned
from experiments.studies.study import Study
from experiments.studies.tables import Cell, Table, cell, plus_minus

NAME, CURVES = "levels", "curves"
FIELD = "model.num_levels"


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
      cost: None before it is measured.
      refused: why it cannot be measured; "" where nothing is against it.
    """

    m: int
    planned: int
    mae: dict[int, float]
    rmse: dict[int, float]
    gain: dict[int, float]
    seconds: dict[int, float]
    cost: Cost | None
    refused: str


def rows(standing: Standing) -> list[Row]:
    """The study's rows, the smallest m first."""
    found = []
    for trials in standing.rows.values():
        done = [t for t in trials if t.state == "complete"]
        mae, cost = by_seed(trials, "mae"), outcome.cost_of(standing, trials[0])
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
                cost=cost if isinstance(cost, Cost) else None,
                refused=cost if isinstance(cost, str) else "",
            )
        )
    return sorted(found, key=lambda row: row.m)


def brings(found: Sequence[Row], unit: str) -> Table:
    """The errors, and the change from the row before."""
    digits = places(value for row in found for value in (*row.mae.values(), *row.rmse.values()))
    unit = f" ({unit})" if unit else ""
    heads = ("m", "seeds", f"MAE{unit}", f"RMSE{unit}", "gain on the interpolation", "MAE less that of the m before")
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
        compiling = [s for s in (cost.inference_compile_s, cost.train_compile_s) if s is not None]
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
                Cell(" + ".join(f"{seconds:.1f} s" for seconds in compiling), sum(compiling)),
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


def not_measured(found: Sequence[Row]) -> list[str]:
    """Of which rows there is no cost beside the others', and why."""
    if not any(row.cost or row.refused for row in found):
        return []
    return [
        f"The costs of m = {row.m} are not measured{f': {row.refused}' if row.refused else ' there yet'}."
        for row in found
        if row.cost is None
    ]


def markdown(standing: Standing) -> str:
    """The page of the study: origin, pictures, tables, and what they say."""
    found = rows(standing)
    costs = [row.cost for row in found if row.cost]
    parts = ["\n".join(outcome.origin(standing))]
    if any(row.mae and row.cost for row in found):
        parts.append(f"![error against inference time, the circle's area the memory, by m]({NAME}.svg)")
    parts += [tables.markdown(brings(found, standing.unit)), _method(), tables.markdown(takes(found))]
    if costs:
        parts.append(outcome.how_measured(costs[0]))
    parts.append("\n".join(f"- {sentence}" for sentence in [*sentences(found), *not_measured(found)]))
    if any(trial.curve for trial in standing.trials):
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
    drawn = {NAME: charts.figure_1(standing), CURVES: charts.curves(standing)}
    return outcome.write(folder, NAME, markdown(standing), as_csv(rows(standing)), drawn)


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


def summary(study: Study) -> str:
    """What the command prints at its end: both tables, and what they say."""
    standing = read(study)
    found = rows(standing)
    said = [*sentences(found), *not_measured(found)]
    return outcome.Findings([brings(found, standing.unit), takes(found)], said).printed()
