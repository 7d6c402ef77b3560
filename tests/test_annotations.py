"""That annotations are checked in functions that are made at each call, and that their checks are compiled once."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError, jaxtyped

from tests import annotations


def made(row: int) -> Callable[..., np.ndarray]:
    @jaxtyped(typechecker=annotations.checked)
    def taken(x: Float[np.ndarray, "h w"], row: int | None = row) -> Float[np.ndarray, "w"]:
        return x if row is None else x[row]

    return taken


def test_each_function_of_a_definition_is_checked() -> None:
    image = np.arange(6.0).reshape(2, 3)
    first, compiled = made(0), len(annotations._checks)
    second = made(1)
    assert len(annotations._checks) == compiled
    np.testing.assert_array_equal(first(image), image[0])
    np.testing.assert_array_equal(second(image), image[1])
    for function in (first, second):
        with pytest.raises(TypeCheckError, match=r"parameters of .*made.<locals>\.taken"):
            function(image[0])
        with pytest.raises(TypeCheckError, match=r"return value of .*made.<locals>\.taken"):
            function(image, None)


def test_the_librarys_annotations_are_checked() -> None:
    from ahmf_jax.layers import pixel_shuffle

    with pytest.raises(TypeCheckError):
        pixel_shuffle(np.zeros((2, 3)), 2)
