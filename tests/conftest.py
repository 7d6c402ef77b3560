"""What holds for every test: the platform, eight devices, and the shapes that the library's annotations name."""

import os
from pathlib import Path

import pytest

# Before anything imports JAX. The tests ask the same of every machine, so they run on the CPU unless told otherwise;
# eight devices are there for the tests of sharding, and a test that names none uses the first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Parity is measured in full float32, also where a GPU would multiply in TF32.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

from jaxtyping import install_import_hook

# Before anything imports the library: from here on its annotations are checked at every call.
install_import_hook(["ahmf_jax"], "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are kept: many tests run the same networks, and compiling is most of their time."""
    import jax

    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder
