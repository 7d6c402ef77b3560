"""`ahmf benchmark data`: patches per second of the loader beside a PyTorch DataLoader that does the same work.

Each program is a process of its own with its own workers, and they are asked in turn for some batches, so that their
ratio is comparable where their times are not; while one is timed, the others have filled their buffers and sleep.
All read the same PNG guides and raw depth, and cut, degrade and add noise by the same function
(`data_pipelines.patches.cut`): what is compared is decoding, keeping, batching and handing over. Two of them are
PyTorch's: as one writes it, decoding an image for every patch, and reading the same cache as ours.

`python -m experiments.benchmark_data '{...}'` is one such process, and of no use by itself.
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write

OURS, THREADS, DECODING, CACHED = "ours", "ours, in threads", "PyTorch", "PyTorch, our cache"
PROGRAMS = (OURS, THREADS, DECODING, CACHED)
# At least: times PyTorch's patches per second, patches per second after the first epoch; at most: seconds to the first
# batch, and how many times the memory of few records many may take.
RATIO_TARGET, RATE_TARGET, FIRST_TARGET, MEMORY_TARGET = 2.0, 600.0, 2.0, 1.1
# Until buffers are full again and all sleep.
PAUSE_S = 1.0
BUFFERED = 10  # more batches than any of them makes ahead with two workers


@dataclass(frozen=True)
class Sizes:
    """What is read: `records` images for the speed, `few` and `many` for the memory; AHMF's patches."""

    height: int = 480
    width: int = 640
    scale: int = 4
    patch: int = 256
    batch: int = 16
    noise_sigma: float = 5 / 255
    records: int = 200
    few: int = 50
    many: int = 1000
    batches: int = 30


class Records:
    """The records of a folder: `0000.png`, the guide, and `0000.raw`, the depth in float32."""

    def __init__(self, folder: Path, count: int, height: int, width: int):
        self.folder = folder
        self.size = (height, width)
        self.names = [f"{i:04d}" for i in range(count)]
        self.cache_dir = folder / "decoded"

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> str:
        """The record's name."""
        return self.names[index]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """As `data_pipelines.datasets.base.Source`."""
        from data_pipelines.files import read_guide

        name = self.names[index]
        depth = np.fromfile(self.folder / f"{name}.raw", np.float32).reshape(self.size)
        return read_guide(self.folder / f"{name}.png"), depth, name


def write_records(folder: Path, count: int, height: int, width: int, distinct: int = 20) -> None:
    """Writes smooth scenes with edges and some noise, whose PNGs are about as large as photographs'."""
    from PIL import Image

    folder.mkdir()
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for i in range(min(count, distinct)):
        rng = np.random.default_rng(i)
        a, b, phase = rng.uniform(0.005, 0.05, 3)
        depth = (2 + np.sin(a * x + 9 * phase) + np.floor(3 * np.sin(b * y))).astype(np.float32) + 2
        colour = np.stack([40 * depth, 60 + 50 * np.sin(a * y), 128 + 99 * np.cos(b * x)], -1)
        colour += rng.normal(0, 3, colour.shape)
        Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.png", compress_level=1)
        depth.tofile(folder / f"{i:04d}.raw")
    for i in range(distinct, count):
        for suffix in (".png", ".raw"):
            os.link(folder / f"{i % distinct:04d}{suffix}", folder / f"{i:04d}{suffix}")


def benchmark_data(rounds: int, workers: int, out: Path | None, sizes: Sizes | None = None) -> None:
    """Measures, prints the table, and writes the numbers to the JSON file `out` if given.

    Args:
      rounds: timings of each program, taken in turn; the medians are compared.
      workers: processes that each program may have, at least 1.
      out: the JSON file.
      sizes: of what is measured.

    Raises:
      InputError: torch is not installed, a number below 1, or `out` cannot be written.
    """
    from experiments.benchmark_programs import machine

    for option, value in (("rounds", rounds), ("workers", workers)):
        if value < 1:
            raise InputError(f"--{option} {value}: give at least 1")
    if importlib.util.find_spec("torch") is None:
        raise InputError("ahmf benchmark data: torch is not installed: pip install 'ahmf-jax[torch]'")
    sizes = sizes or Sizes()
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report: dict[str, Any] = {"machine": machine(workers), "sizes": asdict(sizes), "workers": workers}
        report |= measure(rounds, workers, folder, sizes)
        print(table(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def measure(rounds: int, workers: int, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """All timings: lists with one number a round, by program."""
    report: dict[str, Any] = {"first epoch": {}, "rate": {}, "cpu_ms": {}, "first batch": {}, "memory": {}}
    with tqdm(total=rounds * (2 + len(PROGRAMS)) + 2, unit="timing", disable=None) as bar:
        for i in range(rounds):
            for j, program in enumerate((OURS, THREADS)):
                # Nothing is decoded yet: each process is fresh, and so is the folder.
                records = folder / f"first-{i}-{j}"
                write_records(records, sizes.records, sizes.height, sizes.width)
                with _process(program, workers, records, sizes.records, sizes) as (ask, ready):
                    report["first batch"].setdefault(program, []).append(ready)
                    timing = ask(skip=0, batches=sizes.records // sizes.batch - 1)
                    report["first epoch"].setdefault(program, []).append(timing["rate"])
                bar.update()
        with contextlib.ExitStack() as stack:
            asks = {
                program: stack.enter_context(_process(program, workers, records, sizes.records, sizes))[0]
                for program in PROGRAMS
            }
            for program in PROGRAMS:
                asks[program](skip=0, batches=sizes.records // sizes.batch + 1)  # warm: an epoch
            for _ in range(rounds):
                for program in PROGRAMS:
                    time.sleep(PAUSE_S)
                    timing = asks[program](skip=BUFFERED, batches=sizes.batches)
                    report["rate"].setdefault(program, []).append(timing["rate"])
                    report["cpu_ms"].setdefault(program, []).append(timing["cpu_ms"])
                    bar.update()
        for count in (sizes.few, sizes.many):
            records = folder / f"memory-{count}"
            write_records(records, count, sizes.height, sizes.width)
            with _process(OURS, workers, records, count, sizes) as (ask, _):
                # As many batches for both: two epochs of the many.
                report["memory"][str(count)] = ask(skip=0, batches=2 * sizes.many // sizes.batch)["memory"]
            bar.update()
    return report


def table(report: dict[str, Any]) -> str:
    """The report as it is printed."""
    about, sizes = report["machine"], Sizes(**report["sizes"])
    rate, cpu = ({p: statistics.median(report[kind][p]) for p in PROGRAMS} for kind in ("rate", "cpu_ms"))
    first = statistics.median(report["first epoch"][OURS])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())

    def verdict(met: bool) -> str:
        return "met" if met else "MISSED"

    lines = [
        f"{about['cpu']}, {report['workers']} workers; {versions}",
        f"{sizes.patch} x {sizes.patch} patches x{sizes.scale} from {sizes.records} records of {sizes.height} x "
        f"{sizes.width}, batches of {sizes.batch}, noise {sizes.noise_sigma:.3f}; medians of "
        f"{len(report['rate'][OURS])} runs each, in turn",
        f"{'':<24}{'patches/s':>10}{'min - max':>16}{'processor, ms a patch':>24}",
    ]
    for program in PROGRAMS:
        runs = report["rate"][program]
        lines.append(f"{program:<24}{rate[program]:>10.0f}{min(runs):>9.0f} -{max(runs):>5.0f}{cpu[program]:>24.2f}")
    ratio = rate[OURS] / rate[DECODING]
    few, many = (report["memory"][str(count)] for count in (sizes.few, sizes.many))
    lines += [
        f"times PyTorch: {ratio:.1f}; target {RATIO_TARGET:g}  {verdict(ratio >= RATIO_TARGET)}",
        f"times PyTorch with our cache: {rate[OURS] / rate[CACHED]:.2f}",
        f"patches/s after the first epoch: {rate[OURS]:.0f}; target {RATE_TARGET:g}  "
        f"{verdict(rate[OURS] >= RATE_TARGET)}; in the first epoch, which decodes and writes: {first:.0f}",
        f"memory of all processes: {many:.0f} MiB with {sizes.many} records, {few:.0f} MiB with {sizes.few}; target "
        f"{MEMORY_TARGET:g} times  {verdict(many <= MEMORY_TARGET * few)}",
    ]
    for program, runs in report["first batch"].items():
        imports, call = (statistics.median(run[kind] for run in runs) for kind in ("imports", "first"))
        lines.append(
            f"first batch, {program}: {call:.2f} s, and {imports:.2f} s of imports before; target {FIRST_TARGET:g} s  "
            f"{verdict(call <= FIRST_TARGET)}"
        )
    if about["load"] is not None and about["load"] > 0.5:
        lines.append(f"load {about['load']:.1f} before the start: other work ran, and the times above are disturbed")
    return "\n".join(lines)


@contextlib.contextmanager
def _process(
    program: str, workers: int, folder: Path, count: int, sizes: Sizes
) -> Iterator[tuple[Callable[..., dict[str, Any]], dict[str, float]]]:
    """Starts a program; gives the function that asks it for batches, and the seconds to its first."""
    setup = {"program": program, "workers": workers, "folder": str(folder), "count": count, "sizes": asdict(sizes)}
    command = [sys.executable, "-m", "experiments.benchmark_data", json.dumps(setup)]
    root = str(Path(__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def answer() -> dict[str, Any]:
        line = answers.readline()
        if not line:
            raise RuntimeError(f"the process of {program} ended with status {process.wait()}; its messages are above")
        return json.loads(line)

    def ask(**request: int) -> dict[str, Any]:
        print(json.dumps(request), file=requests, flush=True)
        return answer()

    try:
        yield ask, answer()
    finally:
        requests.close()  # at the end of its input the process ends its workers and itself
        process.wait()
        answers.close()


def serve(setup: dict[str, Any]) -> None:
    """One of the processes: tells when it has its first batch, then answers requests from stdin, a JSON line each.

    A request names how many batches to `skip` and how many to time. The answer holds the `rate` in patches per second,
    `cpu_ms`, the processor time of all processes a patch, and `memory`, what they hold, in MiB.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at ctrl-C the parent closes the pipe
    start = time.perf_counter()
    sizes, workers = Sizes(**setup["sizes"]), setup["workers"]
    records = Records(Path(setup["folder"]), setup["count"], sizes.height, sizes.width)
    if setup["program"] in (OURS, THREADS):
        make = _our_batches(records, workers if setup["program"] == OURS else 0, sizes)
    else:
        make = _torch_batches(records, workers, sizes, keep=setup["program"] == CACHED)
    called = time.perf_counter()
    with make() as batches:
        next(batches)
        print(json.dumps({"imports": called - start, "first": time.perf_counter() - called}), flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            for _ in range(request["skip"]):
                next(batches)
            start, cpu = time.perf_counter(), _cpu_seconds()
            for _ in range(request["batches"]):
                next(batches)
            patches = request["batches"] * sizes.batch
            answer = {
                "rate": patches / (time.perf_counter() - start),
                "cpu_ms": 1e3 * (_cpu_seconds() - cpu) / patches,
                "memory": _memory(),
            }
            print(json.dumps(answer), flush=True)


Open = Callable[[], AbstractContextManager[Iterator[Any]]]


def _our_batches(records: Records, workers: int, sizes: Sizes) -> Open:
    """Imports what is needed; the function that is returned makes the loader, which is closed in the end."""
    from data_pipelines.datasets import Dataset
    from data_pipelines.loader import train_loader

    def make() -> AbstractContextManager[Iterator[Any]]:
        batches = train_loader(
            Dataset(_info(), records).kept_on_disk(),
            scale=sizes.scale,
            patch_size=sizes.patch,
            batch_size=sizes.batch,
            degradation=_degradation(sizes),
            workers=workers,
        )
        return contextlib.closing(batches)

    return make


def _torch_batches(records: Records, workers: int, sizes: Sizes, keep: bool) -> Open:
    """The same for PyTorch; `keep`: with our cache."""
    from torch.utils.data import DataLoader

    from data_pipelines.datasets import Dataset

    def make() -> AbstractContextManager[Iterator[Any]]:
        dataset = Dataset(_info(), records, cache_bytes=0)
        patches: Any = Patches(dataset.kept_on_disk() if keep else dataset, sizes)
        # Endless, so that no epoch's end stops the workers; otherwise as it comes.
        endless: Any = itertools.count()
        return contextlib.nullcontext(iter(DataLoader(patches, sizes.batch, sampler=endless, num_workers=workers)))

    return make


class Patches:
    """The data set that one writes for PyTorch: place -> random patch, flipped by chance, degraded, in [0, 1]."""

    def __init__(self, dataset: Any, sizes: Sizes):
        self.dataset = dataset
        self.sizes = sizes
        self.degradation = _degradation(sizes)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:
        from data_pipelines.patches import cut

        info, scale, size = self.dataset.info, self.sizes.scale, self.sizes.patch // self.sizes.scale
        example = self.dataset[_order(len(self), place // len(self))[place % len(self)]]
        rng = np.random.default_rng((0, place))
        top, left = (int(rng.integers(0, n // scale - size + 1)) for n in example.depth.shape)
        turns = dict(zip(("flip_rows", "flip_columns", "transpose"), rng.random(3) < 0.5, strict=True))
        span = np.array([0, info.range], np.float32)  # ours looks it up
        patch = cut(example, top, left, (size, size), scale, self.degradation, info.range, rng, **turns, span=span)
        return {
            "depth_lr": patch.depth_lr / np.float32(info.range),
            "guide": patch.guide / np.float32(255),
            "depth_hr": patch.depth_hr / np.float32(info.range),
            "mask_lr": np.ascontiguousarray(patch.mask_lr),
            "mask_hr": np.ascontiguousarray(patch.mask_hr),
        }


@functools.lru_cache(maxsize=2)
def _order(count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((1, epoch)).permutation(count)


def _info() -> Any:
    from data_pipelines.datasets import DatasetInfo

    return DatasetInfo("records", "m", 10.0, None, "none", "")


def _degradation(sizes: Sizes) -> Any:
    from data_pipelines.degrade import Degradation

    return Degradation(noise_sigma=sizes.noise_sigma)


def _processes() -> list[str]:
    """This process and its children, where the system tells of them in /proc."""
    me = str(os.getpid())
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if stat.read_text().rpartition(")")[2].split()[1] == me:
                children.append(stat.parent.name)
    return [me, *children]


def _cpu_seconds() -> float:
    """Processor time of all processes so far."""
    ticks = 0
    for process in _processes():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory() -> float:
    """MiB of all processes: what they share is counted once (the proportional set size)."""
    kilobytes = 0
    for process in _processes():
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
