"""A folder of pairs: values and names as stored, and every way in which a folder can be wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_pairs
from data_pipelines.loader import whole_example

RNG = np.random.default_rng(4)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "test10"


def write(folder, name, size=(6, 9), guide_size=None, depth="{}_depth.png", guide="{}_rgb.png"):
    values = RNG.integers(1, 256, size, np.uint8)
    colours = RNG.integers(0, 256, (*(guide_size or size), 3), np.uint8)
    for pattern, array in ((depth, values), (guide, colours)):
        path = folder / pattern.format(name)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(array).save(path)
    return values, colours


def test_pairs_come_as_stored_and_sorted(tmp_path):
    wanted = {name: write(tmp_path, name) for name in ("b", "a", "c_depth")}
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a_depth.png").write_bytes(b"what macOS leaves")
    dataset = open_pairs(tmp_path)
    assert dataset.names == ("a", "b", "c_depth") and len(dataset) == 3
    for example in dataset:
        depth, guide = wanted[example.name]
        np.testing.assert_array_equal(example.depth, depth)
        np.testing.assert_array_equal(example.guide, guide)
        assert example.depth.dtype == np.float32 and example.guide.dtype == np.uint8 and example.mask.all()
    assert (dataset.info.unit, dataset.info.range, dataset.info.invalid) == ("grey level", 255.0, None)
    assert pickle.loads(pickle.dumps(dataset))[1].name == "b"


def test_names_choose_and_order(tmp_path):
    for name in "abc":
        write(tmp_path, name)
    (tmp_path / "lonely_rgb.png").touch()  # of no account where it is not asked for
    assert [example.name for example in open_pairs(tmp_path, names=["c", "a"])] == ["c", "a"]


def test_patterns_may_name_folders(tmp_path):
    depth, _ = write(tmp_path, "x", depth="depth/{}.png", guide="colour/left-{}.jpg")
    dataset = open_pairs(tmp_path, depth="depth/*.png", guide="colour/left-*.jpg")
    assert dataset.names == ("x",)
    np.testing.assert_array_equal(dataset[0].depth, depth)


def test_units_travel_and_invalid_becomes_the_mask(tmp_path):
    guide = np.zeros((2, 3, 3), np.uint8)
    stored = np.array([[5000, 0, 1000], [0, 0, 65535]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "a_depth.png")
    Image.fromarray(guide).save(tmp_path / "a_rgb.png")
    dataset = open_pairs(tmp_path, unit="mm", range=10000.0, invalid=0)
    assert (dataset.info.unit, dataset.info.range) == ("mm", 10000.0)
    np.testing.assert_array_equal(dataset[0].mask, stored > 0)
    np.testing.assert_array_equal(dataset[0].depth[stored > 0], [5000, 1000, 65535])
    assert np.isin(dataset[0].depth, [5000, 1000, 65535]).all()
    assert open_pairs(tmp_path, invalid=0, fill="background")[0].depth[0, 1] == 1000


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: is not a folder"):
        open_pairs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no file is called"):
        open_pairs(tmp_path)
    write(tmp_path, "a")
    for pattern in ("depth.png", "*_*.png", "*/depth.png"):
        with pytest.raises(InputError, match=r"write exactly one \*"):
            open_pairs(tmp_path, depth=pattern)
    with pytest.raises(InputError, match=r"deep: is not a folder"):
        open_pairs(tmp_path, depth="deep/*.png")
    with pytest.raises(InputError, match=r"zebra_depth.png: is missing"):
        open_pairs(tmp_path, names=["zebra"])
    with pytest.raises(InputError, match="range 0"):
        open_pairs(tmp_path, range=0)
    (tmp_path / "b_depth.png").touch()
    with pytest.raises(InputError, match=r"b_rgb.png: is missing: pair 'b' has no guide"):
        open_pairs(tmp_path)


def test_sizes_that_differ_are_both_named(tmp_path):
    write(tmp_path, "a", (6, 9), (12, 18))
    with pytest.raises(InputError, match=r"a: the depth is 6 x 9 and the guide 12 x 18"):
        open_pairs(tmp_path)[0]


def test_nothing_known_and_a_damaged_file_are_named(tmp_path):
    write(tmp_path, "a")
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "a_depth.png")
    with pytest.raises(InputError, match=r"a: the depth map has no known sample"):
        open_pairs(tmp_path, invalid=0)[0]
    file = tmp_path / "a_rgb.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a_rgb.png: "):
        open_pairs(tmp_path)[0]


def test_the_evaluation_images():
    if not SHARED.is_dir():
        pytest.skip("the ten evaluation images (../shared/data/test10) are not on this machine")
    dataset = open_pairs(SHARED)
    assert len(dataset) == 10 and dataset.names[:2] == ("art", "books")
    assert dataset[0].depth.shape == (1080, 1320) and dataset[0].mask.all()
    # The bicubic floor of the AHMF protocol: MATLAB bicubic down and up, rounded to grey levels, no border left out.
    for name, floor in (("art", 0.973), ("books", 0.291)):
        batch = whole_example(dataset[dataset.names.index(name)], dataset.info, scale=4, kernel="matlab_bicubic")
        upsampled = resample.resize(batch["depth_lr"], (1080, 1320), "matlab_bicubic")
        error = np.round(np.clip(upsampled, 0, 1) * 255) - batch["depth_hr"] * 255
        assert abs(np.abs(error).mean() - floor) < 0.0015
