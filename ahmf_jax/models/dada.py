"""DADA: guided depth super-resolution by deep anisotropic diffusion.

Metzger, Caye Daudt, Schindler: "Guided Depth Super-Resolution by Deep Anisotropic Diffusion", CVPR 2023 (arXiv
2211.11592). Section numbers below are the paper's.

Depth flows between neighbouring pixels wherever the guide shows no edge, and after every step each block of pixels is
scaled to the mean that was measured (`ahmf_jax.diffusion`). What an edge is, a network's features say
(`ahmf_jax.unet`), or, without learning, the colours themselves.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from ahmf_jax import diffusion, unet
from ahmf_jax.diffusion import MAX_RATE, RATE, Gradient, Start
from ahmf_jax.errors import InputError
from ahmf_jax.models.base import Model
from ahmf_jax.resample import resize
from ahmf_jax.unet import Encoder, Statistics

Features = Literal["learned", "rgb"]
Init = Literal["cubic", "griddata", "constant"]
Shift = Literal["sample", "batch"]
SCALES = (2, 4, 8, 16, 32)
# Of ImageNet, of each colour: with which the encoder's published weights were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Depth this small is raised by as much: the adjustment multiplies, and what is 0 would stay so.
LOW = 0.1
# Iterations in all, which are counted in 32 bits.
MOST = 10**6
# Pixels of a tile's margin: see `DADA.reach`.
MARGIN: dict[Features, int] = {"learned": 128, "rgb": 64}

Depth = Float[Array, "b H W 1"]
DepthLR = Float[Array, "b h w 1"]
MaskLR = Bool[Array, "b h w 1"]
PerSample = Float[Array, "b"]


class DADA(Model):
    """The system. `apply(variables, depth_lr, guide, mask_lr=mask_lr)` gives `(depth_hr, aux)`.

    Depth must be positive, and about 1 once it is divided by `deviation`.

    Fields:
      scale: up-sampling factor, one of 2, 4, 8, 16, 32.
      features: `"learned"`, the network's; `"rgb"`, DADA-dagger, the guide's colours and the up-sampled depth, which
        needs no training.
      encoder: of the network, `"resnet50"` as in the paper, or `"resnet18"`.
      channels: features of the network.
      enlarge: how much larger than the image the network sees it: 2, as in the paper, or 1.
      initial: what the features are made from beside the guide, and the diffusion begins with: `"cubic"`, the low
        resolution up-sampled by cubic convolution and kept within the depths that were measured; `"griddata"`, the
        authors' piecewise cubic on a triangulation (SciPy on the host: slow, and not exported). `"constant"`: the
        diffusion begins with 1, and the features are made as with `"cubic"` (the paper's ablation).
      contrast: the paper's K, learned from this value on, or fixed with `"rgb"`.
      rate: the paper's lambda, at most 0.25.
      iterations, gradient_iterations: the first ones, without gradient, of which a random number are done in training,
        and the last ones. With `"rgb"` there are only the first.
      gradient, tolerance, start: how the diffusion is differentiated, ended early and begun (`diffusion.diffuse`).
      shift: depth at or below 0.1 is raised by 0.1 before the diffusion and lowered after it: `"sample"`, where a known
        sample of the image is so low; `"batch"`, as the authors' program has it, everywhere once one of the batch is,
        holes counting as 0.
      batch_norm: whose statistics normalise in training, the whole batch's (`"global"`) or those of each device's share
        of it (`"local"`).
      deviation: the depth that all of the above takes for 1: the authors divide by the data set's standard deviation.
    """

    scale: int
    features: Features = "learned"
    encoder: Encoder = "resnet50"
    channels: int = 64
    enlarge: int = 2
    initial: Init = "cubic"
    contrast: float = 0.03
    rate: float = RATE
    iterations: int = 8000
    gradient_iterations: int = 1024
    gradient: Gradient = "unrolled"
    tolerance: float = 0.0
    start: Start = "fine"
    shift: Shift = "sample"
    batch_norm: Statistics = "global"
    deviation: float = 1.0

    reads_mask = True
    keeps_means = True
    iterates = True
    dtype = jnp.float32  # of all arithmetic: adherence to the low resolution is lost in less

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong value fails where it is written."""
        choices: list[tuple[str, Sequence[Any]]] = [
            ("scale", SCALES),
            ("features", get_args(Features)),
            ("encoder", get_args(Encoder)),
            ("enlarge", (1, 2)),
            ("initial", get_args(Init)),
            ("gradient", get_args(Gradient)),
            ("start", get_args(Start)),
            ("shift", get_args(Shift)),
            ("batch_norm", get_args(Statistics)),
        ]
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} {getattr(self, name)!r} is not one of {', '.join(map(str, allowed))}")
        for name, least in (("channels", 1), ("iterations", 0), ("gradient_iterations", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value}: it must be a whole number, at least {least}")
        if self.iterations + self.gradient_iterations > MOST:
            raise InputError(
                f"iterations {self.iterations} and gradient_iterations {self.gradient_iterations} are more than {MOST} "
                "together: give fewer"
            )
        if not 0 < self.rate <= MAX_RATE:
            raise InputError(
                f"rate (lambda) is {self.rate:g}: the diffusion is stable above 0 and up to {MAX_RATE}; the authors "
                f"have {RATE}"
            )
        if not 0 < self.contrast < math.inf:
            raise InputError(f"contrast (K) is {self.contrast:g}: it must be above 0; the authors start from 0.03")
        if not 0 < self.deviation < math.inf:
            raise InputError(f"deviation is {self.deviation:g}: give the depth that counts as 1, above 0")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance is {self.tolerance:g}: give a relative change from 0, which never ends early")
        super().__post_init__()

    @property
    def stride(self) -> int:
        """The network halves the image five times: windows of it agree where they begin at multiples of that."""
        return unet.MULTIPLE // self.enlarge if self.features == "learned" else 1

    @property
    def reach(self) -> int:
        """The margin of a tile, in low-resolution samples.

        What lies further away has some influence still, through the network and from block to block. With this margin
        the tiles of an image differ from the whole by what `docs/dada.md` says.
        """
        return max(math.ceil(MARGIN[self.features] / self.scale), 2)

    @property
    def bytes_per_sample(self) -> float:
        """About the memory that a low-resolution sample takes while it is computed, as `memory_analysis` tells it."""
        pixel = 4 * 18.0  # the diffusion's images and coefficients
        if self.features == "learned":
            # The features and the differences between neighbours, or the network's last steps on the enlarged image.
            pixel = 4.0 * max(5 * self.channels, self.enlarge**2 * (self.channels + 68))
        return self.scale**2 * pixel

    @property
    def least_shapes(self) -> dict[str, tuple[int, ...]]:
        """The last convolution, whose channels are the only ones that are a field."""
        learned = {"log_contrast": (), "unet/head/bias": (self.channels,)}
        return learned if self.features == "learned" else {}

    def summary(self) -> str:
        """Scale and features."""
        return f"DADA x{self.scale}, {self.encoder if self.features == 'learned' else 'learning-free'}"

    def check(
        self,
        depth_lr: Float[np.ndarray, "b h w 1"],
        mask_lr: Bool[np.ndarray, "b h w 1"],
        given: Float[np.ndarray, "b h w 1"] | None = None,
    ) -> None:
        """Refuses depth that cannot be diffused by ratios; `given` is the same in the unit of who reads the error.

        Raises:
          InputError: known depth so far below 0 that the shift leaves it there; a little is what interpolation makes.
        """
        lowest = np.min(depth_lr, (1, 2, 3), where=mask_lr, initial=np.inf)
        image = int(np.argmin(lowest))
        low = float(lowest[image])
        if low / self.deviation + LOW <= 0:
            which = f" of image {image} of the batch" if len(depth_lr) > 1 else ""
            shown = f"{low:g} of what counts as 1"
            if given is not None:
                shown = f"{float(np.min(given[image], where=mask_lr[image], initial=np.inf)):g}, {shown}"
            raise InputError(
                f"the smallest known depth{which} is {shown}: DADA scales depth by ratios, which needs it "
                "above 0; mark what is unknown as such, or add a constant"
            )

    def of_whole(
        self, depth_lr: Float[np.ndarray, "b h w 1"], mask_lr: Bool[np.ndarray, "b h w 1"]
    ) -> Mapping[str, np.ndarray]:
        """What tiles of an image share: its shift, its extremes, and the mean that the network's input is freed of.

        For that mean one image at a time is up-sampled whole, which takes a few times the memory of its result.
        """
        return {name: np.asarray(value) for name, value in _told(self, depth_lr, mask_lr).items()}

    def images_of_whole(
        self, depth_lr: Float[np.ndarray, "b h w 1"], mask_lr: Bool[np.ndarray, "b h w 1"]
    ) -> Mapping[str, np.ndarray]:
        """The depth with its holes closed, of which one may be larger than a tile; what SciPy begins with, if it does.

        The latter is as large as the result.
        """
        found = {"depth_filled": np.asarray(jax.jit(filled)(depth_lr, mask_lr))}
        if self.initial == "griddata":
            found["depth_start"] = griddata(depth_lr, mask_lr, self.scale)
        return found

    @nn.compact
    def __call__(
        self,
        depth_lr: DepthLR,
        guide: Float[Array, "b H W 3"],
        *,
        mask_lr: MaskLR | None = None,
        train: bool = False,
        depth_start: Depth | None = None,
        depth_filled: DepthLR | None = None,
        shift: PerSample | None = None,
        extremes: Float[Array, "b 2"] | None = None,
        centre: PerSample | None = None,
    ) -> tuple[Depth, dict[str, Any]]:
        """Super-resolves a batch.

        Args:
          depth_lr: (B, h, w, 1), any h and w; positive. What stands in holes has no influence.
          guide: (B, scale * h, scale * w, 3) in [0, 1].
          mask_lr: (B, h, w, 1) bool, True where the depth is known; everywhere by default.
          train: with the batch's own statistics in the network, a random number of first iterations, of the stream
            "sample", and a gradient through the last.
          depth_start: (B, scale * h, scale * w, 1), in place of what `initial` makes.
          depth_filled: (B, h, w, 1), of the image that this is a tile of (`images_of_whole`).
          shift, extremes, centre: of that image, too (`of_whole`).

        Returns:
          `depth_hr` (B, scale * h, scale * w, 1) float32, whose mean over each known sample's area is that sample, and
          `aux`: `cv` (B, H - 1, W, 1) and `ch` (B, H, W - 1, 1), the coefficients between a pixel and the one below
          or right of it; `features`; `depth_start`; `iterations`, how many were done; `contrast`, the K that was used.

        Raises:
          InputError: `depth_lr` is of another shape, or the guide's size is not `scale` times its own, or it has not 3
            channels.
        """
        height, width = self.output_size(depth_lr)
        if guide.shape[1:] != (height, width, 3):
            raise InputError(
                f"the guide is {guide.shape[1]} x {guide.shape[2]} with {guide.shape[3]} channels, but a depth of "
                f"{depth_lr.shape[1]} x {depth_lr.shape[2]} at x{self.scale} needs one of {height} x {width} with 3"
            )
        mask = jnp.ones_like(depth_lr, bool) if mask_lr is None else mask_lr
        depth_lr = depth_lr / self.deviation
        if extremes is None:
            extremes = jnp.stack(_extremes(depth_lr, mask), 1)
        closed = filled(depth_lr, mask) if depth_filled is None else depth_filled / self.deviation
        begin = self._begin(depth_lr, mask, extremes, closed) if depth_start is None else depth_start / self.deviation
        added = _shift(depth_lr, mask, self.shift) if shift is None else shift
        guide = (guide - jnp.array(MEAN)) / jnp.array(STD)

        if self.features == "rgb":
            features, contrast = jnp.concatenate([guide, begin], -1), jnp.float32(self.contrast)
        else:
            features = self._learned(guide, begin, _mean(begin) if centre is None else centre, train)
            log = self.param("log_contrast", nn.initializers.constant(math.log(self.contrast)), ())
            contrast = jnp.exp(log)
        cv, ch = diffusion.coefficients(features, contrast)

        first = jnp.ones_like(begin) if self.initial == "constant" and depth_start is None else begin
        before: Any = self.iterations
        if train and self.iterations:
            before = jax.random.randint(self.make_rng("sample"), (), 0, self.iterations)
        added = added[:, None, None, None]
        depth, done = diffusion.diffuse(
            first + added,
            cv,
            ch,
            depth_lr + added,
            mask,
            before=before,
            after=self.gradient_iterations if self.features == "learned" else 0,
            rate=self.rate,
            gradient=self.gradient,
            tolerance=self.tolerance,
            start=self.start,
        )
        aux = {"cv": cv, "ch": ch, "features": features, "iterations": done, "contrast": contrast}
        return (depth - added) * self.deviation, {**aux, "depth_start": first * self.deviation}

    def _begin(self, depth_lr: DepthLR, mask: MaskLR, extremes: Float[Array, "b 2"], closed: DepthLR) -> Depth:
        """What the network sees of the depth, of which the extremes are known; the diffusion mostly begins with it.

        `closed` is the depth with its holes closed.
        """
        b, h, w, _ = depth_lr.shape
        size = self.scale * h, self.scale * w
        if self.initial == "griddata":
            shape = jax.ShapeDtypeStruct((b, *size, 1), jnp.float32)
            return lax.stop_gradient(
                jax.pure_callback(griddata, shape, depth_lr, mask, self.scale, vmap_method="sequential")
            )
        enlarged = resize(closed, size, "torch_bicubic")
        # Beside a steep edge cubic convolution goes beyond both sides, as far as below 0.
        return jnp.clip(enlarged, extremes[:, 0, None, None, None], extremes[:, 1, None, None, None])

    def _learned(self, guide: Array, begin: Depth, centre: PerSample, train: bool) -> Float[Array, "b H W c"]:
        """The network's features of every pixel."""
        x = jnp.concatenate([guide, begin - centre[:, None, None, None]], -1)
        height, width = x.shape[1:3]
        for axis in (1, 2):
            x = _continued(x, axis, self.stride)
        if self.enlarge > 1:
            x = resize(x, (self.enlarge * x.shape[1], self.enlarge * x.shape[2]), "torch_bicubic")
        x = unet.UNet(self.channels, self.encoder, self.batch_norm, name="unet")(x, train)
        if self.enlarge > 1:
            x = nn.avg_pool(x, (self.enlarge,) * 2, (self.enlarge,) * 2)
        return x[:, :height, :width]


def filled(depth: DepthLR, mask: MaskLR) -> DepthLR:
    """The depth with its holes closed from their borders inwards, each sample by the mean of its known neighbours.

    What stands in the holes is not read. Where nothing is known, depth is 0.
    """

    def around(x: Array) -> Array:
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    def grown(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        depth, known, _ = state
        total, count = around(depth), around(known)
        depth = jnp.where(known > 0, depth, total / jnp.maximum(count, 1))
        now = (count > 0).astype(jnp.float32)
        return depth, now, jnp.any(now != known)

    state = jnp.where(mask, depth, 0.0), mask.astype(jnp.float32), jnp.any(~mask)
    return lax.stop_gradient(lax.while_loop(lambda state: state[2], grown, state)[0])


def _extremes(depth: DepthLR, mask: MaskLR) -> tuple[PerSample, PerSample]:
    """The smallest and the largest known depth of each sample; 0 where none is known."""
    axes, some = (1, 2, 3), jnp.any(mask, (1, 2, 3))
    low = jnp.min(jnp.where(mask, depth, jnp.inf), axes)
    high = jnp.max(jnp.where(mask, depth, -jnp.inf), axes)
    return jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)


@functools.partial(jax.jit, static_argnames="model")
def _told(model: DADA, depth_lr: DepthLR, mask: MaskLR) -> dict[str, Array]:
    """`DADA.of_whole`."""
    depth = depth_lr / model.deviation
    extremes = jnp.stack(_extremes(depth, mask), 1)
    found = {"shift": _shift(depth, mask, model.shift), "extremes": extremes}
    if model.features == "learned":
        of_each = depth, mask, extremes, filled(depth, mask)
        found["centre"] = lax.map(lambda one: _mean(model._begin(*(x[None] for x in one)))[0], of_each)
    return found


def _shift(depth: DepthLR, mask: MaskLR, of: Shift) -> PerSample:
    """What is added to the depth of each sample before the diffusion."""
    if of == "batch":
        depth, mask = jnp.where(mask, depth, 0.0), jnp.ones_like(mask)
    low, _ = _extremes(depth, mask)
    is_low = low <= LOW
    return jnp.where(jnp.any(is_low) if of == "batch" else is_low, LOW, 0.0) * jnp.ones(depth.shape[0])


def _continued(x: Array, axis: int, multiple: int) -> Array:
    """Images with their last row or column repeated, until the axis is a multiple long. It may be a symbol.

    Beyond the end, so that the image keeps its place.
    """
    length = x.shape[axis]
    longer = multiple * ((length + multiple - 1) // multiple)
    return jnp.take(x, jnp.minimum(jnp.arange(longer), length - 1), axis, mode="clip")


def _mean(x: Depth) -> PerSample:
    return jnp.mean(x, (1, 2, 3))


def griddata(depth: Any, mask: Any, scale: Any) -> np.ndarray:
    """The authors' up-sampling: piecewise cubic on the triangles between the known samples, the nearest beyond them.

    Args:
      depth: (B, h, w, 1), an array of NumPy or JAX.
      mask: (B, h, w, 1), True where it is known.
      scale: whole factor.

    Returns:
      (B, scale * h, scale * w, 1) float32.
    """
    from scipy import interpolate, spatial

    depth, mask, scale = np.asarray(depth), np.asarray(mask), int(scale)
    b, h, w, _ = depth.shape
    result = np.zeros((b, scale * h, scale * w, 1), np.float32)
    to = tuple(np.mgrid[: scale * h, : scale * w])
    for image, known, out in zip(depth[..., 0], mask[..., 0], result[..., 0], strict=True):
        at = np.argwhere(known) * scale + (scale - 1) / 2  # centres of the areas that were averaged
        if not len(at):
            continue
        values = image[known]
        try:
            out[...] = interpolate.griddata(at, values, to, "cubic")
        except (spatial.QhullError, ValueError):  # too few samples for a triangle, or all in a line
            out[...] = np.nan
        beyond = np.isnan(out)
        if beyond.any():
            out[beyond] = interpolate.griddata(at, values, tuple(x[beyond] for x in to), "nearest")
    return result
