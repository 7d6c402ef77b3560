"""A study's tables, each made once: for the terminal, the page, Markdown and LaTeX."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.comparison import code, escape, number, tex
from experiments.studies.standing import Entry, Spread, Standing, spread_of
from experiments.studies.storage import command
from experiments.studies.study import OBJECTIVES

METRICS = ("mae", "rmse")
COSTS = ("time", "memory")
ON_FRONT = "\u25cf"


class Cell(NamedTuple):
    """What stands in a table, what its column is sorted by if that is another, 1 or 2 for the best two, and a link.

    A `name` is one of the program's, as of a field.
    """

    text: str
    value: float | str = ""
    place: int = 0
    link: str = ""
    name: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its headings, and rows whose first cell is their name."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def ranked(self) -> bool:
        """Whether the best of a column are marked."""
        return any(cell.place for row in self.rows for cell in row)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column, whether it has numbers and nothing else, so that they are set at the right."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.heads))]
        return tuple(all(not c.text or not isinstance(c.value, str) for c in column) for column in columns)


def rows(standing: Standing) -> Table:
    """Of planned trials: what each row found, its mean and spread over the seeds."""
    costs = [name for name in COSTS if any(name in trial.values for trial in standing.trials)]
    names = (*METRICS, *costs)
    means = {label: {name: spread_of(trials, name) for name in names} for label, trials in standing.rows.items()}
    places = {
        name: _places({label: mean.mean for label, found in means.items() if (mean := found[name])}) for name in METRICS
    }
    made = [floor] if (floor := _floor(standing, names)) else []
    for label, trials in standing.rows.items():
        done = [t for t in trials if t.state == "complete"]
        seeds = {t.fields.get("seed") for t in trials}  # one that failed and its repetition have the same
        cells = [Cell(label), Cell(f"{len(done)}/{len(seeds)}", len(done))]
        for name in names:
            found = means[label][name]
            if name in METRICS:
                digits = len(number(name, found.mean).partition(".")[2]) if found else 0
                cells.append(cell(found, digits, places[name].get(label, 0)))
            else:  # a network's cost is that of all its seeds
                cells.append(_figure(name, found.mean if found else None))
        seconds = [t.attributes["training"]["seconds"] for t in done if "training" in t.attributes]
        cells.append(Cell(duration(sum(seconds) / len(seconds)), sum(seconds) / len(seconds)) if seconds else Cell(""))
        made.append(tuple(cells))
    heads = ("row", "done", *(heading(name, standing.unit) for name in names), "training")
    return Table("Rows: mean \u00b1 standard deviation over the seeds", heads, tuple(made))


def _floor(standing: Standing, names: Sequence[str]) -> tuple[Cell, ...]:
    """Interpolation's row, where all trials have the same beside them."""
    floors = [t.attributes["floor"] for t in standing.of("complete") if t.attributes.get("floor")]
    if not floors or any(floor != floors[0] for floor in floors):
        return ()
    return (Cell("interpolation"), Cell(""), *(_figure(n, floors[0].get(n)) for n in names), Cell(""))


def trials(
    standing: Standing, order: Sequence[Entry] | None = None, link: Callable[[Entry], str] | None = None
) -> Table:
    """The trials one by one.

    Args:
      standing: of the study.
      order: which, in which order; by default those that have begun, by number.
      link: where the run of a trial is.
    """
    shown = list(order if order is not None else (t for t in standing.trials if t.state != "waiting"))
    spec = standing.study.spec
    names = spec.objectives
    beside = [name for name in METRICS if name not in names]  # not minimised
    fields = varied(standing)
    several = len(spec.objectives) > 1
    front = {t.number for t in standing.front(spec.objectives)} if several else set()
    complete = standing.of("complete")
    places = {
        name: _places({t.number: t.values[name] for t in complete if name in t.values}) for name in spec.objectives
    }
    heads = [
        "trial",
        *([] if standing.searches else ["row"]),
        "state",
        *(["front"] if several else []),
        *(heading(name, standing.unit) for name in names),
        *short(fields).values(),
        *(heading(name, standing.unit) for name in beside),
        "took",
    ]
    made = []
    for t in shown:
        cells = [Cell(str(t.number), t.number, link=link(t) if link else "")]
        cells += [] if standing.searches else [Cell(t.label)]
        cells.append(Cell(t.state))
        cells += [Cell(ON_FRONT if t.number in front else "")] if several else []
        done = t.values if t.state == "complete" else {}
        cells += [_figure(name, done.get(name), places[name].get(t.number, 0)) for name in names]
        for name in fields:
            value = t.fields.get(name)
            cells.append(Cell(shown_value(value), value if isinstance(value, float) or type(value) is int else ""))
        cells += [_figure(name, done.get(name)) for name in beside]
        cells.append(Cell("") if t.seconds is None else Cell(duration(t.seconds), t.seconds))
        made.append(tuple(cells))
    return Table("Trials", tuple(heads), tuple(made))


def at_work(standing: Standing) -> Table:
    """What workers have in hand, and what they have left behind."""
    made = []
    for t in standing.of("running", "interrupted"):
        since = f"{t.began:%Y-%m-%d %H:%M}" if t.began else ""
        who = worker(t.workers[-1]) if t.workers else ""
        first = Cell(str(t.number), t.number), Cell(t.label), Cell(hand(t))
        made.append((*first, Cell(f"{t.step} of {t.steps}", t.step), Cell(who), Cell(since)))
    return Table("At work", ("trial", "row", "state", "validated at step", "worker", "since"), tuple(made))


def hand(trial: Entry) -> str:
    """In whose hand a trial is that has begun and is not finished."""
    if trial.state == "running":
        return "running"
    return f"its worker {'died' if trial.died else 'stopped'}; the next goes on with it"


def ended(standing: Standing) -> Table:
    """The trials that failed or were given up, and why."""
    made = tuple(
        (Cell(str(t.number), t.number), Cell(t.state), Cell(t.reason), Cell(settings(t)))
        for t in standing.of("failed", "pruned")
    )
    return Table("Failed and pruned", ("trial", "state", "why", "with"), made)


def progress(standing: Standing) -> str:
    """How much of the whole is done, at what rate, and the time left."""
    counts = {s: len(standing.of(s)) for s in ("running", "interrupted", "waiting", "pruned", "failed")}  # type: ignore[arg-type]
    said = [f"{len(standing.of('complete'))} of {len(standing.trials)} trials complete"]
    said += [f"{count} {state}" for state, count in counts.items() if count]
    line = ", ".join(said)
    if left := standing.hours_left():
        rate, hours = left
        line += f"; {rate:{'.3g' if rate < 100 else '.0f'}} trials an hour, about {duration(3600 * hours)} left"
    elif not standing.finished and not counts["running"]:
        study = standing.study
        line += f"; no worker is at it: {command(study.storage, 'study', 'worker', '--study', study.name)}"
    return line


def best(standing: Standing) -> list[Entry]:
    """The complete trials, the best by the first objective first."""
    name = standing.study.spec.objectives[0]
    return sorted((t for t in standing.of("complete") if name in t.values), key=lambda t: (t.values[name], t.number))


def varied(standing: Standing) -> list[str]:
    """The fields to show: of a search all that were drawn, of planned trials, whose label says the rest, the seed."""
    if not standing.searches:
        return ["seed"] if any("seed" in t.fields for t in standing.trials) else []
    return list(dict.fromkeys(name for t in standing.trials for name in t.fields))


def short(names: Iterable[str]) -> dict[str, str]:
    """Dotted names, each by its last part where no other ends so."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}


def settings(trial: Entry) -> str:
    """The fields that a trial changes, in one line."""
    named = short(trial.fields)
    return ", ".join(f"{named[name]} = {shown_value(value)}" for name, value in trial.fields.items())


def heading(name: str, unit: str) -> str:
    """A column's: an objective or a metric with its unit."""
    title = OBJECTIVES[name]
    return f"{title} ({unit})" if name in METRICS and unit else title


def title_and_unit(name: str, unit: str) -> tuple[str, str]:
    """Of an objective or a metric, for a sentence."""
    title, _, own = OBJECTIVES[name].partition(" (")
    return title, own.rstrip(")") or unit


def figure(name: str, value: float) -> str:
    """A number as tables have it."""
    return number(name, value) if name in METRICS else f"{value:.4g}"


def _figure(name: str, value: float | None, place: int = 0) -> Cell:
    return Cell("") if value is None else Cell(figure(name, value), value, place)


def plus_minus(found: Spread | None, digits: int) -> str:
    """A mean, and the standard deviation where there are several values."""
    if found is None:
        return ""
    deviation = "" if found.bar is None else f" \u00b1 {found.bar:.{digits}f}"
    return f"{found.mean:.{digits}f}{deviation}"


def cell(found: Spread | None, digits: int, place: int = 0) -> Cell:
    """The same in a table."""
    return Cell(plus_minus(found, digits), found.mean, place) if found else Cell("")


def shown_value(value: Any) -> str:
    """A field's value in a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown_value, value)) or "none"
    return str(value)


def worker(name: str) -> str:
    """A worker as it is shown: its machine and process."""
    return name.rpartition(":")[0] or name


def duration(seconds: float) -> str:
    """A time in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def markdown(table: Table) -> str:
    """A table as Markdown; the best is bold, the second underlined."""
    marks = {1: "**{}**", 2: "<u>{}</u>"}

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return "\n".join(
        [
            line(map(escape, table.heads)),
            line("---:" if numeric else "---" for numeric in table.numeric),
            *(
                line(marks.get(c.place, "{}").format(code(c.text) if c.name else escape(c.text)) for c in row)
                for row in table.rows
            ),
        ]
    )


def latex(table: Table, caption: str) -> str:
    """A table as LaTeX; the best is bold, the second underlined."""
    marks = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    body = [" & ".join(marks.get(c.place, "{}").format(tex(c.text)) for c in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(caption)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if numeric else 'l' for numeric in table.numeric)}}}",
            r"\toprule",
            " & ".join(map(tex, table.heads)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _places(values: Mapping[Any, float]) -> dict[Any, int]:
    """1 for what has the smallest value, 2 for what has the next; of one alone nothing is said."""
    ordered = sorted(set(values.values()))[:2]
    if len(values) < 2:
        return {}
    return {key: ordered.index(value) + 1 for key, value in values.items() if value in ordered}
