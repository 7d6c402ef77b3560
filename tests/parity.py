"""Between the layouts of JAX and of PyTorch."""

from typing import Any

import numpy as np
import torch


def nhwc(x: Any) -> np.ndarray:
    """An array or a tensor (B, C, H, W) as an array (B, H, W, C)."""
    return np.ascontiguousarray(np.moveaxis(x.detach().numpy() if isinstance(x, torch.Tensor) else x, 1, -1))


def nchw(x: Any) -> torch.Tensor:
    """An array (B, H, W, C) as a tensor (B, C, H, W)."""
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(x), -1, 1)))
