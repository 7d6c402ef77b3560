"""Large memory pages for a training on a Linux CPU, without the user's doing.

XLA takes the working memory of every step anew from the system, which clears it page by page: a fifth of AHMF's step
(`docs/results/speed.md`). glibc's allocator asks for pages of 2 MB instead of 4 kB where its tunable says so, which is
read only as a program starts. So a training starts once more, with the tunable set.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages(environment: Mapping[str, str], mode: Path = MODE) -> dict[str, str]:
    """The variables that make glibc ask for large pages; none where it does, cannot, or it would change nothing.

    Args:
      environment: of the program; what it says of the tunable itself holds.
      mode: the file in which the system says who gets large pages: "always", who asks ("madvise") or "never".
    """
    given = environment.get("GLIBC_TUNABLES", "")
    if TUNABLE in given or _glibc() < (2, 35):
        return {}
    with contextlib.suppress(OSError):  # no such file: a system without them
        if "[madvise]" in mode.read_text():
            return {"GLIBC_TUNABLES": ":".join(filter(None, [given, f"{TUNABLE}=1"]))}
    return {}


def restart_with_large_pages() -> None:
    """Starts this very command again in this very process, if that gives it large pages; else returns.

    To be called before anything else: what the program has done is lost, but for its process id.
    """
    variables = large_pages(os.environ)
    if variables:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})


def _glibc() -> tuple[int, int]:
    """The version of glibc; (0, 0) with another C library."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError):  # not a system, or not a C library, that knows the question
        return 0, 0
    major, minor = version.split(".")[:2] if name == "glibc" else ("0", "0")
    return int(major), int(minor)
