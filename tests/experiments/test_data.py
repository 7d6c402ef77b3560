"""Data sets by what a user calls them, and the commands that prepare and list them."""

import dataclasses
import mmap

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from experiments.config import DataConfig, PairsConfig
from experiments.data import open_named, open_training


@pytest.fixture
def folder(tmp_path):
    for place, value in ((tmp_path, 1), (tmp_path / "train", 2)):
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 5), value, np.uint8)).save(place / "x_depth.png")
        Image.new("RGB", (5, 4)).save(place / "x_rgb.png")
    return tmp_path


def test_a_prepared_set_by_name(data_dir):
    assert open_named("scenes", "validation", data_dir).names == ("validation-00000",)
    assert len(open_named("scenes", "train+test", data_dir)) == 5


def test_a_folder_and_the_folder_in_it(folder):
    assert open_named(str(folder), "train")[0].depth.max() == 2
    assert open_named(str(folder), "validation")[0].depth.max() == 1  # there is none: the folder itself
    info = open_named(str(folder), "test", pairs=PairsConfig(unit="mm", range=10.0, invalid=3.0)).info
    assert (info.unit, info.range, info.invalid) == ("mm", 10.0, 3.0)


def test_only_training_generates(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "prepare", lambda *args, **kwargs: asked.append(args))
    with pytest.raises(InputError, match="ahmf data prepare scenes"):
        open_named("scenes", "test", tmp_path)
    assert not asked
    with pytest.raises(InputError):
        open_named("scenes", "test", tmp_path, prepare=True)
    assert asked == [("scenes", tmp_path)]
    with pytest.raises(InputError, match="ahmf data prepare middlebury --from DIR"):
        open_named("middlebury", "test", tmp_path, prepare=True)
    assert len(asked) == 1


def test_what_is_prepared_under_another_name_is_found_by_it(ahmf, tmp_path):
    size = ("--height", 16, "--width", 20, "--train", 2, "--validation", 1, "--test", 1)
    ended = ahmf("data", "prepare", "scenes", *size, "--name", "small", "--data-dir", tmp_path)
    assert ended.code == 0 and ended.out.startswith("small: 2 train, 1 validation, 1 test"), ended
    assert open_named("small", "train", tmp_path)[1].depth.shape == (16, 20)
    with pytest.raises(InputError, match=r"'smal' is neither a data set .*small.* nor a folder"):
        open_named("smal", "train", tmp_path)


def test_what_is_trained_on_is_kept_where_the_configuration_says(data_dir, folder):
    config = DataConfig(dataset="scenes", mix=("scenes:test[:1]=2", f"{folder}:train"))
    (scenes, one), (test, two), (pairs, _) = open_training(config, data_dir)
    assert (len(scenes), one, len(test), two, len(pairs)) == (3, 1.0, 1, 2.0, 1)
    for dataset, name in ((scenes, "train-000001"), (test, "test-000000")):
        image = dataset[len(dataset) // 2]
        assert isinstance(image.depth.base, mmap.mmap)
        assert len(list((data_dir / "scenes").glob(f"*/decoded/{name}.safetensors"))) == 1
    before = len(list(folder.rglob("*")))
    assert pairs[0].depth.max() == 2 and len(list(folder.rglob("*"))) == before  # nothing among the user's files
    in_memory, *_ = open_training(dataclasses.replace(config, cache="memory"), data_dir)
    np.testing.assert_array_equal(in_memory[0][1].depth, scenes[1].depth)
    assert not isinstance(in_memory[0][1].depth.base, mmap.mmap)


def test_the_place_can_come_from_the_environment(ahmf, monkeypatch, data_dir):
    monkeypatch.setenv("AHMF_DATA_DIR", str(data_dir))
    assert ahmf("data", "list").out.startswith("scenes (prepared)")


def test_preparing_wrongly_leaves_nothing(refused, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    refused("data", "prepare", "scene", *place, said=r"'scene' is not known: choose one of scenes, middlebury")
    refused("data", "prepare", "middlebury", "--from", tmp_path / "no", *place, said=r"no.*: ")
    refused("data", "prepare", "scenes", "--from", tmp_path, *place, said=r"scenes is generated and reads no files")
    (tmp_path / "file").touch()
    refused("data", "prepare", "scenes", "--data-dir", tmp_path / "file", said=r"file: cannot be written")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())
