"""DADA's diffusion as pictures: the coefficients, and depth and error after ever more iterations.

    trained = load_trained("dada_rgb_x8")                             # or a run, or weights
    found = watch(trained, depth_lr, known, guide, truth=truth)
    pdf, png = figures.files(figure(found))                           # for a paper
    animation(found)                                                  # an animated WebP

What is shown is the diffusion itself, from its beginning to the last iteration that the model is configured for: a
model that ends early or begins on coarse blocks (`tolerance`, `start`) gets to the same by fewer.
"""

import functools
import io
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ahmf_jax import diffusion
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import DADA
from ahmf_jax.variables import split
from experiments.figures import (
    DEPTH_COLOURS,
    ERROR_COLOURS,
    GAP,
    PERCENTILE,
    SCALES,
    STYLE,
    TITLE,
    UNKNOWN,
    WIDTH,
    Crop,
)
from experiments.pictures import depth_colours, heat_colours, side_by_side
from experiments.windows import part, window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STILLS = (0, 100, 1000)  # iterations after which a still is shown; and after the last
FRAMES = 26  # of the animation, and points of the curve, about
COEFFICIENT_COLOURS = "gray"
CURVE, BELOW, LEFT = 1.05, 0.33, 0.5  # inches: the curve's height, and room for its axes
# Milliseconds that a frame is shown, the first and the last.
DURATION, HOLD = 220, 1500
QUALITY, SIDE = 70, 384  # of the animation's pictures


@dataclass(frozen=True)
class Diffusion:
    """What happened to an image, or to a part of it.

    Attributes:
      guide: (H, W, 3) uint8.
      cv: (H - 1, W), how much passes between a pixel and the one below, 0 to 1.
      ch: (H, W - 1), and the one to the right.
      counts: iterations after which depth was kept, from 0 to the last.
      depths: (len(counts), H, W) float32.
      truth: (H, W), NaN where it is unknown.
      unit: of the depth.
      is_part: whether this is a part of an image, whose errors are not the image's.
    """

    guide: np.ndarray
    cv: np.ndarray
    ch: np.ndarray
    counts: tuple[int, ...]
    depths: np.ndarray
    truth: np.ndarray
    unit: str
    is_part: bool = False

    @property
    def measure(self) -> str:
        """What `errors` are called."""
        return "MAE of this part" if self.is_part else "MAE"

    @functools.cached_property
    def errors(self) -> tuple[float, ...]:
        """Mean absolute error after each of the counts; NaN where no truth is known."""
        known = np.isfinite(self.truth)
        if not known.any():
            return (math.nan,) * len(self.counts)
        return tuple(float(np.abs(depth - self.truth)[known].mean(dtype=np.float64)) for depth in self.depths)

    @property
    def span(self) -> tuple[float, float]:
        """The scale of colours: what is known of the truth, or the last depth."""
        known = self.truth[np.isfinite(self.truth)]
        known = known if known.size else self.depths[-1]
        return float(known.min()), float(known.max())

    @property
    def largest(self) -> float:
        """The error at the end of the colours: few pixels are further off before the first iteration."""
        error = self.error(0)
        known = error[np.isfinite(error)]
        return float(f"{np.percentile(known, PERCENTILE) if known.size else 0:.2g}") or 1.0

    @property
    def stills(self) -> list[int]:
        """The places in `counts` of those that are shown side by side."""
        return [i for i, count in enumerate(self.counts) if count in STILLS or count == self.counts[-1]]

    def error(self, i: int) -> np.ndarray:
        """(H, W), absolute, NaN where it is unknown."""
        return np.abs(self.depths[i] - self.truth)


def watch(
    trained: Trained,
    depth_lr: np.ndarray,
    known: np.ndarray,
    guide: np.ndarray,
    *,
    truth: np.ndarray | None = None,
    unit: str | None = None,
    crop: Crop | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Diffusion:
    """Runs the diffusion of an image, and keeps what there is after ever more iterations.

    Args:
      trained: a DADA.
      depth_lr: (h, w).
      known: (h, w) bool, where it is known.
      guide: (scale * h, scale * w, 3) uint8.
      truth: (scale * h, scale * w), NaN where it is unknown.
      unit: of the depths; the model's by default.
      crop: the part to show, at multiples of the scale. It is computed as a tile of the image is.
      progress: called now and then with how many iterations are done, and how many there are.

    Raises:
      InputError: another model, or depth and guide that it cannot take.
    """
    model = trained.model
    if not isinstance(model, DADA):
        raise InputError(f"{model.summary()} does not diffuse: only DADA has pictures of a diffusion")
    given = window(trained, depth_lr, known, guide, crop, unit=unit)
    crop = given.crop
    # Without iterations it is over as soon as the coefficients are known; of the last ones, there is at least one.
    begun = model.clone(iterations=0, gradient_iterations=1)
    image, cv, ch = _begin(begun, split(trained.params), given.images, given.told)

    # The diffusion is of depth in the model's deviations, raised by the shift.
    added = jnp.asarray(given.told["shift"])[:, None, None, None]
    image, source = (x / model.deviation + added for x in (image, given.images["depth_lr"]))
    measured = jnp.asarray(given.images["mask_lr"])
    counts = _counts(model.iterations + (model.gradient_iterations if model.features == "learned" else 0))
    depths = np.empty((len(counts), crop.height, crop.width), np.float32)
    for i, (done, count) in enumerate(itertools.pairwise((0, *counts))):
        image = _iterate(image, cv, ch, source, measured, count - done, model.rate)
        depths[i] = given.depth((image - added) * model.deviation)
        progress(count, counts[-1])
    colours, place = part(guide, crop, len(guide)), given.place
    rows, columns = slice(place.y, place.y + place.height), slice(place.x, place.x + place.width)
    return Diffusion(
        colours,
        np.asarray(cv)[0, rows, columns, 0][: crop.height - 1],
        np.asarray(ch)[0, rows, columns, 0][:, : crop.width - 1],
        counts,
        depths,
        np.full(colours.shape[:2], np.nan, np.float32) if truth is None else part(truth, crop, len(truth)),
        trained.unit if unit is None else unit,
        is_part=colours.shape != guide.shape,
    )


def _counts(last: int) -> tuple[int, ...]:
    """Ever more iterations: 0, those of the stills, the last one, and others whose logarithms are evenly spread."""
    spread = np.rint(np.geomspace(1, max(last, 1), FRAMES)).astype(int).tolist()
    return tuple(sorted({n for n in (*STILLS, *spread) if n < last} | {last}))


@functools.partial(jax.jit, static_argnames="model")
def _begin(model: DADA, variables: Any, images: Mapping[str, Any], told: Mapping[str, Any]) -> Any:
    """What the diffusion begins with, and its coefficients."""
    _, aux = model.apply(variables, **images, **told)
    return aux["depth_start"], aux["cv"], aux["ch"]


@functools.partial(jax.jit, static_argnames="rate")
def _iterate(image: Any, cv: Any, ch: Any, source: Any, mask: Any, count: Any, rate: float) -> Any:
    return diffusion.diffuse(image, cv, ch, source, mask, before=count, rate=rate)[0]


def grey(coefficients: np.ndarray) -> np.ndarray:
    """(H, W) coefficients to (H, W, 3) uint8: black is 0, white is 1."""
    return np.rint(255 * coefficients).astype(np.uint8)[..., None].repeat(3, -1)


def animation(found: Diffusion) -> bytes:
    """Depth and error after ever more iterations, as an animated WebP that begins anew at its end.

    Each frame says how many iterations there were, and the mean absolute error.
    """

    def small(picture: np.ndarray) -> np.ndarray:
        image = Image.fromarray(picture)
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return np.asarray(image)

    frames = []
    for i, count in enumerate(found.counts):
        maps = [(f"depth after {count:,} iterations", small(depth_colours(found.depths[i], *found.span)))]
        if not math.isnan(found.errors[i]):
            text = f"error: {found.measure} {found.errors[i]:#.4g} {found.unit}"
            maps.append((text, small(heat_colours(found.error(i), found.largest))))
        frames.append(Image.fromarray(side_by_side(maps)))
    durations = [DURATION] * len(frames)
    durations[0] = durations[-1] = HOLD
    file = io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=QUALITY, method=4
    )
    return file.getvalue()


def figure(found: Diffusion) -> "Figure":
    """The figure for a paper: guide, truth and coefficients, below them the stills, their errors, and its curve.

    Where no truth is known there are no errors and no curve.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        return _layout(found)


def _layout(found: Diffusion) -> "Figure":
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height, width = found.truth.shape
    told = not math.isnan(found.errors[0])
    stills = found.stills
    columns = 4
    cell = (WIDTH - SCALES) / columns - GAP
    tall = cell * height / width
    rows = 3 if told else 2
    total = rows * (TITLE + tall) + (TITLE + CURVE + BELOW) * told
    drawn = Figure(figsize=(WIDTH, total))

    def place(x: float, y: float, w: float, h: float) -> Any:
        """Axes by inches from the upper left corner."""
        return drawn.add_axes((x / WIDTH, 1 - (y + h) / total, w / WIDTH, h / total))

    def show(row: int, column: int, title: str, shown: np.ndarray, colours: str, ends: tuple[float, float]) -> Any:
        axes = place(column * (cell + GAP), TITLE + row * (tall + TITLE), cell, tall)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, pad=3)
        palette = mpl.colormaps[colours].with_extremes(bad=UNKNOWN)
        return axes.imshow(shown, cmap=palette, vmin=ends[0], vmax=ends[1], interpolation="antialiased", aspect="auto")

    def scale(row: int, image: Any, name: str, extend: str = "neither") -> None:
        cax = place(columns * (cell + GAP) + 0.02, TITLE + row * (tall + TITLE), 0.08, tall)
        bar = drawn.colorbar(image, cax=cax, extend=extend)
        bar.set_label(name, labelpad=2)
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
        bar.ax.tick_params(width=0.5, length=2, pad=1.5)

    show(0, 0, "guide", found.guide, DEPTH_COLOURS, (0, 255))
    if told:
        show(0, 1, "truth", found.truth, DEPTH_COLOURS, found.span)
    show(0, 2, "cv: with the pixel below", found.cv, COEFFICIENT_COLOURS, (0, 1))
    scale(0, show(0, 3, "ch: with the pixel at the right", found.ch, COEFFICIENT_COLOURS, (0, 1)), "coefficient")
    for column, i in enumerate(stills):
        count = found.counts[i]
        title = f"{count:,} iterations" if count else "before the first iteration"
        image = show(1, column, title, found.depths[i], DEPTH_COLOURS, found.span)
        if told:
            error = f"{found.measure} {found.errors[i]:#.4g}"
            wrong = show(2, column, error, found.error(i), ERROR_COLOURS, (0, found.largest))
    scale(1, image, f"depth ({found.unit})")
    if told:
        scale(2, wrong, f"error ({found.unit})", "max")
        _curve(found, place(LEFT, rows * (TITLE + tall) + TITLE, WIDTH - LEFT - 0.05, CURVE))
    return drawn


def _curve(found: Diffusion, axes: Any) -> None:
    """The error over the iterations; before the first one, which has no place on a logarithmic axis, as a line."""
    from matplotlib.ticker import StrMethodFormatter

    from experiments import plots

    axes.axhline(found.errors[0], color="0.4", linestyle="--", linewidth=0.8, label="before the first iteration")
    axes.plot(found.counts[1:], found.errors[1:], color=plots.COLOURS[0], marker=".", markersize=3, linewidth=1)
    axes.set_xscale("log")
    # The scale's own formatter writes TeX, which is not parsed here.
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(0, 1.1 * max(found.errors) or 1.0)
    axes.set_xlabel("iterations", labelpad=1)
    axes.set_ylabel(f"{found.measure} ({found.unit})")
    axes.legend(frameon=False, loc="lower left")
    plots.tidy(axes)
