"""The bundle: bit for bit, checked when read, whole or not at all when written."""

import dataclasses
import functools
import json
import os
import struct
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ahmf_jax import InputError, __version__, export
from ahmf_jax.export import Trained, load_bundle, read_safetensors, save_bundle
from ahmf_jax.models import AHMF
from ahmf_jax.state import init_params

TRAINING: dict[str, Any] = {"dataset": "scenes", "degradation": "LR by area"}
METRICS: dict[str, Any] = {"mae": 0.1 + 0.2, "images": 3}
FIELDS: dict[str, Any] = {"scale": 4, "num_levels": 2, "features": 4, "fusion": "frb", "recurrence": "forward"}


def random_params(model: AHMF, guide_channels: int = 3) -> Any:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, model, guide_channels=guide_channels))
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


MODEL = AHMF(**FIELDS)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained(
        MODEL, random_params(MODEL), "sample", "millimetre", 0.1 + 0.2, "step 3 of a run, ümlaut", TRAINING, METRICS
    )


@pytest.fixture
def bundle(trained: Trained, tmp_path: Path) -> Path:
    save_bundle(tmp_path / "w.safetensors", trained)
    return tmp_path / "w.safetensors"


def flat(params: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in traverse_util.flatten_dict(params, sep="/").items()}


def rewrite(path: Path, arrays: dict[str, Any] | None = None, **header: str) -> None:
    """The same file with other tensors or header entries."""
    old_arrays, old_header = read_safetensors(path)
    save_file(old_arrays if arrays is None else arrays, path, {**old_header, **header})


@pytest.mark.parametrize("variant", ["release", "paper"])
@pytest.mark.parametrize("guide_channels", [1, 3, 4])
def test_round_trip_bit_for_bit(tmp_path: Path, trained: Trained, variant: Any, guide_channels: int) -> None:
    model = AHMF(**FIELDS, variant=variant, remat="blocks")
    params = random_params(model, guide_channels)
    first = np.float32([-3.4e38, -0.0, 1e-45, 3.4e38])  # values that a detour through another type would change
    params["depth_level_1"]["conv"]["bias"] = first
    save_bundle(tmp_path / "w.safetensors", dataclasses.replace(trained, model=model, params=params))
    found = load_bundle(tmp_path / "w.safetensors")
    # How it is computed is not stored.
    assert found.model == AHMF(**FIELDS, variant=variant)
    assert dataclasses.replace(found, params={}, model=model) == dataclasses.replace(trained, params={}, model=model)
    assert {k: x.tobytes() for k, x in flat(found.params).items()} == {k: x.tobytes() for k, x in flat(params).items()}
    assert export.guide_channels(found.params) == guide_channels
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_array_that_is_not_contiguous(tmp_path: Path, trained: Trained) -> None:
    params = jax.tree.map(lambda x: np.asarray(x, order="F"), trained.params)
    save_bundle(tmp_path / "w.safetensors", dataclasses.replace(trained, params=params))
    found = flat(load_bundle(tmp_path / "w.safetensors").params)
    assert all(np.array_equal(x, found[name]) for name, x in flat(trained.params).items())


def test_the_header(bundle: Path) -> None:
    arrays, header = read_safetensors(bundle)
    assert json.loads(header.pop("model")) == {"name": "ahmf", "variant": "release", **FIELDS}
    assert header == {
        "format": "ahmf_jax 1",
        "scaling": "sample",
        "unit": "millimetre",
        "range": repr(0.1 + 0.2),
        "origin": "step 3 of a run, ümlaut",
        "version": __version__,
        "training": json.dumps(TRAINING),
        "metrics": json.dumps(METRICS),
    }
    assert export.read_header(bundle) == {**header, "model": json.dumps({"name": "ahmf", **export.model_fields(MODEL)})}
    assert "mmaf/frb/squeeze/conv/kernel" in arrays


@pytest.mark.parametrize(
    "header",
    [
        {"model": "{"},
        {"model": "[]"},
        {"model": '"ahmf"'},
        {"model": "3"},
        {"model": "{}"},
        {"model": json.dumps({"name": "dada"})},
        {"model": json.dumps({"name": "ahmf"})},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "scale": 3})},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "num_levels": "4"})},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "depth": 3})},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "unroll": 2})},  # how it is computed is no file's to say
        {"model": json.dumps({"name": "ahmf", **FIELDS, "num_levels": 2.0})},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "num_levels": True})},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "fusion": ["frb"]})},
        {"model": json.dumps({"name": ["ahmf"], **FIELDS})},
        {"model": 1000 * "[" + 1000 * "]"},
        {"model": json.dumps({"name": "ahmf", **FIELDS, "\x1b[2J\n": 3})},
        {"training": "3"},
        {"metrics": 100_000 * "["},
        {"scaling": "log"},
        {"range": "far"},
        {"range": "0"},
        {"range": "nan"},
        {"range": "-5"},
    ],
)
def test_a_damaged_header(bundle: Path, header: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    rewrite(bundle, **header)
    with pytest.raises(InputError, match=r"w\.safetensors has a damaged header") as error:
        load_bundle(bundle)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("claim", [{"num_levels": 10**9}, {"features": 10**30}, {"num_levels": 10**9, "features": 2}])
def test_a_boast_is_held_against_the_tensors_before_anything_is_traced(
    bundle: Path, claim: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def traced(*_: Any, **__: Any) -> None:
        raise AssertionError("it was traced")

    monkeypatch.setattr(export, "init_params", traced)
    rewrite(bundle, model=json.dumps({"name": "ahmf", **FIELDS, **claim}))
    with pytest.raises(InputError, match=r"reconstruction/reduce/kernel is \(1, 1, 8, 4\), not \(1, 1, \d+, \d+\)"):
        load_bundle(bundle)


def test_few_levels_are_traced_for_the_shapes_of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def counted(model: AHMF, **options: Any) -> Any:
        traced.append(model.num_levels)
        return init_params(model, **options)

    monkeypatch.setattr(export, "init_params", counted)
    monkeypatch.setattr(export, "TRACED_LEVELS", 4)
    for variant in ("release", "paper"):
        model = AHMF(scale=4, num_levels=5, features=4, variant=variant)
        wanted = jax.eval_shape(functools.partial(init_params, model, guide_channels=1))
        assert export.param_shapes(model, 1) == {
            k: x.shape for k, x in traverse_util.flatten_dict(wanted, sep="/").items()
        }
    assert max(traced) == 3
    assert export.param_shapes(AHMF(scale=4, num_levels=10**9), 3)["mmaf/frb/squeeze/prelu/negative_slope"] == (10**9,)


def raw(path: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_hostile_headers_end_in_one_line(bundle: Path, tmp_path: Path) -> None:
    meta = read_safetensors(bundle)[1]
    half = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    path = tmp_path / "hostile.safetensors"
    hostile: list[tuple[Any, bytes]] = [
        ({"__metadata__": meta, "a": half, "b": half}, bytes(16)),  # both in one place
        ({"__metadata__": meta, "a": half, "b": {**half, "data_offsets": [8, 24]}}, bytes(24)),
        ({"__metadata__": meta, "a": {**half, "data_offsets": [0, 2**63]}}, bytes(16)),
        ({"__metadata__": meta, "a": {**half, "shape": [2**40, 2**40]}}, bytes(16)),
        ({"__metadata__": meta, "a": {**half, "shape": [-4]}}, bytes(16)),
        ({"__metadata__": meta, "a": {**half, "dtype": "F33"}}, bytes(16)),
        ({"__metadata__": {**meta, "range": 3}, "a": half}, bytes(16)),
        (5000 * b'{"a":', b""),
        (b'{"__metadata__":{"format":"' + (export.MAX_HEADER + 1) * b"x" + b'"}}', b""),
    ]
    for header, data in hostile:
        raw(path, header, data)
        with pytest.raises(InputError, match=r"hostile\.safetensors is not a readable safetensors file") as error:
            load_bundle(path)
        assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_one_tensor_more_or_of_another_type(bundle: Path, trained: Trained) -> None:
    arrays = flat(trained.params)
    rewrite(bundle, {**arrays, "mmaf/frb/squeeze/conv/bias": arrays["mmaf/frb/squeeze/conv/bias"].astype(np.float16)})
    with pytest.raises(InputError, match=r"mmaf/frb/squeeze/conv/bias is F16, not F32"):
        load_bundle(bundle)
    many = {f"\x1b[2J{i}": np.zeros(1, np.float32) for i in range(1000)}
    rewrite(bundle, {**arrays, **many})
    with pytest.raises(InputError, match=r"is not of this model.*and 980 more") as error:
        load_bundle(bundle)
    assert str(error.value).isprintable() and len(str(error.value)) < 2000
    empty = {name: np.zeros((0, *x.shape[1:]) if x.ndim else (0,), np.float32) for name, x in arrays.items()}
    rewrite(bundle, {**empty, "reconstruction/reduce/kernel": arrays["reconstruction/reduce/kernel"]})
    with pytest.raises(InputError, match=r"depth_level_1/conv/bias is \(0,\), not \(4,\)"):
        load_bundle(bundle)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_no_numbers(bundle: Path, trained: Trained, value: float) -> None:
    arrays = flat(trained.params)
    arrays["depth_level_1/conv/bias"] = np.float32([0, value, 0, 0])
    rewrite(bundle, arrays)
    with pytest.raises(InputError, match=r"NaN or infinite.*: depth_level_1/conv/bias;"):
        load_bundle(bundle)
    before = bundle.read_bytes()
    with pytest.raises(InputError, match=r"the model has weights that are NaN or infinite"):
        save_bundle(bundle, dataclasses.replace(trained, params=traverse_util.unflatten_dict(arrays, sep="/")))
    assert bundle.read_bytes() == before


def test_bundles_of_before_training_and_metrics_were_in_them(bundle: Path, trained: Trained) -> None:
    arrays, header = read_safetensors(bundle)
    save_file(arrays, bundle, {k: v for k, v in header.items() if k not in ("version", "training", "metrics")})
    found = load_bundle(bundle)
    assert (found.training, found.metrics, found.unit, found.model) == ({}, {}, "millimetre", MODEL)


def test_a_bundle_of_a_later_format_names_both_versions(bundle: Path) -> None:
    rewrite(bundle, format="ahmf_jax 2", version="9.1")
    message = rf"w\.safetensors is of format 'ahmf_jax 2', written by ahmf-jax 9\.1, and this is ahmf-jax {__version__}"
    for read in (load_bundle, export.read_header):
        with pytest.raises(InputError, match=message):
            read(bundle)


def test_files_that_are_no_bundles(bundle: Path, tmp_path: Path) -> None:
    for name, content in {
        "empty": b"",
        "foreign": b"PK\x03\x04 and so on",
        "truncated": bundle.read_bytes()[:-1],
        "header cut": bundle.read_bytes()[:50],
        "boastful": struct.pack("<Q", 2**62) + b"{}",
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.safetensors is not a readable safetensors file"):
            load_bundle(path)
    with pytest.raises(InputError, match=r"none\.safetensors does not exist"):
        load_bundle(tmp_path / "none.safetensors")
    save_file({"module.conv.weight": np.zeros(2, np.float32)}, tmp_path / "theirs.safetensors")
    with pytest.raises(InputError, match=r"not of format 'ahmf_jax 1'.*from-torch"):
        load_bundle(tmp_path / "theirs.safetensors")


def test_weights_of_another_model_are_named_one_by_one(bundle: Path, trained: Trained) -> None:
    arrays = flat(trained.params)
    del arrays["mmaf/frb/excite_guide/bias"], arrays["depth_level_1/prelu/negative_slope"]
    arrays["mmaf/extra/bias"] = np.zeros(4, np.float32)
    arrays["depth_levels/conv/kernel"] = np.zeros((3, 3, 3, 4, 4), np.float32)  # of more levels
    rewrite(bundle, arrays)
    with pytest.raises(InputError) as error:
        load_bundle(bundle)
    assert str(error.value).endswith(
        "depth_level_1/prelu/negative_slope is missing; mmaf/frb/excite_guide/bias is missing; "
        "mmaf/extra/bias is not of this model; "
        f"depth_levels/conv/kernel is (3, 3, 3, 4, 4), not ({FIELDS['num_levels'] - 1}, 3, 3, 4, 4)"
    )


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_without_the_kernel_that_tells_the_guides_channels(tmp_path: Path, trained: Trained, variant: Any) -> None:
    model = AHMF(**FIELDS, variant=variant)
    path = tmp_path / "w.safetensors"
    save_bundle(path, dataclasses.replace(trained, model=model, params=random_params(model)))
    name = f"guide_level_1/{'input' if variant == 'release' else 'down_0'}/conv/kernel"
    rewrite(path, {k: x for k, x in read_safetensors(path)[0].items() if k != name})
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_bundle(path)
    joined = "reconstruction/reduce/kernel"
    rewrite(path, {"guide_level_1": np.zeros(3, np.float32), joined: read_safetensors(path)[0][joined]})
    with pytest.raises(InputError, match="guide_level_1 is not of this model"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("scaling", "range_", "message"), [("log", 1.0, "'log' is not one of range, sample"), ("range", 0.0, "range is 0")]
)
def test_a_wrong_field_fails_at_construction(
    monkeypatch: pytest.MonkeyPatch, scaling: Any, range_: float, message: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the name first
    with pytest.raises(InputError, match=message):
        Trained(AHMF(scale=2), {}, scaling, "metre", range_)


def test_places_that_cannot_be_written(tmp_path: Path, trained: Trained) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path in ("none/w.safetensors", "file/w.safetensors", "folder.safetensors", f"{'n' * 250}.safetensors"):
        with pytest.raises(InputError, match=f"^{tmp_path / path}: .*(there is no folder|name a file|shorter name)"):
            save_bundle(tmp_path / path, trained)
    assert sorted(tmp_path.rglob("*")) == before


def test_whoever_may_read_a_new_file_may_read_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert bundle.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    bundle: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"w\.safetensors: cannot be written \(No space left .*free some space"):
            save_bundle(bundle, trained)
    assert bundle.read_bytes() == before and list(bundle.parent.iterdir()) == [bundle]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(bundle, trained)
    assert bundle.read_bytes() == before and list(bundle.parent.iterdir()) == [bundle]
