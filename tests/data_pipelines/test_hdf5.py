"""HDF5: values come back as they are stored, and a file can neither lead elsewhere, nor crash, nor take the memory."""

import json
import os
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import hdf5, hdf5_index
from data_pipelines.hdf5 import ArraySpec, open_arrays

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 8, 6), np.uint8)
DEPTHS = RNG.uniform(0.5, 10, (10, 8, 6)).astype(np.float32)
SPECS = {"images": ArraySpec("uint8", (None, 3, None, None)), "depths": ArraySpec("float32", (None, 8, 6))}
A = {"a": ArraySpec("float32", (None, None))}


def index_here(path, types):
    return json.dumps(hdf5_index.answer(str(path), types))


@pytest.fixture
def process():
    """Asked for by the tests that want the HDF5 library in a process of its own, as it is outside the tests."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    # Starting a process takes half a second.
    if "process" not in request.fixturenames:
        monkeypatch.setattr(hdf5, "_index", index_here)


def refused(path, *words, specs=A, row=None, **options):
    """Opening, or reading the row, raises one line that begins with the file's name and holds the words."""
    with pytest.raises(InputError) as caught, open_arrays(path, specs, **options) as arrays:
        assert row is not None
        arrays["a"][row]
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    for word in words:
        assert word in line


STORAGE = {
    "in one piece": {},
    "chunks": {"chunks": True},
    "gzip": {"chunks": (1, 3, 8, 6), "compression": 9},
    "gzip, chunks over the edges": {"chunks": (4, 2, 5, 4), "compression": 4},
    "gzip, shuffled": {"chunks": (3, 3, 8, 4), "compression": 1, "shuffle": True},
}


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("window", [1, 700, 2**28])
@pytest.mark.parametrize("order", "<>")
def test_every_row_comes_back_in_any_order(tmp_path, storage, window, order, monkeypatch):
    monkeypatch.setattr(hdf5, "WINDOW", window)
    path = tmp_path / "labelled.mat"
    options = STORAGE[storage]
    # MATLAB's files begin with 512 bytes of its own.
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("images", data=IMAGES, **options)
        if isinstance(options.get("chunks"), tuple):
            options = options | {"chunks": (options["chunks"][0], *options["chunks"][2:])}
        file.create_dataset("depths", data=DEPTHS.astype(f"{order}f4"), **options)
    with open_arrays(path, SPECS) as arrays:
        images, depths = arrays["images"], arrays["depths"]
        assert images.shape == IMAGES.shape and depths.shape == DEPTHS.shape
        assert len(depths) == 10 and depths.dtype == np.float32
        for i in (*range(10), 9, 0, 5, 4, 3):
            np.testing.assert_array_equal(images[i], IMAGES[i])
            np.testing.assert_array_equal(depths[i], DEPTHS[i])
            assert depths[i].dtype.isnative and depths[i].flags.writeable
        np.testing.assert_array_equal(list(depths), DEPTHS)
        for beyond in (-1, 10):
            with pytest.raises(IndexError):
                depths[beyond]


def test_a_row_is_the_callers_own(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.float32([[1, 2], [3, 4]]), chunks=(2, 2))
    with open_arrays(path, A) as arrays:
        arrays["a"][1][:] = 0
        np.testing.assert_array_equal(arrays["a"][1], [3, 4])


def test_sequential_rows_unpack_a_chunk_once(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(60, dtype=np.float32).reshape(12, 5), chunks=(4, 5), compression=1)
    unpacked = []
    decode = hdf5.Rows._decode
    monkeypatch.setattr(hdf5.Rows, "_decode", lambda self, first: unpacked.append(first) or decode(self, first))
    with open_arrays(path, A) as arrays:
        for i in range(12):
            np.testing.assert_array_equal(arrays["a"][i], np.arange(5 * i, 5 * i + 5))
    assert unpacked == [(0, 0), (4, 0), (8, 0)]


def test_filters_that_a_chunk_skips(tmp_path):
    path = tmp_path / "a.h5"
    plain = np.float32([[1, 2, 3]])
    with h5py.File(path, "w") as file:
        array = file.create_dataset("a", (2, 3), np.float32, chunks=(1, 3), compression=1)
        array.id.write_direct_chunk((0, 0), plain.tobytes(), filter_mask=1)
        array.id.write_direct_chunk((1, 0), zlib.compress((2 * plain).tobytes()))
    with open_arrays(path, A) as arrays:
        np.testing.assert_array_equal(list(arrays["a"]), [[1, 2, 3], [2, 4, 6]])


# What leads out of the file. A pipe that nobody writes to stands where it leads: to open it is to hang.


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "elsewhere.h5")
    return "elsewhere.h5"


def hostile(path, kind, elsewhere):
    with h5py.File(path, "w") as file:
        match kind:
            case "external link":
                file["a"] = h5py.ExternalLink(elsewhere, "/a")
            case "soft link":
                file["b"] = np.zeros((2, 2), np.float32)
                file["a"] = h5py.SoftLink("/b")
            case "soft link through an external one":
                file["out"] = h5py.ExternalLink(elsewhere, "/")
                file["a"] = h5py.SoftLink("/out/a")
            case "virtual":
                layout = h5py.VirtualLayout((2, 2), np.float32)
                layout[:] = h5py.VirtualSource(elsewhere, "a", (2, 2))
                file.create_virtual_dataset("a", layout)
            case "virtual, unlimited":
                layout = h5py.VirtualLayout((4, 2), np.float32, maxshape=(None, 2))
                source = h5py.VirtualSource(elsewhere, "a", (4, 2), np.float32, maxshape=(None, 2))
                layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
                file.create_virtual_dataset("a", layout)
            case "external storage":
                file.create_dataset("a", (2, 2), np.float32, external=[(elsewhere, 0, 16)])


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("external link", "is a link"),
        ("soft link", "is a link"),
        ("soft link through an external one", "is a link"),
        ("virtual", "stored virtual"),
        ("virtual, unlimited", "stored virtual"),
        ("external storage", "in other files"),
    ],
)
def test_nothing_outside_the_file_is_opened(tmp_path, kind, word, pipe, process, monkeypatch):
    path = tmp_path / "a.mat"
    monkeypatch.chdir(tmp_path)
    # Given as a plain name and as a full path.
    for elsewhere in (pipe, str(tmp_path / pipe)):
        hostile(path, kind, elsewhere)
        refused(path, word)


def dataset(path, data=None, **options):
    with h5py.File(path, "w") as file:
        if data is None:
            file.create_dataset("a", **options)
        else:
            file.create_dataset("a", data=data, **options)


@pytest.mark.parametrize(
    ("data", "options", "word"),
    [
        (np.zeros((2, 2)), {}, "does not hold float32"),
        (np.zeros((2, 2), np.int32), {}, "does not hold float32"),
        (np.zeros((2, 2), [("a", "f4")]), {}, "does not hold float32"),
        (None, {"shape": (2, 2), "dtype": h5py.string_dtype()}, "does not hold float32"),
        (None, {"shape": (2, 2), "dtype": h5py.ref_dtype}, "does not hold float32"),
        (np.zeros((2, 2), "V4"), {}, "does not hold float32"),
        (np.zeros((2, 2, 2), np.float32), {}, "has shape (2, 2, 2), not (any, any)"),
        (np.zeros(2, np.float32), {}, "has shape (2,), not (any, any)"),
        (np.float32(1), {}, "has shape (), not (any, any)"),
        (h5py.Empty(np.float32), {}, "has shape (), not (any, any)"),
        (np.zeros((0, 2), np.float32), {}, "holds no values"),
        (np.zeros((8, 8), np.float32), {"compression": "lzf"}, "filter 32000: pack it with gzip"),
        (np.zeros((8, 8), np.float32), {"fletcher32": True}, "filter 3: pack it with gzip"),
        (None, {"shape": (8, 8), "dtype": np.float32}, "has 0 pieces of 1"),
        (None, {"shape": (8, 8), "dtype": np.float32, "chunks": (2, 8)}, "has 0 pieces of 4"),
        (None, {"shape": (2, 2**25), "dtype": np.float32, "chunks": (1, 8)}, "claims 268435456 bytes"),
        (None, {"shape": (2**40, 8), "dtype": np.float32, "chunks": (1, 8)}, "claims 35184372088832 bytes"),
        (None, {"shape": (8, 2**15), "dtype": np.float32, "chunks": (2**12, 2**15)}, "store it in chunks of few rows"),
        (None, {"shape": (8, 5), "dtype": np.float32, "chunks": (1, 2**28)}, "store it in chunks of few rows"),
    ],
)
def test_another_type_shape_or_storage_is_refused_before_memory_is_taken(tmp_path, data, options, word, monkeypatch):
    path = tmp_path / "a.h5"
    if options.get("chunks") and data is None:
        options = options | {"maxshape": (None, None)}
    dataset(path, data, **options)
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("memory was taken"))
    refused(path, word)


def test_what_is_no_array_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a")
    refused(path, "a is a folder or a type, not an array")
    with h5py.File(path, "w") as file:
        file["a"] = np.dtype(np.float32)
    refused(path, "a is a folder or a type, not an array")
    with h5py.File(path, "w") as file:
        file["b"] = 1
    refused(path, "holds no array 'a': is this the right file?")
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((2, 2))
        h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, space, plan)
    refused(path, "stored compact")


def test_a_missing_chunk_is_named_not_read_as_zeros(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (4, 3), np.float32, chunks=(1, 3), compression=1)[:3] = 1
    refused(path, "has 3 pieces of 4")


def test_a_chunk_that_unpacks_to_more_is_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "bomb.h5"
    for data, word in (
        (zlib.compress(bytes(2**24)), "lies outside the file or has another size"),
        (zlib.compress(bytes(2**16)), "another size"),
        (zlib.compress(bytes(11)), "holds 11 bytes instead of 12"),
        (zlib.compress(bytes(12))[:-1], "another size"),
        (zlib.compress(bytes(12))[:-1] + b"x", "incorrect data check"),
    ):
        with h5py.File(path, "w") as file:
            array = file.create_dataset("a", (1, 3), np.float32, chunks=(1, 3), compression=9)
            array.id.write_direct_chunk((0, 0), data)
        refused(path, word, row=0)


def test_every_truncation_is_refused_or_leaves_the_values(tmp_path):
    path = tmp_path / "a.h5"
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    dataset(path, values, chunks=(2, 6), compression=1)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        refused(path, "is empty" if length == 0 else "no readable .h5 file", row=0)


def test_an_error_of_the_caller_is_the_callers(tmp_path):
    path = tmp_path / "a.h5"
    dataset(path, np.zeros((2, 2), np.float32))
    with pytest.raises(FileNotFoundError, match=r"other\.txt"), open_arrays(path, A):
        (tmp_path / "other.txt").read_text()


def test_files_that_are_no_hdf5(tmp_path, process):
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(1000))
    refused(path, "is a .mat file of MATLAB 5, which is not read: save it with -v7.3")
    path.write_bytes(b"MATLAB 4" + bytes(1000))
    refused(path, "no readable .mat file", "signature")
    refused(tmp_path / "b.mat", "no such file")
    refused(tmp_path / "b.npz", "is read from .h5, .hdf5 or .mat")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed on it, signal 11"),
        ("import time; time.sleep(60)", "did not finish with it within 1 s"),
    ],
)
def test_a_library_that_crashes_or_hangs_is_one_line(tmp_path, process, monkeypatch, code, word):
    path = tmp_path / "a.h5"
    dataset(path, np.zeros((2, 2), np.float32))
    script = tmp_path / "hdf5_index.py"
    script.write_text(code)
    monkeypatch.setattr(hdf5, "__file__", str(tmp_path / "hdf5.py"))
    monkeypatch.setattr(hdf5, "_SECONDS", 1)
    refused(path, word)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from Linux's getrusage")
def test_memory_is_bounded_by_a_window_and_not_by_the_array(tmp_path, process):
    """A file 1/16 of NYU Depth v2 in each row's bytes: 400 MB of depths, of which a window of 8 MB is held."""
    path = tmp_path / "scaled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        depths = file.create_dataset("depths", (1449, 256, 270), np.float32, chunks=(8, 64, 270), compression=1)
        row = zlib.compress(np.arange(8 * 64 * 270, dtype=np.float32).tobytes(), 1)
        for chunk in np.ndindex(182, 4):
            depths.id.write_direct_chunk((8 * chunk[0], 64 * chunk[1], 0), row)
    script = """
import resource, sys
from data_pipelines import hdf5
hdf5.WINDOW = 2**23
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with hdf5.open_arrays(sys.argv[1], {"depths": hdf5.ArraySpec("float32", (None, None, None))}) as arrays:
    total = sum(float(row[0, 1]) for row in arrays["depths"])
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    total, grown = map(float, done.stdout.split())
    assert total == sum(1 + i % 8 * 64 * 270 for i in range(1449))
    assert grown < 40_000  # KB
