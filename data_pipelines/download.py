"""Downloads: each file is fetched once, held against its checksum, and gets its name only when it is whole."""

import contextlib
import ftplib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write, unwritable, write_whole
from data_pipelines.opening import open_file, unreadable

RECORD = "checksums.tsv"

# Where no size is known; the largest file of the field has a tenth of it.
MAX_BYTES = 2**37

_BLOCK = 2**20
_SECONDS = 30
_BY_HAND = "download it by hand and name its folder (--from DIR)"


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
      url: http, https or ftp.
      path: where it lies below the folder of the downloads, with "/" between folders.
      size: in bytes; None where it is not known.
      sha256: in hexadecimal; None where it is not known.
    """

    url: str
    path: str
    size: int | None = None
    sha256: str | None = None


def read_checksums(tsv: str | os.PathLike[str]) -> list[Download]:
    """Reads a table of downloads: url, size, sha256 and path, between tabs; "-" for a size or sum that is not known.

    Empty lines and lines that begin with "#" are passed over.

    Raises:
      InputError: the file is missing, or a line of it is none of these; a path leads out of its folder or is there
        twice.
    """
    tsv = Path(tsv)
    with open_file(tsv, (".tsv",), "table of checksums") as file:
        text = file.read().decode("utf-8", "replace")
    downloads: dict[str, Download] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match line.split("\t"):
            case [url, size, sha256, path] if (
                re.fullmatch(r"(https?|ftp)://\S+", url)
                and re.fullmatch(r"-|[1-9]\d{0,14}", size)
                and re.fullmatch(r"-|[0-9a-f]{64}", sha256)
                and re.fullmatch(r"[^\\:*?\"<>|\x00-\x1f]+", path)
                and not PurePosixPath(path).is_absolute()
                and ".." not in PurePosixPath(path).parts
                and path not in downloads
            ):
                known = None if size == "-" else int(size), None if sha256 == "-" else sha256
                downloads[path] = Download(url, path, *known)
            case _:
                raise InputError(
                    f"{tsv}: line {number} is not url, size, sha256 and a path of its own, between tabs: put it right"
                )
    return list(downloads.values())


def fetch(downloads: Iterable[Download], folder: str | os.PathLike[str], progress: bool = True) -> Path:
    """Fetches what is not there yet, and checks what is.

    A file whose checksum nobody published is trusted the first time: its size and sum go into `checksums.tsv` in the
    folder, and later downloads, and the file itself, are held against them. Where a checksum is known, a download
    that broke off goes on where it stopped.

    Args:
      downloads: the files.
      folder: where they go; it is made.
      progress: whether to show bytes, rate and time left, on a terminal.

    Returns:
      The folder.

    Raises:
      InputError: a server cannot be reached or has no such file; what it sends, or what is there, is not the file of
        that size and checksum; the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    recorded = _read_record(folder / RECORD)
    new = 0
    for download in downloads:
        target = folder / download.path
        if download.sha256 is None and download.path in recorded:
            kept = recorded[download.path]
            download = replace(download, size=kept.size, sha256=kept.sha256)
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(target, error) from error
        if target.exists():
            size, sha256 = target.stat().st_size, _sha256(target)
            wrong = _difference(download, size, sha256)
            if wrong:
                raise InputError(f"{target}: {wrong}: remove it, and it is fetched again")
        else:
            size, sha256 = _fetch(download, target, progress)
        if download.sha256 is None:
            recorded[download.path] = replace(download, size=size, sha256=sha256)
            _write_record(folder / RECORD, list(recorded.values()))
            new += 1
    if new:
        print(
            f"{folder / RECORD}: {new} downloads have no published checksum; theirs are recorded here, and the files "
            "held against them from now on",
            file=sys.stderr,
        )
    return folder


def _fetch(download: Download, target: Path, progress: bool) -> tuple[int, str]:
    """Fetches one file and gives its size and checksum."""
    if download.sha256 is None:
        # Two halves of different files would make a whole here, and be recorded: so never a half.
        with atomic_write(target) as temp:
            return _receive(download, temp, progress)
    part = target.with_name(f".{target.name}.part")
    size, sha256 = _receive(download, part, progress)
    try:
        os.replace(part, target)
    except OSError as error:
        raise unwritable(target, error) from error
    return size, sha256


def _receive(download: Download, part: Path, progress: bool) -> tuple[int, str]:
    """Fetches what `part` lacks; gives its size and checksum, which are right."""
    import pooch

    url = download.url
    try:
        sink = _Sink(part, download, progress)
    except OSError as error:
        raise unwritable(part, error) from error
    with contextlib.closing(sink):
        if url.startswith("ftp:"):
            downloader: Any = pooch.FTPDownloader(timeout=_SECONDS, chunk_size=_BLOCK)
            sink.restart()
        else:
            # As the file is: what the server would pack has another length and sum.
            headers = {"Accept-Encoding": "identity"}
            if sink.size >= (MAX_BYTES if download.size is None else download.size):
                sink.restart()
            elif sink.size:
                headers["Range"] = f"bytes={sink.size}-"
            downloader = pooch.HTTPDownloader(
                timeout=_SECONDS, chunk_size=_BLOCK, headers=headers, hooks={"response": sink.answered}
            )
        try:
            downloader(url, sink, None)
        except InputError:
            part.unlink(missing_ok=True)
            raise
        # What came is kept: the connection broke, or the server has no such file now.
        except (OSError, EOFError, ftplib.Error) as error:
            # 416: the server has nothing beyond what is there already, and that was not the file.
            if getattr(getattr(error, "response", None), "status_code", None) == 416:
                part.unlink(missing_ok=True)
            # requests quotes its whole way down; what counts stands at the end.
            text = " ".join(str(error).split()) or type(error).__name__
            reason = text.rsplit("Caused by", 1)[-1].strip(" ()")[-200:]
            raise InputError(f"{url}: cannot be fetched ({reason}): try again, or {_BY_HAND}") from error
        size, sha256 = sink.size, sink.sum.hexdigest()
    wrong = _difference(download, size, sha256)
    if wrong:
        part.unlink()
        raise InputError(f"{url}: {wrong}, and was thrown away: try again, or {_BY_HAND}")
    return size, sha256


class _Sink:
    """The file that a downloader writes to: counts, sums, and stops what grows beyond its size.

    Attributes:
      size: the bytes that are there.
      sum: their SHA-256 so far.
    """

    def __init__(self, path: Path, download: Download, progress: bool):
        self.size = 0
        self.sum = hashlib.sha256()
        self._path, self._download = path, download
        self._limit = MAX_BYTES if download.size is None else download.size
        self._response: Any = None
        self._file = path.open("a+b")
        self._file.seek(0)
        while block := self._file.read(_BLOCK):
            self.sum.update(block)
            self.size += len(block)
        self._bar = tqdm(
            total=download.size,
            initial=self.size,
            desc=download.path,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None if progress else True,
        )

    def restart(self) -> None:
        """Forgets the bytes that are there."""
        self._file.truncate(0)
        self.size = 0
        self.sum = hashlib.sha256()
        self._bar.reset()

    def answered(self, response: Any, *_: Any, **__: Any) -> None:
        """Looks at what an HTTP server is about to send, once it is the file and no redirection."""
        self._response = response
        if response.status_code not in (200, 206):
            return
        url, headers = self._download.url, response.headers
        start = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
        if response.status_code == 200:
            self.restart()
        elif start is None or int(start[1]) != self.size:
            raise InputError(f"{url}: the server goes on from another byte than {self.size}: {_BY_HAND}")
        if headers.get("Content-Type", "").startswith("text/html") and not self._path.suffix.startswith(".htm"):
            raise InputError(f"{url}: the server sends a web page instead of the file: {_BY_HAND}")
        length = headers.get("Content-Length", "")
        if length.isdecimal():
            self._bar.total = self.size + int(length)
            self._check(self._bar.total)
        self._bar.refresh()

    def write(self, data: bytes) -> None:
        """Adds the bytes."""
        self._check(self.size + len(data))
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise unwritable(self._path, error) from error
        self.sum.update(data)
        self.size += len(data)
        self._bar.update(len(data))

    def flush(self) -> None:
        """Nothing: every write is flushed."""

    def close(self) -> None:
        """Closes the file, and the connection where one is left open."""
        self._bar.close()
        self._file.close()
        if self._response is not None:
            self._response.close()

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise InputError(
                f"{self._download.url}: the server sends more than {self._limit} bytes, which is not the file that is "
                f"expected: {_BY_HAND}"
            )


def _difference(download: Download, size: int, sha256: str) -> str:
    """What is wrong with a file of this size and checksum; empty where nothing is."""
    if download.size not in (None, size):
        return f"has {size} bytes (sha256 {sha256}) instead of {download.size} (sha256 {download.sha256 or 'unknown'})"
    if download.sha256 not in (None, sha256):
        return f"has sha256 {sha256} instead of {download.sha256}"
    return ""


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def _read_record(path: Path) -> dict[str, Download]:
    return {download.path: download for download in read_checksums(path)} if path.exists() else {}


def _write_record(path: Path, downloads: Sequence[Download]) -> None:
    lines = [f"{d.url}\t{d.size}\t{d.sha256}\t{d.path}\n" for d in downloads]
    write_whole(path, "".join(lines).encode())
