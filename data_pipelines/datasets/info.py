"""What the numbers of a data set mean, what it may be used for, and which numbers cannot mean that."""

from dataclasses import dataclass

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.holes import Fill

# A whole map that stays below this part of the range is in another unit (metres where millimetres are meant).
SMALLEST = 1 / 512
# A few pixels may be damaged or beyond what the sensor measures; more are in another unit, or mean unknown.
MOST_ABOVE = 0.05
LENGTHS = ("mm", "cm", "m", "km", "metres", "meters")
# Units of which nothing is below 0: grey levels and distances. A disparity in pixels may be.
UNSIGNED = ("grey level", *LENGTHS)


@dataclass(frozen=True)
class DatasetInfo:
    """What the depth values of a data set mean.

    Attributes:
      name: the data set's name.
      unit: of the depth values, such as "grey level" or "m".
      range: the depth, in that unit, that 1.0 stands for in a batch.
      invalid: the stored value that means unknown, or None. NaN and infinity mean unknown everywhere.
      licence, citation: the terms of use, and whom to cite.
      fill: how holes are filled before resampling (`ahmf_jax.holes.fill_holes`).
      url: the page where it is to be had.
      colour: whether there are guides; without, they have zero channels.
    """

    name: str
    unit: str
    range: float
    invalid: float | None
    licence: str
    citation: str
    fill: Fill = "nearest"
    url: str = ""
    colour: bool = True

    def known(self, stored: np.ndarray) -> np.ndarray:
        """Where a map as stored has a depth, bool."""
        known = np.isfinite(stored)
        return known if self.invalid is None else known & (stored != self.invalid)


def is_length(unit: str) -> bool:
    """Whether it is a unit of length, which may carry a number ("0.2 mm")."""
    return unit.lstrip("0123456789. ") in LENGTHS


def check_values(name: str, depth: np.ndarray, info: DatasetInfo, options: str | None = None) -> None:
    """Refuses a map whose values cannot be in the unit and range that are stated, before they are clipped to it.

    Args:
      name: of the map.
      depth: what is known of it, at least one value.
      info: what the values should mean.
      options: what stands before `unit`, `range` and `invalid` where the user states them, such as "--pairs."; None
        where the data set does.
    """
    low, high = float(depth.min()), float(depth.max())
    below, above = float(np.mean(depth < 0)), float(np.mean(depth > info.range))
    if below and info.unit in UNSIGNED:
        remedy = "fetch its files again" if options is None else _unknown(options, low)
        raise InputError(f"{name}: {below:.1%} of its depth is below 0, down to {low:g} {info.unit}: {remedy}")
    if above > MOST_ABOVE:
        others = depth[depth != high]
        marked = others.size and np.mean(others > info.range) <= MOST_ABOVE  # all is well but for one value
        raise InputError(
            f"{name}: {above:.1%} of its depth is above {info.range:g} {info.unit}, the range, up to {high:g}: is it "
            f"in another unit than {info.unit}, or the range too small?"
            + ("" if options is None else f" {_unknown(options, high) if marked else _stated(options, info)}")
        )
    if high < info.range * SMALLEST:
        raise InputError(
            f"{name}: its largest depth is {high:g}, and the range is {info.range:g} {info.unit}: is it in another "
            f"unit than {info.unit}, or the range too large?"
            + ("" if options is None else f" {_stated(options, info)}")
        )


def _unknown(options: str, value: float) -> str:
    """The option that helps where a value means unknown."""
    return f"Is {value:.9g} the value for unknown? {options}invalid {value:.9g}"


def _stated(options: str, info: DatasetInfo) -> str:
    """The options that say what values mean."""
    stretch = ", or stretch each map (`ahmf data prepare pairs --stretch`)" if not is_length(info.unit) else ""
    return f"Give {options}range and {options}unit{stretch}"
