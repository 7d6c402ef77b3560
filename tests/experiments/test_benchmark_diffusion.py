"""The benchmark of DADA's loop: what it refuses, tables on made-up numbers, its sample, and what its programs do."""

import contextlib
import json

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.files import write_depth, write_picture
from experiments import benchmark_diffusion
from experiments.benchmark_diffusion import COMPILED, EAGER, OURS, Sizes, sample, tables

MIB = 2**20
ERRORS = {"mean": 1e-3, "largest": 2e-2, "truth": 0.01}
REPORT = {
    "machine": {"cpu": "A processor", "threads": 2, "load": 0.0, "versions": {"jax": "1"}},
    "sizes": vars(Sizes(iterations=1000)),
    "sample": "a generated scene",
    "checks": {"mass": 1e-7, "adherence": 2e-6, "growth": {"0.24": 0.1, "0.25": 1.0, "0.26": 5e3}},
    "speed": {
        OURS: {"diffuse_ms": [30.0, 50.0, 40.0], "gradient_ms": [10.0, 10.0, 10.0], "difference": 3e-6},
        EAGER: {"diffuse_ms": [200.0, 210.0, 190.0], "gradient_ms": [40.0, 40.0, 40.0], "difference": 0.0},
        COMPILED: {"error": "no compiler"},
    },
    "memory": {OURS: {"unrolled": 50 * MIB, "implicit": 10 * MIB}, EAGER: {"unrolled": 1000 * MIB}},
    "convergence": {
        "starts": [{"count": 64, "start": "coarse", "cost": 84.0, **ERRORS}],
        "early": [{"tolerance": 1e-4, "start": "fine", "used": 512, **ERRORS}],
        "implicit": [{"before": 1000, "links": 1e-3, "contrast": 2e-3}],
    },
}


def cells(printed, begin):
    """Of the first row that begins so."""
    row = next(line for line in printed.splitlines() if line.startswith(f"| {begin}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_tables():
    """1,000 iterations in 40 ms, the median, where eager PyTorch takes 200 ms; 50 MiB where it holds 1,000."""
    printed = tables(REPORT)
    assert cells(printed, OURS) == [OURS, "0.04 s", "40 us", "5.0, met: at least 4", "10 ms, 4.0"]
    assert cells(printed, EAGER) == [EAGER, "0.20 s", "200 us", "1.0", "40 ms, 1.0"]
    assert cells(printed, COMPILED)[1] == "did not run: no compiler"
    assert cells(printed, f"{OURS}, in segments")[1:] == ["50 MiB", "0.0500", "met: at most 0.1"]
    assert cells(printed, "64") == ["64", "84", "coarse", "1.0e-03", "2.0e-02", "0.01000"]
    assert cells(printed, "0.0001") == ["0.0001", "fine", "512", "1.0e-03", "2.0e-02", "0.01000"]
    assert cells(printed, "1000 ") == ["1000", "1.0e-03", "2.0e-03"]
    assert "MISSED" not in printed and "other work ran" not in printed
    assert "the authors' numbers" not in printed  # no file was given


@pytest.mark.parametrize(
    ("part", "change", "row"),
    [
        ("checks", {"mass": 2e-5}, "depth gained"),
        ("checks", {"adherence": float("nan")}, "block mean"),
        ("checks", {"reference": 2e-5}, "the authors' numbers"),
        ("checks", {"growth": {"0.25": 1.1}}, "a chequerboard's"),
        ("checks", {"growth": {"0.26": 0.9}}, "a chequerboard's"),
        ("speed", {OURS: REPORT["speed"][OURS] | {"diffuse_ms": [60.0]}}, OURS),
        ("memory", {OURS: {"unrolled": 200 * MIB, "implicit": 10 * MIB}}, f"{OURS}, in segments"),
    ],
)
def test_what_misses_its_target_is_told(part, change, row):
    assert any("MISSED" in cell for cell in cells(tables(REPORT | {part: REPORT[part] | change}), row))


def test_other_work_is_told():
    assert "load 3.0 before the start" in tables(REPORT | {"machine": REPORT["machine"] | {"load": 3.0}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 60}, "--size 60 --scale 8: give a scale above 1 and a size that is a multiple of it"),
        ({"scale": 1}, "--size 256 --scale 1: give a scale above 1"),
        ({"size": 8}, "--size 8 --scale 8: .* at least twice as large"),
        ({"iterations": 0}, "--iterations 0: give at least 1"),
        ({"rounds": 0}, "--rounds 0: give at least 1"),
        ({"threads": 4096}, "--threads 4096"),
    ],
)
def test_impossible_sizes_are_refused(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_diffusion, "measure", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(InputError, match=message) as error:
        benchmark_diffusion.benchmark_diffusion(Sizes(**change), out=tmp_path / "out.json")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_the_middle_of_an_image(tmp_path):
    """8 rows and columns of 12 x 16: the source is the mean of each block, in units of the depth's deviation."""
    depth = np.arange(1, 193, dtype=np.uint8).reshape(12, 16)
    guide = np.repeat(depth[..., None], 3, -1)
    write_depth(tmp_path / "depth.png", depth)
    write_picture(tmp_path / "guide.png", guide)
    arrays = sample(Sizes(scale=4, size=8), tmp_path / "depth.png", tmp_path / "guide.png")
    middle = depth[2:10, 4:12].astype(np.float64)
    unit = middle.std()
    np.testing.assert_allclose(arrays["depth"][0, ..., 0], middle / unit, rtol=1e-6)
    np.testing.assert_allclose(arrays["source"][0, 0, 0, 0], middle[:4, :4].mean() / unit, rtol=1e-6)
    np.testing.assert_allclose(arrays["guide"][0, ..., 0], (middle / 255 - 0.485) / 0.229, rtol=1e-5)
    assert arrays["image"].shape == (1, 8, 8, 1) and all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize(
    ("depth", "guide", "message"),
    [
        ((12, 16), None, "give both, or neither"),
        ((12, 16), (12, 15), r"of \(12, 16\) and \(12, 15\) pixels"),
        ((6, 16), (6, 16), "at least 8 x 8"),
        ("holes", (12, 16), "has holes or is flat"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(depth, guide, message, tmp_path):
    values = np.arange(1, 193, dtype=np.uint8).reshape(12, 16)
    values = np.where(values == 102, 0, values).astype(np.uint8) if depth == "holes" else values[: depth[0], : depth[1]]
    write_depth(tmp_path / "depth.png", values)
    if guide is not None:
        write_picture(tmp_path / "guide.png", np.zeros((*guide, 3), np.uint8))
    paths = tmp_path / "depth.png", None if guide is None else tmp_path / "guide.png"
    with pytest.raises(InputError, match=message) as error:
        sample(Sizes(scale=4, size=8), *paths)
    assert "\n" not in str(error.value)


# A result of the authors' program, in the shapes of theirs.
REFERENCE = {
    "guide": np.ones((1, 3, 8, 12)),
    "source": np.ones((1, 1, 2, 3)),
    "mask_lr": np.ones((1, 1, 2, 3)),
    "y_bicubic": np.ones((1, 1, 8, 12)),
    "K": np.float64(0.03),
    "iterations": np.int64(5),
    "y_pred": np.ones((1, 1, 8, 12)),
}


def saved(path, **change):
    np.savez(path, **REFERENCE | change)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "No such file"),
        ("empty", "not a zip file"),
        ("short", "not a zip file"),
        ("damaged", "Bad CRC-32"),
        ("npy", "not a zip file"),
        ("pickled", "allow_pickle"),
        ("missing", "y_pred"),
        ({"K": np.float64(0)}, "K is not one positive number"),
        ({"iterations": np.ones(3)}, "iterations is not one positive number"),
        ({"source": np.full((1, 1, 2, 3), np.nan)}, "source is not made of finite numbers"),
        ({"source": np.ones((1, 1, 2))}, r"source \(1, 1, 2\), .* do not fit together"),
        ({"source": np.ones((1, 1, 2, 2))}, "do not fit together"),
        ({"mask_lr": np.ones((2, 1, 2, 3))}, "do not fit together"),
        ({"guide": np.ones((1, 3, 8, 8))}, "do not fit together"),
        ({"source": np.ones((1, 1, 8, 12)), "mask_lr": np.ones((1, 1, 8, 12))}, "do not fit together"),
    ],
)
def test_a_reference_that_is_none_is_refused(change, message, tmp_path):
    path = tmp_path / "reference.npz"
    if isinstance(change, dict):
        saved(path, **change)
    elif change == "pickled":
        saved(path, guide=np.array([{}], object))
    elif change == "missing":
        np.savez(path, **{name: array for name, array in REFERENCE.items() if name != "y_pred"})
    elif change is not None:
        content = bytearray(saved(path).read_bytes())
        content[content.index(np.float64(1).tobytes())] ^= 1
        np.save(tmp_path / "guide.npy", REFERENCE["guide"])
        npy = (tmp_path / "guide.npy").read_bytes()
        path.write_bytes({"empty": b"", "short": content[:-200], "damaged": content, "npy": npy}[change])
    with pytest.raises(InputError, match=rf"reference.npz: .*{message}.*: give an NPZ file with guide") as error:
        benchmark_diffusion.read_reference(path)
    assert "\n" not in str(error.value)


def test_a_reference(tmp_path):
    found = benchmark_diffusion.read_reference(saved(tmp_path / "reference.npz"))
    assert found.keys() == REFERENCE.keys() and found["iterations"] == 5


def test_the_programs_agree_and_answer(tmp_path, monkeypatch):
    """All tasks, without processes and on a tiny sample."""
    pytest.importorskip("torch")
    monkeypatch.setattr(benchmark_diffusion, "PAUSE_S", 0)
    monkeypatch.setattr(benchmark_diffusion, "GRADIENT_STEPS", 2)
    monkeypatch.setattr(benchmark_diffusion, "TOLERANCES", (1e-2,))
    sizes = Sizes(scale=4, size=16, iterations=80, after=4, batch=2, rounds=1, threads=1)
    np.savez(tmp_path / "sample.npz", **sample(sizes, None, None))

    @contextlib.contextmanager
    def conversation(module, name, env):
        tasks = None

        def ask(request):
            nonlocal tasks
            if tasks is None:
                if name == OURS:
                    tasks = benchmark_diffusion.jax_tasks(sizes, tmp_path)
                else:
                    tasks = benchmark_diffusion.torch_tasks(sizes, tmp_path, EAGER)
                return {}
            return {"error": "no compiler"} if name == COMPILED else json.loads(json.dumps(tasks[request["task"]]()))

        yield ask

    monkeypatch.setattr(benchmark_diffusion, "conversation", conversation)
    with contextlib.ExitStack() as stack:
        report = benchmark_diffusion.measure(sizes, tmp_path, stack)
    assert report["speed"][COMPILED] == {"error": "no compiler"}
    assert 0 < report["speed"][OURS]["difference"] < 1e-5 and len(report["speed"][OURS]["diffuse_ms"]) == 1
    assert report["checks"]["mass"] < 1e-6 and report["checks"]["adherence"] < 1e-5
    assert [growth > 2 for growth in report["checks"]["growth"].values()] == [False, False, True]
    # PyTorch keeps some images an iteration: two of 16 x 16 and their differences, float32, of two samples.
    assert 4 * 2 * 16 * 16 * 4 * 2 < report["memory"][EAGER]["unrolled"] < 4 * 12 * 16 * 16 * 4 * 2
    starts = report["convergence"]["starts"]
    assert [(row["count"], row["start"], row["cost"]) for row in starts[2:4]] == [(64, "fine", 64), (64, "coarse", 80)]
    assert starts[4]["mean"] == 0 and starts[2]["mean"] > 0
    (early,) = (row for row in report["convergence"]["early"] if row["start"] == "fine")
    assert early["used"] in (64, 80)
    assert [row["before"] for row in report["convergence"]["implicit"]] == [5, 20, 80]
    tables({"machine": REPORT["machine"], "sizes": vars(sizes), "sample": "a scene"} | report)


def test_the_command_starts_its_programs(ahmf, refused, tmp_path, monkeypatch):
    """At a size at which no speed means anything; torch.compile, told to leave all as it is, takes no time."""
    pytest.importorskip("torch")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    reference, out = saved(tmp_path / "reference.npz"), tmp_path / "out.json"
    sizes = {"size": 16, "scale": 4, "iterations": 8, "rounds": 1, "after": 4, "batch": 2, "threads": 1}
    given = {**sizes, "reference": reference, "out": out}
    command = ("benchmark", "diffusion", *(x for name, value in given.items() for x in (f"--{name}", value)))
    ended = ahmf(*command)
    assert ended.code == 0, ended.err
    report = json.loads(out.read_text())
    assert report["sizes"] == sizes and ended.out == tables(report) + "\n"
    assert all("error" not in report["speed"][name] for name in (OURS, EAGER, COMPILED))
    assert report["checks"]["reference"] < 1e-5  # what is flat stays so
    assert report["speed"][OURS]["difference"] < 1e-5 and len(report["speed"][EAGER]["diffuse_ms"]) == 1
    assert [row["before"] for row in report["convergence"]["implicit"]] == [0, 2, 8]
    reference.write_bytes(b"")
    refused(*command, said="reference.npz: File is not a zip file")


def test_programs_that_disagree_are_not_compared(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def conversation(module, name, env):
        np.save(tmp_path / f"{name}.npy", np.full(3, 1 + 1e-3 * (name == OURS)))
        yield lambda request: {}

    monkeypatch.setattr(benchmark_diffusion, "conversation", conversation)
    with contextlib.ExitStack() as stack, pytest.raises(RuntimeError, match=r"ahmf_jax: differs by 1\.0e-03"):
        benchmark_diffusion.measure(Sizes(), tmp_path, stack)
