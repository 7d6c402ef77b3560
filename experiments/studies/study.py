"""What a study is: its question, its configuration, and its trials, as they stand in the storage.

A study is an Optuna study. All of its trials are queued when it is made, so that any number of workers does each once:
planned ones (levels, ablation) with the fields of the configuration that they change, those of a search empty, to be
filled by the sampler when a worker takes one. What a trial found is in its user attributes:

=============  ====================================================================================
`label`        what it is called in tables; trials of one label differ in the seed alone
`fields`       the configuration's fields that it changes, by dotted name
`config`       the whole configuration
`folder`       its run, below the study's folder
`provenance`   version, commit, libraries, hardware, as it was begun
`provenances`  all of them, where it went on with others
`workers`      who had it
`metrics`      of the evaluation: mean over the images, by metric; `floor` the interpolation's
`images`       the metrics of each
`protocol`     of the evaluation
`parameters`   of its network
`unit`         of MAE and RMSE
`training`     `steps`, `seconds`: of the training alone, without compiling and validating
`cost`         of its network: see `experiments.studies.cost`
`pruned`       the `step` at which it was given up, and its `value`; None where it went on after all
`reason`       why it failed
`deaths`       where workers died with it: the step of its last checkpoint then, -1 for none
`retry_of`     the number of the failed trial that it repeats
=============  ====================================================================================
"""

import dataclasses
import json
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ahmf_jax.errors import InputError
from ahmf_jax.writing import unwritable, write_whole
from experiments import config as configs
from experiments.config import PairsConfig, TrainConfig, WholeImages
from experiments.studies.storage import (
    STORAGE,
    Storage,
    default_url,
    from_anywhere,
    open_storage,
    reachable,
    with_password,
    without_password,
)

if TYPE_CHECKING:
    import optuna

ATTRIBUTE, FORMAT = "ahmf", 1
RECORD = "study.json"  # in a study's folder: its name, and where it is kept
TRIALS = "trials"  # there: the runs
RETRY = "retry_of"
FACTS = ("name", "storage", "uuid")  # of study.json
MOST_LETTERS, MOST_BYTES = 100, 10_000  # of a study's name, and of study.json
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
    uuid: str
    """Tells studies of one name apart; the name, for one that was made before there were any."""

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
        return (folder or Path(self.spec.folder)) / TRIALS / f"{number:0{DIGITS}d}"


def lease_of(study: Study, number: int) -> str:
    """The name of a trial's lease in the storage."""
    return f"trial/{study.name}/{number}"


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
    command: str = "",
) -> Study:
    """Makes a study and queues its trials, or what of them is not there yet in a study of that name.

    Args:
      storage: where.
      name: its name.
      spec: what its trials have in common.
      rows: the planned trials of levels or ablation: those that are not there yet are added.
      space: of a search, as JSON values.
      trials: of a search, in all: so many more are added as are missing.
      command: what makes it, kept as its attribute `command` if it is new, or gets more trials.

    Raises:
      InputError: there is a study of that name with another spec or space; there is none, and the folder is another's.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning

    _check_name(name)
    for row in rows:
        with_fields(spec.config, row.fields)  # all are checked before anything is written
    stored = {"format": FORMAT, "spec": _as_json(spec), "space": space, "uuid": uuid.uuid4().hex}
    with storage.alone(f"study/{name}") as go_on, reachable(storage.url):
        if name in optuna.get_all_study_names(storage.backend):
            found = optuna.load_study(study_name=name, storage=storage.backend)
        else:
            # Before anything is written: with another --out it would be another study under the same name.
            _check_folder(Path(spec.folder), name, "")
            found = optuna.create_study(
                study_name=name, storage=storage.backend, directions=["minimize"] * len(spec.objectives)
            )
        # One whose maker was killed before it said what the study is.
        if not found.user_attrs and not found.trials and len(found.directions) == len(spec.objectives):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # only the dashboard's labels depend on it
                found.set_metric_names([OBJECTIVES[objective] for objective in spec.objectives])
            found.set_user_attr(ATTRIBUTE, stored)
        study = _read(storage, name, found)
        # As this program reads it: a field that is newer than the study has its default there too.
        if problem := _differs(stored, {**stored, "spec": _as_json(study.spec), "space": study.space}):
            raise InputError(
                f"there is a study {name} in {storage.shown} already, which differs in {problem}: choose another "
                "name with --name, or give the same settings to go on with it"
            )
        there = study.trials()
        if spec.kind == "search":
            retried = sum(RETRY in trial.user_attrs for trial in there)
            missing = [
                optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING)
                for _ in range(trials + retried - len(there))
            ]
        else:
            known = {json.dumps(trial.user_attrs["fields"], sort_keys=True) for trial in there}
            missing = [_planned(row) for row in rows if json.dumps(dict(row.fields), sort_keys=True) not in known]
        if command and (missing or "command" not in study.attributes()):
            study.set("command", command)
        for trial in missing:
            study.backend.add_trial(trial)
            go_on()
        return study


def _check_name(name: str) -> None:
    """Of a study: it is shown in lines and tables, given in commands, and names a folder and the trials' leases."""
    wrong = not name.strip(" .") or len(name) > MOST_LETTERS or not name.isprintable()
    if wrong or name.startswith("-") or "/" in name or "\\" in name:
        raise InputError(
            f"--name {name[:MOST_LETTERS]!r}: give a name of 1 to {MOST_LETTERS} printable letters that can name a "
            "folder too: without / and \\, not of dots alone, and with no - in front"
        )


def _as_json(spec: Spec) -> dict[str, Any]:
    """As it is when it was stored and read again."""
    values: dict[str, Any] = json.loads(
        json.dumps({**dataclasses.asdict(spec), "config": configs.to_json(spec.config)})
    )
    return values


def retry_failed(study: Study) -> int:
    """Queues what failed again, each once: as a new trial, beside the old one with its reason; returns how many.

    One that fails again may be queued again in turn.
    """
    import optuna

    with study.storage.alone(f"study/{study.name}") as go_on, reachable(study.storage.url):
        there = study.trials()
        again = {trial.user_attrs.get(RETRY) for trial in there}
        failed = [t for t in there if t.state == optuna.trial.TrialState.FAIL and t.number not in again]
        for trial in failed:
            # The label of a search's trial is its number.
            names = ("fields",) if study.spec.kind == "search" else ("fields", "label")
            kept: dict[str, Any] = {name: trial.user_attrs[name] for name in names if name in trial.user_attrs}
            study.backend.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.WAITING,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={**kept, RETRY: trial.number},
                )
            )
            go_on()
    return len(failed)


def note_folder(study: Study, folder: Path | None = None, *, new: bool = True) -> None:
    """Says in a study's folder which study it is of, for `study_of_folder`.

    Args:
      study: which.
      folder: of its runs, where this machine has it elsewhere.
      new: whether the folder may be new here; a worker that does not see the others' runs would begin them anew.

    Raises:
      InputError: the folder cannot be written, or is another study's, or has runs and does not say of which, or is not
        there and may not be new.
    """
    folder = folder or Path(study.spec.folder)
    stored = {"name": study.name, "storage": from_anywhere(study.storage), "uuid": study.uuid}
    path = folder / RECORD
    if not new and not path.exists():
        raise InputError(
            f"{folder}: this machine does not see the folder of study {study.name}: mount it there, or name where it "
            "is, or a folder of this machine's own, with --out"
        )
    _check_folder(folder, study.name, study.uuid)
    if path.exists() and _folder_record(folder) == stored:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    write_whole(path, (json.dumps(stored, indent=1) + "\n").encode())


def _check_folder(folder: Path, name: str, uuid: str) -> None:
    """InputError where a folder is not the study's: it says that it is another's, or has runs and says nothing."""
    if (folder / RECORD).exists():
        there = _folder_record(folder)
        if there["uuid"] != uuid:
            whose = "another study of that name" if there["name"] == name else f"study {there['name']}"
            raise InputError(f"{folder} is the folder of {whose}: choose another with --out")
    elif (folder / TRIALS).exists():
        raise InputError(f"{folder} has runs, and no {RECORD} that says of which study: choose another with --out")


def study_of_folder(folder: Path, storage: str | None = None) -> Study:
    """The study whose runs are in that folder, wherever it is now.

    Its storage is the one that study.json names, unless another is given. A folder may be a stranger's, so a server is
    called only where $AHMF_STUDIES names the same, with its password.
    """
    record = _folder_record(folder)
    url = storage or with_password(record["storage"])
    if storage is None and not url.startswith("sqlite") and url != default_url():
        raise InputError(
            f"{folder / RECORD}: names {without_password(url)}, which is not ${STORAGE}: if that server is yours, give "
            "it with --storage"
        )
    study = open_study(open_storage(url), record["name"])
    if study.uuid != record["uuid"]:
        raise InputError(
            f"{folder} is the folder of another study {study.name} than the one in {study.storage.shown}: give the "
            "storage of its own with --storage"
        )
    return dataclasses.replace(study, spec=dataclasses.replace(study.spec, folder=str(folder.resolve())))


def _folder_record(folder: Path) -> dict[str, str]:
    """What study.json says: `name`, `storage` and `uuid`."""
    path = folder / RECORD
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        found = json.loads(text) if len(text) <= MOST_BYTES else None
    except FileNotFoundError:
        raise InputError(f"{folder} is no study's folder: it has no {RECORD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}): give the study by its name and --storage") from None
    if isinstance(found, dict):
        found = {"uuid": found.get("name"), **found}
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in FACTS):
        raise InputError(f"{path}: does not say which study this is: give it by its name and --storage")
    return {name: found[name] for name in FACTS}


def check_data(spec: Spec, data_dir: Path | None) -> None:
    """InputError where a data set has no colour, and the networks that are trained or measured on it read a guide.

    And where it is said how to read a folder to measure on, and none is named. Of those that are here, of which no
    image is read; others may be where the workers are.
    """
    from data_pipelines import datasets
    from experiments.data import default_split, open_named, refuse_pairs
    from experiments.train import check_colour

    data_dir = data_dir or datasets.default_data_dir()
    there = datasets.prepared_names(data_dir)
    data, measured = spec.config.data, spec.measured
    trained = [(data.dataset, data.validation), *((part.name, part.split) for part in data.training())]
    used = [(name, split, data.pairs, True) for name, split in trained]
    if measured.dataset:
        split = default_split(measured.dataset, data_dir) if measured.split is None else measured.split
        used.append((measured.dataset, split, measured.pairs, False))
        if measured.dataset in there:
            refuse_pairs(measured.pairs, f"{measured.dataset} is a prepared data set", "name a folder with --dataset")
    else:
        refuse_pairs(measured.pairs, "no --dataset is named", "name one")
    for name, split, pairs, training in used:
        if name in there:
            check_colour(spec.config, datasets.describe(name, data_dir).info)
        elif name not in datasets.DATASETS and Path(name).is_dir():
            check_colour(spec.config, open_named(name, split, data_dir, pairs, training).info)


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
    spec = configs.from_json(stored["spec"], Spec)
    return Study(storage, name, spec, stored.get("space"), found, stored.get("uuid", name))


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
