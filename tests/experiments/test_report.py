"""The report as files: what the page, the Markdown and the LaTeX say, and what is refused."""

import base64
import gzip
import io
import json
import re
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.comparison import compare
from experiments.evaluations import read, read_image
from experiments.report import images, pixels
from experiments.report.make import report
from experiments.report.page import policy, render, view
from experiments.report.sources import POINTS, gather, read_training
from tests.experiments.reports import (
    EVIL,
    HEIGHT,
    NAMES,
    WIDTH,
    predicted,
    scene,
    write_diffused,
    write_evaluation,
    write_run,
    write_sources,
)


def unpack(text, height, width):
    """What `pixels.js` does, sample by sample."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, height, width).astype(int)
    codes = np.zeros((height + 1, width + 1), int)
    for y in range(height):
        for x in range(width):
            left, above, corner = codes[y + 1, x], codes[y, x + 1], codes[y, x]
            expected = min(max(left + above - corner, min(left, above)), max(left, above))
            folded = planes[0, y, x] | planes[1, y, x] << 8
            codes[y + 1, x + 1] = (expected + ((folded >> 1) ^ -(folded & 1))) & 0xFFFF
    return codes[1:, 1:]


@pytest.mark.parametrize("kind", ["smooth", "noise", "extremes"])
def test_codes_survive_the_page(kind):
    rng = np.random.default_rng(0)
    codes = {
        "smooth": np.add.outer(np.arange(9) * 30, np.arange(11) * 7),
        "noise": rng.integers(0, 65536, (9, 11)),
        "extremes": rng.choice([0, 1, 32767, 32768, 65535], (9, 11)),
    }[kind].astype(np.uint16)
    np.testing.assert_array_equal(unpack(pixels.pack(codes), 9, 11), codes)


def test_whole_numbers_are_exact_and_others_to_a_step():
    whole = np.array([[0, 7, 255], [np.nan, 3, 250]], np.float32)
    codes = pixels.choose_codes([whole], 3, 255)
    assert codes == pixels.Codes(1.0, 0.0)
    np.testing.assert_array_equal(pixels.encode(whole, codes), [[1, 8, 256], [0, 4, 251]])

    metres = np.linspace(0.8, 4.1, 600, dtype=np.float32).reshape(20, 30)
    codes = pixels.choose_codes([metres], 0.8, 4.1)
    assert codes.step == 2.0**-11 and 3.3 / codes.step > pixels.LEVELS
    back = codes.offset + (pixels.encode(metres, codes).astype(float) - 1) * codes.step
    assert np.abs(back - metres).max() <= codes.step / 2

    # A prediction that ran away does not coarsen the rest; it is shown at the end of what can be shown.
    wild = np.array([[-1e9, 0.5, 1e9]], np.float32)
    codes = pixels.choose_codes([wild, np.array([[0.0, 1.0]])], 0, 1)
    assert codes.step == 2.0**-12 and codes.offset == -3
    shown = codes.offset + (pixels.encode(wild, codes).astype(float) - 1) * codes.step
    assert shown[0, 0] == -3 and shown[0, 1] == 0.5 and shown[0, 2] >= 4
    assert pixels.choose_codes([np.full((2, 2), 5.5)], 5.5, 5.5).step < 1e-5  # a constant map


def test_the_worst_regions_come_first_and_apart():
    error = np.zeros((96, 96))
    error[8:16, 16:24] = 3
    error[8:16, 24:32] = 2.9  # beside the first
    error[40:48, 56:64] = 1
    error[0, 0] = 1000  # all that is known of its block
    error[0:8, 0:8][error[0:8, 0:8] == 0] = np.nan
    assert images.worst_regions(error) == [(16, 8, 8, 3.0), (56, 40, 8, 1.0)]
    assert images.worst_regions(error, border=24) == [(56, 40, 8, 1.0)]
    assert images.worst_regions(error, most=1) == [(16, 8, 8, 3.0)]
    assert images.worst_regions(np.full((9, 9), np.nan)) == [] == images.worst_regions(np.zeros((9, 9)))


@pytest.mark.parametrize(
    ("value", "expected"), [(0.7, 1), (1, 1), (1.2, 2), (3, 5), (7, 10), (0.011, 0.02), (0, 1), (4321, 5000)]
)
def test_scales_end_at_round_numbers(value, expected):
    assert images.round_up(value) == expected
    assert images.error_scale([value, float("nan")]) == expected


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def places(folders, tmp_path_factory):
    return report(folders, tmp_path_factory.mktemp("out") / "my report.html")


@pytest.fixture(scope="module")
def html(places):
    return places.page.read_text("utf-8")


def without_data(html):
    """The page but for its scripts, which are ours, and its data."""
    return re.sub(r"<script[^>]*>.*?</script>|<style>.*?</style>", "", html, flags=re.S)


def section_of(html, name):
    """The part of the page that has that id."""
    return re.search(rf'<section id="{name}".*?</section>', without_data(html), re.S)[0]


def data(html):
    return json.loads(re.search(r'id="report-data">(.*?)</script>', html, re.S)[1])


def test_names_are_shown_and_never_obeyed(html):
    body = without_data(html)
    assert "<script" not in body, "a name got out of its place"
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&#39;&amp;" in body
    assert data(html)["viewers"][0]["images"][1]["name"] == EVIL
    executed = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(executed) == 6
    stated = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    plotly = gzip.decompress(base64.b64decode(re.search(r'id="plotly">(.*?)</script>', html, re.S)[1])).decode()
    assert stated == policy([*executed, plotly]) and "unsafe-inline'; img-src data: blob:;" in stated
    assert stated.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in stated


def test_the_page_needs_nothing_else(html):
    assert not re.search(r"""(?:src|href|action|url\()\s*=?\s*["']?\s*(?:https?:)?//""", without_data(html))
    ours = "".join(re.findall(r"<script>(.*?)</script>", html, re.S)) + re.search("<style>(.*?)</style>", html, re.S)[1]
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket|@import|innerHTML|\beval\(", ours)


def test_the_tables_are_those_of_the_comparison(html, folders):
    comparison = compare(gather(folders).evaluations)[0]
    body = without_data(html)
    tables = re.findall(r"<table>\s*<caption>(.*?)</caption>(.*?)</table>", body, re.S)
    assert [caption for caption, _ in tables] == ["MAE (grey levels)", "RMSE (grey levels)"]
    for (_, table), metric in zip(tables, ("mae", "rmse"), strict=True):
        rows = re.findall(r"<tr class=\"(\w*)\">(.*?)</tr>", table, re.S)
        assert [kind for kind, _ in rows] == ["floor", "measured", "measured"]
        for i, (row, (_, text)) in enumerate(zip(comparison.rows, rows, strict=True)):
            cells = re.findall(r'<td data-value="([^"]*)"( class="place-(\d)")?>(.*?)</td>', text)
            assert [cell[3] for cell in cells] == [row.text(c, metric) for c in comparison.columns]
            places = [comparison.places(c, metric).get(i) for c in comparison.columns]
            assert [int(cell[2]) if cell[2] else None for cell in cells] == places
    assert re.search(r'<p class="summary">AHMF: mean MAE \(grey levels\) [\d.]+, \d+% below matlab_bicubic', body)
    assert "note &lt;script" in body and "Protocol float.</b> as it is" in body


def test_published_rows_are_marked_and_their_source_is_said(tmp_path):
    import dataclasses

    from experiments.comparison import Row

    folder = write_evaluation(tmp_path / "e", names=("art",), keep=0)
    comparison = compare([read(folder)])[0]
    row = Row("Theirs", "published", "A paper, Table 7", {"mean": {"mae": 0.001}})
    comparison = dataclasses.replace(comparison, rows=(*comparison.rows, row), notes=("Table 7 is odd",))
    body = without_data(render([comparison], [], title="t").html)
    (found,) = re.findall(r'<tr class="published">(.*?)</tr>', body, re.S)
    assert "Theirs" in found and "published <sup>1</sup>" in found and 'class="place-1"' in found
    assert "<li>A paper, Table 7</li>" in body and "<li>Table 7 is odd</li>" in body
    assert 'class="viewer"' not in body, "no image was kept"


def test_the_maps_are_those_that_were_measured(html, folders):
    viewer = data(html)["viewers"][0]
    assert [image["name"] for image in viewer["images"]] == ["hard", EVIL, "easy"]
    assert viewer["unit"] == "grey levels" and viewer["nearer"] == "large"
    blobs = dict(re.findall(r'<script type="text/plain" id="(blob-\d+)">(.*?)</script>', html))
    hard = viewer["images"][0]
    arrays = scene("hard")
    maps = {
        "lr": arrays["depth_lr"],
        "floor": arrays["floor"],
        "m0": predicted(arrays, 12),
        "m1": predicted(arrays, 24),
        "truth": np.where(arrays["mask_hr"], arrays["depth_hr"], np.nan),
    }
    assert [layer["key"] for layer in hard["layers"]] == list(maps)
    for layer in hard["layers"]:
        codes = unpack(blobs[layer["blob"]], layer["height"], layer["width"])
        values = np.where(codes > 0, layer["offset"] + (codes - 1) * layer["step"], np.nan)
        np.testing.assert_array_equal(values, maps[layer["key"]], err_msg=layer["key"])
    assert hard["layers"][2]["regions"] == [[40, 16, 8, 12.0]]
    assert blobs[hard["guide"]].startswith("data:image/webp;base64,")
    # What is the same is there once: two of the three guides, low resolution, floor and truth, and of six predictions
    # five, which are off by 4, 8, 12, 16 and 24.
    assert len(blobs) == 2 + 3 + 5


@pytest.mark.parametrize(
    ("unit", "nearer"),
    [("um", "small"), ("0.2 mm", "small"), ("ft", "small"), ("Metres", "small"), ("pixels", "large")],
)
def test_near_is_in_front(tmp_path, unit, nearer):
    folder = write_evaluation(tmp_path / "e", names=("art",), keep=0, unit=unit)
    assert view(compare([read(folder)])[0], [], images.Blobs(), lambda: None)[0]["nearer"] == nearer


def test_a_page_is_small(places):
    """The code, Plotly and three small images; sizes of real images are in docs/report.md."""
    assert places.page.stat().st_size < 2.2e6


def test_markdown_and_latex_say_the_same(places, folders):
    text = places.markdown.read_text("utf-8")
    comparison = compare(gather(folders).evaluations)[0]
    for row in comparison.rows:
        assert row.text("mean", "mae") in text and row.text("mean", "rmse") in places.latex.read_text()
    assert not re.search(r"(?<!\\)<(?!/?u>|!-- ahmf)", text)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) == 3 + 2 and all(link.startswith("my%20report_files/") for link in links)
    for link in links:
        picture = Image.open(places.page.parent / link.replace("%20", " "))
        picture.load()
        assert picture.width > 300
    assert r"\begin{tabular}" in places.latex.read_text()
    assert "Validation MAE" in text and "no evaluation yet" not in text


def test_the_picture_of_an_image_shows_maps_and_errors(folders):
    from experiments.pictures import CAPTION, GAP, heat_colours
    from experiments.report.markdown import picture

    comparison = compare(gather(folders).evaluations)[0]
    sheet = picture(images.load(comparison, "hard"), 24.0)
    assert sheet.shape == (2 * (HEIGHT + CAPTION), 6 * WIDTH + 5 * GAP, 3)
    x = 3 * (WIDTH + GAP)  # guide, low resolution, floor, AHMF
    error = sheet[HEIGHT + 2 * CAPTION :, x : x + WIDTH]
    np.testing.assert_array_equal(error[20, 44], heat_colours(np.array([[12.0]]), 24)[0, 0])
    np.testing.assert_array_equal(error[40, 10], heat_colours(np.array([[0.0]]), 24)[0, 0])
    assert (error[0, 0] == 128).all(), "unknown"


def test_without_colour_an_image_is_known_by_its_depth(tmp_path):
    from experiments.pictures import CAPTION, GAP, depth_colours
    from experiments.report.markdown import picture

    (comparison,) = compare([read(write_evaluation(tmp_path / "e", names=("hard",), colour=False, factor=3.0))])
    image = images.load(comparison, "hard")
    arrays = scene("hard")
    known = arrays["depth_hr"][arrays["mask_hr"]]
    wanted = depth_colours(arrays["depth_hr"], known.min(), known.max(), arrays["mask_hr"])
    np.testing.assert_array_equal(image.picture, wanted)
    page = render([comparison], [], title="t").html
    assert data(page)["viewers"][0]["images"][0]["guide"] is None
    (thumbnail,) = re.findall(r'aria-pressed="false"><img src="data:image/webp;base64,(.*?)"', page)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail))) as small:
        assert np.abs(np.asarray(small.convert("RGB")).astype(int) - wanted).mean() < 20, "of lossy compression"
    assert "Guides are compressed" not in page
    sheet = picture(image, 24.0)
    assert sheet.shape == (2 * (HEIGHT + CAPTION), 4 * WIDTH + 3 * GAP, 3)
    np.testing.assert_array_equal(sheet[CAPTION : CAPTION + HEIGHT, -WIDTH:], wanted)
    error = sheet[-HEIGHT:, 2 * (WIDTH + GAP) : 3 * WIDTH + 2 * GAP]
    assert error[20, 44].max() > 100 and (error[0, 0] == 128).all(), "the errors stand below their maps"


def test_pictures_are_shrunk_by_means_of_what_is_known():
    from experiments.report.markdown import shrink

    nan = np.nan
    depth = np.array([[1, 3, nan, nan, 9], [5, nan, nan, nan, 9], [9, 9, 9, 9, 9]])
    np.testing.assert_array_equal(shrink(depth, 2), [[3, nan]])
    colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(shrink(colours, 2), [[[4.5, 5.5, 6.5]]])
    np.testing.assert_array_equal(shrink(depth, 1), depth)


@pytest.fixture(scope="module")
def diffused(tmp_path_factory):
    """The report of a DADA whose weights are gone, the learning-free one, and a method that is none."""
    folder = tmp_path_factory.mktemp("diffused")
    made = {"model": "DADA x4, resnet50"}
    folders = [
        write_evaluation(folder / "gone", method="gone", names=("easy",), made=made, weights="gone.safetensors"),
        write_diffused(folder / "rgb", names=("easy",), origin="learning-free: no weights"),
        write_evaluation(folder / "other", method="other", names=("easy",)),
    ]
    return report(folders, folder / "page.html")


def test_the_diffusion_of_dada_is_shown(diffused, html):
    text = diffused.page.read_text("utf-8")
    section = section_of(text, "diffusion-0")
    assert re.findall("<h3>(.*?)</h3>", section) == ["gone, x4, on easy", "dada_rgb, x4, on easy"]
    assert "The diffusion of gone cannot be shown: gone.safetensors does not exist" in section
    assert (
        "easy, all of its 64 x 48 pixels. Computed again for this page (learning-free: no weights): in the" in section
    )
    assert "evaluate again" not in section
    assert "at x4 a block of 4 x 4" in section and 'href="#diffusion-0"' in text
    stills = re.findall(r"<figcaption>([\d,]+) iterations <span>MAE ([\d.]+)</span></figcaption>", section)
    assert [count for count, _ in stills] == ["0", "100", "1,000", "8,000"]
    (player,) = data(text)["diffusions"]
    frames = [frame["text"] for frame in player["frames"]]
    assert frames[1].startswith("1 iteration: MAE ") and len(set(frames)) == len(frames) > 20
    assert {f"{count} iterations: MAE {error}" for count, error in stills} <= {*frames}
    assert all(frame[name].startswith("data:image/webp") for frame in player["frames"] for name in ("depth", "error"))
    curve, before = player["curve"]["series"]
    assert curve["x"][0] == 1 and curve["x"][-1] == 8000 == before["x"][-1]
    assert (
        f"{curve['y'][-1]:#.4g}" == stills[-1][1] and before["y"] == [pytest.approx(float(stills[0][1]), rel=1e-3)] * 2
    )
    arrays = scene("easy")
    off = np.abs(arrays["floor"] - arrays["depth_hr"])[arrays["mask_hr"]].mean()
    assert abs(float(stills[0][1]) / off - 1) < 0.2, "the diffusion begins near the interpolation"
    # A page of other models has nothing of it.
    assert 'id="diffusion' not in html and data(html)["diffusions"] == []


def test_the_diffusion_in_markdown(diffused):
    text = diffused.markdown.read_text("utf-8")
    assert "### The diffusion" in text and "**gone, x4, on easy**: The diffusion of gone cannot be shown" in text
    pictures = re.findall(r"!\[(The diffusion of dada.*?)\]\((.*?)\)", text)
    assert [link for _, link in pictures] == ["page_files/diffusion_0_1.png", "page_files/diffusion_0_1.webp"]
    assert re.search(r"to 8,000 iterations: MAE [\d.]+ before, [\d.]+ grey levels after", pictures[0][0])
    with Image.open(diffused.page.parent / pictures[1][1]) as moving:
        assert moving.n_frames > 20
    assert (diffused.pictures / "diffusion_0_1.webp").stat().st_size < 1.5e6


def test_which_methods_are_dada(tmp_path, bundle):
    """By what the record says, or its run, or the weights: of a run that moved, those of its new place."""
    import dataclasses

    from ahmf_jax.models import AHMF, DADA, DSDMSR, name_of
    from experiments.report.diffusion import is_dada
    from experiments.report.models import model_of, weights_of
    from experiments.report.stages import makes_stages

    run = write_run(tmp_path / "run")
    evaluation = read(write_evaluation(run / "evaluations" / "e", names=("a",), keep=0, weights="somewhere/else"))
    assert weights_of(evaluation) == run and not is_dada(evaluation)
    (run / "config.json").write_text(json.dumps({"trained": {"model": {"name": "dada"}}}))
    assert is_dada(evaluation)
    (run / "config.json").write_text("{")
    assert not is_dada(evaluation)
    elsewhere = dataclasses.replace(evaluation, folder=tmp_path)
    assert not is_dada(elsewhere)
    assert is_dada(dataclasses.replace(elsewhere, weights="dada_rgb"))
    assert is_dada(dataclasses.replace(elsewhere, weights="dada_rgb_x4"))
    assert not is_dada(dataclasses.replace(elsewhere, weights=str(bundle)))
    assert not makes_stages(dataclasses.replace(elsewhere, weights=str(bundle))), "an AHMF"
    assert not is_dada(dataclasses.replace(elsewhere, weights="dada_rgb", made={"model": "AHMF x4"}))
    for model in (AHMF(4), DADA(4), DADA(4, features="rgb"), DSDMSR(4)):
        recorded = dataclasses.replace(elsewhere, made={"model": model.summary()})
        assert model_of(recorded) == name_of(model), "its weights are gone"
        assert makes_stages(recorded) == isinstance(model, DSDMSR)


def test_the_diffusion_of_a_bundle(tmp_path):
    from ahmf_jax.export import save_bundle
    from ahmf_jax.upsample import dada_rgb
    from experiments.report.diffusion import diffusions

    save_bundle(tmp_path / "w.safetensors", dada_rgb(4))
    folder = write_evaluation(tmp_path / "e", names=("a", "b"), keep=1, weights=str(tmp_path / "w.safetensors"))
    (comparison,) = compare([read(folder)])
    assert diffusions([(comparison, ["b"])]) == [[]], "it was not kept"
    ((shown,),) = diffusions([(comparison, ["b", "a"])])
    assert shown.image == "a" and shown.found is not None
    assert shown.text.endswith("was measured. That was made by step 3: evaluate again.")


def test_a_diffusion_that_there_is_no_memory_for(tmp_path, monkeypatch):
    from experiments import diffusion_pictures
    from experiments.report.diffusion import diffusions

    (comparison,) = compare([read(write_diffused(tmp_path / "e", names=("a",)))])
    failures = [MemoryError("Unable to allocate 9 GiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB")]
    failures.append(jax.errors.JaxRuntimeError("INTERNAL: something else"))
    monkeypatch.setattr(diffusion_pictures, "watch", lambda *args, **options: (_ for _ in ()).throw(failures.pop(0)))
    for _ in range(2):
        ((shown,),) = diffusions([(comparison, ["a"])])
        assert shown.found is None and "dada_rgb cannot be shown: there is no memory for it here: free" in shown.text
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        diffusions([(comparison, ["a"])])


def test_errors_of_a_part_are_called_so(tmp_path, monkeypatch):
    from experiments.report import diffusion

    monkeypatch.setattr(diffusion, "SIDE", 32)
    fields = {"border": 0, "floor": "matlab_bicubic", "rounding": "uint8"}
    folder = write_diffused(tmp_path / "e", names=("a",), protocol_fields=fields)
    page = render(compare([read(folder)]), [], title="t")
    ((shown,),) = page.diffusions
    assert shown.found is not None and shown.found.truth.shape == (32, 32)
    measured = read(folder).images[0].metrics["mae"]
    assert shown.text.endswith(
        "The errors below are of this part and of depth that is not rounded; the MAE that was measured on all of a is "
        f"{measured:.4f} grey levels."
    )
    told = re.findall(r"iterations(?:: | <span>)(MAE.*?) [\d.]+<", section_of(page.html, "diffusion-0"))
    assert told == ["MAE of this part"] * 5
    (player,) = data(page.html)["diffusions"]
    assert player["curve"]["axis"] == "MAE of this part (grey levels)"
    assert "MAE of this part" in diffusion.described(shown)


def test_how_far_the_diffusions_are(tmp_path, monkeypatch, capsys):
    from experiments.report import diffusion, progress

    folders = [write_diffused(tmp_path / name, method=name, names=("a",)) for name in ("one", "two")]
    comparisons = compare([read(folder) for folder in folders])
    monkeypatch.setattr(progress, "LATER", 0.0)
    computed = {}
    diffusion.diffusions([(c, ["a"]) for c in comparisons], computed)
    told = [line.strip() for line in capsys.readouterr().err.split("\r")]
    parts = [(name, percent) for line in told for name, percent in re.findall(r"^diffusion (.*?): +(\d+)%", line)]
    assert parts[0] == ("1 of 2: one, x4, on a", "0") and parts[-1] == ("2 of 2: two, x4, on a", "100")
    assert len({percent for _, percent in parts}) > 10, "it moves within each"
    diffusion.diffusions([(c, ["a"]) for c in comparisons], computed)
    assert capsys.readouterr().err == "", "nothing was left to do"


def test_a_diffusion_is_computed_once_for_the_figure_and_the_page(ahmf, tmp_path, monkeypatch):
    from experiments import diffusion_pictures

    calls, watch = [], diffusion_pictures.watch
    monkeypatch.setattr(
        diffusion_pictures, "watch", lambda *args, **options: calls.append(1) or watch(*args, **options)
    )
    ended = ahmf(
        "report", write_diffused(tmp_path / "a", names=("art",)), "--out", tmp_path / "r.html", "--figure", "art"
    )
    assert ended.code == 0 and "r_art_diffusion.png" in ended.out, ended.err
    assert "art, all of its 64 x 48 pixels" in without_data((tmp_path / "r.html").read_text()) and calls == [1]
    # An image that is not the page's first is its diffusion's all the same.
    ended = ahmf("report", write_diffused(tmp_path / "b"), "--out", tmp_path / "b.html", "--figure", "easy")
    assert ended.code == 0 and "b_easy_diffusion.png" in ended.out, ended.err
    assert "<h3>dada_rgb, x4, on easy</h3>" in (tmp_path / "b.html").read_text() and calls == [1, 1]


def test_the_figure_of_a_diffusion(ahmf, tmp_path):
    # The second record says another scale than its images have.
    folders = [write_diffused(tmp_path / "a", names=("art",)), write_diffused(tmp_path / "b", names=("art",), scale=8)]
    ended = ahmf("report", *folders, "--out", tmp_path / "r.html", "--figure", "art", "--images", 0)
    assert ended.code == 0, ended.err
    names = [Path(line).name for line in ended.out.splitlines()[1:]]
    assert names == [
        "r_art_1.pdf",
        "r_art_1.png",
        "r_art_2.pdf",
        "r_art_2.png",
        "r_art_diffusion.pdf",
        "r_art_diffusion.png",
    ]
    folders = [folders[0], *(write_diffused(tmp_path / m, method=m, names=("art",)) for m in ("u/v", "u v"))]
    ended = ahmf("report", *folders, "--out", tmp_path / "s.html", "--figure", "art", "--images", 0)
    names = [Path(line).stem for line in ended.out.splitlines()[3::2]]
    assert names == [f"s_art_diffusion_x4_{which}" for which in ("dada_rgb", "u_v_1", "u_v_2")], "as on the page"
    with Image.open(tmp_path / "r_art_diffusion.png") as picture:
        assert picture.width > 2000
    assert "The diffusion" not in without_data((tmp_path / "r.html").read_text()), "no images were asked for"


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """The report of a DSDMSR x4 of random weights on two images, and of a method that has no stages."""
    from ahmf_jax.export import Trained, save_bundle
    from ahmf_jax.models import DSDMSR
    from experiments.benchmark_programs import random_params

    folder = tmp_path_factory.mktemp("staged")
    model, weights = DSDMSR(4), folder / "w.safetensors"
    save_bundle(weights, Trained(model, random_params(model), "range", "grey level", 255.0, "a test"))
    fields = {"names": ("easy", "hard"), "colour": False}
    own = {"weights": str(weights), "origin": "a test", "protocol_fields": {"degrade": {"kernel": "area"}}}
    folders = [
        write_evaluation(folder / "own", method="own", **fields, **own),
        write_evaluation(folder / "other", method="other", **fields),
    ]
    return report(folders, folder / "page.html")


def test_the_stages_of_a_model_are_shown_on_each_image(staged, html):
    from experiments.pictures import depth_colours

    text = staged.page.read_text("utf-8")
    section = section_of(text, "stages-0")
    assert re.findall("<(?:h3|summary)>(.*?)</", section) == ["own, x4, on hard", "own, x4, on easy"]
    assert "hard, all of its 64 x 48 pixels. Computed again for this page (a test): in the mean" in section
    assert "A stage's truth is made by area, as the low resolution." in section.replace("&#39;", "'")
    first = section.partition("<details>")[0]
    captions = [re.sub("<.*?>", "", caption) for caption in re.findall("<figcaption>(.*?)</figcaption>", first)]
    assert captions[0] == "low resolution 16 x 12"
    for caption, name in zip(captions[1:4], ("x2 32 x 24", "x4 64 x 48", "output 64 x 48"), strict=True):
        assert re.fullmatch(rf"{name} RMSE [\d.]+", caption), caption
    assert captions[4:] == [f"{of} of {stage}" for of in ("truth", "error") for stage in ("x2", "x4", "output")]
    pictures = [base64.b64decode(picture) for picture in re.findall(r'src="data:image/webp;base64,(.*?)"', first)]
    shown = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]
    assert [picture.shape[1] for picture in shown] == [16, *[32, 64, 64] * 3]
    arrays = scene("hard")
    known = arrays["depth_hr"][arrays["mask_hr"]]
    wanted = depth_colours(arrays["depth_hr"], known.min(), known.max(), arrays["mask_hr"])
    np.testing.assert_array_equal(shown[6], wanted, "the output's truth")
    assert 'href="#stages-0"' in text and 'id="stages' not in html


def test_the_stages_in_markdown(staged):
    from experiments.pictures import CAPTION, GAP

    text = staged.markdown.read_text("utf-8")
    assert "### The stages\n\n**own, x4, on hard**: hard, all of its 64 x 48 pixels." in text
    links = re.findall(r"!\[The stages of own, x4, on \w+: x2 RMSE .*?\]\((.*?)\)", text)
    assert len(links) == 2
    for link in links:
        with Image.open(staged.page.parent / link) as sheet:
            assert sheet.size == (4 * 4 * WIDTH + 3 * GAP, 3 * (4 * HEIGHT + CAPTION) + CAPTION + 1)


def test_the_stages_of_a_part_and_those_that_cannot_be_shown(staged, tmp_path, monkeypatch, capsys):
    from experiments import stage_pictures
    from experiments.report import stages

    monkeypatch.setattr(stage_pictures, "SIDE", 18)
    weights = str(staged.page.parent / "w.safetensors")
    folder = write_evaluation(tmp_path / "e", names=("a",), weights=weights, origin="another")
    (comparison,) = compare([read(folder)])
    ((shown,),) = stages.stages([(comparison, ["a"])])
    assert shown.found is not None and shown.found.is_part and shown.found.stages[-1].truth.shape == (16, 16)
    assert "a, of whose 64 x 48 pixels the 16 x 16 are shown, from x" in shown.text
    measured = read(folder).images[0].metrics["rmse"]
    assert shown.text.endswith(f"on all of a the output was measured as RMSE {measured:.3f} grey levels.")
    assert "That was made by another: evaluate again." in shown.text
    beyond = write_evaluation(tmp_path / "f", names=("a",), weights=weights, unit="furlong")
    ((shown,),) = stages.stages([(compare([read(beyond)])[0], ["a"])])
    assert shown.found is None
    assert shown.text.startswith("The stages of AHMF cannot be shown: the unit 'furlong' is not known")
    assert stages.stages([(comparison, ["b"])]) == [[]], "it was not kept"
    made = {"model": "DSDMSR x4, srcnn"}
    gone = write_evaluation(tmp_path / "g", names=("a",), weights=str(tmp_path / "gone.safetensors"), made=made)
    ((shown,),) = stages.stages([(compare([read(gone)])[0], ["a"])])
    assert shown.found is None and shown.text.startswith("The stages of AHMF cannot be shown: ")
    assert "gone.safetensors" in shown.text
    assert "stages" not in capsys.readouterr().err, "it is no terminal, and was done soon"


def test_the_gates_of_an_attention_are_shown_below_the_stages(tmp_path):
    from ahmf_jax.export import Trained, save_bundle
    from ahmf_jax.models import DSCSAN
    from experiments.benchmark_programs import random_params

    model, weights = DSCSAN(4, groups=1, blocks=1, features=4), tmp_path / "w.safetensors"
    save_bundle(weights, Trained(model, random_params(model), "range", "grey level", 255.0, "a test"))
    made = {"weights": str(weights), "made": {"model": model.summary()}}
    folder = write_evaluation(tmp_path / "own", names=("a",), colour=False, **made)
    section = section_of(report([folder], tmp_path / "page.html").page.read_text("utf-8"), "stages-0")
    strips = section.partition('<div class="steps strips"')[2]
    names = re.findall("<figcaption>(.*?) <span>", strips)
    assert names == [f"stage {stage}, group 1, cells of {cell}" for stage in (1, 2) for cell in (1, 2, 4)]
    assert len(re.findall(r"<span>mean 0\.\d\d, 0\.\d\d to 0\.\d\d</span>", strips)) == 6
    (picture, *others) = re.findall(r'src="data:image/webp;base64,(.*?)"', strips)
    assert len(others) == 5
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
    assert shown.shape[1] == 220 and len(np.unique(shown.reshape(-1, 3), axis=0)) == 2, "two channels"


def test_a_terminal_is_told_at_once_and_a_file_now_and_then(monkeypatch):
    from experiments.report import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, told in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with progress.bar("stages", 2) as bar:
            progress.say(bar, "the first")
            assert ("the first" in stream.getvalue()) == told
            bar.update()
            assert bool(stream.getvalue()) == told


def test_the_range_is_what_the_numbers_tell():
    from experiments.evaluations import ImageNumbers
    from experiments.report.stages import depth_range

    perfect = {"psnr": float("inf"), "rmse": 0.0}
    floor = {"psnr": 20 * np.log10(255 / 3.7), "rmse": 3.7}
    assert depth_range([ImageNumbers("a", perfect, floor, 1, 1)]) == 255
    assert np.isnan(depth_range([ImageNumbers("a", perfect, {"rmse": 2.0}, 1, 1)]))


def test_a_run_without_an_evaluation_has_its_curves(tmp_path):
    run = write_run(tmp_path / "only", steps=4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # being written
    (tmp_path / "r.tex").write_text("% ahmf report; of an earlier one")
    places = report([run], tmp_path / "r.html")
    html = places.page.read_text()
    loss, validation = data(html)["curves"]
    assert loss["series"][0]["y"] == [1, 1 / 2, 1 / 3, 1 / 4] and loss["log"]
    assert [s["name"] for s in validation["series"]] == ["only", "interpolation (only)"]
    assert f"ahmf evaluate {run} --dataset" in html and f"ahmf evaluate {run} --dataset" in places.markdown.read_text()
    assert not places.latex.exists()


def test_supervised_stages_have_curves_of_their_own(tmp_path):
    run = write_run(tmp_path / "staged", steps=2)
    terms = {"loss": 20.0, "loss_final": 5.0, "loss_x16": 4.0, "loss_x2": 0.0, "mae": 1.0}
    with (run / "metrics.jsonl").open("a") as file:
        for step in (3, 4):
            file.write(json.dumps({"step": step, **terms}) + "\n")
    places = report([run, write_run(tmp_path / "plain")], tmp_path / "r.html")
    loss, stages, validation = data(places.page.read_text())["curves"]
    assert [series["name"] for series in loss["series"]] == ["staged", "plain"]
    assert stages["title"] == "Training loss of each stage: staged" and not stages["log"], "one is 0"
    assert [(s["name"], s["run"], s["x"], s["y"]) for s in stages["series"]] == [
        ("x2", 0, [3, 4], [0, 0]),
        ("x16", 1, [3, 4], [4, 4]),
        ("output", 2, [3, 4], [5, 5]),
    ]
    assert validation["title"] == "Validation MAE (m)"
    assert "![Training loss of each stage: staged](r_files/curves_1.png)" in places.markdown.read_text()


def test_runs_of_one_name_are_told_apart(tmp_path):
    one, two = write_run(tmp_path / "a" / "x4"), write_run(tmp_path / "b" / "x4")
    write_evaluation(two / "evaluations" / "e")
    trainings = gather([one, two, one]).trainings
    assert [t.stages for t in trainings] == [{}, {}]
    assert [t.name for t in trainings] == [str(one), str(two)]
    assert [t.evaluated for t in trainings] == [False, True]


def test_a_long_log_is_thinned_to_means(tmp_path):
    run = write_run(tmp_path / "long", steps=2)
    lines = [{"step": i, "loss": float(i % 2)} for i in range(2 * POINTS)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss = read_training(run).loss
    assert len(loss.values) == POINTS and set(loss.values) == {0.5} and loss.steps[:2] == (1, 3)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n')
    assert read_training(run).loss.values == (2.0,)


def test_many_images_go_down_the_table(tmp_path):
    names = tuple(f"image_{i:02d}" for i in range(14))
    folder = write_evaluation(tmp_path / "e", names=names, keep=1)
    page = render(compare([read(folder)]), [], title="t")
    body = without_data(page.html)
    heads = [re.findall(r"<button type=\"button\">(.*?)</button>", t) for t in re.findall("<thead>(.*?)</thead>", body)]
    assert heads[0] == ["method", "MAE (grey levels)", "RMSE (grey levels)"]
    assert heads[1] == ["image", "matlab_bicubic", "AHMF"]
    assert body.count('<tr class="">') == 2 * len(names)
    assert page.shown == (("image_00",),)
    assert render(compare([read(folder)]), [], title="t", most=0).shown == ((),)


def test_evaluations_of_other_images_are_not_mixed(tmp_path, refused):
    one = write_evaluation(tmp_path / "one", names=("a",))
    other = write_evaluation(tmp_path / "other", names=("a",), method="B")
    arrays = read_image(other / "images" / "0000.npz")
    arrays["depth_hr"] += 1
    from experiments.evaluations import save_image

    save_image(other / "images" / "0000.npz", arrays)
    refused(
        "report", one, other, "--out", tmp_path / "r.html", said=r"other: its image a is another than that of .*one: "
    )


def test_the_command(ahmf, tmp_path, folders, monkeypatch):
    import webbrowser

    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(shown.append(url)) or True)
    out = tmp_path / "page.html"
    ended = ahmf("report", *folders, folders[1], "--out", out, "--images", 1, "--open")
    assert ended.code == 0, ended.err
    assert re.fullmatch(rf"{out}: \d\.\d MB; page.md beside it\n", ended.out)
    assert shown == [out.as_uri()]
    first = out.read_text()
    assert len(data(first)["viewers"][0]["images"]) == 1
    (tmp_path / "page_files" / "stale.png").touch()
    assert ahmf("report", folders[0], "--out", out).code == 0, "a report is replaced"
    assert out.read_text() != first and not (tmp_path / "page_files" / "stale.png").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "page.md", "page.tex", "page_files"]
    (tmp_path / "mine").mkdir()
    ended = ahmf("report", folders[1], "--out", tmp_path / "mine", "--images", 0)
    assert ended.code == 0 and ended.out.startswith(f"{tmp_path / 'mine' / 'report.html'}: "), ended.err
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "report.html",
        "report.md",
        "report.tex",
        "report_files",
    ]


def test_the_figure_of_an_image(ahmf, refused, tmp_path):
    folder = write_evaluation(tmp_path / "e", names=(EVIL,))
    out = tmp_path / "r.html"
    ended = ahmf("report", folder, "--out", out, "--figure", EVIL, "--crop", "40,16,8,8", "4,8,16,12")
    assert ended.code == 0, ended.err
    _, pdf, png = ended.out.splitlines()
    assert pdf == str(tmp_path / "r__script_alert_x_script_.pdf") and png == pdf.removesuffix("pdf") + "png"
    assert (tmp_path / pdf).read_bytes().startswith(b"%PDF")
    with Image.open(png) as picture:
        assert picture.width > 500
    before = out.read_bytes()
    # A page whose name has a dot takes nothing from its neighbours, and two subjects have a figure each.
    x8 = write_evaluation(tmp_path / "x8", names=(EVIL, "art"), scale=8)
    (tmp_path / "r.pdf").write_text("a thesis")
    ended = ahmf("report", folder, x8, "--out", tmp_path / "r.v2.html", "--figure", EVIL)
    assert ended.code == 0, ended.err
    assert [Path(line).name for line in ended.out.splitlines()[1:]] == [
        f"r.v2__script_alert_x_script__{i}.{suffix}" for i in (1, 2) for suffix in ("pdf", "png")
    ]
    assert (tmp_path / "r.pdf").read_text() == "a thesis"
    foreign = tmp_path / "r_art.png"
    foreign.write_text("ahmf report")
    refused("report", x8, "--out", out, "--figure", "art", said="r_art.png: is there and no figure of `ahmf report`")
    assert foreign.read_text() == "ahmf report" and not (tmp_path / "r_art.pdf").exists()
    # Whoever compares two methods is told that one of them is missing.
    less = write_evaluation(tmp_path / "less", method="B", names=(EVIL,), keep=0)
    refused(
        "report", folder, less, "--out", out, "--figure", EVIL, said="less: has not kept .*evaluate again with --keep"
    )
    refused(
        "report", folder, "--out", out, "--figure", "art", said="--figure art: no evaluation kept it: choose one of"
    )
    refused("report", folder, "--out", out, "--figure", EVIL, "--crop", "60,0,8,8", said="lies outside")
    assert out.read_bytes() == before


def test_what_is_refused(refused, tmp_path, folders, contents):
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "run")
    bad = write_evaluation(tmp_path / "bad", names=NAMES[:1])
    before = contents(tmp_path)
    out = tmp_path / "r.html"
    refused("report", tmp_path / "empty", "--out", out, said="empty holds no evaluation: `ahmf evaluate")
    refused("report", tmp_path / "none", "--out", out, said="none holds no evaluation: check the name")
    refused("report", "--out", out, said="name a run's folder")
    refused("report", run, "--out", tmp_path / "r.pdf", said=r"r.pdf: name a page, as in --out report.html, or a f")
    refused("report", run, "--out", tmp_path / "no" / "r.html", said="there is no folder")
    refused("report", run, "--out", out, "--images", -1, said="--images -1: must be 0 or more")
    refused("report", run, "--out", out, "--crop", "1,2,3,4", said="--crop belongs to --figure")
    refused("report", run, "--out", out, "--figure", "x", "--crop", "1,2,3", said="--crop 1,2,3: give X,Y,W,H")
    refused("report", run, "--out", out, "--figure", "x", "--crop", "1,2,0,4", said="W and H 1 or more")
    assert contents(tmp_path) == before
    for name in ("r.html", "r.md", "r.tex", "r_files"):
        if name == "r_files":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("# A thesis\n\nMade with `ahmf report`.\n<!-- ahmf report -->\n% ahmf report;")
        refused("report", run, "--out", out, said=rf"{name} is there and no report")
        (tmp_path / name).rmdir() if name == "r_files" else (tmp_path / name).unlink()
    (bad / "images" / "0000.npz").write_bytes(b"PK")
    refused("report", bad, "--out", out, said=r"0000.npz cannot be read .*: evaluate again")
    (bad / "evaluation.json").write_text("{}")
    refused("report", bad, "--out", out, said="evaluation.json is damaged")
    (run / "metrics.jsonl").write_text("{}\n[1]\n")
    refused("report", run, "--out", out, said="metrics.jsonl is damaged .*: restore it")
    (run / "metrics.jsonl").write_text("")
    (run / "config.json").write_text("{")
    refused("report", run, "--out", out, said="config.json is damaged .*: restore it")
    assert not out.exists()
