"""The stages of a model as one picture: what it makes on its way, each beside its truth and its error.

    trained = load_trained("runs/mine")                              # a model that makes stages, or has gates
    found = watch(trained, depth_lr, guide, truth, measure)
    sheet = found.picture()                                          # (height, width, 3) uint8

A column is a stage, the coarsest first and the output last; all have one scale of colours and are shown at one size.
Below stand the gates of a model that has some (`experiments/gate_pictures.py`).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ahmf_jax import memory
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.losses import stage_truths
from ahmf_jax.models import DSCSAN
from ahmf_jax.variables import split
from experiments.figures import PERCENTILE, Crop
from experiments.gate_pictures import Gates, gates
from experiments.pictures import WIDEST, depth_colours, grid, heat_colours, stacked
from experiments.protocols import Protocol, rounded
from experiments.windows import part, window

SIDE = 256  # pixels of the part that is shown of a larger image
RAMP = 14  # of a scale of colours, its height


class Measure(NamedTuple):
    """How depth becomes numbers.

    Attributes:
      unit: of the depth.
      range: the depth in that unit that is given to the model as 1, and of which PSNR tells; NaN where it is not known,
        and the model's own is taken.
      protocol: how depth is rounded, or clipped to the range, before it is measured.
      kernel: of `ahmf_jax.resample`, by which the truth is shrunk to a stage's size.
    """

    unit: str
    range: float
    protocol: Protocol
    kernel: str

    def prepare(self, depth: np.ndarray) -> np.ndarray:
        """Depth as it is measured."""
        protocol = self.protocol
        # The end of a range that is not known is nothing to clip to.
        return (
            np.maximum(depth, 0) if protocol.clip and math.isnan(self.range) else rounded(depth, protocol, self.range)
        )


@dataclass(frozen=True)
class Stage:
    """A map of a model's.

    Attributes:
      name: by how much it is larger than the low resolution, "x2"; of the last, "output".
      depth: (h, w) float32, as it is measured.
      truth: (h, w) float32, NaN where it is unknown.
    """

    name: str
    depth: np.ndarray
    truth: np.ndarray

    @functools.cached_property
    def error(self) -> np.ndarray:
        """(h, w), absolute, NaN where it is unknown."""
        return np.abs(self.depth - self.truth)

    @property
    def size(self) -> str:
        """Width and height."""
        return _size(self.depth)

    @property
    def rmse(self) -> float:
        """Root mean squared error; NaN where no truth is known."""
        known = self.error[np.isfinite(self.error)]
        return float(np.sqrt(np.mean(np.square(known, dtype=np.float64)))) if known.size else math.nan


@dataclass(frozen=True)
class Stages:
    """What became of an image, or of a part of it.

    Attributes:
      low: (h, w), the low resolution, NaN where it is unknown.
      stages: the coarsest first, the output last.
      measure: of the depth.
      is_part: whether this is a part of an image, whose errors are not the image's.
      gates: of all of the image; None of a model that has none.
    """

    low: np.ndarray
    stages: tuple[Stage, ...]
    measure: Measure
    is_part: bool = False
    gates: Gates | None = None

    @property
    def low_size(self) -> str:
        """Width and height of the low resolution."""
        return _size(self.low)

    @property
    def span(self) -> tuple[float, float]:
        """The scale of the colours of depth: what is known of the output's truth, or the output."""
        known = self.stages[-1].truth[np.isfinite(self.stages[-1].truth)]
        known = known if known.size else self.stages[-1].depth
        return float(known.min()), float(known.max())

    @property
    def largest(self) -> float:
        """The error at the end of the colours: few pixels of the output are further off."""
        known = self.stages[-1].error[np.isfinite(self.stages[-1].error)]
        return float(f"{np.percentile(known, PERCENTILE) if known.size else 0:.2g}") or 1.0

    def psnr(self, stage: Stage) -> float:
        """20 log10(range / RMSE) in dB; NaN where that is not known, infinite where there is no error."""
        rmse = stage.rmse
        return math.inf if rmse == 0 else 20 * math.log10(self.measure.range / rmse)

    def text(self, stage: Stage) -> str:
        """The stage's numbers, as far as they are known."""
        if math.isnan(stage.rmse):
            return ""
        psnr = "" if math.isnan(self.measure.range) else f"PSNR {self.psnr(stage):.2f} dB, "
        return f"{psnr}RMSE {stage.rmse:#.4g}"

    def picture(self) -> np.ndarray:
        """All of it, (height, width, 3) uint8: stages in columns; prediction, truth, error, numbers; and the gates."""
        height, width = self.stages[-1].depth.shape
        by = -(-WIDEST // width)
        size = (by * width, by * height)

        def cell(picture: np.ndarray) -> np.ndarray:
            return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))

        def depth(values: np.ndarray) -> np.ndarray:
            return cell(depth_colours(values, *self.span, np.isfinite(values)))

        ramp = np.broadcast_to(np.linspace(0, 1, size[0]), (RAMP, size[0]))
        blank = np.full((1, size[0], 3), 255, np.uint8)
        of = " of this part" if self.is_part else ""
        low, high = (f"{end:.4g}" for end in self.span)
        # Beside the rows, below the low resolution: what their colours mean.
        rows: list[list[tuple[str, np.ndarray]]] = [
            [(f"low resolution, {self.low_size}", depth(self.low))],
            [(f"depth: {low} to {high} {self.measure.unit}", _above(depth_colours(ramp, 0, 1), size))],
            [(f"error: 0 to {self.largest:g} or more", _above(heat_colours(ramp, 1), size))],
            [(f"numbers{of}, RMSE in {self.measure.unit}", blank)],
        ]
        for stage in self.stages:
            rows[0].append((f"{stage.name}, {stage.size}", depth(stage.depth)))
            rows[1].append((f"truth of {stage.name}", depth(stage.truth)))
            rows[2].append((f"error of {stage.name}", cell(heat_colours(stage.error, self.largest))))
            rows[3].append((self.text(stage), blank))
        sheet = grid(rows)
        return sheet if self.gates is None else stacked([sheet, self.gates.picture()])


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _above(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture with white below it, of that size (width, height)."""
    return np.pad(picture[: size[1]], ((0, max(size[1] - len(picture), 0)), (0, 0), (0, 0)), constant_values=255)


def central(height: int, width: int, scale: int) -> Crop:
    """The middle of an image, `SIDE` pixels at most; its sides are multiples of the scale, as the image's are."""
    rows, columns = (min(SIDE // scale * scale, n) for n in (height, width))
    return Crop((width - columns) // 2 // scale * scale, (height - rows) // 2 // scale * scale, columns, rows)


def compared(
    low: np.ndarray,
    maps: Sequence[np.ndarray],
    truth: np.ndarray,
    measure: Measure,
    crop: Crop,
    of_image: Gates | None = None,
) -> Stages:
    """A part of an image beside its truth, each stage's as training with `stage_weights` makes it.

    Args:
      low: (h, w), the low resolution of the image, NaN where it is unknown.
      maps: what was made of the part: each stage, and the output.
      truth: (H, W), of the image, NaN where it is unknown.
      measure: of depth, in whose unit all of it is.
      crop: the part, at multiples of the scale.
      of_image: the gates of the image.
    """
    height, width = truth.shape
    values = jnp.asarray(truth, jnp.float32)[None, ..., None]
    sizes = [(made.shape[0] * height // crop.height, made.shape[1] * width // crop.width) for made in maps]
    names = [f"x{size[0] // low.shape[0]}" for size in sizes[:-1]] + ["output"]
    stages = []
    for name, made, (target, known) in zip(
        names, maps, stage_truths(values, jnp.isfinite(values), sizes, measure.kernel), strict=True
    ):
        right = part(np.where(known, target, np.nan)[0, ..., 0], crop, height)
        stages.append(Stage(name, measure.prepare(made).astype(np.float32), right))
    return Stages(part(low, crop, height), tuple(stages), measure, crop[2:] != (width, height), of_image)


def watch(
    trained: Trained,
    depth_lr: np.ndarray,
    known: np.ndarray,
    guide: np.ndarray,
    truth: np.ndarray,
    measure: Measure,
    crop: Crop | None = None,
) -> Stages:
    """Runs a model on an image, or on a part of it, and keeps what it makes on its way.

    Args:
      trained: a model that makes stages, or has gates.
      depth_lr: (h, w).
      known: (h, w) bool, where it is known.
      guide: (scale * h, scale * w, C) uint8; a model that reads none takes any.
      truth: (scale * h, scale * w), NaN where it is unknown.
      measure: of the depths.
      crop: the part to show, at multiples of the scale. It is computed with the margin that a tile of the image has,
        and what a tile is told of the whole; with all of the image by a model that `sees_whole`.

    Raises:
      InputError: a model that has neither, depth and guide that it cannot take, what takes more memory than is free.
    """
    model = trained.model
    height, width = truth.shape
    if (height, width) != (model.scale * depth_lr.shape[0], model.scale * depth_lr.shape[1]):
        raise InputError(f"{model.summary()} makes no {height} x {width} pixels of {depth_lr.shape} samples")
    one = None if math.isnan(measure.range) else measure.range
    given = window(trained, depth_lr, known, guide, crop, unit=measure.unit, one=one)
    wanted = model.bytes_per_sample * given.images["depth_lr"].size
    memory.check("it takes", wanted, jax.devices()[0], "free some, or use a larger machine")
    maps, attention = _made(model, split(trained.params), given.images, given.told)
    of_image = gates(model, attention)
    if len(maps) < 2 and of_image is None:
        raise InputError(f"{model.summary()} makes no stages on its way, and has no gates")
    low = np.where(known, depth_lr, np.nan)
    return compared(low, [given.depth(made) for made in maps], truth, measure, given.crop, of_image)


@functools.partial(jax.jit, static_argnames="model")
def _made(model: Any, variables: Any, images: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[Any, Any]:
    """What `on_its_way` tells, in the model's scale."""
    return on_its_way(model, *model.apply(variables, **images, **told))


def on_its_way(model: Any, output: Any, aux: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Each stage and the output; and what `gates` is told, () of a model that has none."""
    return (*aux.get("stages", ()), output), aux["attention"] if isinstance(model, DSCSAN) else ()
