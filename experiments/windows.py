"""A part of an image as a tile of it is given to a trained model: with its margin, and what is known of the whole.

    given = window(trained, depth_lr, known, guide, crop)
    output, aux = trained.model.apply(variables, **given.images, **given.told)
    depth = given.depth(output)                                      # of the part, in the unit of `depth_lr`

So a part can be shown as it is in the whole image, without computing the whole. Of a model that `sees_whole` the window
is all of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.scaling import offset_and_span
from ahmf_jax.units import depth_of_one
from experiments.figures import Crop


@dataclass(frozen=True)
class Window:
    """What a model is given of a part of an image.

    Attributes:
      images: arguments of the model, (1, h, w, c), depth in its scale: of the part and its margin.
      told: more of them, numbers of the whole image.
      crop: the part, in pixels of the image.
      place: where it is in the window, in pixels.
      offset, span: depth in units of `one` is `span` times that in the model's scale, and `offset` more.
      one: the depth that counts as 1 before that.
    """

    images: Mapping[str, np.ndarray]
    told: Mapping[str, np.ndarray]
    crop: Crop
    place: Crop
    offset: float
    span: float
    one: float

    def inside(self, made: Any) -> np.ndarray:
        """The part, (h, w), of a map of the window that the model has made, (1, h, w, 1), which may be coarser."""
        return part(np.asarray(made)[0, ..., 0], self.place, self.images["guide"].shape[1])

    def depth(self, made: Any) -> np.ndarray:
        """The same of depth, float64 in the unit that the image is in."""
        return (self.inside(made).astype(np.float64) * self.span + self.offset) * self.one


def window(
    trained: Trained,
    depth_lr: np.ndarray,
    known: np.ndarray,
    guide: np.ndarray,
    crop: Crop | None = None,
    *,
    unit: str | None = None,
    one: float | None = None,
) -> Window:
    """What the model is given of a part of an image; of parts of one size, in images of one size, equally large.

    Args:
      trained: the model.
      depth_lr: (h, w).
      known: (h, w) bool, where it is known.
      guide: (scale * h, scale * w, C) uint8; a model that reads none takes any.
      crop: the part, at multiples of the scale; all of the image by default.
      unit: of the depth; the model's by default.
      one: the depth that counts as 1; by default what `Upsampler.run` takes for it.

    Raises:
      InputError: depth and guide that the model cannot take.
    """
    model, channels = trained.model, trained.guide_channels
    height, width = (model.scale * n for n in depth_lr.shape)
    if guide.shape[:2] != (height, width) or channels not in (0, guide.shape[2]):
        raise InputError(
            f"{model.summary()} cannot take {depth_lr.shape} samples with a guide of {guide.shape}: give one of "
            f"{height, width, channels}"
        )
    crop = crop or Crop(0, 0, width, height)
    if one is None:
        one = depth_of_one(trained, unit, None, float(np.max(np.abs(depth_lr), where=known, initial=0)))
    depth, mask = (depth_lr / one).astype(np.float32)[None, ..., None], known[None, ..., None]
    offset, span = offset_and_span(depth, mask, trained.scaling)
    scaled = ((depth - offset) / span).astype(np.float32)
    model.check(scaled, mask)

    step = math.lcm(model.scale, model.stride)
    margin = max(height, width) if model.sees_whole else step * math.ceil(model.reach * model.scale / step)
    rows = _around(crop.y, crop.height, height, margin, step, model.scale)
    columns = _around(crop.x, crop.width, width, margin, step, model.scale)

    def cut(image: np.ndarray) -> np.ndarray:
        by = height // image.shape[1]
        return image[:, *(slice(s.start // by, s.stop // by) for s in (rows, columns))]

    whole = {"depth_lr": scaled, "mask_lr": mask, "guide": guide[None, ..., :channels]}
    images = {name: cut(image) for name, image in (whole | dict(model.images_of_whole(scaled, mask))).items()}
    images["guide"] = images["guide"].astype(np.float32) / 255
    place = Crop(crop.x - columns.start, crop.y - rows.start, crop.width, crop.height)
    return Window(images, dict(model.of_whole(scaled, mask)), crop, place, offset.item(), span.item(), one)


def _around(first: int, length: int, end: int, margin: int, step: int, scale: int) -> slice:
    """A part of an axis with its margins: as long wherever it is, at a multiple of the scale, which one program serves.

    It begins at a multiple of `step`, up to `step - scale` before the margin does, and is longer by that.
    """
    long = min(length + 2 * margin + step - scale, end)
    long += (end - long) % step
    start = min(max(first - margin, 0), end - long) // step * step
    return slice(start, start + long)


def part(image: np.ndarray, crop: Crop, height: int) -> np.ndarray:
    """The part of an image, (h, w), that may be smaller than the one of that height in whose pixels the part is."""
    by = height // image.shape[0]
    y, x = crop.y // by, crop.x // by
    return image[y : y + crop.height // by, x : x + crop.width // by]
