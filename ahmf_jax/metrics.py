"""Error measures over the known pixels: sums and counts that merge by addition and are divided once.

An image is read in bands of rows, so that a map in a file (`np.memmap`) of any size can be measured. What is summed:

==============  ======================================================================================================
`mae`           mean absolute error (AHMF, Eq. 22)
`rmse`, `mse`   root mean squared error (Eq. 23), and its square
`psnr`          20 log10(range / RMSE)
`pe`            share of the pixels whose error is a threshold or more (DSCSAN)
`mape`          mean of |error| / truth, where the truth is above 0
`edge_mae`      mean absolute error near the truth's depth edges: at most `EDGE_REACH` pixels, in rows and in columns,
                from two known neighbours that differ by more than `EDGE_STEP` of the range
`flat_mae`      mean absolute error everywhere else
`delta1`        share of the pixels with max(prediction / truth, truth / prediction) < 1.25 (Eigen et al., NIPS 2014),
                where the truth is above 0
`normal_angle`  mean angle between the normals of both surfaces, taken as height fields over the image with pixels
                `range / 255` wide, from differences to the next pixel right and below; all three pixels are known
==============  ======================================================================================================
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Num

# A step between neighbours of more than this part of the range is a depth edge.
EDGE_STEP = 0.01
# Pixels beside an edge that count as on it.
EDGE_REACH = 4
# Pixels that are measured at once: few enough for the processor's cache, so that large images take little memory and
# not much more time.
BAND = 2**17


class Metric(NamedTuple):
    """How a number is shown: its title, what it is measured in, which way is better, and the digits after the point.

    `depth` is the unit of the depth, `depth2` its square; None are the digits that the unit asks for.
    """

    title: str
    unit: Literal["depth", "depth2", "dB", "%", "degrees"]
    better: Literal["lower", "higher"]
    digits: int | None


METRICS = {
    "mae": Metric("MAE", "depth", "lower", None),
    "rmse": Metric("RMSE", "depth", "lower", None),
    "mse": Metric("MSE", "depth2", "lower", None),
    "psnr": Metric("PSNR", "dB", "higher", 2),
    "pe": Metric("PE", "%", "lower", 3),
    "mape": Metric("MAPE", "%", "lower", 3),
    "edge_mae": Metric("MAE at edges", "depth", "lower", None),
    "flat_mae": Metric("MAE off edges", "depth", "lower", None),
    "delta1": Metric("delta1", "%", "higher", 3),
    "normal_angle": Metric("normals", "degrees", "lower", 2),
}


@dataclass(frozen=True)
class Errors:
    """Sums over `count` known pixels, in the unit of the depth, and over parts of them.

    Attributes:
      absolute, squared: the errors'.
      count: pixels.
      bad: pixels whose error is the threshold or more.
      relative: absolute errors over the truth, of the `positive` pixels, whose truth is above 0.
      close: positive pixels that are within a factor of 1.25.
      edge: absolute errors of the `edges` pixels near a depth edge.
      angle: angles between the normals, in degrees, of the `angles` pixels that have one.
    """

    absolute: float = 0.0
    squared: float = 0.0
    count: int = 0
    bad: int = 0
    relative: float = 0.0
    positive: int = 0
    close: int = 0
    edge: float = 0.0
    edges: int = 0
    angle: float = 0.0
    angles: int = 0

    def __add__(self, other: "Errors") -> "Errors":
        """The errors over both sets of pixels."""
        fields = (field.name for field in dataclasses.fields(self))
        return Errors(**{name: getattr(self, name) + getattr(other, name) for name in fields})

    @property
    def mae(self) -> float:
        """Mean absolute error; not a number without a pixel, as all that follow."""
        return _share(self.absolute, self.count)

    @property
    def rmse(self) -> float:
        """Root mean squared error."""
        return math.sqrt(self.mse)

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return _share(self.squared, self.count)

    @property
    def pe(self) -> float:
        """Percentage of pixels in error."""
        return 100 * _share(self.bad, self.count)

    def psnr(self, peak: float | int) -> float:
        """Peak signal-to-noise ratio in dB; infinite without an error."""
        if not self.count:
            return math.nan
        if self.squared in (0, math.inf):
            return math.inf if self.squared == 0 else -math.inf
        return 20 * math.log10(peak / self.rmse)

    def values(self, peak: float | int) -> dict[str, float]:
        """Each of `METRICS`."""
        return {
            "mae": self.mae,
            "rmse": self.rmse,
            "mse": self.mse,
            "psnr": self.psnr(peak),
            "pe": self.pe,
            "mape": 100 * _share(self.relative, self.positive),
            "edge_mae": _share(self.edge, self.edges),
            "flat_mae": _share(self.absolute - self.edge, self.count - self.edges),
            "delta1": 100 * _share(self.close, self.positive),
            "normal_angle": _share(self.angle, self.angles),
        }


def errors(
    prediction: Num[np.ndarray, "h w"],
    target: Num[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    *,
    depth_range: float | int,
    threshold: float | int = math.inf,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda band: band,
) -> Errors:
    """The errors of an image where `mask` is True, summed in float64.

    Args:
      prediction, target: in one unit. What they hold where the mask is False has no influence.
      mask: where the truth is known.
      depth_range: in that unit; what an edge is and how wide a pixel is follow from it.
      threshold: in that unit; an error of this or more is bad.
      prepare: what becomes of both maps before they are compared, band by band and in float64: a change of the unit,
        or a rounding. `depth_range` and `threshold` are of what it gives.
    """
    height, width = target.shape
    rows = max(BAND // max(width, 1), 1)
    found = Errors()
    for first in range(0, height, rows):
        last = min(first + rows, height)
        # Edges are seen from EDGE_REACH rows away, and their second pixel lies one further.
        window = slice(max(first - EDGE_REACH - 1, 0), min(last + EDGE_REACH + 1, height))
        known = np.asarray(mask[window])
        ours, truth = (
            np.where(known, prepare(np.asarray(array[window]).astype(np.float64)), 0) for array in (prediction, target)
        )
        inside = slice(first - window.start, last - window.start)
        found += _of_band(ours, truth, known, inside, float(depth_range), float(threshold))
    return found


def _of_band(
    prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, inside: slice, depth_range: float, threshold: float
) -> Errors:
    """The errors of the rows `inside` of a band, whose depth is 0 where unknown; the others are what these see."""
    edges = (near_edges(target, mask, depth_range) & mask)[inside]
    tilt, tilts = _angles(prediction, target, mask, inside, depth_range / 255)
    prediction, target, mask = prediction[inside], target[inside], mask[inside]
    difference = np.abs(prediction - target)  # 0 where unknown
    positive = mask & (target > 0)
    truth = np.where(positive, target, 1.0)
    close = positive & (prediction < 1.25 * truth) & (1.25 * prediction > truth)
    return Errors(
        absolute=float(difference.sum()),
        squared=float(np.square(difference).sum()),
        count=int(mask.sum()),
        bad=int((mask & (difference >= threshold)).sum()),
        relative=float((difference / truth).sum(where=positive)),
        positive=int(positive.sum()),
        close=int(close.sum()),
        edge=float(difference.sum(where=edges)),
        edges=int(edges.sum()),
        angle=tilt,
        angles=tilts,
    )


def near_edges(
    depth: Num[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], depth_range: float | int
) -> Bool[np.ndarray, "h w"]:
    """Which pixels are near a depth edge: see `edge_mae` above."""
    edge = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        here, there = (_cut(axis, slice(None, -1)), _cut(axis, slice(1, None)))
        step = (np.abs(depth[there] - depth[here]) > EDGE_STEP * depth_range) & mask[there] & mask[here]
        edge[here] |= step
        edge[there] |= step
    for axis in (0, 1):
        spread = edge.copy()
        for n in range(1, min(EDGE_REACH, mask.shape[axis] - 1) + 1):
            spread[_cut(axis, slice(n, None))] |= edge[_cut(axis, slice(None, -n))]
            spread[_cut(axis, slice(None, -n))] |= edge[_cut(axis, slice(n, None))]
        edge = spread
    return edge


def _angles(
    prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, inside: slice, pitch: float
) -> tuple[float, int]:
    """The sum of the angles between the normals, in degrees, and their number."""
    rows = slice(inside.start, min(inside.stop, mask.shape[0] - 1))
    known = mask[:-1, :-1] & mask[:-1, 1:] & mask[1:, :-1]
    known = known[rows]
    if not known.any():
        return 0.0, 0
    slopes = [((x[:-1, 1:] - x[:-1, :-1])[rows], (x[1:, :-1] - x[:-1, :-1])[rows]) for x in (prediction, target)]
    # Where both surfaces slope alike, as most of a rounded map does, the angle is 0.
    differ = known & ((slopes[0][0] != slopes[1][0]) | (slopes[0][1] != slopes[1][1]))
    (ax, ay), (bx, by) = [(x[differ] / pitch, y[differ] / pitch) for x, y in slopes]
    # Of the cross and the dot product of (-ax, -ay, 1) and (-bx, -by, 1): exact for small angles, as a cosine is not.
    cross = np.sqrt((by - ay) ** 2 + (ax - bx) ** 2 + (ax * by - ay * bx) ** 2)
    angle = np.arctan2(cross, ax * bx + ay * by + 1)
    return float(np.degrees(angle.sum())), int(known.sum())


def _cut(axis: int, part: slice) -> tuple[slice, slice]:
    """A part of an image along one axis."""
    return (part, slice(None)) if axis == 0 else (slice(None), part)


def _share(total: float | int, count: int) -> float:
    """The mean; not a number of nothing."""
    return total / count if count else math.nan
