"""Readers on files that are damaged or made to harm: an error or a result, never a crash, a hang or 1 GiB.

    python -m tests.data_pipelines.fuzz --count 100000

The files are changes of the small good ones in `corpus`. A change knows a little of the format: checksums are put right
again, packed layers are unpacked first, so that it comes through to the readers' depths. Each input is a number, and
always the same; the program reads every input in a process with a limit of memory and of time, goes on after a crash,
and prints how many gave what. `test_fuzz.py` runs a few of them, and `--corpus` makes the good files anew.
"""

import argparse
import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import OpenEXR
from PIL import Image

from ahmf_jax import export
from ahmf_jax.errors import InputError
from ahmf_jax.models import AHMF
from ahmf_jax.state import init_params
from data_pipelines import archives, hdf5, hdf5_index
from data_pipelines.calib import read_calibration
from data_pipelines.clouds import read_intrinsics
from data_pipelines.download import read_checksums
from data_pipelines.files import DEPTH_SUFFIXES, GUIDE_FORMATS, depth_size, read_depth, read_guide
from data_pipelines.hdf5 import ArraySpec, open_arrays

CORPUS = Path(__file__).with_name("corpus")
MAX_PIXELS = 2**22
MEMORY = 2**30
SECONDS = 2

# Changes


@dataclass(frozen=True)
class Edit:
    """A change of some bytes: `at` and `to` are taken modulo the length."""

    kind: str
    at: int
    size: int = 1
    to: int = 0
    value: bytes = b""


KINDS = ("set", "flip", "cut", "drop", "repeat", "move", "add")
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 511, 512, 2**15, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63)
WORDS = [
    struct.pack(order + code, number)
    for number in (*NUMBERS, 2**64 - 1)
    for code, bits in (("B", 8), ("H", 16), ("I", 32), ("Q", 64))
    for order in "<>"
    if number < 2**bits
]
TEXTS = [
    b"-1",
    b"0",
    b"99999999999999999999",
    b"nan",
    b"1e999",
    b"\n",
    b"\0",
    b" ",
    b"../",
    b"/",
    b"=",
    b"(",
    b"[" * 300,
]


def apply(data: bytes, edit: Edit) -> bytes:
    """The bytes with the change."""
    if not data:
        return edit.value
    at, to = edit.at % len(data), edit.to % len(data)
    piece = data[at : at + edit.size]
    match edit.kind:
        case "set":
            return data[:at] + edit.value + data[at + len(edit.value) :]
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << edit.size % 8)]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "drop":
            return data[:at] + data[at + edit.size :]
        case "repeat":
            return data[:at] + piece * (2 + to % 50) + data[at + edit.size :]
        case "move":
            return data[:to] + piece + data[to + len(piece) :]
        case _:
            return data[:at] + edit.value + data[at:]


def random_edits(rng: random.Random, length: int) -> list[Edit]:
    """One to a few changes; most at the beginning or the end, where the headers are."""
    edits = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        near = rng.choice((64, 512, length or 1))
        at = rng.randrange(max(1, min(near, length)))
        if rng.random() < 0.2:
            at = length - 1 - at
        value = rng.choice((rng.choice(WORDS), rng.choice(WORDS), rng.choice(TEXTS), rng.randbytes(rng.randint(1, 8))))
        size = rng.choice((1, 2, 4, 8, 16, rng.randint(1, 600)))
        edits.append(Edit(rng.choice(KINDS), at, size, rng.randrange(2**20), value))
    return edits


# What hides the depths of a format from a blind change.


def _png(data: bytes) -> bytes:
    """Each chunk's checksum put right."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        length = int.from_bytes(out[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


def _tar(data: bytes) -> bytes:
    """Each header's checksum put right."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


# Suffix -> how to unpack the layer that is changed, and to pack it again.
LAYERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".png": (bytes, _png),
    ".tar": (bytes, _tar),
    ".tar.gz": (gzip.decompress, lambda data: gzip.compress(_tar(data), 1, mtime=0)),
    ".tar.bz2": (bz2.decompress, lambda data: bz2.compress(_tar(data), 1)),
    ".tar.xz": (lzma.decompress, lambda data: lzma.compress(_tar(data), preset=0)),
}


def suffix_of(name: str) -> str:
    """The suffix as the readers see it."""
    return next((suffix for suffix in archives.SUFFIXES if name.endswith(suffix)), Path(name).suffix)


def change(data: bytes, suffix: str, edits: list[Edit], deep: bool) -> bytes:
    """The file with the changes, made in its depths or as it lies."""
    unpack, pack = LAYERS[suffix] if deep and suffix in LAYERS else (bytes, bytes)
    data = unpack(data)
    for edit in edits:
        data = apply(data, edit)
    return pack(data)


# Readers


def read(path: Path) -> str:
    """Reads a file by all that reads its kind: "result" where any gives one, else "error". Anything else escapes."""
    outcomes = []
    for reader in READERS[suffix_of(path.name)]:
        try:
            reader(path)
            outcomes.append("result")
        except InputError as error:
            assert "\n" not in str(error), f"more than one line: {error}"
            assert str(error).startswith(f"{path}: "), f"does not name the file: {error}"
            outcomes.append("error")
    return "result" if "result" in outcomes else "error"


def _depth(path: Path) -> None:
    depth = read_depth(path, MAX_PIXELS)
    assert depth.ndim == 2 and depth.dtype in (np.uint8, np.uint16, np.float32) and 0 < depth.size <= MAX_PIXELS
    assert depth_size(path, MAX_PIXELS) == depth.shape


def _size(path: Path) -> None:
    height, width = depth_size(path, MAX_PIXELS)
    assert 0 < height * width <= MAX_PIXELS


def _guide(path: Path) -> None:
    guide = read_guide(path, MAX_PIXELS)
    assert guide.ndim == 3 and guide.shape[2] == 3 and guide.dtype == np.uint8 and 0 < guide.size <= 3 * MAX_PIXELS


def _rows(path: Path) -> None:
    specs = {"a": ArraySpec("float32", (None, None)), "b": ArraySpec("uint8", (None, None, None))}
    with open_arrays(path, specs, 2**20) as arrays:
        for array in arrays.values():
            for i in range(min(50, len(array))):
                assert array[i].shape == array.shape[1:] and array[i].dtype == array.dtype


def _bundle(path: Path) -> None:
    try:
        export.load_bundle(path)
    except InputError as error:
        # Of the library, whose errors are sentences: "PATH is ...".
        raise InputError(str(error).replace(f"{path} ", f"{path}: ", 1)) from error


def _unpack(path: Path) -> None:
    # In a folder of its own: what leads out of the target lands there, and is seen.
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        target = Path(place) / "target"
        try:
            archives.extract(path, target, 2**22, 1000)
        finally:
            assert os.listdir(place) in ([], ["target"]), f"left {os.listdir(place)}"
        for found in target.rglob("*"):
            assert not found.is_symlink() and (found.is_file() or found.is_dir()), f"made {found}"


READERS: dict[str, list[Callable[[Path], object]]] = {
    **{suffix: [_guide] for suffix in GUIDE_FORMATS},
    **{suffix: [_size, _depth] for suffix in DEPTH_SUFFIXES},
    ".png": [_size, _depth, _guide],
    ".npy": [_size, _depth, _guide],
    ".tif": [_size, _depth, _guide],
    ".tiff": [_size, _depth, _guide],
    ".txt": [read_calibration, read_intrinsics],
    ".json": [read_intrinsics],
    ".safetensors": [_bundle],
    ".tsv": [read_checksums],
    ".h5": [_rows],
    **{suffix: [_unpack] for suffix in (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")},
}


# The program


def corpus() -> dict[str, bytes]:
    """The good files by name."""
    return {path.name: path.read_bytes() for path in sorted(CORPUS.iterdir())}


def make_input(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The input of that number: its name and bytes."""
    rng = random.Random(number)
    by_suffix: dict[str, list[str]] = {}
    for name in files:
        by_suffix.setdefault(suffix_of(name), []).append(name)
    suffix = rng.choice(sorted(by_suffix))
    name = rng.choice(by_suffix[suffix])
    data = files[name]
    if rng.random() < 0.03:
        data = data[: rng.randint(0, 16)] + rng.randbytes(rng.randint(0, 400))
    elif rng.random() < 0.1:
        other = files[rng.choice(by_suffix[suffix])]
        data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    deep = rng.random() < 0.7
    try:
        return f"{number}{suffix}", change(data, suffix, random_edits(rng, len(data)), deep)
    # A layer that was damaged already cannot be unpacked.
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return f"{number}{suffix}", data


def _index_in_a_fork(path: Path, types: dict[str, str]) -> str:
    """As `hdf5._index`, by a fork: a hundred times as fast as a new program."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        with open(into, "w") as answer, contextlib.suppress(BaseException):
            answer.write(json.dumps(hdf5_index.answer(str(path), types)))
        os._exit(0)
    os.close(into)
    with open(out) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print(f"{path.name}: libhdf5 died of {signal.Signals(os.WTERMSIG(status)).name}", file=sys.stderr)
        raise InputError(f"{path}: crashed")
    return text


def _work(numbers: range, place: Path, files: dict[str, bytes], now: mmap.mmap) -> None:
    """Reads the inputs; `now` says which, and counts. In a process of its own."""
    warnings.simplefilter("error")
    hdf5._index = _index_in_a_fork
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        name, data = make_input(number, files)
        now[:8] = number.to_bytes(8, "little")
        path = place / name
        path.write_bytes(data)
        # Unhandled, these end the process: also within C. Processor time, because others use the machine too.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)
        start = time.process_time()
        try:
            outcome = read(path)
        except BaseException as error:
            print(f"{path}: {type(error).__name__}: {error}"[:500], file=sys.stderr, flush=True)
            os._exit(1)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(time.process_time() - start, struct.unpack("<d", now[8:16])[0])
        now[8:16] = struct.pack("<d", slowest)
        at = 16 + 16 * list(READERS).index(suffix_of(name)) + 8 * (outcome == "error")
        now[at : at + 8] = (int.from_bytes(now[at : at + 8], "little") + 1).to_bytes(8, "little")
        path.unlink()


def run(first: int, count: int, place: Path, kind: str = "") -> int:
    """Reads `count` inputs and prints what came of them; gives the number of failures. Their files stay in `place`."""
    files = {name: data for name, data in corpus().items() if name.endswith(kind)}
    now = mmap.mmap(-1, 16 + 16 * len(READERS))
    failures, peak, begin = 0, 0, time.monotonic()
    at = first
    while at < first + count:
        stop = min(at + 2000, first + count)
        child = os.fork()
        if child == 0:
            _work(range(at, stop), place, files, now)
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        peak = max(peak, usage.ru_maxrss)
        at = stop
        if status:
            failures += 1
            at = int.from_bytes(now[:8], "little") + 1
            if os.WIFSIGNALED(status):
                print(f"input {at - 1}: died of {signal.Signals(os.WTERMSIG(status)).name}", file=sys.stderr)
    for suffix, place_of in zip(READERS, itertools.count(16, 16), strict=False):
        results, errors = (int.from_bytes(now[i : i + 8], "little") for i in (place_of, place_of + 8))
        print(f"{suffix:9} {results + errors:7} inputs: {results:6} results, {errors:6} errors")
    print(
        f"{count} inputs in {time.monotonic() - begin:.0f} s: {failures} failures; the slowest took "
        f"{struct.unpack('<d', now[8:16])[0]:.2f} s of processor time, the largest process {peak / 1024:.0f} MiB"
    )
    return failures


def tiff(array: np.ndarray, order: str = "<", *, big: bool = False, deflate: bool = False, **tags: int) -> bytes:
    """A TIFF of one strip written by hand: (H, W) or (H, W, 3) of any type of NumPy's, in either order of bytes."""
    height, width, samples = (*array.shape, 1)[:3]
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    number, step, start = ("Q", 20, 16) if big else ("I", 12, 8)
    fields = {
        **{256: width, 257: height, 258: 8 * array.itemsize, 259: 8 if deflate else 1, 262: 2 if samples == 3 else 1},
        **{273: start, 277: samples, 278: height, 279: len(data), 339: "uif".index(array.dtype.kind) + 1},
        **{int(tag[1:]): value for tag, value in tags.items()},
    }
    page = start + len(data)
    out = b"II" if order == "<" else b"MM"
    out += struct.pack(f"{order}HHHQ", 43, 8, 0, page) if big else struct.pack(f"{order}HI", 42, page)
    out += data + struct.pack(f"{order}{'Q' if big else 'H'}", len(fields))
    after = page + (8 if big else 2) + step * len(fields) + (8 if big else 4)
    lists = b""
    for tag, value in sorted(fields.items()):
        several = tag in (258, 339) and samples > 1
        if several and not big:  # three shorts do not fit
            inside = struct.pack(f"{order}I", after + len(lists))
            lists += struct.pack(f"{order}3H", *[value] * 3)
        elif several:
            inside = struct.pack(f"{order}4H", *[value] * 3, 0)
        elif tag in (273, 279):
            inside = struct.pack(f"{order}{number}", value)
        else:
            inside = struct.pack(f"{order}H{'6x' if big else '2x'}", value)
        kind = {"I": 4, "Q": 16}[number] if tag in (273, 279) else 3
        out += struct.pack(f"{order}HH{number}", tag, kind, 3 if several else 1) + inside
    return out + struct.pack(f"{order}{number}", 0) + lists


def good_files() -> Iterator[tuple[str, bytes]]:
    """The corpus: small good files of every kind."""
    rng = np.random.default_rng(0)
    grey, deep = rng.integers(0, 256, (6, 5), np.uint8), np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000
    rgb = rng.integers(0, 256, (6, 5, 3), np.uint8)
    metres = rng.uniform(1, 80, (6, 5)).astype(np.float32)

    def image(array: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
        file = io.BytesIO()
        picture = Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save(file, kind, **options)
        return file.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 1
    yield "grey.png", image(grey, "PNG")
    yield "deep.png", image(deep, "PNG")
    yield "palette.png", image(rgb, "PNG", "P", transparency=1)
    yield "exif.png", image(rgb, "PNG", exif=exif)
    yield "rgba.png", image(rgb, "PNG", "RGBA")
    yield "a.jpg", image(rgb, "JPEG", exif=exif)
    yield "progressive.jpg", image(rgb, "JPEG", progressive=True)
    yield "a.jpeg", image(grey, "JPEG")
    yield "a.bmp", image(rgb, "BMP")
    yield "palette.bmp", image(rgb, "BMP", "P")
    yield "a.ppm", image(rgb, "PPM")
    yield "plain.ppm", b"P3\n# a comment\n2 2\n255\n" + b"1 2 3 " * 4
    yield "lossy.webp", image(rgb, "WEBP")
    yield "lossless.webp", image(rgb, "WEBP", lossless=True, exif=exif)
    for name, array in (("f4", metres), ("u2", deep), ("f8", metres.astype(">f8")), ("rgb", rgb)):
        file = io.BytesIO()
        np.save(file, array)
        yield f"{name}.npy", file.getvalue()
    yield "little.pfm", b"Pf\n5 6\n-1.0\n" + metres.tobytes()
    yield "big.pfm", b"Pf\n5 6\n0.0039\n" + metres.astype(">f4").tobytes()
    yield "a.dpt", struct.pack("<f2i", 202021.25, 5, 6) + metres.tobytes()
    yield "rgb.tif", image(rgb, "TIFF", compression="tiff_lzw")
    yield "palette.tif", image(rgb, "TIFF", "P", compression="packbits")
    yield "jpeg.tif", image(rgb, "TIFF", compression="jpeg")
    yield "rgb16.tif", tiff(rgb.astype(np.uint16) * 257, ">", deflate=True)
    yield "grey.tiff", image(grey, "TIFF", compression="tiff_adobe_deflate")
    yield "u2.tif", tiff(deep, ">")
    yield "f2.tif", tiff(metres.astype(np.float16), deflate=True)
    yield "f4.tif", tiff(metres, ">", deflate=True)
    yield "f8.tif", tiff(metres.astype(np.float64), big=True)
    yield "opencv.tif", bytes(cv2.imencode(".tif", metres, (cv2.IMWRITE_TIFF_COMPRESSION, 5))[1])
    # Large and smooth enough: what does not become smaller is kept as it is, whatever the compression is called.
    ramp = np.add.outer(np.arange(20), np.arange(24)).astype(np.float32) ** 2
    layers = {"Z": ramp, "A": ramp.astype(np.float16), "id": ramp.astype(np.uint32)}
    for name in ("NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "DWAA"):
        file = io.BytesIO()
        kinds = {"type": OpenEXR.scanlineimage, "compression": getattr(OpenEXR, f"{name}_COMPRESSION")}
        OpenEXR.File(kinds, layers if name != "ZIP" else {"Y": ramp}, num_threads=0).write(file)
        yield f"{name.lower()}.exr", file.getvalue()
    file = io.BytesIO()
    kinds = {"type": OpenEXR.tiledimage, "tiles": OpenEXR.TileDescription(), "compression": OpenEXR.ZIP_COMPRESSION}
    OpenEXR.File(kinds, {"Z": ramp}, num_threads=0).write(file)
    yield "tiled.exr", file.getvalue()
    yield "camera.json", b'{"fx": 525.0, "fy": 525.5, "cx": 319.5, "cy": 239.5, "width": 640, "height": 480}'
    yield (
        "open3d.json",
        json.dumps(
            {"intrinsic": {"width": 640, "height": 480, "intrinsic_matrix": [525, 0, 0, 0, 525, 0, 319.5, 239.5, 1]}}
        ).encode(),
    )
    yield "matrix.txt", b"525.0 0.0 319.5\n0.0 525.0 239.5\n0.0 0.0 1.0\n"
    model = AHMF(scale=2, num_levels=1, features=2)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.safetensors"
        export.save_bundle(path, export.Trained(model, init_params(model)))
        yield path.name, path.read_bytes()
    yield (
        "calib.txt",
        (
            b"cam0=[1000.5 0 320.25; 0 1000.5 240.75; 0 0 1]\ncam1=[1000.5 0 355.5; 0 1000.5 240.75; 0 0 1]\n"
            b"doffs=35.25\nbaseline=150.125\nwidth=640\nheight=480\nndisp=90\nisint=0\nvmin=10\nvmax=80\n"
        ),
    )
    yield "checksums.tsv", b"# made\nhttps://a.org/b.zip\t12\t%s\tb.zip\nftp://a.org/c\t-\t-\td/c\n" % (b"0f" * 32)
    for name, user, options in (
        ("pieces.h5", 0, {}),
        ("chunks.h5", 512, {"chunks": True, "compression": 4}),
        ("shuffled.h5", 0, {"chunks": True, "compression": 1, "shuffle": True}),
    ):
        for version in ("earliest", "latest"):
            file = io.BytesIO()
            with h5py.File(file, "w", userblock_size=user, libver=version) as out:
                out.create_dataset("a", data=metres, **options)
                out.create_dataset("b", data=np.stack([grey, grey]), **options)
            yield f"{version}_{name}", file.getvalue()
    members = {"a/view1.png": image(grey, "PNG"), "a/calib.txt": b"x" * 600, "a/empty": b"", "\u00e4" * 60: b"1"}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data, method)
        yield f"method{method}.zip", file.getvalue()
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:", format=kind) as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name if kind != tarfile.USTAR_FORMAT else name[:40])
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        yield f"format{kind}.tar", file.getvalue()
    yield "a.tar.gz", gzip.compress(file.getvalue(), mtime=0)
    yield "a.tar.bz2", bz2.compress(file.getvalue())
    yield "a.tar.xz", lzma.compress(file.getvalue())


def main() -> None:
    """Runs the program; status 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many inputs")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument(
        "--kind", default="", help="one suffix alone, such as .h5; the numbers are then of that run only"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that failed")
    parser.add_argument("--corpus", action="store_true", help="write the good files anew, and nothing else")
    options = parser.parse_args()
    if options.corpus:
        CORPUS.mkdir(exist_ok=True)
        for name, data in good_files():
            (CORPUS / name).write_bytes(data)
        return
    with tempfile.TemporaryDirectory() as place:
        failures = run(options.first, options.count, Path(place), options.kind)
        if options.keep:
            shutil.copytree(place, options.keep, dirs_exist_ok=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
