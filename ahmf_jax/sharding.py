"""Where arrays live: batches split over the devices, parameters on every one."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: int | None = None) -> Mesh:
    """One axis, `data`, over the first `devices` devices, all by default.

    The axis is Auto: under Explicit axes, the default of `jax.make_mesh`, a pixel-shuffle of a sharded
    batch does not trace.
    """
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), ("data",), axis_types=(AxisType.Auto,), devices=chosen)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
