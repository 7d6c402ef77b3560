"""DSCSAN: the numbers of parameters, its forms, the attention, tiles and padding, training, devices, bfloat16."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from ahmf_jax import InputError, dscsan_forms
from ahmf_jax.engine import Engine
from ahmf_jax.export import Trained
from ahmf_jax.models import DSCSAN, dscsan
from ahmf_jax.models.dscsan import CrossScaleAttention
from ahmf_jax.resample import resize
from ahmf_jax.sharding import make_mesh, place_batch, replicated
from ahmf_jax.state import TrainState, init_params
from ahmf_jax.train import lowered_step

TINY = DSCSAN(4, groups=1, blocks=1, features=4)
PLAIN = DSCSAN(4, groups=2, blocks=2, features=4, block="rcab", attention=False, progressive=False)


@functools.partial(jax.jit, static_argnames="model")
def apply(model: DSCSAN, params: Any, depth: Any, guide: Any = None, **given: Any) -> Any:
    return model.apply({"params": params}, depth, guide, **given)


def shapes(model: DSCSAN) -> Any:
    return jax.eval_shape(lambda: init_params(model))


def count(model: DSCSAN) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(model)))


@functools.cache
def random_params(model: DSCSAN) -> Any:
    """Kernels that keep about the size of what passes through, and biases that let some through the ReLUs."""
    rng = np.random.default_rng(0)

    def draw(path: Any, x: Any) -> np.ndarray:
        if path[-1].key == "bias":
            return rng.uniform(0, 0.2, x.shape).astype(np.float32)
        return rng.normal(0, math.prod(x.shape[-4:-1]) ** -0.5, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(model))


def random_depth(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 1), np.float32)


def form(name: Any, scale: int = 8, groups: int = 4, blocks: int = 7, features: int = 64) -> DSCSAN:
    return DSCSAN(scale, features=features, **dscsan_forms.fields(name, scale, groups, blocks))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (DSCSAN(2), 6_819_617),
        (DSCSAN(4), 13_638_594),
        (DSCSAN(8), 20_457_571),
        (form("C1"), 15_737_761),  # RCAN's, of one channel
    ],
)
def test_the_number_of_parameters(model: DSCSAN, expected: int) -> None:
    assert count(model) == expected


def test_initial_values_are_drawn_in_a_loop() -> None:
    """Which is compiled much faster than what it is unrolled to; the numbers are the same."""
    model = DSCSAN(2, groups=1, blocks=3, features=4, attention=False)
    looped = jax.make_jaxpr(lambda: init_params(model.clone(unroll=1)))()
    assert str(jax.make_jaxpr(lambda: init_params(model))()) == str(looped)
    directly = jax.jit(model.clone(unroll=3).init)(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))["params"]
    jax.tree.map(np.testing.assert_array_equal, jax.jit(lambda: init_params(model))(), directly)


def test_the_forms_of_table_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each has, and that all are about as deep: what sees the low resolution has as many groups as all stages."""
    c1, c2, c3, c4, c5 = (form(name) for name in dscsan_forms.FORMS)
    assert c5 == DSCSAN(8)
    assert (c1.groups, c1.blocks, c1.block, c1.attention) == (10, 20, "rcab", False)
    assert c2 == c1.clone(attention=True) and c4 == c3.clone(attention=True)
    assert (c4.groups, c4.blocks, c4.block, c4.progressive) == (12, 7, "brb", False)
    assert count(c4) - count(c3) == 12 * 70_984  # an attention to a group
    small = [form(name, 4, 1, 2, 32) for name in dscsan_forms.FORMS]
    assert [(m.groups, m.blocks) for m in small] == [(2, 6), (2, 6), (2, 2), (2, 2), (1, 2)]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse a name first
    with pytest.raises(InputError, match="form 'C6' is not one of C1, C2, C3, C4, C5"):
        dscsan_forms.fields("C6", 8, 4, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [TINY, PLAIN], ids=["stages", "plain"])
def test_without_its_last_convolutions_it_interpolates(model: DSCSAN) -> None:
    """MATLAB's bicubic, stage by stage."""
    depth = random_depth(1, 5, 4)
    params = dict(random_params(model))
    for (name,) in model.corrections:
        params[name] = jax.tree.map(np.zeros_like, params[name])
    result, aux = apply(model, params, depth)
    for found in (*aux["stages"], result):
        expected = jnp.asarray(depth)
        while expected.shape != found.shape:
            expected = resize(expected, (2 * expected.shape[1], 2 * expected.shape[2]), "matlab_bicubic")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_rcan_itself_adds_nothing_to_interpolated_depth() -> None:
    depth, params = random_depth(1, 3, 4), random_params(PLAIN)
    published = PLAIN.clone(interpolated=False)
    assert published.corrections == ()
    bare, whole = (apply(model, params, depth)[0] for model in (published, PLAIN))
    zero = {**params, "output_1": jax.tree.map(np.zeros_like, params["output_1"])}
    np.testing.assert_allclose(whole - bare, apply(PLAIN, zero, depth)[0], atol=1e-5)


def test_permuting_the_channels_permutes_the_gates() -> None:
    """Those of one scale, and with them what the layers behind see of them: then nothing else changes."""
    block = CrossScaleAttention(8)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5, 8)).astype(np.float32))
    params = block.init(jax.random.key(0), x, None, None)["params"]
    order, channels = np.array([2, 0, 3, 1]), np.arange(12)
    channels[4:8] = 4 + order  # those of the second scale, where all are side by side
    rows = np.concatenate([order + first for first in (0, 4, 8)])  # what its rows say, of each scale's columns
    permuted = jax.tree.map(lambda leaf: leaf, params)
    permuted["scale_2"] = jax.tree.map(lambda leaf: leaf[..., order], params["scale_2"])
    permuted["squeeze_2"]["kernel"] = params["squeeze_2"]["kernel"][:, :, rows]
    permuted["excite_2"] = jax.tree.map(lambda leaf: leaf[..., order], params["excite_2"])
    permuted["merge"]["kernel"] = params["merge"]["kernel"][:, :, channels]
    run = jax.jit(lambda p: block.apply({"params": p}, x, None, None)[:2])
    (result, gates), (same, found) = run(params), run(permuted)
    np.testing.assert_allclose(found[:, 1], gates[:, 1][:, order], rtol=1e-5)
    np.testing.assert_allclose(found[:, (0, 2)], gates[:, (0, 2)], rtol=1e-5)
    np.testing.assert_allclose(same, result, atol=1e-5)
    assert np.ptp(gates[0, 1]) > 1e-4, "gates that were all alike could be permuted in any way"


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("model", [TINY, PLAIN], ids=["stages", "plain"])
def test_maps_of_one_depth_have_finite_gates_and_gradients(model: DSCSAN, value: float) -> None:
    def loss(params: Any, depth: Any) -> Any:
        result, aux = model.apply({"params": params}, depth)
        return jnp.sum(result**2), aux["attention"]

    found = jax.jit(jax.value_and_grad(loss, has_aux=True))(random_params(model), jnp.full((1, 1, 2, 1), value))
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()


def test_bfloat16_is_near_float32() -> None:
    depth, params = random_depth(1, 6, 5), random_params(TINY)
    expected, aux = apply(TINY, params, depth)
    result, half = apply(TINY.clone(dtype=jnp.bfloat16), params, depth)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=0.03 * np.abs(expected).max())
    for gates, exact in zip(half["attention"], aux["attention"], strict=True):
        assert gates.dtype == jnp.float32
        np.testing.assert_allclose(gates, exact, atol=0.01)


def test_no_guide_is_read() -> None:
    depth, params = random_depth(1, 3, 4), random_params(TINY)
    expected = apply(TINY, params, depth)[0]
    np.testing.assert_array_equal(apply(TINY, params, depth, random_depth(1, 12, 16))[0], expected)
    assert not DSCSAN.guided


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scale": 3}, "scale 3 is not one of 2, 4, 8, 16"),
        ({"block": "rdb"}, "block 'rdb' is not one of brb, rcab"),
        ({"groups": 0}, "groups is 0: it must be at least 1"),
        ({"features": 7}, "features is 7: an even number of channels is needed"),
    ],
)
def test_a_wrong_field_is_named(monkeypatch: pytest.MonkeyPatch, fields: Any, named: str) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse a name first
    with pytest.raises(InputError, match=named):
        DSCSAN(**fields)


@pytest.mark.parametrize(
    "model", [TINY, TINY.clone(progressive=False, groups=2), PLAIN], ids=["stages", "attention", "plain"]
)
def test_tiles_are_the_whole(model: DSCSAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention by attention, each with the statistics of the whole image; RCAN's own blocks are as near as is said."""
    depth = random_depth(1, 4 * model.reach, 13)[..., 0]
    known, guide = np.ones(depth.shape, bool), np.zeros((1, *(4 * n for n in depth.shape[1:]), 0), np.float32)
    trained = Trained(model, random_params(model))
    whole = Engine(trained)(depth, known, guide)
    np.testing.assert_allclose(whole, apply(model, trained.params, depth[..., None])[0][..., 0], atol=1e-5)

    def difference() -> float:
        return float(np.abs(Engine(trained)(depth, known, guide, tile=model.reach) - whole).max())

    if model.block == "rcab":
        assert 0 < difference() < 0.1 * np.ptp(whole)
        return
    assert difference() < 1e-5
    monkeypatch.setattr(DSCSAN, "pools", 0)
    assert difference() > 1e-4, "tiles with statistics of their own differ"


@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
@pytest.mark.parametrize("model", [TINY, PLAIN], ids=["stages", "plain"])
def test_padding_changes_nothing(model: DSCSAN, size: tuple[int, int]) -> None:
    """That of sizes that share a program, and that of rows which devices divide."""
    trained = Trained(model, random_params(model))
    depth = random_depth(2, *size)[..., 0]
    images = depth, np.ones(depth.shape, bool), np.zeros((2, *(4 * n for n in size), 0), np.float32)
    whole = Engine(trained)(*images)
    np.testing.assert_allclose(Engine(trained)(*images, bucket=True), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(Engine(trained, jax.devices()[:2])(*images), whole, rtol=0, atol=1e-5)


def batch(model: DSCSAN, n: int, h: int, w: int) -> dict[str, np.ndarray]:
    """Smooth depth, and its means."""
    y, x = np.mgrid[: h * model.scale, : w * model.scale] / model.scale
    depth = np.stack([0.5 + 0.2 * np.sin(x + i) + 0.2 * (y > h / 2) for i in range(n)])[..., None]
    return {
        "depth_lr": depth.reshape(n, h, model.scale, w, model.scale, 1).mean((2, 4)).astype(np.float32),
        "guide": np.zeros((*depth.shape[:3], 0), np.float32),
        "depth_hr": depth.astype(np.float32),
        "mask_lr": np.ones((n, h, w, 1), bool),
        "mask_hr": np.random.default_rng(0).random(depth.shape) < 0.9,
    }


def known(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without holes: a stage's pixel counts where all that it is made of is known."""
    return {**batch, "mask_hr": np.ones_like(batch["mask_hr"])}


def test_one_sample_is_learned() -> None:
    """Every stage of it."""
    mesh = make_mesh(1, 1)
    start = jax.jit(lambda: init_params(TINY, output_scale=0.1))()
    state = TrainState.start(start, TINY, optax.adam(5e-3), stage_weights=(1.0,), stage_kernel="matlab_bicubic")
    state, placed = jax.device_put(state, replicated(mesh)), place_batch(known(batch(TINY, 1, 5, 6)), mesh)
    step = lowered_step(state, placed).compile()
    terms = []
    for _ in range(100):
        state, metrics = step(state, placed)
        terms.append({name: float(value) for name, value in metrics.items() if "loss" in name})
    assert len(terms[0]) >= 3  # in all, of the output, of the stage
    for name, first in terms[0].items():
        assert 0 < terms[-1][name] < first / 2, name


def test_on_several_devices_a_step_is_the_same() -> None:
    """Batch and height are split: the statistics are of all rows, and of each image alone.

    A device has as few rows as it may: with fewer, gradients were 1 % off (XLA of jaxlib 0.10.2).
    """
    assert TINY.least_rows == 8
    given, params = batch(TINY, 2, 16, 7), random_params(TINY)
    found = []
    for mesh in (make_mesh(1, 1), make_mesh(2, 2)):
        state = TrainState.start(jax.tree.map(jnp.asarray, params), TINY, optax.sgd(0.1), stage_weights=(1.0,))
        state, placed = jax.device_put(state, replicated(mesh)), place_batch(given, mesh)
        found.append(jax.device_get(lowered_step(state, placed).compile()(state, placed)))
    (one, metrics), (other, same) = found
    assert float(same["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for before, a, b in zip(*map(jax.tree.leaves, (params, one.params, other.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, np.abs(a - before).max()))


def test_blocks_are_what_they_are_called() -> None:
    """A group's blocks in turn are the same blocks one by one; and each adds to what it is given."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 5, 4)).astype(np.float32))
    for cls in (dscsan.BilayerResidualBlock, dscsan.ResidualChannelAttentionBlock):
        block = cls(4)
        params = block.init(jax.random.key(0), x)["params"]
        last = "conv_2"
        nothing = {**params, last: jax.tree.map(jnp.zeros_like, params[last])}
        np.testing.assert_array_equal(block.apply({"params": nothing}, x), x)
