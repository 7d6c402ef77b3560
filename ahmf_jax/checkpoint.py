"""Orbax checkpoints of a training run: state, data position and configuration, each with a manifest.

A run is a folder: `config.json` and `checkpoints/<step>/`. Orbax commits a checkpoint by a rename, so an
interrupted one never counts; but it keeps no checksums, and a damaged metadata file can end the process.
So the last thing written is `manifests/<step>.json` with the SHA-256 of every file, and nothing is
restored before it has been compared.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocm

from ahmf_jax.errors import InputError
from ahmf_jax.state import TrainState

CHECKPOINTS, MANIFESTS, CONFIG = "checkpoints", "manifests", "config.json"


def write_atomically(path: Path, text: str) -> None:
    """Writes a small text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Checkpoints:
    """The checkpoints of the run in folder `run`: the two latest and the best are kept.

    Two latest, so that there is one to fall back on should the process end between a commit and its
    manifest. The best is the one with the smallest validation error.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run).absolute()  # relative paths fail in Orbax's background threads
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, data: dict[str, Any], config: dict[str, Any], error: float) -> None:
        """Saves under the state's step.

        Args:
          state: of the run.
          data: the position of the data iterator, as JSON.
          config: what it takes to build the run again, as JSON.
          error: on the validation images, smaller is better.
        """
        step = int(state.step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data), config=ocp.args.JsonSave(config)
            ),
            metrics={"error": error},
            force=True,
        )
        self._manager.wait_until_finished()
        folder = self.run / MANIFESTS
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{step}.json", json.dumps(_digests(self.run / CHECKPOINTS / str(step)), indent=1))
        kept = {str(s) for s in self._manager.all_steps()}
        for manifest in folder.glob("*.json"):
            if manifest.stem not in kept:
                manifest.unlink()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, laid out as `abstract` says, and the data position."""
        step = latest_step(self.run)
        verify(self.run, step)
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
        return float(json.loads(file.read_text())["error"])

    return min(_steps(run), key=error)


def verify(run: Path, step: int) -> None:
    """Compares every file of a checkpoint with its manifest; InputError names the first that differs."""
    folder = run / CHECKPOINTS / str(step)
    recorded = json.loads((run / MANIFESTS / f"{step}.json").read_text())
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
    # One item of a checkpoint has no metadata file of its own, and Orbax would warn of that every time.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            wanted = {"params": reader.metadata(folder).item_metadata.tree["params"]}
            read = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            restored = reader.restore(
                folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=read, partial_restore=True)
            )
    finally:
        logger.setLevel(level)
    return restored["params"], step
