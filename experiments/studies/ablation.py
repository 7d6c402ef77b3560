"""`ahmf study ablation` of AHMF: Table VI's models in both variants beside what is published, and which parts matter.

What is written into the study's folder: `ablation.md`, the tables and what they say; `ablation.csv`, every number; and
pictures, each as SVG and PNG: `models`, Table VI's course, ours and published; `parts`, what each part of the paper's
changes in the release; and `features`, the feature maps before and after BHFC, as in the paper's Figure 10.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ahmf_jax import variants
from experiments import published
from experiments.plots import files
from experiments.studies import outcome, tables
from experiments.studies.charts import Axis, Chart, Series
from experiments.studies.outcome import Difference, Findings, by_seed, difference, places, signed
from experiments.studies.standing import Entry, Standing, read, spread
from experiments.studies.study import Row as Planned
from experiments.studies.study import Study
from experiments.studies.tables import Cell, Table, cell, plus_minus

NAME, COURSE, PARTS, FEATURES = "ablation", "models", "parts", "features"
QUESTION = "Which of the network's blocks matter, and which of the differences between its two variants?"


class Model(NamedTuple):
    """A model of Table VI: the blocks of its fusion, the directions of its recurrence, and both in words."""

    fusion: str
    recurrence: str
    words: str


MODELS = {
    0: Model("concat", "none", "concatenation"),
    1: Model("feb", "none", "FEB"),
    2: Model("frb", "none", "FRB"),
    3: Model("feb_frb", "none", "FEB, FRB"),
    4: Model("feb_frb", "forward", "FEB, FRB, forward"),
    5: Model("feb_frb", "backward", "FEB, FRB, backward"),
    6: Model("feb_frb", "both", "FEB, FRB, both directions"),
}
WHOLE = max(MODELS)
# Parts that change no function that a network can learn, only how it is learned: see `ahmf_jax.variants`.
SAME_FUNCTION = ("halving", "order")


def plan(seeds: int, parts: Sequence[str] = variants.PARTS) -> list[Planned]:
    """The models in both variants, and the release with one part at a time as the paper has it; seed by seed."""
    rows = []
    for seed in range(seeds):
        for variant in variants.VARIANTS:
            rows += [
                Planned(
                    _model_label(number, variant),
                    {
                        "model.variant": variant,
                        "model.fusion": model.fusion,
                        "model.recurrence": model.recurrence,
                        "seed": seed,
                    },
                )
                for number, model in MODELS.items()
            ]
        rows += [Planned(_part_label(part), {"model.swapped": [part], "seed": seed}) for part in parts]
    return rows


def _model_label(number: int, variant: str) -> str:
    return f"Model {number}, {variant}"


def _part_label(part: str) -> str:
    return f"release, paper's {part}"


@dataclass(frozen=True)
class ModelRow:
    """A model of Table VI.

    Attributes:
      number: of the model.
      mae: by variant and seed, of what is complete.
      planned: seeds, by variant.
      published: the paper's MAE at x4, as printed.
    """

    number: int
    mae: dict[str, dict[int, float]]
    planned: dict[str, int]
    published: Decimal


@dataclass(frozen=True)
class PartRow:
    """The release with one part as the paper has it, or with all of them.

    Attributes:
      part: its name; "" where all are.
      mae: by seed, of what is complete.
      planned: seeds.
      change: of the MAE against the release, seed by seed; None where no seed has both.
    """

    part: str
    mae: dict[int, float]
    planned: int
    change: Difference | None

    @property
    def name(self) -> str:
        """How it is called."""
        return self.part or "all: the paper's variant"


class Rows(NamedTuple):
    """Of an ablation."""

    models: list[ModelRow]
    parts: list[PartRow]


def rows(standing: Standing) -> Rows:
    """The study's rows."""
    by_label = standing.rows

    def found(label: str) -> list[Entry]:
        return by_label.get(label, [])

    models = [
        ModelRow(
            number,
            {v: by_seed(found(_model_label(number, v)), "mae") for v in variants.VARIANTS},
            {v: outcome.planned(found(_model_label(number, v))) for v in variants.VARIANTS},
            published_mae(number),
        )
        for number in MODELS
    ]
    base = models[WHOLE].mae["release"]
    labels = {part: _part_label(part) for part in variants.PARTS} | {"": _model_label(WHOLE, "paper")}
    parts = []
    for part, label in labels.items():
        if trials := found(label):
            mae = by_seed(trials, "mae")
            parts.append(PartRow(part, mae, outcome.planned(trials), difference(mae, base)))
    return Rows(models, parts)


def published_mae(number: int) -> Decimal:
    """Of a model in Table VI, at x4, in grey levels."""
    return published.tables()["ahmf_table6"].row(f"Model{number}").values["mean", 4, "mae"]


def against_first(models: Sequence[ModelRow], number: int) -> dict[str, float | None]:
    """How much smaller the mean MAE of a model is than Model 0's, in parts of that: by variant, and published."""
    first, row = models[0], models[number]
    shares: dict[str, float | None] = {"published": 1 - float(row.published) / float(first.published)}
    for variant in variants.VARIANTS:
        mine, base = spread(row.mae[variant].values()), spread(first.mae[variant].values())
        shares[variant] = None if mine is None or base is None else 1 - mine.mean / base.mean
    return shares


def model_table(found: Rows, unit: str) -> Table:
    """Table VI: ours in both variants, and the published row."""
    digits = places(value for row in found.models for of in row.mae.values() for value in of.values())
    unit = f" ({unit})" if unit else ""
    heads = [
        "model",
        "seeds",
        *(f"{variant}, MAE{unit}" for variant in variants.VARIANTS),
        "published, MAE (grey levels)",
        *(f"{variant}: gain on Model 0" for variant in variants.VARIANTS),
        "published: gain on Model 0",
    ]
    lines = []
    for row in found.models:
        shares = against_first(found.models, row.number)
        counts = [outcome.seeds(len(row.mae[v]), row.planned[v]) for v in variants.VARIANTS]
        cells = [Cell(f"{row.number}: {MODELS[row.number].words}")]
        cells.append(Cell(counts[0] if len(set(counts)) == 1 else " / ".join(counts)))
        cells += [cell(spread(row.mae[v].values()), digits) for v in variants.VARIANTS]
        cells.append(Cell(str(row.published), float(row.published)))
        for share in (*(shares[v] for v in variants.VARIANTS), shares["published"]) if row.number else (None,) * 3:
            cells.append(Cell("") if share is None else Cell(f"{100 * share:z.1f} %", share))
        lines.append(tuple(cells))
    return Table("Table VI: mean ± standard deviation over the seeds", tuple(heads), tuple(lines))


def part_table(found: Rows, unit: str) -> Table:
    """What each part changes."""
    values = [*found.models[WHOLE].mae["release"].values(), *(v for row in found.parts for v in row.mae.values())]
    digits = places(values)
    unit = f" ({unit})" if unit else ""
    heads = ("the release, with the paper's", "seeds", f"MAE{unit}", "change", "95 % interval", "the paper's is")
    base = found.models[WHOLE]
    lines = [
        (
            Cell("nothing"),
            Cell(outcome.seeds(len(base.mae["release"]), base.planned["release"])),
            cell(spread(base.mae["release"].values()), digits),
            *(Cell(""),) * 3,
        )
    ]
    for row in found.parts:
        change = row.change
        lines.append(
            (
                Cell(row.name, name=bool(row.part)),
                Cell(outcome.seeds(len(row.mae), row.planned)),
                cell(spread(row.mae.values()), digits),
                Cell(signed(change, digits), change.mean) if change else Cell(""),
                Cell(outcome.interval(change, digits)),
                Cell(change.word) if change else Cell(""),
            )
        )
    return Table("The parts one by one: change of the MAE, seed by seed", heads, tuple(lines))


def sentences(found: Rows) -> list[str]:
    """What the numbers say, in words."""
    said = []
    for variant in variants.VARIANTS:
        change = difference(found.models[WHOLE].mae[variant], found.models[0].mae[variant])
        if change is not None:
            digits = places(found.models[0].mae[variant].values())
            said.append(
                f"{variant}: the MAE of Model {WHOLE}, the whole, less that of Model 0 is {signed(change, digits)} "
                f"({change.sureness})."
            )
    matter = [row for row in found.parts if row.part and row.change and row.change.word in ("better", "worse")]
    tried = [row for row in found.parts if row.part and row.change]
    if tried and all(row.change is not None and row.change.n > 1 for row in tried):
        words = ", ".join(f"{row.part} ({row.change.word})" for row in matter if row.change) or "none"
        said.append(
            f"Of {len(tried)} parts tried alone, the paper's form changes the MAE by more than the spread in: {words}. "
            f"Of so many intervals at 95 %, {0.05 * len(tried):.2g} may be expected to say so of what does not matter."
        )
    return said or ["No training is complete yet."]


def markdown(standing: Standing, features: bool = False) -> str:
    """The page of the study: origin, tables, pictures, and what they say.

    Args:
      standing: of the study.
      features: whether there is a picture of feature maps.
    """
    found = rows(standing)
    parts = ["\n".join(outcome.origin(standing)), tables.markdown(model_table(found, standing.unit))]
    parts.append(
        "Mean ± standard deviation over the seeds. Published is Table VI as printed: x4, the mean of six scenes of "
        "Middlebury 2005, a network of 64 features trained for 250 epochs; how many trainings that is of is not said. "
        f"{_compared(standing)}, so what can be compared is the course, the last columns: how far a model's MAE is "
        "below Model 0's."
    )
    if any(of for row in found.models for of in row.mae.values()):
        parts.append(f"![MAE of the models in parts of Model 0's, both variants and published]({COURSE}.svg)")
    if found.parts:
        parts.append(tables.markdown(part_table(found, standing.unit)))
        parts.append(
            "Change: MAE with the part less MAE of the release, seed by seed; mean ± standard error, and the interval "
            f"by Student's t. {' and '.join(SAME_FUNCTION)} change no function that the network can learn, only how it "
            "is learned."
        )
    if any(row.change for row in found.parts):
        parts.append(f"![change of the MAE by each part, with its interval]({PARTS}.svg)")
    parts.append("\n".join(f"- {sentence}" for sentence in sentences(found)))
    if features:
        parts.append(
            f"![feature maps before and after BHFC]({FEATURES}.png)\n\nEach level's features before and after BHFC, as "
            f"in the paper's Figure 10: Model {WHOLE}, release, the means over the channels."
        )
    return "\n\n".join(parts) + "\n"


def _compared(standing: Standing) -> str:
    """What of Table VI's is not the same here."""
    mae = spread(on_scenes(standing.rows.get(_model_label(WHOLE, "release"), [])).values())
    if mae is None:
        return "Neither the trainings nor the images here are those"
    value = plus_minus(mae, places([mae.mean]))
    return (
        f"The same scenes are among the images here, and on them Model {WHOLE}, release, has {value} "
        f"{standing.unit}; the trainings are not those"
    )


def on_scenes(trials: Sequence[Entry]) -> dict[int, float]:
    """The MAE of complete trials over the scenes of Table VI, by seed, where all of them were measured on."""
    (column,) = published.tables()["ahmf_table6"].columns
    found = {}
    for trial in trials:
        images = trial.attributes.get("images", {}) if trial.state == "complete" else {}
        errors = [numbers["mae"] for name, numbers in images.items() if column.names(name) and "mae" in numbers]
        if len(errors) == column.count:
            found[trial.fields["seed"]] = statistics.mean(errors)
    return found


def study_figures(study: Study, folder: Path) -> list[Path]:
    """Writes tables and pictures of a study, finished or not, into a folder that is there; the files.

    Raises:
      InputError: it cannot be written.
    """
    standing = read(study)
    there = [path for path in files(folder / FEATURES) if path.is_file()]
    text = markdown(standing, bool(there))
    return [*outcome.write(folder, NAME, text, as_csv(rows(standing)), drawn(standing)), *there]


def draw_features(study: Study, folder: Path, data_dir: Path | None) -> list[Path]:
    """Draws the features before and after BHFC of the whole model, the release, of the first image that is measured on.

    Args:
      study: which.
      folder: where its runs are, and where the picture goes.
      data_dir: where data sets are prepared.

    Returns:
      the files; none where no such trial is complete and has its run here.

    Raises:
      InputError: the data or the run cannot be read, or the picture not be written.
    """
    from ahmf_jax.upsample import load_trained
    from experiments import feature_maps
    from experiments.evaluate import whole_batch
    from experiments.studies.trial import measured_set

    trials = read(study).rows.get(_model_label(WHOLE, "release"), [])
    runs = [(t, study.run_folder(t.number, folder)) for t in trials if t.state == "complete"]
    trial, run = next((pair for pair in runs if pair[1].is_dir()), (None, folder))
    if trial is None:
        return []
    config = study.config(trial.fields)
    measured = measured_set(study, config, run, data_dir)
    dataset = measured.dataset
    batch = whole_batch(dataset[0], 0, dataset.info, config.model.scale, measured.protocol)
    picture = feature_maps.feature_maps(load_trained(run), batch)
    places = files(folder / FEATURES)
    for place in places:
        feature_maps.write(picture, place)
    return places


def as_csv(found: Rows) -> bytes:
    """A line a row of either table."""
    heads = ("row", "variant", "seeds", "planned", "mae", "mae_sd", "published", "change", "change_se", "low", "high")
    lines: list[list[Any]] = []
    for row in found.models:
        for variant in variants.VARIANTS:
            mae = spread(row.mae[variant].values())
            lines.append(
                [f"Model {row.number}", variant, len(row.mae[variant]), row.planned[variant]]
                + ([mae.mean, mae.deviation] if mae else [None, None])
                + [row.published, None, None, None, None]
            )
    for part in found.parts:
        if part.part:
            mae, change = spread(part.mae.values()), part.change
            lines.append(
                [part.part, "release", len(part.mae), part.planned]
                + ([mae.mean, mae.deviation] if mae else [None, None])
                + [None, *((change.mean, change.error, change.low, change.high) if change else (None,) * 4)]
            )
    return outcome.as_csv(heads, lines)


def course(found: Rows) -> Chart | None:
    """The models' MAE in parts of Model 0's: ours, with the standard deviation over the seeds, and published."""
    names = tuple(f"{number}: {model.words}" for number, model in MODELS.items())
    series = []
    for i, variant in enumerate(variants.VARIANTS):
        maes = [spread(row.mae[variant].values()) for row in found.models]
        if maes[0] is None:
            continue
        whole = maes[0].mean
        known = [(names[row.number], mae) for row, mae in zip(found.models, maes, strict=True) if mae]
        series.append(
            Series(
                variant,
                [100 * mae.mean / whole for _, mae in known],
                [name for name, _ in known],
                [f"{name}, {variant}: {mae.n} seed{'s' * (mae.n > 1)}" for name, mae in known],
                spread=[None if mae.bar is None else 100 * mae.bar / whole for _, mae in known],
                group=i,
                line="solid",
            )
        )
    if not series:
        return None
    published_ = [float(100 * row.published / found.models[0].published) for row in found.models]
    series.append(Series("published, Table VI", published_, names, [f"{n}, published" for n in names], line="dash"))
    return Chart(
        "Models of Table VI: MAE in parts of Model 0's",
        Axis("MAE, % of Model 0's"),
        Axis("", categories=names),
        series,
        note="Bars: standard deviation over the seeds.",
        tall=2 * len(names),
    )


def differences(found: Rows, unit: str) -> Chart | None:
    """How each part changes the release's MAE, with the 95 % interval; what the paper does best is at the top."""
    changes = [(row.name, row.change) for row in found.parts if row.change is not None]
    return outcome.changes(
        "What the paper's form of each part changes in the release",
        f"change of the MAE{f' ({unit})' if unit else ''}; left of 0 the paper's is better",
        sorted(changes, key=lambda pair: pair[1].mean),
    )


def findings(standing: Standing) -> Findings:
    """Both tables, and what they say."""
    found = rows(standing)
    parts = [part_table(found, standing.unit)] if found.parts else []
    return Findings([model_table(found, standing.unit), *parts], sentences(found))


def drawn(standing: Standing) -> dict[str, Chart | None]:
    """The pictures by their names, where there is enough for them."""
    found = rows(standing)
    return {PARTS: differences(found, standing.unit), COURSE: course(found)}
