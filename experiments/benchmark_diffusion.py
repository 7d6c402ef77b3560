"""`ahmf benchmark diffusion`: DADA's loop, what it keeps, its speed beside PyTorch's, its memory, and how it converges.

The sample is the middle of an image with known depth, or a generated scene; its low resolution is the mean of every
block, its coefficients are those without learning (guide and bicubic depth, contrast 0.03). Three programs compute the
same: this library, the loop in eager PyTorch, and with each iteration compiled by torch.compile. Each is a process of
its own, warm, and asked in turn, as in `experiments/benchmark_programs.py`.

`python -m experiments.benchmark_diffusion` is such a process, and of no use by itself.
"""

import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write
from experiments.benchmark_programs import (
    PAUSE_S,
    QUIET,
    Ask,
    answers_alone,
    check,
    conversation,
    environment,
    machine,
    processors,
    verdict,
)

OURS, EAGER, COMPILED = "ahmf_jax", "PyTorch, eager", "PyTorch, torch.compile"
PROGRAMS = (OURS, EAGER, COMPILED)
SPEED_TARGET = 4.0  # times eager PyTorch, on a CPU
MEMORY_TARGET = 0.1  # of unrolled PyTorch's
LIMIT = 1e-5  # of the reference, mass and adherence
# Of the images: after 9,024 iterations float32 itself is 3e-5 from float64 at the worst pixel (4e-7 in the mean), in
# this program as in eager PyTorch.
IMAGE_LIMIT = 1e-4
CONTRAST = 0.03
GRADIENT_STEPS = 64  # iterations of the gradient that is timed
WARM_UP = 256  # iterations, untimed
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """One sample of `size` x `size` at `scale`; gradients through `after` iterations, of `batch` samples."""

    scale: int = 8
    size: int = 256
    iterations: int = 9024
    after: int = 1024
    batch: int = 8
    rounds: int = 3
    threads: int = 2


def benchmark_diffusion(
    sizes: Sizes = Sizes(),
    depth: Path | None = None,
    guide: Path | None = None,
    reference: Path | None = None,
    out: Path | None = None,
) -> None:
    """Measures, prints the tables, and writes the numbers to the JSON file `out` if given.

    Args:
      sizes: of what is measured.
      depth, guide: an image, known everywhere, of which the middle is taken (default: a generated scene).
      reference: an NPZ file with results of the authors' program (`guide`, `source`, `mask_lr`, `y_bicubic`, `K`,
        `iterations`, `y_pred`; images are NCHW) to compare with.
      out: a JSON file.

    Raises:
      InputError: torch is not installed, sizes that are not possible, a file that cannot be used.
      RuntimeError: the programs do not compute the same, or a process failed.
    """
    for name, value in asdict(sizes).items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give at least 1")
    if sizes.scale < 2 or sizes.size % sizes.scale or sizes.size < 2 * sizes.scale:
        raise InputError(
            f"--size {sizes.size} --scale {sizes.scale}: give a scale above 1 and a size that is a multiple of it, at "
            "least twice as large"
        )
    check("diffusion", sizes.rounds, sizes.threads)
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arrays = sample(sizes, depth, guide)
        np.savez(folder / "sample.npz", **arrays)  # type: ignore[arg-type]
        if reference is not None:
            np.savez(folder / "reference.npz", **read_reference(reference))  # type: ignore[arg-type]
        name = "a generated scene" if depth is None else f"the middle of {depth.name}"
        report = {"machine": machine(sizes.threads), "sizes": asdict(sizes), "sample": name}
        report |= measure(sizes, folder, stack)
        print(tables(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def sample(sizes: Sizes, depth: Path | None, guide: Path | None) -> dict[str, np.ndarray]:
    """`depth`, the `image` to begin with, `guide` and `source`: (1, H, W, C) float32; depth has the variance 1."""
    from ahmf_jax.models.dada import MEAN, STD
    from data_pipelines.datasets.scenes.builder import render
    from data_pipelines.files import read_depth, read_guide

    if (depth is None) != (guide is None):
        raise InputError("--depth and --guide: give both, or neither for a generated scene")
    if depth is None or guide is None:
        colours, values = render(0, sizes.size, sizes.size)
    else:
        values, colours = read_depth(depth), read_guide(guide)
        if values.shape != colours.shape[:2] or min(values.shape) < sizes.size:
            raise InputError(
                f"{depth}, {guide}: of {values.shape} and {colours.shape[:2]} pixels: give two of the same size, at "
                f"least {sizes.size} x {sizes.size}"
            )
        top, left = ((length - sizes.size) // 2 for length in values.shape)
        values, colours = (x[top : top + sizes.size, left : left + sizes.size] for x in (values, colours))
        if not (np.isfinite(values).all() and values.min() > 0 and np.ptp(values) > 0):
            raise InputError(f"{depth}: its middle has holes or is flat: give depth that is known everywhere")
    values = values.astype(np.float32)[..., None]
    values /= values.std()
    samples = sizes.size // sizes.scale
    source = values.reshape(samples, sizes.scale, samples, sizes.scale, 1).mean((1, 3))
    image = resample.resize(source, values.shape[:2], "torch_bicubic")
    # A cubic overshoots at edges, at worst below zero: depth stays above half of its smallest sample.
    image = np.maximum(image, source.min() / 2)
    arrays = {"depth": values, "image": image, "guide": (colours / 255 - MEAN) / STD, "source": source}
    return {name: value.astype(np.float32)[None] for name, value in arrays.items()}


def read_reference(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a reference file. InputError where it is none, or where they do not fit together."""
    names = ("guide", "source", "mask_lr", "y_bicubic", "K", "iterations", "y_pred")

    def refused(problem: str) -> InputError:
        return InputError(f"{path}: {problem}: give an NPZ file with {', '.join(names)}")

    try:
        zipfile.ZipFile(path).close()  # np.load takes other files, too
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in names}
    except OSError as error:
        raise refused(error.strerror or str(error)) from None
    except Exception as error:  # damage has many faces
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise refused(told[0]) from None
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise refused(f"{name} is not made of finite numbers")
    for name in ("K", "iterations"):
        if found[name].shape or not found[name] > 0:
            raise refused(f"{name} is not one positive number")
    shapes = {name: array.shape for name, array in found.items() if name not in ("K", "iterations")}
    if any(len(shape) != 4 or 0 in shape for shape in shapes.values()):
        fit = False
    else:
        (b, _, h, w), scale = shapes["source"], shapes["y_pred"][2] // shapes["source"][2]
        low, high = (b, 1, h, w), (b, 1, scale * h, scale * w)
        fit = scale > 1 and shapes == {
            "guide": (b, shapes["guide"][1], *high[2:]),
            "source": low,
            "mask_lr": low,
            "y_bicubic": high,
            "y_pred": high,
        }
    if not fit:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise refused(f"{said} do not fit together")
    return found


def measure(sizes: Sizes, folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """All figures.

    Raises:
      RuntimeError: a program's image differs from eager PyTorch's by more than `IMAGE_LIMIT`.
    """
    from tqdm import tqdm

    bar = stack.enter_context(tqdm(total=len(PROGRAMS) + sizes.rounds + 3, unit="part"))
    asks: dict[str, Ask] = {}
    speed: dict[str, dict[str, Any]] = {}
    images: dict[str, np.ndarray] = {}
    # PyTorch first, as all others are compared with it.
    for name in (EAGER, COMPILED, OURS):
        bar.set_description(f"{name}: warming up")
        env = environment(sizes.threads) | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        env |= {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        ask = stack.enter_context(conversation("experiments.benchmark_diffusion", name, env))
        ask({"program": name, "folder": str(folder), "sizes": asdict(sizes)})
        answers = [ask({"task": task}) for task in ("result", "gradient")]
        bar.update()
        if errors := [answer["error"] for answer in answers if "error" in answer]:
            speed[name] = {"error": errors[0]}
            continue
        asks[name] = ask
        speed[name] = {"diffuse_ms": [], "gradient_ms": []}
        images[name] = np.load(folder / f"{name}.npy")
        difference = float(np.abs(images[name] / images[EAGER] - 1).max())
        speed[name]["difference"] = difference
        if not difference <= IMAGE_LIMIT:
            raise RuntimeError(f"{name}: differs by {difference:.1e} from {EAGER}, relative, more than {IMAGE_LIMIT:g}")
    for _ in range(sizes.rounds):
        bar.set_description("speed")
        for name, ask in asks.items():
            for task in ("diffuse", "gradient"):
                time.sleep(PAUSE_S)
                speed[name][f"{task}_ms"].append(ask({"task": task})["ms"])
        bar.update()
    report: dict[str, Any] = {"speed": speed}
    for part, names in {"checks": (OURS,), "memory": (OURS, EAGER), "convergence": (OURS,)}.items():
        bar.set_description(part)
        found = {name: asks[name]({"task": part}) for name in names}
        report[part] = found if len(found) > 1 else found[OURS]
        bar.update()
    return report


def tables(report: dict[str, Any]) -> str:
    """The report as it is printed: Markdown."""
    sizes, host = Sizes(**report["sizes"]), report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    lines = [
        f"{host['cpu']}, {sizes.threads} threads; {versions}",
        f"{report['sample']}, {sizes.size} x {sizes.size}, x{sizes.scale}, float32",
        "",
        *_rows(("check", "found", "allowed", ""), _check_rows(report)),
        "",
        *_rows(("program", f"{sizes.iterations} iterations", "each", "PyTorch / it", "gradient"), _speed_rows(report)),
        "",
        *_rows(
            ("program", f"gradient of {sizes.after}, batch {sizes.batch}", "of PyTorch's", ""), _memory_rows(report)
        ),
        "",
        *_convergence(report),
    ]
    if host["load"] is not None and host["load"] > QUIET:
        lines += ["", f"load {host['load']:.1f} before the start: other work ran, and disturbs PyTorch's threads most"]
    return "\n".join(lines)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _check_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    checks = report["checks"]
    rows: list[tuple[str, ...]] = []
    limits = {
        "reference": "the authors' numbers, relative",
        "mass": "depth gained or lost in 1000 steps of diffusion",
        "adherence": "block mean to its sample after any iteration, of the range",
    }
    for name, words in limits.items():
        if name in checks:
            rows.append((words, f"{checks[name]:.1e}", f"{LIMIT:g}", verdict(checks[name] <= LIMIT)))
    difference = report["speed"][OURS]["difference"]
    words = "eager PyTorch's image, relative, the worst pixel"
    rows.append((words, f"{difference:.1e}", f"{IMAGE_LIMIT:g}", verdict(difference <= IMAGE_LIMIT)))
    for rate, growth in checks["growth"].items():
        stable = float(rate) <= 0.25
        rows.append(
            (
                f"a chequerboard's largest value, 200 steps at {rate}",
                f"x {growth:.3g}",
                "1" if stable else "diverges, and is refused",
                verdict((growth <= 1.001) == stable),
            )
        )
    return rows


def _speed_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    speed, iterations = report["speed"], report["sizes"]["iterations"]
    medians = {
        name: [statistics.median(row[f"{task}_ms"]) for task in ("diffuse", "gradient")]
        for name, row in speed.items()
        if "error" not in row
    }
    rows: list[tuple[str, ...]] = []
    for name in PROGRAMS:
        if name not in medians:
            rows.append((name, f"did not run: {speed[name]['error']}", "", "", ""))
            continue
        (ms, gradient), (eager, eager_gradient) = medians[name], medians[EAGER]
        met = f", {verdict(eager / ms >= SPEED_TARGET)}: at least {SPEED_TARGET:g}" if name == OURS else ""
        rows.append(
            (
                name,
                f"{ms / 1e3:.2f} s",
                f"{1e3 * ms / iterations:.0f} us",
                f"{eager / ms:.1f}{met}",
                f"{gradient:.0f} ms, {eager_gradient / gradient:.1f}",
            )
        )
    return rows


def _memory_rows(report: dict[str, Any]) -> Sequence[Sequence[str]]:
    memory: dict[str, dict[str, int]] = report["memory"]
    ratio = memory[OURS]["unrolled"] / memory[EAGER]["unrolled"]
    implicit = memory[OURS]["implicit"] / memory[EAGER]["unrolled"]
    met = f"{verdict(ratio <= MEMORY_TARGET)}: at most {MEMORY_TARGET:g}"
    return [
        (f"{OURS}, in segments", f"{memory[OURS]['unrolled'] / MIB:.0f} MiB", f"{ratio:.4f}", met),
        (f"{OURS}, implicit", f"{memory[OURS]['implicit'] / MIB:.0f} MiB", f"{implicit:.4f}", ""),
        (f"{EAGER}, unrolled", f"{memory[EAGER]['unrolled'] / MIB:.0f} MiB", "1", ""),
    ]


def _convergence(report: dict[str, Any]) -> list[str]:
    found, iterations = report["convergence"], report["sizes"]["iterations"]

    def errors(row: dict[str, float]) -> tuple[str, ...]:
        return f"{row['mean']:.1e}", f"{row['largest']:.1e}", f"{row['truth']:.5f}"

    rows = [(str(row["count"]), f"{row['cost']:.0f}", row["start"], *errors(row)) for row in found["starts"]]
    early = [(f"{row['tolerance']:g}", row["start"], str(row["used"]), *errors(row)) for row in found["early"]]
    implicit = [(str(row["before"]), f"{row['links']:.1e}", f"{row['contrast']:.1e}") for row in found["implicit"]]
    against = f"to {iterations}: mean"
    return [
        *_rows(("iterations", "their cost", "start", against, "largest", "to the truth: mean"), rows),
        "",
        *_rows(("tolerance", "start", "iterations done", against, "largest", "to the truth: mean"), early),
        "",
        *_rows(("iterations before", "implicit to unrolled gradient of cv, ch", "of the contrast"), implicit),
    ]


# The processes.


def serve() -> None:
    """One of the processes: reads what it is, then tasks, from stdin, a JSON line each, and answers them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at ctrl-C the parent ends this process
    answers = answers_alone()
    setup = json.loads(sys.stdin.readline())
    sizes, name = Sizes(**setup["sizes"]), setup["program"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors()[: sizes.threads])
    folder = Path(setup["folder"])
    tasks = jax_tasks(sizes, folder) if name == OURS else torch_tasks(sizes, folder, name)
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)["task"]
        try:
            answer = tasks[task]()
        except Exception as error:
            if name != COMPILED:
                raise
            answer = {"error": f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


Tasks = dict[str, Callable[[], dict[str, Any]]]


def _timed(run: Callable[[int], Any], iterations: int) -> dict[str, Any]:
    """The milliseconds of so many iterations, right behind a few: caches are warm, and all is compiled."""
    run(min(iterations, WARM_UP))
    start = time.perf_counter()
    run(iterations)
    return {"ms": 1e3 * (time.perf_counter() - start)}


def jax_tasks(sizes: Sizes, folder: Path) -> Tasks:
    """What this library can be asked for."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from ahmf_jax import diffusion

    with np.load(folder / "sample.npz") as file:
        given = {name: jnp.asarray(file[name]) for name in file.files}
    image, source, truth = given["image"], given["source"], given["depth"]
    mask = jnp.ones(source.shape, bool)
    features = jnp.concatenate([given["guide"], image], -1)
    cv, ch = jax.jit(diffusion.coefficients)(features, jnp.float32(CONTRAST))
    options = ("after", "gradient", "tolerance", "start")
    run = jax.jit(diffusion.diffuse, static_argnames=options)

    def loss(contrast: Any, cv: Any, ch: Any, image: Any, before: Any, after: int, gradient: diffusion.Gradient) -> Any:
        """Of the coefficients, and of the contrast where it is not None."""
        if contrast is not None:
            cv, ch = diffusion.coefficients(features, contrast)
        found, _ = diffusion.diffuse(image, cv, ch, source, mask, before=before, after=after, gradient=gradient)
        return jnp.mean(jnp.abs(found - truth))

    by_links = jax.jit(jax.grad(loss, (1, 2)), static_argnames=("after", "gradient"))
    by_contrast = jax.jit(jax.grad(loss), static_argnames=("after", "gradient"))

    def iterate(count: int) -> Any:
        return run(image, cv, ch, source, mask, before=count)[0].block_until_ready()

    def result() -> dict[str, Any]:
        np.save(folder / f"{OURS}.npy", iterate(sizes.iterations))
        return {}

    def gradient() -> dict[str, Any]:
        def once(count: int) -> Any:
            return jax.block_until_ready(by_links(None, cv, ch, image, 0, after=count, gradient="unrolled"))

        return _timed(once, GRADIENT_STEPS)

    def checks() -> dict[str, Any]:
        found: dict[str, Any] = {}
        if (folder / "reference.npz").exists():
            with np.load(folder / "reference.npz") as file:
                known = {name: jnp.asarray(file[name]) for name in file.files}
            guide, start, low, holes, expected = (
                jnp.moveaxis(known[name], 1, -1) for name in ("guide", "y_bicubic", "source", "mask_lr", "y_pred")
            )
            links = diffusion.coefficients(jnp.concatenate([guide, start], -1), known["K"].astype(jnp.float32))
            result, _ = run(start, *links, low, holes > 0.5, before=known["iterations"].astype(jnp.int32))
            found["reference"] = float(jnp.max(jnp.abs(result / expected - 1)))
        spread = jax.jit(lambda x: lax.fori_loop(0, 1000, lambda _, x: diffusion.spread(x, cv, ch), x))
        before, after = (np.asarray(x, np.float64).sum() for x in (image, spread(image)))
        found["mass"] = float(abs(after / before - 1))
        found["adherence"] = adherence()
        found["growth"] = {str(rate): growth(rate) for rate in (diffusion.RATE, diffusion.MAX_RATE, 0.26)}
        return found

    def adherence() -> float:
        b, h, w, _ = source.shape

        def step(state: Any, _: None) -> Any:
            image, worst = state
            image = diffusion.adjust(diffusion.spread(image, cv, ch), source, mask)
            means = image.reshape(b, h, sizes.scale, w, sizes.scale, 1).mean((2, 4))
            return (image, jnp.maximum(worst, jnp.max(jnp.abs(means - source)))), None

        iterate = jax.jit(lambda image: lax.scan(step, (image, jnp.float32(0)), length=sizes.iterations)[0][1])
        return float(iterate(image) / jnp.ptp(source))

    def growth(rate: float) -> float:
        board = jnp.asarray(np.indices((1, 64, 64, 1)).sum(0) % 2, jnp.float32) * 2 - 1
        ones = jnp.ones_like(board)

        def step(_: int, x: Any) -> Any:
            # An array is not checked, so that it can be seen to diverge.
            return diffusion.spread(x, ones[:, 1:], ones[:, :, 1:], jnp.float32(rate))

        return float(jnp.max(jnp.abs(jax.jit(lambda x: lax.fori_loop(0, 200, step, x))(board))))

    def memory() -> dict[str, Any]:
        def total(image: Any, cv: Any, ch: Any, source: Any, mask: Any, gradient: diffusion.Gradient) -> Any:
            return jnp.sum(
                diffusion.diffuse(image, cv, ch, source, mask, before=0, after=sizes.after, gradient=gradient)[0]
            )

        described = [jax.ShapeDtypeStruct((sizes.batch, *x.shape[1:]), x.dtype) for x in (image, cv, ch, source, mask)]
        found = {}
        for way in ("unrolled", "implicit"):
            differentiated = jax.jit(jax.grad(total, (1, 2)), static_argnames="gradient")
            plan: Any = differentiated.lower(*described, gradient=way).compile().memory_analysis()
            found[way] = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        return found

    def convergence() -> dict[str, Any]:
        whole, _ = run(image, cv, ch, source, mask, before=sizes.iterations)
        span = jnp.ptp(source)
        part, pixels, scale = 0.0, 1.0, sizes.scale  # of an iteration: what it takes on all sizes of blocks together
        while scale % 2 == 0 and scale > 2:
            pixels, scale = pixels / 4, scale // 2
            part += pixels

        def apart(found: Any) -> dict[str, float]:
            error = jnp.abs(found - whole) / span
            truth_error = jnp.mean(jnp.abs(found - truth)) / span
            return {"mean": float(error.mean()), "largest": float(error.max()), "truth": float(truth_error)}

        report: dict[str, Any] = {"starts": [], "early": [], "implicit": []}
        counts = [count for count in (0, 64, 128, 256, 512, 1024, 2048, 4096) if count < sizes.iterations]
        for count in [*counts, sizes.iterations]:
            for start in ("fine", "coarse"):
                found, _ = run(image, cv, ch, source, mask, before=count, start=start)
                cost = count * (1 + part * (start == "coarse"))
                report["starts"].append({"count": count, "start": start, "cost": cost} | apart(found))
        for tolerance in TOLERANCES:
            for start in ("fine", "coarse"):
                found, used = run(
                    image, cv, ch, source, mask, before=sizes.iterations, tolerance=tolerance, start=start
                )
                report["early"].append({"tolerance": tolerance, "start": start, "used": int(used)} | apart(found))
        for before in sorted({sizes.iterations // 16, sizes.iterations // 4, sizes.iterations}):
            ways = {}
            for way in ("unrolled", "implicit"):
                links = by_links(None, cv, ch, image, before, after=sizes.after, gradient=way)
                contrast = by_contrast(
                    jnp.float32(CONTRAST), None, None, image, before, after=sizes.after, gradient=way
                )
                ways[way] = np.concatenate([np.ravel(x) for x in links]), float(contrast)
            (unrolled, contrast), (implicit, other) = ways["unrolled"], ways["implicit"]
            size = float(np.linalg.norm(unrolled))
            report["implicit"].append(
                {
                    "before": before,
                    "links": float(np.linalg.norm(implicit - unrolled)) / size,
                    "contrast": abs(other - contrast) / abs(contrast),
                }
            )
        return report

    return {
        "result": result,
        "diffuse": lambda: _timed(iterate, sizes.iterations),
        "gradient": gradient,
        "checks": checks,
        "memory": memory,
        "convergence": convergence,
    }


def torch_tasks(sizes: Sizes, folder: Path, name: str) -> Tasks:
    """What the loop in PyTorch can be asked for."""
    import torch

    from ahmf_jax.torch_modules import diffusion

    torch.set_num_threads(sizes.threads)
    with np.load(folder / "sample.npz") as file:
        given = {name: torch.from_numpy(np.moveaxis(file[name], -1, 1).copy()) for name in file.files}
    image, source, truth = given["image"], given["source"], given["depth"]
    cv, ch = diffusion.coefficients(torch.cat([given["guide"], image], 1), CONTRAST)
    unknown = torch.zeros_like(source, dtype=torch.bool)
    iterate = torch.compile(diffusion.iterate, fullgraph=True) if name == COMPILED else diffusion.iterate

    def run(count: int) -> Any:
        found = image
        with torch.no_grad():
            for _ in range(count):
                found = iterate(found, cv, ch, source, unknown)
        return found

    def result() -> dict[str, Any]:
        np.save(folder / f"{name}.npy", np.moveaxis(run(sizes.iterations).numpy(), 1, -1))
        return {}

    def differentiate(count: int) -> Any:
        down, right = (x.clone().requires_grad_() for x in (cv, ch))
        found = image
        for _ in range(count):
            found = iterate(found, down, right, source, unknown)
        return torch.autograd.grad((found - truth).abs().mean(), (down, right))

    def memory() -> dict[str, Any]:
        """What is kept for the backward pass grows by the same with every iteration: two more are measured."""
        held = [bytes_kept(count) for count in (2, 4)]
        return {"unrolled": held[0] + (held[1] - held[0]) // 2 * (sizes.after - 2)}

    def bytes_kept(count: int) -> int:
        found, down, right, low, holes = (
            x.expand(sizes.batch, *x.shape[1:]).clone() for x in (image, cv, ch, source, unknown)
        )
        down, right = down.requires_grad_(), right.requires_grad_()
        kept: dict[int, Any] = {}

        def keep(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            for _ in range(count):
                found = diffusion.iterate(found, down, right, low, holes)
        return sum(storage.nbytes() for storage in kept.values())

    return {
        "result": result,
        "diffuse": lambda: _timed(run, sizes.iterations),
        "gradient": lambda: _timed(differentiate, GRADIENT_STEPS),
        "memory": memory,
    }


if __name__ == "__main__":
    serve()
