"""`ahmf`: one command, its subcommands built from typed dataclasses.

Exit status: 0 done; 2 the user's mistake, one line on stderr; 1 a failure of ours, with its traceback; 75 stopped
by a signal, and resumable. Everything heavy is imported by the command that needs it: `ahmf --help` loads no JAX.
"""

import contextlib
import dataclasses
import io
import itertools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, cast

import tyro

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import PairsConfig, TrainConfig
from experiments.pages import restart_with_large_pages

STOPPED = 75  # EX_TEMPFAIL: try again, with --resume


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
            with _as_options():
                return train(self.config, out, data_dir=self.data_dir, profile=profile)

        self.launched(run)


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on a data set: MAE, RMSE, PSNR and PE of every image, beside interpolation's."""

    weights: tyro.conf.Positional[Path]
    """A run's folder or a .safetensors file; or an interpolation: bicubic (the protocol's), or any kernel's name."""
    dataset: str
    """A data set's name, or a folder of image pairs."""
    split: str | None = None
    """Split of a prepared data set: its own (test, train+validation) or a published one (dada/test); of a folder, the
    folder of that name inside. By default test, and all of a folder that has none of that name."""
    scale: int | None = None
    """Factor of an interpolation; a model has its own."""
    protocol: Literal["ahmf_middlebury", "b6", "float", "run"] | None = None
    """How the numbers are made: rounded to uint8 without a border as AHMF's test program does it (the default for data
    of 0..255); float with a border of 6 as later papers do it; float (the default for other data); or run: float, on
    the low resolution that the run was trained on (--data.degrade.*)."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    out: Path | None = None
    """Also write the numbers to this JSON file."""
    data_dir: Path | None = None
    """Where data sets are prepared."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments import evaluate
        from experiments.data import default_split, open_named, published
        from experiments.upsample import check_place

        if self.out is not None:
            check_place(self.out)
        split = default_split(self.dataset, self.data_dir) if self.split is None else self.split
        dataset = open_named(self.dataset, split, self.data_dir, self.pairs)
        name, protocol = evaluate.choose_protocol(self.protocol, dataset.info.range, self.weights)
        notes = []
        upsampler: Any = evaluate.interpolation(str(self.weights), self.scale, protocol)
        origin = "interpolation" if upsampler else ""
        if upsampler is None:
            from ahmf_jax import scaling, upsample

            upsampler = upsample.load(self.weights)
            origin = upsampler.trained.origin
            if self.scale not in (None, upsampler.scale):
                raise InputError(f"--scale {self.scale}: {self.weights} is a model of x{upsampler.scale}: leave it out")
            if scaling.is_leak(upsampler.trained.scaling):
                origin += ", told the smallest and largest TRUE depth of each image: a leak"
            trained_on = evaluate.trained_on(self.weights)
            if trained_on not in (None, protocol.degrade):
                notes.append(f"note: trained on {trained_on}, measured on {protocol.degrade}; see --protocol run")
        rows = evaluate.evaluate(upsampler, dataset, protocol)
        notes += published(self.dataset, split, dataset, upsampler.scale, self.data_dir)
        print(f"{self.weights} ({origin}), x{upsampler.scale}, on {dataset.info.name}, {split or 'all of it'}")
        print(f"protocol {name}: {protocol}")
        for note in notes:
            print(note)
        print(evaluate.table(rows, dataset.info.unit))
        if self.out is not None:
            evaluate.write_json(
                self.out,
                rows,
                protocol,
                weights=str(self.weights),
                origin=origin,
                scale=upsampler.scale,
                dataset=dataset.info.name,
                split=split or None,
                unit=dataset.info.unit,
            )


@dataclass(frozen=True)
class Upsample:
    """Super-resolve a depth map of one's own with a colour image of the same view."""

    weights: tyro.conf.Positional[Path]
    """A run's folder or a .safetensors file."""
    depth: Path
    """Low-resolution depth: 8- or 16-bit PNG, NPY, PFM or DPT."""
    guide: Path
    """Colour image, the model's scale times as high and wide: PNG, JPEG, BMP, PPM, WebP or NPY."""
    out: Path
    """High-resolution depth, in the dtype and unit of the low: PNG, NPY or PFM."""
    picture: Path | None = None
    """Also write guide, bicubic and result side by side to this PNG."""
    invalid: float | None = None
    """Depth value that means unknown; it stays unknown in the result. May be nan."""
    range: float | None = None
    """Depth that the model takes for 1, if not its training data's (of no effect on models with scaling=sample)."""
    max_pixels: int = 2**24
    """Refuse images that claim more pixels than this; the whole image is held in memory, some 0.6 kB a pixel
    with 64 features."""

    def __call__(self) -> None:
        """Writes the files."""
        from experiments.upsample import upsample_file

        upsample_file(
            self.weights,
            self.depth,
            self.guide,
            self.out,
            picture=self.picture,
            invalid=self.invalid,
            depth_range=self.range,
            max_pixels=self.max_pixels,
        )
        print(self.out)


@dataclass(frozen=True)
class FromTorch:
    """PyTorch weights to this program's: every tensor checked."""

    source: tyro.conf.Positional[Path]
    """The authors' .pth file, or .safetensors with the same names."""
    out: tyro.conf.Positional[Path]
    """The .safetensors file to write."""
    scaling: Literal["range", "sample"] = "range"
    """What the network was trained to see: depth / range, or each sample stretched over its own span."""
    range: float = 255.0
    """The depth that it takes for 1."""
    unit: str = "grey level"
    """The unit of its depth."""

    def __call__(self) -> None:
        """Converts."""
        from experiments.convert import from_torch

        print(from_torch(self.source, self.out, self.scaling, self.range, self.unit))


@dataclass(frozen=True)
class ToTorch:
    """A run's or a converted file's weights to PyTorch, laid out as the authors' program loads them."""

    source: tyro.conf.Positional[Path]
    """A run's folder (its best checkpoint) or a .safetensors file."""
    out: tyro.conf.Positional[Path]
    """The .pth file to write (needs torch), or a .safetensors file with PyTorch's names (does not)."""

    def __call__(self) -> None:
        """Converts."""
        from experiments.convert import to_torch

        print(to_torch(self.source, self.out))


@dataclass(frozen=True)
class Convert:
    """Exchange weights with PyTorch."""

    action: (
        Annotated[FromTorch, tyro.conf.subcommand("from-torch")] | Annotated[ToTorch, tyro.conf.subcommand("to-torch")]
    )

    def __call__(self) -> None:
        """Converts."""
        self.action()


@dataclass(frozen=True)
class Prepare:
    """Build a data set from its download, or generate it: `ahmf data prepare NAME --help` lists its options."""

    name: tyro.conf.Positional[str]
    """The data set's name (`ahmf data list`)."""

    def __call__(self) -> None:
        """Never called: with a name it is a `PrepareSet`."""
        raise AssertionError


Options = TypeVar("Options")


@dataclass(frozen=True)
class PrepareSet(Generic[Options]):
    """Build a data set from its download, or generate it."""

    options: Annotated[Options, tyro.conf.arg(name="")]
    dataset: tyro.conf.Suppress[str]
    source: Annotated[str | None, tyro.conf.arg(name="from", metavar="PATH")] = None  # a Path takes "" to be "."
    """The download: its folder, as it was unpacked or with the archives in it, or one archive. Without it, what may be
    fetched is fetched."""
    name: str | None = None
    """Name under which it is prepared (default: the data set's), so that one can be there with several options."""
    replace: bool = False
    """Put it in the place of a set of that name even where that had other options or more images."""
    data_dir: Path | None = None
    """Where to build it (default: $AHMF_DATA_DIR or the user's cache)."""

    def __call__(self) -> None:
        """Builds it."""
        from data_pipelines import datasets

        place = self.data_dir or datasets.default_data_dir()
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(cast(Any, self.options))}
        how: dict[str, Any] = {"save_as": self.name, "replace": self.replace}
        prepared = datasets.prepare(self.dataset, place, self.source, **how, **options)
        for note in prepared.notes:
            print(note, file=sys.stderr)
        counts = ", ".join(f"{n} {split}" for split, n in prepared.counts.items())
        print(f"{prepared.info.name}: {counts}; `ahmf data show {prepared.info.name}` shows them")


@dataclass(frozen=True)
class ListSets:
    """List the data sets: what they are, unit, range, and which are prepared."""

    data_dir: Path | None = None
    """Where data sets are prepared (default: $AHMF_DATA_DIR or the user's cache)."""

    def __call__(self) -> None:
        """Prints a line each."""
        from data_pipelines.datasets import default_data_dir
        from experiments.show import listed

        for line in listed(self.data_dir or default_data_dir()):
            print(line)


@dataclass(frozen=True)
class ShowSet:
    """Describe a data set: unit, range, licence, counts, holes; and draw a sheet of its images."""

    name: tyro.conf.Positional[str]
    """A data set's name (`ahmf data list`)."""
    split: str | None = None
    """Draw images of this split (default: of all)."""
    images: int = 12
    """How many, evenly spread over the split."""
    out: Path | None = None
    """The sheet, a PNG (default: NAME.png)."""
    data_dir: Path | None = None
    """Where data sets are prepared (default: $AHMF_DATA_DIR or the user's cache)."""

    def __call__(self) -> None:
        """Prints the description and writes the sheet."""
        from data_pipelines.datasets import default_data_dir
        from experiments.show import show

        out = self.out or Path(f"{self.name}.png")
        for line in show(self.name, self.data_dir or default_data_dir(), self.split, self.images, out):
            print(line)


@dataclass(frozen=True)
class Data:
    """Prepare, list and show data sets."""

    action: (
        Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[ListSets, tyro.conf.subcommand("list")]
        | Annotated[ShowSet, tyro.conf.subcommand("show")]
    )

    def __call__(self) -> None:
        """Does it."""
        self.action()


@dataclass(frozen=True)
class Demo:
    """The whole story on generated scenes in minutes: train, evaluate, super-resolve, convert; a page with pictures."""

    out: Path = Path("demo")
    """Folder for the page and everything that it shows; emptied of an earlier demo."""

    def __call__(self) -> None:
        """Runs it."""
        from experiments.demo import demo

        demo(self.out)


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
        | Annotated[BenchmarkTrain, tyro.conf.subcommand("train")]
        | Annotated[BenchmarkData, tyro.conf.subcommand("data")]
        | Annotated[BenchmarkMemory, tyro.conf.subcommand("memory")]
        | Annotated[BenchmarkScaling, tyro.conf.subcommand("scaling")]
    )

    def __call__(self) -> None:
        """Measures."""
        self.action()


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Upsample, tyro.conf.subcommand("upsample")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
)


def one_line(message: str) -> str:
    """What tyro prints in a box, a title above and rules between its sections, as one line."""
    lines = [line.strip(" \u2500\u2502\u256d\u256e\u2570\u256f+|") for line in message.splitlines()[1:]]
    sections = [" ".join(part) for rule, part in itertools.groupby(lines, lambda line: not line.strip("-")) if not rule]
    text = "; ".join(" ".join(section.split()).rstrip(".") for section in sections)
    text = re.sub(r"^Error parsing config[.\w]*: ", "", text)  # where in our classes: the rest names the option
    return re.sub(r"For full helptext, (?:run|see):? (.*)", r"see `\1`", text)


def parse(args: list[str]) -> Any:
    """The command that the arguments describe; a usage error is an InputError of one line."""
    options: dict[str, Any] = {"prog": "ahmf", "description": "Guided depth super-resolution."}
    command: Any = Command
    if args[:1] == ["train"] and len(args) > 1 and not args[1].startswith("-"):
        return _parse_training(args[1], args[2:])
    elif args[:2] == ["data", "prepare"] and len(args) > 2 and not args[2].startswith("-"):
        from data_pipelines import datasets

        chosen: Any = datasets.builder_class(args[2]).Options
        command = PrepareSet[chosen]
        options = {"prog": f"ahmf data prepare {args[2]}", "default": PrepareSet(chosen(), args[2])}
        args = args[3:]
    elif args[:2] == ["data", "prepare"] and not {"--help", "-h"} & set(args):
        from data_pipelines import datasets

        raise InputError(
            f"ahmf data prepare: name the data set first ({', '.join(datasets.DATASETS)}) and its options after it"
        )
    elif args[:1] == ["train"] and args[1:] and not any(a.startswith(("--resume", "--help", "-h")) for a in args):
        raise InputError(
            f"ahmf train {args[1]}: name the configuration first ({', '.join(configs.names())}, or a Python file) and "
            "its options after it, or give --resume RUN"
        )
    return _parsed(command, args, **options)


def _parsed(command: Any, args: list[str], **options: Any) -> Any:
    """What tyro makes of the arguments."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, args=args, config=(tyro.conf.OmitSubcommandPrefixes,), **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(one_line(errors.getvalue()) or "usage: see `ahmf --help`") from None


def _parse_training(name: str, args: list[str]) -> TrainRun:
    """The training that the arguments make of the configuration of that name."""

    def parsed(config: TrainConfig) -> TrainRun:
        return _parsed(TrainRun, args, prog=f"ahmf train {name}", default=TrainRun(config=config, name=name))

    recipe = configs.load(name)
    with _as_options():
        run = parsed(recipe)
        # The recipe's splits are of its own data set; whatever is said of them on the command line still counts.
        other = run.config.data.dataset
        return run if other == recipe.data.dataset else parsed(configs.on_dataset(recipe, other))


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """An error in a configuration names its fields as the command line does: --data.mix for DataConfig.mix."""
    prefixes = {"TrainConfig": "--", "PairsConfig": "--data.pairs.", "Degradation": "--data.degrade."}
    prefixes |= {"ModelConfig": "--model.", "DataConfig": "--data.", "OptimiserConfig": "--optimiser."}
    try:
        yield
    except InputError as error:
        names = rf"\b({'|'.join(prefixes)})\.(\w+)"
        raise InputError(
            re.sub(names, lambda found: prefixes[found[1]] + found[2].replace("_", "-"), str(error))
        ) from None


def main(args: list[str] | None = None) -> None:
    """The console script."""
    if args is None:
        args = sys.argv[1:]
        if args[:1] in (["train"], ["demo"]):
            restart_with_large_pages()
    try:
        parse(args or ["--help"])()
    except InputError as error:
        print(f"ahmf: {' '.join(str(error).split())}", file=sys.stderr)
        logging.disable()  # what libraries log on their way out would bury that line
        _end(2, failure=str(error))
    except KeyboardInterrupt:
        print("ahmf: interrupted", file=sys.stderr)
        _end(130, together=False)
    except BrokenPipeError:  # `ahmf ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end(141, together=False)
    except configs.Stopped as stop:
        from ahmf_jax import distributed

        if distributed.is_main():
            print(f"ahmf: {stop}", file=sys.stderr)
        _end(STOPPED)
    except Exception as error:
        if not _in_the_way():
            raise
        traceback.print_exc()
        _end(1, failure=f"{type(error).__name__}: {error}")


def _in_the_way() -> bool:
    """Whether the program would not end by itself: other processes wait for it, or a compile that nobody waits for."""
    distributed = sys.modules.get("ahmf_jax.distributed")
    return distributed is not None and (distributed.process_count() > 1 or distributed.in_work())


def _end(status: int, **how: Any) -> NoReturn:
    """Ends the program."""
    if _in_the_way():
        from ahmf_jax import distributed

        distributed.leave(status, **how)
    sys.exit(status)


if __name__ == "__main__":
    main()
