"""DSCSAN's ablation: its plan, trials that were told beside the published numbers, the order by hand, the command."""

import csv
import dataclasses
import re

import pytest

from ahmf_jax.dscsan_forms import FORMS
from experiments import published
from experiments.config import DataConfig, DSCSANConfig, TrainConfig
from experiments.studies import charts, forms, page, trial
from experiments.studies.standing import read
from experiments.studies.storage import open_storage
from experiments.studies.study import open_study, with_fields
from tests.experiments import told

MODEL = DSCSANConfig(scale=4, groups=1, blocks=2, features=32)
CONFIG = TrainConfig(model=MODEL, steps=100, stage_weights=(0.5,), stage_kernel="area")
TEN = ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer", "Cones", "Teddy", "Tsukuba", "Venus")
# Seed by seed: each form's own spread is ten times that of what is added to it.
PSNR = {"C1": (40.0, 40.1, 40.2), "C4": (41.0, 41.1, 41.21), "C5": (41.5, 41.61, 41.7)}


def found(psnr):
    """MAE, PSNR and PE of forms and seeds: PE falls by 1 % where PSNR rises by 1 dB."""
    return {
        (form, seed): {"mae": 1.0, "psnr": value, "pe": 45 - value}
        for form, values in psnr.items()
        for seed, value in enumerate(values)
    }


def rows_of(psnr):
    """The forms of a study that found these, without the study."""
    return [
        forms.Row(
            form,
            MODEL.form(form),
            None,
            3,
            {
                metric: {seed: found(psnr)[form, seed][metric] for seed in range(len(values))}
                for metric in ("psnr", "pe")
            },
        )
        for form, values in psnr.items()
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """C1, C4 and C5 with three seeds, of ten images."""
    return told.study(
        tmp_path_factory.mktemp("told"),
        "ablation",
        forms.plan(MODEL, 3, (*PSNR,)),
        found(PSNR),
        CONFIG,
        parameters=369_354,
        protocol="dscsan: as it is",
        images={name: {} for name in TEN},
        floor={"mae": 2.0, "psnr": 39.911, "pe": 4.3188},
    )


def changed(study, trials=None, **config):
    """The study's standing, were its configuration another, and its trials these."""
    spec = dataclasses.replace(study.spec, config=dataclasses.replace(study.spec.config, **config))
    standing = read(dataclasses.replace(study, spec=spec))
    return standing if trials is None else dataclasses.replace(standing, trials=tuple(trials))


def test_the_plan_is_every_form_seed_by_seed():
    plan = forms.plan(MODEL, 2)
    assert [(row.label, row.fields["seed"]) for row in plan] == [(form, seed) for seed in range(2) for form in FORMS]
    for row in plan:
        config = with_fields(CONFIG, row.fields)
        assert config.model == MODEL.form(row.label)
        # What a form without stages cannot supervise is left out, and C5 is as the recipe says.
        whole = (CONFIG.stage_weights, CONFIG.stage_kernel) if row.label == "C5" else ((), None)
        assert (config.stage_weights, config.stage_kernel) == whole
        assert dataclasses.replace(config, model=MODEL, stage_weights=(0.5,), stage_kernel="area", seed=0) == CONFIG
    assert with_fields(CONFIG, plan[4].fields) == CONFIG


def test_forms_beside_the_published_numbers(study):
    one, four, five = forms.rows(read(study))
    assert [row.name for row in (one, four, five)] == [
        "C1: RCAB",
        "C4: bilayer blocks, attention",
        "C5: bilayer blocks, attention, supervised stages",
    ]
    assert one.found["psnr"] == {0: 40.0, 1: 40.1, 2: 40.2} and one.planned == 3 and one.model == MODEL.form("C1")
    table = forms.form_table([one, four, five])
    assert [cell.text for cell in table.rows[2]][1:] == [
        "2 x 2",  # a group in each of two stages
        "369,354",
        "3",
        "41.60 ± 0.10",
        "3.397 ± 0.100",
        "44.81",
        "1.48",
    ]
    assert table.heads[-4:] == ("PSNR (dB)", "PE (%)", "published x8, PSNR (dB)", "published x8, PE (%)")
    assert [row[1].text for row in table.rows[:2]] == ["2 x 6", "2 x 2"]
    assert forms.printed("C4", "pe") == published.tables()["dscsan_table4"].row("C4").values["mean", 8, "pe"]


def test_what_is_added_is_compared_seed_by_seed(study):
    both, stages = forms.steps(forms.rows(read(study)))
    assert both.name == "C4 less C1: bilayer blocks, attention" and stages.name == "C5 less C4: supervised stages"
    # 1.0, 1.0, 1.01 and 0.5, 0.51, 0.49: the forms' own spread, 0.1, is not in it; t is 4.30265.
    change = stages.changes["psnr"]
    assert change.mean == pytest.approx(0.5) and change.error == pytest.approx(0.01 / 3**0.5)
    assert (change.low, change.high) == pytest.approx((0.5 - 0.024841, 0.5 + 0.024841), abs=1e-6)
    # More of PSNR is better, and less of PE.
    assert change.word == "better" and both.changes["pe"].mean < 0 and both.changes["pe"].word == "better"
    cells = [cell.text for cell in forms.step_table([both, stages]).rows[1]]
    assert cells[1:5] == ["+0.500 ± 0.006", "+0.475 to +0.525", "better", "+1.08"]
    assert cells[5:] == ["-0.5000 ± 0.0058", "-0.5248 to -0.4752", "better", "-0.32"]


@pytest.mark.parametrize(
    ("psnr", "said"),
    [
        (
            PSNR,
            "^PSNR: the published order, C1 < C4 < C5, holds here, by more than the spread: "
            r"C4 less C1 \+1.003 ± 0.003 dB \(3 seeds: better\); C5 less C4 \+0.500 ± 0.006 dB \(3 seeds: better\).$",
        ),
        (
            {**PSNR, "C5": (40.5, 40.61, 40.7)},
            "C1 < C4 < C5, does not hold here, by more than the spread: .* C5 less C4 -0.500 .*: worse",
        ),
        ({**PSNR, "C5": (42.0, 41.0, 41.5)}, "C1 < C4 < C5, is neither shown nor contradicted here: .*within the spr"),
        ({form: values[:1] for form, values in PSNR.items()}, "C5, cannot be told of here, .*: .*C1 .1.000 dB .one se"),
        ({"C1": PSNR["C1"], "C5": PSNR["C5"]}, "C1 < C5, holds here, by more than the spread: C5 less C1"),
        ({"C1": PSNR["C1"]}, "Fewer than two of C1, C4, C5 have a result"),
        ({}, "No training is complete yet"),
    ],
)
def test_what_is_said_of_the_order(psnr, said):
    first, *rest = forms.sentences(rows_of(psnr))
    assert re.search(said, first), first
    assert not rest or rest[0].startswith("PE: the published order, C1 > ")


def test_seeds_without_a_pair():
    one, four = rows_of({form: PSNR[form] for form in ("C1", "C4")})
    one = dataclasses.replace(one, found={"psnr": {7: 40.0}, "pe": {7: 5.0}})
    assert forms.sentences([one, four])[0].endswith(
        "cannot be told of here, where not every form has two seeds or more: C4 less C1 no seed in common."
    )


def test_page_and_numbers(study, tmp_path):
    files = {path.name: path for path in forms.study_figures(study, tmp_path)}
    drawn = {f"{name}.{suffix}" for name in ("forms", "steps") for suffix in ("svg", "png")}
    assert set(files) == {"ablation.md", "ablation.csv", *drawn}
    text = files["ablation.md"].read_text()
    assert "| C1: RCAB | 2 x 6 | 369,354 | 3 | 40.10 ± 0.10 | 4.900 ± 0.100 | 41.14 | 2.82 |" in text
    assert "All forms here, C1 too, add what they make to interpolated depth" in text
    assert "Not as published: the trainings, the scale (x4)." in text
    assert "Interpolation alone has 39.91 dB and 4.319 % here." in text
    lines = {
        (line["row"], line["metric"]): line for line in csv.DictReader(files["ablation.csv"].read_text().splitlines())
    }
    assert len(lines) == 2 * (3 + 2)
    assert float(lines["C5", "pe"]["mean"]) == pytest.approx(3.39667, abs=1e-5)
    assert (lines["C5", "pe"]["published"], lines["C5", "pe"]["parameters"]) == ("1.48", "369354")
    step = lines["C5 less C4", "psnr"]
    assert (float(step["mean"]), step["published"], step["sd"]) == (pytest.approx(0.5), "1.08", "")
    assert float(step["high"]) == pytest.approx(0.524841, abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "attributes", "others"),
    [
        (8, {}, "the trainings"),
        (8, {"images": {name: {} for name in TEN[:9]}}, "the trainings, the images"),
        (8, {"images": {name: {} for name in (*TEN, "Aloe")}}, "the trainings, the images"),
        (4, {"protocol": "float: as it is"}, "the trainings, the scale (x4), the protocol"),
    ],
)
def test_what_is_not_as_published(study, scale, attributes, others):
    trials = [dataclasses.replace(t, attributes={**t.attributes, **attributes}) for t in read(study).trials]
    weights = (1.0,) * (scale // 4)
    standing = changed(study, trials, model=dataclasses.replace(MODEL, scale=scale), stage_weights=weights)
    assert f"Not as published: {others}. So what can be compared" in forms.markdown(standing)


def test_all_that_is_trained_on_is_said(study):
    data = DataConfig("sintel_depth", "train[:45]", "train[45:]", mix=("middlebury", "some/mine:a+b=2"), patch_size=64)
    text = forms.markdown(changed(study, data=data))
    assert " of sintel\\_depth, train\\[:45\\]; and middlebury, train; and mine, a+b, each 2 times; adam" in text
    assert "; loss l1; stages, where there are any, weigh 0.5.\n" in text
    assert "of middlebury, train; adam" in forms.markdown(changed(study, data=DataConfig()))


def test_nothing_is_complete(study):
    """And nothing is added to interpolated depth, which is said."""
    waits = [
        dataclasses.replace(t, state="waiting", values={}, attributes={"fields": t.fields}) for t in read(study).trials
    ]
    text = forms.markdown(changed(study, waits, model=dataclasses.replace(MODEL, interpolated=False)))
    assert "| C1: RCAB | 2 x 6 |  | 0 of 3 |  |  | 41.14 | 2.82 |" in text
    assert "No form here, not even C5, adds interpolated depth" in text and "No training is complete yet." in text
    assert "![" not in text and "Interpolation alone" not in text


def test_the_course_is_above_c1(study):
    ours, printed = forms.course(forms.rows(read(study))).series
    assert list(ours.x) == pytest.approx([0, 1.00333, 1.50333], abs=1e-5) and ours.spread[0] == pytest.approx(0.1)
    assert list(printed.x) == pytest.approx([0, 43.73 - 41.14, 44.81 - 41.14]) and printed.line == "dash"
    assert forms.course(rows_of({"C4": PSNR["C4"], "C5": PSNR["C5"]})) is None


def test_a_report_asks_and_answers_as_the_study(study):
    standing = read(study)
    assert page.question(standing) == forms.QUESTION
    assert page.findings(standing) == forms.findings(standing)
    assert [chart.title for chart in charts.sections(standing)[0].charts] == [
        "Forms of Table 4: PSNR above C1's",
        "What is added to a form",
        "MAE of each row",
    ]


def test_the_command(ahmf, tmp_path, monkeypatch):
    """Queued; then trained by the same command; then one form more, and nothing is trained twice."""
    trained = []

    def train(config, out, *, data_dir, on_validation, stop):
        out.mkdir(parents=True)
        trained.append((config.model, config.stage_weights))
        on_validation(config.steps, {"mae": 1.0})

    def measure(study, config, out, data_dir):
        worth = 1.0 * config.model.attention + config.model.progressive
        metrics = {"mae": 1 - 0.1 * worth, "rmse": 1.0, "psnr": 40 + worth, "pe": 5 - worth}
        return {"metrics": metrics, "unit": "m", "parameters": 12, "training": {"steps": 2, "seconds": 1.0}}

    monkeypatch.setattr("experiments.train.train", train)
    monkeypatch.setattr(trial, "measure", measure)
    monkeypatch.chdir(tmp_path)
    command = ["study", "ablation", "dscsan_short_x4", "--seeds", "2", "--model.blocks", "1"]
    queued = ahmf(*command, "--forms", "C1", "C5", "--create-only")
    assert queued.code == 0 and "study dscsan_ablation: 4 trials" in queued.out, queued
    assert not trained
    ended = ahmf(*command, "--forms", "C1", "C5")
    assert ended.code == 0, ended
    small = dataclasses.replace(MODEL, blocks=1)
    assert trained == [(small.form("C1"), ()), (small, (1.0,))] * 2
    assert "PSNR: the published order, C1 < C5, holds here" in ended.out and "C5: bilayer blocks" in ended.out
    folder = tmp_path / "studies" / "dscsan_ablation"
    assert f"in {folder}: ablation.md, ablation.csv, forms.svg, forms.png\n" in ended.out
    ended = ahmf(*command, "--forms", "C1", "C4", "C5")
    assert ended.code == 0 and trained[4:] == [(small.form("C4"), ())] * 2, ended
    assert "C5 less C4 +1.000 ± 0.000 dB (2 seeds: better)" in (folder / "ablation.md").read_text()
    standing = read(open_study(open_storage("sqlite:///studies/studies.db"), "dscsan_ablation"))
    assert [t.state for t in standing.trials] == ["complete"] * 6


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("dscsan_short_x4", ["--forms", "C1", "C1"], "--forms C1 C1: name one or more, each once"),
        ("dscsan_short_x4", ["--forms"], "--forms : name one or more, each once"),
        ("dscsan_short_x4", ["--forms", "C6"], "invalid choice 'C6'"),
        ("dscsan_short_x4", ["--model.block", "rcab"], "--model.block rcab: the forms set it: leave it at brb"),
        ("dscsan_short_x4", ["--model.no-attention"], "--model.attention False: the forms set it: leave it at True"),
        ("dscsan_short_x4", ["--stage-weights"], "--stage-weights is empty: the stages of C5 are supervised: give 1"),
        ("dscsan_x2", [], "--forms C1 C2 C3 C4 C5: at x2 the only stage of C5 is its output, which makes it C4"),
        ("dscsan_short_x4", ["--seed", "3"], "--seed 3: .*--seeds"),
        ("dscsan_short_x4", ["--parts", "order"], "Unrecognized options: --parts, order"),
        ("ahmf_study_x4", ["--forms", "C1"], "Unrecognized options: --forms, C1"),
    ],
)
def test_what_is_refused(refused, tmp_path, monkeypatch, recipe, options, said):
    monkeypatch.chdir(tmp_path)
    refused("study", "ablation", recipe, *options, said=said)
    assert not list(tmp_path.iterdir())
