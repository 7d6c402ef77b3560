"""Imports point one way (experiments -> data_pipelines -> ahmf_jax), and importing the library is quiet and light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"ahmf_jax", "data_pipelines", "experiments"}
# What the pipelines may take from the library: none of these imports JAX.
SHARED = ("ahmf_jax.resample", "ahmf_jax.errors", "ahmf_jax.holes", "ahmf_jax.writing")


def imported(source: str, module: str) -> Iterator[tuple[str, bool]]:
    """Full names of what a module imports ("a.b.c" for `from a.b import c`), and whether its own import does it."""

    def visit(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_once
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", at_once
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        later = typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_once and not later)

    return visit(ast.parse(source), True)


def breaks(source: str, module: str) -> list[str]:
    """The names that the module imports against the rules."""
    side = module.split(".")[0]
    found = []
    for name, at_once in imported(source, module):
        top = name.split(".")[0]
        ours = top in OURS and top != side
        torch_at_once = top == "torch" and at_once and not module.startswith("ahmf_jax.torch_modules.")
        if side == "ahmf_jax":
            wrong = ours
        elif side == "data_pipelines":
            shared = any(f"{name}.".startswith(f"{module}.") for module in SHARED)
            wrong = (ours and not shared) or top in ("jax", "jaxlib", "flax", "optax", "orbax")
        else:
            wrong = False
        if wrong or torch_at_once:
            found.append(name)
    return found


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in sorted(OURS):
        for path in sorted((ROOT / package).rglob("*.py")):
            # An `__init__` keeps its own last part: `from . import x` in it is then relative to the package itself.
            found.append((".".join(path.relative_to(ROOT).with_suffix("").parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), [pytest.param(*pair, id=pair[0]) for pair in modules()])
def test_imports_point_one_way(module, path):
    assert breaks(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("ahmf_jax.layers", "import experiments.cli", ["experiments.cli"]),
        ("ahmf_jax.layers", "def f():\n    from data_pipelines import files", ["data_pipelines.files"]),
        ("ahmf_jax.layers", "from .. import experiments", []),  # beyond the top: Python itself refuses it
        ("ahmf_jax.layers", "import torch", ["torch"]),
        ("ahmf_jax.layers", "def f():\n    import torch", []),
        ("ahmf_jax.torch_modules.ahmf", "from torch import nn", []),
        ("ahmf_jax.torchy", "if True:\n    from torch.nn import Module", ["torch.nn.Module"]),
        ("data_pipelines.loader", "from ahmf_jax import resample, errors", []),
        ("data_pipelines.loader", "from ahmf_jax.resample import resize", []),
        ("data_pipelines.loader", "from ahmf_jax import resampler", ["ahmf_jax.resampler"]),
        ("data_pipelines.loader", "from ahmf_jax import losses", ["ahmf_jax.losses"]),
        ("data_pipelines.loader", "import ahmf_jax", ["ahmf_jax"]),
        ("data_pipelines.loader", "def f():\n    import jax.numpy as jnp", ["jax.numpy"]),
        ("data_pipelines.loader", "from experiments import train", ["experiments.train"]),
        ("data_pipelines.datasets.__init__", "from . import nyu\nfrom .. import files", []),
        ("experiments.cli", "import ahmf_jax.models, data_pipelines.files, jax", []),
        ("experiments.cli", "import torch", ["torch"]),
    ],
)
def test_the_rules_catch_what_they_name(module, source, wrong):
    assert breaks(source, module) == wrong


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=ROOT)


def test_importing_the_library_is_silent_and_starts_no_backend():
    done = run("""
import sys
import ahmf_jax
bridge = sys.modules.get("jax._src.xla_bridge")
assert bridge is None or not bridge._backends, "a backend was started"
assert "torch" not in sys.modules, "torch was imported"
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_study_is_watched_without_jax():
    """From a machine that has other work to do, again and again."""
    done = run("""
import sys, tempfile
import experiments.cli
from experiments.config import TrainConfig
from experiments.studies.storage import open_storage
from experiments.studies.study import Row, Spec, make_study
with tempfile.TemporaryDirectory() as folder:
    url = f"sqlite:///{folder}/studies.db"
    rows = [Row("m = 1", {"model.num_levels": 1})]
    make_study(open_storage(url, create=True), "levels", Spec("levels", TrainConfig()), rows=rows)
    experiments.cli.parse(["study", "show", "levels", "--storage", url])()
assert not {'jax', 'jaxlib', 'flax', 'torch'} & set(sys.modules)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Study levels" in done.stdout


@pytest.mark.parametrize("module", [*SHARED, "data_pipelines.files"])
def test_what_both_sides_use_runs_without_jax(module):
    done = run(f"import sys, {module}\nassert not {{'jax', 'jaxlib', 'flax', 'torch'}} & set(sys.modules)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
