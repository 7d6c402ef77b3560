"""Runs in lanes of one program: each has the numbers that it would have alone, whatever happens beside it."""

import functools
import time
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ahmf_jax import InputError
from ahmf_jax.models import AHMF, DADA
from ahmf_jax.models.dada import griddata
from ahmf_jax.sharding import make_mesh
from ahmf_jax.state import TrainState
from ahmf_jax.stopping import Stop
from ahmf_jax.together import Lane, Lanes, Numbers, fit_together, lane_mesh
from ahmf_jax.train import Clock, NonFiniteLoss, Progress, fit
from tests.ahmf_jax.test_train import TINY, assert_equal, make_batch, make_state

STEPS = 6
_NONE = optax.identity()
# By run: the rates of its steps, and Adam's b1, the clip, the weight of the edges, the average's decay.
HOW = [
    (np.linspace(1e-2, 1e-3, STEPS), 0.9, 1.0, 0.0, 0.5),
    (np.linspace(1e-3, 1e-2, STEPS), 0.8, 0.5, 0.7, 0.9),
    (np.full(STEPS, 5e-3), 0.0, 2.0, 0.0, 0.99),
]


def make(rate: Any, numbers: Any) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(numbers["clip"]), optax.adam(rate, b1=numbers["b1"]))


def numbers_of(number: int) -> Numbers:
    rates, b1, clip, edge_weight, ema_decay = (np.float32(x) for x in HOW[number])
    return Numbers(rates, {"b1": b1, "clip": clip}, edge_weight, ema_decay)


class Run:
    """A run of some steps; what it told its callbacks, and how it ended."""

    def __init__(
        self,
        number: int,
        *,
        steps: int = STEPS,
        state: TrainState | None = None,
        batches: Iterator[Any] | None = None,
        model: AHMF = TINY,
        due: Any = lambda step: None,
        stop: Stop | None = None,
        **options: Any,
    ) -> None:
        numbers = numbers_of(number)
        optimiser = make(lambda count: jnp.asarray(numbers.rates)[count], numbers.optimiser)
        fields = {"edge_weight": float(numbers.edge_weight), "ema_decay": float(numbers.ema_decay), "seed": number}
        self.first = state or make_state(make_mesh(1, 1), model, optimiser, **fields)
        self.losses: list[tuple[int, float]] = []
        self.logs: list[dict[str, float]] = []
        self.saved: list[TrainState] = []
        self.skips: list[int] = []
        self.drawn = 0
        self.ended: list[Exception | None] = []
        self._due, self._source = due, batches
        settings: dict[str, Any] = {"log_every": 1, "save_every": 100, "validate_every": 100, **options}
        self.progress = Progress(
            int(self.first.step),
            steps,
            on_log=self.log,
            on_checkpoint=self.checkpoint,
            on_skip=lambda step, row: self.skips.append(step),
            **settings,
        )
        self.lane = Lane(self.first, self.batches(number), numbers, self.progress, stop)

    def log(self, step: int, values: dict[str, float]) -> None:
        self.losses.append((step, values["loss"]))
        self.logs.append(values)

    def checkpoint(self, state: TrainState, rows: Any, validate: bool) -> None:
        self.saved.append(jax.tree.map(jnp.copy, state))
        self._due(int(state.step))

    @property
    def last(self) -> TrainState:
        """What was saved last, with an optimiser that is the same for all runs."""
        return self.saved[-1].replace(optimiser=_NONE)

    def batches(self, number: int) -> Iterator[Any]:
        for step in range(self.progress.step, 1000):
            self.drawn += 1
            yield make_batch(100 * number + step, 2) if self._source is None else next(self._source)

    def alone(self) -> "Run":
        fit(self.first, self.lane.batches, self.progress, mesh=make_mesh(1, 1), stop=Stop())
        return self


@functools.cache
def lanes_of(count: int, devices: int = 1) -> Lanes:
    """Compiled once for all tests."""
    return Lanes(make, count, lane_mesh(count, jax.devices()[:devices]))


def never(lane: Lane, error: Exception) -> None:
    raise AssertionError from error


def together(runs: list[Run], lanes: Lanes | None = None, stop: Stop | None = None) -> list[Run]:
    """Trains them, by default in three lanes on one device."""
    waiting = iter(runs)
    of = {run.lane: run for run in runs}

    def next_run() -> Lane | None:
        run = next(waiting, None)
        return None if run is None else run.lane

    def ended(lane: Lane, error: Exception | None) -> None:
        of[lane].ended.append(error)

    fit_together(lanes or lanes_of(3), next_run=next_run, ended=ended, failed_too=never, stop=stop or Stop())
    return runs


def assert_close(a: TrainState, b: TrainState) -> None:
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    structures: list[Any] = [jax.tree.structure(state) for state in (a, b)]
    assert structures[0] == structures[1]


@pytest.fixture(scope="module")
def alone() -> list[Run]:
    return [Run(number).alone() for number in range(3)]


@pytest.fixture(scope="module")
def beside() -> list[Run]:
    """Three runs in the lanes of one device, in which nothing happens."""
    return together([Run(number) for number in range(3)])


@pytest.mark.parametrize("devices", [1, 2])
def test_on_however_many_devices_each_is_as_alone(alone: list[Run], devices: int) -> None:
    """All on one; two on each of two, of which one idles."""
    if jax.device_count() < devices:
        pytest.skip(f"{devices} devices are needed")
    for ours, expected in zip(together([Run(n) for n in range(3)], lanes_of(3, devices)), alone, strict=True):
        assert ours.ended == [None] and len(ours.saved) == 1
        assert_close(ours.last, expected.last)
        np.testing.assert_allclose(ours.losses, expected.losses, rtol=1e-6)
        assert ours.drawn == STEPS  # its own batches, none too many


def test_what_the_host_makes_is_made_for_each_lane() -> None:
    """A DADA that begins with SciPy's interpolation."""
    model = DADA(2, features="rgb", iterations=0, initial="griddata")
    given = [make_batch(seed, 2) for seed in range(3)]
    inputs = [{name: x[name] for name in ("depth_lr", "guide", "mask_lr")} for x in given]

    def start(inputs: Any) -> Any:
        return model.apply({}, **inputs)[1]["depth_start"]

    found = jax.jit(jax.vmap(start))(jax.tree.map(lambda *x: np.stack(x), *inputs))
    for ours, each in zip(found, inputs, strict=True):
        np.testing.assert_array_equal(ours, griddata(each["depth_lr"], each["mask_lr"], 2))


def test_the_runs_are_different(alone: list[Run]) -> None:
    """Or the test above would not see lanes that are confused."""
    kernels = [np.asarray(jax.tree.leaves(run.saved[0].params)[1]).ravel()[0] for run in alone]
    assert len(set(np.round(kernels, 4))) == 3


class Enough(Exception):
    """What ends a run."""


def assert_untouched(runs: list[Run], beside: list[Run], *places: int) -> None:
    """Bit for bit what they are where nothing happens beside them."""
    for place in places:
        assert runs[place].ended == [None]
        assert_equal(runs[place].last, beside[place].last)
        assert runs[place].losses == beside[place].losses


def test_a_run_that_is_ended_and_one_that_takes_its_lane(alone: list[Run], beside: list[Run]) -> None:
    def enough(step: int) -> None:
        raise Enough(step)

    runs = together([Run(0), Run(1, save_every=2, due=enough), Run(2), Run(1)])
    (error,) = runs[1].ended
    assert isinstance(error, Enough) and error.args == (2,)
    assert [int(state.step) for state in runs[1].saved] == [2] and len(runs[1].losses) == 2
    assert_untouched(runs, beside, 0, 2)
    assert runs[3].ended == [None] and runs[3].drawn == STEPS
    assert_close(runs[3].last, alone[1].last)


def test_a_run_of_fewer_steps(beside: list[Run]) -> None:
    runs = together([Run(0), Run(1, steps=2), Run(2)])
    assert runs[1].ended == [None] and int(runs[1].saved[-1].step) == 2 and runs[1].drawn == 2
    assert_untouched(runs, beside, 0, 2)


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_a_loss_that_is_no_number_is_that_of_one_run(beside: list[Run], on_nonfinite: str) -> None:
    def poisoned() -> Iterator[Any]:
        for step in range(STEPS):
            batch = make_batch(100 + step, 2)
            if step == 2:
                batch["guide"][:] = np.nan
            yield batch

    runs = together([Run(0), Run(1, batches=poisoned(), on_nonfinite=on_nonfinite), Run(2)])
    assert runs[1].skips == [3]
    if on_nonfinite == "stop":
        (error,) = runs[1].ended
        assert isinstance(error, NonFiniteLoss) and error.step == 3 and not runs[1].saved
    else:
        # The optimiser's count is one behind the steps, and so is its place in the table of rates, as alone.
        alone = Run(1, batches=poisoned(), on_nonfinite="skip").alone()
        assert runs[1].ended == [None] and int(runs[1].saved[0].skipped) == 1
        assert_close(runs[1].last, alone.last)
    assert_untouched(runs, beside, 0, 2)


def test_batches_that_cannot_be_read_are_those_of_one_run(beside: list[Run]) -> None:
    def damaged() -> Iterator[Any]:
        yield from (make_batch(100 + step, 2) for step in range(2))
        raise InputError("record 2 is damaged")

    runs = together([Run(0), Run(1, batches=damaged()), Run(2)])
    assert [str(error) for error in runs[1].ended] == ["record 2 is damaged"]
    assert [step for step, _ in runs[1].losses] == [1, 2]
    assert_untouched(runs, beside, 0, 2)


def test_nothing_is_drawn_for_a_run_that_has_ended() -> None:
    """Its loader is closed then, and would begin anew."""

    def enough(step: int) -> None:
        raise Enough(step)

    ended = SimpleNamespace(drawn=0)
    first, second = Run(0, save_every=1, due=enough), Run(1)
    runs = {first.lane: first, second.lane: second}
    waiting = iter(runs)

    def end(lane: Lane, error: Exception | None) -> None:
        if lane is first.lane:
            ended.drawn = first.drawn

    fit_together(lanes_of(3), next_run=lambda: next(waiting, None), ended=end, failed_too=never, stop=Stop())
    assert 1 <= first.drawn == ended.drawn < STEPS and second.drawn == STEPS


def test_stopped_and_gone_on_with_is_never_stopped(beside: list[Run]) -> None:
    """In lanes whose order is another."""
    stop = Stop()

    def hear(step: int) -> None:
        if step == 3:
            stop.hear()

    first = [Run(0), Run(1, save_every=3, due=hear), Run(2)]
    together(first, stop=stop)
    assert [[int(state.step) for state in run.saved] for run in first] == [[3], [3], [3]]
    assert all(run.ended == [None] for run in first)
    second = [Run(n, state=first[n].saved[-1]) for n in range(3)]
    together(second[::-1])
    for run, gone_on, expected in zip(first, second, beside, strict=True):
        assert_equal(gone_on.last, expected.last)
        assert run.losses + gone_on.losses == expected.losses


def test_a_stop_while_the_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, lanes = Stop(), Lanes(make, 2, lane_mesh(2, jax.devices()[:1]))

    def slow(batch: Any) -> None:
        stop.hear()
        time.sleep(3)

    monkeypatch.setattr(lanes, "compile", slow)
    runs = together([Run(0), Run(1)], lanes, stop)
    assert all(run.ended == [None] and not run.saved and run.progress.step == 0 for run in runs)


def test_runs_that_are_done_already_and_none_at_all() -> None:
    done = Run(0, steps=0)
    asked: list[int] = []

    def next_run() -> Lane | None:
        asked.append(len(asked))
        return done.lane if len(asked) == 1 else None

    ended: list[Any] = []
    fit_together(lanes_of(3), next_run=next_run, ended=lambda *how: ended.append(how), failed_too=never, stop=Stop())
    assert ended == [(done.lane, None)] and asked == [0, 1] and not done.drawn


def test_a_run_with_a_stop_of_its_own(beside: list[Run]) -> None:
    """It ends, saved, before the next step, and the others go on."""

    class Own(Stop):
        lost = False

        @property
        def requested(self) -> bool:
            return self.lost

    stop = Own()

    def lose(step: int) -> None:
        stop.lost = True

    runs = together([Run(0), Run(1, save_every=2, due=lose, stop=stop), Run(2), Run(1)])
    assert runs[1].ended == [None] and runs[1].progress.step == 2 and not runs[1].progress.unsaved
    assert_untouched(runs, beside, 0, 2)
    assert runs[3].ended == [None] and runs[3].progress.done, "its lane was not given to the next"


def failing(runs: list[Run], lanes: Lanes, next_run: Any = None) -> tuple[list[Lane], list[tuple[Lane, str]]]:
    """Trains runs whose end the caller fails to take note of: those it was told of, and what failed beside that."""
    told: list[Lane] = []
    beside: list[tuple[Lane, str]] = []
    waiting = iter(runs)

    def next_of_all() -> Lane | None:
        run = next(waiting, None)
        return run.lane if run else next_run() if next_run else None

    def ended(lane: Lane, error: Exception | None) -> None:
        told.append(lane)
        if len(told) == 1:
            raise OSError("the storage is gone")

    def failed_too(lane: Lane, error: Exception) -> None:
        beside.append((lane, str(error)))

    with pytest.raises(OSError, match="storage is gone"):
        fit_together(lanes, next_run=next_of_all, ended=ended, failed_too=failed_too, stop=Stop())
    return told, beside


def test_a_failure_of_none_of_the_runs_comes_out_when_all_are_saved(beside: list[Run]) -> None:
    """What is due after the step is done: the line of the log, the checkpoint, and the run that has ended too."""
    runs = [Run(0, steps=2), Run(1, log_every=2, due=lambda step: 1 / 0), Run(2, log_every=2)]
    told, failed = failing(runs, lanes_of(3))
    assert told == [runs[0].lane, runs[2].lane] and failed == [(runs[1].lane, "division by zero")]
    assert [int(run.saved[-1].step) for run in runs] == [2, 2, 2]
    assert [[step for step, _ in run.losses] for run in runs] == [[1, 2], [2], [2]]


def test_when_no_other_run_can_be_had_all_are_saved() -> None:
    def gone() -> Lane | None:
        if runs[0].progress.done:
            raise OSError("the storage is gone")
        return None

    runs = [Run(0, steps=1), Run(1)]
    waiting = iter(runs)
    ended: list[Any] = []
    with pytest.raises(OSError, match="storage is gone"):
        fit_together(
            lanes_of(3),
            next_run=lambda: run.lane if (run := next(waiting, None)) else gone(),
            ended=lambda *how: ended.append(how),
            failed_too=never,
            stop=Stop(),
        )
    assert ended == [(run.lane, None) for run in runs] and [int(run.saved[-1].step) for run in runs] == [1, 1]


def test_a_step_that_fails_is_no_failure_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is saved where it can be."""
    lanes, runs = lanes_of(3), [Run(0), Run(1, due=lambda step: 1 / 0)]
    waiting, step = iter(runs), Lanes.step
    ended: list[Any] = []
    failed: list[Any] = []

    def breaks(self: Lanes, batch: Any, active: Any) -> Any:
        if runs[0].progress.step == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return step(self, batch, active)

    monkeypatch.setattr(Lanes, "step", breaks)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        fit_together(
            lanes,
            next_run=lambda: run.lane if (run := next(waiting, None)) else None,
            ended=lambda *how: ended.append(how),
            failed_too=lambda lane, error: failed.append((lane, type(error))),
            stop=Stop(),
        )
    assert ended == [(runs[0].lane, None)] and failed == [(runs[1].lane, ZeroDivisionError)]
    assert int(runs[0].saved[-1].step) == 2


def test_a_step_that_takes_more_than_there_is_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ahmf_jax.together.memory.free", lambda device: 1000)
    runs = iter([Run(0).lane])
    with pytest.raises(MemoryError, match=r"a step takes [\d,]+ bytes"):
        fit_together(
            Lanes(make, 3, lane_mesh(3, jax.devices()[:1])),
            next_run=lambda: next(runs, None),
            ended=lambda *how: None,
            failed_too=never,
            stop=Stop(),
        )


def test_the_time_is_divided_among_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parts add up to all of it; what a callback takes, also one that raises, is nobody's."""
    step, clocks, now = Lanes.step, list[Clock](), [0.0]

    def slow(self: Lanes, batch: Any, active: Any) -> Any:
        now[0] += 0.5
        return step(self, batch, active)

    def enough(at: int) -> None:
        now[0] += 20
        raise Enough(at)

    def begin(self: Progress, clock: Clock) -> None:
        clocks.append(clock)
        began(self, clock)

    began = Progress.begin
    # A clock that nothing but the steps and the callback moves.
    monkeypatch.setattr("ahmf_jax.train.time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Lanes, "step", slow)
    runs = [Run(0), Run(1, steps=2), Run(2, save_every=4, due=enough)]
    monkeypatch.setattr(Progress, "begin", begin)
    together(runs)
    assert isinstance(runs[2].ended[0], Enough)
    seconds, _, _ = clocks[-1].read()
    total = sum(values["step_seconds"] for run in runs for values in run.logs)
    assert total == pytest.approx(seconds) == pytest.approx(6 * 0.5)
    assert [values["lanes"] for values in runs[0].logs] == pytest.approx([3, 3, 2, 2, 1, 1])
    assert all(0 <= values["data_wait"] <= 1 for run in runs for values in run.logs)


def test_a_run_of_another_program() -> None:
    other = AHMF(scale=2, num_levels=2, features=2, variant="paper", fusion="concat", recurrence="none")
    with pytest.raises(ValueError, match="not that of the others"):
        together([Run(0), Run(1, model=other)])


@pytest.mark.parametrize(("lanes", "devices", "used"), [(8, 8, 8), (9, 8, 5), (8, 3, 3), (2, 8, 2), (1, 1, 1)])
def test_devices_that_lanes_are_divided_over(lanes: int, devices: int, used: int) -> None:
    """9 lanes are 2 on each of 5 devices: with 8 devices the most that one has would be 2 as well."""
    fakes = [functools.partial(str, n) for n in range(devices)]
    assert list(lane_mesh(lanes, fakes).devices) == fakes[:used]
