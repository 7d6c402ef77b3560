"""DADA's weights between PyTorch's names and layout and Flax's, by one table. NumPy in and out; no torch.

The names are those of the authors' checkpoints (`prs-eth/Diffusion-Super-Resolution`): `logk`, and the U-Net's of
segmentation-models-pytorch 0.2 as the second part of their feature extractor. The encoder's are torchvision's.
`torch_modules.DADA` is the PyTorch program that has them.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.torch_weights import tables
from ahmf_jax.torch_weights.tables import Row, Told, conv
from ahmf_jax.variables import STATISTICS

if TYPE_CHECKING:  # the model brings JAX along, which the table itself does not need
    from ahmf_jax.models import DADA
    from ahmf_jax.unet import Encoder

UNET = "feature_extractor.1"
# What the authors' program drops from its older checkpoints.
DROPPED = ("logk2", "mean_guide", "std_guide")
INPUTS = 4  # the guide's three channels and the depth


def named(arrays: Mapping[str, Any]) -> bool:
    """Whether names are a DADA's, all or some of them."""
    return any(name == "logk" or name.startswith("feature_extractor.") for name in arrays)


def norm(torch: str, flax: str, features: int) -> Iterator[Row]:
    """A BatchNorm, whose running statistics are beside the parameters in the tree of all weights."""
    path = tuple(flax.split("/"))
    for name, place in (
        ("weight", (*path, "scale")),
        ("bias", (*path, "bias")),
        ("running_mean", (STATISTICS, *path, "mean")),
        ("running_var", (STATISTICS, *path, "var")),
    ):
        yield Row(f"{torch}.{name}", place, "same", (features,))
    yield Row(f"{torch}.num_batches_tracked", (), "count", ())


def encoder(name: "Encoder", torch: str, flax: str, inputs: int) -> Iterator[Row]:
    """A ResNet's, under prefixes that end in a dot and a slash, or are empty."""
    from ahmf_jax.unet import LAYERS, STEM, widths

    yield from conv(f"{torch}conv1", f"{flax}conv1", inputs, STEM, 7, bias=False)
    yield from norm(f"{torch}bn1", f"{flax}bn1", STEM)
    before = STEM
    for layer, (blocks, after) in enumerate(zip(LAYERS[name], widths(name)[1:], strict=True)):
        width = STEM * 2**layer
        for number in range(blocks):
            there, here = f"{torch}layer{layer + 1}.{number}", f"{flax}layer{layer + 1}_{number}"
            sizes = [(before, width, 1), (width, width, 3), (width, after, 1)]
            if name == "resnet18":
                sizes = [(before, width, 3), (width, after, 3)]
            for i, (into, out, kernel) in enumerate(sizes, 1):
                yield from conv(f"{there}.conv{i}", f"{here}/conv{i}", into, out, kernel, bias=False)
                yield from norm(f"{there}.bn{i}", f"{here}/bn{i}", out)
            if not number and (layer or before != after):
                yield from conv(f"{there}.downsample.0", f"{here}/downsample", before, after, 1, bias=False)
                yield from norm(f"{there}.downsample.1", f"{here}/downsample_bn", after)
            before = after


def decoder(name: "Encoder", torch: str, flax: str) -> Iterator[Row]:
    """The way back up."""
    from ahmf_jax.unet import DECODER, skips, widths

    below = [widths(name)[-1], *DECODER[:-1]]
    for i, (into, skip, out) in enumerate(zip(below, skips(name), DECODER, strict=True)):
        for j, inputs in ((1, into + skip), (2, out)):
            yield from conv(f"{torch}.blocks.{i}.conv{j}.0", f"{flax}/block_{i}/conv{j}", inputs, out, 3, bias=False)
            yield from norm(f"{torch}.blocks.{i}.conv{j}.1", f"{flax}/block_{i}/bn{j}", out)


def table(model: "DADA") -> list[Row]:
    """Every tensor of a model that learns, once, in the order of the authors' file.

    Args:
      model: its fields `encoder` and `channels` are read.

    Raises:
      InputError: it has none.
    """
    from ahmf_jax.unet import DECODER

    if model.features != "learned":
        raise InputError(f"a DADA with features {model.features} has no weights: there is nothing to convert")
    return [
        Row("logk", ("log_contrast",), "same", ()),
        *encoder(model.encoder, f"{UNET}.encoder.", "unet/encoder/", INPUTS),
        *decoder(model.encoder, f"{UNET}.decoder", "unet/decoder"),
        *conv(f"{UNET}.segmentation_head.0", "unet/head", DECODER[-1], model.channels, 3),
    ]


def from_torch(arrays: Mapping[str, np.ndarray], scale: int | None) -> tuple["DADA", dict[str, Any]]:
    """The model that PyTorch weights belong to, and its weights, the running statistics among them.

    What no tensor tells is as `DADA` has it by default: it begins with cubic convolution and shifts each sample by
    itself, where the authors' program has `initial="griddata"` and `shift="batch"`; `model.clone` sets them.

    Args:
      arrays: `{name: array}`, the names without "module."; those that only older checkpoints have are left out.
      scale: the factor that the network was trained for, which no tensor tells.

    Raises:
      InputError: no scale, or the tensors are not exactly those of a DADA: one message names all that differ.
    """
    from ahmf_jax.models import DADA

    if scale is None:
        raise InputError("these are the weights of a DADA, which do not tell the factor: give it, as in --scale 8")
    arrays = {name: value for name, value in arrays.items() if name not in DROPPED}
    bottleneck = any(name.startswith(f"{UNET}.encoder.layer1.0.conv3.") for name in arrays)
    head = arrays.get(f"{UNET}.segmentation_head.0.weight")
    channels = head.shape[0] if head is not None and head.ndim == 4 and head.shape[0] else 64
    model = DADA(scale=scale, encoder="resnet50" if bottleneck else "resnet18", channels=channels)
    return model, tables.to_flax(table(model), arrays, told(model))


def to_torch(model: "DADA", params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same weights under PyTorch's names; `from_torch` is the exact inverse.

    Raises:
      InputError: the parameters are not the model's; one message names all that differ.
    """
    return tables.to_torch(table(model), params, told(model))


def told(model: "DADA") -> Told:
    """For a message."""
    return Told(f"a DADA with a {model.encoder} and {model.channels} channels", "a DADA")
