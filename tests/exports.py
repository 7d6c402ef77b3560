"""What the tests of exported models share: a small trained model, images in its unit, and what it makes of them."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahmf_jax import unet
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF, DADA, DSCSAN, DSDMSR, Model
from ahmf_jax.scaling import MIN_SPAN, TINY
from ahmf_jax.state import init_params
from ahmf_jax.variables import split

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


def dada(scaling: Any = "largest", **fields: Any) -> Trained:
    """A DADA of few iterations, with random weights if it learns, by which each layer's outputs keep their size."""
    fields = {"scale": 4, "encoder": "resnet18", "channels": 5, "iterations": 9, "gradient_iterations": 2, **fields}
    model = DADA(**fields)
    shapes = jax.eval_shape(functools.partial(init_params, model))
    rng = np.random.default_rng(0)

    def draw(path: Any, x: Any) -> np.ndarray:
        name, value = path[-1].key, rng.normal(0, 0.1, x.shape)
        if name == "kernel":
            value = rng.normal(0, (2 / math.prod(x.shape[:-1])) ** 0.5, x.shape)
        elif name == "log_contrast":
            value = np.log(0.3)
        elif name in ("scale", "var"):
            value = rng.uniform(0.7, 1.3, x.shape)
        return np.asarray(value, np.float32)

    return Trained(model, jax.tree_util.tree_map_with_path(draw, shapes), scaling, "m", RANGE, "a test")


def dsdmsr(scaling: Any = "range", **fields: Any) -> Trained:
    """A DSDMSR with random weights, by which each layer's outputs are about as large as its inputs."""
    return _depth_only(DSDMSR(**fields), scaling)


def dscsan(scaling: Any = "range", **fields: Any) -> Trained:
    """A small DSCSAN with such weights."""
    return _depth_only(DSCSAN(**{"scale": 4, "groups": 1, "blocks": 2, "features": 4, **fields}), scaling)


def _depth_only(model: Model, scaling: Any) -> Trained:
    shapes = jax.eval_shape(functools.partial(init_params, model))
    rng = np.random.default_rng(0)

    def draw(path: Any, x: Any) -> np.ndarray:
        spread = math.prod(x.shape[-4:-1]) ** -0.5 if path[-1].key == "kernel" else 0.2
        return rng.normal(0, spread, x.shape).astype(x.dtype)

    return Trained(model, jax.tree_util.tree_map_with_path(draw, shapes), scaling, "m", RANGE, "a test")


@contextlib.contextmanager
def narrow_unet() -> Iterator[None]:
    """The U-Net with half of ResNet-18's blocks, an eighth as wide: compiling is what tests spend their time on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.LAYERS, "resnet18", (1, 1, 1, 1))
        patch.setattr(unet, "STEM", 8)
        patch.setattr(unet, "DECODER", (16, 12, 8, 8, 8))
        yield


def images(of: Trained, batch: int, height: int, width: int, guide_channels: int = 3) -> tuple[Any, Any]:
    """Depth in metres, (B, h, w, 1), and a guide."""
    rng, scale = np.random.default_rng(0), of.model.scale
    guide = rng.random((batch, scale * height, scale * width, guide_channels), np.float32)
    return rng.uniform(2, 8, (batch, height, width, 1)).astype(np.float32), guide


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: Model, params: Any, depth: Any, guide: Any) -> Any:
    return model.apply(split(params), depth, guide)[0]


def super_resolved(of: Trained, depth: Any, guide: Any) -> Any:
    """In metres, by the network itself: the scaling is written out once more."""
    low: Any = 0.0
    high: Any = RANGE
    if of.scaling in ("sample", "largest"):
        high = depth.max((1, 2, 3), keepdims=True)
    if of.scaling == "sample":
        low = depth.min((1, 2, 3), keepdims=True)
    span = np.maximum(high - low, RANGE * (TINY if of.scaling == "largest" else MIN_SPAN))
    return np.asarray(_apply(of.model, of.params, jnp.asarray((depth - low) / span), jnp.asarray(guide)) * span + low)
