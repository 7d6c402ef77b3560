"""Named splits: each list is the one that was published, entries mean what they say, and no test scene leaks."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets.splits import NamedSplits, protocols, resolve
from data_pipelines.download import read_checksums

FOLDER = Path(datasets.__file__).parent
FILES = sorted(FOLDER.glob("*/splits/*.toml"))
SIX = ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer")
SCENES_2006 = (
    *("Aloe", "Baby1", "Baby2", "Baby3", "Bowling1", "Bowling2", "Cloth1", "Cloth2", "Cloth3", "Cloth4", "Flowerpots"),
    *("Lampshade1", "Lampshade2", "Midd1", "Midd2", "Monopoly", "Plastic", "Rocks1", "Rocks2", "Wood1", "Wood2"),
)
SCENES_2014 = (
    *("Adirondack", "Backpack", "Bicycle1", "Cable", "Classroom1", "Couch", "Flowers", "Jadeplant", "Mask"),
    *("Motorcycle", "Piano", "Pipes", "Playroom", "Playtable", "Recycle", "Shelves", "Shopvac", "Sticks", "Storage"),
    *("Sword1", "Sword2", "Umbrella", "Vintage"),
)
# The scene of an example, as every protocol of Middlebury has it.
MIDDLEBURY_SCENE = protocols("middlebury")["dada"].scene


def middlebury():
    """The names of every example of Middlebury, last first: no protocol may count on their order."""
    names = [f"2001/full/{scene}/{view}" for scene in ("barn1", "venus") for view in ("im2", "im6")]
    names += ["2001/full/tsukuba/im3"]
    names += [f"2003/quarter/{scene}/{view}" for scene in ("cones", "teddy") for view in ("im2", "im6")]
    names += [f"2005/FullSize/{scene}/{view}" for scene in SIX for view in ("view1", "view5")]
    names += [f"2006/HalfSize/{scene}/{view}" for scene in SCENES_2006 for view in ("view1", "view5")]
    names += [f"2014/full/{scene}-perfect/{view}" for scene in SCENES_2014 for view in ("im0", "im1")]
    return names[::-1]


RGBDD = {
    **{"models_train": 249, "models_test": 40, "plants_train": 380, "plants_test": 68},
    **{"portraits_train": 1586, "portraits_test": 297},
}
SINTEL = [f"final/{sequence}/frame_{frame:04d}" for sequence in ("alley_1", "market_6") for frame in range(1, 22)]
DIML = {"train": 1440, "validation": 169, "test": 503}
NAMES = {
    "middlebury": middlebury(),
    "sintel": SINTEL,
    "nyu_v2": [f"{i:05d}" for i in range(1449)],
    "rgbdd": [f"{folder}/{folder}{i:04d}" for folder, count in RGBDD.items() for i in range(count)],
    "diml": [f"{split}/{i % 18:02d}/{i}" for split, n in DIML.items() for i in range(n)],
    "dtu": [f"scan{s}_depth_map_{v:04d}" for s in (*range(1, 78), *range(82, 129)) for v in range(64)],
}


def called(builder, protocol, split):
    """The names of a published split's examples."""
    names = NAMES[builder]
    return [names[index] for index in resolve(protocols(builder)[protocol], split, names)]


def named(splits, **kwargs):
    return NamedSplits(protocol="trial", source="this test", splits=splits, **kwargs)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_every_list_is_whole_and_leaks_nothing(file):
    builder = file.parts[-3]
    protocol = protocols(builder)[file.stem]
    assert protocol.protocol == file.stem and len(protocol.source) > 20 and "\n" not in protocol.source + protocol.note
    for split in protocol.splits:
        indices = resolve(protocol, split, NAMES[builder])
        assert len(indices) >= len(protocol.splits[split])


def test_protocols_are_sorted_and_a_set_without_any_has_none():
    assert list(protocols("middlebury")) == ["ahmf", "ahmf_standin", "dada", "msgnet"]
    assert list(protocols("nyu_v2")) == ["ahmf", "ahmf_survey", "dada", "dkn"]
    assert protocols("scenes") == {}


def test_ahmf_tests_on_the_left_views_of_the_six_scenes():
    assert called("middlebury", "ahmf", "test") == [f"2005/FullSize/{scene}/view1" for scene in SIX]
    assert "train" not in protocols("middlebury")["ahmf"].splits  # never published: nothing may be made up


def test_msgnet_tests_on_the_ten_images_of_its_sets():
    sets = [called("middlebury", "msgnet", f"test_{letter}") for letter in "abc"]
    assert [len(images) for images in sets] == [3, 6, 4]
    assert {name.split("/")[2] for name in sets[0]} == {"Art", "Books", "Moebius"}
    assert sets[2] == [
        *("2003/quarter/cones/im2", "2003/quarter/teddy/im2", "2001/full/tsukuba/im3", "2001/full/venus/im2"),
    ]


def test_dada_divides_the_fifty_scenes_of_middlebury():
    scenes = {
        split: {name.split("/")[2] for name in called("middlebury", "dada", split)} for split in ("train", "test")
    }
    scenes["validation"] = {name.split("/")[2] for name in called("middlebury", "dada", "validation")}
    assert scenes["test"] == {"Reindeer", "Bowling1", "Bowling2", "Adirondack-perfect", "Motorcycle-perfect"}
    assert scenes["validation"] == {"Moebius", "Lampshade1", "Lampshade2", "Shelves-perfect", "Playtable-perfect"}
    everything = {*SIX, *SCENES_2006, *(f"{scene}-perfect" for scene in SCENES_2014)}
    assert len(everything) == 50 and scenes["train"] == everything - scenes["test"] - scenes["validation"]
    assert len(called("middlebury", "dada", "train")) == 80  # both views: the paper's 80 samples an epoch


def test_the_stand_in_trains_on_neither_test_nor_validation():
    train = called("middlebury", "ahmf_standin", "train")
    assert len(train) == 84 and not any(scene in name for name in train for scene in (*SIX, "Baby2", "Flowerpots"))
    assert set(called("middlebury", "ahmf_standin", "train_2006")) == {name for name in train if name[:4] == "2006"}
    assert {name[-10:] for name in called("sintel", "ahmf_standin", "train")} == {
        "frame_0001",
        "frame_0010",
        "frame_0020",
    }


def test_the_first_thousand_of_nyu():
    for protocol in ("ahmf", "dkn"):
        assert called("nyu_v2", protocol, "train") == NAMES["nyu_v2"][:1000]
        assert called("nyu_v2", protocol, "test") == NAMES["nyu_v2"][1000:]
    assert called("nyu_v2", "ahmf_survey", "train") == NAMES["nyu_v2"][:900]
    assert called("nyu_v2", "ahmf_survey", "validation") == NAMES["nyu_v2"][900:1000]


def test_dada_divides_diml_as_the_builder_does():
    for split, count in DIML.items():
        images = called("diml", "dada", split)
        assert len(images) == count and all(name.startswith(f"{split}/") for name in images)


def test_dada_divides_nyu_as_its_file_does():
    splits = {
        split: [int(name) for name in called("nyu_v2", "dada", split)] for split in ("train", "validation", "test")
    }
    assert {split: len(indices) for split, indices in splits.items()} == {"train": 849, "validation": 300, "test": 300}
    everything = [index for indices in splits.values() for index in indices]
    assert sorted(everything) == list(range(1449))
    assert splits["train"][:4] == [415, 1188, 467, 328] and splits["train"][-3:] == [1371, 408, 691]
    assert splits["validation"][:4] == [347, 929, 817, 1219] and splits["validation"][-3:] == [51, 1191, 1166]
    assert splits["test"][:4] == [504, 335, 1029, 275] and splits["test"][-3:] == [350, 519, 624]
    digest = hashlib.sha256(np.array(everything, "<i4").tobytes()).hexdigest()
    # Over the published file's lists train, val and test, one after the other.
    assert digest == "a11fa45adc2db4f45e5ad23652b1832ccd76378f0f53f9106c988b7e11ea2492"


def test_fdsr_divides_rgbdd_by_its_folders():
    splits = {split: called("rgbdd", "fdsr", split) for split in ("train", "test")}
    assert {split: len(names) for split, names in splits.items()} == {"train": 2215, "test": 405}
    assert all("_test/" in name for name in splits["test"]) and all("_train/" in name for name in splits["train"])
    names = [name.replace("test/models_test", "test/models_train") for name in NAMES["rgbdd"]]
    with pytest.raises(
        InputError, match=r"are in split 'train' too: models_train/models_train0000, .* and 28 more: take"
    ):
        resolve(protocols("rgbdd")["fdsr"], "train", names)


def test_dsdmsr_divides_dtu_as_its_formula_does():
    validation, train = called("dtu", "dsdmsr", "validation"), called("dtu", "dsdmsr", "train")
    # Rows of the published valid_dtu.csv.
    assert validation[:5] == [
        *("scan9_depth_map_0008", "scan58_depth_map_0006", "scan67_depth_map_0021", "scan34_depth_map_0034"),
        "scan124_depth_map_0005",
    ]
    permuted = np.random.RandomState(42).permutation(7936)
    np.testing.assert_array_equal(permuted[:4], [7880, 5190, 5845, 3554])
    np.testing.assert_array_equal(permuted[1588:1592], [622, 1419, 3956, 7850])
    ordered = sorted(NAMES["dtu"])
    assert validation == [ordered[index] for index in permuted[:1588]]
    assert train == [ordered[index] for index in permuted[1588:]] and len(train) == 6348
    assert called("dtu", "dsdmsr", "validation_sub") == validation[:300]
    scans = [{name.split("_")[0] for name in names} for names in (train, validation)]
    assert len(scans[0]) == len(scans[1]) == 124  # as the note warns


def test_entries_are_names_globs_and_positions_in_the_sorted_names():
    names = ["d", "b", "a/2", "c", "a/1"]
    split = named({"train": ["c", "a/*", 4, "2..3"]}, count=5)
    with pytest.raises(
        InputError, match=r"^protocol 'trial', split 'train': lists c more than once: correct the list$"
    ):
        resolve(split, "train", names)
    assert resolve(named({"train": ["c", "a/*", 4, "2..2"]}, count=5), "train", names) == [3, 4, 2, 0, 1]
    assert resolve(named({"train": ["?", "[a]/2"]}), "train", names) == [1, 3, 0, 2]
    with pytest.raises(InputError, match="no example is called C"):
        resolve(named({"train": ["C"]}), "train", names)


def test_all_that_is_missing_is_named_at_once():
    names = [name for name in middlebury() if "Aloe" not in name and "Vintage" not in name]
    with pytest.raises(InputError) as caught:
        resolve(protocols("middlebury")["dada"], "train", names)
    message = str(caught.value)
    assert "\n" not in message
    assert "no example is called 2006/*/Aloe/*, 2014/*/Vintage-perfect/*: prepare" in message
    assert "it has Adirondack, Art, Baby1, Baby2," in message
    assert len(resolve(protocols("middlebury")["dada"], "test", names)) == 10  # which lacks nothing
    with pytest.raises(InputError, match="it has none"):
        resolve(protocols("middlebury")["dada"], "test", [])


def test_an_unknown_split_and_a_set_of_another_size():
    with pytest.raises(InputError, match=r"^protocol 'dada' has no split 'val': it has train, validation, test$"):
        resolve(protocols("nyu_v2")["dada"], "val", NAMES["nyu_v2"])
    with pytest.raises(InputError, match=r"^protocol 'ahmf' is of a data set of 1449 examples, and here are 1448: "):
        resolve(protocols("nyu_v2")["ahmf"], "test", NAMES["nyu_v2"][1:])


@pytest.mark.parametrize("asked", ["train", "test", "validation"])
@pytest.mark.parametrize(
    ("splits", "leak"),
    [
        ({"train": ["2006/*"], "test": ["2005/*"]}, r"'test' are in split 'train' too: 2006/half/art/view1:"),
        ({"train": ["2006/*"], "validation": ["2005/*"]}, r"'validation' are in split 'train' too: 2006/half/art/"),
        ({"validation": ["2006/*"], "test": ["2005/*"]}, r"'test' are in split 'validation' too: 2006/half/art/"),
        ({"train_more": ["2006/*"], "test_few": ["2005/*"]}, r"'test_few' are in split 'train_more' too: 2006/half/"),
        ({"other": ["2006/*"], "test": ["2005/*"]}, r"'test' are in split 'other' too"),
    ],
)
def test_a_scene_of_the_test_in_training_is_refused_whatever_is_asked_for(asked, splits, leak):
    splits = {"train": ["2014/*"], "validation": ["2003/*"], "test": ["2001/*"], **splits}
    years = {"2001": "venus", "2003": "cones", "2005": "Art", "2006": "art", "2014": "Mask-perfect"}
    names = [f"{year}/half/{scene}/view1" for year, scene in years.items()]
    with pytest.raises(InputError, match=leak):
        resolve(named(splits, scene=MIDDLEBURY_SCENE), asked, names)
    names[3] = "2006/half/Aloe/view1"
    resolve(named(splits, scene=MIDDLEBURY_SCENE), asked, names)


def test_a_test_scene_that_was_not_prepared_leaks_all_the_same():
    names = ["2006/HalfSize/Aloe/view1", "2006/HalfSize/Art/view1"]
    split = named({"train": ["2006/*"], "test": ["2005/*/Art/view1"]}, scene=MIDDLEBURY_SCENE)
    with pytest.raises(InputError, match="'test' are in split 'train' too: 2006/HalfSize/Art/view1"):
        resolve(split, "train", names)
    assert resolve(split, "train", names[:1]) == [0]


def test_both_rectifications_are_one_scene_and_two_numbers_are_two():
    names = [
        "2014/full/Mask-perfect/im0",
        "2014/full/Mask-imperfect/im0",
        "2006/full/Wood1/view1",
        "2006/full/Wood2/view1",
    ]
    split = {"train": ["2014/*/*-imperfect/*"], "test": ["2014/*/*-perfect/*"]}
    with pytest.raises(InputError, match="Mask-imperfect"):
        resolve(named(split, scene=MIDDLEBURY_SCENE), "test", names)
    assert resolve(named({"train": ["*Wood1*"], "test": ["*Wood2*"]}, scene=MIDDLEBURY_SCENE), "test", names) == [3]


def test_a_name_without_a_scene_is_refused():
    with pytest.raises(InputError, match="Art: names no scene as"):
        resolve(named({"train": ["Art"]}, scene=MIDDLEBURY_SCENE), "train", ["Art"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"splits": {}},
        {"splits": {"train": []}},
        {"splits": {"train": [3]}},
        {"splits": {"train": [3]}, "count": 3},
        {"splits": {"train": [-1]}, "count": 3},
        {"splits": {"train": ["2..3"]}, "count": 3},
        {"splits": {"train": ["2..1"]}, "count": 3},
        {"splits": {"train": ["a"]}, "scene": "a"},
    ],
)
def test_a_wrong_list_fails_as_it_is_read(wrong):
    with pytest.raises(ValueError, match="protocol trial: "):
        named(**wrong)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*/checksums.tsv")), ids=lambda file: file.parts[-2])
def test_downloads_are_recorded_whole(file):
    downloads = read_checksums(file)
    assert downloads and len({download.url for download in downloads}) == len(downloads)
    for download in downloads:
        assert download.url.startswith("https://")
        assert Path(download.path).name == download.url.rsplit("/", 1)[1]
        assert download.sha256 is None or download.size  # a sum without a size would be known only at the end


def test_the_downloads_of_middlebury_hold_the_scenes_of_the_protocols():
    paths = [download.path for download in read_checksums(FOLDER / "middlebury" / "checksums.tsv")]
    scenes = {"2005": SIX, "2006": SCENES_2006}
    for year in scenes:
        for size in ("FullSize", "HalfSize", "ThirdSize"):
            found = [path for path in paths if path.startswith(f"{year}/{size}/")]
            assert found == [f"{year}/{size}/{scene}-2views.zip" for scene in scenes[year]]
    assert [path for path in paths if path[:4] == "2014"] == [f"2014/full/{s}-perfect.zip" for s in SCENES_2014]
