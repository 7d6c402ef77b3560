"""`ahmf convert`: exchange weights with PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ahmf_jax.variants import Part, Variant


@dataclass(frozen=True)
class FromTorch:
    """PyTorch weights to this program's: every tensor checked."""

    source: tyro.conf.Positional[Path]
    """The .pth file of AHMF's or of DADA's authors, of the published DSDMSR or of a DSCSAN, or .safetensors with the
    same names."""
    out: tyro.conf.Positional[Path]
    """The .safetensors file to write."""
    scaling: Literal["range", "sample", "largest"] = "range"
    """What the network was trained to see: depth / range, or each sample stretched over its own span, or its largest
    depth as 1."""
    range: float | None = None
    """The depth that it takes for 1, 255 by default. A DADA's must be given, with its unit, where --scaling is range:
    the authors' is the standard deviation of their data in mm, 1122.7 of Middlebury, 1386.05 of NYUv2, 1154.29 of
    DIML."""
    unit: str | None = None
    """The unit of its depth, grey level by default."""
    scale: int | None = None
    """The factor of a DADA, as its tensors do not tell it; the others' do."""
    variant: Variant | None = None
    """Of an AHMF: whose form the parts have that are not swapped; by default that of most parts that the tensors
    tell."""
    swapped: tuple[Part, ...] | None = None
    """Of an AHMF: all parts that the network has as the other variant; by default those that the tensors tell. They do
    not tell statistics, halving and order, which are then taken to be as in the variant: where that is wrong, name it
    and all swapped parts (to-torch says what)."""

    fusion: Literal["code", "figure"] | None = None
    """Of a DSDMSR, which no tensor tells: code, the published one, by default."""
    combine: Literal["sum", "mean"] | None = None
    """Of a DSDMSR, which no tensor tells: sum, the published one, by default."""
    interpolated: bool | None = None
    """Of a DSCSAN, which no tensor tells: whether its output is added to interpolated depth; by default it is."""

    def __call__(self) -> None:
        """Converts."""
        from experiments.convert import from_torch

        how = self.scaling, self.range, self.unit
        untold = {
            name: getattr(self, name) for name in ("scale", "variant", "swapped", "fusion", "combine", "interpolated")
        }
        print(from_torch(self.source, self.out, *how, **untold))


@dataclass(frozen=True)
class ToTorch:
    """A run's or a converted file's weights to PyTorch, laid out as the authors' program loads them."""

    source: tyro.conf.Positional[Path]
    """A run's folder (its best checkpoint) or a .safetensors file."""
    out: tyro.conf.Positional[Path]
    """The .pth file to write (needs torch), or a .safetensors file with PyTorch's names (does not)."""

    def __call__(self) -> None:
        """Converts."""
        from experiments.convert import to_torch

        print(to_torch(self.source, self.out))


@dataclass(frozen=True)
class Convert:
    """Exchange weights with PyTorch."""

    action: (
        Annotated[FromTorch, tyro.conf.subcommand("from-torch")] | Annotated[ToTorch, tyro.conf.subcommand("to-torch")]
    )

    def __call__(self) -> None:
        """Converts."""
        self.action()
