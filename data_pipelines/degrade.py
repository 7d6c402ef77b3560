"""From a high-resolution depth map to the low-resolution one that a sensor would have given.

The kernels are those of `ahmf_jax.resample`, by name. Holes travel along: a mask says which samples are known, in
both resolutions.
"""

import functools

import numpy as np

from ahmf_jax import resample
from ahmf_jax.errors import InputError

# Rounding must not turn a block that is exactly half known, or a sample with one known part in 32 x 32, around.
_SLACK = 1e-5


def degrade(
    depth: np.ndarray,
    mask: np.ndarray,
    scale: int,
    kernel: str,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks a depth map and its mask by a whole factor.

    Args:
      depth: (H, W) floating point, any unit, holes filled (see `ahmf_jax.holes`). H and W are multiples of `scale`.
      mask: (H, W) bool, True where the depth is known.
      scale: the factor, at least 1.
      kernel: one of `resample.KERNELS`.
      rows, columns: the part of the low-resolution map that is wanted. It is what cutting the whole result would
        give, up to the rounding of float32, but only the samples it depends on are read.

    Returns:
      `(depth_lr, mask_lr)`, both (h, w), float32 in the same unit and bool:
      `area` is the mean of the known samples of each block, known where there is one; `nearest_*` takes a sample and
      its mask; the bicubic kernels weigh filled samples like known ones, and the result counts as known where at
      least half of the block is.

    Raises:
      InputError: an unknown kernel, or sizes that `scale` does not divide.
    """
    height, width = depth.shape
    if scale < 1 or height % scale or width % scale:
        raise InputError(f"scale {scale} does not divide {height} x {width}: crop the image to a multiple of it")
    size = (height // scale, width // scale)
    rows, columns = (slice(*part.indices(n)[:2]) for part, n in zip((rows, columns), size, strict=True))

    def shrink(values: np.ndarray, kernel: str, only: np.ndarray | None = None) -> np.ndarray:
        top, vertical = _weights(height, scale, kernel, rows.start, rows.stop)
        left, horizontal = _weights(width, scale, kernel, columns.start, columns.stop)
        part = slice(top, top + vertical.shape[1]), slice(left, left + horizontal.shape[1])
        read = values[part] if only is None else np.where(only[part], values[part], 0)
        return vertical @ read.astype(np.float32) @ horizontal.T

    depth_lr = shrink(depth, kernel)
    if kernel == "area":
        known = shrink(mask, "area")
        mask_lr = known > _SLACK
        # Where a whole block is unknown, the mean of what fills it stays.
        return np.where(mask_lr, shrink(depth, "area", only=mask) / np.where(mask_lr, known, 1), depth_lr), mask_lr
    known = shrink(mask, kernel if kernel.startswith("nearest") else "area")
    return depth_lr, known >= 0.5 - _SLACK


@functools.lru_cache(maxsize=4096)
def _weights(size: int, scale: int, kernel: str, start: int, stop: int) -> tuple[int, np.ndarray]:
    """Rows `start` to `stop` of the kernel's matrix, cut to the samples they read: (first sample, float32 weights)."""
    rows = resample.matrix(size, size // scale, kernel)[start:stop]
    used = np.flatnonzero(rows.any(axis=0))
    first, last = (used[0], used[-1] + 1) if used.size else (0, 0)
    return int(first), rows[:, first:last].astype(np.float32)


def add_noise(depth_lr: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """clip(depth_lr + N(0, sigma), 0, 1): the noise of the literature's "noisy" tables (AHMF, Table II).

    Args:
      depth_lr: any shape, depth divided by the data set's range.
      sigma: standard deviation in the same unit, so 5 grey levels of 255 are 5 / 255. At 0 nothing is changed or
        clipped.
      rng: where the noise comes from.

    Returns:
      Same shape, float32.
    """
    if sigma == 0:
        return depth_lr.astype(np.float32, copy=False)
    noise = rng.standard_normal(depth_lr.shape, np.float32) * np.float32(sigma)
    return np.clip(depth_lr + noise, 0, 1, dtype=np.float32)
