"""`ahmf doctor --depth`: what looks wrong with a depth map and its guide, before a network is asked.

Nothing here changes a file. Each finding says how sure it is; `docs/doctor.md` has how often that was right on images
of which the truth is known.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.fitting import MAX_FACTOR
from ahmf_jax.holes import fill_holes
from data_pipelines.files import read_depth, read_guide
from experiments.doctor_alignment import find_alignment
from experiments.doctor_kernel import compare_kernel, find_kernel, find_kernel_by_truth
from experiments.doctor_values import find_holes, find_meaning, find_saturation, find_step, find_unit, sparse
from experiments.findings import Finding

GUESSED_SCALE = 4
# Larger maps are looked at in parts: those with this many samples around the middle serve the kernel and the truth.
MOST_SIDE = 1024


@dataclass(frozen=True)
class Model:
    """What there is to know of the model that the depth is for."""

    scale: int
    range: float
    unit: str
    scaling: str
    kernel: str | None
    """By which its training data was shrunk; None where it has no record of it."""


def examine(
    depth: np.ndarray,
    guide: np.ndarray | None = None,
    *,
    scale: int | None = None,
    invalid: float | None = None,
    truth: np.ndarray | None = None,
    model: Model | None = None,
) -> list[Finding]:
    """Everything that is found.

    Args:
      depth: (h, w), as stored.
      guide: (H, W, 3) uint8, of the same view.
      scale: by which the depth was shrunk; None: the guide's size tells it, or the model.
      invalid: the value that means unknown, where that is known already.
      truth: (scale * h, scale * w), the depth in high resolution.
      model: that it is for.

    Raises:
      InputError: `truth` is not a whole number of times as large as `depth`.
    """
    sizes, factor = _find_size(depth.shape, guide, scale, model)
    holes = find_holes(sparse(depth), invalid)
    unknown = [finding.value for finding in holes if finding.value is not None and finding.sure != "possible"]
    known = np.isfinite(depth)
    for value in [*unknown, invalid]:
        if value is not None and math.isfinite(value):
            known &= depth >= 0 if value < 0 else depth != value
    found = [*sizes, *holes]
    if not known.any():
        return found
    few, few_known = sparse(depth), sparse(known)
    if not few_known.any():
        few, few_known = depth, known
    unit, meaning = find_unit(few, few_known), find_meaning(few, few_known)
    if meaning.value == "disparity" and unit.value not in (None, "none"):
        unit = dataclasses.replace(unit, says=f"{unit.says}, were it not a disparity", sure="possible")
    step, levels = find_step(few, few_known)
    found += [unit, meaning]
    if model is not None:
        found += _find_range(few, few_known, unit, model)
    found += [*find_saturation(few, few_known), *levels]
    if len(np.unique(few[few_known])) < 2:
        return found
    if guide is not None and min(factor) >= 1:
        if _is_depth(depth, known, guide):
            says = "the guide shows the depth map itself, or one much like it, not colours of the scene"
            return [*found, Finding("guide", says, "likely", True, "give the colour image of the same view", "depth")]
        found += find_alignment(fill_holes(depth, known), known, guide)
    whole = round(factor[0]) if factor else 1
    if truth is not None:
        kernel = _by_truth(depth, known, truth, unknown if invalid is None else [*unknown, invalid])
    elif whole > 1:
        middle = _middle(depth.shape, MOST_SIDE)
        if not known[middle].any():
            return found
        kernel = find_kernel(fill_holes(depth[middle], known[middle]), known[middle], whole, step)
    else:
        return found
    found.append(kernel)
    differs = compare_kernel(kernel, model.kernel) if model is not None and model.kernel else None
    return found if differs is None else [*found, differs]


def _find_size(
    size: tuple[int, ...], guide: np.ndarray | None, scale: int | None, model: Model | None
) -> tuple[list[Finding], tuple[float, float]]:
    """What the sizes tell, and the factor between them (down, across)."""
    wanted = scale or (model.scale if model else None)
    if guide is None:
        said = wanted or GUESSED_SCALE
        return [Finding("size", f"{size[1]} x {size[0]}")], (float(said), float(said))
    (height, width), (tall, wide) = size, guide.shape[:2]
    factor = (tall / height, wide / width)
    sizes = f"the guide is {wide} x {tall}, the depth {width} x {height}"
    if max(factor) <= 1:
        same = "as large as" if factor == (1, 1) else "smaller than"
        remedy = "exchange the two files" if same != "as large as" else "give the depth before it was enlarged"
        says = f"{sizes}: the guide is {same} the depth; there is nothing to super-resolve"
        return [Finding("size", says, "certain", True, remedy, factor)], factor
    nearest = round(math.sqrt(factor[0] * factor[1]), 3)
    off = max(abs(tall - nearest * height), abs(wide - nearest * width))
    if off > max(1.0, nearest):
        turned = abs(tall / width - wide / height) <= 0.02 * tall / width
        says = f"{sizes}: {factor[1]:.4g} times as wide and {factor[0]:.4g} times as high"
        remedy = "turn the guide by 90 degrees" if turned else "--fit crop, if the two have the same centre"
        return [Finding("size", says, "certain", True, remedy, factor)], factor
    whole = round(nearest)
    if (tall, wide) != (whole * height, whole * width):
        close = abs(nearest - whole) * max(size) <= whole
        remedy = "--fit resample, or --fit crop" if close else f"--factor {nearest:g}"
        if not close and (round(nearest * height), round(nearest * width)) != (tall, wide):
            remedy += " --fit resample"
        says = f"{sizes}: {nearest:.4g} times, not a whole number"
        return [Finding("size", says, "certain", True, remedy, factor)], factor
    if wanted not in (None, whole):
        says = f"{sizes}: x{whole}, and not x{wanted}"
        remedy = f"--factor {whole}" if whole <= MAX_FACTOR else "a smaller guide"
        return [Finding("size", says, "certain", True, remedy, factor)], factor
    return [Finding("size", f"{sizes}: x{whole}", value=factor)], factor


def _find_range(depth: np.ndarray, known: np.ndarray, unit: Finding, model: Model) -> list[Finding]:
    """Whether the values suit the model's range."""
    from ahmf_jax.units import in_metres

    if model.scaling != "range":
        return [Finding("range", "the model stretches each map over its own span: unit and range do not matter")]
    most = float(depth[known].max())
    guess = None if unit.value in (None, "none") else UNIT_OPTIONS.get(unit.value, unit.value)
    own, theirs = (in_metres(name) if name else None for name in (guess, model.unit))
    if own and theirs and not math.isclose(own, theirs):
        reach = most * own / theirs
        says = f"in {guess}, where the model has {model.unit}: to {reach:.3g} of its {model.range:g}"
        further = "" if reach <= model.range else f" --range {most:.4g}"
        quoted = f'"{guess}"' if guess and " " in guess else guess
        return [Finding("range", says, unit.sure, True, f"--unit {quoted}{further}", guess)]
    if most > 1.001 * model.range:
        says = f"values reach {most:.4g}, beyond the model's {model.range:g} {model.unit}"
        return [Finding("range", says, "certain", True, f"--range {most:.4g}, or the sensor's end of range", most)]
    if most < 0.02 * model.range:
        says = f"values reach {most:.4g}, under a fiftieth of the model's range of {model.range:g} {model.unit}"
        return [Finding("range", says, "likely", True, "check the unit (--unit), or --range", most)]
    return [Finding("range", f"within the model's {model.range:g} {model.unit}", value=most)]


# How the units that files are stored in are written as an option.
UNIT_OPTIONS = {"1/5000 m": "0.2 mm", "1/256 m": "3.90625 mm"}


def _is_depth(depth: np.ndarray, known: np.ndarray, guide: np.ndarray) -> bool:
    """Whether the guide, made small, is the depth map but for brightness."""
    import cv2

    small = cv2.resize(np.ascontiguousarray(guide), depth.shape[::-1], interpolation=cv2.INTER_AREA)
    grey = small.mean(2)[known]
    return bool(np.ptp(grey) and abs(np.corrcoef(grey, depth[known].astype(np.float64))[0, 1]) > 0.98)


def _by_truth(depth: np.ndarray, known: np.ndarray, truth: np.ndarray, unknown: list[float]) -> Finding:
    (height, width), (tall, wide) = depth.shape, truth.shape
    scale = tall // height
    if scale < 2 or (tall, wide) != (scale * height, scale * width):
        raise InputError(
            f"--truth is {wide} x {tall} and the depth {width} x {height}: the truth must be a whole number of times "
            "as large; crop it"
        )
    rows, columns = _middle(depth.shape, MOST_SIDE)
    truth = truth[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
    truth_known = np.isfinite(truth) & ~np.isin(truth, unknown)
    part, part_known = depth[rows, columns], known[rows, columns]
    if not (truth_known.any() and part_known.any()):
        return Finding("kernel", "cannot be told: nothing is known in the middle of truth and depth", "possible")
    return find_kernel_by_truth(fill_holes(part, part_known), part_known, fill_holes(truth, truth_known), truth_known)


def _middle(size: tuple[int, ...], most: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(0, (n - most) // 2), max(0, (n - most) // 2) + min(n, most)) for n in size)
    return rows, columns


def examine_files(
    depth: Path,
    guide: Path | None = None,
    *,
    scale: int | None = None,
    invalid: float | None = None,
    truth: Path | None = None,
    weights: Path | None = None,
    max_pixels: int = 2**26,
) -> list[Finding]:
    """Reads the files, and `examine`s them.

    Raises:
      InputError: a file cannot be read, and it is not that depth and guide were exchanged.
    """
    if scale is not None and not 2 <= scale <= MAX_FACTOR:
        raise InputError(f"--scale {scale}: give a whole number from 2 to {MAX_FACTOR:g}")
    try:
        values = read_depth(depth, max_pixels)
    except InputError:
        if guide is not None and _readable(guide, depth, max_pixels):
            says = f"{depth} holds colours, and {guide} a depth map: they are exchanged"
            return [Finding("files", says, "certain", True, f"--depth {guide} --guide {depth}", "exchanged")]
        raise
    return examine(
        values,
        None if guide is None else read_guide(guide, max_pixels),
        scale=scale,
        invalid=invalid,
        truth=None if truth is None else read_depth(truth, max_pixels),
        model=None if weights is None else model_of(weights),
    )


def _readable(depth: Path, guide: Path, max_pixels: int) -> bool:
    try:
        read_depth(depth, max_pixels)
        read_guide(guide, max_pixels)
    except InputError:
        return False
    return True


def model_of(weights: Path) -> Model:
    """What a run or a weights file tells of its model. InputError where it is neither."""
    from ahmf_jax.upsample import load_trained
    from experiments.methods import trained_on

    trained, degrade = load_trained(weights), trained_on(weights)
    kernel = None if degrade is None else degrade.kernel
    return Model(trained.model.scale, trained.range, trained.unit, trained.scaling, kernel)


def report(depth: Path, guide: Path | None, found: list[Finding]) -> str:
    """The findings as they are printed, and the options that they come to."""
    wrong = [finding for finding in found if finding.wrong]
    lines = [f"{depth}{f' with {guide}' if guide else ''}", *map(str, found)]
    options = dict.fromkeys(f.remedy for f in wrong if f.remedy.startswith("--") and "," not in f.remedy)
    lines.append(f"{len(wrong)} to put right" if wrong else "nothing to put right")
    if options:
        lines[-1] += f": ahmf upsample ... {' '.join(options)}"
    return "\n".join(lines)
