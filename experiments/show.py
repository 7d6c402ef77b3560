"""`ahmf data show` and `ahmf data list`: what a data set is, and a sheet of its images to look at."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import DatasetInfo, Example, Prepared
from experiments.pictures import depth_colours, grid

# Columns of one picture on the sheet, and the most rows.
TILE, MOST_ROWS = 220, 176
KNOWN, UNKNOWN = np.array([222, 222, 222], np.uint8), np.array([176, 24, 24], np.uint8)


def listed(data_dir: Path) -> Iterator[str]:
    """A line for every data set that can be prepared, and one below it for every set that was prepared from it."""
    there: dict[str, list[str]] = {}
    for name in datasets.prepared_names(data_dir):
        try:
            one = datasets.describe(name, data_dir)
            counts = ", ".join(f"{n} {split}" for split, n in one.counts.items())
            line = f"{name}: {counts}; depth in {one.info.unit}, range {one.info.range:g}"
            there.setdefault(one.builder, []).append(line)
        except InputError as error:
            there.setdefault("", []).append(str(error))
    for name in datasets.DATASETS:
        cls = datasets.builder_class(name)
        summary = " ".join((cls.__doc__ or "").split()).split(". ")[0].rstrip(".")
        yield f"{name:12}{summary}. Depth in {cls.INFO.unit}, range {cls.INFO.range:g}"
        yield from (f"{'':12}prepared as {line}" for line in there.get(name, []))
    yield from (f"{'damaged':12}{line}" for line in there.get("", []))
    yield f"prepared sets are in {data_dir}"


def stated(info: DatasetInfo) -> list[str]:
    """What a data set states of itself."""
    unknown = "NaN and infinity" if info.invalid is None else f"{info.invalid:g}, NaN and infinity"
    lines = [
        f"unit      {info.unit}",
        f"range     {info.range:g} {info.unit} count as 1",
        f"unknown   {unknown}; holes are filled from: {info.fill}",
        f"licence   {info.licence}",
    ]
    lines += [] if info.colour else ["colour    none: for models that take no guide"]
    lines += [f"cite      {info.citation}"] if info.citation else []
    return lines + ([f"from      {info.url}"] if info.url else [])


def counted(prepared: Prepared) -> list[str]:
    """Images, sizes, depth and holes of every split, as a table whose columns fit."""
    header = ("split", "images", "height x width", f"depth ({prepared.info.unit})", "unknown")
    rows = [header, *(_row(split, examples) for split, examples in prepared.splits.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(split: str, examples: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    sizes = sorted({(e["height"], e["width"]) for e in examples})
    size = " - ".join(f"{height} x {width}" for height, width in dict.fromkeys((sizes[0], sizes[-1])))
    low, high = min(e["low"] for e in examples), max(e["high"] for e in examples)
    middle = float(np.median([e["median"] for e in examples]))
    holes = np.array([1 - e["known"] for e in examples])
    unknown = "none"
    if holes.any():
        share, most, worst = 100 * holes.mean(), 100 * holes.max(), examples[int(holes.argmax())]["name"]
        unknown = f"{share:.2f} % of the pixels; images with holes: {(holes > 0).sum()}, up to {most:.1f} % ({worst})"
    return split, str(len(examples)), size, f"{low:.4g} - {high:.4g}, median {middle:.4g}", unknown


def published(prepared: Prepared, data_dir: Path) -> Iterator[str]:
    """The splits of papers that this set can give, and those that it cannot, with the reason."""
    for split in prepared.named_splits():
        try:
            images = len(datasets.open_dataset(prepared.info.name, split, data_dir))
            yield f"published {split}: {images} images"
        except InputError as error:
            reason = str(error)
            yield f"published {split}: not here: {reason[:200]}{'...' if len(reason) > 200 else ''}"


def show(name: str, data_dir: Path, split: str | None, images: int, out: Path) -> list[str]:
    """Describes a data set in lines, and writes a contact sheet where it is prepared.

    Args:
      name: a key of `DATASETS`, or the name of a prepared set.
      data_dir: where data sets are prepared.
      split: whose images are shown; all by default.
      images: how many at most, evenly spread over the split.
      out: the PNG to write.

    Raises:
      InputError: neither known nor prepared, or no such split; `out` cannot be written.
    """
    if images < 1:
        raise InputError(f"--images {images}: show at least 1")
    if name in datasets.DATASETS and name not in datasets.prepared_names(data_dir):
        return _unprepared(name)
    from data_pipelines.files import write_picture

    prepared = datasets.describe(name, data_dir)
    dataset = datasets.open_dataset(name, split or "+".join(prepared.splits), data_dir)
    shown = spread(len(dataset), images)
    write_picture(out, sheet([dataset[int(i)] for i in shown], prepared.info))
    options = {key.replace("_", " "): "none" if value == "" else value for key, value in prepared.options.items()}
    chosen = "".join(f", {option} {value}" for option, value in options.items())
    return [
        f"{name}: prepared from {prepared.builder} {prepared.version}{chosen}",
        *stated(prepared.info),
        *(f"note      {note}" for note in prepared.notes),
        "",
        *counted(prepared),
        "",
        *published(prepared, data_dir),
        f"{out}: {'colour, ' * prepared.info.colour}depth and mask (red is unknown) of {len(shown)} images",
    ]


def _unprepared(name: str) -> list[str]:
    cls = datasets.builder_class(name)
    command = f"ahmf data prepare {name}"
    how = f"`{command}` builds it"
    if cls.FROM_FILES:
        files = len(cls.downloads(cls.Options()))
        how = f"`{command} --from DIR` builds it from its download"
        how += f", `{command}` fetches that first ({files} {'file' if files == 1 else 'files'})" if files else ""
    return [
        f"{name}: {' '.join((cls.__doc__ or '').split())}",
        *stated(cls.INFO),
        *(f"option    --{f.name.replace('_', '-')} (default: {f.default})" for f in dataclasses.fields(cls.Options)),
        f"not prepared: {how}",
    ]


def spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of `count` numbers, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def sheet(examples: Sequence[Example], info: DatasetInfo, columns: int = 2) -> np.ndarray:
    """Colour if any, depth (dark is small, the scale that of each image) and mask (red is unknown) of every example,
    (H, W, 3) uint8."""
    rows = max(TILE * e.depth.shape[0] / e.depth.shape[1] for e in examples)
    tiles = [_tiles(example, info, min(MOST_ROWS, max(1, round(rows)))) for example in examples]
    return grid([list(itertools.chain(*tiles[i : i + columns])) for i in range(0, len(tiles), columns)])


def _tiles(example: Example, info: DatasetInfo, rows: int) -> list[tuple[str, np.ndarray]]:
    values = example.depth[example.mask]
    low, high = np.percentile(values, [1, 99])
    known = np.where(example.mask[..., None], KNOWN, UNKNOWN)
    depth = depth_colours(example.depth, float(low), float(high), example.mask)
    share = 100 * example.mask.mean()
    if info.colour:
        span = f"{low:.4g} - {high:.4g} {info.unit}"
        tiles = [(example.name, example.guide), (span, depth), (f"{share:.1f} % known", known)]
    else:
        tiles = [(example.name, depth), (f"{low:.3g} - {high:.3g} {info.unit}, {share:.0f} % known", known)]
    return [(caption, _fit(picture, rows)) for caption, picture in tiles]


def _fit(picture: np.ndarray, rows: int) -> np.ndarray:
    """Fitted into a tile, with white beside or below it."""
    factor = min(rows / picture.shape[0], TILE / picture.shape[1])
    height, width = (max(1, round(n * factor)) for n in picture.shape[:2])
    kind = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    small = np.asarray(Image.fromarray(picture).resize((width, height), kind))
    return np.pad(small, ((0, rows - height), (0, TILE - width), (0, 0)), constant_values=255)
