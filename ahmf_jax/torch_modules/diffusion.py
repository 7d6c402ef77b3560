"""DADA's diffusion loop in eager PyTorch (Metzger et al., CVPR 2023, Sec. 3): images (B, 1, H, W)."""

import torch
from torch import Tensor
from torch.nn import functional as F

RATE = 0.24


def coefficients(features: Tensor, contrast: float | Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (B, 1, H-1, W) and (B, 1, H, W-1) between neighbours whose features (B, C, H, W) are given."""
    below = (features[:, :, 1:] - features[:, :, :-1]).abs().mean(1, keepdim=True)
    right = (features[..., 1:] - features[..., :-1]).abs().mean(1, keepdim=True)
    return 1 / (1 + (below / contrast) ** 2), 1 / (1 + (right / contrast) ** 2)


def iterate(image: Tensor, cv: Tensor, ch: Tensor, source: Tensor, unknown: Tensor, rate: float = RATE) -> Tensor:
    """One iteration: a step of diffusion, then every block (but where the sample is `unknown`) is given its mean."""
    down = rate * cv * (image[:, :, 1:] - image[:, :, :-1])
    right = rate * ch * (image[..., 1:] - image[..., :-1])
    image = image.clone()
    image[:, :, 1:] -= down
    image[:, :, :-1] += down
    image[..., 1:] -= right
    image[..., :-1] += right
    scale = image.shape[-1] // source.shape[-1]
    ratio = source / (F.avg_pool2d(image, scale) + 1e-8)
    ratio = torch.where(unknown, torch.ones_like(ratio), ratio)
    return image * F.interpolate(ratio, scale_factor=scale, mode="nearest")


def diffuse(
    image: Tensor,
    cv: Tensor,
    ch: Tensor,
    source: Tensor,
    mask: Tensor,
    *,
    before: int,
    after: int = 0,
    rate: float = RATE,
) -> Tensor:
    """`before` iterations without and `after` with a gradient, which goes to `cv` and `ch` alone.

    Args:
      image: (B, 1, H, W), to begin with.
      cv: (B, 1, H - 1, W), the coefficients between a pixel and the one below.
      ch: (B, 1, H, W - 1), between a pixel and the one to the right.
      source: (B, 1, h, w), low-resolution depth.
      mask: (B, 1, h, w), True where it is known.
      before: iterations that no gradient passes.
      after: further ones that it does.
      rate: the step size.
    """
    unknown = ~mask
    with torch.no_grad():
        for _ in range(before):
            image = iterate(image, cv, ch, source, unknown, rate)
    image = image.detach()
    for _ in range(after):
        image = iterate(image, cv, ch, source, unknown, rate)
    return image
