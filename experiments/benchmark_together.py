"""`ahmf benchmark together`: small training runs in one program against the same runs one after the other.

What is timed is a step of every run, each with its batch on its way to the device: by `train_step` compiled for one
run, called for each in turn, and by the program of `ahmf_jax/together.py` on one device and on all that there are. On
the CPU those are as many devices as processors, made of the same processors. All are warm and timed in turn; before
that their losses are compared. It happens in a process of its own, as the number of a CPU's devices is set before
the first use of one.

`python -m experiments.benchmark_together` is that process: it reads the sizes from stdin, and answers with a JSON line.
"""

import contextlib
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.models.ahmf import SCALES
from ahmf_jax.writing import atomic_write
from experiments.benchmark_programs import (
    PAUSE_S,
    QUIET,
    answer_of,
    answers_alone,
    environment,
    processors,
    verdict,
)

STEPS = 5  # that are timed together
AGREEMENT = 1e-5  # largest relative difference of a loss from that of the run alone
TARGET = 2.0  # throughput of the runs together to that of the runs alone, on a GPU
ALONE = "one after the other"


@dataclass(frozen=True)
class Sizes:
    """So many runs of AHMF's release with Adam, on `batch` patches of `patch` x `patch`; `rounds` timings."""

    trials: int = 8
    scale: int = 4
    num_levels: int = 2
    features: int = 8
    batch: int = 4
    patch: int = 32
    rounds: int = 5


def benchmark_together(sizes: Sizes = Sizes(), out: Path | None = None) -> None:
    """Measures, prints the table, and writes the numbers to the JSON file `out` if given.

    Raises:
      InputError: sizes that are not possible, or `out` cannot be written.
      RuntimeError: the programs do not compute the same, or their process failed.
    """
    from ahmf_jax.models import AHMF

    if sizes.scale not in SCALES:
        raise InputError(f"--scale {sizes.scale}: choose one of {', '.join(map(str, SCALES))}")
    for name, value in asdict(sizes).items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give at least 1")
    if sizes.patch % sizes.scale:
        raise InputError(f"--patch {sizes.patch}: give a multiple of the scale, {sizes.scale}")
    try:
        AHMF(scale=sizes.scale, num_levels=sizes.num_levels, features=sizes.features)
    except InputError as problem:
        raise InputError(f"--features {sizes.features}: {problem}") from None
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        cpus = {"JAX_NUM_CPU_DEVICES": str(len(processors()))}
        report = answer_of("experiments.benchmark_together", asdict(sizes), environment() | cpus) | {"load": load}
        print(table(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def table(report: dict[str, Any]) -> str:
    """The report as it is printed."""
    sizes = Sizes(**report["sizes"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    ms = {name: statistics.median(row["ms"]) for name, row in report["rows"].items()}
    alone = report["rows"][ALONE]["ms"]
    lines = [
        f"{report['device']}; {versions}",
        f"{sizes.trials} runs of AHMF x{sizes.scale}, m = {sizes.num_levels}, {sizes.features} features, float32, "
        f"batch {sizes.batch} of {sizes.patch} x {sizes.patch}; a step of all, medians of {sizes.rounds} rounds",
        f"{'':<28}{'ms':>9}{'images/s':>10}{'throughput':>12}{'least - most':>15}{'compiled in':>13}",
    ]
    for name, row in report["rows"].items():
        pairs = [theirs / ours for ours, theirs in zip(row["ms"], alone, strict=True)]
        lines.append(
            f"{name:<28}{ms[name]:>9.1f}{1e3 * sizes.trials * sizes.batch / ms[name]:>10.1f}"
            f"{ms[ALONE] / ms[name]:>11.2f}x{min(pairs):>8.2f} -{max(pairs):>5.2f}{row['compile_s']:>11.1f} s"
        )
    if report["platform"] != "cpu":
        best = max(ms[ALONE] / value for value in ms.values())
        lines.append(f"target: at least {TARGET:g} times the throughput  {verdict(best >= TARGET)}")
    lines.append(f"losses differ by at most {report['difference']:.1e}, relative")
    if report["load"] is not None and report["load"] > QUIET:
        lines.append(f"load {report['load']:.1f} before the start: other work ran, and the ratios above are disturbed")
    return "\n".join(lines)


def measure(sizes: Sizes) -> dict[str, Any]:
    """The figures: `rows` by name, each the milliseconds `ms` of a step of all runs in each round, and `compile_s`.

    Raises:
      RuntimeError: a loss differs by more than `AGREEMENT`.
    """
    import jax
    from tqdm import tqdm

    devices = jax.devices()
    counts = sorted({1, min(len(devices), sizes.trials)})
    words = {count: f"together, {count} device{'s' * (count > 1)}" for count in counts}
    bar = tqdm(total=1 + len(counts) + sizes.rounds, unit="round")
    made: dict[str, tuple[Callable[[], np.ndarray], float]] = {}
    for name, make in [(ALONE, lambda: _alone(sizes)), *((words[c], lambda c=c: _together(sizes, c)) for c in counts)]:
        bar.set_description(f"{name}: compiling")
        made[name] = make()
        bar.update()
    losses = {name: step() for name, (step, _) in made.items()}
    difference = max(float(np.max(np.abs(found / losses[ALONE] - 1))) for found in losses.values())
    if not difference <= AGREEMENT:  # also where it is no number
        raise RuntimeError(f"losses differ by {difference:.2e}, relative, more than {AGREEMENT:g}")
    rows: dict[str, Any] = {name: {"ms": [], "compile_s": compiled} for name, (_, compiled) in made.items()}
    bar.set_description("a step of all")
    for _ in range(sizes.rounds):
        for name, (step, _) in made.items():
            step()
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            rows[name]["ms"].append(1e3 * (time.perf_counter() - start) / STEPS)
        bar.update()
    bar.close()
    device = devices[0]
    return {
        "sizes": asdict(sizes),
        "platform": device.platform,
        "device": f"CPU, {len(processors())} processors" if device.platform == "cpu" else device.device_kind,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "rows": rows,
        "difference": difference,
    }


def _states(sizes: Sizes) -> list[Any]:
    """New runs on the first device, each of its own seed."""
    import jax

    from ahmf_jax.models import AHMF
    from ahmf_jax.sharding import make_mesh
    from ahmf_jax.state import create_state
    from experiments.config import OptimiserConfig

    model = AHMF(scale=sizes.scale, num_levels=sizes.num_levels, features=sizes.features)
    mesh, optimiser = make_mesh(1, 1, jax.devices()[:1]), OptimiserConfig(schedule="constant").build(1)
    return [create_state(model, optimiser, mesh, seed=seed, output_scale=0.1) for seed in range(sizes.trials)]


def _batches(sizes: Sizes) -> list[dict[str, np.ndarray]]:
    """One for each run."""
    rng = np.random.default_rng(0)
    low, high = ((sizes.batch, size, size) for size in (sizes.patch // sizes.scale, sizes.patch))
    return [
        {
            "depth_lr": rng.random((*low, 1), np.float32),
            "guide": rng.random((*high, 3), np.float32),
            "depth_hr": rng.random((*high, 1), np.float32),
            "mask_lr": np.ones((*low, 1), bool),
            "mask_hr": np.ones((*high, 1), bool),
        }
        for _ in range(sizes.trials)
    ]


def _alone(sizes: Sizes) -> tuple[Callable[[], np.ndarray], float]:
    """A step of each run in turn, which returns their losses, and the seconds that compiling it took."""
    import jax

    from ahmf_jax.sharding import place_batch
    from ahmf_jax.train import lowered_step

    states, batches = _states(sizes), _batches(sizes)
    mesh = states[0].step.sharding.mesh
    start = time.perf_counter()
    compiled = lowered_step(states[0], place_batch(batches[0], mesh)).compile()
    seconds = time.perf_counter() - start

    def step() -> np.ndarray:
        losses = []
        for number, batch in enumerate(batches):
            states[number], metrics = compiled(states[number], place_batch(batch, mesh))
            losses.append(metrics["loss"])
        return np.array(jax.device_get(losses))

    return step, seconds


def _together(sizes: Sizes, count: int) -> tuple[Callable[[], np.ndarray], float]:
    """A step of all runs at once on so many devices, which returns their losses, and the seconds of compiling it."""
    import jax

    from ahmf_jax.together import Lanes, Numbers, lane_mesh
    from experiments.config import OptimiserConfig

    config = OptimiserConfig(schedule="constant")
    lanes = Lanes(config.made, sizes.trials, lane_mesh(sizes.trials, jax.devices()[:count]))
    batches = [*_batches(sizes), *[None] * (lanes.size - sizes.trials)]
    rates = np.full(1024, config.learning_rate, np.float32)
    for lane, state in enumerate(_states(sizes)):
        lanes.put(lane, state, Numbers(rates, {}, np.float32(0), np.float32(0)))
    start = time.perf_counter()
    lanes.compile(lanes.place(batches))
    seconds = time.perf_counter() - start
    return lambda: np.asarray(lanes.step(lanes.place(batches), range(sizes.trials))["loss"])[: sizes.trials], seconds


if __name__ == "__main__":
    answers = answers_alone()
    print(json.dumps(measure(Sizes(**json.load(sys.stdin)))), file=answers, flush=True)
