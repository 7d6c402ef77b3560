"""A folder to build in that is gone at the end, however the work ends.

A signal that asks the process to go becomes an exception, so that the folder is removed. One that is killed outright
leaves its folder behind, and the next to work in the same place removes it: a lock, which the system takes from a
process that dies, tells such a folder from one in use.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

try:
    import fcntl
except ImportError:  # Windows: nothing is known of other processes there, and their folders are left alone
    fcntl = None  # type: ignore[assignment]

# No other program's: whatever holds a file of this name may be removed.
LOCK = "ahmf-scratch.lock"


@contextlib.contextmanager
def scratch_folder(place: Path, prefix: str) -> Iterator[Path]:
    """Gives a new hidden folder in `place`, which is made where it is missing; dead ones beside it are removed.

    Raises:
      OSError: `place` cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    sweep(place)
    with _signals_raise():
        folder = Path(tempfile.mkdtemp(prefix=f".{prefix}-", dir=place))
        try:
            with _held(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(place: Path) -> None:
    """Removes the scratch folders in `place` whose processes are dead."""
    for path in place.glob(f".*/{LOCK}"):
        # Another user's, or on a file system without locks: let be. BlockingIOError: in use.
        with contextlib.suppress(OSError), path.open("r+b") as lock:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Locks the folder. The file gets its name when it is locked: no sweep can come between."""
    temp = folder / f"{LOCK}.tmp"
    with temp.open("xb") as lock:
        if fcntl:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.replace(temp, folder / LOCK)
        yield


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, where they would end the process."""

    def stop(signum: int, frame: FrameType | None) -> None:
        for other in ours:
            signal.signal(other, signal.SIG_IGN)  # the removal that follows must not be interrupted
        raise KeyboardInterrupt

    names = (signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
    # Handlers can be set in the main thread alone. One that is there already, or `nohup`'s, keeps its say.
    main = threading.current_thread() is threading.main_thread()
    ours = [name for name in names if main and signal.getsignal(name) == signal.SIG_DFL]
    for name in ours:
        signal.signal(name, stop)
    try:
        yield
    finally:
        for name in ours:
            signal.signal(name, signal.SIG_DFL)
