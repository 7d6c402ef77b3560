"""The training step, a pure function, and the loop around it, which knows iterators and no data set."""

import contextlib
import functools
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

from ahmf_jax.errors import InputError
from ahmf_jax.layers import compiler_options
from ahmf_jax.losses import LOSSES, edge_mask, edge_values, stage_truths
from ahmf_jax.scaling import predict
from ahmf_jax.sharding import place_batch, replicated, whole
from ahmf_jax.state import TrainState
from ahmf_jax.stopping import Stop
from ahmf_jax.variables import join

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

    With `state.stage_weights` the maps that the model makes on its way, `aux["stages"]`, are supervised too: to the
    loss comes, times its weight, each one's mean loss over what is known of the truth in its size.

    With `state.accumulate` above 1 the batch is computed in so many parts, one after the other, in the memory of one;
    loss and gradient are those of the whole batch, but for BatchNorms, which see one part after the other. Where one of
    them is no number, the step changes nothing but the counts of steps and of those skipped.

    Returns the new state, and `loss`, `mae` (in units of the range), `grad_norm` and `skipped` (0 or 1); where stages
    are supervised, of what `loss` is the weighted sum, too: `loss_final`, and `loss_x2` of a stage of twice the size of
    the low resolution, and so on.

    Raises:
      InputError: as it is traced: the model does not make as many stages as there are weights.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    known = jnp.maximum(jnp.sum(batch["mask_hr"]), 1)
    known_edges = jnp.maximum(jnp.sum(edge_mask(batch["mask_hr"])), 1)
    loss_of = LOSSES[state.loss]

    def stage_losses(stages: Sequence[Array], truth: Array, part: Batch) -> list[tuple[str, Array]]:
        """Of each stage its name and the part's share of its mean loss."""
        if len(stages) != len(state.stage_weights):
            raise InputError(
                f"stage_weights is {state.stage_weights}, and {type(state.model).__name__} makes {len(stages)} stages: "
                f"{'give each its weight' if stages else 'leave them out'}"
            )
        sizes = [stage.shape[1:3] for stage in stages]
        targets = stage_truths(truth, part["mask_hr"], sizes, state.stage_kernel)
        # Of the whole batch, the masks alone.
        masks = [mask for _, mask in stage_truths(batch["depth_hr"], batch["mask_hr"], sizes, state.stage_kernel)]
        found = []
        for stage, (target, mask), all_of_it in zip(stages, targets, masks, strict=True):
            share = jnp.sum(jnp.where(mask, loss_of(stage, target), 0.0)) / jnp.maximum(jnp.sum(all_of_it), 1)
            found.append((f"loss_x{stage.shape[1] / part['depth_lr'].shape[1]:g}", share))
        return found

    def loss_fn(params: Any, statistics: Any, part: Batch, number: Array) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """The part's share of the loss, and of other metrics, and the running statistics after it."""
        rngs = {"sample": jax.random.fold_in(key, number)}
        weights = join(whole(params), whole(statistics))
        output, offset, span, statistics, aux = predict(state.model, state.scaling, weights, part, rngs)
        mask = part["mask_hr"]
        # Before the loss, not after: what stands in a hole may be NaN, and its gradient would be as well.
        target = jnp.where(mask, (part["depth_hr"] - offset) / span, output)
        loss = jnp.sum(jnp.where(mask, loss_of(output, target), 0.0)) / known
        shares = {"mae": jnp.sum(jnp.where(mask, jnp.abs(output - target) * span, 0.0)) / known}
        if state.stage_weights:
            shares["loss_final"] = loss
            found = stage_losses(aux.get("stages", ()), (part["depth_hr"] - offset) / span, part)
            for weight, (name, share) in zip(state.stage_weights, found, strict=True):
                shares[name] = shares.get(name, 0.0) + share  # those of one size together
                loss += weight * share
        if isinstance(state.edge_weight, Array) or state.edge_weight:  # one that is traced may be anything
            loss += state.edge_weight * jnp.sum(edge_values(output, target, mask)) / known_edges
        return loss, (shares, statistics)

    def add(before: tuple[Any, Any], numbered: tuple[Array, Batch]) -> tuple[tuple[Any, Any], Any]:
        number, part = numbered
        total, statistics = before
        (loss, (shares, statistics)), grads = value_and_grad(state.params, statistics, part, number)
        return (jax.tree.map(jnp.add, total, grads), statistics), (loss, shares)

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    parts = state.accumulate
    if parts == 1:
        (loss, (shares, statistics)), grads = value_and_grad(
            state.params, state.batch_stats, batch, jnp.zeros((), jnp.int32)
        )
    else:
        # Rows a, a + parts, ...: so each device keeps its own.
        stacked = {
            name: jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0) for name, x in batch.items()
        }
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.params)
        # As for the levels: the gradient of a convolution inside a loop is slow on the CPU.
        unroll = parts if jax.default_backend() == "cpu" else 1
        carry = zero, state.batch_stats
        (grads, statistics), each = jax.lax.scan(add, carry, (jnp.arange(parts), stacked), unroll=unroll)
        loss, shares = jax.tree.map(jnp.sum, each)

    grad_norm = optax.tree.norm(grads)
    sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = state.optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # Slower and slower, so that the initial values are soon forgotten.
        decay = jnp.minimum(state.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda average, new: decay * average + (1 - decay) * new, ema, params)
    params, statistics, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old),
        (params, statistics, opt_state, ema),
        (state.params, state.batch_stats, state.opt_state, state.ema),
    )
    skipped = jnp.where(sound, 0, 1)
    metrics = {"loss": loss, **shares, "grad_norm": grad_norm, "skipped": skipped}
    after = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=statistics,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + skipped,
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


class Progress:
    """How far a run is, and what is due after each of its steps: looks at its losses, lines of its log, checkpoints.

    Attributes:
      step: how many have been done.
      steps: of the whole run.
    """

    def __init__(
        self,
        step: int,
        steps: int,
        *,
        log_every: int,
        on_log: Callable[[int, Row], None],
        save_every: int,
        validate_every: int,
        on_checkpoint: Callable[[TrainState, Sequence[Row], bool], None],
        on_nonfinite: Literal["stop", "skip"] = "stop",
        on_skip: Callable[[int, Row], None] = lambda step, row: None,
        rows: Sequence[Row] = (),
    ) -> None:
        """Of a run that goes on from step `step`.

        Args:
          step, steps: see above.
          log_every: steps between two calls of `on_log`, and between two looks at whether the losses are numbers.
          on_log: called with the step and the means since the last call of `train_step`'s metrics, and with what is of
            this machine: `data_wait`, the share of the time in which the devices stood idle because the next batch was
            not there, and `step_seconds`. Of a run beside others both are of its part of the time, in which the others'
            parts are not, and `lanes` says how many shared it, in the mean: a step took `lanes` times `step_seconds`.
          save_every: steps between two calls of `on_checkpoint`.
          validate_every: steps between two calls of `on_checkpoint` that ask for a validation too.
          on_checkpoint: called with the state, the metrics of the steps since the last log, and whether to validate; at
            the end too, and when a signal stops the run. The losses so far are looked at before.
          on_nonfinite: what to do when a loss or a gradient is no number. Such a step changes nothing in either case.
          on_skip: called with each such step and its metrics, before anything is raised.
          rows: the metrics of the steps since the last log, of the run that this one goes on with.
        """
        self.step, self.steps = step, steps
        self._log_every, self._on_log = log_every, on_log
        self._save_every, self._validate_every, self._on_checkpoint = save_every, validate_every, on_checkpoint
        self._on_nonfinite, self._on_skip = on_nonfinite, on_skip
        self._pending: list[Callable[[], Row]] = []  # metrics on their way from the devices
        self._rows = list(rows)  # of the steps since the last log
        self._saved, self._in_a_row = step, 0
        self.begin(Clock())

    def begin(self, clock: "Clock") -> None:
        """Time is counted from now on, by a clock that may be that of other runs too."""
        self._clock = clock
        self._read = (self.step, *clock.read())

    @property
    def done(self) -> bool:
        """Whether no step is left to do."""
        return self.step >= self.steps

    @property
    def unsaved(self) -> bool:
        """Whether there are steps that no checkpoint holds."""
        return self._saved != self.step

    def add(self, metrics: Callable[[], Row]) -> None:
        """Counts a step, of which `metrics` waits for what `train_step` returned."""
        self._pending.append(metrics)
        self.step += 1

    def due(self) -> bool | None:
        """Logs, if it is time to; and whether it is time for a checkpoint: None, or whether to validate, too.

        Raises:
          NonFiniteLoss: with "stop", found at the next look after it came; with "skip", after `MAX_SKIPS` in a row.
        """
        if self.step % self._log_every == 0 or self.done:
            self._look()
            self._on_log(self.step, _means(self._rows) | self._speed())
            self._rows.clear()
        validate = self.step % self._validate_every == 0 or self.done
        return validate if validate or self.step % self._save_every == 0 else None

    def checkpoint(self, state: TrainState, validate: bool) -> None:
        """Hands the state over; raises as `due` does."""
        self._look()
        with self._clock.stopped():
            self._on_checkpoint(state, self._rows, validate)
        self._saved = self.step

    def _look(self) -> None:
        start = self.step - len(self._pending) + 1
        found = [metrics() for metrics in self._pending]
        self._pending.clear()
        for at, row in enumerate(found, start):
            self._in_a_row = self._in_a_row + 1 if row["skipped"] else 0
            if row["skipped"]:
                self._on_skip(at, row)
                if self._on_nonfinite == "stop" or self._in_a_row == MAX_SKIPS:
                    raise NonFiniteLoss(at, row)
        self._rows.extend(found)

    def _speed(self) -> Row:
        """`data_wait`, `step_seconds`, and `lanes` where others are beside it, since the last time."""
        before, now = self._read, (self.step, *self._clock.read())
        steps, seconds, share, waited = (b - a for a, b in zip(before, now, strict=True))
        self._read = now
        lanes = {"lanes": seconds / share} if self._clock.shared else {}
        return {"data_wait": waited / seconds, "step_seconds": share / steps, **lanes}


class Clock:
    """Counts the seconds of training since it was made, of one run or of several that share them.

    Args:
      shared: whether several may.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self._since = time.perf_counter()
        self._waited = 0.0
        self._runs, self._share, self._until = (
            1,
            0.0,
            0.0,
        )  # how many share it since `_until`, and the share up to there

    def read(self) -> tuple[float, float, float]:
        """All seconds, the share of a run that has been there all the time, and those that went into waiting."""
        seconds = time.perf_counter() - self._since
        return seconds, self._share + (seconds - self._until) / self._runs, self._waited

    def share(self, runs: int) -> None:
        """From now on so many runs divide the time among them; never called where it is stopped."""
        self._until, self._share, _ = self.read()
        self._runs = max(1, runs)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For a batch."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing in here counts."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - start


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    progress: Progress,
    *,
    mesh: Mesh,
    stop: Stop,
    profile: Profile | None = None,
) -> TrainState:
    """Trains until `progress` is done, or a signal stops it.

    Args:
      state: on `mesh`; its buffers are donated, so use only the state that comes back.
      batches: infinite; this process's rows of each batch. It is drawn from in a thread, ahead of the training, but
        never beyond the last step.
      progress: of the run, at the state's step.
      mesh: from `sharding.choose_mesh`.
      stop: from `stopping.stop_on_signal`.
      profile: steps to trace.

    Returns:
      the last state.

    Raises:
      NonFiniteLoss: as `Progress.due`.
    """
    clock = Clock()
    progress.begin(clock)
    coming = on_mesh(batches, progress.steps - progress.step, mesh)
    with contextlib.closing(coming), contextlib.ExitStack() as trace:
        step_fn, metrics = None, dict[str, Array]()
        for future in coming:
            if stop(progress.step):
                break
            if profile and progress.step + 1 == profile.first:
                trace.enter_context(jax.profiler.trace(profile.folder, create_perfetto_trace=True))
            if not future.done():
                jax.block_until_ready(metrics)  # as long as the devices work, nothing is waited for
            with clock.waiting():
                batch = future.result()
            if step_fn is None:
                with clock.stopped():
                    step_fn = stop.unless(lowered_step(state, batch).compile)
                if step_fn is None:
                    break
            before = metrics
            state, metrics = step_fn(state, batch)
            jax.block_until_ready(before)  # or batches would pile up on the devices
            progress.add(functools.partial(_row, metrics))
            if profile and progress.step == profile.last:
                jax.block_until_ready(metrics)
                trace.close()
            if (validate := progress.due()) is not None:
                progress.checkpoint(state, validate)
    if progress.unsaved:
        progress.checkpoint(state, False)
    return state


def _row(metrics: Mapping[str, Any]) -> Row:
    """The numbers, when they are there."""
    return {name: float(value) for name, value in metrics.items()}


def _means(rows: Sequence[Row]) -> Row:
    """Of the steps that counted; the sum of those that were skipped."""
    counted = [row for row in rows if not row["skipped"]] or rows
    means = {name: float(np.mean([row[name] for row in counted])) for name in rows[0]}
    return means | {"skipped": sum(row["skipped"] for row in rows)}
