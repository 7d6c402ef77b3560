"""Resampling of images too large for a second copy in floating point: a strip of rows at a time. NumPy and SciPy."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped

from ahmf_jax import resample

# Values of a strip in float32, of which two or three are held at a time.
STRIP_VALUES = 2**22


def separable(rows: Any, columns: Any, x: Shaped[np.ndarray, "H W *c"]) -> Iterator[tuple[slice, np.ndarray]]:
    """`rows @ x @ columns.T` for each channel, from the first strip of rows to the last.

    Args:
      rows: (h, H) SciPy sparse array in CSR form, float32, whose columns in use move down with its rows.
      columns: (w, W) likewise.
      x: any real dtype; read a strip at a time, so a memory map will do.

    Yields:
      `(which, values)`: the rows of the result, and (rows, w, *c) float32.
    """
    width, rest = x.shape[1], x.shape[2:]
    step = max(1, STRIP_VALUES // max(1, columns.shape[0] * int(np.prod(rest))))
    for start in range(0, rows.shape[0], step):
        some = rows[start : start + step]
        low, high = some.indices.min(), some.indices.max() + 1
        strip = np.asarray(x[low:high], np.float32)
        strip = (some[:, low:high] @ strip.reshape(high - low, -1)).reshape(-1, width, *rest)
        strip = np.ascontiguousarray(np.swapaxes(strip, 0, 1))
        strip = (columns @ strip.reshape(width, -1)).reshape(-1, some.shape[0], *rest)
        yield slice(start, start + some.shape[0]), np.swapaxes(strip, 0, 1)


@functools.lru_cache(maxsize=32)
def weights(in_size: int, out_size: int, kernel: str) -> Any:
    """A kernel of `resample` along one axis, (out, in), as `separable` takes it. It is shared: do not write to it."""
    from scipy import sparse  # slow to import, and most calls need it never

    index, weight = resample.taps(in_size, out_size, kernel)
    row = np.broadcast_to(np.arange(out_size)[:, None], index.shape)
    matrix = sparse.coo_array((weight.ravel(), (row.ravel(), index.ravel())), (out_size, in_size)).tocsr()
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)


def resize(x: Num[np.ndarray, "b H W *c"], size: tuple[int, int], kernel: str) -> Num[np.ndarray, "b h w *c"]:
    """What `resample.resize` does, without whole copies; integers are rounded and clipped to their dtype.

    Where the size is right already, the result is `x` itself.
    """
    if x.shape[1:3] == size:
        return x
    result = np.empty((len(x), *size, *x.shape[3:]), x.dtype)
    if not result.size:  # no channels: there is no colour
        return result
    rows, columns = (weights(before, after, kernel) for before, after in zip(x.shape[1:3], size, strict=True))
    for source, target in zip(x, result, strict=True):
        for which, values in separable(rows, columns, source):
            if x.dtype.kind == "u":
                np.clip(np.rint(values, out=values), 0, np.iinfo(x.dtype).max, out=values)
            target[which] = values
    return result


def resize_guide(guide: Num[np.ndarray, "b H W c"], size: tuple[int, int]) -> Num[np.ndarray, "b h w c"]:
    """The same for colours: bicubic, antialiased where it shrinks, and in floating point clipped to [0, 1]."""
    result = resize(guide, size, "matlab_bicubic")
    if result is not guide and guide.dtype.kind == "f":
        np.clip(result, 0, 1, out=result)
    return result
