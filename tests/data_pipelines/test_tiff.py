"""TIFF: values in every type, order and packing, against a writer by hand and OpenCV's; what is refused by header."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines import files, tiff
from tests.data_pipelines import fuzz
from tests.data_pipelines.test_files import refused

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", tiff.DEPTH_TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_depth_in_every_type_order_and_packing(tmp_path, dtype, order, big, deflate):
    depth = RNG.uniform(0, 200, (6, 5)).astype(dtype)
    path = tmp_path / "d.tif"
    path.write_bytes(fuzz.tiff(depth, order, big=big, deflate=deflate))
    if (dtype, order, big) == ("uint8", ">", True):  # Pillow does not know it
        refused(path, lambda: files.read_depth(path), "Missing dimensions")
        return
    read = files.read_depth(path)
    assert read.dtype == (np.float32 if depth.dtype.kind == "f" else depth.dtype) and read.dtype.isnative
    np.testing.assert_array_equal(read, depth.astype(read.dtype))
    read[:] = 0  # writable, and the file stays as it was
    assert path.read_bytes() == fuzz.tiff(depth, order, big=big, deflate=deflate)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_depth_as_opencv_packs_it(tmp_path, dtype):
    depth = RNG.uniform(0, 200, (70, 50)).astype(dtype)
    path = tmp_path / "d.TIFF"
    path.write_bytes(cv2.imencode(".tiff", depth, (cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, 2))[1])
    read = files.read_depth(path)
    np.testing.assert_array_equal(read, depth.astype(read.dtype))


def test_what_is_not_finite_passes(tmp_path):
    path = tmp_path / "d.tif"
    path.write_bytes(fuzz.tiff(np.float64([[np.nan, -np.inf, 1e300, 2]])))
    np.testing.assert_array_equal(files.read_depth(path), np.float32([[np.nan, -np.inf, np.inf, 2]]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (fuzz.tiff(np.zeros((2, 3), np.int16)), ("int16", "uint16 or float32")),
        (fuzz.tiff(np.zeros((2, 3), np.uint32)), ("uint32",)),
        (fuzz.tiff(np.zeros((2, 3), np.uint8), t262=0), ("white as 0",)),
        (fuzz.tiff(np.zeros((2, 3), np.uint8), t262=3), ("a palette",)),
        (fuzz.tiff(np.zeros((2, 3, 3), np.uint8)), ("3 channels", "save one channel")),
        (fuzz.tiff(np.zeros((2, 3), np.float32), t274=6), ("orientation 6",)),
        (fuzz.tiff(np.zeros((2, 3), np.float32), t257=0), ("0 x 3 pixels",)),
        (fuzz.tiff(np.zeros((2, 3), np.float32), t257=20), ("too short for 20 x 3",)),
        (fuzz.tiff(np.zeros((2, 3), np.float32), t256=60000, t257=60000), ("limit is",)),
        (fuzz.tiff(np.zeros((2, 3), np.float32), t256=11000, t257=11000, deflate=True), ("too short",)),
        (fuzz.tiff(np.zeros((2, 3), np.uint8), t322=65535, t323=65535), ("tiles",)),
        (b"II*\0\xff\xff\xff\xff", ("cut short",)),
        (b"JUNK", ("begin as a TIFF",)),
    ],
)
def test_what_is_refused_by_header(tmp_path, content, words, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    path = tmp_path / "d.tif"
    path.write_bytes(content)
    refused(path, lambda: files.read_depth(path), *words)


def test_several_pages_are_refused_and_counted(tmp_path):
    path = tmp_path / "d.tif"
    pages = [Image.fromarray(np.full((2, 3), i, np.uint8)) for i in range(4)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    for read in (files.read_depth, files.read_guide):
        refused(path, lambda read=read: read(path), "holds 4 pages")
    # Pages that lead back to the first.
    data = bytearray(fuzz.tiff(np.zeros((2, 3), np.uint8)))
    page = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, page + 2 + 12 * struct.unpack_from("<H", data, page)[0], page)
    path.write_bytes(data)
    refused(path, lambda: files.read_depth(path), "holds 100 or more pages")


@pytest.mark.parametrize("deflate", [False, True])
def test_every_truncation_is_refused(tmp_path, deflate):
    path = tmp_path / "d.tif"
    whole = fuzz.tiff(RNG.uniform(0, 9, (6, 5)).astype(np.float32), deflate=deflate)
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refused(path, lambda: files.read_depth(path))


def test_damaged_pixels_are_one_line_and_nothing_else(tmp_path, capfd):
    path = tmp_path / "d.tif"
    whole = bytearray(fuzz.tiff(RNG.uniform(0, 9, (6, 5)).astype(np.float32), deflate=True))
    whole[30:60] = bytes(30)
    path.write_bytes(whole)
    refused(path, lambda: files.read_depth(path), "cannot be decoded")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_guides(tmp_path, kind):
    guide = RNG.integers(0, 255, (6, 5, 3), np.uint8, endpoint=True)
    path = tmp_path / "g.tif"
    Image.fromarray(guide).save(path, compression=kind)
    np.testing.assert_array_equal(files.read_guide(path), guide)
    Image.fromarray(guide).convert("RGBA").save(path, compression=kind)
    np.testing.assert_array_equal(files.read_guide(path), guide)
    Image.fromarray(guide[..., 0]).save(path, compression=kind)
    np.testing.assert_array_equal(files.read_guide(path), guide[..., :1].repeat(3, 2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_of_16_bits_a_guide_keeps_the_upper_8(tmp_path, order, deflate):
    path = tmp_path / "g.tif"
    for colour in (np.uint16([[[0x0102, 0x80FF, 0xFFFF], [0, 0xFF, 0x100]]]), np.uint16([[0x0102, 0x80FF, 0xFFFF]])):
        path.write_bytes(fuzz.tiff(colour, order, deflate=deflate))
        wanted = (colour >> 8).astype(np.uint8)
        np.testing.assert_array_equal(
            files.read_guide(path), wanted if wanted.ndim == 3 else np.stack([wanted] * 3, -1)
        )
    path.write_bytes(fuzz.tiff(np.zeros((2, 3, 3), np.uint16), order, t284=2))
    refused(path, lambda: files.read_guide(path), "plane of its own")
    path.write_bytes(fuzz.tiff(np.zeros((2, 3), np.float32), order))
    refused(path, lambda: files.read_guide(path), "8-bit RGB")
