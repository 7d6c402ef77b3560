"""The two variants of AHMF, the authors' program and the paper's equations, part by part. Imports no JAX.

They differ in ten parts, each of which can be had alone: `AHMF(variant="release", swapped=("order",))` is the release's
network with the one part as the paper has it.

=================  ====================================  =====================================================
part               `release`                             `paper`
=================  ====================================  =====================================================
`guidance_head`    a convolution at full resolution,     unshuffles first (Eq. 1), level 1's own convolution
                   then one after each unshuffle         after the last (Eq. 3)
`squeeze`          to half the channels                  to as many as there are (Eq. 12)
`statistics`       mean + variance                       mean + standard deviation (Eq. 13)
`excitation`       by sigmoid                            by PReLU (Eq. 14, 15)
`halving`          half the sum                          the sum (Eq. 16)
`residual`         one more block after the fusion       none
`order`            from the deepest level to the first   from the first to the deepest
`gru_layers`       two                                   one (Eq. 18-21)
`activation`       a PReLU around Res's sum              the sum (Eq. 17)
`reconstruction`   shuffles, then a convolution to one   a convolution to four channels, then the last shuffle
                   channel at full resolution            (Eq. 8)
=================  ====================================  =====================================================

Two of them change no function that a network can learn, only the numbers from which and the pace at which it does:
`halving`, whose factor the next weights can take up, and, with both directions of the recurrence or none, `order`,
which exchanges the directions' names and the order of the levels in the concatenation.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from ahmf_jax.errors import InputError

Variant = Literal["release", "paper"]
Part = Literal[
    "guidance_head",
    "squeeze",
    "statistics",
    "excitation",
    "halving",
    "residual",
    "order",
    "gru_layers",
    "activation",
    "reconstruction",
]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
PARTS: tuple[Part, ...] = get_args(Part)
# Layers of a ConvGRU.
GRU_LAYERS: dict[Variant, int] = {"release": 2, "paper": 1}
_FRB: tuple[Part, ...] = ("squeeze", "statistics", "excitation", "halving")


@dataclass(frozen=True)
class Forms:
    """Whose form each part of a network has: that of `variant`, or the other's where it is one of `swapped`.

    Raises:
      InputError: `swapped` has something that is no part, or has one twice. It is put into the order of `PARTS`.
    """

    variant: Variant = "release"
    swapped: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        """Checks and sorts the parts."""
        for part in self.swapped:
            if part not in PARTS:
                raise InputError(f"swapped has {part!r}, which is no part: choose among {', '.join(PARTS)}")
        swapped = sorted(self.swapped, key=PARTS.index)
        for part, following in itertools.pairwise(swapped):
            if part == following:
                raise InputError(f"swapped has {part!r} more than once: name it once")
        object.__setattr__(self, "swapped", tuple(swapped))

    def __call__(self, part: Part) -> Variant:
        """The variant whose form the part has."""
        return VARIANTS[VARIANTS.index(self.variant) ^ (part in self.swapped)]


def present(fusion: str, recurrence: str) -> tuple[Part, ...]:
    """The parts of a network with these blocks (fields of `AHMF`): some have no FRB, or no recurrence."""
    absent: list[Part] = []
    if fusion not in ("feb_frb", "frb"):
        absent += _FRB
    if recurrence == "none":
        absent.append("gru_layers")
    return tuple(part for part in PARTS if part not in absent)


def check_blocks(swapped: Collection[Part], fusion: str, recurrence: str) -> None:
    """Raises InputError where a part is swapped whose block the network does not have, so that nothing would change."""
    for part in swapped:
        if part not in present(fusion, recurrence):
            block, how = ("FRB", f"fusion {fusion}") if part in _FRB else ("ConvGRU", f"recurrence {recurrence}")
            raise InputError(f"swapped has {part!r}, and with {how} there is no {block}: leave one of the two out")
