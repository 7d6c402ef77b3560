"""The arithmetic of a training step, and how much of it the devices can do: what MFU is made of.

Model FLOPs utilisation (Chowdhery et al., "PaLM", JMLR 2023, appendix B) is the arithmetic that the model needs, per
second, over the devices' peak. What is needed is three times the forward pass's convolutions and matrix products, a
multiplication and an addition apart: the backward pass takes each product twice, once for either factor. What
rematerialisation computes again is not needed, and does not count.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from ahmf_jax.models.base import Model

# The numbers that are multiplied; sums are float32 in all three.
Arithmetic = Literal["float32", "tf32", "bfloat16"]

# Published dense peaks in TFLOP/s of one device as JAX counts them, by words of its `device_kind`; the entry with the
# most words counts. Makers print the tensor cores' rates with 2:4 sparsity, twice these.
PEAKS: dict[str, dict[Arithmetic, float]] = {
    # NVIDIA V100 and T4 data sheets. Their tensor cores know neither TF32 nor bfloat16.
    "V100 SXM2": {"float32": 15.7},
    "V100 PCIE": {"float32": 14.0},
    "T4": {"float32": 8.1},
    # NVIDIA A100, A30, A40 and A10 data sheets.
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
    "A30": {"float32": 10.3, "tf32": 82.0, "bfloat16": 165.0},
    "A40": {"float32": 37.4, "tf32": 74.8, "bfloat16": 149.7},
    "A10": {"float32": 31.2, "tf32": 62.5, "bfloat16": 125.0},
    # NVIDIA L4 and L40S data sheets.
    "L4": {"float32": 30.3, "tf32": 60.0, "bfloat16": 121.0},
    "L40S": {"float32": 91.6, "tf32": 183.0, "bfloat16": 362.0},
    # NVIDIA H100, H200 and GH200 data sheets; the plain names are the SXM modules.
    "H100": {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4},
    "H100 PCIe": {"float32": 51.0, "tf32": 378.0, "bfloat16": 756.0},
    "H100 NVL": {"float32": 60.0, "tf32": 417.5, "bfloat16": 835.5},
    "H200": {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4},
    "H200 NVL": {"float32": 60.0, "tf32": 417.5, "bfloat16": 835.5},
    "GH200": {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4},
    # Google Cloud's pages of each TPU, which give bfloat16 per chip; a v2 or v3 chip is two devices.
    "TPU v2": {"bfloat16": 46.0 / 2},
    "TPU v3": {"bfloat16": 123.0 / 2},
    "TPU v4": {"bfloat16": 275.0},
    "TPU v5 lite": {"bfloat16": 197.0},
    "TPU v5e": {"bfloat16": 197.0},
    "TPU v5": {"bfloat16": 459.0},
    "TPU v5p": {"bfloat16": 459.0},
    "TPU v6 lite": {"bfloat16": 918.0},
    "TPU v6e": {"bfloat16": 918.0},
}


class Peak(NamedTuple):
    """FLOP/s of all devices together, and where the figure is from, for the log."""

    flops: float
    meaning: str


def train_flops(model: Model, batch: Mapping[str, Any]) -> float:
    """Model FLOPs of one training step: three times the forward pass's.

    Args:
      model: any of ours. Rolled levels count as often as they run, whatever `unroll` and `remat` are; the loop that
        `Model.iterates` tells of does not.
      batch: its `depth_lr` and `guide`, or anything with their `shape` and `dtype`; nothing is computed.
    """
    inputs = [jax.ShapeDtypeStruct(batch[name].shape, batch[name].dtype) for name in ("depth_lr", "guide")]
    weights = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return 3.0 * _count(jax.make_jaxpr(model.apply)(weights, *inputs).jaxpr, model.iterates)


def _count(jaxpr: Any, iterates: bool) -> int:
    """Multiplications and additions in the convolutions and matrix products of a program.

    XLA's own analysis of a compiled program counts a loop's body once, and pays for what is not run.
    """
    total = 0
    for eqn in jaxpr.eqns:
        inner = sum(_count(sub, iterates) for sub in _inner(eqn))
        match eqn.primitive.name:
            case "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                taps = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
                total += 2 * eqn.outvars[0].aval.size * taps
            case "conv_general_dilated":
                kernel = eqn.invars[1].aval
                outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
                total += 2 * eqn.outvars[0].aval.size * (kernel.size // outputs)
            case "scan":
                total += eqn.params["length"] * inner
            case "while" if iterates:
                pass
            case "while" | "cond" if inner:
                raise NotImplementedError(f"{eqn.primitive.name}: how often its products run is not in the program")
            case _:
                total += inner
    return total


def _inner(eqn: Any) -> Iterator[core.Jaxpr]:
    """The programs that an equation runs: a loop's body, a rematerialised or a jitted function."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def peak_flops(device: Any, arithmetic: Arithmetic) -> float | None:
    """The published dense peak of a `jax.Device` in FLOP/s; None where none is known, for a part of a card too."""
    words = _words(device.device_kind)
    if "mig" in words:
        return None
    found = max((name for name in PEAKS if _words(name) <= words), key=lambda name: len(_words(name)), default=None)
    peak = None if found is None else PEAKS[found].get(arithmetic)
    return None if peak is None else 1e12 * peak


def _words(kind: str) -> set[str]:
    return set(re.findall(r"\w+", kind.lower()))


def arithmetic_of(dtype: Any, device: Any) -> Arithmetic:
    """What a device multiplies in where the model's `dtype` is float32 or bfloat16, as JAX is configured now.

    At the default precision a GPU rounds float32 to TF32, from NVIDIA's Ampere on, and a TPU to bfloat16.
    """
    if jnp.dtype(dtype) == jnp.bfloat16:
        return "bfloat16"
    if jax.config.jax_default_matmul_precision in ("highest", "float32", "F32_F32_F32"):  # type: ignore[attr-defined]
        return "float32"
    if device.platform == "tpu":
        return "bfloat16"
    tensor_cores = device.platform == "gpu" and float(getattr(device, "compute_capability", 0)) >= 8
    return "tf32" if tensor_cores else "float32"


def matmul_rate(dtype: Any = jnp.float32) -> float:
    """FLOP/s of a large square product on this process's first device: measured, in a fraction of a second."""
    device = jax.local_devices()[0]
    n = 1024 if device.platform == "cpu" else 8192
    x = jax.device_put(jnp.full((n, n), 1 / n, dtype), device)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()  # compiles
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


def peak(devices: Sequence[Any], dtype: Any) -> Peak:
    """What `devices`, all of one kind, can do in the arithmetic of a model of `dtype`.

    Published where it is; otherwise what a large product reaches here. CPU devices of a process share its processors,
    and count once.
    """
    device = devices[0]
    arithmetic = arithmetic_of(dtype, device)
    published = peak_flops(device, arithmetic)
    if published is not None:
        return Peak(len(devices) * published, f"published dense {arithmetic} peak of {device.device_kind}")
    count = len({d.process_index for d in devices}) if device.platform == "cpu" else len(devices)
    return Peak(count * matmul_rate(dtype), f"measured rate of a large {arithmetic} product on {device.device_kind}")
