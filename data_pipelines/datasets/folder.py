"""A plain folder of image pairs, two files for each name, as a data set; and what builders ask of a download."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahmf_jax.errors import InputError
from ahmf_jax.holes import Fill
from data_pipelines.datasets.base import CACHE_BYTES, Dataset, no_colour
from data_pipelines.datasets.info import DatasetInfo, check_values
from data_pipelines.files import depth_size, read_depth, read_guide
from data_pipelines.opening import some


class PairFiles:
    """The `(depth, guide)` files of pairs, by name, as a source of a `Dataset`; None is the guide that is not there.

    Depth that cannot be what `info` says is refused; `options` as in `open_pairs`.
    """

    def __init__(self, pairs: dict[str, tuple[Path, Path | None]], info: DatasetInfo, options: str = ""):
        self.names = list(pairs)
        self.files = list(pairs.values())
        self.info, self.options = info, options

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """`(guide, depth, name)`, the images as stored."""
        guide, depth = read_files(*self.files[index])
        if (known := self.info.known(depth)).any():
            check_values(str(self.files[index][0]), depth[known], self.info, self.options)
        return guide, depth, self.names[index]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, by the header of the depth."""
        return depth_size(self.files[index][0])

    def without_colour(self) -> "PairFiles":
        """The same depth; no guide is read."""
        files: dict[str, tuple[Path, Path | None]] = {
            name: (depth, None) for name, (depth, _) in zip(self.names, self.files, strict=True)
        }
        return PairFiles(files, self.info, self.options)


def read_files(depth: Path, guide: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """`(guide, depth)` as stored; no colour for no guide."""
    values = read_depth(depth)
    return no_colour(values.shape) if guide is None else read_guide(guide), values


def open_pairs(
    directory: str | os.PathLike[str],
    depth: str = "*_depth.png",
    guide: str = "*_rgb.png",
    names: Sequence[str] | None = None,
    unit: str = "grey level",
    range: float = 255.0,
    invalid: float | None = None,
    fill: Fill = "nearest",
    cache_bytes: int = CACHE_BYTES,
    options: str = "",
) -> Dataset:
    """Opens a plain folder of depth maps and guides of one size each.

    Args:
      directory: the folder.
      depth, guide: how the two files of a pair are called: one `*` each, and what it stands for is the pair's name.
        It may not cross folders, but the pattern may: "depth/*.png" and "colour/*.jpg". An empty `guide` stands for
        depth without colour.
      names: the pairs that are wanted, in this order; by default all, sorted.
      unit, range, invalid, fill: what the values mean, as in `DatasetInfo`.
      cache_bytes: how many bytes of decoded images are kept in memory.
      options: what stands before these arguments' names where a user gives them, such as "--pairs.", for messages.

    Raises:
      InputError: no such folder, a pattern without exactly one `*`, a file without its partner or that is its own, no
        pair at all; and, when the pair is read, damaged files, a depth and a guide that differ in size, or depth that
        cannot be in the unit and range.
    """
    directory = Path(directory)
    check_range(range, unit)
    info = DatasetInfo(directory.name, unit, range, invalid, "the user's own files", "", fill, colour=bool(guide))
    files = find_pairs(directory, depth, guide, names, options)
    return Dataset(info, PairFiles(files, info, options), cache_bytes)


def find_pairs(
    directory: Path, depth: str, guide: str, names: Sequence[str] | None = None, options: str = ""
) -> dict[str, tuple[Path, Path | None]]:
    """The `(depth, guide)` files of every pair, by name, as `open_pairs` finds them, of whose arguments these are.

    All files that are missing are named in one InputError.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: is not a folder: name the one with the depth and guide files")
    patterns = {"depth": depth, "guide": guide} if guide else {"depth": depth}
    files = {kind: _named(directory, kind, pattern) for kind, pattern in patterns.items()}
    if names is None:
        names = sorted(set().union(*files.values()))
    if not names:
        called, given = " or ".join(patterns.values()), " and ".join(f"{options}{kind}" for kind in patterns)
        empty = f" ({options}guide '' where there is no colour)" if guide else ""
        raise InputError(f"{directory}: no file is called {called}: say with {given} how they are{empty}")
    if guide and files["depth"] and not files["guide"]:
        raise InputError(
            f"{directory}: no file is called {guide}, and {len(files['depth'])} are called {depth}: say with "
            f"{options}guide how the colour is called ({options}guide '' where there is none)"
        )
    both = [path.name for name, path in files["depth"].items() if guide and files["guide"].get(name) == path]
    if both:
        raise InputError(
            f"{directory}: {some(both, 3)}: would be depth and colour at once: say with {options}guide how the colour "
            f"is called ({options}guide '' where there is none)"
        )
    problems = []
    for kind, pattern in patterns.items():
        found = files[kind]
        missing = [name for name in names if name not in found]
        if missing:
            lost = some([str(directory / pattern.replace("*", name)) for name in missing])
            pairs = some([repr(name) for name in missing])
            verb, noun, have = ("is", "pair", "has") if len(missing) == 1 else ("are", "pairs", "have")
            problems.append(f"{lost}: {verb} missing: {noun} {pairs} {have} no {kind} file")
    if problems:
        raise InputError("; ".join(problems))
    return {name: (files["depth"][name], files["guide"][name] if guide else None) for name in names}


def _named(directory: Path, option: str, pattern: str) -> dict[str, Path]:
    """The files that a pattern finds, by the part that its `*` stands for."""
    folder, file = (directory / pattern).parent, Path(pattern).name
    if pattern.count("*") != 1 or "*" not in file:
        raise InputError(
            f"{option} pattern {pattern!r}: write exactly one *, in the file name, for what names the pair"
        )
    before, after = _plain(file).split("*")
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder: check the {option} pattern {pattern!r}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = _plain(path.name)
        if not name.startswith(before) or not name.endswith(after) or len(name) <= len(before + after):
            continue
        if name.startswith("."):  # what systems and editors leave behind
            continue
        pair = name[len(before) : len(name) - len(after)]
        if pair in found:
            raise InputError(f"{path} and {found[pair].name}: are both {option} of {pair!r}: take one of them away")
        found[pair] = path
    return found


def _plain(name: str) -> str:
    """A file's name with its suffix in small letters."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def check_range(range: float, unit: str) -> None:
    """Refuses a range that nothing can be divided by."""
    if not 0 < range < float("inf"):
        raise InputError(f"range {range}: must be above 0: give the depth in {unit} that 1.0 shall stand for")


def find_root(source: Path, patterns: Sequence[str], holds: str) -> Path:
    """The folder of a download: the one that is given, the only one in it, or the one around it.

    Args:
      source: the folder that the user named.
      patterns: globs, relative to the folder that is sought; it has what one of them finds.
      holds: what that is, in words.

    Raises:
      InputError: there is none, or several are in `source`.
    """

    def found(folder: Path) -> Iterator[Path]:
        return itertools.chain.from_iterable(folder.glob(pattern) for pattern in patterns)

    if not source.is_dir():
        raise InputError(f"{source}: is not a folder: name the one that holds {holds}")
    if any(found(source)):
        return source
    inside = sorted(path for path in source.iterdir() if path.is_dir() and any(found(path)))
    if len(inside) > 1:
        raise InputError(f"{source}: {', '.join(path.name for path in inside)} each hold {holds}: name one of them")
    if inside:
        return inside[0]
    source = source.absolute()
    # Only where the folder is a part of it: what else lies beside the folder, the user did not name.
    if any(path.is_relative_to(source) for path in found(source.parent)):
        return source.parent
    raise InputError(f"{source}: does not hold {holds}: name the folder of the download")


def check_image(path: Path, image: np.ndarray, size: tuple[int, int], dtype: npt.DTypeLike) -> None:
    """Refuses an image that is not (height, width) = `size` or not of the type that the data set has."""
    if image.shape[:2] != size or image.dtype != dtype:
        is_, be = (
            f"{height} x {width} {np.dtype(type_).name}"
            for (height, width), type_ in ((image.shape[:2], image.dtype), (size, dtype))
        )
        raise InputError(f"{path}: is {is_} (height x width), and must be {be}: download the data set again")


def read_pair(colour: Path, depth: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The guide and the depth, uint8 and uint16, of a data set whose images are all (height, width) = `size`."""
    guide, values = read_guide(colour), read_depth(depth)
    check_image(colour, guide, size, np.uint8)
    check_image(depth, values, size, np.uint16)
    return guide, values
