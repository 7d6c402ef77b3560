"""Where studies are kept: an Optuna storage in SQLite or PostgreSQL, and in the same database the workers' leases.

A lease says which worker has a trial, and until when. Taking one is a single statement by the database's clock, so two
workers never have the same, and that of a worker that died ends by itself. Optuna knows heartbeats too, but its way
with a dead worker's trial, failing it and queueing another, is two steps, between which a trial can be lost.
"""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ahmf_jax.errors import InputError
from ahmf_jax.writing import unwritable

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

STORAGE = "AHMF_STUDIES"  # the environment's say about where studies are kept
DEFAULT = "sqlite:///studies/studies.db"
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
_CREATE = (
    "CREATE TABLE IF NOT EXISTS ahmf_leases "
    "(what VARCHAR(200) PRIMARY KEY, worker VARCHAR(200) NOT NULL, expires DOUBLE PRECISION NOT NULL)"
)


class Lease(NamedTuple):
    """Who has something, and for how many seconds more; less than 0: that is over."""

    worker: str
    left: float
    released: bool


class Storage:
    """A database of studies; `open_storage` makes it.

    Attributes:
      url: as it was given.
      shown: the same as it may be printed, without a password.
      backend: Optuna's view of it.
    """

    def __init__(self, url: str, engine: "sqlalchemy.Engine", backend: "optuna.storages.RDBStorage") -> None:
        self.url, self.shown, self.backend = url, without_password(url), backend
        self._engine, self._now = engine, _NOW[engine.dialect.name]

    def take(self, what: str, worker: str, seconds: float) -> bool:
        """Takes a lease that nobody has, or whose time is over; whether this worker has it now."""
        done = self._run(
            f"INSERT INTO ahmf_leases (what, worker, expires) VALUES (:what, :worker, {self._now} + :seconds) "
            f"ON CONFLICT (what) DO UPDATE SET worker = :worker, expires = {self._now} + :seconds "
            f"WHERE ahmf_leases.expires < {self._now}",
            {"what": what, "worker": worker, "seconds": seconds},
        )
        return done == 1

    def renew(self, what: str, worker: str, seconds: float) -> bool:
        """Prolongs a lease; False where another worker has taken it."""
        return (
            self._run(
                f"UPDATE ahmf_leases SET expires = {self._now} + :seconds WHERE what = :what AND worker = :worker",
                {"what": what, "worker": worker, "seconds": seconds},
            )
            == 1
        )

    def release(self, what: str, worker: str) -> None:
        """Gives a lease back, for anyone to take."""
        self._run(
            "UPDATE ahmf_leases SET expires = 0 WHERE what = :what AND worker = :worker",
            {"what": what, "worker": worker},
        )

    def leases(self) -> dict[str, Lease]:
        """All that were ever taken."""
        import sqlalchemy

        with reachable(self.url), self._engine.connect() as connection:
            text = sqlalchemy.text(f"SELECT what, worker, expires - {self._now}, expires FROM ahmf_leases")
            rows = connection.execute(text).all()
        return {what: Lease(worker, float(left), expires == 0) for what, worker, left, expires in rows}

    def _run(self, statement: str, values: Mapping[str, Any]) -> int:
        """Rows that a statement changed."""
        import sqlalchemy

        with reachable(self.url), self._engine.begin() as connection:
            return connection.execute(sqlalchemy.text(statement), values).rowcount


def default_url() -> str:
    """Where studies are kept if nothing is said."""
    return os.environ.get(STORAGE, DEFAULT)


def worker_name() -> str:
    """Of this process, one that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


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
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to say, our commands say
    try:
        place = sqlalchemy.make_url(url)
    except ArgumentError:
        raise InputError(
            f"--storage {without_password(url)}: is no URL: write sqlite:///studies.db or postgresql://USER@HOST/NAME"
        ) from None
    kind = place.get_backend_name()
    if kind not in _DRIVERS:
        raise InputError(
            f"--storage {without_password(url)}: studies are kept in sqlite or postgresql, not in {kind}: write "
            "sqlite:///studies.db or postgresql://USER@HOST/NAME"
        )
    place = place.set(drivername=_DRIVERS[kind])
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        file = Path(place.database or "")
        if not place.database or place.database == ":memory:":
            raise InputError(f"--storage {url}: name a file, as in sqlite:///studies.db: memory is not shared")
        if not create and not file.is_file():
            raise InputError(f"--storage {url}: there is no file {file}: check the path, or start a study first")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(file, error) from None
        # Workers wait for each other's short transactions instead of failing.
        options["connect_args"] = {"timeout": 60}
    try:
        engine = sqlalchemy.create_engine(place, **options)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise InputError(
            f"--storage {without_password(url)}: PostgreSQL needs psycopg: pip install 'ahmf-jax[postgresql]'"
        ) from None
    with reachable(url):
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        if tables and "version_info" not in tables:
            raise InputError(
                f"--storage {without_password(url)}: holds other tables ({', '.join(sorted(tables)[:3])}, ...) and no "
                "studies: name another database"
            )
        if not tables and not create:
            raise InputError(f"--storage {without_password(url)}: holds no studies: start one first")
        try:
            backend = optuna.storages.RDBStorage(
                place.render_as_string(hide_password=False),
                engine_kwargs=options,
                skip_table_creation=bool(tables),  # so that another version's tables stay as they are
            )
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"--storage {without_password(url)}: is of another version of Optuna ({reason}); nothing was changed: "
                "use that version, `optuna storage upgrade` on a copy, or another database"
            ) from None
        if "ahmf_leases" not in tables:
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text(_CREATE))
    return Storage(url, engine, backend)


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """What the database at that URL does not do is an InputError of one line."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        lines = str(getattr(error, "orig", None) or cause).strip().splitlines()
        raise InputError(
            f"--storage {without_password(url)}: cannot be used ({lines[0] if lines else type(cause).__name__}): see "
            "that it is there, may be written, and is a database"
        ) from None


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    head, at, tail = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.partition(':')[0]}{at}{tail}" if at else url
