"""Several processes as one training: how they find each other, exchange small values and end together.

JAX's coordination service does the work. What is exchanged here (errors, the numbers of a validation) goes through its
key-value store as JSON: no device takes part, so it works before a backend has started, and a process that waits for
another still hears signals.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import cloud_tpu_init  # says whether this is a TPU VM; JAX asks it too, and has no public name for it
from jax._src.distributed import global_state  # the client of the store has no public name either (Orbax takes this)

from ahmf_jax.errors import InputError

Result = TypeVar("Result")

NAP = 0.1  # seconds that a signal may go unheard
TIMEOUT = 300.0  # seconds: the machines of a cluster may start minutes apart
_THREAD = "in_thread"
PATIENCE = 10.0  # seconds between the first process to end and the last
_FAILED = "ahmf/failed/"  # in the store, by process: why it has left
_ROUNDS = itertools.count()  # of `gather`: all processes take part in all of them, in the same order


def initialise(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: float = TIMEOUT,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Joins the processes of one training, and starts their backends; before anything asks JAX for a device.

    One process alone needs nothing of it.

    Without the first three, the environment says what this process is: a task of SLURM's `srun` or of Open MPI's
    `mpirun`, or a TPU VM; anything else is one process alone. SLURM and Open MPI give each process the one GPU of its
    number on the machine. Where they are given, a process takes all the GPUs that it sees, and `processes` and
    `process` may be left to SLURM or Open MPI.

    Args:
      coordinator: host and port of process 0, "10.0.0.1:1234"; the port is any free one.
      processes: how many there are in all.
      process: which of them this one is, from 0.
      timeout: seconds to wait for the others.
      environment: variables of the scheduler.

    Raises:
      InputError: the three do not fit together, or not all processes came in time.
    """
    given = (coordinator, processes, process)
    options = _by_environment(environment) if given == (None, None, None) else _by_flags(*given, environment)
    if not options:
        return

    def join() -> None:
        # JAX's own limit lies beyond ours: at that one it ends the process with a stack trace of C++.
        jax.distributed.initialize(**options, initialization_timeout=int(2 * timeout) + 60)
        # Each process's devices are told to the others as its backend starts, and it waits for theirs: so all start
        # here, or one that asks for its devices alone later, while another waits for it, would wait for ever.
        jax.local_devices()

    joining = in_thread(join)
    deadline = time.monotonic() + timeout
    while not joining.done() and time.monotonic() < deadline:
        time.sleep(NAP)
    if joining.done() and joining.exception() is None:
        return
    address, count, number = global_state.coordinator_address, global_state.num_processes, global_state.process_id
    # Forgotten, or JAX would wait at the end of the program for processes that were never there.
    global_state.client = global_state.service = None
    global_state.num_processes, global_state.process_id = 1, 0
    if joining.done():
        joining.result()
    raise InputError(
        f"after {timeout:g} s not all processes have met at {address}, where this is number {number} of {count}: see "
        "that all were started, with the same --coordinator and --processes and each with its own --process, that "
        "number 0 runs on that host, and that its port is open to the others"
    )


def _by_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The arguments with which JAX finds the rest in the environment itself; none for one process alone.

    JAX is never left to guess: on a machine that is no cluster that may take long, warn, or fail.
    """
    # Of the step: an interactive allocation's shell, or a batch script itself, sees the tasks of the whole job.
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return {"cluster_detection_method": "slurm"}
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environment:  # from 5.0 on
            raise InputError(
                "this release of Open MPI does not tell its processes where the first one is: give --coordinator "
                "HOST:PORT, with that one's host and a free port"
            )
        return {"cluster_detection_method": "ompi"}
    if cloud_tpu_init.running_in_cloud_tpu_vm:
        if environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES"):
            return {"cluster_detection_method": "gketpu"}
        if "TPU_SKIP_MDS_QUERY" not in environment:
            return {"cluster_detection_method": "gcetpu"}
    return {}


def _by_flags(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The arguments that the flags make, completed by the scheduler's count; none for one process alone.

    Raises:
      InputError: one is missing, or is none.
    """
    for count, number in (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")):
        if processes is process is None and {count, number} <= environment.keys():
            processes, process = int(environment[count]), int(environment[number])
    values = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if missing := [flag for flag, value in values.items() if value is None]:
        raise InputError(f"--coordinator, --processes and --process go together: give {' and '.join(missing)} too")
    assert coordinator is not None and processes is not None and process is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise InputError(
            f"--coordinator {coordinator!r} is not HOST:PORT: give process 0's host, and a free port there"
        )
    if processes < 1:
        raise InputError(f"--processes {processes}: give how many there are, 1 or more")
    if not 0 <= process < processes:
        raise InputError(f"--process {process}: of {processes} processes, give a number from 0 to {processes - 1}")
    if processes == 1:
        return {}
    if process == 0:
        _check_free(coordinator, int(port))
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        "cluster_detection_method": "deactivate",
    }


def _check_free(coordinator: str, port: int) -> None:
    """Raises InputError where another program listens on the port: JAX would end in a segmentation fault."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise InputError(
            f"--coordinator {coordinator}: that port cannot be used ({error.strerror}): choose another"
        ) from None


def in_thread(work: Callable[[], Result]) -> "Future[Result]":
    """Starts `work` in a thread that nothing waits for at the end of the program, unlike an executor's.

    Signals are handled in the main thread, between two lines of Python. So what may stay in C++ for long (a compile,
    a connection) goes into such a thread, and the main thread waits in naps.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    return future


def in_work() -> bool:
    """Whether something that `in_thread` has started still works."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def process_count() -> int:
    """How many processes train together; unlike `jax.process_count`, it starts no backend."""
    return global_state.num_processes


def is_main() -> bool:
    """Whether this is the process that logs, draws and writes what is not a checkpoint's."""
    return global_state.process_id == 0


def _store() -> Any:
    """The client of the key-value store that the processes share."""
    assert global_state.client is not None, "there are several processes, so they have been initialised"
    return global_state.client


def tell(name: str) -> None:
    """Lets all processes know of `name`."""
    if process_count() > 1:
        _store().key_value_set(f"ahmf/told/{name}/{global_state.process_id}", "", allow_overwrite=True)


def told(name: str) -> bool:
    """Whether a process has told `name`; it is heard of sooner or later, and not by all at once."""
    return process_count() > 1 and bool(_store().key_value_dir_get(f"ahmf/told/{name}/"))


def gather(value: Any) -> list[Any]:
    """Every process's `value`, in their order; all take part.

    Args:
      value: as JSON holds it: text, numbers (in full precision), lists, dicts with text for keys.

    Raises:
      InputError: another process has left with a failure.
    """
    if process_count() == 1:
        return [value]
    store, number = _store(), next(_ROUNDS)
    place = f"ahmf/gather/{number}"
    if is_main():  # who takes part in this round has read the one before, so all have read the one before that
        store.key_value_delete(f"ahmf/gather/{number - 2}/")
    store.key_value_set(f"{place}/values/{global_state.process_id:08d}", json.dumps(value))
    if store.key_value_increment(f"{place}/count", 1) == process_count():
        store.key_value_set(f"{place}/complete", "")
    while True:
        try:
            store.blocking_key_value_get(f"{place}/complete", int(1000 * NAP))
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        for key, failure in sorted(store.key_value_dir_get(_FAILED)):  # they will never come
            raise InputError(f"process {int(key.removeprefix(_FAILED))}: {failure}")
    return [json.loads(text) for _, text in sorted(store.key_value_dir_get(f"{place}/values/"))]


def agree(error: BaseException | None = None) -> None:
    """Raises in every process when one of them has failed; all take part.

    So bad input that one process alone sees does not leave the others waiting in their next collective.

    Args:
      error: what this process failed with, if it did.

    Raises:
      InputError: with the message of the first process that failed; but a process that failed raises its own error.
    """
    failures = gather(None if error is None else str(error) or type(error).__name__)
    if error is not None:
        raise error
    for process, failure in enumerate(failures):
        if failure is not None:
            raise InputError(f"process {process}: {failure}")


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """A body that all processes end, or none, as by `agree`. It takes part in nothing else that all do together."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    agree(failure)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """A body that the main process ends before the others begin it: what it prepares, they find. Otherwise `agreed`."""
    if not is_main():
        agree()
    with agreed():
        yield
    if is_main():
        agree()


def leave(status: int, *, together: bool = True, failure: str = "") -> NoReturn:
    """Ends this process at once, whatever its other threads still do, a compile for one.

    Args:
      status: its exit status.
      together: the others are expected to end too, and are waited for a little, as the one that coordinates them must
        go last. When it turns out that this one has failed alone, the others soon miss it, and fail.
      failure: why this one leaves, if the others do not know: `gather` raises it there as an `InputError`.
    """
    if failure and process_count() > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # who coordinates them is gone already
            _store().key_value_set(f"{_FAILED}{global_state.process_id:08d}", failure, allow_overwrite=True)
    if together and process_count() > 1:
        # JAX itself waits minutes for all: in vain, where they are in a collective and wait for this one.
        ended = in_thread(jax.distributed.shutdown)
        deadline = time.monotonic() + PATIENCE
        while not ended.done() and time.monotonic() < deadline:
            time.sleep(NAP / 10)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed at the other end, or here
            stream.flush()
    os._exit(status)
