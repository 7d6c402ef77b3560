"""The depth maps of the DTU multi-view stereo set, as the code of DSDMSR makes grey levels of them.

Read from `Depths_raw`, which comes with the training data of MVSNet: 124 scans, 64 views of each, 1200 x 1600, float32
in millimetres, 0 where the scanner saw nothing.

    Depths_raw/scan<N>/depth_map_<VVVV>.pfm        N: 1 to 77 and 82 to 128; V: 0000 to 0063

The folders `scan<N>_train`, smaller copies, are passed over. Each map is (asrimanth/DSDMSR-PyTorch, `dtu_patcher.py`)

1. multiplied by the scale in the file's header, and stretched to 0..255 between its own smallest and largest value,
   unknown pixels among them;
2. resized to 1280 x 1024 by OpenCV's INTER_LINEAR, which makes it a little narrower: 4:3 becomes 5:4;
3. resized from there to half, a quarter, an eighth or a sixteenth, by INTER_LINEAR too, which does not average over
   what it leaves out: see `centre_mean`;
4. rounded to 8 bits, half to even.

A model of DSDMSR is given 80 x 64 and gives 160 x 128 to 640 x 512. Its input is made from 1280 x 1024 and not from
what it shall give: with `size="1280x1024"`, `centre_mean(depth, 16)` is that input and `centre_mean(depth, 2)` the
truth at 640 x 512, both but for the rounding of step 4, which then comes first (an error of at most half a grey level).
`Degradation("torch_bilinear", reduce=2)` makes both at scale 8: that kernel does not average over what it leaves out
either.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import tensorflow_datasets as tfds

from ahmf_jax.errors import InputError
from data_pipelines.datasets.base import no_colour
from data_pipelines.datasets.builder import DepthBuilder, Item, by_folder, check_missing
from data_pipelines.datasets.folder import check_image, find_root
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.files import read_depth
from data_pipelines.opening import damaged

if TYPE_CHECKING:
    from data_pipelines.download import Download

STORED = 1200, 1600
VIEWS = 64
SCANS = (*range(1, 78), *range(82, 129))
# The lists of MVSNet (Yao et al., ECCV 2018) and its followers, which train on all but five of the rest.
VALIDATION = (3, 5, 17, 21, 28, 35, 37, 38, 40, 43, 56, 59, 66, 67, 82, 86, 106, 117)
TEST = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
UNLISTED = (25, 26, 27, 54, 73)

Size = Literal["1280x1024", "640x512", "320x256", "160x128", "80x64"]


@dataclass(frozen=True)
class DtuOptions:
    """Of what size, and what to do where scans are missing."""

    size: Size = "640x512"
    """Width and height of the depth maps."""
    partial: bool = False
    """Use what there is where maps are missing."""

    def __post_init__(self) -> None:
        """Checks the size."""
        if self.size not in get_args(Size):
            raise InputError(f"dtu option size {self.size!r}: must be one of {', '.join(get_args(Size))}")


class Dtu(DepthBuilder):
    """Objects on a table under structured light: depth as grey levels, stretched for each image; no colour.

    The background, where nothing was measured, is the grey level 0 as in DSDMSR, and counts as known. An example is
    called "scan1_depth_map_0000".

    Splits, by scan, as MVSNet has them: `train` (79 scans), `validation` (18) and `test` (22); `unlisted` are the five
    scans that it does not use.
    """

    INFO = DatasetInfo(
        name="dtu",
        unit="grey level",
        range=255.0,
        invalid=None,
        licence="None is stated; its page offers it freely and asks to cite the paper.",
        citation=(
            "H. Aanaes, R. R. Jensen, G. Vogiatzis, E. Tola and A. B. Dahl, Large-scale data for multiple-view "
            "stereopsis, IJCV 120, 2016. "
            "Y. Yao, Z. Luo, S. Li, T. Fang and L. Quan, MVSNet: Depth inference for unstructured multi-view stereo, "
            "ECCV 2018 (the depth maps)."
        ),
        url="https://roboimagedata.compute.dtu.dk/?page_id=36",
        colour=False,
    )
    VERSION = tfds.core.Version("2.0.0")  # 1 stored a black guide
    Options = DtuOptions
    DEPTH_DTYPE = np.uint8

    @classmethod
    def downloads(cls, options: Any) -> Sequence["Download"]:
        """`Depths_raw.zip`, as CasMVSNet (Gu et al., CVPR 2020) offers it."""
        from data_pipelines.download import read_checksums

        return read_checksums(Path(__file__).with_name("checksums.tsv"))

    def items(self) -> dict[str, Sequence[Item]]:
        """The views of every scan."""
        assert self.source_dir is not None
        root = find_root(self.source_dir, ["scan*[0-9]/depth_map_*.pfm"], "scan1/depth_map_0000.pfm and the like")
        views = {scan: [root / f"scan{scan}/depth_map_{view:04d}.pfm" for view in range(VIEWS)] for scan in SCANS}
        there = {scan: [path for path in paths if path.is_file()] for scan, paths in views.items()}
        lost = [f"scan{scan}/{path.name}" for scan in SCANS for path in views[scan] if path not in there[scan]]
        used, kind = sum(map(len, there.values())), f"maps of {sum(map(bool, there.values()))} scans"
        self.notes += check_missing(root, by_folder(lost, "maps"), used, kind, self.options.partial)
        splits = {
            "train": [scan for scan in SCANS if scan not in (*VALIDATION, *TEST, *UNLISTED)],
            "validation": VALIDATION,
            "test": TEST,
            "unlisted": UNLISTED,
        }
        width, height = map(int, self.options.size.split("x"))
        return {
            split: [
                (f"{path.parent.name}_{path.stem}", functools.partial(_read, path, (height, width)))
                for scan in scans
                for path in there.get(scan, ())
            ]
            for split, scans in splits.items()
        }


def _read(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    depth = read_depth(path)
    check_image(path, depth, STORED, np.float32)
    if not np.isfinite(depth).all():
        raise damaged(path, "it has values that are not finite")
    if depth.min() == depth.max():
        raise InputError(
            f"{path}: is {depth.flat[0]:g} everywhere, which cannot be stretched: download it again, or take it away "
            "and go on with --partial"
        )
    # Of no account but for the rounding of a few pixels in a million.
    with path.open("rb") as file:
        scale = abs(float(file.read(256).split(maxsplit=4)[3]))
    grey = centre_mean(stretched(depth.astype(np.float64) * scale), 1024 // size[0])
    return no_colour(size), np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def stretched(depth: np.ndarray) -> np.ndarray:
    """Steps 1 and 2: (1200, 1600) float64 to (1024, 1280) float64 of 0 to 255."""
    import cv2  # slow to import

    grey = (depth - depth.min()) / (depth.max() - depth.min() + 1e-8) * 255
    return cv2.resize(grey, (1280, 1024), interpolation=cv2.INTER_LINEAR)


def centre_mean(image: np.ndarray, factor: int) -> np.ndarray:
    """Step 3: (H, W) to (H / factor, W / factor), the mean of the four pixels at the centre of each block.

    It is what `cv2.resize` by INTER_LINEAR does for a `factor` that is even and divides both sides; 1 changes nothing.
    """
    if factor == 1:
        return image
    first, second = factor // 2 - 1, factor // 2
    rows = image[first::factor] * 0.5 + image[second::factor] * 0.5
    return rows[:, first::factor] * 0.5 + rows[:, second::factor] * 0.5
