"""What papers have published: every table a data file beside this one, with its source, protocol and unit.

    title, paper, table, arxiv  where it stands
    protocol                    a name of `experiments.protocols`; left out where none makes the table's numbers
    compared                    false: never set beside measurements (an ablation, a repetition), and the file says why
    dataset                     of what, in words
    metrics, unit, scales       of the numbers; `unit` is that of errors in depth, and a column may have its own
    caveats                     why its rows are not ranked with others; a page says so wherever one of them stands
    remarks                     what else a page says where one of them stands
    notes                       repairs and readings; no page shows them
    order                       how a row's numbers follow each other: "column", "scale", "metric", the outermost first
    columns                     what each is of: see `Column`
    averages_off                the printed averages that do not follow from the cells: see `Off`
    rows                        a method each; nan: not published, or not legible

Numbers are kept as they are printed, with the digits that they have. Scenes are spelt as their authors spell them.

    for row in rows_for(evaluation):            # what can stand beside it: same protocol, factor, unit and images
        row.method, row.values["mean"]["mae"], row.source
"""

import functools
import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import Any

from ahmf_jax.metrics import METRICS
from experiments.evaluations import Evaluation, ImageNumbers

# Of a number: column, factor, metric.
Place = tuple[str, int, str]
# What tables hold that this program does not measure, or for which the paper gives no definition.
OTHER_METRICS = ("ve", "ee", "seconds", "memory")
MEAN = "mean"


@dataclass(frozen=True)
class Column:
    """What the numbers of a column are of: one image, a set of images, or an average of the other columns.

    Attributes:
      name: as printed, but for the spelling.
      images: a regular expression for the names of its images; they may have folders before it, and upper and lower
        case are the same. Empty where the table is not compared.
      count: how many images; None: one image.
      size: (height, width) of each; None where it is not known or they differ.
      splits: the splits of which the images are all, where names and number alone do not tell; one of them must fit.
      unit: in place of the table's.
      average: it is printed as the mean of the other columns.
      weights: of the other columns in that mean, in their order; all the same by default.
    """

    name: str
    images: str = ""
    count: int | None = None
    size: tuple[int, int] | None = None
    splits: tuple[str, ...] = ()
    unit: str = ""
    average: bool = False
    weights: tuple[int, ...] = ()

    @property
    def is_set(self) -> bool:
        """Whether its number is a mean over images."""
        return self.count is not None or bool(self.splits)

    def names(self, image: str) -> bool:
        """Whether an image of that name is meant."""
        return bool(self.images) and re.fullmatch(rf"(?:.*/)?(?:{self.images})", image, re.IGNORECASE) is not None

    def fits(self, image: ImageNumbers, scale: int) -> bool:
        """Whether it is of this image, whole or cut at the bottom and right to a multiple of the factor."""
        sizes = self.size and (self.size, tuple(n // scale * scale for n in self.size))
        return self.names(image.name) and (sizes is None or (image.height, image.width) in sizes)


@dataclass(frozen=True)
class Off:
    """A printed average that does not follow from the cells: `cells` is what they give."""

    method: str
    column: str
    scale: int
    metric: str
    cells: Decimal


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
      method: its name.
      values: every cell that is there, by column, factor and metric.
      reference: the paper that its numbers are from, where it is not the table's.
      parameters: in millions.
    """

    method: str
    values: Mapping[Place, Decimal]
    reference: str = ""
    parameters: Decimal | None = None


@dataclass(frozen=True)
class Table:
    """A table of a paper; the attributes are those of its file, which the module's head explains."""

    name: str
    title: str
    paper: str
    table: str
    dataset: str
    metrics: tuple[str, ...]
    unit: str
    scales: tuple[int, ...]
    order: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Method, ...]
    protocol: str | None = None
    compared: bool = True
    arxiv: str = ""
    caveats: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    averages_off: tuple[Off, ...] = ()

    def __post_init__(self) -> None:
        """A wrong entry is a ValueError."""
        unknown = [name for name in self.metrics if name not in (METRICS if self.is_compared else _ALL_METRICS)]
        if unknown:
            raise ValueError(f"{self.name}: metric {unknown[0]!r} is not known, or must not be compared")
        if self.protocol is not None:
            from experiments.protocols import PROTOCOLS

            if self.protocol not in PROTOCOLS:
                raise ValueError(f"{self.name}: protocol {self.protocol!r} is not known")
        if not self.rows or len({row.method for row in self.rows}) < len(self.rows):
            raise ValueError(f"{self.name}: has no row, or a method twice")
        if self.is_compared and not all(column.images or column.average for column in self.columns):
            raise ValueError(f"{self.name}: a column does not say which its images are")
        for off in self.averages_off:
            if (off.column, off.scale, off.metric) not in self.row(off.method).values:
                raise ValueError(f"{self.name}: averages_off names a cell that is not there: {off}")

    @property
    def is_compared(self) -> bool:
        """Whether its rows can stand beside measurements at all."""
        return self.compared and self.protocol is not None

    def row(self, method: str) -> Method:
        """The row of a method. ValueError where there is none."""
        for row in self.rows:
            if row.method == method:
                return row
        raise ValueError(f"{self.name}: has no row {method!r}")

    def average(self, row: Method, column: Column, scale: int, metric: str) -> float:
        """The mean of a row's other columns; NaN where one is missing."""
        others = [other for other in self.columns if not other.average]
        weights = column.weights or (1,) * len(others)
        values = [float(row.values.get((other.name, scale, metric), math.nan)) for other in others]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


_ALL_METRICS = (*METRICS, *OTHER_METRICS)


@dataclass(frozen=True)
class Published:
    """A published row as it stands beside an evaluation.

    Attributes:
      row, table: the row, and where it stands.
      values: as printed, by the evaluation's own names of its images, or "mean", and by metric.
      computed: the metrics whose mean the paper does not print: it is that of the cells, with one digit more.
    """

    row: Method
    table: Table
    values: Mapping[str, Mapping[str, Decimal]]
    computed: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """Whose row it is."""
        return self.row.method

    @property
    def source(self) -> str:
        """Paper and table in one line, and how large the method's network is where that is known."""
        parameters = self.row.parameters
        size = "" if parameters is None else f", {parameters} million parameters"
        arxiv = f" (arXiv:{self.table.arxiv})" if self.table.arxiv else ""
        return f"{self.row.reference or self.table.paper}, {self.table.table}{arxiv}{size}"


@functools.cache
def tables() -> Mapping[str, Table]:
    """All tables by the names of their files. ValueError where a file is wrong."""
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): parse(file.name.removesuffix(".toml"), file.read_text("utf-8"))
        for file in files
        if file.name.endswith(".toml")
    }


def parse(name: str, text: str) -> Table:
    """The table that a file's text holds. ValueError, with the file's name, where it is wrong."""
    fields = tomllib.loads(text, parse_float=Decimal)
    try:
        columns = columns_of(fields.pop("columns", [{"name": ""}]))
        places = places_of(fields["order"], columns, fields["scales"], fields["metrics"])
        rows = tuple(_method(row, places) for row in fields.pop("rows"))
        off = tuple(Off(**one) for one in fields.pop("averages_off", ()))
        lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return Table(name=name, columns=columns, rows=rows, averages_off=off, **{**fields, **lists})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}.toml: {error}") from error


def columns_of(entries: Sequence[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns of a file. ValueError or TypeError for a wrong entry."""
    lists = [{key: tuple(value) for key, value in entry.items() if isinstance(value, list)} for entry in entries]
    return tuple(Column(**{**entry, **more}) for entry, more in zip(entries, lists, strict=True))


def places_of(
    order: Sequence[str], columns: Sequence[Column], scales: Sequence[int], metrics: Sequence[str]
) -> list[Place]:
    """Where the numbers of a list belong, in the list's order; an axis that `order` leaves out has one entry."""
    axes = {"column": [column.name for column in columns], "scale": scales, "metric": metrics}
    left = [axis for axis in axes if axis not in order]
    if not set(order) <= axes.keys() or len(set(order)) < len(order) or any(len(axes[axis]) > 1 for axis in left):
        raise ValueError(f"order {list(order)}: must name every axis that is longer than 1, once: {', '.join(axes)}")
    found = []
    for entries in itertools.product(*(axes[axis] for axis in (*order, *left))):
        at: dict[str, Any] = dict(zip((*order, *left), entries, strict=True))
        found.append((at["column"], at["scale"], at["metric"]))
    return found


def numbers_at(places: Sequence[Place], numbers: Sequence[Decimal | int]) -> dict[Place, Decimal]:
    """The numbers at their places, without those that are nan. ValueError where they are not as many."""
    if len(numbers) != len(places):
        raise ValueError(f"{len(numbers)} numbers for {len(places)} cells")
    given = {place: Decimal(number) for place, number in zip(places, numbers, strict=True)}
    return {place: number for place, number in given.items() if number.is_finite()}


def _method(fields: dict[str, Any], places: Sequence[Place]) -> Method:
    """A row, its lists of numbers brought to their places."""
    try:
        return Method(**{**fields, "values": numbers_at(places, fields["values"])})
    except ValueError as error:
        raise ValueError(f"{fields['method']}: {error}") from None


def rows_for(evaluation: Evaluation) -> list[Published]:
    """The published rows that can stand beside an evaluation: protocol, factor, unit and images are the same.

    Only numbers of images that both have, and of metrics that were measured. There is a mean where the images are
    exactly those of the table, and no others.
    """
    return [row for table in tables().values() for row in _rows(table, evaluation)]


def _rows(table: Table, evaluation: Evaluation) -> list[Published]:
    if not table.is_compared or table.protocol != evaluation.protocol or evaluation.scale not in table.scales:
        return []
    measured = {*evaluation.metrics, *evaluation.mean.metrics}
    metrics = [metric for metric in table.metrics if metric in measured]
    # The evaluation's name of what a column is of -> the column.
    places: dict[str, Column] = {}
    columns = [column for column in table.columns if (column.unit or table.unit) == evaluation.unit]
    for column in columns:
        fitting = [image for image in evaluation.images if column.fits(image, evaluation.scale)]
        if column.is_set:
            whole = len(fitting) == len(evaluation.images) == (column.count or len(fitting)) > 0
            if whole and (not column.splits or evaluation.split in column.splits):
                places[MEAN] = column
        elif len(fitting) == 1:
            places[fitting[0].name] = column
    images = [column for column in table.columns if not column.average]
    complete = not any(column.is_set for column in images) and len(places) == len(images) == len(evaluation.images)
    average = next((column for column in columns if column.average and not column.weights), None)
    rows = []
    for row in table.rows:
        values = {
            name: {m: row.values[key] for m in metrics if (key := (column.name, evaluation.scale, m)) in row.values}
            for name, column in places.items()
        }
        computed = []
        if complete:
            values[MEAN] = {}
            for metric in metrics:
                printed = average and row.values.get((average.name, evaluation.scale, metric))
                cells = [row.values.get((column.name, evaluation.scale, metric)) for column in images]
                if printed:
                    values[MEAN][metric] = printed
                elif None not in cells:
                    values[MEAN][metric] = _mean([cell for cell in cells if cell is not None])
                    computed.append(metric)
        values = {name: numbers for name, numbers in values.items() if numbers}
        if values:
            rows.append(Published(row, table, values, tuple(computed)))
    return rows


def _mean(cells: Sequence[Decimal]) -> Decimal:
    """The mean of printed numbers, with one digit more than they have."""
    digits = max(-int(cell.as_tuple().exponent) for cell in cells)
    return (sum(cells, Decimal(0)) / len(cells)).quantize(Decimal(1).scaleb(-digits - 1))
