"""The Flax DADA against its PyTorch twin: results, gradients, and running statistics after a step.

The run ends with a table of the largest differences.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ahmf_jax import torch_modules, torch_weights, unet  # noqa: E402  # needs torch
from ahmf_jax.variables import split  # noqa: E402
from tests.parity import nchw, nhwc  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FORWARD = 2e-5  # largest absolute difference in single precision
EXACT = 1e-12  # in double
ROUNDED = 2e-7  # norm of the difference over the norm of every tensor, in double, but rounded once as it is converted
CHANNELS = 8


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """A block of each kind, and one that follows another: compiling is what these tests spend their time on.

    That both have the encoders' own numbers of blocks, test_torch_modules.py shows by the names of all weights.
    """
    with pytest.MonkeyPatch.context() as patch:
        for layers in (unet.LAYERS, torch_modules.unet.LAYERS):
            for encoder in ("resnet18", "resnet50"):
                patch.setitem(layers, encoder, (2, 1, 1, 1))
        yield


def drawn(twin: Any) -> dict[str, np.ndarray]:
    """Moves what starts as ones and zeros, so that no two are alike, and returns the state dict."""
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.7, 1.3)
    return {name: value.numpy() for name, value in twin.state_dict().items()}


def differences(
    scale: int, size: tuple[int, int], train: bool, encoder: str = "resnet18", **fields: Any
) -> dict[str, float]:
    """Between the twin and the model that its weights give, of depth of `size`, of which two samples are unknown.

    Training in double precision, where no value lies within rounding of a kink, at which two gradients are right.
    """
    torch.manual_seed(scale)
    # A single first iteration: of the random number below it, there is none in training.
    fields = {"iterations": 1 if train else 3, "gradient_iterations": 4} | fields
    twin = torch_modules.DADA(scale, encoder=encoder, channels=CHANNELS, **fields)
    model, weights = torch_weights.from_torch(drawn(twin), scale=scale)
    model = model.clone(**fields)
    assert (model.encoder, model.channels, model.scale) == (encoder, CHANNELS, scale)  # type: ignore[attr-defined]

    rng = np.random.default_rng(scale)
    depth_lr = rng.uniform(0.5, 1.5, (2, *size, 1)).astype(np.float32)
    depth_lr[0, -1, -1] = 0.05  # low enough to be raised, where its own sample decides, as all are where the batch does
    mask = np.ones(depth_lr.shape, bool)
    mask[0, 0, 0] = mask[1, -1, 1] = False
    guide = rng.random((2, scale * size[0], scale * size[1], 3), np.float32)
    weighting = rng.random((2, scale * size[0], scale * size[1], 1), np.float32)
    twin.double().train(train)
    theirs, their_aux = twin.trace(nchw(depth_lr).double(), nchw(guide).double(), nchw(mask))

    dtype = np.float64 if train else np.float32
    variables = split(jax.tree.map(lambda x: jnp.asarray(x, dtype), weights))
    inputs = jnp.asarray(depth_lr, dtype), jnp.asarray(guide, dtype)
    mutable = ["batch_stats"] if train else []

    def loss(params: Any) -> tuple[jax.Array, Any]:
        given = {**variables, "params": params}
        (depth, aux), changed = model.apply(
            given, *inputs, mask_lr=jnp.asarray(mask), train=train, rngs={"sample": jax.random.key(0)}, mutable=mutable
        )
        return (depth * weighting).mean(), (depth, aux, changed)

    if train:
        grads, (ours, aux, changed) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    else:
        _, (ours, aux, _) = jax.jit(loss)(variables["params"])
    found = {"depth": float(np.abs(np.asarray(ours) - nhwc(theirs)).max())}
    for name in ("cv", "ch", "depth_start"):
        found[name] = float(np.abs(np.asarray(aux[name]) - nhwc(their_aux[name])).max())
    assert max(found.values()) <= (EXACT if train else FORWARD), found
    if not train:
        return found

    renewed = torch_weights.to_torch(model, {**weights, "batch_stats": changed["batch_stats"]})
    their_state = {name: value.numpy() for name, value in twin.state_dict().items() if ".running_" in name}
    found["statistics"] = max(relative(renewed[name], wanted) for name, wanted in their_state.items())
    assert found["statistics"] <= ROUNDED, found

    (theirs * nchw(weighting)).mean().backward()
    ours = torch_weights.to_torch(model, {**grads, "batch_stats": weights["batch_stats"]})
    expected: dict[str, Any] = {name: torch.Tensor.numpy(p.grad) for name, p in twin.named_parameters()}
    # Added to all features alike, the last bias changes no coefficient.
    none = expected.pop("feature_extractor.1.segmentation_head.0.bias")
    smallest = min(np.linalg.norm(gradient) for gradient in expected.values())
    assert (
        max(np.linalg.norm(none), np.linalg.norm(ours["feature_extractor.1.segmentation_head.0.bias"]))
        < 1e-9 * smallest
    )
    found["gradient"] = max(relative(ours[name], gradient) for name, gradient in expected.items())
    assert found["gradient"] <= ROUNDED, found
    return found


def relative(ours: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


CASES: list[tuple[int, tuple[int, int], bool, dict[str, Any]]] = [
    (2, (5, 8), False, {}),  # 10 x 16 pixels: the U-Net sees 32 x 32, padded
    (8, (1, 2), False, {"shift": "batch"}),
    (4, (8, 8), False, {"enlarge": 1, "initial": "constant", "deviation": 0.7}),
    (4, (8, 8), True, {}),
    (8, (4, 4), True, {"encoder": "resnet50"}),
]


@pytest.mark.parametrize(("scale", "size", "train", "fields"), CASES)
def test_flax_equals_the_twin(report: Any, scale: int, size: tuple[int, int], train: bool, fields: Any) -> None:
    with jax.enable_x64(train):
        found = differences(scale, size, train, **fields)
    told = ", ".join(f"{k} {v}" for k, v in fields.items())
    report.append((f"x{scale} LR {size[0]}x{size[1]}, {'train' if train else 'evaluate'} {told}", found))
