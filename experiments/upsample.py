"""`ahmf upsample` on one image: files in, files out."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ahmf_jax import resample, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.fitting import check_factor, output_size
from ahmf_jax.holes import fill_holes
from ahmf_jax.upsample import Result, Upsampler
from data_pipelines.clouds import Intrinsics, points, write_ply
from data_pipelines.files import MAX_PIXELS, WRITABLE, read_depth, read_guide, write_depth, write_picture
from data_pipelines.opening import listed
from experiments.pictures import depth_colours, side_by_side

# A distance in a PNG, which holds whole numbers, in samples.
STEP = 0.01
FLOATS = tuple(suffix for suffix, kinds in WRITABLE.items() if "float32" in kinds)
# Of a picture to look at, in pixels.
TALLEST = 2160


@dataclass(frozen=True)
class Files:
    """What one image is read from and written to."""

    depth: Path
    guide: Path | None
    out: Path
    mask: Path | None = None
    picture: Path | None = None
    confidence: Path | None = None
    spread: Path | None = None
    ply: Path | None = None

    def inputs(self) -> list[Path]:
        """The files that are read."""
        return [path for path in (self.depth, self.guide, self.mask) if path is not None]


@dataclass(frozen=True)
class Settings:
    """What is done alike with every image."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `Upsampler.run`, but for the mask and `tta`, which follow from the files."""
    max_pixels: int = MAX_PIXELS
    channel: str | None = None
    camera: Intrinsics | None = None
    """In pixels of the guide as it is read; without one, of the result."""
    said: set[str] = field(default_factory=set, compare=False)
    """Of which kinds a note was printed: one of each, however many images it is about."""

    @property
    def filled(self) -> bool:
        """Whether the holes come back as what the network made of them."""
        return self.options.get("holes") == "fill"


@dataclass(frozen=True)
class Images:
    """What was read."""

    depth: np.ndarray
    guide: np.ndarray | None
    mask: np.ndarray | None


def upsample_file(
    weights: Path,
    depth: Path,
    guide: Path | None,
    out: Path,
    *,
    picture: Path | None = None,
    settings: Settings | None = None,
) -> None:
    """`upsample_files` on one depth file, with every option at its default unless `settings` say otherwise."""
    upsample_files(weights, Files(depth, guide, out, picture=picture), settings or Settings())


def upsample_files(weights: Path, files: Files, settings: Settings, devices: int | None = None) -> None:
    """Super-resolves one image; what can be checked is checked before minutes of work.

    Raises:
      InputError: a file or an option that cannot be used; nothing was written then, or only what was whole.
    """
    check_outputs([files])
    upsampler = load(weights, devices)
    check_colour(weights, upsampler, files.guide is not None)
    images = read(files, settings)
    write(files, images, run(upsampler, files, images, settings), settings)


def load(weights: Path, devices: int | None = None) -> Upsampler:
    """The trained model, on the first `devices` devices."""
    if devices is None:
        return upsample.load(weights)
    there = jax.devices()
    if not 1 <= devices <= len(there):
        raise InputError(
            f"devices {devices}: there are {len(there)} ({there[0].platform}): name as many or fewer (--devices); of "
            "one CPU the variable JAX_NUM_CPU_DEVICES makes several"
        )
    return upsample.load(weights, there[:devices])


def check_colour(weights: Path, upsampler: Upsampler, there: bool) -> None:
    """InputError where a model reads colour and there is none."""
    if upsampler.trained.guide_channels and not there:
        raise InputError(f"{weights}: is a model that reads a colour picture of the view: name it with --guide")


def check_outputs(jobs: Sequence[Files]) -> None:
    """InputError where an output has no place or a suffix that cannot hold it, is named twice, or is an input."""
    inputs = {path.resolve() for files in jobs for path in files.inputs()}
    seen: set[Path] = set()
    for files in jobs:
        for path, what, suffixes in (
            (files.out, "the result", tuple(WRITABLE)),
            (files.picture, "a picture", (".png",)),
            (files.confidence, "the confidence", (".png", *FLOATS)),
            (files.spread, "the spread", FLOATS),
            (files.ply, "a point cloud", (".ply",)),
        ):
            if path is None:
                continue
            if path.suffix.lower() not in suffixes:
                raise InputError(f"{path}: {what} is written as {listed(suffixes)}: change the suffix")
            check_place(path)
            where = path.resolve()
            if where in inputs or where in seen:
                raise InputError(f"{path}: is named twice, and would be overwritten: choose another name")
            seen.add(where)


def check_place(path: Path) -> None:
    """InputError where a file to be written has no folder, or is one."""
    check_parent(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file")


def check_parent(path: Path) -> None:
    """InputError where something to be written has no folder to be in."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}: create it or write elsewhere")


def read(files: Files, settings: Settings) -> Images:
    """Reads the images; raises InputError also where the output cannot hold what the depth will be."""
    held = WRITABLE[files.out.suffix.lower()]
    depth = read_depth(files.depth, settings.max_pixels, settings.channel, held)
    kind = depth.dtype.name
    if kind not in held:
        holders = [suffix for suffix, kinds in WRITABLE.items() if kind in kinds]
        raise InputError(
            f"{files.out}: the result is {kind} as {files.depth} is, which is written as {listed(holders)}: change the "
            "suffix"
        )
    mask = None if files.mask is None else read_mask(files.mask, depth.shape, settings.max_pixels)
    guide = None if files.guide is None else read_guide(files.guide, settings.max_pixels)
    if guide is not None and settings.camera is not None:
        check_camera(settings.camera, guide.shape[:2], f"{files.guide}: is", "guide")
    return Images(depth, guide, mask)


def check_camera(camera: Intrinsics, size: tuple[int, ...], what: str, whose: str) -> None:
    """InputError where the intrinsics say that they are of an image of another size than (height, width) = `size`."""
    if camera.size is not None and camera.size != size:
        height, width = camera.size
        raise InputError(
            f"{what} {size[1]} x {size[0]} pixels, and the intrinsics are of {width} x {height}: give those of the "
            f"{whose} (--intrinsics)"
        )


def read_mask(path: Path, size: tuple[int, ...], max_pixels: int) -> np.ndarray:
    """(h, w) bool, True where the picture is white, which means known."""
    mask = read_guide(path, max_pixels).mean(axis=2) >= 128
    if mask.shape != size:
        raise InputError(
            f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels and the depth {size[1]} x {size[0]}: give "
            "one of the depth's size (--mask)"
        )
    if not mask.any():
        raise InputError(
            f"{path}: the mask is black all over, so no depth is known: make it white where one is (--mask)"
        )
    return mask


def run(upsampler: Upsampler, files: Files, images: Images, settings: Settings) -> Result:
    """Super-resolves what was read; an InputError names the files."""
    if images.guide is None and settings.camera is not None:
        size = output_size(images.depth.shape, check_factor(settings.options.get("factor"), upsampler.scale))
        check_camera(settings.camera, size, f"{files.depth}: the result is", "result")
    note_zeros(files.depth, images, settings)
    tta = files.spread is not None
    which = str(files.depth) if files.guide is None else f"{files.depth} with {files.guide}"
    try:
        return upsampler.run(images.depth, images.guide, mask=images.mask, tta=tta, **settings.options)
    except InputError as error:
        raise InputError(f"{which}: {error}") from None
    except MemoryError as error:
        raise InputError(f"{which}: memory ran out ({error}): free some, or crop it") from error


def note_zeros(path: Path, images: Images, settings: Settings) -> None:
    """Says so on stderr where whole numbers of 0, mostly a sensor's word for nothing measured, count as known depth."""
    if "zeros" in settings.said or settings.options.get("invalid") is not None or images.depth.dtype.kind != "u":
        return
    zeros = images.depth == 0 if images.mask is None else (images.depth == 0) & images.mask
    if count := int(zeros.sum()):
        settings.said.add("zeros")
        share = f"{count:,} of its samples ({100 * count / zeros.size:.3g} %)"
        tqdm.write(
            f"note: {path}: {share} are 0 and count as known depth; --invalid 0 would mark them as unknown",
            file=sys.stderr,
        )


def write(files: Files, images: Images, result: Result, settings: Settings) -> None:
    """Writes all that the files name, each whole or not at all; the depth last, as the sign that all is there."""
    if files.confidence is not None:
        distance = result.distance
        if files.confidence.suffix.lower() == ".png":
            distance = np.minimum(np.rint(distance / STEP), np.iinfo(np.uint16).max).astype(np.uint16)
        write_depth(files.confidence, distance)
    if files.spread is not None and result.spread is not None:
        write_depth(files.spread, result.spread)
    if files.ply is not None and settings.camera is not None:
        shown = np.isfinite(result.depth) & (result.depth > 0) & (result.mask | settings.filled)
        camera = output_camera(settings.camera, images, result, settings.options)
        cloud, places = points(result.depth, shown, camera)
        write_ply(files.ply, cloud, result.guide.reshape(result.depth.size, -1)[places])
    if files.picture is not None:
        write_picture(files.picture, comparison(images.depth, result, settings.filled))
    write_depth(files.out, result.depth)


def output_camera(camera: Intrinsics, images: Images, result: Result, options: Mapping[str, Any]) -> Intrinsics:
    """The intrinsics in pixels of the result, whose guide may have been cut or resampled."""
    if images.guide is None:  # then it is of the result
        return camera
    before, after = images.guide.shape[:2], result.guide.shape[:2]
    if before == after:
        return camera
    if options.get("fit") == "crop":
        top, left = result.corner
        return replace(camera, cx=camera.cx - left, cy=camera.cy - top)
    y, x = (new / old for new, old in zip(after, before, strict=True))
    # Half a pixel, as the centre of the first pixel is at 0.
    return Intrinsics(camera.fx * x, camera.fy * y, (camera.cx + 0.5) * x - 0.5, (camera.cy + 0.5) * y - 0.5)


def comparison(depth_lr: np.ndarray, result: Result, filled: bool = False) -> np.ndarray:
    """The guide, if any, bicubic up-sampling and result side by side, one scale for both depths; (H, W, 3) uint8.

    Of a result taller than `TALLEST` every second, third, ... row and column is shown. What is unknown is grey, unless
    it was `filled`.
    """
    step = math.ceil(result.depth.shape[0] / TALLEST)
    low_resolution = fill_holes(depth_lr[result.rows, result.columns], result.known)
    bicubic = resample.resize(low_resolution[..., None], result.depth.shape, "matlab_bicubic")[::step, ::step, 0]
    depth = result.depth[::step, ::step]
    known = np.isfinite(depth) & (result.mask[::step, ::step] | filled)
    low, high = float(low_resolution.min()), float(low_resolution.max())
    colour = result.guide[::step, ::step]
    return side_by_side(
        [
            *([("guide", colour)] if colour.size else []),
            ("bicubic", depth_colours(bicubic, low, high)),
            ("super-resolved", depth_colours(depth, low, high, known)),
        ]
    )
