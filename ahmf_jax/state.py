"""The state of a training run: shapes first, then shardings, then numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from ahmf_jax.errors import InputError
from ahmf_jax.losses import LOSSES
from ahmf_jax.scaling import Scaling
from ahmf_jax.sharding import replicated


class TrainState(struct.PyTreeNode):
    """Everything that a training step changes, and, as static fields, how it changes it."""

    step: Any  # () int32; like every leaf also what describes it, a shape or a sharding, in a tree of those
    params: Any
    opt_state: Any
    model: nn.Module = struct.field(pytree_node=False)
    optimiser: optax.GradientTransformation = struct.field(pytree_node=False)
    loss: str = struct.field(pytree_node=False, default="l1")
    scaling: Scaling = struct.field(pytree_node=False, default="range")


def init_params(model: Any, seed: int = 0, guide_channels: int = 3, output_scale: float = 1.0) -> Any:
    """Random parameters.

    Args:
      model: the module; its `scale` sets the guide's size.
      seed: of the random numbers.
      guide_channels: of the guide.
      output_scale: factor on the last convolution. At 1 a new AHMF starts grey levels away from the
        bicubic up-sampling that it is to refine, and spends hundreds of steps on coming back; at 0 it
        starts exactly there and hardly leaves.
    """
    depth_lr = jnp.zeros((1, 2, 2, 1))
    guide = jnp.zeros((1, 2 * model.scale, 2 * model.scale, guide_channels))
    params = model.init(jax.random.key(seed), depth_lr, guide)["params"]
    output = jax.tree.map(lambda x: output_scale * x, params["reconstruction"]["output"])
    return {**params, "reconstruction": {**params["reconstruction"], "output": output}}


def create_state(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    *,
    loss: str = "l1",
    scaling: Scaling = "range",
    seed: int = 0,
    output_scale: float = 1.0,
    abstract: bool = False,
) -> TrainState:
    """A new state on `mesh`, or, with `abstract`, only its shapes, dtypes and shardings (what a restore needs)."""
    if loss not in LOSSES:
        raise InputError(f"loss {loss!r} is not one of {', '.join(LOSSES)}")

    def build() -> TrainState:
        params = init_params(model, seed, output_scale=output_scale)
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, optimiser.init(params), model, optimiser, loss, scaling)

    shapes = jax.eval_shape(build)
    shardings = jax.tree.map(lambda _: replicated(mesh), shapes)
    if abstract:
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    return jax.jit(build, out_shardings=shardings)()
