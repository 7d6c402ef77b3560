"""The meshes, what lies where on them, and that the training step computes the same on each and gathers nothing."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ahmf_jax import InputError, layers, sharding, state
from ahmf_jax.models import AHMF
from ahmf_jax.resample import resize
from ahmf_jax.sharding import batch_sharding, choose_mesh, make_mesh, parse_mesh, place_batch, rows_of_process
from experiments.benchmark_scaling import Layout, Sizes, collectives, compile_step, equality, gathered_activations

SMALL = Sizes(scale=2, num_levels=2, features=16, batch=4, rows=16, width=5)
TOLERANCE = 1e-5


def network(variant: Any = "release", **fields: Any) -> AHMF:
    sizes = {"scale": SMALL.scale, "num_levels": SMALL.num_levels, "features": SMALL.features}
    return AHMF(**sizes | fields, variant=variant)


@pytest.fixture
def quick_compiles() -> Iterator[None]:
    """Half the time to compile; what the devices exchange and hold is the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def drawn_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters to start from: to compile the initialisation for a mesh takes twice as long as the training step.

    That it gives the same on several devices as on one, test_launch.py shows.
    """

    def drawing(model: AHMF, *_: Any) -> Callable[..., Any]:
        def draw(seed: int, _: float) -> Any:
            rng, shapes = np.random.default_rng(seed), jax.eval_shape(lambda: state.init_params(model))

            def values(x: Any) -> np.ndarray:
                bound = np.prod(x.shape[-4:-1]) ** -0.5 if x.ndim > 3 else 0.1
                return rng.uniform(-bound, bound, x.shape).astype(np.float32)

            return jax.tree.map(values, shapes)

        return draw

    monkeypatch.setattr(state, "_draw", drawing)


def devices(*processes: int) -> list[Any]:
    """Devices that are none, in these processes."""
    return [types.SimpleNamespace(process_index=process, id=i) for i, process in enumerate(processes)]


def test_a_mesh_is_read() -> None:
    assert parse_mesh("data=4,spatial=2") == parse_mesh(" spatial = 2 , data=4") == (4, 2)
    assert parse_mesh("spatial=8") == (None, 8)
    assert parse_mesh("data=3") == (3, 1)


@pytest.mark.parametrize(
    "text", ["", "data", "data=0", "data=-1", "data=1.5", "rows=2", "data=2,data=2", "data=" + 5000 * "9"]
)
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write data=4,spatial=2 or auto"):
        parse_mesh(text)


def test_a_mesh_takes_all_devices_or_as_many_as_are_asked_for() -> None:
    assert dict(make_mesh().shape) == {"data": 8, "spatial": 1}
    assert dict(make_mesh(3).shape) == {"data": 3, "spatial": 1}
    assert dict(make_mesh(spatial=4).shape) == {"data": 2, "spatial": 4}
    assert make_mesh(2, 2).devices.tolist() == np.reshape(jax.devices()[:4], (2, 2)).tolist()
    with pytest.raises(InputError, match=r"data=3,spatial=4 needs 12 devices, and there are 8"):
        make_mesh(3, 4)


@pytest.mark.parametrize(
    ("batch_size", "rows", "expected"),
    [
        (16, 64, (8, 1)),
        (4, 64, (4, 2)),
        (1, 64, (1, 8)),
        (6, 16, (2, 4)),
        (3, 3, (3, 1)),
        (1, 4, (1, 2)),
        (1, 3, (1, 1)),
    ],
)
def test_auto_takes_as_many_devices_as_divide_the_batch_first(
    batch_size: int, rows: int, expected: tuple[int, int]
) -> None:
    assert tuple(choose_mesh("auto", batch_size, rows).shape.values()) == expected


def test_a_mesh_that_divides_neither_batch_nor_height_is_refused() -> None:
    assert tuple(choose_mesh("spatial=4", 2, 8).shape.values()) == (2, 4)
    with pytest.raises(InputError, match=r"a batch of 3 cannot be divided over data=2"):
        choose_mesh("data=2", 3, 8)
    with pytest.raises(InputError, match=r"patch of 9 rows cannot be divided over spatial=2"):
        choose_mesh("data=1,spatial=2", 3, 9)
    with pytest.raises(InputError, match=r"patch of 8 rows cannot be divided over spatial=8.* 2 at the least"):
        choose_mesh("spatial=8", 3, 8)


def test_every_process_has_its_share_of_the_devices() -> None:
    """A mesh without a device of some process cannot be trained on: that process would wait for ever."""
    two = devices(1, 0, 0, 1)
    assert [device.id for device in sharding._of_each_process(two, 2)] == [1, 0]
    assert [device.id for device in sharding._of_each_process(two, 4)] == [1, 2, 0, 3]
    assert sharding._of_each_process(two, 3) == sharding._of_each_process(devices(0, 0, 0, 1), 4) == []
    with pytest.raises(InputError, match=r"needs 3 devices, as many of each of the 2 processes, and there are 4"):
        make_mesh(3, devices=two)
    with pytest.raises(InputError, match=r"cannot be divided over 2 processes: .* multiple of 2"):
        choose_mesh("auto", 3, 9, two)


@pytest.mark.parametrize(
    ("processes", "shares"),
    [
        ([[0], [0], [1], [1]], {0: (0, 2), 1: (1, 2)}),
        ([[0, 0], [1, 1]], {0: (0, 2), 1: (1, 2)}),
        ([[0, 1], [2, 3]], {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),  # the height crosses processes
        ([[0, 1]], {0: (0, 1), 1: (0, 1)}),
        ([[0], [1], [0], [1]], {0: None, 1: None}),
        ([[0, 0, 0], [0, 1, 1], [1, 1, 2], [2, 2, 2]], {0: (0, 2), 1: None, 2: (1, 2)}),
    ],
)
def test_which_rows_a_process_brings(
    processes: list[list[int]], shares: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sharding._shares(np.array(processes)) == shares
    mesh = make_mesh()
    monkeypatch.setattr(sharding, "_processes", lambda _: np.array(processes))
    for process, share in shares.items():
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        if share:
            assert rows_of_process(mesh, 8) == share


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="a batch of 12 cannot be divided over data=8"):
        rows_of_process(make_mesh(), 12)


@pytest.mark.parametrize(("data", "spatial"), [(8, 1), (2, 4), (1, 8), (1, 1)])
def test_a_batch_lies_where_the_mesh_says(data: int, spatial: int) -> None:
    image = np.arange(8 * 16 * 3).reshape(8, 16, 3, 1)
    mesh = make_mesh(data, spatial)
    placed = place_batch({"guide": image, "depth_span": image[:, :2, 0, 0]}, mesh)
    np.testing.assert_array_equal(placed["guide"], image)
    np.testing.assert_array_equal(placed["depth_span"], image[:, :2, 0, 0])
    assert placed["guide"].sharding == batch_sharding(mesh) and placed["depth_span"].sharding == batch_sharding(mesh, 2)
    for shard in placed["guide"].addressable_shards:
        row, part = np.argwhere(mesh.devices == shard.device)[0]
        assert shard.data.shape == (8 // data, 16 // spatial, 3, 1)
        assert shard.data[0, 0, 0, 0] == image[row * 8 // data, part * 16 // spatial, 0, 0]


def test_fsdp_splits_the_largest_axis_that_divides() -> None:
    shapes = {
        "kernel": (3, 3, 64, 128),
        "stacked": (6, 3, 3, 128, 64),
        "odd": (3, 3, 128, 6),
        "undivided": (3, 3, 130, 6),
        "small": (8, 64),
        "step": (),
    }
    specs = {
        "kernel": PartitionSpec(None, None, None, "data"),
        "stacked": PartitionSpec(None, None, None, "data"),
        "odd": PartitionSpec(None, None, "data"),
        "undivided": PartitionSpec(),
        "small": PartitionSpec(),
        "step": PartitionSpec(),
    }
    leaves = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    mesh = make_mesh(4, 2)
    assert {name: s.spec for name, s in sharding.state_shardings(leaves, mesh, True).items()} == specs
    assert all(s == sharding.replicated(mesh) for s in sharding.state_shardings(leaves, mesh, False).values())


def test_whole_gathers_under_a_mesh_and_only_there() -> None:
    mesh = make_mesh(8)
    x = jax.device_put(jnp.ones((8, 200)), batch_sharding(mesh, 2))
    assert sharding.whole(x) is x
    with jax.set_mesh(mesh):
        assert jax.jit(lambda x: 2 * sharding.whole(x))(x).sharding.is_fully_replicated


def compiled(function: Callable[..., Any], *shapes: tuple[int, ...]) -> str:
    """Of value and gradients, images split over data=2 and spatial=4, the rest whole."""
    mesh = make_mesh(2, 4)

    def both(*arguments: Any) -> Any:
        output, pull = jax.vjp(function, *arguments)
        return output, pull(jnp.sin(output))

    described = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=batch_sharding(mesh) if i == 0 else sharding.replicated(mesh))
        for i, shape in enumerate(shapes)
    ]
    return str(jax.jit(both).lower(*described).compile().as_text())


IMAGE = (4, 16, 7, 4)  # two images for each part of `data`: with one, the pixels of all would be in order


@pytest.mark.parametrize("kernel", [(3, 3, 4, 8), (5, 5, 4, 8), (1, 1, 4, 8), (3, 3, 4, 1), (5, 5, 4, 1), (1, 1, 4, 1)])
def test_a_convolution_exchanges_rows_and_gathers_nothing(kernel: tuple[int, ...]) -> None:
    program = compiled(layers.conv2d, IMAGE, kernel)
    assert not gathered_activations(program)
    assert (collectives(program)["collective-permute"] > 0) == (kernel[0] > 1)
    assert collectives(program)["all-reduce"] > 0  # the kernel's gradient


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_enlarging_exchanges_rows_and_gathers_nothing(factor: int) -> None:
    program = compiled(lambda x: resize(x, (16 * factor, 7 * factor), "torch_bicubic"), IMAGE)
    assert not gathered_activations(program)
    assert collectives(program)["collective-permute"] > 0


def test_what_gathers_is_found() -> None:
    """Without this the tests above could pass on anything: each short cut that the layers avoid is seen to gather."""

    def flat(x: Any, kernel: Any) -> Any:
        return (x.reshape(-1, 4) @ kernel[0, 0]).reshape(*x.shape[:3], -1)

    def dense(x: Any) -> Any:
        return jnp.einsum("oh,bhwc->bowc", jnp.ones((32, 16)), x)

    assert gathered_activations(compiled(flat, IMAGE, (1, 1, 4, 8)))
    assert gathered_activations(compiled(dense, IMAGE))
    assert gathered_activations("%a = (f32[2,4,7,4]{3,2,1,0}, f32[2,16,7,4]{3,2,1,0}) all-gather-start(%b), dims")
    assert not gathered_activations("%a = f32[3,3,64,64]{3,2,1,0} all-gather(%b), dims")


@pytest.mark.usefixtures("quick_compiles", "drawn_by_numpy")
@pytest.mark.parametrize(
    ("variant", "layouts"),
    [
        ("release", [Layout(2, 4, True)]),
        ("paper", [Layout(1, 8)]),
    ],
)
def test_training_is_the_same_on_every_mesh(
    variant: str, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps of Adam at the paper's rate end with one device's parameters, and no step gathers an activation.

    `ahmf benchmark scaling` does the same with every layout and both variants.
    """
    programs = []

    def kept(*arguments: Any) -> Any:
        step, state = compile_step(*arguments)
        programs.append(step.as_text())
        return step, state

    monkeypatch.setattr("experiments.benchmark_scaling.compile_step", kept)
    rows = equality(network(variant), SMALL, layouts, jax.devices())
    assert [row["layout"] for row in rows] == [str(layout) for layout in layouts]
    assert max(max(row["loss"], row["params"]) for row in rows) < TOLERANCE
    for layout, program in zip(layouts, programs[1:], strict=True):
        found = collectives(program)
        assert not gathered_activations(program)
        assert (found["collective-permute"] > 0) == (layout.spatial > 1)
        assert (found["all-gather"] > 0) == layout.fsdp, "FSDP gathers parameters, and nothing else gathers"
        assert found["all-reduce"] > 0
    assert not collectives(programs[0])


@pytest.mark.usefixtures("quick_compiles", "drawn_by_numpy")
def test_a_quarter_of_the_height_is_a_quarter_of_the_work_and_memory() -> None:
    """Up to the neighbours' rows, which are few where a device has 32 of its own."""

    def cost(spatial: int) -> tuple[float, float]:
        step, _ = compile_step(network(num_levels=1), make_mesh(1, spatial), False, 4, 128, 63)
        return step.cost_analysis()["flops"], step.memory_analysis().temp_size_in_bytes

    for one, four in zip(cost(1), cost(4), strict=True):
        assert one / four > 0.9 * 4
