"""DSDMSR as a PyTorch module, the twin of `ahmf_jax.models.DSDMSR`.

It carries the state-dict names of the published PyTorch implementation (`asrimanth/DSDMSR-PyTorch`), so that its
weights load into it as they are. Song, Dai, Qin: "Deeply Supervised Depth Map Super-Resolution as Novel View
Synthesis", IEEE TCSVT 29(8), 2019, arXiv 1808.08688.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ahmf_jax.errors import InputError

CHOICES = {
    "scale": (2, 4, 8, 16),
    "unit": ("srcnn", "vdsr"),
    "fusion": ("code", "figure"),
    "combine": ("sum", "mean"),
}


class SRCNN(nn.Module):
    """Three convolutions, without a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, h, w) -> (B, 1, h, w)."""
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class VDSR(nn.Module):
    """Ten convolutions without biases, and what enters added to what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(vdsr_conv(1, 64), nn.ReLU())
        blocks = (OrderedDict(conv=vdsr_conv(64, 64), relu=nn.ReLU()) for _ in range(8))
        self.trunk = nn.Sequential(*map(nn.Sequential, blocks))
        self.conv2 = vdsr_conv(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, h, w) -> (B, 1, h, w)."""
        return x + self.conv2(self.trunk(self.conv1(x)))


def vdsr_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3 x 3, without a bias, drawn by the number of its outputs."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, 0, math.sqrt(2 / (9 * outputs)))
    return conv


UNITS: dict[str, Callable[[], nn.Module]] = {"srcnn": SRCNN, "vdsr": VDSR}


class DSDMSR(nn.Module):
    """Deeply supervised depth super-resolution as novel view synthesis, NCHW.

    Args:
      scale: the factor, 2, 4, 8 or 16.
      unit: the network that makes a view: "srcnn" or "vdsr".
      fusion: what is fused at the end: "code", the maps of all stages; "figure", the low resolution, too.
      combine: how: "sum" or "mean".

    Raises:
      InputError: a field has a value outside its choices.
    """

    def __init__(self, scale: int = 8, unit: str = "srcnn", fusion: str = "code", combine: str = "sum"):
        super().__init__()
        given = {"scale": scale, "unit": unit, "fusion": fusion, "combine": combine}
        for field, value in given.items():
            if value not in CHOICES[field]:
                raise InputError(f"{field} is {value!r}: choose one of {', '.join(map(str, CHOICES[field]))}")
        self.scale, self.fusion, self.combine = scale, fusion, combine
        self.factors = [2**k for k in range(1, scale.bit_length())]
        for factor in self.factors:
            for row in (1, 2):
                for column in (1, 2):
                    setattr(self, f"dcnn_unit_{row}_{column}_x{factor}", UNITS[unit]())
        self.msf_dcnn = UNITS[unit]()

    def forward(self, depth_lr: Tensor, guide: Tensor | None = None) -> Tensor:
        """Super-resolves a batch, (B, 1, h, w) -> (B, 1, scale h, scale w). A guide has no influence."""
        return self.trace(depth_lr)[0]

    def trace(self, depth_lr: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`forward`, and the maps of the stages, each twice as large as the one before."""
        maps = [depth_lr]
        for factor in self.factors:
            maps.append(self.synthesised(maps[-1], factor))
        fused = maps if self.fusion == "figure" else maps[1:]
        *coarser, finest = fused
        size = finest.shape[-2:]
        total = sum(F.interpolate(depth, size, mode="bilinear", align_corners=False) for depth in coarser) + finest
        if self.combine == "mean":
            total = total / len(fused)
        return self.msf_dcnn(total), tuple(maps[1:])

    def synthesised(self, depth: Tensor, factor: int) -> Tensor:
        """A map twice as large: the four views of it, even and odd rows and columns, in their places."""
        views = [getattr(self, f"dcnn_unit_{row}_{column}_x{factor}")(depth) for row in (1, 2) for column in (1, 2)]
        return F.pixel_shuffle(torch.cat(views, 1), 2)
