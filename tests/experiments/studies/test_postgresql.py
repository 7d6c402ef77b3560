"""Two workers on a PostgreSQL server, one of which is killed: every trial is done once. See `tests/study_kill.py`."""

import random

from tests.study_kill import Place, check, disturbed


def test_one_of_two_workers_is_killed_and_every_trial_is_done_once(postgresql, tmp_path):
    """In the middle of a trial."""
    place = Place(tmp_path, postgresql.database(), steps=12, trials=2)
    place.prepare()
    whole = place.study("whole")
    with place.workers("whole") as workers:
        workers.start()
        workers.finish()
    check(place, whole, whole)

    came = disturbed(place, "killed", whole, ["training"], random.Random(0), replaced=False)
    assert came == ["training"]
    study = place.study("killed")  # once more: nothing is queued again
    assert len(study.trials()) == 2
    # Each that was killed had a successor; where machines are slow, so short a lease may end under a live worker too.
    assert sum(len(trial.user_attrs["workers"]) for trial in study.trials()) >= 3
    assert sum(len(trial.user_attrs.get("deaths", ())) for trial in study.trials()) >= 1
    said = (tmp_path / "killed.out").read_text()
    assert "secret" not in said and "optuna-dashboard postgresql+psycopg://ahmf@127.0.0.1" in said
