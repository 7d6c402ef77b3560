"""What holds for every test: the platform, eight devices, how programs are compiled and kept, and the shapes that the
library's annotations name."""

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports JAX. The tests ask the same of every machine, so they run on the CPU unless told otherwise;
# eight devices are there for the tests of sharding, and a test that names none uses the first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Parity is measured in full float32, also where a GPU would multiply in TF32.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Compiling is most of the tests' time, and a third of it without machine code that is optimised: what the programs
    # compute, exchange and hold is decided before that. Processes that the tests start inherit it.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

from jaxtyping import install_import_hook

from tests.annotations import checked

# Before anything imports the library: from here on its annotations are checked at every call.
install_import_hook(["ahmf_jax"], f"{checked.__module__}.{checked.__name__}")

# Traced programs are many small objects that stay: to look through them for what is unused takes a sixth of the time.
gc.set_threshold(50_000, 50, 50)


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled programs are kept, for all workers of these tests and all processes that they start."""
    import jax
    from jax._src.lru_cache import LRUCache

    folder = tmp_path_factory.getbasetemp()
    # JAX locks the folder when its size is bounded, and for that needs a library that comes with PyTorch.
    locked = importlib.util.find_spec("filelock") is not None
    if locked and "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "compiled"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": 10**10 if locked else -1,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    with pytest.MonkeyPatch.context() as patch:
        # It would read the age of every program that is kept whenever another comes, 0.1 s each time in the end.
        patch.setattr(LRUCache, "_evict_if_needed", lambda *_, **__: None)
        yield folder
