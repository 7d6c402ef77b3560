"""The resampling kernels of the depth super-resolution literature, by name.

"Bicubic" names at least three different operators, and a table made with one of them cannot be
compared with a table made with another. Each is written here once, as a pair of separable matrices,
for NumPy and for JAX arrays alike. This module imports no JAX: the data pipelines use it too.

=================  ==========================================================================
`matlab_bicubic`   MATLAB `imresize`: a = -0.5, antialiased when shrinking, symmetric border
`pillow_bicubic`   Pillow `BICUBIC`: a = -0.5, antialiased when shrinking, weights renormalised
                   at the border (the same as `jax.image.resize(..., "cubic")`)
`torch_bicubic`    PyTorch `interpolate(mode="bicubic", align_corners=False)` and OpenCV
                   `INTER_CUBIC`: a = -0.75, never antialiased, border clamped
`torch_bilinear`   the same with `mode="bilinear"` and `INTER_LINEAR`: linear between samples, never
                   antialiased, border clamped; shrinking by an even s takes the middle 2 x 2 mean
`nearest_first`    shrinking by s takes `x[0::s]`
`nearest_center`   shrinking by s takes `x[(s - 1) // 2 :: s]`
`nearest_last`     shrinking by s takes `x[s - 1 :: s]`
`area`             the mean over the area that an output pixel covers (block mean for integers)
=================  ==========================================================================
"""

import functools
import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ahmf_jax.errors import InputError

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")

KERNELS = (
    "matlab_bicubic",
    "pillow_bicubic",
    "torch_bicubic",
    "torch_bilinear",
    "nearest_first",
    "nearest_center",
    "nearest_last",
    "area",
)
# The kernels that enlarge an axis of unknown length, and the samples to either side that an output may read.
ENLARGING = {"matlab_bicubic": 2, "torch_bicubic": 2, "torch_bilinear": 1}


def cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel with parameter `a` (IEEE TASSP 1981, Eq. 15), zero beyond |t| = 2."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def taps(in_size: int, out_size: int, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """The input samples that make each output sample, and their weights.

    Args:
      in_size, out_size: lengths of the axis before and after, both at least 1.
      kernel: one of `KERNELS`.

    Returns:
      `(indices, weights)`, both (out_size, taps), int64 and float64. Every row of weights sums to 1.
      An index may occur twice in a row (a clamped or mirrored border), and then its weights add.
    """
    if kernel not in KERNELS:
        raise InputError(f"kernel {kernel!r} is not known: choose one of {', '.join(KERNELS)}")
    if in_size < 1 or out_size < 1:
        raise InputError(f"cannot resample {in_size} samples to {out_size}: both must be at least 1")
    shrink = in_size / out_size  # input samples per output sample
    # Half-pixel centres: output sample i looks at this position of the input axis.
    centre = (np.arange(out_size) + 0.5) * shrink - 0.5

    if kernel.startswith("nearest"):
        step = max(int(shrink), 1)  # the cell of an output sample, in whole input samples
        offset = {"first": 0, "center": (step - 1) // 2, "last": step - 1}[kernel.removeprefix("nearest_")]
        index = np.floor(np.arange(out_size) * shrink + 1e-9).astype(np.int64) + offset
        return np.minimum(index, in_size - 1)[:, None], np.ones((out_size, 1))

    if kernel == "area":
        low = np.arange(out_size) * shrink
        first = np.floor(low + 1e-9).astype(np.int64)
        index = first[:, None] + np.arange(math.ceil(shrink) + 1)
        covered = np.minimum(index + 1, (low + shrink)[:, None]) - np.maximum(index, low[:, None])
        weight = np.clip(covered, 0.0, None)
        return np.clip(index, 0, in_size - 1), weight / weight.sum(1, keepdims=True)

    stretch = 1.0 if kernel.startswith("torch") else max(shrink, 1.0)  # antialiasing widens the kernel
    count = 2 * math.ceil(2 * stretch) + 1
    index = np.floor(centre).astype(np.int64)[:, None] + np.arange(count) - (count - 1) // 2
    distance = (centre[:, None] - index) / stretch
    if kernel == "torch_bilinear":
        weight = np.clip(1 - np.abs(distance), 0, None)
    else:
        weight = cubic(distance, -0.75 if kernel == "torch_bicubic" else -0.5)
    if kernel == "matlab_bicubic":  # mirror about the edge, the edge sample repeated
        index = np.mod(index, 2 * in_size)
        index = np.where(index < in_size, index, 2 * in_size - 1 - index)
    elif kernel == "pillow_bicubic":  # what lies outside does not count
        weight = np.where((index >= 0) & (index < in_size), weight, 0.0)
    used = weight.any(axis=0)
    index, weight = index[:, used], weight[:, used]
    return np.clip(index, 0, in_size - 1), weight / weight.sum(1, keepdims=True)


@functools.lru_cache(maxsize=256)
def matrix(in_size: int, out_size: int, kernel: str) -> np.ndarray:
    """The kernel along one axis as a read-only matrix (out_size, in_size), float64: `matrix @ signal` resamples."""
    index, weight = taps(in_size, out_size, kernel)
    dense = np.zeros((out_size, in_size))
    np.add.at(dense, (np.arange(out_size)[:, None], index), weight)
    dense.setflags(write=False)
    return dense


def resize(x: Array, size: tuple[Any, Any], kernel: str) -> Array:
    """Resamples images to another size.

    Args:
      x: (..., H, W, C) floating-point array, NumPy or JAX; the result is of the same kind and dtype.
      size: (height, width) after, whole numbers or symbols.
      kernel: one of `KERNELS`.

    Returns:
      (..., height, width, C), rows first. The weights are made in float64. On JAX arrays the sums are full
        float32, whatever the accelerator's matrix products are, and an axis that is enlarged by a whole factor
        may be split over devices: each output reads its input's neighbours, and not the whole axis. Sizes may be
        symbols (`jax.export`) where a kernel of `ENLARGING` enlarges by a whole factor.

    Raises:
      InputError: an unknown kernel, a size below 1, or an integer array (convert it first: the
        rounding is a protocol's choice, not this function's); symbols elsewhere.
    """
    if not np.issubdtype(x.dtype, np.floating) and str(x.dtype) != "bfloat16":
        raise InputError(f"cannot resample {x.dtype} values: convert them to floating point first")
    if not isinstance(x, np.ndarray) and not all(isinstance(n, int | np.integer) for n in (*size, *x.shape[-3:-1])):
        return _enlarged(_enlarged(x, x.ndim - 3, size[0], kernel), x.ndim - 2, size[1], kernel)
    height, width = (int(n) for n in size)
    rows = matrix(x.shape[-3], height, kernel)
    columns = matrix(x.shape[-2], width, kernel)
    if isinstance(x, np.ndarray):
        x = np.einsum("oh,...hwc->...owc", rows.astype(x.dtype), x, optimize=True)
        return np.einsum("pw,...owc->...opc", columns.astype(x.dtype), x, optimize=True)
    return _product(columns, _product(rows, x, x.ndim - 3), x.ndim - 2)


def _product(weights: np.ndarray, x: "jax.Array", axis: int) -> "jax.Array":
    """`weights @ x` along an axis of a JAX array."""
    import jax.numpy as jnp  # the array is JAX's, so JAX is there
    from jax import lax

    after, before = weights.shape
    factor, rest = divmod(after, before)
    if rest:
        product = jnp.tensordot(x, weights.astype(x.dtype), ((axis,), (1,)), precision="highest")
        return jnp.moveaxis(product, -1, axis)
    # Output `factor * i + phase` reads input i and few neighbours: a sum over the whole axis, moved step by step, times
    # weights for each i and phase. Beyond the ends stand zeros, where the weights are zero as well.
    outputs, inputs = np.nonzero(weights)
    steps = inputs - outputs // factor
    moved_sum: Any = 0
    for step in range(steps.min(), steps.max() + 1):
        at = np.where(steps == step)[0]
        weight = np.zeros((before, factor))
        weight.flat[outputs[at]] = weights[outputs[at], inputs[at]]
        moved = lax.pad(
            x, jnp.zeros((), x.dtype), [(-step, step, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
        )
        weight = weight.reshape(before, factor, *[1] * (x.ndim - axis - 1))
        moved_sum += jnp.expand_dims(moved, axis + 1) * weight.astype(x.dtype)
    return moved_sum.reshape(*x.shape[:axis], after, *x.shape[axis + 1 :])


def _enlarged(x: "jax.Array", axis: int, size: Any, kernel: str) -> "jax.Array":
    """An axis of a JAX array, of any length, at a whole multiple of it: neither need be a number.

    Without a matrix of the axis: the same few weights make every sample's outputs, and what lies beyond the ends is
    clamped or mirrored.
    """
    import jax.numpy as jnp
    from jax import lax

    length = x.shape[axis]
    factor, rest = divmod(size, length)
    reach = ENLARGING.get(kernel, 0)
    if not reach or rest != 0 or not isinstance(factor, int):
        raise InputError(
            f"cannot resample {length} samples to {size} with {kernel}: sizes that are symbols can be enlarged by a "
            f"whole factor with {', '.join(ENLARGING)} alone"
        )
    # Of a sample in the middle of an axis, far from both ends.
    weights = matrix(2 * reach + 1, factor * (2 * reach + 1), kernel)[reach * factor : (reach + 1) * factor]
    # Places from either end whose samples stand beyond it, outwards: a slice keeps to the axis if it is shorter.
    places = range(reach) if kernel == "matlab_bicubic" else [0] * reach
    before = [lax.dynamic_slice_in_dim(x, place, 1, axis) for place in places]
    after = [lax.dynamic_slice_in_dim(x, jnp.maximum(length - 1 - place, 0), 1, axis) for place in places]
    padded = jnp.concatenate([*before[::-1], x, *after], axis)
    moved_sum: Any = 0
    for step, weight in enumerate(weights.T):
        moved = lax.slice_in_dim(padded, step, step + length, axis=axis)
        weight = weight.reshape(factor, *[1] * (x.ndim - axis - 1)).astype(x.dtype)
        moved_sum += jnp.expand_dims(moved, axis + 1) * weight
    return moved_sum.reshape(*x.shape[:axis], size, *x.shape[axis + 1 :])
