"""`ahmf study show`: a study's rows as a table."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.studies.study import Study

if TYPE_CHECKING:
    import optuna


def table(study: Study) -> str:
    """Its rows, each with how many trials are done, and the mean and spread over the seeds."""
    rows: dict[str, list[optuna.trial.FrozenTrial]] = {}
    for trial in study.trials():
        rows.setdefault(trial.user_attrs.get("label", str(trial.number)), []).append(trial)
    width = max(map(len, rows), default=0)
    lines = [f"{'':{width}}  done  MAE              RMSE             seconds"]
    for label, trials in rows.items():
        done = [t.user_attrs for t in trials if t.state.name == "COMPLETE"]
        cells = [spread([d["metrics"][name] for d in done]) for name in ("mae", "rmse")]
        seconds = spread([d["training"]["seconds"] for d in done])
        failed = sum(t.state.name == "FAIL" for t in trials)
        running = sum(t.state.name == "RUNNING" for t in trials)
        state = (
            f"{len(done)}/{len(trials)}"
            + f" ({running} running)" * bool(running)
            + f" ({failed} failed)" * bool(failed)
        )
        lines.append(f"{label:{width}}  {state:4}  {cells[0]:15}  {cells[1]:15}  {seconds}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation over the seeds."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
