"""Error measures over the known pixels: sums and counts that merge by addition and are divided once."""

import math
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Bool, Num


@dataclass(frozen=True)
class Errors:
    """Sums of the absolute and the squared error over `count` pixels, in the unit of the depth (squared).

    `bad` of the pixels have an error of the threshold that was asked for, or more.
    """

    absolute: float = 0.0
    squared: float = 0.0
    count: int = 0
    bad: int = 0

    def __add__(self, other: "Errors") -> "Errors":
        """The errors over both sets of pixels."""
        return Errors(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def mae(self) -> float:
        """Mean absolute error (Eq. 22); not a number without a pixel."""
        return self.absolute / self.count if self.count else math.nan

    @property
    def rmse(self) -> float:
        """Root mean squared error (Eq. 23); not a number without a pixel."""
        return math.sqrt(self.squared / self.count) if self.count else math.nan

    @property
    def pe(self) -> float:
        """Percentage of pixels in error (DSCSAN's PE); not a number without a pixel."""
        return 100 * self.bad / self.count if self.count else math.nan

    def psnr(self, peak: float) -> float:
        """Peak signal-to-noise ratio in dB, 20 log10(peak / RMSE); infinite without an error, NaN without a pixel."""
        if self.count and self.squared == 0:
            return math.inf
        return 20 * math.log10(peak / self.rmse) if self.count else math.nan


def errors(
    prediction: Num[np.ndarray, "*n"],
    target: Num[np.ndarray, "*n"],
    mask: Bool[np.ndarray, "*n"],
    threshold: float = math.inf,
) -> Errors:
    """The errors of `prediction` where `mask` is True, summed in float64; those of `threshold` or more are `bad`."""
    difference = np.abs(prediction[mask].astype(np.float64) - target[mask].astype(np.float64))
    squared = float(np.square(difference).sum())
    return Errors(float(difference.sum()), squared, int(mask.sum()), int((difference >= threshold).sum()))
