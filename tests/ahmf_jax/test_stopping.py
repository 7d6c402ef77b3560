import os
import signal
import threading
import time

import pytest

from ahmf_jax.stopping import SIGNALS, stop_on_signal


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop(number: int) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with stop_on_signal() as stop:
        assert not stop.requested and not stop(0)
        os.kill(os.getpid(), number)
        assert stop.requested and stop(1) and stop(2)
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_one_run_stopped_leaves_the_next_alone() -> None:
    with stop_on_signal():
        signal.raise_signal(signal.SIGTERM)
    with stop_on_signal() as stop:
        assert not stop.requested and not stop(0)


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_interrupt_is_not_held_back(first: int) -> None:
    with stop_on_signal() as stop:
        signal.raise_signal(first)
        if first != signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)  # a scheduler may send several: the run is still saving
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.requested


def test_work_in_another_thread_is_not_waited_for() -> None:
    released = threading.Event()
    with stop_on_signal() as stop:
        # A thread sends it, as the main one waits; without the other thread it would be heard after the work alone.
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        start = time.monotonic()
        assert stop.unless(lambda: released.wait(30)) is None
        assert 0.2 < time.monotonic() - start < 2
        timer.join()
    released.set()


def test_the_result_or_the_failure_of_work_comes_back() -> None:
    with stop_on_signal() as stop:
        assert stop.unless(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            stop.unless(lambda: 1 // 0)
        assert not stop.requested


def test_outside_the_main_thread_nothing_is_heard_and_nothing_changed() -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    seen = []

    def run() -> None:
        with stop_on_signal() as stop:
            seen.append((stop.requested, stop(3), [signal.getsignal(n) for n in SIGNALS] == before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, False, True)]
