"""`ahmf study worker`: takes a study's trials, one after the other or some at a time, until none is left.

A worker may be started and killed at will. Whoever takes a trial holds its lease, and holds the lock of its run's
folder while it trains; a trial whose worker died is taken by another once the lease is over, and goes on from its run's
last checkpoint. A worker that was held up for longer than its lease notices before it writes anything to the storage.
"""

import contextlib
import errno
import functools
import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ahmf_jax.errors import InputError
from ahmf_jax.locks import InUse
from ahmf_jax.stopping import Stop, stop_on_signal
from ahmf_jax.writing import Unwritable, unwritable, write_whole
from experiments.config import Stopped
from experiments.studies import storage as storages
from experiments.studies.storage import Storage, Unreachable, command, open_storage, reachable, worker_name
from experiments.studies.study import Study, lease_of, open_study
from experiments.studies.trial import Pruned, Unsuited, begin, conclude, fields_of, run

if TYPE_CHECKING:
    import optuna

    Wanted = Callable[[optuna.trial.FrozenTrial], bool]

RECORD = "trial.json"  # in a trial's run folder: what the storage knows of it
LEASE = 60.0  # seconds for which a worker has a trial, and which it prolongs
LANES = 8  # trials at a time on an accelerator, if nothing is said
BEAT = 10.0  # seconds between two of its signs of life, at most
DEATHS = 3  # of workers with a trial, and no checkpoint between them, after which it counts as failed
OUTAGES = 3  # of the storage, one after the other, in the middle of a statement: after these it is given up
POLL = 2.0  # seconds between two looks at whether another worker has left something to do
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no trial's fault


class Lost(Exception):
    """A trial is left to another worker: the one that has it now, or the process that is at work in its folder."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"trial {number} {why}")
        self.number = number


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has, for `seconds` from its last sign of life."""

    study: Study
    trial: "optuna.trial.Trial"
    worker: str
    seconds: float = LEASE

    @property
    def number(self) -> int:
        """The trial's, from 0."""
        return self.trial.number

    @property
    def lease(self) -> str:
        """What is leased."""
        return lease_of(self.study, self.number)

    def kept(self) -> bool:
        """Gives a sign of life; whether the trial is still this worker's."""
        return self.study.storage.renew(self.lease, self.worker, self.seconds)

    def keep(self) -> None:
        """Gives a sign of life; `Lost` where the trial is another worker's, as after more than a lease without one."""
        if not self.kept():
            raise Lost(self.number, "went on elsewhere, and is left to that worker")

    def set(self, name: str, value: Any) -> None:
        """Keeps something of the trial, unless it is another worker's."""
        self.keep()
        with reachable(self.study.storage.url):
            self.trial.set_user_attr(name, value)


def join(url: str, name: str) -> Study:
    """The study of that name, for a worker: a database that is away is waited for.

    Raises:
      InputError: there is no such study.
      Stopped: the database stays away, or by a signal.
    """
    until, told = time.monotonic() + storages.PATIENCE, False
    with stop_on_signal() as stop:
        while True:
            try:
                study = open_study(open_storage(url), name)
            except Unreachable as problem:
                if stop.requested or time.monotonic() > until:
                    raise Stopped(f"stopped: {problem}") from None
                if not told:
                    _note(str(problem))
                told = True
                time.sleep(POLL)
            else:
                if told:
                    study.storage.back = time.monotonic()
                return study


def work(
    study: Study,
    *,
    folder: Path | None = None,
    data_dir: Path | None = None,
    most: int | None = None,
    max_failures: int = 3,
    wait: bool = True,
    lease: float = LEASE,
    together: int | Literal["auto"] = 1,
) -> int:
    """Trains the study's trials until none is left.

    Args:
      study: which.
      folder: of its runs, where this machine has it elsewhere than the one that made the study.
      data_dir: where data sets are prepared.
      most: so many trials at most, those that fail counted.
      max_failures: so many that fail in a row end the worker.
      wait: while other workers still have trials, stay, and take those whose worker dies.
      lease: seconds after which a trial of a worker that gives no sign of life is another's.
      together: so many trials at a time, in one program where one can train them: see `experiments.together`. "auto" is
        1 on the CPU, where it is no faster, and `LANES` elsewhere.

    Returns:
      the trials that this worker finished.

    Raises:
      InputError: too many trials failed in a row, or other hardware is wanted.
      Stopped: by a signal, or as the storage or the study's folder cannot be used now. The trials that it had are
        saved, and free for another worker.
    """
    outages, lanes = 0, _lanes() if together == "auto" else together
    with (
        stop_on_signal() as stop,
        study.storage.patient(lambda: not stop.requested),
        _Heart(study.storage, name := worker_name(), lease) as heart,
    ):
        worker = _Worker(study, name, folder, data_dir, most, max_failures, lease, stop, heart)
        while worker.wants():
            if stop.requested:
                raise Stopped(f"stopped: what is left waits for {_next_worker(study)}")
            try:
                claim = worker.claim()
                if claim is not None and lanes == 1:
                    worker.alone(claim)
                elif claim is not None:
                    worker.group(claim, lanes)
                elif wait and unfinished(study):
                    time.sleep(POLL)
                else:
                    break
                outages = 0
            except Unreachable as problem:
                # Gone in the middle of a statement, the storage may be back: the trial goes on from where it is.
                outages += 1
                if outages >= OUTAGES or study.storage.gave_up:
                    raise Stopped(f"stopped: {problem}") from None
                _note(str(problem))
            except Unwritable as problem:  # it may be mended, and then the study goes on
                raise Stopped(f"stopped: {problem}") from None
    return worker.done


def _lanes() -> int:
    """How many trials at a time are best here."""
    import jax

    return 1 if jax.default_backend() == "cpu" else LANES


@dataclass
class _Worker:
    """A worker, and how far it is."""

    study: Study
    name: str
    folder: Path | None
    data_dir: Path | None
    most: int | None
    max_failures: int
    lease: float
    stop: Stop
    heart: "_Heart"
    done: int = 0
    settled: int = 0  # those that failed too
    failures: int = 0  # in a row
    at_hand: set[int] = field(default_factory=set)
    left: dict[int, float] = field(default_factory=dict)  # to others, and when to look at them again

    def wants(self) -> bool:
        """Whether it is to do more trials than it has settled and has at hand."""
        return self.most is None or self.settled + len(self.at_hand) < self.most

    def claim(self, wanted: "Wanted" = lambda trial: True) -> Claim | None:
        """The next trial, one of those that are wanted and not at hand already."""
        passed = self.at_hand | {number for number, until in self.left.items() if time.monotonic() < until}
        return take(
            self.study,
            self.name,
            self.lease,
            folder=self.folder,
            wanted=lambda trial: trial.number not in passed and wanted(trial),
        )

    @contextlib.contextmanager
    def holding(self, claim: Claim) -> "Iterator[_Stop]":
        """Has a trial at hand; yields its `Stop`."""
        self.at_hand.add(claim.number)
        try:
            with self.heart.holding(claim, self.stop) as held:
                yield held
        finally:
            self.at_hand.remove(claim.number)

    def alone(self, claim: Claim) -> None:
        """Does a trial."""
        with self.holding(claim) as held:
            self.settle(claim, held, lambda: run(claim, _fields(claim), self._out(claim), self.data_dir, held))

    def group(self, first: Claim, lanes: int) -> None:
        """Does a trial and, beside it, others that the same program can train; one that ends makes room for the next.

        A search draws a trial as it is taken, so it may be of another program. Then it is left to whoever takes it
        next. It counts as one of the lanes: what is drawn before others have ended, they tell the sampler nothing of.
        """
        from experiments.together import Item, program, train_together

        key, strangers, known = "", 0, dict[int, bool]()
        going: dict[Path, tuple[Claim, _Stop, contextlib.ExitStack]] = {}

        def fits(trial: "optuna.trial.FrozenTrial") -> bool:
            if "fields" not in trial.user_attrs:
                return len(self.at_hand) + strangers < lanes
            if trial.number not in known:
                try:
                    known[trial.number] = program(self.study.config(trial.user_attrs["fields"])) == key
                except InputError:
                    known[trial.number] = True  # it fails, and says why
            return known[trial.number]

        def enter(claim: Claim) -> Item | None:
            """What is to be trained; None where the trial cannot be, or not in this group."""
            nonlocal key, strangers
            scope = everything.enter_context(contextlib.ExitStack())
            held, out = scope.enter_context(self.holding(claim)), self._out(claim)
            try:
                fields = _fields(claim)
                found = program(self.study.config(fields))
                key = key or found
                if found != key:
                    strangers += 1
                    scope.close()
                    return None
                config, on_validation = begin(claim, fields, out)
            except Exception as error:
                with scope:
                    self.settle(claim, held, functools.partial(_raise, error))
                return None
            going[out] = claim, held, scope
            return Item(config, out, on_validation, held)

        def next_item() -> Item | None:
            while self.wants() and (claim := self.claim(fits)):
                if item := enter(claim):
                    return item
            return None

        def finished(item: Item, error: Exception | None) -> None:
            claim, held, scope = going.pop(item.out)

            def result() -> Mapping[str, float]:
                if error is not None:
                    raise error
                return conclude(claim, item.config, item.out, self.data_dir, held)

            # A signal that comes while this one is measured stops the others too, and they are saved first.
            with scope, contextlib.suppress(Stopped):
                self.settle(claim, held, result)

        with contextlib.ExitStack() as everything:
            if (item := enter(first)) is None:
                return
            items = [item]
            while len(items) < lanes and (item := next_item()):
                items.append(item)
            if len(items) == 1:  # then as `ahmf train` does it
                claim, held, _ = going[items[0].out]
                self.settle(claim, held, lambda: run(claim, fields_of(claim), self._out(claim), self.data_dir, held))
                return
            try:
                train_together(items, data_dir=self.data_dir, next_item=next_item, finished=finished, stop=self.stop)
            except Stopped:
                numbers = ", ".join(str(claim.number) for claim, _, _ in going.values())
                raise Stopped(f"stopped: trials {numbers} wait for {_next_worker(self.study)}") from None

    def settle(self, claim: Claim, held: "_Stop", result: Callable[[], Mapping[str, float]]) -> None:
        """Records what came of a trial, and counts it."""
        try:
            reason = _settle(claim, self._out(claim), result, held)
        except Lost as lost:
            _note(str(lost))
            self.left[lost.number] = time.monotonic() + self.lease
            return
        self.settled += 1
        if reason is None:
            self.done, self.failures = self.done + 1, 0
            return
        self.failures += 1
        if self.failures >= self.max_failures:
            raise InputError(
                f"{self.failures} trials of study {self.study.name} failed in a row, the last for this: {reason}; mend "
                "that, then start a worker again, with --retry-failed for those that failed"
            )

    def _out(self, claim: Claim) -> Path:
        return self.study.run_folder(claim.number, self.folder)


def _fields(claim: Claim) -> Mapping[str, Any]:
    """What the trial changes, which is said."""
    fields = fields_of(claim)
    print(f"trial {claim.number}: " + ", ".join(f"{name} = {value}" for name, value in fields.items()), flush=True)
    return fields


def _raise(error: Exception) -> NoReturn:
    raise error


def _next_worker(study: Study) -> str:
    """Who goes on with what is left."""
    return f"the next worker, as `{command(study.storage, 'study', 'worker', '--study', study.name)}`"


def unfinished(study: Study) -> int:
    """How many trials some worker has, or may take."""
    return sum(not trial.state.is_finished() for trial in study.trials())


def take(
    study: Study,
    worker: str,
    seconds: float = LEASE,
    *,
    folder: Path | None = None,
    wanted: "Wanted" = lambda trial: True,
) -> Claim | None:
    """A trial for this worker: one that another has left or died with, or the next that waits; None where all are had.

    One that kills its workers, as where memory runs out, counts as failed: `DEATHS` of them with no checkpoint between.

    Args:
      study: which.
      worker: this one's name.
      seconds: of the lease.
      folder: of the study's runs, where this machine has it elsewhere.
      wanted: whether it is to be this trial.
    """
    import optuna

    state = optuna.trial.TrialState
    storage, leases = study.storage, study.storage.leases(lease_of(study, 0).removesuffix("0"))
    # What was begun first.
    for frozen in sorted(study.trials(), key=lambda trial: (trial.datetime_start is None, trial.number)):
        if frozen.state.is_finished() or not wanted(frozen):
            continue
        before = leases.get(name := lease_of(study, frozen.number))
        if before is not None and before.worker != worker:
            # After an outage all leases are over: who is alive prolongs his first.
            waking = not before.released and time.monotonic() < storage.back + BEAT
            if before.left > 0 or waking:
                continue
        if not storage.take(name, worker, seconds):
            continue  # another was quicker
        with reachable(storage.url):
            now = storage.backend.get_trial(frozen._trial_id)
            if now.state.is_finished():
                storage.release(name, worker)
                continue
            if now.state == state.WAITING:
                storage.backend.set_trial_state_values(frozen._trial_id, state.RUNNING)
            claim = Claim(study, optuna.trial.Trial(study.backend, frozen._trial_id), worker, seconds)
        died = now.state == state.RUNNING and before is not None and not before.released and before.worker != worker
        try:
            if worker not in (workers := now.user_attrs.get("workers", []))[-1:]:
                claim.set("workers", [*workers, worker])
            claim.set("folder", str(study.run_folder(frozen.number, Path())))
            if died and _is_deadly(claim, now.user_attrs.get("deaths", []), folder):
                _finish(claim, state.FAIL, reason=f"{DEATHS} workers died with it, as where memory runs out")
                storage.release(name, worker)
                continue
        except Lost:  # held up for longer than its lease
            continue
        return claim
    return None


def _is_deadly(claim: Claim, deaths: Sequence[int], folder: Path | None) -> bool:
    """Notes that a worker died with the trial; whether it got no further with several."""
    from ahmf_jax.checkpoint import latest_step

    try:
        step = latest_step(claim.study.run_folder(claim.number, folder))
    except InputError:
        step = -1
    claim.set("deaths", [*deaths, step])
    return [*deaths, step][-DEATHS:] == [step] * DEATHS


class _Heart:
    """Prolongs the leases of what a worker has at hand, in a thread: nothing that takes long is in the way of it."""

    def __init__(self, storage: Storage, worker: str, seconds: float) -> None:
        self._storage, self._worker, self._seconds = storage, worker, seconds
        self._held: dict[str, _Stop] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)

    def __enter__(self) -> "_Heart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5)  # a storage that does not answer keeps nobody here

    @contextlib.contextmanager
    def holding(self, claim: Claim, outer: Stop) -> Iterator["_Stop"]:
        """Holds a trial's lease, and gives it back at the end; yields the trial's own `Stop`."""
        self._held[claim.lease] = stop = _Stop(outer)
        try:
            yield stop
        finally:
            del self._held[claim.lease]
            with contextlib.suppress(Unreachable):  # it ends by itself
                self._storage.release(claim.lease, self._worker)

    def _beat(self) -> None:
        told = False
        while not self._ended.wait(min(BEAT, self._seconds / 4)):
            for name, stop in list(self._held.items()):
                try:
                    if not self._storage.renew(name, self._worker, self._seconds):
                        # Not where it was given back meanwhile.
                        stop.lost = name in self._held
                    told = False
                except Unreachable as problem:  # it may be back before the lease is over
                    if not told:
                        _note(str(problem))
                    told = True


class _Stop(Stop):
    """A trial's: the worker is asked to stop, or the trial is another's."""

    def __init__(self, outer: Stop) -> None:
        super().__init__()
        self._outer, self.lost = outer, False

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.lost or self._outer.requested

    def __call__(self, step: int) -> bool:
        """Whether to stop before the next step."""
        return self.lost or self._outer(step)


def _settle(claim: Claim, out: Path, result: Callable[[], Mapping[str, float]], stop: _Stop) -> str | None:
    """Records what came of a trial: the `result`, or what it raises; the reason where it failed."""
    import optuna

    state, objectives = optuna.trial.TrialState, claim.study.spec.objectives
    try:
        found = result()
        values = [float(found.get(name, math.nan)) for name in objectives]
        if missing := [name for name, value in zip(objectives, values, strict=True) if not math.isfinite(value)]:
            raise InputError(f"its {' and '.join(missing)} cannot be told: no finite number was measured")
    except Pruned as pruned:
        print(f"trial {claim.number}: {pruned}", flush=True)
        _finish(claim, state.PRUNED, out)
        return None
    except InUse as problem:
        raise Lost(claim.number, f"waits: {problem}") from None
    except (Lost, Unsuited, Unwritable, Unreachable):
        raise  # not the trial's fault
    except Stopped:
        if stop.lost:
            claim.keep()
        raise Stopped(f"stopped: trial {claim.number} waits for {_next_worker(claim.study)}") from None
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in FULL:
            raise unwritable(out, problem) from None
        claim.keep()  # whoever has it now may have ended it, and what the storage then refuses is no failure
        reason = str(problem)
        if not isinstance(problem, InputError):
            traceback.print_exc()
            reason = f"{type(problem).__name__}: {reason.partition(chr(10))[0]}"
        _note(f"trial {claim.number} failed: {reason}")
        _finish(claim, state.FAIL, out, reason=reason)
        return reason
    _finish(claim, state.COMPLETE, out, values)
    return None


def _finish(
    claim: Claim,
    state: "optuna.trial.TrialState",
    out: Path | None = None,
    values: Sequence[float] | None = None,
    reason: str | None = None,
) -> None:
    """Ends the trial: first in its run's folder, if there is one, then in the storage."""
    if reason is not None:
        claim.set("reason", reason)
    if out is not None and out.is_dir():
        _write(claim, out, state.name, values)
    claim.keep()
    with reachable(claim.study.storage.url):
        claim.study.backend.tell(claim.trial, values, state)


def _write(claim: Claim, out: Path, state: str, values: Sequence[float] | None) -> None:
    """Beside the run, what the storage knows of its trial."""
    with reachable(claim.study.storage.url):
        kept = claim.study.storage.backend.get_trial(claim.trial._trial_id).user_attrs
    record = {"study": claim.study.name, "number": claim.number, "state": state, "values": values, **kept}
    write_whole(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def _note(line: str) -> None:
    """A line on stderr, above a bar that may be there."""
    from tqdm import tqdm

    tqdm.write(f"warning: {line}", file=sys.stderr)
