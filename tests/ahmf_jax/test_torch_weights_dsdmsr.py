"""DSDMSR's conversion table: the model's own tree, exact both ways, and what does not fit."""

from typing import Any

import jax
import numpy as np
import pytest

from ahmf_jax import torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.models import DSDMSR
from ahmf_jax.state import init_params
from ahmf_jax.torch_weights import dsdmsr, tables


def random_arrays(model: DSDMSR) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {row.torch: np.asarray(rng.random(row.shape), np.float32) for row in dsdmsr.table(model)}


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    return random_arrays(DSDMSR(4))


@pytest.fixture
def arrays(whole: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(whole)


@pytest.mark.parametrize(
    ("scale", "unit", "parameters"),
    [(8, "srcnn", 744_653), (16, "srcnn", 973_777), (8, "vdsr", 3_848_832), (2, "vdsr", 5 * 296_064)],
)
def test_the_table_is_the_models_own_tree_of_the_published_size(scale: int, unit: Any, parameters: int) -> None:
    model = DSDMSR(scale, unit)
    rows = dsdmsr.table(model)
    shapes = jax.eval_shape(lambda: init_params(model))
    assert {"/".join(path): shape for path, shape in tables.flax_shapes(rows).items()} == {
        path: x.shape for path, x in tables.flatten(shapes).items()
    }
    assert len({row.torch for row in rows}) == len({(row.flax, row.entry) for row in rows}) == len(rows)
    assert sum(int(np.prod(row.shape)) for row in rows) == parameters


@pytest.mark.parametrize("unit", ["srcnn", "vdsr"])
@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_there_and_back(scale: int, unit: Any) -> None:
    model = DSDMSR(scale, unit)
    arrays = random_arrays(model)
    found, params = torch_weights.from_torch({f"module.{name}": value for name, value in arrays.items()})
    assert found == model
    back = torch_weights.to_torch(found, params)
    assert list(back) == list(arrays)
    for name, value in arrays.items():
        assert back[name].dtype == np.float32 and back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()


def test_layouts(arrays: dict[str, np.ndarray]) -> None:
    """The four views are a stack: even and odd rows, and in each of these even and odd columns."""
    half = {name: value.astype(np.float16) for name, value in arrays.items()}
    _, params = torch_weights.from_torch(half)
    kernel, bias = (params["stage_2"]["conv_2"][part] for part in ("kernel", "bias"))
    assert kernel.shape == (4, 5, 5, 64, 32) and kernel.dtype == bias.dtype == np.float32
    for entry, view in enumerate(("1_1", "1_2", "2_1", "2_2")):
        name = f"dcnn_unit_{view}_x4.conv2"
        assert kernel[entry, 1, 2, 3, 4] == half[f"{name}.weight"][4, 3, 1, 2]
        np.testing.assert_array_equal(bias[entry], half[f"{name}.bias"])
    assert params["fusion"]["conv_1"]["kernel"].shape == (9, 9, 1, 64)
    np.testing.assert_array_equal(params["fusion"]["conv_3"]["bias"], half["msf_dcnn.conv3.bias"])


def test_what_no_tensor_tells_is_as_published(arrays: dict[str, np.ndarray]) -> None:
    model, params = torch_weights.from_torch(arrays)
    assert model == DSDMSR(4, "srcnn", fusion="code", combine="sum")
    other = torch_weights.to_torch(DSDMSR(4, fusion="figure", combine="mean"), params)
    assert all(other[name].tobytes() == value.tobytes() for name, value in arrays.items())


def test_a_part_of_it_is_still_known_as_one(arrays: dict[str, np.ndarray]) -> None:
    part = {name: value for name, value in arrays.items() if name.startswith("msf_dcnn.")}
    with pytest.raises(InputError, match=r"do not fit a DSDMSR x2 of srcnn units: missing: dcnn_unit_1_1_x2\.conv1\."):
        torch_weights.from_torch(part)


def test_what_is_told_of_another_model(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match="the weights of a DSDMSR: variant and swapped are of an AHMF; leave them out"):
        torch_weights.from_torch(arrays, "paper")
    with pytest.raises(InputError, match="no weights of a DADA: the scale is read off the tensors; leave it out"):
        torch_weights.from_torch(arrays, scale=4)


def test_parameters_of_another_model(arrays: dict[str, np.ndarray]) -> None:
    model, params = torch_weights.from_torch(arrays)
    del params["stage_2"]["conv_1"]
    params["fusion"]["conv_3"]["bias"] = np.zeros(2, np.float32)
    with pytest.raises(InputError) as raised:
        torch_weights.to_torch(model, params)
    assert "missing: stage_2/conv_1/kernel (4, 9, 9, 1, 64), stage_2/conv_1/bias (4, 64)" in str(raised.value)
    assert "misshaped: fusion/conv_3/bias (2,), not (1,)" in str(raised.value)
