"""`ahmf evaluate`: a trained model against the truth, beside the bicubic floor of the same protocol."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.metrics import Errors, errors
from ahmf_jax.writing import write_whole
from data_pipelines.datasets import Dataset, DatasetInfo, Example
from data_pipelines.degrade import Degradation, Kernel
from experiments import config as configs

if TYPE_CHECKING:
    from ahmf_jax.stopping import Stop


@dataclass(frozen=True)
class Protocol:
    """How a number is made. Two numbers can be compared when these agree and the data do."""

    degrade: Degradation = field(default_factory=Degradation)
    """How low resolution is made of the whole image; chance is seeded by the image's place."""
    floor: Kernel = "matlab_bicubic"
    """The interpolation that stands beside the model."""
    rounding: Literal["uint8", "none"] = "uint8"
    """`uint8`: output rounded and clipped to 0..255, for sets whose range is 255."""
    border: int = 0
    """Pixels left out on every side."""
    pe_threshold: float = 5.0
    """PE is the share of pixels whose error is at least this, in grey levels: 255ths of the range."""

    def __str__(self) -> str:
        rounding = "output rounded to uint8" if self.rounding == "uint8" else "output not rounded"
        return (
            f"{self.degrade}, floor by {self.floor}, {rounding}, border {self.border} px, "
            f"PSNR peak = the data's range, PE: errors of {self.pe_threshold:g} / 255 of it and more"
        )


# Section 8 of AHMF's protocols as its test program has them, and what later papers (DKN and on) use.
PROTOCOLS = {
    "ahmf_middlebury": Protocol(),
    "b6": Protocol(Degradation("pillow_bicubic"), floor="pillow_bicubic", rounding="none", border=6),
    "float": Protocol(rounding="none"),
}


def trained_on(weights: Path) -> Degradation | None:
    """How the low resolution was made that a run was trained on; None of a file, which has no record of it."""
    return configs.of_run(weights).data.degrade if weights.is_dir() else None


def choose_protocol(name: str | None, depth_range: float, weights: Path) -> tuple[str, Protocol]:
    """A protocol and its name.

    Args:
      name: one of `PROTOCOLS`; "run": the low resolution that a run was trained on, output not rounded, no border; or
        None: "ahmf_middlebury" for depth of 0..255, "float" for other depth.
      depth_range: the data set's.
      weights: the run's folder, read for "run" alone.

    Raises:
      InputError: "run", and `weights` is no run's folder.
    """
    name = name or ("ahmf_middlebury" if depth_range == 255 else "float")
    if name != "run":
        return name, PROTOCOLS[name]
    degrade = trained_on(weights)
    if degrade is None:
        raise InputError(
            f"--protocol run: {weights} is no run's folder, and nothing else has a record of the low resolution that a "
            "model was trained on: give the run's folder, or choose another protocol"
        )
    return name, run_protocol(degrade)


def run_protocol(degrade: Degradation) -> Protocol:
    """The protocol "run": the low resolution that a run is trained on, output not rounded, no border."""
    return Protocol(degrade, rounding="none")


def check_range(protocol: Protocol, info: DatasetInfo, remedy: str) -> None:
    """InputError where the protocol rounds to 0..255, and the data set's depth is something else."""
    if protocol.rounding == "uint8" and info.range != 255:
        raise InputError(
            f"this protocol rounds to uint8, and {info.name} has a range of {info.range:g} {info.unit}: use {remedy}"
        )


def whole_batch(
    example: Example, place: int, info: DatasetInfo, scale: int, protocol: Protocol
) -> dict[str, np.ndarray]:
    """A whole image as the protocol has it; `place`, in the data set, seeds what is left to chance.

    It is cut at the bottom and right to a multiple of the scale. InputError where nothing is inside the border.
    """
    from data_pipelines.loader import whole_example

    batch = whole_example(example, info, scale=scale, degradation=protocol.degrade, seed=place)
    if 2 * protocol.border >= min(batch["depth_hr"].shape[1:3]):
        raise InputError(f"{example.name} is smaller than the protocol's border of {protocol.border} pixels twice")
    return batch


def measure(prediction: np.ndarray, batch: Mapping[str, np.ndarray], depth_range: float, protocol: Protocol) -> Errors:
    """The errors of one image's prediction (1, H, W, 1), in units of the data set."""
    b = protocol.border
    inside = (slice(None), slice(b, prediction.shape[1] - b), slice(b, prediction.shape[2] - b))
    prediction = prediction[inside].astype(np.float64) * depth_range
    if protocol.rounding == "uint8":
        prediction = np.clip(np.rint(prediction), 0, 255)
    # The truth was divided by the range in float32; multiplied back in float64 it is off by 1e-7 of itself.
    target = batch["depth_hr"][inside].astype(np.float64) * depth_range
    if protocol.rounding == "uint8":
        target = np.rint(target)
    return errors(prediction, target, batch["mask_hr"][inside], protocol.pe_threshold * depth_range / 255)


def interpolate(batch: Mapping[str, np.ndarray], kernel: str) -> np.ndarray:
    """The low-resolution depth of a batch up-sampled to the guide's size."""
    return resample.resize(batch["depth_lr"], batch["guide"].shape[1:3], kernel)


class Interpolation:
    """In place of a network: an interpolation, whose numbers are the protocol's floor."""

    def __init__(self, kernel: str, scale: int):
        self.kernel = kernel
        self.scale = scale

    def batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The low-resolution depth up-sampled, (B, H, W, 1)."""
        return interpolate(batch, self.kernel)


def interpolation(name: str, scale: int | None, protocol: Protocol) -> Interpolation | None:
    """The interpolation of that name, "bicubic" being that of the protocol's floor; None for any other name.

    Raises:
      InputError: it is one, and no scale is given, or none that is possible.
    """
    kernel = protocol.floor if name == "bicubic" else name
    if kernel not in resample.KERNELS:
        return None
    if scale is None:
        raise InputError(f"{name} fits any scale: give one with --scale, as in --scale 4")
    if scale < 1:
        raise InputError(f"--scale {scale}: must be at least 1")
    return Interpolation(kernel, scale)


def validation_protocol(config: configs.TrainConfig, dataset: Dataset) -> Protocol:
    """How a run's validation makes its numbers. InputError where the data set does not fit."""
    if config.validation_protocol == "run":
        return run_protocol(config.data.degrade)
    protocol = PROTOCOLS[config.validation_protocol]
    check_range(protocol, dataset.info, "--validation-protocol float")
    return protocol


class Sample(NamedTuple):
    """An image of a validation: its name, its batch of one, and the prediction (1, H, W, 1) in units of the range."""

    name: str
    batch: Mapping[str, np.ndarray]
    prediction: np.ndarray


@dataclass(frozen=True)
class Validation:
    """Sums over images of their errors, in the data set's unit; what several processes found is added up.

    An image without a known pixel has no error, and is not counted. `floor_*` are the interpolation's.
    """

    images: int = 0
    mae: float = 0.0
    rmse: float = 0.0
    floor_mae: float = 0.0
    floor_rmse: float = 0.0
    samples: tuple[Sample, ...] = ()

    def __add__(self, other: "Validation") -> "Validation":
        """Over the images of both."""
        return Validation(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(Validation)}
        )

    @property
    def sums(self) -> dict[str, float]:
        """All but the samples, as JSON values: `Validation(**sums)`."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Validation) if f.name != "samples"}

    @property
    def means(self) -> dict[str, float]:
        """The means over the images. InputError where there is none with known depth."""
        if not self.images:
            raise InputError("no image to validate on has known depth: choose another --data.validation")
        return {name: value / self.images for name, value in self.sums.items() if name != "images"}


def validate(
    model: Any,
    scaling: str,
    params: Any,
    examples: Iterable[tuple[int, Example]],
    info: DatasetInfo,
    protocol: Protocol,
    *,
    stop: "Stop | None" = None,
    floors: dict[int, Errors] | None = None,
    samples: int = 0,
) -> Validation | None:
    """Measures parameters on whole images, one in memory at a time.

    Args:
      model, scaling, params: the network.
      examples: each with its place in the data set, which seeds what is left to chance; one process's share of them.
      info: what their depth means.
      protocol: of the numbers.
      stop: of `stopping.stop_on_signal`; once it is requested no further image is begun.
      floors: the interpolation's errors by place, which are the same at each validation of a run: what is missing is
        added.
      samples: so many images are kept, the first.

    Returns:
      what was found, or None where it was stopped.

    Raises:
      InputError: an image that the protocol does not fit.
    """
    from ahmf_jax.upsample import network_batch, super_resolve

    floors = {} if floors is None else floors
    found = Validation()
    for place, example in examples:
        if stop is not None and stop.requested:
            return None
        batch = whole_batch(example, place, info, model.scale, protocol)
        prediction = np.asarray(super_resolve(model, scaling, params, network_batch(batch)))
        ours = measure(prediction, batch, info.range, protocol)
        if place not in floors:
            floors[place] = measure(interpolate(batch, protocol.floor), batch, info.range, protocol)
        floor = floors[place]
        if ours.count:
            found += Validation(1, ours.mae, ours.rmse, floor.mae, floor.rmse)
        if len(found.samples) < samples:
            found += Validation(samples=(Sample(example.name, batch, prediction),))
    return found


@dataclass(frozen=True)
class Row:
    """One image's numbers, or the mean over images; `floor_*` are the interpolation's."""

    name: str
    mae: float
    rmse: float
    psnr: float
    pe: float
    floor_mae: float
    floor_rmse: float
    floor_psnr: float
    floor_pe: float


def evaluate(upsampler: Any, dataset: Dataset, protocol: Protocol) -> list[Row]:
    """One row an image, and the mean over the images last.

    Args:
      upsampler: an `ahmf_jax.upsample.Upsampler`.
      dataset: whole images; cropped at the bottom and right to a multiple of the scale.
      protocol: of the numbers.

    Raises:
      InputError: a protocol that the data do not fit.
    """
    info = dataset.info
    check_range(protocol, info, "--protocol float")
    rows = []
    for i, example in enumerate(dataset):
        batch = whole_batch(example, i, info, upsampler.scale, protocol)
        ours = measure(upsampler.batch(batch), batch, info.range, protocol)
        floor = measure(interpolate(batch, protocol.floor), batch, info.range, protocol)
        values = (value for e in (ours, floor) for value in (e.mae, e.rmse, e.psnr(info.range), e.pe))
        rows.append(Row(example.name, *values))
    if not rows:
        raise InputError(f"{info.name} has no image in this split")
    means = {
        f.name: float(np.mean([getattr(r, f.name) for r in rows])) for f in dataclasses.fields(Row) if f.name != "name"
    }
    return [*rows, Row("mean", **means)]


def table(rows: Sequence[Row], unit: str) -> str:
    """The rows as text, the floor in brackets; MAE and RMSE with four significant digits or more, points aligned."""
    smallest = min((x for r in rows for x in (r.mae, r.rmse, r.floor_mae, r.floor_rmse) if 0 < x < math.inf), default=1)
    # Of metres the first digits are zeros. Beyond the eighth place it is the rounding of float32 that one would read.
    places = min(max(3 - math.floor(math.log10(smallest)), 0), 8)
    width = max(len(r.name) for r in rows)
    columns = [["".ljust(width), *(r.name.ljust(width) for r in rows)]]
    for title, name, digits in (
        ("MAE", "mae", places),
        ("RMSE", "rmse", places),
        ("PSNR dB", "psnr", 2),
        ("PE %", "pe", 3),
    ):
        ours, floors = ([f"{getattr(r, kind + name):.{digits}f}" for r in rows] for kind in ("", "floor_"))
        width = max(map(len, floors))
        cells = [title, *(f"{o} ({f:>{width}})" for o, f in zip(ours, floors, strict=True))]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) for cell in cells])
    head, *lines = map("  ".join, zip(*columns, strict=True))
    return "\n".join([f"{head}    ({unit}; in brackets the floor)", *lines])


def write_json(path: Path, rows: Sequence[Row], protocol: Protocol, **facts: Any) -> None:
    """The rows with their protocol and whatever else says how they were made."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    images = [{k: finite(v) for k, v in dataclasses.asdict(r).items()} for r in rows]
    numbers = {**facts, "protocol": dataclasses.asdict(protocol), "images": images}
    write_whole(path, json.dumps(numbers, indent=1).encode())
