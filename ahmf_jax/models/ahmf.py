"""AHMF: attention-based hierarchical multi-modal fusion for guided depth super-resolution.

Zhong, Liu, Jiang, Zhao, Chen, Ji: "High-resolution Depth Maps Imaging via Attention-based Hierarchical
Multi-modal Fusion", IEEE TIP 2022 (arXiv 2104.01530). Section and equation numbers below are the paper's.

The paper's equations and the authors' released program describe two different networks. Both are here:
`variant="release"`, the graph of the published weights and the default, and `variant="paper"`. The parts in
which they differ, and which can be swapped one by one, are told in `ahmf_jax.variants`; every block here is
given the variant whose form it has.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ahmf_jax.errors import InputError
from ahmf_jax.layers import (
    Conv,
    ConvPReLU,
    ConvShuffle,
    Dtype,
    PReLU,
    Remat,
    Unroll,
    UnshuffleConv,
    conv2d,
    over_levels,
    padded_image,
    recomputed,
    whole,
    within,
)
from ahmf_jax.models.base import Model
from ahmf_jax.resample import resize
from ahmf_jax.variants import GRU_LAYERS, Forms, Part, Variant, check_blocks

Fusion = Literal["feb_frb", "feb", "frb", "concat"]
Recurrence = Literal["both", "forward", "backward", "none"]
SCALES = (2, 4, 8, 16, 32)
# Kernel of the down- and up-sampling convolutions by log2(scale). The paper has 1, 3, 5 for x4, x8, x16;
# x2 takes the smallest, x32 the largest.
STAGE_KERNEL = {1: 1, 2: 1, 3: 3, 4: 5, 5: 5}

Image = Float[Array, "b h w c"]
Levels = Float[Array, "m b h w c"]  # an image a level, level 1 first
Region = Int[Array, "4"]  # of an image: top, bottom, left, right in low-resolution samples
# "mean" and "variance" of the FRB's channels, (B, c), and the "count" of places, (1, 1); by level with a leading axis.
Pooled = dict[str, Float[Array, "..."]]


def next_level(level: nn.Module, x: Image, _: None) -> tuple[Image, Image]:
    """A step whose output is what the next level starts from."""
    x = level(x)  # type: ignore[operator]
    return x, x


def each_level(block: nn.Module, carry: None, x: Any) -> tuple[None, Any]:
    """A step of levels that know nothing of each other; `x` is the block's argument or a tuple of them."""
    return carry, block(*x) if isinstance(x, tuple) else block(x)  # type: ignore[operator]


class FeatureEnhancementBlock(nn.Module):
    """FEB (Eq. 10, 11): features gated by an attention map of their own, PReLU(conv) * sigmoid(conv)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Both convolutions read the same input, so they are computed as one of twice the width."""
        feature = Conv(self.features, self.features, 3, self.dtype, name="feature")
        attention = Conv(self.features, self.features, 3, self.dtype, name="attention")
        kernel = jnp.concatenate([feature.kernel, attention.kernel], -1)
        bias = jnp.concatenate([feature.bias, attention.bias])
        value, gate = jnp.split(conv2d(x.astype(self.dtype), kernel, bias), 2, -1)
        return PReLU(name="prelu")(value) * nn.sigmoid(gate)


class FeatureRecalibrationBlock(nn.Module):
    """FRB (Eq. 12-16): one weight per channel and modality, from statistics pooled over the whole map.

    `paper`: mean + standard deviation, excitation by PReLU, `E_d * F_d + E_y * F_y`.
    `release`: mean + variance of half as many channels, excitation by sigmoid, half that sum.
    The statistics are float32 whatever `dtype` is: a variance in bfloat16 would be noise.
    """

    features: int
    forms: Forms = Forms()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, depth: Image, guide: Image, part: Region | None = None, pooled: Pooled | None = None
    ) -> tuple[Image, Float[Array, "b c"], Float[Array, "b c"], Pooled]:
        """Fuses a level.

        Args:
          depth, guide: the enhanced features.
          part: where the statistics are taken; the whole map by default.
          pooled: statistics to use in place of this map's own: those of the image that it is a tile of.

        Returns:
          The fused features, the two excitations `E_d` and `E_y`, and the statistics that were used.
        """
        squeezed = self.features // 2 if self.forms("squeeze") == "release" else self.features
        both = jnp.concatenate([depth, guide], -1)
        stack = ConvPReLU(2 * self.features, squeezed, 3, self.dtype, name="squeeze")(both).astype(jnp.float32)
        pooled = moments(stack, part) if pooled is None else pooled
        mean, spread = (pooled[name][:, None, None] for name in ("mean", "variance"))
        if self.forms("statistics") == "paper":
            spread = jnp.sqrt(spread + 1e-12)  # the epsilon keeps the gradient finite on a constant map
        excitations = []
        for name in ("excite_depth", "excite_guide"):
            excitation = Conv(squeezed, self.features, 1, name=name)(mean + spread)
            gate = nn.sigmoid if self.forms("excitation") == "release" else PReLU(name=f"{name}_prelu")
            excitations.append(gate(excitation))
        # Spread over the map before the rounding, so that their gradients, sums over the map, are float32 as well.
        e_depth, e_guide = (jnp.broadcast_to(e, depth.shape).astype(self.dtype) for e in excitations)
        fused = e_depth * depth + e_guide * guide
        fused = fused / 2 if self.forms("halving") == "release" else fused
        return fused, e_depth[:, 0, 0], e_guide[:, 0, 0], pooled


def moments(x: Image, part: Region | None = None) -> Pooled:
    """Mean and (biased) variance of every channel, over the whole map or a part of it."""
    if part is None:
        count = jnp.full((1, 1), x.shape[1] * x.shape[2], x.dtype)
        return {"count": count, "mean": jnp.mean(x, (1, 2)), "variance": jnp.var(x, (1, 2))}
    inside = within(x, part)
    top, bottom, left, right = part
    count = ((bottom - top) * (right - left)).astype(x.dtype)
    mean = jnp.sum(jnp.where(inside, x, 0), (1, 2), keepdims=True) / count
    variance = jnp.sum(jnp.where(inside, x - mean, 0) ** 2, (1, 2)) / count
    return {"count": count[None, None], "mean": mean[:, 0, 0], "variance": variance}


class ResidualBlock(nn.Module):
    """Res(.) of Eq. 17: x + conv(PReLU(conv x)); in the release with one more PReLU around the sum."""

    features: int
    form: Variant = "release"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Keeps size and channels."""
        y = ConvPReLU(self.features, self.features, 3, self.dtype, name="conv_1")(x)
        x = x + Conv(self.features, self.features, 3, self.dtype, name="conv_2")(y)
        return PReLU(name="prelu")(x) if self.form == "release" else x


class MMAF(nn.Module):
    """Multi-modal attention based fusion of one level (section IV, Eq. 6): FEB per modality, then FRB.

    Without FRB the two features are concatenated and reduced by a 1x1 convolution. The release has a
    residual block after the fusion, with or without FRB.
    """

    features: int
    forms: Forms = Forms()
    fusion: Fusion = "feb_frb"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, depth: Image, guide: Image, part: Region | None = None, pooled: Pooled | None = None
    ) -> tuple[Image, dict[str, Any], Pooled]:
        """Returns the fused features, the excitations by name, and the FRB's statistics (both empty without FRB)."""
        attention: dict[str, Any] = {}
        used: Pooled = {}
        if self.fusion in ("feb", "feb_frb"):
            depth = FeatureEnhancementBlock(self.features, self.dtype, name="depth_feb")(depth)
            guide = FeatureEnhancementBlock(self.features, self.dtype, name="guide_feb")(guide)
        if self.fusion in ("frb", "feb_frb"):
            frb = FeatureRecalibrationBlock(self.features, self.forms, self.dtype, name="frb")
            fused, e_depth, e_guide, used = frb(depth, guide, part, pooled)
            attention = {"depth": e_depth, "guide": e_guide}
        else:
            both = jnp.concatenate([depth, guide], -1)
            fused = Conv(2 * self.features, self.features, 1, self.dtype, name="reduce")(both)
        if self.forms("residual") == "release":
            fused = ResidualBlock(self.features, self.forms("activation"), self.dtype, name="residual")(fused)
        return fused, attention, used


class ConvGRUCell(nn.Module):
    """One step of a convolutional GRU with 3x3 gates (Eq. 18-21).

    z = sigmoid(conv[x, h]), r = sigmoid(conv[x, h]), c = tanh(conv[x, r * h]), h' = (1 - z) h + z c.
    The kernels are stored for the concatenation, input first, and applied in two halves: what the input
    contributes to all three gates is one convolution, and the first step, whose state is zero, needs
    nothing else.
    """

    features: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declares the gates under their usual names."""
        self.update_gate = Conv(2 * self.features, self.features, 3)
        self.reset_gate = Conv(2 * self.features, self.features, 3)
        self.out_gate = Conv(2 * self.features, self.features, 3)

    def _project(self, x: Image) -> Sequence[Image]:
        gates = (self.update_gate, self.reset_gate, self.out_gate)
        kernel = jnp.concatenate([gate.kernel[:, :, : self.features] for gate in gates], -1)
        bias = jnp.concatenate([gate.bias for gate in gates])
        return jnp.split(conv2d(x, kernel, bias), 3, -1)

    def start(self, x: Image) -> Image:
        """The state after the first input, from the zero state."""
        update, _, out = self._project(x)
        return nn.sigmoid(update) * jnp.tanh(out)

    def __call__(self, h: Image, x: Image) -> Image:
        """The next state."""
        update, reset, out = self._project(x)
        gates = (self.update_gate, self.reset_gate)
        kernel = jnp.concatenate([gate.kernel[:, :, self.features :] for gate in gates], -1)
        h_update, h_reset = jnp.split(conv2d(h, kernel), 2, -1)
        z = nn.sigmoid(update + h_update)
        r = nn.sigmoid(reset + h_reset)
        c = jnp.tanh(out + conv2d(r * h, self.out_gate.kernel[:, :, self.features :]))
        return (1 - z) * h + z * c


class ConvGRU(nn.Module):
    """A ConvGRU of one or more layers, over the levels from the zero state; layer l + 1 reads layer l."""

    features: int
    num_layers: int
    dtype: Dtype = jnp.float32
    unroll: Unroll = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(self, xs: Levels, reverse: bool = False) -> Levels:
        """Maps the inputs to the last layer's states, level by level; `reverse` starts at the deepest."""

        def step(cell: ConvGRUCell, h: Image, x: Image) -> tuple[Image, Image]:
            h = cell(h, x)
            return h, h

        start = recomputed(ConvGRUCell.start, self.remat)
        for layer in range(self.num_layers):
            cell = ConvGRUCell(self.features, self.dtype, name=f"layer_{layer}")
            first, rest = (xs[-1:], xs[:-1]) if reverse else (xs[:1], xs[1:])
            state = start(cell, first[0])
            xs = state[None]
            if len(rest):
                scan = over_levels(step, len(rest), self.unroll, self.remat, shared=True, reverse=reverse)
                _, states = scan(cell, state, rest)
                xs = jnp.concatenate([states, xs] if reverse else [xs, states])
        return xs


class BHFC(nn.Module):
    """Bi-directional hierarchical feature collaboration (section V, Eq. 7 and 17-21).

    One ConvGRU runs over the levels in order, the release's deepest first, and one against it; the sum of their
    states goes through a residual block per level. With `recurrence="none"` the fused features go straight there.
    """

    features: int
    forms: Forms = Forms()
    recurrence: Recurrence = "both"
    dtype: Dtype = jnp.float32
    unroll: Unroll = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(self, fused: Levels) -> Levels:
        """Refines the fused features."""
        if self.recurrence != "none":
            deepest_first = self.forms("order") == "release"
            layers = GRU_LAYERS[self.forms("gru_layers")]
            states = []
            for direction, reverse in (("forward", deepest_first), ("backward", not deepest_first)):
                if self.recurrence in (direction, "both"):
                    gru = ConvGRU(self.features, layers, self.dtype, self.unroll, self.remat, name=f"{direction}_gru")
                    states.append(gru(fused, reverse=reverse))
            fused = sum(states[1:], states[0])
        refine = ResidualBlock(self.features, self.forms("activation"), self.dtype, name="refine")
        return over_levels(each_level, len(fused), self.unroll, self.remat)(refine, None, fused)[1]


class GuidanceHead(nn.Module):
    """The guide's features of level 1, at the depth's resolution (Eq. 1 and 3)."""

    scale: int
    features: int
    form: Variant = "release"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, guide: Float[Array, "b H W g"]) -> Float[Array, "b H//{self.scale} W//{self.scale} f"]:
        """(B, s*h, s*w, C) -> (B, h, w, features)."""
        stages = int(math.log2(self.scale))
        k = STAGE_KERNEL[stages]
        x, c = guide.astype(self.dtype), guide.shape[-1]
        if self.form == "release":
            x, c = ConvPReLU(c, self.features, 3, self.dtype, name="input")(x), self.features
        for stage in range(stages):
            # In the paper the last unshuffle feeds level 1's own 3x3 convolution.
            size = 3 if self.form == "paper" and stage == stages - 1 else k
            x = UnshuffleConv(c, self.features, size, self.dtype, name=f"down_{stage}")(x)
            x, c = PReLU(name=f"down_{stage}_prelu")(x), self.features
        return x


class Reconstruction(nn.Module):
    """From the refined features of all levels to the high-resolution residual (Eq. 8).

    Each stage is a block of its own to `remat`: this runs at full resolution, and what it recomputes is held
    while everything that comes before is held as well.
    """

    scale: int
    features: int
    form: Variant = "release"
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, refined: Image) -> Float[Array, "b h*{self.scale} w*{self.scale} 1"]:
        """(B, h, w, levels * features) -> (B, s*h, s*w, 1)."""
        stages = int(math.log2(self.scale))
        k = STAGE_KERNEL[stages]
        release = self.form == "release"

        def reduce(module: nn.Module, x: Image) -> Float[Array, "b h w f"]:
            x = Conv(x.shape[-1], self.features, 1, self.dtype, name="reduce")(x)
            return PReLU(name="reduce_prelu")(x) if release else x

        def up(module: nn.Module, x: Image, stage: int) -> Float[Array, "b 2*h 2*w c"]:
            x = ConvShuffle(self.features, self.features, k, self.dtype, name=f"up_{stage}")(x)
            return PReLU(name=f"up_{stage}_prelu")(x)

        x = recomputed(reduce, self.remat)(self, refined)
        for stage in range(stages if release else stages - 1):
            x = recomputed(functools.partial(up, stage=stage), self.remat)(self, x)
        if release:
            return Conv(self.features, 1, 3, self.dtype, name="output")(x)
        return ConvShuffle(self.features, 1, k, self.dtype, name="output")(x)


class AHMF(Model):
    """The network. `apply({"params": p}, depth_lr, guide)` gives `(depth_hr, aux)`.

    Fields:
      scale: up-sampling factor, one of 2, 4, 8, 16, 32.
      num_levels: the paper's m, the number of feature levels, at least 1.
      features: channels of every intermediate feature.
      variant: `"release"` (the published weights' graph) or `"paper"` (its equations).
      swapped: the parts that are the other variant's (`ahmf_jax.variants`), kept in the order that they have there.
      fusion: the blocks of MMAF: `"feb_frb"`, only `"feb"` or `"frb"`, or plain `"concat"`.
      recurrence: the directions of BHFC: `"both"`, `"forward"`, `"backward"` or `"none"`.
        Table VI's Models 0-6 are concat/none, feb/none, frb/none, feb_frb/none, feb_frb/forward,
        feb_frb/backward and feb_frb/both.
      dtype: of the arithmetic, float32 or bfloat16; parameters, pooled statistics, the bicubic residual
        and the output are float32 always.
      unroll: levels unrolled in the compiled program, where they are computed one after the other; `"auto"` is
        all of them on the CPU and 1, a loop, elsewhere.
      remat: what the backward pass computes again instead of keeping it: `"none"`, nothing; `"convs"`, all
        but the results of convolutions and matrix products; `"blocks"`, all but the inputs of the blocks.
    """

    scale: int
    num_levels: int = 4
    features: int = 64
    variant: Variant = "release"
    fusion: Fusion = "feb_frb"
    recurrence: Recurrence = "both"
    dtype: Dtype = jnp.float32
    unroll: Unroll = "auto"
    remat: Remat = "none"
    swapped: tuple[Part, ...] = ()

    paddable = True

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        choices: list[tuple[str, Any, Sequence[Any]]] = [
            ("scale", self.scale, SCALES),
            ("variant", self.variant, get_args(Variant)),
            ("fusion", self.fusion, get_args(Fusion)),
            ("recurrence", self.recurrence, get_args(Recurrence)),
            ("remat", self.remat, get_args(Remat)),
        ]
        for name, value, allowed in choices:
            if value not in allowed:
                raise InputError(f"{name} {value!r} is not one of {', '.join(map(str, allowed))}")
        if self.num_levels < 1:
            raise InputError(f"num_levels is {self.num_levels}: the network has at least 1 level")
        if self.features < 2 or self.features % 2:
            raise InputError(f"features is {self.features}: an even number of channels is needed (the FRB halves it)")
        if self.unroll != "auto" and self.unroll < 1:
            raise InputError(f'unroll is {self.unroll}: give a number of steps, at least 1, or "auto"')
        self.swapped = Forms(self.variant, self.swapped).swapped
        check_blocks(self.swapped, self.fusion, self.recurrence)
        super().__post_init__()

    @property
    def corrections(self) -> tuple[tuple[str, ...], ...]:
        """The last convolution."""
        return (("reconstruction", "output"),)

    @property
    def forms(self) -> Forms:
        """Whose form each part has."""
        return Forms(self.variant, self.swapped)

    @property
    def level_order(self) -> list[int]:
        """The levels, 1-based, in the order in which BHFC sees them: the release runs deepest first."""
        levels = list(self._levels)
        return levels[::-1] if self.forms("order") == "release" else levels

    @property
    def pools(self) -> int:
        """1 where an output depends on the whole map: on the FRB's statistics of it, of all levels at once."""
        return int(self.fusion in ("frb", "feb_frb"))

    @property
    def reach(self) -> int:
        """How many low-resolution samples away an input can be that an output depends on, the statistics given.

        Tiles are exact.
        """
        forms = self.forms
        block = 2 if forms("residual") == "release" else 0
        fused = [self._enhanced_reach(level) + block for level in self.level_order]
        forward = self._recurrent_reach(fused)
        backward = self._recurrent_reach(fused[::-1])
        states = {"none": fused, "forward": forward, "backward": backward, "both": forward + backward}
        stages = int(math.log2(self.scale))
        up = sum(STAGE_KERNEL[stages] // 2 / 2**stage for stage in range(stages))
        up += 1 / self.scale if forms("reconstruction") == "release" else 0
        return max(max(states[self.recurrence]) + 2 + math.ceil(up), 2)

    @property
    def pooled_reach(self) -> int:
        """How many low-resolution samples away an input can be that the FRB's statistics at a place depend on."""
        return self._enhanced_reach(self.num_levels) + 1

    @property
    def bytes_per_sample(self) -> float:
        """About the memory that a low-resolution sample takes while it is computed, as `memory_analysis` tells it.

        The most is held either in the guide's head and the reconstruction, two maps of features at full resolution, or
        between the levels, of which each keeps seven maps.
        """
        maps = max(2.3 * self.scale**2, 7.5 * self.num_levels + 5)
        return float(jnp.dtype(self.dtype).itemsize * self.features * maps)

    @property
    def least_shapes(self) -> dict[str, tuple[int, ...]]:
        """One tensor, whose size bounds both the levels and the features."""
        return {"reconstruction/reduce/kernel": (1, 1, self.num_levels * self.features, self.features)}

    def summary(self) -> str:
        """Scale and m."""
        return f"x{self.scale}, m = {self.num_levels}"

    @property
    def _levels(self) -> range:
        return range(1, self.num_levels + 1)

    def _enhanced_reach(self, level: int) -> int:
        stages = int(math.log2(self.scale))
        sizes = [STAGE_KERNEL[stages]] * stages
        release = self.forms("guidance_head") == "release"
        if not release:
            sizes[-1] = 3
        pixels = sum(size // 2 * 2 ** (stage + 1) for stage, size in enumerate(sizes)) + release
        head = max(1, math.ceil(pixels / self.scale))
        return head + level - 1 + (self.fusion in ("feb", "feb_frb"))

    def _recurrent_reach(self, xs: list[int]) -> list[int]:
        for _ in range(GRU_LAYERS[self.forms("gru_layers")]):
            # An input passes two convolutions, the reset gate's and the output's; the first has no state to reset.
            after = [xs[0] + 1]
            for x in xs[1:]:
                after.append(max(after[-1], x) + 2)
            xs = after
        return xs

    @nn.compact
    def __call__(
        self,
        depth_lr: Float[Array, "b h w 1"],
        guide: Float[Array, "b H W c"],
        *,
        mask_lr: Bool[Array, "b h w 1"] | None = None,
        train: bool = False,
        size: Int[Array, "2"] | None = None,
        part: Region | None = None,
        pooled: Sequence[Pooled] = (),
    ) -> tuple[Float[Array, "b H W 1"], dict[str, Any]]:
        """Super-resolves a batch.

        Args:
          depth_lr: (B, h, w, 1), any h and w; finite, holes filled, scaled to about [0, 1].
          guide: (B, scale * h, scale * w, C) in [0, 1], any number of channels.
          mask_lr, train: of every model; neither changes this one, which sees holes filled and draws nothing.
          size: the rows and columns of `depth_lr` that are there, where the rest is padding (to the right and below),
            in which the depth repeats its last row and column. It has no influence on the output within them.
          part: where the FRB takes its statistics, `(top, bottom, left, right)` of `depth_lr`; all that is there by
            default.
          pooled: statistics for the FRB to use in place of its own, as `aux["pooled"]` has them: those of the whole
            image, where this is a tile of it. Outputs at least `reach` away from the tile's edges are then the
            image's.

        Returns:
          `depth_hr` (B, scale * h, scale * w, 1) float32, in the scale of `depth_lr`, and `aux`:
          `level_features` {"depth": [...], "guide": [...]} by level; `attention` by level, the
          excitations {"depth", "guide"} (B, features); `fused` and `refined`, lists in the order of
          `level_order`; `pooled`, one entry, the FRB's statistics {"mean", "variance"}, (m, B, c) each, and the
          "count" that they are of, or none without FRB; `residual`, what is added to `depth_bicubic`, the up-sampled
          input.

        Raises:
          InputError: `depth_lr` is of another shape, or the guide's size is not `scale` times its own.
        """
        height, width = self.output_size(depth_lr)
        if guide.shape[1:3] != (height, width):
            raise InputError(
                f"the guide is {guide.shape[1]} x {guide.shape[2]}, but a depth of {depth_lr.shape[1]} x "
                f"{depth_lr.shape[2]} at x{self.scale} needs a guide of {height} x {width}"
            )

        if size is not None and part is None:
            part = whole(size)
        with padded_image(depth_lr.shape[1], size):
            return self._super_resolve(depth_lr, guide, part, pooled)

    def _super_resolve(
        self,
        depth_lr: Float[Array, "b h w 1"],
        guide: Float[Array, "b H W c"],
        part: Region | None,
        pooled: Sequence[Pooled],
    ) -> tuple[Float[Array, "b H W 1"], dict[str, Any]]:
        def block(cls: Callable[..., Any], *args: Any, name: str) -> Any:
            return recomputed(cls, self.remat)(*args, dtype=self.dtype, name=name)

        def scan(step: Callable[..., Any], length: int) -> Any:
            return over_levels(step, length, self.unroll, self.remat)

        m, f, forms = self.num_levels, self.features, self.forms
        depth = block(ConvPReLU, 1, f, name="depth_level_1")(depth_lr)
        guide = block(GuidanceHead, self.scale, f, forms("guidance_head"), name="guide_level_1")(guide)
        depths, guides = depth[None], guide[None]
        if m > 1:
            depth_level = ConvPReLU(f, f, dtype=self.dtype, name="depth_levels")
            guide_level = ConvPReLU(f, f, dtype=self.dtype, name="guide_levels")
            depths = jnp.concatenate([depths, scan(next_level, m - 1)(depth_level, depth, None)[1]])
            guides = jnp.concatenate([guides, scan(next_level, m - 1)(guide_level, guide, None)[1]])

        mmaf = MMAF(f, forms, self.fusion, self.dtype, name="mmaf")
        parts = None if part is None else jnp.broadcast_to(part, (m, 4))
        given = pooled[0] if pooled else None
        _, (fused, attention, used) = scan(each_level, m)(mmaf, None, (depths, guides, parts, given))

        refined = BHFC(f, forms, self.recurrence, self.dtype, self.unroll, self.remat, name="bhfc")(fused)
        order = [level - 1 for level in self.level_order]
        joined = jnp.concatenate([refined[i] for i in order], -1)
        reconstruction = Reconstruction(
            self.scale, f, forms("reconstruction"), self.dtype, self.remat, name="reconstruction"
        )
        residual = reconstruction(joined)

        # float32 whatever `dtype` is: the depth itself must not be rounded to bfloat16.
        residual = residual.astype(jnp.float32)
        depth_bicubic = resize(depth_lr.astype(jnp.float32), self.output_size(depth_lr), "torch_bicubic")
        aux = {
            "level_features": {"depth": list(depths), "guide": list(guides)},
            "attention": {i + 1: jax.tree.map(operator.itemgetter(i), attention) for i in order},
            "fused": [fused[i] for i in order],
            "refined": [refined[i] for i in order],
            "pooled": (used,) if used else (),
            "residual": residual,
            "depth_bicubic": depth_bicubic,
        }
        return depth_bicubic + residual, aux
