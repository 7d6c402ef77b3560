"""Orbax checkpoints of a training run: state, data position and configuration, each with a manifest.

A run is a folder: `config.json` and `checkpoints/<step>/`. Orbax commits a checkpoint by a rename, so an
interrupted one never counts; but it keeps no checksums, and a damaged metadata file can end the process.
So the last thing written is `manifests/<step>.json` with the SHA-256 of every file, and nothing is
restored before it has been compared.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocm

from ahmf_jax.errors import InputError
from ahmf_jax.state import TrainState
from ahmf_jax.writing import write_whole

CHECKPOINTS, MANIFESTS, CONFIG = "checkpoints", "manifests", "config.json"


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape) for path, x in leaves}


@contextlib.contextmanager
def _reader() -> Iterator[ocp.PyTreeCheckpointer]:
    # One item of a checkpoint has no metadata file of its own, and Orbax would warn of that every time.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            yield reader
    finally:
        logger.setLevel(level)


class Checkpoints:
    """The checkpoints of the run in folder `run`: the two latest and the best are kept.

    Two latest, so that there is one to fall back on should the process end between a commit and its
    manifest. The best is the one with the smallest validation error.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run).absolute()  # relative paths fail in Orbax's background threads
        try:
            self._manager = ocp.CheckpointManager(
                self.run / CHECKPOINTS,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=ocm.AnyPreservationPolicy(
                        [
                            ocm.LatestN(2),
                            ocm.BestN(get_metric_fn=lambda metrics: metrics["error"], reverse=True, n=1),
                        ]
                    ),
                    best_fn=lambda metrics: metrics["error"],
                    best_mode="min",
                    enable_async_checkpointing=False,
                ),
            )
        except (OSError, ValueError, KeyError, TypeError):  # it reads the errors of all checkpoints
            for step in _steps(self.run):
                verify(self.run, step)
            raise

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, data: dict[str, Any], config: dict[str, Any], error: float) -> None:
        """Saves under the state's step; a step that is saved already stays as it is.

        Args:
          state: of the run.
          data: the position of the data iterator, as JSON.
          config: what it takes to build the run again, as JSON.
          error: on the validation images, smaller is better.
        """
        step = int(state.step)
        if step in self._manager.all_steps():  # a run that is stopped again before its first new step
            return
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data), config=ocp.args.JsonSave(config)
                ),
                metrics={"error": error},
                force=True,
            )
        except (OSError, ValueError) as error:
            # A full disk is a ValueError of the storage library's, with the system's own words inside.
            if isinstance(error, ValueError) and "os_error_code" not in str(error):
                raise
            for partial in (self.run / CHECKPOINTS).glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(partial, ignore_errors=True)
            reason = re.findall(r"[^:]+(?= \[os_error_code)", str(error))
            raise InputError(
                f"{self.run / CHECKPOINTS / str(step)} cannot be written ({(reason or [str(error)])[-1].strip()}): the "
                "checkpoints before it are kept; make room, then resume the run"
            ) from error
        self._manager.wait_until_finished()
        folder = self.run / MANIFESTS
        folder.mkdir(exist_ok=True)
        digests = json.dumps(_digests(self.run / CHECKPOINTS / str(step)), indent=1)
        try:
            write_whole(folder / f"{step}.json", digests.encode())
        except InputError as error:
            raise InputError(f"{error}, then resume the run: the checkpoints before step {step} are kept") from error
        kept = {str(s) for s in self._manager.all_steps()}
        for manifest in folder.glob("*.json"):
            if manifest.stem not in kept:
                manifest.unlink()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, laid out as `abstract` says, and the data position.

        Raises:
          InputError: no checkpoint, a damaged one, or one of another network or optimiser.
        """
        step = latest_step(self.run)
        verify(self.run, step)
        with _reader() as reader:
            stored = _shapes(reader.metadata(self.run / CHECKPOINTS / str(step) / "state").item_metadata.tree)
        wanted = _shapes(abstract)
        for name in sorted(stored.keys() | wanted.keys(), key=lambda n: (not n.startswith("params"), n)):
            if stored.get(name) != wanted.get(name):
                raise InputError(
                    f"step {step} of {self.run} is of another network or optimiser: its {name} is "
                    f"{stored.get(name, 'missing')}, here it is {wanted.get(name, 'missing')}; use the configuration "
                    "that the run was started with"
                )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        )
        # A step newer than the one restored has no manifest: it was cut off, and would block its own step.
        for newer in [s for s in self._manager.all_steps() if s > step]:
            shutil.rmtree(self.run / CHECKPOINTS / str(newer))
        self._manager.reload()
        return restored["state"], restored["data"]


def _steps(run: Path) -> list[int]:
    return sorted(int(p.stem) for p in (run / MANIFESTS).glob("*.json") if (run / CHECKPOINTS / p.stem).is_dir())


def latest_step(run: Path) -> int:
    """The step of the latest complete checkpoint of the run."""
    if not (run / CONFIG).is_file():
        raise InputError(f"{run} is not a training run (it has no {CONFIG}): give the folder that `ahmf train` wrote")
    steps = _steps(run)
    if not steps:
        raise InputError(f"{run} holds no complete checkpoint yet: it stopped before its first; train it again")
    return steps[-1]


def best_step(run: Path) -> int:
    """The step of the complete checkpoint with the smallest validation error."""
    latest_step(run)

    def error(step: int) -> float:
        file = run / CHECKPOINTS / str(step) / "metrics" / "metrics"
        try:
            return float(json.loads(file.read_text())["error"])
        except (OSError, ValueError, KeyError, TypeError):
            verify(run, step)  # says which file is damaged and what to do about it
            raise

    return min(_steps(run), key=error)


def verify(run: Path, step: int) -> None:
    """Compares every file of a checkpoint with its manifest; InputError names the first that differs."""
    folder = run / CHECKPOINTS / str(step)
    manifest = run / MANIFESTS / f"{step}.json"
    try:
        recorded = dict(json.loads(manifest.read_text()))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{manifest} is damaged ({error}): restore it from a copy, or delete it to go on from an earlier checkpoint"
        ) from None
    found = _digests(folder)
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            what = "is missing" if name not in found else "was added" if name not in recorded else "has changed"
            raise InputError(
                f"{folder / name} {what} since the checkpoint was written: restore it from a copy, or delete "
                f"{folder} to go on from an earlier checkpoint"
            )


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run was started with."""
    latest_step(run)
    try:
        return json.loads((run / CONFIG).read_text())
    except ValueError as error:
        raise InputError(f"{run / CONFIG} is not valid JSON ({error}): restore it from a copy") from None


def read_params(run: str | os.PathLike[str], step: int | None = None) -> tuple[dict[str, Any], int]:
    """The parameters of a run as NumPy arrays, of its best checkpoint unless `step` is given, and that step."""
    run = Path(run).absolute()
    step = best_step(run) if step is None else step
    verify(run, step)
    folder = run / CHECKPOINTS / str(step) / "state"
    with _reader() as reader:
        wanted = {"params": reader.metadata(folder).item_metadata.tree["params"]}
        read = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = reader.restore(
            folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=read, partial_restore=True)
        )
    return restored["params"], step
