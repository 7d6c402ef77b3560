"""Studies as the tests of their tables and pages make them up: trials that were told, none trained; untrusted names."""

import math
import random
from datetime import datetime, timedelta

import optuna

from experiments.config import TrainConfig
from experiments.studies.storage import open_storage
from experiments.studies.study import Spec, lease_of, make_study

EVIL = """<script>alert("x")</script>'&"""
OBEYED = "\x1b[31m"  # by a terminal
PROVENANCE = {"version": "0.1", "commit": "c0ffee", "versions": {"jax": "1.2"}, "hardware": "a chip <b>"}
UNIT = "grey levels"
BEGAN = datetime(2026, 11, 21, 20, 0)
WORKER = "host:1:aa"
State = optuna.trial.TrialState


def trial(state, *, number=0, values=None, curve=(), seconds=60.0, params=None, distributions=None, **attributes):
    """A trial that one worker had for so many seconds."""
    begun = state != State.WAITING
    known = {"config": {"steps": 100}, "provenance": PROVENANCE, "workers": [WORKER]} if begun else {}
    return optuna.trial.FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=values,
        datetime_start=BEGAN if begun else None,
        datetime_complete=BEGAN + timedelta(seconds=seconds) if state.is_finished() else None,
        params=params or {},
        distributions=distributions or {},
        user_attrs={**known, **attributes},
        system_attrs={},
        intermediate_values=dict(curve),
    )


def found(mae, seconds=50.0):
    """What is recorded of a trial that is complete; RMSE is twice the MAE, and interpolation's MAE 2."""
    return {
        "metrics": {"mae": mae, "rmse": 2 * mae},
        "floor": {"mae": 2.0, "rmse": 4.0},
        "images": {"a": {"mae": mae}},
        "unit": UNIT,
        "protocol": "float: as it is",
        "training": {"steps": 100, "seconds": seconds},
    }


def curve_to(mae, last=100):
    return [(step, mae * (1 + 2 * math.exp(-step / 20))) for step in range(10, last + 1, 10)]


def study(folder, kind, trials, objectives=("mae",), name=None, space=None):
    """A study of these trials."""
    storage = open_storage(f"sqlite:///{folder / 'studies.db'}", create=True)
    spec = Spec(kind, TrainConfig(steps=100), folder=str(folder / (name or kind)), objectives=tuple(objectives))
    made = make_study(storage, name or kind, spec, space=space)
    made.backend.add_trials(trials)
    return made


def levels(folder):
    """A study of m = 1, 2, 4 and three seeds in every state there is.

    Trials 0-3 are complete with MAE 1.25, 1.0, 0.8, 1.35, each after 60 s; 4 runs, seen at step 50; 5 failed; that of 6
    died at step 20, that of 7 stopped; 8 waits.
    """
    rows = [(m, seed) for seed in range(3) for m in (1, 2, 4)]
    maes = {0: 1.25, 1: 1.0, 2: 0.8, 3: 1.35}
    trials = []
    for number, (m, seed) in enumerate(rows):
        planned = {"label": f"m = {m}", "fields": {"model.num_levels": m, "seed": seed}}
        if number in maes:
            mae = maes[number]
            trials.append(trial(State.COMPLETE, values=[mae], curve=curve_to(mae), **planned, **found(mae)))
        elif number == 5:
            trials.append(trial(State.FAIL, reason=f"the loss is not finite {EVIL}{OBEYED}", **planned))
        elif number == 8:
            trials.append(trial(State.WAITING, **planned))
        else:
            curve = curve_to(1.0, {4: 50, 6: 20, 7: 30}[number])
            trials.append(trial(State.RUNNING, curve=curve, **{**planned, "workers": [f"host:{number}:aa"]}))
    made = study(folder, "levels", trials)
    for number, seconds in ((4, 600.0), (6, -5.0), (7, 600.0)):
        assert made.storage.take(lease_of(made, number), f"host:{number}:aa", seconds)
    made.storage.release(lease_of(made, 7), "host:7:aa")
    return made


def search(folder, count=30, objectives=("mae", "time"), waiting=3):
    """A search whose MAE grows with the rate's distance from 1e-2 and falls with the levels, which take time.

    Of ten trials, that of 7 is pruned and that of 9 failed.
    """
    rng = random.Random(0)
    drawn = {
        "optimiser.learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "model.num_levels": optuna.distributions.CategoricalDistribution((1, 2, 4)),
        "optimiser.schedule": optuna.distributions.CategoricalDistribution(("cosine", "step")),
        "optimiser.halve_at": optuna.distributions.FloatDistribution(0.3, 0.9),
    }
    trials = []
    for number in range(count):
        levels = rng.choice([1, 2, 4])
        fields = {
            "optimiser.learning_rate": 10 ** rng.uniform(-4, -1),
            "model.num_levels": levels,
            "optimiser.schedule": rng.choice(["cosine", "step"]),
        }
        if fields["optimiser.schedule"] == "step":
            fields["optimiser.halve_at"] = rng.uniform(0.3, 0.9)
        mae = 0.5 + 0.4 * abs(math.log10(fields["optimiser.learning_rate"]) + 2) + 0.3 / levels + 0.02 * rng.random()
        known = {"mae": mae, "rmse": 2 * mae, "time": 10.0 * levels + rng.random(), "memory": 100.0 * levels}
        kept = {"fields": fields, "label": f"trial {number}"}
        kept |= {"params": fields, "distributions": {name: drawn[name] for name in fields}}
        if number % 10 == 7:
            trials.append(trial(State.PRUNED, curve=curve_to(mae, 30), **kept))
        elif number % 10 == 9:
            trials.append(trial(State.FAIL, reason=f"the loss is not finite {EVIL}", **kept))
        else:
            values = [known[objective] for objective in objectives]
            trials.append(trial(State.COMPLETE, values=values, curve=curve_to(mae), **kept, **found(mae)))
    trials += [trial(State.WAITING) for _ in range(waiting)]
    return study(folder, "search", trials, objectives, space={"optimiser.learning_rate": [1e-4, EVIL]})
