"""Losses by hand, and their mean over the known pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahmf_jax.losses import LOSSES, masked_mean

PREDICTION, TARGET = jnp.array([1.0, 5.0, -2.0]), jnp.array([1.5, 3.0, -2.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("l1", [0.5, 2, 0]), ("mse", [0.25, 4, 0]), ("charbonnier", [(0.25 + 1e-6) ** 0.5, (4 + 1e-6) ** 0.5, 1e-3])],
)
def test_elementwise(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(LOSSES[name](PREDICTION, TARGET), expected, rtol=1e-6)
    np.testing.assert_allclose(LOSSES[name](TARGET, PREDICTION), expected, rtol=1e-6)


def test_every_loss_is_listed_and_has_a_gradient_at_zero() -> None:
    assert LOSSES.keys() == {"l1", "mse", "charbonnier"}
    for loss in LOSSES.values():
        assert np.isfinite(jax.grad(lambda x, loss=loss: loss(x, jnp.float32(2)))(jnp.float32(2)))


def test_masked_mean_counts_the_known() -> None:
    values = jnp.array([[1.0, 2.0], [4.0, jnp.nan]])
    assert masked_mean(values, jnp.array([[True, False], [True, False]])) == 2.5
    assert masked_mean(values, jnp.array([[True, True], [True, False]])) == pytest.approx(7 / 3)
    assert masked_mean(values, jnp.zeros((2, 2), bool)) == 0


def test_masked_mean_has_no_gradient_in_holes() -> None:
    mask = jnp.array([True, False, True, True])
    gradient = jax.grad(masked_mean)(jnp.array([1.0, 2.0, 3.0, 4.0]), mask)
    np.testing.assert_allclose(gradient, [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)
    assert not jax.grad(masked_mean)(jnp.ones(4), jnp.zeros(4, bool)).any()
