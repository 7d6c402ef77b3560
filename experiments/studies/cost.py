"""What a configuration costs: parameters, arithmetic, and the time and memory of inference and of a training step.

Inference is a user's, of one image from NumPy to NumPy; the step is that of `ahmf train`, on a batch at random. Nothing
needs to be trained for it: what is computed does not depend on the weights. Every configuration has a process of its
own for either, without a compilation cache, so that neither memory nor compiled programs are another's. On the CPU they
are warmed up, and then asked in turn, one timed run each in every round while the others wait: what else the machine
does falls on all of them alike, and the medians are comparable where the times are not. An accelerator, whose memory
they would share, they have one after the other. No two measurements of a user's go on at once on a machine.

Memory is the most in use: of the device's memory since the process began, or, on the CPU, resident in the process
during warm runs, which includes what Python, the libraries and the compiler have taken before.

`python -m experiments.studies.cost` is such a process, and of no use by itself.
"""

import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ahmf_jax import memory
from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.benchmark_programs import PAUSE_S, Ask, answers_alone, conversation, environment, random_params
from experiments.config import TrainConfig
from experiments.provenance import hardware

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SIZE, ROUNDS = (480, 640), 5
MIB = 2**20
Task = Literal["inference", "training"]
TASKS: tuple[Task, ...] = ("inference", "training")
_OF_TRAINING = ("train_gflop", "train_step_ms", "train_mib", "train_compile_s")


@dataclass(frozen=True)
class Cost:
    """What a configuration costs; as JSON it is `dataclasses.asdict`.

    Attributes:
      parameters: numbers of the network.
      inference_gflop, train_gflop: 10^9 multiplications and additions, of one image and of one step: see `flops`.
      inference_ms, train_step_ms: medians over the rounds, warm.
      inference_mib, train_mib: the most in use; None where nothing tells.
      inference_compile_s, train_compile_s: to trace and compile, without a cache.
      size: (H, W) of the image at high resolution.
      hardware: on which.
      rounds: timed runs.

    What is of training is None where inference alone was asked for.
    """

    parameters: int
    inference_gflop: float
    train_gflop: float | None
    inference_ms: float
    inference_mib: float | None
    train_step_ms: float | None
    train_mib: float | None
    inference_compile_s: float
    train_compile_s: float | None
    size: tuple[int, int]
    hardware: str
    rounds: int


class Prepared(NamedTuple):
    """A task, warm: its facts, and what does it once more, and returns when all is computed."""

    facts: dict[str, Any]
    run: Callable[[], Any]


def key(config: TrainConfig) -> str:
    """The same for configurations that cost the same: rates, steps, seeds and data have no say."""
    data, optimiser = config.data, config.optimiser
    fields = {
        "model": configs.to_json(config)["model"],
        "batch_size": data.batch_size,
        "patch": data.patch,
        "optimiser": [optimiser.name, *optimiser.options],
        "loss": config.loss,
        "scaling": config.scaling,
        "accumulate": config.accumulate,
        "mesh": config.mesh,
        "fsdp": config.fsdp,
        # Of these only whether they are there.
        "edge_loss": config.edge_weight > 0,
        "weight_decay": optimiser.weight_decay > 0,
        "clip": optimiser.clip > 0 and (optimiser.clip_norm, optimiser.clip_of),
        "ema": config.ema > 0,
        "stages": bool(config.stage_weights) and config.supervision["stage_kernel"],
    }
    return json.dumps(fields, sort_keys=True)


def from_json(values: Mapping[str, Any]) -> Cost:
    """The cost that `dataclasses.asdict` was given."""
    return Cost(**{**values, "size": tuple(values["size"])})


def measure(
    configs: Sequence[TrainConfig],
    *,
    size: tuple[int, int] = SIZE,
    rounds: int = ROUNDS,
    progress: bool = True,
    tasks: Sequence[Task] = TASKS,
) -> list[Cost]:
    """The cost of each configuration, as `attempt`.

    Raises:
      InputError: also where one of them cannot be measured.
    """
    found = attempt(configs, size=size, rounds=rounds, progress=progress, tasks=tasks)
    costs = []
    for config, cost in zip(configs, found, strict=True):
        if isinstance(cost, str):
            raise InputError(f"{config.model.summary()}, batch {config.data.batch_size}: {cost}")
        costs.append(cost)
    return costs


def attempt(
    configs: Sequence[TrainConfig],
    *,
    size: tuple[int, int] = SIZE,
    rounds: int = ROUNDS,
    progress: bool = True,
    tasks: Sequence[Task] = TASKS,
    alive: Callable[[], None] = lambda: None,
) -> list[Cost | str]:
    """The cost of each configuration, or why it cannot be measured; those of one `key` are measured once.

    Args:
      configs: which.
      size: (H, W) of the image, multiples of every scale.
      rounds: timed runs of each.
      progress: whether to show it.
      tasks: of what, inference at least.
      alive: called now and then.

    Raises:
      InputError: a size or number of rounds that is not possible.
      RuntimeError: a process failed; its messages stand above.
    """
    from tqdm import tqdm

    if rounds < 1:
        raise InputError(f"{rounds} rounds: give at least 1")
    for scale in {config.model.scale for config in configs}:
        if min(size) < scale or any(side % scale for side in size):
            raise InputError(f"an image of {size[0]} x {size[1]}: give multiples of the scale, {scale}")
    distinct = {key(config): config for config in configs}
    together = [distinct]
    if not hardware().endswith("cpu"):
        together = [{name: config} for name, config in distinct.items()]
    found: dict[str, dict[str, Any] | str] = {name: dict.fromkeys(_OF_TRAINING) for name in distinct}
    total = len(tasks) * len(distinct) * (1 + rounds)
    with _by_itself(), tqdm(total=total, unit="run", disable=None if progress else True, leave=False) as bar:

        def ran() -> None:
            bar.update()
            alive()

        for task in tasks:
            bar.set_description(task)
            for group in together:
                wanted = {name: config for name, config in group.items() if not isinstance(found[name], str)}
                for name, facts in _in_turn(task, wanted, size, rounds, ran).items():
                    found[name] = facts if isinstance(facts, str) else found[name] | facts  # type: ignore[operator]
    costs = {
        name: facts if isinstance(facts, str) else Cost(**facts, size=size, rounds=rounds)
        for name, facts in found.items()
    }
    return [costs[key(config)] for config in configs]


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Waits until no other process of this user measures on this machine; the system ends what one that died held."""
    if fcntl is None:
        yield
        return
    with (Path(tempfile.gettempdir()) / f"ahmf-costs-{os.getuid()}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _in_turn(
    task: Task, distinct: Mapping[str, TrainConfig], size: tuple[int, int], rounds: int, ran: Callable[[], None]
) -> dict[str, dict[str, Any] | str]:
    """What the costs have of a task, or why they cannot; `ran` is told of every run."""
    env = environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    names = ("inference_ms", "inference_mib") if task == "inference" else ("train_step_ms", "train_mib")
    found: dict[str, dict[str, Any] | str] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, Ask] = {}
        answers: dict[str, list[dict[str, Any]]] = {}
        for name, config in distinct.items():
            process = stack.enter_context(contextlib.ExitStack())
            ask = process.enter_context(conversation(__name__, task, env))
            answer = ask({"task": task, "config": configs.to_json(config), "size": size})
            ran()
            found[name] = answer.get("refused", answer)
            if "refused" in answer:
                process.close()  # the others may have its memory
            else:
                running[name], answers[name] = ask, []
        for _ in range(rounds):
            for name in list(running):
                time.sleep(PAUSE_S)
                answer = running[name]({})
                ran()
                if "refused" in answer:
                    found[name] = answer["refused"]
                    del running[name]
                else:
                    answers[name].append(answer)
    for name in running:
        ms, mib = statistics.median(answer["ms"] for answer in answers[name]), answers[name][-1]["mib"]
        found[name] = {**found[name], **dict(zip(names, (ms, mib), strict=True))}  # type: ignore[dict-item]
    return found


def serve() -> None:
    """One of the processes: reads a configuration and a task from stdin, then a line for each run, and answers each.

    The first answer has the facts, those of the runs `ms` and `mib`; or there is `refused`, and why.
    """
    from ahmf_jax.engine import out_of_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at ctrl-C the parent ends this process
    answers = answers_alone()
    work = _work()
    while True:
        try:
            answer = next(work)
        except StopIteration:
            return
        except InputError as problem:
            answer = {"refused": str(problem)}
        except Exception as error:
            if not out_of_memory(error):
                raise
            answer = {"refused": "there is not enough memory: free some, or make the batch or the network smaller"}
        print(json.dumps(answer), file=answers, flush=True)


def _work() -> Iterator[dict[str, Any]]:
    """The answers to what stdin asks."""
    import jax

    setup = json.loads(sys.stdin.readline())
    config, size = configs.from_json(setup["config"]), setup["size"]
    prepared = _inference(config, size) if setup["task"] == "inference" else _training(config)
    memory.forget_peak()
    device = jax.local_devices()[0]
    yield prepared.facts
    for _ in sys.stdin:
        # Untimed: while the other processes ran, caches went cold and the system took free pages back.
        prepared.run()
        start = time.perf_counter()
        prepared.run()
        ms, peak = 1e3 * (time.perf_counter() - start), memory.peak(device)
        yield {"ms": ms, "mib": None if peak is None else peak / MIB}


def _inference(config: TrainConfig, size: tuple[int, int]) -> Prepared:
    """What `ahmf upsample` runs, on an image without holes."""
    import jax

    from ahmf_jax import flops
    from ahmf_jax.engine import Engine
    from ahmf_jax.export import Trained

    model, rng = config.model.build(), np.random.default_rng(0)
    params = random_params(model)
    engine = Engine(Trained(model, params, config.scaling, "m", 1.0))
    height, width = size
    depth = rng.random((height // model.scale, width // model.scale), np.float32)
    known, guide = np.ones(depth.shape, bool), rng.integers(0, 256, (height, width, 3), np.uint8)
    span = np.array([0.0, 1.0], np.float32) if config.scaling == "truth" else None

    def run() -> float:
        start = time.perf_counter()
        engine(depth, known, guide, span=span)
        return time.perf_counter() - start

    first = run()
    shapes = {
        "depth_lr": jax.ShapeDtypeStruct((1, *depth.shape, 1), np.float32),
        "guide": jax.ShapeDtypeStruct((1, height, width, 3), np.float32),
    }
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "inference_gflop": flops.train_flops(model, shapes) / 3 / 1e9,  # of which the forward pass is a third
        "inference_compile_s": max(first - run(), 0.0),
        "hardware": hardware(),
    }
    return Prepared(facts, run)


def _training(config: TrainConfig) -> Prepared:
    """The step that `ahmf train` takes, over the devices that it takes."""
    import jax

    from ahmf_jax import flops
    from ahmf_jax.sharding import choose_mesh, place_batch
    from ahmf_jax.state import create_state
    from ahmf_jax.train import lowered_step

    data, model = config.data, config.model.build()
    rows = data.patch_size // model.scale
    mesh = choose_mesh(config.mesh, data.batch_size // config.accumulate, rows, least_rows=model.least_rows)
    arrays = _batch(data.batch_size, data.patch, model.scale, 3 if model.guided else 0)
    batch = place_batch(arrays, mesh)
    how: dict[str, Any] = {
        "fsdp": config.fsdp,
        "loss": config.loss,
        "edge_weight": config.edge_weight,
        "scaling": config.scaling,
        "ema_decay": config.ema,
        "accumulate": config.accumulate,
        **config.supervision,
    }
    optimiser = config.optimiser.build(config.steps)
    start = time.perf_counter()
    step = lowered_step(create_state(model, optimiser, mesh, abstract=True, **how), batch).compile()
    compile_s = time.perf_counter() - start
    device = mesh.devices.flat[0]
    planned = step.memory_analysis()
    if planned is not None and planned.temp_size_in_bytes > memory.free(device):
        raise InputError(
            f"a training step takes {planned.temp_size_in_bytes / MIB:.0f} MiB, and {memory.free(device) / MIB:.0f} "
            "are free: free some, or make the batch or the network smaller"
        )
    state = create_state(model, optimiser, mesh, **how)

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch))

    run()
    return Prepared({"train_gflop": flops.train_flops(model, arrays) / 1e9, "train_compile_s": compile_s}, run)


def _batch(count: int, size: tuple[int, int], scale: int, channels: int) -> dict[str, np.ndarray]:
    """A batch at random, all of it known."""
    rng, low, high = np.random.default_rng(0), (count, *(n // scale for n in size), 1), (count, *size, 1)
    return {
        "depth_lr": rng.random(low, np.float32),
        "guide": rng.random((count, *size, channels), np.float32),
        "depth_hr": rng.random(high, np.float32),
        "mask_lr": np.ones(low, bool),
        "mask_hr": np.ones(high, bool),
        "depth_span": np.tile(np.array([0, 1], np.float32), (count, 1)),
    }


if __name__ == "__main__":
    serve()
