"""Files in, files out: every format, holes, and the picture; the values are those of the Python interface."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import resample, upsample
from data_pipelines.clouds import Intrinsics, points
from data_pipelines.files import read_depth, write_depth, write_picture
from experiments import upsample as files_in_out
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
        (SMOOTH.astype(np.float64), "d.npy", "o.npy", ()),
        (SMOOTH.astype(np.float16), "d.exr", "o.npy", ()),
        (SMOOTH.astype(np.float32), "d.pfm", "o.pfm", ()),
        ((SMOOTH / 20).astype(np.float32), "d.npy", "o.pfm", ("--range", "9")),
        ((SMOOTH / 20).astype(np.float32), "d.tif", "o.exr", ("--range", "9")),
        ((100 * SMOOTH).astype(np.uint16), "d.tif", "o.tiff", ("--range", "20000")),
        ((SMOOTH / 20).astype(np.float32), "d.exr", "o.tif", ("--range", "9", "--channel", "Z")),
    ],
)
def test_formats(ahmf, bundle, place, depth, file, out, more):
    write_depth(place / file, depth)
    call(ahmf, bundle, place, file, out, *more)
    found = read_depth(place / out, floats=[depth.dtype.name])
    wanted = upsample.load(bundle)(depth, GUIDE, depth_range=float(more[1]) if more else None)
    assert found.dtype == depth.dtype and found.shape == (24, 32)
    np.testing.assert_array_equal(found, wanted)
    # So small weights hardly change bicubic: a flipped axis or a wrong unit would.
    bicubic = resample.resize(depth.astype(np.float64)[..., None], (24, 32), "matlab_bicubic")[..., 0]
    assert np.corrcoef(found.ravel(), bicubic.ravel())[0, 1] > 0.9
    assert sorted(p.name for p in place.iterdir()) == sorted({file, out, "guide.png"})


def test_a_float_that_the_format_does_not_hold_is_float32(ahmf, bundle, place):
    """float64, whose last digits a network in float32 has not made, is no reason to refuse a TIFF."""
    depth = SMOOTH.astype(np.float64)
    np.save(place / "d.npy", depth)
    found = call(ahmf, bundle, place, "d.npy", "o.tif", "--picture", place / "p.png")
    np.testing.assert_array_equal(found, upsample.load(bundle)(depth, GUIDE).astype(np.float32))


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


def test_zeros_that_count_as_depth_are_noted(ahmf, bundle, place):
    """Of whole numbers alone, which cannot say that nothing was measured; not where the user has said what does."""
    depth = SMOOTH.astype(np.uint16)
    depth[0, :3] = 0

    def said(depth, file, *more):
        write_depth(place / file, depth)
        args = ("--depth", place / file, "--guide", place / "guide.png", "--out", place / f"o{file[1:]}")
        ended = ahmf("upsample", bundle, *args, *more)
        assert (ended.code, ended.out) == (0, f"{place / f'o{file[1:]}'}\n"), ended.err
        return ended.err

    wanted = "are 0 and count as known depth; --invalid 0 would mark them as unknown\n"
    assert said(depth, "d.png") == f"note: {place / 'd.png'}: 3 of its samples (6.25 %) {wanted}"
    assert said(depth, "d.png", "--invalid", "0") == said(SMOOTH.astype(np.uint16), "d.png") == ""
    assert said(depth.astype(np.float32), "d.npy") == ""
    mask = np.full((6, 8, 3), 255, np.uint8)
    mask[0, 1:] = 0
    write_picture(place / "mask.png", mask)
    assert said(depth, "d.png", "--mask", place / "mask.png").startswith(f"note: {place / 'd.png'}: 1 of its samples")


def test_of_many_images_zeros_are_noted_once(ahmf, bundle, place):
    depth = SMOOTH.astype(np.uint8)
    for folder in ("depth", "rgb"):
        (place / folder).mkdir()
    for name, zeros in (("a", 0), ("b", 2), ("c", 1)):
        depth[0, :zeros] = 0
        write_depth(place / "depth" / f"{name}.png", depth)
        write_picture(place / "rgb" / f"{name}.png", GUIDE)
    ended = ahmf("upsample", bundle, "--depth", place / "depth", "--guide", place / "rgb", "--out", place / "out")
    assert ended.code == 0 and ended.out.startswith("3 of 3 frames")
    assert [line for line in ended.err.splitlines() if "note: " in line] == [
        f"note: {place / 'depth/b.png'}: 2 of its samples (4.17 %) are 0 and count as known depth; --invalid 0 would "
        "mark them as unknown"
    ]


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
    result = upsample.load(bundle).run(depth, GUIDE, invalid=None if invalid is None else 0)
    np.testing.assert_array_equal(found, result.depth)
    np.testing.assert_array_equal(picture, comparison(depth, result))
    if invalid:
        assert (picture[CAPTION : CAPTION + 4, -32:-28] == 128).all()  # the hole is grey


def test_of_a_large_result_every_second_pixel_is_shown(monkeypatch):
    monkeypatch.setattr(files_in_out, "TALLEST", 12)
    depth = np.arange(48, dtype=np.float32).reshape(6, 8)
    high = depth.repeat(4, 0).repeat(4, 1)
    result = upsample.Result(high, depth > 5, GUIDE, slice(None), slice(None), 4.0)
    picture = comparison(depth, result)
    assert picture.shape == (12 + CAPTION, 3 * 16 + 2 * GAP, 3)
    np.testing.assert_array_equal(picture[CAPTION:, :16], GUIDE[::2, ::2])
    assert (picture[CAPTION, -16:-8] == 128).all() and not (
        comparison(depth, result, filled=True)[CAPTION, -16:] == 128
    ).all()


@pytest.fixture
def heard(monkeypatch):
    """The options that `Upsampler.run` was called with."""
    calls = []
    real = upsample.Upsampler.run

    def run(self, depth_lr, guide, **options):
        calls.append(options)
        return real(self, depth_lr, guide, **options)

    monkeypatch.setattr(upsample.Upsampler, "run", run)
    return calls


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        (("--invalid", "0"), "invalid", 0.0),
        (("--holes", "fill"), "holes", "fill"),
        (("--unit", "grey level"), "unit", "grey level"),
        (("--range", "300"), "depth_range", 300.0),
        (("--range", "lr"), "depth_range", "lr"),
        (("--factor", "4"), "factor", 4.0),
        (("--fit", "crop"), "fit", "crop"),
        (("--consistent",), "consistent", True),
        (("--tile", "40"), "tile", 40),
    ],
)
def test_every_option_reaches_the_upsampler(ahmf, bundle, place, heard, option, name, value):
    write_depth(place / "d.png", SMOOTH.astype(np.uint8))
    call(ahmf, bundle, place, "d.png", "o.png", *option)
    plain = {"mask": None, "tta": False, "invalid": None, "holes": "keep", "unit": None, "depth_range": None}
    plain |= {"factor": None, "fit": None, "consistent": False, "tile": None, "bucket": False}
    assert heard == [{**plain, name: value}]


def test_a_mask_its_confidence_and_the_spread(ahmf, bundle, place):
    depth = SMOOTH.astype(np.uint8)
    write_depth(place / "d.png", depth)
    known = np.ones(depth.shape, bool)
    known[2:4, 3:6] = False
    Image.fromarray(known).save(place / "m.png")
    more = ("--mask", place / "m.png", "--confidence", place / "c.png", "--spread", place / "s.tif")
    found = call(ahmf, bundle, place, "d.png", "o.png", *more)
    result = upsample.load(bundle).run(depth, GUIDE, mask=known, tta=True)
    np.testing.assert_array_equal(found, result.depth)
    np.testing.assert_array_equal(read_depth(place / "s.tif"), result.spread)
    assert result.distance.max() > 0.5
    np.testing.assert_allclose(read_depth(place / "c.png") / 100, result.distance, atol=0.005001)
    call(ahmf, bundle, place, "d.png", "o.png", "--mask", place / "m.png", "--confidence", place / "c.npy")
    np.testing.assert_array_equal(read_depth(place / "c.npy"), result.distance)


def test_a_point_cloud_lies_where_the_camera_says(ahmf, bundle, place):
    depth = SMOOTH.astype(np.uint8)
    depth[2, 3] = 0
    write_depth(place / "d.png", depth)
    camera = ("--ply", place / "c.ply", "--intrinsics", "30,31,15.5,11.5")
    found = call(ahmf, bundle, place, "d.png", "o.png", "--invalid", "0", *camera)
    header, _, body = (place / "c.ply").read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(body, np.dtype([("p", "<f4", 3), ("c", "u1", 3)]))
    wanted, places = points(found, found > 0, Intrinsics(30.0, 31.0, 15.5, 11.5))
    assert len(rows) == 24 * 32 - 16 and b"element vertex 752" in header
    np.testing.assert_array_equal(rows["p"], wanted)
    np.testing.assert_array_equal(rows["c"], GUIDE.reshape(-1, 3)[places])


@pytest.mark.parametrize(("fit", "shape"), [("crop", (30, 42)), ("crop", (23, 29)), ("resample", (48, 64))])
def test_the_camera_goes_with_a_guide_that_was_fitted(bundle, fit, shape):
    """A guide whose colours are its own rows and columns shows where each pixel of the result came from."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    guide = np.stack([y, x, 0 * x], -1).astype(np.uint8)
    images = files_in_out.Images(SMOOTH.astype(np.float32), guide, None)
    result = upsample.load(bundle).run(images.depth, guide, fit=fit)
    before = Intrinsics(30.0, 33.0, 15.0, 11.0)
    after = files_in_out.output_camera(before, images, result, {"fit": fit})
    row, column = result.guide.shape[0] // 2, result.guide.shape[1] // 2
    # The ray of a pixel before and after is one.
    for focal, centre, focal2, centre2, new, old in (
        (before.fy, before.cy, after.fy, after.cy, row, result.guide[row, column, 0]),
        (before.fx, before.cx, after.fx, after.cx, column, result.guide[row, column, 1]),
    ):
        assert (new - centre2) / focal2 == pytest.approx((float(old) - centre) / focal, abs=1.01 / focal)
        if fit == "crop":
            assert (new - centre2) / focal2 == (float(old) - centre) / focal


def test_what_is_refused_before_it_is_computed(refused, bundle, place, monkeypatch):
    monkeypatch.setattr(upsample.Upsampler, "run", lambda *_, **__: pytest.fail("was computed"))
    write_depth(place / "d.png", SMOOTH.astype(np.uint8))
    Image.new("L", (8, 5)).save(place / "small.png")
    Image.new("L", (8, 6)).save(place / "black.png")
    (place / "camera.json").write_text('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "width": 640, "height": 480}')
    args = ("upsample", bundle, "--depth", place / "d.png", "--guide", place / "guide.png", "--out", place / "o.png")
    for more, said in (
        (("--mask", place / "small.png"), "small.png: the mask is 8 x 5 pixels and the depth 8 x 6"),
        (("--mask", place / "black.png"), "black.png: the mask is black all over"),
        (("--confidence", place / "o.png"), "o.png: is named twice"),
        (("--spread", place / "s.png"), "s.png: the spread is written as .npy, .pfm, .tif, .tiff or .exr"),
        (("--ply", place / "c.ply"), "--ply and --intrinsics go together"),
        (("--ply", place / "c.obj", "--intrinsics", "1,1,1,1"), "c.obj: a point cloud is written as .ply"),
        (("--ply", place / "c.ply", "--intrinsics", place / "camera.json"), "guide.png: is 32 x 24 pixels"),
        (("--channel", "Z"), "d.png: has one channel alone"),
        (("--temporal",), "--temporal is for a video"),
        (("--tile", "0"), "--max-pixels and --tile take a whole number"),
        (("--devices", "1000"), "--devices"),
        (("--max-pixels", "40"), "claims 6 x 8 pixels, and the limit is 40"),
    ):
        refused(*args, *more, said=said)
    for out, said in (("d.png", "d.png: is named twice"), ("o.pfm", "o.pfm: the result is uint8"), ("o.jpg", "o.jpg")):
        refused(*args[:-1], place / out, said=said)
    assert sorted(path.name for path in place.iterdir()) == sorted(
        ["black.png", "camera.json", "d.png", "guide.png", "small.png"]
    )


def test_several_devices_share_an_image(ahmf, bundle, place):
    depth = np.tile(SMOOTH, (6, 1)).astype(np.uint8)
    write_depth(place / "d.png", depth)
    write_picture(place / "guide.png", np.tile(GUIDE, (6, 1, 1)))
    one = call(ahmf, bundle, place, "d.png", "o.png")
    two = call(ahmf, bundle, place, "d.png", "p.png", "--devices", "2")
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1


def test_a_run_does_as_its_converted_file_does(ahmf, run, place, tmp_path):
    write_depth(place / "d.png", (100 * SMOOTH).astype(np.uint16))
    wanted = call(ahmf, run, place, "d.png", "o.png")
    assert ahmf("convert", "to-torch", run, tmp_path / "t.safetensors").code == 0
    args = ("--scaling", "sample", "--range", "10", "--unit", "m")
    assert ahmf("convert", "from-torch", tmp_path / "t.safetensors", tmp_path / "b.safetensors", *args).code == 0
    np.testing.assert_array_equal(call(ahmf, tmp_path / "b.safetensors", place, "d.png", "o.png"), wanted)
    assert upsample.load(tmp_path / "b.safetensors").trained.unit == "m"
