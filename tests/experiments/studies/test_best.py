"""The best trial as a configuration: which one it is, how it is written, and that it trains to the same numbers."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import optuna
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.degrade import Degradation
from experiments import config as configs
from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, PairsConfig, TrainConfig
from experiments.studies import best
from experiments.studies.space import All, Space
from experiments.studies.standing import read
from experiments.studies.storage import open_storage
from experiments.studies.study import Row, Spec, make_study, open_study, with_fields

BASE = TrainConfig(steps=10)
CHANGED = TrainConfig(
    model=AHMFConfig(scale=8, num_levels=1, swapped=("squeeze", "order"), unroll=2, dtype="bfloat16"),
    data=DataConfig(
        dataset='it\'s "here"\\there',
        mix=("nyu_v2", "scenes:train=0.5"),
        pairs=PairsConfig(names=tuple(f"a pair with a long name {n}" for n in range(9)), invalid=math.inf),
        degrade=Degradation("area", noise_sigma=0.02, guide_shift=-3),
    ),
    optimiser=OptimiserConfig("sgd", ("momentum=0.9",), learning_rate=0.00012345678901234567),
    steps=7,
    fsdp=True,
    edge_weight=1e-05,
)


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"sqlite:///{tmp_path / 'studies.db'}", create=True)


def tell(study, fields, label=None, cost=None, state="COMPLETE", config=None, commits=("c0ffee",), **metrics):
    """A trial that is done."""
    config = configs.to_json(config or with_fields(BASE, fields))
    facts = {
        "label": label or f"trial {len(study.trials())}",
        "fields": fields,
        "config": config,
        "metrics": metrics,
        "floor": {"mae": 9.0, "rmse": 9.0},
        "unit": "cm",
        "protocol": "float: as it is",
        "provenance": {"version": "0.1", "commit": "c0ffee", "versions": {"jax": "0.10"}, "hardware": "a machine"},
    }
    if len(commits) > 1:
        facts["provenances"] = [{**facts["provenance"], "commit": commit} for commit in commits]
    if cost:
        facts["cost"] = {"inference_ms": cost[0], "inference_mib": cost[1]}
    known = {**metrics, **({"time": cost[0], "memory": cost[1]} if cost else {})}
    study.backend.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            values=[known[name] for name in study.spec.objectives] if state == "COMPLETE" else None,
            user_attrs=facts,
        )
    )


@pytest.fixture
def search(storage):
    """Trial 1 has the smallest MAE, 0 the smallest RMSE, 2 the smallest time; 3 is beaten in all, 4 was given up."""
    space = Space(config=BASE, fields={"loss": All()}, objectives=("mae", "time")).to_json()
    study = make_study(storage, "search", Spec("search", BASE, objectives=("mae", "time")), space=space)
    tell(study, {"loss": "l1"}, cost=(30.0, 5.0), mae=2.0, rmse=2.0)
    tell(study, {"loss": "mse"}, cost=(40.0, 5.0), mae=1.0, rmse=3.0)
    tell(study, {"loss": "charbonnier"}, cost=(20.0, 5.0), mae=3.0, rmse=4.0)
    tell(study, {"loss": "l1", "seed": 1}, cost=(50.0, 5.0), mae=3.5, rmse=5.0)
    tell(study, {"loss": "l1", "seed": 2}, mae=0.1, state="FAIL")
    return study


def test_of_a_search_the_smallest(search):
    standing = read(search)
    assert best.best(standing).trial.number == 1
    assert [best.best(standing, by).trial.number for by in ("mae", "rmse", "time", "memory")] == [1, 0, 2, 0]
    assert best.best(standing, "time").why == "the smallest inference time of 4 trials"
    assert best.numbered(standing, 3).trial.number == 3
    for number, state in ((4, "failed"), (7, "not there")):
        with pytest.raises(InputError, match=f"--trial {number}: .* it is {state}: complete are 0, 1, 2, 3"):
            best.numbered(standing, number)


def test_the_front_is_shown(search):
    lines = best.summary(search).splitlines()
    assert lines[:3] == [
        "Trial 1, none betters it: MAE 1 cm, inference time 40 ms; loss = mse.",
        "Trial 0, none betters it: MAE 2 cm, inference time 30 ms; loss = l1.",
        "Trial 2, none betters it: MAE 3 cm, inference time 20 ms; loss = charbonnier.",
    ]
    assert "ahmf study best search --trial 1 --out search_best.py --storage sqlite:///" in lines[3]


def test_of_rows_the_best_mean_and_its_first_seed(storage):
    study = make_study(storage, "levels", Spec("levels", BASE), rows=[Row("m = 8", {"model.num_levels": 8, "seed": 0})])
    with pytest.raises(InputError, match="study levels: no trial is complete yet: see `ahmf study show levels"):
        best.best(read(study))
    for m, maes in ((1, (1.2, 0.5, 1.3)), (2, (0.9, 1.1, 0.7)), (4, (0.1,))):  # m = 4 has one seed: luck, perhaps
        for seed, mae in reversed(list(enumerate(maes))):
            tell(study, {"model.num_levels": m, "seed": seed}, f"m = {m}", mae=mae, rmse=2 - mae)
    found = best.best(read(study))
    assert found.trial.fields == {"model.num_levels": 2, "seed": 0}
    assert found.why == "of m = 2, which has the smallest mean MAE (0.9 cm, seeds: 3)"
    assert best.best(read(study), "rmse").trial.fields == {"model.num_levels": 1, "seed": 0}
    with pytest.raises(InputError, match="study levels: no trial has its inference time measured"):
        best.best(read(study), "time")


def loaded(tmp_path, text):
    (tmp_path / "again.py").write_text(text)
    return configs.load(str(tmp_path / "again.py"))


@pytest.mark.parametrize("config", [BASE, TrainConfig(), CHANGED, *map(configs.load, configs.names())])
def test_a_configuration_in_python_is_the_same_again(config, tmp_path):
    text = best.source(config, "A story.\n\nIt goes on.")
    assert loaded(tmp_path, text) == config
    assert max(map(len, text.splitlines())) <= 120
    ruff = shutil.which("ruff", path=str(sys.prefix) + "/bin") or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    options = ["--isolated", "--line-length", "120", "--target-version", "py311", "-"]
    done = subprocess.run([ruff, "format", "--diff", *options], input=text, capture_output=True, text=True)
    assert not done.stdout, done.stdout


def test_what_is_as_by_default_is_not_written():
    text = best.source(TrainConfig(model=AHMFConfig(num_levels=2), steps=9), "A story.")
    assert text == (
        '"""A story.\n"""\n\nfrom experiments.config import AHMFConfig, TrainConfig\n\n'
        "config = TrainConfig(\n    model=AHMFConfig(num_levels=2),\n    steps=9,\n)\n"
    )


def test_text_of_the_storage_is_no_program(tmp_path):
    evil = 'a"""\nraise SystemExit("run")\n"""\\'
    assert loaded(tmp_path, best.source(dataclasses.replace(BASE, start_from=evil), evil)).start_from == evil


def test_the_file_says_where_it_comes_from(search, tmp_path):
    out = tmp_path / "mine.py"
    best.write_best(search, out)
    text = out.read_text()
    assert configs.load(str(out)) == with_fields(BASE, {"loss": "mse"})
    for said in (
        "Trial 1 of the study search: the smallest MAE of 4 trials.",
        "    ahmf train mine.py",
        "MAE 1 cm, RMSE 3 cm, inference time 40 ms, inference memory 5 MiB; protocol float: as it is",
        "interpolation's MAE is 9 cm",
        "loss = 'mse'",
        "commit c0ffee",
        "jax 0.10",
        "on a machine",
    ):
        assert said in " ".join(text.split()) or said in text, said


def test_of_several_machines_nothing_is_promised(search, tmp_path):
    best.write_best(search, tmp_path / "one.py")
    assert "the same has the same numbers again" in " ".join((tmp_path / "one.py").read_text().split())
    tell(search, {"loss": "mse"}, cost=(60.0, 5.0), mae=0.5, rmse=3.0, commits=("c0ffee", "abad1dea"))
    best.write_best(search, tmp_path / "two.py")
    text = " ".join((tmp_path / "two.py").read_text().split())
    assert "it had 2 machines or versions of the program in turn" in text and "need not come back to the bit" in text
    assert "commit abad1dea" in text


def test_a_file_that_is_not_its_own_stays(search, tmp_path):
    out = tmp_path / "mine.py"
    best.write_best(search, out, trial=0)
    assert configs.load(str(out)).loss == "l1"
    best.write_best(search, out)  # its own
    assert configs.load(str(out)).loss == "mse"
    out.write_text("config = 3\n")
    with pytest.raises(InputError, match=r"mine.py: there is a file that `ahmf study best` did not write"):
        best.write_best(search, out)
    assert out.read_text() == "config = 3\n"
    best.write_best(search, out, overwrite=True)
    assert configs.load(str(out)).loss == "mse"
    with pytest.raises(InputError, match=r"a configuration is a Python file: give a name that ends in \.py"):
        best.write_best(search, tmp_path / "mine.json")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=r"folder\.py: is no file"):
        best.write_best(search, tmp_path / "folder.py")
    with pytest.raises(InputError, match="--by rmse chooses a trial, and --trial 2 names one"):
        best.write_best(search, out, by="rmse", trial=2)


SPACE = """
from experiments.studies.space import Choose, Between, Space

space = Space(
    config={config!r},
    fields={{"seed": Choose(0, 1, 2), "output_scale": Between(0.05, 0.2)}},
    objectives=("mae",), trials=2, random=2, pruning=None,
)
"""


def validations(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k.startswith("validation_")} | {"step": line["step"]} for line in lines]


def test_a_search_and_its_best_trained_again(ahmf, refused, recipe, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.py").write_text(recipe.read_text().replace("steps=6", "steps=2"))
    (tmp_path / "tiny_space.py").write_text(SPACE.format(config="short.py"))
    where = ("--storage", f"sqlite:///{tmp_path / 'studies.db'}")
    ended = ahmf("study", "search", "tiny_space.py", "--trials", "1", "--data-dir", data_dir, *where)
    assert ended.code == 0, ended
    assert "Trial 0, the best: MAE " in ended.out and "optuna-dashboard" in ended.out

    assert ahmf("study", "best", "tiny_space", "--out", "again.py", *where).code == 0
    (trial,) = read(open_study(open_storage(where[1]), "tiny_space")).trials
    assert configs.load("again.py") == configs.from_json(trial.attributes["config"])
    assert ahmf("train", "again.py", "--out", "again", "--data-dir", data_dir).code == 0
    old = tmp_path / "studies" / "tiny_space" / "trials" / "0000"
    assert validations(tmp_path / "again") == validations(old)  # to the last bit
    assert validations(old)[-1]["validation_mae"] == trial.curve[-1][1]

    (tmp_path / "tiny_space.py").write_text(SPACE.format(config="short.py").replace("0.05, 0.2", "0.05, 0.4"))
    said = r"there is a study tiny_space .* which differs in space.fields.output_scale.between"
    refused("study", "search", "tiny_space.py", "--data-dir", data_dir, *where, said=said)
    refused("study", "search", "tiny_space.py", "--trials", "0", *where, said="--trials 0: give at least 1")
    refused("study", "search", "nowhere.py", *where, said="there is no space 'nowhere.py'")
    refused("study", "best", "other", "--out", "x.py", *where, said="there is no study other")
