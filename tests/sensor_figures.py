"""The figures of docs/sensors.md on factors, holes, flips and consistency, on images with known depth.

    python -m tests.sensor_figures RUN_OR_BUNDLE FOLDER [--names art books moebius]

The folder holds pairs NAME_depth.png and NAME_rgb.png; of each the top left 540 x 660 pixels are taken. The low
resolution is made by `matlab_bicubic` unless a table says otherwise. Mean absolute errors, in the images' unit.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ahmf_jax import strips
from ahmf_jax.holes import fill_holes
from ahmf_jax.upsample import Upsampler, load
from data_pipelines.files import read_depth, read_guide

Image = tuple[np.ndarray, np.ndarray]  # depth, guide
KERNEL = "matlab_bicubic"
HEIGHT, WIDTH = 540, 660


def resized(depth: np.ndarray, size: Any, kernel: str = KERNEL) -> np.ndarray:
    return strips.resize(depth[None], tuple(size), kernel)[0]


def cut(image: Image, factor: float) -> tuple[Image, tuple[int, int]]:
    """The image at a size that a whole number of samples has, and that number."""
    depth, guide = image
    low = tuple(int(n / factor + 1e-9) for n in depth.shape)
    height, width = (round(factor * n) for n in low)
    return (depth[:height, :width], guide[:height, :width]), (low[0], low[1])


def table(title: str, rows: dict[str, list[float]], columns: list[str]) -> None:
    print(f"\n{title}\n{'':24}" + "".join(f"{column:>12}" for column in columns))
    for name, values in rows.items():
        print(f"{name:24}" + "".join(f"{value:12.3f}" for value in values), flush=True)


def factors(model: Upsampler, images: list[Image]) -> None:
    """This way, and the others there are: the input brought to the network's scale, or its output to the wanted."""
    scale = model.scale
    rows: dict[str, list[float]] = {"bicubic": [], "input resampled": [], "output resampled": [], "run(factor=...)": []}
    wanted = [1.5, 2.7, 3, 4, 5, 6, 8]
    for factor in wanted:
        errors: dict[str, list[float]] = {name: [] for name in rows}
        for image in images:
            (depth, guide), low_size = cut(image, factor)
            low = resized(depth, low_size)
            before = [math.ceil(n / scale) for n in depth.shape]

            def whole(low: np.ndarray, guide: np.ndarray = guide, size: Any = depth.shape) -> np.ndarray:
                fitting = strips.resize_guide(guide[None], (scale * low.shape[0], scale * low.shape[1]))[0]
                return resized(model(low, fitting), size)

            for name, result in (
                ("bicubic", resized(low, depth.shape)),
                ("input resampled", whole(resized(low, before))),
                ("output resampled", whole(low)),
                ("run(factor=...)", model(low, guide, factor=factor)),
            ):
                errors[name].append(float(np.abs(result - depth).mean()))
        for name, values in errors.items():
            rows[name].append(float(np.mean(values)))
    table("Factors", rows, [f"x{factor:g}" for factor in wanted])


def holes(model: Upsampler, images: list[Image]) -> None:
    """Samples lost one by one and in patches of a few samples, a tenth of all; beside a hole is within two samples."""

    def single(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        return rng.random(size) < 0.9

    def patches(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        smooth = ndimage.gaussian_filter(rng.standard_normal(size), 2.0)
        return smooth < np.quantile(smooth, 0.9)

    losses: tuple[Callable[..., np.ndarray], ...] = (single, patches)
    rows: dict[str, list[float]] = {"nothing lost": [], "nearest": [], "by colour": []}
    for lose in losses:
        errors: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for number, image in enumerate(images):
            (depth, guide), size = cut(image, model.scale)
            low = resized(depth, size)
            known = lose(np.random.default_rng(number), size)
            above = known.repeat(model.scale, 0).repeat(model.scale, 1)
            beside = above & (ndimage.distance_transform_edt(above) <= 2 * model.scale)
            for name, result in (
                ("nothing lost", model(low, guide)),
                ("nearest", model(fill_holes(low, known), guide)),
                ("by colour", model(low, guide, mask=known, holes="fill")),
            ):
                off = np.abs(result - depth)
                errors[name].append((float(off[beside].mean()), float(off[~above].mean())))
        for name, values in errors.items():
            rows[name] += list(np.mean(values, 0))
    table("Holes", rows, ["1: beside", "1: inside", "few: beside", "few: inside"])


def options(model: Upsampler, images: list[Image]) -> None:
    """Flips and consistency, by how the low resolution was made."""
    kernels = (KERNEL, "area")
    choices: dict[str, dict[str, bool]] = {
        "as it is": {},
        "tta": {"tta": True},
        "consistent": {"consistent": True},
        "both": {"tta": True, "consistent": True},
    }
    rows: dict[str, list[float]] = {name: [] for name in choices}
    spreads = []
    for kernel in kernels:
        for name, chosen in choices.items():
            errors = []
            for image in images:
                (depth, guide), size = cut(image, model.scale)
                result = model.run(resized(depth, size, kernel), guide, **chosen)
                off = np.abs(result.depth - depth)
                errors.append((off.mean(), np.sqrt((off**2).mean())))
                if result.spread is not None:
                    order = result.spread.ravel().argsort()
                    most = off.ravel()[order[-len(order) // 20 :]]
                    spreads.append(most.sum() / off.sum())
            rows[name] += list(np.mean(errors, 0))
    table("Options", rows, [f"{kernel[:6]} {what}" for kernel in kernels for what in ("MAE", "RMSE")])
    print(f"the 5 % of pixels of the largest spread hold {100 * np.mean(spreads):.0f} % of the absolute error")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="*", default=["art", "books", "moebius"])
    args = parser.parse_args()
    model = load(args.weights)
    images = [
        (
            read_depth(args.folder / f"{name}_depth.png", 2**24)[:HEIGHT, :WIDTH].astype(np.float32),
            read_guide(args.folder / f"{name}_rgb.png", 2**24)[:HEIGHT, :WIDTH],
        )
        for name in args.names
    ]
    for measure in (factors, holes, options):
        measure(model, images)


if __name__ == "__main__":
    main()
