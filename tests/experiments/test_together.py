"""Runs that are trained together: each is the run that it would be alone, and its folder that of `ahmf train`."""

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest

from ahmf_jax import checkpoint
from ahmf_jax.errors import InputError
from ahmf_jax.locks import lock_run
from ahmf_jax.stopping import Stop
from data_pipelines.degrade import Degradation
from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, Stopped, TrainConfig
from experiments.together import RATES, Item, program, train_together
from experiments.train import resume, standing, train, untold
from tests.kill_resume import CLOCK

BASE = TrainConfig(
    model=AHMFConfig(scale=4, num_levels=1, features=2, fusion="concat", recurrence="none"),
    data=DataConfig(dataset="scenes", patch_size=16, batch_size=2),
    optimiser=OptimiserConfig(learning_rate=1e-3),
    steps=20,
    scaling="sample",
    output_scale=0.1,
    log_every=4,
    checkpoint_every=1000,
    validate_every=1000,
    samples=0,
    mesh="data=1",
)


def differing(base):
    """Three configurations of one program that have as little else in common as can be."""
    rates = [
        {"learning_rate": 1e-3},
        {"learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.2},
        {"learning_rate": 2e-3, "schedule": "onecycle"},
    ]
    data = [
        {},
        {"degrade": Degradation(noise_sigma=0.02), "edge_candidates": 4},
        {"train": "train+test", "degrade": Degradation(dropouts=0.1, guide_shift=2)},
    ]
    return [
        dataclasses.replace(
            base,
            seed=number,
            edge_weight=0.5 * number,
            output_scale=0.1 + 0.1 * number,
            data=dataclasses.replace(base.data, **data[number]),
            optimiser=dataclasses.replace(base.optimiser, **rates[number]),
        )
        for number in range(3)
    ]


def together(items, data_dir, ended=None, **options):
    """Trains them, and returns how each ended, by folder; `ended` is filled where the call raises, too."""
    ended = {} if ended is None else ended

    def finished(item, error):
        assert item.out not in ended
        ended[item.out] = error

    train_together(items, data_dir=data_dir, finished=finished, **options)
    return ended


def logged(run):
    """The log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lines(run):
    """The log without the clock."""
    return [{name: value for name, value in line.items() if name not in CLOCK | {"lanes"}} for line in logged(run)]


def assert_same(run, other, step, tolerance):
    """Parameters, relative to the larger of 1 and their size; and the log."""
    ours, theirs = (checkpoint.read_params(path, step)[0] for path in (run, other))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.max(np.abs(a - b) / np.maximum(1, np.abs(b))) <= tolerance
    for a, b in zip(lines(run), lines(other), strict=True):
        # The gradient of |x - y| jumps where they are equal, so rounding shows in its norm.
        norms = [line.pop("grad_norm", 0.0) for line in (a, b)]
        assert a == pytest.approx(b, rel=1e-4) and norms[0] == pytest.approx(norms[1], rel=1e-2)


def assert_same_parameters(run, other):
    """After 20 steps."""
    ours, theirs = (checkpoint.read_params(path, 20)[0] for path in (run, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """The three runs, one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    return [train(config, folder / str(n), data_dir=data_dir) for n, config in enumerate(differing(BASE))]


def test_runs_at_once_are_the_runs_alone(alone, tmp_path, data_dir, capsys):
    """Two on as many devices, and one that follows; 1e-5 after 20 steps. Each is read and told of like any other."""
    configs = differing(BASE)
    assert len({program(config) for config in configs}) == 1
    items = [Item(config, tmp_path / f"run{n}") for n, config in enumerate(configs)]
    more = iter(items[2:])
    capsys.readouterr()
    assert together(items[:2], data_dir, next_item=lambda: next(more, None)) == dict.fromkeys(i.out for i in items)
    said = capsys.readouterr()
    for number, (item, expected) in enumerate(zip(items, alone, strict=True)):
        assert_same(item.out, expected, 20, 1e-5)
        assert [p.name for p in sorted(item.out.iterdir())] == [p.name for p in sorted(expected.iterdir())]
        assert standing(item.config, item.out) == "done"
        assert said.err.count(f"run{number}: step 20: validation MAE ") == 1
        assert f"run{number}: x4, m = 1, 358 parameters" in said.out and "a lane of 2 x " in said.out
        assert all(1 <= line["lanes"] <= 2 for line in logged(item.out) if "loss" in line)
        assert not any("lanes" in line for line in logged(expected))
    assert "60/60" in said.err and "20/20" not in said.err  # one bar
    assert together(items, data_dir) == dict.fromkeys(item.out for item in items)
    assert capsys.readouterr().out.count("is done: all of its 20 steps are trained") == 3


def test_the_runs_differ(alone):
    """Or those that are confused would not be seen."""
    kernels = [jax.tree.leaves(checkpoint.read_params(run, 20)[0])[1].ravel()[0] for run in alone]
    assert np.min(np.abs(np.subtract.outer(kernels, kernels)) + np.eye(3)) > 1e-3


def test_the_whole_network_with_all_that_may_be_on(tmp_path, data_dir):
    """Blocks and recurrence, two lanes on one device: options of the optimiser, clipping, weight decay, averages.

    The other direction and more levels repeat what is here, and take twice as long to compile.
    """
    base = dataclasses.replace(
        BASE,
        model=AHMFConfig(scale=2, num_levels=1, features=2, recurrence="forward"),
        optimiser=OptimiserConfig(name="adamw", options=("b2=0.9999",), clip=1.0, weight_decay=0.01),
        ema=0.9,
        steps=3,
    )
    optimiser = dataclasses.replace(base.optimiser, weight_decay=0.1, clip=0.1, schedule="cosine", learning_rate=2e-3)
    other = dataclasses.replace(base, seed=1, ema=0.99, edge_weight=1.0, optimiser=optimiser)
    items = [Item(base, tmp_path / "a"), Item(other, tmp_path / "b")]
    assert together(items, data_dir, devices=jax.devices()[:1]) == {tmp_path / "a": None, tmp_path / "b": None}
    assert_same(tmp_path / "b", train(other, tmp_path / "alone", data_dir=data_dir), 3, 1e-5)


class Pruned(Exception):
    """What ends a trial."""


def test_a_run_that_is_ended_is_followed_by_the_next_and_may_be_gone_on_with(alone, tmp_path, data_dir):
    """By `ahmf train`, which is told the rest of the validations alone."""
    configs = [dataclasses.replace(config, validate_every=8) for config in differing(BASE)]
    told, pruned = [], Pruned("not promising")

    def on_validation(step, means):
        told.append((step, set(means)))
        if step == 8:
            raise pruned

    items = [Item(configs[0], tmp_path / "0"), Item(configs[1], tmp_path / "1", on_validation)]
    more = [Item(configs[2], tmp_path / "2"), None, None]
    ended = together(items, data_dir, next_item=lambda: more.pop(0))
    assert next(iter(ended.items())) == (tmp_path / "1", pruned)
    assert ended == {tmp_path / "1": pruned, tmp_path / "0": None, tmp_path / "2": None}
    assert len(more) == 0, "it is asked for each lane that is free when a run has ended, until there is none"
    assert standing(configs[1], tmp_path / "1") == "unfinished" and checkpoint.latest_step(tmp_path / "1") == 8
    resume(tmp_path / "1", data_dir=data_dir)
    train(configs[1], tmp_path / "1", data_dir=data_dir, on_validation=on_validation)
    assert told == [(8, {"mae", "rmse", "floor_mae", "floor_rmse"})]
    for number, expected in enumerate(alone):
        assert_same_parameters(tmp_path / str(number), expected)


def test_a_signal_saves_all_and_they_go_on_together(alone, tmp_path, data_dir):
    configs = [dataclasses.replace(config, checkpoint_every=12) for config in differing(BASE)[:2]]
    items = [Item(config, tmp_path / str(n)) for n, config in enumerate(configs)]
    handler, stop, ended = signal.getsignal(signal.SIGTERM), Stop(), {}

    def interrupt(step, means):
        signal.raise_signal(signal.SIGTERM)

    first = Item(dataclasses.replace(configs[0], validate_every=8), items[0].out, interrupt)
    with pytest.raises(Stopped, match="all that were in training are saved"):
        together([first, items[1]], data_dir, ended)
    assert not ended and signal.getsignal(signal.SIGTERM) is handler
    assert [checkpoint.latest_step(item.out) for item in items] == [8, 8]
    stop.hear()
    with pytest.raises(Stopped):
        together(items, data_dir, ended, stop=stop)
    assert not ended
    assert together([first._replace(on_validation=untold), items[1]], data_dir) == {i.out: None for i in items}
    for item, expected in zip(items, alone, strict=False):
        assert_same_parameters(item.out, expected)
        assert [line["step"] for line in lines(item.out) if "loss" in line] == [4, 8, 12, 16, 20]


class Own(Stop):
    """Of one run: no process hears of it."""

    lost = False

    @property
    def requested(self):
        return self.lost


def test_a_run_with_a_stop_of_its_own(tmp_path, data_dir):
    """It is saved, told of as one that was stopped, and another has its lane."""
    stop = Own()

    def lose(step, means):
        stop.lost = True

    config = dataclasses.replace(BASE, steps=4)
    stopped = dataclasses.replace(config, validate_every=2)
    items = [Item(stopped, tmp_path / "a", lose, stop), Item(config, tmp_path / "b")]
    more = iter([Item(config, tmp_path / "c")])
    ended = together(items, data_dir, next_item=lambda: next(more, None))
    assert isinstance(ended.pop(tmp_path / "a"), Stopped) and checkpoint.latest_step(tmp_path / "a") == 2
    assert ended == {tmp_path / "b": None, tmp_path / "c": None}


def test_what_cannot_be_trained_does_not_disturb_the_others(tmp_path, data_dir):
    """A lack of data, another's folder, another program, a folder in use: each is told of, in one line."""
    config = dataclasses.replace(BASE, steps=4)
    lacking = dataclasses.replace(config, data=dataclasses.replace(config.data, train="nothing"))
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, features=4))
    train(dataclasses.replace(config, steps=1), tmp_path / "taken", data_dir=data_dir)
    (tmp_path / "used").mkdir()
    items = [Item(config, tmp_path / "good"), Item(lacking, tmp_path / "lacking")]
    more = iter(
        [
            Item(config, tmp_path / "taken"),
            Item(config, tmp_path / "used"),
            Item(wider, tmp_path / "wider"),
            Item(dataclasses.replace(config, seed=1), tmp_path / "last"),
        ]
    )
    with lock_run(tmp_path / "used"):
        ended = together(items, data_dir, next_item=lambda: next(more, None))
    assert ended.pop(tmp_path / "good") is None and ended.pop(tmp_path / "last") is None
    assert all(isinstance(error, InputError) and "\n" not in str(error) for error in ended.values())
    said = {out.name: str(error) for out, error in ended.items()}
    assert said.keys() == {"lacking", "taken", "used", "wider"}
    assert "no split 'nothing'" in said["lacking"] and "holds another run" in said["taken"]
    assert "is in use by another run" in said["used"] and "its program is not that of" in said["wider"]
    assert not any((tmp_path / name).exists() for name in ("lacking", "wider"))


@pytest.mark.parametrize("steps", [2, 4])
def test_a_failure_of_the_caller_comes_out_when_all_are_saved(tmp_path, data_dir, capsys, steps):
    """And the folders are given back; what fails beside it is told of."""
    told = []

    def finished(item, error):
        told.append(item.out.name)
        raise OSError(f"storage {len(told)} is gone")

    config = dataclasses.replace(BASE, steps=2)
    items = [Item(config, tmp_path / "a"), Item(dataclasses.replace(config, steps=steps), tmp_path / "b")]
    with pytest.raises(OSError, match="storage 1 is gone"):
        train_together(items, data_dir=data_dir, finished=finished)
    with lock_run(tmp_path / "b"):
        assert checkpoint.latest_step(tmp_path / "b") == 2
    beside = steps == 2  # they end with the same step
    assert told == ["a", "b"][: 1 + beside]
    assert (f"warning: {tmp_path / 'b'}: OSError: storage 2 is gone" in capsys.readouterr().err) == beside


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_more_runs_than_the_memory_holds(tmp_path, data_dir, monkeypatch, error):
    def compile_step(self, batch):
        raise error

    monkeypatch.setattr("ahmf_jax.together.Lanes.compile", compile_step)
    items, ended = [Item(BASE, tmp_path / name) for name in "ab"], {}
    with pytest.raises(InputError, match=r"^2 runs of this network do not fit the memory of 2 x .*smaller --together$"):
        together(items, data_dir, ended)
    assert not ended and not list(tmp_path.iterdir()), "they have not begun"


def changed(path, value):
    """BASE with another value in that place."""
    config = BASE
    *parents, name = path.split(".")
    part = {name: value}
    for parent in reversed(parents):
        part = {parent: dataclasses.replace(getattr(config, parent), **part)}
    return dataclasses.replace(config, **part)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimiser.learning_rate", 1.0),
        ("optimiser.schedule", "onecycle"),
        ("steps", RATES),
        ("seed", 5),
        ("edge_weight", 0.5),
        ("output_scale", 1.0),
        ("start_from", "somewhere"),
        ("data.dataset", "middlebury"),
        ("data.degrade", Degradation(noise_sigma=0.1)),
        ("on_nonfinite", "skip"),
        ("log_every", 3),
        ("mesh", "auto"),
    ],
)
def test_what_may_be_different(path, value):
    assert program(changed(path, value)) == program(BASE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.features", 4),
        ("data.patch_size", 32),
        ("data.batch_size", 8),
        ("optimiser.name", "adamw"),
        ("optimiser.options", ("b1=0.8",)),
        ("optimiser.options", ("nesterov=true",)),
        ("optimiser.clip", 1.0),
        ("loss", "mse"),
        ("scaling", "range"),
        ("accumulate", 2),
        ("ema", 0.9),
        ("steps", RATES + 1),
    ],
)
def test_what_must_be_the_same(path, value):
    assert program(changed(path, value)) != program(BASE)


def test_numbers_of_the_optimiser_that_may_be_different():
    def of(*options, **fields):
        return program(changed("optimiser", OptimiserConfig(name="adamw", options=options, **fields)))

    assert of("b1=0.8", clip=1.0) == of("b1=0.8", clip=2.0, weight_decay=0.1)
    assert of("b1=0.8") != of("b1=0.9") and of("b1=0.8") != of("b2=0.8")


@pytest.mark.parametrize("fields", [{"name": "adamm"}, {"options": ("b3=1",)}])
def test_an_optimiser_that_there_is_not(fields):
    with pytest.raises(InputError, match=r"OptimiserConfig\.(name is 'adamm'|options has b3)"):
        program(changed("optimiser", OptimiserConfig(**fields)))


def test_no_runs_at_all(data_dir):
    assert together([], data_dir) == {}
