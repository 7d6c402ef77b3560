"""`ahmf benchmark`: speed, memory, compile time and scaling."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class BenchmarkModel:
    """Inference and training step against the same network in eager PyTorch."""

    rounds: int = 7
    """Timings of each, taken in turn; the medians are compared."""
    threads: int = 2
    """Threads that each may use."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the ratios."""
        from experiments.benchmark import benchmark

        benchmark(self.rounds, self.threads, self.out)


@dataclass(frozen=True)
class BenchmarkData:
    """The loader against a PyTorch DataLoader that does the same work: patches per second, first batch, memory."""

    rounds: int = 5
    """Timings of each, taken in turn; the medians are compared."""
    workers: int = 2
    """Worker processes that each may use."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.benchmark_data import benchmark_data

        benchmark_data(self.rounds, self.workers, self.out)


@dataclass(frozen=True)
class BenchmarkTrain:
    """The training step against the twin's in every way that PyTorch can be told to compute it."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where both compute."""
    rounds: int = 7
    """Timings of each, taken in turn; the medians are compared."""
    threads: int = 2
    """Threads that each may use."""
    scale: int = 4
    """Up-sampling factor."""
    num_levels: int = 4
    """Feature levels, the paper's m."""
    batch: int | None = None
    """Patches in a step (default: 4 on a CPU, 16 on a GPU)."""
    patch: int | None = None
    """Height and width of a patch (default: 128 on a CPU, 256 on a GPU)."""
    arithmetics: tuple[Literal["float32", "tf32", "bfloat16"], ...] = ()
    """What is multiplied (default: float32 on a CPU, all three on a GPU)."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.benchmark_train import benchmark_train

        benchmark_train(
            self.rounds,
            self.threads,
            self.device,
            scale=self.scale,
            num_levels=self.num_levels,
            batch=self.batch,
            patch=self.patch,
            arithmetics=self.arithmetics,
            out=self.out,
        )


@dataclass(frozen=True)
class BenchmarkUpsample:
    """Inference against the twin's in every way and ONNX Runtime; the first call; what large images cost."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where they compute."""
    rounds: int = 7
    """Timings of each, taken in turn; the medians are compared."""
    threads: int = 2
    """Threads that each may use."""
    scale: int = 4
    """Up-sampling factor."""
    num_levels: int = 4
    """Feature levels, the paper's m."""
    features: int = 64
    """Channels of every intermediate feature."""
    shapes: tuple[tuple[int, int, int], ...] = ()
    """Images, height and width of what is timed beside PyTorch (default: 1 480 640; on a GPU also 8, and 1080 1920)."""
    arithmetics: tuple[Literal["float32", "tf32", "bfloat16"], ...] = ()
    """What is multiplied (default: float32 on a CPU, all three on a GPU)."""
    megapixels: tuple[float, ...] = (0.1, 0.5, 2.0, 8.0, 24.0)
    """Sizes, in millions of pixels of the result, of the images of which the cost of a pixel is measured."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the tables."""
        from experiments.benchmark_upsample import benchmark_upsample

        benchmark_upsample(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class BenchmarkMemory:
    """Memory and compile time of the training step for numbers of levels, each in a process of its own."""

    levels: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """The numbers of levels."""
    batch: int = 16
    """Patches in a step."""
    patch: int = 256
    """Height and width of a patch."""
    scale: int = 4
    """Up-sampling factor."""
    features: int = 64
    """Channels of every intermediate feature."""
    remats: tuple[Literal["none", "convs", "blocks"], ...] = ("none", "convs", "blocks")
    """What is computed again in the backward pass."""
    unrolls: tuple[Literal["rolled", "unrolled"], ...] = ("rolled", "unrolled")
    """Whether the levels are a loop."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of the arithmetic."""
    measure: bool = False
    """Also run a step, where the memory that is free holds it, and print what it took."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.benchmark_memory import benchmark_memory

        benchmark_memory(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class BenchmarkScaling:
    """What one device has to do as devices are added, from the compiler's figures; times, where devices are real."""

    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the tables."""
        from experiments.benchmark_scaling import benchmark_scaling

        benchmark_scaling(self.out)


@dataclass(frozen=True)
class Benchmark:
    """Speed, beside PyTorch's and in turn on this machine (needs torch); memory, compile time and scaling."""

    action: (
        Annotated[BenchmarkModel, tyro.conf.subcommand("model")]
        | Annotated[BenchmarkUpsample, tyro.conf.subcommand("upsample")]
        | Annotated[BenchmarkTrain, tyro.conf.subcommand("train")]
        | Annotated[BenchmarkData, tyro.conf.subcommand("data")]
        | Annotated[BenchmarkMemory, tyro.conf.subcommand("memory")]
        | Annotated[BenchmarkScaling, tyro.conf.subcommand("scaling")]
    )

    def __call__(self) -> None:
        """Measures."""
        self.action()
