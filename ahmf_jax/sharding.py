"""Where arrays live: a batch's rows over the mesh's axis `data`, its images' height over `spatial`.

Parameters and the optimiser's state are whole on every device, or, as in FSDP, split over `data`. Several processes
share one mesh, and each brings the rows that its own devices need.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from ahmf_jax.errors import InputError

AXES = ("data", "spatial")
# Rows of low-resolution depth that a device has at the least: the widest kernel (x16's 5 x 5) and the bicubic
# up-sampling read two rows of either neighbour, and would otherwise need a neighbour's neighbour.
MIN_ROWS = 2
# Elements of the smallest array that FSDP splits: below, gathering it costs more than its bytes.
MIN_SPLIT = 1024


def parse_mesh(text: str) -> tuple[int | None, int]:
    """The sizes of `data` (None: not given) and `spatial` (1 if not given) in text such as `data=4,spatial=2`.

    Raises:
      InputError: other text.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (s.strip() for s in part.partition("="))
        # A size of more than six digits is no number of devices, and one of thousands is no number to int().
        if name not in ("data", "spatial") or name in sizes or not (size.isdecimal() and len(size) <= 6 and int(size)):
            raise InputError(
                f"mesh {text!r}: {part.strip()!r} is not data=N or spatial=N; write data=4,spatial=2 or auto"
            )
        sizes[name] = int(size)
    return sizes.get("data"), sizes.get("spatial", 1)


def _of_each_process(devices: Sequence[Any], size: int) -> list[Any]:
    """`size` of the devices, as many of each process, process after process; empty where that is not possible."""
    held = Counter(device.process_index for device in devices)
    share, rest = divmod(size, len(held))
    if rest or share > min(held.values()):
        return []
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return [device for process in sorted(held) for device in [d for d in ordered if d.process_index == process][:share]]


def make_mesh(data: int | None = None, spatial: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data` x `spatial` devices, by default of all there are.

    The axes are Auto: under Explicit axes, the default of `jax.make_mesh`, a pixel-shuffle of a sharded batch does
    not trace.

    Raises:
      InputError: there are not as many devices, or not as many in each process.
    """
    devices = jax.devices() if devices is None else list(devices)
    data = max(len(devices) // spatial, 1) if data is None else data
    chosen = _of_each_process(devices, data * spatial)
    if not chosen:
        processes = len({device.process_index for device in devices})
        per_process = f", as many of each of the {processes} processes" if processes > 1 else ""
        raise InputError(
            f"mesh data={data},spatial={spatial} needs {data * spatial} devices{per_process}, and there are "
            f"{len(devices)}: choose a smaller mesh, or auto"
        )
    mesh = jax.make_mesh((data, spatial), AXES, axis_types=(AxisType.Auto,) * 2, devices=chosen)
    if None in _shares(_processes(mesh)).values():
        # JAX has ordered the devices after a TPU's network, and a process's rows no longer lie together.
        mesh = Mesh(np.array(chosen).reshape(data, spatial), AXES, axis_types=(AxisType.Auto,) * 2)
    if None in _shares(_processes(mesh)).values():
        raise InputError(
            f"mesh data={data},spatial={spatial}: the devices of a process would hold parts of several shares of the "
            "batch; choose a spatial that divides their number, or is a multiple of it"
        )
    return mesh


def choose_mesh(
    text: str, batch_size: int, rows: int, devices: Sequence[Any] | None = None, *, least_rows: int = MIN_ROWS
) -> Mesh:
    """The mesh that a configuration asks for.

    Args:
      text: for `parse_mesh`, or `auto`: as many devices as the batch and the height can be divided over, and of
        those meshes the one with most on `data`, whose devices talk least.
      batch_size: of the global batch.
      rows: height of the low-resolution patch.
      devices: all there are by default.
      least_rows: that a device has of it (`Model.least_rows`).

    Raises:
      InputError: the text, or the mesh it asks for divides neither batch nor height.
    """
    devices = jax.devices() if devices is None else list(devices)
    if text != "auto":
        data, spatial = parse_mesh(text)
        mesh = make_mesh(data, spatial, devices)
        data = mesh.shape["data"]
        if batch_size % data:
            raise InputError(f"mesh {text}: a batch of {batch_size} cannot be divided over data={data}")
        if not _divides(rows, spatial, least_rows):
            raise InputError(
                f"mesh {text}: a low-resolution patch of {rows} rows cannot be divided over spatial={spatial}: each "
                f"device needs as many, and {least_rows} at the least"
            )
        return mesh
    candidates = [
        (data, spatial)
        for data in range(1, len(devices) + 1)
        for spatial in range(1, len(devices) // data + 1)
        if batch_size % data == 0 and _divides(rows, spatial, least_rows)
    ]
    for data, spatial in sorted(candidates, key=lambda shape: (math.prod(shape), shape[0]), reverse=True):
        chosen = _of_each_process(devices, data * spatial)
        processes = np.array([device.process_index for device in chosen], int).reshape(-1, spatial)
        if chosen and None not in _shares(processes).values():
            return make_mesh(data, spatial, devices)
    count = len({device.process_index for device in devices})
    raise InputError(
        f"a batch of {batch_size} of {rows} low-resolution rows cannot be divided over {count} processes: "
        f"choose a batch size that is a multiple of {count}"
    )


def _divides(rows: int, spatial: int, least: int) -> bool:
    return rows % spatial == 0 and (spatial == 1 or rows // spatial >= least)


def batch_sharding(mesh: Mesh, ndim: int = 4) -> NamedSharding:
    """Of a batch's arrays: images (4 axes) by rows of the batch and by height, others by rows of the batch."""
    return NamedSharding(mesh, PartitionSpec("data", "spatial") if ndim == 4 else PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(shapes: Any, mesh: Mesh, fsdp: bool) -> Any:
    """A sharding for each leaf of a state, given by its shapes: whole, or with `fsdp` split over `data`.

    Split is the largest axis that `data` divides; arrays of fewer than `MIN_SPLIT` elements stay whole.
    """
    data = mesh.shape["data"]

    def of_leaf(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % data == 0]
        if not fsdp or math.prod(leaf.shape) < MIN_SPLIT or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "data"))

    return jax.tree.map(of_leaf, shapes)


def whole(tree: Any) -> Any:
    """In a jitted function under `jax.set_mesh`: every leaf whole on every device; without a mesh, `tree` itself.

    For parameters that FSDP has split, inside the function that is differentiated: they are gathered before they are
    used, and their gradients are summed as a whole. Left to itself, XLA would rather split the channels of a
    convolution as its kernel is split, and gather the activations, which are far larger.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:  # in `jax.shard_map` a device has what it has
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def local_copy(tree: Any, mesh: Mesh) -> Any:
    """The whole arrays on this process's first device, for what each process computes by itself; all take part."""
    copies = jax.jit(_identity, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), copies)


def _identity(tree: Any) -> Any:
    """One function for all calls: a new one each time would be compiled each time."""
    return tree


def _processes(mesh: Mesh) -> Int[np.ndarray, "data spatial"]:
    """The process of each device."""
    return np.array([device.process_index for device in mesh.devices.flat]).reshape(mesh.devices.shape)


def _shares(processes: Int[np.ndarray, "data spatial"]) -> dict[int, tuple[int, int] | None]:
    """Which share of the batch each process needs, `(index, count)`; None where it is not one of equal shares."""
    shares: dict[int, tuple[int, int] | None] = {}
    for process in np.unique(processes):
        held = np.nonzero((processes == process).any(1))[0]
        together = held[-1] - held[0] + 1 == len(held) and held[0] % len(held) == 0 and len(processes) % len(held) == 0
        shares[int(process)] = (int(held[0]) // len(held), len(processes) // len(held)) if together else None
    return shares


def rows_of_process(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Which rows of a global batch this process has to bring.

    Returns `(index, count)`: the index-th of `count` equal contiguous shares. Where the axis `spatial` crosses
    processes, several need the same rows, of which each places its part of the height.

    Raises:
      InputError: the batch cannot be divided so.
    """
    share = _shares(_processes(mesh))[jax.process_index()]
    assert share is not None  # make_mesh has seen to that
    if batch_size % mesh.shape["data"]:
        raise InputError(f"a batch of {batch_size} cannot be divided over data={mesh.shape['data']}")
    return share


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global arrays of which `batch` holds the rows of this process (`rows_of_process`), at full height."""
    index, count = rows_of_process(mesh, mesh.shape["data"])

    def place(array: np.ndarray) -> jax.Array:
        first = index * len(array)  # row of the global batch

        def part(where: Any) -> np.ndarray:  # the slices of one device
            start, stop, _ = where[0].indices(count * len(array))
            return array[(slice(start - first, stop - first), *where[1:])]

        return jax.make_array_from_callback(
            (count * len(array), *array.shape[1:]), batch_sharding(mesh, array.ndim), part
        )

    return {name: place(array) for name, array in batch.items()}
