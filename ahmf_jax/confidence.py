"""How far a result can be trusted: the distance to the nearest real sample, and how much flips of the input matter."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Num

# Left to right, upside down, and both, beside the image as it is: shapes stay, so that nothing is compiled anew.
FLIPS = ((1, -1), (-1, 1), (-1, -1))


def distance(mask: Bool[np.ndarray, "H W"], factor: float) -> Float32[np.ndarray, "H W"]:
    """From each pixel to the nearest one over a known sample, in low-resolution samples; 0 over a known sample.

    Args:
      mask: True over known samples, of which there is at least one.
      factor: pixels per sample.
    """
    import cv2  # slow to import, and most calls need it never; SciPy's transform takes float64 and indices as well

    pixels: Any = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    pixels /= np.float32(factor)
    return pixels


def over_flips(
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    depth: Float32[np.ndarray, "b h w"],
    known: Bool[np.ndarray, "b h w"],
    guide: Num[np.ndarray, "b H W c"],
) -> tuple[Float32[np.ndarray, "b H2 W2"], Float32[np.ndarray, "b H2 W2"]]:
    """Mean and standard deviation of `predict` over its arguments and their `FLIPS`, one held at a time.

    The mean is the better result of the two (the geometric self-ensemble of Timofte et al., CVPR 2016, without its
    transpositions), given that the low-resolution samples stand at the centres of their cells.
    """
    mean = np.array(predict(depth, known, guide))
    squares = np.zeros_like(mean)
    for number, (down, right) in enumerate(FLIPS, 2):
        flipped = (x[:, ::down, ::right] for x in (depth, known, guide))
        one = predict(*flipped)[:, ::down, ::right]
        # Welford (Technometrics 1962): no difference of large sums.
        off = one - mean
        mean += off / np.float32(number)
        squares += off * (one - mean)
    squares /= np.float32(1 + len(FLIPS))
    return mean, np.sqrt(squares, out=squares)
