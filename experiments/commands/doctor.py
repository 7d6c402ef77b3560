"""`ahmf doctor`: this machine, someone's depth map, or the data sets."""

from dataclasses import dataclass, field
from pathlib import Path

from ahmf_jax.errors import InputError
from experiments.config import PairsConfig


@dataclass(frozen=True)
class Doctor:
    """What is wrong: with this machine (devices, versions, caches, a self test), with a depth map and its guide
    (--depth), or with data sets (--floors)."""

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
    floors: bool = False
    """Look at data sets: whether interpolation gives the figures that are recorded for them under each protocol, and if
    not, what is wrong in how they were prepared."""
    dataset: tuple[str, ...] = ()
    """With --floors: data sets' names, or folders of image pairs; by default all that are prepared."""
    data_dir: Path | None = None
    """With --floors: where data sets are prepared."""
    pairs: PairsConfig = field(default_factory=PairsConfig)

    def __call__(self) -> None:
        """Prints what is found; exit status 1 if the self test fails, or a floor is off."""
        if self.floors:
            self._floors()
            return
        for option in ("dataset", "data_dir"):
            if getattr(self, option):
                name = option.replace("_", "-")
                raise InputError(f"--{name}: is looked at together with --floors: add --floors")
        from experiments.data import refuse_pairs

        refuse_pairs(self.pairs, "no --floors is given", "add --floors and name the folder with --dataset")
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

    def _floors(self) -> None:
        for option in ("depth", "guide", "scale", "invalid", "truth", "weights"):
            if getattr(self, option) is not None:
                raise InputError(
                    f"--{option}: is of one depth map, and --floors looks at data sets: leave one of them out"
                )
        from experiments.doctor_floors import doctor_floors

        if not doctor_floors(self.dataset, self.data_dir, self.pairs):
            raise SystemExit(1)
