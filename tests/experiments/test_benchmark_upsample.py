"""The benchmark of inference at sizes of no interest: that the programs run and agree, that tiles and first calls are
measured; and what the table makes of numbers that are made up here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahmf_jax import engine
from ahmf_jax.errors import InputError
from experiments import benchmark_upsample
from experiments.benchmark_programs import Program, Setting, Sizes, machine

NETWORK = {"scale": 4, "num_levels": 1, "features": 2}
SIZES = Sizes(**NETWORK, height=16, width=20, images=2)
FIRST = {
    "cold": {"seconds": 9.0},
    "warm": [{"seconds": 1.5, "load": 0.5, "call": 1.0, "again": 0.25}],
    "median": 1.5,
    "call": 1.0,
    "met": True,
}


def cost(megapixels: float, seconds: float, runs: int, gigabytes: float) -> dict[str, Any]:
    return {
        "pixels": 1e6 * megapixels,
        "height": 100,
        "width": 200,
        "seconds": seconds,
        "passes": {"pooled": 0.25 * seconds if runs > 1 else 0.0, "depth": 0.75 * seconds},
        "computed": {"pooled": 1.1, "depth": 1.2 if runs > 1 else 1.0},
        "tiles": runs,
        "peak_memory": int(gigabytes * 1e9),
        "device": "cpu",
    }


def row(program: Program, ms: float, arithmetic: Any = "float32", device: Any = "cpu", **fields: Any) -> dict[str, Any]:
    timed = {"ms": [ms, ms / 2, 2 * ms], "cpu_ms": [ms] * 3, "peak_memory": None, "difference": 1e-7}
    setting = Setting(program, arithmetic, device, **fields)
    return {"setting": vars(setting), "idle_cpu_ms": 0.0, **timed} | ({"device": "a card"} if program == "jax" else {})


def report(rows: list[dict[str, Any]], device: str = "cpu", costs: Any = (), first: Any = FIRST) -> dict[str, Any]:
    about = {"cpu": "a processor", "threads": 2, "load": 0.0, "versions": {"jax": "1"}}
    shapes = [{"sizes": vars(Sizes()), "rows": rows}]
    return {
        "machine": about,
        "network": NETWORK,
        "device": device,
        "shapes": shapes,
        "first": first,
        "cost": list(costs),
    }


def test_a_first_call_without_a_guide(tmp_path: Path) -> None:
    what = {"network": "dsdmsr", "scale": 2, "bundle": str(tmp_path / "w.safetensors"), "height": 4, "width": 6}
    benchmark_upsample._save(what)
    assert benchmark_upsample._first_call(what)["call"] > 0


def test_all_programs_agree_are_timed_and_reported(request: pytest.FixtureRequest) -> None:
    """The network as JAX compiles it is test_benchmark.py's."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    request.getfixturevalue("programs_in_threads")
    rows = [Setting(program) for program in ("torch", "engine", "onnxruntime")]
    shape = benchmark_upsample.compare(rows, 2, 1, SIZES)
    assert [entry["setting"]["program"] for entry in shape["rows"]] == ["torch", "engine", "onnxruntime"]
    reference, *others = shape["rows"]
    assert reference["difference"] == 0
    for entry in others:
        assert 0 < entry["difference"] <= 1e-5  # 0 would be one program compared with itself
        assert len(entry["ms"]) == len(entry["cpu_ms"]) == 2
        assert min(entry["ms"]) > 0
    made = report([]) | {"shapes": [shape], "machine": machine(1)}
    printed = benchmark_upsample.table(json.loads(json.dumps(made)))
    assert "2 x 16 x 20, 2 rounds" in printed
    assert "ONNX Runtime, float32" in printed
    assert "times the time of PyTorch, eager; target at most 0.95" in printed


def test_without_onnx_runtime_its_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def timed(rows: Any, *_: Any) -> list[Any]:
        asked.extend(rows)
        return [row("torch", 4)]

    monkeypatch.setattr(benchmark_upsample, "time_rows", timed)
    monkeypatch.setattr(benchmark_upsample.importlib.util, "find_spec", lambda name: None)
    shape = benchmark_upsample.compare([Setting("torch"), Setting("onnxruntime")], 1, 1, SIZES)
    assert asked == [Setting("torch")]
    printed = benchmark_upsample.table(report([]) | {"shapes": [shape]})
    assert "ONNX Runtime, float32" in printed
    assert "did not run: onnx and onnxruntime not installed: pip install 'ahmf-jax[onnx]'" in printed


def test_tiles_are_counted_with_their_margins_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    what = {"do": "cost", "megapixels": 0.03, **NETWORK}
    whole = benchmark_upsample._cost(what)
    assert whole["tiles"] == 1
    assert whole["computed"] == {"pooled": 0, "depth": 1}
    assert whole["passes"]["pooled"] == 0
    assert whole["pixels"] == pytest.approx(30_000, rel=0.05)
    # Memory for one sample more than the smallest tile: the margins are nearly everything.
    model = benchmark_upsample._trained(what).model
    monkeypatch.setattr(engine, "MOST_MEMORY", (4 * model.reach) ** 2 * model.bytes_per_sample)
    tiled = benchmark_upsample._cost(what)
    assert tiled["tiles"] > 2
    assert tiled["computed"]["depth"] > 1
    assert tiled["computed"]["pooled"] > 1
    assert 0 < sum(tiled["passes"].values()) <= tiled["seconds"]


def test_the_first_call_of_a_process_is_split_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "keep_compiled", lambda: None)
    what = {"bundle": str(tmp_path / "model.safetensors"), "height": 16, "width": 20, **NETWORK, "features": 4}
    benchmark_upsample._save(what)  # of a network that no other test has had compiled
    call = benchmark_upsample._first_call(what)
    assert call["seconds"] == pytest.approx(call["load"] + call["call"])
    assert 0 < call["again"] < call["call"]  # which compiles


def test_a_process_answers_and_one_that_fails_is_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"ended with status 1; its messages are above"):
        benchmark_upsample._in_a_process({"do": "first", "height": 8, "width": 8, "scale": 4}, 1, "cpu")
    assert "KeyError: 'bundle'" in capfd.readouterr().err
    answer = benchmark_upsample._in_a_process({"do": "cost", "megapixels": 0.0003, **NETWORK}, 1, "cpu")
    assert answer["peak_memory"] > 1e7
    assert answer["seconds"] > 0


def test_on_a_cpu_the_targets_are_against_eager_pytorch() -> None:
    rows = [row("torch", 100), row("jax", 90), row("engine", 96), row("torch", 50, compiled=True)]
    costs = [cost(0.1, 0.1, 1, 0.5), cost(2, 2, 1, 2), cost(24, 40, 60, 3.5)]
    made = report(rows, costs=costs)
    entries = {entry["what"]: entry for entry in benchmark_upsample.targets(made)}
    assert entries["1 x 480 x 640, float32, JAX"]["met"]
    assert not entries["1 x 480 x 640, float32, JAX, from NumPy to NumPy"]["met"]
    assert entries["first call, programs kept"]["met"]
    assert entries["24 MP, memory"]["met"]
    assert entries["24 MP, time for a pixel over 2 MP whole"]["reached"] == "1.67"
    printed = benchmark_upsample.table(made)
    assert "0.96 times the time of PyTorch, eager; target at most 0.95  MISSED" in printed
    assert "1.00 s; target under 2 s  met" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("100 x 200") and " 60 " in line]
    assert line.split()[3:] == ["24", "60", "40.00", "1.67", "3.50", "25%", "20%"]
    made["cost"][-1] |= {"peak_memory": int(4.1e9), "seconds": 50}
    missed = [entry["what"] for entry in benchmark_upsample.targets(made) if not entry["met"]]
    assert missed[1:] == ["24 MP, memory", "24 MP, time for a pixel over 2 MP whole", "any size's over that"]


def test_on_a_gpu_the_targets_are_against_the_fastest_pytorch_of_the_same_arithmetic() -> None:
    rows = [
        row("torch", 40, device="gpu"),
        row("jax", 20, device="gpu"),
        row("torch", 20, "tf32", "gpu"),
        row("jax", 10, "tf32", "gpu"),
        row("torch", 14, "tf32", "gpu", compiled=True),
        {"setting": vars(Setting("torch", "bfloat16", "gpu")), "error": "OutOfMemoryError: too much"},
        row("jax", 5, "bfloat16", "gpu"),
    ]
    made = report(rows, "gpu")
    full, tf32 = benchmark_upsample.targets(made)
    assert full["met"]
    assert not tf32["met"]
    assert tf32["reached"] == "1.40 times the speed of PyTorch, torch.compile"
    printed = benchmark_upsample.table(made)
    assert "on a card" in printed
    assert "did not run: OutOfMemoryError: too much" in printed


def test_every_setting_is_a_row() -> None:
    cpu = benchmark_upsample.settings("cpu", ("float32",))
    (without,) = [each for each in benchmark_upsample.settings("cpu", ("float32",), True) if each not in cpu]
    assert without == Setting("jax", attention=False)
    assert [(each.program, each.compiled, each.channels_last) for each in cpu] == [
        ("torch", False, False),
        ("jax", False, False),
        ("engine", False, False),
        ("torch", False, True),
        ("torch", True, False),
        ("torch", True, True),
        ("onnxruntime", False, False),
    ]
    gpu = benchmark_upsample.settings("gpu", ("float32", "tf32", "bfloat16"))
    assert gpu[0] == Setting("torch", "float32", "gpu")
    assert len(gpu) == len({str(each) for each in gpu}) == 3 * 5 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "--rounds 0: give at least 1"),
        ({"threads": 100_000}, "--threads 100000: "),
        ({"scale": 3}, "--scale is 3: choose one of 2, 4"),
        ({"num_levels": 0}, "--num-levels is 0: it must be positive"),
        ({"features": 0}, "--features is 0: it must be at least 2"),
        ({"shapes": ((1, 482, 640),)}, "--shapes 1 482 640: give images, height and width, both multiples"),
        ({"shapes": ((0, 480, 640),)}, "--shapes 0 480 640: "),
        ({"megapixels": (0.0,)}, "--megapixels 0: give 0.0001 to 1000"),
        ({"arithmetics": ("tf32",)}, "--arithmetics tf32: a CPU has none"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(InputError, match=message):
        benchmark_upsample.benchmark_upsample(**({"rounds": 1, "threads": 1} | change))


def test_the_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahmf: Any) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(benchmark_upsample, "compare", lambda *_: report([row("torch", 2)])["shapes"][0])
    monkeypatch.setattr(benchmark_upsample, "first_calls", lambda *_: FIRST)
    monkeypatch.setattr(benchmark_upsample, "cost", lambda size, *_: cost(size, 1, 1, 1))
    out = tmp_path / "numbers.json"
    ended = ahmf("benchmark", "upsample", "--threads", "1", "--megapixels", "0.5", "--out", out)
    assert ended.code == 0, ended
    assert "0.5 MP, memory" in ended.out
    written = json.loads(out.read_text())
    assert written["cost"] == [cost(0.5, 1, 1, 1)]
    np.testing.assert_equal(written["first"], FIRST)
