"""Trainings that are killed lose nothing: the short form of `python -m tests.kill_resume`."""

from pathlib import Path

from tests.kill_resume import kill_resume


def test_three_that_are_killed_and_one_that_is_asked_to_stop(tmp_path: Path) -> None:
    assert kill_resume(tmp_path, runs=3, signals=1, seed=1, kills=1) == 0
