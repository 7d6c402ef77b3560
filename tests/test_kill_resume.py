"""Trainings that are killed lose nothing: the short form of `python -m tests.kill_resume`."""

from pathlib import Path

from tests.kill_resume import kill_resume


def test_two_that_are_killed_in_a_save(tmp_path: Path) -> None:
    """While arrays are written, and between these and the manifest."""
    assert kill_resume(tmp_path, runs=2, signals=0, seed=1, kills=1, whole_runs=1) == 0
