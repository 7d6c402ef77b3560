"""Data sets by name: preparing them once with TFDS, opening what was prepared, and opening plain folders of pairs.

    prepare("middlebury", data_dir, "downloads/middlebury")
    dataset = open_dataset("middlebury", "train", data_dir)
    guide, depth, mask, name = dataset[0]

A prepared set is a folder `data_dir/NAME/VERSION` of TFDS records with a file `ahmf.json` beside them, which says what
the numbers mean and lists every example: it can be opened, listed and described without the builder that made it. TFDS
is imported only when records are written or read.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import REMEDIES
from data_pipelines.datasets.base import CACHE_BYTES, Dataset, Example, no_colour
from data_pipelines.datasets.folder import open_pairs
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.opening import unreadable
from data_pipelines.scratch import scratch_folder

if TYPE_CHECKING:
    from data_pipelines.datasets.builder import DepthBuilder

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "Example",
    "Prepared",
    "builder_class",
    "default_data_dir",
    "describe",
    "make_options",
    "open_dataset",
    "open_pairs",
    "prepare",
    "prepared_names",
]

# Name -> "module:class" of the TFDS builder, resolved by `builder_class`.
DATASETS = {
    "scenes": "data_pipelines.datasets.scenes.builder:Scenes",
    "middlebury": "data_pipelines.datasets.middlebury.builder:Middlebury",
    "sintel": "data_pipelines.datasets.sintel.builder:Sintel",
    "lu": "data_pipelines.datasets.lu.builder:Lu",
    "tofmark": "data_pipelines.datasets.tofmark.builder:Tofmark",
    "nyu_v2": "data_pipelines.datasets.nyu_v2.builder:NyuV2",
    "dtu": "data_pipelines.datasets.dtu.builder:Dtu",
    "rgbdd": "data_pipelines.datasets.rgbdd.builder:Rgbdd",
    "diml": "data_pipelines.datasets.diml.builder:Diml",
    "pairs": "data_pipelines.datasets.pairs.builder:Pairs",
}
SUMMARY = "ahmf.json"
DOWNLOADS = "downloads"


def builder_class(name: str) -> type["DepthBuilder"]:
    """The TFDS builder of a data set; its `INFO` says what the numbers mean. InputError for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is not known: choose one of {', '.join(DATASETS)}")
    module, cls = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), cls)


def default_data_dir() -> Path:
    """Where data sets are prepared unless told otherwise: $AHMF_DATA_DIR, or ~/.cache/ahmf_jax/datasets."""
    return Path(os.environ.get("AHMF_DATA_DIR") or Path.home() / ".cache" / "ahmf_jax" / "datasets")


def make_options(cls: type["DepthBuilder"], options: dict[str, Any]) -> Any:
    """The builder's `Options` with these values. InputError for one that it does not have, or that is not possible."""
    fields = [field.name for field in dataclasses.fields(cls.Options)]
    for option in options:
        if option not in fields:
            raise InputError(
                f"{cls.INFO.name} has no option {option!r}: its options are: {', '.join(fields) or 'none'}"
            )
    return cls.Options(**options)


@dataclass(frozen=True)
class Prepared:
    """What is known of a prepared data set, of its file `ahmf.json`.

    Attributes:
      directory: the folder with the records.
      builder: a key of `DATASETS`.
      version: of the builder.
      options: with which it was built.
      info: what the numbers mean; its name is that of the folder.
      notes: what its builder had to say: scenes that are missing, for one.
      splits: for each split, in the order of the records: `name`, `height`, `width`, `known` (the share of pixels
        whose depth is known), `low`, `median` and `high` (of the known depth) of each example.
    """

    directory: Path
    builder: str
    version: str
    options: dict[str, Any]
    info: DatasetInfo
    notes: list[str]
    splits: dict[str, list[dict[str, Any]]]

    @property
    def counts(self) -> dict[str, int]:
        """The number of examples of each split."""
        return {split: len(examples) for split, examples in self.splits.items()}

    def named_splits(self) -> list[str]:
        """The published splits that there are for this data set, as `open_dataset` takes them: "dada/train"."""
        from data_pipelines.datasets.splits import protocols

        return [f"{name}/{split}" for name, named in protocols(self.builder).items() for split in named.splits]


def prepare(
    name: str,
    data_dir: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    save_as: str | None = None,
    replace: bool = False,
    **options: Any,
) -> Prepared:
    """Builds a data set afresh, in place of one of that name where nothing is lost.

    It is built aside and renamed when whole, so that nothing half-prepared is ever found, however it ends. SIGTERM and
    SIGHUP raise KeyboardInterrupt meanwhile.

    Args:
      name: a key of `DATASETS`.
      data_dir: where the prepared set goes, into a folder of its name.
      source: the downloaded files, a folder or an archive; None for generated sets, and for what can be downloaded,
        which then goes to `data_dir/downloads/NAME`.
      save_as: another name for the prepared set, so that one data set can be there with several options.
      replace: put it in the place of any set of that name; otherwise only of one made with the same options that has
        no more examples in any split, and of one that cannot be used.
      **options: the fields of the builder's `Options`, such as height=128 for `scenes`.

    Raises:
      InputError: an unknown name or option; files that are missing, damaged or in the wrong place; no room; a set of
        that name that is not to be replaced.
    """
    cls = builder_class(name)
    chosen = make_options(cls, options)
    if not cls.FROM_FILES and source is not None:
        raise InputError(f"{name} is generated and reads no files: leave {source} (--from) out")
    if source is not None and not os.fspath(source):
        raise InputError("--from is empty: name the folder or archive of the download")
    save_as = _check_name(name, save_as)
    data_dir = Path(data_dir)
    old = data_dir / save_as
    if old.exists() and not any(old.glob("*/dataset_info.json")):
        raise InputError(f"{old}: is there already and is no data set: remove it, or choose another name (--name)")
    given = None if source is None else Path(source)
    if cls.FROM_FILES and given is None:
        given = _fetch(cls, chosen, data_dir)
    with contextlib.ExitStack() as stack:
        try:
            aside = stack.enter_context(scratch_folder(data_dir, save_as))
        except OSError as error:
            raise InputError(f"{data_dir}: cannot be written ({error.strerror}): choose another data folder") from None
        own_words = functools.partial(_own_words, aside=aside, given=given, data_dir=data_dir)
        notes: list[str] = []
        try:
            folder = None if given is None else _unpack(cls, given, aside, notes)
            builder = cls(options=chosen, source_dir=folder, data_dir=str(aside / "built"), file_format="array_record")
            builder.build()
            built = Path(builder.data_dir)
            prepared = Prepared(
                old / built.name,
                name,
                str(cls.VERSION),
                dataclasses.asdict(chosen),
                dataclasses.replace(builder.depth_info, name=save_as),
                [own_words(note) for note in (*notes, *builder.notes)],
                builder.statistics,
            )
            if not replace:
                _check_replaced(prepared, data_dir)
            _write_summary(prepared, built)
            with contextlib.suppress(FileNotFoundError):
                os.replace(old, aside / "replaced")
            os.replace(built.parent, old)
        except InputError as error:
            # What was passed over may be what the builder misses.
            raise InputError(own_words("; ".join([str(error), *notes]))) from error
        except (OSError, RuntimeError) as error:
            # The writer of the records is C++: it tells of a full disk in words.
            why = next((why for why in map(os.strerror, REMEDIES) if why in str(error)), None)
            if isinstance(error, OSError) and error.filename is not None:
                path = Path(own_words(os.fsdecode(error.filename)))
                if given is not None and path not in (data_dir, old) and _inside(path, given):
                    raise unreadable(path, error) from error
            if why is None:
                raise
            raise InputError(
                f"{data_dir}: {name} could not be written ({why}): make room or choose another data folder; nothing "
                "half-built is kept"
            ) from error
    return prepared


def _unpack(cls: type["DepthBuilder"], given: Path, aside: Path, notes: list[str]) -> Path:
    """The folder with everything that the user gave, or the one file that the builder takes; adds to the notes."""
    from data_pipelines.archives import unpacked

    folder, passed_over = unpacked(given, aside / "source")
    notes += passed_over
    if folder.is_file() and folder.suffix.lower() != cls.SINGLE_FILE:
        file = f", nor a {cls.SINGLE_FILE} file" if cls.SINGLE_FILE else ""
        raise InputError(f"{given}: is neither a folder nor an archive{file}: name that of the download")
    return folder


def _own_words(text: str, aside: Path, given: Path | None, data_dir: Path) -> str:
    """The text with the user's own paths in the place of the hidden ones, which are gone when it is read."""
    for hidden in (str(aside.absolute()), str(aside)):
        text = text.replace(f"{hidden}/source/unpacked", str(given))
        text = re.sub(rf"{re.escape(hidden)}[^:]*", lambda _: str(data_dir), text)
    return text


def _inside(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())


def _check_replaced(new: Prepared, data_dir: Path) -> None:
    """Refuses to put a set in the place of another where something is lost: other options, or fewer examples."""
    try:
        old = describe(new.info.name, data_dir)
    except InputError:  # none is there, or none that can be used
        return
    was, will = _options(old), _options(new)
    if was == will and all(new.counts.get(split, 0) >= count for split, count in old.counts.items()):
        return
    differ = [option for option in was | will if was.get(option) != will.get(option)]

    def told(one: Prepared, options: dict[str, Any]) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in one.counts.items())
        return f"{counts} ({', '.join(f'{option} {options.get(option)}' for option in differ)})" if differ else counts

    raise InputError(
        f"{new.info.name} is there already with {told(old, was)}; this would make it {told(new, will)}: give another "
        "--name, or --replace"
    )


def _options(prepared: Prepared) -> dict[str, Any]:
    """All that was chosen, as JSON has it: tuples are lists. An option that there was not yet has its default."""
    options = dataclasses.asdict(builder_class(prepared.builder).Options()) | prepared.options
    return {"data set": prepared.builder, **json.loads(json.dumps(options))}


def _check_name(name: str, save_as: str | None) -> str:
    if save_as is None:
        return name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", save_as) or save_as == DOWNLOADS:
        raise InputError(f"name {save_as!r}: use letters, digits, - and _, beginning with a letter or digit")
    if save_as in DATASETS and save_as != name:
        raise InputError(f"name {save_as!r}: is that of another data set: choose one of your own")
    return save_as


def _fetch(cls: type["DepthBuilder"], options: Any, data_dir: Path) -> Path:
    downloads = cls.downloads(options)
    if not downloads:
        where = f" that no program may fetch: get them from {cls.INFO.url} and" if cls.INFO.url else ":"
        raise InputError(f"{cls.INFO.name} is made from files{where} name their folder or archive with --from")
    from data_pipelines.download import fetch

    return fetch(downloads, data_dir / DOWNLOADS / cls.INFO.name)


def _write_summary(prepared: Prepared, directory: Path) -> None:
    values = dataclasses.asdict(prepared)
    del values["directory"]
    (directory / SUMMARY).write_text(json.dumps(values, indent=0))


def prepared_names(data_dir: str | os.PathLike[str]) -> list[str]:
    """The names of the data sets that are prepared in a folder."""
    return sorted(path.parents[1].name for path in Path(data_dir).glob(f"*/*/{SUMMARY}") if path.parts[-3][0] != ".")


def describe(name: str, data_dir: str | os.PathLike[str]) -> Prepared:
    """What is known of a prepared data set. InputError where it is not prepared, or its description is damaged."""
    found = list((Path(data_dir) / name).glob(f"*/{SUMMARY}")) if name else []
    if len(found) != 1:
        how = f"`{_command(name)}`" if name in DATASETS else "`ahmf data list` shows what there is"
        raise InputError(f"data set {name!r} is not in {data_dir}: build it first ({how})")
    directory = found[0].parent
    try:
        values = json.loads(found[0].read_text())
        prepared = Prepared(directory, **{**values, "info": DatasetInfo(**values["info"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory}: is damaged: build it again, with `{_command(name)}`") from error
    if prepared.builder in DATASETS and prepared.version != str(builder_class(prepared.builder).VERSION):
        raise InputError(
            f"{directory}: was built by an earlier version of {prepared.builder}: build it again, with "
            f"`{_command(prepared.builder)}`"
        )
    return prepared


def _command(name: str) -> str:
    """How a data set is built."""
    return f"ahmf data prepare {name}{' --from DIR' if name in DATASETS and builder_class(name).FROM_FILES else ''}"


class _Records:
    """Some of the records of a prepared data set: `places` are `(split, number)`, in the order that is wanted.

    `names` and `sizes` (height, width) are theirs; `colour` says whether there are guides that are to be decoded.
    """

    def __init__(
        self,
        directory: Path,
        places: Sequence[tuple[str, int]],
        names: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        colour: bool,
    ):
        self.directory = directory
        self.colour = colour
        self.places = places
        self.names = names
        self.sizes = sizes
        # What is decoded once may be kept there, under `key`: building the set again takes it away.
        self.cache_dir = directory / "decoded"
        self._sources: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> str:
        """Names the record among all of the data set's, whatever part of it this is."""
        split, number = self.places[index]
        return f"{split}-{number:06d}"

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        split, number = self.places[index]
        try:
            if split not in self._sources:
                import tensorflow_datasets as tfds

                builder = tfds.builder_from_directory(str(self.directory))
                unread = not self.colour and "guide" in builder.info.features
                decoders = {"guide": tfds.decode.SkipDecoding()} if unread else None
                self._sources[split] = builder.as_data_source(split, decoders=decoders)
            record = self._sources[split][number]
            depth = record["depth"]
            guide = record["guide"] if self.colour else no_colour(depth.shape)
            return guide, depth, record["name"].decode()
        except Exception as error:  # whatever the parsers and decoders of a damaged file raise
            raise InputError(
                f"{self.directory}: record {self.key(index)} ({self.names[index]}) cannot be read "
                f"({' '.join(str(error).split())[:200]}): build the data set again"
            ) from error

    def without_colour(self) -> "_Records":
        """The same depth; no guide is decoded."""
        return _Records(self.directory, self.places, self.names, self.sizes, False)

    def __reduce__(self) -> tuple[type["_Records"], tuple[Any, ...]]:
        return _Records, (self.directory, self.places, self.names, self.sizes, self.colour)


def open_dataset(name: str, split: str, data_dir: str | os.PathLike[str], cache_bytes: int = CACHE_BYTES) -> Dataset:
    """Opens a split of a prepared data set.

    Args:
      name: under which it was prepared.
      split: one of its own, as TFDS writes it: "train", "train+validation", "train[:10]"; or one that a paper has
        published, by the protocol's name: "dada/test" (see `data_pipelines.datasets.splits`).
      data_dir: where it was prepared.
      cache_bytes: how many bytes of decoded images are kept in memory.

    Raises:
      InputError: the set is not prepared there or has no such split, or what is prepared lacks examples of it.
    """
    prepared = describe(name, data_dir)
    places = _places(prepared, split)
    records = [prepared.splits[part][number] for part, number in places]
    names, sizes = [one["name"] for one in records], [(one["height"], one["width"]) for one in records]
    return Dataset(prepared.info, _Records(prepared.directory, places, names, sizes, prepared.info.colour), cache_bytes)


def _places(prepared: Prepared, split: str) -> list[tuple[str, int]]:
    """The records of a split, as `(split as stored, number in it)`."""
    everything = [(part, number) for part, records in prepared.splits.items() for number in range(len(records))]
    protocol, slash, published = split.partition("/")
    if slash:
        from data_pipelines.datasets.splits import protocols, resolve

        known = protocols(prepared.builder)
        if set("[+") & set(split) and known.keys() & set(re.split(r"[+/]", split)):
            raise InputError(f"split {split!r}: a published split is used whole: leave out what [ ] and + say")
        if protocol in known:
            names = [prepared.splits[part][number]["name"] for part, number in everything]
            return [everything[i] for i in resolve(known[protocol], published, names)]
    else:
        import tensorflow_datasets as tfds

        stored = {part: _Length(part, len(records)) for part, records in prepared.splits.items()}
        with contextlib.suppress(ValueError, KeyError, AssertionError):  # what TFDS raises on what it cannot parse
            parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(stored)
            return [
                (part.splitname, number)
                for part in parts
                for number in range(stored[part.splitname].num_examples)[part.from_ : part.to]
            ]
        for part, *ends in re.findall(r"(\w+)\[(-?\d{1,9})?:(-?\d{1,9})?\]", split):
            count = prepared.counts.get(part)
            if count is not None and any(abs(int(end or 0)) > count for end in ends):
                raise InputError(f"data set {prepared.info.name!r}, split {split!r}: {part} has {count} images")
    there = ", ".join([*prepared.splits, *prepared.named_splits()])
    raise InputError(f"data set {prepared.info.name!r} has no split {split!r}: it has {there}")


@dataclass(frozen=True)
class _Length:
    """What TFDS asks of a split to find the part that is meant."""

    name: str
    num_examples: int
