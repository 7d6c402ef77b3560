"""`ahmf doctor`: what there is on this machine, whether it is used, and whether the network computes what it should."""

import contextlib
import importlib.metadata
import math
import os
import platform
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

from experiments.findings import Finding
from experiments.pages import MODE, TUNABLE, large_pages

DISTRIBUTION = "ahmf-jax"
# Told with all that begin so: what the libraries below read.
VARIABLES = ("JAX_", "XLA_", "AHMF_", "CUDA_VISIBLE_DEVICES", "GLIBC_TUNABLES", "OMP_NUM_THREADS")
VERSIONS = ("jax", "jaxlib", "flax", "numpy")
# Extras that the user has for another machine, or needs for work on this program alone.
NOT_MISSED = ("cuda12", "tpu", "dev")
LOW_DISK = 2 * 2**30

# What the self test's network gives, every 97th pixel, and how far rounding may lead from it.
ANSWER = (0.1793708, -0.1383942, 0.05528608, 0.3342721, 0.5224126, 0.3670573, 0.1694483, -0.04638661)
TOLERANCE = 1e-4


def doctor() -> bool:
    """Prints everything, and returns whether the self test passed."""
    import jax

    for finding in (*requirements(), *environment(), *caches()):
        print(finding, flush=True)
    try:
        devices = jax.devices()
    except RuntimeError as error:
        says = f"JAX finds none: {' '.join(str(error).split())}"
        print(Finding("devices", says, "certain", True, "unset JAX_PLATFORMS, or repair the driver"))
        return False
    for finding in (*device_list(devices), *unused(jax.default_backend())):
        print(finding, flush=True)
    finding = self_test()
    print(finding)
    return not finding.wrong


def requirements() -> list[Finding]:
    """Versions, what is missing or of another version than is asked for, and the extras that are not there."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    found = [Finding("versions", f"python {platform.python_version()}, {versions}; {platform.platform()}")]
    asked = _asked()
    if not asked:
        return [*found, Finding("packages", "cannot be told: neither installed nor run from a checkout", "possible")]
    extras = dict.fromkeys(extra for _, extra in asked)
    for extra in extras:
        missing = [text for one, of in asked if of == extra for text in _missing(one)]
        if missing and not extra:
            remedy = f"pip install --upgrade {DISTRIBUTION}"
            found.append(Finding("packages", ", ".join(missing), "certain", True, remedy, missing))
        elif missing and extra not in NOT_MISSED:
            remedy = f"if you need it: pip install '{DISTRIBUTION}[{extra}]'"
            found.append(Finding("extras", f"{extra} is not there: {', '.join(missing)}", remedy=remedy, value=extra))
        elif not missing and extra:
            found.append(Finding("extras", f"{extra} is there", value=extra))
    return found


def _asked() -> list[tuple[Requirement, str]]:
    """What this program requires on this machine, each with the name of its extra, or "" for all."""
    try:
        texts = importlib.metadata.requires(DISTRIBUTION) or []
        extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        place = Path(__file__).resolve().parents[1] / "pyproject.toml"
        if not place.is_file():
            return []
        project = tomllib.loads(place.read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"]
        groups = {"": project["dependencies"], **optional}
        return [(Requirement(text), extra) for extra, group in groups.items() for text in group]
    return [(one, extra) for extra in ("", *extras) for one in map(Requirement, texts) if _applies(one, extra)]


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether an extra brings it on this machine; `""`: whether it is there without one."""
    if requirement.marker is None:
        return not extra
    return requirement.marker.evaluate({"extra": extra}) and (
        not extra or not requirement.marker.evaluate({"extra": ""})
    )


def _missing(requirement: Requirement) -> list[str]:
    """What of it is not installed, or not as asked."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return [f"no {requirement.name}"]
    if not requirement.specifier.contains(version, prereleases=True):
        return [f"{requirement.name} {version}, not {requirement.specifier}"]
    below = map(Requirement, importlib.metadata.requires(requirement.name) or [])
    brought = [one for one in below for extra in requirement.extras if _applies(one, extra)]
    return [text for one in brought for text in _missing(one)]


def environment() -> list[Finding]:
    """The variables that change how it runs, and the memory pages."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    says = " ".join(f"{name}={value}" for name, value in given.items()) or "none of JAX's or XLA's is set"
    found = [Finding("variables", says, value=given)]
    with contextlib.suppress(OSError):  # no such file: a system without them
        mode = MODE.read_text().split("[")[1].split("]")[0]
        if TUNABLE in os.environ.get("GLIBC_TUNABLES", ""):
            use = "asked for"
        elif large_pages(os.environ):
            use = "`ahmf train` and `ahmf demo` ask for them by starting again"
        else:
            use = "nothing has to ask" if mode == "always" else "not to be had"
        found.append(Finding("large pages", f"{mode}: {use}"))
    return found


def caches() -> list[Finding]:
    """Where compiled programs and data sets lie, how much they hold, and what is free there."""
    import jax

    from ahmf_jax.engine import keep_compiled
    from data_pipelines.datasets import default_data_dir

    keep_compiled()
    compiled = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    places = {"compiled": None if compiled is None else Path(compiled), "data sets": default_data_dir()}
    found = []
    for name, place in places.items():
        if place is None:
            found.append(Finding(name, "not kept: every start compiles anew"))
            continue
        sizes = list(_sizes(place))
        free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
        says = f"{place}: {len(sizes)} files, {sum(sizes) / 2**20:,.0f} MiB; {free / 2**30:,.1f} GiB free"
        remedy = "make room, or choose another disk" if free < LOW_DISK else ""
        found.append(Finding(name, says, "certain", free < LOW_DISK, remedy, place))
    return found


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone, or not ours to see
            if path.is_file():
                yield path.stat().st_size


def device_list(devices: list[Any]) -> list[Finding]:
    """Every device and the memory that is free on it."""
    from ahmf_jax import memory

    found = []
    for device in devices:
        kind = device.device_kind if device.platform != "cpu" else f"{os.cpu_count()} processors"
        free = memory.free(device)
        says = f"{device.platform} {device.id}: {kind}"
        if math.isfinite(free):
            says += f", {free / 2**30:.1f} GiB free"
        found.append(Finding("device", says, value=device.platform))
    return found


def unused(backend: str, root: Path = Path("/")) -> list[Finding]:
    """An accelerator that the system knows and JAX does not use.

    Args:
      backend: JAX's default.
      root: of the file system.
    """
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if backend != "cpu" or not (cards or (root / "dev/nvidia0").exists()):
        return []
    names = []
    for card in cards:
        with contextlib.suppress(OSError):
            lines = card.read_text().splitlines()
            names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    says = f"{', '.join(names) or 'an NVIDIA GPU'} is there, and JAX computes on the CPU"
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if "cpu" in platforms.split(","):
        return [Finding("GPU", f"{says}: JAX_PLATFORMS={platforms}", "certain", True, "unset JAX_PLATFORMS", "unset")]
    remedy = f"pip install '{DISTRIBUTION}[cuda12]'"
    return [Finding("GPU", says, "certain", True, remedy, "install")]


def self_test() -> Finding:
    """Runs a small network of made-up weights on a made-up image, and compares with what is stored here."""
    start = time.perf_counter()
    given = compute_answer().ravel()[::97]
    seconds = time.perf_counter() - start
    difference = float(np.abs(given - np.array(ANSWER)).max())
    says = f"largest difference {difference:.1e}, in {seconds:.1f} s; at most {TOLERANCE:g} is rounding"
    if difference <= TOLERANCE:  # not so of NaN
        return Finding("self test", f"passed: {says}", value=difference)
    remedy = "install the versions of constraints.txt; with JAX_PLATFORMS=cpu it shows whether the device is to blame"
    return Finding("self test", f"FAILED: {says}", "certain", True, remedy, difference)


def compute_answer() -> np.ndarray:
    """(24, 32): what the test's network makes of its image, with full products on every device.

    All numbers are drawn from the raw stream of PCG64, which NumPy promises never to change (NEP 19).
    """
    import jax

    from ahmf_jax.engine import Engine
    from ahmf_jax.export import Trained
    from ahmf_jax.models import AHMF
    from ahmf_jax.state import init_params

    stream = np.random.PCG64(0)

    def draw(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        parts = np.asarray(stream.random_raw(math.prod(shape))).astype(np.float64) / 2.0**64
        return (low + (high - low) * parts).reshape(shape).astype(np.float32)

    model = AHMF(scale=4, num_levels=1, features=4)
    shapes = jax.eval_shape(lambda: init_params(model))
    params = jax.tree.map(lambda x: draw(x.shape, -0.4, 0.4), shapes)
    depth, guide = draw((6, 8), 0, 1), draw((24, 32, 3), 0, 1)
    with jax.default_matmul_precision("highest"):
        engine = Engine(Trained(model, params, "range", "m", 1.0))
        return engine(depth, np.ones(depth.shape, bool), guide)
