"""Unknown depth: what to put there so that a filter or a network can run over it. NumPy and SciPy only."""

from typing import Literal, get_args

import numpy as np

from ahmf_jax.errors import InputError

Fill = Literal["nearest", "background", "far"]


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
