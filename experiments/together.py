"""Many runs in one process and one program, each as `ahmf train` would have it: folder, checkpoints, log, numbers.

Runs whose configurations differ only in what `program` leaves out can be trained so: see `ahmf_jax/together.py`.
"""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import Stopped, TrainConfig
from experiments.train import Bar, OnValidation, Task, note, open_run, say, standing, untold

if TYPE_CHECKING:
    from ahmf_jax.stopping import Stop
    from ahmf_jax.together import Lane, Numbers

# The learning rates of every step of a run are an argument of the program: of so many steps, or twice, 4 times, ... it.
RATES = 2**14


class Item(NamedTuple):
    """A run: what `train` is given.

    A `stop` of its own ends it before the next step, saved; its validations ask it in place of the common one, so let
    it be one that is asked to stop when that is.
    """

    config: TrainConfig
    out: Path
    on_validation: OnValidation = untold
    stop: "Stop | None" = None


def program(config: TrainConfig) -> str:
    """A key that is the same for configurations that can be trained in one program.

    They have the same network, patch and batch size, loss, supervision of stages, scaling and accumulation; the same
    optimiser with the same options; all of them clip the gradient, in the same way, or none, and so it is with `ema`.
    All else may be different: what the
    program is given as it runs, and what it knows nothing of. `mesh` and `fsdp` do not count: a lane is on one device.

    Raises:
      InputError: an optimiser that there is not, or not with these options.
    """
    optimiser = config.optimiser
    same = {
        "model": configs.to_json(config)["model"],
        "patch": config.data.patch,
        "batch_size": config.data.batch_size,
        "loss": config.loss,
        "scaling": config.scaling,
        "accumulate": config.accumulate,
        "stages": config.supervision,
        "ema": config.ema > 0,
        "optimiser": optimiser.name,
        "options": optimiser.options,
        "clip": [optimiser.clip_norm, optimiser.clip_of] if optimiser.clip else None,
        "numbers": sorted(optimiser.numbers()),
        "rates": _rates(config.steps),
    }
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def _rates(steps: int) -> int:
    """The length of the table of learning rates of a run of so many steps."""
    return max(RATES, 1 << (steps - 1).bit_length())


def _numbers(config: TrainConfig) -> "Numbers":
    """What its lane is given."""
    import jax
    import jax.numpy as jnp

    from ahmf_jax.together import Numbers

    # Of whole tables, whatever the steps: so the functions of the schedules are compiled once.
    table = jax.vmap(config.optimiser.rate(config.steps))(jnp.arange(_rates(config.steps)))
    return Numbers(
        rates=np.asarray(table, np.float32),
        optimiser={name: np.float32(value) for name, value in config.optimiser.numbers().items()},
        edge_weight=np.float32(config.edge_weight),
        ema_decay=np.float32(config.ema),
    )


def train_together(
    items: Sequence[Item],
    *,
    data_dir: Path | None = None,
    next_item: Callable[[], Item | None] = lambda: None,
    finished: Callable[[Item, Exception | None], None],
    stop: "Stop | None" = None,
    devices: Sequence[Any] | None = None,
) -> None:
    """Trains runs side by side, as many as `items`, each in its folder: a new one, or the rest of one that is there.

    A run equals one that `ahmf train` makes but for rounding, and either goes on with what the other has begun. It is
    trained on one device, whatever its `mesh` and `fsdp` say.

    Args:
      items: the first runs.
      data_dir: where data sets are prepared.
      next_item: another run, when one has ended, or None where there is none now: then asked again when the next ends.
      finished: called once with each run that has ended, and what ended it before its time, or None. That is an
        `InputError` as `train` raises it, `Stopped` where its own `stop` was asked, what its `on_validation` raised, or
        another failure of its own; the others go on. What this function raises, or `next_item`, comes out of here when
        all are saved; those that were not done are not `finished` then.
      stop: of a caller who hears signals itself; without, they are heard here.
      devices: over which the runs are divided, by default all; no more are used than it takes to have few on each.

    Raises:
      InputError: there are several processes; or the devices' memory does not hold so many runs.
      Stopped: by a signal, when all runs are saved. Those that were not done are not `finished`.
    """
    from ahmf_jax import distributed
    from ahmf_jax.engine import out_of_memory
    from ahmf_jax.stopping import stop_on_signal
    from ahmf_jax.together import Lane, Lanes, fit_together, lane_mesh

    if distributed.process_count() > 1:
        raise InputError("several processes cannot train runs together: start one process, or train them one by one")
    if not items:
        return
    waiting, key, optimiser = deque(items), program(items[0].config), items[0].config.optimiser
    mesh = lane_mesh(len(items), devices)
    going: dict[Lane, tuple[Item, contextlib.ExitStack]] = {}

    def enter(item: Item, scope: contextlib.ExitStack) -> "Lane | None":
        """The run, opened in `scope`; None where it is done."""
        config, out = item.config, Path(item.out)
        if program(config) != key:
            raise InputError(
                f"{out}: its program is not that of {items[0].out}: train it by itself, or beside its like"
            )
        if standing(config, out) == "done":
            say(f"{out} is done: all of its {config.steps} steps are trained")
            return None
        task = Task(config, data_dir, list(mesh.devices.flat))
        own = item.stop or asked
        run = open_run(task, out, on_validation=item.on_validation, stop=own, bar=bar, prefix=f"{out.name}: ")
        state, progress = scope.enter_context(run)
        return Lane(state, task.batches, _numbers(config), progress, item.stop)

    def leave(item: Item, scope: contextlib.ExitStack, error: Exception | None) -> None:
        try:
            with scope:
                if error is not None:
                    raise error
        except Stopped as stopped:
            if asked.requested or item.stop is None or not item.stop.requested:
                return  # with all others
            error = stopped
        except Exception as failure:
            error = failure
        finished(item, error)

    def next_run() -> "Lane | None":
        while not asked.requested:
            item = waiting.popleft() if waiting else next_item()
            if item is None:
                break
            scope = contextlib.ExitStack()
            try:
                lane = enter(item, scope)
            except Exception as error:
                leave(item, scope, error)
                continue
            if lane is not None:
                going[lane] = item, scope
                return lane
            finished(item, None)
        return None

    def ended(lane: "Lane", error: Exception | None) -> None:
        leave(*going[lane], error)
        del going[lane]  # not where `finished` fails: then it is told of below

    def failed_too(out: Path, error: Exception) -> None:
        note(f"warning: {out}: {type(error).__name__}: {error}")

    with contextlib.nullcontext(stop) if stop else stop_on_signal() as asked, Bar() as bar:
        try:
            fit_together(
                Lanes(optimiser.made, len(items), mesh),
                next_run=next_run,
                ended=ended,
                failed_too=lambda lane, error: failed_too(going[lane][0].out, error),
                stop=asked,
            )
        except BaseException as error:  # of no single run: all end with it
            for item, scope in going.values():
                try:
                    scope.__exit__(type(error), error, error.__traceback__)
                except Exception as another:
                    failed_too(item.out, another)
            if isinstance(error, Exception) and out_of_memory(error):
                device = mesh.devices.flat[0].device_kind
                raise InputError(
                    f"{len(items)} runs of this network do not fit the memory of {mesh.size} x {device}: use a smaller "
                    "--together"
                ) from error
            raise
        if asked.requested:
            raise Stopped("stopped, and all that were in training are saved: the same command goes on with them")
