"""RGB-D videos: a folder of frames, each a depth map and its colour picture, in the layouts that cameras leave.

Depth videos, too: the same layouts without the pictures.
"""

import bisect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ahmf_jax.errors import InputError
from data_pipelines.files import DEPTH_SUFFIXES, GUIDE_FORMATS
from data_pipelines.opening import damaged, open_file

DEPTH_NAMES = ("depth", "depths", "depth_lr")
GUIDE_NAMES = ("rgb", "color", "colour", "image", "images", "guide", "guides", "colors", "colours")
GUIDE_SUFFIXES = (*GUIDE_FORMATS, ".npy")
SECONDS = 0.02  # between a depth map and its picture: more than half a frame of 30 a second
LONGEST = 2**24  # of a list of frames: some 500,000

_WORDS = "|".join(sorted({*DEPTH_NAMES, *GUIDE_NAMES, "mask"}, key=len, reverse=True))


@dataclass(frozen=True)
class Frame:
    """The two files of one moment; None is the half that is missing."""

    name: str
    """Of the depth map, without its suffix; of the guide where there is no depth."""
    depth: Path | None
    guide: Path | None


def open_sequence(
    folder: Path, depth: str | None = None, guide: str | None = None, *, colour: bool = True
) -> list[Frame]:
    """The frames of a folder, in the order of their numbers (frame 10 after frame 9) or times.

    The first of these layouts that the folder has:
      `depth.txt` and `rgb.txt`, as TUM RGB-D: lines of a time in seconds and a file. Each depth map is paired with the
        picture that is nearest in time, at most 0.02 s away, and no picture with two; pictures left over are no frames.
      A folder of depth maps (depth, depths, depth_lr) and one of pictures (rgb, color, image, guide, ...): paired as
        `pair_folders` does.
      Files NAME_depth.* and NAME_rgb.* (or _color, _colour, _image, _guide).

    Args:
      folder: the sequence.
      depth: the name of the folder of depth maps in it, where it has another.
      guide: of that of the pictures.
      colour: False: where a layout has no pictures at all, its depth maps are the frames.

    Raises:
      InputError: there is no such folder, none of the layouts, or two files for one half of a frame.
    """
    _check_folder(folder)
    if depth is None and guide is None:
        times, times_of_pictures = folder / "depth.txt", folder / "rgb.txt"
        if times.is_file() and times_of_pictures.is_file():
            return _by_time(_times(times), _times(times_of_pictures))
        if times.is_file() and not colour:
            return _by_time(_times(times), [])
    depths = _subfolder(folder, DEPTH_NAMES if depth is None else (depth,))
    guides = _subfolder(folder, GUIDE_NAMES if guide is None else (guide,))
    if depths and guides:
        return pair_folders(depths, guides)
    for name, found in ((depth, depths), (guide, guides)):
        if name is not None and found is None:
            raise InputError(f"{folder}: there is no folder {name} in it: check the name")
    maps, pictures = (
        [path for path in _files(folder) if re.search(rf"[-_.](?:{'|'.join(names)})$", path.stem, re.I)]
        for names in (DEPTH_NAMES, GUIDE_NAMES)
    )
    if depths and not maps:
        if colour:
            raise _no_halves(folder, "colour pictures")
        return depth_alone(depths)
    return _paired(folder, maps, pictures, bare_name, colour=colour)


def pair_folders(depths: Path, guides: Path) -> list[Frame]:
    """The frames of a folder of depth maps and one of pictures, in the order of their numbers.

    Files belong together whose names are the same but for the suffix and words such as "depth" and "rgb"
    ("frame-07.depth.png" and "frame-07.color.jpg"); where no two are, those with the same first number in their names
    ("0007-152.png" and "0007-149.jpg").

    Raises:
      InputError: a folder is missing, has no such files, or two for one frame.
    """
    for folder in (depths, guides):
        _check_folder(folder)
    found = _files(depths), _files(guides)
    names = [{bare_name(path) for path in paths} for paths in found]
    return _paired(depths, *found, bare_name if names[0] & names[1] else _number)


def depth_alone(depths: Path) -> list[Frame]:
    """The frames of a folder of depth maps without pictures, in the order of their numbers.

    Raises:
      InputError: there is no such folder, or no depth map in it.
    """
    _check_folder(depths)
    files = [path for path in _files(depths) if path.suffix.lower() in DEPTH_SUFFIXES]
    if not files:
        raise InputError(f"{depths}: no depth maps are found: {', '.join(DEPTH_SUFFIXES)} are read")
    return [Frame(path.stem, path, None) for path in sorted(files, key=lambda path: in_order(path.stem))]


def bare_name(path: Path) -> str:
    """The name without its suffix and the words that say which half it is, at its beginning or end."""
    return re.sub(rf"(?i)^(?:{_WORDS})[-_. ]+|[-_. ]+(?:{_WORDS})$", "", path.stem)


def by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder, such as masks, by the bare names of their frames."""
    return {bare_name(path): path for path in _files(folder) if path.suffix.lower() in GUIDE_SUFFIXES}


def in_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key to sort names by, in which numbers count as numbers."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", name) if part)


def _paired(
    folder: Path, depths: Iterable[Path], guides: Iterable[Path], key: Callable[[Path], str], *, colour: bool = True
) -> list[Frame]:
    """One frame for every key of either half; without `colour` there may be no picture."""
    halves: list[dict[str, Path]] = [{}, {}]
    for half, paths, suffixes in zip(halves, (depths, guides), (DEPTH_SUFFIXES, GUIDE_SUFFIXES), strict=True):
        for path in paths:
            if path.suffix.lower() in suffixes and half.setdefault(key(path), path) != path:
                raise InputError(f"{path}: is of the same frame as {half[key(path)].name}: keep one of them")
    if not halves[0] or (colour and not halves[1]):
        raise _no_halves(folder, "depth maps" if not halves[0] else "colour pictures")
    keys = sorted({*halves[0], *halves[1]}, key=in_order)
    pairs = [(halves[0].get(key), halves[1].get(key)) for key in keys]
    return [Frame((depth or guide or folder).stem, depth, guide) for depth, guide in pairs]


def _no_halves(folder: Path, missing: str) -> InputError:
    """What to raise where there are no depth maps, or no pictures."""
    return InputError(
        f"{folder}: no {missing} are found: a sequence has folders depth and rgb, depth.txt and rgb.txt, or files "
        "NAME_depth.* and NAME_rgb.*"
    )


def _by_time(maps: Sequence[tuple[float, Path]], pictures: Sequence[tuple[float, Path]]) -> list[Frame]:
    times = [time for time, _ in pictures]
    near = []
    for i, (time, _) in enumerate(maps):
        # Two on either side: the nearest may be nearer to the next map.
        at = bisect.bisect(times, time)
        for j in range(max(at - 2, 0), min(at + 2, len(times))):
            if abs(times[j] - time) <= SECONDS:
                near.append((abs(times[j] - time), i, j))
    partner: dict[int, int] = {}
    taken = set()
    for _, i, j in sorted(near):
        if i not in partner and j not in taken:
            partner[i] = j
            taken.add(j)
    return [
        Frame(path.stem, path, pictures[partner[i]][1] if i in partner else None) for i, (_, path) in enumerate(maps)
    ]


def _times(path: Path) -> list[tuple[float, Path]]:
    """Times in seconds and files, in the order of time."""
    with open_file(path, (".txt",), "list of frames") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise InputError(f"{path}: is longer than {LONGEST} bytes: cut it into several sequences")
    found = []
    for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        name = Path(parts[-1])
        if len(parts) != 2 or not re.fullmatch(r"\d{1,12}(\.\d{0,12})?", parts[0], re.ASCII):
            raise damaged(path, f"line {number} is not a time and a file")
        if name.is_absolute() or ".." in name.parts or "\0" in parts[1]:
            raise InputError(f"{path}: line {number} leads out of the folder: name files in it")
        found.append((float(parts[0]), path.parent / name))
    if not found:
        raise damaged(path, "it names no file")
    return sorted(found)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: check the name")


def _subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((there[name.lower()] for name in names if name.lower() in there), None)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _number(path: Path) -> str:
    """The first number of the name, without leading zeros; the name where there is none."""
    found = re.search(r"[0-9]+", path.stem)
    return found[0].lstrip("0") or "0" if found else path.stem
