"""Checkpoints: exact, laid out anew, kept by rank, checked before they are read, and as good as never stopping."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import random
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ahmf_jax import InputError, checkpoint
from ahmf_jax.checkpoint import Checkpoints, Damaged
from ahmf_jax.models import AHMF
from ahmf_jax.sharding import make_mesh, replicated, state_shardings
from ahmf_jax.state import TrainState

MODEL = AHMF(scale=2, num_levels=1, features=2, variant="paper", fusion="concat", recurrence="none")
OPTIMISER = optax.adam(optax.exponential_decay(1e-2, 2, 0.5))
# No network's: a few arrays of the kinds that there are, so that each of their files can be damaged in turn.
SHAPES: dict[str, Any] = {"level": {"kernel": (3, 5), "slope": ()}, "output": {"kernel": (64, 16)}}


def shapes(sizes: dict[str, Any] = SHAPES, ema: bool = False, optimiser: Any = OPTIMISER) -> TrainState:
    params = jax.tree.map(lambda s: np.zeros(s, np.float32), sizes, is_leaf=lambda x: isinstance(x, tuple))
    make = functools.partial(TrainState.start, model=MODEL, optimiser=optimiser, ema_decay=0.9 if ema else 0.0)
    return jax.eval_shape(make, params)


def abstract(mesh: Any, fsdp: bool = False, **how: Any) -> TrainState:
    like = shapes(**how)
    place = state_shardings(like, mesh, fsdp)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, place)


def make_state(mesh: Any, step: int = 0, fsdp: bool = False, **how: Any) -> TrainState:
    """Random in every leaf, the optimiser's included; the same for the same step."""
    rng = np.random.default_rng(step)
    like = abstract(mesh, fsdp, **how)
    state = jax.tree.map(lambda x: np.asarray(10 * rng.random(x.shape), x.dtype), like).replace(step=np.int32(step))
    return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, like)


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def new_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / checkpoint.CONFIG).write_text(json.dumps({"train": "so"}))
    return folder


def steps_kept(run: Path) -> list[int]:
    """All that is there; each complete."""
    folders = list((run / "checkpoints").iterdir())
    assert all((folder / "manifest.json").is_file() for folder in folders)
    return sorted(int(folder.name) for folder in folders)


def of(run: Path, step: int) -> Path:
    return run / "checkpoints" / str(step)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore(run: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    with Checkpoints(run) as checkpoints:
        return checkpoints.restore(like)


def save(run: Path, state: TrainState, error: float | None = None, **options: Any) -> None:
    with Checkpoints(run, **options) as checkpoints:
        checkpoints.save(state, {}, error)


@pytest.fixture(scope="module")
def mesh() -> Any:
    return make_mesh()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, mesh: Any) -> Path:
    """A run with the steps 2, which is best, 3 and 4, which has no validation."""
    run = new_run(tmp_path_factory.mktemp("saved") / "run")
    with Checkpoints(run) as checkpoints:
        for step, error in ((1, 0.5), (2, 0.1), (3, 0.3), (4, None)):
            checkpoints.save(make_state(mesh, step), {"at": step}, error)
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


# What is kept


def test_the_latest_comes_back_exactly(run: Path, mesh: Any, capsys: pytest.CaptureFixture[str]) -> None:
    state, facts = restore(run, abstract(mesh))
    assert facts == {"at": 4, "versions": checkpoint.versions()}
    assert facts["versions"]["jax"] == jax.__version__
    assert_equal(state, make_state(mesh, 4))
    assert all(x.sharding == replicated(mesh) for x in jax.tree.leaves(state))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("fsdp", [False, True])
def test_from_eight_devices_to_four_to_one_and_back(tmp_path: Path, mesh: Any, fsdp: bool) -> None:
    run = new_run(tmp_path / "run")
    state = make_state(mesh, 1, fsdp)
    if fsdp:
        assert len({str(shard.index) for shard in state.params["output"]["kernel"].addressable_shards}) == 8
    for step, (size, split) in enumerate([(8, False), (4, fsdp), (1, False), (8, fsdp)], 1):
        save(run, state.replace(step=jax.device_put(np.int32(step), state.step.sharding)))
        like = abstract(make_mesh(size, 1, jax.devices()[:size]), split)
        state, _ = restore(run, like)
        assert int(state.step) == step
        assert jax.tree.all(jax.tree.map(lambda x, y: x.sharding == y.sharding, state, like))
        assert_equal(state.replace(step=np.int32(1)), make_state(mesh, 1).replace(step=np.int32(1)))


def test_the_latest_and_the_best_are_kept(run: Path, mesh: Any) -> None:
    assert steps_kept(run) == [2, 3, 4]
    assert checkpoint.best_step(run) == 2 and checkpoint.latest_step(run) == 4
    params, step = checkpoint.read_params(run)
    assert step == 2 and all(type(x) is np.ndarray for x in jax.tree.leaves(params))
    assert_equal(params, make_state(mesh, 2).params)
    params, step = checkpoint.read_params(run, 3)
    assert step == 3
    assert_equal(params, make_state(mesh, 3).params)
    with pytest.raises(InputError, match="no checkpoint of step 1: it has 2, 3, 4"):
        checkpoint.read_params(run, 1)
    with Checkpoints(run) as checkpoints:  # another process goes on
        checkpoints.restore(abstract(mesh))
        checkpoints.save(make_state(mesh, 5), {}, 0.05)
    assert steps_kept(run) == [4, 5] and checkpoint.best_step(run) == 5


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "errors", "kept"),
    [
        (1, 0, [0.1, 0.2, 0.3], [3]),
        (1, 1, [0.1, 0.2, 0.3], [1, 3]),
        (3, 0, [0.1, 0.2, 0.3, 0.4], [2, 3, 4]),
        (1, 2, [0.3, 0.1, 0.2, 0.4], [2, 3, 4]),
        (2, 1, [None, None, None], [2, 3]),  # none of them is best
        (1, 1, [float("nan"), 0.1, float("nan")], [2, 3]),
        (1, 1, [0.1, 0.1, 0.1], [3]),  # the later of equals
    ],
)
def test_as_many_as_asked(
    tmp_path: Path, keep_last: int, keep_best: int, errors: list[float | None], kept: list[int]
) -> None:
    run, one = new_run(tmp_path / "run"), make_mesh(1, 1, jax.devices()[:1])
    with Checkpoints(run, keep_last, keep_best) as checkpoints:
        for step, error in enumerate(errors, 1):
            checkpoints.save(make_state(one, step, sizes={"a": (2,)}), {}, error)
    assert steps_kept(run) == kept


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_best": -1}])
def test_one_at_least_is_kept(run: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"keep_last is .* keep_best"):
        Checkpoints(run, **options)


def test_a_validation_that_comes_late_makes_a_checkpoint_the_best(tmp_path: Path, mesh: Any) -> None:
    with Checkpoints(tmp_path, keep_last=1, keep_best=1) as checkpoints:
        checkpoints.save(make_state(mesh, 1), {"lines": [], "data": 3}, None)
        checkpoints.amend(1, {"lines": [5]}, 0.1)
        for step in (2, 3):
            checkpoints.save(make_state(mesh, step), {}, 0.2)
    assert steps_kept(tmp_path) == [1, 3]
    (tmp_path / "config.json").write_text("{}")
    facts = checkpoint.read_facts(tmp_path, 1)
    assert (facts["lines"], facts["data"]) == ([5], 3) and "jax" in facts["versions"]
    assert checkpoint.best_step(tmp_path) == 1


def test_without_a_validation_the_latest_is_the_best(tmp_path: Path, mesh: Any) -> None:
    run = new_run(tmp_path / "run")
    with Checkpoints(run) as checkpoints:
        checkpoints.save(make_state(mesh, 1), {}, None)
        checkpoints.save(make_state(mesh, 2), {}, None)
    assert checkpoint.best_step(run) == 2


def test_the_moving_average_is_what_is_used(tmp_path: Path, mesh: Any) -> None:
    run = new_run(tmp_path / "run")
    state = make_state(mesh, 1, ema=True)
    save(run, state)
    assert_equal(checkpoint.read_params(run)[0], jax.device_get(state.ema))
    assert_equal(restore(run, abstract(mesh, ema=True))[0], state)


def test_a_step_that_is_saved_stays(run: Path, mesh: Any) -> None:
    before = contents(of(run, 4))
    with Checkpoints(run) as checkpoints:
        state, _ = checkpoints.restore(abstract(mesh))
        checkpoints.save(state, {"at": "elsewhere"}, 0.0)
    assert contents(of(run, 4)) == before


def test_a_relative_path(run: Path, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    save(Path("run"), make_state(mesh, 5), 0.01)
    assert int(restore(Path("run"), abstract(mesh))[0].step) == 5
    assert checkpoint.read_params("run")[1] == 5


# In the background


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first is set when a manifest is about to be written, which waits for the second."""
    due, go, write = threading.Event(), threading.Event(), checkpoint._write_manifest

    def wait(*args: Any) -> None:
        due.set()
        assert go.wait(30)
        write(*args)

    monkeypatch.setattr(checkpoint, "_write_manifest", wait)
    yield due, go
    go.set()


def test_a_save_returns_early_and_removes_nothing_before_it_is_complete(
    run: Path, mesh: Any, held: tuple[threading.Event, threading.Event]
) -> None:
    due, go = held
    with Checkpoints(run, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(make_state(mesh, 5), {}, None)
        assert due.wait(30)
        assert {p.name for p in (run / "checkpoints").iterdir()} == {"2", "3", "4", "5"}
        assert checkpoint.latest_step(run) == 4
        go.set()
        checkpoints.wait()
        assert steps_kept(run) == [5]


def test_what_is_given_away_and_changed_after_the_save_is_saved_as_it_was(tmp_path: Path, mesh: Any) -> None:
    run = new_run(tmp_path / "run")
    sizes = {f"large_{i}": (512, 256) for i in range(8)}
    state, facts = make_state(mesh, 1, sizes=sizes), {"losses": [1.0]}
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state, facts, None)
        facts["losses"].append(2.0)
        for _ in range(5):
            state = overwrite(state)
        jax.block_until_ready(state)
    restored, said = restore(run, abstract(mesh, sizes=sizes))
    assert_equal(restored, make_state(mesh, 1, sizes=sizes))
    assert said["losses"] == [1.0]


def test_facts_that_are_no_json(run: Path, mesh: Any) -> None:
    with Checkpoints(run) as checkpoints, pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(make_state(mesh, 5), {"path": run}, None)
    assert steps_kept(run) == [2, 3, 4]


# What fails


@pytest.fixture
def small_files() -> Iterator[Callable[[], None]]:
    """Files may have no more than 1 kB, as if the disk were full; a call takes the limit away."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    lift = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
    yield lift
    lift()


TOO_LARGE = r"checkpoints/5 cannot be written \(File too large\): the checkpoints before it are kept; make room"


@pytest.mark.parametrize("at", ["save", "wait", "end"])
def test_a_full_disk_is_told_at_the_next_call(
    run: Path, mesh: Any, small_files: Callable[[], None], at: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(run / "checkpoints")
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run))
        checkpoints.save(make_state(mesh, 5), {}, 0.3)
        with pytest.raises(InputError, match=TOO_LARGE):
            if at == "save":
                checkpoints.save(make_state(mesh, 6), {}, 0.3)
            elif at == "wait":
                checkpoints.wait()
            else:
                stack.close()
        assert contents(run / "checkpoints") == before
        small_files()
        if at != "end":
            checkpoints.save(make_state(mesh, 6), {}, 0.3)  # once there is room
            checkpoints.wait()
            assert steps_kept(run) == [2, 4, 6]
    assert capfd.readouterr() == ("", "")  # nothing but the one line of the error


def test_an_array_that_is_written_late_does_not_stay(
    run: Path, mesh: Any, small_files: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, remove, late = contents(run / "checkpoints"), shutil.rmtree, iter(range(3))

    def meanwhile(folder: Path) -> None:
        """Removes the folder, in which an array is made at the same time, and then one after it."""
        remove(folder)
        if (turn := next(late, None)) is not None:
            (folder / "state").mkdir(parents=True)
            (folder / "state" / "0").write_bytes(b"late")
            if not turn:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(checkpoint.shutil, "rmtree", meanwhile)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(make_state(mesh, 5), {}, 0.3)
        with pytest.raises(InputError, match=TOO_LARGE):
            checkpoints.wait()
        assert contents(run / "checkpoints") == before and next(late, None) is None


def test_a_disk_that_is_too_full_is_seen_before(
    run: Path, mesh: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(run)._replace(free=10_000)
    with monkeypatch.context() as patch, Checkpoints(run) as checkpoints:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(InputError, match=r"5 cannot be written \(No space left: it takes .* and 10,000 are free\)"):
            checkpoints.save(make_state(mesh, 5), {}, 0.3)
        assert steps_kept(run) == [2, 3, 4]
        patch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(total=0))  # not known
        checkpoints.save(make_state(mesh, 5), {}, 0.3)
    assert steps_kept(run) == [2, 4, 5]
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_when_the_run_goes_on(run: Path, mesh: Any, small_files: Callable[[], None]) -> None:
    problems: list[InputError] = []
    with Checkpoints(run, on_problem=problems.append) as checkpoints:
        checkpoints.save(make_state(mesh, 5), {}, 0.3)
        checkpoints.save(make_state(mesh, 6), {}, 0.3)
        assert len(problems) == 1
        checkpoints.wait()
        assert len(problems) == 2 and checkpoint.latest_step(run) == 4
        small_files()
        checkpoints.save(make_state(mesh, 7), {}, 0.3)
    assert [str(p)[: str(p).index(" cannot")] for p in problems] == [str(of(run, 5)), str(of(run, 6))]
    assert steps_kept(run) == [2, 4, 7]
    assert_equal(restore(run, abstract(mesh))[0], make_state(mesh, 7))


def test_a_full_disk_does_not_hide_what_ended_the_run(
    run: Path, mesh: Any, small_files: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError), Checkpoints(run) as checkpoints:
        checkpoints.save(make_state(mesh, 5), {}, 0.3)
        raise ZeroDivisionError
    assert capsys.readouterr().err.startswith(f"warning: {of(run, 5)} cannot be written")


def test_a_full_disk_at_the_manifest(run: Path, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", full)
        with pytest.raises(InputError, match=r"checkpoints/5 cannot be written \(No space left on device\)"):
            save(run, make_state(mesh, 5))
    assert steps_kept(run) == [2, 3, 4]


def test_a_folder_that_cannot_be_written(run: Path, mesh: Any) -> None:
    folder = run / "checkpoints"
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(InputError, match=r"5 cannot be written \(Permission denied\)"):
            save(run, make_state(mesh, 5))
        assert int(restore(run, abstract(mesh))[0].step) == 4
    finally:
        folder.chmod(0o755)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, mesh: Any) -> None:
    run = new_run(tmp_path / "run")
    (run / "checkpoints").write_text("")
    with pytest.raises(InputError, match=r"1 cannot be written \(Not a directory\)"):
        save(run, make_state(mesh, 1))


# What is damaged


def damage(path: Path, how: str) -> str:
    """Damages a file, and returns what is to be said of it."""
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return "is missing"
    if how == "emptied":
        path.write_bytes(b"")
        return f"is {len(data)} bytes shorter than it was"
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
        return f"is {len(data) - len(data) // 2} bytes shorter than it was"
    if how == "grown":
        path.write_bytes(data + b"\0\0\0")
        return "is 3 bytes longer than it was"
    place = {"first": 0, "last": -1, "middle": len(data) // 2, "random": random.Random(path.name).randrange(len(data))}
    data[place[how]] ^= 1 << random.Random(how).randrange(8)
    path.write_bytes(data)
    return "has changed since the checkpoint was written"


CHANGES = ("first", "last", "middle", "random", "removed", "emptied", "truncated", "grown")


@pytest.mark.parametrize("how", CHANGES)
def test_any_damage_to_any_file_is_found_and_named(run: Path, how: str) -> None:
    checkpoint.verify(run, 4)
    files = sorted(path for path in of(run, 4).rglob("*") if path.is_file())
    assert len(files) == 4 + 2 * len(jax.tree.leaves(shapes()))
    for path in files:
        data = path.read_bytes()
        said = damage(path, how)
        if path.name == "manifest.json" and how != "removed":  # it can say nothing of its own size
            said = "has changed since the checkpoint was written"
        with pytest.raises(Damaged) as error:
            checkpoint.verify(run, 4)
        assert str(error.value) == f"{path} {said}"
        path.write_bytes(data)
    checkpoint.verify(run, 4)


def test_many_bytes_of_a_manifest(run: Path) -> None:
    path = of(run, 4) / "manifest.json"
    data = path.read_bytes()
    for place in {*range(100), *range(100, len(data), 31), len(data) - 1}:
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(Damaged, match="has changed"):
            checkpoint._read_manifest(path.parent)


@pytest.mark.parametrize("name", ["stray", "state/stray", "state/step/1", "state/params.level.kernel/d/e/f"])
def test_what_was_added(run: Path, name: str) -> None:
    path = of(run, 4) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    with pytest.raises(Damaged, match=f"{name} was added since|e/f is no part of a checkpoint|d/e is no part"):
        checkpoint.verify(run, 4)


@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
def test_links_and_devices(run: Path, kind: str) -> None:
    path = of(run, 4) / "state/step/0"
    if kind == "folder":
        path = path.parent
        shutil.copytree(path, run / "elsewhere")
        shutil.rmtree(path)
        path.symlink_to(run / "elsewhere")
    else:
        path.rename(run / "elsewhere")
        path.symlink_to(run / "elsewhere") if kind == "file" else os.mkfifo(path)
    with pytest.raises(Damaged, match=f"{path} is no part of a checkpoint: no link, device"):
        checkpoint.verify(run, 4)


def test_the_previous_good_one_is_taken(run: Path, mesh: Any, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [of(run, 4) / "state/params.output.kernel/0.0", of(run, 3) / "manifest.json"]
    said = [damage(path, "random") for path in broken]
    before = {step: contents(of(run, step)) for step in (3, 4)}
    with Checkpoints(run) as checkpoints:
        state, facts = checkpoints.restore(abstract(mesh))
        assert_equal(state, make_state(mesh, 2))
        assert facts["at"] == 2
        assert capsys.readouterr().err.splitlines() == [
            f"warning: {path} {what}: moved to {run}/damaged/{step}, going on from step 2"
            for path, what, step in zip(broken, said, (4, 3), strict=True)
        ]
        assert {step: contents(run / "damaged" / str(step)) for step in (3, 4)} == before
        checkpoints.save(make_state(mesh, 3), {}, 0.2)
        checkpoints.wait()
    damage(of(run, 3) / "state/step/0", "last")
    assert int(restore(run, abstract(mesh))[0].step) == 2
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["3", "3-2", "4"]


def test_none_is_good(run: Path, mesh: Any) -> None:
    for step in (2, 3, 4):
        damage(of(run, step) / "state/step/0", "first")
    before = contents(run)
    for read in (lambda: restore(run, abstract(mesh)), lambda: checkpoint.read_params(run)):
        with pytest.raises(InputError, match=r"step/0 has changed .*, and no other checkpoint of .* is whole: restore"):
            read()
    assert contents(run) == before


@pytest.mark.parametrize(("name", "how"), [("state/params.level.kernel/0.0", "first"), ("manifest.json", "middle")])
def test_weights_are_read_from_the_next_best(
    run: Path, mesh: Any, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    what = damage(of(run, 2) / name, how)
    params, step = checkpoint.read_params(run)
    assert step == 3
    assert_equal(params, make_state(mesh, 3).params)
    assert capsys.readouterr().err == f"warning: {of(run, 2)}/{name} {what}: passed over, taking step 3\n"
    assert of(run, 2).is_dir()  # it is another's to move, who may be training
    with pytest.raises(InputError, match=f"2/{name} {what}"):
        checkpoint.read_params(run, 2)


def test_one_that_was_cut_off_is_passed_over_and_saved_again(
    run: Path, mesh: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (of(run, 4) / "manifest.json").unlink()  # killed after the commit, before the manifest
    (of(run, 7) / "state.orbax-checkpoint-tmp").mkdir(parents=True)  # killed in the middle of the arrays
    assert checkpoint.latest_step(run) == 3
    with Checkpoints(run, keep_last=2) as checkpoints:
        state, facts = checkpoints.restore(abstract(mesh))
        assert_equal(state, make_state(mesh, 3))
        assert capsys.readouterr().err.splitlines() == [
            f"warning: {of(run, step)} has no manifest.json, as when a run ends while it is written: going on from "
            "step 3"
            for step in (4, 7)
        ]
        checkpoints.save(make_state(mesh, 4), {"at": 40}, 0.4)
    # The one that was cut off was not counted as one of the two latest.
    assert steps_kept(run) == [2, 3, 4]
    state, facts = restore(run, abstract(mesh))
    assert facts["at"] == 40
    assert_equal(state, make_state(mesh, 4))


def test_one_that_is_damaged_is_not_counted_and_not_removed(run: Path, mesh: Any) -> None:
    damage(of(run, 4) / "manifest.json", "last")
    with Checkpoints(run, keep_last=2, keep_best=0) as checkpoints:
        checkpoints.save(make_state(mesh, 5), {}, None)
    assert steps_kept(run) == [3, 4, 5]


# What was meant to do harm: the manifest agrees with the files


def rewrite(folder: Path, **changed: Any) -> None:
    """What one can do who knows how a manifest is made."""
    manifest = checkpoint._read_manifest(folder)
    (folder / "manifest.json").unlink()
    checkpoint._write_manifest(folder, dataclasses.replace(manifest, files=checkpoint._digests(folder), **changed))


def array(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "state/params.level.kernel/.zarray"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


def text(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def tree(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "state/_METADATA"
        read = json.loads(path.read_text())
        change(read)
        path.write_text(json.dumps(read))

    return apply


HUGE = 1 << 40
NOT_JSON, NOT_ARRAY, NOT_TREE = "is not valid JSON", "does not describe the array", "does not describe the arrays"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "huge shape": (array({"shape": [HUGE, HUGE]}), NOT_ARRAY),
    "huge chunks": (array({"chunks": [HUGE, HUGE]}), NOT_ARRAY),
    "negative chunks": (array({"chunks": [-3, -5]}), NOT_ARRAY),
    "no chunks": (array({"chunks": [0, 0]}), NOT_ARRAY),
    "small chunks": (array({"chunks": [1, 1]}), "does not hold the 15 files of 4 bytes"),
    "true chunks": (array({"chunks": [True, 5]}), NOT_ARRAY),
    "another rank": (array({"shape": [15], "chunks": [15]}), NOT_ARRAY),
    "another dtype": (array({"dtype": "<f8"}), NOT_ARRAY),
    "records": (array({"dtype": [["x", "<f4", [HUGE]]]}), NOT_ARRAY),
    "compressed": (array({"compressor": {"id": "zstd"}}), NOT_ARRAY),
    "no array": (text("state/params.level.kernel/.zarray", b"[]"), NOT_ARRAY),
    "deep": (text("state/params.level.kernel/.zarray", b"[" * 1_000_000), NOT_JSON),
    "not UTF-8": (text("state/params.level.kernel/.zarray", b'{"\xff": 1}'), NOT_JSON),
    "a long number": (text("state/params.level.kernel/.zarray", b"1" * 100_000), NOT_JSON),
    "a short chunk": (text("state/params.level.kernel/0.0", b"x"), r"does not hold the 1 files of 60 bytes"),
    "a deep tree": (text("state/_METADATA", b'{"a":' * 500_000), NOT_JSON),
    "a long tree": (text("state/_METADATA", b" " * (checkpoint.MAX_METADATA + 1)), "more than 16777216 are not read"),
    "an empty tree": (text("state/_METADATA", b"{}"), NOT_TREE),
    "no tree": (text("state/_METADATA", b"3"), NOT_TREE),
    "a database": (tree(lambda t: t.update(use_ocdbt=True)), NOT_TREE),
    "another type": (
        tree(lambda t: t["tree_metadata"]["('step',)"]["value_metadata"].update(value_type="scalar")),
        NOT_TREE,
    ),
    "another write shape": (
        tree(lambda t: t["tree_metadata"]["('step',)"]["value_metadata"].update(write_shape=[HUGE])),
        NOT_TREE,
    ),
    "another name": (
        tree(lambda t: t["tree_metadata"]["('step',)"]["key_metadata"][0].update(key="../../../step")),
        NOT_TREE,
    ),
    "a file of the storage's": (text("state/manifest.ocdbt", b"x"), "manifest.ocdbt is no part of a checkpoint"),
    "a file beside": (text("more", b"x"), "4/more is no part of a checkpoint"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_is_refused_before_it_is_read(
    run: Path, mesh: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = HOSTILE[name]
    change(of(run, 4))
    rewrite(of(run, 4))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_read_arrays", None)  # nothing is given to the storage
        with pytest.raises(Damaged, match=said):
            checkpoint.read_params(run, 4)
    assert int(restore(run, abstract(mesh))[0].step) == 3
    assert "moved to" in capsys.readouterr().err


def raw(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A manifest of any content with the digest that it needs."""

    def apply(folder: Path) -> None:
        read = json.loads((folder / "manifest.json").read_text())
        del read["sha256"]
        change(read)
        rest = json.dumps(read).encode()[1:]
        (folder / "manifest.json").write_bytes(checkpoint.DIGEST % hashlib.sha256(rest).hexdigest().encode() + rest)

    return apply


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no leaves": (lambda m: m.pop("leaves"), "is not a manifest"),
    "a list": (lambda m: m.update(leaves=[1]), "is not a manifest"),
    "a huge shape": (lambda m: m["leaves"].update({"params.level.kernel": [[HUGE, HUGE], "float32"]}), NOT_ARRAY),
    "a shape of text": (lambda m: m["leaves"].update({"params.level.kernel": [["3"], "float32"]}), "not a manifest"),
    "a strange type": (lambda m: m["leaves"].update({"params.level.kernel": [[3, 5], "object"]}), NOT_ARRAY),
    "no type": (lambda m: m["leaves"].update({"params.level.kernel": [[3, 5], "float31"]}), "is not a manifest"),
    "a leaf outside": (lambda m: m["leaves"].update({"../../../x": [[3], "float32"]}), "x/.zarray is missing"),
    "one leaf less": (lambda m: m["leaves"].pop("step"), "is no part of a checkpoint"),
    "a file outside": (lambda m: m["files"].update({"../../config.json": [15, ""]}), "config.json is missing"),
    "an infinite step": (lambda m: m.update(step=float("inf")), "is not a manifest"),
    "another step": (lambda m: m.update(step=40), "is of step 40, not of 4"),
    "facts of text": (lambda m: m.update(facts="x"), "is not a manifest"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests(run: Path, mesh: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = MANIFESTS[name]
    raw(lambda m: change(m) and None)(of(run, 4))
    with pytest.raises(Damaged, match=said):
        checkpoint.verify(run, 4)
    assert int(restore(run, abstract(mesh))[0].step) == 3


def test_a_long_or_deep_manifest(run: Path) -> None:
    path = of(run, 4) / "manifest.json"
    rest = b'"a":' + b"[" * 1_000_000
    path.write_bytes(checkpoint.DIGEST % hashlib.sha256(rest).hexdigest().encode() + rest)
    with pytest.raises(Damaged, match="is not valid JSON"):
        checkpoint.verify(run, 4)
    os.truncate(path, HUGE)
    with pytest.raises(Damaged, match=f"has {HUGE} bytes: more than"):
        checkpoint.verify(run, 4)


# What is another's


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"sizes": {**SHAPES, "level": {"kernel": (3, 6), "slope": ()}}},
            r"its params\.level\.kernel is float32\[3, 5\], here it is float32\[3, 6\]",
        ),
        ({"sizes": {**SHAPES, "more": (2,)}}, r"its params\.more is missing, here it is float32\[2\]"),
        ({"optimiser": optax.sgd(0.1)}, r"its opt_state\.0\.count is int32\[\], here it is missing"),
        ({"ema": True}, r"its ema\.level\.kernel is missing, here it is float32\[3, 5\]"),
    ],
)
def test_a_checkpoint_of_another_network(run: Path, mesh: Any, how: dict[str, Any], message: str) -> None:
    before = contents(run)
    with pytest.raises(InputError, match=f"step 4 of {run} is of another network or optimiser: {message}"):
        restore(run, abstract(mesh, **how))
    assert contents(run) == before


def test_what_is_not_a_run_or_not_yet(tmp_path: Path, mesh: Any) -> None:
    for read in (checkpoint.latest_step, checkpoint.best_step, checkpoint.read_config, checkpoint.read_params):
        with pytest.raises(InputError, match=r"is not a training run \(it has no config\.json\)"):
            read(tmp_path)
        with pytest.raises(InputError, match="is not a training run"):
            read(tmp_path / "nowhere")
    run = new_run(tmp_path / "run")
    with pytest.raises(InputError, match="no complete checkpoint yet"):
        restore(run, abstract(mesh))
    (run / "manifests").mkdir()
    with pytest.raises(InputError, match=r"written by ahmf-jax 0\.1, whose checkpoints lack the state"):
        restore(run, abstract(mesh))


def test_one_of_a_later_version(run: Path, mesh: Any) -> None:
    raw(lambda m: m.update(format=2))(of(run, 4))
    with pytest.raises(InputError, match=r"manifest\.json is of format 2, and this version of ahmf-jax reads 1"):
        restore(run, abstract(mesh))


def test_the_configuration(run: Path) -> None:
    assert checkpoint.read_config(run) == {"train": "so"}
    for content, message in {'{"train"': "is not valid JSON", "[1]": "is not a JSON object"}.items():
        (run / checkpoint.CONFIG).write_text(content)
        with pytest.raises(InputError, match=rf"config\.json {message}.*restore it from a copy"):
            checkpoint.read_config(run)


def test_resuming_equals_never_having_stopped(tmp_path: Path, mesh: Any) -> None:
    @functools.partial(jax.jit, donate_argnums=0)
    def step_fn(state: TrainState) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        grads = jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), state.params)
        updates, opt_state = state.optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    def train(state: TrainState, steps: int, run: Path) -> TrainState:
        with Checkpoints(run) as checkpoints:
            for step in range(int(state.step), steps):
                state = step_fn(state)
                checkpoints.save(state, {"next": step + 1}, None)
        return state

    start = make_state(mesh)
    copy = jax.tree.map(jnp.copy, start)
    whole = train(start, 6, new_run(tmp_path / "whole"))
    halves = new_run(tmp_path / "halves")
    train(copy, 3, halves)
    state, facts = restore(halves, abstract(mesh))
    assert facts["next"] == 3
    assert_equal(train(state, 6, halves), whole)
