"""`ahmf train`."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a training is started on this machine, or on several: none of it changes a number."""

    data_dir: Path | None = None
    """Where data sets are prepared (default: $AHMF_DATA_DIR or the user's cache)."""
    profile: str | None = None
    """Write a trace of these steps, as in 100:110, for TensorBoard or Perfetto, to RUN/profile."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes. On SLURM, Open MPI, Kubernetes and TPU pods they find each other."""
    processes: int | None = None
    """With --coordinator: how many processes train together."""
    process: int | None = None
    """With --coordinator: which of them this is, from 0."""

    def launched(self, run: Callable[[], Path]) -> None:
        """Joins the other processes, if there are any, and trains."""
        from ahmf_jax import distributed

        distributed.initialise(self.coordinator, self.processes, self.process)
        out = run()
        if distributed.is_main():
            print(out)

    def steps(self) -> tuple[int, int] | None:
        """The first and the last step to trace."""
        if self.profile is None:
            return None
        found = re.fullmatch(r"([1-9]\d{0,8}):([1-9]\d{0,8})", self.profile, re.ASCII)
        if found is None or int(found[1]) > int(found[2]):
            raise InputError(f"--profile {self.profile}: write the first and the last step, as in 100:110")
        return int(found[1]), int(found[2])


@dataclass(frozen=True, kw_only=True)
class Train(Launch):
    """Train a model, or go on with a run: `ahmf train CONFIG --help` lists every setting of a configuration."""

    config: tyro.conf.Positional[str | None] = None
    """Name of a configuration, or a Python file."""
    resume: Path | None = None
    """Folder of a run to go on with, exactly where it stopped."""
    mesh: str | None = None
    """With --resume: other devices."""
    fsdp: bool | None = None
    """With --resume: whether parameters and the optimiser's state are split over the devices."""
    on_save_error: Literal["stop", "continue"] | None = None
    """With --resume: what to do when a checkpoint cannot be written."""
    workers: int | None = None
    """With --resume: another number of worker processes. It changes no batch."""
    cache: Literal["disk", "memory"] | None = None
    """With --resume: another place for decoded images. It changes no batch."""
    on_corrupt: Literal["stop", "skip"] | None = None
    """With --resume: what to do when an image cannot be read. It changes no batch of images that can."""

    def __call__(self) -> None:
        """Resumes; a configuration is handled by `TrainRun`."""
        from experiments.train import resume

        run, profile = self.resume, self.steps()
        if run is None:
            raise InputError(f"ahmf train: give a configuration ({', '.join(configs.names())}) or --resume RUN")

        def given(*names: str) -> dict[str, Any]:
            return {name: value for name in names if (value := getattr(self, name)) is not None}

        data, changed = given("workers", "cache", "on_corrupt"), given("mesh", "fsdp", "on_save_error")
        self.launched(lambda: resume(run, data_dir=self.data_dir, profile=profile, data=data, **changed))


@dataclass(frozen=True, kw_only=True)
class TrainRun(Launch):
    """Train by a configuration, any setting of it changed; the same command again goes on where it stopped."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    name: tyro.conf.Suppress[str]
    out: Path | None = None
    """Folder of the run (default: runs/NAME, or NAME-2, NAME-3, ... where that holds another)."""

    def __call__(self) -> None:
        """Trains."""
        from experiments.train import default_out, train

        profile = self.steps()

        def run() -> Path:
            out = self.out or default_out(self.name, self.config)
            with as_options():
                return train(self.config, out, data_dir=self.data_dir, profile=profile)

        self.launched(run)


@contextlib.contextmanager
def as_options() -> Iterator[None]:
    """An error in a configuration names its fields as the command line does: --data.mix for DataConfig.mix."""
    prefixes = {"TrainConfig": "--", "PairsConfig": "--data.pairs.", "Degradation": "--data.degrade."}
    prefixes["Augmentation"] = "--data.augment."
    prefixes |= {"DataConfig": "--data.", "OptimiserConfig": "--optimiser."}
    prefixes |= {cls.__name__: "--model." for cls in configs.MODELS.values()}
    try:
        yield
    except InputError as error:
        names = rf"\b({'|'.join(prefixes)})\.(\w+)"
        raise InputError(
            re.sub(names, lambda found: prefixes[found[1]] + found[2].replace("_", "-"), str(error))
        ) from None
