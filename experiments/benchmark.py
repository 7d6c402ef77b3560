"""`ahmf benchmark model`: this program's speed as a ratio to the same network in eager PyTorch, side by side."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.writing import atomic_write
from experiments.benchmark_programs import (
    INFERENCE,
    PAUSE_S,
    QUIET,
    TRAINING,
    Program,
    Setting,
    Sizes,
    check,
    environment,
    machine,
    verdict,
    worker,
)

# Largest ratio to eager PyTorch, and largest seconds, on the CPU.
RATIO_TARGETS = {INFERENCE: 1.0, TRAINING: 1.35}
SECONDS_TARGETS = {"import ahmf_jax": 1.5, "ahmf --help": 0.5}
COMMANDS = {"import ahmf_jax": ["-c", "import ahmf_jax"], "ahmf --help": ["-m", "experiments.cli", "--help"]}
# Largest difference of the two programs' results: of a depth, absolute; of the loss and the gradient's norm, relative.
AGREEMENT = {INFERENCE: 1e-5, TRAINING: 1e-4}
STARTS = 5


def benchmark(rounds: int, threads: int, out: Path | None) -> None:
    """Measures, prints the table, and writes the numbers to the JSON file `out` if given.

    Raises:
      InputError: torch is not installed, `rounds` or `threads` is not possible here, or `out` cannot be written.
      RuntimeError: the two programs do not compute the same, so that their times say nothing.
    """
    check("model", rounds, threads)
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        report = {"machine": machine(threads), "startup": startup(STARTS)}
        report |= compare(rounds, threads, Sizes())
        print(table(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def startup(times: int) -> dict[str, Any]:
    """Seconds that new processes take for `import ahmf_jax`, which must print nothing, and for `ahmf --help`."""
    report = {}
    for name, arguments in COMMANDS.items():
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *arguments], env=environment(), capture_output=True, text=True, check=True
            )
            seconds.append(time.perf_counter() - start)
        silent = not done.stdout + done.stderr
        median, target = statistics.median(seconds), SECONDS_TARGETS[name]
        met = median < target and (silent or name != "import ahmf_jax")
        report[name] = {"seconds": seconds, "median": median, "target": target, "silent": silent, "met": met}
    return report


def compare(rounds: int, threads: int, sizes: Sizes) -> dict[str, Any]:
    """Times both tasks in both programs, in turn.

    Args:
      rounds: timed runs of each.
      threads: of each program.
      sizes: of the network and its images.

    Returns:
      `sizes`; `tasks`, by name: milliseconds and processor milliseconds of each program's runs, `ratio` and
      `cpu_ratio` of their medians (JAX's over PyTorch's), the least and the largest ratio within a round, the target
      and whether it is met, and the difference of the two results; `idle_cpu_ms`, the most that each took while it
      waited.

    Raises:
      RuntimeError: the two disagree by more than `AGREEMENT`, or one of them ended.
    """
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # PyTorch first: it draws the weights that JAX then reads.
        order: tuple[Program, ...] = ("torch", "jax")
        programs = {name: stack.enter_context(worker(Setting(name), sizes, threads, folder)) for name in order}
        bar = stack.enter_context(tqdm(total=len(AGREEMENT) * (1 + rounds), unit="round"))
        tasks: dict[str, Any] = {}
        idle: dict[str, float] = dict.fromkeys(programs, 0.0)
        for task, allowed in AGREEMENT.items():
            bar.set_description(f"{task}, warming up")
            results = {}
            for name, ask in programs.items():
                path = str(folder / f"{name}.npy")
                ask({"task": task, "save": path})
                results[name] = np.load(path)
            difference = np.abs(results["jax"] - results["torch"])
            if task == TRAINING:
                difference /= np.abs(results["torch"])
            largest = float(difference.max())
            if not largest <= allowed:  # also where it is no number
                raise RuntimeError(f"{task}: JAX and PyTorch differ by {largest:.2e}, more than {allowed:g}")
            bar.update()
            bar.set_description(task)
            timings: dict[str, list[Any]] = {name: [] for name in programs}
            for _ in range(rounds):
                for name, ask in programs.items():
                    time.sleep(PAUSE_S)
                    timings[name].append(ask({"task": task}))
                    idle[name] = max(idle[name], timings[name][-1]["idle_cpu_ms"])
                bar.update()
            ms, cpu_ms = (
                {name: [timing[kind] for timing in timings[name]] for name in programs} for kind in ("ms", "cpu_ms")
            )
            pairs = [ours / theirs for ours, theirs in zip(ms["jax"], ms["torch"], strict=True)]
            ratio, cpu_ratio = (statistics.median(of["jax"]) / statistics.median(of["torch"]) for of in (ms, cpu_ms))
            tasks[task] = {
                "ms": ms,
                "cpu_ms": cpu_ms,
                "ratio": ratio,
                "cpu_ratio": cpu_ratio,
                "least": min(pairs),
                "largest": max(pairs),
                "target": RATIO_TARGETS[task],
                "met": ratio <= RATIO_TARGETS[task],
                "difference": largest,
            }
    return {"sizes": asdict(sizes), "tasks": tasks, "idle_cpu_ms": idle}


def table(report: dict[str, Any]) -> str:
    """The report as it is printed."""
    about, sizes = report["machine"], Sizes(**report["sizes"])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    what = {
        INFERENCE: f"1 x {sizes.height} x {sizes.width}",
        TRAINING: f"{sizes.batch} x {sizes.patch} x {sizes.patch}",
    }
    lines = [
        f"{about['cpu']}, {about['threads']} threads; {versions}",
        f"AHMF x{sizes.scale}, m = {sizes.num_levels}, {sizes.features} features, float32; medians of "
        f"{len(report['tasks'][INFERENCE]['ms']['jax'])} runs each, in turn",
        f"{'':<28}{'JAX, ms':>10}{'PyTorch, ms':>13}{'ratio':>8}{'min - max':>15}{'target':>9}",
    ]
    for task, row in report["tasks"].items():
        ours, theirs = (statistics.median(row["ms"][name]) for name in ("jax", "torch"))
        lines.append(
            f"{f'{task}, {what[task]}':<28}{ours:>10.1f}{theirs:>13.1f}{row['ratio']:>8.2f}"
            f"{row['least']:>8.2f} -{row['largest']:>5.2f}{row['target']:>9.2f}  {verdict(row['met'])}"
        )
    lines += [
        f"{task}: processor times' ratio {row['cpu_ratio']:.2f}; results differ by at most {row['difference']:.1e}"
        for task, row in report["tasks"].items()
    ]
    idle = ", ".join(f"{name} {ms:.0f} ms" for name, ms in report["idle_cpu_ms"].items())
    lines.append(f"processor time while waiting, at most: {idle}")
    if about["load"] is not None and about["load"] > QUIET:
        lines.append(f"load {about['load']:.1f} before the start: other work ran, and the ratios above are disturbed")
    for name, row in report["startup"].items():
        silent = ", silent" if row["silent"] else ""
        lines.append(f"{name}: {row['median']:.2f} s{silent}; target {row['target']} s  {verdict(row['met'])}")
    return "\n".join(lines)
