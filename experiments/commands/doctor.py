"""`ahmf doctor`: this machine, or someone's depth map."""

from dataclasses import dataclass
from pathlib import Path

from ahmf_jax.errors import InputError


@dataclass(frozen=True)
class Doctor:
    """What is wrong: with this machine (devices, versions, caches, a self test), or with a depth map and its guide."""

    depth: Path | None = None
    """A depth map to look at, in place of this machine: unit, range, holes, alignment with the guide, the kernel by
    which it was shrunk."""
    guide: Path | None = None
    """With --depth: the colour image of the same view."""
    scale: int | None = None
    """With --depth: how many times smaller than the guide it should be, where the files do not tell."""
    invalid: float | None = None
    """With --depth: the value that means unknown, where you know it. May be nan."""
    truth: Path | None = None
    """With --depth: the same depth in high resolution, which tells the kernel for certain."""
    weights: Path | None = None
    """With --depth: the run or bundle that it is for, whose range, unit and kernel are held against it."""
    max_pixels: int = 2**26
    """Refuse images that claim more pixels than this."""

    def __call__(self) -> None:
        """Prints what is found; exit status 1 if the self test fails."""
        if self.depth is not None:
            from experiments.doctor_depth import examine_files, report

            found = examine_files(
                self.depth,
                self.guide,
                scale=self.scale,
                invalid=self.invalid,
                truth=self.truth,
                weights=self.weights,
                max_pixels=self.max_pixels,
            )
            print(report(self.depth, self.guide, found))
            return
        for option in ("guide", "scale", "invalid", "truth", "weights"):
            if getattr(self, option) is not None:
                raise InputError(f"--{option}: is looked at together with a depth map: add --depth FILE")
        from experiments.doctor import doctor

        if not doctor():
            raise SystemExit(1)
