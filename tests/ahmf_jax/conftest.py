"""What the tests of parity with the PyTorch twins share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch without threads, which for images of a few pixels only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, dict[str, float]]]]:
    """Rows (what, {kind: difference}), printed after the module's last test."""
    rows: list[tuple[str, dict[str, float]]] = []
    yield rows
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print()
        for what, found in rows:
            print(f"{what:<62}" + ", ".join(f"{kind} {value:.1e}" for kind, value in found.items()))
