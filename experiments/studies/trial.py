"""One trial: its configuration, its training, and what is measured of it."""

import contextlib
import dataclasses
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import Stopped, TrainConfig
from experiments.provenance import provenance
from experiments.run_log import METRICS
from experiments.studies import space
from experiments.studies.space import Pruning, Space
from experiments.studies.storage import reachable
from experiments.studies.study import Study

if TYPE_CHECKING:
    import optuna

    from data_pipelines.datasets import Dataset
    from experiments.protocols import Protocol
    from experiments.studies.cost import Cost
    from experiments.studies.worker import Claim
    from experiments.train import OnValidation


FOREVER = 1e10  # seconds
MOST_LETTERS = 200  # in the table of leases
COSTLY = frozenset({"time", "memory"})  # objectives that are not of the error, but of the network
KEPT = ("mae", "rmse", "psnr", "pe")  # metrics that studies have tables of, whatever a protocol is about


class Pruned(Exception):
    """A trial is worse than the others were at its step."""


class Unsuited(InputError):
    """This worker should not do the study's trials; which is no fault of theirs."""


def fields_of(claim: "Claim") -> Mapping[str, Any]:
    """The fields that the trial changes: planned, or drawn by the sampler now, unless an earlier worker has."""
    with reachable(claim.study.storage.url):
        attributes = claim.trial.user_attrs
        if "fields" in attributes:
            return attributes["fields"]
        drawn = json.loads(json.dumps(space_of(claim.study).draw(_sampled(claim))))
    claim.set("label", f"trial {claim.number}")
    claim.set("fields", drawn)
    return drawn


def space_of(study: Study) -> Space:
    """What a search draws from."""
    assert study.space is not None
    return space.from_json(study.spec.config, study.spec.objectives, study.space)


def _sampled(claim: "Claim") -> "optuna.trial.Trial":
    """The trial as a search's: with the sampler that draws it, and the pruner that compares it.

    The sampler is TPE, over fields that depend on each other too, and with an eye on what other workers have at hand.
    Its seed is of the configuration's seed and the trial's number: one worker draws the same trials again.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning

    study = claim.study
    search = space_of(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`, which conditions need
        sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence((study.spec.config.seed, claim.number)).generate_state(1)[0]),
            n_startup_trials=search.random,
            multivariate=True,
            group=True,
        )
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if isinstance(search.pruning, Pruning):
        pruner = optuna.pruners.MedianPruner(search.pruning.trials, search.pruning.steps)
    # Opened anew: what Optuna remembers of the study's trials is as old as the last trial.
    backend = optuna.load_study(study_name=study.name, storage=study.storage.backend, sampler=sampler, pruner=pruner)
    return optuna.trial.Trial(backend, claim.trial._trial_id)


def run(claim: "Claim", fields: Mapping[str, Any], out: Path, data_dir: Path | None, stop: Any) -> dict[str, float]:
    """Trains a trial in the folder `out`, or the rest of it, and measures it.

    Returns:
      what may be minimised, by its name.

    Raises:
      InputError: the configuration or its data cannot be used.
      Unsuited: times are compared, and other trials have theirs from other hardware.
      Pruned, Stopped: it ended before.
    """
    from experiments.train import train

    config, on_validation = begin(claim, fields, out)
    train(config, out, data_dir=data_dir, on_validation=on_validation, stop=stop)
    return conclude(claim, config, out, data_dir, stop)


def begin(claim: "Claim", fields: Mapping[str, Any], out: Path) -> tuple[TrainConfig, "OnValidation"]:
    """What a trial's training is given: its configuration, and who is told of its validations."""
    study = claim.study
    config = study.config(fields)
    claim.set("config", configs.to_json(config))
    if not COSTLY.isdisjoint(study.spec.objectives):
        _check_hardware(claim)
    _note_origin(claim)
    _make_parents(out)
    _catch_up(claim, out)

    def on_validation(step: int, means: Mapping[str, float]) -> None:
        _tell(claim, {step: means["mae"]})
        with reachable(study.storage.url):
            prune = study.spec.prune and step < config.steps and _sampled(claim).should_prune()
        if prune:
            claim.set("pruned", {"step": step, "value": means["mae"]})
            raise Pruned(f"given up at step {step} of {config.steps}: worse than the median of the others there")

    return config, on_validation


def _note_origin(claim: "Claim") -> None:
    """With what the trial is trained: `provenance`, and all of them where a later worker has another."""
    here = provenance()
    with reachable(claim.study.storage.url):
        kept = claim.trial.user_attrs
    if "provenance" not in kept:
        claim.set("provenance", here)
    elif here not in (known := kept.get("provenances", [kept["provenance"]])):
        claim.set("provenances", [*known, here])
    if kept.get("pruned"):  # by a worker that died before it could say so: it goes on
        claim.set("pruned", None)


def _tell(claim: "Claim", validations: Mapping[int, float]) -> None:
    """Keeps the MAE of validations, by step, each once."""
    claim.keep()
    backend, trial = claim.study.storage.backend, claim.trial._trial_id
    with reachable(claim.study.storage.url):
        kept = backend.get_trial(trial).intermediate_values
        for step, mae in validations.items():
            if step not in kept:
                # Not by the trial's `report`, which does not know of several objectives.
                backend.set_trial_intermediate_value(trial, step, mae)


def _catch_up(claim: "Claim", out: Path) -> None:
    """Tells the storage what its run has validated and could not say: the worker was killed, or the storage away."""
    found: dict[int, float] = {}
    if (path := out / METRICS).exists():
        with contextlib.suppress(json.JSONDecodeError):  # of a line that was not finished: what follows is not there
            for line in map(json.loads, path.read_text().splitlines()):
                if "validation_mae" in line:
                    found[line["step"]] = line["validation_mae"]
    if found:
        _tell(claim, found)


def conclude(claim: "Claim", config: TrainConfig, out: Path, data_dir: Path | None, stop: Any) -> dict[str, float]:
    """Measures a trained trial; as `run` from there on."""
    study = claim.study
    _catch_up(claim, out)
    found = stop.unless(lambda: measure(study, config, out, data_dir))
    if found is None:
        raise Stopped("stopped while it was measured")
    for name, value in found.items():
        claim.set(name, value)
    values: dict[str, float] = {n: found["metrics"][n] for n in ("mae", "rmse") if n in found["metrics"]}
    if not COSTLY.isdisjoint(study.spec.objectives):
        cost = stop.unless(lambda: _cost(study, config))
        if cost is None:
            raise Stopped("stopped while its network's cost was measured")
        claim.set("cost", dataclasses.asdict(cost))
        values |= {"time": cost.inference_ms}
        if cost.inference_mib is not None:
            values["memory"] = cost.inference_mib
    return values


def _check_hardware(claim: "Claim") -> None:
    """Times of two kinds of machines make no front: those who came later are told."""
    storage, what, here = claim.study.storage, f"hardware/{claim.study.name}", provenance()["hardware"][:MOST_LETTERS]
    # A lease without end: the hardware that takes it first keeps it, whatever others do at the same time.
    if not storage.take(what, here, FOREVER):
        there = storage.leases(what)[what].worker
        raise Unsuited(
            f"study {claim.study.name} compares times or memory, and has them from {there}; this is {here}: start "
            "its workers there, or a study of its own here"
        )


def _cost(study: Study, config: TrainConfig) -> "Cost":
    """What a trial's network costs: as another trial of the same found, or measured now."""
    from experiments.studies import cost

    wanted, here = cost.key(config), provenance()["hardware"]
    for trial in study.trials():
        known = trial.user_attrs.get("cost")
        if known and known["hardware"] == here and cost.key(study.config(trial.user_attrs["fields"])) == wanted:
            return cost.from_json(known)
    return cost.measure([config], progress=False, tasks=("inference",))[0]


def _make_parents(out: Path) -> None:
    from ahmf_jax.writing import unwritable

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out.parent, error) from None


class MeasuredSet(NamedTuple):
    """What a trial is measured on, and how."""

    dataset: "Dataset"
    split: str
    protocol_name: str
    protocol: "Protocol"


def measured_set(study: Study, config: TrainConfig, out: Path, data_dir: Path | None) -> MeasuredSet:
    """What the trial of that configuration and run is measured on."""
    from experiments.data import default_split, open_named
    from experiments.methods import trained_on
    from experiments.protocols import choose_protocol

    asked = study.spec.measured
    dataset = asked.dataset or config.data.dataset
    split = asked.split
    if not asked.dataset:
        split = config.data.validation
    elif split is None:
        split = default_split(dataset, data_dir)
    of_training = not asked.dataset
    opened = open_named(dataset, split, data_dir, config.data.pairs if of_training else asked.pairs, of_training)
    return MeasuredSet(opened, split, *choose_protocol(asked.protocol, opened.info, trained_on(out)))


def measure(study: Study, config: TrainConfig, out: Path, data_dir: Path | None) -> dict[str, Any]:
    """What a trained run is worth: `metrics`, `floor`, `images`, `unit`; its `parameters`, and its `training`."""
    from experiments.evaluate import measure_all
    from experiments.methods import Network

    dataset, split, name, protocol = measured_set(study, config, out, data_dir)
    network = Network(out)
    found = measure_all(network, dataset, name, protocol, split=split)
    kept = dict.fromkeys((*KEPT, *found.metrics))
    return {
        "unit": found.unit,
        "protocol": f"{name}: {protocol}",
        "images": {image.name: _numbers(image.metrics, kept) for image in found.images},
        "metrics": _numbers(found.mean.metrics, kept),
        "floor": _numbers(found.mean.floor, kept),
        "parameters": network.parameters,
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
