"""The state of a training run: shapes first, then shardings, then numbers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ahmf_jax.errors import InputError
from ahmf_jax.losses import LOSSES
from ahmf_jax.models.base import Model
from ahmf_jax.resample import KERNELS
from ahmf_jax.scaling import Scaling
from ahmf_jax.sharding import local_copy, state_shardings
from ahmf_jax.variables import STATISTICS, join, split

# An array where it is traced: in a program for several runs.
Number = float | Float[Array, ""]


class TrainState(struct.PyTreeNode):
    """Everything that a training step changes, and, as static fields, how it changes it.

    A leaf is also what describes it, a shape or a sharding, in a tree of those.
    """

    step: Any  # () int32, steps done, those that were skipped included
    params: Any
    batch_stats: Any  # running statistics of the BatchNorms, {} where there are none
    opt_state: Any
    ema: Any  # like `params`: their exponential moving average; None without one
    rng: Any  # (2,) uint32, of a threefry key; a step's randomness is folded from it and the step
    skipped: Any  # () int32, steps that changed nothing, as their loss or gradient was no number
    model: Model = struct.field(pytree_node=False)
    optimiser: optax.GradientTransformation = struct.field(pytree_node=False)
    loss: str = struct.field(pytree_node=False, default="l1")
    edge_weight: Number = struct.field(pytree_node=False, default=0.0)
    scaling: Scaling = struct.field(pytree_node=False, default="range")
    ema_decay: Number = struct.field(pytree_node=False, default=0.0)
    accumulate: int = struct.field(pytree_node=False, default=1)
    stage_weights: tuple[float, ...] = struct.field(pytree_node=False, default=())
    stage_kernel: str = struct.field(pytree_node=False, default="matlab_bicubic")

    @classmethod
    def start(
        cls,
        weights: Any,
        model: Model,
        optimiser: optax.GradientTransformation,
        *,
        seed: int = 0,
        ema_decay: float = 0.0,
        **how: Any,
    ) -> "TrainState":
        """The state before the first step.

        Args:
          weights: of the model, its running statistics among them (`ahmf_jax.variables`).
          model: the module.
          optimiser: any of optax.
          seed: of what a step leaves to chance.
          ema_decay: of the parameters' moving average; 0 keeps none.
          **how: the other static fields: `loss`, of `losses.LOSSES`; `edge_weight`, of the loss on depth edges beside
            it; `scaling`; `accumulate`, the parts in which a batch is computed one after the other; `stage_weights`,
            one for each of the model's `aux["stages"]`, coarse to fine, where these are supervised too, with truths
            made by `stage_kernel`, of `resample.KERNELS`.

        Raises:
          InputError: a loss or a kernel that there is not.
        """
        params, statistics = (split(weights).get(name, {}) for name in ("params", STATISTICS))
        loss = how.get("loss", "l1")
        if loss not in LOSSES:
            raise InputError(f"loss {loss!r} is not one of {', '.join(LOSSES)}")
        kernel = how.get("stage_kernel", KERNELS[0])
        if kernel not in KERNELS:
            raise InputError(f"stage_kernel {kernel!r} is not one of {', '.join(KERNELS)}")
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=statistics,
            opt_state=optimiser.init(params),
            # Copies: the step gives the buffers of both away.
            ema=jax.tree.map(jnp.copy, params) if ema_decay else None,
            rng=jax.random.key_data(jax.random.key(seed)),
            skipped=jnp.zeros((), jnp.int32),
            model=model,
            optimiser=optimiser,
            ema_decay=ema_decay,
            **how,
        )

    @property
    def average(self) -> Any:
        """The weights to use: the parameters, or their moving average where one is kept, and the statistics."""
        return join(self.params if self.ema is None else self.ema, self.batch_stats)


def init_params(model: Model, seed: Any = 0, guide_channels: int = 3, output_scale: Any = 1.0) -> Any:
    """Random weights.

    Args:
      model: the module; its `scale` sets the guide's size.
      seed: of the random numbers, 0 to 2**32 - 1; a number, and so is `output_scale`, that may be traced.
      guide_channels: of the guide, if the model reads one.
      output_scale: factor on the last convolution, or convolutions (`Model.corrections`). At 1 a new AHMF starts grey
        levels away from the bicubic up-sampling that it is to refine, and spends hundreds of steps on coming back; at 0
        it starts exactly there and hardly leaves.
    """
    depth_lr = jnp.zeros((1, 2, 2, 1))
    guide = jnp.zeros((1, 2 * model.scale, 2 * model.scale, guide_channels if model.guided else 0))
    # A loop draws the same numbers, and is compiled in a part of the time: 37 s, and 240 s unrolled, of a DSCSAN x8.
    rolled = model.clone(unroll=1) if hasattr(model, "unroll") else model
    variables = rolled.init(jax.random.key(seed), depth_lr, guide)

    def scaled(path: Any, x: Array) -> Array:
        keys = tuple(key.key for key in path)
        return output_scale * x if any(keys[: len(one)] == one for one in model.corrections) else x

    params = jax.tree_util.tree_map_with_path(scaled, variables.get("params", {}))
    return join(params, variables.get(STATISTICS, {}))


# Traced once, for the shapes and for the numbers of any seed.
_init_params = jax.jit(init_params, static_argnames=("model", "guide_channels"))


@functools.lru_cache(maxsize=4)
def _draw(model: Model, mesh: Mesh, fsdp: bool) -> Callable[..., Any]:
    """`init_params` of a model, laid out on a mesh, of a seed and an output scale: compiled once for all of them."""
    init = functools.partial(_init_params, model)
    shardings = state_shardings(jax.eval_shape(init), mesh, fsdp)
    return jax.jit(lambda seed, scale: init(seed, output_scale=scale), out_shardings=shardings, **_quickly())


def _quickly() -> dict[str, Any]:
    """Options of `jax.jit`: what runs once is not worth the time that optimising its machine code takes."""
    return {"compiler_options": {"xla_backend_optimization_level": "0"}} if jax.default_backend() == "cpu" else {}


def create_state(
    model: Model,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    *,
    fsdp: bool = False,
    seed: int = 0,
    output_scale: float = 1.0,
    start_from: Callable[[Any], Any] | None = None,
    abstract: bool = False,
    **how: Any,
) -> TrainState:
    """A new state on `mesh`, or, with `abstract`, only its shapes, dtypes and shardings (what a restore needs).

    Args:
      model, optimiser: as in `TrainState.start`, and so is `how`.
      mesh: from `sharding.make_mesh`.
      fsdp: parameters, their average and the optimiser's state are split over the mesh's `data` axis.
      seed: of the initial parameters, and of what a step leaves to chance.
      output_scale: as in `init_params`.
      start_from: makes the weights to start from, NumPy arrays, of the random ones; they stay as they are without.
      abstract: no numbers.
    """

    def build(weights: Any) -> TrainState:
        return TrainState.start(weights, model, optimiser, seed=seed, **how)

    shapes = jax.eval_shape(lambda: build(_init_params(model)))
    shardings = state_shardings(shapes, mesh, fsdp)
    if abstract:
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    weights = _draw(model, mesh, fsdp)(np.uint32(seed), output_scale)
    if start_from is not None:
        weights = start_from(jax.device_get(local_copy(weights, mesh)))
    return jax.jit(build, out_shardings=shardings, **_quickly())(weights)
