"""Where the scenes of the Middlebury stereo sets lie, in the folders of their downloads.

    2001/<scene>/{im2.ppm,im6.ppm,disp2.pgm,disp6.pgm}       barn1, barn2, bull, poster, sawtooth, venus
    2001/map/{im0,im1,disp0,disp1}.pgm                       grey
    2001/tsukuba/{scene1.row3.col3.ppm,truedisp.row3.col3.pgm}
    2003/quarter/<scene>/{im2,im6,disp2,disp6}.png           or half, full; or .ppm and .pgm
    2005/ThirdSize/<Scene>/{view1,view5,disp1,disp5}.png     or HalfSize, FullSize; and dmin.txt
    2006/HalfSize/<Scene>/...                                likewise
    2014/full/<Scene>-perfect/{im0.png,im1.png,disp0.pfm,disp1.pfm,calib.txt}

What a scene is comes from the name of its folder, which no two years share. So the folders above it may be called
otherwise ("scenes2006", "2001/data") or not be there at all; but where one of them names a year or a size, it must be
the right one. Without one that names a size, the number of rows says it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ahmf_jax.errors import InputError
from data_pipelines.files import read_guide

# fmt: off
SCENES = {
    "2001": ("barn1", "barn2", "bull", "map", "poster", "sawtooth", "tsukuba", "venus"),
    "2003": ("cones", "teddy"),
    # Computer, Drumsticks and Dwarves are in the download of 2005 without disparities, which were never published.
    "2005": ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer"),
    "2006": (
        "Aloe", "Baby1", "Baby2", "Baby3", "Bowling1", "Bowling2", "Cloth1", "Cloth2", "Cloth3", "Cloth4",
        "Flowerpots", "Lampshade1", "Lampshade2", "Midd1", "Midd2", "Monopoly", "Plastic", "Rocks1", "Rocks2",
        "Wood1", "Wood2",
    ),
    "2014": tuple(f"{scene}-perfect" for scene in (
        "Adirondack", "Backpack", "Bicycle1", "Cable", "Classroom1", "Couch", "Flowers", "Jadeplant", "Mask",
        "Motorcycle", "Piano", "Pipes", "Playroom", "Playtable", "Recycle", "Shelves", "Shopvac", "Sticks",
        "Storage", "Sword1", "Sword2", "Umbrella", "Vintage",
    )),
}
# fmt: on
# Size as one asks for it -> the download's folder, and by what the full size was divided; the largest first.
SIZES = {
    "2001": {"full": ("full", 1)},
    "2003": {"full": ("full", 1), "half": ("half", 2), "third": ("quarter", 4)},
    "2005": {"full": ("FullSize", 1), "half": ("HalfSize", 2), "third": ("ThirdSize", 3)},
    "2006": {"full": ("FullSize", 1), "half": ("HalfSize", 2), "third": ("ThirdSize", 3)},
    "2014": {"full": ("full", 1)},
}
# Rows at full size, the same for all scenes of a year.
ROWS = {"2003": 1500, "2005": 1110, "2006": 1110}
# A scene's pairs of image and disparity.
VIEWS = {
    "2001": (("im2.ppm", "disp2.pgm"), ("im6.ppm", "disp6.pgm")),
    "map": (("im0.pgm", "disp0.pgm"), ("im1.pgm", "disp1.pgm")),
    "tsukuba": (("scene1.row3.col3.ppm", "truedisp.row3.col3.pgm"),),
    "2003": (("im2.png", "disp2.png"), ("im6.png", "disp6.png")),
    "2005": (("view1.png", "disp1.png"), ("view5.png", "disp5.png")),
    "2006": (("view1.png", "disp1.png"), ("view5.png", "disp5.png")),
    "2014": (("im0.png", "disp0.pfm"), ("im1.png", "disp1.pfm")),
}
# From disparity to depth.
CALIBRATION = {"2005": "dmin.txt", "2006": "dmin.txt", "2014": "calib.txt"}

# Folders between the one that is searched and a scene's, at most.
DEPTH = 5

_YEAR = re.compile(rf"(?:scenes)?({'|'.join(SCENES)})")
_SIZE = {folder.lower(): folder for sizes in SIZES.values() for folder, _ in sizes.values()}


@dataclass(frozen=True)
class Scene:
    """A scene in one size.

    Attributes:
      year: a key of `SCENES`.
      size: of the folders of `SIZES`.
      name: of `SCENES`.
      folder: where its files are.
    """

    year: str
    size: str
    name: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.year}/{self.size}/{self.name}"

    @property
    def rows(self) -> int | None:
        """Of its images; None where they are not the same for the whole year."""
        if self.year not in ROWS:
            return None
        return ROWS[self.year] // next(divisor for folder, divisor in SIZES[self.year].values() if folder == self.size)

    @property
    def views(self) -> list[tuple[str, Path, Path]]:
        """Name, image and disparity of each view."""
        pairs = _views(self.year, self.name)
        return [(Path(image).stem, _file(self.folder, image), _file(self.folder, disp)) for image, disp in pairs]

    @property
    def calibration(self) -> Path:
        """The file that turns disparity into depth; only of the years that have one."""
        return self.folder / CALIBRATION[self.year]

    def missing(self, calibrated: bool) -> list[str]:
        """The files that are not there, among them the calibration's where that is wanted."""
        files = [file for _, *pair in self.views for file in pair] + ([self.calibration] if calibrated else [])
        missing = [f"{self}/{file.name}" for file in files if not file.is_file()]
        if missing and any(self.folder.glob("Illum*/Exp*/")):
            return [f"{self}, of which this is the seven-view download: take the one with two views"]
        return missing


def find_scenes(source: Path) -> tuple[list[Scene], list[str]]:
    """The scenes below a folder, sorted by year, size and name, whole or not.

    Returns:
      `(scenes, imperfect)`: the latter are names of scenes of 2014 with imperfect rectification, which are no use here.

    Raises:
      InputError: `source` is not a folder; a scene lies in a folder of another year, or twice in one size, or its size
        cannot be told.
    """
    if not source.is_dir():
        raise InputError(f"{source}: is not a folder: name the one with the scenes, or with their archives")
    scenes: dict[tuple[str, str, str], Scene] = {}
    imperfect = []
    for folder in _folders(source, DEPTH):
        year, name, size = _identity(folder.name)
        if folder.name.endswith("-imperfect"):
            imperfect.append(folder.name)
        if not year:
            continue
        size = _stated(folder, year) or size
        if not _holds_some(folder, year, name):
            continue
        scene = Scene(year, size or _measured(folder, year, name), name, folder)
        key = (scene.year, scene.size, scene.name)
        if key in scenes:
            raise InputError(f"{folder}: is {scene}, and so is {scenes[key].folder}: take one of them away")
        scenes[key] = scene
    return [scenes[key] for key in sorted(scenes)], sorted(set(imperfect))


def _views(year: str, name: str) -> tuple[tuple[str, str], ...]:
    return VIEWS.get(name, VIEWS[year])


def _file(folder: Path, name: str) -> Path:
    """The file, or the same picture as PPM or PGM, as which 2003 is offered too."""
    return next((path for path in _alternatives(folder / name) if path.is_file()), folder / name)


def _alternatives(path: Path) -> list[Path]:
    return [path, *([path.with_suffix(".ppm"), path.with_suffix(".pgm")] if path.suffix == ".png" else [])]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, each before what is in it; not what is in a scene."""
    yield folder
    year, name, _ = _identity(folder.name)
    if depth and not (year and _holds_some(folder, year, name)):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _folders(path, depth - 1)


def _identity(folder: str) -> tuple[str, str, str]:
    """Year, name and size of a scene by the name of its folder, "" for what that does not say."""
    for year, names in SCENES.items():
        for name in names:
            if folder.lower() == name.lower():
                return year, name, ""
            # The archives of 2003 are called so: conesF, conesH, conesQ.
            if year == "2003" and folder.lower()[:-1] == name and folder[-1] in "FHQ":
                return year, name, {"F": "full", "H": "half", "Q": "quarter"}[folder[-1]]
    return "", "", ""


def _holds_some(folder: Path, year: str, name: str) -> bool:
    """Whether there is anything of the scene: "books" and "map" are folders of others too."""
    files = [file for pair in _views(year, name) for file in pair]
    return any(_file(folder, file).is_file() for file in files) or any(folder.glob("Illum*/"))


def _stated(folder: Path, year: str) -> str:
    """The size that the folders above a scene name, "" where none does; they must not name another year."""
    size = ""
    for above in list(folder.absolute().parents)[:2]:
        if found := _YEAR.fullmatch(above.name):
            if found[1] != year:
                raise InputError(f"{folder}: is a scene of {year}, in the folder of {found[1]}: move it to {year}")
            break
        size = size or _SIZE.get(above.name.lower(), "")
    if size and size not in [known for known, _ in SIZES[year].values()]:
        raise InputError(f"{folder}: is a scene of {year}, which has no size {size}: move it")
    return size


def _measured(folder: Path, year: str, name: str) -> str:
    """The size by the rows of an image."""
    sizes = [size for size, _ in SIZES[year].values()]
    if len(sizes) == 1:
        return sizes[0]
    image = next((path for pair in _views(year, name) if (path := _file(folder, pair[0])).is_file()), None)
    if image is None:
        return sizes[0]  # nothing can be used of it, and it will be among what is missing
    rows = len(read_guide(image))
    for size in sizes:
        if Scene(year, size, name, folder).rows == rows:
            return size
    raise InputError(f"{image}: has {rows} rows, which no size of {year} has: download the scene again")
