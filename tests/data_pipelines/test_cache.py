"""What is kept of decoded images: the same values from memory and from disk, and no file that is not whole."""

import errno
import mmap
import os
import pickle
import threading

import numpy as np
import pytest

from data_pipelines import files
from data_pipelines.cache import STAMP, ByteCache, DiskCache
from data_pipelines.datasets import Dataset, DatasetInfo
from data_pipelines.datasets.base import StoredSource, no_colour

INFO = DatasetInfo("kept", "m", 4.0, 0.0, "none", "")


def values(number=0):
    """As an example and its table: floats, bytes, flags, whole numbers and a name."""
    rng = np.random.default_rng(number)
    return (
        rng.random((5, 7), np.float32),
        rng.integers(0, 256, (5, 7, 3), np.uint8),
        rng.random((5, 7)) < 0.5,
        rng.integers(0, 99, (2, 3), np.int32),
        f"scene {number} \N{LATIN SMALL LETTER U WITH DIAERESIS}",
    )


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and not a.flags.writeable


def never():
    raise AssertionError("made again")


def on_disk(tmp_path, token="one"):
    return DiskCache(tmp_path / "decoded", token, 10**6)


@pytest.mark.parametrize("make", [on_disk, lambda _: ByteCache(10**6)])
def test_what_was_made_is_given_back(make, tmp_path):
    cache = make(tmp_path)
    for number in (0, 1):
        assert_same(cache.get(f"k{number}", lambda number=number: values(number)), values(number))
    for number in (0, 1):
        assert_same(cache.get(f"k{number}", never), values(number))
    with pytest.raises(ValueError, match="read-only"):
        cache.get("k0", never)[0][0, 0] = 1
    assert cache.problem is None


def test_a_memory_has_a_limit_and_keeps_what_was_used_last():
    size = sum(part.nbytes for part in values()[:4])
    cache = ByteCache(2 * size)
    cache.get("a", values)
    cache.get("b", values)
    cache.get("a", never)
    cache.get("c", values)
    cache.get("a", never)
    with pytest.raises(AssertionError, match="made again"):
        cache.get("b", never)
    assert ByteCache(size - 1).get("a", values)[4] == values()[4]  # too large to be kept, and given all the same
    with pytest.raises(AssertionError, match="made again"):
        pickle.loads(pickle.dumps(cache)).get("a", never)


def test_files_are_shared_and_mapped(tmp_path):
    first = on_disk(tmp_path)
    first.get("a", values)
    for other in (on_disk(tmp_path), pickle.loads(pickle.dumps(first))):
        found = other.get("a", never)
        assert_same(found, values())
        assert all(isinstance(part.base, mmap.mmap) for part in found[:4])
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(tmp_path / "decoded" / "a.safetensors")["1"], values()[1])
    assert [path.name for path in (tmp_path / "decoded").iterdir()] == ["a.safetensors"]


def touch(path):
    os.utime(path, (STAMP + 1, STAMP + 1))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, (STAMP, STAMP))  # as if the disk had lost the end


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, (STAMP, STAMP))


def empty(path):
    path.write_bytes(b"")
    os.utime(path, (STAMP, STAMP))


def cut_header(path):
    path.write_bytes(path.read_bytes()[:50])
    os.utime(path, (STAMP, STAMP))


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, (STAMP, STAMP))


def one_byte(path):
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\7")


@pytest.mark.parametrize("spoil", [touch, cut, lengthen, empty, cut_header, zeros, one_byte])
def test_a_file_that_changed_is_made_anew(tmp_path, spoil):
    cache = on_disk(tmp_path)
    cache.get("a", values)
    spoil(tmp_path / "decoded" / "a.safetensors")
    made = []
    assert_same(cache.get("a", lambda: made.append(1) or values(1)), values(1))
    assert made and cache.problem is None
    assert_same(cache.get("a", never), values(1))


def test_what_was_made_of_something_else_is_made_anew(tmp_path):
    on_disk(tmp_path, "one").get("a", values)
    assert_same(on_disk(tmp_path, "two").get("a", lambda: values(1)), values(1))
    assert_same(on_disk(tmp_path, "two").get("a", never), values(1))


def test_many_at_once_see_whole_files_alone(tmp_path):
    """Threads with caches of their own, as processes have them."""
    seen, start = [], threading.Barrier(8)

    def work():
        cache = on_disk(tmp_path)
        start.wait()
        for number in range(20):
            seen.append((number, cache.get(f"k{number}", lambda number=number: values(number))))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 160
    for number, found in seen:
        assert_same(found, values(number))
    assert len(list((tmp_path / "decoded").iterdir())) == 20


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_cannot_be_written_leaves_no_part_of_a_file(tmp_path, monkeypatch, code):
    """The disk is full in the middle of a file: what there is goes on, from memory."""
    cache = on_disk(tmp_path)
    cache.get("a", values)

    def half(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "write_bytes", half)
        assert_same(cache.get("b", lambda: values(1)), values(1))
    assert cache.problem.startswith(f"{tmp_path}/decoded: decoded images are kept in memory alone: ")
    assert os.strerror(code) in cache.problem and "\n" not in cache.problem
    assert [path.name for path in (tmp_path / "decoded").iterdir()] == ["a.safetensors"]
    assert_same(cache.get("a", never), values())  # what is there is still read
    assert_same(cache.get("b", never), values(1))
    assert_same(cache.get("c", lambda: values(2)), values(2))
    assert not (tmp_path / "decoded" / "c.safetensors").exists()  # not tried again at every image


def test_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "decoded").touch()
    cache = on_disk(tmp_path)
    assert_same(cache.get("a", values), values())
    assert_same(cache.get("a", never), values())
    assert "kept in memory alone" in cache.problem


class Stored:
    """Three examples in a folder; the first of `part` is number `first` in it."""

    def __init__(self, folder, first=0):
        self.cache_dir = folder / "decoded"
        self.first = first
        self.names = [f"image{first + i}" for i in range(3)]
        self.reads = 0

    def __len__(self):
        return 3

    def key(self, index):
        return f"train-{self.first + index}"

    def read(self, index):
        self.reads += 1
        rng = np.random.default_rng(self.first + index)
        depth = rng.random((6, 8), np.float32)
        depth[0, :3] = 0
        return rng.integers(0, 256, (6, 8, 3), np.uint8), depth, self.names[index]


def test_a_data_set_kept_on_disk(tmp_path):
    source = Stored(tmp_path)
    assert isinstance(source, StoredSource)
    plain, kept = Dataset(INFO, Stored(tmp_path)), Dataset(INFO, source).kept_on_disk()
    for _ in range(2):
        for a, b in zip(kept, plain, strict=True):
            assert_same(a, b)
    assert source.reads == 3
    # Another part of the same records, and another process.
    other = Stored(tmp_path, first=1)
    assert_same(Dataset(INFO, other).kept_on_disk()[0], plain[1])
    assert_same(pickle.loads(pickle.dumps(kept))[2], plain[2])
    assert other.reads == 0


class Colourless(Stored):
    """The same without colour."""

    def read(self, index):
        _, depth, name = super().read(index)
        return no_colour(depth.shape), depth, name


def test_no_colour_is_kept_too(tmp_path):
    source = Colourless(tmp_path)
    for _ in range(2):
        for kept, plain in zip(Dataset(INFO, source).kept_on_disk(), Dataset(INFO, Stored(tmp_path)), strict=True):
            assert_same(kept[1:], plain[1:])
            assert kept.guide.shape == (6, 8, 0) and kept.guide.dtype == np.uint8
    assert source.reads == 3


def test_other_meanings_of_the_numbers_are_decoded_anew(tmp_path):
    first = Dataset(INFO, Stored(tmp_path)).kept_on_disk()[0]
    other = Dataset(DatasetInfo("kept", "m", 4.0, None, "none", ""), Stored(tmp_path)).kept_on_disk()[0]
    assert not first.mask[0, :3].any() and other.mask.all()


def test_who_reads_a_replaced_data_set_spoils_nothing_of_the_new_one(tmp_path):
    """A training goes on while its data set is prepared anew under the same name."""
    folder = tmp_path / "set"
    folder.mkdir()
    old = Dataset(INFO, Stored(folder)).kept_on_disk()
    old[0]
    folder.rename(tmp_path / "replaced")
    folder.mkdir()
    old[1]
    new = Dataset(INFO, Stored(folder, first=1)).kept_on_disk()
    assert_same(new[0], Dataset(INFO, Stored(folder, first=1))[0])
    assert new._source.reads == 1


def test_a_folder_of_ones_own_is_left_alone():
    class Plain:
        names = ("a",)

        def __len__(self):
            return 1

        def read(self, index):
            return np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.float32), "a"

    dataset = Dataset(INFO, Plain())
    assert dataset.kept_on_disk() is dataset and isinstance(dataset.cache, ByteCache)
