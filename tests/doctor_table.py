"""How often `ahmf doctor --depth` is right: `python -m tests.doctor_table DATA`.

DATA is a folder with `test10` (NAME_depth.png, NAME_rgb.png), `middlebury/YEAR/SIZE/SCENE` as Middlebury has them, and
`sintel_depth/*.png`; what is missing is left out. Every image is made small by x4, whole and then spoilt in the ways
that the doctor knows, rounded as its file is. Printed for each way are the images, how many were told right, how many
were told nothing, and how many were told something that is wrong. Of what is not spoilt, every alarm counts as wrong.
"""

import argparse
import collections
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.holes import fill_holes
from data_pipelines.datasets.scenes.builder import render
from data_pipelines.degrade import degrade
from data_pipelines.files import read_depth, read_guide
from experiments.doctor_depth import examine
from experiments.findings import Finding

SCALE, SCENES = 4, 24
Case = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, dict[str, Any]] | None]


def images(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, disparity (0 where unknown), and guide."""
    import cv2

    places = [(path, path.with_name(path.name.replace("_depth", "_rgb"))) for path in data.glob("test10/*_depth.png")]
    for name in ("view1 disp1", "view5 disp5", "im2 disp2", "im6 disp6"):
        image, disparity = (f"{each}.png" for each in name.split())
        places += [(path.with_name(disparity), path) for path in data.glob(f"middlebury/200[36]/*/*/{image}")]
    for depth, guide in sorted(places):
        # Not `read_depth`: two scenes are stored in colour with alpha.
        yield f"{depth.parent.name}/{depth.stem}", cv2.imread(str(depth), cv2.IMREAD_GRAYSCALE), read_guide(guide)


def small(disparity: np.ndarray, kernel: str) -> np.ndarray:
    """Low resolution, holes filled, of a disparity whose 0 is unknown; float32."""
    filled = fill_holes(disparity, disparity != 0, "background")
    return degrade(filled, np.ones(filled.shape, bool), SCALE, kernel)[0]


def grey(depth: np.ndarray) -> np.ndarray:
    """As 8 bits hold it."""
    return np.rint(depth).clip(0, 255).astype(np.uint8)


def plain(kernel: str = "matlab_bicubic", **options: Any) -> Case:
    """Not spoilt."""
    return lambda disparity, guide: (grey(small(disparity, kernel)), guide, options)


def shifted(right: int, down: int = 0) -> Case:
    """The guide lies to the right and down of the depth."""

    def spoil(disparity: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        # Both cut to whole samples: no border may tell.
        cut = 4 * SCALE
        moved = np.roll(guide, (down, right), (0, 1))[cut:-cut, cut:-cut]
        return grey(small(disparity, "matlab_bicubic"))[4:-4, 4:-4], moved, {}

    return spoil


def turned(turn: Callable[[np.ndarray], np.ndarray]) -> Case:
    """The guide is mirrored or turned."""
    return lambda disparity, guide: (grey(small(disparity, "matlab_bicubic")), turn(guide), {})


def raw_holes(disparity: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]] | None:
    """The holes that the camera pair left, as 0; only where there are some."""
    depth = disparity[::SCALE, ::SCALE]
    return (depth, guide, {}) if (depth == 0).mean() >= 0.001 else None


def made_holes(value: int, share: float = 0.02) -> Case:
    """Round holes of a radius of three samples."""

    def spoil(disparity: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        depth = grey(small(disparity, "matlab_bicubic")).clip(1, 254)
        rng, (rows, columns) = np.random.default_rng(0), np.indices(depth.shape)
        for y, x in rng.integers(0, depth.shape, (int(share * depth.size / 28) + 1, 2)):
            depth[(rows - y) ** 2 + (columns - x) ** 2 <= 9] = value
        return depth, guide, {}

    return spoil


def metric(per_metre: float, dtype: type) -> Case:
    """Depth of 1 to 3 m, as f B / (d + d_0) has it for Middlebury's camera, near enough."""

    def spoil(disparity: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        depth = per_metre * 600 / (small(disparity, "matlab_bicubic") + 200)
        return (np.rint(depth) if dtype is np.uint16 else depth).astype(dtype), guide, {}

    return spoil


def clipped(disparity: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The nearest tenth is at the end of the 8 bits."""
    depth = small(disparity, "matlab_bicubic")
    return grey(depth * 255 / np.quantile(depth, 0.9)), guide, {}


def value_of(about: str, found: list[Finding]) -> Any:
    """What was said of it: the value of an alarm if there is one, else of what was told."""
    said = sorted((each for each in found if each.about == about), key=lambda each: -each.wrong)
    return said[0].value if said else None


def near(right: float, down: float) -> Callable[[Any], bool]:
    """Whether a shift is told to a pixel and a half."""
    return lambda value: isinstance(value, tuple) and max(abs(value[0] - right), abs(value[1] - down)) <= 1.5


def is_(value: Any) -> Callable[[Any], bool]:
    """Whether that is told."""
    return lambda other: other == value


CASES: dict[str, tuple[Case, str, Callable[[Any], bool]]] = {
    "guide as it is": (plain(), "alignment", near(0, 0)),
    "guide 3 px to the right": (shifted(3), "alignment", near(3, 0)),
    "guide 8 px to the right, 5 up": (shifted(8, -5), "alignment", near(8, -5)),
    "guide mirrored": (turned(lambda g: g[:, ::-1]), "alignment", is_("mirrored left to right")),
    "guide turned by 180 degrees": (turned(lambda g: g[::-1, ::-1]), "alignment", is_("turned by 180 degrees")),
    "no holes": (plain(), "holes", is_(None)),
    "raw holes, 0": (raw_holes, "holes", is_(0)),
    "made holes, 0": (made_holes(0), "holes", is_(0)),
    "made holes, 255": (made_holes(255), "holes", is_(255)),
    "8-bit disparity": (plain(), "unit", is_("none")),
    "millimetres, 16 bits": (metric(1000, np.uint16), "unit", is_("mm")),
    "metres, float": (metric(1, np.float32), "unit", is_("m")),
    "disparity": (plain(), "meaning", is_("disparity")),
    "depth": (metric(1000, np.uint16), "meaning", is_("depth")),
    "not clipped": (plain(), "saturation", is_(None)),
    "nearest tenth clipped": (clipped, "saturation", is_(255)),
    **{
        kernel: (plain(kernel), "kernel", is_(family))
        for kernel, family in (
            ("matlab_bicubic", "bicubic"),
            ("pillow_bicubic", "bicubic"),
            ("torch_bicubic", "torch_bicubic"),
            ("nearest_center", "nearest"),
            ("area", "area"),
        )
    },
}


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description="How often the doctor is right, on images and generated scenes")
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="name what was told wrong")
    options = parser.parse_args()
    every = []
    for name, disparity, guide in images(options.data):
        size = tuple(n // SCALE * SCALE for n in disparity.shape)
        every.append((name, disparity[: size[0], : size[1]], guide[: size[0], : size[1]]))
    print(f"{len(every)} images with a guide, x{SCALE}")
    print(f"{'':<32}{'images':>8}{'right':>7}{'nothing':>9}{'wrong':>7}{'s':>7}")
    for title, (spoil, about, right) in CASES.items():
        if options.only not in title:
            continue
        counts = {"right": 0, "nothing": 0, "wrong": 0}
        start = time.perf_counter()
        for name, disparity, guide in every:
            spoilt = spoil(disparity, guide)
            if spoilt is None:
                continue
            depth, seen, more = spoilt
            value = value_of(about, examine(depth, seen, **more))
            kind = "right" if right(value) else "nothing" if value is None else "wrong"
            counts[kind] += 1
            if options.verbose and kind != "right":
                print(f"    {name}: {kind}, {value}")
        row = "".join(f"{count:>{width}}" for count, width in zip(counts.values(), (7, 9, 7), strict=True))
        print(f"{title:<32}{sum(counts.values()):>8}{row}{time.perf_counter() - start:>7.1f}", flush=True)
    if not options.only:
        metric_depth(options.data)


def metric_depth(data: Path) -> None:
    """Prints what is told of generated scenes, whose depth is in metres, and of Sintel; nothing is spoilt."""
    scenes = [render(seed, 480, 640) for seed in range(SCENES)]
    told: dict[str, list[list[Finding]]] = {
        "scenes, metres": [examine(small(depth, "matlab_bicubic"), guide) for guide, depth in scenes],
        "sintel": [],
    }
    for path in sorted(data.glob("sintel_depth/*.png")):
        depth = read_depth(path)
        size = tuple(n // SCALE * SCALE for n in depth.shape)
        told["sintel"].append(examine(np.rint(small(depth[: size[0], : size[1]], "matlab_bicubic")).astype(np.uint16)))
    for name, found in told.items():
        print(f"{name}, {len(found)} images:")
        for about in ("unit", "meaning", "holes", "saturation", "levels", "alignment", "kernel"):
            values = [value_of(about, each) for each in found]
            if about == "alignment":
                values = ["aligned" if near(0, 0)(value) else value for value in values]
            counts = collections.Counter(map(str, values))
            print(f"    {about:<12}" + ", ".join(f"{value}: {count}" for value, count in counts.most_common(6)))


if __name__ == "__main__":
    main()
