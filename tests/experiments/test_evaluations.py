"""The record of an evaluation: what is written is what is read, and what is damaged is said to be."""

import dataclasses
import json
import math
import tracemalloc
import zipfile

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from experiments import evaluations
from experiments.evaluations import Evaluation, ImageNumbers


def numbers(name, **metrics):
    return ImageNumbers(name, metrics, {"mae": 2.0}, 4, 6)


@pytest.fixture
def evaluation():
    images = (
        numbers("a/1", mae=1.0, rmse=2.0, psnr=30.0),
        numbers("b", mae=0.0, rmse=0.0, psnr=math.inf, edge_mae=math.nan),
    )
    about = {"method": "ours", "weights": "runs/x", "origin": "step 1", "scale": 2, "dataset": "d", "split": "test"}
    how = {"unit": "m", "protocol": "float", "protocol_text": "LR by ...", "protocol_fields": {"border": 0}}
    return Evaluation(**about, **how, metrics=("mae",), images=images, mean=numbers("mean", mae=0.5), notes=("a note",))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    depth = {name: rng.random((4, 6), np.float32) for name in ("depth_hr", "prediction", "floor")}
    masks = {"mask_lr": np.ones((2, 3), bool), "mask_hr": rng.random((4, 6)) < 0.5}
    return {**depth, **masks, "depth_lr": rng.random((2, 3), np.float32), "guide": np.zeros((4, 6, 3), np.uint8)}


def test_there_and_back(evaluation, arrays, tmp_path):
    folder = tmp_path / "x"
    evaluations.write(evaluation, folder, {1: arrays})
    back = evaluations.read(folder)
    assert back.images[0] == evaluation.images[0] and back.images[1].metrics["psnr"] == math.inf
    assert math.isnan(back.images[1].metrics["edge_mae"])
    assert back.subject == evaluation.subject and back.notes == ("a note",) and back.folder == folder
    assert "Infinity" not in (folder / "evaluation.json").read_text()
    endless = dataclasses.replace(evaluation, mean=numbers("mean", psnr=math.inf, rmse=1.0, mae=-math.inf))
    evaluations.write(endless, folder, {})
    assert evaluations.read(folder).mean == endless.mean
    evaluations.write(evaluation, folder, {1: arrays})
    assert list(back.kept()) == ["b"]
    again = evaluations.read_image(back.kept()["b"])
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    with np.load(back.kept()["b"]) as file:  # any program can read it
        assert sorted(file) == sorted(arrays)


def test_an_earlier_record_is_replaced_and_nothing_else(evaluation, arrays, tmp_path):
    evaluations.write(evaluation, tmp_path / "x", {0: arrays, 1: arrays})
    evaluations.write(evaluation, tmp_path / "x", {0: arrays})
    assert len(evaluations.read(tmp_path / "x").kept()) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"mine is there already and is no evaluation, or holds more than one: choose"):
        evaluations.write(evaluation, tmp_path / "mine", {})
    (tmp_path / "x" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"x is there already .* holds more than one: choose another folder"):
        evaluations.write(evaluation, tmp_path / "x", {})
    (tmp_path / "x" / "notes.txt").unlink()

    def fails():
        with evaluations.new_record(tmp_path / "x"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "x"] and evaluations.read(tmp_path / "x").kept()


def test_those_of_a_run_are_found(evaluation, tmp_path):
    (tmp_path / "run" / "evaluations").mkdir(parents=True)
    for name in ("b", "a"):
        evaluations.write(evaluation, tmp_path / "run" / "evaluations" / name, {})
    (tmp_path / "run" / "evaluations" / "half").mkdir()
    assert [found.folder.name for found in evaluations.find(tmp_path / "run")] == ["a", "b"]
    assert [found.folder.name for found in evaluations.find(tmp_path / "run" / "evaluations" / "b")] == ["b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"empty holds no evaluation: `ahmf evaluate \S+empty --dataset ...` makes one"
    ):
        evaluations.find(tmp_path / "empty")
    with pytest.raises(InputError, match=r"nowhere holds no evaluation: check the name"):
        evaluations.find(tmp_path / "nowhere")


IMAGE = {"name": "a", "metrics": {}, "floor": {}, "height": 4, "width": 6}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"mean": 3},
        {"mean": None},
        {"scalee": 4},
        {"scale": "4"},
        {"scale": 0},
        {"scale": True},
        {"method": None},
        {"unit": 3},
        {"origin": ["x"]},
        {"protocol_fields": []},
        {"protocol_fields": {"border": "x"}},
        {"protocol_fields": {"border": -1}},
        {"made": [1]},
        {"notes": [1]},
        {"notes": "note"},
        {"pixels": 1},
        {"metrics": None},
        {"metrics": []},
        {"metrics": "mae"},
        {"metrics": ["nope"]},
        {"images": []},
        {"images": [{}]},
        {"images": [3]},
        {"images": {"a": 1}},
        {"images": [{**IMAGE, "name": None}]},
        {"images": [{**IMAGE, "height": 4.5}]},
        {"images": [{**IMAGE, "metrics": []}]},
        {"images": [{**IMAGE, "floor": {"mae": "much"}}]},
    ],
    ids=str,
)
def test_a_damaged_record(evaluation, tmp_path, change):
    evaluations.write(evaluation, tmp_path / "x", {})
    path = tmp_path / "x" / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"evaluation.json is damaged .*: evaluate again"):
        evaluations.read(tmp_path / "x")


def test_damaged_images(evaluation, arrays, tmp_path):
    evaluations.write(evaluation, tmp_path / "x", {0: arrays})
    path = tmp_path / "x" / "images" / "0000.npz"
    whole = path.read_bytes()
    for spoilt in (whole[:-30], whole[: len(whole) // 2], b"", whole[:200] + bytes(50) + whole[250:]):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"0000.npz cannot be read .*: evaluate again"):
            evaluations.read_image(path)
    for name, array in (
        ("prediction", np.zeros((2, 2), np.float32)),
        ("mask_lr", np.full((2, 3), 0.5)),
        ("floor", np.full((4, 6), 0.5, np.longdouble)),
        ("guide", np.full((4, 6, 4), 1, np.uint8)),
    ):
        evaluations.save_image(path, {**arrays, name: array})
        with pytest.raises(InputError, match=rf"0000.npz: {name} is \w+ of shape"):
            evaluations.read_image(path)
    evaluations.save_image(path, arrays)
    with pytest.raises(InputError, match=r"depth_hr is of shape \(4, 6\), and the record says \(6, 4\)"):
        evaluations.read_image(path, (6, 4))
    with pytest.raises(InputError, match=r"0001.npz does not exist"):
        evaluations.read_image(path.with_name("0001.npz"))


@pytest.mark.parametrize("bombs", [evaluations.ARRAYS, ["depth_lr", "mask_lr"], ["guide"]], ids=["all", "low", "guide"])
def test_an_image_is_measured_before_it_is_unpacked(arrays, tmp_path, bombs):
    """A file of some KB says that it unpacks to gigabytes; nothing of it is read."""
    path = tmp_path / "0000.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as member:
                if name in bombs:
                    shape = (2**16, 2**16, 3)[: array.ndim]
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                else:
                    np.lib.format.write_array(member, array)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"has 4294967296 pixels|(depth_lr|guide) is \w+ of shape \(65536, 65536"):
            evaluations.read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_of_gigabytes_is_not_read(arrays, tmp_path):
    path = tmp_path / "0000.npz"
    evaluations.save_image(path, arrays)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("guide.npy", b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"))
    with pytest.raises(
        InputError, match=r"cannot be read \(guide has version \(2, 0\) of the format\): evaluate again"
    ):
        evaluations.read_image(path)


def test_images_of_several_evaluations_are_the_same_image(evaluation, arrays, tmp_path):
    for name, guide in (("x", 0), ("y", 0), ("z", 1)):
        evaluations.write(evaluation, tmp_path / name, {0: {**arrays, "guide": arrays["guide"] + np.uint8(guide)}})
    x, y, z = (evaluations.read(tmp_path / name) for name in "xyz")
    assert len(evaluations.read_images([x, y], "a/1")) == 2
    with pytest.raises(InputError, match=r"z: its image a/1 is another than that of \S*x: evaluate both on the same"):
        evaluations.read_images([x, y, z], "a/1")
    with pytest.raises(InputError, match=r"x: has not kept b, but a/1: evaluate again with --keep -1"):
        evaluations.read_images([x], "b")
