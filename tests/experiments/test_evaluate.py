"""Evaluation: numbers that can be worked out by hand, and the published protocols' floors."""

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
from ahmf_jax.metrics import METRICS
from data_pipelines.datasets import open_dataset, open_pairs
from data_pipelines.degrade import Degradation
from experiments import evaluate, evaluations, methods
from experiments.methods import Interpolation, Predictions
from experiments.protocols import PROTOCOLS, Protocol

TEST10 = Path(__file__).parents[3] / "shared" / "data" / "test10"


class Fake:
    """Stands in for a method: a function of the batch."""

    name = origin = "fake"

    def __init__(self, scale, function):
        self.scale, self.batch = scale, function


def constant(value, scale=2):
    return Fake(scale, lambda batch: np.full_like(batch["depth_hr"], value / 255))


def measured(method, dataset, protocol, **options):
    return evaluate.measure_all(method, dataset, "test", protocol, **options)


def bicubic(batch):
    return resample.resize(batch["depth_lr"], batch["guide"].shape[1:3], "matlab_bicubic")


def saved(folder, **depths):
    folder.mkdir()
    for name, depth in depths.items():
        Image.fromarray(depth).save(folder / f"{name}_depth.png")
        Image.new("RGB", depth.shape[::-1]).save(folder / f"{name}_rgb.png")
    return folder


NEAREST = Protocol(Degradation("nearest_first"), floor="nearest_first", rounding="uint8", unit="grey")


def test_rows_by_hand(pairs):
    found = measured(constant(105.4), open_pairs(pairs), NEAREST)
    a, b = found.images
    assert [r.name for r in (a, b, found.mean)] == ["a", "b", "mean"] and (a.height, a.width) == (4, 4)
    # The prediction is rounded to 105: 5 away everywhere, and once 35. The floor is 100 everywhere.
    assert (a.metrics["mae"], a.metrics["rmse"]) == (5, 5)
    assert a.metrics["psnr"] == pytest.approx(20 * math.log10(51))
    assert (a.floor["mae"], a.floor["mse"]) == (7.5, 75)
    assert (b.metrics["mae"], b.metrics["mse"]) == (110 / 16, (15 * 25 + 35**2) / 16)
    assert b.floor["mae"] == (11 * 10 + 40) / 16
    # Every error of the method reaches 5; of the floor's, the ones beside each block's first pixel.
    assert [r[kind]["pe"] for r in map(dataclasses.asdict, (a, b)) for kind in ("metrics", "floor")] == [100, 75] * 2
    # The mean of the images' measures, and beside it the measure of all pixels.
    for kind in ("metrics", "floor"):
        first, second, mean = (getattr(r, kind) for r in (a, b, found.mean))
        for name in ("mae", "rmse", "psnr", "pe"):
            assert mean[name] == pytest.approx((first[name] + second[name]) / 2), name
    assert found.pixels.metrics["mse"] == pytest.approx((31 * 25 + 35**2) / 32)
    assert found.pixels.metrics["rmse"] != pytest.approx(found.mean.metrics["rmse"], rel=1e-3)
    assert set(a.metrics) == set(METRICS) and found.unit == "grey levels"


def test_rounding_border_and_clipping_are_the_protocols(pairs):
    dataset = open_pairs(pairs)

    def first(method=None, **changes):
        return measured(method or constant(105.4), dataset, dataclasses.replace(NEAREST, **changes)).images

    assert first(rounding="none")[0].metrics["mae"] == pytest.approx((12 * 4.6 + 4 * 5.4) / 16, rel=1e-5)
    # Inside a border of one pixel are the four middle ones: 110 110 / 110 100, in b 140 110 / 110 100.
    a, b = first(border=1)
    assert a.metrics["mae"] == 5 and b.metrics["mae"] == (35 + 5 + 5 + 5) / 4 and a.floor["mae"] == 7.5
    too_much = constant(510)
    assert first(too_much)[0].metrics["mae"] == (12 * 145 + 4 * 155) / 16  # 255, not 510
    assert first(too_much, rounding="none")[0].metrics["mae"] == pytest.approx((12 * 400 + 4 * 410) / 16)
    clipped = first(too_much, rounding="none", clip=True)
    assert clipped[0].metrics["mae"] == pytest.approx((12 * 145 + 4 * 155) / 16)
    with pytest.raises(InputError, match=r"a is smaller than the protocol's border of 6 pixels twice"):
        first(border=6)


def test_pixels_that_are_not_known_do_not_count_or_are_zero(pairs):
    depth = np.asarray(Image.open(pairs / "b_depth.png")).copy()
    depth[1, 1] = 0
    Image.fromarray(depth).save(pairs / "b_depth.png")
    dataset = open_pairs(pairs, names=["b"], invalid=0)
    known = measured(constant(105), dataset, NEAREST)
    assert known.images[0].metrics["mae"] == 5
    assert known.notes == ("the truth of 93.8% of the pixels is known; the others do not count",)
    every = measured(constant(105), dataset, dataclasses.replace(NEAREST, mask="all"))
    assert every.images[0].metrics["mae"] == (15 * 5 + 105) / 16 and every.notes == ()
    # What is not known is 0 for the low resolution too, where nothing is filled.
    seen = []
    depth[0, 0] = 0
    Image.fromarray(depth).save(pairs / "b_depth.png")
    for mask in ("known", "all"):
        keep = Fake(2, lambda batch: seen.append(batch["depth_lr"]) or batch["depth_hr"])
        measured(keep, open_pairs(pairs, names=["b"], invalid=0), dataclasses.replace(NEAREST, mask=mask))
    assert seen[0][0, 0, 0, 0] > 0 and seen[1][0, 0, 0, 0] == 0


def test_an_image_without_a_known_pixel_has_no_number_and_no_say(pairs):
    Image.fromarray(np.pad([[100]], ((0, 3), (0, 3))).astype(np.uint8)).save(pairs / "b_depth.png")
    found = measured(constant(105), open_pairs(pairs, invalid=0), dataclasses.replace(NEAREST, border=1))
    assert math.isnan(found.images[1].metrics["mae"]) and found.mean.metrics["mae"] == 5
    assert found.notes[-1] == "1 images have no known pixel and no number, the first is b"


def test_tiles_batches_and_pixels(tmp_path):
    """Three images cut into tiles of 2: the mean is over batches of two tiles, each over its pixels."""
    rng = np.random.default_rng(0)
    depths = {name: rng.integers(1, 9, shape).astype(np.uint8) for name, shape in (("a", (5, 4)), ("b", (3, 2)))}
    depths["a"][:2, :2] = 0  # a tile of which nothing is known
    folder = saved(tmp_path / "pairs", **depths)
    protocol = Protocol(Degradation("area"), floor="area", tile=2, averaging="batches", batch=2, metrics=("mse", "mae"))
    found = measured(constant(9), open_pairs(folder, invalid=0), protocol)
    names = ["a@0,0", "a@0,2", "a@2,0", "a@2,2", "b@0,0"]  # what is left over is dropped
    assert [r.name for r in found.images] == names
    off = [9.0 - depths["a"][:2, 2:], 9.0 - depths["a"][2:4, :2], 9.0 - depths["a"][2:4, 2:], 9.0 - depths["b"][:2]]
    batches = [off[0], np.concatenate(off[1:3]), off[3]]  # the last one is as heavy as the others
    for metric, power in (("mae", 1), ("mse", 2)):
        assert found.mean.metrics[metric] == pytest.approx(np.mean([np.mean(x**power) for x in batches]))
        assert found.pixels.metrics[metric] == pytest.approx(np.mean(np.stack(off) ** power))
    with pytest.raises(InputError, match=r"b: 3 x 2 is smaller than the protocol's tile of 4 x 4"):
        measured(constant(9), open_pairs(folder), dataclasses.replace(protocol, tile=4))


def test_lengths_are_printed_in_centimetres(tmp_path):
    """DADA's own check: with a range of 1 m, an error of 0.01 is 1 cm and 1 cm squared."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    Image.fromarray(np.full((256, 256), 500, np.uint16)).save(folder / "a_depth.png")
    Image.new("RGB", (256, 256)).save(folder / "a_rgb.png")
    dataset = open_pairs(folder, unit="mm", range=1000)
    off = Fake(8, lambda batch: batch["depth_hr"] + np.float32(0.01))
    found = measured(off, dataset, PROTOCOLS["dada"])
    assert found.unit == "cm" and found.mean.metrics["mae"] == pytest.approx(1, rel=1e-5)
    assert found.notes == ("100.0% of the pixels are in tiles of 256 x 256",)
    assert found.mean.metrics["mse"] == pytest.approx(1, rel=1e-4)
    assert found.mean.metrics["psnr"] == pytest.approx(40, rel=1e-4)


@pytest.mark.parametrize("protocol", ["ahmf_table1", "dscsan", "float"])
def test_bicubic_in_place_of_the_network_is_the_floor(pairs, protocol):
    for row in measured(Fake(2, bicubic), open_pairs(pairs), PROTOCOLS[protocol]).images:
        assert row.metrics == pytest.approx(row.floor, nan_ok=True) and row.metrics["mae"] > 1


def test_noise_differs_between_images_and_not_between_runs(pairs):
    seen = []
    protocol = dataclasses.replace(NEAREST, degrade=Degradation("nearest_first", noise_sigma=0.1))
    for _ in range(2):
        keep = Fake(2, lambda batch: seen.append(batch["depth_lr"]) or batch["depth_hr"])
        measured(keep, open_pairs(pairs), protocol)
    np.testing.assert_array_equal(seen[0], seen[2])
    assert (seen[0] != seen[1]).all() and "noise 0.1 of the range" in str(protocol)


def test_pe_is_in_parts_of_the_range():
    target = np.zeros((1, 2, 2, 1), np.float32)
    batch = {"depth_hr": target, "mask_hr": np.ones(target.shape, bool)}
    # Of 10 m, 5 grey levels of 255 are 0.196 m.
    prediction = np.array([0.0, 0.0195, 0.0197, 0.5], np.float32).reshape(target.shape)
    assert evaluate.measure(prediction, batch, 10.0, PROTOCOLS["float"]).pe == 50


def test_what_is_kept_is_what_was_measured(pairs, tmp_path):
    folder = tmp_path / "kept"
    (folder / "images").mkdir(parents=True)
    found = measured(constant(105.4), open_pairs(pairs), NEAREST, keep=1, folder=folder)
    evaluations.write_record(found, folder)
    back = evaluations.read(folder)
    assert list(back.kept()) == ["a"]
    arrays = evaluations.read_image(back.kept()["a"])
    assert (arrays["prediction"] == 105).all() and (arrays["floor"] == 100).all()  # rounded, as it was measured
    np.testing.assert_array_equal(arrays["depth_hr"], np.asarray(Image.open(pairs / "a_depth.png")))
    assert np.abs(arrays["prediction"] - arrays["depth_hr"]).mean() == back.images[0].metrics["mae"]
    np.testing.assert_allclose(arrays["depth_lr"], 100, rtol=1e-6)
    assert arrays["guide"].shape == (4, 4, 3) and arrays["mask_hr"].all() and arrays["mask_lr"].shape == (2, 2)
    measured(constant(105.4), open_pairs(pairs), NEAREST, keep=-1, folder=folder)
    assert len(list((folder / "images").iterdir())) == 2


def test_a_failure_in_a_thread_is_the_callers(pairs):
    (pairs / "b_rgb.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b_rgb.png"):
        measured(constant(1), open_pairs(pairs), NEAREST)


def test_the_table_has_four_significant_digits_and_straight_columns():
    def row(name, *values):
        names = ("mae", "rmse", "psnr", "pe")
        metrics, floor = (dict(zip(names, part, strict=True)) for part in (values[:4], values[4:]))
        return evaluations.ImageNumbers(name, metrics, floor, 1, 1)

    def table(unit, *rows):
        *images, mean = rows
        names = ("mae", "rmse", "psnr", "pe")
        found = evaluations.Evaluation("a", "a", "", 4, "d", "", unit, "p", "", {}, names, tuple(images), mean)
        return evaluate.table(found)

    rows = [row("a", 0.01234567, 2.5, 30.0, 1.0, 12.5, 100.0, 9.0, 100.0), row("mean", *[0.5] * 8)]
    assert table("m", *rows).splitlines() == [
        "                 MAE (m)             RMSE (m)     PSNR (dB)           PE (%)    (in brackets the floor)",
        "a     0.01235 (12.50000)  2.50000 (100.00000)  30.00 (9.00)  1.000 (100.000)",
        "mean  0.50000 ( 0.50000)  0.50000 (  0.50000)   0.50 (0.50)  0.500 (  0.500)",
    ]
    assert table("mm", row("a", 0.0, 2000.0, math.inf, 0.0, 1234.6, 4321.4, 9.0, 1.0)).splitlines()[1] == (
        "a  0 (1235)  2000 (4321)  inf (9.00)  0.000 (1.000)"
    )
    assert "0.00000000 (" in table("m", row("a", 0.0, 1e-12, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0))


def test_the_command_prints_and_records_what_it_measured(ahmf, run, tmp_path, data_dir):
    ended = ahmf("evaluate", run, "--dataset", "scenes", "--protocol", "float", "--data-dir", data_dir)
    assert ended.code == 0, ended.err
    (found,) = evaluations.find(run)  # in the run's own folder
    assert found.folder.name == "scenes-test-float-x4" and "kept in" in ended.out
    assert [image.name for image in found.images] == ["test-00000", "test-00001"] == list(found.kept())
    assert (found.scale, found.dataset, found.split, found.unit) == (4, "scenes", "test", "m")
    assert found.protocol_fields["rounding"] == "none"
    assert found.protocol_fields["degrade"]["kernel"] == "matlab_bicubic"
    assert found.made["seconds"] > 0 and found.made["device"].endswith("cpu")
    floors = measured(Fake(4, bicubic), open_dataset("scenes", "test", data_dir), PROTOCOLS["float"])
    for image, floor in zip((*found.images, found.mean), (*floors.images, floors.mean), strict=True):
        assert image.floor["mae"] == pytest.approx(floor.metrics["mae"], rel=1e-6)
        line = next(line for line in ended.out.splitlines() if line.startswith(image.name))
        mae, floor_mae = re.match(r"\S+ +(\S+) \( *(\S+)\)", line).groups()
        assert float(mae) == pytest.approx(image.metrics["mae"], rel=1e-3)
        assert float(floor_mae) == pytest.approx(image.floor["mae"], rel=1e-3)
    assert "scenes, test" in ended.out and "MAE (m) " in ended.out and "in brackets the floor" in ended.out
    assert str(PROTOCOLS["float"]) in ended.out
    # The same command again replaces the record.
    given = ("--dataset", "scenes", "--data-dir", data_dir, "--keep", 1, "--metrics", "edge_mae", "delta1")
    ended = ahmf("evaluate", run, *given, "--name", "tiny & quick")
    (again,) = evaluations.find(run)
    assert len(again.kept()) == 1 and again.method == "tiny & quick"
    assert "MAE at edges (m)" in ended.out and "delta1 (%)" in ended.out and "RMSE" not in ended.out
    assert again.metrics == ("edge_mae", "delta1")


@pytest.mark.parametrize("name", ["bicubic", "matlab_bicubic", "bilinear", "nearest"])
def test_an_interpolation_in_place_of_weights(ahmf, refused, data_dir, tmp_path, name):
    out = tmp_path / "numbers"
    given = ("evaluate", name, "--dataset", "scenes", "--data-dir", data_dir, "--protocol", "float")
    ended = ahmf(*given, "--scale", 8, "--out", out)
    assert ended.code == 0 and re.search(rf"{name} \(interpolation.*\), x8, on scenes", ended.out)
    mean = evaluations.read(out).mean
    assert (mean.metrics["mae"] == mean.floor["mae"]) == name.endswith("bicubic")
    refused(*given, said=r"fits any scale: give one with --scale")
    refused(*given, "--scale", 0, said=r"^ahmf: --scale 0: must be at least 2$")


def test_bicubic_by_a_protocol_whose_floor_is_bilinear(ahmf, pairs, tmp_path):
    given = ("--scale", 2, "--dataset", pairs, "--protocol", "dsdmsr", "--out", tmp_path / "out")
    ended = ahmf("evaluate", "bicubic", *given)
    found = evaluations.read(tmp_path / "out")
    assert ended.out.startswith("torch_bilinear (interpolation), x2") and found.method == "torch_bilinear"
    (note,) = found.notes
    assert note.startswith("bicubic means the protocol's floor, and that of dsdmsr is torch_bilinear; a bicubic kernel")
    assert f"note: {note}\n" in ended.out
    for name in ("torch_bilinear", "torch_bicubic"):
        assert ahmf("evaluate", name, *given).code == 0 and not evaluations.read(tmp_path / "out").notes


def test_values_beyond_the_range_of_a_folder_are_not_measured(ahmf, refused, tmp_path):
    """Clipped to the range, truth and result would be the same."""
    rng = np.random.default_rng(1)
    folder = saved(tmp_path / "raw", a=rng.integers(6000, 60000, (8, 8)).astype(np.uint16))
    given = ("evaluate", "bilinear", "--scale", 2, "--dataset", folder, "--protocol", "dsdmsr", "--pairs.guide", "")
    refused(
        *given, said=r"raw/a_depth.png: 100.0% of its depth is above 255 grey level, .* --pairs.range and --pairs.u"
    )
    assert ahmf(*given[:-4], "--protocol", "float", "--pairs.range", 65535).code == 0


def test_what_the_command_refuses(refused, ahmf, run, pairs, data_dir, contents):
    before = contents(pairs)
    given = ("evaluate", run, "--data-dir", data_dir)
    refused("evaluate", run, said=r"--dataset: name a prepared data set, or a folder")
    refused("evaluate", "--dataset", pairs, said=r"name what to evaluate: a run, weights, .* or --predictions")
    refused(*given, "--dataset", "scenes", "--protocol", "ahmf_table1", said=r"10 m: use --protocol float")
    refused(
        *given, "--dataset", pairs, "--protocol", "dada", said=r"wants depth that is a length, and pairs has a range"
    )
    refused(*given, "--dataset", "scenes", "--metrics", "mea", said=r"--metrics mea: choose of mae, rmse")
    refused(*given, "--dataset", "scenes", "--scale", "2", said=r"--scale 2: .* is a model of x4: leave it out")
    refused(*given, "--dataset", "scenes", "--split", "tset", said=r"no split 'tset': it has .*test")
    refused(*given, "--dataset", "middlebury", said=r"ahmf data prepare middlebury --from DIR")
    refused(*given, "--dataset", pairs, "--pairs.names", "zebra", said=r"zebra_depth.png: is missing")
    refused(*given, "--dataset", pairs, "--out", pairs / "a_rgb.png" / "x", said=r"a_rgb.png: cannot be written")
    refused(*given, "--dataset", pairs, "--out", pairs, said=r"pairs is there already and is no evaluation")
    refused(*given, "--dataset", pairs, "--protocol", "b6", said=r"border of 6")
    refused("evaluate", "bicubix", "--dataset", pairs, "--scale", 2, said=r"bicubix is no method \(bicubic, nearest,")
    said = r"no folder 'tset' in it \(its folders: none\): name one of its folders, or leave --split out"
    refused(*given, "--dataset", pairs, "--split", "tset", said=said)
    (pairs / "b_rgb.png").write_bytes(before["b_rgb.png"][:-20])
    refused(*given, "--dataset", pairs, said=r"b_rgb.png: .*cut short")
    assert sorted(contents(pairs)) == sorted(before)


def test_the_split_of_a_folder_and_the_protocol_follow_the_data(ahmf, bundle, pairs, data_dir, tmp_path):
    out = tmp_path / "x"

    def found(*args):
        ended = ahmf("evaluate", bundle, "--data-dir", data_dir, "--out", out, *args)
        assert ended.code == 0, ended.err
        written = evaluations.read(out)
        first, second, *_ = ended.out.splitlines()
        return first.split(", ")[-1], second.split(":")[0], written.split, len(written.images)

    assert found("--dataset", pairs) == ("all of it", "protocol ahmf_table1", "", 2)
    assert found("--dataset", pairs, "--pairs.range", 200)[1] == "protocol float"
    assert found("--dataset", "scenes") == ("test", "protocol float", "test", 2)
    (pairs / "test").mkdir()
    for file in pairs.glob("b_*"):
        file.rename(pairs / "test" / file.name)
    assert found("--dataset", pairs) == ("test", "protocol ahmf_table1", "test", 1)
    assert found("--dataset", pairs, "--split", "test")[3] == 1


def test_a_run_is_measured_on_what_it_was_trained_for(
    ahmf, refused, recipe, run, bundle, data_dir, tmp_path, monkeypatch
):
    assert evaluate._alike(Degradation(noise_sigma=0.0196078), PROTOCOLS["ahmf_table2"].degrade)
    assert not evaluate._alike(Degradation(noise_sigma=0.0195), PROTOCOLS["ahmf_table2"].degrade)
    noisy, out = tmp_path / "noisy", tmp_path / "x"
    degrade = ("--data.degrade.kernel", "area", "--data.degrade.dropouts", 0.25, "--steps", 1)
    ended = ahmf("train", recipe, *degrade, "--data-dir", data_dir, "--out", noisy)
    assert ended.code == 0, ended.err
    given = ("--dataset", "scenes", "--split", "validation", "--data-dir", data_dir, "--out", out)

    ended = ahmf("evaluate", noisy, *given, "--protocol", "run")
    assert ended.code == 0 and "note: " not in ended.out, ended
    assert "protocol run: LR by area, dropouts 0.25, floor by matlab_bicubic, output not rounded, border 0" in ended.out
    # The one image of the run's own validation, made alike.
    logged = [json.loads(line) for line in (noisy / "metrics.jsonl").read_text().splitlines()]
    mean = evaluations.read(out).mean
    assert mean.metrics["mae"] == pytest.approx(logged[-1]["validation_mae"], rel=1e-5)
    assert mean.floor["mae"] == pytest.approx(logged[-1]["validation_floor_mae"], rel=1e-6)

    ended = ahmf("evaluate", noisy, *given)
    said = "note: trained on LR by area, dropouts 0.25, measured on LR by matlab_bicubic; see --protocol run"
    assert ended.out.splitlines()[2] == said
    config = dataclasses.replace(methods.configs.of_run(noisy), validation_protocol="area")
    with monkeypatch.context() as patched:
        patched.setattr(methods.configs, "of_run", lambda _: config)
        ended = ahmf("evaluate", noisy, *given)
        assert ended.out.splitlines()[2] == said.replace("run", "area, by which it was validated")
        config = dataclasses.replace(config, validation_protocol="dsdmsr")  # grey levels, which scenes are not in
        assert ahmf("evaluate", noisy, *given).out.splitlines()[2] == said
    assert "note: " not in ahmf("evaluate", run, *given).out  # the protocol is what it was trained on
    assert "note: " not in ahmf("evaluate", bundle, *given).out  # nothing is known
    for weights in (bundle, "bicubic"):
        refused("evaluate", weights, *given, "--protocol", "run", said=r"--protocol run: only a run's folder says what")


def test_a_published_split_comes_with_its_note(ahmf, data_dir, monkeypatch):
    from data_pipelines.datasets import splits

    named = splits.NamedSplits("paper", "a paper", {"test": ["test-00001"]}, note="At another size.")
    monkeypatch.setattr(splits, "protocols", lambda builder: {"paper": named})
    given = ("evaluate", "bicubic", "--scale", 3, "--dataset", "scenes", "--data-dir", data_dir, "--split")
    _, _, note, sizes, *table = ahmf(*given, "paper/test").out.splitlines()
    assert note == "note: At another size."
    assert sizes.startswith("images measured (height x width): 1 of 63 x 78; ") and len(table) == 4
    assert "note: " not in ahmf(*given, "test").out


@pytest.fixture
def predictions(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()

    def write(**depths):
        for name, depth in depths.items():
            np.save(folder / f"{name}.npy", np.asarray(depth, np.float32))
        return folder

    return write


def test_another_programs_predictions(ahmf, pairs, predictions, tmp_path):
    folder = predictions(A_out=np.full((4, 4), 105.0), b=np.full((4, 4), 105.4))
    out = tmp_path / "x"
    given = ("--dataset", pairs, "--scale", 2, "--protocol", "ahmf_table1", "--out", out)
    ended = ahmf("evaluate", "--predictions", folder, *given)
    assert ended.code == 0, ended.err
    found = evaluations.read(out)
    assert found.method == "theirs" and found.weights == str(folder) and found.scale == 2
    wanted = measured(constant(105.4), open_pairs(pairs), PROTOCOLS["ahmf_table1"])
    assert [r.metrics for r in found.images] == [r.metrics for r in wanted.images]


def test_predictions_that_cannot_be_measured(refused, pairs, predictions, contents):
    good = np.full((4, 4), 105.0)
    folder = predictions(a=good)
    given = ("evaluate", "--dataset", pairs, "--protocol", "ahmf_table1", "--scale", 2, "--predictions", folder)
    refused(
        *given, said=r"--predictions \S+theirs: 1 of 2 images have no file: b: name each after its image, such as b.p"
    )
    predictions(b=np.full((2, 4), 105.0))
    refused(
        *given, said=r"b.npy: is 2 x 4 \(height x width\), and b is 4 x 4: give predictions of the size of the truth"
    )
    predictions(b=np.where(np.eye(4), np.nan, good))
    refused(*given, said=r"b has 4 pixels that are no numbers and whose truth is known: every pixel is")
    predictions(b=good, b_2=good, B=good)
    refused(*given, said=r"b may be any of B.npy, b.npy: leave one of them there")
    refused(*given[:-2], "--predictions", folder / "no", said=r"no: there is no such folder")
    refused(
        *given,
        "--predictions-unit",
        "mm",
        said=r"--predictions-unit mm: pairs is in grey level, which is no length: conv",
    )
    refused(*given[:5], "--predictions", folder, said=r"--predictions: say with --scale from how many times")
    refused(*given[:-2], "bicubic", "--predictions-unit", "mm", said=r"--predictions-unit: goes with --predictions")
    refused(*given, "bicubic", said=r"--predictions stands in place of a method: leave out either it or bicubic")


@pytest.mark.parametrize(
    ("factor", "said"), [(1 / 255, "from 0 to 1"), (257, "257 times too large: 16 bits"), (0.1, "tenths")]
)
def test_another_unit_is_caught_by_the_floor(refused, ahmf, tmp_path, predictions, factor, said):
    depth = (60 + 10 * np.add.outer(np.arange(8), np.arange(8))).astype(np.uint8)
    pairs = saved(tmp_path / "smooth", a=depth)
    folder = predictions(a=(depth + 0.5) * factor)
    given = ("evaluate", "--dataset", pairs, "--protocol", "float", "--scale", 2, "--predictions", folder)
    if factor == 0.1:
        said = "in tenths"
        refused(*given, said=rf"a is \d+ times as far .* once multiplied by 10: its values are {said}")
    else:
        refused(*given, said=rf"a is \d+ times as far from the truth as interpolation.* are {said}")
    predictions(a=depth[::-1])  # wrong, but not by its unit: it is measured as it is, with a note
    said = r"note: a is \d+ times as far from the truth as interpolation, and no factor explains it"
    assert re.search(said, ahmf(*given).out)
    predictions(a=depth)
    assert "note: a is the truth itself" in ahmf(*given).out


def test_predictions_in_a_unit_of_their_own(ahmf, tmp_path, predictions):
    depth = (600 + 100 * np.add.outer(np.arange(8), np.arange(8))).astype(np.uint16)
    pairs = saved(tmp_path / "lengths", a=depth)
    folder = predictions(a=depth / 1000)
    given = ("--dataset", pairs, "--pairs.unit", "mm", "--pairs.range", 4000, "--scale", 2, "--out", tmp_path / "x")
    assert ahmf("evaluate", "--predictions", folder, "--predictions-unit", "m", *given).code == 0
    found = evaluations.read(tmp_path / "x")
    assert found.mean.metrics["mae"] < 0.01 and found.unit == "mm"


NAMES = ("art", "books", "dolls", "laundry", "moebius", "reindeer")


@pytest.mark.skipif(not TEST10.is_dir(), reason="the ten evaluation images (../shared/data/test10) are not here")
def test_the_published_floor():
    """Bicubic's MAE by AHMF's test program on its six images; `ahmf doctor --floors` has all the others."""
    dataset = open_pairs(TEST10, names=NAMES)
    found = measured(Interpolation("matlab_bicubic", 8), dataset, PROTOCOLS["ahmf_table1"])
    assert [r.name for r in found.images] == list(NAMES)
    floors = (1.852, 0.592, 0.593, 1.006, 0.594, 0.942)
    np.testing.assert_allclose([r.metrics["mae"] for r in found.images], floors, atol=1e-3, rtol=0)


def test_a_method_without_numbers_has_no_mean(pairs):
    """An error of NaN would be none, and one of infinity all."""
    for value, known in ((np.nan, True), (np.inf, True), (np.nan, False)):
        dataset = open_pairs(pairs, invalid=None if known else 140)
        spoilt = Fake(2, lambda batch, v=value: np.where(batch["depth_hr"] > 0.5, v, batch["depth_hr"]))
        if known:
            with pytest.raises(InputError, match=r"fake \(fake\): b has 1 pixels that are no numbers and whose truth"):
                measured(spoilt, dataset, NEAREST)
        else:
            hole = Fake(2, lambda batch: np.where(batch["mask_hr"], batch["depth_hr"], np.nan))
            assert measured(hole, dataset, NEAREST).mean.metrics["mae"] == 0


def test_predictions_are_cut_into_tiles_as_the_images_are(tmp_path, predictions):
    rng = np.random.default_rng(0)
    depth = rng.integers(1, 200, (5, 6)).astype(np.uint8)
    folder = saved(tmp_path / "pairs", a=depth)
    protocol = dataclasses.replace(NEAREST, tile=3, degrade=Degradation("area"), rounding="none", unit="data")
    dataset = open_pairs(folder)
    off = Predictions(predictions(a=depth + np.arange(6) / 10), dataset.names, 1)
    found = measured(off, dataset, protocol)
    assert [(r.name, round(r.metrics["mae"], 5)) for r in found.images] == [("a@0,0", 0.1), ("a@0,3", 0.4)]
    half = Predictions(predictions(a=depth[:3, :3]), dataset.names, 1)
    with pytest.raises(InputError, match=r"a.npy: is 3 x 3 \(height x width\), and a is 5 x 6: give predictions"):
        measured(half, dataset, protocol)


def test_predictions_are_of_the_truth_and_not_of_what_is_stored(tmp_path, predictions):
    """Where the truth is reduced: whole, with what the scale does not divide, and in tiles."""
    depth = np.random.default_rng(0).integers(1, 200, (10, 14)).astype(np.uint8)
    dataset = open_pairs(saved(tmp_path / "pairs", a=depth))
    protocol = dataclasses.replace(
        NEAREST, degrade=Degradation("torch_bilinear", reduce=2), floor="torch_bilinear", rounding="none"
    )
    truth = depth.reshape(5, 2, 7, 2).mean((1, 3))
    for given in (truth, truth[:4, :6]):
        found = measured(Predictions(predictions(a=given + 0.5), dataset.names, 2), dataset, protocol)
        assert (found.images[0].height, found.images[0].width) == (4, 6)
        assert found.mean.metrics["mae"] == pytest.approx(0.5, rel=1e-4)
    tiled = dataclasses.replace(protocol, tile=4)
    off = Predictions(predictions(a=truth + np.arange(7) / 10), dataset.names, 2)
    found = {r.name: round(r.metrics["mae"], 4) for r in measured(off, dataset, tiled).images}
    assert found == {f"a@{top},{left}": wanted for top in (0, 4) for left, wanted in ((0, 0.05), (4, 0.25), (8, 0.45))}
    for stored in (depth, depth[:8, :12]):
        theirs = Predictions(predictions(a=stored), dataset.names, 2)
        for how, sizes in ((protocol, "4 x 6 or 5 x 7"), (tiled, "5 x 7")):
            with pytest.raises(InputError, match=rf"a.npy: is \d+ x 1\d \(height x width\), and a is {sizes}: give"):
                measured(theirs, dataset, how)


def test_a_record_of_other_data_is_kept(ahmf, refused, run, pairs, data_dir, tmp_path):
    other = tmp_path / "other" / "pairs"
    other.mkdir(parents=True)
    for file in pairs.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    given = ("evaluate", run, "--pairs.range", 255, "--protocol", "float", "--dataset")
    assert ahmf(*given, pairs).code == 0 and ahmf(*given, pairs).code == 0
    said = r"pairs-float-x4 is there already, of 2 images in \S+pairs, which are others: name another folder with --o"
    refused(*given, other, said=said)
    refused(*given, pairs, "--pairs.names", "a", said=said)
    assert ahmf(*given, other, "--out", tmp_path / "x").code == 0


def test_values_that_do_not_fit_into_8_bits_are_not_cut_off(tmp_path):
    """Truth and output would both be 255, and everything would agree."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    depth = np.full((4, 6), 100, np.uint16)
    depth[1, 1] = 25600  # one pixel beyond the range is no reason to refuse the map
    Image.fromarray(depth).save(folder / "a_depth.png")
    Image.new("RGB", (6, 4)).save(folder / "a_rgb.png")
    with pytest.raises(InputError, match=r"a: its depth goes from 100 to 25600, and the protocol rounds to 0..255"):
        measured(constant(1), open_pairs(folder), NEAREST)


def test_the_only_split_of_a_prepared_set(ahmf, tmp_path, pairs):
    given = ("data", "prepare", "pairs", "--from", pairs, "--name", "ours", "--data-dir", tmp_path / "data")
    assert ahmf(*given, "--unit", "grey level", "--range", 255).code == 0
    ended = ahmf("evaluate", "bicubic", "--scale", 2, "--dataset", "ours", "--data-dir", tmp_path / "data")
    assert ended.code == 0 and "on ours, train" in ended.out and "not kept for a report: add --out" in ended.out
