"""What all readers of files share: opening with care, the size limit, and how their errors read."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ahmf_jax.errors import InputError


@contextlib.contextmanager
def open_file(path: Path, suffixes: tuple[str, ...], role: str) -> Iterator[BinaryIO]:
    """Opens a regular file with one of the suffixes that is not empty; a failure to read becomes an InputError."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: a {role} is read from {listed(suffixes)}: convert it to one of these")
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder: name a file")
        if not path.exists():
            raise InputError(f"{path}: there is no such file: check the name and the folder")
        # A pipe would block for ever, and the length of a device says nothing.
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file: copy its contents to a file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InputError(f"{path}: is empty: write or copy it again")
            yield file
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> InputError:
    """What to raise where the system fails to read a file."""
    return InputError(f"{path}: cannot be read ({error.strerror or error}): check its rights and its disk")


def damaged(path: Path, why: object) -> InputError:
    """What to raise for a file that is not what its suffix says, and why."""
    # A library's message may run over several lines; ours is one.
    reason = " ".join(str(why).split())
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(64).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html")):
            return InputError(f"{path}: is a web page, not a {path.suffix.lower()} file: download it again")
        if start.startswith(b"matlab 5.0"):
            return InputError(f"{path}: is a .mat file of MATLAB 5, which is not read: save it with -v7.3")
    return InputError(f"{path}: is no readable {path.suffix.lower()} file ({reason}): write or copy it again")


def check_size(path: Path, height: int, width: int, max_pixels: int) -> None:
    """InputError for a picture of no pixels, or of more than the limit."""
    if height < 1 or width < 1:
        raise InputError(f"{path}: has {height} x {width} pixels: write at least one")
    if height * width > max_pixels:
        raise InputError(
            f"{path}: claims {height} x {width} pixels, and the limit is {max_pixels}: crop it or raise max_pixels"
        )


def listed(names: tuple[str, ...] | list[str]) -> str:
    """The names as a sentence has them: "a, b or c"."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def some(names: Sequence[str], most: int = 12) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
