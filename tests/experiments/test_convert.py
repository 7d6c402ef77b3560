"""Weights to PyTorch's files and back, with torch and without."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ahmf_jax import checkpoint, export, torch_weights, upsample
from ahmf_jax.models import AHMF, DADA, DSCSAN, DSDMSR
from ahmf_jax.state import init_params
from tests import exports

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "reference" / "ahmf_release_x4.pth"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the reference weights (../shared/reference) are not here")
def test_the_published_layout_comes_back_bit_for_bit(ahmf, tmp_path):
    torch = pytest.importorskip("torch")
    ended = ahmf("convert", "from-torch", PUBLISHED, tmp_path / "b.safetensors")
    assert ended.code == 0, ended.err
    assert "scale 4, num_levels 4, features 64, variant release" in ended.out
    assert ahmf("convert", "to-torch", tmp_path / "b.safetensors", tmp_path / "again.pth").code == 0
    theirs = torch.load(PUBLISHED, weights_only=True)
    ours = torch.load(tmp_path / "again.pth", weights_only=True)
    theirs = theirs.get("state", theirs)
    assert list(ours) == ["state"]
    assert all(name.startswith("module.") for name in ours["state"])
    assert [n.removeprefix("module.") for n in ours["state"]] == [n.removeprefix("module.") for n in theirs]
    for (name, wanted), found in zip(theirs.items(), ours["state"].values(), strict=True):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted), name
    trained = upsample.load_trained(tmp_path / "b.safetensors")
    assert (trained.scaling, trained.range, trained.unit) == ("range", 255.0, "grey level")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.pth", "b.safetensors"]


def test_a_run_becomes_a_pth(ahmf, run, tmp_path):
    torch = pytest.importorskip("torch")
    ended = ahmf("convert", "to-torch", run, tmp_path / "ours.pth")
    assert ended.code == 0 and "num_levels 1" in ended.out and "minimum is 0 and its maximum 1" in ended.out
    state = torch.load(tmp_path / "ours.pth", weights_only=True)["state"]
    trained = upsample.load_trained(run)
    wanted = torch_weights.to_torch(trained.model, trained.params)
    assert [f"module.{name}" for name in wanted] == list(state)
    for name, array in wanted.items():
        np.testing.assert_array_equal(state[f"module.{name}"].numpy(), array)
    assert ahmf("convert", "from-torch", tmp_path / "ours.pth", tmp_path / "b.safetensors").code == 0
    best = checkpoint.read_params(run)[0]
    again = upsample.load_trained(tmp_path / "b.safetensors").params
    assert jax.tree.structure(again) == jax.tree.structure(best)
    jax.tree.map(np.testing.assert_array_equal, again, best)


@pytest.mark.parametrize(
    ("variant", "swapped", "untold"),
    [
        ("release", ("guidance_head", "statistics", "order"), ("release", ("guidance_head",))),
        # More than half of the parts that have other tensors: like the other variant with the rest of them swapped.
        (
            "release",
            ("guidance_head", "squeeze", "excitation", "activation"),
            ("paper", ("residual", "gru_layers", "reconstruction")),
        ),
        ("paper", ("squeeze", "residual"), None),
    ],
)
def test_swapped_parts_that_tensors_do_not_tell(ahmf, tmp_path, variant, swapped, untold):
    """A .pth is told on the way back, or would be another network with the same tensors; a .safetensors tells."""
    pytest.importorskip("torch")
    model = AHMF(scale=2, num_levels=1, features=2, variant=variant, swapped=swapped)
    shapes = jax.eval_shape(lambda: init_params(model))
    params = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
    export.save_bundle(tmp_path / "a.safetensors", export.Trained(model, params, "range", "m", 1.0, "drawn"))
    out = ahmf("convert", "to-torch", tmp_path / "a.safetensors", tmp_path / "t.pth").out.strip()
    options = out.partition("on the way back add ")[2].split()
    assert options == (["--variant", variant, "--swapped", *swapped] if untold else [])
    for given, wanted in (((), untold or (variant, swapped)), (options, (variant, swapped))):
        back = tmp_path / "b.safetensors"
        assert ahmf("convert", "from-torch", tmp_path / "t.pth", back, *given).code == 0
        found = upsample.load_trained(back).model
        assert (found.variant, found.swapped) == wanted
    out = ahmf("convert", "to-torch", tmp_path / "a.safetensors", tmp_path / "t.safetensors").out
    assert "on the way back" not in out
    assert ahmf("convert", "from-torch", tmp_path / "t.safetensors", back).code == 0
    found = upsample.load_trained(back)
    assert (found.model, found.unit, found.range) == (model, "m", 1.0)


def test_the_layout_of_dadas_authors(ahmf, refused, tmp_path):
    """What they save beside the weights, and names that only their older checkpoints have, are left out."""
    torch = pytest.importorskip("torch")
    from ahmf_jax import torch_modules

    twin = torch_modules.DADA(8, encoder="resnet18", channels=8)
    twin.feature_extractor[1].encoder.bn1.num_batches_tracked += 3
    theirs = twin.state_dict()
    older = {"logk2": torch.zeros(()), "mean_guide": torch.zeros(3), "std_guide": torch.zeros(3)}
    torch.save({"model": {**theirs, **older}, "optimizer": {}, "epoch": 5}, tmp_path / "theirs.pth")
    given = "convert", "from-torch", tmp_path / "theirs.pth", tmp_path / "b.safetensors"
    refused(*given, said=r"theirs.pth: these are the weights of a DADA.*--scale 8")
    said = (
        r"theirs.pth is a DADA, .*give --range and --unit; .* 1122.7 of Middlebury, 1386.05 of NYUv2, 1154.29 of DIML"
    )
    for some in ((), ("--unit", "mm"), ("--range", "1122.7")):
        refused(*given, "--scale", "8", *some, said=said)
    ended = ahmf(*given, "--scale", "8", "--unit", "mm", "--range", "1122.7")
    assert ended.code == 0, ended.err
    assert "encoder resnet18, channels 8" in ended.out
    said = "given initial cubic, shift sample: its authors trained with initial griddata, shift batch\n"
    assert ended.out.endswith(said)
    # ResNet-18 without its classifier, a fourth input, the decoder, a head of 8 channels, and log K.
    assert f"{11_179_648 + 3_151_552 + 8 * 145 + 1:,} parameters" in ended.out
    trained = upsample.load_trained(tmp_path / "b.safetensors")
    assert (trained.scaling, trained.range, trained.unit) == ("range", 1122.7, "mm")

    ended = ahmf("convert", "to-torch", tmp_path / "b.safetensors", tmp_path / "again.pth")
    assert ended.code == 0 and "on the way back add --scale 8 --scaling " in ended.out
    stored = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(stored) == ["model"] and list(stored["model"]) == list(theirs)
    twin.load_state_dict(stored["model"])  # strict: every name and shape
    for name, value in twin.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 0 and value.dtype == torch.int64
        else:
            assert torch.equal(value, theirs[name]), name


def test_the_layout_of_the_published_dsdmsr(ahmf, refused, tmp_path):
    """A file is the state dict and nothing else; of what no tensor tells, a .pth loses what is not as published."""
    torch = pytest.importorskip("torch")
    from ahmf_jax import torch_modules

    theirs = torch_modules.DSDMSR(2).state_dict()
    torch.save(theirs, tmp_path / "theirs.pth")
    given = "convert", "from-torch", tmp_path / "theirs.pth", tmp_path / "b.safetensors"
    ended = ahmf(*given)
    assert ended.code == 0, ended.err
    said = "the tensors do not tell fusion code, combine sum, as published: another with --fusion, --combine\n"
    assert ended.out.endswith(f"scale 2, unit srcnn, fusion code, combine sum, 286,405 parameters; {said}")
    refused(*given, "--scale", "2", said="no weights of a DADA: the scale is read off the tensors")
    trained = upsample.load_trained(tmp_path / "b.safetensors")
    assert (trained.scaling, trained.range, trained.unit) == ("range", 255.0, "grey level")

    ended = ahmf("convert", "to-torch", tmp_path / "b.safetensors", tmp_path / "again.pth")
    said = "the tensors do not tell all of it: on the way back add --scaling range --unit 'grey level' --range 255\n"
    assert ended.code == 0 and ended.out.endswith(said)
    stored = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(stored) == list(theirs) and all(torch.equal(stored[name], x) for name, x in theirs.items())

    other = replace(trained, model=trained.model.clone(fusion="figure", combine="mean"))
    export.save_bundle(tmp_path / "other.safetensors", other)
    said = ahmf("convert", "to-torch", tmp_path / "other.safetensors", tmp_path / "t.pth").out
    assert "on the way back add --fusion figure --combine mean --scaling range" in said and "lost" not in said
    given = "convert", "from-torch", tmp_path / "t.pth", tmp_path / "back.safetensors"
    said = ahmf(*given, "--fusion", "figure").out
    assert said.endswith("; the tensors do not tell combine sum, as published: another with --combine\n")
    assert upsample.load_trained(tmp_path / "back.safetensors").model == DSDMSR(2, fusion="figure")
    said = ahmf(*given, "--fusion", "figure", "--combine", "mean").out
    assert said.endswith("parameters\n")
    assert upsample.load_trained(tmp_path / "back.safetensors").model == other.model
    assert "lost" not in ahmf("convert", "to-torch", tmp_path / "other.safetensors", tmp_path / "t.safetensors").out
    assert ahmf("convert", "from-torch", tmp_path / "t.safetensors", tmp_path / "back.safetensors").code == 0
    refused(
        *("convert", "from-torch", tmp_path / "t.safetensors", tmp_path / "back.safetensors", "--combine", "sum"),
        said="--combine sum: .*t.safetensors was written with combine mean: leave it out",
    )
    back = upsample.load_trained(tmp_path / "back.safetensors")
    assert back.model == other.model == DSDMSR(2, fusion="figure", combine="mean")
    jax.tree.map(np.testing.assert_array_equal, back.params, trained.params)


def test_a_dscsan_there_and_back(ahmf, refused, tmp_path):
    """As with DSDMSR: of what no tensor tells, a .pth loses what is not the default, a .safetensors nothing."""
    torch = pytest.importorskip("torch")
    found = exports.dscsan("sample", interpolated=False)
    export.save_bundle(tmp_path / "w.safetensors", found)
    said = ahmf("convert", "to-torch", tmp_path / "w.safetensors", tmp_path / "w.pth").out
    assert said.endswith("on the way back add --interpolated False --scaling sample --unit 'm' --range 10\n")
    assert "input.weight" in torch.load(tmp_path / "w.pth", weights_only=True)
    given = "convert", "from-torch", tmp_path / "w.pth", tmp_path / "back.safetensors"
    assert ahmf(*given).out.endswith("; the tensors do not tell interpolated True: another with --interpolated\n")
    assert upsample.load_trained(tmp_path / "back.safetensors").model == DSCSAN(4, 1, 2, 4)
    assert ahmf(*given, "--interpolated", "False").out.endswith("parameters\n")
    assert upsample.load_trained(tmp_path / "back.safetensors").model == found.model
    refused(*given, "--combine", "sum", said="no weights of a DSDMSR: fusion and combine are of one; leave them out")

    assert ahmf("convert", "to-torch", tmp_path / "w.safetensors", tmp_path / "t.safetensors").code == 0
    given = "convert", "from-torch", tmp_path / "t.safetensors", tmp_path / "back.safetensors"
    refused(*given, "--interpolated", "True", said="--interpolated True: .* was written with interpolated False: leave")
    assert ahmf(*given).code == 0
    back = upsample.load_trained(tmp_path / "back.safetensors")
    assert back.model == found.model and back.scaling == "sample"
    jax.tree.map(np.testing.assert_array_equal, back.params, found.params)


@pytest.fixture
def tuned(tmp_path):
    """A bundle of a DADA with settings that no tensor tells."""
    model = DADA(scale=4, encoder="resnet18", channels=2, iterations=100, rate=0.2, deviation=1.5)
    shapes = jax.eval_shape(lambda: init_params(model))
    params = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
    trained = export.Trained(model, params, "largest", "m", 2.0, "drawn")
    export.save_bundle(tmp_path / "a.safetensors", trained)
    return trained


def test_what_a_file_of_dadas_authors_does_not_tell(ahmf, tuned, tmp_path):
    pytest.importorskip("torch")
    out = ahmf("convert", "to-torch", tmp_path / "a.safetensors", tmp_path / "t.pth").out
    assert "give it depth scaled so that the LR map's maximum is 1; the tensors" in out
    assert out.strip().endswith(
        "; these are lost: rate 0.2, iterations 100, deviation 1.5 (`ahmf export safetensors` keeps all)"
    ), out
    args = "from-torch", tmp_path / "t.pth", tmp_path / "b.safetensors", "--scale", "4"
    assert ahmf("convert", *args, "--scaling", "largest").code == 0, "a range has no say there"
    jax.tree.map(np.testing.assert_array_equal, upsample.load_trained(tmp_path / "b.safetensors").params, tuned.params)


def test_the_header_of_safetensors_tells_all_that_no_tensor_does(ahmf, refused, tuned, tmp_path):
    out = ahmf("convert", "to-torch", tmp_path / "a.safetensors", tmp_path / "t.safetensors").out
    assert out.endswith("maximum is 1\n"), "nothing is lost, and nothing needs to be told"
    given = "convert", "from-torch", tmp_path / "t.safetensors", tmp_path / "b.safetensors"
    for more in ((), ("--scale", "4", "--scaling", "largest", "--unit", "m", "--range", "2")):
        ended = ahmf(*given, *more)
        assert ended.code == 0 and "iterations 100" in ended.out and "do not tell" not in ended.out, ended
        found = upsample.load_trained(tmp_path / "b.safetensors")
        told = found.model, found.scaling, found.unit, found.range, found.origin
        assert told == (tuned.model, "largest", "m", 2.0, "converted from t.safetensors")
        jax.tree.map(np.testing.assert_array_equal, found.params, tuned.params)
    for option, value in (("scale", "8"), ("unit", "mm"), ("range", "3.0"), ("scaling", "sample")):
        said = rf"--{option} {value}: .*t\.safetensors was written with {option} .*: leave it out"
        refused(*given, f"--{option}", value, said=said)

    arrays, header = export.read_safetensors(tmp_path / "t.safetensors")
    for name, text, said in (
        ("model", "{", r"t\.safetensors has a damaged header"),
        ("range", "-1", r"t\.safetensors has a damaged header \('the range is -1.0"),
        ("model", header["model"].replace("resnet18", "resnet50"), r"does not hold the weights of .*'resnet50'"),
        ("model", header["model"].replace('"channels": 2', '"channels": 99999'), r"unet/head/bias is \(2,\), not"),
    ):
        export.write_safetensors(tmp_path / "t.safetensors", arrays, {**header, name: text})
        refused(*given, said=said)


def test_without_torch(bundle, tmp_path):
    """Both ways by .safetensors; a .pth is refused with the remedy."""
    script = """
import sys

class NoTorch:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
from experiments.cli import main
bundle, folder = sys.argv[1:]
main(["convert", "to-torch", bundle, f"{folder}/t.safetensors"])
main(["convert", "from-torch", f"{folder}/t.safetensors", f"{folder}/b.safetensors"])
open(f"{folder}/x.pth", "w").close()
for args in (["to-torch", bundle, f"{folder}/y.pth"], ["from-torch", f"{folder}/x.pth", f"{folder}/y.safetensors"]):
    try:
        main(["convert", *args])
    except SystemExit as stop:
        assert stop.code == 2
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, bundle, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()
    for name, line in (("y.pth", first), ("x.pth", second)):
        assert line.startswith(f"ahmf: {tmp_path}/{name} is a PyTorch file, and torch is not installed: pip install")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.safetensors", "t.safetensors", "x.pth"]
    wanted, found = load_file(bundle), load_file(tmp_path / "b.safetensors")
    assert wanted.keys() == found.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_what_is_refused(refused, run, bundle, tmp_path, contents):
    torch_names = bundle.parent / "torch.safetensors"
    arrays = load_file(torch_names)
    name = next(iter(arrays))
    save_file({k: v for k, v in arrays.items() if k != name}, tmp_path / "missing.safetensors")
    save_file({"nothing": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "out.safetensors").write_text("from an earlier time")
    before = contents(tmp_path)
    out = tmp_path / "out.safetensors"
    refused("convert", "to-torch", run, tmp_path / "x.bin", said=r"x.bin: is written as .pth or .safetensors")
    refused("convert", "from-torch", torch_names, tmp_path / "x.pth", said=r"x.pth: is written as .safetensors")
    refused("convert", "from-torch", tmp_path / "missing.safetensors", out, said=rf"missing.safetensors: .*{name}")
    refused("convert", "from-torch", tmp_path / "other.safetensors", out, said=r"other.safetensors: ")
    refused("convert", "from-torch", bundle, out, said=r"tiny.safetensors: ")
    refused("convert", "from-torch", tmp_path / "no.safetensors", out, said=r"no.safetensors does not exist")
    refused("convert", "from-torch", torch_names, out, "--range", "0", said=r"--range 0: ")
    refused(
        "convert", "from-torch", torch_names, out, "--combine", "mean", said=r"no weights of a DSDMSR: .*leave them"
    )
    refused("convert", "from-torch", torch_names, out, "--scaling", "none", said=r"'none'.*--scaling")
    refused("convert", "to-torch", tmp_path / "no", out, said=r"no does not exist")
    for place in (tmp_path / "no" / "x.safetensors", out / "x.safetensors"):
        refused(
            "convert",
            "from-torch",
            torch_names,
            place,
            said=r"x.safetensors: there is no folder .*: create it",
        )
    assert contents(tmp_path) == before


def test_the_bundle_says_what_it_is(bundle):
    trained = export.load_bundle(bundle)
    assert (trained.model.scale, trained.model.num_levels, trained.model.features) == (4, 1, 2)
    assert (trained.origin, trained.unit) == ("a test", "grey level")
