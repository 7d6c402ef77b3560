"""A small data set and one trained run, made once for all tests of the command line."""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

RECIPE = """
from experiments.config import DataConfig, AHMFConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    # The network that is traced soonest: most of what a training of six steps takes.
    model=AHMFConfig(scale=4, num_levels=1, features=2, fusion="concat", recurrence="none"),
    data=DataConfig(dataset="scenes", patch_size=16, batch_size=8),
    optimiser=OptimiserConfig(learning_rate=1e-3),
    steps=6, scaling="sample", output_scale=0.1, log_every=1, checkpoint_every=2,
    validate_every=2, mesh="data=1",
)
"""
SCENES = {"height": 64, "width": 80, "train": 3, "validation": 1, "test": 2}


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """Equal configurations get one optimiser, and a network's operations are counted once.

    JAX traces a training step again for another optimiser, which takes longer than the six steps of a test.
    """
    from ahmf_jax import flops
    from experiments.config import OptimiserConfig

    counted, count = {}, flops.train_flops

    def train_flops(model, batch):
        key = model, *(batch[name].shape for name in ("depth_lr", "guide"))
        if key not in counted:
            counted[key] = count(model, batch)
        return counted[key]

    with pytest.MonkeyPatch.context() as patch:
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
