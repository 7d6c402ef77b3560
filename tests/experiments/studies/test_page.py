"""A study's report: the numbers in the page, its pictures' values, Markdown and LaTeX, and what is refused."""

import json
import math
import re
import statistics
from pathlib import Path

import optuna
import pytest
from PIL import Image

from experiments.report.make import Places
from experiments.studies import charts, page
from experiments.studies.standing import read
from experiments.studies.study import note_folder
from tests.experiments import studies_of
from tests.experiments.studies_of import EVIL, State, trial


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    return studies_of.levels(tmp_path_factory.mktemp("levels"))


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return studies_of.search(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def places(search, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page of search")
    return page.report_study(search, folder / "my report.html")


def data(html):
    return json.loads(re.search(r'id="report-data">(.*?)</script>', html, re.S)[1])


def body_of(html):
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", html, flags=re.S)


def tables_of(html):
    """Each table's rows as texts, by its label."""
    found = re.findall(r'aria-label="([^"]*)">\s*<table class="of-study.*?<tbody>(.*?)</tbody>', body_of(html), re.S)
    cell = re.compile(r"<t[hd][^>]*>(?:<a [^>]*>)?(.*?)(?:</a>)?</t[hd]>")
    return {label: [cell.findall(row) for row in re.findall("<tr>(.*?)</tr>", rows)] for label, rows in found}


def test_the_tables_have_the_numbers_of_the_trials(places, search):
    rows = tables_of(places.page.read_text())["Trials"]
    standing = read(search)
    done = sorted(standing.of("complete"), key=lambda t: t.values["mae"])
    assert [row[0] for row in rows[:24]] == [str(t.number) for t in done]
    for row, t in zip(rows, done, strict=False):
        assert row[1] == "complete" and row[3] == f"{t.values['mae']:.3f}" and row[4] == f"{t.values['time']:.4g}"
        assert row[5:8] == [f"{t.fields['optimiser.learning_rate']:.4g}", str(t.fields["model.num_levels"]), row[7]]
        assert row[8] == (f"{t.fields['optimiser.halve_at']:.4g}" if "optimiser.halve_at" in t.fields else "\u2013")
    assert [row[1] for row in rows[24:]] == ["pruned", "failed"] * 3
    ended = tables_of(places.page.read_text())["Failed and pruned"]
    assert ended[1][:3] == [
        "9",
        "failed",
        "the loss is not finite &lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&#39;&amp;",
    ]
    assert re.match(r"given up at step 30 of 100, where its validation MAE was \d\.\d+$", ended[0][2])


def test_the_pictures_have_the_values_of_the_trials(search, places):
    sections = {section.title: section.charts for section in charts.sections(read(search))}
    assert list(sections) == ["Learning curves", "Pareto front", "Parallel coordinates", "Importance", "Slices"]
    standing = read(search)
    done = sorted(standing.of("complete"), key=lambda t: t.values["mae"])

    curves = sections["Learning curves"][0].series
    assert len(curves) == 27, "of all trials but those that failed before they were validated"
    best = next(s for s in curves if s.names[0] == f"trial {done[0].number} (complete)")
    assert list(zip(best.x, best.y, strict=True)) == list(done[0].curve) and best.tint == 0
    assert {(s.tint, s.line) for s in curves if "pruned" in s.names[0]} == {(None, "dash")}

    every, front = sections["Pareto front"][0].series
    assert (every.x, every.y) == ([t.values["time"] for t in done], [t.values["mae"] for t in done])
    assert front.x == sorted(front.x) and front.y == sorted(front.y, reverse=True) and front.line == "steps"
    assert min(front.y) == done[0].values["mae"]

    parallel = sections["Parallel coordinates"][0]
    by_title = {dimension.title: dimension for dimension in parallel.dimensions}
    assert list(by_title)[:4] == ["learning_rate", "num_levels", "schedule", "halve_at"]
    assert parallel.tint[-1] == 0 and parallel.names[-1].startswith(f"trial {done[0].number}:"), "drawn over the others"
    logs = [math.log10(t.fields["optimiser.learning_rate"]) for t in reversed(done)]
    assert list(by_title["learning_rate"].values) == logs
    halve = by_title["halve_at"]
    drawn = [t.fields.get("optimiser.halve_at") for t in reversed(done)]
    assert halve.ticks[0][1] == "\u2013"
    for value, position in zip(drawn, halve.values, strict=True):
        assert position == (halve.ticks[0][0] if value is None else value)
    assert halve.ticks[0][0] < min(value for value in drawn if value is not None)

    importance = sections["Importance"][0]
    assert [s.name for s in importance.series] == ["MAE", "inference time (ms)"]
    for series in importance.series:
        assert sum(series.x) == pytest.approx(1)
    assert importance.series[1].y[max(range(4), key=lambda i: importance.series[1].x[i])] == "num_levels", (
        "it is the time"
    )

    assert [chart.title for chart in sections["Slices"]][:2] == ["MAE by learning_rate", "MAE by num_levels"]
    assert sections["Slices"][0].x.log and not sections["Slices"][1].x.log
    assert data(places.page.read_text())["charts"][1]["series"][1]["y"] == front.y


def test_nothing_that_was_written_is_taken_for_markup(places, levels, tmp_path):
    for html in (places.page.read_text(), page.report_study(levels, tmp_path / "l.html").page.read_text()):
        assert "<script>alert" not in html and EVIL not in html and "a chip <b>" not in html
        assert "&lt;script&gt;alert" in html
        assert not re.search(r"""(?:src|href|action|url\()\s*=?\s*["']?\s*(?:https?:)?//""", body_of(html))
        json.dumps(data(html), allow_nan=False)
    text = places.markdown.read_text()
    assert not re.search(r"(?<!\\)<(?!/?u>|!-- ahmf)", text)


def test_markdown_and_latex_say_the_same(places, search):
    text, latex = places.markdown.read_text("utf-8"), places.latex.read_text("utf-8")
    best = min(t.values["mae"] for t in read(search).of("complete"))
    assert f"**{best:.3f}**" in text and rf"\textbf{{{best:.3f}}}" in latex
    links = re.findall(r"\]\((my%20report_files/[^)]*)\)", text)
    assert len(links) == len(data(places.page.read_text())["charts"]) == 12
    for link in links:
        with Image.open(places.page.parent / link.replace("%20", " ")) as picture:
            picture.load()
            assert picture.width > 500
    assert latex.startswith("% ahmf report;") and r"\begin{tabular}{rllrr" in latex
    assert "PED" in text and "So few trials say little" in text


def test_levels_has_its_tables_and_figure_1(levels, tmp_path):
    import dataclasses

    from experiments.studies.cost import Cost, key

    def cost(m):
        return Cost(1000 * m, 1.5 * m, 4.5, 30.0 + m, 300.0 * m, 100.0, 900.0, 3.0, 9.0, (480, 640), "a chip", 5)

    levels.set("costs", {key(levels.config({"model.num_levels": m})): dataclasses.asdict(cost(m)) for m in (1, 2, 4)})
    try:
        html = page.report_study(levels, tmp_path / "l.html").page.read_text()
        chart = charts.figure_1(read(levels))
    finally:
        levels.set("costs", {})
    tables = tables_of(html)
    assert tables["What m brings: mean \u00b1 standard deviation over the seeds"][0][:2] == ["1", "2 of 3"]
    assert tables["What m costs"][2][:2] == ["4", "4,000"]
    assert [row[3] for row in tables["At work"]] == ["50 of 100", "20 of 100", "30 of 100"]
    points = [(s.name, s.x, s.y, s.size) for s in chart.series]
    assert points == [
        ("m = 1", [31.0], [pytest.approx(1.3)], [300.0]),
        ("m = 2", [32.0], [1.0], [600.0]),
        ("m = 4", [34.0], [0.8], [1200.0]),
    ]
    assert chart.series[0].spread == [pytest.approx(statistics.stdev([1.25, 1.35]))] and chart.series[1].spread == [
        None
    ]
    rows = charts.rows(read(levels))
    assert rows.series[0].x == [1.25, 1.0, 0.8, 1.35] and rows.y.categories == ("m = 1", "m = 2", "m = 4")


def test_ablation_has_the_published_row_and_the_differences(tmp_path):
    from experiments.studies import ablation

    trials = []
    for row in ablation.plan(2, ["order", "squeeze"]):
        seed, label = row.fields["seed"], row.label
        mae = {"release, paper's order": 1.1 + 0.001 * seed, "Model 0, release": 1.25}.get(label, 1.0) + 0.05 * seed
        kept = {"label": label, "fields": dict(row.fields)}
        trials.append(trial(State.COMPLETE, values=[mae], **kept, **studies_of.found(mae)))
    study = studies_of.study(tmp_path, "ablation", trials)
    html = page.report_study(study, tmp_path / "a.html").page.read_text()
    changes, course = charts.sections(read(study))[0].charts[:2]
    worse = next(s for s in changes.series if s.name == "worse")
    assert worse.y == ["order"] and worse.x == [pytest.approx(0.1005)]
    # Of 0.1 and 0.101: a standard error of 0.0005, and 12.706 of these to either side.
    assert worse.spread == [pytest.approx(12.706 * 0.0005, rel=1e-3)]
    ours, published = course.series[0], course.series[-1]
    assert ours.name == "release" and ours.x[0] == 100 and ours.x[6] == pytest.approx(100 * 1.025 / 1.275)
    assert published.x[0] == 100 and published.x[6] < 100 and published.line == "dash"
    first = float(ablation.published_mae(0))
    assert published.x[6] == pytest.approx(100 * float(ablation.published_mae(6)) / first)
    table = tables_of(html)["Table VI: mean \u00b1 standard deviation over the seeds"]
    assert [row[4] for row in table] == [str(ablation.published_mae(n)) for n in range(7)]


def test_every_moment_of_a_study(tmp_path):
    """No trial has begun; one is complete; one value is not finite."""
    for kind in ("search", "levels", "ablation"):
        waits = {} if kind == "search" else {"label": "m = 1", "fields": {"model.num_levels": 1, "seed": 0}}
        new = studies_of.study(tmp_path, kind, [trial(State.WAITING, **waits)], name=f"new {kind}")
        html = page.report_study(new, tmp_path / "new.html").page.read_text()
        assert "No trial" in html and data(html)["charts"] == []
    fields = {"optimiser.learning_rate": 0.1}
    kept = {"fields": fields, "params": fields}
    kept["distributions"] = {"optimiser.learning_rate": optuna.distributions.FloatDistribution(0.01, 1)}
    curve = [(1, math.inf), (2, math.nan), (3, 0.5)]
    one = trial(State.COMPLETE, values=[0.5], curve=curve, **kept, **studies_of.found(0.5))
    html = page.report_study(studies_of.study(tmp_path, "search", [one], name="one"), tmp_path / "one.html")
    text = html.page.read_text()
    assert data(text)["charts"][0]["series"][0]["y"] == [0.5], "what JSON does not know is left out"
    assert "From 10 complete trials on, the fields&#39; importance is told here: there are 1." in text
    assert "Fewer than two trials are complete" in text


def test_runs_are_linked_where_they_are(levels, tmp_path):
    from dataclasses import replace

    (tmp_path / "my study" / "trials" / "0002").mkdir(parents=True)
    (tmp_path / "pages").mkdir()
    moved = replace(levels, spec=replace(levels.spec, folder=str(tmp_path / "my study")))
    html = page.report_study(moved, tmp_path / "pages" / "l.html").page.read_text()
    assert re.findall('href="([^"#]*trials[^"]*)"', html) == ["../my%20study/trials/0002"]


def test_the_command(ahmf, refused, search, tmp_path, contents, monkeypatch):
    url, out = search.storage.url, tmp_path / "r.html"
    note_folder(search)
    folder = search.spec.folder
    ended = ahmf("report", folder, "--out", out)
    assert ended.code == 0 and re.fullmatch(rf"{out}: \d\.\d MB; r.md beside it\n", ended.out), ended
    by_folder = contents(tmp_path)
    assert set(by_folder) >= {"r.html", "r.md", "r.tex", "r_files/chart_0.png"}
    assert ahmf("report", "search", "--storage", url, "--out", out).code == 0, "a report is replaced"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AHMF_STUDIES", url)
    monkeypatch.setattr(page, "report_study", lambda study, out: opened.append(study.name) or Places(out))
    opened = []
    assert ahmf("report", "search", "--out", out).code == 0 and opened == ["search"], "where studies are kept"
    refused("report", "serach", "--out", out, said="serach: there is no such folder, and as for a study, there is no")
    record = Path(folder) / "study.json"
    said = record.read_text()
    record.write_text(said.replace(url.partition(":")[0] + "://", "postgresql://stranger@localhost:1"))
    refused(
        "report", folder, "--out", out, said="names postgresql://stranger@.*, which is not \\$AHMF_STUDIES: if that"
    )
    assert ahmf("report", folder, "--storage", url, "--out", out).code == 0 and opened == ["search"] * 2
    record.write_text(said)
    assert contents(tmp_path).keys() == by_folder.keys()
    refused("report", folder, tmp_path, "--out", out, said="a study has a report of its own: name .* alone")
    refused("report", folder, "--out", out, "--images", "1", said="--images and --figure are of evaluations")
    refused("report", "other", "--storage", url, "--out", out, said="there is no study other")
    assert contents(tmp_path).keys() == by_folder.keys()
