"""Coloured point clouds: a camera's intrinsics from text or a file, pinhole back-projection, and PLY."""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Num, UInt8

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write, unwritable
from data_pipelines.opening import damaged, open_file

LONGEST = 2**16
CHUNK = 2**20

_FORMS = (
    "give fx,fy,cx,cy in pixels of the guide, a JSON file (Open3D's, or with fx, fy, cx and cy), or a text file with "
    "the 3 x 3 matrix"
)


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera in pixels of the guide, with the centre of the first pixel at (0, 0)."""

    fx: float
    fy: float
    cx: float
    cy: float
    size: tuple[int, int] | None = None
    """Height and width of the pictures that they hold for, where the file says so."""


def read_intrinsics(given: str | os.PathLike[str]) -> Intrinsics:
    """The intrinsics that are given as text, "fx,fy,cx,cy", or in a file.

    Args:
      given: four numbers, or the path of a `.json` file (Open3D's PinholeCameraIntrinsic or PinholeCameraParameters, or
        an object with fx, fy, cx and cy) or of a text file with a matrix of 3 x 3 (or 4 x 4, as ScanNet has it). They
        are of the resolution of the guide, which is that of the result.

    Raises:
      InputError: it is none of these; a focal length that is not positive, a skew, or a number that is not finite.
    """
    numbers = _floats(str(given).split(","))
    if numbers is not None and len(numbers) == 4:
        return _checked(f"intrinsics {given}", numbers)
    path = Path(given)
    if not path.suffix and not path.exists():
        raise InputError(f"intrinsics {given}: are neither four numbers nor a file: {_FORMS}")
    with open_file(path, (".json", ".txt"), "camera") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise InputError(f"{path}: is longer than intrinsics are: {_FORMS}")
    try:
        return (_from_json if path.suffix.lower() == ".json" else _from_matrix)(path, text.decode())
    # `json` raises RecursionError for what is nested too deeply.
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise damaged(path, error) from error


def _from_json(path: Path, text: str) -> Intrinsics:
    # Whole numbers as floats: Python refuses to read those of thousands of digits.
    fields: Any = json.loads(text, parse_int=float)
    if isinstance(fields, dict) and isinstance(fields.get("intrinsic"), dict):
        fields = fields["intrinsic"]
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds no intrinsics: {_FORMS}")
    size = None
    if {"width", "height"} <= fields.keys():
        sides = _floats([fields["height"], fields["width"]])
        if sides is None or not all(1 <= side < 2**31 and side == int(side) for side in sides):
            raise InputError(f"{path}: has no sensible width and height: {_FORMS}")
        size = int(sides[0]), int(sides[1])
    if "intrinsic_matrix" in fields:  # column after column
        matrix = fields["intrinsic_matrix"]
        flat = _floats(matrix) if isinstance(matrix, list) and len(matrix) == 9 else None
        if flat is None:
            raise InputError(f"{path}: its intrinsic_matrix is not of 9 numbers: {_FORMS}")
        return _from_rows(path, np.reshape(flat, (3, 3)).T, size)
    numbers = _floats([fields.get(name) for name in ("fx", "fy", "cx", "cy")])
    if numbers is None:
        raise InputError(f"{path}: has no numbers fx, fy, cx and cy: {_FORMS}")
    return _checked(str(path), numbers, size)


def _from_matrix(path: Path, text: str) -> Intrinsics:
    numbers = _floats(re.split(r"[\s,;\[\]]+", text.strip(" \t\r\n[];,")))
    side = math.isqrt(len(numbers or ()))
    if numbers is None or side not in (3, 4) or len(numbers) != side**2:
        raise InputError(f"{path}: is no matrix of 3 x 3 numbers: {_FORMS}")
    return _from_rows(path, np.reshape(numbers, (side, side))[:3, :3], None)


def _from_rows(path: Path, matrix: np.ndarray, size: tuple[int, int] | None) -> Intrinsics:
    if matrix[0, 1] or matrix[1, 0] or matrix[2].tolist() != [0, 0, 1]:
        raise InputError(f"{path}: its matrix is not [fx 0 cx; 0 fy cy; 0 0 1]: {_FORMS}")
    return _checked(str(path), [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]], size)


def _checked(where: str, numbers: Sequence[float], size: tuple[int, int] | None = None) -> Intrinsics:
    fx, fy, cx, cy = map(float, numbers)
    if not (fx > 0 and fy > 0 and all(map(math.isfinite, (fx, fy, cx, cy)))):
        raise InputError(f"{where}: focal lengths {fx:g} and {fy:g}, centre ({cx:g}, {cy:g}) are no camera: {_FORMS}")
    return Intrinsics(fx, fy, cx, cy, size)


def _floats(values: Any) -> list[float] | None:
    """The numbers, or None where one is none."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None


def points(
    depth: Num[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], camera: Intrinsics
) -> tuple[Float32[np.ndarray, "n 3"], Int64[np.ndarray, " n"]]:
    """Where the known pixels are in space, by a pinhole camera.

    Args:
      depth: (H, W), along the optical axis; disparity or grey levels are none.
      mask: (H, W), True where the depth is to be used.
      camera: of the depth map's own resolution.

    Returns:
      (N, 3) x to the right, y down, z into the scene, in the unit of the depth; and the places of these pixels in the
      flattened picture.
    """
    (places,) = np.nonzero(mask.ravel())
    y, x = np.divmod(places, depth.shape[1])
    z = depth.ravel()[places].astype(np.float32)
    out = np.empty((len(places), 3), np.float32)
    out[:, 0] = (x - camera.cx) / camera.fx * z
    out[:, 1] = (y - camera.cy) / camera.fy * z
    out[:, 2] = z
    return out, places


def write_ply(
    path: str | os.PathLike[str], points: Float32[np.ndarray, "n 3"], colours: UInt8[np.ndarray, "n c"]
) -> None:
    """Writes points with colours, of three channels or none, as binary little-endian PLY, whole or not at all.

    Raises:
      InputError: the suffix is not `.ply`, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise InputError(f"{path}: a point cloud is written as .ply: change the suffix")
    channels = ("red", "green", "blue")[: colours.shape[1]]
    vertex = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", len(channels))])
    names = [f"property float {axis}" for axis in "xyz"]
    names += [f"property uchar {colour}" for colour in channels]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *names, "end_header", ""]
    try:
        with atomic_write(path) as temp, temp.open("xb") as file:
            file.write("\n".join(lines).encode())
            for start in range(0, len(points), CHUNK):
                part = slice(start, start + CHUNK)
                rows = np.empty(len(points[part]), vertex)
                rows["xyz"], rows["rgb"] = points[part], colours[part]
                file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error) from error
