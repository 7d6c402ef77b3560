"""`ahmf benchmark memory`: what the training step takes to compile and to hold, by the number of levels.

The figures are the compiler's own, for levels in a loop or unrolled, for what is recomputed, and for the arithmetic's
type; and, where asked, what a step takes when it runs: on the CPU the process's largest resident size, on
accelerators the device's. Every row is a process of its own, without a compilation cache, so that none of it is
another row's.

`python -m experiments.benchmark_memory` is that process: it reads a row from stdin, and answers with a JSON line.
"""

import contextlib
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from ahmf_jax import memory
from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write
from experiments.benchmark_programs import answer_of, answers_alone, environment

Unroll = Literal["rolled", "unrolled"]
Remat = Literal["none", "convs", "blocks"]
Precision = Literal["float32", "bfloat16"]
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One training step: AHMF's release with Adam, on `batch` patches of `patch` x `patch`."""

    num_levels: int
    unroll: Unroll
    remat: Remat
    dtype: Precision
    batch: int
    patch: int
    scale: int
    features: int
    measure: bool


def benchmark_memory(
    levels: Sequence[int] = (1, 2, 4, 8, 16, 32),
    batch: int = 16,
    patch: int = 256,
    scale: int = 4,
    features: int = 64,
    remats: Sequence[Remat] = ("none", "convs", "blocks"),
    unrolls: Sequence[Unroll] = ("rolled", "unrolled"),
    dtypes: Sequence[Precision] = ("float32", "bfloat16"),
    measure: bool = False,
    out: Path | None = None,
) -> None:
    """Prints the table row by row, and writes the numbers to the JSON file `out` if given.

    Args:
      levels: the numbers of levels.
      batch, patch: HR patches of `patch` x `patch`.
      scale, features: of the network.
      remats, unrolls, dtypes: each is combined with each, and with `levels`.
      measure: also runs one step, where the memory that is free holds it.
      out: a JSON file.

    Raises:
      InputError: sizes that do not fit together, or `out` cannot be written.
      RuntimeError: a row's process failed; its messages stand above.
    """
    from ahmf_jax.models import AHMF

    if min(batch, patch) < 1 or patch % scale:
        raise InputError(f"--batch {batch} --patch {patch}: give a patch that is a multiple of the scale, {scale}")
    for num_levels in levels:
        AHMF(scale=scale, num_levels=num_levels, features=features)  # checks its fields
    rows = [
        Row(num_levels, unroll, remat, dtype, batch, patch, scale, features, measure)
        for dtype, unroll, remat, num_levels in itertools.product(dtypes, unrolls, remats, levels)
    ]
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        results: list[dict[str, Any]] = []
        for row in tqdm(rows, "programs", disable=None):
            results.append({**asdict(row), **_in_a_process(row)})
            tqdm.write("\n".join(lines(results)[-1 if len(results) > 1 else 0 :]))
        print("\n".join(summary(results)))
        if temp is not None:
            temp.write_text(json.dumps(results, indent=2) + "\n")


def lines(results: Sequence[dict[str, Any]]) -> list[str]:
    """The table as it is printed: what was compiled where, the head, and a line a row."""
    first = results[0]
    told = [
        f"{first['device']}, {', '.join(f'{name} {version}' for name, version in first['versions'].items())}",
        f"training step, AHMF x{first['scale']}, {first['features']} features, Adam, batch {first['batch']}, "
        f"{first['patch']} x {first['patch']}; sizes in MiB, times in s",
        f"{'m':>3} {'levels':<9}{'remat':<7}{'dtype':<9}{'trace':>6}{'compile':>9}{'cpu time':>9}{'arguments':>11}"
        f"{'temporary':>11}{'all':>8}{'measured':>10}",
    ]
    for row in results:
        measured = "-" if row["measured"] is None else f"{row['measured'] / MIB:.0f}"
        told.append(
            f"{row['num_levels']:>3} {row['unroll']:<9}{row['remat']:<7}{row['dtype']:<9}{row['trace_s']:>6.1f}"
            f"{row['compile_s']:>9.1f}{row['compile_cpu_s']:>9.1f}{row['arguments'] / MIB:>11.0f}"
            f"{row['temporaries'] / MIB:>11.0f}{row['all'] / MIB:>8.0f}{measured:>10}"
        )
    return told


def summary(results: Iterable[dict[str, Any]]) -> list[str]:
    """The ratios that tell whether it pays: compile times, the largest m to 4; temporaries, without remat to with."""
    by = {(row["dtype"], row["unroll"], row["remat"], row["num_levels"]): row for row in results}
    told = []
    for dtype, unroll, remat in dict.fromkeys(key[:3] for key in by):
        found = {m: by[key] for *_, m in by if (key := (dtype, unroll, remat, m)) in by}
        largest = max(found)
        if 4 in found and largest > 4:
            ratio = found[largest]["compile_cpu_s"] / found[4]["compile_cpu_s"]
            told.append(f"{dtype}, {unroll}, remat {remat}: compiling m = {largest} takes {ratio:.2f} times m = 4")
        if remat != "none":
            plain = {m: by.get((dtype, unroll, "none", m)) for m in found}
            ratios = [
                f"{row['temporaries'] / found[m]['temporaries']:.2f} at m = {m}" for m, row in plain.items() if row
            ]
            if ratios:
                told.append(f"{dtype}, {unroll}: temporaries without remat over {remat}: {', '.join(ratios)}")
    return told


def _in_a_process(row: Row) -> dict[str, Any]:
    env = environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_NUM_CPU_DEVICES": "1"}
    return answer_of("experiments.benchmark_memory", asdict(row), env)


def compile_and_run(row: Row) -> dict[str, Any]:
    """A row's figures: seconds, and sizes in bytes; `measured` is None where nothing ran."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from ahmf_jax.models import AHMF
    from ahmf_jax.sharding import make_mesh
    from ahmf_jax.state import create_state
    from ahmf_jax.train import lowered_step

    unroll = 1 if row.unroll == "rolled" else row.num_levels + 1  # one more: see `over_levels`
    model = AHMF(
        scale=row.scale,
        num_levels=row.num_levels,
        features=row.features,
        dtype=jnp.dtype(row.dtype),
        unroll=unroll,
        remat=row.remat,
    )
    device = jax.devices()[0]
    mesh, optimiser = make_mesh(devices=[device]), optax.adam(1e-4)
    low, high = ((row.batch, size, size) for size in (row.patch // row.scale, row.patch))
    batch = {
        "depth_lr": np.zeros((*low, 1), np.float32),
        "guide": np.zeros((*high, 3), np.float32),
        "depth_hr": np.zeros((*high, 1), np.float32),
        "mask_lr": np.ones((*low, 1), bool),
        "mask_hr": np.ones((*high, 1), bool),
    }

    start = time.perf_counter()
    lowered = lowered_step(create_state(model, optimiser, mesh, abstract=True), batch)
    traced = time.perf_counter()
    cpu = time.process_time()
    compiled = lowered.compile()
    figures: dict[str, Any] = {
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
        "compile_cpu_s": time.process_time() - cpu,
    }
    sizes = compiled.memory_analysis()
    if sizes is None:
        raise RuntimeError(f"the compiler for {device.device_kind} does not tell what a program holds")
    figures |= {
        "arguments": sizes.argument_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        # Added up here, as not every backend tells it: results that take over an argument's place are no more.
        "all": sizes.argument_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes,
        "device": device.device_kind if device.platform != "cpu" else f"CPU, {os.cpu_count()} processors",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "measured": None,
    }
    if row.measure and memory.free(device) > figures["all"]:
        state = create_state(model, optimiser, mesh)
        memory.forget_peak()
        jax.block_until_ready(compiled(state, jax.device_put(batch, device)))
        figures["measured"] = memory.peak(device)
    return figures


if __name__ == "__main__":
    answer = answers_alone()
    print(json.dumps(compile_and_run(Row(**json.load(sys.stdin)))), file=answer, flush=True)
