"""Who does which trial, and what becomes of it; the trainings are stand-ins (`test_postgresql.py` has real ones)."""

import dataclasses
import errno
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.locks import InUse
from ahmf_jax.writing import unwritable
from experiments.config import Stopped
from experiments.studies import storage as storages
from experiments.studies import worker
from experiments.studies.storage import Unreachable, open_storage
from experiments.studies.study import Row, lease_of, make_study, open_study, retry_failed
from experiments.studies.trial import Pruned
from experiments.studies.worker import DEATHS, Claim, Lost, join, take, work
from tests.postgresql import on_both


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.05)


@pytest.fixture
def trains(monkeypatch):
    """Puts a stand-in for the training and measuring of a trial in its place."""

    def put(stand_in):
        monkeypatch.setattr(worker, "run", stand_in)

    return put


def well(claim, fields, out, data_dir, stop):
    out.mkdir(parents=True)
    claim.set("metrics", {"mae": 1.0 + fields["seed"]})
    return {"mae": 1.0 + fields["seed"]}


def states(study):
    return [trial.state.name for trial in study.trials()]


def died(study, number, name):
    """What a worker leaves that is killed after it took the trial."""
    assert study.storage.take(lease_of(study, number), name, -1)


# Taking


@on_both
def test_trials_are_taken_in_order_and_once(study):
    first, second, third = (take(study, name, 60) for name in ("one", "two", "three"))
    assert [claim.number for claim in (first, second, third)] == [0, 1, 2]
    assert take(study, "four", 60) is None
    assert states(study) == ["RUNNING"] * 3
    assert first.trial.user_attrs["workers"] == ["one"]
    assert first.trial.user_attrs["folder"] == "trials/0000"
    assert all(trial.datetime_start is not None for trial in study.trials())

    second.set("seen", 1)
    study.storage.release(second.lease, "two")
    again = take(study, "four", 60)
    assert again.number == 1
    assert again.trial.user_attrs["workers"] == ["two", "four"] and "deaths" not in again.trial.user_attrs
    with pytest.raises(Lost, match="trial 1 went on elsewhere"):
        second.set("seen", 2)
    assert study.trials()[1].user_attrs["seen"] == 1


def test_what_was_begun_is_taken_before_what_waits(study):
    for name in ("one", "two"):
        take(study, name, 60)
    died(study, 1, "two")
    assert take(study, "three", 60).number == 1
    assert take(study, "four", 60).number == 2
    assert study.trials()[1].user_attrs["deaths"] == [-1]


def test_a_worker_takes_its_own_again_and_that_is_no_death(study):
    """As after the storage was gone for a moment, before the lease is over and after it."""
    assert take(study, "one", 60).number == take(study, "one", -1).number == take(study, "one", 60).number == 0
    assert study.trials()[0].user_attrs["workers"] == ["one"]
    assert "deaths" not in study.trials()[0].user_attrs


def test_a_trial_that_kills_its_workers_fails(study, monkeypatch):
    for number in range(DEATHS):
        assert take(study, f"worker {number}", 60).number == 0
        died(study, 0, f"worker {number}")
    assert take(study, "last", 60).number == 1
    failed = study.trials()[0]
    assert failed.state.name == "FAIL"
    assert failed.user_attrs["reason"] == "3 workers died with it, as where memory runs out"
    assert study.storage.leases()[lease_of(study, 0)].released

    # One that gets on is killed from outside.
    steps = iter([2, 2, 4, 4, 6])
    monkeypatch.setattr("ahmf_jax.checkpoint.latest_step", lambda out: next(steps))
    for number in range(5):
        died(study, 1, ("last", "worker 0", "worker 1", "worker 2", "worker 3")[number])
        assert take(study, f"worker {number}", 60).number == 1
    assert study.trials()[1].user_attrs["deaths"] == [2, 2, 4, 4, 6]


def test_a_trial_that_is_lost_while_it_is_taken_is_left(study, monkeypatch):
    """As by a machine that slept between the lease and the first word."""
    taken = study.storage.take

    def slow(what, name, seconds):
        got = taken(what, name, seconds)
        if what == lease_of(study, 0):
            assert taken(what, name, -1) and taken(what, "quick", 60)
        return got

    monkeypatch.setattr(study.storage, "take", slow)
    assert take(study, "slow", 60).number == 1
    assert "workers" not in study.trials()[0].user_attrs


# Working


@on_both
def test_many_workers_do_every_trial_once(url, study, trains):
    """Threads, each with its own view of the storage; SQLite's lock is waited for."""
    done, guard = Counter(), threading.Lock()

    def trained(claim, fields, out, data_dir, stop):
        with guard:
            done[claim.number] += 1
        claim.set("state", 1)
        return well(claim, fields, out, data_dir, stop)

    trains(trained)
    studies = [open_study(open_storage(url), study.name) for _ in range(4)]
    with ThreadPoolExecutor(len(studies)) as pool:
        finished = list(pool.map(work, studies))
    assert sum(finished) == 3 and done == {0: 1, 1: 1, 2: 1}
    assert [trial.values for trial in study.trials()] == [[1.0], [2.0], [3.0]]
    assert states(study) == ["COMPLETE"] * 3
    assert all(study.storage.leases("trial/")[lease_of(study, number)].released for number in range(3))
    assert work(study) == 0 and done.total() == 3  # nothing is done again


def test_what_the_storage_knows_lies_beside_the_run(study, trains):
    trains(well)
    assert work(study, most=1) == 1
    record = json.loads((study.run_folder(0) / "trial.json").read_text())
    assert record["study"] == "levels" and record["number"] == 0
    assert record["state"] == "COMPLETE" and record["values"] == [1.0]
    assert record["metrics"] == {"mae": 1.0} and record["fields"] == {"model.num_levels": 1, "seed": 0}
    assert states(study) == ["COMPLETE", "WAITING", "WAITING"]


def test_a_study_in_another_folder(study, trains, tmp_path):
    trains(well)
    work(study, folder=tmp_path / "elsewhere", most=1)
    assert (tmp_path / "elsewhere" / "trials" / "0000" / "trial.json").exists()
    assert not study.run_folder(0).exists()


def test_a_pruned_trial_keeps_what_it_reached(study, trains):
    def pruned(claim, fields, out, data_dir, stop):
        claim.trial.report(5.0, 2)
        raise Pruned

    trains(pruned)
    work(study, most=1)
    assert study.trials()[0].state.name == "PRUNED" and study.trials()[0].value == 5.0


def test_a_trial_that_fails_says_why_and_the_study_goes_on(study, trains, capsys):
    def fails(claim, fields, out, data_dir, stop):
        if claim.number == 0:
            raise InputError("the loss is nan: use a smaller rate")
        if claim.number == 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nat length")
        return well(claim, fields, out, data_dir, stop)

    trains(fails)
    assert work(study, max_failures=3) == 1
    assert states(study) == ["FAIL", "FAIL", "COMPLETE"]
    reasons = [trial.user_attrs.get("reason") for trial in study.trials()]
    assert reasons == [
        "the loss is nan: use a smaller rate",
        "RuntimeError: RESOURCE_EXHAUSTED: out of memory",
        None,
    ]
    said = capsys.readouterr().err
    assert "warning: trial 0 failed: the loss is nan" in said
    assert said.count("Traceback") == 1  # of what is no mistake of the user's


def test_a_number_that_is_none_is_a_failure(study, trains):
    trains(lambda claim, fields, out, data_dir, stop: {"mae": float("nan")} if claim.number else {})
    with pytest.raises(InputError, match="3 trials of study levels failed in a row, the last for this: its mae cannot"):
        work(study, max_failures=3)
    assert states(study) == ["FAIL"] * 3


def test_as_many_trials_as_are_asked_for_are_done_whatever_becomes_of_them(study, trains):
    def fails(claim, fields, out, data_dir, stop):
        raise InputError("no such data set")

    trains(fails)
    assert work(study, most=2) == 0
    assert states(study) == ["FAIL", "FAIL", "WAITING"]


def test_failures_in_a_row_end_the_worker_and_may_be_tried_again(study, trains):
    def fails(claim, fields, out, data_dir, stop):
        raise InputError("no such data set")

    trains(fails)
    said = "2 trials of study levels failed in a row, the last for this: no such data set; mend that, .*--retry-failed"
    with pytest.raises(InputError, match=said):
        work(study, max_failures=2)
    assert states(study) == ["FAIL", "FAIL", "WAITING"]

    assert retry_failed(study) == 2
    assert retry_failed(study) == 0  # each once, whoever asks
    again = study.trials()[3:]
    assert [trial.user_attrs["retry_of"] for trial in again] == [0, 1]
    assert [trial.user_attrs["fields"] for trial in again] == [t.user_attrs["fields"] for t in study.trials()[:2]]
    assert [trial.user_attrs["label"] for trial in again] == ["m = 1"] * 2
    assert [trial.params for trial in again] == [trial.params for trial in study.trials()[:2]]
    trains(well)
    assert work(study) == 3
    assert states(study) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert [trial.value for trial in study.trials()[2:]] == [3.0, 1.0, 2.0]
    assert retry_failed(study) == 0


# Leases and what can happen to them


@on_both
def test_a_lease_is_held_while_a_trial_takes_long(study, trains):
    """As in a compile, which gives no other sign of life."""
    seen = []

    def slow(claim, fields, out, data_dir, stop):
        for number in range(5):
            time.sleep(0.5)
            seen.append(take(study, f"other {number}", 60))
        assert not stop.lost
        return {"mae": 1.0}

    trains(slow)
    assert work(study, most=1, lease=1) == 1
    assert [claim and claim.number for claim in seen] == [1, 2, None, None, None]
    assert states(study)[0] == "COMPLETE"


@pytest.fixture
def asleep(monkeypatch):
    """Workers give no sign of life by themselves, as where the machine sleeps."""
    monkeypatch.setattr(worker._Heart, "_beat", lambda heart: None)


@pytest.mark.parametrize("ended", [False, True], ids=["at work", "done"])
def test_a_worker_that_slept_longer_than_its_lease_writes_nothing(study, trains, asleep, ended, capsys):
    def sleeps(claim, fields, out, data_dir, stop):
        died(study, 0, claim.worker)  # the time is over
        other = take(study, "other", 60)
        assert other.number == 0
        if ended:
            worker._settle(other, out, lambda: well(other, fields, out, data_dir, stop), stop)
        claim.set("metrics", {"mae": 9.0})
        return {"mae": 9.0}

    trains(sleeps)
    assert work(study, most=1, wait=False) == 0
    first = study.trials()[0]
    assert first.state.name == ("COMPLETE" if ended else "RUNNING")
    assert first.user_attrs["workers"][-1] == "other" and first.user_attrs.get("metrics") != {"mae": 9.0}
    assert "warning: trial 0 went on elsewhere, and is left to that worker" in capsys.readouterr().err


@pytest.mark.parametrize("error", [Stopped("saved"), RuntimeError("Trial#0 has already finished")], ids=repr)
def test_whatever_ends_a_trial_that_was_lost_is_no_end_of_it(study, trains, asleep, error):
    def lost(claim, fields, out, data_dir, stop):
        died(study, claim.number, claim.worker)
        assert take(study, f"other {claim.number}", 60).number == claim.number
        stop.lost = True
        raise error

    trains(lost)
    assert work(study, wait=False) == 0
    assert states(study) == ["RUNNING"] * 3  # all are others'
    assert all("reason" not in trial.user_attrs for trial in study.trials())


def test_a_folder_that_is_in_use_is_left_for_a_while(study, trains, capsys):
    """Where its process is only slow, or its machine asleep."""
    tries = []

    def in_use(claim, fields, out, data_dir, stop):
        tries.append(claim.number)
        if tries == [0]:
            raise InUse("trials/0000 is in use by another run (process 7): wait")
        return well(claim, fields, out, data_dir, stop)

    trains(in_use)
    assert work(study, lease=2) == 3
    assert sorted(tries) == [0, 0, 1, 2] and tries[:2] == [0, 1]
    assert states(study) == ["COMPLETE"] * 3
    assert "warning: trial 0 waits: trials/0000 is in use" in capsys.readouterr().err


def test_a_worker_waits_for_others_trials(study, trains):
    """And takes one whose worker dies."""
    trains(well)
    take(study, "doomed", 60)
    assert work(study, wait=False) == 2
    timer = threading.Timer(0.5, died, (study, 0, "doomed"))
    timer.start()
    assert work(study) == 1
    timer.join()
    assert study.trials()[0].user_attrs["deaths"] == [-1]


# Some at a time


@pytest.fixture
def side_by_side(monkeypatch):
    """A stand-in for the training of a group: who was in it, in the order of their coming; half of them at a time."""
    from experiments import together

    groups = []

    def train_together(items, *, data_dir, next_item, finished, stop):
        waiting, group = list(items), []
        groups.append(group)
        while waiting:
            item = waiting.pop(0)
            group.append(item.out.name)
            assert isinstance(item.stop, worker._Stop) and not item.stop.requested  # a lost lease ends that one alone
            finished(item, InputError("the loss is nan") if item.config.seed == 7 else None)
            if (another := next_item()) is not None:
                waiting.append(another)

    def concluded(claim, config, out, data_dir, stop):
        return {"mae": 1.0 + config.seed}

    monkeypatch.setattr(together, "train_together", train_together)
    monkeypatch.setattr(worker, "conclude", concluded)
    monkeypatch.setattr(worker, "run", lambda claim, fields, *rest: {"mae": 1.0 + fields["seed"]})
    return groups


def test_trials_of_one_program_are_trained_together(storage, spec, side_by_side):
    """Those of another are not among them; one that fails is no end of the others; a lone one is trained alone."""
    rows = [Row(f"m = {m}", {"model.num_levels": m, "seed": seed}) for m in (1, 2, 4) for seed in (0, 7, 2)]
    study = make_study(storage, "levels", spec, rows=rows[:7])
    assert work(study, together=2) == 5
    assert side_by_side == [["0000", "0001", "0002"], ["0003", "0004", "0005"]]
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"] * 2 + ["COMPLETE"]
    assert [trial.value for trial in study.trials()] == [1.0, None, 3.0, 1.0, None, 3.0, 1.0]
    assert all(lease.released for lease in storage.leases("trial/").values())


def test_a_group_takes_no_more_than_it_may_and_ends_with_its_failures(storage, spec, side_by_side):
    rows = [Row("m = 1", {"model.num_levels": 1, "seed": 7, "steps": steps}) for steps in (2, 4, 6, 8)]
    study = make_study(storage, "levels", spec, rows=rows)
    assert work(study, together=3, most=1) == 1
    assert states(study) == ["COMPLETE", "WAITING", "WAITING", "WAITING"]
    with pytest.raises(InputError, match="2 trials of study levels failed in a row, the last for this: the loss is"):
        work(study, together=3, max_failures=2)
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "RUNNING"]
    assert take(study, "next", 60).number == 3  # what was at hand is free


def test_a_search_draws_no_more_for_a_group_than_it_has_lanes(storage, spec, side_by_side, monkeypatch):
    """What does not fit counts too, and is left to the next group, or to another worker; it is not drawn again."""
    drawn = []

    def draw(claim):
        if "fields" not in claim.trial.user_attrs:
            drawn.append(claim.number)
            levels = 2 if claim.number in (2, 4) else 1
            claim.set("fields", {"model.num_levels": levels, "seed": claim.number})
        return claim.trial.user_attrs["fields"]

    monkeypatch.setattr(worker, "fields_of", draw)
    search = dataclasses.replace(spec, kind="search")
    study = make_study(storage, "search", search, space={}, trials=6)
    assert work(study, together=4) == 6
    assert drawn == [0, 1, 2, 3, 4, 5]
    assert side_by_side == [["0000", "0001", "0003", "0005"], ["0002", "0004"]]
    assert [trial.user_attrs["workers"] for trial in study.trials()] == [study.trials()[0].user_attrs["workers"]] * 6


def test_on_the_cpu_one_at_a_time_is_best():
    assert worker._lanes() == 1


# What is no trial's fault


@pytest.mark.parametrize(
    "error",
    [
        unwritable(Path("trials/0000/config.json"), OSError(errno.EACCES, "Permission denied")),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["unwritable", "full"],
)
def test_a_folder_that_cannot_be_written_ends_the_worker_and_not_the_trial(study, trains, error):
    def full(claim, fields, out, data_dir, stop):
        raise error

    trains(full)
    with pytest.raises(Stopped, match=r"^stopped: .*trials/0000.*: cannot be written \((No space|Permission)"):
        work(study)
    assert states(study) == ["RUNNING", "WAITING", "WAITING"]
    assert take(study, "next", 60).number == 0
    assert "deaths" not in study.trials()[0].user_attrs


def test_a_storage_that_is_gone_for_a_moment_costs_no_trial(study, trains, capsys):
    gone = iter([True, True, False, False, False])

    def cut(claim, fields, out, data_dir, stop):
        if next(gone):
            raise Unreachable("--storage x: cannot be used (server closed the connection)")
        return well(claim, fields, out, data_dir, stop)

    trains(cut)
    assert work(study) == 3
    assert states(study) == ["COMPLETE"] * 3 and "deaths" not in study.trials()[0].user_attrs
    assert capsys.readouterr().err.count("server closed the connection") == 2


def test_a_storage_that_stays_away_ends_the_worker(study, trains):
    def gone(claim, fields, out, data_dir, stop):
        raise Unreachable("--storage x: cannot be used (server closed the connection)")

    trains(gone)
    with pytest.raises(Stopped, match=r"^stopped: --storage x: cannot be used \(server closed the connection"):
        work(study)
    assert states(study) == ["RUNNING", "WAITING", "WAITING"]


def test_a_worker_waits_for_a_storage_before_it_begins(study, url, monkeypatch, capsys):
    problem = Unreachable("--storage x: cannot be used (connection refused)")
    answers = iter([problem, problem, study.storage])

    def opened(url):
        answer = next(answers)
        if isinstance(answer, Unreachable):
            raise answer
        return answer

    monkeypatch.setattr(worker, "open_storage", opened)
    began = time.monotonic()
    assert join(url, "levels").name == "levels"
    assert study.storage.back > began  # leases may be over though their workers live
    assert capsys.readouterr().err.count("connection refused") == 1

    answers = iter([problem] * 1000)
    monkeypatch.setattr(storages, "PATIENCE", 0.2)
    with pytest.raises(Stopped, match=r"^stopped: --storage x: cannot be used \(connection refused"):
        join(url, "levels")


def test_after_an_outage_workers_may_first_prolong_their_leases(study, monkeypatch):
    """All leases are over then; what was given back is free at once."""
    for name in ("one", "two", "three"):
        take(study, name, 60)
    for number, name in enumerate(("one", "two")):
        died(study, number, name)
    study.storage.release(lease_of(study, 2), "three")
    study.storage.back = time.monotonic()
    assert take(study, "idle", 60).number == 2
    assert take(study, "other", 60) is None
    monkeypatch.setattr(worker, "BEAT", 0)
    assert take(study, "other", 60).number == 0


def test_a_stopped_trial_is_free_and_the_line_says_so(study, trains):
    def stopped(claim, fields, out, data_dir, stop):
        raise Stopped("stopped at step 2 of 6, saved: go on with `ahmf train --resume x`")

    trains(stopped)
    with pytest.raises(Stopped, match=r"^stopped: trial 0 waits for the next worker, as `ahmf study worker"):
        work(study)
    assert states(study) == ["RUNNING", "WAITING", "WAITING"]
    assert study.storage.leases()[lease_of(study, 0)].released
    assert isinstance(take(study, "next", 60), Claim) and "deaths" not in study.trials()[0].user_attrs
