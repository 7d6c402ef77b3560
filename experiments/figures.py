"""The figure of an image for a paper: guide, low resolution, interpolation, methods and truth, enlarged, with errors.

    figure(evaluations, "art", [], Path("art"))     # art.pdf and art.png, the crops where interpolation is worst

One column each (no guide where there is no colour), below them the crops, each with the errors in it. Depth has one
scale of colours, and so do all error maps; grey is unknown. Text is text in the PDF and its font is embedded as
TrueType, as publishers ask for. The same evaluations always give the same bytes, by the same version of Matplotlib.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import unwritable, write_whole
from experiments.comparison import compare, heading
from experiments.evaluations import Evaluation, read_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: the text width of a page in two columns, and what goes off it for the scales at the right.
WIDTH, SCALES = 7.16, 0.55
GAP, TITLE, LABEL = 0.03, 0.22, 0.14
LETTER = 0.008  # width of a letter over its size in points, about
DPI = 300
DEPTH_COLOURS, ERROR_COLOURS, UNKNOWN = "viridis", "inferno", "0.5"
FRAMES = ("#e8542f", "#2f8fe8", "#3fae49", "#b44fd0")
# Errors above this percentile of interpolation's in the crops are shown as if they were there.
PERCENTILE = 98
CROPS, PART = 2, 6  # chosen, and the part of the image's shorter side that is a crop's side
# By what a figure is known, that another may replace it: a property of the file, and where it stands.
CREATOR = "ahmf report"
MARKS = {".pdf": f"/Creator ({CREATOR})".encode(), ".png": f"tEXtSoftware\0{CREATOR}".encode()}
ENDS = 2**16  # bytes at the beginning of a PNG or the end of a PDF
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 6.5,
    "pdf.fonttype": 42,
    "axes.linewidth": 0.5,
    "text.usetex": False,
    "text.parse_math": False,  # a name may have a $ in it
}


class Crop(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


class Column(NamedTuple):
    """What stands under one another: a map or the guide, (H, W) or (H, W, 3); `error` where it estimates the truth."""

    title: str
    shown: np.ndarray
    error: np.ndarray | None = None
    label: str = ""


def figure(
    evaluations: Sequence[Evaluation], image: str, crops: Sequence[tuple[int, int, int, int]], out: Path
) -> tuple[Path, Path]:
    """Writes the figure of an image as PDF and PNG.

    Args:
      evaluations: of one subject, all of which kept the image; a column each.
      image: its name.
      crops: (x, y, width, height) of the parts to enlarge; by default those where interpolation is worst.
      out: where to; `.pdf` and `.png` are put behind it.

    Returns:
      the two paths.

    Raises:
      InputError: as `draw` and `places`, or a place cannot be written.
    """
    paths = places(out)
    for path, data in zip(paths, draw(evaluations, image, crops), strict=True):
        write_whole(path, data)
    return paths


def places(out: Path) -> tuple[Path, Path]:
    """The files of a figure. InputError where one of them is there already and is no figure of this program."""
    paths = out.with_name(f"{out.name}.pdf"), out.with_name(f"{out.name}.png")
    for path in paths:
        try:
            with path.open("rb") as file:
                if path.suffix == ".pdf":  # its properties stand at its end
                    file.seek(max(path.stat().st_size - ENDS, 0))
                ours = MARKS[path.suffix] in file.read(ENDS)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unwritable(path, error) from None
        if not ours:
            raise InputError(f"{path}: is there and no figure of `ahmf report`: move it, or name another page")
    return paths


def draw(
    evaluations: Sequence[Evaluation], image: str, crops: Sequence[tuple[int, int, int, int]]
) -> tuple[bytes, bytes]:
    """The figure of an image as PDF and as PNG; the arguments are those of `figure`.

    Raises:
      InputError: evaluations of several subjects, an image that one of them has not kept or of which they have another
        truth, a crop outside the image.
    """
    drawing = _drawing(evaluations, image)
    height, width = drawing.columns[-1].shown.shape
    chosen = [Crop(*crop) for crop in crops]
    for crop in chosen:
        if min(crop) < 0 or min(crop[2:]) < 1 or crop.x + crop.width > width or crop.y + crop.height > height:
            told = ",".join(map(str, crop))
            raise InputError(f"crop {told}: lies outside {image}, which is {width} wide and {height} high")
    floor = next(column.error for column in drawing.columns if column.error is not None)
    chosen = chosen or choose_crops(floor)
    inside = np.concatenate([_part(floor, crop).ravel() for crop in chosen])
    known = inside[np.isfinite(inside)]
    largest = float(np.percentile(known, PERCENTILE)) if known.size else 0.0
    return _drawn(drawing, chosen, largest or 1.0)


def choose_crops(error: np.ndarray, count: int = CROPS) -> list[Crop]:
    """The squares that hold the most error, apart from each other.

    Args:
      error: (H, W), not finite where unknown.
      count: so many, or fewer where no more fit.
    """
    height, width = error.shape
    side = max(min(height, width) // PART, min(height, width, 8))
    step = max(side // 4, 1)
    grid = _held(error, side, side)[::step, ::step].copy()
    crops: list[Crop] = []
    while len(crops) < count and np.isfinite(grid).any():
        row, column = np.unravel_index(int(grid.argmax()), grid.shape)
        crops.append(Crop(int(column) * step, int(row) * step, side, side))
        near = math.ceil(side / step)
        grid[max(row - near + 1, 0) : row + near, max(column - near + 1, 0) : column + near] = -math.inf
    return crops


def worst_part(error: np.ndarray, side: int, step: int) -> Crop:
    """The square that holds the most error, at multiples of `step`; as high or wide as the image where that is smaller.

    Args:
      error: (H, W), not finite where unknown.
      side: of the square, a multiple of `step`.
      step: pixels.
    """
    height, width = (min(side, n) for n in error.shape)
    grid = _held(error, height, width)[::step, ::step]
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    return Crop(int(column) * step, int(row) * step, width, height)


def _held(error: np.ndarray, height: int, width: int) -> np.ndarray:
    """The sum over every part of that size, by its upper left corner."""
    sums = np.pad(np.where(np.isfinite(error), error, 0).astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    held: np.ndarray = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return held


class Drawing(NamedTuple):
    """What is drawn; `measured` is what the columns' labels are, `span` that of the true depth."""

    columns: list[Column]
    measured: str
    unit: str
    span: tuple[float, float]


def _drawing(evaluations: Sequence[Evaluation], image: str) -> Drawing:
    """The columns of an image. Unknown depth is NaN."""
    compared = compare(evaluations)
    if len(compared) != 1:
        raise InputError(
            f"a figure of {image}: the {len(evaluations)} evaluations are of {len(compared)} subjects (data, protocol, "
            "factor): give those of one"
        )
    measured = [(row, row.evaluation) for row in compared[0].rows if row.evaluation is not None]
    rows = [row for row, _ in measured]
    maps = read_images([evaluation for _, evaluation in measured], image)
    first, scale = maps[0], compared[0].scale
    truth = np.where(first["mask_hr"], first["depth_hr"], np.nan)
    metric = compared[0].metrics[0]

    def estimate(title: str, depth: np.ndarray, text: str) -> Column:
        return Column(title, depth, np.abs(depth - truth), text)

    methods = [
        estimate(row.method, found["prediction"], row.text(image, metric))
        for row, found in zip(rows, maps, strict=True)
    ]
    low_resolution = np.where(first["mask_lr"], first["depth_lr"], np.nan)
    columns = [Column("guide", first["guide"])] if first["guide"].shape[-1] else []
    columns.append(Column(f"LR (x{scale})", low_resolution))
    floor = compared[0].rows[0]
    if floor.evaluation is None:
        columns.append(estimate(floor.method, first["floor"], floor.text(image, metric)))
    known = truth[np.isfinite(truth)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    unit = compared[0].unit
    return Drawing([*columns, *methods, Column("truth", truth)], heading(metric, unit), unit, (low, high))


def _part(image: np.ndarray, crop: Crop) -> np.ndarray:
    return image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]


def _drawn(drawing: Drawing, crops: Sequence[Crop], largest: float) -> tuple[bytes, bytes]:
    """The figure as PDF and as PNG."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return files(_layout(drawing, crops, largest))


def files(drawn: "Figure") -> tuple[bytes, bytes]:
    """A figure as PDF and as PNG, which `places` knows again; the same one always gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context(STYLE):
        FigureCanvasAgg(drawn)
        parts = io.BytesIO(), io.BytesIO()
        # Without the date and the version, which would make every file another.
        drawn.savefig(
            parts[0], format="pdf", dpi=DPI, metadata={"CreationDate": None, "Creator": CREATOR, "Producer": None}
        )
        drawn.savefig(parts[1], format="png", dpi=DPI, metadata={"Software": CREATOR})
    return parts[0].getvalue(), parts[1].getvalue()


def _layout(drawing: Drawing, crops: Sequence[Crop], largest: float) -> "Figure":
    """The figure. Rows: the whole image, its errors, and of each crop depth and errors."""
    from matplotlib.figure import Figure

    columns = drawing.columns
    height, width = columns[-1].shown.shape
    cell = (WIDTH - SCALES) / len(columns) - GAP
    whole = Crop(0, 0, width, height)
    rows = [(whole, False), (whole, True), *((crop, errors) for crop in crops for errors in (False, True))]
    heights = [cell * crop.height / crop.width for crop, _ in rows]
    tops = [TITLE]
    for row, high in enumerate(heights):  # numbers stand below the second
        tops.append(tops[-1] + high + (LABEL + GAP if row == 1 else GAP))
    total = tops[-1]
    drawn = Figure(figsize=(WIDTH, total))

    def place(x: float, y: float, w: float, h: float) -> Any:
        """Axes by inches from the upper left corner."""
        return drawn.add_axes((x / WIDTH, 1 - (y + h) / total, w / WIDTH, h / total))

    mapped = {}
    for row, (crop, errors) in enumerate(rows):
        for i, column in enumerate(columns):
            shown = column.error if errors else column.shown
            if shown is None:
                continue
            axes = place(i * (cell + GAP), tops[row], cell, heights[row])
            limits = (0.0, largest) if errors else drawing.span
            mapped[errors] = _show(axes, shown, crop, width, height, ERROR_COLOURS if errors else DEPTH_COLOURS, limits)
            number = (row - 2) // 2  # of the crop
            for side in axes.spines.values():
                side.set(color=FRAMES[number % len(FRAMES)] if row > 1 else "black", linewidth=1 if row > 1 else 0.5)
            if row == 0:
                size = min(STYLE["font.size"], cell / (LETTER * len(column.title)))
                axes.set_title(column.title, pad=3, fontsize=size)
                for n, part in enumerate(crops):
                    axes.add_patch(_rectangle(part, FRAMES[n % len(FRAMES)]))
            if row == 1:
                axes.set_xlabel(column.label, labelpad=1.5)
    first = next(i for i, column in enumerate(columns) if column.error is not None)
    beside = (first * (cell + GAP) - 2 * GAP) / WIDTH, 1 - (tops[1] + heights[1] + 0.03) / total
    drawn.text(*beside, drawing.measured, ha="right", va="top")
    # A scale beside two rows each: there is room for its name.
    for errors, top, bottom in ((False, tops[0], tops[1] + heights[1]), (True, tops[2], tops[3] + heights[3])):
        cax = place(len(columns) * (cell + GAP) + 0.02, top, 0.08, bottom - top)
        bar = drawn.colorbar(mapped[errors], cax=cax, extend="max" if errors else "neither")
        bar.set_label(f"{'error' if errors else 'depth'} ({drawing.unit})", labelpad=2)
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
        bar.ax.tick_params(width=0.5, length=2, pad=1.5)
    return drawn


def _show(
    axes: Any, shown: np.ndarray, crop: Crop, width: int, height: int, colours: str, limits: tuple[float, float]
) -> Any:
    """Draws a part of an image of any resolution, pixels as squares where there is room for them."""
    import matplotlib as mpl

    drawn = axes.imshow(
        shown,
        cmap=mpl.colormaps[colours].with_extremes(bad=UNKNOWN),
        vmin=limits[0],
        vmax=limits[1],
        extent=(0, width, height, 0),
        interpolation="antialiased",
        aspect="auto",
    )
    axes.set_xlim(crop.x, crop.x + crop.width)
    axes.set_ylim(crop.y + crop.height, crop.y)
    axes.set_xticks([])
    axes.set_yticks([])
    return drawn


def _rectangle(crop: Crop, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((crop.x, crop.y), crop.width, crop.height, fill=False, edgecolor=colour, linewidth=0.8)
