"""The Middlebury stereo sets of 2003, 2005 and 2006 in the folder layout of their download.

    2003/quarter/<scene>/{im2,im6,disp2,disp6}.png           (or half, full)
    2005/ThirdSize/<Scene>/{view1,view5,disp1,disp5}.png     (or HalfSize, FullSize)
    2006/HalfSize/<Scene>/...

Of several sizes that are there, the largest is taken; it is part of every example's name, because it says what a
disparity value v means: v pixels at full size, v / 2 at half size, v / 3 at third size, v / 4 at quarter size.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.datasets.builder import DepthBuilder, Item
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.files import read_guide

SIZES = {
    "2003": ("full", "half", "quarter"),
    "2005": ("FullSize", "HalfSize", "ThirdSize"),
    "2006": ("FullSize", "HalfSize", "ThirdSize"),
}
VIEWS = {
    "2003": (("im2", "disp2"), ("im6", "disp6")),
    "2005": (("view1", "disp1"), ("view5", "disp5")),
    "2006": (("view1", "disp1"), ("view5", "disp5")),
}

# The six scenes of the AHMF paper's Tables I and II: no training split may ever hold one.
TEST = ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer")
# One smooth object scene, one with thin structures and many depth edges.
VALIDATION = ("Baby2", "Flowerpots")
# Their disparities were never published: the 2005 download has these scenes without disp1 and disp5.
WITHHELD = ("Computer", "Drumsticks", "Dwarves")


class Middlebury(DepthBuilder):
    """Stereo scenes under structured light, both views: colour and disparity, 0 where unknown.

    Splits: `train` (2006 without the validation scenes, and scenes of 2005 that are not in the test), `validation`
    (Baby2 and Flowerpots of 2006), `train_2003` (Cones and Teddy: not for use with a test that holds these two) and
    `test` (Art, Books, Dolls, Laundry, Moebius, Reindeer of 2005).
    """

    INFO = DatasetInfo(
        name="middlebury",
        unit="grey level",
        range=255.0,
        invalid=0.0,
        licence="Permission to use and publish all images and disparity maps of the Middlebury stereo website.",
        citation=(
            "D. Scharstein and R. Szeliski, High-accuracy stereo depth maps using structured light, CVPR 2003. "
            "D. Scharstein and C. Pal, Learning conditional random fields for stereo, CVPR 2007. "
            "H. Hirschmueller and D. Scharstein, Evaluation of cost functions for stereo matching, CVPR 2007."
        ),
        fill="background",
    )
    DEPTH_DTYPE = np.uint8

    def items(self) -> dict[str, Sequence[Item]]:
        """Both views of every scene, as the splits say."""
        assert self.source_dir is not None
        scenes = {year: find_scenes(self.source_dir, year) for year in SIZES}
        for year, names in (("2003", ("cones", "teddy")), ("2005", TEST), ("2006", VALIDATION)):
            folder = {scene.name: scene for scene in scenes[year]}
            for name in names:
                if name not in folder:
                    raise InputError(f"{size_folder(self.source_dir, year) / name}: is missing: download this scene")
        splits = {
            "train": [scene for scene in scenes["2006"] if scene.name not in VALIDATION]
            + [scene for scene in scenes["2005"] if scene.name not in TEST],
            "validation": [scene for scene in scenes["2006"] if scene.name in VALIDATION],
            "train_2003": scenes["2003"],
            "test": [scene for scene in scenes["2005"] if scene.name in TEST],
        }
        for split, folders in splits.items():
            for scene in folders:
                if split != "test" and scene.name.lower() in map(str.lower, TEST):
                    raise InputError(f"{scene}: is a test scene, and would come into split {split!r}: move it to 2005")
        return {split: [item for scene in folders for item in views(scene)] for split, folders in splits.items()}


def size_folder(source: Path, year: str) -> Path:
    """The folder of the largest size of a year that is there."""
    for size in SIZES[year]:
        if (source / year / size).is_dir():
            return source / year / size
    raise InputError(f"{source / year}: has no folder {', '.join(SIZES[year])}: download one of these sizes into it")


def find_scenes(source: Path, year: str) -> list[Path]:
    """The scene folders of a year, sorted; a scene with a file missing is an InputError."""
    scenes = []
    for scene in sorted(path for path in size_folder(source, year).iterdir() if path.is_dir()):
        files = [scene / f"{stem}.png" for pair in VIEWS[year] for stem in pair]
        missing = [file for file in files if not file.is_file()]
        if scene.name in WITHHELD and missing == files[1::2]:
            continue
        if missing:
            raise InputError(f"{missing[0]}: is missing: download scene {scene.name} again, or remove its folder")
        scenes.append(scene)
    return scenes


def views(scene: Path) -> list[Item]:
    """The two views of a scene, named like 2006/HalfSize/Aloe/view1."""
    year, size = scene.parts[-3:-1]
    return [
        (f"{year}/{size}/{scene.name}/{view}", functools.partial(_read, scene / f"{view}.png", scene / f"{disp}.png"))
        for view, disp in VIEWS[year]
    ]


def _read(view: Path, disp: Path) -> tuple[np.ndarray, np.ndarray]:
    # Midd1 and Midd2 hold their disparities as grey RGBA, which is a colour file to the readers.
    disparity = read_guide(disp)
    if (disparity != disparity[..., :1]).any():
        raise InputError(f"{disp}: is a colour picture, not disparity: download the scene again")
    return read_guide(view), disparity[..., 0]
