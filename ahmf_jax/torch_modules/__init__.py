"""The models as PyTorch modules, one file each, and PyTorch weight files. The only package that imports torch."""

from ahmf_jax.torch_modules.ahmf import AHMF
from ahmf_jax.torch_modules.dada import DADA
from ahmf_jax.torch_modules.diffusion import diffuse
from ahmf_jax.torch_modules.dscsan import DSCSAN
from ahmf_jax.torch_modules.dsdmsr import DSDMSR
from ahmf_jax.torch_modules.files import read_pth, write_pth
from ahmf_jax.torch_modules.programs import InUnits, network, serialize

__all__ = ["AHMF", "DADA", "DSCSAN", "DSDMSR", "InUnits", "diffuse", "network", "read_pth", "serialize", "write_pth"]
