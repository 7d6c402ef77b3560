"""Checkpoints of a training run: state, position and configuration, each checked before anything of it is believed.

A run is a folder: `config.json` and `checkpoints/STEP/`, each of `state/`, which Orbax writes in the background, and
`manifest.json`, written last: so a checkpoint that was cut off has none, and does not count. Orbax keeps no checksums,
and a damaged or hostile metadata file can end the process or take all memory. So the manifest says what every file is
(size, SHA-256) and what every array is (shape, dtype); it carries a digest of itself; and nothing is given to Orbax
before it has been compared.

The arrays are plain: Zarr files, not compressed, not packed into a database. Then what the storage library will do
with them can be foretold from a few lines of JSON and the sizes of files.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import itertools
import json
import logging
import math
import operator
import os
import platform
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from ahmf_jax import distributed
from ahmf_jax.errors import InputError
from ahmf_jax.state import TrainState
from ahmf_jax.variables import STATISTICS
from ahmf_jax.writing import Unwritable, unwritable, write_whole

CHECKPOINTS, DAMAGED, CONFIG = "checkpoints", "damaged", "config.json"
STATE, MANIFEST = "state", "manifest.json"
FORMAT = 1
# The storage's own files: of the whole, in STATE, and of an array, in its folder there.
TREE, ARRAY = "_METADATA", ".zarray"
STORAGE_FILES = {f"{STATE}/{name}" for name in (TREE, "_CHECKPOINT_METADATA", "commit_success.txt")}
ARRAY_BYTES = 2 * 4096  # what an array takes on the disk besides its numbers: its two files end in a block each
MAX_DEPTH = 2  # slashes in the path of a file: STATE/NAME/FILE
# How a manifest begins: so one wrong byte of it is found like one of any other file.
DIGEST = b'{"sha256": "%s", '
# Bytes of JSON that are read, which takes ten times as many of memory: of a manifest, and of any other file.
MAX_MANIFEST, MAX_METADATA = 64 << 20, 16 << 20
# Seconds that processes wait for each other at the end of a save.
COMMIT_TIMEOUT_S = 600
LATE_S = 5  # so long at most a save that failed goes on writing
PACKAGES = ("ahmf-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy")

Read = TypeVar("Read")


class Damaged(InputError):
    """A checkpoint is not what was written: one line that names the file and says what has become of it."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint is said to hold."""

    step: int
    error: float | None  # on the validation images, smaller is better
    facts: dict[str, Any]
    leaves: dict[str, tuple[tuple[int, ...], str]]  # by name: shape and dtype
    files: dict[str, tuple[int, str]]  # by path below the checkpoint: size in bytes and SHA-256


class Checkpoints:
    """The checkpoints of the run in folder `run`, for the one run that trains in it.

    A save returns when the arrays are copied; the rest happens in the background, and what went wrong there is told at
    the next call: one at a time is written. With several processes, all of them make the same calls.

    Args:
      run: its folder, which must be there.
      keep_last: so many of the latest are kept, at least 1.
      keep_best: so many of those with the smallest validation error are kept besides.
      on_problem: called with the `InputError` of a save that failed, in the main thread, at the next call or at the
        end; by default it is raised. If it returns, the next save tries again. The checkpoints before are kept.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        keep_last: int = 2,
        keep_best: int = 1,
        on_problem: Callable[[InputError], None] | None = None,
    ) -> None:
        if keep_last < 1 or keep_best < 0:
            raise InputError(
                f"keep_last is {keep_last}, keep_best {keep_best}: keep the last 1 and the best 0 at least"
            )
        self.run = Path(run).absolute()  # relative paths fail in Orbax's background threads
        self._keep_last, self._keep_best = keep_last, keep_best
        self._on_problem = on_problem
        self._storage = ocp.AsyncCheckpointer(
            _handler(), async_options=ocp.options.AsyncOptions(timeout_secs=COMMIT_TIMEOUT_S)
        )
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._pending: Future[InputError | None] | None = None
        self._errors = _errors(self.run)
        self._scope = contextlib.ExitStack()
        self._scope.callback(self._storage.close)
        self._scope.callback(self._thread.shutdown)

    def __enter__(self) -> "Checkpoints":
        self._scope.enter_context(_late_writes_unheard())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._scope:
            # With several processes, the others may not come this way when one fails.
            problem = self._settle(alone=error is not None)
        if problem and error:
            print(f"warning: {problem}", file=sys.stderr)  # what ends the run is the other one
        elif problem:
            self._report(problem)

    def save(self, state: TrainState, facts: Mapping[str, Any], error: float | None) -> None:
        """Saves under the state's step; a step that is saved already stays as it is.

        Waits for the save before, should it not be done. The state's buffers may be given away afterwards.

        Args:
          state: of the run.
          facts: what else it takes to go on, as JSON: place in the data, configuration, metrics so far. The versions of
            the packages are added as "versions".
          error: on the validation images, smaller is better; None where there was no validation.

        Raises:
          InputError: the save before could not be written, or this one cannot, unless `on_problem` takes it.
        """
        self.wait()
        step = int(state.step)
        folder = self.run / CHECKPOINTS / str(step)
        # As they are now; and what is no JSON fails here.
        copied = json.loads(json.dumps({**facts, "versions": versions()}))
        leaves = _named(state)
        described = {name: (tuple(x.shape), str(x.dtype)) for name, x in leaves.items()}
        problem: InputError | None = None
        present = False
        if distributed.is_main():
            try:
                present = (folder / MANIFEST).is_file()
                if not present:
                    _remove(folder)  # one that was cut off
                    folder.mkdir(parents=True)
                    _make_sure_of_room(folder, leaves.values())
            except OSError as failure:
                problem = _failed(folder, failure)
        problem = _agreed(problem)
        present = distributed.gather(present)[0]
        if problem is None and not present:
            try:
                self._storage.save(folder / STATE, args=ocp.args.PyTreeSave(leaves))
            except (OSError, ValueError) as failure:
                problem = _failed(folder, failure)
            else:
                manifest = Manifest(step, _measured(error), copied, described, {})
                self._pending = self._thread.submit(self._complete, folder, manifest)
        if problem := _agreed(problem):
            self._report(problem)

    def amend(self, step: int, facts: Mapping[str, Any], error: float | None) -> None:
        """Replaces the facts and the error of a complete checkpoint, as when its validation comes late.

        Raises:
          InputError: it could not be written, unless `on_problem` takes it; it is as it was then.
        """
        self.wait()
        problem: InputError | None = None
        if distributed.is_main():
            folder = self.run / CHECKPOINTS / str(step)
            try:
                manifest = _read_manifest(folder)
                _write_manifest(
                    folder,
                    dataclasses.replace(manifest, facts={**manifest.facts, **facts}, error=_measured(error)),
                )
            except InputError as failure:
                problem = failure
        if problem := _agreed(problem):
            self._report(problem)
        else:
            self._errors[step] = _measured(error)

    def wait(self) -> None:
        """Returns when what was saved is complete.

        Raises:
          InputError: it could not be written, unless `on_problem` takes it.
        """
        if problem := self._settle():
            self._report(problem)

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state that is whole, laid out as `abstract` says, and the facts saved with it.

        A damaged checkpoint is named on stderr and moved to the run's folder `damaged`, as it would stand in the way of
        its own step.

        Raises:
          InputError: no checkpoint is whole, or it is of another network or optimiser.
        """
        self.wait()
        step, aside = -1, dict[int, Damaged]()
        problem: InputError | None = None
        damaged: list[Damaged] = []
        if distributed.is_main():  # files are read once
            try:
                steps = _complete_steps(self.run)[::-1]
                step = _first_whole(self.run, steps, damaged).step
                aside = dict(zip(steps, damaged, strict=False))
            except InputError as error:
                problem = error
        if problem := _agreed(problem):
            raise problem
        step = distributed.gather(step)[0]
        folder = self.run / CHECKPOINTS / str(step)
        manifest = _read_manifest(folder)
        wanted = _named(abstract)
        _compare(folder, manifest, {name: (tuple(x.shape), str(x.dtype)) for name, x in wanted.items()})
        arrays = _read_arrays(folder, wanted, ocp.checkpoint_utils.construct_restore_args(wanted))
        if distributed.is_main():
            try:
                self._set_aside(aside, step)
            except InputError as error:
                problem = error
        if problem := _agreed(problem):
            raise problem
        return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in wanted]), manifest.facts

    def _set_aside(self, damaged: Mapping[int, Damaged], step: int) -> None:
        """Moves what is damaged out of the way, and says what was passed over for `step`."""
        for bad, error in damaged.items():
            names = (str(bad) if n == 1 else f"{bad}-{n}" for n in itertools.count(1))
            place = next(p for p in (self.run / DAMAGED / name for name in names) if not p.exists())
            try:
                place.parent.mkdir(exist_ok=True)
                (self.run / CHECKPOINTS / str(bad)).rename(place)
            except OSError as failure:
                raise unwritable(place, failure) from failure
            self._errors.pop(bad, None)
            print(f"warning: {error}: moved to {place}, going on from step {step}", file=sys.stderr)
        for cut in _cut_off(self.run, step):
            print(
                f"warning: {self.run / CHECKPOINTS / str(cut)} has no {MANIFEST}, as when a run ends while it is "
                f"written: going on from step {step}",
                file=sys.stderr,
            )

    def _settle(self, alone: bool = False) -> InputError | None:
        """Waits for the background, and returns what went wrong there, in any process."""
        problem = self._pending.result() if self._pending else None
        self._pending = None
        return problem if alone else _agreed(problem)

    def _report(self, problem: InputError) -> None:
        if self._on_problem is None:
            raise problem
        self._on_problem(problem)

    def _complete(self, folder: Path, manifest: Manifest) -> InputError | None:
        """In the background: waits for the arrays, writes the manifest, removes what need no longer be kept."""
        try:
            self._storage.wait_until_finished()
            if distributed.is_main():
                _write_manifest(folder, dataclasses.replace(manifest, files=_digests(folder)))
        except (OSError, ValueError) as error:
            return _failed(folder, error)
        self._errors[manifest.step] = manifest.error
        if distributed.is_main():
            self._prune()
        return None

    def _prune(self) -> None:
        """Leaves the latest and the best, and what is damaged: nothing that counts is lost to make room for it."""
        measured = {step: error for step, error in self._errors.items() if error is not None}
        keep = {*sorted(self._errors)[-self._keep_last :], *_best_first(measured)[: self._keep_best]}
        for step in (self._errors.keys() | set(_cut_off(self.run))) - keep:
            with contextlib.suppress(OSError):  # it is tried again after the next save
                _remove(self.run / CHECKPOINTS / str(step))
                self._errors.pop(step, None)


def _measured(error: float | None) -> float | None:
    """A validation's error; None where there was none, or none that is a number."""
    return None if error is None or math.isnan(error) else float(error)


def versions() -> dict[str, str]:
    """What computed a state: Python and the packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # ourselves, run from a checkout
            found[package] = importlib.metadata.version(package)
    return found


def latest_step(run: str | os.PathLike[str]) -> int:
    """The step of the latest complete checkpoint of the run."""
    return _complete_steps(Path(run))[-1]


def best_step(run: str | os.PathLike[str]) -> int:
    """The step of the complete checkpoint with the smallest validation error; of the latest, if there were none."""
    _complete_steps(Path(run))
    if errors := _errors(Path(run)):
        return _best_first(errors)[0]
    raise InputError(f"{run} holds no checkpoint whose {MANIFEST} can be read: restore one from a copy")


def verify(run: str | os.PathLike[str], step: int) -> None:
    """Compares a checkpoint with its manifest; `Damaged` names the first file that differs."""
    _verified(Path(run).absolute() / CHECKPOINTS / str(step))


def read_facts(run: str | os.PathLike[str], step: int) -> dict[str, Any]:
    """What was saved beside the state of a checkpoint, all of which is compared with its manifest before."""
    return _verified(Path(run).absolute() / CHECKPOINTS / str(step)).facts


def read_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration that a run was started with."""
    path = _config(Path(run))
    try:
        config = _parse(path, _read_bytes(path, MAX_METADATA))
    except Damaged as error:
        raise InputError(f"{error}: restore it from a copy") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object: restore it from a copy")
    return config


def read_params(run: str | os.PathLike[str], step: int | None = None) -> tuple[dict[str, Any], int]:
    """The weights to use of a run, the moving average where it keeps one, as NumPy arrays, and their step.

    Of its best checkpoint, unless `step` is given; one that is damaged is named on stderr and the next best taken.

    Raises:
      InputError: no checkpoint is whole, or that of `step` is not.
    """
    run = Path(run).absolute()
    damaged: list[Damaged] = []
    if step is None:
        errors = _errors(run)
        # One that cannot be read may have been the best: it is named like any other that is passed over.
        unread = [s for s in _complete_steps(run) if s not in errors]
        manifest = _first_whole(run, [*unread, *_best_first(errors)], damaged)
    elif step not in (steps := _complete_steps(run)):
        raise InputError(f"{run} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}")
    else:
        manifest = _verified(run / CHECKPOINTS / str(step))
    for error in damaged:
        print(f"warning: {error}: passed over, taking step {manifest.step}", file=sys.stderr)
    folder = run / CHECKPOINTS / str(manifest.step)
    averaged = any(name.startswith("ema.") for name in manifest.leaves)
    prefix = "ema." if averaged else "params."
    leaves = {name: leaf for name, leaf in manifest.leaves.items() if name.startswith((prefix, f"{STATISTICS}."))}
    arrays = _read_arrays(
        folder,
        {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in leaves.items()},
        {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in leaves},
    )
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.removeprefix(prefix).split(".")
        functools.reduce(lambda tree, key: tree.setdefault(key, {}), path, params)[last] = array
    return params, manifest.step


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Of the storage: plain files, each array or part of one written once, by the first that holds it."""
    # What Orbax logs is either no news (there is no database to merge) or raised as well; and a save that fails leaves
    # writes that were not begun.
    logging.getLogger("absl").addFilter(_not_of_storage)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host.* was never awaited", RuntimeWarning)
    handlers = ocp.type_handlers
    arrays = handlers.ArrayHandler(
        use_replica_parallel=False, enable_write_sharding_file=False, array_metadata_store=None
    )
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False,
        use_compression=False,
        type_handler_registry=handlers.create_type_handler_registry(
            (jax.Array, arrays), (np.ndarray, handlers.NumpyHandler())
        ),
    )


def _not_of_storage(record: logging.LogRecord) -> bool:
    return f"orbax{os.sep}checkpoint" not in record.pathname


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by name, such as `opt_state.0.mu.level.kernel`: the names of their folders."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _read_arrays(folder: Path, wanted: Mapping[str, Any], how: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
    """Arrays of a checkpoint that was verified."""
    handler = _handler()
    try:
        return handler.restore(
            folder / STATE,
            args=ocp.args.PyTreeRestore(item=dict(wanted), restore_args=dict(how), partial_restore=True),
        )
    finally:
        handler.close()


def _agreed(problem: InputError | None) -> InputError | None:
    """The problem of any process, the same in all."""
    try:
        distributed.agree(problem)
    except InputError as error:
        return error
    return None


def _failed(folder: Path, error: OSError | ValueError) -> InputError:
    """What to say of a save that failed, of which nothing is left."""
    if isinstance(error, InputError):
        reason = str(error)
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:  # of the storage library, with the system's own words inside
        found = re.findall(r"[^:]+(?= \[os_error_code)", str(error))
        if not found:
            raise error
        reason = found[-1].strip()
    if distributed.is_main():
        _remove_for_good(folder)
    return Unwritable(
        f"{folder} cannot be written ({reason}): the checkpoints before it are kept; make room or change the rights of "
        "the folder, then resume the run"
    )


def _make_sure_of_room(folder: Path, arrays: Iterable[jax.Array]) -> None:
    """Raises OSError where a disk is too full: nothing is begun that cannot be finished."""
    needed = sum(array.nbytes + ARRAY_BYTES for array in arrays)
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # some file systems do not tell
        raise OSError(errno.ENOSPC, f"No space left: it takes {needed:,} bytes, and {disk.free:,} are free")


@contextlib.contextmanager
def _late_writes_unheard() -> Iterator[None]:
    """When one array cannot be written, the storage gives up; that the others end later is not to be a traceback."""
    before = sys.unraisablehook

    def hook(what: Any) -> None:
        if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == "Event loop is closed"):
            before(what)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _remove(folder: Path) -> None:
    """Removes a checkpoint; one whose removal is cut off counts no longer."""
    if folder.exists():
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _remove_for_good(folder: Path) -> None:
    """Removes a checkpoint that failed, as far as it can be: what still writes its other arrays would bring it back."""
    until, gone = time.monotonic() + LATE_S, 0
    while gone < 5 and time.monotonic() < until:
        with contextlib.suppress(OSError):
            _remove(folder)
        gone = 0 if folder.exists() else gone + 1
        time.sleep(0.05)


# Which checkpoints there are


def _config(run: Path) -> Path:
    if not (run / CONFIG).is_file():
        raise InputError(f"{run} is not a training run (it has no {CONFIG}): give the folder that `ahmf train` wrote")
    return run / CONFIG


def _steps(run: Path) -> list[int]:
    """Of all checkpoints, complete or not, in order."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(int(p.name) for p in (run / CHECKPOINTS).iterdir() if re.fullmatch("[0-9]{1,10}", p.name))
    return []


def _complete_steps(run: Path) -> list[int]:
    """In order; there is at least one.

    Raises:
      InputError: there is none.
    """
    _config(run)
    if (run / "manifests").is_dir():
        raise InputError(
            f"{run} was written by ahmf-jax 0.1, whose checkpoints lack the state of the random numbers and have other "
            "parameters: use that version for it, or train again"
        )
    steps = [step for step in _steps(run) if (run / CHECKPOINTS / str(step) / MANIFEST).is_file()]
    if not steps:
        raise InputError(f"{run} holds no complete checkpoint yet: it stopped before its first; train it again")
    return steps


def _cut_off(run: Path, after: int = -1) -> list[int]:
    """The steps after `after` whose checkpoints are not complete."""
    return [s for s in _steps(run) if s > after and not (run / CHECKPOINTS / str(s) / MANIFEST).is_file()]


def _errors(run: Path) -> dict[int, float | None]:
    """The validation errors of the complete checkpoints whose manifests can be read."""
    errors = {}
    for step in _steps(run):
        with contextlib.suppress(Damaged):
            errors[step] = _read_manifest(run / CHECKPOINTS / str(step)).error
    return errors


def _best_first(errors: Mapping[int, float | None]) -> list[int]:
    """By error, the later of equals first; those without one come last."""
    return sorted(errors, key=lambda step: (math.inf if (e := errors[step]) is None else e, -step))


def _first_whole(run: Path, steps: Iterable[int], damaged: list[Damaged]) -> Manifest:
    """Of the first of the checkpoints that is whole; what is wrong with those before it goes to `damaged`."""
    for step in steps:
        try:
            return _verified(run / CHECKPOINTS / str(step))
        except Damaged as error:
            damaged.append(error)
    raise InputError(
        f"{damaged[0]}, and no other checkpoint of {run} is whole: restore one from a copy, or train again"
    )


# What a checkpoint holds


def _verified(folder: Path) -> Manifest:
    """The manifest of a checkpoint that is as it says, in every file, and that the storage can read safely."""
    manifest = _read_manifest(folder)
    missing = set(manifest.files)
    for name, size in _plain_files(folder):
        if name == MANIFEST:
            continue
        if name not in manifest.files:
            raise Damaged(f"{folder / name} was added since the checkpoint was written")
        if more := size - manifest.files[name][0]:
            raise Damaged(f"{folder / name} is {abs(more)} bytes {'longer' if more > 0 else 'shorter'} than it was")
        missing.discard(name)
    if missing:
        raise Damaged(f"{folder / min(missing)} is missing")
    for name, (_, digest) in manifest.files.items():
        if _sha256(folder / name) != digest:
            raise Damaged(f"{folder / name} has changed since the checkpoint was written")
    _check_storage(folder, manifest)
    return manifest


def _plain_files(folder: Path, below: str = "") -> Iterator[tuple[str, int]]:
    """Path below `folder` and size of each file, in order."""
    for entry in sorted(_reading(folder / below, os.scandir), key=lambda entry: entry.name):
        name = f"{below}{entry.name}"
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()) or name.count("/") > MAX_DEPTH:
            raise Damaged(f"{folder / name} is no part of a checkpoint: no link, device or deeper folder is")
        if entry.is_dir():
            yield from _plain_files(folder, f"{name}/")
        else:
            yield name, entry.stat().st_size


def _digests(folder: Path) -> dict[str, tuple[int, str]]:
    return {name: (size, _sha256(folder / name)) for name, size in _plain_files(folder)}


def _sha256(path: Path) -> str:
    def read(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _reading(path, read)


def _reading(path: Path, read: Callable[[Path], Read]) -> Read:
    try:
        return read(path)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:  # such as a disk's bad block
        raise Damaged(f"{path} cannot be read ({error.strerror or error})") from error


def _read_bytes(path: Path, limit: int) -> bytes:
    size = _reading(path, os.stat).st_size
    if size > limit:
        raise Damaged(f"{path} has {size} bytes: more than {limit} are not read")
    return _reading(path, Path.read_bytes)


def _parse(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not valid JSON ({error})") from None


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """The digest comes first, and is that of all that follows."""
    rest = json.dumps({"format": FORMAT, **dataclasses.asdict(manifest)}).encode()[1:]
    data = DIGEST % hashlib.sha256(rest).hexdigest().encode() + rest
    if len(data) > MAX_MANIFEST:
        raise InputError(f"its {MANIFEST} would have {len(data)} bytes, of which {MAX_MANIFEST} are read")
    write_whole(folder / MANIFEST, data)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    data = _read_bytes(path, MAX_MANIFEST)
    size = len(DIGEST % bytes(64))
    if data[:size] != DIGEST % hashlib.sha256(data[size:]).hexdigest().encode():
        raise Damaged(f"{path} has changed since the checkpoint was written")
    # From here on it is as its writer meant it, who need not have meant well.
    read = _parse(path, data)
    try:
        if read["format"] != FORMAT:
            raise InputError(
                f"{path} is of format {read['format']!r}, and this version of ahmf-jax reads {FORMAT}: use the version "
                "that wrote it"
            )
        manifest = Manifest(
            step=operator.index(read["step"]),
            error=None if read["error"] is None else float(read["error"]),
            facts=dict(read["facts"]),
            leaves={
                name: (tuple(map(operator.index, shape)), np.dtype(dtype).name)
                for name, (shape, dtype) in read["leaves"].items()
            },
            files={name: (operator.index(size), str(digest)) for name, (size, digest) in read["files"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise Damaged(f"{path} is not a manifest ({error!r})") from None
    if str(manifest.step) != folder.name:
        raise Damaged(f"{path} is of step {manifest.step}, not of {folder.name}")
    return manifest


def _check_storage(folder: Path, manifest: Manifest) -> None:
    """Holds what the storage library will believe, its own files, against the manifest."""
    sizes: dict[str, dict[str, int]] = {name: {} for name in manifest.leaves}
    for name, (size, _) in manifest.files.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == STATE and parts[1] in sizes:
            sizes[parts[1]][parts[2]] = size
        elif name not in STORAGE_FILES:
            raise Damaged(f"{folder / name} is no part of a checkpoint")
    for name, (shape, dtype) in manifest.leaves.items():
        _check_array(folder / STATE / name, shape, dtype, sizes[name])
    path = folder / STATE / TREE
    tree = _parse(path, _read_bytes(path, MAX_METADATA))
    expected = {
        "tree_metadata": {
            str((name,)): {
                "key_metadata": [{"key": name, "key_type": 2}],
                "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
            }
            for name in manifest.leaves
        },
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
    }
    if not isinstance(tree, dict) or any(tree.get(key) != value for key, value in expected.items()):
        raise Damaged(f"{path} does not describe the arrays that {MANIFEST} names")


def _check_array(folder: Path, shape: tuple[int, ...], dtype: str, sizes: Mapping[str, int]) -> None:
    """Whether the files of an array, given by their sizes, hold it and no more: their sizes are the memory it takes."""
    path = folder / ARRAY
    described = _parse(path, _read_bytes(path, MAX_METADATA))
    chunks = described.get("chunks") if isinstance(described, dict) else None
    expected = {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": chunks,
        "dtype": "bfloat16" if dtype == "bfloat16" else np.dtype(dtype).str,
        "order": "C",
        "compressor": None,
        "filters": None,
        "fill_value": None,
        "dimension_separator": ".",
    }
    if (
        described != expected
        or not isinstance(chunks, list)
        or len(chunks) != len(shape)
        or not all(type(chunk) is int and 0 < chunk <= size for chunk, size in zip(chunks, shape, strict=True))
    ):
        raise Damaged(f"{path} does not describe the array {dtype}{list(shape)} that {MANIFEST} names")
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    size = math.prod(chunks) * np.dtype(dtype).itemsize
    parts = {name: found for name, found in sizes.items() if name != ARRAY}
    # The count first: a grid is only as large as there are files.
    whole = math.prod(counts) == len(parts) and all(
        parts.get(".".join(map(str, index)) or "0") == size for index in np.ndindex(*counts)
    )
    if not whole:
        raise Damaged(f"{folder} does not hold the {math.prod(counts)} files of {size} bytes that {ARRAY} names")


def _compare(folder: Path, manifest: Manifest, wanted: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raises InputError where a checkpoint holds another state than is wanted."""
    stored = manifest.leaves
    for name in sorted(stored.keys() | wanted.keys(), key=lambda n: (not n.startswith("params"), n)):
        if stored.get(name) != wanted.get(name):
            there, here = (
                f"{leaf[1]}{list(leaf[0])}" if (leaf := leaves.get(name)) else "missing" for leaves in (stored, wanted)
            )
            raise InputError(
                f"step {manifest.step} of {folder.parent.parent} is of another network or optimiser: its {name} is "
                f"{there}, here it is {here}; use the configuration that the run was started with"
            )
