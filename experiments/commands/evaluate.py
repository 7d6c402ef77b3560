"""`ahmf evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from ahmf_jax.errors import InputError
from experiments.config import PairsConfig


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on a data set: MAE, RMSE, PSNR and PE of every image, beside interpolation's."""

    weights: tyro.conf.Positional[Path]
    """A run's folder or a .safetensors file; or an interpolation: bicubic (the protocol's), or any kernel's name."""
    dataset: str
    """A data set's name, or a folder of image pairs."""
    split: str | None = None
    """Split of a prepared data set: its own (test, train+validation) or a published one (dada/test); of a folder, the
    folder of that name inside. By default test, and all of a folder that has none of that name."""
    scale: int | None = None
    """Factor of an interpolation; a model has its own."""
    protocol: Literal["ahmf_middlebury", "b6", "float", "run"] | None = None
    """How the numbers are made: rounded to uint8 without a border as AHMF's test program does it (the default for data
    of 0..255); float with a border of 6 as later papers do it; float (the default for other data); or run: float, on
    the low resolution that the run was trained on (--data.degrade.*)."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    out: Path | None = None
    """Also write the numbers to this JSON file."""
    data_dir: Path | None = None
    """Where data sets are prepared."""

    def __call__(self) -> None:
        """Prints the table."""
        from experiments import evaluate
        from experiments.data import default_split, open_named, published
        from experiments.upsample import check_place

        if self.out is not None:
            check_place(self.out)
        split = default_split(self.dataset, self.data_dir) if self.split is None else self.split
        dataset = open_named(self.dataset, split, self.data_dir, self.pairs)
        name, protocol = evaluate.choose_protocol(self.protocol, dataset.info.range, self.weights)
        notes = []
        upsampler: Any = evaluate.interpolation(str(self.weights), self.scale, protocol)
        origin = "interpolation" if upsampler else ""
        if upsampler is None:
            from ahmf_jax import scaling, upsample

            upsampler = upsample.load(self.weights)
            origin = upsampler.trained.origin
            if self.scale not in (None, upsampler.scale):
                raise InputError(f"--scale {self.scale}: {self.weights} is a model of x{upsampler.scale}: leave it out")
            if scaling.is_leak(upsampler.trained.scaling):
                origin += ", told the smallest and largest TRUE depth of each image: a leak"
            trained_on = evaluate.trained_on(self.weights)
            if trained_on not in (None, protocol.degrade):
                notes.append(f"note: trained on {trained_on}, measured on {protocol.degrade}; see --protocol run")
        rows = evaluate.evaluate(upsampler, dataset, protocol)
        notes += published(self.dataset, split, dataset, upsampler.scale, self.data_dir)
        print(f"{self.weights} ({origin}), x{upsampler.scale}, on {dataset.info.name}, {split or 'all of it'}")
        print(f"protocol {name}: {protocol}")
        for note in notes:
            print(note)
        print(evaluate.table(rows, dataset.info.unit))
        if self.out is not None:
            evaluate.write_json(
                self.out,
                rows,
                protocol,
                weights=str(self.weights),
                origin=origin,
                scale=upsampler.scale,
                dataset=dataset.info.name,
                split=split or None,
                unit=dataset.info.unit,
            )
