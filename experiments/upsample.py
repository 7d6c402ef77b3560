"""`ahmf upsample`: files in, files out."""

from pathlib import Path

import numpy as np

from ahmf_jax import resample, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.files import read_depth, read_guide, write_depth, write_picture
from experiments.pictures import depth_colours, side_by_side


def upsample_file(
    weights: Path,
    depth: Path,
    guide: Path,
    out: Path,
    *,
    picture: Path | None = None,
    invalid: float | None = None,
    depth_range: float | None = None,
    max_pixels: int = 2**24,
) -> None:
    """Super-resolves one depth file; see `Upsampler.__call__` for what happens to dtype, unit and holes.

    The size of the guide is checked before anything is computed, and every output is written whole or not at all.
    """
    upsampler = upsample.load(weights)
    depth_lr = read_depth(depth, max_pixels)
    colour = read_guide(guide, max_pixels)
    for path in (out, picture):  # before minutes of work, not after
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}: create it or write elsewhere")
    try:
        depth_hr = upsampler(depth_lr, colour, invalid=invalid, depth_range=depth_range)
    except InputError as error:
        raise InputError(f"{depth} with {guide}: {error}") from None
    write_depth(out, depth_hr)
    if picture is not None:
        write_picture(picture, comparison(depth_lr, colour, depth_hr, invalid))


def comparison(
    depth_lr: np.ndarray, guide: np.ndarray, depth_hr: np.ndarray, invalid: float | None = None
) -> np.ndarray:
    """Guide, bicubic up-sampling and result side by side, one colour scale for both depths; (H, W, 3) uint8."""

    def known(depth: np.ndarray) -> np.ndarray:
        finite = np.isfinite(depth)
        return finite if invalid is None else finite & (depth != invalid)

    filled = fill_holes(depth_lr, known(depth_lr))
    bicubic = resample.resize(filled[..., None], depth_hr.shape, "matlab_bicubic")[..., 0]
    mask = known(depth_hr)
    low, high = float(depth_hr[mask].min()), float(depth_hr[mask].max())
    return side_by_side(
        [
            ("guide", guide),
            ("bicubic", depth_colours(bicubic, low, high)),
            ("AHMF", depth_colours(depth_hr, low, high, mask)),
        ]
    )
