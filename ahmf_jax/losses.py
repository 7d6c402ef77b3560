"""Losses by pixel, of gradients, and what stages are to make; the training step sums what is known, divided once."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ahmf_jax import resample

# A share of a pixel that is none, but for rounding: where a cubic kernel passes through 0.
_NO_SHARE = 1e-9


def l1(prediction: Float[Array, "*n"], target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """|x - y|, the paper's loss (Eq. 9)."""
    return jnp.abs(prediction - target)


def mse(prediction: Float[Array, "*n"], target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """(x - y)^2."""
    return jnp.square(prediction - target)


def charbonnier(prediction: Float[Array, "*n"], target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """sqrt((x - y)^2 + 1e-6): L1 with a smooth minimum (Charbonnier et al., ICIP 1994)."""
    return jnp.sqrt(jnp.square(prediction - target) + 1e-6)


LOSSES: dict[str, Callable[..., Array]] = {"l1": l1, "mse": mse, "charbonnier": charbonnier}


def edge_mask(mask: Bool[Array, "b h w 1"]) -> Int[Array, "b h w 1"]:
    """How many forward differences start at a pixel, 0 to 2: down and to the right, where both pixels are known."""
    down, right = _both_known(mask)
    return down.astype(jnp.int32) + right.astype(jnp.int32)


def edge_values(
    prediction: Float[Array, "b h w 1"], target: Float[Array, "b h w 1"], mask: Bool[Array, "b h w 1"]
) -> Float[Array, "b h w 1"]:
    """|grad prediction - grad target|, the sum over the differences that `edge_mask` counts at each pixel.

    The loss on depth edges is their sum, divided once by the sum of `edge_mask`. What stands in holes has no influence,
    not even on the gradient.
    """
    # The gradient is linear, so that of the error is the difference. Zero in holes, so that no NaN is carried on.
    error = jnp.where(mask, prediction - target, 0.0)
    down, right = _both_known(mask)
    # Whole maps turned by a pixel: where the height is split over devices, a row goes to the neighbour, and no more.
    return jnp.where(down, jnp.abs(jnp.roll(error, -1, 1) - error), 0.0) + jnp.where(
        right, jnp.abs(jnp.roll(error, -1, 2) - error), 0.0
    )


def stage_truths(
    truth: Float[Array, "b H W 1"], mask: Bool[Array, "b H W 1"], sizes: Sequence[tuple[int, ...]], kernel: str
) -> list[tuple[Float[Array, "b h w 1"], Bool[Array, "b h w 1"]]]:
    """What stages of these sizes, (height, width), are to make: the truth, resampled by a kernel of `resample.KERNELS`.

    With each its mask: a pixel is known where every pixel that it is made of is. That is stricter than a sensor's low
    resolution, for which holes are filled and half of a block is enough: what was filled is to teach nothing here, and
    what stands in holes has no influence on what is known.
    """
    filled, holes = jnp.where(mask, truth, 0.0), (~mask).astype(jnp.float32)
    return [(resample.resize(filled, (h, w), kernel), _reached(holes, (h, w), kernel) == 0) for h, w in sizes]


def _reached(image: Float[Array, "b H W 1"], size: tuple[int, int], kernel: str) -> Float[Array, "b h w 1"]:
    """The sum over all that a pixel of the resampled image is made of."""
    for axis, length in zip((1, 2), size, strict=True):
        made_of = np.abs(resample.matrix(image.shape[axis], length, kernel)) > _NO_SHARE
        image = jnp.moveaxis(jnp.tensordot(image, made_of.astype(np.float32), ((axis,), (1,))), -1, axis)
    return image


def _both_known(mask: Bool[Array, "b h w 1"]) -> tuple[Bool[Array, "b h w 1"], Bool[Array, "b h w 1"]]:
    """Whether a pixel and the one below it are known, and a pixel and the one to its right."""
    height, width = mask.shape[1:3]
    inner_row = (jnp.arange(height) < height - 1)[:, None, None]
    inner_column = (jnp.arange(width) < width - 1)[:, None]
    return mask & jnp.roll(mask, -1, 1) & inner_row, mask & jnp.roll(mask, -1, 2) & inner_column
