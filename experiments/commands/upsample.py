"""`ahmf upsample`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Upsample:
    """Super-resolve a depth map of one's own with a colour image of the same view."""

    weights: tyro.conf.Positional[Path]
    """A run's folder or a .safetensors file."""
    depth: Path
    """Low-resolution depth: 8- or 16-bit PNG, NPY, PFM or DPT."""
    guide: Path
    """Colour image, the model's scale times as high and wide: PNG, JPEG, BMP, PPM, WebP or NPY."""
    out: Path
    """High-resolution depth, in the dtype and unit of the low: PNG, NPY or PFM."""
    picture: Path | None = None
    """Also write guide, bicubic and result side by side to this PNG."""
    invalid: float | None = None
    """Depth value that means unknown; it stays unknown in the result. May be nan."""
    range: float | None = None
    """Depth that the model takes for 1, if not its training data's (of no effect on models with scaling=sample)."""
    max_pixels: int = 2**24
    """Refuse images that claim more pixels than this; the whole image is held in memory, some 0.6 kB a pixel
    with 64 features."""

    def __call__(self) -> None:
        """Writes the files."""
        from experiments.upsample import upsample_file

        upsample_file(
            self.weights,
            self.depth,
            self.guide,
            self.out,
            picture=self.picture,
            invalid=self.invalid,
            depth_range=self.range,
            max_pixels=self.max_pixels,
        )
        print(self.out)
