"""Guided depth super-resolution in JAX: low-resolution depth and a colour guide in, sharp depth out.

`ahmf_jax.load(path)(depth_lr, guide)` runs a trained model on one's own arrays. The rest is in the
submodules: `ahmf_jax.models`, `resample`, `torch_weights`, `train`, `checkpoint`, `upsample`. Importing
this package imports neither JAX nor any of them.
"""

from typing import TYPE_CHECKING

from ahmf_jax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import jax

    from ahmf_jax.upsample import Upsampler

__version__ = "0.1.0"
__all__ = ["InputError", "load"]


def load(path: "str | PathLike[str]", devices: "Sequence[jax.Device] | None" = None) -> "Upsampler":
    """A trained model, ready for arrays: see `ahmf_jax.upsample.load`."""
    from ahmf_jax import upsample

    return upsample.load(path, devices)
