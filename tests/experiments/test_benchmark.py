"""The benchmark at sizes of no interest: that both programs run, agree, and are reported; never the times."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from experiments import benchmark, benchmark_programs

SIZES = benchmark_programs.Sizes(scale=2, num_levels=1, features=2, height=16, width=24, batch=2, patch=16)


def test_both_programs_run_agree_and_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    report = benchmark.compare(2, 1, SIZES)
    assert report["tasks"].keys() == benchmark.RATIO_TARGETS.keys()
    for name, task in report["tasks"].items():
        assert 0 < task["difference"] <= benchmark.AGREEMENT[name]  # 0 would be one program compared with itself
        assert all(len(task[kind][program]) == 2 for kind in ("ms", "cpu_ms") for program in ("jax", "torch"))
        assert min(task["ms"]["jax"] + task["ms"]["torch"]) > 0
        assert task["cpu_ratio"] > 0
        assert 0 < task["least"] <= task["ratio"] <= task["largest"]
        assert task["met"] == (task["ratio"] <= task["target"])
    captured = capfd.readouterr()
    assert not captured.out
    assert "training step" in captured.err  # progress

    report |= {"machine": benchmark_programs.machine(1), "startup": benchmark.startup(1)}
    assert report["startup"]["import ahmf_jax"]["silent"]
    printed = benchmark.table(json.loads(json.dumps(report)))
    assert "1 x 16 x 24" in printed
    assert "2 x 16 x 16" in printed
    assert "import ahmf_jax" in printed
    assert "ahmf --help" in printed


def test_programs_that_disagree_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def made_up(setting: benchmark_programs.Setting, *_: Any) -> Iterator[Any]:
        def ask(request: dict[str, Any]) -> dict[str, Any]:
            np.save(request["save"], np.array([1.0, 1.0 if setting.program == "torch" else 1.00002]))
            return {}

        yield ask

    monkeypatch.setattr(benchmark, "worker", made_up)
    with pytest.raises(RuntimeError, match=r"inference: JAX and PyTorch differ by 2.00e-05"):
        benchmark.compare(1, 1, SIZES)


def test_a_process_that_ends_is_a_failure(tmp_path: Path) -> None:
    # The weights that PyTorch writes are not there.
    setting = benchmark_programs.Setting("jax")
    ended = pytest.raises(RuntimeError, match="the jax process ended with status 1")
    with ended, benchmark_programs.worker(setting, SIZES, 1, tmp_path):
        pass


@pytest.mark.parametrize(
    ("rounds", "threads", "message"),
    [(0, 1, "--rounds 0: give at least 1"), (1, 0, "--threads 0: "), (1, 100_000, "--threads 100000: ")],
)
def test_impossible_numbers_are_refused(rounds: int, threads: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        benchmark.benchmark(rounds, threads, tmp_path / "out.json")
    assert not list(tmp_path.iterdir())


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"torch is not installed: pip install 'ahmf-jax\[torch\]'"):
        benchmark.benchmark(1, 1, None)


def test_the_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(benchmark, "compare", lambda *_: {"tasks": {"a task": 1.5}})
    monkeypatch.setattr(benchmark, "startup", lambda times: {"ahmf --help": times})
    monkeypatch.setattr(benchmark, "table", lambda report: "a table")
    benchmark.benchmark(1, 1, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["tasks"] == {"a task": 1.5}
    assert written["startup"] == {"ahmf --help": benchmark.STARTS}
    assert written["machine"]["threads"] == 1
