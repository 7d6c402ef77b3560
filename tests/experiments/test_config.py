"""Recipes: what may be said in them, what they become as JSON, and the learning rates that come of them."""

import dataclasses
import json
import typing

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.degrade import Degradation
from experiments import config as configs
from experiments.config import DataConfig, ModelConfig, OptimiserConfig, PairsConfig, Part, TrainConfig


def through_json(config):
    return configs.from_json(json.loads(json.dumps(configs.to_json(config))))


@pytest.mark.parametrize("name", configs.names())
def test_every_recipe_loads_builds_and_survives_json(name):
    config = configs.load(name)
    assert through_json(config) == config
    model = config.model.build()
    assert (model.scale, model.num_levels, model.features) == (
        config.model.scale,
        config.model.num_levels,
        config.model.features,
    )
    config.optimiser.build(config.steps)


def test_the_recipes_that_others_name_are_there():
    assert {"demo", "ahmf_paper_x4", "ahmf_short_x4", "ahmf_short_x8", "ahmf_short_x16"} <= set(configs.names())
    paper = configs.load("ahmf_paper_x4")
    assert (paper.data.batch_size, paper.data.patch_size, paper.loss, paper.optimiser.name) == (16, 256, "l1", "adam")


def test_what_json_cannot_tell_apart_comes_back():
    config = TrainConfig(
        model=ModelConfig(unroll=2),
        data=DataConfig(
            pairs=PairsConfig(names=("b", "a"), invalid=0.0), degrade=Degradation("area", dropouts=0.5), mix=("scenes",)
        ),
        optimiser=OptimiserConfig(clip=1.0),
    )
    again = through_json(config)
    assert again == config and type(again.data.pairs.names) is type(again.data.mix) is tuple
    assert type(again.optimiser.clip) is float
    assert configs.from_json({"output_scale": 1}).output_scale == 1.0  # as a person would write it


def test_what_is_trained_on():
    mix = ("nyu_v2", "middlebury:dada/train", "scenes:train[:10]=0.5", "my/folder=3")
    assert DataConfig(dataset="dtu", train="train+test", mix=mix).training() == [
        Part("dtu", "train+test", 1.0),
        Part("nyu_v2", "train", 1.0),
        Part("middlebury", "dada/train", 1.0),
        Part("scenes", "train[:10]", 0.5),
        Part("my/folder", "train", 3.0),
    ]


def test_a_recipe_on_another_data_set():
    config = configs.on_dataset(configs.load("ahmf_short_x4"), "mine")
    assert config.data.training() == [Part("mine", "train", 1.0)] and config.data.validation == "validation"
    again = configs.on_dataset(config, "middlebury")
    assert dataclasses.replace(again.data, train="train+train_2003") == configs.load("ahmf_short_x4").data


def test_a_recipe_is_a_python_file_too(tmp_path):
    (tmp_path / "mine.py").write_text("from experiments.config import TrainConfig\nconfig = TrainConfig(steps=3)\n")
    assert configs.load(str(tmp_path / "mine.py")) == TrainConfig(steps=3)
    (tmp_path / "none.py").write_text("steps = 3\n")
    with pytest.raises(InputError, match=r"none.py does not assign a TrainConfig to `config`"):
        configs.load(str(tmp_path / "none.py"))
    with pytest.raises(InputError, match=r"no configuration 'ahmf_short_x5'.*ahmf_short_x4"):
        configs.load("ahmf_short_x5")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"step": 3}, "TrainConfig has no field step"),
        ({"model": {"levels": 3}}, "ModelConfig has no field levels"),
        ({"model": 3}, "ModelConfig is 3"),
        ([], r"TrainConfig is \[\]"),
        ({"steps": "3"}, "TrainConfig.steps is '3': it must be"),
        ({"steps": True}, "TrainConfig.steps is True"),
        ({"steps": 0}, "TrainConfig.steps is 0: it must be positive"),
        ({"model": {"scale": 3}}, "ModelConfig.scale is 3: choose one of 2, 4, 8, 16, 32"),
        ({"model": {"num_levels": 0}}, "ModelConfig.num_levels is 0"),
        ({"model": {"unroll": "some"}}, "ModelConfig.unroll is 'some'"),
        ({"model": {"remat": 1}}, "ModelConfig.remat is 1"),
        ({"data": {"degrade": {"kernel": "bicubic"}}}, "kernel is 'bicubic': choose one of matlab_bicubic, "),
        ({"data": {"degrade": {"noise_sigma": -1.0}}}, "noise_sigma is -1.0"),
        ({"data": {"workers": -1}}, "DataConfig.workers is -1"),
        ({"data": {"cache": "none"}}, "DataConfig.cache is 'none': choose one of disk, memory"),
        ({"data": {"on_corrupt": "ignore"}}, "DataConfig.on_corrupt is 'ignore': choose one of stop, skip"),
        ({"data": {"mix": "scenes"}}, "DataConfig.mix is 'scenes'"),
        ({"data": {"mix": ["scenes=0"]}}, "DataConfig.mix has 'scenes=0': write NAME, NAME:SPLIT or NAME:SPLIT=WEIGHT"),
        ({"data": {"mix": ["scenes:test=many"]}}, "DataConfig.mix has 'scenes:test=many'"),
        ({"data": {"mix": [":test"]}}, "DataConfig.mix has ':test'"),
        ({"data": {"patch_size": 66}}, "DataConfig.patch_size is 66: it must be a multiple of the scale, 4"),
        ({"data": {"pairs": {"names": "art"}}}, "PairsConfig.names is 'art'"),
        ({"data": {"pairs": {"names": [1]}}}, r"PairsConfig.names is \[1\]"),
        ({"optimiser": {"name": "sgd"}}, "OptimiserConfig.name is 'sgd': choose one of adam"),
        ({"optimiser": {"warmup": 1.0}}, "OptimiserConfig.warmup is 1.0"),
        ({"optimiser": {"learning_rate": 0.0}}, "OptimiserConfig.learning_rate is 0.0"),
        ({"optimiser": {"clip": -1.0}}, "OptimiserConfig.clip is -1.0"),
        ({"scaling": "none"}, "TrainConfig.scaling is 'none': choose one of range, sample, truth"),
        ({"loss": "l2"}, "TrainConfig.loss is 'l2': choose one of l1, mse, charbonnier"),
    ],
)
def test_what_is_wrong_is_named(values, said):
    with pytest.raises(InputError, match=said):
        configs.from_json(values)


def test_lists_that_are_written_twice_agree():
    from ahmf_jax.losses import LOSSES
    from ahmf_jax.models import AHMF, ahmf
    from ahmf_jax.scaling import Scaling

    def choices(cls, name):
        return typing.get_args(typing.get_type_hints(cls)[name])

    assert choices(ModelConfig, "scale") == ahmf.SCALES
    for name, type_ in (("variant", ahmf.Variant), ("fusion", ahmf.Fusion), ("recurrence", ahmf.Recurrence)):
        assert choices(ModelConfig, name) == typing.get_args(type_)
    assert set(choices(TrainConfig, "loss")) == set(LOSSES)
    assert choices(TrainConfig, "scaling") == typing.get_args(Scaling)
    # A field of the network that the configuration forgets could not be set, nor would a run remember it.
    fields = {f.name for f in dataclasses.fields(AHMF)} - {"parent", "name"}
    assert {f.name for f in dataclasses.fields(ModelConfig)} == fields
    defaults = {f.name: f.default for f in dataclasses.fields(AHMF) if f.name in fields - {"scale", "dtype"}}
    assert {f.name: f.default for f in dataclasses.fields(ModelConfig) if f.name in defaults} == defaults
    for name in datasets.DATASETS:
        assert datasets.builder_class(name).INFO.name == name


def rates(optimiser, steps):
    """The learning rates of a run, as they show in Adam's updates for a gradient that is always 1."""
    import jax.numpy as jnp

    built, params = optimiser.build(steps), {"x": jnp.ones(())}
    state = built.init(params)
    found = []
    for _ in range(steps):
        updates, state = built.update({"x": jnp.ones(())}, state, params)
        found.append(-float(updates["x"]))
    return found


def test_the_papers_rate_is_halved_at_four_fifths():
    np.testing.assert_allclose(rates(OptimiserConfig(), 20), [1e-4] * 16 + [5e-5] * 4, rtol=1e-4)


def test_onecycle_rises_and_falls():
    found = rates(OptimiserConfig(schedule="onecycle", learning_rate=1e-2, peak_at=0.25), 16)
    np.testing.assert_allclose(found[0], 1e-2 / 25, rtol=1e-4)
    np.testing.assert_allclose(found[4], 1e-2, rtol=1e-4)
    np.testing.assert_allclose(found[2], 1e-2 * (1 + 1 / 25) / 2, rtol=1e-4)  # half of the cosine
    assert found[:5] == sorted(found[:5]) and found[4:] == sorted(found[4:], reverse=True)
    np.testing.assert_allclose(found[10], 1e-2 * (1 + 1 / 25000) / 2, rtol=1e-4)
    assert found[15] < 2e-4
    assert np.isfinite(rates(OptimiserConfig(schedule="onecycle"), 3)).all()  # too few steps for a warm-up


def test_muon_makes_kernels_orthogonal_and_leaves_the_rest_to_adam():
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=(18, 4)), full_matrices=False)
    gradient = {
        "kernel": jnp.asarray(((u * [10, 6, 3, 1]) @ v).reshape(3, 3, 2, 4), jnp.float32),
        "last": jnp.full((3, 3, 2, 1), 5.0),  # one output: no matrix
        "negative_slope": jnp.asarray(-3.0),
    }
    built = OptimiserConfig(name="muon", learning_rate=1e-2).build(10)
    params = {name: jnp.zeros_like(value) for name, value in gradient.items()}
    updates, _ = built.update(gradient, built.init(params), params)
    singular = np.linalg.svd(np.asarray(updates["kernel"]).reshape(18, 4))[1]
    # Newton-Schulz brings the singular values near 1, whatever they were; then the size of Adam's updates.
    assert singular.max() / singular.min() < 2
    rms = np.sqrt(np.mean(np.square(updates["kernel"]))) / 1e-2
    assert 0.05 < rms < 0.2
    cosine = np.sum(np.asarray(updates["kernel"]) * -(u @ v).reshape(3, 3, 2, 4)) / np.sqrt((singular**2).sum() * 4)
    assert cosine > 0.95
    assert abs(float(updates["negative_slope"])) > 5e-3 and float(updates["negative_slope"]) > 0
    last = np.asarray(updates["last"])
    assert np.ptp(last) == 0 and last[0, 0, 0, 0] == pytest.approx(-float(updates["negative_slope"]), rel=1e-3)


def test_clipping_bounds_the_whole_gradient():
    import jax.numpy as jnp

    built = OptimiserConfig(clip=1.0).build(10)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    _, state = built.update({"a": jnp.asarray(30.0), "b": jnp.asarray(40.0)}, built.init(params), params)
    means = state[1][0].mu
    np.testing.assert_allclose([float(means["a"]), float(means["b"])], [0.06, 0.08], rtol=1e-5)
