"""The report as Markdown: the same tables and notes, the curves and a picture of each image as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.files import write_picture
from experiments.comparison import Comparison, markdown
from experiments.pictures import depth_colours, grid, heat_colours
from experiments.report import images
from experiments.report.page import GENERATOR, Page, curves, summary
from experiments.report.sources import Training

HEIGHT = 320  # of a picture in a row of them


def write(
    folder: Path,
    link: str,
    comparisons: Sequence[Comparison],
    trainings: Sequence[Training],
    evaluated: set[str],
    page: Page,
    *,
    title: str,
    lead: str,
) -> str:
    """The Markdown; its pictures are written into `folder`, which it calls `link`."""
    parts = [f"<!-- {GENERATOR} -->", f"# {escape(title)}"]
    if lead:
        parts.append(escape(lead))
    for i, comparison in enumerate(comparisons):
        parts += [said for said in (escape(summary(comparison)),) if said]
        parts.append(markdown(comparison).strip())
        if page.shown[i]:
            scale = f"{page.scales[i]:g} {comparison.unit}"
            parts.append(f"Errors: black is none, near white {escape(scale)} or more.")
        for j, name in enumerate(page.shown[i]):
            file = f"images_{i}_{j:03d}.png"
            write_picture(folder / file, picture(images.load(comparison, name), page.scales[i]))
            parts.append(f"**{escape(name)}**\n\n![{escape(name)}]({link}/{file})")
    if trainings:
        parts.append("## Training")
    for training in trainings:
        if training.name not in evaluated:
            parts.append(
                f"{escape(training.name)} has no evaluation yet: "
                f"`ahmf evaluate {training.folder} --dataset ...` makes one."
            )
    for i, chart in enumerate(curves(trainings)):
        plot(folder / f"curves_{i}.png", chart)
        parts.append(f"![{escape(chart['title'])}]({link}/curves_{i}.png)")
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text in which nothing is taken for a mark-up."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>|#!" else c for c in " ".join(text.split()))


def picture(image: images.Shown, scale: float) -> np.ndarray:
    """Guide and maps of an image, and below them the errors; (H, W, 3) uint8."""
    height = image.truth.shape[0]
    small = min(HEIGHT, height) / height
    shape = max(round(height * small), 1), max(round(image.truth.shape[1] * small), 1)

    def colours(layer: images.Layer) -> np.ndarray:
        return shrink(depth_colours(layer.depth, image.low, image.high, np.isfinite(layer.depth)), shape)

    maps = [("guide", shrink(image.guide, shape)), *((layer.name, colours(layer)) for layer in image.layers)]
    errors = [
        (f"error of {layer.name}", shrink(heat_colours(np.abs(layer.depth - image.truth), scale), shape))
        for layer in image.estimates
    ]
    return grid([maps, errors])


def shrink(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The picture at that (height, width); enlarged, its pixels stay squares."""
    from PIL import Image

    how = Image.Resampling.BOX if shape[0] < picture.shape[0] else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((shape[1], shape[0]), how))


def plot(path: Path, chart: Mapping[str, Any]) -> None:
    """A chart of `curves` as PNG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # a name may have a $ in it
        figure = Figure(figsize=(7, 3.2), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for series in chart["series"]:
            style = "--" if series["floor"] else "-"
            marker = "." if len(series["x"]) <= 60 and not series["floor"] else None
            # The space, as a name that begins with _ would be left out of the legend.
            name = f" {series['name']}"
            axes.plot(series["x"], series["y"], style, color=f"C{series['run'] % 10}", marker=marker, label=name)
        if chart["log"]:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_ylabel(chart["axis"])
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(path, format="png")
