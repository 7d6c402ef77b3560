"""Where a study stands: its trials as the storage has them now, who is at work on them, and what is left to do."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from experiments.studies.study import Study, lease_of

if TYPE_CHECKING:
    import optuna

    from experiments.studies.storage import Lease

# "interrupted": its worker stopped or died, and the next one goes on with it.
State = Literal["complete", "running", "interrupted", "waiting", "pruned", "failed"]
_STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}


COSTS = "costs"  # a study's attribute: see `costs_of`


class Spread(NamedTuple):
    """Over seeds: the mean, the standard deviation (NaN of one value), and of how many."""

    mean: float
    deviation: float
    n: int

    @property
    def bar(self) -> float | None:
        """The standard deviation, where there is one."""
        return None if math.isnan(self.deviation) else self.deviation


@dataclass(frozen=True)
class Entry:
    """A trial as it stands.

    Attributes:
      number: from 0.
      label: its row's; "trial NUMBER" in a search.
      state: where it is.
      fields: of the configuration, that it changes; none before a search has drawn them.
      values: what it found: the metrics, and what the study minimises, by name; finite numbers alone.
      curve: the validation's MAE by step, in the data's unit.
      steps: of its training.
      workers: who had it, in order; the last has it if it runs.
      died: whether its last worker gave no sign of life before it was interrupted.
      began, ended: by its workers' clocks.
      attributes: all that the storage keeps of it.
      logarithmic: the fields that were drawn on such a scale.
    """

    number: int
    label: str
    state: State
    fields: Mapping[str, Any]
    values: Mapping[str, float]
    curve: Sequence[tuple[int, float]]
    steps: int
    workers: tuple[str, ...]
    died: bool
    began: datetime | None
    ended: datetime | None
    attributes: Mapping[str, Any]
    logarithmic: frozenset[str]

    @property
    def finished(self) -> bool:
        """Whether no worker will take it again."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def step(self) -> int:
        """The last that it is known to have reached."""
        if self.state == "complete":
            return self.steps
        return self.curve[-1][0] if self.curve else 0

    @property
    def seconds(self) -> float | None:
        """From its beginning to its end, where one worker alone had it: what lies between two workers is no work."""
        if self.began is None or self.ended is None or len(self.workers) != 1:
            return None
        return (self.ended - self.began).total_seconds()

    @property
    def provenances(self) -> list[Mapping[str, Any]]:
        """What it was made with: version, commit, libraries, hardware; several where it went on elsewhere."""
        first = self.attributes.get("provenance")
        return self.attributes.get("provenances") or ([] if first is None else [first])

    @property
    def reason(self) -> str:
        """Why it failed, or what became of it, in words; "" where its state says all."""
        if self.state == "failed":
            return printable(self.attributes.get("reason", "no reason was recorded"))
        if self.state == "pruned":
            at = f"given up at step {self.step} of {self.steps}"
            return f"{at}, where its validation MAE was {self.curve[-1][1]:.4g}" if self.curve else at
        return ""


@dataclass(frozen=True)
class Standing:
    """A study as it stood when it was read.

    Attributes:
      study: which.
      trials: by number.
      costs: of its configurations on one hardware, the newest that they were measured on: see `costs_of`.
    """

    study: Study
    trials: tuple[Entry, ...]
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, *states: State) -> list[Entry]:
        """The trials in one of these states."""
        return [trial for trial in self.trials if trial.state in states]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(trial.finished for trial in self.trials)

    @property
    def searches(self) -> bool:
        """Whether it is a search; otherwise its trials were planned, and have rows."""
        return self.study.spec.kind == "search"

    @property
    def unit(self) -> str:
        """Of MAE and RMSE; "" before the first trial is measured."""
        return next((str(t.attributes["unit"]) for t in self.trials if "unit" in t.attributes), "")

    @property
    def workers(self) -> dict[str, list[Entry]]:
        """Those at work, each with its trials."""
        found: dict[str, list[Entry]] = {}
        for trial in self.of("running"):
            found.setdefault(trial.workers[-1] if trial.workers else "", []).append(trial)
        return found

    @property
    def rows(self) -> dict[str, list[Entry]]:
        """The trials by label."""
        found: dict[str, list[Entry]] = {}
        for trial in self.trials:
            found.setdefault(trial.label, []).append(trial)
        return found

    def hours_left(self) -> tuple[float, float] | None:
        """Trials an hour, and the hours that are left with as many at work as now; None where nothing tells.

        A trial is taken to need what those of its label needed, or else what all did.
        """
        known = {label: [t.seconds for t in trials if t.seconds is not None] for label, trials in self.rows.items()}
        every = [seconds for values in known.values() for seconds in values]
        running = len(self.of("running"))
        if not every or not running or self.finished:
            return None
        whole = {t.number: statistics.mean(known[t.label] or every) for t in self.trials if not t.finished}
        rest = {t.number: whole[t.number] * (1 - t.step / t.steps) for t in self.trials if not t.finished}
        # No trial is done by two.
        seconds = max(sum(rest.values()) / running, *rest.values())
        return 3600 * running / max(statistics.mean(whole.values()), 1e-9), seconds / 3600

    def front(self, names: Sequence[str]) -> list[Entry]:
        """The complete trials that no other betters in these values, from the smallest of the first value on."""
        trials = [t for t in self.of("complete") if all(name in t.values for name in names)]
        points = {t.number: [t.values[name] for name in names] for t in trials}
        kept = [t for t in trials if not any(_betters(points[u.number], points[t.number]) for u in trials)]
        return sorted(kept, key=lambda t: (points[t.number], t.number))


def _betters(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is no worse in any, and so better in some."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def read(study: Study) -> Standing:
    """The study as it stands now."""
    leases = study.storage.leases(lease_of(study, 0).removesuffix("0"))
    costs = next(reversed(costs_of(study).values()), {})
    return Standing(study, tuple(_entry(study, trial, leases, costs) for trial in study.trials()), costs)


def costs_of(study: Study) -> dict[str, dict[str, Any]]:
    """What planned configurations cost, by hardware, the newest last, and by `cost.key`.

    Each is a `Cost` as JSON, or has as `refused` why it could not be measured.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in study.attributes().get(COSTS, {}).items():
        if "hardware" in value:  # as studies had it first: by `cost.key` alone
            found.setdefault(value["hardware"], {})[name] = value
        else:
            found[name] = value
    return found


def _entry(
    study: Study, trial: "optuna.trial.FrozenTrial", leases: "Mapping[str, Lease]", costs: Mapping[str, Any]
) -> Entry:
    attributes = trial.user_attrs
    lease = leases.get(lease_of(study, trial.number))
    held = lease is not None and lease.left > 0 and not lease.released
    state: State = _STATES.get(trial.state.name) or ("running" if held else "interrupted")
    workers = tuple(map(printable, attributes.get("workers", ())))
    if state == "running" and lease is not None and workers[-1:] != (lease.worker,):
        workers = (*workers, lease.worker)  # it has taken it just now
    return Entry(
        number=trial.number,
        label=printable(attributes.get("label", f"trial {trial.number}")),
        state=state,
        fields=attributes.get("fields", {}),
        values=_values(study, trial, costs),
        curve=sorted((step, value) for step, value in trial.intermediate_values.items() if math.isfinite(value)),
        steps=attributes.get("config", {}).get("steps", study.spec.config.steps),
        workers=workers,
        died=state == "interrupted" and lease is not None and not lease.released,
        began=trial.datetime_start,
        ended=trial.datetime_complete,
        attributes=attributes,
        logarithmic=frozenset(name for name, drawn in trial.distributions.items() if getattr(drawn, "log", False)),
    )


def _values(study: Study, trial: "optuna.trial.FrozenTrial", costs: Mapping[str, Any]) -> dict[str, float]:
    """Metrics, costs and objectives of a trial."""
    cost = trial.user_attrs.get("cost") or _cost(study, trial, costs)
    found = {
        **trial.user_attrs.get("metrics", {}),
        **({"time": cost["inference_ms"], "memory": cost["inference_mib"]} if cost else {}),
        **dict(zip(study.spec.objectives, trial.values or (), strict=False)),
    }
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _cost(study: Study, trial: "optuna.trial.FrozenTrial", costs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a planned trial's network, which is measured once for all of its seeds."""
    if not costs or "fields" not in trial.user_attrs:
        return {}
    from experiments.studies.cost import key

    found = costs.get(key(study.config(trial.user_attrs["fields"])), {})
    return {} if "refused" in found else found


def printable(text: Any) -> str:
    """Text in one line, without what a terminal would obey: what workers wrote is not trusted."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def spread(values: Iterable[float]) -> Spread | None:
    """Of values, one a seed; None of nothing."""
    values = list(values)
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))


def spread_of(trials: Iterable[Entry], name: str) -> Spread | None:
    """Of what complete trials found."""
    return spread(t.values[name] for t in trials if t.state == "complete" and name in t.values)
