"""The conversion table: bijective, exact both ways, and every fault in one message."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ahmf_jax import torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.models import AHMF
from ahmf_jax.models.ahmf import SCALES, Fusion, Recurrence
from ahmf_jax.variants import PARTS, VARIANTS, Part
from tests.ahmf_jax.test_variants import UNSEEN


def every_model() -> Iterator[AHMF]:
    """Every scale of both variants with one level and with four, every ablation, and every part swapped."""
    for variant in VARIANTS:
        for scale in SCALES:
            for num_levels in (1, 4):
                yield AHMF(scale=scale, num_levels=num_levels, features=8, variant=variant)
        for fusion in get_args(Fusion):
            for recurrence in get_args(Recurrence):
                yield AHMF(scale=4, num_levels=3, features=6, variant=variant, fusion=fusion, recurrence=recurrence)
        some: list[tuple[Part, ...]] = [("squeeze", "residual", "activation"), PARTS[6:]]
        for swapped in [*((part,) for part in PARTS), *some]:
            yield AHMF(scale=4, num_levels=2, features=6, variant=variant, swapped=swapped)


def random_arrays(model: AHMF, guide_channels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {row.torch: rng.random(row.shape, np.float32) for row in torch_weights.ahmf.table(model, guide_channels)}


@pytest.fixture(scope="module")
def model() -> AHMF:
    return AHMF(scale=4, num_levels=2, features=8)


@pytest.fixture
def arrays(model: AHMF) -> dict[str, np.ndarray]:
    return random_arrays(model)


def test_no_name_and_no_place_occurs_twice() -> None:
    for model in every_model():
        rows = torch_weights.ahmf.table(model)
        places = {(row.flax, row.entry) for row in rows}
        assert len({row.torch for row in rows}) == len(places) == len(rows)
        # Every stack has all of its entries: nothing of it stays unwritten.
        for path in {row.flax for row in rows}:
            indices = [row.entry for row in rows if row.flax == path]
            assert indices == [None] or sorted(indices) == list(range(len(indices)))


def test_round_trip_is_exact_and_the_fields_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a million checks, nine tenths of the time
    for i, model in enumerate(every_model()):
        arrays = random_arrays(model, guide_channels=(3, 1, 4)[i % 3])
        unseen = {*model.swapped} & {*UNSEEN}
        found, params = torch_weights.from_torch(arrays, *((model.variant, model.swapped) if unseen else ()))
        assert found == model
        back = torch_weights.to_torch(found, params)
        assert list(back) == list(arrays)
        for name, value in arrays.items():
            assert back[name].dtype == np.float32
            assert back[name].shape == value.shape
            assert back[name].tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("scale", "num_levels", "fusion", "recurrence", "swapped"),
    [
        (2, 1, "feb_frb", "both", ()),
        (8, 3, "feb", "forward", ()),
        (4, 2, "frb", "backward", ()),
        (32, 2, "concat", "none", ()),
        *((2, 2, "feb_frb", "both", (part,)) for part in PARTS if part not in UNSEEN),
    ],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_is_the_models_own_tree(
    variant: Any, scale: int, num_levels: int, fusion: Any, recurrence: Any, swapped: Any
) -> None:
    model = AHMF(scale, num_levels, 4, variant, fusion, recurrence, swapped=swapped)
    depth_lr, guide = jnp.zeros((1, 2, 3, 1)), jnp.zeros((1, 2 * scale, 3 * scale, 4))
    params = jax.eval_shape(model.init, jax.random.key(0), depth_lr, guide)["params"]
    rows = torch_weights.ahmf.table(model, guide_channels=4)
    assert {path: x.shape for path, x in flatten_dict(params).items()} == torch_weights.tables.flax_shapes(rows)


@pytest.mark.parametrize(("scale", "parameters", "tensors"), [(4, 2538922, 181), (8, 3358444, 187), (16, 5750830, 193)])
def test_the_release_has_the_published_size(scale: int, parameters: int, tensors: int) -> None:
    rows = torch_weights.ahmf.table(AHMF(scale=scale))
    assert (sum(int(np.prod(row.shape)) for row in rows), len(rows)) == (parameters, tensors)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_told_of_a_network(variant: Any) -> None:
    """A part that is not seen is taken to be the variant's; so is, without one, every part but those that are seen."""
    (other,) = {*VARIANTS} - {variant}
    fields: dict[str, Any] = {"scale": 4, "num_levels": 2, "features": 8}
    from_torch: Any = torch_weights.from_torch
    seen = tuple(part for part in PARTS if part not in UNSEEN)
    for part in UNSEEN:
        arrays = random_arrays(AHMF(**fields, variant=variant, swapped=(part,)))
        assert from_torch(arrays)[0] == AHMF(**fields, variant=variant)
    arrays = random_arrays(AHMF(**fields, variant=variant, swapped=("squeeze", "order")))
    assert from_torch(arrays)[0].swapped == ("squeeze",)
    # As a network of the other variant, it has the other parts swapped.
    found, _ = from_torch(arrays, other)
    assert found == AHMF(**fields, variant=other, swapped=tuple(part for part in seen if part != "squeeze"))
    found, _ = from_torch(arrays, swapped=("order", "squeeze"))
    assert found == AHMF(**fields, variant=variant, swapped=("squeeze", "order"))
    # The deepest level is the first where the release has it so, and the last where that is swapped.
    plain = from_torch(arrays, swapped=("squeeze",))[1]["mmaf"]["frb"]["squeeze"]["conv"]["bias"]
    turned = from_torch(arrays, swapped=("order", "squeeze"))[1]["mmaf"]["frb"]["squeeze"]["conv"]["bias"]
    np.testing.assert_array_equal(turned, plain[::-1])
    with pytest.raises(
        InputError, match=rf"fit a {variant} AHMF \(swapped: order\) x4 with 2 levels.*misshaped: fuse_"
    ):
        from_torch(arrays, variant, ("order",))
    with pytest.raises(InputError, match="swapped has 'order' more than once"):
        from_torch(arrays, swapped=("order", "order"))


def test_layouts(arrays: dict[str, np.ndarray]) -> None:
    _, params = torch_weights.from_torch(arrays)
    weight = arrays["head.guidance_in.0.weight"]
    kernel = params["guide_level_1"]["input"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 3, 8)
    assert kernel[0, 2, 1, 5] == weight[5, 1, 0, 2]
    slope = params["depth_level_1"]["prelu"]["negative_slope"]
    assert slope.shape == ()
    assert slope == arrays["head.depth_in.1.weight"][0]


@pytest.mark.parametrize(("variant", "order"), [("release", (2, 1, 0)), ("paper", (0, 1, 2))])
def test_the_levels_are_stacked_and_the_release_counts_from_the_deepest(variant: Any, order: tuple[int, ...]) -> None:
    arrays = random_arrays(AHMF(scale=4, num_levels=3, features=8, variant=variant))
    _, params = torch_weights.from_torch(arrays)
    for i, index in enumerate(order):
        kernel = params["mmaf"]["frb"]["squeeze"]["conv"]["kernel"][index]
        weight = arrays[f"fuse_conv.{i}.attention_layer.squeeze.layers.weight"]
        assert kernel[0, 2, 1, 3] == weight[3, 1, 0, 2]
        bias = params["bhfc"]["refine"]["conv_2"]["bias"][index]
        np.testing.assert_array_equal(bias, arrays[f"compress_out.{i}.layers.layers.1.layers.bias"])
    for i in range(2):  # levels 2 and 3, in either variant
        for torch, flax in (("rgb_conv", "guide_levels"), ("depth_conv", "depth_levels")):
            np.testing.assert_array_equal(params[flax]["conv"]["bias"][i], arrays[f"{torch}.{i}.layers.bias"])
            assert params[flax]["prelu"]["negative_slope"][i] == arrays[f"{torch}.{i}.act.weight"][0]


def test_names_with_the_module_prefix(model: AHMF, arrays: dict[str, np.ndarray]) -> None:
    found, params = torch_weights.from_torch({f"module.{name}": value for name, value in arrays.items()})
    assert found == model
    assert list(torch_weights.to_torch(model, params)) == list(arrays)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_other_floating_types_become_float32(model: AHMF, arrays: dict[str, np.ndarray], dtype: Any) -> None:
    given = {name: value.astype(dtype) for name, value in arrays.items()}
    _, params = torch_weights.from_torch(given)
    back = torch_weights.to_torch(model, jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params))
    for name, value in given.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], value.astype(jnp.bfloat16).astype(np.float32))


def test_the_parameters_share_no_memory_with_what_was_given(model: AHMF, arrays: dict[str, np.ndarray]) -> None:
    _, params = torch_weights.from_torch(arrays)
    for mine in jax.tree.leaves(params):
        assert not any(np.shares_memory(mine, theirs) for theirs in arrays.values())
    back = torch_weights.to_torch(model, params)
    assert not any(np.shares_memory(mine, theirs) for mine in jax.tree.leaves(params) for theirs in back.values())


def test_one_message_names_every_fault(arrays: dict[str, np.ndarray]) -> None:
    del arrays["up_conv.0.act.weight"]
    del arrays["rgb_conv.0.layers.bias"]
    arrays["optimizer.step"] = np.zeros(1, np.float32)
    arrays["two\nlines"] = np.zeros(1, np.float32)
    arrays["up_conv.1.weight"] = np.zeros((32, 9, 1, 1), np.float32)
    arrays["head.depth_in.0.bias"] = np.zeros(8, np.int64)
    with pytest.raises(InputError) as raised:
        torch_weights.from_torch(arrays)
    message = str(raised.value)
    assert "\n" not in message
    assert "missing: rgb_conv.0.layers.bias (8,), up_conv.0.act.weight (1,)" in message
    assert "unknown: optimizer.step, 'two\\nlines'" in message
    assert "misshaped: up_conv.1.weight (32, 9, 1, 1), not (32, 8, 1, 1)" in message
    assert "not floating: head.depth_in.0.bias int64" in message
    assert "release AHMF x4 with 2 levels, 8 features" in message


@pytest.mark.parametrize("given", [{}, {"encoder.weight": np.zeros((4, 4))}, {"fuse_conv.99999999999.x": np.zeros(())}])
def test_weights_of_something_else(given: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match="has a known name: give the weights of an AHMF, a DADA, a DSDMSR or a DSC"):
        torch_weights.from_torch(given)


def test_half_prefixed_names_are_unknown(arrays: dict[str, np.ndarray]) -> None:
    arrays["module.up_conv.0.act.weight"] = arrays["up_conv.0.act.weight"]
    with pytest.raises(InputError, match=r"unknown: module\.up_conv\.0\.act\.weight"):
        torch_weights.from_torch(arrays)


def test_parameters_of_another_model(arrays: dict[str, np.ndarray]) -> None:
    model, params = torch_weights.from_torch(arrays)
    del params["depth_level_1"]["prelu"]
    params["extra"] = {"kernel": np.zeros(2, np.float32)}
    params["reconstruction"]["output"]["bias"] = np.zeros(2, np.float32)
    params["mmaf"]["frb"]["squeeze"]["conv"]["bias"] = np.zeros((3, 4), np.float32)
    with pytest.raises(InputError) as raised:
        torch_weights.to_torch(model, params)
    message = str(raised.value)
    assert "missing: depth_level_1/prelu/negative_slope ()" in message
    assert "unknown: extra/kernel" in message
    assert (
        "misshaped: mmaf/frb/squeeze/conv/bias (3, 4), not (2, 4), reconstruction/output/bias (2,), not (1,)" in message
    )


def test_importing_needs_neither_torch_nor_jax() -> None:
    code = "import sys, ahmf_jax.torch_weights; assert not {'torch', 'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
