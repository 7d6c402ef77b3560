"""Guided anisotropic diffusion with an adjustment: DADA's loop (Metzger et al., CVPR 2023, Sec. 3).

Each iteration spreads depth between neighbouring pixels, as far as their coefficient lets it pass, and then scales
every block of pixels so that its mean is the low-resolution sample again. The functions are pure and know nothing of
features but how coefficients are made of them. Images are (B, H, W, 1) float32; depth is positive.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ahmf_jax.errors import InputError

RATE = 0.24  # the authors'
MAX_RATE = 0.25  # beyond it a pixel may give its four neighbours more than it has, and the iteration diverges
EPSILON = 1e-8  # added to the mean that is divided by
INTERVAL = 64  # iterations between two looks at how much still changes

Gradient = Literal["unrolled", "implicit"]
Start = Literal["fine", "coarse"]
Size = Any  # int, or an expression of symbols where `jax.export` traces for any size


def coefficients(
    features: Float[Array, "b h w c"], contrast: float | Float[Array, ""]
) -> tuple[Float[Array, "b h-1 w 1"], Float[Array, "b h w-1 1"]]:
    """How much passes between vertical and between horizontal neighbours, in (0, 1]: 1 / (1 + (d / contrast)^2).

    d is the mean over the channels of the absolute difference of the two pixels' features.

    Raises:
      InputError: the contrast is not above 0; one that is traced is not checked.
    """
    if (value := _number(contrast)) is not None and not 0 < value < math.inf:
        raise InputError(f"contrast {value:g}: the features' differences are divided by it; give more than 0")
    below = jnp.mean(jnp.abs(features[:, 1:] - features[:, :-1]), axis=-1, keepdims=True)
    right = jnp.mean(jnp.abs(features[:, :, 1:] - features[:, :, :-1]), axis=-1, keepdims=True)
    return 1 / (1 + (below / contrast) ** 2), 1 / (1 + (right / contrast) ** 2)


def spread(
    image: Float[Array, "b h w 1"],
    cv: Float[Array, "b h-1 w 1"],
    ch: Float[Array, "b h w-1 1"],
    rate: float | Float[Array, ""] = RATE,
) -> Float[Array, "b h w 1"]:
    """One step of diffusion, all differences taken from the image as it is given. What one pixel loses another gains.

    Args:
      image: depth.
      cv: the coefficients between a pixel and the one below.
      ch: between a pixel and the one to the right.
      rate: the step size; one that is traced is not checked.

    Raises:
      InputError: `rate` is not above 0 and at most 0.25.
    """
    _check_rate(rate)
    return _spread(_pad(image), *_links(cv, ch, rate)).reshape(image.shape)


def adjust(
    image: Float[Array, "b H W 1"], source: Float[Array, "b h w 1"], mask: Bool[Array, "b h w 1"]
) -> Float[Array, "b H W 1"]:
    """Scales every block of pixels so that its mean is its low-resolution sample; a block without a sample stays.

    Args:
      image: positive depth, one whole number of times as high and as wide as the source.
      source: positive depth; what stands where it is not known has no influence. A zero makes its block zero for good,
        and a negative sample turns the signs of its block.
      mask: True where it is known.

    Raises:
      InputError: the sizes do not fit.
    """
    scale = _scale(image, source)
    b, h, w, _ = source.shape
    # The rows of a block are added first, in long runs; as one sum over both axes it takes XLA's CPU backend longer.
    rows = image.reshape(b, h, scale, w * scale).sum(2)
    mean = rows.reshape(b, h, w, scale).sum(3) / scale**2
    known = mask[..., 0]
    # The inner choice keeps what is not known out of the gradient, too.
    ratio = jnp.where(known, source[..., 0] / jnp.where(known, mean + EPSILON, 1), 1)
    return (image.reshape(b, h, scale, w, scale) * ratio[:, :, None, :, None]).reshape(image.shape)


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
    """Iterates `spread` and `adjust`: the solution of the paper's Eq. 1 under the constraint of Eq. 2.

    The gradient flows to `cv` and `ch`, and to nothing else.

    Args:
      image: to begin with.
      cv: the coefficients between a pixel and the one below.
      ch: between a pixel and the one to the right.
      source: low-resolution depth, see `adjust`.
      mask: True where it is known.
      before: iterations that no gradient passes. An array is any number with one compiled program.
      after: further iterations, which the gradient passes.
      rate: the step size, above 0 and at most 0.25.
      gradient: "unrolled" goes back through the last `after` iterations, whose images are computed again a segment at a
        time: memory for about 3 sqrt(after) images. "implicit" takes the image at the end for the fixed point: memory
        for a few images, and the same gradient where the image no longer changes (see `_fixed_point`).
      tolerance: if not 0, the iterations without a gradient end as soon as no pixel of any sample has changed by more
        than this part of its sample's largest depth over 64 iterations. A batch goes on until its last sample is still.
      start: "coarse" begins on blocks of pixels, whose sides are halved from scale / 2 to 2 (as far as the scale can be
        halved), with as many iterations for each size as the image is then given without a gradient: `before`, or, as
        "implicit" unrolls none, `before + after`. Nothing is done for a scale that is odd or 2. "fine" begins with the
        image.

    Returns:
      The image, and the number of iterations on the fine image that were done.

    Raises:
      InputError: a value out of its range, or sizes that do not fit.
    """
    _check_rate(rate)
    _scale(image, source)
    for name, value in (("before", before), ("after", after), ("tolerance", tolerance)):
        if (number := _number(value)) is not None and not number >= 0:
            raise InputError(f"{name} {number:g}: give 0 or more")
    for name, choice, known in (("gradient", gradient, get_args(Gradient)), ("start", start, get_args(Start))):
        if choice not in known:
            raise InputError(f"{name} {choice!r}: choose one of {', '.join(known)}")
    image, source, cv_held, ch_held = (lax.stop_gradient(x) for x in (image, source, cv, ch))
    count = jnp.asarray(before, jnp.int32) + (after if gradient == "implicit" else 0)
    if start == "coarse":
        image = _coarse(image, cv_held, ch_held, source, mask, count, rate, tolerance)

    def iterate(image: Array, count: Array) -> Array:
        return _iterate(image, cv_held, ch_held, source, mask, count, rate)

    image, used = _until_still(iterate, image, count, tolerance)
    if after and gradient == "unrolled":
        image, used = _unrolled(image, cv, ch, source, mask, after, rate), used + after
    elif after:
        image = _fixed_point(image, cv, ch, source, mask, after, rate, tolerance)
    return image, used


def _iterate(image: Array, cv: Array, ch: Array, source: Array, mask: Array, count: int | Array, rate: float) -> Array:
    """So many iterations."""
    iteration = _iteration(image, cv, ch, source, mask, rate)
    padded = lax.fori_loop(0, count, lambda _, padded: iteration(padded)[0], _pad(image))
    width = image.shape[2]
    return padded[:, width:-width].reshape(image.shape)


def _iteration(
    image: Array, cv: Array, ch: Array, source: Array, mask: Array, rate: float
) -> Callable[[Array], tuple[Array, Array]]:
    """The function from a padded image of the size of `image` to the next, and to what `spread` made in between."""
    links, width = _links(cv, ch, rate), image.shape[2]

    def iteration(padded: Array) -> tuple[Array, Array]:
        moved = _spread(padded, *links).reshape(image.shape)
        return _fill(padded, adjust(moved, source, mask), width), moved

    return iteration


# Inside the loops an image is one row of pixels, with as many before and after it as the image is wide. A neighbour is
# then at the same distance from every pixel, and a loop over all pixels runs through memory in one go. The coefficients
# of pairs that are no neighbours, over the borders, are zero.


def _pad(image: Array) -> Array:
    b, height, width, _ = image.shape
    return jnp.pad(image.reshape(b, height * width), ((0, 0), (width, width)))


def _fill(padded: Array, image: Array, width: Size) -> Array:
    """The padded row with these pixels, in place where nothing else needs it."""
    return lax.dynamic_update_slice(padded, image.reshape(image.shape[0], -1), (0, width))


def _links(cv: Array, ch: Array, rate: float | Array) -> tuple[Array, Array]:
    """`rate` times the coefficients, of all pairs of pixels of the padded row at distances width and 1.

    (b, (h + 1) w), the first between the padding and the first pixel; (b, h w + 1), the first between the last
    element of the padding and the first pixel.
    """
    b, height, width = ch.shape[0], ch.shape[1], cv.shape[2]
    down = jnp.pad(rate * cv[..., 0], ((0, 0), (1, 1), (0, 0))).reshape(b, (height + 1) * width)
    right = jnp.pad(rate * ch[..., 0], ((0, 0), (0, 0), (0, 1))).reshape(b, height * width)
    return down, jnp.pad(right, ((0, 0), (1, 0)))


def _spread(padded: Array, down: Array, right: Array) -> Array:
    """`spread` on a padded row; the result is not padded."""
    pixels = right.shape[1] - 1
    width = down.shape[1] - pixels
    above, left, here, right_of, below = (
        padded[:, first : first + pixels] for first in (0, width - 1, width, width + 1, 2 * width)
    )
    return (
        here
        + down[:, width:] * (below - here)
        + down[:, :pixels] * (above - here)
        + right[:, 1:] * (right_of - here)
        + right[:, :pixels] * (left - here)
    )


def _until_still(
    iterate: Callable[[Array, Array], Array], image: Array, count: Array, tolerance: float
) -> tuple[Array, Array]:
    """`iterate(image, n)` for `count` iterations or until it hardly changes the image, and the iterations done."""
    if not tolerance:
        return iterate(image, count), count

    def changing(state: tuple[Array, Array, Array]) -> Array:
        _, done, change = state
        return (done < count) & (change > tolerance)

    def interval(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        image, done, _ = state
        steps = jnp.minimum(INTERVAL, count - done)
        new = iterate(image, steps)
        change, size = (jnp.max(jnp.abs(x), axis=(1, 2, 3)) for x in (new - image, new))
        return new, done + steps, jnp.max(change / jnp.maximum(size, jnp.finfo(size.dtype).tiny))

    first = image, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, image.dtype)
    image, used, _ = lax.while_loop(changing, interval, first)
    return image, used


def _coarse(
    image: Array, cv: Array, ch: Array, source: Array, mask: Array, count: Array, rate: float, tolerance: float
) -> Array:
    """The image to begin with, from iterations on blocks of 2 x 2 pixels, which begin so themselves.

    The fixed point does not change when all coefficients are multiplied by one number, so those of the blocks need only
    be right relative to one another: see `_halved`. At the end every block is given the mean that was found for it.
    """
    scale = _scale(image, source)
    if scale % 2 or scale == 2:  # at 2, a block is a sample
        return image
    b, height, width, _ = image.shape
    blocks = image.reshape(b, height // 2, 2, width // 2, 2, 1).mean((2, 4))
    cv, ch = _halved(cv), _halved(ch.swapaxes(1, 2)).swapaxes(1, 2)
    blocks = _coarse(blocks, cv, ch, source, mask, count, rate, tolerance)
    blocks, _ = _until_still(lambda x, n: _iterate(x, cv, ch, source, mask, n, rate), blocks, count, tolerance)
    return adjust(image, blocks, jnp.ones(blocks.shape, bool))


def _halved(cv: Array) -> Array:
    """The coefficients between a block of 2 x 2 pixels and the one below, (b, h / 2 - 1, w / 2, 1).

    From centre to centre it is half the way between two pixels, the whole way between the next two, and half again:
    resistances that add up, in two columns side by side. Where all coefficients are the same they stay so.
    """
    resistance = 1 / cv
    inside, between = resistance[:, ::2], resistance[:, 1::2]
    columns = 2 / (between + (inside[:, :-1] + inside[:, 1:]) / 2)
    b, height, width, _ = columns.shape
    return columns.reshape(b, height, width // 2, 2, 1).mean(3)


def _number(value: Any) -> float | None:
    """A number of Python's, NumPy's or JAX's; None for one that is traced, which cannot be looked at, and for more."""
    return None if isinstance(value, jax.core.Tracer) or np.ndim(value) else float(value)


def _check_rate(rate: Any) -> None:
    if (value := _number(rate)) is not None and not 0 < value <= MAX_RATE:
        raise InputError(f"rate {value:g}: the diffusion is stable up to {MAX_RATE}; give more than 0 and at most that")


def _scale(image: Array, source: Array) -> int:
    """How many pixels a sample is wide, and high."""
    (height, width), (h, w) = image.shape[1:3], source.shape[1:3]
    scale = height // h
    if (height, width) != (scale * h, scale * w):
        raise InputError(
            f"an image of {height} x {width} for samples of {h} x {w}: give one whole number of times as many rows and "
            "columns"
        )
    return scale


# The gradient. A step of diffusion is its own transpose, as what passes between two pixels depends on their difference
# alone: the cotangents of images spread as the images do.


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _unrolled(image: Array, cv: Array, ch: Array, source: Array, mask: Array, count: int, rate: float) -> Array:
    """`_iterate` with a gradient: the images of each segment are computed again from the one it begins with.

    Written out, it takes less than half the time of what JAX derives, on a CPU.
    """
    return _iterate(image, cv, ch, source, mask, count, rate)


def _unrolled_fwd(
    image: Array, cv: Array, ch: Array, source: Array, mask: Array, count: int, rate: float
) -> tuple[Array, Any]:
    segments, length, rest = _segments(count)

    def segment(image: Array, _: None) -> tuple[Array, Array]:
        return _iterate(image, cv, ch, source, mask, length, rate), image

    last, starts = lax.scan(segment, image, length=segments)
    return _iterate(last, cv, ch, source, mask, rest, rate), (starts, last, cv, ch, source, mask)


def _unrolled_bwd(count: int, rate: float, saved: Any, cotangent: Array) -> tuple[Any, ...]:
    starts, last, cv, ch, source, mask = saved
    _, length, rest = _segments(count)
    links, width = _links(cv, ch, rate), last.shape[2]
    iteration = _iteration(last, cv, ch, source, mask, rate)

    def forward(padded: Array, _: None) -> tuple[Array, Any]:
        new, moved = iteration(padded)
        return new, (padded, moved)

    def backward(state: Any, images: Any) -> tuple[Any, None]:
        cotangent, moved_cotangent, sums = state
        padded, moved = images
        _, pull = jax.vjp(lambda moved: adjust(moved, source, mask), moved)
        moved_cotangent = _fill(moved_cotangent, pull(cotangent)[0], width)
        parts = _link_cotangents(padded, moved_cotangent, width)
        sums = jax.tree.map(jnp.add, sums, parts)
        return (_spread(moved_cotangent, *links).reshape(last.shape), moved_cotangent, sums), None

    def segment(state: Any, start: Array, length: int) -> Any:
        _, images = lax.scan(forward, _pad(start), length=length)
        return lax.scan(backward, state, images, reverse=True)[0]

    state = segment((cotangent, _pad(cotangent), jax.tree.map(jnp.zeros_like, links)), last, rest)
    state, _ = lax.scan(lambda state, start: (segment(state, start, length), None), state, starts, reverse=True)
    cotangent, _, (down, right) = state
    return cotangent, *_unlinked(down, right, rate, width), None, None


_unrolled.defvjp(_unrolled_fwd, _unrolled_bwd)


def _segments(count: int) -> tuple[int, int, int]:
    """How many segments of which length, and the iterations that remain: as many segments as a segment is long."""
    length = math.isqrt(count - 1) + 1
    return count // length, length, count % length


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _fixed_point(
    image: Array, cv: Array, ch: Array, source: Array, mask: Array, count: int, rate: float, tolerance: float
) -> Array:
    """The image, taken for the fixed point of the iterations, with the gradient that it then has.

    With an iteration P(I, c), I = P(I, c) gives dI = J dI + (dP/dc) dc, where J = dP/dI. The gradient g of a loss at I
    turns into (dP/dc)^T a for c, where a = J^T a + g: solved by `count` terms of a = g + J^T g + J^T J^T g + ..., which
    are those of `count` unrolled iterations during which the image stays as it is. The terms vanish, as J spreads out
    what it is given and takes away what only scales a block, unless no sample of an image is known; the image is
    constant then, and its coefficients have no gradient.
    """
    return image


def _fixed_point_fwd(
    image: Array, cv: Array, ch: Array, source: Array, mask: Array, *_: Any
) -> tuple[Array, tuple[Array, ...]]:
    return image, (image, cv, ch, source, mask)


def _fixed_point_bwd(count: int, rate: float, tolerance: float, saved: Any, gradient: Array) -> tuple[Any, ...]:
    image, cv, ch, source, mask = saved
    links, width = _links(cv, ch, rate), image.shape[2]
    padded = _pad(image)
    moved = _spread(padded, *links).reshape(image.shape)
    _, pull = jax.vjp(lambda moved: adjust(moved, source, mask), moved)

    def term(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        adjoint, buffer = state
        buffer = _fill(buffer, pull(adjoint)[0], width)
        return gradient + _spread(buffer, *links).reshape(image.shape), buffer

    def terms(adjoint: Array, count: Array) -> Array:
        return lax.fori_loop(0, count, term, (adjoint, padded))[0]

    adjoint, _ = _until_still(terms, gradient, jnp.asarray(count - 1, jnp.int32), tolerance)
    down, right = _link_cotangents(padded, _pad(pull(adjoint)[0]), width)
    return jnp.zeros_like(image), *_unlinked(down, right, rate, width), None, None


_fixed_point.defvjp(_fixed_point_fwd, _fixed_point_bwd)


def _link_cotangents(image: Array, cotangent: Array, width: Size) -> tuple[Array, Array]:
    """Of `_links`, from the padded image that is spread and the padded cotangent of what comes out."""

    def of(image: Array, cotangent: Array, distance: Size) -> Array:
        return (image[:, distance:] - image[:, :-distance]) * (cotangent[:, :-distance] - cotangent[:, distance:])

    row = slice(width - 1, image.shape[1] - width + 1)
    return of(image, cotangent, width), of(image[:, row], cotangent[:, row], 1)


def _unlinked(down: Array, right: Array, rate: float, width: Size) -> tuple[Array, Array]:
    """The cotangents of `cv` and `ch` from those of `_links`."""
    b, height = down.shape[0], down.shape[1] // width - 1
    down = down.reshape(b, height + 1, width, 1)[:, 1:-1]
    right = right[:, 1:].reshape(b, height, width, 1)[:, :, :-1]
    return rate * down, rate * right
