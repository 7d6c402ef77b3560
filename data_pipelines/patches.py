"""Training patches: where to cut them, and how, so that each is what cutting a degraded whole image would give."""

from typing import NamedTuple

import numpy as np

from data_pipelines.augment import rotated
from data_pipelines.datasets.base import Example
from data_pipelines.degrade import EDGE_STEP as EDGE_STEP
from data_pipelines.degrade import Degradation, margin, measure, times, truth

# Patches with less known depth than this are taken only where no position that is drawn offers more.
MIN_KNOWN = 0.5
# Positions drawn beyond the candidates, to replace those that are mostly unknown.
SPARE = 8


class EdgeTable(NamedTuple):
    """What is found out once about an image, so that cutting a patch reads no more than the patch.

    Attributes:
      edges, known: summed-area tables on the low-resolution grid: how many pixels are depth edges, and how many known.
        Both are (h + 1, w + 1) int32; the sum over rows a to b and columns c to d is
        t[b, d] - t[a, d] - t[b, c] + t[a, c].
      span: see `known_span`.
    """

    edges: np.ndarray
    known: np.ndarray
    span: np.ndarray


class Patch(NamedTuple):
    """One patch: LR arrays (h, w, 1), HR arrays (sh, sw, 1; guide: 3 or 0); depth in the data set's unit, guide uint8.

    `span` is of the whole image, see `known_span`.
    """

    depth_lr: np.ndarray
    guide: np.ndarray
    depth_hr: np.ndarray
    mask_lr: np.ndarray
    mask_hr: np.ndarray
    span: np.ndarray


def crop_to_multiple(example: Example, scale: int) -> Example:
    """Cuts rows at the bottom and columns at the right until `scale` divides both sizes (views, no copies)."""
    height, width = (n - n % scale for n in example.depth.shape)
    guide, depth, mask = (array[:height, :width] for array in example[:3])
    return Example(guide, depth, mask, example.name)


def known_span(example: Example) -> np.ndarray:
    """(2,) float32: the smallest and the largest known depth of an image, in its unit; of its filling if none is known.

    It is the truth's: a network that is given it knows what no sensor does.
    """
    depth = example.depth[example.mask] if example.mask.any() else example.depth
    return np.array([depth.min(), depth.max()], np.float32)


def edge_table(example: Example, scale: int, step: float) -> EdgeTable:
    """Counts an image's depth edges and known pixels once, so that any patch's count is four look-ups; and its span.

    Args:
      example: an image whose sizes are multiples of `scale`.
      scale: HR pixels per step of the table's grid.
      step: the difference to the pixel on the right or below, in the unit of the depth, above which there is an edge.
        One of the two pixels must be known: next to most edges of a disparity map there is a hole, but edges that
        the filling of holes has made inside them teach nothing.
    """
    depth, mask = example.depth, example.mask
    edge = np.zeros(depth.shape, bool)
    edge[:, :-1] |= (np.abs(np.diff(depth, axis=1)) > step) & (mask[:, 1:] | mask[:, :-1])
    edge[:-1] |= (np.abs(np.diff(depth, axis=0)) > step) & (mask[1:] | mask[:-1])

    def summed(flags: np.ndarray) -> np.ndarray:
        height, width = (n // scale for n in flags.shape)
        blocks = flags.reshape(height, scale, width, scale).sum(axis=(1, 3), dtype=np.int32)
        return np.pad(blocks, ((1, 0), (1, 0))).cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)

    return EdgeTable(summed(edge), summed(mask), known_span(example))


def choose(
    table: EdgeTable,
    size: tuple[int, int],
    scale: int,
    candidates: int,
    rng: np.random.Generator,
    *,
    border: tuple[int, int] = (0, 0),
) -> tuple[int, int]:
    """Draws where a patch begins, on the low-resolution grid.

    Args:
      table: of the image, on the grid of `scale`.
      size: (height, width) of the patch on the low-resolution grid; the image holds at least one such patch.
      scale: as for the table.
      candidates: how many positions are drawn; the one with the most depth edges wins. 1 is uniform.
      rng: where the positions come from.
      border: low-resolution samples between the patch and the image's border, above and below and at its sides, for
        which the image has room.

    Returns:
      `(top, left)` in low-resolution samples.
    """
    height, width = size
    limits = np.array(table.edges.shape) - np.array(size) - np.array(border)
    top, left = rng.integers(border, limits, (candidates + SPARE, 2)).T

    def count(sums: np.ndarray) -> np.ndarray:
        bottom, right = top + height, left + width
        return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]

    known = count(table.known)
    usable = np.flatnonzero(known >= MIN_KNOWN * height * width * scale**2)[:candidates]
    best = usable[np.argmax(count(table.edges)[usable])] if usable.size else np.argmax(known)
    return int(top[best]), int(left[best])


def cut(
    example: Example,
    top: int,
    left: int,
    size: tuple[int, int],
    scale: int,
    degradation: Degradation,
    depth_range: float,
    rng: np.random.Generator,
    flip_rows: bool = False,
    flip_columns: bool = False,
    transpose: bool = False,
    *,
    degrees: float = 0.0,
    span: np.ndarray | None = None,
) -> Patch:
    """Cuts a patch out of an image that is rotated, flipped and transposed first and degraded then.

    In this order the low-resolution depth is always the named degradation of the patch that is returned:
    `nearest_first` keeps taking the first sample of a block, where flipping a finished patch would make it the last,
    LiDAR lines stay rows, and the guide is displaced to the right.
    With `lr_from="image"` the degradation sees the image around the patch, so the patch is what cutting the degraded
    whole image gives, at the image's borders too, up to what `degrade.measure` leaves to chance.

    Args:
      example: an image whose sizes are multiples of `scale * degradation.reduce`.
      top, left, size: where, and (height, width), in low-resolution samples of the image as it is stored.
      scale, degradation: see `degrade`.
      depth_range: the data set's range, in its unit.
      rng: where the noise comes from.
      flip_rows, flip_columns, transpose: turn the image upside down, mirror it, exchange its rows and columns, in
        this order.
      degrees: rotates the image before that, counter-clockwise and about the middle of the patch. No more of it is made
        than the patch needs, so that `lidar_lines` would be those of another height.
      span: of the image, where `EdgeTable` has it; looked for in the whole image if not given.
    """
    span = known_span(example) if span is None else span
    step = scale * degradation.reduce
    height, width = size
    if degrees:
        beside = margin(degradation, step)
        around = (height + 2 * beside) * step, (width + 2 * beside) * step
        corner = (top - beside) * step, (left - beside) * step
        example = Example(*rotated(*example[:3], *corner, around, degrees), example.name)
        top = left = beside
    guide, depth, mask = example[:3]  # turned as views: nothing is copied but the patch
    if flip_rows:
        guide, depth, mask = guide[::-1], depth[::-1], mask[::-1]
        top = depth.shape[0] // step - height - top
    if flip_columns:
        guide, depth, mask = guide[:, ::-1], depth[:, ::-1], mask[:, ::-1]
        left = depth.shape[1] // step - width - left
    if transpose:
        guide, depth, mask = guide.swapaxes(0, 1), depth.T, mask.T
        top, left, height, width = left, top, width, height
    rows, columns = slice(top, top + height), slice(left, left + width)
    found = truth(guide, depth, mask, degradation, times(rows, scale), times(columns, scale))
    if degradation.lr_from == "patch":
        inside = times(rows, step), times(columns, step)
        measured = measure(depth[inside], mask[inside], step, degradation, depth_range, span, rng)
    else:
        measured = measure(depth, mask, step, degradation, depth_range, span, rng, rows, columns)
    return _patch(measured, found, span)


def whole(
    example: Example, scale: int, degradation: Degradation, depth_range: float, rng: np.random.Generator
) -> Patch:
    """A whole image as one patch; the arguments are those of `cut`.

    Raises:
      InputError: sizes that `scale` does not divide.
    """
    span, factor = known_span(example), degradation.reduce
    measured = measure(example.depth, example.mask, scale * factor, degradation, depth_range, span, rng)
    everything = (slice(0, n // factor) for n in example.depth.shape)
    return _patch(measured, truth(*example[:3], degradation, *everything), span)


def _patch(
    measured: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray, np.ndarray], span: np.ndarray
) -> Patch:
    depth_lr, mask_lr = measured
    guide, depth, mask = found
    return Patch(depth_lr[..., None], guide, depth[..., None], mask_lr[..., None], mask[..., None], span)
