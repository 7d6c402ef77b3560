"""Files and folders are whole or not there, nothing else is left, and what is wrong with a place is one line."""

import errno
import functools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.writing import atomic_folder, atomic_write, write_whole


def refused(path: Path, call: Callable[[], object], said: str) -> None:
    """The call raises this one line, which begins with the path."""
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == f"{path}: {said}"


def test_a_file_has_its_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(str(path)) as temp:
        # In the same folder, so that a rename is enough; hidden, and without the suffix that a search goes by.
        assert temp.parent == tmp_path and temp.name.startswith(".") and temp.suffix == ".tmp"
        temp.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]
    write_whole(path, memoryview(b"newer"))
    assert path.read_bytes() == b"newer" and os.listdir(tmp_path) == ["a.txt"]


def test_the_disk_holds_the_bytes_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def sync(file: int) -> None:
        steps.append(("sync", os.fstat(file).st_size))

    def rename(temp: Path, path: Path) -> None:
        steps.append(("rename", temp.stat().st_size))
        temp.rename(path)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    write_whole(tmp_path / "a", b"12345")
    assert steps == [("sync", 5), ("rename", 5)]


def test_files_and_folders_get_the_modes_that_they_get_elsewhere(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    with atomic_folder(tmp_path / "c"):
        pass
    (tmp_path / "d").mkdir()
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "d").stat().st_mode


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    no_file = "is not a file, and cannot be replaced by one: name a file"
    for name, said in {
        "no/x": f"there is no folder {tmp_path / 'no'}: create it or write elsewhere",
        "file/x": f"there is no folder {tmp_path / 'file'}: create it or write elsewhere",
        "folder": no_file,
        "pipe": no_file,
        "x" * 300: "cannot be written (File name too long): choose a shorter name",
    }.items():
        refused(tmp_path / name, functools.partial(write_whole, tmp_path / name, b"x"), said)
    refused(Path(os.devnull), lambda: write_whole(os.devnull, b"x"), no_file)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and Path(os.devnull).is_char_device()
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "pipe"] and os.listdir(tmp_path / "folder") == []
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space or write elsewhere"),
        (errno.EDQUOT, "free some space or write elsewhere"),
        (errno.EROFS, "write elsewhere"),
        (errno.EACCES, "change the rights of the folder or write elsewhere"),
        (errno.EIO, "write elsewhere"),
    ],
)
@pytest.mark.parametrize("before", [["w.pth"], []])
def test_a_disk_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str, before: list[str]
) -> None:
    path = tmp_path / "w.pth"
    for name in before:
        (tmp_path / name).write_bytes(b"before")

    def fail(_: int) -> None:
        assert len(os.listdir(tmp_path)) == len(before) + 1  # what it has written so far is aside
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    refused(path, lambda: write_whole(path, b"half"), f"cannot be written ({os.strerror(code)}): {remedy}")
    assert os.listdir(tmp_path) == before
    assert all((tmp_path / name).read_bytes() == b"before" for name in before)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_limit_of_the_system_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """No mock: the system itself cuts the file short."""
    script = """
import resource, sys
from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(sys.argv[1], bytes(10000))
except InputError as error:
    print(error)
"""
    path = tmp_path / "d.npy"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: cannot be written (File too large): write it in parts or elsewhere\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        RuntimeError("body"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "other.txt"),
        PermissionError(errno.EACCES, "Permission denied", "other.txt"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError("a library's own"),
    ],
)
def test_the_bodys_own_failures_pass_and_leave_nothing(tmp_path: Path, make: Any, error: BaseException) -> None:
    path = tmp_path / "a"
    with pytest.raises(type(error)) as caught, make(path) as temp:
        (temp / "half" if temp.is_dir() else temp).write_text("half")
        raise error
    assert caught.value is error and os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
def test_the_bodys_failures_with_the_place_are_told_of_the_place(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "a"
    full = errno.ENOSPC, os.strerror(errno.ENOSPC)

    def body(fail: Callable[[Path], object]) -> None:
        with make(path) as temp:
            fail(temp)

    def failing(*names: str | None) -> Callable[[Path], object]:
        def fail(temp: Path) -> None:
            raise OSError(*full, *(name and name.format(temp=temp) for name in names))

        return fail

    said = "cannot be written (No space left on device): free some space or write elsewhere"
    # As `write` raises it; as `open` does, of a file in a folder, too; as `symlink` does, whose second file is the new.
    for names in ((), ("{temp}",), ("{temp}/sub/file",), ("source", None, "{temp}")):
        refused(path, functools.partial(body, failing(*names)), said)
    # The folder is gone when the work is done.
    said = "cannot be written (No such file or directory): write elsewhere"
    refused(path, lambda: body(lambda temp: temp.rmdir() if temp.is_dir() else None), said)
    assert os.listdir(tmp_path) == []


def test_a_folder_has_its_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.mkdir()  # an empty one may be there
    with atomic_folder(path) as temp:
        assert temp.parent == tmp_path and temp.suffix == ".tmp"
        (temp / "sub").mkdir()
        (temp / "sub" / "file").write_text("new")
        assert os.listdir(path) == []
    assert (path / "sub" / "file").read_text() == "new" and os.listdir(tmp_path) == ["target"]


def test_a_folder_replaces_nothing(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        with atomic_folder(path) as temp:
            (temp / "sub").mkdir()

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").write_text("kept")
    for name, said in {
        "full": "cannot be written (Directory not empty): write elsewhere",
        "file": "cannot be written (Not a directory): write elsewhere",
        "no/x": f"there is no folder {tmp_path / 'no'}: create it or write elsewhere",
    }.items():
        refused(tmp_path / name, functools.partial(make, tmp_path / name), said)
    assert sorted(os.listdir(tmp_path)) == ["file", "full"] and os.listdir(tmp_path / "full") == ["mine"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_gives_way_only_to_a_whole_one(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    with atomic_folder(place) as folder:
        (folder / "old").touch()

    def fails() -> None:
        with atomic_folder(place, replace=True) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert [path.name for path in place.iterdir()] == ["old"]
    with atomic_folder(place, replace=True) as folder:
        (folder / "new").touch()
        assert (place / "old").exists()
    assert [path.name for path in place.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [place]
