"""What the values of a depth map say of themselves: what means unknown, the unit, what they measure, and what is lost.

Much of it is guesswork on statistics, and says so. All of it reads at most `MOST_SAMPLES`, evenly spread.
"""

import math
from typing import NamedTuple

import numpy as np

from experiments.findings import Finding, Sure

MOST_SAMPLES = 2**21
# Part of the samples that a value must have to stand out, and how much of what lies about it must be the value itself.
SHARE, ALONE = 5e-4, 0.8
# Part of the span of the other values: what is near, what is far off, and how much of a hole's rim may be near.
NEAR, FAR, NEAR_RIM = 0.05, 0.25, 0.3
FEW_LEVELS = 64
# Widest windows in which a slanted plane may still be one, in samples, and how far it must slope, in parts of itself.
WINDOW, SLOPE = 10, 0.08


class Units(NamedTuple):
    """A unit of depth: its name, how many of it are a metre, and from where to where its scenes mostly reach, in m."""

    name: str
    per_metre: float
    near: float
    far: float


METRES = Units("m", 1, 0.2, 120)
STORED = (
    Units("mm", 1000, 0.2, 20),
    Units("1/5000 m", 5000, 0.4, 12),
    Units("1/256 m", 256, 3, 120),
)


def sparse(depth: np.ndarray) -> np.ndarray:
    """Every n-th row and column, so that at most `MOST_SAMPLES` are left."""
    every = max(1, math.ceil(math.sqrt(depth.size / MOST_SAMPLES)))
    return depth[::every, ::every]


def find_holes(depth: np.ndarray, invalid: float | None = None) -> list[Finding]:
    """The values that seem to mean unknown; `value` of each finding.

    Args:
      depth: (h, w), as stored.
      invalid: what is said to mean unknown already.
    """
    found = []
    finite = np.isfinite(depth)
    for name, odd in (("nan", np.isnan(depth)), ("inf", np.isinf(depth))):
        if odd.any() and not _same(float(name), invalid):
            share = f"{_percent(odd.mean())} of the samples are {name}: unknown"
            # Infinity is no value that a map may keep: `--invalid` compares, and knows one value only.
            remedy = "--invalid nan" if name == "nan" else "store nan in their place, and --invalid nan"
            found.append(Finding("holes", share, "certain", True, remedy, float(name)))
    values = depth[finite]
    if not values.size:
        return [Finding("holes", "no sample is a finite number", "certain", True, "give another file", float("nan"))]
    largest = float(np.iinfo(depth.dtype).max) if depth.dtype.kind == "u" else float(values.max())
    for value in dict.fromkeys((0.0, -1.0, float(values.min()), largest)):
        here = depth == depth.dtype.type(value) if value >= 0 or depth.dtype.kind == "f" else np.zeros_like(finite)
        others = finite & ~here
        if not here.any() or not others.any() or _same(value, invalid):
            continue
        special = value in (0, -1) or (depth.dtype.kind == "u" and value == largest)
        sure = _stands_out(depth, here, others, special)
        if sure:
            says = f"{_percent(here.mean())} of the samples are {value:g}, apart from all others: it means unknown"
            found.append(Finding("holes", says, sure, True, f"--invalid {value:g}", value))
    negative = finite & (depth < 0) & (depth != -1)
    if negative.any() and not any(finding.value < 0 for finding in found) and not (invalid is not None and invalid < 0):
        found.append(
            Finding(
                "holes",
                f"{_percent(negative.mean())} of the samples are below 0, to {depth[negative].min():g}: no depth is",
                "certain",
                True,
                "turn the sign, or store nan in their place and --invalid nan",
                float(depth[negative].min()),
            )
        )
    zeros, above = (depth == 0).mean(), values[values > 0]
    if not found and zeros >= SHARE and above.size and not _same(0.0, invalid):
        # A disparity may well be 0, a depth is not: which of the two this is, its values alone do not say.
        says = f"none for certain, but {_percent(zeros)} of the samples are 0, the smallest above {above.min():g}"
        found.append(Finding("holes", says, "possible", remedy="--invalid 0, if they mean unknown"))
    if not found:
        says = "none found" if invalid is None else f"none but {invalid:g}"
        found.append(Finding("holes", says, "likely"))
    return found


def _stands_out(depth: np.ndarray, here: np.ndarray, others: np.ndarray, special: bool) -> Sure | None:
    """Whether the samples of one value are no measurement, as their value and their neighbours tell."""
    values = depth[others].astype(np.float64)
    value = float(depth[here][0])
    low, high = np.quantile(values, (0.001, 0.999))
    span = max(high - low, 1e-12)
    share, around = here.mean(), (np.abs(values - value) <= NEAR * span).sum() / depth.size
    alone = share / (share + around)
    gap = max(low - value, value - high)
    if special and gap >= FAR * span and here.sum() >= 4:
        return "certain"
    # Not far off; but all around it are values that are not near.
    if special and share >= SHARE and alone > ALONE and _near_rim(depth, here, others, span) < NEAR_RIM:
        return "likely"
    if not special and gap >= 2 * FAR * span and share >= SHARE:
        return "likely"
    return None


def _near_rim(depth: np.ndarray, here: np.ndarray, others: np.ndarray, span: float) -> float:
    """Part of the samples beside those of the one value that are near it, as they are where depth runs up to it."""
    near = count = 0
    value = float(depth[here][0])
    for axis in (0, 1):
        for first, second in (
            (here.take(range(here.shape[axis] - 1), axis), slice(1, None)),
            (here.take(range(1, here.shape[axis]), axis), slice(None, -1)),
        ):
            part = (second, slice(None)) if axis == 0 else (slice(None), second)
            rim = first & others[part]
            near += int((np.abs(depth[part][rim].astype(np.float64) - value) <= NEAR * span).sum())
            count += int(rim.sum())
    return near / count if count else 1.0


def find_unit(depth: np.ndarray, known: np.ndarray) -> Finding:
    """Guesses the unit; `value` is "mm", "m", "1/5000 m", "1/256 m", "none" (grey levels and the like) or None."""
    values = depth[known].astype(np.float64)
    low, middle, high = np.quantile(values, (0.01, 0.5, 0.99))
    spans = f"{low:.4g} to {high:.4g}"
    whole = depth.dtype.kind == "u" or bool((values == np.rint(values)).all())
    if depth.dtype == np.uint8 or (whole and values.max() <= 255):
        says = f"grey levels, {spans}: a disparity or a scaled depth; 8 bits do not tell the unit"
        return Finding("unit", says, "likely", value="none")
    if whole or high > 300:
        fitting = [u for u in STORED if u.near <= low / u.per_metre and high / u.per_metre <= u.far]
        if not fitting:
            says = f"{spans}: no usual unit makes a scene of this; a disparity, or stretched over the bits?"
            return Finding("unit", says, "possible")
        first, *rest = fitting
        says = f"{spans}: {_reach(first, low, high)}" + "".join(f"; or {_reach(unit, low, high)}" for unit in rest)
        # Which of several: nothing but the custom tells.
        return Finding("unit", says, "possible" if rest else "likely", value=first.name)
    if high <= 1 and low >= 0:
        return Finding("unit", f"{spans}: parts of a range, or metres close by", "possible", value="none")
    if METRES.near <= low and high <= 30:
        return Finding("unit", f"{spans}: metres", "likely" if middle <= 15 else "possible", value="m")
    return Finding("unit", f"{spans}: metres out of doors, pixels of disparity, or grey levels", "possible")


def _reach(unit: Units, low: float, high: float) -> str:
    return f"in {unit.name}, {low / unit.per_metre:.2g} to {high / unit.per_metre:.2g} m"


def find_meaning(depth: np.ndarray, known: np.ndarray) -> Finding:
    """Whether larger is farther (depth) or nearer (disparity, inverse depth); `value` is "depth", "disparity" or None.

    Two signs, told only where they agree. Of a plane it is the inverse depth that is linear in the image, so that in
    windows on slanted planes the disparity is flatter than its inverse. And most cameras see the ground before them
    below, the far above.
    """
    if known.sum() < WINDOW**2:
        return Finding("meaning", "cannot be told: too few samples", "possible")
    planes, windows = _straighter(depth.astype(np.float64), known)
    rows = [np.median(line[mask]) for line, mask in zip(depth, known, strict=True) if mask.sum() > line.size / 4]
    below = float(np.corrcoef(np.arange(len(rows)), rows)[0, 1]) if len(rows) > 3 and np.ptp(rows) else 0.0
    signs = {"disparity": 0, "depth": 0}
    if windows >= 5 and abs(planes) > 0.02:
        signs["disparity" if planes < 0 else "depth"] += 1
    if abs(below) > 0.5:
        signs["disparity" if below > 0 else "depth"] += 1
    both = all(signs.values())
    if both or not any(signs.values()):
        why = "its planes and its rows contradict each other" if both else "no slanted planes, and no ground below"
        return Finding("meaning", f"depth or disparity: cannot be told ({why})", "possible")
    value = max(signs, key=lambda name: signs[name])
    larger = "nearer (disparity or inverse depth)" if value == "disparity" else "farther (depth)"
    told = {2: "slanted planes and the rows from top to bottom", 1: "one sign of two"}[signs[value]]
    return Finding(
        "meaning", f"larger seems to be {larger}, by {told}", "likely" if signs[value] == 2 else "possible", value=value
    )


def _straighter(depth: np.ndarray, known: np.ndarray) -> tuple[float, int]:
    """Median over windows of log(residual of the plane through the values / through the inverses), and their number."""
    if min(depth.shape) < WINDOW:
        return 0.0, 0
    every = max(WINDOW // 2, int(math.sqrt(depth.size / 4000)))
    windows, whole = (
        np.lib.stride_tricks.sliding_window_view(each, (WINDOW, WINDOW))[::every, ::every].reshape(-1, WINDOW**2)
        for each in (depth, known & (depth > 0))
    )
    windows = windows[whole.all(1)]
    windows = windows[np.ptp(windows, 1) > SLOPE * windows.mean(1)]
    rows, columns = np.mgrid[:WINDOW, :WINDOW].reshape(2, -1) - (WINDOW - 1) / 2
    basis = np.stack(
        [np.full(WINDOW**2, 1 / WINDOW), rows / np.linalg.norm(rows), columns / np.linalg.norm(columns)], 1
    )

    def residual(values: np.ndarray) -> np.ndarray:
        left = values - values @ basis @ basis.T
        return np.sqrt((left**2).mean(1)) / np.maximum(values.std(1), 1e-300)

    own, inverse = residual(windows), residual(1 / windows)
    plane = np.minimum(own, inverse) < 0.15
    if not plane.any():
        return 0.0, 0
    ratio = np.log(np.maximum(own[plane], 1e-9) / np.maximum(inverse[plane], 1e-9))
    return float(np.median(ratio)), int(plane.sum())


def find_saturation(depth: np.ndarray, known: np.ndarray) -> list[Finding]:
    """Says where the largest value stands for all that is larger; it is the value."""
    values = depth[known]
    top = values.max()
    bits = depth.dtype.kind == "u" and top == np.iinfo(depth.dtype).max
    # A wall in front of the camera has one value too; a limit is a round number or the largest of the type.
    if not bits and float(top) % (1000 if top >= 1000 else 1):
        return []
    share = (values == top).mean()
    below = values[values < top]
    if share < 0.005 or not below.size:
        return []
    span = float(top) - float(np.quantile(below, 0.01))
    if (below >= float(top) - 0.02 * span).mean() > share:
        return []
    says = f"{_percent(share)} of the samples are {float(top):g}, the largest value: what is beyond is cut off"
    return [
        Finding("saturation", says, "likely" if bits else "possible", True, f"--invalid {float(top):g}", float(top))
    ]


def find_step(depth: np.ndarray, known: np.ndarray) -> tuple[float, list[Finding]]:
    """The step between two values that occur (0: continuous), and what is wrong with it; the value is their number."""
    values = np.unique(depth[known])
    if len(values) < 2:
        says = "all known samples are alike"
        return 0.0, [Finding("levels", says, "certain", True, "give another file", len(values))]
    span = float(values[-1]) - float(values[0])
    if depth.dtype.kind == "u":
        step = float(np.gcd.reduce(np.diff(values.astype(np.int64))))
    else:
        # Floats of stored levels have gaps; 2**12 of them are as good as none.
        gaps = np.diff(values.astype(np.float64))
        step = float(np.median(gaps)) if len(values) < min(2**12, 0.1 * known.sum()) else 0.0
    if step and span / step < FEW_LEVELS and known.sum() > 16 * FEW_LEVELS:
        says = f"only {round(span / step) + 1} levels from {values[0]:g} to {values[-1]:g}: surfaces are staircases"
        return step, [
            Finding("levels", says, "certain", True, "store it in more bits, before it is rounded", len(values))
        ]
    if depth.dtype.kind == "u" and step > 1:
        says = (
            f"only multiples of {step:g} (and an offset) occur: {round(span / step) + 1} levels in {depth.dtype.name}"
        )
        return step, [Finding("levels", says, "certain", value=len(values))]
    if step and depth.dtype.kind == "f":
        return step, [
            Finding("levels", f"{len(values)} different values: rounded before it was stored", value=len(values))
        ]
    return step, []


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _same(value: float, invalid: float | None) -> bool:
    return invalid is not None and (value == invalid or (math.isnan(value) and math.isnan(invalid)))
