"""What a report shows of DADA's diffusion: of which evaluations, of which image, and of which part of it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.comparison import Comparison, number
from experiments.config import DADAConfig
from experiments.evaluations import Evaluation, read_images
from experiments.report import images, models, progress
from experiments.report.pixels import webp

if TYPE_CHECKING:
    from experiments.diffusion_pictures import Diffusion

SIDE = 384  # pixels of the part, a multiple of every scale: the whole of a large image takes a minute
WIDE = 400  # pixels: no picture on the page is shown wider

Shown = models.Shown["Diffusion"]
# What is to be shown: the method's name, its evaluation and the image's name.
Wanted = tuple[str, Evaluation, str]
# What was computed, by the folder of the evaluation and the image, for what shows the same again.
Computed = dict[tuple[Path | None, str], "Shown"]


def diffusions(
    comparisons: Sequence[tuple[Comparison, Sequence[str]]], computed: Computed | None = None
) -> list[list[Shown]]:
    """The diffusion of every DADA that was measured, for each comparison; how far that is stands on stderr meanwhile.

    Args:
      comparisons: with the names of images, of each of which a DADA shows the first that it kept, or the first of them
        that is computed.
      computed: is not computed again, and what is new is added to it.
    """
    computed = {} if computed is None else computed
    wanted = [_wanted(comparison, names, computed) for comparison, names in comparisons]
    new = {_key(one): one for some in wanted for one in some if _key(one) not in computed}
    if new:
        _compute(new, computed)
    return [[computed[_key(one)] for one in some] for some in wanted]


def _key(wanted: Wanted) -> tuple[Path | None, str]:
    _, evaluation, name = wanted
    return evaluation.folder, name


def _wanted(comparison: Comparison, names: Sequence[str], computed: Computed) -> list[Wanted]:
    """What is to be shown of a comparison."""
    found: list[Wanted] = []
    for row, evaluation in images.methods(comparison):
        kept = evaluation.kept()
        having = [(row.method, evaluation, name) for name in names if name in kept]
        if having and is_dada(evaluation):
            found.append(next((one for one in having if _key(one) in computed), having[0]))
    return found


def _compute(new: Mapping[Any, Wanted], computed: Computed) -> None:
    """Computes them, and shows how far that is: each takes seconds."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # its parts are no whole numbers
    with progress.bar("diffusion", len(new), bar_format=layout) as bar:

        def show(before: int, done: int, count: int) -> None:
            bar.update(before + done / count - bar.n)

        for i, (key, (method, evaluation, name)) in enumerate(new.items()):
            progress.say(bar, f"diffusion {i + 1} of {len(new)}: {method}, x{evaluation.scale}, on {name}")
            show(i, 0, 1)
            computed[key] = _shown(method, evaluation, name, functools.partial(show, i))
            show(i, 1, 1)


def is_dada(evaluation: Evaluation) -> bool:
    """Whether a DADA was measured, as far as the record or its weights say."""
    return models.model_of(evaluation) == DADAConfig.name


def _shown(method: str, evaluation: Evaluation, name: str, show: Callable[[int, int], None]) -> Shown:
    """The diffusion of a kept image. InputError where the image is damaged.

    Weights that are gone are said, and that there is no memory for it. `show` is told how far it is.
    """
    from ahmf_jax.upsample import load_trained
    from experiments import diffusion_pictures
    from experiments.figures import worst_part
    from experiments.windows import part

    (arrays,) = read_images([evaluation], name)
    truth = np.where(arrays["mask_hr"], arrays["depth_hr"], np.nan)
    crop = worst_part(np.abs(arrays["floor"] - truth), SIDE, evaluation.scale)
    shown = functools.partial(Shown, method, name, evaluation.scale)

    def run() -> tuple[str, "Diffusion"]:
        trained = load_trained(models.weights_of(evaluation))
        low, known, guide = (arrays[of] for of in ("depth_lr", "mask_lr", "guide"))
        options: Any = {"truth": truth, "unit": evaluation.unit, "crop": crop, "progress": show}
        return trained.origin, diffusion_pictures.watch(trained, low, known, guide, **options)

    made, why = models.attempt(f"The diffusion of {method}", run)
    if made is None:
        return shown(None, why)
    origin, found = made
    height, width = truth.shape
    off = float(np.abs(found.depths[-1] - part(arrays["prediction"], crop, height)).mean(dtype=np.float64))
    rounded = evaluation.protocol_fields.get("rounding") == "uint8"
    remark = ", which the protocol rounds" if rounded else ""
    text = f"{models.which_part(name, crop, height, width)} "
    text += models.how_far(evaluation, origin, off, found.unit, remark)
    mae = next(image.metrics.get("mae", math.nan) for image in evaluation.images if image.name == name)
    if (found.is_part or rounded) and not math.isnan(mae):
        here = " and ".join([*["of this part"] * found.is_part, *["of depth that is not rounded"] * rounded])
        text += f" The errors below are {here}; the MAE that was measured on all of {name} is {number('mae', mae)}"
        text += f" {found.unit}."
    return shown(found, text)


def figure_of(shown: Shown) -> tuple[bytes, bytes]:
    """The figure of a diffusion that could be computed, as PDF and as PNG."""
    from experiments import diffusion_pictures, figures

    assert shown.found is not None
    return figures.files(diffusion_pictures.figure(shown.found))


def of_page(shown: Shown) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template has of a diffusion, and what `diffusion.js` is told: {} where it cannot be shown."""
    from experiments.diffusion_pictures import grey
    from experiments.pictures import depth_colours, heat_colours

    found = shown.found
    if found is None:
        return {"title": shown.title, "text": shown.text, "shown": False}, {}

    def depth(values: np.ndarray) -> str:
        return webp(depth_colours(values, *found.span, np.isfinite(values)), 75, WIDE)

    depths = [depth(values) for values in found.depths]
    texts = [": ".join(filter(None, (count_text(found, i), error_text(found, i)))) for i in range(len(found.counts))]
    template = {
        "title": shown.title,
        "text": shown.text,
        "shown": True,
        "unit": found.unit,
        "alt": described(shown),
        "aspect": found.truth.shape[1] / found.truth.shape[0],
        "guide": webp(found.guide, 80, WIDE),
        "truth": depth(found.truth),
        "cv": webp(grey(found.cv), 80, WIDE),
        "ch": webp(grey(found.ch), 80, WIDE),
        "stills": [
            {"count": count_text(found, i), "error": error_text(found, i), "picture": depths[i]} for i in found.stills
        ],
        "frames": len(found.counts),
        "last": texts[-1],
        "low": f"{found.span[0]:.4g}",
        "high": f"{found.span[1]:.4g}",
        "largest": f"{found.largest:g}",
        "errors": has_errors(found),
    }
    frames = [{"text": text, "depth": picture} for text, picture in zip(texts, depths, strict=True)]
    if not has_errors(found):
        return template, {"frames": frames}
    for i, frame in enumerate(frames):
        frame["error"] = webp(heat_colours(found.error(i), found.largest), 75, WIDE)
    return template, {"frames": frames, "curve": curve(shown)}


def has_errors(found: "Diffusion") -> bool:
    """Whether the truth is known anywhere."""
    return not math.isnan(found.errors[0])


def curve(shown: Shown) -> dict[str, Any]:
    """The error over the iterations as a chart of `drawCurves`; the first is a line, as a logarithm has no 0."""
    found = shown.found
    assert found is not None
    counts, errors = list(found.counts), list(found.errors)
    before = {"name": "before the first iteration", "run": 0, "floor": True}
    series = [
        {"name": shown.method, "run": 0, "floor": False, "x": counts[1:], "y": errors[1:]},
        {**before, "x": [1, counts[-1]], "y": [errors[0]] * 2},
    ]
    return {
        "title": f"{found.measure} over the iterations: {shown.title}",
        "across": "iterations",
        "logarithmic": True,
        "axis": f"{found.measure} ({found.unit})",
        "log": False,
        "series": series,
    }


def count_text(found: "Diffusion", i: int) -> str:
    """How many iterations there were."""
    count = found.counts[i]
    return f"{count:,} iteration{'s' * (count != 1)}"


def error_text(found: "Diffusion", i: int) -> str:
    """The error after them, whose unit stands elsewhere; empty where the truth is not known."""
    return f"{found.measure} {found.errors[i]:#.4g}" if has_errors(found) else ""


def described(shown: Shown) -> str:
    """The pictures in words, for who does not see them."""
    found = shown.found
    assert found is not None
    said = f"The diffusion of {shown.title}, from interpolated depth to {found.counts[-1]:,} iterations"
    if not has_errors(found):
        return said
    return f"{said}: {found.measure} {found.errors[0]:#.4g} before, {found.errors[-1]:#.4g} {found.unit} after"
