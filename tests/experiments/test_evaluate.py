"""Evaluation: numbers that can be worked out by hand, and the published protocol's floor."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, open_pairs
from data_pipelines.degrade import Degradation
from experiments import evaluate
from experiments.config import DataConfig, TrainConfig
from experiments.evaluate import PROTOCOLS, Protocol

TEST10 = Path(__file__).parents[3] / "shared" / "data" / "test10"


class Fake:
    """Stands in for a network: a function of the batch."""

    def __init__(self, scale, function):
        self.scale, self.batch = scale, function


def bicubic(batch):
    return resample.resize(batch["depth_lr"], batch["guide"].shape[1:3], "matlab_bicubic")


@pytest.fixture
def pairs(tmp_path):
    """Two images of 4 x 4 whose 2 x 2 blocks begin with 100 and go on 10 away; one more pixel is 40 away."""
    block = np.array([[100, 110], [110, 110]], np.uint8)
    first, second = np.tile(block, (2, 2)), np.tile(block, (2, 2))
    second[1, 1] = 140
    for name, depth in (("a", first), ("b", second)):
        Image.fromarray(depth).save(tmp_path / f"{name}_depth.png")
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}_rgb.png")
    return tmp_path


NEAREST = Protocol(Degradation("nearest_first"), floor="nearest_first")


def test_rows_by_hand(pairs):
    rows = evaluate.evaluate(Fake(2, lambda b: np.full_like(b["depth_hr"], 105.4 / 255)), open_pairs(pairs), NEAREST)
    a, b, mean = rows
    assert [r.name for r in rows] == ["a", "b", "mean"]
    # The prediction is rounded to 105: 5 away everywhere, and once 35. The floor is 100 everywhere.
    assert (a.mae, a.rmse) == (pytest.approx(5), pytest.approx(5))
    assert a.psnr == pytest.approx(20 * math.log10(51))
    assert (a.floor_mae, a.floor_rmse) == (pytest.approx(7.5), pytest.approx(math.sqrt(75)))
    assert (b.mae, b.rmse) == (pytest.approx(110 / 16), pytest.approx(math.sqrt((15 * 25 + 35**2) / 16)))
    assert b.floor_mae == pytest.approx((11 * 10 + 40) / 16)
    # Every error of the network reaches 5; of the floor's, the ones beside each block's first pixel.
    assert (a.pe, b.pe, a.floor_pe, b.floor_pe) == (100, 100, 75, 75)
    # The mean of the images' measures, not the measure of all pixels.
    for name in ("mae", "rmse", "psnr", "pe", "floor_mae", "floor_rmse", "floor_psnr", "floor_pe"):
        assert getattr(mean, name) == pytest.approx((getattr(a, name) + getattr(b, name)) / 2)


def test_rounding_and_border_are_the_protocols(pairs):
    dataset = open_pairs(pairs)
    fake = Fake(2, lambda b: np.full_like(b["depth_hr"], 105.4 / 255))
    unrounded = evaluate.evaluate(fake, dataset, dataclasses.replace(NEAREST, rounding="none"))
    assert unrounded[0].mae == pytest.approx((12 * 4.6 + 4 * 5.4) / 16, rel=1e-5)
    # Inside a border of one pixel are the four middle ones: 110 110 / 110 100, in b 140 110 / 110 100.
    inside = evaluate.evaluate(fake, dataset, dataclasses.replace(NEAREST, border=1))
    assert inside[0].mae == pytest.approx(5) and inside[1].mae == pytest.approx((35 + 5 + 5 + 5) / 4)
    assert inside[0].floor_mae == pytest.approx(7.5)
    clipped = evaluate.evaluate(Fake(2, lambda b: np.full_like(b["depth_hr"], 2.0)), dataset, NEAREST)
    assert clipped[0].mae == pytest.approx((12 * 145 + 4 * 155) / 16)  # 255, not 510
    with pytest.raises(InputError, match=r"a is smaller than the protocol's border of 6 pixels twice"):
        evaluate.evaluate(fake, dataset, PROTOCOLS["b6"])


@pytest.mark.parametrize("protocol", ["ahmf_middlebury", "float"])
def test_bicubic_in_place_of_the_network_is_the_floor(pairs, protocol):
    for row in evaluate.evaluate(Fake(2, bicubic), open_pairs(pairs), PROTOCOLS[protocol]):
        assert (row.mae, row.rmse, row.psnr) == (row.floor_mae, row.floor_rmse, row.floor_psnr)
        assert row.mae > 1


def test_unknown_pixels_do_not_count(pairs):
    depth = np.asarray(Image.open(pairs / "b_depth.png")).copy()
    depth[1, 1] = 0
    Image.fromarray(depth).save(pairs / "b_depth.png")
    dataset = open_pairs(pairs, names=["b"], invalid=0)
    rows = evaluate.evaluate(Fake(2, lambda b: np.full_like(b["depth_hr"], 105 / 255)), dataset, NEAREST)
    assert rows[0].mae == pytest.approx(5)


def test_noise_differs_between_images_and_not_between_runs(pairs):
    seen = []

    def keep(batch):
        seen.append(batch["depth_lr"])
        return batch["depth_hr"]

    protocol = Protocol(Degradation("nearest_first", noise_sigma=0.1), "nearest_first")
    for _ in range(2):
        evaluate.evaluate(Fake(2, keep), open_pairs(pairs), protocol)
    np.testing.assert_array_equal(seen[0], seen[2])
    assert (seen[0] != seen[1]).all() and "noise 0.1 of the range" in str(protocol)


class Network:
    """Stands in for a module: everywhere `value`, in units of the range."""

    scale = 2

    def apply(self, variables, depth_lr, guide):
        import jax.numpy as jnp

        return jnp.full((*guide.shape[:3], 1), variables["params"]["value"]), {}


def validated(dataset, protocol=NEAREST, places=None, **options):
    examples = ((i, dataset[i]) for i in (range(len(dataset)) if places is None else places))
    params = {"value": np.float32(105.4 / 255)}
    return evaluate.validate(Network(), "range", params, examples, dataset.info, protocol, **options)


@pytest.mark.parametrize("rounding", ["uint8", "none"])
def test_a_validation_is_the_mean_row_of_an_evaluation(pairs, rounding):
    dataset, protocol = open_pairs(pairs), dataclasses.replace(NEAREST, rounding=rounding)
    *_, mean = evaluate.evaluate(Fake(2, lambda b: np.full_like(b["depth_hr"], 105.4 / 255)), dataset, protocol)
    means = validated(dataset, protocol).means
    assert means.keys() == {"mae", "rmse", "floor_mae", "floor_rmse"}
    for name, value in means.items():
        assert value == pytest.approx(getattr(mean, name), rel=1e-6), name
    assert means["floor_mae"] == pytest.approx((7.5 + 150 / 16) / 2)


def test_what_processes_find_adds_up(pairs):
    dataset = open_pairs(pairs)
    shares = [validated(dataset, places=[i]) for i in range(2)]
    again = [evaluate.Validation(**json.loads(json.dumps(share.sums))) for share in shares]
    total = again[0] + again[1] + evaluate.Validation()  # a process more than there are images
    assert total == validated(dataset) and total.images == 2
    assert shares[0].means["mae"] != total.means["mae"]


def test_the_floor_is_measured_once_a_run(pairs, monkeypatch):
    dataset, floors, calls = open_pairs(pairs), {}, []
    interpolate = evaluate.interpolate
    monkeypatch.setattr(evaluate, "interpolate", lambda *args: calls.append(args) or interpolate(*args))
    first, second = (validated(dataset, floors=floors) for _ in range(2))
    assert len(calls) == 2 and first == second == validated(dataset)


def test_a_signal_ends_a_validation_before_the_next_image(pairs):
    class Stop:
        requested = False

    def examples():
        yield 0, dataset[0]
        Stop.requested = True
        yield 1, dataset[1]
        raise AssertionError

    dataset, params = open_pairs(pairs), {"value": np.float32(0)}
    assert evaluate.validate(Network(), "range", params, examples(), dataset.info, NEAREST, stop=Stop) is None
    Stop.requested = False
    assert validated(dataset, stop=Stop).images == 2


def test_an_image_without_a_known_pixel_is_not_counted(pairs):
    depth = np.zeros((4, 4), np.uint8)
    depth[0, 0] = 100  # outside the border
    Image.fromarray(depth).save(pairs / "b_depth.png")
    dataset, inside = open_pairs(pairs, invalid=0), dataclasses.replace(NEAREST, border=1)
    found = validated(dataset, inside, samples=2)
    assert found.images == 1 and found.means["mae"] == pytest.approx(5)
    assert [sample.name for sample in found.samples] == ["a", "b"]
    with pytest.raises(InputError, match=r"no image to validate on has known depth: choose another --data.validation"):
        validated(dataset, inside, places=[1]).means  # noqa: B018


def test_the_first_images_are_kept_with_what_was_made_of_them(pairs):
    dataset = open_pairs(pairs)
    assert validated(dataset).samples == ()
    (sample,) = validated(dataset, samples=1).samples
    assert sample.name == "a" and sample.prediction.shape == (1, 4, 4, 1)
    np.testing.assert_allclose(sample.prediction, 105.4 / 255, rtol=1e-6)
    np.testing.assert_allclose(sample.batch["depth_hr"][0, ..., 0] * 255, dataset[0].depth, rtol=1e-6)


def test_chance_in_a_validation_is_that_of_an_evaluation(pairs):
    dataset, seen = open_pairs(pairs), []
    protocol = Protocol(Degradation("nearest_first", noise_sigma=0.1), "nearest_first")
    evaluate.evaluate(Fake(2, lambda b: seen.append(b["depth_lr"]) or b["depth_hr"]), dataset, protocol)
    (second,) = validated(dataset, protocol, places=[1], samples=1).samples
    np.testing.assert_array_equal(second.batch["depth_lr"], seen[1])


def test_the_protocol_of_a_validation(pairs, data_dir):
    dataset = open_pairs(pairs)
    config = TrainConfig(data=DataConfig(degrade=Degradation("area")))
    assert evaluate.validation_protocol(config, dataset) == Protocol(Degradation("area"), rounding="none")
    for name, protocol in PROTOCOLS.items():
        config = dataclasses.replace(config, validation_protocol=name)
        assert evaluate.validation_protocol(config, dataset) == protocol
    config = TrainConfig(validation_protocol="ahmf_middlebury")
    with pytest.raises(InputError, match=r"scenes has a range of 10 m: use --validation-protocol float"):
        evaluate.validation_protocol(config, open_dataset("scenes", "test", data_dir))
    with pytest.raises(InputError, match=r"a is smaller than the protocol's border of 6 pixels twice"):
        validated(dataset, PROTOCOLS["b6"])


def test_a_range_that_cannot_be_rounded(data_dir):
    dataset = open_dataset("scenes", "test", data_dir)
    with pytest.raises(InputError, match=r"scenes has a range of 10 m: use --protocol float"):
        evaluate.evaluate(Fake(4, bicubic), dataset, PROTOCOLS["ahmf_middlebury"])


def test_the_command_prints_and_writes_what_it_measured(ahmf, run, tmp_path, data_dir):
    out = tmp_path / "numbers.json"
    args = ("evaluate", run, "--dataset", "scenes", "--protocol", "float", "--data-dir", data_dir, "--out", out)
    ended = ahmf(*args)
    assert ended.code == 0, ended.err
    written = json.loads(out.read_text())
    assert [image["name"] for image in written["images"]] == ["test-00000", "test-00001", "mean"]
    assert {k: written[k] for k in ("scale", "dataset", "split", "unit")} == {
        "scale": 4,
        "dataset": "scenes",
        "split": "test",
        "unit": "m",
    }
    assert written["protocol"]["rounding"] == "none" and written["protocol"]["degrade"]["kernel"] == "matlab_bicubic"
    floors = evaluate.evaluate(Fake(4, bicubic), open_dataset("scenes", "test", data_dir), PROTOCOLS["float"])
    for image, floor in zip(written["images"], floors, strict=True):
        assert image["floor_mae"] == pytest.approx(floor.mae, rel=1e-6)
        line = next(line for line in ended.out.splitlines() if line.startswith(image["name"]))
        mae, floor_mae = re.match(r"\S+ +(\S+) \( *(\S+)\)", line).groups()
        assert float(mae) == pytest.approx(image["mae"], rel=1e-3)
        assert float(floor_mae) == pytest.approx(image["floor_mae"], rel=1e-3)
    assert "scenes, test" in ended.out and "m; in brackets the floor" in ended.out
    assert str(PROTOCOLS["float"]) in ended.out


def test_pe_is_in_parts_of_the_range():
    target = np.zeros((1, 2, 2, 1), np.float32)
    batch = {"depth_hr": target, "mask_hr": np.ones(target.shape, bool)}
    # Of 10 m, 5 grey levels of 255 are 0.196 m.
    prediction = np.array([0.0, 0.0195, 0.0197, 0.5], np.float32).reshape(target.shape)
    assert evaluate.measure(prediction, batch, 10.0, PROTOCOLS["float"]).pe == 50


@pytest.mark.parametrize("name", ["bicubic", "matlab_bicubic", "torch_bicubic"])
def test_an_interpolation_in_place_of_weights(ahmf, refused, data_dir, tmp_path, name):
    out = tmp_path / "numbers.json"
    given = ("evaluate", name, "--dataset", "scenes", "--data-dir", data_dir, "--protocol", "float")
    ended = ahmf(*given, "--scale", 8, "--out", out)
    assert ended.code == 0 and f"{name} (interpolation), x8, on scenes" in ended.out
    mean = json.loads(out.read_text())["images"][-1]
    assert (mean["mae"] == mean["floor_mae"]) == (name != "torch_bicubic")
    refused(*given, said=r"fits any scale: give one with --scale")
    refused(*given, "--scale", 0, said=r"^ahmf: --scale 0: must be at least 1$")


def test_what_the_command_refuses(refused, ahmf, run, pairs, data_dir, contents):
    before = contents(pairs)
    given = ("evaluate", run, "--data-dir", data_dir)
    refused(*given, "--dataset", "scenes", "--protocol", "ahmf_middlebury", said=r"10 m: use --protocol float")
    refused(*given, "--dataset", "scenes", "--scale", "2", said=r"--scale 2: .* is a model of x4: leave it out")
    refused(*given, "--dataset", "scenes", "--split", "tset", said=r"no split 'tset': it has .*test")
    refused(*given, "--dataset", "middlebury", said=r"ahmf data prepare middlebury --from DIR")
    refused(*given, "--dataset", pairs, "--pairs.names", "zebra", said=r"zebra_depth.png: is missing")
    refused(*given, "--dataset", pairs, "--out", pairs / "no" / "x.json", said=r"x.json: there is no folder")
    refused(*given, "--dataset", pairs, "--protocol", "b6", said=r"border of 6")
    said = r"no folder 'tset' in it \(its folders: none\): name one of its folders, or leave --split out"
    refused(*given, "--dataset", pairs, "--split", "tset", said=said)
    (pairs / "b_rgb.png").write_bytes(before["b_rgb.png"][:-20])
    refused(*given, "--dataset", pairs, said=r"b_rgb.png: .*cut short")
    assert sorted(contents(pairs)) == sorted(before)


def test_the_split_of_a_folder_and_the_protocol_follow_the_data(ahmf, bundle, pairs, data_dir, tmp_path):
    out = tmp_path / "x.json"

    def measured(*args):
        ended = ahmf("evaluate", bundle, "--data-dir", data_dir, "--out", out, *args)
        assert ended.code == 0, ended.err
        written = json.loads(out.read_text())
        first, second, *_ = ended.out.splitlines()
        return first.split(", ")[-1], second.split(":")[0], written["split"], len(written["images"]) - 1

    assert measured("--dataset", pairs) == ("all of it", "protocol ahmf_middlebury", None, 2)
    assert measured("--dataset", pairs, "--pairs.range", 200)[1] == "protocol float"
    assert measured("--dataset", "scenes") == ("test", "protocol float", "test", 2)
    (pairs / "test").mkdir()
    for file in pairs.glob("b_*"):
        file.rename(pairs / "test" / file.name)
    assert measured("--dataset", pairs) == ("test", "protocol ahmf_middlebury", "test", 1)
    assert measured("--dataset", pairs, "--split", "test")[3] == 1


def test_a_run_is_measured_on_what_it_was_trained_for(ahmf, refused, recipe, run, bundle, data_dir, tmp_path):
    noisy, out = tmp_path / "noisy", tmp_path / "x.json"
    degrade = ("--data.degrade.kernel", "area", "--data.degrade.dropouts", 0.25, "--steps", 1)
    ended = ahmf("train", recipe, *degrade, "--data-dir", data_dir, "--out", noisy)
    assert ended.code == 0, ended.err
    given = ("--dataset", "scenes", "--split", "validation", "--data-dir", data_dir)

    ended = ahmf("evaluate", noisy, *given, "--protocol", "run", "--out", out)
    assert ended.code == 0 and "note: " not in ended.out, ended
    assert "protocol run: LR by area, dropouts 0.25, floor by matlab_bicubic, output not rounded, border 0" in ended.out
    # The one image of the run's own validation, made alike.
    logged = [json.loads(line) for line in (noisy / "metrics.jsonl").read_text().splitlines()]
    mean = json.loads(out.read_text())["images"][-1]
    assert mean["mae"] == pytest.approx(logged[-1]["validation_mae"], rel=1e-5)
    assert mean["floor_mae"] == pytest.approx(logged[-1]["validation_floor_mae"], rel=1e-6)

    ended = ahmf("evaluate", noisy, *given)
    said = "note: trained on LR by area, dropouts 0.25, measured on LR by matlab_bicubic; see --protocol run"
    assert ended.out.splitlines()[2] == said
    assert "note: " not in ahmf("evaluate", run, *given).out  # the protocol is what it was trained on
    assert "note: " not in ahmf("evaluate", bundle, *given).out  # nothing is known
    for weights in (bundle, "bicubic"):
        refused("evaluate", weights, *given, "--protocol", "run", said=r"--protocol run: \S+ is no run's folder, and")


def test_a_published_split_comes_with_its_note(ahmf, data_dir, monkeypatch):
    from data_pipelines.datasets import splits

    named = splits.NamedSplits("paper", "a paper", {"test": ["test-00001"]}, note="At another size.")
    monkeypatch.setattr(splits, "protocols", lambda builder: {"paper": named})
    given = ("evaluate", "bicubic", "--scale", 3, "--dataset", "scenes", "--data-dir", data_dir, "--split")
    _, _, note, sizes, *table = ahmf(*given, "paper/test").out.splitlines()
    assert note == "note: At another size."
    assert sizes.startswith("images measured (height x width): 1 of 63 x 78; ") and len(table) == 3
    assert "note: " not in ahmf(*given, "test").out


def test_the_table_has_four_significant_digits_and_straight_columns():
    def row(name, *values):
        return evaluate.Row(name, *values)

    rows = [row("a", 0.01234567, 2.5, 30.0, 1.0, 12.5, 100.0, 9.0, 100.0), row("mean", *[0.5] * 8)]
    assert evaluate.table(rows, "m").splitlines() == [
        "                     MAE                 RMSE       PSNR dB             PE %    (m; in brackets the floor)",
        "a     0.01235 (12.50000)  2.50000 (100.00000)  30.00 (9.00)  1.000 (100.000)",
        "mean  0.50000 ( 0.50000)  0.50000 (  0.50000)   0.50 (0.50)  0.500 (  0.500)",
    ]
    in_mm = evaluate.table([row("a", 0.0, 2000.0, math.inf, 0.0, 1234.6, 4321.4, 9.0, 1.0)], "mm")
    assert in_mm.splitlines()[1] == "a  0 (1235)  2000 (4321)  inf (9.00)  0.000 (1.000)"
    assert "0.00000000 (" in evaluate.table([row("a", 0.0, 1e-12, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)], "m")


def test_an_image_without_error_is_null_in_json(pairs, tmp_path):
    rows = evaluate.evaluate(Fake(2, lambda b: b["depth_hr"]), open_pairs(pairs), NEAREST)
    assert rows[0].mae == 0 and rows[0].psnr == math.inf
    evaluate.write_json(tmp_path / "x.json", rows, NEAREST)
    assert json.loads((tmp_path / "x.json").read_text())["images"][0]["psnr"] is None
    assert "inf" in evaluate.table(rows, "m")


NAMES = ("art", "books", "dolls", "laundry", "moebius", "reindeer")


@pytest.mark.skipif(not TEST10.is_dir(), reason="the ten evaluation images (../shared/data/test10) are not here")
@pytest.mark.parametrize(
    ("scale", "floors"),
    [
        (4, (0.973, 0.291, 0.302, 0.516, 0.296, 0.493)),
        (8, (1.852, 0.592, 0.593, 1.006, 0.594, 0.942)),
        (16, (3.621, 1.156, 1.126, 1.890, 1.125, 1.844)),
    ],
)
def test_the_published_floor(scale, floors):
    """Bicubic's MAE by AHMF's test program on its six images, which its tables stand beside."""
    dataset = open_pairs(TEST10, names=NAMES)
    *rows, mean = evaluate.evaluate(Fake(scale, lambda b: b["depth_hr"]), dataset, PROTOCOLS["ahmf_middlebury"])
    assert [r.name for r in rows] == list(NAMES)
    np.testing.assert_allclose([r.floor_mae for r in rows], floors, atol=1e-3, rtol=0)
    assert mean.mae == 0


TEN = ("art", "books", "dolls", "laundry", "moebius", "reindeer", "cones", "teddy", "tsukuba", "venus")


@pytest.mark.skipif(not TEST10.is_dir(), reason="the ten evaluation images (../shared/data/test10) are not here")
@pytest.mark.parametrize(
    ("scale", "psnr", "pe"),
    [
        (
            2,
            (39.74, 47.77, 48.96, 44.04, 49.32, 42.45, 40.14, 42.41, 32.84, 45.84),
            (2.749, 0.687, 0.709, 1.305, 0.754, 1.310, 3.652, 2.610, 6.886, 1.043),
        ),
        (
            4,
            (36.38, 44.05, 45.80, 40.53, 45.63, 39.19, 36.46, 39.06, 29.48, 42.52),
            (5.514, 1.462, 1.488, 2.756, 1.658, 2.546, 7.211, 5.222, 13.058, 2.200),
        ),
        (
            8,
            (33.39, 40.80, 42.76, 37.40, 42.24, 36.14, 33.30, 36.05, 26.31, 39.35),
            (10.541, 3.091, 3.076, 5.603, 3.610, 4.967, 12.951, 10.103, 20.907, 4.450),
        ),
        (
            16,
            (29.90, 37.68, 39.75, 34.05, 39.04, 32.78, 30.47, 32.54, 23.75, 36.33),
            (20.247, 6.545, 6.320, 11.927, 7.398, 9.875, 22.367, 20.994, 33.484, 8.813),
        ),
    ],
)
def test_the_floors_of_the_ten_images(scale, psnr, pe):
    """PSNR and PE of MATLAB's bicubic, as DSCSAN's tables are made: uint8, no border, errors of 5 and more."""
    dataset = open_pairs(TEST10, names=TEN)
    protocol = PROTOCOLS["ahmf_middlebury"]
    upsampler = evaluate.interpolation("bicubic", scale, protocol)
    *rows, _ = evaluate.evaluate(upsampler, dataset, protocol)
    np.testing.assert_allclose([r.psnr for r in rows], psnr, atol=5.1e-3, rtol=0)
    np.testing.assert_allclose([r.pe for r in rows], pe, atol=1e-3, rtol=0)
