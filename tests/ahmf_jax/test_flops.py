"""The count of a step's arithmetic, against figures made by hand and by others, and the peaks it is compared with."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from ahmf_jax import flops
from ahmf_jax.models import AHMF
from ahmf_jax.models.base import Model


def batch(scale: int, size: int = 256, count: int = 1) -> dict[str, Any]:
    return {
        "depth_lr": jax.ShapeDtypeStruct((count, size // scale, size // scale, 1), jnp.float32),
        "guide": jax.ShapeDtypeStruct((count, size, size, 3), jnp.float32),
    }


@pytest.mark.parametrize(("scale", "gigaflops"), [(4, 43.5), (8, 23.4), (16, 38.6)])
def test_the_release_costs_what_is_published(scale: int, gigaflops: float) -> None:
    # The figures count each GRU layer's first step in full; its state is zero, and this program leaves out what only
    # multiplies it: 2 directions x 2 layers, 3 x 3 kernels from 64 to 3 x 64 channels.
    zeros = 2 * 2 * 2 * (256 // scale) ** 2 * 9 * 64 * 192 / 1e9
    assert flops.train_flops(AHMF(scale), batch(scale)) / 3e9 + zeros == pytest.approx(gigaflops, abs=0.1)


@pytest.mark.parametrize("fields", [{"unroll": 1}, {"remat": "blocks"}], ids=str)
def test_neither_rolled_levels_nor_rematerialisation_changes_the_count(fields: dict[str, Any]) -> None:
    plain = flops.train_flops(AHMF(4, 5, 4, unroll=5), batch(4, 16))
    assert flops.train_flops(AHMF(4, 5, 4, **fields), batch(4, 16)) == plain
    assert flops.train_flops(AHMF(4, 6, 4), batch(4, 16)) > plain


def test_the_count_goes_with_the_batch() -> None:
    assert flops.train_flops(AHMF(4, 1, 4), batch(4, 16, 6)) == 6 * flops.train_flops(AHMF(4, 1, 4), batch(4, 16))


class OneConv(Model):
    """Three groups of 5 inputs, every other pixel."""

    @nn.compact
    def __call__(self, depth_lr: Any, guide: Any) -> Any:
        return nn.Conv(6, (3, 3), strides=2, feature_group_count=3, use_bias=False)(jnp.tile(guide, 5))


def test_convolutions_are_counted_by_group_and_stride() -> None:
    outputs = 8 * 8 * 6
    assert flops.train_flops(OneConv(scale=4), batch(4, 16)) == 3 * 2 * outputs * 9 * 5


class Loop(Model):
    """A product inside a loop, `times` over, rematerialised."""

    times: int | None

    @nn.compact
    def __call__(self, depth_lr: Any, guide: Any) -> Any:
        weight = self.param("weight", nn.initializers.ones, (3, 3))

        @jax.checkpoint
        def body(x: Any) -> Any:
            return jnp.tanh(x @ weight)

        if self.times is None:
            return lax.while_loop(lambda x: x.sum() < 1, body, guide)
        return lax.scan(lambda x, _: (body(x), None), guide, length=self.times)[0]


def test_a_loop_counts_as_often_as_it_runs() -> None:
    assert flops.train_flops(Loop(4, 11), batch(4, 16)) == 3 * 11 * 2 * 16 * 16 * 3 * 3


def test_a_loop_of_unknown_length_is_no_silent_number() -> None:
    with pytest.raises(NotImplementedError, match="while: how often"):
        flops.train_flops(Loop(4, None), batch(4, 16))


def device(kind: str, platform: str = "gpu", **fields: Any) -> Any:
    return SimpleNamespace(device_kind=kind, platform=platform, process_index=0, **fields)


@pytest.mark.parametrize(
    ("kind", "arithmetic", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "tf32", 494.7),
        ("NVIDIA H200", "float32", 66.9),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156),
        ("NVIDIA A100 80GB PCIe", "float32", 19.5),
        ("NVIDIA L4", "tf32", 60),
        ("NVIDIA L40S", "bfloat16", 362),
        ("Tesla V100-SXM2-16GB", "float32", 15.7),
        ("Tesla V100-PCIE-32GB", "float32", 14),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("TPU v3", "bfloat16", 61.5),
        ("TPU v4", "bfloat16", 275),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5", "bfloat16", 459),
        ("TPU v6e", "bfloat16", 918),
        ("TPU v4", "float32", None),
        ("NVIDIA A10G", "bfloat16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090", "float32", None),
        ("cpu", "float32", None),
    ],
)
def test_published_peaks(kind: str, arithmetic: flops.Arithmetic, teraflops: float | None) -> None:
    peak = flops.peak_flops(device(kind), arithmetic)
    assert peak == (None if teraflops is None else pytest.approx(1e12 * teraflops))


def test_float32_is_what_the_device_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper, volta = device("H", compute_capability="9.0"), device("V", compute_capability="7.0")
    tpu, cpu = device("T", "tpu"), device("cpu", "cpu")

    def found(precision: str | None) -> list[str]:
        with jax.default_matmul_precision(precision):
            return [flops.arithmetic_of(jnp.float32, each) for each in (hopper, volta, tpu, cpu)]

    assert found(None) == ["tf32", "float32", "bfloat16", "float32"]
    assert found("highest") == ["float32"] * 4
    assert flops.arithmetic_of(jnp.bfloat16, volta) == "bfloat16"


def test_the_peak_of_several_devices_is_their_sum_and_says_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    h200 = [device("NVIDIA H200", compute_capability="9.0")] * 4
    with jax.default_matmul_precision(None):
        peak = flops.peak(h200, jnp.float32)
    assert peak == (pytest.approx(4 * 494.7e12), "published dense tf32 peak of NVIDIA H200")

    monkeypatch.setattr(flops, "matmul_rate", lambda dtype: 1e11)
    assert flops.peak(jax.devices(), jnp.float32).flops == 1e11  # simulated devices share one machine's processors
    unknown = flops.peak([device("NVIDIA new", compute_capability="12.0")] * 2, jnp.bfloat16)
    assert unknown == (2e11, "measured rate of a large bfloat16 product on NVIDIA new")


def test_the_measured_rate_is_a_rate() -> None:
    # Far below what any processor of today does, far above what a wrong unit gives.
    assert 1e9 < flops.matmul_rate() < 1e14
