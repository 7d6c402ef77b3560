"""What `ahmf doctor --depth` tells of a generated scene, whole and spoilt in every way that it knows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.degrade import degrade
from data_pipelines.files import read_depth, read_guide, write_depth, write_picture
from experiments import doctor_alignment, doctor_kernel, doctor_values
from experiments.doctor_depth import Model, examine, report

SCALE = 4
SHARED = Path(__file__).parents[3] / "shared" / "data"


def scene(height=352, width=448, seed=0):
    """Discs and boxes before a slanted ground, in metres, each of its own colour with noise: edges common to both."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    inverse = 0.15 + 0.25 * rows / height + 0.05 * columns / width
    colour = np.full((height, width, 3), 90.0)
    for i in range(40):
        y, x, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(14, 45)
        if i % 2:
            inside = (rows - y) ** 2 + (columns - x) ** 2 < r**2
        else:
            inside = (abs(rows - y) < r) & (abs(columns - x) < 0.7 * r)
        inverse[inside] = inverse[int(min(y, height - 1)), int(min(x, width - 1))] + rng.uniform(0.08, 0.3)
        colour[inside] = rng.uniform(0, 255, 3)
    guide = (colour + rng.normal(0, 3, colour.shape)).clip(0, 255).astype(np.uint8)
    return (1 / inverse).astype(np.float32), guide


DEPTH, GUIDE = scene()


def small(kernel="matlab_bicubic", depth=DEPTH):
    return degrade(depth, np.ones(depth.shape, bool), SCALE, kernel)[0]


def millimetres(kernel="matlab_bicubic"):
    return np.rint(1000 * small(kernel)).astype(np.uint16)


def told(found, about):
    """The one finding about that: the alarm where there is one."""
    (finding, *_) = sorted((f for f in found if f.about == about), key=lambda f: -f.wrong)
    return finding


def alarms(found):
    return [finding.about for finding in found if finding.wrong]


@pytest.mark.parametrize(("unit", "per_metre", "dtype"), [("mm", 1000, np.uint16), ("m", 1, np.float32)])
def test_a_sound_pair_raises_no_alarm(unit, per_metre, dtype):
    found = examine((per_metre * small()).astype(dtype), GUIDE)
    assert alarms(found) == []
    assert told(found, "unit").value == unit
    assert told(found, "meaning").value == "depth"
    assert told(found, "alignment").says.startswith("aligned")
    assert np.abs(told(found, "alignment").value).max() < 1
    assert told(found, "kernel").value == "bicubic"


def test_a_disparity_is_told_from_a_depth():
    found = examine(np.rint(100 / small()).astype(np.uint8), GUIDE)
    assert told(found, "meaning").value == "disparity"
    assert told(found, "unit").value == "none"


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-8, 5), (0, -6)])
def test_a_shifted_guide_is_told_by_how_much(right, down):
    depth, guide = scene(384, 480)
    cut = slice(16, -16)
    moved = np.roll(guide, (down, right), (0, 1))[cut, cut]
    found = told(examine(small(depth=depth)[4:-4, 4:-4], moved), "alignment")
    assert found.wrong
    assert np.abs(np.subtract(found.value, (right, down))).max() < 1
    assert ("to the right" in found.says) == (right > 0)
    assert ("to the left" in found.says) == (right < 0)
    assert (" up" in found.says) == (down < 0)


def test_the_first_of_each_cell_is_a_shift_of_one_and_a_half():
    """Sampling `nearest_first` moves the depth (scale - 1) / 2 pixels to the right and down against its guide."""
    shift = doctor_alignment.measure(small("nearest_first"), np.ones((88, 112), bool), GUIDE)
    assert shift.right == pytest.approx(-1.5, abs=0.5)
    assert shift.down == pytest.approx(-1.5, abs=0.5)


@pytest.mark.parametrize("how", [name for name in doctor_alignment.ORIENTATIONS if name])
def test_a_turned_guide_is_told(how):
    depth, guide = scene(384, 384, seed=1)
    turn = doctor_alignment.ORIENTATIONS[how]
    # The guide that `turn` brings back: its inverse is among them.
    stored = next(g for t in doctor_alignment.ORIENTATIONS.values() if np.array_equal(turn(g := t(guide)), guide))
    found = told(examine(small(depth=depth), stored), "alignment")
    assert found.wrong
    assert found.value == how


def test_where_edges_tell_nothing_nothing_is_told():
    flat = np.full(GUIDE.shape, 7, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, GUIDE.shape, np.uint8)
    for guide in (flat, noise):
        found = told(examine(small(), guide), "alignment")
        assert not found.wrong
        assert "cannot be told" in found.says


def test_edges_of_holes_do_not_count():
    depth, known = small(), np.ones((88, 112), bool)
    known[20:60, 10:90:9] = False
    spoilt = np.where(known, depth, depth.max())
    before, after = (doctor_alignment.measure(each, known, GUIDE) for each in (depth, spoilt))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert doctor_alignment.measure(spoilt, np.ones_like(known), GUIDE).fit < 0.9 * before.fit


@pytest.mark.parametrize(
    ("depth", "value"),
    [
        (millimetres(), 0),
        (millimetres(), 65535),
        (small(), 0.0),
        (small(), -1.0),
        (small(), float("nan")),
        (small(), float("inf")),
        (small(), 1e4),
        (np.rint(100 / small()).astype(np.uint8), 255),
    ],
)
def test_what_means_unknown_is_told(depth, value):
    spoilt = depth.copy()
    spoilt[20:26, 30:38] = spoilt[60:63, 70:75] = value
    found = told(examine(spoilt, GUIDE), "holes")
    assert found.wrong
    np.testing.assert_equal(found.value, value)
    if value != np.inf:
        assert found.remedy == f"--invalid {value:g}"
    # Known already, it is no alarm, and never one of the range or the unit.
    again = examine(spoilt, GUIDE, invalid=value)
    assert alarms(again) == []
    assert told(again, "unit").value == told(examine(depth), "unit").value


def test_zero_that_depth_runs_up_to_is_a_measurement():
    rows, columns = np.mgrid[:88, :112]
    disparity = np.maximum(0, columns + rows - 60).astype(np.uint8)
    assert (disparity == 0).mean() > 0.1
    assert not told(examine(disparity), "holes").wrong


def test_zero_among_many_that_are_near_it_is_a_measurement():
    noise = np.random.default_rng(0).integers(0, 256, (88, 112), np.uint8)
    noise[::9, ::11] = 0
    assert not told(examine(noise), "holes").wrong
    noise[(noise > 0) & (noise < 20)] = 30
    assert told(examine(noise), "holes").value == 0


def test_zeros_that_may_be_either_are_named():
    """A block of them, with depth of a twelfth of the span above: nothing tells that they mean unknown."""
    rng = np.random.default_rng(0)
    depth = (5000 * rng.uniform(0.02, 1, (16, 20)) ** 2 + 60).astype(np.uint16)
    assert told(examine(depth), "holes").says == "none found"
    depth[4:7, 5:10] = 0
    found = told(examine(depth), "holes")
    assert found.says.startswith("none for certain, but 4.7 % of the samples are 0, the smallest above 6")
    assert (found.wrong, found.sure, found.remedy) == (False, "possible", "--invalid 0, if they mean unknown")
    assert told(examine(depth, invalid=0), "holes").says == "none but 0"


def test_without_a_guide_nothing_is_said_of_its_size():
    assert told(examine(small()), "size").says == "112 x 88"


def test_depth_below_zero_is_told():
    found = told(examine(-small()), "holes")
    assert found.wrong
    assert "below 0" in found.says


def test_clipped_and_rounded_depth_is_told():
    disparity = 100 / small()
    clipped = np.add.outer(np.arange(40, 140), 2 * np.arange(120)).clip(0, 255).astype(np.uint8)
    assert told(examine(clipped), "saturation").value == 255
    few = (np.rint(small() / small().max() * 20) * 12).astype(np.uint8)
    assert told(examine(few), "levels").wrong
    assert "multiples of 257" in told(examine(np.rint(disparity).astype(np.uint16) * 257), "levels").says
    assert told(examine(np.full((40, 40), 3, np.uint8)), "levels").wrong


@pytest.mark.parametrize(
    ("kernel", "family"),
    [
        ("matlab_bicubic", "bicubic"),
        ("pillow_bicubic", "bicubic"),
        ("torch_bicubic", "torch_bicubic"),
        ("nearest_first", "nearest"),
        ("nearest_last", "nearest"),
        ("area", "area"),
    ],
)
def test_the_kernel_is_told_by_its_steps_and_by_the_truth(kernel, family):
    found = told(examine(millimetres(kernel), scale=SCALE), "kernel")
    assert found.value == family
    by_truth = told(examine(millimetres(kernel), truth=np.rint(1000 * DEPTH).astype(np.uint16)), "kernel")
    same = {"matlab_bicubic": "pillow_bicubic", "pillow_bicubic": "matlab_bicubic"}
    assert by_truth.value in (kernel, same.get(kernel))  # they differ at the border alone
    assert not by_truth.wrong


def test_a_truth_of_another_scene_or_size_is_told():
    other = np.rint(1000 * scene(seed=5)[0]).astype(np.uint16)
    assert told(examine(millimetres(), truth=other), "kernel").wrong
    with pytest.raises(InputError, match=r"--truth is 448 x 350 and the depth 112 x 88"):
        examine(millimetres(), truth=other[:-2])


def test_the_model_is_held_against_the_depth():
    model = Model(4, 10.0, "m", "range", "nearest_last")
    found = examine(millimetres(), GUIDE, model=model)
    assert told(found, "range").remedy == "--unit mm"
    assert told(found, "kernel").wrong
    assert "trained on nearest_last" in told(found, "kernel").says
    assert "ahmf upsample ... --unit mm" in report("d", "g", found)
    same = examine(millimetres(), GUIDE, model=Model(4, 10000.0, "mm", "range", "pillow_bicubic"))
    assert alarms(same) == []
    beyond = told(examine(millimetres(), GUIDE, model=Model(4, 2000.0, "mm", "range", None)), "range")
    assert beyond.remedy.startswith(f"--range {millimetres().max():.4g}")
    assert not told(examine(millimetres(), model=Model(4, 1.0, "m", "sample", None)), "range").wrong
    assert told(examine(small(), model=Model(4, 1000.0, "grey level", "range", None)), "range").wrong


@pytest.mark.parametrize(
    ("guide", "remedy"),
    [
        (GUIDE[:, :-8], "--fit crop"),
        (GUIDE[:-1, :-1], "--fit resample"),
        (GUIDE[:302, :385], "--factor 3.435"),
        (GUIDE[:88, :112], "before it was enlarged"),
        (GUIDE[:44, :56], "exchange"),
        (GUIDE.swapaxes(0, 1), "turn the guide"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(guide, remedy):
    found = told(examine(millimetres(), guide), "size")
    assert found.wrong
    assert remedy in found.remedy


def test_another_scale_than_the_models_is_told():
    assert told(examine(millimetres(), GUIDE, model=Model(8, 9.0, "m", "sample", None)), "size").remedy == "--factor 4"


def test_a_guide_that_is_the_depth_is_told():
    grey = np.repeat(np.rint(DEPTH / DEPTH.max() * 255).astype(np.uint8)[..., None], 3, 2)
    assert told(examine(millimetres(), grey), "guide").value == "depth"


def test_large_maps_are_thinned(monkeypatch):
    monkeypatch.setattr(doctor_values, "MOST_SAMPLES", 2000)
    assert doctor_values.sparse(millimetres()).size <= 2000
    assert told(examine(millimetres(), GUIDE), "unit").value == "mm"
    monkeypatch.setattr(doctor_alignment, "MOST_BLOCKS", 9)
    assert told(examine(millimetres(), GUIDE), "alignment").says.startswith("aligned")
    monkeypatch.setattr(doctor_kernel, "MOST_LINES", 200)
    assert told(examine(millimetres("area"), GUIDE), "kernel").value == "area"


def test_odd_maps_are_told_or_passed_over():
    assert told(examine(np.full((9, 9), np.nan, np.float32)), "holes").wrong
    for size in ((1, 1), (1, 40), (5, 7)):
        depth = np.arange(np.prod(size), dtype=np.float32).reshape(size) + 1
        examine(depth, np.zeros((4 * size[0], 4 * size[1], 3), np.uint8))


def test_very_long_maps_are_passed_over():
    depth = np.tile(np.arange(2**15, dtype=np.uint16), (2, 1))
    found = told(examine(depth, np.zeros((4, 2**16, 3), np.uint8)), "alignment")
    assert "cannot be told" in found.says


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real RGB-D images are not here")
def test_of_real_images():
    aloe = SHARED / "middlebury" / "2006" / "HalfSize" / "Aloe"
    depth, guide = read_depth(aloe / "disp1.png"), read_guide(aloe / "view1.png")
    depth, guide = depth[:552, :640][::SCALE, ::SCALE], guide[:552, :640]
    found = examine(depth, guide)
    assert told(found, "holes").value == 0
    assert told(found, "meaning").value == "disparity"
    # Each sample is the first of its cell.
    assert told(found, "alignment").value == pytest.approx((-1.5, -1.5), abs=0.7)
    whole = read_depth(SHARED / "test10" / "teddy_depth.png"), read_guide(SHARED / "test10" / "teddy_rgb.png")
    depth, guide = (each[: each.shape[0] // SCALE * SCALE, : each.shape[1] // SCALE * SCALE] for each in whole)
    low = np.rint(small(depth=depth.astype(np.float32))).astype(np.uint8)
    assert told(examine(low, guide), "alignment").says.startswith("aligned")
    assert told(examine(low, guide[:, ::-1]), "alignment").value == "mirrored left to right"


def test_from_files(ahmf, tmp_path, bundle):
    depth, guide = tmp_path / "d.png", tmp_path / "g.png"
    holed = millimetres()
    holed[20:26, 30:38] = 0
    write_depth(depth, holed)
    write_picture(guide, GUIDE)
    ended = ahmf("doctor", "--depth", depth, "--guide", guide)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "1 to put right: ahmf upsample ... --invalid 0"
    exchanged = ahmf("doctor", "--depth", guide, "--guide", depth)
    assert f"-> --depth {depth} --guide {guide}" in exchanged.out
    # The bundle's model takes 255 grey levels for 1.
    for_model = ahmf("doctor", "--depth", depth, "--guide", guide, "--weights", bundle)
    assert "beyond the model's 255 grey level" in for_model.out
    Image.fromarray(GUIDE).save(tmp_path / "d2.png")
    assert ahmf("doctor", "--depth", tmp_path / "d2.png", "--guide", guide).code == 2
