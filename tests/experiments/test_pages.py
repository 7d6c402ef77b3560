"""Large pages are asked for where that helps, once, and in a command that is otherwise the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import pages


@pytest.fixture
def madvise(tmp_path: Path) -> Path:
    mode = tmp_path / "enabled"
    mode.write_text("always [madvise] never\n")
    return mode


@pytest.mark.parametrize(
    ("given", "tunables"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, None),  # the user's word holds
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, None),  # or it would start without end
    ],
)
def test_what_is_set(
    given: dict[str, str], tunables: str | None, madvise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_glibc", lambda: (2, 35))
    assert pages.large_pages(given, madvise).get("GLIBC_TUNABLES") == tunables


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_where_it_changes_nothing(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_glibc", lambda: (2, 35))
    if text is not None:
        (tmp_path / "enabled").write_text(text)
    assert pages.large_pages({}, tmp_path / "enabled") == {}


def test_nothing_with_an_older_or_another_c_library(madvise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.os, "confstr", lambda name: "glibc 2.34", raising=False)
    assert pages.large_pages({}, madvise) == {}
    monkeypatch.setattr(pages.os, "confstr", lambda name: None)
    assert pages.large_pages({}, madvise) == {}
    monkeypatch.setattr(pages.os, "confstr", lambda name: "glibc 2.41.9000")
    assert pages.large_pages({}, madvise)


def test_the_command_starts_once_more_as_the_same_process(madvise: Path) -> None:
    if pages._glibc() < (2, 35):
        pytest.skip("no glibc of 2.35 or later")
    script = (
        "import os, sys; from pathlib import Path; from experiments import pages; print(os.getpid(), flush=True);"
        f"pages.large_pages.__defaults__ = (Path({str(madvise)!r}),); pages.restart_with_large_pages();"
        "print(sys.argv[1:], os.environ['GLIBC_TUNABLES'])"
    )
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", script, "a b", "--c"], env=env, capture_output=True, text=True)
    first, second, rest = done.stdout.splitlines()
    assert first == second
    assert rest == "['a b', '--c'] glibc.malloc.hugetlb=1"
    assert not done.stderr
