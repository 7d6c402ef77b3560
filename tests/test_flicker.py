"""The script that measures flicker, in short: blending takes noise away and leaves what moves alone."""

import numpy as np
import pytest

from ahmf_jax.temporal import Temporal
from tests import flicker


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flicker, "HEIGHT", 64)
    monkeypatch.setattr(flicker, "WIDTH", 128)


@pytest.mark.usefixtures("small")
def test_a_still_camera_gains_and_a_moving_one_loses_nothing() -> None:
    ball = flicker.super_resolved(flicker.ball(0, 15), None, 0)
    still, static, moving = flicker.millimetres(ball, None, 0)
    steady, less, as_moving = flicker.millimetres(ball, Temporal(), 0)
    assert steady < 0.85 * still and less < static
    assert as_moving < 1.05 * moving
    pan = flicker.super_resolved(flicker.pan(0, 15), None, 0)
    _, _, error = flicker.millimetres(pan, None, 1)
    assert flicker.millimetres(pan, Temporal(), 1)[2] < 1.02 * error


@pytest.mark.usefixtures("small")
def test_the_sequences_are_what_they_say() -> None:
    ball = flicker.ball(0, 12)
    guide, depth, _ = ball[0]
    never = ~np.any([moving for _, _, moving in ball], 0)
    for seen, now, _ in ball:
        np.testing.assert_array_equal(now[never], depth[never])
        np.testing.assert_array_equal(seen[never], guide[never])
    assert all((ball[i][1] != ball[i + 1][1]).any() for i in range(11))
    pan = flicker.pan(0, 5)
    np.testing.assert_array_equal(pan[0][1][:, 1:], pan[1][1][:, :-1])
