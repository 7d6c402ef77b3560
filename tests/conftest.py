"""What holds for every test: the platform, eight devices, and the shapes that the library's annotations name."""

import os

# Before anything imports JAX. The tests ask the same of every machine, so they run on the CPU unless told otherwise;
# eight devices are there for the tests of sharding, and a test that names none uses the first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Parity is measured in full float32, also where a GPU would multiply in TF32.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

from jaxtyping import install_import_hook

# Before anything imports the library: from here on its annotations are checked at every call.
install_import_hook(["ahmf_jax"], "beartype.beartype")
