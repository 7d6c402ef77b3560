"""The encoder's start from ImageNet: a file of torchvision's ResNet weights, for images of any number of channels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax import torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.torch_weights import dada, tables
from ahmf_jax.unet import Encoder
from ahmf_jax.variables import STATISTICS

COLOURS = 3  # channels that the published weights see


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
      InputError: no such file, none that can be read, or not the weights of that network: one message names all that
        differ.
    """
    arrays = torch_weights.read(Path(path))
    arrays = {name: value for name, value in tables.plain(arrays).items() if name not in ("fc.weight", "fc.bias")}
    rows = list(dada.encoder(encoder, "", "", COLOURS))
    try:
        weights = tables.to_flax(rows, arrays, tables.Told(f"torchvision's {encoder}", f"torchvision's {encoder}"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    kernel = weights["conv1"]["kernel"]
    kernel = kernel[:, :, np.arange(inputs) % COLOURS] * np.float32(COLOURS / inputs)
    return {**weights, "conv1": {"kernel": kernel}}


def with_encoder(weights: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A DADA's weights with the encoder's in place of its own, as `encoder_weights` gives them."""
    params = {name: value for name, value in found.items() if name != STATISTICS}
    statistics = weights[STATISTICS]
    return {
        **weights,
        "unet": {**weights["unet"], "encoder": params},
        STATISTICS: {**statistics, "unet": {**statistics["unet"], "encoder": found[STATISTICS]}},
    }
