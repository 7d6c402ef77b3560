"""A run's folder belongs to one run at a time; imports no JAX."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from ahmf_jax.errors import InputError
from ahmf_jax.writing import unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
MAX_OWNER = 200  # bytes of the lock file that are read for a message


class InUse(InputError):
    """Another process holds the folder."""


@contextlib.contextmanager
def lock_run(run: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the folder of a run, which must be there, so that no other process trains in it.

    The system takes the lock from a process that dies, however it dies, so a lock file that is left behind bars
    nothing. Where the file system knows no locks, a line on stderr says so, and nothing is held. Of several processes
    that train together, one holds it for all.

    Raises:
      InUse: another process holds it.
      InputError: the folder cannot be written.
    """
    path = Path(run) / LOCK
    try:
        file = path.open("a+b")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            if fcntl is None:
                raise OSError("no locks on this system")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(MAX_OWNER).decode(errors="replace").strip() or "process unknown"
            raise InUse(
                f"{run} is in use by another run ({owner}): wait until it ends or stop it, or choose another folder"
            ) from None
        except OSError as error:
            print(
                f"warning: {path} cannot be locked ({error.strerror or error}): see to it yourself that no other run "
                "uses the folder",
                file=sys.stderr,
            )
        else:
            file.truncate(0)
            # Only for the message above: who holds it is known to the system, not from the text.
            with contextlib.suppress(OSError):  # as on a full disk
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                file.flush()
        yield
