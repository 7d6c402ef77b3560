"""Blending over time: the noise that is left, what moved, holes, and what is remembered."""

from typing import Any

import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError
from ahmf_jax.temporal import Temporal

SHAPE = (24, 32)
ALL = np.ones(SHAPE, bool)
GUIDE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)


def noisy(count: int, sigma: float = 0.005, mean: float = 2.0) -> np.ndarray:
    return (mean + sigma * np.random.default_rng(1).standard_normal((count, *SHAPE))).astype(np.float32)


def test_noise_falls_as_the_strength_says_and_the_mean_stays() -> None:
    frames, temporal = noisy(60), Temporal(0.8)
    steady = np.stack([temporal.blend(frame, GUIDE, ALL) for frame in frames])
    ratio = np.sqrt(((steady[20:] - 2) ** 2).mean() / ((frames[20:] - 2) ** 2).mean())
    assert ratio == pytest.approx(np.sqrt(0.2 / 1.8), rel=0.02)
    assert abs(steady[20:].mean() - 2) < 1e-4
    np.testing.assert_array_equal(steady[0], frames[0])


def test_it_is_the_recursion() -> None:
    a, b, c = noisy(3, sigma=1e-4)
    temporal = Temporal(0.75)
    temporal.blend(a, GUIDE, ALL)
    second = temporal.blend(b, GUIDE, ALL)
    np.testing.assert_allclose(second, 0.75 * a + 0.25 * b, rtol=1e-6)
    np.testing.assert_allclose(temporal.blend(c, GUIDE, ALL), 0.75 * second + 0.25 * c, rtol=1e-6)


@pytest.mark.parametrize("what", ["guide", "depth"])
def test_what_moved_follows_the_new_frame(what: str) -> None:
    """Beyond the reach of the neighbourhood, all else is blended still."""
    before, after = noisy(2)
    guide = GUIDE.copy()
    moved, far = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    moved[8:16, 8:16] = True
    far[6:18, 6:18] = False
    if what == "guide":
        guide[moved] = 255 - guide[moved]
    else:
        after[moved] += 0.3
    temporal = Temporal()
    temporal.blend(before, GUIDE, ALL)
    result = temporal.blend(after, guide, ALL)
    np.testing.assert_array_equal(result[moved], after[moved])
    np.testing.assert_allclose(result[far], (0.8 * before + 0.2 * after)[far], rtol=1e-5)


def test_holes_stay_and_nothing_comes_out_of_them() -> None:
    before, after = noisy(2)
    was, now = ALL.copy(), ALL.copy()
    was[2:5, 2:5] = now[10:13, 10:13] = False
    before[~was] = np.nan
    after[~now] = np.nan
    temporal = Temporal(depth_tolerance=1e9)
    temporal.blend(before, GUIDE, was)
    result = temporal.blend(after, GUIDE, now)
    np.testing.assert_array_equal(np.isnan(result), ~now)
    np.testing.assert_array_equal(result[~was], after[~was])
    both = was & now
    np.testing.assert_allclose(result[both], (0.8 * before + 0.2 * after)[both], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "float16", "float64"])
def test_dtypes(dtype: str) -> None:
    frames = (1000 * noisy(3)).astype(dtype)
    given = frames.copy()
    temporal = Temporal()
    for frame in frames:
        result = temporal.blend(frame, GUIDE, ALL)
        assert result.dtype == dtype
    np.testing.assert_array_equal(frames, given)
    expected = 0.8 * (0.8 * frames[0].astype(float) + 0.2 * frames[1]) + 0.2 * frames[2]
    assert np.abs(result - expected).max() <= {"uint16": 0.51, "float16": 1.0, "float64": 1e-3}[dtype]


def test_the_caller_may_use_its_arrays_again() -> None:
    before, after = noisy(2)
    depth, guide, mask = before.copy(), GUIDE.copy(), ALL.copy()
    temporal = Temporal()
    mask[:5] = False
    temporal.blend(depth, guide, mask)
    depth[:], mask[:] = after, True
    guide[:, :16] = 255 - guide[:, :16]
    expected = 0.8 * before + 0.2 * after
    expected[:5], expected[:, :16] = after[:5], after[:, :16]
    far = np.abs(np.arange(32) - 15.5) > 3
    np.testing.assert_allclose(temporal.blend(depth, guide, mask)[:, far], expected[:, far], rtol=1e-5)


def test_whole_numbers_do_not_stick_at_the_last_value() -> None:
    """What is remembered is not rounded: a step of one grey level is reached."""
    temporal = Temporal(0.8, depth_tolerance=1e9)
    temporal.blend(np.full(SHAPE, 100, np.uint8), GUIDE, ALL)
    for _ in range(10):
        result = temporal.blend(np.full(SHAPE, 101, np.uint8), GUIDE, ALL)
    assert (result == 101).all()


def test_the_guides_dtypes_mean_the_same() -> None:
    a, b = noisy(2)
    other = np.clip(GUIDE.astype(int) + 5, 0, 255).astype(np.uint8)  # within the ramp: the weights are in between
    results = []
    for into in (lambda g: g, lambda g: g.astype(np.uint16) * 257, lambda g: g / 255):
        temporal = Temporal()
        temporal.blend(a, into(GUIDE), ALL)
        results.append(temporal.blend(b, into(other), ALL))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])
    assert not np.allclose(results[0], 0.8 * a + 0.2 * b, rtol=1e-5) and not np.allclose(results[0], b, rtol=1e-5)


def test_reset_another_size_and_no_strength_start_anew() -> None:
    a, b = noisy(2)
    temporal = Temporal()
    temporal.blend(a, GUIDE, ALL)
    temporal.reset()
    np.testing.assert_array_equal(temporal.blend(b, GUIDE, ALL), b)
    np.testing.assert_array_equal(temporal.blend(a[:12], GUIDE[:12], ALL[:12]), a[:12])
    temporal = Temporal(0.0)
    temporal.blend(a, GUIDE, ALL)
    np.testing.assert_array_equal(temporal.blend(b, GUIDE, ALL), b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.0}, r"strength is 1: 0 \(no blending\) to below 1"),
        ({"strength": -0.1}, r"strength is -0\.1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"guide_tolerance": 0.0}, "tolerances are 0 and"),
        ({"depth_tolerance": -1.0}, "tolerances are .* and -1"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Temporal(**options)


def test_sizes_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    depth: Any = noisy(1)[0]
    with pytest.raises(InputError, match=r"depth has shape \(24, 32\), its guide \(12, 32\) and its mask \(24, 32\)"):
        Temporal().blend(depth, GUIDE[:12], ALL)
