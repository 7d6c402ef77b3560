"""`ahmf convert`: weights to and from PyTorch's names, in `.pth` files (with torch) or `.safetensors` (without)."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ahmf_jax import torch_weights, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.export import (
    Trained,
    build_model,
    bundle_header,
    check_params,
    guide_channels,
    model_fields,
    read_safetensors,
    save_bundle,
    write_safetensors,
)
from ahmf_jax.models import AHMF, DADA, DSCSAN, DSDMSR, Model
from ahmf_jax.models.dsdmsr import Combine, Fusion
from ahmf_jax.scaling import Scaling
from ahmf_jax.variables import split
from ahmf_jax.variants import Part, Variant

# The standard deviations, in mm, by which the program of DADA's authors divides depth.
AUTHORS = "1122.7 of Middlebury, 1386.05 of NYUv2, 1154.29 of DIML"
# And the settings in which it is different from a DADA's defaults here.
AUTHORS_SETTINGS = {"initial": "griddata", "shift": "batch"}
# What the reader of PyTorch weights must do to the depth, which for the rest is divided by the range.
SCALED = {
    "sample": "; give it depth scaled so that the LR map's minimum is 0 and its maximum 1",
    "largest": "; give it depth scaled so that the LR map's maximum is 1",
}


def _describe(trained: Trained) -> str:
    fields = ", ".join(f"{k} {v}" for k, v in model_fields(trained.model).items())
    count = sum(x.size for x in jax.tree.leaves(split(trained.params)["params"]))
    return f"{fields}, {count:,} parameters"


def from_torch(
    source: Path,
    out: Path,
    scaling: Scaling,
    depth_range: float | None,
    unit: str | None,
    *,
    scale: int | None = None,
    variant: Variant | None = None,
    swapped: Collection[Part] | None = None,
    fusion: Fusion | None = None,
    combine: Combine | None = None,
    interpolated: bool | None = None,
) -> str:
    """Reads PyTorch weights, writes a bundle, and says what they are.

    A .safetensors file that `to_torch` wrote tells all that is asked for below, and needs none of it.

    Args:
      source, out: the files.
      scaling, depth_range, unit: of the depth that the network was trained on; by default 255 grey levels, but
        a DADA with scaling "range" must be told both, as its authors have a range for each data set.
      scale, variant, swapped, fusion, combine, interpolated: as in `torch_weights.from_torch`.

    Raises:
      InputError: a file that cannot be read or written, tensors of no model, a range that is missing or wrong, an
        argument that is not what the file tells.
    """
    _suffix(out, ".safetensors")
    if depth_range is not None and not 0 < depth_range < math.inf:
        raise InputError(f"--range {depth_range:g}: give the depth that the network takes for 1, above 0")
    arrays, header = read_safetensors(source) if source.suffix == ".safetensors" else (torch_weights.read(source), {})
    untold: dict[str, Any] = {"fusion": fusion, "combine": combine, "interpolated": interpolated}
    if header.get("format") == "pt" and "model" in header:
        given = {"scale": scale, "variant": variant, "swapped": swapped and tuple(swapped), **untold}
        given |= {"scaling": None if scaling == "range" else scaling, "range": depth_range, "unit": unit}
        trained = _told(source, arrays, header, given)
        save_bundle(out, trained)
        return f"{out}: {_describe(trained)}"
    try:
        model, params = torch_weights.from_torch(arrays, variant, swapped, scale=scale, **untold)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if isinstance(model, DADA) and scaling == "range" and (depth_range is None or unit is None):
        raise InputError(
            f"{source} is a DADA, whose tensors do not tell the depth that it takes for 1: give --range and --unit; "
            f"the authors' are --unit mm --range {AUTHORS}"
        )
    depth_range, unit = 255.0 if depth_range is None else depth_range, unit or "grey level"
    trained = Trained(model, params, scaling, unit, depth_range, f"converted from {source.name}")
    save_bundle(out, trained)
    return f"{out}: {_describe(trained)}{_assumed(model, untold)}"


def _told(
    source: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, str], given: Mapping[str, Any]
) -> Trained:
    """What a file's header tells of its tensors, which are checked; InputError where it is not what was `given`."""
    try:
        model = build_model(json.loads(header["model"]))
        scaling: Any = header["scaling"]  # `Trained` checks it
        trained = Trained(model, {}, scaling, header["unit"], float(header["range"]), f"converted from {source.name}")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{source} has a damaged header ({str(error)!a}): write it again, with `ahmf convert to-torch`"
        ) from None
    for name, value in given.items():
        there = getattr(trained if name in ("scaling", "range", "unit") else model, name, None)
        if value is not None and value != there:
            raise InputError(f"--{name} {value}: {source} was written with {name} {there}: leave it out")
    try:
        _, params = torch_weights.from_torch(arrays, **_asked(model))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    check_params(model, params, str(source), guide_channels(params))
    return replace(trained, params=params)


def _asked(model: Model) -> dict[str, Any]:
    """The arguments with which `torch_weights.from_torch` finds the model again."""
    if isinstance(model, AHMF):
        return {"variant": model.variant, "swapped": model.swapped}
    if isinstance(model, DSDMSR):
        return {"fusion": model.fusion, "combine": model.combine}
    if isinstance(model, DSCSAN):
        return {"interpolated": model.interpolated}
    return {"scale": model.scale}


def _assumed(model: Model, given: Mapping[str, Any]) -> str:
    """The settings that no tensor tells, where they were not `given`, or those of DADA's authors are others."""
    if isinstance(model, DSDMSR | DSCSAN):
        assumed = [name for name in _asked(model) if given[name] is None]
        values = ", ".join(f"{name} {getattr(model, name)}" for name in assumed)
        options = ", ".join(f"--{name}" for name in assumed)
        whose = ", as published" if isinstance(model, DSDMSR) else ""
        return f"; the tensors do not tell {values}{whose}: another with {options}" if assumed else ""
    if not isinstance(model, DADA):
        return ""
    ours = ", ".join(f"{name} {getattr(model, name)}" for name in AUTHORS_SETTINGS)
    theirs = ", ".join(f"{name} {value}" for name, value in AUTHORS_SETTINGS.items())
    return f"; the tensors do not tell all of it, and it was given {ours}: its authors trained with {theirs}"


def to_torch(source: Path, out: Path) -> str:
    """Reads a run or a bundle, writes PyTorch weights, and says what they are.

    The header of a .safetensors file, which PyTorch does not read, tells `from_torch` what no tensor does.
    """
    _suffix(out, ".pth", ".safetensors")
    trained = upsample.load_trained(source)
    arrays = torch_weights.to_torch(trained.model, trained.params)
    said = f"{out}: {_describe(trained)}{SCALED.get(trained.scaling, '')}"
    if out.suffix == ".safetensors":
        write_safetensors(out, arrays, {"format": "pt", **bundle_header(trained)})
        return said
    torch_weights.write(out, trained.model, arrays)
    return f"{said}{_untold(trained, arrays)}"


def _untold(trained: Trained, arrays: Mapping[str, np.ndarray]) -> str:
    """What the tensors do not tell, and so must be told on the way back."""
    model = trained.model
    if isinstance(model, AHMF):
        found: Model = torch_weights.ahmf.infer({name: array.shape for name, array in arrays.items()})
        parts = f" --swapped {' '.join(model.swapped)}" if model.swapped else ""
        back = f" --variant {model.variant}{parts}"
        alike = model_fields(found) == model_fields(model)
        return "" if alike else f"; the tensors do not tell all of it: on the way back add{back}"
    found, _ = torch_weights.from_torch(arrays, **_asked(model))
    theirs = model_fields(found)
    other = [f"{name} {value}" for name, value in model_fields(model).items() if value != theirs[name]]
    settings = f"; these are lost: {', '.join(other)} (`ahmf export safetensors` keeps all)" if other else ""
    assumed = model_fields(type(model)()) if isinstance(model, DSDMSR | DSCSAN) else {}
    needed = {name: value for name, value in _asked(model).items() if value != assumed.get(name)}
    options = "".join(f"--{name} {value} " for name, value in needed.items())
    back = f"{options}--scaling {trained.scaling} --unit '{trained.unit}' --range {trained.range:g}"
    return f"; the tensors do not tell all of it: on the way back add {back}{settings}"


def _suffix(path: Path, *allowed: str) -> None:
    if path.suffix not in allowed:
        raise InputError(f"{path}: is written as {' or '.join(allowed)}: change the suffix")
