"""Figure 10's picture: what the recurrence over the levels (BHFC) makes of the features of each.

    trained = load_trained("weights.safetensors")
    write(feature_maps(trained, read_batch(trained, Path("depth.png"), Path("guide.png"))), Path("maps.pdf"))

A row each level, its features before BHFC (`aux["fused"]`) and after (`aux["refined"]`). A map is the mean over all
channels, as the paper's figure shows "average feature maps": no channel is chosen, and the same is shown of every
network. Each map has a scale of its own, with its numbers beside it: trained weights give features of the two sides,
and of two levels, that are thousands of times as large as each other, so that a common scale would show one alone.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ahmf_jax import memory
from ahmf_jax.arrays import check_guide, known_samples
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF
from ahmf_jax.scaling import offset_and_span
from ahmf_jax.units import depth_of_one
from ahmf_jax.upsample import filled
from data_pipelines.files import MAX_PIXELS, read_depth, read_guide
from experiments import plots
from experiments.figures import DEPTH_COLOURS, DPI, GAP, SCALES, STYLE, TITLE, UNKNOWN, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "cividis"
# Of a map's values, percentiles that are the ends of its scale: the padding makes a map's border stand out.
ENDS = 1.0, 99.0
LEVEL = 0.16  # inches before the rows, for the level's number


class Maps(NamedTuple):
    """Features of the levels as means over the channels, level 1 first: (m, h, w) each."""

    before: np.ndarray
    after: np.ndarray


def read_batch(
    trained: Trained,
    depth: Path,
    guide: Path,
    *,
    invalid: float | None = None,
    depth_range: float | str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, np.ndarray]:
    """A batch of one from files, as the network sees it in `ahmf upsample`: holes filled, in units of the range.

    Args:
      trained: the model, in whose unit the depth is.
      depth, guide: the files; the guide is `scale` times as large.
      invalid: the depth that means unknown.
      depth_range: the depth that the network takes for 1, as `Upsampler.run` has it.
      max_pixels: larger images are refused.

    Raises:
      InputError: a file that cannot be read, images that the model cannot take, or a model that is no AHMF.
    """
    _check(trained)
    low, colour = read_depth(depth, max_pixels), read_guide(guide, max_pixels)
    height, width = (trained.model.scale * n for n in low.shape)
    if colour.shape[:2] != (height, width):
        raise InputError(
            f"{guide}: is {colour.shape[1]} x {colour.shape[0]} pixels, and with {depth} at x{trained.model.scale} it "
            f"must be {width} x {height}: crop or resample one of them"
        )
    try:
        check_guide(colour, trained.guide_channels, low.shape)
        (known,) = known_samples(low[None], None, invalid)
        given = filled(low, known, colour)
        given /= depth_of_one(trained, None, depth_range, float(np.abs(given).max()))
    except InputError as error:
        raise InputError(f"{depth} with {guide}: {error}") from None
    return {
        "depth_lr": given[None, ..., None],
        "mask_lr": known[None, ..., None],
        "guide": colour[None] / np.float32(255),
    }


def means(trained: Trained, batch: Mapping[str, Any]) -> Maps:
    """The features before and after BHFC of a batch's first image, each the mean over its channels.

    Raises:
      InputError: the image takes more memory than there is, or is not what the network takes; another model.
    """
    _check(trained)
    model = trained.model
    depth, known, guide = (np.asarray(batch[name][:1]) for name in ("depth_lr", "mask_lr", "guide"))
    what = f"the feature maps of {depth.shape[1]} x {depth.shape[2]} samples take"
    memory.check(what, model.bytes_per_sample * depth.size, jax.devices()[0], "give a part of the image")
    span = batch["depth_span"][:1] if "depth_span" in batch else None
    low, width = offset_and_span(depth, known, trained.scaling, span)
    scaled = ((depth - low) / width).astype(np.float32)
    fused, refined = _means(model, trained.params, jnp.asarray(scaled), jnp.asarray(guide))
    order = np.argsort(model.level_order)  # the network lists them as BHFC sees them
    return Maps(*(np.asarray(maps)[order, 0] for maps in (fused, refined)))


def _check(trained: Trained) -> None:
    """Refuses a model that has no levels."""
    if not isinstance(trained.model, AHMF):
        raise InputError(f"the feature maps are of AHMF's levels, and {trained.model.summary()} has none: give an AHMF")


@functools.partial(jax.jit, static_argnames="model")
def _means(model: Any, params: Any, depth: Any, guide: Any) -> tuple[Any, Any]:
    _, aux = model.apply({"params": params}, depth, guide)
    fused, refined = (jnp.mean(jnp.stack(aux[name]).astype(jnp.float32), -1) for name in ("fused", "refined"))
    return fused, refined


def feature_maps(trained: Trained, batch: Mapping[str, Any]) -> "Figure":
    """The figure of a batch's first image: guide and low resolution, and beside them a row each level.

    Args:
      trained: the weights.
      batch: `depth_lr`, holes filled, in units of the range, `mask_lr` and `guide`; also `depth_span` for weights that
        were trained with scaling "truth".

    Raises:
      InputError: as `means`.
    """
    from matplotlib import rc_context

    known, low = (np.asarray(batch[name][0, ..., 0]) for name in ("mask_lr", "depth_lr"))
    with rc_context(STYLE):
        return _layout(
            means(trained, batch),
            np.asarray(batch["guide"][0]),
            np.where(known, low * np.float32(trained.range), np.nan),
            trained,
        )


def write(figure: "Figure", out: Path) -> None:
    """Writes a figure of `feature_maps` as a .png, .pdf or .svg file; InputError as `plots.write`."""
    plots.write(figure, out, dpi=DPI, style={**STYLE, "svg.fonttype": "none"})


def _layout(maps: Maps, guide: np.ndarray, depth: np.ndarray, trained: Trained) -> "Figure":
    """Three columns: what the network is given, the levels before BHFC, and after it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    levels, height, width = maps.before.shape
    cell = (WIDTH - LEVEL - 2 * SCALES) / 3 - GAP
    tall = cell * height / width
    total = max(TITLE + levels * (tall + GAP), 2 * (TITLE + tall) + GAP)  # the inputs are two, each with a title
    drawn = Figure(figsize=(WIDTH, total))

    def place(x: float, y: float, w: float, h: float) -> Any:
        """Axes by inches from the upper left corner."""
        return drawn.add_axes((x / WIDTH, 1 - (y + h) / total, w / WIDTH, h / total))

    def show(shown: np.ndarray, x: float, y: float, title: str = "", **colours: Any) -> Any:
        axes = place(x, y, cell, tall)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, pad=3)
        return axes.imshow(shown, interpolation="antialiased", aspect="auto", **colours)

    unknown = mpl.colormaps[DEPTH_COLOURS].with_extremes(bad=UNKNOWN)
    # A guide of any number of channels: its first three, or its first alone.
    colour = guide[..., :3] if guide.shape[-1] >= 3 else guide[..., 0]
    show(np.clip(colour, 0, 1), 0, TITLE, "guide", cmap="gray", vmin=0, vmax=1)
    show(depth, 0, 2 * TITLE + tall, f"LR (x{trained.model.scale}), {trained.unit}", cmap=unknown)
    for column, (name, side) in enumerate(zip(("before BHFC", "after BHFC"), maps, strict=True)):
        left = cell + GAP + LEVEL + column * (cell + SCALES + GAP)
        for level, shown in enumerate(side):
            top = TITLE + level * (tall + GAP)
            low, high = np.percentile(shown, ENDS)
            image = show(shown, left, top, "" if level else name, cmap=COLOURS, vmin=low, vmax=high)
            if column == 0:
                image.axes.set_ylabel(f"level {level + 1}", labelpad=2)
            scale = place(left + cell + 0.02, top, 0.08, tall)
            bar = drawn.colorbar(image, cax=scale, extend="both", format="%.3g", ticks=MaxNLocator(4))
            bar.outline.set_linewidth(0.5)  # type: ignore[operator]
            bar.ax.tick_params(width=0.5, length=2, pad=1.5)
    return drawn
