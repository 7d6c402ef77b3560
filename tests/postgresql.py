"""A PostgreSQL server of the tests' own: made, started and taken away by them."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import free_port

# Of a test with the fixture `url`.
on_both = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
USER, PASSWORD = "ahmf", "secret{%40"
QUOTED = "secret%7B%2540"  # in a URL
START_S = 30


class Missing(Exception):
    """There is no PostgreSQL here."""


class Server:
    """It listens on a port of this machine alone, and asks for a password."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs, self.port = folder, programs, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        # It refuses to run as root.
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._as: dict[str, object] = (
            {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        )
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        password = folder / "password"
        password.write_text(PASSWORD)
        self._call(
            "initdb", "--username", USER, "--auth=scram-sha-256", "--pwfile", password, "--no-sync", "-E", "UTF8"
        )

    def _call(self, program: str, *args: object) -> None:
        """Runs a program of PostgreSQL's on the server's data."""
        words = [str(self._programs / program), "-D", str(self._folder / "data"), *map(str, args)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=self._folder, **self._as)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Starts it, and waits until it answers. It ends with the thread that starts it, however that ends."""
        import psycopg

        if self._process is not None:
            return
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # a machine that fails is not what is tested
            "max_connections": 50,
        }
        # Tests that are killed leave none behind, where Linux's own tool is there; by Python it would take a fork.
        setpriv = shutil.which("setpriv")
        words = [setpriv, "--pdeathsig", "QUIT"] if setpriv else []
        words += [str(self._programs / "postgres"), "-D", str(self._folder / "data")]
        words += [f"--{name}={value}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self._folder, **self._as)  # type: ignore[call-overload]
        until = time.monotonic() + START_S
        while True:
            try:
                self._connect("postgres").close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < until and self._process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """Ends it and every connection."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # without waiting for who is connected
            self._process.wait(timeout=START_S)
            self._process = None

    def _connect(self, database: str):  # type: ignore[no-untyped-def]
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        )

    def url(self, database: str, password: str = QUOTED) -> str:
        """As `--storage` is given it."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new one, which is empty."""
        self._databases += 1
        name = f"studies{self._databases}"
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def programs() -> Path:
    """The folder of PostgreSQL's programs, of the newest that there are."""
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not folders:
        raise Missing("there is no PostgreSQL: no `postgres` on the PATH or in /usr/lib/postgresql")
    return max(folders, key=lambda folder: int(folder.parent.name))


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that runs. `Missing` where it cannot: without PostgreSQL, or psycopg."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Missing("there is no psycopg") from None
    where = programs()
    # Not below pytest's folders, which are for this user alone.
    with tempfile.TemporaryDirectory(prefix="ahmf-postgresql-", ignore_cleanup_errors=True) as folder:
        started = Server(Path(folder), where)
        try:
            started.start()
            yield started
        finally:
            started.stop()
