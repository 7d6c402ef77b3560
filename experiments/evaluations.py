"""The record of an evaluation: a folder with every number, its protocol, and the images that a report shows.

    OUT/evaluation.json           the numbers of every image, and all that says how they were made
    OUT/images/<index>.npz        the first images: what was given, what came out, what is true

`ahmf evaluate` writes one, into the run's folder (`RUN/evaluations/NAME`) or where `--out` says; `ahmf report` reads
them.
"""

import contextlib
import dataclasses
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.metrics import METRICS
from ahmf_jax.writing import atomic_folder, write_whole

RECORD, IMAGES, EVALUATIONS = "evaluation.json", "images", "evaluations"
FORMAT = 1
# The arrays of a kept image, each with its number of axes and the kinds of dtype that it may have.
ARRAYS = {
    "guide": (3, "u"),
    "depth_lr": (2, "f"),
    "mask_lr": (2, "b"),
    "depth_hr": (2, "f"),
    "mask_hr": (2, "b"),
    "prediction": (2, "f"),
    "floor": (2, "f"),
}
# Of a kept image; far more than a page or a figure can show. What a file unpacks to is known before it is unpacked.
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class ImageNumbers:
    """The numbers of one image, each by its metric's name; `floor` are the interpolation's.

    A number that does not exist, as an error over no pixel, is NaN here and null in the file; an infinite one, as the
    PSNR of no error, is "inf" there.
    """

    name: str
    metrics: Mapping[str, float]
    floor: Mapping[str, float]
    height: int
    width: int


@dataclass(frozen=True)
class Evaluation:
    """One method on one data set under one protocol. Two can be compared whose `subject` is the same.

    Attributes:
      method: what to call it in a table: "AHMF", "guided_filter".
      weights: the run or file that it is, or its name again.
      origin: in words: "step 7000 of ahmf_short_x4", "interpolation", the parameters of a filter.
      scale: the factor.
      dataset, split: of the images; split is "" for all of a folder.
      unit: of MAE and RMSE, as the protocol prints them.
      protocol: its name, a key of `experiments.protocols.PROTOCOLS`, or "run".
      protocol_text: the protocol in one line.
      protocol_fields: its fields as JSON values.
      metrics: the metrics that the protocol is about, the first first; images may have more.
      images: the numbers of each image.
      mean: over the images as the protocol averages, `name` being "mean".
      pixels: over all of their pixels together.
      made: how it was made: command, versions, device, data, seconds, date.
      notes: what one must know before the numbers are compared.
      folder: where it was read from; None before it is written.
    """

    method: str
    weights: str
    origin: str
    scale: int
    dataset: str
    split: str
    unit: str
    protocol: str
    protocol_text: str
    protocol_fields: Mapping[str, Any]
    metrics: tuple[str, ...]
    images: tuple[ImageNumbers, ...]
    mean: ImageNumbers
    pixels: ImageNumbers | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def subject(self) -> tuple[Any, ...]:
        """Equal for two evaluations whose numbers can be compared: data, factor, protocol and images agree."""
        names = tuple(sorted(image.name for image in self.images))
        return self.dataset, self.split, self.scale, self.protocol, self.protocol_text, self.unit, names

    def kept(self) -> dict[str, Path]:
        """The files of the images that were kept, by the image's name, in order."""
        if self.folder is None:
            return {}
        paths = (image_path(self.folder, index) for index in range(len(self.images)))
        return {image.name: path for image, path in zip(self.images, paths, strict=True) if path.exists()}

    def image(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an image that was kept, see `read_image`.

        Raises:
          InputError: it was not kept, or the file is not of that image's size.
        """
        kept = self.kept()
        if name not in kept:
            has = ", ".join(kept) or "no image"
            raise InputError(f"{self.folder}: has not kept {name}, but {has}: evaluate again with --keep -1")
        numbers = next(image for image in self.images if image.name == name)
        return read_image(kept[name], (numbers.height, numbers.width))


def image_path(folder: Path, index: int) -> Path:
    """Where the arrays of an image are kept, by its place in `Evaluation.images`."""
    return folder / IMAGES / f"{index:04d}.npz"


def read_image(path: Path, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a kept image, depth in the evaluation's unit.

    `guide` (H, W, 3) uint8, or (H, W, 0) where there is no colour; `depth_lr`, `mask_lr` (h, w); `depth_hr`, `mask_hr`,
    `prediction`, `floor` (H, W). Depth is float32, masks are bool, True where the depth is known. `prediction` and
    `floor` are as they were measured: rounded where the protocol rounds.

    Args:
      path: the file.
      size: (H, W), where it is known.

    Raises:
      InputError: the file is not there, or holds something else; nothing is unpacked before that is known.
    """
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as file:
            _check_headers(path, {name: _header(file, name) for name in ARRAYS}, size)
            found = {name: _array(file, name) for name in ARRAYS}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: evaluate again") from None
    except Exception as error:  # zip, zlib, NumPy and the system each have their own
        raise InputError(f"{path} cannot be read ({error}): evaluate again") from None
    return found


def read_images(evaluations: Sequence[Evaluation], name: str) -> list[dict[str, np.ndarray]]:
    """The arrays of one image as each of the evaluations kept it.

    Raises:
      InputError: as `Evaluation.image`, or they are not of the same guide and truth.
    """
    found = [evaluation.image(name) for evaluation in evaluations]
    for evaluation, arrays in zip(evaluations, found, strict=True):
        if not all(np.array_equal(found[0][part], arrays[part]) for part in ("guide", "depth_hr", "mask_hr")):
            raise InputError(
                f"{evaluation.folder}: its image {name} is another than that of {evaluations[0].folder}: evaluate both "
                "on the same data"
            )
    return found


def _header(file: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array of a NumPy file."""
    with file.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):  # others have headers of up to 4 GB, and nobody needs them for these arrays
            raise ValueError(f"{name} has version {version} of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    return shape, dtype


def _check_headers(
    path: Path, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], size: tuple[int, int] | None
) -> None:
    """InputError where the arrays are not those of one image of that size."""
    whole, low = headers["depth_hr"][0], headers["depth_lr"][0]
    if math.prod(whole) > MOST_PIXELS:
        raise InputError(f"{path}: has {math.prod(whole)} pixels, more than can be shown: evaluate again with --keep 0")
    if size is not None and whole != size:
        raise InputError(f"{path}: depth_hr is of shape {whole}, and the record says {size}: evaluate again")
    for name, (axes, kind) in ARRAYS.items():
        shape, dtype = headers[name]
        fits = len(shape) == axes and shape[2:] in ((), (3,), (0,))
        if name.endswith("_lr"):
            fits = fits and shape == low and all(few <= many for few, many in zip(shape, whole, strict=False))
        else:
            fits = fits and shape[:2] == whole
        narrow = dtype == np.uint8 and kind == "f"  # see `save_image`
        if not fits or not (dtype.kind == kind or narrow) or dtype.itemsize > 8:
            raise InputError(f"{path}: {name} is {dtype} of shape {shape}: evaluate again")


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of a NumPy file, depth of 8 bits as float32."""
    with file.open(f"{name}.npy") as member:
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
    return array.astype(np.float32) if ARRAYS[name][1] == "f" and array.dtype == np.uint8 else array


def _is_replaceable(folder: Path) -> bool:
    """Whether nothing is lost with the folder: an empty one, or a record and nothing else."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or (is_evaluation(folder) and names <= {RECORD, IMAGES})


@contextlib.contextmanager
def new_record(folder: Path) -> Iterator[Path]:
    """Gives a folder for a record and its images, which is renamed to `folder` at the end.

    Raises:
      InputError: `folder` is there already and is neither empty nor an earlier record, which would be replaced; or it
        cannot be written.
    """
    if folder.exists() and not _is_replaceable(folder):
        raise InputError(
            f"{folder} is there already and is no evaluation, or holds more than one: choose another folder"
        )
    with atomic_folder(folder, replace=True) as new:
        (new / IMAGES).mkdir()
        yield new


def write(evaluation: Evaluation, folder: Path, images: Mapping[int, Mapping[str, np.ndarray]]) -> None:
    """Writes a whole record: see `new_record`.

    Args:
      evaluation: the numbers.
      folder: where to.
      images: the arrays of those that are kept, as `read_image` gives them, by their index in `evaluation.images`.
    """
    with new_record(folder) as new:
        for index, arrays in images.items():
            save_image(image_path(new, index), arrays)
        write_record(evaluation, new)


def save_image(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays of an image as NumPy's `savez_compressed` does, but in a tenth of the time.

    Depth that was rounded to 8 bits is kept as that.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name in ARRAYS:
            array = np.asarray(arrays[name])
            if array.dtype.kind == "f" and np.isfinite(array).all():
                narrow = array.clip(0, 255).astype(np.uint8)
                array = narrow if np.array_equal(array, narrow) else array
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_record(evaluation: Evaluation, folder: Path) -> None:
    """Writes `evaluation.json` into a folder that is there."""
    fields = {f.name: getattr(evaluation, f.name) for f in dataclasses.fields(evaluation) if f.name != "folder"}
    fields["images"] = [dataclasses.asdict(image) for image in evaluation.images]
    for name in ("mean", "pixels"):
        numbers = getattr(evaluation, name)
        fields[name] = None if numbers is None else dataclasses.asdict(numbers)
    write_whole(folder / RECORD, json.dumps(finite({"format": FORMAT, **fields}), indent=1).encode())


def finite(value: Any) -> Any:
    """The value with null in the place of what is not a number, and "inf" of what is infinite, as JSON wants it."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def is_evaluation(folder: Path) -> bool:
    """Whether the folder holds a record."""
    return (folder / RECORD).is_file()


def read(folder: Path) -> Evaluation:
    """The record in a folder. InputError where there is none, or a damaged one."""
    path = folder / RECORD
    try:
        fields = json.loads(path.read_text("utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError("another version wrote it")
        _check_fields(fields)
        fields["images"] = tuple(map(_numbers, fields["images"]))
        fields["mean"] = _numbers(fields["mean"])
        fields["pixels"] = fields["pixels"] and _numbers(fields["pixels"])
        for name in ("metrics", "notes"):
            fields[name] = tuple(fields[name])
        return Evaluation(**fields, folder=folder)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give an evaluation's folder, or an evaluated run's"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): evaluate again") from None


def _check_fields(fields: Mapping[str, Any]) -> None:
    """ValueError where a value of a record is not of its kind."""

    def check(name: str, value: Any, kind: type, least: int = 0) -> None:
        # To Python, true is a whole number.
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < least):
            raise ValueError(f"{name} is {str(value)[:40]!r}")

    for name in ("method", "weights", "origin", "dataset", "split", "unit", "protocol", "protocol_text"):
        check(name, fields[name], str)
    check("scale", fields["scale"], int, 1)
    for name in ("protocol_fields", "made", "mean"):
        check(name, fields[name], dict)
    check("border", fields["protocol_fields"].get("border", 0), int)
    for name in ("metrics", "notes", "images"):
        check(name, fields[name], list)
    for name in ("metrics", "notes"):
        for text in fields[name]:
            check(name, text, str)
    pixels = fields["pixels"]
    for image in (*fields["images"], fields["mean"], *([] if pixels is None else [pixels])):
        check("an image", image, dict)
        check("an image's name", image["name"], str)
        for side in ("height", "width"):
            check(f"the {side} of an image", image[side], int)
    unknown = [metric for metric in fields["metrics"] if metric not in METRICS]
    for name, wrong in (("images", not fields["images"]), ("metrics", unknown or not fields["metrics"])):
        if wrong:
            raise ValueError(f"{name} is {str(fields[name])[:40]!r}")


def _numbers(image: dict[str, Any]) -> ImageNumbers:
    """The numbers as `finite` has written them."""

    def back(values: Mapping[str, float | str | None]) -> dict[str, float]:
        return {name: math.nan if value is None else float(value) for name, value in values.items()}

    return ImageNumbers(**{**image, "metrics": back(image["metrics"]), "floor": back(image["floor"])})


def find(folder: Path) -> list[Evaluation]:
    """The evaluations of a folder: the one that it is, or those of the run that it is, by name.

    Raises:
      InputError: there is none.
    """
    if is_evaluation(folder):
        return [read(folder)]
    found = [read(path) for path in sorted((folder / EVALUATIONS).glob("*")) if is_evaluation(path)]
    if not found:
        remedy = f"`ahmf evaluate {folder} --dataset ...` makes one" if folder.is_dir() else "check the name"
        raise InputError(f"{folder} holds no evaluation: {remedy}")
    return found
