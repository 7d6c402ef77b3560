"""By which kernel a depth map was shrunk: from its steps alone, or from the high resolution, where that is known.

A step in depth, seen in a line of eight samples with two level ones at each end, shows the kernel: sampling leaves it
sharp, block means leave one value between the levels, an antialiased bicubic overshoots on both sides by a few percent,
and one that is not antialiased by 9 % or not at all, by where the step lies in its sample. Each kernel is given all
places of a step, sharp or a ramp of a few pixels, and the kernel under which the lines are likeliest is named.
"""

import functools
import math

import numpy as np

from ahmf_jax import resample
from data_pipelines.degrade import degrade
from experiments.findings import Finding

# Told from steps alone, kernels of one family look the same.
FAMILIES = {
    "nearest": ("nearest_first", "nearest_center", "nearest_last"),
    "area": ("area",),
    "bicubic": ("matlab_bicubic", "pillow_bicubic"),
    "torch_bicubic": ("torch_bicubic",),
    "soft": (),
}
LOOKS = {
    "nearest": "sharp, as samples are (nearest_first, nearest_center or nearest_last)",
    "area": "with one value between the levels, as block means have them (area)",
    "bicubic": "with overshoots, as an antialiased bicubic has them (matlab_bicubic or pillow_bicubic)",
    "torch_bicubic": "with overshoots at some places only, as a bicubic without antialiasing has them (torch_bicubic)",
    "soft": "softer than any kernel leaves them: smoothed, enlarged from less, or a sensor's own",
}
LINE = 8
RAMPS = (0, 1, 2, 4)  # pixels of the high resolution over which a true step may run
SPREAD = 0.02  # of a step: how far a line may lie from a kernel's
OUTLIER = 100.0  # density of lines that no kernel makes: corners, thin things
MOST_LINES = 600
FEWEST_LINES = 20
# Lines along one edge are nearly the same, so that their differences tell less than their number says.
CERTAIN, LIKELY = 8.0, 3.0


def find_kernel(depth: np.ndarray, known: np.ndarray, scale: int, step: float) -> Finding:
    """Names the kernel's family from the low resolution alone; it is the value, or None where nothing can be told.

    Args:
      depth: (h, w) floating point, holes filled.
      known: (h, w) bool; lines with unknown samples do not count.
      scale: the factor by which it was shrunk.
      step: between two values that the depth can have; 0 for continuous depth.
    """
    responses, error = _lines(depth.astype(np.float64), known, step)
    if len(responses) < FEWEST_LINES:
        return Finding("kernel", f"cannot be told: only {len(responses)} clean steps in depth", "possible")
    spread = np.hypot(SPREAD, error / 2)[:, None]
    likely = {}
    for family in FAMILIES:
        distance = ((responses[:, None] - _templates(family, scale)) ** 2).sum(-1) / (2 * spread**2)
        likely[family] = np.log(np.exp(-distance).mean(1) / spread[:, 0] ** 4 + OUTLIER)
    best, second = sorted(likely, key=lambda family: -likely[family].sum())[:2]
    gain = likely[best] - likely[second]
    clear = gain.sum() / max(math.sqrt(float((gain**2).sum())), 1e-12)
    outside = np.mean(likely[best] < math.log(2 * OUTLIER))
    if clear < LIKELY or outside > 0.8:
        return Finding(
            "kernel",
            f"cannot be told: of {len(gain)} steps in depth, some look {LOOKS[best].split(':')[0]}; others do not",
            "possible",
        )
    says = f"{len(gain)} steps in depth look {LOOKS[best]}; the next likeliest is {second}"
    return Finding("kernel", says, "likely" if clear >= CERTAIN else "possible", value=best)


def find_kernel_by_truth(depth: np.ndarray, known: np.ndarray, truth: np.ndarray, truth_known: np.ndarray) -> Finding:
    """Names the kernel with which the true high resolution gives this low one; its name is the value.

    Args:
      depth, known: (h, w), holes filled, and the mask.
      truth, truth_known: (scale * h, scale * w) likewise.
    """
    scale = truth.shape[0] // depth.shape[0]
    errors = {}
    for kernel in resample.KERNELS:
        made, _ = degrade(truth, truth_known, scale, kernel)
        # Nothing that comes from filled samples.
        whole = degrade(truth_known.astype(np.float32), np.ones_like(truth_known), scale, "area")[0] > 0.999
        both = _shrunk(whole & known)
        if not both.any():
            return Finding("kernel", "cannot be told: truth and depth have no neighbourhood that both know", "possible")
        errors[kernel] = float(np.sqrt(np.mean((made - depth)[both] ** 2)))
    best, second, *_ = sorted(errors, key=lambda kernel: errors[kernel])
    spread = float(np.std(depth[known]))
    figures = ", ".join(f"{kernel} {error:.3g}" for kernel, error in sorted(errors.items(), key=lambda item: item[1]))
    if errors[best] > 0.1 * spread:
        return Finding(
            "kernel",
            f"no kernel gives this depth from the truth: RMSE {figures}",
            "likely",
            True,
            "check that both show the same view in the same unit",
        )
    same = errors[second] < 1.05 * errors[best] + 1e-6 * spread
    says = f"{best}{f' or {second}' if same else ''}: RMSE to the truth shrunk by {figures}"
    return Finding("kernel", says, "likely" if same else "certain", value=best)


def compare_kernel(found: Finding, trained: str) -> Finding | None:
    """What it means that a model was trained on the low resolution of the kernel `trained`."""
    names = FAMILIES.get(found.value, (found.value,))
    if found.value is None or trained in names:
        return None
    return Finding(
        "kernel",
        f"the model was trained on {trained}, and this depth seems to be of {' or '.join(names) or 'none of them'}",
        found.sure,
        True,
        f"use weights that were trained on it (ahmf train ... --data.degrade.kernel {(*names, 'area')[0]})",
        found.value,
    )


@functools.lru_cache(maxsize=32)
def _templates(family: str, scale: int) -> np.ndarray:
    """(n, 4): the middle samples of all the lines of a step from 0 to 1 whose steepest part is in the middle."""
    position = np.arange(6 * scale, 10 * scale, 0.125)
    if family == "soft":
        from scipy import special

        sigma, place = (each.ravel() for each in np.meshgrid([0.7, 0.85, 1.0, 1.2], np.linspace(-0.5, 0.5, 9)))
        lines = special.ndtr((np.arange(16) - 7.5 - place[:, None]) / sigma[:, None])
    else:
        pixel = np.arange(16 * scale)[:, None]
        steps = [
            ((pixel - position) / ramp + 0.5).clip(0, 1) if ramp else (pixel >= position).astype(float)
            for ramp in RAMPS
        ]
        lines = (resample.matrix(16 * scale, 16, FAMILIES[family][-1]) @ np.concatenate(steps, 1)).T
    middle = np.abs(np.diff(lines)).argmax(1) == 7
    return np.unique(lines[middle, 6:10], axis=0) if family == "soft" else lines[middle, 6:10]


def _lines(depth: np.ndarray, known: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) the middles of lines with one step, from 0 to 1, and (n,) the rounding in parts of the step."""
    low, high = np.quantile(depth[known], (0.01, 0.99))
    found, heights = [], []
    for values, mask in ((depth, known), (depth.T, known.T)):
        if values.shape[1] < LINE:
            continue
        line = np.lib.stride_tricks.sliding_window_view(values, LINE, axis=1)
        slopes = np.abs(np.diff(values))
        slope = np.lib.stride_tricks.sliding_window_view(slopes, LINE - 1, axis=1)
        height = line[..., -2:].mean(-1) - line[..., :2].mean(-1)
        size = np.abs(height)
        good = np.lib.stride_tricks.sliding_window_view(mask, LINE, axis=1).all(-1)
        good &= (slope.argmax(-1) == LINE // 2 - 1) & (size >= max(0.1 * (high - low), 16 * step)) & (size > 0)
        good &= np.maximum(slope[..., 0], slope[..., -1]) <= np.maximum(SPREAD * size, 1.01 * step)
        chosen, of = line[good], height[good]
        found.append((chosen[:, 2:6] - chosen[:, :2].mean(1, keepdims=True)) / of[:, None])
        heights.append(np.abs(of))
    middles, size = np.concatenate(found or [np.empty((0, 4))]), np.concatenate(heights or [np.empty(0)])
    every = slice(None, None, max(1, math.ceil(len(middles) / MOST_LINES)))
    return middles[every], step / size[every]


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """Where the mask holds together with all that a kernel reads, two samples each way; not at the border."""
    from scipy import ndimage

    return ndimage.binary_erosion(mask, np.ones((5, 5), bool))
