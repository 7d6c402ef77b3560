"""The systems, one file each, behind one interface: `model.apply({"params": p}, depth_lr, guide)`."""

from ahmf_jax.models.ahmf import AHMF

MODELS = {"ahmf": AHMF}

__all__ = ["AHMF", "MODELS"]
