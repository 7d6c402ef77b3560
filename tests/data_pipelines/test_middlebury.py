"""Middlebury: what is prepared is what the files hold, test scenes stay out of training, nothing half-done is left."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.datasets import builder_class, open_dataset, prepare
from data_pipelines.datasets.middlebury import builder as middlebury
from data_pipelines.files import read_guide

SHARED = Path(__file__).parents[3] / "shared" / "data" / "middlebury"
TEST = ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer")


def scene(folder, year, size=(10, 14)):
    rng = np.random.default_rng(len(str(folder)) + sum(folder.name.encode()))
    folder.mkdir(parents=True)
    for view, disp in middlebury.VIEWS[year]:
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{view}.png")
        disparity = rng.integers(1, 256, size, np.uint8)
        disparity[3:5, 2:6] = 0
        Image.fromarray(disparity).save(folder / f"{disp}.png")


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "download"
    for year, size, names in (
        ("2003", "quarter", ("cones", "teddy")),
        ("2005", "ThirdSize", TEST),
        ("2006", "HalfSize", ("Aloe", "Baby2", "Flowerpots", "Midd1")),
    ):
        for name in names:
            scene(root / year / size / name, year)
    grey = root / "2006/HalfSize/Midd1/disp1.png"  # as in the real download
    Image.open(grey).convert("RGBA").save(grey)
    return root


def test_every_view_comes_back_as_stored(download, tmp_path):
    data = tmp_path / "data"
    counts = prepare("middlebury", data, download)
    assert counts == {"train": 4, "validation": 4, "train_2003": 4, "test": 12}
    assert [path.name for path in data.iterdir()] == ["middlebury"]
    for split, count in counts.items():
        dataset = open_dataset("middlebury", split, data)
        assert len(dataset) == count == len(set(dataset.names))
        for example, name in zip(dataset, dataset.names, strict=True):
            assert example.name == name
            folder, view = (download / name).parent, Path(name).name
            disp = dict(middlebury.VIEWS[name[:4]])[view]
            stored = np.array(Image.open(folder / f"{disp}.png").convert("L"))
            np.testing.assert_array_equal(example.guide, read_guide(folder / f"{view}.png"))
            np.testing.assert_array_equal(example.mask, stored > 0)
            np.testing.assert_array_equal(example.depth[example.mask], stored[stored > 0])
            # A hole beside objects is background: the smaller neighbour of the row.
            np.testing.assert_array_equal(example.depth[3, 2:6], min(stored[3, 1], stored[3, 6]))
    assert open_dataset("middlebury", "train", data).names[0] == "2006/HalfSize/Aloe/view1"
    assert len(open_dataset("middlebury", "train+validation[:1]", data)) == 5


def test_reading_in_threads_and_elsewhere(download, tmp_path):
    prepare("middlebury", tmp_path, download)
    dataset = open_dataset("middlebury", "test", tmp_path, cache_bytes=0)
    alone = [example.depth for example in dataset]
    with ThreadPoolExecutor(8) as threads:
        for i, depth in enumerate(threads.map(lambda i: dataset[i % 12].depth, range(96))):
            np.testing.assert_array_equal(depth, alone[i % 12])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[3].depth, alone[3])


@pytest.mark.parametrize("place", ["2006/HalfSize/Art", "2006/HalfSize/art", "2003/quarter/Moebius"])
def test_a_test_scene_in_a_training_folder_is_refused(download, tmp_path, place):
    scene(download / place, place[:4])
    with pytest.raises(InputError, match=f"{place}: is a test scene, and would come into split"):
        prepare("middlebury", tmp_path / "data", download)
    assert not list((tmp_path / "data").iterdir())


def test_other_scenes_of_2005_are_for_training_and_withheld_ones_are_passed_over(download, tmp_path):
    scene(download / "2005/ThirdSize/Extra", "2005")
    scene(download / "2005/ThirdSize/Dwarves", "2005")
    for disp in ("disp1", "disp5"):
        (download / f"2005/ThirdSize/Dwarves/{disp}.png").unlink()
    prepare("middlebury", tmp_path / "data", download)
    names = open_dataset("middlebury", "train", tmp_path / "data").names
    assert "2005/ThirdSize/Extra/view5" in names and not any("Dwarves" in name for name in names)
    assert not any(scene in name for name in names for scene in (*TEST, *middlebury.VALIDATION))


def test_the_largest_size_is_taken(download, tmp_path):
    for name in TEST:
        scene(download / "2005/FullSize" / name, "2005", (20, 28))
    prepare("middlebury", tmp_path / "data", download)
    dataset = open_dataset("middlebury", "test", tmp_path / "data")
    assert dataset.names[0] == "2005/FullSize/Art/view1" and dataset[0].depth.shape == (20, 28)


@pytest.mark.parametrize(
    "missing", ["2006/HalfSize/Aloe/disp5.png", "2005/ThirdSize/Art/view1.png", "2003/quarter/teddy/disp2.png"]
)
def test_half_a_scene_is_named(download, tmp_path, missing):
    (download / missing).unlink()
    with pytest.raises(InputError, match=f"{missing}: is missing: download scene {Path(missing).parent.name} again"):
        prepare("middlebury", tmp_path / "data", download)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        ("2005", "2005: has no folder FullSize, HalfSize, ThirdSize"),
        ("2006/HalfSize", "2006: has no folder"),
        ("2006/HalfSize/Baby2", "2006/HalfSize/Baby2: is missing"),
        ("2005/ThirdSize/Dolls", "2005/ThirdSize/Dolls: is missing"),
    ],
)
def test_a_missing_folder_is_named(download, tmp_path, moved, message):
    (download / moved).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=message):
        prepare("middlebury", tmp_path / "data", download)


def test_a_damaged_file_leaves_what_was_there(download, tmp_path):
    data = tmp_path / "data"
    prepare("middlebury", data, download)
    before = open_dataset("middlebury", "test", data)[11].depth
    file = download / "2005/ThirdSize/Reindeer/view5.png"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"view5.png"):
        prepare("middlebury", data, download)
    assert [path.name for path in data.iterdir()] == ["middlebury"]
    np.testing.assert_array_equal(open_dataset("middlebury", "test", data)[11].depth, before)


def test_a_colour_picture_is_no_disparity(download, tmp_path):
    folder = download / "2006/HalfSize/Aloe"
    Image.open(folder / "view1.png").save(folder / "disp1.png")
    with pytest.raises(InputError, match=r"disp1.png: is a colour picture, not disparity"):
        prepare("middlebury", tmp_path / "data", download)


def test_an_interruption_leaves_nothing(download, tmp_path, monkeypatch):
    read = middlebury._read

    def interrupted(view, disp):
        if view.parent.name == "Baby2":
            raise KeyboardInterrupt
        return read(view, disp)

    monkeypatch.setattr(middlebury, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("middlebury", tmp_path / "data", download)
    assert not list((tmp_path / "data").iterdir())


def test_asking_wrongly(download, tmp_path):
    with pytest.raises(InputError, match="middlebury is made from downloaded files"):
        prepare("middlebury", tmp_path / "data")
    with pytest.raises(InputError, match="middlebury has no option 'height'"):
        prepare("middlebury", tmp_path / "data", download, height=3)
    with pytest.raises(InputError, match="ahmf data prepare middlebury --from DIR"):
        open_dataset("middlebury", "train", tmp_path / "data")
    prepare("middlebury", tmp_path / "data", download)
    for split in ("training", "train[:x", "train+nope", ""):
        with pytest.raises(InputError, match=r"has no split .*: it has train, validation, train_2003, test"):
            open_dataset("middlebury", split, tmp_path / "data")
    info = next((tmp_path / "data").rglob("dataset_info.json"))
    info.write_text(info.read_text()[:40])
    with pytest.raises(InputError, match=r"is damaged: build it again"):
        open_dataset("middlebury", "train", tmp_path / "data")


def test_the_real_download(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("the Middlebury download (../shared/data/middlebury) is not on this machine")
    scenes = [path.name for year in middlebury.SIZES for path in middlebury.find_scenes(SHARED, year)]
    assert len(scenes) == 29
    splits = builder_class("middlebury")(source_dir=SHARED, data_dir=str(tmp_path), file_format="array_record").items()
    assert {split: len(items) for split, items in splits.items()} == {
        "train": 38,
        "validation": 4,
        "train_2003": 4,
        "test": 12,
    }
    make = next(make for name, make in splits["train"] if "Midd1" in name)  # RGBA
    guide, disparity = make()
    assert (
        guide.shape == (*disparity.shape, 3) == (555, 698, 3) and disparity.dtype == np.uint8 and disparity.max() > 100
    )
