"""Spaces: what is refused and why, and that what is drawn lies in the ranges and obeys the conditions."""

import json
import re

import jaxtyping
import optuna
import pytest

from ahmf_jax.errors import InputError
from experiments import config as configs
from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig
from experiments.studies import space as spaces
from experiments.studies.space import All, Between, Choose, Pruning, Space
from experiments.studies.study import with_fields

BASE = TrainConfig(data=DataConfig(patch_size=64, batch_size=8), steps=100, validate_every=50)
RATE = {"optimiser.learning_rate": Between(1e-4, 1e-1, log=True)}
ALL = {
    "optimiser.peak_at": Between(0.05, 0.5),
    "optimiser.warmup": Between(0.0, 0.3),
    "optimiser.final_fraction": Between(0, 1),
    "optimiser.halve_at": Between(0.4, 0.9, step=0.1),
    "optimiser.weight_decay": Between(1e-5, 1e-1, log=True),
    "optimiser.schedule": All(),
    "optimiser.name": Choose("adam", "adamw", "muon"),
    "optimiser.learning_rate": Between(1e-4, 1e-1, log=True),
    "model.features": Between(8, 32, step=8),
    "model.num_levels": Choose(1, 2, 4),
    "model.unroll": Choose("auto", 1),
    "model.swapped": Choose((), ("order",), ("squeeze", "order")),
    "data.mix": Choose((), ("scenes",)),
    "data.degrade.noise_of": All(),
    "data.degrade.noise_sigma": Between(0.0, 0.04, step=0.02),
    "data.batch_size": Between(4, 64, log=True),
    "data.pairs.invalid": Choose(None, 0.0),
    "fsdp": All(),
    "seed": Choose(0, 1, 2),
    "edge_weight": Between(0, 1),
}
WHEN = {"edge_weight": {"model.num_levels": (2, 4), "fsdp": (False,)}, "model.unroll": {"model.recurrence": ("both",)}}


@pytest.fixture(autouse=True)
def quicker(monkeypatch):
    monkeypatch.setattr(spaces, "TRIES", 100)


def space(fields=None, **more):
    return Space(**{"config": BASE, "fields": fields or RATE, **more})


def drawn(made, count):
    """What Optuna's own sampler draws from a space, and the trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        fields = made.draw(trial)
        yield fields, trial
        study.tell(trial, 0.0)


def test_draws_lie_in_their_ranges_and_obey_the_conditions():
    made = space(ALL, when=WHEN)
    seen = {name: set() for name in ALL}
    for fields, trial in drawn(made, 300):
        config = with_fields(made.base, json.loads(json.dumps(fields)))  # every one is a configuration
        assert set(fields) == set(trial.params)
        for name, value in fields.items():
            seen[name].add(value)
            inner = config
            for part in name.split("."):
                inner = getattr(inner, part)
            assert inner == value and type(inner) is type(value)
        optimiser = config.optimiser
        assert ("optimiser.peak_at" in fields) == (optimiser.schedule == "onecycle")
        assert ("optimiser.warmup" in fields) == (optimiser.schedule != "onecycle")
        assert ("optimiser.final_fraction" in fields) == (optimiser.schedule == "cosine")
        assert ("optimiser.halve_at" in fields) == (optimiser.schedule == "step")
        assert ("optimiser.weight_decay" in fields) == (optimiser.name != "adam")
        assert ("data.degrade.noise_of" in fields) == (config.data.degrade.noise_sigma > 0)
        assert ("edge_weight" in fields) == (config.model.num_levels > 1 and not config.fsdp)
        assert set(ALL) - set(fields) <= {
            *(f"optimiser.{name}" for name in ("peak_at", "warmup", "final_fraction", "halve_at", "weight_decay")),
            "data.degrade.noise_of",
            "edge_weight",
        }
    assert seen["model.features"] == {8, 16, 24, 32}
    assert {round(value, 9) for value in seen["optimiser.halve_at"]} == {0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    for name in ("optimiser.schedule", "model.unroll", "model.swapped", "data.mix", "data.pairs.invalid", "fsdp"):
        of = made.fields[name]
        assert seen[name] == set(of.values)
    for name in ("optimiser.learning_rate", "optimiser.peak_at", "data.batch_size", "edge_weight"):
        of, values = made.fields[name], seen[name]
        assert of.low <= min(values) and max(values) <= of.high
    rates = sorted(seen["optimiser.learning_rate"])
    assert 1e-3 < rates[len(rates) // 2] < 1e-2  # half of them below: evenly over the logarithm


def test_what_has_no_say_but_must_be_left_alone_is_put_back():
    base = TrainConfig(optimiser=OptimiserConfig(schedule="cosine", warmup=0.1))
    made = Space(config=base, fields={"optimiser.schedule": All(), "optimiser.warmup": Between(0.01, 0.2)})
    found = {fields["optimiser.schedule"]: fields["optimiser.warmup"] for fields, _ in drawn(made, 40)}
    assert found["onecycle"] == 0 and found["cosine"] >= 0.01
    # Without it among the fields it would stay, and onecycle refuses it.
    with pytest.raises(
        InputError, match=r"optimiser.schedule can never be 'onecycle': OptimiserConfig.warmup is 0.1, bu"
    ):
        Space(config=base, fields={"optimiser.schedule": All()})


def test_conditions_come_first_whatever_the_order():
    fields = list(next(drawn(space({"optimiser.warmup": Between(0, 0.1), "optimiser.schedule": All()}), 1))[0])
    assert fields[0] == "optimiser.schedule"
    chain = {"a": "edge_weight", "b": "loss", "c": "scaling"}
    made = space(
        {chain["a"]: Between(0, 1), chain["b"]: All(), chain["c"]: All()},
        when={"edge_weight": {"loss": ("mse",)}, "loss": {"scaling": ("sample",)}},
    )
    for fields, _ in drawn(made, 60):
        assert ("loss" in fields) == (fields["scaling"] == "sample")
        assert ("edge_weight" in fields) == (fields.get("loss") == "mse")


def test_a_space_survives_json():
    made = space(ALL, when=WHEN, random=4, pruning=Pruning(trials=3, steps=10))
    stored = json.loads(json.dumps(made.to_json()))
    again = spaces.from_json(made.base, made.objectives, stored)
    assert again.to_json() == stored and again.pruning == Pruning(3, 10) and again.random == 4
    assert [fields for fields, _ in drawn(again, 5)] == [fields for fields, _ in drawn(made, 5)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"learning_rate": Between(1e-4, 1e-2)}, "^learning_rate is no field .*: did you mean optimiser.learning_rate"),
        ({"optimiser.lerning_rate": Between(1e-4, 1e-2)}, ": did you mean optimiser.learning_rate"),
        ({"model.levels": Choose(1, 2)}, "model.levels is no field of a configuration: did you mean model.num_levels"),
        ({"optimiser": Choose(1, 2)}, "optimiser is no field .*: name one inside it, as optimiser.name, "),
        ({"xyzzy": All()}, "xyzzy is no field of a configuration: see `ahmf train CONFIG --help`"),
        ({"steps": (1, 2)}, r"steps: \(1, 2\) is no way to draw: write Between"),
        ({"optimiser.clip": Between(1, 1)}, r"optimiser.clip: Between\(1, 1\) is empty but for one value"),
        ({"optimiser.clip": Between(2, 1)}, r"optimiser.clip: Between\(2, 1\) is reversed"),
        ({"optimiser.clip": Between(0, 1, log=True)}, "starts at or below 0, where there is no logarithm"),
        ({"optimiser.clip": Between(1, 2, log=True, step=1)}, "has log=True and a step: give one"),
        ({"optimiser.clip": Between(0, 1, step=0.3)}, "cannot be gone through in steps of 0.3: the last must end at 1"),
        ({"optimiser.clip": Between(0, 1, step=2)}, "cannot be gone through in steps of 2"),
        ({"optimiser.clip": Between(0, 1, step=-0.5)}, "cannot be gone through in steps of -0.5"),
        ({"optimiser.clip": Between(-1, 1)}, r"optimiser.clip: Between\(-1, 1\) has -1: it must not be negative"),
        ({"optimiser.peak_at": Between(0.5, 1)}, "has 1: it must be above 0 and below 1"),
        ({"optimiser.clip": Between("a", 1)}, "has 'a', which is no number"),
        ({"optimiser.clip": Between(True, 2)}, "has True, which is no number"),
        ({"optimiser.clip": Between(0, float("nan"))}, "has nan, which is no number"),
        ({"steps": Between(10, 20.0)}, "has 20.0, which is no whole number"),
        ({"steps": Between(10, 20, step=2.5)}, "has 2.5, which is no whole number"),
        ({"model.features": Between(8, 32)}, "has 9: it must be at least 2 and a multiple of 2"),
        ({"model.features": Between(8, 32, log=True)}, "has 9: it must be at least 2 and a multiple of 2"),
        ({"loss": Between(0, 1)}, r"loss: Between\(0, 1\) is for numbers: write Choose"),
        ({"loss": Choose("l1", "l2")}, r"has 'l2': choose one of l1, mse, charbonnier"),
        ({"loss": Choose("l1")}, "leaves nothing to choose"),
        ({"loss": Choose()}, "leaves nothing to choose"),
        ({"loss": Choose("l1", "mse", "l1")}, "has 'l1' more than once"),
        ({"steps": Choose(10, "20")}, "has '20': it must be a whole number"),
        ({"steps": Choose(10, 0)}, "has 0: it must be positive"),
        ({"data.mix": Choose((), "scenes")}, "has 'scenes': it must be a tuple of text"),
        ({"steps": All()}, r"steps: All\(\) is for fields whose values are few"),
        ({"model.unroll": All()}, r"All\(\) is for fields whose values are few"),
        ({"optimiser.name": All()}, r"All\(\) is for fields whose values are few"),
        # Fields that do not go together.
        (
            {"optimiser.peak_at": Between(0.1, 0.5)},
            "never has a say: it has where optimiser.schedule is onecycle, and h",
        ),
        (
            {"data.degrade.noise_of": All()},
            "noise_of never has a say: it has where data.degrade.noise_sigma is not 0.0",
        ),
        (
            {"data.patch_size": Choose(63, 65)},
            "^no draw is a configuration: DataConfig.patch_size is 6[35]: it must be a",
        ),
        ({"data.patch_size": Choose(64, 65)}, "data.patch_size can never be 65: DataConfig.patch_size is 65"),
        (
            {"data.patch_size": Between(64, 128)},
            "[67].% of the draws are no configuration, most often for this: DataConfig",
        ),
        (
            {"optimiser.name": Choose("adam", "adm")},
            "optimiser.name can never be 'adm': OptimiserConfig.name is 'adm': c",
        ),
        (
            {"optimiser.options": Choose((), ("b3=1",))},
            "can never be .'b3=1',.: OptimiserConfig.options has b3: adam has",
        ),
        (
            {"model.swapped": Choose((), ("oder",))},
            "model.swapped can never be .'oder',.: AHMFConfig.swapped has 'oder'",
        ),
    ],
)
def test_what_is_wrong_with_a_field_is_said(fields, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=said) as caught:
        space(fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"fields": {}}, "fields is empty: name what is to be searched"),
        ({"fields": ["loss"]}, r"fields is \['loss'\]: write a dictionary, as"),
        ({"when": ["loss"]}, r"when is \['loss'\]: write a dictionary, as"),
        ({"config": "dmo"}, "there is no configuration 'dmo'"),
        ({"config": None}, "config is None: give a TrainConfig"),
        ({"trials": 0}, "trials is 0: give a whole number from 1"),
        ({"random": 2.5}, "random is 2.5"),
        ({"objectives": "mae"}, r"objectives is 'mae': give a tuple, as \('mae',\)"),
        ({"objectives": ()}, r"objectives is \(\): give a tuple"),
        ({"objectives": ("mae", "psnr")}, "objectives has 'psnr': choose among mae, rmse, time, memory"),
        ({"objectives": ("mae", "mae")}, "objectives has 'mae' more than once"),
        (
            {"objectives": ("mae", "time"), "pruning": Pruning()},
            "pruning compares the MAE .* objectives are mae, time: l",
        ),
        ({"objectives": ("rmse",), "pruning": Pruning()}, "objectives are rmse: leave pruning out"),
        ({"pruning": True}, r"pruning is True: give Pruning"),
        ({"pruning": Pruning(trials=0)}, "pruning has trials=0: give a whole number from 1"),
        ({"pruning": Pruning(steps=-1)}, "pruning has steps=-1: give a whole number from 0"),
        ({"pruning": Pruning(steps=100)}, "pruning has steps=100: give less than the configuration's 100"),
        (
            {"config": TrainConfig(steps=10), "pruning": Pruning()},
            "the only one is after the last step: set validate_ev",
        ),
        ({"when": {"optimiser.clip": {"loss": ("l1",)}}}, "when names optimiser.clip, .* not among the fields: add it"),
        (
            {"when": {"optimiser.learning_rates": {"loss": ("l1",)}}},
            "not among the fields: did you mean optimiser.learni",
        ),
        ({"when": {"optimiser.learning_rate": ("l1",)}}, r"when optimiser.learning_rate: \('l1',\) is no condition"),
        ({"when": {"optimiser.learning_rate": {"los": ("l1",)}}}, "los is no field .*: did you mean loss"),
        ({"when": {"optimiser.learning_rate": {"loss": "l1"}}}, "loss is given 'l1': give a tuple of values"),
        (
            {"when": {"optimiser.learning_rate": {"loss": ("l2",)}}},
            "when optimiser.learning_rate: loss: has 'l2': choose",
        ),
        (
            {"when": {"optimiser.learning_rate": {"loss": ("mse",)}}},
            "never has a say: it has where loss is mse, and here",
        ),
    ],
)
def test_what_is_wrong_with_a_space_is_said(more, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=said) as caught:
        space(**{"fields": RATE, **more}) if "fields" not in more else Space(config=BASE, **more)
    assert "\n" not in str(caught.value)


def test_conditions_on_what_is_searched():
    fields = {**RATE, "loss": Choose("l1", "mse"), "scaling": All()}
    with pytest.raises(InputError, match=r"loss is never 'charbonnier': Choose\('l1', 'mse'\) has no such value"):
        space(fields, when={"scaling": {"loss": ("charbonnier",)}})
    with pytest.raises(InputError, match="when: loss and scaling wait for each other: leave a condition out"):
        space(fields, when={"scaling": {"loss": ("l1",)}, "loss": {"scaling": ("range",)}})
    with pytest.raises(InputError, match="learning_rate is any number of a range, hardly ever one of some: choose"):
        space(fields, when={"loss": {"optimiser.learning_rate": (1e-3,)}})


def test_pruning_is_the_default_where_it_can_be():
    assert space().pruning == Pruning(trials=5, steps=0)
    assert space(pruning=None).pruning is None
    assert space(objectives=("mae", "time")).pruning is None
    assert space(objectives=("rmse",)).pruning is None
    assert Space(config=TrainConfig(steps=10), fields=RATE).pruning is None  # there is one validation, the last


def test_spaces_that_are_known_by_name_load():
    assert "learning_rate" in spaces.names()
    for name in spaces.names():
        assert spaces.load(name).trials >= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "space.py does not assign a Space to `space`"),
        ("space = (", "space.py, line 2: '.' was never closed: mend the file"),
        ("space = Space(config='demo', feilds={})", "space.py, line 2: TypeError: .*'feilds'"),
        ("space = Space(config='demo', fields={'loss': Between(1)})", "space.py, line 2: TypeError: .*'high'"),
        ("space = Space(config='demo', fields={'los': All()})", "space.py: los is no field .*did you mean loss"),
        ("import nowhere_at_all", "space.py, line 2: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_a_file_that_is_no_space(tmp_path, text, said):
    file = tmp_path / "space.py"
    file.write_text(f"from experiments.studies.space import All, Between, Choose, Space\n{text}\n")
    with pytest.raises(InputError, match=said) as caught:
        spaces.load(str(file))
    assert "\n" not in str(caught.value)
    with pytest.raises(
        InputError, match=re.escape("there is no space 'nope': give a Python file or one of learning_rate")
    ):
        spaces.load("nope")


@pytest.mark.parametrize(
    "change", [{"fields": 3}, {"fields": {"loss": {"chose": []}}}, {"pruning": {"x": 1}}, {"when": 1}]
)
def test_a_stored_space_that_is_none(change):
    stored = space().to_json() | change
    with pytest.raises(InputError, match="the stored space is not this program's"):
        spaces.from_json(BASE, ("mae",), stored)


def test_a_failure_of_ours_in_a_users_file_is_not_called_theirs(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("ours")

    monkeypatch.setattr(AHMFConfig, "__post_init__", broken)
    file = tmp_path / "mine.py"
    file.write_text("from experiments.config import AHMFConfig\nconfig = AHMFConfig()\n")
    with pytest.raises(RuntimeError, match="ours"):
        configs.load(str(file))
