"""The ablation: its plan, the published row beside trials that were told, differences by hand, and the command."""

import csv
import dataclasses
import shutil

import pytest

from ahmf_jax import variants
from experiments.studies import ablation, pictures
from experiments.studies.standing import read
from tests.experiments import told

SEEDS = range(3)
# The release has 0.40, 0.41, 0.42, and each part changes that seed by seed.
CHANGES = {"order": (0.1, 0.101, 0.099), "statistics": (0.01, -0.02, 0.02), "gru_layers": (-0.05, -0.051, -0.049)}


def found():
    errors = {}
    for variant, offset in (("release", 0.0), ("paper", 0.1)):
        for number in ablation.MODELS:
            mae = 0.50 + offset if number == 0 else 0.40 + offset
            errors |= {(f"Model {number}, {variant}", seed): mae + 0.01 * seed for seed in SEEDS}
    for part, changes in CHANGES.items():
        errors |= {(f"release, paper's {part}", seed): 0.40 + 0.01 * seed + changes[seed] for seed in SEEDS}
    del errors["Model 4, paper", 2]
    return errors


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three seeds of all models, but for one of them; three parts, and a fourth that waits."""
    plan = ablation.plan(3, (*CHANGES, "residual"))
    return told.study(tmp_path_factory.mktemp("told"), "ablation", plan, found())


def test_the_plan_is_every_model_and_every_part():
    plan = ablation.plan(2)
    assert len(plan) == 2 * (2 * 7 + len(variants.PARTS)) and len({row.label for row in plan}) == len(plan) / 2
    assert plan[4].fields == {
        "model.variant": "release",
        "model.fusion": "feb_frb",
        "model.recurrence": "forward",
        "seed": 0,
    }
    assert [row.fields["model.swapped"] for row in plan[14:24]] == [[part] for part in variants.PARTS]
    assert {row.fields["seed"] for row in plan[:24]} == {0}
    assert len(ablation.plan(1, ())) == 14


def test_models_beside_the_published_row(study):
    models = ablation.rows(read(study)).models
    assert [str(row.published) for row in models] == [
        "0.1785",
        "0.1765",
        "0.1756",
        "0.1751",
        "0.1749",
        "0.1689",
        "0.1671",
    ]
    assert models[0].mae["paper"] == pytest.approx({0: 0.60, 1: 0.61, 2: 0.62})
    assert (len(models[4].mae["paper"]), models[4].planned["paper"]) == (2, 3)
    shares = ablation.against_first(models, 6)
    assert shares == pytest.approx({"release": 0.10 / 0.51, "paper": 0.10 / 0.61, "published": 1 - 0.1671 / 0.1785})


def test_a_part_is_compared_seed_by_seed(study):
    parts = {row.part: row for row in ablation.rows(read(study)).parts}
    assert list(parts) == ["statistics", "residual", "order", "gru_layers", ""]  # as the variants list them
    # The release's own spread, 0.01, is ten times that of the change.
    assert parts["order"].change.mean == pytest.approx(0.1)
    assert parts["order"].change.error == pytest.approx(0.001 / 3**0.5)
    words = {name: row.change.word for name, row in parts.items() if row.change}
    assert words == {"statistics": "within the spread", "order": "worse", "gru_layers": "better", "": "worse"}
    assert parts[""].change.mean == pytest.approx(0.1)  # the paper's Model 6 less the release's
    assert parts["residual"].change is None and parts["residual"].planned == 3


def test_what_is_said(study):
    said = ablation.sentences(ablation.rows(read(study)))
    assert (
        said[0] == "release: the MAE of Model 6, the whole, less that of Model 0 is -0.1000 ± 0.0000 (3 seeds: better)."
    )
    assert "Of 3 parts tried alone" in said[2] and "in: order (worse), gru_layers (better)." in said[2]
    assert "0.15 may be expected" in said[2]


def test_tables_and_csv(study, tmp_path):
    files = {path.name: path for path in ablation.study_figures(study, tmp_path)}
    pictures = {f"{name}.{suffix}" for name in ("models", "parts") for suffix in ("svg", "png")}
    assert set(files) == {"ablation.md", "ablation.csv", *pictures}
    text = files["ablation.md"].read_text()
    assert "0.1785 |" in text.replace("\\", "") and "| 3 / 2 of 3 |" in text
    assert "| `gru_layers` | 3 |" in text  # a name, as it is
    assert "within the spread" in text and "features.png" not in text
    lines = {
        (line["row"], line["variant"]): line for line in csv.DictReader(files["ablation.csv"].read_text().splitlines())
    }
    assert len(lines) == 14 + 4
    assert lines["Model 6", "paper"]["published"] == "0.1671"
    assert float(lines["Model 6", "paper"]["mae"]) == pytest.approx(0.51)
    assert float(lines["gru_layers", "release"]["change"]) == pytest.approx(-0.05)
    assert lines["residual", "release"]["change"] == ""
    (tmp_path / "features.png").write_bytes(b"a picture")
    assert tmp_path / "features.png" in ablation.study_figures(study, tmp_path)
    assert "](features.png)" in (tmp_path / "ablation.md").read_text()


def test_the_chart_of_the_differences(study):
    chart = ablation.differences(ablation.rows(read(study)), told.UNIT)
    names = chart.y.categories
    assert names[0] == "gru_layers" and set(names[2:]) == {"order", "all: the paper's variant"}  # the best on top
    found = {s.name: s for s in chart.series}
    assert list(found) == ["better", "within the spread", "worse"]
    assert found["better"].x == [pytest.approx(-0.05)]
    assert found["better"].spread == [pytest.approx(4.30265 * 0.001 / 3**0.5, rel=1e-5)]
    (axes,) = pictures.figure(chart).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(names) and axes.yaxis_inverted()


def test_the_course_is_in_parts_of_model_0(study):
    chart = ablation.course(ablation.rows(read(study)))
    lines = {s.name: list(s.x) for s in chart.series}
    assert lines["published, Table VI"][-1] == pytest.approx(100 * 0.1671 / 0.1785)
    assert lines["release"] == [100.0, *[pytest.approx(100 * 0.41 / 0.51)] * 6]


def test_nothing_is_complete(tmp_path):
    made = told.study(tmp_path, "ablation", ablation.plan(1, ("order",)), {})
    assert [path.name for path in ablation.study_figures(made, tmp_path)] == ["ablation.md", "ablation.csv"]
    assert "No training is complete yet." in (tmp_path / "ablation.md").read_text()
    assert ablation.draw_features(made, tmp_path, None) == []


def test_features_are_of_the_whole_model(tmp_path, run, tiny, data_dir):
    """Of a run that is there: the first of the release's Model 6 whose folder is."""
    made = told.study(tmp_path, "ablation", ablation.plan(1, ()), {("Model 6, release", 0): 0.4})
    study = dataclasses.replace(made, spec=dataclasses.replace(made.spec, config=tiny))
    (number,) = [t.number for t in made.trials() if t.user_attrs["label"] == "Model 6, release"]
    shutil.copytree(run, study.run_folder(number, tmp_path))
    files = ablation.draw_features(study, tmp_path, data_dir)
    assert [path.name for path in files] == ["features.svg", "features.png"]
    assert files[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parts", "order", "order"], "--parts order order: name each once"),
        (["--parts", "colour"], "invalid choice 'colour'.*guidance_head"),
        (["--model.variant", "paper"], "--model.variant paper: the study tries all of them"),
        (["--model.swapped", "order"], "--model.swapped order: the study tries all of them"),
        (["--seeds", "-1"], "--seeds -1: give at least 1"),
    ],
)
def test_what_is_refused(refused, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    refused("study", "ablation", "ahmf_study_x4", *options, said=said)
    assert not list(tmp_path.iterdir())
