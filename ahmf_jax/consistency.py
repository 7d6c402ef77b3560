"""Agreement with the sensor: the mean of the result over each of its samples' areas is that sample."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from ahmf_jax import strips


def make_consistent(
    depth_hr: Float32[np.ndarray, "H W"], depth_lr: Float32[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]
) -> None:
    """Changes a result, in place and as little as can be, until its means over the known samples' areas are they.

    With D the matrix of these means, it adds D^T (D D^T)^-1 (depth_lr - D depth_hr): of all changes that do it, the one
    of the smallest squares. At whole factors that adds to each block what its mean is off, DADA's adjustment (Metzger
    et al., CVPR 2023) as a sum where theirs is a product: a sum needs no positive depth, and does the same in any
    unit. At other factors a pixel at a border belongs to both samples in parts, and D D^T is a band along each axis.
    Where a sample is unknown, the mean stays what it was.

    What remains, in float32, is below 1e-6 of the largest depth. Rounding to whole numbers comes later, and moves a
    block's mean by at most half of one.

    Args:
      depth_hr: H > h and W > w.
      depth_lr: the sensor's, in the same unit, finite.
      known: False where `depth_lr` is a filling.
    """
    size = depth_hr.shape
    rows, columns = (strips.weights(after, n, "area") for after, n in zip(size, depth_lr.shape, strict=True))
    off = np.where(known, depth_lr - _apply(rows, columns, depth_hr), 0).astype(np.float64)
    off = _solve(columns, _solve(rows, off).T).T.astype(np.float32)
    for which, change in strips.separable(rows.T.tocsr(), columns.T.tocsr(), off):
        depth_hr[which] += change


def residual(depth_hr: np.ndarray, depth_lr: np.ndarray, known: np.ndarray) -> float:
    """How far the mean over a known sample's area is off at most, in the unit of both; see `make_consistent`."""
    rows, columns = (strips.weights(after, n, "area") for after, n in zip(depth_hr.shape, depth_lr.shape, strict=True))
    return float(np.abs(np.where(known, depth_lr - _apply(rows, columns, depth_hr), 0)).max())


def _apply(rows: Any, columns: Any, x: np.ndarray) -> np.ndarray:
    result = np.empty((rows.shape[0], columns.shape[0]), np.float32)
    for which, values in strips.separable(rows, columns, x):
        result[which] = values
    return result


def _solve(weights: Any, x: np.ndarray) -> np.ndarray:
    """(D D^T)^-1 x along the first axis. Only neighbouring rows of D overlap: the matrix has three diagonals."""
    from scipy.linalg import solveh_banded

    gram = weights.astype(np.float64) @ weights.astype(np.float64).T
    bands = np.zeros((2, len(x)))
    bands[0] = gram.diagonal()
    bands[1, :-1] = gram.diagonal(-1)
    return solveh_banded(bands, x, lower=True, check_finite=False)
