"""`ahmf convert`: weights to and from PyTorch's names, in `.pth` files (with torch) or `.safetensors` (without)."""

import math
from collections.abc import Collection
from pathlib import Path

import jax

from ahmf_jax import torch_weights, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained, model_fields, read_safetensors, save_bundle, write_safetensors
from ahmf_jax.scaling import Scaling
from ahmf_jax.variants import Part, Variant


def _torch_modules(path: Path):  # type: ignore[no-untyped-def]  # a module, and importing it for its type needs torch
    try:
        from ahmf_jax import torch_modules
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch file, and torch is not installed: pip install 'ahmf-jax[torch]', or use a "
            ".safetensors file with the same names"
        ) from None
    return torch_modules


def _describe(trained: Trained) -> str:
    fields = ", ".join(f"{k} {v}" for k, v in model_fields(trained.model).items())
    return f"{fields}, {sum(x.size for x in jax.tree.leaves(trained.params)):,} parameters"


def from_torch(
    source: Path,
    out: Path,
    scaling: Scaling,
    depth_range: float,
    unit: str,
    *,
    variant: Variant | None = None,
    swapped: Collection[Part] | None = None,
) -> str:
    """Reads PyTorch weights, writes a bundle, and says what they are.

    Args:
      source, out: the files.
      scaling, depth_range, unit: of the depth that the network was trained on.
      variant, swapped: as in `torch_weights.from_torch`.
    """
    _suffix(out, ".safetensors")
    if not 0 < depth_range < math.inf:
        raise InputError(f"--range {depth_range:g}: give the depth that the network takes for 1, above 0")
    if source.suffix == ".safetensors":
        arrays, _ = read_safetensors(source)
    else:
        arrays = _torch_modules(source).read_pth(source)
    try:
        model, params = torch_weights.from_torch(arrays, variant, swapped)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    trained = Trained(model, params, scaling, unit, depth_range, f"converted from {source.name}")
    save_bundle(out, trained)
    return f"{out}: {_describe(trained)}"


def to_torch(source: Path, out: Path) -> str:
    """Reads a run or a bundle, writes PyTorch weights, and says what they are."""
    _suffix(out, ".pth", ".safetensors")
    trained = upsample.load_trained(source)
    arrays = torch_weights.to_torch(trained.model, trained.params)
    if out.suffix == ".pth":
        _torch_modules(out).write_pth(out, arrays)
    else:
        write_safetensors(out, arrays)
    scaling = ""
    if trained.scaling == "sample":
        scaling = "; give it depth scaled so that the LR map's minimum is 0 and its maximum 1"
    told = ""
    found = torch_weights.ahmf.infer({name: array.shape for name, array in arrays.items()})
    if model_fields(found) != model_fields(trained.model):
        parts = f" --swapped {' '.join(trained.model.swapped)}" if trained.model.swapped else ""
        told = f"; the tensors do not tell all of it: on the way back add --variant {trained.model.variant}{parts}"
    return f"{out}: {_describe(trained)}{scaling}{told}"


def _suffix(path: Path, *allowed: str) -> None:
    if path.suffix not in allowed:
        raise InputError(f"{path}: is written as {' or '.join(allowed)}: change the suffix")
