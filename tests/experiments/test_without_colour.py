"""Depth alone, from the command line: what reads no colour needs none, and what reads it says so."""

import json

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained, save_bundle
from ahmf_jax.models import DSDMSR
from ahmf_jax.upsample import load
from data_pipelines.files import read_depth, write_depth, write_picture
from experiments.benchmark_programs import random_params
from experiments.evaluations import read

RNG = np.random.default_rng(4)
DEPTH = RNG.integers(200, 900, (2, 7, 20)).astype(np.uint16)
DEPTH[1, :, :12] = DEPTH[0, :, :12] + 1  # hardly moves
GUIDE = RNG.integers(0, 256, (14, 40, 3), np.uint8)
CAMERA = "30,30,8,6"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A new DSDMSR x2; its units begin with what they are given."""
    path = tmp_path_factory.mktemp("weights") / "dsdmsr.safetensors"
    model = DSDMSR(2, unit="vdsr")
    save_bundle(path, Trained(model, random_params(model), "sample", "mm", 1000.0))
    return path


@pytest.fixture
def place(tmp_path):
    (tmp_path / "depth").mkdir()
    for number, depth in zip((10, 9), DEPTH, strict=True):
        write_depth(tmp_path / "depth" / f"{number}.png", depth)
    write_picture(tmp_path / "guide.png", GUIDE)
    return tmp_path


def test_an_image(ahmf, weights, place):
    out = place / "out.png"
    command = "upsample", weights, "--depth", place / "depth" / "10.png"
    extras = "--picture", place / "p.png", "--ply", place / "c.ply", "--intrinsics", CAMERA, "--spread", place / "s.tif"
    assert ahmf(*command, "--out", out, *extras).code == 0
    found = load(weights).run(DEPTH[0], tta=True)
    np.testing.assert_array_equal(read_depth(out), found.depth)
    np.testing.assert_array_equal(read_depth(place / "s.tif"), found.spread)
    assert found.guide.shape == (14, 40, 0) and found.depth.std() > 10
    head = (place / "c.ply").read_bytes().split(b"end_header\n")[0].decode()
    assert "property float x" in head and "uchar" not in head  # no colours, where there are none
    # One that is given changes nothing where there are no holes, and gives the cloud its colours.
    guided = place / "guided.png"
    extras = "--ply", place / "d.ply", "--intrinsics", CAMERA
    assert ahmf(*command, "--guide", place / "guide.png", "--out", guided, *extras).code == 0
    np.testing.assert_array_equal(read_depth(guided), load(weights)(DEPTH[0]))
    assert b"property uchar red" in (place / "d.ply").read_bytes()


def test_holes_are_closed_from_what_is_near_and_by_the_guide_if_there_is_one(weights):
    depth = np.full((6, 6), 300, np.uint16)
    depth[:, 3:] = 800
    known = np.ones(depth.shape, bool)
    depth[2, 1] = 800
    known[2, 1] = False
    guide = np.where(depth == 800, 255, 0).astype(np.uint8).repeat(2, 0).repeat(2, 1)[..., None].repeat(3, 2)
    upsampler = load(weights)
    whole = upsampler(depth, guide)
    # The guide has the sample that is missing; without it the one beside it is the best guess.
    np.testing.assert_array_equal(upsampler(depth, guide, mask=known, holes="fill"), whole)
    assert not np.array_equal(upsampler(depth, mask=known, holes="fill"), whole)


def test_many_in_tiles_at_another_factor_and_steadied(ahmf, weights, place):
    out = place / "out"
    command = "upsample", weights, "--depth", place / "depth", "--out", out, "--factor", "3", "--tile", "4"
    assert ahmf(*command).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["10.png", "9.png"]
    upsampler = load(weights)
    alone = [upsampler(depth, factor=3).astype(int) for depth in DEPTH[::-1]]  # 9 comes before 10
    for name, wanted in zip(("9", "10"), alone, strict=True):
        found = read_depth(out / f"{name}.png").astype(int)
        assert found.shape == (21, 60) and np.abs(found - wanted).max() <= 1
    assert ahmf(*command, "--temporal").code == 0
    first, second = (read_depth(out / f"{name}.png").astype(int) for name in ("9", "10"))
    np.testing.assert_array_equal(first, alone[0])
    np.testing.assert_array_equal(second[:, 45:], alone[1][:, 45:])  # another scene
    assert (second[:, :12] != alone[1][:, :12]).mean() > 0.5  # blended with the frame before


def test_a_guide_of_no_channels_is_none(weights, bundle):
    upsampler, nothing = load(weights), np.empty((14, 40, 0), np.uint8)
    np.testing.assert_array_equal(upsampler(DEPTH[0], nothing), upsampler(DEPTH[0]))
    np.testing.assert_array_equal(upsampler(DEPTH, np.stack([nothing] * 2)), upsampler(DEPTH))
    with pytest.raises(InputError, match=r"the guide has shape \(14, 40, 0\): \(height, width, 3\) is needed"):
        load(bundle)(DEPTH[0], nothing)


def test_a_video_of_depth_alone(ahmf, refused, weights, bundle, place):
    """`place` has a folder depth, and no pictures but one beside it."""
    out = place / "out"
    assert ahmf("upsample", weights, "--sequence", place, "--out", out).code == 0
    for name, depth in zip(("10", "9"), DEPTH, strict=True):
        np.testing.assert_array_equal(read_depth(out / f"{name}.png"), load(weights)(depth))
    refused("upsample", bundle, "--sequence", place, "--out", place / "o", said="no colour pictures are found: a seq")
    # With pictures beside the maps, one that is missing is missed.
    (place / "rgb").mkdir()
    write_picture(place / "rgb" / "9.png", GUIDE)
    ended = ahmf("upsample", weights, "--sequence", place, "--out", out)
    assert ended.code == 1 and "10.png: has no colour picture beside it" in ended.err


def test_intrinsics_of_another_size_than_the_results(ahmf, refused, weights, place):
    camera = {"fx": 1, "fy": 1, "cx": 1, "cy": 1, "width": 640, "height": 480}
    (place / "camera.json").write_text(json.dumps(camera))
    given = "upsample", weights, "--intrinsics", place / "camera.json", "--depth"
    outputs = "--out", place / "o.png", "--ply", place / "c.ply", "--picture", place / "p.png"
    said = "10.png: the result is 40 x 14 pixels, and the intrinsics are of 640 x 480: give those of the result"
    refused(*given, place / "depth" / "10.png", *outputs, said=said)
    said = "10.png: the result is 60 x 21 pixels, and the intrinsics are of 640 x 480"
    refused(*given, place / "depth" / "10.png", *outputs, "--factor", "3", said=said)
    assert not {"o.png", "c.ply", "p.png"} & {path.name for path in place.iterdir()}
    ended = ahmf(*given, place / "depth", "--out", place / "o", "--ply", place / "c")
    assert ended.code == 1 and "frame 9: " in ended.err
    assert not (place / "o").exists() and not (place / "c").exists()  # which nothing came into
    (place / "o").mkdir()  # the user's own stays
    assert ahmf(*given, place / "depth", "--out", place / "o", "--ply", place / "c").code == 1
    assert (place / "o").is_dir() and not (place / "c").exists()
    (place / "camera.json").write_text(json.dumps(camera | {"width": 40, "height": 14}))
    assert ahmf(*given, place / "depth" / "10.png", *outputs).code == 0


def test_a_model_that_reads_colour_says_so(refused, bundle, place):
    one, out = place / "depth" / "10.png", place / "out.png"
    refused("upsample", bundle, "--depth", one, "--out", out, said="colour picture of the view: name it with --guide")
    refused("upsample", bundle, "--depth", place / "depth", "--out", place / "many", said="name it with --guide")
    assert not out.exists() and not (place / "many").exists()
    refused("upsample", bundle, "--guide", place / "guide.png", "--out", out, said="--depth and --guide are needed")


def test_a_folder_without_depth(refused, weights, place):
    (place / "empty").mkdir()
    refused(
        "upsample", weights, "--depth", place / "empty", "--out", place / "o", said="empty: no depth maps are found"
    )
    refused("upsample", weights, "--depth", place / "no", "--out", place / "o.png", said="no: ")


def test_evaluation_of_depth_alone(ahmf, refused, weights, bundle, place):
    truth = RNG.integers(20, 250, (2, 16, 12)).astype(np.uint8)
    (place / "truth").mkdir()
    for name, depth in zip("ab", truth, strict=True):
        write_depth(place / "truth" / f"{name}.png", depth)
    data = "--dataset", place / "truth", "--pairs.depth", "*.png", "--pairs.guide", "", "--protocol", "float"
    out = place / "record"
    assert ahmf("evaluate", weights, *data, "--out", out, "--keep", "1").code == 0
    image = read(out).image("a")
    assert image["guide"].shape == (16, 12, 0)
    np.testing.assert_array_equal(image["depth_hr"], truth[0])
    np.testing.assert_allclose(image["prediction"], load(weights)(image["depth_lr"]), rtol=1e-5)
    assert ahmf("evaluate", "bicubic", "--scale", "2", *data).code == 0
    refused(
        "evaluate",
        bundle,
        *data,
        said="^ahmf: a: x4, m = 1.* reads 3 channels of colour, and there are 0: .* \\(dsdmsr, dscsan\\)$",
    )
    refused("evaluate", "guided_filter", "--scale", "4", *data, said="^ahmf: a: guided_filter is guided by colour, and")
