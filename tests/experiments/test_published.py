"""The published figures: as printed, with the averages that they have; beside measurements only where all agrees."""

import math
import re
from pathlib import Path

import pytest

from experiments.comparison import compare, markdown
from experiments.published import parse, rows_for, tables
from tests.experiments.evaluations_of import SIX, TEN, evaluation, sized

SOURCES = Path(__file__).parents[3] / "shared" / "sources"
SOURCE, SCAN = SOURCES / "001_0288ab54d8fe4f93.txt", SOURCES / "004_ff0e00836251312f.txt"
# Half a unit of the last digit that is printed. The weights of DSCSAN's Table 3 are inferred.
HALF = {"dscsan_table3": 0.0075}


def test_every_table_is_there():
    assert {name: len(table.rows) for name, table in tables().items()} == {
        "ahmf_table1": 14,
        "ahmf_table2": 12,
        "ahmf_table3": 7,
        "ahmf_table4": 13,
        "ahmf_table5": 7,
        "ahmf_table6": 7,
        "b6": 6,
        "dada_ablation": 3,
        "dada_table1": 7,
        "dada_table2": 6,
        "dada_table_a1": 2,
        "dada_table_a4": 7,
        "dscsan_table1_x2": 1,
        "dscsan_table1_x4": 10,
        "dscsan_table1_x8": 10,
        "dscsan_table2": 8,
        "dscsan_table3": 8,
        "dscsan_table4": 5,
        "dscsan_table5": 9,
        "dsdmsr_images": 5,
        "dsdmsr_stages": 7,
    }


def cell(table, method, column, scale, metric):
    return str(tables()[table].row(method).values[column, scale, metric])


def test_single_cells_stand_where_they_are_printed():
    assert cell("ahmf_table1", "AHMF", "Art", 8, "mae") == "0.50"
    assert cell("ahmf_table1", "ATGV", "Reindeer", 16, "mae") == "1.01"
    assert cell("ahmf_table2", "PMBAN", "Books", 4, "mae") == "0.44"
    assert cell("ahmf_table3", "AHMF", "Image 04", 16, "mae") == "1.45"
    assert cell("ahmf_table4", "TGV", "NYU", 16, "rmse") == "28.13"
    assert cell("ahmf_table5", "PacNet", "Reindeer", 8, "psnr") == "35.45"
    assert cell("b6", "SGNet", "Lu", 16, "rmse") == "3.55"
    assert cell("dada_table1", "DADA", "NYUv2", 32, "mse") == "223"
    assert cell("dada_table2", "SD filter", "DIML", 32, "mae") == "4.45"
    assert cell("dada_table_a1", "DADA", "DIML", 16, "ee") == "7.39"
    assert cell("dada_table_a4", "PMBANet", "NYUv2", 32, "ve") == "5.2"
    assert cell("dscsan_table1_x4", "RYNet", "Tsukuba", 4, "pe") == "1.286"
    assert cell("dscsan_table2", "SAN", "Cones", 8, "psnr") == "31.94"
    assert cell("dscsan_table5", "DSCSAN", "", 8, "memory") == "20.5"
    assert cell("dsdmsr_images", "DSDMSR (SRCNN), fused", "mean", 8, "rmse") == "15.71"
    # What could not be read is not there, and not zero.
    assert ("DIML", 4, "mse") not in tables()["dada_table1"].row("LGR").values
    assert ("Lu", 4, "rmse") not in tables()["b6"].row("DKN").values


@pytest.mark.skipif(not SOURCE.exists(), reason=f"{SOURCE} is not there")
@pytest.mark.parametrize("number", range(1, 7))
def test_ahmfs_tables_are_the_papers_text(number):
    text = SOURCE.read_text("utf-8")
    roman = ("I", "II", "III", "IV", "V", "VI")[number - 1]
    part = text[re.search(rf"^ ?TABLE {roman}$", text, re.MULTILINE).end() :]
    printed = {}
    for line in part.splitlines():
        # A name, in brackets or by its venue where it is from, crosses and ticks of the ablation, and numbers.
        pattern = r"(\w+)[^0-9]*(?:\[\d+\] ?)?(?:\S*\u2019\d\d|-|Ours)?[X\u00d7 ]*((?: ?\d+\.\d+)+)"
        found = re.fullmatch(pattern, line.strip())
        if found:
            printed.setdefault("AHMF" if found[1] == "Ours" else found[1], found[2].split())
    table = tables()[f"ahmf_table{number}"]
    for row in table.rows:
        assert [str(value) for value in row.values.values()] == printed[row.method], row.method


@pytest.mark.skipif(not SCAN.exists(), reason=f"{SCAN} is not there")
def test_dscsans_tables_have_the_digits_of_the_scan():
    """Separators are lost or misread in it: the digits alone are compared, but for the repairs that the notes state."""
    text = SCAN.read_text("utf-8")
    for meant in ("44.93", "41.40", "42.71", "0.575", "0.606", "0.677"):
        assert text.count(f"1{meant}") == 1
        text = text.replace(f"1{meant}", meant)
    found = {}
    for line in text.splitlines():
        name = re.match(r" ?([A-Za-z-]+)", line)
        digits = re.sub(r"\D", "", line)
        if name and len(digits) > 20:
            found.setdefault(name[1].replace("Proposed", "DSCSAN"), []).append(digits)
    names = ("dscsan_table1_x2", "dscsan_table1_x4", "dscsan_table1_x8", "dscsan_table2", "dscsan_table3")
    rows = [row for name in names for row in tables()[name].rows]
    checked = 0
    for method in {row.method for row in rows}:
        for row, line in zip([row for row in rows if row.method == method], found[method], strict=True):
            # Beside Table 3 there is text of another column.
            assert line.startswith("".join(re.sub(r"\D", "", str(value)) for value in row.values.values())), method
            checked += 1
    assert checked == 1 + 10 + 10 + 8 + 8


@pytest.mark.parametrize("name", [name for name, table in tables().items() if any(c.average for c in table.columns)])
def test_the_averages_that_papers_print_follow_from_the_cells(name):
    table = tables()[name]
    off = {(o.method, o.column, o.scale, o.metric): float(o.cells) for o in table.averages_off}
    for row in table.rows:
        for column in (column for column in table.columns if column.average):
            for scale in table.scales:
                for metric in table.metrics:
                    cells = table.average(row, column, scale, metric)
                    printed = float(row.values[column.name, scale, metric])
                    if (place := (row.method, column.name, scale, metric)) in off:
                        # Held exactly: the day that a cell is put right, this must be taken away.
                        assert round(cells, 3) == off[place] and abs(cells - printed) > 0.005, place
                    else:
                        assert abs(cells - printed) <= HALF.get(name, 0.005) + 1e-9, (place, cells)


def test_the_one_average_that_does_not_follow():
    off = {name: table.averages_off for name, table in tables().items() if table.averages_off}
    assert list(off) == ["dscsan_table1_x8"]
    assert [(o.method, o.metric, str(o.cells)) for o in off["dscsan_table1_x8"]] == [("RYNet", "pe", "1.471")]


def test_tables_agree_with_each_other():
    all_ = tables()
    # An ablation's last row is the model of the main table.
    whole = all_["ahmf_table1"].row("AHMF").values
    mean = sum(float(value) for (_, scale, _), value in whole.items() if scale == 4) / 6
    assert abs(mean - float(cell("ahmf_table6", "Model6", "mean", 4, "mae"))) <= 0.005
    for metric in ("psnr", "pe"):
        for ablated, method in (("C1", "RCAN"), ("C5", "DSCSAN")):
            assert cell("dscsan_table4", ablated, "mean", 8, metric) == cell(
                "dscsan_table1_x8", method, "Mean", 8, metric
            )
    # DADA over five seeds is DADA of the main table.
    for column in ("Middlebury", "DIML"):
        for scale in (4, 8, 16, 32):
            for metric in ("mse", "mae"):
                place = column, scale, metric
                assert cell("dada_table1", "DADA", *place) == cell("dada_table_a1", "DADA", *place), place
    # The base of DADA's ablation is not that model, and its notes say so.
    assert cell("dada_ablation", "base", "Middlebury", 8, "mse") == "5.67"
    assert "5.63" in all_["dada_ablation"].notes[0] and cell("dada_table1", "DADA", "Middlebury", 8, "mse") == "5.63"


def test_the_caveats_are_there():
    for name, says in (
        ("ahmf_table1", "cannot come from MATLAB's bicubic"),
        ("ahmf_table2", "cannot come from bicubic"),
        ("ahmf_table4", "inherited"),
    ):
        assert any(says in caveat for caveat in tables()[name].caveats), name


DADA = [
    (f"{year}/FullSize/{scene}/{view}", 256, 256)
    for year, scene, views in (
        ("2005", "Reindeer", ("view1", "view5")),
        ("2006", "Bowling1", ("view1", "view5")),
        ("2006", "Bowling2", ("view1", "view5")),
        ("2014", "Adirondack-perfect", ("im0", "im1")),
        ("2014", "Motorcycle-perfect", ("im0", "im1")),
    )
    for view in views
]


def test_what_one_must_know_reaches_the_page():
    def page(images, protocol, scale, **fields):
        (comparison,) = compare([evaluation(images, protocol, scale, **fields)])
        return comparison, markdown(comparison)

    lu = [(f"RGBD_0{i}", 432, 640) for i in range(1, 7)]
    comparison, text = page(lu, "ahmf_table3", 8)
    assert "Note: Table III (Zhong et al.): Image 01 to Image 06 are taken for the files in the order" in text
    # Unlike a caveat, a remark leaves the rows in the ranking.
    assert all(row.ranked for row in comparison.rows)
    _, text = page(DADA, "dada", 8, split="dada/test")
    assert "The rows of other methods at x4 to x16 are taken over from LGR" in text
    assert "Bicubic is a cubic surface through the scattered known samples" in text
    comparison, text = page(lu, "b6", 8)
    sources = {row.method: row.source for row in comparison.rows if row.kind == "published"}
    assert sources["DCTNet"] == "Zhao et al., CVPR 2022, RMSE under DKN's protocol, 0.48 million parameters"
    assert sources["DKN"] == "Kim et al., IJCV 2021, RMSE under DKN's protocol" and "trained on NYU v2 alone" in text
    assert "PMBAN's published weights" in page(sized(SIX, 4), "ahmf_table1", 4)[1]


def beside(*args, **kwargs):
    """The published rows beside an evaluation: `{(table, method): {column: {metric: text}}}`."""
    return {
        (row.table.name, row.method): {c: {m: str(v) for m, v in cells.items()} for c, cells in row.values.items()}
        for row in rows_for(evaluation(*args, **kwargs))
    }


def test_table_1_stands_beside_the_six_scenes():
    rows = beside(sized(SIX, 16), scale=16)
    assert len(rows) == 14 and {table for table, _ in rows} == {"ahmf_table1"}
    ours = rows["ahmf_table1", "AHMF"]
    assert {name: cells["mae"] for name, cells in ours.items() if name != "mean"} == {
        "art": "1.04",
        "books": "0.50",
        "dolls": "0.62",
        "laundry": "0.73",
        "moebius": "0.53",
        "reindeer": "0.64",
    }
    assert ours["mean"] == {"mae": "0.677"}
    # The names in another spelling, in a folder, and the images whole.
    whole = [(f"set_b/{name.capitalize()}", 1080, 1320) for name in SIX]
    assert beside(whole, scale=16)["ahmf_table1", "AHMF"]["set_b/Laundry"] == {"mae": "0.73"}


def test_a_mean_only_of_the_very_images():
    some = beside(sized(SIX[:3], 4))["ahmf_table1", "DKN"]
    assert some == {"art": {"mae": "0.25"}, "books": {"mae": "0.16"}, "dolls": {"mae": "0.21"}}
    # Ten images have another mean than six of them.
    more = beside(sized(TEN, 4))["ahmf_table1", "DKN"]
    assert set(more) == set(SIX)


@pytest.mark.parametrize(
    ("images", "fields"),
    [
        ([(f"2005/ThirdSize/{name.capitalize()}/view1", 368, 460) for name in SIX], {}),
        ([(name, 368, 460) for name in SIX], {}),  # the names, in another size
        ([(name, 1088, 1376) for name in SIX], {}),  # set A
        ([("start", 1080, 1320), ("art_depth", 1080, 1320)], {}),
        (sized(SIX, 4), {"protocol": "float"}),
        (sized(SIX, 4), {"protocol": "run"}),
        (sized(SIX, 2), {"scale": 2}),
        (sized(SIX, 4), {"unit": "m"}),
    ],
)
def test_nothing_stands_beside_what_is_something_else(images, fields):
    if fields.get("protocol") == "run":
        from dataclasses import replace

        assert rows_for(replace(evaluation(images), protocol="run")) == []
    else:
        assert beside(images, **fields) == {}


def test_a_printed_mean_goes_before_a_computed_one():
    rows = beside(sized(TEN, 8), "dscsan", 8)
    assert len(rows) == 10
    assert rows["dscsan_table1_x8", "RYNet"]["mean"] == {"psnr": "44.41", "pe": "1.48"}
    assert rows["dscsan_table1_x8", "RYNet"]["cones"] == {"psnr": "37.68", "pe": "3.226"}
    assert not any(row.computed for row in rows_for(evaluation(sized(TEN, 8), "dscsan", 8)))
    lu = beside([(f"RGBD_0{i}", 432, 640) for i in range(1, 7)], "ahmf_table3", 8)
    assert lu["ahmf_table3", "PacNet"]["mean"] == {"mae": "1.05"}
    assert lu["ahmf_table3", "PacNet"]["RGBD_06"] == {"mae": "0.87"}


def test_of_a_set_of_images_there_is_a_mean_alone():
    nyu = [(f"{number:05d}", 480, 640) for number in range(1000, 1449)]
    rows = beside(nyu, "b6", 8, unit="cm")
    assert rows["b6", "SGNet"] == {"mean": {"rmse": "2.44"}} and len(rows) == 6
    assert beside(nyu, "ahmf_table4", 8, unit="cm")["ahmf_table4", "DKN"] == {"mean": {"rmse": "4.76"}}
    assert beside(nyu[:-1], "b6", 8, unit="cm") == {}
    assert beside([*nyu, ("00999", 480, 640)], "b6", 8, unit="cm") == {}
    assert beside([(name, 424, 560) for name, _, _ in nyu], "b6", 8, unit="cm") == {}  # without its border
    assert beside(nyu, "b6", 8, unit="grey levels") == {}
    middlebury = [(f"Middlebury_{number:02d}", 400, 400) for number in range(1, 31)]
    assert set(beside(middlebury, "b6", 4)) == {("b6", method) for method in ("DCTNet", "SUFT", "SGNet")}


def test_of_dtu_the_300_published_pictures_alone():
    dtu = [(f"scan{i}_depth_map_0000", 512, 640) for i in range(300)]
    rows = beside(dtu, "dsdmsr_dtu", 8, split="dsdmsr/validation_sub")
    assert rows["dsdmsr_images", "DSDMSR (SRCNN), fused"] == {"mean": {"psnr": "24.46", "mae": "3.86", "rmse": "15.71"}}
    assert {name for name, _ in rows} == {"dsdmsr_images"} and len(rows) == 5
    # Nor what was made of another low resolution, of as many others, or of another factor: those are stages.
    assert beside(dtu, "dsdmsr", 8, split="dsdmsr/validation_sub") == {}
    assert beside(dtu, "dsdmsr_dtu", 8, split="validation[:300]") == {}
    for scale in (2, 4):
        assert beside(dtu, "dsdmsr_dtu", scale, split="dsdmsr/validation_sub") == {}


def test_of_dadas_sets_only_the_test_split():
    rows = beside(DADA, "dada", 8, split="dada/test")
    assert rows["dada_table1", "DADA"] == {"mean": {"mse": "5.63", "mae": "0.20"}} and len(rows) == 13
    assert beside(DADA, "dada", 8, split="test") == {}
    assert beside([*DADA, ("2006/FullSize/Aloe/view1", 256, 256)], "dada", 8, split="dada/test") == {}


GOOD = """
title = "t"
paper = "p"
table = "T"
dataset = "d"
protocol = "b6"
metrics = ["rmse", "mae"]
unit = "cm"
scales = [4, 8]
order = ["scale", "metric"]
columns = [{ name = "mean", images = "x", count = 2 }]
rows = [{ method = "A", values = [1.0, 2, nan, 4.50] }]
"""


def test_numbers_are_put_where_the_order_says():
    row = parse("good", GOOD).rows[0]
    assert {place: str(value) for place, value in row.values.items()} == {
        ("mean", 4, "rmse"): "1.0",
        ("mean", 4, "mae"): "2",
        ("mean", 8, "mae"): "4.50",
    }
    turned = parse("good", GOOD.replace('["scale", "metric"]', '["metric", "scale"]')).rows[0]
    assert math.isclose(turned.values["mean", 8, "rmse"], 2)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2, nan", "2", "3 numbers for 4 cells"),
        ('"b6"', '"b7"', "protocol 'b7' is not known"),
        ('["rmse", "mae"]', '["rmse", "ve"]', "metric 've'"),
        ('images = "x", ', "", "does not say which its images are"),
        ('order = ["scale", "metric"]', 'order = ["scale"]', "order"),
        ('paper = "p"', "", "paper"),
        ('paper = "p"', 'papers = "p"', "papers"),
        ("rows = [", 'rows = [{ method = "A", values = [1, 2, 3, 4] }, ', "a method twice"),
        (
            "rows = [",
            'averages_off = [{ method = "A", column = "x", scale = 4, metric = "mae", cells = 1 }]\nrows = [',
            "not there",
        ),
    ],
)
def test_a_wrong_file_says_what_is_wrong(old, new, says):
    assert old in GOOD
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse("bad", GOOD.replace(old, new))
    assert "bad" in str(caught.value)
