"""What a study is: its question, its configuration, and its trials, as they stand in the storage.

A study is an Optuna study. All of its trials are queued when it is made, so that any number of workers does each once:
planned ones (levels, ablation) with the fields of the configuration that they change, those of a search empty, to be
filled by the sampler when a worker takes one. What a trial found is in its user attributes:

=============  ====================================================================================
`label`        what it is called in tables; trials of one label differ in the seed alone
`fields`       the configuration's fields that it changes, by dotted name
`config`       the whole configuration
`folder`       its run, below the study's folder
`provenance`   version, commit, libraries, hardware
`workers`      who had it
`metrics`      of the evaluation: mean over the images, by metric; `floor` the interpolation's
`unit`         of MAE and RMSE
`training`     `steps`, `seconds`: of the training alone, without compiling and validating
`cost`         of its network: see `experiments.studies.cost`
`reason`       why it failed
=============  ====================================================================================
"""

import dataclasses
import itertools
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import PairsConfig, TrainConfig, WholeImages
from experiments.studies.storage import Storage, reachable, worker_name

if TYPE_CHECKING:
    import optuna

ATTRIBUTE, FORMAT = "ahmf", 1
DIGITS = 4  # of a run's folder
# What a search may minimise, and what it is called in tables.
OBJECTIVES = {"mae": "MAE", "rmse": "RMSE", "time": "inference time (ms)", "memory": "inference memory (MiB)"}
Objective = Literal["mae", "rmse", "time", "memory"]


@dataclass(frozen=True)
class Measured:
    """On what and how trained trials are measured."""

    dataset: str = ""
    """A data set's name or a folder of image pairs; by default what the trials validate on."""
    split: str | None = None
    """As in `ahmf evaluate`."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    protocol: WholeImages | None = None
    """As in `ahmf evaluate`."""


@dataclass(frozen=True)
class Spec:
    """What the trials of a study have in common."""

    kind: Literal["levels", "ablation", "search"]
    config: TrainConfig
    measured: Measured = field(default_factory=Measured)
    folder: str = ""
    """Where the runs are, an absolute path."""
    objectives: tuple[str, ...] = ("mae",)
    prune: bool = False
    """Whether a trial that is worse than the median of the others at the same step is given up."""


class Row(NamedTuple):
    """A planned trial: its label, and the fields of the configuration that it changes, the seed among them."""

    label: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A study in its storage."""

    storage: Storage
    name: str
    spec: Spec
    space: Mapping[str, Any] | None
    backend: "optuna.Study"

    def trials(self) -> "list[optuna.trial.FrozenTrial]":
        """As they stand now."""
        with reachable(self.storage.url):
            return self.backend.get_trials(deepcopy=False)

    def attributes(self) -> Mapping[str, Any]:
        """What is kept of the whole study beside its spec."""
        with reachable(self.storage.url):
            return self.backend.user_attrs

    def set(self, name: str, value: Any) -> None:
        """Keeps something of the whole study."""
        with reachable(self.storage.url):
            self.backend.set_user_attr(name, value)

    def config(self, fields: Mapping[str, Any]) -> TrainConfig:
        """The configuration of a trial."""
        return with_fields(self.spec.config, fields)

    def run_folder(self, number: int, folder: Path | None = None) -> Path:
        """Of the trial of that number; `folder` is the study's, where this machine has it elsewhere."""
        return (folder or Path(self.spec.folder)) / "trials" / f"{number:0{DIGITS}d}"


def with_fields(config: TrainConfig, fields: Mapping[str, Any]) -> TrainConfig:
    """A configuration with fields changed, by dotted name, as in {"model.num_levels": 2, "seed": 1}.

    Raises:
      InputError: there is no such field, a value is not of its type or range, or the fields do not fit together.
    """
    values = configs.to_json(config)
    for name, value in fields.items():
        *path, last = name.split(".")
        inner: Any = values
        for part in path:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner or isinstance(inner[last], dict):
            raise InputError(f"{name} is no field of a configuration: see `ahmf train CONFIG --help` for their names")
        inner[last] = value
    return configs.from_json(values)


def open_study(storage: Storage, name: str) -> Study:
    """The study of that name. InputError where there is none, or it is another program's."""
    import optuna

    with reachable(storage.url):
        try:
            found = optuna.load_study(study_name=name, storage=storage.backend)
        except KeyError:
            names = ", ".join(optuna.get_all_study_names(storage.backend)) or "none"
            raise InputError(f"there is no study {name} in {storage.shown}: it has {names}") from None
        return _read(storage, name, found)


def make_study(
    storage: Storage,
    name: str,
    spec: Spec,
    *,
    rows: Sequence[Row] = (),
    space: Mapping[str, Any] | None = None,
    trials: int = 0,
) -> Study:
    """Makes a study and queues its trials, or what of them is not there yet in a study of that name.

    Args:
      storage: where.
      name: its name.
      spec: what its trials have in common.
      rows: the planned trials of levels or ablation: those that are not there yet are added.
      space: of a search, as JSON values.
      trials: of a search, in all: so many more are added as are missing.

    Raises:
      InputError: there is a study of that name with another spec or space.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning

    for row in rows:
        with_fields(spec.config, row.fields)  # all are checked before anything is written
    stored = {"format": FORMAT, "spec": json.loads(json.dumps(dataclasses.asdict(spec))), "space": space}
    with _alone(storage, f"study/{name}"), reachable(storage.url):
        names = optuna.get_all_study_names(storage.backend)
        if name in names:
            study = open_study(storage, name)
            problem = _differs(stored, study.backend.user_attrs[ATTRIBUTE])
            if problem:
                raise InputError(
                    f"there is a study {name} in {storage.shown} already, which differs in {problem}: choose another "
                    "name with --name, or give the same settings to go on with it"
                )
        else:
            made = optuna.create_study(
                study_name=name, storage=storage.backend, directions=["minimize"] * len(spec.objectives)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # only the dashboard's labels depend on it
                made.set_metric_names([OBJECTIVES[objective] for objective in spec.objectives])
            made.set_user_attr(ATTRIBUTE, stored)
            study = open_study(storage, name)
        there = study.trials()
        if spec.kind == "search":
            for _ in range(trials - len(there)):
                study.backend.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING))
        else:
            known = {json.dumps(trial.user_attrs["fields"], sort_keys=True) for trial in there}
            for row in rows:
                if json.dumps(dict(row.fields), sort_keys=True) not in known:
                    study.backend.add_trial(_planned(row))
        return study


def _planned(row: Row) -> "optuna.trial.FrozenTrial":
    """A trial that waits; its numbers are Optuna's parameters too, so that its own dashboard shows them."""
    import optuna

    numbers = {name: value for name, value in row.fields.items() if type(value) is int}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.WAITING,
        params=numbers,
        distributions={name: optuna.distributions.IntDistribution(0, 10**6) for name in numbers},
        user_attrs={"label": row.label, "fields": dict(row.fields)},
    )


def _read(storage: Storage, name: str, found: "optuna.Study") -> Study:
    stored = found.user_attrs.get(ATTRIBUTE)
    if not isinstance(stored, dict) or "spec" not in stored:
        raise InputError(f"study {name} in {storage.shown} was not made by `ahmf study`: name another")
    if stored.get("format") != FORMAT:
        raise InputError(
            f"study {name} in {storage.shown} is of format {stored.get('format')}, this program reads {FORMAT}: use "
            "the program that made it"
        )
    return Study(storage, name, configs.from_json(stored["spec"], Spec), stored.get("space"), found)


def _differs(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> str:
    """The first entry in which two records differ; "" where there is none."""
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            if problem := _differs(a, b, f"{prefix}{name}."):
                return problem
        elif a != b:
            return f"{prefix}{name}".removeprefix("spec.") + f" (there {b!r}, here {a!r})"
    return ""


class _alone:
    """What only one worker at a time may do to a study."""

    SECONDS, PATIENCE = 60.0, 120.0

    def __init__(self, storage: Storage, what: str) -> None:
        self._storage, self._what, self._worker = storage, what, worker_name()

    def __enter__(self) -> None:
        deadline = time.monotonic() + self.PATIENCE
        while not self._storage.take(self._what, self._worker, self.SECONDS):
            if time.monotonic() > deadline:
                raise InputError(f"{self._what} in {self._storage.shown} is being changed by another: try again")
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self._storage.release(self._what, self._worker)


def levels(numbers: Sequence[int], seeds: int, first: int = 0) -> list[Row]:
    """A trial for each number of levels and seed; seed by seed, so that what is finished can be compared early."""
    return [
        Row(f"m = {m}", {"model.num_levels": m, "seed": seed})
        for seed, m in itertools.product(range(first, first + seeds), numbers)
    ]


# Table VI of the paper: Models 0-6, the blocks of fusion and the directions of the recurrence.
MODELS = {
    0: ("concat", "none"),
    1: ("feb", "none"),
    2: ("frb", "none"),
    3: ("feb_frb", "none"),
    4: ("feb_frb", "forward"),
    5: ("feb_frb", "backward"),
    6: ("feb_frb", "both"),
}


def ablation(seeds: int, parts: Sequence[str] = (), first: int = 0) -> list[Row]:
    """Table VI's models in both variants, and the release with one part at a time as the paper has it."""
    rows = []
    for seed in range(first, first + seeds):
        for variant in ("release", "paper"):
            rows += [
                Row(
                    f"Model {number}, {variant}",
                    {"model.variant": variant, "model.fusion": fusion, "model.recurrence": recurrence, "seed": seed},
                )
                for number, (fusion, recurrence) in MODELS.items()
            ]
        rows += [Row(f"release, paper's {part}", {"model.swapped": [part], "seed": seed}) for part in parts]
    return rows
