"""Dtypes and values of holes on the way back; what is checked on the way in is in `test_upsample`."""

from typing import Any

import numpy as np
import pytest

from ahmf_jax.arrays import avoid, hole_value, into_dtype, known_samples


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("uint8", [0, 0, 2, 255, 255]),
        ("uint16", [0, 0, 2, 255, 65535]),
        ("float16", [-65504, -0.25, 1.5, 255.25, 65504]),
        ("float32", [-1e6, -0.25, 1.5, 255.25, 1e6]),
        ("float64", [-1e6, -0.25, 1.5, 255.25, 1e6]),
    ],
)
def test_results_are_rounded_and_clipped(dtype: str, expected: list[float]) -> None:
    depth = np.array([-1e6, -0.25, 1.5, 255.25, 1e6], np.float32)[None, None]
    result = into_dtype(depth, np.dtype(dtype))
    assert result.dtype == dtype and result.tolist() == [[expected]]


def test_the_value_of_a_hole() -> None:
    assert np.isnan(hole_value(np.dtype("float16"), None)) and hole_value(np.dtype("uint16"), None) == 0
    for dtype in ("uint8", "float32"):
        assert hole_value(np.dtype(dtype), 7) == 7 and hole_value(np.dtype(dtype), 7.0).dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "hole", "beside"),
    [
        ("uint8", 0, 1), ("uint8", 255, 254), ("uint16", 9, 8), ("float32", 0.0, np.float32(1e-45)),
        ("float32", 1.0, 1 - 2.0**-24), ("float64", -1.0, -1 + 2.0**-53), ("float32", np.inf, np.float32(3.4028235e38)),
    ],
)  # fmt: skip
def test_the_least_step_away_from_a_hole(dtype: str, hole: Any, beside: Any) -> None:
    depth = np.array([[[hole, 3, hole]]], dtype)
    avoid(depth, depth.dtype.type(hole))
    assert depth.tolist() == [[[beside, 3, beside]]]
    avoid(depth, depth.dtype.type(5))
    assert depth.tolist() == [[[beside, 3, beside]]]


def test_masks_are_not_written_to() -> None:
    mask = np.ones((1, 2, 2), bool)
    known = known_samples(np.array([[[0, 1], [2, 3]]], np.uint8), mask, 0)
    assert known.tolist() == [[[False, True], [True, True]]] and mask.all()
