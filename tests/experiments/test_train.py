"""Training: what a run leaves, and that stopping, failing and going on lose and change nothing."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ahmf_jax import InputError, checkpoint, train, upsample
from ahmf_jax.locks import lock_run
from ahmf_jax.stopping import Stop
from data_pipelines import datasets, loader
from data_pipelines.cache import ByteCache
from data_pipelines.files import write_depth, write_picture
from experiments import config as configs
from experiments import train as train_module
from experiments import validation
from experiments.config import DataConfig, Stopped
from tests.kill_resume import CLOCK

ROOT = Path(__file__).parents[2]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run, *without):
    """The logged lines without the clock, and without the validations at the steps `without`."""
    kept = [line for line in lines(run) if not ("validation_mae" in line and line["step"] in without)]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in kept]


def assert_same_end(run, other):
    wanted, found = checkpoint.read_params(run, 6)[0], checkpoint.read_params(other, 6)[0]
    jax.tree.map(np.testing.assert_array_equal, wanted, found)


class Tampered(Iterator):
    """A loader that calls `action` with its batch before it hands out the batch of a place (from 1)."""

    def __init__(self, batches, place, action):
        self.batches, self.place, self.action, self.drawn = batches, place, action, 0

    def __getattr__(self, name):
        return getattr(self.batches, name)

    def __next__(self):
        batch = next(self.batches)
        self.drawn += 1
        if self.drawn == self.place:
            self.action(batch)
        return batch


def tamper(monkeypatch, place, action):
    make = loader.train_loader
    monkeypatch.setattr(loader, "train_loader", lambda *args, **kwargs: Tampered(make(*args, **kwargs), place, action))


def test_what_a_run_holds(run, tiny):
    config = json.loads((run / "config.json").read_text())
    assert config["train"] == json.loads(json.dumps(configs.to_json(tiny)))
    assert config["trained"]["model"]["num_levels"] == 1
    assert {k: config["trained"][k] for k in ("scaling", "unit", "range")} == {
        "scaling": "sample",
        "unit": "m",
        "range": 10.0,
    }
    logged = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    names = CLOCK | {"step", "loss", "mae", "grad_norm", "learning_rate", "skipped", "skipped_images"}
    assert all(set(line) == names for line in logged)
    assert all(np.isfinite(list(line.values())).all() for line in logged)
    validations = [line for line in lines(run) if "validation_mae" in line]
    assert [line["step"] for line in validations] == [2, 4, 6]
    names = {f"validation_{name}" for name in ("mae", "rmse", "floor_mae", "floor_rmse")}
    assert all(set(line) == {"step"} | names for line in validations)
    steps = sorted(int(p.name) for p in (run / "checkpoints").iterdir())
    best = min(validations, key=lambda line: line["validation_mae"])["step"]
    assert set(steps) == {4, 6, best}
    assert checkpoint.best_step(run) == best
    (events,) = (run / "tensorboard").iterdir()
    data = events.read_bytes()
    assert events.name.startswith("events.out.tfevents") and data.count(b"\x89PNG") == 3, "a picture a validation"
    facts = json.loads((run / "checkpoints" / "6" / "manifest.json").read_text())["facts"]
    assert facts["data"] == {"examples": 48} and facts["config"] == {"train": config["train"]}
    assert facts["lines"] == lines(run) and facts["rows"] == [] and "jax" in facts["versions"]


def test_the_logged_validation_is_that_of_the_checkpoint(run, tiny, data_dir):
    from data_pipelines.datasets import open_dataset
    from experiments.evaluate import measure_all
    from experiments.methods import open_method
    from experiments.protocols import run_protocol

    protocol = run_protocol(tiny.data.degrade)
    method = open_method(str(run), None, protocol)
    found = measure_all(method, open_dataset("scenes", "validation", data_dir), "run", protocol).mean
    best = min((line for line in lines(run) if "validation_mae" in line), key=lambda line: line["validation_mae"])
    assert found.metrics["mae"] == pytest.approx(best["validation_mae"], rel=1e-5)
    assert found.floor["mae"] == pytest.approx(best["validation_floor_mae"], rel=1e-6)


def test_a_finished_command_does_nothing_and_another_run_is_refused(ahmf, refused, run, recipe, data_dir, contents):
    before = contents(run)
    for args in ((recipe, "--out", run), (recipe, "--out", run, "--mesh", "data=2"), ("--resume", run)):
        ended = ahmf("train", *args, "--data-dir", data_dir)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"{run} is done: all of its 6 steps are trained\n{run}\n"
    for given, said in (
        (("--seed", 1), "its seed is 0, here it is 1"),
        (("--data.batch-size", 4), "its data.batch_size"),
    ):
        said = rf"{run} holds another run: {said}.*; choose another folder with --out"
        refused("train", recipe, "--out", run, *given, "--data-dir", data_dir, said=said)
    assert contents(run) == before


def test_a_run_is_one_process_at_a_time(refused, run, recipe, data_dir, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    with lock_run(tmp_path / "run"):
        said = rf"run is in use by another run \(process {os.getpid()} on "
        refused("train", "--resume", tmp_path / "run", "--data-dir", data_dir, said=said)
        refused("train", recipe, "--out", tmp_path / "run", "--data-dir", data_dir, said=said)


@pytest.mark.skipif(jax.device_count() < 8, reason="fewer devices divide every batch")
def test_devices_that_a_batch_cannot_be_divided_over(monkeypatch, ahmf, refused, recipe, tmp_path, data_dir):
    args = ("train", recipe, "--steps", 1, "--data.batch-size", 3, "--out", tmp_path / "run", "--data-dir", data_dir)
    said = r"mesh data=8: a batch of 3 cannot be divided over data=8"
    refused(*args, "--mesh", "data=8", said=said)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(train, "fit", lambda *args, **options: None)  # tests of sharding train on such a mesh
    ended = ahmf(*args, "--mesh", "auto")
    assert ended.code == 75 and "6 x cpu (data=3, spatial=2)" in ended.out
    assert "warning: 6 of the 8 devices are used" in ended.err


def test_what_fails_before_its_first_checkpoint_leaves_no_folder(
    monkeypatch, ahmf, refused, recipe, tmp_path, data_dir
):
    monkeypatch.setattr(train_module, "check_patch", lambda *_: None)  # so that the loader finds it
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / "file").touch()
    for out in ("run", "mine"):
        # After the run has begun.
        args = ("train", recipe, "--data.patch-size", 96, "--out", tmp_path / out, "--data-dir", data_dir)
        ended = ahmf(*args)
        assert ended.code == 2 and "64 x 80" in ended.err.splitlines()[-1] and "96" in ended.err.splitlines()[-1]
        assert "Traceback" not in ended.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]
    assert not (tmp_path / "mine" / "config.json").exists() and (tmp_path / "mine" / "notes").exists()
    said = "file/run: cannot be written"
    refused("train", recipe, "--out", tmp_path / "file" / "run", "--data-dir", data_dir, said=said)
    said = r"data set 'middlebury' is not in .*`ahmf data prepare middlebury --from DIR`"
    refused("train", recipe, "--data.dataset", "middlebury", "--out", tmp_path / "r", "--data-dir", data_dir, said=said)
    said = r"'scenes' has no split 'training': it has"
    refused("train", recipe, "--data.train", "training", "--out", tmp_path / "r", "--data-dir", data_dir, said=said)
    assert not (tmp_path / "r").exists()


def poison(batch):
    batch["depth_hr"][:] = np.inf


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(monkeypatch, ahmf, recipe, tmp_path, data_dir, place=3):
    tamper(monkeypatch, place, poison)
    ended = ahmf("train", recipe, "--out", tmp_path / "run", "--data-dir", data_dir)
    said = ended.err.splitlines()[-1]
    assert ended.code == 2 and "Traceback" not in ended.err
    assert said.startswith("ahmf: the loss at step 3 is inf") and f"checkpoint in {tmp_path}/run is kept" in said
    assert "--optimiser.learning-rate (now 0.001)" in said
    assert checkpoint.latest_step(tmp_path / "run") == 2
    upsampler = upsample.load(tmp_path / "run")
    result = upsampler(np.full((4, 4), 7, np.uint8), np.zeros((16, 16, 3), np.uint8))
    assert result.shape == (16, 16)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 2]
    dump = json.loads((tmp_path / "run" / "nonfinite" / "3.json").read_text())
    assert dump["step"] == 3 and dump["loss"] == "inf" and dump["seed"] == 0
    assert [example["place"] for example in dump["examples"]] == list(range(16, 24))


def test_a_loss_that_is_no_number_is_skipped_on_request(monkeypatch, ahmf, recipe, tmp_path, data_dir):
    tamper(monkeypatch, 3, poison)
    ended = ahmf("train", recipe, "--on-nonfinite", "skip", "--out", tmp_path / "run", "--data-dir", data_dir)
    assert ended.code == 0, ended.err
    path = tmp_path / "run" / "nonfinite" / "3.json"
    assert f"warning: the loss or the gradient at step 3 is no number; its batch: {path}" in ended.err
    assert [line["skipped"] for line in lines(tmp_path / "run") if "loss" in line] == [0, 0, 1, 0, 0, 0]


def test_a_signal_stops_and_a_resumed_run_drops_what_it_does_again(monkeypatch, ahmf, recipe, run, tmp_path, data_dir):
    out = tmp_path / "run"
    log = train_module._Reporter.log

    def log_and_interrupt(self, step, values):
        log(self, step, values)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train_module._Reporter, "log", log_and_interrupt)
        ended = ahmf("train", recipe, "--out", out, "--data-dir", data_dir)
    said = f"ahmf: stopped at step 3 of 6, saved: go on with `ahmf train --resume {out}`"
    assert (ended.code, ended.err.splitlines()[-1]) == (75, said)
    assert checkpoint.latest_step(out) == 3
    with (out / "metrics.jsonl").open("a") as file:  # as if the process had gone on, and was then killed
        file.write('{"step": 4, "loss": 99.0}\n{"step": 5, "lo')
    ended = ahmf("train", recipe, "--out", out, "--data-dir", data_dir)  # the same command goes on
    assert ended.code == 0, ended.err
    assert timeless(out) == timeless(run)
    assert_same_end(run, out)


@pytest.mark.parametrize("at", [2, 6])
def test_a_signal_ends_a_validation_which_comes_when_the_run_goes_on(
    monkeypatch, ahmf, recipe, run, tmp_path, data_dir, at
):
    out = tmp_path / "run"
    validate = validation.validate

    def interrupted(model, *args, **options):
        if lines(out)[-1]["step"] == at:
            signal.raise_signal(signal.SIGTERM)
        return validate(model, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "validate", interrupted)
        ended = ahmf("train", recipe, "--out", out, "--data-dir", data_dir)
    assert ended.code == 75 and f"stopped at step {at} of 6, saved" in ended.err
    assert [line["step"] for line in lines(out)][-2:] == [at - 1, at] and "loss" in lines(out)[-1]
    ended = ahmf("train", "--resume", out, "--data-dir", data_dir)
    assert ended.code == 0, ended.err
    assert timeless(out) == timeless(run)
    assert_same_end(run, out)
    manifests = [json.loads((r / "checkpoints" / "6" / "manifest.json").read_text()) for r in (run, out)]
    assert manifests[0]["error"] == manifests[1]["error"] and manifests[1]["facts"]["validated"]
    assert "is done" in ahmf("train", recipe, "--out", out, "--data-dir", data_dir).out


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(ahmf, recipe, run, tmp_path, data_dir):
    for number, args in enumerate(((recipe, "--out"), ("--resume",))):
        out = tmp_path / str(number)
        out.mkdir()
        shutil.copy(run / "config.json", out)
        (out / "metrics.jsonl").write_text('{"step": 1, "lo')
        ended = ahmf("train", *args, out, "--data-dir", data_dir)
        assert ended.code == 0, ended.err
        assert timeless(out) == timeless(run)


@pytest.mark.parametrize("mode", ["stop", "continue"])
def test_a_checkpoint_that_cannot_be_written(monkeypatch, ahmf, recipe, run, tmp_path, data_dir, mode):
    out, write = tmp_path / "run", checkpoint.write_whole

    def full(path, data):
        if path.parent.name == "4":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_whole", full)
    ended = ahmf("train", recipe, "--on-save-error", mode, "--out", out, "--data-dir", data_dir)
    assert "checkpoints/4 cannot be written (No space left on device): the checkpoints before it are kept" in ended.err
    assert "Traceback" not in ended.err
    if mode == "stop":
        assert ended.code == 2 and checkpoint.latest_step(out) == 2
        checkpoint.verify(out, 2)
    else:
        assert ended.code == 0 and "the run goes on, as --on-save-error continue asks" in ended.err
        assert timeless(out) == timeless(run)
        assert_same_end(run, out)


PAUSED = """
import sys
from data_pipelines import loader
from experiments.cli import main

class Paused:
    def __init__(self, batches):
        self.batches, self.drawn = batches, 0
    def __getattr__(self, name):
        return getattr(self.batches, name)
    def __next__(self):
        self.drawn += 1
        if self.drawn == 4:
            print("ready", flush=True)
            sys.stdin.readline()
        return next(self.batches)

make = loader.train_loader
loader.train_loader = lambda *args, **kwargs: Paused(make(*args, **kwargs))
main(sys.argv[1:])
"""


def test_ctrl_c_saves_and_a_resumed_run_equals_one_that_never_stopped(ahmf, recipe, run, tmp_path, data_dir, compiled):
    out = tmp_path / "run"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, "train", recipe, "--out", out, "--data-dir", data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    with process:
        while (line := process.stdout.readline()) not in ("ready\n", ""):
            pass
        assert line, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate("\n", timeout=300)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    # The fourth batch is drawn ahead, when the first step has begun.
    said = rf"ahmf: stopped at step [123] of 6, saved: go on with `ahmf train --resume {out}`"
    assert re.fullmatch(said, err.splitlines()[-1]), err
    ended = ahmf("train", "--resume", out, "--data-dir", data_dir)
    assert ended.code == 0, ended.err
    # Two processes compile for themselves, and may differ in a last bit; the same steps in one process may not.
    for found, wanted in zip(timeless(out), timeless(run), strict=True):
        assert found == pytest.approx(wanted, rel=1e-6)
    wanted, found = checkpoint.read_params(run, 6)[0], checkpoint.read_params(out, 6)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), wanted, found)


class Enough(Exception):
    """What a caller ends a run with."""


def test_a_caller_is_told_of_each_validation_and_may_end_the_run(tiny, run, tmp_path, data_dir):
    """After its checkpoint is complete; and who goes on with it is not told again."""
    out, told = tmp_path / "run", []

    def on_validation(step, means):
        told.append((step, dict(means)))
        if step == 4:
            raise Enough("not promising")

    with pytest.raises(Enough, match="not promising"):
        train_module.train(tiny, out, data_dir=data_dir, on_validation=on_validation)
    assert checkpoint.latest_step(out) == 4
    checkpoint.verify(out, 4)
    assert train_module.standing(tiny, out) == "unfinished"
    train_module.train(tiny, out, data_dir=data_dir, on_validation=on_validation)
    logged = [line for line in lines(run) if "validation_mae" in line]
    assert [{"step": step} | {f"validation_{k}": v for k, v in means.items()} for step, means in told] == logged
    assert timeless(out) == timeless(run)
    assert_same_end(run, out)


def test_a_caller_hears_signals_itself(tiny, tmp_path, data_dir):
    """With a `stop` of its own no handler is installed, and what it has heard stops every run."""
    stop, handler = Stop(), signal.getsignal(signal.SIGTERM)

    def on_validation(step, means):
        assert signal.getsignal(signal.SIGTERM) is handler
        stop.hear()

    for number, said in enumerate(("stopped at step 2 of 6, saved", "stopped before the first step")):
        with pytest.raises(Stopped, match=said):
            train_module.train(tiny, tmp_path / str(number), data_dir=data_dir, on_validation=on_validation, stop=stop)


@pytest.mark.parametrize("changed", [("--workers", 1, "--cache", "memory", "--on-corrupt", "skip"), ()])
def test_what_changes_no_batch_may_change_when_a_run_goes_on(ahmf, refused, run, tmp_path, data_dir, changed):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "checkpoints" / "6" / "manifest.json").unlink()  # as if it had been killed after step 4 or 5
    assert checkpoint.latest_step(out) == 4
    started = json.loads((out / "config.json").read_text())
    refused("train", "--resume", out, "--workers", -1, "--data-dir", data_dir, said=r"workers is -1: it must")
    seen = {}
    make = loader.train_loader
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loader, "train_loader", lambda data, **given: seen.update(given, data=data) or make(data, **given)
        )
        ended = ahmf("train", "--resume", out, *changed, "--data-dir", data_dir)
    assert ended.code == 0, ended.err
    assert (seen["workers"], seen["on_corrupt"]) == ((1, "skip") if changed else (0, "stop"))
    assert isinstance(seen["data"][0][0].cache, ByteCache) == bool(changed)
    assert timeless(out) == timeless(run)
    assert_same_end(run, out)
    assert json.loads((out / "config.json").read_text()) == started


@pytest.fixture
def damaged(tmp_path):
    """A folder of five pairs to train on, the depth of the third cut off, and of one to validate on."""
    folder = tmp_path / "pairs"
    rng = np.random.default_rng(0)
    for place, names in ((folder / "train", "abcde"), (folder / "validation", "v")):
        place.mkdir(parents=True)
        for name in names:
            write_depth(place / f"{name}_depth.png", rng.integers(1, 200, (32, 40)).astype(np.uint8))
            write_picture(place / f"{name}_rgb.png", rng.integers(0, 256, (32, 40, 3)).astype(np.uint8))
    file = folder / "train" / "c_depth.png"
    file.write_bytes(file.read_bytes()[:-40])
    return folder


def test_images_that_are_not_divided_are_refused(refused, recipe, damaged, tmp_path):
    """They would be trained and validated on."""
    given = ("train", recipe, "--out", tmp_path / "run", "--data.dataset")
    said = r"there is no folder 'train' in it \(its folders: none\): make folders train and validation"
    refused(*given, damaged / "train", said=said)
    refused(
        *given, damaged, "--data.train", "train+validation", said=r"1 of the 1 images to validate on are trained on"
    )
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_stops_the_run(ahmf, recipe, damaged, tmp_path):
    ended = ahmf("train", recipe, "--data.dataset", damaged, "--out", tmp_path / "run")
    assert ended.code == 2 and "Traceback" not in ended.err
    assert re.match(r"ahmf: .*c_depth.png: ", ended.err.splitlines()[-1]) and "Grain" not in ended.err
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_is_named_once_and_counted(ahmf, recipe, damaged, data_dir, tmp_path):
    """Mixed with generated scenes, and the same from a worker process."""
    args = ("train", recipe, "--data.mix", f"{damaged}=2", "--data.on-corrupt", "skip", "--data-dir", data_dir)
    runs = []
    for workers in (0, 1):
        out = tmp_path / f"run{workers}"
        ended = ahmf(*args, "--data.workers", workers, "--out", out)
        assert ended.code == 0, ended.err
        said = re.findall(r"skipped, (\d) so far: (.*)", ended.err)
        assert len(said) == 1 and said[0][0] == "1" and "c_depth.png" in said[0][1]
        assert f"{out}: 1 images could not be read and were passed over" in ended.out
        assert "3 + 5 images to train on" in ended.out
        logged = [line for line in lines(out) if "loss" in line]
        assert logged[-1]["skipped_images"] == 1
        runs.append(timeless(out))
    assert runs[0][-1] == runs[1][-1]


def test_a_leak_is_called_one(ahmf, recipe, data_dir, tmp_path):
    ended = ahmf("train", recipe, "--scaling", "truth", "--steps", 1, "--data-dir", data_dir, "--out", tmp_path / "run")
    assert ended.code == 0 and "scaling truth is a leak: " in ended.out
    (validation,) = re.findall(r"step 1: validation MAE .*", ended.err)
    assert validation.endswith(" (scaling truth: a leak)")
    assert re.search(r"loss [\d.]+, waits \d+ % for data \(scaling truth: a leak\)", ended.err)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["trained"]["scaling"] == "truth"


def test_training_on_a_test_is_warned_of(ahmf, recipe, data_dir, tmp_path):
    given = ("train", recipe, "--steps", 1, "--data-dir", data_dir, "--out", tmp_path / "run")
    ended = ahmf(*given, "--data.mix", "scenes:test", "scenes:train")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[0] == "warning: scenes:test is trained on: figures on it are not of unseen images"
    assert "leak" not in ended.err + ended.out


def test_a_validation_split_without_an_image(refused, recipe, data_dir, tmp_path):
    args = ("train", recipe, "--data.validation", "validation[:0]", "--data-dir", data_dir, "--out", tmp_path / "run")
    refused(*args, said=r"scenes has no examples in split 'validation\[:0\]'")


def test_a_patch_larger_than_an_image_is_found_before_any_is_read(monkeypatch, refused, recipe, data_dir, tmp_path):
    """Images of 64 x 80; with `reduce` a patch is cut of so many times as many pixels."""
    monkeypatch.setattr(datasets.Dataset, "_decode", lambda *_: pytest.fail("an image is read"))
    given = "train", recipe, "--data-dir", data_dir, "--out", tmp_path / "run"
    for size, patch in (
        (("--data.patch-size", "68"), "68 x 68"),
        (("--data.patch-width", "84", "--data.augment.flips", "mirror"), "16 x 84"),
        (("--data.patch-size", "36", "--data.degrade.reduce", "2"), "72 x 72"),
    ):
        said = (
            rf"of data set scenes is 64 x 80 \(height x width\), smaller than the patch of {patch}: choose a smaller "
        )
        refused(*given, *size, said=f"{said}--data.patch-size or --data.patch-width$")
    # Of a folder, too; whether a file that cannot be read matters is decided when its turn comes.
    for split in ("train", "validation"):
        (tmp_path / "maps" / split).mkdir(parents=True)
        for name in ("a", "b"):
            write_depth(tmp_path / "maps" / split / f"{name}_depth.png", np.ones((12, 20), np.uint8))
            write_picture(tmp_path / "maps" / split / f"{name}_rgb.png", np.ones((12, 20, 3), np.uint8))
    (tmp_path / "maps" / "train" / "a_depth.png").write_bytes(b"damaged")
    said = r"b of data set train is 12 x 20 \(height x width\), smaller than the patch of 16 x 16: choose a smaller "
    refused(*given, "--data.dataset", tmp_path / "maps", said=f"{said}--data.patch-size")
    assert not (tmp_path / "run").exists()


def test_resuming_what_is_no_run(refused, run, tmp_path):
    refused("train", "--resume", tmp_path / "nowhere", said=r"nowhere is not a training run")
    other = tmp_path / "run"
    shutil.copytree(run, other)
    config = json.loads((run / "config.json").read_text())
    for values, said in (
        ({"train": 3}, r"run/config.json: TrainConfig is 3"),
        ({"train": config["train"] | {"stpes": 3}}, r"run/config.json: TrainConfig has no field stpes"),
        ({"train": config["train"] | {"steps": 1.5}}, r"run/config.json: TrainConfig.steps is 1.5"),
        ({}, r"run/config.json is not this program's"),
    ):
        (other / "config.json").write_text(json.dumps(values))
        refused("train", "--resume", other, said=said)


def test_names_of_runs(tmp_path, monkeypatch, tiny, run):
    """A free one, or that of the same run; not that of another."""
    monkeypatch.chdir(tmp_path)
    other = dataclasses.replace(tiny, seed=1)
    assert train_module.default_out("demo", tiny) == Path("runs/demo")
    shutil.copytree(run, "runs/demo")
    assert train_module.default_out("somewhere/demo.py", tiny) == Path("runs/demo")
    assert train_module.default_out("demo", dataclasses.replace(tiny, mesh="data=2")) == Path("runs/demo")
    assert train_module.default_out("demo", other) == Path("runs/demo-2")


def test_other_devices_go_on_with_a_run(ahmf, run, tmp_path, data_dir):
    """1 -> 4 x 2 with FSDP."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints" / "6")
    ended = ahmf("train", "--resume", out, "--mesh", "data=4,spatial=2", "--fsdp", "True", "--data-dir", data_dir)
    assert ended.code == 0, ended.err
    assert "8 x cpu (data=4, spatial=2, FSDP)" in ended.out and "steps 4 to 6" in ended.out
    wanted, found = checkpoint.read_params(run, 6)[0], checkpoint.read_params(out, 6)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), wanted, found)


@pytest.mark.parametrize("given", ["5", "0:3", "9:3", "a:b"])
def test_a_profile_of_no_steps(refused, recipe, given):
    refused("train", recipe, "--profile", given, said=rf"--profile {given}: write the first and the last step")


def test_a_trace_goes_into_the_runs_folder(monkeypatch, ahmf, recipe, tmp_path, data_dir):
    asked = []
    fit = train.fit
    monkeypatch.setattr(
        train, "fit", lambda *args, **options: asked.append(options.pop("profile")) or fit(*args, **options)
    )
    args = ("train", recipe, "--steps", 1, "--profile", "2:3", "--out", tmp_path / "run", "--data-dir", data_dir)
    assert ahmf(*args).code == 0
    assert asked == [(2, 3, tmp_path / "run" / "profile")]


def test_a_first_step_that_takes_long_is_explained(monkeypatch, capsys):
    timers = []

    class Timer(threading.Timer):
        """One that goes off when the test says so."""

        def __init__(self, seconds, tell):
            super().__init__(seconds, tell)
            assert seconds == train_module.PATIENCE
            timers.append(self)

    monkeypatch.setattr(threading, "Timer", Timer)
    for done in (0, 1):
        progress = SimpleNamespace(step=4)
        with train_module.first_step_explained(progress):
            progress.step += done
            timers[-1].function()
        assert timers[-1].finished.is_set(), "it goes off no more after the run"
        said = "step 5 waits for its program to be compiled, which may take minutes, and for its batch\n"
        assert capsys.readouterr().err == ("" if done else said)


def test_a_data_set_that_is_not_prepared_is_prepared_as_its_recipe_says(refused, tmp_path):
    said = r"data set 'middlebury_depth' is not in .*: build it first \(`ahmf data prepare middlebury --quantity depth "
    refused("train", "dada_middlebury_x8", "--data-dir", tmp_path, "--out", tmp_path / "x", said=said)
    refused("train", "dada_nyu_v2_x8", "--data-dir", tmp_path, "--out", tmp_path / "x", said="ahmf data prepare nyu_v2")
    (tmp_path / "middlebury_depth").mkdir()
    for data, named in ((DataConfig("scenes", mix=("middlebury_depth:train",)), True), (DataConfig("other"), False)):
        with pytest.raises(InputError, match="--size full --name middlebury_depth`") if named else nullcontext():
            train_module.check_prepared(data, tmp_path)


def test_the_bar_counts_no_steps_that_an_ended_run_left_undone(capsys):
    """Also where no other was open as it ended; a run alone that is stopped shows what it has left."""
    from experiments.train import Bar

    with Bar() as bar, bar.of(0, 10) as show:
        show(4, "")
    assert "4/10" in capsys.readouterr().err
    with Bar() as bar:
        with bar.of(0, 10) as show:
            show(4, "")
        with bar.of(0, 10) as show:
            show(10, "")
    assert "14/14" in capsys.readouterr().err
