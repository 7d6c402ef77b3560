"""The training step, and the loop around it."""

import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ahmf_jax import InputError
from ahmf_jax.models import AHMF, Model
from ahmf_jax.sharding import make_mesh, place_batch, replicated
from ahmf_jax.state import TrainState, create_state, init_params
from ahmf_jax.stopping import Stop
from ahmf_jax.train import AHEAD, NonFiniteLoss, Profile, Progress, fit, train_step

OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
SGD = optax.sgd(1.0)
# The smallest network there is; compiling is what takes the time here.
TINY = AHMF(scale=2, num_levels=1, features=2, variant="paper", fusion="concat", recurrence="none")


def make_state(mesh: Any, model: AHMF = TINY, optimiser: Any = OPTIMISER, **fields: Any) -> TrainState:
    """Built without compiling the initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, model))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0.1, 0.3, x.shape), x.dtype), shapes)
    return jax.device_put(TrainState.start(params, model, optimiser, **fields), replicated(mesh))


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


class Due(Stop):
    """A signal that comes before `step`."""

    def __init__(self, step: int = 1000) -> None:
        super().__init__()
        self.step = step

    def __call__(self, step: int) -> bool:
        return step >= self.step


class Journal:
    """What `fit` told its callbacks."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.skips: list[int] = []
        self.saved: list[TrainState] = []
        self.rows: list[list[dict[str, float]]] = []
        self.validated: list[int] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.logs.append((step, values))

    def checkpoint(self, state: TrainState, rows: Any, validate: bool) -> None:
        self.saved.append(jax.tree.map(jnp.copy, state))  # copies: the loop gives the buffers away
        self.rows.append(list(rows))
        if validate:
            self.validated.append(int(state.step))

    def run(self, state: TrainState, source: Iterator[Any], mesh: Any, **options: Any) -> tuple[TrainState, bool]:
        settings: dict[str, Any] = {"steps": 5, "log_every": 2, "save_every": 100, "validate_every": 100, **options}
        looped = {name: settings.pop(name) for name in ("stop", "profile") if name in settings}
        progress = Progress(
            int(state.step),
            on_log=self.log,
            on_checkpoint=self.checkpoint,
            on_skip=lambda step, row: self.skips.append(step),
            **settings,
        )
        return fit(state, source, progress, mesh=mesh, **({"stop": Due()} | looped)), not progress.done

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(step, values["loss"]) for step, values in self.logs]

    @property
    def saved_steps(self) -> list[int]:
        return [int(state.step) for state in self.saved]


def assert_equal(a: TrainState, b: TrainState, tolerance: float = 0) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def one() -> Any:
    return make_mesh(1, 1)


def test_training_moves_the_state_and_gives_its_buffers_away(one: Any) -> None:
    before = make_state(one)
    state, stopped = Journal().run(before, batches(), one, steps=3)
    assert not stopped and int(state.step) == 3 and int(state.skipped) == 0
    assert all(x.is_deleted() for x in jax.tree.leaves(before.params)), "the state was not donated"
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, make_state(one).params)
    assert min(jax.tree.leaves(moved)) > 1e-3


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
    names = {"loss", "mae", "grad_norm", "skipped", "data_wait", "step_seconds"}
    assert each.logs[0][1].keys() == names and losses[0] > losses[-1]

    journal = Journal()
    state, stopped = journal.run(make_state(one), batches(), one, save_every=3, validate_every=4)
    assert not stopped
    assert_equal(state, last)
    assert journal.saved_steps == [3, 4, 5] and journal.validated == [4, 5]
    assert_equal(journal.saved[-1], state)
    # A save does not cut a mean in two: what it is of so far is handed over.
    assert [step for step, _ in journal.logs] == [2, 4, 5]
    assert [[row["loss"] for row in rows] for rows in journal.rows] == [[losses[2]], [], []]
    means = [values["loss"] for _, values in journal.logs]
    np.testing.assert_allclose(means, [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, losses[4]], rtol=1e-6)


def test_a_checkpoint_at_the_last_step_comes_once(one: Any) -> None:
    journal = Journal()
    journal.run(make_state(one), batches(), one, steps=4, save_every=2)
    assert journal.saved_steps == [2, 4] and journal.validated == [4]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_stopped_and_gone_on_with_is_never_stopped(one: Any, at: int) -> None:
    """State, data order and logged losses bit for bit, wherever the stop falls between two lines of the log."""
    whole, first, second = Journal(), Journal(), Journal()
    expected, _ = whole.run(make_state(one), batches(), one, log_every=3)
    state, stopped = first.run(make_state(one), batches(), one, log_every=3, stop=Due(at))
    assert stopped and int(state.step) == at and first.saved_steps == [at] and not first.validated
    assert_equal(first.saved[0], state)
    state, stopped = second.run(first.saved[0], batches(at), one, log_every=3, rows=first.rows[-1])
    assert not stopped
    assert_equal(state, expected)
    assert first.losses + second.losses == whole.losses


def test_a_stop_before_the_first_step_saves_nothing(one: Any) -> None:
    journal = Journal()
    state, stopped = journal.run(make_state(one), batches(), one, stop=Due(0))
    assert stopped and int(state.step) == 0 and not journal.saved and not journal.logs


def spoilt(*steps: int) -> Iterator[Any]:
    """The batches, those of some steps with a value that is no number."""
    for step, batch in enumerate(batches(), 1):
        if step in steps:
            batch["guide"][0, 0, 0] = np.nan
        yield batch


@pytest.mark.parametrize(("log_every", "save_every", "saved"), [(2, 100, []), (100, 5, []), (100, 3, [3])])
def test_a_loss_that_is_no_number(one: Any, log_every: int, save_every: int, saved: list[int]) -> None:
    journal = Journal()
    with pytest.raises(NonFiniteLoss, match="the loss at step 4 is nan") as error:
        journal.run(make_state(one), spoilt(4), one, steps=7, log_every=log_every, save_every=save_every)
    assert error.value.step == 4 and journal.skips == [4]
    assert journal.saved_steps == saved
    assert all(np.isfinite(x).all() for state in journal.saved for x in jax.tree.leaves(state.params))


def test_a_step_that_is_skipped_changes_nothing(one: Any) -> None:
    journal, without = Journal(), Journal()
    ema = {"ema_decay": 0.5}
    state, _ = journal.run(make_state(one, **ema), spoilt(2, 3), one, steps=5, on_nonfinite="skip", log_every=5)
    assert journal.skips == [2, 3] and int(state.skipped) == 2
    assert journal.logs[0][1]["skipped"] == 2 and np.isfinite(journal.logs[0][1]["loss"])

    source = (batch for step, batch in enumerate(batches(), 1) if step not in (2, 3))
    expected, _ = without.run(make_state(one, **ema), source, one, steps=3)
    assert_equal(state.replace(step=0, skipped=0, ema=0), expected.replace(step=0, skipped=0, ema=0))


def test_skipping_has_an_end(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ahmf_jax.train.MAX_SKIPS", 3)
    journal = Journal()
    with pytest.raises(NonFiniteLoss, match="step 6"):
        source = spoilt(1, 4, 5, 6)
        journal.run(make_state(one), source, one, steps=9, on_nonfinite="skip")
    assert journal.skips == [1, 4, 5, 6]


@pytest.mark.parametrize("edge_weight", [0.0, 0.5])
def test_a_batch_in_parts_is_the_whole_batch(one: Any, edge_weight: float) -> None:
    """Loss and gradient, also where the parts have different numbers of holes."""
    batch = make_batch(0)
    batch["mask_hr"][::2, :3] = False  # every other image is half unknown
    results = [
        jax.jit(train_step)(make_state(one, TINY, SGD, accumulate=parts, edge_weight=edge_weight), batch)
        for parts in (1, 2, 4)
    ]
    for state, metrics in results[1:]:
        assert_equal(state.replace(accumulate=1), results[0][0], 1e-5)
        for name, value in results[0][1].items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_the_moving_average_by_hand(one: Any) -> None:
    step = jax.jit(train_step)
    state = make_state(one, ema_decay=0.15)
    average = state.params
    for number in range(3):
        state, _ = step(state, make_batch(number))
        decay = min(0.15, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    for ours, theirs in zip(jax.tree.leaves(state.average), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    plain = make_state(one)
    assert plain.average == plain.params


def test_the_randomness_of_a_step_is_of_the_seed_and_the_step(one: Any) -> None:
    class Drawing(AHMF):
        """Adds noise to what it returns."""

        def __call__(self, depth_lr: Any, guide: Any, **given: Any) -> Any:
            depth, aux = super().__call__(depth_lr, guide)
            assert given.get("train", self.is_initializing())
            return depth + jax.random.normal(self.make_rng("sample")), aux

    model = Drawing(scale=2, num_levels=1, features=2, variant="paper", fusion="concat", recurrence="none")
    step = jax.jit(train_step)

    def loss(seed: int, at: int) -> float:
        return float(step(make_state(one, model, seed=seed).replace(step=jnp.int32(at)), make_batch(0))[1]["loss"])

    assert loss(0, 0) == loss(0, 0) != loss(0, 1) != loss(1, 0) != loss(0, 0)


def test_a_trace_of_some_steps(one: Any, tmp_path: Path) -> None:
    Journal().run(make_state(one), batches(), one, profile=Profile(2, 3, tmp_path / "profile"))
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert "perfetto_trace.json.gz" in names and any(name.endswith(".xplane.pb") for name in names)


def test_a_signal_is_heard_while_the_step_is_compiled(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Due()
    threading.Timer(0.5, stop.hear).start()
    slow = SimpleNamespace(compile=lambda: time.sleep(3))
    monkeypatch.setattr("ahmf_jax.train.lowered_step", lambda *args: slow)
    start, journal = time.perf_counter(), Journal()
    _, stopped = journal.run(make_state(one), batches(), one, stop=stop)
    assert stopped and not journal.saved and time.perf_counter() - start < 2


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


@pytest.mark.parametrize(
    ("loader", "device", "least", "most"), [(0.0, 0.1, 0, 0.3), (0.3, 0.0, 0.7, 1), (0.3, 0.2, 0.2, 0.5)]
)
def test_the_share_of_waiting_for_data(
    one: Any, monkeypatch: pytest.MonkeyPatch, loader: float, device: float, least: float, most: float
) -> None:
    """While the devices work nothing is waited for: of 0.3 s for a batch, 0.2 s beside a step, a third is lost."""
    busy = 0.0

    class Metric:
        def __init__(self, ready: float) -> None:
            self.ready = ready

        def block_until_ready(self) -> None:
            time.sleep(max(self.ready - time.perf_counter(), 0))

        def __float__(self) -> float:
            self.block_until_ready()
            return 0.0

    def step(state: TrainState, batch: Any) -> Any:  # as a device does: it comes back at once, and works in its turn
        nonlocal busy
        busy = max(busy, time.perf_counter()) + device
        return state, {"loss": Metric(busy), "grad_norm": Metric(busy), "skipped": 0}

    def source() -> Iterator[Any]:
        batch = make_batch(0)
        while True:
            time.sleep(loader)
            yield batch

    monkeypatch.setattr("ahmf_jax.train.lowered_step", lambda *args: SimpleNamespace(compile=lambda: step))
    journal = Journal()
    journal.run(make_state(one), source(), one, steps=9, log_every=9)
    values = journal.logs[0][1]
    assert least <= values["data_wait"] <= most
    assert values["step_seconds"] == pytest.approx(max(loader, device), rel=0.3)


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


def test_a_new_state() -> None:
    mesh = make_mesh()
    state = create_state(TINY, OPTIMISER, mesh, loss="mse", scaling="sample", seed=1)
    assert (int(state.step), state.loss, state.scaling) == (0, "mse", "sample")
    assert all(x.sharding == replicated(mesh) for x in jax.tree.leaves(state))
    kernels = [x for x in jax.tree.leaves(state.params) if x.ndim >= 4]
    assert len({float(x.ravel()[0]) for x in kernels}) == len(kernels) > 5, "two layers start alike"
    abstract = create_state(TINY, OPTIMISER, mesh, loss="mse", scaling="sample", abstract=True)
    described, expected = (jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), s) for s in (abstract, state))
    assert described == expected


def test_the_output_scale_is_the_last_convolutions_alone() -> None:
    class Fixed(Model):
        corrections = (("reconstruction", "output"),)

        def init(self, key: Any, depth_lr: Any, guide: Any) -> Any:
            assert guide.shape == (1, 4 * depth_lr.shape[1], 4 * depth_lr.shape[2], 3)
            conv = {"kernel": jnp.float32([2, 3]), "bias": jnp.float32(1)}
            return {"params": {"reconstruction": {"output": conv, "reduce": conv}, "conv": conv}}

    params = init_params(Fixed(scale=4), output_scale=0.25)
    assert params["reconstruction"]["output"]["kernel"].tolist() == [0.5, 0.75]
    assert params["reconstruction"]["output"]["bias"] == 0.25
    for other in (params["reconstruction"]["reduce"], params["conv"]):
        assert other["kernel"].tolist() == [2, 3] and other["bias"] == 1


def test_another_loss() -> None:
    with pytest.raises(InputError, match="loss 'huber' is not one of l1, mse, charbonnier"):
        create_state(TINY, OPTIMISER, make_mesh(), loss="huber")


class Staged(Model):
    """Makes the depth twice and four times as large on its way, times a parameter each, and bends the second."""

    guided = False

    @nn.compact
    def __call__(
        self, depth_lr: Any, guide: Any = None, *, mask_lr: Any = None, train: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        a, b = (self.param(name, nn.initializers.ones, ()) for name in "ab")
        two, four = (n_times(depth_lr, n) for n in (2, 4))
        return b * jnp.tanh(a * four), {"stages": (a * two, b * four)}


def n_times(x: Any, n: int) -> Any:
    return x.repeat(n, 1).repeat(n, 2)


def staged(one: Any, **fields: Any) -> TrainState:
    params = {"a": jnp.float32(0.9), "b": jnp.float32(1.2)}
    how = {"loss": "mse", "stage_weights": (0.5, 2.0), "stage_kernel": "torch_bilinear", **fields}
    return jax.device_put(TrainState.start(params, Staged(scale=4), SGD, **how), replicated(one))


def staged_batch(seed: int = 0, size: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    batch = {
        "depth_lr": rng.random((size, 2, 3, 1), np.float32),
        "guide": np.zeros((size, 8, 12, 0), np.float32),
        "depth_hr": rng.random((size, 8, 12, 1), np.float32),
        "mask_lr": np.ones((size, 2, 3, 1), bool),
        "mask_hr": rng.random((size, 8, 12, 1)) < 0.8,
    }
    batch["mask_hr"][::2, :3] = False
    return batch


@pytest.mark.parametrize("scaling", ["range", "sample"])
def test_every_stage_is_supervised_with_its_weight(one: Any, scaling: str) -> None:
    """By hand, and the gradient too, that of the sum: a batch's blocks of four pixels count where all are known."""
    batch = staged_batch()
    after, metrics = jax.jit(train_step)(staged(one, scaling=scaling), batch)
    depth, mask = batch["depth_hr"], batch["mask_hr"]
    low, high = (f(batch["depth_lr"], axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    offset, span = (0 * low, 0 * low + 1) if scaling == "range" else (low, high - low)
    lr, truth = (batch["depth_lr"] - offset) / span, (depth - offset) / span
    blocks = (4, 4, 2, 6, 2, 1)
    half, whole = truth.reshape(blocks).mean((2, 4)), mask.reshape(blocks).all((2, 4))

    def loss(a: Any, b: Any) -> tuple[Any, list[Any]]:
        stages = [(a * n_times(lr, 2), half, whole), (b * n_times(lr, 4), truth, mask)]
        stages.append((b * jnp.tanh(a * n_times(lr, 4)), truth, mask))
        terms = [jnp.square(made - wanted)[known].mean() for made, wanted, known in stages]
        return 0.5 * terms[0] + 2 * terms[1] + terms[2], terms

    (total, terms), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(0.9, 1.2)
    assert 3 < whole.sum() < 40
    found = [float(metrics[name]) for name in ("loss", "loss_x2", "loss_x4", "loss_final")]
    np.testing.assert_allclose(found, [total, *terms], rtol=1e-5)
    moved = [0.9 - after.params["a"], 1.2 - after.params["b"]]
    np.testing.assert_allclose(moved, grads, rtol=1e-4)


@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_what_stands_in_a_hole_trains_no_stage(one: Any, junk: float) -> None:
    step, batch = jax.jit(train_step), staged_batch()
    spoilt = {**batch, "depth_hr": np.where(batch["mask_hr"], batch["depth_hr"], np.float32(junk))}
    (a, told), (b, same) = (step(staged(one, stage_kernel="matlab_bicubic"), x) for x in (batch, spoilt))
    assert_equal(a, b)
    assert told == same and int(a.skipped) == 0
    batch["mask_hr"][:] = False
    nothing, metrics = step(staged(one), batch)
    assert_equal(nothing.replace(step=0, opt_state=None), staged(one).replace(step=0, opt_state=None))
    assert not any(float(value) for value in metrics.values())


def test_stages_of_a_batch_in_parts_are_those_of_the_whole(one: Any) -> None:
    batch = staged_batch()
    (whole, told), (parts, same) = (jax.jit(train_step)(staged(one, accumulate=n), batch) for n in (1, 4))
    assert_equal(parts.replace(accumulate=1), whole, 1e-6)
    assert told.keys() == same.keys()
    np.testing.assert_allclose([*map(float, same.values())], [*map(float, told.values())], rtol=1e-5)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices: JAX_NUM_CPU_DEVICES=8")
def test_stages_over_devices_are_those_of_one(one: Any) -> None:
    batch = staged_batch()
    alone, told = jax.jit(train_step)(staged(one), batch)
    mesh = make_mesh(2, 2)
    with jax.set_mesh(mesh):
        split, same = jax.jit(train_step)(staged(mesh), place_batch(batch, mesh))
    assert_equal(jax.device_get(split), jax.device_get(alone), 1e-6)
    np.testing.assert_allclose([*map(float, same.values())], [*map(float, told.values())], rtol=1e-5)


def test_stages_of_one_size_are_logged_together(one: Any) -> None:
    class Twice(Staged):
        """Each stage twice."""

        def __call__(self, depth_lr: Any, guide: Any = None, **given: Any) -> Any:
            output, aux = super().__call__(depth_lr, guide)
            return output, {"stages": (*aux["stages"], aux["stages"][0])}

    (_, twice), (_, once) = (
        jax.jit(train_step)(staged(one, stage_weights=weights).replace(model=model), staged_batch())
        for model, weights in ((Twice(scale=4), (1.0, 0.0, 1.0)), (Staged(scale=4), (2.0, 0.0)))
    )
    assert float(twice["loss"]) == pytest.approx(float(once["loss"]), rel=1e-6)
    assert float(twice["loss_x2"]) == pytest.approx(2 * float(once["loss_x2"]), rel=1e-6)


def test_stages_that_there_are_not(one: Any) -> None:
    for state, batch, said in (
        (make_state(one, stage_weights=(1.0,)), make_batch(0), r"is \(1.0,\), and AHMF makes 0 stages: leave them out"),
        (staged(one, stage_weights=(1.0,)), staged_batch(), "and Staged makes 2 stages: give each its weight"),
    ):
        with pytest.raises(InputError, match=said):
            jax.eval_shape(train_step, state, batch)
    with pytest.raises(InputError, match="stage_kernel 'bicubic' is not one of matlab_bicubic, "):
        staged(one, stage_kernel="bicubic")
    assert "loss_final" not in jax.eval_shape(train_step, staged(one, stage_weights=()), staged_batch())[1]
