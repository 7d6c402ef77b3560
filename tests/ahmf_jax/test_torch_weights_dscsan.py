"""DSCSAN's conversion table: the model's own tree, exact both ways, and what does not fit."""

from typing import Any

import jax
import numpy as np
import pytest

from ahmf_jax import dscsan_forms, torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.models import DSCSAN
from ahmf_jax.state import init_params
from ahmf_jax.torch_weights import dscsan, tables

SMALL: dict[str, Any] = {"groups": 2, "blocks": 3, "features": 4}


def random_arrays(model: DSCSAN) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {row.torch: np.asarray(rng.random(row.shape), np.float32) for row in dscsan.table(model)}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return random_arrays(DSCSAN(4, **SMALL))


@pytest.mark.parametrize(
    "model",
    [
        DSCSAN(8),
        DSCSAN(16, 1, 2, 32),
        *(DSCSAN(4, **{**SMALL, **fields}) for fields in dscsan_forms.FORMS.values()),
        DSCSAN(2, 10, 20, 64, **dscsan_forms.FORMS["C1"]),
    ],
    ids=lambda model: model.summary(),
)
def test_the_table_is_the_models_own_tree(model: DSCSAN) -> None:
    rows = dscsan.table(model)
    shapes = jax.eval_shape(lambda: init_params(model))
    assert {"/".join(path): shape for path, shape in tables.flax_shapes(rows).items()} == {
        path: x.shape for path, x in tables.flatten(shapes).items()
    }
    assert len({row.torch for row in rows}) == len({(row.flax, row.entry) for row in rows}) == len(rows)


@pytest.mark.parametrize("form", dscsan_forms.FORMS)
@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_there_and_back(scale: int, form: dscsan_forms.Form) -> None:
    """Names and shapes tell all fields but one; that x2 has one stage either way, nothing needs to tell."""
    fields = {**SMALL, **dscsan_forms.FORMS[form]}
    model = DSCSAN(scale, **fields, interpolated=False)
    arrays = random_arrays(model)
    prefixed = {f"module.{name}": value for name, value in arrays.items()}
    found, params = torch_weights.from_torch(prefixed, interpolated=False)
    assert found == model.clone(progressive=model.progressive or scale == 2)
    assert torch_weights.from_torch(arrays)[0] == found.clone(interpolated=True)
    back = torch_weights.to_torch(model, params)
    assert list(back) == list(arrays)
    for name, value in arrays.items():
        assert back[name].dtype == np.float32 and back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()


def test_layouts(arrays: dict[str, np.ndarray]) -> None:
    """A group's blocks are a stack, in their order."""
    half = {name: value.astype(np.float16) for name, value in arrays.items()}
    _, params = torch_weights.from_torch(half)
    kernel, bias = (params["body_2"]["group_1_blocks"]["widen"][part] for part in ("kernel", "bias"))
    assert kernel.shape == (3, 3, 3, 4, 8) and kernel.dtype == bias.dtype == np.float32
    for entry in range(3):
        name = f"body.1.groups.0.blocks.{entry}.widen"
        assert kernel[entry, 1, 2, 3, 4] == half[f"{name}.weight"][4, 3, 1, 2]
        np.testing.assert_array_equal(bias[entry], half[f"{name}.bias"])
    attention = params["body_1"]["group_2_attention"]
    np.testing.assert_array_equal(attention["excite_3"]["bias"], half["body.0.groups.1.attention.excite.2.bias"])
    np.testing.assert_array_equal(params["up_2"]["conv"]["bias"], half["up.1.bias"])


def test_one_message_names_every_fault(arrays: dict[str, np.ndarray]) -> None:
    """Also where so much is missing that the fields could be taken for others."""
    del arrays["input.bias"], arrays["output.1.weight"], arrays["body.1.groups.1.attention.merge.bias"]
    arrays["epoch"] = np.zeros(1, np.float32)
    arrays["body.0.groups.0.blocks.0.conv_1.bias"] = np.zeros(6, np.float32)
    with pytest.raises(InputError) as raised:
        torch_weights.from_torch(arrays)
    message = str(raised.value)
    assert message.startswith("the PyTorch weights do not fit a DSCSAN x4, 2 x 3 blocks, 4 features: missing: input.b")
    assert "body.1.groups.1.attention.merge.bias (4,), output.1.weight (1, 4, 3, 3); unknown: epoch;" in message
    assert "misshaped: body.0.groups.0.blocks.0.conv_1.bias (6,), not (4,):" in message


def test_a_part_of_it_is_still_known_as_one(arrays: dict[str, np.ndarray]) -> None:
    for start, told in {
        "output.": "x4, 1 x 1 blocks, 64 features, no attention",
        "up.": "x4, 1 x 1 blocks, 64 features, no attention, no stages",
        "body.0.": "x2, 2 x 3 blocks, 4 features",
    }.items():
        part = {name: value for name, value in arrays.items() if name.startswith(start)}
        with pytest.raises(InputError, match=f"do not fit a DSCSAN {told}: missing: input.weight"):
            torch_weights.from_torch(part)


def test_numbers_in_names_are_counted() -> None:
    """Neither a large one nor a group of many blocks among many groups asks for a table larger than the file."""
    names = [f"body.0.groups.{g}.blocks.0.conv_1.bias" for g in range(300)]
    names += [f"body.0.groups.9999999999.blocks.{b}.conv_1.bias" for b in range(300)]
    model = dscsan.infer(dict.fromkeys(names, (4,)))
    assert (model.groups, model.blocks, model.features) == (301, 2, 4)


def test_what_is_told_of_another_model(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match="the weights of a DSCSAN: variant and swapped are of an AHMF; leave them out"):
        torch_weights.from_torch(arrays, "paper")
    with pytest.raises(InputError, match="no weights of a DSDMSR: fusion and combine are of one; leave them out"):
        torch_weights.from_torch(arrays, combine="mean")
    with pytest.raises(InputError, match="no weights of a DSCSAN: interpolated is of one; leave it out"):
        torch_weights.from_torch({"msf_dcnn.conv1.bias": np.zeros(64)}, interpolated=True)


def test_parameters_of_another_model(arrays: dict[str, np.ndarray]) -> None:
    model, params = torch_weights.from_torch(arrays)
    del params["body_2"]["group_1_blocks"]["widen"]
    with pytest.raises(InputError, match=r"missing: body_2/group_1_blocks/widen/kernel \(3, 3, 3, 4, 8\), body_2/gr"):
        torch_weights.to_torch(model, params)
