"""MPI Sintel: metres as the files hold them, places apart, the archives beside each other or merged."""

import struct

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare
from data_pipelines.datasets.sintel import builder as sintel

SEQUENCES = {"alley_1": 3, "ambush_2": 4, "shaman_3": 2}
SIZE = (4, 6)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(sintel, "SEQUENCES", SEQUENCES)
    monkeypatch.setattr(sintel, "SIZE", SIZE)


def metres(sequence, frame):
    """What is stored: sky beyond the far end, and at one pixel infinity, 0 and no number."""
    depth = np.random.default_rng([frame, *sequence.encode()]).uniform(1, 60, SIZE).astype("<f4")
    depth[0, :3] = 1e11, 72.5, np.inf
    depth[1, :3] = 0, np.nan, -1
    return depth


def write_dpt(path, depth):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PIEH" + struct.pack("<2i", depth.shape[1], depth.shape[0]) + depth.tobytes())


def write_frames(depth_root, image_root):
    for sequence, count in SEQUENCES.items():
        for frame in range(1, count + 1):
            name = f"{sequence}/frame_{frame:04d}"
            write_dpt(depth_root / f"training/depth/{name}.dpt", metres(sequence, frame))
            for number, part in enumerate(("clean", "final")):
                rgb = np.random.default_rng([number, frame, *sequence.encode()]).integers(0, 256, (*SIZE, 3), np.uint8)
                path = image_root / f"training/{part}/{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rgb).save(path)


@pytest.fixture
def download(tmp_path):
    """Both archives unpacked beside each other, with the test sequences, which have no depth."""
    root = tmp_path / "download"
    write_frames(root / "MPI-Sintel-depth-training-20150305", root / "MPI-Sintel-complete")
    (root / "MPI-Sintel-complete/test/clean/ambush_1").mkdir(parents=True)
    return root


def test_frames_come_back_as_stored(download, tmp_path):
    prepared = prepare("sintel", tmp_path, download)
    info = prepared.info
    assert (info.unit, info.range, info.invalid, info.fill) == ("m", 72.0, 0.0, "nearest")
    assert "Butler" in info.citation and "CC BY 3.0" in info.licence and info.url == "http://sintel.is.tue.mpg.de/depth"
    assert prepared.counts == {"train": 4, "validation": 2, "test": 3} and prepared.notes == []
    dataset = open_dataset("sintel", "test", tmp_path)
    assert dataset.names == tuple(f"clean/alley_1/frame_000{frame}" for frame in (1, 2, 3))
    stored = metres("alley_1", 2)
    example = dataset[1]
    unknown = np.zeros(SIZE, bool)
    unknown[1, :3] = True  # 0, no number and below 0
    np.testing.assert_array_equal(example.mask, ~unknown)
    np.testing.assert_array_equal(example.depth[0, :3], 72)  # sky stands at the far end: known, and no edge lost
    np.testing.assert_array_equal(example.depth[2:], stored[2:])
    rgb = np.array(Image.open(download / "MPI-Sintel-complete/training/clean/alley_1/frame_0002.png"))
    np.testing.assert_array_equal(example.guide, rgb)


def test_options(download, tmp_path):
    prepared = prepare("sintel", tmp_path, download, render_pass="both", every=2, far=30.1)
    assert prepared.info.range == np.float32(30.1)
    names = [example["name"] for examples in prepared.splits.values() for example in examples]
    assert names == [
        *("clean/ambush_2/frame_0001", "clean/ambush_2/frame_0003"),
        *("final/ambush_2/frame_0001", "final/ambush_2/frame_0003"),
        *("clean/shaman_3/frame_0001", "final/shaman_3/frame_0001"),
        *("clean/alley_1/frame_0001", "clean/alley_1/frame_0003"),
        *("final/alley_1/frame_0001", "final/alley_1/frame_0003"),
    ]
    assert max(example["high"] for example in prepared.splits["test"]) == np.float32(30.1)
    final = open_dataset("sintel", "test", tmp_path)[3]
    rgb = np.array(Image.open(download / "MPI-Sintel-complete/training/final/alley_1/frame_0003.png"))
    np.testing.assert_array_equal(final.guide, rgb)


@pytest.mark.parametrize("place", ["", "merged", "merged/training"])
def test_one_tree_from_above_and_from_below(tmp_path, place):
    write_frames(tmp_path / "at/merged", tmp_path / "at/merged")
    assert prepare("sintel", tmp_path / "data", tmp_path / "at" / place).counts["train"] == 4


def test_a_tree_that_is_there_twice(download, tmp_path):
    write_frames(download / "again", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"MPI-Sintel-depth.*/depth and .*again/training/depth: are the same part"):
        prepare("sintel", tmp_path / "data", download)


def test_a_part_that_is_not_there(download, tmp_path):
    (download / "MPI-Sintel-complete").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no folder training/final with sequences: put MPI-Sintel-depth-training"):
        prepare("sintel", tmp_path / "data", download, render_pass="final")
    with pytest.raises(InputError, match="has no folder training/depth and none training/clean with sequences"):
        prepare("sintel", tmp_path / "data", tmp_path / "data")


def test_everything_that_is_missing_is_named_at_once(download, tmp_path):
    depth = download / "MPI-Sintel-depth-training-20150305/training/depth"
    (depth / "shaman_3").rename(tmp_path / "elsewhere")
    (depth / "alley_1/frame_0002.dpt").unlink()
    (download / "MPI-Sintel-complete/training/final/ambush_2/frame_0004.png").unlink()
    missing = r"4 missing \(depth/alley_1/frame_0002.dpt, depth/shaman_3 \(2 frames\), final/ambush_2/frame_0004.png\)"
    with pytest.raises(InputError, match=rf"{missing}: .*--partial, which uses 11 frames"):
        prepare("sintel", tmp_path / "data", download, render_pass="both")
    prepared = prepare("sintel", tmp_path / "data", download, render_pass="both", partial=True)
    assert prepared.counts == {"train": 7, "test": 4} and "used: 11 frames" in prepared.notes[0]


def test_another_size_and_damage(download, tmp_path):
    file = download / "MPI-Sintel-depth-training-20150305/training/depth/ambush_2/frame_0003.dpt"
    write_dpt(file, np.ones((4, 5), "<f4"))
    with pytest.raises(InputError, match=r"frame_0003.dpt: is 4 x 5, and Sintel is 4 x 6"):
        prepare("sintel", tmp_path / "data", download)
    write_dpt(file, metres("ambush_2", 3)[:3])
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"frame_0003.dpt: is no readable .dpt file"):
        prepare("sintel", tmp_path / "data", download)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"render_pass": "albedo"}, "option render_pass 'albedo': must be clean, final, both"),
        ({"every": 0}, "option every 0: must be a whole number, 1 to 50"),
        ({"far": float("inf")}, "option far inf: must be a number of metres"),
        ({"partial": 1}, "option partial 1: must be true or false"),
    ],
)
def test_options_that_are_not_possible(download, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        prepare("sintel", tmp_path / "data", download, **options)


def test_the_official_sequences(monkeypatch):
    monkeypatch.undo()
    assert len(sintel.SEQUENCES) == 23 and sum(sintel.SEQUENCES.values()) == 1064 and sintel.SIZE == (436, 1024)
    places = {}
    for sequence in sintel.SEQUENCES:
        places.setdefault(sintel.split_of(sequence), set()).add(sequence.split("_")[0])
    assert places["test"] == {"alley", "cave"} and places["validation"] == {"shaman"}
    assert not places["train"] & (places["test"] | places["validation"])
    assert [download.path for download in sintel.Sintel.downloads(sintel.SintelOptions())] == [
        "MPI-Sintel-depth-training-20150305.zip",
        "MPI-Sintel-complete.zip",
    ]
