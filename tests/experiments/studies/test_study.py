"""How a study is made, gone on with and found again; on SQLite and PostgreSQL."""

import dataclasses
import json
import shlex
import shutil

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.files import write_depth
from experiments import config as configs
from experiments.studies.storage import as_typed, command, open_storage
from experiments.studies.study import (
    ATTRIBUTE,
    Measured,
    Row,
    Spec,
    check_data,
    make_study,
    note_folder,
    open_study,
    retry_failed,
    study_of_folder,
)
from tests.postgresql import on_both
from tests.processes import ends, environment, start

MAKE = """
import sys
from pathlib import Path
from experiments import config
from experiments.studies.storage import open_storage
from experiments.studies.study import Row, Spec, make_study
url, recipe = sys.argv[1:]
rows = [Row("m = 1", {"model.num_levels": 1, "seed": seed}) for seed in range(10)]
study = make_study(open_storage(url, create=True), "shared", Spec("levels", config.load(recipe)), rows=rows)
print(len(study.trials()))
"""


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_workers_that_make_a_study_at_once_queue_each_trial_once(url, recipe):
    """As the tasks of a SLURM array that all begin with `ahmf study levels`; the storage is new too."""
    ended = ends([start(["-c", MAKE, url, str(recipe)], environment(1)) for _ in range(3)], 200)
    assert [(end.status, end.out) for end in ended] == [(0, "10\n")] * 3, ended
    trials = open_study(open_storage(url), "shared").trials()
    assert [trial.user_attrs["fields"]["seed"] for trial in trials] == list(range(10))


@on_both
def test_a_study_is_gone_on_with_and_extended(storage, spec, rows):
    make_study(storage, "levels", spec, rows=rows[:2])
    assert len(make_study(storage, "levels", spec, rows=rows).trials()) == 3
    assert len(make_study(storage, "levels", spec, rows=rows).trials()) == 3
    assert [trial.params for trial in open_study(storage, "levels").trials()] == [
        {"model.num_levels": 1, "seed": seed} for seed in range(3)
    ]


def test_a_search_has_as_many_trials_as_are_asked_for_and_those_that_repeat_one(storage, spec):
    import optuna

    search = dataclasses.replace(spec, kind="search")
    study = make_study(storage, "search", search, space={"fields": {}}, trials=3)
    storage.backend.set_trial_state_values(study.trials()[1]._trial_id, optuna.trial.TrialState.FAIL)
    assert retry_failed(study) == 1
    assert "label" not in study.trials()[3].user_attrs  # it has one of its own, of its number
    assert len(make_study(storage, "search", search, space={"fields": {}}, trials=3).trials()) == 4
    assert len(make_study(storage, "search", search, space={"fields": {}}, trials=5).trials()) == 6


@pytest.mark.parametrize("said", [False, True], ids=["nameless", "named"])
def test_a_study_whose_maker_was_killed_is_finished(storage, spec, rows, said):
    """Between Optuna's study and what says what it is."""
    import optuna

    begun = optuna.create_study(study_name="levels", storage=storage.backend, directions=["minimize"])
    if said:
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            begun.set_metric_names(["MAE"])
    study = make_study(storage, "levels", spec, rows=rows)
    assert study.spec == spec and len(study.trials()) == 3
    assert study.backend.metric_names == ["MAE"]


def test_a_study_of_another_kind_is_refused(storage, spec, rows):
    make_study(storage, "levels", spec, rows=rows)
    other = dataclasses.replace(spec, config=dataclasses.replace(spec.config, steps=12))
    with pytest.raises(
        InputError, match=r"study levels in .* differs in config.steps \(there 6, here 12\): choose ano"
    ):
        make_study(storage, "levels", other, rows=rows)
    with pytest.raises(InputError, match=r"differs in objectives \(there \['mae'\], here \['mae', 'time'\]\)"):
        make_study(storage, "levels", dataclasses.replace(spec, objectives=("mae", "time")), rows=rows)
    make_study(storage, "search", dataclasses.replace(spec, kind="search"), space={"rate": [1, 2]}, trials=1)
    with pytest.raises(InputError, match=r"differs in space.rate \(there \[1, 2\], here \[1, 3\]\)"):
        make_study(storage, "search", dataclasses.replace(spec, kind="search"), space={"rate": [1, 3]}, trials=1)
    assert len(open_study(storage, "levels").trials()) == 3


def test_a_study_that_is_older_than_a_field_has_its_default(storage, spec, rows):
    study = make_study(storage, "levels", spec, rows=rows)
    stored = study.backend.user_attrs[ATTRIBUTE]
    del stored["spec"]["config"]["model"]["swapped"], stored["spec"]["prune"]
    study.backend.set_user_attr(ATTRIBUTE, stored)
    assert make_study(storage, "levels", spec, rows=rows).spec == spec


def test_a_trial_that_cannot_be_is_refused_before_anything_is_written(storage, spec):
    with pytest.raises(InputError, match=r"model.levels is no field"):
        make_study(storage, "levels", spec, rows=[Row("m = 1", {"model.levels": 1})])
    with pytest.raises(InputError, match=r"there is no study levels in .*: it has none"):
        open_study(storage, "levels")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "a/b", "a\\b", ".", "..", "-x", "\x1b[31m"], ids=repr)
def test_names_that_are_none(storage, spec, name):
    with pytest.raises(InputError, match=r"--name .* give a name of 1 to 100 printable letters that can name a"):
        make_study(storage, name, spec)


def test_studies_of_others_are_refused(storage, spec):
    import optuna

    theirs = optuna.create_study(study_name="theirs", storage=storage.backend)
    theirs.set_user_attr("author", "somebody")
    theirs.add_trial(optuna.trial.create_trial(value=1.0))
    for ask in (lambda: open_study(storage, "theirs"), lambda: make_study(storage, "theirs", spec)):
        with pytest.raises(InputError, match=r"study theirs in .* was not made by `ahmf study`: name another"):
            ask()
    theirs.set_user_attr(ATTRIBUTE, {"format": 99, "spec": {}})
    with pytest.raises(InputError, match="is of format 99, this program reads 1"):
        open_study(storage, "theirs")


# Its folder


@on_both
def test_a_study_is_found_by_its_folder(study, url, tmp_path, monkeypatch):
    note_folder(study)
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert record["name"] == "levels" and "secret" not in record["storage"]
    moved = shutil.move(tmp_path / "study", tmp_path / "moved")
    monkeypatch.chdir("/")
    monkeypatch.setenv("AHMF_STUDIES", url)  # which alone has the password
    found = study_of_folder(tmp_path / "moved")
    assert found.name == "levels" and len(found.trials()) == 3
    assert found.run_folder(2) == moved / "trials" / "0002"


def test_a_folder_that_is_not_the_studys(study, storage, spec, rows, tmp_path):
    with pytest.raises(InputError, match="this machine does not see the folder of study levels: mount it there, or"):
        note_folder(study, new=False)
    note_folder(study, tmp_path / "elsewhere")
    note_folder(study, tmp_path / "elsewhere", new=False)
    other = make_study(storage, "other", spec, rows=rows)
    with pytest.raises(InputError, match="elsewhere is the folder of study levels: choose another with --out"):
        note_folder(other, tmp_path / "elsewhere")
    (tmp_path / "runs" / "trials").mkdir(parents=True)
    with pytest.raises(InputError, match=r"runs has runs, and no study.json that says of which study: choose another"):
        note_folder(study, tmp_path / "runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/study: cannot be written"):
        note_folder(study, tmp_path / "file" / "study")


def test_another_study_of_the_same_name_has_another_folder(study, spec, rows, tmp_path):
    """As after the database was removed, or where each of two has its own."""
    note_folder(study)
    second = open_storage(f"sqlite:///{tmp_path / 'second.db'}", create=True)
    with pytest.raises(InputError, match="study is the folder of another study of that name: choose another with"):
        make_study(second, "levels", spec, rows=rows)
    # Nothing is made, so that it can be made with another folder.
    other = make_study(second, "levels", dataclasses.replace(spec, folder=str(tmp_path / "other")), rows=rows)
    with pytest.raises(InputError, match="study is the folder of another study of that name: choose another with"):
        note_folder(other, tmp_path / "study")
    with pytest.raises(InputError, match=r"is the folder of another study levels than the one in sqlite:///.*second"):
        study_of_folder(tmp_path / "study", second.url)
    assert open_study(study.storage, "levels").uuid == study.uuid != other.uuid


def test_a_study_that_is_older_than_its_uuid_is_known_by_its_name(study, tmp_path):
    stored = study.backend.user_attrs[ATTRIBUTE]
    del stored["uuid"]
    study.backend.set_user_attr(ATTRIBUTE, stored)
    old = open_study(study.storage, "levels")
    record = tmp_path / "study" / "study.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"name": "levels", "storage": study.storage.url}))
    note_folder(old)
    assert study_of_folder(record.parent).name == "levels"


def test_the_command_that_made_a_study_or_added_trials_is_kept(storage, spec, rows):
    for count, given, kept in ((2, "first", "first"), (2, "again", "first"), (3, "more", "more")):
        study = make_study(storage, "levels", spec, rows=rows[:count], command=given)
        assert study.attributes()["command"] == kept


def test_commands_can_be_copied(tmp_path, monkeypatch):
    storage = open_storage(f"sqlite:///{tmp_path / 'a b.db'}", create=True)
    words = ["study", "show", "my study"]
    assert shlex.split(command(storage, *words)) == ["ahmf", *words, "--storage", storage.url]
    monkeypatch.setenv("AHMF_STUDIES", storage.url)
    assert command(storage, *words) == "ahmf study show 'my study'"
    typed = ["study", "levels", "--storage=postgresql://me:secret@host/x", "--out", "a:b@c d"]
    assert as_typed(typed) == "ahmf study levels --storage=postgresql://me@host/x --out 'a:b@c d'"


def test_what_only_queues_trials_says_what_comes_next(tmp_path, recipe, monkeypatch, capsys):
    from experiments import cli

    url = f"sqlite:///{tmp_path / 'my studies.db'}"
    words = ["study", "levels", str(recipe), "--storage", url, "--out", str(tmp_path / "out"), "--seeds", "1"]
    words += ["--levels", "1", "--model.num-levels", "1"]
    monkeypatch.setattr("sys.argv", ["ahmf", *words, "--create-only"])
    cli.main([*words, "--create-only"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "study levels: 1 trials"
    parts = shlex.split(said[1].partition(": ")[2])
    assert parts == ["ahmf", "study", "worker", "--study", "levels", "--storage", url]
    assert shlex.split(said[2].partition("): ")[2]) == ["ahmf", *words]
    assert said[2].startswith("when all are done")


def test_a_set_without_colour_is_refused_before_anything_is_queued(refused, tmp_path, recipe, data_dir, monkeypatch):
    """A folder's, as it is said to have none, and a prepared one's; one that is elsewhere is not looked for."""
    url, said = f"sqlite:///{tmp_path / 'studies.db'}", "has no colour, which ahmf is guided by: choose one that has"
    words = ["study", "levels", recipe, "--storage", url, "--data-dir", data_dir, "--out", tmp_path, "--create-only"]
    for split in ("train", "validation", "test"):
        (tmp_path / "depth" / split).mkdir(parents=True)
        write_depth(tmp_path / "depth" / split / "a_depth.png", np.ones((16, 16), np.uint8))
    refused(*words, "--data.dataset", tmp_path / "depth", "--data.pairs.guide", "", said=f"set validation {said}")
    refused(*words, "--dataset", tmp_path / "depth", "--pairs.guide", "", said=f"set test {said}")
    refused(*words, "--dataset", tmp_path / "depth", "--split", "train", "--pairs.guide", "", said=f"set train {said}")
    prepared = datasets.describe("scenes", data_dir)
    colourless = dataclasses.replace(prepared, info=dataclasses.replace(prepared.info, colour=False))
    monkeypatch.setattr(datasets, "describe", lambda *_: colourless)
    refused(*words, said=f"data set scenes {said}")
    words[words.index(data_dir)] = tmp_path / "elsewhere"
    refused(*words, "--dataset", tmp_path / "depth", "--pairs.guide", "", said=f"set test {said}")
    assert not (tmp_path / "studies.db").exists()
    check_data(Spec("levels", configs.load(str(recipe))), tmp_path)
    pairs = configs.PairsConfig(unit="mm")
    with pytest.raises(InputError, match=r"--pairs.unit: no --dataset is named, .*: leave it out, or name one$"):
        check_data(Spec("levels", configs.load(str(recipe)), Measured(pairs=pairs)), tmp_path)
    with pytest.raises(InputError, match=r"--pairs.unit: scenes is a prepared data set, .* a folder with --dataset$"):
        check_data(Spec("levels", configs.load(str(recipe)), Measured("scenes", pairs=pairs)), data_dir)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is no study's folder: it has no study.json"),
        (b"{", "study.json: cannot be read"),
        (b"\xff\xfe", "study.json: cannot be read"),
        (b"[" * 9000, "study.json: (cannot be read|does not say)"),
        (b"[1]", "study.json: does not say which study this is: give it by its name and --storage"),
        (b'{"name": "a", "storage": 3}', "study.json: does not say which study this is"),
        (b'{"name": "a", "storage": "x"}' + b" " * 20_000, "study.json: does not say which study this is"),
        (b'{"name": "a", "storage": "sqlite:////nowhere/x.db"}', "there is no file /nowhere/x.db"),
        (b'{"name": "a", "storage": "file:///etc"}', "names file:///etc, which is not .AHMF_STUDIES: if that server"),
    ],
)
def test_folders_that_are_no_studys(tmp_path, text, said):
    if text is not None:
        (tmp_path / "study.json").write_bytes(text)
    with pytest.raises(InputError, match=said) as caught:
        study_of_folder(tmp_path)
    assert "\n" not in str(caught.value)
