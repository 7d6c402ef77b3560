"""Factors other than the one that a model was trained for, by way of the one it was."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Num

from ahmf_jax import strips

# Of the maps in between, which the network reads: the antialiased kernel by which its training data was made small.
BETWEEN_KERNEL = "matlab_bicubic"
# Of what comes out: the mean over the area of each pixel.
LAST_KERNEL = "area"

Network = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def super_resolve(
    network: Network,
    scale: int,
    depth: Float32[np.ndarray, "b h w"],
    known: Bool[np.ndarray, "b h w"],
    guide: Num[np.ndarray, "b H W c"],
    size: tuple[int, int],
    kernel: str = LAST_KERNEL,
) -> Float32[np.ndarray, "b H2 W2"]:
    """A depth map at any size above its own, by a network of one scale.

    Up to the network's scale: the guide is resampled to the network's size, and the result shrunk, so that no sample of
    the sensor is lost. Beyond: the map of 1 / scale of the size is made first, by this function, and the network makes
    the last step, so that the last thing that shapes an edge is the guide in full. Enlarging either end by
    interpolation instead was worse in all that was measured (`docs/sensors.md`).

    Args:
      network: depth, known and guide to the depth at scale times the size.
      scale: the network's.
      depth: in units of the range, holes filled.
      known: where it is no filling.
      guide: of any size; (b, H, W) sees the same field as (b, h, w).
      size: (height, width) of the result.
      kernel: by which a result that is too large is shrunk.
    """
    own = (scale * depth.shape[1], scale * depth.shape[2])
    if size[0] > own[0] or size[1] > own[1]:
        before = (math.ceil(size[0] / scale), math.ceil(size[1] / scale))
        depth = super_resolve(network, scale, depth, known, guide, before, BETWEEN_KERNEL)
        known = nearest(known, before)
        own = (scale * before[0], scale * before[1])
    return strips.resize(network(depth, known, strips.resize_guide(guide, own)), size, kernel)


def nearest(known: Bool[np.ndarray, "*b h w"], size: tuple[int, int]) -> Bool[np.ndarray, "*b H W"]:
    """A mask at another size: that of the sample under each pixel's centre."""
    rows, columns = (
        ((2 * np.arange(after) + 1) * before) // (2 * after)
        for before, after in zip(known.shape[-2:], size, strict=True)
    )
    return known[..., rows[:, None], columns]
