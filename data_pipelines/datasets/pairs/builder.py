"""A folder of one's own, depth maps and guides in two files a pair, as a prepared data set.

    ahmf data prepare pairs --from DIR --name my_sensor --unit mm --range 5000 --invalid 0
    ahmf data prepare pairs --from DIR --name my_maps --depth '*.png' --guide ''      # without colour

Where there are folders `train`, `validation` (or `val`) or `test` in it, each is a split and is searched by the two
patterns, and a note names where else there are pairs; otherwise all of it is `train`, of which TFDS gives parts:
`train[:90%]` and `train[90%:]`.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.holes import Fill
from data_pipelines.datasets.builder import DepthBuilder, Item
from data_pipelines.datasets.folder import check_range, find_pairs, read_files
from data_pipelines.datasets.info import DatasetInfo, is_length
from data_pipelines.files import read_depth
from data_pipelines.opening import some

# Folder, in small letters -> split.
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
# The share of an image's pixels that may be 0 by chance.
MOST_ZEROS = 0.001


@dataclass(frozen=True)
class PairsOptions:
    """How the files are called, and what their values mean."""

    depth: str = "*_depth.png"
    """Depth files: one * in the file's name, which names the pair; folders may precede it (depth/*.png)."""
    guide: str = "*_rgb.png"
    """Colour files, in the same way; empty where there is no colour, for models that need none."""
    unit: str = "grey level"
    """Of the values that the depth files hold."""
    range: float = 255.0
    """The depth, in that unit, that 1.0 stands for in a batch."""
    invalid: float | None = None
    """The value that means unknown, besides NaN and infinity."""
    fill: Fill = "nearest"
    """How holes are filled before resampling: from the nearest sample, or from the background, which has the smaller
    value in a disparity map (`background`) and the larger one in a depth map (`far`)."""
    stretch: bool = False
    """Stretch each map to go from 0 to the range between its own smallest and largest known value, as the 8-bit sets of
    papers do; the unit is then that of the result."""

    def __post_init__(self) -> None:
        """Checks what the files need not be read for."""
        check_range(self.range, self.unit)
        if self.invalid is not None and not math.isfinite(self.invalid):
            raise InputError(f"pairs option invalid {self.invalid}: is unknown in any case: leave it out")
        if self.stretch and is_length(self.unit):
            raise InputError(
                f"pairs option stretch: what is stretched is in no {self.unit}: leave out --unit or --stretch"
            )
        if self.fill not in get_args(Fill):
            raise InputError(f"pairs option fill {self.fill!r}: must be one of {', '.join(get_args(Fill))}")


class Pairs(DepthBuilder):
    """The user's own pairs, as they are stored. With folders for splits, a pair is called "train/<name>"."""

    INFO = DatasetInfo(
        name="pairs",
        unit="grey level",
        range=255.0,
        invalid=None,
        licence="the user's own files",
        citation="",
    )
    Options = PairsOptions

    _zeros = 0.0  # the largest share of an image

    @property
    def depth_info(self) -> DatasetInfo:
        """As the options say."""
        o = self.options
        # What is stretched may be any value: there, NaN alone is unknown.
        invalid = None if o.stretch else o.invalid
        return replace(self.INFO, unit=o.unit, range=o.range, invalid=invalid, fill=o.fill, colour=bool(o.guide))

    @property
    def depth_dtype(self) -> type[np.generic]:
        """That of the first file; `_read` holds the others against it."""
        return np.float32 if self.options.stretch else self._first[1]

    @functools.cached_property
    def _first(self) -> tuple[Path, type[np.generic]]:
        path = next(depth for pairs in self._found.values() for depth, _ in pairs.values())
        return path, read_depth(path).dtype.type

    @functools.cached_property
    def _found(self) -> dict[str, dict[str, tuple[Path, Path | None]]]:
        """The two files of every pair, or the one without colour, by split and name."""
        assert self.source_dir is not None
        patterns = self.options.depth, self.options.guide
        inside = sorted(path for path in self.source_dir.iterdir() if path.is_dir() and path.name[0] != ".")
        folders: dict[str, Path] = {}
        for folder in inside:
            split = SPLITS.get(folder.name.lower())
            if split in folders:
                raise InputError(f"{folder} and {folders[split].name}: are both the split {split}: make one of them")
            folders |= {split: folder} if split else {}
        if not folders:
            return {"train": find_pairs(self.source_dir, *patterns, options="--")}
        others = [folder for folder in (self.source_dir, *inside) if folder not in folders.values()]
        beside = [str(folder) for folder in others if any(_holds(folder, pattern) for pattern in patterns if pattern)]
        if beside:
            splits = ", ".join(folder.name for folder in folders.values())
            self.notes.append(f"passed over: the pairs of {some(beside)}: the splits are the folders {splits}")
        return {
            split: {f"{split}/{name}": pair for name, pair in find_pairs(folder, *patterns, options="--").items()}
            for split, folder in folders.items()
        }

    def build(self) -> None:
        """Writes the records, and notes what may be unknown and counts as known."""
        super().build()
        if self.options.invalid is None and self._zeros > MOST_ZEROS:
            self.notes.append(
                f"0 in {self._zeros:.1%} of an image's pixels (in the worst) counts as known: if it means unknown, "
                "prepare again with --invalid 0"
            )

    def items(self) -> dict[str, Sequence[Item]]:
        """The pairs of each split, sorted by name."""
        return {
            split: [(name, functools.partial(self._read, *files)) for name, files in pairs.items()]
            for split, pairs in self._found.items()
        }

    def _read(self, depth: Path, guide: Path | None) -> tuple[np.ndarray, np.ndarray]:
        colours, values = read_files(depth, guide)
        first, dtype = self._first
        if values.dtype != dtype:
            raise InputError(
                f"{depth}: holds {values.dtype.name}, and {first} {np.dtype(dtype).name}: save all depth in one type"
            )
        self._zeros = max(self._zeros, float(np.mean(values == 0)))
        return colours, self._stretched(depth, values) if self.options.stretch else values

    def _stretched(self, path: Path, values: np.ndarray) -> np.ndarray:
        known = replace(self.INFO, invalid=self.options.invalid).known(values)
        depth = values[known].astype(np.float64)
        low, high = (depth.min(), depth.max()) if depth.size else (0.0, 0.0)
        if low == high:
            raise InputError(f"{path}: has no two known values to stretch: take it away, or leave --stretch out")
        stretched = np.full(values.shape, np.nan, np.float32)
        stretched[known] = (depth - low) * (self.options.range / (high - low))
        return stretched


def _holds(folder: Path, pattern: str) -> bool:
    """Whether there are files that a pattern finds."""
    place = folder / pattern
    return any(not path.name.startswith(".") for path in place.parent.glob(place.name))
