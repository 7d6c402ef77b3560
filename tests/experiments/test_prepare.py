"""`ahmf data prepare` at the command line: what it replaces, what it is given, and how it is stopped."""

import signal
import subprocess
import sys
import time

import pytest

SMALL = ("--height", "16", "--width", "16", "--validation", "1", "--test", "1")


def test_a_larger_set_is_replaced_on_request_only(ahmf, refused, tmp_path):
    place = ("--data-dir", tmp_path)
    ahmf("data", "prepare", "scenes", *SMALL, "--train", "2", *place)
    smaller = ("data", "prepare", "scenes", *SMALL, "--train", "1", *place)
    refused(*smaller, said=r"scenes is there already with 2 train, .* give another --name, or --replace")
    assert "1 train" in ahmf(*smaller, "--replace").out


def test_an_empty_source(refused, tmp_path):
    refused("data", "prepare", "lu", "--from", "", "--data-dir", tmp_path, said="--from is empty: name the folder or")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_with_one_line_and_leaves_nothing(tmp_path, name):
    # As in a terminal, also where the tests themselves run under nohup.
    script = (
        f"import signal; signal.signal(signal.{name}, signal.SIG_DFL); from experiments.cli import main; "
        f"main(['data', 'prepare', 'scenes', '--data-dir', {str(tmp_path / 'data')!r}])"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 60
            while not list(tmp_path.glob("data/.scenes-*/built/*/*/*")) and time.monotonic() < end:
                time.sleep(0.05)
            process.send_signal(signal.Signals[name])
            assert process.stderr.read() == "ahmf: interrupted\n" and process.wait(20) == 130
        finally:
            process.kill()
    assert list((tmp_path / "data").iterdir()) == []
