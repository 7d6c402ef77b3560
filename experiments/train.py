"""`ahmf train`: a configuration in, a run's folder out.

A run is its folder: `config.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard's files. The same command given again
goes on where it stopped, or says that there is nothing left to do. With several processes, all do what is in here, and
the first alone writes and speaks.
"""

import contextlib
import dataclasses
import functools
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ahmf_jax.errors import InputError
from ahmf_jax.writing import Unwritable, unwritable, write_whole
from experiments import config as configs
from experiments.config import DataConfig, Stopped, TrainConfig
from experiments.data import open_training, open_validation, trained_on_tests
from experiments.run_log import RunLog, open_log

if TYPE_CHECKING:
    from ahmf_jax.models import Model
    from ahmf_jax.stopping import Stop
    from ahmf_jax.train import Progress
    from data_pipelines.datasets import Dataset, DatasetInfo

# Told of a validation: the step, and its means ("mae", "rmse", "floor_mae", "floor_rmse", in the data's unit).
OnValidation = Callable[[int, Mapping[str, float]], None]
NONFINITE, PROFILE = "nonfinite", "profile"
PATIENCE = 5.0  # seconds that the first step may take before it is said why
# Changing these changes no number (but for rounding): a run may be gone on with by others.
INDIFFERENT = {"mesh", "fsdp", "on_save_error", "keep_last", "keep_best", "samples"} | {
    f"data.{name}" for name in ("workers", "cache", "on_corrupt")
}


def untold(step: int, means: Mapping[str, float]) -> None:
    """The `OnValidation` of a run whose validations nobody waits for."""


def train(
    config: TrainConfig,
    out: Path,
    *,
    data_dir: Path | None = None,
    profile: tuple[int, int] | None = None,
    on_validation: OnValidation = untold,
    stop: "Stop | None" = None,
) -> Path:
    """Trains the run in folder `out`: a new one, or the rest of one of this configuration.

    Args:
      config: of the run.
      out: the run's folder; where several processes train, all of them must see it.
      data_dir: where data sets are prepared.
      profile: the first and the last step of which to write a trace.
      on_validation: called in the main process after each validation that this call makes. What it raises ends the run
        when the validation's checkpoint is complete, and comes out of here; the run may be gone on with.
      stop: of a caller who hears signals itself, as one with many runs does; without, they are heard here.

    Returns:
      `out`.

    Raises:
      InputError: something in the configuration, the data or the folder; before anything is trained.
      Stopped: by a signal, after saving.
    """
    from ahmf_jax import distributed
    from ahmf_jax.stopping import stop_on_signal
    from ahmf_jax.train import Profile, fit

    out = Path(out)
    for process, other in enumerate(distributed.gather(configs.to_json(config))):
        if problem := _difference(configs.to_json(config), other):
            raise InputError(f"process {process} was given another configuration: {problem}; give all the same")
    with distributed.agreed():
        finished = standing(config, out) == "done"
    if finished:
        say(f"{out} is done: all of its {config.steps} steps are trained")
        return out
    with distributed.main_first():  # what is generated or cached for it, is so once
        task = Task(config, data_dir)
    with (
        contextlib.nullcontext(stop) if stop else stop_on_signal() as stop,
        Bar() as bar,
        open_run(task, out, on_validation=on_validation, stop=stop, bar=bar) as (state, progress),
        first_step_explained(progress),
    ):
        traced = Profile(*profile, out / PROFILE) if profile else None
        fit(state, task.batches, progress, mesh=task.mesh, stop=stop, profile=traced)
    return out


def resume(
    run: Path,
    *,
    data_dir: Path | None = None,
    profile: tuple[int, int] | None = None,
    data: dict[str, Any] | None = None,
    **changed: Any,
) -> Path:
    """Goes on with the run in folder `run`, with the configuration it was started with.

    Args:
      run: its folder.
      data_dir, profile: as in `train`.
      data: fields of `DataConfig` that change no batch, for this time: those of `INDIFFERENT`.
      **changed: fields of `TrainConfig`, for this time: those of `INDIFFERENT`.
    """
    config = configs.of_run(Path(run))
    config = dataclasses.replace(config, **changed, data=dataclasses.replace(config.data, **(data or {})))
    return train(config, run, data_dir=data_dir, profile=profile)


def default_out(name: str, config: TrainConfig) -> Path:
    """The folder of a run: runs/NAME, or NAME-2, NAME-3, ... where that holds another."""
    stem = Path(name).stem
    for number in range(1, 10_000):
        out = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            standing(config, out)
        except InputError:
            continue
        return out
    raise InputError(f"runs/{stem}-9999 is taken: choose a folder with --out")


def standing(config: TrainConfig, out: Path) -> Literal["new", "unfinished", "done"]:
    """How far the run of this configuration in folder `out` is; "new" too where it has no checkpoint to go on from.

    Raises:
      InputError: there is another run, or what is no run.
    """
    from ahmf_jax.checkpoint import CONFIG, latest_step, read_facts

    if not (out / CONFIG).exists():
        return "new"
    if problem := _difference(configs.to_json(config), configs.to_json(configs.of_run(out)), INDIFFERENT):
        raise InputError(f"{out} holds another run: {problem}; choose another folder with --out")
    if not has_checkpoint(out):
        return "new"
    step = latest_step(out)
    if step < config.steps:
        return "unfinished"
    try:
        return "done" if read_facts(out, step)["validated"] else "unfinished"
    except InputError:
        return "unfinished"  # it goes on from an earlier one, and says so


def has_checkpoint(run: Path) -> bool:
    """Whether there is a state to go on from."""
    from ahmf_jax.checkpoint import latest_step

    try:
        return latest_step(run) >= 0
    except InputError:
        return False


def _difference(ours: dict[str, Any], theirs: dict[str, Any], ignored: Collection[str] = (), prefix: str = "") -> str:
    """The first field in which two configurations differ; "" where there is none."""
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = (json.loads(json.dumps(values.get(name))) for values in (ours, theirs))
        if isinstance(a, dict) and isinstance(b, dict):
            if problem := _difference(a, b, ignored, f"{prefix}{name}."):
                return problem
        elif a != b and f"{prefix}{name}" not in ignored:
            return f"its {prefix}{name} is {b!r}, here it is {a!r}"
    return ""


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None


@contextlib.contextmanager
def _new_run(config: TrainConfig, out: Path, trained: dict[str, Any], made: bool) -> Iterator[None]:
    """Writes the configuration of a new run into its folder.

    What fails before its first checkpoint is taken away, the folder too if it was `made` for it.
    """
    from ahmf_jax.checkpoint import CONFIG

    stored = {"train": configs.to_json(config), "trained": trained}
    write_whole(out / CONFIG, json.dumps(stored, indent=1).encode())
    try:
        yield
    except BaseException:
        if not has_checkpoint(out):
            if made:
                shutil.rmtree(out, ignore_errors=True)
            else:
                (out / CONFIG).unlink(missing_ok=True)
        raise


def say(line: str) -> None:
    """A line on stdout, above the bar; of the first process alone."""
    from tqdm import tqdm

    from ahmf_jax import distributed

    if distributed.is_main():
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def note(line: str) -> None:
    """A line on stderr, above the bar; of the first process alone."""
    from tqdm import tqdm

    from ahmf_jax import distributed

    if distributed.is_main():
        tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def first_step_explained(progress: "Progress") -> Iterator[None]:
    """In here it is said what is going on where the first step takes more than a moment."""
    first = progress.step

    def tell() -> None:
        if progress.step == first:
            note(f"step {first + 1} waits for its program to be compiled, which may take minutes, and for its batch")

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True  # it is nothing to wait for
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_prepared(data: DataConfig, data_dir: Path | None) -> None:
    """InputError where a data set is missing that a recipe, in its first lines, says how to prepare under that name."""
    from data_pipelines import datasets

    data_dir = data_dir or datasets.default_data_dir()
    there = {*datasets.DATASETS, *datasets.prepared_names(data_dir)}
    recipes = [(configs.CONFIGS / f"{name}.py").read_text("utf-8") for name in configs.names()]
    for name, *_ in data.training():
        if name in there or Path(name).is_dir():
            continue
        command = rf"^ +(ahmf data prepare .*--name {re.escape(name)})$"
        if found := re.search(command, "\n".join(recipes), re.MULTILINE):
            raise InputError(f"data set {name!r} is not in {data_dir}: build it first (`{found[1]}`)")


def check_colour(config: TrainConfig, info: "DatasetInfo") -> None:
    """InputError where a data set has no colour, and the model reads a guide."""
    if info.colour or not config.model.guided:
        return
    from ahmf_jax.models import OF_DEPTH_ALONE

    raise InputError(
        f"data set {info.name} has no colour, which {config.model.name} is guided by: choose one that has, or a model "
        f"of depth alone ({', '.join(OF_DEPTH_ALONE)})"
    )


def check_patch(data: DataConfig, training: "Sequence[Dataset]") -> None:
    """InputError where a patch is larger than an image of what is trained on; none is decoded."""
    high, wide = (side * data.degrade.reduce for side in data.patch)  # as stored
    for dataset in training:
        for index, name in enumerate(dataset.names):
            try:
                height, width = dataset.size(index)
            except InputError:  # of a file that cannot be read `data.on_corrupt` decides, when its turn comes
                continue
            if height < high or width < wide:
                raise InputError(
                    f"{name} of data set {dataset.info.name} is {height} x {width} (height x width), smaller than the "
                    f"patch of {high} x {wide}: choose a smaller DataConfig.patch_size or DataConfig.patch_width"
                )


class Task:
    """What a configuration needs before its folder is touched: mesh, model, optimiser, and data, all checked.

    Args:
      config: of the run.
      data_dir: where data sets are prepared.
      beside: the devices of a run that is trained beside others, in a lane of one of them, whatever mesh its
        configuration asks for. What it does apart from the others (start, validate, save) it does on the first.
    """

    def __init__(self, config: TrainConfig, data_dir: Path | None, beside: Sequence[Any] = ()) -> None:
        from ahmf_jax import sharding
        from ahmf_jax.export import model_fields
        from ahmf_jax.models import name_of
        from data_pipelines.loader import train_loader
        from experiments.validation import validation_protocol

        data = config.data
        self.config = config
        self.model = config.model.build()
        # An image that cannot be padded is not divided over devices either.
        rows = data.patch_size // config.model.scale if self.model.paddable else 1
        if config.mesh != "auto" and sharding.parse_mesh(config.mesh)[1] > 1 and not self.model.paddable:
            raise InputError(
                f"--mesh {config.mesh}: {self.model.summary()} is not divided by height: give data=N alone"
            )
        self.beside_others = bool(beside)
        if beside:
            self.mesh = sharding.make_mesh(1, 1, beside[:1])
        else:
            self.mesh = sharding.choose_mesh(
                config.mesh, data.batch_size // config.accumulate, rows, least_rows=self.model.least_rows
            )
        self.devices = list(beside or self.mesh.devices.flat)
        self.optimiser = config.optimiser.build(config.steps)
        check_prepared(data, data_dir)
        training = open_training(data, data_dir)
        check_patch(data, [dataset for dataset, _ in training])
        self.held_out = open_validation(data, [dataset for dataset, _ in training], data_dir)
        self.images = [len(dataset) for dataset, _ in training]
        self.info = training[0][0].info
        for dataset in (*(dataset for dataset, _ in training), self.held_out):
            check_colour(config, dataset.info)
        self.protocol = validation_protocol(config, self.held_out)
        if not self.model.guided:
            training = [(dataset.without_colour(), weight) for dataset, weight in training]
        index, count = sharding.rows_of_process(self.mesh, data.batch_size)
        self.batches = train_loader(
            training,
            scale=config.model.scale,
            patch_size=data.patch_size,
            patch_width=data.patch_width,
            batch_size=data.batch_size,
            degradation=data.degrade,
            augmentation=data.augment,
            edge_candidates=data.edge_candidates,
            seed=config.seed,
            process_index=index,
            process_count=count,
            workers=data.workers,
            on_corrupt=data.on_corrupt,
        )
        self.trained = {
            "model": {"name": name_of(self.model), **model_fields(self.model)},
            "scaling": config.scaling,
            "unit": self.info.unit,
            "range": self.info.range,
        }

    def announce(self, out: Path, state: Any) -> None:
        """Says what will be trained."""
        import jax

        from ahmf_jax.scaling import is_leak

        config, model, mesh = self.config, self.model, self.mesh
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        devices = f"{len(self.devices)} x {self.devices[0].device_kind}"
        if self.beside_others:
            devices = f"a lane of {devices}"
        if mesh.size > 1:
            devices += f" (data={mesh.shape['data']}, spatial={mesh.shape['spatial']}{', FSDP' * config.fsdp})"
        say(
            f"{out}: {model.summary()}, {parameters:,} parameters, "
            f"{' + '.join(map(str, self.images))} images to train on, {len(self.held_out)} to validate, {devices}, "
            f"steps {int(state.step)} to {config.steps}; {config.data.degrade}"
        )
        if not self.beside_others and config.mesh == "auto" and mesh.size < jax.device_count():
            note(
                f"warning: {mesh.size} of the {jax.device_count()} devices are used, as neither the batch nor the "
                "height of the patches can be divided further: change --data.batch-size or --data.patch-size"
            )
        if is_leak(config.scaling):
            say(f"{out}: scaling {config.scaling} is a leak: the network is told the ground truth's span")
        if tests := trained_on_tests(config.data):
            note(f"warning: {', '.join(tests)} is trained on: figures on it are not of unseen images")

    def state(self, abstract: bool = False) -> Any:
        """The run's state before its first step, or what describes it."""
        from ahmf_jax.state import create_state

        config = self.config
        return create_state(
            self.model,
            self.optimiser,
            self.mesh,
            fsdp=config.fsdp,
            seed=config.seed,
            output_scale=config.output_scale,
            start_from=None if abstract else self._start(),
            abstract=abstract,
            loss=config.loss,
            edge_weight=config.edge_weight,
            scaling=config.scaling,
            ema_decay=config.ema,
            accumulate=config.accumulate,
            **config.supervision,
        )

    def _start(self) -> Callable[[Any], Any] | None:
        """What makes the weights to start from of random ones, if anything does; says which they are.

        A file of the encoder's is read first: drawing random weights takes longer.
        """
        from ahmf_jax.imagenet import encoder_weights, with_encoder
        from experiments import finetune

        config = self.config
        if config.start_from:
            return functools.partial(finetune.start, config.start_from, tell=say)
        if not isinstance(config.model, configs.DADAConfig):
            return None
        source = config.model.encoder_weights
        if not source:
            say("the encoder starts at random: give ImageNet's weights with --model.encoder-weights FILE")
            return None
        try:
            found = encoder_weights(source, config.model.encoder)
        except InputError as error:
            raise InputError(f"--model.encoder-weights: {error}") from None
        say(f"the encoder starts from {source}")
        return functools.partial(with_encoder, found=found)


@contextlib.contextmanager
def open_run(
    task: "Task", out: Path, *, on_validation: OnValidation, stop: "Stop", bar: "Bar", prefix: str = ""
) -> Iterator[tuple[Any, "Progress"]]:
    """The run in folder `out`, new or not, and nobody else's: its state, and how far it is; in here it is trained.

    What it leaves is complete at the end: checkpoints, log. An exception that ends it early does not take away what was
    saved, but a folder in which nothing was.

    Args:
      task: of the run.
      out: its folder.
      on_validation: as in `train`.
      stop: asked in a validation.
      bar: shows how far it is.
      prefix: of the lines that it prints, where several runs do.

    Raises:
      InputError: the folder cannot be used or written, what is in it cannot be gone on with, or a loss is no number.
      Stopped: at the end, where steps are left to do or a validation was interrupted.
    """
    from ahmf_jax import distributed
    from ahmf_jax.checkpoint import Checkpoints, latest_step
    from ahmf_jax.locks import lock_run
    from ahmf_jax.train import NonFiniteLoss, Progress

    config = task.config

    def unwritten(problem: InputError) -> None:
        """A checkpoint or a line of the log is lost."""
        if config.on_save_error == "stop":
            raise problem
        note(f"{prefix}warning: {problem}; the run goes on, as --on-save-error continue asks")

    def tell(step: int, means: Mapping[str, float] | None) -> None:
        if means is not None:
            with distributed.agreed():
                if distributed.is_main():
                    on_validation(step, means)

    with contextlib.ExitStack() as folder:
        with distributed.agreed():
            made = not out.exists()
            if distributed.is_main():
                _make(out)
                folder.enter_context(lock_run(out))
                if standing(config, out) == "new":  # looked at again, now that no other process may write there
                    folder.enter_context(_new_run(config, out, task.trained, made))
        with (
            Checkpoints(out, config.keep_last, config.keep_best, unwritten) as checkpoints,
            contextlib.closing(task.batches) as batches,
        ):
            if distributed.gather(has_checkpoint(out))[0]:
                state, facts = checkpoints.restore(task.state(abstract=True))
                batches.set_state(facts["data"])
            else:
                state, facts = task.state(), {"rows": [], "lines": [], "validated": True}
            first = int(state.step)
            task.announce(out, state)
            with (
                open_log(out, first, facts["lines"], distributed.is_main(), unwritten) as log,
                bar.of(first, config.steps) as show,
            ):
                reporter = _Reporter(task, out, log, stop, show, prefix)

                def on_checkpoint(state: Any, rows: Sequence[dict[str, float]], due: bool) -> None:
                    means = reporter.validate(state) if due else None
                    step = int(state.step)
                    facts = {
                        # Not the loader's own place: it is ahead of the training.
                        "data": {"examples": step * config.data.batch_size},
                        "config": {"train": configs.to_json(config)},
                        "rows": list(rows),
                        "lines": log.lines,
                        "validated": not due or means is not None,
                    }
                    checkpoints.save(state, facts, None if means is None else means["mae"])
                    tell(step, means)

                progress = Progress(
                    first,
                    config.steps,
                    log_every=config.log_every,
                    on_log=reporter.log,
                    save_every=config.checkpoint_every,
                    validate_every=config.validate_every,
                    on_checkpoint=on_checkpoint,
                    on_nonfinite=config.on_nonfinite,
                    on_skip=reporter.skip,
                    rows=facts["rows"],
                )
                if not facts["validated"]:  # a signal was in the way
                    means = reporter.validate(state)
                    if means is not None:
                        checkpoints.amend(first, {"lines": log.lines, "validated": True}, means["mae"])
                    tell(first, means)
                try:
                    yield state, progress
                except NonFiniteLoss as error:
                    checkpoints.wait()  # the last may still be on its way
                    kept = f"the last good checkpoint in {out} is kept"
                    raise InputError(
                        f"{error}: training stopped, {kept if has_checkpoint(out) else 'there is no checkpoint'}; "
                        f"use a smaller --optimiser.learning-rate (now {config.optimiser.learning_rate:g}), "
                        "--optimiser.clip, or --on-nonfinite skip"
                    ) from None
                checkpoints.wait()
        step = progress.step
        if batches.skipped:
            say(f"{out}: {len(batches.skipped)} images could not be read and were passed over")
        if step > first and latest_step(out) != step:
            raise Unwritable(f"{out}: the last of its {step} steps could not be saved: make room, then resume the run")
        if not progress.done or reporter.interrupted:
            raise Stopped(
                f"stopped at step {step} of {config.steps}, saved: go on with `ahmf train --resume {out}`"
                if step
                else "stopped before the first step, of which nothing needs to be saved: the same command starts it "
                "again"
            )


class Bar:
    """Steps done and left, of one run or of several together, on stderr; of the first process alone."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._runs, self._undone = 0, 0  # that are open; steps that others have left undone

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    @contextlib.contextmanager
    def of(self, first: int, steps: int) -> Iterator[Callable[[int, str], None]]:
        """A run that goes on from step `first` to `steps`: gives what is told its step, and something to show.

        A run that ends early beside others, or before another, takes what it leaves undone with it: the time left is
        theirs.
        """
        from tqdm import tqdm

        from ahmf_jax import distributed

        if self._bar is None:
            interval = 0.5 if sys.stderr.isatty() else 30  # a log file gets a line now and then
            self._bar = tqdm(
                total=steps,
                initial=first,
                unit="step",
                mininterval=interval,
                maxinterval=interval,
                disable=not distributed.is_main(),
            )
        else:
            self._bar.total, self._bar.n = self._bar.total + steps, self._bar.n + first
            self._bar.initial += first
            self._drop()
        bar, at = self._bar, first
        self._runs += 1

        def show(step: int, facts: str) -> None:
            nonlocal at
            bar.set_postfix_str(facts, refresh=False)
            bar.update(step - at)
            at = step

        try:
            yield show
        finally:
            self._runs -= 1
            self._undone += steps - at
            if self._runs:
                self._drop()

    def _drop(self) -> None:
        self._bar.total, self._undone = self._bar.total - self._undone, 0


@functools.lru_cache
def _step_flops(model: "Model", batch: int, size: tuple[int, int]) -> float:
    """Of a training step on patches of this size; counting takes as long as tracing the network."""
    import jax
    import numpy as np

    from ahmf_jax import flops

    depth = jax.ShapeDtypeStruct((batch, *(n // model.scale for n in size), 1), np.float32)
    guide = jax.ShapeDtypeStruct((batch, *size, 3 if model.guided else 0), np.float32)
    return flops.train_flops(model, {"depth_lr": depth, "guide": guide})


class _Reporter:
    """What a run tells while it trains: a bar, the log, validations; of several processes, the first alone shows it."""

    def __init__(
        self, task: Task, out: Path, log: RunLog, stop: "Stop", show: Callable[[int, str], None], prefix: str
    ) -> None:
        from ahmf_jax import distributed, flops
        from ahmf_jax.scaling import is_leak

        config = task.config
        self._task, self._out, self._log, self._stop, self._show, self._prefix = task, out, log, stop, show, prefix
        self._started = time.perf_counter()
        self._main = distributed.is_main()
        self._leak = f" (scaling {config.scaling}: a leak)" if is_leak(config.scaling) else ""
        self._rate = config.optimiser.rate(config.steps)
        self._flops = _step_flops(task.model, task.config.data.batch_size, task.config.data.patch)
        self._peak = flops.peak(task.devices, task.model.dtype)
        if not task.beside_others:
            say(f"{out}: mfu is the share of {self._peak.flops / 1e12:.3g} TFLOP/s, the {self._peak.meaning}")
        self.interrupted = False  # whether a signal was in the way of the last validation
        self._floors: dict[int, Any] = {}  # the interpolation's errors, which no training changes

    def log(self, step: int, values: dict[str, float]) -> None:
        """Writes a line: the step's metrics, and how fast the run is.

        Of a run beside others, in its part of the time (see `Progress`): so its images per second, and what it has of
        the devices' peak, are about those of all runs together. `seconds` alone are those since it was opened.
        """
        speed = self._flops / values["step_seconds"]
        skipped = len(self._task.batches.skipped)
        self._log.write(
            step,
            {
                **values,
                "learning_rate": float(self._rate(step)),
                "images_per_second": self._task.config.data.batch_size / values["step_seconds"],
                "tflops": speed / 1e12,
                "mfu": speed / self._peak.flops,
                "skipped_images": skipped,
                "seconds": time.perf_counter() - self._started,
            },
        )
        facts = f"loss {values['loss']:.5f}, waits {100 * values['data_wait']:.0f} % for data{self._leak}"
        if values["skipped"]:
            facts += f", {values['skipped']:.0f} steps skipped"
        if skipped:
            facts += f", {skipped} unreadable"
        self._show(step, self._prefix + facts)

    def skip(self, step: int, row: dict[str, float]) -> None:
        """Writes down what the batch of a step without a finite loss and gradient was made of."""
        if not self._main:
            return
        config, path = self._task.config, self._out / NONFINITE / f"{step}.json"
        place = (step - 1) * config.data.batch_size
        dump = {
            "step": step,
            **{name: repr(value) for name, value in row.items()},  # JSON has no nan
            "seed": config.seed,
            "examples": self._task.batches.describe(place),
        }
        _make(path.parent)
        write_whole(path, json.dumps(dump, indent=1).encode())
        note(f"{self._prefix}warning: the loss or the gradient at step {step} is no number; its batch: {path}")

    def validate(self, state: Any) -> dict[str, float] | None:
        """Writes how good the state is, and returns the means; None where a signal was in the way."""
        import jax

        from ahmf_jax import distributed
        from ahmf_jax.sharding import local_copy
        from experiments.pictures import validation_picture
        from experiments.validation import Validation, validate

        task, step = self._task, int(state.step)
        own = range(jax.process_index(), len(task.held_out), jax.process_count())
        found = validate(
            task.model,
            task.config.scaling,
            local_copy(state.average, task.mesh),
            ((place, task.held_out[place]) for place in own),
            task.held_out.info,
            task.protocol,
            stop=self._stop,
            floors=self._floors,
            samples=task.config.samples if self._main else 0,
            stage_kernel=task.config.supervision.get("stage_kernel"),
        )
        parts = distributed.gather(found and found.sums)
        self.interrupted = None in parts
        if found is None or self.interrupted:
            return None
        values = sum((Validation(**part) for part in parts), Validation()).means
        self._log.write(step, {f"validation_{name}": value for name, value in values.items()})
        for sample in found.samples:
            self._log.image(step, f"validation/{sample.name}", validation_picture(sample.batch, sample.prediction))
        note(
            f"{self._prefix}step {step}: validation MAE {values['mae']:#.4g} {task.held_out.info.unit} "
            f"({task.protocol.floor} {values['floor_mae']:#.4g}){self._leak}"
        )
        return values
