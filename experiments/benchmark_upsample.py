"""`ahmf benchmark upsample`: inference beside PyTorch and ONNX Runtime, the first call, and the cost of large images.

Three questions. How long one image takes, in turn with the twin in every way that PyTorch can be told to compute it
(`benchmark_programs`). How long a new process takes to its first result, where an earlier one has compiled the program.
And what a pixel costs, in time and memory, from small images to ones that only tiles can hold; each in a process of its
own, so that the memory of one is not another's.

`python -m experiments.benchmark_upsample` is such a process: it reads what to do from stdin, and answers with a line.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write
from experiments.benchmark_programs import (
    INFERENCE,
    QUIET,
    Arithmetic,
    Device,
    Network,
    Setting,
    Sizes,
    answer_of,
    answers_alone,
    check,
    environment,
    machine,
    processors,
    random_params,
    verdict,
)
from experiments.benchmark_rows import attention_lines, largest_difference, median_ms, name_of, time_rows
from experiments.benchmark_train import network_fields

# Largest difference of the depth from eager PyTorch's in float32, in parts of the range; of the largest depth where
# random weights make that more.
AGREEMENT: dict[Arithmetic, float] = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 1e-1}
ARITHMETICS: dict[Device, tuple[Arithmetic, ...]] = {"cpu": ("float32",), "gpu": ("float32", "tf32", "bfloat16")}
# Images, height and width.
SHAPES: dict[Device, tuple[tuple[int, int, int], ...]] = {
    "cpu": ((1, 480, 640),),
    "gpu": ((1, 480, 640), (8, 480, 640), (1, 1080, 1920), (8, 1080, 1920)),
}
# Runs that are timed together: on a GPU one takes milliseconds.
STEPS = {"cpu": 1, "gpu": 10}
MEGAPIXELS = (0.1, 0.5, 2.0, 8.0, 24.0)
# On the CPU, the largest ratio to eager PyTorch's time; on a GPU, the least of our images per second to the best of
# PyTorch's; the most seconds of a first call; the most bytes, and time for a pixel over that of a whole image.
CPU_TIME_TARGETS: dict[Network, float] = {"ahmf": 0.95, "dsdmsr": 1.0, "dscsan": 1.0}
GPU_SPEED_TARGET, FIRST_TARGET_S, MEMORY_TARGET, TILES_TARGET = 1.5, 2.0, 4e9, 2.0


def benchmark_upsample(
    rounds: int,
    threads: int,
    device: Device = "cpu",
    *,
    network: Network = "ahmf",
    shapes: Sequence[tuple[int, int, int]] = (),
    arithmetics: Sequence[Arithmetic] = (),
    megapixels: Sequence[float] = MEGAPIXELS,
    out: Path | None = None,
    **fields: Any,
) -> None:
    """Measures, prints the tables, and writes the numbers to the JSON file `out` if given.

    Args:
      rounds: timings of each row, taken in turn; the medians are compared.
      threads: of each program.
      device: "cpu" or "gpu".
      network, fields: as `network_fields` has them.
      shapes: images, height and width of what is timed beside PyTorch; those of the device where it is empty.
      arithmetics: what is multiplied: all that the device has where it is empty.
      megapixels: of the images of which the cost is measured, in millions of pixels; may be empty.
      out: the JSON file.

    Raises:
      InputError: torch is not installed, there is no such device, a number is not possible here, or `out` cannot be
        written.
      RuntimeError: the programs do not compute the same, so that their times say nothing, or a process failed.
    """
    check("upsample", rounds, threads)
    shapes, arithmetics = tuple(shapes) or SHAPES[device], tuple(arithmetics) or ARITHMETICS[device]
    model = network_fields(network, **fields)
    _check(model["scale"], shapes, arithmetics, megapixels, device)
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        report: dict[str, Any] = {"machine": machine(threads), "network": model, "device": device, "shapes": []}
        for images, height, width in shapes:
            sizes = Sizes(**model, height=height, width=width, images=images)
            rows = settings(device, arithmetics, sizes.attends)
            report["shapes"].append(compare(rows, rounds, threads, sizes))
        report["first"] = first_calls(rounds, threads, device, model, shapes[0])
        report["cost"] = [cost(size, threads, device, model) for size in megapixels]
        print(table(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def _check(
    scale: int,
    shapes: Sequence[tuple[int, int, int]],
    arithmetics: Sequence[Arithmetic],
    megapixels: Sequence[float],
    device: Device,
) -> None:
    for shape in shapes:
        images, *sides = shape
        if images < 1 or min(sides) < scale or any(side % scale for side in sides):
            given = " ".join(map(str, shape))
            raise InputError(f"--shapes {given}: give images, height and width, both multiples of the scale, {scale}")
    for size in megapixels:
        if not 1e-4 <= size <= 1000:
            raise InputError(f"--megapixels {size:g}: give 0.0001 to 1000")
    if device == "cpu" and "tf32" in arithmetics:
        raise InputError("--arithmetics tf32: a CPU has none: leave it out, or add --device gpu")


def settings(device: Device, arithmetics: Sequence[Arithmetic], attends: bool = False) -> list[Setting]:
    """The rows, eager PyTorch in float32 first, with which all are compared; without attention what `attends`, too."""
    rows = [Setting("torch", "float32", device)]
    for arithmetic in arithmetics:
        eager = Setting("torch", arithmetic, device)
        rows += [] if eager in rows else [eager]
        rows.append(Setting("jax", arithmetic, device))
        rows += [Setting("jax", arithmetic, device, attention=False)] if attends else []
        if arithmetic == "float32":
            rows.append(Setting("engine", arithmetic, device))
        rows += [
            Setting("torch", arithmetic, device, compiled, channels_last)
            for compiled, channels_last in ((False, True), (True, False), (True, True))
        ]
    return [*rows, Setting("onnxruntime")] if device == "cpu" else rows


def compare(rows: Sequence[Setting], rounds: int, threads: int, sizes: Sizes) -> dict[str, Any]:
    """Times inference in every row, in turn: `sizes`, and `rows` as `time_rows` has them."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    skipped = [row for row in rows if row.program == "onnxruntime" and missing]
    there = [row for row in rows if row not in skipped]

    def difference(result: np.ndarray, expected: np.ndarray) -> float:
        return float(np.abs(result - expected).max() / max(np.abs(expected).max(), 1.0))

    timed = time_rows(there, INFERENCE, sizes, rounds, threads, STEPS[rows[0].device], difference, AGREEMENT)
    why = f"{' and '.join(missing)} not installed: pip install 'ahmf-jax[onnx]'"
    return {"sizes": asdict(sizes), "rows": timed + [{"setting": asdict(row), "error": why} for row in skipped]}


def first_calls(
    times: int, threads: int, device: Device, network: dict[str, Any], shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Seconds that new processes take from `import ahmf_jax` to their first result, and what of it they take to load.

    The first of them compiles the program, into a cache of this measurement's; it is not among the medians, but told.
    """
    _, height, width = shape
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model.safetensors"
        what = {"do": "first", "bundle": str(bundle), "height": height, "width": width}
        # The folder in which `keep_compiled` keeps programs is the home's.
        home = {"HOME": folder}
        _in_a_process({"do": "save", "bundle": str(bundle), **network}, threads, device, home)
        calls = [_in_a_process(what | network, threads, device, home) for _ in range(1 + times)]
    median = statistics.median(call["seconds"] for call in calls[1:])
    call = statistics.median(each["call"] for each in calls[1:])
    return {"cold": calls[0], "warm": calls[1:], "median": median, "call": call, "met": call < FIRST_TARGET_S}


def cost(megapixels: float, threads: int, device: Device, network: dict[str, Any]) -> dict[str, Any]:
    """What an image of that size takes: seconds, bytes, and where they go."""
    print(f"{megapixels:g} megapixels ...", file=sys.stderr, flush=True)
    return _in_a_process({"do": "cost", "megapixels": megapixels, **network}, threads, device)


def _in_a_process(
    what: dict[str, Any], threads: int, device: Device, variables: dict[str, str] | None = None
) -> dict[str, Any]:
    env = environment(threads) | {"JAX_NUM_CPU_DEVICES": "1"} | (variables or {})
    if device == "cpu":
        env["JAX_PLATFORMS"] = "cpu"
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        env.pop(name, None)
    return answer_of("experiments.benchmark_upsample", what | {"threads": threads}, env)


def perform(what: dict[str, Any]) -> dict[str, Any]:
    """What such a process does."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors()[: what["threads"]])
    match what["do"]:
        case "save":
            return _save(what)
        case "first":
            return _first_call(what)
        case _:
            return _cost(what)


def _trained(what: dict[str, Any]) -> Any:
    """A network of random weights."""
    from ahmf_jax.export import Trained
    from ahmf_jax.models import MODELS

    sizes = _sizes(what)
    model = MODELS[sizes.network](**sizes.fields)
    return Trained(model, random_params(model), "range", "m", 1.0)


def _sizes(what: dict[str, Any]) -> Sizes:
    """Of the network that is asked for."""
    return Sizes(**{f.name: what[f.name] for f in dataclasses.fields(Sizes) if f.name in what})


def _image(height: int, width: int, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Depth (h, w) float32 and guide (H, W, C) uint8, at random."""
    rng = np.random.default_rng(0)
    guide = rng.integers(0, 256, (height, width, sizes.guide_channels), np.uint8)
    return rng.random((height // sizes.scale, width // sizes.scale), np.float32), guide


def _save(what: dict[str, Any]) -> dict[str, Any]:
    from ahmf_jax.export import save_bundle

    save_bundle(Path(what["bundle"]), _trained(what))
    return {}


def _first_call(what: dict[str, Any]) -> dict[str, Any]:
    depth, guide = _image(what["height"], what["width"], _sizes(what))
    images = (depth, guide) if guide.size else (depth,)
    start = time.perf_counter()
    import ahmf_jax

    model = ahmf_jax.load(what["bundle"])
    loaded = time.perf_counter()
    model(*images)
    first = time.perf_counter()
    model(*images)
    second = time.perf_counter()
    return {"seconds": first - start, "load": loaded - start, "call": first - loaded, "again": second - first}


def _cost(what: dict[str, Any]) -> dict[str, Any]:
    import jax

    from ahmf_jax import memory
    from ahmf_jax.engine import Engine

    trained, scale = _trained(what), what["scale"]
    area = 1e6 * what["megapixels"] / scale**2
    rows = max(1, round(math.sqrt(0.75 * area)))
    columns = max(1, round(area / rows))
    seconds: dict[str, float] = {"pooled": 0.0, "depth": 0.0}
    samples: dict[str, int] = {"pooled": 0, "depth": 0}
    calls = 0

    class Timed(Engine):
        """An engine that tells what its passes take, and how many samples they compute, margins included."""

        def _run(self, images: Any, wanted: Any, tile: Any, **more: Any) -> Any:
            nonlocal calls
            start = time.perf_counter()
            output = super()._run(images, wanted, tile, **more)
            seconds[wanted] += time.perf_counter() - start
            samples[wanted] += math.prod(span.stop - span.start for span in tile)
            calls += 1
            return output

    depth, guide = _image(scale * rows, scale * columns, _sizes(what))
    known = np.ones(depth.shape, bool)
    engine = Timed(trained)
    engine(depth, known, guide)  # compiles
    for count in (seconds, samples):
        count.update(dict.fromkeys(count, 0))  # type: ignore[attr-defined]
    calls = 0
    start = time.perf_counter()
    engine(depth, known, guide)
    whole = time.perf_counter() - start
    device = jax.devices()[0]
    return {
        "pixels": depth.size * scale**2,
        "height": scale * rows,
        "width": scale * columns,
        "seconds": whole,
        "passes": seconds,
        # Samples computed over samples of the image: what the margins add.
        "computed": {name: count / depth.size for name, count in samples.items()},
        "tiles": calls,
        # Of the whole process, the image and the compiling included.
        "peak_memory": memory.peak(device),
        "device": device.device_kind,
    }


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What is aimed at, and what was reached: `what`, `reached`, `target` in words, and `met`."""
    entries = []
    for shape in report["shapes"]:
        sizes = Sizes(**shape["sizes"])
        ran = [(Setting(**row["setting"]), row) for row in shape["rows"] if "ms" in row]
        for setting, ours in ran:
            others = [pair for pair in ran if pair[0].program == "torch" and pair[0].arithmetic == setting.arithmetic]
            if setting.device == "cpu":
                others = others[:1]  # eager, which always runs there
            if setting.program not in ("jax", "engine") or not setting.attention or not others:
                continue
            against, theirs = min(others, key=lambda pair: median_ms(pair[1]))
            ratio = median_ms(ours) / median_ms(theirs)
            what = f"{sizes.images} x {sizes.height} x {sizes.width}, {setting.arithmetic}, {name_of(setting)}"
            if setting.device == "cpu":
                target = CPU_TIME_TARGETS[sizes.network]
                reached, met = f"{ratio:.2f} times the time of {name_of(against)}", ratio <= target
                entries.append(_entry(what, reached, f"at most {target:g}", met))
            elif setting.program == "jax":
                reached, met = f"{1 / ratio:.2f} times the speed of {name_of(against)}", 1 / ratio >= GPU_SPEED_TARGET
                entries.append(_entry(what, reached, f"at least {GPU_SPEED_TARGET:g}", met))
    first = report["first"]
    if report["device"] == "cpu":
        reached, met = f"{first['call']:.2f} s", first["met"]
        entries.append(_entry("first call, programs kept", reached, f"under {FIRST_TARGET_S:g} s", met))
    whole = [row for row in report["cost"] if row["tiles"] == 1]
    if report["cost"]:
        largest = report["cost"][-1]
        if largest["peak_memory"] is not None:
            reached, met = f"{largest['peak_memory'] / 1e9:.2f} GB", largest["peak_memory"] < MEMORY_TARGET
            entries.append(_entry(f"{_megapixels(largest)}, memory", reached, f"under {MEMORY_TARGET / 1e9:g} GB", met))
        if whole:
            ratios = [_per_pixel(row) / _per_pixel(whole[-1]) for row in report["cost"]]
            what = f"{_megapixels(largest)}, time for a pixel over {_megapixels(whole[-1])} whole"
            reached, met = f"{ratios[-1]:.2f}", ratios[-1] <= TILES_TARGET
            entries.append(_entry(what, reached, f"at most {TILES_TARGET:g}", met))
            what, reached = "any size's over that", f"{max(ratios):.2f}"
            entries.append(_entry(what, reached, f"at most {TILES_TARGET:g}", max(ratios) <= TILES_TARGET))
    return entries


def _entry(what: str, reached: str, target: str, met: bool) -> dict[str, Any]:
    return {"what": what, "reached": reached, "target": target, "met": met}


def _per_pixel(row: dict[str, Any]) -> float:
    return row["seconds"] / row["pixels"]


def _megapixels(row: dict[str, Any]) -> str:
    return f"{row['pixels'] / 1e6:.3g} MP"


def table(report: dict[str, Any]) -> str:
    """The report as it is printed."""
    about, network = report["machine"], report["network"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"{about['cpu']}, {about['threads']} threads; {versions}"]
    cards = [row["device"] for shape in report["shapes"] for row in shape["rows"] if "device" in row]
    if report["device"] == "gpu":
        lines.append(f"on {cards[0]}" if cards else "on a GPU, on which JAX did not run")
    lines.append(f"inference of {_sizes(network).summary}")
    for shape in report["shapes"]:
        lines += _shape_lines(shape)
    first = report["first"]
    cold, load, call, again = (
        first["cold"]["seconds"],
        *(statistics.median(each[part] for each in first["warm"]) for part in ("load", "call", "again")),
    )
    lines.append(
        f"first result of a new process: {first['median']:.2f} s (load {load:.2f}, call {call:.2f}; the next call "
        f"{again:.2f}); {cold:.2f} s where nothing was compiled before"
    )
    if report["cost"]:
        lines += _cost_lines(report["cost"])
    width = max(len(entry["what"]) for entry in targets(report))
    lines += [
        f"{entry['what']:<{width}}  {entry['reached']}; target {entry['target']}  {verdict(entry['met'])}"
        for entry in targets(report)
    ]
    if about["load"] is not None and about["load"] > QUIET:
        lines.append(f"load {about['load']:.1f} before the start: other work ran, and the figures above are disturbed")
    return "\n".join(lines)


def _shape_lines(shape: dict[str, Any]) -> list[str]:
    sizes, rows = Sizes(**shape["sizes"]), shape["rows"]
    ran = [row for row in rows if "ms" in row]
    eager = ran[0]
    title = f"{sizes.images} x {sizes.height} x {sizes.width}, {len(eager['ms'])} rounds"
    lines = [f"{title:<50}{'ms':>9}{'images/s':>10}{'/ eager':>9}{'min - max':>15}{'GiB':>7}"]
    for row in rows:
        setting = Setting(**row["setting"])
        label = f"{name_of(setting)}, {setting.arithmetic}"
        if "error" in row:
            lines.append(f"{label:<50} did not run: {row['error']}")
            continue
        ms = median_ms(row)
        pairs = [mine / theirs for mine, theirs in zip(row["ms"], eager["ms"], strict=True)]
        memory = "-" if row["peak_memory"] is None else f"{row['peak_memory'] / 2**30:.2f}"
        lines.append(
            f"{label:<50}{ms:>9.1f}{1e3 * sizes.images / ms:>10.1f}{ms / median_ms(eager):>9.2f}"
            f"{min(pairs):>8.2f} -{max(pairs):>5.2f}{memory:>7}"
        )
    lines.append(f"results differ by at most {largest_difference(ran):.1e}")
    return lines + attention_lines(rows)


def _cost_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'image':<16}{'MP':>7}{'runs':>6}{'s':>8}{'us/pixel':>10}{'GB':>7}{'statistics':>12}{'margins':>9}"]
    for row in rows:
        passes, computed = row["passes"], row["computed"]
        statistics_share = passes["pooled"] / sum(passes.values())
        size = f"{row['height']} x {row['width']}"
        peak = "-" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e9:.2f}"
        lines.append(
            f"{size:<16}{row['pixels'] / 1e6:>7.3g}{row['tiles']:>6}{row['seconds']:>8.2f}"
            f"{1e6 * _per_pixel(row):>10.2f}{peak:>7}{statistics_share:>12.0%}{computed['depth'] - 1:>9.0%}"
        )
    lines.append("statistics: share of the time for the first pass; margins: samples computed twice in the second pass")
    return lines


if __name__ == "__main__":
    answer = answers_alone()
    print(json.dumps(perform(json.load(sys.stdin))), file=answer, flush=True)
