"""Building blocks shared by the models. All images are (B, H, W, C); kernels are (k, k, in, out)."""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Dtype = Any
Remat = Literal["none", "convs", "blocks"]
Unroll = int | Literal["auto"]


def save_convolutions(primitive: Any, *_: Any, **__: Any) -> bool:
    """What `remat="convs"` keeps: the results of convolutions and of matrix products."""
    return primitive in (lax.conv_general_dilated_p, lax.dot_general_p)


def recomputed(block: Callable[..., Any], remat: Remat, prevent_cse: bool = True) -> Any:
    """`block`, whose intermediate results the backward pass computes again instead of keeping them."""
    if remat == "none":
        return block
    policy = save_convolutions if remat == "convs" else None
    return nn.remat(block, prevent_cse=prevent_cse, policy=policy)


def compiler_options(remat: Remat) -> dict[str, str] | None:
    """Options of `jax.jit` with which `remat` saves memory on the CPU, also where nothing is in a loop.

    XLA's CPU compiler takes away early the barriers that keep the second computation apart from the first, and
    then merges the two: kept, they do what they do on accelerators.
    """
    if remat == "none" or jax.default_backend() != "cpu":
        return None
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def over_levels(
    step: Callable[..., Any],
    length: int,
    unroll: Unroll,
    remat: Remat,
    *,
    shared: bool = False,
    reverse: bool = False,
) -> Any:
    """`step(module, carry, x) -> (carry, y)` as one loop over the levels of a network, with `nn.scan`.

    The module's parameters are stacked on a new leading axis, one entry a level, or `shared` by all.
    The gradient of a convolution inside a rolled loop is tens of times slower on the CPU, so `unroll="auto"`
    unrolls fully there and keeps the loop on accelerators, where it saves compile time and, with `remat`, memory.
    """
    if unroll == "auto":
        # One more than there are, as a single step that is unrolled "once" would stay a loop.
        unroll = length + 1 if jax.default_backend() == "cpu" else 1
    return nn.scan(
        recomputed(step, remat, prevent_cse=unroll > 1),  # inside a loop nothing can be merged with what is outside
        variable_axes={} if shared else {"params": 0},
        variable_broadcast="params" if shared else False,
        split_rngs={"params": not shared},
        length=length,
        reverse=reverse,
        unroll=unroll,
    )


# Rows of the padded low-resolution image, and the rows and columns of it that are there: see `padded_image`.
_padded: ContextVar[tuple[int, Int[Array, "2"]] | None] = ContextVar("_padded", default=None)


@contextlib.contextmanager
def padded_image(height: int, size: Int[Array, "2"] | None) -> Iterator[None]:
    """What is traced in it convolves the upper left part of an image as if nothing lay beside it.

    One compiled program then serves images of many sizes, padded to that of the program: what stands in the padding
    has no influence, whatever it is. The convolutions see zeros there, as they do beyond the border of an image.

    Args:
      height: rows of the padded low-resolution image. An image of k times as many rows is taken to be k times as
        large in both directions.
      size: the rows and columns that are there, at low resolution; None where nothing is padded.
    """
    token = _padded.set(None if size is None else (height, size))
    try:
        yield
    finally:
        _padded.reset(token)


def size_there(x: Float[Array, "b h w c"]) -> Int[Array, "2"] | None:
    """The rows and columns of a map that are there, inside `padded_image`; None where nothing is padded."""
    if (padded := _padded.get()) is None:
        return None
    height, size = padded
    return size * (x.shape[1] // height)


def _without_padding(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    if (size := size_there(x)) is None:
        return x
    return jnp.where(within(x, whole(size)), x, 0)


def whole(size: Int[Array, "2"]) -> Int[Array, "4"]:
    """All that is there of a map, as a part of it: top, bottom, left, right."""
    return jnp.stack([0, size[0], 0, size[1]])


def within(x: Float[Array, "b h w c"], part: Int[Array, "4"]) -> Bool[Array, "h w 1"]:
    """Which places of a map lie in a part of it."""
    top, bottom, left, right = part
    row, column = jnp.arange(x.shape[1])[:, None, None], jnp.arange(x.shape[2])[:, None]
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def continued(x: Float[Array, "b h w c"], size: Int[Array, "2"], mirrored: int = 0) -> Float[Array, "b h w c"]:
    """Images that repeat, in the padding beside the rows and columns that are there, the last of them.

    With `mirrored`, so many rows and columns of the padding mirror what is there, its last one repeated first.
    They are sums, and not taken by their places, so that the height may be split over devices.
    """
    for axis, length in zip((1, 2), size, strict=True):
        place = jnp.expand_dims(jnp.arange(x.shape[axis]), [a for a in range(x.ndim) if a != axis])
        result = x
        for beyond in range(max(mirrored, 1)):
            # An image of fewer rows than are mirrored is mirrored at its other edge again.
            source = length - 1 - beyond if mirrored else length - 1
            source = jnp.where(source < 0, -1 - source, source)
            row = jnp.sum(jnp.where(place == source, x, 0), axis, keepdims=True)
            at = place == length + beyond if beyond + 1 < mirrored else place >= length + beyond
            result = jnp.where(at, row, result)
        x = result
    return x


def conv2d(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], bias: Float[Array, "o"] | None = None
) -> Float[Array, "b h w o"]:
    """Convolution with stride 1, zero padding k // 2 and odd k, so that the size stays, in the type of `x`.

    Two cases are written as matrix products because XLA's CPU convolution is slow on them, its weight gradient most
    of all: 1x1 kernels, and a single output channel, where all taps are applied at once and a convolution with ones
    and zeros brings the k * k responses that make a pixel together. Both keep batch and height apart, so that either
    may be split over devices: a matrix of all pixels would have to be gathered first.
    """
    k, _, in_features, features = kernel.shape
    x = x if k == 1 else _without_padding(x)
    if k == 1:
        # A product for each image: summing the gradients of the images' kernels is faster than a product that
        # sums over images and pixels, for which XLA's CPU backend transposes the activations.
        b, height, width = x.shape[:3]
        pixels = x.reshape(b, height * width, in_features)
        kernels = jnp.broadcast_to(kernel[0, 0], (b, in_features, features)).astype(x.dtype)
        out = jnp.einsum("bpi,bio->bpo", pixels, kernels)
        out = out.reshape(b, height, width, features)
    elif features == 1:
        responses = jnp.einsum("bhwi,it->bhwt", x, kernel.reshape(k * k, in_features).T.astype(x.dtype))
        # At the highest precision, as it only adds: TF32 would round the responses.
        out = _same_size(responses, jnp.eye(k * k, dtype=x.dtype).reshape(k, k, k * k, 1), lax.Precision.HIGHEST)
    else:
        out = _same_size(x, kernel.astype(x.dtype))
    # Spread over the image before it is rounded: so its gradient, a sum over the batch, is float32 too.
    return out if bias is None else out + jnp.broadcast_to(bias, out.shape).astype(out.dtype)


def _same_size(x: Array, kernel: Array, precision: lax.Precision | None = None) -> Array:
    padding = [(kernel.shape[0] // 2, kernel.shape[0] // 2)] * 2
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


def pixel_unshuffle(
    x: Float[Array, "b h w c"], factor: int = 2
) -> Float[Array, "b h//{factor} w//{factor} c*{factor}**2"]:
    """Space to depth with PyTorch's channel order (c, dy, dx), c slowest."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, c * factor**2)


def pixel_shuffle(
    x: Float[Array, "b h w c_in"], factor: int = 2
) -> Float[Array, "b h*{factor} w*{factor} c_in//{factor}**2"]:
    """Depth to space, the inverse of `pixel_unshuffle` (Shi et al., CVPR 2016, Eq. 4)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, c // factor**2)


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for Conv2d, for weight and bias alike: U(-b, b) with b = 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Any, dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A convolution of odd size, padded to keep the image's size, initialised as PyTorch does it."""

    in_features: int
    features: int
    kernel_size: int = 3
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declares the parameters, which stay float32 whatever `dtype` the arithmetic has."""
        k = self.kernel_size
        init = torch_uniform(k * k * self.in_features)
        self.kernel = self.param("kernel", init, (k, k, self.in_features, self.features))
        self.bias = self.param("bias", init, (self.features,))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Applies the convolution in `dtype`."""
        return conv2d(x.astype(self.dtype), self.kernel, self.bias)


class PReLU(nn.Module):
    """Parametric ReLU with one learnt slope for all channels, 0.25 at the start (He et al., ICCV 2015)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Computes in the type of `x`; the slope's gradient, a sum over the batch, is float32 whatever that is."""
        slope = self.param("negative_slope", nn.initializers.constant(0.25), ())
        return jnp.where(x >= 0, x, jnp.broadcast_to(slope, x.shape).astype(x.dtype) * x)


class ConvPReLU(nn.Module):
    """Convolution, then PReLU."""

    in_features: int
    features: int
    kernel_size: int = 3
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Applies both."""
        x = Conv(self.in_features, self.features, self.kernel_size, self.dtype, name="conv")(x)
        return PReLU(name="prelu")(x)


class UnshuffleConv(nn.Module):
    """Pixel-unshuffle by 2, then a convolution: the image at half its height and width.

    Computed with the channels of a pixel kept together (dy, dx, c), which moves memory in long runs; the
    kernel, stored in PyTorch's order (c, dy, dx), is permuted to fit, which costs next to nothing.
    """

    in_features: int  # before the unshuffle
    features: int
    kernel_size: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h//2 w//2 o"]:
        """Applies both."""
        conv = Conv(4 * self.in_features, self.features, self.kernel_size, self.dtype, name="conv")
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
        k = self.kernel_size
        kernel = conv.kernel.reshape(k, k, c, 2, 2, -1).transpose(0, 1, 3, 4, 2, 5).reshape(conv.kernel.shape)
        return conv2d(x.astype(self.dtype), kernel, conv.bias)


class ConvShuffle(nn.Module):
    """A convolution, then pixel-shuffle by 2: the image at twice its height and width.

    As in `UnshuffleConv` the kernel is permuted, not the image.
    """

    in_features: int
    features: int  # after the shuffle
    kernel_size: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b 2*h 2*w o"]:
        """Applies both."""
        conv = Conv(self.in_features, 4 * self.features, self.kernel_size, self.dtype, name="conv")
        k, c = self.kernel_size, self.features
        kernel = conv.kernel.reshape(k, k, -1, c, 2, 2).transpose(0, 1, 2, 4, 5, 3).reshape(conv.kernel.shape)
        bias = conv.bias.reshape(c, 2, 2).transpose(1, 2, 0).reshape(4 * c)
        x = conv2d(x.astype(self.dtype), kernel, bias)
        b, h, w, _ = x.shape
        return x.reshape(b, h, w, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c)
