"""ToFMark: three scenes with depth of a structured-light scanner in the view of an intensity camera, to test on.

    tofmark/tofmark*.h5     depth_hr   (n, 1, H, W) float32, mm, below 0 where unknown
                            rgb        (n, 1, H, W) float32, intensity, scaled

That is how the code of Riegler et al. (griegler/primal-dual-networks, gdsr/method/ex_tm_*.lua and
common/icgnn/init.lua) reads its test data: in the order of the files' names, the scenes Books, Devil and Shark. The
archive of the data set's own page has another layout, which no public code that could be found reads; a folder of it
can be prepared as `pairs`. The paper gives the camera 810 x 610 pixels.

The files' intensity has a scale of its own (their code maps that of training to 400 ... 1000), so each image is
stretched to 0 ... 255 here. The scanned depth is the truth; the low resolution is made from it as for any set, so the
measured depth of the ToF camera (`depth_mr_bl` and the like) is not read.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.datasets.builder import DepthBuilder, Item
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.hdf5 import ArraySpec, open_arrays

SCENES = ("Books", "Devil", "Shark")
ARRAYS = {"rgb": ArraySpec("float32", (None, 1, None, None)), "depth_hr": ArraySpec("float32", (None, 1, None, None))}
# Folders between the one that is searched and the files, at most.
DEPTH = 3


class Tofmark(DepthBuilder):
    """Intensity and scanned depth in mm, 0 where unknown, of Books, Devil and Shark. One split, `test`."""

    INFO = DatasetInfo(
        name="tofmark",
        unit="mm",
        range=2000.0,  # the scenes are on a table; the code above maps its training depths to 400 ... 1000 for them
        invalid=0.0,
        licence="For research; no licence is known.",
        citation=(
            "D. Ferstl, C. Reinbacher, R. Ranftl, M. Ruether and H. Bischof, Image guided depth upsampling using "
            "anisotropic total generalized variation, ICCV 2013."
        ),
        url="https://github.com/griegler/primal-dual-networks",
    )
    SINGLE_FILE = ".h5"

    def items(self) -> dict[str, Sequence[Item]]:
        """The scenes in the order of the files."""
        assert self.source_dir is not None
        rows = [(path, row) for path in find_files(self.source_dir) for row in range(_count(path))]
        if len(rows) != len(SCENES):
            # With fewer, nothing would say which they are.
            raise InputError(
                f"{self.source_dir}: its tofmark*.h5 hold {len(rows)} images, and the set has {len(SCENES)} "
                f"({', '.join(SCENES)}): name the folder with its files alone"
            )
        return {"test": [(name, functools.partial(_read, *row)) for name, row in zip(SCENES, rows, strict=True)]}


def find_files(source: Path) -> list[Path]:
    """The files of the set below a folder, or the one that is named itself."""
    if source.is_file():
        return [source]
    return sorted(path for depth in range(DEPTH + 1) for path in source.glob("*/" * depth + "tofmark*.h5"))


def _count(path: Path) -> int:
    """The images in a file, which must have as many of both kinds and in one size."""
    with open_arrays(path, ARRAYS) as arrays:
        shapes = {name: rows.shape for name, rows in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"{path}: rgb has shape {shapes['rgb']} and depth_hr {shapes['depth_hr']}, and they must be the same: "
            "download it again"
        )
    return shapes["rgb"][0]


def _read(path: Path, row: int) -> tuple[np.ndarray, np.ndarray]:
    with open_arrays(path, ARRAYS) as arrays:
        intensity, depth = arrays["rgb"][row][0], arrays["depth_hr"][row][0]
    low, high = float(intensity.min()), float(intensity.max())
    if not (np.isfinite(high - low) and low < high):
        raise InputError(f"{path}: image {row} of rgb is of one value, or not of numbers: download it again")
    grey = np.round((intensity - low) / (high - low) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
