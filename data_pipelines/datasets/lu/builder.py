"""The images of Lu, Ren and Liu, by which guided super-resolution is tested: those called "Lu", and "Middlebury-30".

    Depth_Enh/03_RGBD_Dataset/RGBD_01_output_depth.png             6 pairs of an ASUS Xtion Pro
                              RGBD_01_ouput_color.png              (spelt so in the archive)
    Depth_Enh/01_Middlebury_Dataset/Middlebury_01_output_depth.png       30 pairs of Middlebury
                                    Middlebury_01_output_color.png

The archive's `clean_*` and `noisy_*` are the authors' own experiment; `output_*` is what later papers test on. Files
are known by their names, in whatever folders they lie: DCTNet's repository has them in Lu/Depth, Lu/RGB and so on.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.datasets.builder import DepthBuilder, Item, by_folder, check_missing
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.files import read_depth, read_guide

if TYPE_CHECKING:
    from data_pipelines.download import Download

# Split -> how its images are called, and how many there are.
SPLITS = {"test": ("RGBD", 6), "test_middlebury": ("Middlebury", 30)}
COLOURS = ("output_color", "ouput_color")
# Folders between the one that is searched and the files, at most.
DEPTH = 3


@dataclass(frozen=True)
class LuOptions:
    """What to do where something is missing."""

    partial: bool = False
    """Go on where images are missing."""

    def __post_init__(self) -> None:
        """Checks the value."""
        if not isinstance(self.partial, bool):
            raise InputError(f"lu option partial {self.partial!r}: must be true or false")


class Lu(DepthBuilder):
    """Colour and 8-bit depth or disparity, complete and without a metric unit, to test on.

    Splits: `test` (the 6 RGB-D images) and, where they are there, `test_middlebury` (the 30 of Middlebury: among them
    are scenes on which others train).
    """

    INFO = DatasetInfo(
        name="lu",
        unit="grey level",
        range=255.0,
        invalid=None,
        licence="Published with the paper, with no licence known; the Middlebury images: free to use and publish.",
        citation="S. Lu, X. Ren and F. Liu, Depth enhancement via low-rank matrix completion, CVPR 2014.",
        url="https://web.cecs.pdx.edu/~fliu/project/depth-enhance/",
    )
    DEPTH_DTYPE = np.uint8
    Options = LuOptions
    options: LuOptions

    @classmethod
    def downloads(cls, options: LuOptions) -> Sequence["Download"]:
        """The archive."""
        from data_pipelines.download import read_checksums

        return read_checksums(Path(__file__).with_name("checksums.tsv"))

    def items(self) -> dict[str, Sequence[Item]]:
        """The pairs of each split."""
        assert self.source_dir is not None
        files = find_files(self.source_dir)
        splits: dict[str, list[Item]] = {}
        missing = []
        for split, (prefix, count) in SPLITS.items():
            if split != "test" and not any(name.startswith(f"{prefix}_") for name in files):
                self.notes.append(f"{split} is left out: its {count} images are not there")
                continue
            splits[split] = []
            for name in (f"{prefix}_{number:02d}" for number in range(1, count + 1)):
                depth = files.get(f"{name}_output_depth.png")
                guide = next((files[file] for colour in COLOURS if (file := f"{name}_{colour}.png") in files), None)
                missing += [
                    f"{name}_{kind}.png"
                    for kind, file in (("output_depth", depth), ("output_color", guide))
                    if not file
                ]
                if depth and guide:
                    splits[split].append((name, functools.partial(_read, guide, depth)))
        used = sum(map(len, splits.values()))
        self.notes += check_missing(self.source_dir, by_folder(missing), used, "pairs", self.options.partial)
        return {**splits}


def find_files(source: Path) -> dict[str, Path]:
    """The images of the splits below a folder, by name. InputError for two of one name."""
    files: dict[str, Path] = {}
    for depth in range(DEPTH + 1):
        for prefix, _ in SPLITS.values():
            for path in sorted(source.glob("*/" * depth + f"{prefix}_*.png")):
                if path.name in files:
                    raise InputError(f"{path} and {files[path.name]}: are one image of the set: take one of them away")
                files[path.name] = path
    return files


def _read(guide: Path, depth: Path) -> tuple[np.ndarray, np.ndarray]:
    values = read_depth(depth)
    if values.dtype != np.uint8:
        raise InputError(f"{depth}: holds 16 bits, and the set has 8: download it again")
    return read_guide(guide), values
