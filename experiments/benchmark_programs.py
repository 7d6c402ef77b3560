"""The programs that `ahmf benchmark` compares, this one and its twin in PyTorch above all, each in its own process.

The processes are held to the same processors and threads, given the same weights and images, and warmed up. They are
then asked in turn, for one timed run each behind an untimed one, and while one works the others wait on their pipes:
their ratios are comparable where the times are not. Each also tells the processor time that it took while it waited,
which must be next to nothing for that to hold.

Other work on the same processors does not cancel out: PyTorch's threads wait for each other at the end of every
operation, and lose far more to it than JAX's. The load before the start is therefore reported, and so is the ratio of
the processor times, which with one thread is nearly free of that.

`python -m experiments.benchmark_programs` is such a process, and of no use by itself.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np

from ahmf_jax.errors import InputError
from experiments.config import MODELS

INFERENCE, TRAINING = "inference", "training step"
# Threads of either program look for new work for a moment before they sleep: nobody is timed meanwhile.
PAUSE_S = 0.2
QUIET = 0.5  # load average above which the machine has other work
# By which the step makes the truths of the stages.
STAGE_KERNEL = "torch_bilinear"

# "jax" is the network as it is compiled, "engine" what `ahmf_jax.load` calls it through, from NumPy to NumPy.
Program = Literal["jax", "engine", "torch", "onnxruntime"]
Device = Literal["cpu", "gpu"]
# The networks that there are twins of, but for the DADA, most of whose time is its loop's (`ahmf benchmark diffusion`).
Network = Literal["ahmf", "dsdmsr", "dscsan"]
# What is multiplied, as in `ahmf_jax.flops`; sums, weights and results are float32 (PyTorch calls bfloat16's AMP).
Arithmetic = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class Sizes:
    """What is timed: a network on `images` of `height` x `width`, and on `batch` patches of `patch` x `patch`.

    The network is AHMF's release, with its `num_levels` and `features`; a DSDMSR of that `unit`; or a DSCSAN of so many
    `groups`, `blocks` and `features`.
    """

    scale: int = 4
    num_levels: int = 4
    features: int = 64
    groups: int = 1
    blocks: int = 2
    height: int = 480
    width: int = 640
    batch: int = 4
    patch: int = 128
    images: int = 1
    network: Network = "ahmf"
    unit: Literal["srcnn", "vdsr"] = "srcnn"

    @property
    def fields(self) -> dict[str, Any]:
        """Of the network, the same in both programs."""
        known = vars(self)
        return {f.name: known[f.name] for f in dataclasses.fields(MODELS[self.network]) if f.name in known}

    @property
    def guide_channels(self) -> int:
        """Of the images' guides."""
        return 3 if MODELS[self.network].guided else 0

    @property
    def stages(self) -> int:
        """How many maps the network makes on its way, all of which a training step supervises with weight 1."""
        return MODELS[self.network](**self.fields).stages

    @property
    def attends(self) -> bool:
        """Whether the network has an attention that it can be timed without."""
        return hasattr(MODELS[self.network](), "attention")

    @property
    def summary(self) -> str:
        """Of the network, for a line."""
        from ahmf_jax.models import MODELS as NETWORKS

        model = NETWORKS[self.network](**self.fields)
        name, said = type(model).__name__, model.summary()
        return said if said.startswith(name) else f"{name} {said}"


@dataclass(frozen=True)
class Setting:
    """A program, and how it is told to compute."""

    program: Program
    arithmetic: Arithmetic = "float32"
    device: Device = "cpu"
    compiled: bool = False  # torch.compile
    channels_last: bool = False  # PyTorch's name for NHWC, which JAX has always
    attention: bool = True  # of a DSCSAN in JAX; without, it tells what the attention takes
    environment: dict[str, str] = field(default_factory=dict)  # variables on top of this process's


class Task(NamedTuple):
    """`run` is timed, and returns when all is computed; `result` makes the numbers to compare of what it returns."""

    run: Callable[[], Any]
    result: Callable[[Any], np.ndarray]
    # Told with the first answer.
    facts: dict[str, Any]


class Tasks(NamedTuple):
    """What a program can do."""

    make: dict[str, Callable[[], Task]]
    # Bytes of device memory that the last run held at its most; None where nothing tells.
    peak_memory: Callable[[], int | None]
    # Called before a timed run, and after it.
    before: Callable[[], None]
    after: Callable[[], None]


Ask = Callable[[dict[str, Any]], dict[str, Any]]


def check(command: str, rounds: int, threads: int) -> None:
    """Refuses what cannot be measured here.

    Raises:
      InputError: torch is not installed, `rounds` or `threads` is not possible here.
    """
    available = len(processors())
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: give at least 1")
    if not 1 <= threads <= available:
        raise InputError(f"--threads {threads}: this process may use {available}: give 1 to {available}")
    if importlib.util.find_spec("torch") is None:
        raise InputError(f"ahmf benchmark {command}: torch is not installed: pip install 'ahmf-jax[torch]'")


def machine(threads: int) -> dict[str, Any]:
    """What the numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "torch", "numpy")}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": processor_name(),
        "threads": threads,
        "load": load,
        "versions": {"python": platform.python_version(), **versions},
    }


def processor_name() -> str:
    """The processor's model where Linux tells it, its architecture otherwise."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        info = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), name)
    return name


def verdict(met: bool) -> str:
    """How a target ends in a table."""
    return "met" if met else "MISSED"


def processors() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def environment(threads: int | None = None) -> dict[str, str]:
    """This process's, with which a child finds these packages, and has that many threads."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "NPROC", "PJRT_NPROC"), str(threads))
    return {**os.environ, "PYTHONPATH": path, **limits}


def answer_of(module: str, request: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    """What `python -m module` answers, the last line that it prints, to a request on its stdin; both are JSON.

    Raises:
      RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=env,
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the process of {request} ended with status {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def worker(setting: Setting, sizes: Sizes, threads: int, folder: Path) -> Iterator[Ask]:
    """Starts a program, and gives the function that sends it a request and waits for the answer.

    Args:
      setting: of the program.
      sizes: of the network and its images.
      threads: that it may use.
      folder: for files of all programs: PyTorch writes the weights there, so start it first; JAX reads them.

    Raises:
      InputError: the program finds no such device.
      RuntimeError: it ended.
    """
    # One device, whatever the caller's tests or cluster ask for: several would share the threads. And what either
    # compiler keeps is kept here, so that all of it is compiled in every run, and nothing is left behind.
    env = environment(threads) | {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder)}
    # Inductor's helpers would be other processes, that take processor time unseen.
    env |= {"JAX_NUM_CPU_DEVICES": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if setting.device == "cpu":
        env["JAX_PLATFORMS"] = "cpu"
    else:
        env.pop("JAX_PLATFORMS", None)  # several programs share the card, so none takes it whole
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    with conversation("experiments.benchmark_programs", setting.program, env | setting.environment) as ask:
        setup = {"setting": asdict(setting), "sizes": asdict(sizes), "threads": threads, "folder": str(folder)}
        missing = ask(setup)["missing"]
        if missing:
            raise InputError(f"--device {setting.device}: {missing}")
        yield ask


@contextlib.contextmanager
def conversation(module: str, name: str, env: dict[str, str]) -> Iterator[Ask]:
    """Runs `python -m module` for as long as it has something to be asked; requests and answers are lines of JSON.

    Args:
      module: which.
      name: of the process, for its error.
      env: its environment.

    Raises:
      RuntimeError: by the function that is given, where the process ended.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # it ended, which shows below
            print(json.dumps(request), file=requests, flush=True)
        line = answers.readline()
        if not line:
            status = process.wait()
            raise RuntimeError(f"the {name} process ended with status {status}; its messages are above")
        return json.loads(line)

    try:
        yield ask
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            requests.close()
        answers.close()


def answers_alone() -> TextIO:
    """This process's stdout, for its answers; what a library prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def serve() -> None:
    """One of the processes: reads the setup and then requests from stdin, a JSON line each, and answers them.

    A request names a `task` to run twice, the second time timed, `steps` times back to back if it says so; it may name
    a file to `save` the first run's result in, and say that the task `may_fail`. The answer holds `ms` and `cpu_ms` (of
    all threads) of one step, `idle_cpu_ms` (processor time since the last answer), `peak_memory`, and, with `save`, the
    task's facts; or, where it failed, the `error`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at ctrl-C the parent ends this process
    answers = answers_alone()
    setup = json.loads(sys.stdin.readline())
    setting, sizes = Setting(**setup["setting"]), Sizes(**setup["sizes"])
    # Before either library is imported and counts processors.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors()[: setup["threads"]])
    make = {"jax": _jax_tasks, "engine": _engine_tasks, "torch": _torch_tasks, "onnxruntime": _onnx_tasks}[
        setting.program
    ]
    try:
        tasks = make(setting, sizes, setup["threads"], Path(setup["folder"]) / "weights.npz")
    except NoDevice as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"missing": None}), file=answers, flush=True)
    made: dict[str, Task] = {}
    idle_since = None
    for line in sys.stdin:
        request = json.loads(line)
        waited = time.process_time()
        answer: dict[str, Any] = {"idle_cpu_ms": 1e3 * (waited - idle_since) if idle_since else 0.0}
        try:
            if request["task"] not in made:
                made[request["task"]] = tasks.make[request["task"]]()
            task = made[request["task"]]
            # Untimed: while the other programs ran, caches went cold and the system took free pages back. Training and
            # repeated inference are back to back, and so is what is timed.
            value = task.run()
            if "save" in request:
                np.save(request["save"], task.result(value))
                answer |= task.facts
            answer |= _timed(task, tasks, request.get("steps", 1))
        except Exception as error:
            if not request.get("may_fail"):
                raise
            answer["error"] = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        tasks.after()
        print(json.dumps(answer), file=answers, flush=True)
        idle_since = time.process_time()


def _timed(task: Task, tasks: Tasks, steps: int) -> dict[str, Any]:
    tasks.before()
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(steps):
        task.run()
    ms, cpu_ms = 1e3 * (time.perf_counter() - start) / steps, 1e3 * (time.process_time() - cpu) / steps
    return {"ms": ms, "cpu_ms": cpu_ms, "peak_memory": tasks.peak_memory()}


class NoDevice(Exception):
    """The program finds no device of the kind asked for."""


def random_params(model: Any) -> Any:
    """Weights at random that keep the size of what passes through, NumPy arrays: Flax would compile to draw them."""
    import jax

    from ahmf_jax.state import init_params

    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if "prelu" in jax.tree_util.keystr(path):
            return np.full(leaf.shape, 0.25, np.float32)
        if leaf.ndim < 4:
            return np.zeros(leaf.shape, np.float32)
        fan_in = math.prod(leaf.shape[-4:-1])
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: init_params(model)))


def _nothing() -> None:
    pass


def _image_and_batch(sizes: Sizes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same random numbers in all processes, NHWC: images, and a batch for training."""
    rng = np.random.default_rng(0)

    def draw(count: int, height: int, width: int) -> dict[str, np.ndarray]:
        low = (count, height // sizes.scale, width // sizes.scale, 1)
        return {
            "depth_lr": rng.random(low, np.float32),
            "guide": rng.random((count, height, width, sizes.guide_channels), np.float32),
            "depth_hr": rng.random((count, height, width, 1), np.float32),
            "mask_lr": np.ones(low, bool),
            "mask_hr": rng.random((count, height, width, 1)) < 0.9,
        }

    return draw(sizes.images, sizes.height, sizes.width), draw(sizes.batch, sizes.patch, sizes.patch)


def _jax_tasks(setting: Setting, sizes: Sizes, threads: int, weights: Path) -> Tasks:
    """This program's two tasks: what `ahmf upsample` runs on a tile, and the step that `ahmf train` takes."""
    import jax
    import jax.numpy as jnp
    import optax

    from ahmf_jax import flops, torch_weights
    from ahmf_jax.sharding import make_mesh, replicated
    from ahmf_jax.state import TrainState
    from ahmf_jax.train import lowered_step

    if jax.default_backend() != setting.device:
        raise NoDevice(f"JAX finds no {setting.device.upper()}, only {jax.default_backend()}: install jax[cuda12]")
    jax.config.update("jax_default_matmul_precision", "highest" if setting.arithmetic == "float32" else None)
    with np.load(weights) as file:
        model, params = torch_weights.from_torch(dict(file))
    if not setting.attention:
        model, params = _without_attention(model, params)
    if setting.arithmetic == "bfloat16":
        model = model.clone(dtype=jnp.bfloat16)
    image, batch = _image_and_batch(sizes)
    device = jax.local_devices()[0]

    def inference() -> Task:
        own, given = jax.tree.map(jnp.asarray, (params, image))
        apply = jax.jit(lambda params, depth_lr, guide: model.apply({"params": params}, depth_lr, guide)[0])
        facts = {"device": device.device_kind}
        return Task(lambda: apply(own, given["depth_lr"], given["guide"]).block_until_ready(), np.ravel, facts)

    def training() -> Task:
        given = jax.tree.map(jnp.asarray, batch)
        how: dict[str, Any] = {"stage_weights": (1.0,) * sizes.stages, "stage_kernel": STAGE_KERNEL}
        state = TrainState.start(jax.tree.map(jnp.array, params), model, optax.adam(1e-4), **how)
        state = jax.device_put(state, replicated(make_mesh(devices=[device])))
        start = time.perf_counter()
        step = lowered_step(state, given).compile()
        compile_s = time.perf_counter() - start
        total, meaning = flops.peak([device], model.dtype)
        facts = {
            "compile_s": compile_s,
            "planned_memory": _planned(step.memory_analysis()),
            "flops": flops.train_flops(model, given),
            "peak_flops": total,
            "peak": meaning,
        }

        def train() -> Any:
            nonlocal state
            state, metrics = jax.block_until_ready(step(state, given))
            return metrics

        return Task(train, lambda metrics: np.array([metrics["loss"], metrics["grad_norm"]]), facts)

    def peak_memory() -> int | None:
        """Since the process began, the search for the fastest algorithms included: JAX cannot forget it."""
        stats = device.memory_stats()  # None on the CPU
        return None if stats is None else stats["peak_bytes_in_use"]

    return Tasks({INFERENCE: inference, TRAINING: training}, peak_memory, _nothing, _nothing)


def _engine_tasks(setting: Setting, sizes: Sizes, threads: int, weights: Path) -> Tasks:
    """Inference as a user has it: from arrays of NumPy to arrays of NumPy."""
    import jax

    from ahmf_jax.engine import Engine

    if jax.default_backend() != setting.device:
        raise NoDevice(f"JAX finds no {setting.device.upper()}, only {jax.default_backend()}: install jax[cuda12]")
    jax.config.update("jax_default_matmul_precision", "highest" if setting.arithmetic == "float32" else None)
    trained = _trained(weights)
    image, _ = _image_and_batch(sizes)
    depth, known, guide = image["depth_lr"][..., 0], image["mask_lr"][..., 0], image["guide"]

    def inference() -> Task:
        engine = Engine(trained)
        return Task(lambda: engine(depth, known, guide), np.ravel, {})

    return Tasks({INFERENCE: inference}, lambda: None, _nothing, _nothing)


def _onnx_tasks(setting: Setting, sizes: Sizes, threads: int, weights: Path) -> Tasks:
    """Inference by ONNX Runtime on the CPU, of the graph that `ahmf export onnx` writes."""
    import onnxruntime

    from ahmf_jax import onnx_graph

    graph = onnx_graph.build(_trained(weights)).SerializeToString()
    image, _ = _image_and_batch(sizes)

    def inference() -> Task:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        given = {taken.name: np.moveaxis(image[taken.name], -1, 1).copy() for taken in session.get_inputs()}
        return Task(lambda: session.run(None, given)[0], np.ravel, {})

    return Tasks({INFERENCE: inference}, lambda: None, _nothing, _nothing)


def _trained(weights: Path) -> Any:
    """The model of the twin's weights; depth is in units of the range."""
    from ahmf_jax import torch_weights
    from ahmf_jax.export import Trained

    with np.load(weights) as file:
        model, params = torch_weights.from_torch(dict(file))
    return Trained(model, params, "range", "m", 1.0)


def _without_attention(model: Any, params: Any) -> tuple[Any, Any]:
    """The same network and weights but for the attention's."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    kept = {path: w for path, w in flatten_dict(params).items() if not any("attention" in part for part in path)}
    return model.clone(attention=False), unflatten_dict(kept)


def _planned(plan: Any) -> int | None:
    """Bytes that a compiled program holds at its most, by the compiler's account."""
    if plan is None:
        return None
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes


def _torch_tasks(setting: Setting, sizes: Sizes, threads: int, weights: Path) -> Tasks:
    """The twin's two tasks; writes its weights to the file `weights`."""
    import torch

    from ahmf_jax import torch_modules

    on_gpu = setting.device == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise NoDevice("PyTorch finds no GPU: install its CUDA build")
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    made: Any = {
        "ahmf": torch_modules.AHMF,
        "dsdmsr": torch_modules.DSDMSR,
        "dscsan": torch_modules.DSCSAN,
    }[sizes.network]
    twin = made(**sizes.fields)
    for weight in twin.parameters():
        if weight.ndim == 4:  # so that the size of what passes through is about kept
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
    np.savez(weights, **{name: value.numpy() for name, value in twin.state_dict().items()})
    # PyTorch's default is TF32 for convolutions and float32 for products.
    tf32 = setting.arithmetic == "tf32"
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.benchmark = True  # the fastest algorithm for each size, found by trying
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    amp = torch.autocast(device.type, torch.bfloat16, enabled=setting.arithmetic == "bfloat16")

    def network() -> Any:
        own = made(**sizes.fields)
        own.load_state_dict(twin.state_dict())
        return own.to(device).to(memory_format=layout)  # type: ignore[call-overload]

    def placed(arrays: dict[str, np.ndarray]) -> dict[str, Any]:  # NCHW
        tensors = {name: torch.from_numpy(np.moveaxis(value, -1, 1).copy()) for name, value in arrays.items()}
        return {name: tensor.to(device, memory_format=layout) for name, tensor in tensors.items()}

    def finish() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    image, batch = _image_and_batch(sizes)

    def inference() -> Task:
        own, given = network().eval(), placed(image)
        run = torch.compile(own) if setting.compiled else own

        def infer() -> Any:
            with torch.inference_mode(), amp:
                depth = run(given["depth_lr"], given["guide"])
            finish()
            return depth

        return Task(infer, lambda depth: depth.float().cpu().numpy().ravel(), {})

    def training() -> Task:
        own, given = network(), placed(batch)
        called = own.trace if sizes.stages else own
        run = torch.compile(called) if setting.compiled else called
        optimiser = torch.optim.Adam(own.parameters(), lr=1e-4)
        truth, mask = given["depth_hr"], given["mask_hr"]
        pixels = int(batch["mask_hr"].sum())

        def mean_error(depth: Any, target: Any, known: Any) -> Any:
            return torch.where(known, (depth.float() - target).abs(), 0.0).sum() / known.sum()

        def error_of(stage: Any) -> Any:
            target, known = (
                torch.nn.functional.interpolate(x, stage.shape[2:], mode="bilinear") for x in (truth, mask.float())
            )
            return mean_error(stage, target, known == 1)

        def train() -> Any:
            optimiser.zero_grad()
            with amp:
                if sizes.stages:
                    depth, stages, *_ = run(given["depth_lr"])
                else:
                    depth, stages = run(given["depth_lr"], given["guide"]), ()
            loss = sum(map(error_of, stages), start=mean_error(depth, truth, mask))
            # Of the sum over the pixels, as Adam takes no notice of the factor. oneDNN's convolutions add up a bias'
            # gradient pixel by pixel in float32. Of the mean each pixel adds the same 1 / pixels, and what is rounded
            # away adds up too, to a percent of a bias' gradient at a million pixels. Ones add up exactly.
            (loss * pixels).backward()
            optimiser.step()
            finish()
            return loss

        def loss_and_norm(loss: Any) -> np.ndarray:
            norm = torch.stack([w.grad.norm() for w in own.parameters() if w.grad is not None]).norm()
            return np.array([loss.item(), norm.item() / pixels])

        return Task(train, loss_and_norm, {})

    return Tasks(
        {INFERENCE: inference, TRAINING: training},
        torch.cuda.max_memory_allocated if on_gpu else lambda: None,
        torch.cuda.reset_peak_memory_stats if on_gpu else _nothing,
        torch.cuda.empty_cache if on_gpu else _nothing,  # or the next program would find no room
    )


if __name__ == "__main__":
    serve()
