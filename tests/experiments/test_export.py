"""Exports from the command line: compared before they are kept, run by the page's own lines, refused in one line."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import ahmf_jax
from ahmf_jax import export as bundles
from ahmf_jax import upsample
from ahmf_jax.models import DADA
from experiments import cli, export
from tests import exports

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "exporting.md").read_text()
COMMANDS = [shlex.split(line, comments=True) for line in re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines()]
BLOCKS = {"ahmf_jax": "safetensors", "jax": "stablehlo", "onnxruntime": "onnx", "torch": "torch"}
RUNTIMES = {"safetensors": (), "stablehlo": ("flatbuffers",), "onnx": ("onnx", "onnxruntime"), "torch": ("torch",)}
OUT = {"safetensors": "ahmf.safetensors", "stablehlo": "ahmf.stablehlo", "onnx": "ahmf.onnx", "torch": "ahmf_torch"}


@pytest.fixture(autouse=True)
def symbols_are_sizes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its annotations know numbers alone


@pytest.fixture
def small(monkeypatch):
    """Fewer sizes to compile for."""
    monkeypatch.setattr(export, "SIZES", ((2, 3, 2), (1, 1, 2)))


def block(kind: str) -> str:
    """The page's Python for a kind of file."""
    found = [
        code
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.S)
        if kind == next(BLOCKS[name] for name in BLOCKS if re.search(rf"^import {name}\b", code, re.M))
    ]
    assert len(found) == 1
    return found[0]


def test_the_commands_of_the_page_parse():
    assert {words[2] for words in COMMANDS} == {*OUT, "show"}
    for words in COMMANDS:
        assert callable(cli.parse(words[1:]))
        assert words[-1] in OUT.values()


@pytest.mark.parametrize("kind", OUT)
def test_what_is_exported_runs_by_the_pages_lines(kind, ahmf, run, tmp_path, small):
    """In a process of its own, where nothing of this project is imported (but for its own format)."""
    for package in RUNTIMES[kind]:
        pytest.importorskip(package)
    ended = ahmf("export", kind, run, tmp_path / OUT[kind])
    assert ended.code == 0, ended.err
    differences = re.findall(r"(\S+) on (\S+) samples", ended.out)
    assert [size for _, size in differences] == ["2x3x2", "1x1x2"]
    assert all(float(difference) <= 1e-5 for difference, _ in differences)
    assert [p.name for p in tmp_path.iterdir()] == [OUT[kind]]

    rng = np.random.default_rng(0)
    depth_lr, guide = rng.uniform(1, 4, (3, 5)).astype(np.float32), rng.integers(0, 256, (12, 20, 3), np.uint8)
    np.save(tmp_path / "depth_lr.npy", depth_lr)
    np.save(tmp_path / "guide.npy", guide)
    ours = [] if kind == "safetensors" else ["ahmf_jax", "flax"]
    script = (
        f"{block(kind)}\nimport sys\nassert not set(sys.modules) & set({ours})\nnp.save('out.npy', np.asarray(depth))"
    )
    path = [f"import sys; sys.path.insert(0, {str(ROOT)!r})"] if kind == "safetensors" else []
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", "\n".join([*path, script])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wanted = ahmf_jax.load(run)(depth_lr, guide)
    assert np.abs(np.load(tmp_path / "out.npy").reshape(12, 20) - wanted).max() <= 1e-5 * 10
    assert np.ptp(wanted) > 0.5


@pytest.mark.parametrize("kind", OUT)
def test_the_learning_free_dada_by_its_name(kind, ahmf, tmp_path, monkeypatch):
    for package in RUNTIMES[kind]:
        pytest.importorskip(package)
    monkeypatch.setattr(export, "ITERATED_SIZES", ((2, 2, 3), (1, 1, 2)))
    few = dataclasses.replace(upsample.dada_rgb(8), model=DADA(8, features="rgb", iterations=20, tolerance=1e-9))
    monkeypatch.setattr(upsample, "dada_rgb", lambda scale: {8: few}[scale])
    ended = ahmf("export", kind, "dada_rgb_x8", tmp_path / OUT[kind])
    assert ended.code == 0, ended.err
    differences = re.findall(r"(\S+) on (\S+) samples", ended.out)
    assert [size for _, size in differences] == ["2x2x3", "1x1x2"]
    assert all(float(difference) <= 1e-5 for difference, _ in differences)
    if kind == "safetensors":
        assert upsample.load_trained(tmp_path / OUT[kind]) == few
    if kind == "torch":  # there are no weights
        assert [p.name for p in (tmp_path / OUT[kind]).iterdir()] == [export.PROGRAM]
    if kind == "onnx":  # what is done, not what the model may leave out
        import onnx

        said = {x.key: x.value for x in onnx.load(tmp_path / OUT[kind]).metadata_props}
        assert json.loads(said["model"])["tolerance"] == 0


@pytest.mark.parametrize("kind", OUT)
def test_a_model_of_depth_alone(kind, ahmf, tmp_path, small):
    """What is written is used by the lines that are printed, and takes no guide."""
    for package in RUNTIMES[kind]:
        pytest.importorskip(package)
    found = exports.dsdmsr("sample", scale=2)
    bundles.save_bundle(tmp_path / "w.safetensors", found)
    shown = ahmf("export", "show", tmp_path / "w.safetensors")
    assert re.search(r"^model +dsdmsr, scale 2, unit srcnn, fusion code, combine sum$", shown.out, re.M), shown.out
    assert re.search(r"^weights +286,405, for depth without a guide$", shown.out, re.M)

    ended = ahmf("export", kind, tmp_path / "w.safetensors", tmp_path / OUT[kind])
    assert ended.code == 0, ended.err
    said, _, lines = ended.out.partition("samples\n")
    differences = re.findall(r"(\S+) on \S+ samples", said + "samples")
    assert len(differences) == 2 and all(float(difference) <= 1e-5 for difference in differences)
    depth, guide = exports.images(found, 1, 2, 3, 0)
    laid_out = {"safetensors": depth[0, ..., 0], "stablehlo": depth}.get(kind, depth.transpose(0, 3, 1, 2))
    if kind == "torch":
        import torch

        laid_out = torch.from_numpy(laid_out)
    scope = {"depth_lr": laid_out}
    exec(lines, scope)
    wanted = exports.super_resolved(found, depth, guide).reshape(4, 6)
    assert np.abs(np.asarray(scope["depth"]).reshape(4, 6) - wanted).max() <= 1e-5 * found.range
    assert np.ptp(wanted) > 0.1


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_dada_that_another_number_of_iterations_changes_is_refused(kind, refused, tmp_path, monkeypatch, contents):
    for package in RUNTIMES[kind]:
        pytest.importorskip(package)
    monkeypatch.setattr(export, "ITERATED_SIZES", ((1, 3, 4),))
    model = DADA(4, features="rgb", iterations=200, start="coarse", tolerance=0.5)
    bundles.save_bundle(tmp_path / "w.safetensors", bundles.Trained(model, {}))
    before = contents(tmp_path)
    said = r"with tolerance=0.5 and start=coarse, does not: on 1x3x4 .* --model\.start fine .* export stablehlo"
    refused("export", kind, tmp_path / "w.safetensors", tmp_path / OUT[kind], said=said)
    assert contents(tmp_path) == before


def test_what_the_learning_free_dada_says_of_itself(ahmf):
    shown = ahmf("export", "show", "dada_rgb_x4")
    assert shown.code == 0, shown.err
    settings = "initial cubic, contrast 0.03, rate 0.24, iterations 8000, tolerance 0.0, start fine, shift sample"
    assert re.search(rf"^model +dada, scale 4, features rgb, {settings}, deviation 1.0$", shown.out, re.M), shown.out
    assert re.search(r"^weights +0, for a guide of 3 channels$", shown.out, re.M)
    assert "scaling largest" in shown.out


def test_a_dada_that_scipy_begins_is_exported_as_weights_alone(ahmf, refused, tmp_path, monkeypatch, contents):
    monkeypatch.setattr(export, "ITERATED_SIZES", ((1, 2, 3),))
    model = DADA(4, features="rgb", iterations=3, initial="griddata")
    bundles.save_bundle(tmp_path / "w.safetensors", bundles.Trained(model, {}))
    before = contents(tmp_path)
    for kind, name in (("stablehlo", "out.stablehlo"), ("onnx", "out.onnx"), ("torch", "out")):
        if all(export._installed(package) for package in RUNTIMES[kind]):
            said = r"w\.safetensors is a DADA with initial=griddata, .* export it as safetensors"
            refused("export", kind, tmp_path / "w.safetensors", tmp_path / name, said=said)
    assert contents(tmp_path) == before
    assert ahmf("export", "safetensors", tmp_path / "w.safetensors", tmp_path / "v.safetensors").code == 0


def test_a_bundle_tells_where_it_comes_from(ahmf, run, tmp_path, small):
    path = tmp_path / "w.safetensors"
    assert ahmf("export", "safetensors", run, path).code == 0
    header = bundles.read_header(path)
    training, metrics = json.loads(header["training"]), json.loads(header["metrics"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if "validation_mae" in line), key=lambda line: line["validation_mae"])
    assert (training["dataset"], training["split"], training["step"]) == ("scenes", "train", best["step"])
    assert training["degradation"] == "LR by matlab_bicubic"
    assert (metrics["mae"], metrics["floor_mae"]) == (best["validation_mae"], best["validation_floor_mae"])
    assert (metrics["split"], metrics["step"]) == ("validation", best["step"])
    assert "output not rounded" in metrics["protocol"]
    assert header["version"] == ahmf_jax.__version__
    shown = ahmf("export", "show", path).out
    assert f"validation mae         {best['validation_mae']:.6g}\n" in shown
    assert "in m, 10 count as 1, scaling sample" in shown
    assert f"ahmf-jax {ahmf_jax.__version__}, format ahmf_jax 1" in shown
    # All of it survives another export, and a run tells the same of itself.
    assert ahmf("export", "safetensors", path, tmp_path / "again.safetensors").code == 0
    (arrays, _), (again, header_again) = map(bundles.read_safetensors, (path, tmp_path / "again.safetensors"))
    assert header_again == {**header, "format": bundles.FORMAT}
    assert {name: x.tobytes() for name, x in again.items()} == {name: x.tobytes() for name, x in arrays.items()}
    assert ahmf("export", "show", run).out.splitlines() == shown.splitlines()[:-1]


def test_what_a_hostile_bundle_says_is_fit_for_a_terminal(ahmf, bundle, tmp_path):
    trained = bundles.load_bundle(bundle)
    path = tmp_path / "w.safetensors"
    bundles.save_bundle(path, dataclasses.replace(trained, unit="\x1b[2Jm", training={"\x1b]0;": "a\nb"}))
    ended = ahmf("export", "show", path)
    assert ended.code == 0 and all(line.isprintable() for line in ended.out.splitlines())


@pytest.mark.parametrize("error", [1e-3, np.nan])
def test_an_export_that_differs_is_not_left_behind(error, run, tmp_path, monkeypatch, contents, small):
    (tmp_path / "w.safetensors").write_text("from an earlier time")
    before = contents(tmp_path)
    original, calls = export._original, []

    def wrong(trained):
        calls.append(trained)
        exact = original(trained)
        return exact if len(calls) == 1 else lambda *images: exact(*images) + error

    monkeypatch.setattr(export, "_original", wrong)  # the first that is asked for is the bundle that was written
    with pytest.raises(
        export.Differs, match=r"w\.safetensors is not written: on 2x3x2 samples it differs .* by (1.0e-04|nan)"
    ):
        export.to_safetensors(run, tmp_path / "w.safetensors")
    assert contents(tmp_path) == before


def test_rounding_is_in_proportion_to_the_depth_that_is_made(ahmf, tmp_path, monkeypatch):
    """A VDSR makes depths many times the range before it is trained."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "SIZES", ((1, 2, 3),))
    found = exports.dsdmsr(scale=2)
    last = found.params["fusion"]["conv_3"]
    last["kernel"], last["bias"] = 1e5 * last["kernel"], 1e5 * last["bias"]
    bundles.save_bundle(tmp_path / "w.safetensors", found)
    ended = ahmf("export", "onnx", tmp_path / "w.safetensors", tmp_path / "w.onnx")
    assert ended.code == 0, ended.err


def test_a_file_is_replaced_whole_and_a_folder_never(ahmf, refused, bundle, tmp_path, contents, small):
    out = tmp_path / "w.safetensors"
    out.write_text("from an earlier time")
    assert ahmf("export", "safetensors", bundle, out).code == 0
    assert upsample.load_trained(out).unit == "grey level"
    pytest.importorskip("torch")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    before = contents(tmp_path)
    refused("export", "torch", bundle, tmp_path / "there", said=r"there: is there already: name a new folder")
    refused("export", "torch", bundle, out, said=r"w\.safetensors: is written as a folder")
    assert contents(tmp_path) == before


def test_what_is_refused(refused, bundle, run, tmp_path, contents):
    leak = dataclasses.replace(bundles.load_bundle(bundle), scaling="truth")
    bundles.save_bundle(tmp_path / "leak.safetensors", leak)
    before = contents(tmp_path)
    for kind, suffix in (
        ("safetensors", ".safetensors"),
        ("stablehlo", ".stablehlo"),
        ("onnx", ".onnx"),
        ("torch", ""),
    ):
        if any(not export._installed(package) for package in RUNTIMES[kind]):
            continue
        out = tmp_path / f"out{suffix}"
        refused(
            "export", kind, tmp_path / "leak.safetensors", out, said=r"leak.safetensors was trained with scaling truth"
        )
        refused("export", kind, tmp_path / "no", out, said=r"/no does not exist: give a run's folder")
        refused("export", kind, run, tmp_path / "no" / out.name, said=r"there is no folder .*/no: create it")
        refused("export", kind, run, tmp_path / "out.bin", said=r"out\.bin: is written as a ")
    refused("export", "show", ROOT / "README.md", said=r"README\.md is neither a run's folder nor")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx", "onnxruntime"), ("torch", "torch"), ("stablehlo", "flatbuffers")]
)
def test_a_missing_extra_is_named(kind, package, refused, run, tmp_path, monkeypatch):
    installed = export._installed
    monkeypatch.setattr(export, "_installed", lambda name: name != package and installed(name))
    said = rf"export {kind} needs .*{package} is not installed: pip install 'ahmf-jax"
    refused("export", kind, run, tmp_path / OUT[kind], said=said)
