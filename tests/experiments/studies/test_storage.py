"""Leases, and who may make and open a storage; on SQLite and on a PostgreSQL server of the tests' own."""

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ahmf_jax.errors import InputError
from experiments.studies import storage as storages
from experiments.studies.storage import (
    Unreachable,
    dashboard_command,
    default_url,
    from_anywhere,
    open_storage,
    without_password,
    worker_name,
)
from tests.postgresql import PASSWORD, on_both
from tests.processes import ends, environment, free_port, start


@on_both
def test_a_lease_is_one_workers_until_it_is_over(storage):
    assert storage.take("trial/a/0", "one", 0.6)
    assert not storage.take("trial/a/0", "two", 0.6)
    assert storage.take("trial/a/0", "one", 0.6)  # again: what a worker has, it may take
    (lease,) = storage.leases("trial/a/").values()
    assert lease.worker == "one" and 0 < lease.left <= 0.6 and not lease.released
    time.sleep(0.7)
    assert storage.renew("trial/a/0", "one", 0.1)  # late, but nobody else took it
    time.sleep(0.2)
    assert storage.take("trial/a/0", "two", 60)
    assert not storage.renew("trial/a/0", "one", 60)
    storage.release("trial/a/0", "one")  # not its own
    assert storage.leases("trial/a/")["trial/a/0"].worker == "two"


@on_both
def test_a_lease_that_was_given_back_is_anyones_and_cannot_be_prolonged(storage):
    assert storage.take("trial/a/0", "one", 60)
    storage.release("trial/a/0", "one")
    assert storage.leases("trial/")["trial/a/0"].released
    assert not storage.renew("trial/a/0", "one", 60)  # as by the thread that had begun to
    assert storage.take("trial/a/0", "two", 60)


@on_both
def test_leases_are_found_by_what_they_begin_with_alone(storage):
    for what in ("trial/a_b/1", "trial/aXb/1", "trial/a%/1", "trial/a_b/12"):
        assert storage.take(what, "one", 60)
    assert set(storage.leases("trial/a_b/")) == {"trial/a_b/1", "trial/a_b/12"}
    assert set(storage.leases("trial/a%/")) == {"trial/a%/1"}


@on_both
def test_of_many_that_want_a_lease_one_gets_it(url):
    """Each with connections of its own, as workers have them."""
    many = [open_storage(url, create=True) for _ in range(4)]
    barrier = threading.Barrier(len(many))

    def takes(storage):
        worker, got = worker_name(), []
        for number in range(20):
            barrier.wait(timeout=60)
            if storage.take(f"trial/a/{number}", worker, 60):
                got.append(number)
        return got

    with ThreadPoolExecutor(len(many)) as pool:
        got = list(pool.map(takes, many))
    assert sorted(number for numbers in got for number in numbers) == list(range(20))


def test_what_one_does_alone_others_wait_for(storage, monkeypatch):
    order, begun = [], threading.Event()

    def first():
        with storage.alone("study/a"):
            begun.set()
            time.sleep(0.4)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(10)
    with storage.alone("study/a"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]

    with pytest.raises(RuntimeError), storage.alone("study/a"):
        raise RuntimeError
    assert not storage.leases("study/")["study/a"].released  # not done
    with storage.alone("study/a", patience=0):  # but free
        pass
    said = "study/a is being changed by another: try again"
    with storage.alone("study/a"), pytest.raises(InputError, match=said), storage.alone("study/a", patience=0):
        pass
    monkeypatch.setattr(storages, "ALONE", 0.1)
    with pytest.raises(InputError, match="study/a went on elsewhere"), storage.alone("study/a") as go_on:
        go_on()
        time.sleep(0.3)
        assert storage.take("study/a", "another", 60)
        go_on()


OPEN = """
import sys
from experiments.studies.storage import open_storage
sys.stdin.readline()
storage = open_storage(sys.argv[1], create=True)
print(sorted(storage.leases()), storage.backend.get_current_version())
"""


@on_both
def test_processes_that_make_a_storage_at_once_make_one(url):
    workers = [start(["-c", OPEN, url], environment(1), stdin=subprocess.PIPE) for _ in range(3)]
    time.sleep(0.2)
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    ended = ends(workers, 100)
    assert [end.status for end in ended] == [0] * 3, ended
    assert len({end.out for end in ended}) == 1
    assert len(rows_of(url, "alembic_version")) == len(rows_of(url, "version_info")) == 1


def rows_of(url, table):
    import sqlalchemy

    engine = sqlalchemy.create_engine(storages._place(url))
    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(f"SELECT * FROM {table}")).all()
    engine.dispose()
    return rows


def execute(url, *statements):
    import sqlalchemy

    engine = sqlalchemy.create_engine(storages._place(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "undone"),
    [
        ("sqlite", ["DELETE FROM alembic_version"]),
        ("sqlite", ["DROP TABLE alembic_version", "DELETE FROM version_info"]),
        ("postgresql", ["DROP TABLE alembic_version", "DROP TABLE trial_values", "DROP TABLE version_info"]),
    ],
    indirect=["url"],
    ids=["not stamped", "no version", "not all tables"],
)
def test_a_storage_whose_maker_was_killed_is_finished(url, undone):
    open_storage(url, create=True)
    execute(url, "UPDATE ahmf_leases SET expires = 100, worker = 'dead'", *undone)
    storage = open_storage(url)
    assert storage.backend.get_current_version() == storage.backend.get_head_version()
    assert storage.leases()["tables"].released
    assert rows_of(url, "trial_values") == []
    open_storage(url)


@on_both
def test_optunas_own_storage_gets_leases(url):
    import optuna

    place = storages._place(url).render_as_string(hide_password=False)
    backend = optuna.storages.RDBStorage(place)
    optuna.create_study(study_name="theirs", storage=backend)
    backend.engine.dispose()
    storage = open_storage(url)
    assert optuna.get_all_study_names(storage.backend) == ["theirs"]
    assert storage.take("trial/theirs/0", "one", 60)


# Bad input


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("studies.db", "is no URL of a database: write sqlite:///studies.db or postgresql://USER@HOST/NAME"),
        ("postgresql://me:secret@host:port/x", "--storage postgresql://me@host:port/x: is no URL"),
        ("mysql://me:secret@host/x", "--storage mysql://me@host/x: studies are kept in sqlite or postgresql, not in"),
        ("sqlite://", "name a file and nothing else, as in sqlite:///studies.db"),
        ("sqlite:///:memory:", "name a file and nothing else"),
        ("sqlite:///studies.db?mode=ro", "name a file and nothing else"),
    ],
)
def test_urls_that_are_none(url, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        open_storage(url, create=True)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there(postgresql):
    nobody = f"postgresql://me:secret@127.0.0.1:{free_port()}/x"
    with pytest.raises(
        Unreachable, match=r"cannot be used \(connection failed.*refused.*see that the server"
    ) as caught:
        open_storage(nobody, create=True)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(
        Unreachable, match=r"password authentication failed for user .ahmf..*password are right"
    ) as caught:
        open_storage(postgresql.url("postgres", password="wrong"))
    assert "wrong" not in str(caught.value)
    with pytest.raises(Unreachable, match=r"database .nowhere. does not exist"):
        open_storage(postgresql.url("nowhere"), create=True)


@on_both
def test_what_is_not_there_is_made_by_a_study_alone(url, tmp_path):
    with pytest.raises(InputError, match=r"start (it|a study|one) first"):
        open_storage(url)
    assert list(tmp_path.iterdir()) == []


def bytes_of(url):
    return Path(url.removeprefix("sqlite:///")).read_bytes()


def refused(url, said, create):
    before = bytes_of(url)
    with pytest.raises(InputError, match=said) as caught:
        open_storage(url, create=create)
    assert "\n" not in str(caught.value)
    assert bytes_of(url) == before


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("leases", [False, True], ids=["optunas", "ours"])
def test_another_versions_storage_stays_as_it_is(tmp_path, leases, create):
    """One that a later Optuna has upgraded, by itself or with our leases in it; and an older one."""
    import optuna

    url = f"sqlite:///{tmp_path / 'studies.db'}"
    if leases:
        open_storage(url, create=True)
    else:
        optuna.storages.RDBStorage(url).engine.dispose()
    execute(url, "UPDATE alembic_version SET version_num = 'v99.0.0'")
    refused(url, r"is of another version of Optuna \(.*no longer compatible.*\); nothing was changed", create)
    if not leases:
        execute(url, "DROP TABLE alembic_version")
        refused(url, r"is of another version of Optuna \(its tables have no version\); nothing was changed", create)


@pytest.mark.parametrize("create", [False, True])
def test_another_programs_database_stays_as_it_is(tmp_path, create):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    with sqlite3.connect(tmp_path / "studies.db") as theirs:
        theirs.execute("CREATE TABLE songs (title TEXT)")
    theirs.close()
    refused(url, r"holds other tables \(songs, \.\.\.\) and no studies: name another database", create)
    (tmp_path / "studies.db").write_bytes(b"These are no tables. " * 100)
    refused(url, r"cannot be used \(file is not a database\)", create)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"studies.db: cannot be written \((Not a directory|File exists)\)"):
        open_storage(f"sqlite:///{tmp_path}/file/studies.db", create=True)


# A storage that is gone for a while


def test_a_server_that_starts_again_is_waited_for(postgresql):
    storage = open_storage(postgresql.database(), create=True)
    assert storage.take("trial/a/0", "one", 60)
    postgresql.stop()
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="connection failed"):
            storage.leases()
        with storage.patient(lambda: False), pytest.raises(Unreachable, match="connection failed"):
            storage.leases()
        assert time.monotonic() - began < 5
        with storage.patient(lambda: True, seconds=1):
            with pytest.raises(Unreachable, match="connection failed"):
                storage.leases()
            assert time.monotonic() - began > 1 and storage.gave_up
            began = time.monotonic()
            with pytest.raises(Unreachable, match="connection failed"):  # once is enough
                storage.release("trial/a/0", "one")
            assert time.monotonic() - began < 0.5
        with ThreadPoolExecutor() as pool, storage.patient(lambda: True):
            waiting = [
                pool.submit(storage.renew, "trial/a/0", "one", 60),
                pool.submit(storage.backend.get_all_studies),
            ]
            time.sleep(0.5)
            assert not any(future.done() for future in waiting)
            postgresql.start()
            assert [future.result(60) for future in waiting] == [True, []]
            assert not storage.gave_up and storage.back > began
    finally:
        postgresql.start()


# What is shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/x", "postgresql://me@host/x"),
        ("postgresql://me:se%40cr%7Bet@host:5/x", "postgresql://me@host:5/x"),
        ("postgresql://host/x?user=me&password=secret", "postgresql://host/x?user=me"),
        ("postgresql://host/x?password=secret&user=me", "postgresql://host/x?user=me"),
        (
            "postgresql://host:5/x?user=me@there&password=secret&sslmode=require",
            "postgresql://host@there&sslmode=require",
        ),
        ("postgresql://host/x?password=secret", "postgresql://host/x"),
        ("postgresql://me:se@cret@host/x", "postgresql://me@host/x"),
        ("postgresql://me@host/x?sslmode=require", "postgresql://me@host/x?sslmode=require"),
        ("sqlite:////a/me:b@c/studies.db", "sqlite:////a/me:b@c/studies.db"),
        ("me:secret@nonsense", "me@nonsense"),
        ("postgresql://me:secret@host/x?sslrootcert=file:///a", "postgresql://me@host/x?sslrootcert=file:///a"),
        ("postgresql://me:se://cret@host/x", "postgresql://me@host/x"),
        ("me:se://cret@host/x", "me@host/x"),
        ("postgresql://me:se?cr=et@host/x", "postgresql://me@host/x"),
        ("postgresql://me@host/x?sslkey=a&sslpassword=secret", "postgresql://me@host/x?sslkey=a"),
    ],
)
def test_no_password_is_shown(url, shown):
    assert without_password(url) == shown


def test_a_file_is_named_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = open_storage("sqlite:///a b/studies.db", create=True)
    assert storage.shown == "sqlite:///a b/studies.db"
    assert from_anywhere(storage) == f"sqlite:///{tmp_path}/a b/studies.db"
    assert shlex.split(dashboard_command(storage)) == ["optuna-dashboard", from_anywhere(storage)]
    monkeypatch.chdir("/")
    assert storage.leases().keys() == {"tables"}
    assert open_storage(from_anywhere(storage)).leases().keys() == {"tables"}


def test_where_studies_are_kept_if_nothing_is_said(monkeypatch):
    monkeypatch.delenv("AHMF_STUDIES", raising=False)
    assert default_url() == "sqlite:///studies/studies.db"
    monkeypatch.setenv("AHMF_STUDIES", "postgresql://host/x")
    assert default_url() == "postgresql://host/x"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_the_dashboard_shows_a_study(study, url):
    """Optuna's, by the command that we print; its password in the environment."""
    program = Path(sys.executable).parent / "optuna-dashboard"
    if not program.exists() and not shutil.which("optuna-dashboard"):
        pytest.skip("optuna-dashboard is not installed")
    _, shown = shlex.split(dashboard_command(study.storage))
    port = free_port()
    words = [
        str(program) if program.exists() else "optuna-dashboard",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        shown,
    ]
    env = environment(1, PGPASSWORD=PASSWORD)
    dashboard = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

    def fetch(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return json.load(answer)

    try:
        until = time.monotonic() + 60
        while True:
            try:
                (summary,) = fetch("api/studies")["study_summaries"]
                break
            except OSError:
                assert dashboard.poll() is None and time.monotonic() < until, dashboard.communicate()[0]
                time.sleep(0.1)
        assert summary["study_name"] == "levels" and summary["directions"] == ["minimize"]
        detail = fetch(f"api/studies/{summary['study_id']}?after=0")
    finally:
        dashboard.terminate()
        dashboard.communicate()
    assert detail["name"] == "levels" and detail["objective_names"] == ["MAE"]
    assert [trial["state"] for trial in detail["trials"]] == ["Waiting"] * 3
    labels = [{a["key"]: a["value"] for a in trial["user_attrs"]}["label"] for trial in detail["trials"]]
    assert labels == ["m = 1"] * 3
    assert "secret" not in shown
