"""DADA: the authors' numbers, holes and low depth, what it begins with, gradients, batch statistics, devices."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from scipy import interpolate

import ahmf_jax
from ahmf_jax import InputError, unet
from ahmf_jax.engine import Engine
from ahmf_jax.export import Trained, bundle, load_bundle
from ahmf_jax.models import DADA
from ahmf_jax.models.dada import LOW, MEAN, STD, _continued, filled, griddata
from ahmf_jax.resample import resize
from ahmf_jax.sharding import batch_sharding, make_mesh, place_batch, replicated
from ahmf_jax.state import TrainState, init_params
from ahmf_jax.train import lowered_step
from ahmf_jax.upsample import dada_rgb
from ahmf_jax.variables import STATISTICS, split

# Of colours, float32.
COLOUR_MEAN, COLOUR_STD = np.array(MEAN, np.float32), np.array(STD, np.float32)
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "dada_rgb_x8.npz"
# Learning-free, and with few iterations: what is compared does not depend on their number.
RGB = DADA(4, features="rgb", iterations=40)
# A single first iteration: of the random number below it there is none in training, so that a step can be repeated.
LEARNED = DADA(4, encoder="resnet18", channels=3, enlarge=1, iterations=1, gradient_iterations=3)


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """The U-Net with half of its blocks, an eighth as wide: compiling is what these tests spend their time on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.LAYERS, "resnet18", (1, 1, 1, 1))
        patch.setattr(unet, "STEM", 8)
        patch.setattr(unet, "DECODER", (16, 12, 8, 8, 8))
        yield


@functools.partial(jax.jit, static_argnames=("model", "train"))
def apply(model: DADA, weights: Any, depth: Any, guide: Any, key: Any = 0, train: bool = False, **given: Any) -> Any:
    """`(depth, aux)`, and in training the renewed statistics."""
    how: dict[str, Any] = {"mutable": [STATISTICS], "rngs": {"sample": jax.random.key(key)}} if train else {}
    return model.apply(split(weights), depth, guide, train=train, **given, **how)


@functools.cache
def weights(model: DADA = LEARNED) -> Any:
    """Random ones, with statistics to which each layer's values keep about their size."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, model))

    def draw(path: Any, x: Any) -> np.ndarray:
        name, few = path[-1].key, rng.normal(0, 0.1, x.shape)
        if name == "kernel":
            few = rng.normal(0, (2 / math.prod(x.shape[:-1])) ** 0.5, x.shape)
        elif name == "log_contrast":
            few = np.log(0.3)
        elif name in ("scale", "var"):
            few = rng.uniform(0.7, 1.3, x.shape)
        return np.asarray(few, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images(scale: int, h: int, w: int, batch: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth from 0.5 to 1.5, a smooth guide with some noise, and which samples are known: most of them."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 1.5, (batch, h, w, 1)).astype(np.float32)
    colours = rng.uniform(0.2, 0.8, (batch, h, w, 3)).astype(np.float32)
    guide = resize(colours, (scale * h, scale * w), "torch_bilinear")
    mask = rng.random(depth.shape) < 0.8
    mask[:, 0, 0] = True
    return depth, guide + 0.01 * rng.random(guide.shape, np.float32), mask


def means(x: Any, scale: int) -> np.ndarray:
    b, height, width, _ = x.shape
    return np.asarray(x, np.float64).reshape(b, height // scale, scale, width // scale, scale, 1).mean((2, 4))


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference numbers are not on this machine")
def test_the_authors_numbers() -> None:
    data = {name: np.moveaxis(x, 1, -1) for name, x in np.load(REFERENCE).items() if x.ndim == 4}
    model = DADA(8, features="rgb", iterations=500)
    guide = data["guide"] * COLOUR_STD + COLOUR_MEAN  # the authors' is normalised
    depth, aux = apply(model, {}, data["source"], guide, mask_lr=data["mask_lr"] > 0.5, depth_start=data["y_bicubic"])
    for found, name in ((depth, "y_pred"), (aux["cv"], "cv"), (aux["ch"], "ch")):
        np.testing.assert_allclose(found, data[name], rtol=1e-5, err_msg=name)


def test_the_number_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "STEM", 64)
    monkeypatch.setattr(unet, "DECODER", (256, 128, 64, 32, 16))
    shapes = jax.eval_shape(lambda: init_params(DADA(8)))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(split(shapes)["params"])) == 32_533_377


@pytest.mark.parametrize(("scale", "h", "w"), [(2, 9, 5), (4, 3, 7), (8, 1, 3), (16, 2, 1), (32, 1, 1)])
def test_the_means_of_blocks_are_the_samples(scale: int, h: int, w: int) -> None:
    model = RGB.clone(scale=scale)
    depth, guide, mask = images(scale, h, w)
    found, aux = apply(model, {}, depth, guide, mask_lr=mask)
    assert found.shape == (2, scale * h, scale * w, 1) and found.dtype == jnp.float32
    assert aux["cv"].shape == (2, scale * h - 1, scale * w, 1) and aux["ch"].shape == (2, scale * h, scale * w - 1, 1)
    assert np.abs(means(found, scale) - depth)[mask].max() <= 1e-5
    for c in (aux["cv"], aux["ch"]):
        assert np.min(c) > 0 and np.max(c) <= 1
    assert int(aux["iterations"]) == 40 and float(aux["contrast"]) == pytest.approx(0.03)


@pytest.mark.parametrize("enlarge", [1, 2])
def test_a_network_and_sizes_that_are_no_multiples_of_its_strides(enlarge: int) -> None:
    model = LEARNED.clone(enlarge=enlarge)
    depth, guide, mask = images(4, 3, 9)
    found, aux = apply(model, weights(), depth, guide, mask_lr=mask)
    assert aux["features"].shape == (2, 12, 36, 3) and float(aux["contrast"]) == pytest.approx(0.3)
    assert np.abs(means(found, 4) - depth)[mask].max() <= 1e-5
    # The features, by hand.
    start = np.asarray(aux["depth_start"])
    x = np.concatenate([(guide - COLOUR_MEAN) / COLOUR_STD, start - start.mean((1, 2, 3), keepdims=True)], -1)
    multiple = 32 // enlarge
    x = np.pad(x, [(0, 0), (0, -12 % multiple), (0, -36 % multiple), (0, 0)], "edge")
    x = resize(x, (enlarge * x.shape[1], enlarge * x.shape[2]), "torch_bicubic")
    given = {name: tree["unet"] for name, tree in split(weights()).items()}
    features = means_of_channels(jax.jit(unet.UNet(3, "resnet18").apply)(given, jnp.asarray(x)), enlarge)
    np.testing.assert_allclose(aux["features"], features[:, :12, :36], atol=2e-5)


def means_of_channels(x: Any, size: int) -> np.ndarray:
    b, height, width, c = x.shape
    return np.asarray(x).reshape(b, height // size, size, width // size, size, c).mean((2, 4))


def test_images_are_continued_beyond_their_end() -> None:
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    for axis, beyond in ((1, 5), (2, 4)):
        wanted = np.pad(x, [(0, beyond if a == axis else 0) for a in range(4)], "edge")
        np.testing.assert_array_equal(_continued(jnp.asarray(x), axis, 8), wanted)
    np.testing.assert_array_equal(_continued(jnp.asarray(x), 2, 4), x)


def test_the_deviation_is_the_depth_that_counts_as_one() -> None:
    depth, guide, mask = images(4, 3, 4)
    depth[0, 1, 1] = 0.05  # low once it is divided, and not before
    wanted, aux = apply(RGB, {}, depth, guide, mask_lr=mask)
    model = RGB.clone(deviation=20.0)
    found, same = apply(model, {}, 20 * depth, guide, mask_lr=mask)
    np.testing.assert_allclose(found, 20 * wanted, rtol=1e-4)
    np.testing.assert_allclose(same["cv"], aux["cv"], rtol=1e-4)
    np.testing.assert_allclose(model.of_whole(20 * depth, mask)["shift"], [LOW, 0])


@pytest.mark.parametrize("initial", ["cubic", "griddata", "constant"])
@pytest.mark.parametrize("junk", [np.nan, 0.0, 1e6])
def test_what_stands_in_holes_changes_no_bit(initial: Any, junk: float) -> None:
    model = RGB.clone(initial=initial)
    depth, guide, mask = images(4, 4, 5)
    found, _ = apply(model, {}, np.where(mask, depth, np.float32(junk)), guide, mask_lr=mask)
    np.testing.assert_array_equal(found, apply(model, {}, depth, guide, mask_lr=mask)[0])
    assert np.isfinite(found).all() and not mask.all()


def test_nor_does_it_through_a_network() -> None:
    depth, guide, mask = images(4, 4, 5)
    wanted, _ = apply(LEARNED, weights(), depth, guide, mask_lr=mask)
    found, _ = apply(LEARNED, weights(), np.where(mask, depth, np.nan), guide, mask_lr=mask)
    np.testing.assert_array_equal(found, wanted)


def test_holes_raise_nothing_and_a_low_sample_its_own_image_alone() -> None:
    depth, guide, mask = images(4, 3, 4)
    depth = np.where(mask, depth, np.float32(0))
    assert not mask[1].all()
    plain, _ = apply(RGB, {}, depth, guide, mask_lr=mask)
    by_hand, _ = apply(RGB, {}, depth, guide, mask_lr=mask, shift=np.zeros(2, np.float32))
    np.testing.assert_allclose(plain, by_hand, atol=2e-6)
    depth[0, 0, 0] = 0.08
    low, _ = apply(RGB, {}, depth, guide, mask_lr=mask)
    np.testing.assert_array_equal(low[1], plain[1])
    raised, _ = apply(RGB, {}, depth, guide, mask_lr=mask, shift=np.array([LOW, 0], np.float32))
    np.testing.assert_allclose(low, raised, atol=2e-6)
    level, _ = apply(RGB, {}, depth, guide, mask_lr=mask, shift=np.zeros(2, np.float32))
    assert np.abs(raised - level)[0].max() > 1e-4


def test_the_authors_shift_is_the_batchs() -> None:
    """One hole, or one low sample, of one image raises them all."""
    model = RGB.clone(shift="batch")
    depth, guide, _ = images(4, 3, 4)
    everywhere = np.ones(depth.shape, bool)
    one_hole = everywhere.copy()
    one_hole[0, 1, 1] = False
    raised, level = (np.full(2, x, np.float32) for x in (LOW, 0))
    for mask, shift in ((everywhere, level), (one_hole, raised)):
        found, _ = apply(model, {}, depth, guide, mask_lr=mask)
        by_hand, _ = apply(RGB, {}, depth, guide, mask_lr=mask, shift=shift)
        np.testing.assert_allclose(found, by_hand, atol=2e-6)
    depth[1, 0, 0] = LOW
    found, _ = apply(model, {}, depth, guide, mask_lr=everywhere)
    by_hand, _ = apply(RGB, {}, depth, guide, mask_lr=everywhere, shift=raised)
    np.testing.assert_allclose(found, by_hand, atol=2e-6)


@pytest.mark.parametrize("initial", ["cubic", "griddata", "constant"])
def test_images_of_holes_alone_and_of_zeros(initial: Any) -> None:
    depth, guide, mask = images(4, 3, 4)
    mask[0] = False
    depth[1, :2], mask[1] = 0, True
    found, _ = apply(RGB.clone(initial=initial), {}, depth, guide, mask_lr=mask)
    assert np.isfinite(found).all()
    assert np.ptp(found[0]) < 1e-6, "without a sample nothing tells one pixel from another"
    np.testing.assert_allclose(means(found, 4)[1], depth[1], atol=1e-6)


def test_negative_depth_is_refused_where_it_is_known() -> None:
    depth, guide, mask = (x[0] for x in images(4, 3, 4))
    depth, mask = depth[..., 0].copy(), mask[..., 0]
    engine = Engine(Trained(RGB, {}, "range", "m", 10.0))
    depth[~mask] = -1
    engine(depth, mask, guide)
    depth[0, 0] = -0.05  # as cubic interpolation leaves it beside an edge: it is raised
    assert np.isfinite(engine(depth, mask, guide)).all()
    depth[0, 0] = -0.5
    with pytest.raises(InputError, match=r"the smallest known depth is -0\.5 of what counts as 1: DADA scales"):
        engine(depth, mask, guide)


def test_holes_are_closed_from_their_borders() -> None:
    depth = np.array([[1, 2, 9, 9], [3, 9, 9, 9]], np.float32)[None, ..., None]
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)[None, ..., None]
    found = np.asarray(filled(jnp.asarray(depth), jnp.asarray(mask)))[0, ..., 0]
    # The first ring, from known samples alone, and the second from the first.
    np.testing.assert_allclose(found, [[1, 2, 2, 2], [3, 2, 2, 2]])


def test_cubic_stays_within_what_is_known() -> None:
    depth = np.ones((1, 4, 6, 1), np.float32)
    depth[:, :, 3:] = 0.2
    begin = apply(RGB, {}, depth, images(4, 4, 6, 1)[1])[1]["depth_start"]
    cubic = resize(depth, (16, 24), "torch_bicubic")
    assert cubic.max() > 1.05 and cubic.min() < 0.15
    np.testing.assert_allclose(begin, np.clip(cubic, 0.2, 1), atol=1e-6)


def test_griddata_is_scipys_and_exact_on_a_plane() -> None:
    rows, columns = np.mgrid[:5, :7].astype(np.float32)
    depth = (1 + 0.1 * rows + 0.05 * columns)[None, ..., None]
    mask = np.ones(depth.shape, bool)
    mask[0, 2, 3] = False
    found = griddata(np.where(mask, depth, np.nan), mask, 4)[0, ..., 0]
    pixels = (np.mgrid[:20, :28] - 1.5) / 4
    inside = (pixels >= 0).all(0) & (pixels[0] <= 4) & (pixels[1] <= 6)
    plane = 1 + 0.1 * pixels[0] + 0.05 * pixels[1]
    np.testing.assert_allclose(found[inside], plane[inside], atol=1e-5)
    at = np.argwhere(mask[0, ..., 0])
    theirs = interpolate.griddata(4 * at + 1.5, depth[0][mask[0]], tuple(np.mgrid[:20, :28]), "nearest")
    np.testing.assert_allclose(found[~inside], theirs[~inside])
    assert (found[0, 0], found[-1, -1]) == (depth[0, 0, 0, 0], depth[0, -1, -1, 0])


@pytest.mark.parametrize("known", [[], [(1, 1)], [(0, 0), (2, 3)], [(0, 1), (1, 1), (2, 1)], [(0, 0), (1, 1), (2, 2)]])
def test_griddata_of_samples_that_make_no_triangle_is_the_nearest(known: list[tuple[int, int]]) -> None:
    depth, _, _ = images(2, 3, 4, 1)
    mask = np.zeros(depth.shape, bool)
    for place in known:
        mask[0, *place] = True
    found = griddata(depth, mask, 2)[0, ..., 0]
    wanted = np.zeros((6, 8))
    for pixel in np.ndindex(6, 8):
        if known:
            nearest = min(math.dist(pixel, 2 * np.array(place) + 0.5) for place in known)
            values = [depth[0, *p, 0] for p in known if math.dist(pixel, 2 * np.array(p) + 0.5) < nearest + 1e-9]
            assert found[pixel] in values  # there may be two
        else:
            assert found[pixel] == wanted[pixel]


def test_a_constant_becomes_the_samples_in_one_iteration() -> None:
    model = RGB.clone(initial="constant", iterations=1)
    depth, guide, _ = images(4, 3, 4)
    found, aux = apply(model, {}, depth, guide)
    np.testing.assert_array_equal(aux["depth_start"], np.ones_like(found))
    cubic = apply(RGB.clone(iterations=1), {}, depth, guide)[1]
    np.testing.assert_array_equal(aux["features"], cubic["features"], "which see the depth that was up-sampled")
    np.testing.assert_array_equal(cubic["features"][..., 3:], cubic["depth_start"])
    np.testing.assert_allclose(found, depth.repeat(4, 1).repeat(4, 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 3}, "scale 3 is not one of 2, 4, 8, 16, 32"),
        ({"features": "none"}, "features 'none' is not one of learned, rgb"),
        ({"encoder": "vgg"}, "encoder 'vgg' is not one of resnet18, resnet50"),
        ({"enlarge": 4}, "enlarge 4 is not one of 1, 2"),
        ({"initial": "nearest"}, "initial 'nearest' is not one of cubic, griddata, constant"),
        ({"shift": "none"}, "shift 'none' is not one of sample, batch"),
        ({"batch_norm": "none"}, "batch_norm 'none' is not one of"),
        ({"gradient": "none"}, "gradient 'none' is not one of"),
        ({"start": "none"}, "start 'none' is not one of"),
        ({"channels": 0}, "channels is 0: it must be a whole number, at least 1"),
        ({"iterations": -1}, "iterations is -1: it must be a whole number, at least 0"),
        ({"iterations": 2.5}, "iterations is 2.5: it must be a whole number"),
        ({"iterations": 2**31}, "iterations 2147483648 and gradient_iterations 1024 are more than 1000000 together"),
        ({"gradient_iterations": 0}, "gradient_iterations is 0: it must be a whole number, at least 1"),
        ({"rate": 0.26}, r"rate \(lambda\) is 0.26: the diffusion is stable above 0 and up to 0.25"),
        ({"rate": 0.0}, r"rate \(lambda\) is 0: "),
        ({"contrast": 0.0}, r"contrast \(K\) is 0: it must be above 0"),
        ({"contrast": math.nan}, r"contrast \(K\) is nan"),
        ({"tolerance": 1.0}, "tolerance is 1: give a relative change"),
        ({"deviation": 0.0}, "deviation is 0: give the depth that counts as 1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_field_that_is_out_of_range_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse a name first
    with pytest.raises(InputError, match=message):
        DADA(**{"scale": 8, **wrong})


@pytest.mark.parametrize(("height", "width", "channels"), [(12, 15, 3), (13, 16, 3), (12, 16, 1)])
def test_a_guide_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, channels: int
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the channels first
    with pytest.raises(InputError, match=f"the guide is {height} x {width} with {channels} .* 12 x 16 with 3"):
        RGB.apply({}, jnp.ones((1, 3, 4, 1)), jnp.zeros((1, height, width, channels)))


def test_by_name_for_depth_in_any_unit() -> None:
    depth, guide, _ = (x[0] for x in images(8, 2, 3, 1))
    model = ahmf_jax.load("dada_rgb_x8")
    assert model.trained == dada_rgb(8) and model.trained.model == DADA(8, features="rgb")
    found = model(depth[..., 0], guide)
    wanted, aux = apply(DADA(8, features="rgb"), {}, (depth / depth.max())[None], guide[None])
    np.testing.assert_allclose(found, np.asarray(wanted)[0, ..., 0] * depth.max(), rtol=1e-5)
    assert int(aux["iterations"]) == 8000, "without learning there are only the first"
    np.testing.assert_allclose(model(1000 * depth[..., 0], guide), 1000 * found, rtol=1e-5)
    with pytest.raises(InputError, match="scale 7 is not one of"):
        ahmf_jax.load("dada_rgb_x7")


def batch(count: int = 4) -> dict[str, np.ndarray]:
    depth, guide, mask = images(4, 8, 8, count)
    rng = np.random.default_rng(1)
    depth_hr = rng.uniform(0.5, 1.5, (*guide.shape[:3], 1)).astype(np.float32)
    return {
        "depth_lr": depth,
        "guide": guide,
        "mask_lr": mask,
        "depth_hr": depth_hr,
        "mask_hr": rng.random(depth_hr.shape) < 0.9,
    }


def start(model: DADA = LEARNED, **how: Any) -> TrainState:
    return TrainState.start(jax.tree.map(jnp.asarray, weights()), model, optax.sgd(0.1), **how)


def step(state: TrainState, mesh: Any, given: Any) -> tuple[TrainState, dict[str, Any]]:
    """One, on a mesh."""
    state, given = jax.device_put(state, replicated(mesh)), place_batch(given, mesh)
    after, metrics = lowered_step(state, given).compile()(state, given)
    return jax.device_get((after, metrics))


@pytest.fixture(scope="module")
def one() -> tuple[TrainState, dict[str, Any]]:
    """A step on one device."""
    return step(start(), make_mesh(1, 1), batch())


def test_a_step_moves_weights_and_statistics(one: Any) -> None:
    state, metrics = one
    given = batch()
    inputs = given["depth_lr"], given["guide"]
    (found, _), renewed = apply(LEARNED, weights(), *inputs, train=True, mask_lr=given["mask_lr"])
    error = np.abs(np.asarray(found) - given["depth_hr"])[given["mask_hr"]]
    assert float(metrics["loss"]) == pytest.approx(error.mean(), rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.batch_stats, renewed[STATISTICS])
    for tree in (state.params, state.batch_stats):
        before = weights() if tree is state.params else weights()[STATISTICS]
        moved = [np.abs(np.asarray(x) - y).max() for x, y in leaves(tree, before)]
        assert min(moved) > 0
    average = state.average
    assert average[STATISTICS] is state.batch_stats and average["unet"] is state.params["unet"]


def leaves(tree: Any, other: Any) -> list[tuple[Any, Any]]:
    """Those of the one and of the other; the last bias, to which the features' differences are indifferent, apart."""
    found = []
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        value = other
        for key in path:
            value = value[key.key]
        if [key.key for key in path] != ["unet", "head", "bias"]:
            found.append((x, value))
    return found


def test_a_step_whose_loss_is_no_number_leaves_the_statistics(one: Any) -> None:
    given = batch()
    given["guide"][0, 0, 0] = np.nan
    before = start()
    kept = jax.device_get((before.params, before.batch_stats))
    state, metrics = step(before, make_mesh(1, 1), given)
    assert int(metrics["skipped"]) == 1 and not np.isfinite(metrics["grad_norm"])
    jax.tree.map(np.testing.assert_array_equal, (state.params, state.batch_stats), kept)


def test_a_bundle_holds_the_statistics(one: Any, tmp_path: Path) -> None:
    state, _ = one
    trained = Trained(LEARNED, state.average, "largest", "m", 10.0)
    (tmp_path / "w.safetensors").write_bytes(bundle(trained))
    again = load_bundle(tmp_path / "w.safetensors")
    assert dataclasses.replace(again, params={}) == dataclasses.replace(trained, params={})
    jax.tree.map(np.testing.assert_array_equal, again.params, dict(state.average))
    assert STATISTICS in again.params
    # And without them it is refused.
    broken = dataclasses.replace(trained, params=state.params)
    (tmp_path / "v.safetensors").write_bytes(bundle(broken))
    with pytest.raises(InputError, match=r"batch_stats/unet/decoder/.* is missing"):
        load_bundle(tmp_path / "v.safetensors")


def test_a_random_number_of_first_iterations_in_training_and_all_of_them_otherwise() -> None:
    model = LEARNED.clone(iterations=5)
    given = batch(2)
    inputs = given["depth_lr"], given["guide"]
    counts = [int(apply(model, weights(), *inputs, key, train=True)[0][1]["iterations"]) - 3 for key in range(30)]
    assert set(counts) == set(range(5))
    assert int(apply(model, weights(), *inputs)[1]["iterations"]) == 8


@pytest.mark.parametrize("data", [2])
def test_on_several_devices_the_step_is_the_same(one: Any, data: int) -> None:
    (state, metrics), (found, same) = one, step(start(), make_mesh(data, 1), batch())
    assert float(same["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert float(same["grad_norm"]) == pytest.approx(float(metrics["grad_norm"]), rel=1e-3)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found.batch_stats, state.batch_stats)


def test_local_statistics_are_those_of_each_devices_share() -> None:
    """As the authors' program has them, which copies the model to each device."""
    model, mesh, given = LEARNED.clone(batch_norm="local"), make_mesh(2, 1), batch()
    inputs = given["depth_lr"], given["guide"]
    with jax.set_mesh(mesh):
        spread = jax.device_put(inputs, batch_sharding(mesh))
        (found, _), renewed = apply(model, weights(), *spread, train=True)
    parts = [apply(LEARNED, weights(), *(x[half] for x in inputs), train=True) for half in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(found, np.concatenate([output for (output, _), _ in parts]), atol=1e-4)
    wanted = jax.tree.map(lambda a, b: (a + b) / 2, *(renewed for _, renewed in parts))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), renewed, wanted)


def test_a_batch_in_parts_renews_the_statistics_part_after_part() -> None:
    given = batch()
    state, metrics = step(start(accumulate=2), make_mesh(1, 1), given)
    now, errors = weights(), []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        some = {name: x[part] for name, x in given.items()}
        (found, _), renewed = apply(LEARNED, now, some["depth_lr"], some["guide"], train=True, mask_lr=some["mask_lr"])
        errors.append(np.abs(np.asarray(found) - some["depth_hr"])[some["mask_hr"]])
        now = {**now, STATISTICS: renewed[STATISTICS]}
    assert float(metrics["loss"]) == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.batch_stats, now[STATISTICS])


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Of K and of the first convolution, in double precision; a longer step comes upon the network's kinks."""
    with jax.enable_x64(True):
        given = jax.tree.map(lambda x: jnp.asarray(x, x.dtype if x.dtype == bool else np.float64), batch(2))
        variables = split(jax.tree.map(lambda x: jnp.asarray(x, np.float64), weights()))

        @jax.jit
        def loss(params: Any) -> Any:
            (depth, _), _ = LEARNED.apply(
                {**variables, "params": params},
                given["depth_lr"],
                given["guide"],
                mask_lr=given["mask_lr"],
                train=True,
                rngs={"sample": jax.random.key(0)},
                mutable=[STATISTICS],
            )
            return jnp.mean((depth - given["depth_hr"]) ** 2)

        params = variables["params"]
        gradient = jax.jit(jax.grad(loss))(params)
        rng = np.random.default_rng(0)
        first = ("unet", "encoder", "conv1", "kernel")
        for path in (("log_contrast",), first):
            slope, value = gradient, params
            for name in path:
                slope, value = slope[name], value[name]
            assert np.abs(slope).max() > 1e-5
            direction = rng.normal(size=value.shape)
            differences = [loss(replaced(params, path, value + sign * 1e-7 * direction)) for sign in (-1, 1)]
            found = float(differences[1] - differences[0]) / 2e-7
            assert found == pytest.approx(float(jnp.sum(slope * direction)), rel=1e-4)


def replaced(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    """The tree with another value there."""
    name, *rest = path
    return {**tree, name: replaced(tree[name], tuple(rest), value) if rest else value}
