"""Distances by brute force, and flips by hand."""

import numpy as np
import pytest

from ahmf_jax.confidence import distance, over_flips

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("factor", [4.0, 2.7])
def test_distances_by_brute_force(factor: float) -> None:
    mask = (RNG.random((5, 6)) < 0.2).repeat(4, 0).repeat(4, 1)
    assert mask.any()
    known = np.argwhere(mask)
    exact = np.array([[np.hypot(*(known - [y, x]).T).min() for x in range(24)] for y in range(20)]) / factor
    result = distance(mask, factor)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, exact, rtol=1e-6)
    assert (result[mask] == 0).all() and (result[~mask] > 0).all()
    assert (distance(np.ones((3, 4), bool), 4.0) == 0).all()


def test_mean_and_spread_over_four_flips() -> None:
    """What depends on the place of a pixel differs between flips; what depends on its content does not."""
    depth, known = RNG.random((2, 3, 4), np.float32), RNG.random((2, 3, 4)) < 0.5
    guide = RNG.random((2, 6, 8, 3), np.float32)
    weight = RNG.random((6, 8), np.float32)
    calls = []

    def predict(depth: np.ndarray, known: np.ndarray, guide: np.ndarray) -> np.ndarray:
        calls.append((depth, known, guide))
        content = (depth + known).repeat(2, 1).repeat(2, 2) + guide.sum(-1)
        return (content + weight).astype(np.float32)

    mean, spread = over_flips(predict, depth, known, guide)
    content = predict(depth, known, guide) - weight
    weights = np.stack([weight, weight[:, ::-1], weight[::-1], weight[::-1, ::-1]])
    np.testing.assert_allclose(mean, content + weights.mean(0), rtol=1e-5)
    np.testing.assert_allclose(spread, np.broadcast_to(weights.std(0), spread.shape), atol=1e-6)
    assert len(calls) == 5
