"""Solids, and where rays meet them.

Every solid is a unit solid, within [-1, 1]^3, that is scaled, turned and moved. World coordinates: the camera at the
origin, x to the right, y down, z forward.
"""

import functools
import math
from typing import NamedTuple

import numpy as np


class Solid(NamedTuple):
    """A unit solid scaled by `size`, turned by `turn`, moved to `centre`.

    Attributes:
      kind: "sphere", "box", "cylinder" (round in x and z), or "sheet": the plane z = 0 inside an outline.
      centre, size: (3,), metres.
      turn: (3, 3), a rotation.
      material: its number in the scene's palette.
      outline: of a sheet, `(lobes, bite, hole)`: at the polar angle a it reaches from the radius `hole` to
        1 - `bite` (1 + cos(`lobes` a)) / 2. (0, 0, 0) is a disc, (0, 0, 0.8) a ring, (5, 0.6, 0) a star.
    """

    kind: str
    centre: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    material: int
    outline: tuple[int, float, float] = (0, 0.0, 0.0)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """About y, then x, then z, in radians."""
    (a, b, c), (u, v, w) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    return (
        np.array([[a, 0, u], [0, 1, 0], [-u, 0, a]])
        @ np.array([[1, 0, 0], [0, b, -v], [0, v, b]])
        @ np.array([[c, -w, 0], [w, c, 0], [0, 0, 1]])
    )


def window(solid: Solid, view: np.ndarray, focal: float, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the image that hold the solid's bounding sphere."""
    x, y, z = solid.centre @ view
    radius = float(np.linalg.norm(solid.size))
    slices = []
    for position, length in ((y, height), (x, width)):
        # The sphere as seen in this plane: directions within asin(radius / distance) of its centre's.
        angle, half = math.atan2(position, z), math.asin(min(1.0, radius / math.hypot(position, z)))
        low, high = (math.tan(max(-1.5, min(1.5, a))) * focal + (length - 1) / 2 for a in (angle - half, angle + half))
        slices.append(slice(max(0, math.floor(low)), max(0, min(length, math.ceil(high) + 1))))
    return slices[0], slices[1]


def inside(room: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance and inward normal where rays from the origin leave the room, (2, 3): its low and its high corner."""
    safe = np.where(rays == 0, np.float32(1e-9), rays)
    leave = np.where(safe > 0, room[1], room[0]).astype(rays.dtype) / safe
    distance = np.minimum(np.minimum(leave[..., 0], leave[..., 1]), leave[..., 2])
    return distance, -np.sign(safe) * (leave == distance[..., None])


def meet(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays meet a solid from outside.

    Args:
      solid: what they meet.
      origin: (3,) or (..., 3), where the rays begin.
      rays: (..., 3), their directions.

    Returns:
      `(t, o, d)`: (...) in multiples of the direction, infinite where missed; origin and directions as the unit
      solid has them.
    """
    o = ((origin - solid.centre) @ solid.turn / solid.size).astype(np.float32)
    d = rays @ (solid.turn / solid.size).astype(np.float32)
    d = np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    if solid.kind == "sheet":
        t = -o[..., 2] / d[..., 2]
        x, y = (o[..., axis] + t * d[..., axis] for axis in (0, 1))
        lobes, bite, hole = solid.outline
        radius = np.hypot(x, y)
        seen = (radius >= hole) & (radius <= 1 - bite * (1 + np.cos(lobes * np.arctan2(y, x))) / 2) & (t > 1e-3)
        return np.where(seen, t, np.float32(np.inf)), o, d
    if solid.kind == "box":
        spans = [_slab(o[..., axis], d[..., axis]) for axis in range(3)]
    else:
        axes = slice(0, 3) if solid.kind == "sphere" else slice(0, 3, 2)
        a, b, c = (np.einsum("...i,...i->...", u[..., axes], v[..., axes]) for u, v in ((d, d), (o, d), (o, o)))
        root = b * b - a * (c - 1)
        half = np.sqrt(np.maximum(root, 0))
        spans = [(np.where(root > 0, (-b - half) / a, np.inf), (half - b) / a)]
        if solid.kind == "cylinder":
            spans.append(_slab(o[..., 1], d[..., 1]))
    # Inside the solid is where a ray is inside all that bound it.
    enter = functools.reduce(np.maximum, (low for low, _ in spans))
    leave = functools.reduce(np.minimum, (high for _, high in spans))
    return np.where((enter <= leave) & (enter > 1e-3), enter, np.float32(np.inf)), o, d


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave -1 <= coordinate <= 1."""
    one, two = (-1 - o) / d, (1 - o) / d
    return np.minimum(one, two), np.maximum(one, two)


def normals(solid: Solid, p: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The unit normal in the world, (n, 3), at points (n, 3) on the unit solid, seen along `d` (n, 3)."""
    match solid.kind:
        case "box":
            face = np.sign(p) * (np.arange(3) == np.abs(p).argmax(-1)[..., None])
        case "cylinder":
            lid = np.abs(p[:, 1]) > np.hypot(p[:, 0], p[:, 2])
            face = np.where(lid[:, None], p * [0, 1, 0], p * [1, 0, 1])
        case "sheet":  # has two sides
            face = -np.sign(d) * [0, 0, 1]
        case _:
            face = p
    normal = (face / solid.size) @ solid.turn.T
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)
