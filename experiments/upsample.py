"""`ahmf upsample`: files in, files out."""

from pathlib import Path

import numpy as np

from ahmf_jax import resample, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.files import WRITABLE, read_depth, read_guide, write_depth, write_picture
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
    # Before minutes of work, not after.
    kind = depth_lr.dtype.name
    if kind not in WRITABLE.get(out.suffix.lower(), ()):
        holders = " or ".join(suffix for suffix, kinds in WRITABLE.items() if kind in kinds)
        raise InputError(f"{out}: the result is {kind} as {depth} is, which is written as {holders}: change the suffix")
    if picture is not None and picture.suffix.lower() != ".png":
        raise InputError(f"{picture}: a picture is written as .png: change the suffix")
    for path, others in ((out, (depth, guide)), (picture, (depth, guide, out))):
        if path is not None:
            check_place(path)
            if path.resolve() in [other.resolve() for other in others]:
                raise InputError(f"{path}: is named twice, and would be overwritten: choose another name")
    try:
        depth_hr = upsampler(depth_lr, colour, invalid=invalid, depth_range=depth_range)
    except InputError as error:
        raise InputError(f"{depth} with {guide}: {error}") from None
    write_depth(out, depth_hr)
    if picture is not None:
        write_picture(picture, comparison(depth_lr, colour, depth_hr, invalid))


def check_place(path: Path) -> None:
    """InputError where a file to be written has no folder, or is one."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}: create it or write elsewhere")
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file")


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
