"""The search of the filters' parameters: how a grid is walked, what is refused, and the command on small images."""

import ast
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from ahmf_jax.models import classical
from ahmf_jax.models.classical import FILTERS, Classical
from data_pipelines.datasets import open_pairs
from experiments import baselines, cli
from experiments.methods import open_method
from experiments.protocols import PROTOCOLS


@pytest.fixture
def pairs(tmp_path):
    """Three images of an edge, with colour that has it too, in a folder that is not called a test as this one is."""
    tmp_path = tmp_path / "mine"
    tmp_path.mkdir()
    rng = np.random.default_rng(0)
    for name in ("x", "y", "z"):
        depth = np.where(np.arange(24)[:, None] + rng.integers(0, 9) > np.arange(32), 60, 180).astype(np.uint8)
        Image.fromarray(depth).save(tmp_path / f"{name}_depth.png")
        Image.fromarray(np.stack([depth, 255 - depth, depth], -1)).save(tmp_path / f"{name}_rgb.png")
    return tmp_path


def test_a_walk_finds_the_best_of_a_bowl_and_tries_no_setting_twice():
    asked = []

    def error(given):
        asked.append(tuple(given.values()))
        return (given["a"] - 4) ** 2 + (3 * given["b"] - given["a"] - 2) ** 2

    values = {"a": [0, 1, 2, 3, 4, 5], "b": [0, 1, 2, 3, 4, 5]}
    best, least, tried = baselines.walk(values, error)
    assert (best, least) == ({"a": 4, "b": 2}, 0)
    assert len(asked) == len(set(asked)) == tried < 36


def test_grids_are_of_the_filters_parameters_at_the_scale():
    assert baselines.GRIDS.keys() == FILTERS.keys()
    for name in FILTERS:
        for scale in (4, 16):
            values = baselines.grid(name, scale)
            Classical(name, scale, **{key: of[0] for key, of in values.items()})  # all of them, and no other
            assert all(of == sorted(set(of)) for of in values.values())
    assert baselines.grid("guided_filter", 8)["radius"] == [2, 4, 8, 16, 32]
    assert baselines.grid("joint_bilateral", 16)["sigma_space"] == [4.0, 8.0, 12.0, 16.0]
    assert baselines.grid("fast_bilateral_solver", 4)["sigma_space"] == [2, 4, 8]
    assert [type(value) for value in baselines.grid("fast_bilateral_solver", 4)["sigma_space"]] == [int] * 3


def test_what_is_in_the_library_was_on_the_grid():
    for table in (classical.PARAMETERS, classical.NOISY):
        for name, scales in table.items():
            for scale, parameters in scales.items():
                values = baselines.grid(name, scale)
                assert all(value in values[key] for key, value in parameters.items()), (name, scale)


def test_the_error_is_that_of_an_evaluation(pairs):
    from experiments.evaluate import measure_all

    # A border, which is easily forgotten.
    dataset, protocol = open_pairs(pairs), replace(PROTOCOLS["ahmf_table1"], border=3)
    (found,) = baselines.search(dataset, [0, 1, 2], [4], ["guided_filter"], protocol, noisy=False)
    method = Classical("guided_filter", 4, **found.parameters)
    assert found.mae == pytest.approx(measure_all(method, dataset, "ahmf_table1", protocol).mean.metrics["mae"])
    bicubic = open_method("bicubic", 4, protocol)
    expected = measure_all(bicubic, dataset, "ahmf_table1", protocol).mean.metrics["mae"]
    assert found.bicubic == pytest.approx(expected) and found.mae < expected


def test_only_the_middle_of_a_large_image_is_searched(pairs, monkeypatch):
    monkeypatch.setattr(baselines, "CROP", 8)
    (example,) = open_pairs(pairs, names=["x"])
    part = baselines.middle(example)
    np.testing.assert_array_equal(part.depth, example.depth[8:16, 12:20])
    assert part.guide.shape == (8, 8, 3) and part.mask.shape == (8, 8)


def test_images_are_spread():
    assert baselines.spread(38, 6) == [3, 9, 15, 22, 28, 34]
    assert baselines.spread(2, 6) == [0, 1]


def test_the_command(ahmf, pairs, tmp_path):
    out = tmp_path / "found.json"
    for kind in ("depth", "rgb"):
        (pairs / f"venus_{kind}.png").write_bytes((pairs / f"x_{kind}.png").read_bytes())
    options = ("--split", "", "--scale", 4, "--methods", "guided_filter", "fast_global_smoother", "--images", 2)
    ended = ahmf("benchmark", "baselines", "--dataset", pairs, *options, "--out", out)
    assert ended.code == 0, ended.err
    record = json.loads(out.read_text())
    assert record["images"] == ["x", "z"] and "passed over, as some paper tests on their scenes: venus\n" in ended.out
    assert [(f["method"], f["scale"], f["noisy"]) for f in record["found"]] == [
        ("guided_filter", 4, False),
        ("fast_global_smoother", 4, False),
        ("guided_filter", 4, True),
        ("fast_global_smoother", 4, True),
    ]
    clean, noisy = (ast.literal_eval(part) for part in ended.out.split("# clean\n")[1].split("# noisy\n"))
    for found in record["found"]:
        assert (noisy if found["noisy"] else clean)[found["method"]][4] == found["parameters"]
        assert f"MAE {found['mae']:.3f}   bicubic {found['bicubic']:.3f}" in ended.out
    assert record["found"][2]["bicubic"] > record["found"][0]["bicubic"]


@pytest.mark.parametrize(
    ("dataset", "split"),
    [
        ("middlebury", "test"),
        ("middlebury", "train+test"),
        ("middlebury", "ahmf/test"),
        ("middlebury", "test[:2]"),
        ("some/test10", ""),
    ],
)
def test_tests_are_refused(dataset, split):
    with pytest.raises(InputError, match="parameters are searched on training scenes alone: choose another split"):
        baselines.check_training(dataset, split)


@pytest.mark.parametrize(
    "name",
    [
        "art",
        "mine/Teddy_left",
        "2003/quarter/cones/im2",
        "2005/ThirdSize/Art/view1",
        # Of DADA's test, though in other papers' training.
        "2006/HalfSize/Bowling2/view5",
        "2014/full/Adirondack-perfect/im0",
    ],
)
def test_scenes_of_any_papers_test_are_passed_over(name):
    training = ("2006/HalfSize/Aloe/view1", "2006/HalfSize/Cloth1/view5", "2014/full/Piano-perfect/im0")
    assert baselines.training_places((training[0], name, *training[1:]), "") == [0, 2, 3]
    with pytest.raises(InputError, match="mine: all its images are of scenes that some paper tests on, and param"):
        baselines.training_places((name,), "mine")


def test_wrong_input(refused, pairs, data_dir):
    command = ("benchmark", "baselines", "--dataset", pairs, "--split", "")
    refused(*command, "--methods", "median", said="--methods median: is no filter with parameters: choose of guided_f")
    refused(*command, "--scale", 1, said="--scale 1: give scales of 2 and more")
    refused(*command, "--images", 0, said="--images 0: at least one")
    refused(*command, "--scale", 64, said=r"x: 24 x 32 is smaller than the scale 64")
    refused(*command, "--out", pairs / "no" / "f.json", said=r"f.json: there is no folder")
    scenes = ("benchmark", "baselines", "--dataset", "scenes", "--data-dir", data_dir)
    refused(*scenes, said="has a range of 10 m, and the protocols of the search are of grey levels")


@pytest.mark.parametrize("page", ["baselines", "robustness", "rendering"])
def test_commands_of_the_pages_parse(page):
    text = (Path(__file__).parents[2] / "docs" / "results" / f"{page}.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    commands = [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert any("benchmark" in words for words in commands)
    for words in commands:
        assert words[0] == "ahmf" and callable(cli.parse(words[1:]))
