"""Keeping what is slow to make: in this process's memory, or in files that every worker and every run shares.

Both caches hold tuples of arrays and strings, each under a key, and are used from many threads. What comes out of them
is shared, and read-only.
"""

import json
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_write

# The date that a whole file of a `DiskCache` bears (9 September 2001). Whoever writes to it later changes that.
STAMP = 10**9
_DTYPES = {"F32": np.float32, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}

Values = tuple[Any, ...]


class Cache(Protocol):
    """What the two have in common. Picklable; what a memory holds does not travel along.

    Attributes:
      problem: one line for the user, where not all is well.
    """

    problem: str | None

    def get(self, key: str, make: Callable[[], Values]) -> Values:
        """The values of `key`, made by `make()` where they are not kept."""


class ByteCache:
    """Keeps values in memory, up to a number of bytes of arrays; the least recently used go first."""

    problem: str | None = None

    def __init__(self, limit: int):
        self.limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[int, Values]] = OrderedDict()
        self._total = 0

    def get(self, key: str, make: Callable[[], Values]) -> Values:
        """The values of `key`, made by `make()` where they are not kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][1]
        values = make()  # outside the lock: two threads may make the same, which is better than waiting for one another
        arrays = [part for part in values if isinstance(part, np.ndarray)]
        for array in arrays:
            array.flags.writeable = False
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key not in self._entries and size <= self.limit:
                self._entries[key] = size, values
                self._total += size
                while self._total > self.limit:
                    self._total -= self._entries.popitem(last=False)[1][0]
        return values

    def __reduce__(self) -> tuple[type["ByteCache"], tuple[int]]:
        return ByteCache, (self.limit,)


class DiskCache:
    """Keeps values in files, one a key, which are mapped into memory anew at every `get`.

    So only what is read of an array is loaded, the system's page cache is shared by all processes, and this process
    holds nothing: its memory does not grow with the number of keys. The files are in the safetensors format.

    A file is written aside and renamed, so that none is ever seen in part, also where several processes make the same.
    One that was cut off or written to since, or that belongs to another `token`, is made anew. Where the folder cannot
    be written, values are kept in memory instead.

    Args:
      folder: for the files; it is made when it is needed. Whoever changes what the values are made of removes it.
      token: what the values depend on beside the key, such as the options of this program that made them.
      limit: bytes of arrays kept in memory where the folder cannot be written.

    Attributes:
      problem: one line that says why the folder is not written, or None.
    """

    def __init__(self, folder: Path, token: str, limit: int):
        self.folder = folder
        self.token = token
        self.problem: str | None = None
        self._memory = ByteCache(limit)

    def get(self, key: str, make: Callable[[], Values]) -> Values:
        """The values of `key`, a part of a file's name, made by `make()` where no whole file holds them."""
        path = self.folder / f"{key}.safetensors"
        values = _read(path, self.token)
        if values is not None:
            return values
        if self.problem is not None:
            return self._memory.get(key, make)
        made = make()
        try:
            _write(path, self.token, made)
            values = _read(path, self.token)
            if values is None:  # its folder was replaced, or does not keep dates
                self.problem = f"{self.folder}: decoded images are kept in memory alone: files there do not last"
        except (InputError, OSError) as error:
            self.problem = f"{self.folder}: decoded images are kept in memory alone: {error}"
        return self._memory.get(key, lambda: made) if values is None else values

    def __reduce__(self) -> tuple[type["DiskCache"], tuple[Path, str, int]]:
        return DiskCache, (self.folder, self.token, self._memory.limit)


def _write(path: Path, token: str, values: Values) -> None:
    """Writes a file whole or not at all: arrays and strings under their positions, the date the stamp."""
    from safetensors.numpy import save

    arrays = {str(i): np.ascontiguousarray(part) for i, part in enumerate(values) if isinstance(part, np.ndarray)}
    texts = {str(i): part for i, part in enumerate(values) if isinstance(part, str)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(arrays, {**texts, "token": token}))
        os.utime(temporary, (STAMP, STAMP))


def _read(path: Path, token: str) -> Values | None:
    """The values of a file, mapped and read-only, or None where there is none that is whole and of this token."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime != STAMP:
                return None
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # there is none; it is empty
        return None
    # 8 bytes with the header's length, the header in JSON, the arrays.
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        texts = header.pop("__metadata__")
        if texts.pop("token") != token or len(data) != start + max(x["data_offsets"][1] for x in header.values()):
            return None
    except (ValueError, KeyError, TypeError):
        return None
    parts = {
        name: np.ndarray(about["shape"], _DTYPES[about["dtype"]], data, start + about["data_offsets"][0])
        for name, about in header.items()
    } | texts
    return tuple(parts[str(i)] for i in range(len(parts)))
