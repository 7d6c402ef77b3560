"""DSCSAN as a PyTorch module, the twin of `ahmf_jax.models.DSCSAN`, whose docstring says what of it is the paper's.

Nothing of it was published, so the state-dict names are this project's own: `input`; of stage s (from 0)
`body.s.groups.g.blocks.b` with `conv_1`, `widen`, `narrow`, `conv_2` (a BRB) or `conv_1`, `conv_2`, `squeeze`, `excite`
(an RCAB), `body.s.groups.g.attention` with `scale.k`, `squeeze.k`, `excite.k`, `merge`, `body.s.groups.g.conv`,
`body.s.conv`; `up.d` of doubling d; `output.s`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ahmf_jax.errors import InputError
from ahmf_jax.torch_modules.ahmf import conv

CHOICES = {"scale": (2, 4, 8, 16), "block": ("brb", "rcab")}
CELLS = (1, 2, 4)  # sides of the cells of the attention's scales, in pixels of the map
WIDENED = 2  # features inside a bilayer block for each outside
REDUCTION = 16  # features of an RCAB for each of its attention's
ITERATIONS = 5  # of Newton and Schulz
TINY_TRACE = 1e-6
# MATLAB's bicubic (a = -0.5) at twice the size: of four neighbours, for the first of the two samples in a sample's
# place; for the second they stand in reverse.
BICUBIC = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)


class BilayerResidualBlock(nn.Module):
    """BRB: a wide-activated residual block inside a basic one. (B, features, h, w) -> the same."""

    def __init__(self, features: int):
        super().__init__()
        self.conv_1 = conv(features, features, 3)
        self.widen = conv(features, WIDENED * features, 3)
        self.narrow = conv(WIDENED * features, features, 3)
        self.conv_2 = conv(features, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        u = F.relu(self.conv_1(x))
        return x + self.conv_2(u + self.narrow(F.relu(self.widen(u))))


class ResidualChannelAttentionBlock(nn.Module):
    """RCAB of RCAN (Zhang et al., ECCV 2018, Eq. 9). (B, features, h, w) -> the same."""

    def __init__(self, features: int):
        super().__init__()
        few = max(features // REDUCTION, 1)
        self.conv_1 = conv(features, features, 3)
        self.conv_2 = conv(features, features, 3)
        self.squeeze = conv(features, few, 1)
        self.excite = conv(few, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        y = self.conv_2(F.relu(self.conv_1(x)))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        return x + torch.sigmoid(gate) * y


class CrossScaleAttention(nn.Module):
    """HOCSA: channels of three scales weighed by their covariances within a scale and across scales."""

    def __init__(self, features: int):
        super().__init__()
        c, scales = features // 2, len(CELLS)
        self.scale = nn.ModuleList(conv(features, c, 3) for _ in CELLS)
        self.squeeze = nn.ModuleList(conv(scales * c, scales * c // 4, 1) for _ in CELLS)
        self.excite = nn.ModuleList(conv(scales * c // 4, c, 1) for _ in CELLS)
        self.merge = conv(scales * c, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, features, h, w) -> the same, and the gates (B, scales, features // 2)."""
        height, width = x.shape[2:]
        maps = [F.relu(module(pooled(x, cell))) for module, cell in zip(self.scale, CELLS, strict=True)]
        weighed, gates = [], []
        for k, row in enumerate(correlations(maps)):
            described = torch.cat([matrix.mean(-1) for matrix in row], -1)[:, :, None, None]
            gate = torch.sigmoid(self.excite[k](F.relu(self.squeeze[k](described))))
            gates.append(gate[:, :, 0, 0])
            weighed.append(enlarged(gate * maps[k], CELLS[k])[:, :, :height, :width])
        return x + self.merge(torch.cat(weighed, 1)), torch.stack(gates, 1)


def pooled(x: Tensor, cell: int) -> Tensor:
    """Averages over cells, of which those at the right and lower border are averaged over what of them is there."""
    return x if cell == 1 else F.avg_pool2d(x, cell, ceil_mode=True, count_include_pad=False)


def enlarged(x: Tensor, factor: int) -> Tensor:
    """A map so many times as large, bilinear."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def correlations(maps: Sequence[Tensor]) -> list[list[Tensor]]:
    """For every pair of scales, what channels of the first have in common with those of the second, (B, c, c).

    Within a scale the square root of the covariance; across two the covariance on the coarser one's grid, over the root
    of the product of both traces.
    """
    scales = range(len(CELLS))
    covariances = [[covariance(maps[k], maps[m], CELLS[m] // CELLS[k]) for m in scales if m >= k] for k in scales]
    traces = [trace(covariances[k][0]) + TINY_TRACE for k in scales]

    def between(finer: int, coarser: int) -> Tensor:
        return covariances[finer][coarser - finer] / (traces[finer] * traces[coarser]).sqrt()

    def common(k: int, other: int) -> Tensor:
        if k == other:
            return square_root(covariances[k][0])
        return between(k, other) if k < other else between(other, k).mT

    return [[common(k, other) for other in scales] for k in scales]


def covariance(finer: Tensor, coarser: Tensor, cell: int) -> Tensor:
    """(B, c, c), of the channels of two maps, of which the finer one is averaged over the other's cells."""
    a, b = (x.flatten(2) for x in (pooled(finer, cell), coarser))
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    return torch.bmm(a, b.mT) / a.shape[-1]


def trace(matrix: Tensor) -> Tensor:
    """(B, n, n) -> (B, 1, 1)."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def square_root(matrix: Tensor) -> Tensor:
    """About the square root of positive semi-definite matrices (B, n, n), by the iteration of Newton and Schulz."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    size = trace(matrix) + TINY_TRACE
    y, z = matrix / size, identity
    for _ in range(ITERATIONS):
        half = (3 * identity - torch.bmm(z, y)) / 2
        y, z = torch.bmm(y, half), torch.bmm(half, z)
    return y * size.sqrt()


BLOCKS: dict[str, type[nn.Module]] = {"brb": BilayerResidualBlock, "rcab": ResidualChannelAttentionBlock}


class Group(nn.Module):
    """Residual blocks, the attention if there is one, and a convolution."""

    def __init__(self, blocks: int, features: int, block: str, attention: bool):
        super().__init__()
        self.blocks = nn.Sequential(*(BLOCKS[block](features) for _ in range(blocks)))
        self.attention = CrossScaleAttention(features) if attention else None
        self.conv = conv(features, features, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, features, h, w) -> the same, and the attention's gates if there is one."""
        y, gates = self.blocks(x), []
        if self.attention is not None:
            y, gate = self.attention(y)
            gates.append(gate)
        return x + self.conv(y), gates


class Body(nn.Module):
    """Groups and a convolution, and all of it added to the map."""

    def __init__(self, groups: int, blocks: int, features: int, block: str, attention: bool):
        super().__init__()
        self.groups = nn.ModuleList(Group(blocks, features, block, attention) for _ in range(groups))
        self.conv = conv(features, features, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, features, h, w) -> the same, and the gates of every attention."""
        y, gates = x, []
        for group in self.groups:
            y, of_group = group(y)
            gates += of_group
        return x + self.conv(y), gates


class DSCSAN(nn.Module):
    """Depth super-resolution by deeply supervised cross-scale attention, NCHW.

    Args:
      scale: the factor, 2, 4, 8 or 16.
      groups: of residual blocks: of each stage, or, if not `progressive`, of all.
      blocks: in a group.
      features: channels of a map, an even number.
      block: "brb" or RCAN's "rcab".
      attention: whether a group ends in the cross-scale attention.
      progressive: whether each doubling is a stage of its own.
      interpolated: whether what the network makes is added to interpolated depth.

    Raises:
      InputError: a field has a value outside its choices.
    """

    bicubic: Tensor

    def __init__(
        self,
        scale: int = 8,
        groups: int = 4,
        blocks: int = 7,
        features: int = 64,
        block: str = "brb",
        attention: bool = True,
        progressive: bool = True,
        interpolated: bool = True,
    ):
        super().__init__()
        for field, value in {"scale": scale, "block": block}.items():
            if value not in CHOICES[field]:
                raise InputError(f"{field} is {value!r}: choose one of {', '.join(map(str, CHOICES[field]))}")
        for field, count in {"groups": groups, "blocks": blocks}.items():
            if count < 1:
                raise InputError(f"{field} is {count}: it must be at least 1")
        if features < 4 or features % 2:
            raise InputError(f"features is {features}: an even number of channels is needed, at least 4")
        self.scale, self.interpolated = scale, interpolated
        steps = scale.bit_length() - 1
        stages = steps if progressive else 1
        self.doublings = steps // stages  # of a stage
        self.input = nn.Conv2d(1, features, 3)
        self.body = nn.ModuleList(Body(groups, blocks, features, block, attention) for _ in range(stages))
        self.up = nn.ModuleList(conv(features, 4 * features, 3) for _ in range(steps))
        self.output = nn.ModuleList(conv(features, 1, 3) for _ in range(stages))
        self.register_buffer("bicubic", bicubic_kernels(), persistent=False)

    def forward(self, depth_lr: Tensor, guide: Tensor | None = None) -> Tensor:
        """Super-resolves a batch, (B, 1, h, w) -> (B, 1, scale h, scale w). A guide has no influence."""
        return self.trace(depth_lr)[0]

    def trace(self, depth_lr: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """`forward`, the outputs of the stages before the last, and every attention's gates, (B, 3, features // 2)."""
        # Padded here, and not by the convolution: that an image of one channel has several pixels is then known to
        # `torch.export`, which asks for it, also of an image of one pixel.
        depth, x = depth_lr, self.input(F.pad(depth_lr, [1] * 4))
        outputs: list[Tensor] = []
        gates: list[Tensor] = []
        for stage, (body, output) in enumerate(zip(self.body, self.output, strict=True)):
            x, of_groups = body(x)
            gates += of_groups
            for up in self.up[stage * self.doublings : (stage + 1) * self.doublings]:
                x = F.pixel_shuffle(up(x), 2)
                depth = self.doubled(depth) if self.interpolated else depth
            made = output(x)
            depth = depth + made if self.interpolated else made
            outputs.append(depth)
        return outputs[-1], tuple(outputs[:-1]), tuple(gates)

    def doubled(self, depth: Tensor) -> Tensor:
        """Depth at twice its size by MATLAB's bicubic, which mirrors the image about its edges."""
        for axis in (2, 3):
            size = depth.shape[axis]
            place = torch.arange(-2, size + 2, device=depth.device)
            place = torch.where(place < 0, -1 - place, place)
            place = torch.where(place < size, place, 2 * size - 1 - place)
            depth = depth.index_select(axis, place.clamp(0, size - 1))  # one sample is mirrored again and again
        return F.pixel_shuffle(F.conv2d(depth, self.bicubic), 2)


def bicubic_kernels() -> Tensor:
    """(4, 1, 5, 5): what the pixels in a pixel's place at twice the size are made of, left to right, top to bottom."""
    first, second = torch.tensor([*BICUBIC, 0]), torch.tensor([0, *BICUBIC[::-1]])
    return torch.stack([torch.outer(a, b) for a in (first, second) for b in (first, second)])[:, None]
