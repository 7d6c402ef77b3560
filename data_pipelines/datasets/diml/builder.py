"""DIML/CVL RGB-D, the indoor sample: a Kinect v2, colour and depth with its holes filled.

    train/HR/<scene>/color/<image>_c.png                        756 x 1344 (height x width)
    train/HR/<scene>/depth_filled/<image>_depth_filled.png      756 x 1344, 16 bits, millimetres
    test/HR/<scene>/...

The smaller copies in `train/LR` and `test/LR` and the depth with holes are passed over. Layout and splits are those of
DADA (prs-eth/Diffusion-Super-Resolution, README and `scripts/create_diml_npy.py`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.datasets.builder import DepthBuilder, Item, by_folder, check_missing
from data_pipelines.datasets.folder import find_root, read_pair
from data_pipelines.datasets.info import DatasetInfo

SIZE = 756, 1344
# Metzger et al., CVPR 2023: 1,440 + 169 and 503.
COUNTS = {"train": 1609, "test": 503}


@dataclass(frozen=True)
class DimlOptions:
    """What to do where files are missing."""

    partial: bool = False
    """Use what there is where images are missing."""


class Diml(DepthBuilder):
    """Rooms of many kinds: colour and depth in millimetres, 0 where unknown.

    Splits, as DADA has them: `train` (1,440), `validation` (169: the last tenth of each training scene, by name) and
    `test` (503). An example is called "validation/<scene>/<image>".
    """

    INFO = DatasetInfo(
        name="diml",
        unit="mm",
        range=10000.0,
        invalid=0.0,
        licence="Terms of its own, to be read on its page.",
        citation=(
            "J. Cho, D. Min, Y. Kim and K. Sohn, DIML/CVL RGB-D dataset: 2M RGB-D images of natural indoor and "
            "outdoor scenes, arXiv 2110.11590, 2021."
        ),
        url="https://dimlrgbd.github.io",
    )
    Options = DimlOptions
    DEPTH_DTYPE = np.uint16

    def items(self) -> dict[str, Sequence[Item]]:
        """The images of every scene, scenes and images sorted by name."""
        assert self.source_dir is not None
        root = find_root(self.source_dir, ["train/HR", "test/HR"], "the folders train/HR and test/HR")
        splits: dict[str, list[Item]] = {"train": [], "validation": [], "test": []}
        lost: list[str] = []
        missing: dict[str, int] = {}
        for part, count in COUNTS.items():
            absent = count
            for scene in sorted(path for path in (root / part / "HR").glob("[!.]*") if path.is_dir()):
                images = sorted(scene.glob("color/[!.]*_c.png"))
                absent -= len(images)
                # The place of an image among all of its scene, missing ones too, says to which split it belongs.
                end = len(images) * 9 // 10
                for i, colour in enumerate(images):
                    name = colour.name.removesuffix("_c.png")
                    depth = scene / "depth_filled" / f"{name}_depth_filled.png"
                    if not depth.is_file():
                        lost.append(str(depth.relative_to(root)))
                        continue
                    split = "validation" if part == "train" and i >= end else part
                    splits[split].append(
                        (f"{split}/{scene.name}/{name}", functools.partial(read_pair, colour, depth, SIZE))
                    )
            if absent > 0:
                missing[f"{absent} of the {count} images of {part}/HR"] = absent
        used = sum(map(len, splits.values()))
        self.notes += check_missing(root, by_folder(lost) | missing, used, "images", self.options.partial)
        return {**splits}
