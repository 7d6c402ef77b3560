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
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
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


@dataclass(frozen=True)
class ImageNumbers:
    """The numbers of one image, each by its metric's name; `floor` are the interpolation's.

    A number that does not exist, as an error over no pixel or the PSNR of no error, is NaN or infinite here and null in
    the file.
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
      made: how it was made: command, version, commit, device, seconds, date.
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


def image_path(folder: Path, index: int) -> Path:
    """Where the arrays of an image are kept, by its place in `Evaluation.images`."""
    return folder / IMAGES / f"{index:04d}.npz"


def read_image(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a kept image, depth in the evaluation's unit.

    `guide` (H, W, 3) uint8; `depth_lr`, `mask_lr` (h, w); `depth_hr`, `mask_hr`, `prediction`, `floor` (H, W). Depth is
    float32, masks are bool, True where the depth is known. `prediction` and `floor` are as they were measured: rounded
    where the protocol rounds.

    Raises:
      InputError: the file is not there, or holds something else.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # NumPy leaves a damaged file open
            found = {name: file[name] for name in ARRAYS}
            for name, (_, kind) in ARRAYS.items():
                if kind == "f" and found[name].dtype == np.uint8:
                    found[name] = found[name].astype(np.float32)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: evaluate again") from None
    except Exception as error:  # zip, zlib, NumPy and the system each have their own
        raise InputError(f"{path} cannot be read ({error}): evaluate again") from None
    size = found["depth_hr"].shape
    for name, (axes, kind) in ARRAYS.items():
        array = found[name]
        fits = name.endswith("_lr") or array.shape[:2] == size
        if array.ndim != axes or array.dtype.kind != kind or not fits:
            raise InputError(f"{path}: {name} is {array.dtype} of shape {array.shape}: evaluate again")
    return found


@contextlib.contextmanager
def new_record(folder: Path) -> Iterator[Path]:
    """Gives a folder for a record and its images, which is renamed to `folder` at the end.

    Raises:
      InputError: `folder` is there already and is neither empty nor an earlier record, which would be replaced; or it
        cannot be written.
    """
    if folder.exists() and not is_evaluation(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and is no evaluation: choose another folder")
    with atomic_folder(folder) as new:
        (new / IMAGES).mkdir()
        yield new
        if folder.exists():
            shutil.rmtree(folder)


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
    """The value with null in the place of each number that JSON has no name for."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _numbers(image: dict[str, Any]) -> ImageNumbers:
    """Null back to what it was: an infinite PSNR where there is no error, and else not a number."""

    def back(values: Mapping[str, float | None]) -> dict[str, float]:
        exact = values.get("rmse") == 0
        return {
            name: (math.inf if exact and name == "psnr" else math.nan) if value is None else float(value)
            for name, value in values.items()
        }

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
