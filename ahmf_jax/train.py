"""The training step, a pure function, and the loop around it, which knows iterators and no data set."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from ahmf_jax.layers import compiler_options
from ahmf_jax.losses import LOSSES, edge_mask, edge_values
from ahmf_jax.scaling import predict
from ahmf_jax.sharding import place_batch, replicated, whole
from ahmf_jax.state import TrainState
from ahmf_jax.stopping import Stop

Batch = Mapping[str, Any]
Row = dict[str, float]  # the metrics of one step
# Batches that are fetched and moved to the devices while these work on the one before.
AHEAD = 2
# With on_nonfinite="skip": so many steps in a row that change nothing are no accident.
MAX_SKIPS = 100


class NonFiniteLoss(ArithmeticError):
    """A loss or a gradient is no number; `step` says when that was first so."""

    def __init__(self, step: int, row: Row) -> None:
        super().__init__(f"the loss at step {step} is {row['loss']:g}, the norm of its gradient {row['grad_norm']:g}")
        self.step = step


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """One step of the optimiser on the masked mean loss (Eq. 9), taken in the scale the network works in.

    With `state.accumulate` above 1 the batch is computed in so many parts, one after the other, in the memory of one;
    loss and gradient are those of the whole batch. Where one of them is no number, the step changes nothing but the
    counts of steps and of those skipped.

    Returns the new state, and `loss`, `mae` (in units of the range), `grad_norm` and `skipped` (0 or 1).
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    known = jnp.maximum(jnp.sum(batch["mask_hr"]), 1)
    known_edges = jnp.maximum(jnp.sum(edge_mask(batch["mask_hr"])), 1)

    def loss_fn(params: Any, part: Batch, number: Array) -> tuple[Array, Array]:
        """The part's share of the loss, and of the MAE."""
        rngs = {"sample": jax.random.fold_in(key, number)}
        output, offset, span = predict(state.model, state.scaling, whole(params), part, rngs)
        mask = part["mask_hr"]
        # Before the loss, not after: what stands in a hole may be NaN, and its gradient would be as well.
        target = jnp.where(mask, (part["depth_hr"] - offset) / span, output)
        loss = jnp.sum(jnp.where(mask, LOSSES[state.loss](output, target), 0.0)) / known
        if state.edge_weight:
            loss += state.edge_weight * jnp.sum(edge_values(output, target, mask)) / known_edges
        return loss, jnp.sum(jnp.where(mask, jnp.abs(output - target) * span, 0.0)) / known

    def add(total: Any, numbered: tuple[Array, Batch]) -> tuple[Any, None]:
        number, part = numbered
        return jax.tree.map(jnp.add, total, value_and_grad(state.params, part, number)), None

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    parts = state.accumulate
    if parts == 1:
        (loss, mae), grads = value_and_grad(state.params, batch, jnp.zeros((), jnp.int32))
    else:
        # Rows a, a + parts, ...: so each device keeps its own.
        stacked = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), dict(batch))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), ((known * 0.0, known * 0.0), state.params))
        # As for the levels: the gradient of a convolution inside a loop is slow on the CPU.
        unroll = parts if jax.default_backend() == "cpu" else 1
        ((loss, mae), grads), _ = jax.lax.scan(add, zero, (jnp.arange(parts), stacked), unroll=unroll)

    grad_norm = optax.tree.norm(grads)
    sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = state.optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # Slower and slower, so that the initial values are soon forgotten.
        decay = jnp.minimum(state.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda average, new: decay * average + (1 - decay) * new, ema, params)
    params, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old),
        (params, opt_state, ema),
        (state.params, state.opt_state, state.ema),
    )
    skipped = jnp.where(sound, 0, 1)
    metrics = {"loss": loss, "mae": mae, "grad_norm": grad_norm, "skipped": skipped}
    after = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema=ema, skipped=state.skipped + skipped
    )
    return after, metrics


def on_mesh(batches: Iterator[Batch], count: int, mesh: Mesh) -> Generator[Future[dict[str, Array]], None, None]:
    """The next `count` batches on their way to the mesh, some of them ahead; close it."""
    thread, waiting = ThreadPoolExecutor(1, "batches"), deque[Future[dict[str, Array]]]()
    try:
        for _ in range(count):
            waiting.append(thread.submit(lambda: place_batch(next(batches), mesh)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting
    finally:
        thread.shutdown(cancel_futures=True)


class Profile(NamedTuple):
    """A trace of the steps `first` to `last`, written to `folder` for TensorBoard and Perfetto."""

    first: int
    last: int
    folder: Path


def lowered_step(state: TrainState, batch: Batch) -> jax.stages.Lowered:
    """`train_step` as it is run, to be compiled: on the state's mesh, its buffers donated.

    Args:
      state, batch: on a mesh, or what describes them.
    """
    mesh = state.step.sharding.mesh
    step = jax.jit(
        train_step,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(getattr(state.model, "remat", "none")),
    )
    with jax.set_mesh(mesh):
        return step.lower(state, batch)


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    *,
    steps: int,
    mesh: Mesh,
    stop: Stop,
    log_every: int,
    on_log: Callable[[int, Row], None],
    save_every: int,
    validate_every: int,
    on_checkpoint: Callable[[TrainState, Sequence[Row], bool], None],
    on_nonfinite: Literal["stop", "skip"] = "stop",
    on_skip: Callable[[int, Row], None] = lambda step, row: None,
    rows: Sequence[Row] = (),
    profile: Profile | None = None,
) -> tuple[TrainState, bool]:
    """Trains until `state.step` is `steps`, or a signal stops it.

    Args:
      state: on `mesh`; its buffers are donated, so use only the state that comes back.
      batches: infinite; this process's rows of each batch. It is drawn from in a thread, ahead of the training, but
        never beyond the last step.
      steps: of the whole run, those already done included.
      mesh: from `sharding.choose_mesh`.
      stop: from `stopping.stop_on_signal`.
      log_every: steps between two calls of `on_log`, and between two looks at whether the losses are numbers.
      on_log: called with the step and the means since the last call of `train_step`'s metrics, and with what is of
        this machine: `data_wait`, the share of the time in which the devices stood idle because the next batch was
        not there, and `step_seconds`.
      save_every: steps between two calls of `on_checkpoint`.
      validate_every: steps between two calls of `on_checkpoint` that ask for a validation too.
      on_checkpoint: called with the state, the metrics of the steps since the last log, and whether to validate; at the
        end too, and when a signal stops the run. The losses so far are looked at before.
      on_nonfinite: what to do when a loss or a gradient is no number. Such a step changes nothing in either case.
      on_skip: called with each such step and its metrics, before anything is raised.
      rows: the metrics of the steps since the last log, of the run that this one goes on with.
      profile: steps to trace.

    Returns:
      the last state, and whether a signal stopped it.

    Raises:
      NonFiniteLoss: with "stop", found at the next look after it came; with "skip", after `MAX_SKIPS` in a row.
    """
    pending: list[dict[str, Array]] = []  # metrics on their way from the devices
    since_log = list(rows)
    first = step = int(state.step)
    saved, in_a_row = -1, 0
    clock = _Clock(first)

    def look() -> None:
        nonlocal in_a_row
        start = step - len(pending) + 1
        found = [{name: float(x) for name, x in metrics.items()} for metrics in pending]
        pending.clear()
        for at, row in enumerate(found, start):
            in_a_row = in_a_row + 1 if row["skipped"] else 0
            if row["skipped"]:
                on_skip(at, row)
                if on_nonfinite == "stop" or in_a_row == MAX_SKIPS:
                    raise NonFiniteLoss(at, row)
        since_log.extend(found)

    def checkpoint(validate: bool) -> None:
        nonlocal saved
        look()
        with clock.stopped():
            on_checkpoint(state, since_log, validate)
        saved = step

    with contextlib.closing(on_mesh(batches, steps - step, mesh)) as coming, contextlib.ExitStack() as trace:
        step_fn = None
        for future in coming:
            if stop(step):
                break
            if profile and step + 1 == profile.first:
                trace.enter_context(jax.profiler.trace(profile.folder, create_perfetto_trace=True))
            if pending and not future.done():
                jax.block_until_ready(pending[-1])  # as long as the devices work, nothing is waited for
            with clock.waiting():
                batch = future.result()
            if step_fn is None:
                with clock.stopped():
                    step_fn = stop.unless(lowered_step(state, batch).compile)
                if step_fn is None:
                    break
            state, metrics = step_fn(state, batch)
            if pending:
                jax.block_until_ready(pending[-1])  # or batches would pile up on the devices
            pending.append(metrics)
            step += 1
            if profile and step == profile.last:
                jax.block_until_ready(metrics)
                trace.close()
            if step % log_every == 0 or step == steps:
                look()
                on_log(step, _means(since_log) | clock.read(step))
                since_log.clear()
            validate = step % validate_every == 0 or step == steps
            if validate or step % save_every == 0:
                checkpoint(validate)
    if saved != step and step > first:
        checkpoint(False)
    return state, step < steps


def _means(rows: Sequence[Row]) -> Row:
    """Of the steps that counted; the sum of those that were skipped."""
    counted = [row for row in rows if not row["skipped"]] or rows
    means = {name: float(np.mean([row[name] for row in counted])) for name in rows[0]}
    return means | {"skipped": sum(row["skipped"] for row in rows)}


class _Clock:
    """Time since the last reading, without what is not training: how long a step took, and what of it was waiting."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._since = time.perf_counter()
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing in here counts."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def read(self, step: int) -> Row:
        """`data_wait` and `step_seconds`, and starts anew."""
        now = time.perf_counter()
        seconds, steps = now - self._since, step - self._step
        values = {"data_wait": self._waited / seconds, "step_seconds": seconds / steps}
        self._step, self._since, self._waited = step, now, 0.0
        return values
