"""What a training run is made of: frozen dataclasses, checked when they are made, and read from JSON as from Python.

A configuration is a Python file that assigns one `TrainConfig` to `config`. Those in `experiments/configs`
are known by name. This module imports neither JAX nor a data set, only NumPy.
"""

import dataclasses
import functools
import inspect
import math
import re
import runpy
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from ahmf_jax import dscsan_forms, variants
from ahmf_jax.errors import InputError
from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation, Kernel
from data_pipelines.fields import check, check_value, hints, parts, rule

if TYPE_CHECKING:
    import optax

    from ahmf_jax.models import AHMF, DADA, DSCSAN, DSDMSR

CONFIGS = Path(__file__).parent / "configs"

# Names of `experiments.protocols`, written out, as a command's help needs no more of it; a test compares. Those of
# whole images, each of which has its number:
WholeImages = Literal[
    "run",
    "float",
    "area",
    "ahmf_table1",
    "ahmf_table2",
    "ahmf_table3",
    "ahmf_table4",
    "b6",
    "dscsan",
    "dscsan_noisy",
    "dsdmsr",
    "dsdmsr_dtu",
]
ProtocolName = Literal[WholeImages, "dada"]
# The optimisers of `OptimiserConfig.build` that can leave parameters out of their weight decay; a test compares.
DECAYING = ("adadelta", "adamaxw", "adamw", "adan", "lamb", "lars", "lion", "muon")


class Stopped(Exception):
    """A signal stopped a run after it was saved; the message says how to go on."""


@dataclass(frozen=True)
class AHMFConfig:
    """The network: the fields of `ahmf_jax.models.AHMF`."""

    name: ClassVar[str] = "ahmf"
    guided: ClassVar[bool] = True  # as the model's
    stages: ClassVar[int] = 0  # what it makes of them on its way, for `TrainConfig.stage_weights`
    corrects: ClassVar[bool] = True  # up-sampled depth, at its end, for `TrainConfig.output_scale`

    scale: Literal[2, 4, 8, 16, 32] = 4
    """Up-sampling factor."""
    num_levels: int = field(default=4, metadata=rule(above=0))
    """Feature levels, the paper's m."""
    features: int = field(default=64, metadata=rule(least=2, multiple=2))
    """Channels of every intermediate feature."""
    variant: Literal["release", "paper"] = "release"
    """The authors' program, or the paper's equations."""
    swapped: tuple[variants.Part, ...] = ()
    """Parts that are as in the other one."""
    fusion: Literal["feb_frb", "feb", "frb", "concat"] = "feb_frb"
    """The blocks of the fusion (Table VI)."""
    recurrence: Literal["both", "forward", "backward", "none"] = "both"
    """The directions of the recurrence over the levels (Table VI)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; the parameters are float32."""
    unroll: int | Literal["auto"] = field(default="auto", metadata=rule(above=0))
    """Steps of the recurrence unrolled: all on the CPU and 1 elsewhere by default."""
    remat: Literal["none", "convs", "blocks"] = "none"
    """What the backward pass computes again to save memory: nothing; all but the results of convolutions and matrix
    products; or all inside the network's blocks, which saves most."""

    def __post_init__(self) -> None:
        """Checks the choices; the rest is checked by the model."""
        check(self)
        try:
            object.__setattr__(self, "swapped", variants.Forms(self.variant, self.swapped).swapped)
            variants.check_blocks(self.swapped, self.fusion, self.recurrence)
        except InputError as error:
            raise InputError(f"AHMFConfig.{error}") from None

    def summary(self) -> str:
        """In a few words, for a line."""
        return f"x{self.scale}, m = {self.num_levels}, {self.features} features, {self.variant}, {self.dtype}"

    def build(self) -> "AHMF":
        """The module."""
        import jax.numpy as jnp

        from ahmf_jax.models import AHMF

        return AHMF(**{**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)})


@dataclass(frozen=True)
class DADAConfig:
    """The learned DADA: the fields of `ahmf_jax.models.DADA`."""

    name: ClassVar[str] = "dada"
    guided: ClassVar[bool] = True
    stages: ClassVar[int] = 0
    corrects: ClassVar[bool] = False

    scale: Literal[2, 4, 8, 16, 32] = 8
    """Up-sampling factor."""
    encoder: Literal["resnet50", "resnet18"] = "resnet50"
    """Of the network that the features are from; the paper has ResNet-50."""
    encoder_weights: str = ""
    """ImageNet's: a torchvision ResNet's state dict, .safetensors or .pth. The encoder starts at random without."""
    channels: int = field(default=64, metadata=rule(above=0))
    """Features that the conductances are made of."""
    enlarge: Literal[1, 2] = 2
    """How much larger the network sees the image than it is."""
    initial: Literal["cubic", "griddata", "constant"] = "cubic"
    """What the diffusion begins with: the low resolution up-sampled by cubic convolution, by the authors' cubic on
    triangles (slow), or a constant. The network sees the up-sampled depth in any case."""
    contrast: float = field(default=0.03, metadata=rule(above=0))
    """The paper's K at the start: a difference of features of so much halves a conductance. It is learned."""
    rate: float = field(default=0.24, metadata=rule(above=0, most=0.25))
    """The paper's lambda, the share that flows in an iteration; above 0.25 the diffusion is not stable."""
    iterations: int = field(default=8000, metadata=rule(least=0, most=10**6))
    """The first ones, without gradient; in training their number is drawn below it, anew for each batch."""
    gradient_iterations: int = field(default=1024, metadata=rule(above=0, most=10**6))
    """The last ones, through which the gradient goes."""
    gradient: Literal["unrolled", "implicit"] = "unrolled"
    """Through the last iterations, or that of the fixed point, which takes less memory and wants it to be reached."""
    tolerance: float = field(default=0.0, metadata=rule(least=0, below=1))
    """The first iterations end when the largest relative change over 64 of them is below it; 0: never."""
    start: Literal["fine", "coarse"] = "fine"
    """Whether the diffusion begins at full resolution, or on coarser grids, which takes fewer iterations."""
    shift: Literal["sample", "batch"] = "sample"
    """Depth that is nearly 0 is raised: in a sample that has some among its known, or, as the authors' program does,
    in all of a batch with a sample that has, holes counting as 0."""
    batch_norm: Literal["global", "local"] = "global"
    """Whose statistics normalise in training: those of the whole batch, or of each device's share of it."""
    deviation: float = field(default=1.0, metadata=rule(above=0, unit="in units of what `scaling` makes 1"))
    """The depth that counts as 1 inside: the authors divide by the standard deviation of the training data."""

    def __post_init__(self) -> None:
        """Checks the choices and ranges."""
        check(self)

    def summary(self) -> str:
        """In a few words, for a line."""
        return f"DADA x{self.scale}, {self.encoder}, {self.channels} features"

    def build(self) -> "DADA":
        """The module."""
        from ahmf_jax.models import DADA

        fields = dataclasses.asdict(self)
        del fields["encoder_weights"]  # of the first step alone
        return DADA(**fields)


@dataclass(frozen=True)
class DSDMSRConfig:
    """DSDMSR, which reads no guide: the fields of `ahmf_jax.models.DSDMSR`."""

    name: ClassVar[str] = "dsdmsr"
    guided: ClassVar[bool] = False

    scale: Literal[2, 4, 8, 16] = 8
    """Up-sampling factor: as many stages, each of twice the size, as its logarithm."""
    unit: Literal["srcnn", "vdsr"] = "srcnn"
    """What makes a view, a quarter of a stage: three convolutions of large kernels, or ten of 3 x 3 whose result is
    added to their input."""
    fusion: Literal["code", "figure"] = "code"
    """What is fused at the end: what the stages have made, as in the published code, or the up-sampled low resolution
    as well, as the paper draws it."""
    combine: Literal["sum", "mean"] = "sum"
    """What is made of the maps before the fusion's unit: their sum, as in the published code, or their mean."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the features; parameters and depth are float32."""

    def __post_init__(self) -> None:
        """Checks the choices."""
        check(self)

    @property
    def stages(self) -> int:
        """How many maps it makes on its way."""
        return self.scale.bit_length() - 1

    @property
    def corrects(self) -> bool:
        """Whether its units add to the depth that they are given."""
        return self.unit == "vdsr"

    def summary(self) -> str:
        """In a few words, for a line."""
        return f"DSDMSR x{self.scale}, {self.unit}"

    def build(self) -> "DSDMSR":
        """The module."""
        import jax.numpy as jnp

        from ahmf_jax.models import DSDMSR

        return DSDMSR(**{**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)})


@dataclass(frozen=True)
class DSCSANConfig:
    """DSCSAN, which reads no guide and whose architecture is our reconstruction: `ahmf_jax.models.DSCSAN`'s fields."""

    name: ClassVar[str] = "dscsan"
    guided: ClassVar[bool] = False

    scale: Literal[2, 4, 8, 16] = 8
    """Up-sampling factor: as many stages, each of twice the size, as its logarithm."""
    groups: int = field(default=4, metadata=rule(above=0))
    """Groups of residual blocks: of each stage, or, where there are no stages, of all."""
    blocks: int = field(default=7, metadata=rule(above=0))
    """Residual blocks of a group."""
    features: int = field(default=64, metadata=rule(least=4, multiple=2))
    """Channels of a map."""
    block: Literal["brb", "rcab"] = "brb"
    """The bilayer residual block, or RCAN's, with an attention of its own."""
    attention: bool = True
    """The cross-scale attention at the end of each group."""
    progressive: bool = True
    """Each doubling is a stage of its own; otherwise all groups see the low resolution, as in RCAN."""
    interpolated: bool = True
    """What is made is added to interpolated depth, stage by stage; RCAN as published does without."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the features; parameters, the attention's statistics and depth are float32."""
    unroll: int | Literal["auto"] = field(default="auto", metadata=rule(above=0))
    """Blocks of a group that are unrolled: all on the CPU and 1 elsewhere by default."""

    def __post_init__(self) -> None:
        """Checks the choices."""
        check(self)

    @property
    def stages(self) -> int:
        """How many maps it makes on its way to the output."""
        return self.scale.bit_length() - 2 if self.progressive else 0

    @property
    def corrects(self) -> bool:
        """Whether what it makes is added to up-sampled depth."""
        return self.interpolated

    def form(self, name: dscsan_forms.Form) -> "DSCSANConfig":
        """The network of that name in the paper's Table 4, about as deep as this one, which is a C5."""
        return dataclasses.replace(self, **dscsan_forms.fields(name, self.scale, self.groups, self.blocks))

    def summary(self) -> str:
        """In a few words, for a line."""
        return f"DSCSAN x{self.scale}, {self.groups} x {self.blocks} {self.block} of {self.features} features"

    def build(self) -> "DSCSAN":
        """The module."""
        import jax.numpy as jnp

        from ahmf_jax.models import DSCSAN

        return DSCSAN(**{**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)})


AnyModel = AHMFConfig | DADAConfig | DSDMSRConfig | DSCSANConfig
MODELS: dict[str, type[AnyModel]] = {cls.name: cls for cls in (AHMFConfig, DADAConfig, DSDMSRConfig, DSCSANConfig)}


@dataclass(frozen=True)
class PairsConfig:
    """How a plain folder of image pairs is read; of a prepared data set all of it is known."""

    depth: str = "*_depth.png"
    """Names of the depth files; what `*` stands for names the pair."""
    guide: str = "*_rgb.png"
    """Names of the colour files."""
    names: tuple[str, ...] = ()
    """Only these pairs, in this order."""
    unit: str = "grey level"
    """Unit of the depth values."""
    range: float = field(default=255.0, metadata=rule(above=0))
    """Depth, in that unit, that counts as 1."""
    invalid: float | None = None
    """Depth value that means unknown."""

    def __post_init__(self) -> None:
        """Checks each field."""
        check(self)


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on, and how low resolution is made from high."""

    dataset: str = "middlebury"
    """A data set's name (`ahmf data list`), or the folder of a set of image pairs."""
    train: str = "train"
    """The split to train on (`+` joins several); of a folder of pairs, the folder of that name inside. Another
    `dataset` than the recipe's makes it `train`, and the next `validation`, unless they are given too."""
    validation: str = "validation"
    """The split to validate on: whole images, none of which is trained on."""
    mix: tuple[str, ...] = ()
    """More to train on: NAME, NAME:SPLIT or NAME:SPLIT=WEIGHT. An image of WEIGHT 2 comes twice as often as one of the
    first set; by default all images come equally often. SPLIT is `train` by default."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    degrade: Degradation = field(default_factory=Degradation)
    augment: Augmentation = field(default_factory=Augmentation)
    patch_size: int = field(default=256, metadata=rule(above=0))
    """Height, and width, of a training patch at high resolution."""
    patch_width: int = field(default=0, metadata=rule(least=0))
    """Its width, where that is another; 0: it is square. Other patches are not transposed (`--data.augment.flips`), and
    one may be a whole image."""
    batch_size: int = field(default=16, metadata=rule(above=0))
    """Patches in a step, over all devices."""
    edge_candidates: int = field(default=1, metadata=rule(above=0))
    """Random positions drawn for each patch; the one with the most depth edges is taken."""
    workers: int = field(default=0, metadata=rule(least=0))
    """Processes that make batches; 0: threads of the training process. The batches are the same."""
    cache: Literal["disk", "memory"] = "disk"
    """Where decoded images are kept: in files beside the prepared data set, for all workers and runs, or in up to 1 GiB
    of each process's memory. Images of a plain folder are always kept in memory."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """What to do when an image to train on cannot be read: stop, or name it and take the next one in its place."""

    def __post_init__(self) -> None:
        """Checks each field, and what `mix` says."""
        check(self)
        self.augment.check_beside(self.degrade)
        self.augment.check_patch(self.patch)
        self.training()

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) of a training patch at high resolution."""
        return self.patch_size, self.patch_width or self.patch_size

    def training(self) -> list["Part"]:
        """All that is trained on: `dataset`, and what `mix` names."""
        return [Part(self.dataset, self.train, 1.0), *map(_part, self.mix)]


class Part(NamedTuple):
    """A data set to train on: its name or folder, the split, and how often an image of it comes."""

    name: str
    split: str
    weight: float


def _part(text: str) -> Part:
    """What an entry of `DataConfig.mix` says."""
    place, equals, number = text.partition("=")
    name, _, split = place.partition(":")
    try:
        weight = float(number) if equals else 1.0
    except ValueError:
        weight = 0.0
    if not name or not 0 < weight < math.inf:
        raise InputError(f"DataConfig.mix has {text!r}: write NAME, NAME:SPLIT or NAME:SPLIT=WEIGHT, WEIGHT above 0")
    return Part(name, split or "train", weight)


_NO_CLIP = "clip is 0: set it, or leave this out"


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser, and its learning rate over the run."""

    name: Literal["adam", "adamw", "lion", "muon"] | str = "adam"
    """`adam`, as in the paper; `adamw`; `lion` (Chen et al. 2023); `muon` for the convolution kernels (Jordan et al.
    2024), with Adam for the rest; or another optimiser of Optax by its name there: sgd, adafactor, novograd, ..."""
    options: tuple[str, ...] = ()
    """More of the optimiser's own settings, KEY=VALUE, numbers or true and false: b1=0.95 nesterov=true."""
    learning_rate: float = field(default=1e-4, metadata=rule(above=0))
    """The largest learning rate of the run."""
    schedule: Literal["constant", "step", "staircase", "cosine", "onecycle"] = "step"
    """`step`: lowered once, at `halve_at`. `staircase`: lowered after each of `stairs` equal parts. `cosine`: down to
    `final_fraction` of it along half a cosine. `onecycle`: up along a cosine until `peak_at`, and down to nothing along
    another."""
    warmup: float = field(
        default=0.0,
        metadata=rule(
            least=0,
            below=1,
            never={"schedule": ("onecycle",)},
            instead="onecycle has a rise of its own: set peak_at",
        ),
    )
    """Part of the run in which the rate rises to its largest in equal steps; `onecycle` has `peak_at` for it."""
    halve_at: float = field(default=0.8, metadata=rule(above=0, below=1, only={"schedule": ("step",)}))
    """Part of the run after which `step` lowers the rate (the paper: epoch 200 of 250)."""
    stairs: int = field(default=10, metadata=rule(least=2, only={"schedule": ("staircase",)}))
    """Parts of the run, all equal, between which `staircase` lowers the rate."""
    step_factor: float = field(default=0.5, metadata=rule(above=0, only={"schedule": ("step", "staircase")}))
    """What `step` and `staircase` multiply the rate with, each time (AHMF's paper halves it, once)."""
    final_fraction: float = field(default=0.0, metadata=rule(least=0, most=1, only={"schedule": ("cosine",)}))
    """The last rate of `cosine`, as a part of the largest."""
    peak_at: float = field(default=0.1, metadata=rule(above=0, below=1, only={"schedule": ("onecycle",)}))
    """Part of the run after which `onecycle` is at its largest rate."""
    weight_decay: float = field(default=0.0, metadata=rule(least=0, only={"name": DECAYING}))
    """How far the kernels shrink in a step, as a part of the learning rate; biases and PReLU slopes never do. For
    adamw, lion, muon (the kernels that are not Adam's) and others of Optax that can leave parameters out."""
    loss_weight: float = field(default=1.0, metadata=rule(above=0))
    """Factor on the loss, and so on the gradient, before `clip` and `l2`: beside these it matters, where the optimiser
    itself, as Adam, takes gradients of any size for the same. The loss is logged without."""
    clip: float = field(default=0.0, metadata=rule(least=0))
    """Largest global norm of the gradient; 0 does not clip."""
    clip_norm: Literal["l2", "l1"] = field(default="l2", metadata=rule(never={"clip": (0.0,)}, instead=_NO_CLIP))
    """Which norm that is: the root of the sum of squares, or the sum of the absolute values."""
    clip_of: Literal["gradient", "step"] = field(
        default="gradient", metadata=rule(never={"clip": (0.0,)}, instead=_NO_CLIP)
    )
    """What is bounded: the gradient, or the gradient times the learning rate of the step, as VDSR has it (Kim et al.,
    CVPR 2016): its bound, `clip` over the rate, grows as the rate falls."""
    l2: float = field(default=0.0, metadata=rule(least=0))
    """Part of every parameter that is added to its gradient after `clip` and before the optimiser, as PyTorch's
    `weight_decay` of Adam and SGD is."""

    def __post_init__(self) -> None:
        """Checks the choices and ranges; names are checked by `build`, which knows Optax."""
        check(self)
        if self.schedule == "step" and self.warmup >= self.halve_at:
            raise InputError(f"OptimiserConfig.warmup is {self.warmup}: it must end before halve_at, {self.halve_at}")
        self._options()

    def _options(self) -> dict[str, float | int | bool]:
        """What `options` says, by name."""
        found = {}
        for text in self.options:
            key, _, value = text.partition("=")
            number = _number(value)
            if not key or number is None:
                raise InputError(f"OptimiserConfig.options has {text!r}: write KEY=NUMBER, KEY=true or KEY=false")
            found[key] = number
        return found

    def rate(self, steps: int) -> "optax.Schedule":
        """The learning rate of each step of a run of so many."""
        import optax

        if self.schedule == "onecycle":
            return optax.cosine_onecycle_schedule(
                steps, self.learning_rate, pct_start=self.peak_at, div_factor=25, final_div_factor=1000
            )
        rise = round(self.warmup * steps)
        if self.schedule == "constant":
            rate = optax.constant_schedule(self.learning_rate)
        elif self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(self.learning_rate, max(steps - rise, 1), self.final_fraction)
        elif self.schedule == "staircase":
            rate = _staircase(self.learning_rate, self.step_factor, self.stairs, steps, rise)
        else:
            rate = optax.piecewise_constant_schedule(
                self.learning_rate, {round(self.halve_at * steps) - rise: self.step_factor}
            )
        # From one part of it, not from 0: a step at a rate of 0 would be a step lost.
        ramp = optax.linear_schedule(self.learning_rate / (rise + 1), self.learning_rate, rise) if rise else rate
        return optax.join_schedules([ramp, rate], [rise])

    def build(self, steps: int) -> "optax.GradientTransformation":
        """The optimiser of a run of so many steps.

        Raises:
          InputError: Optax has no optimiser of that name, or that optimiser no such option.
        """
        self._check()
        try:
            optimiser = self.made(self.rate(steps), {})
            _try(optimiser)
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"OptimiserConfig.name {self.name} with options {' '.join(self.options) or '(none)'} cannot be used "
                f"({reason}): it must do with a schedule, gradients and parameters; choose another, as adam"
            ) from None
        return optimiser

    def _check(self) -> None:
        """Raises InputError where Optax has no such optimiser, or that optimiser no such option."""
        optimisers = _optimisers()
        if self.name not in optimisers:
            raise InputError(f"OptimiserConfig.name is {self.name!r}: choose one of {', '.join(sorted(optimisers))}")
        parameters = inspect.signature(optimisers[self.name]).parameters
        if self.weight_decay and not _decays(parameters):
            raise InputError(
                f"OptimiserConfig.weight_decay is {self.weight_decay}, but {self.name} has none for kernels alone: "
                "choose one that has, as adamw"
            )
        known = _numbers(parameters)
        for name, value in self._options().items():
            if name not in known:
                raise InputError(
                    f"OptimiserConfig.options has {name}: {self.name} has {', '.join(known) or 'no options'}"
                )
            if known[name] is not None and isinstance(known[name], bool) != isinstance(value, bool):
                raise InputError(f"OptimiserConfig.options has {name}={value}: {self.name} has {name}={known[name]}")

    def made(self, rate: "optax.Schedule", numbers: Mapping[str, Any]) -> "optax.GradientTransformation":
        """The optimiser with this learning rate, and with `numbers` in place of its own of those names.

        What it keeps of the steps before, the same tree whatever they are, is that of `build`.

        Args:
          rate: of each step.
          numbers: names of `numbers`, values that may be traced.
        """
        import optax

        make = _optimisers()[self.name]
        parameters = inspect.signature(make).parameters
        given = self._options() | {name: _kernels for name in _MASKS if name in parameters}
        if _decays(parameters):
            given["weight_decay"] = self.weight_decay
        optimiser = make(rate, **(given | {name: x for name, x in numbers.items() if name not in _BEFORE}))
        before = {name: numbers.get(name, value) for name, value in self._before().items()}
        if not before:
            return optimiser
        clip = functools.partial(_clip, norm=self.clip_norm, rate=rate if self.clip_of == "step" else None)
        first = {"loss_weight": optax.scale, "clip": clip, "l2": optax.add_decayed_weights}
        return optax.chain(*(first[name](value) for name, value in before.items()), optimiser)

    def numbers(self) -> dict[str, float]:
        """Weight decay, and what of `_BEFORE` there is: what one program can be given as it runs, each time another.

        `options` are not: of some of them, as of Adam's `b2`, Optax computes with 1 - b2 in double precision before
        the program, and in single in it.

        Raises:
          InputError: as `build`.
        """
        self._check()
        parameters = inspect.signature(_optimisers()[self.name]).parameters
        found = {"weight_decay": self.weight_decay} if _decays(parameters) else {}
        return found | self._before()

    def _before(self) -> dict[str, float]:
        """What is done to the gradient before the optimiser sees it, in this order."""
        return {name: getattr(self, name) for name, nothing in _BEFORE.items() if getattr(self, name) != nothing}


# What may be done to the gradient first, in this order, and the value at which it is not.
_BEFORE = {"loss_weight": 1.0, "clip": 0.0, "l2": 0.0}
# Nothing is divided by less.
_TINY = 1e-30
# What Optax's optimisers call the choice of parameters that decay.
_MASKS = ("mask", "weight_decay_mask")
# Arguments that are no options: fields say the first two, and Adam's rate inside Muon is Muon's.
_NO_OPTIONS = ("learning_rate", "weight_decay", "adam_learning_rate", *_MASKS)


def _decays(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether an optimiser of these arguments shrinks the parameters that it is told to."""
    return "weight_decay" in parameters and any(name in parameters for name in _MASKS)


def _clip(
    limit: Any, norm: Literal["l2", "l1"], rate: "optax.Schedule | None" = None
) -> "optax.GradientTransformation":
    """Shrinks a gradient whose norm is above the limit to it, or, with a rate, to the limit over the step's rate."""
    import jax
    import jax.numpy as jnp
    import optax

    if norm == "l2" and rate is None:
        return optax.clip_by_global_norm(limit)

    def clipped(gradient: Any, bound: Any) -> Any:
        factor = jnp.minimum(1.0, bound / jnp.maximum(optax.tree.norm(gradient, ord=int(norm[1])), _TINY))
        return jax.tree.map(lambda x: factor.astype(x.dtype) * x, gradient)

    if rate is None:
        return optax.stateless(lambda gradient, params: clipped(gradient, limit))

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        after = optax.ScaleByScheduleState(optax.safe_increment(state.count))
        # A rate of 0 makes no step, and bounds nothing.
        return clipped(gradient, limit / jnp.maximum(rate(state.count), _TINY)), after

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


def _staircase(rate: float, factor: float, stairs: int, steps: int, first: int) -> "optax.Schedule":
    """The rate of the steps from `first` on, multiplied by `factor` wherever another of the equal parts begins."""
    import jax.numpy as jnp

    # Whole numbers, so that each stair begins at the very step, also where there are more stairs than steps.
    begins = jnp.array([-(-part * steps // stairs) - first for part in range(1, stairs)])

    def schedule(count: Any) -> Any:
        return rate * jnp.float32(factor) ** jnp.searchsorted(begins, count, side="right")

    return schedule


def _number(text: str) -> float | int | bool | None:
    """What the text says; None where that is neither a number nor true or false."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
            return value if math.isfinite(value) else None
        except (ValueError, OverflowError):  # the latter of a whole number that no float holds
            continue
    return None


def _numbers(parameters: Mapping[str, inspect.Parameter]) -> dict[str, float | int | bool | None]:
    """The options of an optimiser that are numbers or booleans, with their defaults; None leaves something out."""
    defaults = {name: p.default for name, p in parameters.items() if name not in _NO_OPTIONS and "dtype" not in name}
    return {name: d for name, d in defaults.items() if d is None or isinstance(d, bool | int | float)}


def _optimisers() -> dict[str, Callable[..., Any]]:
    """Optax's optimisers by name, functions whose first argument is the learning rate; and Muon, laid out for us."""
    import optax
    from optax import contrib

    found = {}
    for name, value in vars(optax).items():
        if not inspect.isfunction(value) or name.startswith(("_", "scale_by_")):
            continue
        arguments = list(inspect.signature(value).parameters)
        if arguments[:1] == ["learning_rate"] and "key" not in arguments:  # nor what draws random numbers
            found[name] = value
    # Updates of the size that Adam's have, so that one learning rate serves both.
    muon = functools.partial(contrib.muon, consistent_rms=0.2, muon_weight_dimension_numbers=_matrices)
    return found | {"muon": muon}


def _kernels(params: Any) -> Any:
    """True for the convolution kernels, (k, k, in, out) or (level, k, k, in, out); no other parameter has 4 axes."""
    import jax

    return jax.tree.map(lambda x: x.ndim >= 4, params)


def _matrices(params: Any) -> Any:
    """Muon's matrices, from a kernel's inputs to its outputs; an axis of levels is not named: each has its own."""
    import jax
    from optax.contrib import MuonDimensionNumbers

    def matrix(x: Any) -> Any:
        if x.ndim < 4 or x.shape[-1] == 1:  # one output is no matrix
            return None
        return MuonDimensionNumbers(reduction_axis=(x.ndim - 4, x.ndim - 3, x.ndim - 2), output_axis=x.ndim - 1)

    return jax.tree.map(matrix, params)


def _try(optimiser: "optax.GradientTransformation") -> None:
    """Runs a step of the optimiser on shapes alone: some of Optax's need more than gradients and parameters."""
    import jax

    shapes = {"kernel": (3, 3, 2, 2), "bias": (2,), "slope": ()}
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    jax.eval_shape(lambda p: optimiser.update(p, optimiser.init(p), p), params)


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: AnyModel = field(default_factory=AHMFConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: int = field(default=1000, metadata=rule(above=0))
    """Steps of the whole run."""
    loss: Literal["l1", "mse", "charbonnier"] = "l1"
    """Averaged over the known pixels."""
    edge_weight: float = field(default=0.0, metadata=rule(least=0))
    """How much the difference of the gradients counts beside the loss; 0 leaves it out."""
    stage_weights: tuple[float, ...] = ()
    """How much the loss of each stage counts beside that of the output, coarse to fine, of a model that makes stages:
    1 1 1 for DSDMSR x8, which makes three. Empty: the output alone is supervised."""
    stage_kernel: Kernel | None = None
    """How the truth is shrunk to a stage's size; None: as low resolution is made. A stage's pixel counts where all that
    it is made of is known."""
    scaling: Literal["range", "sample", "largest", "truth"] = "range"
    """What the network sees: depth / range; each sample stretched over its own span, or over its own largest depth; or
    over the span of its ground truth, as some papers do, which no sensor knows."""
    output_scale: float = field(default=1.0, metadata=rule(above=0))
    """Factor on the initial values of the last convolution, of DSDMSR's `vdsr` on those of every unit's: with little of
    it a new AHMF begins with up-sampled depth, and a new DSDMSR, with `combine` mean, with repeated samples: a sum of
    its maps is so many times as large."""
    start_from: str = ""
    """Weights to start from: a run's folder or a .safetensors file; also of another scale or another number of levels,
    of which whatever fits is taken. The rest, and all where this is empty, starts at random."""
    seed: int = field(default=0, metadata=rule(least=0, most=2**32 - 1))
    """Of the initial values and of the patches."""
    ema: float = field(default=0.0, metadata=rule(least=0, below=1))
    """Decay of a running mean of the weights, as in 0.999, which is then what is validated and used. 0 keeps none."""
    accumulate: int = field(default=1, metadata=rule(above=0))
    """Parts in which a batch is computed one after the other, to save memory; the step is that of the whole batch."""
    mesh: str = "auto"
    """Devices, as in data=4,spatial=2: the batch over 4, the height of every patch over 2. auto: as many as divide the
    batch, then the height."""
    fsdp: bool = False
    """Split parameters and the optimiser's state over the devices of `data`, too, to save memory."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do at a loss or gradient that is no number: stop, or leave the step out and count it."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """What to do when a checkpoint cannot be written, as on a full disk: stop, or go on and try again at the next."""
    log_every: int = field(default=20, metadata=rule(above=0))
    """Steps between two lines of metrics."""
    checkpoint_every: int = field(default=100, metadata=rule(above=0))
    """Steps between two checkpoints."""
    validate_every: int = field(default=500, metadata=rule(above=0))
    """Steps between two validations, each with a checkpoint."""
    validation_protocol: WholeImages = "run"
    """How the validation's numbers are made (see `ahmf evaluate`); run: on low resolution made as for the training."""
    keep_last: int = field(default=2, metadata=rule(above=0))
    """Latest checkpoints kept."""
    keep_best: int = field(default=1, metadata=rule(least=0))
    """Checkpoints kept beside them, those of the smallest validation error."""
    samples: int = field(default=2, metadata=rule(least=0))
    """Validation images drawn in TensorBoard."""

    def __post_init__(self) -> None:
        """Checks the choices and what must fit together."""
        check(self)
        if self.data.batch_size % self.accumulate:
            raise InputError(
                f"TrainConfig.accumulate is {self.accumulate}: it must divide DataConfig.batch_size, "
                f"{self.data.batch_size}"
            )
        if self.start_from and isinstance(self.model, DADAConfig) and self.model.encoder_weights:
            raise InputError(
                "TrainConfig.start_from says where all weights are from: leave DADAConfig.encoder_weights out"
            )
        if self.scaling in ("sample", "truth") and isinstance(self.model, DADAConfig):
            raise InputError(
                f"TrainConfig.scaling is {self.scaling!r}, which takes the smallest depth to 0, and DADA multiplies "
                "depth: choose range or largest"
            )
        self._check_stages()
        self._check_model()
        axis = r"{}=[1-9]\d{{0,5}}"
        data, spatial = axis.format("data"), axis.format("spatial")
        if not re.fullmatch(f"auto|{data}|{spatial}|{data},{spatial}|{spatial},{data}", self.mesh, re.ASCII):
            raise InputError(f"TrainConfig.mesh is {self.mesh!r}: write auto, or as data=4,spatial=2")

    def _check_model(self) -> None:
        """InputError with all that the model makes impossible: of a recipe, changing the model may do so at several."""
        model, weights, problems = self.model, self.stage_weights, []
        if self.output_scale != 1 and not model.corrects:
            problems.append(
                f"TrainConfig.output_scale is {self.output_scale}, but {model.summary()}, has no last convolution "
                "that corrects up-sampled depth: set it to 1 (--output-scale 1)"
            )
        if weights and len(weights) != model.stages:
            fitting = [*weights[:1] * model.stages, *weights][-model.stages :]
            problems.append(
                f"TrainConfig.stage_weights is {weights}, but {model.summary()} makes {model.stages} stages: give as "
                f"many weights, coarse to fine (--stage-weights {' '.join(f'{weight:g}' for weight in fitting)})"
            )
        for name in ("patch_size", "patch_width"):
            if (value := getattr(self.data, name)) % model.scale:
                problems.append(f"DataConfig.{name} is {value}: it must be a multiple of the scale, {model.scale}")
        if problems:
            raise InputError("; ".join(problems))

    def _check_stages(self) -> None:
        weights, stages = self.stage_weights, self.model.stages
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise InputError(f"TrainConfig.stage_weights is {weights}: none may be negative, and all must be finite")
        if weights and not stages:
            making = [name for name, cls in MODELS.items() if cls().stages]
            remedy = "give none (--stage-weights with nothing after it)"
            if self.model.name not in making:
                remedy = f"leave it out, or train one of {', '.join(making)}"
            raise InputError(
                f"TrainConfig.stage_weights is {weights}, but {self.model.summary()}, makes no stages: {remedy}"
            )
        if self.stage_kernel and not weights:
            raise InputError(
                f"TrainConfig.stage_kernel is {self.stage_kernel!r}, but no stage is supervised: set stage_weights, or "
                "leave it out"
            )

    @property
    def supervision(self) -> dict[str, Any]:
        """Of the stages, as `ahmf_jax.state.TrainState` is told: nothing of them where they are not supervised."""
        if not self.stage_weights:
            return {}
        return {
            "stage_weights": self.stage_weights,
            "stage_kernel": self.stage_kernel or self.data.degrade.kernel,
        }


def ahmf(config: TrainConfig) -> AHMFConfig:
    """The configuration's model, for what is about its levels and blocks. InputError where it is another."""
    if not isinstance(config.model, AHMFConfig):
        raise InputError(f"this is about AHMF, and the configuration is of {config.model.summary()}: give one of AHMF")
    return config.model


def names() -> list[str]:
    """The configurations known by name."""
    return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def load(name: str) -> TrainConfig:
    """The configuration of that name, or of that Python file (which is run: use only files that you trust)."""
    path = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
    if not path.is_file():
        raise InputError(f"there is no configuration {name!r}: give a Python file or one of {', '.join(names())}")
    config = run_file(path).get("config")
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path} does not assign a TrainConfig to `config`")
    return config


def run_file(path: Path) -> dict[str, Any]:
    """What a Python file assigns. InputError where it cannot be run, with its line."""
    try:
        return runpy.run_path(str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}: mend the file") from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if frame.filename != str(path):
            raise  # a failure of what it calls
        raise InputError(f"{path}, line {frame.lineno}: {type(error).__name__}: {error}: mend the file") from None


def on_dataset(config: TrainConfig, dataset: str) -> TrainConfig:
    """The configuration on another data set, its splits `train` and `validation`: a recipe's are those of its own set.

    `ahmf train CONFIG --data.dataset NAME` does the same; `--data.train` and `--data.validation` go before it.
    """
    data = dataclasses.replace(config.data, dataset=dataset, train="train", validation="validation")
    return dataclasses.replace(config, data=data)


def of_run(run: Path) -> TrainConfig:
    """The configuration that a run was started with. InputError where the folder is no run, or not this program's."""
    from ahmf_jax.checkpoint import read_config

    values = read_config(run)
    try:
        return from_json(values["train"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{run}/config.json is not this program's ({error!r}): restore it from a copy") from None
    except InputError as error:
        raise InputError(f"{run}/config.json: {error}: restore it from a copy") from None


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values = dataclasses.asdict(config)
    return {**values, "model": {"name": config.model.name, **values["model"]}}


def from_json(values: dict[str, Any], cls: Any = TrainConfig) -> Any:
    """The configuration that `to_json` was given; a wrong or unknown field is an InputError."""
    if not isinstance(values, dict):
        raise InputError(f"{cls.__name__} is {values!r}: it must be an object with its fields")
    types = hints(cls)
    unknown = values.keys() - types.keys()
    if unknown:
        raise InputError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    arguments = {}
    for name, value in values.items():
        hint = types[name]
        if hint == AnyModel and isinstance(value, dict):
            value = dict(value)
            called = value.pop("name", AHMFConfig.name)  # runs were written without while there was one
            if called not in MODELS:
                raise InputError(f"{cls.__name__}.model is {called!r}: choose one of {', '.join(MODELS)}")
            hint = MODELS[called]
        if dataclasses.is_dataclass(hint):
            arguments[name] = from_json(value, hint)
            continue
        if typing.get_origin(hint) is tuple and isinstance(value, list):  # JSON has lists alone
            value = tuple(value)
        check_value(cls, name, value)
        if float in parts(hint) and type(value) is int:
            value = float(value)
        arguments[name] = value
    return cls(**arguments)
