"""A guide and a depth map of sizes that do not match: one is cut, or the guide resampled, and only when asked."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Num

from ahmf_jax import strips
from ahmf_jax.errors import InputError

Fit = Literal["crop", "resample"]
MAX_FACTOR = 32.0


class Fitted(NamedTuple):
    """What goes together.

    Attributes:
      rows, columns: the part of the depth map that is left.
      guide: (B, factor * h, factor * w, C), of that part, dtype as given; a view where it was only cut.
      corner: row and column, in the guide as given, of the first pixel that is left.
    """

    rows: slice
    columns: slice
    guide: np.ndarray
    corner: tuple[int, int] = (0, 0)


def output_size(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    """(height, width) of what a map of `size` is super-resolved to: rounded to whole pixels."""
    height, width = (round(factor * n) for n in size)
    return height, width


def check_factor(factor: float | int | None, scale: int) -> float:
    """The factor that is meant; InputError where there is no such."""
    if factor is None:
        return float(scale)
    if not 1 < factor <= MAX_FACTOR:
        raise InputError(f"the factor is {factor:g}: more than 1 and at most {MAX_FACTOR:g} is needed")
    return float(factor)


def fit_guide(
    size: tuple[int, int], guide: Num[np.ndarray, "b H W c"], factor: float, fit: Fit | None, scale: int
) -> Fitted:
    """Makes the guide `factor` times as large as the depth map.

    "crop": both images are taken to see the same at their centres, and a guide pixel to be 1 / factor of a sample. What
    remains is the depth samples that lie wholly inside the guide, and the guide over them; its place is rounded to
    whole pixels, so that it may be half a guide's pixel off. Nothing is resampled.
    "resample": both are taken to see the same field, and the guide is resampled to the wanted size. Refused where the
    two differ in shape by more than one pixel of the coarser of the guides before and after.

    Args:
      size: of the depth map, (h, w).
      guide: of any size.
      factor: how many times larger the result is than the depth.
      fit: None: a guide of another size is refused.
      scale: the model's, which a message names.

    Raises:
      InputError: the sizes do not match, and `fit` does not help.
    """
    if fit is not None and fit not in get_args(Fit):
        raise InputError(f"fit {fit!r} is not known: choose crop or resample")
    wanted, given = output_size(size, factor), guide.shape[1:3]
    whole = Fitted(slice(0, size[0]), slice(0, size[1]), guide)
    if wanted == given:
        return whole
    sizes = f"the guide is {given[1]} x {given[0]} pixels and the depth {size[1]} x {size[0]}"
    if fit is None:
        other = "" if factor == scale else f", or the model's own factor {scale}"
        raise InputError(
            f"{sizes}: at x{factor:g} the guide must be {wanted[1]} x {wanted[0]}; crop or resample one of them (--fit "
            f"crop or resample does it), give another factor (--factor){other}, or use a model of another scale"
        )
    if fit == "resample":
        by_rows, by_columns = wanted[0] / given[0], wanted[1] / given[1]
        pixel = max(1.0, by_rows, by_columns)
        if max(abs(given[0] * by_columns - wanted[0]), abs(given[1] * by_rows - wanted[1])) > pixel:
            raise InputError(
                f"{sizes}: they differ in shape by more than a pixel, so they do not see the same field; crop the one "
                "that sees more (--fit crop does it, where the pixels match and the centres are the same)"
            )
        return whole._replace(guide=strips.resize_guide(guide, wanted))

    cuts = [_crop(n, have, factor) for n, have in zip(size, given, strict=True)]
    if any(part.start >= part.stop for part, _ in cuts):
        raise InputError(f"{sizes}: at x{factor:g} no sample of the depth lies wholly inside the guide; --fit resample")
    (rows, top), (columns, left) = cuts
    height, width = output_size((rows.stop - rows.start, columns.stop - columns.start), factor)
    return Fitted(rows, columns, guide[:, top : top + height, left : left + width], (top, left))


def _crop(samples: int, pixels: int, factor: float) -> tuple[slice, int]:
    """Along one axis: the samples wholly inside the guide, and the guide's first pixel over them."""
    # In units of samples, from the common centre: the guide ends at +-pixels / (2 factor), the map at +-samples / 2.
    reach = pixels / (2 * factor)
    first = max(0, int(np.ceil(samples / 2 - reach - 1e-9)))
    last = min(samples, int(np.floor(samples / 2 + reach + 1e-9)))
    while last > first and round(factor * (last - first)) > pixels:
        last -= 1
    start = round(pixels / 2 + factor * (first - samples / 2))
    return slice(first, last), min(max(start, 0), max(0, pixels - round(factor * (last - first))))
