"""What planned trials say together: means over the seeds, their differences, and how sure those are.

Two rows are compared seed by seed: trials of one seed see the same patches in the same order. The mean of these
differences has a standard error, and a 95 % interval by Student's t for as many seeds as there are: with three it is
4.3 standard errors to either side, as three differences tell little of their own spread. "Better" and "worse" are said
where the interval has no 0 in it. Of twenty such intervals of what does not matter one is expected to miss the 0.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ahmf_jax.writing import write_whole
from experiments.evaluate import decimal_places
from experiments.plots import save
from experiments.studies import pictures
from experiments.studies.charts import Axis, Chart, Series
from experiments.studies.cost import Cost, from_json, key
from experiments.studies.show import block
from experiments.studies.standing import COSTS, Entry, Standing, costs_of, spread
from experiments.studies.storage import worker_name
from experiments.studies.study import Study
from experiments.studies.tables import Table

CONFIDENCE = 0.95
# Colours of what a difference says, from the pictures' list.
WORDS = {"better": 2, "within the spread": None, "worse": 1, "one seed": None}
LEASE = 600.0  # seconds without a run, as compiling may take, after which another may measure the costs


class Difference(NamedTuple):
    """A row's metric less another's, over the seeds that both have: the mean, its standard error and interval.

    All but the mean are NaN where there is one seed. `better` says which values of the metric are.
    """

    mean: float
    error: float
    low: float
    high: float
    n: int
    better: Literal["lower", "higher"] = "lower"

    @property
    def word(self) -> str:
        """What it says of the first row."""
        if math.isnan(self.error):
            return "one seed"
        if self.low <= 0 <= self.high:
            return "within the spread"
        return "better" if (self.mean < 0) == (self.better == "lower") else "worse"

    @property
    def sureness(self) -> str:
        """The same, and of how many seeds."""
        return self.word if math.isnan(self.error) else f"{self.n} seeds: {self.word}"


def difference(
    of: Mapping[int, float], base: Mapping[int, float], better: Literal["lower", "higher"] = "lower"
) -> Difference | None:
    """`of` less `base`, both by seed; None where they have no seed in common."""
    from scipy.special import stdtrit

    found = spread(of[seed] - base[seed] for seed in sorted(of.keys() & base.keys()))
    if found is None:
        return None
    error = found.deviation / math.sqrt(found.n)
    reach = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2)) * error if found.n > 1 else math.nan
    return Difference(found.mean, error, found.mean - reach, found.mean + reach, found.n, better)


def by_seed(trials: Iterable[Entry], metric: str) -> dict[int, float]:
    """What complete trials of a row have found, by seed."""
    return {t.fields["seed"]: t.values[metric] for t in trials if t.state == "complete" and metric in t.values}


def planned(trials: Iterable[Entry]) -> int:
    """Seeds of a row: a trial that failed and its repetition have one."""
    return len({t.fields["seed"] for t in trials})


def cost_of(standing: Standing, trial: Entry) -> Cost | str | None:
    """Of a trial's configuration, or why it cannot be measured; None before that was tried."""
    found = standing.costs.get(key(standing.study.config(trial.fields)))
    if found is None:
        return None
    return str(found["refused"]) if "refused" in found else from_json(found)


def measure_costs(study: Study, rounds: int) -> None:
    """Measures all configurations of the study in one run, unless that has been done on this hardware, and keeps it.

    One process does it, and others leave it to that. What cannot be measured is kept with the reason, and tried again
    by the next command; what was measured on other hardware stays.

    Raises:
      RuntimeError: as `cost.attempt`.
    """
    from experiments.provenance import hardware
    from experiments.studies.cost import SIZE, attempt

    configs = {key(config): config for config in (study.config(t.user_attrs["fields"]) for t in study.trials())}
    what, worker, here = f"costs/{study.name}", worker_name(), hardware()

    there = costs_of(study)
    others = {name: costs for name, costs in there.items() if name != here}

    def known(name: str) -> bool:
        found = there.get(here, {}).get(name, {"refused": ""})
        return "refused" not in found and tuple(found["size"]) == SIZE and found["rounds"] >= rounds

    if all(map(known, configs)):
        if others and next(reversed(there)) != here:
            study.set(COSTS, {**others, here: there[here]})  # the tables have those of where the command is given
        return
    if not study.storage.take(what, worker, LEASE):
        print(f"study {study.name}: another process measures the costs: its tables will have them")
        return
    try:
        print(f"study {study.name}: measuring what its {len(configs)} networks cost, in turn ...", flush=True)
        found = attempt(list(configs.values()), rounds=rounds, alive=lambda: _prolong(study, what, worker))
        measured = {
            name: {"refused": cost} if isinstance(cost, str) else dataclasses.asdict(cost)
            for name, cost in zip(configs, found, strict=True)
        }
        study.set(COSTS, {**others, here: there.get(here, {}) | measured})
    finally:
        study.storage.release(what, worker)


def _prolong(study: Study, what: str, worker: str) -> None:
    study.storage.renew(what, worker, LEASE)


def places(values: Iterable[float | None]) -> int:
    """Of errors in a table: so many that the smallest has four digits."""
    return decimal_places(v for v in values if v is not None)


def signed(found: Difference | None, digits: int) -> str:
    """A mean difference and its standard error."""
    if found is None:
        return ""
    error = "" if math.isnan(found.error) else f" ± {found.error:.{digits}f}"
    return f"{found.mean:+z.{digits}f}{error}"


def interval(found: Difference | None, digits: int) -> str:
    """Where the mean difference is, at 95 %; "" where nothing tells."""
    if found is None or math.isnan(found.error):
        return ""
    return f"{found.low:+z.{digits}f} to {found.high:+z.{digits}f}"


def seeds(done: int, planned: int) -> str:
    """How many seeds a row has, and of how many where some are missing."""
    return str(done) if done == planned else f"{done} of {planned}"


def as_csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table of numbers for other programs; None and NaN are left empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        writer.writerow(["" if value is None or value != value else value for value in row])
    return file.getvalue().encode()


class Findings(NamedTuple):
    """What a study found: tables, and what they say."""

    tables: list[Table]
    said: list[str]

    def printed(self) -> str:
        """As a command prints it at its end."""
        return "\n\n".join([*(block(table, None) for table in self.tables), "\n".join(self.said)])


def write(folder: Path, name: str, text: str, numbers: bytes, drawn: Mapping[str, Chart | None]) -> list[Path]:
    """Writes the page of a study, its numbers, and its pictures into a folder that is there; the files.

    Args:
      folder: where.
      name: of the two first, without an ending.
      text: the page, as Markdown.
      numbers: as CSV.
      drawn: each picture as SVG and PNG, by its name; None: there is too little for it.

    Raises:
      InputError: it cannot be written.
    """
    made = [folder / f"{name}.md", folder / f"{name}.csv"]
    for path, content in zip(made, (text.encode(), numbers), strict=True):
        write_whole(path, content)
    for called, chart in drawn.items():
        made += [] if chart is None else save(pictures.figure(chart), folder / called)
    return made


def changes(title: str, axis: str, found: Sequence[tuple[str, Difference]]) -> Chart | None:
    """Differences with their 95 % intervals, each beside its name, from the top; None of nothing.

    Args:
      title: of the chart.
      axis: what a difference is, in words.
      found: names and differences.
    """
    series = []
    for word, group in WORDS.items():
        if of := [(name, change) for name, change in found if change.word == word]:
            series.append(
                Series(
                    word,
                    [change.mean for _, change in of],
                    [name for name, _ in of],
                    [f"{name}: {word}, {change.n} seed{'s' * (change.n > 1)}" for name, change in of],
                    spread=[None if math.isnan(change.error) else change.high - change.mean for _, change in of],
                    group=group,
                )
            )
    if not series:
        return None
    return Chart(
        title,
        Axis(axis),
        Axis("", categories=tuple(name for name, _ in found)),
        series,
        note="Seed by seed; bars: 95 % intervals by Student's t.",
        tall=len(found),
    )


def origin(standing: Standing) -> list[str]:
    """Of what the numbers are, and with what they were made: lines of Markdown."""
    from experiments.comparison import code, escape

    study, done = standing.study, standing.of("complete")
    config, measured = study.spec.config, study.spec.measured
    data = config.data
    trained = "; and ".join(
        f"{escape(Path(part.name).name)}, {escape(part.split)}{f', each {part.weight:g} times' * (part.weight != 1)}"
        for part in data.training()
    )
    weights = " ".join(f"{weight:g}" for weight in config.stage_weights)
    stages = f"; stages, where there are any, weigh {weights}" if weights else ""
    lines = [
        f"- **Network**: {config.model.summary()}, but for what the rows say.",
        f"- **Training**: {config.steps} steps of {data.batch_size} patches, {data.patch[0]} x {data.patch[1]}, "
        f"of {trained}; {config.optimiser.name}, rate {config.optimiser.learning_rate:g}, {config.optimiser.schedule}; "
        f"loss {config.loss}{stages}.",
    ]
    dataset = Path(measured.dataset or data.dataset).name  # of a folder the name alone: pages are for other machines
    split = measured.split if measured.dataset else data.validation
    for protocol in sorted({t.attributes["protocol"] for t in done if "protocol" in t.attributes}):
        images = max(len(t.attributes.get("images", ())) for t in done if t.attributes.get("protocol") == protocol)
        where = f"{dataset}, {split}" if split else dataset
        lines.append(
            f"- **Measured** on {escape(where)}, {images} {'image' if images == 1 else 'images'}, in "
            f"{escape(standing.unit)}; means over the images. Protocol {escape(protocol)}."
        )
    made = [provenance for t in done for provenance in t.provenances]
    for title, name in (("Hardware", "hardware"), ("Commit", "commit"), ("Version", "version")):
        if said := "; ".join(sorted({str(found[name]) for found in made if found.get(name)})):
            lines.append(f"- **{title}** of the trainings: {escape(said)}.")
    if mixed := [str(t.number) for t in done if len(t.provenances) > 1]:
        lines.append(
            f"- **Begun on one machine or commit, ended on another**: trials {', '.join(mixed)}. Trained again, they "
            "need not have the same numbers to the bit."
        )
    ended = [t.ended for t in done if t.ended is not None]
    if ended:
        lines.append(f"- **Date**: {max(ended):%Y-%m-%d}.")
    if command := study.attributes().get("command"):
        lines.append(f"- **Command**: {code(command)}")
    rows = standing.rows.values()
    left = sum(planned(row) for row in rows) - sum(planned(t for t in row if t.state == "complete") for row in rows)
    if left:
        lines.append(f"- **Not whole yet**: {left} of the planned trainings have no result.")
    return lines


def how_measured(cost: Cost) -> str:
    """What the costs are, in words."""
    height, width = cost.size
    memory, order = "in use on the device", "one after the other"
    if cost.hardware.endswith("cpu"):
        memory, order = "resident in the process, libraries included", "timed in turn"
    return (
        f"Times and memory on {cost.hardware}: each configuration in processes of its own, {order}, medians of "
        f"{cost.rounds} warm runs. Inference is of one image of {height} x {width}, from NumPy to NumPy; memory is the "
        f"most that was {memory}. Compiling includes tracing, without a cache. The training of all steps is as it went "
        "beside whatever else the machine did, without compiling and validating."
    )
