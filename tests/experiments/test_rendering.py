"""The benchmark of rendered views: which views go together, the units of disparity, and numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import Dataset, DatasetInfo
from experiments import rendering
from experiments.methods import Interpolation


class Source:
    """Views in memory."""

    def __init__(self, views):
        self.names, self._views = list(views), list(views.values())

    def __len__(self):
        return len(self.names)

    def read(self, index):
        return *self._views[index], self.names[index]


INFO = DatasetInfo("mine", "grey level", 255.0, 0.0, "", "", "background")


def views(disparity=24, size=(8, 32), name="2005/ThirdSize/Art"):
    """A wall at `disparity` thirds of a pixel, and what a second camera sees of it, brighter by one level."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 200, (*size, 3)).astype(np.uint8)
    moved = np.roll(colour, -(disparity // 3), 1) + np.uint8(1)
    depth = np.full(size, disparity, np.uint8)
    return Dataset(INFO, Source({f"{name}/view1": (colour, depth), f"{name}/view5": (moved, depth)}))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("2005/ThirdSize/Art/view1", 1 / 3),
        ("2006/HalfSize/Aloe/view1", 1 / 2),
        ("2006/FullSize/Aloe/view5", 1),
        ("2003/quarter/cones/im2", 1 / 4),
        ("2001/full/venus/im2", 1 / 8),
        ("2014/full/Piano-perfect/im0", 1),
        ("2001/full/map/im0", None),
        ("2005/quarter/Art/view1", None),
        ("2020/full/Art/view1", None),
        ("art", None),
    ],
)
def test_pixels_of_a_value_by_the_name(name, pixels):
    assert rendering.pixels_per_value(name) == (None if pixels is None else pytest.approx(pixels))


def test_views_that_go_together():
    names = ["2005/ThirdSize/Art/view5", "2005/ThirdSize/Art/view1", "2005/ThirdSize/Books/view1"]
    names += ["2003/quarter/cones/im2", "2003/quarter/cones/im6"]
    dataset = Dataset(INFO, Source(dict.fromkeys(names)))
    assert rendering.find_pairs(dataset, "") == [("Art", 1, 0, pytest.approx(1 / 3)), ("cones", 3, 4, 0.25)]


def test_a_wall_by_hand():
    dataset = views()
    (pair,) = rendering.find_pairs(dataset, "")
    truth, ours = rendering.measure(dataset, pair, {"bicubic": Interpolation("matlab_bicubic", 4)})
    # Every pixel is off by the level by which the second camera's picture is brighter.
    assert truth.psnr == pytest.approx(20 * math.log10(255))
    assert (truth.method, truth.scene, truth.filled) == ("truth", "Art", 1.0)
    assert (ours.method, ours.filled) == ("bicubic", 1.0)
    assert ours.psnr == pytest.approx(truth.psnr, abs=0.01)


def test_a_wrong_disparity_costs():
    class Nearer:
        """Up-sampling that is three values, a pixel, too near."""

        scale = 4

        def batch(self, batch):
            return batch["depth_hr"] + np.float32(3 / 255)

    dataset = views()
    (pair,) = rendering.find_pairs(dataset, "")
    truth, ours = rendering.measure(dataset, pair, {"nearer": Nearer()})
    assert ours.psnr < 15 < truth.psnr
    assert ours.filled == pytest.approx(23 / 24)  # the wall ends a pixel further to the left


def test_the_truth_stands_beside_a_method_on_the_same_pixels():
    """A method that leaves out what is hard, as no disparity would render it, has the truth's PSNR without it."""

    class LeavesOut:
        scale = 4

        def batch(self, batch):
            disparity = batch["depth_hr"].copy()
            disparity[:, :, 16:] = np.nan
            return disparity

    dataset = views()
    dataset._source._views[1][0][:, 8:] = 255  # of the right view: what the right half of the left lands on
    (pair,) = rendering.find_pairs(dataset, "")
    truth, ours = rendering.measure(dataset, pair, {"leaves out": LeavesOut()})
    assert ours.filled == pytest.approx(8 / 24) and truth.truth == truth.psnr < 12
    # Above the truth's row, which is no bound, and as good as the truth on these pixels.
    assert ours.psnr == ours.truth == pytest.approx(20 * math.log10(255))


def test_unknown_truth_is_warped_by_no_method():
    """A hole of the truth in which a method sees something near: it must not land on anything."""

    class InTheHole:
        scale = 4

        def batch(self, batch):
            return np.where(batch["mask_hr"], batch["depth_hr"], np.float32(60 / 255))

    dataset = views()
    dataset._source._views[0][1][2:4, 20:24] = 0
    (pair,) = rendering.find_pairs(dataset, "")
    truth, ours = rendering.measure(dataset, pair, {"in the hole": InTheHole()})
    assert (ours.psnr, ours.filled) == (truth.psnr, 1.0)


def test_the_table():
    scenes = [
        rendering.Scene("truth", "Art", 30.0, 30.0, 1.0),
        rendering.Scene("ours", "Art", 25.0, 31.0, 0.9),
        rendering.Scene("truth", "Books", 40.0, 40.0, 1.0),
        rendering.Scene("ours", "Books", 35.5, 42.0, 0.8),
    ]
    assert rendering.table(scenes).splitlines() == [
        "         Art  Books   mean  truth there  filled",
        "truth  30.00  40.00  35.00        35.00  100.0%",
        "ours   25.00  35.50  30.25        36.50   85.0%",
    ]


def test_the_command(ahmf, monkeypatch, tmp_path):
    out = tmp_path / "r.json"
    monkeypatch.setattr(rendering, "open_named", lambda *_: views(size=(16, 32)))
    ended = ahmf("benchmark", "rendering", "bicubic", "guided_filter", "--scale", 8, "--split", "test", "--out", out)
    assert ended.code == 0, ended.err
    record = json.loads(out.read_text())
    assert list(record["methods"]) == ["bicubic", "guided_filter"] and record["scale"] == 8
    assert [scene["method"] for scene in record["scenes"]] == ["truth", "bicubic", "guided_filter"]
    assert record["scenes"][0]["psnr"] == pytest.approx(20 * math.log10(255))
    assert "x8, the right views of 1 scenes" in ended.out and "48.13" in ended.out


def test_wrong_input(refused, data_dir, tmp_path):
    command = ("benchmark", "rendering", "bicubic", "--scale", 4, "--data-dir", data_dir)
    refused(
        *command, "--dataset", "scenes", said="--dataset scenes --split test: is in m, and views are synthesised from"
    )
    refused(*command, "--dataset", "nothing", said="'nothing' is neither a data set")
    refused(*command, "--dataset", "middlebury", said="'middlebury' is not in .*: build it first")
    refused(*command, "--dataset", "scenes", "--out", tmp_path / "no" / "r.json", said="there is no folder")
    with pytest.raises(InputError, match=r"--dataset x: has no scene with a left and a right view and disparity of"):
        rendering.find_pairs(Dataset(INFO, Source(dict.fromkeys(["2005/ThirdSize/Art/view1", "b"]))), "--dataset x")


def test_views_of_two_sizes():
    dataset = views()
    dataset._source._views[1] = tuple(view[:, :-1] for view in dataset._source._views[1])
    (pair,) = rendering.find_pairs(dataset, "")
    with pytest.raises(InputError, match=r"Art/view1 and 2005/ThirdSize/Art/view5 have different sizes: prepare"):
        rendering.measure(dataset, pair, {"bicubic": Interpolation("matlab_bicubic", 4)})


def test_names_are_those_of_the_middlebury_set():
    assert {left for left in rendering.VIEWS} == {"view1", "im2", "im0"}
    assert datasets.builder_class("middlebury").INFO.unit == "grey level"
