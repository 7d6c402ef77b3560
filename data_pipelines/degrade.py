"""From a high-resolution depth map and its colour guide to what sensors would have given.

A `Degradation` says everything about it, and is what a protocol prints. The kernels are those of
`ahmf_jax.resample`, by name. Holes travel along: a mask says which samples are known, in both resolutions.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.fields import check, rule

# Written out, not derived from `ahmf_jax.resample`, so that a command line's help can list them; a test compares.
Kernel = Literal[
    "matlab_bicubic",
    "pillow_bicubic",
    "torch_bicubic",
    "torch_bilinear",
    "nearest_first",
    "nearest_center",
    "nearest_last",
    "area",
]

# A step between neighbours above this part of the range is a depth edge.
EDGE_STEP = 0.01
# Rounding must not turn a block that is exactly half known, or a sample with one known part in 32 x 32, around.
_SLACK = 1e-5
# No kernel reads further than this many low-resolution samples beyond its own.
_REACH = 2
# Output samples whose weights are multiplied at once: nearly all of the whole matrix is zero.
_BAND = 16


@dataclass(frozen=True)
class Degradation:
    """How low resolution and the guide are made; whatever is not named is off."""

    kernel: Kernel = "matlab_bicubic"
    """How the depth is shrunk."""
    lr_from: Literal["image", "patch"] = "image"
    """What is shrunk: the whole image, or a training patch alone, whose border then shows."""
    noise_sigma: float = field(
        default=0.0,
        metadata=rule(least=0, most=1, unit="in parts of the range or span: 5 grey levels of 255 are 5 / 255"),
    )
    """Standard deviation of Gaussian noise, in parts of what `noise_of` names; noisy depth is clipped to that."""
    noise_of: Literal["range", "image"] = field(default="range", metadata=rule(never={"noise_sigma": (0.0,)}))
    """`range`: from 0 to the data set's range; `image`: from the smallest to the largest known depth of the image."""
    tof_sigma: float = field(default=0.0, metadata=rule(least=0, most=1, unit="in parts of the range"))
    """Standard deviation at the end of the range, in parts of it, of noise that grows with the square of depth."""
    flying_pixels: float = field(
        default=0.0, metadata=rule(least=0, most=1, unit="a share of the samples at depth edges")
    )
    """Share of the samples at depth edges that become a random mixture of foreground and background."""
    multipath_blur: float = field(default=0.0, metadata=rule(least=0, most=64, unit="in low-resolution samples"))
    """Standard deviation, in low-resolution samples, of the Gaussian by which stray light mixes depths."""
    dropouts: float = field(
        default=0.0, metadata=rule(least=0, most=0.99, unit="a share of the low-resolution samples")
    )
    """Share of the low-resolution samples that is lost."""
    lidar_lines: int = field(
        default=0, metadata=rule(least=0, most=2**16, unit="low-resolution rows, 0 for all of them")
    )
    """Evenly spaced low-resolution rows that alone are measured, over the image's height; 0: all rows are."""
    guide_shift: int = field(default=0, metadata=rule(least=-1024, most=1024, unit="in pixels to the right"))
    """Pixels by which the guide lies too far to the right; negative: to the left."""
    guide_blur: float = field(default=0.0, metadata=rule(least=0, most=64, unit="in pixels"))
    """Standard deviation of the guide's Gaussian blur, in pixels."""
    guide_exposure: float = field(default=0.0, metadata=rule(least=-8, most=8, unit="in stops"))
    """Stops by which the guide is over-exposed; negative: under-exposed."""
    reduce: int = field(default=1, metadata=rule(least=1, most=16))
    """The truth is what is stored made so many times smaller, by the same kernel (colour by area); low resolution is
    made of what is stored, not of the truth."""

    def __post_init__(self) -> None:
        """Checks the choices and the numbers."""
        check(self)

    def __str__(self) -> str:
        """One line that names the protocol: the kernel, and whatever is on."""
        span = {"range": "the range", "image": "the image's span"}[self.noise_of]
        parts = (
            f"LR by {self.kernel}",
            self.lr_from == "patch" and "of the patch alone",
            self.reduce > 1 and f"of {self.reduce} times the resolution of the truth",
            self.multipath_blur and f"multi-path blur {self.multipath_blur:g} samples",
            self.flying_pixels and f"flying pixels at {self.flying_pixels:g} of the edge samples",
            self.tof_sigma and f"ToF noise {self.tof_sigma:g} of the range at its end",
            self.noise_sigma and f"noise {self.noise_sigma:g} of {span}",
            self.lidar_lines and f"{self.lidar_lines} LiDAR lines",
            self.dropouts and f"dropouts {self.dropouts:g}",
            self.guide_shift and f"guide {self.guide_shift:+d} px to the right",
            self.guide_blur and f"guide blurred by {self.guide_blur:g} px",
            self.guide_exposure and f"guide exposed by {self.guide_exposure:+g} stops",
        )
        return ", ".join(part for part in parts if part)


def measure(
    depth: np.ndarray,
    mask: np.ndarray,
    scale: int,
    degradation: Degradation,
    depth_range: float,
    span: np.ndarray,
    rng: np.random.Generator,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """What the sensor reports of a depth map, in the order in which it comes about.

    1. The kernel averages or samples: `degrade`.
    2. Stray light mixes what is far apart (Mure-Dubois and Huegli, CCMVS 2007, who model it as a Gaussian too; here
       it mixes depths, for which they take the complex signal).
    3. Samples at depth edges see both sides: each such sample, by chance, reports a random mixture of the smallest
       and the largest depth of its 3 x 3 neighbourhood before 2.
    4. ToF noise of standard deviation `tof_sigma * depth ** 2 / depth_range`: it is inverse to the amplitude of the
       returned light (Lange and Seitz, IEEE J. Quantum Electronics 2001), which falls with the square of distance.
       It has a meaning for distances, not for disparities.
    5. Gaussian noise, `clip(depth + N(0, sigma), low, high)` on depth that goes from 0 to 1 (AHMF, Table II). Only
       with this noise is anything clipped.
    6. Rows and samples are lost, and filled from the nearest of those that remain. Where none remains, depth is 0.

    Args:
      depth: (H, W) floating point, in the data set's unit, holes filled. H and W are multiples of `scale`.
      mask: (H, W) bool, True where the depth is known.
      scale: the factor, at least 1.
      degradation: what the sensor does. `lr_from` is the caller's: whether `depth` is an image or a patch.
      depth_range: the data set's range, in its unit.
      span: (2,) the smallest and largest known depth of the image, for `noise_of="image"`.
      rng: where all chance comes from. What is drawn for one effect does not depend on any other.
      rows, columns: the part of the low-resolution map that is wanted: up to rounding, what cutting the whole
        result would give, but for chance and for what fills lost samples, which is taken from the part.

    Returns:
      `(depth_lr, mask_lr)`, (h, w) float32 and bool, mask False where lost or never known.

    Raises:
      InputError: sizes that `scale` does not divide.
    """
    how = degradation
    # Keys are always drawn, and for all effects. `rng.spawn` will not do: its children do not follow from the
    # generator's state, which who gives it may have set (Grain does).
    names = ("flying_pixels", "tof_sigma", "noise_sigma", "dropouts")
    keys = dict(zip(names, rng.integers(0, 2**64, len(names), np.uint64), strict=True))

    def chance(effect: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=keys[effect]))

    size = tuple(n // scale for n in depth.shape)
    parts = [slice(*part.indices(n)[:2]) for part, n in zip((rows, columns), size, strict=True)]
    reach = _reach(how)
    window = [slice(max(part.start - reach, 0), min(part.stop + reach, n)) for part, n in zip(parts, size, strict=True)]
    inside = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(parts, window, strict=True))
    averaged, known = degrade(depth, mask, scale, how.kernel, *window)
    depth_lr, mask_lr = averaged[inside], known[inside]
    if how.multipath_blur:
        depth_lr = _blur(averaged, how.multipath_blur)[inside]
    if how.flying_pixels:
        import cv2  # slow to import, and most protocols need it never

        neighbours = np.ones((3, 3), np.uint8)
        low, high = cv2.erode(averaged, neighbours)[inside], cv2.dilate(averaged, neighbours)[inside]
        lot, share = chance("flying_pixels").random((2, *depth_lr.shape), np.float32)
        mixed = (high - low > EDGE_STEP * depth_range) & (lot < how.flying_pixels)
        depth_lr = np.where(mixed, low + share * (high - low), depth_lr)
    if how.tof_sigma:
        normal = chance("tof_sigma").standard_normal(depth_lr.shape, np.float32)
        depth_lr = depth_lr + normal * depth_lr**2 * np.float32(how.tof_sigma / depth_range)
    if how.noise_sigma:
        least, most = (0.0, depth_range) if how.noise_of == "range" else (float(end) for end in span)
        noise = chance("noise_sigma").standard_normal(depth_lr.shape, np.float32)
        noise *= np.float32(how.noise_sigma * (most - least))
        depth_lr = np.clip(noise + depth_lr, least, most)
    if how.lidar_lines:
        lines = np.zeros(size[0], bool)
        lines[((np.arange(how.lidar_lines) + 0.5) * (size[0] / how.lidar_lines)).astype(int)] = True
        mask_lr = mask_lr & lines[parts[0], None]
    if how.dropouts:
        mask_lr = mask_lr & (chance("dropouts").random(depth_lr.shape, np.float32) >= how.dropouts)
    if how.lidar_lines or how.dropouts:
        depth_lr = fill_holes(depth_lr, mask_lr) if mask_lr.any() else np.zeros_like(depth_lr)
    return depth_lr, mask_lr


def degrade(
    depth: np.ndarray,
    mask: np.ndarray,
    scale: int,
    kernel: str,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks a depth map and its mask by a whole factor.

    Args:
      depth: (H, W) floating point, any unit, holes filled (see `ahmf_jax.holes`). H and W are multiples of `scale`.
      mask: (H, W) bool, True where the depth is known.
      scale: the factor, at least 1.
      kernel: one of `resample.KERNELS`.
      rows, columns: the part of the low-resolution map that is wanted. It is what cutting the whole result would
        give, up to the rounding of float32, but only the samples it depends on are read.

    Returns:
      `(depth_lr, mask_lr)`, both (h, w), float32 in the same unit and bool:
      `area` is the mean of the known samples of each block, known where there is one; `nearest_*` takes a sample and
      its mask; the bicubic kernels weigh filled samples like known ones, and the result counts as known where at
      least half of the block is.

    Raises:
      InputError: an unknown kernel, or sizes that `scale` does not divide.
    """
    height, width = depth.shape
    if scale < 1 or height % scale or width % scale:
        raise InputError(f"scale {scale} does not divide {height} x {width}: crop the image to a multiple of it")
    size = (height // scale, width // scale)
    rows, columns = (slice(*part.indices(n)[:2]) for part, n in zip((rows, columns), size, strict=True))

    def shrink(values: np.ndarray, kernel: str, only: np.ndarray | None = None) -> np.ndarray:
        top, vertical = _bands(size[0], scale, kernel, rows)
        left, horizontal = _bands(size[1], scale, kernel, columns)
        part = slice(top, top + vertical[-1].read.stop), slice(left, left + horizontal[-1].read.stop)
        read = values[part] if only is None else np.where(only[part], values[part], 0)
        return _product(horizontal, _product(vertical, read.astype(np.float32, copy=False)).T).T

    depth_lr = shrink(depth, kernel)
    if mask[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale].all():
        return depth_lr, np.ones(depth_lr.shape, bool)
    if kernel == "area":
        known = shrink(mask, "area")
        mask_lr = known > _SLACK
        # Where a whole block is unknown, the mean of what fills it stays.
        return np.where(mask_lr, shrink(depth, "area", only=mask) / np.where(mask_lr, known, 1), depth_lr), mask_lr
    known = shrink(mask, kernel if kernel.startswith("nearest") else "area")
    return depth_lr, known >= 0.5 - _SLACK


class _Band(NamedTuple):
    """Some rows of a kernel's matrix, cut to the columns that are not zero: `out[write] = weights @ read`."""

    write: slice
    read: slice
    weights: np.ndarray


def _product(bands: tuple[_Band, ...], values: np.ndarray) -> np.ndarray:
    """A kernel along the first axis."""
    out = np.empty((bands[-1].write.stop, values.shape[1]), np.float32)
    for write, read, weights in bands:
        np.matmul(weights, values[read], out=out[write])
    return out


def _bands(size: int, scale: int, kernel: str, part: slice) -> tuple[int, tuple[_Band, ...]]:
    """The part of the kernel's matrix for `size` samples: (first HR sample that is read, the matrix from there on)."""
    # Away from the border the weights are the same everywhere, so those of a smaller image serve all places.
    start, stop = max(part.start - _REACH, 0), min(part.stop + _REACH, size)
    first, bands = _cached_bands(stop - start, scale, kernel, part.start - start, part.stop - start)
    return start * scale + first, bands


@functools.lru_cache(maxsize=64)
def _cached_bands(size: int, scale: int, kernel: str, start: int, stop: int) -> tuple[int, tuple[_Band, ...]]:
    matrix = resample.matrix(size * scale, size, kernel)[start:stop].astype(np.float32)
    ends = np.array([np.flatnonzero(row)[[0, -1]] for row in matrix])
    begin = ends.min()
    bands = []
    for top in range(0, len(matrix), _BAND):
        band = slice(top, min(top + _BAND, len(matrix)))
        low, high = ends[band].min(), ends[band].max() + 1
        bands.append(_Band(band, slice(low - begin, high - begin), matrix[band, low:high].copy()))
    return int(begin), tuple(bands)


def degrade_guide(guide: np.ndarray, degradation: Degradation, rows: slice, columns: slice) -> np.ndarray:
    """The guide as another camera would have taken it: displaced, out of focus, wrongly exposed.

    Args:
      guide: (H, W, 3) uint8, sRGB; or (H, W, 0), where there is no colour.
      degradation: what to do. Beyond the image's border its outermost pixels go on.
      rows, columns: the part that is wanted, in pixels, both ends given; it is what cutting the whole result gives.

    Returns:
      (rows, columns, 3 or 0) uint8; a view where nothing is to be done.
    """
    if not guide.size:
        return guide[rows, columns]
    how = degradation
    reach = _radius(how.guide_blur)
    part = _part(
        guide,
        slice(rows.start - reach, rows.stop + reach),
        slice(columns.start - reach - how.guide_shift, columns.stop + reach - how.guide_shift),
    )
    if reach:
        part = _blur(part, how.guide_blur)[reach:-reach, reach:-reach]
    return _exposure(how.guide_exposure)[part] if how.guide_exposure else part


def truth(
    guide: np.ndarray, depth: np.ndarray, mask: np.ndarray, degradation: Degradation, rows: slice, columns: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is to be found at high resolution, of an image at `degradation.reduce` times that resolution.

    Args:
      guide, depth, mask: of the image as it is stored, holes filled.
      degradation: its `reduce`, its kernel, and what it does to the guide (in pixels of the image as it is stored).
      rows, columns: the part that is wanted, in pixels of the result, both ends given.

    Returns:
      `(guide, depth, mask)` of that part; views where nothing is to be done.
    """
    factor = degradation.reduce
    stored = times(rows, factor), times(columns, factor)
    guide = degrade_guide(guide, degradation, *stored)
    if factor == 1:
        return guide, depth[stored], mask[stored]
    height, width, channels = guide.shape
    blocks = guide.reshape(height // factor, factor, width // factor, factor, channels)
    guide = np.rint(blocks.mean((1, 3), dtype=np.float32)).astype(np.uint8)
    return guide, *degrade(depth, mask, factor, degradation.kernel, rows, columns)


def times(part: slice, factor: int) -> slice:
    """A part of an axis, both ends given, in units of which so many make one."""
    return slice(part.start * factor, part.stop * factor)


def margin(degradation: Degradation, scale: int) -> int:
    """How far around a patch it is made of the image, in low-resolution samples of `scale` pixels as stored."""
    how = degradation
    measured = _REACH + _reach(how) if how.lr_from == "image" else 0
    reduced = _REACH * how.reduce if how.reduce > 1 else 0
    return max(measured, math.ceil(max(reduced, _radius(how.guide_blur) + abs(how.guide_shift)) / scale))


def _reach(degradation: Degradation) -> int:
    """How far apart samples are that have a say in each other once they are averaged."""
    return max(_radius(degradation.multipath_blur), 1 if degradation.flying_pixels else 0)


def _part(image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A part of an image whose outermost pixels go on beyond it: a view unless it reaches there."""
    (height, width), y, x = image.shape[:2], (rows.start, rows.stop), (columns.start, columns.stop)
    if min(*y, *x) >= 0 and y[1] <= height and x[1] <= width:
        return image[rows, columns]
    return image[np.ix_(np.arange(*y).clip(0, height - 1), np.arange(*x).clip(0, width - 1))]


def _radius(sigma: float) -> int:
    """How far a Gaussian is summed."""
    return math.ceil(3 * sigma)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a (H, W) or (H, W, C) float32 or uint8 image, the outermost samples going on beyond it."""
    import cv2  # slow to import, and most protocols need it never

    side = 2 * _radius(sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


@functools.lru_cache(maxsize=16)
def _exposure(stops: float) -> np.ndarray:
    """(256,) uint8: what each sRGB value becomes where 2 ** stops times the light falls (IEC 61966-2-1, clipped)."""
    value = np.arange(256) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.minimum(light * 2.0**stops, 1)
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(value * 255).astype(np.uint8)
