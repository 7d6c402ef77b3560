"""Pictures of numbers for pages and papers: their colours, and how they are written. Matplotlib is imported late."""

from pathlib import Path
from typing import TYPE_CHECKING

from ahmf_jax.writing import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people who see colours differently tell apart; markers tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"


def files(plot: Path) -> list[Path]:
    """The files of a picture: `.svg` and `.png` are put behind its name."""
    return [plot.with_name(plot.name + suffix) for suffix in (".svg", ".png")]


def tidy(axes: "Axes") -> None:
    """A light grid, and no lines above and at the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", plot: Path) -> list[Path]:
    """Writes a picture as SVG and PNG, the same bytes for the same numbers. InputError where that cannot be."""
    import matplotlib

    paths = files(plot)
    with matplotlib.rc_context({"svg.hashsalt": "ahmf"}):
        for path, metadata in zip(paths, ({"Date": None}, {}), strict=True):
            with atomic_write(path) as temp:
                figure.savefig(temp, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths
