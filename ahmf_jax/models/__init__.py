"""The systems, one file each, behind one interface: `ahmf_jax.models.base.Model`."""

from ahmf_jax.models.ahmf import AHMF
from ahmf_jax.models.base import Model
from ahmf_jax.models.dada import DADA

MODELS: dict[str, type[Model]] = {"ahmf": AHMF, "dada": DADA}


def name_of(model: Model) -> str:
    """A model's name in `MODELS`."""
    return next(name for name, cls in MODELS.items() if type(model) is cls)


__all__ = ["AHMF", "DADA", "MODELS", "Model", "name_of"]
