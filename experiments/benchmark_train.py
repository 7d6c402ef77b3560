"""`ahmf benchmark train`: the training step against the twin's in every way that PyTorch can be told to compute it.

How it is measured: `experiments/benchmark_programs.py`. All rows are timed in turn, each in a process of its own, so
that the memory of one is not another's. Before that each takes one step from the same weights on the same batch, and
its loss and the norm of its gradient must be those of eager PyTorch in float32.
"""

import contextlib
import dataclasses
import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write
from experiments.benchmark_programs import (
    QUIET,
    TRAINING,
    Arithmetic,
    Device,
    Network,
    Setting,
    Sizes,
    check,
    machine,
    verdict,
)
from experiments.benchmark_rows import attention_lines, largest_difference, median_ms, name_of, time_rows
from experiments.config import MODELS
from experiments.pages import large_pages

# Largest relative difference of loss and gradient norm from those of eager PyTorch in float32. Both programs are within
# 2e-6 of what they are in float64, as measured for a DSDMSR on a million pixels.
AGREEMENT: dict[Arithmetic, float] = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 1e-1}
ARITHMETICS: dict[Device, tuple[Arithmetic, ...]] = {"cpu": ("float32",), "gpu": ("float32", "tf32", "bfloat16")}
BATCH = {"cpu": 4, "gpu": 16}
PATCH = {"cpu": 128, "gpu": 256}
# What is timed where nothing is asked for, beside the networks' own defaults.
DEFAULTS: dict[Network, dict[str, Any]] = {
    "ahmf": {},
    "dsdmsr": {},
    "dscsan": {"groups": 1, "blocks": 2, "features": 32},
}
# Steps that are timed together: on a GPU one takes tens of milliseconds.
STEPS = {"cpu": 1, "gpu": 10}
# On the CPU, the largest ratio of our time to eager PyTorch's; on a GPU, the smallest ratio of our images per second to
# those of the fastest PyTorch of the same arithmetic, and the largest of our memory to its.
CPU_TIME_TARGETS: dict[Network, float] = {"ahmf": 1.25, "dsdmsr": 1.3, "dscsan": 1.3}
GPU_SPEED_TARGET, GPU_MEMORY_TARGET = 1.5, 0.7


def benchmark_train(
    rounds: int,
    threads: int,
    device: Device = "cpu",
    *,
    network: Network = "ahmf",
    batch: int | None = None,
    patch: int | None = None,
    arithmetics: Sequence[Arithmetic] = (),
    out: Path | None = None,
    **fields: Any,
) -> None:
    """Measures, prints the table, and writes the numbers to the JSON file `out` if given.

    Args:
      rounds: timings of each row, taken in turn; the medians are compared.
      threads: of each program.
      device: "cpu" or "gpu".
      network, fields: as `network_fields` has them. The stages of what has
        some are supervised with weight 1.
      batch, patch: of the training: 4 of 128 x 128 on a CPU and 16 of 256 x 256 on a GPU where they are None.
      arithmetics: what is multiplied: all that the device has where it is empty.
      out: the JSON file.

    Raises:
      InputError: torch is not installed, there is no such device, a number is not possible here, or `out` cannot be
        written.
      RuntimeError: the programs do not compute the same, so that their times say nothing.
    """
    check("train", rounds, threads)
    arithmetics = tuple(arithmetics) or ARITHMETICS[device]
    sizes = Sizes(
        **network_fields(network, **fields),
        batch=BATCH[device] if batch is None else batch,
        patch=PATCH[device] if patch is None else patch,
    )
    _check_sizes(sizes, device, arithmetics)
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        rows = settings(device, arithmetics, sizes.attends)
        report = {"machine": machine(threads)} | compare(rows, rounds, threads, sizes)
        print(table(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def network_fields(network: Network, scale: int = 4, **options: Any) -> dict[str, Any]:
    """The fields of `Sizes` that are of the network: those that are given, and defaults where None is.

    Raises:
      InputError: there is no such network, or it has no such field.
    """
    config = MODELS[network]
    known = {field.name for field in dataclasses.fields(config)}
    given = {name: value for name, value in options.items() if value is not None}
    if lacking := sorted(given.keys() - known):
        raise InputError(f"--{lacking[0].replace('_', '-')}: --network {network} has none: leave it out")
    fields = {name: value for name, value in DEFAULTS[network].items() if name not in given}
    fields |= {"scale": scale, **given}
    try:
        config(**fields)
    except InputError as error:
        raise InputError(re.sub(r"^\w+\.(\w+)", lambda name: f"--{name[1].replace('_', '-')}", str(error))) from None
    return {"network": network, **fields}


def _check_sizes(sizes: Sizes, device: Device, arithmetics: Sequence[Arithmetic]) -> None:
    if sizes.batch < 1:
        raise InputError(f"--batch {sizes.batch}: give at least 1")
    if sizes.patch < sizes.scale or sizes.patch % sizes.scale:
        raise InputError(f"--patch {sizes.patch}: give a multiple of the scale, {sizes.scale}")
    if device == "cpu" and "tf32" in arithmetics:
        raise InputError("--arithmetics tf32: a CPU has none: leave it out, or add --device gpu")


def settings(device: Device, arithmetics: Sequence[Arithmetic], attends: bool = False) -> list[Setting]:
    """The rows, eager PyTorch in float32 first, with which all are compared.

    On a CPU ours has the memory pages that `ahmf train` sees to, and PyTorch has a row with them, too. A network that
    `attends` is also timed without its attention.
    """
    pages = large_pages(os.environ) if device == "cpu" else {}
    rows = [Setting("torch", "float32", device)]
    for arithmetic in arithmetics:
        eager = Setting("torch", arithmetic, device)
        rows += [] if eager in rows else [eager]
        rows.append(Setting("jax", arithmetic, device, environment=pages))
        rows += [Setting("jax", arithmetic, device, environment=pages, attention=False)] if attends else []
        rows += [Setting("torch", arithmetic, device, environment=pages)] if pages else []
        rows += [
            Setting("torch", arithmetic, device, compiled, channels_last)
            for compiled, channels_last in ((False, True), (True, False), (True, True))
        ]
    return rows


def compare(rows: Sequence[Setting], rounds: int, threads: int, sizes: Sizes) -> dict[str, Any]:
    """Times the training step in every row, in turn.

    Args:
      rows: the first is the reference of all results.
      rounds: timed runs of each.
      threads: of each program.
      sizes: of the network and its images.

    Returns:
      `sizes`; `steps` that were timed together; `rows` as `time_rows` has them. Our rows also have `flops` of a step,
      `peak_flops` of the device, `peak`, what is meant by it, and `planned_memory`.

    Raises:
      RuntimeError: a row's results differ by more than `AGREEMENT`, or a process ended.
    """
    steps = STEPS[rows[0].device]

    def difference(result: np.ndarray, expected: np.ndarray) -> float:
        return float((np.abs(result - expected) / np.abs(expected)).max())

    timed = time_rows(rows, TRAINING, sizes, rounds, threads, steps, difference, AGREEMENT)
    return {"sizes": asdict(sizes), "steps": steps, "rows": timed}


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What is aimed at, and what was reached: an entry for each arithmetic in which ours and PyTorch's ran.

    Each has `arithmetic`; `against`, the row that ours is compared with: eager PyTorch on a CPU, the fastest PyTorch on
    a GPU; `time` and, on a GPU, `memory`, ours over that row's; and `met`.
    """
    ran = [(Setting(**row["setting"]), row) for row in report["rows"] if "ms" in row]
    entries = []
    for setting, ours in ran:
        if setting.program == "torch" or not setting.attention:
            continue
        others = [pair for pair in ran if pair[0].program == "torch" and pair[0].arithmetic == setting.arithmetic]
        if setting.device == "cpu":
            others = others[:1]  # eager, which always runs there
        if not others:
            continue
        against, theirs = min(others, key=lambda pair: median_ms(pair[1]))
        ratio = median_ms(ours) / median_ms(theirs)
        entry: dict[str, Any] = {"arithmetic": setting.arithmetic, "against": name_of(against), "time": ratio}
        if setting.device == "cpu":
            entry["met"] = ratio <= CPU_TIME_TARGETS[Sizes(**report["sizes"]).network]
        else:
            entry["memory"] = ours["peak_memory"] / theirs["peak_memory"]
            entry["met"] = 1 / ratio >= GPU_SPEED_TARGET and entry["memory"] <= GPU_MEMORY_TARGET
        entries.append(entry)
    return entries


def table(report: dict[str, Any]) -> str:
    """The report as it is printed."""
    about, sizes, rows = report["machine"], Sizes(**report["sizes"]), report["rows"]
    ran = [row for row in rows if "ms" in row]
    eager = ran[0]
    ours = {
        row["setting"]["arithmetic"]: row
        for row in ran
        if row["setting"]["program"] == "jax" and row["setting"]["attention"]
    }
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    supervised = f", stages supervised: {sizes.stages}" if sizes.stages else ""
    lines = [
        f"{about['cpu']}, {about['threads']} threads; {versions}",
        f"training step of {sizes.summary}{supervised}, {sizes.batch} x {sizes.patch} x {sizes.patch}; medians of "
        f"{len(eager['ms'])} rounds, in turn",
        f"{'':<46}{'ms':>9}{'images/s':>10}{'/ eager':>9}{'min - max':>15}{'of peak':>9}{'GiB':>7}",
    ]
    for row in rows:
        setting = Setting(**row["setting"])
        label = f"{name_of(setting)}, {setting.arithmetic}"
        if "error" in row:
            lines.append(f"{label:<46} did not run: {row['error']}")
            continue
        ms = median_ms(row)
        pairs = [mine / theirs for mine, theirs in zip(row["ms"], eager["ms"], strict=True)]
        share = memory = "-"
        if setting.arithmetic in ours and setting.attention:
            facts = ours[setting.arithmetic]
            share = f"{facts['flops'] / (ms / 1e3) / facts['peak_flops']:.0%}"
        if row["peak_memory"] is not None:
            memory = f"{row['peak_memory'] / 2**30:.2f}"
        lines.append(
            f"{label:<46}{ms:>9.1f}{1e3 * sizes.batch / ms:>10.1f}{ms / median_ms(eager):>9.2f}"
            f"{min(pairs):>8.2f} -{max(pairs):>5.2f}{share:>9}{memory:>7}"
        )
    lines += [
        f"peak, {arithmetic}: {row['peak']}, {row['peak_flops'] / 1e12:.3g} TFLOP/s; a step is "
        f"{row['flops'] / 1e12:.3g} TFLOP; compiled in {row['compile_s']:.1f} s"
        for arithmetic, row in ours.items()
    ]
    for entry in targets(report):
        goal = f"at most {CPU_TIME_TARGETS[sizes.network]:g} times its time"
        reached = f"{entry['time']:.2f} times the time"
        if "memory" in entry:
            goal = f"at least {GPU_SPEED_TARGET:g} times its images/s in at most {GPU_MEMORY_TARGET:g} of its memory"
            reached = f"{1 / entry['time']:.2f} times the images/s in {entry['memory']:.2f} of the memory"
        lines.append(f"{entry['arithmetic']}: {reached} of {entry['against']}; target {goal}  {verdict(entry['met'])}")
    lines += attention_lines(rows)
    cpu = {name_of(Setting(**row["setting"])): statistics.median(row["cpu_ms"]) for row in ran}
    if eager["setting"]["device"] == "cpu":
        reference = statistics.median(eager["cpu_ms"])
        ratios = ", ".join(f"{name} {ms / reference:.2f}" for name, ms in cpu.items())
        lines.append(f"processor times / eager: {ratios}")
    lines.append(f"results differ by at most {largest_difference(ran):.1e}, relative")
    lines.append(f"processor time while waiting, at most: {max(row['idle_cpu_ms'] for row in ran):.0f} ms")
    if about["load"] is not None and about["load"] > QUIET:
        lines.append(f"load {about['load']:.1f} before the start: other work ran, and the ratios above are disturbed")
    return "\n".join(lines)
