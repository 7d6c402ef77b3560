"""Covariances on nested grids: against NumPy, of parts and padded maps; the square root against that by eigenvalues."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahmf_jax import covariance
from ahmf_jax.covariance import correlations, gathered, pooled, square_root
from ahmf_jax.tiles import joined

CELLS = (1, 2, 4)


def maps(height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Random maps of 3 channels, one on each grid."""
    rng = np.random.default_rng(seed)
    return [rng.normal(1, 1, (2, -(-height // cell), -(-width // cell), 3)).astype(np.float32) for cell in CELLS]


@jax.jit
def all_moments(images: Any, size: Any = None, part: Any = None) -> Any:
    return gathered(images, CELLS, size, part)


def means(x: np.ndarray, cell: int) -> np.ndarray:
    """Averages over cells, of those at the border over what they have; by loops."""
    height, width = x.shape[1:3]
    rows = [
        [x[:, i : i + cell, j : j + cell].mean((1, 2)) for j in range(0, width, cell)] for i in range(0, height, cell)
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def padded(x: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)], constant_values=1e3)


@pytest.mark.parametrize("cell", [2, 4])
def test_cells_at_the_border_are_means_of_what_they_have(cell: int) -> None:
    x = maps(5, 7)[0]
    np.testing.assert_allclose(pooled(jnp.asarray(x), cell), means(x, cell), rtol=1e-6)
    beside = jnp.asarray(padded(x, 9, 8))
    found = pooled(beside, cell, jnp.array([5, 7]))[:, : -(-5 // cell), : -(-7 // cell)]
    np.testing.assert_allclose(found, means(x, cell), rtol=1e-6)


def test_moments_are_numpys() -> None:
    """Of a grid's own channels, and of those of every finer grid with them."""
    images = maps(6, 7)
    for own, found in enumerate(all_moments(images)):
        values = np.concatenate([means(x, CELLS[own] // c) for x, c in zip(images[: own + 1], CELLS, strict=False)], -1)
        assert found["count"].item() == values[0, ..., 0].size
        for i, one in enumerate(values.reshape(len(values), -1, values.shape[-1])):
            np.testing.assert_allclose(found["mean"][i], one.mean(0), rtol=1e-5)
            np.testing.assert_allclose(found["covariance"][i], np.cov(one.T, bias=True)[:, -3:], atol=1e-6)


def test_padding_and_parts() -> None:
    """What stands in padding has no say, and the moments of parts make those of the whole."""
    images = maps(10, 7)
    whole = all_moments(images)
    sizes = [(-(-16 // cell), -(-8 // cell)) for cell in CELLS]
    beside = [padded(x, *size) for x, size in zip(images, sizes, strict=True)]
    size = np.array([10, 7])
    for names in zip(all_moments(beside, size), whole, strict=True):
        for name in whole[0]:
            np.testing.assert_allclose(names[0][name], names[1][name], rtol=1e-5, atol=1e-6)
    parts = [
        jax.device_get(all_moments(beside, size, np.array(part)))
        for part in ([0, 4, 0, 4], [0, 4, 4, 7], [4, 10, 0, 7])
    ]
    for grid, expected in enumerate(whole):
        found = joined(joined(parts[0][grid], parts[1][grid]), parts[2][grid])
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def random_matrices(n: int) -> np.ndarray:
    """Positive definite ones, whose eigenvalues are 0.2 to 1."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(2, n, n)))[0]
    return ((basis * rng.uniform(0.2, 1, (2, 1, n))) @ basis.swapaxes(1, 2)).astype(np.float32)


def by_eigenvalues(matrix: Any) -> Any:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(values)[..., None, :]) @ vectors.swapaxes(-1, -2)


def test_the_square_root_is_that_by_eigenvalues() -> None:
    """Its gradient, too; and five iterations are near it already."""
    matrices = jnp.asarray(random_matrices(4))
    weight = np.random.default_rng(1).normal(size=matrices.shape).astype(np.float32)

    def weighed(matrix: Any) -> Any:
        return jnp.sum(weight * by_eigenvalues(matrix))

    def gradient(iterations: int) -> Any:
        return jax.jit(jax.grad(lambda m: jnp.sum(weight * square_root(m, iterations))))(matrices)

    expected, slope = by_eigenvalues(matrices), jax.jit(jax.grad(weighed))(matrices)
    np.testing.assert_allclose(square_root(matrices, 20), expected, atol=1e-5)
    # Both roots are of what is symmetric: their gradients agree in the part of them that is.
    symmetric = [(g + np.swapaxes(g, 1, 2)) / 2 for g in (np.asarray(gradient(20)), np.asarray(slope))]
    np.testing.assert_allclose(symmetric[0], symmetric[1], atol=2e-4)
    np.testing.assert_allclose(square_root(matrices), expected, atol=0.02)


def test_gradients_are_differences() -> None:
    """Of all correlations with respect to the maps, in float64."""
    images = [x[:1].astype(np.float64) for x in maps(5, 4)]
    rng = np.random.default_rng(2)
    steps = [rng.normal(size=x.shape) for x in images]

    def described(images: Any) -> Any:
        rows = correlations(gathered(images, CELLS), 3)
        return sum(jnp.sum(jnp.sin(matrix + i)) for i, row in enumerate(rows) for matrix in row)

    with jax.enable_x64(True):
        program = jax.jit(described)
        slope = jax.jvp(program, (images,), (steps,))[1]
        ends = [program([x + sign * 1e-4 * s for x, s in zip(images, steps, strict=True)]) for sign in (1, -1)]
    assert float(slope) == pytest.approx((float(ends[0]) - float(ends[1])) / 2e-4, rel=1e-6)


def test_maps_of_one_value_have_finite_gradients() -> None:
    images = [np.full_like(x, 0.7) for x in maps(4, 4)]

    def described(images: Any) -> Any:
        return sum(jnp.sum(matrix) for row in correlations(gathered(images, CELLS), 3) for matrix in row)

    value, gradient = jax.jit(jax.value_and_grad(described))(images)
    assert abs(value) < 1e-6 and all(np.isfinite(g).all() for g in gradient)


def test_nothing_is_as_large_as_pixels_by_pixels() -> None:
    images = [jax.ShapeDtypeStruct((1, 64 // cell, 64 // cell, 3), jnp.float32) for cell in CELLS]
    traced = jax.make_jaxpr(lambda *x: correlations(gathered(x, CELLS), 3))(*images)
    largest = max(np.prod(v.aval.shape) for e in traced.jaxpr.eqns for v in e.outvars)  # type: ignore[union-attr]
    assert largest <= 64 * 64 * 9
    assert covariance.ITERATIONS == 5
