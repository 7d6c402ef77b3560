"""Trials that a worker trains in one program find what they find alone."""

import dataclasses

import pytest

from experiments.studies.study import Row, make_study
from experiments.studies.worker import work


def test_trials_together_find_what_they_find_alone(storage, spec, data_dir, tmp_path):
    rows = [
        Row("another start", {"output_scale": 0.3, "seed": 1}),  # rates and steps are test_together.py's
        Row("the same start", {"seed": 2}),
    ]
    found = {}
    for name, lanes in (("alone", 1), ("together", 2)):
        study = make_study(storage, name, dataclasses.replace(spec, folder=str(tmp_path / name)), rows=rows)
        assert work(study, data_dir=data_dir, together=lanes) == 2
        found[name] = study.trials()
    for alone, together in zip(found["alone"], found["together"], strict=True):
        assert together.state.name == "COMPLETE"
        for values in ("metrics", "images"):
            flat = [flatten(trial.user_attrs[values]) for trial in (alone, together)]
            assert flat[1] == pytest.approx(flat[0], rel=1e-5, abs=1e-5)
        assert together.intermediate_values == pytest.approx(alone.intermediate_values, rel=1e-5)
        assert together.user_attrs["training"]["steps"] == alone.user_attrs["config"]["steps"]


def flatten(values, prefix=""):
    """Numbers by their path."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {path: x for name, value in values.items() for path, x in flatten(value, f"{prefix}/{name}").items()}
