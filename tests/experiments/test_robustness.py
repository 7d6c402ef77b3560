"""Robustness: no effect is the plain evaluation, effects reach the methods, and the tables, the JSON and the plot."""

import json
import math
import re

import jax
import numpy as np
import pytest
from PIL import Image

from ahmf_jax.export import Trained, save_bundle
from ahmf_jax.models import AHMF, DSDMSR
from data_pipelines.datasets import open_pairs
from data_pipelines.degrade import Degradation
from experiments import robustness
from experiments.benchmark_programs import random_params
from experiments.evaluate import measure_all
from experiments.methods import Interpolation
from experiments.protocols import PROTOCOLS
from experiments.robustness import EFFECTS, Point


@pytest.fixture
def pairs(tmp_path):
    """Two images of random blocks, in depth and in colour."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        depth = rng.integers(0, 256, (4, 5), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(depth).save(tmp_path / f"{name}_depth.png")
        Image.fromarray(np.stack([depth, 255 - depth, depth // 2], -1)).save(tmp_path / f"{name}_rgb.png")
    return tmp_path


class FromGuide:
    """Stands in for a network: the guide's first channel, so that what happens to the guide is its error."""

    scale, name, origin, guided = 4, "from guide", "a test", True

    def batch(self, batch):
        return batch["guide"][..., :1]


LEVELS = {"guide_shift": [0.0, 1.0, 4.0], "noise": [0.0, 10.0], "dropouts": [0.0, 50.0], "guide_blur": [0.0, 2.0]}


def test_no_effect_is_the_plain_evaluation(pairs):
    dataset, protocol = open_pairs(pairs), PROTOCOLS["float"]
    method = Interpolation("matlab_bicubic", 4, "bicubic")
    plain = measure_all(method, dataset, "float", protocol).mean.metrics
    points = robustness.measure({"bicubic": method}, dataset, LEVELS)
    zeros = [point for point in points if point.level == 0]
    assert [point.effect for point in zeros] == list(LEVELS)
    for effect, point in zip(EFFECTS, zeros, strict=True):
        assert (point.mae, point.rmse) == (plain["mae"], plain["rmse"])
        # Not only because it is measured once: the protocol of level 0 is the plain one.
        assert robustness.degraded(effect, 0) == protocol


def test_levels_in_their_units():
    degraded = [robustness.degraded(effect, 4).degrade for effect in EFFECTS]
    assert degraded == [
        Degradation(guide_shift=4),
        Degradation(noise_sigma=4 / 255),
        Degradation(dropouts=0.04),
        Degradation(guide_blur=4),
    ]


def test_each_effect_reaches_what_it_should(pairs):
    dataset = open_pairs(pairs)
    methods = {"from guide": FromGuide(), "bicubic": Interpolation("matlab_bicubic", 4)}
    done = []
    points = robustness.measure(methods, dataset, LEVELS, lambda: done.append(1))
    assert len(done) == 2 * (1 + 2 + 1 + 1 + 1)
    at = {(p.method, p.effect, p.level): p.mae for p in points}
    for effect, levels in LEVELS.items():
        for level in levels[1:]:
            of_guide = effect.startswith("guide")
            plain, bicubic = at["from guide", effect, 0.0], at["bicubic", effect, 0.0]
            assert plain < 1e-4  # the guide is the truth
            assert (at["from guide", effect, level] > 1) == of_guide
            assert (at["bicubic", effect, level] == bicubic) == of_guide
    # Shifted by one pixel, the columns beside each vertical edge are wrong by its step; the left border repeats.
    depth = np.stack([example.depth for example in dataset])
    expected = np.abs(depth[:, :, 1:] - depth[:, :, :-1]).sum() / depth.size
    assert at["from guide", "guide_shift", 1.0] == pytest.approx(expected, rel=1e-4)


def test_the_table():
    points = [
        Point(method, effect.option, level, mae, 2 * mae)
        for method, mae in (("ours", 0.5), ("bicubic", 0.25))
        for effect in EFFECTS
        for level in (0.0, 8.0)
    ]
    points[1] = Point("ours", "guide_shift", 8.0, math.nan, 3.0)
    lines = robustness.tables(points, ["ours", "bicubic"], "grey levels").splitlines()
    assert lines[1:5] == [
        "guide shifted, pixels; MAE and RMSE (grey levels)",
        "  level           ours        bicubic",
        "      0  0.5000 1.0000  0.2500 0.5000",
        "      8     nan 3.0000  0.2500 0.5000",
    ]
    assert len(lines) == 4 * 5


def test_the_command(ahmf, pairs, bundle, tmp_path):
    out, plot = tmp_path / "r.json", tmp_path / "curve.v1"
    options = ("--guide-shift", 2, "--noise", 10, "--dropouts", 20, 40, "--guide-blur", 1)
    methods = ("bicubic", "guided_filter", bundle)
    ended = ahmf("benchmark", "robustness", *methods, "--dataset", pairs, *options, "--out", out, "--plot", plot)
    assert ended.code == 0, ended.err
    record = json.loads(out.read_text())
    assert list(record["methods"]) == ["bicubic", "guided_filter", "tiny"] and record["scale"] == 4
    assert record["images"] == ["a", "b"] and record["unit"] == "grey levels"
    assert len(record["points"]) == 3 * (2 + 2 + 3 + 2)
    assert {p["level"] for p in record["points"] if p["effect"] == "dropouts"} == {0, 20, 40}
    zeros = {(p["method"], p["mae"]) for p in record["points"] if p["level"] == 0}
    assert len(zeros) == 3  # one number a method, whatever the effect
    for _, mae in zeros:
        assert f" {mae:.2f} " in ended.out
    svg = (tmp_path / "curve.v1.svg").read_text()
    assert svg.startswith("<?xml") and "<svg" in svg
    assert f"<!-- x4, 2 images of {pairs.name}, protocol float; one effect at a time -->" in svg
    with Image.open(tmp_path / "curve.v1.png") as picture:
        assert picture.size == (1500, 1080) and len(picture.convert("RGB").getcolors(2**20)) > 50


def test_the_guide_is_left_out_where_nothing_reads_it(ahmf, pairs, tmp_path):
    """An interpolation and a model of depth alone, whose guide may be as bad as it will."""
    model, weights = DSDMSR(2, unit="vdsr"), tmp_path / "dsdmsr.safetensors"
    save_bundle(weights, Trained(model, random_params(model), "range", "grey level", 255.0))
    out, plot = tmp_path / "r.json", tmp_path / "curve"
    options = ("--noise", 10, "--dropouts", 20, "--out", out, "--plot", plot)
    ended = ahmf("benchmark", "robustness", "bicubic", weights, "--dataset", pairs, *options)
    assert ended.code == 0, ended.err
    assert "--guide-shift and --guide-blur are left out: nothing here reads a guide" in ended.out
    assert "guide shifted" not in ended.out and "noise of the low resolution" in ended.out
    record = json.loads(out.read_text())
    assert list(record["effects"]) == ["noise", "dropouts"]
    assert {(p["effect"], p["level"]) for p in record["points"]} == {
        ("noise", 0),
        ("noise", 10),
        ("dropouts", 0),
        ("dropouts", 20),
    }
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1500, 540)


def test_the_same_numbers_make_the_same_drawing(tmp_path):
    points = [Point("ours", effect.option, level, level, level) for effect in EFFECTS for level in (0.0, 1.0)]
    for name in ("one", "two"):
        robustness.draw(points, ["ours"], "x4", "m", tmp_path / name)
    svg = (tmp_path / "one.svg").read_text()
    assert svg == (tmp_path / "two.svg").read_text()
    texts = re.findall("<!-- (.*) -->", svg)  # of each panel: ticks across, the title below them, ticks up
    assert texts[: texts.index(EFFECTS[0].title)] == ["0", "1"], "there is no half of a pixel's shift"


def test_wrong_input(refused, pairs, bundle, tmp_path):
    def wrong(*methods, said, options=()):
        refused("benchmark", "robustness", *methods, "--dataset", pairs, *options, said=said)

    wrong("bicubic", said="bicubic fits any scale: give one with --scale")
    wrong("median", options=("--scale", 4), said=r"median is no method \(bicubic, nearest, .*, dada_rgb\)")
    wrong(bundle, options=("--scale", 8), said="tiny.safetensors is a model of x4: leave it out")
    wrong("bicubic", "bicubic", options=("--scale", 4), said="bicubic is named twice")
    wrong("bicubic", options=("--scale", 4, "--noise", -1), said="--noise -1: must be 0 or more")
    wrong(
        "bicubic", options=("--scale", 4, "--noise", 500), said=r"--noise 500: Degradation.noise_sigma is 1.96.* to 1"
    )
    wrong("bicubic", options=("--scale", 4, "--dropouts", 100), said="--dropouts 100: .* from 0 to 0.99")
    wrong("bicubic", options=("--scale", 4, "--guide-shift", 1.5), said="guide-shift")
    wrong("bicubic", options=("--scale", 4, "--plot", tmp_path / "no" / "p"), said=r"p.svg: there is no folder")
    wrong("bicubic", options=("--scale", 4, "--split", "b"), said="there is no folder 'b' in it")
    refused("benchmark", "robustness", "--dataset", pairs, "--scale", 4, said="methods|name what")


def test_models_of_several_scales(refused, pairs, bundle, tmp_path):
    model = AHMF(scale=2, num_levels=1, features=2)
    params = jax.tree.map(np.zeros_like, random_params(model))
    save_bundle(tmp_path / "two.safetensors", Trained(model, params, "range", "grey level", 255.0, "a test"))
    said = r"several scales cannot be compared \(.*tiny.safetensors is x4, .*two.safetensors is x2\)"
    refused("benchmark", "robustness", bundle, tmp_path / "two.safetensors", "--dataset", pairs, said=said)
