"""`ahmf data`: prepare, list and show data sets."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import tyro

Options = TypeVar("Options")


@dataclass(frozen=True)
class Prepare:
    """Build a data set from its download, or generate it: `ahmf data prepare NAME --help` lists its options."""

    name: tyro.conf.Positional[str]
    """The data set's name (`ahmf data list`)."""

    def __call__(self) -> None:
        """Never called: with a name it is a `PrepareSet`."""
        raise AssertionError


@dataclass(frozen=True)
class PrepareSet(Generic[Options]):
    """Build a data set from its download, or generate it."""

    options: Annotated[Options, tyro.conf.arg(name="")]
    dataset: tyro.conf.Suppress[str]
    source: Annotated[str | None, tyro.conf.arg(name="from", metavar="PATH")] = None  # a Path takes "" to be "."
    """The download: its folder, as it was unpacked or with the archives in it, or one archive. Without it, what may be
    fetched is fetched."""
    name: str | None = None
    """Name under which it is prepared (default: the data set's), so that one can be there with several options."""
    replace: bool = False
    """Put it in the place of a set of that name even where that had other options or more images."""
    data_dir: Path | None = None
    """Where to build it (default: $AHMF_DATA_DIR or the user's cache)."""

    def __call__(self) -> None:
        """Builds it."""
        from data_pipelines import datasets

        place = self.data_dir or datasets.default_data_dir()
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(cast(Any, self.options))}
        how: dict[str, Any] = {"save_as": self.name, "replace": self.replace}
        prepared = datasets.prepare(self.dataset, place, self.source, **how, **options)
        for note in prepared.notes:
            print(note, file=sys.stderr)
        counts = ", ".join(f"{n} {split}" for split, n in prepared.counts.items())
        print(f"{prepared.info.name}: {counts}; `ahmf data show {prepared.info.name}` shows them")


@dataclass(frozen=True)
class ListSets:
    """List the data sets: what they are, unit, range, and which are prepared."""

    data_dir: Path | None = None
    """Where data sets are prepared (default: $AHMF_DATA_DIR or the user's cache)."""

    def __call__(self) -> None:
        """Prints a line each."""
        from data_pipelines.datasets import default_data_dir
        from experiments.show import listed

        for line in listed(self.data_dir or default_data_dir()):
            print(line)


@dataclass(frozen=True)
class ShowSet:
    """Describe a data set: unit, range, licence, counts, holes; and draw a sheet of its images."""

    name: tyro.conf.Positional[str]
    """A data set's name (`ahmf data list`)."""
    split: str | None = None
    """Draw images of this split (default: of all)."""
    images: int = 12
    """How many, evenly spread over the split."""
    out: Path | None = None
    """The sheet, a PNG (default: NAME.png)."""
    data_dir: Path | None = None
    """Where data sets are prepared (default: $AHMF_DATA_DIR or the user's cache)."""

    def __call__(self) -> None:
        """Prints the description and writes the sheet."""
        from data_pipelines.datasets import default_data_dir
        from experiments.show import show

        out = self.out or Path(f"{self.name}.png")
        for line in show(self.name, self.data_dir or default_data_dir(), self.split, self.images, out):
            print(line)


@dataclass(frozen=True)
class Data:
    """Prepare, list and show data sets."""

    action: (
        Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[ListSets, tyro.conf.subcommand("list")]
        | Annotated[ShowSet, tyro.conf.subcommand("show")]
    )

    def __call__(self) -> None:
        """Does it."""
        self.action()
