"""`ahmf benchmark model`: this program's speed as a ratio to the same network in eager PyTorch, measured side by side.

Two processes, one with JAX and one with PyTorch, are held to the same processors and threads, given the same weights
and images, and warmed up. They are then asked in turn, for one timed run each behind an untimed one, and while one
works the other waits on its pipe: their ratio is comparable where the times are not. Each also tells the processor
time that it took while it waited, which must be next to nothing for that to hold.

Other work on the same processors does not cancel out: PyTorch's threads wait for each other at the end of every
operation, and lose far more to it than JAX's. The load before the start is therefore printed, and so is the ratio of
the processor times, which with one thread is nearly free of that.

`python -m experiments.benchmark jax` and `... torch` are those two processes, and of no use by themselves.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write

INFERENCE, TRAINING = "inference", "training step"
# Largest ratio to eager PyTorch, and largest seconds, on the CPU.
RATIO_TARGETS = {INFERENCE: 1.0, TRAINING: 1.35}
SECONDS_TARGETS = {"import ahmf_jax": 1.5, "ahmf --help": 0.5}
COMMANDS = {"import ahmf_jax": ["-c", "import ahmf_jax"], "ahmf --help": ["-m", "experiments.cli", "--help"]}
# Largest difference of the two programs' results: of a depth, absolute; of the loss and the gradient's norm, relative.
AGREEMENT = {INFERENCE: 1e-5, TRAINING: 1e-4}
STARTS = 5
# Threads of either program look for new work for a moment before they sleep: nobody is timed meanwhile.
PAUSE_S = 0.2
QUIET = 0.5  # load average above which the machine has other work


@dataclass(frozen=True)
class Sizes:
    """What is timed: AHMF's release on one image of `height` x `width`, and on `batch` patches of `patch` x `patch`."""

    scale: int = 4
    num_levels: int = 4
    features: int = 64
    height: int = 480
    width: int = 640
    batch: int = 4
    patch: int = 128


class Task(NamedTuple):
    """`run` is timed, and returns when all is computed; `result` makes the numbers to compare of what it returns."""

    run: Callable[[], Any]
    result: Callable[[Any], np.ndarray]


def benchmark(rounds: int, threads: int, out: Path | None) -> None:
    """Measures, prints the table, and writes the numbers to the JSON file `out` if given.

    Raises:
      InputError: torch is not installed, `rounds` or `threads` is not possible here, or `out` cannot be written.
      RuntimeError: the two programs do not compute the same, so that their times say nothing.
    """
    processors = len(_processors())
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: give at least 1")
    if not 1 <= threads <= processors:
        raise InputError(f"--threads {threads}: this process may use {processors}: give 1 to {processors}")
    if importlib.util.find_spec("torch") is None:
        raise InputError("ahmf benchmark model: torch is not installed: pip install 'ahmf-jax[torch]'")
    with contextlib.ExitStack() as stack:
        temp = None if out is None else stack.enter_context(atomic_write(out))
        report = {"machine": machine(threads), "startup": startup(STARTS)}
        report |= compare(rounds, threads, Sizes())
        print(table(report))
        if temp is not None:
            temp.write_text(json.dumps(report, indent=2) + "\n")


def machine(threads: int) -> dict[str, Any]:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), model)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "torch", "numpy")}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": model,
        "threads": threads,
        "load": load,
        "versions": {"python": platform.python_version(), **versions},
    }


def startup(times: int) -> dict[str, Any]:
    """Seconds that new processes take for `import ahmf_jax`, which must print nothing, and for `ahmf --help`."""
    report = {}
    for name, arguments in COMMANDS.items():
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *arguments], env=_environment(), capture_output=True, text=True, check=True
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

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        setup = {"threads": threads, "sizes": asdict(sizes), "weights": str(Path(folder) / "weights.npz")}
        # PyTorch first: it draws the weights that JAX then reads.
        programs = {name: stack.enter_context(_worker(name, setup)) for name in ("torch", "jax")}
        bar = stack.enter_context(tqdm(total=len(AGREEMENT) * (1 + rounds), unit="round"))
        tasks: dict[str, Any] = {}
        idle = dict.fromkeys(programs, 0.0)
        for task, allowed in AGREEMENT.items():
            bar.set_description(f"{task}, warming up")
            results = {}
            for name, ask in programs.items():
                path = str(Path(folder) / f"{name}.npy")
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
            f"{row['least']:>8.2f} -{row['largest']:>5.2f}{row['target']:>9.2f}  {_verdict(row)}"
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
        lines.append(f"{name}: {row['median']:.2f} s{silent}; target {row['target']} s  {_verdict(row)}")
    return "\n".join(lines)


def _verdict(row: dict[str, Any]) -> str:
    return "met" if row["met"] else "MISSED"


def _processors() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _environment(threads: int | None = None) -> dict[str, str]:
    """This process's, with which a child finds these packages, and has that many threads."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "NPROC", "PJRT_NPROC"), str(threads))
    return {**os.environ, "PYTHONPATH": path, **limits}


@contextlib.contextmanager
def _worker(program: str, setup: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Starts a program, and gives the function that sends it a request and waits for the answer."""
    # One device, whatever the caller's tests or cluster ask for: several would share the threads.
    env = _environment(setup["threads"]) | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.benchmark", program],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # it ended, which shows below
            print(json.dumps(request), file=requests, flush=True)
        answer = answers.readline()
        if not answer:
            raise RuntimeError(f"the {program} process ended with status {process.wait()}; its messages are above")
        return json.loads(answer)

    try:
        ask(setup)
        yield ask
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            requests.close()
        answers.close()


def serve(program: str) -> None:
    """One of the two processes: reads the setup and then requests from stdin, a JSON line each, and answers them.

    A request names a `task` to run twice, the second time timed, and may name a file to `save` its result in. The
    answer holds `ms`, `cpu_ms` (of all threads) and `idle_cpu_ms` (processor time since the last answer).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at ctrl-C the parent ends this process
    # What a library prints goes to stderr: stdout is for answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    setup = json.loads(sys.stdin.readline())
    sizes = Sizes(**setup["sizes"])
    # Before either library is imported and counts processors.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _processors()[: setup["threads"]])
    make = {"jax": _jax_tasks, "torch": _torch_tasks}[program]
    tasks = make(sizes, setup["threads"], setup["weights"])
    idle_since = None
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        task = tasks[request["task"]]
        waited = time.process_time()
        # Untimed: while the other program ran, caches went cold and the system took free pages back. Training and
        # repeated inference are back to back, and so is what is timed.
        task.run()
        cpu, start = time.process_time(), time.perf_counter()
        value = task.run()
        ms, cpu_ms = 1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu)
        if "save" in request:
            np.save(request["save"], task.result(value))
        answer = {"ms": ms, "cpu_ms": cpu_ms, "idle_cpu_ms": 1e3 * (waited - idle_since) if idle_since else 0.0}
        print(json.dumps(answer), file=answers, flush=True)
        idle_since = time.process_time()


def _image_and_batch(sizes: Sizes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same random numbers in both processes, NHWC: an image, and a batch for training."""
    rng = np.random.default_rng(0)

    def draw(count: int, height: int, width: int) -> dict[str, np.ndarray]:
        low = (count, height // sizes.scale, width // sizes.scale, 1)
        return {
            "depth_lr": rng.random(low, np.float32),
            "guide": rng.random((count, height, width, 3), np.float32),
            "depth_hr": rng.random((count, height, width, 1), np.float32),
            "mask_lr": np.ones(low, bool),
            "mask_hr": rng.random((count, height, width, 1)) < 0.9,
        }

    return draw(1, sizes.height, sizes.width), draw(sizes.batch, sizes.patch, sizes.patch)


def _jax_tasks(sizes: Sizes, threads: int, weights: str) -> dict[str, Task]:
    """This program's two tasks: what `ahmf upsample` runs on a tile, and the step that `ahmf train` takes."""
    import jax
    import jax.numpy as jnp
    import optax

    from ahmf_jax import torch_weights
    from ahmf_jax.state import TrainState
    from ahmf_jax.train import train_step

    with np.load(weights) as file:
        model, params = torch_weights.from_torch(dict(file))
    params = jax.tree.map(jnp.asarray, params)
    image, batch = (jax.tree.map(jnp.asarray, arrays) for arrays in _image_and_batch(sizes))

    apply = jax.jit(lambda params, depth_lr, guide: model.apply({"params": params}, depth_lr, guide)[0])

    def infer() -> Any:
        return apply(params, image["depth_lr"], image["guide"]).block_until_ready()

    optimiser = optax.adam(1e-4)
    # The step's buffers are donated; inference keeps its own.
    copy = jax.tree.map(jnp.copy, params)
    state = TrainState(jnp.zeros((), jnp.int32), copy, optimiser.init(copy), model, optimiser)
    step = jax.jit(train_step, donate_argnums=0)

    def train() -> Any:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch))
        return metrics

    return {
        INFERENCE: Task(infer, np.ravel),
        TRAINING: Task(train, lambda metrics: np.array([metrics["loss"], metrics["grad_norm"]])),
    }


def _torch_tasks(sizes: Sizes, threads: int, weights: str) -> dict[str, Task]:
    """The twin's two tasks, eager; writes its weights to the file `weights`."""
    import torch

    from ahmf_jax import torch_modules

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    twin = torch_modules.AHMF(sizes.scale, sizes.num_levels, sizes.features)
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.ndim == 4:
                weight.mul_(3**0.5)  # torch's default halves the signal at every layer; so its size is kept
    np.savez(weights, **{name: value.numpy() for name, value in twin.state_dict().items()})
    image, batch = (  # NCHW
        {name: torch.from_numpy(np.moveaxis(value, -1, 1).copy()) for name, value in arrays.items()}
        for arrays in _image_and_batch(sizes)
    )

    # The tasks are independent: inference keeps the weights that the other trains.
    fixed = torch_modules.AHMF(sizes.scale, sizes.num_levels, sizes.features).eval()
    fixed.load_state_dict(twin.state_dict())

    def infer() -> Any:
        with torch.inference_mode():
            return fixed(image["depth_lr"], image["guide"])

    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-4)

    def train() -> Any:
        optimiser.zero_grad()
        mask = batch["mask_hr"]
        error = (twin(batch["depth_lr"], batch["guide"]) - batch["depth_hr"]).abs()
        loss = torch.where(mask, error, 0.0).sum() / mask.sum()
        loss.backward()
        optimiser.step()
        return loss

    def loss_and_norm(loss: Any) -> np.ndarray:
        norm = torch.stack([w.grad.norm() for w in twin.parameters() if w.grad is not None]).norm()
        return np.array([loss.item(), norm.item()])

    return {INFERENCE: Task(infer, lambda depth: depth.numpy().ravel()), TRAINING: Task(train, loss_and_norm)}


if __name__ == "__main__":
    serve(sys.argv[1])
