"""Filters that need no training: what a network has to beat. NumPy in and out; OpenCV and SciPy compute.

============================  ==========================================================================================
`guided_filter`               He, Sun and Tang, Guided image filtering, TPAMI 2013
`joint_bilateral`             Petschnig et al., SIGGRAPH 2004, of the bicubic map
`joint_bilateral_upsampling`  Kopf et al., SIGGRAPH 2007: of the low-resolution samples themselves
`fast_global_smoother`        Min et al., Fast global image smoothing based on weighted least squares, TIP 2014
`fast_bilateral_solver`       Barron and Poole, The fast bilateral solver, ECCV 2016
============================  ==========================================================================================

All but Kopf's start from the map that `START` interpolates. A filter reads no sample that is not known: holes are
filled from the nearest known sample, and then have no weight either, wherever anything known is in reach.

What one must know of OpenCV's filters (`cv2.ximgproc`, of OpenCV's contributed modules), each checked against its
equation: the guided filter takes a colour covariance whose determinant is below 1e-6 for singular, and becomes a box
blur in all but the busiest windows of a guide in 0..1, so it is given 0..255, and its regulariser in squares of that;
the joint bilateral filter adds up the differences of the channels, has a round window, and is a Gaussian blur where the
guide is constant; the global smoother takes a guide of 8 bits alone; all of them take float32 depth and do not quantise
it. The bilateral solver of OpenCV's packages is an empty shell, as they are built without Eigen, so that one is written
here, in float64.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes

START = "matlab_bicubic"

# Where known samples have less of a filter's weight than this, their weighted mean is noise, and the filtered filling
# of the hole stands instead.
LEAST_KNOWN = 0.1
# Low-resolution rows whose costs are in memory at once.
ROWS_AT_ONCE = 4
# Of the bilateral solver. At this tolerance, which takes 15 to 45 steps with the parameters below, no pixel of Art and
# Teddy is further than 1e-4 of the range from what a tolerance of 1e-12 gives; large holes take hundreds of steps.
BALANCING_STEPS, SOLVER_STEPS, SOLVER_TOLERANCE = 10, 1000, 1e-5

DepthLR = Float[np.ndarray, "h w"]
KnownLR = Bool[np.ndarray, "h w"]
Guide = Float[np.ndarray, "H W 3"]
Depth = Float[np.ndarray, "H W"]


def guided_filter(depth_lr: DepthLR, guide: Guide, known: KnownLR, *, radius: int, eps: float) -> Depth:
    """The guided filter of the interpolated map.

    Args:
      depth_lr, guide, known: low-resolution depth, holes filled; colour in 0..1; where depth is known.
      radius: of its square window, in pixels.
      eps: regulariser, in squares of the guide's unit.
    """
    levels, eps = guide * np.float32(255), eps * 255**2
    return _normalised(lambda x: _ximgproc().guidedFilter(levels, x, radius, eps), depth_lr, guide, known)


def joint_bilateral(
    depth_lr: DepthLR, guide: Guide, known: KnownLR, *, sigma_space: float, sigma_color: float
) -> Depth:
    """The joint bilateral filter of the interpolated map.

    Args:
      depth_lr, guide, known: low-resolution depth, holes filled; colour in 0..1; where depth is known.
      sigma_space: in pixels; the window reaches twice as far.
      sigma_color: in the guide's unit, of the channels' absolute differences added up.
    """
    side = 2 * math.ceil(2 * sigma_space) + 1
    return _normalised(
        lambda x: _ximgproc().jointBilateralFilter(guide, x, side, sigma_color, sigma_space), depth_lr, guide, known
    )


def joint_bilateral_upsampling(
    depth_lr: DepthLR, guide: Guide, known: KnownLR, *, radius: int, sigma_space: float, sigma_color: float
) -> Depth:
    """Joint bilateral up-sampling: each pixel the weighted mean of the low-resolution samples about it.

    S~_p = 1 / k_p sum_q S_q f(|p - q|) g(|I~_p - I~_q|), p and q in low-resolution samples, f and g Gaussians; the
    colour I~_q of a sample is the guide's at its centre, between its pixels where the scale is even.

    Args:
      depth_lr, guide, known: low-resolution depth, holes filled; colour in 0..1; where depth is known.
      radius: of the window about the sample that the pixel lies in, in samples.
      sigma_space: of f, in samples.
      sigma_color: of g, in the guide's unit, of the Euclidean difference.
    """
    (h, w), (height, width) = depth_lr.shape, guide.shape[:2]
    scale, side, border = height // h, 2 * radius + 1, (radius, radius)
    padded = np.pad(depth_lr, border)
    inside, measured = np.pad(np.ones_like(known), border), np.pad(known, border)
    low, high = (scale - 1) // 2, scale // 2  # of the pixels in a sample, the middle one, or the two about its centre
    centres = sum(guide[i::scale, j::scale] for i in (low, high) for j in (low, high)) / np.float32(4)
    colours = np.pad(centres, (border, border, (0, 0)))
    # From a pixel to the sample `offset` away from its own, in samples; the same for each sample's pixels.
    phase = (np.arange(scale) + 0.5) / scale - 0.5
    away = (np.arange(-radius, radius + 1)[:, None] - phase).astype(np.float32) ** 2 / (2 * sigma_space**2)
    out = np.empty((h, scale, w, scale), np.float32)
    pixels = guide.reshape(h, scale, w, scale, 3)
    for top in range(0, h, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, h - top)
        band = pixels[top : top + rows]
        costs = np.empty((side * side, rows, scale, w, scale), np.float32)
        values, usable, there = (np.empty((side * side, rows, 1, w, 1), dtype) for dtype in (np.float32, bool, bool))
        for index, (i, j) in enumerate(np.ndindex(side, side)):
            window = slice(top + i, top + i + rows), slice(j, j + w)
            unlike = np.square(band - colours[window][:, None, :, None]).sum(-1)
            costs[index] = unlike / (2 * sigma_color**2) + away[i][:, None, None] + away[j]
            for array, source in ((values, padded), (usable, measured), (there, inside)):
                array[index] = source[window][:, None, :, None]
        # Far from anything known, what fills the hole.
        usable = np.where(usable.any(0), usable, there)
        costs = np.where(usable, costs, np.inf)
        weights = np.exp(costs.min(0) - costs)  # of the best sample 1: they are never all zero
        out[top : top + rows] = (weights * values).sum(0) / weights.sum(0)
    return out.reshape(height, width)


def fast_global_smoother(
    depth_lr: DepthLR, guide: Guide, known: KnownLR, *, smoothness: float, sigma_color: float
) -> Depth:
    """The fast global smoother of the interpolated map, with OpenCV's three iterations.

    Args:
      depth_lr, guide, known: low-resolution depth, holes filled; colour in 0..1; where depth is known.
      smoothness: the paper's lambda.
      sigma_color: in 8-bit levels.
    """
    levels = _levels(guide)
    return _normalised(
        lambda x: _ximgproc().fastGlobalSmootherFilter(levels, x, smoothness, sigma_color), depth_lr, guide, known
    )


def fast_bilateral_solver(
    depth_lr: DepthLR,
    guide: Guide,
    known: KnownLR,
    *,
    sigma_space: int,
    sigma_luma: int,
    sigma_chroma: int,
    smoothness: float,
) -> Depth:
    """The bilateral solver on the interpolated map; holes have no confidence.

    It minimises smoothness / 2 sum W_ij (x_i - x_j)^2 + sum c_i (x_i - t_i)^2 over maps that are constant on the cells
    of a bilateral grid, W being made doubly stochastic.

    Args:
      depth_lr, guide, known: low-resolution depth, holes filled; colour in 0..1; where depth is known.
      sigma_space: side of a cell, in pixels.
      sigma_luma, sigma_chroma: sides of a cell in luminance and either chrominance, in 8-bit levels.
      smoothness: the paper's lambda.

    Raises:
      InputError: it is not solved after `SOLVER_STEPS` steps.
    """
    import cv2
    from scipy import sparse
    from scipy.sparse import linalg

    target = _start(depth_lr, guide).ravel().astype(np.float64)
    confidence = _enlarged(known, guide).ravel().astype(np.float64)
    place = np.indices(guide.shape[:2]) // sigma_space
    colour = np.moveaxis(cv2.cvtColor(_levels(guide), cv2.COLOR_RGB2YCrCb), -1, 0)
    cells = np.concatenate([place, colour[:1] // sigma_luma, colour[1:] // sigma_chroma]).astype(np.int64)
    cells = cells.reshape(len(cells), -1)
    # One number a cell, with room on either side of each axis, so that a step along an axis is a step of the number.
    strides = np.cumprod([1, *(cells[1:].max(1) + 3)[::-1]])[::-1]
    numbers, cell, sizes = np.unique(strides @ (cells + 1), return_inverse=True, return_counts=True)
    count, mass = len(numbers), sizes.astype(np.float64)

    blur = sparse.identity(count, format="csr") * (2.0 * len(cells))
    for stride in strides:
        index = np.searchsorted(numbers, numbers + stride)
        there = np.flatnonzero(numbers[np.minimum(index, count - 1)] == numbers + stride)
        step = sparse.csr_matrix((np.ones(len(there)), (there, index[there])), (count, count))
        blur = blur + step + step.T
    balance = np.ones(count)
    for _ in range(BALANCING_STEPS):
        balance = np.sqrt(balance * mass / (blur @ balance))
    # The mass of the last balance, not the count of pixels: the smoothing then leaves a constant as it is.
    scaling = sparse.diags(balance)
    smooth = sparse.diags(balance * (blur @ balance)) - scaling @ blur @ scaling

    splat = functools.partial(np.bincount, cell, minlength=count)
    certain = splat(weights=confidence)
    matrix = smoothness * smooth + sparse.diags(certain)
    diagonal = matrix.diagonal()
    jacobi = sparse.diags(1 / np.where(diagonal > 0, diagonal, 1))
    solution, unsolved = linalg.cg(
        matrix,
        splat(weights=confidence * target),
        x0=splat(weights=target) / mass,
        rtol=SOLVER_TOLERANCE,
        maxiter=SOLVER_STEPS,
        M=jacobi,
    )
    if unsolved:
        raise InputError(
            f"fast_bilateral_solver with smoothness {smoothness:g}: not solved after {SOLVER_STEPS} steps: choose less "
            "smoothness, or larger cells"
        )
    return solution[cell].reshape(guide.shape[:2]).astype(np.float32)


def _normalised(smooth: Callable[[Depth], Depth], depth_lr: DepthLR, guide: Guide, known: KnownLR) -> Depth:
    """A linear filter of the interpolated map in which holes have no weight."""
    start = _start(depth_lr, guide)
    filtered = smooth(start)
    if known.all():
        return filtered
    weights = _enlarged(known, guide).astype(np.float32)
    share = smooth(weights)
    return np.where(share > LEAST_KNOWN, smooth(weights * start) / np.maximum(share, LEAST_KNOWN), filtered)


def _start(depth_lr: DepthLR, guide: Guide) -> Depth:
    return np.ascontiguousarray(resample.resize(depth_lr[..., None], guide.shape[:2], START)[..., 0])


def _enlarged(known: KnownLR, guide: Guide) -> Bool[np.ndarray, "H W"]:
    """For each pixel whether the sample that it lies in is known."""
    scale = guide.shape[0] // known.shape[0]
    return known.repeat(scale, 0).repeat(scale, 1)


def _levels(guide: Guide) -> np.ndarray:
    """(H, W, 3) uint8: exactly what a guide of 8 bits was."""
    return np.rint(guide * 255).clip(0, 255).astype(np.uint8)


@functools.cache
def _ximgproc() -> ModuleType:
    """OpenCV's contributed filters. InputError where OpenCV was installed without them."""
    try:
        from cv2 import ximgproc
    except ImportError:
        raise InputError(
            "OpenCV has no cv2.ximgproc here: uninstall every opencv-python* package, then install "
            "opencv-contrib-python-headless (they write the same files, and the last one installed wins)"
        ) from None
    return ximgproc


Filter = Callable[..., Depth]
FILTERS: dict[str, Filter] = {
    "guided_filter": guided_filter,
    "joint_bilateral": joint_bilateral,
    "joint_bilateral_upsampling": joint_bilateral_upsampling,
    "fast_global_smoother": fast_global_smoother,
    "fast_bilateral_solver": fast_bilateral_solver,
}
LIBRARIES = {
    "guided_filter": "OpenCV",
    "joint_bilateral": "OpenCV",
    "joint_bilateral_upsampling": "NumPy",
    "fast_global_smoother": "OpenCV",
    "fast_bilateral_solver": "SciPy",
}

Parameters = Mapping[str, int | float]

# By method and scale: those of the least mean absolute error on the middle 256 x 256 pixels of six views of Middlebury
# 2006, of scenes that no recorded split tests on, found by
# `ahmf benchmark baselines --dataset middlebury --split train --scale 4 8 16`, and of the guided filter x32.
PARAMETERS: dict[str, dict[int, Parameters]] = {
    "guided_filter": {
        4: {"radius": 2, "eps": 0.0001},
        8: {"radius": 4, "eps": 0.0001},
        16: {"radius": 8, "eps": 0.0001},
        32: {"radius": 16, "eps": 0.0001},
    },
    "joint_bilateral": {
        4: {"sigma_space": 4.0, "sigma_color": 0.05},
        8: {"sigma_space": 6.0, "sigma_color": 0.05},
        16: {"sigma_space": 12.0, "sigma_color": 0.05},
    },
    "joint_bilateral_upsampling": {
        4: {"radius": 1, "sigma_space": 0.5, "sigma_color": 0.05},
        8: {"radius": 1, "sigma_space": 0.5, "sigma_color": 0.05},
        16: {"radius": 1, "sigma_space": 0.5, "sigma_color": 0.1},
    },
    "fast_global_smoother": {
        4: {"smoothness": 10.0, "sigma_color": 4.0},
        8: {"smoothness": 30.0, "sigma_color": 4.0},
        16: {"smoothness": 100.0, "sigma_color": 4.0},
    },
    "fast_bilateral_solver": {
        4: {"sigma_space": 2, "sigma_luma": 8, "sigma_chroma": 8, "smoothness": 32.0},
        8: {"sigma_space": 4, "sigma_luma": 8, "sigma_chroma": 4, "smoothness": 32.0},
        16: {"sigma_space": 8, "sigma_luma": 4, "sigma_chroma": 4, "smoothness": 32.0},
    },
}
# The same with Gaussian noise of 5 grey levels on the low-resolution depth.
NOISY: dict[str, dict[int, Parameters]] = {
    "guided_filter": {
        4: {"radius": 8, "eps": 0.0001},
        8: {"radius": 16, "eps": 1e-05},
        16: {"radius": 16, "eps": 0.0001},
        32: {"radius": 16, "eps": 0.0001},
    },
    "joint_bilateral": {
        4: {"sigma_space": 4.0, "sigma_color": 0.1},
        8: {"sigma_space": 8.0, "sigma_color": 0.1},
        16: {"sigma_space": 16.0, "sigma_color": 0.05},
    },
    "joint_bilateral_upsampling": {
        4: {"radius": 3, "sigma_space": 2.0, "sigma_color": 0.05},
        8: {"radius": 3, "sigma_space": 1.5, "sigma_color": 0.05},
        16: {"radius": 2, "sigma_space": 1.0, "sigma_color": 0.1},
    },
    "fast_global_smoother": {
        4: {"smoothness": 100.0, "sigma_color": 4.0},
        8: {"smoothness": 100.0, "sigma_color": 4.0},
        16: {"smoothness": 300.0, "sigma_color": 4.0},
    },
    "fast_bilateral_solver": {
        4: {"sigma_space": 4, "sigma_luma": 8, "sigma_chroma": 4, "smoothness": 128.0},
        8: {"sigma_space": 4, "sigma_luma": 8, "sigma_chroma": 8, "smoothness": 128.0},
        16: {"sigma_space": 8, "sigma_luma": 4, "sigma_chroma": 4, "smoothness": 128.0},
    },
}


class Classical:
    """A filter in place of a network.

    Args:
      name: a key of `FILTERS`.
      scale: the up-sampling factor.
      noisy: take the parameters that were found on low resolution with noise.
      **parameters: all of the filter's; by default those found on training scenes for the scale.

    Attributes:
      name, scale: as given.
      origin: the library, every parameter, and where they come from.
      parameters: by name.
      guided: True, as all of them are.

    Raises:
      InputError: no filter of that name; a parameter that it does not have, or not all of them; a scale that none
        were searched for.
    """

    guided = True

    def __init__(self, name: str, scale: int, *, noisy: bool = False, **parameters: int | float):
        if name not in FILTERS:
            raise InputError(f"filter {name!r} is not known: choose one of {', '.join(FILTERS)}")
        if scale < 1:
            raise InputError(f"{name} at x{scale}: the scale must be at least 1")
        searched = (NOISY if noisy else PARAMETERS)[name]
        if not parameters and scale not in searched:
            scales = ", ".join(f"x{s}" for s in searched)
            raise InputError(
                f"{name} has no parameters for x{scale} (it has them for {scales}): choose one of these, or give "
                "Classical its parameters"
            )
        wanted = [p.name for p in inspect.signature(FILTERS[name]).parameters.values() if p.kind == p.KEYWORD_ONLY]
        if parameters and sorted(parameters) != sorted(wanted):
            raise InputError(f"{name} with {', '.join(parameters)}: its parameters are {', '.join(wanted)}: give all")
        self.name = name
        self.scale = scale
        self.parameters: Parameters = parameters or searched[scale]
        values = ", ".join(f"{key} {value:g}" for key, value in self.parameters.items())
        source = "given" if parameters else f"found on training scenes{' with noise' if noisy else ''}"
        self.origin = f"{LIBRARIES[name]}, {values} ({source})"

    def batch(self, batch: Mapping[str, Any]) -> Float[np.ndarray, "b H W 1"]:
        """The depth of a batch, in units of the range.

        Raises:
          InputError: a guide that is not `scale` times as large as the depth or has no colour, or no known sample.
        """
        depth, guide, mask = (np.asarray(batch[name]) for name in ("depth_lr", "guide", "mask_lr"))
        size = tuple(self.scale * n for n in depth.shape[1:3])
        if guide.shape[1:3] != size:
            raise InputError(
                f"{self.name} at x{self.scale} of depth of {depth.shape[1]} x {depth.shape[2]}: the guide must be "
                f"{size[0]} x {size[1]}, and is {guide.shape[1]} x {guide.shape[2]}"
            )
        if not guide.shape[-1]:
            raise InputError(f"{self.name} is guided by colour, and there is none: use data with colour")
        return np.stack([self._image(*arrays) for arrays in zip(depth, guide, mask, strict=True)])[..., None]

    def _image(self, depth: np.ndarray, guide: np.ndarray, mask: np.ndarray) -> Depth:
        known = mask[..., 0].astype(bool)
        filled = fill_holes(depth[..., 0], known)
        colour = np.ascontiguousarray(guide, np.float32)
        return FILTERS[self.name](filled, colour, known, **self.parameters)
