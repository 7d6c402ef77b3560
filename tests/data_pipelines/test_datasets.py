"""Preparing and opening: what is prepared describes itself, parts of it are found, nothing half-built is left."""

import dataclasses
import errno
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import DatasetInfo, builder_class, describe, open_dataset, prepare, prepared_names
from data_pipelines.datasets.builder import by_folder, check, check_missing
from data_pipelines.datasets.scenes.builder import render

SMALL = {"height": 24, "width": 32, "train": 5, "validation": 2, "test": 3}
INFO = DatasetInfo("toy", "mm", 5000.0, 0.0, "none", "")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare("scenes", folder, **SMALL)
    prepare("scenes", folder, save_as="other", **SMALL | {"seed": 7})
    return folder


def test_a_prepared_set_describes_itself(data):
    one = describe("other", data)
    assert (one.builder, one.options, one.info.name, one.info.unit) == ("scenes", SMALL | {"seed": 7}, "other", "m")
    assert one.counts == {"train": 5, "validation": 2, "test": 3}
    for split, number in (("train", 4), ("test", 0)):
        guide, depth = render((7, ("train", "validation", "test").index(split), number), 24, 32)
        stated = one.splits[split][number]
        assert stated == {
            "name": f"{split}-{number:05d}",
            "height": 24,
            "width": 32,
            "known": 1.0,
            "low": float(depth.min()),
            "median": float(np.median(depth)),
            "high": float(depth.max()),
        }
        example = open_dataset("other", split, data)[number]
        np.testing.assert_array_equal(example.guide, guide)
        np.testing.assert_array_equal(example.depth, depth)
    assert prepared_names(data) == ["other", "scenes"]
    assert describe("scenes", data).info == builder_class("scenes").INFO


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("test", ["test-00000", "test-00001", "test-00002"]),
        ("validation+test[:1]", ["validation-00000", "validation-00001", "test-00000"]),
        ("train[-2:]", ["train-00003", "train-00004"]),
        ("train[20%:60%]", ["train-00001", "train-00002"]),
        ("test+test", ["test-00000", "test-00001", "test-00002"] * 2),
    ],
)
def test_parts_of_splits(data, split, names):
    dataset = open_dataset("scenes", split, data)
    assert list(dataset.names) == names == [example.name for example in dataset]
    assert [example.name for example in pickle.loads(pickle.dumps(dataset))] == names


@pytest.mark.parametrize("split", ["training", "train[", "train[:x]", "train[5]", "train+no", "", "nobody/train", "/"])
def test_splits_that_are_not_there(data, split):
    with pytest.raises(InputError, match=r"data set 'scenes' has no split .*: it has train, validation, test"):
        open_dataset("scenes", split, data)


@pytest.mark.parametrize("split", ["train[:6]", "test+train[7:]", "train[-6:2]"])
def test_parts_that_reach_beyond_a_split(data, split):
    with pytest.raises(InputError, match=rf"data set 'scenes', split '{re.escape(split)}': train has 5 images$"):
        open_dataset("scenes", split, data)


def test_the_key_of_a_record_is_the_same_in_every_part(data):
    whole, part = (open_dataset("scenes", split, data)._source for split in ("train+test", "test[1:]"))
    assert whole.key(6) == part.key(0) == "test-000001"
    assert len({whole.key(i) for i in range(len(whole))}) == 8
    assert whole.cache_dir == part.cache_dir and whole.cache_dir.parent == describe("scenes", data).directory


def test_a_damaged_record_is_named(tmp_path):
    prepare("scenes", tmp_path, **SMALL)
    records = next(tmp_path.rglob("*test.array_record*"))
    content = bytearray(records.read_bytes())
    content[6000:6020] = bytes(20)  # the records come first, padding behind them
    records.write_bytes(content)
    dataset = open_dataset("scenes", "test", tmp_path)
    with pytest.raises(InputError, match=r"record test-00000\d \(test-0000\d\) cannot be read .*: build the data set"):
        list(dataset)
    assert dataset[0].name == "test-00000"  # the others can be read


def test_a_damaged_description(tmp_path):
    prepare("scenes", tmp_path, **SMALL)
    file = next(tmp_path.rglob("ahmf.json"))
    text = file.read_text()
    for broken in (text[:50], "{}", "[]", text.replace('"unit"', '"units"')):
        file.write_text(broken)
        with pytest.raises(InputError, match=r"is damaged: build it again, with `ahmf data prepare scenes`"):
            describe("scenes", tmp_path)
    file.write_text(json.dumps(json.loads(text) | {"version": "0.1.0"}))
    with pytest.raises(InputError, match=r"was built by an earlier version of scenes: build it again"):
        open_dataset("scenes", "train", tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"'scenes' is not in .*: build it first \(`ahmf data prepare scenes`\)"):
        open_dataset("scenes", "train", tmp_path)


def test_names_of_ones_own(tmp_path):
    for name in ("../up", ".hidden", "a/b", "", "downloads", "white space"):
        with pytest.raises(InputError, match="use letters, digits"):
            prepare("scenes", tmp_path, save_as=name, **SMALL)
    with pytest.raises(InputError, match=r"name 'middlebury': is that of another data set"):
        prepare("scenes", tmp_path, save_as="middlebury", **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"mine: is there already and is no data set: remove it"):
        prepare("scenes", tmp_path, save_as="mine", **SMALL)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(InputError, match=r"'nothing' is not in .*`ahmf data list` shows"):
        open_dataset("nothing", "train", tmp_path)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    prepare("scenes", tmp_path, **SMALL)
    before = sorted(path for path in tmp_path.rglob("*"))

    # As Python says it, and as the writer of the records does.
    for failure in (
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError('Failed to finalize writing of split "train": write() failed: No space left on device; at byte 3'),
    ):

        def full(self, failure=failure):
            raise failure

        monkeypatch.setattr(builder_class("scenes"), "items", full)
        with pytest.raises(InputError, match=r"scenes could not be written \(No space left on device\): make room"):
            prepare("scenes", tmp_path, **SMALL)
        assert sorted(path for path in tmp_path.rglob("*")) == before


def test_what_no_program_may_fetch(tmp_path, monkeypatch):
    cls = builder_class("scenes")
    monkeypatch.setattr(cls, "FROM_FILES", True)
    with pytest.raises(InputError, match=r"scenes is made from files: name their folder or archive with --from"):
        prepare("scenes", tmp_path, **SMALL)
    monkeypatch.setattr(cls, "INFO", dataclasses.replace(cls.INFO, url="https://example.org"))
    with pytest.raises(InputError, match=r"that no program may fetch: get them from https://example.org and name"):
        prepare("scenes", tmp_path, **SMALL)
    monkeypatch.setattr(cls, "FROM_FILES", False)
    with pytest.raises(InputError, match="scenes is generated and reads no files"):
        prepare("scenes", tmp_path, tmp_path, **SMALL)
    with pytest.raises(InputError, match=r"scenes has no option 'depth': its options are: height, width"):
        prepare("scenes", tmp_path, depth=3)
    with pytest.raises(InputError, match=rf"'nothing' is not known: choose one of {', '.join(datasets.DATASETS)}"):
        prepare("nothing", tmp_path)


def example(depth, guide=(2, 3, 3)):
    return np.zeros(guide, np.uint8), np.array(depth, np.float32)


def test_what_is_counted_of_an_example():
    stated = check("a", *example([[0, 1000, np.nan], [2000, np.inf, 4000]]), INFO)
    assert stated == {"height": 2, "width": 3, "known": 0.5, "low": 1000, "median": 2000, "high": 4000}


@pytest.mark.parametrize(
    ("depth", "guide", "message"),
    [
        ([[1000] * 3] * 2, (3, 2, 3), r"a: the depth is 2 x 3 and the guide 3 x 2 \(height x width\)"),
        ([[0, np.nan, np.inf]] * 2, (2, 3, 3), "a: has no known depth at all"),
        ([[1.2, 3.4, 5.6]] * 2, (2, 3, 3), "a: its largest depth is 5.6, and the range is 5000 mm: is it in another"),
        (
            [[0, 2e6, 3e6]] * 2,
            (2, 3, 3),
            r"a: 100.0% of its depth is above 5000 mm, .* to 3e\+06: .*small\?$",
        ),
        ([[9, 9, -3]] * 2, (2, 3, 3), "a: 33.3% of its depth is below 0, down to -3 mm: fetch its files again"),
    ],
)
def test_sizes_and_units_that_cannot_be_right(depth, guide, message):
    with pytest.raises(InputError, match=message):
        check("a", *example(depth, guide), INFO)


def test_missing_files_are_named_at_once(tmp_path):
    assert check_missing(tmp_path, {}, 2, "scenes", partial=False) == []
    with pytest.raises(InputError, match=r"3 missing \(Art, Dolls\): .* --partial, which uses 3 scenes"):
        check_missing(tmp_path, {"Art": 1, "Dolls": 2}, 3, "scenes", partial=False)
    note = f"{tmp_path}: 1 missing (Art); used: 3 scenes"
    assert check_missing(tmp_path, {"Art": 1}, 3, "scenes", partial=True) == [note]
    for partial in (False, True):  # with nothing at all, --partial is no remedy
        with pytest.raises(InputError, match=r"1 missing \(Art\), which is all of it: name the folder or archive"):
            check_missing(tmp_path, {"Art": 1}, 0, "scenes", partial)


def test_many_missing_files_make_a_short_line(tmp_path):
    files = [f"scene{i:02d}/{name}" for i in range(40) for name in ("a.png", "b.png")] + ["one/c.png", "top.png"]
    missing = by_folder([*files, *files])
    assert missing["scene07 (2 files)"] == 2 and missing["one/c.png"] == missing["top.png"] == 1
    assert len(missing) == 42 and sum(missing.values()) == 82
    with pytest.raises(InputError) as caught:
        check_missing(tmp_path, missing, 5, "scenes", partial=False)
    line = str(caught.value).removeprefix(str(tmp_path))
    assert len(line) < 400 and line.startswith(": 82 missing (scene00 (2 files), scene01 (2 files), ")
    assert line.endswith(
        "scene11 (2 files) and 30 more): fetch what is missing, or go on with --partial, which uses 5 scenes"
    )
    assert len(check_missing(tmp_path, missing, 5, "scenes", partial=True)[0]) < 400 + len(str(tmp_path))


def own_pairs(folder, count=2, value=90):
    """Pairs of a user's own: as many as asked for, and their depth of one value."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((6, 9), value, np.uint8)).save(folder / f"{i}_depth.png")
        Image.fromarray(np.full((6, 9, 3), i, np.uint8)).save(folder / f"{i}_rgb.png")
    return folder


def zipped(folder, path):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_better_set_is_not_replaced(tmp_path):
    many, few = own_pairs(tmp_path / "many", 3), own_pairs(tmp_path / "few", 2)
    data = tmp_path / "data"
    prepare("pairs", data, many, save_as="mine", range=200.0)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    for source, options, said in (
        (few, {"range": 200.0}, "with 3 train; this would make it 2 train: give another --name, or --replace"),
        (many, {}, r"with 3 train \(range 200.0\); this would make it 3 train \(range 255.0\): give"),
    ):
        with pytest.raises(InputError, match=f"^mine is there already {said}"):
            prepare("pairs", data, source, save_as="mine", **options)
        assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    with pytest.raises(InputError, match=r"5 train, .*data set scenes.*would make it 2 train \(data set pairs"):
        prepare("scenes", data, save_as="other", **SMALL)
        prepare("pairs", data, few, save_as="other")
    # Nothing is lost: the same again, or more of it; and whoever says so may lose something.
    assert prepare("pairs", data, many, save_as="mine", range=200.0).counts == {"train": 3}
    assert prepare("pairs", data, few, save_as="mine", replace=True).counts == {"train": 2}
    assert prepare("pairs", data, many, save_as="mine").counts == {"train": 3}
    file = next((data / "mine").rglob("ahmf.json"))
    file.write_text(file.read_text()[:50])  # a damaged set is no loss
    assert prepare("pairs", data, few, save_as="mine").counts == {"train": 2}
    # A split that is gone is lost, whatever another has gained.
    own_pairs(few / "test", 1)
    prepare("pairs", data, few, save_as="split", replace=True)
    with pytest.raises(InputError, match=r"split is there already with 1 test; this would make it 3 train"):
        prepare("pairs", data, many, save_as="split")


@pytest.mark.parametrize("relative", [False, True])
def test_messages_name_what_the_user_gave(tmp_path, monkeypatch, relative):
    archive = zipped(own_pairs(tmp_path / "own", value=0), tmp_path / "in" / "own.zip")
    monkeypatch.chdir(tmp_path)
    data = Path("data") if relative else tmp_path / "data"
    # An error, and a note; of one archive, and of a folder of such.
    for source in (archive, archive.parent):
        with pytest.raises(InputError) as caught:
            prepare("pairs", data, source, guide="*_colour.png")
        assert str(caught.value).startswith(f"{source}: no file is called *_colour.png, and 2 are called *_depth")
        with pytest.raises(InputError) as caught:
            prepare("pairs", data, source, invalid=0.0)
        assert str(caught.value).startswith(f"{source}: 0: has no known depth at all")
    own_pairs(tmp_path / "own/train", value=90)
    archive = zipped(tmp_path / "own", archive)
    assert prepare("pairs", data, archive).notes == [
        f"passed over: the pairs of {archive}: the splits are the folders train"
    ]
    assert describe("pairs", data).notes[0].startswith(f"passed over: the pairs of {archive}: ")


def test_a_disk_that_fills_while_an_archive_is_unpacked(tmp_path, monkeypatch):
    archive = zipped(own_pairs(tmp_path / "own"), tmp_path / "own.zip")
    path_open = Path.open

    def full(self, mode="r", *args):
        if mode == "xb" and self.suffix == ".png":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return path_open(self, mode, *args)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError) as caught:
        prepare("pairs", tmp_path / "data", archive)
    assert str(caught.value).startswith(f"{tmp_path}/data: cannot be written (No space left on device): ")


def test_a_file_without_the_right_to_read_it_is_named(tmp_path, monkeypatch):
    source = own_pairs(tmp_path / "own")
    iterdir = Path.iterdir

    def locked(self):
        if self.name == "own":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return iterdir(self)

    # As the builder sees it, after the search for archives.
    monkeypatch.setattr("data_pipelines.archives.unpacked", lambda given, aside: (given, []))
    monkeypatch.setattr(Path, "iterdir", locked)
    with pytest.raises(InputError, match=rf"^{source}: cannot be read \(Permission denied\): check its rights"):
        prepare("pairs", tmp_path / "data", source)

    # Of the place where it is written, that place is named, also where it lies in the source.
    def build(self):
        raise PermissionError(errno.EACCES, "Permission denied", self.data_dir)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(builder_class("pairs"), "build", build)
    with pytest.raises(InputError, match=r"data: pairs could not be written \(Permission denied\): make room or"):
        prepare("pairs", source / "data", source)


def test_a_broken_archive_beside_the_files(tmp_path):
    source = own_pairs(tmp_path / "own")
    (source / "thesis.zip").write_bytes(b"PK no archive")
    one = prepare("pairs", tmp_path / "data", source)
    assert one.counts == {"train": 2}
    assert one.notes[0].startswith(f"passed over: {source}/thesis.zip: is no readable .zip file")
    # It may be what is missed.
    (source / "1_rgb.png").unlink()
    with pytest.raises(InputError, match=r"1_rgb.png: is missing: .*; passed over: .*thesis.zip: is no readable"):
        prepare("pairs", tmp_path / "data", source)
    with pytest.raises(InputError, match=rf"^{source}/thesis.zip: is no readable .zip file"):
        prepare("pairs", tmp_path / "data", source / "thesis.zip")


def test_what_can_be_no_source(tmp_path):
    source = own_pairs(tmp_path / "own")
    for name, said in (("pairs", "archive: name"), ("nyu_v2", "archive, nor a .mat file: name"), ("lu", "archive: n")):
        with pytest.raises(InputError, match=rf"^{source}/0_rgb.png: is neither a folder nor an {said}"):
            prepare(name, tmp_path / "data", source / "0_rgb.png")
        with pytest.raises(InputError, match=r"^--from is empty: name the folder or archive of the download"):
            prepare(name, tmp_path / "data", "")


def test_a_published_split_is_used_whole(tmp_path, monkeypatch):
    prepare("scenes", tmp_path, **SMALL)
    monkeypatch.setattr("data_pipelines.datasets.splits.protocols", lambda builder: {"dada": None})
    for split in ("dada/test[:3]", "dada/train+dada/test", "train+dada/test"):
        with pytest.raises(InputError, match=rf"^split '{re.escape(split)}': a published split is used whole: leave"):
            datasets._places(describe("scenes", tmp_path), split)
