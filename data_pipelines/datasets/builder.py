"""The common part of the TFDS builders: features, encoding, checks, progress. None of it needs TensorFlow."""

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from ahmf_jax.errors import InputError
from data_pipelines.datasets.info import DatasetInfo, check_values
from data_pipelines.opening import some

if TYPE_CHECKING:
    from data_pipelines.download import Download

# A name, and a function that gives (guide (H, W, 3) uint8, depth (H, W) as stored); the guide is `no_colour` where
# `depth_info` says that there is none.
Item = tuple[str, Callable[[], tuple[np.ndarray, np.ndarray]]]
RECORDS_IN_FILE = 256


@dataclass(frozen=True)
class NoOptions:
    """Nothing can be chosen."""


class DepthBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder of guide and depth pairs. A subclass says what the numbers mean and lists its items.

    Args:
      options: an instance of the class's `Options`.
      source_dir: the folder with the downloaded files; only for the sets that are made from some.
      **kwargs: TFDS's own, such as `data_dir` and `file_format`.

    Attributes:
      INFO: what the numbers mean, with the default options; see `depth_info`.
      Options: a frozen dataclass of what may be chosen, with a line of documentation under each field: the command
        line is made of it. Its `__post_init__` raises InputError for what is not possible.
      FROM_FILES: whether it is made from files, downloaded or the user's, or generated.
      SINGLE_FILE: the suffix of the one file that it can be made from, where that is no archive.
      notes: lines for the user, filled by `items`: what was passed over, and why.
      statistics: of every example that was stored, by split, as `data_pipelines.datasets` keeps it.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # TFDS would read our checksums.tsv as its own
    INFO: ClassVar[DatasetInfo]
    Options: ClassVar[type] = NoOptions
    DEPTH_DTYPE: ClassVar[type[np.generic]] = np.float32
    FROM_FILES: ClassVar[bool] = True
    SINGLE_FILE: ClassVar[str | None] = None

    def __init__(self, *, options: Any = None, source_dir: Path | None = None, **kwargs: Any):
        self.options = self.Options() if options is None else options
        self.source_dir = source_dir
        self.notes: list[str] = []
        self.statistics: dict[str, list[dict[str, Any]]] = {}
        super().__init__(**kwargs)

    @classmethod
    def downloads(cls, options: Any) -> Sequence["Download"]:
        """The files that a program may fetch for these options; none where the source does not allow it."""
        return ()

    @property
    def depth_info(self) -> DatasetInfo:
        """What the numbers mean with the options that were chosen."""
        return self.INFO

    @property
    def depth_dtype(self) -> type[np.generic]:
        """As which the depth is stored with the options that were chosen."""
        return self.DEPTH_DTYPE

    def items(self) -> dict[str, Sequence[Item]]:
        """The items of each split, in the order in which they are stored; raises InputError for what is missing."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        guide = {"guide": image} if self.depth_info.colour else {}
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                guide
                | {
                    # Raw bytes are read several times faster than PNG, and 16-bit PNG would need OpenCV.
                    "depth": tfds.features.Tensor(
                        shape=(None, None), dtype=self.depth_dtype, encoding=tfds.features.Encoding.BYTES
                    ),
                    "name": tfds.features.Text(),
                }
            ),
            citation=self.INFO.citation,
            license=self.INFO.licence,
            metadata=tfds.core.MetadataDict(dataclasses.asdict(self.options)),
            disable_shuffling=True,  # the order of the names is the order of the examples; the loader shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        splits = {split: items for split, items in self.items().items() if items}
        if not splits:
            raise InputError(f"{self.source_dir}: holds nothing of {self.INFO.name}: see {self.INFO.url or 'its docs'}")
        return {split: self._generate_examples(split, items) for split, items in splits.items()}

    def build(self) -> None:
        """Writes all records into `data_dir`, one after the other: memory does not depend on how many there are.

        Not `download_and_prepare`, which keeps a split in memory, and needs TensorFlow for one of more than 1 GB.
        """
        Path(self.data_dir).mkdir(parents=True)
        splits = self._split_generators(None)
        writer = tfds.core.SequentialWriter(self.info, RECORDS_IN_FILE, file_format="array_record")
        writer.initialize_splits(list(splits))
        for split, examples in splits.items():
            # Some at a time: each call writes the metadata anew.
            while some := [example for _, example in itertools.islice(examples, 8)]:
                writer.add_examples({split: some})
        writer.close_all()

    def _generate_examples(self, split: str, items: Sequence[Item]) -> Iterator[tuple[int, dict[str, Any]]]:
        self.statistics[split] = []
        # disable=None: silent where nobody watches
        for key, (name, make) in enumerate(tqdm(items, f"{self.INFO.name} {split}", unit="image", disable=None)):
            guide, depth = make()
            where = f"{self.source_dir}: {name}" if self.source_dir else name
            self.statistics[split].append({"name": name, **check(where, guide, depth, self.depth_info)})
            example = {"depth": depth.astype(self.depth_dtype, copy=False), "name": name}
            if self.depth_info.colour:
                file = io.BytesIO()
                Image.fromarray(guide).save(file, "png", compress_level=1)
                example["guide"] = file.getvalue()
            yield key, example


def check(name: str, guide: np.ndarray, depth: np.ndarray, info: DatasetInfo) -> dict[str, Any]:
    """Refuses an example whose sizes or unit cannot be right.

    Returns:
      `height`, `width`, `known` (the share of pixels whose depth is known), `low`, `median` and `high` of their depth.

    Raises:
      InputError: guide and depth differ in size, no depth is known, or the values do not fit the unit or the range.
    """
    if guide.shape[:2] != depth.shape:
        raise InputError(
            f"{name}: the depth is {depth.shape[0]} x {depth.shape[1]} and the guide {guide.shape[0]} x "
            f"{guide.shape[1]} (height x width): they must be registered and of one size"
        )
    values = depth[info.known(depth)]
    if not values.size:
        raise InputError(f"{name}: has no known depth at all: take its files away, or fetch them again")
    # Of one set the user states what its values mean.
    check_values(name, values, info, "--" if info.name == "pairs" else None)
    height, width = depth.shape
    return {
        "height": height,
        "width": width,
        "known": round(values.size / depth.size, 6),
        "low": float(values.min()),
        "median": float(np.median(values)),
        "high": float(values.max()),
    }


def by_folder(files: Iterable[str], kind: str = "files") -> dict[str, int]:
    """Missing files for `check_missing`: those of one folder as one entry, with their number."""
    folders: dict[str, list[str]] = {}
    for file in dict.fromkeys(files):
        folders.setdefault(file.rpartition("/")[0] or file, []).append(file)
    return {
        files[0] if len(files) == 1 else f"{folder} ({len(files)} {kind})": len(files)
        for folder, files in folders.items()
    }


def check_missing(source: Path, missing: Mapping[str, int], used: int, kind: str, partial: bool) -> list[str]:
    """One message for everything that is missing.

    Args:
      source: the folder of the download.
      missing: what is not there, as the user knows it, and how many files or images each entry stands for.
      used: how many there are to use without it,
      kind: and of what, in words.
      partial: whether to go on without what is missing.

    Returns:
      a note for the user; none where nothing is missing.

    Raises:
      InputError: something is missing and `partial` is not set, or nothing is there at all.
    """
    if not missing:
        return []
    message = f"{source}: {sum(missing.values())} missing ({some(list(missing))})"
    if not used:
        raise InputError(f"{message}, which is all of it: name the folder or archive that holds it")
    if not partial:
        raise InputError(f"{message}: fetch what is missing, or go on with --partial, which uses {used} {kind}")
    return [f"{message}; used: {used} {kind}"]
