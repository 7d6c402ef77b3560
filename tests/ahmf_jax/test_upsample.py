"""A trained model on one's own image: units, dtypes and holes come back as they were, and mistakes are named."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import ahmf_jax
from ahmf_jax import InputError, resample, strips
from ahmf_jax.checkpoint import Checkpoints
from ahmf_jax.export import Trained, model_fields, save_bundle
from ahmf_jax.holes import fill_by_colour
from ahmf_jax.models import AHMF, DADA
from ahmf_jax.state import TrainState, init_params
from ahmf_jax.upsample import Upsampler, filled, load, load_trained

MODEL = AHMF(scale=2, num_levels=1, features=2, variant="paper", fusion="concat", recurrence="none")
DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
RNG = np.random.default_rng(0)
GUIDE = RNG.random((6, 8, 3), np.float32)
LEVELS = RNG.integers(20, 90, (3, 4))


@functools.cache
def params(guide_channels: int = 3) -> Any:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, MODEL, guide_channels=guide_channels))
    return jax.tree.map(lambda x: rng.normal(0.02, 0.3, x.shape).astype(x.dtype), shapes)


def trained(scaling: Any = "range", **fields: Any) -> Trained:
    return Trained(MODEL, params(), scaling, **fields)


@functools.cache  # each compiles programs of its own
def upsampler_of(scaling: Any = "range", **fields: Any) -> Upsampler:
    return Upsampler(trained(scaling, **fields))


@functools.cache
def shifted(by: float, scaling: Any = "range") -> Upsampler:
    """A network that adds `by` to the bicubic up-sampling, in its own scale."""
    nothing = jax.tree.map(np.zeros_like, params())
    nothing["reconstruction"]["output"]["conv"]["bias"] += np.float32(by)
    return Upsampler(Trained(MODEL, nothing, scaling, range=100.0))


def bicubic(depth: np.ndarray) -> np.ndarray:
    h, w = depth.shape
    return resample.resize(depth.astype(np.float64)[..., None], (2 * h, 2 * w), "torch_bicubic")[..., 0]


def blocks(mask: np.ndarray) -> np.ndarray:
    return mask.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("scaling", ["range", "sample"])
def test_the_result_is_the_models(scaling: Any) -> None:
    depth = LEVELS.astype(np.float32)
    known = LEVELS < 80
    assert 0 < (~known).sum() < 4
    # Filled holes in that colour, of samples half as large.
    whole = fill_by_colour(depth, known, 255 * resample.resize(GUIDE, (3, 4), "matlab_bicubic").clip(0, 1))
    # By hand: the range is the model's; the sample's own span is that of what is known.
    offset, span = (0.0, 120.0) if scaling == "range" else (whole.min(), np.ptp(whole))
    output, _ = jax.jit(MODEL.apply)(
        {"params": params()}, jnp.asarray((whole - offset) / span)[None, ..., None], jnp.asarray(GUIDE)[None]
    )
    expected = np.asarray(output[0, ..., 0]) * span + offset
    result = upsampler_of(scaling, range=120.0)(
        np.where(known, depth, np.nan).astype(np.float32), GUIDE, invalid=np.nan
    )
    np.testing.assert_allclose(result[~np.isnan(result)], expected[~np.isnan(result)], rtol=2e-5)
    np.testing.assert_array_equal(np.isnan(result), blocks(~known))
    assert np.abs(result - bicubic(whole))[~np.isnan(result)].max() > 1, "the network added nothing"


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_and_unit_stay(dtype: str) -> None:
    depth = LEVELS.astype(dtype)
    given = depth.copy()
    result = shifted(0.0)(depth, GUIDE)
    assert result.dtype == dtype and result.shape == (6, 8)
    expected = bicubic(LEVELS)
    if depth.dtype.kind == "u":
        assert np.abs(result - expected).max() <= 0.5 + 1e-4  # rounded, not cut
    else:
        np.testing.assert_allclose(result, expected, rtol=1e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_array_equal(depth, given)


@pytest.mark.parametrize(
    ("dtype", "by", "expected"), [("uint8", -9.0, 0), ("uint8", 9.0, 255), ("uint16", -9.0, 0), ("float16", 1e6, 65504)]
)
def test_predictions_are_clipped_to_the_dtype(dtype: str, by: float, expected: float) -> None:
    assert (shifted(by)(LEVELS.astype(dtype), GUIDE) == expected).all()


def test_the_guides_dtypes_mean_the_same() -> None:
    upsampler, depth = upsampler_of(), LEVELS.astype(np.float32)
    guide = np.random.default_rng(1).integers(0, 256, (6, 8, 3))
    expected = upsampler(depth, (guide / 255).astype(np.float32))
    for same in (guide.astype(np.uint8), (257 * guide).astype(np.uint16), guide / 255):
        np.testing.assert_allclose(upsampler(depth, same), expected, rtol=1e-6)
    assert np.abs(upsampler(depth, (255 - guide).astype(np.uint8)) - expected).max() > 0.1, "the guide has no say"


def test_another_unit_of_the_depth_is_that_unit_of_the_result() -> None:
    upsampler, depth = upsampler_of("sample"), (LEVELS / 10).astype(np.float32)
    metres = upsampler(depth, GUIDE)
    np.testing.assert_array_equal(upsampler(depth * 1024, GUIDE), metres * 1024)  # a power of two rounds nothing
    np.testing.assert_allclose(upsampler(depth * 1000, GUIDE), metres * 1000, rtol=1e-5)
    np.testing.assert_allclose(upsampler(depth, GUIDE, depth_range=1e-3), metres)  # of no use, and no harm
    # A model of a fixed range needs the range in the same unit.
    fixed = upsampler_of(range=10.0)
    scaled = fixed(depth * 1024, GUIDE, depth_range=10240.0)
    np.testing.assert_array_equal(scaled, fixed(depth, GUIDE) * 1024)


def test_a_flat_map_and_one_of_zeros() -> None:
    for value in (0, 7):
        depth = np.full((3, 4), value, np.float32)
        np.testing.assert_allclose(shifted(0.0, "sample")(depth, GUIDE), value, rtol=1e-6)
        assert np.isfinite(upsampler_of("sample")(depth, GUIDE)).all()


@pytest.mark.parametrize(
    ("dtype", "invalid"),
    [
        *((dtype, invalid) for dtype in DTYPES for invalid in (0.0, 40.0, 255.0)),
        *((dtype, invalid) for dtype in DTYPES[2:] for invalid in (-1.0, np.inf, np.nan)),
    ],
)
@pytest.mark.parametrize("by", [-9.0, 0.0, 9.0])
def test_holes_come_back_where_they_were_and_nowhere_else(dtype: str, invalid: float, by: float) -> None:
    """Also where the network's predictions are the value that means unknown, as by -9 a 0 and by 9 a 255."""
    depth = np.where(LEVELS == 40, 41, LEVELS).astype(dtype)
    hole = np.zeros(depth.shape, bool)
    hole[0, 0] = hole[1, 1:3] = hole[2, 3] = True
    depth[hole] = invalid
    result = shifted(by)(depth, GUIDE, invalid=invalid)
    found = np.isnan(result) if np.isnan(invalid) else result == invalid
    np.testing.assert_array_equal(found, blocks(hole))
    assert result.dtype == dtype and np.isfinite(result[~found]).all()
    if by == 0 and np.dtype(dtype).kind == "u":  # what stands beside a hole's value is the nearest other one
        expected = np.rint(bicubic(filled(depth, ~hole, GUIDE)))
        assert np.abs(result.astype(float) - expected)[~found].max() <= 1


@pytest.mark.parametrize(("invalid", "by", "expected"), [(0.0, -9.0, 1), (255.0, 9.0, 254)])
def test_what_rounds_to_a_hole_becomes_the_next_value(invalid: float, by: float, expected: int) -> None:
    depth = LEVELS.astype(np.uint8)
    depth[0, 0] = invalid
    result = shifted(by)(depth, GUIDE, invalid=invalid)
    assert set(result[~blocks(depth == invalid)].tolist()) == {expected}


@pytest.mark.parametrize(
    ("dtype", "invalid"),
    [("float32", 50.0), ("float64", 50.0), ("float16", 50.0), ("float32", -50.0), ("float32", 0.0)],
)
def test_a_float_that_is_a_holes_moves_by_one_place(dtype: str, invalid: float) -> None:
    depth = np.full((3, 4), 100 if not invalid else 0, dtype)
    depth[0, 0] = invalid
    upsampler = shifted(-1.0 if not invalid else invalid / 100)
    result = upsampler(depth, GUIDE, invalid=invalid)
    others = result[~blocks(depth == invalid)]
    assert (others != invalid).all()
    np.testing.assert_allclose(others.astype(float), invalid, rtol=1e-3, atol=1e-6)


def test_without_an_invalid_value_nothing_is_a_hole() -> None:
    result = shifted(-9.0)(LEVELS.astype(np.uint8), GUIDE)
    assert (result == 0).all()


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


DEPTH = LEVELS.astype(np.float32)


@pytest.mark.parametrize(
    ("depth", "guide", "options", "message"),
    [
        (LEVELS.astype(np.int32), GUIDE, {}, "the depth is int32: convert it to one of uint8, uint16, float16"),
        (zeros(3, 4, dtype=bool), GUIDE, {}, "the depth is bool: convert"),
        (zeros(3, 4, 1), GUIDE, {}, r"the depth has shape \(3, 4, 1\): one map"),
        (zeros(3, 4, 1), None, {}, r"shape \(3, 4, 1\): one map \(height, width\) is needed: leave out the last axis"),
        (None, GUIDE, {}, r"the depth is a NoneType: give a NumPy array"),
        (DEPTH.tolist(), GUIDE, {}, r"the depth is a list: give a NumPy array"),
        (DEPTH, GUIDE.tolist(), {}, r"the guide is a list: give a NumPy array"),
        (DEPTH, GUIDE, {"mask": (DEPTH > 50).tolist()}, r"the mask is a list: give a NumPy array"),
        (zeros(0, 4), GUIDE, {}, r"the depth has shape \(0, 4\)"),
        (np.where(DEPTH > 60, np.nan, DEPTH), GUIDE, {}, r"has \d samples that are NaN or infinite: .*invalid=nan"),
        (np.where(DEPTH > 60, np.inf, DEPTH), GUIDE, {"invalid": 0.0}, "samples that are NaN or infinite"),
        (zeros(3, 4), GUIDE, {"invalid": 0.0}, "every sample of the depth is 0.0, which means unknown"),
        (DEPTH * np.nan, GUIDE, {"invalid": np.nan}, "every sample of the depth is nan"),
        (DEPTH, zeros(6, 9, 3), {}, "guide is 9 x 6 pixels and the depth 4 x 3: at x2 .* must be 8 x 6; crop or"),
        (DEPTH, zeros(6, 8, 1), {}, r"guide has shape \(6, 8, 1\): \(height, width, 3\)"),
        (DEPTH, zeros(6, 8), {}, r"guide has shape \(6, 8\)"),
        (DEPTH, zeros(6, 8, 3, dtype=np.int32), {}, "guide is int32: uint8, uint16 or floating point"),
        (DEPTH, zeros(6, 8, 3, dtype=bool), {}, "guide is bool"),
        (DEPTH, 255 * GUIDE, {}, r"guide has values outside \[0, 1\]"),
        (DEPTH, GUIDE - 1, {}, r"guide has values outside \[0, 1\]"),
        (DEPTH, np.where(GUIDE > 0.9, np.nan, GUIDE), {}, r"guide has values outside \[0, 1\]"),
        (1000 * DEPTH, GUIDE, {}, r"reaches \d+, beyond the model's range of 255 grey levels: .*range"),
        (DEPTH, GUIDE, {"depth_range": 10.0}, r"reaches \d+, beyond the model's range of 10"),
        (DEPTH, GUIDE, {"depth_range": 0.0}, "range is 0.0: a positive depth"),
        (DEPTH, GUIDE, {"depth_range": np.nan}, "range is nan: a positive depth"),
        (LEVELS.astype(np.uint8), GUIDE, {"invalid": np.nan}, "invalid value is nan, which no uint8 .* from 0 to 255"),
        (LEVELS.astype(np.uint8), GUIDE, {"invalid": 256.0}, "invalid value is 256, which no uint8"),
        (LEVELS.astype(np.uint16), GUIDE, {"invalid": -1.0}, "invalid value is -1, .* from 0 to 65535"),
        (LEVELS.astype(np.uint16), GUIDE, {"invalid": 0.5}, r"invalid value is 0\.5, which no uint16"),
        (LEVELS.astype(np.uint16), GUIDE, {"invalid": np.inf}, "invalid value is inf, which no uint16"),
        (DEPTH.astype(np.float16), GUIDE, {"invalid": 1e6}, r"invalid value is 1e\+06, beyond what a float16"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, depth: Any, guide: Any, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=message):
        upsampler_of()(depth, guide, **options)


@pytest.mark.parametrize("guide_channels", [1, 4])
def test_guides_of_other_channels(guide_channels: int) -> None:
    upsampler = Upsampler(Trained(MODEL, params(guide_channels)))
    guide = np.random.default_rng(1).random((6, 8, guide_channels))
    assert np.isfinite(upsampler(DEPTH, guide)).all()
    with pytest.raises(InputError, match=rf"shape \(6, 8, 3\): \(height, width, {guide_channels}\) is needed"):
        upsampler(DEPTH, GUIDE)


COLOURS = RNG.integers(0, 256, (6, 8, 3), np.uint8)
KNOWN = LEVELS < 80


def test_a_mask_is_a_hole_s_value_and_both_may_be_given() -> None:
    depth = LEVELS.astype(np.float32)
    by_value = shifted(0.0).run(np.where(KNOWN, depth, -1).astype(np.float32), COLOURS, invalid=-1.0)
    by_mask = shifted(0.0).run(depth, COLOURS, mask=KNOWN)
    np.testing.assert_array_equal(by_mask.mask, blocks(KNOWN))
    np.testing.assert_array_equal(np.isnan(by_mask.depth), blocks(~KNOWN))
    np.testing.assert_array_equal(by_mask.depth[by_mask.mask], by_value.depth[by_mask.mask])
    whole = shifted(0.0).run(LEVELS.astype(np.uint16), COLOURS, mask=KNOWN)
    np.testing.assert_array_equal(whole.depth == 0, blocks(~KNOWN))
    other = np.ones((3, 4), bool)
    other[0, 0] = False
    depth[2, 3] = -1
    both = shifted(0.0).run(depth, COLOURS, mask=other, invalid=-1.0)
    other[2, 3] = False
    np.testing.assert_array_equal(both.mask, blocks(other))
    np.testing.assert_array_equal(both.depth == -1, blocks(~other))


def test_a_model_that_reads_the_mask_closes_holes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it cannot take is told in the unit of what was given."""
    monkeypatch.setattr("ahmf_jax.upsample.fill_by_colour", None)
    model = DADA(2, features="rgb", iterations=3)
    depth = np.stack([LEVELS, LEVELS]).astype(np.float32)
    options = {"mask": np.stack([KNOWN, KNOWN]), "holes": "fill", "unit": "mm"}
    inputs = np.where(options["mask"], depth, np.nan), np.stack([GUIDE, GUIDE])
    found = Upsampler(Trained(model, {}, "range", "m", 0.1)).run(*inputs, **options).depth  # type: ignore[arg-type]
    wanted, _ = jax.jit(model.apply)({}, depth[..., None] / 100, inputs[1], mask_lr=options["mask"][..., None])
    np.testing.assert_allclose(found, 100 * np.asarray(wanted)[..., 0], rtol=1e-5)
    inputs[0][1, 0, 0], options["mask"][1, 0, 0] = -20, True
    with pytest.raises(
        InputError, match=r"known depth of image 1 of the batch is -20, -0\.2 of what counts as 1: DADA"
    ):
        Upsampler(Trained(model, {}, "range", "m", 0.1)).run(*inputs, **options)  # type: ignore[arg-type]


def test_filled_holes_are_what_the_network_makes_of_the_filling() -> None:
    depth = LEVELS.astype(np.float32)
    result = shifted(0.0).run(np.where(KNOWN, depth, np.nan), COLOURS.astype(np.uint8), invalid=np.nan, holes="fill")
    np.testing.assert_allclose(result.depth, bicubic(filled(depth, KNOWN, COLOURS)), rtol=1e-5)
    np.testing.assert_array_equal(result.mask, blocks(KNOWN))
    assert (result.distance[blocks(KNOWN)] == 0).all() and (result.distance[blocks(~KNOWN)] >= 0.5).all()
    black = shifted(-9.0).run(LEVELS.astype(np.uint8), COLOURS, invalid=0, holes="fill")
    assert (black.depth == 1).all(), "a prediction that rounds to a hole's value must not come out as one"


def test_a_batch_is_its_images_one_by_one() -> None:
    """Each with a span, a range and holes of its own."""
    depth = np.stack([LEVELS, 3 * LEVELS[::-1], np.full((3, 4), 7)]).astype(np.float32)
    guides = RNG.integers(0, 256, (3, 6, 8, 3), np.uint8)
    known = RNG.random(depth.shape) < 0.7
    for upsampler, options in (
        (upsampler_of("sample"), {"factor": 3}),
        (upsampler_of(), {"depth_range": "lr", "tta": True, "consistent": True}),
    ):
        guide = strips.resize_guide(guides, (9, 12)) if "factor" in options else guides
        batch = upsampler.run(depth, guide, mask=known, **options)
        assert batch.depth.shape == batch.mask.shape == batch.distance.shape == guide.shape[:3]
        for i in range(3):
            one = upsampler.run(depth[i], guide[i], mask=known[i], **options)
            for name in ("depth", "mask", "distance", "guide"):
                np.testing.assert_allclose(getattr(batch, name)[i], getattr(one, name), rtol=1e-5, err_msg=name)
            if one.spread is None:
                assert batch.spread is None
            else:
                np.testing.assert_allclose(batch.spread[i], one.spread, atol=1e-4)


def test_units_and_ranges() -> None:
    """A model of metres on millimetres in whole numbers, and ranges by name."""
    metres = (LEVELS / 20).astype(np.float32)
    model = upsampler_of(range=10.0, unit="m")
    expected = model(metres, COLOURS)
    millimetres = model((LEVELS * 50).astype(np.uint16), COLOURS, unit="mm")
    assert np.abs(millimetres - 1000 * expected).max() <= 0.6
    five = model(metres, COLOURS, depth_range=5)
    assert np.abs(five - expected).max() > 0.01, "the range has no say"
    np.testing.assert_allclose(model(metres, COLOURS, depth_range="iphone_lidar"), five)
    np.testing.assert_allclose(
        model(metres, COLOURS, depth_range="lr"), model(metres, COLOURS, depth_range=float(metres.max()))
    )
    with pytest.raises(InputError, match=r"reaches 4450, beyond the model's range of 4000 mm"):
        model((LEVELS * 50).astype(np.uint16), COLOURS, unit="mm", depth_range="kinect_v1")


@pytest.mark.parametrize("factor", [1.5, 2.7, 3, 5])
def test_other_factors(factor: float) -> None:
    """The sizes, and no displacement: a plane stays that plane, but for its borders."""
    height, width = round(3 * factor), round(4 * factor)
    plane = np.broadcast_to(np.arange(4, dtype=np.float32) + 1, (3, 4)).copy()
    result = shifted(0.0).run(plane, np.zeros((height, width, 3), np.uint8), factor=factor)
    assert result.depth.shape == (height, width) == result.mask.shape and result.factor == factor
    exact = (np.arange(width) + 0.5) / width * 4 + 0.5
    assert np.abs(result.depth - exact).max() < 0.45
    assert np.abs(result.depth.mean() - plane.mean()) < 1e-4
    with pytest.raises(InputError, match=rf"at x{factor:g} the guide must be {width} x {height}"):
        shifted(0.0).run(plane, np.zeros((6, 8 + 8, 3), np.uint8), factor=factor)


@pytest.mark.parametrize("factor", [2, 3, 2.7])
def test_consistent_results_have_the_input_s_means(factor: float) -> None:
    depth = LEVELS.astype(np.float32)
    guide = np.zeros((round(3 * factor), round(4 * factor), 3), np.uint8)
    result = shifted(0.5).run(depth, guide, factor=factor, mask=KNOWN, consistent=True, holes="fill").depth
    means = resample.resize(result[..., None].astype(np.float64), (3, 4), "area")[..., 0]
    np.testing.assert_allclose(means[KNOWN], depth[KNOWN], atol=100 * 2e-6)
    assert np.abs(means - depth)[~KNOWN].max() > 0.1
    rounded = shifted(5.0).run(LEVELS.astype(np.uint8), guide, factor=factor, consistent=True).depth
    means = resample.resize(rounded[..., None].astype(np.float64), (3, 4), "area")[..., 0]
    assert np.abs(means - LEVELS).max() <= 0.5 + 1e-4


def test_flips() -> None:
    depth = LEVELS.astype(np.float32)
    model = upsampler_of("sample")
    result = model.run(depth, COLOURS, tta=True)
    ways = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    each = [model(depth[::a, ::b].copy(), COLOURS[::a, ::b].copy())[::a, ::b] for a, b in ways]
    np.testing.assert_allclose(result.depth, np.mean(each, 0), rtol=1e-5)
    np.testing.assert_allclose(result.spread, np.std(each, 0), atol=1e-4)
    assert result.spread is not None and result.spread.mean() > 0.1
    assert model.run(depth, COLOURS).spread is None


def test_a_guide_made_to_fit() -> None:
    depth = LEVELS.astype(np.float32)
    wide = np.pad(COLOURS, ((1, 1), (2, 2), (0, 0)))
    cut = upsampler_of().run(depth, wide, fit="crop")
    np.testing.assert_array_equal(cut.guide, COLOURS)
    np.testing.assert_array_equal(cut.depth, upsampler_of()(depth, COLOURS))
    assert (cut.rows, cut.columns, cut.corner) == (slice(0, 3), slice(0, 4), (1, 2))
    less = upsampler_of("sample").run(depth, COLOURS[:, 2:-2], fit="crop", mask=KNOWN)
    assert less.depth.shape == (6, 4) and (less.rows, less.columns) == (slice(0, 3), slice(1, 3))
    np.testing.assert_array_equal(less.mask, blocks(KNOWN[:, 1:3]))
    fine = COLOURS.repeat(2, 0).repeat(2, 1)
    resized = upsampler_of().run(depth, fine, fit="resample")
    np.testing.assert_array_equal(resized.guide, strips.resize_guide(fine[None], (6, 8))[0])


@pytest.mark.parametrize(
    ("depth", "guide", "options", "message"),
    [
        (DEPTH, GUIDE, {"mask": np.inf < DEPTH}, "every sample of the depth is masked out: nothing to start from"),
        (DEPTH, GUIDE, {"mask": (DEPTH > 50).astype(np.uint8)}, "the mask is uint8: give booleans, True where"),
        (DEPTH, GUIDE, {"mask": (DEPTH > 50)[:2]}, r"the mask has shape \(2, 4\) and the depth \(3, 4\)"),
        (np.where(DEPTH > 60, 1e39, DEPTH.astype(float)), GUIDE, {}, r"has \d samples that are NaN or infinite"),
        (DEPTH, GUIDE, {"holes": "keeep"}, "holes 'keeep' is not known: choose keep or fill"),
        (DEPTH, GUIDE, {"fit": "squash"}, "fit 'squash' is not known: choose crop or resample"),
        (DEPTH, GUIDE, {"factor": 1}, "the factor is 1: more than 1 and at most 32"),
        (DEPTH, GUIDE, {"factor": 2.5}, r"at x2\.5 the guide must be 10 x 8; .*or the model's own factor 2"),
        (DEPTH, GUIDE, {"unit": "mile"}, "the unit 'mile' is not known"),
        (DEPTH, GUIDE, {"unit": "mm"}, "depth in mm cannot be turned into grey levels: both must be lengths"),
        (DEPTH, GUIDE, {"depth_range": "kinect"}, "the range 'kinect' is no number, not 'lr' and no sensor"),
        (DEPTH, GUIDE, {"depth_range": "kinect_v1"}, "depth in grey levels cannot be turned into m"),
        (DEPTH.astype(complex), GUIDE, {}, "the depth is complex128: convert"),
        (DEPTH[None], GUIDE, {}, r"the depth has shape \(1, 3, 4\): one map .* is needed with one guide"),
        (DEPTH[None], GUIDE[None, None], {}, r"the guide has shape \(1, 1, 6, 8, 3\): \(number, height, width, 3\)"),
        (DEPTH, GUIDE[None], {}, r"the guide has shape \(1, 6, 8, 3\): \(height, width, 3\)"),
        (zeros(2, 3, 4), zeros(3, 6, 8, 3), {}, "there are 3 guides for 2 depth maps"),
        (np.stack([DEPTH, DEPTH * 0]), zeros(2, 6, 8, 3), {"invalid": 0}, "every sample of the depth 1 of the batch"),
        (zeros(1, 1, 3, 4), GUIDE, {}, r"the depth has shape \(1, 1, 3, 4\): one map"),
        (DEPTH, zeros(0, 8, 3), {}, r"guide has shape \(0, 8, 3\)"),
        (DEPTH, GUIDE, {"tile": 0}, "tile of 0"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, depth: np.ndarray, guide: np.ndarray, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=message) as caught:
        upsampler_of()(depth, guide, **options)
    assert "\n" not in str(caught.value)


def make_run(folder: Path) -> Path:
    """A run with two checkpoints, the first of which is the better."""
    folder.mkdir()
    summary = {"model": {"name": "ahmf", **model_fields(MODEL)}, "scaling": "sample", "unit": "metre", "range": 10}
    (folder / "config.json").write_text(json.dumps({"trained": summary}))
    with Checkpoints(folder) as checkpoints:
        for step, error in ((1, 0.1), (2, 0.2)):
            arrays = jax.tree.map(lambda x, step=step: jnp.asarray(x * step), params())
            state = TrainState.start(arrays, MODEL, optax.sgd(0.1)).replace(step=jnp.int32(step))
            checkpoints.save(state, {}, error)
    return folder


def test_load_finds_bundles_and_a_runs_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    found = load_trained(run)
    assert (found.model, found.scaling, found.unit, found.range) == (MODEL, "sample", "metre", 10.0)
    assert found.origin == "step 1 of run"
    jax.tree.map(np.testing.assert_array_equal, found.params, params())
    save_bundle(tmp_path / "w.safetensors", found)
    expected = upsampler_of("sample")(DEPTH, GUIDE)
    for path in (run, str(tmp_path / "w.safetensors")):
        np.testing.assert_array_equal(ahmf_jax.load(path)(DEPTH, GUIDE), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "dada"}}, r"config\.json is damaged"),
        ({"model": {"name": "ahmf", "scale": 3}}, r"config\.json is damaged.*scale 3"),
        ({"range": "far"}, r"config\.json is damaged"),
        ({"range": -1}, r"config\.json is damaged"),
        ({"scaling": "log"}, r"config\.json is damaged"),
        (
            {"model": {"name": "ahmf", **model_fields(MODEL), "features": 4}},
            r"does not hold the weights of .*'features': 4",
        ),
    ],
)
def test_a_run_whose_configuration_is_another(
    tmp_path: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({"trained": {**config["trained"], **change}}))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=message):
        load(run)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "theirs.pth").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "none.safetensors": "none.safetensors does not exist",
        "none": "none does not exist: give a run's folder or a .safetensors file",
        "none.pth": "none.pth does not exist",
        "theirs.pth": "neither a run's folder nor a .safetensors file: .*`ahmf convert from-torch`",
        "empty": "empty is not a training run",
    }.items():
        with pytest.raises(InputError, match=message):
            ahmf_jax.load(tmp_path / name)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"empty/config.json is damaged"):
        ahmf_jax.load(tmp_path / "empty")
    shutil.rmtree(make_run(tmp_path / "run") / "checkpoints")
    with pytest.raises(InputError, match="run holds no complete checkpoint yet"):
        ahmf_jax.load(tmp_path / "run")


def test_a_model_that_must_be_told_the_truth_is_no_use_on_a_sensor() -> None:
    upsampler = Upsampler(trained("truth"))
    with pytest.raises(InputError, match=r"scaling=truth .* which no sensor knows: train one with scaling=sample"):
        upsampler(np.ones((3, 5), np.uint8), np.zeros((3 * MODEL.scale, 5 * MODEL.scale, 3), np.uint8))
    batch = {
        "depth_lr": np.full((1, 3, 5, 1), 0.5, np.float32),
        "mask_lr": np.ones((1, 3, 5, 1), bool),
        "guide": np.zeros((1, 3 * MODEL.scale, 5 * MODEL.scale, 3), np.float32),
        "depth_span": np.array([[0.25, 0.75]], np.float32),
    }
    offset_of_half = Upsampler(trained("range")).batch(batch)
    # (0.5 - 0.25) / 0.5 is 0.5 again: the network sees the same, and its answer is stretched back.
    np.testing.assert_allclose(upsampler.batch(batch), offset_of_half * 0.5 + 0.25, rtol=1e-5)
