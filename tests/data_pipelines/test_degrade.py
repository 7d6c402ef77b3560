"""Degradation: each kernel is what its name says, masks say what is known, windows are crops, holes are filled."""

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.degrade import add_noise, degrade

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


def test_noise_has_its_sigma_and_is_clipped():
    flat = np.full((200, 200), 0.5, np.float32)
    noisy = add_noise(flat, 5 / 255, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert abs((noisy - flat).std() * 255 - 5) < 0.1 and abs((noisy - flat).mean()) < 1e-3
    assert add_noise(np.zeros((50, 50)), 0.1, np.random.default_rng(0)).min() == 0
    assert add_noise(np.ones((50, 50)), 0.1, np.random.default_rng(0)).max() == 1
    np.testing.assert_array_equal(add_noise(flat, 5 / 255, np.random.default_rng(0)), noisy)


def test_no_noise_changes_nothing():
    above = np.array([[1.5, -0.5]], np.float32)
    np.testing.assert_array_equal(add_noise(above, 0, np.random.default_rng(0)), above)


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
