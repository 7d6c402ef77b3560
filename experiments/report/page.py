"""The page: one HTML file with the tables, curves and viewers, its scripts, its data and Plotly inside."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image

from ahmf_jax.metrics import METRICS
from ahmf_jax.units import in_metres
from experiments.comparison import Comparison, heading
from experiments.evaluations import Evaluation
from experiments.report import images, progress
from experiments.report import stages as of_stages
from experiments.report.diffusion import Computed, Shown, diffusions, of_page
from experiments.report.pixels import webp
from experiments.report.sources import Series, Training

GENERATOR = "ahmf report"
SCRIPTS = (
    "data.js",
    "pixels.js",
    "charts.js",
    "viewer.js",
    "diffusion.js",
    "page.js",
)  # in the order of their use of each other


@dataclass(frozen=True)
class Page:
    """A page, and what the Markdown beside it takes over.

    Attributes:
      html: the page.
      scales: the error at the end of the colours, for each comparison.
      shown: the names of the images with a viewer, the worst first, for each comparison.
      diffusions: what is shown of DADA's diffusion, for each comparison.
      stages: what is shown of the stages of the models that make some, for each comparison.
    """

    html: str
    scales: tuple[float, ...]
    shown: tuple[tuple[str, ...], ...]
    diffusions: tuple[tuple[Shown, ...], ...]
    stages: tuple[tuple[of_stages.Shown, ...], ...]


@dataclass(frozen=True)
class Example:
    """A command that a reader may try, with what it says and a picture of what it gives."""

    title: str
    text: str
    command: str
    picture: Path
    alt: str


def render(
    comparisons: Sequence[Comparison],
    trainings: Sequence[Training],
    *,
    title: str,
    lead: str = "",
    most: int | None = None,
    example: Example | None = None,
    computed: Computed | None = None,
) -> Page:
    """The page.

    Args:
      comparisons: with their evaluations.
      trainings: the runs' logs.
      title: of the page.
      lead: a sentence below the title.
      most: images with a viewer in each comparison, at most; None: all that were kept.
      example: a command to try.
      computed: diffusions that are known; those that are not are added.

    Raises:
      InputError: a damaged image.
    """
    blobs = images.Blobs()
    names = [images.kept_images(comparison, most) for comparison in comparisons]
    with progress.bar("images of the page", sum(map(len, names)), unit="image") as bar:
        viewed = [view(*each, blobs, bar.update) for each in zip(comparisons, names, strict=True)]
    viewers = [viewer for viewer, _ in viewed]
    diffused = diffusions(list(zip(comparisons, names, strict=True)), computed)
    staged = of_stages.stages(list(zip(comparisons, names, strict=True)))
    sections, players, steps = [], [], set()
    for comparison, (viewer, thumbnails), found, made in zip(comparisons, viewed, diffused, staged, strict=True):
        of_diffusions = [of_page(one) for one in found]
        players += [player for _, player in of_diffusions if player]
        sections.append(
            {
                **section(comparison),
                "images": thumbnails,
                "diffusions": [template for template, _ in of_diffusions],
                "stages": [of_stages.of_page(one) for one in made],
            }
        )
        steps |= {f"{image['step']:g} {comparison.unit}" for image in viewer["images"]}
    charts = curves(trainings)
    data = {
        "palettes": images.palettes(),
        "viewers": [viewer for viewer in viewers if viewer["images"]],
        "curves": charts,
        "diffusions": players,
    }
    html = assemble(
        "page.html",
        SCRIPTS,
        data,
        plots=bool(charts or data["viewers"]),
        blobs=blobs.items(),
        made=[facts(evaluation) for comparison in comparisons for evaluation in comparison.evaluations],
        title=title,
        lead=lead,
        example=example,
        picture=webp(np.asarray(PIL.Image.open(example.picture).convert("RGB"))) if example else "",
        comparisons=sections,
        trainings=[
            {
                "name": training.name,
                "evaluated": training.evaluated,
                "remedy": f"ahmf evaluate {training.folder} --dataset ...",
                "config": json.dumps(training.config, indent=1) if training.config else "",
            }
            for training in trainings
        ],
        curves=charts,
        steps=", ".join(sorted(steps)),
        guides=any(image["guide"] for viewer in viewers for image in viewer["images"]),
    )
    return Page(
        html,
        tuple(viewer["largest"] for viewer in viewers),
        tuple(map(tuple, names)),
        tuple(map(tuple, diffused)),
        tuple(map(tuple, staged)),
    )


def assemble(
    template: str,
    scripts: Sequence[str],
    data: Mapping[str, Any],
    *,
    plots: bool,
    made: Sequence[Mapping[str, Any]],
    blobs: Iterable[tuple[str, str]] = (),
    **variables: Any,
) -> str:
    """A page that holds all that it shows.

    Args:
      template: the file that extends `shell.html`.
      scripts: the files of its scripts, in the order of their use of each other.
      data: what they find in `REPORT`; no number in it is infinite or NaN, which JSON does not know.
      plots: whether Plotly is to be there.
      made: `title` and `facts` (name and value) of what says how it was made.
      blobs: texts by name, for the scripts.
      **variables: of the template; `title` and `lead` are the shell's.
    """
    texts = [_file(name) for name in scripts]
    plotly = _plotly() if plots else ""
    loader = jinja2.FunctionLoader(_file)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader)
    return environment.get_template(template).render(
        generator=GENERATOR,
        policy=policy([*texts, plotly]),
        style=_file("page.css"),
        scripts=texts,
        plotly=base64.b64encode(gzip.compress(plotly.encode(), 9)).decode() if plotly else "",
        data=data,
        made=made,
        blobs=blobs,
        **variables,
    )


def policy(scripts: Sequence[str]) -> str:
    """The page's Content-Security-Policy: these scripts, the styles and pictures inside, and no network at all."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def view(
    comparison: Comparison, names: Sequence[str], blobs: images.Blobs, done: Callable[[], Any]
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What the viewer is told of the images of these names, and what there is to choose from.

    One image is in memory at a time; `done` is called after each.
    """
    shown, thumbnails, large = [], [], []
    for name in names:
        image = images.load(comparison, name)
        large.append(images.large_error(image))
        entry = images.manifest(comparison, image, blobs)
        shown.append(entry)
        first = next((layer for layer in entry["layers"] if layer["kind"] == "method"), entry["layers"][1])
        thumbnails.append({"name": name, "thumbnail": webp(image.picture, 70, width=224), "score": first["score"]})
        done()
    viewer = {
        "unit": comparison.unit,
        "metric": METRICS[comparison.metrics[0]].title,
        "largest": images.error_scale(large),
        # A length grows away from the camera; everything else is taken for disparity, which grows towards it.
        "nearer": "large" if in_metres(comparison.unit) is None else "small",
        "images": shown,
    }
    return viewer, thumbnails


def section(comparison: Comparison) -> dict[str, Any]:
    """A comparison as the template has it."""
    rows = images.methods(comparison)
    return {
        "title": f"{comparison.title} \u00b7 {comparison.protocol}",
        "protocol": comparison.protocol,
        "protocol_text": comparison.protocol_text,
        "summary": summary(comparison),
        "tables": tables(comparison),
        "sources": sources(comparison),
        "unit": comparison.unit,
        "scale": comparison.scale,
        "notes": comparison.notes,
        "first": rows[0][0].method if rows else comparison.rows[0].method,
        "metric": METRICS[comparison.metrics[0]].title,
    }


def summary(comparison: Comparison) -> str:
    """The best method that was measured, by the first metric, beside the floor; empty where there is none."""
    metric = comparison.metrics[0]
    known = METRICS[metric]
    sign = 1 if known.better == "lower" else -1
    values = [(row.values.get("mean", {}).get(metric, math.nan), row) for row, _ in images.methods(comparison)]
    values = [(value, row) for value, row in values if not math.isnan(value)]
    floor = next((row for row in comparison.rows if row.kind == "floor"), None)
    if not values or floor is None:
        return ""
    value, best = min(values, key=lambda pair: sign * pair[0])
    base = floor.values.get("mean", {}).get(metric, math.nan)
    said = f"{best.method}: mean {heading(metric, comparison.unit)} {best.text('mean', metric)}"
    if not (math.isfinite(base) and math.isfinite(value)):
        return f"{said}."
    if known.better == "lower" and base > 0:
        gain = 1 - value / base
        beside = f"{abs(gain):.0%} {'below' if gain >= 0 else 'above'}"
    else:
        beside = f"{abs(value - base):.2f} {'above' if value >= base else 'below'}"
    return f"{said}, {beside} {floor.method}'s {floor.text('mean', metric)}."


def tables(comparison: Comparison) -> list[dict[str, Any]]:
    """A table a metric with a column an image; of many images the means alone, and each metric's images down a table.

    All but the first are folded: the first metric is what the protocol is about.
    """
    if comparison.shown == comparison.columns:
        found: list[dict[str, Any]] = []
        for metric in comparison.metrics:
            columns = [(_short(column), column, metric) for column in comparison.columns]
            found.append(_table(comparison, heading(metric, comparison.unit), columns, folded=bool(found)))
    else:
        wide = [(heading(metric, comparison.unit), "mean", metric) for metric in comparison.metrics]
        found = [_table(comparison, f"Means of {len(comparison.columns) - 1} images", wide)]
        found += [_down(comparison, metric) for metric in comparison.metrics]
    return [table for table in found if table["rows"]]


def _short(column: str) -> str:
    return column if len(column) <= 24 else f"{column[:10]}\u2026{column[-12:]}"


def _table(
    comparison: Comparison, title: str, columns: Sequence[tuple[str, str, str]], folded: bool = False
) -> dict[str, Any]:
    """Methods down, and for each column its heading, the comparison's column and the metric."""
    marks = sources(comparison)
    places = [comparison.places(column, metric) for _, column, metric in columns]
    rows = []
    for i, row in enumerate(comparison.rows):
        cells = [
            _cell(row.text(column, metric), place.get(i))
            for place, (_, column, metric) in zip(places, columns, strict=True)
        ]
        if any(cell["text"] for cell in cells):
            mark = marks.index(row.source) + 1 if row.source in marks else 0
            rows.append({"name": row.method, "kind": row.kind, "source": row.source, "mark": mark, "cells": cells})
    return {"title": title, "heads": ["method", *(head for head, _, _ in columns)], "rows": rows, "folded": folded}


def sources(comparison: Comparison) -> list[str]:
    """Where the published rows are from, each once."""
    return list(dict.fromkeys(row.source for row in comparison.rows if row.kind == "published"))


def _down(comparison: Comparison, metric: str) -> dict[str, Any]:
    """Images down and methods across."""
    images_ = comparison.columns[:-1]
    across = [i for i, row in enumerate(comparison.rows) if any(row.text(name, metric) for name in images_)]
    rows = []
    for name in images_:
        place = comparison.places(name, metric)
        cells = [_cell(comparison.rows[i].text(name, metric), place.get(i)) for i in across]
        rows.append({"name": name, "kind": "", "source": "", "mark": 0, "cells": cells})
    heads = ["image", *(comparison.rows[i].method for i in across)]
    return {"title": f"{heading(metric, comparison.unit)} of each image", "heads": heads, "rows": rows, "folded": True}


def _cell(text: str, place: int | None) -> dict[str, Any]:
    """A number as it is shown, what a column is sorted by, and 1 or 2 where it is the best or second."""
    return {"text": text, "value": {"inf": "Infinity", "-inf": "-Infinity"}.get(text, text), "place": place}


def curves(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """The charts: the loss of all runs, of each run that of its stages, and the validation's error by unit.

    Stages are there where they are supervised, interpolation's error beside the validation's.
    """
    charts = _losses("Training loss", [(t.name, t.loss) for t in trainings])
    for t in trainings:
        charts += _losses(f"Training loss of each stage: {t.name}", list(t.stages.items()))
    for unit in dict.fromkeys(t.unit for t in trainings if t.validation.steps):
        series = []
        for i, t in enumerate(trainings):
            if t.unit == unit and t.validation.steps:
                ours, floor = t.validation, t.floor
                series.append({"name": t.name, "run": i, "floor": False, "x": ours.steps, "y": ours.values})
                if floor.steps:
                    name = f"interpolation ({t.name})"
                    series.append({"name": name, "run": i, "floor": True, "x": floor.steps, "y": floor.values})
        of = f" ({unit})" if unit else ""
        charts.append({"title": f"Validation MAE{of}", "axis": f"MAE{of}", "log": False, "series": series})
    return charts


def _losses(title: str, losses: Sequence[tuple[str, Series]]) -> list[dict[str, Any]]:
    """The chart of losses by name; none where there is nothing to show."""
    series: list[dict[str, Any]] = [
        {"name": name, "run": i, "floor": False, "x": loss.steps, "y": loss.values}
        for i, (name, loss) in enumerate(losses)
        if loss.steps
    ]
    positive = all(y > 0 for one in series for y in one["y"])
    return [{"title": title, "axis": "loss", "log": positive, "series": series}] if series else []


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """All that says how an evaluation was made."""
    named = {
        "weights": evaluation.weights,
        "origin": evaluation.origin,
        "data": f"{evaluation.dataset}{f', {evaluation.split}' if evaluation.split else ''}, x{evaluation.scale}",
        "protocol": f"{evaluation.protocol}: {evaluation.protocol_text}",
        **{name: _fact(value) for name, value in evaluation.made.items()},
        "record": str(evaluation.folder),
    }
    title = f"{evaluation.method}, x{evaluation.scale}, on {evaluation.dataset}, {evaluation.protocol}"
    return {"title": title, "facts": [(name, value) for name, value in named.items() if value]}


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _plotly() -> str:
    """Plotly's script, from its package."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    return get_plotlyjs()


def _file(name: str) -> str:
    """A file of this package."""
    return resources.files("experiments.report").joinpath(name).read_text("utf-8")
