"""DADA's conversion table: the model's own tree, exact both ways, and every fault in one message."""

from typing import Any

import jax
import numpy as np
import pytest

from ahmf_jax import torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.models import DADA, name_of
from ahmf_jax.state import init_params
from ahmf_jax.torch_weights import dada, tables

UNET = "feature_extractor.1"


def random_arrays(model: DADA) -> dict[str, np.ndarray]:
    """Of every name; the counts are of batches that were seen."""
    rng = np.random.default_rng(0)
    rows = dada.table(model)
    return {r.torch: np.array(7) if r.kind == "count" else np.asarray(rng.random(r.shape), np.float32) for r in rows}


@pytest.fixture(scope="module")
def model() -> DADA:
    return DADA(scale=8, encoder="resnet18", channels=8)


@pytest.fixture(scope="module")
def whole(model: DADA) -> dict[str, np.ndarray]:
    return random_arrays(model)


@pytest.fixture
def arrays(whole: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(whole)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_the_table_is_the_models_own_tree(encoder: Any) -> None:
    model = DADA(scale=4, encoder=encoder)
    rows = dada.table(model)
    shapes = jax.eval_shape(lambda: init_params(model))
    assert {"/".join(path): shape for path, shape in tables.flax_shapes(rows).items()} == {
        path: x.shape for path, x in tables.flatten(shapes).items()
    }
    assert len({row.torch for row in rows}) == len(rows)
    places = [row.flax for row in rows if row.kind != "count"]
    assert len(set(places)) == len(places)


def test_the_published_size() -> None:
    rows = dada.table(DADA(scale=8))
    parameters = [row for row in rows if row.kind != "count" and row.flax[0] != "batch_stats"]
    assert sum(int(np.prod(row.shape)) for row in parameters) == 32_533_377


def test_there_and_back(model: DADA, arrays: dict[str, np.ndarray]) -> None:
    found, weights = torch_weights.from_torch(arrays, scale=8)
    assert found == model
    back = torch_weights.to_torch(found, weights)
    assert list(back) == list(arrays)
    for name, value in arrays.items():
        if name.endswith("num_batches_tracked"):  # which nothing reads
            assert back[name] == 0 and back[name].dtype == np.int64
        else:
            assert back[name].dtype == np.float32 and back[name].shape == value.shape
            assert back[name].tobytes() == value.tobytes()
    kernel = weights["unet"]["encoder"]["layer2_0"]["downsample"]["kernel"]
    assert kernel[0, 0, 3, 5] == arrays[f"{UNET}.encoder.layer2.0.downsample.0.weight"][5, 3, 0, 0]
    var = weights["batch_stats"]["unet"]["decoder"]["block_4"]["bn2"]["var"]
    np.testing.assert_array_equal(var, arrays[f"{UNET}.decoder.blocks.4.conv2.1.running_var"])
    assert weights["log_contrast"] == arrays["logk"]


def test_older_checkpoints(model: DADA, arrays: dict[str, np.ndarray]) -> None:
    """Have more names, no counts, and may have been saved from several GPUs."""
    older = {name: value for name, value in arrays.items() if not name.endswith("num_batches_tracked")}
    older |= {"logk2": np.zeros(()), "mean_guide": np.zeros(3), "std_guide": np.zeros(3)}
    found, weights = torch_weights.from_torch({f"module.{name}": value for name, value in older.items()}, scale=8)
    _, wanted = torch_weights.from_torch(arrays, scale=8)
    assert found == model
    jax.tree.map(np.testing.assert_array_equal, weights, wanted)


def test_one_message_names_every_fault(arrays: dict[str, np.ndarray]) -> None:
    del arrays["logk"], arrays[f"{UNET}.encoder.bn1.running_var"]
    arrays["epoch"] = np.zeros(1, np.float32)
    arrays[f"{UNET}.encoder.conv1.weight"] = np.zeros((64, 3, 7, 7), np.float32)
    arrays[f"{UNET}.encoder.bn1.bias"] = np.zeros(64, np.int64)
    with pytest.raises(InputError) as raised:
        torch_weights.from_torch(arrays, scale=8)
    message = str(raised.value)
    assert message.startswith("the PyTorch weights do not fit a DADA with a resnet18 and 8 channels: ")
    assert f"missing: logk (), {UNET}.encoder.bn1.running_var (64,)" in message
    assert "unknown: epoch" in message
    assert f"misshaped: {UNET}.encoder.conv1.weight (64, 3, 7, 7), not (64, 4, 7, 7)" in message
    assert f"not floating: {UNET}.encoder.bn1.bias int64" in message


def test_what_must_be_told(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(
        InputError, match=r"the weights of a DADA, which do not tell the factor: give it, as in --scale"
    ):
        torch_weights.from_torch(arrays)
    with pytest.raises(InputError, match="scale 3 is not one of 2, 4, 8, 16, 32"):
        torch_weights.from_torch(arrays, scale=3)
    with pytest.raises(InputError, match="variant and swapped are of an AHMF"):
        torch_weights.from_torch(arrays, "paper", scale=8)
    with pytest.raises(InputError, match="no weights of a DADA"):
        torch_weights.from_torch({"head.depth_in.0.weight": np.zeros((8, 1, 3, 3), np.float32)}, scale=8)


def test_weights_of_another_model(model: DADA, arrays: dict[str, np.ndarray]) -> None:
    _, weights = torch_weights.from_torch(arrays, scale=8)
    del weights["batch_stats"]["unet"]["encoder"]["bn1"]
    weights["unet"]["head"]["bias"] = np.zeros(9, np.float32)
    with pytest.raises(InputError) as raised:
        torch_weights.to_torch(model, weights)
    assert "missing: batch_stats/unet/encoder/bn1/mean (64,), batch_stats/unet/encoder/bn1/var" in str(raised.value)
    assert "misshaped: unet/head/bias (9,), not (8,)" in str(raised.value)
    with pytest.raises(InputError, match="with features rgb has no weights"):
        torch_weights.to_torch(DADA(scale=8, features="rgb"), {})


def test_a_model_of_a_derived_class_has_no_name() -> None:
    class Mine(DADA):
        pass

    assert name_of(DADA(8)) == "dada"
    with pytest.raises(
        InputError, match="Mine has no name that files could tell: use one of ahmf, dada, dsdmsr, dscsan as it is"
    ):
        torch_weights.to_torch(Mine(8), {})
