"""AHMF as a PyTorch module.

The module is the Flax model's twin: it carries the authors' state-dict names, so their weights load into it
as they are, ours leave through it, and each of the two programs checks the other (`tests/ahmf_jax/test_parity.py`).
Equations are those of Zhong et al., "High-resolution Depth Maps Imaging via Attention-based Hierarchical
Multi-modal Fusion", IEEE TIP 2022, arXiv 2104.01530. Where the published weights' graph (`release`) departs from
the equations (`paper`), the block is given the variant whose form it has (`ahmf_jax.variants`).
"""

import itertools
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ahmf_jax.errors import InputError
from ahmf_jax.variants import GRU_LAYERS, VARIANTS, Forms, Part, Variant, check_blocks

# Kernel size of the guide's down-sampling and the depth's up-sampling convolutions (section VI).
# The paper stops at x16; x32 takes the largest published size.
KERNELS = {2: 1, 4: 1, 8: 3, 16: 5, 32: 5}
CHOICES = {
    "scale": tuple(KERNELS),
    "variant": VARIANTS,
    "fusion": ("feb_frb", "feb", "frb", "concat"),
    "recurrence": ("both", "forward", "backward", "none"),
}
# Keeps the gradient of the standard deviation finite where a feature map is constant.
VARIANCE_FLOOR = 1e-12


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the image size, with torch's default initialisation."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class ConvBlock(nn.Module):
    """A convolution (`layers`), then a PReLU (`act`) if asked for. (B, inputs, h, w) -> (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, prelu: bool):
        super().__init__()
        self.layers = conv(inputs, outputs, kernel)
        self.act = nn.PReLU() if prelu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        return self.act(self.layers(x))


class ResBlock(nn.Module):
    """Res of Eq. 17: x + conv(PReLU(conv x)); `release` ends with a PReLU. Shapes (B, features, h, w)."""

    def __init__(self, features: int, form: Variant):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(features, features, 3, prelu=True), ConvBlock(features, features, 3, prelu=False)
        )
        self.act = nn.PReLU() if form == "release" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        return self.act(x + self.layers(x))


class Compress(nn.Module):
    """One level's Res (Eq. 17), held a name deeper, as the published weights have it."""

    def __init__(self, features: int, form: Variant):
        super().__init__()
        self.layers = ResBlock(features, form)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        return self.layers(x)


class Head(nn.Module):
    """Level 1 of both modalities at LR size (Eq. 1-3).

    Depth (B, 1, h, w) and guide (B, C, scale h, scale w) -> two (B, features, h, w).
    """

    def __init__(self, scale: int, features: int, form: Variant, guide_channels: int):
        super().__init__()
        steps = scale.bit_length() - 1

        def narrow(inputs: int) -> list[nn.Module]:
            return [conv(inputs, features, KERNELS[scale]), nn.PReLU()]

        self.depth_in = nn.Sequential(conv(1, features, 3), nn.PReLU())
        if form == "release":
            down = [[nn.PixelUnshuffle(2), *narrow(4 * features)] for _ in range(steps)]
            self.guidance_in = nn.Sequential(
                conv(guide_channels, features, 3), nn.PReLU(), nn.Sequential(*itertools.chain(*down))
            )
        else:
            # Channels entering each unshuffle: the guide itself, then features.
            widths = [guide_channels] + [features] * (steps - 1)
            down = [[nn.PixelUnshuffle(2), *narrow(4 * width)] for width in widths[:-1]]
            self.guidance_in = nn.Sequential(
                nn.Sequential(*itertools.chain(*down), nn.PixelUnshuffle(2)),
                conv(4 * widths[-1], features, 3),
                nn.PReLU(),
            )

    def forward(self, depth: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Applies each modality's branch."""
        return self.depth_in(depth), self.guidance_in(guide)


class FeatureEnhancementBlock(nn.Module):
    """Gated features of one modality (FEB, Eq. 10, 11). Shapes (B, features, h, w)."""

    def __init__(self, features: int):
        super().__init__()
        self.Attention = nn.Sequential(conv(features, features, 3), nn.Sigmoid())
        self.Feature = nn.Sequential(conv(features, features, 3), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        return self.Feature(x) * self.Attention(x)


class FeatureRecalibrationBlock(nn.Module):
    """Channel weights of both modalities from their joint global statistics, and the weighted sum (FRB, Eq. 12-16).

    Depth and guide features, both (B, features, h, w) -> (B, features, h, w). The release squeezes to half the
    features, pools the variance instead of its root, gates by a sigmoid instead of a PReLU and halves the sum.
    """

    def __init__(self, features: int, forms: Forms):
        super().__init__()
        self.forms = forms
        squeezed = features // 2 if forms("squeeze") == "release" else features
        prelu = forms("excitation") == "paper"
        self.squeeze = ConvBlock(2 * features, squeezed, 3, prelu=True)
        self.excitation1 = ConvBlock(squeezed, features, 1, prelu=prelu)
        self.excitation2 = ConvBlock(squeezed, features, 1, prelu=prelu)

    def forward(self, depth: Tensor, guide: Tensor) -> Tensor:
        """Fuses the two."""
        joint = self.squeeze(torch.cat([depth, guide], dim=1))
        mean = joint.mean(dim=(2, 3), keepdim=True)
        spread = (joint - mean).square().mean(dim=(2, 3), keepdim=True)
        if self.forms("statistics") == "paper":
            spread = (spread + VARIANCE_FLOOR).sqrt()
        weight_depth = self.excitation1(mean + spread)
        weight_guide = self.excitation2(mean + spread)
        if self.forms("excitation") == "release":
            weight_depth, weight_guide = weight_depth.sigmoid(), weight_guide.sigmoid()
        if self.forms("halving") == "release":
            return weight_depth * depth / 2 + weight_guide * guide / 2
        return weight_depth * depth + weight_guide * guide


class MMAF(nn.Module):
    """Fusion of one level's depth and guide features (section IV). Two (B, features, h, w) -> one.

    `fusion` takes parts away (Table VI): without FEB the level's features go straight on, without FRB a 1x1
    convolution reduces the concatenation. The release ends with a residual block that the paper does not have.
    """

    def __init__(self, features: int, forms: Forms, fusion: str):
        super().__init__()
        self.enhance = fusion in ("feb_frb", "feb")
        self.recalibrate = fusion in ("feb_frb", "frb")
        if self.enhance:
            self.filter_conv = FeatureEnhancementBlock(features)  # the guide's
            self.filter_conv1 = FeatureEnhancementBlock(features)  # the depth's
        if self.recalibrate:
            self.attention_layer = FeatureRecalibrationBlock(features, forms)
        else:
            self.reduce_conv = ConvBlock(2 * features, features, 1, prelu=False)
        residual = forms("residual") == "release"
        self.res_conv = ResBlock(features, forms("activation")) if residual else nn.Identity()

    def forward(self, depth: Tensor, guide: Tensor) -> Tensor:
        """Fuses the two."""
        if self.enhance:
            depth, guide = self.filter_conv1(depth), self.filter_conv(guide)
        if self.recalibrate:
            return self.res_conv(self.attention_layer(depth, guide))
        return self.res_conv(self.reduce_conv(torch.cat([depth, guide], dim=1)))


class ConvGRUCell(nn.Module):
    """One step of a convolutional GRU (Eq. 18-21): x and h, both (B, features, h, w) -> the next h."""

    def __init__(self, features: int):
        super().__init__()
        self.update_gate = conv(2 * features, features, 3)
        self.reset_gate = conv(2 * features, features, 3)
        self.out_gate = conv(2 * features, features, 3)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Takes the step."""
        # The paper writes [h, x]; x first is the published weights' order, and one table serves both variants.
        xh = torch.cat([x, h], dim=1)
        z = self.update_gate(xh).sigmoid()
        r = self.reset_gate(xh).sigmoid()
        c = self.out_gate(torch.cat([x, r * h], dim=1)).tanh()
        return (1 - z) * h + z * c


class ConvGRU(nn.Module):
    """A stack of ConvGRU layers run over the levels from a zero state: m x (B, features, h, w) -> the same.

    Layer 2 runs over layer 1's outputs, and only the last layer's outputs leave.
    """

    def __init__(self, features: int, layers: int):
        super().__init__()
        self.cell_list = nn.ModuleList(ConvGRUCell(features) for _ in range(layers))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Runs every layer over the levels, in the order given."""
        for cell in self.cell_list:
            h = torch.zeros_like(levels[0])
            levels = [h := cell(x, h) for x in levels]
        return list(levels)


class AHMF(nn.Module):
    """Attention-based hierarchical multi-modal fusion: the twin of `ahmf_jax.models.AHMF`, NCHW.

    Args:
      scale: 2, 4, 8, 16 or 32.
      num_levels: m of the paper, at least 1.
      features: channels of every intermediate feature map.
      variant: "release", the graph of the published weights, or "paper", the equations.
      guide_channels: channels of the guide.
      fusion, recurrence: the blocks left in, for Table VI's ablations.
      swapped: the parts that are the other variant's.

    Raises:
      InputError: a field has a value outside its choices, or a part is swapped whose block is left out.
    """

    def __init__(
        self,
        scale: int,
        num_levels: int = 4,
        features: int = 64,
        variant: Variant = "release",
        guide_channels: int = 3,
        fusion: str = "feb_frb",
        recurrence: str = "both",
        swapped: Collection[Part] = (),
    ):
        super().__init__()
        given = {"scale": scale, "variant": variant, "fusion": fusion, "recurrence": recurrence}
        for field, value in given.items():
            if value not in CHOICES[field]:
                raise InputError(f"{field} is {value!r}: choose one of {', '.join(map(str, CHOICES[field]))}")
        for field, value in {"num_levels": num_levels, "guide_channels": guide_channels}.items():
            if value < 1:
                raise InputError(f"{field} is {value}: it must be at least 1")
        if features < 2 or features % 2:
            raise InputError(f"features is {features}: it must be even (the FRB halves it)")
        forms = Forms(variant, tuple(swapped))
        check_blocks(forms.swapped, fusion, recurrence)
        self.scale, self.deep_first, self.recurrence = scale, forms("order") == "release", recurrence

        self.head = Head(scale, features, forms("guidance_head"), guide_channels)
        self.rgb_conv = nn.ModuleList(ConvBlock(features, features, 3, prelu=True) for _ in range(num_levels - 1))
        self.fuse_conv = nn.ModuleList(MMAF(features, forms, fusion) for _ in range(num_levels))
        self.depth_conv = nn.ModuleList(ConvBlock(features, features, 3, prelu=True) for _ in range(num_levels - 1))
        self.compress_out = nn.ModuleList(Compress(features, forms("activation")) for _ in range(num_levels))
        gru_layers = GRU_LAYERS[forms("gru_layers")]
        if recurrence in ("both", "forward"):
            self.forward_gru_cell = ConvGRU(features, gru_layers)
        if recurrence in ("both", "backward"):
            self.reverse_gru_cell = ConvGRU(features, gru_layers)

        kernel, steps = KERNELS[scale], scale.bit_length() - 1
        stages = [[conv(features, 4 * features, kernel), nn.PixelShuffle(2), nn.PReLU()] for _ in range(steps)]
        release = forms("reconstruction") == "release"
        if release:
            last: list[nn.Module] = [ConvBlock(features, 1, 3, prelu=False)]
        else:
            stages.pop()
            last = [conv(features, 4, kernel), nn.PixelShuffle(2)]
        self.up_conv = nn.Sequential(
            ConvBlock(num_levels * features, features, 1, prelu=release), *itertools.chain(*stages), *last
        )

    def forward(self, depth_lr: Tensor, guide: Tensor) -> Tensor:
        """Depth (B, 1, h, w) and guide (B, C, scale h, scale w) -> depth (B, 1, scale h, scale w) (Eq. 8)."""
        return self.trace(depth_lr, guide)[0]

    def trace(self, depth_lr: Tensor, guide: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`forward`, and the intermediates by name.

        Returns:
          `(depth, aux)`; aux holds `depth_bicubic`, the level-1 features `depth_features` and `guidance_features`,
          and for each level `fused_i` (into the GRUs) and `refined_i` (out of the Res blocks), in the order of both.
        """
        if guide.shape[-2:] != (self.scale * depth_lr.shape[-2], self.scale * depth_lr.shape[-1]):
            raise InputError(
                f"guide is {guide.shape[-2]}x{guide.shape[-1]} and depth_lr {depth_lr.shape[-2]}x{depth_lr.shape[-1]}: "
                f"the guide must be {self.scale} times larger"
            )
        depth, rgb = self.head(depth_lr, guide)
        levels = [(depth, rgb)]
        for depth_conv, rgb_conv in zip(self.depth_conv, self.rgb_conv, strict=True):
            levels.append((depth_conv(levels[-1][0]), rgb_conv(levels[-1][1])))
        if self.deep_first:  # from level m to level 1
            levels.reverse()
        fused = [fuse(*level) for fuse, level in zip(self.fuse_conv, levels, strict=True)]

        directions = []
        if self.recurrence in ("both", "forward"):
            directions.append(self.forward_gru_cell(fused))
        if self.recurrence in ("both", "backward"):
            directions.append(self.reverse_gru_cell(fused[::-1])[::-1])
        collaborated = [sum(states) for states in zip(*directions, strict=True)] or fused
        refined = [res(x) for res, x in zip(self.compress_out, collaborated, strict=True)]

        # By the size, not the factor: `torch.export` cannot tell that a size times a factor is a whole number.
        bicubic = F.interpolate(depth_lr, size=guide.shape[-2:], mode="bicubic", align_corners=False)
        aux = {"depth_bicubic": bicubic, "depth_features": depth, "guidance_features": rgb}
        aux |= {f"fused_{i}": x for i, x in enumerate(fused)} | {f"refined_{i}": x for i, x in enumerate(refined)}
        return bicubic + self.up_conv(torch.cat(refined, dim=1)), aux
