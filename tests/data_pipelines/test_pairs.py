"""A folder of pairs: values and names as stored, and every way in which a folder can be wrong."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from data_pipelines.datasets import DatasetInfo, open_dataset, open_pairs, prepare
from data_pipelines.datasets.folder import find_root
from data_pipelines.degrade import Degradation
from data_pipelines.files import write_depth
from data_pipelines.loader import whole_example

RNG = np.random.default_rng(4)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "test10"


def write(folder, name, size=(6, 9), guide_size=None, depth="{}_depth.png", guide="{}_rgb.png"):
    values = RNG.integers(1, 256, size, np.uint8)
    colours = RNG.integers(0, 256, (*(guide_size or size), 3), np.uint8)
    for pattern, array in ((depth, values), (guide, colours)):
        path = folder / pattern.format(name)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(array).save(path)
    return values, colours


def test_pairs_come_as_stored_and_sorted(tmp_path):
    wanted = {name: write(tmp_path, name) for name in ("b", "a", "c_depth")}
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a_depth.png").write_bytes(b"what macOS leaves")
    dataset = open_pairs(tmp_path)
    assert dataset.names == ("a", "b", "c_depth") and len(dataset) == 3
    for example in dataset:
        depth, guide = wanted[example.name]
        np.testing.assert_array_equal(example.depth, depth)
        np.testing.assert_array_equal(example.guide, guide)
        assert example.depth.dtype == np.float32 and example.guide.dtype == np.uint8 and example.mask.all()
    assert (dataset.info.unit, dataset.info.range, dataset.info.invalid) == ("grey level", 255.0, None)
    assert pickle.loads(pickle.dumps(dataset))[1].name == "b"


def test_names_choose_and_order(tmp_path):
    for name in "abc":
        write(tmp_path, name)
    (tmp_path / "lonely_rgb.png").touch()  # of no account where it is not asked for
    assert [example.name for example in open_pairs(tmp_path, names=["c", "a"])] == ["c", "a"]


def test_patterns_may_name_folders(tmp_path):
    depth, _ = write(tmp_path, "x", depth="depth/{}.png", guide="colour/left-{}.jpg")
    dataset = open_pairs(tmp_path, depth="depth/*.png", guide="colour/left-*.jpg")
    assert dataset.names == ("x",)
    np.testing.assert_array_equal(dataset[0].depth, depth)


def test_units_travel_and_invalid_becomes_the_mask(tmp_path):
    guide = np.zeros((2, 3, 3), np.uint8)
    stored = np.array([[5000, 0, 1000], [0, 0, 9000]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "a_depth.png")
    Image.fromarray(guide).save(tmp_path / "a_rgb.png")
    dataset = open_pairs(tmp_path, unit="mm", range=10000.0, invalid=0)
    assert (dataset.info.unit, dataset.info.range) == ("mm", 10000.0)
    np.testing.assert_array_equal(dataset[0].mask, stored > 0)
    np.testing.assert_array_equal(dataset[0].depth[stored > 0], [5000, 1000, 9000])
    assert np.isin(dataset[0].depth, [5000, 1000, 9000]).all()
    assert open_pairs(tmp_path, range=10000.0, invalid=0, fill="background")[0].depth[0, 1] == 1000


def test_values_that_cannot_be_in_the_unit_and_range(tmp_path):
    depth, _ = write(tmp_path, "a")
    said = r"a_depth.png: 100.0% of its depth is above 0.5 grey level, the range, .* small\? Give range and unit, or"
    for names in (None, ["a"]):
        with pytest.raises(InputError, match=said):
            open_pairs(tmp_path, range=0.5, names=names)[0]
    with pytest.raises(InputError, match=r"small\? Give --pairs.range and --pairs.unit$"):  # no length is stretched
        open_pairs(tmp_path, range=0.5, unit="mm", options="--pairs.")[0]
    with pytest.raises(InputError, match=r"a_depth.png: its largest depth is \d+, .* too large\? Give range and unit"):
        open_pairs(tmp_path, range=1e6)[0]
    depth[:] = 90
    depth[:, 0] = 255
    Image.fromarray(depth).save(tmp_path / "a_depth.png")
    with pytest.raises(InputError, match=r"above 100 grey .* Is 255 the value for unknown\? --pairs.invalid 255$"):
        open_pairs(tmp_path, range=100.0, options="--pairs.")[0]
    assert open_pairs(tmp_path, range=100.0, invalid=255)[0].depth.max() == 90


def test_one_pattern_for_depth_and_colour(tmp_path):
    write(tmp_path, "a")
    said = r"a_depth.png: would be depth and colour at once: say with {0}guide how the colour is called \({0}gui"
    for guide in ("*_depth.png", "./*_depth.png"):
        with pytest.raises(InputError, match=said.format("")):
            open_pairs(tmp_path, guide=guide)
    with pytest.raises(InputError, match=said.format("--")):
        prepared(tmp_path, tmp_path / "out", depth="*_depth.png", guide="*_depth.png")


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: is not a folder"):
        open_pairs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no file is called"):
        open_pairs(tmp_path)
    write(tmp_path, "a")
    for pattern in ("depth.png", "*_*.png", "*/depth.png"):
        with pytest.raises(InputError, match=r"write exactly one \*"):
            open_pairs(tmp_path, depth=pattern)
    with pytest.raises(InputError, match=r"deep: is not a folder"):
        open_pairs(tmp_path, depth="deep/*.png")
    with pytest.raises(InputError, match=r"zebra_depth.png: is missing"):
        open_pairs(tmp_path, names=["zebra"])
    with pytest.raises(InputError, match="range 0"):
        open_pairs(tmp_path, range=0)
    (tmp_path / "b_depth.png").touch()
    with pytest.raises(InputError, match=r"b_rgb.png: is missing: pair 'b' has no guide"):
        open_pairs(tmp_path)


def test_sizes_that_differ_are_both_named(tmp_path):
    write(tmp_path, "a", (6, 9), (12, 18))
    with pytest.raises(InputError, match=r"a: the depth is 6 x 9 and the guide 12 x 18"):
        open_pairs(tmp_path)[0]


def test_nothing_known_and_a_damaged_file_are_named(tmp_path):
    write(tmp_path, "a")
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "a_depth.png")
    with pytest.raises(InputError, match=r"a: the depth map has no known sample"):
        open_pairs(tmp_path, invalid=0)[0]
    file = tmp_path / "a_rgb.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a_rgb.png: "):
        open_pairs(tmp_path)[0]


def test_the_evaluation_images():
    if not SHARED.is_dir():
        pytest.skip("the ten evaluation images (../shared/data/test10) are not on this machine")
    dataset = open_pairs(SHARED)
    assert len(dataset) == 10 and dataset.names[:2] == ("art", "books")
    assert dataset[0].depth.shape == (1080, 1320) and dataset[0].mask.all()
    # The bicubic floor of the AHMF protocol: MATLAB bicubic down and up, rounded to grey levels, no border left out.
    for name, floor in (("art", 0.973), ("books", 0.291)):
        example = dataset[dataset.names.index(name)]
        batch = whole_example(example, dataset.info, scale=4, degradation=Degradation("matlab_bicubic"))
        upsampled = resample.resize(batch["depth_lr"], (1080, 1320), "matlab_bicubic")
        error = np.round(np.clip(upsampled, 0, 1) * 255) - batch["depth_hr"] * 255
        assert abs(np.abs(error).mean() - floor) < 0.0015


def prepared(source, tmp_path, **options):
    return prepare("pairs", tmp_path / "data", source, save_as="mine", **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_prepared_folder_holds_the_files_and_what_they_mean(tmp_path, dtype):
    source = tmp_path / "own"
    source.mkdir()
    suffix = "npy" if dtype is np.float32 else "png"
    stored = {}
    for name in ("b", "a"):
        _, guide = write(source, name)
        (source / f"{name}_depth.png").unlink()
        depth = RNG.integers(20, 250, (6, 9)).astype(dtype)
        depth[0, 0] = 0
        write_depth(source / f"{name}_depth.{suffix}", depth)
        stored[name] = depth, guide
    options = {"unit": "mm", "range": 250.0, "invalid": 0.0, "fill": "background", "depth": f"*_depth.{suffix}"}
    one = prepared(source, tmp_path, **options)
    assert one.info == DatasetInfo("mine", "mm", 250.0, 0.0, "the user's own files", "", "background")
    assert one.options == {**options, "guide": "*_rgb.png", "stretch": False} and one.counts == {"train": 2}
    dataset = open_dataset("mine", "train", tmp_path / "data")
    assert dataset.names == ("a", "b")
    for example in dataset:
        depth, guide = stored[example.name]
        np.testing.assert_array_equal(example.guide, guide)
        np.testing.assert_array_equal(example.mask, depth > 0)
        np.testing.assert_array_equal(example.depth[example.mask], depth[depth > 0])
    assert dataset._source.read(0)[1].dtype == dtype  # as stored: no bytes are wasted, no value is rounded


def test_depth_without_colour(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    wanted = {name: write(source, name)[0] for name in ("b", "a")}
    without = prepared(source, tmp_path, guide="")
    assert without.info.colour is False and without.counts == {"train": 2} and without.options["guide"] == ""
    for dataset in (open_dataset("mine", "train", tmp_path / "data"), open_pairs(source, guide="")):
        assert not dataset.info.colour and dataset.names == ("a", "b")
        for example in pickle.loads(pickle.dumps(dataset)):
            np.testing.assert_array_equal(example.depth, wanted[example.name])
            assert example.guide.shape == (6, 9, 0) and example.guide.dtype == np.uint8
    assert prepared(source, tmp_path, replace=True).info.colour and open_pairs(source).info.colour


def test_colour_that_is_left_out_is_neither_read_nor_decoded(tmp_path, monkeypatch):
    source = tmp_path / "own"
    source.mkdir()
    wanted = {name: write(source, name) for name in ("b", "a")}
    prepared(source, tmp_path)
    files, records = open_pairs(source), open_dataset("mine", "train", tmp_path / "data")
    kept = records.kept_on_disk()
    coloured = kept[0].guide
    for file in source.glob("*_rgb.png"):
        file.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(tfds.features.Image, "decode_example_np", lambda *_: pytest.fail("was decoded"))
        for dataset in (files, records, kept):
            depths = dataset.without_colour()
            for one in (pickle.loads(pickle.dumps(depths)), depths.kept_on_disk()):
                assert not one.info.colour and one.names == ("a", "b")
                for example in one:
                    np.testing.assert_array_equal(example.depth, wanted[example.name][0])
                    assert example.guide.shape == (6, 9, 0)
    there = {path.name for path in next(tmp_path.rglob("decoded")).iterdir()}
    assert there == {f"train-{key}.safetensors" for key in ("000000", "000000-depth", "000001-depth")}
    np.testing.assert_array_equal(kept[0].guide, coloured)
    np.testing.assert_array_equal(kept[0].guide, wanted["a"][1])


def test_a_folder_without_colour_says_how_it_is_read(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    for name in ("a", "b"):
        write(source, name)
        (source / f"{name}_rgb.png").unlink()
    said = (
        r"own: no file is called \*_rgb.png, and 2 are called \*_depth.png: say with {0}guide how the colour "
        r"is called \({0}guide '' where there is none\)$"
    )
    for read, options in ((lambda: open_pairs(source), ""), (lambda: prepared(source, tmp_path), "--")):
        with pytest.raises(InputError, match=said.format(options)):
            read()
    with pytest.raises(InputError, match=r"own: no file is called \*.tiff: say with depth how they are$"):
        open_pairs(source, depth="*.tiff", guide="")
    said = r"called \*.pfm or \*_rgb.png: say with --depth and --guide how they are \(--guide '' where there is no"
    with pytest.raises(InputError, match=said):
        prepared(source, tmp_path, depth="*.pfm")
    # Folders of splits, with more beside them: none is asked for a guide.
    for split in ("train", "test"):
        write(source, "x", depth=f"{split}/{{}}_depth.png", guide=f"{split}/{{}}_rgb.png")
    (source / "nothing of it").mkdir()
    one = prepared(source, tmp_path, guide="")
    assert one.counts == {"test": 1, "train": 1} and one.notes == [
        f"passed over: the pairs of {source}: the splits are the folders test, train"
    ]


def test_maps_are_stretched_each_by_itself(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    stored = {"a": np.array([[10, 0, 20], [12, 30, 10]]), "b": np.array([[700, 701, 0], [700, 701, 700]])}
    for name, depth in stored.items():
        write_depth(source / f"{name}_depth.png", depth.astype(np.uint16))
    one = prepared(source, tmp_path, guide="", stretch=True, invalid=0.0, unit="level", range=200.0)
    assert (one.info.unit, one.info.range, one.info.invalid) == ("level", 200.0, None)
    first, second = open_dataset("mine", "train", tmp_path / "data")
    np.testing.assert_array_equal(first.depth[first.mask], [0, 100, 20, 200, 0])
    np.testing.assert_array_equal(second.depth[second.mask], [0, 200, 0, 200, 0])
    for example in (first, second):
        np.testing.assert_array_equal(example.mask, stored[example.name] > 0)
    for value in (0, 7):  # nothing is known, or one value alone: nothing is divided by zero
        write_depth(source / "b_depth.png", np.full((2, 3), value, np.uint16))
        with pytest.raises(InputError, match=r"own/b_depth.png: has no two known values to stretch: take it away, or"):
            prepared(source, tmp_path, guide="", stretch=True, invalid=0.0)


def test_an_option_that_a_set_is_older_than_is_its_default(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    write(source, "a")
    file = prepared(source, tmp_path).directory / "ahmf.json"
    said = json.loads(file.read_text())
    del said["options"]["stretch"], said["info"]["colour"]
    file.write_text(json.dumps(said))
    assert open_dataset("mine", "train", tmp_path / "data").info.colour  # as every set had, before there was a choice
    assert prepared(source, tmp_path).options["stretch"] is False
    with pytest.raises(
        InputError, match=r"with 1 train \(stretch False\); this would make it 1 train \(stretch True\)"
    ):
        prepared(source, tmp_path, stretch=True)


def test_folders_called_like_splits_are_splits(tmp_path):
    source = tmp_path / "own"
    wanted = {}
    for split in ("train", "test"):
        for name in ("x", "y")[: 1 + (split == "train")]:
            folder = source / split
            folder.mkdir(parents=True, exist_ok=True)
            wanted[f"{split}/{name}"], _ = write(folder, name, depth="d/{}.png", guide="c/{}.png")
    one = prepared(source, tmp_path, depth="d/*.png", guide="c/*.png")
    assert one.counts == {"train": 2, "test": 1}
    for example in open_dataset("mine", "train+test", tmp_path / "data"):
        np.testing.assert_array_equal(example.depth, wanted.pop(example.name))
    assert not wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"range": 0.0}, "range 0.0: must be above 0: give the depth in grey level"),
        ({"range": float("inf")}, "range inf"),
        ({"invalid": float("nan")}, "pairs option invalid nan: is unknown in any case"),
        ({"fill": "zero"}, "pairs option fill 'zero': must be one of nearest, background"),
        ({"depth": "*_*.png"}, r"depth pattern '\*_\*.png': write exactly one \*"),
        ({"range": 200000.0}, "is it in another unit than grey level, or the range too large"),
        (
            {"range": 3.0},
            r"own: a: .*than grey level, or the range too small\? Give --range and --unit, or stretch each",
        ),
        (
            {"stretch": True, "unit": "mm"},
            "pairs option stretch: what is stretched is in no mm: leave out --unit or --s",
        ),
        ({"stretch": True, "unit": "0.2 mm"}, "pairs option stretch: what is stretched is in no 0.2 mm: leave out"),
        ({"colour": "*.png"}, "pairs has no option 'colour'"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    source = tmp_path / "own"
    source.mkdir()
    write(source, "a")
    with pytest.raises(InputError, match=message):
        prepared(source, tmp_path, **options)
    assert not list((tmp_path / "data").glob("*"))


def test_what_a_folder_lacks_is_named_at_once_and_nothing_is_left(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    with pytest.raises(InputError, match="no file is called"):
        prepared(source, tmp_path)
    with pytest.raises(InputError, match=r"nowhere: there is no such file or folder"):
        prepared(source / "nowhere", tmp_path)
    for name in ("a", "b", "c"):
        write(source, name)
    (source / "a_depth.png").unlink()
    (source / "b_rgb.png").unlink()
    with pytest.raises(InputError, match=r"a_depth.png: is missing: pair 'a' has no depth file; .*b_rgb.png: is miss"):
        prepared(source, tmp_path)
    assert not list((tmp_path / "data").glob("*"))


def test_depth_of_two_types_is_refused(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    for name in ("a", "b"):
        write(source, name)
    write_depth(source / "b_depth.png", np.full((6, 9), 700, np.uint16))
    with pytest.raises(InputError, match=r"b_depth.png: holds uint16, and .*a_depth.png uint8: save all depth in one"):
        prepared(source, tmp_path)
    assert not list((tmp_path / "data").glob("*"))


def test_the_folder_of_a_download_is_found_where_it_is_meant(tmp_path):
    root = tmp_path / "up" / "root"
    for folder in ("a/x", "b"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "up" / "beside").mkdir()
    for given in (root, root.parent, root / "a"):
        assert find_root(given, ["a/y", "a/x"], "a/x") == root
    # `b` lies in the same folder, and is no part of what is sought: the user did not name that.
    with pytest.raises(InputError, match=r"b: does not hold a/x: name the folder of the download"):
        find_root(root / "b", ["a/x"], "a/x")
    with pytest.raises(InputError, match=r"none: is not a folder: name the one that holds a/x"):
        find_root(root / "none", ["a/x"], "a/x")
    (tmp_path / "up/beside/a/x").mkdir(parents=True)
    with pytest.raises(InputError, match=r"up: beside, root each hold a/x: name one of them"):
        find_root(root.parent, ["a/x"], "a/x")


def test_val_is_validation_and_what_is_passed_over_is_named(tmp_path):
    source = tmp_path / "own"
    for folder in ("Train", "val", "extra", "empty", "."):
        (source / folder).mkdir(parents=True, exist_ok=True)
        if folder != "empty":
            write(source / folder, "x")
    one = prepared(source, tmp_path)
    assert one.counts == {"train": 1, "validation": 1}
    assert [examples[0]["name"] for examples in one.splits.values()] == ["train/x", "validation/x"]
    assert one.notes == [f"passed over: the pairs of {source}, {source}/extra: the splits are the folders Train, val"]
    (source / "validation").mkdir()
    with pytest.raises(InputError, match=r"own/validation and val: are both the split validation: make one of them"):
        prepared(source, tmp_path)


def test_suffixes_in_capitals(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    depth, _ = write(source, "a", depth="{}_depth.PNG", guide="{}_rgb.Png")
    np.testing.assert_array_equal(open_pairs(source)[0].depth, depth)
    write(source, "b")
    np.testing.assert_array_equal(open_pairs(source, depth="*_depth.PNG", names=["a"])[0].depth, depth)
    (source / "b_depth.Png").touch()
    with pytest.raises(InputError, match=r"b_depth.png and b_depth.Png: are both depth of 'b': take one of them away"):
        open_pairs(source)


def test_zeros_that_may_mean_unknown_are_noted_once(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    for name in "abc":
        depth, _ = write(source, name)
        if name != "a":
            depth[0, : 3 if name == "b" else 1] = 0
            Image.fromarray(depth).save(source / f"{name}_depth.png")
    assert prepared(source, tmp_path).notes == [
        "0 in 5.6% of an image's pixels (in the worst) counts as known: if it means unknown, prepare again with "
        "--invalid 0"
    ]
    assert prepared(source, tmp_path, invalid=0.0, replace=True).notes == []


def test_values_that_mean_unknown_and_were_not_declared(tmp_path):
    source = tmp_path / "own"
    source.mkdir()
    for value, dtype, said in (
        (
            65535,
            np.uint16,
            r"own: a: 5.6% .* above 5000 mm, .*too small\? Is 65535 the value for unknown\? --invalid 6",
        ),
        (-1, np.float32, r"own: a: 5.6% .* below 0, down to -1 mm: Is -1 the value for unknown\? --invalid -1$"),
    ):
        depth = np.full((6, 9), 900, dtype)
        write(source, "a")
        (source / "a_depth.png").unlink()
        suffix = "npy" if dtype is np.float32 else "png"
        options = {"unit": "mm", "range": 5000.0, "depth": f"*_depth.{suffix}"}
        depth[:, 0] = value
        depth[3:, 0] = 900
        write_depth(source / f"a_depth.{suffix}", depth)
        with pytest.raises(InputError, match=said):
            prepared(source, tmp_path, **options)
        assert prepared(source, tmp_path, **options, invalid=float(value), replace=True).counts == {"train": 1}
        depth[1:3, 0] = 900  # a pixel or two beyond the range may be noise; nothing is below 0
        write_depth(source / f"a_depth.{suffix}", depth)
        if value > 0:
            assert prepared(source, tmp_path, **options, replace=True).splits["train"][0]["high"] == value
    assert prepared(source, tmp_path, **options | {"unit": "log m", "range": 900.0}, replace=True).counts
