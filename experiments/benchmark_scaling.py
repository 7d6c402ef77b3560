"""`ahmf benchmark scaling`: what one device has to do as devices are added, from the compiler's own figures.

The training step is compiled for meshes of simulated CPU devices and not run: floating-point operations, memory for
intermediate values and for the state, and the collective operations of the compiled program, for each device. A
program that scales has a device do the same work however many there are, when the batch or the height grows with
their number. Then a small network takes the same 20 steps on each mesh and on one device, and the parameters are
compared. Only real devices tell times: where there are several, the step is timed on 1, 2, 4, ... of them.
"""

import contextlib
import importlib.metadata
import itertools
import json
import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from ahmf_jax.models import AHMF

DEVICES = 8
STEPS = 20
TIMED_STEPS = 20
# Multiples of 7, as no parameter's size is: what is gathered and has such a size is an activation.
PRIME = 7
COLLECTIVE = re.compile(
    r"= (?P<made>.*?) (?P<kind>all-gather|all-reduce|all-to-all|ragged-all-to-all|collective-permute"
    r"|collective-broadcast|reduce-scatter)(-start)?\("
)

HEADING = (
    f"{'':<24}{'batch':>15}{'GFLOP':>9}{'share':>7}{'temporary':>12}{'share':>7}{'arguments':>12}{'exchanged':>12}"
    "  collectives"
)
_BYTES = {"pred": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4}


@dataclass(frozen=True)
class Sizes:
    """The network, and what a device has: `batch` images of `rows` x `width` low-resolution pixels.

    The paper's batch, but that `width` is a multiple of `PRIME`.
    """

    scale: int = 4
    num_levels: int = 4
    features: int = 64
    batch: int = 16
    rows: int = 64
    width: int = 63


class Layout(NamedTuple):
    """A mesh, and whether the state is split over it."""

    data: int
    spatial: int
    fsdp: bool = False

    def __str__(self) -> str:
        return f"data={self.data},spatial={self.spatial}{' FSDP' if self.fsdp else ''}"


ONE = Layout(1, 1)
WEAK = (Layout(2, 1), Layout(4, 1), Layout(8, 1), Layout(8, 1, True), Layout(1, 2), Layout(1, 4), Layout(1, 8))
STRONG = (Layout(4, 1), Layout(1, 4), Layout(2, 4))
EQUAL = (Layout(8, 1), Layout(2, 4), Layout(1, 8), Layout(8, 1, True), Layout(2, 4, True))


def collectives(program: str) -> Counter[str]:
    """How many of each collective operation a compiled program's text holds."""
    return Counter(found["kind"] for found in COLLECTIVE.finditer(program))


def gathered_activations(program: str) -> list[str]:
    """The collective operations of a compiled program that bring an activation together, or sum one over devices.

    An activation is told by its width, a multiple of `PRIME`, which is never split, and which no parameter has. That
    neighbours exchange rows of one (collective-permute) is as it should be.
    """
    return [
        f"{found['kind']} {found['made']}"
        for found in COLLECTIVE.finditer(program)
        if found["kind"] != "collective-permute"
        and any(math.prod(shape) % PRIME == 0 for _, shape in _arrays(found["made"]))
    ]


def exchanged_bytes(program: str) -> int:
    """What a device receives from its neighbours in one run of a compiled program without loops."""
    return sum(
        _BYTES[kind] * math.prod(shape)
        for found in COLLECTIVE.finditer(program)
        if found["kind"] == "collective-permute"
        for kind, shape in _arrays(found["made"])[:1]  # an asynchronous one lists its operand and buffers too
    )


def _arrays(made: str) -> list[tuple[str, tuple[int, ...]]]:
    """The types and shapes in the left-hand side of an operation."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", made)
    return [(kind, tuple(int(n) for n in shape.split(",") if n)) for kind, shape in found]


def example_batch(seed: int, batch: int, rows: int, width: int, scale: int) -> dict[str, np.ndarray]:
    """A batch of smooth shapes with an edge, a tenth of the true depth unknown."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: scale * rows, : scale * width]
    depth_hr = np.stack(
        [
            0.5
            + 0.3 * np.sin(x / rng.uniform(4, 9)) * np.cos(y / rng.uniform(4, 9))
            + 0.2 * (x > rng.uniform(0, x.max()))
            for _ in range(batch)
        ]
    )[..., None].astype(np.float32)
    noise = rng.normal(0, 0.02, (*depth_hr.shape[:3], 3))
    return {
        "depth_lr": depth_hr.reshape(batch, rows, scale, width, scale, 1).mean((2, 4)),
        "guide": np.clip(np.concatenate([depth_hr, 1 - depth_hr, depth_hr**2], -1) + noise, 0, 1).astype(np.float32),
        "depth_hr": depth_hr,
        "mask_lr": np.ones((batch, rows, width, 1), bool),
        "mask_hr": rng.random(depth_hr.shape) < 0.9,
    }


def compile_step(model: "AHMF", mesh: "Mesh", fsdp: bool, batch: int, rows: int, width: int) -> tuple[Any, Any]:
    """The training step with Adam at the paper's rate, compiled for a batch on a mesh, and its state's description."""
    import jax
    import optax

    from ahmf_jax.sharding import batch_sharding
    from ahmf_jax.state import create_state
    from ahmf_jax.train import lowered_step

    state = create_state(model, optax.adam(1e-4), mesh, fsdp=fsdp, abstract=True)
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype, sharding=batch_sharding(mesh))
        for name, array in example_batch(0, 1, rows, width, model.scale).items()
    }
    return lowered_step(state, inputs).compile(), state


def work(model: "AHMF", layout: Layout, batch: int, rows: int, width: int, devices: Sequence[Any]) -> dict[str, Any]:
    """What each device has to do in a step on this batch, by the compiler's figures."""
    from ahmf_jax.sharding import make_mesh

    start = time.perf_counter()
    step, _ = compile_step(model, make_mesh(*layout[:2], devices), layout.fsdp, batch, rows, width)
    program, cost, memory = step.as_text(), step.cost_analysis(), step.memory_analysis()
    return {
        "layout": str(layout),
        "batch": [batch, rows * model.scale, width * model.scale],
        "gflop": cost["flops"] / 1e9,
        "accessed_mb": cost["bytes accessed"] / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "arguments_mb": memory.argument_size_in_bytes / 1e6,
        "exchanged_mb": exchanged_bytes(program) / 1e6,
        "collectives": dict(collectives(program)),
        "gathered_activations": gathered_activations(program),
        "compile_s": time.perf_counter() - start,
    }


def trained(model: "AHMF", layout: Layout, sizes: Sizes, devices: Sequence[Any]) -> tuple[np.ndarray, Any]:
    """The losses of `STEPS` steps on a mesh, and the parameters after them."""
    import jax

    from ahmf_jax.sharding import make_mesh, place_batch
    from ahmf_jax.state import create_state

    mesh = make_mesh(*layout[:2], devices)
    step, described = compile_step(model, mesh, layout.fsdp, sizes.batch, sizes.rows, sizes.width)
    state, losses = create_state(model, described.optimiser, mesh, fsdp=layout.fsdp), []
    for seed in range(STEPS):
        batch = example_batch(seed, sizes.batch, sizes.rows, sizes.width, model.scale)
        state, metrics = step(state, place_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
    return np.array(losses), jax.device_get(state.params)


def equality(model: "AHMF", sizes: Sizes, layouts: Sequence[Layout], devices: Sequence[Any]) -> list[dict[str, Any]]:
    """The largest absolute differences of the losses and the parameters to one device's, for each layout."""
    import jax

    losses, params = trained(model, ONE, sizes, devices)
    rows = []
    for layout in layouts:
        others, other = trained(model, layout, sizes, devices)
        differences = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), params, other))
        rows.append(
            {
                "layout": str(layout),
                "variant": model.variant,
                "loss": float(np.abs(losses - others).max()),
                "params": float(max(differences)),
            }
        )
    return rows


def timed(model: "AHMF", sizes: Sizes, devices: Sequence[Any]) -> list[dict[str, Any]]:
    """Milliseconds of a step on 1, 2, 4, ... real devices, the batch growing with their number."""
    import jax

    from ahmf_jax.sharding import make_mesh, place_batch
    from ahmf_jax.state import create_state

    rows = []
    for count in itertools.takewhile(lambda n: n <= len(devices), (2**k for k in itertools.count())):
        mesh = make_mesh(count, devices=devices)
        total = sizes.batch * count
        step, described = compile_step(model, mesh, False, total, sizes.rows, sizes.width)
        state = create_state(model, described.optimiser, mesh)
        batch = place_batch(example_batch(0, total, sizes.rows, sizes.width, model.scale), mesh)
        times = []
        for _ in range(TIMED_STEPS + 3):
            start = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            times.append(1e3 * (time.perf_counter() - start))
        rows.append({"devices": count, "batch": total, "ms": statistics.median(times[3:])})  # the first ones warm up
    return rows


def simulated_devices(count: int) -> list[Any]:
    """So many CPU devices, which share this machine's processors.

    Raises:
      InputError: JAX has been told, or has started with, fewer.
    """
    import jax

    with contextlib.suppress(RuntimeError):  # JAX has started, perhaps with enough of them
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(f"JAX has {len(devices)} CPU devices, {count} are needed: set JAX_NUM_CPU_DEVICES={count}")
    return devices[:count]


def benchmark_scaling(out: Path | None, sizes: Sizes | None = None) -> None:
    """Measures, prints the tables, and writes the numbers to the JSON file `out` if given.

    Raises:
      InputError: there are no 8 CPU devices, or `out` cannot be written.
      RuntimeError: a layout gathers an activation, or does not compute what one device does.
    """
    sizes = sizes or Sizes()
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        devices = simulated_devices(DEVICES)
        import jax

        from ahmf_jax.models import AHMF

        about = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
        print(f"{DEVICES} simulated devices; {', '.join(f'{name} {version}' for name, version in about.items())}")
        print(f"AHMF x{sizes.scale}, m = {sizes.num_levels}, {sizes.features} features, float32")
        model = AHMF(scale=sizes.scale, num_levels=sizes.num_levels, features=sizes.features)
        one = work(model, ONE, sizes.batch, sizes.rows, sizes.width, devices)
        report: dict[str, Any] = {"versions": about, "sizes": asdict(sizes), "one": one, "weak": [], "strong": []}
        for kind, layouts in (("weak", WEAK), ("strong", STRONG)):
            grows = "the batch grows with the devices" if kind == "weak" else "the same batch for all"
            print(f"per device, {grows}; share: of one device's, {'times the devices, ' * (kind == 'strong')}1 is best")
            print(HEADING)
            print(_line(one, one, 1), flush=True)
            for layout in layouts:
                data, spatial = layout[:2] if kind == "weak" else (1, 1)
                row = work(model, layout, data * sizes.batch, spatial * sizes.rows, sizes.width, devices)
                report[kind].append(row)
                print(_line(row, one, 1 if kind == "weak" else layout.data * layout.spatial), flush=True)
        report["equality"] = []
        small = Sizes(scale=2, num_levels=2, features=16, batch=8, rows=16, width=PRIME)
        print(f"largest difference to one device after {STEPS} steps of Adam, {small}")
        for variant in ("release", "paper"):
            network = AHMF(scale=small.scale, num_levels=small.num_levels, features=small.features, variant=variant)
            with jax.default_matmul_precision("highest"):
                rows = equality(network, small, EQUAL, devices)
            report["equality"] += rows
            for row in rows:
                print(
                    f"{row['layout']:<24}{variant:<10}loss {row['loss']:.1e}, parameters {row['params']:.1e}",
                    flush=True,
                )
        if jax.default_backend() != "cpu" and jax.device_count() > 1:
            report["timed"] = timed(model, sizes, jax.devices())
            for row in report["timed"]:
                print(f"{row['devices']} x {jax.devices()[0].device_kind}: {row['batch']} images in {row['ms']:.1f} ms")
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")
    _check(report)


def _line(row: dict[str, Any], one: dict[str, Any], devices: int) -> str:
    gflop, temporary = (devices * row[name] / one[name] for name in ("gflop", "temporary_mb"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(row["collectives"].items()))
    return (
        f"{row['layout']:<24}{' x '.join(map(str, row['batch'])):>15}{row['gflop']:>9.2f}{gflop:>7.2f}"
        f"{row['temporary_mb']:>9.1f} MB{temporary:>7.2f}{row['arguments_mb']:>9.1f} MB"
        f"{row['exchanged_mb']:>9.2f} MB  {kinds}"
    )


def _check(report: dict[str, Any]) -> None:
    for row in (*report["weak"], *report["strong"]):
        if row["gathered_activations"]:
            raise RuntimeError(f"{row['layout']} gathers activations: {'; '.join(row['gathered_activations'])}")
    for row in report["equality"]:
        if max(row["loss"], row["params"]) > 1e-5:
            raise RuntimeError(f"{row['layout']} does not compute what one device does: {row}")
