"""Archives, unpacked with distrust: nothing lands outside the target, and nothing is left where it fails.

No header is believed: bytes and members are counted as they come. Only files and folders are unpacked; a link, a
device, or a name that would lead elsewhere refuses the whole archive. The rubbish of desktops (`__MACOSX`,
`.DS_Store`, `Thumbs.db`) stays behind. Members get the plain rights of a new file: none of their owner, mode and
time.
"""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_folder, unwritable
from data_pipelines.files import DAMAGE
from data_pipelines.opening import damaged, listed, unreadable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

MAX_BYTES = 2**38
MAX_FILES = 2**19

# A bomb is found by its ratio before it fills a disk: beyond the first GiB, 100 bytes out of every byte in.
_FREE_BYTES = 2**30
_RATIO = 100

_FOREIGN = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".lzma", ".z01", ".001")
_RUBBISH = {"__macosx", ".ds_store", "thumbs.db", "desktop.ini"}
# What every archive of a data set may bring along, each its own.
_NOTES = re.compile(r"(readme|licen[cs]e|copying|changelog|citation)\b[^/]*", re.IGNORECASE)
_BY_HAND = "unpack it by hand into a folder and name that folder"
_BLOCK = 2**20
# The most that tarfile and zipfile may read at once for the sake of a header. A member of a zip needs 46 bytes and its
# name there, and some 500 in memory.
_MAX_HEADER = 2**14
_MAX_DIRECTORY = 2**25
_MAX_REST = 2**26
_MAX_XZ_MEMORY = 2**28
_MAX_DEPTH = 32

_BROKEN = (*DAMAGE, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, RuntimeError, OverflowError)


class Refused(InputError):
    """An archive that is damaged, or holds what none of a data set does."""


def is_archive(path: Path) -> bool:
    """Whether the name says that `extract` can unpack it, and it is a file."""
    # macOS leaves "._name" beside a file, with the file's attributes.
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith("._") and path.is_file()


def extract(path: Path, target: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
    """Unpacks an archive into a new folder, whole or not at all.

    Args:
      path: a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
      target: the folder that is made; it must not be there, or be empty. Its parent must be there.
      max_bytes: what the archive may unpack to, counted as it is written.
      max_files: how many members it may have.

    Raises:
      InputError: no such archive, or a damaged or encrypted one; a member that is no file or folder, or whose name
        leads out of the target or is there twice (in other capitals, too); more bytes or members than allowed, or
        than an honest archive of that size holds; a full disk.
    """
    path, target = Path(path), Path(target)
    _check_archive(path)
    with atomic_folder(target) as folder:
        tree = _Tree(folder, min(max_bytes, _FREE_BYTES + _RATIO * path.stat().st_size), max_files)
        tree.unpack(path, ())


def unpacked(
    source: Path, aside: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> tuple[Path, list[str]]:
    """A folder with everything that `source` holds, archives unpacked where they lie.

    Downloads are kept in every way: one archive, a folder of archives, or a folder of which some parts were unpacked
    and their archives kept. So that a builder sees one tree, the members of an archive come beside it, not into a
    folder of its name; where a file lies there already, the file holds; where two archives have one file, it must be
    the same in both (but for a README and the like, of which the first holds). An archive in a folder need not belong
    to the data set: one that is damaged or refused is passed over, unless nothing else is there.

    Args:
      source: a folder, an archive, or another file.
      aside: a folder, made where it is missing; what is unpacked goes into a folder `unpacked` in it, with links to
        the other files.
      max_bytes: as in `extract`, for all archives together.
      max_files: likewise, files that are linked included.

    Returns:
      `(folder, notes)`: `source` itself where no archive is in it, at any depth, else the folder in `aside`; and a line
      for each archive that was passed over.

    Raises:
      InputError: as `extract`, with the exception above; two archives disagree about a file; `source` is missing, or
        of a kind of archive that is not known here.
    """
    source, target = Path(source), Path(aside) / "unpacked"
    if not source.is_dir():
        if source.is_file() and not is_archive(source) and not source.name.lower().endswith(_FOREIGN):
            return source, []
        _check_archive(source)
        _make(target.parent)
        extract(source, target, max_bytes, max_files)
        return target, []
    found = list(_walk(source))
    archives = [path for path in found if is_archive(path)]
    if not archives:
        return source, []
    allowed = min(max_bytes, _FREE_BYTES + _RATIO * sum(path.stat().st_size for path in archives))
    _make(target.parent)
    refusals: list[Refused] = []
    with atomic_folder(target) as folder:
        tree = _Tree(folder, allowed, max_files)
        for path in found:
            if not is_archive(path):
                tree.link(path, path.relative_to(source).parts)
        for path in archives:
            try:
                tree.unpack(path, path.relative_to(source).parts[:-1])
            except Refused as error:
                tree.forget(path)
                refusals.append(error)
        if refusals and not tree.known:
            raise refusals[0]
    return target, [f"passed over: {refusal}" for refusal in refusals]


def _check_archive(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder: check the name")
    if not is_archive(path):
        raise InputError(f"{path}: is no archive of type {listed(SUFFIXES)}: {_BY_HAND}")


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file below the folder, sorted. Links are followed, but not in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return
    if len(above) == _MAX_DEPTH:
        raise InputError(f"{folder}: lies more than {_MAX_DEPTH} folders deep: name the folder of the data itself")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    for path in entries:
        if path.is_dir():
            yield from _walk(path, (*above, real))
        elif path.is_file():
            yield path


@dataclass(frozen=True)
class _Member:
    """A member of an archive: its name as stored, whether it is a folder or why it is refused, and its bytes."""

    name: str
    is_folder: bool
    refused: str | None
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class _Known:
    """A name in the tree as it is spelt, whether it is a folder, and the archive that it came from, if any."""

    name: str
    is_folder: bool
    archive: Path | None


class _Tree:
    """The folder that is being filled, and what may still come into it.

    Every folder in it is its own: no link to a folder is ever made, so that nothing can be written through one.
    """

    def __init__(self, root: Path, max_bytes: int, max_files: int):
        self.root = root
        self.max_bytes, self.max_files = max_bytes, max_files
        self.bytes = self.files = 0
        self.known: dict[str, _Known] = {}

    def link(self, path: Path, parts: tuple[str, ...]) -> None:
        """Links a file of the user's own into the tree."""
        self._count(path)
        target = self.root.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.absolute())
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[:length])
            self.known[_folded(name)] = _Known(name, length < len(parts), None)

    def unpack(self, archive: Path, below: tuple[str, ...]) -> None:
        """Unpacks an archive into the folder `below` the root."""
        try:
            with contextlib.closing(_members(archive)) as members:
                for member in members:
                    self._count(archive)
                    self._add(archive, member, below)
        except InputError:
            raise
        except _BROKEN as error:
            raise Refused(damaged(archive, error)) from error

    def forget(self, archive: Path) -> None:
        """Takes away again what an archive brought."""
        for key, known in reversed(list(self.known.items())):  # what is in a folder came after it
            if known.archive == archive:
                path = self.root / known.name
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
                del self.known[key]

    def _add(self, archive: Path, member: _Member, below: tuple[str, ...]) -> None:
        parts = _parts(archive, member.name, member.is_folder)
        if member.refused:
            raise Refused(f"{archive}: {member.name!a} {member.refused}: {_BY_HAND}")
        if any(part.lower() in _RUBBISH for part in parts) or (member.is_folder and not parts):  # "./"
            return
        parts = (*below, *parts)
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[:length])
            is_folder = length < len(parts) or member.is_folder
            known = self.known.setdefault(_folded(name), _Known(name, is_folder, archive))
            if known.is_folder != is_folder:
                raise InputError(f"{archive}: {name!a} is there as a file and as a folder: {_BY_HAND}")
            if known.name != name:
                raise InputError(f"{archive}: {name!a} differs from {known.name!a} in capitals only: {_BY_HAND}")
        target = self.root.joinpath(*parts)
        if member.is_folder:
            _make(target)
        elif known.archive is not None:  # what the user unpacked holds
            _make(target.parent)
            with member.open() as data:
                self._add_file(archive, data, target, known)

    def _add_file(self, archive: Path, data: IO[bytes], target: Path, known: _Known) -> None:
        blocks = self._blocks(archive, data)
        if not target.exists():
            try:
                with target.open("xb") as file:
                    for block in blocks:
                        file.write(block)
            except OSError as error:
                raise unwritable(target, error) from error
        elif known.archive == archive:
            raise InputError(f"{archive}: holds {known.name!a} twice: {_BY_HAND}")
        elif not _NOTES.fullmatch(target.name):
            with target.open("rb") as file:
                same = all(file.read(len(block)) == block for block in blocks) and not file.read(1)
            if not same:
                raise InputError(
                    f"{archive}: holds another {known.name!a} than {known.archive}: unpack the right one by hand"
                )

    def _count(self, path: Path) -> None:
        self.files += 1
        if self.files > self.max_files:
            raise InputError(f"{path}: makes more than {self.max_files} files, which is the limit: {_BY_HAND}")

    def _blocks(self, archive: Path, data: IO[bytes]) -> Iterator[bytes]:
        """The bytes of a member, counted."""
        while True:
            try:
                block = data.read(_BLOCK)
            # Here and not further out: where a block is written, the same errors mean another thing.
            except _BROKEN as error:
                raise Refused(damaged(archive, error)) from error
            if not block:
                return
            self.bytes += len(block)
            if self.bytes > self.max_bytes:
                raise InputError(
                    f"{archive}: unpacks to more than {self.max_bytes} bytes, which is the limit for an archive of its "
                    f"size: {_BY_HAND} if you trust it"
                )
            yield block


def _parts(archive: Path, name: str, is_folder: bool) -> tuple[str, ...]:
    """The folders and the name of a member; InputError where a system could take it to lead elsewhere."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
    except UnicodeError:
        sizes = [256]
    if (
        name.startswith("/")
        or (not parts and not is_folder)
        or "\\" in name
        or ".." in parts
        or re.match("[A-Za-z]:", name)
        or any(ord(character) < 32 for character in name)
    ):
        raise Refused(f"{archive}: {name!a} leads out of the archive or is no name: do not trust it, or {_BY_HAND}")
    if len(parts) > _MAX_DEPTH or any(size > 255 for size in sizes):
        raise Refused(f"{archive}: {name[:100]!a} is too long a name or too deep: {_BY_HAND}")
    return parts


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _folded(name: str) -> str:
    """The same for names that some file system takes to be one."""
    return unicodedata.normalize("NFC", name).casefold()


def _members(path: Path) -> Generator[_Member, None, None]:
    return _zip_members(path) if path.name.lower().endswith(".zip") else _tar_members(path)


class _Capped(io.BufferedReader):
    """A file of which no header can make `zipfile` read a great deal at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As always, below the limit."""
        if size is not None and size > _MAX_DIRECTORY:
            raise ValueError(f"its directory claims {size} bytes")
        return super().read(size)


def _zip_members(path: Path) -> Generator[_Member, None, None]:
    with _Capped(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            refused = None
            if info.flag_bits & 0x1:
                refused = "is encrypted"
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                refused = "is a link or a device"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                refused = f"is packed by method {info.compress_type}"
            # As stored: `filename` ends where a zero byte is.
            yield _Member(info.orig_filename, info.is_dir(), refused, functools.partial(archive.open, info))


def _tar_members(path: Path) -> Generator[_Member, None, None]:
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        name = path.name.lower()
        if name.endswith("gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif name.endswith("bz2"):
            file = stack.enter_context(bz2.BZ2File(file))
        elif name.endswith("xz"):
            file = stack.enter_context(io.BufferedReader(_Xz(file)))
        stream = _Forward(file)
        archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))  # type: ignore[call-overload]
        while True:
            stream.limit = _MAX_HEADER
            member = archive.next()
            if member is None:
                break
            stream.limit = _BLOCK
            # A sparse file is one whose zeros are left out; it would be read by seeking.
            is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            refused = None if is_file or member.isdir() else "is a link, a device or a sparse file"
            yield _Member(member.name, member.isdir(), refused, functools.partial(_tar_open, archive, member))
        # What tarfile takes for the end: the end's own block of zeros, and a file that was cut short.
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is cut short")
        # To the very end, where the checksum of a packed file is.
        stream.limit = _BLOCK
        for _ in range(_MAX_REST // _BLOCK):
            if not stream.read(_BLOCK):
                return
        raise tarfile.ReadError("it goes on after its end")


def _tar_open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    data = archive.extractfile(member)
    assert data is not None  # it is a file
    return data


class _Forward:
    """A stream that `tarfile` reads once from beginning to end, and not a great deal at once."""

    def __init__(self, data: IO[bytes]):
        self.limit = _MAX_HEADER
        self.last = b""
        self._data = data
        self._at = 0

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        if not 0 <= size <= self.limit:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.last = self._data.read(size)
        self._at += len(self.last)
        return self.last

    def seek(self, offset: int) -> None:
        """Passes over what lies between: headers are followed by their data, and that is padded to a block."""
        if not self._at <= offset <= self._at + self.limit:
            raise tarfile.ReadError(f"a header leads from byte {self._at} to {offset}")
        self.read(offset - self._at)


class _Xz(io.RawIOBase):
    """What an .xz file unpacks to. The standard library's own reader takes as much memory as the file asks for."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_XZ_MEMORY)

    def readable(self) -> bool:
        """Always: `io.BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fills some of the buffer; 0 at the end."""
        while not self._decoder.eof:
            packed = b""
            if self._decoder.needs_input and not (packed := self._file.read(io.DEFAULT_BUFFER_SIZE)):
                raise EOFError("it is cut short")
            if data := self._decoder.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        if self._decoder.unused_data.strip(b"\0") or self._file.read(1):
            raise lzma.LZMAError("it goes on after its end")
        return 0
