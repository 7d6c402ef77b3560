"""The Middlebury stereo sets of 2001, 2003, 2005, 2006 and 2014: colour, and disparity or metric depth.

`layout.py` says where the files lie. Every example's name says what a grey level v of disparity means, as in
"2006/HalfSize/Aloe/view1": v pixels at full size, v / 2 at half size, v / 3 at third size, v / 4 at quarter size;
those of 2001 are v / 8 pixels, and Tsukuba's v / 16 (Map's are of no published scale). So v is a disparity in pixels
of the full size, whatever the size. From 2005 and 2006 a minimum was subtracted, which dmin.txt states, in pixels of
the full size too: the images were cropped to what seven cameras see, so that their width at full size + 1.5 dmin is
the same for all 27 scenes, 1685 to 1690, which it is not with dmin in pixels of a smaller size.

Depth in millimetres is 3740 * 160 / (v + dmin) in 2005 and 2006 (the focal length at full size and the baseline), and
baseline * focal / (disparity + doffs) in 2014, with the numbers of calib.txt. As DADA's code has it, both views of a
scene are treated alike: the right one's disparity has the same sign, and the left one's camera serves for both.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.calib import read_calibration
from data_pipelines.datasets.builder import DepthBuilder, Item, by_folder, check_missing
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.datasets.middlebury.layout import CALIBRATION, SCENES, SIZES, Scene, find_scenes
from data_pipelines.files import read_depth, read_guide
from data_pipelines.opening import damaged, listed, open_file, some

if TYPE_CHECKING:
    from data_pipelines.download import Download

Size = Literal["largest", "full", "half", "third"]
Quantity = Literal["disparity", "depth"]

# One smooth object scene of 2006, one with thin structures and many depth edges.
VALIDATION = ("Baby2", "Flowerpots")
# Of 2001, test images of the papers on single depth maps, as Cones and Teddy of 2003 are.
TEST_2001 = ("tsukuba", "venus")
SPLITS = ("train", "validation", "train_2003", "test", "train_2001", "test_2001", "train_2014")

FOCAL = 3740.0  # pixels of the full size
BASELINE = 160.0  # mm

# Left out of a set in grey levels: its disparities are pixels, with fractions.
IN_PIXELS = "2014"


@dataclass(frozen=True)
class MiddleburyOptions:
    """Which years, in what size, and as what."""

    years: tuple[str, ...] = ()
    """Of 2001, 2003, 2005, 2006 and 2014; by default all that are there and have the size and the quantity."""
    size: Size = "largest"
    """One of a year's sizes (third: quarter for 2003), or for each year the largest that is there."""
    quantity: Quantity = "disparity"
    """Disparity in grey levels (of 2014, which must then be alone, in pixels), or depth in mm (2005, 2006, 2014)."""
    partial: bool = False
    """Go on where scenes of a year are missing."""

    def __post_init__(self) -> None:
        """Checks that the years have the size and the quantity."""
        object.__setattr__(self, "years", tuple(self.years))  # a list, where it comes from JSON
        for option, known in (("size", get_args(Size)), ("quantity", get_args(Quantity))):
            if getattr(self, option) not in known:
                raise InputError(f"middlebury option {option} {getattr(self, option)!r}: must be {', '.join(known)}")
        if not isinstance(self.partial, bool):
            raise InputError(f"middlebury option partial {self.partial!r}: must be true or false")
        for year in self.years:
            if year not in SCENES:
                raise InputError(f"middlebury option years {year!r}: must be of {', '.join(SCENES)}")
            if refusal := self.refusal(year):
                raise InputError(f"middlebury option years: {year} {refusal}")

    def refusal(self, year: str) -> str | None:
        """Why a year cannot be had with these options, and what to do; None where it can."""
        if self.size not in ("largest", *SIZES[year]):
            return f"has no size {self.size}: choose {' or '.join(SIZES[year])}, or leave the year out"
        if self.quantity == "depth" and year not in CALIBRATION:
            return f"has no calibration that gives depth: choose of {', '.join(CALIBRATION)}, or quantity disparity"
        if self.quantity == "disparity" and year == IN_PIXELS and set(self.years) != {IN_PIXELS}:
            return "has disparity in pixels, not grey levels: prepare it alone (years 2014), or with quantity depth"
        return None


class Middlebury(DepthBuilder):
    """Stereo scenes, both views: colour and disparity or depth; 0 where unknown, and infinite disparity too.

    Splits: `train` (2006 without the validation scenes), `validation` (Baby2 and Flowerpots of 2006), `test` (2005:
    Art, Books, Dolls, Laundry, Moebius, Reindeer), `train_2003` (Cones and Teddy: not for use with a test that holds
    these two), `train_2001` (without Tsukuba and Venus, which are `test_2001`), `train_2014`. A scene's name alone
    says to which it belongs.
    """

    INFO = DatasetInfo(
        name="middlebury",
        unit="grey level",
        range=255.0,
        invalid=0.0,
        licence="Permission to use and publish all images and disparity maps of the Middlebury stereo website.",
        citation=(
            "D. Scharstein and R. Szeliski, A taxonomy and evaluation of dense two-frame stereo correspondence "
            "algorithms, IJCV 2002 (2001). "
            "D. Scharstein and R. Szeliski, High-accuracy stereo depth maps using structured light, CVPR 2003 (2003). "
            "D. Scharstein and C. Pal, Learning conditional random fields for stereo, CVPR 2007 (2005 and 2006). "
            "H. Hirschmueller and D. Scharstein, Evaluation of cost functions for stereo matching, CVPR 2007 (2005 "
            "and 2006). "
            "D. Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014 "
            "(2014)."
        ),
        fill="background",
        url="https://vision.middlebury.edu/stereo/data/",
    )
    Options = MiddleburyOptions
    options: MiddleburyOptions

    @property
    def depth_info(self) -> DatasetInfo:
        """Grey levels, pixels or millimetres."""
        if self.options.quantity == "depth":
            # 2005 and 2006 end at 2.9 m, Motorcycle of 2014 at 4.8 m by its calib.txt: twice that leaves room for the
            # deepest.
            return dataclasses.replace(self.INFO, unit="mm", range=10_000.0, fill="far")
        if self.options.years == (IN_PIXELS,):
            return dataclasses.replace(self.INFO, unit="pixel", range=1024.0)
        return self.INFO

    @property
    def depth_dtype(self) -> type[np.generic]:
        """Grey levels as they are stored, or float32."""
        return np.uint8 if self.depth_info is self.INFO else np.float32

    @classmethod
    def downloads(cls, options: MiddleburyOptions) -> Sequence["Download"]:
        """The archives of the years in the size; of the largest that the site has them in."""
        from data_pipelines.download import read_checksums

        rows = read_checksums(Path(__file__).with_name("checksums.tsv"))
        chosen: list[Download] = []
        for year in options.years or [year for year in SCENES if options.refusal(year) is None]:
            of_year = [row for row in rows if row.path.startswith(f"{year}/")]
            sizes = [folder for size, (folder, _) in SIZES[year].items() if options.size in ("largest", size)]
            in_size = [[row for row in of_year if row.path.startswith(f"{year}/{size}/")] for size in sizes]
            chosen += next(filter(None, in_size), of_year if len(SIZES[year]) == 1 else [])
        return chosen

    def items(self) -> dict[str, Sequence[Item]]:
        """Both views of every scene, as the splits say."""
        assert self.source_dir is not None
        scenes, imperfect = find_scenes(self.source_dir)
        if not scenes:
            raise InputError(
                f"{self.source_dir}: holds no Middlebury scenes (such as 2006/HalfSize/Aloe with view1.png and "
                "disp1.png): name the folder of the download, or its archive"
            )
        if imperfect and "2014" in {scene.year for scene in scenes}:
            self.notes.append(f"passed over: {', '.join(imperfect)}")
        there = [year for year in SCENES if any(scene.year == year for scene in scenes)]
        chosen = [scene for year in there for scene in self._in_size(scenes, year)]
        calibrated = self.options.quantity == "depth"

        missing: dict[str, int] = {}
        for scene in chosen:
            missing |= by_folder(scene.missing(calibrated))
        whole = [scene for scene in chosen if not scene.missing(calibrated)]
        for year in self.options.years or sorted({scene.year for scene in chosen}):
            names = {scene.name for scene in chosen if scene.year == year}
            asked = SIZES[year].get(self.options.size, next(iter(SIZES[year].values())))[0]
            size = next((scene.size for scene in chosen if scene.year == year), asked)
            missing |= {f"{year}/{size}/{name}": 1 for name in SCENES[year] if name not in names}
        if not whole:
            found = ", ".join(sorted({f"{scene.year}/{scene.size}" for scene in scenes}))
            lacks = f" ({some(list(missing))})" if missing else ""
            raise InputError(
                f"{self.source_dir}: no scene fits the options{lacks}; there are {found}: choose other options"
            )
        self.notes += check_missing(self.source_dir, missing, len(whole), "scenes", self.options.partial)
        if not self.options.years:
            used = ", ".join(sorted({f"{scene.year} ({scene.size})" for scene in whole}))
            absent = ", ".join(year for year in SCENES if year not in there) or "none"
            self.notes.append(f"years: {used}; not there: {absent}")

        return {
            split: [item for scene in whole if split_of(scene.year, scene.name) == split for item in self._views(scene)]
            for split in SPLITS
        }

    def _in_size(self, scenes: Iterable[Scene], year: str) -> list[Scene]:
        """The scenes of a year in the size that is wanted, or in the largest; none of a year that is not wanted."""
        options = self.options
        if options.years and year not in options.years:
            return []
        if refusal := options.refusal(year):
            self.notes.append(f"{year} is left out: it {refusal}")
            return []
        for size, (folder, _) in SIZES[year].items():
            found = [scene for scene in scenes if (scene.year, scene.size) == (year, folder)]
            if found and options.size in ("largest", size):
                return found
        if not options.years:
            there = listed(sorted({scene.size for scene in scenes if scene.year == year}))
            self.notes.append(f"{year} is left out: it is there in {there}, not in {SIZES[year][options.size][0]}")
        return []

    def _views(self, scene: Scene) -> list[Item]:
        convert = _converter(scene) if self.options.quantity == "depth" else np.asarray
        return [
            (f"{scene}/{name}", functools.partial(_read, scene, guide, disparity, convert))
            for name, guide, disparity in scene.views
        ]


def split_of(year: str, name: str) -> str:
    """The one split of a scene: no test scene can come into another."""
    if year == "2005":
        return "test"
    if year == "2006":
        return "validation" if name in VALIDATION else "train"
    return f"test_{year}" if name in TEST_2001 else f"train_{year}"


Convert = Callable[[np.ndarray], np.ndarray]


def _read(scene: Scene, guide: Path, disparity: Path, convert: Convert) -> tuple[np.ndarray, np.ndarray]:
    image, values = read_guide(guide), _disparity(disparity)
    if scene.rows not in (None, len(values)):
        raise InputError(
            f"{disparity}: has {len(values)} rows, and {scene.year}/{scene.size} has {scene.rows}: move the scene to "
            "the folder of its size, or download it again"
        )
    return image, convert(values)


def _disparity(path: Path) -> np.ndarray:
    """(H, W), uint8 grey levels or float32 pixels as they are stored."""
    if path.suffix == ".pfm":
        return read_depth(path)
    # Midd1 and Midd2 hold their disparities as grey RGBA, which is a colour file to the readers.
    disparity = read_guide(path)
    if (disparity != disparity[..., :1]).any():
        raise InputError(f"{path}: is a colour picture, not disparity: download the scene again")
    return disparity[..., 0]


def _converter(scene: Scene) -> Convert:
    """From disparity to depth in mm, 0 where unknown; what it needs is read when it is called."""
    return functools.partial(_calibrated_depth if scene.year == "2014" else _cropped_depth, scene.calibration)


def _calibrated_depth(calibration: Path, disparity: np.ndarray) -> np.ndarray:
    camera = read_calibration(calibration)
    if disparity.shape != (camera.height, camera.width):
        raise InputError(
            f"{calibration}: is of images of {camera.height} x {camera.width} pixels, and the disparity has "
            f"{disparity.shape[0]} x {disparity.shape[1]}: download the scene again"
        )
    return _depth(camera.baseline * camera.focal, disparity, camera.doffs)


def _cropped_depth(calibration: Path, disparity: np.ndarray) -> np.ndarray:
    with open_file(calibration, (".txt",), "minimum disparity") as file:
        text = file.read(64).strip()
    if not re.fullmatch(rb"\d{1,4}", text):
        raise damaged(calibration, "it is not one whole number of pixels")
    return _depth(FOCAL * BASELINE, disparity, float(text))


def _depth(product: float, disparity: np.ndarray, offset: float) -> np.ndarray:
    """`product / (disparity + offset)`, float32, 0 where the disparity is 0, infinite or not a number."""
    disparity = disparity.astype(np.float32)
    known = np.isfinite(disparity) & (disparity > 0) & (disparity + offset > 0)
    depth = np.zeros(disparity.shape, np.float32)
    depth[known] = product / (disparity[known] + offset)
    return depth
