"""Training from weights: of a run or a file, also of a network of another scale or another number of levels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from ahmf_jax.errors import InputError

# Parameters of several levels, stacked along their first axis, from the first level on.
STACKS = ("depth_levels", "guide_levels", "mmaf", "bhfc/refine")


@dataclass(frozen=True)
class Report:
    """What became of the parameters of a network that starts from another's.

    Attributes:
      arrays, values: how many arrays of the new network hold something taken, and how many numbers, each with how many
        there are.
      levels: of each stack of which not all levels were taken: how many of how many.
      random: what stays at its random values, with the reason.
      unused: what the other network has beyond this one.
    """

    arrays: tuple[int, int]
    values: tuple[int, int]
    levels: dict[str, tuple[int, int]]
    random: dict[str, str]
    unused: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """For the reader."""
        arrays, values = self.arrays, self.values
        if values[0] == values[1]:
            yield f"taken: all {arrays[1]} arrays"
        else:
            share = 100 * values[0] / values[1]
            yield f"taken: {arrays[0]} of {arrays[1]} arrays, {values[0]:,} of {values[1]:,} values ({share:.1f} %)"
        for name, (taken, there) in self.levels.items():
            yield f"taken in part: {name}, the first {taken} of {there} levels; the others are random"
        for name, reason in self.random.items():
            yield f"random: {name} ({reason})"
        if self.unused:
            yield f"not used: {', '.join(self.unused)}"


def start(source: str, params: Any, tell: Callable[[str], None]) -> Any:
    """The parameters to start from: `params`, where those of `source` do not fit.

    Args:
      source: a run's folder or a bundle's .safetensors file.
      params: of the new network, random.
      tell: is told in lines what was taken, and what was not and why.

    Raises:
      InputError: `source` cannot be read, holds what is no number, or nothing that fits.
    """
    from ahmf_jax.upsample import load_trained

    try:
        trained = load_trained(source)
        params, report = take(params, trained.params)
    except InputError as error:
        raise InputError(f"--start-from: {error}") from None
    model = trained.model
    tell(f"starting from {source}: {model.summary()}, scaling {trained.scaling}, {trained.range:g} {trained.unit} = 1")
    for line in report.lines():
        tell(line)
    return params


def take(params: Any, source: Any) -> tuple[Any, Report]:
    """Takes every parameter whose path and shape fit, and of stacked levels those that both networks have.

    A bias is taken with its kernel only: without it, it means nothing.

    Args:
      params: of the new network, random; stays as it is.
      source: of the other network.

    Returns:
      float32 NumPy arrays like `params`, and what was taken.

    Raises:
      InputError: a number that is none, or no kernel that fits.
    """
    here, there = (traverse_util.flatten_dict(tree, sep="/") for tree in (params, source))
    broken = [name for name, array in there.items() if not np.isfinite(array).all()]
    if broken:
        raise InputError(f"{broken[0]} holds what is no finite number: start from other weights")
    result = {name: np.array(array, np.float32) for name, array in here.items()}
    random: dict[str, str] = {}
    levels: dict[str, tuple[int, int]] = {}
    arrays = values = kernels = 0
    for name, array in result.items():
        module, _, leaf = name.rpartition("/")
        kernel = f"{module}/kernel" if leaf == "bias" and f"{module}/kernel" in here else name
        if reason := _misfit(here, there, kernel) or _misfit(here, there, name):
            random[module if name in there else _missing(name, there)] = reason
            continue
        stack = _stack(name)
        count = min(len(array), len(there[name])) if stack else 0
        if stack and count < len(array):
            levels[stack] = (count, len(array))
        part = array[:count] if stack else array
        part[...] = there[name][:count] if stack else there[name]
        arrays, values, kernels = arrays + 1, values + part.size, kernels + (leaf == "kernel")
    if not kernels:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(random.items())[:3])
        raise InputError(f"no kernel of these weights fits this network ({reasons}, ...): use the features they have")
    unused = {_missing(name, here) for name in there if name not in here}
    report = Report(
        (arrays, len(result)),
        (values, sum(array.size for array in result.values())),
        levels,
        random,
        tuple(sorted(unused)),
    )
    return traverse_util.unflatten_dict(result, sep="/"), report


def _stack(name: str) -> str | None:
    """The stack that a parameter is of."""
    return next((stack for stack in STACKS if name.startswith(f"{stack}/")), None)


def _misfit(here: dict[str, Any], there: dict[str, Any], name: str) -> str:
    """Why a parameter cannot be taken; "" where it can."""
    if name not in there:
        return "the weights have none"
    ours, theirs = np.shape(here[name]), np.shape(there[name])
    levels = 1 if _stack(name) else 0
    if ours[levels:] != theirs[levels:] or len(ours) != len(theirs):
        return f"its {name.rpartition('/')[2]} is {theirs} in the weights, {ours} here"
    return ""


def _missing(name: str, names: dict[str, Any]) -> str:
    """The outermost module of a parameter of which the other network has nothing."""
    parts = name.split("/")
    prefixes = ("/".join(parts[:n]) for n in range(1, len(parts)))
    return next((p for p in prefixes if not any(other.startswith(f"{p}/") for other in names)), name)
