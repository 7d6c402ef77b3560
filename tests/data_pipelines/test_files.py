"""Readers and writers: values come back, and whatever is wrong with a file or a place is one line that names it."""

import errno
import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import files
from data_pipelines.archives import extract
from data_pipelines.hdf5 import ArraySpec, open_arrays

RNG = np.random.default_rng(0)


def refused(path, call, *words):
    """The call raises one line that begins with the file's name and holds the words; returns the line."""
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    for word in words:
        assert word in line
    return line


def png(bits, colour, width, height, pixels):
    """A PNG written by hand, so that what is in it is known without the library under test."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def npy_header(text):
    text = text.encode() + b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npy_bytes(array, **options):
    data = io.BytesIO()
    np.save(data, array, **options)
    return data.getvalue()


# Reading depth


def test_png_values_survive_an_independent_writer(tmp_path):
    for dtype in (np.uint8, np.uint16):
        depth = RNG.integers(0, np.iinfo(dtype).max, (7, 5), dtype, endpoint=True)
        path = tmp_path / "d.png"
        assert cv2.imwrite(str(path), depth)
        read = files.read_depth(path)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, depth)
        read[:] = 0  # writable


def test_png_16_bit_byte_order_written_by_hand(tmp_path):
    path = tmp_path / "d.PNG"
    path.write_bytes(png(16, 0, 2, 2, b"\0\x01\x02\xff\xfe" + b"\0\x00\x07\x80\x00"))
    np.testing.assert_array_equal(files.read_depth(str(path)), [[0x0102, 0xFFFE], [7, 0x8000]])


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_values_in_every_type_and_order(tmp_path, dtype, order):
    depth = np.asarray(RNG.uniform(0, 200, (4, 3)).astype(dtype), order=order)
    path = tmp_path / "d.npy"
    np.save(path, depth)
    read = files.read_depth(path)
    assert read.dtype == (np.float32 if depth.dtype.kind == "f" else depth.dtype.newbyteorder("="))
    assert read.dtype.isnative and read.flags.c_contiguous and read.flags.writeable
    np.testing.assert_array_equal(read, depth.astype(read.dtype))


@pytest.mark.parametrize(("suffix", "stored"), [(".npy", "<f2"), (".npy", ">f8"), (".tif", "<f8"), (".exr", "<f2")])
def test_a_float_stays_what_it_is_where_that_is_wanted(tmp_path, suffix, stored):
    path, depth = tmp_path / f"d{suffix}", RNG.uniform(0, 200, (4, 3)).astype(stored)
    if suffix == ".npy":
        np.save(path, depth)
    elif suffix == ".tif":
        cv2.imwrite(str(path), depth)
    else:
        pytest.importorskip("OpenEXR")
        files.write_depth(path, depth)
    for floats in (("float32",), ("float16", "float32", "float64")):
        read = files.read_depth(path, floats=floats)
        wanted = depth.astype(depth.dtype.name if len(floats) > 1 else "float32")
        assert read.dtype == wanted.dtype and read.dtype.isnative and read.flags.writeable
        np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(tmp_path, version):
    path = tmp_path / "d.npy"
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(data, np.float32([[1, 2]]), version=version)
    path.write_bytes(data.getvalue())
    np.testing.assert_array_equal(files.read_depth(path), [[1, 2]])


def test_npy_of_python_2_reads_without_a_warning(tmp_path):
    path = tmp_path / "d.npy"
    path.write_bytes(
        npy_header("{'descr': '<u2', 'fortran_order': False, 'shape': (1L, 2L), }") + struct.pack("<2H", 3, 4)
    )
    np.testing.assert_array_equal(files.read_depth(path), [[3, 4]])


@pytest.mark.parametrize(("order", "scale"), [("<", "-1.0"), (">", "1"), ("<", "-0.003922"), (">", "2.5e1")])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_pfm_is_bottom_up_in_both_byte_orders_and_ignores_the_scales_size(tmp_path, order, scale, line):
    path = tmp_path / "d.pfm"
    # The first stored row is the lowest; its first byte may look like a line end (0x0a0a0a0a).
    values = struct.pack(f"{order}6f", 6.640625e-33, 5, np.inf, 1, 2, 3)
    path.write_bytes(f"Pf{line}3 2{line}{scale}{line}".encode() + values)
    read = files.read_depth(path)
    assert read.dtype == np.float32 and read.dtype.isnative
    np.testing.assert_array_equal(read, np.float32([[1, 2, 3], [6.640625e-33, 5, np.inf]]))


def test_pfm_agrees_with_opencv(tmp_path):
    depth = RNG.normal(size=(5, 4)).astype(np.float32)
    path = tmp_path / "d.pfm"
    assert cv2.imwrite(str(path), depth)
    np.testing.assert_array_equal(files.read_depth(path), depth)
    files.write_depth(path, depth)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), depth)


def pfm(values, order, scale):
    return f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode() + values[::-1].astype(f"{order}f4").tobytes()


@pytest.mark.parametrize(("order", "scale", "true"), [("<", "1.0", "little"), (">", "-0.25", "big")])
@pytest.mark.parametrize("kind", ["disparity", "whole", "metres", "sparse", "one"])
def test_a_pfm_whose_header_denies_its_byte_order_is_refused(tmp_path, order, scale, true, kind):
    values = RNG.uniform(5, 300, (40, 50)).astype(np.float32)
    values[RNG.random(values.shape) < 0.2] = np.inf  # unknown, in Middlebury's files
    match kind:
        case "whole":
            values = np.round(values)
        case "metres":
            values = values / 1000
        case "sparse":
            values[RNG.random(values.shape) < 0.95] = 0
        case "one":
            values = np.float32([[12]])
    path = tmp_path / "d.pfm"
    path.write_bytes(pfm(values, order, scale))
    refused(path, lambda: files.read_depth(path), f"its values are {true}-endian", "sign of its scale", scale)
    right = -float(scale)
    path.write_bytes(pfm(values, order, right))
    np.testing.assert_array_equal(files.read_depth(path), values)


def test_odd_values_are_no_reason_to_doubt_a_pfms_byte_order(tmp_path):
    path = tmp_path / "d.pfm"
    for values in (
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        np.full((3, 3), np.inf),
        RNG.normal(size=(20, 20)) * 1e-20,
    ):
        path.write_bytes(pfm(values.astype(np.float32), "<", -1))
        np.testing.assert_array_equal(files.read_depth(path), values.astype(np.float32))


def dpt(values):
    return struct.pack("<f2i", 202021.25, values.shape[1], values.shape[0]) + values.astype("<f4").tobytes()


def test_dpt_of_sintel_in_metres_top_row_first(tmp_path):
    path = tmp_path / "frame_0001.dpt"
    path.write_bytes(struct.pack("<f2i6f", 202021.25, 3, 2, 1, 2, 3, 4, 5, 1e8))
    read = files.read_depth(path)
    assert read.dtype == np.float32 and read.flags.writeable
    np.testing.assert_array_equal(read, np.float32([[1, 2, 3], [4, 5, 1e8]]))
    assert files.depth_size(path) == (2, 3)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (struct.pack(">f2i", 202021.25, 1, 1) + bytes(4), "tag 202021.25"),
        (struct.pack("<f2i", 202021.0, 1, 1) + bytes(4), "tag 202021.25"),
        (struct.pack("<f2i", 202021.25, -1, -1) + bytes(4), "write at least one"),
        (struct.pack("<f2i", 202021.25, 2**31 - 1, 2**31 - 1), "limit is"),
        (struct.pack("<f2i", 202021.25, 2, 2) + bytes(12), "12 bytes of values instead of 16"),
        (struct.pack("<f2i", 202021.25, 2, 2) + bytes(20), "20 bytes of values instead of 16"),
        (struct.pack("<f", 202021.25), "tag 202021.25"),
    ],
)
def test_a_dpt_of_another_kind_is_refused(tmp_path, content, word):
    path = tmp_path / "d.dpt"
    path.write_bytes(content)
    refused(path, lambda: files.read_depth(path), word)


def test_nan_and_infinity_and_overflow_pass_silently(tmp_path):
    path = tmp_path / "d.npy"
    np.save(path, np.array([[np.nan, -np.inf, 1e300]]))
    np.testing.assert_array_equal(files.read_depth(path), [[np.nan, -np.inf, np.inf]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_png_that_is_no_grey_depth_is_refused(tmp_path, mode):
    path = tmp_path / "d.png"
    Image.new(mode, (3, 2)).save(path)
    refused(path, lambda: files.read_depth(path), "grey PNG")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_is_refused_because_pillow_would_stretch_it(tmp_path, bits):
    path = tmp_path / "d.png"
    path.write_bytes(png(bits, 0, 1, 1, b"\0\x80"))
    refused(path, lambda: files.read_depth(path), f"{bits}-bit", "save it as 8- or 16-bit grey PNG")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.int32),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), bool),
        np.zeros((2, 2), complex),
        np.zeros((2, 2), [("z", "f4")]),
        np.zeros((2, 2), "U3"),
        np.zeros(4, np.float32),
        np.zeros((), np.float32),
        np.zeros((2, 2, 1), np.float32),
        np.zeros((1, 2, 2, 1), np.float32),
        np.zeros((0, 2), np.float32),
    ],
    ids=lambda array: f"{array.dtype.name}{array.shape}",
)
def test_npy_of_another_type_or_shape_is_refused(tmp_path, array):
    path = tmp_path / "d.npy"
    np.save(path, array)
    refused(path, lambda: files.read_depth(path))


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("read", [files.read_depth, files.read_guide])
def test_npy_is_never_unpickled(tmp_path, read):
    path = tmp_path / "d.npy"
    np.save(path, np.array([[Trap(tmp_path / "sprung")]], object), allow_pickle=True)
    refused(path, lambda: read(path), "object")
    assert not (tmp_path / "sprung").exists()


HUGE = {
    "a.png": png(16, 0, 2**31 - 1, 2**31 - 1, b"\0\0\0"),
    "b.png": png(16, 0, 20000, 20000, b"\0\0\0"),
    "a.npy": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }") + bytes(4),
    "a.pfm": b"Pf\n999999999999999999 999999999999999999\n-1.0\n" + bytes(4),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_hostile_size_is_refused_by_the_limit_before_memory_is_taken(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(HUGE[name])
    monkeypatch.setattr(Image.core, "fill", lambda *_: pytest.fail("memory was taken"))
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was taken"))
    monkeypatch.setattr(np, "fromfile", lambda *_: pytest.fail("memory was taken"))
    for read in (files.read_depth, files.depth_size):
        refused(path, lambda read=read: read(path), f"limit is {files.MAX_PIXELS}", "max_pixels")


@pytest.mark.parametrize("suffix", [".png", ".npy", ".pfm", ".exr"])
def test_a_size_is_read_without_the_values(tmp_path, suffix):
    path = tmp_path / f"d{suffix}"
    files.write_depth(path, np.ones((40, 50), np.float32 if suffix in (".pfm", ".exr") else np.uint16))
    path.write_bytes(path.read_bytes()[:-1])
    assert files.depth_size(path) == (40, 50)


@pytest.mark.parametrize("name", ["a.npy", "a.pfm"])
def test_a_hostile_size_within_a_raised_limit_is_held_against_the_files_length(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(HUGE[name])
    monkeypatch.setattr(np, "fromfile", lambda *_: pytest.fail("memory was taken"))
    refused(path, lambda: files.read_depth(path, max_pixels=2**130), "4 bytes of values instead of")


def test_a_picture_beyond_pillows_own_limit_reads_without_a_word_if_allowed(tmp_path, monkeypatch):
    path = tmp_path / "d.png"
    depth = np.full((4, 5), 9, np.uint16)
    files.write_depth(path, depth)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    np.testing.assert_array_equal(files.read_depth(path, max_pixels=20), depth)
    assert files.read_guide(path, max_pixels=20).shape == (4, 5, 3)
    refused(path, lambda: files.read_depth(path, max_pixels=19), "4 x 5 pixels", "limit is 19")
    refused(path, lambda: files.read_guide(path, max_pixels=19), "4 x 5 pixels", "limit is 19")


@pytest.mark.parametrize("suffix", [".png", ".npy", ".pfm"])
def test_every_truncation_of_a_depth_map_is_refused(tmp_path, suffix):
    path = tmp_path / f"d{suffix}"
    files.write_depth(path, RNG.integers(0, 60000, (9, 8)).astype(np.float32 if suffix == ".pfm" else np.uint16))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, lambda: files.read_depth(path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".ppm", ".webp", ".npy"])
def test_a_truncated_guide_is_refused_not_padded(tmp_path, suffix):
    path = tmp_path / f"g{suffix}"
    guide = RNG.integers(0, 255, (32, 32, 3), np.uint8)
    if suffix == ".npy":
        np.save(path, guide)
    else:
        Image.fromarray(guide).save(path)
    whole = path.read_bytes()
    for part in (0, 1, 10, 30, len(whole) // 2, len(whole) - (20 if suffix == ".jpg" else 1)):
        path.write_bytes(whole[:part])
        refused(path, lambda: files.read_guide(path))


def test_a_changed_byte_in_a_png_is_refused_never_read_as_other_values(tmp_path):
    path = tmp_path / "d.png"
    # Smooth, so that the stream is compressed: there a changed byte can decode to other values.
    files.write_depth(path, np.cumsum(RNG.integers(0, 3, (40, 40)), axis=1).astype(np.uint16))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(path, lambda: files.read_depth(path))


def test_a_webp_may_have_half_the_pixels(tmp_path):
    path = tmp_path / "g.webp"
    Image.new("RGB", (4, 3)).save(path, lossless=True)
    assert files.read_guide(path, max_pixels=24).shape == (3, 4, 3)
    refused(path, lambda: files.read_guide(path, max_pixels=23), "3 x 4 pixels", "limit is 11")


def test_a_webp_that_claims_a_canvas_beyond_pillows_limit_is_one_line(tmp_path):
    path = tmp_path / "g.webp"
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("RGB", (2, 2)).save(path, exif=exif)
    whole = bytearray(path.read_bytes())
    assert whole[12:16] == b"VP8X"
    whole[24:30] = b"\xff" * 6  # width and height less 1
    path.write_bytes(whole)
    refused(path, lambda: files.read_guide(path))


@pytest.mark.parametrize("suffix", [".npy", ".pfm"])
def test_damaged_bytes_give_one_line_or_values_never_a_traceback(tmp_path, suffix):
    path = tmp_path / f"d{suffix}"
    files.write_depth(path, np.arange(20, dtype=np.float32 if suffix == ".pfm" else np.uint16).reshape(4, 5))
    whole = path.read_bytes()
    refusals = 0
    # Headers mostly: these formats hold no checksum, and a changed value is a value.
    for at in range(min(len(whole), 140)):
        for value in (0, 0xFF, whole[at] ^ 1):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                assert files.read_depth(path).ndim == 2
            except InputError as error:
                assert "\n" not in str(error)
                refusals += 1
    assert refusals > 20


@pytest.mark.parametrize(
    "content",
    [
        b"P5\n2 2\n255\n\0\0\0\0",
        b"Pf\n2 x\n-1\n",
        b"Pf\n2 1\n0\n" + bytes(8),
        b"Pf\n2 1\n1.2.3\n" + bytes(8),
        b"Pf\n0 1\n-1\n",
        b"Pf\n2 1\n-1\n" + bytes(9),
        b"PF\n2 1\n-1\n" + bytes(24),
    ],
)
def test_a_pfm_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "d.pfm"
    path.write_bytes(content)
    refused(path, lambda: files.read_depth(path))


@pytest.mark.parametrize("read", [files.read_depth, files.read_guide])
def test_what_is_no_file_is_refused_by_name(tmp_path, read):
    missing = tmp_path / "no" / "such.png"
    refused(missing, lambda: read(missing), "no such file")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    refused(folder, lambda: read(folder), "is a folder")
    empty = tmp_path / "empty.png"
    empty.touch()
    refused(empty, lambda: read(empty), "is empty")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    refused(pipe, lambda: read(pipe), "not a regular file")
    other = tmp_path / "d.xyz"
    other.touch()
    refused(other, lambda: read(other), ".png", ".npy")
    renamed = tmp_path / "renamed.png"
    Image.new("RGB", (2, 2)).save(renamed, "JPEG")
    refused(renamed, lambda: read(renamed), "no readable .png file")
    long = tmp_path / ("x" * 300 + ".png")
    refused(long, lambda: read(long), "File name too long")


# Reading guides


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".webp", ".npy"])
def test_guide_values_survive(tmp_path, suffix):
    guide = RNG.integers(0, 255, (6, 5, 3), np.uint8, endpoint=True)
    path = tmp_path / f"g{suffix}"
    if suffix == ".npy":
        np.save(path, guide)
    else:
        Image.fromarray(guide).save(path, lossless=True)
    read = files.read_guide(path)
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, guide)


def test_jpeg_guide_agrees_with_opencv(tmp_path):
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    guide = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[:, None], (1, 32)), np.full((32, 32), 40, np.uint8)], -1)
    path = tmp_path / "g.jpg"
    Image.fromarray(guide).save(path, quality=95)
    read = files.read_guide(path)
    np.testing.assert_allclose(read.astype(int), guide.astype(int), atol=12)
    np.testing.assert_allclose(read.astype(int), cv2.imread(str(path))[..., ::-1].astype(int), atol=3)


def test_guide_grey_palette_alpha_and_16_bits(tmp_path):
    path = tmp_path / "g.png"
    grey = np.uint8([[0, 7, 255]])
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(files.read_guide(path), np.repeat(grey[..., None], 3, 2))

    Image.fromarray(np.uint16([[0, 0x07FF, 0xFFFF]])).save(path)
    np.testing.assert_array_equal(files.read_guide(path), np.repeat(grey[..., None], 3, 2))

    colour = np.uint16([[[0x0102, 0x80FF, 0xFFFF]]])
    assert cv2.imwrite(str(path), colour[..., ::-1])
    np.testing.assert_array_equal(files.read_guide(path), [[[0x01, 0x80, 0xFF]]])

    # Colours stay what they are where alpha says "invisible".
    rgba = np.uint8([[[10, 20, 30, 0], [40, 50, 60, 255]]])
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(files.read_guide(path), rgba[..., :3])

    # A palette with transparency, of which Pillow would warn.
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 200, 100, 50])
    palette.putdata([1, 0])
    palette.save(path, transparency=b"\x00\x80")
    np.testing.assert_array_equal(files.read_guide(path), [[[200, 100, 50], [1, 2, 3]]])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_guide_that_exif_turns_is_refused(tmp_path, suffix):
    path = tmp_path / f"g{suffix}"
    exif = Image.Exif()
    for orientation in range(2, 9):
        exif[0x0112] = orientation
        Image.new("RGB", (4, 2)).save(path, exif=exif)
        refused(path, lambda: files.read_guide(path), f"orientation {orientation}", "remove the tag")
    exif[0x0112] = 1
    Image.new("RGB", (4, 2)).save(path, exif=exif)
    assert files.read_guide(path).shape == (2, 4, 3)


def test_damaged_exif_is_no_reason_to_warn(tmp_path):
    path = tmp_path / "g.jpg"
    Image.new("RGB", (4, 2)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03")
    assert files.read_guide(path).shape == (2, 4, 3)


def test_cmyk_and_float_guides_are_refused(tmp_path):
    path = tmp_path / "g.jpg"
    Image.new("CMYK", (4, 2)).save(path)
    refused(path, lambda: files.read_guide(path), "CMYK", "8-bit RGB")
    path = tmp_path / "g.npy"
    np.save(path, np.zeros((2, 2, 3), np.float32))
    refused(path, lambda: files.read_guide(path), "float32", "uint8")
    np.save(path, np.zeros((2, 2, 4), np.uint8))
    refused(path, lambda: files.read_guide(path), "(2, 2, 4)", "(height, width, 3)")


# Writing


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(suffix, dtype) for suffix, dtypes in files.WRITABLE.items() for dtype in dtypes]
)
def test_what_is_written_is_read_again(tmp_path, suffix, dtype):
    path = tmp_path / f"d{suffix}"
    for shape in ((1, 1), (1, 9), (9, 1), (6, 7)):
        for array in (
            RNG.uniform(0, 250, shape).astype(dtype),
            RNG.uniform(0, 250, shape[::-1]).astype(dtype).T,
            RNG.uniform(0, 250, (2 * shape[0], shape[1])).astype(np.dtype(dtype).newbyteorder(">"))[::2],
        ):
            files.write_depth(path, array)
            read = files.read_depth(path)
            np.testing.assert_array_equal(read, array.astype(read.dtype))
            assert files.depth_size(path) == array.shape
    if np.dtype(dtype).kind == "u":
        extremes = np.array([[0, np.iinfo(dtype).max]], dtype)
        files.write_depth(path, extremes)
        np.testing.assert_array_equal(files.read_depth(path), extremes)
    assert os.listdir(tmp_path) == [path.name]


def test_numpy_and_opencv_read_what_is_written(tmp_path):
    depth = RNG.integers(0, 65535, (5, 4)).astype(np.uint16)
    files.write_depth(tmp_path / "d.png", depth)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "d.png"), cv2.IMREAD_UNCHANGED), depth)
    files.write_depth(tmp_path / "d.npy", depth)
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), depth)
    rgb = RNG.integers(0, 255, (5, 4, 3), np.uint8)
    files.write_picture(tmp_path / "p.png", rgb)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "p.png"))[..., ::-1], rgb)


def test_what_a_format_cannot_hold_is_refused_with_a_remedy(tmp_path):
    for name, array, words in (
        ("d.png", np.zeros((2, 2), np.float32), (".npy, .pfm, .tif, .tiff or .exr",)),
        ("d.png", np.zeros((2, 2), np.int32), ("convert the array",)),
        ("d.pfm", np.zeros((2, 2), np.float64), ("write .npy or convert",)),
        ("d.npy", np.zeros((2, 2), object), ("convert the array",)),
        ("d.npy", np.zeros((2, 2, 1), np.float32), ("(2, 2, 1)",)),
        ("d.npy", np.zeros((0, 2), np.float32), ("(0, 2)",)),
        ("d.tiff", np.zeros((2, 2), np.float64), ("write .npy or convert",)),
        ("d.exr", np.zeros((2, 2), np.uint16), (".png, .npy, .tif or .tiff",)),
        ("d.xyz", np.zeros((2, 2), np.float32), (".png, .npy, .pfm, .tif, .tiff or .exr",)),
        ("d", np.zeros((2, 2), np.float32), ("change the suffix",)),
    ):
        refused(tmp_path / name, lambda name=name, array=array: files.write_depth(tmp_path / name, array), *words)
    for name, array in (
        ("p.jpg", np.zeros((2, 2, 3), np.uint8)),
        ("p.png", np.zeros((2, 2, 3), np.float32)),
        ("p.png", np.zeros((2, 2), np.uint8)),
        ("p.png", np.zeros((2, 0, 3), np.uint8)),
    ):
        refused(tmp_path / name, lambda name=name, array=array: files.write_picture(tmp_path / name, array))
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    """More of such places: tests/ahmf_jax/test_writing.py."""
    depth, rgb = np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8)
    for path in (tmp_path / "no" / "d.png", tmp_path / "no" / "d.npy"):
        refused(path, lambda path=path: files.write_depth(path, depth), f"no folder {path.parent}", "create it")
    refused(path := tmp_path / "no" / "p.png", lambda: files.write_picture(path, rgb), f"no folder {path.parent}")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "d.png"
    before = np.uint8([[1, 2]])
    files.write_depth(path, before)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(path, lambda: files.write_depth(path, np.uint8([[3, 4]])), "No space left", "free some space")
    refused(path, lambda: files.write_picture(path, np.zeros((2, 2, 3), np.uint8)), "No space left")
    assert os.listdir(tmp_path) == ["d.png"]
    np.testing.assert_array_equal(files.read_depth(path), before)


@pytest.mark.parametrize("name", ["page.png", "page.zip", "page.mat"])
@pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\n  <html lang='en'>"])
def test_a_web_page_in_the_place_of_a_file(tmp_path, name, start):
    path = tmp_path / name
    path.write_bytes(start + b"<body>Not found</body></html>" * 9)
    read = {".png": files.read_guide, ".zip": lambda path: extract(path, tmp_path / "out")}.get(
        path.suffix, read_arrays
    )
    with pytest.raises(InputError, match=rf"^{path}: is a web page, not a {path.suffix} file: download it again$"):
        read(path)


def read_arrays(path):
    with open_arrays(path, {"depths": ArraySpec("float32", (None, 2, 2))}):
        pass
