"""The gates of DSCSAN's attentions as one picture: how much of each channel is let through, scale by scale.

    found = gates(model, aux["attention"])
    sheet = found.picture()                                          # (height, width, 3) uint8

A row is an attention, a column one of its scales, a strip's cells are channels: black is 0, white 1. A channel is
another in every strip, so that strips compare by their spread, and one strip between images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ahmf_jax.models.dscsan import CELLS
from experiments.pictures import WIDEST, error_colours, grid

HIGH = 28  # of a strip


@dataclass(frozen=True)
class Strip:
    """The gates of a scale.

    Attributes:
      attention: which, "stage 1, group 2".
      cell: side of the cells over which the map is averaged, in its pixels.
      values: (channels,), 0 to 1.
    """

    attention: str
    cell: int
    values: np.ndarray

    @property
    def name(self) -> str:
        """Attention and scale."""
        return f"{self.attention}, cells of {self.cell}"

    @property
    def text(self) -> str:
        """Mean and extremes."""
        return f"mean {self.values.mean():.2f}, {self.values.min():.2f} to {self.values.max():.2f}"

    def picture(self) -> np.ndarray:
        """Channels side by side, (height, width, 3) uint8."""
        by = -(-WIDEST // len(self.values))
        return error_colours(np.broadcast_to(self.values.repeat(by), (HIGH, by * len(self.values))), 1)


@dataclass(frozen=True)
class Gates:
    """Those of an image: of each attention in turn a strip for each scale, the finest first."""

    rows: tuple[tuple[Strip, ...], ...]

    @property
    def strips(self) -> list[Strip]:
        """All of them, row by row."""
        return [strip for row in self.rows for strip in row]

    def picture(self) -> np.ndarray:
        """All of it, (height, width, 3) uint8."""
        rows: list[list[tuple[str, np.ndarray]]] = []
        for row in self.rows:
            rows.append([(strip.name, strip.picture()) for strip in row])
            rows.append([(strip.text, np.full_like(strip.picture()[:1], 255)) for strip in row])
        return grid(rows)


def gates(model: Any, attention: Sequence[Any]) -> Gates | None:
    """The gates of a batch's first image; None of a model that has none.

    Args:
      model: which was run.
      attention: `aux["attention"]` of a DSCSAN: of each attention (B, scales, channels); () of another model.
    """
    if not attention:
        return None
    groups = [f"group {group + 1}" for group in range(model.groups)]
    if model.outputs > 1:
        groups = [f"stage {stage + 1}, {group}" for stage in range(model.outputs) for group in groups]
    return Gates(
        tuple(
            tuple(
                Strip(name, cell, np.asarray(values, np.float32))
                for cell, values in zip(CELLS, of_image[0], strict=True)
            )
            for name, of_image in zip(groups, attention, strict=True)
        )
    )
