"""The Flax DSCSAN against its PyTorch twin: every stage's output, the gates, and gradients.

The run ends with a table of the largest differences.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ahmf_jax import dscsan_forms, torch_modules, torch_weights  # noqa: E402  # needs torch
from tests.parity import nchw, nhwc  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FORWARD = 1e-6  # largest difference, of the largest value: a few roundings of float32
# Norm of the difference over the norm, of every tensor: the twin computes in double precision, and what float32 loses
# is most where little of the gradient is left, behind the gates.
GRADIENT = 1e-5
# torch's default weights make every layer's outputs smaller, until a gradient is rounding; times this they keep them.
GAIN = 3**0.5

# Forms of Table 4, scales, groups and blocks, whether depth is interpolated, and sizes: cells of the attention that are
# full and that are not, and maps that are smaller than one.
CASES: list[tuple[dscsan_forms.Form, int, int, int, bool, tuple[int, int]]] = [
    ("C1", 4, 2, 2, False, (5, 3)),
    ("C2", 8, 1, 1, True, (6, 5)),
    ("C3", 8, 1, 2, True, (1, 1)),
    ("C4", 4, 2, 1, False, (5, 7)),
    ("C5", 2, 1, 2, True, (2, 9)),
    ("C5", 8, 1, 1, True, (3, 2)),
]


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference over the norm; 0 where both are zeros, as of a scale's gate whose map is one cell."""
    difference = float(np.linalg.norm(found - wanted))
    return difference and difference / float(np.linalg.norm(wanted))


@pytest.mark.parametrize(("form", "scale", "groups", "blocks", "interpolated", "size"), CASES)
def test_flax_equals_the_twin(
    report: Any,
    form: dscsan_forms.Form,
    scale: int,
    groups: int,
    blocks: int,
    interpolated: bool,
    size: tuple[int, int],
) -> None:
    """A value within rounding of a ReLU's kink gives two right gradients: with these seeds none that matters is."""
    torch.manual_seed(scale)
    fields = {"scale": scale, "groups": groups, "blocks": blocks, "features": 8, "interpolated": interpolated}
    fields |= dscsan_forms.FORMS[form]
    twin = torch_modules.DSCSAN(**fields)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            weight *= GAIN
            if "squeeze" in name and name.endswith("bias"):
                weight.fill_(1)  # of the few features that a gate is made of, all might be cut off at 0
    stored = {name: x.numpy() for name, x in twin.state_dict().items()}
    model, params = torch_weights.from_torch(stored, interpolated=interpolated)
    assert {name: getattr(model, name) for name in fields} == fields

    rng = np.random.default_rng(scale)
    depth_lr = rng.random((2, *size, 1), np.float32)
    twin.double()  # so that the difference is the Flax model's rounding alone
    output, stages, gates = twin.trace(nchw(depth_lr).double())
    theirs = [*stages, output]
    # Of every output, so that a gradient enters at each stage.
    weightings = [rng.random(nhwc(x).shape, np.float32) for x in theirs]

    def loss(params: Any) -> tuple[Any, tuple[list[Any], Any]]:
        depth, aux = model.apply({"params": params}, jnp.asarray(depth_lr))
        made = [*aux["stages"], depth]
        total = sum((x * weighting).mean() for x, weighting in zip(made, weightings, strict=True))
        return total, (made, aux["attention"])

    grads, (ours, our_gates) = jax.jit(jax.grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, params))
    sum((x * nchw(weighting)).mean() for x, weighting in zip(theirs, weightings, strict=True)).backward()
    of_ours = torch_weights.to_torch(model, grads)
    wanted: dict[str, Any] = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    outputs = zip(ours, map(nhwc, theirs), strict=True)
    weights = ((a, b.detach().numpy()) for a, b in zip(our_gates, gates, strict=True))
    found = {
        "outputs": max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in outputs),
        "gates": max((float(np.abs(a - b).max()) for a, b in weights), default=0.0),
        "gradient": max(relative(of_ours[name], x) for name, x in wanted.items()),
    }
    report.append((f"{form} x{scale}, LR {size[0]}x{size[1]}", found))
    assert found["outputs"] <= FORWARD and found["gates"] <= FORWARD and found["gradient"] <= GRADIENT, found
