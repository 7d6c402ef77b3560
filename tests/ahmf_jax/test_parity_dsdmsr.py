"""The Flax DSDMSR against its PyTorch twin: every stage's map, and gradients.

The run ends with a table of the largest differences.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ahmf_jax import torch_modules, torch_weights  # noqa: E402  # needs torch
from ahmf_jax.models import DSDMSR  # noqa: E402
from tests.parity import nchw, nhwc  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FORWARD = 1e-5  # largest difference, of the largest value
GRADIENT = 1e-4  # norm of the difference over the norm, of every tensor
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "dsdmsr_srcnn_x8.npz"


def outputs(model: Any, params: Any, depth_lr: Any) -> list[Any]:
    """Every stage's map, and the last, fused one."""
    depth, aux = model.apply({"params": params}, depth_lr)
    return [*aux["stages"], depth]


def test_the_published_outputs() -> None:
    if not REFERENCE.is_file():
        pytest.skip(f"no {REFERENCE}: numbers recorded from the published implementation")
    with np.load(REFERENCE) as file:
        stored = dict(file)
    weights = {name.removeprefix("weights/"): x for name, x in stored.items() if name.startswith("weights/")}
    model, params = torch_weights.from_torch(weights)
    assert model == DSDMSR(8) and len(weights) == 13 * 6
    assert sum(x.size for x in jax.tree.leaves(params)) == 744_653
    wanted = [stored[f"output_{i}"] for i in range(4)]
    ours = jax.jit(outputs, static_argnums=0)(model, params, np.moveaxis(stored["depth_lr"], 1, -1))
    for found, expected in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, rtol=0, atol=FORWARD)
    with torch.no_grad():
        fused, stages = torch_modules.network(model, params).trace(torch.from_numpy(stored["depth_lr"]))  # type: ignore[operator]
    for found, expected in zip((*stages, fused), wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


CASES: list[tuple[str, str, str, int, tuple[int, int]]] = [
    ("srcnn", "figure", "mean", 2, (5, 3)),
    ("srcnn", "code", "mean", 4, (1, 1)),
    ("srcnn", "figure", "sum", 8, (1, 2)),
    ("srcnn", "code", "sum", 16, (1, 1)),
    ("vdsr", "code", "sum", 4, (3, 1)),
]


@pytest.mark.parametrize(("unit", "fusion", "combine", "scale", "size"), CASES)
def test_flax_equals_the_twin(
    report: Any, unit: Any, fusion: Any, combine: Any, scale: int, size: tuple[int, int]
) -> None:
    """A value within rounding of a ReLU's kink gives two right gradients: with these seeds none that matters is."""
    torch.manual_seed(scale)
    twin = torch_modules.DSDMSR(scale, unit, fusion, combine)
    model, params = torch_weights.from_torch({name: x.numpy() for name, x in twin.state_dict().items()})
    assert model == DSDMSR(scale, unit)
    model = model.clone(fusion=fusion, combine=combine)

    rng = np.random.default_rng(scale)
    depth_lr = rng.random((2, *size, 1), np.float32)
    twin.double()  # so that the difference is the Flax model's rounding alone
    fused, stages = twin.trace(nchw(depth_lr).double())
    theirs = [*stages, fused]
    # Of every map, so that a gradient enters at each stage.
    weightings = [rng.random(nhwc(x).shape, np.float32) for x in theirs]

    def loss(params: Any) -> tuple[Any, list[Any]]:
        maps = outputs(model, params, jnp.asarray(depth_lr))
        return sum((x * weighting).mean() for x, weighting in zip(maps, weightings, strict=True)), maps

    grads, ours = jax.jit(jax.grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, params))
    sum((x * nchw(weighting)).mean() for x, weighting in zip(theirs, weightings, strict=True)).backward()
    of_ours = torch_weights.to_torch(model, grads)
    wanted: dict[str, Any] = {name: torch.Tensor.numpy(p.grad) for name, p in twin.named_parameters()}
    found = {
        "maps": max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, map(nhwc, theirs), strict=True)),
        "gradient": max(float(np.linalg.norm(of_ours[k] - x) / np.linalg.norm(x)) for k, x in wanted.items()),
    }
    report.append((f"{unit} x{scale} {fusion} {combine}, LR {size[0]}x{size[1]}", found))
    assert found["maps"] <= FORWARD and found["gradient"] <= GRADIENT, found
