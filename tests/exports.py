"""What the tests of exported models share: a small trained model, images in its unit, and what it makes of them."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF
from ahmf_jax.scaling import MIN_SPAN
from ahmf_jax.state import init_params

RANGE = 10.0


def trained(scaling: Any = "range", guide_channels: int = 3, **fields: Any) -> Trained:
    """Random weights, for depth in metres: a layer's outputs are about as large as its inputs, so that each counts."""
    model = AHMF(**{"scale": 4, "num_levels": 2, "features": 4, **fields})
    shapes = jax.eval_shape(functools.partial(init_params, model, guide_channels=guide_channels))
    rng = np.random.default_rng(0)

    def random(x: Any) -> np.ndarray:
        inputs = math.prod(x.shape[-4:-1]) if x.ndim >= 4 else 25  # of a kernel; biases and slopes are small
        return rng.normal(0, inputs**-0.5, x.shape).astype(x.dtype)

    params = jax.tree.map(random, shapes)
    return Trained(model, params, scaling, "m", RANGE, "a test", {"dataset": "scenes"}, {"mae": 0.5})


def images(of: Trained, batch: int, height: int, width: int, guide_channels: int = 3) -> tuple[Any, Any]:
    """Depth in metres, (B, h, w, 1), and a guide."""
    rng, scale = np.random.default_rng(0), of.model.scale
    guide = rng.random((batch, scale * height, scale * width, guide_channels), np.float32)
    return rng.uniform(2, 8, (batch, height, width, 1)).astype(np.float32), guide


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: AHMF, params: Any, depth: Any, guide: Any) -> Any:
    return model.apply({"params": params}, depth, guide)[0]


def super_resolved(of: Trained, depth: Any, guide: Any) -> Any:
    """In metres, by the network itself: the scaling is written out once more."""
    low, high = 0.0, RANGE
    if of.scaling == "sample":
        low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
    span = np.maximum(high - low, RANGE * MIN_SPAN)
    return np.asarray(_apply(of.model, of.params, jnp.asarray((depth - low) / span), jnp.asarray(guide)) * span + low)
