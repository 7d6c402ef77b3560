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
from ahmf_jax import InputError, resample
from ahmf_jax.checkpoint import Checkpoints
from ahmf_jax.export import Trained, model_fields, save_bundle
from ahmf_jax.holes import fill_holes
from ahmf_jax.models import AHMF
from ahmf_jax.state import TrainState, init_params
from ahmf_jax.upsample import Upsampler, load, load_trained

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
    filled = fill_holes(depth, known)
    # By hand: the range is the model's; the sample's own span is that of what is known.
    offset, span = (0.0, 120.0) if scaling == "range" else (filled.min(), np.ptp(filled))
    output, _ = jax.jit(MODEL.apply)(
        {"params": params()}, jnp.asarray((filled - offset) / span)[None, ..., None], jnp.asarray(GUIDE)[None]
    )
    expected = np.asarray(output[0, ..., 0]) * span + offset
    result = upsampler_of(scaling, range=120.0)(
        np.where(known, depth, np.nan).astype(np.float32), GUIDE, invalid=np.nan
    )
    np.testing.assert_allclose(result[~np.isnan(result)], expected[~np.isnan(result)], rtol=2e-5)
    np.testing.assert_array_equal(np.isnan(result), blocks(~known))
    assert np.abs(result - bicubic(filled))[~np.isnan(result)].max() > 1, "the network added nothing"


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
        expected = np.rint(bicubic(fill_holes(depth, ~hole)))
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
    monkeypatch: pytest.MonkeyPatch, depth: np.ndarray, guide: np.ndarray, options: dict[str, float], message: str
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
