"""The images of Lu et al.: both test sets of one archive, by the names that its files have, typing error included."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare
from data_pipelines.datasets.lu import builder as lu


def pair(depth_folder, guide_folder, name, colour):
    rng = np.random.default_rng(list(name.encode()))
    for folder in (depth_folder, guide_folder):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (5, 7), np.uint8)).save(depth_folder / f"{name}_output_depth.png")
    Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).save(guide_folder / f"{name}_{colour}.png")


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "download"
    rgbd, middlebury = root / "Depth_Enh/03_RGBD_Dataset", root / "Depth_Enh/01_Middlebury_Dataset"
    for number in range(1, 7):
        pair(rgbd, rgbd, f"RGBD_{number:02d}", "ouput_color")
    for number in range(1, 31):
        pair(middlebury, middlebury, f"Middlebury_{number:02d}", "output_color")
    # The authors' own experiment, and a third set that nobody tests on.
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(rgbd / "RGBD_01_noisy_depth.png")
    pair(root / "Depth_Enh/02_RGBZ_Dataset", root / "Depth_Enh/02_RGBZ_Dataset", "RGBZ_01", "output_color")
    return root


def test_both_sets(download, tmp_path):
    prepared = prepare("lu", tmp_path, download)
    info = prepared.info
    assert (info.unit, info.range, info.invalid, info.fill) == ("grey level", 255.0, None, "nearest")
    assert "CVPR 2014" in info.citation and info.url.endswith("depth-enhance/")
    assert prepared.counts == {"test": 6, "test_middlebury": 30} and prepared.notes == []
    for split, folder, colour in (
        ("test", "03_RGBD_Dataset", "ouput_color"),
        ("test_middlebury", "01_Middlebury_Dataset", "output_color"),
    ):
        dataset = open_dataset("lu", split, tmp_path)
        for example in dataset:
            file = download / "Depth_Enh" / folder / example.name
            np.testing.assert_array_equal(example.depth, np.array(Image.open(f"{file}_output_depth.png")))
            np.testing.assert_array_equal(example.guide, np.array(Image.open(f"{file}_{colour}.png")))
            assert example.mask.all()  # complete: 0 is a depth
    assert open_dataset("lu", "test", tmp_path).names == tuple(f"RGBD_{number:02d}" for number in range(1, 7))


def test_depth_and_colour_in_folders_of_their_own(tmp_path):
    for number in range(1, 7):
        pair(tmp_path / "raw/Lu/Depth", tmp_path / "raw/Lu/RGB", f"RGBD_{number:02d}", "output_color")
    prepared = prepare("lu", tmp_path / "data", tmp_path / "raw")
    assert prepared.counts == {"test": 6}
    assert prepared.notes == ["test_middlebury is left out: its 30 images are not there"]


def test_everything_that_is_missing_is_named_at_once(download, tmp_path):
    (download / "Depth_Enh/03_RGBD_Dataset/RGBD_02_ouput_color.png").unlink()
    for file in (download / "Depth_Enh/01_Middlebury_Dataset").glob("Middlebury_30_*"):
        file.unlink()
    missing = r"3 missing \(RGBD_02_output_color.png, Middlebury_30_output_depth.png, Middlebury_30_output_color.png\)"
    with pytest.raises(InputError, match=rf"{missing}: .*--partial, which uses 34 pairs"):
        prepare("lu", tmp_path / "data", download)
    prepared = prepare("lu", tmp_path / "data", download, partial=True)
    assert prepared.counts == {"test": 5, "test_middlebury": 29} and "used: 34 pairs" in prepared.notes[0]


def test_wrong_files(download, tmp_path):
    depth = download / "Depth_Enh/03_RGBD_Dataset/RGBD_03_output_depth.png"
    Image.fromarray(np.full((5, 7), 999, np.uint16)).save(depth)
    with pytest.raises(InputError, match=r"RGBD_03_output_depth.png: holds 16 bits, and the set has 8"):
        prepare("lu", tmp_path / "data", download)
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(depth)
    with pytest.raises(InputError, match=r"RGBD_03: the depth is 5 x 8 and the guide 5 x 7"):
        prepare("lu", tmp_path / "data", download)
    depth.write_bytes(depth.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"RGBD_03_output_depth.png: is no readable .png file"):
        prepare("lu", tmp_path / "data", download)
    pair(download / "copy", download / "copy", "RGBD_01", "ouput_color")
    with pytest.raises(InputError, match=r"RGBD_01_ou.*put_.*: are one image of the set: take one of them away"):
        prepare("lu", tmp_path / "data", download)
    with pytest.raises(InputError, match=r"12 missing \(RGBD_01_output_depth.png, .*, which is all of it: name"):
        prepare("lu", tmp_path / "data", tmp_path / "data")
    with pytest.raises(InputError, match="lu option partial 0: must be true or false"):
        prepare("lu", tmp_path / "data", download, partial=0)


def test_downloads():
    assert [download.path for download in lu.Lu.downloads(lu.LuOptions())] == ["Depth_Enh.zip"]
