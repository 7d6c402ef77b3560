"""A trained model as a StableHLO program: one file for every platform, the weights inside, to run with JAX alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float

from ahmf_jax.export import Trained, check_portable
from ahmf_jax.models import AHMF, DSCSAN
from ahmf_jax.scaling import predict

PLATFORMS = ("cpu", "cuda", "tpu")


def in_units(trained: Trained) -> Callable[..., Array]:
    """The model as a function of depth in its unit, holes filled, and the guide in [0, 1]; depth in its unit.

    (B, h, w, 1) and (B, scale h, scale w, C) -> (B, scale h, scale w, 1), float32. Without C there is no guide.
    """
    model = trained.model
    if isinstance(model, AHMF | DSCSAN):  # a loop: neither the file nor its compilation grows with levels or blocks
        model = model.clone(unroll=1)

    def super_resolve(
        depth_lr: Float[Array, "b h w 1"], guide: Float[Array, "b H W c"] | None = None
    ) -> Float[Array, "b H W 1"]:
        if guide is None:
            count, height, width, _ = depth_lr.shape
            guide = jnp.zeros((count, model.scale * height, model.scale * width, 0))
        batch = {"depth_lr": depth_lr / trained.range, "mask_lr": jnp.ones_like(depth_lr, bool), "guide": guide}
        output, offset, span, *_ = predict(model, trained.scaling, trained.params, batch)
        return (output * span + offset) * trained.range

    return super_resolve


def serialize(trained: Trained) -> bytes:
    """The program, in which batch, height and width are free: `jax.export.deserialize(data).call(depth_lr, guide)`.

    That of a model that reads no guide is called without one. Its products are of full float32 on every platform, as
    the file is to give the same depth everywhere.

    Raises:
      InputError: `export.check_portable`.
    """
    check_portable(trained)
    scale, channels = trained.model.scale, trained.guide_channels
    batch, height, width = export.symbolic_shape("batch, height, width")
    inputs = [jax.ShapeDtypeStruct((batch, height, width, 1), jnp.float32)]
    if channels:
        inputs.append(jax.ShapeDtypeStruct((batch, scale * height, scale * width, channels), jnp.float32))
    with jax.default_matmul_precision("highest"):
        return bytes(export.export(jax.jit(in_units(trained)), platforms=PLATFORMS)(*inputs).serialize())
