"""The splits of the papers by name: lists in data files, each with its source, and the check that no test scene leaks.

`data_pipelines/datasets/<data set>/splits/<protocol>.toml`:

    source = "..."          # where the list comes from: paper and section, or repository, file and commit
    note = "..."            # optional: what one must know before comparing numbers
    scene = "regex"         # optional: group 1, searched in an example's name, names its scene; else each is its own
    count = 1449            # how many examples the whole set has; required where positions are used
    [splits]
    train = ["2006/*/Aloe/*", 17, "20..999"]

An entry that is a string is a name, or a glob over the names, case-sensitive, whose `*` crosses slashes too; a whole
number is a position in the sorted names, and "a..b" are the positions a to b, both included.

    split = protocols("nyu_v2")["dada"]
    indices = resolve(split, "train", dataset.names)
"""

import fnmatch
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ahmf_jax.errors import InputError
from data_pipelines.opening import some

_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class NamedSplits:
    """The splits of one protocol, as its file lists them. A wrong entry is a ValueError at construction.

    Attributes:
      protocol: its name, that of the file.
      source: where the lists come from.
      splits: the entries of each split, in the order of the list.
      note: what one must know before comparing numbers.
      scene: a regular expression whose group 1, searched in an example's name, names the scene; None where every
        example is a scene of its own.
      count: how many examples the whole set has, or None where no entry is a position.
    """

    protocol: str
    source: str
    splits: dict[str, list[str | int]]
    note: str = ""
    scene: str | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if not self.source or not self.splits:
            raise ValueError(f"protocol {self.protocol}: needs a source and at least one split")
        if self.scene is not None and re.compile(self.scene).groups < 1:
            raise ValueError(f"protocol {self.protocol}: scene {self.scene!r} has no group")
        for split, entries in self.splits.items():
            if not entries:
                raise ValueError(f"protocol {self.protocol}: split {split} is empty")
            for entry in entries:
                positions = _positions(entry)
                if positions is not None and not (
                    self.count and positions and 0 <= positions[0] <= positions[-1] < self.count
                ):
                    raise ValueError(
                        f"protocol {self.protocol}: split {split}: {entry!r} is no position below count = {self.count}"
                    )


def protocols(builder_name: str) -> dict[str, NamedSplits]:
    """The protocols of a data set, sorted by name; empty where no paper's split of it is recorded."""
    files = sorted((Path(__file__).parent / builder_name / "splits").glob("*.toml"))
    return {file.stem: NamedSplits(protocol=file.stem, **tomllib.loads(file.read_text("utf-8"))) for file in files}


def resolve(named: NamedSplits, split: str, names: Sequence[str]) -> list[int]:
    """The examples of a split, as indices into `names`, in the order of the list; a glob's in the order of the names.

    Whatever split is asked for, all of them are checked: a scene of a split called `test...` may be in no other kind
    of split, and a scene of `validation...` in none called `train...`. Upper and lower case name the same scene.

    Args:
      named: the protocol.
      split: one of its splits.
      names: the names of all examples that there are, in any order.

    Raises:
      InputError: the protocol has no such split; the set is not as large as it says; entries of the split match
        nothing (all are named); an example is in the split twice; a scene leaks.
    """
    if split not in named.splits:
        raise InputError(f"protocol {named.protocol!r} has no split {split!r}: it has {', '.join(named.splits)}")
    if named.count is not None and len(names) != named.count:
        raise InputError(
            f"protocol {named.protocol!r} is of a data set of {named.count} examples, and here are {len(names)}: "
            "prepare the whole data set"
        )
    order = sorted(range(len(names)), key=names.__getitem__)
    chosen = {part: [_matches(entry, names, order) for entry in named.splits[part]] for part in named.splits}

    missing = [str(entry) for entry, found in zip(named.splits[split], chosen[split], strict=True) if not found]
    if missing:
        there = sorted({_scene(named, name) or name for name in names}) or ["none"]
        raise InputError(
            f"protocol {named.protocol!r}, split {split!r}: no example is called {some(missing)}: prepare the data "
            f"set with these; it has {some(there, 40)}"
        )
    indices = [index for found in chosen[split] for index in found]
    twice = [names[index] for index, times in Counter(indices).items() if times > 1]
    if twice:
        raise InputError(
            f"protocol {named.protocol!r}, split {split!r}: lists {', '.join(twice)} more than once: correct the list"
        )
    _check_leaks(named, {part: _scenes(named, part, chosen[part], names) for part in chosen})
    return indices


def _positions(entry: str | int) -> range | None:
    """The positions that an entry stands for; None for a name or a glob."""
    if isinstance(entry, int):
        return range(entry, entry + 1)
    found = _RANGE.fullmatch(entry)
    return range(int(found[1]), int(found[2]) + 1) if found else None


def _matches(entry: str | int, names: Sequence[str], order: Sequence[int]) -> list[int]:
    """The indices into `names` that an entry stands for; `order` sorts the names."""
    positions = _positions(entry)
    if positions is not None:
        return [order[position] for position in positions]
    matches = re.compile(fnmatch.translate(str(entry))).match
    return [index for index in order if matches(names[index])]


def _scene(named: NamedSplits, name: str) -> str | None:
    """The scene of an example; None where the protocol's pattern does not fit its name."""
    if named.scene is None:
        return name
    found = re.search(named.scene, name)
    return found[1] if found else None


def _scenes(named: NamedSplits, split: str, chosen: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, str]:
    """The scenes of a split, in lower case, each with an example of it (or the entry that would find one).

    An entry that finds nothing names its scene all the same: a test scene that was not prepared may yet be in training,
    from another year's folder.
    """
    scenes = {}
    for entry, found in zip(named.splits[split], chosen, strict=True):
        for name in [names[index] for index in found] or [str(entry)]:
            scene = _scene(named, name)
            if scene is not None:
                scenes[scene.casefold()] = name
            elif found:
                raise InputError(
                    f"protocol {named.protocol!r}: {name}: names no scene as {named.scene!r} expects, and might be one "
                    "of the test: prepare the data set again"
                )
    return scenes


def _check_leaks(named: NamedSplits, scenes: dict[str, dict[str, str]]) -> None:
    for held_out in scenes:
        for other in scenes:
            if held_out.startswith("test"):
                leaks = not other.startswith("test")
            else:
                leaks = held_out.startswith("validation") and other.startswith("train")
            shared = scenes[held_out].keys() & scenes[other].keys() if leaks else ()
            if shared:
                found = some([scenes[other][scene] for scene in sorted(shared)])
                raise InputError(
                    f"protocol {named.protocol!r}: scenes of split {held_out!r} are in split {other!r} too: {found}: "
                    "take them out of the data set, or correct the list"
                )
