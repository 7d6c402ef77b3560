"""Opening a data set by what a user calls it: a prepared set's name, or a folder of image pairs."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.datasets import Dataset
from data_pipelines.datasets.folder import PairFiles, find_pairs
from experiments.config import DataConfig, PairsConfig


def refuse_pairs(pairs: PairsConfig, why: str, remedy: str) -> None:
    """InputError where something is said about how a folder of pairs is read, and there is none."""
    for field in dataclasses.fields(pairs):
        if getattr(pairs, field.name) != field.default:
            raise InputError(
                f"--pairs.{field.name}: {why}, and this is of a folder of pairs: leave it out, or {remedy}"
            )


def open_named(
    name: str, split: str, data_dir: Path | None = None, pairs: PairsConfig | None = None, training: bool = False
) -> Dataset:
    """A data set by name and split, or a folder of pairs.

    Args:
      name: a prepared data set's name, or a path with a separator in it or of an existing folder.
      split: of a prepared data set; of a folder, the folder of that name inside, `a+b` being two; "" is all of it.
      data_dir: where data sets are prepared; the default place if None.
      pairs: how a folder is read.
      training: build a generated data set that is not there yet; `pairs` may then be of other sets that are trained on.

    Raises:
      InputError: there is no such data set; or, but in training, `pairs` says how to read one that is prepared.
    """
    data_dir = data_dir or datasets.default_data_dir()
    folder = _folder(name, data_dir)
    if folder is None:
        if training and name not in datasets.prepared_names(data_dir) and not datasets.builder_class(name).FROM_FILES:
            datasets.prepare(name, data_dir)
        if pairs and not training and name in datasets.prepared_names(data_dir):
            refuse_pairs(
                pairs, f"{name} is a prepared data set", f"name the folder with a separator in it, as ./{name}"
            )
        return datasets.open_dataset(name, split, data_dir)
    parts = split.split("+") if split else []
    missing = [part for part in parts if not part or not (folder / part).is_dir()]
    if missing:
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")) or "none"
        remedy = (
            f"make folders train and validation in it, or `ahmf data prepare pairs --from {folder} --name mine`, then "
            "--data.dataset mine --data.train 'train[:90%]' --data.validation 'train[90%:]'"
            if training
            else "name one of its folders, or leave --split out"
        )
        raise InputError(f"{folder}: there is no folder {missing[0]!r} in it (its folders: {there}): {remedy}")
    pairs, options = pairs or PairsConfig(), "--data.pairs." if training else "--pairs."
    dataset = datasets.open_pairs(
        folder / parts[0] if parts else folder,
        depth=pairs.depth,
        guide=pairs.guide,
        names=pairs.names or None,
        unit=pairs.unit,
        range=pairs.range,
        invalid=pairs.invalid,
        options=options,
    )
    if len(parts) < 2:
        return dataset
    files = {
        f"{part}/{pair}": both
        for part in parts
        for pair, both in find_pairs(folder / part, pairs.depth, pairs.guide, pairs.names or None, options).items()
    }
    info = dataclasses.replace(dataset.info, name=folder.name)
    return Dataset(info, PairFiles(files, info, options))


def open_training(data: DataConfig, data_dir: Path | None = None) -> list[tuple[Dataset, float]]:
    """What a configuration trains on, each data set with its weight, decoded images kept where it says."""
    opened = [(open_named(p.name, p.split, data_dir, data.pairs, training=True), p.weight) for p in data.training()]
    return [(dataset.kept_on_disk() if data.cache == "disk" else dataset, weight) for dataset, weight in opened]


def open_validation(data: DataConfig, training: Sequence[Dataset], data_dir: Path | None = None) -> Dataset:
    """What a configuration validates on. InputError where that is empty, or an image of it is in `training`.

    Args:
      data: the configuration.
      training: what `open_training` opened for it.
      data_dir: where data sets are prepared.
    """
    dataset = open_named(data.dataset, data.validation, data_dir, data.pairs, training=True)
    if not dataset:
        raise InputError(
            f"data set {dataset.info.name} has no examples in split {data.validation!r}: validate on another"
        )
    trained = {
        image
        for part, opened in zip(data.training(), training, strict=True)
        for image in _images(part.name, part.split, opened, data_dir)
    }
    shared = [image for image in _images(data.dataset, data.validation, dataset, data_dir) if image in trained]
    if shared:
        raise InputError(
            f"{len(shared)} of the {len(dataset)} images to validate on are trained on too, the first is "
            f"{shared[0]}: choose a --data.train (or --data.mix) and a --data.validation that share none"
        )
    return dataset


def trained_on_tests(data: DataConfig) -> list[str]:
    """What a configuration trains on that is called a test, NAME:SPLIT each."""
    return [
        f"{part.name}:{part.split}"
        for part in data.training()
        if any(split.rpartition("/")[2].startswith("test") for split in part.split.split("+"))
    ]


def default_split(name: str, data_dir: Path | None = None) -> str:
    """What is measured on where no split is named: "test", or a prepared set's only split.

    Of a folder without a folder of that name in it "": all of it.
    """
    data_dir = data_dir or datasets.default_data_dir()
    folder = _folder(name, data_dir)
    if folder is None and name in datasets.prepared_names(data_dir):
        splits = [split for split, count in datasets.describe(name, data_dir).counts.items() if count]
        return splits[0] if len(splits) == 1 else "test"
    return "test" if folder is None or (folder / "test").is_dir() else ""


def published(name: str, split: str, dataset: Dataset, scale: int, data_dir: Path | None = None) -> Iterator[str]:
    """Lines on what one must know before numbers are compared with those of the paper that has published the split.

    Args:
      name, split, dataset: the data set, as `open_named` opened it; nothing is said of other splits.
      scale: sizes are cut to a multiple of it, as evaluation does.
      data_dir: where data sets are prepared.
    """
    from data_pipelines.datasets.splits import protocols

    data_dir = data_dir or datasets.default_data_dir()
    protocol, slash, _ = split.partition("/")
    if not slash or _folder(name, data_dir) is not None:
        return
    prepared = datasets.describe(name, data_dir)
    if note := protocols(prepared.builder)[protocol].note:
        yield f"note: {note}"
    records = {record["name"]: record for stored in prepared.splits.values() for record in stored}
    measured = [records[image] for image in dataset.names]
    sizes = Counter(tuple(record[side] // scale * scale for side in ("height", "width")) for record in measured)
    counts = ", ".join(f"{count} of {height} x {width}" for (height, width), count in sizes.most_common())
    pixels = [record["height"] * record["width"] for record in measured]
    known = np.average([record["known"] for record in measured], weights=pixels)
    yield f"images measured (height x width): {counts}; the depth of {known:.1%} of the pixels is known"


def _folder(name: str, data_dir: Path) -> Path | None:
    """The folder that is meant; None where it is a data set's name."""
    there = datasets.prepared_names(data_dir)
    if name in datasets.DATASETS or name in there:
        return None
    if Path(name).is_dir():
        return Path(name)
    raise InputError(
        f"{name!r} is neither a data set ({', '.join(sorted({*datasets.DATASETS, *there}))}) nor a folder of image "
        "pairs: check the name"
    )


def _images(name: str, split: str, dataset: Dataset, data_dir: Path | None) -> list[str]:
    """The images of an opened data set, so named that the same image has one name whatever split it is opened by."""
    folder = _folder(name, data_dir or datasets.default_data_dir())
    if folder is None:
        return [f"{name}: {image}" for image in dataset.names]
    inside = folder if "+" in split else folder / split
    return [str((inside / image).resolve()) for image in dataset.names]
