"""What the docs tell people to type works: commands parse, options are there and links lead somewhere."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from experiments import cli
from experiments.commands.train import TrainRun
from experiments.config import MODELS, DADAConfig, DataConfig, OptimiserConfig, TrainConfig

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.M | re.S)
SHELL = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
INLINE = [shlex.split(code) for code in re.findall(r"`(ahmf train [^`\n]+)`", TEXT) if "CONFIG" not in code]
COMMANDS = [words for words in SHELL + INLINE if words[0] == "ahmf"]


def test_there_is_something_to_test():
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words):
    command = cli.parse(words[1:])
    assert callable(command)
    if isinstance(command, TrainRun):  # the rest is found out when it starts
        command.config.optimiser.build(command.config.steps)
        command.config.model.build()


def test_every_option_of_the_loop_is_on_the_page():
    """By its name on the command line, or as a row's: `step-factor`."""
    own = {f.name for f in dataclasses.fields(TrainConfig)} - {
        "model",
        "data",
        "optimiser",
        "steps",
        "seed",
        "output_scale",
    }
    wanted = {f"--{name}" for name in own} | {f"--model.{n}" for n in ("remat", "dtype")}
    wanted |= {f.name for f in dataclasses.fields(OptimiserConfig)}
    missing = [name for name in sorted(wanted) if name.replace("_", "-") not in TEXT]
    assert missing == []
    others = {"out", "resume", "profile", "help", "logdir"}  # of the command, and of TensorBoard's
    for place, name in re.findall(OPTION, TEXT):
        assert name in options(place) or (not place and name in others), f"--{place}.{name}"


OPTION = r"--(?:(model|optimiser|data)\.)?([a-z][a-z-]*)"


def options(place: str) -> set[str]:
    """The names of a part's fields on the command line; of a model, those of any."""
    parts = {"model": tuple(MODELS.values()), "optimiser": (OptimiserConfig,), "data": (DataConfig,)}
    return {f.name.replace("_", "-") for part in parts.get(place, (TrainConfig,)) for f in dataclasses.fields(part)}


def test_every_option_of_dada_is_on_its_page():
    text = (ROOT / "docs" / "dada.md").read_text()
    names = {f.name.replace("_", "-") for f in dataclasses.fields(DADAConfig)} - {"scale"}
    assert sorted(name for name in names if f"--model.{name}" not in text) == []
    wrong = [name for place, name in re.findall(OPTION, text) if place and name not in options(place)]
    assert wrong == []


DOCS = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_page_commands_parse_and_links_lead_somewhere(page):
    text = page.read_text()
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["ahmf"] and not {"CONFIG", "NAME"} & set(words):
                assert callable(cli.parse(words[1:])), line
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith(("https://", "http://")) or (page.parent / target).exists(), target


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#\s]+)\)", TEXT))
def test_links_lead_somewhere(target):
    assert target.startswith("https://") or (PAGE.parent / target).exists()


def test_a_run_from_weights_with_all_that_the_page_has(ahmf, run, recipe, data_dir, tmp_path):
    """x4 to x8, on the tests' small recipe: the options of the page together, for a few steps."""
    out = tmp_path / "b"
    options = shlex.split(
        "--model.scale 8 --steps 3 --validate-every 2 --samples 1 --ema 0.9 --accumulate 2 --edge-weight 0.1 "
        "--loss charbonnier --mesh data=1 --optimiser.name adamw --optimiser.weight-decay 0.01 "
        "--optimiser.schedule cosine --optimiser.warmup 0.4"
    )
    given = ("train", recipe, "--start-from", run, *options, "--data-dir", data_dir, "--out", out)
    ended = ahmf(*given)
    assert ended.code == 0, ended.err
    assert f"starting from {run}: x4, m = 1, scaling sample, 10 m = 1" in ended.out
    assert "random: reconstruction/up_2 (the weights have none)" in ended.out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert len(rates) == 3 and rates[0] > 0
    assert [line["step"] for line in lines if "validation_mae" in line] == [2, 3]
    assert any((out / "tensorboard").iterdir())
    again = ahmf(*given)
    assert again.code == 0 and "is done: all of its 3 steps" in again.out
