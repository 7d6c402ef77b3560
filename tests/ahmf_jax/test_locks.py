"""Locks: one run in a folder, told by process and host; a process that dies leaves none behind."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ahmf_jax import InputError, locks
from ahmf_jax.locks import LOCK, lock_run
from tests.test_imports import ROOT

HOLD = (
    "import sys\nfrom ahmf_jax.locks import lock_run\nwith lock_run(sys.argv[1]):\n    print(flush=True)\n    input()\n"
)


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(InputError) as error, lock_run(tmp_path):
                pass
            said = f"{tmp_path} is in use by another run (process {other.pid} on "
            assert str(error.value).startswith(said) and "\n" not in str(error.value)
        finally:
            other.send_signal(signal.SIGKILL)
    with lock_run(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_two_in_one_process_and_one_after_the_other(tmp_path: Path) -> None:
    with lock_run(tmp_path), pytest.raises(InputError, match=f"in use by another run .process {os.getpid()}"):
        lock_run(tmp_path).__enter__()
    with lock_run(tmp_path):
        pass


def test_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", without)
    with lock_run(tmp_path):
        err = capsys.readouterr().err
    assert err.startswith(f"warning: {tmp_path}/{LOCK} cannot be locked (No locks available)") and err.count("\n") == 1
    monkeypatch.setattr(locks, "fcntl", None)
    with lock_run(tmp_path):
        assert "no locks on this system" in capsys.readouterr().err


def test_a_folder_that_cannot_hold_the_lock(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match=rf"{LOCK}: cannot be written \(Is a directory\)"), lock_run(tmp_path):
        pass
