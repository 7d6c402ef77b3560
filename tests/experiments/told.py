"""Planned studies whose trials were told, not trained, each written to the storage at once."""

import optuna

from experiments.config import TrainConfig
from experiments.studies.storage import open_storage
from experiments.studies.study import Spec, make_study

UNIT = "grey levels"
PROVENANCE = {"version": "0.1", "commit": "c0ffee", "versions": {}, "hardware": "a chip"}


def study(folder, kind, rows, found, config=None, **kept):
    """A study of `rows`, of which those complete that `found`, {(label, seed): MAE}, has; RMSE is twice that.

    A found of None has failed; one may be all metrics by their names. The interpolation's MAE is 1, and training took
    10 s and one for each seed before. `kept` is more of what is recorded of each that is complete.
    """
    storage = open_storage(f"sqlite:///{folder / 'told.db'}", create=True)
    made = make_study(storage, kind, Spec(kind, config or TrainConfig(steps=100), folder=str(folder / kind)))
    made.backend.add_trials([trial(row, found, **kept) for row in rows])
    return made


def trial(row, found, **more):
    """One of a row, as `study` has it."""
    seed = row.fields["seed"]
    kept = {"label": row.label, "fields": dict(row.fields), "provenance": PROVENANCE}
    if (row.label, seed) not in found:
        return optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING, user_attrs=kept)
    metrics = found[row.label, seed]
    if metrics is None:
        kept["reason"] = "out of luck"
        return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=kept)
    if not isinstance(metrics, dict):
        metrics = {"mae": metrics, "rmse": 2 * metrics}
    mae = metrics["mae"]
    kept |= {
        "metrics": metrics,
        "floor": {"mae": 1.0, "rmse": 2.0},
        "images": {"a": {"mae": mae}},
        "unit": UNIT,
        "protocol": "float: as it is",
        "training": {"steps": 100, "seconds": 10.0 + seed},
        **more,
    }
    return optuna.trial.create_trial(value=mae, user_attrs=kept, intermediate_values={50: 2 * mae, 100: mae})
