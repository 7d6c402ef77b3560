"""A run's validations: whole images, measured while it trains, their sums added up over processes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.metrics import Errors
from data_pipelines.datasets import Dataset, DatasetInfo, Example
from experiments import config as configs
from experiments.evaluate import measure, whole_batch
from experiments.methods import interpolate
from experiments.pictures import Made
from experiments.protocols import PROTOCOLS, Protocol, run_protocol

if TYPE_CHECKING:
    from ahmf_jax.stopping import Stop
    from experiments.stage_pictures import Stages


def validation_protocol(config: configs.TrainConfig, dataset: Dataset) -> Protocol:
    """How a run's validation makes its numbers, in the data's own unit. InputError where the data set does not fit."""
    if config.validation_protocol == "run":
        return run_protocol(config.data.degrade)
    protocol = PROTOCOLS[config.validation_protocol]
    try:
        protocol.unit_of(dataset.info)
    except InputError as error:
        raise InputError(str(error).replace("--protocol", "--validation-protocol")) from None
    return protocol


class Sample(NamedTuple):
    """An image of a validation: its name, its batch of one, and what was made of it."""

    name: str
    batch: Mapping[str, np.ndarray]
    prediction: Made


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
    stage_kernel: str | None = None,
) -> Validation | None:
    """Measures parameters on whole images, one in memory at a time: in tiles where memory would not hold it.

    Args:
      model, scaling, params: the network.
      examples: each with its place in the data set, which seeds what is left to chance; one process's share of them.
      info: what their depth means.
      protocol: of the numbers.
      stop: of `stopping.stop_on_signal`; once it is requested no further image is begun.
      floors: the interpolation's errors by place, which are the same at each validation of a run: what is missing is
        added.
      samples: so many images are kept, the first.
      stage_kernel: of `ahmf_jax.resample`, by which the truths of a sample's stages are made: that by which they are
        supervised, if they are; by default the protocol's of low resolution.

    Returns:
      what was found, or None where it was stopped.

    Raises:
      InputError: an image that the protocol does not fit.
    """
    predict = _predictor(model, scaling, params)
    floors = {} if floors is None else floors
    found = Validation()
    for place, example in examples:
        if stop is not None and stop.requested:
            return None
        batch = whole_batch(example, place, info, model.scale, protocol)
        maps, attention = predict(batch)
        prediction = np.asarray(maps[-1])
        ours = measure(prediction, batch, info.range, protocol)
        if place not in floors:
            floors[place] = measure(interpolate(batch, protocol.floor), batch, info.range, protocol)
        floor = floors[place]
        if ours.count:
            found += Validation(1, ours.mae, ours.rmse, floor.mae, floor.rmse)
        if len(found.samples) < samples:
            kernel = stage_kernel or protocol.degrade.kernel
            stages = _stages(model, maps, attention, batch, info, protocol, kernel)
            found += Validation(samples=(Sample(example.name, batch, Made(prediction, stages)),))
    return found


def _stages(
    model: Any,
    maps: Sequence[Any],
    attention: Sequence[Any],
    batch: Mapping[str, np.ndarray],
    info: DatasetInfo,
    protocol: Protocol,
    kernel: str,
) -> "Stages | None":
    """The middle of an image, stage by stage, in the unit that the protocol measures in, and the image's gates.

    None of a model that has neither.
    """
    from experiments.gate_pictures import gates
    from experiments.stage_pictures import Measure, central, compared
    from experiments.windows import part

    of_image = gates(model, attention)
    if len(maps) < 2 and of_image is None:
        return None
    unit, factor = protocol.unit_of(info)
    measure = Measure(unit, info.range * factor, protocol, kernel)
    low, truth = (
        measure.range * np.where(batch[f"mask_{which}"], batch[f"depth_{which}"], np.nan)[0, ..., 0]
        for which in ("lr", "hr")
    )
    height, width = truth.shape
    crop = central(height, width, height // low.shape[0])
    parts = [measure.range * part(np.asarray(depth)[0, ..., 0], crop, height) for depth in maps]
    return compared(low, parts, truth, measure, crop, of_image)


@functools.cache
def _whole() -> Callable[..., tuple[Sequence[Any], Sequence[Any]]]:
    """Runs a network on a batch, in one program for each shape: what `_predictor` tells."""
    import jax

    from ahmf_jax.scaling import predict
    from experiments.stage_pictures import on_its_way

    def run(model: Any, scaling: Any, params: Any, batch: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        made = predict(model, scaling, params, batch)
        maps, attention = on_its_way(model, made.output, made.aux)
        return tuple(depth * made.span + made.offset for depth in maps), attention

    return jax.jit(run, static_argnames=("model", "scaling"))


def _predictor(
    model: Any, scaling: str, params: Any
) -> Callable[[Mapping[str, np.ndarray]], tuple[Sequence[Any], Sequence[Any]]]:
    """The network on a batch of one: what it makes on its way and its output, each (1, h, w, 1), in units of the range.

    Beside them the gates of its attentions. An image is computed whole, by a program that the run's next validation has
    still; one that would take more than half of the memory that is free, in tiles, whose programs are compiled for each
    validation, and of the output alone.
    """
    import jax

    from ahmf_jax import memory, upsample
    from ahmf_jax.export import Trained

    device = jax.local_devices()[0]

    @functools.cache
    def in_tiles() -> upsample.Upsampler:
        return upsample.Upsampler(Trained(model, params, scaling), [device])  # type: ignore[arg-type]

    def predict(batch: Mapping[str, np.ndarray]) -> tuple[Sequence[Any], Sequence[Any]]:
        if model.bytes_per_sample * batch["depth_lr"].size > memory.free(device) / 2:
            return (in_tiles().batch(batch),), ()
        if not model.guided:
            batch = {**batch, "guide": batch["guide"][..., :0]}
        return _whole()(model, scaling, params, upsample.network_batch(batch))

    return predict
