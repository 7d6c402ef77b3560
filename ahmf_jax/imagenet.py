"""The encoder's start from ImageNet: a file of torchvision's ResNet weights, for images of any number of channels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ahmf_jax import torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.torch_weights import dada, tables
from ahmf_jax.unet import Encoder
from ahmf_jax.variables import STATISTICS

COLOURS = 3  # channels that the published weights see
NAMED = 3  # tensors in one error


def encoder_weights(path: str | Path, encoder: Encoder, inputs: int = dada.INPUTS) -> dict[str, Any]:
    """The weights of a `unet.ResNet`: its parameters, and its statistics under "batch_stats".

    Channel i of the input is given the first convolution's weights of colour i mod 3, and all are divided by how many
    times more channels there are, so that what they add up to keeps its size (segmentation-models-pytorch 0.2).

    Args:
      path: of a state dict with torchvision's names, `.safetensors`, or `.pth`, for which torch is needed. The
        classifier, `fc`, is left out.
      encoder: which network it is of.
      inputs: channels of the input.

    Raises:
      InputError: no such file, none that can be read, or not the weights of that network: one message says of which
        they are, where they are another's, or how many tensors differ, and names the first.
    """
    arrays = torch_weights.read(Path(path))
    arrays = {name: value for name, value in tables.plain(arrays).items() if name not in ("fc.weight", "fc.bias")}
    rows = list(dada.encoder(encoder, "", "", COLOURS))
    _check_encoder(path, arrays, encoder, rows)
    try:
        weights = tables.to_flax(rows, arrays, tables.Told(f"torchvision's {encoder}", f"torchvision's {encoder}"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    kernel = weights["conv1"]["kernel"]
    kernel = kernel[:, :, np.arange(inputs) % COLOURS] * np.float32(COLOURS / inputs)
    return {**weights, "conv1": {"kernel": kernel}}


def _check_encoder(
    path: str | Path, arrays: Mapping[str, np.ndarray], encoder: Encoder, rows: Sequence[tables.Row]
) -> None:
    """InputError where the arrays have some of the encoder's names, and not exactly its tensors."""
    wrong = _differing(arrays, rows)
    if not wrong or not any(row.torch in arrays for row in rows):
        return
    for other in get_args(Encoder):
        if not _differing(arrays, list(dada.encoder(other, "", "", COLOURS))):
            raise InputError(
                f"{path}: its tensors do not fit torchvision's {encoder}, as they are a {other}'s: give the file of a "
                f"{encoder}, or choose {other}"
            )
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    raise InputError(
        f"{path}: its tensors do not fit torchvision's {encoder}, probably as they are another network's, or changed: "
        f"give the file as it is published, of {COLOURS} colours; {len(wrong)} differ: {'; '.join(wrong[:NAMED])}{more}"
    )


def _differing(arrays: Mapping[str, np.ndarray], rows: Sequence[tables.Row]) -> list[str]:
    """What is missing, of another shape, or not known, a tensor each."""
    expected = {row.torch: row.shape for row in rows if row.kind != "count"}
    known = {row.torch for row in rows}
    return [
        f"{name} is {arrays[name].shape}, not {shape}" if name in arrays else f"{name} is missing"
        for name, shape in expected.items()
        if name not in arrays or arrays[name].shape != shape
    ] + [f"{name if name.isprintable() else ascii(name)} is not known" for name in arrays if name not in known]


def with_encoder(weights: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A DADA's weights with the encoder's in place of its own, as `encoder_weights` gives them."""
    params = {name: value for name, value in found.items() if name != STATISTICS}
    statistics = weights[STATISTICS]
    return {
        **weights,
        "unet": {**weights["unet"], "encoder": params},
        STATISTICS: {**statistics, "unet": {**statistics["unet"], "encoder": found[STATISTICS]}},
    }
