"""How an image is cut into tiles that together give the result of the whole, or nearly: plain arithmetic, NumPy only.

AHMF's recalibration block (FRB) weighs channels by statistics of the whole map, so that tiles by themselves give
another answer. But a level's statistics depend on that level's convolutional features alone, and the rest of the
network has a finite reach. So the image is run twice, tile by tile, first to gather the statistics and then with them
given, each time with a margin of the network's reach around the part of a tile that counts. DSCSAN has several such
blocks, each behind the one before: it is run once for each, and once more (`Model.pools`). A model without such
statistics (DADA) is run once, and its tiles are told what they need of the whole (`Model.of_whole`).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A tile along one axis, in low-resolution samples: it reads [start, stop), of which [low, high) counts."""

    start: int
    stop: int
    low: int
    high: int


class Tile(NamedTuple):
    """A tile of an image."""

    rows: Span
    columns: Span


def widest(most: int, reach: int) -> int:
    """The width of a window of at most `most` samples that leaves something that counts between its margins."""
    return max(most, 2 * reach + 1)


def spans(length: int, most: int, reach: int, *, fill: bool = False, step: int = 1) -> list[Span]:
    """Cuts an axis into the fewest windows of one width, at most `most` (`widest`), whose parts that count cover it.

    Args:
      length: of the axis.
      most: the largest width of a window.
      reach: samples of margin on either side of what counts, but for the ends of the axis.
      fill: windows as wide as `most` wherever there are several, so that axes of many lengths have one width.
      step: windows begin at multiples of it. The last may be less wide then than the others.
    """
    most = widest(most, reach)
    if length <= most:
        return [Span(0, length, 0, length)]
    own = max((most - 2 * reach) // step * step, step)  # of a window that has neighbours on both sides
    count = math.ceil((length - 2 * reach) / own)
    own = own if fill else math.ceil(math.ceil((length - 2 * reach) / count) / step) * step
    count = math.ceil((length - 2 * reach) / own)
    width = own + 2 * reach
    starts = [min(i * own, math.ceil((length - width) / step) * step) for i in range(count)]
    cuts = [0, *(start + width - reach for start in starts[:-1]), length]
    return [Span(start, min(start + width, length), *cuts[i : i + 2]) for i, start in enumerate(starts)]


def tiles(size: tuple[int, int], most: tuple[int, int], reach: int, *, fill: bool = False, step: int = 1) -> list[Tile]:
    """The tiles of an image of `size` samples, row by row; see `spans`."""
    rows, columns = (spans(n, m, reach, fill=fill, step=step) for n, m in zip(size, most, strict=True))
    return [Tile(row, column) for row in rows for column in columns]


def padded_to(length: int) -> int:
    """The next of few lengths, eight to the octave: at most an eighth is padding."""
    step = 2 ** max(length.bit_length() - 4, 0)
    return math.ceil(length / step) * step


Moments = Mapping[str, np.ndarray]


def joined(first: Moments, second: Moments) -> dict[str, np.ndarray]:
    """The moments of two parts together, float64 (Chan, Golub and LeVeque, 1979).

    Moments are `count` (1, 1), of the places; `mean` (..., n); and either `variance` (..., n), or `covariance`
    (..., n, c) with the last c of the n; both are divided by the count.
    """
    a, b = ({name: np.asarray(value, np.float64) for name, value in part.items()} for part in (first, second))
    count = a["count"] + b["count"]
    step = b["mean"] - a["mean"]
    result = {"count": count, "mean": a["mean"] + step * (b["count"] / count)}
    (spread,) = a.keys() - result.keys()
    own = a[spread].shape[-1]
    product = step**2 if spread == "variance" else step[..., :, None] * step[..., None, -own:]
    parts = (part["count"] * part[spread] for part in (a, b))
    result[spread] = (sum(parts) + product * (a["count"] * b["count"] / count)) / count
    return result
