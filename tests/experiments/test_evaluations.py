"""The record of an evaluation: what is written is what is read, and what is damaged is said to be."""

import json
import math

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
    with pytest.raises(InputError, match=r"mine is there already and is no evaluation: choose another folder"):
        evaluations.write(evaluation, tmp_path / "mine", {})

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


@pytest.mark.parametrize("change", [{"format": 99}, {"images": [{}]}, {"mean": 3}, {"scalee": 4}, {"metrics": None}])
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
    for name, array in (("prediction", np.zeros((2, 2), np.float32)), ("mask_lr", np.full((2, 3), 0.5))):
        evaluations.save_image(path, {**arrays, name: array})
        with pytest.raises(InputError, match=rf"0000.npz: {name} is float\d+ of shape"):
            evaluations.read_image(path)
    with pytest.raises(InputError, match=r"0001.npz does not exist"):
        evaluations.read_image(path.with_name("0001.npz"))
