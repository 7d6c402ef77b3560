"""`ahmf data show` and `ahmf data list`: what a data set is, and a sheet of its images to look at."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import DatasetInfo, Example, Prepared
from experiments.pictures import depth_colours, grid

# Rows and columns of one picture on the sheet.
TILE = (176, 220)
KNOWN, UNKNOWN = np.array([222, 222, 222], np.uint8), np.array([176, 24, 24], np.uint8)


def listed(data_dir: Path) -> Iterator[str]:
    """A line for every data set that can be prepared, and for every one that is prepared under a name of its own."""
    prepared = datasets.prepared_names(data_dir)
    for name in datasets.DATASETS:
        cls = datasets.builder_class(name)
        info = cls.INFO
        there = "prepared" if name in prepared else "generated when asked for" if not cls.FROM_FILES else "not prepared"
        summary = " ".join((cls.__doc__ or "").split()).split(". ")[0].rstrip(".")
        yield f"{name} ({there}): {summary}. Depth in {info.unit}, range {info.range:g}"
    for name in prepared:
        if name not in datasets.DATASETS:
            one = datasets.describe(name, data_dir)
            yield f"{name} (prepared from {one.builder}): depth in {one.info.unit}, range {one.info.range:g}"


def stated(info: DatasetInfo) -> list[str]:
    """What a data set states of itself."""
    unknown = "NaN and infinity" if info.invalid is None else f"{info.invalid:g}, NaN and infinity"
    lines = [
        f"unit      {info.unit}",
        f"range     {info.range:g} {info.unit} count as 1",
        f"unknown   {unknown}; holes are filled from: {info.fill}",
        f"licence   {info.licence}",
    ]
    lines += [f"cite      {info.citation}"] if info.citation else []
    return lines + ([f"from      {info.url}"] if info.url else [])


def counted(prepared: Prepared) -> list[str]:
    """Images, sizes, depth and holes of every split, as a table, and the published splits."""
    header = f"{'split':14} {'images':>7}  {'height x width':24} {'depth (' + prepared.info.unit + ')':24} holes"
    return [header, *(_row(split, examples) for split, examples in prepared.splits.items())]


def _row(split: str, examples: Sequence[dict[str, Any]]) -> str:
    sizes = sorted({(e["height"], e["width"]) for e in examples})
    size = " - ".join(f"{height} x {width}" for height, width in dict.fromkeys((sizes[0], sizes[-1])))
    low, high = min(e["low"] for e in examples), max(e["high"] for e in examples)
    middle = float(np.median([e["median"] for e in examples]))
    holes = np.array([1 - e["known"] for e in examples])
    worst = examples[int(holes.argmax())]["name"]
    unknown = "none"
    if holes.any():
        share, most = 100 * holes.mean(), 100 * holes.max()
        unknown = f"{share:.2f} % of the pixels, in {(holes > 0).sum()} images, up to {most:.1f} % ({worst})"
    return f"{split:14} {len(examples):7}  {size:24} {f'{low:.4g} - {high:.4g}, median {middle:.4g}':24} {unknown}"


def show(name: str, data_dir: Path, split: str | None, images: int, out: Path) -> Iterator[str]:
    """Describes a data set line by line, and writes a contact sheet where it is prepared.

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
        cls = datasets.builder_class(name)
        yield f"{name}: {' '.join((cls.__doc__ or '').split())}"
        yield from stated(cls.INFO)
        for field in dataclasses.fields(cls.Options):
            yield f"option    --{field.name.replace('_', '-')} (default: {field.default})"
        yield f"not prepared: `ahmf data prepare {name}{' --from DIR' if cls.FROM_FILES else ''}` builds it"
        return
    prepared = datasets.describe(name, data_dir)
    chosen = ", ".join(f"{key} {value}" for key, value in prepared.options.items())
    yield f"{name}: prepared from {prepared.builder} {prepared.version}{', ' + chosen if chosen else ''}"
    yield from stated(prepared.info)
    yield from (f"note      {note}" for note in prepared.notes)
    yield ""
    yield from counted(prepared)
    published = prepared.named_splits()
    if published:
        yield f"\npublished splits: {', '.join(published)}"
    dataset = datasets.open_dataset(name, split or "+".join(prepared.splits), data_dir)
    from data_pipelines.files import write_picture

    write_picture(out, sheet([dataset[int(i)] for i in spread(len(dataset), images)], prepared.info))
    yield f"\n{out}: colour, depth and mask (red is unknown) of {min(images, len(dataset))} images"


def spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of `count` numbers, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def sheet(examples: Sequence[Example], info: DatasetInfo, columns: int = 2) -> np.ndarray:
    """Colour, depth (dark is small, the scale that of each image) and mask (red is unknown) of every example, (H, W, 3)
    uint8."""
    tiles = [_tiles(example, info) for example in examples]
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return grid([[picture for tile in row for picture in tile] for row in rows])


def _tiles(example: Example, info: DatasetInfo) -> list[tuple[str, np.ndarray]]:
    values = example.depth[example.mask]
    low, high = np.percentile(values, [1, 99])
    known = np.where(example.mask[..., None], KNOWN, UNKNOWN)
    depth = depth_colours(example.depth, float(low), float(high), example.mask)
    captions = (example.name, f"{low:.4g} - {high:.4g} {info.unit}", f"{100 * example.mask.mean():.1f} % known")
    return [(c, _shrink(p)) for c, p in zip(captions, (example.guide, depth, known), strict=True)]


def _shrink(picture: np.ndarray) -> np.ndarray:
    """Fitted into a tile, with white beside or below it."""
    factor = min(TILE[0] / picture.shape[0], TILE[1] / picture.shape[1])
    height, width = (max(1, round(n * factor)) for n in picture.shape[:2])
    kind = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    small = np.asarray(Image.fromarray(picture).resize((width, height), kind))
    return np.pad(small, ((0, TILE[0] - height), (0, TILE[1] - width), (0, 0)), constant_values=255)
