"""What a viewer shows of the kept images of a comparison: maps, colours, worst regions, worst images first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ahmf_jax.metrics import METRICS
from experiments.comparison import Comparison, Row
from experiments.evaluations import Evaluation, read_images
from experiments.pictures import depth_colours, heat_colours
from experiments.report.pixels import choose_codes, encode, pack, webp

REGIONS = 8


@dataclass(frozen=True)
class Layer:
    """A depth map of an image: what was given, what a method made of it, or what is true; NaN where it is unknown."""

    key: str
    name: str
    kind: str  # "lr", "floor", "method" or "truth"
    depth: np.ndarray


@dataclass(frozen=True)
class Shown:
    """A kept image.

    Attributes:
      name: its name.
      guide: (H, W, 3) uint8, or (H, W, 0) where there is no colour.
      layers: low resolution, floor, methods, truth.
      low, high: the span of the known truth, which is the scale of colours.
    """

    name: str
    guide: np.ndarray
    layers: tuple[Layer, ...]
    low: float
    high: float

    @property
    def truth(self) -> np.ndarray:
        """The ground truth, NaN where it is unknown."""
        return self.layers[-1].depth

    @property
    def has_colour(self) -> bool:
        """Whether there is a guide."""
        return self.guide.shape[-1] > 0

    @property
    def picture(self) -> np.ndarray:
        """What the image is known by, (H, W, 3) uint8: the guide, or the true depth in colours where there is none."""
        return (
            self.guide if self.has_colour else depth_colours(self.truth, self.low, self.high, np.isfinite(self.truth))
        )

    @property
    def estimates(self) -> tuple[Layer, ...]:
        """The layers that have an error: floor and methods."""
        return tuple(layer for layer in self.layers if layer.kind in ("floor", "method"))


def methods(comparison: Comparison) -> list[tuple[Row, Evaluation]]:
    """The rows that were measured and are no floor, in the table's order."""
    return [(row, row.evaluation) for row in comparison.rows if row.kind == "measured" and row.evaluation is not None]


def kept_images(comparison: Comparison, most: int | None) -> list[str]:
    """The names of the images that some evaluation kept, those first in which the first method is worst.

    By the first metric that the protocol is about; `most` of them, or all.
    """
    rows = methods(comparison) or [(row, row.evaluation) for row in comparison.rows if row.evaluation is not None]
    first, metric = rows[0][0], comparison.metrics[0]
    sign = -1 if METRICS[metric].better == "lower" else 1
    kept = {name for evaluation in comparison.evaluations for name in evaluation.kept()}

    def badness(name: str) -> float:
        value = first.values.get(name, {}).get(metric, math.nan)
        return math.inf if math.isnan(value) else sign * value

    return sorted((name for name in comparison.columns if name in kept), key=badness)[:most]


def load(comparison: Comparison, name: str) -> Shown:
    """The image of that name as the evaluations kept it.

    Raises:
      InputError: a damaged file, or evaluations that do not show the same image under this name.
    """
    rows = [row for row, evaluation in methods(comparison) if name in evaluation.kept()]
    having = [row.evaluation for row in rows if row.evaluation is not None]
    found = read_images(having or [e for e in comparison.evaluations if name in e.kept()][:1], name)
    arrays = found[0]
    truth = np.where(arrays["mask_hr"], arrays["depth_hr"], np.nan)
    known = truth[np.isfinite(truth)]
    if not known.size:
        known = arrays["floor"][np.isfinite(arrays["floor"])]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    floor = next((row.method for row in comparison.rows if row.kind == "floor"), "interpolation")
    layers = [
        Layer("lr", "low resolution", "lr", np.where(arrays["mask_lr"], arrays["depth_lr"], np.nan)),
        Layer("floor", floor, "floor", arrays["floor"]),
        *(Layer(f"m{i}", row.method, "method", found[i]["prediction"]) for i, row in enumerate(rows)),
        Layer("truth", "truth", "truth", truth),
    ]
    return Shown(name, arrays["guide"], tuple(layers), low, high)


def worst_regions(error: np.ndarray, border: int = 0, most: int = REGIONS) -> list[tuple[int, int, int, float]]:
    """The square blocks with the largest mean error: x, y, side and that error, the worst first, none beside another.

    Args:
      error: (H, W), not finite where it is unknown.
      border: pixels on every side that do not count.
      most: so many at most.
    """
    height, width = error.shape
    side = max(min(height, width) // 12, 8)
    error = np.where(np.isfinite(error), error, np.nan)
    inside = np.zeros(error.shape, bool)
    inside[border : height - border, border : width - border] = True
    counted = inside & ~np.isnan(error)
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)

    total, count = sums(np.where(counted, error, 0).astype(np.float64)), sums(counted.astype(np.int64))
    # A block of which a quarter is known says little less than a whole one; one of a few pixels is chance.
    mean = np.where(count >= side * side / 4, total / np.maximum(count, 1), -1.0)
    found: list[tuple[int, int, int, float]] = []
    while len(found) < most and mean.max(initial=-1.0) > 0:
        i, j = np.unravel_index(np.argmax(mean), mean.shape)
        found.append((int(columns[j]), int(rows[i]), side, float(mean[i, j])))
        mean[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = -1.0
    return found


def large_error(image: Shown) -> float:
    """The error that a hundredth of the floor's pixels exceed; NaN where no truth is known."""
    error = np.abs(image.estimates[0].depth - image.truth)
    known = error[np.isfinite(error)]
    return float(np.quantile(known, 0.99)) if known.size else math.nan


def error_scale(large_errors: Sequence[float]) -> float:
    """The error at the end of the colours, one for all images: 1, 2 or 5 times a power of ten."""
    known = [error for error in large_errors if not math.isnan(error)]
    return round_up(float(np.median(known)) if known else 1.0)


def round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{next((step for step in (1, 2, 5) if step * power >= value * 0.999), 10) * power:.3g}")


class Blobs:
    """Texts that a page holds once each, by an identifier."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, text: str) -> str:
        """The identifier of the text."""
        return self.texts.setdefault(text, f"blob-{len(self.texts)}")

    def items(self) -> list[tuple[str, str]]:
        """Identifiers and texts."""
        return [(name, text) for text, name in self.texts.items()]


def manifest(comparison: Comparison, image: Shown, blobs: Blobs) -> dict[str, Any]:
    """What `viewer.js` is told of an image, as JSON values; its maps go to `blobs`."""
    # Of low resolution its own: it is rounded where nothing else is, or the other way round, and has no error.
    low, *others = image.layers
    codes = choose_codes([layer.depth for layer in others], image.low, image.high)
    codes_of = {low.key: choose_codes([low.depth], image.low, image.high)}
    border = comparison.evaluations[0].protocol_fields.get("border", 0)
    metric = comparison.metrics[0]
    layers = []
    for layer in image.layers:
        height, width = layer.depth.shape
        entry: dict[str, Any] = {"key": layer.key, "name": layer.name, "kind": layer.kind}
        own = codes_of.get(layer.key, codes)
        entry |= {"width": width, "height": height, "step": own.step, "offset": own.offset}
        entry["blob"] = blobs.add(pack(encode(layer.depth, own)))
        if layer.kind in ("floor", "method"):
            kind = "floor" if layer.kind == "floor" else "measured"
            row = next(r for r in comparison.rows if (r.kind, r.method) == (kind, layer.name))
            entry["score"] = row.text(image.name, metric)
            entry["regions"] = worst_regions(np.abs(layer.depth - image.truth), border)
        layers.append(entry)
    height, width = image.truth.shape
    return {
        "name": image.name,
        "width": width,
        "height": height,
        "step": codes.step,
        "low": image.low,
        "high": image.high,
        "guide": blobs.add(webp(image.guide)) if image.has_colour else None,
        "layers": layers,
    }


def palettes() -> dict[str, list[list[int]]]:
    """The colours of depth and of error from smallest to largest, 256 each, for `pixels.js`."""
    ramp = np.linspace(0, 1, 256)[None]
    return {"depth": depth_colours(ramp, 0, 1)[0].tolist(), "error": heat_colours(ramp, 1)[0].tolist()}
