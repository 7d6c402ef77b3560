"""Other factors: which sizes the network is given, and that nothing shifts."""

from typing import Any

import numpy as np
import pytest

from ahmf_jax import resample, strips
from ahmf_jax.factors import nearest, super_resolve

RNG = np.random.default_rng(0)


class Recorder:
    """A network of scale 4 that interpolates, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, depth: np.ndarray, known: np.ndarray, guide: np.ndarray) -> np.ndarray:
        self.given.append((depth, known, guide))
        assert guide.shape[1:3] == (4 * depth.shape[1], 4 * depth.shape[2])
        return strips.resize(depth, guide.shape[1:3], "matlab_bicubic")

    @property
    def sizes(self) -> list[Any]:
        return [depth.shape[1:] for depth, _, _ in self.given]


def run(size: tuple[int, int], depth: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, Recorder]:
    network = Recorder()
    return super_resolve(network, 4, depth, np.ones(depth.shape, bool), guide, size), network


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((24, 32), [(6, 8)]),  # x4
        ((18, 24), [(6, 8)]),  # x3
        ((16, 22), [(6, 8)]),  # x2.7
        ((36, 48), [(6, 8), (9, 12)]),  # x6
        ((30, 41), [(6, 8), (8, 11)]),  # x5.1, not multiples of 4
        ((192, 256), [(6, 8), (12, 16), (48, 64)]),  # x32
    ],
)
def test_the_network_s_steps(size: tuple[int, int], sizes: Any) -> None:
    guide = RNG.integers(0, 256, (1, *size, 3), np.uint8)
    result, network = run(size, RNG.random((1, 6, 8), np.float32), guide)
    assert network.sizes == sizes and result.shape == (1, *size)
    if size[0] == 4 * sizes[-1][0]:
        assert network.given[-1][2] is guide, "the last step sees the guide as it is"


def test_below_the_scale_the_result_is_shrunk_by_area_and_above_the_map_between_is_bicubic() -> None:
    depth = RNG.random((1, 6, 8), np.float32)
    four = strips.resize(depth, (24, 32), "matlab_bicubic")
    three, _ = run((18, 24), depth, np.zeros((1, 18, 24, 3), np.uint8))
    np.testing.assert_allclose(three[..., None], resample.resize(four[..., None], (18, 24), "area"), atol=1e-6)
    _, network = run((36, 48), depth, np.zeros((1, 36, 48, 3), np.uint8))
    between = resample.resize(four[..., None], (9, 12), "matlab_bicubic")
    np.testing.assert_allclose(network.given[1][0][..., None], between, atol=1e-6)


@pytest.mark.parametrize("factor", [2.7, 3.0, 4.0, 5.1, 6.0, 17.0])
def test_a_ramp_stays_where_it_is(factor: float) -> None:
    """Half a pixel of displacement anywhere on the way would show."""
    x = (np.arange(10, dtype=np.float32) + 0.5) / 10
    depth = np.broadcast_to(x, (1, 10, 10)).copy()
    size = round(10 * factor)
    result, _ = run((size, size), depth, np.zeros((1, size, size, 3), np.uint8))
    exact = (np.arange(size) + 0.5) / size
    inner = slice(round(2.5 * factor), -round(2.5 * factor))
    assert np.abs(result[0, size // 2] - exact)[inner].max() < 0.01 / factor


def test_masks_follow_the_sample_under_the_pixel_s_centre() -> None:
    known = RNG.random((2, 5, 7)) < 0.5
    np.testing.assert_array_equal(nearest(known, (20, 28)), known.repeat(4, 1).repeat(4, 2))
    row = np.array([[True, False, True]])
    assert nearest(row, (1, 8))[0].tolist() == [True, True, True, False, False, True, True, True]
    network = Recorder()
    super_resolve(network, 4, RNG.random((2, 5, 7), np.float32), known, np.zeros((2, 30, 42, 3), np.uint8), (30, 42))
    np.testing.assert_array_equal(network.given[0][1], known)
    np.testing.assert_array_equal(network.given[1][1], nearest(known, (8, 11)))
