"""Studies as the tests of their tables and pages make them up: trials that were told, none trained; untrusted names."""

import itertools
import math
import random

import optuna

from experiments.config import TrainConfig
from experiments.studies.storage import open_storage
from experiments.studies.study import Row, Spec, make_study
from experiments.studies.worker import lease_of

EVIL = """<script>alert("x")</script>'&"""
OBEYED = "\x1b[31m"  # by a terminal
PROVENANCE = {"version": "0.1", "commit": "c0ffee", "versions": {"jax": "1.2"}, "hardware": "a chip <b>"}
UNIT = "grey levels"
State = optuna.trial.TrialState


def storage(folder, name="studies.db"):
    return open_storage(f"sqlite:///{folder / name}", create=True)


def planned(folder, rows=None, kind="levels", name="levels", seeds=3, steps=100):
    """A study of rows, {label: fields}, by default of m = 1, 2, 4; all of its trials wait."""
    rows = rows or {f"m = {m}": {"model.num_levels": m} for m in (1, 2, 4)}
    spec = Spec(kind, TrainConfig(steps=steps), folder=str(folder / name))
    made = [Row(label, {**fields, "seed": s}) for s, (label, fields) in itertools.product(range(seeds), rows.items())]
    return make_study(storage(folder), name, spec, rows=made)


def begin(study, number, worker="host:1:aa", seconds=60.0, curve=(), steps=100):
    """A worker takes a trial, and validates it."""
    storage, frozen = study.storage, study.trials()[number]
    assert storage.take(lease_of(study, number), worker, seconds)
    if frozen.state == State.WAITING:
        storage.backend.set_trial_state_values(frozen._trial_id, State.RUNNING)
    trial = optuna.trial.Trial(study.backend, frozen._trial_id)
    trial.set_user_attr("workers", [*frozen.user_attrs.get("workers", ()), worker])
    trial.set_user_attr("config", {"steps": steps})
    trial.set_user_attr("provenance", PROVENANCE)
    for step, value in curve:
        storage.backend.set_trial_intermediate_value(frozen._trial_id, step, value)
    return trial


def complete(
    study, number, mae, rmse=None, curve=None, seconds=60.0, values=None, worker="host:1:aa", floor=2.0, **more
):
    """A worker has done a trial."""
    trial = begin(study, number, worker, curve=((50, 2 * mae), (100, mae)) if curve is None else curve)
    found = {
        "metrics": {"mae": mae, "rmse": 2 * mae if rmse is None else rmse},
        "floor": {"mae": floor, "rmse": 2 * floor},
        "unit": UNIT,
        "protocol": "float: as it is",
        "training": {"steps": 100, "seconds": seconds},
        **more,
    }
    for name, value in found.items():
        trial.set_user_attr(name, value)
    study.backend.tell(trial, values or [mae])
    study.storage.release(lease_of(study, number), worker)


def fail(study, number, reason, worker="host:2:bb"):
    trial = begin(study, number, worker)
    trial.set_user_attr("reason", reason)
    study.backend.tell(trial, state=State.FAIL)
    study.storage.release(lease_of(study, number), worker)


def prune(study, number, curve, worker="host:1:aa"):
    study.backend.tell(begin(study, number, worker, curve=curve), state=State.PRUNED)
    study.storage.release(lease_of(study, number), worker)


def search(folder, trials=30, objectives=("mae", "time"), name="search", waiting=0, seed=0):
    """A search whose error falls with the rate's distance from 1e-2 and with the levels, which take time."""
    rng = random.Random(seed)
    spec = Spec("search", TrainConfig(steps=100), folder=str(folder / name), objectives=tuple(objectives))
    space = {"optimiser.learning_rate": [1e-4, 1e-1]}
    study = make_study(storage(folder), name, spec, space=space, trials=trials + waiting)
    for number in range(trials):
        frozen = study.trials()[number]
        study.storage.backend.set_trial_state_values(frozen._trial_id, State.RUNNING)
        trial = optuna.trial.Trial(study.backend, frozen._trial_id)
        # What a trial draws is set, not suggested, so that it does not depend on the sampler.
        rate = 10 ** rng.uniform(-4, -1)
        levels = rng.choice([1, 2, 4])
        schedule = rng.choice(["cosine", "step"])
        drawn = [
            ("optimiser.learning_rate", rate, optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)),
            ("model.num_levels", levels, optuna.distributions.CategoricalDistribution((1, 2, 4))),
            ("optimiser.schedule", schedule, optuna.distributions.CategoricalDistribution(("cosine", "step"))),
        ]
        fields = {"optimiser.learning_rate": rate, "model.num_levels": levels, "optimiser.schedule": schedule}
        if schedule == "step":
            fields["optimiser.halve_at"] = halve = rng.uniform(0.3, 0.9)
            drawn.append(("optimiser.halve_at", halve, optuna.distributions.FloatDistribution(0.3, 0.9)))
        for key, value, distribution in drawn:
            inner = distribution.to_internal_repr(value)
            study.storage.backend.set_trial_param(frozen._trial_id, key, inner, distribution)
        trial.set_user_attr("fields", fields)
        trial.set_user_attr("label", f"trial {number}")
        mae = 0.5 + 0.4 * abs(math.log10(rate) + 2) + 0.3 / levels + 0.02 * rng.random()
        time = 10.0 * levels + rng.random()
        curve = [(step, mae * (1 + 2 * math.exp(-step / 20))) for step in range(10, 101, 10)]
        if number % 10 == 7:
            prune(study, number, curve[:3])
        elif number % 10 == 9:
            fail(study, number, f"the loss is not finite at step 12 {EVIL}{OBEYED}")
        else:
            values = [{"mae": mae, "rmse": 2 * mae, "time": time, "memory": 100.0 * levels}[o] for o in objectives]
            complete(study, number, mae, curve=curve, values=values)
    return study
