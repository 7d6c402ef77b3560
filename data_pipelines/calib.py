"""The calib.txt of a Middlebury 2014 scene: what turns disparity in pixels into depth."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ahmf_jax.errors import InputError
from data_pipelines.opening import damaged, open_file

# The published ones have some 300 bytes.
MAX_BYTES = 4096

_NUMBER = r"[-+]?(?:\d{1,12}(?:\.\d{0,18})?|\.\d{1,18})(?:[eE][-+]?\d{1,3})?"
_LINE = re.compile(r"(\w{1,32})\s*=\s*(\S.*)")
_VALUE = re.compile(_NUMBER)
_WHOLE = re.compile(r"\d{1,6}")
_CAMERA = re.compile(
    rf"\[\s*({_NUMBER})\s+0\s+({_NUMBER})\s*;\s*0\s+({_NUMBER})\s+({_NUMBER})\s*;\s*0\s+0\s+1\s*\]",
)
_KEYS = ("cam0", "cam1", "doffs", "baseline", "width", "height", "ndisp")


@dataclass(frozen=True)
class Calibration:
    """Two rectified cameras at the size of the scene's images.

    The depth of a pixel is `baseline * focal / (disparity + doffs)` in millimetres, for either view.

    Attributes:
      focal: focal length of both cameras, pixels.
      baseline: distance of the cameras, millimetres.
      doffs: difference of the principal points, cx1 - cx0, pixels.
      width: of the images, pixels.
      height: of the images, pixels.
      ndisp: a bound on the disparities: they lie in [0, ndisp - 1].
      cx0: column of the left camera's principal point, pixels.
      cx1: column of the right camera's principal point, pixels.
      cy: row of both cameras' principal point, pixels.
    """

    focal: float
    baseline: float
    doffs: float
    width: int
    height: int
    ndisp: int
    cx0: float
    cx1: float
    cy: float


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Reads a calib.txt; keys beyond those of `Calibration`, such as vmin and dyavg, are left alone.

    Raises:
      InputError: the file is missing, no such file, or lacks a key; a number is not finite, or not positive where it
        has to be; the two cameras are not rectified to one focal length and row.
    """
    path = Path(path)
    with open_file(path, (".txt",), "calibration") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise damaged(path, f"it has more than {MAX_BYTES} bytes")
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        pair = _LINE.fullmatch(text)
        if pair is None:
            raise damaged(path, f"line {number} is not 'name=value'")
        if pair[1] in found:
            raise damaged(path, f"{pair[1]} stands there twice")
        found[pair[1]] = pair[2]
    missing = [key for key in _KEYS if key not in found]
    if missing:
        raise damaged(path, f"it lacks {', '.join(missing)}")

    focal, cx0, cy = _camera(path, "cam0", found["cam0"])
    focal1, cx1, cy1 = _camera(path, "cam1", found["cam1"])
    if (focal, cy) != (focal1, cy1):
        raise InputError(
            f"{path}: cam0 and cam1 differ in focal length or row ({focal}, {cy} and {focal1}, {cy1}): "
            "rectify the views, or copy the file of the download again"
        )
    width, height, ndisp = (_whole(path, key, found[key]) for key in ("width", "height", "ndisp"))
    return Calibration(
        focal=focal,
        baseline=_positive(path, "baseline", _number(path, "baseline", found["baseline"])),
        doffs=_number(path, "doffs", found["doffs"]),
        width=width,
        height=height,
        ndisp=ndisp,
        cx0=cx0,
        cx1=cx1,
        cy=cy,
    )


def _camera(path: Path, key: str, text: str) -> tuple[float, float, float]:
    """(focal, cx, cy) of a camera matrix [f 0 cx; 0 f cy; 0 0 1]."""
    matrix = _CAMERA.fullmatch(text)
    if matrix is None:
        raise damaged(path, f"{key} is not [f 0 cx; 0 f cy; 0 0 1]")
    focal, cx, focal_y, cy = (_number(path, key, value) for value in matrix.groups())
    if focal != focal_y:
        raise damaged(path, f"{key} has two focal lengths, {focal} and {focal_y}")
    return _positive(path, key, focal), cx, cy


def _number(path: Path, key: str, text: str) -> float:
    if _VALUE.fullmatch(text) is None or not math.isfinite(float(text)):
        raise damaged(path, f"{key} is no finite number")
    return float(text)


def _positive(path: Path, key: str, value: float) -> float:
    if value <= 0:
        raise damaged(path, f"{key} is {value}, not positive")
    return value


def _whole(path: Path, key: str, text: str) -> int:
    if _WHOLE.fullmatch(text) is None or int(text) == 0:
        raise damaged(path, f"{key} is no positive whole number")
    return int(text)
