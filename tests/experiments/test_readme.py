"""What README.md tells people to type works: commands parse, targets and files exist, and its Python runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.files import write_depth, write_picture
from experiments import cli

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
SHELL = [
    shlex.split(line.removeprefix("$ "), comments=True)
    for language, block in BLOCKS
    if language in ("bash", "console", "sh", "shell", "")
    for line in block.replace("\\\n", " ").splitlines()
]
# Commands in running text, too: `ahmf benchmark model`.
INLINE = [shlex.split(code) for code in re.findall(r"`((?:ahmf|make) [^`\n]+)`", TEXT)]
COMMANDS = [words for words in SHELL + INLINE if words]
PYTHON = [block for language, block in BLOCKS if language == "python"]


def test_there_is_something_to_test():
    assert sum(words[0] == "ahmf" for words in COMMANDS) >= 5 and PYTHON


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "ahmf"], ids=" ".join)
def test_commands_parse(words, capsys):
    try:
        command = cli.parse(words[1:])
    except SystemExit as stop:
        assert "--help" in words and stop.code in (0, None)
    else:
        assert callable(command)
    assert capsys.readouterr().err == ""


def test_training_on_ones_own_images(ahmf, monkeypatch, tmp_path):
    """The lines about `my_images`, typed as they are, with a small network for a few steps."""
    monkeypatch.chdir(tmp_path)
    for folder in ("train", "validation", "test"):
        place = tmp_path / "my_images" / folder
        place.mkdir(parents=True)
        write_depth(place / "a_depth.png", np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8))
        write_picture(place / "a_rgb.png", np.zeros((64, 80, 3), np.uint8))
    small = ["--model.num-levels", 1, "--model.features", 2, "--data.patch-size", 16, "--data.batch-size", 8]
    # As the run of the other tests, whose compiled programs are there.
    small += ["--model.fusion", "concat", "--model.recurrence", "none"]
    small += [
        "--optimiser.name",
        "lion",
        "--optimiser.schedule",
        "step",
        "--optimiser.learning-rate",
        1e-3,
        "--steps",
        6,
    ]
    train, evaluate = (
        next(words for words in COMMANDS if words[:2] == ["ahmf", command] and "my_images" in words)
        for command in ("train", "evaluate")
    )
    ended = ahmf(*train[1:], *small)
    assert ended.code == 0 and "1 images to train on, 1 to validate" in ended.out, ended.err
    ended = ahmf(*evaluate[1:])
    assert ended.code == 0 and "on test, test" in ended.out, ended.err


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "make"], ids=" ".join)
def test_targets_are_in_the_makefile(words):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [w for w in words[1:] if "=" not in w and w not in targets] == []


def test_extras_and_files_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\.\[([\w,]+)\]", TEXT):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for path in re.findall(r"(?:tests|experiments|docs|ahmf_jax|data_pipelines)/[\w/.]*\w", TEXT):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#\s]+)\)", TEXT))
def test_links_lead_somewhere(target):
    if not target.startswith("http"):
        assert (ROOT / target).exists()


def test_python_runs(run, bundle, tmp_path, compiled):
    """In a process as a user's, in a folder that has, under the names of the text, what the text reads."""
    text = "\n".join(PYTHON)
    for name in set(re.findall(r'"([^"\n]+\.(?:png|npy|pfm|jpg|safetensors)|runs/[^"\n]+)"', text)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("runs/"):
            shutil.copytree(run, path)
        elif name.endswith(".safetensors"):
            shutil.copy(bundle, path)
        elif "depth" in name:
            write_depth(path, np.add.outer(np.arange(6), np.arange(8)).astype(np.uint8))
        else:
            write_picture(path, np.zeros((24, 32, 3), np.uint8))
    script = "import numpy\n"
    for block in PYTHON:
        # Fewer features than a useful network has, or this would take half a minute.
        script += re.sub(r"num_levels=\d+", "num_levels=1, features=2", block)
        for name in re.findall(r"^(depth_hr)\b", block, re.M):
            script += f"assert numpy.isfinite({name}).all() and {name}.ndim in (2, 4)\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
