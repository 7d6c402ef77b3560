"""Comparisons: what is compared with what, which number is best, and text that Markdown and LaTeX show as it is."""

import math
import re
from dataclasses import replace

import pytest

from ahmf_jax.errors import InputError
from experiments.comparison import compare, escape, heading, latex, markdown, number
from tests.experiments.evaluations_of import SIX, TEN, evaluation, sized

TWO = [("a/one", 64, 80), ("a/two_%", 64, 80)]


def values(*means, metric="mae"):
    """Of the images of `TWO` and the mean."""
    return {name: {metric: value} for name, value in zip(("a/one", "a/two_%", "mean"), means, strict=True)}


def ours(*means, **fields):
    return evaluation(TWO, "float", values=values(*means), floors=values(3.0, 4.0, 3.5), **fields)


def test_only_what_has_one_subject_is_compared():
    a, b = ours(1, 2, 1.5, method="A"), ours(2, 1, 1.5, method="B")
    other = ours(1, 2, 1.5, method="A", unit="m")
    elsewhere = ours(1, 2, 1.5, method="A", dataset="another")
    found = compare([a, other, b, elsewhere])
    assert [c.evaluations for c in found] == [(a, b), (other,), (elsewhere,)]
    assert [row.method for row in found[0].rows] == ["matlab_bicubic", "A", "B"]
    assert found[0].columns == ("a/one", "a/two_%", "mean") and found[0].title == "test10, x4"
    assert compare([ours(1, 2, 1.5, split="val")])[0].title == "test10, val, x4"


def test_the_best_and_the_second_share_where_they_are_shown_alike():
    comparison = compare(
        [ours(0.12, 0.5, 9.0, method="A"), ours(0.1203, 0.4, 9.0, method="B"), ours(0.13, 3, 9, method="C")]
    )[0]
    assert [row.method for row in comparison.rows] == ["matlab_bicubic", "A", "B", "C"]
    assert comparison.places("a/one", "mae") == {1: 1, 2: 1, 3: 2}
    assert comparison.places("a/two_%", "mae") == {2: 1, 1: 2}
    assert comparison.places("mean", "mae") == {0: 1, 1: 2, 2: 2, 3: 2}
    assert comparison.places("mean", "psnr") == {}
    same = compare([evaluation(TWO, "float", values=values(1, 1, 1), floors=values(1, 1, 1))])[0]
    assert same.places("mean", "mae") == {}


def test_more_is_better_of_psnr():
    numbers = [values(30, math.inf, 50, metric="psnr"), values(31, 40, math.nan, metric="psnr")]
    rows = [evaluation(TWO, "float", values=v, floors=values(10, 10, 10, metric="psnr")) for v in numbers]
    comparison = compare(rows)[0]
    assert comparison.places("a/one", "psnr") == {2: 1, 1: 2}
    assert comparison.places("a/two_%", "psnr") == {1: 1, 2: 2}
    assert comparison.rows[1].text("a/two_%", "psnr") == "inf"
    # What does not exist is shown as nothing, and has no place.
    assert comparison.rows[2].text("mean", "psnr") == "" and comparison.places("mean", "psnr") == {1: 1, 0: 2}


def test_rows_with_a_caveat_are_not_ranked():
    ours = {name: {"mae": 0.3} for name in (*SIX, "mean")}
    floors = {name: {"mae": 0.5} for name in (*SIX, "mean")}
    six = compare([evaluation(sized(SIX, 4), values=ours, floors=floors)])[0]
    # Table I prints 0.22 for AHMF, on what may be another degradation.
    assert six.places("art", "mae") == {1: 1, 0: 2}
    assert any("not ranked" in note for note in six.notes)
    # DSCSAN's table can be made by its protocol: Proposed is best, RYNet second.
    ten = compare([evaluation(sized(TEN, 8), "dscsan", 8)])[0]
    assert {ten.rows[i].method: place for i, place in ten.places("art", "psnr").items()} == {"DSCSAN": 1, "RYNet": 2}
    assert {ten.rows[i].method: place for i, place in ten.places("venus", "pe").items()} == {"DSCSAN": 1, "RYNet": 2}
    # Of three of the ten images nobody has printed the mean, in which a measured row must not be called the best.
    three = compare([evaluation(sized(TEN[:3], 8), "dscsan", 8)])[0]
    assert three.places("art", "psnr") == ten.places("art", "psnr") and three.places("mean", "psnr") == {}


def test_a_method_that_occurs_twice_is_told_apart():
    same = [
        ours(1, 2, 3, weights=f"runs/{name}", origin=origin) for name, origin in (("x", "o"), ("y", "o"), ("y", "p"))
    ]
    assert [row.method for row in compare(same)[0].rows[1:]] == ["AHMF (x)", "AHMF (2)", "AHMF (p)"]


def test_the_floor_stands_there_once():
    floor = evaluation(TWO, "float", values=values(3.0, 4.0, 3.5), floors=values(3.0, 4.0, 3.5), method="bicubic")
    rows = compare([ours(1, 2, 1.5), floor])[0].rows
    assert [(row.method, row.kind) for row in rows] == [("bicubic", "floor"), ("AHMF", "measured")]
    assert rows[0].evaluation is floor


def test_published_rows_stand_last_with_their_caveats():
    six = evaluation(sized(SIX, 4), notes=("trained on something else",))
    comparison = compare([six])[0]
    kinds = [row.kind for row in comparison.rows]
    assert kinds == ["floor", "measured"] + ["published"] * 14
    table = {row.method: row for row in comparison.rows if row.kind == "published"}
    assert table["DKN"].text("books", "mae") == "0.16" and table["DKN"].values["books"]["mae"] == 0.16
    assert table["DKN"].text("mean", "mae") == "0.192" and table["DKN"].text("mean", "rmse") == ""
    assert "Table I" in table["DKN"].source and "2104.01530" in table["DKN"].source
    assert any("cannot come from MATLAB's bicubic" in note for note in comparison.notes)
    assert any("prints no mean" in note for note in comparison.notes)
    assert "trained on something else" in comparison.notes
    # Its own rows may have the same name as a published one: they are of different kinds.
    assert [row.kind for row in comparison.rows if row.method == "AHMF"] == ["measured", "published"]


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("mae", 0.97349, "0.973"),
        ("mae", 0.0123456, "0.0123"),
        ("mae", 12.0, "12.000"),
        ("mae", 0.0, "0.000"),
        ("mae", 1e-12, "0.00000000"),
        ("psnr", 36.376, "36.38"),
        ("pe", 5.5142, "5.514"),
        ("psnr", math.inf, "inf"),
        ("mse", math.nan, ""),
    ],
)
def test_digits(metric, value, text):
    assert number(metric, value) == text


def test_headings():
    assert heading("mae", "cm") == "MAE (cm)" and heading("mse", "cm") == "MSE (cm\u00b2)"
    assert heading("psnr", "cm") == "PSNR (dB)" and heading("pe", "m") == "PE (%)"


def test_markdown():
    text = markdown(compare([ours(1, 5, 1.5, method="A_1|b"), ours(2, 1, 9, method="B")])[0])
    lines = text.splitlines()
    assert "| MAE (grey levels) | a/one | a/two\\_% | mean |" in lines
    assert "| A\\_1\\|b | **1.000** | 5.000 | **1.500** |" in lines
    assert "| matlab\\_bicubic | 3.000 | <u>4.000</u> | <u>3.500</u> |" in lines
    # As many cells everywhere; no table of a metric that nobody has.
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5 and {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    published = markdown(compare([evaluation(sized(SIX, 4))])[0])
    assert "| DKN\u2020 | 0.25 |" in published and "\u2020 Bicubic, ATGV," in published
    assert "Note: Table I (Zhong et al.): The paper's Bicubic row" in published


HOSTILE = "- `a`\n\n# injected\n```\n<script>x</script> ![y](z) | &amp; ~~b~~ $c$ **d** \\"


def test_a_line_of_markdown_begins_no_list_and_keeps_numbers():
    for text in ("0.3782", "-0.008", "+1.5", "a - b", "2.5 m"):
        assert escape(text) == text
    for text, escaped in (("1. a", r"1\. a"), ("12)", r"12\)"), ("- a", r"\- a"), ("---", r"\---"), ("==", r"\==")):
        assert escape(text) == escaped


def test_markdown_obeys_no_name():
    rename = {field: HOSTILE for field in ("dataset", "split", "unit", "protocol", "protocol_text", "method")}
    one = replace(ours(1, 5, 1.5), **rename, notes=(HOSTILE,))
    images = tuple(replace(image, name=f"{i}. {HOSTILE}") for i, image in enumerate(one.images))
    text = markdown(compare([replace(one, images=images)])[0])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table} == {5}
    parser = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    tokens = parser.parse(text)
    blocks = [token.type for token in tokens if token.nesting >= 0 and not re.match(r"t[hdr]_|thead|tbody", token.type)]
    assert blocks == ["heading_open", "inline", "paragraph_open", "inline", "table_open"] + ["inline"] * 12 + [
        "paragraph_open",
        "inline",
    ]
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {
        "text",
        "text_special",
        "code_inline",
        "strong_open",
        "strong_close",
    } | {"html_inline"}
    assert {child.content for child in inline if child.type == "html_inline"} <= {"<u>", "</u>"}
    assert {child.content for child in inline if child.type == "code_inline"} == {" ".join(HOSTILE.split())}
    shown = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    flat = " ".join(HOSTILE.split())
    assert shown[0] == f"{flat}, {flat}, x4" and shown[2] == f"MAE ({flat})" and shown[-1] == f"Note: {flat}"
    assert shown[3] == f"0. {flat}" and flat in shown


@pytest.mark.parametrize(("names", "said"), [(("mean", "b"), "an image is called mean"), ("bb", "several images are")])
def test_two_columns_of_one_name_are_refused(names, said):
    with pytest.raises(InputError, match=rf"{said}.*: rename it and evaluate again"):
        compare([evaluation([(name, 8, 8) for name in names], "float")])


def test_latex():
    text = latex(compare([ours(1, 5, 1.5, method="A_1&{b}\\$#~^<\u2020"), ours(2, 1, 9, method="B")])[0])
    assert (
        r"A\_1\&\{b\}\textbackslash{}\$\#\textasciitilde{}\textasciicircum{}$<$$^\dagger$ & \textbf{1.000} & 5.000"
        in text
    )
    assert r" & a/one & a/two\_\% & mean \\" in text and r"\underline{3.500}" in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert r"\begin{tabular}{lrrr}" in text and text.index(r"\toprule") < text.index(r"\bottomrule")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {3}
    # Floor and measured are parted; braces close.
    assert text.count(r"\midrule") == 2
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert text.isascii()
    # After the end of a row, and after a rule, TeX takes a bracket or an asterisk for an option.
    starred = latex(compare([ours(1, 5, 1.5, method="[a]"), ours(2, 1, 9, method="*b\n\nc")])[0])
    assert "\n{[}a] & " in starred and "\n{*}b c & " in starred
    published = latex(compare([evaluation(sized(SIX, 4))])[0])
    assert r"DKN$^\dagger$ & 0.25 &" in published and r"\par $^\dagger$ Bicubic, ATGV," in published
    assert published.isascii()
    # Table I has no RMSE: nothing of it is said there, and the caveats once.
    first, *others = published.split("\n\n")
    assert "dagger" in first and "\\caption{test10, x4: RMSE" in others[0]
    assert not any("dagger" in other or "cannot come from" in other for other in others)


def test_of_many_images_tables_show_the_mean():
    many = evaluation([(f"{i:03d}", 64, 64) for i in range(13)], "float")
    comparison = compare([many])[0]
    assert len(comparison.columns) == 14 and comparison.shown == ("mean",)
    assert "| MAE (grey levels) | mean |" in markdown(comparison)
    assert r"\begin{tabular}{lr}" in latex(comparison)
    few = compare([replace(many, images=many.images[:12])])[0]
    assert len(few.shown) == 13
