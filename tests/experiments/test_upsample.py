"""Files in, files out: every format, holes, and the picture; the values are those of the Python interface."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import resample, upsample
from data_pipelines.files import read_depth, write_depth, write_picture
from experiments.pictures import CAPTION, GAP
from experiments.upsample import comparison

RNG = np.random.default_rng(2)
GUIDE = RNG.integers(0, 256, (24, 32, 3), np.uint8)
SMOOTH = 12 * np.add.outer(np.arange(6.0), np.arange(8.0)) + 20


@pytest.fixture
def place(tmp_path):
    write_picture(tmp_path / "guide.png", GUIDE)
    return tmp_path


def call(ahmf, weights, place, depth, out, *more):
    args = ("--depth", place / depth, "--guide", place / "guide.png", "--out", place / out)
    ended = ahmf("upsample", weights, *args, *more)
    assert ended.code == 0, ended.err
    assert ended.out == f"{place / out}\n"
    return read_depth(place / out)


@pytest.mark.parametrize(
    ("depth", "file", "out", "more"),
    [
        (SMOOTH.astype(np.uint8), "d.png", "o.png", ()),
        (SMOOTH.astype(np.uint8), "d.npy", "o.png", ()),
        ((100 * SMOOTH).astype(np.uint16), "d.png", "o.png", ("--range", "20000")),
        (SMOOTH.astype(np.float32), "d.npy", "o.npy", ()),
        (SMOOTH.astype(np.float32), "d.pfm", "o.pfm", ()),
        ((SMOOTH / 20).astype(np.float32), "d.npy", "o.pfm", ("--range", "9")),
    ],
)
def test_formats(ahmf, bundle, place, depth, file, out, more):
    write_depth(place / file, depth)
    found = call(ahmf, bundle, place, file, out, *more)
    wanted = upsample.load(bundle)(depth, GUIDE, depth_range=float(more[1]) if more else None)
    assert found.dtype == depth.dtype and found.shape == (24, 32)
    np.testing.assert_array_equal(found, wanted)
    # So small weights hardly change bicubic: a flipped axis or a wrong unit would.
    bicubic = resample.resize(depth.astype(np.float64)[..., None], (24, 32), "matlab_bicubic")[..., 0]
    assert np.corrcoef(found.ravel(), bicubic.ravel())[0, 1] > 0.9
    assert sorted(p.name for p in place.iterdir()) == sorted({file, out, "guide.png"})


def test_other_kinds_of_guide(ahmf, bundle, place):
    write_depth(place / "d.png", SMOOTH.astype(np.uint8))
    wanted = call(ahmf, bundle, place, "d.png", "o.png")
    np.save(place / "guide.npy", GUIDE)
    Image.fromarray(GUIDE).save(place / "guide.bmp")
    for name in ("guide.npy", "guide.bmp"):
        args = ("--depth", place / "d.png", "--guide", place / name, "--out", place / "o2.png")
        assert ahmf("upsample", bundle, *args).code == 0
        np.testing.assert_array_equal(read_depth(place / "o2.png"), wanted)


def test_holes_stay_holes(ahmf, bundle, place):
    depth = SMOOTH.astype(np.uint16)
    depth[2, 3] = depth[5, 7] = 0
    write_depth(place / "d.png", depth)
    found = call(ahmf, bundle, place, "d.png", "o.png", "--invalid", "0")
    np.testing.assert_array_equal(found == 0, (depth == 0).repeat(4, 0).repeat(4, 1))
    nan = np.where(depth == 0, np.nan, depth).astype(np.float32)
    write_depth(place / "d.npy", nan)
    found = call(ahmf, bundle, place, "d.npy", "o.npy", "--invalid", "nan")
    np.testing.assert_array_equal(np.isnan(found), (depth == 0).repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("invalid", [None, "0"])
def test_the_picture_shows_all_three(ahmf, bundle, place, invalid):
    depth = SMOOTH.astype(np.uint8)
    if invalid:
        depth[0, 0] = 0
    write_depth(place / "d.png", depth)
    more = () if invalid is None else ("--invalid", invalid)
    found = call(ahmf, bundle, place, "d.png", "o.png", "--picture", place / "side.png", *more)
    picture = np.asarray(Image.open(place / "side.png"))
    assert picture.shape == (24 + CAPTION, 3 * 32 + 2 * GAP, 3)
    np.testing.assert_array_equal(picture[CAPTION:, :32], GUIDE)
    np.testing.assert_array_equal(picture, comparison(depth, GUIDE, found, None if invalid is None else 0))
    if invalid:
        assert (picture[CAPTION : CAPTION + 4, -32:-28] == 128).all()  # the hole is grey


def test_a_run_does_as_its_converted_file_does(ahmf, run, place, tmp_path):
    write_depth(place / "d.png", (100 * SMOOTH).astype(np.uint16))
    wanted = call(ahmf, run, place, "d.png", "o.png")
    assert ahmf("convert", "to-torch", run, tmp_path / "t.safetensors").code == 0
    args = ("--scaling", "sample", "--range", "10", "--unit", "m")
    assert ahmf("convert", "from-torch", tmp_path / "t.safetensors", tmp_path / "b.safetensors", *args).code == 0
    np.testing.assert_array_equal(call(ahmf, tmp_path / "b.safetensors", place, "d.png", "o.png"), wanted)
    assert upsample.load(tmp_path / "b.safetensors").trained.unit == "m"
