"""What is put where depth is unknown, by hand."""

from typing import Any

import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError
from ahmf_jax.holes import fill_holes

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
