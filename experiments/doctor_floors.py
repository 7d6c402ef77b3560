"""`ahmf doctor --floors`: whether interpolation gives the figures that are recorded for the data, and if not, why.

A protocol is proven by its floor. Where the images of a data set are those of a recorded floor, by their names, and the
figures differ, the data were prepared otherwise. Each way in which that is known to happen is then undone on one image,
and the one that leads to the recorded figures is named.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.metrics import METRICS
from data_pipelines import datasets
from data_pipelines.datasets import Dataset, DatasetInfo, Example
from data_pipelines.degrade import Kernel
from data_pipelines.opening import some
from experiments.comparison import number
from experiments.config import PairsConfig
from experiments.data import default_split, open_named, refuse_pairs
from experiments.evaluate import measure, whole_batch
from experiments.findings import FACTORS, Finding
from experiments.floors import Recorded, recorded
from experiments.methods import interpolate
from experiments.protocols import PROTOCOLS, Protocol, choose_protocol
from experiments.published import MEAN, Column

# Of data for which nothing is recorded, so many images are measured, at these factors.
MOST_UNKNOWN, SCALES_UNKNOWN = 10, (4, 8, 16)
# Share of the pixels that are 0 or unknown from which holes are holes.
MOST_ZEROS = 0.001
# How near another scale of the values must come to the recorded figures: in parts of them, and PSNR in dB. Of PE, which
# counts whole grey levels, less can be asked.
NEAR = {"mae": 0.005, "rmse": 0.005, "pe": 0.02, "psnr": 0.03}
SAME = 0.005  # a factor this near to 1 is none
# Of more images than these, kernels are not tried.
MOST_TRIED = 40
# Images in work at a time, each some 100 MB of a large one.
THREADS = min(os.cpu_count() or 1, 4)
# The images' size over the recorded one, and how far from that it may be, as scenes are cut differently.
PARTS = {1 / 2: "half", 1 / 3: "a third of", 1 / 4: "a quarter of", 2.0: "twice", 3.0: "three times"}
ABOUT = 0.06

# What is done to an image, and to the meaning of its values, before it is measured.
Change = Callable[[Example, DatasetInfo], tuple[Example, DatasetInfo]]


class Image(NamedTuple):
    """An image of a data set, at its place, which seeds what is left to chance."""

    dataset: Dataset
    place: int
    name: str


class Figure(NamedTuple):
    """A measured figure and the recorded one, if there is one; not a number where it cannot be measured."""

    computed: float
    recorded: float | None

    @property
    def difference(self) -> float:
        """Measured less recorded; not a number where either is missing."""
        return math.nan if self.recorded is None else self.computed - self.recorded


@dataclass(frozen=True)
class Line:
    """The figures of one protocol, factor and metric: of every image for which one is recorded, and the mean."""

    protocol: str
    data: str
    unit: str
    scale: int
    metric: str
    mean: Figure
    images: Mapping[str, Figure]
    tolerance: float = math.inf

    @property
    def is_proven(self) -> bool:
        """Whether right data are known to give what is recorded."""
        return self.tolerance < math.inf

    @property
    def off(self) -> list[str]:
        """What is further from the recorded figure than it may be: names of images, or "mean"."""
        figures = {**self.images, MEAN: self.mean}
        known = {name: f for name, f in figures.items() if f.recorded is not None and self.is_proven}
        return [name for name, figure in known.items() if not abs(figure.difference) <= self.tolerance]


@dataclass(frozen=True)
class Checked:
    """What was found on one data set; a finding says why figures are off."""

    lines: tuple[Line, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether every figure that is recorded and proven was reproduced."""
        return not any(line.off for line in self.lines)


def doctor_floors(names: Sequence[str], data_dir: Path | None, pairs: PairsConfig) -> bool:
    """Prints the floors of data sets beside what is recorded for them; whether all that is recorded was reproduced.

    Args:
      names: of prepared data sets, or folders of pairs; by default all that are prepared.
      data_dir: where data sets are prepared.
      pairs: how folders are read.

    Raises:
      InputError: a data set that cannot be opened, or none at all.
    """
    data_dir = data_dir or datasets.default_data_dir()
    names = names or datasets.prepared_names(data_dir)
    if not names:
        raise InputError(f"{data_dir}: no data set is prepared there: name a folder of pairs with --dataset")
    right = True
    for name in names:
        parts = at_hand(name, data_dir, pairs)
        checked = check(list(parts.values()))
        if not checked.lines:
            measured = unknown(parts)
            checked = dataclasses.replace(measured, findings=(*checked.findings, *measured.findings))
        print("\n".join([name, *(f"  {line}" for line in lines_of(checked))]), flush=True)
        right &= checked.is_right
    return right


def at_hand(name: str, data_dir: Path, pairs: PairsConfig) -> dict[str, Dataset]:
    """The splits of a prepared data set that are not empty, or a folder of pairs under ""."""
    if name in datasets.prepared_names(data_dir):
        refuse_pairs(pairs, f"{name} is a prepared data set", "name a folder with --dataset")
        counts = datasets.describe(name, data_dir).counts
        return {split: datasets.open_dataset(name, split, data_dir) for split, count in counts.items() if count}
    split = default_split(name, data_dir)
    return {split: open_named(name, split, data_dir, pairs)}


def check(parts: Sequence[Dataset], tables: Sequence[Recorded] | None = None) -> Checked:
    """Measures everything that is recorded for images of these names, whatever their size.

    Args:
      parts: the splits of a data set.
      tables: what is recorded; by default all that this program knows.
    """
    images = [Image(part, place, image) for part in parts for place, image in enumerate(part.names)]
    lines: list[Line] = []
    off: list[tuple[Recorded, dict[Column, list[Image]]]] = []
    tables = recorded() if tables is None else tables
    for table in tables:
        there = _columns(table, images)
        found = _measured(table, there)
        lines += _lines(table, there, found)
        wrong = {c: of for c, of in there.items() if not _agrees(table, c, found[c.name], exactly=True)}
        if wrong and table.is_proven:
            off.append((table, wrong))
    # An image has one cause, which is best told without noise, and by errors that are proportional to the values.
    off.sort(key=lambda one: (PROTOCOLS[one[0].protocol].degrade.noise_sigma, "rmse" not in one[0].metrics))
    findings = list(_incomplete(images, tables))
    explained: set[Image] = set()
    for table, wrong in off:
        of = {image for images in wrong.values() for image in images}
        if not of & explained:
            # The column that is quickest to try.
            column = min(wrong, key=lambda column: (len(wrong[column]), math.prod(column.size or (1,)), column.name))
            findings.append(explain(table, column, wrong[column]))
        explained |= of
    return Checked(tuple(lines), tuple(findings))


def unknown(parts: Mapping[str, Dataset]) -> Checked:
    """The floors of data for which nothing is recorded, of the first images of the test or of what there is."""
    split = "test" if "test" in parts else next(iter(parts))
    dataset = parts[split]
    protocol_name, protocol = choose_protocol(None, dataset.info, None)
    images = [Image(dataset, place, image) for place, image in enumerate(dataset.names[:MOST_UNKNOWN])]
    part = (
        f"the first {len(images)} of {len(dataset)} images" if len(images) < len(dataset) else f"{len(dataset)} images"
    )
    data = f"{split}: {part}" if split else part
    unit, _ = protocol.unit_of(dataset.info)
    lines = []
    for scale in SCALES_UNKNOWN:
        try:
            found = figures(images, scale, protocol)
        except InputError:  # too small for it
            continue
        lines += [
            Line(protocol_name, data, unit, scale, metric, Figure(found[metric], None), {})
            for metric in protocol.metrics
        ]
    return Checked(tuple(lines), tuple(_other_images(dataset)))


def _other_images(dataset: Dataset) -> Iterator[Finding]:
    """Whether scenes of recorded images are there, in other images of them."""
    folders = {folder for name in dataset.names for folder in name.split("/")[:-1]}
    for table in recorded():
        scenes = sorted(folder for folder in folders if any(column.names(folder) for column in table.columns))
        if scenes:
            says = (
                f"{', '.join(scenes)}: {table.protocol} has figures of {table.dataset}, which are other images of these"
            )
            yield Finding("images", says)


def _columns(table: Recorded, images: Sequence[Image]) -> dict[Column, list[Image]]:
    """The columns of which the images are there, all of a set's."""
    there = {column: [image for image in images if column.names(image.name)] for column in table.columns}
    return {column: found for column, found in there.items() if len(found) == (column.count or 1)}


def _incomplete(images: Sequence[Image], tables: Sequence[Recorded]) -> Iterator[Finding]:
    """What is there and not measured: sets of which only a part is there, and names that several images have."""
    for column in dict.fromkeys(column for table in tables for column in table.columns):
        named = [image.name for image in images if column.names(image.name)]
        if column.count is not None and column.name != MEAN and 0 < len(named) != column.count:
            says = f"{len(named)} images of {column.name} are there, and what is recorded is of its {column.count}"
            yield Finding("images", says)
        elif column.count is None and len(named) > 1:
            says = f"{some(named)}: {len(named)} images have the name of {column.name}, which is recorded of one"
            yield _finding("images", f"{says}: it is not measured", "keep one of them in a data set", value=column.name)


def _measured(table: Recorded, there: Mapping[Column, Sequence[Image]]) -> dict[str, dict[int, dict[str, float]]]:
    """The figures by column and factor; none where the protocol does not fit the data."""
    from tqdm import tqdm

    wanted = [
        (column, scale, image)
        for column, images in there.items()
        for scale in _scales(table, column)
        for image in images
    ]

    def measured(one: tuple[Column, int, Image]) -> dict[str, float] | None:
        _, scale, image = one
        try:
            return _of_one(image, scale, PROTOCOLS[table.protocol])
        except InputError:
            return None

    # One pool for all of them, so that never more than its images are in work.
    each: dict[tuple[str, int], list[dict[str, float] | None]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(measured, wanted), table.protocol, len(wanted), unit="image", disable=None, leave=False)
        for (column, scale, _), values in zip(wanted, bar, strict=True):
            each.setdefault((column.name, scale), []).append(values)
    found: dict[str, dict[int, dict[str, float]]] = {column.name: {} for column in there}
    for (name, scale), of in each.items():
        known = [values for values in of if values is not None]
        found[name][scale] = _mean(known) if len(known) == len(of) else {}
    return found


def figures(images: Sequence[Image], scale: int, protocol: Protocol, change: Change | None = None) -> dict[str, float]:
    """The floor's figures, the mean over the images, by metric.

    Raises:
      InputError: images that the protocol or the factor does not fit.
    """

    with ThreadPoolExecutor(THREADS) as pool:
        return _mean(list(pool.map(lambda image: _of_one(image, scale, protocol, change), images)))


def _of_one(image: Image, scale: int, protocol: Protocol, change: Change | None = None) -> dict[str, float]:
    """The floor's figures on one image, by metric. InputError where the protocol or the factor does not fit it."""
    example, info = image.dataset[image.place], image.dataset.info
    if change is not None:
        example, info = change(example, info)
    depth_range = info.range * protocol.unit_of(info)[1]
    batch = whole_batch(example, image.place, info, scale, protocol)
    return measure(interpolate(batch, protocol.floor), batch, depth_range, protocol).values(depth_range)


def _mean(of: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over images, by metric."""
    return {metric: float(np.mean([values[metric] for values in of])) for metric in METRICS}


def _lines(
    table: Recorded,
    there: Mapping[Column, Sequence[Image]],
    found: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> Iterator[Line]:
    """A line for each set of images, factor and metric; one for all the columns that are an image each."""
    single = [column for column in there if column.count is None]
    whole = len(single) == sum(column.count is None and not column.average for column in table.columns)
    groups = [[column] for column in there if column.count is not None] + ([single] if single else [])
    average = next((column.name for column in table.columns if column.average), None)
    for group, scale, metric in itertools.product(groups, table.scales, table.metrics):
        known = {column.name: table.value(column.name, scale, metric) for column in group}
        each = {
            column: Figure(found[column][scale].get(metric, math.nan), value)
            for column, value in known.items()
            if value is not None
        }
        if not each:
            continue
        if group is single:
            data = table.dataset if whole else f"{len(single)} of {table.dataset}"
            values = [value for value in known.values() if value is not None]
            printed = None if average is None else table.value(average, scale, metric)
            mean = printed if printed is not None else float(np.mean(values))
            # Of some of the images there is no recorded mean; it is that of their own figures.
            mean = mean if whole else float(np.mean(values))
            line = Figure(float(np.mean([figure.computed for figure in each.values()])), mean)
        else:
            data = table.dataset if group[0].name == MEAN else group[0].name
            line, each = each[group[0].name], {}
        unit = group[0].unit or table.unit
        yield Line(table.protocol, data, unit, scale, metric, line, each, table.tolerance.get(metric, math.inf))


def _agrees(
    table: Recorded, column: Column, found: Mapping[int, Mapping[str, float]], *, exactly: bool = False
) -> bool:
    """Whether every recorded figure of a column that was measured is as it should be: to the tolerance, or nearly."""
    for scale, values in found.items():
        for metric in table.metrics:
            value = table.value(column.name, scale, metric)
            if value is None:
                continue
            near = NEAR["psnr"] if metric == "psnr" else NEAR.get(metric, NEAR["mae"]) * abs(value)
            most = table.tolerance.get(metric, math.inf)
            most = most if exactly else max(most, near)
            if not abs(values.get(metric, math.nan) - value) <= most:
                return False
    return bool(found)


def explain(table: Recorded, column: Column, images: Sequence[Image]) -> Finding:
    """Why the figures of a column are not the recorded ones: what else the image is, as far as it can be told.

    Args:
      table, column: what is recorded.
      images: those of the column, one or a set.
    """
    first = images[0]
    example, what = first.dataset[first.place], _what(first.name, images)
    for cause in (_size, _holes, _values, _kernels):
        found = cause(table, column, images, example, what)
        if found is not None:
            return found
    says = f"{what}: size, values, holes and kernels are not it: the images are others, or cut or filled otherwise"
    return _finding("images", says, f"compare them with {table.dataset}", "possible")


def _finding(about: str, says: str, remedy: str, sure: str = "certain", value: object = None) -> Finding:
    return Finding(about, says, sure, True, remedy, value)  # type: ignore[arg-type]


def _what(name: str, images: Sequence[Image]) -> str:
    return name if len(images) == 1 else f"{name} and {len(images) - 1} more"


def _size(table: Recorded, column: Column, images: Sequence[Image], example: Example, what: str) -> Finding | None:
    """Another size than the recorded one: another set, another resolution, or another crop."""
    if column.size is None or example.depth.shape == column.size:
        return None
    (height, width), size = example.depth.shape, column.size
    says = f"{what}: {height} x {width}, and what is recorded is of {size[0]} x {size[1]}"
    for other in table.other_sizes:
        if other.size == (height, width):
            return _finding("size", f"{says}: these are {other.whose}", f"take {table.dataset}", value=other.whose)
    down, right = height - size[0], width - size[1]
    if min(down, right) >= 0:
        for top, left in itertools.product((0, down // 2, down), (0, right // 2, right)):
            cut = _cut(slice(top, top + size[0]), slice(left, left + size[1]))
            if _fits(table, column, images, change=cut, exactly=True):
                says += f", which is this from row {top} and column {left} on"
                return _finding("crop", says, "cut the depth and the guide so", value=(top, left))
    for part_of, words in PARTS.items():
        if all(abs(n / (whole * part_of) - 1) < ABOUT for n, whole in zip((height, width), size, strict=True)):
            remedy = f"take {table.dataset} at full size"
            return _finding("size", f"{says}: about {words} the size", remedy, value=part_of)
    says += f": {down:+d} rows, {right:+d} columns"
    return _finding("crop", says, f"take {table.dataset} as they are", value=(down, right))


def _cut(rows: slice, columns: slice) -> Change:
    def cut(example: Example, info: DatasetInfo) -> tuple[Example, DatasetInfo]:
        guide, depth, mask = (array[rows, columns] for array in (example.guide, example.depth, example.mask))
        return Example(np.ascontiguousarray(guide), depth, mask, example.name), info

    return cut


def _holes(table: Recorded, column: Column, images: Sequence[Image], example: Example, what: str) -> Finding | None:
    """Holes, where the recorded images have none."""
    unknown, zeros = float((~example.mask).mean()), float((example.mask & (example.depth == 0)).mean())
    if unknown + zeros < MOST_ZEROS:
        return None
    share = f"{unknown:.1%} of the pixels are unknown" if unknown > zeros else f"{zeros:.1%} of the pixels are 0"
    sure = "likely" if column.count else "certain"
    says = f"{what}: {share}: the holes are not filled as in what is recorded"
    return _finding("holes", says, f"take {table.dataset}, whose holes are filled", sure, max(unknown, zeros))


def _values(table: Recorded, column: Column, images: Sequence[Image], example: Example, what: str) -> Finding | None:
    """Values in another unit, or said to have another range, or the inverse of what they should be."""
    grey = (column.unit or table.unit) == "grey levels"
    range_is = images[0].dataset.info.range
    if grey and range_is != 255 and _fits(table, column, images, change=_multiplied(1.0, grey)):
        says = f"{what}: the values are right, and their range is said to be {range_is:g}"
        return _finding("range", says, "say that it is 255 (--pairs.range 255)", value=range_is)
    factor = _factor(table, column, images, grey)
    for one in (*(known for known in FACTORS if abs(math.log(known / factor)) < math.log(1.2)), factor):
        if abs(one - 1) > SAME and _fits(table, column, images, change=_multiplied(one, grey)):
            if one not in FACTORS:  # as far as rounded figures tell it
                one = float(f"{one:.3g}")
            says = f"{what}: the values are {FACTORS.get(one, f'some {1 / one:.3g} times what they should be')}"
            remedy = f"multiply them by {one:.4g}" if one > 1 else f"divide them by {1 / one:.4g}"
            return _finding("unit", says, remedy, value=one)
    factor = _factor(table, column, images, grey, inverse=True)
    if _fits(table, column, images, change=_multiplied(factor, grey, inverse=True)):
        says = f"{what}: the values are the inverse of those recorded, depth for disparity or the other way"
        return _finding("unit", says, f"one is {factor:.5g} over the other: convert them", value="inverse")
    return None


def _multiplied(factor: float, grey: bool, inverse: bool = False) -> Change:
    """The depth, or one over it, times a factor, and then of a range of 255 where it is in grey levels."""

    def multiplied(example: Example, info: DatasetInfo) -> tuple[Example, DatasetInfo]:
        depth = example.depth.astype(np.float64)
        if inverse:
            depth = np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
        example = example._replace(depth=(depth * factor).astype(np.float32))
        return example, dataclasses.replace(info, unit="grey level", range=255.0) if grey else info

    return multiplied


def _factor(table: Recorded, column: Column, images: Sequence[Image], grey: bool, inverse: bool = False) -> float:
    """What the values must be multiplied by, that the first recorded error comes out; 1 where nothing does it."""
    protocol = PROTOCOLS[table.protocol]
    unrounded = dataclasses.replace(protocol, rounding="none", clip=False)
    for scale, metric in itertools.product(table.scales, ("rmse", "mae", "psnr")):
        value = table.value(column.name, scale, metric)
        if value is None:
            continue
        if metric == "psnr":
            metric, value = "rmse", 255 / 10 ** (value / 20)
        factor = 1.0
        # Errors are proportional to values but for the rounding, which would round small ones away at first.
        for how in (unrounded, protocol, protocol, protocol):
            try:
                found = figures(images, scale, how, _multiplied(factor, grey, inverse))[metric]
            except InputError:
                return 1.0
            if not 0 < found < math.inf:
                return 1.0
            factor *= value / found
        return factor
    return 1.0


def _kernels(table: Recorded, column: Column, images: Sequence[Image], example: Example, what: str) -> Finding | None:
    """The data are right, and the figures were recorded with another kernel."""
    if len(images) > MOST_TRIED:
        return None
    protocol = PROTOCOLS[table.protocol]
    kernels: tuple[Kernel, ...] = get_args(Kernel)
    smooth = [kernel for kernel in kernels if kernel.endswith(("cubic", "linear"))]
    for down, up in itertools.product(kernels, smooth):
        degrade = dataclasses.replace(protocol.degrade, kernel=down)
        other = dataclasses.replace(protocol, degrade=degrade, floor=up)
        if _fits(table, column, images, protocol=other, exactly=True):
            says = f"{what}: what is recorded is of LR by {down} and the floor by {up}"
            remedy = f"measure under a protocol with these kernels, not {table.protocol}"
            return _finding("kernel", says, remedy, value=(down, up))
    return None


def _fits(
    table: Recorded,
    column: Column,
    images: Sequence[Image],
    *,
    change: Change | None = None,
    protocol: Protocol | None = None,
    exactly: bool = False,
) -> bool:
    """Whether the recorded figures come out, nearly or exactly, of images so changed, or under that protocol."""
    for scale in _scales(table, column):
        try:
            found = {scale: figures(images, scale, protocol or PROTOCOLS[table.protocol], change)}
        except InputError:
            return False
        if not _agrees(table, column, found, exactly=exactly):
            return False
    return True


def _scales(table: Recorded, column: Column) -> list[int]:
    """The factors for which something is recorded of a column."""
    return [s for s in table.scales if any(table.value(column.name, s, m) is not None for m in table.metrics)]


def _distance(figure: Figure) -> float:
    """How far a figure is off, what could not be measured the furthest."""
    return math.inf if math.isnan(figure.difference) else abs(figure.difference)


def _verdict(line: Line) -> str:
    if line.mean.recorded is None:
        return "nothing recorded"
    if not line.is_proven:
        return "unproven"
    return "OFF" if line.off else "ok"


def lines_of(checked: Checked) -> list[str]:
    """The figures as a table, and what is wrong, as lines of text."""
    rows = [("protocol", "images", "scale", "metric", "computed", "recorded", "difference", "largest of an image", "")]
    for line in checked.lines:
        metric, known = METRICS[line.metric], line.mean.recorded is not None
        unit = {"depth": line.unit, "depth2": f"{line.unit}2"}.get(metric.unit, metric.unit)
        largest = max(line.images, key=lambda name: _distance(line.images[name]), default="")
        rows.append(
            (
                line.protocol,
                line.data,
                f"x{line.scale}",
                f"{metric.title} ({unit})",
                number(line.metric, line.mean.computed) or "-",
                number(line.metric, line.mean.recorded) if line.mean.recorded is not None else "-",
                f"{line.mean.difference:+.4f}" if known else "-",
                f"{line.images[largest].difference:+.4f} {largest}" if largest else "-",
                _verdict(line),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = {"computed", "recorded", "difference"}
    table = [
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(row, widths, rows[0], strict=True)
        ).rstrip()
        for row in rows
    ]
    return [*table, *map(str, checked.findings)]
