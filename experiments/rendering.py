"""`ahmf benchmark rendering`: what super-resolved disparity is worth for a second view (the AHMF paper's Table V).

The left view is warped by each method's disparity to the right view's place and compared with the real one
(`ahmf_jax/rendering.py`). Pixels of the left view whose true disparity is unknown are warped by none. What counts are
the pixels that both the truth's disparity and the method's fill. These are others for each method, and what is hard may
be what it leaves out: so the truth's PSNR over the very same pixels stands beside it, and the share of the truth's
pixels that it fills. The truth's own row is over all that it fills, and bounds no other.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.rendering import psnr, render
from ahmf_jax.writing import write_whole
from data_pipelines.datasets import Dataset
from data_pipelines.datasets.middlebury.layout import SIZES
from experiments.data import default_split, open_named
from experiments.evaluate import how_made, whole_batch
from experiments.evaluations import finite
from experiments.methods import Method, open_methods
from experiments.protocols import PROTOCOLS

if TYPE_CHECKING:
    from experiments.commands.benchmark import BenchmarkRendering

# Left view -> right view, as Middlebury calls them.
VIEWS = {"view1": "view5", "im2": "im6", "im0": "im1"}
PROTOCOL = "float"
TRUTH = "truth"


class Pair(NamedTuple):
    """Two views of a scene: its name, their places in the data set, and the pixels that a value of disparity is."""

    scene: str
    left: int
    right: int
    pixels: float


@dataclass(frozen=True)
class Scene:
    """A method's rendering of a scene.

    Attributes:
      method, scene: which.
      psnr: in dB, over the pixels that both the method's disparity and the truth's fill.
      truth: that of the true disparity over the same pixels.
      filled: the part that the method fills of what the truth fills.
    """

    method: str
    scene: str
    psnr: float
    truth: float
    filled: float


def benchmark_rendering(command: "BenchmarkRendering") -> None:
    """Renders, prints the table, and writes the numbers to a JSON file where that is asked for.

    Raises:
      InputError: an unknown method or data set, one without second views or without disparity, or a file that cannot
        be written.
    """
    from tqdm import tqdm

    from experiments.upsample import check_place

    if command.out is not None:
        check_place(command.out)
    split = default_split(command.dataset, command.data_dir) if command.split is None else command.split
    dataset = open_named(command.dataset, split, command.data_dir)
    pairs = find_pairs(dataset, f"--dataset {command.dataset}" + (f" --split {split}" if split else ""))
    methods = open_methods(command.methods, command.scale, PROTOCOLS[PROTOCOL])
    scenes = [
        scene
        for pair in tqdm(pairs, unit="scene", disable=None, leave=False)
        for scene in measure(dataset, pair, methods)
    ]
    scale = next(iter(methods.values())).scale
    print(f"x{scale}, the right views of {len(pairs)} scenes of {dataset.info.name}, {split or 'all of it'}")
    print(f"low resolution: {PROTOCOLS[PROTOCOL].degrade}; disparity not rounded; PSNR of RGB, peak 255")
    for name, method in methods.items():
        print(f"{name}: {method.origin}")
    print(table(scenes))
    if command.out is not None:
        record = {
            "dataset": dataset.info.name,
            "split": split,
            "scale": scale,
            "degrade": str(PROTOCOLS[PROTOCOL].degrade),
            "methods": {name: method.origin for name, method in methods.items()},
            "scenes": [asdict(scene) for scene in scenes],
            "made": how_made(),
        }
        write_whole(command.out, json.dumps(finite(record), indent=1).encode())


def find_pairs(dataset: Dataset, called: str) -> list[Pair]:
    """The scenes of which both views are there. `called` is how a user chose the data.

    Raises:
      InputError: depth that is no disparity of known scale, or no scene with two views.
    """
    if dataset.info.unit not in ("grey level", "pixel"):
        raise InputError(
            f"{called}: is in {dataset.info.unit}, and views are synthesised from disparity: prepare Middlebury with "
            "--quantity disparity"
        )
    places = {name: place for place, name in enumerate(dataset.names)}
    pairs = []
    for name, place in places.items():
        scene, _, view = name.rpartition("/")
        pixels, right = pixels_per_value(name), places.get(f"{scene}/{VIEWS.get(view)}")
        if pixels is not None and right is not None:
            pairs.append(Pair(scene.rpartition("/")[2], place, right, pixels))
    if not pairs:
        raise InputError(
            f"{called}: has no scene with a left and a right view and disparity of known scale: choose Middlebury with "
            "both views, as in --dataset middlebury --split test"
        )
    return pairs


def pixels_per_value(name: str) -> float | None:
    """Pixels of disparity that a value of 1 is, by an example's name in the Middlebury data set; None of any other."""
    parts = re.fullmatch(r"(\d{4})/(\w+)/([\w-]+)/\w+", name)
    if parts is None or parts[1] not in SIZES or parts[3] == "map":  # of Map the scale was not published
        return None
    divisors = dict(SIZES[parts[1]].values())
    if parts[1] == "2001":
        return 1 / 8
    return 1 / divisors[parts[2]] if parts[2] in divisors else None


def measure(dataset: Dataset, pair: Pair, methods: dict[str, Method]) -> list[Scene]:
    """The renderings of a scene by the true disparity and by each method's."""
    left, right = dataset[pair.left], dataset[pair.right]
    if left.depth.shape != right.depth.shape:
        raise InputError(f"{left.name} and {right.name} have different sizes: prepare the data set again")
    scale = next(iter(methods.values())).scale
    batch = whole_batch(left, pair.left, dataset.info, scale, PROTOCOLS[PROTOCOL])
    known = batch["mask_hr"][0, ..., 0]
    height, width = known.shape
    colour, real = left.guide[:height, :width], right.guide[:height, :width]
    to_pixels = dataset.info.range * pair.pixels
    truth = render(colour, batch["depth_hr"][0, ..., 0] * to_pixels, known)
    own = psnr(truth.image, real, truth.filled)
    scenes = [Scene(TRUTH, pair.scene, own, own, 1.0)]
    for name, method in methods.items():
        disparity = method.batch(batch)[0, ..., 0].astype(np.float32) * np.float32(to_pixels)
        view = render(colour, disparity, known)
        both = view.filled & truth.filled
        bound, part = psnr(truth.image, real, both), both.sum() / max(truth.filled.sum(), 1)
        scenes.append(Scene(name, pair.scene, psnr(view.image, real, both), bound, part))
    return scenes


def table(scenes: Sequence[Scene]) -> str:
    """A row a method: the PSNR of each scene, their mean, the truth's over the same pixels, and the share filled."""
    names = list(dict.fromkeys(scene.scene for scene in scenes))
    rows = [["", *names, "mean", "truth there", "filled"]]
    for method in dict.fromkeys(scene.method for scene in scenes):
        of = [scene for scene in scenes if scene.method == method]
        means = [float(np.mean([getattr(scene, name) for scene in of])) for name in ("psnr", "truth")]
        values = [*(scene.psnr for scene in of), *means]
        rows.append([method, *(f"{value:.2f}" for value in values), f"{np.mean([s.filled for s in of]):.1%}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
