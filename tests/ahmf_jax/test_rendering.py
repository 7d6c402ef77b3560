"""Depth-image-based rendering, on rows of pixels that can be worked out by hand."""

import math

import numpy as np
import pytest

from ahmf_jax.rendering import psnr, render


def rendered(colours, disparities, known=None):
    """One row: grey values (with channels times 1, 2 and 3) and disparities to the grey row and the filled pixels."""
    colour = np.array(colours, np.float32)[None, :, None] * np.array([1, 2, 3], np.float32)
    disparity = np.array(disparities, np.float32)[None]
    mask = np.ones(disparity.shape, bool) if known is None else np.array(known, bool)[None]
    image, filled = render(colour, disparity, mask)
    assert image.dtype == np.float32 and image.shape == colour.shape
    np.testing.assert_allclose(image, image[..., :1] * [1, 2, 3], rtol=1e-6)
    return image[0, :, 0].tolist(), filled[0].tolist()


def test_a_constant_disparity_shifts():
    image, filled = rendered([1, 2, 3, 4, 5], [2] * 5)
    assert image == [3, 4, 5, 0, 0]
    assert filled == [True] * 3 + [False] * 2


def test_rows_do_not_mix():
    rng = np.random.default_rng(0)
    colour = rng.random((4, 9, 3)).astype(np.float32)
    image, filled = render(colour, np.full((4, 9), 3.0, np.float32), np.ones((4, 9), bool))
    np.testing.assert_allclose(image[:, :6], colour[:, 3:], rtol=1e-6)
    assert filled[:, :6].all() and not filled[:, 6:].any()


def test_between_two_pixels_a_colour_is_split():
    image, filled = rendered([10, 20, 30, 40], [0.25] * 4)
    # At x lands three quarters of the pixel at x and a quarter of the next one.
    assert image == [12.5, 22.5, 32.5, 40]
    assert filled == [True] * 4
    image, filled = rendered([10, 20, 30, 40], [0.75] * 4)
    assert image[:3] == [17.5, 27.5, 37.5]
    assert filled == [True, True, True, False]  # of the last, a quarter is covered


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_nearer_of_two_planes_hides_the_other(order):
    """Whichever comes first: the foreground, 2 pixels wide, moves 3 to the left over a background that stays."""
    colours = [1, 2, 3, 4, 50, 60, 7, 8]
    disparities = [0, 0, 0, 0, 3, 3, 0, 0]
    colour = np.array(colours, np.float32)[None, :, None].repeat(3, -1)
    two = np.concatenate([colour, 2 * colour])[order]
    image, filled = render(two, np.array([disparities] * 2, np.float32), np.ones((2, 8), bool))
    expected = np.array([1, 50, 60, 4, 0, 0, 7, 8])
    np.testing.assert_array_equal(image[..., 0], np.stack([expected, 2 * expected])[order])
    np.testing.assert_array_equal(filled, [[True] * 4 + [False] * 2 + [True] * 2] * 2)  # seen by the right view alone


def test_a_fringe_of_the_foreground_does_not_hide_the_background():
    # The foreground lands at 0.75: a quarter of it on pixel 0, three quarters on pixel 1.
    image, filled = rendered([1, 2, 3, 90, 5], [0, 0, 0, 2.25, 0])
    assert image == [1, 90, 3, 0, 5]
    assert filled == [True, True, True, False, True]


def test_a_slanted_surface_does_not_tear():
    # Steps of a third of a pixel, as third-size Middlebury has them: pixels land 4/3 apart.
    colours = np.arange(12.0)
    disparities = (11 - np.arange(12)) / 3
    image, filled = rendered(colours, disparities)
    assert all(filled[:12])
    # What lands at position p came from (p + 11 / 3) * 3 / 4, and the splat is within half a pixel of it.
    expected = (np.arange(12) + 11 / 3) * 3 / 4
    np.testing.assert_allclose(image[:11], expected[:11], atol=0.5)


def test_what_is_unknown_is_not_warped():
    image, filled = rendered([1, 2, 3, 4], [0, np.nan, 0, np.inf], [True, True, False, True])
    assert image == [1, 0, 0, 0] and filled == [True, False, False, False]
    image, filled = rendered([1, 2], [0, 0], [False, False])
    assert filled == [False, False]


def test_psnr_by_hand():
    real = np.zeros((1, 3, 3), np.uint8)
    image = np.array([[[5, 0, 0], [0, 0, 0], [255, 255, 255]]], np.float32)
    where = np.array([[True, True, False]])
    assert psnr(image, real, where) == pytest.approx(10 * math.log10(255**2 / (25 / 6)))
    assert psnr(image, real, np.array([[False, True, False]])) == math.inf
    assert math.isnan(psnr(image, real, np.zeros((1, 3), bool)))
