"""What every data set offers, whatever it is stored in: a sequence of `Example` with the meaning of its numbers."""

import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.holes import fill_holes
from data_pipelines.datasets.info import DatasetInfo

CACHE_BYTES = 2**30


class Example(NamedTuple):
    """One image, its depth in the data set's unit.

    Attributes:
      guide: (H, W, 3) uint8.
      depth: (H, W) float32, holes filled with plausible values so that it can be resampled.
      mask: (H, W) bool, True where the depth is known.
      name: of the image, unique in the data set.
    """

    guide: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    name: str


class Source(Protocol):
    """Where examples are stored. Thread-safe and picklable."""

    @property
    def names(self) -> Sequence[str]:
        """The examples' names, in order."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """`(guide, depth, name)`, the images as stored."""


class ByteCache:
    """Keeps what is slow to make, up to a number of bytes; the least recently used goes first.

    Thread-safe; a pickled cache arrives empty.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()
        self._total = 0

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The tuple of `key`, made by `make()` where it is not kept. Its size is that of the arrays in it."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][1]
        value = make()  # outside the lock: two threads may make the same, which is better than waiting for one another
        size = sum(part.nbytes for part in value if isinstance(part, np.ndarray))
        with self._lock:
            if key not in self._entries and size <= self.limit:
                self._entries[key] = size, value
                self._total += size
                while self._total > self.limit:
                    self._total -= self._entries.popitem(last=False)[1][0]
        return value

    def __reduce__(self) -> tuple[type["ByteCache"], tuple[int]]:
        return ByteCache, (self.limit,)


class Dataset(Sequence[Example]):
    """A sequence of `Example`, thread-safe and picklable.

    Decoding a whole image for every small patch would starve a trainer, so decoded examples are kept, up to
    `cache_bytes`. Their arrays are shared and read-only.
    """

    def __init__(self, info: DatasetInfo, source: Source, cache_bytes: int = CACHE_BYTES):
        self.info = info
        self._source = source
        self._cache = ByteCache(cache_bytes)

    @property
    def names(self) -> tuple[str, ...]:
        """The examples' names, in order; nothing is decoded for them."""
        return tuple(self._source.names)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices: an example is a whole image
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        return self._cache.get(index, lambda: self._decode(index))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def _decode(self, index: int) -> Example:
        guide, stored, name = self._source.read(index)
        if guide.shape[:2] != stored.shape:
            raise InputError(
                f"{name}: the depth is {stored.shape[0]} x {stored.shape[1]} and the guide {guide.shape[0]} x "
                f"{guide.shape[1]} (height x width): they must be registered and of one size"
            )
        depth = stored.astype(np.float32)
        mask = np.isfinite(depth)
        if self.info.invalid is not None:
            mask &= stored != self.info.invalid
        try:
            depth = fill_holes(depth, mask, self.info.fill)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        for array in (guide, depth, mask):
            array.flags.writeable = False
        return Example(guide, depth, mask, name)
