"""`ahmf benchmark baselines`: the parameters of the filters that need no training, searched on training scenes.

A grid is walked one parameter at a time, from its middle: all values of one are tried with the others held, the best
is kept, and so on with the next until a round changes nothing. A better setting that differs in two parameters at once
may be missed; a whole grid takes ten times as long. What is printed at the end goes into
`ahmf_jax/models/classical.py`.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.models.classical import FILTERS, Classical
from ahmf_jax.writing import write_whole
from data_pipelines.datasets import Dataset, Example
from data_pipelines.datasets.splits import protocols
from data_pipelines.loader import Batch, whole_example
from data_pipelines.opening import some
from experiments.data import open_named
from experiments.evaluate import measure
from experiments.methods import Method, open_method
from experiments.protocols import PROTOCOLS, Protocol
from experiments.upsample import check_place

# Lengths in pixels are in parts of the scale: see `grid`.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "guided_filter": {"radius": (0.25, 0.5, 1.0, 2.0, 4.0), "eps": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)},
    # Wider windows may do better with noise; at x16 the widest of these is the slowest of all filters already.
    "joint_bilateral": {"sigma_space": (0.25, 0.5, 0.75, 1.0), "sigma_color": (0.02, 0.05, 0.1, 0.2, 0.4)},
    "joint_bilateral_upsampling": {
        "radius": (1, 2, 3),
        "sigma_space": (0.4, 0.5, 0.7, 1.0, 1.5, 2.0),
        "sigma_color": (0.01, 0.02, 0.05, 0.1, 0.2),
    },
    "fast_global_smoother": {
        "smoothness": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0),
        "sigma_color": (1.0, 2.0, 4.0, 8.0, 16.0),
    },
    "fast_bilateral_solver": {
        "sigma_space": (0.5, 1.0, 2.0),
        "sigma_luma": (4, 8, 16),
        "sigma_chroma": (2, 4, 8),
        "smoothness": (8.0, 32.0, 128.0, 512.0),
    },
}
PIXELS = {("guided_filter", "radius"), ("joint_bilateral", "sigma_space"), ("fast_bilateral_solver", "sigma_space")}
WHOLE = {"radius", "sigma_luma", "sigma_chroma"}
WHOLE_PIXELS = {("fast_bilateral_solver", "sigma_space")}

# Side of the square in the middle of each image that is searched on: hundreds of settings are tried.
CROP = 256

OTHER_SPLIT = "choose another split, as in --dataset middlebury --split train"

Parameters = dict[str, int | float]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
      method, scale: what was searched.
      noisy: whether low resolution had noise.
      parameters: the best.
      mae: with them, the mean over the images.
      bicubic: the same of the protocol's interpolation.
      tried: how many settings.
      ends: of the parameters, those that ended at an end of their grid: more of it may do better.
    """

    method: str
    scale: int
    noisy: bool
    parameters: Parameters
    mae: float
    bicubic: float
    tried: int
    ends: tuple[str, ...]


def benchmark_baselines(
    dataset: str,
    split: str,
    scale: Sequence[int],
    methods: Sequence[str],
    images: int,
    noise: Sequence[str],
    data_dir: Path | None,
    out: Path | None,
) -> None:
    """Searches, prints the table and the literal to paste, and writes both to the JSON file `out` if given.

    Raises:
      InputError: nothing but test scenes, other data than grey levels, an unknown method, numbers that are not
        possible, or `out` cannot be written.
    """
    from tqdm import tqdm

    methods = check_methods(methods or tuple(FILTERS))
    if not scale or min(scale) < 2:
        raise InputError(f"--scale {' '.join(map(str, scale))}: give scales of 2 and more, as in --scale 4 8 16")
    if images < 1:
        raise InputError(f"--images {images}: at least one is needed")
    if out is not None:
        check_place(out)
    check_training(dataset, split)
    opened = open_named(dataset, split, data_dir)
    if opened.info.range != 255:
        raise InputError(
            f"--dataset {dataset}: has a range of {opened.info.range:g} {opened.info.unit}, and the protocols of the "
            "search are of grey levels: choose a data set with a range of 255"
        )
    training = training_places(opened.names, f"--dataset {dataset} --split {split}")
    chosen = [training[i] for i in spread(len(training), images)]
    names = [opened.names[place] for place in chosen]
    tested = [name for place, name in enumerate(opened.names) if place not in training]
    if tested:
        print(f"passed over, as some paper tests on their scenes: {some(tested)}")
    print(f"the middle {CROP} x {CROP} pixels of {', '.join(names)} of {opened.info.name}", flush=True)
    found = []
    with tqdm(total=len(noise) * len(scale) * len(methods), unit="search", disable=None, leave=False) as bar:
        for kind in noise:
            protocol = PROTOCOLS["ahmf_table2" if kind == "noisy" else "ahmf_table1"]
            bar.write(f"{kind}: {protocol}")
            for one in search(opened, chosen, scale, methods, protocol, noisy=kind == "noisy"):
                bar.write(line(one))
                bar.update()
                found.append(one)
    for kind in noise:
        print(f"\n# {kind}\n{literal([one for one in found if one.noisy == (kind == 'noisy')])}")
    if out is not None:
        record = {"dataset": dataset, "split": split, "images": names, "grids": GRIDS}
        write_whole(out, json.dumps({**record, "found": [vars(one) for one in found]}, indent=1).encode())


def check_methods(methods: Sequence[str]) -> Sequence[str]:
    """The methods. InputError for one that is no filter."""
    for name in methods:
        if name not in FILTERS:
            raise InputError(f"--methods {name}: is no filter with parameters: choose of {', '.join(FILTERS)}")
    return methods


def check_training(dataset: str, split: str) -> None:
    """InputError where the data set or its split is called a test."""
    parts = [Path(dataset).name, *(part.rpartition("/")[2] for part in split.split("+"))]
    tests = [part for part in parts if part.lower().startswith("test")]
    if tests:
        raise InputError(
            f"--dataset {dataset} --split {split}: {tests[0]!r} is called a test, and parameters are searched on "
            f"training scenes alone: {OTHER_SPLIT}"
        )


@functools.cache
def test_scenes() -> frozenset[str]:
    """The scenes of Middlebury that are in the test of any paper's split of it, in lower case."""
    return frozenset(
        scene.rstrip("*").lower()
        for named in protocols("middlebury").values()
        for split, entries in named.splits.items()
        if split.startswith("test")
        for scene in re.findall(named.scene or "", "\n".join(map(str, entries)), re.MULTILINE)
    )


def training_places(names: Sequence[str], called: str) -> list[int]:
    """The places of the images whose scene is in no paper's test. InputError where there is none."""
    found = [i for i, name in enumerate(names) if not {*re.split(r"[/_.-]", name.lower())} & test_scenes()]
    if not found:
        raise InputError(
            f"{called}: all its images are of scenes that some paper tests on, and parameters are searched on training "
            f"scenes alone: {OTHER_SPLIT}"
        )
    return found


def spread(count: int, most: int) -> list[int]:
    """`most` places of `count`, or all, at even distances: the middle of each part."""
    most = min(count, most)
    return [(2 * i + 1) * count // (2 * most) for i in range(most)]


def middle(example: Example) -> Example:
    """The square in the middle of an image, or what there is of it."""
    top, left = (max(0, (n - CROP) // 2) for n in example.depth.shape)
    part = slice(top, top + CROP), slice(left, left + CROP)
    return Example(example.guide[part], example.depth[part], example.mask[part], example.name)


def grid(method: str, scale: int) -> dict[str, list[int | float]]:
    """The values that each parameter may have at a scale, ascending."""
    values: dict[str, list[int | float]] = {}
    for name, parts in GRIDS[method].items():
        at_scale = [part * scale if (method, name) in PIXELS else part for part in parts]
        if name in WHOLE or (method, name) in WHOLE_PIXELS:
            values[name] = sorted({max(1, round(value)) for value in at_scale})
        else:
            values[name] = [float(value) for value in at_scale]
    return values


def search(
    dataset: Dataset,
    places: Sequence[int],
    scales: Sequence[int],
    methods: Sequence[str],
    protocol: Protocol,
    noisy: bool,
) -> Iterator[Found]:
    """The best parameters of each method at each scale, one after the other."""
    for scale in scales:
        batches = [
            whole_example(middle(dataset[place]), dataset.info, scale=scale, degradation=protocol.degrade, seed=place)
            for place in places
        ]
        error_of = functools.partial(mean_error, batches, dataset.info.range, protocol)
        bicubic = error_of(open_method("bicubic", scale, protocol))
        for name in methods:
            best, error, tried, ends = search_one(name, scale, error_of)
            yield Found(name, scale, noisy, best, error, bicubic, tried, ends)


def search_one(
    name: str, scale: int, error_of: Callable[[Method], float]
) -> tuple[Parameters, float, int, tuple[str, ...]]:
    """A method's best parameters at a scale, their error, how many settings were tried, and which are at an end."""
    values = grid(name, scale)
    best, error, tried = walk(values, lambda given: error_of(Classical(name, scale, noisy=False, **given)))
    return best, error, tried, tuple(p for p, value in best.items() if value in (values[p][0], values[p][-1]))


def mean_error(batches: Sequence[Batch], depth_range: float, protocol: Protocol, method: Method) -> float:
    """The mean over images of the mean absolute error as the protocol measures it, in the data set's unit."""
    errors = [measure(method.batch(batch), batch, depth_range, protocol).mae for batch in batches]
    return float(np.mean(errors))


def walk(values: dict[str, list[int | float]], error: Callable[[Parameters], float]) -> tuple[Parameters, float, int]:
    """The best setting that changing one parameter cannot better, its error, and the number of settings tried."""
    best = {name: of[len(of) // 2] for name, of in values.items()}
    known: dict[tuple[int | float, ...], float] = {}

    def tried(parameters: Parameters) -> float:
        key = tuple(parameters.values())
        if key not in known:
            known[key] = error(parameters)
        return known[key]

    while True:
        before = best
        for name, of in values.items():
            best = min(({**best, name: value} for value in of), key=tried)
        if best == before:
            return best, tried(best), len(known)


def line(found: Found) -> str:
    """A row of the table."""
    values = ", ".join(f"{name} {value:g}" for name, value in found.parameters.items())
    ends = f"; at the grid's end: {', '.join(found.ends)}" if found.ends else ""
    return (
        f"x{found.scale:<3} {found.method:<27} MAE {found.mae:.3f}   bicubic {found.bicubic:.3f}   {values}   "
        f"({found.tried} tried{ends})"
    )


def literal(found: Sequence[Found]) -> str:
    """The parameters as Python, by method and scale."""
    lines = ["{"]
    for method in dict.fromkeys(one.method for one in found):
        lines.append(f'    "{method}": {{')
        for one in found:
            if one.method == method:
                values = ", ".join(f'"{name}": {value!r}' for name, value in one.parameters.items())
                lines.append(f"        {one.scale}: {{{values}}},")
        lines.append("    },")
    return "\n".join([*lines, "}"])
