"""Depth maps as text for a page, exact to a step: what `pixels.js` undoes.

A map becomes 16-bit codes, 0 where nothing is known and else 1 + (value - offset) / step. Each code is replaced by its
difference from what its neighbours left and above let expect (the median predictor of lossless JPEG, Weinberger et al.,
IEEE TIP 2000), and these are compressed, low bytes first. It takes a sixth less than PNG for 8 bits and works for 16,
and no colour management of a browser's canvas can touch the values.
"""

import base64
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LEVELS = 4096  # the span of the truth has at least so many steps
CODES = 65535


@dataclass(frozen=True)
class Codes:
    """What the codes of an image's maps mean: code c > 0 is the value `offset + (c - 1) * step`."""

    step: float
    offset: float


def choose_codes(maps: Sequence[np.ndarray], low: float, high: float) -> Codes:
    """Codes that suit several maps whose truth spans `low` to `high`.

    The step is 1 where every value is a whole number, as of maps of 8 bits, and these are exact; otherwise a power of
    two, at most 1/4096 of the span. A value that lies more than three spans outside is shown as if it lay there.
    """
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    known = [m[np.isfinite(m)] for m in maps]
    smallest = max(min((float(m.min()) for m in known if m.size), default=low), low - 3 * span)
    largest = min(max((float(m.max()) for m in known if m.size), default=high), high + 3 * span)
    if all(np.array_equal(m, np.rint(m)) for m in known) and largest - math.floor(smallest) < CODES:
        return Codes(1.0, float(math.floor(smallest)))
    step = 2.0 ** math.floor(math.log2(span / LEVELS))
    return Codes(step, math.floor(smallest / step) * step)


def encode(depth: np.ndarray, codes: Codes) -> np.ndarray:
    """(H, W) depth, not finite where it is unknown, to its codes, (H, W) uint16."""
    known = np.isfinite(depth)
    code = np.rint((np.where(known, depth, codes.offset).astype(np.float64) - codes.offset) / codes.step) + 1
    return np.where(known, np.clip(code, 1, CODES), 0).astype(np.uint16)


def pack(codes: np.ndarray) -> str:
    """Codes, (H, W) uint16, as compressed text in base64."""
    values = np.pad(codes.astype(np.int32), ((1, 0), (1, 0)))
    left, above, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    difference = values[1:, 1:] - np.clip(left + above - corner, low, high)
    # Modulo 2^16 and with small differences of both signs as small numbers: 0, -1, 1, -2, ... become 0, 1, 2, 3.
    difference = difference.astype(np.uint16).view(np.int16).astype(np.int32)
    folded = ((difference << 1) ^ (difference >> 31)).astype(np.uint16)
    planes = (folded & 255).astype(np.uint8).tobytes() + (folded >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(planes, 6)).decode()


def webp(picture: np.ndarray, quality: int = 85, width: int | None = None, lossless: bool = False) -> str:
    """A (H, W, 3) uint8 picture as a data URL, brought to a width where one is given."""
    image = Image.fromarray(picture)
    if width is not None and width < image.width:
        image = image.resize((width, max(round(image.height * width / image.width), 1)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
