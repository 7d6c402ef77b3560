"""Opening a data set by what a user calls it: a prepared set's name, or a folder of image pairs."""

from pathlib import Path

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import Dataset
from experiments.config import DataConfig, PairsConfig


def open_named(
    name: str, split: str, data_dir: Path | None = None, pairs: PairsConfig | None = None, prepare: bool = False
) -> Dataset:
    """A data set by name and split, or a folder of pairs.

    Args:
      name: a prepared data set's name, or a path with a separator in it or of an existing folder.
      split: of a prepared data set; for a folder, the sub-folder of that name where there is one.
      data_dir: where data sets are prepared; the default place if None.
      pairs: how a folder is read.
      prepare: build a generated data set that is not there yet.
    """
    data_dir = data_dir or datasets.default_data_dir()
    there = datasets.prepared_names(data_dir)
    if name in datasets.DATASETS or name in there:
        if prepare and name not in there and not datasets.builder_class(name).FROM_FILES:
            datasets.prepare(name, data_dir)
        return datasets.open_dataset(name, split, data_dir)
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"{name!r} is neither a data set ({', '.join(sorted({*datasets.DATASETS, *there}))}) nor a folder of image "
            "pairs: check the name"
        )
    inside = folder / split
    pairs = pairs or PairsConfig()
    return datasets.open_pairs(
        inside if split and inside.is_dir() else folder,
        depth=pairs.depth,
        guide=pairs.guide,
        names=pairs.names or None,
        unit=pairs.unit,
        range=pairs.range,
        invalid=pairs.invalid,
    )


def open_training(data: DataConfig, data_dir: Path | None = None) -> list[tuple[Dataset, float]]:
    """What a configuration trains on, each data set with its weight, decoded images kept where it says."""
    opened = [(open_named(p.name, p.split, data_dir, data.pairs, prepare=True), p.weight) for p in data.training()]
    return [(dataset.kept_on_disk() if data.cache == "disk" else dataset, weight) for dataset, weight in opened]
