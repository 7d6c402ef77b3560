"""What interpolation gives under a protocol on data that are prepared as they should be: a data file for each protocol.

source                              where the figures come from
protocol                            a name of `experiments.protocols`
dataset                             of what, in words
metrics, unit, scales               of the figures
columns                             what each is of: see `experiments.published.Column`; an average is over all images
order, values                       the figures, as in a published table; nan: not recorded
tolerance                           how far a measured figure may be off, by metric; left out where the figures were
                                    never reproduced: they are shown then, and prove nothing
other_sizes                         sizes that the same images are known to have elsewhere: `size`, and whose it `is`
notes                               what else one must know
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources

from ahmf_jax.metrics import METRICS
from experiments.published import Column, Place, columns_of, numbers_at, places_of


@dataclass(frozen=True)
class OtherSize:
    """(height, width) that the images have elsewhere, and where."""

    size: tuple[int, int]
    whose: str


@dataclass(frozen=True)
class Recorded:
    """The floors of one protocol; the attributes are those of its file, which the module's head explains."""

    name: str
    source: str
    protocol: str
    dataset: str
    metrics: tuple[str, ...]
    unit: str
    scales: tuple[int, ...]
    columns: tuple[Column, ...]
    values: Mapping[Place, Decimal]
    tolerance: Mapping[str, float]
    other_sizes: tuple[OtherSize, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """A wrong entry is a ValueError."""
        from experiments.protocols import PROTOCOLS

        if self.protocol not in PROTOCOLS:
            raise ValueError(f"{self.name}: protocol {self.protocol!r} is not known")
        if not set(self.metrics) <= METRICS.keys() or (self.is_proven and set(self.metrics) != self.tolerance.keys()):
            raise ValueError(f"{self.name}: each metric must be known, and have a tolerance where one has")
        if not all(column.images or column.average for column in self.columns):
            raise ValueError(f"{self.name}: a column does not say which its images are")

    @property
    def is_proven(self) -> bool:
        """Whether data that are prepared as they should be are known to give these figures."""
        return bool(self.tolerance)

    def value(self, column: str, scale: int, metric: str) -> float | None:
        """What is recorded; None where nothing is."""
        found = self.values.get((column, scale, metric))
        return None if found is None else float(found)


@functools.cache
def recorded() -> tuple[Recorded, ...]:
    """All that is recorded, by protocol. ValueError where a file is wrong."""
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    texts = {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files if file.name.endswith(".toml")}
    return tuple(parse(name, text) for name, text in texts.items())


def parse(name: str, text: str) -> Recorded:
    """The floors that a file's text holds. ValueError, with the file's name, where it is wrong."""
    fields = tomllib.loads(text, parse_float=Decimal)
    try:
        columns = columns_of(fields.pop("columns"))
        places = places_of(fields.pop("order"), columns, fields["scales"], fields["metrics"])
        values = numbers_at(places, fields.pop("values"))
        others = tuple(OtherSize(tuple(one["size"]), one["is"]) for one in fields.pop("other_sizes", ()))
        tolerance = {metric: float(most) for metric, most in fields.pop("tolerance", {}).items()}
        lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return Recorded(
            name=name, columns=columns, values=values, other_sizes=others, tolerance=tolerance, **{**fields, **lists}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}.toml: {error}") from error
