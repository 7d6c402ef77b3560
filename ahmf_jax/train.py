"""The training step, a pure function, and the loop around it, which knows iterators and no data set."""

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from ahmf_jax.losses import LOSSES, masked_mean
from ahmf_jax.scaling import predict
from ahmf_jax.sharding import batch_sharding, replicated
from ahmf_jax.state import TrainState

Batch = Mapping[str, Any]
# Batches that are fetched and moved to the devices while these work on the one before.
AHEAD = 2


class NonFiniteLoss(ArithmeticError):
    """The loss is no longer a number; `step` says when that was first so."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss at step {step} is {loss}")
        self.step = step


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """One step of the optimiser on the masked mean loss (Eq. 9), taken in the scale the network works in.

    Returns the new state, and `loss`, `mae` (in units of the range) and `grad_norm`.
    """

    def loss_fn(params: Any) -> tuple[Array, Array]:
        output, offset, span = predict(state.model, state.scaling, params, batch)
        # Before the loss, not after: what stands in a hole may be NaN, and its gradient would be as well.
        target = jnp.where(batch["mask_hr"], (batch["depth_hr"] - offset) / span, output)
        loss = masked_mean(LOSSES[state.loss](output, target), batch["mask_hr"])
        return loss, masked_mean(jnp.abs(output - target) * span, batch["mask_hr"])

    (loss, mae), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = state.optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "mae": mae, "grad_norm": optax.tree.norm(grads)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGINT or SIGTERM has come; a second SIGINT is not caught.

    Signals are handled in the main thread alone, so elsewhere it never tells so.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handler(number: int, _frame: Any) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def on_mesh(batches: Iterator[Batch], count: int, mesh: Mesh) -> Generator[Future[dict[str, Array]], None, None]:
    """The next `count` batches on their way to the mesh, some of them ahead; close it.

    Each process has its own rows: its arrays' leading axes are split over its own devices.
    """
    sharding = batch_sharding(mesh)

    def fetch() -> dict[str, Array]:
        batch = next(batches)
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}

    thread, waiting = ThreadPoolExecutor(1, "batches"), deque[Future[dict[str, Array]]]()
    try:
        for _ in range(count):
            waiting.append(thread.submit(fetch))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting
    finally:
        thread.shutdown(cancel_futures=True)


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    *,
    steps: int,
    mesh: Mesh,
    log_every: int,
    on_log: Callable[[int, dict[str, float]], None],
    checkpoint_every: int,
    on_checkpoint: Callable[[TrainState], None],
) -> tuple[TrainState, bool]:
    """Trains until `state.step` is `steps`, or a signal stops it.

    Args:
      state: on `mesh`; its buffers are donated, so use only the state that comes back.
      batches: infinite; each array's leading axis is split over the mesh. It is drawn from in a thread, ahead of
        the training, but never beyond the last step.
      steps: of the whole run, those already done included.
      mesh: from `sharding.make_mesh`.
      log_every: steps between two calls of `on_log` with the means since the last, and between two
        checks that the loss is a number.
      on_log: called with the step, the means of `train_step`'s metrics, and `data_wait`: the share of the time in
        which the devices stood idle because the next batch was not there.
      checkpoint_every: steps between two calls of `on_checkpoint`.
      on_checkpoint: validates and saves. Called with a state whose losses so far were all finite, and
        once more at the end or when a signal stops the run.

    Returns:
      the last state, and whether a signal stopped it.

    Raises:
      NonFiniteLoss: found at the next check after it came; `on_checkpoint` never sees such a state.
    """
    step_fn = jax.jit(
        train_step,
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=(replicated(mesh), replicated(mesh)),
        donate_argnums=0,
    )
    pending: list[dict[str, Array]] = []
    step, saved = int(state.step), -1
    since, waited = time.perf_counter(), 0.0

    def flush() -> None:
        nonlocal since, waited
        if not pending:
            return
        values = [{name: float(x) for name, x in metrics.items()} for metrics in pending]
        pending.clear()
        first = step - len(values) + 1
        for i, value in enumerate(values):
            # The gradient as well: a finite loss may have an infinite one, and ruin the parameters.
            if not (np.isfinite(value["loss"]) and np.isfinite(value["grad_norm"])):
                raise NonFiniteLoss(first + i, value["loss"])
        means = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        now = time.perf_counter()
        on_log(step, means | {"data_wait": waited / (now - since)})
        since, waited = now, 0.0

    with stop_on_signal() as stopped, contextlib.closing(on_mesh(batches, steps - step, mesh)) as coming:
        for future in coming:
            if stopped():
                break
            if pending and not future.done():
                jax.block_until_ready(pending[-1])  # as long as the devices work, nothing is waited for
            start = time.perf_counter()
            batch = future.result()
            waited += time.perf_counter() - start
            state, metrics = step_fn(state, batch)
            if pending:
                jax.block_until_ready(pending[-1])  # or batches would pile up on the devices
            pending.append(metrics)
            step += 1
            if step % log_every == 0:
                flush()
            if step % checkpoint_every == 0 and step < steps:
                flush()
                on_checkpoint(state)
                saved, since = step, time.perf_counter()
        flush()
        if saved != step:
            on_checkpoint(state)
        return state, step < steps
