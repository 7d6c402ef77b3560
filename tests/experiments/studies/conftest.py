"""Storages of both kinds, and studies in them whose trials need no training."""

import dataclasses
import shutil

import pytest

from tests.postgresql import Missing, server


@pytest.fixture(scope="session")
def postgresql():
    """A server that the tests start."""
    try:
        with server() as started:
            yield started
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def url(request, tmp_path):
    """Of a database that is not there yet, or empty: SQLite's, and where a test is `on_both` PostgreSQL's too."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return request.getfixturevalue("postgresql").database()


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """SQLite's file of a storage without studies: to make its tables takes longer than most tests."""
    from experiments.studies.storage import open_storage

    file = tmp_path_factory.mktemp("storage") / "studies.db"
    open_storage(f"sqlite:///{file}", create=True)
    return file


@pytest.fixture
def storage(url, empty):
    from experiments.studies.storage import open_storage

    if url.startswith("sqlite"):
        shutil.copy(empty, url.removeprefix("sqlite:///"))
    return open_storage(url, create=True)


@pytest.fixture
def spec(tiny, tmp_path):
    """Of a study of the tests' small recipe."""
    from experiments.studies.study import Spec

    return Spec("levels", dataclasses.replace(tiny, log_every=2), folder=str(tmp_path / "study"))


@pytest.fixture
def rows():
    """Three trials."""
    from experiments.studies.study import Row

    return [Row("m = 1", {"model.num_levels": 1, "seed": seed}) for seed in range(3)]


@pytest.fixture
def study(storage, spec, rows):
    from experiments.studies.study import make_study

    return make_study(storage, "levels", spec, rows=rows)
