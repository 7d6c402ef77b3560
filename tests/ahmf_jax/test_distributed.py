import json
import signal
import socket
from typing import Any

import pytest

from ahmf_jax import distributed
from ahmf_jax.errors import InputError
from tests.processes import Ended, ends, environment, free_port, start

BEGIN = """
import json, os, signal, sys, threading, time
import jax
from ahmf_jax import distributed, stopping
number = int(sys.argv[2])
distributed.initialise(sys.argv[1], int(sys.argv[3]), number, timeout=30)
say = lambda **values: print(json.dumps(values), flush=True)
"""


def run(script: str, processes: int = 2) -> list[tuple[Ended, dict[str, Any]]]:
    """How each process ended, and all that it said."""
    port = free_port()
    code = BEGIN + script
    started = [
        start(["-c", code, f"localhost:{port}", str(i), str(processes)], environment(2)) for i in range(processes)
    ]
    found = []
    for end in ends(started):
        said: dict[str, Any] = {}
        for line in end.out.splitlines():
            said |= json.loads(line) if line.startswith("{") else {}  # Gloo talks too
        found.append((end, said))
    return found


def test_processes_exchange_values_and_errors() -> None:
    script = """
    say(count=distributed.process_count(), main=distributed.is_main(), told=distributed.told("a"))
    say(values=distributed.gather({"mae": 0.1 + number, "name": "é", "none": None}))
    for i in range(5):
        assert distributed.gather([i, number]) == [[i, n] for n in range(3)]
    if number == 1:
        distributed.tell("a")
    distributed.gather(0)
    say(told=distributed.told("a"))
    for failing in ([], [1], [1, 2]):
        try:
            with distributed.agreed():
                if number in failing:
                    raise (ValueError if number == 1 else distributed.InputError)(f"{number} failed")
            say(**{str(failing): None})
        except Exception as error:
            say(**{str(failing): f"{type(error).__name__} {error}"})
    left = distributed._store().key_value_dir_get("ahmf/gather/")
    say(rounds=len({key.split("/")[2] for key, _ in left}))
    distributed.gather(0)
    import jax
    say(devices=[len(jax.local_devices()), len(jax.devices())])
    if number:
        sys.exit(2)
    time.sleep(0.5)
    """
    script = "\n".join(line[4:] for line in script.splitlines())
    for i, (end, said) in enumerate(run(script, 3)):
        assert end.status == (2 if i else 0), (
            end.err
        )  # the one that coordinates them waits for nobody's sake, and no one dies
        assert (said["count"], said["main"]) == (3, i == 0)
        assert said["told"] is True
        # In full: 0.1 is no float32.
        assert said["values"] == [{"mae": 0.1 + n, "name": "é", "none": None} for n in range(3)]
        assert said["[]"] is None
        assert said["[1]"] == ("ValueError 1 failed" if i == 1 else "InputError process 1: 1 failed")
        assert said["[1, 2]"] == ["InputError process 1: 1 failed", "ValueError 1 failed", "InputError 2 failed"][i]
        assert said["rounds"] <= 3, "what has been read is not taken away"
        assert said["devices"] == [2, 6]


STEPS = """
with stopping.stop_on_signal() as stop:
    {before}
    for step in range(1000, 1200):
        if stop(step):
            say(stopped=step, requested=stop.requested)
            break
        distributed.gather(0)  # as the collectives of a step keep them together
        time.sleep(0.02)
        if number == 1 and step == {at}:
            os.kill(os.getpid(), signal.{name})
distributed.leave(75, together=True)
"""


def test_a_signal_to_one_stops_all_at_the_same_step() -> None:
    """Ctrl-C; that of a scheduler is the next test's."""
    first, second = run(STEPS.format(before="", at=1005, name="SIGINT"))
    assert [end.status for end, _ in (first, second)] == [75, 75], first[0].err + second[0].err
    assert first[1]["stopped"] == second[1]["stopped"] and 1006 < first[1]["stopped"] < 1190
    # Also in the one that had no signal: it may have been in the middle of a validation.
    assert first[1]["requested"] and second[1]["requested"]


def test_a_signal_before_the_first_step_stops_there() -> None:
    before = """
    if number == 1: signal.raise_signal(signal.SIGTERM)
    time.sleep(2.5)  # the service looks once a second
    """
    for end, said in run(STEPS.format(before=before.strip(), at=0, name="SIGTERM")):
        assert (end.status, said["stopped"]) == (75, 1000), end.err


def test_a_signal_to_one_ends_the_waiting_for_work_in_all() -> None:
    script = """
with stopping.stop_on_signal() as stop:
    say(result=stop.unless(lambda: number + 1))
    if number == 1:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    say(stopped=stop.unless(lambda: time.sleep(3600 if number else 0.1)))
    say(seconds=time.monotonic() - start)
distributed.leave(75, together=True)  # the thread still sleeps
"""
    for i, (end, said) in enumerate(run(script)):
        assert (end.status, said["result"], said["stopped"]) == (75, i + 1, None), end.err
        assert 0.3 < said["seconds"] < 5


def test_who_fails_alone_is_missed() -> None:
    """Not at the shutdown's barrier, minutes later: the others are in a collective of the devices by then."""
    script = """
from jax.experimental import multihost_utils
import numpy as np
multihost_utils.process_allgather(np.zeros(2))
if number == 1:
    time.sleep(0.5)
    distributed.leave(1, together=False)
start = time.monotonic()
try:
    multihost_utils.process_allgather(np.zeros(2))
except Exception as error:
    say(error=str(error)[:200], seconds=time.monotonic() - start)
    distributed.leave(1, together=False)
"""
    (first, said), (second, _) = run(script)
    assert (first.status, second.status) == (1, 1)
    assert said["seconds"] < 30


def test_who_leaves_with_a_failure_is_not_waited_for() -> None:
    script = """
if number == 1:
    distributed.leave(2, failure="no such image")
start = time.monotonic()
try:
    distributed.gather(0)
except distributed.InputError as error:
    say(error=str(error), seconds=time.monotonic() - start)
    distributed.leave(2, failure=str(error))
"""
    (first, said), (second, _) = run(script)
    assert (first.status, second.status) == (2, 2), first.err + second.err
    assert said["error"] == "process 1: no such image" and said["seconds"] < 5


def test_processes_that_do_not_meet() -> None:
    """One line within the time that is said; JAX itself would end in a stack trace of C++."""
    script = """
import sys, time
from ahmf_jax import distributed, errors
start = time.monotonic()
try:
    distributed.initialise(sys.argv[1], 2, int(sys.argv[2]), timeout=1)
except errors.InputError as error:
    print(error)
    sys.exit(2)
"""
    places = [f"localhost:{free_port()}" for _ in range(2)]
    started = [start(["-c", script, place, str(i)], environment(1)) for i, place in enumerate(places)]
    for i, (end, place) in enumerate(zip(ends(started), places, strict=True)):
        assert end.status == 2, end.err
        assert end.out.startswith(f"after 1 s not all processes have met at {place}, where this is number {i} of 2: ")
        assert len(end.out.splitlines()) == 1


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        place = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^--coordinator {place}: that port cannot be used .*: choose another$"):
            distributed.initialise(place, 2, 0, environment={})


SLURM = {"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
ORTE = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
GIVEN = {"coordinator_address": "h:1", "num_processes": 2, "process_id": 1, "cluster_detection_method": "deactivate"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What JAX was asked to initialise."""
    calls: list[Any] = []

    def initialise(**options: Any) -> None:
        assert options.pop("initialization_timeout") > distributed.TIMEOUT, "JAX would end the process first"
        calls.append(options)

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialise)
    return calls


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, None),
        (SLURM, {"cluster_detection_method": "slurm"}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        # The batch script of two tasks, which is itself none of them.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),
        (OMPI | ORTE, {"cluster_detection_method": "ompi"}),
        (OMPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # any pod
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),  # without a TPU
    ],
)
def test_what_the_environment_says(asked: list[Any], environment: dict[str, str], options: dict[str, str]) -> None:
    distributed.initialise(environment=environment)
    assert asked == ([] if options is None else [options])


@pytest.mark.parametrize(
    ("environment", "method"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "gketpu"),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "gketpu"),
        ({}, "gcetpu"),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),
    ],
)
def test_on_a_tpu(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any], environment: dict[str, str], method: str | None
) -> None:
    monkeypatch.setattr(distributed.cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    distributed.initialise(environment=environment)
    assert asked == ([{"cluster_detection_method": method}] if method else [])


@pytest.mark.parametrize("environment", [{}, SLURM | OMPI])
def test_flags_come_before_the_environment(asked: list[Any], environment: dict[str, str]) -> None:
    distributed.initialise("h:1", 2, 1, environment=environment)
    assert asked == [GIVEN]


@pytest.mark.parametrize("environment", [SLURM, OMPI])
def test_the_scheduler_counts_for_a_given_coordinator(asked: list[Any], environment: dict[str, str]) -> None:
    distributed.initialise("h:1", environment=environment)
    assert asked == [GIVEN]


def test_one_process_alone_needs_nothing(asked: list[Any]) -> None:
    distributed.initialise("h:1", 1, 0, environment={})
    assert asked == []
    assert distributed.process_count() == 1 and distributed.is_main()
    value = {"a": float("nan")}
    assert distributed.gather(value) == [value] and not distributed.told("a")
    distributed.tell("a")
    assert not distributed.told("a")
    distributed.agree()
    with pytest.raises(ZeroDivisionError), distributed.agreed():
        _ = 1 // 0


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (("h:1", None, None), {}, "go together: give --processes and --process too"),
        ((None, 2, None), {}, "go together: give --coordinator and --process too"),
        ((None, 2, 1), SLURM, "go together: give --coordinator too"),
        (("h:1", 2, None), SLURM, "go together: give --process too"),
        (("h", 2, 1), {}, "--coordinator 'h' is not HOST:PORT: give"),
        ((":1", 2, 1), {}, "--coordinator ':1' is not HOST:PORT"),
        (("h:65536", 2, 1), {}, "--coordinator 'h:65536' is not HOST:PORT"),
        (("h:x", 2, 1), {}, "--coordinator 'h:x' is not HOST:PORT"),
        (("h:1", 0, 0), {}, "--processes 0: give how many there are, 1 or more"),
        (("h:1", 2, 2), {}, "--process 2: of 2 processes, give a number from 0 to 1"),
        (("h:1", 2, -1), {}, "--process -1: of 2 processes"),
        ((None, None, None), OMPI, "Open MPI .*: give --coordinator HOST:PORT"),
    ],
)
def test_what_does_not_fit_together(
    asked: list[Any], flags: tuple[Any, Any, Any], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        distributed.initialise(*flags, environment=environment)
    assert asked == []


def test_ctrl_c_ends_the_waiting_for_others() -> None:
    # What a shell runs in the background is started with Ctrl-C ignored, and so are these tests then.
    script = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ahmf_jax import distributed\nprint(0, flush=True)\ndistributed.initialise('localhost:9', 2, 1)"
    )
    process = start(["-c", script], environment(1))
    assert process.stdout is not None and process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGINT)
    (end,) = ends([process], 60)  # of the 300 s that it would wait
    assert end.err.endswith("KeyboardInterrupt\n") and end.status == -signal.SIGINT
