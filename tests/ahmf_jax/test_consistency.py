"""Means over samples' areas, against a dense solution."""

import numpy as np
import pytest

from ahmf_jax import resample, strips
from ahmf_jax.consistency import make_consistent, residual

RNG = np.random.default_rng(0)
LOW = RNG.random((7, 9), np.float32)
KNOWN = RNG.random((7, 9)) < 0.8


def means(high: np.ndarray) -> np.ndarray:
    return resample.resize(high.astype(np.float64)[..., None], LOW.shape, "area")[..., 0]


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.0, 2.7, 3.0, 4.0, 7.3, 16.0])
@pytest.mark.parametrize("values", [300, 2**22])
def test_means_over_known_samples_are_they(factor: float, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_VALUES", values)
    size = (round(7 * factor), round(9 * factor))
    high = RNG.random(size, np.float32)
    before = means(high)
    assert np.abs(before - LOW)[KNOWN].max() > 0.1
    make_consistent(high, LOW, KNOWN)
    np.testing.assert_allclose(means(high)[KNOWN], LOW[KNOWN], atol=2e-6)
    np.testing.assert_allclose(means(high)[~KNOWN], before[~KNOWN], atol=2e-6)
    assert residual(high, LOW, KNOWN) < 2e-6
    assert residual(high, LOW, np.ones_like(KNOWN)) > 0.1


def test_it_is_the_smallest_change_that_does_it() -> None:
    size = (19, 24)  # x2.7
    high = RNG.random(size, np.float32)
    given = high.copy()
    make_consistent(high, LOW, np.ones(LOW.shape, bool))
    d = np.kron(resample.matrix(size[0], 7, "area"), resample.matrix(size[1], 9, "area"))
    off = LOW.astype(np.float64).ravel() - d @ given.ravel()
    smallest = np.linalg.lstsq(d, off, rcond=None)[0]
    np.testing.assert_allclose((high - given).ravel(), smallest, atol=2e-6)


def test_at_whole_factors_each_block_moves_as_one() -> None:
    high = RNG.random((28, 36), np.float32)
    change = -high.copy()
    make_consistent(high, LOW, KNOWN)
    change += high
    blocks = change.reshape(7, 4, 9, 4)
    assert np.ptp(blocks, (1, 3)).max() < 1e-6
    assert np.abs(blocks.mean((1, 3))[~KNOWN]).max() == 0


def test_what_agrees_does_not_change_and_fillings_are_not_read() -> None:
    high = LOW.repeat(4, 0).repeat(4, 1)
    make_consistent(high, LOW, np.ones(LOW.shape, bool))
    np.testing.assert_allclose(high, LOW.repeat(4, 0).repeat(4, 1), atol=1e-6)
    one, two = RNG.random((28, 36), np.float32), np.empty((28, 36), np.float32)
    two[:] = one
    make_consistent(one, LOW, KNOWN)
    make_consistent(two, np.where(KNOWN, LOW, -5), KNOWN)
    np.testing.assert_array_equal(one, two)
