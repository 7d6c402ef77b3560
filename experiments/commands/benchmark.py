"""`ahmf benchmark`: speed, memory, compile time, scaling; filters, robustness and rendering."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.config import PairsConfig


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
class BenchmarkNetwork:
    """What is timed beside PyTorch, and how often."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where they compute."""
    rounds: int = 7
    """Timings of each, taken in turn; the medians are compared."""
    threads: int = 2
    """Threads that each may use."""
    network: Literal["ahmf", "dsdmsr", "dscsan"] = "ahmf"
    """Which network."""
    scale: int = 4
    """Up-sampling factor."""
    num_levels: int | None = None
    """Feature levels of an AHMF, the paper's m (default: 4)."""
    features: int | None = None
    """Channels of every intermediate feature of an AHMF (default: 64) or a DSCSAN (default: 32)."""
    groups: int | None = None
    """Groups of blocks in every stage of a DSCSAN (default: 1)."""
    blocks: int | None = None
    """Blocks in a group of a DSCSAN (default: 2)."""
    unit: Literal["srcnn", "vdsr"] | None = None
    """Units of a DSDMSR (default: srcnn)."""


@dataclass(frozen=True)
class BenchmarkTrain(BenchmarkNetwork):
    """The training step against the twin's in every way that PyTorch can be told to compute it."""

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

        benchmark_train(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class BenchmarkUpsample(BenchmarkNetwork):
    """Inference against the twin's in every way and ONNX Runtime; the first call; what large images cost."""

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
class BenchmarkTogether:
    """Small training runs in one program against the same runs one after the other."""

    trials: int = 8
    """The runs."""
    scale: int = 4
    """Up-sampling factor."""
    num_levels: int = 2
    """Feature levels, the paper's m."""
    features: int = 8
    """Channels of every intermediate feature."""
    batch: int = 4
    """Patches in a step of a run."""
    patch: int = 32
    """Height and width of a patch."""
    rounds: int = 5
    """Timings of each, taken in turn; the medians are compared."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.benchmark_together import Sizes, benchmark_together

        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out = given.pop("out")
        benchmark_together(Sizes(**given), out)


@dataclass(frozen=True)
class BenchmarkDiffusion:
    """DADA's loop: what it keeps, its speed and memory beside PyTorch's, and how it converges."""

    depth: Path | None = None
    """Depth, known everywhere, of which the middle is taken (default: a generated scene)."""
    guide: Path | None = None
    """The colour image of `--depth`."""
    scale: int = 8
    """Up-sampling factor."""
    size: int = 256
    """Height and width of the sample."""
    iterations: int = 9024
    """Of the loop that is timed."""
    after: int = 1024
    """Iterations that a gradient passes, in the figures of memory and of the implicit gradient."""
    batch: int = 8
    """Samples of the gradient whose memory is told."""
    rounds: int = 3
    """Timings of each, taken in turn; the medians are compared."""
    threads: int = 2
    """Threads that each may use."""
    reference: Path | None = None
    """NPZ file of the authors' results to compare with: guide, source, mask_lr, y_bicubic, K, iterations, y_pred."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __call__(self) -> None:
        """Prints the tables."""
        from experiments.benchmark_diffusion import Sizes, benchmark_diffusion

        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        files = {name: given.pop(name) for name in ("depth", "guide", "reference", "out")}
        benchmark_diffusion(Sizes(**given), **files)


@dataclass(frozen=True)
class BenchmarkBaselines:
    """Search the parameters of the filters that need no training, on training scenes alone."""

    dataset: str = "middlebury"
    """A data set's name, or a folder of image pairs."""
    split: str = "train"
    """The split; none that is called a test. Scenes that any published split tests on are passed over."""
    scale: tuple[int, ...] = (4, 8, 16)
    """The factors."""
    methods: tuple[str, ...] = ()
    """The filters (default: all)."""
    images: int = 6
    """So many images, at even distances in the split; of each, the middle."""
    noise: tuple[Literal["clean", "noisy"], ...] = ("clean", "noisy")
    """Without noise (protocol ahmf_table1), and with noise of 5 grey levels (ahmf_table2)."""
    data_dir: Path | None = None
    """Where data sets are prepared."""
    out: Path | None = None
    """Also write what was found to this JSON file."""

    def __call__(self) -> None:
        """Prints the table, and the literal for `ahmf_jax/models/classical.py`."""
        from experiments.baselines import benchmark_baselines

        benchmark_baselines(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class BenchmarkRobustness:
    """How errors grow with a shift or blur of the guide, noise, and missing samples, one at a time."""

    methods: tyro.conf.Positional[tuple[str, ...]]
    """Runs, weights, interpolations (bicubic, nearest, ...) and filters (guided_filter, ...), all of one scale."""
    dataset: str
    """A data set's name, or a folder of image pairs."""
    split: str | None = None
    """Split of a prepared data set; of a folder, the folder of that name inside. By default as `ahmf evaluate`."""
    scale: int | None = None
    """The factor (default: that of the trained models)."""
    guide_shift: tuple[int, ...] = (1, 2, 4, 8)
    """Pixels by which the guide lies too far to the right. No effect at all is always measured, here and below."""
    noise: tuple[float, ...] = (1, 2, 5, 10, 20)
    """Standard deviations of Gaussian noise on the low resolution, in 255ths of the range."""
    dropouts: tuple[float, ...] = (5, 10, 20, 40, 80)
    """Low-resolution samples that are missing, in %."""
    guide_blur: tuple[float, ...] = (1, 2, 4, 8)
    """Standard deviations of the guide's blur, in pixels."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    out: Path | None = None
    """Also write the numbers to this JSON file."""
    plot: Path | None = None
    """Also draw the mean absolute errors: this name with .svg, and with .png."""
    data_dir: Path | None = None
    """Where data sets are prepared."""

    def __call__(self) -> None:
        """Prints the tables."""
        from experiments.robustness import benchmark_robustness

        benchmark_robustness(self)


@dataclass(frozen=True)
class BenchmarkRendering:
    """Second views synthesised from super-resolved disparity: PSNR against the real ones (the paper's Table V)."""

    methods: tyro.conf.Positional[tuple[str, ...]]
    """Runs, weights, interpolations (bicubic, nearest, ...) and filters (guided_filter, ...), all of one scale."""
    dataset: str = "middlebury"
    """A data set with both views of each scene and disparity: Middlebury, under the name that it was prepared by."""
    split: str | None = None
    """Its split."""
    scale: int | None = None
    """The factor (default: that of the trained models)."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""
    data_dir: Path | None = None
    """Where data sets are prepared."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.rendering import benchmark_rendering

        benchmark_rendering(self)


@dataclass(frozen=True)
class Benchmark:
    """Speed, beside PyTorch's and in turn on this machine (needs torch); memory, compile time, scaling; many
    runs in one program; DADA's loop; filters' parameters; robustness; rendering."""

    action: (
        Annotated[BenchmarkModel, tyro.conf.subcommand("model")]
        | Annotated[BenchmarkUpsample, tyro.conf.subcommand("upsample")]
        | Annotated[BenchmarkTrain, tyro.conf.subcommand("train")]
        | Annotated[BenchmarkData, tyro.conf.subcommand("data")]
        | Annotated[BenchmarkMemory, tyro.conf.subcommand("memory")]
        | Annotated[BenchmarkScaling, tyro.conf.subcommand("scaling")]
        | Annotated[BenchmarkTogether, tyro.conf.subcommand("together")]
        | Annotated[BenchmarkDiffusion, tyro.conf.subcommand("diffusion")]
        | Annotated[BenchmarkBaselines, tyro.conf.subcommand("baselines")]
        | Annotated[BenchmarkRobustness, tyro.conf.subcommand("robustness")]
        | Annotated[BenchmarkRendering, tyro.conf.subcommand("rendering")]
    )

    def __call__(self) -> None:
        """Measures."""
        self.action()
