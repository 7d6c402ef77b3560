"""The study of the levels: its plan, the numbers of trials that were told, computed by hand, and the command."""

import csv
import dataclasses
import math

import pytest

from experiments.provenance import hardware
from experiments.studies import charts, cost, levels, outcome, pictures, standing, trial
from experiments.studies.cost import Cost
from experiments.studies.standing import read
from experiments.studies.storage import open_storage
from experiments.studies.study import make_study, open_study
from tests.experiments import told

COST = Cost(1000, 1.5, 4.5, 20.0, 300.0, 50.0, 900.0, 2.0, 9.0, (480, 640), "a machine, 1 x cpu", 5)


FOUND = {
    **{("m = 1", 0): 0.50, ("m = 1", 1): 0.52, ("m = 1", 2): 0.54},
    **{("m = 2", 0): 0.40, ("m = 2", 1): 0.43, ("m = 2", 2): 0.43},
    **{("m = 4", 0): 0.41, ("m = 4", 1): None},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """m = 1, 2 and 4 with three seeds: m = 4 has one of them, another failed and waits to be repeated, as does one."""
    plan = levels.plan((4, 1, 2), 3)
    again = [row for row in plan if FOUND.get((row.label, row.fields["seed"]), 0) is None]
    made = told.study(tmp_path_factory.mktemp("told"), "levels", plan, FOUND)
    for row in again:
        made.backend.add_trial(told.trial(row, {}))
    return made


@pytest.fixture
def costed(study):
    """The same, where the costs are known: m = 4 takes four times as long and twice as much memory as the others."""
    known = {}
    for m in (1, 2, 4):
        more = {"inference_ms": 80.0, "inference_mib": 600.0} if m == 4 else {}
        config = study.config({"model.num_levels": m, "seed": 0})
        known[cost.key(config)] = dataclasses.asdict(dataclasses.replace(COST, parameters=1000 * m, **more))
    study.set("costs", known)
    yield study
    study.set("costs", {})


def test_the_plan_goes_seed_by_seed():
    plan = levels.plan((1, 4), 2)
    assert [(row.label, row.fields["model.num_levels"], row.fields["seed"]) for row in plan] == [
        ("m = 1", 1, 0),
        ("m = 4", 4, 0),
        ("m = 1", 1, 1),
        ("m = 4", 4, 1),
    ]


def test_rows(study):
    one, two, four = levels.rows(read(study))
    assert [row.m for row in (one, two, four)] == [1, 2, 4]
    assert one.mae == {0: 0.50, 1: 0.52, 2: 0.54} and one.rmse[2] == 1.08
    assert standing.spread(one.mae.values()) == pytest.approx((0.52, 0.02, 3))
    assert two.gain == pytest.approx({0: 0.6, 1: 0.57, 2: 0.57})
    assert one.seconds == {0: 10.0, 1: 11.0, 2: 12.0}
    assert (len(four.mae), four.planned) == (1, 3)
    assert one.cost is None and not one.refused


def test_a_difference_is_of_pairs_of_seeds(study):
    one, two, four = levels.rows(read(study))
    change = outcome.difference(two.mae, one.mae)
    # -0.10, -0.09, -0.11: their standard deviation is 0.01; Student's t for two degrees is 4.30265.
    assert change.mean == pytest.approx(-0.10) and change.error == pytest.approx(0.01 / math.sqrt(3))
    assert (change.low, change.high) == pytest.approx((-0.10 - 0.024841, -0.10 + 0.024841), abs=1e-6)
    assert change.word == "better" and outcome.difference(one.mae, two.mae).word == "worse"
    # Without pairs the spread of either would be in it: 0.1 -+ 4.3 * 0.013 at least.
    wide = outcome.difference({0: 1.0, 1: 1.2, 2: 1.1}, {0: 1.1, 1: 1.0, 2: 1.15})
    assert wide.word == "within the spread" and wide.low < 0 < wide.high
    single = outcome.difference(four.mae, two.mae)
    assert single.mean == pytest.approx(0.01) and single.n == 1 and single.word == "one seed"
    assert outcome.difference({0: 1.0}, {1: 1.0}) is None


def test_what_is_said(study):
    said = levels.sentences(levels.rows(read(study)))
    assert said[0] == "The smallest mean MAE is that of m = 4: 0.4100."
    assert said[1].startswith(
        "From m = 1 to m = 2 MAE falls by 0.1000 ± 0.0058 (95 % interval -0.1248 to -0.0752, 3 seeds)"
    )
    assert said[1].endswith(": more than the spread explains.")
    assert "m = 4 MAE rises by 0.0100, with one seed in common" in said[2]
    assert said[3].startswith("From m = 1 to m = 4")
    assert levels.sentences([]) == ["No training is complete yet."]


def test_tables_and_csv(costed, tmp_path):
    costed.set("command", "ahmf study levels --levels 1 2 4")
    files = {path.name: path for path in levels.study_figures(costed, tmp_path)}
    assert set(files) == {"levels.md", "levels.csv", "levels.svg", "levels.png", "curves.svg", "curves.png"}
    text = files["levels.md"].read_text()
    assert "`ahmf study levels --levels 1 2 4`" in text and "c0ffee" in text
    assert "2 of the planned trainings have no result" in text
    assert "| 1 of 3 |" in text and "resident in the process" in text
    first, _, last = csv.DictReader(files["levels.csv"].read_text().splitlines())
    assert (first["m"], first["seeds"], first["parameters"], first["training_s"]) == ("1", "3", "1000", "11.0")
    assert float(first["mae"]) == pytest.approx(0.52) and float(first["gain"]) == pytest.approx(0.48)
    assert (last["m"], last["mae_sd"], last["inference_ms"]) == ("4", "", "80.0")


def test_the_area_is_the_memory_and_bars_the_spread(costed):
    chart = charts.figure_1(read(costed))
    told_ = {s.name: (s.x, s.y, s.spread, s.size, s.names) for s in chart.series}
    assert told_ == {
        "m = 1": ([20.0], [pytest.approx(0.52)], [pytest.approx(0.02)], [300.0], ["m = 1, 300 MiB"]),
        "m = 2": ([20.0], [pytest.approx(0.42)], [pytest.approx(0.0173205)], [300.0], ["m = 2, 300 MiB"]),
        "m = 4": ([80.0], [pytest.approx(0.41)], [None], [600.0], ["m = 4, 600 MiB"]),
    }
    (axes,) = pictures.figure(chart).axes
    areas = [float(found.get_sizes()[0]) for found in axes.collections if found.get_alpha() == 0.35]
    assert areas == [pictures.LARGEST, pictures.LARGEST / 2, pictures.LARGEST / 2]  # as planned: m = 4 is the first
    assert [text.get_text() for text in axes.texts] == ["m = 4, 600 MiB", "m = 1, 300 MiB", "m = 2, 300 MiB"]


def test_curves_are_each_seeds_and_their_mean(study):
    curves = charts.curves(read(study)).series
    mean = next(s for s in curves if s.name == "m = 1")
    assert list(mean.x) == [50, 100] and mean.y == pytest.approx([1.04, 0.52]) and mean.line == "solid"
    assert [s.y for s in curves if s.name == "m = 1" and s.line == "thin"] == [[1.0, 0.5], [1.04, 0.52], [1.08, 0.54]]


def test_without_a_result_there_is_no_picture(tmp_path):
    made = told.study(tmp_path, "levels", levels.plan((1, 2), 1), {})
    assert [path.name for path in levels.study_figures(made, tmp_path)] == ["levels.md", "levels.csv"]
    text = (tmp_path / "levels.md").read_text()
    assert "No training is complete yet." in text and "![" not in text


@pytest.fixture
def attempts(monkeypatch):
    """In place of measuring: what was asked for; of m = 8 there is too little memory. And where this is: `here[0]`."""
    asked, here = [], ["this machine"]

    def attempt(configs, *, rounds, alive):
        alive()
        levels_ = [config.model.num_levels for config in configs]
        asked.append(levels_)
        known = dataclasses.replace(COST, rounds=rounds, hardware=here[0])
        return ["there is not enough memory" if m == 8 else known for m in levels_]

    monkeypatch.setattr(cost, "attempt", attempt)
    monkeypatch.setattr("experiments.provenance.hardware", lambda: here[0])
    return asked, here


def test_costs_are_measured_once_for_a_hardware(tmp_path, attempts):
    asked, here = attempts
    study = told.study(tmp_path, "levels", levels.plan((4, 1, 2), 2), {})

    def shown():
        return {row.cost and row.cost.hardware for row in levels.rows(read(study))}

    outcome.measure_costs(study, 3)
    assert asked == [[4, 1, 2]]  # each once, not once a seed
    outcome.measure_costs(study, 2)
    assert len(asked) == 1
    outcome.measure_costs(study, 5)
    assert len(asked) == 2
    here[0] = "another machine"
    outcome.measure_costs(study, 5)
    assert len(asked) == 3 and shown() == {"another machine"}
    here[0] = "this machine"
    outcome.measure_costs(study, 5)
    assert len(asked) == 3 and shown() == {"this machine"}, "those of the first were kept"
    make_study(study.storage, "levels", study.spec, rows=levels.plan((6,), 1))
    outcome.measure_costs(study, 5)
    assert asked[3] == [4, 1, 2, 6]  # all again, in turn with what is new
    assert {name: len(found) for name, found in standing.costs_of(study).items()} == {
        "another machine": 3,
        "this machine": 4,
    }


def test_one_process_measures(tmp_path, attempts, capsys):
    asked, _ = attempts
    study = told.study(tmp_path, "levels", levels.plan((1,), 1), {})
    assert study.storage.take("costs/levels", "another", 60)
    outcome.measure_costs(study, 5)
    assert not asked and "another process measures the costs" in capsys.readouterr().out
    study.storage.release("costs/levels", "another")
    outcome.measure_costs(study, 5)
    assert asked and study.storage.take("costs/levels", "another", 60), "it is given back"


def test_a_row_that_cannot_be_measured_is_the_only_one_without_costs(tmp_path, attempts):
    study = told.study(tmp_path, "levels", levels.plan((8, 1), 1), {("m = 1", 0): 0.5, ("m = 8", 0): 0.4})
    outcome.measure_costs(study, 5)
    one, eight = levels.rows(read(study))
    assert one.cost is not None and (eight.cost, eight.refused) == (None, "there is not enough memory")
    note = "The costs of m = 8 are not measured: there is not enough memory."
    assert note in levels.summary(study) and note in levels.markdown(read(study))
    assert [s.name for s in charts.figure_1(read(study)).series] == ["m = 1"]


def test_costs_as_studies_had_them_first_are_read(study):
    known = cost.key(study.config({"model.num_levels": 1, "seed": 0}))
    study.set("costs", {known: dataclasses.asdict(COST)})
    try:
        assert levels.rows(read(study))[0].cost == COST
    finally:
        study.set("costs", {})


@pytest.fixture
def stands_in(monkeypatch):
    """For training and measuring: the error is 1 / m."""

    def train(config, out, *, data_dir, on_validation, stop):
        out.mkdir()
        on_validation(config.steps, {"mae": 1 / config.model.num_levels})
        return out

    def measure(study, config, out, data_dir):
        mae = 1 / config.model.num_levels
        return {"metrics": {"mae": mae, "rmse": 2 * mae}, "unit": "m", "training": {"steps": 2, "seconds": 1.0}}

    monkeypatch.setattr("experiments.train.train", train)
    monkeypatch.setattr(trial, "measure", measure)


def test_the_command(ahmf, stands_in, recipe, tmp_path, monkeypatch):
    """One level; then another, and nothing is trained twice."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def attempt(configs, **how):
        seen.append((tmp_path / "studies" / "levels" / "levels.md").exists())
        return [dataclasses.replace(COST, hardware=hardware()) for _ in configs]

    monkeypatch.setattr(cost, "attempt", attempt)
    command = ["study", "levels", recipe, "--seeds", "1", "--steps", "2"]
    ended = ahmf(*command, "--levels", "1")
    assert ended.code == 0, ended
    assert seen == [True], "what was found is written before the costs are measured"
    folder = tmp_path / "studies" / "levels"
    assert f"in {folder}: levels.md, levels.csv, levels.svg, levels.png, curves.svg, curves.png" in ended.out
    assert "The smallest mean MAE is that of m = 1" in ended.out
    study = open_study(open_storage("sqlite:///studies/studies.db"), "levels")
    (first,) = read(study).trials
    assert first.state == "complete"
    ended = ahmf(*command, "--levels", "1", "2", "--no-costs")
    assert ended.code == 0, ended
    again, second = read(study).trials
    assert again.ended == first.ended and second.state == "complete"
    one, two = levels.rows(read(study))
    assert one.cost.parameters == 1000 and two.cost is None and two.mae[0] > 0
    assert "The costs of m = 2 are not measured there yet." in (folder / "levels.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels", "0", "1"], "--levels 0 1: give numbers of 1 or more"),
        (["--levels"], "--levels.*: give numbers of 1 or more"),
        (["--levels", "2", "2"], "--levels 2 2: name each number once"),
        (["--seeds", "0"], "--seeds 0: give at least 1"),
        (["--seed", "4"], "--seed 4: .*--seeds"),
        (["--model.num-levels", "3"], "--model.num-levels 3: the study sets it: use --levels"),
        (["--rounds", "0"], "--rounds 0: give at least 1"),
    ],
)
def test_what_is_refused(refused, recipe, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    refused("study", "levels", recipe, *options, said=said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["levels", "ablation"])
def test_another_model_is_sent_to_a_search(refused, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    refused("study", kind, "dada_short_x8", said=r"is of DADA x8, resnet18.*`ahmf study search SPACE\.py`, as model.ch")
    assert not list(tmp_path.iterdir())
