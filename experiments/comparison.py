"""Evaluations of one subject side by side, with the interpolation's floor and the published rows that belong to it.

for comparison in compare([evaluations.read(folder) for folder in folders]):
    print(markdown(comparison))
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal

from ahmf_jax.errors import InputError
from ahmf_jax.metrics import METRICS
from experiments.evaluations import Evaluation, ImageNumbers
from experiments.published import MEAN, Published, rows_for

Kind = Literal["floor", "measured", "published"]
KINDS: tuple[Kind, ...] = ("floor", "measured", "published")
# Of more images than these, a table in Markdown or LaTeX shows the mean alone.
MOST_IMAGES = 12
DAGGER = "\u2020"


@dataclass(frozen=True)
class Row:
    """A method's numbers.

    Attributes:
      method: its name, of which there is no other of the kind.
      kind: what it is; "floor" is the interpolation that the protocol sets beside every method.
      source: where the numbers are from: a run's step, a filter's parameters, a paper's table.
      values: by column and metric; a number that is not there has no entry.
      evaluation: that it was measured in; None of published rows.
      printed: published numbers as the paper prints them, as `values`.
      ranked: whether it may be best or second: not so the rows of a paper's table that has a caveat.
    """

    method: str
    kind: Kind
    source: str
    values: Mapping[str, Mapping[str, float]]
    evaluation: Evaluation | None = None
    printed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ranked: bool = True

    def text(self, column: str, metric: str) -> str:
        """The number as it is shown: a published one as printed; empty where there is none."""
        printed = self.printed.get(column, {}).get(metric)
        if printed is not None:
            return printed
        value = self.values.get(column, {}).get(metric, math.nan)
        return "" if math.isnan(value) else number(metric, value)


@dataclass(frozen=True)
class Comparison:
    """What can be compared: all rows are of the same images, factor, protocol and unit.

    Attributes:
      title: in one line: data, split and factor.
      protocol, protocol_text, unit, scale, dataset, split: as in `Evaluation`.
      columns: the names of the images, and "mean", the last.
      metrics: those that the protocol is about.
      rows: floor, measured, published.
      notes: what must be said beside the table: the papers' tables' caveats and remarks, and the evaluations' notes.
      evaluations: those that were compared.
    """

    title: str
    protocol: str
    protocol_text: str
    unit: str
    scale: int
    dataset: str
    split: str
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]

    def places(self, column: str, metric: str) -> dict[int, Literal[1, 2]]:
        """The rows with the best and the second best number, by index; what is shown alike is equal, and shares.

        Of the rows that are `ranked`; empty where there are not two different numbers, or a published row that has the
        metric elsewhere has no number here: it might be the best.
        """
        texts = {i: row.text(column, metric) for i, row in enumerate(self.rows) if row.ranked}
        shown = {i: float(text) for i, text in texts.items() if text}
        absent = (self.rows[i] for i, text in texts.items() if not text and self.rows[i].kind == "published")
        if any(row.text(other, metric) for row in absent for other in self.columns):
            return {}
        order = sorted(set(shown.values()), reverse=METRICS[metric].better == "higher")
        if len(order) < 2:
            return {}
        return {i: 1 if value == order[0] else 2 for i, value in shown.items() if value in order[:2]}

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns that a table on paper has room for."""
        return self.columns if len(self.columns) <= MOST_IMAGES + 1 else (MEAN,)


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """One comparison for each group of evaluations whose subject is the same, in the order of their first.

    Raises:
      InputError: an evaluation has an image twice, or one that is called as the column of the means.
    """
    for evaluation in evaluations:
        counts = Counter([MEAN, *(image.name for image in evaluation.images)])
        name, count = counts.most_common(1)[0]
        if count > 1:
            what = "an image is" if name == MEAN else "several images are"
            raise InputError(f"{evaluation.folder}: {what} called {name}: rename it and evaluate again")
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.subject, []).append(evaluation)
    return [_comparison(group) for group in groups.values()]


def _comparison(group: Sequence[Evaluation]) -> Comparison:
    first = group[0]
    images = [image.name for image in first.images]
    published = rows_for(first)
    measured = [
        Row(
            evaluation.method,
            "floor" if _is_floor(evaluation) else "measured",
            evaluation.origin or evaluation.weights,
            _values(evaluation, "metrics"),
            evaluation,
        )
        for evaluation in group
    ]
    floor = Row(_floor_name(first), "floor", "interpolation, the protocol's floor", _values(first, "floor"))
    rows = [*([] if any(row.kind == "floor" for row in measured) else [floor]), *measured, *map(_published, published)]
    rows = sorted(rows, key=lambda row: KINDS.index(row.kind))
    found = [table for table in {row.table.name: row.table for row in published}.values()]
    computed = sorted({row.table.table for row in published if row.computed})
    notes = [
        *(
            f"{table.table} ({_short(table.paper)}): {caveat} Its rows are not ranked with the others."
            for table in found
            for caveat in table.caveats
        ),
        *(f"{table.table} ({_short(table.paper)}): {remark}" for table in found for remark in table.remarks),
        *(f"{table} prints no mean: that of its rows is the mean of their printed numbers." for table in computed),
        *dict.fromkeys(note for evaluation in group for note in evaluation.notes),
    ]
    split = f", {first.split}" if first.split else ""
    return Comparison(
        title=f"{first.dataset}{split}, x{first.scale}",
        protocol=first.protocol,
        protocol_text=first.protocol_text,
        unit=first.unit,
        scale=first.scale,
        dataset=first.dataset,
        split=first.split,
        columns=(*images, MEAN),
        metrics=first.metrics,
        rows=tuple(_told_apart(rows)),
        notes=tuple(notes),
        evaluations=tuple(group),
    )


def _values(evaluation: Evaluation, which: Literal["metrics", "floor"]) -> dict[str, dict[str, float]]:
    """The numbers of every image and the mean; not those that do not exist."""

    def real(image: ImageNumbers) -> dict[str, float]:
        return {name: value for name, value in getattr(image, which).items() if not math.isnan(value)}

    return {**{image.name: real(image) for image in evaluation.images}, MEAN: real(evaluation.mean)}


def _is_floor(evaluation: Evaluation) -> bool:
    """Whether the method is the very interpolation of the floor."""
    return _values(evaluation, "metrics") == _values(evaluation, "floor")


def _floor_name(evaluation: Evaluation) -> str:
    return str(evaluation.protocol_fields.get("floor", "interpolation"))


def _published(row: Published) -> Row:
    values = {column: {metric: float(v) for metric, v in numbers.items()} for column, numbers in row.values.items()}
    printed = {column: {metric: str(v) for metric, v in numbers.items()} for column, numbers in row.values.items()}
    ranked = not row.table.caveats
    return Row(row.method, "published", row.source, values, printed=printed, ranked=ranked)


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows with each method's name once in its kind: its run, file or source is added, or else a number."""
    told = []
    for row in rows:
        same = [other for other in rows if (other.method, other.kind) == (row.method, row.kind)]
        if len(same) > 1:
            own = next((text for text in _whence(row) if sum(text in _whence(other) for other in same) == 1), None)
            row = replace(row, method=f"{row.method} ({own or same.index(row) + 1})")
        told.append(row)
    return told


def _whence(row: Row) -> tuple[str, ...]:
    """What may tell two rows of one method apart, the shortest first."""
    return (row.source,) if row.evaluation is None else (PurePath(row.evaluation.weights).name, row.source)


def _short(paper: str) -> str:
    """The authors of a paper, or the beginning of its title."""
    return paper.split(",")[0]


def number(metric: str, value: float) -> str:
    """A number with the digits that the metric has; of those in the depth's unit three places, or three digits."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    digits = METRICS[metric].digits
    if digits is None:
        # Of metres the first digits are zeros. Beyond the eighth place one would read the rounding of float32.
        digits = 3 if value == 0 else min(max(3, 2 - math.floor(math.log10(abs(value)))), 8)
    return f"{value:.{digits}f}"


def heading(metric: str, unit: str) -> str:
    """A metric's name and unit, as in "MAE (grey level)"."""
    known = METRICS[metric]
    units = {"depth": unit, "depth2": f"{unit}\u00b2", "degrees": "\u00b0"}
    return f"{known.title} ({units.get(known.unit, known.unit)})"


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown, a table a metric: best bold, second best underlined, published rows with a dagger."""
    parts = [
        f"### {escape(comparison.title)}",
        f"Protocol {code(comparison.protocol)}: {escape(comparison.protocol_text)}",
    ]
    for metric in comparison.metrics:
        lines = [_md_line(map(escape, [heading(metric, comparison.unit), *comparison.shown]))]
        lines.append("|---|" + "---:|" * len(comparison.shown))
        marks = {1: "**{}**", 2: "<u>{}</u>"}
        for name, cells in _table(comparison, metric):
            lines.append(_md_line([escape(name), *(marks.get(place, "{}").format(text) for text, place in cells)]))
        if len(lines) > 2:
            parts.append("\n".join(lines))
    sources = _sources(comparison, comparison.metrics)
    if sources:
        parts.append("\n".join(f"{DAGGER} {escape(methods)}: {escape(source)}.  " for source, methods in sources))
    parts += [f"Note: {escape(note)}" for note in comparison.notes]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text in one line of Markdown in which nothing is taken for a mark-up."""
    text = re.sub(r"([\\`*_|<>\[\]{}#!&~$])", r"\\\1", " ".join(text.split()))
    # What makes a list, a heading or a rule of a line; not the sign or the point of a number.
    return re.sub(r"^(\d*)([.)](?=\s|$)|[-+=](?=[-+=\s]|$))", r"\1\\\2", text)


def code(text: str) -> str:
    """Text in one line of Markdown, as code."""
    text = " ".join(text.split())
    if "`" not in text:
        return f"`{text}`"
    ticks = "`" * (1 + max(map(len, re.findall("`+", text))))
    return f"{ticks} {text} {ticks}"


def _md_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(comparison: Comparison, metric: str) -> list[tuple[str, list[tuple[str, int]]]]:
    """The rows that have the metric: the name, marked where it is published, and each number with its place or 0."""
    places = {column: comparison.places(column, metric) for column in comparison.shown}
    rows = []
    for i, row in enumerate(comparison.rows):
        cells = [(row.text(column, metric), int(places[column].get(i, 0))) for column in comparison.shown]
        if any(text for text, _ in cells):
            rows.append((f"{row.method}{DAGGER if row.kind == 'published' else ''}", cells))
    return rows


def _sources(comparison: Comparison, metrics: Sequence[str]) -> list[tuple[str, str]]:
    """Each source of the published rows that have one of the metrics, with the methods that are from it."""
    methods: dict[str, list[str]] = {}
    for row in comparison.rows:
        shown = any(row.text(column, metric) for column in comparison.shown for metric in metrics)
        if row.kind == "published" and shown:
            methods.setdefault(row.source, []).append(row.method)
    return [(source, ", ".join(names)) for source, names in methods.items()]


def latex(comparison: Comparison) -> str:
    r"""The comparison as LaTeX, a table a metric: best bold, second best underlined, published rows with a dagger.

    What is to be said of all of it stands below the first. It needs `\usepackage{booktabs}` and nothing else.
    """
    blocks: list[str] = []
    for metric in comparison.metrics:
        rows = _table(comparison, metric)
        if not rows:
            continue
        marks = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
        lines = [
            " & ".join([tex(name), *(marks.get(place, "{}").format(tex(text)) for text, place in cells)]) + r" \\"
            for name, cells in rows
        ]
        kinds = [row.kind for row in comparison.rows if any(row.text(c, metric) for c in comparison.shown)]
        # A rule between floor, measured and published.
        body = [line if i == 0 or kinds[i] == kinds[i - 1] else f"\\midrule\n{line}" for i, line in enumerate(lines)]
        what = heading(metric, comparison.unit)
        caption = f"{comparison.title}: {what}. {comparison.protocol}: {comparison.protocol_text}."
        notes = [rf"\par $^\dagger$ {tex(names)}: {tex(source)}." for source, names in _sources(comparison, [metric])]
        if not blocks:  # said once
            notes += [rf"\par {tex(note)}" for note in comparison.notes]
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{tex(caption)}}}",
                    rf"\begin{{tabular}}{{l{'r' * len(comparison.shown)}}}",
                    r"\toprule",
                    " & ".join(["", *map(tex, comparison.shown)]) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    *([r"\footnotesize", *notes] if notes else []),
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    DAGGER: r"$^\dagger$",
    "\u00b2": r"$^2$",
    "\u00b0": r"$^\circ$",
    "\u00b1": r"$\pm$",
    "\u25cf": r"$\bullet$",
    **{character: f"{{{character}}}" for character in "[*"},  # after a line's end they would belong to it
}


def tex(text: str) -> str:
    """Text in one line as LaTeX shows it."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))
