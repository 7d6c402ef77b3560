"""Point clouds: intrinsics in every form, back-projection by hand, and PLY as a reader of its own sees it."""

import errno
import json
import os

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import clouds
from data_pipelines.clouds import Intrinsics, read_intrinsics
from tests.data_pipelines.test_files import refused

CAMERA = Intrinsics(525.0, 520.0, 319.5, 239.5)
COLUMNS = [525.0, 0, 0, 0, 520.0, 0, 319.5, 239.5, 1]


@pytest.mark.parametrize(
    ("name", "text", "size"),
    [
        ("a.txt", "525 0 319.5\n0 520 239.5\n0 0 1\n", None),
        ("a.txt", "5.25e2 0 319.5 0\n0 520 239.5 0\n0 0 1 0\n0 0 0 1\n", None),
        ("a.txt", "[525, 0, 319.5; 0, 520, 239.5; 0, 0, 1]", None),
        ("a.json", json.dumps({"fx": 525, "fy": 520, "cx": 319.5, "cy": 239.5}), None),
        ("a.json", json.dumps({"width": 640, "height": 480, "intrinsic_matrix": COLUMNS}), (480, 640)),
        ("a.json", json.dumps({"intrinsic": {"width": 640, "height": 480, "intrinsic_matrix": COLUMNS}}), (480, 640)),
    ],
)
def test_intrinsics_in_every_form(tmp_path, name, text, size):
    path = tmp_path / name
    path.write_text(text)
    assert read_intrinsics(path) == Intrinsics(525.0, 520.0, 319.5, 239.5, size)


def test_intrinsics_as_text():
    assert read_intrinsics("525,520, 319.5,239.5") == CAMERA
    for text, word in (("525,520,1", "neither"), ("525,0,1,1", "no camera"), ("nan,1,1,1", "no camera")):
        with pytest.raises(InputError, match=f"^intrinsics {text}: .*{word}.* give fx,fy,cx,cy in pixels of the guide"):
            read_intrinsics(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "525 0 319.5\n0 520 239.5\n"),
        ("a.txt", "525 1 319.5\n0 520 239.5\n0 0 1\n"),  # a skew, which would be lost in silence
        ("a.txt", "525 0 319.5\n0 520 239.5\n0 0 2\n"),
        ("a.txt", "a b c"),
        ("a.txt", "1 " * 40000),
        ("a.json", "{"),
        ("a.json", "[" * 60000),
        ("a.json", "[]"),
        ("a.json", '{"fx": 1e999, "fy": 1, "cx": 1, "cy": 1}'),
        ("a.json", '{"fx": 1, "fy": 1, "cx": 1}'),
        ("a.json", '{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "width": -1, "height": 4}'),
        ("a.json", '{"intrinsic_matrix": [1, 2]}'),
        ("a.json", f'{{"fx": {"9" * 5000}, "fy": 1, "cx": 1, "cy": 1}}'),
        ("a.yaml", "fx: 1"),
    ],
)
def test_what_is_no_camera_is_one_line(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    refused(path, lambda: read_intrinsics(path))


def test_points_by_hand():
    depth = np.uint16([[0, 1000], [2000, 500]])
    found, places = clouds.points(depth, depth > 0, Intrinsics(2.0, 4.0, 0.5, 1.0))
    np.testing.assert_array_equal(places, [1, 2, 3])
    np.testing.assert_array_equal(found, np.float32([[250, -250, 1000], [-500, 0, 2000], [125, 0, 500]]))


def test_ply_as_it_is_defined(tmp_path, monkeypatch):
    monkeypatch.setattr(clouds, "CHUNK", 4)
    path = tmp_path / "a.ply"
    rng = np.random.default_rng(0)
    for count in (0, 1, 9):
        xyz, rgb = rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), np.uint8)
        clouds.write_ply(path, xyz, rgb)
        header, _, body = path.read_bytes().partition(b"end_header\n")
        assert header.decode().splitlines() == [
            *("ply", "format binary_little_endian 1.0", f"element vertex {count}"),
            *("property float x", "property float y", "property float z"),
            *("property uchar red", "property uchar green", "property uchar blue"),
        ]
        rows = np.frombuffer(body, np.dtype([("p", "<f4", 3), ("c", "u1", 3)]))
        np.testing.assert_array_equal(rows["p"], xyz)
        np.testing.assert_array_equal(rows["c"], rgb)
    assert os.listdir(tmp_path) == ["a.ply"]


def test_a_cloud_is_whole_or_not_there(tmp_path, monkeypatch):
    xyz, rgb = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8)
    for path in (tmp_path / "a.obj", tmp_path / "no" / "a.ply"):
        refused(path, lambda path=path: clouds.write_ply(path, xyz, rgb))

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a.ply"
    refused(path, lambda: clouds.write_ply(path, xyz, rgb), "free some space")
    assert os.listdir(tmp_path) == []
