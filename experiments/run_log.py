"""What a run has to show: `metrics.jsonl`, and curves and images in TensorBoard."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.writing import unwritable, write_whole

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
Line = dict[str, float]


class RunLog:
    """The log of a run.

    Attributes:
      lines: the metrics of the whole run so far, as they stand in `metrics.jsonl`. They travel with each checkpoint, so
        that the log of a run that goes on from one is the log of a run that never stopped.
    """

    def __init__(
        self, path: Path, lines: Sequence[Line], file: Any, board: Any, on_error: Callable[[InputError], None]
    ) -> None:
        self.lines = list(lines)
        self._path, self._file, self._board, self._on_error = path, file, board, on_error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a line, and a point to each curve."""
        self.lines.append({"step": step, **values})
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(self.lines[-1]) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            self._on_error(unwritable(self._path, error))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Adds a picture, (height, width, 3) uint8."""
        if self._board is None:
            return
        try:
            self._board.add_image(name, picture, step, dataformats="HWC")
        except OSError as error:
            self._on_error(unwritable(self._path, error))


@contextlib.contextmanager
def open_log(
    run: Path, step: int, lines: Sequence[Line], writes: bool, on_error: Callable[[InputError], None]
) -> Iterator[RunLog]:
    """The log of the run in folder `run`.

    Args:
      run: its folder.
      step: the step that it goes on from; what TensorBoard has of later ones is hidden.
      lines: the metrics up to there.
      writes: whether this process does; the others keep the lines alone.
      on_error: told what could not be written, as on a full disk.
    """
    path = run / METRICS
    if not writes:
        yield RunLog(path, lines, None, None, on_error)
        return
    with _without_torch():
        from tensorboardX import SummaryWriter

    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    with path.open("a") as file, SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1) as board:
        yield RunLog(path, lines, file, board, on_error)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports PyTorch, where it is installed, for tensors that are none of ours; that takes seconds."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # so it is not found
    try:
        yield
    finally:
        del sys.modules["torch"]
