"""Data sets by what a user calls them, and the commands that prepare and list them."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from experiments.config import PairsConfig
from experiments.data import open_named


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


def test_prepare_and_list(ahmf, monkeypatch, tmp_path):
    options = {"height": 16, "width": 16, "train": 1, "validation": 1, "test": 1}
    monkeypatch.setattr(datasets.builder_class("scenes"), "OPTIONS", options | {"seed": 0})
    before = ahmf("data", "list", "--data-dir", tmp_path)
    assert before.out.startswith("scenes (not prepared): depth in m, range 10; ")
    ended = ahmf("data", "prepare", "scenes", "--data-dir", tmp_path)
    assert (ended.code, ended.out) == (0, "scenes: 1 train, 1 validation, 1 test\n"), ended.err
    after = ahmf("data", "list", "--data-dir", tmp_path)
    assert after.code == 0 and after.out.startswith("scenes (prepared)")
    assert [line.split(" (")[0] for line in after.out.splitlines()] == list(datasets.DATASETS)


def test_the_place_can_come_from_the_environment(ahmf, monkeypatch, data_dir):
    monkeypatch.setenv("AHMF_DATA_DIR", str(data_dir))
    assert ahmf("data", "list").out.startswith("scenes (prepared)")


def test_preparing_wrongly_leaves_nothing(refused, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    refused("data", "prepare", "scene", *place, said=r"'scene' is not known: choose one of scenes, middlebury")
    refused("data", "prepare", "middlebury", *place, said=r"--from DIR")
    refused("data", "prepare", "middlebury", "--from", tmp_path / "no", *place, said=r"no.*: ")
    refused("data", "prepare", "scenes", "--from", tmp_path, *place, said=r"scenes is generated and reads no files")
    (tmp_path / "file").touch()
    refused("data", "prepare", "scenes", "--data-dir", tmp_path / "file", said=r"file: cannot be written")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())
