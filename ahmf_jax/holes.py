"""Unknown depth: what to put there so that a filter or a network can run over it. NumPy and SciPy only."""

from typing import Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ahmf_jax.errors import InputError

Fill = Literal["nearest", "background", "far"]

# Of `fill_by_colour`: the window reaches REACH samples to each side; how fast a sample loses its say with distance, in
# samples, and with difference in colour, in 8-bit levels: of those tried, these did best (docs/sensors.md).
REACH, NEARBY, ALIKE = 5, 1.5, 12.0
HOLES_AT_ONCE = 2**12


def fill_holes(depth: np.ndarray, mask: np.ndarray, method: Fill = "nearest") -> np.ndarray:
    """Puts plausible values where depth is unknown, so that it can be resampled; the mask still says where.

    Args:
      depth: (H, W); what stands in the holes is not read.
      mask: (H, W) bool, True where known.
      method: "nearest": the nearest known sample. "background", for disparity: holes beside an object are mostly what
        one camera did not see, the background; each is filled along its row from the neighbour with the smaller value,
        and rows without a known sample from the nearest row. "far": the same for depth, where the background has the
        larger value.

    Returns:
      (H, W) float32.

    Raises:
      InputError: nothing is known, or an unknown method.
    """
    if method not in get_args(Fill):
        raise InputError(f"fill method {method!r} is not known: choose one of {', '.join(get_args(Fill))}")
    if not mask.any():
        raise InputError("the depth map has no known sample at all: nothing can fill its holes")
    if method == "far":
        return -fill_holes(-np.where(mask, depth, 0).astype(np.float32), mask, "background")
    depth = np.where(mask, depth, 0).astype(np.float32)
    if mask.all():
        return depth
    if method == "background":
        column = np.arange(depth.shape[1])
        before = np.maximum.accumulate(np.where(mask, column, -1), axis=1)
        after = np.minimum.accumulate(np.where(mask, column, depth.shape[1])[:, ::-1], axis=1)[:, ::-1]
        # One more column on the right stands for "no neighbour on this side"; index -1 finds it as well.
        padded = np.pad(depth, ((0, 0), (0, 1)), constant_values=np.inf)
        filled = np.minimum(np.take_along_axis(padded, before, 1), np.take_along_axis(padded, after, 1))
        depth = np.where(mask, depth, filled)
        mask = np.isfinite(depth)
    from scipy import ndimage  # slow to import, and most data sets need it never

    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return depth[tuple(nearest)]


def fill_by_colour(depth: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Fills each hole with the depth of what is near it and of its colour.

    A hole takes the weighted median of the known samples in a window about it, which makes no depth that none of them
    has; the weights are Gaussians of distance and of difference in colour. Holes further from known samples than the
    window reaches come after those that are not, and read what those were filled with.

    Args:
      depth: (h, w); what stands in the holes is not read.
      mask: (h, w) bool, True where known.
      colour: (h, w, C) float32, in 8-bit levels.

    Returns:
      (h, w) float32.

    Raises:
      InputError: nothing is known.
    """
    if not mask.any():
        raise InputError("the depth map has no known sample at all: nothing can fill its holes")
    depth = np.where(mask, depth, 0).astype(np.float32)
    if mask.all():
        return depth
    from scipy import ndimage  # slow to import, and maps without holes need it never

    side = 2 * REACH + 1
    border = ((REACH, REACH), (REACH, REACH))
    colours = sliding_window_view(np.pad(colour, (*border, (0, 0)), mode="edge"), (side, side), (0, 1))
    away = np.hypot(*np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]) / NEARBY
    while not mask.all():
        values = sliding_window_view(np.pad(depth, border), (side, side))
        known = sliding_window_view(np.pad(mask, border), (side, side))
        holes = np.argwhere(~mask & ndimage.maximum_filter(mask, side))
        depth, mask = depth.copy(), mask.copy()
        for start in range(0, len(holes), HOLES_AT_ONCE):
            y, x = holes[start : start + HOLES_AT_ONCE].T
            unlike = ((colours[y, x] - colour[y, x, :, None, None]) ** 2).sum(1) / np.float32(ALIKE**2)
            cost = np.where(known[y, x], unlike + away.astype(np.float32) ** 2, np.inf).reshape(len(y), -1)
            weight = np.exp((cost.min(1, keepdims=True) - cost) / 2)  # of the best sample 1: it is never all zeros
            order = values[y, x].reshape(len(y), -1).argsort(1)
            share = np.take_along_axis(weight, order, 1).cumsum(1)
            middle = (share < share[:, -1:] / 2).sum(1, keepdims=True)
            at = np.take_along_axis(order, middle, 1)
            depth[y, x] = np.take_along_axis(values[y, x].reshape(len(y), -1), at, 1)[:, 0]
            mask[y, x] = True
    return depth
