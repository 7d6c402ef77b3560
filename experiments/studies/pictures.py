"""A study's charts as pictures, for its Markdown."""

import math
from typing import TYPE_CHECKING, Any

from experiments.plots import COLOURS, tidy
from experiments.studies.charts import Axis, Chart, Parallel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, WORST, GREY = "#2a78d6", "#e0662c", "#8a9199"
WIDTH, HEIGHT, ENTRY = 7.2, 4.0, 0.24  # inches; the last is of one of many names
LEGEND = 12  # entries, at most
LARGEST = 2400  # points squared: the largest area of a point that has one


def figure(chart: Chart | Parallel) -> "Figure":
    """A chart, drawn."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tall = 1.2 + ENTRY * chart.tall if isinstance(chart, Chart) and chart.tall else HEIGHT
    with rc_context({"text.parse_math": False}):  # a name may have a $ in it
        drawn = Figure(figsize=(WIDTH, tall), layout="constrained")
        axes = drawn.add_subplot()
        (_parallel if isinstance(chart, Parallel) else _points)(axes, chart)  # type: ignore[arg-type]
        axes.set_title(chart.title, fontsize="medium")
    return drawn


def _points(axes: "Axes", chart: Chart) -> None:
    """Points, lines or bars between two axes."""
    largest = max((size for series in chart.series for size in series.size), default=1.0)
    bars = 0.8 / len(chart.series)
    entries: dict[str, Any] = {}
    for i, series in enumerate(chart.series):
        x, y = (_places(values, axis) for values, axis in ((series.x, chart.x), (series.y, chart.y)))
        colour = _colour(series)
        if chart.kind == "bars":
            drawn: Any = axes.barh([at - 0.4 + (i + 0.5) * bars for at in y], x, bars, color=colour)
        else:
            around = [LARGEST * size / largest for size in series.size]
            axes.scatter(x, y, around or 0, color=colour, alpha=0.35, linewidths=0)
            for at, name, area in zip(zip(x, y, strict=True), series.names, around, strict=False):
                beside = (math.sqrt(area / math.pi) + 4, 0)
                axes.annotate(name, at, beside, textcoords="offset points", va="center", fontsize="small")
            size = (45 if series.spread else 20) if series.marks else 0
            drawn = axes.scatter(x, y, size, color=colour, alpha=0.8, linewidths=0, zorder=3)
            if series.line:
                steps: Any = "steps-post" if series.line == "steps" else "default"
                dashes, wide = "--" if series.line == "dash" else "-", 0.6 if series.line == "thin" else 1.5
                (drawn,) = axes.plot(x, y, dashes, color=colour, linewidth=wide, drawstyle=steps)
            if series.spread:
                sides = [spread or 0.0 for spread in series.spread]
                across, down = (sides, None) if chart.y.categories else (None, sides)
                axes.errorbar(x, y, down, across, fmt="none", ecolor=colour, capsize=3)
        entries.setdefault(series.name, drawn)
    for axis, which in ((chart.x, "x"), (chart.y, "y")):
        _label(axes, axis, which)
    tidy(axes)
    sized = any(series.size for series in chart.series)
    if sized:
        axes.margins(0.2)
    if chart.y.categories and axes.get_xlim()[0] < 0:
        axes.axvline(0, color=GREY, linewidth=1)
    if 1 < len(entries) <= LEGEND and not sized:
        axes.legend(list(entries.values()), [f" {name}" for name in entries], fontsize="small")


def _places(values: Any, axis: Axis) -> list[float]:
    return [float(axis.categories.index(value)) for value in values] if axis.categories else list(values)


def _label(axes: "Axes", axis: Axis, which: str) -> None:
    """Title, scale and categories of an axis; categories of the vertical one go down."""
    from matplotlib.ticker import LogFormatter

    axes.set(**{f"{which}label": axis.title})
    if axis.log:
        axes.set(**{f"{which}scale": "log"})
        drawn = axes.xaxis if which == "x" else axes.yaxis
        drawn.set_major_formatter(LogFormatter())  # the scale's own write TeX, which is not parsed here
        drawn.set_minor_formatter(LogFormatter())
    if axis.categories:
        axes.set(**{f"{which}ticks": range(len(axis.categories)), f"{which}ticklabels": axis.categories})
        ends = (-0.6, len(axis.categories) - 0.4)
        axes.set(**{f"{which}lim": ends if which == "x" else ends[::-1]})


def _parallel(axes: "Axes", chart: Parallel) -> None:
    """Each axis is drawn from its lowest position or tick to its highest."""
    scaled, across = [], range(len(chart.dimensions))
    for at, dimension in zip(across, chart.dimensions, strict=True):
        every = [*dimension.values, *(position for position, _ in dimension.ticks)]
        low, span = min(every), (max(every) - min(every)) or 1.0
        scaled.append([(value - low) / span for value in dimension.values])
        axes.axvline(at, color=GREY, linewidth=0.8)
        for position, name in dimension.ticks:
            axes.annotate(
                name, (at, (position - low) / span), (3, 0), textcoords="offset points", fontsize=7, va="center"
            )
    for i, tint in enumerate(chart.tint):
        axes.plot(across, [values[i] for values in scaled], color=_between(tint), linewidth=0.9, alpha=0.7)
    axes.set_xticks(across, [dimension.title for dimension in chart.dimensions], fontsize="small")
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(chart.dimensions) - 0.7)


def _colour(series: Series) -> Any:
    if series.group is not None:
        return COLOURS[series.group % len(COLOURS)]
    return GREY if series.tint is None else _between(series.tint)


def _between(tint: float) -> Any:
    """The colour of a place between the best, 0, and the worst, 1."""
    from matplotlib.colors import to_rgb

    return tuple((1 - tint) * a + tint * b for a, b in zip(to_rgb(BEST), to_rgb(WORST), strict=True))
