"""Losses by hand, and the difference of gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ahmf_jax import resample
from ahmf_jax.losses import LOSSES, edge_mask, edge_values, stage_truths

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


def four_axes(rows: list[list[float]]) -> jax.Array:
    return jnp.asarray(rows, jnp.float32)[None, ..., None]


def edge_loss(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """As the training step takes it."""
    return jnp.sum(edge_values(prediction, target, mask)) / jnp.maximum(jnp.sum(edge_mask(mask)), 1)


# Differences of these errors, down: 0.5 2 1; to the right: 0.5 1 and 1 4.
ERROR = [[0.5, 1.0, 2.0], [0.0, -1.0, 3.0]]
TRUTH = [[5.0, 2.0, 7.0], [1.0, 0.0, 4.0]]


def test_edges_by_hand() -> None:
    truth, known = four_axes(TRUTH), jnp.ones((1, 2, 3, 1), bool)
    prediction = truth + four_axes(ERROR)
    # Of a pixel: down + right. The last row has none below, the last column none to the right.
    np.testing.assert_allclose(edge_values(prediction, truth, known)[0, ..., 0], [[0.5 + 0.5, 2 + 1, 1], [1, 4, 0]])
    np.testing.assert_array_equal(edge_mask(known)[0, ..., 0], [[2, 2, 1], [1, 1, 0]])
    assert edge_loss(prediction, truth, known) == pytest.approx(10 / 7)
    assert edge_loss(prediction + 9, truth, known) == pytest.approx(10 / 7, rel=1e-5)  # blind to a constant


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30])
def test_a_difference_counts_where_both_pixels_are_known(bad: float) -> None:
    truth = four_axes(TRUTH)
    known = jnp.ones((1, 2, 3, 1), bool).at[0, 0, 1, 0].set(False)
    prediction = (truth + four_axes(ERROR)).at[0, 0, 1, 0].set(bad)
    truth = truth.at[0, 0, 1, 0].set(-bad)
    # What is left: down 0.5 and 1, to the right 1 and 4 of the last row.
    np.testing.assert_array_equal(edge_mask(known)[0, ..., 0], [[1, 0, 1], [1, 1, 0]])
    np.testing.assert_allclose(edge_values(prediction, truth, known)[0, ..., 0], [[0.5, 0, 1], [1, 4, 0]])
    value, gradient = jax.value_and_grad(edge_loss)(prediction, truth, known)
    assert value == pytest.approx(6.5 / 4)
    # |a - b| pulls at both of its ends.
    np.testing.assert_allclose(gradient[0, ..., 0], np.array([[1, 0, -1], [0, -2, 2]]) / 4)
    nothing = jnp.zeros_like(known)
    assert edge_loss(prediction, truth, nothing) == 0
    assert not jax.grad(edge_loss)(prediction, truth, nothing).any()


def gathers(function: Callable[..., jax.Array], mesh: Mesh) -> tuple[int, int]:
    """All-gathers and collective-permutes in the compiled gradient of a function of prediction, target and mask."""
    split = NamedSharding(mesh, P("data", "spatial"))
    shapes = [jax.ShapeDtypeStruct((2, 16, 8, 1), dtype, sharding=split) for dtype in (float, float, bool)]
    text = jax.jit(jax.value_and_grad(function)).lower(*shapes).compile().as_text() or ""
    return text.count("all-gather"), text.count("collective-permute")


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices: JAX_NUM_CPU_DEVICES=8")
def test_a_height_over_devices_is_not_gathered() -> None:
    """Neighbours send each other a row, forward and backward; a cumulative sum shows that a gathering would be seen."""
    mesh = jax.make_mesh((2, 4), ("data", "spatial"), axis_types=(AxisType.Auto, AxisType.Auto))
    found, rows = gathers(edge_loss, mesh)
    assert found == 0 and rows >= 2
    assert gathers(lambda p, t, m: jnp.sum(jnp.square(jnp.cumsum(jnp.where(m, p - t, 0.0), 1))), mesh)[0] > 0


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices: JAX_NUM_CPU_DEVICES=8")
def test_a_height_over_devices_has_the_same_edges() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "spatial"), axis_types=(AxisType.Auto, AxisType.Auto))
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 8, 6, 1)), jnp.float32) for _ in range(2)]
    mask = jnp.asarray(rng.random((2, 8, 6, 1)) < 0.8)
    alone = jax.value_and_grad(edge_loss)(*arrays, mask)
    split = jax.device_put([*arrays, mask], NamedSharding(mesh, P("data", "spatial")))
    for one, many in zip(alone, jax.jit(jax.value_and_grad(edge_loss))(*split), strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-6, atol=1e-7)


def test_what_a_stage_is_to_make_by_hand() -> None:
    """Linear shrinking by 2 takes the mean of a block, nearest the middle of 3; by 4 the mean of the inner 2 x 2."""
    truth = four_axes(np.arange(32.0).reshape(4, 8).tolist())
    known = jnp.ones_like(truth, bool)
    (two, all_known), (four, _) = stage_truths(truth, known, [(2, 4), (1, 2)], "torch_bilinear")
    np.testing.assert_allclose(two[0, ..., 0], np.add.outer([0, 16], [4.5, 6.5, 8.5, 10.5]))
    np.testing.assert_allclose(four[0, ..., 0], [[13.5, 17.5]])
    assert all_known.all()
    np.testing.assert_array_equal(stage_truths(truth, known, [(4, 8)], "matlab_bicubic")[0][0], truth)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize(
    ("kernel", "unknown"),
    [
        ("area", [2]),
        ("torch_bilinear", [2]),
        ("nearest_first", []),
        ("nearest_last", [2]),
        # What lies less than 4 pixels from the middle of a pixel of x2, as a cubic that smooths reads, or less than 2.
        ("matlab_bicubic", [1, 2, 3, 4]),
        ("torch_bicubic", [2, 3]),
    ],
)
def test_a_stages_pixel_is_known_where_all_that_it_is_made_of_is(kernel: str, unknown: list[int], junk: float) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((1, 4, 16, 1), np.float32)
    known = np.ones(truth.shape, bool)
    known[0, 1, 5] = False
    spoilt = np.where(known, truth, np.float32(junk))
    (whole, mask), (holed, _) = (
        stage_truths(jnp.asarray(x), jnp.asarray(known), [(4, 8)], kernel)[0] for x in (truth, spoilt)
    )
    row = np.asarray(mask)[0, 1, :, 0]
    np.testing.assert_array_equal(np.flatnonzero(~row), unknown)
    np.testing.assert_array_equal(whole, holed)
    expected = resample.resize(truth, (4, 8), kernel)
    np.testing.assert_allclose(np.asarray(whole)[mask], expected[np.asarray(mask)], rtol=1e-5)
