"""DSCSAN's weights between PyTorch's names and layout and Flax's, by one table. NumPy in and out; no torch.

The names are those of `torch_modules.DSCSAN`, as nothing was published. A group's blocks are a stack in Flax.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ahmf_jax.torch_weights import tables
from ahmf_jax.torch_weights.tables import Row, Told, conv, stacked

if TYPE_CHECKING:  # the model brings JAX along, which the table itself does not need
    from ahmf_jax.models import DSCSAN


def named(arrays: Mapping[str, Any]) -> bool:
    """Whether names are a DSCSAN's, all or some of them."""
    return any(re.match(r"(body|up|output)\.\d+\.|input\.(weight|bias)$", name) for name in arrays)


def residual_block(model: "DSCSAN", torch: str, flax: str) -> Iterator[Row]:
    """The convolutions of one block."""
    from ahmf_jax.models.dscsan import REDUCTION, WIDENED

    f = model.features
    yield from conv(f"{torch}.conv_1", f"{flax}/conv_1", f, f, 3)
    if model.block == "brb":
        yield from conv(f"{torch}.widen", f"{flax}/widen", f, WIDENED * f, 3)
        yield from conv(f"{torch}.narrow", f"{flax}/narrow", WIDENED * f, f, 3)
    yield from conv(f"{torch}.conv_2", f"{flax}/conv_2", f, f, 3)
    if model.block == "rcab":
        few = max(f // REDUCTION, 1)
        yield from conv(f"{torch}.squeeze", f"{flax}/squeeze", f, few, 1)
        yield from conv(f"{torch}.excite", f"{flax}/excite", few, f, 1)


def attention(model: "DSCSAN", torch: str, flax: str) -> Iterator[Row]:
    """The convolutions of one attention, kind by kind."""
    from ahmf_jax.models.dscsan import CELLS

    f, c, scales = model.features, model.features // 2, len(CELLS)
    for part, inputs, outputs, kernel in (
        ("scale", f, c, 3),
        ("squeeze", scales * c, scales * c // 4, 1),
        ("excite", scales * c // 4, c, 1),
    ):
        for k in range(scales):
            yield from conv(f"{torch}.{part}.{k}", f"{flax}/{part}_{k + 1}", inputs, outputs, kernel)
    yield from conv(f"{torch}.merge", f"{flax}/merge", scales * c, f, 1)


def table(model: "DSCSAN") -> list[Row]:
    """Every tensor once, in the order of the twin's modules."""
    f = model.features
    rows = list(conv("input", "input", 1, f, 3))
    for stage in range(model.outputs):
        body, flax_body = f"body.{stage}", f"body_{stage + 1}"
        for g in range(model.groups):
            group, flax_group = f"{body}.groups.{g}", f"{flax_body}/group_{g + 1}"
            for b in range(model.blocks):
                rows += stacked(residual_block(model, f"{group}.blocks.{b}", f"{flax_group}_blocks"), b)
            if model.attention:
                rows += attention(model, f"{group}.attention", f"{flax_group}_attention")
            rows += conv(f"{group}.conv", f"{flax_group}_conv", f, f, 3)
        rows += conv(f"{body}.conv", f"{flax_body}/conv", f, f, 3)
    for step in range(model.steps):
        rows += conv(f"up.{step}", f"up_{step + 1}/conv", f, 4 * f, 3)
    for stage in range(model.outputs):
        rows += conv(f"output.{stage}", f"output_{stage + 1}", f, 1, 3)
    return rows


def from_torch(arrays: Mapping[str, np.ndarray], interpolated: bool | None = None) -> tuple["DSCSAN", dict[str, Any]]:
    """The model that PyTorch weights belong to, and its parameters.

    Args:
      arrays: `{name: array}`, the names without "module."; any floating dtype.
      interpolated: of the model, which no tensor tells; as it is by default if this is None.

    Raises:
      InputError: the tensors are not exactly those of a DSCSAN: one message names all that differ.
    """
    model = infer({name: np.shape(value) for name, value in arrays.items()})
    if interpolated is not None:
        model = model.clone(interpolated=interpolated)
    return model, tables.to_flax(table(model), arrays, told(model))


def to_torch(model: "DSCSAN", params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same weights under PyTorch's names; `from_torch` is the exact inverse.

    Raises:
      InputError: the parameters are not the model's; one message names all that differ.
    """
    return tables.to_torch(table(model), params, told(model))


def infer(shapes: Mapping[str, tuple[int, ...]]) -> "DSCSAN":
    """The model that names and shapes tell: the error of a file that lacks some tensors then names just these.

    At x2 a single stage is all, `progressive` or not.
    """
    from ahmf_jax.models import DSCSAN
    from ahmf_jax.models.dscsan import SCALES

    def distinct(pattern: str) -> set[tuple[str, ...]]:
        return {found.groups() for name in shapes if (found := re.match(pattern, name))}

    # Numbers are counted: the largest one, taken at its word, could ask for a table of any length. So could the most
    # blocks of a group for each of the most groups.
    blocks = distinct(r"body\.(\d+)\.groups\.(\d+)\.blocks\.(\d+)\.")
    groups = {place[:2] for place in blocks}
    stages = len(distinct(r"(?:body|output)\.(\d+)\."))
    steps = min(max(len(distinct(r"up\.(\d+)\.")), stages, 1), len(SCALES))
    widths = Counter(
        shape[0]
        for name, shape in shapes.items()
        if re.search(r"(^input|\.conv|\.conv_1)\.bias$", name)
        and len(shape) == 1
        and shape[0] >= 4
        and not shape[0] % 2
    )
    return DSCSAN(
        scale=SCALES[steps - 1],
        groups=max(round(len(groups) / max(len({place[:1] for place in groups}), 1)), 1),
        blocks=max(round(len(blocks) / max(len(groups), 1)), 1),
        features=max(widths, key=widths.__getitem__, default=64),
        block="rcab" if any(re.search(r"\.blocks\.\d+\.(squeeze|excite)\.", name) for name in shapes) else "brb",
        attention=any(".attention." in name for name in shapes),
        progressive=stages > 1 or steps == 1,
    )


def told(model: "DSCSAN") -> Told:
    """For a message."""
    return Told(f"a {model.summary()}", "a DSCSAN")
