"""Colours of surfaces, light and shadow, and what a camera makes of them."""

import math
from typing import NamedTuple

import numpy as np

from data_pipelines.datasets.scenes.geometry import Solid, meet

# Patterns, and how often.
PATTERNS = {"plain": 0.34, "checks": 0.1, "stripes": 0.11, "spots": 0.09, "marble": 0.14, "patches": 0.1, "print": 0.12}
# The wavelengths of a surface's grain in metres, longest first: one amplitude for all is the 1/f of photographs.
GRAIN = np.geomspace(0.6, 0.015, 14)


class Material(NamedTuple):
    """Two colours and how they alternate in space.

    Attributes:
      pattern: one of `PATTERNS`.
      colours: (2, 3), linear in [0, 1].
      waves, phases: (5, 3) in radians per metre and (5,): the wave vectors of the pattern.
      grain: (14, 3), the wave vectors of its roughness.
      rough: how much that changes the brightness, relative.
    """

    pattern: str
    colours: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    grain: np.ndarray
    rough: float


def palette(rng: np.random.Generator) -> list[Material]:
    """The materials of one scene. Solids share them, so that neighbours often have one colour, or nearly."""
    materials = []
    common, variety = rng.uniform(0.3, 0.7) + rng.uniform(-0.1, 0.1, 3), rng.uniform(0.25, 1)
    for _ in range(rng.integers(7, 12)):
        pattern = rng.choice(list(PATTERNS), p=list(PATTERNS.values()))
        base = rng.uniform(0.12, 0.95, 3)
        base = base.mean() + (base - base.mean()) * rng.uniform(0.1, 0.8)
        base = common + variety * (base - common)
        contrast = rng.uniform(0.06, 0.4) * rng.choice([-1, 1])
        other = np.clip(base + contrast + rng.uniform(-0.15, 0.15, 3), 0.05, 1)
        directions = _directions(rng, 5)
        if pattern in ("checks", "spots", "print"):
            directions[:3] = np.linalg.qr(rng.standard_normal((3, 3)))[0] if rng.random() < 0.4 else np.eye(3)
        period = np.exp(rng.uniform(np.log(0.07), np.log(0.7)))
        lengths = period * (1 if pattern in ("checks", "spots", "stripes", "print") else rng.uniform(0.4, 2.5, (5, 1)))
        materials.append(
            Material(
                str(pattern),
                np.array([base, other], np.float32),
                2 * math.pi * directions / lengths,
                rng.uniform(0, 2 * math.pi, 5),
                2 * math.pi * _directions(rng, len(GRAIN)) / GRAIN[:, None],
                rng.uniform(0.01, 0.06),
            )
        )
    return materials


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def paint(material: Material, point: np.ndarray) -> np.ndarray:
    """The colour (n, 3) of points (n, 3) of a material."""
    angle = point @ material.waves.T.astype(np.float32) + material.phases.astype(np.float32)
    match material.pattern:
        case "plain":
            mix = np.zeros(len(point))
        case "checks":
            mix = np.sign(np.sin(angle[:, :3])).prod(1) > 0
        case "stripes":
            mix = np.sin(angle[:, 0]) > 0.3
        case "spots":
            mix = np.cos(angle[:, :3]).sum(1) > 1.2
        case "marble":
            mix = 0.5 + 0.5 * np.sin(angle[:, 0] + np.sin(angle[:, 1:]).sum(1))
        case "print":
            mix = _ink(angle[:, 0] + angle[:, 2], angle[:, 1])
        case _:  # patches: the same with hard edges
            mix = np.sin(angle[:, 0] + np.sin(angle[:, 1:]).sum(1)) > 0
    first, second = material.colours
    # Each wave bends the next, which takes the regularity out of them.
    grain, last = np.zeros(len(point), np.float32), np.float32(0)
    for wave in material.grain.astype(np.float32):
        last = np.sin(point @ wave + 2 * last)
        grain += last
    rough = 1 + np.float32(material.rough / math.sqrt(len(GRAIN) / 2)) * grain
    return (first + mix.astype(np.float32)[:, None] * (second - first)) * rough[:, None]


def _ink(along: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Where lines of print are dark: five to a period of `down`, with glyphs and gaps at random, and a headline."""
    line, glyph = np.floor(down * 0.8), np.floor(along * 2)
    body = down * 0.8 - line < 0.55
    chance = np.sin(line * 12.9898 + glyph * 78.233) * 43758.5453
    return body & (chance - np.floor(chance) > 0.4)


def light(
    rng: np.random.Generator,
    solids: list[Solid],
    lamp: np.ndarray,
    depth: np.ndarray,
    normal: np.ndarray,
    rays: np.ndarray,
) -> np.ndarray:
    """Brightness (H, W): ambient light and a lamp (Lambert's law) with soft shadows."""
    ambient = rng.uniform(0.35, 0.6)
    point = depth[..., None] * rays
    towards = lamp.astype(np.float32) - point
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    lambert = np.maximum((towards * normal).sum(-1), 0)

    # Shadows are blurred anyway: every second pixel is enough.
    start = (point + 0.02 * normal)[::2, ::2].astype(np.float32)
    to_lamp = lamp.astype(np.float32) - start
    shadow = np.zeros(start.shape[:2], np.float32)
    for solid in solids:
        shadow = np.maximum(shadow, meet(solid, start, to_lamp)[0] < 1)
    shadow = shadow.repeat(2, 0).repeat(2, 1)[: depth.shape[0], : depth.shape[1]]
    return ambient + (1.1 - ambient) * lambert * (1 - rng.uniform(0.4, 0.9) * _blur(_blur(shadow, 0.3), 0.3))


def photograph(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """What a camera makes of it: exposed by the mean, a little blur, noise that grows with brightness, 8 bits."""
    colour = _blur(colour * (rng.uniform(0.4, 0.6) / colour.mean()), rng.uniform(0.02, 0.25))
    sigma = rng.uniform(0.003, 0.01) * np.sqrt(0.3 + colour)
    colour = colour + sigma * rng.standard_normal(colour.shape, np.float32)
    return np.round(np.clip(colour, 0, 1) * 255).astype(np.uint8)


def _blur(image: np.ndarray, side: float) -> np.ndarray:
    """Weights (side, 1 - 2 side, side) along rows and columns, the border repeated."""
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(image.ndim)], mode="edge")
        before, after = (np.take(padded, range(i, i + image.shape[axis]), axis) for i in (0, 2))
        image = (1 - 2 * side) * image + side * (before + after)
    return image.astype(np.float32)
