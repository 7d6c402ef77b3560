"""The common part of the TFDS builders: features, encoding, progress. Nothing here or below needs TensorFlow."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from ahmf_jax.errors import InputError
from data_pipelines.datasets.base import DatasetInfo

# A name, and a function that gives (guide (H, W, 3) uint8, depth (H, W) as stored).
Item = tuple[str, Callable[[], tuple[np.ndarray, np.ndarray]]]


class DepthBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder of guide and depth pairs. A subclass says what the numbers mean and lists its items.

    Args:
      source_dir: the folder with the downloaded files; only for the sets that are made from some.
      options: what else may be chosen; the names and their defaults are the class's `OPTIONS`.
      **kwargs: TFDS's own, such as `data_dir` and `file_format`.
    """

    VERSION = tfds.core.Version("1.0.0")
    INFO: ClassVar[DatasetInfo]
    DEPTH_DTYPE: ClassVar[type[np.generic]] = np.float32
    OPTIONS: ClassVar[dict[str, Any]] = {}
    FROM_FILES: ClassVar[bool] = True

    def __init__(self, *, source_dir: Path | None = None, options: dict[str, Any] | None = None, **kwargs: Any):
        name = self.INFO.name
        for option in options or {}:
            if option not in self.OPTIONS:
                known = ", ".join(self.OPTIONS) or "none"
                raise InputError(f"{name} has no option {option!r}: its options are: {known}")
        if self.FROM_FILES and source_dir is None:
            raise InputError(f"{name} is made from downloaded files: name their folder (--from DIR)")
        if not self.FROM_FILES and source_dir is not None:
            raise InputError(f"{name} is generated and reads no files: leave {source_dir} (--from) out")
        self.source_dir = source_dir
        self.options = self.OPTIONS | (options or {})
        super().__init__(**kwargs)

    def items(self) -> dict[str, Sequence[Item]]:
        """The items of each split, in the order in which they are stored; raises InputError for what is missing."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "guide": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    # Raw bytes are read several times faster than PNG, and 16-bit PNG would need OpenCV.
                    "depth": tfds.features.Tensor(
                        shape=(None, None), dtype=self.DEPTH_DTYPE, encoding=tfds.features.Encoding.BYTES
                    ),
                    "name": tfds.features.Text(),
                }
            ),
            citation=self.INFO.citation,
            license=self.INFO.licence,
            metadata=tfds.core.MetadataDict(self.options),
            disable_shuffling=True,  # the order of the names is the order of the examples; the loader shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split, items) for split, items in self.items().items()}

    def _generate_examples(self, split: str, items: Sequence[Item]) -> Iterator[tuple[int, dict[str, Any]]]:
        # disable=None: silent where nobody watches
        for key, (name, make) in enumerate(tqdm(items, f"{self.INFO.name} {split}", unit="image", disable=None)):
            guide, depth = make()
            file = io.BytesIO()
            Image.fromarray(guide).save(file, "png", compress_level=1)
            yield key, {"guide": file.getvalue(), "depth": depth.astype(self.DEPTH_DTYPE, copy=False), "name": name}
