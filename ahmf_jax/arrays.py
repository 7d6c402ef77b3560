"""The arrays that a user gives: what can be used of them, and how a result goes back into their dtype and holes."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Num

from ahmf_jax.errors import InputError

DTYPES = ("uint8", "uint16", "float16", "float32", "float64")


def known_samples(
    depth: Num[np.ndarray, "b h w"], mask: Bool[np.ndarray, "b h w"] | None, invalid: float | int | None
) -> Bool[np.ndarray, "b h w"]:
    """Where depth is known: where `mask` is True and the value is not `invalid`.

    Raises:
      InputError: a value that the dtype cannot hold, a map without a known sample, or one that is known and not finite.
    """
    known = np.ones(depth.shape, bool) if mask is None else mask.copy()
    if invalid is not None:
        check_invalid(depth.dtype, invalid)
        known &= ~np.isnan(depth) if np.isnan(invalid) else depth != depth.dtype.type(invalid)
    for number, (values, one) in enumerate(zip(depth, known, strict=True)):
        which = f" {number} of the batch" if len(depth) > 1 else ""
        if not one.any():
            means = " or ".join(
                ([f"{invalid}, which means unknown"] if invalid is not None else [])
                + (["masked out"] if mask is not None else [])
            )
            raise InputError(f"every sample of the depth{which} is {means}: nothing to start from")
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite to the network
            bad = int((~np.isfinite(values[one].astype(np.float32, copy=False))).sum())
        if bad:
            raise InputError(
                f"the depth{which} has {bad} samples that are NaN or infinite: if NaN marks holes, say so with "
                "invalid=nan (--invalid nan)"
            )
    return known


def check_array(what: str, array: Any) -> None:
    """InputError unless it is an array, NumPy's or one that can be taken for it."""
    if not isinstance(getattr(array, "dtype", None), np.dtype):
        raise InputError(f"the {what} is a {type(array).__name__}: give a NumPy array (numpy.asarray)")


def check_depth(depth: np.ndarray, mask: np.ndarray | None) -> None:
    """InputError unless depth and mask are arrays of a shape and dtype that can be used."""
    check_array("depth", depth)
    if mask is not None:
        check_array("mask", mask)
    if depth.ndim == 3 and depth.shape[2] == 1:
        raise InputError(
            f"the depth has shape {depth.shape}: one map (height, width) is needed: leave out the last axis with "
            "depth[..., 0]"
        )
    if depth.ndim not in (2, 3) or not depth.size:
        raise InputError(
            f"the depth has shape {depth.shape}: one map (height, width) is needed, or a batch (number, height, width)"
        )
    if depth.dtype.name not in DTYPES:
        raise InputError(f"the depth is {depth.dtype}: convert it to one of {', '.join(DTYPES)}")
    if mask is None:
        return
    if mask.dtype != bool:
        raise InputError(f"the mask is {mask.dtype}: give booleans, True where the depth is known (such as mask > 0)")
    if mask.shape != depth.shape:
        raise InputError(f"the mask has shape {mask.shape} and the depth {depth.shape}: they must be the same")


def check_invalid(dtype: np.dtype, invalid: float | int) -> None:
    """InputError unless the dtype can hold the value that means unknown."""
    if dtype.kind == "u":
        largest = np.iinfo(dtype).max
        if not (0 <= invalid <= largest and invalid == int(invalid)):
            raise InputError(
                f"the invalid value is {invalid:g}, which no {dtype} depth can hold: give a whole number from 0 to "
                f"{largest}, or none if every sample is known"
            )
    elif np.isfinite(invalid) and abs(invalid) > float(np.finfo(dtype).max):
        raise InputError(f"the invalid value is {invalid:g}, beyond what a {dtype} depth can hold: give another")


def check_guide(guide: np.ndarray, channels: int, depth: tuple[int, ...]) -> None:
    """InputError unless the guide is uint8, uint16 or floating point in [0, 1], and can go with depth of that shape.

    `channels` are those that a model reads; one that reads none takes a guide of any.
    """
    batch = depth[:-2]
    if batch and guide.ndim == 3:
        raise InputError(f"the depth has shape {depth}: one map (height, width) is needed with one guide")
    if guide.ndim != len(batch) + 3 or guide.shape[-1] != (channels or guide.shape[-1]) or not guide.size:
        number = "number, " if batch else ""
        raise InputError(f"the guide has shape {guide.shape}: ({number}height, width, {channels or 3}) is needed")
    if guide.shape[: len(batch)] != batch:
        raise InputError(f"there are {len(guide)} guides for {batch[0]} depth maps: give one for each")
    if guide.dtype in (np.uint8, np.uint16):
        return
    if guide.dtype.kind != "f":
        raise InputError(f"the guide is {guide.dtype}: uint8, uint16 or floating point in [0, 1] is needed")
    if not (guide.min() >= 0 and guide.max() <= 1):  # false of NaN as well, and makes no copy
        raise InputError("the guide has values outside [0, 1]: scale it, or give uint8 or uint16")


def into_dtype(depth: Float32[np.ndarray, "b H W"], dtype: np.dtype) -> Num[np.ndarray, "b H W"]:
    """Rounded and clipped to a dtype, in place where it can be."""
    if dtype.kind == "u":
        np.clip(np.rint(depth, out=depth), 0, np.iinfo(dtype).max, out=depth)
    elif dtype == np.float16:
        np.clip(depth, -np.finfo(np.float16).max, np.finfo(np.float16).max, out=depth)
    return depth.astype(dtype, copy=False)


def hole_value(dtype: np.dtype, invalid: float | int | None) -> Any:
    """What stands for unknown in a result: `invalid`, or NaN, or 0 where the dtype has no NaN."""
    if invalid is None:
        invalid = 0 if dtype.kind == "u" else np.nan
    return dtype.type(invalid)


def avoid(depth: Num[np.ndarray, "b H W"], hole: Any) -> None:
    """Moves values that are a hole's by the least step that there is, in place: they must not come out as one."""
    if np.isnan(hole):
        return
    if depth.dtype.kind == "u":
        beside = hole - 1 if hole else hole + 1
    else:
        beside = np.nextafter(hole, depth.dtype.type(0 if hole > 0 else np.inf))
    depth[depth == hole] = beside
