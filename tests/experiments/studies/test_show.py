"""A study in the terminal: the numbers of its rows and trials, who is at work, what is left, and the width."""

import io
import os
import re
import shutil
import sys

import pytest

from experiments.studies import show, tables
from experiments.studies.standing import read
from tests.experiments import studies_of
from tests.experiments.studies_of import EVIL, OBEYED


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    return studies_of.levels(tmp_path_factory.mktemp("levels"))


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return studies_of.search(tmp_path_factory.mktemp("search"))


def lines_of(text, start):
    return [re.split(r"  +", line.strip()) for line in text.splitlines() if line.startswith(start)]


def test_states_are_those_of_storage_and_leases(levels):
    standing = read(levels)
    states = [trial.state for trial in standing.trials]
    assert states == ["complete"] * 4 + ["running", "failed", "interrupted", "interrupted", "waiting"]
    assert [trial.number for trial in standing.trials if trial.died] == [6], "that of 7 stopped, and gave it back"
    assert [(w, [t.number for t in trials]) for w, trials in standing.workers.items()] == [("host:4:aa", [4])]
    assert [trial.step for trial in standing.trials] == [100, 100, 100, 100, 50, 0, 20, 30, 0]


def test_rows_are_means_and_spreads_over_the_seeds(levels):
    text = show.table(levels)
    # Of 1.25 and 1.35: the mean, and the root of (0.05^2 + 0.05^2) / 1.
    assert lines_of(text, "m = ") == [
        ["m = 1", "2/3", "1.300 \u00b1 0.071", "2.600 \u00b1 0.141", "50 s"],
        ["m = 2", "1/3", "1.000", "2.000", "50 s"],
        ["m = 4", "1/3", "0.800", "1.600", "50 s"],
    ]
    assert lines_of(text, "interpolation") == [["interpolation", "2.000", "4.000"]]
    assert "MAE (grey levels)" in text


def test_what_is_left_is_the_work_over_the_workers(levels):
    rate, hours = read(levels).hours_left()
    # A trial took 60 s: of 4, 6, 7 and 8 there are 50, 80, 70 and 100 % left, and one worker does them.
    assert rate == pytest.approx(60) and hours * 3600 == pytest.approx(60 * (0.5 + 0.8 + 0.7 + 1))
    said = "4 of 9 trials complete, 1 running, 2 interrupted, 1 waiting, 1 failed; 60 trials an hour, about 3 min left"
    assert said in show.table(levels) and "at work: host:4" in show.table(levels)


def test_who_has_what_and_why_it_failed(levels):
    text = show.table(levels)
    assert "trial 4 (m = 2): running, validated at step 50 of 100, host:4, since 2026-11-21 20:00" in text
    assert "trial 6 (m = 1): its worker died; the next goes on with it, validated at step 20" in text
    assert "trial 7 (m = 2): its worker stopped; the next goes on" in text
    assert f"trial 5 (m = 4) failed: the loss is not finite {EVIL} [31m" in text
    assert OBEYED[0] not in text, "what a worker wrote would be obeyed by the terminal"
    assert "optuna-dashboard sqlite:///" in text


def test_a_search_shows_its_best_and_what_was_drawn(search):
    text = show.table(search)
    assert f"the best {show.MOST}; --all" in text
    shown = [line.split() for line in text.splitlines() if " complete " in line]
    done = [t for t in read(search).trials if t.state == "complete"]
    best = sorted(done, key=lambda t: t.values["mae"])[: show.MOST]
    assert [int(cells[0]) for cells in shown] == [t.number for t in best]
    first = best[0]
    assert f"{first.values['mae']:.3f}" in shown[0] and f"{first.fields['optimiser.learning_rate']:.4g}" in shown[0]
    assert re.search("learning_rate +num_levels +schedule +halve_at", text)
    every = show.text(read(search), every=True)
    assert sum(" complete " in line for line in every.splitlines()) == len(done) == 24
    assert "trial 7 pruned: given up at step 30 of 100, where its validation MAE was" in every
    assert "no worker is at it: ahmf study worker --study search" in text


def test_the_front_is_of_what_no_other_betters(search):
    standing = read(search)
    points = {t.number: (t.values["mae"], t.values["time"]) for t in standing.of("complete")}
    front = {
        n
        for n, (mae, time) in points.items()
        if not any((a <= mae and b < time) or (a < mae and b <= time) for a, b in points.values())
    }
    assert {t.number for t in standing.front(("mae", "time"))} == front and 2 <= len(front) < 24
    marked = [row[0].text for row in tables.trials(standing).rows if row[2].text == tables.ON_FRONT]
    assert set(map(int, marked)) == front


def test_what_is_equal_in_one_and_worse_in_the_other_is_not_on_the_front(tmp_path):
    points = [(1.0, 5.0), (1.0, 4.0), (2.0, 4.0), (0.5, 6.0), (0.5, 6.0)]
    told = [studies_of.trial(studies_of.State.COMPLETE, values=list(point)) for point in points]
    standing = read(studies_of.study(tmp_path, "search", told, ("mae", "time")))
    assert [trial.number for trial in standing.front(("mae", "time"))] == [3, 4, 1]


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal(levels, search, width):
    for study in (levels, search):
        text = show.text(read(study), every=True, width=width)
        *lines, dashboard = text.splitlines()
        assert max(map(len, lines)) <= width
        assert dashboard.startswith("optuna-dashboard"), "a command is to be copied whole"
    assert "no room for: " in text


def test_every_moment_of_a_study(tmp_path):
    """None has begun; one has; all are done."""
    trial, State = studies_of.trial, studies_of.State
    new = studies_of.study(tmp_path, "search", [trial(State.WAITING)] * 2, name="new")
    assert "0 of 2 trials complete, 2 waiting; no worker" in show.table(new)
    empty = studies_of.study(tmp_path, "levels", [], name="empty")
    assert "0 of 0 trials complete" in show.table(empty)
    done = studies_of.study(
        tmp_path, "search", [trial(State.COMPLETE, values=[1.0], **studies_of.found(1.0))], name="d"
    )
    assert "1 of 1 trials complete\n" in show.table(done)


def test_the_command(ahmf, refused, levels):
    url = levels.storage.url
    ended = ahmf("study", "show", "levels", "--storage", url)
    assert ended.code == 0 and ended.out == show.table(levels) + "\n"
    assert "trial  row" in ahmf("study", "show", "levels", "--storage", url, "--all").out
    refused("study", "show", "levels", "--storage", url, "--watch", "0", said="--watch 0: give seconds, from 0.1")
    refused("study", "show", "other", "--storage", url, said="there is no study other")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_watch_paints_over_itself_until_all_is_done(levels, search, tmp_path, monkeypatch):
    out, slept = Terminal(), []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(show.time, "sleep", sleep)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((60, 12)))
    show.watch(levels, 3.0)  # ended by Ctrl-C, without a complaint
    first, second = out.getvalue().split("\x1b[H")[1:]
    assert slept == [3.0, 3.0] and first.count("\n") == 11 and second.startswith(first)
    assert re.search(r"\u2026 and \d+ lines\x1b\[K\n\x1b\[J", first)
    done = studies_of.study(tmp_path, "levels", [])
    show.watch(done, 3.0)
    assert len(slept) == 2, "there is nothing to wait for"
