"""The Flax AHMF against its PyTorch twin, and both against numbers recorded from the authors' program.

The run ends with a table of the largest differences.
"""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ahmf_jax import torch_modules, torch_weights  # noqa: E402  # needs torch
from ahmf_jax.variants import PARTS, Part  # noqa: E402
from tests.parity import nchw, nhwc  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
FORWARD = 2e-6  # largest absolute difference
GRADIENT = 1e-4  # norm of the difference over the norm, of every tensor
# Shares of the whole gradient below which a tensor's own is not divided by. With one level the reset gates, whose state
# is zero, have none at all; a slope's is one sum over the image, and may be a small difference of large numbers.
FLOOR, SLOPE_FLOOR = 1e-9, 1e-5
# torch's default weights halve the signal at every layer, until a gradient is rounding; times this they keep it.
GAIN = 3**0.5
FEATURES = 8

needs_reference = pytest.mark.skipif(
    not (REFERENCE / "ahmf_release_x4.pth").exists(), reason="shared/reference is not beside this checkout"
)
# Every fusion and every recurrence: Models 0 to 5 of Table VI; the sixth, the whole network, is in CASES.
ABLATIONS = [
    ("concat", "none"),
    ("feb", "none"),
    ("frb", "none"),
    ("feb_frb", "none"),
    ("feb_frb", "forward"),
    ("feb_frb", "backward"),
]
# Every scale, which sets the stages before and after the levels, and every m, which sets the length of the loop over
# them; the longest without its gradient, which m = 4 has in the same loop.
CASES = [(2, 1, False), (2, 4, True), (2, 7, False), (4, 2, True), (4, 4, False), (8, 2, True), (16, 1, True)]
CASES += [(32, 1, True)]


def flax_aux(aux: dict[str, Any]) -> dict[str, np.ndarray]:
    """The Flax model's intermediates under the twin's names."""
    named = {
        "depth_bicubic": aux["depth_bicubic"],
        "depth_features": aux["level_features"]["depth"][0],
        "guidance_features": aux["level_features"]["guide"][0],
    }
    for kind in ("fused", "refined"):
        named |= {f"{kind}_{i}": x for i, x in enumerate(aux[kind])}
    return {name: np.asarray(x) for name, x in named.items()}


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    assert ours.keys() == theirs.keys()
    assert all(ours[name].shape == theirs[name].shape for name in ours)
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def differences(
    scale: int, num_levels: int, size: tuple[int, int], gradients: bool, **fields: Any
) -> tuple[float, float | None]:
    """Largest forward and gradient difference between the twin and the model that its weights give."""
    torch.manual_seed(scale + 100 * num_levels)
    twin = torch_modules.AHMF(scale, num_levels, FEATURES, **fields)
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.ndim == 4:
                weight *= GAIN
        for module in twin.modules():  # distinct slopes: two that are exchanged must show
            if isinstance(module, torch.nn.PReLU):
                module.weight.uniform_(0.1, 0.4)
    stored = {name: value.numpy() for name, value in twin.state_dict().items()}
    told = (fields["variant"], fields["swapped"]) if "swapped" in fields else ()
    model, params = torch_weights.from_torch(stored, *told)
    asked = {"scale": scale, "num_levels": num_levels, "features": FEATURES} | fields
    asked.pop("guide_channels", None)
    assert {field: getattr(model, field) for field in asked} == asked

    height, width = size
    # A value within rounding of a PReLU's kink gives two right gradients: with these seeds none that matters is.
    rng = np.random.default_rng(scale + num_levels)
    depth_lr = jnp.asarray(rng.random((2, height, width, 1), np.float32))
    guide = jnp.asarray(rng.random((2, scale * height, scale * width, fields.get("guide_channels", 3)), np.float32))
    weights = rng.random((2, scale * height, scale * width, 1), np.float32)
    twin.double()  # so that the difference is the Flax model's rounding alone
    theirs, their_aux = twin.trace(nchw(depth_lr).double(), nchw(guide).double())

    def loss(p: Any) -> tuple[jax.Array, tuple[jax.Array, dict[str, Any]]]:
        # A positive weight per pixel: the scalar slopes' gradients are then no small differences of large numbers.
        depth, aux = model.apply({"params": p}, depth_lr, guide)
        return (depth * weights).mean(), (depth, aux)

    params = jax.tree.map(jnp.asarray, params)
    if gradients:
        grads, (ours, our_aux) = jax.jit(jax.grad(loss, has_aux=True))(params)
    else:
        _, (ours, our_aux) = jax.jit(loss)(params)
    forward = largest_difference(
        flax_aux(our_aux) | {"depth": np.asarray(ours)},
        {k: nhwc(x) for k, x in their_aux.items()} | {"depth": nhwc(theirs)},
    )
    if not gradients:
        return forward, None
    (theirs * nchw(weights)).mean().backward()
    grads = torch_weights.to_torch(model, grads)
    expected = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    whole = np.linalg.norm([np.linalg.norm(g) for g in expected.values()])
    return forward, max(
        float(np.linalg.norm(grads[name] - g) / max(np.linalg.norm(g), whole * (SLOPE_FLOOR if g.size == 1 else FLOOR)))
        for name, g in expected.items()
    )


def record(report: list[Any], what: str, result: tuple[float, float | None]) -> None:
    forward, gradient = result
    report.append((what, {"forward": forward} | ({} if gradient is None else {"gradient": gradient})))
    assert forward <= FORWARD
    assert gradient is None or gradient <= GRADIENT


@pytest.mark.parametrize(("scale", "num_levels", "gradients"), CASES)
@pytest.mark.parametrize("variant", ["release", "paper"])
def test_flax_equals_the_twin(report: list[Any], variant: str, scale: int, num_levels: int, gradients: bool) -> None:
    size = (5, 4) if (scale, num_levels) == (4, 2) else (3, 5)
    result = differences(scale, num_levels, size, gradients, variant=variant)
    record(report, f"twin: {variant} x{scale} m={num_levels} LR {size[0]}x{size[1]}", result)


@pytest.mark.parametrize(("fusion", "recurrence"), ABLATIONS)
@pytest.mark.parametrize("variant", ["release", "paper"])
def test_ablations_equal_the_twin(report: list[Any], variant: str, fusion: str, recurrence: str) -> None:
    result = differences(4, 2, (5, 4), True, variant=variant, fusion=fusion, recurrence=recurrence)
    record(report, f"twin: {variant} x4 m=2 LR 5x4 {fusion}, {recurrence}", result)


# With the other variant, test_onnx_graph.py has them against a graph that is written apart from both.
@pytest.mark.parametrize(("part", "variant"), list(zip(PARTS, itertools.cycle(("paper", "release")))))
def test_swapped_parts_equal_the_twins(report: list[Any], variant: str, part: Part) -> None:
    # At x4, as the guidance head and the reconstruction have stages that both forms have, and one that only one has.
    result = differences(4, 2, (3, 5), False, variant=variant, swapped=(part,))
    record(report, f"twin: {variant} x4 m=2 LR 3x5 {part} swapped", result)


@pytest.mark.parametrize(("variant", "scale", "guide_channels"), [("release", 2, 1), ("paper", 4, 4)])
def test_other_guides_equal_the_twin(report: list[Any], variant: str, guide_channels: int, scale: int) -> None:
    result = differences(scale, 2, (3, 5), False, variant=variant, guide_channels=guide_channels)
    record(report, f"twin: {variant} x{scale} m=2 LR 3x5 guide of {guide_channels}", result)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The authors' weights, and what their program makes of them: `recorded` (NHWC), `loss`, `norms`."""
    with np.load(REFERENCE / "ahmf_release_x4.npz") as file:
        recorded = {name: nhwc(file[name]) for name in file.files}
    with np.load(REFERENCE / "ahmf_release_x4_grad.npz") as file:
        norms = {name: float(file[name]) for name in file.files if name != "target"}
        target = nhwc(file["target"])
    inputs = recorded.pop("depth_lr"), recorded.pop("guidance")
    arrays = torch_modules.read_pth(REFERENCE / "ahmf_release_x4.pth")
    return {
        "arrays": arrays,
        "inputs": inputs,
        "recorded": recorded,
        "target": target,
        "loss": norms.pop("loss"),
        "norms": norms,
    }


def check_reference(
    report: list[Any],
    what: str,
    reference: dict[str, Any],
    aux: dict[str, np.ndarray],
    loss: float,
    norms: dict[str, float],
) -> None:
    assert norms.keys() == reference["norms"].keys()
    gradient = max(abs(norms[name] / expected - 1) for name, expected in reference["norms"].items())
    record(report, f"authors' numbers: {what}", (largest_difference(aux, reference["recorded"]), gradient))
    assert loss == pytest.approx(reference["loss"], rel=GRADIENT)


@needs_reference
def test_flax_gives_the_authors_numbers(report: list[Any], reference: dict[str, Any]) -> None:
    model, params = torch_weights.from_torch(reference["arrays"])

    @jax.jit
    def step(params: Any, depth_lr: jax.Array, guide: jax.Array, target: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            depth, aux = model.apply({"params": params}, depth_lr, guide)
            return abs(depth - target).mean(), aux | {"depth_sr": depth}

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, aux), grads = step(params, *reference["inputs"], reference["target"])
    norms = {name: float(np.linalg.norm(g)) for name, g in torch_weights.to_torch(model, grads).items()}
    named = flax_aux(aux) | {"depth_sr": np.asarray(aux["depth_sr"])}
    check_reference(report, "Flax, jitted", reference, named, float(loss), norms)


@needs_reference
def test_the_twin_gives_the_authors_numbers(report: list[Any], reference: dict[str, Any]) -> None:
    twin = torch_modules.AHMF(4)
    state = {name.removeprefix("module."): torch.from_numpy(value) for name, value in reference["arrays"].items()}
    assert list(twin.state_dict()) == list(state)
    twin.load_state_dict(state)
    depth, aux = twin.trace(*map(nchw, reference["inputs"]))
    loss = (depth - nchw(reference["target"])).abs().mean()
    loss.backward()
    norms = {name: float(p.grad.norm()) for name, p in twin.named_parameters()}
    named = {name: nhwc(x) for name, x in (aux | {"depth_sr": depth}).items()}
    check_reference(report, "PyTorch twin", reference, named, loss.item(), norms)
