"""The U-Net: its size, its start, and batch statistics as PyTorch has them, of whole batches and of shares."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ahmf_jax.errors import InputError
from ahmf_jax.sharding import make_mesh
from ahmf_jax.unet import (
    EPSILON,
    MOMENTUM,
    BasicBlock,
    BatchNorm,
    Bottleneck,
    Conv,
    DecoderBlock,
    Head,
    UNet,
    skips,
    widths,
)


def shapes_of(net: UNet, inputs: int = 4) -> dict[str, Any]:
    return dict(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 32, inputs))))


def count(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("encoder", "channels", "inputs", "parts"),
    [
        # The whole of DADA has one more, log K: 32,533,377.
        ("resnet50", 64, 4, {"encoder": 23_511_168, "decoder": 9_012_928, "head": 9_280}),
        # Three inputs and one output: 32,521,105 is segmentation-models-pytorch's own count.
        ("resnet50", 1, 3, {"encoder": 23_508_032, "decoder": 9_012_928, "head": 145}),
        # torchvision's 11,689,512 less its classifier's 513,000, and 3,136 for the fourth input.
        ("resnet18", 64, 4, {"encoder": 11_179_648, "decoder": 3_151_552, "head": 9_280}),
    ],
)
def test_the_number_of_parameters(encoder: Any, channels: int, inputs: int, parts: dict[str, int]) -> None:
    variables = shapes_of(UNet(channels, encoder), inputs)
    assert {name: count(tree) for name, tree in variables["params"].items()} == parts
    norms = [path for path, _ in jax.tree.leaves_with_path(variables["params"]) if path[-1].key == "scale"]
    assert len(jax.tree.leaves(variables["batch_stats"])) == 2 * len(norms)


def test_paths_and_widths() -> None:
    assert widths("resnet50") == (64, 256, 512, 1024, 2048) and skips("resnet50") == (1024, 512, 256, 64, 0)
    assert widths("resnet18") == (64, 64, 128, 256, 512) and skips("resnet18") == (256, 128, 64, 64, 0)
    params = shapes_of(UNet())["params"]
    assert params["encoder"]["conv1"]["kernel"].shape == (7, 7, 4, 64)
    assert params["encoder"]["layer1_0"]["downsample"]["kernel"].shape == (1, 1, 64, 256)
    assert params["encoder"]["layer2_0"]["conv2"]["kernel"].shape == (3, 3, 128, 128)
    assert params["decoder"]["block_0"]["conv1"]["kernel"].shape == (3, 3, 2048 + 1024, 256)
    assert params["decoder"]["block_4"]["conv1"]["kernel"].shape == (3, 3, 32, 16)
    assert params["head"]["kernel"].shape == (3, 3, 16, 64)
    # ResNet-18's first layer changes neither size nor channels: nothing to project.
    assert "downsample" not in shapes_of(UNet(encoder="resnet18"))["params"]["encoder"]["layer1_0"]


@pytest.mark.parametrize(
    ("net", "inputs", "path", "deviation", "kurtosis"),
    [
        # He's normal distribution, by what goes out.
        (BasicBlock(64, 2, True, "global"), (32, False), "conv1", math.sqrt(2 / (9 * 64)), 3),
        (BasicBlock(64, 2, True, "global"), (32, False), "downsample", math.sqrt(2 / 64), 3),
        (Bottleneck(64, 2, True, "global"), (32, False), "conv3", math.sqrt(2 / 256), 3),
        # He's uniform one, by what comes in; then Glorot's.
        (DecoderBlock(32, "global"), (64, None, False), "conv1", math.sqrt(2 / (9 * 64)), 1.8),
        (DecoderBlock(32, "global"), (64, None, False), "conv2", math.sqrt(2 / (9 * 32)), 1.8),
        (Head(64), (16,), None, math.sqrt(2 / (9 * (16 + 64))), 1.8),
    ],
)
def test_the_start(net: Any, inputs: tuple[Any, ...], path: str | None, deviation: float, kurtosis: float) -> None:
    x = jnp.zeros((1, 4, 4, inputs[0]))
    params = jax.jit(net.init, static_argnums=range(2, 1 + len(inputs)))(jax.random.key(3), x, *inputs[1:])["params"]
    kernel = np.asarray((params[path] if path else params)["kernel"])
    assert np.std(kernel) == pytest.approx(deviation, rel=0.04)
    assert np.mean(kernel**4) / np.var(kernel) ** 2 == pytest.approx(kurtosis, abs=0.3)
    for place, x in jax.tree.leaves_with_path(params):
        if (name := place[-1].key) != "kernel":
            assert np.all(np.asarray(x) == {"scale": 1, "bias": 0}[name]), place


@pytest.mark.parametrize("size", [2, 4, 6])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_stride_two_takes_every_second_response(kernel_size: int, size: int) -> None:
    """Of the same kernel with stride 1, from the first on: the padding is k // 2 on either side."""
    x = jnp.asarray(np.random.default_rng(0).random((2, size, 2 * size, 3), np.float32))
    variables = Conv(5, kernel_size).init(jax.random.key(0), x)
    whole, halved = (np.asarray(Conv(5, kernel_size, stride).apply(variables, x)) for stride in (1, 2))
    np.testing.assert_allclose(halved, whole[:, ::2, ::2], rtol=0, atol=2e-6)


@pytest.fixture
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(3, 2, (4, 2, 3, 5)).astype(np.float32))


def norm(x: jax.Array, statistics: Any = "global") -> tuple[jax.Array, dict[str, jax.Array]]:
    """A training step's result, and the running statistics after it."""
    net = BatchNorm(statistics)
    y, changed = net.apply(net.init(jax.random.key(0), x), x, train=True, mutable=["batch_stats"])
    return y, changed["batch_stats"]


def test_batch_statistics(x: jax.Array) -> None:
    """Biased for the batch, unbiased for the running variance, a tenth of the way."""
    y, running = norm(x)
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + EPSILON), rtol=0, atol=1e-5)
    n = 4 * 2 * 3
    np.testing.assert_allclose(running["mean"], MOMENTUM * mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], 1 - MOMENTUM + MOMENTUM * var * n / (n - 1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics(x: jax.Array) -> None:
    c = np.arange(1, 6, dtype=np.float32)
    variables: Any = {"params": {"scale": c, "bias": -c}, "batch_stats": {"mean": 2 * c, "var": c * c}}
    y, changed = BatchNorm().apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, c * (x - 2 * c) / np.sqrt(c * c + EPSILON) - c, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(changed["batch_stats"]["mean"], 2 * c)


@pytest.mark.parametrize(("statistics", "parts"), [("global", 1), ("local", 4)])
def test_a_batch_that_is_spread_over_devices(x: jax.Array, statistics: Any, parts: int) -> None:
    """Is normalised as a whole, whatever it lies on, or share by share, as processes would that do not talk."""
    mesh = make_mesh(4, 2)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "spatial")))
    with jax.set_mesh(mesh):
        y, running = jax.jit(norm, static_argnums=1)(spread, statistics)
    alone = [norm(part) for part in jnp.split(x, parts)]
    np.testing.assert_allclose(y, np.concatenate([y for y, _ in alone]), rtol=0, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(running[name], np.mean([stats[name] for _, stats in alone], 0), rtol=1e-5)


def test_local_statistics_of_one_device_are_the_batches(x: jax.Array) -> None:
    for ours, theirs in zip(jax.tree.leaves(norm(x, "local")), jax.tree.leaves(norm(x)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="given 32 x 48: pad to multiples of 32"):
        jax.eval_shape(UNet(8, "resnet18").init, jax.random.key(0), jnp.zeros((1, 32, 48, 4)))
    with pytest.raises(InputError, match="a single value of each channel"):
        norm(jnp.zeros((1, 1, 1, 3)))
    with pytest.raises(InputError, match="a batch of 3 cannot be divided over data=2"), jax.set_mesh(make_mesh(2)):
        norm(jnp.zeros((3, 2, 2, 3)), "local")
    with pytest.raises(InputError, match="a single value of each channel"), jax.set_mesh(make_mesh(2)):
        norm(jnp.zeros((2, 1, 1, 3)), "local")


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    with jax.default_matmul_precision("highest"):
        yield
