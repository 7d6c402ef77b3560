"""What `ahmf study search` draws from: fields of the configuration, and what each may become.

A space is a Python file that assigns one `Space` to `space`; those in `experiments/spaces` are known by name. Which
types and ranges fields have, and beside which values of other fields they have a say, is known from the configuration's
dataclasses (`data_pipelines.fields`). Everything is checked as the space is made.
"""

import dataclasses
import difflib
import functools
import json
import math
import random
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from ahmf_jax.errors import InputError
from data_pipelines.fields import Rule, check_value, choices, hints, parts, rules
from experiments import config as configs
from experiments.config import TrainConfig
from experiments.studies.study import OBJECTIVES, Objective, with_fields

SPACES = Path(__file__).parents[1] / "spaces"
TRIES = 300  # draws by which a space is tried out
HELP = ": see `ahmf train CONFIG --help` for their names"
_SCALARS = (str, int, float, bool, types.NoneType)  # what Optuna can choose among


class Draws(Protocol):
    """What draws: Optuna's trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number, both ends included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number, both ends included."""

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        """One of these."""


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    """Evenly over the logarithm, for what is a matter of factors: learning rates, weights."""
    step: float | None = None
    """Only `low`, `low + step`, ...; the last is `high`."""

    def __str__(self) -> str:
        """As it was written."""
        return f"Between({self.low}, {self.high}{', log=True' * self.log}{f', step={self.step}' if self.step else ''})"

    def check(self, check: Callable[[Any], None], hint: Any) -> None:
        """Whether a field of that type, whose values `check` knows, may be drawn so; InputError otherwise."""
        numbers = [part for part in parts(hint) if part in (int, float)]
        if not numbers:
            raise InputError("is for numbers: write Choose(...) or All()")
        given = (self.low, self.high) if self.step is None else (self.low, self.high, self.step)
        for number in given:
            right = isinstance(number, int if numbers == [int] else int | float) and not isinstance(number, bool)
            if not right or not math.isfinite(number):
                raise InputError(f"has {number!r}, which is no {'whole ' * (numbers == [int])}number")
        if self.low == self.high:
            raise InputError("is empty but for one value: what is fixed stands in the configuration")
        if self.low > self.high:
            raise InputError("is reversed: write the smaller number first")
        if self.log and self.low <= 0:
            raise InputError("starts at or below 0, where there is no logarithm: start above, or leave log=True out")
        if self.log and self.step is not None:
            raise InputError("has log=True and a step: give one of them")
        if self.step is not None:
            steps = (self.high - self.low) / self.step if self.step > 0 else 0.0
            if round(steps) < 1 or not math.isclose(steps, round(steps), rel_tol=1e-9):
                raise InputError(f"cannot be gone through in steps of {self.step}: the last must end at {self.high}")
        check(self.low)
        check(self.high)
        if numbers == [int]:
            check(self.low + (self.step or 1))

    def draw(self, name: str, draws: Draws, hint: Any) -> float:
        """A value."""
        if float in parts(hint):
            return draws.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return draws.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)

    def to_json(self) -> dict[str, Any]:
        """Itself in JSON values."""
        return {"between": [self.low, self.high], "log": self.log, "step": self.step}


@dataclass(frozen=True, init=False)
class Choose:
    """One of some values, which may be tuples too."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        """As it was written."""
        return f"Choose({', '.join(map(repr, self.values))})"

    def check(self, check: Callable[[Any], None], hint: Any) -> None:
        """As for `Between`."""
        for value in self.values:
            check(value)
        for number, value in enumerate(self.values):
            if value in self.values[:number]:
                raise InputError(f"has {value!r} more than once: name it once")
        if len(self.values) < 2:
            raise InputError("leaves nothing to choose: give two values; what is fixed stands in the configuration")

    def draw(self, name: str, draws: Draws, hint: Any) -> Any:
        """A value."""
        texts = tuple(value if isinstance(value, _SCALARS) else json.dumps(value) for value in self.values)
        return self.values[texts.index(draws.suggest_categorical(name, texts))]

    def to_json(self) -> dict[str, Any]:
        """Itself in JSON values."""
        return {"choose": json.loads(json.dumps(self.values))}


@dataclass(frozen=True)
class All:
    """One of all the values that a field's type names: the words of a choice, or True and False."""


@dataclass(frozen=True)
class Pruning:
    """Giving up trials whose validation error is above the median of the finished ones' at the same step."""

    trials: int = 5
    """So many are finished before any is given up."""
    steps: int = 0
    """So many steps every trial may take."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched, and how.

    All trials have the configuration's seed, so that they differ in what is searched alone. Where `seed` is searched
    too, its importance says how much of the differences is luck.
    """

    config: TrainConfig | str
    """What all trials have in common: a configuration, its name, or its file."""
    fields: Mapping[str, Between | Choose | All]
    """What is drawn, by the fields' names, as `optimiser.learning_rate`. A field that has no say beside what was drawn,
    as `optimiser.peak_at` without `onecycle`, is not."""
    when: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    """More conditions: a field of these is drawn only where others have one of these values."""
    objectives: tuple[Objective, ...] = ("mae",)
    """What is to be small: `mae`, `rmse` of the trained network; `time` (ms), `memory` (MiB) of its inference. Several
    have a front of trials that none beats in all of them."""
    trials: int = 50
    """How many."""
    random: int = 10
    """Of them so many, the first, are drawn at random, for the rest to learn from."""
    pruning: Pruning | Literal["default"] | None = "default"
    """How bad trials are given up: by default as `Pruning()` says where `mae` is the one objective, else never."""
    tried_out: InitVar[bool] = False
    """Whether its draws have been looked at before, as those of a space that a study keeps."""
    _order: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self, tried_out: bool) -> None:
        """Checks everything, by drawing too."""
        if isinstance(self.config, str):
            object.__setattr__(self, "config", configs.load(self.config))
        if not isinstance(self.config, TrainConfig):
            raise InputError(f"config is {self.config!r}: give a TrainConfig, the name of one, or its file")
        if not isinstance(self.fields, Mapping):
            example = '{"optimiser.learning_rate": Between(1e-4, 1e-1, log=True)}'
            raise InputError(f"fields is {self.fields!r}: write a dictionary, as {example}")
        if not isinstance(self.when, Mapping):
            example = '{"optimiser.warmup": {"optimiser.schedule": ("cosine",)}}'
            raise InputError(f"when is {self.when!r}: write a dictionary, as {example}")
        if not self.fields:
            raise InputError("fields is empty: name what is to be searched, as optimiser.learning_rate")
        for name in ("trials", "random"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}: give a whole number from 1")
        object.__setattr__(self, "fields", {name: self._dimension(name, of) for name, of in self.fields.items()})
        self._check_conditions()
        object.__setattr__(self, "_order", self._ordered())
        self._check_objectives()
        if not tried_out:
            self._try_out()

    @property
    def base(self) -> TrainConfig:
        """The configuration."""
        assert isinstance(self.config, TrainConfig)
        return self.config

    def draw(self, draws: Draws) -> dict[str, Any]:
        """The fields of a trial: in an order in which conditions come before what depends on them."""
        drawn: dict[str, Any] = {}
        for name in self._order:
            cls, last = _place(self.base, name)
            dimension = self.fields[name]
            assert not isinstance(dimension, All)
            if self._has_a_say(name, drawn):
                drawn[name] = dimension.draw(name, draws, hints(cls)[last])
            elif last in rules(cls) and rules(cls)[last].instead:  # it must be left alone, also where the base has one
                default = next(f.default for f in dataclasses.fields(cls) if f.name == last)
                if _value(self.base, name) != default:
                    drawn[name] = default
        return drawn

    def to_json(self) -> dict[str, Any]:
        """What of it is not in the study's `Spec`, as JSON values."""
        pruning = self.pruning
        return {
            "fields": {name: of.to_json() for name, of in self.fields.items() if not isinstance(of, All)},
            "when": json.loads(json.dumps({name: dict(others) for name, others in self.when.items()})),
            "random": self.random,
            "pruning": dataclasses.asdict(pruning) if isinstance(pruning, Pruning) else None,
        }

    def _dimension(self, name: str, of: Any) -> Between | Choose:
        """What stands for a field, checked; `All` written out."""
        cls, last = _place(self.base, name)
        hint = hints(cls)[last]

        def check(value: Any) -> None:
            check_value(cls, last, value)

        try:
            if isinstance(of, All):
                if len(choices(hint)) < 2 or any(part in (int, float, str) for part in parts(hint)):
                    raise InputError("is for fields whose values are few: write Choose(...) or Between(...)")
                return Choose(*choices(hint))
            if not isinstance(of, Between | Choose):
                raise InputError("is no way to draw: write Between(...), Choose(...) or All()")
            of.check(check, hint)
        except InputError as problem:
            said = of if isinstance(of, Between | Choose) else repr(of)
            raise InputError(f"{name}: {said} {_after_name(str(problem), cls, last)}") from None
        return of

    def _conditions(self, name: str) -> "list[_Condition]":
        """What decides whether a field has a say: the class's rule, and `when`."""
        cls, last = _place(self.base, name)
        limits, prefix = rules(cls).get(last, Rule()), name.removesuffix(last)
        return [
            *(_Condition(prefix + other, values, True) for other, values in limits.only.items()),
            *(_Condition(prefix + other, values, False) for other, values in limits.never.items()),
            *(_Condition(other, values, True) for other, values in self.when.get(name, {}).items()),
        ]

    def _has_a_say(self, name: str, drawn: Mapping[str, Any]) -> bool:
        """Whether a field has one beside what was drawn so far, the rest being the base's."""
        return all(
            (drawn.get(other, _value(self.base, other)) in values) == holds
            for other, values, holds in self._conditions(name)
        )

    def _check_conditions(self) -> None:
        for name, others in self.when.items():
            if name not in self.fields:
                raise InputError(
                    f"when names {name}, which is not among the fields{_near(name, self.fields) or ': add it'}"
                )
            if not isinstance(others, Mapping) or not others:
                raise InputError(f"when {name}: {others!r} is no condition: write a field's name and a tuple of values")
            for other, values in others.items():
                cls, last = _place(self.base, other)
                if not isinstance(values, tuple) or not values:
                    raise InputError(f"when {name}: {other} is given {values!r}: give a tuple of values, as ('a', 'b')")
                for value in values:
                    try:
                        check_value(cls, last, value)
                    except InputError as problem:
                        raise InputError(f"when {name}: {other}: {_after_name(str(problem), cls, last)}") from None
                    known = self.fields.get(other)
                    if isinstance(known, Choose) and value not in known.values:
                        raise InputError(f"when {name}: {other} is never {value!r}: {known} has no such value")
                if isinstance(self.fields.get(other), Between) and float in parts(hints(cls)[last]):
                    raise InputError(f"when {name}: {other} is any number of a range, hardly ever one of some: choose")

    def _ordered(self) -> tuple[str, ...]:
        """The fields, each after those that decide whether it has a say."""
        waiting = {
            name: {condition.other for condition in self._conditions(name)} & self.fields.keys() for name in self.fields
        }
        order: list[str] = []
        while waiting:
            ready = next((name for name, needed in waiting.items() if not needed & waiting.keys()), None)
            if ready is None:
                raise InputError(f"when: {' and '.join(sorted(waiting))} wait for each other: leave a condition out")
            order.append(ready)
            del waiting[ready]
        return tuple(order)

    def _check_objectives(self) -> None:
        if isinstance(self.objectives, str) or not self.objectives:
            raise InputError(f"objectives is {self.objectives!r}: give a tuple, as ('mae',) or ('mae', 'time')")
        for number, objective in enumerate(self.objectives):
            if objective not in OBJECTIVES:
                raise InputError(f"objectives has {objective!r}: choose among {', '.join(OBJECTIVES)}")
            if objective in self.objectives[:number]:
                raise InputError(f"objectives has {objective!r} more than once: name it once")
        pruning, base = self.pruning, self.base
        suits = tuple(self.objectives) == ("mae",) and base.validate_every < base.steps
        if pruning == "default":
            object.__setattr__(self, "pruning", Pruning() if suits else None)
            return
        if pruning is None:
            return
        if not isinstance(pruning, Pruning):
            raise InputError(f"pruning is {pruning!r}: give Pruning(trials=5, steps=0), or None")
        for name, least in (("trials", 1), ("steps", 0)):
            if not isinstance(getattr(pruning, name), int) or getattr(pruning, name) < least:
                raise InputError(f"pruning has {name}={getattr(pruning, name)!r}: give a whole number from {least}")
        if tuple(self.objectives) != ("mae",):
            raise InputError(
                f"pruning compares the MAE of validations, and the objectives are {', '.join(self.objectives)}: leave "
                "pruning out, or make mae the only one"
            )
        if base.validate_every >= base.steps:
            raise InputError(
                f"pruning compares validations, and the only one is after the last step: set validate_every below "
                f"steps, {base.steps}"
            )
        if pruning.steps >= base.steps:
            raise InputError(f"pruning has steps={pruning.steps}: give less than the configuration's {base.steps}")

    def _try_out(self) -> None:
        """Draws at random, the ends of ranges often, and checks that what is drawn can be trained."""
        built = _Built(self.fields)
        drawn_at_all: set[str] = set()
        used: set[tuple[str, str]] = set()  # names and values of choices that are in some configuration
        unusable: dict[tuple[str, str], str] = {}  # ... that were refused, and why
        for chance in (_Chance(ends=True), _Chance(ends=False)):  # the second has the shares of the search itself
            refused: Counter[str] = Counter()
            for _ in range(TRIES):
                drawn = self.draw(chance)
                drawn_at_all |= drawn.keys()
                chosen = {(name, repr(value)) for name, value in drawn.items() if isinstance(self.fields[name], Choose)}
                try:
                    built.check(with_fields(self.base, drawn))
                    used |= chosen
                except InputError as problem:
                    refused[str(problem)] += 1
                    unusable |= dict.fromkeys(chosen, str(problem))
        for name in self._order:
            if name not in drawn_at_all:
                raise InputError(f"{name} never has a say: it has where {self._why(name)}")
        most = max(refused, key=refused.__getitem__, default="")
        if refused.total() == TRIES:
            raise InputError(f"no draw is a configuration: {most}")
        for (name, text), reason in unusable.items():
            if (name, text) not in used:
                raise InputError(f"{name} can never be {text}: {reason}")
        if refused.total() > TRIES / 2:
            raise InputError(
                f"{refused.total() / TRIES:.0%} of the draws are no configuration, most often for this: {most}; narrow "
                "the ranges, give steps, or say with `when` what goes with what"
            )

    def _why(self, name: str) -> str:
        """With what a field has a say, and why that never is."""
        return " and ".join(
            f"{condition}, and here it is {self.fields.get(condition.other, repr(_value(self.base, condition.other)))}"
            for condition in self._conditions(name)
        )


class _Condition(NamedTuple):
    """That another field is, or is not, at one of some values."""

    other: str
    values: tuple[Any, ...]
    holds: bool

    def __str__(self) -> str:
        """In words."""
        return f"{self.other} is {'not ' * (not self.holds)}{' or '.join(map(str, self.values))}"


class _Chance:
    """Draws at random, and on demand mostly the ends, where things go wrong."""

    def __init__(self, *, ends: bool) -> None:
        self._random, self._ends = random.Random(0), ends

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""
        return self._or_end(low, high, self._random.randrange(low, high + 1, step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""
        count = round((high - low) / step) if step else 1
        place = self._random.random() if step is None else self._random.randint(0, count) / count
        inner = low * (high / low) ** place if log else low + (high - low) * place
        return self._or_end(low, high, min(max(inner, low), high))

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        """One of these."""
        return self._random.choice(choices)

    def _or_end(self, low: Any, high: Any, inner: Any) -> Any:
        return self._random.choice((low, high, inner)) if self._ends else inner


class _Built:
    """Checks what only the network and the optimiser know, where their fields are searched; each case once."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._optimiser = not fields.keys().isdisjoint(f"optimiser.{n}" for n in ("name", "options", "weight_decay"))
        self._model = any(name.startswith("model.") for name in fields)
        self._found: dict[Any, str] = {}

    def check(self, config: TrainConfig) -> None:
        """InputError where a configuration cannot be built."""
        optimiser, model = config.optimiser, config.model
        if self._optimiser:
            key = (optimiser.name, optimiser.options, optimiser.weight_decay > 0)
            self._once(key, lambda: optimiser.build(config.steps))
        if self._model:
            self._once(model, model.build)

    def _once(self, key: Any, build: Callable[[], Any]) -> None:
        if key not in self._found:
            self._found[key] = ""
            try:
                build()
            except InputError as problem:
                self._found[key] = str(problem)
        if self._found[key]:
            raise InputError(self._found[key])


def names() -> list[str]:
    """The spaces known by name."""
    return sorted(path.stem for path in SPACES.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Space:
    """The space of that name, or of that Python file (which is run: use only files that you trust)."""
    path = Path(name) if name.endswith(".py") else SPACES / f"{name}.py"
    if not path.is_file():
        raise InputError(f"there is no space {name!r}: give a Python file or one of {', '.join(names())}")
    found = configs.run_file(path).get("space")
    if not isinstance(found, Space):
        raise InputError(f"{path} does not assign a Space to `space`")
    return found


@functools.lru_cache(maxsize=8)
def _stored(config: str, objectives: tuple[Objective, ...], text: str) -> Space:
    values = json.loads(text)
    try:
        base = configs.from_json(json.loads(config))
        found: dict[str, Between | Choose | All] = {}
        for name, of in values["fields"].items():
            cls, last = _place(base, name)
            if "choose" in of:
                tuples = any(typing.get_origin(part) is tuple for part in parts(hints(cls)[last]))
                found[name] = Choose(*(tuple(v) if tuples and isinstance(v, list) else v for v in of["choose"]))
            else:
                found[name] = Between(*of["between"], log=of["log"], step=of["step"])
        return Space(
            config=base,
            fields=found,
            when={name: {o: tuple(v) for o, v in others.items()} for name, others in values["when"].items()},
            objectives=objectives,
            random=values["random"],
            pruning=values["pruning"] and Pruning(**values["pruning"]),
            tried_out=True,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the stored space is not this program's ({error!r}): use the program that made it") from None


def from_json(config: TrainConfig, objectives: tuple[Any, ...], values: Mapping[str, Any]) -> Space:
    """The space that `Space.to_json` was called on, but for its number of trials."""
    return _stored(json.dumps(configs.to_json(config)), tuple(objectives), json.dumps(values))


@functools.cache
def _fields(model: str) -> dict[str, tuple[Any, str]]:
    """Every field of a configuration with that model, by its dotted name: its dataclass, and its name there."""

    def walk(cls: Any, prefix: str) -> Iterator[tuple[str, tuple[Any, str]]]:
        for name, hint in hints(cls).items():
            hint = configs.MODELS[model] if hint == configs.AnyModel else hint
            if dataclasses.is_dataclass(hint):
                yield from walk(hint, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", (cls, name)

    return dict(walk(TrainConfig, ""))


def _place(config: TrainConfig, name: str) -> tuple[Any, str]:
    """The dataclass of a field, and the field's name there."""
    fields = _fields(config.model.name)
    if name not in fields:
        raise InputError(f"{name} is no field of a configuration{_near(name, fields) or HELP}")
    return fields[name]


def _near(name: str, known: Mapping[str, Any]) -> str:
    """What was meant, perhaps; "" where nothing is near."""
    by_last = {other.rpartition(".")[2]: other for other in known}
    near = difflib.get_close_matches(name, known, 1, 0.8)
    near = near or [by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, 1, 0.6)]
    inside = [other for other in known if other.startswith(f"{name}.")][:3]
    if inside:
        return f": name one inside it, as {', '.join(inside)}"
    return f": did you mean {near[0]}?" if near else ""


def _value(config: TrainConfig, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)


def _after_name(problem: str, cls: Any, name: str) -> str:
    """What was said of a value, without the name of its field, which stands before it already."""
    return problem.replace(f"{cls.__name__}.{name} is", "has", 1)
