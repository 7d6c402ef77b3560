"""The command line: usage errors, exit status, and every kind of bad input, none of which leaves anything behind."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.files import write_depth, write_picture
from experiments.cli import parse

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), ["demo", "data", "train", "evaluate", "upsample", "convert", "benchmark"]),
        (("--help",), ["demo", "data", "train", "evaluate", "upsample", "convert", "benchmark"]),
        (("train", "--help"), ["--resume", "--data-dir"]),
        (("train", "demo", "--help"), ["--model.num-levels", "--optimiser.learning-rate", "--out", "(default: 900)"]),
        (("upsample", "--help"), ["--depth", "--guide", "--invalid", "--max-pixels"]),
        (("convert", "from-torch", "--help"), ["--scaling", "--range"]),
    ],
)
def test_help_is_no_error(ahmf, args, said):
    ended = ahmf(*args)
    assert ended.code == 0 and ended.err == ""
    assert not [word for word in said if word not in ended.out]


def test_help_waits_for_nothing_heavy():
    script = (
        "import sys\nfrom experiments.cli import main\n"
        "try:\n    main(['train', 'demo', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'jax', 'flax', 'torch', 'tensorflow_datasets', 'grain'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--hlep",), r"Unrecognized options: --hlep"),
        (("tran",), r"tran; Available subcommands: demo, data, train,.*see `ahmf --help`"),
        (("train",), r"give a configuration \(ahmf_paper_x4, .*or --resume RUN"),
        (("train", "demmo"), r"no configuration 'demmo'.*ahmf_short_x4"),
        (("train", "nowhere/mine.py"), r"no configuration 'nowhere/mine.py'"),
        (("train", "demo", "--stpes", "3"), r"--stpes.*Perhaps you meant: --steps"),
        # Of another command's options nothing is said, nor of what these are.
        (
            ("train", "--resume", "a", "--steps", "6"),
            r"^ahmf: Unrecognized options: --steps, 6; see `ahmf train --help`$",
        ),
        (
            ("train", "--resume", "a", "--worker", "6"),
            r"options: --worker, 6; Perhaps you meant: --workers; see `ahmf train --help`$",
        ),
        (("study", "show", "x", "--al"), r"^ahmf: .*: --al; Perhaps you meant: --all; see `ahmf study show --help`$"),
        (("convert", "to-torch", "a", "b", "--combine", "sum"), r"--combine, sum; see `ahmf convert to-torch --help`$"),
        (("evaluate", "w", "--modell", "x"), r"; see `ahmf evaluate --help`$"),
        (("train", "demo", "--steps", "many"), r"--steps.*'many'"),
        (("train", "demo", "--steps", "-1"), r"^ahmf: --steps is -1: it must be positive$"),
        (("train", "demo", "--data.mix", ":test"), r"^ahmf: --data.mix has ':test': write NAME, NAME:SPLIT or"),
        (("train", "demo", "--model.num-levels", "0"), r"^ahmf: --model.num-levels is 0: it must be positive;"),
        (("train", "demo", "--data.degrade.dropouts", "3"), r"^ahmf: --data.degrade.dropouts is 3.0: it must be"),
        (("train", "demo", "--model.scale", "3"), r"'3'.*--model.scale.*'2', '4', '8'"),
        (("train", "demo", "--data.patch-size", "66"), r"--data.patch-size is 66.*scale, 4"),
        # A recipe whose model is changed: all that has to go with it, at once.
        (
            ("train", "dsdmsr_short_x8", "--model.unit", "srcnn", "--model.scale", "4", "--data.patch-size", "66"),
            r"^ahmf: --output-scale is 0.01, but .*: set it to 1 \(--output-scale 1\); --stage-weights is .* makes 2 "
            r"stages: give .* \(--stage-weights 1 1\); --data.patch-size is 66: .* multiple of the scale, 4$",
        ),
        (("train", "dsdmsr_short_x8", "--model.scale", "16"), r"\(--stage-weights 1 1 1 1\)$"),
        (("train", "--out", "x", "demo"), r"name the configuration first"),
        (("train", "--steps", "3", "demo"), r"name the configuration first"),
        (("upsample",), r"--out.*required"),
        (("upsample", "w", "--guide", "a", "--out", "b"), r"--depth and --guide are needed"),
        (("upsample", "w", "--depth", "a", "--guide", "b"), r"upsample: --out"),
        (("evaluate", "w"), r"--dataset"),
        (("evaluate", "w", "--dataset", "scenes", "--protocol", "b7"), r"'b7'.*--protocol.*'ahmf_table1'"),
        (("evaluate", "w", "--dataset", "nowhere"), r"'nowhere' is neither a data set \(.*middlebury.* nor a"),
        (("data",), r"prepare, list, show"),
        (("study", "worker", "--study", "s", "--most", "0"), r"^ahmf: --most 0: give at least 1; see"),
        (("data", "look"), r"look.*prepare, list, show"),
        (("convert", "from-torch", "a.pth"), r"from-torch: PATH The .safetensors file to write"),
    ],
)
def test_usage_errors_are_one_line(refused, args, said):
    line = refused(*args, said=said)
    assert not re.search(r"[\u2500-\u257f]|---|  ", line)


@pytest.mark.parametrize(
    ("given", "splits"),
    [
        ((), ("train+train_2003", "validation")),
        (("--data.dataset", "middlebury"), ("train+train_2003", "validation")),
        (("--data.dataset", "mine"), ("train", "validation")),
        (("--data.dataset", "mine", "--data.train", "train+train_2003"), ("train+train_2003", "validation")),
        (("--data.validation", "train[90%:]", "--data.dataset", "mine"), ("train", "train[90%:]")),
    ],
)
def test_the_splits_of_a_recipe_are_its_data_sets(given, splits):
    """And `mine` need not have a train_2003."""
    data = parse(["train", "ahmf_short_x4", *given]).config.data
    assert (data.train, data.validation) == splits
    assert data.dataset == ("mine" if "mine" in given else "middlebury") and data.edge_candidates == 8


def test_a_reader_that_stops_early_is_no_error():
    script = "import sys; from experiments.cli import main; main(['data', 'list'])"
    done = subprocess.run(
        f'{sys.executable} -c "{script}" | head -c 1', shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("s", "")


DEPTH = np.arange(1, 49, dtype=np.uint8).reshape(6, 8)


@pytest.fixture
def place(tmp_path):
    """A folder with good input, and an output of an earlier time that must stay as it is."""
    write_depth(tmp_path / "depth.png", DEPTH)
    write_picture(tmp_path / "guide.png", np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    write_depth(tmp_path / "out.png", DEPTH)
    return tmp_path


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-30])


def spoil(path, value):
    depth = DEPTH.astype(np.float32)
    depth[2, 3] = value
    np.save(path, depth)


# What is changed in the folder and in the command, and what the line says.
BAD = {
    "no depth": (lambda p: (p / "depth.png").unlink(), {}, r"depth.png: (does not exist|is missing|there is no)"),
    "no guide": (lambda p: (p / "guide.png").unlink(), {}, r"guide.png: (does not exist|is missing|there is no)"),
    "depth is a folder": (None, {"--depth": "."}, r" is a folder and .*guide.png is none"),
    "depth of another kind": (
        lambda p: (p / "d.gif").touch(),
        {"--depth": "d.gif"},
        r"d.gif: .*\.png, \.npy, \.pfm, .* or \.exr",
    ),
    "empty": (lambda p: (p / "depth.png").write_bytes(b""), {}, r"depth.png: is empty"),
    "truncated depth": (lambda p: cut_short(p / "depth.png"), {}, r"depth.png: .*cut short"),
    "truncated guide": (lambda p: cut_short(p / "guide.png"), {}, r"guide.png: .*cut short"),
    "no picture": (lambda p: (p / "guide.png").write_text("no picture"), {}, r"guide.png: is no readable .png"),
    "colour as depth": (None, {"--depth": "guide.png"}, r"guide.png: holds colours, not depth"),
    "wrong dtype": (
        lambda p: np.save(p / "d.npy", DEPTH.astype(np.int32)),
        {"--depth": "d.npy"},
        r"d.npy: holds int32, not uint8",
    ),
    "objects": (
        lambda p: np.save(p / "d.npy", np.array([[None]]), allow_pickle=True),
        {"--depth": "d.npy"},
        r"d.npy: holds object",
    ),
    "three dimensions": (
        lambda p: np.save(p / "d.npy", DEPTH[None]),
        {"--depth": "d.npy"},
        r"d.npy: has shape \(1, 6, 8\)",
    ),
    "guide of another size": (
        lambda p: Image.new("RGB", (32, 20)).save(p / "guide.png"),
        {},
        r"guide is 32 x 20 pixels and the depth 8 x 6: at x4 the guide must be 32 x 24; crop or resample",
    ),
    "all holes": (
        lambda p: write_depth(p / "depth.png", 0 * DEPTH),
        {"--invalid": "0"},
        r"depth.png.*every sample of the depth is 0",
    ),
    "not a number": (lambda p: spoil(p / "d.npy", np.nan), {"--depth": "d.npy", "--out": "o.npy"}, r"d.npy.*1 samples"),
    "infinite": (lambda p: spoil(p / "d.npy", np.inf), {"--depth": "d.npy", "--out": "o.npy"}, r"d.npy.*infinite"),
    "infinite beside holes": (
        lambda p: spoil(p / "d.npy", np.inf),
        {"--depth": "d.npy", "--out": "o.npy", "--invalid": "nan"},
        r"d.npy.*infinite",
    ),
    "beyond the range": (None, {"--range": "20"}, r"reaches 48, beyond the model's range of 20.*--range"),
    "range": (None, {"--range": "-1"}, r"range is -1"),
    "invalid value of another dtype": (None, {"--invalid": "-1"}, r"-1.*0 to 255"),
    "too many pixels": (None, {"--max-pixels": "767"}, r"guide.png: claims 24 x 32 pixels, and the limit is 767"),
    "no folder": (None, {"--out": "nowhere/out.png"}, r"out.png: there is no folder"),
    "a file as the folder": (None, {"--out": "depth.png/out.png"}, r"out.png: there is no folder"),
    "out is a folder": (lambda p: (p / "sub.png").mkdir(), {"--out": "sub.png"}, r"sub.png: is a folder"),
    "out cannot hold it": (None, {"--out": "out.pfm"}, r"out.pfm: the result is uint8 as .*\.png, \.npy"),
    "out of another kind": (None, {"--out": "out.jpg"}, r"out.jpg: .*\.png, \.npy"),
    "picture of another kind": (None, {"--picture": "side.jpg"}, r"side.jpg: a picture is written as .png"),
    "no folder for the picture": (None, {"--picture": "nowhere/side.png"}, r"side.png: there is no folder"),
    "over the depth": (None, {"--out": "depth.png"}, r"depth.png: is named twice"),
    "picture over the result": (None, {"--picture": "out.png"}, r"out.png: is named twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_leaves_nothing(refused, place, bundle, contents, case):
    prepare, changed, said = BAD[case]
    if prepare is not None:
        prepare(place)
    before = contents(place)
    options = {"--depth": "depth.png", "--guide": "guide.png", "--out": "out.png", **changed}
    files = {"--depth", "--guide", "--out", "--picture"}
    given = [x for name, value in options.items() for x in (name, place / value if name in files else value)]
    refused("upsample", bundle, *given, said=said)
    assert contents(place) == before


def test_bad_weights(refused, place, bundle, contents):
    (place / "text.safetensors").write_text("no weights")
    whole = bundle.read_bytes()
    (place / "short.safetensors").write_bytes(whole[:-100])
    (place / "weights.pth").write_bytes(b"x")
    (place / "folder").mkdir()
    shutil.copy(bundle.parent / "torch.safetensors", place / "torch.safetensors")
    before = contents(place)
    for name, said in (
        ("nothing.safetensors", r"nothing.safetensors does not exist"),
        ("nothing", r"nothing does not exist: give a run's folder or"),
        ("text.safetensors", r"text.safetensors is not a readable safetensors file"),
        ("short.safetensors", r"short.safetensors is not a readable safetensors file"),
        ("torch.safetensors", r"torch.safetensors is a safetensors file, but .*`ahmf convert from-torch`"),
        ("weights.pth", r"weights.pth is neither .*`ahmf convert from-torch`"),
        ("folder", r"folder is not a training run \(it has no config.json\)"),
    ):
        files = ("--depth", place / "depth.png", "--guide", place / "guide.png", "--out", place / "out.png")
        refused("upsample", place / name, *files, said=said)
    assert contents(place) == before


def test_a_run_whose_weights_are_of_another_model(refused, run, place, data_dir):
    other = place / "run"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config["train"]["model"]["num_levels"] = config["trained"]["model"]["num_levels"] = 2
    config["train"]["steps"] = 8
    (other / "config.json").write_text(json.dumps(config))
    said = rf"{other} does not hold the weights of .*'num_levels': 2.*reconstruction/reduce/kernel is \(1, 1, 2, 2\)"
    files = ("--depth", place / "depth.png", "--guide", place / "guide.png", "--out", place / "new.png")
    refused("upsample", other, *files, said=said)
    refused("evaluate", other, "--dataset", "scenes", "--data-dir", data_dir, "--protocol", "float", said=said)
    refused("convert", "to-torch", other, place / "new.safetensors", said=said)
    ended = refused_after_the_bar(refused, other, data_dir)
    assert "of another network or optimiser" in ended
    assert not list(place.glob("new.*"))


def refused_after_the_bar(refused, run, data_dir):
    return refused("train", "--resume", run, "--data-dir", data_dir, said=str(run))


def test_a_damaged_run(refused, run, place):
    files = ("--depth", place / "depth.png", "--guide", place / "guide.png", "--out", place / "new.png")
    for name, text, said in (
        ("config.json", "{", r"config.json is not valid JSON"),
        ("config.json", "{}", r"config.json is damaged"),
        ("checkpoints", None, r"checkpoints/\d+/.* has changed .*, and no other checkpoint of .* is whole"),
    ):
        other = place / name.replace(".", "-")
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(run, other)
        if text is not None:
            (other / name).write_text(text)
        else:
            for file in (other / name).glob("*/state/params.*.kernel/0.*"):
                file.write_bytes(file.read_bytes()[:-1] + b"x")
        refused("upsample", other, *files, said=said)
    assert not (place / "new.png").exists()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pth_with_more_than_tensors_is_refused_and_not_run(refused, tmp_path):
    torch = pytest.importorskip("torch")
    trap = tmp_path / "sprung"
    torch.save({"state": {"module.a": torch.zeros(1), "b": Trap(trap)}}, tmp_path / "zip.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"state": Trap(trap)}))
    (tmp_path / "none.pth").write_text("no weights")
    before = sorted(tmp_path.iterdir())
    for name in ("zip.pth", "old.pth", "none.pth", "nowhere.pth"):
        refused("convert", "from-torch", tmp_path / name, tmp_path / "out.safetensors", said=name)
    assert sorted(tmp_path.iterdir()) == before and not trap.exists()
