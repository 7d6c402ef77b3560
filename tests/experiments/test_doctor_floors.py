"""The floors: a set that is prepared as it should be reproduces them, and of any other it is said what is wrong."""

import dataclasses
import threading
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import Dataset, DatasetInfo, open_pairs
from experiments import doctor_floors, floors
from experiments.config import PairsConfig
from experiments.doctor_floors import Image as Place
from experiments.doctor_floors import at_hand, check, figures, lines_of, unknown
from experiments.floors import OtherSize, Recorded, recorded
from experiments.protocols import PROTOCOLS
from experiments.published import Column, tables

TEST10 = Path(__file__).parents[3] / "shared" / "data" / "test10"
SIZE = 96, 128
INFO = DatasetInfo("mine", "grey level", 255.0, None, "", "")


class Arrays:
    """Depth maps in memory, by name, as a source of a data set."""

    def __init__(self, depths):
        self.names, self.depths = list(depths), list(depths.values())

    def __len__(self):
        return len(self.names)

    def read(self, index):
        depth = self.depths[index]
        return np.zeros((*depth.shape, 3), np.uint8), depth, self.names[index]


def dataset(depths, **fields):
    return Dataset(dataclasses.replace(INFO, **fields), Arrays(depths))


def scene(seed, size=SIZE):
    """Slanted planes before one another, in whole grey levels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    depth = 60 + 0.1 * x + 0.2 * y
    for _ in range(6):
        top, left = rng.integers(0, size[0] - 24), rng.integers(0, size[1] - 24)
        height, width = rng.integers(10, 40, 2)
        near = 90 + 90 * rng.random() + (x - left) * rng.uniform(-0.5, 0.5)
        inside = (y >= top) & (y < top + height) & (x >= left + (y - top) // 3) & (x < left + width)
        depth = np.where(inside, near, depth)
    return np.rint(depth).astype(np.uint8)


SCENES = {"art": scene(0), "books": scene(1)}
COLUMNS = tuple(Column(name.capitalize(), name, size=SIZE) for name in SCENES)


def record(columns, data, protocol="ahmf_table1", metrics=("mae", "rmse"), scales=(4, 8), unit="grey levels", how=None):
    """What is measured on the data, to three digits, as what is recorded for them."""
    values = {}
    for column in columns:
        images = [Place(data, i, name) for i, name in enumerate(data.names) if column.names(name)]
        for scale in scales:
            found = figures(images, scale, how or PROTOCOLS[protocol])
            values |= {(column.name, scale, metric): Decimal(f"{found[metric]:.3f}") for metric in metrics}
    tolerance = {metric: 0.02 if metric in ("psnr", "pe") else 0.001 for metric in metrics}
    others = (OtherSize((100, 140), "another set"),)
    return Recorded("t", "", protocol, "my scenes", metrics, unit, scales, columns, values, tolerance, others)


@pytest.fixture(scope="module")
def table():
    return record(COLUMNS, dataset(SCENES))


def the_finding(checked):
    assert not checked.is_right
    assert len(checked.findings) == 1, checked.findings
    assert checked.findings[0].wrong and checked.findings[0].remedy
    return checked.findings[0]


def test_what_is_right_is_said_to_be_right(table):
    checked = check([dataset(SCENES)], [table])
    assert checked.is_right and not checked.findings
    assert [(line.scale, line.metric) for line in checked.lines] == [(4, "mae"), (4, "rmse"), (8, "mae"), (8, "rmse")]
    line = checked.lines[0]
    mean = np.mean([float(table.values[name, 4, "mae"]) for name in ("Art", "Books")])
    assert line.mean.recorded == mean and abs(line.mean.difference) < 0.001 and set(line.images) == {"Art", "Books"}
    # Some of the images, in any of the splits, in folders, beside others.
    some = check([dataset({"other": SCENES["art"]}), dataset({"set/BOOKS": SCENES["books"]})], [table])
    assert some.is_right and list(some.lines[0].images) == ["Books"] and "1 of my scenes" in some.lines[0].data
    assert some.lines[0].mean.recorded == float(table.values["Books", 4, "mae"])
    assert not check([dataset({"view1": SCENES["art"]})], [table]).lines


def changed(change):
    return {name: change(depth) for name, depth in SCENES.items()}


def with_zeros(depth):
    depth = depth.copy()
    depth[20:30, 40:44] = 0
    return depth


@pytest.mark.parametrize(
    ("change", "fields", "about", "value", "says"),
    [
        (lambda d: d[::2, ::2], {}, "size", 0.5, "48 x 64, and what is recorded is of 96 x 128: about half the size"),
        (lambda d: d.repeat(2, 0).repeat(2, 1), {}, "size", 2.0, "about twice the size"),
        (lambda d: np.pad(d, ((1, 3), (5, 7)), "edge"), {}, "size", "another set", "these are another set"),
        (lambda d: np.pad(d, ((0, 6), (0, 2)), "reflect"), {}, "crop", (0, 0), "from row 0 and column 0 on"),
        (lambda d: np.pad(d, ((4, 4), (3, 3)), "reflect"), {}, "crop", (4, 3), "from row 4 and column 3 on"),
        (lambda d: d[:-4, 8:], {}, "crop", (-4, -8), "-4 rows, -8 columns"),
        (lambda d: (d / 255).astype(np.float32), {}, "unit", 255.0, "from 0 to 1"),
        (lambda d: (d / 255).astype(np.float32), {"range": 1.0}, "unit", 255.0, "from 0 to 1"),
        (lambda d: d.astype(np.uint16) * 256, {}, "unit", 1 / 256, "256 times too large"),
        (lambda d: d.astype(np.uint16) * 257, {"range": 65535.0}, "unit", 1 / 257, "257 times too large"),
        (lambda d: d.astype(np.float32) * 3, {}, "unit", 0.333, "some 3 times what they should be"),
        (lambda d: d, {"range": 256.0}, "range", 256.0, "--pairs.range 255"),
        (lambda d: (9e4 / d).astype(np.float32), {}, "unit", "inverse", "the inverse"),
        (lambda d: (9e4 / d).astype(np.float32), {"unit": "mm", "range": 5000.0}, "unit", "inverse", "the inverse"),
        (with_zeros, {}, "holes", 40 / SIZE[0] / SIZE[1], "0.3% of the pixels are 0"),
        (with_zeros, {"invalid": 0.0}, "holes", 40 / SIZE[0] / SIZE[1], "0.3% of the pixels are unknown"),
        (lambda d: np.roll(d, 17, 0), {}, "images", None, "the images are others, or cut or filled otherwise"),
    ],
)
def test_what_is_wrong_is_named(table, change, fields, about, value, says):
    finding = the_finding(check([dataset(changed(change), **fields)], [table]))
    assert finding.about == about and says in str(finding), finding
    if value is not None:
        assert finding.value == value


def test_another_kernel_fits():
    how = dataclasses.replace(PROTOCOLS["ahmf_table1"], floor="torch_bicubic")
    how = dataclasses.replace(how, degrade=dataclasses.replace(how.degrade, kernel="torch_bicubic"))
    finding = the_finding(check([dataset(SCENES)], [record(COLUMNS, dataset(SCENES), how=how)]))
    assert finding.about == "kernel" and finding.value == ("torch_bicubic", "torch_bicubic")


def test_by_psnr_and_pe_alone():
    table = record(COLUMNS, dataset(SCENES), "dscsan", ("psnr", "pe"))
    assert check([dataset(SCENES)], [table]).is_right
    finding = the_finding(check([dataset(changed(lambda d: (d / 255).astype(np.float32)))], [table]))
    assert finding.about == "unit" and finding.value == 255.0


def test_a_set_has_a_mean_and_is_whole_or_not_there():
    column = Column("Six", r"rgbd_\d\d", count=2, unit="cm")
    metres = {f"RGBD_0{i}": (depth / 50).astype(np.float32) for i, depth in enumerate(SCENES.values())}
    table = record([column], dataset(metres, unit="m", range=5.0), "b6", ("rmse",), (4,), unit="cm")
    right = check([dataset(metres, unit="m", range=5.0)], [table])
    assert right.is_right and right.lines[0].data == "Six" and not right.lines[0].images
    millimetres = {name: depth * 1000 for name, depth in metres.items()}
    finding = the_finding(check([dataset(millimetres, unit="m", range=5.0)], [table]))
    assert finding.about == "unit" and finding.value == 0.001 and "and 1 more" in finding.says
    assert check([dataset(millimetres, unit="mm", range=5000.0)], [table]).is_right
    part = check([dataset(dict(list(metres.items())[:1]), unit="m", range=5.0)], [table])
    assert not part.lines and part.is_right
    assert [f.says for f in part.findings] == ["1 images of Six are there, and what is recorded is of its 2"]


def test_two_images_of_one_name_are_said_not_to_be_measured(table):
    twice = check([dataset({"train/art": SCENES["art"]}), dataset({"test/art": SCENES["art"] // 2})], [table])
    (finding,) = twice.findings
    assert not twice.lines and finding.wrong and finding.remedy
    assert finding.says == (
        "train/art, test/art: 2 images have the name of Art, which is recorded of one: it is not measured"
    )


def test_no_more_images_are_in_work_at_once_than_there_are_threads(table, monkeypatch):
    column, lock, now, most = Column("Both", "art|books", count=2), threading.Lock(), [0], [0]
    measured = doctor_floors.whole_batch

    def slowly(*given):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        batch = measured(*given)
        with lock:
            now[0] -= 1
        return batch

    both = record([column], dataset(SCENES))
    monkeypatch.setattr(doctor_floors, "THREADS", 2)
    monkeypatch.setattr(doctor_floors, "whole_batch", slowly)
    assert check([dataset(SCENES)], [table, both]).is_right
    assert most == [2]


def test_figures_that_were_never_reproduced_are_shown_and_prove_nothing(table):
    unproven = dataclasses.replace(table, tolerance={})
    half = dataset(changed(lambda d: d // 2))
    checked = check([half], [unproven])
    assert checked.is_right and not checked.findings and len(checked.lines) == 4
    assert all(line.mean.difference < -0.1 for line in checked.lines)
    assert all(line.endswith("unproven") for line in lines_of(checked)[1:])
    assert not check([half], [table]).is_right
    # Nor do they where they cannot be measured at all.
    assert check([dataset(SCENES, range=256.0)], [unproven]).is_right


def test_data_for_which_nothing_is_recorded():
    checked = unknown({"train": dataset({"a": SCENES["art"]}), "test": dataset({"2005/Art/view1": SCENES["books"]})})
    assert checked.is_right and {line.protocol for line in checked.lines} == {"ahmf_table1"}
    assert {line.scale for line in checked.lines} == {4, 8, 16} and checked.lines[0].data == "test: 1 images"
    text = "\n".join(lines_of(checked))
    assert "nothing recorded" in text and "Art: ahmf_table1 has figures of" in text
    metres = unknown({"": dataset({"a": SCENES["art"].astype(np.float32)}, unit="m", range=300.0)})
    assert {line.protocol for line in metres.lines} == {"float"} and metres.lines[0].unit == "m"


def test_the_table_says_what_is_off(table):
    wrong = check([dataset({"art": SCENES["art"], "books": SCENES["books"] // 2})], [table])
    text = "\n".join(lines_of(wrong))
    assert text.count("OFF") == 4 and " ok" not in text and "Books" in text
    assert wrong.lines[0].off == ["Books", "mean"]
    right = lines_of(check([dataset(SCENES)], [table]))
    assert len(right) == 5 and all(line.endswith("ok") for line in right[1:]) and "x4" in right[1]


def write(folder, depths):
    folder.mkdir()
    for name, depth in depths.items():
        Image.fromarray(depth).save(folder / f"{name}_depth.png")
        Image.fromarray(np.zeros((*depth.shape, 3), np.uint8)).save(folder / f"{name}_rgb.png")
    return folder


def test_the_command(ahmf, refused, tmp_path, monkeypatch, table):
    monkeypatch.setattr("experiments.doctor_floors.recorded", lambda: (table,))
    right, wrong = write(tmp_path / "right", SCENES), write(tmp_path / "wrong", changed(with_zeros))
    ended = ahmf("doctor", "--floors", "--dataset", right, "--data-dir", tmp_path)
    assert ended.code == 0 and ended.out.count(" ok\n") == 4, ended
    ended = ahmf("doctor", "--floors", "--dataset", right, wrong, "--data-dir", tmp_path)
    assert ended.code == 1 and "! holes" in ended.out and ended.out.count("OFF") == 4, ended
    refused("doctor", "--floors", "--data-dir", tmp_path, said="no data set is prepared there")
    refused("doctor", "--floors", "--dataset", "nothing", "--data-dir", tmp_path, said="'nothing' is neither")
    refused("doctor", "--dataset", right, said="--dataset: is looked at together with --floors")
    refused("doctor", "--floors", "--depth", "d.png", said="--depth: is of one depth map")


def test_prepared_sets_are_looked_at_in_all_their_splits(data_dir):
    parts = at_hand("scenes", data_dir, PairsConfig())
    assert set(parts) == {"train", "validation", "test"}


def test_what_is_recorded_is_read():
    names = [table.name for table in recorded()]
    assert names == ["ahmf_table1", "ahmf_table2", "ahmf_table3", "ahmf_table4", "b6", "dscsan", "dscsan_noisy"]
    by_name = dict(zip(names, recorded(), strict=True))
    assert [name for name, table in by_name.items() if not table.is_proven] == ["ahmf_table3"]
    assert by_name["ahmf_table3"].value("Average", 16, "mae") == 3.02
    assert by_name["ahmf_table1"].value("Laundry", 8, "rmse") == 3.440
    assert by_name["dscsan"].value("Venus", 2, "pe") == 1.043 and by_name["dscsan"].value("mean", 16, "psnr") == 33.63
    assert by_name["b6"].value("Lu-6", 8, "rmse") == 4.636 and by_name["b6"].value("NYU", 8, "rmse") is None
    # MAE and PSNR are recorded apart, RMSE and PSNR must be the same error.
    for name in ("Art", "Books", "Dolls", "Laundry", "Moebius", "Reindeer"):
        for scale in (4, 8, 16):
            rmse, psnr = by_name["ahmf_table1"].value(name, scale, "rmse"), by_name["dscsan"].value(name, scale, "psnr")
            assert abs(20 * np.log10(255 / rmse) - psnr) < 0.02, (name, scale)
    for table in recorded():
        averages = [column.name for column in table.columns if column.average]
        for scale in table.scales if averages else ():
            for metric in table.metrics:
                cells = [table.value(c.name, scale, metric) for c in table.columns if not c.average]
                assert abs(np.mean(cells) - table.value(averages[0], scale, metric)) <= 0.01, (
                    table.name,
                    scale,
                    metric,
                )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"b6"', '"b7"', "protocol 'b7' is not known"),
        ("4.0]", "4.0, 5.0]", "2 numbers for 1 cells"),
        ("tolerance = { rmse = 0.1 }", "tolerance = { mae = 0.1 }", "tolerance"),
        ('images = "x"', "average = false", "does not say which its images are"),
        ("values", "value", "values"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(old, new, says):
    good = """
source = "s"
protocol = "b6"
dataset = "d"
metrics = ["rmse"]
unit = "cm"
scales = [4]
order = ["scale"]
tolerance = { rmse = 0.1 }
columns = [{ name = "x", images = "x" }]
values = [4.0]
"""
    assert floors.parse("good", good).value("x", 4, "rmse") == 4.0 and old in good
    with pytest.raises(ValueError, match=r"bad.*" + says):
        floors.parse("bad", good.replace(old, new))


@pytest.mark.skipif(not TEST10.exists(), reason=f"{TEST10} is not there")
def test_the_real_images_reproduce_what_is_recorded():
    # One of each size; all of them: `ahmf doctor --floors`, docs/results/floors.md.
    names = ("moebius", "tsukuba", "venus")
    data = open_pairs(TEST10, names=names)
    checked = check([data], [table for table in recorded() if table.protocol in ("ahmf_table1", "dscsan")])
    assert checked.is_right and len(checked.lines) == 14, lines_of(checked)


@pytest.mark.skipif(not TEST10.exists(), reason=f"{TEST10} is not there")
def test_dscsans_own_bicubic_row_but_for_the_cells_that_are_named():
    names = ("teddy", "cones", "tsukuba", "venus")
    data = open_pairs(TEST10, names=names)
    named = {("Teddy", 4, "pe"), ("Teddy", 8, "psnr"), ("Teddy", 8, "pe"), ("Tsukuba", 8, "pe")}
    for scale in (4, 8):
        row = tables()[f"dscsan_table1_x{scale}"].row("Bicubic")
        for place, name in enumerate(names):
            found = figures([Place(data, place, name)], scale, PROTOCOLS["dscsan"])
            for metric in ("psnr", "pe"):
                printed = float(row.values[name.capitalize(), scale, metric])
                off = abs(found[metric] - printed)
                # Printed to two and three digits, of which half a unit may be added.
                most = 0.02 + (0.005 if metric == "psnr" else 0.0005)
                assert (off > most) == ((name.capitalize(), scale, metric) in named), (name, scale, metric, off)
                assert off < 0.2
