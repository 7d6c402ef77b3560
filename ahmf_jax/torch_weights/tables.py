"""Weights by a table: what every model's conversion does with its rows. NumPy in and out.

Each row names one tensor on both sides, with the layout it has there:

=======  ===================  ===========================
kind     PyTorch              Flax
=======  ===================  ===========================
`conv`   (out, in, k, k)      `kernel` (k, k, in, out)
`prelu`  (1,)                 `negative_slope` ()
`same`   any                  the same
`count`  () int64             none
=======  ===================  ===========================

A `count`, of the batches that a BatchNorm has seen, is read by nobody: it may be missing, and is written as 0.

PyTorch has a module a level; in Flax AHMF's levels are stacked on a new leading axis, so that a loop runs over them,
and a row also names its entry of the stack.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError


class Told(NamedTuple):
    """A model in a message: in a few words, and what to give where weights are of something else altogether."""

    described: str
    wanted: str


class Row(NamedTuple):
    """One tensor: its PyTorch name and shape, its path in the Flax weights, its kind, and its place in a stack."""

    torch: str
    flax: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    entry: int | None = None  # on the leading axis of the Flax parameter; None where that is this tensor alone


def stacked(rows: Iterable[Row], entry: int) -> Iterator[Row]:
    """The rows as those of one entry of a stack."""
    return (row._replace(entry=entry) for row in rows)


def conv(torch: str, flax: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> Iterator[Row]:
    """The weight of one convolution, and its bias if it has one."""
    path = tuple(flax.split("/"))
    yield Row(f"{torch}.weight", (*path, "kernel"), "conv", (outputs, inputs, kernel, kernel))
    if bias:
        yield Row(f"{torch}.bias", (*path, "bias"), "same", (outputs,))


def plain(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by names without "module.", where all have it."""
    prefixed = all(name.startswith("module.") for name in arrays)
    return {name.removeprefix("module.") if prefixed else name: value for name, value in arrays.items()}


def to_flax(rows: Iterable[Row], arrays: Mapping[str, np.ndarray], model: Told) -> dict[str, Any]:
    """The nested float32 weights of a model, from exactly its PyTorch tensors.

    Raises:
      InputError: they are not; one message names all that are missing, not known or of another shape or type.
    """
    counted = {row.torch for row in rows if row.kind == "count"}
    given = {name: value for name, value in arrays.items() if name not in counted}
    by_name = {row.torch: row for row in rows if row.kind != "count"}
    check("the PyTorch weights", {name: row.shape for name, row in by_name.items()}, given, model)
    params = {path: np.empty(shape, np.float32) for path, shape in flax_shapes(rows).items()}
    for name, row in by_name.items():
        params[row.flax][... if row.entry is None else row.entry] = to_flax_layout(row.kind, given[name])
    return nest(params)


def to_torch(rows: Iterable[Row], params: Mapping[str, Any], model: Told) -> dict[str, np.ndarray]:
    """The inverse: PyTorch's tensors, float32, OIHW, in the order of the rows.

    Raises:
      InputError: the parameters are not the model's; one message names all that differ.
    """
    flat = flatten(params)
    expected = {"/".join(path): shape for path, shape in flax_shapes(rows).items()}
    check("the Flax parameters", expected, flat, model)
    values = {path: np.asarray(value) for path, value in flat.items()}  # once a stack, where it is on a device

    def value(row: Row) -> np.ndarray:
        if row.kind == "count":
            return np.zeros((), np.int64)
        stack = values["/".join(row.flax)]
        return to_torch_layout(row.kind, stack if row.entry is None else stack[row.entry])

    return {row.torch: value(row) for row in rows}


def flax_shapes(rows: Iterable[Row]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shapes of the Flax weights that the rows make up, by path."""
    rows = [row for row in rows if row.kind != "count"]
    entries = Counter(row.flax for row in rows)
    return {row.flax: (entries[row.flax],) * (row.entry is not None) + entry_shape(row) for row in rows}


def entry_shape(row: Row) -> tuple[int, ...]:
    """The shape that a row's tensor has in Flax, there alone or as an entry of a stack."""
    if row.kind == "prelu":
        return ()
    return tuple(row.shape[axis] for axis in (2, 3, 1, 0)) if row.kind == "conv" else row.shape


def to_flax_layout(kind: str, value: Any) -> np.ndarray:
    """A checked PyTorch tensor as Flax has it."""
    value = np.asarray(value, np.float32)
    return value.transpose(2, 3, 1, 0) if kind == "conv" else value.reshape(()) if kind == "prelu" else value


def to_torch_layout(kind: str, value: Any) -> np.ndarray:
    """A checked Flax parameter, or its entry of a stack, as PyTorch has it."""
    value = np.asarray(value, np.float32)
    value = value.transpose(3, 2, 0, 1) if kind == "conv" else value.reshape(1) if kind == "prelu" else value
    return np.array(value, order="C")  # a copy: what was given may change


def check(what: str, expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Any], model: Told) -> None:
    """Raises one InputError that names every tensor missing, unknown, or of another shape or type."""
    if not expected.keys() & given.keys():
        raise InputError(
            f"{what}: not one of the {len(given)} tensors has a known name: give the weights of {model.wanted}"
        )
    missing = [f"{name} {expected[name]}" for name in expected if name not in given]
    extra = [name if name.isprintable() else ascii(name) for name in given if name not in expected]
    misshaped, mistyped = [], []
    for name in expected.keys() & given.keys():
        shape, dtype = np.shape(given[name]), np.asarray(given[name]).dtype
        if shape != expected[name]:
            misshaped.append(f"{name} {shape}, not {expected[name]}")
        elif dtype.kind != "f" and dtype.name != "bfloat16":
            mistyped.append(f"{name} {dtype.name}")
    problems = {"missing": missing, "unknown": extra, "misshaped": sorted(misshaped), "not floating": sorted(mistyped)}
    told = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
    if told:
        raise InputError(f"{what} do not fit {model.described}: {told}: give a complete set of one model")


def nest(flat: Mapping[tuple[str, ...], np.ndarray]) -> dict[str, Any]:
    """{("a", "b"): x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
