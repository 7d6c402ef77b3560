"""Large arrays in HDF5 files (.h5, and .mat of MATLAB 7.3), read row by row and with distrust.

    with open_arrays("nyu_depth_v2_labeled.mat", {"depths": ArraySpec("float32", (None, 640, 480))}) as arrays:
        first = arrays["depths"][0]

The HDF5 library runs in a process of its own and only says where the values lie (`hdf5_index.py`: why, and what is
refused); the values are read and unpacked here, in plain Python. A file can therefore neither crash this process nor
make it take memory beyond `WINDOW` for an array and a chunk or two; and it can name no other file.
"""

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.opening import damaged, open_file, unreadable

SUFFIXES = (".h5", ".hdf5", ".mat")
MAX_BYTES = 2**33

# Rows of an array that are unpacked at a time: what chunks hold more of is unpacked more than once.
WINDOW = 2**28

_MAX_ROW = 2**26
_MAX_CHUNK = 2**26
_MAX_SPAN = 2**31
_SECONDS = 60


@dataclass(frozen=True)
class ArraySpec:
    """What an array must be.

    Attributes:
      dtype: NumPy's name of the type of its values, in either byte order.
      shape: the size of each axis; None where any will do.
    """

    dtype: str
    shape: tuple[int | None, ...]


class Rows:
    """An array in a file: `rows[i]` is its i-th row, in native byte order. Row after row is the fast way to read.

    Attributes:
      shape: of the whole array.
      dtype: of the values.
    """

    def __init__(self, path: Path, file: BinaryIO, name: str, spec: ArraySpec, entry: dict[str, Any], max_bytes: int):
        self.shape: tuple[int, ...] = tuple(entry["shape"])
        self.dtype = np.dtype(spec.dtype)
        self._path, self._file, self._name = path, file, name
        self._stored = np.dtype(entry["type"])
        self._filters: list[str] = entry["filters"]
        self._window: tuple[int, np.ndarray] | None = None

        if len(self.shape) != len(spec.shape) or any(
            want not in (None, got) for want, got in zip(spec.shape, self.shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in spec.shape)
            raise InputError(f"{path}: {name} has shape {self.shape}, not ({wanted}): is this the right file?")
        if math.prod(self.shape) == 0:
            raise InputError(f"{path}: {name} of shape {self.shape} holds no values: download the file again")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        if row > _MAX_ROW or row * len(self) > max_bytes:
            raise InputError(
                f"{path}: {name} of shape {self.shape} claims {row * len(self)} bytes, and the limits are {max_bytes} "
                f"and {_MAX_ROW} for one of its rows: split it"
            )
        self._chunk = tuple(entry["chunk"] or self.shape)
        if self._stored != self.dtype.newbyteorder(self._stored.byteorder) or len(self._chunk) != len(self.shape):
            raise damaged(path, f"the index of {name} contradicts itself")
        self._check_chunks(entry["chunk"] is not None, entry["pieces"])
        self._rows = min(self._chunk[0], max(1, WINDOW // row)) if entry["chunk"] else 1

    def _check_chunks(self, chunked: bool, pieces: list[list[int]]) -> None:
        """Fills the table of pieces; each must be there once, inside the file, and of a size that can be."""
        path, name, rank = self._path, self._name, len(self.shape)
        size = math.prod(self._chunk) * self.dtype.itemsize
        if chunked:
            # A chunk may reach over the array's end, and is stored whole all the same.
            padded = [-(-full // part) * part for full, part in zip(self.shape[1:], self._chunk[1:], strict=True)]
            span = self._chunk[0] * math.prod(padded) * self.dtype.itemsize
            if size > _MAX_CHUNK or span > _MAX_SPAN:
                raise InputError(
                    f"{path}: {name} of shape {self.shape} lies in chunks of shape {self._chunk}, of which a row needs "
                    "too many or too large ones: store it in chunks of few rows (h5repack -l CHUNK=...)"
                )
        count = math.prod(-(-full // part) for full, part in zip(self.shape, self._chunk, strict=True))
        self._pieces = {tuple(piece[:rank]): tuple(piece[rank:]) for piece in pieces}
        if len(self._pieces) != count or len(pieces) != count:
            raise damaged(path, f"{name} has {len(pieces)} pieces of {count}")
        end = os.fstat(self._file.fileno()).st_size
        for first, (_, offset, stored) in self._pieces.items():
            if any(at % part or at >= full for at, part, full in zip(first, self._chunk, self.shape, strict=True)):
                raise damaged(path, f"{name} has a piece at {first}, where none can be")
            # zlib grows what it cannot pack by less than this.
            most = size + size // 100 + 1024 if self._filters else size
            least = 0 if self._filters else size
            if offset < 0 or not least <= stored <= min(most, end - offset):
                raise damaged(path, f"the piece of {name} at {first} lies outside the file or has another size")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._name} has {len(self)} rows, and not row {index}")
        if self._window is None or not 0 <= index - self._window[0] < len(self._window[1]):
            self._window = None  # its memory is needed for the next
            start = index // self._chunk[0] * self._chunk[0]
            start += (index - start) // self._rows * self._rows
            stop = min(start + self._rows, index // self._chunk[0] * self._chunk[0] + self._chunk[0], len(self))
            self._window = start, self._unpack(start, stop)
        return self._window[1][index - self._window[0]].copy()

    def _unpack(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, which lie in the same chunks."""
        if self._chunk == self.shape and not self._filters:
            row = math.prod(self.shape[1:]) * self.dtype.itemsize
            ((_, offset, _),) = self._pieces.values()
            values = self._read(offset + start * row, (stop - start) * row)
            return np.frombuffer(values, self._stored).reshape(stop - start, *self.shape[1:]).astype(self.dtype)
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        top = start // self._chunk[0] * self._chunk[0]
        for rest in itertools.product(
            *(range(0, full, part) for full, part in zip(self.shape[1:], self._chunk[1:], strict=True))
        ):
            chunk = self._decode((top, *rest))[start - top : stop - top]
            place = tuple(
                slice(at, min(at + part, full))
                for at, part, full in zip(rest, self._chunk[1:], self.shape[1:], strict=True)
            )
            rows[(slice(None), *place)] = chunk[(slice(None), *(slice(0, part.stop - part.start) for part in place))]
        return rows

    def _decode(self, first: tuple[int, ...]) -> np.ndarray:
        mask, offset, stored = self._pieces[first]
        size = math.prod(self._chunk) * self.dtype.itemsize
        data = self._read(offset, stored)
        # Filters are listed as they were applied; a bit of the mask says that one was not.
        for i, filter_ in reversed(list(enumerate(self._filters))):
            if mask >> i & 1:
                continue
            if filter_ == "deflate":
                stream = zlib.decompressobj()
                try:
                    data = stream.decompress(data, size)
                    # The checksum comes after the last value, and only a further call reads it.
                    whole = not stream.decompress(stream.unconsumed_tail, 1) and stream.eof
                except zlib.error as error:
                    raise damaged(self._path, f"{self._name} at {first}: {error}") from error
                if not whole:
                    raise damaged(self._path, f"{self._name} at {first}: unpacks to another size")
            elif len(data) == size:
                data = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(data) != size:
            raise damaged(self._path, f"{self._name} at {first}: holds {len(data)} bytes instead of {size}")
        return np.frombuffer(data, self._stored).reshape(self._chunk)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            self._file.seek(offset)
            data = self._file.read(size)
        except OSError as error:
            raise unreadable(self._path, error) from error
        if len(data) != size:
            raise damaged(self._path, "it became shorter while it was read")
        return data


@contextlib.contextmanager
def open_arrays(
    path: str | os.PathLike[str], specs: Mapping[str, ArraySpec], max_bytes: int = MAX_BYTES
) -> Iterator[dict[str, Rows]]:
    """Opens arrays at the top of an HDF5 file; MATLAB's have their axes in reverse order.

    Args:
      path: ends in `.h5`, `.hdf5` or `.mat`.
      specs: what each array must be, by name.
      max_bytes: an array that claims more bytes than this is refused.

    Raises:
      InputError: the file is missing, damaged or no HDF5; an array is missing, of another type or shape, a link, kept
        in other files, packed with other filters than gzip and shuffle, or in chunks that no row can be read of.
        Reading a row raises it too, where the values are damaged.
    """
    path = Path(path)
    with open_file(path, SUFFIXES, "HDF5 file"):
        answer = json.loads(_index(path, {name: np.dtype(spec.dtype).str for name, spec in specs.items()}))
        if "refused" in answer:
            raise InputError(f"{path}: {answer['refused']}")
        if "damaged" in answer:
            raise damaged(path, answer["damaged"])
    # Opened again: errors of what the caller does with the rows are none of this file's.
    with path.open("rb") as file:
        yield {name: Rows(path, file, name, spec, answer["arrays"][name], max_bytes) for name, spec in specs.items()}


def _index(path: Path, types: Mapping[str, str]) -> str:
    """The answer of `hdf5_index.py`."""
    # -P: the program's folder holds modules of common names. One thread, because each takes virtual memory; and no
    # plug-in, because the file says which.
    script = Path(__file__).with_name("hdf5_index.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", script, path.absolute(), json.dumps(types)],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise damaged(path, f"the HDF5 library did not finish with it within {_SECONDS} s") from error
    if done.returncode < 0:
        raise damaged(path, f"the HDF5 library crashed on it, signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError(f"{script} failed: {done.stderr}")
    return done.stdout
