"""MPI Sintel: frames of an animated film with exact depth, of its training sequences.

    training/depth/<sequence>/frame_0001.dpt       of MPI-Sintel-depth-training-20150305.zip
    training/clean/<sequence>/frame_0001.png       of MPI-Sintel-complete.zip, or MPI-Sintel-training_images.zip
    training/final/<sequence>/frame_0001.png       likewise

The two archives may be unpacked into one tree or into two beside each other. The clean pass has shading and
reflections; the final one adds motion blur, defocus and fog, which soften edges that the depth has sharp.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.datasets.builder import DepthBuilder, Item, by_folder, check_missing
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.files import read_depth, read_guide

if TYPE_CHECKING:
    from data_pipelines.download import Download

Pass = Literal["clean", "final", "both"]

# Frames of each training sequence, numbered from 1.
# fmt: off
SEQUENCES = {
    "alley_1": 50, "alley_2": 50, "ambush_2": 21, "ambush_4": 33, "ambush_5": 50, "ambush_6": 20, "ambush_7": 50,
    "bamboo_1": 50, "bamboo_2": 50, "bandage_1": 50, "bandage_2": 50, "cave_2": 50, "cave_4": 50, "market_2": 50,
    "market_5": 50, "market_6": 40, "mountain_1": 50, "shaman_2": 50, "shaman_3": 50, "sleeping_1": 50,
    "sleeping_2": 50, "temple_2": 50, "temple_3": 50,
}
# fmt: on
# By place of the film, the name without its number: no place is in two splits.
VALIDATION = ("shaman",)
TEST = ("alley", "cave")

SIZE = (436, 1024)
# Folders between the one that is searched and those of the passes, at most.
DEPTH = 3


@dataclass(frozen=True)
class SintelOptions:
    """Which frames, and how far they see."""

    render_pass: Pass = "clean"
    """The colours: clean, or final with motion blur, defocus and fog; or both, each frame twice."""
    every: int = 1
    """Take every n-th frame of a sequence, beginning with the first."""
    far: float = 72.0
    """Metres, the range; what is farther (sky, mountains) is stored as if it were there."""
    partial: bool = False
    """Go on where frames are missing."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.render_pass not in get_args(Pass):
            raise InputError(f"sintel option render_pass {self.render_pass!r}: must be {', '.join(get_args(Pass))}")
        if not isinstance(self.every, int) or not 1 <= self.every <= 50:
            raise InputError(f"sintel option every {self.every!r}: must be a whole number, 1 to 50")
        if not 1 <= self.far < float("inf"):
            raise InputError(f"sintel option far {self.far!r}: must be a number of metres, at least 1")
        if not isinstance(self.partial, bool):
            raise InputError(f"sintel option partial {self.partial!r}: must be true or false")

    @property
    def passes(self) -> tuple[str, ...]:
        """The folders of the colours."""
        return ("clean", "final") if self.render_pass == "both" else (self.render_pass,)


class Sintel(DepthBuilder):
    """Frames of the film Sintel with exact depth in metres.

    Splits, by the places of the film: `test` (alley, cave), `validation` (shaman), `train` (the others).
    """

    INFO = DatasetInfo(
        name="sintel",
        unit="m",
        range=72.0,
        invalid=0.0,
        licence="Made from the film Sintel, (c) Blender Foundation, durian.blender.org: CC BY 3.0.",
        citation=(
            "D. J. Butler, J. Wulff, G. B. Stanley and M. J. Black, A naturalistic open source movie for optical flow "
            "evaluation, ECCV 2012."
        ),
        url="http://sintel.is.tue.mpg.de/depth",
    )
    Options = SintelOptions
    options: SintelOptions

    @property
    def depth_info(self) -> DatasetInfo:
        """The range is how far one sees, as float32 has it."""
        return dataclasses.replace(self.INFO, range=float(np.float32(self.options.far)))

    @classmethod
    def downloads(cls, options: SintelOptions) -> Sequence["Download"]:
        """The depth maps, and the archive with both passes."""
        from data_pipelines.download import read_checksums

        return read_checksums(Path(__file__).with_name("checksums.tsv"))

    def items(self) -> dict[str, Sequence[Item]]:
        """The frames of every sequence, as the splits say."""
        assert self.source_dir is not None
        trees = find_trees(self.source_dir, ("depth", *self.options.passes))
        splits: dict[str, list[Item]] = {"train": [], "validation": [], "test": []}
        missing = []
        for part in self.options.passes:
            for sequence, count in SEQUENCES.items():
                for frame in range(1, count + 1, self.options.every):
                    name = f"{sequence}/frame_{frame:04d}"
                    guide, depth = trees[part] / f"{name}.png", trees["depth"] / f"{name}.dpt"
                    absent = [f"{file.parts[-3]}/{name}{file.suffix}" for file in (depth, guide) if not file.is_file()]
                    missing += absent
                    if not absent:
                        make = functools.partial(_read, guide, depth, self.options.far)
                        splits[split_of(sequence)].append((f"{part}/{name}", make))
        used = sum(map(len, splits.values()))
        self.notes += check_missing(self.source_dir, by_folder(missing, "frames"), used, "frames", self.options.partial)
        return {**splits}


def find_trees(source: Path, parts: Sequence[str]) -> dict[str, Path]:
    """The folders called like the parts that hold sequences, wherever the archives were unpacked below the source.

    Raises:
      InputError: none is there of some of the parts, or more than one.
    """
    found = {
        part: [
            folder
            for depth in range(DEPTH + 1)
            for folder in sorted(source.glob("/".join(["*"] * depth + [part])))
            if any((folder / sequence).is_dir() for sequence in SEQUENCES)
        ]
        for part in parts
    }
    if absent := [part for part in parts if not found[part]]:
        raise InputError(
            f"{source}: has no folder {' and none '.join(f'training/{part}' for part in absent)} with sequences: put "
            "MPI-Sintel-depth-training-20150305.zip and MPI-Sintel-complete.zip there, or what they hold"
        )
    for folders in found.values():
        if len(folders) > 1:
            raise InputError(f"{folders[0]} and {folders[1]}: are the same part of the data: name the folder of one")
    return {part: folders[0] for part, folders in found.items()}


def split_of(sequence: str) -> str:
    """The split of a sequence, by its place."""
    place = sequence.split("_")[0]
    return "test" if place in TEST else "validation" if place in VALIDATION else "train"


def _read(guide: Path, depth: Path, far: float) -> tuple[np.ndarray, np.ndarray]:
    metres = read_depth(depth)
    if metres.shape != SIZE:
        raise InputError(
            f"{depth}: is {metres.shape[0]} x {metres.shape[1]}, and Sintel is {SIZE[0]} x {SIZE[1]} (height "
            "x width): download it again"
        )
    # Not above 0, and not a number: unknown.
    return read_guide(guide), np.where(metres > 0, np.minimum(metres, np.float32(far)), np.float32(0))
