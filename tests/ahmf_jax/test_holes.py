"""What is put where depth is unknown, by hand."""

from typing import Any

import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError, holes
from ahmf_jax.holes import fill_by_colour, fill_holes

N = np.nan


def filled(rows: list[list[float]], method: Any) -> list[list[float]]:
    depth = np.array(rows)
    return fill_holes(depth, ~np.isnan(depth), method).tolist()


def test_nearest() -> None:
    assert filled([[1, N, N, N, 5]], "nearest") in ([[1, 1, 1, 5, 5]], [[1, 1, 5, 5, 5]])
    assert filled([[N, N, 3], [N, N, N], [7, N, N]], "nearest")[0][1:] == [3, 3]
    assert filled([[2], [N], [N], [N], [9]], "nearest")[1::2] == [[2], [9]]


def test_background_takes_the_smaller_neighbour_of_the_row() -> None:
    assert filled([[4, N, N, 2, N, 9]], "background") == [[4, 2, 2, 2, 2, 9]]
    assert filled([[N, 4, N]], "background") == [[4, 4, 4]], "a border has one neighbour"
    assert filled([[N, N], [3, N], [N, N], [N, N], [N, 8]], "background") == [[3, 3], [3, 3], [3, 3], [8, 8], [8, 8]]


def test_far_takes_the_larger_neighbour_of_the_row() -> None:
    assert filled([[4, N, N, 2, N, 9]], "far") == [[4, 4, 4, 2, 9, 9]]
    assert filled([[N, N], [3, N], [N, N], [N, N], [N, 8]], "far") == [[3, 3], [3, 3], [3, 3], [8, 8], [8, 8]]


@pytest.mark.parametrize("method", ["nearest", "background", "far"])
@pytest.mark.parametrize("junk", [N, np.inf, -1e30, 0])
def test_what_stands_in_a_hole_is_not_read(method: Any, junk: float) -> None:
    rng = np.random.default_rng(0)
    depth, mask = rng.random((7, 9)), rng.random((7, 9)) < 0.3
    result = fill_holes(np.where(mask, depth, junk), mask, method)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, fill_holes(np.where(mask, depth, 5), mask, method))
    np.testing.assert_array_equal(result[mask], depth[mask].astype(np.float32))
    assert np.isin(result, result[mask]).all()


def test_without_holes_nothing_changes_and_the_callers_array_never_does() -> None:
    depth = np.array([[3, 0], [1, 2]], np.uint16)
    np.testing.assert_array_equal(fill_holes(depth, np.ones((2, 2), bool)), depth)
    fill_holes(depth, depth > 0)
    assert depth.tolist() == [[3, 0], [1, 2]]


def test_nothing_known_or_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no known sample"):
        fill_holes(np.ones((2, 2)), np.zeros((2, 2), bool))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the name first
    with pytest.raises(InputError, match="'mean' is not known: choose one of nearest, background, far"):
        filled([[1.0]], "mean")


def by_colour(depth: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """One hole after the other, from the definition."""
    result = fill_holes(depth, mask)
    for y, x in np.argwhere(~mask):
        unlike = ((colour - colour[y, x]) ** 2).sum(-1) / 288
        near = [
            (depth[v, u], np.exp(-((v - y) ** 2 + (u - x) ** 2) / 4.5 - unlike[v, u]))
            for v, u in np.argwhere(mask)
            if max(abs(v - y), abs(u - x)) <= 5
        ]
        values, weights = np.array(sorted(near)).T
        result[y, x] = values[np.searchsorted(weights.cumsum(), weights.sum() / 2)]
    return result


@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_filling_by_colour_is_a_weighted_median(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holes, "HOLES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    depth, mask = rng.random((9, 13)).astype(np.float32), rng.random((9, 13)) < 0.6
    colour = (20 * rng.random((9, 13, 3))).astype(np.float32)
    result = fill_by_colour(np.where(mask, depth, N), mask, colour)
    np.testing.assert_array_equal(result, by_colour(depth, mask, colour))


def test_a_hole_takes_the_depth_of_its_colour_not_of_its_nearest() -> None:
    """A near red thing before a far blue wall; the lost samples at its edge are the wall's."""
    blue = np.arange(12) >= 6
    depth = np.where(blue, 5, 1)[None].repeat(5, 0).astype(np.float32)
    colour = np.where(blue[:, None], [20, 20, 200], [200, 20, 20])[None].repeat(5, 0).astype(np.float32)
    mask = np.ones((5, 12), bool)
    mask[:, 6:9] = False
    assert (fill_holes(depth, mask)[:, 6] == 1).all()
    np.testing.assert_array_equal(fill_by_colour(depth, mask, colour), depth)


@pytest.mark.parametrize("colours", [1.0, 255.0])
def test_holes_beyond_the_window_are_filled_from_its_border_on(colours: float) -> None:
    rng = np.random.default_rng(1)
    depth, mask = rng.random((40, 30)).astype(np.float32), np.zeros((40, 30), bool)
    mask[3, 4] = mask[3, 5] = True
    result = fill_by_colour(np.where(mask, depth, N), mask, (colours * rng.random((40, 30, 3))).astype(np.float32))
    assert np.isin(result, depth[mask]).all() and result.dtype == np.float32
    np.testing.assert_array_equal(result[mask], depth[mask])


def test_filling_by_colour_without_holes_or_samples() -> None:
    depth, colour = np.array([[3, 0], [1, 2]], np.uint16), np.zeros((2, 2, 3), np.float32)
    np.testing.assert_array_equal(fill_by_colour(depth, np.ones((2, 2), bool), colour), depth)
    with pytest.raises(InputError, match="no known sample"):
        fill_by_colour(depth, np.zeros((2, 2), bool), colour)
    fill_by_colour(depth, depth > 0, colour)
    assert depth.tolist() == [[3, 0], [1, 2]]
