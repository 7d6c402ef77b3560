"""Kills trainings at random moments and resumes them: each must end as if it had never been stopped.

    python -m tests.kill_resume --runs 50

trains a tiny network on generated scenes with `ahmf train`, once without a stop and then again and again, each time
stopped at moments of which some are spread over the whole run and some aim into a save, by SIGKILL (or, for some runs,
SIGTERM and SIGINT), and started anew by the same command until it is done. Checked of each: it resumes by itself, from
the last complete checkpoint; the steps that it lost are those since then; a signal that it can hear ends it within 30 s
with status 75; and the end is that of the run that was never stopped, bit for bit: parameters, optimiser, place in the
data, every logged loss. Prints a line a run and a summary; the status is 1 where anything was otherwise.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SAVE_EVERY = 2
RECIPE = f"""
from experiments.config import DataConfig, AHMFConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    # The network that is traced soonest: most of a start.
    model=AHMFConfig(scale=2, num_levels=1, features=2, fusion="concat", recurrence="none"),
    data=DataConfig(dataset="scenes", patch_size=16, batch_size=4),
    optimiser=OptimiserConfig(learning_rate=1e-3),
    steps={{steps}}, scaling="sample", output_scale=0.1, ema=0.9,
    log_every=1, checkpoint_every={SAVE_EVERY}, validate_every=8,
)
"""
SCENES = {"height": 64, "width": 80, "train": 3, "validation": 1, "test": 1}
# What a clock measures, and no two runs share.
CLOCK = {"seconds", "data_wait", "step_seconds", "images_per_second", "tflops", "mfu"}
GRACE_S = 30  # from a signal that can be heard to the end of the process
HANG_S = 600  # that no process of these takes
AIMS = ("arrays", "manifest", "any time")


class Failure(AssertionError):
    """Something that must hold does not."""


@dataclasses.dataclass
class Place:
    """Where all of it happens, to runs of so many steps."""

    folder: Path
    steps: int

    def prepare(self) -> None:
        """The data and the recipe."""
        from data_pipelines import datasets

        datasets.prepare("scenes", self.folder / "data", **SCENES)
        (self.folder / "tiny.py").write_text(RECIPE.format(steps=self.steps))

    @contextlib.contextmanager
    def training(self, run: Path) -> Iterator["subprocess.Popen[str]"]:
        """A process with the command that trains the run, new or not; it is gone afterwards."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "experiments.cli", "train", self.folder / "tiny.py", "--out", run]
        with (run.parent / f"{run.name}.out").open("a") as said:
            process = subprocess.Popen(
                [*map(str, command), "--data-dir", str(self.folder / "data")],
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
                text=True,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def finish(self, run: Path) -> None:
        """Trains the run until it ends by itself, which it must."""
        with self.training(run) as process:
            if status := ended(process, HANG_S):
                raise Failure(f"status {status}")


def ended(process: "subprocess.Popen[str]", timeout: float) -> int:
    """The status of a process that ends by itself."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise Failure(f"no end within {timeout:.0f} s") from None


def said(run: Path) -> str:
    """All that the processes of a run have printed so far."""
    return (run.parent / f"{run.name}.out").read_text()


def complete(run: Path) -> list[int]:
    """The steps of the checkpoints that have their manifest."""
    return sorted(int(path.parent.name) for path in run.glob("checkpoints/*/manifest.json"))


def logged(run: Path) -> list[dict[str, float]]:
    """The lines of the log that are whole, without what a clock measured."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def last_step(run: Path) -> int:
    """The last step that the log tells of."""
    return max((int(line["step"]) for line in logged(run)), default=0)


def phase(run: Path) -> str:
    """What a run was doing when it was killed, by what it left."""
    if not (run / "config.json").exists():
        return "before the run had a folder"
    if not (run / "checkpoints").is_dir():
        return "before the first save"
    for folder in (run / "checkpoints").iterdir():
        if not (folder / "manifest.json").exists():
            return "between arrays and manifest" if (folder / "state").is_dir() else "while arrays were written"
    return "between saves"


def outcome(place: Place, run: Path) -> dict[str, Any]:
    """All that must be the same at the end of two runs."""
    manifest = json.loads((run / "checkpoints" / str(place.steps) / "manifest.json").read_text())
    # What is not an array of the state, but of the storage, holds times of day.
    arrays = {name: file for name, file in manifest["files"].items() if name.count("/") == 2}
    assert len(arrays) == 2 * len(manifest["leaves"])
    return {
        "arrays": arrays,
        "place in the data": manifest["facts"]["data"],
        "validation error": manifest["error"],
        "log": logged(run),
    }


def wait(
    process: "subprocess.Popen[str]", run: Path, aim: str, first: int, seconds: float, chance: random.Random
) -> bool:
    """Waits for the moment to kill a process; returns whether it is alive then.

    The moment is `seconds` after the start, or, by `aim`, some milliseconds after the arrays of a save are seen being
    written, or its manifest is seen missing: of the next save from step `first` on.
    """
    deadline = time.monotonic() + (seconds if aim == "any time" else HANG_S)
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
        if aim == "any time":
            continue
        pattern = "*/state.orbax-checkpoint-tmp" if aim == "arrays" else "*/state"
        seen = [path.parent for path in (run / "checkpoints").glob(pattern)]
        if any(int(step.name) >= first and not (step / "manifest.json").exists() for step in seen):
            time.sleep(chance.choice((0, chance.uniform(0, 0.03))))
            break
    return process.poll() is None


@dataclasses.dataclass
class Story:
    """What became of one run."""

    phases: list[str] = dataclasses.field(default_factory=list)
    lost: list[int] = dataclasses.field(default_factory=list)
    problem: str = ""

    def line(self, number: int) -> str:
        """For the reader."""
        how = "; ".join(f"{phase}, {lost} steps lost" for phase, lost in zip(self.phases, self.lost, strict=False))
        return f"run {number}: {self.problem or 'identical'} ({how or 'it was done before'})"


def check_resumed(place: Place, run: Path, before: str, expected: int) -> None:
    """Raises Failure unless the last start went on from step `expected`."""
    new = said(run)[len(before) :]
    starts = re.findall(rf"steps (\d+) to {place.steps};", new)
    if starts and int(starts[-1]) != expected:
        raise Failure(f"went on from step {starts[-1]}, and the last complete checkpoint is of step {expected}")


def killed_run(place: Place, number: int, whole: dict[str, Any], seconds: float, seed: int, kills: int) -> Story:
    """One run that is killed up to `kills` times, and then left alone."""
    chance, story = random.Random(f"{seed} {number}"), Story()
    run = place.folder / f"run-{number}"
    before, expected = "", 0
    try:
        for kill in range(chance.randint(1, kills)):
            aim = AIMS[(number + kill) % len(AIMS)]
            first = expected + chance.randrange(1, max(2, place.steps - expected))
            with place.training(run) as process:
                alive = wait(process, run, aim, first, chance.uniform(0, seconds), chance)
            if not alive:
                break
            check_resumed(place, run, before, expected)
            expected, before = max(complete(run), default=0), said(run)
            story.phases.append(phase(run))
            # A run that was killed before its log was anew tells of steps that it had not done again.
            story.lost.append(max(last_step(run) - expected, 0))
            # The save that was on its way when the next was due, and the steps up to that one.
            if story.lost[-1] > 2 * SAVE_EVERY:
                raise Failure(f"{story.lost[-1]} steps after the last complete checkpoint, of step {expected}")
        place.finish(run)
        check_resumed(place, run, before, expected)
        compare(place, run, whole)
    except Failure as failure:
        story.problem = f"{failure}; see {run}"
    else:
        shutil.rmtree(run)
    return story


def compare(place: Place, run: Path, whole: dict[str, Any]) -> None:
    """Raises Failure unless the run ended as that which was never stopped."""
    found = outcome(place, run)
    if different := [name for name, value in whole.items() if found[name] != value]:
        raise Failure(f"another {' and '.join(different)}")


def signalled_run(place: Place, number: int, whole: dict[str, Any], signum: int, seed: int) -> Story:
    """One run that is asked to go as it trains, and then left alone."""
    chance, story = random.Random(f"{seed} {signum} {number}"), Story()
    run = place.folder / f"signalled-{number}"
    try:
        step, name = chance.randrange(1, place.steps), signal.Signals(signum).name
        with place.training(run) as process:
            while process.poll() is None and last_step(run) < step:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signum)
            start = time.monotonic()
            status = ended(process, GRACE_S)
        if status not in ((75, 0) if last_step(run) == place.steps else (75,)):
            raise Failure(f"status {status} after {name}")
        if status == 75 and "go on with `ahmf train --resume" not in said(run):
            raise Failure("no line that says how to go on")
        story.phases.append(f"{name}, saved in {time.monotonic() - start:.1f} s")
        story.lost.append(last_step(run) - max(complete(run)))
        if story.lost[-1]:
            raise Failure(f"{story.lost[-1]} steps lost after {name}")
        place.finish(run)
        compare(place, run, whole)
    except Failure as failure:
        story.problem = f"{failure}; see {run}"
    else:
        shutil.rmtree(run)
    return story


def kill_resume(
    folder: Path,
    runs: int,
    signals: int,
    seed: int,
    jobs: int = 1,
    steps: int = 24,
    kills: int = 3,
    whole_runs: int = 2,
) -> int:
    """Does it all in `folder`, which must be there, prints what comes out, and returns the count of failures.

    The first of the runs that nothing stops compiles; a second shows that such runs do not differ by themselves.
    """
    place = Place(folder, steps)
    place.prepare()
    outcomes = []
    for number in range(whole_runs):
        start = time.monotonic()
        place.finish(folder / f"whole-{number}")
        outcomes.append(outcome(place, folder / f"whole-{number}"))
    seconds, whole = time.monotonic() - start, outcomes[-1]
    if different := [name for name, value in outcomes[0].items() if value != whole[name]]:
        raise Failure(f"two runs that are not stopped differ in {different}: there is nothing to compare with")
    print(f"{steps} steps, a save each {SAVE_EVERY}, take {seconds:.1f} s; {runs} runs to kill", flush=True)

    def one(number: int) -> Story:
        if number < runs:
            story = killed_run(place, number, whole, seconds, seed, kills)
        else:
            signum = (signal.SIGTERM, signal.SIGINT)[number % 2]
            story = signalled_run(place, number - runs, whole, signum, seed)
        print(story.line(number), flush=True)
        return story

    with ThreadPoolExecutor(jobs) as pool:
        stories = list(pool.map(one, range(runs + signals)))
    failures = sum(bool(story.problem) for story in stories)
    phases = Counter(phase for story in stories[:runs] for phase in story.phases)
    lost = [steps for story in stories[:runs] for steps in story.lost]
    print(f"{runs - sum(bool(s.problem) for s in stories[:runs])} of {runs} killed runs resumed and ended identical")
    print(f"{sum(phases.values())} kills: " + ", ".join(f"{count} {name}" for name, count in phases.most_common()))
    print(f"steps lost: {max(lost, default=0)} at most, {sum(lost) / max(len(lost), 1):.1f} in the mean")
    if signals:
        print(f"{signals - sum(bool(s.problem) for s in stories[runs:])} of {signals} signalled runs likewise")
    return failures


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description="Kills trainings at random moments and checks that none loses anything"
    )
    parser.add_argument("--runs", type=int, default=50, help="to kill with SIGKILL")
    parser.add_argument("--signals", type=int, default=6, help="to stop with SIGTERM and SIGINT by turns")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ahmf-kill-", ignore_cleanup_errors=True) as folder:
        failures = kill_resume(Path(folder), options.runs, options.signals, options.seed, options.jobs)
        if failures:  # what is left of them may say why
            kept = shutil.copytree(folder, Path("kill_resume"), dirs_exist_ok=True)
            print(f"{failures} failed; what they left is in {kept.absolute()}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
