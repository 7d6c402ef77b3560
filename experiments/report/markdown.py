"""The report as Markdown: the same tables and notes, the curves and a picture of each image as PNG files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from data_pipelines.files import write_picture
from experiments.comparison import Comparison, code, escape, markdown
from experiments.pictures import depth_colours, grid, heat_colours
from experiments.report import diffusion as diffusions
from experiments.report import images, progress, stages
from experiments.report.page import GENERATOR, Example, Page, curves, summary
from experiments.report.sources import Training

MARK = f"<!-- {GENERATOR} -->"  # the first line
HEIGHT = 280  # of a picture in a row of them, at most
DPI = 150  # of a figure


def write(
    folder: Path,
    link: str,
    comparisons: Sequence[Comparison],
    trainings: Sequence[Training],
    page: Page,
    *,
    title: str,
    lead: str,
    example: Example | None = None,
) -> str:
    """The Markdown; its pictures are written into `folder`, which it calls `link`."""
    parts = [MARK, f"# {escape(title)}"]
    if lead:
        parts.append(escape(lead))
    count = sum(map(len, (*page.shown, *page.diffusions, *page.stages)))
    with progress.bar("pictures of the Markdown", count, unit="picture") as bar:
        for i, comparison in enumerate(comparisons):
            parts += of_comparison(folder, link, i, comparison, page, bar.update)
    if trainings:
        parts.append("## Training")
    for training in trainings:
        if not training.evaluated:
            parts.append(
                f"{escape(training.name)} has no evaluation yet: "
                f"{code(f'ahmf evaluate {training.folder} --dataset ...')} makes one."
            )
    for i, chart in enumerate(curves(trainings)):
        plot(folder / f"curves_{i}.png", chart)
        parts.append(f"![{escape(chart['title'])}]({link}/curves_{i}.png)")
    if example:
        parts += [f"## {escape(example.title)}", escape(example.text), f"```\n{example.command}\n```"]
        parts.append(f"![{escape(example.alt)}]({quote(example.picture.name)})")
    return "\n\n".join(parts) + "\n"


def of_comparison(
    folder: Path, link: str, i: int, comparison: Comparison, page: Page, done: Callable[[], Any]
) -> list[str]:
    """The comparison that is number `i` on the page; `done` is called after each picture."""
    parts = [said for said in (escape(summary(comparison)),) if said]
    parts.append(markdown(comparison).strip())
    if page.shown[i]:
        scale = f"{page.scales[i]:g} {comparison.unit}"
        parts.append(f"Errors: black is none, near white {escape(scale)} or more.")
    for j, name in enumerate(page.shown[i]):
        file = f"images_{i}_{j:03d}.png"
        write_picture(folder / file, picture(images.load(comparison, name), page.scales[i]))
        parts.append(f"**{escape(name)}**\n\n![{escape(name)}]({link}/{file})")
        done()
    if page.diffusions[i]:
        parts.append("### The diffusion")
    for j, shown in enumerate(page.diffusions[i]):
        parts += diffusion(folder, link, f"diffusion_{i}_{j}", shown)
        done()
    if page.stages[i]:
        parts.append("### The stages")
    for j, made in enumerate(page.stages[i]):
        parts.append(f"**{escape(made.title)}**: {escape(made.text)}")
        if made.found is not None:
            file = f"stages_{i}_{j:03d}.png"
            write_picture(folder / file, made.found.picture())
            parts.append(f"![{escape(stages.described(made))}]({link}/{file})")
        done()
    return parts


def diffusion(folder: Path, link: str, name: str, shown: diffusions.Shown) -> list[str]:
    """What is shown of a diffusion: a figure and an animation, or why it is not."""
    text = f"**{escape(shown.title)}**: {escape(shown.text)}"
    if shown.found is None:
        return [text]
    from experiments import diffusion_pictures, figures, plots

    plots.write(diffusion_pictures.figure(shown.found), folder / f"{name}.png", dpi=DPI, style=figures.STYLE)
    (folder / f"{name}.webp").write_bytes(diffusion_pictures.animation(shown.found))
    alt = escape(diffusions.described(shown))
    return [text, *(f"![{alt}]({link}/{name}.{suffix})" for suffix in ("png", "webp"))]


def picture(image: images.Shown, scale: float) -> np.ndarray:
    """Guide, if any, and maps of an image, and the errors each below its map; (H, W, 3) uint8."""
    by = -(-image.truth.shape[0] // HEIGHT)

    def colours(layer: images.Layer) -> np.ndarray:
        depth = layer.depth if layer.kind == "lr" else shrink(layer.depth, by)
        return depth_colours(depth, image.low, image.high, np.isfinite(depth))

    guide = [("guide", np.rint(shrink(image.guide, by)).astype(np.uint8))] if image.has_colour else []
    errors = [
        (f"error of {layer.name}", heat_colours(shrink(np.abs(layer.depth - image.truth), by), scale))
        for layer in image.estimates
    ]
    maps = [(layer.name, colours(layer)) for layer in image.layers]
    nothing = [("", np.full_like(errors[0][1], 255))] * (len(guide) + 1)  # below the guide and the low resolution
    return grid([guide + maps, nothing + errors])


def shrink(array: np.ndarray, by: int) -> np.ndarray:
    """Means over squares of `by` pixels, (H // by, W // by, ...), of what is finite; NaN where nothing is."""
    height, width = array.shape[0] // by, array.shape[1] // by
    squares = array[: height * by, : width * by].reshape(height, by, width, by, -1)
    known = np.isfinite(squares)
    total, count = np.where(known, squares, 0).sum((1, 3), dtype=np.float64), known.sum((1, 3))
    means = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means.reshape(height, width, *array.shape[2:])


def plot(path: Path, chart: Mapping[str, Any]) -> None:
    """A chart of `curves` as PNG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

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
            # The scale's own formatters write TeX, which is not parsed here.
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_ylabel(chart["axis"])
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(path, format="png")
