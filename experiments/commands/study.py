"""`ahmf study`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ahmf_jax.errors import InputError
from experiments.config import PairsConfig, TrainConfig, WholeImages

if TYPE_CHECKING:
    from experiments.studies.study import Row, Spec, Study


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where studies are."""

    storage: str | None = None
    """URL of the database that the workers share: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE (default:
    $AHMF_STUDIES or sqlite:///studies/studies.db)."""

    def study(self, name: str) -> "Study":
        """The study of that name."""
        from experiments.studies.storage import default_url, open_storage
        from experiments.studies.study import open_study

        return open_study(open_storage(self.storage or default_url()), name)


@dataclass(frozen=True, kw_only=True)
class Works(Kept):
    """How a worker does its trials."""

    data_dir: Path | None = None
    """Where data sets are prepared (default: $AHMF_DATA_DIR or the user's cache)."""
    most: int | None = None
    """Stop after so many trials."""
    wait: bool = True
    """While other workers have trials, stay, to take those whose worker dies."""
    max_failures: int = 3
    """So many trials that fail in a row end the worker."""
    retry_failed: bool = False
    """First queue those again that failed."""
    lease: float = 60.0
    """Seconds without a sign of life after which a worker's trial is another's: more where the database is slow."""

    def __post_init__(self) -> None:
        """Checks what a worker is told."""
        for name, value in (("most", self.most), ("max-failures", self.max_failures), ("lease", self.lease)):
            if value is not None and not 1 <= value < float("inf"):
                raise InputError(f"--{name} {value}: give at least 1")

    def work(self, study: "Study", folder: Path | None = None, *, new: bool = True) -> None:
        """Does trials until none is left, and shows the study; its folder may be `new` here."""
        from experiments.studies.show import table
        from experiments.studies.storage import dashboard_command
        from experiments.studies.study import note_folder, retry_failed
        from experiments.studies.worker import work

        note_folder(study, folder, new=new)
        if self.retry_failed:
            print(f"study {study.name}: {retry_failed(study)} failed trials are queued again")
        print(f"study {study.name}: to watch it: ahmf study show {study.name}, or {dashboard_command(study.storage)}")
        work(
            study,
            folder=folder,
            data_dir=self.data_dir,
            most=self.most,
            max_failures=self.max_failures,
            wait=self.wait,
            lease=self.lease,
        )
        print(table(study))


@dataclass(frozen=True, kw_only=True)
class Begun(Works):
    """A study that is made, or gone on with."""

    out: Path | None = None
    """Folder of its runs (default: studies/NAME)."""
    dataset: str = ""
    """What the trained networks are measured on, as in `ahmf evaluate`; by default what they validate on."""
    split: str | None = None
    """Its split, as in `ahmf evaluate`."""
    protocol: WholeImages | None = None
    """How, as in `ahmf evaluate`."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    create_only: bool = False
    """Only queue the trials, for `ahmf study worker`."""

    def spec_of(
        self, kind: Literal["levels", "ablation", "search"], name: str, config: TrainConfig, **more: Any
    ) -> "Spec":
        """What the trials of the study of that name have in common."""
        from experiments.studies.study import Measured, Spec

        out = (self.out or Path("studies") / name).resolve()
        measured = Measured(self.dataset, self.split, self.pairs, self.protocol)
        return Spec(kind, config, measured, str(out), **more)

    def begin(self, name: str, spec: "Spec", **trials: Any) -> "Study":
        """Queues the trials that `make_study` is given, and does what is left to do."""
        from experiments.studies.storage import default_url, open_storage
        from experiments.studies.study import make_study, note_folder

        study = make_study(open_storage(self.storage or default_url(), create=True), name, spec, **trials)
        if self.create_only:
            note_folder(study)
            print(f"study {study.name}: {len(study.trials())} trials; ahmf study worker --study {study.name}")
        else:
            self.work(study)
        return study


@dataclass(frozen=True, kw_only=True)
class Planned(Begun):
    """A study whose trials are known beforehand."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    seeds: int = 3
    """Trainings of each row, with seeds 0, 1, ..."""
    name: str
    """The study's name: the same command again goes on with it, and adds what is new."""

    def spec(self, kind: Literal["levels", "ablation"]) -> "Spec":
        """What its trials have in common."""
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: give at least 1")
        return self.spec_of(kind, self.name, self.config)

    def carry_out(self, spec: "Spec", rows: "list[Row]") -> "Study":
        """Queues the rows, and does what is left to do."""
        return self.begin(self.name, spec, rows=rows)


@dataclass(frozen=True, kw_only=True)
class StudyLevels(Planned):
    """Train a network for each number of levels, the paper's m, and measure what it costs and what it brings."""

    name: str = "levels"
    """The study's name: the same command again goes on with it, and adds what is new."""
    levels: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    """The numbers of levels."""

    def __call__(self) -> None:
        """Does it."""
        from experiments.studies.study import levels

        self.carry_out(self.spec("levels"), levels(self.levels, self.seeds))


@dataclass(frozen=True, kw_only=True)
class StudyAblation(Planned):
    """Train Models 0-6 of the paper's Table VI in both variants, and the release with each part as in the paper."""

    name: str = "ablation"
    """The study's name: the same command again goes on with it, and adds what is new."""
    parts: tuple[str, ...] = ()
    """The parts."""

    def __call__(self) -> None:
        """Does it."""
        from experiments.studies.study import ablation

        self.carry_out(self.spec("ablation"), ablation(self.seeds, self.parts))


@dataclass(frozen=True, kw_only=True)
class StudySearch(Begun):
    """Search a space of settings for those with the smallest error, or time and memory beside it."""

    space: tyro.conf.Positional[str]
    """Name of a space, or a Python file: what is searched, and what for."""
    name: str = ""
    """The study's name (default: the space's): the same command again goes on with it."""
    trials: int | None = None
    """How many, those of an earlier command counted (default: the space's)."""

    def __call__(self) -> None:
        """Searches."""
        from experiments.studies import space
        from experiments.studies.best import summary

        if self.trials is not None and self.trials < 1:
            raise InputError(f"--trials {self.trials}: give at least 1")
        found, name = space.load(self.space), self.name or Path(self.space).stem
        spec = self.spec_of(
            "search", name, found.base, objectives=tuple(found.objectives), prune=found.pruning is not None
        )
        study = self.begin(name, spec, space=found.to_json(), trials=self.trials or found.trials)
        if not self.create_only:
            print(summary(study))


@dataclass(frozen=True, kw_only=True)
class StudyBest(Kept):
    """Write the configuration of a study's best trial, which `ahmf train` trains again to the same numbers."""

    name: tyro.conf.Positional[str]
    """The study."""
    out: Path
    """The Python file to write."""
    by: Literal["mae", "rmse", "time", "memory"] | None = None
    """What is compared: by default the study's first objective. Of a study of several seeds the row with the best mean
    is taken, and of it the trial of the first seed."""
    trial: int | None = None
    """Not the best, but the trial of this number."""
    overwrite: bool = False
    """Even a file that this command has not written."""

    def __call__(self) -> None:
        """Writes it."""
        from experiments.studies.best import write_best

        study = self.study(self.name)
        found = write_best(study, self.out, by=self.by, trial=self.trial, overwrite=self.overwrite)
        print(f"{self.out}: trial {found.trial.number} of study {study.name}, {found.why}")


@dataclass(frozen=True, kw_only=True)
class StudyWorker(Works):
    """Do a study's trials, beside any number of other workers; may be killed at any time."""

    study_name: Annotated[str, tyro.conf.arg(name="study")]
    """The study."""
    out: Path | None = None
    """Folder of its runs, where this machine has it elsewhere; one that others do not see serves too, but what a worker
    that died there had trained is trained again."""

    def __call__(self) -> None:
        """Does them."""
        self.work(self.study(self.study_name), self.out, new=self.out is not None)


@dataclass(frozen=True, kw_only=True)
class StudyShow(Kept):
    """A study's trials and what they found so far."""

    name: tyro.conf.Positional[str]
    """The study."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.studies.show import table

        print(table(self.study(self.name)))


StudyCommand = (
    Annotated[StudyLevels, tyro.conf.subcommand("levels")]
    | Annotated[StudyAblation, tyro.conf.subcommand("ablation")]
    | Annotated[StudySearch, tyro.conf.subcommand("search")]
    | Annotated[StudyWorker, tyro.conf.subcommand("worker")]
    | Annotated[StudyShow, tyro.conf.subcommand("show")]
    | Annotated[StudyBest, tyro.conf.subcommand("best")]
)
