"""What a number was made with: the program's commit and version, the libraries', and the hardware."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from experiments.benchmark_programs import processor_name, processors

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-contrib-python-headless")


@functools.cache
def provenance() -> dict[str, Any]:
    """`version`, `commit` (None where the program is not run from a checkout), `versions`, `hardware`.

    A version is None where the package is not installed as such.
    """
    return {
        "version": _version("ahmf-jax"),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "hardware": hardware(),
    }


def _version(name: str) -> str | None:
    """Of an installed package; None where it is there by other means, as OpenCV under another package's name."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> str:
    """The devices that JAX has, and the processor."""
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    found = f"{len(kinds)} x {kinds[0]}"
    return f"{_processor()}, {found}" if jax.default_backend() == "cpu" else f"{found}, {_processor()}"


def _processor() -> str:
    """Its name, and how many of them this process may use."""
    count = len(processors())
    return f"{processor_name()}, {count} processor{'s' * (count != 1)}"


def _commit() -> str | None:
    """Of the checkout that this file is in, with -dirty where tracked files are changed."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", "--", Path(__file__).name) == "":
            return None  # installed below somebody else's checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
