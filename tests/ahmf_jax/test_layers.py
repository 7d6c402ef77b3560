"""The building blocks: each short cut equals the plain way, and the channel orders are PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ahmf_jax import layers


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    out = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out if bias is None else out + bias


def test_pixel_unshuffle_has_torchs_channel_order() -> None:
    # One 2 x 4 image of two channels: channel 0 counts from 0, channel 1 from 10.
    x = jnp.stack([jnp.arange(8.0).reshape(2, 4), 10 + jnp.arange(8.0).reshape(2, 4)], -1)[None]
    expected = [[[[0, 1, 4, 5, 10, 11, 14, 15], [2, 3, 6, 7, 12, 13, 16, 17]]]]
    np.testing.assert_array_equal(layers.pixel_unshuffle(x), expected)
    np.testing.assert_array_equal(layers.pixel_shuffle(jnp.asarray(expected, jnp.float32)), x)


@pytest.mark.parametrize("factor", [2, 3])
def test_shuffle_and_unshuffle_undo_each_other(factor: int) -> None:
    x = noise(2, 2 * factor, 3 * factor, 5)
    small = layers.pixel_unshuffle(x, factor)
    assert small.shape == (2, 2, 3, 5 * factor**2)
    np.testing.assert_array_equal(layers.pixel_shuffle(small, factor), x)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("inside", "outside"), [(3, 4), (3, 1), (1, 1), (1, 4)])
def test_conv2d_is_a_convolution(size: int, inside: int, outside: int) -> None:
    x, kernel, bias = noise(2, 4, 7, inside), noise(size, size, inside, outside, seed=1), noise(outside, seed=2)
    ours = layers.conv2d(x, kernel, bias)
    np.testing.assert_allclose(ours, plain_conv(x, kernel, bias), rtol=0, atol=1e-5)
    np.testing.assert_allclose(layers.conv2d(x, kernel), ours - bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_unshuffle_conv_is_a_convolution_of_the_unshuffled_image(size: int) -> None:
    x = noise(2, 4, 6, 3)
    module = layers.UnshuffleConv(3, 5, size)
    params = module.init(jax.random.key(0), x)
    conv = params["params"]["conv"]
    assert conv["kernel"].shape == (size, size, 12, 5)
    expected = plain_conv(layers.pixel_unshuffle(x), conv["kernel"], conv["bias"])
    np.testing.assert_allclose(module.apply(params, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "outside"), [(1, 3), (3, 2), (3, 1)])
def test_conv_shuffle_shuffles_what_the_convolution_gives(size: int, outside: int) -> None:
    x = noise(2, 4, 3, 5)
    module = layers.ConvShuffle(5, outside, size)
    params = module.init(jax.random.key(0), x)
    conv = params["params"]["conv"]
    assert conv["kernel"].shape == (size, size, 5, 4 * outside)
    expected = layers.pixel_shuffle(plain_conv(x, conv["kernel"], conv["bias"]))
    np.testing.assert_allclose(module.apply(params, x), expected, rtol=0, atol=1e-5)


def test_convolutions_start_as_torchs_do() -> None:
    params = layers.Conv(4, 64, 3).init(jax.random.key(0), noise(1, 3, 3, 4))["params"]
    bound = 1 / np.sqrt(3 * 3 * 4)  # for the bias too: its fan-in is the kernel's
    for values in (params["kernel"], params["bias"]):
        assert bound * 0.9 < values.max() <= bound and -bound <= values.min() < -bound * 0.9
        assert abs(values.mean()) < bound / 3
    assert not np.array_equal(params["kernel"][0, 0, 0], params["bias"])


def test_conv_prelu_halves_and_halves_again_below_zero() -> None:
    x = noise(1, 4, 4, 2)
    module = layers.ConvPReLU(2, 3)
    params = module.init(jax.random.key(0), x)
    assert params["params"]["prelu"]["negative_slope"] == 0.25
    y = plain_conv(x, params["params"]["conv"]["kernel"], params["params"]["conv"]["bias"])
    np.testing.assert_allclose(module.apply(params, x), jnp.where(y > 0, y, 0.25 * y), rtol=0, atol=1e-6)


def test_bfloat16_is_the_arithmetics_and_not_the_parameters() -> None:
    x = noise(1, 4, 4, 2)
    module = layers.Conv(2, 3, 3, jnp.bfloat16)
    params = module.init(jax.random.key(0), x)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert module.apply(params, x).dtype == jnp.bfloat16
