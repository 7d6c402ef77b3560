"""The variants' parts by themselves: each swapped one changes the network, all together make the other variant.

That a swapped network's numbers are right is test_parity.py's, and that its reach is, test_engine.py's.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError, export
from ahmf_jax.flops import train_flops
from ahmf_jax.models import AHMF
from ahmf_jax.state import init_params
from ahmf_jax.variants import PARTS, VARIANTS, Forms, Part, Variant
from tests.ahmf_jax.test_ahmf import compiled, images, random_params

TINY: dict[str, Any] = {"scale": 2, "num_levels": 2, "features": 4}
# Of which neither names nor shapes of the parameters tell.
UNSEEN: tuple[Part, ...] = ("statistics", "halving", "order")


def output(model: AHMF, params: Any) -> np.ndarray:
    return np.asarray(compiled(model)(params, *images(model))[0])


@functools.cache
def shapes(model: AHMF) -> Any:
    """Of the parameters."""
    return jax.tree.map(jnp.shape, jax.eval_shape(functools.partial(init_params, model)))


def test_the_form_of_a_part() -> None:
    forms = Forms("release", ("order", "squeeze"))
    assert forms.swapped == ("squeeze", "order")  # as the parts are listed
    assert {part for part in PARTS if forms(part) == "paper"} == {"order", "squeeze"}
    assert Forms("paper", ("order",))("order") == "release"
    assert AHMF(**TINY, swapped=("order", "squeeze")) == AHMF(**TINY, swapped=("squeeze", "order"))


@pytest.mark.parametrize(
    ("swapped", "message"),
    [
        (("std",), "swapped has 'std', which is no part: choose among guidance_head, squeeze, statistics, "),
        (("order", "halving", "order"), "swapped has 'order' more than once: name it once"),
        ((["order"],), r"swapped has \['order'\], which is no part"),
    ],
)
def test_what_is_no_part(swapped: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    for make in (Forms, lambda **fields: AHMF(**TINY, **fields)):
        with pytest.raises(InputError, match=message):
            make(swapped=swapped)


@pytest.mark.parametrize(
    ("fields", "absent", "said"),
    [
        ({"fusion": "concat"}, PARTS[1:5], "with fusion concat there is no FRB: leave one of the two out"),
        ({"fusion": "feb"}, PARTS[1:5], "with fusion feb there is no FRB"),
        ({"fusion": "frb"}, (), ""),
        ({"recurrence": "none"}, ("gru_layers",), "with recurrence none there is no ConvGRU: leave one"),
        ({"recurrence": "backward"}, (), ""),
    ],
)
def test_parts_of_blocks_that_are_left_out(fields: Any, absent: tuple[Part, ...], said: str) -> None:
    assert PARTS[1:5] == ("squeeze", "statistics", "excitation", "halving")
    for part in PARTS:
        if part in absent:
            with pytest.raises(InputError, match=f"swapped has '{part}', and {said}"):
                AHMF(**TINY, **fields, swapped=(part,))
        else:
            AHMF(**TINY, **fields, swapped=(part,))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_parts_of_one_variant_are_the_other(variant: Variant) -> None:
    (other,) = {*VARIANTS} - {variant}
    model, same = AHMF(**TINY, variant=other), AHMF(**TINY, variant=variant, swapped=PARTS)
    params = random_params(model)
    assert shapes(same) == shapes(model)
    np.testing.assert_array_equal(output(same, params), output(model, params))
    assert (same.level_order, same.reach, same.pooled_reach) == (model.level_order, model.reach, model.pooled_reach)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_another_network(part: Part) -> None:
    """In its parameters, or, where these are the same, in what it makes of them."""
    model, swapped = AHMF(**TINY), AHMF(**TINY, swapped=(part,))
    params = random_params(model)
    assert (shapes(swapped) == shapes(model)) == (part in UNSEEN)
    if part in UNSEEN:
        # A hundred times the rounding.
        assert np.abs(output(swapped, params) - output(model, params)).max() > 1e-5


@pytest.mark.parametrize("recurrence", ["both", "none"])
def test_the_order_only_renames_parameters(recurrence: Any) -> None:
    """The directions, and the rows of the concatenation; so it changes nothing that can be learnt."""
    fields: dict[str, Any] = {**TINY, "num_levels": 3, "recurrence": recurrence}
    model = AHMF(**fields)
    params = random_params(model)
    renamed = jax.tree.map(lambda x: x, params)  # other dicts, the same arrays
    if recurrence == "both":
        bhfc = renamed["bhfc"]
        bhfc["forward_gru"], bhfc["backward_gru"] = bhfc["backward_gru"], bhfc["forward_gru"]
    reduce = renamed["reconstruction"]["reduce"]
    rows = reduce["kernel"].reshape(3, model.features, model.features)  # level, feature, output
    reduce["kernel"] = rows[::-1].reshape(reduce["kernel"].shape)
    swapped = AHMF(**fields, swapped=("order",))
    np.testing.assert_allclose(output(swapped, renamed), output(model, params), rtol=0, atol=2e-6)
    assert np.abs(output(swapped, params) - output(model, params)).max() > 1e-3


def test_halving_can_be_taken_up_by_the_excitation() -> None:
    """By PReLU, which passes a factor on; behind a sigmoid by the weights that follow."""
    model, halved = AHMF(**TINY, variant="paper"), AHMF(**TINY, variant="paper", swapped=("halving",))
    params = random_params(model)
    doubled = jax.tree.map(lambda x: x, params)
    for name in ("excite_depth", "excite_guide"):
        doubled["mmaf"]["frb"][name] = jax.tree.map(lambda x: 2 * x, params["mmaf"]["frb"][name])
    np.testing.assert_allclose(output(halved, doubled), output(model, params), rtol=0, atol=2e-6)


def test_the_arithmetic_of_a_swapped_network() -> None:
    model, less = AHMF(**TINY), AHMF(**TINY, swapped=("residual",))
    depth, guide = images(model)
    batch = {"depth_lr": depth, "guide": guide}
    block = 2 * 2 * 9 * model.features**2 * depth.size  # two convolutions, a multiplication and an addition each
    assert train_flops(model, batch) - train_flops(less, batch) == 3 * model.num_levels * block


def test_the_fields_travel_and_older_files_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    model = AHMF(**TINY, variant="paper", swapped=("order", "squeeze"))
    fields = json.loads(json.dumps({"name": "ahmf", **export.model_fields(model)}))
    assert fields["swapped"] == ["squeeze", "order"] and export.build_model(fields) == model
    plain = export.model_fields(AHMF(**TINY))
    assert "swapped" not in plain and export.build_model({"name": "ahmf", **plain}) == AHMF(**TINY)
    with pytest.raises(TypeError, match="swapped is 'order'"):
        export.build_model({**fields, "swapped": "order"})
    with pytest.raises(InputError, match="swapped has 3"):
        export.build_model({**fields, "swapped": [3]})
