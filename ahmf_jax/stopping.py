"""Stopping a run when it is asked to: signals in one process, and agreement among several.

Ctrl-C sends SIGINT; schedulers send SIGTERM before they take a machine back, and SLURM's `--signal` any, SIGUSR1
mostly, before the time is up. All mean the same: save, and end with a status that says the run can go on.
"""

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

from jax.experimental import multihost_utils

from ahmf_jax import distributed

Result = TypeVar("Result")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_ASKED = "stop"  # what the processes tell each other


class Stop:
    """Whether the run was asked to stop; `stop_on_signal` makes it."""

    def __init__(self) -> None:
        self._heard = False
        self._looked = 0.0
        self._first: int | None = None

    def hear(self) -> None:
        """As a signal does: asks the run to stop."""
        self._heard = True
        distributed.tell(_ASKED)

    @property
    def requested(self) -> bool:
        """Whether this process was asked, or has heard of another that was; not in all of them at once, and cheap.

        For leaving early what is done between two steps: a validation.
        """
        now = time.monotonic()
        if not self._heard and now - self._looked > distributed.NAP:
            self._looked = now
            self._heard = distributed.told(_ASKED)
        return self._heard

    def __call__(self, step: int) -> bool:
        """Whether to stop before the next step; in all processes at the same one.

        Args:
          step: how many have been done. Every process asks at every step.
        """
        if distributed.process_count() == 1:
            return self._heard
        if self._first is None:
            self._first = step
        # JAX's service chooses the first step that no process has asked about yet, and takes it that they count from 1:
        # before the first question, 1 is its choice, and a run that goes on from step 1000 would never meet it.
        return multihost_utils.reached_preemption_sync_point(step - self._first + 1)

    def unless(self, work: Callable[[], Result]) -> Result | None:
        """The result of `work`, or None as soon as any process is asked to stop; the same in all, and all take part.

        It is done in another thread, so that signals are heard meanwhile, and is not ended with the waiting: leave the
        process by `distributed.leave`. A failure in one process is one in all.
        """
        future = distributed.in_thread(work)
        while not (future.done() or self.requested):
            time.sleep(distributed.NAP / 2)
        # Who has voted for going on hears of a signal at the next step; who has not does so now, and votes against.
        if not all(distributed.gather(future.done())):
            return None
        distributed.agree(future.exception())
        return future.result()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Yields what SIGINT, SIGTERM and SIGUSR1 set; after the first of them, SIGINT is KeyboardInterrupt again.

    Signals are handled in the main thread alone, so elsewhere none is heard.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    several = distributed.process_count() > 1
    notify = _preemption_notifier() if several else None

    def handler(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.hear()
        if notify is not None:
            notify(signal.SIGTERM)

    previous = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
        if notify is not None:
            _c_signal(signal.SIGTERM, notify)


def _c_signal(number: int, handler: object) -> int | None:
    """C's `signal`: sets a handler that Python does not know of, and returns the address of the one before."""
    function = ctypes.CDLL(None).signal
    function.restype, function.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return function(number, ctypes.cast(handler, ctypes.c_void_p))  # type: ignore[arg-type]


def _preemption_notifier() -> Callable[[int], None]:
    """The handler of SIGTERM with which JAX's preemption service hears that this machine will be taken back.

    `jax.distributed.initialize` installs it, in C; Python's own would take its place, and JAX offers no other way to
    give notice. So ours calls it, and SIGINT and SIGUSR1 lead to the same agreement.
    """
    address = _c_signal(signal.SIGTERM, None)  # signal.SIG_DFL for as long as it takes to put it back
    notifier = ctypes.CFUNCTYPE(None, ctypes.c_int)(address or 0)
    _c_signal(signal.SIGTERM, notifier)
    return notifier
