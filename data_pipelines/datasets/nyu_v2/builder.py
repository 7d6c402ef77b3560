"""NYU Depth v2: the 1,449 labelled pairs of `nyu_depth_v2_labeled.mat` (2.8 GB), the file itself or its folder.

MATLAB 7.3 writes HDF5, and HDF5 shows MATLAB's axes in reverse order:

    images     (1449, 3, 640, 480)  uint8    colour; frame, channel, column, row
    depths     (1449, 640, 480)     float32  metres, holes filled by the data set's authors with Levin's colorization
    rawDepths  (1449, 640, 480)     float32  metres, as the Kinect saw them on the plane of the colour image; 0: unknown

One frame is read at a time. Beyond a white frame in the colour images nothing is seen, and the filled depth is made
up: MATLAB's rows 45 to 471 and columns 41 to 601 are the region that the data set's toolbox calls valid
(`get_projection_mask.m`), 427 x 561 pixels. Python code that cuts [45:471, 41:601] loses one row and one column of it.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.datasets.builder import DepthBuilder, Item
from data_pipelines.datasets.folder import find_root
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.hdf5 import ArraySpec, Rows, open_arrays

if TYPE_CHECKING:
    from data_pipelines.download import Download

FILE = "nyu_depth_v2_labeled.mat"
FRAMES, HEIGHT, WIDTH = 1449, 480, 640
# The first 1,000 train and the rest test, as in AHMF and DKN; the last tenth of the former is for validation.
SPLITS = {"train": range(900), "validation": range(900, 1000), "test": range(1000, FRAMES)}
VALID = slice(44, 471), slice(40, 601)

Depth = Literal["filled", "raw"]
Crop = Literal["none", "border"]


@dataclass(frozen=True)
class NyuV2Options:
    """Which depth, and how much of the image."""

    depth: Depth = "filled"
    """filled: every pixel, as papers use it; raw: as the sensor saw it, with holes."""
    crop: Crop = "none"
    """none: 480 x 640; border: the 427 x 561 pixels inside the white frame."""

    def __post_init__(self) -> None:
        """Checks the choices."""
        for option, choices in (("depth", get_args(Depth)), ("crop", get_args(Crop))):
            if getattr(self, option) not in choices:
                raise InputError(
                    f"nyu_v2 option {option} {getattr(self, option)!r}: must be one of {', '.join(choices)}"
                )


class NyuV2(DepthBuilder):
    """Indoor scenes seen by a Kinect, colour and depth in metres, in the order of the file: "00000" to "01448".

    Splits: `train` (0 to 899), `validation` (900 to 999) and `test` (1000 to 1448). Neighbouring frames may show the
    same room.
    """

    INFO = DatasetInfo(
        name="nyu_v2",
        unit="m",
        range=10.0,
        invalid=None,
        licence="None is stated on its page, which asks to cite the paper.",
        citation=(
            "N. Silberman, D. Hoiem, P. Kohli and R. Fergus, Indoor segmentation and support inference from RGBD "
            "images, ECCV 2012."
        ),
        url="https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
    )
    Options = NyuV2Options
    SINGLE_FILE = ".mat"

    _arrays: dict[str, Rows]

    @classmethod
    def downloads(cls, options: Any) -> Sequence["Download"]:
        """The one file."""
        from data_pipelines.download import read_checksums

        return read_checksums(Path(__file__).with_name("checksums.tsv"))

    @property
    def depth_info(self) -> DatasetInfo:
        """In raw depth, 0 is unknown."""
        return replace(self.INFO, invalid=0.0) if self.options.depth == "raw" else self.INFO

    def items(self) -> dict[str, Sequence[Item]]:
        """All frames, by their number in the file."""
        return {
            split: [(f"{frame:05d}", functools.partial(self._read, frame)) for frame in frames]
            for split, frames in SPLITS.items()
        }

    def _generate_examples(self, split: str, items: Sequence[Item]) -> Iterator[tuple[int, dict[str, Any]]]:
        assert self.source_dir is not None
        path = self.source_dir if self.source_dir.is_file() else find_root(self.source_dir, [FILE], FILE) / FILE
        specs = {
            "images": ArraySpec("uint8", (FRAMES, 3, WIDTH, HEIGHT)),
            self._depth_name: ArraySpec("float32", (FRAMES, WIDTH, HEIGHT)),
        }
        with open_arrays(path, specs) as self._arrays:
            yield from super()._generate_examples(split, items)

    @property
    def _depth_name(self) -> str:
        return "rawDepths" if self.options.depth == "raw" else "depths"

    def _read(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        guide, depth = self._arrays["images"][frame].T, self._arrays[self._depth_name][frame].T
        if self.options.crop == "border":
            guide, depth = guide[VALID], depth[VALID]
        return np.ascontiguousarray(guide), np.ascontiguousarray(depth)
