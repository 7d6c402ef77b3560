"""Data sets by what a user calls them, and the commands that prepare and list them."""

import dataclasses
import mmap

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import splits
from experiments.config import DataConfig, PairsConfig
from experiments.data import (
    default_split,
    open_named,
    open_training,
    open_validation,
    published,
    trained_on_tests,
)
from experiments.doctor_floors import at_hand


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
    with pytest.raises(InputError, match=r"--pairs.names: scenes is a prepared data set, .* folder .*, as ./scenes$"):
        open_named("scenes", "test", data_dir, PairsConfig(names=("a",)))
    with pytest.raises(
        InputError, match=r"--pairs.unit: scenes is a prepared data set, .* name a folder with --dataset$"
    ):
        at_hand("scenes", data_dir, PairsConfig(unit="mm"))
    # Of a training, which may have a folder beside it.
    assert open_named("scenes", "validation", data_dir, PairsConfig(names=("a",)), training=True).names


def test_a_folder_and_the_folder_in_it(folder):
    assert open_named(str(folder), "train")[0].depth.max() == 2
    assert open_named(str(folder), "")[0].depth.max() == 1
    info = open_named(str(folder), "train", pairs=PairsConfig(unit="mm", range=10.0, invalid=3.0)).info
    assert (info.unit, info.range, info.invalid) == ("mm", 10.0, 3.0)


def test_a_folder_without_colour(folder):
    dataset = open_named(str(folder), "train", pairs=PairsConfig(guide=""))
    assert not dataset.info.colour and dataset[0].guide.shape == (4, 5, 0) and dataset[0].depth.max() == 2
    both = open_named(str(folder), "train+train", pairs=PairsConfig(guide=""))
    assert not both.info.colour and both[0].guide.shape == (4, 5, 0)
    for file in folder.rglob("*_rgb.png"):
        file.unlink()
    with pytest.raises(
        InputError, match=r"no file is called \*_rgb.png, .* say with --pairs.guide how the .* \(--pairs.guide '' where"
    ):
        open_named(str(folder), "train")
    with pytest.raises(
        InputError, match=r"with --data.pairs.guide how .* \(--data.pairs.guide '' where there is none\)$"
    ):
        open_named(str(folder), "train", training=True)


def test_depth_that_a_folders_range_does_not_hold(folder):
    add_pair(folder / "more", 3)
    for split in ("more", "train+more"):
        for training, options in ((False, "--pairs."), (True, "--data.pairs.")):
            dataset = open_named(str(folder), split, pairs=PairsConfig(range=2.5), training=training)
            said = (
                rf"more/x_depth.png: 100.0% .* the range, up to 3: .*small\? Give {options}range and {options}unit, or"
            )
            for one in (dataset, dataset.without_colour()):
                with pytest.raises(InputError, match=said):
                    list(one)
    assert open_named(str(folder), "more", pairs=PairsConfig(range=3.0))[0].depth.max() == 3


def add_pair(place, value, name="x"):
    place.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(place / f"{name}_depth.png")
    Image.new("RGB", (5, 4)).save(place / f"{name}_rgb.png")


def test_folders_in_a_folder_are_joined(folder):
    add_pair(folder / "more", 3)
    both = open_named(str(folder), "more+train", pairs=PairsConfig(unit="mm", range=7.0))
    assert both.names == ("more/x", "train/x") and [e.name for e in both] == ["more/x", "train/x"]
    assert (both.info.name, both.info.unit, both.info.range) == (folder.name, "mm", 7)
    assert [e.depth.max() for e in both] == [3, 2]
    with pytest.raises(InputError, match=r"there is no folder 'extra' in it \(its folders: more, train\): name one"):
        open_named(str(folder), "train+extra")


def test_a_folder_that_is_not_divided_trains_on_nothing(folder):
    """It would be validated on the images that it is trained on."""
    for split in ("validation", "train+validation", "train[:90%]", "train+"):
        with pytest.raises(
            InputError, match=r"its folders: train\): make folders train and validation .*--from"
        ) as said:
            open_named(str(folder), split, training=True)
    assert f"--from {folder} --name mine" in str(said.value) and "--data.validation 'train[90%:]'" in str(said.value)


def test_what_is_measured_by_default(folder, data_dir):
    assert default_split("scenes", data_dir) == "test" and default_split(str(folder), data_dir) == ""
    add_pair(folder / "test", 3)
    assert default_split(str(folder), data_dir) == "test"


def validated(config, data_dir):
    return open_validation(config, [dataset for dataset, _ in open_training(config, data_dir)], data_dir)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"train": "train+validation"},
            r"1 of the 1 images to validate on .*first is scenes: validation-00000: choose",
        ),
        ({"validation": "validation+train[1:]"}, r"2 of the 3 images .*first is scenes: train-00001: choose"),
        ({"mix": ("scenes:validation=2",)}, r"1 of the 1 images .*first is scenes: validation-00000"),
    ],
)
def test_no_image_is_trained_and_validated_on(data_dir, changed, said):
    config = DataConfig(dataset="scenes", train="train", validation="validation")
    assert validated(config, data_dir).names == ("validation-00000",)
    assert len(validated(dataclasses.replace(config, train="train[:2]", validation="train[2:]"), data_dir)) == 1
    with pytest.raises(InputError, match=said):
        validated(dataclasses.replace(config, **changed), data_dir)


def test_no_file_is_trained_and_validated_on(folder, data_dir):
    add_pair(folder / "validation", 3)
    config = DataConfig(dataset=str(folder))
    assert validated(config, data_dir)[0].depth.max() == 3  # of the same name as one in train
    both = dataclasses.replace(config, train="train+validation")
    with pytest.raises(InputError, match=rf"1 of the 1 images .*{folder}/validation/x: choose"):
        validated(both, data_dir)
    with pytest.raises(InputError, match=rf"1 of the 1 images .*{folder}/validation/x: choose"):
        validated(dataclasses.replace(config, mix=(f"{folder}:validation",)), data_dir)


def test_what_is_called_a_test_is_found_in_what_is_trained_on():
    mix = ("scenes:test", "sintel:train=2", "nyu_v2:dada/test[:3]=1", "lu:train+test_2001")
    found = trained_on_tests(DataConfig(dataset="scenes", train="train", mix=mix))
    assert found == ["scenes:test", "nyu_v2:dada/test[:3]", "lu:train+test_2001"]


def test_the_note_of_a_published_split(data_dir, monkeypatch):
    named = {
        "paper": splits.NamedSplits("paper", "a paper", {"test": ["test-00001"]}, note="At another size."),
        "bare": splits.NamedSplits("bare", "a paper", {"test": ["test-00000", "train-00000"]}),
    }
    monkeypatch.setattr(splits, "protocols", lambda builder: named)
    for split, said in (
        ("paper/test", ["note: At another size.", "images measured (height x width): 1 of 48 x 48; "]),
        ("bare/test", ["images measured (height x width): 2 of 48 x 48; "]),
        ("test", []),
    ):
        lines = list(published("scenes", split, open_named("scenes", split, data_dir), 48, data_dir))
        assert [line[: len(wanted)] for line, wanted in zip(lines, said, strict=True)] == said
        assert not said or lines[-1].endswith("the depth of 100.0% of the pixels is known")


def test_only_training_generates(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "prepare", lambda *args, **kwargs: asked.append(args))
    with pytest.raises(InputError, match="ahmf data prepare scenes"):
        open_named("scenes", "test", tmp_path)
    assert not asked
    with pytest.raises(InputError):
        open_named("scenes", "test", tmp_path, training=True)
    assert asked == [("scenes", tmp_path)]
    with pytest.raises(InputError, match="ahmf data prepare middlebury --from DIR"):
        open_named("middlebury", "test", tmp_path, training=True)
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
    assert "prepared as scenes: 3 train, 1 validation, 2 test" in ahmf("data", "list").out


def test_preparing_wrongly_leaves_nothing(refused, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    refused("data", "prepare", "scene", *place, said=r"'scene' is not known: choose one of scenes, middlebury")
    refused("data", "prepare", "middlebury", "--from", tmp_path / "no", *place, said=r"no.*: ")
    refused("data", "prepare", "scenes", "--from", tmp_path, *place, said=r"scenes is generated and reads no files")
    (tmp_path / "file").touch()
    refused("data", "prepare", "scenes", "--data-dir", tmp_path / "file", said=r"file: cannot be written")
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())
