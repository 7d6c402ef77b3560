"""Second-order statistics of feature maps on nested grids: what channels have in common, within a scale and across two.

A grid's places are cells of pixels, the finest grid's the pixels themselves. What a finer map has in common with a
coarser one is taken on the coarser one's grid. All of it is float32 at least, and no matrix is larger than channels by
channels.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ahmf_jax.layers import whole, within

# Added to a trace, by which is divided: that of a constant map is 0.
TINY_TRACE = 1e-6
# Of Newton and Schulz, as in MPN-COV (Li et al., CVPR 2018) and SAN (Dai et al., CVPR 2019).
ITERATIONS = 5

Image = Float[Array, "b h w c"]
Size = Int[Array, "2"]  # rows and columns
Region = Int[Array, "4"]  # top, bottom, left, right
# Of a grid, as `ahmf_jax.tiles.joined` has them: `count` (1, 1) of its places; of the channels of all maps on it, those
# of the grid's own map last, the `mean` (B, n), and the `covariance` (B, n, c) with the own.
Moments = dict[str, Float[Array, "..."]]


def pooled(x: Image, cell: int, size: Size | None = None) -> Float[Array, "b i j c"]:
    """Averages over cells of `cell` x `cell` places, (B, ceil(h / cell), ceil(w / cell), c).

    A cell that is not full, at the right or lower border, is averaged over what of it is there.

    Args:
      x: maps of any size.
      cell: side of a cell, a power of 2.
      size: the rows and columns of `x` that are there, where the rest is padding; all by default.
    """
    if cell == 1:
        return x
    if size is not None:
        x = jnp.where(within(x, whole(size)), x, 0)
    total = x
    # By halves: so grids that are nested are seen to agree also where sizes are symbols (`jax.export`).
    for _ in range(cell.bit_length() - 1):
        beyond = [(0, 0), (0, 1), (0, 1), (0, 0)]
        total = lax.reduce_window(total, np.zeros((), x.dtype), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), beyond)
    rows, columns = (
        jnp.clip(length - cell * jnp.arange(cells), 1, cell)
        for length, cells in zip(x.shape[1:3] if size is None else size, total.shape[1:3], strict=True)
    )
    return total / (rows[:, None] * columns)[..., None].astype(x.dtype)


def cells_of(part: Array, cell: int) -> Array:
    """The cells that a size or a part of a map touches, where the part begins with a cell."""
    return -(-part // cell)


def gathered(
    maps: Sequence[Float[Array, "b _ _ c"]], cells: Sequence[int], size: Size | None = None, part: Region | None = None
) -> tuple[Moments, ...]:
    """The moments of every grid.

    Args:
      maps: a map on each grid, finest first, all of as many channels.
      cells: sides of the grids' cells in pixels, each a multiple of the one before.
      size: the rows and columns of pixels that are there; all by default.
      part: of the pixels, those that count; it begins with a cell of the coarsest grid. All that are there by default.
    """
    if part is None and size is not None:
        part = whole(size)
    found = []
    for own, cell in enumerate(cells):
        finer = [
            pooled(x, cell // c, None if size is None else cells_of(size, c))
            for x, c in zip(maps[: own + 1], cells, strict=False)
        ]
        x = jnp.concatenate(finer, -1)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if part is None:
            count = jnp.full((1, 1), x.shape[1] * x.shape[2], jnp.float32)
            mean = jnp.mean(x, (1, 2))
            centred = x - mean[:, None, None]
        else:
            there = within(x, cells_of(part, cell))
            count = jnp.sum(there, dtype=jnp.float32)[None, None]
            mean = jnp.sum(jnp.where(there, x, 0), (1, 2)) / count
            centred = jnp.where(there, x - mean[:, None, None], 0)
        channels = maps[own].shape[-1]
        product = jnp.einsum("bhwm,bhwn->bmn", centred, centred[..., -channels:], precision="highest")
        found.append({"count": count, "mean": mean, "covariance": product / count})
    return tuple(found)


def correlations(moments: Sequence[Moments], channels: int) -> list[list[Float[Array, "b c c"]]]:
    """For every pair of grids, what a channel of the first has in common with those of the second.

    Within a grid the square root of the covariance (`square_root`); across two the covariance over the root of the
    product of both grids' traces.
    """
    scales = range(len(moments))
    covariance = [m["covariance"].reshape(m["mean"].shape[0], -1, channels, channels) for m in moments]
    traces = [jnp.trace(covariance[k][:, k], axis1=1, axis2=2) + TINY_TRACE for k in scales]

    def between(k: int, other: int) -> Float[Array, "b c c"]:
        if k == other:
            return square_root(covariance[k][:, k])
        if k > other:
            return between(other, k).swapaxes(1, 2)
        return covariance[other][:, k] / jnp.sqrt(traces[k] * traces[other])[:, None, None]

    return [[between(k, other) for other in scales] for k in scales]


def square_root(matrix: Float[Array, "*b n n"], iterations: int = ITERATIONS) -> Float[Array, "*b n n"]:
    """About the square root of positive semi-definite matrices, by the iteration of Newton and Schulz.

    The matrix is divided by its trace, so that the iteration converges, and the result multiplied by the trace's root.
    More iterations come nearer to it, small eigenvalues last; there is no eigendecomposition, whose gradient is not
    finite where two eigenvalues agree.
    """
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    trace = jnp.trace(matrix, axis1=-2, axis2=-1)[..., None, None] + TINY_TRACE

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest")

    y: Any = matrix / trace
    z: Any = jnp.broadcast_to(identity, matrix.shape)
    for _ in range(iterations):
        half = (3 * identity - product(z, y)) / 2
        y, z = product(y, half), product(half, z)
    return y * jnp.sqrt(trace)
