"""Scratch folders: gone at the end, after a signal too; what a killed process left is swept, and nothing else."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from data_pipelines.scratch import LOCK, scratch_folder, sweep

CHILD = """
import pathlib, signal, sys, time
from data_pipelines.scratch import scratch_folder
for name in (signal.SIGTERM, signal.SIGHUP):  # as in a terminal, also where the tests themselves run under nohup
    signal.signal(name, signal.SIG_DFL)
try:
    with scratch_folder(pathlib.Path(sys.argv[1]), "toy") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(bytes(9))
        print(folder, flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def child(tmp_path):
    """A process with a scratch folder below `tmp_path / "data"`, which it makes."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "data"], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline().startswith(f"{tmp_path}/data/.toy-")
        yield process
        process.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_nothing(tmp_path, child, name):
    child.send_signal(signal.Signals[name])
    assert child.wait(20) == 130
    assert list((tmp_path / "data").iterdir()) == []


def test_the_dead_are_swept_and_the_living_are_not(tmp_path, child):
    data = tmp_path / "data"
    kept = data / ".config" / "lock"
    kept.parent.mkdir()
    kept.write_text("another program's")
    (data / ".config" / "settings").touch()
    with scratch_folder(data, "mine"):
        sweep(data)
        assert len(list(data.iterdir())) == 3  # one's own, the child's, and the other program's
    child.kill()
    child.wait(20)
    assert len(list(data.glob(".toy-*/deep/file"))) == 1
    with scratch_folder(data, "mine") as folder:
        assert sorted(data.iterdir()) == sorted([kept.parent, folder])
    assert list(data.iterdir()) == [kept.parent]


def test_handlers_are_as_they_were(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with scratch_folder(tmp_path, "toy"):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
    # One of the caller's own keeps its say, and so does nohup's; another thread cannot set any.
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with scratch_folder(tmp_path, "toy"):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before[1])
    done = []

    def work():
        with scratch_folder(tmp_path, "toy") as folder:
            done.append((folder / LOCK).exists())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True] and list(tmp_path.iterdir()) == []
