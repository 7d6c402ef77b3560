"""A steady depth video: each frame is blended with the last where nothing moved, as the guide and the depth tell."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Num

from ahmf_jax.errors import InputError

# Pixels on a side of the neighbourhood over which a change is averaged, so that noise is not taken for motion.
SIDE = 5


class Temporal:
    """Blends the frames of one video, one after the other; what it remembers is one frame.

    A pixel over which neither the guide nor the depth has changed, on average over 5 x 5 pixels, becomes
    `strength` parts the last result and the rest the new frame, which leaves sqrt((1 - strength) / (1 + strength)) of
    the standard deviation of independent noise. Beyond a tolerance the last result counts less, and beyond twice the
    tolerance not at all: what moved is as the new frame has it. The defaults are those that did best on a generated
    sequence: `docs/sensors.md`.
    """

    def __init__(self, strength: float = 0.8, guide_tolerance: float = 4.0, depth_tolerance: float = 0.01) -> None:
        """Starts without a frame.

        Args:
          strength: from 0, which changes nothing, to below 1.
          guide_tolerance: in 8-bit levels of the channel that changed most: above the noise of the camera.
          depth_tolerance: as a part of the depth: above the noise of the sensor, super-resolved.
        """
        if not 0 <= strength < 1:
            raise InputError(f"the temporal strength is {strength:g}: 0 (no blending) to below 1 is needed")
        if not (guide_tolerance > 0 and depth_tolerance > 0):
            raise InputError(
                f"the temporal tolerances are {guide_tolerance:g} and {depth_tolerance:g}: above 0 is needed"
            )
        self.strength = strength
        self.guide_tolerance = guide_tolerance
        self.depth_tolerance = depth_tolerance
        self.reset()

    def reset(self) -> None:
        """Forgets the last frame, as after a cut."""
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def blend(
        self, depth: Num[np.ndarray, "H W"], guide: Num[np.ndarray, "H W c"], mask: Bool[np.ndarray, "H W"]
    ) -> Num[np.ndarray, "H W"]:
        """The next frame, steadied. A frame of another size than the last starts anew.

        Args:
          depth: unsigned or floating point.
          guide: uint8, uint16, or floating point in [0, 1].
          mask: True where depth is known. What is not known, now or before, is left as it is.

        Returns:
          (H, W), dtype of `depth`.
        """
        if guide.shape[:2] != depth.shape or mask.shape != depth.shape:
            raise InputError(
                f"the depth has shape {depth.shape}, its guide {guide.shape[:2]} and its mask {mask.shape}: they must "
                "be the same"
            )
        colour = _eight_bits(guide)
        new = np.where(mask, depth, 0).astype(np.float32)
        if self._last is not None and self._last[1].shape == colour.shape:
            last, last_colour, last_mask = self._last
            both = mask & last_mask
            trust = self.strength * self._same(new, last, both, colour, last_colour)
            new += trust * (last - new)
        self._last = new, colour, mask.copy()
        result = np.rint(new) if depth.dtype.kind == "u" else new
        return np.where(mask, result.astype(depth.dtype), depth)

    def _same(
        self, new: np.ndarray, last: np.ndarray, both: np.ndarray, colour: np.ndarray, last_colour: np.ndarray
    ) -> Any:
        """How far nothing has changed, from 0 to 1: (H, W) float32; 0 but where `both` depths are known."""
        import cv2  # slow to import, and who blends nothing needs it never

        def ramp(change: Any, tolerance: float) -> Any:
            return np.clip(2 - cv2.blur(change, (SIDE, SIDE)) / np.float32(tolerance), 0, 1)

        colour_change = np.zeros(new.shape, np.float32)
        if colour.size:
            colour_change += cv2.absdiff(colour, last_colour).reshape(*new.shape, -1).max(-1)
        off = np.abs(new - last)
        # At most 1000, as by a depth of nearly 0: the sums of `blur` are to hold the neighbours as well.
        depth_change = off / np.maximum(np.maximum(np.abs(last), off / 1000), np.finfo(np.float32).tiny)
        depth_change[~both] = 0  # it is not known, and its neighbours must not suffer
        same = ramp(colour_change, self.guide_tolerance) * ramp(depth_change, self.depth_tolerance)
        same[~both] = 0
        return same


def _eight_bits(guide: np.ndarray) -> np.ndarray:
    """Levels from 0 to 255, a copy: the caller may write over the guide."""
    if guide.dtype == np.uint8:
        return guide.copy()
    if guide.dtype == np.uint16:
        return (guide >> 8).astype(np.uint8)
    return np.rint(guide * 255).astype(np.uint8)
