"""Error measures by hand: masks, merging, and what there is without a pixel."""

import math

import numpy as np
import pytest

from ahmf_jax.metrics import Errors, errors

PREDICTION = np.array([[3.0, 1.0], [0.0, np.nan]], np.float32)
TARGET = np.array([[1.0, 2.0], [0.0, 7.0]], np.float32)
MASK = np.array([[True, True], [True, False]])


def test_by_hand() -> None:
    found = errors(PREDICTION, TARGET, MASK)
    assert found == Errors(3.0, 5.0, 3)
    assert found.mae == 1 and found.rmse == pytest.approx(math.sqrt(5 / 3))
    assert found.psnr(255.0) == pytest.approx(10 * math.log10(255**2 / (5 / 3)))
    # Of the errors 2, 1 and 0, those of the threshold itself count too.
    assert [errors(PREDICTION, TARGET, MASK, t).pe for t in (0.5, 1.0, 2.0, 3.0)] == pytest.approx(
        [200 / 3, 200 / 3, 100 / 3, 0]
    )


def test_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    a, b, mask = rng.random((6, 5)), rng.random((6, 5)), rng.random((6, 5)) < 0.6
    whole = errors(a, b, mask, 0.4)
    merged = sum((errors(a[i], b[i], mask[i], 0.4) for i in range(6)), Errors())
    assert merged.count == whole.count == mask.sum()
    assert (merged.mae, merged.rmse, merged.pe) == pytest.approx((whole.mae, whole.rmse, whole.pe), rel=1e-12)
    # Not the mean of the means: the parts have different sizes.
    assert merged.mae != pytest.approx(np.mean([errors(a[i], b[i], mask[i]).mae for i in range(6)]), rel=1e-3)


def test_without_an_error_and_without_a_pixel() -> None:
    assert errors(TARGET, TARGET, MASK).psnr(255.0) == math.inf
    assert errors(TARGET, TARGET, MASK).rmse == 0
    nothing = errors(PREDICTION, TARGET, np.zeros((2, 2), bool))
    assert nothing == Errors() and all(map(math.isnan, (nothing.mae, nothing.rmse, nothing.psnr(255.0), nothing.pe)))


def test_integers_do_not_wrap_and_large_sums_do_not_drown() -> None:
    assert errors(np.array([0], np.uint8), np.array([255], np.uint8), np.array([True])) == Errors(255.0, 65025.0, 1)
    many = np.full(2**15, 4096.0, np.float32)  # a float32 sum of the squares would lose the last half
    many[0] = 4097
    assert errors(many, np.zeros_like(many), np.ones(2**15, bool)).squared == (2**15 - 1) * 4096.0**2 + 4097.0**2
