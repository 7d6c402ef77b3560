"""Checkpoints: exact, laid out anew, kept by rank, checked before they are read, and as good as never stopping."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ahmf_jax import InputError, checkpoint
from ahmf_jax.checkpoint import Checkpoints
from ahmf_jax.models import AHMF
from ahmf_jax.sharding import make_mesh, replicated
from ahmf_jax.state import TrainState, create_state, init_params
from ahmf_jax.train import fit
from ahmf_jax.writing import unwritable

FIELDS: dict[str, Any] = {
    "scale": 2,
    "num_levels": 1,
    "features": 2,
    "variant": "paper",
    "fusion": "concat",
    "recurrence": "none",
}
MODEL = AHMF(**FIELDS)
OPTIMISER = optax.adam(optax.exponential_decay(1e-2, 2, 0.5))


def make_state(mesh: Any, step: int = 0, seed: int = 0) -> TrainState:
    """Random in every leaf, the optimiser's included."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(functools.partial(init_params, MODEL))
    shapes = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32), params, jax.eval_shape(OPTIMISER.init, params), MODEL, OPTIMISER
    )
    state = jax.tree.map(lambda x: np.asarray(10 * rng.random(x.shape), x.dtype), shapes)
    return jax.device_put(state.replace(step=np.int32(step)), replicated(mesh))


def abstract(mesh: Any, model: AHMF = MODEL, optimiser: Any = OPTIMISER) -> TrainState:
    return create_state(model, optimiser, mesh, abstract=True)


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
    kept = sorted(int(p.name) for p in (run / "checkpoints").iterdir())
    assert kept == sorted(int(p.stem) for p in (run / "manifests").iterdir())
    return kept


@pytest.fixture(scope="module")
def mesh() -> Any:
    return make_mesh()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, mesh: Any) -> Path:
    """A run with the steps 2, which is best, 3 and 4."""
    run = new_run(tmp_path_factory.mktemp("saved") / "run")
    with Checkpoints(run) as checkpoints:
        for step, error in ((1, 0.5), (2, 0.1), (3, 0.3), (4, 0.2)):
            checkpoints.save(make_state(mesh, step, seed=step), {"at": step}, {"seed": 7}, error)
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def restore(run: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    with Checkpoints(run) as checkpoints:
        return checkpoints.restore(like)


def test_the_latest_comes_back_exactly(run: Path, mesh: Any) -> None:
    state, data = restore(run, abstract(mesh))
    assert data == {"at": 4}
    assert_equal(state, make_state(mesh, 4, seed=4))
    assert all(x.sharding == replicated(mesh) for x in jax.tree.leaves(state))


def test_from_eight_devices_to_one_and_back(tmp_path: Path, run: Path, mesh: Any) -> None:
    one = make_mesh(1)
    state, _ = restore(run, abstract(one))
    assert all(x.sharding == replicated(one) for x in jax.tree.leaves(state))
    again = new_run(tmp_path / "again")
    with Checkpoints(again) as checkpoints:
        checkpoints.save(state, {}, {}, 1.0)
    back, _ = restore(again, abstract(mesh))
    assert_equal(back, make_state(mesh, 4, seed=4))
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(back))


def test_the_two_latest_and_the_best_are_kept(run: Path, mesh: Any) -> None:
    assert steps_kept(run) == [2, 3, 4]
    assert checkpoint.best_step(run) == 2 and checkpoint.latest_step(run) == 4
    params, step = checkpoint.read_params(run)
    assert step == 2 and all(type(x) is np.ndarray for x in jax.tree.leaves(params))
    assert_equal(params, make_state(mesh, 2, seed=2).params)
    params, step = checkpoint.read_params(run, 3)
    assert step == 3
    assert_equal(params, make_state(mesh, 3, seed=3).params)
    with Checkpoints(run) as checkpoints:  # another process goes on
        checkpoints.restore(abstract(mesh))
        checkpoints.save(make_state(mesh, 5), {}, {}, 0.05)
    assert steps_kept(run) == [4, 5] and checkpoint.best_step(run) == 5


def test_a_step_that_is_saved_stays(run: Path, mesh: Any) -> None:
    with Checkpoints(run) as checkpoints:
        state, _ = checkpoints.restore(abstract(mesh))
        checkpoints.save(state, {"at": "elsewhere"}, {}, 0.0)
    assert restore(run, abstract(mesh))[1] == {"at": 4} and checkpoint.best_step(run) == 2


def test_a_relative_path(run: Path, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert int(restore(Path("run"), abstract(mesh))[0].step) == 4
    assert checkpoint.read_params("run")[1] == 2


@pytest.mark.parametrize("change", ["has changed", "is missing", "was added"])
@pytest.mark.parametrize("name", ["state/_METADATA", "data/metadata", "metrics/metrics"])
def test_a_damaged_checkpoint_is_named_and_not_read(run: Path, mesh: Any, name: str, change: str) -> None:
    named = f"{name.split('/')[0]}/stray" if change == "was added" else name
    for step in (2, 4):
        file = run / "checkpoints" / str(step) / name
        if change == "was added":
            file.with_name("stray").write_text("x")
        elif change == "is missing":
            file.unlink()
        else:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    with pytest.raises(InputError, match=f"[24]/{named} {change}.*or delete"):
        restore(run, abstract(mesh))
    with pytest.raises(InputError, match=f"2/{named} {change}"):
        checkpoint.read_params(run, 2)
    if name == "metrics/metrics" and change == "is missing":
        with pytest.raises(InputError, match="2/metrics/metrics is missing"):
            checkpoint.best_step(run)


def test_a_changed_byte_of_the_numbers(run: Path, mesh: Any) -> None:
    file = max((run / "checkpoints" / "4" / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-1] ^= 128
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{file} has changed"):
        restore(run, abstract(mesh))
    # The message's advice: without the damaged one, the run goes on from the one before.
    shutil.rmtree(run / "checkpoints" / "4")
    assert int(restore(run, abstract(mesh))[0].step) == 3


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_manifest(run: Path, mesh: Any, text: str) -> None:
    (run / "manifests" / "4.json").write_text(text)
    with pytest.raises(InputError, match=r"4\.json is damaged"):
        restore(run, abstract(mesh))


def test_one_that_was_cut_off_is_passed_over_and_saved_again(run: Path, mesh: Any) -> None:
    (run / "manifests" / "4.json").unlink()
    with Checkpoints(run) as checkpoints:
        state, data = checkpoints.restore(abstract(mesh))
        assert_equal(state, make_state(mesh, 3, seed=3))
        assert data == {"at": 3}
        checkpoints.save(make_state(mesh, 4, seed=40), {"at": 40}, {}, 0.4)
    assert steps_kept(run) == [2, 3, 4]
    state, data = restore(run, abstract(mesh))
    assert data == {"at": 40}
    assert_equal(state, make_state(mesh, 4, seed=40))


@pytest.mark.parametrize(
    ("fields", "optimiser", "message"),
    [
        ({"features": 4}, OPTIMISER, r"its params/\S+bias is \(2,\), here it is \(4,\)"),
        ({"num_levels": 2}, OPTIMISER, r"its params/\S+refine_2\S+ is missing, here it is \(2,\)"),
        ({}, optax.sgd(0.1), r"its opt_state/0/count is \(\), here it is missing"),
    ],
)
def test_a_checkpoint_of_another_network(
    run: Path, mesh: Any, fields: dict[str, Any], optimiser: Any, message: str
) -> None:
    with pytest.raises(InputError, match=f"another network or optimiser: {message}"):
        restore(run, abstract(mesh, AHMF(**{**FIELDS, **fields}), optimiser))


def test_a_full_disk_leaves_the_checkpoints_before(run: Path, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        (run / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
        raise OSError(28, "No space left on device")

    with Checkpoints(run) as checkpoints:
        checkpoints.restore(abstract(mesh))
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", full)
            with pytest.raises(InputError, match=r"5 cannot be written .*No space left.*make room"):
                checkpoints.save(make_state(mesh, 5), {}, {}, 0.3)
        assert steps_kept(run) == [2, 3, 4]
        checkpoints.save(make_state(mesh, 5), {}, {}, 0.3)  # once there is room
    assert steps_kept(run) == [2, 4, 5]


def test_a_full_disk_at_the_manifest_leaves_the_checkpoints_before(
    run: Path, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise unwritable(path, OSError(28, "No space left on device"))

    with Checkpoints(run) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", full)
        said = rf"^{run}/manifests/5.json: cannot be written \(No space left .*, then resume the run: .* before step 5"
        with pytest.raises(InputError, match=said):
            checkpoints.save(make_state(mesh, 5), {}, {}, 0.3)
    with Checkpoints(run) as checkpoints:  # once there is room
        assert int(checkpoints.restore(abstract(mesh))[0].step) == 4
        checkpoints.save(make_state(mesh, 5), {}, {}, 0.3)
    assert steps_kept(run) == [2, 4, 5]


def test_what_is_not_a_run_or_not_yet(tmp_path: Path, mesh: Any) -> None:
    for read in (checkpoint.latest_step, checkpoint.best_step, checkpoint.read_config, checkpoint.read_params):
        with pytest.raises(InputError, match=r"is not a training run \(it has no config\.json\)"):
            read(tmp_path)
        with pytest.raises(InputError, match="is not a training run"):
            read(tmp_path / "nowhere")
    run = new_run(tmp_path / "run")
    with pytest.raises(InputError, match="no complete checkpoint yet"):
        restore(run, abstract(mesh))


def test_the_configuration(run: Path) -> None:
    assert checkpoint.read_config(run) == {"train": "so"}
    (run / checkpoint.CONFIG).write_text('{"train"')
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        checkpoint.read_config(run)


def test_resuming_equals_never_having_stopped(tmp_path: Path, mesh: Any) -> None:
    def batch(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        sizes = {"depth_lr": (3, 4, 1), "guide": (6, 8, 3), "depth_hr": (6, 8, 1)}
        masks = {"mask_lr": np.ones((8, 3, 4, 1), bool), "mask_hr": np.ones((8, 6, 8, 1), bool)}
        return {name: rng.random((8, *size), np.float32) for name, size in sizes.items()} | masks

    def train(state: TrainState, steps: int, run: Path) -> TrainState:
        first = int(state.step)
        with Checkpoints(run) as checkpoints:
            state, _ = fit(
                state,
                (batch(seed) for seed in range(first, 1000)),
                steps=steps,
                mesh=mesh,
                log_every=2,
                on_log=lambda step, values: None,
                checkpoint_every=3,
                on_checkpoint=lambda s: checkpoints.save(s, {"next": int(s.step)}, {}, 1 / int(s.step)),
            )
        return state

    start = make_state(mesh)
    start = start.replace(opt_state=jax.device_put(OPTIMISER.init(start.params), replicated(mesh)))
    copy = jax.tree.map(jnp.copy, start)
    whole = train(start, 6, new_run(tmp_path / "whole"))
    halves = new_run(tmp_path / "halves")
    train(copy, 3, halves)
    state, data = restore(halves, abstract(mesh))
    assert data == {"next": 3}
    assert_equal(train(state, 6, halves), whole)
    assert_equal(checkpoint.read_params(halves)[0], checkpoint.read_params(tmp_path / "whole")[0])
