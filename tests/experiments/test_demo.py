"""The demo, at a small size: a page that shows what it names, in a folder that was empty or a demo's."""

import functools
import json
import re

import numpy as np
from PIL import Image

from data_pipelines import datasets
from experiments import config as configs


def test_the_whole_story(ahmf, monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(configs, "load", lambda name: tiny)
    small = functools.partial(datasets.prepare, height=64, width=80, train=3, validation=1, test=2)
    monkeypatch.setattr(datasets, "prepare", small)
    out = tmp_path / "demo"
    out.mkdir()
    (out / ".ahmf-demo").touch()
    (out / "of an earlier demo").touch()
    ended = ahmf("demo", "--out", out)
    assert ended.code == 0, ended.err
    assert not (out / "of an earlier demo").exists()
    for step in ("generated scenes: 3 train, 1 validation, 2 test", "trained 6 steps", "super-resolved", "bit for bit"):
        assert step in ended.out
    assert ended.out.splitlines()[-1].endswith(f"open {out / 'index.html'}")

    page = (out / "index.html").read_text()
    shown = re.findall(r'<img src="([^"]+)"', page)
    assert shown == ["scene_0.png", "scene_1.png", "side_by_side.png"]
    for name in shown:
        picture = Image.open(out / name)
        picture.load()
        assert picture.width > 200
    assert not re.search(r"""(src|href)=["']?http""", page), "the page needs nothing but what lies beside it"
    assert page.count("<svg") == 1 and page.count("<circle") + page.count("points=") >= 1
    # The table is that of the run: the floor of an image is known without it.
    test = datasets.open_dataset("scenes", "test", out / "data")
    for name in (*test.names, "mean"):
        assert f"<td>{name}</td>" in page
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_mae" in line] == [2, 4, 6]

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
