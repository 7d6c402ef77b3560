"""Files of PyTorch weights: `.pth`, for which torch is needed, and `.safetensors`, for which it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ahmf_jax.errors import InputError

if TYPE_CHECKING:
    from ahmf_jax.models import Model

# Of a `.pth`: the name under which the state dict stands in it, if it does, and what each tensor's begins with.
LAYOUTS = {"ahmf": ("state", "module."), "dada": ("model", ""), "dsdmsr": ("", ""), "dscsan": ("", "")}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by their names, of a `.pth` without running anything that it holds.

    Raises:
      InputError: no such file, or none that can be read; a `.pth` without torch.
    """
    if path.suffix == ".safetensors":
        from ahmf_jax.export import read_safetensors

        return read_safetensors(path)[0]
    return _torch_modules(path).read_pth(path)


def write(path: Path, model: "Model", arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what `to_torch` gave: a `.pth` as the authors' program of the model reads it, or a `.safetensors`.

    Raises:
      InputError: the file cannot be written; a `.pth` without torch.
    """
    from ahmf_jax.models import name_of

    if path.suffix == ".safetensors":
        from ahmf_jax.export import write_safetensors

        write_safetensors(path, dict(arrays))
        return
    key, prefix = LAYOUTS[name_of(model)]
    _torch_modules(path).write_pth(path, arrays, key, prefix)


def _torch_modules(path: Path) -> Any:
    try:
        from ahmf_jax import torch_modules
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch file, and torch is not installed: pip install 'ahmf-jax[torch]', or use a "
            ".safetensors file with the same names"
        ) from None
    return torch_modules
