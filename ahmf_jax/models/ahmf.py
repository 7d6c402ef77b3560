"""AHMF: attention-based hierarchical multi-modal fusion for guided depth super-resolution.

Zhong, Liu, Jiang, Zhao, Chen, Ji: "High-resolution Depth Maps Imaging via Attention-based Hierarchical
Multi-modal Fusion", IEEE TIP 2022 (arXiv 2104.01530). Section and equation numbers below are the paper's.

The paper's equations and the authors' released program describe two different networks. Both are here:
`variant="release"`, the graph of the published weights and the default, and `variant="paper"`. A
`release` network differs in its guidance head (full resolution first), its attention (half the channels,
variance in place of standard deviation, sigmoid in place of PReLU, halved products, a residual block
after the fusion), its recurrence (two layers, deepest level first) and its reconstruction.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ahmf_jax.errors import InputError
from ahmf_jax.layers import Conv, ConvPReLU, ConvShuffle, Dtype, PReLU, UnshuffleConv, conv2d
from ahmf_jax.resample import resize

Variant = Literal["release", "paper"]
Fusion = Literal["feb_frb", "feb", "frb", "concat"]
Recurrence = Literal["both", "forward", "backward", "none"]
SCALES = (2, 4, 8, 16, 32)
# Kernel of the down- and up-sampling convolutions by log2(scale). The paper has 1, 3, 5 for x4, x8, x16;
# x2 takes the smallest, x32 the largest.
STAGE_KERNEL = {1: 1, 2: 1, 3: 3, 4: 5, 5: 5}

Image = Float[Array, "b h w c"]


class FeatureEnhancementBlock(nn.Module):
    """FEB (Eq. 10, 11): features gated by an attention map of their own, PReLU(conv) * sigmoid(conv)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Both convolutions read the same input, so they are computed as one of twice the width."""
        feature = Conv(self.features, self.features, 3, self.dtype, name="feature")
        attention = Conv(self.features, self.features, 3, self.dtype, name="attention")
        kernel = jnp.concatenate([feature.kernel, attention.kernel], -1).astype(self.dtype)
        bias = jnp.concatenate([feature.bias, attention.bias]).astype(self.dtype)
        value, gate = jnp.split(conv2d(x.astype(self.dtype), kernel, bias), 2, -1)
        return PReLU("prelu")(value) * nn.sigmoid(gate)


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
            excitation = nn.sigmoid(excitation) if release else PReLU(f"{name}_prelu")(excitation)
            excitations.append(excitation.astype(self.dtype))
        e_depth, e_guide = excitations
        fused = e_depth * depth + e_guide * guide
        return fused / 2 if release else fused, e_depth[:, 0, 0], e_guide[:, 0, 0]


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
        return PReLU("prelu")(x) if self.variant == "release" else x


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
        return jnp.split(conv2d(x, kernel.astype(self.dtype), bias.astype(self.dtype)), 3, -1)

    def start(self, x: Image) -> Image:
        """The state after the first input, from the zero state."""
        update, _, out = self._project(x)
        return nn.sigmoid(update) * jnp.tanh(out)

    def __call__(self, h: Image, x: Image) -> Image:
        """The next state."""
        update, reset, out = self._project(x)
        gates = (self.update_gate, self.reset_gate)
        kernel = jnp.concatenate([gate.kernel[:, :, self.features :] for gate in gates], -1)
        h_update, h_reset = jnp.split(conv2d(h, kernel.astype(self.dtype)), 2, -1)
        z = nn.sigmoid(update + h_update)
        r = nn.sigmoid(reset + h_reset)
        c = jnp.tanh(out + conv2d(r * h, self.out_gate.kernel[:, :, self.features :].astype(self.dtype)))
        return (1 - z) * h + z * c


class ConvGRU(nn.Module):
    """A ConvGRU of one or more layers, scanned over a sequence from the zero state; layer l + 1 reads layer l.

    The gradient of a convolution inside a rolled `scan` is tens of times slower on the CPU, so
    `unroll="auto"` unrolls fully there and keeps the loop rolled on accelerators, where it saves
    compile time and, with `remat`, memory.
    """

    features: int
    num_layers: int
    dtype: Dtype = jnp.float32
    unroll: int | Literal["auto"] = "auto"
    remat: bool = False

    @nn.compact
    def __call__(self, xs: Float[Array, "m b h w c"]) -> Float[Array, "m b h w c"]:
        """Maps the sequence of inputs (leading axis) to the sequence of the last layer's states."""

        def step(cell: ConvGRUCell, h: Image, x: Image) -> tuple[Image, Image]:
            h = cell(h, x)
            return h, h

        unroll = self.unroll
        if unroll == "auto":
            unroll = len(xs) if jax.default_backend() == "cpu" else 1
        scan = nn.scan(
            nn.remat(step, prevent_cse=False) if self.remat else step,
            variable_broadcast="params",
            split_rngs={"params": False},
            unroll=unroll,
        )
        for layer in range(self.num_layers):
            cell = ConvGRUCell(self.features, self.dtype, name=f"layer_{layer}")
            first = cell.start(xs[0])
            if len(xs) == 1:
                xs = first[None]
            else:
                _, rest = scan(cell, first, xs[1:])
                xs = jnp.concatenate([first[None], rest])
        return xs


class BHFC(nn.Module):
    """Bi-directional hierarchical feature collaboration (section V, Eq. 7 and 17-21).

    One ConvGRU runs over the levels in the order given, one against it; the sum of their states goes
    through a residual block per level. With `recurrence="none"` the fused features go straight there.
    """

    features: int
    variant: Variant = "release"
    recurrence: Recurrence = "both"
    dtype: Dtype = jnp.float32
    unroll: int | Literal["auto"] = "auto"
    remat: bool = False

    @nn.compact
    def __call__(self, fused: Sequence[Image], names: Sequence[str]) -> list[Image]:
        """Refines the fused features, one per level; `names` names each level's residual block."""
        layers = 2 if self.variant == "release" else 1
        if self.recurrence != "none":
            xs = jnp.stack(fused)
            states = []
            for direction, order in (("forward", 1), ("backward", -1)):
                if self.recurrence in (direction, "both"):
                    gru = ConvGRU(self.features, layers, self.dtype, self.unroll, self.remat, name=f"{direction}_gru")
                    states.append(gru(xs[::order])[::order])
            fused = list(sum(states[1:], states[0]))
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        return [block(self.features, self.variant, self.dtype, name=n)(x) for n, x in zip(names, fused, strict=True)]


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
            x, c = PReLU(f"down_{stage}_prelu")(x), self.features
        return x


class Reconstruction(nn.Module):
    """From the refined features of all levels to the high-resolution residual (Eq. 8)."""

    scale: int
    features: int
    variant: Variant = "release"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, refined: Sequence[Image]) -> Float[Array, "b h*{self.scale} w*{self.scale} 1"]:
        """List of (B, h, w, features) -> (B, s*h, s*w, 1)."""
        stages = int(math.log2(self.scale))
        k = STAGE_KERNEL[stages]
        x = Conv(len(refined) * self.features, self.features, 1, self.dtype, name="reduce")(
            jnp.concatenate(refined, -1)
        )
        release = self.variant == "release"
        if release:
            x = PReLU("reduce_prelu")(x)
        for stage in range(stages if release else stages - 1):
            x = ConvShuffle(self.features, self.features, k, self.dtype, name=f"up_{stage}")(x)
            x = PReLU(f"up_{stage}_prelu")(x)
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
      unroll: steps of the recurrence unrolled in the compiled program; `"auto"` is all of them on the
        CPU and 1 elsewhere.
      remat: recompute the blocks' activations in the backward pass instead of keeping them.
    """

    scale: int
    num_levels: int = 4
    features: int = 64
    variant: Variant = "release"
    fusion: Fusion = "feb_frb"
    recurrence: Recurrence = "both"
    dtype: Dtype = jnp.float32
    unroll: int | Literal["auto"] = "auto"
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        choices: list[tuple[str, Any, Sequence[Any]]] = [
            ("scale", self.scale, SCALES),
            ("variant", self.variant, get_args(Variant)),
            ("fusion", self.fusion, get_args(Fusion)),
            ("recurrence", self.recurrence, get_args(Recurrence)),
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

        def block(cls: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return (nn.remat(cls) if self.remat else cls)(*args, dtype=self.dtype, **kwargs)

        f, variant = self.features, self.variant
        depths = [block(ConvPReLU, 1, f, name="depth_level_1")(depth_lr)]
        guides = [block(GuidanceHead, self.scale, f, variant, name="guide_level_1")(guide)]
        for level in range(2, self.num_levels + 1):
            depths.append(block(ConvPReLU, f, f, name=f"depth_level_{level}")(depths[-1]))
            guides.append(block(ConvPReLU, f, f, name=f"guide_level_{level}")(guides[-1]))

        fused, attention = [], {}
        for level in self.level_order:
            mmaf = block(MMAF, f, variant, self.fusion, name=f"mmaf_{level}")
            features, attention[level] = mmaf(depths[level - 1], guides[level - 1])
            fused.append(features)

        bhfc = BHFC(f, variant, self.recurrence, self.dtype, self.unroll, self.remat, name="bhfc")
        refined = bhfc(fused, [f"refine_{level}" for level in self.level_order])
        residual = block(Reconstruction, self.scale, f, variant, name="reconstruction")(refined)

        # float32 whatever `dtype` is: the depth itself must not be rounded to bfloat16.
        residual = residual.astype(jnp.float32)
        depth_bicubic = resize(depth_lr.astype(jnp.float32), (height, width), "torch_bicubic")
        aux = {
            "level_features": {"depth": depths, "guide": guides},
            "attention": attention,
            "fused": fused,
            "refined": refined,
            "residual": residual,
            "depth_bicubic": depth_bicubic,
        }
        return depth_bicubic + residual, aux
