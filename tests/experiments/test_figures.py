"""The figure for a paper: what is drawn is what was measured, on one scale; text is text; always the same bytes."""

import re
import zlib

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from experiments import figures
from experiments.evaluations import read, save_image, write
from experiments.figures import Crop, choose_crops, figure, worst_part
from tests.experiments.evaluations_of import evaluation

HEIGHT, WIDTH, SCALE = 32, 48, 4


def maps(error, seed=0):
    """The arrays of an image whose prediction is off by `error`, and whose interpolation is off in two places."""
    rng = np.random.default_rng(seed)
    truth = np.tile(np.linspace(50, 200, WIDTH, dtype=np.float32), (HEIGHT, 1))
    floor = truth.copy()
    floor[3:9, 30:38] += 40
    floor[20:26, 4:10] -= 20
    mask = np.ones(truth.shape, bool)
    mask[0, :5] = False
    return {
        "guide": rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        "depth_lr": truth[::SCALE, ::SCALE],
        "mask_lr": np.ones((HEIGHT // SCALE, WIDTH // SCALE), bool),
        "depth_hr": truth,
        "mask_hr": mask,
        "prediction": truth + np.float32(error),
        "floor": floor,
    }


@pytest.fixture
def recorded(tmp_path):
    """Makes the record of a method, which keeps the image "a" and measures "b" too."""

    def make(method, error, seed=0, **fields):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        images = [("a", HEIGHT, WIDTH), ("b", HEIGHT, WIDTH)]
        values = {"a": {"mae": abs(error)}, "b": {"mae": 1.0}, "mean": {"mae": 1.0}}
        write(
            evaluation(images, "float", SCALE, method=method, values=values, **fields), folder, {0: maps(error, seed)}
        )
        return read(folder)

    return make


def test_choose_crops_where_the_errors_are():
    error = np.zeros((60, 90), np.float32)
    error[40:46, 70:76] = 5
    error[5:9, 8:12] = 9
    error[30, 30] = np.nan  # unknown
    crops = choose_crops(error)
    assert [crop[2:] for crop in crops] == [(10, 10), (10, 10)]
    first, second = crops
    assert first.x <= 70 and first.x + 10 >= 76 and first.y <= 40 and first.y + 10 >= 46
    assert second.x <= 8 and second.x + 10 >= 12 and second.y <= 5 and second.y + 10 >= 9
    # Never outside, never over one another, and no more than there is room for.
    error[:] = 1
    all_ = choose_crops(error, count=100)
    taken = np.zeros(error.shape, int)
    for crop in all_:
        assert crop.x + crop.width <= 90 and crop.y + crop.height <= 60
        taken[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] += 1
    assert taken.max() == 1 and len(all_) > 20
    assert choose_crops(np.ones((4, 5), np.float32)) == [Crop(0, 0, 4, 4)]


def test_the_part_where_the_errors_are():
    error = np.zeros((70, 90), np.float32)
    error[40:60, 65:80] = 5
    error[3:5, 3:5] = 9
    error[0, 40] = np.nan
    part = worst_part(error, 32, 8)
    assert part.x % 8 == part.y % 8 == 0 and part[2:] == (32, 32)
    assert part.x <= 65 and part.x + 32 >= 80 and part.y <= 40 and part.y + 32 >= 60
    assert worst_part(error, 96, 32) == Crop(0, 0, 90, 70)
    assert worst_part(error, 80, 8) == Crop(0, 0, 80, 70), "either part holds all; the first is taken"


def drawn(evaluations, crops, largest=30.0):
    return figures._layout(figures._drawing(evaluations, "a"), crops, largest)


def test_what_is_drawn_is_what_was_measured(recorded):
    methods = [recorded("mine", 3.0), recorded("a_$x$_b", -6.0)]
    crops = [Crop(28, 2, 10, 8), Crop(2, 18, 12, 10)]
    axes = drawn(methods, crops).axes
    panels = [one for one in axes if one.images]
    bars = [one.get_ylabel() for one in axes if not one.images]
    assert bars == ["depth (grey levels)", "error (grey levels)"]
    # Guide, LR, floor, two methods, truth; three of them with errors.
    assert [one.get_title() for one in panels[:6]] == ["guide", "LR (x4)", "matlab_bicubic", "mine", "a_$x$_b", "truth"]
    assert len(panels) == 3 * (6 + 3)
    errors = panels[6:9]
    assert [one.get_xlabel() for one in errors] == ["2.000", "3.000", "6.000"]
    found = maps(3.0)
    for one, error in zip(errors, (np.abs(found["floor"] - found["depth_hr"]), 3.0, 6.0), strict=True):
        shown = one.images[0].get_array()
        np.testing.assert_array_equal(shown.mask, ~found["mask_hr"])
        np.testing.assert_allclose(shown[1:], np.broadcast_to(error, (HEIGHT, WIDTH))[1:], rtol=1e-5)
    # One scale for all errors and one for all depth, the truth's.
    limits = {one.images[0].get_clim() for row in (6, 15, 24) for one in panels[row : row + 3]}
    assert limits == {(0.0, 30.0)}
    assert {one.images[0].get_clim() for one in panels[1:6] + panels[10:15]} == {(50.0, 200.0)}
    # The crops, of the low resolution too.
    for one in panels[9:18]:
        assert one.get_xlim() == (28, 38) and one.get_ylim() == (10, 2)
    assert panels[1].images[0].get_extent() == [0, WIDTH, HEIGHT, 0]
    assert panels[1].images[0].get_array().shape == (HEIGHT // SCALE, WIDTH // SCALE)


def test_without_colour_there_is_no_guide(recorded, tmp_path):
    mine = recorded("mine", 3.0)
    arrays = maps(3.0)
    save_image(mine.kept()["a"], arrays | {"guide": arrays["guide"][..., :0]})
    titles = [column.title for column in figures._drawing([mine], "a").columns]
    assert titles == ["LR (x4)", "matlab_bicubic", "mine", "truth"]
    assert drawn([mine], [Crop(28, 2, 10, 8)]).axes[0].images[0].get_extent() == [0, WIDTH, HEIGHT, 0]
    pdf, _ = figure([mine], "a", [Crop(28, 2, 10, 8)], tmp_path / "x")  # which lies outside the low resolution
    assert pdf.stat().st_size > 1000


def test_the_interpolation_stands_there_once(recorded):
    values = {name: {"mae": 2.0} for name in ("a", "b", "mean")}
    floor = recorded("bicubic", 2.0, floors=values)
    assert figures._drawing([floor], "a").columns[2].title == "matlab_bicubic"
    values["b"] = {"mae": 1.0}
    values["mean"] = {"mae": 1.0}
    same = recorded("bicubic", 2.0, floors=values)
    assert [column.title for column in figures._drawing([same], "a").columns] == [
        "guide",
        "LR (x4)",
        "bicubic",
        "truth",
    ]


def test_pdf_and_png(recorded, tmp_path):
    methods = [recorded("mine", 3.0)]
    places = figure(methods, "a", [], tmp_path / "art.v1")
    assert [place.name for place in places] == ["art.v1.pdf", "art.v1.png"]
    pdf, png = (place.read_bytes() for place in places)
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf
    for entry in (b"CreationDate", b"ModDate", b"/Producer"):
        assert entry not in pdf, entry
    streams = [
        zlib.decompressobj().decompress(part)
        for part in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
        if part[:1] == b"x"
    ]
    # Letters as they are shown, one by one or in words, of one byte or two.
    page = next(stream for stream in streams if b"BT" in stream and b"Tf" in stream)
    texts = b"".join(re.findall(rb"\(([^()]*)\)", page)).replace(b"\0", b"")
    assert b"/ToUnicode" in pdf
    for text in (b"guide", b"mine", b"truth", b"3.000"):
        assert text in texts, text
    picture = np.asarray(Image.open(places[1]).convert("RGB"))
    assert picture.shape[1] == 2148 and picture.std() > 20
    again = figure(methods, "a", [], tmp_path / "again")
    assert (again[0].read_bytes(), again[1].read_bytes()) == (pdf, png)
    # An earlier figure is replaced, and nothing else, whatever a program has made it that writes the same formats.
    assert figure(methods, "a", [Crop(0, 0, 8, 8)], tmp_path / "again") == again
    for foreign, suffix in ((b"%PDF-1.7 ahmf report", "pdf"), (b"", "pdf"), (b"\x89PNG ahmf report", "png")):
        place = tmp_path / f"thesis.{suffix}"
        place.write_bytes(foreign)
        with pytest.raises(InputError, match=rf"thesis.{suffix}: is there and no figure of `ahmf report`: move it"):
            figure(methods, "a", [], tmp_path / "thesis")
        assert [p.name for p in tmp_path.glob("thesis*")] == [place.name] and place.read_bytes() == foreign
        place.unlink()


def test_what_cannot_be_drawn(recorded, tmp_path):
    mine = recorded("mine", 3.0)
    with pytest.raises(InputError, match=r"has not kept b, but a: evaluate again with --keep -1"):
        figure([mine], "b", [], tmp_path / "x")
    with pytest.raises(InputError, match="of 2 subjects"):
        figure([mine, recorded("mine", 3.0, unit="m")], "a", [], tmp_path / "x")
    for crop in ((40, 0, 9, 4), (0, 30, 4, 3), (-1, 0, 4, 4), (0, 0, 0, 4)):
        with pytest.raises(InputError, match=r"crop .*: lies outside a, which is 48 wide and 32 high"):
            figure([mine], "a", [crop], tmp_path / "x")
    # Another guide, or another truth of another size.
    with pytest.raises(InputError, match=r"its image a is another than that of .*: evaluate both on the same data"):
        figure([mine, recorded("theirs", 3.0, seed=1)], "a", [], tmp_path / "x")
    small = recorded("small", 3.0)
    arrays = {name: array[: len(array) // 2] for name, array in maps(3.0).items()}
    save_image(small.kept()["a"], arrays)
    with pytest.raises(InputError, match=r"depth_hr is of shape \(16, 48\), and the record says \(32, 48\)"):
        figure([mine, small], "a", [], tmp_path / "x")
    with pytest.raises(InputError):
        figure([mine], "a", [], tmp_path / "nowhere" / "x")
    assert not list(tmp_path.glob("x*"))


def test_a_method_without_error_is_drawn(recorded, tmp_path):
    """A floor without error has no scale of its own."""
    perfect = recorded("mine", 0.0)
    arrays = maps(0.0) | {"floor": maps(0.0)["depth_hr"]}
    write(perfect, tmp_path / "perfect", {0: arrays})
    assert figure([read(tmp_path / "perfect")], "a", [], tmp_path / "x")[0].stat().st_size > 1000
