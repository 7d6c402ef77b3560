"""What README.md tells people to type works: commands parse, targets and files exist, and its Python runs."""

import re
import shlex
import shutil
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
# Commands in running text, too: `ahmf benchmark`.
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


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block, run, bundle, tmp_path, monkeypatch):
    """In a folder that has, under the names of the block, a small run, a small bundle, a depth map and its guide."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r'"([^"\n]+\.(?:png|npy|pfm|jpg|safetensors)|runs/[^"\n]+)"', block):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("runs/"):
            shutil.copytree(run, name)
        elif name.endswith(".safetensors"):
            shutil.copy(bundle, name)
        elif "depth" in name:
            write_depth(name, np.add.outer(np.arange(6), np.arange(8)).astype(np.uint8))
        else:
            write_picture(name, np.zeros((24, 32, 3), np.uint8))
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "depth_hr" in names:
        assert np.isfinite(np.asarray(names["depth_hr"])).all() and np.ndim(names["depth_hr"]) in (2, 4)
