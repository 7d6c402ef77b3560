"""DTU: the grey levels are those of DSDMSR's code, from OpenCV itself; no scan is in two splits."""

import cv2
import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.datasets import Example, open_dataset, prepare
from data_pipelines.datasets.base import no_colour
from data_pipelines.datasets.dtu import builder as dtu
from data_pipelines.datasets.splits import protocols, resolve
from data_pipelines.degrade import Degradation
from data_pipelines.files import write_depth
from data_pipelines.loader import whole_example

RNG = np.random.default_rng(11)


def surface(height=1200, width=1600):
    """A map as DTU's: smooth, with edges and a background of 0; values that differ in every bit."""
    y, x = np.mgrid[:height, :width] / height
    depth = 600 + 90 * np.sin(9 * x) * np.cos(13 * y) + 40 * (x > y) + RNG.random((height, width))
    return np.where((4 * x // 1 + 4 * y // 1) % 3 == 0, 0, depth).astype(np.float32)


def reference(depth, size, scale=1.0):
    """The steps of `dtu_patcher.py`, from what is in its PFM to what is in its PNG; size is (width, height)."""
    depth = depth.astype(np.float64) * scale
    grey = (depth - depth.min()) / (depth.max() - depth.min() + 1e-8) * 255.0
    grey = cv2.resize(grey, (1280, 1024), interpolation=cv2.INTER_LINEAR)
    if size != (1280, 1024):
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
    return cv2.imdecode(cv2.imencode(".png", grey)[1], cv2.IMREAD_UNCHANGED)


@pytest.fixture
def download(tmp_path, monkeypatch):
    """One scan of each split, two views each; small maps, which are stretched like large ones."""
    monkeypatch.setattr(dtu, "STORED", (30, 40))
    monkeypatch.setattr(dtu, "SCANS", (1, 2, 3, 25))
    monkeypatch.setattr(dtu, "VIEWS", 2)
    monkeypatch.setattr(dtu, "VALIDATION", (3,))
    monkeypatch.setattr(dtu, "TEST", (1,))
    monkeypatch.setattr(dtu, "UNLISTED", (25,))
    root = tmp_path / "Depths_raw"
    maps = {}
    for scan in dtu.SCANS:
        (root / f"scan{scan}").mkdir(parents=True)
        for view in range(2):
            depth = surface(30, 40)
            write_depth(root / f"scan{scan}/depth_map_{view:04d}.pfm", depth)
            maps[f"scan{scan}_depth_map_{view:04d}"] = depth
    (root / "scan1_train").mkdir()
    write_depth(root / "scan1_train/depth_map_0000.pfm", np.ones((4, 5), np.float32))
    (root / "scan1/depth_visual_0000.png").touch()
    return root, maps


def test_the_maps_are_those_of_dsdmsr(download, tmp_path):
    root, maps = download
    one = prepare("dtu", tmp_path / "data", root, size="80x64")
    assert one.counts == {"train": 2, "validation": 2, "test": 2, "unlisted": 2}
    assert one.notes == [] and one.version == "2.0.0"
    info = one.info
    assert not info.colour
    assert (info.unit, info.range, info.invalid, info.fill) == ("grey level", 255.0, None, "nearest")
    dataset = open_dataset("dtu", "train+validation+test+unlisted", tmp_path / "data")
    assert dataset.names[:3] == ("scan2_depth_map_0000", "scan2_depth_map_0001", "scan3_depth_map_0000")
    assert sorted(dataset.names) == sorted(maps)
    for example in dataset:
        np.testing.assert_array_equal(example.depth, reference(maps[example.name], (80, 64)))
        assert example.depth.shape == (64, 80) and example.mask.all()
        assert example.guide.shape == (64, 80, 0) and example.guide.dtype == np.uint8
    assert dataset._source.read(0)[1].dtype == np.uint8
    # Nothing is stored of a guide: the records are the depth and little more.
    assert "guide" not in (one.directory / "features.json").read_text()
    stored = sum(path.stat().st_size for path in one.directory.glob("*train.array_record*"))
    assert stored < 2 * 64 * 80 + 2**17, stored


@pytest.mark.parametrize("size", dtu.get_args(dtu.Size))
def test_every_size(tmp_path, size):
    depth = surface()
    write_depth(tmp_path / "a.pfm", depth)
    width, height = map(int, size.split("x"))
    guide, grey = dtu._read(tmp_path / "a.pfm", (height, width))
    wanted = reference(depth, (width, height))
    np.testing.assert_array_equal(grey, wanted)
    assert grey.dtype == wanted.dtype == np.uint8 and grey.max() > 250 and grey.min() == 0
    assert guide.shape == (height, width, 0)
    # A PFM may have a scale, which moves a pixel in a million: the code that is followed applies it.
    (tmp_path / "b.pfm").write_bytes(b"Pf\n1600 1200\n-0.003922\n" + depth[::-1].tobytes())
    _, grey = dtu._read(tmp_path / "b.pfm", (height, width))
    np.testing.assert_array_equal(grey, reference(depth, (width, height), scale=0.003922))


def test_rounding_is_to_even_and_stays_in_range(tmp_path, monkeypatch):
    values = np.array([[-3.0, 0.5, 1.5, 2.5, 254.5, 255.5, 300.0, 7.49]])
    monkeypatch.setattr(dtu, "STORED", (1, 8))
    monkeypatch.setattr(dtu, "stretched", lambda depth: values)
    write_depth(tmp_path / "a.pfm", np.arange(8, dtype=np.float32)[None])
    _, grey = dtu._read(tmp_path / "a.pfm", (1024, 1280))
    np.testing.assert_array_equal(grey, [[0, 0, 2, 2, 254, 255, 255, 7]])
    np.testing.assert_array_equal(grey, cv2.imdecode(cv2.imencode(".png", values)[1], cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_centre_mean_is_opencv(factor):
    image = RNG.random((64, 96)) * 255
    wanted = cv2.resize(image, (96 // factor, 64 // factor), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(dtu.centre_mean(image, factor), wanted, rtol=1e-14)
    # By hand: of the first block, the four pixels around its centre.
    low, high = factor // 2 - 1, factor // 2 + 1
    assert np.isclose(wanted[0, 0], image[low:high, low:high].mean(), rtol=1e-14)
    assert dtu.centre_mean(image, 1) is image


@pytest.mark.parametrize(
    ("factor", "read"), [(2, {0, 1}), (4, {1, 2}), (8, {3, 4}), (16, {7, 8})], ids=["640", "320", "160", "80"]
)
def test_the_pixels_that_a_size_is_made_of(factor, read):
    """Of each block of 1280 x 1024 the four at its centre: the factors and pixels that DSDMSR's sizes follow from."""
    rows, columns = np.indices((64, 96), float)
    made = dtu.centre_mean(columns, factor)
    np.testing.assert_array_equal(made, np.tile(factor * np.arange(96 // factor) + sum(read) / 2, (64 // factor, 1)))
    np.testing.assert_array_equal(dtu.centre_mean(rows, factor)[:, 0], factor * np.arange(64 // factor) + sum(read) / 2)
    # A ramp does not tell the centre from the whole block.
    for place in range(factor):
        assert (dtu.centre_mean(columns % factor == place, factor) == (0.5 if place in read else 0)).all()
        assert (dtu.centre_mean(rows % factor == place, factor) == (0.5 if place in read else 0)).all()


def test_low_resolution_from_what_is_stored():
    """What the module says of it: the truth of a protocol comes from 1280x1024 but for half a grey level."""
    map_ = surface()
    grey = dtu.stretched(map_.astype(np.float64))
    stored = np.rint(grey)
    for factor in (2, 16):
        assert np.abs(dtu.centre_mean(stored, factor) - dtu.centre_mean(grey, factor)).max() <= 0.5
    # As a training that is told so reads it: both are those of the published files, a rounding each apart.
    example = Example(no_colour(stored.shape), stored.astype(np.float32), np.ones(stored.shape, bool), "scan1")
    how = Degradation("torch_bilinear", reduce=2)
    batch = whole_example(example, dtu.Dtu.INFO, scale=8, degradation=how)
    for name, size in (("depth_lr", (80, 64)), ("depth_hr", (640, 512))):
        published = reference(map_, size).astype(float)
        assert np.abs(batch[name][0, ..., 0] * 255 - published).max() <= 1 + 1e-3, name
    # And not from 640x512, whose pixels hold more than the four at the centre.
    assert np.abs(dtu.centre_mean(dtu.centre_mean(grey, 2), 8) - dtu.centre_mean(grey, 16)).max() > 2


def test_no_scan_is_in_two_splits_and_none_is_forgotten():
    lists = (dtu.VALIDATION, dtu.TEST, dtu.UNLISTED)
    assert [len(scans) for scans in lists] == [18, 22, 5] and len(dtu.SCANS) == 124
    assert len({scan for scans in lists for scan in scans}) == 45
    assert {scan for scans in lists for scan in scans} < set(dtu.SCANS)
    assert not {78, 79, 80, 81} & set(dtu.SCANS) and dtu.SCANS[-1] == 128 and 124 * dtu.VIEWS == 7936


def test_all_that_is_missing_is_named_at_once(download, tmp_path):
    root, _ = download
    (root / "scan1/depth_map_0001.pfm").unlink()
    for view in range(2):
        (root / f"scan3/depth_map_{view:04d}.pfm").unlink()
    with pytest.raises(InputError, match=r"3 missing \(scan1/depth_map_0001.pfm, scan3 \(2 maps\)\).*-partial.*5 maps"):
        prepare("dtu", tmp_path / "data", root)
    assert not list((tmp_path / "data").glob("*"))
    one = prepare("dtu", tmp_path / "data", root, partial=True, size="80x64")
    assert one.counts == {"train": 2, "test": 1, "unlisted": 2} and "3 missing (scan1/depth_map" in one.notes[0]


@pytest.mark.parametrize("given", ["..", ".", "scan1"])
def test_the_folder_may_be_named_one_level_off(download, given):
    root, _ = download
    items = dtu.Dtu(source_dir=root / given, data_dir=str(root.parent / "data"), file_format="array_record").items()
    assert [name for name, _ in items["test"]] == ["scan1_depth_map_0000", "scan1_depth_map_0001"]


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.ones((64, 80), np.float32), "is 64 x 80 float32 .height x width., and must be 30 x 40 float32"),
        (np.full((30, 40), np.nan, np.float32), "it has values that are not finite"),
        (np.full((30, 40), 700, np.float32), r"scan1/depth_map_0000.pfm: is 700 everywhere, which cannot be stretched"),
        (
            np.zeros((30, 40), np.float32),
            r"scan1/depth_map_0000.pfm: is 0 everywhere, .* or take it away and go on wit",
        ),
    ],
)
def test_what_no_map_can_be(download, tmp_path, depth, message):
    root, _ = download
    write_depth(root / "scan1/depth_map_0000.pfm", depth)
    with pytest.raises(InputError, match=message):
        prepare("dtu", tmp_path / "data", root, size="80x64")
    assert not list((tmp_path / "data").glob("*"))


def test_a_damaged_map_and_another_folder(download, tmp_path):
    root, _ = download
    path = root / "scan2/depth_map_0001.pfm"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"scan2/depth_map_0001.pfm: is no readable .pfm"):
        prepare("dtu", tmp_path / "data", root, size="80x64")
    with pytest.raises(InputError, match=r"scan1_train: does not hold scan1/depth_map_0000.pfm and the like"):
        prepare("dtu", tmp_path / "data", root / "scan1_train")
    with pytest.raises(InputError, match="dtu option size '64x80': must be one of 1280x1024, 640x512"):
        prepare("dtu", tmp_path / "data", root, size="64x80")


def test_the_download_is_the_archive_of_all_maps():
    (one,) = dtu.Dtu.downloads(dtu.DtuOptions())
    assert one.url.endswith("/Depths_raw.zip") and one.path == "Depths_raw.zip"


def test_the_published_split_is_by_the_names_as_they_are_here():
    """All 7,936 names: `RandomState(42).permutation` of them, sorted as strings, of which the first fifth validates."""
    names = [f"scan{scan}_depth_map_{view:04d}" for scan in dtu.SCANS for view in range(dtu.VIEWS)]
    published = protocols("dtu")["dsdmsr"]
    found = {split: [names[i] for i in resolve(published, split, names)] for split in ("train", "validation")}
    drawn = [sorted(names)[place] for place in np.random.RandomState(42).permutation(7936)]
    assert (found["validation"], found["train"]) == (drawn[:1588], drawn[1588:]) and len(found["train"]) == 6348
    # As the lists of the published code begin: positions 7880, 5190, 5845, 3554 and 622, 1419, 3956, 7850.
    assert found["validation"][:4] == [
        "scan9_depth_map_0008",
        "scan58_depth_map_0006",
        "scan67_depth_map_0021",
        "scan34_depth_map_0034",
    ]
    assert found["train"][:4] == [
        "scan109_depth_map_0046",
        "scan120_depth_map_0011",
        "scan3_depth_map_0052",
        "scan99_depth_map_0042",
    ]
    # What our own splits are for.
    scans = [{name.split("_")[0] for name in part} for part in found.values()]
    assert scans[0] == scans[1] and len(scans[0]) == 124
