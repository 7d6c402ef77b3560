"""Middlebury: what is prepared is what the files hold, in true millimetres too; test scenes stay out of training."""

import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from data_pipelines.datasets import builder_class, describe, open_dataset, prepare
from data_pipelines.datasets.middlebury import builder as middlebury
from data_pipelines.datasets.middlebury import layout
from data_pipelines.files import read_guide, write_depth

SHARED = Path(__file__).parents[3] / "shared" / "data" / "middlebury"
TEST = ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer")
SCENES = {
    "2001": ("map", "poster", "tsukuba", "venus"),
    "2003": ("cones", "teddy"),
    "2005": TEST,
    "2006": ("Aloe", "Baby2", "Flowerpots", "Midd1"),
    "2014": ("Adirondack-perfect", "Vintage-perfect"),
}
DMIN = 250
CALIBRATION = (
    "cam0=[4000 0 7; 0 4000 5; 0 0 1]\ncam1=[4000 0 9; 0 4000 5; 0 0 1]\ndoffs=200.5\nbaseline=170\n"
    "width=14\nheight=10\nndisp=300\nisint=0\nvmin=2\nvmax=280\ndyavg=0\ndymax=0\n"
)


def disparity_file(path, values):
    if path.suffix == ".pfm":
        write_depth(path, np.where(values == 0, np.inf, values + 0.25).astype(np.float32))
    elif path.suffix == ".pgm":
        path.write_bytes(f"P5\n# by hand\n{values.shape[1]} {values.shape[0]}\n255\n".encode() + values.tobytes())
    else:
        Image.fromarray(values).save(path)


def scene(folder, year, size=(10, 14)):
    rng = np.random.default_rng(len(str(folder)) + sum(folder.name.encode()))
    folder.mkdir(parents=True)
    for image, disp in layout.VIEWS.get(folder.name, layout.VIEWS[year]):
        if image.endswith(".pgm"):
            disparity_file(folder / image, rng.integers(0, 256, size, np.uint8))
        else:
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / image)
        disparity = rng.integers(1, 256, size, np.uint8)
        disparity[3:5, 2:6] = 0
        disparity_file(folder / disp, disparity)
    if year in ("2005", "2006"):
        (folder / "dmin.txt").write_text(f"{DMIN}\n")
    if year == "2014":
        (folder / "calib.txt").write_text(CALIBRATION)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The sets with a few small scenes: 10 rows at the size that `download` has."""
    monkeypatch.setattr(layout, "SCENES", SCENES)
    monkeypatch.setattr(middlebury, "SCENES", SCENES)
    monkeypatch.setattr(layout, "ROWS", {"2003": 40, "2005": 30, "2006": 20})


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "download"
    for year, size in (("2003", "quarter"), ("2005", "ThirdSize"), ("2006", "HalfSize")):
        for name in SCENES[year]:
            scene(root / year / size / name, year)
    grey = root / "2006/HalfSize/Midd1/disp1.png"  # as in the real download
    Image.open(grey).convert("RGBA").save(grey)
    return root


def stored(path):
    """A disparity, read by other means than the builder's."""
    return np.array(Image.open(path).convert("L"))


def pfm(path):
    return np.frombuffer(path.read_bytes()[-4 * 140 :], "<f4").reshape(10, 14)[::-1]


def test_every_view_comes_back_as_stored(download, tmp_path):
    data = tmp_path / "data"
    prepared = prepare("middlebury", data, download)
    assert prepared.counts == {"train": 4, "validation": 4, "train_2003": 4, "test": 12}
    assert prepared.info == builder_class("middlebury").INFO
    assert (prepared.info.unit, prepared.info.range, prepared.info.invalid, prepared.info.fill) == (
        "grey level",
        255.0,
        0.0,
        "background",
    )
    assert prepared.notes == ["years: 2003 (quarter), 2005 (ThirdSize), 2006 (HalfSize); not there: 2001, 2014"]
    assert [path.name for path in data.iterdir()] == ["middlebury"]
    for split, count in prepared.counts.items():
        dataset = open_dataset("middlebury", split, data)
        assert len(dataset) == count == len(set(dataset.names))
        for example, name in zip(dataset, dataset.names, strict=True):
            assert example.name == name
            folder, view = (download / name).parent, Path(name).name
            disp = dict(layout.VIEWS[name[:4]])[f"{view}.png"]
            values = stored(folder / disp)
            np.testing.assert_array_equal(example.guide, read_guide(folder / f"{view}.png"))
            np.testing.assert_array_equal(example.mask, values > 0)
            np.testing.assert_array_equal(example.depth[example.mask], values[values > 0])
            # A hole beside objects is background: the smaller neighbour of the row.
            np.testing.assert_array_equal(example.depth[3, 2:6], min(values[3, 1], values[3, 6]))
    assert open_dataset("middlebury", "train", data).names[0] == "2006/HalfSize/Aloe/view1"
    assert len(open_dataset("middlebury", "train+validation[:1]", data)) == 5


def test_depth_in_millimetres(download, tmp_path):
    scene(download / "2014/Adirondack-perfect", "2014")
    scene(download / "2014/Vintage-perfect", "2014")
    (download / "2014/Vintage-imperfect").mkdir()
    prepared = prepare("middlebury", tmp_path, download, quantity="depth")
    assert (prepared.info.unit, prepared.info.range, prepared.info.fill) == ("mm", 10_000.0, "far")
    assert prepared.counts == {"train": 4, "validation": 4, "test": 12, "train_2014": 4}
    assert prepared.notes[0] == "passed over: Vintage-imperfect"
    assert "2003 is left out: it has no calibration that gives depth" in prepared.notes[1]
    for split in ("train", "test"):  # half and third size: v and dmin are pixels of the full size in both
        for example in open_dataset("middlebury", split, tmp_path):
            folder, view = (download / example.name).parent, example.name[-1]
            values = stored(folder / f"disp{view}.png").astype(np.float64)
            np.testing.assert_array_equal(example.mask, values > 0)
            expected = 598_400 / (values[values > 0] + 250)  # 3740 pixels * 160 mm
            np.testing.assert_allclose(example.depth[example.mask], expected, rtol=1e-6)
    dataset = open_dataset("middlebury", "train_2014", tmp_path)
    assert dataset.names[:2] == ("2014/full/Adirondack-perfect/im0", "2014/full/Adirondack-perfect/im1")
    raw = pfm(download / "2014/Adirondack-perfect/disp1.pfm")
    right = dataset[1]
    np.testing.assert_array_equal(right.mask, np.isfinite(raw))  # infinite disparity is unknown, not depth 0
    np.testing.assert_allclose(right.depth[right.mask], 680_000 / (raw[right.mask] + 200.5), rtol=1e-6)


def test_the_disparities_of_2014_are_pixels(download, tmp_path):
    for name in SCENES["2014"]:
        scene(download / "scenes2014" / name, "2014")
    prepared = prepare("middlebury", tmp_path, download, years=("2014",))
    assert (prepared.info.unit, prepared.info.range, prepared.info.fill) == ("pixel", 1024.0, "background")
    assert prepared.counts == {"train_2014": 4}
    left = open_dataset("middlebury", "train_2014", tmp_path)[2]
    raw = pfm(download / "scenes2014/Vintage-perfect/disp0.pfm")
    assert left.name == "2014/full/Vintage-perfect/im0"
    np.testing.assert_array_equal(left.mask, np.isfinite(raw))
    np.testing.assert_array_equal(left.depth[left.mask], raw[left.mask])  # fractions and all
    # In a set of grey levels they would be another quantity.
    assert (
        "2014 is left out: it has disparity in pixels"
        in prepare("middlebury", tmp_path, download, save_as="all").notes[0]
    )


def test_2001(tmp_path):
    root = tmp_path / "2001" / "data"
    for name in SCENES["2001"]:
        scene(root / name, "2001", (11, 9))
    prepare("middlebury", tmp_path / "data", tmp_path)
    train, test = (open_dataset("middlebury", split, tmp_path / "data") for split in ("train_2001", "test_2001"))
    assert train.names == tuple(f"2001/full/{view}" for view in ("map/im0", "map/im1", "poster/im2", "poster/im6"))
    assert test.names == ("2001/full/tsukuba/scene1.row3.col3", "2001/full/venus/im2", "2001/full/venus/im6")
    for example, image, disp in (
        (train[0], "map/im0.pgm", "map/disp0.pgm"),
        (train[3], "poster/im6.ppm", "poster/disp6.pgm"),
        (test[0], "tsukuba/scene1.row3.col3.ppm", "tsukuba/truedisp.row3.col3.pgm"),
    ):
        values = stored(root / disp)
        np.testing.assert_array_equal(example.guide, np.array(Image.open(root / image).convert("RGB")))
        np.testing.assert_array_equal(example.mask, values > 0)
        np.testing.assert_array_equal(example.depth[example.mask], values[values > 0])


@pytest.mark.parametrize(
    "content",
    [
        b"P5 9 11 255\n" + bytes(98),
        b"P5 9 11 65535\n" + bytes(198),
        b"P5 999999 999999 255\n",
        b"P5 0 11 255\n",
    ],
)
def test_a_damaged_pgm(tmp_path, content):
    (tmp_path / "disp2.pgm").write_bytes(content)
    with pytest.raises(InputError, match=r"disp2.pgm: "):
        middlebury._disparity(tmp_path / "disp2.pgm")


def test_reading_in_threads_and_elsewhere(download, tmp_path):
    prepare("middlebury", tmp_path, download)
    dataset = open_dataset("middlebury", "test", tmp_path, cache_bytes=0)
    alone = [example.depth for example in dataset]
    with ThreadPoolExecutor(8) as threads:
        for i, depth in enumerate(threads.map(lambda i: dataset[i % 12].depth, range(96))):
            np.testing.assert_array_equal(depth, alone[i % 12])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[3].depth, alone[3])


@pytest.mark.parametrize(
    ("place", "years"),
    [
        ("2006/HalfSize/Art", "scene of 2005, in the folder of 2006"),
        ("2006/HalfSize/art", "scene of 2005, in the folder of 2006"),
        ("2003/quarter/Moebius", "scene of 2005, in the folder of 2003"),
        ("scenes2006/Reindeer", "scene of 2005, in the folder of 2006"),
    ],
)
def test_a_test_scene_in_a_training_folder_is_refused(download, tmp_path, place, years):
    scene(download / place, "2005" if place.startswith("s") else place[:4])
    with pytest.raises(InputError, match=rf"{place}: is a {years}: move it to 2005"):
        prepare("middlebury", tmp_path / "data", download)
    assert not list((tmp_path / "data").iterdir())


def test_a_scene_has_one_split_whatever_folder_and_size_it_lies_in(download, tmp_path):
    for size, rows in (("FullSize", 30), ("HalfSize", 15)):
        scene(download / f"2005/{size}/Art", "2005", (rows, 21))
    for size in ("full", "half", "third"):
        prepared = prepare("middlebury", tmp_path / "data", download, save_as=size, size=size, partial=True)
        names = {split: [example["name"] for example in examples] for split, examples in prepared.splits.items()}
        for split, listed in names.items():
            assert all(name.split("/")[2] in TEST for name in listed) == (split == "test"), split


def test_other_folders_and_withheld_scenes_are_left_alone(download, tmp_path):
    withheld = scene(download / "2005/ThirdSize/Dwarves", "2005")
    for disp in ("disp1", "disp5"):
        (withheld / f"{disp}.png").unlink()
    (download / "books").mkdir()  # somebody's own, not the scene
    (download / "books/novel.txt").write_text("...")
    names = [
        example["name"] for split in prepare("middlebury", tmp_path, download).splits.values() for example in split
    ]
    assert len(names) == 24 and not any("Dwarves" in name for name in names)


def test_sizes(download, tmp_path):
    for name in TEST:
        scene(download / "2005/FullSize" / name, "2005", (30, 42))
    data = tmp_path / "data"
    prepare("middlebury", data, download)
    dataset = open_dataset("middlebury", "test", data)
    assert dataset.names[0] == "2005/FullSize/Art/view1" and dataset[0].depth.shape == (30, 42)
    prepared = prepare("middlebury", data, download, size="third", replace=True)
    assert prepared.counts == {"train_2003": 4, "test": 12}
    assert prepared.notes[0] == "2006 is left out: it is there in HalfSize, not in ThirdSize"
    assert {name.rsplit("/", 2)[0] for name in open_dataset("middlebury", "train_2003+test", data).names} == {
        "2003/quarter",
        "2005/ThirdSize",
    }
    with pytest.raises(
        InputError,
        match=r"fits the options \(2006/FullSize/Aloe, .*\); there are 2003/quarter, 2005/FullSize, 2005/Third",
    ):
        prepare("middlebury", data, download, size="full", quantity="depth", years=("2006",), partial=True)


def test_what_is_missing_is_named_in_the_size_that_is_asked_for(download, tmp_path):
    with pytest.raises(InputError, match=r"4 missing \(2006/ThirdSize/Aloe, 2006/ThirdSize/Baby2, .*uses 6 scenes"):
        prepare("middlebury", tmp_path / "data", download, years=("2005", "2006"), size="third")


def test_a_scene_in_the_folder_of_another_size(download, tmp_path):
    scene(download / "2006/FullSize/Aloe", "2006")
    said = r"FullSize/Aloe/disp1.png: has 10 rows, and 2006/FullSize has 20: move the scene to the folder of its size"
    with pytest.raises(InputError, match=said):
        prepare("middlebury", tmp_path / "data", download, partial=True)


def test_scenes_side_by_side_are_known_by_name_and_rows(download, tmp_path):
    """As the archives unpack them: Aloe/view1.png, with no year or size above; and as archives."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in (*download.glob("200[56]/*/*"), *download.glob("2003/*/*")):
        name = f"{folder.name}Q" if folder.name == "cones" else folder.name
        with zipfile.ZipFile(flat / f"{folder.name}-2views.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"{name}/{file.name}")
    prepared = prepare("middlebury", tmp_path / "data", flat)
    known = prepare("middlebury", tmp_path / "known", download)
    assert prepared.splits == known.splits
    scene(download / "2006/HalfSize/again/Aloe", "2006")
    with pytest.raises(InputError, match=r"again/Aloe: is 2006/HalfSize/Aloe, and so is .*HalfSize/Aloe: take one"):
        prepare("middlebury", tmp_path / "data", download)
    rows = scene(tmp_path / "odd" / "Aloe", "2006", (13, 14))
    with pytest.raises(InputError, match=r"view1.png: has 13 rows, which no size of 2006 has"):
        prepare("middlebury", tmp_path / "data", rows.parent)


def test_the_folder_above_and_the_folder_below(download, tmp_path):
    download = download.rename(tmp_path / "Art")  # no scene, whatever its name
    for place, count in ((download.parent, 24), (download / "2006", 8), (download / "2006/HalfSize", 8)):
        prepared = prepare("middlebury", tmp_path / "data", place, replace=True)
        assert sum(prepared.counts.values()) == count


def test_2003_as_ppm(tmp_path):
    for name in SCENES["2003"]:
        folder = scene(tmp_path / "2003/quarter" / name, "2003")
        for file in sorted(folder.glob("*.png")):
            Image.open(file).save(file.with_suffix(".pgm" if file.name.startswith("disp") else ".ppm"))
            file.unlink()
    prepare("middlebury", tmp_path / "data", tmp_path)
    example = open_dataset("middlebury", "train_2003", tmp_path / "data")[1]
    values = stored(tmp_path / "2003/quarter/cones/disp6.pgm")
    assert example.name == "2003/quarter/cones/im6"
    np.testing.assert_array_equal(example.depth[example.mask], values[values > 0])


def test_everything_that_is_missing_is_named_at_once(download, tmp_path):
    data = tmp_path / "data"
    (download / "2006/HalfSize/Aloe/disp5.png").unlink()
    (download / "2003/quarter/teddy/disp2.png").unlink()
    (download / "2005/ThirdSize/Dolls").rename(tmp_path / "elsewhere")
    missing = r"3 missing \(2003/quarter/teddy/disp2.png, 2006/HalfSize/Aloe/disp5.png, 2005/ThirdSize/Dolls\)"
    with pytest.raises(InputError, match=rf"{missing}: .*--partial, which uses 9 scenes"):
        prepare("middlebury", data, download)
    assert not list(data.iterdir())
    prepared = prepare("middlebury", data, download, partial=True)
    assert prepared.counts == {"train": 2, "validation": 4, "train_2003": 2, "test": 10}
    assert "used: 9 scenes" in prepared.notes[0] and describe("middlebury", data).notes == prepared.notes


def test_calibration_is_missed_where_it_is_needed(download, tmp_path):
    (download / "2006/HalfSize/Aloe/dmin.txt").unlink()
    prepare("middlebury", tmp_path / "data", download)
    with pytest.raises(InputError, match=r"1 missing \(2006/HalfSize/Aloe/dmin.txt\)"):
        prepare("middlebury", tmp_path / "data", download, quantity="depth")
    (download / "2006/HalfSize/Aloe/dmin.txt").write_text("270 pixels")
    with pytest.raises(InputError, match=r"Aloe/dmin.txt: is no readable .txt file \(it is not one whole number"):
        prepare("middlebury", tmp_path / "data", download, quantity="depth")


def test_a_calibration_of_other_images(tmp_path):
    for name in SCENES["2014"]:
        scene(tmp_path / "2014" / name, "2014", (10, 15))
    with pytest.raises(InputError, match=r"calib.txt: is of images of 10 x 14 pixels, and the disparity has 10 x 15"):
        prepare("middlebury", tmp_path / "data", tmp_path, quantity="depth")


def test_the_seven_view_download_is_named(download, tmp_path):
    folder = download / "2006/HalfSize/Aloe"
    (folder / "Illum1/Exp0").mkdir(parents=True)
    for view in ("view1.png", "view5.png"):
        (folder / view).rename(folder / "Illum1/Exp0" / view)
    with pytest.raises(
        InputError, match=r"1 missing \(2006/HalfSize/Aloe, of which this is the seven-view download: ta"
    ):
        prepare("middlebury", tmp_path / "data", download)


def test_a_year_that_is_asked_for_is_missed(download, tmp_path):
    (download / "2006/HalfSize/Aloe/none").mkdir()
    with pytest.raises(InputError, match=r"2 missing \(2014/full/Adirondack-perfect, 2014/full/Vintage-perfect\)"):
        prepare("middlebury", tmp_path / "data", download, quantity="depth", years=("2006", "2014"))
    with pytest.raises(InputError, match=r"none: holds no Middlebury scenes \(such as .*: name the folder of the do"):
        prepare("middlebury", tmp_path / "data", download / "2006/HalfSize/Aloe/none")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"years": ("2004",)}, "option years '2004': must be of 2001, 2003, 2005, 2006, 2014"),
        ({"years": ("2005", "2014")}, "2014 has disparity in pixels, not grey levels: prepare it alone"),
        ({"years": ("2003",), "quantity": "depth"}, "2003 has no calibration that gives depth: choose of 2005, 2006"),
        ({"years": ("2001",), "size": "half"}, "2001 has no size half: choose full"),
        ({"size": "quarter"}, "option size 'quarter': must be largest, full, half, third"),
        ({"quantity": "metres"}, "option quantity 'metres': must be disparity, depth"),
        ({"partial": "yes"}, "option partial 'yes': must be true or false"),
        ({"height": 3}, "middlebury has no option 'height': its options are: years, size, quantity, partial"),
    ],
)
def test_options_that_are_not_possible(download, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        prepare("middlebury", tmp_path / "data", download, **options)


def test_downloads():
    def paths(**options):
        return [row.path for row in middlebury.Middlebury.downloads(middlebury.MiddleburyOptions(**options))]

    assert {path.split("/")[0] for path in paths()} == {"2001", "2003", "2005", "2006"}
    assert {path.rsplit("/", 1)[0] for path in paths(quantity="depth")} == {
        "2005/FullSize",
        "2006/FullSize",
        "2014/full",
    }
    assert {path.rsplit("/", 1)[0] for path in paths(size="half", years=("2005", "2006"))} == {
        "2005/HalfSize",
        "2006/HalfSize",
    }
    assert len(paths(years=("2014",))) == 23 and len(paths(years=("2006",))) == 21


def test_a_damaged_file_leaves_what_was_there(download, tmp_path):
    data = tmp_path / "data"
    prepare("middlebury", data, download)
    before = open_dataset("middlebury", "test", data)[11].depth
    file = download / "2005/ThirdSize/Reindeer/view5.png"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"view5.png"):
        prepare("middlebury", data, download)
    assert [path.name for path in data.iterdir()] == ["middlebury"]
    np.testing.assert_array_equal(open_dataset("middlebury", "test", data)[11].depth, before)


def test_a_colour_picture_is_no_disparity(download, tmp_path):
    folder = download / "2006/HalfSize/Aloe"
    Image.open(folder / "view1.png").save(folder / "disp1.png")
    with pytest.raises(InputError, match=r"disp1.png: is a colour picture, not disparity"):
        prepare("middlebury", tmp_path / "data", download)


def test_an_interruption_leaves_nothing(download, tmp_path, monkeypatch):
    read = middlebury._disparity

    def interrupted(path):
        if path.parent.name == "Baby2":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(middlebury, "_disparity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("middlebury", tmp_path / "data", download)
    assert not list((tmp_path / "data").iterdir())


def test_asking_wrongly(download, tmp_path):
    with pytest.raises(InputError, match=r"ahmf data prepare middlebury --from DIR"):
        open_dataset("middlebury", "train", tmp_path / "data")
    prepare("middlebury", tmp_path / "data", download)
    for split in ("training", "train[:x", "train+nope", ""):
        with pytest.raises(InputError, match=r"has no split .*: it has train, validation, train_2003, test"):
            open_dataset("middlebury", split, tmp_path / "data")
    info = next((tmp_path / "data").rglob("ahmf.json"))
    info.write_text(info.read_text()[:40])
    with pytest.raises(InputError, match=r"is damaged: build it again"):
        open_dataset("middlebury", "train", tmp_path / "data")


def test_the_official_scenes(monkeypatch):
    monkeypatch.undo()
    assert {year: len(names) for year, names in layout.SCENES.items()} == {
        "2001": 8,
        "2003": 2,
        "2005": 6,
        "2006": 21,
        "2014": 23,
    }
    names = [name.lower() for names in layout.SCENES.values() for name in names]
    assert len(set(names)) == len(names) == 60  # a name says the year
    splits = {name: middlebury.split_of(year, name) for year in layout.SCENES for name in layout.SCENES[year]}
    assert {name for name, split in splits.items() if split.startswith("test")} == {*TEST, "tsukuba", "venus"}
    assert {name for name, split in splits.items() if split == "validation"} == {"Baby2", "Flowerpots"}


def test_the_real_download(tmp_path, monkeypatch):
    if not SHARED.is_dir():
        pytest.skip("the Middlebury download (../shared/data/middlebury) is not on this machine")
    monkeypatch.undo()

    def items(**options):
        made = middlebury.Middlebury(
            options=middlebury.MiddleburyOptions(**options),
            source_dir=SHARED,
            data_dir=str(tmp_path),
            file_format="array_record",
        )
        return made.items()

    splits = items()
    counts = {split: len(listed) for split, listed in splits.items() if listed}
    assert counts == {"train": 38, "validation": 4, "train_2003": 4, "test": 12}
    make = next(make for name, make in splits["train"] if "Midd1" in name)  # RGBA
    guide, disparity = make()
    assert (
        guide.shape == (*disparity.shape, 3) == (555, 698, 3) and disparity.dtype == np.uint8 and disparity.max() > 100
    )
    depth = dict(items(quantity="depth")["test"])["2005/ThirdSize/Art/view1"]()[1]
    assert depth.dtype == np.float32 and 1400 < depth[depth > 0].min() < np.median(depth) < depth.max() < 2200
    # dmin.txt is in pixels of the full size, whatever the size: what the seven cameras see together is one width.
    for scene in layout.find_scenes(SHARED)[0]:
        if scene.year != "2003":
            width = read_guide(scene.views[0][1]).shape[1] * {"HalfSize": 2, "ThirdSize": 3}[scene.size]
            assert 1685 <= width + 1.5 * int(scene.calibration.read_text()) <= 1690, scene
