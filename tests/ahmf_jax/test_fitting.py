"""Guides that do not fit, cut and resampled, by positions."""

from typing import Any

import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError, strips
from ahmf_jax.fitting import check_factor, fit_guide, output_size


def places(height: int, width: int) -> np.ndarray:
    """A guide whose values are its pixels' places."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x], -1).astype(np.uint16)[None]


def test_a_guide_that_fits_is_not_touched() -> None:
    guide = places(12, 16)
    for fit in (None, "crop", "resample"):
        fitted = fit_guide((3, 4), guide, 4.0, fit, 4)  # type: ignore[arg-type]
        assert fitted.guide is guide and (fitted.rows, fitted.columns) == (slice(0, 3), slice(0, 4))


@pytest.mark.parametrize(
    ("size", "given", "factor", "rows", "columns", "first"),
    [
        ((3, 4), (16, 20), 4.0, (0, 3), (0, 4), (2, 2)),  # the guide sees more
        ((3, 4), (13, 16), 4.0, (0, 3), (0, 4), (0, 0)),  # half a pixel, rounded to even
        ((3, 4), (15, 16), 4.0, (0, 3), (0, 4), (2, 0)),
        ((5, 4), (12, 16), 4.0, (1, 4), (0, 4), (0, 0)),  # the depth sees more
        ((5, 4), (13, 24), 4.0, (1, 4), (0, 4), (0, 4)),  # and the guide in the other axis
        ((6, 4), (16, 16), 4.0, (1, 5), (0, 4), (0, 0)),
        ((6, 4), (12, 16), 4.0, (2, 4), (0, 4), (2, 0)),  # an odd number is over: a sample in parts is left out
        ((10, 10), (27, 27), 2.7, (0, 10), (0, 10), (0, 0)),
        ((10, 10), (24, 31), 2.7, (1, 9), (0, 10), (1, 2)),
    ],
)
def test_crop_keeps_the_samples_inside_and_what_is_over_them(
    size: Any, given: Any, factor: float, rows: Any, columns: Any, first: Any
) -> None:
    fitted = fit_guide(size, places(*given), factor, "crop", 4)
    assert (fitted.rows, fitted.columns) == (slice(*rows), slice(*columns))
    wanted = output_size((rows[1] - rows[0], columns[1] - columns[0]), factor)
    assert fitted.guide.shape == (1, *wanted, 2)
    assert fitted.guide[0, 0, 0].tolist() == list(first) == list(fitted.corner)
    assert np.ptp(fitted.guide[0], (0, 1)).tolist() == [wanted[0] - 1, wanted[1] - 1]


@pytest.mark.parametrize("factor", [1.3, 2.0, 2.7, 4.0, 7.5])
def test_a_crop_never_moves_the_guide_by_more_than_rounding(factor: float) -> None:
    """Where the first pixel should be, from the centres; half a pixel, and what rounding the size leaves."""
    for samples in (2, 3, 8, 13, 24):
        for pixels in (*range(2, 30, 3), 60, 61, 96):
            guide = places(pixels, round(factor * 4))
            try:
                fitted = fit_guide((samples, 4), guide, factor, "crop", 4)
            except InputError:
                assert pixels < 2 * factor, (samples, pixels)
                continue
            exact = pixels / 2 + factor * (fitted.rows.start - samples / 2)
            assert abs(int(fitted.guide[0, 0, 0, 0]) - exact) <= 1.0, (samples, pixels)
            assert fitted.guide.shape[1] == round(factor * (fitted.rows.stop - fitted.rows.start))


def test_resampled_guides() -> None:
    guide = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    fitted = fit_guide((3, 4), guide, 4.0, "resample", 4)
    np.testing.assert_array_equal(fitted.guide, strips.resize_guide(guide, (12, 16)))
    assert (fitted.rows, fitted.columns) == (slice(0, 3), slice(0, 4))
    checks = np.indices((24, 32)).sum(0) % 2 * 255  # finer than the result can show: antialiased it is grey
    grey = fit_guide((3, 4), checks.astype(np.uint8)[None, ..., None], 4.0, "resample", 4).guide
    assert np.abs(grey.astype(float)[:, 2:-2, 2:-2] - 127.5).max() < 3


@pytest.mark.parametrize("given", [(25, 32), (24, 33), (12, 17), (6, 8), (3, 4), (375, 500)])
def test_shapes_that_differ_by_a_pixel_are_resampled(given: Any) -> None:
    assert fit_guide((3, 4), places(*given), 4.0, "resample", 4).guide.shape == (1, 12, 16, 2)


@pytest.mark.parametrize("given", [(28, 32), (24, 38), (9, 16), (1080, 1920)])
def test_shapes_that_differ_by_more_are_refused(given: Any) -> None:
    with pytest.raises(InputError, match=rf"guide is {given[1]} x {given[0]} .* differ in shape by more than a pixel"):
        fit_guide((3, 4), places(*given), 4.0, "resample", 4)


@pytest.mark.parametrize(
    ("given", "factor", "fit", "message"),
    [
        ((12, 17), 4.0, None, r"guide is 17 x 12 .* depth 4 x 3: at x4 the guide must be 16 x 12; .*--fit crop or res"),
        ((12, 16), 2.7, None, r"at x2\.7 the guide must be 11 x 8; .*the model's own factor 4"),
        ((12, 17), 4.0, "stretch", "fit 'stretch' is not known: choose crop or resample"),
        ((3, 40), 4.0, "crop", "no sample of the depth lies wholly inside"),
    ],
)
def test_what_does_not_fit(given: Any, factor: float, fit: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=message):
        fit_guide((3, 4), places(*given), factor, fit, 4)


def test_factors() -> None:
    assert check_factor(None, 8) == 8 and check_factor(3, 4) == 3 and check_factor(2.7, 4) == 2.7
    for factor in (1, 0.5, -4, 32.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"the factor is .*: more than 1 and at most 32"):
            check_factor(factor, 4)
