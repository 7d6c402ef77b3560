"""Trained weights in one file: safetensors, with all that it takes to use them in its header."""

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ahmf_jax.errors import InputError
from ahmf_jax.models import AHMF, MODELS
from ahmf_jax.scaling import Scaling
from ahmf_jax.state import init_params
from ahmf_jax.writing import write_whole

FORMAT = "ahmf_jax 1"


@dataclass(frozen=True)
class Trained:
    """A model with its parameters, and what its numbers mean.

    `unit` and `range` are the training data's: a depth of `range` units is 1.0 in a batch. `scaling`
    says what the network is given of it (see `ahmf_jax.scaling`).
    """

    model: AHMF
    params: Any
    scaling: Scaling = "range"
    unit: str = "grey level"
    range: float = 255.0
    origin: str = ""

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        if self.scaling not in get_args(Scaling):
            raise InputError(f"scaling {self.scaling!r} is not one of {', '.join(get_args(Scaling))}")
        if not 0 < self.range < math.inf:
            raise InputError(f"the range is {self.range}: a positive depth is needed")


def model_fields(model: Any) -> dict[str, Any]:
    """The fields that make the network what it is, as JSON values (how it is computed is left to who loads it)."""
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return {k: v for k, v in fields.items() if k not in ("parent", "name", "dtype", "unroll", "remat")}


def check_params(model: Any, params: Any, where: str, guide_channels: int) -> None:
    """InputError unless `params` has exactly the arrays and shapes of `model`; names every one that differs."""
    wanted = jax.eval_shape(lambda: init_params(model, guide_channels=guide_channels))
    expected = {k: v.shape for k, v in traverse_util.flatten_dict(wanted, sep="/").items()}
    found = {k: np.shape(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}
    problems = [f"{k} is missing" for k in sorted(expected.keys() - found.keys())]
    problems += [f"{k} is not of this model" for k in sorted(found.keys() - expected.keys())]
    problems += [
        f"{k} is {found[k]}, not {expected[k]}"
        for k in sorted(expected.keys() & found.keys())
        if expected[k] != found[k]
    ]
    if problems:
        raise InputError(f"{where} does not hold the weights of {model_fields(model)}: {'; '.join(problems)}")


def save_bundle(path: str | os.PathLike[str], trained: Trained) -> None:
    """Writes the bundle, whole or not at all.

    The tensors carry the paths of the parameters (`mmaf/frb/squeeze/conv/kernel`), float32.
    """
    path = Path(path)
    model_name = next(name for name, cls in MODELS.items() if isinstance(trained.model, cls))
    header = {
        "format": FORMAT,
        "model": json.dumps({"name": model_name, **model_fields(trained.model)}),
        "scaling": trained.scaling,
        "unit": trained.unit,
        "range": repr(float(trained.range)),
        "origin": trained.origin,
    }
    flat = traverse_util.flatten_dict(trained.params, sep="/")
    arrays = {k: np.asarray(v, np.float32, order="C") for k, v in flat.items()}
    write_safetensors(path, arrays, header)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], header: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all; InputError where the folder cannot be written."""
    # Not the library's own `save_file`: what that writes only its owner can read.
    write_whole(path, save(arrays, header))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the header of a safetensors file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a weights file")
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from None


def load_bundle(path: str | os.PathLike[str]) -> Trained:
    """Reads what `save_bundle` wrote, every shape checked."""
    path = Path(path)
    arrays, header = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} is a safetensors file, but not of format {FORMAT!r}: for PyTorch's names use `ahmf convert "
            "from-torch`"
        )
    try:
        fields = json.loads(header["model"])
        model = MODELS[fields.pop("name")](**fields)
        scaling: Any = header["scaling"]  # `Trained` checks it
        trained = Trained(model, {}, scaling, header["unit"], float(header["range"]), header.get("origin", ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a damaged header ({error!r}): write it again with `ahmf convert`") from None
    params = traverse_util.unflatten_dict(arrays, sep="/")
    check_params(model, params, str(path), guide_channels(params))
    return dataclasses.replace(trained, params=params)


def guide_channels(params: Any) -> int:
    """The number of channels of the guide that an AHMF's parameters were made for; 3 where they do not say."""
    flat = traverse_util.flatten_dict(params, sep="/")
    for name, pixels in (("guide_level_1/input/conv/kernel", 1), ("guide_level_1/down_0/conv/kernel", 4)):
        if np.ndim(flat.get(name)) == 4:
            return max(1, np.shape(flat[name])[2] // pixels)
    return 3
