"""RGB-D-D: samples as stored, the published test apart, everything that is missing named at once."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare
from data_pipelines.datasets.rgbdd import builder as rgbdd
from data_pipelines.files import read_guide, write_depth

SIZE = 12, 16


def sample(folder):
    """A sample of millimetres with a hole, and what its depth file holds."""
    rng = np.random.default_rng(sum(folder.name.encode()))
    folder.mkdir(parents=True)
    depth = rng.integers(300, 4000, SIZE).astype(np.uint16)
    depth[2, 3:5] = 0
    write_depth(folder / f"{folder.name}_HR_gt.png", depth)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / f"{folder.name}_RGB.jpg")
    write_depth(folder / f"{folder.name}_LR_fill_depth.png", depth[::3, ::3].copy())
    return depth


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Ten samples of portraits to train on and one of everything else; their depth by name."""
    monkeypatch.setattr(rgbdd, "SIZE", SIZE)
    monkeypatch.setattr(rgbdd, "COUNTS", {"models": (1, 1), "plants": (1, 1), "portraits": (10, 1)})
    root = tmp_path / "RGB-D-D"
    maps = {}
    for kind, counts in rgbdd.COUNTS.items():
        for part, count in zip(("train", "test"), counts, strict=True):
            for i in range(count):
                folder = root / kind / f"{kind}_{part}" / f"202005181609{i:02d}"
                maps[f"{kind}_{part}/{folder.name}"] = sample(folder)
    return root, maps


def test_every_sample_comes_back_as_stored(download, tmp_path):
    root, maps = download
    (root / "models/models_train/.DS_Store").touch()
    one = prepare("rgbdd", tmp_path / "data", root)
    # A tenth of ten is one; the tenth of a single one is that one, so that training keeps none of it.
    assert one.counts == {"train": 9, "validation": 3, "test": 3} and one.notes == []
    info = one.info
    assert (info.unit, info.range, info.invalid, info.fill) == ("mm", 10000.0, 0.0, "nearest")
    assert "non-commercial" in info.licence and "CVPR 2021" in info.citation
    dataset = open_dataset("rgbdd", "train+validation+test", tmp_path / "data")
    assert dataset.names[0] == "portraits_train/20200518160900"
    assert dataset.names[9:12][2] == "portraits_train/20200518160909" and dataset.names[12].startswith("models_test/")
    for example in dataset:
        stored, (folder, name) = maps.pop(example.name), example.name.split("/")
        np.testing.assert_array_equal(example.mask, stored > 0)
        np.testing.assert_array_equal(example.depth[example.mask], stored[stored > 0])
        colour = root / folder.split("_")[0] / folder / name / f"{name}_RGB.jpg"
        np.testing.assert_array_equal(example.guide, read_guide(colour))
    assert not maps
    assert dataset._source.read(0)[1].dtype == np.uint16


def test_the_published_counts():
    train, test = (sum(counts) for counts in zip(*rgbdd.COUNTS.values(), strict=True))
    assert (train, test) == (2215, 405) and rgbdd.SIZE == (384, 512)


@pytest.mark.parametrize("given", ["..", ".", "plants"])
def test_the_folder_may_be_named_one_level_off(download, given):
    root, _ = download
    items = rgbdd.Rgbdd(source_dir=root / given, data_dir=str(root / "data"), file_format="array_record").items()
    assert {split: len(found) for split, found in items.items()} == {"train": 9, "validation": 3, "test": 3}


def test_all_that_is_missing_is_named_at_once(download, tmp_path):
    root, _ = download
    portraits = root / "portraits/portraits_train"
    (portraits / "20200518160901/20200518160901_RGB.jpg").unlink()
    (portraits / "20200518160902/20200518160902_HR_gt.png").unlink()
    (root / "models/models_test").rename(tmp_path / "elsewhere")
    message = (
        r"3 missing \(1 of the 1 samples in models/models_test, portraits_train/.*01_RGB.jpg, portraits_train/.*"
        r"02_HR_gt.png\).*--partial, which uses 12 samples"
    )
    with pytest.raises(InputError, match=message):
        prepare("rgbdd", tmp_path / "data", root)
    assert not list((tmp_path / "data").glob("*"))
    one = prepare("rgbdd", tmp_path / "data", root, partial=True)
    assert one.counts == {"train": 7, "validation": 3, "test": 2} and "3 missing" in one.notes[0]


def test_what_no_sample_can_be(download, tmp_path):
    root, _ = download
    depth = root / "plants/plants_test/20200518160900/20200518160900_HR_gt.png"
    write_depth(depth, np.full((6, 8), 900, np.uint16))
    with pytest.raises(InputError, match=r"HR_gt.png: is 6 x 8 uint16 .height x width., and must be 12 x 16 uint16"):
        prepare("rgbdd", tmp_path / "data", root)
    write_depth(depth, np.full(SIZE, 9, np.uint8))
    with pytest.raises(InputError, match=r"HR_gt.png: is 12 x 16 uint8"):
        prepare("rgbdd", tmp_path / "data", root)
    depth.write_bytes(depth.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"HR_gt.png: is no readable .png file"):
        prepare("rgbdd", tmp_path / "data", root)
    with pytest.raises(InputError, match="does not hold models/models_train, models/models_test, plants"):
        prepare("rgbdd", tmp_path / "data", depth.parent)
    assert not list((tmp_path / "data").glob("*"))


def test_folders_that_are_missing_count_as_their_samples(download, tmp_path):
    root, _ = download
    (root / "portraits").rename(tmp_path / "elsewhere")
    said = r"11 missing \(10 of the 10 samples in portraits/portraits_train, 1 of the 1 samples .*uses 4 samples"
    with pytest.raises(InputError, match=said):
        prepare("rgbdd", tmp_path / "data", root)
