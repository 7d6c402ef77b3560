"""What a training run is made of: frozen dataclasses, checked when they are made, and read from JSON as from Python.

A configuration is a Python file that assigns one `TrainConfig` to `config`. Those in `experiments/configs`
are known by name. This module imports neither JAX nor a data set, only NumPy.
"""

import dataclasses
import math
import runpy
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ahmf_jax.errors import InputError
from data_pipelines.degrade import Degradation

if TYPE_CHECKING:
    import optax

    from ahmf_jax.models import AHMF

CONFIGS = Path(__file__).parent / "configs"


class Stopped(Exception):
    """A signal stopped a run after it was saved; the message says how to go on."""


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)}: it must be positive")


def _check_choices(config: Any) -> None:
    """Literal fields hold one of their values, also when the configuration comes from Python or JSON."""
    for name, hint in typing.get_type_hints(type(config)).items():
        parts, value = _parts(hint), getattr(config, name)
        choices = [c for part in parts if typing.get_origin(part) is Literal for c in typing.get_args(part)]
        others = tuple(part for part in parts if isinstance(part, type))
        if choices and value not in choices and not isinstance(value, others):
            allowed = ", ".join(map(str, (*choices, *(f"any {t.__name__}" for t in others))))
            raise InputError(f"{type(config).__name__}.{name} is {value!r}: choose one of {allowed}")


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


@dataclass(frozen=True)
class ModelConfig:
    """The network: the fields of `ahmf_jax.models.AHMF`."""

    scale: Literal[2, 4, 8, 16, 32] = 4
    """Up-sampling factor."""
    num_levels: int = 4
    """Feature levels, the paper's m."""
    features: int = 64
    """Channels of every intermediate feature."""
    variant: Literal["release", "paper"] = "release"
    """The authors' program, or the paper's equations."""
    fusion: Literal["feb_frb", "feb", "frb", "concat"] = "feb_frb"
    """The blocks of the fusion (Table VI)."""
    recurrence: Literal["both", "forward", "backward", "none"] = "both"
    """The directions of the recurrence over the levels (Table VI)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; the parameters are float32."""
    unroll: int | Literal["auto"] = "auto"
    """Steps of the recurrence unrolled: all on the CPU and 1 elsewhere by default."""
    remat: bool = False
    """Recompute activations in the backward pass to save memory."""

    def __post_init__(self) -> None:
        """Checks the choices; the rest is checked by the model."""
        _check_choices(self)
        _positive(self, "num_levels", "features")

    def build(self) -> "AHMF":
        """The module."""
        import jax.numpy as jnp

        from ahmf_jax.models import AHMF

        return AHMF(**{**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)})


@dataclass(frozen=True)
class PairsConfig:
    """How a plain folder of image pairs is read; has no say for a prepared data set."""

    depth: str = "*_depth.png"
    """Names of the depth files; what `*` stands for names the pair."""
    guide: str = "*_rgb.png"
    """Names of the colour files."""
    names: tuple[str, ...] = ()
    """Only these pairs, in this order."""
    unit: str = "grey level"
    """Unit of the depth values."""
    range: float = 255.0
    """Depth, in that unit, that counts as 1."""
    invalid: float | None = None
    """Depth value that means unknown."""


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
    patch_size: int = 256
    """Height and width of a training patch at high resolution."""
    batch_size: int = 16
    """Patches in a step, over all devices."""
    edge_candidates: int = 1
    """Random positions drawn for each patch; the one with the most depth edges is taken."""
    workers: int = 0
    """Processes that make batches; 0: threads of the training process. The batches are the same."""
    cache: Literal["disk", "memory"] = "disk"
    """Where decoded images are kept: in files beside the prepared data set, for all workers and runs, or in up to 1 GiB
    of each process's memory. Images of a plain folder are always kept in memory."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """What to do when an image to train on cannot be read: stop, or name it and take the next one in its place."""

    def __post_init__(self) -> None:
        """Checks the choices and signs."""
        _check_choices(self)
        _positive(self, "patch_size", "batch_size", "edge_candidates")
        if self.workers < 0:
            raise InputError(f"DataConfig.workers is {self.workers}: it cannot be negative")
        self.training()

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


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser, and its learning rate over the run."""

    name: Literal["adam", "muon"] = "adam"
    """`adam`, as in the paper; `muon` for the convolution kernels (Jordan et al. 2024), with Adam for the rest."""
    learning_rate: float = 1e-4
    """The largest learning rate of the run."""
    schedule: Literal["step", "onecycle"] = "step"
    """`step`: halved at `halve_at`. `onecycle`: cosine up over `warmup`, cosine down to nothing."""
    halve_at: float = 0.8
    """Part of the run after which `step` halves the rate (the paper: epoch 200 of 250)."""
    warmup: float = 0.1
    """Part of the run in which `onecycle` goes up."""
    beta2: float = 0.999
    """Adam's second decay."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 does not clip."""

    def __post_init__(self) -> None:
        """Checks the choices and ranges."""
        _check_choices(self)
        _positive(self, "learning_rate")
        for name in ("halve_at", "warmup", "beta2"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"OptimiserConfig.{name} is {getattr(self, name)}: it must lie between 0 and 1")
        if self.clip < 0:
            raise InputError(f"OptimiserConfig.clip is {self.clip}: it cannot be negative")

    def build(self, steps: int) -> "optax.GradientTransformation":
        """The optimiser of a run of so many steps."""
        import jax
        import optax

        if self.schedule == "step":
            rate = optax.piecewise_constant_schedule(self.learning_rate, {round(self.halve_at * steps): 0.5})
        else:
            rate = optax.cosine_onecycle_schedule(
                steps, self.learning_rate, pct_start=self.warmup, div_factor=25, final_div_factor=1000
            )
        if self.name == "adam":
            optimiser = optax.adam(rate, b1=0.9, b2=self.beta2, eps=1e-8)
        else:
            from optax import contrib

            def dimensions(params: Any) -> Any:
                """A kernel (k, k, in, out) is a matrix from its inputs to its outputs; one output is no matrix."""
                matrix = contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
                return jax.tree.map(lambda x: matrix if x.ndim == 4 and x.shape[3] > 1 else None, params)

            # Updates of the size that Adam's have, so that one learning rate serves both.
            optimiser = contrib.muon(
                rate, adam_b2=self.beta2, consistent_rms=0.2, muon_weight_dimension_numbers=dimensions
            )
        return optax.chain(optax.clip_by_global_norm(self.clip), optimiser) if self.clip else optimiser


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: int = 1000
    """Steps of the whole run."""
    loss: Literal["l1", "mse", "charbonnier"] = "l1"
    """Averaged over the known pixels."""
    scaling: Literal["range", "sample", "truth"] = "range"
    """What the network sees: depth / range; each sample stretched over its own span; or over the span of its ground
    truth, as some papers do, which no sensor knows."""
    output_scale: float = 1.0
    """Factor on the last convolution's initial values."""
    seed: int = 0
    """Of the initial values and of the patches."""
    log_every: int = 20
    """Steps between two lines of metrics."""
    checkpoint_every: int = 500
    """Steps between two validations with a checkpoint."""

    def __post_init__(self) -> None:
        """Checks the choices and what must fit together."""
        _check_choices(self)
        _positive(self, "steps", "output_scale", "log_every", "checkpoint_every")
        if self.data.patch_size % self.model.scale:
            raise InputError(
                f"DataConfig.patch_size is {self.data.patch_size}: it must be a multiple of the scale, "
                f"{self.model.scale}"
            )


def names() -> list[str]:
    """The configurations known by name."""
    return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def load(name: str) -> TrainConfig:
    """The configuration of that name, or of that Python file (which is run: use only files that you trust)."""
    path = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
    if not path.is_file():
        raise InputError(f"there is no configuration {name!r}: give a Python file or one of {', '.join(names())}")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path} does not assign a TrainConfig to `config`")
    return config


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
    return dataclasses.asdict(config)


def from_json(values: dict[str, Any], cls: type[Any] = TrainConfig) -> Any:
    """The configuration that `to_json` was given; a wrong or unknown field is an InputError."""
    if not isinstance(values, dict):
        raise InputError(f"{cls.__name__} is {values!r}: it must be an object with its fields")
    hints = typing.get_type_hints(cls)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise InputError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = from_json(value, hint)  # type: ignore[arg-type]
            continue
        allowed = _parts(hint)
        if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):  # JSON has lists alone
            if not all(type(v) is typing.get_args(hint)[0] for v in value):
                raise InputError(f"{cls.__name__}.{name} is {value!r}: it must be {hint}")
            arguments[name] = tuple(value)
            continue
        if float in allowed and type(value) is int:
            value = float(value)
        # Literals are checked by the dataclass itself, types are not.
        if not any(typing.get_origin(t) is Literal or type(value) is t for t in allowed):
            raise InputError(f"{cls.__name__}.{name} is {value!r}: it must be {hint}")
        arguments[name] = value
    return cls(**arguments)
