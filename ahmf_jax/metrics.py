"""Error measures over the known pixels: sums and counts that merge by addition and are divided once."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num


@dataclass(frozen=True)
class Errors:
    """Sums of the absolute and the squared error over `count` pixels, in the unit of the depth (squared)."""

    absolute: float = 0.0
    squared: float = 0.0
    count: int = 0

    def __add__(self, other: "Errors") -> "Errors":
        """The errors over both sets of pixels."""
        return Errors(self.absolute + other.absolute, self.squared + other.squared, self.count + other.count)

    @property
    def mae(self) -> float:
        """Mean absolute error (Eq. 22); not a number without a pixel."""
        return self.absolute / self.count if self.count else math.nan

    @property
    def rmse(self) -> float:
        """Root mean squared error (Eq. 23); not a number without a pixel."""
        return math.sqrt(self.squared / self.count) if self.count else math.nan

    def psnr(self, peak: float) -> float:
        """Peak signal-to-noise ratio in dB, 20 log10(peak / RMSE); infinite without an error, NaN without a pixel."""
        if self.count and self.squared == 0:
            return math.inf
        return 20 * math.log10(peak / self.rmse) if self.count else math.nan


def errors(prediction: Num[np.ndarray, "*n"], target: Num[np.ndarray, "*n"], mask: Bool[np.ndarray, "*n"]) -> Errors:
    """The errors of `prediction` where `mask` is True, summed in float64."""
    difference = prediction[mask].astype(np.float64) - target[mask].astype(np.float64)
    return Errors(float(np.abs(difference).sum()), float(np.square(difference).sum()), int(mask.sum()))
