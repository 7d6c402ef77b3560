"""What is read from a compiled program, and the figures that a table shows of it."""

import jax
import pytest

from experiments import benchmark_scaling as scaling

PROGRAM = """
  %a = f32[2,1,7,4]{3,2,1,0} collective-permute(%x), channel_id=1
  %b = (bf16[2,1,14,4]{3,2,1,0}, bf16[2,1,14,4]{3,2,1,0}) collective-permute-start(%y), channel_id=2
  %c = bf16[2,1,14,4]{3,2,1,0} collective-permute-done(%b)
  %d = (f32[3,3,4,4]{3,2,1,0}, f32[]) all-reduce(%p, %q), to_apply=%sum
  %e = f32[3,3,16,16]{3,2,1,0} all-gather(%r), dimensions={3}
"""


def test_collectives_are_counted_once_each() -> None:
    assert scaling.collectives(PROGRAM) == {"collective-permute": 2, "all-reduce": 1, "all-gather": 1}


def test_the_bytes_that_neighbours_send() -> None:
    assert scaling.exchanged_bytes(PROGRAM) == 4 * 2 * 7 * 4 + 2 * 2 * 14 * 4


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce", "all-to-all", "reduce-scatter", "all-gather-start"])
def test_an_activation_is_told_by_its_width(kind: str) -> None:
    assert scaling.gathered_activations(PROGRAM) == []
    (found,) = scaling.gathered_activations(f"{PROGRAM}  %f = f32[2,16,14,4]{{3,2,1,0}} {kind}(%g), x\n")
    assert "f32[2,16,14,4]" in found


def test_a_layout_that_gathers_or_differs_fails_the_benchmark() -> None:
    row = {"layout": "data=1,spatial=8", "gathered_activations": []}
    good = {"layout": "data=8,spatial=1", "loss": 1e-7, "params": 1e-6}
    scaling._check({"weak": [row], "strong": [row], "equality": [good]})
    with pytest.raises(RuntimeError, match="spatial=8 gathers activations: all-gather"):
        scaling._check({"weak": [], "strong": [row | {"gathered_activations": ["all-gather x"]}], "equality": []})
    with pytest.raises(RuntimeError, match="data=8,spatial=1 does not compute what one device does"):
        scaling._check({"weak": [], "strong": [], "equality": [good | {"params": 2e-5}]})


def test_shares_are_of_one_devices_work() -> None:
    one = {"gflop": 8.0, "temporary_mb": 80.0}
    row = {
        "layout": "data=4,spatial=1",
        "batch": [4, 8, 7],
        "gflop": 2.1,
        "temporary_mb": 25.0,
        "arguments_mb": 3.0,
        "exchanged_mb": 0.5,
        "collectives": {"all-reduce": 2},
    }
    shown = "data=4,spatial=1 4 x 8 x 7 2.10 1.05 25.0 MB 1.25 3.0 MB 0.50 MB 2 all-reduce"
    assert " ".join(scaling._line(row, one, 4).split()) == shown


def test_batches_are_the_same_for_a_seed_and_have_the_shapes_of_training() -> None:
    a, b = (scaling.example_batch(3, 2, 4, 7, 2) for _ in range(2))
    assert all((a[name] == b[name]).all() for name in a)
    assert {name: x.shape for name, x in a.items()} == {
        "depth_lr": (2, 4, 7, 1),
        "guide": (2, 8, 14, 3),
        "depth_hr": (2, 8, 14, 1),
        "mask_lr": (2, 4, 7, 1),
        "mask_hr": (2, 8, 14, 1),
    }
    assert a["depth_lr"][0, 0, 0, 0] == pytest.approx(a["depth_hr"][0, :2, :2].mean(), rel=1e-6)


def test_simulated_devices_are_the_first_of_the_processor() -> None:
    assert scaling.simulated_devices(2) == jax.devices("cpu")[:2]
