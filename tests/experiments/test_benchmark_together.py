"""The benchmark of runs together: what it refuses, its table on made-up numbers, and one measurement of no interest."""

import functools
import json
import re

import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.models import AHMF
from experiments import benchmark_together
from experiments.benchmark_together import ALONE, Sizes, measure, table

REPORT = {
    "sizes": vars(Sizes(rounds=2)),
    "platform": "gpu",
    "device": "A card",
    "versions": {"jax": "1"},
    "rows": {
        ALONE: {"ms": [400.0, 440.0], "compile_s": 2.0},
        "together, 1 device": {"ms": [100.0, 200.0], "compile_s": 3.0},
    },
    "difference": 2e-7,
    "load": 0.0,
}


def test_the_table():
    """8 runs of 4 images in 150 ms, the median, where alone they take 420 ms; round by round 4 and 2.2 times."""
    printed = table(REPORT)
    row = next(line for line in printed.splitlines() if line.startswith("together"))
    assert re.split(r"\s{2,}", row)[1:] == ["150.0", "213.3", "2.80x", "2.20 - 4.00", "3.0 s"]
    assert "target: at least 2 times the throughput  met" in printed and "other work ran" not in printed
    slow = {name: dict(values, ms=[300.0, 300.0]) for name, values in REPORT["rows"].items() if name != ALONE}
    assert "throughput  MISSED" in table(REPORT | {"rows": {ALONE: REPORT["rows"][ALONE]} | slow})
    assert "target" not in table(REPORT | {"platform": "cpu"})
    assert "load 3.0 before the start: other work ran" in table(REPORT | {"load": 3.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 3}, "--scale 3: choose one of"),
        ({"trials": 0}, "--trials 0: give at least 1"),
        ({"num_levels": 0}, "--num-levels 0: give at least 1"),
        ({"patch": 30}, "--patch 30: give a multiple of the scale, 4"),
        ({"features": 7}, "--features 7: .* an even number"),
    ],
)
def test_impossible_sizes_are_refused(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_together, "answer_of", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(InputError, match=message) as error:
        benchmark_together.benchmark_together(Sizes(**change), tmp_path / "out.json")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_the_numbers_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_together, "answer_of", lambda *_: REPORT)
    benchmark_together.benchmark_together(Sizes(), tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == REPORT["rows"]
    assert ALONE in capsys.readouterr().out


def test_runs_together_agree_with_the_runs_alone_and_are_timed(monkeypatch):
    monkeypatch.setattr(benchmark_together, "PAUSE_S", 0)
    monkeypatch.setattr(benchmark_together, "STEPS", 1)
    quick = functools.partial(AHMF, fusion="concat", recurrence="none")
    monkeypatch.setattr("ahmf_jax.models.AHMF", quick)
    report = measure(Sizes(trials=1, num_levels=1, features=2, batch=1, patch=8, rounds=1))
    assert list(report["rows"]) == [ALONE, "together, 1 device"] and report["difference"] <= 1e-5
    assert all(len(row["ms"]) == 1 and row["ms"][0] > 0 for row in report["rows"].values())
