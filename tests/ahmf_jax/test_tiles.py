"""Tiles cover an image once, with their margins, and statistics gathered from parts are those of the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahmf_jax.tiles import joined, padded_to, spans, tiles


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 300), st.integers(1, 80), st.integers(0, 15), st.booleans())
def test_windows_of_one_width_cover_an_axis_once_with_margins(length: int, most: int, reach: int, fill: bool) -> None:
    found = spans(length, most, reach, fill=fill)
    counted = np.concatenate([np.arange(s.low, s.high) for s in found])
    np.testing.assert_array_equal(counted, np.arange(length))
    widths = {s.stop - s.start for s in found}
    assert len(widths) == 1 and max(widths) <= max(most, 2 * reach + 1)
    if fill and len(found) > 1:
        assert widths == {max(most, 2 * reach + 1)}
    for s in found:
        assert 0 <= s.start <= s.low < s.high <= s.stop <= length
        assert s.start == 0 or s.low - s.start >= reach
        assert s.stop == length or s.stop - s.high >= reach


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 300), st.integers(1, 80), st.integers(0, 15), st.booleans(), st.sampled_from((2, 4, 8)))
def test_windows_begin_at_multiples_of_a_step(length: int, most: int, reach: int, fill: bool, step: int) -> None:
    found = spans(length, most, reach, fill=fill, step=step)
    np.testing.assert_array_equal(np.concatenate([np.arange(s.low, s.high) for s in found]), np.arange(length))
    assert all(s.start % step == 0 for s in found)
    widths = [s.stop - s.start for s in found]
    # The last ends with the axis; what is narrower than a step between its margins is as wide as that.
    assert len(set(widths[:-1])) <= 1 and widths[-1] <= widths[0] <= max(most, 2 * reach + step)
    for s in found:
        assert 0 <= s.start <= s.low < s.high <= s.stop <= length
        assert s.start == 0 or s.low - s.start >= reach
        assert s.stop == length or s.stop - s.high >= reach


def test_no_more_windows_than_needed() -> None:
    assert len(spans(100, 100, 10)) == 1 and len(spans(101, 100, 10)) == 2
    # Two windows of 60 with a margin of 10 between them cover 100; a sample more needs a third.
    assert len(spans(100, 60, 10)) == 2 and len(spans(101, 60, 10)) == 3
    assert [s.stop - s.start for s in spans(101, 60, 10)] == 3 * [47]  # narrower, as three have less to cover


def test_tiles_are_those_of_both_axes() -> None:
    found = tiles((7, 9), (5, 9), 1)
    assert [t.rows.low for t in found] == [0, 4] and {t.columns for t in found} == {(0, 9, 0, 9)}


def test_few_lengths_and_little_padding() -> None:
    lengths = {padded_to(n) for n in range(1, 4097)}
    assert all(n <= padded_to(n) <= max(n * 1.125, n) for n in range(1, 4097))
    assert len(lengths) < 90


@pytest.mark.parametrize("spread", ["variance", "covariance"])
def test_moments_of_parts_are_those_of_the_whole(spread: str) -> None:
    # A large mean beside a small spread, where the difference of summed squares would have no digit left.
    values = np.random.default_rng(0).normal(1e4, 0.01, (1000, 3))

    def moments(x: np.ndarray) -> dict[str, np.ndarray]:
        covariance = np.cov(x.T, bias=True) if len(x) > 1 else np.zeros((3, 3))
        found = {"variance": x.var(0), "covariance": covariance[:, 1:]}  # of all with the last two
        return {"count": np.full((1, 1), len(x)), "mean": x.mean(0)[None], spread: found[spread][None]}

    whole, first = moments(values[:1]), 1
    for count in (250, 9, 740):
        whole = joined(whole, moments(values[first : first + count]))
        first += count
    for name, expected in moments(values).items():
        np.testing.assert_allclose(whole[name], expected, rtol=1e-6, atol=1e-11)
