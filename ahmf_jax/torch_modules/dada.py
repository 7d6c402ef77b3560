"""DADA as a PyTorch module, the twin of `ahmf_jax.models.DADA`.

It carries the state-dict names of the authors' checkpoints, so that these load into it as they are; the loop is that of
`ahmf_jax.torch_modules.diffusion`. Metzger et al., "Guided Depth Super-Resolution by Deep Anisotropic Diffusion", CVPR
2023, arXiv 2211.11592.
"""

import math
from typing import no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ahmf_jax.errors import InputError
from ahmf_jax.torch_modules import diffusion
from ahmf_jax.torch_modules.unet import LAYERS, UNet

CHOICES = {
    "features": ("learned", "rgb"),
    "encoder": tuple(LAYERS),
    "enlarge": (1, 2),
    "initial": ("cubic", "constant"),
    "shift": ("sample", "batch"),
}
MULTIPLE = 32  # of the sizes that the U-Net takes
# The statistics of ImageNet's colours.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Depth at or below this is raised by as much while it is diffused.
LOW = 0.1


class DADA(nn.Module):
    """Guided depth super-resolution by deep anisotropic diffusion, NCHW.

    Args:
      scale: the factor, above 1.
      features: "learned", of a U-Net, or "rgb", the colours and the depth that the diffusion begins with.
      encoder, channels, enlarge: of the U-Net.
      initial: what the diffusion begins with: "cubic", the up-sampled depth, from which the features are made in any
        case, or "constant", 1.
      contrast: K, with which the learning starts.
      rate: lambda, at most 0.25.
      iterations: at first, without a gradient; in training a random number below.
      gradient_iterations: afterwards, with it; none with "rgb".
      shift: what decides whether depth is raised, its own lowest known sample or the batch's lowest of all.
      deviation: the depth that counts as 1.

    Raises:
      InputError: a field has a value outside its choices.
    """

    logk: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        scale: int,
        features: str = "learned",
        encoder: str = "resnet50",
        channels: int = 64,
        enlarge: int = 2,
        initial: str = "cubic",
        contrast: float = 0.03,
        rate: float = diffusion.RATE,
        iterations: int = 8000,
        gradient_iterations: int = 1024,
        shift: str = "sample",
        deviation: float = 1.0,
    ):
        super().__init__()
        given = {"features": features, "encoder": encoder, "enlarge": enlarge, "initial": initial, "shift": shift}
        for field, value in given.items():
            if value not in CHOICES[field]:
                raise InputError(f"{field} is {value!r}: choose one of {', '.join(map(str, CHOICES[field]))}")
        self.scale, self.enlarge, self.initial, self.shift = scale, enlarge, initial, shift
        self.rate, self.iterations, self.gradient_iterations = rate, iterations, gradient_iterations
        self.deviation = deviation
        self.learned = features == "learned"
        log_contrast = torch.tensor(math.log(contrast))
        if self.learned:
            self.logk = nn.Parameter(log_contrast)
            self.feature_extractor = nn.Sequential(
                nn.Upsample(scale_factor=enlarge, mode="bicubic"), UNet(channels, encoder), nn.AvgPool2d(enlarge)
            )
        else:
            self.register_buffer("logk", log_contrast, persistent=False)
            self.gradient_iterations = 0
        # In double precision, as the network may be.
        self.register_buffer("mean", torch.tensor(MEAN, dtype=torch.float64)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD, dtype=torch.float64)[:, None, None], persistent=False)

    def forward(self, depth_lr: Tensor, guide: Tensor, mask_lr: Tensor | None = None) -> Tensor:
        """Super-resolves a batch.

        Args:
          depth_lr: (B, 1, h, w), positive.
          guide: (B, 3, scale h, scale w) in [0, 1].
          mask_lr: (B, 1, h, w) bool, True where the depth is known; everywhere by default.

        Returns:
          Depth (B, 1, scale h, scale w).
        """
        return self.trace(depth_lr, guide, mask_lr)[0]

    def trace(self, depth_lr: Tensor, guide: Tensor, mask_lr: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """`forward`, and `cv`, `ch`, `features` and `depth_start` by name."""
        if guide.shape[-2:] != (self.scale * depth_lr.shape[-2], self.scale * depth_lr.shape[-1]):
            raise InputError(
                f"guide is {guide.shape[-2]}x{guide.shape[-1]} and depth_lr {depth_lr.shape[-2]}x{depth_lr.shape[-1]}: "
                f"the guide must be {self.scale} times larger"
            )
        mask = torch.ones_like(depth_lr, dtype=torch.bool) if mask_lr is None else mask_lr
        depth_lr = depth_lr / self.deviation
        begin = self.upsampled(depth_lr, mask, guide.shape[-2:])
        colours = (guide - self.mean.to(guide)) / self.std.to(guide)
        if self.learned:
            features = self.extract(torch.cat([colours, begin - begin.mean((1, 2, 3), keepdim=True)], 1))
        else:
            features = torch.cat([colours, begin], 1)
        cv, ch = diffusion.coefficients(features, self.logk.exp())

        first = torch.ones_like(begin) if self.initial == "constant" else begin
        before = self.iterations
        if self.training and before:
            before = int(torch.randint(before, ()))
        added = self.raised(depth_lr, mask)
        diffuse = looped if torch.compiler.is_exporting() else diffusion.diffuse
        depth = diffuse(
            first + added,
            cv,
            ch,
            depth_lr + added,
            mask,
            before=before,
            after=self.gradient_iterations,
            rate=self.rate,
        )
        aux = {"cv": cv, "ch": ch, "features": features, "depth_start": first * self.deviation}
        return (depth - added) * self.deviation, aux

    def upsampled(self, depth_lr: Tensor, mask: Tensor, size: torch.Size) -> Tensor:
        """The depth by cubic convolution, within the range of what is known."""
        axes = (1, 2, 3)
        low = torch.where(mask, depth_lr, torch.inf).amin(axes, keepdim=True)
        high = torch.where(mask, depth_lr, -torch.inf).amax(axes, keepdim=True)
        some = mask.any(3, keepdim=True).any(2, keepdim=True)
        low, high = torch.where(some, low, 0), torch.where(some, high, 0)
        enlarged = F.interpolate(filled(depth_lr, mask), size=size, mode="bicubic", align_corners=False)
        return enlarged.clamp(low, high)

    def extract(self, x: Tensor) -> Tensor:
        """The U-Net's features of images of any size."""
        height, width = x.shape[-2:]
        multiple = MULTIPLE // self.enlarge
        # As multiples of what they are multiples of, so that `torch.export` can tell that the halves fit.
        rows, columns = (multiple * ((n + multiple - 1) // multiple) for n in (height, width))
        x = F.pad(x, (0, columns - width, 0, rows - height), mode="replicate")
        _, unet, shrink = self.feature_extractor
        x = F.interpolate(x, size=(self.enlarge * rows, self.enlarge * columns), mode="bicubic")
        return shrink(unet(x))[..., :height, :width]

    def raised(self, depth_lr: Tensor, mask: Tensor) -> Tensor:
        """What is added to the depth, (B, 1, 1, 1)."""
        if self.shift == "batch":
            low = torch.where(mask, depth_lr, 0).amin().expand(len(depth_lr), 1, 1, 1)
        else:
            low = torch.where(mask, depth_lr, torch.inf).amin((1, 2, 3), keepdim=True)
            low = torch.where(low == torch.inf, 0, low)  # nothing is known
        return LOW * (low <= LOW).to(depth_lr)


def filled(depth: Tensor, mask: Tensor) -> Tensor:
    """The depth with its holes closed from their borders inwards, by the mean of the neighbours so far."""
    if torch.compiler.is_exporting():  # of depth without holes
        return depth
    known = mask.to(depth)
    depth = torch.where(mask, depth, 0)
    while True:
        around = 9 * F.avg_pool2d(torch.cat([depth, known], 1), 3, 1, 1)
        total, count = around.chunk(2, 1)
        now = (count > 0.5).to(depth)
        depth = torch.where(known > 0, depth, total / count.clamp(min=1))
        if torch.equal(now, known):
            return depth
        known = now


def looped(
    image: Tensor, cv: Tensor, ch: Tensor, source: Tensor, mask: Tensor, *, before: int, after: int, rate: float
) -> Tensor:
    """`diffusion.diffuse` as a loop of `torch.export`, without a gradient.

    What lies around the image, where there is nothing to pass, is one row and one column of zeros: then neighbours are
    found by turning the image round, and no size has to be computed.
    """
    count, scale = before + after, image.shape[-1] // source.shape[-1]
    down, right = rate * F.pad(cv, (0, 0, 0, 1)), rate * F.pad(ch, (0, 1))

    # Traced by torch, which the checks of the tests would come in the way of.
    @no_type_check
    def more(done: Tensor, *_: Tensor) -> Tensor:
        return done < count

    @no_type_check
    def once(
        done: Tensor, image: Tensor, down: Tensor, right: Tensor, source: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        below, beside = down * (image.roll(-1, 2) - image), right * (image.roll(-1, 3) - image)
        image = image + below - below.roll(1, 2) + beside - beside.roll(1, 3)
        ratio = torch.where(mask, source / (F.avg_pool2d(image, scale) + 1e-8), 1)
        image = image * F.interpolate(ratio, size=image.shape[-2:], mode="nearest")
        return done + 1, image, down.clone(), right.clone(), source.clone(), mask.clone()

    start = torch.zeros((), dtype=torch.int64), image, down, right, source, mask
    return torch.while_loop(more, once, start)[1]
