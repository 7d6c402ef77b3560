"""Error measures by hand: masks, merging, edges, normals, and what there is without a pixel."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from ahmf_jax import metrics
from ahmf_jax.metrics import METRICS, Errors, errors, near_edges

PREDICTION = np.array([[3.0, 1.0], [0.0, np.nan]], np.float32)
TARGET = np.array([[1.0, 2.0], [0.0, 7.0]], np.float32)
MASK = np.array([[True, True], [True, False]])


def test_by_hand() -> None:
    found = errors(PREDICTION, TARGET, MASK, depth_range=255)
    assert (found.absolute, found.squared, found.count) == (3.0, 5.0, 3)
    assert found.mae == 1 and found.mse == pytest.approx(5 / 3) and found.rmse == pytest.approx(math.sqrt(5 / 3))
    assert found.psnr(255.0) == pytest.approx(10 * math.log10(255**2 / (5 / 3)))
    # Relative to the truth 1 and 2; the third pixel has a truth of 0, and none of them is within a factor of 1.25.
    values = found.values(255.0)
    assert values["mape"] == pytest.approx(100 * (2 / 1 + 1 / 2) / 2) and values["delta1"] == 0
    assert set(values) == set(METRICS)


def test_pe_counts_the_threshold_itself() -> None:
    def pe(threshold: float) -> float:
        return errors(PREDICTION, TARGET, MASK, depth_range=255, threshold=threshold).pe

    assert [pe(t) for t in (0.5, 1.0, 2.0, 3.0)] == pytest.approx([200 / 3, 200 / 3, 100 / 3, 0])


def test_delta1_is_a_factor_of_less_than_a_quarter_more_either_way() -> None:
    truth = np.full((1, 6), 4.0)
    prediction = np.array([[4.0, 4.99, 5.0, 3.21, 3.2, -4.0]])
    found = errors(prediction, truth, np.ones((1, 6), bool), depth_range=8)
    assert found.close == 3 and found.values(8)["delta1"] == 50


def test_edges_are_where_known_neighbours_differ() -> None:
    truth = np.zeros((1, 20))
    truth[0, 10:] = 3.0
    known = np.ones(truth.shape, bool)
    beside = near_edges(truth, known, 255)  # 3 is more than a hundredth of 255
    assert np.flatnonzero(beside[0]).tolist() == list(range(9 - metrics.EDGE_REACH, 10 + metrics.EDGE_REACH + 1))
    assert not near_edges(truth, known, 301).any()
    known[0, 10] = False  # the step is between a pixel that is not known and its neighbours
    assert not near_edges(np.where(known, truth, 0), known, 255).any()
    # Rows alike, and around corners: a square.
    assert near_edges(truth.T, np.ones((20, 1), bool), 255)[:, 0].tolist() == beside[0].tolist()
    one = np.zeros((21, 21))
    one[10, 10] = 9
    reach = metrics.EDGE_REACH
    square = near_edges(one, np.ones(one.shape, bool), 255)
    assert square[9 - reach, 10] and square[10 + reach, 10 + reach] and not square[8 - reach, 10]

    prediction = truth + np.where(beside, 0.5, 0.1)
    values = errors(prediction, truth, np.ones(truth.shape, bool), depth_range=255).values(255)
    assert values["edge_mae"] == pytest.approx(0.5) and values["flat_mae"] == pytest.approx(0.1)
    assert math.isnan(errors(truth, 0 * truth, np.ones(truth.shape, bool), depth_range=255).values(255)["edge_mae"])


def test_normals_by_hand() -> None:
    truth = np.zeros((5, 6))
    slope = np.arange(6.0)[None].repeat(5, 0)  # one grey level a pixel: 45 degrees
    found = errors(slope, truth, np.ones(truth.shape, bool), depth_range=255)
    assert found.angles == 4 * 5 and found.angle / found.angles == pytest.approx(45)
    # In other units the same surface has the same angle; twice as steep it is arctan 2.
    assert errors(slope / 51, truth, np.ones(truth.shape, bool), depth_range=5).values(5)[
        "normal_angle"
    ] == pytest.approx(45)
    twice = errors(2 * slope.T[:5, :5], truth[:5, :5], np.ones((5, 5), bool), depth_range=255)
    assert twice.angle / twice.angles == pytest.approx(math.degrees(math.atan(2)))
    # Across: the angle between the normals (-1, 0, 1) and (0, -1, 1).
    across = errors(slope[:5, :5], slope[:5, :5].T, np.ones((5, 5), bool), depth_range=255)
    assert across.angle / across.angles == pytest.approx(60)
    # Far below the resolution of a cosine in float64.
    small = errors(1e-9 * slope, truth, np.ones(truth.shape, bool), depth_range=255)
    assert small.angle / small.angles == pytest.approx(math.degrees(1e-9), rel=1e-6)
    # A pixel that is not known takes three normals along: its own, and those of its neighbours above and to the left.
    mask = np.ones(truth.shape, bool)
    mask[2, 2] = False
    assert errors(slope, truth, mask, depth_range=255).angles == 4 * 5 - 3


def test_what_is_not_known_has_no_influence() -> None:
    rng = np.random.default_rng(1)
    truth, prediction = rng.random((9, 8)), rng.random((9, 8))
    mask = rng.random((9, 8)) < 0.7
    plain = errors(prediction, truth, mask, depth_range=1, threshold=0.2)
    for value in (np.nan, np.inf, 1e30):
        spoilt = errors(
            np.where(mask, prediction, value), np.where(mask, truth, value), mask, depth_range=1, threshold=0.2
        )
        assert spoilt == plain


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_bands_are_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.full((40, 24), 5, np.float32)
    truth[17:, 9:] = 8
    truth[30:, :4] = 0
    prediction = truth + rng.normal(size=truth.shape).astype(np.float32)
    mask = rng.random(truth.shape) < 0.9
    whole = errors(prediction, truth, mask, depth_range=250, threshold=1.5)
    assert 0 < whole.edges < whole.count and 0 < whole.close < whole.positive < whole.count and whole.angles
    monkeypatch.setattr(metrics, "BAND", rows * truth.shape[1])
    np.save(tmp_path / "truth.npy", truth)
    stored = np.load(tmp_path / "truth.npy", mmap_mode="r")
    banded = errors(prediction, stored, mask, depth_range=250, threshold=1.5)
    for field in dataclasses.fields(Errors):
        assert getattr(banded, field.name) == pytest.approx(getattr(whole, field.name), rel=1e-12), field.name


def test_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    a, b, mask = rng.random((6, 5)), rng.random((6, 5)), rng.random((6, 5)) < 0.6
    whole = errors(a, b, mask, depth_range=1, threshold=0.4)
    rows = [errors(a[i : i + 1], b[i : i + 1], mask[i : i + 1], depth_range=1, threshold=0.4) for i in range(6)]
    merged = sum(rows, Errors())
    assert merged.count == whole.count == mask.sum()
    assert (merged.mae, merged.rmse, merged.pe) == pytest.approx((whole.mae, whole.rmse, whole.pe), rel=1e-12)
    # Not the mean of the means: the parts have different sizes.
    assert merged.mae != pytest.approx(np.mean([row.mae for row in rows]), rel=1e-3)


def test_without_an_error_and_without_a_pixel() -> None:
    exact = errors(TARGET, TARGET, MASK, depth_range=255)
    assert exact.psnr(255.0) == math.inf and exact.rmse == 0 and exact.values(255)["delta1"] == 100
    nothing = errors(PREDICTION, TARGET, np.zeros((2, 2), bool), depth_range=255)
    assert nothing == Errors() and all(map(math.isnan, nothing.values(255).values()))


def test_what_is_infinite_or_no_number_is_not_hidden() -> None:
    for value, psnr in ((math.inf, -math.inf), (math.nan, math.nan)):
        found = errors(np.full((1, 1), value), TARGET[:1, :1], MASK[:1, :1], depth_range=255).values(255)
        assert found["psnr"] == pytest.approx(psnr, nan_ok=True) and not math.isfinite(found["mae"])


def test_maps_are_prepared_band_by_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BAND", 6)
    part, sizes = np.arange(24, dtype=np.float32).reshape(8, 3) / 255, []

    def grey(band: np.ndarray) -> np.ndarray:
        sizes.append(len(band))
        assert band.dtype == np.float64
        return np.rint(band * 255)

    off = part + np.float32(0.4 / 255)
    assert errors(off, part, np.ones(part.shape, bool), depth_range=255, prepare=grey).mae == 0
    assert max(sizes) == 8 and len(sizes) == 2 * 4


def test_integers_do_not_wrap_and_large_sums_do_not_drown() -> None:
    one = errors(np.array([[0]], np.uint8), np.array([[255]], np.uint8), np.array([[True]]), depth_range=255)
    assert (one.absolute, one.squared, one.count) == (255.0, 65025.0, 1)
    many = np.full((1, 2**15), 4096.0, np.float32)  # a float32 sum of the squares would lose the last half
    many[0, 0] = 4097
    found = errors(many, np.zeros_like(many), np.ones(many.shape, bool), depth_range=255)
    assert found.squared == (2**15 - 1) * 4096.0**2 + 4097.0**2
