"""A network run on images of any size: whole where they fit, in tiles where not, over one device or several."""

import contextlib
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from ahmf_jax import memory
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models.base import Model
from ahmf_jax.scaling import offset_and_span
from ahmf_jax.sharding import batch_sharding, make_mesh, replicated
from ahmf_jax.tiles import Tile, joined, padded_to, tiles, widest
from ahmf_jax.variables import split

# Bytes that one tile may take where there is plenty. A larger tile has less margin for its area, but at this size the
# margins are a fifth of the work, and a process of moderate size is worth more.
MOST_MEMORY = 2 * 2**30

# Programs that take less long to compile are not kept on disk, seconds.
QUICK_TO_COMPILE = 0.2

# Images, rows and columns of what is computed at once.
Window = tuple[int, int, int]
Wanted = Literal["depth", "pooled"]


def network(model: Model, wanted: Wanted, weights: Any, depth: Array, guide: Array, **given: Any) -> Any:
    """The depth, or the next statistics of those that are gathered; what only others need is not computed."""
    if not jnp.issubdtype(guide.dtype, jnp.floating):
        guide = guide.astype(jnp.float32) / jnp.iinfo(guide.dtype).max
    output, aux = model.apply(split(weights), depth, guide.astype(jnp.float32), **given)
    return aux["pooled"][len(given.get("pooled", ()))] if wanted == "pooled" else output[..., 0]


class Engine:
    """Runs a trained network on arrays that have been checked: see `ahmf_jax.upsample` for those that have not.

    A program is compiled at the first image of its size, and kept. With several `devices` each computes a share of the
    rows of every image or tile, where the model can be padded to rows that they divide; the first of them alone works
    otherwise.
    """

    def __init__(self, trained: Trained, devices: Sequence[jax.Device] | None = None) -> None:
        """Places the parameters; `devices` is the first there is by default."""
        devices = jax.devices()[:1] if devices is None else devices
        if not trained.model.paddable:
            devices = devices[:1]
        self._trained = trained
        self._mesh = make_mesh(1, len(devices), devices)
        self._params = jax.device_put(trained.params, replicated(self._mesh))
        self._programs: dict[Any, Any] = {}

    @property
    def compilations(self) -> int:
        """How many programs have been compiled."""
        return len(self._programs)

    def __call__(
        self,
        depth: Float[np.ndarray, "*b h w"],
        known: Bool[np.ndarray, "*b h w"],
        guide: Num[np.ndarray, "*b H W c"],
        *,
        span: Float[np.ndarray, "*b 2"] | None = None,
        tile: int | None = None,
        bucket: bool = False,
    ) -> Float[np.ndarray, "*b H W"]:
        """Super-resolves an image, or a batch of images of one size.

        Args:
          depth: (h, w) or (B, h, w), in units of the range, finite, holes filled.
          known: which samples were measured; the others have no say in the sample's own span (`scaling`).
          guide: (scale * h, scale * w, C), with the batch's axis if `depth` has one: uint8, uint16, or floating point
            in [0, 1]. Of an array in a file (`np.memmap`) only the tile at hand is in memory. Nothing of it is computed
            with where the model reads none.
          span: the smallest and the largest true depth, for a model that was trained to be told (`scaling="truth"`).
          tile: side of a tile, without its margins, in low-resolution samples. By default the whole image is computed
            at once where memory allows, and otherwise in tiles of a size that it allows. The result is the same, or
            nearly: see the model's `reach`.
          bucket: sizes are padded to few, so that images of many sizes share compiled programs, if the model can be
            padded. The result is the same.

        Returns:
          (scale * h, scale * w) float32, with the batch's axis if there is one, in units of the range.

        Raises:
          InputError: not even the smallest tile fits into the memory that is free.
        """
        if depth.ndim == 2:
            told = None if span is None else span[None]
            return self(depth[None], known[None], guide[None], span=told, tile=tile, bucket=bucket)[0]
        low, width = map(np.asarray, offset_and_span(depth[..., None], known[..., None], self._trained.scaling, span))
        scaled = ((depth[..., None] - low) / width).astype(np.float32)
        self._model.check(scaled, known[..., None])
        result = np.empty((len(depth), *(self._model.scale * n for n in depth.shape[1:])), np.float32)
        guide = guide if self._model.guided else guide[..., :0]
        images = {"depth": scaled, "guide": guide} | ({"mask_lr": known[..., None]} if self._model.reads_mask else {})
        bucket = bucket and self._model.paddable
        window = self._window(depth.shape, tile)
        common: dict[str, np.ndarray] | None = None
        while True:
            try:
                if common is None and window != depth.shape:  # once for the whole batch, whatever is computed at once
                    common = dict(self._model.of_whole(scaled, known[..., None]))
                    images |= self._model.images_of_whole(scaled, known[..., None])
                self._fill(result, images, common or {}, window, bucket)
                break
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not out_of_memory(error):
                    raise
                smaller = self._smaller(window, depth.shape)
                if smaller is None:
                    raise InputError(
                        f"no memory for even the smallest tile, of {window[1]} x {window[2]} low-resolution samples: "
                        "free some, or use a smaller model"
                    ) from None
                window = smaller
        result *= width[..., 0]
        result += low[..., 0]
        return result

    @property
    def _model(self) -> Model:
        return self._trained.model

    @property
    def _step(self) -> int:
        """What windows begin at multiples of, in low-resolution samples."""
        return math.lcm(self._model.stride, self._model.scale) // self._model.scale

    def _window(self, shape: Sequence[int], tile: int | None) -> Window:
        """What is computed at once of images of that shape, (B, h, w)."""
        images, height, width = shape
        if tile is not None:
            if tile < 1:
                raise InputError(f"a tile of {tile} samples: give at least 1")
            side = tile + 2 * self._model.reach
            return 1, min(side, height), min(side, width)
        devices = self._mesh.devices.flat
        budget = min(MOST_MEMORY, memory.free(devices[0]) / 2) * len(devices)
        area = max(int(budget / self._model.bytes_per_sample), 1)
        if height * width <= area:
            return min(images, area // (height * width)), height, width
        side = math.isqrt(area)
        rows = min(height, side)
        columns = min(width, area // rows)
        reach = self._model.reach
        return 1, min(height, widest(area // columns, reach)), min(width, widest(columns, reach))

    def _smaller(self, window: Window, shape: Sequence[int]) -> Window | None:
        """About half of it; None where that leaves nothing between the margins."""
        images, *sides = window
        if images > 1:
            return math.ceil(images / 2), sides[0], sides[1]
        larger = int(sides[1] > sides[0])
        least = min(2 * self._model.reach + 1, shape[1 + larger])
        if sides[larger] <= least:
            return None
        sides[larger] = max(math.ceil(sides[larger] / 2), least)
        return 1, sides[0], sides[1]

    def _fill(
        self,
        result: np.ndarray,
        images: Mapping[str, np.ndarray],
        told: Mapping[str, np.ndarray],
        window: Window,
        bucket: bool,
    ) -> None:
        """Computes the result of every image, in place; `told` are the numbers of each that its tiles are given."""
        count, *most = window
        for first in range(0, len(result), count):
            group = slice(first, first + count)
            some = {name: array[group] for name, array in images.items()}
            run = functools.partial(self._run, some, bucket=bucket)

            def cut(reach: int) -> list[Tile]:
                return tiles(images["depth"].shape[1:3], (most[0], most[1]), reach, fill=bucket, step=self._step)

            given: dict[str, Any] = {name: array[group] for name, array in told.items()}
            for _ in range(self._model.pools if len(cut(self._model.reach)) > 1 else 0):
                given["pooled"] = (*given.get("pooled", ()), _pooled(run, cut(self._model.pooled_reach), given))
            for tile in cut(self._model.reach):
                output, scale = run("depth", tile, **given), self._model.scale
                high = [slice(scale * s.low, scale * s.high) for s in tile]
                part = [slice(scale * (s.low - s.start), scale * (s.high - s.start)) for s in tile]
                result[group, high[0], high[1]] = output[:, part[0], part[1]]

    def _run(self, images: Mapping[str, np.ndarray], wanted: Wanted, tile: Tile, *, bucket: bool, **given: Any) -> Any:
        """What is wanted of one tile, NumPy, of the tile's own size."""
        there = np.array([s.stop - s.start for s in tile], np.int32)
        height, width = (padded_to(int(n)) if bucket else int(n) for n in there)
        devices = self._mesh.shape["spatial"]
        if devices > 1:
            height = max(math.ceil(height / devices), self._model.least_rows) * devices
        scale = self._model.scale
        rows, columns = tile
        inputs = dict(given)
        for name, array in images.items():
            k = array.shape[1] // images["depth"].shape[1]
            inputs[name] = array[:, k * rows.start : k * rows.stop, k * columns.start : k * columns.stop]
        if bucket or (height, width) != tuple(there):
            beside = [(0, 0), (0, height - there[0]), (0, width - there[1]), (0, 0)]
            inputs["depth"] = np.pad(inputs["depth"], beside, "edge")
            inputs["guide"] = np.pad(inputs["guide"], scale * np.array(beside))
            inputs["size"] = there
        whole = replicated(self._mesh)
        over_rows = batch_sharding(self._mesh)
        shardings = {k: over_rows if k in images else jax.tree.map(lambda _: whole, v) for k, v in inputs.items()}
        program = self._program(wanted, inputs, shardings)
        output = jax.tree.map(np.asarray, program(self._params, **jax.device_put(inputs, shardings)))
        return output[:, : scale * there[0], : scale * there[1]] if wanted == "depth" else output

    def _program(self, wanted: Wanted, inputs: dict[str, Any], shardings: dict[str, Any]) -> Any:
        """The compiled program for inputs of these shapes."""
        leaves, tree = jax.tree.flatten(inputs)
        key = wanted, tree, tuple((x.shape, str(x.dtype)) for x in leaves)
        if key not in self._programs:
            shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), inputs, shardings)
            program = jax.jit(functools.partial(network, self._model, wanted)).lower(self._params, **shapes).compile()
            needed = program.memory_analysis()
            # The host's system promises more than it has, and ends the process that takes it.
            if needed is not None and needed.temp_size_in_bytes > memory.free(self._mesh.devices.flat[0]):
                raise MemoryError
            self._programs[key] = program
        return self._programs[key]


def _pooled(run: Any, parts: Sequence[Tile], given: Mapping[str, Any]) -> Any:
    """The next statistics of the whole image, gathered tile by tile: a tree of `tiles.Moments`, float32."""
    whole: Any = None
    for tile in parts:
        inside = [[s.low - s.start, s.high - s.start] for s in tile]
        part = run("pooled", tile, part=np.array(inside, np.int32).ravel(), **given)
        whole = part if whole is None else jax.tree.map(joined, whole, part, is_leaf=lambda x: isinstance(x, dict))
    return jax.tree.map(np.float32, whole)


def out_of_memory(error: Exception) -> bool:
    """Whether this is what a device raises that has no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def keep_compiled() -> None:
    """Keeps compiled programs on disk, in ~/.cache/ahmf_jax/compiled, unless JAX has been told where to keep them.

    A folder for each kind of processor: a program compiled for one may not run on another that shares the disk.
    """
    set_already = jax.config.jax_compilation_cache_dir is not None  # type: ignore[attr-defined]
    if set_already or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return
    kind = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    folder = f"{jax.__version__}-{zlib.crc32(kind.encode()):08x}"
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ahmf_jax" / "compiled" / folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", QUICK_TO_COMPILE)
