"""Losses by pixel, and the difference of gradients; the training step sums them over what is known, divided once."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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


def _both_known(mask: Bool[Array, "b h w 1"]) -> tuple[Bool[Array, "b h w 1"], Bool[Array, "b h w 1"]]:
    """Whether a pixel and the one below it are known, and a pixel and the one to its right."""
    height, width = mask.shape[1:3]
    inner_row = (jnp.arange(height) < height - 1)[:, None, None]
    inner_column = (jnp.arange(width) < width - 1)[:, None]
    return mask & jnp.roll(mask, -1, 1) & inner_row, mask & jnp.roll(mask, -1, 2) & inner_column
