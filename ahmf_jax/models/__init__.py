"""The systems, one file each, behind one interface: `ahmf_jax.models.base.Model`."""

from ahmf_jax.errors import InputError
from ahmf_jax.models.ahmf import AHMF
from ahmf_jax.models.base import Model
from ahmf_jax.models.dada import DADA
from ahmf_jax.models.dscsan import DSCSAN
from ahmf_jax.models.dsdmsr import DSDMSR

MODELS: dict[str, type[Model]] = {"ahmf": AHMF, "dada": DADA, "dsdmsr": DSDMSR, "dscsan": DSCSAN}
# What can be used where there is no colour.
OF_DEPTH_ALONE = tuple(name for name, model in MODELS.items() if not model.guided)


def name_of(model: Model) -> str:
    """A model's name in `MODELS`.

    Raises:
      InputError: it is none of them; a derived class is not, as a file would come back as what it is derived from.
    """
    for name, cls in MODELS.items():
        if type(model) is cls:
            return name
    raise InputError(
        f"{type(model).__name__} has no name that files could tell: use one of {', '.join(MODELS)} as it is"
    )


__all__ = ["AHMF", "DADA", "DSCSAN", "DSDMSR", "MODELS", "OF_DEPTH_ALONE", "Model", "name_of"]
