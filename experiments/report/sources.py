"""What a report is made of: the folders that were named, with their evaluations and the logs of their training."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from experiments import evaluations
from experiments.evaluations import Evaluation
from experiments.run_log import METRICS

CONFIG = "config.json"
# A curve on paper has no room for more.
POINTS = 2000


@dataclass(frozen=True)
class Series:
    """A number over the steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Training:
    """What a run's folder says of its training.

    Attributes:
      name: the folder's, or its path where another's is the same.
      folder: the folder.
      evaluated: whether it has an evaluation.
      unit: of the validation.
      config: `config.json`, as it stands; empty where there is none.
      loss: of the training; each value is a mean since the last.
      stages: so that of each stage and of the output, before they are weighed and added up: "x2", ..., "output"; empty
        where no stage is supervised.
      validation: mean absolute error on the held-out images.
      floor: that of interpolation.
    """

    name: str
    folder: Path
    evaluated: bool
    unit: str
    config: Mapping[str, Any]
    loss: Series
    stages: Mapping[str, Series]
    validation: Series
    floor: Series


@dataclass(frozen=True)
class Sources:
    """All that a report is made of."""

    evaluations: tuple[Evaluation, ...]
    trainings: tuple[Training, ...]


def gather(folders: Sequence[Path]) -> Sources:
    """The evaluations and training logs of runs' and evaluations' folders, each once, in the order given.

    Raises:
      InputError: a folder that has neither, or a damaged one.
    """
    found: dict[Path, Evaluation] = {}
    trainings: dict[Path, Training] = {}
    for folder in folders:
        if (folder / METRICS).is_file():
            training = trainings.setdefault(folder.resolve(), read_training(folder))
            if not training.evaluated:
                continue
        for evaluation in evaluations.find(folder):
            assert evaluation.folder is not None
            found.setdefault(evaluation.folder.resolve(), evaluation)
    names = [training.name for training in trainings.values()]
    told = (replace(t, name=str(t.folder)) if names.count(t.name) > 1 else t for t in trainings.values())
    return Sources(tuple(found.values()), tuple(told))


def has_evaluation(folder: Path) -> bool:
    """Whether the folder is an evaluation, or a run's with one."""
    return any(evaluations.is_evaluation(f) for f in (folder, *(folder / evaluations.EVALUATIONS).glob("*")))


def read_training(run: Path) -> Training:
    """The log of a run. InputError where a file is damaged; a last line that is being written is left out."""
    path = run / METRICS
    try:
        whole = path.read_text("utf-8").rpartition("\n")[0]
        lines = [dict(json.loads(line)) for line in whole.splitlines()]
        series = {
            name: _series(lines, names)
            for name, names in {
                "loss": ("loss",),
                "validation": ("validation_mae",),
                "floor": ("validation_floor_mae", "validation_bicubic_mae"),  # the second in logs of 2025
            }.items()
        }
        stages = {name: _series(lines, (term,)) for term, name in _stages(lines).items()}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the folder's rights") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): restore it from a copy") from None
    config = _config(run / CONFIG)
    trained = config.get("trained")
    unit = str(trained.get("unit", "")) if isinstance(trained, dict) else ""
    return Training(run.resolve().name, run, has_evaluation(run), unit, config, stages=stages, **series)


def _stages(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the lines call the losses of the stages, the coarsest first and the output's last, and the stages' names."""
    terms = (re.fullmatch(r"loss_x([\d.]+)", name) for line in lines for name in line)
    names = {f"loss_x{factor:g}": f"x{factor:g}" for factor in sorted({float(term[1]) for term in terms if term})}
    return {**names, "loss_final": "output"} if names else {}


def _series(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Series:
    """What the lines say under the first of the names that they have, thinned to the means of equal groups."""
    points = [
        (int(line["step"]), float(value))
        for line in lines
        if (value := next((line[name] for name in names if name in line), None)) is not None
    ]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if points else []
    return Series(
        tuple(group[-1][0] for group in groups), tuple(float(np.mean([v for _, v in group])) for group in groups)
    )


def _config(path: Path) -> dict[str, Any]:
    """The configuration as it stands: a report shows it, and does not ask whether this version still runs it."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the folder's rights") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): restore it from a copy") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is damaged (no object): restore it from a copy")
    return config
