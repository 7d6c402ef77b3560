"""Every reader on damaged files: a few of what `fuzz.py` runs by the hundred thousand, and what it and others found."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_pipelines import fuzz

FILES = fuzz.corpus()
# The library behind it is C, and may take the process of the tests with it.
SAFE = sorted(name for name in FILES if not name.endswith(".h5"))


# What is good, and not for this reader: colours are no depth, and a float is no colour.
OTHERS = {
    fuzz._depth: (
        *("palette.png", "exif.png", "rgba.png", "rgb.npy"),
        *("rgb.tif", "palette.tif", "jpeg.tif", "rgb16.tif"),
    ),
    fuzz._size: ("rgb.npy",),
    fuzz._guide: ("f4.npy", "f8.npy", "u2.npy", "f2.tif", "f4.tif", "f8.tif", "opencv.tif"),
    fuzz.read_calibration: ("matrix.txt",),
    fuzz.read_intrinsics: ("calib.txt",),
}


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", FILES)
def test_the_corpus_is_of_good_files(name, tmp_path, monkeypatch):
    """Otherwise all that follows would show nothing."""
    if name.endswith(".h5"):
        monkeypatch.setattr(fuzz.hdf5, "_index", lambda p, t: fuzz.json.dumps(fuzz.hdf5_index.answer(str(p), t)))
    path = tmp_path / name
    path.write_bytes(FILES[name])
    for reader in fuzz.READERS[fuzz.suffix_of(name)]:
        if name not in OTHERS.get(reader, ()):
            reader(path)


EDITS = st.lists(
    st.builds(
        fuzz.Edit,
        kind=st.sampled_from(fuzz.KINDS),
        at=st.integers(0, 2000),
        size=st.integers(1, 600),
        to=st.integers(0, 2000),
        value=st.one_of(st.sampled_from(fuzz.WORDS), st.sampled_from(fuzz.TEXTS), st.binary(max_size=16)),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400, derandomize=True, deadline=2000, database=None)
@given(name=st.sampled_from(SAFE), edits=EDITS, deep=st.booleans())
def test_a_changed_file_gives_an_error_or_a_result(place, name, edits, deep):
    path = place / name
    path.write_bytes(fuzz.change(FILES[name], fuzz.suffix_of(name), edits, deep))
    assert fuzz.read(path) in ("result", "error")


@settings(max_examples=150, derandomize=True, deadline=2000, database=None)
@given(name=st.sampled_from(SAFE), keep=st.integers(0, 16), rest=st.binary(max_size=300))
def test_random_bytes_give_an_error_or_a_result(place, name, keep, rest):
    path = place / name
    path.write_bytes(FILES[name][:keep] + rest)
    assert fuzz.read(path) in ("result", "error")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and forks")
def test_the_program_runs_and_counts():
    command = [sys.executable, "-m", "tests.data_pipelines.fuzz", "--count", "400"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "400 inputs in " in done.stdout and " 0 failures" in done.stdout
    lines = [line for line in done.stdout.splitlines() if " inputs: " in line]
    assert len(lines) == len(fuzz.READERS) and sum(int(line.split()[1]) for line in lines) == 400


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and forks")
@pytest.mark.parametrize(
    ("reader", "word"),
    [
        ("lambda path: 1 / 0", "ZeroDivisionError"),
        ("lambda path: bytearray(2**31)", "MemoryError"),
        ("lambda path: [0 for _ in iter(int, 1)]", "died of SIG"),
        ("lambda path: __import__('os').kill(__import__('os').getpid(), 11)", "died of SIGSEGV"),
        ("lambda path: (_ for _ in ()).throw(fuzz.InputError('two\\nlines'))", "more than one line"),
        ("lambda path: __import__('warnings').warn('odd')", "UserWarning"),
    ],
)
def test_the_program_sees_every_kind_of_failure(tmp_path, reader, word):
    script = f"""
import pathlib, sys
sys.path.insert(0, {str(Path(fuzz.__file__).parent)!r})
import fuzz
fuzz.SECONDS = 0.2
fuzz.READERS = dict.fromkeys(fuzz.READERS, [{reader}])
print(fuzz.run(0, 3, pathlib.Path({str(tmp_path)!r})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "3" and done.stderr.count(word) == 3
    assert len(os.listdir(tmp_path)) == 3  # kept, to be looked at
