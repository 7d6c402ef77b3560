"""Several processes of one training on this machine, for tests."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """What is left of a process."""

    status: int
    out: str
    err: str


def free_port() -> int:
    """A port that nothing listens on, now."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def environment(devices: int, **more: str) -> dict[str, str]:
    """This one's, but no scheduler's: `devices` simulated devices, this checkout, and `more`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "JAX_", "TPU_"))
    }
    fixed = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    return {**kept, **fixed, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "1", **more}


def start(args: Sequence[str], env: Mapping[str, str], **options: object) -> "subprocess.Popen[str]":
    """Python with `args`."""
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def ends(processes: Sequence["subprocess.Popen[str]"], timeout: float = 60) -> list[Ended]:
    """Waits for them all; kills them after `timeout` seconds or when the test is given up."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [Ended(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]
