"""A small data set and one trained run, made once for all tests of the command line."""

import contextlib
import functools
import json
import os
import queue
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

RECIPE = """
from experiments.config import DataConfig, AHMFConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    # The network that is traced soonest: most of what a training of six steps takes.
    model=AHMFConfig(scale=4, num_levels=1, features=2, fusion="concat", recurrence="none"),
    data=DataConfig(dataset="scenes", patch_size=16, batch_size=8),
    # One moment of every parameter: what is saved and read again is most of a training that is compiled already.
    optimiser=OptimiserConfig("lion", learning_rate=1e-3),
    steps=6, scaling="sample", output_scale=0.1, log_every=1, checkpoint_every=2,
    validate_every=2, mesh="data=1",
)
"""
SCENES = {"height": 64, "width": 80, "train": 3, "validation": 1, "test": 2}


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """Equal configurations get one optimiser and one program of lanes, equal networks one program of the engine for
    images of a size, and a network's operations are counted once.

    JAX traces a training step again for another optimiser, which takes longer than the six steps of a test.
    """
    import jax

    from ahmf_jax import flops
    from ahmf_jax.engine import Engine
    from ahmf_jax.together import Lanes
    from experiments.config import OptimiserConfig

    counted, count = {}, flops.train_flops
    jitted, jit = {}, Lanes._program
    programs, compiled = {}, Engine._program

    def train_flops(model, batch):
        key = model, *(batch[name].shape for name in ("depth_lr", "guide"))
        if key not in counted:
            counted[key] = count(model, batch)
        return counted[key]

    def program(self, function, *specs, **options):
        # The step is a function made for the optimiser, whose configuration tells it.
        make = getattr(self._make, "__self__", self._make)
        key = getattr(function, "__name__", ""), make, self._mesh, specs, str(options)
        if key not in jitted:
            jitted[key] = jit(self, function, *specs, **options)
        return jitted[key]

    def of_engine(self, wanted, inputs, shardings):
        def described(tree):
            leaves, structure = jax.tree.flatten(tree)
            return structure, tuple((x.shape, str(x.dtype)) for x in leaves)

        own = wanted, *described(inputs)  # an engine counts its programs
        key = self._model, self._mesh, described(self._params), own
        if key in programs:
            self._programs[own] = programs[key]
        programs[key] = compiled(self, wanted, inputs, shardings)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_program", of_engine)
        patch.setattr(Lanes, "_program", program)
        patch.setattr(OptimiserConfig, "build", functools.cache(OptimiserConfig.build))
        patch.setattr(flops, "train_flops", train_flops)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    from data_pipelines import datasets

    folder = tmp_path_factory.mktemp("data")
    assert datasets.prepare("scenes", folder, **SCENES).counts == {"train": 3, "validation": 1, "test": 2}
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny(recipe):
    from experiments import config

    return config.load(str(recipe))


@pytest.fixture(scope="session")
def run(tmp_path_factory, tiny, data_dir):
    """The folder of a finished run of six steps; tests copy what they change."""
    from experiments.train import train

    return train(tiny, tmp_path_factory.mktemp("runs") / "tiny", data_dir=data_dir)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Small random weights in one file, of a network that takes 255 grey levels for 1; torch.safetensors beside it."""
    import jax
    import numpy as np

    from ahmf_jax import torch_weights
    from ahmf_jax.export import Trained, save_bundle, write_safetensors
    from ahmf_jax.models import AHMF
    from ahmf_jax.state import init_params

    folder = tmp_path_factory.mktemp("bundle")
    model, rng = AHMF(scale=4, num_levels=1, features=2), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(model))
    params = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), shapes)
    save_bundle(folder / "tiny.safetensors", Trained(model, params, "range", "grey level", 255.0, "a test"))
    write_safetensors(folder / "torch.safetensors", torch_weights.to_torch(model, params))
    return folder / "tiny.safetensors"


@pytest.fixture
def pairs(tmp_path):
    """A folder of two images of 4 x 4 whose 2 x 2 blocks are 100 and three times 110; a pixel of the second is 140."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "pairs"
    folder.mkdir()
    first = np.tile(np.array([[100, 110], [110, 110]], np.uint8), (2, 2))
    second = first.copy()
    second[1, 1] = 140
    for name, depth in (("a", first), ("b", second)):
        Image.fromarray(depth).save(folder / f"{name}_depth.png")
        Image.new("RGB", (4, 4)).save(folder / f"{name}_rgb.png")
    return folder


class Lines(queue.SimpleQueue):
    """A pipe between threads: what is printed to it on one side, and read line by line on the other."""

    def write(self, text):
        if text != "\n":  # which `print` writes after the text
            self.put(text)

    def flush(self):
        pass

    def readline(self):
        return self.get(timeout=300)

    def __iter__(self):
        return iter(self.readline, "")


@pytest.fixture
def programs_in_threads(monkeypatch):
    """The programs of a benchmark as threads: a process takes longer to start than it works here.

    That they are processes which answer, and end, is tested of `ahmf benchmark model`.
    """
    import jax
    import torch

    from experiments import benchmark_programs, benchmark_rows

    own = threading.local()

    class Stdin:
        def readline(self):
            return own.requests.readline()

        def __iter__(self):
            return iter(own.requests)

    @contextlib.contextmanager
    def conversation(module, name, env):
        requests, answers = Lines(), Lines()

        def serve():
            own.requests, own.answers = requests, answers
            try:
                benchmark_programs.serve()
            finally:
                answers.put("")

        def ask(request):
            requests.put(json.dumps(request))
            line = answers.readline()
            assert line, f"the {name} program has ended"
            return json.loads(line)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield ask
        finally:
            requests.put("")
            thread.join()

    precision, threads = jax.config.jax_default_matmul_precision, torch.get_num_threads()
    monkeypatch.setattr(benchmark_programs, "conversation", conversation)
    monkeypatch.setattr(benchmark_programs, "answers_alone", lambda: own.answers)
    monkeypatch.setattr(benchmark_programs, "sys", SimpleNamespace(stdin=Stdin()))
    monkeypatch.setattr(
        benchmark_programs, "signal", SimpleNamespace(signal=lambda *_: None, SIGINT=None, SIG_IGN=None)
    )
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(benchmark_rows, "PAUSE_S", 0)
    yield
    jax.config.update("jax_default_matmul_precision", precision)
    torch.set_num_threads(threads)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def ahmf(capsys):
    """Runs a command line in this process; an exception that is no exit passes, and fails the test."""
    from experiments.cli import main

    def call(*args):
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in args])
        except SystemExit as stop:
            code = stop.code or 0
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(ahmf):
    """Runs a command line that must end with status 2 and one line on stderr, in which `said` is found."""

    def call(*args, said):
        ended = ahmf(*args)
        assert ended.code == 2, ended
        assert ended.err.count("\n") == 1 and ended.err.startswith("ahmf: "), ended.err
        assert "Traceback" not in ended.err
        assert re.search(said, ended.err), ended.err
        return ended.err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(name="contents")
def contents_fixture():
    return contents
