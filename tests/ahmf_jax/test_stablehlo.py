"""The StableHLO program against the model: any sizes, in the model's unit, for every platform."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError, stablehlo
from ahmf_jax.export import Trained
from tests.exports import RANGE, dada, dscsan, dsdmsr, images, narrow_unet, super_resolved, trained


@pytest.fixture(autouse=True)
def quick_compiles() -> Iterator[None]:
    """Half the time to compile, which is what these tests spend theirs on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def symbols_are_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its annotations know numbers alone


@pytest.mark.parametrize(
    ("scaling", "guide_channels", "fields"),
    [
        ("sample", 3, {}),
        (
            "range",
            1,
            {"scale": 2, "variant": "paper", "num_levels": 1, "recurrence": "none", "swapped": ("statistics",)},
        ),
    ],
)
def test_one_program_for_all_sizes(scaling: Any, guide_channels: int, fields: Any) -> None:
    found = trained(scaling, guide_channels, **fields)
    program = jax.export.deserialize(bytearray(stablehlo.serialize(found)))
    assert program.platforms == ("cpu", "cuda", "tpu")
    for size in ((2, 3, 5), (1, 1, 1)):
        depth, guide = images(found, *size, guide_channels)
        difference = np.asarray(program.call(depth, guide)) - super_resolved(found, depth, guide)
        assert np.abs(difference).max() <= 1e-5 * RANGE
    flat = np.full((1, 1, 1, 1), 3.0, np.float32)  # without a span of its own
    _, guide = images(found, 1, 1, 1, guide_channels)
    assert np.isfinite(program.call(flat, guide)).all()
    with pytest.raises(ValueError, match=r"guide|args\[1\]|height"):
        program.call(flat, guide[:, :, :-1])


@pytest.mark.parametrize(
    ("scaling", "fields"),
    [("largest", {"features": "rgb", "start": "coarse", "tolerance": 1e-3, "deviation": 0.2}), ("sample", {})],
    ids=["learning-free", "learned"],
)
def test_dada_of_any_size(scaling: Any, fields: Any) -> None:
    """Sizes that are no multiples of what the network needs."""
    with narrow_unet():
        found = dada(scaling, **fields)
        program = jax.export.deserialize(bytearray(stablehlo.serialize(found)))
        for size in ((2, 3, 5), (1, 1, 1)):
            depth, guide = images(found, *size)
            difference = np.asarray(program.call(depth, guide)) - super_resolved(found, depth, guide)
            assert np.abs(difference).max() <= 1e-5 * RANGE


@pytest.mark.parametrize(
    "found",
    [
        dsdmsr("sample", scale=2),
        dsdmsr("sample", scale=4, fusion="figure", combine="mean"),
        dscsan("sample"),
        dscsan("sample", scale=2, block="rcab", attention=False),
    ],
    ids=lambda found: found.model.summary(),
)
def test_depth_without_a_guide(found: Trained) -> None:
    program = jax.export.deserialize(bytearray(stablehlo.serialize(found)))
    (depth_lr,) = program.in_avals
    assert str(depth_lr.shape) == "(batch, height, width, 1)"
    for size in ((2, 3, 5), (1, 1, 1)):
        depth, guide = images(found, *size, 0)
        difference = np.asarray(program.call(depth)) - super_resolved(found, depth, guide)
        assert np.abs(difference).max() <= 1e-5 * RANGE


def test_what_scipy_computes_is_in_no_program() -> None:
    with pytest.raises(InputError, match="the model is a DADA with initial=griddata, which SciPy computes"):
        stablehlo.serialize(dada(features="rgb", initial="griddata"))


def test_what_machine_it_is_made_on_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator a model's loops are rolled by default, and its products are shorter."""
    found = trained(num_levels=3, features=2)

    def program() -> str:
        module = jax.export.deserialize(bytearray(stablehlo.serialize(found))).mlir_module()
        return re.sub(r"loc\([^)]*\)", "", module)

    here = program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_matmul_precision("bfloat16"):
        assert program() == here
    assert "precision = [HIGHEST, HIGHEST]" in here and "stablehlo.while" in here
