"""`ahmf export`: a trained model for other programs, compared with the original before its file gets its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class _Export:
    source: tyro.conf.Positional[Path]
    """A run's folder (its best checkpoint), a .safetensors file, or dada_rgb_x8, the learning-free DADA of a scale."""


@dataclass(frozen=True)
class ToSafetensors(_Export):
    """One file: the weights, and in its header model, scale, unit, range, training data and validation figures."""

    out: tyro.conf.Positional[Path]
    """The .safetensors file to write."""

    def __call__(self) -> None:
        """Exports."""
        from experiments.export import to_safetensors

        to_safetensors(self.source, self.out)


@dataclass(frozen=True)
class ToStableHLO(_Export):
    """A program for CPU, CUDA and TPU with the weights inside, any batch, height and width; runs with JAX alone."""

    out: tyro.conf.Positional[Path]
    """The .stablehlo file to write."""

    def __call__(self) -> None:
        """Exports."""
        from experiments.export import to_stablehlo

        to_stablehlo(self.source, self.out)


@dataclass(frozen=True)
class ToOnnx(_Export):
    """An ONNX graph with the weights inside, any batch, height and width (needs the extra onnx)."""

    out: tyro.conf.Positional[Path]
    """The .onnx file to write."""

    def __call__(self) -> None:
        """Exports."""
        from experiments.export import to_onnx

        to_onnx(self.source, self.out)


@dataclass(frozen=True)
class ToTorch(_Export):
    """A PyTorch program of any batch, height and width that runs with torch alone, and the weights by the authors'
    names (needs the extra torch)."""

    out: tyro.conf.Positional[Path]
    """The folder to write: model.pt2 and weights.safetensors."""

    def __call__(self) -> None:
        """Exports."""
        from experiments.export import to_torch

        to_torch(self.source, self.out)


@dataclass(frozen=True)
class Show(_Export):
    """What a file of weights or a run says of itself."""

    def __call__(self) -> None:
        """Prints it."""
        from experiments.export import described

        print("\n".join(described(self.source)))


@dataclass(frozen=True)
class Export:
    """Take a trained model to other programs: each file is run and compared with the original before it is kept."""

    action: (
        Annotated[ToSafetensors, tyro.conf.subcommand("safetensors")]
        | Annotated[ToStableHLO, tyro.conf.subcommand("stablehlo")]
        | Annotated[ToOnnx, tyro.conf.subcommand("onnx")]
        | Annotated[ToTorch, tyro.conf.subcommand("torch")]
        | Annotated[Show, tyro.conf.subcommand("show")]
    )

    def __call__(self) -> None:
        """Exports."""
        self.action()
