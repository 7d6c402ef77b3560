"""Weights between PyTorch's names and layout and Flax's: a file for each model's table, one for what all do with it.

NumPy in and out; importing it needs neither torch nor JAX.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.torch_weights import ahmf, dada, dscsan, dsdmsr, tables
from ahmf_jax.torch_weights.ahmf import stages
from ahmf_jax.torch_weights.files import read, write
from ahmf_jax.variants import Part, Variant

if TYPE_CHECKING:
    from ahmf_jax.models import Model
    from ahmf_jax.models.dsdmsr import Combine, Fusion

__all__ = ["from_torch", "read", "stages", "to_torch", "write"]


def from_torch(
    arrays: Mapping[str, np.ndarray],
    variant: Variant | None = None,
    swapped: Collection[Part] | None = None,
    *,
    scale: int | None = None,
    fusion: "Fusion | None" = None,
    combine: "Combine | None" = None,
    interpolated: bool | None = None,
) -> tuple["Model", dict[str, Any]]:
    """The model that PyTorch weights belong to, which their names tell, and its weights.

    Args:
      arrays: `{name: array}`, all names with "module." or all without; any floating dtype.
      variant, swapped: of an AHMF, as `ahmf.from_torch` says.
      scale: of a DADA, whose tensors do not tell it.
      fusion, combine: of a DSDMSR, as `dsdmsr.from_torch` says.
      interpolated: of a DSCSAN, as `dscsan.from_torch` says.

    Returns:
      `(model, weights)`: the other fields read off names and shapes, or, where these do not tell them, as the model has
      them by default, which for a DADA is not all as its authors' (`dada.from_torch`); and a nested dict of
      float32 NumPy arrays as `ahmf_jax.variables` has it.

    Raises:
      InputError: the tensors are not exactly those of one model, one message naming all that are missing, not known
        or of another shape or type; or an argument is of the other model.
    """
    arrays = tables.plain(arrays)
    named = {"dada": dada, "dsdmsr": dsdmsr, "dscsan": dscsan}
    name = next((name for name, of_model in named.items() if of_model.named(arrays)), "ahmf")
    if name != "ahmf" and (variant is not None or swapped is not None):
        raise InputError(
            f"these are the weights of a {name.upper()}: variant and swapped are of an AHMF; leave them out"
        )
    if name != "dada" and scale is not None:
        raise InputError("these are no weights of a DADA: the scale is read off the tensors; leave it out")
    if name != "dsdmsr" and (fusion is not None or combine is not None):
        raise InputError("these are no weights of a DSDMSR: fusion and combine are of one; leave them out")
    if name != "dscsan" and interpolated is not None:
        raise InputError("these are no weights of a DSCSAN: interpolated is of one; leave it out")
    if name == "dada":
        return dada.from_torch(arrays, scale)
    if name == "dsdmsr":
        return dsdmsr.from_torch(arrays, fusion, combine)
    if name == "dscsan":
        return dscsan.from_torch(arrays, interpolated)
    return ahmf.from_torch(arrays, variant, swapped)


def to_torch(model: "Model", params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same weights under PyTorch's names, float32, OIHW; `from_torch` is the exact inverse.

    Args:
      model: the model that the weights belong to.
      params: the weights, nested, JAX or NumPy arrays of any floating dtype.

    Returns:
      `{name: array}`, the names without "module.", in the order of the authors' file.

    Raises:
      InputError: the parameters are not the model's; one message names all that differ.
    """
    from ahmf_jax.models import name_of

    of_model: Any = {"ahmf": ahmf, "dada": dada, "dsdmsr": dsdmsr, "dscsan": dscsan}[name_of(model)]
    return of_model.to_torch(model, params)
