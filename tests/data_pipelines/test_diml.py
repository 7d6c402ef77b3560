"""DIML: images as stored, DADA's cut of each training scene, everything that is missing named at once."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare
from data_pipelines.datasets.diml import builder as diml
from data_pipelines.files import read_guide, write_depth

SIZE = 12, 20
SCENES = {"train": {"01_Warehouse": 11, "12. Livingroom": 5}, "test": {"02_Cafe": 2}}


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Two scenes to train on and one to test on, with the copies that are not read; the depth by name."""
    monkeypatch.setattr(diml, "SIZE", SIZE)
    monkeypatch.setattr(diml, "COUNTS", {"train": 16, "test": 2})
    root = tmp_path / "DIML"
    rng = np.random.default_rng(3)
    maps = {}
    for part, scenes in SCENES.items():
        for scene, count in scenes.items():
            folder = root / part / "HR" / scene
            for kind in ("color", "depth_filled"):
                (folder / kind).mkdir(parents=True)
            for i in range(count):
                name = f"in_01_160217_1231{i:02d}"
                depth = rng.integers(500, 8000, SIZE).astype(np.uint16)
                depth[0, :2] = 0
                write_depth(folder / f"depth_filled/{name}_depth_filled.png", depth)
                colour = rng.integers(0, 256, (*SIZE, 3), np.uint8)
                Image.fromarray(colour).save(folder / f"color/{name}_c.png")
                maps[f"{part}/{scene}/{name}"] = depth
        small = root / part / "LR" / "01_Warehouse" / "color"
        small.mkdir(parents=True)
        (small / "in_01_160217_123199_c.png").touch()
    return root, maps


def test_every_image_comes_back_as_stored(download, tmp_path):
    root, maps = download
    (root / "train/HR/01_Warehouse/color/._in_01_160217_123100_c.png").touch()
    (root / "train/HR/.thumbs/color").mkdir(parents=True)
    (root / "train/HR/.thumbs/color/in_01_160217_123100_c.png").touch()
    one = prepare("diml", tmp_path / "data", root)
    # int(0.9 * 11) = 9 and int(0.9 * 5) = 4: the rule of scripts/create_diml_npy.py.
    assert one.counts == {"train": 13, "validation": 3, "test": 2} and one.notes == []
    info = one.info
    assert (info.unit, info.range, info.invalid, info.fill) == ("mm", 10000.0, 0.0, "nearest")
    validation = open_dataset("diml", "validation", tmp_path / "data")
    assert validation.names == (
        "validation/01_Warehouse/in_01_160217_123109",
        "validation/01_Warehouse/in_01_160217_123110",
        "validation/12. Livingroom/in_01_160217_123104",
    )
    dataset = open_dataset("diml", "train+validation+test", tmp_path / "data")
    for example in dataset:
        split, scene, name = example.name.split("/")
        part = "test" if split == "test" else "train"
        stored = maps.pop(f"{part}/{scene}/{name}")
        np.testing.assert_array_equal(example.mask, stored > 0)
        np.testing.assert_array_equal(example.depth[example.mask], stored[stored > 0])
        np.testing.assert_array_equal(example.guide, read_guide(root / part / "HR" / scene / f"color/{name}_c.png"))
    assert not maps
    assert dataset._source.read(0)[1].dtype == np.uint16


def test_the_published_counts():
    assert diml.COUNTS == {"train": 1440 + 169, "test": 503} and diml.SIZE == (756, 1344)


@pytest.mark.parametrize("given", ["..", ".", "test"])
def test_the_folder_may_be_named_one_level_off(download, given):
    root, _ = download
    items = diml.Diml(source_dir=root / given, data_dir=str(root / "data"), file_format="array_record").items()
    assert {split: len(found) for split, found in items.items()} == {"train": 13, "validation": 3, "test": 2}


def test_all_that_is_missing_is_named_at_once(download, tmp_path):
    root, _ = download
    scene = root / "train/HR/01_Warehouse"
    (scene / "depth_filled/in_01_160217_123100_depth_filled.png").unlink()
    (root / "test/HR/02_Cafe/color/in_01_160217_123101_c.png").unlink()
    message = (
        r"2 missing \(train/HR/01_Warehouse/depth_filled/in_01_160217_123100_depth_filled.png, 1 of the 2 images of "
        r"test/HR\).*--partial, which uses 16 images"
    )
    with pytest.raises(InputError, match=message):
        prepare("diml", tmp_path / "data", root)
    assert not list((tmp_path / "data").glob("*"))
    one = prepare("diml", tmp_path / "data", root, partial=True)
    # What is missing moves no other image to another split.
    assert one.counts == {"train": 12, "validation": 3, "test": 1} and "2 missing" in one.notes[0]


def test_what_no_image_can_be(download, tmp_path):
    root, _ = download
    scene = root / "test/HR/02_Cafe"
    colour = scene / "color/in_01_160217_123100_c.png"
    whole = colour.read_bytes()
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(colour)
    with pytest.raises(InputError, match=r"123100_c.png: is 6 x 10 uint8 .height x width., and must be 12 x 20 uint8"):
        prepare("diml", tmp_path / "data", root)
    colour.write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"123100_c.png: is no readable .png file"):
        prepare("diml", tmp_path / "data", root)
    colour.write_bytes(whole)
    write_depth(scene / "depth_filled/in_01_160217_123100_depth_filled.png", np.full(SIZE, 3, np.uint16))
    with pytest.raises(InputError, match=r"its largest depth is 3, and the range is 10000 mm: is it in another unit"):
        prepare("diml", tmp_path / "data", root)
    with pytest.raises(InputError, match="does not hold the folders train/HR and test/HR"):
        prepare("diml", tmp_path / "data", scene)
    assert not list((tmp_path / "data").glob("*"))
