"""`ahmf evaluate`: a method against the truth, beside the interpolation that is the protocol's floor."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import itertools
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.metrics import METRICS, Errors, errors
from ahmf_jax.units import in_metres
from ahmf_jax.writing import unwritable
from data_pipelines.datasets import Dataset, DatasetInfo, Example
from data_pipelines.degrade import Degradation
from experiments import evaluations
from experiments.comparison import heading
from experiments.evaluations import (
    EVALUATIONS,
    Evaluation,
    ImageNumbers,
    image_path,
    is_evaluation,
    new_record,
    save_image,
    write_record,
)
from experiments.findings import FACTORS
from experiments.methods import (
    BICUBIC,
    Interpolation,
    Method,
    Network,
    Predictions,
    interpolate,
    open_method,
    own_protocol,
    run_folder,
    trained_on,
)
from experiments.protocols import Protocol, choose_protocol, rounded

if TYPE_CHECKING:
    from experiments.commands.evaluate import Evaluate

# Another program's depth in another unit is further from the truth than interpolation by this factor, and agrees with
# it to this part once its unit is changed.
STRANGE, ALIKE = 4.0, 0.1


def whole_batch(
    example: Example, place: int, info: DatasetInfo, scale: int, protocol: Protocol
) -> dict[str, np.ndarray]:
    """An image as the protocol has it; `place`, in the data set, seeds what is left to chance.

    It is cut at the bottom and right to a multiple of the scale. InputError where nothing is inside the border.
    """
    from data_pipelines.loader import whole_example

    if protocol.mask == "all" and not example.mask.all():
        depth = np.where(example.mask, example.depth, np.float32(0))
        example = example._replace(depth=depth, mask=np.ones_like(example.mask))
    if protocol.rounding == "uint8" and example.mask.any():
        low, high = (float(end(example.depth[example.mask])) for end in (np.min, np.max))
        if low < 0 or high > 255:
            raise InputError(
                f"{example.name}: its depth goes from {low:g} to {high:g}, and the protocol rounds to 0..255: prepare "
                "it in grey levels of 8 bits, or use --protocol float"
            )
    batch = whole_example(example, info, scale=scale, degradation=protocol.degrade, seed=place)
    if 2 * protocol.border >= min(batch["depth_hr"].shape[1:3]):
        raise InputError(f"{example.name} is smaller than the protocol's border of {protocol.border} pixels twice")
    return batch


Part = tuple[slice, slice]


def tiles(example: Example, side: int) -> Iterator[tuple[Part, Example]]:
    """The squares that an image is cut into, row by row, without what is left over; the image itself for 0.

    InputError where the image is smaller than one.
    """
    if not side:
        yield (slice(None), slice(None)), example
        return
    height, width = example.depth.shape
    if min(height, width) < side:
        raise InputError(f"{example.name}: {height} x {width} is smaller than the protocol's tile of {side} x {side}")
    for top, left in itertools.product(range(0, height - side + 1, side), range(0, width - side + 1, side)):
        part = slice(top, top + side), slice(left, left + side)
        name = f"{example.name}@{top},{left}"
        guide = np.ascontiguousarray(example.guide[part])
        yield part, Example(guide, example.depth[part], example.mask[part], name)


def as_measured(depth: np.ndarray, depth_range: float, protocol: Protocol) -> np.ndarray:
    """Depth in units of the range to float64 in the range's own unit, rounded as the protocol does."""
    # The truth was divided by the range in float32; multiplied back in float64 it is off by 1e-7 of itself.
    return rounded(depth.astype(np.float64) * depth_range, protocol, depth_range)


def measure(prediction: np.ndarray, batch: Mapping[str, np.ndarray], depth_range: float, protocol: Protocol) -> Errors:
    """The errors of one image's prediction (1, H, W, 1) inside the protocol's border, in the unit of the range."""
    b = protocol.border
    inside = 0, slice(b, prediction.shape[1] - b), slice(b, prediction.shape[2] - b), 0
    return errors(
        prediction[inside],
        batch["depth_hr"][inside],
        batch["mask_hr"][inside],
        depth_range=depth_range,
        threshold=protocol.pe_threshold * depth_range / 255,
        prepare=lambda band: as_measured(band, depth_range, protocol),
    )


class Measured(NamedTuple):
    """What was found on one image."""

    name: str
    height: int
    width: int
    ours: Errors
    floor: Errors


def measure_all(
    method: Method | Predictions,
    dataset: Dataset,
    name: str,
    protocol: Protocol,
    *,
    split: str = "",
    weights: str = "",
    keep: int = 0,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Evaluation:
    """Measures a method on a data set.

    While the method works at an image, the next one is read, and the last ones measured and kept, in threads of their
    own: so many images are in memory.

    Args:
      method: what is measured.
      dataset: whole images.
      name, protocol: how.
      split, weights: for the record.
      keep: of so many images, the first, the arrays are written; -1: of all.
      folder: where to; there is a folder `images` in it.
      progress: called after every image of the data set with how many are done, and how many there are.

    Raises:
      InputError: data that the protocol does not fit; no image; predictions that are no numbers, of another size, or
        by all appearances in another unit.
    """
    info = dataset.info
    unit, factor = protocol.unit_of(info)
    depth_range = info.range * factor

    def read(place: int) -> tuple[Example, list[tuple[Part, Example, dict[str, np.ndarray]]]]:
        whole = dataset[place]
        parts = tiles(whole, protocol.tile)
        return whole, [(part, one, whole_batch(one, place, info, method.scale, protocol)) for part, one in parts]

    def keep_image(path: Path, batch: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray]) -> None:
        measured = {k: as_measured(v[0, ..., 0], depth_range, protocol).astype(np.float32) for k, v in maps.items()}
        as_given = {name: batch[name][0, ..., 0] for name in ("mask_lr", "mask_hr")}
        depth_lr = batch["depth_lr"][0, ..., 0] * np.float32(depth_range)
        guide = np.rint(batch["guide"][0] * 255).astype(np.uint8)
        save_image(path, {**measured, **as_given, "depth_lr": depth_lr, "guide": guide})

    def found(number: int, example: Example, batch: Mapping[str, np.ndarray], prediction: np.ndarray) -> Measured:
        floor = interpolate(batch, protocol.floor)
        if folder is not None and (keep < 0 or number < keep):
            maps = {"prediction": prediction, "floor": floor, "depth_hr": batch["depth_hr"]}
            saved.append(saver.submit(keep_image, image_path(folder, number), batch, maps))
        both = (measure(depth, batch, depth_range, protocol) for depth in (prediction, floor))
        return Measured(example.name, *prediction.shape[1:3], *both)

    remarks: list[str] = []
    pixels = [0, 0]  # of the images, and of their parts
    measured: list[Future[Measured]] = []
    saved: list[Future[None]] = []
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as measurer, ThreadPoolExecutor(1) as saver:
        coming = reader.submit(read, 0) if len(dataset) else None
        for place in range(len(dataset)):
            assert coming is not None
            whole, parts = coming.result()
            coming = reader.submit(read, place + 1) if place + 1 < len(dataset) else None
            for part, example, batch in parts:
                if isinstance(method, Predictions):
                    prediction, remark = _read_prediction(method, whole, part, batch, info, protocol)
                    remarks += [remark] if remark else []
                else:
                    prediction = _predicted(method, example.name, batch)
                    _check_numbers(method, example.name, prediction, batch)
                # No further ahead than that: large images fill the memory.
                for waiting in (measured, saved):
                    if len(waiting) > 1:
                        waiting[-2].result()
                measured.append(measurer.submit(found, len(measured), example, batch, prediction))
            pixels[0] += whole.depth.size
            pixels[1] += sum(example.depth.size for _, example, _ in parts)
            progress(place + 1, len(dataset))
        results = [future.result() for future in measured]
        for written in saved:
            written.result()
    if not results:
        raise InputError(f"{info.name} has no image in this split")
    images = tuple(
        ImageNumbers(r.name, r.ours.values(depth_range), r.floor.values(depth_range), r.height, r.width)
        for r in results
    )
    fields = dataclasses.asdict(protocol)
    return Evaluation(
        method=method.name,
        weights=weights or method.name,
        origin=method.origin,
        scale=method.scale,
        dataset=info.name,
        split=split,
        unit=unit,
        protocol=name,
        protocol_text=str(protocol),
        protocol_fields=fields,
        metrics=protocol.metrics,
        images=images,
        mean=_averaged(results, depth_range, protocol.averaging, protocol.batch),
        pixels=_averaged(results, depth_range, "pixels", 0),
        notes=(*_notes(results, protocol), *_share_of_tiles(pixels, protocol), *remarks),
    )


def _predicted(method: Method, name: str, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the method makes of an image, which is named where it can make nothing of it."""
    try:
        return method.batch(batch)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _check_numbers(method: Method | Predictions, name: str, depth: np.ndarray, batch: Mapping[str, np.ndarray]) -> None:
    """InputError where a pixel whose truth is known has no number: an error of it would be none, or all."""
    missing = int((~np.isfinite(depth) & batch["mask_hr"]).sum())
    if missing:
        raise InputError(
            f"{method.name} ({method.origin}): {name} has {missing} pixels that are no numbers and whose truth is "
            "known: every pixel is measured, so fill them, or use other weights"
        )


def _read_prediction(
    method: Predictions,
    example: Example,
    part: Part,
    batch: Mapping[str, np.ndarray],
    info: DatasetInfo,
    protocol: Protocol,
) -> tuple[np.ndarray, str]:
    """Another program's result, or a part of it, as a method gives it, and what is strange about it.

    Refused where it is in another unit.
    """
    truth, mask = batch["depth_hr"][0, ..., 0], batch["mask_hr"][0, ..., 0]
    reduce = protocol.degrade.reduce
    assert protocol.tile % reduce == 0, "no tile begins between two pixels of the truth"
    height, width = (n // reduce for n in example.depth.shape)  # the truth's, before it was cut
    if part == (slice(None), slice(None)):
        depth = method.read(example.name, truth.shape, (height, width))
    else:
        rows, columns = (slice(side.start // reduce, side.stop // reduce) for side in part)
        depth = method.read(example.name, (height, width), (height, width))[rows, columns]
    depth = depth[: truth.shape[0], : truth.shape[1]] / info.range  # of a tile, too, what the scale divides
    _check_numbers(method, example.name, depth[None, ..., None], batch)
    floor = interpolate(batch, "matlab_bicubic")[0, ..., 0]
    off, floor_off = (float(np.abs(x - truth).mean(where=mask)) if mask.any() else 0.0 for x in (depth, floor))
    if off > STRANGE * max(floor_off, 1e-6):
        left = {factor: float(np.abs(depth * factor - truth).mean(where=mask)) for factor in FACTORS}
        factor = min(left, key=left.__getitem__)
        far = f"{example.name} is {off / max(floor_off, 1e-9):.0f} times as far from the truth as interpolation"
        if left[factor] < max(ALIKE * off, floor_off):
            remedy = "convert them" if in_metres(info.unit) is None else "say what they are in with --predictions-unit"
            raise InputError(
                f"{method.origin}: {far}, and is not once multiplied by {factor:g}: its values are {FACTORS[factor]}; "
                f"the data are in {info.unit}: {remedy}"
            )
        return depth[None, ..., None], f"{far}, and no factor explains it: is it another image, or an inverse?"
    same = bool(mask.any()) and off < 1e-6  # of the range, which float32 tells no further
    return depth[None, ..., None], f"{example.name} is the truth itself" if same else ""


def _averaged(results: Sequence[Measured], depth_range: float, averaging: str, batch: int) -> ImageNumbers:
    """The mean as the protocol has it. A number that an image does not have, as one of its edges, is left out."""
    size = {"images": 1, "batches": batch, "pixels": len(results)}[averaging]
    groups = [results[i : i + size] for i in range(0, len(results), size)]
    ours, floor = (
        [sum((getattr(r, kind) for r in group), Errors()).values(depth_range) for group in groups]
        for kind in ("ours", "floor")
    )
    means = [{metric: _mean([values[metric] for values in found]) for metric in METRICS} for found in (ours, floor)]
    return ImageNumbers("mean", means[0], means[1], 0, 0)


def _mean(values: Sequence[float]) -> float:
    """Of the values that are numbers, infinity among them; not a number where none is."""
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _share_of_tiles(pixels: Sequence[int], protocol: Protocol) -> list[str]:
    """How much of the images is in the protocol's tiles."""
    if not protocol.tile:
        return []
    return [f"{pixels[1] / pixels[0]:.1%} of the pixels are in tiles of {protocol.tile} x {protocol.tile}"]


def _notes(results: Sequence[Measured], protocol: Protocol) -> tuple[str, ...]:
    """What there is to know of the truth."""
    b = 2 * protocol.border
    pixels, known = sum((r.height - b) * (r.width - b) for r in results), sum(r.ours.count for r in results)
    notes = []
    if known < pixels:
        notes.append(f"the truth of {known / pixels:.1%} of the pixels is known; the others do not count")
    empty = [r.name for r in results if not r.ours.count]
    if empty:
        notes.append(f"{len(empty)} images have no known pixel and no number, the first is {empty[0]}")
    return tuple(notes)


def decimal_places(values: Iterable[float]) -> int:
    """So many that the smallest of them has four significant digits."""
    smallest = min((x for x in values if 0 < x < math.inf), default=1.0)
    # Of metres the first digits are zeros. Beyond the eighth place it is the rounding of float32 that one would read.
    return min(max(3 - math.floor(math.log10(smallest)), 0), 8)


def table(evaluation: Evaluation) -> str:
    """The numbers as text, the floor in brackets; errors with four significant digits or more, points aligned."""
    rows = [*evaluation.images, evaluation.mean]
    names = evaluation.metrics
    in_unit = [name for name in names if METRICS[name].digits is None]
    places = decimal_places(part[name] for r in rows for part in (r.metrics, r.floor) for name in in_unit)
    width = max(len(r.name) for r in rows)
    columns = [["".ljust(width), *(r.name.ljust(width) for r in rows)]]
    for name in names:
        metric = METRICS[name]
        digits = places if metric.digits is None else metric.digits
        ours, floors = (
            [f"{part[name]:.{digits}f}" for part in parts]
            for parts in zip(*((r.metrics, r.floor) for r in rows), strict=True)
        )
        width = max(map(len, floors))
        cells = [heading(name, evaluation.unit), *(f"{o} ({f:>{width}})" for o, f in zip(ours, floors, strict=True))]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) for cell in cells])
    head, *lines = map("  ".join, zip(*columns, strict=True))
    return "\n".join([f"{head}    (in brackets the floor)", *lines])


def evaluate(command: "Evaluate") -> Evaluation:
    """What `ahmf evaluate` does: measures, prints, and writes the record where there is a place for it."""
    from tqdm import tqdm

    from experiments.data import default_split, open_named, published

    split = default_split(command.dataset, command.data_dir) if command.split is None else command.split
    dataset = open_named(command.dataset, split, command.data_dir, command.pairs)
    info, run = dataset.info, run_folder(command.method)
    learned = None if run is None else trained_on(run)
    name, protocol = choose_protocol(command.protocol, info, learned)
    protocol.unit_of(info)
    method: Method | Predictions
    if command.predictions is not None:
        assert command.scale is not None
        factor = _unit_factor(command.predictions_unit, info)
        method = Predictions(command.predictions, dataset.names, command.scale, factor=factor)
    else:
        method = open_method(command.method, command.scale, protocol)
    what = method.name if isinstance(method, Interpolation) else command.method or str(command.predictions)
    out = command.out
    data = str(Path(command.dataset).resolve()) if Path(command.dataset).is_dir() else command.dataset
    if out is None and run is not None:
        out = run / EVALUATIONS / _record_name(info.name, split, name, method.scale)
    if out is not None:
        _make_folder(out.parent)
    if out is not None and command.out is None and is_evaluation(out):
        earlier = evaluations.read(out)
        if earlier.made.get("data", data) != data or (
            not protocol.tile and {image.name for image in earlier.images} != {*dataset.names}
        ):
            raise InputError(
                f"{out} is there already, of {len(earlier.images)} images in {earlier.made.get('data')}, which are "
                "others: name another folder with --out"
            )
    notes = list(published(command.dataset, split, dataset, method.scale, command.data_dir))
    if run is not None and learned is not None and not _alike(learned, protocol.degrade):
        own = own_protocol(run, info)
        by = "run" if own in ("run", name) else f"{own}, by which it was validated"
        notes.append(f"note: trained on {learned}, measured on {protocol.degrade}; see --protocol {by}")
    if command.method == BICUBIC and method.name != BICUBIC:
        notes.append(
            f"note: {BICUBIC} means the protocol's floor, and that of {name} is {method.name}; a bicubic kernel is "
            "asked for by its own name, such as torch_bicubic"
        )
    notes += _off_the_means(method, name, protocol)

    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = None if out is None else stack.enter_context(new_record(out))
        bar = stack.enter_context(tqdm(total=len(dataset), unit="image", disable=None, leave=False, file=sys.stderr))
        found = measure_all(
            method,
            dataset,
            name,
            protocol,
            split=split,
            weights=what,
            keep=command.keep,
            folder=folder,
            progress=lambda done, _: bar.update(done - bar.n),
        )
        model = {"model": method.model} if isinstance(method, Network) else {}
        made = {**how_made(), **model, "data": data, "seconds": round(time.perf_counter() - started, 3)}
        found = dataclasses.replace(
            found,
            method=command.name or found.method,
            metrics=command.metrics or found.metrics,
            notes=(*(note.removeprefix("note: ") for note in notes), *found.notes),
            made=made,
        )
        if folder is not None:
            write_record(found, folder)
    print(f"{what} ({found.origin}), x{found.scale}, on {info.name}, {split or 'all of it'}")
    print(f"protocol {name}: {protocol}")
    for note in found.notes:
        print(note if note.startswith("images measured") else f"note: {note}")
    print(table(found))
    if protocol.averaging == "batches" and found.pixels is not None:
        shown = (f"{heading(m, found.unit)} {found.pixels.metrics[m]:#.4g}" for m in found.metrics)
        print("over all pixels: " + ", ".join(shown))
    if out is None:
        print("not kept for a report: add --out FOLDER")
    else:
        print(f"kept in {out}: ahmf report {command.method if command.out is None else out}")
    return dataclasses.replace(found, folder=out)


def _off_the_means(method: Method | Predictions, name: str, protocol: Protocol) -> list[str]:
    """What there is to know of a model whose result keeps to each sample as the mean of its block, where it is none.

    Of the low resolution that a run was trained on there is nothing to be said.
    """
    if not isinstance(method, Network) or not method.keeps_means:
        return []
    if protocol.degrade.kernel == "area" or name == "run":
        return []
    return [
        f"note: this model keeps the mean of each block to the sample over it, which is no mean in low resolution by "
        f"{protocol.degrade.kernel}: --protocol area, with block means, is what it is made for"
    ]


def _record_name(dataset: str, split: str, protocol: str, scale: int) -> str:
    """The folder of a record inside a run's."""
    parts = (part.replace("/", ".") for part in (dataset, split, protocol, f"x{scale}") if part)
    return "-".join(re.sub(r"[^\w.+]+", "_", part) for part in parts)


def _make_folder(folder: Path) -> None:
    """Makes it and those above it; InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def _unit_factor(unit: str | None, info: DatasetInfo) -> float:
    """From a unit to the data set's. InputError where either is no length, and they are not the same."""
    if unit is None:
        return 1.0
    theirs, ours = in_metres(unit), in_metres(info.unit)
    if ours is None:
        raise InputError(
            f"--predictions-unit {unit}: {info.name} is in {info.unit}, which is no length: convert the files instead"
        )
    if theirs is None:
        raise InputError(f"--predictions-unit {unit}: is no length that is known: give mm, cm, m, or as in '0.2 mm'")
    return theirs / ours


def _alike(one: Degradation, other: Degradation) -> bool:
    """Whether both make the same low resolution: 0.0196078 of the range is 5 grey levels."""
    fields = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return all(a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-4)) for a, b in fields)


def how_made() -> dict[str, Any]:
    """The command, and with what it was run."""
    import jax

    device = jax.devices()[0]
    return {
        "command": "ahmf " + shlex.join(sys.argv[1:]),
        "version": importlib.metadata.version("ahmf-jax"),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        **{name: importlib.metadata.version(name) for name in ("jax", "numpy", "opencv-contrib-python-headless")},
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
