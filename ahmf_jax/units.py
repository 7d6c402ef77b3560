"""Units of depth, and how far sensors see: what a number from a sensor is in the unit of a model."""

import math
import re
from typing import Protocol, runtime_checkable

from ahmf_jax.errors import InputError

# Metres.
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "um": 1e-6, "km": 1000.0, "in": 0.0254, "ft": 0.3048}
NAMES = {
    "metre": "m",
    "meter": "m",
    "centimetre": "cm",
    "centimeter": "cm",
    "millimetre": "mm",
    "millimeter": "mm",
    "micrometre": "um",
    "micrometer": "um",
    "kilometre": "km",
    "kilometer": "km",
    "inch": "in",
    "inches": "in",
    "foot": "ft",
    "feet": "ft",
    "gray level": "grey level",
    "px": "pixel",
    "pixel of disparity": "pixel",
}

# The end of the range in metres that makers state.
SENSORS = {
    "kinect_v1": 4.0,  # Kinect for Windows SDK 1.8, depth range "default": 0.8 to 4 m
    "kinect_v2": 4.5,  # Kinect for Windows SDK 2.0, hardware: 0.5 to 4.5 m
    # Azure Kinect DK, hardware specification; each depth mode has its own.
    "azure_kinect_nfov": 3.86,
    "azure_kinect_nfov_binned": 5.46,
    "azure_kinect_wfov": 2.21,
    "azure_kinect_wfov_binned": 2.88,
    # Intel RealSense, product pages: the end of the ideal range.
    "realsense_d415": 3.0,
    "realsense_d435": 3.0,
    "realsense_d455": 6.0,
    "realsense_l515": 9.0,
    "iphone_lidar": 5.0,  # Apple on the LiDAR scanner of iPad Pro (2020), which iPhones have too: up to 5 m
}


def in_metres(unit: str) -> float | None:
    """How long a unit is, which may carry a number ("0.2 mm"); None of what is no length ("grey level")."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)?\s*(.+)", plain(unit))
    number, name = found.groups() if found else (None, unit)
    length = LENGTHS.get(plain(name))
    return None if length is None else float(number or 1) * length or None


def plain(unit: str) -> str:
    """A unit by the name that is used here: "Metres" is "m"."""
    unit = " ".join(unit.lower().replace("_", " ").split())
    for name in (unit, unit.removesuffix("s")):
        if name in NAMES or name in LENGTHS:
            return NAMES.get(name, name)
    return unit.removesuffix("s")


def conversion(unit: str, into: str) -> float:
    """How many of `into` one `unit` is.

    Raises:
      InputError: they are not the same, and one is no length.
    """
    if plain(unit) == plain(into):
        return 1.0
    one, other = in_metres(unit), in_metres(into)
    if not one or not other:
        raise InputError(
            f"depth in {_many(unit)} cannot be turned into {_many(into)}: both must be lengths ({', '.join(LENGTHS)}); "
            "give the range in the input's own unit (--range), or use a model of scaling=sample or largest, which "
            "takes any unit"
        )
    return one / other


@runtime_checkable
class Trained(Protocol):
    """What of an `ahmf_jax.export.Trained` has a say here; that module imports JAX, and this one need not."""

    @property
    def unit(self) -> str:
        """Of the training data."""

    @property
    def range(self) -> float:
        """The depth in that unit that the network was trained to take for 1."""

    @property
    def scaling(self) -> str:
        """One of `ahmf_jax.scaling.Scaling`."""


def depth_of_one(trained: Trained, unit: str | None, depth_range: float | int | str | None, largest: float) -> float:
    """The depth, in the input's unit, that is given to the engine as 1.

    Args:
      trained: the model.
      unit: of the input; None: the model's.
      depth_range: as `Upsampler.run` has it.
      largest: the largest known value of the input, by absolute value.

    Raises:
      InputError: a unit, sensor or range that cannot be used, or an input that goes beyond the range.
    """
    here = trained.unit if unit is None else unit
    if in_metres(here) is None and plain(here) not in (*NAMES.values(), plain(trained.unit)):
        raise InputError(
            f"the unit {unit!r} is not known: give {', '.join(LENGTHS)}, a number of them ('0.2 mm'), 'grey level' or "
            "'pixel'"
        )
    if isinstance(depth_range, str) and depth_range not in ("lr", *SENSORS):
        raise InputError(
            f"the range {depth_range!r} is no number, not 'lr' and no sensor that is known: {', '.join(SENSORS)}"
        )
    if trained.scaling in ("sample", "largest") or depth_range == "lr":
        return largest or 1.0  # by these scalings the network sees the same, whatever this is
    if depth_range is None:
        one = trained.range / conversion(here, trained.unit)
    elif isinstance(depth_range, str):
        one = SENSORS[depth_range] / conversion(here, "m")
    else:
        one = float(depth_range)
    if not 0 < one < math.inf:
        raise InputError(f"the range is {one}: a positive depth is needed")
    if largest > one * 1.001:
        raise InputError(
            f"the depth reaches {largest:g}, beyond the model's range of {one:g} {_many(here)}: give the sensor's "
            "largest depth as the range (--range), or mask what is no depth"
        )
    return one


def _many(unit: str) -> str:
    """The plural: "grey levels", but "mm"."""
    return unit if in_metres(unit) else f"{plain(unit)}s"
