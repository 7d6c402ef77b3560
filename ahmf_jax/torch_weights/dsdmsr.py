"""DSDMSR's weights between PyTorch's names and layout and Flax's, by one table. NumPy in and out; no torch.

The names are those of the published PyTorch implementation (`asrimanth/DSDMSR-PyTorch`), which has x8 of either unit
and x16 of SRCNNs: of these they were compared with it, and the rest continues them. Its units for the four views,
`dcnn_unit_1_1` (even rows, even columns), `1_2`, `2_1` and `2_2`, are a stack in Flax. `torch_modules.DSDMSR` is the
PyTorch program that has them.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ahmf_jax.torch_weights import tables
from ahmf_jax.torch_weights.tables import Row, Told, conv, stacked

if TYPE_CHECKING:  # the model brings JAX along, which the table itself does not need
    from ahmf_jax.models import DSDMSR
    from ahmf_jax.models.dsdmsr import Combine, Fusion, Unit

FUSION = "msf_dcnn"
VIEWS = ((1, 1), (1, 2), (2, 1), (2, 2))


def named(arrays: Mapping[str, Any]) -> bool:
    """Whether names are a DSDMSR's, all or some of them."""
    return any(name.startswith(("dcnn_unit_", f"{FUSION}.")) for name in arrays)


def dcnn(unit: "Unit", torch: str, flax: str) -> Iterator[Row]:
    """The convolutions of one unit."""
    if unit == "srcnn":
        yield from conv(f"{torch}.conv1", f"{flax}/conv_1", 1, 64, 9)
        yield from conv(f"{torch}.conv2", f"{flax}/conv_2", 64, 32, 5)
        yield from conv(f"{torch}.conv3", f"{flax}/conv_3", 32, 1, 5)
        return
    yield from conv(f"{torch}.conv1.0", f"{flax}/conv_1", 1, 64, 3, bias=False)
    for i in range(8):
        yield from conv(f"{torch}.trunk.{i}.conv", f"{flax}/conv_{i + 2}", 64, 64, 3, bias=False)
    yield from conv(f"{torch}.conv2", f"{flax}/conv_10", 64, 1, 3, bias=False)


def table(model: "DSDMSR") -> list[Row]:
    """Every tensor once; the model's fields `scale` and `unit` are read."""
    rows: list[Row] = []
    for step in range(1, model.scale.bit_length()):
        for entry, (row, column) in enumerate(VIEWS):
            name = f"dcnn_unit_{row}_{column}_x{2**step}"
            rows += stacked(dcnn(model.unit, name, f"stage_{step}"), entry)
    return [*rows, *dcnn(model.unit, FUSION, "fusion")]


def from_torch(
    arrays: Mapping[str, np.ndarray], fusion: "Fusion | None" = None, combine: "Combine | None" = None
) -> tuple["DSDMSR", dict[str, Any]]:
    """The model that PyTorch weights belong to, and its parameters.

    Args:
      arrays: `{name: array}`, the names without "module."; any floating dtype.
      fusion, combine: of the model, which no tensor tells; by default as the published program has them.

    Raises:
      InputError: the tensors are not exactly those of a DSDMSR: one message names all that differ.
    """
    model = infer({name: np.shape(value) for name, value in arrays.items()})
    model = model.clone(fusion=fusion or model.fusion, combine=combine or model.combine)
    return model, tables.to_flax(table(model), arrays, told(model))


def to_torch(model: "DSDMSR", params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same weights under PyTorch's names; `from_torch` is the exact inverse.

    Raises:
      InputError: the parameters are not the model's; one message names all that differ.
    """
    return tables.to_torch(table(model), params, told(model))


def infer(shapes: Mapping[str, tuple[int, ...]]) -> "DSDMSR":
    """The model whose names, and then shapes, fit best: the error of a file that lacks some then names just these."""
    from ahmf_jax.models import DSDMSR
    from ahmf_jax.models.dsdmsr import SCALES, Unit

    def misfit(model: "DSDMSR") -> tuple[int, int]:
        """Names that only one of the two has, and shapes that differ."""
        wanted = {row.torch: row.shape for row in table(model)}
        differing = sum(shapes[name] != shape for name, shape in wanted.items() if name in shapes)
        return len(shapes.keys() ^ wanted.keys()), differing

    return min((DSDMSR(scale, unit) for scale, unit in itertools.product(SCALES, get_args(Unit))), key=misfit)


def told(model: "DSDMSR") -> Told:
    """For a message."""
    return Told(f"a DSDMSR x{model.scale} of {model.unit} units", "a DSDMSR")
