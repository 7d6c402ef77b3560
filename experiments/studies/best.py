"""`ahmf study best`: a study's best trial as a configuration that trains it again to the same numbers."""

import dataclasses
import math
import re
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole
from experiments import config as configs
from experiments.config import TrainConfig
from experiments.studies import tables
from experiments.studies.standing import Entry, Standing, read, spread_of
from experiments.studies.storage import command
from experiments.studies.study import OBJECTIVES, Study

MARK = "Written by `ahmf study best`"  # in the files that may be overwritten
WIDTH = 120


class Best(NamedTuple):
    """A trial, and why it is the one."""

    trial: Entry
    why: str


def best(standing: Standing, by: str | None = None) -> Best:
    """The best of a study's complete trials.

    Of a search, the one with the smallest value. Of planned trials, the row with the smallest mean over the seeds,
    among those with as many seeds as any; and of it the trial of the first seed: which comes out best is luck.

    Args:
      standing: of the study.
      by: what is compared; the study's first objective by default.

    Raises:
      InputError: no trial is complete, or none has that value.
    """
    study, by = standing.study, by or standing.study.spec.objectives[0]
    named, unit = tables.title_and_unit(by, standing.unit)
    done = [trial for trial in standing.of("complete") if by in trial.values]
    if not done:
        have = "is complete yet" if not standing.of("complete") else f"has its {named} measured"
        raise InputError(
            f"study {study.name}: no trial {have}: see `{command(study.storage, 'study', 'show', study.name)}`"
        )
    if standing.searches:
        trial = min(done, key=lambda trial: (trial.values[by], trial.number))
        return Best(trial, f"the smallest {named} of {len(done)} trials")
    rows = {label: [trial for trial in trials if trial in done] for label, trials in standing.rows.items()}
    most = max(map(len, rows.values()))
    means = {label: found for label, trials in rows.items() if (found := spread_of(trials, by)) and len(trials) == most}
    label, mean = min(means.items(), key=lambda item: item[1].mean)
    trial = min(rows[label], key=lambda trial: (trial.fields.get("seed", 0), trial.number))
    return Best(trial, f"of {label}, which has the smallest mean {named} ({mean.mean:.4g} {unit}, seeds: {most})")


def numbered(standing: Standing, number: int) -> Best:
    """The trial of that number. InputError where it is not complete."""
    done = standing.of("complete")
    for trial in done:
        if trial.number == number:
            return Best(trial, "as asked for")
    state = next((trial.state for trial in standing.trials if trial.number == number), "not there")
    known = ", ".join(str(trial.number) for trial in done[:20]) or "none yet"
    raise InputError(f"--trial {number}: of study {standing.study.name} it is {state}: complete are {known}")


def write_best(
    study: Study, out: Path, *, by: str | None = None, trial: int | None = None, overwrite: bool = False
) -> Best:
    """Writes the configuration of the best trial, or of the one of a number, as a Python file for `ahmf train`.

    Args:
      study: which.
      out: the file.
      by: what is compared: see `best`.
      trial: the number of the one that is wanted.
      overwrite: even what this program has not written.

    Raises:
      InputError: there is no such trial, or the file is somebody else's, or cannot be written.
    """
    if out.suffix != ".py":
        raise InputError(f"--out {out}: a configuration is a Python file: give a name that ends in .py")
    if by is not None and trial is not None:
        raise InputError(f"--by {by} chooses a trial, and --trial {trial} names one: give one of them")
    if out.exists() and not overwrite and not _ours(out):
        raise InputError(
            f"--out {out}: there is a file that `ahmf study best` did not write: name another, or --overwrite"
        )
    standing = read(study)
    found = best(standing, by) if trial is None else numbered(standing, trial)
    config = configs.from_json(found.trial.attributes["config"])
    write_whole(out, source(config, _story(standing, found, out)).encode())
    return found


def sentences(standing: Standing) -> list[str]:
    """What a search has found: its best trial, or each that none betters in all that is minimised."""
    names = standing.study.spec.objectives
    found = standing.front(names) if len(names) > 1 else tables.best(standing)[:1]
    if not found:
        return ["No trial is complete yet."]
    which = "none betters it" if len(names) > 1 else "the best"
    return [
        f"Trial {trial.number}, {which}: {', '.join(_figures(standing, trial, names))}; {tables.settings(trial)}."
        for trial in found
    ]


def summary(study: Study) -> str:
    """The same as the command prints it at its end, and how to go on."""
    standing, names = read(study), study.spec.objectives
    lines = sentences(standing)
    if found := standing.front(names):
        which = ["--trial", str(found[0].number)] if len(names) > 1 else []
        best = command(study.storage, "study", "best", study.name, *which, "--out", f"{study.name}_best.py")
        lines.append(f"to have {'the first' if which else 'it'} as a configuration: {best}")
    return "\n".join(lines)


def source(config: TrainConfig, story: str) -> str:
    """A configuration as Python, of it what is not as by default, below a docstring."""
    used: dict[str, set[str]] = {}
    for cls in _classes(config):
        used.setdefault(cls.__module__, set()).add(cls.__name__)
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(used.items())]
    # Text of the storage must not end the docstring.
    story = "".join(c if c.isprintable() or c == "\n" else "?" for c in story.replace("\\", "/").replace('"', "'"))
    return f'"""{story}\n"""\n\n' + "\n".join(imports) + f"\n\nconfig = {_call(config, 0, 'config = ', whole=True)}\n"


def _story(standing: Standing, found: Best, out: Path) -> str:
    """Where a configuration comes from."""
    trial, facts = found.trial, found.trial.attributes
    provenance = trial.provenances[-1] if trial.provenances else {}
    versions = provenance.get("versions", {})
    floor = facts.get("floor", {}).get("mae")
    numbers = ", ".join(_figures(standing, trial, [name for name in OBJECTIVES if name in trial.values]))
    again = "the same has the same numbers again"
    if len(trial.provenances) > 1:
        again = (
            f"where it ended; it had {len(trial.provenances)} machines or versions of the program in turn, so its "
            "numbers need not come back to the bit"
        )
    told = [
        f"Measured: {numbers}; protocol {facts.get('protocol', 'unknown')}"
        + (f"; interpolation's MAE is {floor:.6g} {standing.unit}" if floor is not None else "")
        + ".",
        "Of the study's own: " + ", ".join(f"{name} = {_literal(value)}" for name, value in trial.fields.items()) + ".",
        f"Trained by version {provenance.get('version', 'unknown')} of this program, commit "
        f"{provenance.get('commit') or 'unknown'}, with "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", on {provenance.get('hardware', 'unknown hardware')}: {again}.",
    ]
    title = f"Trial {trial.number} of the study {standing.study.name}: {found.why}."
    return "\n\n".join(
        [
            textwrap.fill(title, WIDTH - 3),
            f"    ahmf train {out.name}",
            "\n".join(textwrap.fill(" ".join(text.split()), WIDTH) for text in told),
            f"{MARK}, and overwritten by it.",
        ]
    )


def _figures(standing: Standing, trial: Entry, names: Collection[str]) -> list[str]:
    told = []
    for name in names:
        title, unit = tables.title_and_unit(name, standing.unit)
        told.append(f"{title} {trial.values[name]:.6g} {unit}".rstrip())
    return told


def _ours(path: Path) -> bool:
    """Whether a file is one that may be overwritten."""
    if not path.is_file():
        raise InputError(f"--out {path}: is no file: name another")
    with path.open("rb") as file:
        head = file.read(16384)
    docstring = re.match(rb'"""(.*?)"""', head, re.DOTALL)
    return docstring is not None and MARK.encode() in docstring[1]


def _classes(config: Any) -> Iterator[type]:
    """The dataclasses whose calls stand in the source."""
    yield type(config)
    for value in _changed(config).values():
        if dataclasses.is_dataclass(value):
            yield from _classes(value)


def _changed(config: Any) -> dict[str, Any]:
    """The fields that are not as by default."""
    found = {}
    for of in dataclasses.fields(config):
        default = of.default if of.default_factory is dataclasses.MISSING else of.default_factory()
        if (value := getattr(config, of.name)) != default:
            found[of.name] = value
    return found


def _call(config: Any, indent: int, before: str, *, whole: bool = False) -> str:
    """The call that makes a dataclass: in one line if it fits after `before`; the `whole` one never."""
    inner = " " * (indent + 4)
    name, changed = type(config).__name__, _changed(config)
    arguments = [f"{key}={_expression(value, 0, '')}" for key, value in changed.items()]
    line = f"{name}({', '.join(arguments)})"
    if not changed or ("\n" not in line and not whole and indent + len(before) + len(line) + 1 <= WIDTH):
        return line
    rows = [f"{inner}{key}={_expression(value, indent + 4, f'{key}=')},\n" for key, value in changed.items()]
    return f"{name}(\n{''.join(rows)}{' ' * indent})"


def _expression(value: Any, indent: int, before: str) -> str:
    if dataclasses.is_dataclass(value):
        return _call(value, indent, before)
    line = _literal(value)
    if isinstance(value, tuple) and indent + len(before) + len(line) + 1 > WIDTH:
        return "(\n" + "".join(f"{' ' * (indent + 4)}{_literal(v)},\n" for v in value) + " " * indent + ")"
    return line


def _literal(value: Any) -> str:
    """A value in Python, as ruff writes it."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    text = repr(value)
    return f'"{text[1:-1]}"' if isinstance(value, str) and '"' not in text else text
