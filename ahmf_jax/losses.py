"""Elementwise losses and their masked mean."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


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


def masked_mean(values: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """The mean over the elements where `mask` is True; 0 where none is, so that a batch of holes trains nothing."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
