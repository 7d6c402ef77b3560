"""Guided anisotropic diffusion with an adjustment: DADA's loop (Metzger et al., CVPR 2023, Sec. 3).

Each iteration spreads depth between neighbouring pixels, as much as their coefficient lets through, and then scales
every block so that its mean is the low-resolution sample again. All images are (B, H, W, 1) float32; depth is positive.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ahmf_jax.errors import InputError

RATE = 0.24  # the authors'
MAX_RATE = 0.25  # above it, four neighbours may take more from a pixel than it has, and the iteration diverges
EPSILON = 1e-8  # added to the mean that is divided by

Gradient = Literal["unrolled", "implicit"]
Start = Literal["fine", "coarse"]


def coefficients(
    features: Float[Array, "b h w c"], contrast: float | Float[Array, ""]
) -> tuple[Float[Array, "b h-1 w 1"], Float[Array, "b h w-1 1"]]:
    """How much passes between vertical and between horizontal neighbours, in (0, 1]: 1 / (1 + (d / contrast)^2).

    d is the mean over the channels of the absolute difference of the two pixels' features.
    """
    below = jnp.mean(jnp.abs(features[:, 1:] - features[:, :-1]), axis=-1, keepdims=True)
    right = jnp.mean(jnp.abs(features[:, :, 1:] - features[:, :, :-1]), axis=-1, keepdims=True)
    return 1 / (1 + (below / contrast) ** 2), 1 / (1 + (right / contrast) ** 2)


def spread(
    image: Float[Array, "b h w 1"],
    cv: Float[Array, "b h-1 w 1"],
    ch: Float[Array, "b h w-1 1"],
    rate: float | Float[Array, ""] = RATE,
) -> Float[Array, "b h w 1"]:
    """One step of diffusion, both differences taken from the image as it is given. What one pixel loses another gains.

    Raises:
      InputError: `rate` is a number outside (0, 0.25].
    """
    _check_rate(rate)
    down = rate * cv * (image[:, 1:] - image[:, :-1])
    right = rate * ch * (image[:, :, 1:] - image[:, :, :-1])
    rows, columns = ((0, 0), (0, 1), (0, 0), (0, 0)), ((0, 0), (0, 0), (0, 1), (0, 0))
    image = image + jnp.pad(down, rows) - jnp.pad(down, [pair[::-1] for pair in rows])
    return image + jnp.pad(right, columns) - jnp.pad(right, [pair[::-1] for pair in columns])


def adjust(
    image: Float[Array, "b H W 1"], source: Float[Array, "b h w 1"], mask: Bool[Array, "b h w 1"]
) -> Float[Array, "b H W 1"]:
    """Scales every block of pixels so that its mean is its low-resolution sample; a block without one stays.

    Args:
      image: whose height and width are one whole number times the source's.
      source: depth, positive; what stands where it is not known has no influence. A zero makes its block zero.
      mask: True where it is known.

    Raises:
      InputError: the sizes do not fit.
    """
    scale = _scale(image, source)
    b, h, w, _ = source.shape
    blocks = image.reshape(b, h, scale, w, scale)
    mean = blocks.mean((2, 4))
    ratio = _ratio(mean, source[..., 0], mask[..., 0])
    return (blocks * ratio[:, :, None, :, None]).reshape(image.shape)


def diffuse(
    image: Float[Array, "b H W 1"],
    cv: Float[Array, "b H-1 W 1"],
    ch: Float[Array, "b H W-1 1"],
    source: Float[Array, "b h w 1"],
    mask: Bool[Array, "b h w 1"],
    *,
    before: int | Int[Array, ""],
    after: int = 0,
    rate: float = RATE,
    gradient: Gradient = "unrolled",
    tolerance: float = 0.0,
    start: Start = "fine",
) -> tuple[Float[Array, "b H W 1"], Int[Array, ""]]:
    """Iterates `spread` and `adjust`.

    Args:
      image: to begin with.
      cv: coefficients between a pixel and the one below, in (0, 1].
      ch: between a pixel and the one to the right.
      source: low-resolution depth.
      mask: True where it is known.
      before: iterations that no gradient passes; a traced count serves any number with one compiled program.
      after: further iterations, whose gradient flows to `cv` and `ch`.
      rate: the step size, at most 0.25.
      gradient: the way of differentiating.
      tolerance: early end.
      start: where to begin.

    Returns:
      The image, and the number of iterations that were done.

    Raises:
      InputError: `rate` outside (0, 0.25], or sizes that do not fit.
    """
    _check_rate(rate)
    if gradient != "unrolled" or tolerance or start != "fine":
        raise InputError("not there yet")
    fixed = [lax.stop_gradient(x) for x in (cv, ch, source)]

    def frozen(_: int, image: Array) -> Array:
        return adjust(spread(image, fixed[0], fixed[1], rate), fixed[2], mask)

    image = lax.stop_gradient(image)
    image = lax.stop_gradient(lax.fori_loop(0, before, frozen, image))

    def step(image: Array, _: None) -> tuple[Array, None]:
        return adjust(spread(image, cv, ch, rate), fixed[2], mask), None

    segments, rest = divmod(after, 32)
    segment = jax.checkpoint(lambda image, _: lax.scan(step, image, length=32))
    image, _ = lax.scan(segment, image, length=segments)
    image, _ = lax.scan(step, image, length=rest)
    return image, jnp.asarray(before + after, jnp.int32)


def _check_rate(rate: float | Array) -> None:
    if isinstance(rate, int | float) and not 0 < rate <= MAX_RATE:
        raise InputError(f"rate {rate:g}: diffusion is stable above 0 and up to {MAX_RATE}; give a rate in that range")


def _scale(image: Array, source: Array) -> int:
    """How many pixels of the image a sample of the source is wide."""
    (height, width), (h, w) = image.shape[1:3], source.shape[1:3]
    scale = height // h
    if (height, width) != (scale * h, scale * w):
        raise InputError(
            f"an image of {height} x {width} for depth of {h} x {w}: give an image that is one whole number of times "
            "as high and as wide"
        )
    return scale


def _ratio(mean: Array, source: Array, mask: Array) -> Array:
    """What a block is multiplied with. The inner choice keeps an unknown sample out of the gradient, too."""
    return jnp.where(mask, source / jnp.where(mask, mean + EPSILON, 1), 1)
