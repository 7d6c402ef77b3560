"""A training that is killed loses nothing: the short form of `python -m tests.kill_resume`."""

from pathlib import Path

import pytest

from tests.kill_resume import kill_resume


def test_one_that_is_killed_in_two_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While arrays are written, and between these and the manifest."""
    # The seed is one that draws two kills, the first of them early.
    assert kill_resume(tmp_path, runs=1, signals=0, seed=7, steps=12, kills=2, whole_runs=1) == 0
    assert "\n2 kills: " in capsys.readouterr().out
