"""NYU Depth v2: what comes out lies as MATLAB's arrays do, in metres; the frame cut off; bad files named."""

import h5py
import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare
from data_pipelines.datasets.nyu_v2 import builder as nyu

FRAMES, HEIGHT, WIDTH = 5, 9, 14


@pytest.fixture
def arrays():
    """Frames as one looks at them: (frame, row, column, channel)."""
    rng = np.random.default_rng(8)
    depths = rng.uniform(0.7, 9.9, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    raw = depths.copy()
    raw[:, 2, 3:6] = 0
    return {"images": rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8), "depths": depths, "rawDepths": raw}


@pytest.fixture
def download(tmp_path, monkeypatch, arrays):
    """A small .mat as MATLAB 7.3 writes it: a user block of text, axes reversed, chunks, gzip."""
    monkeypatch.setattr(nyu, "FRAMES", FRAMES)
    monkeypatch.setattr(nyu, "HEIGHT", HEIGHT)
    monkeypatch.setattr(nyu, "WIDTH", WIDTH)
    monkeypatch.setattr(nyu, "SPLITS", {"train": range(2), "validation": range(2, 3), "test": range(3, 5)})
    folder = tmp_path / "NYU Depth v2"
    folder.mkdir()
    write(folder / nyu.FILE, arrays)
    return folder


def write(path, arrays):
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = np.ascontiguousarray(array.transpose(0, *range(array.ndim - 1, 0, -1)))
            chunks = tuple(max(1, size // 2) for size in stored.shape)
            file.create_dataset(name, data=stored, chunks=chunks, compression="gzip")
        file.create_dataset(
            "scenes", (1, FRAMES), h5py.ref_dtype
        )  # references, as its cells are, which nobody asks for
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("depth", ["filled", "raw"])
@pytest.mark.parametrize("given", ["the file", ".", ".."])
def test_frames_lie_as_in_matlab(download, tmp_path, arrays, depth, given):
    source = download / nyu.FILE if given == "the file" else download / given
    one = prepare("nyu_v2", tmp_path / "data", source, depth=depth)
    assert one.counts == {"train": 2, "validation": 1, "test": 2}
    info = one.info
    assert (info.unit, info.range, info.invalid, info.fill) == ("m", 10.0, 0.0 if depth == "raw" else None, "nearest")
    dataset = open_dataset("nyu_v2", "train+validation+test", tmp_path / "data")
    assert dataset.names == ("00000", "00001", "00002", "00003", "00004")
    stored = arrays["rawDepths" if depth == "raw" else "depths"]
    for i, example in enumerate(dataset):
        np.testing.assert_array_equal(example.guide, arrays["images"][i])
        np.testing.assert_array_equal(example.mask, stored[i] > 0)
        np.testing.assert_array_equal(example.depth[example.mask], stored[i][example.mask])
    assert dataset[0].mask.all() == (depth == "filled")


def test_the_white_frame_is_cut_off(download, tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(nyu, "VALID", (slice(2, 8), slice(1, 11)))
    prepare("nyu_v2", tmp_path / "data", download, crop="border")
    example = open_dataset("nyu_v2", "test", tmp_path / "data")[1]
    np.testing.assert_array_equal(example.guide, arrays["images"][4, 2:8, 1:11])
    np.testing.assert_array_equal(example.depth, arrays["depths"][4, 2:8, 1:11])


def test_the_region_and_the_splits_are_those_published():
    # mask(45:471, 41:601) = 1; sz = [427 561], in MATLAB's counting from 1 to the end.
    rows, columns = (np.arange(1, size + 1)[cut] for size, cut in ((480, nyu.VALID[0]), (640, nyu.VALID[1])))
    assert (rows[0], rows[-1], len(rows)) == (45, 471, 427) and (columns[0], columns[-1], len(columns)) == (
        41,
        601,
        561,
    )
    frames = [frame for split in nyu.SPLITS.values() for frame in split]
    assert frames == list(range(1449)) and nyu.SPLITS["test"] == range(1000, 1449)


def test_the_download_is_the_one_file():
    (one,) = nyu.NyuV2.downloads(nyu.NyuV2Options())
    assert one.url.endswith("/nyu_depth_v2_labeled.mat") and one.path == nyu.FILE


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("images", np.zeros((4, HEIGHT, WIDTH, 3), np.uint8), r"images has shape \(4, 3, 14, 9\), not \(5, 3, 14, 9\)"),
        ("depths", np.zeros((FRAMES, WIDTH, HEIGHT), np.float32), r"depths has shape \(5, 9, 14\), not \(5, 14, 9\)"),
        ("depths", np.zeros((FRAMES, HEIGHT, WIDTH), np.float64), "depths"),
        ("depths", None, "depths"),
        (
            "depths",
            np.full((FRAMES, HEIGHT, WIDTH), 4000, np.float32),
            "00000: 100.0% of its depth is above 10 m, the range",
        ),
    ],
)
def test_another_file_is_refused(download, tmp_path, arrays, name, array, message):
    write(download / nyu.FILE, {key: value for key, value in (arrays | {name: array}).items() if value is not None})
    with pytest.raises(InputError, match=message):
        prepare("nyu_v2", tmp_path / "data", download)
    assert not list((tmp_path / "data").glob("*"))


def test_a_damaged_file_and_wrong_options(download, tmp_path):
    path = download / nyu.FILE
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"nyu_depth_v2_labeled.mat: "):
        prepare("nyu_v2", tmp_path / "data", download)
    path.unlink()
    with pytest.raises(InputError, match=r"NYU Depth v2: does not hold nyu_depth_v2_labeled.mat"):
        prepare("nyu_v2", tmp_path / "data", download)
    with pytest.raises(InputError, match="nyu_v2 option depth 'inpainted': must be one of filled, raw"):
        prepare("nyu_v2", tmp_path / "data", download, depth="inpainted")
    assert not list((tmp_path / "data").glob("*"))
