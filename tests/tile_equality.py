"""How far tiles are from the whole image, over scales, variants, levels and sizes: `python -m tests.tile_equality`.

With `--weights RUN --depth FILE --guide FILE` the same on one's own weights and images. Every figure is the largest
difference, as a part of the span of the result. "Alone" are tiles that know nothing of each other: the same margins,
and each with the statistics of its own.
"""

import argparse
import itertools
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import jax

from ahmf_jax import upsample
from ahmf_jax.engine import Engine
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF
from ahmf_jax.models.ahmf import SCALES
from ahmf_jax.state import init_params
from data_pipelines.files import read_depth, read_guide

Images = tuple[np.ndarray, np.ndarray, np.ndarray]


def shapes(model: AHMF) -> Any:
    """Of its parameters."""
    return jax.eval_shape(lambda: init_params(model))


def random_weights(model: AHMF, scaling: Any = "sample") -> Trained:
    """Larger than at the start of a training, so that the attention says something."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 1.5 / np.sqrt(max(np.prod(x.shape[:-1]), 9)), x.shape), shapes(model))
    return Trained(model, jax.tree.map(lambda x: x.astype(np.float32), params), scaling)


def random_images(height: int, width: int, scale: int, seed: int = 0) -> Images:
    """Depth, known, guide: brighter to the right, so that the statistics of a part are not those of the whole."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, width)
    depth = (ramp + rng.random((height, width))).astype(np.float32) / 2
    guide = 255 * ramp.repeat(scale)[:, None] * rng.random((height * scale, width * scale, 3))
    return depth, depth > 0.1, guide.astype(np.uint8)


def row(trained: Trained, images: Images, tiles: list[int], devices: int) -> tuple[float, list[float], float, float]:
    """The span of the whole, the largest differences from it of each tile size, of 8 devices, and of tiles alone."""
    engine = Engine(trained)
    whole = engine(*images)
    differences = [float(np.abs(engine(*images, tile=tile) - whole).max()) for tile in tiles]
    shared = float(np.abs(Engine(trained, jax.devices()[:devices])(*images) - whole).max())
    with mock.patch.object(AHMF, "pools", False):
        alone = float(np.abs(engine(*images, tile=tiles[-1]) - whole).max())
    return float(np.ptp(whole)), differences, shared, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "depth", "guide"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 4, 7])
    parser.add_argument("--tiles", type=int, nargs="+", default=[3, 8, 21])
    given = parser.parse_args()
    devices = len(jax.devices())
    tiles = " | ".join(f"tile {tile}" for tile in given.tiles)
    print(f"| network | span | {tiles} | {devices} devices | tiles of {given.tiles[-1]} alone |")
    print("|---|" + "---|" * (len(given.tiles) + 3))
    if given.weights is not None:
        trained = upsample.load_trained(given.weights)
        depth = read_depth(given.depth).astype(np.float32) / trained.range
        cases = [(trained, (depth, np.isfinite(depth), read_guide(given.guide)))]
    else:
        models = itertools.product(SCALES, ("release", "paper"), given.levels)
        cases = [
            # So large that there are tiles, whatever their margins.
            (random_weights(model), random_images(2 * model.reach + 30, 2 * model.reach + 35, model.scale))
            for model in (AHMF(scale, m, 8, variant) for scale, variant, m in models)  # type: ignore[arg-type]
        ]
    for trained, images in cases:
        model = trained.model
        span, differences, shared, alone = row(trained, images, given.tiles, devices)
        values = " | ".join(f"{x / span:.1e}" for x in (*differences, shared, alone))
        print(f"| x{model.scale} {model.variant} m = {model.num_levels} | {span:.3g} | {values} |", flush=True)


if __name__ == "__main__":
    main()
