"""What a network sees of a depth map: its values as they are, or stretched over a span, the sample's or the truth's."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ahmf_jax.errors import InputError
from ahmf_jax.variables import STATISTICS, split

Scaling = Literal["range", "sample", "largest", "truth"]
# A flatter sample is not stretched further: 1 grey level of 256, below which depth is mostly noise.
MIN_SPAN = 1 / 256
# Nor is depth divided by less than float32 holds in full, where only 0 is to stay.
TINY = float(np.finfo(np.float32).tiny)

Depths = Float[Array, "b h w 1"] | Float[np.ndarray, "b h w 1"]
Masks = Bool[Array, "b h w 1"] | Bool[np.ndarray, "b h w 1"]
PerSample = Float[Array, "b 1 1 1"] | Float[np.ndarray, "b 1 1 1"]


def is_leak(scaling: Scaling) -> bool:
    """Whether the network is told something of the ground truth: numbers made so are no sensor's."""
    return scaling == "truth"


def offset_and_span(
    depth_lr: Depths,
    mask_lr: Masks,
    scaling: Scaling,
    depth_span: Float[Array, "b 2"] | Float[np.ndarray, "b 2"] | None = None,
) -> tuple[PerSample, PerSample]:
    """The affine map from depth to what the network is given, `(depth - offset) / span`, sample by sample.

    Args:
      depth_lr: in units of the data set's range.
      mask_lr: True where depth is known; the rest has no say.
      scaling: `"range"`: the identity, as the authors' test program has it (their value / 255).
        `"sample"`: the minimum and maximum of the sample's own low-resolution depth become 0 and 1, which
        can be done on any sensor, and makes the network indifferent to the unit.
        `"largest"`: its maximum becomes 1 and 0 stays, in any unit, for models that multiply depth.
        `"truth"`: as by sample, with those of the whole image's ground truth, as the authors' later survey code has it.
        No sensor knows them: it serves comparison with numbers that were made so, and `is_leak`.
      depth_span: the smallest and the largest true depth, in units of the range; read for `"truth"` alone.

    Returns:
      offset and span, (B, 1, 1, 1) each, NumPy where `depth_lr` is.

    Raises:
      InputError: another scaling, or `"truth"` without the ground truth.
    """
    if scaling not in get_args(Scaling):
        raise InputError(f"scaling {scaling!r} is not one of {', '.join(get_args(Scaling))}")
    xp: Any = np if isinstance(depth_lr, np.ndarray) else jnp
    one = xp.ones((depth_lr.shape[0], 1, 1, 1), xp.float32)
    if scaling == "range":
        return 0 * one, one
    if scaling == "truth":
        if depth_span is None:
            raise InputError(
                "scaling 'truth' needs the ground truth's smallest and largest depth (depth_span), which no sensor "
                "knows: train and use a model with scaling sample, largest or range"
            )
        low, high = (depth_span[:, i, None, None, None] for i in (0, 1))
        return low, xp.maximum(high - low, MIN_SPAN)
    low = xp.min(xp.where(mask_lr, depth_lr, xp.inf), (1, 2, 3), keepdims=True)
    high = xp.max(xp.where(mask_lr, depth_lr, -xp.inf), (1, 2, 3), keepdims=True)
    known = xp.any(mask_lr, (1, 2, 3), keepdims=True)
    if scaling == "largest":
        return 0 * one, xp.where(known, xp.maximum(high, TINY), 1.0)
    return xp.where(known, low, 0.0), xp.where(known, xp.maximum(high - low, MIN_SPAN), 1.0)


class Prediction(NamedTuple):
    """What a model makes of a batch: the depth in units of the range is `output * span + offset`.

    `statistics` are the running ones after it, in training; {} otherwise, and of a model that has none. `aux` are the
    model's intermediates, in the scale of `output`.
    """

    output: Array
    offset: PerSample
    span: PerSample
    statistics: Any
    aux: Mapping[str, Any]


def predict(
    model: Any, scaling: Scaling, weights: Any, batch: Mapping[str, Any], rngs: Mapping[str, Array] | None = None
) -> Prediction:
    """Runs a model on a batch, in the scale that it works in; in training where it is given Flax's `rngs`.

    Raises:
      InputError: `scaling="truth"`, and the batch has no `depth_span`.
    """
    offset, span = offset_and_span(batch["depth_lr"], batch["mask_lr"], scaling, batch.get("depth_span"))
    given = split(weights), (batch["depth_lr"] - offset) / span, batch["guide"]
    if rngs is None:
        output, aux = model.apply(*given, mask_lr=batch["mask_lr"])
        return Prediction(output, offset, span, {}, aux)
    (output, aux), renewed = model.apply(*given, mask_lr=batch["mask_lr"], train=True, rngs=rngs, mutable=[STATISTICS])
    return Prediction(output, offset, span, renewed.get(STATISTICS, {}), aux)
