"""Degradation: kernels and effects are what their names say, masks say what is known, windows are crops."""

import dataclasses
import itertools
import json
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.degrade import EDGE_STEP, Degradation, Kernel, degrade, degrade_guide, measure

RNG = np.random.default_rng(1)
DEPTH = RNG.uniform(0, 255, (24, 40)).astype(np.float32)
KNOWN = np.ones(DEPTH.shape, bool)
SPARSE = RNG.random(DEPTH.shape) < 0.4


@pytest.mark.parametrize("kernel", resample.KERNELS)
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_without_holes_it_is_the_named_kernel(kernel, scale):
    depth_lr, mask_lr = degrade(DEPTH, KNOWN, scale, kernel)
    want = resample.resize(DEPTH.astype(np.float64)[..., None], (24 // scale, 40 // scale), kernel)[..., 0]
    assert depth_lr.dtype == np.float32 and mask_lr.dtype == bool
    np.testing.assert_allclose(depth_lr, want, atol=2e-4)
    assert mask_lr.all()


def test_the_definitions_themselves():
    np.testing.assert_array_equal(degrade(DEPTH, KNOWN, 4, "nearest_first")[0], DEPTH[::4, ::4])
    np.testing.assert_array_equal(degrade(DEPTH, KNOWN, 4, "nearest_center")[0], DEPTH[1::4, 1::4])
    np.testing.assert_array_equal(degrade(DEPTH, KNOWN, 4, "nearest_last")[0], DEPTH[3::4, 3::4])
    blocks = DEPTH.reshape(6, 4, 10, 4).mean((1, 3))
    np.testing.assert_allclose(degrade(DEPTH, KNOWN, 4, "area")[0], blocks, rtol=1e-5)
    pillow = np.asarray(Image.fromarray(DEPTH).resize((10, 6), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(degrade(DEPTH, KNOWN, 4, "pillow_bicubic")[0], pillow, atol=1e-3)


@pytest.mark.parametrize("kernel", resample.KERNELS)
def test_a_constant_stays_one(kernel):
    depth_lr, _ = degrade(np.full((16, 32), 7.25, np.float32), KNOWN[:16, :32], 4, kernel)
    np.testing.assert_allclose(depth_lr, 7.25, rtol=1e-6)


def test_area_is_the_mean_of_what_is_known():
    poisoned = np.where(SPARSE, DEPTH, 1e6).astype(np.float32)  # the filling must not count
    depth_lr, mask_lr = degrade(poisoned, SPARSE, 4, "area")
    for y in range(6):
        for x in range(10):
            block = slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4)
            assert mask_lr[y, x] == SPARSE[block].any()
            if mask_lr[y, x]:
                np.testing.assert_allclose(depth_lr[y, x], DEPTH[block][SPARSE[block]].mean(), rtol=1e-5)


@pytest.mark.parametrize("scale", [4, 8])
def test_one_known_sample_makes_an_area_known_and_none_does_not(scale):
    mask = np.zeros(DEPTH.shape, bool)
    mask[scale + 1, 2] = True
    depth_lr, mask_lr = degrade(DEPTH, mask, scale, "area")
    assert mask_lr.sum() == 1 and mask_lr[1, 0]
    np.testing.assert_allclose(depth_lr[1, 0], DEPTH[scale + 1, 2], rtol=1e-5)


@pytest.mark.parametrize(("kernel", "offset"), [("nearest_first", 0), ("nearest_center", 1), ("nearest_last", 3)])
def test_a_sample_brings_its_mask(kernel, offset):
    np.testing.assert_array_equal(degrade(DEPTH, SPARSE, 4, kernel)[1], SPARSE[offset::4, offset::4])


@pytest.mark.parametrize("kernel", [k for k in resample.KERNELS if "bicubic" in k])
def test_bicubic_is_known_where_half_the_block_is(kernel):
    mask = np.zeros((8, 12), bool)
    mask[:4, :2] = True  # exactly half of the first block
    mask[4:, 4:8] = True
    mask[4, 4:8] = mask[5, 4:8] = False
    mask[6, 4] = False  # one less than half
    np.testing.assert_array_equal(degrade(DEPTH[:8, :12], mask, 4, kernel)[1], [[1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("kernel", resample.KERNELS)
def test_a_window_is_a_crop_of_the_whole(kernel):
    whole = degrade(DEPTH, SPARSE, 2, kernel)
    for rows in (slice(0, 5), slice(4, 9), slice(7, 12)):  # both borders and the middle
        for columns in (slice(0, 3), slice(6, 13), slice(12, 20)):
            part = degrade(DEPTH, SPARSE, 2, kernel, rows, columns)
            np.testing.assert_allclose(part[0], whole[0][rows, columns], rtol=1e-5, atol=1e-4)
            np.testing.assert_array_equal(part[1], whole[1][rows, columns])


def test_degrade_refuses():
    with pytest.raises(InputError, match="scale 5 does not divide 24 x 40"):
        degrade(DEPTH, KNOWN, 5, "area")
    with pytest.raises(InputError, match="'bicubic' is not known"):
        degrade(DEPTH, KNOWN, 4, "bicubic")


# Away from the border weights are taken from a smaller image; a kernel that reached further than that is known to
# would show here, and so would a wrong band of a map of many bands.
@pytest.mark.parametrize("kernel", resample.KERNELS)
@pytest.mark.parametrize("scale", [1, 3, 4])
def test_a_window_far_from_the_border_is_a_crop_too(kernel, scale):
    depth = RNG.uniform(0, 255, (40 * scale, 50 * scale)).astype(np.float32)
    mask = RNG.random(depth.shape) < 0.5
    whole = degrade(depth, mask, scale, kernel)
    want = resample.resize(depth[..., None].astype(np.float64), (40, 50), kernel)[..., 0]
    np.testing.assert_allclose(degrade(depth, np.ones_like(mask), scale, kernel)[0], want, atol=2e-4)
    for rows, columns in ((slice(3, 37), slice(5, 25)), (slice(1, 20), slice(2, 49)), (slice(20, 40), slice(30, 31))):
        part = degrade(depth, mask, scale, kernel, rows, columns)
        np.testing.assert_allclose(part[0], whole[0][rows, columns], rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(part[1], whole[1][rows, columns])


UNIT_SPAN = np.array([0, 1], np.float32)


def measured(depth, scale=1, depth_range=1.0, span=UNIT_SPAN, seed=0, mask=None, window=(), **options):
    """What a sensor with these options makes of a depth map, all of it known unless a mask is given."""
    mask = np.ones(depth.shape, bool) if mask is None else mask
    rng = np.random.default_rng(seed)
    return measure(depth, mask, scale, Degradation(**options), depth_range, np.asarray(span), rng, *window)


def flat(value, shape=(200, 200)):
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize("kernel", resample.KERNELS)
def test_with_everything_off_it_is_the_kernel(kernel):
    depth_lr, mask_lr = measured(DEPTH, 4, mask=SPARSE, kernel=kernel)
    np.testing.assert_array_equal(depth_lr, degrade(DEPTH, SPARSE, 4, kernel)[0])
    np.testing.assert_array_equal(mask_lr, degrade(DEPTH, SPARSE, 4, kernel)[1])


def test_noise_of_the_range():
    noisy, mask = measured(flat(5.0), depth_range=10.0, span=[4, 6], noise_sigma=5 / 255)
    assert noisy.dtype == np.float32 and mask.all()
    assert abs((noisy - 5).std() - 10 * 5 / 255) < 0.004 and abs((noisy - 5).mean()) < 0.01
    assert measured(flat(0.0), depth_range=10.0, noise_sigma=0.5)[0].min() == 0
    assert measured(flat(10.0), depth_range=10.0, noise_sigma=0.5)[0].max() == 10


def test_noise_of_the_image():
    # The literature normalises the image first: clip((depth - low) / (high - low) + N(0, sigma), 0, 1), then back.
    ramp = np.linspace(4, 6, 40000, dtype=np.float32).reshape(200, 200)
    noisy, _ = measured(ramp, depth_range=10.0, span=[4, 6], noise_sigma=5 / 255, noise_of="image")
    middle = (ramp > 4.3) & (ramp < 5.7)
    assert abs((noisy - ramp)[middle].std() - 2 * 5 / 255) < 0.001
    assert noisy.min() == 4 and noisy.max() == 6
    np.testing.assert_array_equal(  # a flat image has no span that the noise could be a part of
        measured(flat(5.0), depth_range=10.0, span=[5, 5], noise_sigma=0.1, noise_of="image")[0], 5
    )


def test_without_noise_nothing_is_clipped():
    above = np.array([[1.5, -0.5]], np.float32)
    np.testing.assert_array_equal(measured(above)[0], above)


def test_tof_noise_grows_with_the_square_of_depth():
    for depth in (1.0, 2.0, 4.0):
        noise = measured(flat(depth), depth_range=4.0, tof_sigma=0.01)[0] - depth
        assert noise.std() == pytest.approx(0.01 * 4 * (depth / 4) ** 2, rel=0.02)
        assert abs(noise.mean()) < noise.std() / 50
    assert measured(flat(4.0), depth_range=4.0, tof_sigma=0.01)[0].max() > 4  # a sensor is not clipped


def test_flying_pixels_are_mixtures_at_depth_edges():
    step = flat(1.0, (300, 20))
    step[:, 10:] = 3.0
    depth_lr, mask_lr = measured(step, depth_range=4.0, flying_pixels=1.0)
    at_edge = depth_lr[:, 9:11]
    assert mask_lr.all()
    np.testing.assert_array_equal(np.delete(depth_lr, (9, 10), 1), np.delete(step, (9, 10), 1))
    assert at_edge.min() >= 1 and at_edge.max() <= 3
    assert abs(at_edge.mean() - 2) < 0.1 and abs(at_edge.std() - 2 / np.sqrt(12)) < 0.05  # uniform between the two
    some = measured(step, depth_range=4.0, flying_pixels=0.3)[0]
    assert abs((some != step)[:, 9:11].mean() - 0.3) < 0.06
    assert abs(some[some != step].mean() - 2) < 0.15  # which sample is mixed says nothing about the mixture
    # A step that is no edge of the range is none here either.
    np.testing.assert_array_equal(measured(step, depth_range=2.1 / EDGE_STEP, flying_pixels=1.0)[0], step)


def test_multipath_blur_is_a_gaussian():
    impulse = flat(0.0, (21, 25))
    impulse[10, 12] = 1
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    line /= line.sum()
    blurred, mask = measured(impulse, multipath_blur=1.5)
    np.testing.assert_allclose(blurred[5:16, 7:18], np.outer(line, line), atol=1e-6)
    assert blurred.sum() == pytest.approx(1, rel=1e-5) and mask.all()
    np.testing.assert_allclose(measured(flat(7.0, (9, 9)), multipath_blur=2.0)[0], 7, rtol=1e-6)


@pytest.mark.parametrize("window", [(slice(0, 5), slice(3, 9)), (slice(10, 24), slice(20, 40))])
def test_what_is_not_chance_is_a_crop_of_the_whole(window):
    options = {"multipath_blur": 1.2, "lidar_lines": 9}
    whole = measured(DEPTH, **options)
    part = measured(DEPTH, window=window, **options)
    np.testing.assert_array_equal(part[1], whole[1][window])
    np.testing.assert_allclose(part[0][part[1]], whole[0][window][part[1]], rtol=1e-5)


def test_an_edge_beyond_the_window_counts():
    step = flat(1.0, (8, 20))
    step[:, 10:] = 3.0
    for columns in (slice(10, 20), slice(4, 10)):
        part, _ = measured(step, window=(slice(2, 5), columns), flying_pixels=1.0)
        edge = 10 if columns.start == 10 else 9
        np.testing.assert_array_equal((part != step[2:5, columns]).all(0), np.arange(20)[columns] == edge)


def test_dropouts_are_a_share_of_the_samples():
    ramp = np.arange(40000, dtype=np.float32).reshape(200, 200)
    depth_lr, mask_lr = measured(ramp, dropouts=0.1)
    assert abs(mask_lr.mean() - 0.9) < 0.005
    np.testing.assert_array_equal(depth_lr[mask_lr], ramp[mask_lr])
    assert np.isin(depth_lr[~mask_lr], ramp[mask_lr]).all()  # nothing is left of what was lost
    assert abs(depth_lr - ramp).max() < 1000  # and the filling comes from nearby


def test_lidar_lines_are_evenly_spaced_rows():
    rows = np.arange(12, dtype=np.float32)[:, None].repeat(5, 1)
    depth_lr, mask_lr = measured(rows, lidar_lines=3)
    np.testing.assert_array_equal(mask_lr.all(1), [i in (2, 6, 10) for i in range(12)])
    np.testing.assert_array_equal(mask_lr.any(1), mask_lr.all(1))
    np.testing.assert_array_equal(depth_lr[[0, 1, 2, 3, 5, 6, 7, 9, 10, 11], 0], [2, 2, 2, 2, 6, 6, 6, 10, 10, 10])
    for lines in (1, 5, 12):
        assert measured(rows, lidar_lines=lines)[1].all(1).sum() == lines
    assert measured(rows, lidar_lines=100)[1].all()


def test_holes_stay_holes_and_where_nothing_is_left_depth_is_0():
    hole = np.ones((12, 5), bool)
    hole[6, 2] = False
    _, mask_lr = measured(flat(1.0, (12, 5)), lidar_lines=3, mask=hole)
    assert mask_lr.sum() == 14 and not mask_lr[6, 2]
    depth_lr, mask_lr = measured(flat(1.0, (12, 5)), lidar_lines=3, window=(slice(3, 6), slice(0, 5)))
    np.testing.assert_array_equal(depth_lr, np.zeros((3, 5)))
    assert not mask_lr.any()


CHANCE = {
    "flying_pixels": 0.5,
    "tof_sigma": 0.01,
    "noise_sigma": 0.01,
    "dropouts": 0.2,
}


@pytest.mark.parametrize(("effect", "other"), list(itertools.permutations(CHANCE, 2)))
def test_one_effect_does_not_change_what_is_drawn_for_another(effect, other):
    # Apart from float32's rounding, the other effect adds the same to depth with and without this one.
    depth = flat(0.5, (40, 40))
    depth[:, 20:] = 0.6

    def run(*names):
        return measured(depth, **{name: CHANCE[name] for name in names})

    alone, both, base = run(effect), run(effect, other), run(other)
    if effect == "dropouts":
        np.testing.assert_array_equal(both[1], alone[1])
    elif other == "dropouts":
        np.testing.assert_array_equal(both[0][both[1]], alone[0][both[1]])
    elif effect == "flying_pixels":  # the mixtures are made before any noise
        replaced = alone[0] != depth
        assert replaced.any() and not replaced.all()
        np.testing.assert_allclose((both[0] - base[0])[~replaced], 0, atol=1e-6)
        np.testing.assert_allclose(both[0][replaced], alone[0][replaced], atol=0.06)
    else:
        same = np.ones(depth.shape, bool) if other != "flying_pixels" else base[0] == depth
        np.testing.assert_allclose((both[0] - base[0])[same], (alone[0] - depth)[same], atol=1e-3)
        assert abs((alone[0] - depth)[same]).mean() > 2e-3


def test_effects_do_not_share_their_chance():
    depth = flat(0.5)
    axial, noise = (measured(depth, **{name: CHANCE[name]})[0] - depth for name in ("tof_sigma", "noise_sigma"))
    assert abs(np.corrcoef(axial.ravel(), noise.ravel())[0, 1]) < 0.03
    lost = ~measured(depth, dropouts=0.2)[1]
    assert abs(noise[lost].mean()) < 4e-4 and noise[lost].std() == pytest.approx(0.01, rel=0.05)


def test_chance_follows_from_the_generators_state_alone():
    # A caller may set one generator's state anew for each example, as Grain does: `Generator.spawn` would not notice.
    rng = np.random.Generator(np.random.Philox(7))
    state = rng.bit_generator.state
    results = []
    for options in ({}, CHANCE, CHANCE, {"multipath_blur": 1.0, **CHANCE}):
        rng.bit_generator.state = state
        results.append(measure(DEPTH, SPARSE, 2, Degradation(**options), 255.0, UNIT_SPAN, rng))
        results[-1] += (rng.random(),)
    np.testing.assert_array_equal(results[1][0], results[2][0])
    np.testing.assert_array_equal(results[1][1], results[2][1])
    assert len({after for *_, after in results}) == 1  # what is drawn next does not depend on the options
    rng.bit_generator.state = state
    rng.random()
    assert (measure(DEPTH, SPARSE, 2, Degradation(**CHANCE), 255.0, UNIT_SPAN, rng)[1] != results[1][1]).any()


GUIDE = RNG.integers(0, 256, (24, 40, 3), np.uint8)
WHOLE = slice(0, 24), slice(0, 40)


def guided(guide, window=WHOLE, **options):
    return degrade_guide(guide, Degradation(**options), *window)


def test_an_untouched_guide_is_a_view():
    part = guided(GUIDE, (slice(3, 9), slice(5, 30)))
    np.testing.assert_array_equal(part, GUIDE[3:9, 5:30])
    assert np.shares_memory(part, GUIDE)


@pytest.mark.parametrize("shift", [3, -2, 50])
def test_a_guide_is_displaced_to_the_right(shift):
    impulse = np.zeros((24, 40, 3), np.uint8)
    impulse[5, 10] = 200
    want = np.zeros_like(impulse)
    if 10 + shift < 40:
        want[5, 10 + shift] = 200
    np.testing.assert_array_equal(guided(impulse, guide_shift=shift), want)
    moved = guided(GUIDE, guide_shift=shift)
    beyond = moved[:, :shift] if shift > 0 else moved[:, shift:]
    np.testing.assert_array_equal(beyond, np.broadcast_to(GUIDE[:, :1] if shift > 0 else GUIDE[:, -1:], beyond.shape))


def test_a_guides_blur_is_a_gaussian_of_each_channel():
    impulse = np.zeros((24, 40, 3), np.uint8)
    impulse[12, 20] = (255, 100, 0)
    line = np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2)
    line /= line.sum()
    want = np.outer(line, line)[..., None] * (255, 100, 0)
    blurred = guided(impulse, guide_blur=2.0)
    assert blurred.dtype == np.uint8
    np.testing.assert_allclose(blurred[6:19, 14:27], want, atol=1)  # OpenCV blurs bytes in fixed point
    constant = np.full((24, 40, 3), 77, np.uint8)
    np.testing.assert_array_equal(guided(constant, guide_blur=3.0), constant)


def test_exposure_is_in_stops_of_light():
    # Half the light of white is sRGB's 188 (0.7354 of 255), a quarter 137 (0.5371).
    greys = np.array([0, 137, 188, 255], np.uint8)[None, :, None].repeat(3, 2)
    window = (slice(0, 1), slice(0, 4))
    np.testing.assert_array_equal(guided(greys, window, guide_exposure=-1.0)[0, :, 0], [0, 99, 137, 188])
    np.testing.assert_array_equal(guided(greys, window, guide_exposure=1.0)[0, :, 0], [0, 188, 255, 255])
    np.testing.assert_array_equal(guided(greys, window, guide_exposure=2.0)[0, :, 0], [0, 255, 255, 255])


@pytest.mark.parametrize(
    "window", [(slice(0, 9), slice(20, 40)), (slice(8, 24), slice(0, 7)), (slice(9, 12), WHOLE[1])]
)
def test_a_window_of_the_guide_is_a_crop_of_the_whole(window):
    options = {"guide_shift": 4, "guide_blur": 1.5, "guide_exposure": 0.5}
    np.testing.assert_array_equal(guided(GUIDE, window, **options), guided(GUIDE, **options)[window])


def test_a_degradation_names_every_kernel_and_says_what_is_on():
    assert get_args(Kernel) == resample.KERNELS
    assert str(Degradation()) == "LR by matlab_bicubic"
    full = Degradation("area", "patch", 0.1, "image", 0.02, 0.5, 1.5, 0.25, 16, -3, 2.0, 1.0)
    assert str(full) == (
        "LR by area, of the patch alone, multi-path blur 1.5 samples, flying pixels at 0.5 of the edge samples, ToF "
        "noise 0.02 of the range at its end, noise 0.1 of the image's span, 16 LiDAR lines, dropouts 0.25, guide -3 px "
        "to the right, guide blurred by 2 px, guide exposed by +1 stops"
    )
    assert Degradation(**json.loads(json.dumps(dataclasses.asdict(full)))) == full
    assert str(Degradation(noise_sigma=0.5)) == "LR by matlab_bicubic, noise 0.5 of the range"


def test_whole_numbers_are_numbers():
    assert Degradation(noise_sigma=0, guide_exposure=2, multipath_blur=np.float64(1.5)).guide_exposure == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("kernel", "bicubic", "'bicubic': choose one of matlab_bicubic, pillow_bicubic"),
        ("lr_from", "crop", "'crop': choose one of image, patch"),
        ("noise_of", ["range"], r"\['range'\]: choose one of range, image"),
        ("noise_sigma", 5, "5: it must be a number from 0 to 1, .* 5 grey levels of 255 are 5 / 255"),
        ("noise_sigma", -0.1, "-0.1: it must be a number from 0 to 1"),
        ("tof_sigma", float("nan"), "nan: it must be a number from 0 to 1, in parts of the range"),
        ("flying_pixels", 1.5, "1.5: it must be a number from 0 to 1, a share"),
        ("multipath_blur", float("inf"), "inf: it must be a number from 0 to 64, in low-resolution samples"),
        ("dropouts", 1.0, "1.0: it must be a number from 0 to 0.99"),
        ("lidar_lines", -1, "-1: it must be a whole number from 0 to 65536"),
        ("lidar_lines", 16.0, "16.0: it must be a whole number"),
        ("guide_shift", True, "True: it must be a whole number from -1024 to 1024, in pixels to the right"),
        ("guide_blur", "2", "'2': it must be a number from 0 to 64, in pixels"),
        ("guide_exposure", -9.0, "-9.0: it must be a number from -8 to 8, in stops"),
    ],
)
def test_a_degradation_refuses(option, value, message):
    with pytest.raises(InputError, match=rf"^Degradation\.{option} is {message}"):
        Degradation(**{option: value})


def test_fill_nearest():
    depth = np.array([[1, 99, 99, 99, 5]], np.float32)
    mask = depth != 99
    np.testing.assert_array_equal(fill_holes(depth, mask), [[1, 1, 1, 5, 5]])


def test_fill_background_takes_the_smaller_neighbour_of_the_row():
    depth = np.array([[0, 3, 0, 0, 8, 0], [0, 0, 0, 0, 0, 0], [0, 0, 9, 0, 0, 0], [1, 2, 3, 4, 5, 6]], np.float32)
    want = [[3, 3, 3, 3, 8, 8], [3, 3, 9, 9, 8, 8], [9, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6]]
    filled = fill_holes(depth, depth > 0, "background")
    np.testing.assert_array_equal(filled[[0, 2, 3]], [want[0], want[2], want[3]])
    assert set(filled[1]) <= {3, 8, 9}  # an empty row takes from a neighbouring one


@pytest.mark.parametrize("method", ["nearest", "background"])
def test_filling_keeps_what_is_known_and_reads_no_hole(method):
    depth = np.where(SPARSE, DEPTH, np.nan)
    filled = fill_holes(depth, SPARSE, method)
    np.testing.assert_array_equal(filled[SPARSE], DEPTH[SPARSE])
    assert np.isfinite(filled).all() and np.isin(filled, DEPTH[SPARSE]).all()
    np.testing.assert_array_equal(fill_holes(DEPTH, KNOWN, method), DEPTH)


def test_fill_refuses():
    with pytest.raises(InputError, match="no known sample at all"):
        fill_holes(DEPTH, ~KNOWN)
