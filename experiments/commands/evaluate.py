"""`ahmf evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from ahmf_jax.errors import InputError
from experiments.config import PairsConfig, ProtocolName


@dataclass(frozen=True)
class Evaluate:
    """Measure a method on a data set by a named protocol, every image beside interpolation's error.

    The numbers, and the first images for `ahmf report`, are kept in a run's folder, or where --out says.
    """

    method: tyro.conf.Positional[str] = ""
    """A run's folder or a .safetensors file; bicubic (the protocol's floor, whichever kernel it is), nearest, bilinear
    or any kernel's name; a filter: guided_filter, joint_bilateral, joint_bilateral_upsampling, fast_global_smoother,
    fast_bilateral_solver; or dada_rgb, DADA without learning."""
    dataset: str = ""
    """A data set's name, or a folder of image pairs."""
    split: str | None = None
    """Split of a prepared data set: its own (test, train+validation) or a published one (dada/test); of a folder, the
    folder of that name inside. By default test, and all of a folder that has none of that name."""
    scale: int | None = None
    """Factor of an interpolation, a filter, dada_rgb, or predictions; a model has its own."""
    protocol: ProtocolName | None = None
    """How the numbers are made: as a paper's table (docs/evaluating.md says how each is; ahmf_table1 is the default for
    data of 0..255); float: nothing rounded or left out (the default for other data); or run: float, on the low
    resolution that the run was trained on (--data.degrade.*)."""
    predictions: Path | None = None
    """In place of a method: a folder with another program's results, a depth map for each image, named after it."""
    predictions_unit: str | None = None
    """Unit of these, such as "mm" or "0.2 mm"; that of the data set by default."""
    name: str = ""
    """What to call the method in tables."""
    metrics: tuple[str, ...] = ()
    """What is printed in place of what the protocol is about: mae, rmse, mse, psnr, pe, mape, edge_mae, flat_mae,
    delta1, normal_angle. All of them are recorded."""
    keep: int = 12
    """Images kept for the report, the first so many; -1: all."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    out: Path | None = None
    """Folder for the record; a run's own folder `evaluations` by default, and nowhere for other methods. An earlier
    record there is replaced."""
    data_dir: Path | None = None
    """Where data sets are prepared."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments.evaluate import evaluate

        evaluate(self)

    def __post_init__(self) -> None:
        """Checks what can be checked without reading anything."""
        from ahmf_jax.metrics import METRICS

        if not self.method and self.predictions is None:
            raise InputError("name what to evaluate: a run, weights, an interpolation or a filter; or --predictions")
        if self.method and self.predictions is not None:
            raise InputError(f"--predictions stands in place of a method: leave out either it or {self.method}")
        if not self.dataset:
            raise InputError("--dataset: name a prepared data set, or a folder of image pairs")
        if self.predictions is not None and self.scale is None:
            raise InputError("--predictions: say with --scale from how many times smaller a depth they were made")
        if self.predictions is None and self.predictions_unit is not None:
            raise InputError("--predictions-unit: goes with --predictions")
        if self.predictions is not None and self.protocol == "run":
            raise InputError("--protocol run: predictions have no record of what they were trained on: choose another")
        for metric in self.metrics:
            if metric not in METRICS:
                raise InputError(f"--metrics {metric}: choose of {', '.join(METRICS)}")
