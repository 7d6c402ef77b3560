"""What a report shows of a model's stages and gates: of which evaluations, which images, and which part of them."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.comparison import Comparison, number
from experiments.config import MODELS
from experiments.evaluations import Evaluation, ImageNumbers, read_images
from experiments.pictures import depth_colours, heat_colours
from experiments.protocols import Protocol
from experiments.report import images, models, progress
from experiments.report.pixels import webp

if TYPE_CHECKING:
    from experiments.stage_pictures import Stages


Shown = models.Shown["Stages"]


def stages(comparisons: Sequence[tuple[Comparison, Sequence[str]]]) -> list[list[Shown]]:
    """The stages of every model that makes some, on each of the images of these names that it kept, by comparison.

    How far that is stands on stderr meanwhile.
    """
    wanted = [
        [
            (row.method, evaluation, name)
            for row, evaluation in images.methods(comparison)
            if makes_stages(evaluation)
            for name in names
            if name in evaluation.kept()
        ]
        for comparison, names in comparisons
    ]
    if not any(wanted):
        return [[] for _ in wanted]
    with progress.bar("stages", sum(map(len, wanted)), unit="image") as bar:

        def shown(method: str, evaluation: Evaluation, name: str) -> Shown:
            progress.say(bar, f"stages: {method}, x{evaluation.scale}, on {name}")
            found = _shown(method, evaluation, name)
            bar.update()
            return found

        return [[shown(*one) for one in some] for some in wanted]


def makes_stages(evaluation: Evaluation) -> bool:
    """Whether a model was measured of a kind that makes stages on its way, as far as the record or its weights say."""
    cls = MODELS.get(models.model_of(evaluation))
    return cls is not None and cls().stages > 0


def _shown(method: str, evaluation: Evaluation, name: str) -> Shown:
    """The stages on a kept image. InputError where the image is damaged."""
    from ahmf_jax.upsample import load_trained
    from experiments import stage_pictures
    from experiments.figures import worst_part
    from experiments.windows import part

    (arrays,) = read_images([evaluation], name)
    truth = np.where(arrays["mask_hr"], arrays["depth_hr"], np.nan)
    scale = evaluation.scale
    crop = worst_part(np.abs(arrays["floor"] - truth), stage_pictures.SIDE // scale * scale, scale)
    fields = evaluation.protocol_fields
    protocol = Protocol(rounding=fields.get("rounding", "none"), clip=bool(fields.get("clip")))
    kernel = fields.get("degrade", {}).get("kernel", protocol.degrade.kernel)
    measure = stage_pictures.Measure(evaluation.unit, depth_range(evaluation.images), protocol, kernel)

    def run() -> tuple[str, "Stages"]:
        trained = load_trained(models.weights_of(evaluation))
        low, known, guide = (arrays[of] for of in ("depth_lr", "mask_lr", "guide"))
        return trained.origin, stage_pictures.watch(trained, low, known, guide, truth, measure, crop)

    shown = functools.partial(Shown, method, name, scale)
    made, why = models.attempt(f"The stages of {method}", run)
    if made is None:
        return shown(None, why)
    origin, found = made
    height, width = truth.shape
    off = found.stages[-1].depth - part(arrays["prediction"], crop, height)
    text = f"{models.which_part(name, crop, height, width)} "
    text += models.how_far(evaluation, origin, float(np.abs(off).mean(dtype=np.float64)), evaluation.unit)
    text += f" A stage's truth is made by {kernel}, as the low resolution."
    if found.is_part:
        measured = next(image.metrics for image in evaluation.images if image.name == name)
        whole = ", ".join(
            f"{metric.upper()} {number(metric, measured[metric])}{f' {unit}' if unit else ''}"
            for metric, unit in (("psnr", "dB"), ("rmse", evaluation.unit))
            if math.isfinite(measured.get(metric, math.nan))
        )
        text += f" The numbers below are of this part; on all of {name} the output was measured as {whole}."
    return shown(found, text)


def depth_range(numbers: Sequence[ImageNumbers]) -> float:
    """The range of the depth, of which a record's PSNR, 20 log10(range / RMSE), tells; NaN where none does."""
    for metrics in (metrics for image in numbers for metrics in (image.metrics, image.floor)):
        psnr, rmse = (metrics.get(name, math.nan) for name in ("psnr", "rmse"))
        if math.isfinite(psnr) and rmse > 0:
            return float(f"{rmse * 10 ** (psnr / 20):.6g}")
    return math.nan


def of_page(shown: Shown) -> dict[str, Any]:
    """What the template has of it."""
    found = shown.found
    if found is None:
        return {"title": shown.title, "text": shown.text, "shown": False}

    def depth(values: np.ndarray) -> str:
        return webp(depth_colours(values, *found.span, np.isfinite(values)), lossless=True)

    height, width = found.stages[-1].depth.shape
    return {
        "title": shown.title,
        "text": shown.text,
        "shown": True,
        "alt": described(shown),
        "aspect": width / height,
        "unit": found.measure.unit,
        "low": depth(found.low),
        "low_size": found.low_size,
        "stages": [
            {
                "name": stage.name,
                "size": stage.size,
                "text": found.text(stage),
                "coarse": stage.depth.shape != (height, width),
                "depth": depth(stage.depth),
                "truth": depth(stage.truth),
                "error": webp(heat_colours(stage.error, found.largest), lossless=True),
            }
            for stage in found.stages
        ],
        "least": f"{found.span[0]:.4g}",
        "most": f"{found.span[1]:.4g}",
        "largest": f"{found.largest:g}",
        "gates": [
            {"name": strip.name, "text": strip.text, "picture": webp(strip.picture(), lossless=True)}
            for strip in (found.gates.strips if found.gates else ())
        ],
    }


def described(shown: Shown) -> str:
    """The pictures in words, for who does not see them."""
    found = shown.found
    assert found is not None
    told = "; ".join(f"{stage.name} {found.text(stage) or stage.size}" for stage in found.stages)
    return f"The stages of {shown.title}: {told}"
