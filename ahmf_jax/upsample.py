"""A trained model on a whole image of one's own: units, dtypes and holes in, the same out."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ahmf_jax import checkpoint, export
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.holes import fill_holes
from ahmf_jax.models import MODELS
from ahmf_jax.scaling import Scaling, predict

DTYPES = ("uint8", "uint16", "float16", "float32", "float64")


@functools.partial(jax.jit, static_argnames=("model", "scaling"))
def super_resolve(model: Any, scaling: Scaling, params: Any, batch: dict[str, Array]) -> Float[Array, "b H W 1"]:
    """The super-resolved depth of a batch, in units of the range. Compiled once for each shape."""
    output, offset, span = predict(model, scaling, params, batch)
    return output * span + offset


def network_batch(batch: Mapping[str, Any]) -> dict[str, Array]:
    """What a network reads of a batch, as JAX arrays; the target stays where it is."""
    names = ("depth_lr", "guide", "mask_lr", "depth_span")
    return {name: jnp.asarray(batch[name]) for name in names if name in batch}


class Upsampler:
    """A trained model, called with arrays: `upsampler(depth_lr, guide)`."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.scale = trained.model.scale
        self._params = jax.device_put(trained.params)
        self._guide_channels = export.guide_channels(trained.params)

    def batch(self, batch: dict[str, Any]) -> Float[np.ndarray, "b H W 1"]:
        """Super-resolves a batch as the data pipelines make it: the result is in units of the range."""
        return np.asarray(super_resolve(self.trained.model, self.trained.scaling, self._params, network_batch(batch)))

    def __call__(
        self,
        depth_lr: Num[np.ndarray, "h w"],
        guide: Num[np.ndarray, "H W c"],
        *,
        invalid: float | int | None = None,
        depth_range: float | int | None = None,
    ) -> Num[np.ndarray, "H W"]:
        """Super-resolves one depth map.

        Args:
          depth_lr: (h, w), uint8, uint16 or floating point, in any unit.
          guide: (scale * h, scale * w, C): uint8, uint16, or floating point in [0, 1].
          invalid: the value of `depth_lr` that means unknown; may be NaN. The holes are filled from their
            nearest known sample for the network's sake, and come back as holes: the scale x scale block
            of an unknown sample is `invalid` in the result, and no other pixel is.
          depth_range: the depth that a model trained with `scaling="range"` takes for 1; its training
            data's range by default. A model trained with `scaling="sample"` has no use for it.

        Returns:
          (scale * h, scale * w), dtype and unit of `depth_lr`; rounded and clipped to the dtype.

        Raises:
          InputError: a shape, dtype or value that cannot be used; the line says what would be right.
        """
        if self.trained.scaling == "truth":
            raise InputError(
                "this model was trained with scaling=truth and must be told the smallest and largest true depth of "
                "each image, which no sensor knows: train one with scaling=sample"
            )
        known = self._check_depth(depth_lr, invalid)
        colour = self._check_guide(guide, depth_lr.shape)
        depth = fill_holes(depth_lr, known)
        unit = self._unit(float(np.abs(depth).max()), depth_range)
        batch = {"depth_lr": depth[None, ..., None] / unit, "guide": colour[None], "mask_lr": known[None, ..., None]}
        result = (self.batch(batch)[0, ..., 0] * unit).astype(np.float64)

        if depth_lr.dtype.kind == "u":
            result = np.clip(np.rint(result), 0, np.iinfo(depth_lr.dtype).max)
        elif depth_lr.dtype == np.float16:
            result = np.clip(result, -np.finfo(np.float16).max, np.finfo(np.float16).max)
        result = result.astype(depth_lr.dtype)
        if invalid is None:
            return result
        holes = ~known.repeat(self.scale, 0).repeat(self.scale, 1)
        hole = depth_lr.dtype.type(invalid)
        if not np.isnan(hole):  # a known pixel must not come out as a hole: the next value stands for it
            if depth_lr.dtype.kind == "u":
                beside = hole - 1 if hole else hole + 1
            else:
                beside = np.nextafter(hole, depth_lr.dtype.type(0 if hole > 0 else np.inf))
            result[result == hole] = beside
        result[holes] = hole
        return result

    def _check_depth(self, depth: np.ndarray, invalid: float | None) -> np.ndarray:
        if depth.ndim != 2 or not depth.size:
            raise InputError(f"the depth has shape {depth.shape}: one map (height, width) is needed")
        if depth.dtype.name not in DTYPES:
            raise InputError(f"the depth is {depth.dtype}: convert it to one of {', '.join(DTYPES)}")
        if invalid is None:
            known = np.ones(depth.shape, bool)
        else:
            self._check_invalid(depth.dtype, invalid)
            known = ~np.isnan(depth) if np.isnan(invalid) else depth != depth.dtype.type(invalid)
        if not known.any():
            raise InputError(f"every sample of the depth is {invalid}, which means unknown: nothing to start from")
        if not np.isfinite(depth[known]).all():
            bad = int((~np.isfinite(depth[known])).sum())
            raise InputError(
                f"the depth has {bad} samples that are NaN or infinite: if NaN marks holes, say so with invalid=nan"
                " (--invalid nan)"
            )
        return known

    def _check_invalid(self, dtype: np.dtype, invalid: float) -> None:
        if dtype.kind == "u":
            largest = np.iinfo(dtype).max
            if not (0 <= invalid <= largest and invalid == int(invalid)):
                raise InputError(
                    f"the invalid value is {invalid:g}, which no {dtype} depth can hold: give a whole number from 0 to "
                    f"{largest}, or none if every sample is known"
                )
        elif np.isfinite(invalid) and abs(invalid) > float(np.finfo(dtype).max):
            raise InputError(f"the invalid value is {invalid:g}, beyond what a {dtype} depth can hold: give another")

    def _check_guide(self, guide: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        if guide.ndim != 3 or guide.shape[2] != self._guide_channels:
            raise InputError(f"the guide has shape {guide.shape}: (height, width, {self._guide_channels}) is needed")
        wanted = (self.scale * size[0], self.scale * size[1])
        if guide.shape[:2] != wanted:
            raise InputError(
                f"the guide is {guide.shape[1]} x {guide.shape[0]} pixels and the depth {size[1]} x {size[0]}: at "
                f"x{self.scale} the guide must be {wanted[1]} x {wanted[0]}; crop or resample one of them, or use a "
                "model of another scale"
            )
        if guide.dtype in (np.uint8, np.uint16):
            return guide.astype(np.float32) / np.iinfo(guide.dtype).max
        if guide.dtype.kind != "f":
            raise InputError(f"the guide is {guide.dtype}: uint8, uint16 or floating point in [0, 1] is needed")
        if not (np.isfinite(guide).all() and guide.min() >= 0 and guide.max() <= 1):
            raise InputError("the guide has values outside [0, 1]: scale it, or give uint8 or uint16")
        return guide.astype(np.float32)

    def _unit(self, largest: float, depth_range: float | None) -> float:
        if self.trained.scaling == "sample":
            return largest or 1.0  # the network sees the sample's own span whatever this is
        unit = self.trained.range if depth_range is None else depth_range
        if not 0 < unit < np.inf:
            raise InputError(f"the range is {unit}: a positive depth is needed")
        if largest > unit * 1.001:
            raise InputError(
                f"the depth reaches {largest:g}, beyond the model's range of {unit:g} {self.trained.unit}s: give the "
                "sensor's largest depth as the range (--range)"
            )
        return unit


def load(path: str | os.PathLike[str]) -> Upsampler:
    """A trained model from a run's folder (its best checkpoint) or from a weights file (`.safetensors`).

    Raises:
      InputError: the path is neither, or does not hold what it should.
    """
    return Upsampler(load_trained(path))


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """The model and its parameters, as `load` finds them."""
    path = Path(path)
    if path.is_dir():
        return _from_run(path)
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path} is neither a run's folder nor a .safetensors file: a PyTorch file is converted first, with "
            "`ahmf convert from-torch`"
            if path.exists()
            else f"{path} does not exist: give a run's folder or a .safetensors file"
        )
    return export.load_bundle(path)


def _from_run(run: Path) -> Trained:
    config = checkpoint.read_config(run)
    try:
        summary = config["trained"]
        fields = dict(summary["model"])
        model = MODELS[fields.pop("name")](**fields)
        trained = Trained(model, {}, summary["scaling"], summary["unit"], float(summary["range"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / checkpoint.CONFIG} is damaged ({error!r}): restore it from a copy") from None
    params, step = checkpoint.read_params(run)
    export.check_params(model, params, str(run), export.guide_channels(params))
    return dataclasses.replace(trained, params=params, origin=f"step {step} of {run.name}")
