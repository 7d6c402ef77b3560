"""How much memory there is, of a device or of this process; Linux tells of the CPU's."""

import contextlib
import re
from pathlib import Path
from typing import Any

from ahmf_jax.errors import InputError

MEMORY_GROUP = Path("/sys/fs/cgroup")


def free(device: Any) -> float:
    """Bytes that may still be taken: of an accelerator's memory, or the host's; infinite where nothing tells."""
    stats = device.memory_stats()
    if stats is not None:
        return float(stats["bytes_limit"] - stats["bytes_in_use"])
    known = [float("inf")]
    with contextlib.suppress(OSError):
        known.append(_kilobytes("/proc/meminfo", "MemAvailable") * 1024)
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" where it has none
        limit, used = (int((MEMORY_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)$", (MEMORY_GROUP / "memory.stat").read_text(), re.MULTILINE)
        known.append(limit - used + (int(cached[1]) if cached else 0))
    return max(float(min(known)), 0.0)


def check(what: str, wanted: float, device: Any, remedy: str) -> None:
    """InputError where `what`, a subject and its verb, more bytes than are free, with the remedy."""
    there = free(device)
    if wanted > there:
        raise InputError(f"{what} about {wanted / 2**30:.1f} GiB, and {there / 2**30:.1f} are free: {remedy}")


def forget_peak() -> None:
    """Compiling takes memory too: from here on the process's largest size is counted anew, where Linux lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: Any) -> int | None:
    """The most bytes in use so far: of the device's memory, or resident in this process; None where nothing tells."""
    stats = device.memory_stats()
    if stats is not None:
        return stats["peak_bytes_in_use"]
    with contextlib.suppress(OSError):
        return _kilobytes("/proc/self/status", "VmHWM") * 1024
    return None


def _kilobytes(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(path).read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{path} does not tell {name}")
    return int(found[1])
