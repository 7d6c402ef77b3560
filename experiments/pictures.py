"""Depth and errors as colours, and pictures side by side with their names. Pillow and NumPy only."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from experiments.stage_pictures import Stages

# Anchor colours of a perceptually ordered map, dark blue (small) to yellow (large), interpolated in between.
_ANCHORS = np.array(
    [
        (20, 11, 52),
        (60, 15, 112),
        (114, 31, 129),
        (167, 50, 126),
        (222, 73, 104),
        (249, 122, 93),
        (254, 176, 120),
        (252, 236, 174),
    ],
    np.float64,
)
# The same for errors, which must not be taken for depth: black (none), blue, green, near white (large).
_HEAT = np.array(
    [(8, 8, 16), (24, 34, 92), (24, 86, 140), (32, 148, 140), (112, 204, 100), (214, 236, 110), (255, 255, 226)],
    np.float64,
)
GAP, CAPTION = 6, 22
WIDEST = 220  # of small cells that are enlarged by whole pixels, at the least, so that their captions have room


def depth_colours(depth: np.ndarray, low: float, high: float, mask: np.ndarray | None = None) -> np.ndarray:
    """(H, W) depth to (H, W, 3) uint8; `low` to `high` is the scale of colours, unknown pixels are grey."""
    position = np.clip(
        (np.where(np.isfinite(depth), depth, low).astype(np.float64) - low) / max(high - low, 1e-9), 0, 1
    )
    colours = _between(_ANCHORS, position)
    if mask is not None:
        colours[~mask] = 128
    return colours


def heat_colours(error: np.ndarray, largest: float, mask: np.ndarray | None = None) -> np.ndarray:
    """(H, W) absolute error to (H, W, 3) uint8: black is none, near white `largest` or more, grey unknown."""
    unknown = ~np.isfinite(error) if mask is None else ~mask
    colours = _between(_HEAT, np.clip(np.where(unknown, 0, error) / max(largest, 1e-9), 0, 1))
    colours[unknown] = 128
    return colours


def _between(anchors: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The colours, (..., 3) uint8, at positions 0 to 1 along the anchors."""
    position = position * (len(anchors) - 1)
    index = np.minimum(position.astype(int), len(anchors) - 2)
    part = (position - index)[..., None]
    return np.rint((1 - part) * anchors[index] + part * anchors[index + 1]).astype(np.uint8)


def error_colours(error: np.ndarray, largest: float) -> np.ndarray:
    """(H, W) absolute error to (H, W, 3) uint8: black is none, white is `largest` or more."""
    grey = np.rint(255 * np.clip(error / max(largest, 1e-9), 0, 1)).astype(np.uint8)
    return grey[..., None].repeat(3, -1)


def grid(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Rows of named pictures one above the other, shorter rows filled with white; (H, W, 3) uint8."""
    return stacked([side_by_side(row) for row in rows])


def stacked(sheets: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures one above the other, narrower ones filled with white; (H, W, 3) uint8."""
    width = max(s.shape[1] for s in sheets)
    return np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets])


def side_by_side(pictures: Sequence[tuple[str, np.ndarray]], height: int | None = None) -> np.ndarray:
    """Names and (H, W, 3) uint8 pictures in a row, brought to one height (the largest); (H', W', 3) uint8."""
    height = height or max(p.shape[0] for _, p in pictures)
    images = [
        (name, Image.fromarray(p).resize((round(p.shape[1] * height / p.shape[0]), height), Image.Resampling.NEAREST))
        for name, p in pictures
    ]
    width = sum(i.width for _, i in images) + GAP * (len(images) - 1)
    sheet = Image.new("RGB", (width, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    x = 0
    for name, image in images:
        draw.text((x + 4, 4), name, fill="black", font=ImageFont.load_default(13))
        sheet.paste(image, (x, CAPTION))
        x += image.width + GAP
    return np.asarray(sheet)


class Made(NamedTuple):
    """What a model made of an image: (1, H, W, 1) in units of the range, and its stages where it has any."""

    depth: np.ndarray
    stages: "Stages | None" = None


def validation_picture(batch: Mapping[str, np.ndarray], made: Made, height: int = 320) -> np.ndarray:
    """Guide, low resolution, prediction, truth and error of a batch of one; (H, W, 3) uint8.

    No guide where there is no colour. The stages or gates of a model that has any stand below, and the row is no wider.

    Args:
      batch: with the truth, in units of the range.
      made: of it.
      height: of the pictures, but no more than the truth's: so that a run's many do not fill a disk.
    """
    truth, mask, ours = batch["depth_hr"][0, ..., 0], batch["mask_hr"][0, ..., 0], made.depth[0, ..., 0]
    low = batch["depth_lr"][0, ..., 0]
    known = truth[mask] if mask.any() else truth
    span = float(known.min()), float(known.max())
    error = np.where(mask, np.abs(ours - truth), 0)
    guide = [("guide", np.rint(batch["guide"][0] * 255).astype(np.uint8))] if batch["guide"].shape[-1] else []
    row = [
        *guide,
        (f"depth, {low.shape[1]} x {low.shape[0]}", depth_colours(low, *span, batch["mask_lr"][0, ..., 0])),
        ("prediction", depth_colours(ours, *span)),
        ("truth", depth_colours(truth, *span, mask)),
        ("error (white: 1/10 of the span)", error_colours(error, 0.1 * (span[1] - span[0]))),
    ]
    height = min(height, truth.shape[0])
    if made.stages is None:
        return side_by_side(row, height)
    below = made.stages.picture()
    width = (below.shape[1] + GAP) // len(row) - GAP
    return stacked([side_by_side(row, min(height, max(width * truth.shape[0] // truth.shape[1], 1))), below])
