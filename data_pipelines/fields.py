"""What the fields of a configuration's dataclasses may hold, said once: in the fields themselves.

    peak_at: float = field(default=0.1, metadata=rule(above=0, below=1, only={"schedule": ("onecycle",)}))

`check`, in `__post_init__`, refuses what is of another type or beyond the limits; the spaces that `ahmf study search`
draws from are checked against the same.
"""

import dataclasses
import functools
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ahmf_jax.errors import InputError

RULE = "rule"  # in a field's metadata
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", types.NoneType: "None"}
Values = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Rule:
    """What a field's numbers may be, and when it has a say.

    Attributes:
      least, most: the smallest and the largest number; None where there is no such limit.
      above, below: what it must be larger and smaller than.
      multiple: of what it must be a multiple.
      unit: of the number, and what else helps to choose it.
      only: other fields of the dataclass, and the values of theirs with which alone this field has a say.
      never: the same, and the values with which it has none.
      instead: given where a field without a say must be at its default: why, and what to do.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: int | None = None
    unit: str = ""
    only: Values = field(default_factory=dict)
    never: Values = field(default_factory=dict)
    instead: str = ""

    def allows(self, number: float) -> bool:
        """Whether a number is within the limits."""
        return (
            (isinstance(number, int) or math.isfinite(number))
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.multiple is None or number % self.multiple == 0)
        )

    def has_a_say(self, values: Mapping[str, Any]) -> bool:
        """Whether the field has one beside these values of the dataclass's fields."""
        return all(values[name] in allowed for name, allowed in self.only.items()) and not any(
            values[name] in excluded for name, excluded in self.never.items()
        )

    def demand(self, kind: str) -> str:
        """What a number of that kind must be."""
        unit = f", {self.unit}" if self.unit else ""
        if self.least is not None and self.most is not None:
            return f"it must be {kind} from {self.least} to {self.most}{unit}"
        limits = {
            "above": self.above,
            "at least": self.least,
            "below": self.below,
            "at most": self.most,
            "a multiple of": self.multiple,
        }
        said = " and ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None) or "finite"
        # What most of them are, as people say it.
        words = {"above 0": "be positive", "at least 0": "not be negative"}
        return f"it must {words.get(said) or f'be {said}'}{unit}"


def rule(**limits: Any) -> dict[str, Rule]:
    """The metadata of a field with these limits: the arguments are those of `Rule`."""
    return {RULE: Rule(**limits)}


@functools.cache
def hints(cls: Any) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    found = typing.get_type_hints(cls)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def rules(cls: Any) -> Mapping[str, Rule]:
    """The rules of a dataclass's fields, those that have one."""
    return {f.name: f.metadata[RULE] for f in dataclasses.fields(cls) if RULE in f.metadata}


@functools.cache
def choices(hint: Any) -> tuple[Any, ...]:
    """What a type names one by one: the values of its Literals, False and True of a bool, None."""
    found: list[Any] = []
    for part in parts(hint):
        if typing.get_origin(part) is Literal:
            found += typing.get_args(part)
        elif part is bool:
            found += [False, True]
        elif part is types.NoneType:
            found.append(None)
    return tuple(found)


def parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def check(config: Any) -> None:
    """Checks every field of a dataclass, and that those without a say are left alone where that is asked.

    Raises:
      InputError: a value is of another type, not among the choices, or beyond the limits.
    """
    cls: Any = type(config)
    for name in hints(cls):
        check_value(cls, name, getattr(config, name))
    values = vars(config)
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    for name, limits in rules(cls).items():
        if limits.instead and values[name] != defaults[name] and not limits.has_a_say(values):
            raise InputError(f"{cls.__name__}.{name} is {values[name]!r}, but {limits.instead}")


def check_value(cls: Any, name: str, value: Any) -> None:
    """Checks what may stand in a dataclass's field, whatever the others hold. InputError as in `check`."""
    hint, limits = hints(cls)[name], rules(cls).get(name)
    if isinstance(value, int) and float in parts(hint) and abs(value) > sys.float_info.max:
        raise InputError(f"{cls.__name__}.{name} is larger than any float: give at most {sys.float_info.max:.2g}")
    literals = [c for part in parts(hint) if typing.get_origin(part) is Literal for c in typing.get_args(part)]
    if any(value == choice and type(value) is type(choice) for choice in literals):
        return
    others = [part for part in parts(hint) if typing.get_origin(part) is not Literal]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if any(_holds(part, value) for part in others):
        if not (number and limits) or limits.allows(value):
            return
        demand = limits.demand(_KINDS[int if int in others and float not in others else float])
    elif literals:
        allowed = ", ".join(map(str, (*literals, *(f"any {part.__name__}" for part in others))))
        demand = f"choose one of {allowed}"
    else:
        kind = " or ".join(map(_kind, others))
        both = limits is not None and limits.least is not None and limits.most is not None
        demand = limits.demand(kind) if limits and both else f"it must be {kind}"
    raise InputError(f"{cls.__name__}.{name} is {value!r}: {demand}")


def _holds(part: Any, value: Any) -> bool:
    """Whether a value is of a type, which is no Literal; of a tuple of Literals the dataclass checks the members."""
    if typing.get_origin(part) is tuple:
        member = typing.get_args(part)[0]
        return isinstance(value, tuple) and (
            typing.get_origin(member) is Literal or all(_holds(member, v) for v in value)
        )
    if part in (int, float):
        return isinstance(value, int if part is int else int | float) and not isinstance(value, bool)
    return isinstance(value, part)


def _kind(part: Any) -> str:
    """A type in words."""
    if typing.get_origin(part) is tuple:
        member = typing.get_args(part)[0]
        names = typing.get_args(member) if typing.get_origin(member) is Literal else (_KINDS.get(member, member),)
        return f"a tuple of {', '.join(map(str, names))}"
    return _KINDS.get(part, f"a {getattr(part, '__name__', part)}")
