"""Pictures of numbers for pages and papers: their colours, and how they are written. Matplotlib is imported late."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write
from data_pipelines.opening import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people who see colours differently tell apart; markers tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
CREATOR = "ahmf"
# What makes a file another each time it is written is left out.
METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": CREATOR},
    ".pdf": {"CreationDate": None, "Creator": CREATOR, "Producer": None},
    ".svg": {"Date": None, "Creator": CREATOR},
}


def files(plot: Path) -> list[Path]:
    """The files of a picture: `.svg` and `.png` are put behind its name."""
    return [plot.with_name(plot.name + suffix) for suffix in (".svg", ".png")]


def tidy(axes: "Axes") -> None:
    """A light grid, and no lines above and at the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", plot: Path) -> list[Path]:
    """Writes a picture as SVG and PNG. InputError where that cannot be."""
    paths = files(plot)
    for path in paths:
        write(figure, path, dpi=150)
    return paths


def write(figure: "Figure", out: Path, *, dpi: int, style: Mapping[Any, Any] = MappingProxyType({})) -> None:
    """Writes a picture, whole or not at all; the same one always gives the same bytes.

    Args:
      figure: the picture.
      out: a .png, .pdf or .svg file; an existing one is replaced.
      dpi: dots per inch, of what is no vector.
      style: settings of Matplotlib that count as it is written.

    Raises:
      InputError: another suffix, or the file cannot be written there.
    """
    import matplotlib

    suffix = out.suffix.lower()
    if suffix not in METADATA:
        raise InputError(f"{out}: pictures are written as {listed(tuple(METADATA))}: change the suffix")
    with matplotlib.rc_context({**style, "svg.hashsalt": CREATOR}), atomic_write(out) as temp:
        figure.savefig(temp, format=suffix[1:], dpi=dpi, metadata=METADATA[suffix])
