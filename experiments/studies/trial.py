"""One trial: its configuration, its training, and what is measured of it."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import config as configs
from experiments.config import TrainConfig
from experiments.provenance import provenance
from experiments.run_log import METRICS
from experiments.studies.storage import reachable
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.studies.worker import Claim


class Pruned(Exception):
    """A trial is worse than the others were at its step."""


def fields_of(claim: "Claim") -> Mapping[str, Any]:
    """The fields that the trial changes: planned, or drawn by the sampler now, unless an earlier worker has."""
    with reachable(claim.study.storage.url):
        attributes = claim.trial.user_attrs
        if "fields" in attributes:
            return attributes["fields"]
        raise NotImplementedError


def run(claim: "Claim", fields: Mapping[str, Any], out: Path, data_dir: Path | None, stop: Any) -> dict[str, float]:
    """Trains a trial in the folder `out`, or the rest of it, and measures it.

    Returns:
      what may be minimised, by its name.
    """
    from experiments.train import train

    study = claim.study
    config = study.config(fields)
    claim.set("config", configs.to_json(config))
    claim.set("provenance", provenance())
    _make_parents(out)

    def on_validation(step: int, means: Mapping[str, float]) -> None:
        with reachable(study.storage.url):
            if step not in study.storage.backend.get_trial(claim.trial._trial_id).intermediate_values:
                claim.trial.report(means["mae"], step)
            if study.spec.prune and claim.trial.should_prune():
                raise Pruned

    train(config, out, data_dir=data_dir, on_validation=on_validation, stop=stop)
    found = measure(study, config, out, data_dir)
    for name, value in found.items():
        claim.set(name, value)
    return {name: found["metrics"][name] for name in study.spec.objectives}


def _make_parents(out: Path) -> None:
    from ahmf_jax.writing import unwritable

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out.parent, error) from None


def measure(study: Study, config: TrainConfig, out: Path, data_dir: Path | None) -> dict[str, Any]:
    """What a trained run is worth: `metrics`, `floor`, `images`, `unit`, and its `training`."""
    from experiments.data import default_split, open_named
    from experiments.evaluate import measure_all
    from experiments.methods import open_method, trained_on
    from experiments.protocols import choose_protocol

    asked = study.spec.measured
    dataset = asked.dataset or config.data.dataset
    split = asked.split
    if not asked.dataset:
        split = config.data.validation
    elif split is None:
        split = default_split(dataset, data_dir)
    opened = open_named(dataset, split, data_dir, asked.pairs if asked.dataset else config.data.pairs)
    name, protocol = choose_protocol(asked.protocol, opened.info, trained_on(out))
    found = measure_all(open_method(str(out), None, protocol), opened, name, protocol, split=split)
    kept = dict.fromkeys(("mae", "rmse", *found.metrics))
    return {
        "unit": found.unit,
        "protocol": f"{name}: {protocol}",
        "images": {image.name: _numbers(image.metrics, kept) for image in found.images},
        "metrics": _numbers(found.mean.metrics, kept),
        "floor": _numbers(found.mean.floor, kept),
        "training": training(out),
    }


def _numbers(values: Mapping[str, float], kept: Iterable[str]) -> dict[str, float]:
    """Those that are numbers: JSON has no others."""
    return {name: float(values[name]) for name in kept if math.isfinite(values[name])}


def training(out: Path) -> dict[str, float]:
    """Of a run: its steps, and the seconds that they took, without compiling, validating and saving."""
    seconds, last = 0.0, 0
    for line in map(json.loads, (out / METRICS).read_text().splitlines()):
        if "step_seconds" in line:
            seconds += line["step_seconds"] * (line["step"] - last)
            last = line["step"]
    return {"steps": last, "seconds": seconds}
