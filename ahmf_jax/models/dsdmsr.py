"""DSDMSR: depth super-resolution as the synthesis of views, every step of which is supervised.

Song, Dai, Qin: "Deeply Supervised Depth Map Super-Resolution as Novel View Synthesis", IEEE TCSVT 29(8), 2019 (arXiv
1808.08688). What is followed is the published PyTorch implementation of it by others, asrimanth/DSDMSR-PyTorch.

Depth alone is read. A step doubles the size: four networks, the units, see the same map, and each synthesises one of
the four views that the larger map interleaves, its even or odd rows and columns. Steps follow one another until the
scale is reached, and one more unit fuses what they have made, all brought to the full size.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ahmf_jax.errors import InputError
from ahmf_jax.layers import Dtype, continued, conv2d, padded_image, pixel_shuffle, size_there, torch_uniform
from ahmf_jax.models.base import Model
from ahmf_jax.resample import resize

Unit = Literal["srcnn", "vdsr"]
Fusion = Literal["code", "figure"]
Combine = Literal["sum", "mean"]
SCALES = (2, 4, 8, 16)
VIEWS = 4  # in the order (even row, even column), (even, odd), (odd, even), (odd, odd)

Depth = Float[Array, "b h w 1"]


class Layout(NamedTuple):
    """The convolutions of a unit, between which there are ReLUs."""

    sizes: tuple[int, ...]  # of the kernels
    features: tuple[int, ...]  # that they make
    bias: bool
    skip: bool  # the input is added to the output
    held: int  # features of a pixel that are in memory at once


UNITS: dict[Unit, Layout] = {
    "srcnn": Layout((9, 5, 5), (64, 32, 1), bias=True, skip=False, held=96),
    "vdsr": Layout((3,) * 10, (64,) * 9 + (1,), bias=False, skip=True, held=192),
}


class Conv(nn.Module):
    """The same convolution of several units, or, with `units=()`, that of a single one.

    With a bias it is initialised as PyTorch does it, without one by He et al. (ICCV 2015) for the features that it
    makes: as the published code has it for either unit.
    """

    units: tuple[int, ...]
    in_features: int
    features: int
    kernel_size: int
    use_bias: bool

    def setup(self) -> None:
        """Declares the parameters, stacked on a leading axis of that many units."""
        k = self.kernel_size
        uniform = torch_uniform(k * k * self.in_features)
        normal = nn.initializers.normal(math.sqrt(2 / (k * k * self.features)))
        init = uniform if self.use_bias else normal
        self.kernel = self.param("kernel", init, (*self.units, k, k, self.in_features, self.features))
        self.bias = self.param("bias", uniform, (*self.units, self.features)) if self.use_bias else None

    def __call__(self, xs: Sequence[Float[Array, "b h w i"]]) -> list[Float[Array, "b h w o"]]:
        """Applies each unit's to its own input."""
        if not self.units:
            return [conv2d(xs[0], self.kernel, self.bias)]
        biases = [None] * len(xs) if self.bias is None else self.bias
        return [conv2d(x, kernel, bias) for x, kernel, bias in zip(xs, self.kernel, biases, strict=True)]


class DCNN(nn.Module):
    """Units that see the same map: four for the views of a larger one, or, with `units=()`, the fusion's single one.

    Features are `dtype`; what reads depth or makes it is float32, as depth itself must not be rounded to bfloat16.
    """

    kind: Unit
    units: tuple[int, ...] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, depth: Depth) -> Float[Array, "b h w u"]:
        """(B, h, w, 1) float32 -> (B, h, w, 1 or VIEWS) float32."""
        layout = UNITS[self.kind]
        xs = [depth] * math.prod(self.units)
        last = len(layout.features)
        before = 1
        for i, (size, after) in enumerate(zip(layout.sizes, layout.features, strict=True), 1):
            arithmetic = jnp.float32 if i in (1, last) else self.dtype
            conv = Conv(self.units, before, after, size, layout.bias, name=f"conv_{i}")
            before = after
            xs = conv([x.astype(arithmetic) for x in xs])
            if i < last:
                xs = [nn.relu(x) for x in xs]
        made = jnp.concatenate(xs, -1)
        return depth + made if layout.skip else made


class DSDMSR(Model):
    """The network. `apply({"params": p}, depth_lr)` gives `(depth_hr, aux)`.

    Fields:
      scale: up-sampling factor, one of 2, 4, 8, 16: as many steps as its logarithm.
      unit: what synthesises a view: `"srcnn"`, three convolutions of large kernels; `"vdsr"`, ten of 3x3, whose result
        is added to their input.
      fusion: what is fused: `"code"`, what the steps have made, as in the published code; `"figure"`, the up-sampled
        input as well, as the paper draws it.
      combine: the maps' `"sum"`, as in the published code, or their `"mean"`.
      dtype: of the features, float32 or bfloat16; parameters and depth are float32 always.
    """

    scale: int = 8
    unit: Unit = "srcnn"
    fusion: Fusion = "code"
    combine: Combine = "sum"
    dtype: Dtype = jnp.float32

    guided = False
    paddable = True

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        choices: list[tuple[str, Sequence[Any]]] = [
            ("scale", SCALES),
            ("unit", get_args(Unit)),
            ("fusion", get_args(Fusion)),
            ("combine", get_args(Combine)),
        ]
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} {getattr(self, name)!r} is not one of {', '.join(map(str, allowed))}")
        super().__post_init__()

    @property
    def steps(self) -> int:
        """How often the size is doubled."""
        return int(math.log2(self.scale))

    @property
    def corrections(self) -> tuple[tuple[str, ...], ...]:
        """The last convolution of every unit, where units add to what they are given."""
        layout = UNITS[self.unit]
        units = [*(f"stage_{step}" for step in range(1, self.steps + 1)), "fusion"]
        return tuple((unit, f"conv_{len(layout.sizes)}") for unit in units) if layout.skip else ()

    @property
    def reach(self) -> int:
        """How many low-resolution samples away an input can be that an output depends on: tiles are exact.

        The furthest are those that the last step's map is made from. Of a place in a map, each unit reads so many
        samples to either side, and a map of half the size has half as many, the begun one included.
        """
        radius = sum(size // 2 for size in UNITS[self.unit].sizes)
        reach = radius
        for _ in range(self.steps):
            reach = math.ceil(reach / 2) + radius
        return reach

    @property
    def bytes_per_sample(self) -> float:
        """About the memory that a low-resolution sample takes while it is computed, as `memory_analysis` tells it.

        In bfloat16 it is as much, as the features are made in float32.
        """
        return 4.0 * self.scale**2 * UNITS[self.unit].held

    @property
    def least_shapes(self) -> dict[str, tuple[int, ...]]:
        """The first convolution of the fusion, by which the kind of unit is known; the fields say the rest."""
        size, features = UNITS[self.unit].sizes[0], UNITS[self.unit].features[0]
        return {"fusion/conv_1/kernel": (size, size, 1, features)}

    def summary(self) -> str:
        """Scale and unit."""
        return f"DSDMSR x{self.scale}, {self.unit}"

    @nn.compact
    def __call__(
        self,
        depth_lr: Depth,
        guide: Float[Array, "b H W c"] | None = None,
        *,
        mask_lr: Bool[Array, "b h w 1"] | None = None,
        train: bool = False,
        size: Int[Array, "2"] | None = None,
    ) -> tuple[Float[Array, "b H W 1"], dict[str, Any]]:
        """Super-resolves a batch.

        Args:
          depth_lr: (B, h, w, 1), any h and w; finite, holes filled, scaled to about [0, 1].
          guide, mask_lr, train: of every model; none changes this one.
          size: the rows and columns of `depth_lr` that are there, where the rest is padding (to the right and below),
            in which the depth repeats its last row and column. It has no influence on the output within them.

        Returns:
          `depth_hr` (B, scale * h, scale * w, 1) float32, in the scale of `depth_lr`, and `aux`: `stages`, what each
          step has made, (B, 2h, 2w, 1) first.

        Raises:
          InputError: `depth_lr` is of another shape.
        """
        height, width = self.output_size(depth_lr)

        def enlarged(depth: Depth) -> Float[Array, "b H W 1"]:
            there = size_there(depth)
            if there is not None:
                depth = continued(depth, there)
            return depth if depth.shape[1:3] == (height, width) else resize(depth, (height, width), "torch_bilinear")

        depth = depth_lr.astype(jnp.float32)
        maps = [depth]
        with padded_image(depth_lr.shape[1], size):
            for step in range(1, self.steps + 1):
                views = DCNN(self.unit, (VIEWS,), self.dtype, name=f"stage_{step}")(maps[-1])
                maps.append(pixel_shuffle(views))
            fused = maps if self.fusion == "figure" else maps[1:]
            total = functools.reduce(operator.add, map(enlarged, fused))
            total = total / len(fused) if self.combine == "mean" else total
            return DCNN(self.unit, (), self.dtype, name="fusion")(total), {"stages": tuple(maps[1:])}
