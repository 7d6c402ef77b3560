"""What stands and hangs about in a generated room: a function a thing, each giving the solids that it is made of."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipelines.datasets.scenes.geometry import Solid, inside, rotation

NEAR = 0.5  # metres; nothing is nearer to the camera
FLAT = 0.01  # a sheet has no thickness; its third size only has to be positive


class Place(NamedTuple):
    """Where a thing goes, and how large it is about.

    Attributes:
      centre, size: (3,), metres; half extents.
      upright: (3, 3), a turn about the vertical.
      turn: (3, 3), `upright`, or any.
      floor: its y, metres.
      thin: half the thickness of what is thin here, metres: a pixel or two.
      materials: how many there are to choose from.
    """

    centre: np.ndarray
    size: np.ndarray
    upright: np.ndarray
    turn: np.ndarray
    floor: float
    thin: float
    materials: int


def favourite(rng: np.random.Generator, materials: int) -> int:
    """The number of a material: the first are chosen most, so that things often are before others of their colour."""
    return int(materials * rng.random() ** 1.4)


def furnish(
    rng: np.random.Generator, room: np.ndarray, view: np.ndarray, focal: float, height: int, width: int, materials: int
) -> list[Solid]:
    """The solids of 20 to 44 things in view; most of them gather around others, as things do."""
    solids: list[Solid] = []
    places: list[np.ndarray] = []
    things, weights = list(THINGS), list(THINGS.values())
    for _ in range(rng.integers(20, 45)):
        # Somewhere along the ray of a random pixel: things spread over the image, not over the floor.
        pixel = np.array([(rng.random() - 0.5) * width / focal, (rng.random() - 0.5) * height / focal, 1])
        ray = view @ pixel
        limit = float(inside(room, ray)[0])
        distance = limit * (1 - 0.6 * rng.random() ** 2)  # more often near what is behind it
        centre = distance * ray
        extent = distance * np.exp(rng.uniform(np.log(0.02), np.log(0.18)))
        if places and rng.random() < 0.65:
            centre = places[rng.integers(len(places))] + extent * rng.uniform(-1.5, 1.5, 3)
            distance = max(NEAR, float((centre @ view)[2]))
        upright = rotation(rng.uniform(0, math.pi), 0, 0)
        place = Place(
            centre=centre,
            size=extent * rng.uniform(0.5, 1.5, 3),
            upright=upright,
            turn=upright if rng.random() < 0.6 else rotation(*rng.uniform(-1.2, 1.2, 3)),
            floor=room[1, 1],
            thin=max(0.012, 1.3 * distance / focal),
            materials=materials,
        )
        places.append(centre)
        solids += things[rng.choice(len(things), p=weights)](rng, place)
    # What comes too near to the camera would fill the image.
    return [solid for solid in solids if (solid.centre @ view)[2] - np.linalg.norm(solid.size) > NEAR]


def _material(rng: np.random.Generator, place: Place) -> int:
    return favourite(rng, place.materials)


def _solid(rng: np.random.Generator, place: Place, kind: str, size: np.ndarray) -> list[Solid]:
    """One solid, more often on the floor than in the air where it is upright."""
    centre = place.centre.copy()
    if place.turn is place.upright and rng.random() < 0.6:
        centre[1] = place.floor - size[1]
    return [Solid(kind, centre, size, place.turn, _material(rng, place))]


def box(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A block."""
    return _solid(rng, place, "box", place.size)


def sphere(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A ball, or an ellipsoid."""
    return _solid(rng, place, "sphere", place.size[:1].repeat(3) if rng.random() < 0.5 else place.size)


def cylinder(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A tin or a drum."""
    return _solid(rng, place, "cylinder", place.size)


def pole(rng: np.random.Generator, place: Place) -> list[Solid]:
    """From the floor up, sometimes leaning."""
    length = rng.uniform(0.4, 1.6)
    centre = np.array([place.centre[0], place.floor - length, place.centre[2]])
    lean = rotation(0, *rng.uniform(-0.25, 0.25, 2)) if rng.random() < 0.5 else np.eye(3)
    size = np.array([place.thin, length, place.thin]) * rng.uniform(1, 2.5)
    return [Solid("cylinder", centre, size, lean, _material(rng, place))]


def board(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A thin plate at any slant."""
    size = np.array([1.6 * place.size[0], 1.6 * place.size[1], 0.01])
    lean = place.upright @ rotation(0, rng.uniform(-1, 1), rng.uniform(-0.3, 0.3))
    return [Solid("box", place.centre, size, lean, _material(rng, place))]


def table(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A top on four legs."""
    half = np.array([rng.uniform(0.3, 0.7), 0.02, rng.uniform(0.25, 0.5)])
    leg = rng.uniform(0.45, 0.8) / 2
    top = np.array([place.centre[0], place.floor - 2 * leg, place.centre[2]])
    corners = [np.array([x * half[0] * 0.9, leg, z * half[2] * 0.9]) for x in (-1, 1) for z in (-1, 1)]
    material, thin = _material(rng, place), np.array([place.thin, leg, place.thin])
    legs = [Solid("cylinder", top + place.upright @ corner, thin, place.upright, material) for corner in corners]
    return [Solid("box", top, half, place.upright, material), *legs]


def fence(rng: np.random.Generator, place: Place) -> list[Solid]:
    """Eight slats."""
    slat = np.array([place.thin, rng.uniform(0.2, 0.6), 0.008])
    gap, material = place.thin * rng.uniform(3, 7), _material(rng, place)
    offsets = [place.upright @ np.array([gap * (i - 3.5), 0, 0]) for i in range(8)]
    return [Solid("box", place.centre + offset, slat, place.upright, material) for offset in offsets]


def pile(rng: np.random.Generator, place: Place) -> list[Solid]:
    """Books, one on the other: jumps in depth of a few centimetres, and covers of one colour by chance."""
    solids, y = [], place.floor if rng.random() < 0.6 else place.centre[1]
    for _ in range(rng.integers(3, 7)):
        size = np.array([1, 0, 1]) * place.size.mean() * rng.uniform(0.7, 1.1, 3) + [0, rng.uniform(0.02, 0.06), 0]
        y -= size[1]
        centre = np.array([place.centre[0], y, place.centre[2]])
        centre[[0, 2]] += 0.15 * place.size.mean() * rng.uniform(-1, 1, 2)
        turn = place.upright @ rotation(rng.uniform(-0.3, 0.3), 0, 0)
        solids.append(Solid("box", centre, size, turn, _material(rng, place)))
        y -= size[1]
    return solids


def doll(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A body with head and limbs: round, of two materials, in front of itself."""
    skin, dress = _material(rng, place), _material(rng, place)
    unit = place.size.mean()
    parts = [((0.0, 0.0, 0.0), (0.6, 0.8, 0.5), 0.0, dress), ((0.0, -1.2, -0.1), (0.5, 0.5, 0.5), 0.0, skin)]
    for side in (-1, 1):
        parts.append(((0.7 * side, -0.2, -0.3), (0.2, 0.6, 0.2), side * rng.uniform(-1.2, 0.2), skin))
        parts.append(((0.35 * side, 0.9, -0.3), (0.25, 0.6, 0.25), side * rng.uniform(-0.6, 0.2), skin))
    return [
        Solid(
            "sphere",
            place.centre + unit * place.turn @ np.array(offset),
            unit * np.array(size) * rng.uniform(0.8, 1.25, 3),
            place.turn @ rotation(0, rng.uniform(-0.5, 0.5), roll),
            material,
        )
        for offset, size, roll, material in parts
    ]


def curtain(rng: np.random.Generator, place: Place) -> list[Solid]:
    """Folds of one cloth: upright half-round ridges side by side."""
    width, length, material = rng.uniform(0.03, 0.1), rng.uniform(0.3, 1.2), _material(rng, place)
    return [
        Solid(
            "cylinder",
            place.centre + place.upright @ np.array([1.5 * width * i, 0, 0.3 * width * rng.uniform(-1, 1)]),
            np.array([width, length, width * rng.uniform(0.3, 0.9)]),
            place.upright,
            material,
        )
        for i in range(rng.integers(4, 10))
    ]


def cutout(rng: np.random.Generator, place: Place) -> list[Solid]:
    """A flat ring, star or flower."""
    outline = (int(rng.integers(3, 9)), rng.uniform(0.2, 0.7), 0.0) if rng.random() < 0.6 else (0, 0.0, 0.8)
    lean = place.upright @ rotation(0, *rng.uniform(-0.6, 0.6, 2))
    size = np.array([place.size[0], place.size[1], FLAT])
    return [Solid("sheet", place.centre, size, lean, _material(rng, place), outline)]


def plant(rng: np.random.Generator, place: Place) -> list[Solid]:
    """Long leaves from one spot, thin at their ends, of one colour."""
    length, material, leaves = 1.6 * place.size.mean(), _material(rng, place), []
    for _ in range(rng.integers(6, 14)):
        lean = rotation(rng.uniform(0, 2 * math.pi), rng.uniform(-0.6, 0.6), rng.uniform(-1.3, 1.3))
        reach = length * rng.uniform(0.6, 1.2)
        size = np.array([rng.uniform(0.06, 0.16) * reach, reach, FLAT])
        leaves.append(Solid("sheet", place.centre - lean @ [0, reach, 0], size, lean, material))
    return leaves


# How often.
THINGS: dict[Callable[[np.random.Generator, Place], list[Solid]], float] = {
    box: 0.17,
    sphere: 0.1,
    cylinder: 0.1,
    pole: 0.08,
    board: 0.11,
    table: 0.04,
    fence: 0.04,
    pile: 0.08,
    doll: 0.1,
    curtain: 0.06,
    cutout: 0.06,
    plant: 0.06,
}
