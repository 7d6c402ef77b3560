"""Kills workers of a study at random moments: every trial must be done once, as if none had been killed.

    python -m tests.study_kill --studies 10 --storage both

makes a study of a few tiny trainings, does it once with a worker that nothing stops, and then again and again with two
workers that share it, of which some are killed by SIGKILL and others started in their place: as they start, while they
train, and between the end of a training and its entry in the storage; some are asked to stop by SIGTERM instead.
Checked of each study: every trial is complete, and there is none more; the log of its run has each step once;
parameters, optimiser, log, and what the storage knows of its errors are those of the study that nothing stopped, bit
for bit. Who is asked to stop ends with status 75. Prints a line a study; the status is 1 where anything was otherwise.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import postgresql
from tests.kill_resume import RECIPE, ROOT, SCENES, Failure, last_step, logged, outcome

LEASE_S = 3
GRACE_S = 120  # from a signal to the end
HANG_S = 900  # that no study of these takes
AIMS = ("starting", "training", "measuring", "stopping")
EARLY = 2  # kills of starting workers in one study: three that get nowhere with a trial end it


@dataclasses.dataclass
class Place:
    """Where all of it happens: a storage, and a folder for data and runs."""

    folder: Path
    url: str
    steps: int
    trials: int

    def prepare(self) -> None:
        """The data and the recipe."""
        from data_pipelines import datasets

        datasets.prepare("scenes", self.folder / "data", **SCENES)
        (self.folder / "tiny.py").write_text(RECIPE.format(steps=self.steps))

    def study(self, name: str) -> Any:
        """The study of that name, with its trials queued."""
        from experiments import config
        from experiments.studies.storage import open_storage
        from experiments.studies.study import Row, Spec, make_study, note_folder

        spec = Spec("levels", config.load(str(self.folder / "tiny.py")), folder=str(self.folder / name))
        rows = [Row("m = 1", {"model.num_levels": 1, "seed": seed}) for seed in range(self.trials)]
        study = make_study(open_storage(self.url, create=True), name, spec, rows=rows)
        note_folder(study)
        return study

    @contextlib.contextmanager
    def workers(self, name: str) -> Iterator["Workers"]:
        """Processes of that study; they are gone afterwards."""
        workers = Workers(self, name)
        try:
            yield workers
        finally:
            for process in workers.alive():
                process.kill()
                process.wait()


class Workers:
    """The workers of a study."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self.all: list[subprocess.Popen[str]] = []
        self.signals: dict[int, signal.Signals] = {}
        self.said = place.folder / f"{name}.out"

    def start(self) -> "subprocess.Popen[str]":
        """Another one. The URL, which may have a password, is in its environment alone."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "AHMF_STUDIES": self._place.url,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self._place.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        words = ["study", "worker", "--study", self._name, "--lease", str(LEASE_S)]
        with self.said.open("a") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments.cli", *words, "--data-dir", str(self._place.folder / "data")],
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
                text=True,
            )
        self.all.append(process)
        return process

    def alive(self) -> list["subprocess.Popen[str]"]:
        """Those that have not ended."""
        return [process for process in self.all if process.poll() is None]

    def send(self, process: "subprocess.Popen[str]", number: signal.Signals) -> None:
        """A signal to one of them; waits until it has ended."""
        self.signals[process.pid] = number
        process.send_signal(number)
        process.wait(GRACE_S)

    def finish(self) -> None:
        """Waits until all have ended, as they must."""
        for process in self.alive():
            try:
                process.wait(HANG_S)
            except subprocess.TimeoutExpired:
                raise Failure(f"no end within {HANG_S} s") from None
        expected = {None: 0, signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75}
        if wrong := [p.returncode for p in self.all if p.returncode != expected[self.signals.get(p.pid)]]:
            raise Failure(f"status {wrong}: {self.said.read_text()[-2000:]}")


def holder(trial: Any, workers: Sequence["subprocess.Popen[str]"]) -> "subprocess.Popen[str] | None":
    """The worker that has a trial."""
    names = trial.user_attrs.get("workers", ())
    return next((p for p in workers if names and names[-1].split(":")[-2] == str(p.pid)), None)


def victim(place: Place, study: Any, workers: Workers, aim: str, chance: random.Random) -> bool:
    """Waits for the moment, and kills a worker; False where it did not come."""
    if aim == "starting":
        process = chance.choice(workers.alive())
        time.sleep(chance.uniform(0, 6))
        workers.send(process, signal.SIGKILL)
        return True
    before = [last_step(study.run_folder(number)) for number in range(place.trials)]
    while workers.alive():
        for trial in study.trials():
            step = last_step(study.run_folder(trial.number))
            process = holder(trial, workers.alive())
            if trial.state.name != "RUNNING" or process is None:
                continue
            if aim == "measuring" and step == place.steps:
                time.sleep(chance.uniform(0, 0.5))
            elif not (aim in ("training", "stopping") and before[trial.number] + 2 < step < place.steps):
                continue
            workers.send(process, signal.SIGTERM if aim == "stopping" else signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def check(place: Place, whole: Any, study: Any) -> None:
    """Compares a study with one that nothing stopped."""
    trials, expected = study.trials(), whole.trials()
    if states := [trial.state.name for trial in trials if trial.state.name != "COMPLETE"]:
        raise Failure(f"trials are {states}: {[trial.user_attrs.get('reason') for trial in trials]}")
    if len(trials) != place.trials:
        raise Failure(f"there are {len(trials)} trials, not {place.trials}")
    for trial, alone in zip(trials, expected, strict=True):
        run = study.run_folder(trial.number)
        steps = [line["step"] for line in logged(run) if "loss" in line]
        if steps != list(range(1, place.steps + 1)):
            raise Failure(f"trial {trial.number} has logged the steps {steps}")
        found, wanted = outcome(place, run), outcome(place, whole.run_folder(trial.number))  # type: ignore[arg-type]
        if different := [name for name, value in wanted.items() if found[name] != value]:
            raise Failure(f"trial {trial.number} has another {' and '.join(different)}")
        if trial.values != alone.values or trial.intermediate_values != alone.intermediate_values:
            raise Failure(f"trial {trial.number} has {trial.values}, not {alone.values}")
        if different := [n for n in ("metrics", "floor", "images") if trial.user_attrs[n] != alone.user_attrs[n]]:
            raise Failure(f"the storage has other {' and '.join(different)} of trial {trial.number}")


def disturbed(
    place: Place, name: str, whole: Any, aims: Sequence[str], chance: random.Random, *, replaced: bool = True
) -> list[str]:
    """A study whose workers are killed at these moments, and what came of it; the moments that there were.

    Each is `replaced` by another, or those that are left end the study.
    """
    study, came = place.study(name), []
    with place.workers(name) as workers:
        workers.start()
        workers.start()
        for aim in aims:
            if victim(place, study, workers, aim, chance):
                came.append(aim)
                if replaced:
                    workers.start()
        workers.finish()
    check(place, whole, study)
    return came


def study_kill(
    folder: Path, url: str, studies: int, seed: int, *, steps: int = 12, trials: int = 3, kills: int = 3
) -> int:
    """Does it all in `folder`, which must be there, prints what comes out, and returns the count of failures."""
    place = Place(folder, url, steps, trials)
    place.prepare()
    whole = place.study("whole")
    with place.workers("whole") as workers:
        workers.start()
        workers.finish()
    check(place, whole, whole)
    failures = 0
    for number in range(studies):
        chance, began, name = random.Random(f"{seed} {number}"), time.monotonic(), f"killed-{number}"
        aims = [chance.choice(AIMS) for _ in range(kills)]
        early = [place for place, aim in enumerate(aims) if aim == "starting"]
        for extra in early[EARLY:]:
            aims[extra] = "training"
        try:
            came = disturbed(place, name, whole, aims, chance)
        except Failure as failure:
            failures += 1
            print(f"study {number}: FAILED: {failure}; killed while {', '.join(aims)}; see {folder / name}", flush=True)
        else:
            print(f"study {number}: killed while {', '.join(came)}: {time.monotonic() - began:.0f} s", flush=True)
            shutil.rmtree(folder / name)
    return failures


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description="Kills workers of studies and checks that every trial is done once")
    parser.add_argument("--studies", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3, help="in each study")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--storage", choices=("sqlite", "postgresql", "both"), default="both")
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory(prefix="ahmf-study-kill-", ignore_cleanup_errors=True) as folder:
        for kind in ("sqlite", "postgresql") if options.storage == "both" else (options.storage,):
            place = Path(folder) / kind
            place.mkdir()
            with contextlib.ExitStack() as stack:
                url = f"sqlite:///{place / 'studies.db'}"
                if kind == "postgresql":
                    url = stack.enter_context(postgresql.server()).database()
                found = study_kill(place, url, options.studies, options.seed, kills=options.kills)
            print(f"{kind}: {options.studies - found} of {options.studies} studies ended as if none had been killed")
            failures += found
        if failures:  # what is left of them may say why
            print(f"what they left is in {shutil.copytree(folder, Path('study_kill'), dirs_exist_ok=True).absolute()}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
