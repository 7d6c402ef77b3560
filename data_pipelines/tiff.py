"""TIFF: what a file claims, held against the limits before a library decodes it, and the depth of its one page.

OpenCV decodes depth of more than 8 bits: it knows halves (told that they are integers), doubles, and either byte
order, where Pillow knows neither and swaps the bytes of some compressed floats. Pillow decodes what is of 8 bits, and
the guides, in `files.py`, after `read_header`.
"""

import os
import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines.opening import check_size, damaged, listed

DEPTH_TYPES = ("uint8", "uint16", "float16", "float32", "float64")

# Tags by number: TIFF 6.0, section 8.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 259, 262, 274
SAMPLES, PLANES, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT = 277, 284, 322, 323, 339
DEFAULTS = {
    **{BITS: 1, COMPRESSION: 1, ORIENTATION: 1, SAMPLES: 1, PLANES: 1, SAMPLE_FORMAT: 1},
    **{TILE_WIDTH: 0, TILE_HEIGHT: 0},
}
NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the type of a tag's value, in `struct`'s letters
KINDS = {1: "uint", 2: "int", 3: "float"}

# The most bytes that one byte of the file can become, by compression; the others are held against `max_pixels` alone.
# LZW: a code of 12 bits stands for 4096 bytes at most; deflate: 258 bytes take 2 bits; PackBits: 128 take 2 bytes.
GROWTH = {1: 1, 5: 2731, 8: 1032, 32946: 1032, 32773: 64}

_quiet = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What the one page of a file claims."""

    height: int
    width: int
    samples: int
    dtype: str
    """The type of a sample by NumPy's way of naming them; there need not be such a type."""
    photometric: int
    """0 white is zero, 1 black is zero, 2 colours, 3 a palette, and others."""
    format_at: int | None
    """Where in the file the tag has the two bytes that say whether a sample is a float."""


def read_header(file: BinaryIO, path: Path, max_pixels: int) -> Header:
    """Reads the tags and checks what they claim; the file is then at its beginning again.

    Raises:
      InputError: damaged, larger than the limit or than the file's length allows, of several pages, to be shown
        turned, or with each of its 16-bit colours in a plane of its own.
    """
    entries = _Page(file, path).entries
    file.seek(0)
    if not {WIDTH, HEIGHT, PHOTOMETRIC} <= entries.keys():
        raise damaged(path, "it does not say its width, height and kind of picture")
    if any(len(set(values)) != 1 for values, _ in entries.values()):
        raise damaged(path, "its samples are of different types")
    tags = DEFAULTS | {tag: values[0] for tag, (values, _) in entries.items()}
    height, width, samples, bits = tags[HEIGHT], tags[WIDTH], tags[SAMPLES], tags[BITS]
    check_size(path, height, width, max_pixels)
    if not (1 <= samples <= 5 and 1 <= bits <= 64) or tags[TILE_WIDTH] * tags[TILE_HEIGHT] > max_pixels:
        tile = f"{tags[TILE_HEIGHT]} x {tags[TILE_WIDTH]}"
        raise damaged(path, f"it claims {samples} samples of {bits} bits a pixel, tiles of {tile} pixels")
    if height * width * samples * bits > 8 * os.fstat(file.fileno()).st_size * GROWTH.get(tags[COMPRESSION], 2**40):
        raise damaged(path, f"it is too short for {height} x {width} pixels")
    if tags[ORIENTATION] != 1:
        raise InputError(
            f"{path}: its tag asks to show it turned (orientation {tags[ORIENTATION]}): turn the pixels or remove the "
            "tag, so that depth and guide lie alike"
        )
    if samples > 1 and bits > 8 and tags[PLANES] != 1:
        raise InputError(f"{path}: has each colour of {bits} bits in a plane of its own: save it as 8-bit RGB")
    dtype = f"{KINDS.get(tags[SAMPLE_FORMAT], 'void')}{bits}"
    _, format_at = entries.get(SAMPLE_FORMAT, ([], None))
    return Header(height, width, samples, dtype, tags[PHOTOMETRIC], format_at)


def check_depth(header: Header, path: Path) -> None:
    """InputError unless the page is one channel of a type that is read as depth."""
    if header.samples != 1 or header.photometric != 1:
        kinds = {0: "grey with white as 0", 2: "colours", 3: "a palette"}
        kind = kinds.get(header.photometric, "colours") if header.samples == 1 else f"{header.samples} channels"
        raise InputError(f"{path}: holds {kind}, not depth: save one channel of grey with black as 0")
    if header.dtype not in DEPTH_TYPES:
        raise InputError(f"{path}: holds {header.dtype}, not {listed(DEPTH_TYPES)}: convert it to uint16 or float32")


def decode_depth(header: Header, path: Path, floats: Collection[str] = ()) -> np.ndarray:
    """The values of a page that `check_depth` let pass; (H, W), every float that is none of `floats` as float32."""
    import cv2  # slow to import

    data = np.memmap(path, np.uint8, "c")
    stored = header.dtype
    if stored == "float16" and header.format_at is not None:
        # OpenCV knows no halves: told that they are integers it hands on their bits. The change is to the copy alone.
        order = "<" if data[0] == ord("I") else ">"
        data[header.format_at : header.format_at + 2] = np.frombuffer(struct.pack(f"{order}H", 1), np.uint8)
        stored = "uint16"
    # OpenCV says on stderr what it does not like: our one line will do.
    with _quiet:
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise damaged(path, error) from error
        finally:
            cv2.utils.logging.setLogLevel(level)
    if values is None or values.shape != (header.height, header.width) or values.dtype.name != stored:
        raise damaged(path, "its pixels cannot be decoded")
    values = values.view(header.dtype)
    with np.errstate(over="ignore"):
        narrow = values.dtype.kind == "f" and values.dtype.name not in floats
        return values.astype(np.float32, copy=False) if narrow else values


class _Page:
    """The tags of a file's only page, each with its numbers and the place of its value in the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = os.fstat(file.fileno()).st_size
        order = {b"II": "<", b"MM": ">"}.get(file.read(2))
        if order is None:
            raise damaged(path, "it does not begin as a TIFF does")
        self._order = order
        (version,) = self._at(2, "H")
        if version not in (42, 43):
            raise damaged(path, "it does not begin as a TIFF does")
        # Offsets of 4 bytes, or of 8 in a BigTIFF.
        self._big = version == 43
        offset, count = ("Q", "Q") if self._big else ("I", "H")
        self._offset = offset
        (page,) = self._at(8 if self._big else 4, offset)
        (number,) = self._at(page, count)
        if number > 4096:
            raise damaged(path, f"it claims {number} tags")
        place, step = page + struct.calcsize(f"<{count}"), 20 if self._big else 12
        self.entries: dict[int, tuple[list[int], int]] = {}
        for i in range(number):
            tag, *value = self._entry(place + step * i)
            if tag in self.entries:
                raise damaged(path, f"it has tag {tag} twice")
            if tag in (WIDTH, HEIGHT, PHOTOMETRIC, *DEFAULTS):
                self.entries[tag] = self._numbers(tag, *value)
        (another,) = self._at(place + step * number, offset)
        if another:
            raise InputError(
                f"{path}: holds {self._pages(another, count, step)} pages: save the one with the picture in a file "
                "of its own"
            )

    def _at(self, place: int, form: str) -> tuple[int, ...]:
        form = self._order + form
        if place + struct.calcsize(form) > self._size:
            raise damaged(self._path, "it is cut short")
        self._file.seek(place)
        return struct.unpack(form, self._file.read(struct.calcsize(form)))

    def _entry(self, place: int) -> tuple[int, int, int, int]:
        """Tag, type and number of its values, and where they are said to be."""
        tag, kind, number = self._at(place, f"HH{self._offset}")
        return tag, kind, number, place + (12 if self._big else 8)

    def _numbers(self, tag: int, kind: int, number: int, place: int) -> tuple[list[int], int]:
        if kind not in NUMBERS or not 1 <= number <= 8:
            raise damaged(self._path, f"tag {tag} has {number} values of type {kind}")
        form = NUMBERS[kind] * number
        if struct.calcsize(f"<{form}") > struct.calcsize(f"<{self._offset}"):
            (place,) = self._at(place, self._offset)
        return list(self._at(place, form)), place

    def _pages(self, page: int, count: str, step: int) -> str:
        """How many there are, from the second on; they may lead back to each other."""
        pages = 1
        while page and pages < 100:
            pages += 1
            (number,) = self._at(page, count)
            (page,) = self._at(page + struct.calcsize(f"<{count}") + step * number, self._offset)
        return str(pages) if pages < 100 else "100 or more"
