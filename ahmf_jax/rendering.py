"""Depth-image-based rendering: the second view of a rectified pair, from the first view's colour and disparity."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from ahmf_jax.metrics import Errors

# Of disparities that differ by less than this many pixels, neither hides the other: they are one slanted surface.
THICKNESS = 1.0
# A pixel of which less is covered is a hole.
COVERED = 0.5


class View(NamedTuple):
    """A synthesised view: `image` (H, W, 3) float32, 0 in the holes, and `filled` (H, W) bool, False in the holes."""

    image: np.ndarray
    filled: np.ndarray


def render(
    colour: Num[np.ndarray, "h w 3"], disparity: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]
) -> View:
    """Warps the left view to the right one's place: the pixel at x goes to x - disparity.

    A pixel that lands between two is split among them in proportion (a linear splat), so that surfaces that are
    stretched do not tear. What is nearest, that is, has the largest disparity, hides the rest; to hide others at a
    pixel, something has to cover half of it, unless nothing else is there. What fills a pixel less than half leaves it
    a hole, as does what only the right view sees. Nothing is painted into holes.

    Args:
      colour: of the left view, in any unit.
      disparity: of the left view, in pixels.
      known: the pixels of the left view that are warped; no other is, nor one whose disparity is no finite number.
    """
    height, width = disparity.shape
    y, x = np.nonzero(known & np.isfinite(disparity))
    nearness = disparity[y, x].astype(np.float64)
    landing = x - nearness
    first = np.floor(landing)
    part = landing - first  # of the pixel that goes to the second of the two
    column = np.concatenate([first, first + 1])
    weight = np.concatenate([1 - part, part])
    lands = (column >= 0) & (column < width) & (weight > 0)
    source = np.tile(np.arange(len(x)), 2)[lands]
    place = np.tile(y, 2)[lands] * width + column[lands].astype(np.int64)
    weight, nearness = weight[lands], nearness[source]

    front, fringe = (np.full(height * width, -np.inf) for _ in range(2))
    covers = weight >= COVERED
    np.maximum.at(front, place[covers], nearness[covers])
    np.maximum.at(fringe, place, nearness)
    front = np.where(np.isneginf(front), fringe, front)
    seen = np.abs(nearness - front[place]) < THICKNESS
    source, place, weight = source[seen], place[seen], weight[seen]

    total = np.bincount(place, weight, height * width)
    filled = total >= COVERED
    colours = colour[y[source], x[source]].astype(np.float64)
    sums = np.stack([np.bincount(place, weight * channel, height * width) for channel in colours.T], -1)
    image = np.where(filled[:, None], sums / np.where(filled, total, 1)[:, None], 0).astype(np.float32)
    return View(image.reshape(height, width, 3), filled.reshape(height, width))


def psnr(
    image: Num[np.ndarray, "h w 3"], real: Num[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"], peak: float = 255.0
) -> float:
    """The peak signal-to-noise ratio over all channels of some pixels, in dB; NaN of none, infinite of no error."""
    difference = image[where].astype(np.float64) - real[where]
    return Errors(squared=float(np.square(difference).sum()), count=difference.size).psnr(peak)
