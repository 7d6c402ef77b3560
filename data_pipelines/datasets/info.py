"""What the numbers of a data set mean, and what it may be used for."""

from dataclasses import dataclass

from ahmf_jax.holes import Fill


@dataclass(frozen=True)
class DatasetInfo:
    """What the depth values of a data set mean.

    Attributes:
      name: the data set's name.
      unit: of the depth values, such as "grey level" or "m".
      range: the depth, in that unit, that 1.0 stands for in a batch.
      invalid: the stored value that means unknown, or None. NaN and infinity mean unknown everywhere.
      licence, citation: the terms of use, and whom to cite.
      fill: how holes are filled before resampling (`ahmf_jax.holes.fill_holes`).
      url: the page where it is to be had.
      colour: whether there are guides; without, they have zero channels.
    """

    name: str
    unit: str
    range: float
    invalid: float | None
    licence: str
    citation: str
    fill: Fill = "nearest"
    url: str = ""
    colour: bool = True
