"""A U-Net on a ResNet, which makes features of every pixel of an image.

The encoder is ResNet-18 or ResNet-50 (He et al., CVPR 2016), the latter with the stride in the 3x3 convolutions; the
decoder goes back up in five steps, each with the encoder's features of that size beside it (Ronneberger et al., MICCAI
2015), in the widths of segmentation-models-pytorch 0.2. Batch normalisation keeps its running statistics in the
collection `batch_stats`, and computes and updates them as PyTorch does, so that weights can be exchanged with it.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from ahmf_jax.errors import InputError
from ahmf_jax.layers import conv2d

Encoder = Literal["resnet18", "resnet50"]
Statistics = Literal["global", "local"]
Image = Float[Array, "b h w c"]
Result = Float[Array, "b h2 w2 c2"]  # of another size and number of channels

# Blocks of the encoder's four layers, and how many times wider a block's result is than its 3x3 convolutions.
LAYERS: dict[Encoder, tuple[int, ...]] = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
EXPANSION: dict[Encoder, int] = {"resnet18": 1, "resnet50": 4}
STEM = 64  # channels of the first convolution; layer i has 64 * 2^i in its 3x3 convolutions
DECODER = (256, 128, 64, 32, 16)
# The encoder halves the image five times.
MULTIPLE = 32

MOMENTUM = 0.1
EPSILON = 1e-5

ENCODER_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
DECODER_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
HEAD_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def widths(encoder: Encoder) -> tuple[int, ...]:
    """Channels of the encoder's features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's size."""
    return STEM, *(STEM * 2**i * EXPANSION[encoder] for i in range(4))


def skips(encoder: Encoder) -> tuple[int, ...]:
    """Channels of the encoder's features beside the input of each of the decoder's steps; the last has none."""
    return *widths(encoder)[-2::-1], 0


class Conv(nn.Module):
    """A convolution of odd size without a bias, padded by k // 2, so that stride 2 halves an even size."""

    features: int
    kernel_size: int
    stride: int = 1
    initializer: nn.initializers.Initializer = ENCODER_INIT

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "b h//{self.stride} w//{self.stride} o"]:
        """Applies the convolution."""
        k, stride = self.kernel_size, self.stride
        kernel = self.param("kernel", self.initializer, (k, k, x.shape[-1], self.features))
        if k == 1:
            return conv2d(x[:, ::stride, ::stride], kernel)
        if stride == 1:
            return conv2d(x, kernel)
        padding = [(k // 2, k // 2)] * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, ICML 2015) in PyTorch's conventions.

    A batch is divided by its own standard deviation, the root of the biased variance, and the running variance goes
    towards the unbiased one, a tenth of the way at each step.

    `global`: the statistics are those of the whole batch, over however many devices it is spread. `local`: each share
    of the batch that lies on a device of the mesh's axis `data` has its own, and the running ones follow their mean.
    """

    statistics: Statistics = "global"

    @nn.compact
    def __call__(self, x: Image, train: bool = False) -> Image:
        """Normalises by the running statistics; with `train` by the batch's, which the running ones then follow.

        Raises:
          InputError: in training, a single value for a channel.
        """
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        if not train:
            return (x - running_mean.value) * (scale * lax.rsqrt(running_var.value + EPSILON)) + bias

        count = shares() if self.statistics == "local" else 1
        if x.shape[0] % count:
            raise InputError(f"a batch of {x.shape[0]} cannot be divided over data={count} for local batch statistics")
        parts = x.reshape(count, -1, *x.shape[1:])
        size = parts[0, ..., 0].size
        if size == 1:
            raise InputError(
                "batch normalisation sees a single value of each channel, which has no variance: train on larger "
                "patches or larger batches"
            )
        mean = parts.mean((1, 2, 3), keepdims=True)
        centred = parts - mean
        var = (centred * centred).mean((1, 2, 3), keepdims=True)
        if not self.is_initializing():
            unbiased = var * (size / (size - 1))
            for running, batch in ((running_mean, mean), (running_var, unbiased)):
                running.value += MOMENTUM * (lax.stop_gradient(batch).mean((0, 1, 2, 3)) - running.value)
        return (centred * (scale * lax.rsqrt(var + EPSILON)) + bias).reshape(x.shape)


def shares() -> int:
    """Devices on the axis `data` of the mesh that is set, which a batch is divided over; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.manual_axes else mesh.shape["data"]  # in `jax.shard_map` a device has its share


class BasicBlock(nn.Module):
    """ResNet-18's residual block: two 3x3 convolutions, the first of which may halve the size."""

    width: int
    stride: int
    project: bool  # whether a 1x1 convolution brings the input to the size and channels of the result
    statistics: Statistics

    @nn.compact
    def __call__(self, x: Image, train: bool) -> Result:
        """Applies the block."""
        y = Conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(self.statistics, name="bn1")(y, train))
        y = Conv(self.width, 3, name="conv2")(y)
        y = BatchNorm(self.statistics, name="bn2")(y, train)
        if self.project:
            x = Conv(self.width, 1, self.stride, name="downsample")(x)
            x = BatchNorm(self.statistics, name="downsample_bn")(x, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """ResNet-50's residual block: a 3x3 convolution, which may halve the size, between two of 1x1."""

    width: int
    stride: int
    project: bool
    statistics: Statistics

    @nn.compact
    def __call__(self, x: Image, train: bool) -> Result:
        """Applies the block, the result of which has 4 times `width` channels."""
        features = self.width * EXPANSION["resnet50"]
        y = Conv(self.width, 1, name="conv1")(x)
        y = nn.relu(BatchNorm(self.statistics, name="bn1")(y, train))
        y = Conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(BatchNorm(self.statistics, name="bn2")(y, train))
        y = Conv(features, 1, name="conv3")(y)
        y = BatchNorm(self.statistics, name="bn3")(y, train)
        if self.project:
            x = Conv(features, 1, self.stride, name="downsample")(x)
            x = BatchNorm(self.statistics, name="downsample_bn")(x, train)
        return nn.relu(x + y)


BLOCKS: dict[Encoder, type[BasicBlock] | type[Bottleneck]] = {"resnet18": BasicBlock, "resnet50": Bottleneck}


class ResNet(nn.Module):
    """The encoder: a residual network without the classifier at its end."""

    encoder: Encoder
    statistics: Statistics

    @nn.compact
    def __call__(self, x: Image, train: bool) -> list[Array]:
        """The features of each size, from half of the image's to a 32nd: `widths` says how many."""
        x = Conv(STEM, 7, 2, name="conv1")(x)
        x = nn.relu(BatchNorm(self.statistics, name="bn1")(x, train))
        found = [x]
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for layer, blocks in enumerate(LAYERS[self.encoder]):
            width = STEM * 2**layer
            for number in range(blocks):
                # Layer 1 follows the pooling, which has halved the size already.
                stride = 2 if layer and not number else 1
                project = not number and (stride == 2 or x.shape[-1] != width * EXPANSION[self.encoder])
                block = BLOCKS[self.encoder](width, stride, project, self.statistics, name=f"layer{layer + 1}_{number}")
                x = block(x, train)
            found.append(x)
        return found


class DecoderBlock(nn.Module):
    """A step up: the image twice as large, with the encoder's features of that size beside it, convolved twice."""

    features: int
    statistics: Statistics

    @nn.compact
    def __call__(self, x: Image, skip: Float[Array, "b 2*h 2*w s"] | None, train: bool) -> Float[Array, "b 2*h 2*w o"]:
        """Applies the block."""
        x = x.repeat(2, 1).repeat(2, 2)
        if skip is not None:
            x = jnp.concatenate([x, skip], -1)
        for number in (1, 2):
            x = Conv(self.features, 3, initializer=DECODER_INIT, name=f"conv{number}")(x)
            x = nn.relu(BatchNorm(self.statistics, name=f"bn{number}")(x, train))
        return x


class Decoder(nn.Module):
    """From the encoder's features back to the size of the image, in `DECODER` channels."""

    statistics: Statistics

    @nn.compact
    def __call__(self, features: Sequence[Array], train: bool) -> Image:
        """Applies the steps to what the encoder gave."""
        x, *beside = features[::-1]
        for number, (width, skip) in enumerate(zip(DECODER, [*beside, None], strict=True)):
            x = DecoderBlock(width, self.statistics, name=f"block_{number}")(x, skip, train)
        return x


class Head(nn.Module):
    """The last convolution, 3x3 with a bias and nothing after it."""

    features: int

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "b h w o"]:
        """Applies the convolution."""
        kernel = self.param("kernel", HEAD_INIT, (3, 3, x.shape[-1], self.features))
        return conv2d(x, kernel, self.param("bias", nn.initializers.zeros, (self.features,)))


class UNet(nn.Module):
    """Features of every pixel.

    Attributes:
      channels: how many.
      encoder: the residual network on the way down.
      batch_norm: over what the batch statistics are taken, see `BatchNorm`.
    """

    channels: int = 64
    encoder: Encoder = "resnet50"
    batch_norm: Statistics = "global"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], train: bool = False) -> Float[Array, "b h w {self.channels}"]:
        """Applies the network.

        Args:
          x: images of any number of channels, the height and width multiples of 32.
          train: whether to normalise by the batch's statistics, and have the running ones follow them
            (`mutable=["batch_stats"]`).

        Raises:
          InputError: another size, or in training a batch too small for its statistics.
        """
        if x.shape[1] % MULTIPLE or x.shape[2] % MULTIPLE:
            raise InputError(f"the U-Net is given {x.shape[1]} x {x.shape[2]}: pad to multiples of {MULTIPLE}")
        features = ResNet(self.encoder, self.batch_norm, name="encoder")(x, train)
        return Head(self.channels, name="head")(Decoder(self.batch_norm, name="decoder")(features, train))
