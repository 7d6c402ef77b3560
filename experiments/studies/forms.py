"""`ahmf study ablation` of DSCSAN: the forms C1 to C5 of its Table 4, and whether their order is the published one.

What is written into the study's folder: `ablation.md`, the tables and what they say; `ablation.csv`, every number; and
pictures, each as SVG and PNG: `forms`, how far each form is above C1, ours and published; and `steps`, what a form has
more than another, with its interval.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ahmf_jax import dscsan_forms
from ahmf_jax.dscsan_forms import FORMS, Form
from ahmf_jax.metrics import METRICS
from experiments import published
from experiments.config import DSCSANConfig
from experiments.studies import outcome, tables
from experiments.studies.charts import Axis, Chart, Series
from experiments.studies.outcome import Difference, Findings, by_seed, difference, signed
from experiments.studies.standing import Standing, read, spread
from experiments.studies.study import Row as Planned
from experiments.studies.study import Study
from experiments.studies.tables import Cell, Table, cell

NAME, COURSE, STEPS = "ablation", "forms", "steps"
QUESTION = "What do DSCSAN's bilayer blocks, its attention and its supervised stages bring, each and together?"
TABLE, SCALE, PROTOCOL = "dscsan_table4", 8, "dscsan"
MEASURED = ("psnr", "pe")  # as in the table
BASE: Form = "C1"
ORDER: tuple[Form, ...] = ("C1", "C4", "C5")  # each is the one before and more


class Compared(NamedTuple):
    """Two forms, and what the first has that the second has not."""

    form: Form
    base: Form
    adds: str


COMPARED = (
    Compared("C2", "C1", "attention"),
    Compared("C3", "C1", "bilayer blocks"),
    Compared("C4", "C1", "bilayer blocks, attention"),
    Compared("C5", "C4", "supervised stages"),
)


def plan(model: DSCSANConfig, seeds: int, forms: Sequence[Form] = tuple(FORMS)) -> list[Planned]:
    """The forms, each about as deep as `model`, which is C5; seed by seed, so that some can be compared early."""
    rows = []
    for seed, form in itertools.product(range(seeds), forms):
        chosen = dscsan_forms.fields(form, model.scale, model.groups, model.blocks)
        fields = {f"model.{name}": value for name, value in chosen.items()}
        if not chosen["progressive"]:  # without stages none can be supervised
            fields |= {"stage_weights": [], "stage_kernel": None}
        rows.append(Planned(form, {**fields, "seed": seed}))
    return rows


def words(form: Form) -> str:
    """What a form is made of."""
    fields = FORMS[form]
    parts = ["RCAB" if fields["block"] == "rcab" else "bilayer blocks"]
    parts += ["attention"] * fields["attention"] + ["supervised stages"] * fields["progressive"]
    return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """A form.

    Attributes:
      form: which.
      model: the network.
      parameters: its numbers; None before a training is complete.
      planned: seeds.
      found: of the complete trials, by metric and seed.
    """

    form: Form
    model: DSCSANConfig
    parameters: int | None
    planned: int
    found: Mapping[str, Mapping[int, float]]

    @property
    def name(self) -> str:
        """How it is called."""
        return f"{self.form}: {words(self.form)}"


def rows(standing: Standing) -> list[Row]:
    """The study's forms, in the table's order."""
    found = []
    for form in FORMS:
        if trials := standing.rows.get(form):
            model = standing.study.config(trials[0].fields).model
            assert isinstance(model, DSCSANConfig)
            counts = [t.attributes["parameters"] for t in trials if "parameters" in t.attributes]
            metrics = {metric: by_seed(trials, metric) for metric in MEASURED}
            found.append(Row(form, model, next(iter(counts), None), outcome.planned(trials), metrics))
    return found


class Step(NamedTuple):
    """What two forms differ in: the change of each metric, None where no seed has both."""

    compared: Compared
    changes: Mapping[str, Difference | None]

    @property
    def name(self) -> str:
        """How it is called."""
        return f"{self.compared.form} less {self.compared.base}: {self.compared.adds}"


def steps(found: Sequence[Row]) -> list[Step]:
    """The comparisons of the study's forms."""
    by_form = {row.form: row for row in found}
    return [
        Step(compared, {metric: change(by_form[compared.form], by_form[compared.base], metric) for metric in MEASURED})
        for compared in COMPARED
        if {compared.form, compared.base} <= by_form.keys()
    ]


def change(row: Row, base: Row, metric: str) -> Difference | None:
    """Of a metric from one form to another, seed by seed."""
    return difference(row.found[metric], base.found[metric], METRICS[metric].better)


def printed(form: Form, metric: str) -> Decimal:
    """What is published of a form, at x8."""
    return published.tables()[TABLE].row(form).values["mean", SCALE, metric]


def form_table(found: Sequence[Row]) -> Table:
    """Table 4: ours, and what is published."""
    heads = ["form", "groups x blocks", "parameters", "seeds", *map(_heading, MEASURED)]
    heads += [f"published x{SCALE}, {_heading(metric)}" for metric in MEASURED]
    lines = []
    for row in found:
        of = [spread(row.found[metric].values()) for metric in MEASURED]
        quoted = [printed(row.form, metric) for metric in MEASURED]
        lines.append(
            (
                Cell(row.name),
                Cell(f"{row.model.groups * (row.model.stages + 1)} x {row.model.blocks}"),
                Cell("") if row.parameters is None else Cell(f"{row.parameters:,}", row.parameters),
                Cell(outcome.seeds(len(row.found[MEASURED[0]]), row.planned)),
                *(cell(mean, _digits(metric)) for metric, mean in zip(MEASURED, of, strict=True)),
                *(Cell(str(value), float(value)) for value in quoted),
            )
        )
    return Table("Table 4: mean ± standard deviation over the seeds", tuple(heads), tuple(lines))


def step_table(found: Sequence[Step]) -> Table:
    """What a form's parts change."""
    heads = ["step"]
    for metric in MEASURED:
        heads += [f"change of {_heading(metric)}", "95 % interval", "it is", "published"]
    lines = []
    for step in found:
        cells = [Cell(step.name)]
        for metric, of in step.changes.items():
            digits = _digits(metric) + 1
            quoted = printed(step.compared.form, metric) - printed(step.compared.base, metric)
            cells += [
                Cell(signed(of, digits), of.mean) if of else Cell(""),
                Cell(outcome.interval(of, digits)),
                Cell(of.word if of else ""),
                Cell(f"{quoted:+}", float(quoted)),
            ]
        lines.append(tuple(cells))
    return Table("What is added: change of PSNR and PE, seed by seed", tuple(heads), tuple(lines))


def _heading(metric: str) -> str:
    return f"{METRICS[metric].title} ({METRICS[metric].unit})"


def _digits(metric: str) -> int:
    digits = METRICS[metric].digits
    assert digits is not None, "of PSNR and PE, which are in no unit of depth"
    return digits


def sentences(found: Sequence[Row]) -> list[str]:
    """Whether the published order of C1, C4 and C5 is found here, by either metric."""
    done = [row for row in found if any(row.found.values())]
    there = [row for row in done if row.form in ORDER]
    if not done:
        return ["No training is complete yet."]
    if len(there) < 2:
        return [f"Fewer than two of {', '.join(ORDER)} have a result: of their order nothing is told."]
    return [_order(there, metric) for metric in MEASURED]


def _order(found: Sequence[Row], metric: str) -> str:
    """What a metric says of the published order of these forms."""
    title, unit, better, _ = METRICS[metric]
    order = (" < " if better == "higher" else " > ").join(row.form for row in found)
    pairs = [(base, row, change(row, base, metric)) for base, row in itertools.pairwise(found)]
    words_ = {of.word if of else "no seed in common" for _, _, of in pairs}
    if words_ == {"better"}:
        verdict = "holds here, by more than the spread"
    elif "worse" in words_:
        verdict = "does not hold here, by more than the spread"
    elif "within the spread" in words_:
        verdict = "is neither shown nor contradicted here"
    else:
        verdict = "cannot be told of here, where not every form has two seeds or more"
    said = []
    for base, row, of in pairs:
        value = f"{signed(of, _digits(metric) + 1)} {unit} ({of.sureness})" if of else "no seed in common"
        said.append(f"{row.form} less {base.form} {value}")
    return f"{title}: the published order, {order}, {verdict}: {'; '.join(said)}."


def findings(standing: Standing) -> Findings:
    """Both tables, and what they say."""
    found = rows(standing)
    compared = steps(found)
    return Findings([form_table(found), *([step_table(compared)] if compared else [])], sentences(found))


def markdown(standing: Standing) -> str:
    """The page of the study: origin, tables, pictures, and what they say."""
    found, drawn_ = findings(standing), drawn(standing)
    parts = ["\n".join(outcome.origin(standing)), tables.markdown(found.tables[0]), _about(standing)]
    if drawn_[COURSE]:
        parts.append(f"![how far each form's PSNR is above C1's, ours and published]({COURSE}.svg)")
    for table in found.tables[1:]:
        parts.append(tables.markdown(table))
        parts.append("Change: mean ± standard error over the seeds, and the interval by Student's t.")
    if drawn_[STEPS]:
        parts.append(f"![change of PSNR by each step, with its interval]({STEPS}.svg)")
    parts.append("\n".join(f"- {sentence}" for sentence in found.said))
    return "\n\n".join(parts) + "\n"


def _about(standing: Standing) -> str:
    """What the published numbers are, and what is not the same here."""
    model = standing.study.spec.config.model
    assert isinstance(model, DSCSANConfig)
    added = "All forms here, C1 too, add what they make to interpolated depth"
    if not model.interpolated:
        added = "No form here, not even C5, adds interpolated depth"
    return (
        f"Mean ± standard deviation over the seeds. Published is Table 4 as read from a scan: x{SCALE}, the mean of "
        "ten images; which parts a form has was decoded from a garbled paragraph, and of how many trainings a number "
        f"is, is not said. C1 is RCAN there. {added}, and the architecture is our reconstruction (docs/dscsan.md). "
        f"Not as published: {', '.join(_others(standing, model))}. So what can be compared is the course, how far a "
        f"form is above C1.{_interpolation(standing)}"
    )


def _interpolation(standing: Standing) -> str:
    """What interpolation alone has of the same images."""
    floors = [floor for t in standing.of("complete") if {*MEASURED} <= (floor := t.attributes.get("floor", {})).keys()]
    if not floors:
        return ""
    values = (f"{floors[0][metric]:.{_digits(metric)}f} {METRICS[metric].unit}" for metric in MEASURED)
    return f" Interpolation alone has {' and '.join(values)} here."


def _others(standing: Standing, model: DSCSANConfig) -> list[str]:
    """What of Table 4's is not the same here."""
    done = standing.of("complete")
    (column,) = published.tables()[TABLE].columns
    of_table = [[column.names(name) for name in t.attributes.get("images", ())] for t in done]
    protocols = {str(t.attributes.get("protocol")).partition(":")[0] for t in done}
    others = {
        "the trainings": True,
        f"the scale (x{model.scale})": model.scale != SCALE,
        "the images": any(names != [True] * (column.count or 0) for names in of_table),
        "the protocol": bool(protocols - {PROTOCOL}),
    }
    return [what for what, differs in others.items() if differs]


def study_figures(study: Study, folder: Path) -> list[Path]:
    """Writes tables and pictures of a study, finished or not, into a folder that is there; the files.

    Raises:
      InputError: it cannot be written.
    """
    standing = read(study)
    return outcome.write(folder, NAME, markdown(standing), as_csv(rows(standing)), drawn(standing))


def drawn(standing: Standing) -> dict[str, Chart | None]:
    """The pictures by their names, where there is enough for them."""
    found = rows(standing)
    changes = [(step.name, of) for step in steps(found) if (of := step.changes["psnr"])]
    return {
        COURSE: course(found),
        STEPS: outcome.changes(
            "What is added to a form", "change of PSNR (dB); right of 0 the form with more is better", changes
        ),
    }


def course(found: Sequence[Row]) -> Chart | None:
    """The forms' PSNR less C1's: ours, with the standard deviation over the seeds, and published."""
    means = {row.name: spread(row.found["psnr"].values()) for row in found}
    known = {name: mean for name, mean in means.items() if mean}
    base = next((known.get(row.name) for row in found if row.form == BASE), None)
    if base is None:
        return None
    names = tuple(means)
    return Chart(
        "Forms of Table 4: PSNR above C1's",
        Axis("PSNR less C1's (dB)"),
        Axis("", categories=names),
        [
            Series(
                "ours",
                [mean.mean - base.mean for mean in known.values()],
                list(known),
                [f"{name}: {mean.n} seed{'s' * (mean.n > 1)}" for name, mean in known.items()],
                spread=[mean.bar for mean in known.values()],
                group=0,
                line="solid",
            ),
            Series(
                f"published, Table 4, x{SCALE}",
                [float(printed(row.form, "psnr") - printed(BASE, "psnr")) for row in found],
                names,
                [f"{name}, published" for name in names],
                line="dash",
            ),
        ],
        note="Bars: standard deviation over the seeds.",
        tall=2 * len(names),
    )


def as_csv(found: Sequence[Row]) -> bytes:
    """A line for each form and metric, and for each step and metric."""
    heads = ("row", "metric", "parameters", "seeds", "planned", "mean", "sd", "published", "se", "low", "high")
    lines: list[list[Any]] = []
    for row in found:
        for metric in MEASURED:
            mean = spread(row.found[metric].values())
            lines.append([row.form, metric, row.parameters, len(row.found[metric]), row.planned])
            lines[-1] += [*((mean.mean, mean.deviation) if mean else (None, None)), printed(row.form, metric)]
            lines[-1] += [None] * 3
    for step in steps(found):
        form, base, _ = step.compared
        for metric, of in step.changes.items():
            lines.append([f"{form} less {base}", metric, None, of.n if of else 0, None, of and of.mean, None])
            lines[-1] += [printed(form, metric) - printed(base, metric)]
            lines[-1] += [of.error, of.low, of.high] if of else [None] * 3
    return outcome.as_csv(heads, lines)
