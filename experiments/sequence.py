"""`ahmf upsample` on a folder or a video: one process, one compiled program, and reading and writing meanwhile."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ahmf_jax.errors import InputError
from ahmf_jax.temporal import Temporal
from ahmf_jax.upsample import Upsampler
from ahmf_jax.writing import unwritable
from data_pipelines.files import WRITABLE
from data_pipelines.rgbd import Frame, bare_name, by_name
from experiments import upsample
from experiments.upsample import Files, Images, Settings

THREADS = 2
# How many frames may be in memory that were read, or computed and not yet written.
AHEAD = 4


@dataclass(frozen=True)
class Folders:
    """Where the outputs of a sequence go, a file for each frame; the mask may be one file for all."""

    out: Path
    mask: Path | None = None
    picture: Path | None = None
    confidence: Path | None = None
    spread: Path | None = None
    ply: Path | None = None

    def outputs(self) -> list[Path]:
        """The folders that are written into."""
        folders = (self.out, self.picture, self.confidence, self.spread, self.ply)
        return [folder for folder in folders if folder is not None]


@dataclass(frozen=True)
class Job:
    """A frame's name, and its files or what is wrong with it."""

    name: str
    files: Files | None
    problem: str = ""


@contextlib.contextmanager
def no_empty_folders(folders: Folders) -> Iterator[None]:
    """Takes away, however it ends, the outputs' folders that were made meanwhile and into which nothing came."""
    new = [folder for folder in folders.outputs() if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def plan(frames: Sequence[Frame], folders: Folders, *, colour: bool = True) -> list[Job]:
    """What is to be done, checked as far as it can be without reading; makes the folders that are missing.

    The depth of a frame is written as NAME and the suffix that it was read with (DPT: .pfm), confidence and pictures as
    .png, the spread as .tif, clouds as .ply. Without `colour` a frame need not have a picture.

    Raises:
      InputError: a folder that cannot be made, or an output that is an input or another frame's.
    """
    if folders.mask is not None and not folders.mask.exists():
        raise InputError(f"{folders.mask}: there is no such file or folder: check the name (--mask)")
    masks = by_name(folders.mask) if folders.mask is not None and folders.mask.is_dir() else None
    jobs = [_job(frame, folders, masks, colour) for frame in frames]
    for folder in folders.outputs():
        upsample.check_parent(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file, and a sequence is written into folders: name one")
    for folder in folders.outputs():
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
    upsample.check_outputs([job.files for job in jobs if job.files is not None])
    return jobs


def _job(frame: Frame, folders: Folders, masks: dict[str, Path] | None, colour: bool) -> Job:
    if frame.depth is None or (colour and frame.guide is None):
        there, missing = (frame.guide, "depth map") if frame.depth is None else (frame.depth, "colour picture")
        return Job(frame.name, None, f"{there}: has no {missing} beside it: add it or take this one away")
    mask = folders.mask if masks is None else masks.get(bare_name(frame.depth))
    if masks is not None and mask is None:
        return Job(frame.name, None, f"{frame.depth}: has no mask in {folders.mask}: add it (--mask)")

    def place(folder: Path | None, suffix: str) -> Path | None:
        return None if folder is None else folder / f"{frame.name}{suffix}"

    suffix = frame.depth.suffix.lower()
    files = Files(
        frame.depth,
        frame.guide,
        folders.out / f"{frame.name}{suffix if suffix in WRITABLE else '.pfm'}",
        mask,
        place(folders.picture, ".png"),
        place(folders.confidence, ".png"),
        place(folders.spread, ".tif"),
        place(folders.ply, ".ply"),
    )
    return Job(frame.name, files)


def upsample_sequence(
    upsampler: Upsampler,
    jobs: Sequence[Job],
    settings: Settings,
    *,
    one_size: bool,
    temporal: Temporal | None = None,
) -> list[str]:
    """Super-resolves every frame that can be, in their order; says on stderr what is wrong with each of the others.

    While a frame is computed, the next are read and the last are written. However it ends, what is there is whole.

    Args:
      upsampler: the model.
      jobs: of `plan`.
      settings: of all frames.
      one_size: whether a frame of another size than the first is wrong, as it is in a video.
      temporal: what steadies the frames.

    Returns:
      The names of the frames that failed.
    """
    failed: list[str] = []
    size: tuple[int, ...] | None = None
    reading: deque[Future[Images]] = deque()
    writing: deque[tuple[Job, Future[None]]] = deque()
    start = time.monotonic()
    readers, writers = ThreadPoolExecutor(THREADS, "read"), ThreadPoolExecutor(THREADS, "write")
    bar = tqdm(total=len(jobs), unit="frame", disable=None)

    def fail(job: Job, error: InputError) -> None:
        failed.append(job.name)
        tqdm.write(f"ahmf: frame {job.name}: {error}", file=sys.stderr)
        bar.update()

    def finish(job: Job, future: "Future[None]") -> None:
        try:
            future.result()
        except InputError as error:
            fail(job, error)
        else:
            bar.update()

    try:
        for i, job in enumerate(jobs):
            for other in jobs[len(reading) + i : i + AHEAD]:
                reading.append(readers.submit(_read, other, settings))
            try:
                images = reading.popleft().result()
                if one_size and size is not None and size != images.depth.shape:
                    here, first = (f"{width} x {height}" for height, width in (images.depth.shape, size))
                    raise InputError(
                        f"{_files(job).depth}: is {here} pixels, and the first frame {first}: give frames of one size, "
                        "or folders of images (--depth, --guide)"
                    )
                result = upsample.run(upsampler, _files(job), images, settings)
            except InputError as error:
                fail(job, error)
                continue
            size = images.depth.shape
            if temporal is not None:
                result = replace(result, depth=temporal.blend(result.depth, result.guide, result.mask))
            while len(writing) >= AHEAD:
                finish(*writing.popleft())
            writing.append((job, writers.submit(upsample.write, _files(job), images, result, settings)))
        while writing:
            finish(*writing.popleft())
    finally:
        # A frame that is being written is still finished; what has not begun is dropped.
        for pool in (readers, writers):
            pool.shutdown(cancel_futures=True)
        bar.close()
    done, seconds, programs = len(jobs) - len(failed), time.monotonic() - start, upsampler.engine.compilations
    print(
        f"{done} of {len(jobs)} frames in {seconds:.1f} s, {done / seconds:.2f} a second; {programs} compiled "
        f"program{'' if programs == 1 else 's'}"
    )
    return failed


def _read(job: Job, settings: Settings) -> Images:
    if job.files is None:
        raise InputError(job.problem)
    return upsample.read(job.files, settings)


def _files(job: Job) -> Files:
    assert job.files is not None, "a frame without files has failed as it was read"
    return job.files
