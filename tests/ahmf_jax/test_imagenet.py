"""An encoder's start from a file: the rule for four channels, exact values, and what is refused."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ahmf_jax import imagenet
from ahmf_jax.errors import InputError
from ahmf_jax.torch_weights import dada, tables
from ahmf_jax.unet import ResNet, UNet


def published(encoder: Any) -> dict[str, np.ndarray]:
    """Random weights in torchvision's layout, the classifier among them."""
    rng = np.random.default_rng(0)
    rows = dada.encoder(encoder, "", "", 3)
    arrays = {r.torch: np.array(5) if r.kind == "count" else np.asarray(rng.random(r.shape), np.float32) for r in rows}
    return arrays | {"fc.weight": np.zeros((10, 512), np.float32), "fc.bias": np.zeros(10, np.float32)}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return published("resnet18")


@pytest.fixture
def file(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    save_file(arrays, tmp_path / "resnet18.safetensors")
    return tmp_path / "resnet18.safetensors"


def test_the_fourth_channel_is_the_first_again(file: Path, arrays: dict[str, np.ndarray]) -> None:
    weights = imagenet.encoder_weights(file, "resnet18")
    kernel, theirs = weights["conv1"]["kernel"], arrays["conv1.weight"]
    assert kernel.shape == (7, 7, 4, 64) and kernel.dtype == np.float32
    for channel, colour in enumerate((0, 1, 2, 0)):
        np.testing.assert_array_equal(kernel[:, :, channel], 0.75 * theirs[:, colour].transpose(1, 2, 0))
    np.testing.assert_array_equal(weights["bn1"]["scale"], arrays["bn1.weight"])
    np.testing.assert_array_equal(
        weights["batch_stats"]["layer3_0"]["downsample_bn"]["var"], arrays["layer3.0.downsample.1.running_var"]
    )
    of_colours = imagenet.encoder_weights(file, "resnet18", inputs=3)["conv1"]["kernel"]
    np.testing.assert_array_equal(of_colours, theirs.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_it_is_the_encoders_tree(encoder: Any) -> None:
    net = ResNet(encoder, "global")
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 4)), False))
    rows = dada.encoder(encoder, "", "", 4)
    joined = {**shapes["params"], "batch_stats": shapes["batch_stats"]}
    assert {path: x.shape for path, x in tables.flatten(joined).items()} == {
        "/".join(path): shape for path, shape in tables.flax_shapes(rows).items()
    }


def test_it_takes_the_place_of_a_models_own(file: Path) -> None:
    shapes = jax.eval_shape(UNet(8, "resnet18").init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)))
    variables: Any = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    weights = {
        "log_contrast": np.zeros(()),
        "unet": variables["params"],
        "batch_stats": {"unet": variables["batch_stats"]},
    }
    found = imagenet.encoder_weights(file, "resnet18")
    started = imagenet.with_encoder(weights, found)
    assert jax.tree.map(np.shape, started) == jax.tree.map(np.shape, weights)
    for path, x in jax.tree.leaves_with_path(started):
        assert np.any(x) == ("encoder" in [key.key for key in path]), path
    assert started["batch_stats"]["unet"]["encoder"] is found["batch_stats"]


def test_a_pth(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    older = {name: torch.from_numpy(value) for name, value in arrays.items() if "num_batches" not in name}
    torch.save(older, tmp_path / "resnet18.pth")
    weights = imagenet.encoder_weights(tmp_path / "resnet18.pth", "resnet18")
    np.testing.assert_array_equal(weights["layer4_1"]["bn2"]["bias"], arrays["layer4.1.bn2.bias"])


def test_what_is_refused(file: Path, tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(
        InputError,
        match=r"resnet18\.safetensors: its tensors do not fit torchvision's resnet50, as they are a resnet18's: give "
        r"the file of a resnet50, or choose resnet18$",
    ):
        imagenet.encoder_weights(file, "resnet50")
    wide = {**arrays, "conv1.weight": np.zeros((64, 4, 7, 7), np.float32)}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        InputError,
        match=r"wide\.safetensors: .* give the file as it is published, of 3 colours; 1 differ: conv1\.weight is "
        r"\(64, 4, 7, 7\), not \(64, 3, 7, 7\)$",
    ):
        imagenet.encoder_weights(tmp_path / "wide.safetensors", "resnet18")
    with pytest.raises(
        InputError, match=r"189 differ: .*; layer1\.0\.conv3\.weight is missing; and 186 more$"
    ) as caught:
        imagenet.encoder_weights(tmp_path / "wide.safetensors", "resnet50")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    save_file({**arrays, "head.weight": np.zeros(1, np.float32)}, tmp_path / "more.safetensors")
    with pytest.raises(InputError, match=r"1 differ: head\.weight is not known$"):
        imagenet.encoder_weights(tmp_path / "more.safetensors", "resnet18")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"other\.safetensors: .*known name: give the weights of torchvision's resnet18"
    ):
        imagenet.encoder_weights(tmp_path / "other.safetensors", "resnet18")
    for name in ("none.safetensors", "none.pth"):
        with pytest.raises(InputError, match=name):
            imagenet.encoder_weights(tmp_path / name, "resnet18")
