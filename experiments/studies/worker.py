"""`ahmf study worker`: takes a study's trials one after the other, until none is left.

A worker may be started and killed at will. Whoever takes a trial holds its lease; a trial whose worker died is taken
by another once the lease is over, and goes on from its run's last checkpoint.
"""

import contextlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ahmf_jax.errors import InputError
from ahmf_jax.locks import InUse
from ahmf_jax.writing import Unwritable, write_whole
from experiments.config import Stopped
from experiments.studies.storage import reachable, worker_name
from experiments.studies.study import Study
from experiments.studies.trial import Pruned, fields_of, run

if TYPE_CHECKING:
    import optuna

    from ahmf_jax.stopping import Stop

RECORD = "trial.json"  # in a trial's run folder: what the storage knows of it
LEASE = 60.0  # seconds for which a worker has a trial, and which it prolongs
BEAT = 10.0  # seconds between two of its signs of life
DEATHS = 3  # of workers with a trial, after which it counts as failed
POLL = 2.0  # seconds between two looks at whether another worker has left something to do


@dataclass(frozen=True)
class Claim:
    """A trial that this worker has."""

    study: Study
    trial: "optuna.trial.Trial"
    worker: str

    @property
    def number(self) -> int:
        """The trial's, from 0."""
        return self.trial.number

    @property
    def lease(self) -> str:
        """What is leased."""
        return lease_of(self.study, self.number)

    def set(self, name: str, value: Any) -> None:
        """Keeps something of the trial."""
        with reachable(self.study.storage.url):
            self.trial.set_user_attr(name, value)


def lease_of(study: Study, number: int) -> str:
    """The name of a trial's lease."""
    return f"trial/{study.name}/{number}"


def work(
    study: Study,
    *,
    folder: Path | None = None,
    data_dir: Path | None = None,
    most: int | None = None,
    max_failures: int = 3,
    wait: bool = True,
    lease: float = LEASE,
) -> int:
    """Trains the study's trials until none is left.

    Args:
      study: which.
      folder: of its runs, where this machine has it elsewhere than the one that made the study.
      data_dir: where data sets are prepared.
      most: so many trials at most.
      max_failures: so many that fail in a row end the worker.
      wait: while other workers still have trials, stay, and take those whose worker dies.
      lease: seconds after which a trial of a worker that gives no sign of life is another's.

    Returns:
      the trials that this worker finished.

    Raises:
      InputError: too many trials failed in a row; the storage or the study's folder cannot be used. The trial that it
        had is free for another worker then.
      Stopped: by a signal; the trial is saved, and free.
    """
    from ahmf_jax.stopping import stop_on_signal

    worker = worker_name()
    done, failures = 0, 0
    with stop_on_signal() as stop:
        while most is None or done < most:
            if stop.requested:
                raise Stopped("stopped; the study's trials wait for the next worker")
            claim = take(study, worker, lease)
            if claim is None:
                if not wait or not unfinished(study):
                    break
                time.sleep(POLL)
                continue
            with _held(claim, stop, lease) as held:
                reason = _do(claim, folder, data_dir, held)
            if reason is None:
                done, failures = done + 1, 0
                continue
            failures += 1
            if failures >= max_failures:
                raise InputError(
                    f"{failures} trials of study {study.name} failed in a row, the last for this: {reason}; mend that, "
                    f"then start a worker again, with --retry-failed for those that failed"
                )
    return done


def unfinished(study: Study) -> int:
    """How many trials some worker has, or may take."""
    return sum(not trial.state.is_finished() for trial in study.trials())


def take(study: Study, worker: str, seconds: float = LEASE) -> Claim | None:
    """A trial for this worker: one that another has left or died with, or the next that waits; None where all are had.

    One that has killed several workers counts as failed.
    """
    import optuna

    leases = study.storage.leases()
    # What was begun first.
    for frozen in sorted(study.trials(), key=lambda trial: (trial.datetime_start is None, trial.number)):
        if frozen.state.is_finished():
            continue
        before = leases.get(name := lease_of(study, frozen.number))
        if before is not None and before.left > 0 and not before.released:
            continue
        if not study.storage.take(name, worker, seconds):
            continue  # another was quicker
        with reachable(study.storage.url):
            now = study.storage.backend.get_trial(frozen._trial_id)
            if now.state.is_finished():
                study.storage.release(name, worker)
                continue
            if now.state == optuna.trial.TrialState.WAITING:
                study.storage.backend.set_trial_state_values(frozen._trial_id, optuna.trial.TrialState.RUNNING)
            if study.spec.kind == "search":
                study.backend.sampler = sampler(study, frozen.number)
            claim = Claim(study, optuna.trial.Trial(study.backend, frozen._trial_id), worker)
        died = now.state == optuna.trial.TrialState.RUNNING and before is not None and not before.released
        deaths = now.user_attrs.get("deaths", 0) + died
        claim.set("workers", [*now.user_attrs.get("workers", ()), worker])
        if died:
            claim.set("deaths", deaths)
            if deaths >= DEATHS:
                _finish(claim, reason=f"{deaths} workers died with it, as where memory runs out")
                study.storage.release(name, worker)
                continue
        return claim
    return None


def sampler(study: Study, number: int) -> "optuna.samplers.BaseSampler":
    """What fills a search's trials: TPE, which knows what other workers have at hand, from a seed of the trial's."""
    import optuna

    seed = study.spec.config.seed * 100_003 + number
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


@contextlib.contextmanager
def _held(claim: Claim, outer: "Stop", seconds: float) -> Iterator["_Stop"]:
    """Holds the lease while the trial is at hand, and gives it back; `stop` is of this trial."""
    storage, ended = claim.study.storage, threading.Event()
    stop = _Stop(outer)

    def beat() -> None:
        while not ended.wait(min(BEAT, seconds / 4)):
            try:
                if not storage.renew(claim.lease, claim.worker, seconds):
                    stop.lost = True
                    return
            except InputError as problem:  # the database may come back before the lease is over
                print(f"warning: {problem}", file=sys.stderr)

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(InputError):  # it ends by itself; what was in the way is told already
            storage.release(claim.lease, claim.worker)


class _Stop:
    """A trial's `stopping.Stop`: of the worker, or because the trial is another's."""

    def __init__(self, outer: "Stop") -> None:
        self._outer, self.lost = outer, False

    @property
    def requested(self) -> bool:
        return self.lost or self._outer.requested

    def __call__(self, step: int) -> bool:
        return self.lost or self._outer(step)

    def unless(self, work: Any) -> Any:
        return self._outer.unless(work)


def _do(claim: Claim, folder: Path | None, data_dir: Path | None, stop: _Stop) -> str | None:
    """Trains and measures a trial, and records what came of it; the reason where it failed."""
    out = claim.study.run_folder(claim.number, folder)
    try:
        fields = fields_of(claim)
        values = run(claim, fields, out, data_dir, stop)
    except Pruned:
        _finish(claim, pruned=True)
        return None
    except (InUse, Unwritable):
        raise  # not the trial's fault, and no other trial would fare better here
    except Stopped:
        if stop.lost:
            print(f"warning: trial {claim.number} went on elsewhere, and is left to that worker", file=sys.stderr)
            return None
        raise
    except InputError as problem:
        return _failed(claim, str(problem))
    except Exception as problem:
        traceback.print_exc()
        return _failed(claim, f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}")
    if not stop.lost:
        _finish(claim, values=values)
        _write(claim, out)
    return None


def _failed(claim: Claim, reason: str) -> str:
    print(f"trial {claim.number} failed: {reason}", file=sys.stderr)
    _finish(claim, reason=reason)
    return reason


def _finish(
    claim: Claim, *, values: Mapping[str, float] | None = None, pruned: bool = False, reason: str | None = None
) -> None:
    """Ends the trial in the storage: complete with its values, pruned, or failed with the reason."""
    import optuna

    state = optuna.trial.TrialState
    if reason is not None:
        claim.set("reason", reason)
    with reachable(claim.study.storage.url):
        try:
            if values is not None:
                claim.study.backend.tell(claim.trial, [values[name] for name in claim.study.spec.objectives])
            else:
                claim.study.backend.tell(claim.trial, state=state.PRUNED if pruned else state.FAIL)
        except ValueError as problem:  # another worker has ended it
            print(f"warning: trial {claim.number}: {problem}", file=sys.stderr)


def _write(claim: Claim, out: Path) -> None:
    """Beside the run, what the storage knows of its trial."""
    with reachable(claim.study.storage.url):
        frozen = claim.study.storage.backend.get_trial(claim.trial._trial_id)
    record = {"study": claim.study.name, "number": frozen.number, "values": frozen.values, **frozen.user_attrs}
    write_whole(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())
