"""How training patches are varied, and what a rotated one is made of.

A patch is rotated at high resolution and degraded then, so that its low resolution is the named degradation of what the
network is to find, as DADA trains (Metzger et al., CVPR 2023).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.degrade import Degradation
from data_pipelines.fields import check, rule

# What a sample of unknown depth may weigh in a pixel that counts as known: rounding of a weight of nothing.
_SLACK = 1e-4


@dataclass(frozen=True)
class Augmentation:
    """How patches are varied, and which are drawn anew."""

    flips: Literal["all", "mirror", "none"] = "all"
    """`all`: upside down, mirrored and transposed, each by chance; `mirror`: left to right alone."""
    rotate: float = field(default=0.0, metadata=rule(least=0, most=45, unit="in degrees"))
    """A patch is turned by an angle from -rotate to rotate, bilinearly in depth and guide, and degraded then."""
    corners: Literal["inside", "unknown"] = field(
        default="inside",
        metadata=rule(
            never={"rotate": (0.0,)}, instead="no patch is rotated: set Augmentation.rotate, or leave it out"
        ),
    )
    """`inside`: a rotated patch is wholly in the image, turned by less where that is small; `unknown`: its corners may
    be beyond, where depth is unknown."""
    min_known: float = field(default=0.0, metadata=rule(least=0, most=1, unit="a share of the pixels"))
    """Share of a patch's pixels whose depth must be known: one with less is drawn anew, and where none of 32 has
    enough, the best is taken. Whatever it is, places that are at least half known are preferred."""
    min_known_lr: float = field(
        default=0.0, metadata=rule(least=0, most=1, unit="a share of the low-resolution samples")
    )
    """The same of its low-resolution samples."""

    def __post_init__(self) -> None:
        """Checks the choices and the numbers."""
        check(self)

    def check_beside(self, degradation: Degradation) -> None:
        """Raises InputError where patches are rotated whose low resolution is made of the rows of an image."""
        if self.rotate and degradation.lidar_lines:
            raise InputError(
                f"Augmentation.rotate is {self.rotate:g} and lidar_lines {degradation.lidar_lines}: the lines lie "
                "in the rows of an image that is not rotated; leave Augmentation.rotate or Degradation.lidar_lines out"
            )

    def check_patch(self, size: tuple[int, int]) -> None:
        """Raises InputError where patches of this (height, width) would be transposed and are no squares."""
        height, width = size
        if self.flips == "all" and height != width:
            raise InputError(
                f"Augmentation.flips is 'all', which transposes, and patches are {height} x {width}: choose mirror or "
                "none, or patches that are square"
            )

    def turns(self, rng: np.random.Generator) -> tuple[bool, bool, bool]:
        """Draws whether a patch is turned upside down, mirrored, transposed."""
        upside_down, mirrored, transposed = map(bool, rng.random(3) < 0.5)
        every = self.flips == "all"
        return upside_down and every, mirrored and self.flips != "none", transposed and every

    def angle(
        self, grid: tuple[int, int], size: tuple[int, int], scale: int, rng: np.random.Generator
    ) -> tuple[float, tuple[int, int]]:
        """Draws an angle, and says where the patch may lie that is turned by it.

        Args:
          grid: (h, w) of the image at low resolution.
          size: (h, w) of the patch, so too; no larger than the image.
          scale: HR pixels per LR sample.
          rng: where the angle comes from.

        Returns:
          Degrees, and the LR samples by which the patch, not turned, must be away from the image's border, above and
          below and at its sides.
        """
        if self.corners == "unknown":
            return float(rng.uniform(-self.rotate, self.rotate)), (0, 0)
        halves = [max(n * scale - 1, 1) / 2 for n in size]  # from the middle to the outermost pixels' centres
        rooms = [(n - side) // 2 for n, side in zip(grid, size, strict=True)]
        # By axis: how far the patch extends along the other, and how far it may along this, in parts of `half`.
        other = halves[1] / halves[0], halves[0] / halves[1]
        reach = [1 + room * scale / half for room, half in zip(rooms, halves, strict=True)]
        most = min(self.rotate, *map(_widest, reach, other))
        degrees = float(rng.uniform(-most, most))
        cos, sin = math.cos(math.radians(abs(degrees))), math.sin(math.radians(abs(degrees)))
        above, beside = (
            min(math.ceil(half * (cos + ratio * sin - 1) / scale), room)  # no further than rounding would have it
            for half, ratio, room in zip(halves, other, rooms, strict=True)
        )
        return degrees, (max(above, 0), max(beside, 0))

    def lacks(self, mask_lr: np.ndarray, mask_hr: np.ndarray) -> float:
        """How much of a patch's depth should be known and is not, as a share; 0 where enough is."""
        return max(self.min_known - float(mask_hr.mean()), self.min_known_lr - float(mask_lr.mean()), 0.0)


PLAIN = Augmentation()


def _widest(reach: float, other: float) -> float:
    """The angle, 45 degrees at most, up to which cos a + other sin a is no more than `reach`, which is at least 1.

    Its square is 1 + other sin 2a - rest (1 - cos 2a), of which sine and cosine are one sine.
    """
    rest, amplitude = (1 - other**2) / 2, (1 + other**2) / 2
    sine = (reach**2 - 1 + rest) / amplitude
    if sine >= 1:
        return 45.0
    return max(math.degrees((math.asin(sine) - math.atan2(rest, other)) / 2), 0.0)


def rotated(
    guide: np.ndarray,
    depth: np.ndarray,
    mask: np.ndarray,
    top: int,
    left: int,
    size: tuple[int, int],
    degrees: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rectangle of an image that is turned about the rectangle's middle.

    Only the part of the image that it shows is read.

    Args:
      guide, depth, mask: (H, W, 3 or 0) uint8, (H, W) float32 with its holes filled, (H, W) bool.
      top, left, size: the rectangle and its (height, width), in pixels of the image before it is turned; its middle is
        in the image.
      degrees: by how much what is seen turns, counter-clockwise.

    Returns:
      guide, depth, mask of the rectangle, interpolated bilinearly. A pixel is known where every sample that it is made
      of is, so that no depth is mixed with what fills a hole. Beyond the image its outermost pixels go on, unknown.
    """
    import cv2  # slow to import, and most recipes need it never

    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    height, width = size
    half = np.array([width - 1, height - 1]) / 2  # x, y
    middle = np.array([left, top]) + half
    turn = np.array([[cos, -sin], [sin, cos]])
    reach = np.abs(turn) @ half
    start = np.maximum(np.floor(middle - reach).astype(int), 0)
    stop = np.ceil(middle + reach).astype(int) + 1
    part = np.s_[start[1] : stop[1], start[0] : stop[0]]
    # From a pixel of the rectangle to its place in that part.
    affine = np.column_stack([turn, middle - start - turn @ half])

    def warp(values: np.ndarray, border: int) -> np.ndarray:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(values, affine, (width, height), flags=flags, borderMode=border, borderValue=1)

    unknown = warp((~mask[part]).astype(np.float32), cv2.BORDER_CONSTANT)
    # OpenCV has no image without channels.
    guide = warp(guide[part], cv2.BORDER_REPLICATE) if guide.size else np.empty((height, width, 0), np.uint8)
    return guide, warp(depth[part], cv2.BORDER_REPLICATE), unknown < _SLACK
