"""Storages of both kinds, and studies in them whose trials need no training."""

import dataclasses

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


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Of a database that is not there yet, or empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return request.getfixturevalue("postgresql").database()


@pytest.fixture
def storage(url):
    from experiments.studies.storage import open_storage

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
