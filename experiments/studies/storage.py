"""Where studies are kept: an Optuna storage in SQLite or PostgreSQL, and in the same database the workers' leases.

A lease says which worker has a trial, and until when. Taking one is a single statement by the database's clock, so two
workers never have the same, and that of a worker that died ends by itself. Optuna knows heartbeats too, but its way
with a dead worker's trial, failing it and queueing another, is two steps, between which a trial can be lost.

Leases also say who makes the tables of a new database: that takes several transactions, of which a process that is
killed leaves some undone and the next one does the rest.
"""

import contextlib
import math
import os
import re
import shlex
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ahmf_jax.errors import InputError
from ahmf_jax.writing import unwritable

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

STORAGE = "AHMF_STUDIES"  # the environment's say about where studies are kept
DEFAULT = "sqlite:///studies/studies.db"
PATIENCE = 120.0  # seconds for which a worker waits for a database that was there and is gone
ALONE = 60.0  # seconds without a sign of life after which another may go on with what one process does for all
_EXAMPLES = "write sqlite:///studies.db or postgresql://USER@HOST/NAME"
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
_OPTIONS = {
    # Workers wait for each other's short transactions instead of failing.
    "sqlite": {"timeout": 60},
    # Nobody waits for a machine that is gone without a word: seconds, and milliseconds.
    "postgresql": {"connect_timeout": 10, "tcp_user_timeout": 30_000},
}
_LEASES, _MADE = "ahmf_leases", "tables"
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {_LEASES} "
    "(what VARCHAR(200) PRIMARY KEY, worker VARCHAR(200) NOT NULL, expires DOUBLE PRECISION NOT NULL)"
)


class Unreachable(InputError):
    """The storage cannot be used, which is no fault of what was to be done."""


class Lease(NamedTuple):
    """Who has something, and for how many seconds more; less than 0: that is over."""

    worker: str
    left: float
    released: bool


class Leases:
    """The table of who has what; `expires` is the end of a lease by the database's clock, 0 once it was given back."""

    def __init__(self, url: str, engine: "sqlalchemy.Engine") -> None:
        self.url, self._engine, self._now = url, engine, _NOW[engine.dialect.name]

    def take(self, what: str, worker: str, seconds: float) -> bool:
        """Takes a lease that nobody has, or whose time is over, or prolongs its own; whether this worker has it now."""
        done = self._run(
            f"INSERT INTO {_LEASES} (what, worker, expires) VALUES (:what, :worker, {self._now} + :seconds) "
            f"ON CONFLICT (what) DO UPDATE SET worker = :worker, expires = {self._now} + :seconds "
            f"WHERE {_LEASES}.expires < {self._now} OR {_LEASES}.worker = :worker",
            {"what": what, "worker": worker, "seconds": seconds},
        )
        return done == 1

    def renew(self, what: str, worker: str, seconds: float) -> bool:
        """Prolongs a lease; False where another worker has taken it."""
        done = self._run(
            f"UPDATE {_LEASES} SET expires = {self._now} + :seconds WHERE what = :what AND worker = :worker",
            {"what": what, "worker": worker, "seconds": seconds},
        )
        return done == 1

    def release(self, what: str, worker: str) -> None:
        """Gives a lease back, for anyone to take; who had it has it no more, and cannot prolong it either."""
        self._run(
            f"UPDATE {_LEASES} SET expires = 0, worker = '' WHERE what = :what AND worker = :worker",
            {"what": what, "worker": worker},
        )

    def leases(self, prefix: str = "") -> dict[str, Lease]:
        """All that were ever taken of what begins so."""
        import sqlalchemy

        with reachable(self.url), self._engine.connect() as connection:
            text = sqlalchemy.text(
                f"SELECT what, worker, expires - {self._now}, expires FROM {_LEASES} "
                "WHERE substr(what, 1, length(:prefix)) = :prefix"
            )
            rows = connection.execute(text, {"prefix": prefix}).all()
        return {what: Lease(worker, float(left), expires == 0) for what, worker, left, expires in rows}

    @contextlib.contextmanager
    def alone(self, what: str, patience: float = 2 * ALONE) -> Iterator[Callable[[], None]]:
        """What one process does for all, others waiting; a failure leaves it to them at once.

        Yields what is to be called now and then, as a sign of life.
        """
        worker = worker_name()

        def go_on() -> None:
            if not self.renew(what, worker, ALONE):
                raise Unreachable(f"--storage {without_password(self.url)}: {what} went on elsewhere: try again")

        deadline = time.monotonic() + patience
        while not self.take(what, worker, ALONE):
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"--storage {without_password(self.url)}: {what} is being changed by another: try again"
                )
            time.sleep(0.1)
        try:
            yield go_on
        except BaseException:
            with contextlib.suppress(Unreachable):  # over, but not given back as what was done is
                self._run(
                    f"UPDATE {_LEASES} SET expires = 1 WHERE what = :what AND worker = :worker",
                    {"what": what, "worker": worker},
                )
            raise
        self.release(what, worker)

    def make(self) -> None:
        """Makes the table, where it is not there."""
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError

        for last in (False, True):
            try:
                with self._engine.begin() as connection:
                    connection.execute(sqlalchemy.text(_CREATE))
                return
            except SQLAlchemyError:
                if last:  # PostgreSQL says so to one of two who do it at once
                    raise

    def _run(self, statement: str, values: Mapping[str, Any]) -> int:
        """Rows that a statement changed."""
        import sqlalchemy

        with reachable(self.url), self._engine.begin() as connection:
            return connection.execute(sqlalchemy.text(statement), values).rowcount


class Storage(Leases):
    """A database of studies; `open_storage` makes it.

    Attributes:
      url: as it was given.
      shown: the same as it may be printed, without a password.
      place: its parts; a file's path is absolute, so that it is found from anywhere.
      backend: Optuna's view of it.
      gave_up: whether it was waited for in vain, and is away still: see `patient`.
      back: when it was there again after it had been away, by this process's clock.
    """

    def __init__(self, url: str, place: "sqlalchemy.URL", backend: "optuna.storages.RDBStorage") -> None:
        super().__init__(url, backend.engine)
        self.shown, self.place, self.backend = without_password(url), place, backend
        self.gave_up, self.back = False, -math.inf
        self._away: float | None = None  # since when

    @contextlib.contextmanager
    def patient(self, willing: Callable[[], bool], seconds: float = PATIENCE) -> Iterator[None]:
        """A database that is gone is waited for meanwhile, so long and while `willing` says so.

        Whoever needs a connection and gets none tries again, until the database has been away for so many seconds: then
        nobody waits any more. A statement in whose middle the database went fails.
        """
        import sqlalchemy

        def connect(dialect: Any, _record: Any, args: Any, options: Any) -> Any:
            while True:
                try:
                    made = dialect.connect(*args, **options)
                except dialect.loaded_dbapi.OperationalError:
                    self._away = self._away or time.monotonic()
                    self.gave_up = time.monotonic() > self._away + seconds
                    if self.gave_up or not willing():
                        raise
                    time.sleep(0.5)
                else:
                    if self._away is not None:
                        self._away, self.gave_up, self.back = None, False, time.monotonic()
                    return made

        sqlalchemy.event.listen(self._engine, "do_connect", connect)
        try:
            yield
        finally:
            sqlalchemy.event.remove(self._engine, "do_connect", connect)


def default_url() -> str:
    """Where studies are kept if nothing is said."""
    return os.environ.get(STORAGE, DEFAULT)


def worker_name() -> str:
    """Of this process, one that no other has."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def open_storage(url: str, *, create: bool = False) -> Storage:
    """The storage at a URL.

    Args:
      url: sqlite:///FILE (a fourth slash for a path from the root) or postgresql://USER:PASSWORD@HOST:PORT/DATABASE.
      create: make what is missing: the file and its folder, the tables.

    Raises:
      InputError: no such URL; it cannot be reached; it holds something else, or another version's tables; nothing is
        changed then.
    """
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to say, our commands say
    place, shown = _place(url), without_password(url)
    kind = place.get_backend_name()
    if kind == "sqlite":
        file = Path(place.database or "")
        if not create and not file.is_file():
            raise InputError(f"--storage {shown}: there is no file {file}: check the path, or start a study first")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(file, error) from None
    given = {name: value for name, value in _OPTIONS[kind].items() if name not in place.query}
    # No connection is kept: hundreds of workers that train for hours would use up a server's, and have none that broke.
    options = {"poolclass": sqlalchemy.NullPool, "connect_args": given}

    def backend(make: bool) -> "optuna.storages.RDBStorage":
        try:
            return optuna.storages.RDBStorage(
                place.render_as_string(hide_password=False), engine_kwargs=dict(options), skip_table_creation=not make
            )
        except RuntimeError as error:
            raise _another_version(shown, str(error).strip().partition("\n")[0]) from None

    with reachable(url):
        try:
            engine = sqlalchemy.create_engine(place, **options)
        except ImportError:
            raise InputError(
                f"--storage {shown}: PostgreSQL needs psycopg: pip install 'ahmf-jax[postgresql]'"
            ) from None
        tables, leases = set(sqlalchemy.inspect(engine).get_table_names()), Leases(url, engine)
        if _LEASES not in tables:
            if not tables and not create:
                raise InputError(f"--storage {shown}: holds no studies: start one first")
            if tables:  # Optuna's of this version, or nothing is written
                _check_optunas(tables, shown)
                backend(make=False)
            leases.make()
        made = leases.leases(_MADE).get(_MADE)
        if made is None or not made.released:
            with leases.alone(_MADE):
                # What is there and whole is Optuna's own check's.
                backend(make=not sqlalchemy.inspect(engine).has_table("alembic_version"))
        return Storage(url, place, backend(make=False))


def _place(url: str) -> "sqlalchemy.URL":
    """The parts of a URL, with the driver that is used and an absolute path."""
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError

    shown = without_password(url)
    try:
        place = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):  # of a port
        raise InputError(f"--storage {shown}: is no URL of a database: {_EXAMPLES}") from None
    kind = place.get_backend_name()
    if kind not in _DRIVERS:
        raise InputError(f"--storage {shown}: studies are kept in sqlite or postgresql, not in {kind}: {_EXAMPLES}")
    place = place.set(drivername=_DRIVERS[kind])
    if kind != "sqlite":
        return place
    if not place.database or place.database == ":memory:" or place.query:
        raise InputError(f"--storage {shown}: name a file and nothing else, as in sqlite:///studies.db")
    return place.set(database=str(Path(place.database).resolve()))


def _check_optunas(tables: set[str], shown: str) -> None:
    """What was not made here is another program's, unless it is a storage of Optuna's."""
    if "version_info" not in tables:
        raise InputError(
            f"--storage {shown}: holds other tables ({', '.join(sorted(tables)[:3])}, ...) and no studies: name "
            "another database"
        )
    if "alembic_version" not in tables:  # Optuna would write there
        raise _another_version(shown, "its tables have no version")


def _another_version(shown: str, reason: str) -> InputError:
    return InputError(
        f"--storage {shown}: is of another version of Optuna ({reason}); nothing was changed: use that version, "
        "`optuna storage upgrade` on a copy, or another database"
    )


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """What the database at that URL does not do is `Unreachable`, in one line."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
        remedy = "see that it may be written, and is a database"
        if not url.startswith("sqlite"):
            remedy = "see that the server runs and has this database, and that user and password are right"
        raise Unreachable(
            f"--storage {without_password(url)}: cannot be used ({lines[0] if lines else type(cause).__name__}): "
            f"{remedy}"
        ) from None


def without_password(url: str) -> str:
    """The URL as it may be shown; also of one that is none, as with a letter in the password that should be quoted.

    Where it is not clear what is the password, more is left out than that.
    """
    found = re.match(r"[\w+.-]+://", url)
    scheme = found[0] if found else ""
    if scheme.startswith("sqlite"):
        return url
    user, at, place = url[len(scheme) :].rpartition("@")
    shown = f"{scheme}{user.partition(':')[0]}{at}{place}"
    return re.sub(r"(?<=[?&])(ssl)?password=[^&]*(&|$)", "", shown).rstrip("?&")


def from_anywhere(storage: Storage) -> str:
    """The URL without a password and with a file's whole path."""
    return _whole(storage.place)


def with_password(url: str) -> str:
    """The URL to open for one that was written down by `from_anywhere`: $AHMF_STUDIES, where that names the same."""
    with contextlib.suppress(InputError):
        if _whole(_place(default_url())) == url:
            return default_url()
    return url


def _whole(place: "sqlalchemy.URL") -> str:
    return without_password(place.render_as_string(hide_password=False))


def as_typed(words: Sequence[str]) -> str:
    """`ahmf` with the words that it was given, without passwords."""
    return shlex.join(["ahmf", *map(_shown_word, words)])


def _shown_word(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{without_password(value) if '://' in value else value}"


def command(storage: Storage, *words: str) -> str:
    """`ahmf` with these words, on this storage, as it can be copied into a shell; without its password."""
    where = [] if storage.url == default_url() else ["--storage", storage.shown]
    return shlex.join(["ahmf", *words, *where])


def dashboard_command(storage: Storage) -> str:
    """What shows the storage in a browser. Its password is not in it: PGPASSWORD or ~/.pgpass may have it."""
    return shlex.join(["optuna-dashboard", from_anywhere(storage)])
