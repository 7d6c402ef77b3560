"""EXR: values by every compression, which channel is the depth, and what is refused by header."""

import builtins
import struct

import numpy as np
import OpenEXR
import pytest

from data_pipelines import files
from tests.data_pipelines.test_files import refused

RAMP = np.add.outer(np.arange(20), np.arange(24)).astype(np.float32) ** 2 / 7
LOSSLESS = ("NO", "RLE", "ZIPS", "ZIP", "PIZ")


def write(path, channels, compression="ZIP", **header):
    header = {"type": OpenEXR.scanlineimage, "compression": getattr(OpenEXR, f"{compression}_COMPRESSION"), **header}
    # It writes into the dictionary that it is given.
    OpenEXR.File(header, dict(channels), num_threads=0).write(str(path))


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint32])
def test_values_survive(tmp_path, compression, dtype):
    path = tmp_path / "d.exr"
    depth = RAMP.astype(dtype)
    write(path, {"Z": depth, "A": np.zeros((20, 24), np.float32)}, compression)
    read = files.read_depth(path)
    assert read.dtype == np.float32 and read.flags.writeable
    np.testing.assert_array_equal(read, depth.astype(np.float32))


def test_tiles_and_values_that_are_not_finite(tmp_path):
    path = tmp_path / "d.exr"
    depth = RAMP.copy()
    depth[0, :3] = np.nan, np.inf, -np.inf
    write(path, {"Z": depth}, type=OpenEXR.tiledimage, tiles=OpenEXR.TileDescription())
    np.testing.assert_array_equal(files.read_depth(path), depth)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("Z",), "Z"),
        (("Y",), "Y"),
        (("A", "V"), "V"),
        (("B", "G", "R", "depth"), "depth"),
        (("A", "left.R", "left.Z"), "left.Z"),
        (("B", "G", "R"), None),
        (("Depth", "Z"), None),
    ],
)
def test_the_channel_with_the_depth(tmp_path, names, chosen):
    path = tmp_path / "d.exr"
    channels = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(names)}
    write(path, channels)
    if chosen is None:
        refused(path, lambda: files.read_depth(path), ", ".join(names), "--channel")
    else:
        np.testing.assert_array_equal(files.read_depth(path), channels[chosen])
    for name in names:
        np.testing.assert_array_equal(files.read_depth(path, channel=name), channels[name])
    refused(path, lambda: files.read_depth(path, channel="W"), "no channel W", names[0])


def test_a_channel_is_named_of_an_exr_alone(tmp_path):
    path = tmp_path / "d.png"
    files.write_depth(path, np.uint8([[1]]))
    refused(path, lambda: files.read_depth(path, channel="Z"), "leave out")


def changed(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def window(*corners):
    return b"dataWindow\0box2i\0\x10\0\0\0" + struct.pack("<4i", *corners)


def test_what_is_refused_by_header(tmp_path, monkeypatch):
    path = tmp_path / "d.exr"
    monkeypatch.setattr(OpenEXR, "InputFile", lambda *_: pytest.fail("was decoded"))

    def case(old, new, *words):
        write(path, {"Z": RAMP})
        changed(path, old, new)
        refused(path, lambda: files.read_depth(path), *words)

    here = window(0, 0, 23, 19)
    case(here, window(0, 0, 2**31 - 1, 2**31 - 1), "limit is")
    case(here, window(0, 0, 10999, 10999), "is not its display window")
    case(here, window(5, 0, 2, 19), "-2 pixels")
    case(b"v/1\x01\x02\0\0\0", b"v/1\x01\x02\x08\0\0", "deep pixels")
    case(b"v/1\x01\x02\0\0\0", b"v/1\x01\x02\x10\0\0", "several parts")
    case(b"v/1\x01\x02", b"v/1\x01\x03", "begin as an EXR")
    case(b"compression\0compression\0\x01\0\0\0\x03", b"compression\0compression\0\x01\0\0\0\xee", "compression 238")
    case(b"displayWindow\0", b"displayWindoW\0", "displayWindow")
    case(b"\x01\0\0\0\x01\0\0\0\0compression", b"\x02\0\0\0\x01\0\0\0\0compression", "every 2 x 1 pixels")

    write(path, {"Z": RAMP})
    data = path.read_bytes().replace(struct.pack("<4i", 0, 0, 23, 19), struct.pack("<4i", 0, 0, 999, 999))
    path.write_bytes(data)
    refused(path, lambda: files.read_depth(path), "too short for 1000 x 1000")
    write(path, {name: RAMP for name in ("Z", "a", "b", "c", "d")})
    refused(path, lambda: files.read_depth(path, max_pixels=RAMP.size), "5 channels", "save the depth alone")


@pytest.mark.parametrize("compression", ["NO", "ZIP"])
def test_every_truncation_is_refused(tmp_path, compression):
    path = tmp_path / "d.exr"
    write(path, {"Z": RAMP[:6, :5].copy()}, compression)
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refused(path, lambda: files.read_depth(path))


def test_whole_numbers_that_float_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "d.exr"
    write(path, {"Z": np.uint32([[2**24, 2]])})
    np.testing.assert_array_equal(files.read_depth(path), [[2**24, 2]])
    write(path, {"Z": np.uint32([[2**24 + 1, 2]])})
    refused(path, lambda: files.read_depth(path), "up to 16777217")


def test_a_guide_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "g.exr"
    write(path, {"RGB": np.zeros((2, 3, 3), np.float32)})
    refused(path, lambda: files.read_guide(path), "holds light", "8-bit PNG")


def test_without_the_library(tmp_path, monkeypatch):
    path = tmp_path / "d.exr"
    write(path, {"Z": RAMP})
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "OpenEXR":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(path, lambda: files.read_depth(path), "pip install 'ahmf-jax[exr]'")
    refused(tmp_path / "o.exr", lambda: files.write_depth(tmp_path / "o.exr", RAMP), "ahmf-jax[exr]")
