"""A trained model on a whole image of one's own: units, dtypes and holes in, the same out."""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from ahmf_jax import confidence, export, factors, strips
from ahmf_jax.arrays import avoid, check_array, check_depth, check_guide, hole_value, into_dtype, known_samples
from ahmf_jax.consistency import make_consistent
from ahmf_jax.engine import Engine, keep_compiled
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.fitting import Fit, check_factor, fit_guide, output_size
from ahmf_jax.holes import fill_by_colour
from ahmf_jax.models import DADA, OF_DEPTH_ALONE
from ahmf_jax.scaling import Scaling, offset_and_span
from ahmf_jax.scaling import predict as run_network
from ahmf_jax.units import depth_of_one

Holes = Literal["keep", "fill"]
# Padding costs up to a quarter of the work, and compiling that of several images.
OWN_SIZES = 2
# In place of a path. A folder of that name is given with the folder that it is in.
LEARNING_FREE = r"dada_rgb_x(\d{1,4})"


@functools.partial(jax.jit, static_argnames=("model", "scaling"))
def super_resolve(model: Any, scaling: Scaling, params: Any, batch: dict[str, Array]) -> Float[Array, "b H W 1"]:
    """The super-resolved depth of a batch, in units of the range. Compiled once for each shape."""
    made = run_network(model, scaling, params, batch)
    return made.output * made.span + made.offset


def network_batch(batch: Mapping[str, Any]) -> dict[str, Array]:
    """What a network reads of a batch, as JAX arrays; the target stays where it is."""
    names = ("depth_lr", "guide", "mask_lr", "depth_span")
    return {name: jnp.asarray(batch[name]) for name in names if name in batch}


@dataclass(frozen=True)
class Result:
    """A super-resolved depth map, or a batch of them with a leading axis on every array.

    `mask` and `distance` are made when they are first read.

    Attributes:
      depth: (H, W), dtype and unit of the input.
      known: (h, w) bool, True where the sample of the input is known.
      guide: (H, W, C), the guide over it, as `fit` left it.
      rows, columns: the part of the input that was super-resolved: all of it, unless `fit` cut it.
      factor: pixels per sample.
      spread: (H, W) float32, the standard deviation over flips of the input, in the unit of the depth; None without
        `tta`.
      corner: row and column, in the guide as given, of the first pixel that `fit` left.
    """

    depth: np.ndarray
    known: np.ndarray
    guide: np.ndarray
    rows: slice
    columns: slice
    factor: float
    spread: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True where the sample under the pixel's centre is known."""
        return factors.nearest(self.known, self.depth.shape[-2:])

    @functools.cached_property
    def distance(self) -> np.ndarray:
        """(H, W) float32, from each pixel to the nearest over a known sample, in samples of the input."""
        if self.mask.ndim == 2:
            return confidence.distance(self.mask, self.factor)
        return np.stack([confidence.distance(mask, self.factor) for mask in self.mask])


class Upsampler:
    """A trained model, called with arrays: `upsampler(depth_lr, guide)`."""

    def __init__(self, trained: Trained, devices: Sequence[jax.Device] | None = None) -> None:
        self.trained = trained
        self.scale = trained.model.scale
        self.engine = Engine(trained, devices)
        self._own_sizes: set[tuple[int, ...]] = set()

    def batch(self, batch: Mapping[str, Any]) -> Float[np.ndarray, "b H W 1"]:
        """Super-resolves a batch as the data pipelines make it: the result is in units of the range.

        Of the sizes that come, the first few are compiled as they are, and others padded to shapes that many share.
        InputError where the guide has other channels than the model reads; one that reads none takes any.
        """
        depth, known = (np.asarray(batch[name])[..., 0] for name in ("depth_lr", "mask_lr"))
        if len(self._own_sizes) < OWN_SIZES:
            self._own_sizes.add(depth.shape)
        bucket = depth.shape not in self._own_sizes
        guide = np.asarray(batch["guide"])
        if self.trained.guide_channels not in (0, guide.shape[-1]):
            raise InputError(
                f"{self.trained.model.summary()} reads {self.trained.guide_channels} channels of colour, and there are "
                f"{guide.shape[-1]}: use data with colour, or a model of depth alone ({', '.join(OF_DEPTH_ALONE)})"
            )
        return self.engine(depth, known, guide, span=batch.get("depth_span"), bucket=bucket)[..., None]

    def _check(self, depth: np.ndarray, known: np.ndarray, ones: np.ndarray) -> None:
        """The model's own check, in whose words the depth is that which was given."""
        depth, known = depth[..., None], known[..., None]
        offset, span = offset_and_span(depth / ones[..., None], known, self.trained.scaling)
        self.trained.model.check((depth / ones[..., None] - offset) / span, known, depth)

    def __call__(
        self, depth_lr: Num[np.ndarray, "*b h w"], guide: Num[np.ndarray, "*b H W c"] | None = None, **options: Any
    ) -> Num[np.ndarray, "*b H2 W2"]:
        """The depth of `run`, whose options it takes."""
        return self.run(depth_lr, guide, **options).depth

    def run(
        self,
        depth_lr: Num[np.ndarray, "*b h w"],
        guide: Num[np.ndarray, "*b H W c"] | None = None,
        *,
        mask: Bool[np.ndarray, "*b h w"] | None = None,
        invalid: float | int | None = None,
        holes: Holes = "keep",
        unit: str | None = None,
        depth_range: float | int | str | None = None,
        factor: float | int | None = None,
        fit: Fit | None = None,
        consistent: bool = False,
        tta: bool = False,
        tile: int | None = None,
        bucket: bool = False,
    ) -> Result:
        """Super-resolves a depth map, or a batch of maps of one size.

        Args:
          depth_lr: (h, w) or (B, h, w), uint8, uint16 or floating point.
          guide: (H, W, C) or (B, H, W, C), `factor` times as large: uint8, uint16, or floating point in [0, 1]. A
            memory map will do. None, or one of zero channels, for a model that reads no colour; colour that is given
            serves it to close holes alone.
          mask: of the shape of `depth_lr`, False where it is unknown.
          invalid: the value of `depth_lr` that means unknown, too; may be NaN. The network sees each hole filled from
            known samples that are near it and of its colour: `ahmf_jax.holes.fill_by_colour`. DADA is told which they
            are instead: it closes them from their borders to begin with, and lets depth flow in.
          holes: "keep": pixels over an unknown sample come back as `invalid`, or, where only a mask was given, as NaN
            (0 in whole numbers); no other pixel does. "fill": as what the network made of them.
          unit: of `depth_lr`, such as "mm" or "0.2 mm"; the model's unit by default.
          depth_range: the depth that the network takes for 1: None: the range of the model's training data; a number
            in the unit of `depth_lr`; "lr": the largest value of the map itself; or a sensor of
            `ahmf_jax.units.SENSORS`. A model trained with `scaling="sample"` or
            "largest" has no use for unit and range.
          factor: how many times larger the result is, above 1 and at most 32; the model's scale by default. Others
            go by way of it: `ahmf_jax.factors`. The result has `round(factor * n)` rows and columns.
          fit: what to do with a guide of another size: None: refuse it; "crop" or "resample": `ahmf_jax.fitting`.
          consistent: whether the mean over each known sample's area is made to be it: `ahmf_jax.consistency`.
          tta: whether the result is the mean over four flips of the input, with their standard deviation as `spread`.
          tile, bucket: how the network is run, which does not change the result of AHMF: `ahmf_jax.engine`. That of
            DADA in tiles differs from that of the whole image by little: `docs/dada.md`.

        Raises:
          InputError: a shape, dtype, value or option that cannot be used; the line says what would be right.
        """
        if self.trained.scaling == "truth":
            raise InputError(
                "this model was trained with scaling=truth and must be told the smallest and largest true depth of "
                "each image, which no sensor knows: train one with scaling=sample"
            )
        if holes not in get_args(Holes):
            raise InputError(f"holes {holes!r} is not known: choose keep or fill")
        check_depth(depth_lr, mask)
        factor = check_factor(factor, self.scale)
        channels = self.trained.guide_channels
        if guide is not None:
            check_array("guide", guide)
        if guide is not None and not channels and guide.shape[-1:] == (0,):
            guide = None
        if guide is not None:
            check_guide(guide, channels, depth_lr.shape)
        elif channels:
            raise InputError(f"{self.trained.model.summary()} reads a colour picture of the view: give one (--guide)")
        else:
            guide = np.empty((*depth_lr.shape[:-2], *output_size(depth_lr.shape[-2:], factor), 0), np.uint8)
        if depth_lr.ndim == 2:
            guide, depth_lr, mask = guide[None], depth_lr[None], None if mask is None else mask[None]
            first: Any = 0
        else:
            first = slice(None)
        fitted = fit_guide(depth_lr.shape[1:], guide, factor, fit, self.scale)
        part = (slice(None), fitted.rows, fitted.columns)
        depth_lr, mask = depth_lr[part], None if mask is None else mask[part]
        known = known_samples(depth_lr, mask, invalid)
        if self.trained.model.reads_mask:  # and closes holes itself
            depth = np.where(known, depth_lr, 0).astype(np.float32)
        else:
            depth = np.stack([filled(*one) for one in zip(depth_lr, known, fitted.guide, strict=True)])
        ones = np.array(
            [depth_of_one(self.trained, unit, depth_range, float(np.abs(one).max())) for one in depth], np.float32
        )[:, None, None]
        self._check(depth, known, ones)
        depth /= ones

        network = functools.partial(self.engine, tile=tile, bucket=bucket)
        predict = functools.partial(
            factors.super_resolve, network, self.scale, size=output_size(depth.shape[1:], factor)
        )
        spread = None
        if tta:
            result, spread = confidence.over_flips(predict, depth, known, fitted.guide)
            spread *= ones
        else:
            result = np.require(predict(depth, known, fitted.guide), requirements="W")
        if consistent:
            for high, low, where in zip(result, depth, known, strict=True):
                make_consistent(high, low, where)
        result *= ones
        result = into_dtype(result, depth_lr.dtype)
        if invalid is not None or mask is not None:
            hole = hole_value(depth_lr.dtype, invalid)
            avoid(result, hole)
            if holes == "keep":
                result[~factors.nearest(known, result.shape[1:])] = hole
        return Result(
            result[first],
            known[first],
            fitted.guide[first],
            fitted.rows,
            fitted.columns,
            factor,
            None if spread is None else spread[first],
            fitted.corner,
        )


def filled(
    depth: Num[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"], guide: Num[np.ndarray, "H W c"]
) -> Float[np.ndarray, "h w"]:
    """The depth that the network is given: (h, w) float32, the holes filled from samples that are near and alike."""
    if known.all():
        return depth.astype(np.float32)
    colour = strips.resize_guide(guide[None], depth.shape)[0].astype(np.float32)
    colour *= np.float32(255 / (np.iinfo(guide.dtype).max if guide.dtype.kind == "u" else 1))
    return fill_by_colour(depth, known, colour)


def load(path: str | os.PathLike[str], devices: Sequence[jax.Device] | None = None) -> Upsampler:
    """A trained model from a run's folder (its best checkpoint) or from a weights file (`.safetensors`).

    What it compiles is kept on disk for the next process: `ahmf_jax.engine.keep_compiled`.

    Args:
      path: of the folder or the file; or "dada_rgb_x8", the learning-free DADA of that scale.
      devices: that share the rows of every image; the first there is by default.

    Raises:
      InputError: the path is neither, or does not hold what it should.
    """
    keep_compiled()
    return Upsampler(load_trained(path), devices)


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """The model and its parameters, as `load` finds them; "dada_rgb_x8" is `dada_rgb(8)`, whatever lies there."""
    if learning_free := re.fullmatch(LEARNING_FREE, os.fspath(path)):
        return dada_rgb(int(learning_free[1]))
    path = Path(path)
    if os.fspath(path) == "dada_rgb" and not path.exists():
        raise InputError("dada_rgb is of any scale here: name one, as dada_rgb_x8")
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


def dada_rgb(scale: int) -> Trained:
    """The learning-free DADA, for depth in any unit."""
    return Trained(DADA(scale, features="rgb"), {}, scaling="largest", origin="learning-free: no weights")


def _from_run(run: Path) -> Trained:
    from ahmf_jax import checkpoint  # slow to import, and a bundle needs it not

    config = checkpoint.read_config(run)
    try:
        summary = config["trained"]
        model = export.build_model(summary["model"])
        trained = Trained(model, {}, summary["scaling"], summary["unit"], float(summary["range"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / checkpoint.CONFIG} is damaged ({error!r}): restore it from a copy") from None
    params, step = checkpoint.read_params(run)
    export.check_params(model, params, str(run), export.guide_channels(params))
    return dataclasses.replace(trained, params=params, origin=f"step {step} of {run.name}", training={"step": step})
