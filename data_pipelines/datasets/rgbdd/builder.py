"""RGB-D-D: colour, low-resolution depth of a phone and high-resolution depth of a time-of-flight camera.

    models/models_train/<sample>/<sample>_RGB.jpg          384 x 512 (height x width)
    models/models_train/<sample>/<sample>_HR_gt.png        384 x 512, 16 bits, millimetres
    models/models_test/..., plants/plants_train/..., plants/plants_test/..., portraits/...

the layout that the code of FDSR and its followers reads (FDSR, DCTNet and SUFT, `data/rgbdd_dataloader.py`). The
phone's depth (`<sample>_LR_fill_depth.png`, 144 x 192) and the category `lights` are not read: here low resolution is
made from high resolution.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.datasets.builder import DepthBuilder, Item, check_missing
from data_pipelines.datasets.folder import find_root, read_pair
from data_pipelines.datasets.info import DatasetInfo

SIZE = 384, 512
# Samples to train on and to test on: He et al., CVPR 2021, and the data set's README.
COUNTS = {"models": (249, 40), "plants": (380, 68), "portraits": (1586, 297)}


@dataclass(frozen=True)
class RgbddOptions:
    """What to do where files are missing."""

    partial: bool = False
    """Use what there is where samples are missing."""


class Rgbdd(DepthBuilder):
    """Small models, plants and portraits: colour and depth in millimetres, 0 where unknown.

    Splits: `test` (405 samples) as published; `train` and `validation` are the published 2,215 to train on, of which
    the last tenth of each category, by name, is for validation. An example is called "portraits_train/<sample>".
    """

    INFO = DatasetInfo(
        name="rgbdd",
        unit="mm",
        range=10000.0,
        invalid=0.0,
        licence=(
            "For academic, non-commercial use, after a signed release agreement; what is built upon it under the same "
            "licence. Copyright MePro, Beijing Jiaotong University."
        ),
        citation=(
            "L. He, H. Zhu, F. Li, H. Bai, R. Cong, C. Zhang, C. Lin, M. Liu and Y. Zhao, Towards fast and accurate "
            "real-world depth super-resolution: Benchmark dataset and baseline, CVPR 2021."
        ),
        url="https://github.com/lingzhi96/RGB-D-D-Dataset",
    )
    Options = RgbddOptions
    DEPTH_DTYPE = np.uint16

    def items(self) -> dict[str, Sequence[Item]]:
        """The samples of the three categories."""
        assert self.source_dir is not None
        folders = [f"{kind}/{kind}_{part}" for kind in COUNTS for part in ("train", "test")]
        root = find_root(self.source_dir, folders, ", ".join(folders))
        splits: dict[str, list[Item]] = {"train": [], "validation": [], "test": []}
        missing: dict[str, int] = {}
        for folder, count in zip(folders, itertools.chain.from_iterable(COUNTS.values()), strict=True):
            items, lost = _samples(root / folder)
            absent = count - len(items) - len(lost)
            missing |= {f"{absent} of the {count} samples in {folder}": absent} if absent > 0 else {}
            missing |= dict.fromkeys(lost, 1)
            end = len(items) * 9 // 10
            if folder.endswith("test"):
                splits["test"] += items
            else:
                splits["train"] += items[:end]
                splits["validation"] += items[end:]
        used = sum(map(len, splits.values()))
        self.notes += check_missing(root, missing, used, "samples", self.options.partial)
        return {**splits}


def _samples(folder: Path) -> tuple[list[Item], list[str]]:
    """The samples of a folder, sorted by name, and the files that others lack."""
    items: list[Item] = []
    lost: list[str] = []
    for sample in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        files = colour, depth = sample / f"{sample.name}_RGB.jpg", sample / f"{sample.name}_HR_gt.png"
        gone = [f"{folder.name}/{sample.name}/{file.name}" for file in files if not file.is_file()]
        lost += [" and ".join(gone)] if gone else []
        items += [] if gone else [(f"{folder.name}/{sample.name}", functools.partial(read_pair, colour, depth, SIZE))]
    return items, lost
