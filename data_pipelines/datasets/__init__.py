"""Data sets by name: preparing them once with TFDS, opening what was prepared, and opening plain folders of pairs.

    prepare("middlebury", data_dir, source_dir="downloads/middlebury")
    dataset = open_dataset("middlebury", "train", data_dir)
    guide, depth, mask, name = dataset[0]

TFDS is imported only when one of its data sets is asked for: this module itself is quick to import.
"""

import contextlib
import functools
import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.holes import Fill
from data_pipelines.datasets.base import CACHE_BYTES, Dataset, DatasetInfo, Example

if TYPE_CHECKING:
    from data_pipelines.datasets.builder import DepthBuilder

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "Example",
    "builder_class",
    "default_data_dir",
    "open_dataset",
    "open_pairs",
    "prepare",
]

# Name -> "module:class" of the TFDS builder, resolved by `builder_class`.
DATASETS = {
    "scenes": "data_pipelines.datasets.scenes.builder:Scenes",
    "middlebury": "data_pipelines.datasets.middlebury.builder:Middlebury",
}


def builder_class(name: str) -> type["DepthBuilder"]:
    """The TFDS builder of a data set; its `INFO` says what the numbers mean. InputError for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is not known: choose one of {', '.join(DATASETS)}")
    module, cls = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), cls)


def default_data_dir() -> Path:
    """Where data sets are prepared unless told otherwise: $AHMF_DATA_DIR, or ~/.cache/ahmf_jax/datasets."""
    return Path(os.environ.get("AHMF_DATA_DIR") or Path.home() / ".cache" / "ahmf_jax" / "datasets")


def prepare(
    name: str, data_dir: str | os.PathLike[str], source_dir: str | os.PathLike[str] | None = None, **options: Any
) -> dict[str, int]:
    """Builds a data set afresh, in place of one of that name that is already there.

    It is built aside and renamed when whole, so that nothing half-prepared is ever found, however it ends.

    Args:
      name: a key of `DATASETS`.
      data_dir: where the prepared set goes, into a folder of its name.
      source_dir: the downloaded files; for generated sets None.
      **options: the builder's own (its class's `OPTIONS`), such as height=128 for `scenes`.

    Returns:
      The number of examples of each split.

    Raises:
      InputError: an unknown name or option; files that are missing, damaged or in the wrong place.
    """
    cls = builder_class(name)
    import tensorflow_datasets as tfds

    data_dir = Path(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=data_dir))
    except OSError as error:
        raise InputError(f"{data_dir}: cannot be written ({error.strerror}): choose another data folder") from None
    try:
        builder = cls(
            source_dir=None if source_dir is None else Path(source_dir),
            options=options,
            data_dir=str(aside),
            file_format="array_record",
        )
        tfds.disable_progress_bar()  # ours counts images; theirs names temporary files
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        counts = {split: part.num_examples for split, part in builder.info.splits.items()}
        with contextlib.suppress(FileNotFoundError):
            os.replace(data_dir / name, aside / "replaced")
        os.replace(aside / name, data_dir / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return counts


class _Prepared:
    """One split of a prepared TFDS data set."""

    def __init__(self, directory: Path, split: str):
        self.directory = directory
        self.split = split
        self._records = self._open()

    def _open(self, **kwargs: Any) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(str(self.directory)).as_data_source(self.split, **kwargs)

    @functools.cached_property
    def names(self) -> list[str]:
        from tensorflow_datasets import decode

        skip = decode.SkipDecoding()
        return [record["name"].decode() for record in self._open(decoders={"guide": skip, "depth": skip})]

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        record = self._records[index]
        return record["guide"], record["depth"], record["name"].decode()

    def __reduce__(self) -> tuple[type["_Prepared"], tuple[Path, str]]:
        return _Prepared, (self.directory, self.split)


def open_dataset(name: str, split: str, data_dir: str | os.PathLike[str], cache_bytes: int = CACHE_BYTES) -> Dataset:
    """Opens a split of a prepared data set.

    Args:
      name: a key of `DATASETS`.
      split: as TFDS writes it: "train", "train+validation", "train[:10]".
      data_dir: where it was prepared.
      cache_bytes: how many bytes of decoded images are kept in memory.

    Raises:
      InputError: the set is not known or not prepared there, or has no such split.
    """
    cls = builder_class(name)
    directory = Path(data_dir) / name / str(cls.VERSION)
    source = " --from DIR" if cls.FROM_FILES else ""
    if not (directory / "dataset_info.json").is_file():
        raise InputError(f"data set {name!r} is not in {data_dir}: build it with `ahmf data prepare {name}{source}`")
    import tensorflow_datasets as tfds

    try:
        splits = tfds.builder_from_directory(str(directory)).info.splits
    except Exception as error:  # whatever its parsers raise on what is not theirs
        raise InputError(f"{directory}: is damaged: build it again with `ahmf data prepare {name}{source}`") from error
    try:
        return Dataset(cls.INFO, _Prepared(directory, split), cache_bytes)
    except ValueError as error:
        raise InputError(f"data set {name!r} has no split {split!r}: it has {', '.join(splits)}") from error


class _Pairs:
    """Files in a folder, two for each name."""

    def __init__(self, names: Sequence[str], files: Sequence[tuple[Path, Path]]):
        self.names = names
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        from data_pipelines.files import read_depth, read_guide

        depth, guide = self.files[index]
        return read_guide(guide), read_depth(depth), self.names[index]


def open_pairs(
    directory: str | os.PathLike[str],
    depth: str = "*_depth.png",
    guide: str = "*_rgb.png",
    names: Sequence[str] | None = None,
    unit: str = "grey level",
    range: float = 255.0,
    invalid: float | None = None,
    fill: Fill = "nearest",
    cache_bytes: int = CACHE_BYTES,
) -> Dataset:
    """Opens a plain folder of depth maps and guides of one size each.

    Args:
      directory: the folder.
      depth, guide: how the two files of a pair are called: one `*` each, and what it stands for is the pair's name.
        It may not cross folders, but the pattern may: "depth/*.png" and "colour/*.jpg".
      names: the pairs that are wanted, in this order; by default all, sorted.
      unit, range, invalid, fill: what the values mean, as in `DatasetInfo`.
      cache_bytes: how many bytes of decoded images are kept in memory.

    Raises:
      InputError: no such folder, a pattern without exactly one `*`, a file without its partner, no pair at all; and,
        when the pair is read, damaged files or a depth and a guide that differ in size.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: is not a folder: name the one with the depth and guide files")
    if not range > 0:
        raise InputError(f"range {range}: must be above 0: give the depth in {unit} that 1.0 shall stand for")
    depths, guides = _named(directory, "depth", depth), _named(directory, "guide", guide)
    if names is None:
        names = sorted(depths.keys() | guides.keys())
    if not names:
        raise InputError(f"{directory}: no file is called {depth} or {guide}: check the two patterns")
    for name in names:
        for kind, pattern, found in (("depth", depth, depths), ("guide", guide, guides)):
            if name not in found:
                raise InputError(
                    f"{directory / pattern.replace('*', name)}: is missing: pair {name!r} has no {kind} file"
                )
    info = DatasetInfo(directory.name, unit, range, invalid, "the user's own files", "", fill)
    return Dataset(info, _Pairs(list(names), [(depths[name], guides[name]) for name in names]), cache_bytes)


def _named(directory: Path, option: str, pattern: str) -> dict[str, Path]:
    """The files that a pattern finds, by the part that its `*` stands for."""
    folder, file = (directory / pattern).parent, Path(pattern).name
    if pattern.count("*") != 1 or "*" not in file:
        raise InputError(
            f"{option} pattern {pattern!r}: write exactly one *, in the file name, for what names the pair"
        )
    before, after = file.split("*")
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder: check the {option} pattern {pattern!r}")
    return {
        path.name[len(before) : len(path.name) - len(after)]: path
        for path in folder.iterdir()
        if path.name.startswith(before) and path.name.endswith(after) and len(path.name) > len(before + after)
        if not path.name.startswith(".")  # what systems and editors leave behind
    }
