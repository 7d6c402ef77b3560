"""Files and folders that appear under their name when they are whole, or not at all; imports no JAX.

Each is made aside, beside its place, and renamed. However the making ends, nothing else is left, and what was there
before is as it was; a process that is killed leaves a name that ends in `.tmp`, which no search by suffix finds. What
the user can put right about the place is an `InputError` of one line.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ahmf_jax.errors import InputError

# What is wrong with the place even where the system names no file, as when a disk fills: reading raises none of them.
REMEDIES = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write it in parts or elsewhere",
    errno.EACCES: "change the rights of the folder or write elsewhere",
    errno.EPERM: "change the rights of the folder or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Writes a file, and has the disk hold it before it gets its name: it is whole even after a power cut.

    Raises:
      InputError: as `atomic_write`.
    """
    path = Path(path)
    try:
        with atomic_write(path) as temp, temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of another kind than `atomic_write` can tell from a failure of any body
        raise unwritable(path, error) from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path`; the file that the body writes there is renamed to `path` at the end.

    A writer that goes by the suffix must be told the format: the temporary name has another.

    Raises:
      InputError: `path` is a folder or a device, its folder is missing or cannot be written, or the disk is full.
        The body's failures with other files are passed on as they are.
    """
    path = Path(path)
    with _renamed(path) as temp:
        # Not only a folder: renaming over /dev/null would destroy it.
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file, and cannot be replaced by one: name a file")
        yield temp


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Gives a new folder beside `path`, which is renamed to `path` at the end.

    Args:
      path: the folder.
      replace: whether a folder that is there already gives way, when the new one is whole and not before.

    Raises:
      InputError: as `atomic_write`; `path` is there already, and is no empty folder, or cannot be removed.
    """
    path = Path(path)
    with _renamed(path) as temp:
        # Not tempfile's: its folders are for one user alone, and this one stays.
        temp.mkdir()
        yield temp
        if replace and path.is_dir():
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise unwritable(path, error) from error


class Unwritable(InputError):
    """The system fails to write, which is no fault of what was to be written."""


def unwritable(path: Path, error: OSError) -> Unwritable:
    """What to raise where the system fails to write."""
    remedy = REMEDIES.get(error.errno or 0, "write elsewhere")
    return Unwritable(f"{path}: cannot be written ({error.strerror or error}): {remedy}")


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """Gives a free name beside `path`; what the body makes there is renamed to `path`, or removed on any failure."""
    temp = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}: create it or write elsewhere")
        yield temp
        os.replace(temp, path)
    except OSError as error:
        named = [Path(str(name)) for name in (error.filename, error.filename2) if name is not None]
        ours = any(name == path or name.is_relative_to(temp) for name in named)
        if ours or (not named and error.errno in REMEDIES):
            raise unwritable(path, error) from error
        raise
    finally:
        # After success the name is gone already. A disk that fails twice must not hide the first failure.
        if temp.is_dir():
            shutil.rmtree(temp, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temp.unlink()
