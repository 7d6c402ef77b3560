"""AHMF: attention-based hierarchical multi-modal fusion for guided depth super-resolution.

Zhong, Liu, Jiang, Zhao, Chen, Ji: "High-resolution Depth Maps Imaging via Attention-based Hierarchical
Multi-modal Fusion", IEEE TIP 2022 (arXiv 2104.01530). Section and equation numbers below are the paper's.

The paper's equations and the authors' released program describe two different networks. Both are here:
`variant="release"`, the graph of the published weights and the default, and `variant="paper"`. A
`release` network differs in its guidance head (full resolution first), its attention (half the channels,
variance in place of standard deviation, sigmoid in place of PReLU, halved products, a residual block
after the fusion), its recurrence (two layers, deepest level first) and its reconstruction.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ahmf_jax.errors import InputError
from ahmf_jax.layers import (
    Conv,
    ConvPReLU,
    ConvShuffle,
    Dtype,
    PReLU,
    Remat,
    UnshuffleConv,
    conv2d,
    recomputed,
)
from ahmf_jax.resample import resize

Variant = Literal["release", "paper"]
Fusion = Literal["feb_frb", "feb", "frb", "concat"]
Recurrence = Literal["both", "forward", "backward", "none"]
Unroll = int | Literal["auto"]
SCALES = (2, 4, 8, 16, 32)
# Kernel of the down- and up-sampling convolutions by log2(scale). The paper has 1, 3, 5 for x4, x8, x16;
# x2 takes the smallest, x32 the largest.
STAGE_KERNEL = {1: 1, 2: 1, 3: 3, 4: 5, 5: 5}

Image = Float[Array, "b h w c"]
Levels = Float[Array, "m b h w c"]  # an image a level, level 1 first


def over_levels(
    step: Callable[..., Any],
    length: int,
    unroll: Unroll,
    remat: Remat,
    *,
    shared: bool = False,
    reverse: bool = False,
) -> Any:
    """`step(module, carry, x) -> (carry, y)` as one loop over the levels, with `nn.scan`.

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
    variant: Variant = "release"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, depth: Image, guide: Image) -> tuple[Image, Float[Array, "b c"], Float[Array, "b c"]]:
        """Returns the fused features and the two excitations `E_d` and `E_y`."""
        release = self.variant == "release"
        squeezed = self.features // 2 if release else self.features
        both = jnp.concatenate([depth, guide], -1)
        stack = ConvPReLU(2 * self.features, squeezed, 3, self.dtype, name="squeeze")(both).astype(jnp.float32)
        spread = jnp.var(stack, (1, 2), keepdims=True)
        if not release:
            spread = jnp.sqrt(spread + 1e-12)  # the epsilon keeps the gradient finite on a constant map
        pooled = jnp.mean(stack, (1, 2), keepdims=True) + spread
        excitations = []
        for name in ("excite_depth", "excite_guide"):
            excitation = Conv(squeezed, self.features, 1, name=name)(pooled)
            excitation = nn.sigmoid(excitation) if release else PReLU(name=f"{name}_prelu")(excitation)
            excitations.append(excitation)
        # Spread over the map before the rounding, so that their gradients, sums over the map, are float32 as well.
        e_depth, e_guide = (jnp.broadcast_to(e, depth.shape).astype(self.dtype) for e in excitations)
        fused = e_depth * depth + e_guide * guide
        fused = fused / 2 if release else fused
        return fused, e_depth[:, 0, 0], e_guide[:, 0, 0]


class ResidualBlock(nn.Module):
    """Res(.) of Eq. 17: x + conv(PReLU(conv x)); in the release with one more PReLU around the sum."""

    features: int
    variant: Variant = "release"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Keeps size and channels."""
        y = ConvPReLU(self.features, self.features, 3, self.dtype, name="conv_1")(x)
        x = x + Conv(self.features, self.features, 3, self.dtype, name="conv_2")(y)
        return PReLU(name="prelu")(x) if self.variant == "release" else x


class MMAF(nn.Module):
    """Multi-modal attention based fusion of one level (section IV, Eq. 6): FEB per modality, then FRB.

    Without FRB the two features are concatenated and reduced by a 1x1 convolution. The release has a
    residual block after the fusion, with or without FRB.
    """

    features: int
    variant: Variant = "release"
    fusion: Fusion = "feb_frb"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, depth: Image, guide: Image) -> tuple[Image, dict[str, Any]]:
        """Returns the fused features and the excitations by name (empty without FRB)."""
        attention = {}
        if self.fusion in ("feb", "feb_frb"):
            depth = FeatureEnhancementBlock(self.features, self.dtype, name="depth_feb")(depth)
            guide = FeatureEnhancementBlock(self.features, self.dtype, name="guide_feb")(guide)
        if self.fusion in ("frb", "feb_frb"):
            frb = FeatureRecalibrationBlock(self.features, self.variant, self.dtype, name="frb")
            fused, e_depth, e_guide = frb(depth, guide)
            attention = {"depth": e_depth, "guide": e_guide}
        else:
            both = jnp.concatenate([depth, guide], -1)
            fused = Conv(2 * self.features, self.features, 1, self.dtype, name="reduce")(both)
        if self.variant == "release":
            fused = ResidualBlock(self.features, self.variant, self.dtype, name="residual")(fused)
        return fused, attention


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

    One ConvGRU runs over the levels in the variant's order, the release's deepest first, and one against it; the
    sum of their states goes through a residual block per level. With `recurrence="none"` the fused features go
    straight there.
    """

    features: int
    variant: Variant = "release"
    recurrence: Recurrence = "both"
    dtype: Dtype = jnp.float32
    unroll: Unroll = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(self, fused: Levels) -> Levels:
        """Refines the fused features."""
        release = self.variant == "release"
        if self.recurrence != "none":
            states = []
            for direction, deepest_first in (("forward", release), ("backward", not release)):
                if self.recurrence in (direction, "both"):
                    gru = ConvGRU(
                        self.features, 2 if release else 1, self.dtype, self.unroll, self.remat, name=f"{direction}_gru"
                    )
                    states.append(gru(fused, reverse=deepest_first))
            fused = sum(states[1:], states[0])
        refine = ResidualBlock(self.features, self.variant, self.dtype, name="refine")
        return over_levels(each_level, len(fused), self.unroll, self.remat)(refine, None, fused)[1]


class GuidanceHead(nn.Module):
    """The guide's features of level 1, at the depth's resolution (Eq. 1 and 3)."""

    scale: int
    features: int
    variant: Variant = "release"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, guide: Float[Array, "b H W g"]) -> Float[Array, "b H//{self.scale} W//{self.scale} f"]:
        """(B, s*h, s*w, C) -> (B, h, w, features)."""
        stages = int(math.log2(self.scale))
        k = STAGE_KERNEL[stages]
        x, c = guide.astype(self.dtype), guide.shape[-1]
        if self.variant == "release":
            x, c = ConvPReLU(c, self.features, 3, self.dtype, name="input")(x), self.features
        for stage in range(stages):
            # In the paper the last unshuffle feeds level 1's own 3x3 convolution.
            size = 3 if self.variant == "paper" and stage == stages - 1 else k
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
    variant: Variant = "release"
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, refined: Image) -> Float[Array, "b h*{self.scale} w*{self.scale} 1"]:
        """(B, h, w, levels * features) -> (B, s*h, s*w, 1)."""
        stages = int(math.log2(self.scale))
        k = STAGE_KERNEL[stages]
        release = self.variant == "release"

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


class AHMF(nn.Module):
    """The network. `apply({"params": p}, depth_lr, guide)` gives `(depth_hr, aux)`.

    Fields:
      scale: up-sampling factor, one of 2, 4, 8, 16, 32.
      num_levels: the paper's m, the number of feature levels, at least 1.
      features: channels of every intermediate feature.
      variant: `"release"` (the published weights' graph) or `"paper"` (its equations).
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
        super().__post_init__()

    @property
    def level_order(self) -> list[int]:
        """The levels, 1-based, in the order in which BHFC sees them: the release runs deepest first."""
        levels = list(range(1, self.num_levels + 1))
        return levels[::-1] if self.variant == "release" else levels

    @nn.compact
    def __call__(
        self, depth_lr: Float[Array, "b h w 1"], guide: Float[Array, "b H W c"]
    ) -> tuple[Float[Array, "b H W 1"], dict[str, Any]]:
        """Super-resolves a batch.

        Args:
          depth_lr: (B, h, w, 1), any h and w; finite, holes filled, scaled to about [0, 1].
          guide: (B, scale * h, scale * w, C) in [0, 1], any number of channels.

        Returns:
          `depth_hr` (B, scale * h, scale * w, 1) float32, in the scale of `depth_lr`, and `aux`:
          `level_features` {"depth": [...], "guide": [...]} by level; `attention` by level, the
          excitations {"depth", "guide"} (B, features); `fused` and `refined`, lists in the order of
          `level_order`; `residual`, what is added to `depth_bicubic`, the up-sampled input.

        Raises:
          InputError: the guide's size is not `scale` times the depth's.
        """
        height, width = (self.scale * n for n in depth_lr.shape[1:3])
        if guide.shape[1:3] != (height, width):
            raise InputError(
                f"the guide is {guide.shape[1]} x {guide.shape[2]}, but a depth of {depth_lr.shape[1]} x "
                f"{depth_lr.shape[2]} at x{self.scale} needs a guide of {height} x {width}"
            )

        def block(cls: Callable[..., Any], *args: Any, name: str) -> Any:
            return recomputed(cls, self.remat)(*args, dtype=self.dtype, name=name)

        def scan(step: Callable[..., Any], length: int) -> Any:
            return over_levels(step, length, self.unroll, self.remat)

        m, f, variant = self.num_levels, self.features, self.variant
        depth = block(ConvPReLU, 1, f, name="depth_level_1")(depth_lr)
        guide = block(GuidanceHead, self.scale, f, variant, name="guide_level_1")(guide)
        depths, guides = depth[None], guide[None]
        if m > 1:
            depth_level = ConvPReLU(f, f, dtype=self.dtype, name="depth_levels")
            guide_level = ConvPReLU(f, f, dtype=self.dtype, name="guide_levels")
            depths = jnp.concatenate([depths, scan(next_level, m - 1)(depth_level, depth, None)[1]])
            guides = jnp.concatenate([guides, scan(next_level, m - 1)(guide_level, guide, None)[1]])

        mmaf = MMAF(f, variant, self.fusion, self.dtype, name="mmaf")
        _, (fused, attention) = scan(each_level, m)(mmaf, None, (depths, guides))

        refined = BHFC(f, variant, self.recurrence, self.dtype, self.unroll, self.remat, name="bhfc")(fused)
        order = [level - 1 for level in self.level_order]
        joined = jnp.concatenate([refined[i] for i in order], -1)
        residual = Reconstruction(self.scale, f, variant, self.dtype, self.remat, name="reconstruction")(joined)

        # float32 whatever `dtype` is: the depth itself must not be rounded to bfloat16.
        residual = residual.astype(jnp.float32)
        depth_bicubic = resize(depth_lr.astype(jnp.float32), (height, width), "torch_bicubic")
        aux = {
            "level_features": {"depth": list(depths), "guide": list(guides)},
            "attention": {i + 1: jax.tree.map(operator.itemgetter(i), attention) for i in order},
            "fused": [fused[i] for i in order],
            "refined": [refined[i] for i in order],
            "residual": residual,
            "depth_bicubic": depth_bicubic,
        }
        return depth_bicubic + residual, aux
