"""The models as PyTorch modules, one file each, and PyTorch weight files. The only package that imports torch."""

from ahmf_jax.torch_modules.ahmf import AHMF
from ahmf_jax.torch_modules.files import read_pth, write_pth
from ahmf_jax.torch_modules.programs import InUnits, serialize

__all__ = ["AHMF", "InUnits", "read_pth", "serialize", "write_pth"]
