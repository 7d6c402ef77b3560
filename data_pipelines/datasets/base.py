"""What every data set offers, whatever it is stored in: a sequence of `Example` with the meaning of its numbers."""

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.cache import ByteCache, Cache, DiskCache, Values
from data_pipelines.datasets.info import DatasetInfo

CACHE_BYTES = 2**30
# Part of the token of every file that a cache keeps: another number where what is kept changes its meaning.
DECODED_VERSION = 1


class Example(NamedTuple):
    """One image, its depth in the data set's unit.

    Attributes:
      guide: (H, W, 3) uint8, contiguous; (H, W, 0) where the data set has no colour.
      depth: (H, W) float32, holes filled with plausible values so that it can be resampled.
      mask: (H, W) bool, True where the depth is known.
      name: of the image, unique in the data set.
    """

    guide: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    name: str


def no_colour(size: tuple[int, ...]) -> np.ndarray:
    """The guide (H, W, 0) of a map without colour, which is cut, turned and batched like any other."""
    return np.empty((*size, 0), np.uint8)


class Source(Protocol):
    """Where examples are stored. Thread-safe and picklable."""

    @property
    def names(self) -> Sequence[str]:
        """The examples' names, in order."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """`(guide, depth, name)`, the images as stored."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source with a place for what is decoded of it.

    Attributes:
      cache_dir: a folder inside the one that holds the records, so that it goes with them.
    """

    cache_dir: Path

    def key(self, index: int) -> str:
        """A part of a file's name, that of no other record in the folder, whichever source it is read by."""


@runtime_checkable
class ColourSource(Source, Protocol):
    """A source that need not read the colour that it has."""

    def without_colour(self) -> Source:
        """The same depth, with guides of zero channels."""


@runtime_checkable
class SizedSource(Source, Protocol):
    """A source that tells an example's size without decoding it."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width as stored. InputError where that cannot be read."""


class Dataset(Sequence[Example]):
    """A sequence of `Example`, thread-safe and picklable.

    Decoding a whole image for every small patch would starve a trainer, so decoded examples are kept: in memory, up to
    `cache_bytes`, or on disk (`kept_on_disk`). Their arrays are shared and read-only.
    """

    def __init__(self, info: DatasetInfo, source: Source, cache_bytes: int = CACHE_BYTES):
        self.info = info
        self.cache: Cache = ByteCache(cache_bytes)
        self._source = source
        self._key: Callable[[int], str] = source.key if isinstance(source, StoredSource) else str

    def kept_on_disk(self) -> "Dataset":
        """The same, kept beside the records, for all processes and runs; itself where the source has no place for it.

        A folder of the user's own files has none: nothing is written there, and none of them says when it changes.
        """
        source = self._source
        if not isinstance(source, StoredSource):
            return self
        dataset = Dataset(self.info, source)
        # A set that is prepared anew is another folder, though of the same name: whoever still reads the old one must
        # not fill the cache of the new.
        folder = source.cache_dir.parent.stat().st_ino
        token = f"{DECODED_VERSION} {self.info.fill} {self.info.invalid} {self.info.range} {folder}"
        dataset.cache = DiskCache(source.cache_dir, token, CACHE_BYTES)
        return dataset

    def without_colour(self) -> "Dataset":
        """The same depth with guides of zero channels, for models that read none; itself where there is no colour.

        It is kept where this one is. No colour is read or decoded, unless the source cannot leave it out.
        """
        if not self.info.colour:
            return self
        source = self._source.without_colour() if isinstance(self._source, ColourSource) else self._source
        dataset = Dataset(dataclasses.replace(self.info, colour=False), source)
        dataset.cache = self.cache
        return dataset

    @property
    def names(self) -> tuple[str, ...]:
        """The examples' names, in order; nothing is decoded for them."""
        return tuple(self._source.names)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an example; nothing is decoded for them where the source knows better."""
        source = self._source
        return source.size(index) if isinstance(source, SizedSource) else self[index].depth.shape

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices: an example is a whole image
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        # What is made of depth alone, such as tables of its edges, is the same with colour and without.
        return Example(*self.keep(index, "" if self.info.colour else "-depth", lambda: self._decode(index)))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def keep(self, index: int, what: str, make: Callable[[], Values]) -> Values:
        """What `make()` makes of an example, kept like the example; `what` tells it from all else made of that one."""
        return self.cache.get(self._key(index) + what, make)

    def _decode(self, index: int) -> Example:
        guide, stored, name = self._source.read(index)
        if guide.shape[:2] != stored.shape:
            raise InputError(
                f"{name}: the depth is {stored.shape[0]} x {stored.shape[1]} and the guide {guide.shape[0]} x "
                f"{guide.shape[1]} (height x width): they must be registered and of one size"
            )
        if not self.info.colour:
            guide = no_colour(stored.shape)
        depth = stored.astype(np.float32)
        mask = self.info.known(stored)
        try:
            depth = fill_holes(depth, mask, self.info.fill)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        return Example(np.ascontiguousarray(guide), depth, mask, name)
