"""Trained weights in one file: safetensors, with all that it takes to use them in its header.

A file may come from anywhere, so nothing that its header says is believed: its length is bounded, its format is this
one, and the network that it claims is held against the shapes of the tensors, which the file's size bounds, before
anything is traced or read.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import ahmf_jax
from ahmf_jax.errors import InputError
from ahmf_jax.models import AHMF, DADA, MODELS, Model, name_of
from ahmf_jax.scaling import Scaling
from ahmf_jax.state import init_params
from ahmf_jax.writing import write_whole

# Of the layout. What a reader may do without is added under the same number: `version` to `metrics` came so.
FORMAT_NUMBER = 1
FORMAT = f"ahmf_jax {FORMAT_NUMBER}"
# Bytes of a safetensors header that are read: of tens of thousands of tensors.
MAX_HEADER = 4 << 20
MAX_NAMED = 20  # tensors named in one error, of each kind
TRACED_LEVELS = 8  # a trace of a usual network is quicker than two of smaller ones
# How a network is computed, which is left to who loads it.
RUNTIME_FIELDS = ("parent", "name", "dtype", "unroll", "remat")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Trained:
    """A model with its parameters, and what its numbers mean.

    `params` are all weights, a model's running statistics among them (`ahmf_jax.variables`). `unit` and `range` are the
    training data's: a depth of `range` units is 1.0 in a batch. `scaling`
    says what the network is given of it (see `ahmf_jax.scaling`). `training` and `metrics` are for people to read:
    what it was trained on, and how well it did on its validation images; JSON values, empty where nothing is known.
    """

    model: Model
    params: Any
    scaling: Scaling = "range"
    unit: str = "grey level"
    range: float = 255.0
    origin: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        if self.scaling not in get_args(Scaling):
            raise InputError(f"scaling {self.scaling!r} is not one of {', '.join(get_args(Scaling))}")
        if not 0 < self.range < math.inf:
            raise InputError(f"the range is {self.range}: a positive depth is needed")

    @property
    def guide_channels(self) -> int:
        """The number of channels of the guide; 0 of a model that reads none."""
        return guide_channels(self.params) if self.model.guided else 0


def model_fields(model: Any) -> dict[str, Any]:
    """The fields that make the network what it is, as JSON values (how it is computed is left to who loads it)."""
    fields = {name: getattr(model, name) for name in _field_names(type(model))}
    # Left out where it says nothing: versions before it read the file too, as this one reads theirs.
    swapped = list(fields.pop("swapped", ()))
    return fields | ({"swapped": swapped} if swapped else {})


def build_model(fields: Mapping[str, Any]) -> Model:
    """The network of `model_fields` and its `name`.

    Raises:
      InputError, KeyError, TypeError: a field has no possible value, is missing, of another type or not known.
    """
    given = dict(fields)
    cls = MODELS[given.pop("name")]
    if unknown := given.keys() - _field_names(cls):
        raise TypeError(f"unknown fields {', '.join(sorted(unknown))}")
    hints = typing.get_type_hints(cls)
    for name, value in given.items():
        kind = typing.get_origin(hints[name]) or hints[name]
        # 4.0 and True pass for whole numbers elsewhere.
        wanted = {int: (int,), float: (float, int), tuple: (list,), bool: (bool,)}.get(kind, (str,))
        if type(value) not in wanted:
            raise TypeError(f"{name} is {value!r}")
        given[name] = tuple(value) if kind is tuple else float(value) if kind is float else value
    return cls(**given)


def _field_names(cls: type[Model]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.name not in RUNTIME_FIELDS]


def check_params(model: Model, params: Any, where: str, guide_channels: int) -> None:
    """InputError unless `params` has exactly the arrays and shapes of `model`; names those that differ."""
    _check_shapes(model, _shapes(params), where, guide_channels)


def _check_shapes(model: Model, found: Shapes, where: str, channels: int) -> None:
    # First what bounds the size of all: a header may claim any.
    expected: Shapes = model.least_shapes
    if all(found.get(name) == shape for name, shape in expected.items()):
        expected = param_shapes(model, channels)
        unknown = [f"{_shown(k)} is not of this model" for k in sorted(found.keys() - expected.keys())]
    else:
        unknown = []
    missing = [f"{k} is missing" for k in sorted(expected.keys() - found.keys())]
    both = sorted(expected.keys() & found.keys())
    other = [f"{k} is {found[k]}, not {expected[k]}" for k in both if found[k] != expected[k]]
    if missing or unknown or other:
        told = "; ".join(map(_some, filter(None, (missing, unknown, other))))
        raise InputError(f"{where} does not hold the weights of {model_fields(model)}: {told}")


def _some(items: Sequence[str]) -> str:
    more = f"; and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
    return "; ".join(items[:MAX_NAMED]) + more


@functools.lru_cache(maxsize=64)
def param_shapes(model: Model, channels: int) -> Mapping[str, tuple[int, ...]]:
    """The shapes of a network's weights by path, for a guide of so many channels: traced once.

    No more than `TRACED_LEVELS` levels are traced: from two on, every axis grows by the same for each.
    """

    def traced(model: Model) -> dict[str, tuple[int, ...]]:
        return _shapes(jax.eval_shape(lambda: init_params(model, guide_channels=channels)))

    if not isinstance(model, AHMF):
        return traced(model)
    model = model.clone(unroll=1)
    if model.num_levels <= TRACED_LEVELS:
        return traced(model)
    two, three = (traced(model.clone(num_levels=levels)) for levels in (2, 3))
    return {
        name: tuple(a + (model.num_levels - 2) * (b - a) for a, b in zip(shape, three[name], strict=True))
        for name, shape in two.items()
    }


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(params, sep="/").items()}


def check_portable(trained: Trained, where: str = "the model") -> None:
    """InputError for a model that no program can be made of: a DADA that begins with what SciPy computes."""
    if isinstance(trained.model, DADA) and trained.model.initial == "griddata":
        raise InputError(
            f"{where} is a DADA with initial=griddata, which SciPy computes for each image and no program can hold: "
            "export it as safetensors, or train one with initial=cubic"
        )


def plain(trained: Trained) -> Trained:
    """The model as programs outside JAX have it: a DADA does all its iterations, on the fine image, and ends not early.

    Its depth is another where its iterations end before depth is at rest: compare the two. An AHMF is what it was.
    """
    if not isinstance(trained.model, DADA):
        return trained
    return dataclasses.replace(trained, model=trained.model.clone(tolerance=0.0, start="fine"))


def _shown(text: str) -> str:
    """What a file says, fit for a terminal."""
    return text if text.isprintable() else ascii(text)


def bundle_header(trained: Trained) -> dict[str, str]:
    """What a file of trained weights says of them, whatever its format."""
    return {
        "version": ahmf_jax.__version__,
        "model": json.dumps({"name": name_of(trained.model), **model_fields(trained.model)}),
        "scaling": trained.scaling,
        "unit": trained.unit,
        "range": repr(float(trained.range)),
        "origin": trained.origin,
        "training": json.dumps(trained.training),
        "metrics": json.dumps(trained.metrics),
    }


def bundle(trained: Trained) -> bytes:
    """The bundle, as `load_bundle` reads it.

    The tensors carry the paths of the parameters (`mmaf/frb/squeeze/conv/kernel`), float32.

    Raises:
      InputError: a weight is NaN or infinite.
    """
    flat = traverse_util.flatten_dict(trained.params, sep="/")
    arrays = {k: np.asarray(v, np.float32, order="C") for k, v in flat.items()}
    _check_finite("the model", arrays)
    return save(arrays, {"format": FORMAT, **bundle_header(trained)})


def save_bundle(path: str | os.PathLike[str], trained: Trained) -> None:
    """Writes the bundle, whole or not at all.

    Raises:
      InputError: the file cannot be written there, or a weight is NaN or infinite.
    """
    # Not the library's own `save_file`: what that writes only its owner can read.
    write_whole(path, bundle(trained))


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], header: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all; InputError where the folder cannot be written."""
    write_whole(path, save(arrays, header))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the header of a safetensors file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose header has been parsed, by its library: the tensors lie inside the file, side by side.

    Raises:
      InputError: there is none, or it is not one, also where the body finds that out.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a weights file")
    try:
        with path.open("rb") as plain:
            length = int.from_bytes(plain.read(8), "little")
        if MAX_HEADER < length <= path.stat().st_size:
            raise SafetensorError(f"its header has {length} bytes: more than {MAX_HEADER} are not read")
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from None


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a bundle says of itself, as text.

    Raises:
      InputError: it is no bundle, or one of a format that only a later version reads.
    """
    with _opened(Path(path)) as file:
        return _known_format(path, file.metadata() or {})


def load_bundle(path: str | os.PathLike[str]) -> Trained:
    """Reads what `save_bundle` wrote: header, names, shapes and types are checked before any tensor is read.

    Raises:
      InputError: no such file, another kind or a later format, weights that are not the model's, or not finite.
    """
    path = Path(path)
    with _opened(path) as file:
        header = _known_format(path, file.metadata() or {})
        try:
            model = build_model(json.loads(header["model"]))
            scaling: Any = header["scaling"]  # `Trained` checks it
            trained = Trained(
                model,
                {},
                scaling,
                header["unit"],
                float(header["range"]),
                header.get("origin", ""),
                dict(json.loads(header.get("training", "{}"))),
                dict(json.loads(header.get("metrics", "{}"))),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{path} has a damaged header ({_shown(repr(error))}): get the file anew, or write it again with `ahmf "
                "export` or `ahmf convert`"
            ) from None
        tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
        _check_shapes(model, shapes, str(path), _guide_channels(shapes))
        for name, tensor in tensors.items():
            if tensor.get_dtype() != "F32":
                raise InputError(f"{path}: {name} is {tensor.get_dtype()}, not F32: write it again with `ahmf export`")
        arrays = {name: file.get_tensor(name) for name in tensors}
    _check_finite(str(path), arrays)
    return dataclasses.replace(trained, params=traverse_util.unflatten_dict(arrays, sep="/"))


def _known_format(path: str | os.PathLike[str], header: dict[str, str]) -> dict[str, str]:
    """The header, which is of a format that this version reads."""
    found = re.fullmatch(r"ahmf_jax ([0-9]{1,9})", header.get("format", ""))
    if found is None:
        raise InputError(
            f"{path} is a safetensors file, but not of format {FORMAT!r}: for PyTorch's names use `ahmf convert "
            "from-torch`"
        )
    if int(found[1]) != FORMAT_NUMBER:
        writer = _shown(header.get("version", "(not stated)"))
        raise InputError(
            f"{path} is of format {found[0]!r}, written by ahmf-jax {writer}, and this is ahmf-jax "
            f"{ahmf_jax.__version__}, which reads {FORMAT!r}: use the version that wrote it"
        )
    return header


def _check_finite(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if wrong:
        raise InputError(
            f"{where} has weights that are NaN or infinite, and would give no depth: {_some(wrong)}; take an earlier "
            "checkpoint, or train again with a smaller learning rate"
        )


def guide_channels(params: Any) -> int:
    """The number of channels of the guide that a guided model's weights were made for; 3 where they do not say."""
    return _guide_channels(_shapes(params))


def _guide_channels(shapes: Shapes) -> int:
    for name, pixels in (("guide_level_1/input/conv/kernel", 1), ("guide_level_1/down_0/conv/kernel", 4)):
        if len(shape := shapes.get(name, ())) == 4 and all(shape):
            return max(1, shape[2] // pixels)
    return 3
