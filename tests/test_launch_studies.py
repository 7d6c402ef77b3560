"""Studies started as docs/launching_studies.md says; the schedulers are stand-ins."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT, environment

LAUNCH = ROOT / "docs" / "launch"
PAGE = (ROOT / "docs" / "launching_studies.md").read_text()


@pytest.fixture
def job(tmp_path):
    """The environment of a task of an array: `srun` runs a stand-in for `ahmf`, which ends as it is told."""
    programs = {
        "srun": 'exec "$@"',
        "ahmf": 'echo "$AHMF_STUDIES $@" >>"$TEST_OUT"; exit "$TEST_STATUS"',
        "scontrol": 'echo "scontrol $@" >>"$TEST_OUT"',
    }
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "TEST_OUT": str(tmp_path / "out"), "SLURM_JOB_ID": "4712"}


@pytest.mark.parametrize("status", [0, 1, 2, 75])
def test_slurm_queues_a_stopped_worker_again_and_no_other(job, status):
    env = environment(1, **job, TEST_STATUS=str(status), AHMF_STUDIES="postgresql://me@host/studies")
    words = ["bash", LAUNCH / "study.sbatch", "levels", "--together", "2"]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == (0 if status == 75 else status), done.stderr
    said = Path(job["TEST_OUT"]).read_text().splitlines()
    assert said[0] == "postgresql://me@host/studies study worker --study levels --together 2"
    assert said[1:] == (["scontrol requeue 4712"] if status == 75 else [])


@pytest.mark.parametrize(
    ("url", "words", "said"),
    [("", ["levels"], "AHMF_STUDIES: URL of the database"), ("x", [], "1: name of the study")],
)
def test_slurm_needs_a_database_and_a_study(job, url, words, said):
    env = environment(1, **job, TEST_STATUS="0", AHMF_STUDIES=url)
    done = subprocess.run(["bash", LAUNCH / "study.sbatch", *words], env=env, capture_output=True, text=True)
    assert done.returncode != 0 and said in done.stderr
    assert not Path(job["TEST_OUT"]).exists()


def test_the_scripts_signals_are_those_that_a_worker_hears():
    script = (LAUNCH / "study.sbatch").read_text()
    assert re.findall(r"#SBATCH --signal=(\w+)@(\d+)", script) == [("USR1", "120")]
    assert "--requeue" in script and "#SBATCH --array=" in script


def test_the_pods_of_a_job_are_workers():
    from experiments import cli
    from experiments.commands.study import StudyWorker

    job = yaml.safe_load((LAUNCH / "study.yaml").read_text())
    assert job["apiVersion"] == "batch/v1" and job["kind"] == "Job"
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # which a policy of failures asks for
    (container,) = pod["containers"]
    command = cli.parse(container["command"][1:])
    assert isinstance(command, StudyWorker) and container["command"][0] == "ahmf"
    assert command.storage is None  # by the environment, from the secret
    assert command.data_dir == Path("/shared/data")
    assert command.out is None  # where the volume is missing, that is said
    (variable,) = container["env"]
    assert variable["name"] == "AHMF_STUDIES" and variable["valueFrom"]["secretKeyRef"]["name"] == "ahmf-studies"
    assert "ahmf-studies" in (LAUNCH / "study.yaml").read_text().split("apiVersion")[0]  # where it is made
    codes = {
        rule["onExitCodes"]["values"][0]: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert codes == {75: "Ignore", 2: "FailIndex"}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"] and mount["mountPath"] == "/shared"


def test_the_pages_options_and_figures_are_the_programs():
    from experiments import cli
    from experiments.studies import storage, worker

    wait = cli.parse(["study", "worker", "--study", "NAME", "--no-wait"])
    assert not wait.wait and wait.lease == worker.LEASE == 60 and wait.max_failures == 3
    assert cli.parse(shlex.split("study worker --study NAME --together 8 --retry-failed")).together == 8
    assert "after `--lease` seconds (60)" in PAGE and "`--max-failures` (3)" in PAGE
    assert storage.PATIENCE == 120 and "waits for two minutes where it needs it, then ends with status 75" in PAGE
    assert "is full | waits for the next worker; this one ends with status 75" in PAGE
    assert worker.BEAT == 10 and "prolongs every ten seconds" in PAGE
    assert worker.DEATHS == 3 and "Three workers that die with a trial" in PAGE
