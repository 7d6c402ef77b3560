"""One device against eight, the training step, and the loop around it."""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ahmf_jax import InputError
from ahmf_jax.models import AHMF
from ahmf_jax.sharding import batch_sharding, make_mesh, replicated
from ahmf_jax.state import TrainState, create_state, init_params
from ahmf_jax.train import AHEAD, NonFiniteLoss, fit, stop_on_signal, train_step

OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
# The smallest network there is; compiling is what takes the time here.
TINY = AHMF(scale=2, num_levels=1, features=2, variant="paper", fusion="concat", recurrence="none")
WHOLE = AHMF(scale=2, num_levels=2, features=2, variant="paper")


def make_state(mesh: Any, model: AHMF = TINY, optimiser: Any = OPTIMISER, **fields: Any) -> TrainState:
    """Built without compiling the initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, model))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0.1, 0.3, x.shape), x.dtype), shapes)
    state = TrainState(jnp.int32(0), params, optimiser.init(params), model, optimiser, **fields)
    return jax.device_put(state, replicated(mesh))


def make_batch(seed: int, size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "depth_lr": rng.random((size, 3, 4, 1), np.float32),
        "guide": rng.random((size, 6, 8, 3), np.float32),
        "depth_hr": rng.random((size, 6, 8, 1), np.float32),
        "mask_lr": np.ones((size, 3, 4, 1), bool),
        "mask_hr": rng.random((size, 6, 8, 1)) < 0.8,
    }


def batches(start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    while True:
        yield make_batch(start)
        start += 1


class Journal:
    """What `fit` told its callbacks."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.saved: list[TrainState] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.logs.append((step, values))

    def run(self, state: TrainState, source: Iterator[Any], mesh: Any, **options: int) -> tuple[TrainState, bool]:
        settings: dict[str, Any] = {"steps": 5, "log_every": 2, "checkpoint_every": 100, **options}
        return fit(
            state,
            source,
            mesh=mesh,
            on_log=self.log,
            # Copies: the loop gives the buffers away.
            on_checkpoint=lambda state: self.saved.append(jax.tree.map(jnp.copy, state)),
            **settings,
        )

    @property
    def saved_steps(self) -> list[int]:
        return [int(state.step) for state in self.saved]


def assert_equal(a: TrainState, b: TrainState, tolerance: float = 0) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def one() -> Any:
    return make_mesh(1)


def test_meshes() -> None:
    assert make_mesh().size == 8 and make_mesh(3).size == 3
    x = jax.device_put(np.arange(16), batch_sharding(make_mesh()))
    assert [shard.data.tolist() for shard in x.addressable_shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_eight_devices_train_like_one(one: Any) -> None:
    # Not Adam: it divides a gradient by its own size, which makes as much of rounding as of anything.
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.9))
    states = []
    for mesh in (one, make_mesh(8)):
        before = make_state(mesh, WHOLE, optimiser, scaling="sample")
        state, stopped = Journal().run(before, batches(), mesh, steps=3)
        assert not stopped and int(state.step) == 3
        assert all(x.sharding.is_equivalent_to(replicated(mesh), x.ndim) for x in jax.tree.leaves(state))
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params)), "the state was not donated"
        states.append(state)
    assert_equal(*states, 1e-5)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), states[0].params, make_state(one, WHOLE).params)
    assert max(jax.tree.leaves(moved)) > 1e-2


def test_the_step_by_hand(one: Any) -> None:
    """The loss is taken in the network's scale over the known pixels, the MAE in units of the range."""
    state, batch = make_state(one, loss="mse", scaling="sample"), make_batch(0)
    _, metrics = jax.jit(train_step)(state, batch)
    low, high = (f(batch["depth_lr"], axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    output, _ = jax.jit(TINY.apply)(
        {"params": state.params}, jnp.asarray((batch["depth_lr"] - low) / (high - low)), jnp.asarray(batch["guide"])
    )
    error = np.asarray(output - (batch["depth_hr"] - low) / (high - low))
    mask = batch["mask_hr"]
    assert float(metrics["loss"]) == pytest.approx(np.square(error)[mask].mean(), rel=1e-5)
    assert float(metrics["mae"]) == pytest.approx(np.abs(error * (high - low))[mask].mean(), rel=1e-5)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_what_stands_in_a_hole_trains_nothing(one: Any, junk: float) -> None:
    step = jax.jit(train_step)
    batch = make_batch(0)
    spoilt = {**batch, "depth_hr": np.where(batch["mask_hr"], batch["depth_hr"], np.float32(junk))}
    for loss in ("l1", "mse"):
        a, b = (step(make_state(one, loss=loss), x) for x in (batch, spoilt))
        assert_equal(a[0], b[0])
        assert a[1] == b[1]


def test_a_batch_of_holes_trains_nothing(one: Any) -> None:
    batch = make_batch(0)
    before = make_state(one)
    after, metrics = jax.jit(train_step)(before, {**batch, "mask_hr": np.zeros_like(batch["mask_hr"])})
    assert metrics["loss"] == metrics["mae"] == metrics["grad_norm"] == 0
    assert_equal(after.replace(step=0, opt_state=None), before.replace(step=0, opt_state=None))


def test_logs_are_means_and_checkpoints_come_when_due(one: Any) -> None:
    each = Journal()
    last, _ = each.run(make_state(one), batches(), one, log_every=1)
    assert [step for step, _ in each.logs] == [1, 2, 3, 4, 5]
    losses = [values["loss"] for _, values in each.logs]
    assert each.logs[0][1].keys() == {"loss", "mae", "grad_norm", "data_wait"} and losses[0] > losses[-1]

    journal = Journal()
    state, stopped = journal.run(make_state(one), batches(), one, checkpoint_every=3)
    assert not stopped
    assert_equal(state, last)
    assert journal.saved_steps == [3, 5]
    assert_equal(journal.saved[-1], state)
    # Before each checkpoint what is pending is looked at.
    assert [step for step, _ in journal.logs] == [2, 3, 4, 5]
    means = [values["loss"] for _, values in journal.logs]
    np.testing.assert_allclose(means, [(losses[0] + losses[1]) / 2, *losses[2:]], rtol=1e-6)


def test_a_checkpoint_at_the_last_step_comes_once(one: Any) -> None:
    journal = Journal()
    journal.run(make_state(one), batches(), one, steps=4, checkpoint_every=2)
    assert journal.saved_steps == [2, 4]


@pytest.mark.parametrize(("log_every", "checkpoint_every", "saved"), [(2, 100, []), (100, 5, []), (100, 3, [3])])
def test_a_loss_that_is_no_number(one: Any, log_every: int, checkpoint_every: int, saved: list[int]) -> None:
    def source() -> Iterator[Any]:
        for seed in range(1000):
            batch = make_batch(seed)
            if seed == 3:  # the fourth step
                batch["guide"][0, 0, 0] = np.nan
            yield batch

    journal = Journal()
    with pytest.raises(NonFiniteLoss, match="the loss at step 4 is nan") as error:
        journal.run(make_state(one), source(), one, steps=7, log_every=log_every, checkpoint_every=checkpoint_every)
    assert error.value.step == 4
    assert journal.saved_steps == saved
    assert all(np.isfinite(x).all() for state in journal.saved for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_after_saving(one: Any, number: int) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    class Interrupted(Journal):
        def log(self, step: int, values: dict[str, float]) -> None:
            super().log(step, values)
            if step == 3:
                os.kill(os.getpid(), number)

    journal = Interrupted()
    state, stopped = journal.run(make_state(one), batches(), one, steps=50, log_every=1)
    assert stopped and int(state.step) == 3
    assert journal.saved_steps == [3] and [step for step, _ in journal.logs] == [1, 2, 3]
    assert_equal(journal.saved[0], state)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # What was saved goes on as if nothing had happened.
    resumed, stopped = Journal().run(journal.saved[0], batches(3), one)
    assert not stopped
    assert_equal(resumed, Journal().run(make_state(one), batches(), one)[0])


def test_batches_are_fetched_ahead_but_never_beyond_the_last_step(one: Any) -> None:
    drawn: list[int] = []
    seen: list[int] = []

    def source() -> Iterator[Any]:
        for seed in range(1000):
            drawn.append(seed)
            yield make_batch(seed)

    class Slow(Journal):
        def log(self, step: int, values: dict[str, float]) -> None:
            time.sleep(0.2)
            seen.append(len(drawn))

    state, _ = Slow().run(make_state(one), source(), one, steps=6, log_every=1)
    assert int(state.step) == 6
    # While a step is logged, the batches of the next ones are there already.
    assert seen == [min(step + AHEAD, 6) for step in range(1, 7)]


@pytest.mark.parametrize("slow", [0.0, 0.3])
def test_the_share_of_waiting_for_data(one: Any, slow: float) -> None:
    def source() -> Iterator[Any]:
        batch = make_batch(0)
        while True:
            time.sleep(slow)
            yield batch

    journal = Journal()
    journal.run(make_state(one), source(), one, steps=6, log_every=3)
    wait = journal.logs[-1][1]["data_wait"]  # the first log's time went into compiling
    assert 0.7 < wait < 1 if slow else 0 <= wait < 0.3, wait


def test_while_the_devices_work_nothing_is_waited_for(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that takes 0.3 s beside a device that takes 0.2 s: a third of the time is lost, not all of it."""
    busy = 0.0

    class Metric:
        def __init__(self, ready: float) -> None:
            self.ready = ready

        def block_until_ready(self) -> None:
            time.sleep(max(self.ready - time.perf_counter(), 0))

        def __float__(self) -> float:
            self.block_until_ready()
            return 1.0

    def step(state: TrainState, batch: Any) -> Any:  # as a device does: it comes back at once, and works in its turn
        nonlocal busy
        busy = max(busy, time.perf_counter()) + 0.2
        return state, {"loss": Metric(busy), "grad_norm": Metric(busy)}

    def source() -> Iterator[Any]:
        batch = make_batch(0)
        while True:
            time.sleep(0.3)
            yield batch

    monkeypatch.setattr("ahmf_jax.train.jax.jit", lambda *args, **kwargs: step)
    journal = Journal()
    journal.run(make_state(one), source(), one, steps=9, log_every=9)
    assert 0.2 < journal.logs[0][1]["data_wait"] < 0.5


def test_a_loader_that_fails_stops_the_run(one: Any) -> None:
    def source() -> Iterator[Any]:
        yield make_batch(0)
        yield make_batch(1)
        raise InputError("record 2 is damaged")

    journal = Journal()
    with pytest.raises(InputError, match="record 2 is damaged"):
        journal.run(make_state(one), source(), one, log_every=1)
    assert [step for step, _ in journal.logs] == [1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_second_interrupt_is_not_held_back() -> None:
    with stop_on_signal() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGTERM)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_new_state() -> None:
    mesh = make_mesh()
    state = create_state(TINY, OPTIMISER, mesh, loss="mse", scaling="sample", seed=1)
    assert (int(state.step), state.loss, state.scaling) == (0, "mse", "sample")
    assert all(x.sharding == replicated(mesh) for x in jax.tree.leaves(state))
    kernels = [x for x in jax.tree.leaves(state.params) if x.ndim == 4]
    assert len({float(x.ravel()[0]) for x in kernels}) == len(kernels) > 5, "two layers start alike"
    abstract = create_state(TINY, OPTIMISER, mesh, loss="mse", scaling="sample", abstract=True)
    described, expected = (jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), s) for s in (abstract, state))
    assert described == expected


def test_the_output_scale_is_the_last_convolutions_alone() -> None:
    class Fixed:
        scale = 4

        def init(self, key: Any, depth_lr: Any, guide: Any) -> Any:
            assert guide.shape == (1, 4 * depth_lr.shape[1], 4 * depth_lr.shape[2], 3)
            conv = {"kernel": jnp.float32([2, 3]), "bias": jnp.float32(1)}
            return {"params": {"reconstruction": {"output": conv, "reduce": conv}, "conv": conv}}

    params = init_params(Fixed(), output_scale=0.25)
    assert params["reconstruction"]["output"]["kernel"].tolist() == [0.5, 0.75]
    assert params["reconstruction"]["output"]["bias"] == 0.25
    for other in (params["reconstruction"]["reduce"], params["conv"]):
        assert other["kernel"].tolist() == [2, 3] and other["bias"] == 1


def test_another_loss() -> None:
    with pytest.raises(InputError, match="loss 'huber' is not one of l1, mse, charbonnier"):
        create_state(TINY, OPTIMISER, make_mesh(), loss="huber")
