"""DSDMSR: recorded numbers, the views' places, what is fused, tiles and padding, training, devices, bfloat16."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from ahmf_jax import InputError
from ahmf_jax.engine import Engine
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF, DSDMSR, dsdmsr
from ahmf_jax.models.dsdmsr import Layout
from ahmf_jax.resample import resize
from ahmf_jax.sharding import make_mesh, place_batch, replicated
from ahmf_jax.state import TrainState, init_params
from ahmf_jax.train import lowered_step
from experiments.benchmark_scaling import collectives, gathered_activations

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "dsdmsr_srcnn_x8.npz"
VIEWS = ("1_1", "1_2", "2_1", "2_2")
FEW: dict[Any, Layout] = {
    "srcnn": Layout((3, 3, 3), (4, 3, 1), bias=True, skip=False, held=7),
    "vdsr": Layout((3,) * 3, (3,) * 2 + (1,), bias=False, skip=True, held=9),
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of few features and small kernels: compiling is what these tests spend their time on."""
    for name, layout in FEW.items():
        monkeypatch.setitem(dsdmsr.UNITS, name, layout)


@functools.partial(jax.jit, static_argnames="model")
def apply(model: DSDMSR, params: Any, depth: Any, guide: Any = None, **given: Any) -> Any:
    return model.apply({"params": params}, depth, guide, **given)


def shapes(model: DSDMSR) -> Any:
    return jax.eval_shape(lambda: init_params(model))


def random_params(model: DSDMSR) -> Any:
    """Kernels that keep about the size of what passes through, and biases that let some through the ReLUs."""
    rng = np.random.default_rng(0)

    def draw(path: Any, x: Any) -> np.ndarray:
        if path[-1].key == "bias":
            return rng.uniform(0, 0.2, x.shape).astype(np.float32)
        return rng.normal(0, math.prod(x.shape[-4:-1]) ** -0.5, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(model))


def started(model: DSDMSR) -> Any:
    return jax.jit(lambda: init_params(model))()


def constants(model: DSDMSR, value: float) -> Any:
    return jax.tree.map(lambda x: np.full(x.shape, value, np.float32), shapes(model))


def random_depth(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 1), np.float32)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference numbers are not on this machine")
def test_the_published_implementations_numbers() -> None:
    data = np.load(REFERENCE)

    def layer(unit: str, i: int) -> dict[str, np.ndarray]:
        kernel, bias = (data[f"weights/{unit}.conv{i}.{part}"].astype(np.float32) for part in ("weight", "bias"))
        return {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}

    def stage(k: int) -> dict[str, Any]:
        units = [{f"conv_{i}": layer(f"dcnn_unit_{view}_x{2**k}", i) for i in (1, 2, 3)} for view in VIEWS]
        return jax.tree.map(lambda *x: np.stack(x), *units)

    params = {f"stage_{k}": stage(k) for k in (1, 2, 3)}
    params["fusion"] = {f"conv_{i}": layer("msf_dcnn", i) for i in (1, 2, 3)}
    fused, aux = apply(DSDMSR(), params, np.moveaxis(data["depth_lr"], 1, -1))
    for i, found in enumerate([*aux["stages"], fused]):
        np.testing.assert_allclose(found, np.moveaxis(data[f"output_{i}"], 1, -1), rtol=0, atol=1e-5, err_msg=str(i))


@pytest.mark.parametrize(
    ("model", "count"),
    [(DSDMSR(8), 744_653), (DSDMSR(16), 973_777), (DSDMSR(8, "vdsr"), 3_848_832), (DSDMSR(2), 5 * 57_281)],
)
def test_the_number_of_parameters(model: DSDMSR, count: int) -> None:
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(model))) == count


@pytest.mark.parametrize(("unit", "spread"), [("srcnn", None), ("vdsr", lambda o: math.sqrt(2 / (9 * o)))])
def test_the_random_start_is_the_published_one(unit: Any, spread: Any) -> None:
    """And every unit's own: of four that were alike, three would be of no use."""
    params = started(DSDMSR(2, unit))
    assert (unit == "srcnn") == ("bias" in params["fusion"]["conv_1"])
    for layers in params.values():
        for layer in layers.values():
            kernel, fan_in = layer["kernel"], math.prod(layer["kernel"].shape[-4:-1])
            if unit == "srcnn":
                for x in layer.values():
                    assert np.abs(x).max() <= fan_in**-0.5
                assert np.std(kernel) == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.1)
            else:
                assert np.std(kernel) == pytest.approx(spread(kernel.shape[-1]), rel=0.1)
    stage = params["stage_1"]["conv_1"]["kernel"]
    assert np.abs(np.corrcoef(np.reshape(stage, (4, -1))) - np.eye(4)).max() < 0.2


def test_the_views_are_the_even_and_odd_rows_and_columns(few: None) -> None:
    """Units that make nothing but 0, 1, 2 and 3; and then each view is that of its unit alone."""
    model = DSDMSR(2)
    params = constants(model, 0.0)
    params["stage_1"]["conv_3"]["bias"][:, 0] = range(4)
    (made,) = apply(model, params, random_depth(2, 3, 5))[1]["stages"]
    np.testing.assert_array_equal(made[..., 0], np.tile([[0, 1], [2, 3]], (2, 3, 5)))

    params = random_params(model)
    depth = random_depth(2, 3, 5)
    (made,) = apply(model, params, depth)[1]["stages"]
    for unit in range(4):
        same = jax.tree.map(lambda x, unit=unit: np.stack([x[unit]] * 4), params["stage_1"])
        (of_one,) = apply(model, {**params, "stage_1": same}, depth)[1]["stages"]
        row, column = divmod(unit, 2)
        np.testing.assert_allclose(made[:, row::2, column::2], of_one[:, row::2, column::2], atol=1e-6)


@pytest.mark.parametrize("combine", ["sum", "mean"])
@pytest.mark.parametrize("fusion", ["code", "figure"])
def test_what_is_fused(few: None, fusion: Any, combine: Any) -> None:
    """With kernels of zeros a unit of `vdsr` gives what it is given: a stage repeats samples, the fusion is the sum."""
    model = DSDMSR(4, "vdsr", fusion, combine)
    depth = random_depth(2, 3, 5)
    fused, aux = apply(model, constants(model, 0.0), depth)
    twice = depth.repeat(2, 1).repeat(2, 2)
    four_times = twice.repeat(2, 1).repeat(2, 2)
    assert all(map(np.array_equal, aux["stages"], (twice, four_times)))
    maps = [resize(twice, (12, 20), "torch_bilinear"), four_times]
    maps += [resize(depth, (12, 20), "torch_bilinear")] if fusion == "figure" else []
    wanted = sum(maps) / (len(maps) if combine == "mean" else 1)
    np.testing.assert_allclose(fused, wanted, rtol=0, atol=1e-6)


def test_bfloat16_is_near_float32(few: None) -> None:
    model = DSDMSR(4)
    params, depth = random_params(model), random_depth(2, 5, 4)
    full, _ = apply(model, params, depth)
    half, aux = apply(model.clone(dtype=jnp.bfloat16), params, depth)
    assert {x.dtype for x in (half, *aux["stages"])} == {jnp.dtype("float32")}
    assert 1e-5 < np.abs(half - full).max() < 2e-2 * np.abs(full).max()


@pytest.mark.parametrize("unit", ["srcnn", "vdsr"])
def test_depth_is_rounded_nowhere(few: None, unit: Any) -> None:
    """Only features are: here what is above 0.5, far less than the distance of two numbers in bfloat16 there."""
    model = DSDMSR(2, unit, dtype=jnp.bfloat16)
    params = constants(model, 0.0)
    if unit == "srcnn":
        for layer in params["stage_1"].values():
            layer["kernel"][:, 1, 1, 0, 0] = 1
        params["stage_1"]["conv_1"]["bias"][:] = -0.5
        params["stage_1"]["conv_3"]["bias"][:] = 0.5
    depth = 0.5 + 1e-4 * random_depth(1, 2, 3)
    (made,) = apply(model, params, depth)[1]["stages"]
    np.testing.assert_allclose(made, depth.repeat(2, 1).repeat(2, 2), rtol=0, atol=1e-6)


def test_the_memory_is_about_as_told() -> None:
    """Without the options of these tests it is within a hundredth."""
    model = DSDMSR(2)
    depth = jax.ShapeDtypeStruct((1, 24, 32, 1), jnp.float32)
    program = jax.jit(lambda params, depth: model.apply({"params": params}, depth)[0]).lower(shapes(model), depth)
    planned: Any = program.compile().memory_analysis()
    assert 0.9 < planned.temp_size_in_bytes / (model.bytes_per_sample * 24 * 32) < 1.6


def test_no_guide_is_read(few: None) -> None:
    model = DSDMSR(2)
    params, depth = random_params(model), random_depth(2, 3, 4)
    without, _ = apply(model, params, depth)
    for channels in (0, 3):
        guide = np.full((2, 6, 8, channels), np.nan, np.float32)
        np.testing.assert_array_equal(apply(model, params, depth, guide)[0], without)
    assert not DSDMSR.guided and AHMF.guided
    seen: list[Any] = []

    class Looking(DSDMSR):
        def __call__(self, depth_lr: Any, guide: Any = None, **given: Any) -> Any:
            seen.append(guide.shape)
            return super().__call__(depth_lr, guide, **given)

    shapes(Looking(2))
    assert seen == [(1, 4, 4, 0)]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scale": 3}, "scale 3 is not one of 2, 4, 8, 16"),
        ({"unit": "edsr"}, "unit 'edsr' is not one of srcnn, vdsr"),
        ({"fusion": "paper"}, "fusion 'paper' is not one of code, figure"),
        ({"combine": "median"}, "combine 'median' is not one of sum, mean"),
    ],
)
def test_a_wrong_field_is_named(monkeypatch: pytest.MonkeyPatch, fields: Any, named: str) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse a name first
    with pytest.raises(InputError, match=named):
        DSDMSR(**fields)


@pytest.mark.parametrize(
    ("scale", "unit", "fusion"),
    [(2, "srcnn", "figure"), (4, "vdsr", "figure"), (8, "srcnn", "code"), (16, "vdsr", "code")],
)
def test_the_reach_is_exact(scale: int, unit: Any, fusion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of one number: where the gradient of a sample's pixels is 0, nothing is read.

    Of two convolutions that see as far as the unit's do: compiling all of them takes minutes.
    """
    model = DSDMSR(scale, unit, fusion)
    reach, layout = model.reach, dsdmsr.UNITS[unit]
    size = 1 + sum(n // 2 for n in layout.sizes)
    monkeypatch.setitem(dsdmsr.UNITS, unit, layout._replace(sizes=(size, size), features=(1, 1)))
    cell = slice(scale * (reach + 2), scale * (reach + 3))

    def of_cell(depth: Any, params: Any) -> Any:
        return jnp.sum(model.apply({"params": params}, depth)[0][:, :, cell])

    gradient = jax.jit(jax.grad(of_cell))(np.ones((1, 1, 2 * reach + 5, 1), np.float32), constants(model, 0.1))
    assert np.flatnonzero(gradient).tolist() == list(range(2, 2 * reach + 3))


def test_tiles_are_the_whole(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DSDMSR(4)
    depth = random_depth(1, 16, 21)[..., 0]
    known, guide = np.ones(depth.shape, bool), np.zeros((1, 64, 84, 0), np.float32)
    trained = Trained(model, random_params(model))
    whole = Engine(trained)(depth, known, guide)
    np.testing.assert_allclose(whole, apply(model, trained.params, depth[..., None])[0][..., 0], atol=1e-6)

    def difference() -> float:
        return float(np.abs(Engine(trained)(depth, known, guide, tile=5) - whole).max())

    assert difference() < 1e-6
    monkeypatch.setattr(DSDMSR, "reach", model.reach - 2)
    assert difference() > 1e-6, "a margin that is too small shows"


@pytest.mark.parametrize(("unit", "fusion", "size"), [("srcnn", "code", (3, 5)), ("vdsr", "figure", (1, 1))])
def test_padding_changes_nothing(few: None, unit: Any, fusion: Any, size: tuple[int, int]) -> None:
    """That of sizes that share a program, and that of rows which devices divide."""
    model = DSDMSR(4, unit, fusion)
    trained = Trained(model, random_params(model))
    depth = random_depth(2, *size)[..., 0]
    images = depth, np.ones(depth.shape, bool), np.zeros((2, *(4 * n for n in size), 0), np.float32)
    whole = Engine(trained)(*images)
    np.testing.assert_allclose(Engine(trained)(*images, bucket=True), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(Engine(trained, jax.devices()[:2])(*images), whole, rtol=0, atol=1e-6)


def batch(model: DSDMSR, count: int, h: int, w: int) -> dict[str, np.ndarray]:
    """Smooth depth, and its means."""
    y, x = np.mgrid[: h * model.scale, : w * model.scale] / model.scale
    depth = np.stack([0.5 + 0.2 * np.sin(x + i) + 0.2 * (y > h / 2) for i in range(count)])[..., None]
    return {
        "depth_lr": depth.reshape(count, h, model.scale, w, model.scale, 1).mean((2, 4)).astype(np.float32),
        "guide": np.zeros((*depth.shape[:3], 0), np.float32),
        "depth_hr": depth.astype(np.float32),
        "mask_lr": np.ones((count, h, w, 1), bool),
        "mask_hr": np.random.default_rng(0).random(depth.shape) < 0.9,
    }


def test_one_sample_is_learned() -> None:
    """The recipe of the published code: Adam at 1e-3, every stage supervised, units as wide as theirs."""
    model = DSDMSR(2)
    mesh = make_mesh(1, 1)
    state = TrainState.start(started(model), model, optax.adam(1e-3), loss="mse", stage_weights=(1.0,))
    given = batch(model, 1, 5, 6)
    state, placed = jax.device_put(state, replicated(mesh)), place_batch(given, mesh)
    step = lowered_step(state, placed).compile()
    losses = []
    for _ in range(200):
        state, metrics = step(state, placed)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] / 10
    assert min(losses) > 0
    # One depth for all pixels, in output and stage, leaves less than a tenth of the first loss, too.
    assert losses[-1] < 2 * given["depth_hr"][given["mask_hr"]].var() / 100


@pytest.mark.parametrize("unit", ["srcnn", "vdsr"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_maps_of_one_depth_have_finite_gradients(few: None, unit: Any, value: float) -> None:
    model = DSDMSR(2, unit)
    depth = jnp.full((1, 1, 2, 1), value)
    loss = jax.jit(jax.value_and_grad(lambda params: jnp.sum(model.apply({"params": params}, depth)[0] ** 2)))
    for leaf in jax.tree.leaves(loss(random_params(model))):
        assert np.isfinite(leaf).all()


def test_on_several_devices_a_step_is_the_same(few: None) -> None:
    """Batch and height are split, and no activation is gathered: they are as wide as a multiple of 7."""
    model = DSDMSR(4)
    given = batch(model, 2, 8, 7)
    params = random_params(model)
    found = []
    for mesh in (make_mesh(1, 1), make_mesh(2, 2)):
        state = TrainState.start(jax.tree.map(jnp.asarray, params), model, optax.sgd(0.1))
        state, placed = jax.device_put(state, replicated(mesh)), place_batch(given, mesh)
        step = lowered_step(state, placed).compile()
        found.append(jax.device_get(step(state, placed)))
    program = str(step.as_text())
    assert collectives(program)["collective-permute"] > 0 and not gathered_activations(program)
    (one, metrics), (other, same) = found
    assert float(same["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for before, a, b in zip(*map(jax.tree.leaves, (params, one.params, other.params)), strict=True):
        assert np.abs(a - before).max() > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_less_of_every_correction_begins_with_repeated_samples() -> None:
    model = DSDMSR(4, "vdsr", combine="mean")
    depth = jnp.asarray(np.random.default_rng(5).random((1, 5, 4, 1), np.float32))
    repeated = depth.repeat(4, 1).repeat(4, 2)
    result, aux = apply(model, init_params(model, output_scale=0.0), depth)
    np.testing.assert_array_equal(aux["stages"][-1], repeated)
    half = resize(aux["stages"][0], (20, 16), "torch_bilinear")
    np.testing.assert_allclose(result, (repeated + half) / 2, rtol=1e-6)  # the mean of the two steps' maps
    assert DSDMSR(4).corrections == ()
