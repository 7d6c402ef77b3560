"""One task in many settings, each in a process of its own: checked against the first of them, then timed in turn."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark_programs import PAUSE_S, Arithmetic, Setting, Sizes, verdict, worker

ATTENTION_TARGET = 1 / 3
NAMES = {"jax": "JAX", "engine": "JAX, from NumPy to NumPy", "onnxruntime": "ONNX Runtime"}


def name_of(setting: Setting) -> str:
    """How a row is called."""
    if setting.program == "torch":
        words = ["PyTorch", "torch.compile" if setting.compiled else "eager"]
    else:
        words = [NAMES[setting.program]]
    words += ["channels_last"] * setting.channels_last + ["without attention"] * (not setting.attention)
    return ", ".join(words + ["large pages"] * ("GLIBC_TUNABLES" in setting.environment))


def time_rows(
    rows: Sequence[Setting],
    task: str,
    sizes: Sizes,
    rounds: int,
    threads: int,
    steps: int,
    difference: Callable[[np.ndarray, np.ndarray], float],
    agreement: Mapping[Arithmetic, float],
) -> list[dict[str, Any]]:
    """Times a task in every row, in turn.

    Args:
      rows: the first is the reference of all results, and draws the weights: a PyTorch program. What has no attention
        is compared with none.
      task: its name.
      sizes: of the network and its images.
      rounds: timed runs of each.
      threads: of each program.
      steps: that are timed together.
      difference: of a result from the reference's.
      agreement: the largest difference, by arithmetic.

    Returns:
      The rows, each with its `setting` and, where it ran, the milliseconds `ms` and processor milliseconds `cpu_ms` of
      a step in each round, `peak_memory` in bytes (None on a CPU), `difference` of its results (None of what has no
      attention), `idle_cpu_ms`, the most that it took while it waited, and the task's facts; where not, the `error`.

    Raises:
      RuntimeError: a row's results differ by more than `agreement`, or a process ended.
    """
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bar = stack.enter_context(tqdm(total=len(rows) + rounds, unit="round"))
        expected, running, report = None, [], []
        for setting in rows:
            bar.set_description(f"{name_of(setting)}, {setting.arithmetic}: warming up")
            ask = stack.enter_context(worker(setting, sizes, threads, folder))
            path = folder / "result.npy"
            optional = setting.compiled or setting.device == "gpu"  # a compiler, or memory, may be lacking
            first = ask({"task": task, "save": str(path), "may_fail": optional})
            row: dict[str, Any] = {"setting": asdict(setting)}
            report.append(row)
            bar.update()
            if "error" in first:
                row["error"] = first["error"]
                continue
            result = np.load(path)
            expected = result if expected is None else expected
            row |= {name: first[name] for name in first.keys() - {"ms", "cpu_ms", "idle_cpu_ms"}}
            row |= {"difference": difference(result, expected) if setting.attention else None, "idle_cpu_ms": 0.0}
            allowed = agreement[setting.arithmetic]
            if setting.attention and not row["difference"] <= allowed:  # also where it is no number
                raise RuntimeError(
                    f"{name_of(setting)}, {setting.arithmetic}: {task}: results differ by {row['difference']:.2e} "
                    f"from {name_of(rows[0])}'s in {rows[0].arithmetic}, more than {allowed:g}"
                )
            row |= {"ms": [], "cpu_ms": []}
            running.append((row, ask))
        if expected is None:
            raise RuntimeError(f"{name_of(rows[0])}: {report[0]['error']}")
        bar.set_description(task)
        for _ in range(rounds):
            for row, ask in running:
                time.sleep(PAUSE_S)
                answer = ask({"task": task, "steps": steps})
                for kind in ("ms", "cpu_ms"):
                    row[kind].append(answer[kind])
                row["idle_cpu_ms"] = max(row["idle_cpu_ms"], answer["idle_cpu_ms"])
                row["peak_memory"] = answer["peak_memory"]
            bar.update()
    return report


def largest_difference(rows: Sequence[dict[str, Any]]) -> float:
    """Of the results of all that ran and was compared."""
    return max(row["difference"] for row in rows if row.get("difference") is not None)


def median_ms(row: dict[str, Any]) -> float:
    """Of a row that ran."""
    return statistics.median(row["ms"])


def attention_shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What our network does not take of its time without its attention: `arithmetic`, `share`, and `met`, the target.

    The share is the median over the rounds, in each of which the two were timed one after the other.
    """
    ran = [(Setting(**row["setting"]), row["ms"]) for row in rows if "ms" in row]
    ours = [(setting, ms) for setting, ms in ran if setting.program == "jax"]
    with_attention = {setting.arithmetic: ms for setting, ms in ours if setting.attention}
    shares = {
        setting.arithmetic: statistics.median(
            1 - less / all_of_it for less, all_of_it in zip(ms, with_attention[setting.arithmetic], strict=True)
        )
        for setting, ms in ours
        if not setting.attention and setting.arithmetic in with_attention
    }
    return [
        {"arithmetic": arithmetic, "share": share, "met": share < ATTENTION_TARGET}
        for arithmetic, share in shares.items()
    ]


def attention_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """These shares as they are printed."""
    return [
        f"{entry['arithmetic']}: the attention takes {entry['share']:.0%} of our time; target under a third  "
        f"{verdict(entry['met'])}"
        for entry in attention_shares(rows)
    ]
