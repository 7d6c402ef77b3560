"""OpenEXR: what a file claims, held against the limits before the library decodes it, and the one channel with depth.

The library is C++, and an extra of this package. It is told only of files whose header this module has read itself.
"""

import io
import math
import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.opening import check_size, damaged, some

# Header layout, pixel types and compressions by number: the OpenEXR project's "File Layout".
MAGIC = 20000630
TILED, DEEP, PARTS = 0x200, 0x800, 0x1000
MOST_HEADER = 2**20
TYPES = {0: "uint", 1: "half", 2: "float"}
NUMPY: dict[str, np.dtype[Any]] = {
    "uint": np.dtype(np.uint32),
    "half": np.dtype(np.float16),
    "float": np.dtype(np.float32),
}
# Rows to a chunk, by compression: none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA, DWAB.
ROWS = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)
# The most bytes that one byte can become; the others are held against `max_pixels` alone.
GROWTH = {0: 1, 1: 64, 2: 1032, 3: 1032, 5: 1032}


@dataclass(frozen=True)
class Header:
    """What a file of one part claims."""

    height: int
    width: int
    channels: dict[str, str]
    """Name -> "uint", "half" or "float"."""


def read_depth(
    file: BinaryIO, path: Path, max_pixels: int, channel: str | None, floats: Collection[str] = ()
) -> np.ndarray:
    """The values of one channel; (H, W) float32, or as stored where that is one of `floats`.

    Args:
      file: at its beginning.
      path: its name.
      max_pixels: the most pixels; all channels together may take 16 bytes for each of these.
      channel: its name, by default as `choose` says.

    Raises:
      InputError: damaged or too large; several parts, deep pixels, levels of detail, subsampled channels, a data
        window other than the display window; no such channel; whole numbers above 2**24; the library is missing.
    """
    header = read_header(file, path, max_pixels)
    name = choose(header, path, channel)
    openexr = _library(path)
    # Not the newer `File`, which decodes all channels, and where it cannot says so on stdout and gives none.
    try:
        stored = openexr.InputFile(str(path))
        try:
            values = np.frombuffer(stored.channel(name), NUMPY[header.channels[name]])
        finally:
            stored.close()
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise damaged(path, error) from error
    if values.size != header.height * header.width:
        raise damaged(path, f"channel {name} has {values.size} values")
    pixels = values.reshape(header.height, header.width)
    if pixels.dtype.kind == "u" and int(pixels.max()) > 2**24:
        raise InputError(f"{path}: channel {name} holds numbers up to {pixels.max()}: save it as float")
    return pixels.astype(pixels.dtype if pixels.dtype.name in floats else np.float32)  # a copy, that may be written to


def choose(header: Header, path: Path, channel: str | None) -> str:
    """The name of the channel with the depth.

    The one that `channel` names. By default the one called Z or depth, in capitals or not and in any layer ("view.Z");
    where there is none, the only one apart from alpha (A).
    """
    names = list(header.channels)
    there = f"it holds {some(names)}"
    if channel is not None:
        if channel not in names:
            raise InputError(f"{path}: has no channel {channel}: {there}; name one of them (--channel)")
        return channel
    last = {name: name.rpartition(".")[2].lower() for name in names}
    found = [name for name in names if last[name] in ("z", "depth")] or [name for name in names if last[name] != "a"]
    if len(found) != 1:
        raise InputError(f"{path}: which channel is the depth cannot be told: {there}; name it (--channel)")
    return found[0]


def encode_depth(path: Path, depth: np.ndarray) -> memoryview:
    """The bytes of a file with the depth, (H, W) float16 or float32, as channel Z; compressed without loss."""
    openexr = _library(path)
    data = io.BytesIO()
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {"Z": np.ascontiguousarray(depth)}, num_threads=0).write(data)
    return data.getbuffer()


def _library(path: Path) -> Any:
    try:
        import OpenEXR
    except ImportError as error:
        raise InputError(f"{path}: EXR takes the library OpenEXR: pip install 'ahmf-jax[exr]'") from error
    return OpenEXR


def read_header(file: BinaryIO, path: Path, max_pixels: int) -> Header:
    """Reads the attributes and checks what they claim; raises InputError as `read_depth` does."""
    start = file.read(MOST_HEADER)
    try:
        magic, version = struct.unpack_from("<II", start)
        if magic != MAGIC or version & 0xFF != 2:
            raise damaged(path, "it does not begin as an EXR does")
        if version & (DEEP | PARTS):
            kind = "deep pixels" if version & DEEP else "several parts"
            raise InputError(f"{path}: holds {kind}: save the depth as one flat part")
        attributes = dict(_attributes(start, path))
        channels = dict(_channels(attributes["channels"], path))
        (compression,) = struct.unpack("<B", attributes["compression"])
        data, display = (struct.unpack("<4i", attributes[f"{window}Window"]) for window in ("data", "display"))
        tile = struct.unpack("<2IB", attributes["tiles"]) if version & TILED else None
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        raise damaged(path, f"its header: {error}") from error
    except KeyError as error:
        raise damaged(path, f"attribute {error} is missing") from error
    if not channels or compression >= len(ROWS):
        raise damaged(path, f"it has {len(channels)} channels in compression {compression}")
    height, width = data[3] - data[1] + 1, data[2] - data[0] + 1
    check_size(path, height, width, max_pixels)
    if data != display:
        raise InputError(
            f"{path}: its data window {data} is not its display window {display}: save the whole picture, so that "
            "depth and guide lie alike"
        )
    pixel = sum(NUMPY[kind].itemsize for kind in channels.values())
    if height * width * pixel > 16 * max_pixels:
        raise InputError(
            f"{path}: claims {len(channels)} channels of {height} x {width} pixels, {height * width * pixel} bytes, "
            f"and the limit is {16 * max_pixels}: save the depth alone or raise max_pixels"
        )
    if tile is not None and (tile[2] & 15 or not 1 <= tile[0] * tile[1] <= max_pixels):
        raise InputError(f"{path}: has levels of detail, or tiles of {tile[1]} x {tile[0]} pixels: save it in rows")
    chunks = math.ceil(height / ROWS[compression]) if tile is None else 1
    rest = os.fstat(file.fileno()).st_size - 8 * chunks
    if height * width * pixel > rest * GROWTH.get(compression, 2**20):
        raise damaged(path, f"it is too short for {height} x {width} pixels")
    return Header(height, width, channels)


def _attributes(start: bytes, path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and values, up to the empty name that ends the header."""
    at, seen = 8, set()
    while start[at : at + 1] not in (b"", b"\0"):
        name, at = _text(start, at, path)
        _, at = _text(start, at, path)
        (size,) = struct.unpack_from("<I", start, at)
        at += 4
        if size > len(start) - at or name in seen:
            raise damaged(path, f"attribute {name!r} is cut short, too long, or there twice")
        seen.add(name)
        yield name, start[at : at + size]
        at += size
    if at >= len(start):
        raise damaged(path, "its header has no end")


def _channels(value: bytes, path: Path) -> Iterator[tuple[str, str]]:
    """Names and types of the channels."""
    at, seen = 0, set()
    while value[at:] != b"\0":
        name, at = _text(value, at, path)
        kind, across, down = struct.unpack_from("<I4x2I", value, at)
        at += 16
        if kind not in TYPES or name in seen:
            raise damaged(path, f"channel {name!r} is of type {kind}, or there twice")
        if (across, down) != (1, 1):
            raise InputError(f"{path}: channel {name} has a sample for every {across} x {down} pixels: save them all")
        seen.add(name)
        yield name, TYPES[kind]


def _text(value: bytes, at: int, path: Path) -> tuple[str, int]:
    """The text that ends with a zero, and the place after it."""
    end = value.index(b"\0", at, at + 256)
    text = value[at:end].decode()
    if not text.isprintable():
        raise damaged(path, f"a name in it is {text!r}")
    return text, end + 1
