"""The demo, at a small size: a page that shows what it names, in a folder that was empty or a demo's."""

import dataclasses
import functools
import json
import re

import numpy as np
from PIL import Image

from data_pipelines import datasets
from experiments import config as configs
from experiments.evaluations import read


def test_the_whole_story(ahmf, monkeypatch, tiny, tmp_path):
    whole = dataclasses.replace(tiny.model, fusion="feb_frb", recurrence="both")  # the network that PyTorch's twin is
    short = dataclasses.replace(tiny, model=whole, steps=2, checkpoint_every=1, validate_every=1)
    monkeypatch.setattr(configs, "load", lambda name: short)
    small = functools.partial(datasets.prepare, height=64, width=80, train=3, validation=1, test=2)
    monkeypatch.setattr(datasets, "prepare", small)
    out = tmp_path / "demo"
    out.mkdir()
    (out / ".ahmf-demo").touch()
    (out / "of an earlier demo").touch()
    ended = ahmf("demo", "--out", out)
    assert ended.code == 0, ended.err
    assert not (out / "of an earlier demo").exists()
    for step in ("generated scenes: 3 train, 1 validation, 2 test", "trained 2 steps", "super-resolved", "bit for bit"):
        assert step in ended.out
    assert ended.out.splitlines()[-1].endswith(f"open {out / 'index.html'}")

    page = (out / "index.html").read_text()
    told = re.search(r"the mean absolute error is ([\d.]+) m, (-?\d+)% below bicubic&#39;s ([\d.]+) m", page)
    record = read(out / "run" / "evaluations" / "scenes-test-float-x4")
    assert (told[1], told[3]) == tuple(f"{v['mae']:.4f}" for v in (record.mean.metrics, record.mean.floor))
    assert f"mean absolute error {told[2]}% below bicubic's" in ended.out
    # Every scene has its numbers and its viewer; the curves are the run's.
    test = datasets.open_dataset("scenes", "test", out / "data")
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', page, re.S)[1])
    (viewer,) = data["viewers"]
    assert {image["name"] for image in viewer["images"]} == set(test.names) == {i.name for i in record.images}
    assert [layer["name"] for layer in viewer["images"][0]["layers"]][1:] == ["matlab_bicubic", "AHMF", "truth"]
    assert data["curves"][1]["series"][0]["x"] == [1, 2]
    for name in ("index.md", "index.tex", "index_files/images_0_000.png", "side_by_side.png"):
        assert (out / name).is_file(), name
    assert "(side_by_side.png)" in (out / "index.md").read_text()
    assert np.asarray(Image.open(out / "side_by_side.png")).shape[1] > 200

    low, high = (np.asarray(Image.open(out / f"{name}.png")) for name in ("depth_lr", "depth_hr"))
    assert low.dtype == high.dtype == np.uint16 and (low.shape, high.shape) == ((16, 20), (64, 80))
    truth = test[0].depth * 1000
    assert abs(float(high.mean()) - float(truth.mean())) < 0.2 * float(truth.mean())
    command = re.search(r"<code>ahmf (upsample [^<]+)</code>", page)[1].split()
    again = ahmf(*[tmp_path / "o.png" if word == "depth_hr.png" else word for word in command])
    assert again.code == 0, again.err
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), high)


def test_a_folder_that_is_no_demo_is_left_alone(refused, tmp_path, contents):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_text("more")
    before = contents(tmp_path)
    refused("demo", "--out", tmp_path, said=rf"{tmp_path} is not empty and no earlier demo's: choose another")
    refused("demo", "--out", tmp_path / "thesis.tex", said=r"thesis.tex is a file: choose a folder")
    refused("demo", "--out", tmp_path / "thesis.tex" / "x", said=r"x cannot be written \(Not a directory\)")
    assert contents(tmp_path) == before
