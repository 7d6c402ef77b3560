"""Depth maps and colour guides: files to NumPy arrays and back.

Arrays keep the values that are stored: no scaling to a unit, no rotation, no colour management. What a value
means (millimetres, disparity, 0 for unknown) belongs to the data set. NaN and infinity pass through: in a float
file they often mean "unknown".

Every failure is an `InputError` of one line that names the file, what is wrong and the remedy. The readers believe
no header: the size it claims is held against the pixel limit and the length of the file before any memory is
taken, and nothing is ever unpickled. The writers leave either the whole file or what was there before.
"""

import contextlib
import io
import math
import os
import re
import struct
import threading
import tokenize
import warnings
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole
from data_pipelines import exr, tiff
from data_pipelines.opening import check_size, damaged, listed, open_file

MAX_PIXELS = 2**27

DEPTH_SUFFIXES = (".png", ".npy", ".pfm", ".dpt", ".tif", ".tiff", ".exr")

# The classes themselves, not `Image.open`: that one has a pixel limit of its own, below what a caller may allow.
GUIDE_FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    ".png": PngImagePlugin.PngImageFile,
    ".jpg": JpegImagePlugin.JpegImageFile,
    ".jpeg": JpegImagePlugin.JpegImageFile,
    ".bmp": BmpImagePlugin.BmpImageFile,
    ".ppm": PpmImagePlugin.PpmImageFile,
    ".pgm": PpmImagePlugin.PpmImageFile,
    ".webp": WebPImagePlugin.WebPImageFile,
    ".tif": TiffImagePlugin.TiffImageFile,
    ".tiff": TiffImagePlugin.TiffImageFile,
}

# The suffix says what may be written; the readers know float16 and float64 too and make float32 of them, unless told.
WRITABLE = {
    ".png": ("uint8", "uint16"),
    ".npy": ("uint8", "uint16", "float16", "float32", "float64"),
    ".pfm": ("float32",),
    ".tif": ("uint8", "uint16", "float32"),
    ".tiff": ("uint8", "uint16", "float32"),
    ".exr": ("float16", "float32"),
}

# What Pillow and NumPy raise on damaged files. MemoryError is not among them: it is no fault of the file.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error),
    Image.DecompressionBombError,  # the WebP reader has Pillow's own pixel limit built in
)

# `warnings.catch_warnings` swaps global state, and readers run in many threads.
_quiet = threading.Lock()


def read_depth(
    path: str | os.PathLike[str],
    max_pixels: int = MAX_PIXELS,
    channel: str | None = None,
    floats: Collection[str] = ("float32",),
) -> Shaped[np.ndarray, "h w"]:
    """Reads a depth map as it is stored.

    Args:
      path: one channel in an 8- or 16-bit grey PNG, a NPY or a TIFF of one page (uint8, uint16, float16, float32 or
        float64), a PFM, a DPT (MPI Sintel, metres) or an EXR. The suffix names the format. A PFM's rows are turned so
        that row 0 is the top; the magnitude of its scale, which writers use in different ways, is not applied.
      max_pixels: files that claim more pixels than this are refused.
      channel: of an EXR, the name of the channel with the depth; by default as `exr.choose` says.
      floats: the floating-point types that come as they are stored.

    Returns:
      (H, W), uint8, uint16 or one of `floats` where that is stored, float32 for the rest. NaN and infinity are kept,
      and a float64 beyond the range of float32 becomes infinity there: whoever computes with the values must look.

    Raises:
      InputError: the file is missing, empty, damaged, too large, or holds anything but one channel of these types;
        a PFM's values make sense only in the byte order that its header denies.
    """
    path = Path(path)
    with open_file(path, DEPTH_SUFFIXES, "depth") as file:
        suffix = path.suffix.lower()
        if channel is not None and suffix != ".exr":
            raise InputError(f"{path}: has one channel alone, none of the name {channel}: leave out the channel's name")
        match suffix:
            case ".png":
                return _png_depth(file, path, max_pixels)
            case ".npy":
                return _npy(file, path, max_pixels, WRITABLE[".npy"], (), floats)
            case ".pfm":
                return _pfm(file, path, max_pixels)
            case ".exr":
                return exr.read_depth(file, path, max_pixels, channel, floats)
            case ".tif" | ".tiff":
                return _tiff_depth(file, path, max_pixels, floats)
            case _:
                return _dpt(file, path, max_pixels)


def depth_size(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of a depth map, of which the header alone is read.

    Raises:
      InputError: as `read_depth`, for what is found without the values; a file that passes may still be no depth.
    """
    path = Path(path)
    with open_file(path, DEPTH_SUFFIXES, "depth") as file:
        match path.suffix.lower():
            case ".png":
                image = _opened(file, path, PngImagePlugin.PngImageFile, max_pixels)
                return image.height, image.width
            case ".npy":
                (height, width, *_), *_ = _npy_header(file, path, max_pixels, WRITABLE[".npy"], ())
                return height, width
            case ".pfm":
                return _pfm_header(file, path, max_pixels)[:2]
            case ".exr":
                header = exr.read_header(file, path, max_pixels)
                return header.height, header.width
            case ".tif" | ".tiff":
                page = tiff.read_header(file, path, max_pixels)
                return page.height, page.width
            case _:
                return _dpt_header(file, path, max_pixels)


def read_guide(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a colour image as 8-bit RGB.

    Grey is repeated over the three channels, a palette is looked up, alpha is dropped, and of 16 bits the upper 8
    are kept. An image that asks (in EXIF) to be shown rotated or mirrored is refused: whether the depth lies as the
    stored pixels do or as the picture is shown, the file does not say, and a guide that lies otherwise does harm
    in silence.

    Args:
      path: a PNG, JPEG, TIFF of one page, BMP, PPM, PGM or WebP, or a NPY of (H, W, 3) uint8. The suffix names the
        format.
      max_pixels: files that claim more pixels than this are refused; a WebP, more than half of it.

    Returns:
      (H, W, 3) uint8, red first, as stored.

    Raises:
      InputError: the file is missing, empty, damaged, too large, rotated by a tag, or holds another kind of picture.
    """
    path = Path(path)
    if path.suffix.lower() == ".exr":
        raise InputError(
            f"{path}: an EXR holds light, not the colours of a picture, and how to make these of it the file does not "
            "say: save the guide as it is shown, as 8-bit PNG"
        )
    with open_file(path, (*GUIDE_FORMATS, ".npy"), "guide") as file:
        if path.suffix.lower() == ".npy":
            return _npy(file, path, max_pixels, ("uint8",), (3,))
        image = _picture(file, path, GUIDE_FORMATS[path.suffix.lower()], max_pixels)
        orientation = _orientation(image)
        if orientation not in (0, 1):
            raise InputError(
                f"{path}: its EXIF tag asks to show it turned (orientation {orientation}): turn the pixels or remove "
                "the tag, so that the guide lies as the depth does"
            )
        if image.mode in ("I;16", "I;16B"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA"):
            raise InputError(f"{path}: holds colours of type {image.mode}: save it as 8-bit RGB")
        # Dropped here because `convert` would warn of it, or make one colour transparent.
        image.info.pop("transparency", None)
        # `convert` copies in any case: 256 MiB of the largest picture.
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def write_depth(path: str | os.PathLike[str], depth: Shaped[np.ndarray, "h w"]) -> None:
    """Writes a depth map whole or not at all; `read_depth` gives the same values back.

    Args:
      path: `.png` holds uint8 and uint16, `.npy` these and floats, `.tif` and `.tiff` these two and float32, `.pfm`
        float32, `.exr` float16 and float32 (as channel Z). An existing file is replaced.
      depth: (H, W), at least one pixel. It is never converted: rounding and scaling to a unit are the caller's.

    Raises:
      InputError: the format cannot hold the array, or the place cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise InputError(f"{path}: a depth map is written as {listed(list(WRITABLE))}: change the suffix")
    if depth.ndim != 2 or depth.size == 0:
        raise InputError(f"{path}: a depth map has shape (height, width), not {depth.shape}")
    if depth.dtype.name not in WRITABLE[suffix]:
        holders = [other for other, types in WRITABLE.items() if depth.dtype.name in types]
        remedy = f"write {listed(holders)} or convert the array" if holders else "convert the array"
        raise InputError(f"{path}: {suffix} holds {listed(WRITABLE[suffix])}, not {depth.dtype.name}: {remedy}")
    depth = depth.astype(depth.dtype.newbyteorder("="), copy=False)
    if suffix == ".exr":
        write_whole(path, exr.encode_depth(path, depth))
        return
    data = io.BytesIO()
    match suffix:
        case ".png":
            Image.fromarray(depth).save(data, "PNG")
        case ".tif" | ".tiff":
            Image.fromarray(depth).save(data, "TIFF")
        case ".npy":
            np.lib.format.write_array(data, depth, allow_pickle=False)
        case _:
            height, width = depth.shape
            data.write(f"Pf\n{width} {height}\n-1.0\n".encode())
            data.write(depth[::-1].astype("<f4").tobytes())
    write_whole(path, data.getbuffer())


def write_picture(path: str | os.PathLike[str], rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an 8-bit RGB picture as PNG, whole or not at all.

    Args:
      path: ends in `.png`. An existing file is replaced.
      rgb: (H, W, 3) uint8, red first, at least one pixel.

    Raises:
      InputError: another suffix or kind of array, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: a picture is written as .png: change the suffix")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise InputError(f"{path}: a picture is (height, width, 3) uint8, not {rgb.shape} {rgb.dtype}")
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    write_whole(path, data.getbuffer())


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(file: BinaryIO, path: Path, format_: type[ImageFile.ImageFile], max_pixels: int) -> ImageFile.ImageFile:
    """A picture of which the header is read, and its size checked."""
    try:
        # Reading a header can warn (of damaged EXIF, for one), and that is no use to the caller.
        with _unwarned():
            image = format_(file)
    except DAMAGE as error:
        raise damaged(path, error) from error
    # A WebP's decoder keeps canvases of its own: as many bytes for half the pixels.
    most = max_pixels // 2 if format_ is WebPImagePlugin.WebPImageFile else max_pixels
    check_size(path, image.height, image.width, most)
    return image


def _picture(file: BinaryIO, path: Path, format_: type[ImageFile.ImageFile], max_pixels: int) -> ImageFile.ImageFile:
    """The decoded picture; its size is checked before it is decoded."""
    is_tiff = format_ is TiffImagePlugin.TiffImageFile
    if is_tiff:
        tiff.read_header(file, path, max_pixels)
    image = _opened(file, path, format_, max_pixels)
    if format_ is PngImagePlugin.PngImageFile:
        _check_png(file, path)
    try:
        # A TIFF's tags are read once more as it is loaded.
        with _unwarned() if is_tiff else contextlib.nullcontext():
            image.load()
    except DAMAGE as error:
        raise damaged(path, error) from error
    return image


def _check_png(file: BinaryIO, path: Path) -> None:
    """Holds every chunk against its checksum, which Pillow does not: it would decode a changed byte to wrong values."""
    place, size = file.tell(), os.fstat(file.fileno()).st_size
    file.seek(8)
    kind = b""
    while kind != b"IEND":
        start = file.read(8)
        length = int.from_bytes(start[:4], "big")
        kind = start[4:]
        if len(start) < 8 or length + 4 > size - file.tell():
            raise damaged(path, "it is cut short")
        checksum = zlib.crc32(file.read(length), zlib.crc32(kind))
        if checksum != int.from_bytes(file.read(4), "big"):
            raise damaged(path, f"a checksum is wrong, before byte {file.tell()}")
    file.seek(place)


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation: 0 where the tag is missing or damaged, 1 upright, else turned or mirrored."""
    try:
        with _unwarned():
            return int(image.getexif().get(0x0112, 0))
    except DAMAGE:
        return 0


def _png_depth(file: BinaryIO, path: Path, max_pixels: int) -> np.ndarray:
    # Pillow stretches 1, 2 and 4 bits to 8: what is stored must be read off the header.
    header = file.read(26)
    file.seek(0)
    image = _picture(file, path, PngImagePlugin.PngImageFile, max_pixels)
    bits, colour = header[24], header[25]
    if header[12:16] != b"IHDR":
        raise damaged(path, "it does not begin with its header")
    if colour != 0:
        kind = {2: "colours", 3: "a palette", 4: "grey with alpha", 6: "colours with alpha"}[colour]
        raise InputError(f"{path}: holds {kind}, not depth: save one channel as 8- or 16-bit grey PNG")
    if bits not in (8, 16):
        raise InputError(f"{path}: holds {bits}-bit grey: save it as 8- or 16-bit grey PNG")
    return np.array(image)


def _tiff_depth(file: BinaryIO, path: Path, max_pixels: int, floats: Collection[str]) -> np.ndarray:
    header = tiff.read_header(file, path, max_pixels)
    tiff.check_depth(header, path)
    if header.dtype != "uint8":
        return tiff.decode_depth(header, path, floats)
    values = np.array(_picture(file, path, TiffImagePlugin.TiffImageFile, max_pixels))
    if values.dtype != np.uint8 or values.shape != (header.height, header.width):
        raise damaged(path, "its pixels are not what its tags say")
    return values


def _npy(
    file: BinaryIO,
    path: Path,
    max_pixels: int,
    types: tuple[str, ...],
    channels: tuple[int, ...],
    floats: Collection[str] = (),
) -> np.ndarray:
    """(H, W, *channels) in native byte order; every float that is none of `floats` as float32."""
    shape, fortran, dtype = _npy_header(file, path, max_pixels, types, channels)
    array = _values(file, path, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")
    # In one copy: two of float64 would be 1 GiB for the largest map.
    native = np.dtype(np.float32) if dtype.kind == "f" and dtype.name not in floats else dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=native)


def _npy_header(
    file: BinaryIO, path: Path, max_pixels: int, types: tuple[str, ...], channels: tuple[int, ...]
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape (H, W, *channels), whether columns are stored one after the other, and type; the values come next."""
    try:
        version = np.lib.format.read_magic(file)
        # Version 3 differs in the names of fields only, and an array of fields is refused below in any case.
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        # A header that Python 2 wrote is read with a warning.
        with _unwarned():
            shape, fortran, dtype = read_header(file)
    # NumPy parses the header as Python, and a parser has failures of its own (MemoryError: nested too deeply).
    except (*DAMAGE, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise damaged(path, error) from error
    if dtype.name not in types:
        raise InputError(
            f"{path}: holds {dtype.name}, not {listed(types)}: convert it to {types[min(1, len(types) - 1)]}"
        )
    if len(shape) < 2 or shape[2:] != channels:
        right = ("height", "width", *channels)
        raise InputError(f"{path}: has shape {shape}: save it as ({', '.join(map(str, right))})")
    check_size(path, shape[0], shape[1], max_pixels)
    return shape, fortran, dtype


def _pfm_header(file: BinaryIO, path: Path, max_pixels: int) -> tuple[int, int, str]:
    """Height, width and the scale as it is written; the values come next."""
    start = file.read(256)
    header = re.match(rb"(P[fF])\s+(\d{1,18})\s+(\d{1,18})\s+([-+]?[0-9.]+(?:[eE][-+]?\d+)?)[ \t]*\r?\n", start)
    if header is None:
        raise damaged(path, "its header is not 'Pf', width and height, scale")
    if header[1] == b"PF":
        raise InputError(f"{path}: holds three channels, not depth: save one channel, as PFM of type 'Pf'")
    try:
        scale = float(header[4])
    except ValueError as error:
        raise damaged(path, error) from error
    if scale == 0:
        raise damaged(path, "a scale of 0 does not say the byte order")
    width, height = int(header[2]), int(header[3])
    check_size(path, height, width, max_pixels)
    file.seek(header.end())
    return height, width, header[4].decode()


def _pfm(file: BinaryIO, path: Path, max_pixels: int) -> np.ndarray:
    height, width, written = _pfm_header(file, path, max_pixels)
    scale = float(written)
    flat = _values(file, path, np.dtype("<f4" if scale < 0 else ">f4"), height * width)
    # Four bytes in the wrong order are a float all the same: the low byte of the mantissa, which may be anything,
    # becomes the exponent. Whole numbers turn into 1e-40 or so; of other values four in five leave the range.
    sample = flat[:: max(1, flat.size // 2**16)]
    if _plausible(sample) < 0.5 and _plausible(sample.view(sample.dtype.newbyteorder())) > 0.99:
        true, said = ("big", "little") if scale < 0 else ("little", "big")
        raise InputError(
            f"{path}: its values are {true}-endian, and its header says {said}-endian: turn the sign of its scale "
            f"({written})"
        )
    return np.ascontiguousarray(flat.reshape(height, width)[::-1], dtype=np.float32)


def _plausible(values: np.ndarray) -> float:
    """The share of the finite values other than 0 that may be depth or disparity in some unit; 1 if there are none."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(np.mean((size > 1e-6) & (size < 1e9))) if size.size else 1.0


def _dpt_header(file: BinaryIO, path: Path, max_pixels: int) -> tuple[int, int]:
    """Height and width; the values come next."""
    header = file.read(12)
    # 202021.25 as a little-endian float32.
    if len(header) < 12 or header[:4] != b"PIEH":
        raise damaged(path, "it does not begin with the tag 202021.25, width and height")
    width, height = struct.unpack("<2i", header[4:])
    check_size(path, height, width, max_pixels)
    return height, width


def _dpt(file: BinaryIO, path: Path, max_pixels: int) -> np.ndarray:
    height, width = _dpt_header(file, path, max_pixels)
    return _values(file, path, np.dtype("<f4"), height * width).reshape(height, width).astype(np.float32, copy=False)


def _values(file: BinaryIO, path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """The rest of the file, which must be exactly `count` values: checked before memory is taken."""
    rest = os.fstat(file.fileno()).st_size - file.tell()
    if rest != count * dtype.itemsize:
        raise damaged(path, f"{rest} bytes of values instead of {count * dtype.itemsize}")
    return np.fromfile(file, dtype, count)
