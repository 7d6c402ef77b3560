"""Many runs in one program: their states stacked, stepped at once, vmapped on each device and divided over the devices.

A run of its own leaves most of a large device idle where the network is small. Runs whose programs are the same but
for numbers (learning rate and schedule, seeds, weights of losses) share one here, each in a lane: a place on the
leading axis of every array. A lane has its own step, batches and numbers, so runs begin and end when they will, and
what happens in one lane changes no number in another.
"""

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int

from ahmf_jax import memory
from ahmf_jax.layers import compiler_options
from ahmf_jax.sharding import replicated
from ahmf_jax.state import TrainState
from ahmf_jax.stopping import Stop
from ahmf_jax.train import AHEAD, Batch, Clock, Progress, Row, train_step

AXIS = "lane"
LANES, SAME = PartitionSpec(AXIS), PartitionSpec()
# The optimiser with a schedule, and with these in place of its own numbers, all of which may be traced.
MakeOptimiser = Callable[[optax.Schedule, Mapping[str, Any]], optax.GradientTransformation]


class Numbers(struct.PyTreeNode):
    """What may be different in each lane, float32: NumPy for one run, and with a leading axis for all of them."""

    rates: Any  # (n,): the learning rate, by the optimiser's count of steps; n is the same in all lanes
    optimiser: dict[str, Any]  # (): the optimiser's own
    edge_weight: Any  # ()
    ema_decay: Any  # ()


class Lane:
    """A run to be trained beside others.

    Args:
      state: before its next step.
      batches: infinite; drawn from in a thread, ahead of the training, but never beyond the run's last step.
      numbers: of the run; those of the state's optimiser, `edge_weight` and `ema_decay` are not read.
      progress: of the run, at the state's step.
      stop: of this run alone, asked before each step.
    """

    def __init__(
        self,
        state: TrainState,
        batches: Iterator[Batch],
        numbers: Numbers,
        progress: Progress,
        stop: Stop | None = None,
    ) -> None:
        self.state, self.batches, self.numbers, self.progress, self.stop = state, batches, numbers, progress, stop
        self.treedef = jax.tree.structure(state)
        self.left = progress.steps - progress.step  # batches to draw
        self.ended = False
        self.drawing = threading.Lock()  # held while a batch is drawn


def lane_mesh(lanes: int, devices: Sequence[Any] | None = None) -> Mesh:
    """As few of the devices (by default all) as hold the lanes with no device holding more than it must."""
    devices = jax.devices() if devices is None else list(devices)
    each = -(-lanes // len(devices))
    return Mesh(np.array(devices[: -(-lanes // each)]), (AXIS,))


def lane_step(
    make: MakeOptimiser, state: TrainState, numbers: Numbers, batch: Batch, active: Bool[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """`train_step` with numbers that are traced; where the lane is not active, nothing changes."""

    def rate(count: Int[Array, ""]) -> Array:
        return numbers.rates[count]

    fields = {"edge_weight": numbers.edge_weight, "ema_decay": numbers.ema_decay}
    own = state.replace(optimiser=make(rate, numbers.optimiser), **fields)
    after, metrics = train_step(own, batch)
    after = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(after))
    return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, state), metrics


class Lanes:
    """The states of the lanes, on a mesh, and the programs that work on them.

    Args:
      make: the optimiser of every lane.
      count: how many lanes.
      mesh: from `lane_mesh`. Where its devices do not divide the lanes, there are more, which are never active.
    """

    def __init__(self, make: MakeOptimiser, count: int, mesh: Mesh) -> None:
        self._make, self._mesh = make, mesh
        self._each = -(-count // mesh.size)
        self.count, self.size = count, self._each * mesh.size
        self._states: Any = None
        self._numbers: Any = None
        self._step: Any = None
        self._put = self._program(_put, (LANES, SAME, SAME, SAME), LANES, donate_argnums=0)
        self._take = self._program(_take, (LANES, SAME, SAME), SAME)

    def put(self, lane: int, state: TrainState, numbers: Numbers) -> None:
        """Begins anew in a lane; the state's buffers are given away.

        Raises:
          ValueError: the state is not of the other lanes' program.
        """
        common = _common(state)
        if self._states is None:
            stacked = functools.partial(jax.tree.map, lambda x: jnp.zeros((self.size, *x.shape), x.dtype), common)
            self._states = jax.jit(stacked, out_shardings=NamedSharding(self._mesh, LANES))()
            self._numbers = jax.tree.map(lambda x: np.zeros((self.size, *np.shape(x)), np.float32), numbers)
        elif len({jax.tree.structure(common), jax.tree.structure(self._states)}) > 1:
            raise ValueError("a lane's model, optimiser or loss is not that of the others")
        everywhere = jax.device_put(common, replicated(self._mesh))
        self._states = self._put(self._states, everywhere, *divmod(lane, self._each))
        for x in jax.tree.leaves((common, everywhere)):
            x.delete()  # in the lane it is now
        for all_lanes, x in zip(jax.tree.leaves(self._numbers), jax.tree.leaves(numbers), strict=True):
            all_lanes[lane] = x
        # A copy: on the CPU the devices may read an array of NumPy's where it is, and this one changes.
        self._placed = jax.device_put(jax.tree.map(np.copy, self._numbers), NamedSharding(self._mesh, LANES))

    def take(self, lane: int, treedef: Any) -> TrainState:
        """A copy of a lane's state on the first device, with its own static fields."""
        state = self._take(self._states, *divmod(lane, self._each))
        return jax.tree.unflatten(treedef, [x.addressable_data(0) for x in jax.tree.leaves(state)])

    def place(self, batches: Sequence[Batch | None]) -> dict[str, jax.Array]:
        """The batches of all lanes on the mesh, stacked, one of them at least not None: that lane is not active."""
        there = next(batch for batch in batches if batch is not None)
        padding = {name: np.zeros_like(array) for name, array in there.items()}
        every = [padding if batch is None else batch for batch in batches]
        sharding = NamedSharding(self._mesh, LANES)

        def place(name: str) -> jax.Array:
            def part(where: Any) -> np.ndarray:  # the lanes of one device
                return np.stack([batch[name] for batch in every[where[0]]])

            return jax.make_array_from_callback((self.size, *there[name].shape), sharding, part)

        return {name: place(name) for name in there}

    @property
    def ready(self) -> bool:
        """Whether the step is compiled."""
        return self._step is not None

    def compile(self, batch: Mapping[str, jax.Array]) -> None:
        """Compiles the step for batches like this one.

        Raises:
          MemoryError: it would take more than is free.
        """
        jitted = self._program(
            jax.vmap(functools.partial(lane_step, self._make)),
            (LANES, LANES, LANES, LANES),
            LANES,
            donate_argnums=0,
            compiler_options=compiler_options(getattr(self._states.model, "remat", "none")),
        )
        step = jitted.lower(self._states, self._placed, batch, self._active([])).compile()
        device, needed = self._mesh.devices.flat[0], step.memory_analysis()
        # The host's system promises more than it has, and ends the process that takes it. All its devices share it.
        sharing = self._mesh.size if device.platform == "cpu" else 1
        if needed is not None and sharing * needed.temp_size_in_bytes > memory.free(device):
            raise MemoryError(f"a step takes {sharing * needed.temp_size_in_bytes:,} bytes")
        self._step = step

    def step(self, batch: Mapping[str, jax.Array], active: Sequence[int]) -> dict[str, Array]:
        """A step in each of the active lanes; their metrics, by lane."""
        self._states, metrics = self._step(self._states, self._placed, batch, self._active(active))
        return metrics

    def _active(self, lanes: Sequence[int]) -> Array:
        mask = np.zeros(self.size, bool)
        mask[list(lanes)] = True
        return jax.device_put(mask, NamedSharding(self._mesh, LANES))

    def _program(self, function: Any, in_specs: Any, out_specs: Any, **options: Any) -> Any:
        """Jitted; every device works on its own lanes, and what it computes is not partitioned further."""
        # What `_take` returns is the same on all devices, which JAX cannot tell.
        mapped = jax.shard_map(function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(mapped, **options)


def _common(state: TrainState) -> TrainState:
    """The state without what is different in each lane."""
    return state.replace(optimiser=_NONE, edge_weight=0.0, ema_decay=0.0)


_NONE = optax.identity()


def _put(states: Any, state: Any, device: Array, place: Array) -> Any:
    """On one device: writes a state to a place in its lanes, if it is that device."""
    here = lax.axis_index(AXIS) == device
    return jax.tree.map(lambda lanes, x: lanes.at[place].set(jnp.where(here, x, lanes[place])), states, state)


def _take(states: Any, device: Array, place: Array) -> Any:
    """On one device: the state at a place in the lanes of another."""
    return jax.tree.map(lambda lanes: lax.all_gather(lanes[place], AXIS)[device], states)


class _Drawn:
    """The batches of a step of the lanes, on the mesh, and the runs that they are of; made in the thread that draws."""

    def __init__(self, lanes: Lanes, runs: Sequence[Lane | None]) -> None:
        self.runs = runs
        self.failures: dict[Lane, Exception] = {}
        batches = [None if run is None else self._next(run) for run in runs]
        self.batch = lanes.place(batches) if any(batch is not None for batch in batches) else None

    def _next(self, run: Lane) -> Batch | None:
        with run.drawing:
            if run.ended:
                return None
            try:
                return next(run.batches)
            except Exception as error:  # ends that run, once the steps before are done
                self.failures[run] = error
                return None


@contextlib.contextmanager
def _ahead(lanes: Lanes, runs: Sequence[Lane | None]) -> Iterator[Callable[[], Future[_Drawn] | None]]:
    """Gives what returns the next step's batches, on their way as those of some steps after it; None after the last."""
    thread, waiting = ThreadPoolExecutor(1, "batches"), deque[Future[_Drawn]]()

    def draw() -> Future[_Drawn] | None:
        while len(waiting) <= AHEAD:
            due = [run if run is not None and run.left else None for run in runs]
            if not any(due):
                break
            for run in due:
                if run is not None:
                    run.left -= 1
            waiting.append(thread.submit(_Drawn, lanes, due))
        return waiting.popleft() if waiting else None

    try:
        yield draw
    finally:
        thread.shutdown(cancel_futures=True)


class _Rows:
    """The metrics of a step of all lanes, fetched from the devices once, when they are asked for."""

    def __init__(self, metrics: Mapping[str, Array]) -> None:
        self._metrics = metrics

    @functools.cached_property
    def _values(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(values) for name, values in self._metrics.items()}

    def of(self, lane: int) -> Row:
        """Those of one."""
        return {name: float(values[lane]) for name, values in self._values.items()}


def fit_together(
    lanes: Lanes,
    *,
    next_run: Callable[[], Lane | None],
    ended: Callable[[Lane, Exception | None], None],
    failed_too: Callable[[Lane, Exception], None],
    stop: Stop,
) -> None:
    """Trains runs in lanes until there are none left, or a signal stops them all.

    What a run's own work raises (its batches, log, checkpoints), or a loss that is no number, ends that run alone.
    What `next_run` and `ended` raise, or the devices, comes out of here once the steps of all runs are saved.

    Args:
      lanes: in which no run is; they may be used again.
      next_run: a run for a lane that is free, or None where there is none; asked until then at the beginning, and
        again whenever a run has ended.
      ended: called with each run that came out of `next_run` once, when it is done or, after its last checkpoint, has
        been stopped; and with what ended it before its time.
      failed_too: once something is about to come out of here, called with what else is raised, and for which run: by
        `ended`, or as the run was saved; `ended` is not called with that run then.
      stop: of all, asked before each step.
    """
    runs: list[Lane | None] = [None] * lanes.size
    free = deque(range(lanes.count))
    clock = Clock(shared=True)
    metrics: dict[str, Array] = {}
    failure: Exception | None = None  # of no single run

    def fill() -> None:
        while free and failure is None:
            with clock.stopped():
                if (run := next_run()) is None:
                    return
                lane = free.popleft()
                lanes.put(lane, run.state, run.numbers)
            runs[lane] = run
            clock.share(lanes.count - len(free))
            run.progress.begin(clock)
            if run.progress.done:
                end(lane, run)

    def end(lane: int, run: Lane, error: Exception | None = None) -> None:
        nonlocal failure
        runs[lane] = None
        free.append(lane)
        clock.share(lanes.count - len(free))
        with run.drawing:
            run.ended = True  # what was to be drawn ahead for it is not
        with clock.stopped():
            try:
                ended(run, error)
            except Exception as problem:  # comes out when the others have done what is due
                if failure is None:
                    failure = problem
                else:
                    failed_too(run, problem)

    def settle(lane: int, run: Lane) -> None:
        """Does what is due after a step; ends the run if it was the last."""
        try:
            if (validate := run.progress.due()) is not None:
                run.progress.checkpoint(lanes.take(lane, run.treedef), validate)
        except Exception as error:
            end(lane, run, error)
        else:
            if run.progress.done:
                end(lane, run)

    def interrupt(lane: int, run: Lane) -> None:
        """Ends a run between two steps."""
        try:
            if run.progress.unsaved:
                run.progress.checkpoint(lanes.take(lane, run.treedef), False)
        except Exception as error:
            if failure is None:
                end(lane, run, error)
            else:
                failed_too(run, error)
        else:
            end(lane, run)

    def train() -> None:
        nonlocal metrics
        fill()
        with _ahead(lanes, runs) as draw:
            while failure is None and not stop.requested and (future := draw()) is not None:
                if not future.done():
                    jax.block_until_ready(metrics)  # as long as the devices work, nothing is waited for
                with clock.waiting():
                    drawn = future.result()
                idle = len(free)
                for run, error in drawn.failures.items():
                    if run in runs:
                        end(runs.index(run), run, error)
                for lane, there in enumerate(runs):
                    if there is not None and there.stop is not None and there.stop.requested:
                        interrupt(lane, there)
                # Not those whose run has ended, or come, since the batches were asked for.
                active = {lane: run for lane, run in enumerate(runs) if run is not None and run is drawn.runs[lane]}
                if active:
                    assert drawn.batch is not None
                    if new := not lanes.ready:
                        with clock.stopped():
                            stop.unless(functools.partial(lanes.compile, drawn.batch))
                        if not lanes.ready:
                            return
                    before, metrics = metrics, lanes.step(drawn.batch, list(active))
                    # Or batches would pile up on the devices. If they lack memory, the first step shows it.
                    jax.block_until_ready(metrics if new else before)
                    rows = _Rows(metrics)
                    for lane, run in active.items():
                        run.progress.add(functools.partial(rows.of, lane))
                    for lane, run in active.items():
                        settle(lane, run)
                if len(free) > idle and failure is None:
                    fill()

    try:
        train()
    except Exception as problem:
        failure = problem
    for lane, left in enumerate(runs):
        if left is not None:
            interrupt(lane, left)
    if failure is not None:
        raise failure
