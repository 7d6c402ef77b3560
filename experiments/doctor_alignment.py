"""Whether a guide lies as its depth map does: edges of both, held against each other at every shift of a few pixels.

A depth edge is mostly an edge of colour, while the reverse does not hold. What is compared is the direction of the
edges, as a doubled angle, so that it does not matter on which side it is brighter: the sum over all pixels of
`Re(conj(d) g)` with `d` and `g` the squared complex gradients, scaled to the gradient's size (depth) and to its root
(guide, whose strongest edges would else outweigh all). The sums are made for blocks of the image, and the blocks drawn
again and again by chance (the bootstrap; Efron, Ann. Statist. 1979) tell how far the best shift is to be trusted.
"""

from typing import Any, NamedTuple

import numpy as np

from experiments.findings import Finding

REACH = 16  # pixels of the guide, each way
BLOCK = 96  # its side, in pixels of the guide, at least
MOST_BLOCKS = 48  # of larger images, this many that are spread evenly
FEWEST_BLOCKS = 8  # of fewer, those that are drawn are too much alike to tell an error
MOST_SIDE = 2**15 - 1  # of the depth: what OpenCV's remap takes
DRAWS = 100
# Blur of the guide in low-resolution samples: about what an up-sampled depth edge has.
BLUR = 0.4
# A shift is told where it is larger than so many of its standard errors, and than this part of a sample, or a pixel.
ERRORS, PART = 3.0, 0.3
# Standard error, in samples, above which nothing can be told.
UNSURE = 0.6
# How much better another orientation must fit.
BETTER = 1.5

# How a guide may have been stored: what is said of it, and how it is turned back. The first is as it should be.
ORIENTATIONS = {
    "": lambda guide: guide,
    "mirrored left to right": lambda guide: guide[:, ::-1],
    "upside down and mirrored": lambda guide: guide[::-1],
    "turned by 180 degrees": lambda guide: guide[::-1, ::-1],
    "turned by 90 degrees to the right": lambda guide: guide.swapaxes(0, 1)[::-1],
    "turned by 90 degrees to the left": lambda guide: guide.swapaxes(0, 1)[:, ::-1],
    "rows and columns exchanged": lambda guide: guide.swapaxes(0, 1),
    "rows and columns exchanged, turned by 180 degrees": lambda guide: guide.swapaxes(0, 1)[::-1, ::-1],
}


class Shift(NamedTuple):
    """Where the guide lies."""

    right: float
    """Pixels of the guide by which what it shows lies too far to the right."""
    down: float
    error: float
    """Standard error of the less certain of the two."""
    fit: float
    """How well the edges agree there: a correlation, less its mean over all shifts."""


def measure(depth: np.ndarray, known: np.ndarray, guide: np.ndarray) -> Shift | None:
    """The shift at which the edges agree best, within `REACH`.

    Args:
      depth: (h, w) floating point, holes filled.
      known: (h, w) bool; edges beside what is unknown do not count.
      guide: (H, W, 3) uint8 of the same view; H / h and W / w need not be whole, nor equal.

    Returns:
      The shift, to a part of a pixel; None where one of the two has no edge, or the image is too small or too long.
    """
    if max(depth.shape) > MOST_SIDE:
        return None
    sums, power = _sums(depth.astype(np.float32), known, guide)
    if len(sums) < FEWEST_BLOCKS or not power:
        return None
    total = sums.sum(0)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), DRAWS)
    down, right = _peak(total)
    error = np.std([_peak(np.tensordot(count, sums, 1)) for count in drawn], axis=0).max()
    return Shift(float(right), float(down), float(error), float((total.max() - total.mean()) / power))


def _sums(depth: np.ndarray, known: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, float]:
    """The sums of every block at every shift (blocks, 2 REACH + 1, 2 REACH + 1), and what would be full agreement."""
    import cv2
    from scipy import fft

    (height, width), scale = guide.shape[:2], max(a / b for a, b in zip(guide.shape, depth.shape, strict=False))
    side, blur = int(max(BLOCK, 8 * scale)), max(BLUR * scale, 0.5)
    margin = REACH + int(3 * blur) + 2
    corners = [np.arange(margin, size - margin - side + 1, side) for size in (height, width)]
    places = [(y, x) for y in corners[0] for x in corners[1]]
    if len(places) > MOST_BLOCKS:
        places = [places[i] for i in np.linspace(0, len(places) - 1, MOST_BLOCKS).astype(int)]
    length = fft.next_fast_len(side + 2 * REACH)
    # The cubic reads two samples each way: linear between what has known neighbours all around.
    inner = cv2.erode(known.astype(np.float32), np.ones((3, 3), np.uint8))
    sums, own, other = [], 0.0, 0.0
    for y, x in places:
        colour = guide[y - margin : y + side + margin, x - margin : x + side + margin].astype(np.float32)
        blurred: Any = cv2.GaussianBlur(np.ascontiguousarray(colour), (0, 0), blur)
        g = _directions(blurred, 0.5)[margin - REACH : REACH - margin, margin - REACH : REACH - margin]
        # A pixel more on each side for the gradient; pixel centres as everywhere: (i + 0.5) / scale - 0.5.
        rows, columns = (
            (np.arange(at - 1, at + side + 1, dtype=np.float32) + 0.5) * (n / size) - 0.5
            for at, n, size in ((y, depth.shape[0], height), (x, depth.shape[1], width))
        )
        across, along = np.meshgrid(columns, rows)
        raised: Any = cv2.remap(depth, across, along, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        sure = cv2.remap(inner, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        d = np.where(cv2.erode(sure, np.ones((3, 3), np.uint8)) > 0.999, _directions(raised, 1.0), 0)[1:-1, 1:-1]
        product = fft.fft2(g, (length, length)) * np.conj(fft.fft2(d, (length, length)))
        sums.append(fft.ifft2(product).real[: 2 * REACH + 1, : 2 * REACH + 1])
        own += float((np.abs(d) ** 2).sum())
        other += float((np.abs(g) ** 2).sum())
    return np.array(sums), float(np.sqrt(own * other))


def _directions(image: np.ndarray, power: float) -> np.ndarray:
    """(H, W) complex64: the gradient's angle, doubled, and its size to `power`; over colours, the squares added."""
    import cv2

    squared = (cv2.Sobel(image, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(image, cv2.CV_32F, 0, 1)) ** 2
    squared = squared.sum(2) if squared.ndim == 3 else squared
    return (squared / np.maximum(np.abs(squared), 1e-12) ** (1 - power / 2)).astype(np.complex64)


def _peak(sums: np.ndarray) -> np.ndarray:
    """Where the largest value lies (down, right) from the middle, by a parabola through it and its neighbours."""
    at = np.unravel_index(sums.argmax(), sums.shape)
    place = []
    for line, i in ((sums[:, at[1]], at[0]), (sums[at[0]], at[1])):
        part = 0.0
        if 0 < i < len(line) - 1:
            before, here, after = line[i - 1 : i + 2]
            part = (before - after) / 2 / (before - 2 * here + after) if before != after else 0.0
        place.append(i + part - REACH)
    return np.array(place)


def find_alignment(depth: np.ndarray, known: np.ndarray, guide: np.ndarray) -> list[Finding]:
    """Says whether the guide is shifted, mirrored or turned; arguments as of `measure`.

    The value is the shift (right, down) in pixels of the guide, or, of a guide that is mirrored or turned, how.
    """
    scale = guide.shape[0] / depth.shape[0]
    fitting = _same_shape(depth, guide)
    found = {name: measure(depth, known, guide) for name, guide in fitting.items()}
    told = {name: shift for name, shift in found.items() if shift is not None and shift.error <= UNSURE * scale}
    straight = found.get("")
    best = max(told, key=lambda name: told[name].fit, default="")
    if best and (straight is None or told[best].fit > BETTER * straight.fit):
        return [
            Finding(
                "alignment",
                f"the guide seems to be {best}: its edges then agree {_times(told[best], straight)}",
                "likely",
                True,
                "store the guide as the depth lies",
                best,
            )
        ]
    if "" not in told:
        return [
            Finding(
                "alignment",
                "cannot be told: the depth is small, or has too few edges that the guide shows, too",
                "possible",
            )
        ]
    shift = told[""]
    size = max(abs(shift.right), abs(shift.down))
    value, error = (shift.right, shift.down), f"+- {max(shift.error, 0.1):.1f} px"
    if size <= max(1.0, PART * scale) or size <= ERRORS * shift.error:
        return [
            Finding(
                "alignment",
                f"aligned: the edges agree best at ({shift.right:+.1f}, {shift.down:+.1f}) {error}",
                "likely",
                value=value,
            )
        ]
    words = [
        f"{abs(by):.1f} px {way[by < 0]}"
        for by, way in ((shift.right, ("to the right", "to the left")), (shift.down, ("down", "up")))
        if abs(by) >= 0.5
    ]
    edge = ", or farther, at the end of what is looked at" if size > REACH - 1 else ""
    return [
        Finding(
            "alignment",
            f"the guide lies {' and '.join(words)} ({error}) of where the depth has its edges{edge}",
            "likely" if size > 2 * ERRORS * shift.error else "possible",
            True,
            "move the guide back by that and crop both, or register the cameras again",
            value,
        )
    ]


def _same_shape(depth: np.ndarray, guide: np.ndarray) -> dict[str, np.ndarray]:
    """The guide in every orientation in which it has the depth's proportions, to 2 %."""
    turned = {name: turn(guide) for name, turn in ORIENTATIONS.items()}
    slant = {name: each.shape[0] * depth.shape[1] / (each.shape[1] * depth.shape[0]) for name, each in turned.items()}
    return {name: each for name, each in turned.items() if abs(slant[name] - 1) <= 0.02}


def _times(shift: Shift, straight: Shift | None) -> str:
    if straight is None or straight.fit <= 0:
        return "where they do not as it is"
    return f"{shift.fit / straight.fit:.1f} times as well"
