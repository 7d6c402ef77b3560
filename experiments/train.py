"""`ahmf train`: a configuration in, a run's folder out."""

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole
from experiments import config as configs
from experiments.config import Stopped, TrainConfig
from experiments.data import open_training, open_validation, trained_on_tests

METRICS = "metrics.jsonl"


@contextlib.contextmanager
def metrics_log(run: Path, step: int) -> Iterator[Any]:
    """Yields `write(step, values)`, which goes to `metrics.jsonl` and to TensorBoard; lines after `step` are dropped.

    They are of steps that a resumed run does again.
    """
    from tensorboardX import SummaryWriter

    def keep(line: str) -> bool:
        try:
            return json.loads(line)["step"] <= step
        except ValueError:  # cut off when the process was killed
            return False

    path = run / METRICS
    if path.exists():
        write_whole(path, "".join(f"{line}\n" for line in path.read_text().splitlines() if keep(line)).encode())
    with path.open("a") as file, SummaryWriter(str(run / "tensorboard"), purge_step=step + 1) as board:

        def write(at: int, values: dict[str, float]) -> None:
            file.write(json.dumps({"step": at, **values}) + "\n")
            file.flush()
            for name, value in values.items():
                board.add_scalar(name, value, at)

        yield write


def has_checkpoint(run: Path) -> bool:
    """Whether there is a state to go on from."""
    from ahmf_jax.checkpoint import latest_step

    try:
        return latest_step(run) >= 0
    except InputError:
        return False


@contextlib.contextmanager
def new_run(config: TrainConfig, out: Path, trained: dict[str, Any]) -> Iterator[None]:
    """Makes the run's folder with its configuration; an existing run is not touched.

    What fails before its first checkpoint cannot be resumed, and is taken away: it would bar the way to another try.
    """
    from ahmf_jax.checkpoint import CONFIG

    if (out / CONFIG).exists():
        on = f"go on with `ahmf train --resume {out}`" if has_checkpoint(out) else "remove it, as it has no checkpoint"
        raise InputError(f"{out} holds a run already: {on}, or choose another --out")
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        stored = {"train": configs.to_json(config), "trained": trained}
        write_whole(out / CONFIG, json.dumps(stored, indent=1).encode())
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}): choose a folder that can be, with --out"
        ) from None
    try:
        yield
    except BaseException:
        if not has_checkpoint(out):
            if made:
                shutil.rmtree(out, ignore_errors=True)
            else:
                (out / CONFIG).unlink(missing_ok=True)
        raise


def train(config: TrainConfig, out: Path, *, resume: bool = False, data_dir: Path | None = None) -> Path:
    """Trains, or goes on training, the run in folder `out`.

    Args:
      config: of the run; when resuming, the one it was started with.
      out: the run's folder.
      resume: go on from the latest checkpoint, exactly as if the run had never stopped.
      data_dir: where data sets are prepared.

    Returns:
      `out`.

    Raises:
      InputError: something in the configuration, the data or the folder; before anything is trained.
      Stopped: by a signal, after saving.
    """
    import jax
    from tqdm import tqdm

    from ahmf_jax import sharding
    from ahmf_jax.checkpoint import Checkpoints
    from ahmf_jax.export import model_fields
    from ahmf_jax.scaling import is_leak
    from ahmf_jax.state import TrainState, create_state
    from ahmf_jax.train import NonFiniteLoss, fit
    from data_pipelines.loader import Batch, train_loader, whole_example
    from experiments.evaluate import validate

    started = time.perf_counter()
    mesh = sharding.make_mesh()
    if config.data.batch_size % mesh.size:
        raise InputError(
            f"data.batch_size is {config.data.batch_size}: it must be a multiple of the {mesh.size} devices"
        )
    model = config.model.build()
    data = config.data
    training = open_training(data, data_dir)
    info = training[0][0].info
    held_out = open_validation(data, [dataset for dataset, _ in training], data_dir)
    if tests := trained_on_tests(data):
        print(f"warning: {', '.join(tests)} is trained on: figures on it are not of unseen images", file=sys.stderr)
    batches = train_loader(
        training,
        scale=config.model.scale,
        patch_size=data.patch_size,
        batch_size=data.batch_size,
        degradation=data.degrade,
        edge_candidates=data.edge_candidates,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=data.workers,
        on_corrupt=data.on_corrupt,
    )

    def validation() -> Iterator[Batch]:  # made anew each time: all whole images at once may be more than memory holds
        for example in held_out:
            yield whole_example(example, held_out.info, scale=config.model.scale, degradation=data.degrade)

    next(validation())  # what is wrong with it shall be known now
    options: dict[str, Any] = {
        "loss": config.loss,
        "scaling": config.scaling,
        "seed": config.seed,
        "output_scale": config.output_scale,
    }
    trained = {
        "model": {"name": "ahmf", **model_fields(model)},
        "scaling": config.scaling,
        "unit": info.unit,
        "range": info.range,
    }
    leak = f" (scaling {config.scaling}: a leak)" if is_leak(config.scaling) else ""
    optimiser = config.optimiser.build(config.steps)
    with (
        contextlib.nullcontext() if resume else new_run(config, out, trained),
        Checkpoints(out) as checkpoints,
        contextlib.closing(batches),
    ):
        if resume:
            state, position = checkpoints.restore(create_state(model, optimiser, mesh, abstract=True, **options))
            batches.set_state(position)
        else:
            state = create_state(model, optimiser, mesh, **options)
        first = int(state.step)
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        images = " + ".join(str(len(dataset)) for dataset, _ in training)
        print(
            f"{out}: x{model.scale}, m = {model.num_levels}, {parameters:,} parameters, {images} images to train on, "
            f"{len(held_out)} to validate, {mesh.size} x {jax.devices()[0].device_kind}, steps {first} to "
            f"{config.steps}; {data.degrade}",
            flush=True,
        )
        if leak:
            print(f"{out}: scaling {config.scaling} is a leak: the network is told the ground truth's span", flush=True)
        interval = 0.5 if sys.stderr.isatty() else 30  # a log file gets a line now and then
        bar = tqdm(total=config.steps, initial=first, unit="step", mininterval=interval, maxinterval=interval)
        with metrics_log(out, first) as write, bar:

            def on_log(step: int, values: dict[str, float]) -> None:
                values["seconds"] = time.perf_counter() - started
                facts = f"loss {values['loss']:.5f}, waits {100 * values['data_wait']:.0f} % for data{leak}"
                if batches.skipped:
                    values["skipped"] = len(batches.skipped)
                    facts += f", {len(batches.skipped)} unreadable"
                write(step, values)
                bar.set_postfix_str(facts, refresh=False)
                bar.update(step - bar.n)

            def on_checkpoint(state: TrainState) -> None:
                step = int(state.step)
                values = validate(state, validation(), info.range)
                write(step, {f"validation_{name}": value for name, value in values.items()})
                # Not the loader's own place: it is ahead of the training.
                position = {"examples": step * data.batch_size}
                checkpoints.save(state, position, {"train": configs.to_json(config)}, values["mae"])
                bar.write(
                    f"step {step}: validation MAE {values['mae']:#.4g} {info.unit} "
                    f"(bicubic {values['bicubic_mae']:#.4g}){leak}, saved",
                    file=sys.stderr,
                )

            try:
                state, stopped = fit(
                    state,
                    batches,
                    steps=config.steps,
                    mesh=mesh,
                    log_every=config.log_every,
                    on_log=on_log,
                    checkpoint_every=config.checkpoint_every,
                    on_checkpoint=on_checkpoint,
                )
            except NonFiniteLoss as error:
                kept = f"the last good checkpoint in {out} is kept" if has_checkpoint(out) else "there is no checkpoint"
                raise InputError(
                    f"{error}: training stopped, and {kept}; use a smaller "
                    f"--optimiser.learning-rate (now {config.optimiser.learning_rate:g}) or --optimiser.clip"
                ) from None
            except OSError as error:
                raise InputError(
                    f"{out} could not be written ({error}): make room, then `ahmf train --resume {out}`"
                ) from None
    if batches.skipped:
        print(f"{out}: {len(batches.skipped)} images could not be read and were passed over")
    if stopped:
        raise Stopped(
            f"stopped at step {int(state.step)} of {config.steps}, saved: go on with `ahmf train --resume {out}`"
        )
    return out


def resume(run: Path, data_dir: Path | None = None, **changed: Any) -> Path:
    """Goes on with the run in folder `run`, with the configuration it was started with.

    Args:
      run: its folder.
      data_dir: where data sets are prepared.
      **changed: fields of `DataConfig` that change no batch, for this time: workers, cache; or what is done at
        damage alone: on_corrupt.
    """
    from ahmf_jax.checkpoint import latest_step

    run = Path(run)
    config = configs.of_run(run)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **changed))
    if latest_step(run) >= config.steps:
        raise InputError(f"{run} has done its {config.steps} steps: start another run to train longer")
    return train(config, run, resume=True, data_dir=data_dir)


def default_out(name: str) -> Path:
    """A new folder for a run: runs/NAME, or NAME-2, NAME-3, ... where that is taken."""
    stem = Path(name).stem
    candidates = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(c for c in candidates if not c.exists())
