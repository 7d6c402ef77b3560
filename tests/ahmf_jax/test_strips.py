"""Resampling in strips is resampling."""

from typing import Any

import numpy as np
import pytest

from ahmf_jax import resample, strips

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kernel", resample.KERNELS)
@pytest.mark.parametrize("size", [(5, 22), (40, 3), (27, 31)])
@pytest.mark.parametrize("values", [1, 400, 2**22])
def test_strips_of_any_height_are_the_whole(
    kernel: str, size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip must read every row that its rows depend on; 1 value is a row at a time."""
    monkeypatch.setattr(strips, "STRIP_VALUES", values)
    x = RNG.random((2, 18, 13, 3), np.float32)
    np.testing.assert_allclose(strips.resize(x, size, kernel), resample.resize(x, size, kernel), atol=3e-6)
    flat = strips.resize(x[..., 0], size, kernel)
    np.testing.assert_allclose(flat, resample.resize(x, size, kernel)[..., 0], atol=3e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_are_rounded_and_clipped(dtype: Any) -> None:
    """Bicubic overshoots at a step; wrapped around it would turn black into white."""
    top = np.iinfo(dtype).max
    x = np.where(np.arange(12) < 6, 0, top).astype(dtype)[None, None, :, None].repeat(4, 1)
    result = strips.resize(x, (4, 30), "matlab_bicubic")
    assert result.dtype == dtype
    exact = resample.resize(x.astype(np.float64), (4, 30), "matlab_bicubic")
    assert exact.min() < -1 and exact.max() > top + 1
    assert np.abs(result - np.clip(exact, 0, top)).max() <= 0.5 + 1e-6 * top


def test_colours_in_floating_point_stay_colours_and_depth_does_not_change() -> None:
    x = np.where(np.arange(12) < 6, 0, 1).astype(np.float32)[None, None, :, None].repeat(4, 1)
    result = strips.resize_guide(x, (4, 30))
    assert result.min() == 0 and result.max() == 1
    exact = np.clip(resample.resize(x, (4, 30), "matlab_bicubic"), 0, 1)
    np.testing.assert_allclose(result, exact, atol=1e-6)
    assert strips.resize(x[..., 0], (4, 30), "matlab_bicubic").max() > 1


def test_the_same_size_is_the_same_array_and_a_memory_map_will_do(tmp_path: Any) -> None:
    x = RNG.integers(0, 256, (1, 8, 9, 3), np.uint8)
    assert strips.resize(x, (8, 9), "area") is x and strips.resize_guide(x, (8, 9)) is x
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(strips.resize_guide(mapped, (4, 3)), strips.resize_guide(x, (4, 3)))
