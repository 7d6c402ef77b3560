"""DSCSAN: depth super-resolution by deeply supervised cross-scale attention.

"Depth Map Super-Resolution Reconstruction Based on Deeply Supervised Cross-Scale Attention Network", Acta Electronica
Sinica, 2023. The abstract, the experiments and the tables of it were to be had; its section on the architecture and its
program were not. From the text are: several up-sampling stages, each supervised; residual blocks of two layers, the
inner one wide-activated and the outer one basic; attention of high order within a scale and across scales; and the
ablation from RCAN on. **All else of the design is this project's own**: `docs/dscsan.md` says what.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ahmf_jax import covariance
from ahmf_jax.errors import InputError
from ahmf_jax.layers import (
    Conv,
    ConvShuffle,
    Dtype,
    Unroll,
    continued,
    over_levels,
    padded_image,
    size_there,
    whole,
    within,
)
from ahmf_jax.models.base import Model
from ahmf_jax.resample import resize

Block = Literal["brb", "rcab"]
SCALES = (2, 4, 8, 16)
CELLS = (1, 2, 4)  # sides of the cells of the attention's scales, in pixels of the map
WIDENED = 2  # features inside a bilayer block for each outside
REDUCTION = 16  # features of an RCAB for each of its attention's

Depth = Float[Array, "b h w 1"]
Image = Float[Array, "b h w c"]
Gates = Float[Array, "b k f"]


class BilayerResidualBlock(nn.Module):
    """BRB: a residual block of wide activation (as in WDSR, Yu et al., 2018) inside a basic one."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Keeps size and channels."""
        f, wide = self.features, WIDENED * self.features
        u = nn.relu(Conv(f, f, dtype=self.dtype, name="conv_1")(x))
        v = nn.relu(Conv(f, wide, dtype=self.dtype, name="widen")(u))
        v = u + Conv(wide, f, dtype=self.dtype, name="narrow")(v)
        return x + Conv(f, f, dtype=self.dtype, name="conv_2")(v)


class ResidualChannelAttentionBlock(nn.Module):
    """RCAB of RCAN (Zhang et al., ECCV 2018, Eq. 9): channels weighed by their means over the map."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Keeps size and channels."""
        f, few = self.features, max(self.features // REDUCTION, 1)
        y = nn.relu(Conv(f, f, dtype=self.dtype, name="conv_1")(x))
        y = Conv(f, f, dtype=self.dtype, name="conv_2")(y)
        gate = nn.relu(Conv(f, few, 1, name="squeeze")(_mean(y)))
        gate = nn.sigmoid(Conv(few, f, 1, name="excite")(gate))
        return x + jnp.broadcast_to(gate, y.shape).astype(y.dtype) * y


class CrossScaleAttention(nn.Module):
    """HOCSA: the channels of three scales weighed by what they have in common within a scale and across scales.

    The map is averaged over cells, and a convolution makes half as many channels of each scale's. What they have in
    common, with every scale, is a row of `covariance.correlations` for each channel; the means of these rows make the
    gates. The statistics and the gates are float32 whatever `dtype` is.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Image, part: covariance.Region | None, moments: Sequence[covariance.Moments] | None
    ) -> tuple[Image, Gates, Sequence[covariance.Moments]]:
        """Adds the weighed scales to a map.

        Args:
          x: (B, h, w, features), of any size.
          part: of the map, where the statistics are taken; all that is there by default.
          moments: of each scale, in place of the map's own.

        Returns:
          The map, the gates (B, scales, features // 2), and the moments that were used.
        """
        c, scales, size = self.features // 2, len(CELLS), size_there(x)
        sizes = [None if size is None else covariance.cells_of(size, cell) for cell in CELLS]
        maps = []
        for k, (cell, there) in enumerate(zip(CELLS, sizes, strict=True), 1):
            averaged = covariance.pooled(x, cell, size)
            with padded_image(averaged.shape[1], there):
                maps.append(nn.relu(Conv(self.features, c, dtype=self.dtype, name=f"scale_{k}")(averaged)))
        if moments is None:
            moments = covariance.gathered(maps, CELLS, size, part)
        weighed, gates = [], []
        for k, (row, image) in enumerate(zip(covariance.correlations(moments, c), maps, strict=True), 1):
            described = jnp.concatenate([jnp.mean(matrix, -1) for matrix in row], -1)[:, None, None]
            hidden = nn.relu(Conv(scales * c, scales * c // 4, 1, name=f"squeeze_{k}")(described))
            gate = nn.sigmoid(Conv(scales * c // 4, c, 1, name=f"excite_{k}")(hidden))
            gates.append(gate[:, 0, 0])
            weighed.append(jnp.broadcast_to(gate, image.shape).astype(image.dtype) * image)
        enlarged = [
            _enlarged(image, cell, there)[:, : x.shape[1], : x.shape[2]]
            for image, cell, there in zip(weighed, CELLS, sizes, strict=True)
        ]
        merged = Conv(scales * c, self.features, 1, self.dtype, name="merge")(jnp.concatenate(enlarged, -1))
        return x + merged, jnp.stack(gates, 1), moments


BLOCKS: dict[Block, type[nn.Module]] = {"brb": BilayerResidualBlock, "rcab": ResidualChannelAttentionBlock}
BLOCK_REACH: dict[Block, int] = {"brb": 4, "rcab": 2}
# Of an attention: a place of the coarsest scale's reads the cells beside it when it is enlarged, and these those beside
# them by the convolution.
ATTENTION_REACH = 3 * CELLS[-1] - 1


class Body(nn.Module):
    """Groups of residual blocks, each with an attention at its end; a convolution; and all of it added to the map."""

    groups: int
    blocks: int
    features: int
    block: Block
    attention: bool
    dtype: Dtype = jnp.float32
    unroll: Unroll = "auto"

    @nn.compact
    def __call__(
        self, x: Image, part: covariance.Region | None, given: Sequence[Any]
    ) -> tuple[Image, list[Gates], list[Any]]:
        """The map, the gates of every group, and the moments of every group, of which the first may be given."""
        gates, used = [], []
        y = x
        for group in range(self.groups):
            z = self._blocks(f"group_{group + 1}_blocks", y)
            if self.attention:
                attention = CrossScaleAttention(self.features, self.dtype, name=f"group_{group + 1}_attention")
                z, gate, moments = attention(z, part, given[group] if group < len(given) else None)
                gates.append(gate)
                used.append(moments)
            y = y + Conv(self.features, self.features, dtype=self.dtype, name=f"group_{group + 1}_conv")(z)
        return x + Conv(self.features, self.features, dtype=self.dtype, name="conv")(y), gates, used

    def _blocks(self, name: str, x: Image) -> Image:
        """A group's blocks, in turn; their parameters lie in one array."""
        block = BLOCKS[self.block](self.features, dtype=self.dtype, name=name)  # type: ignore[call-arg]

        def step(module: Any, x: Image, _: None) -> tuple[Image, None]:
            return module(x), None

        return over_levels(step, self.blocks, self.unroll, "none")(block, x, None)[0]


class DSCSAN(Model):
    """The network. `apply({"params": p}, depth_lr)` gives `(depth_hr, aux)`.

    Fields:
      scale: up-sampling factor, one of 2, 4, 8, 16: as many doublings as its logarithm.
      groups: of residual blocks: of each stage, or, if not `progressive`, of all.
      blocks: in a group.
      features: channels of a map, an even number.
      block: `"brb"`, the bilayer residual block, or RCAN's `"rcab"`.
      attention: whether a group ends in the cross-scale attention.
      progressive: whether each doubling is a stage of its own, with groups and an output that can be supervised; all
        groups see the low resolution otherwise, as in RCAN.
      interpolated: whether what the network makes is added to interpolated depth (MATLAB's bicubic), stage by stage;
        RCAN as published does without.
      dtype: of the features, float32 or bfloat16; parameters, statistics and depth are float32 always.
      unroll: blocks of a group that are unrolled in the compiled program; `"auto"` is all of them on the CPU and 1, a
        loop, elsewhere.

    The paper's Table 4: C1 is `rcab` without attention and stages, C2 that with attention, C3 `brb` in place of `rcab`,
    C4 both, and C5, these fields as they are by default, C4 in stages: `ahmf_jax.dscsan_forms`.
    """

    scale: int = 8
    groups: int = 4
    blocks: int = 7
    features: int = 64
    block: Block = "brb"
    attention: bool = True
    progressive: bool = True
    interpolated: bool = True
    dtype: Dtype = jnp.float32
    unroll: Unroll = "auto"

    guided = False
    paddable = True

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        choices: list[tuple[str, Sequence[Any]]] = [("scale", SCALES), ("block", get_args(Block))]
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} {getattr(self, name)!r} is not one of {', '.join(map(str, allowed))}")
        for name in ("groups", "blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.features < 4 or self.features % 2:
            raise InputError(f"features is {self.features}: an even number of channels is needed, at least 4")
        super().__post_init__()

    @property
    def steps(self) -> int:
        """How often the size is doubled."""
        return int(math.log2(self.scale))

    @property
    def outputs(self) -> int:
        """How many outputs there are, the last included."""
        return self.steps if self.progressive else 1

    @property
    def corrections(self) -> tuple[tuple[str, ...], ...]:
        """The last convolution of every stage, where depth is added to what it makes."""
        return tuple((f"output_{stage}",) for stage in range(1, self.outputs + 1)) if self.interpolated else ()

    @property
    def pools(self) -> int:
        """How many attentions there are: the statistics of each depend on the gates of those before it.

        RCAN's blocks have means of their own, which are not gathered: a tile of them takes its own.
        """
        return self.outputs * self.groups if self.attention and self.block == "brb" else 0

    @property
    def sees_whole(self) -> bool:
        """Of its attentions and of RCAN's blocks, each, all of it is computed."""
        return self.attention or self.block == "rcab"

    @property
    def reach(self) -> int:
        """How many low-resolution samples away an input can be that an output depends on, the statistics given.

        Tiles of bilayer blocks are exact; each of RCAN's blocks weighs channels by the tile's own means.
        """
        group = BLOCK_REACH[self.block] * self.blocks + self.attention * ATTENTION_REACH + 1
        body = group * self.groups + 1
        reach = 1  # the last convolution
        for _ in range(self.outputs):
            for _ in range(self.steps // self.outputs):
                reach = math.ceil(reach / 2) + 1
            reach = max(reach + body, 3)  # interpolation reads two samples to either side, of what was interpolated
        return math.ceil((reach + 1) / CELLS[-1]) * CELLS[-1]  # so that what counts of a tile begins with a cell, too

    @property
    def pooled_reach(self) -> int:
        """How many low-resolution samples away an input can be that the statistics at a place depend on."""
        return self.reach

    @property
    def stride(self) -> int:
        """What windows begin at multiples of, in pixels of the result: the attention's cells are then the image's."""
        return CELLS[-1] * self.scale if self.attention else 1

    @property
    def least_rows(self) -> int:
        """So many that a device has two of the attention's largest cells: with one, XLA's gradient may be 1 % off."""
        return super().least_rows * (CELLS[-1] if self.attention else 1)

    @property
    def bytes_per_sample(self) -> float:
        """About the memory that a low-resolution sample takes while it is computed, as `memory_analysis` tells it."""
        finest = (self.scale // 2) ** 2 if self.progressive else 1
        return 4.0 * self.features * max(8.0 * finest, 2.0 * self.scale**2)

    @property
    def least_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of a group's convolution and of one in all of its blocks, by which features and blocks are bounded."""
        f = self.features
        return {
            "body_1/conv/kernel": (3, 3, f, f),
            "body_1/group_1_blocks/conv_1/kernel": (self.blocks, 3, 3, f, f),
            f"body_{self.outputs}/group_{self.groups}_conv/bias": (f,),
        }

    def summary(self) -> str:
        """Scale and size, and what of Table 4 it is without."""
        lacks = [] if self.block == "brb" else ["RCAB"]
        lacks += [] if self.attention else ["no attention"]
        lacks += [] if self.progressive else ["no stages"]
        size = f"{self.groups} x {self.blocks} blocks, {self.features} features"
        return ", ".join([f"DSCSAN x{self.scale}", size, *lacks])

    @nn.compact
    def __call__(
        self,
        depth_lr: Depth,
        guide: Float[Array, "b H W c"] | None = None,
        *,
        mask_lr: Bool[Array, "b h w 1"] | None = None,
        train: bool = False,
        size: Int[Array, "2"] | None = None,
        part: covariance.Region | None = None,
        pooled: Sequence[Any] = (),
    ) -> tuple[Float[Array, "b H W 1"], dict[str, Any]]:
        """Super-resolves a batch.

        Args:
          depth_lr: (B, h, w, 1), any h and w; finite, holes filled, scaled to about [0, 1].
          guide, mask_lr, train: of every model; none changes this one.
          size: the rows and columns of `depth_lr` that are there, where the rest is padding (to the right and below).
            It has no influence on the output within them.
          part: where the attentions take their statistics, `(top, bottom, left, right)` of `depth_lr`, of which top and
            left are multiples of 4; all that is there by default.
          pooled: moments for the first attentions to use in place of their own, as `aux["pooled"]` has them: those of
            the whole image, where this is a tile of it. With those of all, outputs at least `reach` away from the
            tile's edges are the image's.

        Returns:
          `depth_hr` (B, scale * h, scale * w, 1) float32, in the scale of `depth_lr`, and `aux`: `stages`, the outputs
          before the last, (B, 2h, 2w, 1) first; `attention`, the gates of every attention in turn, finest scale first,
          (B, 3, features // 2); `pooled`, the moments that each of them used (`covariance.gathered`).

        Raises:
          InputError: `depth_lr` is of another shape.
        """
        self.output_size(depth_lr)  # of depth of another shape it has none
        depth = depth_lr.astype(jnp.float32)
        outputs: list[Depth] = []
        gates: list[Gates] = []
        used: list[Any] = []
        with padded_image(depth_lr.shape[1], size):
            x = Conv(1, self.features, name="input")(depth).astype(self.dtype)
            for stage in range(1, self.outputs + 1):
                body = Body(
                    self.groups,
                    self.blocks,
                    self.features,
                    self.block,
                    self.attention,
                    self.dtype,
                    self.unroll,
                    name=f"body_{stage}",
                )
                where = None if part is None else part * (depth.shape[1] // depth_lr.shape[1])
                x, of_groups, moments = body(x, where, pooled[len(used) :])
                gates += of_groups
                used += moments
                for doubling in range(self.steps // self.outputs):
                    up = ConvShuffle(self.features, self.features, 3, self.dtype, name=f"up_{stage + doubling}")
                    x = up(x)
                    depth = _doubled(depth)
                made = Conv(self.features, 1, name=f"output_{stage}")(x.astype(jnp.float32))
                depth = depth + made if self.interpolated else made
                outputs.append(depth)
        aux = {"stages": tuple(outputs[:-1]), "attention": tuple(gates), "pooled": tuple(used)}
        return outputs[-1], aux


def _mean(x: Image) -> Float[Array, "b 1 1 c"]:
    """Of every channel over what is there of a map, float32."""
    x = x.astype(jnp.float32)
    size = size_there(x)
    if size is None:
        return jnp.mean(x, (1, 2), keepdims=True)
    there = within(x, whole(size))
    return jnp.sum(jnp.where(there, x, 0), (1, 2), keepdims=True) / (size[0] * size[1])


def _enlarged(x: Image, factor: int, size: Int[Array, "2"] | None) -> Float[Array, "b {factor}*h {factor}*w c"]:
    """A map of cells at its pixels' resolution, bilinear; the last cells are whole there."""
    if factor == 1:
        return x
    x = x if size is None else continued(x, size)
    return resize(x, (factor * x.shape[1], factor * x.shape[2]), "torch_bilinear")


def _doubled(depth: Depth) -> Float[Array, "b 2*h 2*w 1"]:
    """Depth at twice its size by MATLAB's bicubic, which mirrors what is there about its edges."""
    height, width = depth.shape[1:3]
    size = size_there(depth)
    if size is not None:  # of which as much is needed beside it as is read, however little is padded
        depth = continued(jnp.pad(depth, [(0, 0), (0, 2), (0, 2), (0, 0)]), size, mirrored=2)
    doubled = resize(depth, (2 * depth.shape[1], 2 * depth.shape[2]), "matlab_bicubic")
    return doubled[:, : 2 * height, : 2 * width]
