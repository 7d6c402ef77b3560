"""A search's trials: drawn once and for all, given up where they are bad, measured by what the study minimises."""

import dataclasses
import math

import jax
import optuna
import pytest

from ahmf_jax.state import init_params
from ahmf_jax.stopping import Stop
from experiments import provenance
from experiments.studies import cost, trial
from experiments.studies.cost import Cost
from experiments.studies.space import All, Between, Choose, Pruning, Space
from experiments.studies.study import Measured, Spec, make_study, retry_failed
from experiments.studies.trial import Unsuited, fields_of
from experiments.studies.worker import take, work

FIELDS = {
    "output_scale": Between(0.1, 10, log=True),
    "optimiser.schedule": All(),
    "optimiser.peak_at": Between(0.05, 0.5),
    "model.num_levels": Choose(1, 2, 4),
    "data.mix": Choose((), ("scenes:test",)),
}


@pytest.fixture
def search(tmp_path, tiny, storage):
    """Makes a study that searches."""

    def make(trials, fields=None, name="search", **more):
        made = Space(config=tiny, fields=fields or FIELDS, tried_out=True, **more)
        spec = Spec(
            "search", made.base, folder=str(tmp_path / name), objectives=made.objectives, prune=made.pruning is not None
        )
        return make_study(storage, name, spec, space=made.to_json(), trials=trials)

    return make


@pytest.fixture
def trained(monkeypatch):
    """A stand-in for trainings: their error is `output_scale`, at step 2 three times as much, and at step 4 twice."""
    steps = {}

    def train(config, out, *, data_dir, on_validation, stop):
        out.mkdir(parents=True)
        taken = steps.setdefault(int(out.name), [])
        for step, factor in ((2, 3), (4, 2), (6, 1)):
            taken.append(step)
            on_validation(step, {"mae": factor * config.output_scale, "rmse": math.inf})
        return out

    def measure(study, config, out, data_dir):
        return {"metrics": {"mae": config.output_scale, "rmse": 2 * config.output_scale}, "unit": "m"}

    monkeypatch.setattr("experiments.train.train", train)
    monkeypatch.setattr(trial, "measure", measure)
    return steps


def drawn(study):
    return [t.user_attrs["fields"] for t in study.trials()]


def test_one_seed_and_one_worker_draw_the_same_trials_again(search, trained):
    one, other = (search(12, name=name, random=5, pruning=None) for name in ("one", "other"))
    assert work(one) == 12
    assert work(other, most=7) == 7
    assert drawn(one)[:7] == [t.user_attrs["fields"] for t in other.trials()[:7]]
    assert len({repr(fields) for fields in drawn(one)}) == 12
    # It learns: what it draws for itself is smaller than what it drew at random.
    scales = [fields["output_scale"] for fields in drawn(one)]
    assert sorted(scales[5:])[3] < sorted(scales[:5])[2]
    first = one.trials()[0]
    assert first.user_attrs["label"] == "trial 0" and first.user_attrs["fields"].keys() == first.params.keys()
    assert first.user_attrs["config"]["output_scale"] == first.params["output_scale"] == first.value
    seeded = search(2, name="seeded", pruning=None)
    object.__setattr__(seeded.spec, "config", dataclasses.replace(seeded.spec.config, seed=1))
    work(seeded)
    assert drawn(seeded) != drawn(one)[:2]


def test_a_trial_that_another_worker_drew_keeps_its_fields(search):
    study = search(2)
    first = take(study, "one", 60)
    fields = dict(fields_of(first))
    assert ("optimiser.peak_at" in fields) == (fields["optimiser.schedule"] == "onecycle")
    study.storage.release(first.lease, "one")
    again = take(study, "two", 60)
    assert again.number == 0 and fields_of(again) == fields
    # Killed after it drew a value, and before it could say which fields it drew:
    second = take(study, "three", 60)
    rate = trial._sampled(second).suggest_float("output_scale", 0.1, 10, log=True)
    study.storage.release(second.lease, "three")
    assert fields_of(take(study, "four", 60))["output_scale"] == rate


def test_a_failed_trial_that_is_queued_again_keeps_its_fields(search, trained, monkeypatch):
    study = search(2, pruning=None)

    def broken(*args, **kwargs):
        raise ValueError("no")

    monkeypatch.setattr(trial, "measure", broken)
    work(study)
    assert [t.state.name for t in study.trials()] == ["FAIL"] * 2
    retry_failed(study)
    monkeypatch.undo()
    assert [fields_of(take(study, name, 60)) for name in ("one", "two")] == drawn(study)[:2]


def test_a_bad_trial_is_given_up_early(search, trained):
    study = search(9, fields={"output_scale": Between(0.1, 10, log=True)}, pruning=Pruning(trials=3, steps=3), random=9)
    assert work(study) == 9
    ended = study.trials()
    assert [t.state.name for t in ended[:3]] == ["COMPLETE"] * 3
    done: list[float] = []
    pruned = 0
    for t in ended:
        scale = t.user_attrs["fields"]["output_scale"]
        bad = len(done) >= 3 and 2 * scale > 2 * sorted(done)[len(done) // 2] and len(done) % 2 == 1
        if t.state.name == "PRUNED":
            pruned += 1
            # Not at step 2, as three may be taken; and not at 6, when it is trained.
            assert trained[t.number] == [2, 4]
            assert t.user_attrs["pruned"] == {"step": 4, "value": 2 * scale} and t.value == 2 * scale
            assert "metrics" not in t.user_attrs
            assert scale > sum(sorted(done)[(len(done) - 1) // 2 : len(done) // 2 + 1]) / (2 - len(done) % 2) - 1e-12
        else:
            assert not bad and trained[t.number] == [2, 4, 6]
            assert t.intermediate_values == {2: 3 * scale, 4: 2 * scale, 6: scale} and t.value == scale
            done.append(scale)
    assert 0 < pruned < 6


def a_cost(ms, mib, hardware):
    return Cost(1, 1.0, 1.0, ms, mib, 1.0, 1.0, 1.0, 1.0, (480, 640), hardware, 5)


def test_several_objectives_have_a_front(search, trained, monkeypatch):
    measured = []

    def measure(configs, **how):
        measured.append(configs[0].model.num_levels)
        return [a_cost(10.0 * configs[0].model.num_levels, 100.0, trial.provenance()["hardware"])]

    monkeypatch.setattr(cost, "measure", measure)
    fields = {"output_scale": Between(0.1, 10, log=True), "model.num_levels": Choose(1, 2, 4)}
    study = search(8, fields=fields, objectives=("mae", "time", "memory"), random=4)
    assert work(study) == 8
    ended = study.trials()
    assert sorted(measured) == [1, 2, 4]  # each network once
    for t in ended:
        made = t.user_attrs["fields"]
        assert t.values == [made["output_scale"], 10.0 * made["model.num_levels"], 100.0]
        assert t.user_attrs["cost"]["inference_ms"] == t.values[1]
        assert len(t.intermediate_values) == 3  # its learning curve, which Optuna itself would refuse
    best = {t.number for t in study.backend.best_trials}
    by_levels = {}
    for t in ended:
        by_levels.setdefault(t.user_attrs["fields"]["model.num_levels"], []).append(t)
    smallest, front = math.inf, set()
    for _, trials in sorted(by_levels.items()):
        least = min(trials, key=lambda t: t.values[0])
        if least.values[0] < smallest:
            smallest = least.values[0]
            front.add(least.number)
    assert best == front


def test_memory_that_cannot_be_told_is_a_failed_trial(search, trained, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda configs, **how: [a_cost(1.0, None, trial.provenance()["hardware"])])
    study = search(1, objectives=("memory",))
    work(study)
    assert study.trials()[0].state.name == "FAIL"
    assert "its memory cannot be told" in study.trials()[0].user_attrs["reason"]


def test_times_of_other_hardware_are_not_compared(search, trained, monkeypatch):
    study = search(3, objectives=("mae", "time"))
    here = trial.provenance()
    monkeypatch.setattr(cost, "measure", lambda configs, **how: [a_cost(1.0, 1.0, "another machine")])
    monkeypatch.setattr(trial, "provenance", lambda: here | {"hardware": "another machine"})
    assert work(study, most=1) == 1
    monkeypatch.setattr(trial, "provenance", lambda: here)
    claim = take(study, "one", 60)
    with pytest.raises(Unsuited, match="compares times or memory, and has them from another machine; this is"):
        trial.run(claim, fields_of(claim), claim.study.run_folder(claim.number), None, None)


def test_of_two_kinds_of_hardware_the_first_to_begin_is_the_studys(search, trained, monkeypatch):
    """Also where neither has ended a trial."""
    study = search(2, objectives=("mae", "time"))
    here = trial.provenance()
    one, other = take(study, "one", 60), take(study, "other", 60)
    monkeypatch.setattr(trial, "provenance", lambda: here | {"hardware": "another machine " * 20})
    trial.begin(other, fields_of(other), study.run_folder(1))
    monkeypatch.setattr(trial, "provenance", lambda: here)
    with pytest.raises(Unsuited, match="has them from another machine"):
        trial.begin(one, fields_of(one), study.run_folder(0))


def test_what_was_validated_and_could_not_be_told_is_told_by_the_next_worker(search, trained):
    study = search(1, fields={"output_scale": Between(0.1, 10)}, pruning=None)
    first = take(study, "one", 60)
    out = study.run_folder(0)
    _, on_validation = trial.begin(first, fields_of(first), out)
    on_validation(2, {"mae": 3.0})
    out.mkdir(parents=True)
    lines = ['{"step": 1, "loss": 9}', '{"step": 2, "validation_mae": 3.5}', '{"step": 4, "validation_mae": 2.0}']
    (out / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 6, "validation_m']))
    study.storage.release(first.lease, "one")
    again = take(study, "two", 60)
    trial.begin(again, fields_of(again), out)
    assert study.trials()[0].intermediate_values == {2: 3.0, 4: 2.0}
    with (out / "metrics.jsonl").open("a") as file:
        file.write('ae": 1.0}\n')
    trial.conclude(again, study.config(fields_of(again)), out, None, Stop())
    assert study.trials()[0].intermediate_values == {2: 3.0, 4: 2.0, 6: 1.0}


def test_who_trained_what_is_kept_of_all_workers(search, trained, monkeypatch):
    study = search(1, pruning=None)
    here = trial.provenance()
    origins = [here, here, here | {"commit": "another"}, here]
    for number, origin in enumerate(origins):
        monkeypatch.setattr(trial, "provenance", lambda origin=origin: origin)
        claim = take(study, f"worker {number}", 60)
        if number == 1:
            claim.set("pruned", {"step": 2, "value": 1.0})  # and then it was killed
        trial.begin(claim, fields_of(claim), study.run_folder(0))
        study.storage.release(claim.lease, claim.worker)
    kept = study.trials()[0].user_attrs
    assert kept["provenance"] == here and kept["provenances"] == [here, origins[2]]
    assert kept["pruned"] is None


def test_any_seed_of_a_configuration_seeds_the_sampler(search):
    study = search(1)
    object.__setattr__(study.spec, "config", dataclasses.replace(study.spec.config, seed=20261121))
    assert fields_of(take(study, "one", 60))


def test_what_is_measured_of_a_run(storage, tiny, run, data_dir):
    """PSNR and PE by any protocol, as studies have tables of them; and how large the network is."""
    study = make_study(storage, "levels", Spec("levels", tiny, Measured(protocol="b6")))
    found = trial.measure(study, tiny, run, data_dir)
    assert found["metrics"].keys() == found["floor"].keys() == {"mae", "rmse", "psnr", "pe"}
    (image,) = found["images"].values()
    assert image == found["metrics"] and found["protocol"].startswith("b6: ") and found["unit"] == "cm"
    assert found["parameters"] == sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: init_params(tiny.model.build())))
    )


def test_a_library_that_is_not_installed_has_no_version():
    assert provenance._version("no-such-package") is None
    assert provenance.provenance()["versions"]["jax"]


def test_a_draw_that_is_no_configuration_is_a_failed_trial(search, trained, monkeypatch):
    study = search(2, fields={"output_scale": Between(0.1, 10)}, pruning=None)
    monkeypatch.setattr(trial.Space, "draw", lambda self, draws: {"output_scale": -1.0})
    work(study)
    assert [t.user_attrs["reason"] for t in study.trials()] == [
        "TrainConfig.output_scale is -1.0: it must be positive"
    ] * 2


def test_the_sampler_and_pruner_are_as_the_space_says(search):
    study = search(1, pruning=Pruning(trials=4, steps=3), random=7)
    sampled = trial._sampled(take(study, "one", 60)).study
    assert isinstance(sampled.sampler, optuna.samplers.TPESampler) and sampled.sampler._n_startup_trials == 7
    assert isinstance(sampled.pruner, optuna.pruners.MedianPruner)
    assert (sampled.pruner._n_startup_trials, sampled.pruner._n_warmup_steps) == (4, 3)
