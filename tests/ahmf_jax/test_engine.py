"""Tiles, padding and devices change nothing of a result, and memory that runs out makes tiles smaller."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahmf_jax import engine as engine_module
from ahmf_jax import memory
from ahmf_jax.engine import Engine, keep_compiled, out_of_memory
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF, DADA, Model
from ahmf_jax.models import dada as dada_module
from ahmf_jax.models.dada import LOW
from ahmf_jax.state import init_params
from ahmf_jax.upsample import super_resolve
from tests.exports import dada, narrow_unet
from tests.tile_equality import random_images, random_weights, shapes

MODEL = AHMF(scale=2, num_levels=1, features=2)


def assert_same(result: np.ndarray, expected: np.ndarray) -> None:
    """To the rounding of float32, for sums of values as large as the results."""
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * max(1, np.abs(expected).max()))


@functools.cache
def engine() -> Engine:
    return Engine(random_weights(MODEL))


def seen(model: AHMF) -> tuple[int, int]:
    """How far before and behind a row of samples, of depth and guide, the outputs lie that depend on it."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.15, x.shape).astype(np.float32), shapes(model))
    middle, scale = model.reach + 1, model.scale
    rows = 2 * middle + 1
    channels = model.features // 2 if model.forms("squeeze") == "release" else model.features
    pooled = model.pools * ({k: jnp.full((model.num_levels, 1, channels), 0.2) for k in ("mean", "variance")},)
    inputs = rng.random((1, rows, 3, 1), np.float32), rng.random((1, rows * scale, 3 * scale, 3), np.float32)
    step = [np.zeros_like(x) for x in inputs]
    step[0][:, middle], step[1][:, middle * scale : (middle + 1) * scale] = 1, 1

    def change(params: Any, inputs: Any, step: Any) -> Any:  # a derivative, as differences drown in the rounding
        return jax.jvp(lambda *x: model.apply({"params": params}, *x, pooled=pooled)[0], inputs, step)[1]

    changed = np.abs(jax.jit(change)(params, inputs, tuple(step))).reshape(rows, -1).sum(1)
    (nonzero,) = np.nonzero(changed)
    return middle - nonzero.min(), nonzero.max() - middle


@pytest.mark.parametrize(
    ("scale", "num_levels", "variant", "fusion", "recurrence"),
    [
        (4, 2, "release", "feb_frb", "both"),
        (2, 2, "paper", "feb_frb", "both"),
        (8, 1, "paper", "feb", "none"),
        (8, 1, "release", "feb_frb", "none"),
        (2, 3, "release", "feb_frb", "forward"),
        (2, 3, "release", "concat", "backward"),
        (16, 2, "paper", "concat", "forward"),
        (2, 3, "paper", "frb", "backward"),
    ],
)
def test_the_reach_is_what_an_output_depends_on_and_no_more(
    scale: int, num_levels: int, variant: Any, fusion: Any, recurrence: Any
) -> None:
    model = AHMF(scale, num_levels, 4, variant, fusion, recurrence)
    assert seen(model) == (model.reach, model.reach)


# The parts that the reach depends on, each where the two forms differ in it.
@pytest.mark.parametrize(
    ("part", "scale", "num_levels", "recurrence", "variant"),
    [
        ("guidance_head", 16, 1, "none", "release"),
        ("residual", 2, 1, "none", "paper"),
        ("order", 2, 2, "forward", "release"),
        ("gru_layers", 2, 2, "backward", "paper"),
        ("reconstruction", 2, 1, "none", "release"),
    ],
)
def test_the_reach_of_a_network_with_a_part_swapped(
    part: Any, scale: int, num_levels: int, recurrence: Any, variant: Any
) -> None:
    whole, model = (
        AHMF(scale, num_levels, 4, variant, "frb", recurrence, swapped=swapped) for swapped in ((), (part,))
    )
    assert model.reach != whole.reach
    assert seen(model) == (model.reach, model.reach)


@pytest.mark.parametrize(
    ("model", "tile"),
    [
        (AHMF(4, 2, 4), 5),
        (AHMF(2, 3, 4, "paper"), 1),
        (AHMF(4, 2, 4, fusion="concat", recurrence="forward"), 8),
        (AHMF(2, 1, 4, fusion="frb", recurrence="none", swapped=("statistics", "squeeze")), 4),
    ],
    ids=lambda x: f"x{x.scale}-{x.variant}-{x.num_levels}-{x.fusion}" if isinstance(x, AHMF) else "",
)
def test_tiles_give_the_whole_image(model: AHMF, tile: int) -> None:
    engine = Engine(random_weights(model))
    depth, known, guide = random_images(29, 38, model.scale)
    whole = engine(depth, known, guide)
    assert engine.compilations == 1
    tiled = engine(depth, known, guide, tile=tile)
    assert engine.compilations == (3 if model.pools else 2)
    assert_same(tiled, whole)
    # And the whole image is what the model gives, with the values that a training batch has.
    batch = {"depth_lr": depth, "guide": guide / np.float32(255), "mask_lr": known[..., None]}
    batch = {k: jnp.asarray(v)[None] for k, v in (batch | {"depth_lr": depth[..., None]}).items()}
    assert_same(whole, np.asarray(super_resolve(model, "sample", engine._params, batch))[0, ..., 0])


def test_statistics_and_margins_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, engine = random_images(29, 38, 2), Engine(random_weights(AHMF(2, 1, 8)))
    whole = engine(*inputs)
    monkeypatch.setattr(AHMF, "pools", False)
    assert np.abs(engine(*inputs, tile=10) - whole).max() > 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(AHMF, "reach", MODEL.reach // 2)
    assert np.abs(engine(*inputs, tile=10) - whole).max() > 1e-4


def test_padding_has_no_influence_and_many_sizes_share_a_program() -> None:
    padded = Engine(random_weights(MODEL))
    for height, width in ((17, 33), (18, 36)):
        inputs = random_images(height, width, 2, seed=height + width)
        assert_same(padded(*inputs, bucket=True), engine()(*inputs))
    assert padded.compilations == 1
    many = [random_images(n, n, 2, seed=n) for n in (30, 41)]  # in tiles as wide as each other
    for inputs in many:
        assert_same(padded(*inputs, tile=8, bucket=True), engine()(*inputs))
    assert padded.compilations == 3


@pytest.mark.parametrize("tile", [None, 7])
def test_several_devices_share_every_image(tile: int | None) -> None:
    several = Engine(random_weights(MODEL), jax.devices()[:4])
    inputs = random_images(23, 21, 2)  # 23 rows: 4 devices have 6 each, the last 5
    assert_same(several(*inputs, tile=tile), engine()(*inputs))
    (program, *_) = several._programs.values()
    assert "collective-permute" in program.as_text() and len(program.input_shardings[0][0]) > 0


def test_a_batch_and_a_guide_in_a_file(tmp_path: Path) -> None:
    one, other = random_images(9, 11, 2), random_images(9, 11, 2, seed=1)
    both = engine()(*(np.stack(pair) for pair in zip(one, other, strict=True)))
    assert_same(both, [engine()(*one), engine()(*other)])
    np.save(tmp_path / "guide.npy", one[2])
    mapped = np.load(tmp_path / "guide.npy", mmap_mode="r")
    np.testing.assert_array_equal(engine()(one[0], one[1], mapped, tile=5), engine()(*one, tile=5))


def test_the_guides_types_mean_the_same() -> None:
    depth, known, guide = random_images(9, 11, 2)
    expected = engine()(depth, known, guide)
    for same in ((257 * guide.astype(int)).astype(np.uint16), guide / np.float32(255), guide / 255):
        assert_same(engine()(depth, known, same), expected)


def test_memory_that_runs_out_halves_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    small, inputs, refused = Engine(random_weights(MODEL)), random_images(60, 64, 2), []
    compiled = Engine._program

    def program(self: Engine, wanted: Any, given: Any, shardings: Any) -> Any:
        area = given["depth"].shape[1] * given["depth"].shape[2]
        if area > 40 * 40:
            refused.append(area)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return compiled(self, wanted, given, shardings)

    monkeypatch.setattr(Engine, "_program", program)
    assert_same(small(*inputs), engine()(*inputs, tile=40))
    assert len(refused) > 1 and refused == sorted(refused, reverse=True)


def test_tiles_fit_into_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_images(60, 64, 2)
    whole = engine()(*inputs)
    free = 2 * MODEL.bytes_per_sample * 40 * 40
    monkeypatch.setattr(memory, "free", lambda device: free)
    tight = Engine(random_weights(MODEL))
    assert_same(tight(*inputs), whole)
    assert tight.compilations > 1, "it was computed whole"
    for program in tight._programs.values():
        assert program.memory_analysis().temp_size_in_bytes <= free


def test_no_memory_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 1000.0)
    with pytest.raises(InputError, match=r"no memory for even the smallest tile, of \d+ x \d+ low-resolution samples"):
        Engine(random_weights(MODEL))(*random_images(60, 64, 2))


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Engine, "_program", program)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        engine()(*random_images(8, 8, 2))
    assert out_of_memory(MemoryError()) and not out_of_memory(ValueError("shapes"))


def test_a_tile_of_nothing() -> None:
    with pytest.raises(InputError, match="a tile of 0 samples: give at least 1"):
        engine()(*random_images(8, 8, 2), tile=0)


def edges(scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A step in depth on one side, which cubic convolution goes beyond, with some samples unknown; a smooth guide."""
    rng = np.random.default_rng(0)
    depth = np.full((30, 42), 1.0, np.float32)
    depth[:, 30:], depth[5:8, 35] = 0.4, 1.5
    known = rng.random(depth.shape) < 0.9
    guide = np.linspace(0, 40, 42 * scale) + np.linspace(0, 20, 30 * scale)[:, None]
    guide = guide[..., None] + rng.integers(0, 3, (30 * scale, 42 * scale, 3))
    return depth, known, guide.astype(np.uint8)


def test_tiles_of_a_diffusion_give_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the rounding of its iterations, if they are told of the whole image and have their margins."""
    diffusion = Engine(Trained(DADA(4, features="rgb", iterations=5), {}, "largest"))
    inputs = edges(4)
    whole = diffusion(*inputs)
    monkeypatch.setitem(dada_module.MARGIN, "rgb", 32)

    def difference() -> float:
        return float(np.abs(diffusion(*inputs, tile=10) - whole).max())

    assert difference() <= 1e-5
    for name in ("shift", "extremes"):
        with monkeypatch.context() as patch:
            tell(patch, **{name: lambda x: 0 * x + (LOW if x.ndim == 1 else np.array([0.0, 2.0], np.float32))})
            assert difference() > 1e-5, name
    monkeypatch.setitem(dada_module.MARGIN, "rgb", 1)
    assert difference() > 1e-4


def tell(patch: pytest.MonkeyPatch, **other: Any) -> None:
    """Tells tiles other numbers, made of the right ones."""
    right = DADA.of_whole

    def of_whole(self: DADA, *images: Any) -> dict[str, Any]:
        told = right(self, *images)
        return {name: other.get(name, lambda x: x)(x).astype(np.float32) for name, x in told.items()}

    patch.setattr(DADA, "of_whole", of_whole)


@pytest.mark.parametrize("shift", ["sample", "batch"])
def test_what_tiles_are_told_is_the_whole_images(shift: Any) -> None:
    depth, known, guide = (np.stack([x, x]) for x in edges(4))
    depth[1, 3, 3], known[1, 3, 3] = 0.15, True  # low once it is divided; of a batch, holes are as well
    depth[~known] = 99
    depth, known = depth[..., None], known[..., None]
    rgb = DADA(4, features="rgb", iterations=0, shift=shift, deviation=2.0)
    told = rgb.clone(features="learned").of_whole(depth, known)
    low, high = (end(np.where(known, depth, 1), (1, 2, 3)) for end in (np.min, np.max))
    np.testing.assert_allclose(told["extremes"], np.stack([low, high], 1) / 2)
    np.testing.assert_allclose(told["shift"], [LOW if shift == "batch" else 0, LOW])
    whole = jax.jit(rgb.apply)({}, depth, guide / np.float32(255), mask_lr=known)[1]["depth_start"]
    np.testing.assert_allclose(told["centre"], np.asarray(whole).mean((1, 2, 3)) / 2, rtol=1e-5)


@pytest.mark.parametrize("initial", ["cubic", "griddata"])
def test_a_hole_larger_than_a_tile_is_filled_as_in_the_whole_image(
    initial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dada_module.MARGIN, "rgb", 16)
    diffusion = Engine(Trained(DADA(2, features="rgb", iterations=5, initial=initial), {}, "range"))
    depth = 0.3 + 0.01 * np.arange(40, dtype=np.float32) + np.zeros((40, 1), np.float32)
    known = np.ones(depth.shape, bool)
    known[4:36, 4:36] = False
    guide = np.random.default_rng(0).integers(100, 104, (80, 80, 3), np.uint8)
    whole = diffusion(depth, known, guide)
    np.testing.assert_allclose(diffusion(depth, known, guide, tile=8), whole, rtol=0, atol=2e-6)
    monkeypatch.setattr(DADA, "images_of_whole", lambda *_: {})
    assert np.abs(diffusion(depth, known, guide, tile=8) - whole).max() > 0.1


def test_a_batch_is_raised_as_one_however_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what its images are told is found once, of all of them."""
    diffusion = Engine(Trained(DADA(2, features="rgb", iterations=5, shift="batch"), {}, "range"))
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 1, (2, 4, 5)).astype(np.float32)
    depth[1, 0, 0] = 0.05
    inputs = depth, np.ones(depth.shape, bool), rng.random((2, 8, 10, 3), np.float32)
    whole, asked = diffusion(*inputs), []
    assert np.abs(whole[0] - diffusion(*(x[0] for x in inputs))).max() > 1e-4, "the low image raised the other"
    right = DADA.of_whole

    def of_whole(self: DADA, depth_lr: Any, mask_lr: Any) -> Any:
        asked.append(len(depth_lr))
        return right(self, depth_lr, mask_lr)

    monkeypatch.setattr(DADA, "of_whole", of_whole)
    np.testing.assert_allclose(diffusion(*inputs, tile=99), whole, rtol=0, atol=2e-6)
    assert asked == [2]


def test_tiles_of_a_network_that_halves_the_image_begin_where_its_halves_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dada_module.MARGIN, "learned", 44)
    begun, run = [], Engine._run

    def recorded(self: Engine, images: Any, wanted: Any, tile: Any, **how: Any) -> Any:
        begun.extend(4 * span.start for span in tile)
        return run(self, images, wanted, tile, **how)

    monkeypatch.setattr(Engine, "_run", recorded)
    with narrow_unet():
        network = Engine(dada(enlarge=1))
        inputs = edges(4)
        whole = network(*inputs)
        tiled = network(*inputs, tile=5)
        assert np.abs(tiled - whole).mean() < 1e-3
        tell(monkeypatch, centre=lambda x: 0 * x)
        assert (network(*inputs, tile=5) != tiled).any(), "the network is not freed of the image's mean"
    assert len(set(begun)) > 2 and all(start % 32 == 0 for start in begun)


@pytest.mark.parametrize(
    "model",
    [
        AHMF(4, 4, 16),
        AHMF(8, 2, 16),
        AHMF(2, 8, 16),
        AHMF(4, 2, 16, "paper"),
        DADA(4, features="rgb"),
        DADA(8),
        DADA(4, encoder="resnet18", channels=32, enlarge=1),
    ],
)
def test_the_memory_of_a_sample_is_about_what_the_compiler_says(model: Model) -> None:
    side = 256 // model.scale
    sizes = [(1, side, side, 1), (1, side * model.scale, side * model.scale, 3)]
    depth, guide = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in sizes)
    run = functools.partial(engine_module.network, model, "depth")
    given = {"mask_lr": jax.ShapeDtypeStruct(sizes[0], bool)} if model.reads_mask else {}
    weights = jax.eval_shape(lambda: init_params(model))
    measured = jax.jit(run).lower(weights, depth, guide, **given).compile().memory_analysis()
    if measured is None:
        pytest.skip("this backend does not tell what a program takes")
    assert 0.9 < model.bytes_per_sample * side**2 / measured.temp_size_in_bytes < 2.5


def test_programs_are_kept_where_jax_was_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled()
        assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(tmp_path / ".cache" / "ahmf_jax" / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
