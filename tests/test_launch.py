"""`ahmf train` as several processes, started as docs/launching.md says; the schedulers are stand-ins."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import yaml

from tests.processes import ROOT, ends, environment, free_port, start

LAUNCH = ROOT / "docs" / "launch"
STEPS = 12
RECIPE = f"""
from experiments.config import DataConfig, AHMFConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    # The network that is traced soonest, most of a start, of a kernel large enough for FSDP to split it.
    model=AHMFConfig(scale=2, num_levels=1, features=12, fusion="concat", recurrence="none"),
    data=DataConfig(dataset="scenes", patch_size=16, batch_size=8),
    # Not Adam: it divides a gradient by its own size, which makes as much of rounding as of anything.
    optimiser=OptimiserConfig(name="sgd", learning_rate=0.01),
    steps={STEPS}, scaling="sample", output_scale=0.1, log_every=1, checkpoint_every=100, validate_every=100,
    fsdp=True, start_from="START",
)
"""
# `ahmf` itself, in the Python of the tests; slow where a signal is to come between two steps.
AHMF = """
import os, time
from ahmf_jax.stopping import Stop
from experiments.cli import main
ask = Stop.__call__
Stop.__call__ = lambda stop, step: time.sleep(float(os.environ.get("TEST_SECONDS_A_STEP", "0"))) or ask(stop, step)
main()
"""
# Two tasks on this machine, with what SLURM tells them; the signal that --signal asks for comes to the second.
SRUN = """
import os, signal, subprocess, sys, time
from pathlib import Path
assert sys.argv[1:3] == ["--kill-on-bad-exit=0", "--wait=60"]
job = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
tasks = [
    subprocess.Popen(sys.argv[3:], env={**os.environ, **job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)})
    for i in range(2)
]
metrics = Path(os.environ["TEST_RUN"], "metrics.jsonl")
while not (metrics.exists() and metrics.read_text()) and tasks[1].poll() is None:
    time.sleep(0.05)
tasks[1].send_signal(signal.SIGUSR1)
statuses = [task.wait() for task in tasks]
print("statuses", statuses)
sys.exit(max(statuses))
"""


class Place(NamedTuple):
    """Where the tests work."""

    folder: Path
    recipe: Path
    data: Path

    def env(self, devices: int = 4, **more: str) -> dict[str, str]:
        """For a process with so many devices, the stand-ins before anything else of their name."""
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        path = {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        return environment(devices, **cache, **path, **more)

    def command(self, run: Path) -> list[str]:
        """The arguments of `ahmf` that train the run."""
        return ["train", str(self.recipe), "--out", str(run), "--data-dir", str(self.data)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    from data_pipelines import datasets

    folder = tmp_path_factory.mktemp("launch")
    place = Place(folder, folder / "tiny.py", folder / "data")
    place.recipe.write_text(RECIPE.replace("START", str(weights(folder / "start.safetensors"))))
    datasets.prepare("scenes", place.data, height=64, width=80, train=3, validation=2, test=1)
    (folder / "bin").mkdir()
    for name, code in {"ahmf": AHMF, "srun": SRUN}.items():
        (folder / "bin" / name).write_text(f"#!{sys.executable}\n{code}")
    for name, code in {"scontrol": 'echo "$@" >"$TEST_RUN.requeued"'}.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{code}\n")
    for path in (folder / "bin").iterdir():
        path.chmod(0o755)
    return place


def weights(path: Path) -> Path:
    """What the run starts from: taken into parameters that lie in parts in two processes."""
    from ahmf_jax.export import Trained, save_bundle
    from ahmf_jax.models import AHMF
    from ahmf_jax.sharding import MIN_SPLIT
    from ahmf_jax.state import init_params

    model = AHMF(scale=2, num_levels=1, features=12, fusion="concat", recurrence="none")
    params = jax.device_get(jax.jit(lambda: init_params(model, seed=3, output_scale=0.1))())
    assert max(x.size for x in jax.tree.leaves(params)) >= MIN_SPLIT
    save_bundle(path, Trained(model, params, "sample", "m", 10.0))
    return path


def one_device(place: Place, run: Path) -> None:
    """Trains, or goes on training, with one device of this process."""
    from experiments import config
    from experiments.train import train

    train(dataclasses.replace(config.load(str(place.recipe)), mesh="data=1"), run, data_dir=place.data)


def difference(a: Path, b: Path) -> float:
    """Of the weights after the last step."""
    from ahmf_jax.checkpoint import read_params

    weights = (read_params(run, STEPS)[0] for run in (a, b))
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), *weights)))


@pytest.fixture(scope="module")
def reference(place: Place) -> Path:
    """The run of one process and one device, which nothing stopped."""
    one_device(place, place.folder / "reference")
    return place.folder / "reference"


@pytest.fixture(scope="module")
def stopped(place: Place) -> Path:
    """The run of two processes that SLURM has stopped."""
    run = place.folder / "stopped"
    env = place.env(
        SLURM_JOB_ID="4711", JAX_COORDINATOR_PORT=str(free_port()), TEST_RUN=str(run), TEST_SECONDS_A_STEP="0.5"
    )
    job = subprocess.run(
        ["bash", LAUNCH / "train.sbatch", *place.command(run)[1:]],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "statuses [75, 75]" in job.stdout, job.stdout + job.stderr
    assert job.returncode == 0, job.stderr
    # One of the two speaks, and the script queues its own job again.
    assert job.stderr.count("ahmf: stopped at step ") == 1
    assert (place.folder / "stopped.requeued").read_text() == "requeue 4711\n"
    return run


def test_slurm_stops_a_run_that_the_pods_of_a_jobset_go_on_with(place: Place, stopped: Path, reference: Path) -> None:
    """Which ends as the run that nothing stopped."""
    from ahmf_jax.checkpoint import latest_step

    step = latest_step(stopped)
    assert 0 < step < STEPS

    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    port = free_port()
    # The first pod's name, as JobSet makes it: JOBSET-JOB-REPLICA-POD.JOBSET.
    first = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['metadata']['name']}"
    values = {
        "CONFIG": str(place.recipe),
        "--out=/shared/runs/RUN": f"--out={stopped}",
        "--data-dir=/shared/data": f"--data-dir={place.data}",
        f"--coordinator={first}:1234": f"--coordinator=localhost:{port}",
    }
    assert values.keys() < set(container["command"])
    assert f"--processes={pods['completions']}" in container["command"]
    assert pods["completions"] == pods["parallelism"] and pods["completionMode"] == "Indexed"

    def command(pod: int) -> list[str]:
        changed = [values.get(word, word).replace("$(JOB_COMPLETION_INDEX)", str(pod)) for word in container["command"]]
        return [str(place.folder / "bin" / changed[0]), *changed[1:]]

    ended = ends([start(command(pod), place.env()) for pod in range(pods["completions"])], 200)
    assert [end.status for end in ended] == [0, 0], ended[0].err + ended[1].err

    assert difference(stopped, reference) <= 1e-5
    # Every step is in the log once, also those before the stop.
    assert (stopped / "metrics.jsonl").read_text().count('"loss"') == STEPS
    # The first process alone speaks; Gloo does in both.
    spoken = [[line for line in end.out.splitlines() if not line.startswith("[Gloo]")] for end in ended]
    assert spoken[0][0].startswith(f"{stopped}: x2, m = 1") and "8 x cpu (data=8, spatial=1, FSDP)" in spoken[0][0]
    assert f"steps {step} to {STEPS}" in "\n".join(spoken[0])
    assert spoken[0][-1] == str(stopped) and spoken[1] == []
    assert "validation MAE" in ended[0].err and "validation MAE" not in ended[1].err


def test_a_tpu_vm_goes_on_with_the_same_command(place: Place, reference: Path) -> None:
    """One worker, by a stand-in for gcloud that runs the command as the worker's shell would."""
    from ahmf_jax.writing import write_whole

    write_whole(
        place.folder / "bin" / "gcloud",
        b'#!/bin/bash\nprintf "%s\\n" "${@:1:7}"\ncd "$TEST_HOME"\nexec bash -c "${8#--command=}"\n',
    )
    (place.folder / "bin" / "gcloud").chmod(0o755)
    home = place.folder / "home"
    home.mkdir()
    env = place.env(TPU="pod", ZONE="here", TEST_HOME=str(home))
    script = subprocess.run(
        ["bash", LAUNCH / "tpu_vm.sh", *place.command(reference)[1:]], env=env, capture_output=True, text=True
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.split() == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=here", "--worker=all"]
    assert int((home / "ahmf-train.pid").read_text()) > 0
    log = home / "ahmf-train.log"
    until = time.monotonic() + 60
    while not log.read_text().endswith(f"\n{reference}\n") and time.monotonic() < until:
        time.sleep(0.1)
    assert log.read_text().startswith(f"{reference} is done: all of its {STEPS} steps are trained\n")

    refused = subprocess.run(["bash", LAUNCH / "tpu_vm.sh"], env=place.env(), capture_output=True, text=True)
    assert refused.returncode != 0 and "TPU: name of the TPU VM" in refused.stderr


@pytest.mark.parametrize("status", [2, 1])
def test_what_is_no_stop_is_not_queued_again(tmp_path: Path, status: int) -> None:
    (tmp_path / "srun").write_text(f"#!/bin/bash\nexit {status}\n")
    (tmp_path / "scontrol").write_text("#!/bin/bash\nexit 0\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    env = environment(1, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", SLURM_JOB_ID="1")
    assert subprocess.run(["bash", LAUNCH / "train.sbatch", "x"], env=env).returncode == status


def test_bad_input_of_one_process_ends_all(place: Place, reference: Path) -> None:
    """One rank of Open MPI's is given the folder of another run: the other does not wait for it."""
    runs, ahmf = [place.folder / "bad", reference], str(place.folder / "bin" / "ahmf")
    job = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
    job["JAX_COORDINATOR_PORT"] = str(free_port())
    ranks = [{"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)} for i in range(2)]
    commands = [[ahmf, *place.command(run), "--seed=5"] for run in runs]
    started = [start(command, place.env(**job, **rank)) for command, rank in zip(commands, ranks, strict=True)]
    ended = ends(started, 100)
    assert [end.status for end in ended] == [2, 2], ended[0].err + ended[1].err
    assert ended[1].err.startswith(f"ahmf: {reference} holds another run: its seed is 0, here it is 5")
    assert ended[0].err == ended[1].err.replace("ahmf: ", "ahmf: process 1: ")
    assert not runs[0].exists()
