"""`ahmf study`."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ahmf_jax import dscsan_forms, variants
from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import AHMFConfig, DSCSANConfig, PairsConfig, TrainConfig, WholeImages

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
    """Stop after so many trials, those that fail counted."""
    wait: bool = True
    """While other workers have trials, stay, to take those whose worker dies."""
    max_failures: int = 3
    """So many trials that fail in a row end the worker."""
    retry_failed: bool = False
    """First queue those again that failed."""
    lease: float = 60.0
    """Seconds without a sign of life after which a worker's trial is another's: more where the database is slow."""
    together: int | Literal["auto"] = 1
    """Trials at a time, of those that one program can train side by side; auto: 8 on an accelerator, 1 on the CPU."""

    def __post_init__(self) -> None:
        """Checks what a worker is told."""
        for name in ("most", "max_failures", "lease", "together"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 1 <= value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} {value}: give at least 1")

    def work(self, study: "Study", folder: Path | None = None, *, new: bool = True) -> None:
        """Does trials until none is left, and shows the study; its folder may be `new` here."""
        from experiments.studies.show import table
        from experiments.studies.storage import command, dashboard_command
        from experiments.studies.study import note_folder, retry_failed
        from experiments.studies.worker import work

        # What costs are measured by are other processes, which find nothing of a device where this one takes it whole.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        note_folder(study, folder, new=new)
        if self.retry_failed:
            print(f"study {study.name}: {retry_failed(study)} failed trials are queued again")
        show = command(study.storage, "study", "show", study.name)
        print(f"study {study.name}: to watch it: {show}, or {dashboard_command(study.storage)}", flush=True)
        work(
            study,
            folder=folder,
            data_dir=self.data_dir,
            most=self.most,
            max_failures=self.max_failures,
            wait=self.wait,
            lease=self.lease,
            together=self.together,
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
        from experiments.studies.storage import as_typed, command, default_url, open_storage
        from experiments.studies.study import check_data, make_study, note_folder

        check_data(spec, self.data_dir)
        whole = as_typed([word for word in sys.argv[1:] if word != "--create-only"])
        study = make_study(
            open_storage(self.storage or default_url(), create=True), name, spec, command=whole, **trials
        )
        if self.create_only:
            note_folder(study)
            worker = command(study.storage, "study", "worker", "--study", study.name)
            print(
                f"study {study.name}: {len(study.trials())} trials\nfor each worker: {worker}\n"
                f"when all are done, for what is made of them together (costs, tables, pictures): {whole}"
            )
        else:
            self.work(study)
        return study


@dataclass(frozen=True, kw_only=True)
class Planned(Begun):
    """A study whose trials are known beforehand."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    recipe: Annotated[TrainConfig | None, tyro.conf.Suppress] = None
    """The configuration before what the command line says."""
    seeds: int = 3
    """Trainings of each row, with seeds 0, 1, ..."""
    name: str
    """The study's name: the same command again goes on with it, and adds what is new."""

    def __post_init__(self) -> None:
        """Checks it, and keeps the recipe: the default of all that the command line may change."""
        super().__post_init__()
        if self.recipe is None:
            object.__setattr__(self, "recipe", self.config)
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: give at least 1")
        assert self.recipe is not None
        if self.config.seed != self.recipe.seed:
            raise InputError(f"--seed {self.config.seed}: the study's seeds are 0, 1, ...: say how many with --seeds")

    def carry_out(self, kind: Literal["levels", "ablation"], rows: "list[Row]") -> "Study":
        """Queues the rows, and does what is left to do."""
        return self.begin(self.name, self.spec_of(kind, self.name, self.config), rows=rows)


@dataclass(frozen=True, kw_only=True)
class StudyLevels(Planned):
    """Train a network for each number of levels, the paper's m, and measure what it brings and what it costs."""

    name: str = "levels"
    """The study's name: the same command again goes on with it, and adds what is new."""
    levels: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    """The numbers of levels."""
    costs: bool = True
    """Measure parameters, arithmetic, times and memory of every row, when all trials are done and this machine is
    quiet; once, and again on other hardware or where rows are added."""
    rounds: int = 5
    """Timed runs of each row, in turn."""

    def __post_init__(self) -> None:
        """Checks it."""
        super().__post_init__()
        assert self.recipe is not None
        levels = _ahmf(self.config).num_levels
        if levels != _ahmf(self.recipe).num_levels:
            raise InputError(f"--model.num-levels {levels}: the study sets it: use --levels")
        given = " ".join(map(str, self.levels))
        if not self.levels or min(self.levels) < 1:
            raise InputError(f"--levels {given}: give numbers of 1 or more, as in --levels 1 2 4 8")
        if len(set(self.levels)) < len(self.levels):
            raise InputError(f"--levels {given}: name each number once; --seeds says how often it is trained")
        if self.rounds < 1:
            raise InputError(f"--rounds {self.rounds}: give at least 1")

    def __call__(self) -> None:
        """Does it."""
        from experiments.studies import levels
        from experiments.studies.outcome import measure_costs
        from experiments.studies.worker import unfinished

        study = self.carry_out("levels", levels.plan(self.levels, self.seeds))
        if self.create_only:
            return
        folder = Path(study.spec.folder)
        made = levels.study_figures(study, folder)  # what is found is kept, whatever becomes of the costs
        if left := unfinished(study):
            print(f"study {study.name}: {left} trials are left; the costs are measured when all are done")
        elif self.costs:
            measure_costs(study, self.rounds)
            made = levels.study_figures(study, folder)
        print(f"{levels.summary(study)}\n\n{_listed(made)}")


@dataclass(frozen=True, kw_only=True)
class StudyAblation(Planned):
    """Train Models 0-6 of the paper's Table VI in both variants, and the release with each part as the paper has it.

    With a recipe of DSCSAN: the forms of its Table 4.
    """

    name: str = "ablation"
    """The study's name: the same command again goes on with it, and adds what is new."""
    parts: tuple[variants.Part, ...] = variants.PARTS
    """The parts in which the variants differ that are tried one by one; none of them if nothing follows."""

    def __post_init__(self) -> None:
        """Checks it."""
        super().__post_init__()
        model = _ahmf(self.config)
        for name, value in vars(AHMFConfig()).items():
            given = getattr(model, name)
            if name in ("variant", "swapped", "fusion", "recurrence") and given != value:
                shown = " ".join(given) if isinstance(given, tuple) else given
                raise InputError(f"--model.{name} {shown}: the study tries all of them: leave it at its default")
        if len(set(self.parts)) < len(self.parts):
            raise InputError(f"--parts {' '.join(self.parts)}: name each once; --seeds says how often it is trained")

    def __call__(self) -> None:
        """Does it."""
        from experiments.studies import ablation
        from experiments.studies.standing import read

        study = self.carry_out("ablation", ablation.plan(self.seeds, self.parts))
        if self.create_only:
            return
        folder = Path(study.spec.folder)
        ablation.draw_features(study, folder, self.data_dir)
        made = ablation.study_figures(study, folder)
        print(f"{ablation.findings(read(study)).printed()}\n\n{_listed(made)}")


@dataclass(frozen=True, kw_only=True)
class StudyForms(Planned):
    """Train the forms C1 to C5 of DSCSAN's Table 4, each about as deep as the recipe's network, which is C5."""

    name: str = "dscsan_ablation"
    """The study's name: the same command again goes on with it, and adds what is new."""
    forms: tuple[dscsan_forms.Form, ...] = tuple(dscsan_forms.FORMS)
    """The forms: C1 is RCAN, C2 that with the attention, C3 with bilayer blocks, C4 with both, C5 in stages."""

    def __post_init__(self) -> None:
        """Checks it."""
        super().__post_init__()
        model, given = self._model, " ".join(self.forms)
        for name, value in dscsan_forms.FORMS["C5"].items():
            if getattr(model, name) != value:
                raise InputError(f"--model.{name} {getattr(model, name)}: the forms set it: leave it at {value}")
        if not self.forms or len(set(self.forms)) < len(self.forms):
            raise InputError(f"--forms {given}: name one or more, each once; --seeds says how often it is trained")
        if model.scale == 2 and {"C4", "C5"} <= {*self.forms}:
            raise InputError(
                f"--forms {given}: at x2 the only stage of C5 is its output, which makes it C4: leave one of them out"
            )
        if "C5" in self.forms and model.stages and not self.config.stage_weights:
            raise InputError(
                f"--stage-weights is empty: the stages of C5 are supervised: give {model.stages}, coarse to fine"
            )

    def __call__(self) -> None:
        """Does it."""
        from experiments.studies import forms
        from experiments.studies.standing import read

        study = self.carry_out("ablation", forms.plan(self._model, self.seeds, self.forms))
        if self.create_only:
            return
        made = forms.study_figures(study, Path(study.spec.folder))
        print(f"{forms.findings(read(study)).printed()}\n\n{_listed(made)}")

    @property
    def _model(self) -> DSCSANConfig:
        assert isinstance(self.config.model, DSCSANConfig), "study_ablation makes it"
        return self.config.model


def study_ablation(config: TrainConfig) -> StudyAblation | StudyForms:
    """The ablation that there is for the recipe's model."""
    return StudyForms(config=config) if isinstance(config.model, DSCSANConfig) else StudyAblation(config=config)


def _ahmf(config: TrainConfig) -> AHMFConfig:
    """The configuration's model; where it is another, the InputError says what there is for that."""
    try:
        return configs.ahmf(config)
    except InputError as error:
        raise InputError(
            f"{error}; any field of another model is tried by `ahmf study search SPACE.py`, as model.channels is by "
            "Choose(16, 32, 64): docs/studies.md"
        ) from None


def _listed(made: "list[Path]") -> str:
    """Files of one folder, in a line."""
    return f"in {made[0].parent}: {', '.join(path.name for path in made)}"


@dataclass(frozen=True, kw_only=True)
class StudySearch(Begun):
    """Search a space of settings for those with the smallest error, or time and memory beside it."""

    space: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SPACE")]
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

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
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
        """Does them.

        What may be mended while nobody looks, a database that is away or a disk that is full, is no bad input.
        """
        from ahmf_jax.writing import Unwritable
        from experiments.config import Stopped
        from experiments.studies.storage import Unreachable, default_url
        from experiments.studies.worker import join

        try:
            study = join(self.storage or default_url(), self.study_name)
            self.work(study, self.out, new=self.out is not None)
        except (Unreachable, Unwritable) as problem:
            raise Stopped(f"stopped: {problem}") from None


@dataclass(frozen=True, kw_only=True)
class StudyShow(Kept):
    """A study's trials and what they found so far, while workers are at it or after."""

    name: tyro.conf.Positional[str]
    """The study."""
    all: bool = False
    """Every trial by itself; otherwise the rows of levels and ablation, or a search's best trials."""
    watch: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """Show it again every so many seconds, until all is done or Ctrl-C."""

    def __call__(self) -> None:
        """Prints the tables."""
        from experiments.studies.show import show, watch

        if self.watch is None:
            show(self.study(self.name), every=self.all)
            return
        if not 0.1 <= self.watch <= 86400:
            raise InputError(f"--watch {self.watch:g}: give seconds, from 0.1 to 86400")
        watch(self.study(self.name), self.watch, every=self.all)


@dataclass(frozen=True, kw_only=True)
class StudyMaps:
    """Draw what the recurrence over the levels makes of the features of each, by any weights: the paper's Figure 10."""

    weights: tyro.conf.Positional[Path]
    """A run's folder, or a .safetensors file."""
    depth: Path
    """Low-resolution depth, in the unit of what the weights were trained on: a file as `ahmf upsample` takes it."""
    guide: Path
    """Colour picture, the weights' scale times as high and wide."""
    out: Path
    """The .png, .pdf or .svg file to write."""
    invalid: float | None = None
    """Depth value that means unknown, such as 0 or nan."""

    def __call__(self) -> None:
        """Draws it."""
        from ahmf_jax.upsample import load_trained
        from experiments.feature_maps import feature_maps, read_batch, write

        trained = load_trained(self.weights)
        batch = read_batch(trained, self.depth, self.guide, invalid=self.invalid)
        write(feature_maps(trained, batch), self.out)
        print(self.out)


StudyCommand = (
    Annotated[StudyLevels, tyro.conf.subcommand("levels")]
    | Annotated[StudyAblation, tyro.conf.subcommand("ablation")]
    | Annotated[StudySearch, tyro.conf.subcommand("search")]
    | Annotated[StudyWorker, tyro.conf.subcommand("worker")]
    | Annotated[StudyShow, tyro.conf.subcommand("show")]
    | Annotated[StudyBest, tyro.conf.subcommand("best")]
    | Annotated[StudyMaps, tyro.conf.subcommand("maps")]
)
