"""What a study's pictures show, as values: the page draws them with Plotly, the Markdown's pictures with Matplotlib."""

import itertools
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.studies.standing import Entry, Standing, spread_of
from experiments.studies.study import OBJECTIVES
from experiments.studies.tables import COSTS, best, heading, settings, short, shown_value, varied

POINTS = 100_000  # of all curves together
MOST = 300  # trials in the parallel coordinates, the best
FEWEST = 10  # finished trials of which an importance is told
TOP, AT_LEAST = 0.1, 5  # the part of the trials that counts as the best, and how many they are at least


@dataclass(frozen=True)
class Axis:
    """An axis; with `categories` it has these in place of numbers, in this order."""

    title: str
    log: bool = False
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
      name: of all of them.
      x, y: where they are: numbers, or categories.
      names: of each, for who points at it.
      spread: to each side of each, along the axis of numbers that is not a category; None where there is none.
      size: of each, as an area.
      tint: from 0, the best, to 1, the worst; None: grey.
      group: those of one group have one colour, from a list, and one entry in the legend.
      line: whether they are joined, and how.
      marks: whether they are marked.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[Any]
    names: Sequence[str] = ()
    spread: Sequence[float | None] = ()
    size: Sequence[float] = ()
    tint: float | None = None
    group: int | None = None
    line: Literal["", "solid", "thin", "dash", "steps"] = ""
    marks: bool = True


@dataclass(frozen=True)
class Chart:
    """A picture with two axes; bars lie, from the left."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    kind: Literal["points", "bars"] = "points"
    note: str = ""
    tall: int = 0  # entries of the vertical axis, where it needs room for them


@dataclass(frozen=True)
class Dimension:
    """An axis of the parallel coordinates: a position for each trial, and what is written at some."""

    title: str
    values: Sequence[float]
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: a line is a trial, its tint from 0, the best, to 1."""

    title: str
    dimensions: Sequence[Dimension]
    tint: Sequence[float]
    names: Sequence[str]
    note: str = ""
    kind: Literal["parallel"] = "parallel"


@dataclass(frozen=True)
class Section:
    """Pictures of one kind."""

    title: str
    charts: Sequence[Chart | Parallel]
    notes: Sequence[str] = field(default_factory=tuple)


def sections(standing: Standing) -> list[Section]:
    """All that there is to show of a study; a picture for which there is too little is a sentence that says so."""
    found = [Section("Learning curves", *_or_note(curves(standing), "No trial has been validated yet."))]
    if not standing.searches:
        own: Sequence[Chart | None] = ()
        if standing.study.spec.kind == "ablation":
            from experiments.studies.answers import answers

            own = tuple(answers(standing.study.spec).drawn(standing).values())
        made = [chart for chart in (*own, figure_1(standing), rows(standing)) if chart]
        return [Section("Pictures", made, () if made else ("No trial is complete yet.",)), *found]
    fronts_ = fronts(standing)
    if fronts_ or len(standing.study.spec.objectives) > 1:
        title = "Pareto front" if len(standing.study.spec.objectives) > 1 else "Error and cost"
        found.append(Section(title, fronts_, () if fronts_ else ("No trial is complete yet.",)))
    found.append(Section("Parallel coordinates", *_or_note(parallel(standing), "Fewer than two trials are complete.")))
    found.append(Section("Importance", *importance(standing)))
    sliced = slices(standing)
    found.append(Section("Slices", sliced, () if sliced else ("No trial is complete yet.",)))
    return found


def _or_note(chart: Chart | Parallel | None, note: str) -> tuple[list[Chart | Parallel], tuple[str, ...]]:
    return ([], (note,)) if chart is None else ([chart], ())


def named(trial: Entry) -> str:
    """A trial as a picture names it."""
    seed = "" if "seed" not in trial.fields else f", seed {trial.fields['seed']}"
    return trial.label if trial.label == f"trial {trial.number}" else f"trial {trial.number}: {trial.label}{seed}"


def curves(standing: Standing) -> Chart | None:
    """The validation's error over the steps, of all trials."""
    trials = [t for t in standing.trials if t.curve]
    if not trials:
        return None
    most = max(POINTS // len(trials), 20)
    order = {t.number: i / max(len(standing.of("complete")) - 1, 1) for i, t in enumerate(best(standing))}
    groups = {label: i for i, label in enumerate(standing.rows)}
    series = [] if standing.searches else _means(standing)
    for t in trials:
        stride = -(-len(t.curve) // most)
        kept = [*t.curve[:-1:stride], t.curve[-1]]  # the last is where it stands
        series.append(
            Series(
                name=named(t) if standing.searches else t.label,
                x=[step for step, _ in kept],
                y=[value for _, value in kept],
                names=[f"{named(t)} ({t.state})"] * len(kept),
                tint=order.get(t.number) if standing.searches else None,
                group=None if standing.searches else groups[t.label],
                line="dash" if t.state in ("pruned", "failed") else "solid" if standing.searches else "thin",
                marks=standing.searches and len(kept) <= 20,
            )
        )
    values = [value for s in series for value in s.y]
    log = min(values) > 0 and max(values) > 20 * min(values)
    colours = (
        "blue the best, orange the worst, grey what has no result; "
        if standing.searches
        else ("thick: the mean over the seeds that are there at a step; ")
    )
    return Chart(
        "Validation MAE of each trial",
        Axis("step"),
        Axis("validation MAE, in the data's unit", log),
        series,
        note=f"{colours}dashed: pruned or failed.".capitalize(),
    )


def _means(standing: Standing) -> list[Series]:
    """Of planned rows: the mean over the seeds that are there at a step."""
    found = []
    for i, (label, trials) in enumerate(standing.rows.items()):
        at: dict[int, list[float]] = {}
        for step, value in itertools.chain.from_iterable(t.curve for t in trials):
            at.setdefault(step, []).append(value)
        steps = sorted(at)
        means = [statistics.mean(at[step]) for step in steps]
        names = [f"{label}, {len(at[step])} seed{'s' * (len(at[step]) > 1)}" for step in steps]
        found += [Series(label, steps, means, names, group=i, line="solid", marks=len(steps) <= 20)] if at else []
    return found


def rows(standing: Standing) -> Chart | None:
    """The error of planned rows, mean and spread, and each seed's."""
    found = {label: spread_of(trials, "mae") for label, trials in standing.rows.items()}
    means = {label: mean for label, mean in found.items() if mean is not None}
    if not means:
        return None
    seeds = [t for t in standing.of("complete") if "mae" in t.values]
    return Chart(
        "MAE of each row",
        Axis(heading("mae", standing.unit)),
        Axis("", categories=tuple(means)),
        [
            Series("one seed", [t.values["mae"] for t in seeds], [t.label for t in seeds], [named(t) for t in seeds]),
            Series(
                "mean \u00b1 standard deviation",
                [mean.mean for mean in means.values()],
                list(means),
                [f"{label}: {mean.n} seed{'s' * (mean.n > 1)}" for label, mean in means.items()],
                spread=[mean.bar for mean in means.values()],
                group=0,
            ),
        ],
        tall=len(means),
    )


def figure_1(standing: Standing) -> Chart | None:
    """The paper's Figure 1 of planned rows: error against time, the circle's area the memory."""
    found = {
        label: [spread_of(trials, n) for n in ("mae", "time", "memory")] for label, trials in standing.rows.items()
    }
    known = [(label, mae, time, memory) for label, (mae, time, memory) in found.items() if mae and time]
    if not known:
        return None
    sized = all(memory for *_, memory in known)
    return Chart(
        "Error against time; the area is the memory" if sized else "Error against time",
        Axis(heading("time", "")),
        Axis(heading("mae", standing.unit)),
        [
            Series(
                label,
                [time.mean],
                [mae.mean],
                [f"{label}, {memory.mean:.4g} MiB" if memory else label],
                spread=[mae.bar],
                size=[memory.mean] if sized and memory else [],
                group=i,
            )
            for i, (label, mae, time, memory) in enumerate(known)
        ],
    )


def fronts(standing: Standing) -> list[Chart]:
    """The first objective against each other one, or against what is known of the cost."""
    objectives = standing.study.spec.objectives
    first = objectives[0]
    trials = best(standing)
    others = objectives[1:] or [n for n in COSTS if n != first and any(n in t.values for t in trials)]
    found = []
    for other in others:
        points = [t for t in trials if other in t.values]
        if not points:
            continue
        on = standing.front((other, first))
        found.append(
            Chart(
                f"{OBJECTIVES[first]} against {OBJECTIVES[other]}",
                Axis(heading(other, standing.unit)),
                Axis(heading(first, standing.unit)),
                [
                    Series(
                        "trial", *_positions(points, other, first), names=[f"{named(t)}: {settings(t)}" for t in points]
                    ),
                    Series(
                        "Pareto front",
                        *_positions(on, other, first),
                        names=[f"{named(t)}: {settings(t)}" for t in on],
                        group=0,
                        line="steps",
                    ),
                ],
                note="Of these two alone." if len(objectives) > 2 else "",
            )
        )
    return found


def _positions(trials: Sequence[Entry], x: str, y: str) -> tuple[list[float], list[float]]:
    return [t.values[x] for t in trials], [t.values[y] for t in trials]


def parallel(standing: Standing) -> Parallel | None:
    """Fields and objectives of the complete trials."""
    trials = best(standing)
    every, trials = len(trials), trials[:MOST][::-1]  # the best is drawn over the others
    if len(trials) < 2:
        return None
    fields = varied(standing)
    logs = logarithmic(standing)
    dimensions = [_dimension(title, [t.fields.get(n) for t in trials], n in logs) for n, title in short(fields).items()]
    for name in standing.study.spec.objectives:
        values = [t.values.get(name) for t in trials]
        dimensions.append(_dimension(heading(name, standing.unit), values, False))
    cut = f" The best {MOST} of {every}." if every > MOST else ""
    return Parallel(
        "Fields and objectives of the complete trials",
        dimensions,
        [1 - i / (len(trials) - 1) for i in range(len(trials))],
        [f"{named(t)}: {settings(t)}" for t in trials],
        note="A line is a trial: blue the best, orange the worst, by "
        f"{OBJECTIVES[standing.study.spec.objectives[0]]}.{cut}",
    )


def logarithmic(standing: Standing) -> set[str]:
    """The fields that the search draws on a logarithmic scale."""
    return {name for trial in standing.trials for name in trial.logarithmic}


def _dimension(title: str, values: Sequence[Any], log: bool) -> Dimension:
    """An axis; what a trial has no value of, as its conditions did not hold, lies below the others."""
    there = [v for v in values if v is not None]
    if there and all(type(v) in (int, float) for v in there):
        log = log and min(there) > 0
        place = [math.log10(v) if log else float(v) for v in there]
        low, high = min(place), max(place)
        ticks = [(low + (high - low) * i / 4, i) for i in range(5)] if high > low else [(low, 0)]
        named_ticks = [(at, shown_value(float(f"{10**at if log else at:.3g}"))) for at, _ in ticks]
        if all(type(v) is int for v in there) and len(set(there)) <= 8 and not log:
            named_ticks = [(float(v), str(v)) for v in sorted(set(there))]
        below = low - 0.12 * ((high - low) or 1.0)
        position: dict[Any, float] = dict(zip(there, place, strict=True))
    else:
        kinds = sorted({shown_value(v) for v in there})
        named_ticks = [(float(i), kind) for i, kind in enumerate(kinds)]
        below = -1.0
        return Dimension(
            title,
            [below if v is None else float(kinds.index(shown_value(v))) for v in values],
            [*([(below, "\u2013")] if len(there) < len(values) else []), *named_ticks],
        )
    return Dimension(
        title,
        [below if v is None else position[v] for v in values],
        [*([(below, "\u2013")] if len(there) < len(values) else []), *named_ticks],
    )


def importance(standing: Standing) -> tuple[list[Chart], tuple[str, ...]]:
    """Which fields set the best trials apart, by PED-ANOVA; and what to know of it, or why it is not there."""
    trials = best(standing)
    if len(trials) < FEWEST:
        return [], (f"From {FEWEST} complete trials on, the fields' importance is told here: there are {len(trials)}.",)
    top = max(TOP, AT_LEAST / len(trials))
    groups = [
        (OBJECTIVES[name], _importances(standing, i, top)) for i, name in enumerate(standing.study.spec.objectives)
    ]
    if len(groups[0][1]) < 2:
        return [], ("One field alone was searched: there is nothing to weigh.",)
    order = list(groups[0][1])  # the most important first
    titles = short(order)
    series = [
        Series(title, [found.get(name, 0.0) for name in order], [titles[name] for name in order], group=i)
        for i, (title, found) in enumerate(groups)
    ]
    chart = Chart(
        "Importance of each field",
        Axis("share of the importance"),
        Axis("", categories=tuple(titles.values())),
        series,
        kind="bars",
        tall=len(order) * len(series),
    )
    few = " So few trials say little: the order may change with the next." if len(trials) < 5 * FEWEST else ""
    note = (
        f"PED-ANOVA (Watanabe et al., IJCAI 2023) as in Optuna: how far the {math.ceil(top * len(trials))} best of "
        f"{len(trials)} complete trials differ in a field from all of them, each share of the whole.{few}"
    )
    return [chart], (note,)


def _importances(standing: Standing, objective: int, top: float) -> Mapping[str, float]:
    """Of one objective, by parameter."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that less is better, and that few trials say little: the page says both
        return get_param_importances(
            standing.study.backend,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=min(top, 0.5)),
            target=lambda trial: trial.values[objective],
        )


def slices(standing: Standing) -> list[Chart]:
    """Each objective against each field."""
    trials = best(standing)
    logs, found = logarithmic(standing), []
    for objective in standing.study.spec.objectives:
        for name, title in short(varied(standing)).items():
            drawn = sorted((t for t in trials if t.fields.get(name) is not None), key=lambda t: t.number)
            if not drawn:
                continue
            values = [t.fields[name] for t in drawn]
            numbers = all(type(v) in (int, float) for v in values)
            x = Axis(
                title, numbers and name in logs, () if numbers else tuple(sorted({shown_value(v) for v in values}))
            )
            found.append(
                Chart(
                    f"{OBJECTIVES[objective]} by {title}",
                    x,
                    Axis(heading(objective, standing.unit)),
                    [
                        Series(
                            "trial",
                            values if numbers else [shown_value(v) for v in values],
                            [t.values[objective] for t in drawn],
                            [f"{named(t)}: {settings(t)}" for t in drawn],
                            group=0,
                        )
                    ],
                )
            )
    return found
