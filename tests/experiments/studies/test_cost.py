"""Costs: what has a say in them, who is asked in which order, and the numbers of a network small enough to count."""

import concurrent.futures
import contextlib
import dataclasses
import json

import pytest

from ahmf_jax.errors import InputError
from data_pipelines.augment import Augmentation
from experiments import provenance
from experiments.config import AHMFConfig, DataConfig, DSDMSRConfig, OptimiserConfig, TrainConfig
from experiments.studies import cost

TINY = TrainConfig(
    model=AHMFConfig(scale=2, num_levels=1, features=2, fusion="concat", recurrence="none"),
    data=DataConfig(patch_size=8, batch_size=1),
    mesh="data=1",
)


def with_levels(m, **fields):
    return dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, num_levels=m), **fields)


def test_only_what_changes_a_cost_is_in_its_key():
    rate = OptimiserConfig(learning_rate=0.5, schedule="cosine", halve_at=0.3, weight_decay=0.0)
    same = with_levels(1, seed=7, steps=9, optimiser=rate, output_scale=0.1, log_every=3)
    assert cost.key(same) == cost.key(TINY)
    different = [
        with_levels(2),
        with_levels(1, loss="mse"),
        with_levels(1, ema=0.9),
        with_levels(1, edge_weight=0.1),
        with_levels(1, scaling="sample"),
        with_levels(1, data=DataConfig(patch_size=16, batch_size=1)),
        with_levels(1, data=DataConfig(patch_size=8, batch_size=2)),
        with_levels(1, data=DataConfig(patch_size=8, patch_width=16, batch_size=1, augment=Augmentation("none"))),
        with_levels(1, optimiser=OptimiserConfig(name="lion")),
        with_levels(1, optimiser=OptimiserConfig(clip=1.0)),
        with_levels(1, optimiser=OptimiserConfig(options=("nesterov=true",))),
    ]
    assert len({cost.key(config) for config in [TINY, *different]}) == 1 + len(different)
    assert cost.key(with_levels(1, edge_weight=0.1)) == cost.key(with_levels(1, edge_weight=0.2))


@pytest.fixture
def asked(monkeypatch):
    """Replaces the processes; what was asked of which. A run of m levels takes m ms, the second 10 m."""
    log: list[tuple] = []

    @contextlib.contextmanager
    def conversation(module, task, env):
        assert env["JAX_ENABLE_COMPILATION_CACHE"] == "false"
        levels, runs = 0, 0

        def ask(request):
            nonlocal levels, runs
            if "config" in request:
                levels = request["config"]["model"]["num_levels"]
                log.append(("start", task, levels))
                if levels == 9:
                    return {"refused": "there is not enough memory"}
                if task == "training":
                    return {"train_gflop": 3.0, "train_compile_s": 5.0}
                return {"parameters": 4, "inference_gflop": 1.0, "inference_compile_s": 2.0, "hardware": "a machine"}
            log.append((task, levels))
            runs += 1
            return {"ms": levels * (10.0 if runs == 2 else 1.0), "mib": 100.0 * levels + runs}

        yield ask
        log.append(("end", task, levels))

    monkeypatch.setattr(cost, "conversation", conversation)
    monkeypatch.setattr(cost, "PAUSE_S", 0)
    return log


def test_all_wait_while_one_is_timed_and_medians_count(asked):
    found = cost.measure([with_levels(1), with_levels(3), with_levels(1, seed=5)], size=(4, 6), rounds=3)
    begin = [("start", "inference", 1), ("start", "inference", 3)]
    assert asked[:8] == [*begin, *[("inference", 1), ("inference", 3)] * 3]
    assert ("end", "inference", 3) in asked[: asked.index(("start", "training", 1))]  # their memory is free again
    assert len([entry for entry in asked if entry[0] == "start"]) == 4  # the third has the first's key
    assert found[0] == found[2]
    assert (found[0].inference_ms, found[1].inference_ms) == (1.0, 3.0)  # the mean would be 4 and 12
    assert (found[1].train_step_ms, found[1].train_mib) == (3.0, 303.0)
    assert found[0].size == (4, 6) and found[0].rounds == 3
    again = cost.from_json(json.loads(json.dumps(dataclasses.asdict(found[0]))))
    assert again == found[0]


def test_an_accelerator_has_one_process_at_a_time(asked, monkeypatch):
    monkeypatch.setattr(cost, "hardware", lambda: "1 x a chip, a processor, 2 processors")
    cost.measure([with_levels(1), with_levels(3)], size=(4, 6), rounds=1, tasks=("inference",))
    of = [("start", "inference", 1), ("inference", 1), ("end", "inference", 1)]
    assert asked == [*of, *[tuple(3 if part == 1 else part for part in entry) for entry in of]]


def test_of_inference_alone(asked):
    (found,) = cost.measure([with_levels(1)], size=(4, 6), rounds=1, tasks=("inference",))
    assert {entry[-2] for entry in asked} == {"inference"}
    assert (found.inference_ms, found.train_step_ms, found.train_gflop) == (1.0, None, None)


def test_what_cannot_be_measured_keeps_nothing_from_the_others(asked):
    found = cost.attempt([with_levels(9), with_levels(1)], size=(4, 6), rounds=2)
    assert found[0] == "there is not enough memory" and found[1].inference_ms == 5.5
    assert asked[1] == ("end", "inference", 9), "its memory is free for the others"
    assert ("start", "training", 9) not in asked


def test_two_do_not_measure_at_once(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(cost.tempfile, "gettempdir", lambda: str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor() as threads:
        with cost._by_itself():
            other = threads.submit(cost.measure, [TINY], size=(4, 6), rounds=1)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.3)
            assert not asked
        assert other.result(timeout=30) and asked


def test_what_cannot_be_measured(asked):
    with pytest.raises(InputError, match="0 rounds: give at least 1"):
        cost.measure([TINY], rounds=0)
    with pytest.raises(InputError, match="5 x 6: give multiples of the scale, 2"):
        cost.measure([TINY], size=(5, 6))
    with pytest.raises(InputError, match="m = 9, 2 features, release, float32, batch 1: there is not enough memory"):
        cost.measure([with_levels(9)], size=(4, 6))
    assert asked[0] == ("start", "inference", 9)


def test_of_a_network_small_enough_to_count():
    """In processes of their own, as it is used."""
    (found,) = cost.measure([TINY], size=(16, 24), rounds=1)
    # Products at the 96 low-resolution samples, a kernel each: depth head; unshuffled guide; fusion, residual block and
    # Res block; reconstruction and shuffle. And at the 384 pixels: guide head and output, which adds its 9 taps up.
    low = 9 * 1 * 2 + 8 * 2 + (4 * 2 + 2 * 9 * 2 * 2 + 2 * 9 * 2 * 2) + (2 * 2 + 2 * 8)
    full = 9 * 3 * 2 + (9 * 2 + 9 * 9)
    assert found.inference_gflop * 1e9 == pytest.approx(2 * (96 * low + 384 * full), rel=1e-9)
    assert found.train_gflop == pytest.approx(3 * found.inference_gflop * (8 * 8) / (16 * 24))
    assert 0 < found.inference_ms < 1e4 and 0 < found.train_step_ms < 1e4
    assert all(memory is not None and 50 < memory < 5000 for memory in (found.inference_mib, found.train_mib))
    assert found.train_compile_s > 0 and found.inference_compile_s >= 0
    assert found.hardware == provenance.hardware()


def test_what_is_supervised_and_read_has_its_cost():
    config = TrainConfig(model=DSDMSRConfig(scale=2), data=DataConfig(patch_size=16, batch_size=1))
    supervised = dataclasses.replace(config, stage_weights=(1.0,))
    assert cost.key(config) != cost.key(supervised)
    assert cost.key(supervised) == cost.key(dataclasses.replace(supervised, stage_weights=(0.5,)))
    prepared = cost._training(supervised)
    prepared.run()
    assert prepared.facts["train_gflop"] > 0
