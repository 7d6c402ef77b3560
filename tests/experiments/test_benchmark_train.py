"""The benchmark of the training step at sizes of no interest: that the programs run, agree and are reported; and what
the table makes of a GPU's numbers, which are made up here."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from experiments import benchmark_programs, benchmark_rows, benchmark_train
from experiments.benchmark_programs import TRAINING, Setting, Sizes, _image_and_batch, machine

SIZES = Sizes(scale=2, num_levels=1, features=2, batch=2, patch=16)
ABOUT = {"cpu": "a processor", "threads": 2, "load": 0.0, "versions": {"jax": "1"}}


def row(
    program: Any, arithmetic: Any, ms: float, gib: float | None, device: Any = "gpu", **fields: Any
) -> dict[str, Any]:
    setting = Setting(program, arithmetic, device, **fields)
    facts = {"flops": 2e12, "peak_flops": 1e14, "peak": "published", "compile_s": 3.0, "planned_memory": 5}
    memory = None if gib is None else int(gib * 2**30)
    timed = {"ms": [ms, ms / 2, 2 * ms], "cpu_ms": [ms] * 3, "peak_memory": memory, "difference": 1e-6}
    return {"setting": vars(setting), "idle_cpu_ms": 0.0} | timed | (facts if program == "jax" else {})


def test_rows_agree_are_timed_and_reported(capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    """JAX in float32 is test_benchmark.py's."""
    pytest.importorskip("torch")
    request.getfixturevalue("programs_in_threads")
    rows = [Setting("torch"), Setting("jax", "bfloat16"), Setting("torch", channels_last=True)]
    report = benchmark_train.compare(rows, 2, 1, SIZES)
    assert [entry["setting"]["program"] for entry in report["rows"]] == ["torch", "jax", "torch"]
    assert all(len(entry["ms"]) == len(entry["cpu_ms"]) == 2 for entry in report["rows"])
    assert min(ms for entry in report["rows"] for ms in entry["ms"]) > 0
    reference, ours, other_layout = report["rows"]
    assert reference["difference"] == 0
    assert 1e-4 < ours["difference"] <= 1e-1  # less, and it would not be bfloat16
    assert other_layout["difference"] <= 1e-4
    assert "cpu" in ours["peak"]
    captured = capfd.readouterr()
    assert not captured.out
    assert "warming up" in captured.err  # progress

    printed = benchmark_train.table(json.loads(json.dumps({"machine": machine(1)} | report)))
    assert "2 x 16 x 16" in printed
    assert "PyTorch, eager, channels_last, float32" in printed


def test_a_network_that_reads_no_guide_and_whose_stages_are_supervised(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    request.getfixturevalue("programs_in_threads")
    sizes = Sizes(network="dsdmsr", scale=4, batch=1, patch=8, unit="vdsr")
    from ahmf_jax import torch_modules

    tasks = benchmark_programs._torch_tasks(Setting("torch"), sizes, torch.get_num_threads(), tmp_path / "weights.npz")
    made = torch_modules.DSDMSR(4, "vdsr")
    made.load_state_dict({name: torch.from_numpy(w) for name, w in np.load(tmp_path / "weights.npz").items()})
    given = {name: torch.from_numpy(x).moveaxis(-1, 1) for name, x in _image_and_batch(sizes)[1].items()}
    truth, known = given["depth_hr"].numpy(), given["mask_hr"].numpy()
    output, (x2, x4) = (x for x in made.trace(given["depth_lr"]))
    # Of an image of twice the size, a bilinear pixel is the mean of four.
    halved = truth.reshape(1, 1, 4, 2, 4, 2).mean((3, 5)), known.reshape(1, 1, 4, 2, 4, 2).all((3, 5))
    losses = [
        np.abs(depth.detach().numpy() - target)[there].mean()
        for depth, (target, there) in ((output, (truth, known)), (x2, halved), (x4, (truth, known)))
    ]
    task = tasks.make[TRAINING]()
    assert task.result(task.run())[0] == pytest.approx(sum(losses), rel=1e-5) and min(losses) > 0.01
    report = benchmark_train.compare([Setting("torch"), Setting("jax")], 1, 1, sizes)
    assert report["rows"][1]["difference"] <= 1e-4
    printed = benchmark_train.table({"machine": machine(1)} | report)
    assert "training step of DSDMSR x4, vdsr, stages supervised: 2, 1 x 8 x 8; medians of 1 rounds" in printed
    assert "target at most 1.3 times its time" in printed


def test_a_network_is_also_timed_without_its_attention(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("torch")
    request.getfixturevalue("programs_in_threads")
    sizes = Sizes(network="dscsan", scale=4, groups=1, blocks=1, features=4, batch=1, patch=16)
    assert sizes.attends and not Sizes().attends
    rows = benchmark_train.settings("cpu", ("float32",), sizes.attends)
    names = [benchmark_train.name_of(each).removesuffix(", large pages") for each in rows]
    assert names.count("JAX, without attention") == 1
    assert not [each for each in benchmark_train.settings("cpu", ("float32",)) if not each.attention]
    report = benchmark_train.compare([Setting("torch"), Setting("jax"), Setting("jax", attention=False)], 1, 1, sizes)
    reference, ours, without = report["rows"]
    assert 0 < ours["difference"] <= 1e-4 and reference["difference"] == 0 and without["difference"] is None
    assert without["flops"] < ours["flops"], "it has its attention still"
    for entry, ms in ((ours, [100.0]), (without, [80.0])):
        entry["ms"] = ms
    reference["ms"] = [200.0]
    printed = benchmark_train.table({"machine": machine(1)} | report)
    assert "1 x 1 blocks, 4 features, stages supervised: 1, 1 x 16 x 16" in printed
    assert "float32: the attention takes 20% of our time; target under a third  met" in printed
    assert "float32: 0.50 times the time of PyTorch, eager; target at most 1.3 times its time  met" in printed
    (entry,) = benchmark_train.targets(report)
    assert entry["time"] == 0.5
    without["ms"] = [60.0]
    (share,) = benchmark_rows.attention_shares(report["rows"])
    assert share == {"arithmetic": "float32", "share": pytest.approx(0.4), "met": False}
    del without["ms"]
    assert benchmark_rows.attention_shares(report["rows"]) == []


def test_the_twins_gradient_is_not_rounded_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it that of the mean over the pixels, PyTorch's biases would have it off by 5e-5."""
    torch = pytest.importorskip("torch")
    from ahmf_jax.torch_modules import DSDMSR, dsdmsr

    monkeypatch.setitem(dsdmsr.UNITS, "srcnn", lambda: torch.nn.Conv2d(1, 1, 3, padding=1))
    sizes = Sizes(network="dsdmsr", scale=2, batch=1, patch=512)
    tasks = benchmark_programs._torch_tasks(Setting("torch"), sizes, torch.get_num_threads(), tmp_path / "weights.npz")
    task = tasks.make[TRAINING]()
    loss, norm = task.result(task.run())
    exact = DSDMSR(2).double()
    exact.load_state_dict({name: torch.from_numpy(w) for name, w in np.load(tmp_path / "weights.npz").items()})
    given = {name: torch.from_numpy(x).moveaxis(-1, 1) for name, x in _image_and_batch(sizes)[1].items()}
    output, (x2,) = exact.trace(given["depth_lr"].double())
    expected = sum((depth - given["depth_hr"]).abs()[given["mask_hr"]].mean() for depth in (output, x2))
    expected.backward()
    gradient = torch.cat([weight.grad.ravel() for weight in exact.parameters()])
    np.testing.assert_allclose([loss, norm], [expected.item(), gradient.norm().item()], rtol=1e-5)


def test_the_network_is_that_of_its_name() -> None:
    sizes = Sizes(scale=8, num_levels=2, features=6, unit="vdsr")
    assert sizes.fields == {"scale": 8, "num_levels": 2, "features": 6}
    assert (sizes.guide_channels, sizes.stages, sizes.summary) == (3, 0, "AHMF x8, m = 2")
    sizes = dataclasses.replace(sizes, network="dsdmsr")
    assert sizes.fields == {"scale": 8, "unit": "vdsr"}
    assert (sizes.guide_channels, sizes.stages, sizes.summary) == (0, 3, "DSDMSR x8, vdsr")
    sizes = dataclasses.replace(sizes, network="dscsan", groups=3)
    assert sizes.fields == {"scale": 8, "groups": 3, "blocks": 2, "features": 6}
    assert (sizes.guide_channels, sizes.stages) == (0, 2)
    assert sizes.summary == "DSCSAN x8, 3 x 2 blocks, 6 features"


def test_a_row_that_is_not_compiled_says_so_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler of PyTorch itself takes as long to be imported as all other rows take to run."""
    torch = pytest.importorskip("torch")
    asked = []
    monkeypatch.setattr(torch, "compile", asked.append)
    tasks = benchmark_programs._torch_tasks(
        Setting("torch", compiled=True), SIZES, torch.get_num_threads(), tmp_path / "weights.npz"
    )
    tasks.make[TRAINING]()
    assert [type(network).__name__ for network in asked] == ["AHMF"]

    with benchmark_programs.worker(Setting("torch"), SIZES, 1, tmp_path) as ask:
        assert ask({"task": "no such", "may_fail": True})["error"] == "KeyError: 'no such'"
        with pytest.raises(RuntimeError, match="the torch process ended with status 1"):
            ask({"task": "no such"})

    @contextlib.contextmanager
    def made_up(setting: Setting, *_: Any) -> Iterator[Any]:
        def ask(request: dict[str, Any]) -> dict[str, Any]:
            if setting.compiled:
                assert request["may_fail"]
                return {"error": "InvalidCxxCompiler: no compiler"}
            if "save" in request:
                np.save(request["save"], np.ones(2))
            return {"ms": 1.0, "cpu_ms": 1.0, "idle_cpu_ms": 0.0, "peak_memory": None}

        yield ask

    monkeypatch.setattr(benchmark_rows, "worker", made_up)
    monkeypatch.setattr(benchmark_rows, "PAUSE_S", 0)
    rows = [Setting("torch"), Setting("torch", compiled=True), Setting("torch", channels_last=True)]
    report = benchmark_train.compare(rows, 2, 1, SIZES)
    first, not_compiled, last = report["rows"]
    assert first["ms"] == last["ms"] == [1.0, 1.0] and "ms" not in not_compiled
    printed = benchmark_train.table({"machine": machine(1)} | report)
    assert "PyTorch, torch.compile, float32                did not run: InvalidCxxCompiler: no compiler" in printed


def test_programs_that_disagree_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def made_up(setting: Setting, *_: Any) -> Iterator[Any]:
        def ask(request: dict[str, Any]) -> dict[str, Any]:
            np.save(request["save"], np.array([1.0, 1.0 if setting.program == "torch" else 1.0002]))
            return {"ms": 1.0, "cpu_ms": 1.0, "idle_cpu_ms": 0.0, "peak_memory": None}

        yield ask

    monkeypatch.setattr(benchmark_rows, "worker", made_up)
    with pytest.raises(RuntimeError, match=r"JAX, float32: training step: results differ by 2.00e-04"):
        benchmark_train.compare([Setting("torch"), Setting("jax")], 1, 1, SIZES)


def test_on_a_cpu_eager_pytorch_is_the_measure() -> None:
    rows = [row("torch", "float32", 400, None, "cpu"), row("jax", "float32", 480, None, "cpu")]
    rows.append(row("torch", "float32", 300, None, "cpu", compiled=True))
    report = {"rows": rows, "sizes": vars(Sizes()), "machine": ABOUT}
    (entry,) = benchmark_train.targets(report)
    assert entry == {"arithmetic": "float32", "against": "PyTorch, eager", "time": pytest.approx(1.2), "met": True}
    rows[1]["ms"] = [510.0] * 3
    (entry,) = benchmark_train.targets(report)
    assert not entry["met"]
    assert "1.27 times the time of PyTorch, eager; target at most 1.25 times its time  MISSED" in benchmark_train.table(
        report
    )


def test_on_a_gpu_the_fastest_pytorch_of_the_same_arithmetic_is_the_measure() -> None:
    rows = [
        row("torch", "float32", 400, 10),
        row("jax", "float32", 200, 6),
        row("torch", "tf32", 200, 10),
        row("jax", "tf32", 100, 6),
        row("torch", "tf32", 140, 9, compiled=True),
        row("jax", "bfloat16", 50, 4),
        row("torch", "bfloat16", 100, 5),
        {"setting": vars(Setting("torch", "bfloat16", "gpu", compiled=True)), "error": "OutOfMemoryError: too much"},
    ]
    report = {"rows": rows, "sizes": vars(Sizes(batch=16, patch=256)), "machine": ABOUT}
    full, tf32, half = benchmark_train.targets(report)
    assert (full["time"], full["memory"], full["met"]) == (0.5, 0.6, True)
    assert tf32["against"] == "PyTorch, torch.compile"
    assert not tf32["met"]  # 1.4 times as fast
    assert not half["met"]  # twice as fast, in 0.8 of the memory
    printed = benchmark_train.table(report)
    assert "bfloat16: 2.00 times the images/s in 0.80 of the memory of PyTorch, eager; target" in printed
    assert "PyTorch, torch.compile, bfloat16               did not run: OutOfMemoryError: too much" in printed
    # 2 TFLOP in 50 ms of 100 TFLOP/s, 16 images.
    (line,) = [line for line in printed.splitlines() if line.startswith("JAX, bfloat16")]
    assert line.split()[2:] == ["50.0", "320.0", "0.12", "0.12", "-", "0.12", "40%", "4.00"]


def test_every_setting_of_pytorch_is_a_row() -> None:
    rows = benchmark_train.settings("gpu", ("float32", "tf32", "bfloat16"))
    assert rows[0] == Setting("torch", "float32", "gpu")
    assert len(rows) == len({str(each) for each in rows}) == 3 * 5
    for arithmetic in ("float32", "tf32", "bfloat16"):
        names = [benchmark_train.name_of(each) for each in rows if each.arithmetic == arithmetic]
        assert names == [
            "PyTorch, eager",
            "JAX",
            "PyTorch, eager, channels_last",
            "PyTorch, torch.compile",
            "PyTorch, torch.compile, channels_last",
        ]
    # Without float32 the reference is still measured.
    assert [each.arithmetic for each in benchmark_train.settings("gpu", ("tf32",))] == ["float32"] + ["tf32"] * 5


def test_on_a_cpu_ours_has_the_pages_of_a_training_and_pytorch_may_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_train, "large_pages", lambda environment: {"GLIBC_TUNABLES": "large"})
    names = [benchmark_train.name_of(each) for each in benchmark_train.settings("cpu", ("float32",))]
    assert names[:4] == [
        "PyTorch, eager",
        "JAX, large pages",
        "PyTorch, eager, large pages",
        "PyTorch, eager, channels_last",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "--rounds 0: give at least 1"),
        ({"threads": 100_000}, "--threads 100000: "),
        ({"scale": 3}, "--scale is 3: choose one of 2, 4"),
        ({"batch": 0}, "--batch 0: give at least 1"),
        ({"num_levels": 0}, "--num-levels is 0: it must be positive"),
        ({"features": 0}, "--features is 0: it must be at least 2"),
        ({"network": "dscsan", "features": 5}, "--features is 5: it must be at least 4 and a multiple of 2"),
        ({"network": "dscsan", "blocks": 0}, "--blocks is 0: it must be positive"),
        ({"network": "dscsan", "unit": "vdsr"}, "--unit: --network dscsan has none: leave it out"),
        ({"patch": 130}, "--patch 130: give a multiple of the scale, 4"),
        ({"arithmetics": ("tf32",)}, "--arithmetics tf32: a CPU has none"),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(InputError, match=message):
        benchmark_train.benchmark_train(**({"rounds": 1, "threads": 1, "out": tmp_path / "out.json"} | change))
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(InputError, match="--device gpu: PyTorch finds no GPU"):
        benchmark_train.compare([Setting("torch", device="gpu")], 1, 1, SIZES)


def test_the_numbers_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    report = {"rows": [row("torch", "float32", 4, None, "cpu")], "sizes": vars(SIZES)}
    monkeypatch.setattr(benchmark_train, "compare", lambda *_: report)
    benchmark_train.benchmark_train(1, 1, out=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == report["rows"]
