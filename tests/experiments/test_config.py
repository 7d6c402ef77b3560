"""Recipes: what may be said in them, what they become as JSON, and the learning rates that come of them."""

import dataclasses
import functools
import json
import math
import typing

import jaxtyping
import numpy as np
import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.models import AHMF, DSDMSR, MODELS, dsdmsr
from data_pipelines import datasets
from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments import config as configs
from experiments.config import (
    AHMFConfig,
    DataConfig,
    DSDMSRConfig,
    OptimiserConfig,
    PairsConfig,
    Part,
    TrainConfig,
)


def through_json(config):
    return configs.from_json(json.loads(json.dumps(configs.to_json(config))))


@pytest.mark.parametrize("name", configs.names())
def test_every_recipe_loads_builds_and_survives_json(name):
    config = configs.load(name)
    assert through_json(config) == config
    model = config.model.build()
    assert type(model) is MODELS[config.model.name]
    for name, value in dataclasses.asdict(config.model).items():
        if name != "encoder_weights":  # of the first step alone
            assert getattr(model, name) == value, name
    config.optimiser.build(config.steps)


def test_the_recipes_that_others_name_are_there():
    assert {"demo", "ahmf_paper_x4", "ahmf_short_x4", "ahmf_short_x8", "ahmf_short_x16"} <= set(configs.names())
    paper = configs.load("ahmf_paper_x4")
    assert (paper.data.batch_size, paper.data.patch_size, paper.loss, paper.optimiser.name) == (16, 256, "l1", "adam")


def test_what_json_cannot_tell_apart_comes_back():
    config = TrainConfig(
        model=AHMFConfig(unroll=2, swapped=("order", "squeeze")),
        data=DataConfig(
            pairs=PairsConfig(names=("b", "a"), invalid=0.0), degrade=Degradation("area", dropouts=0.5), mix=("scenes",)
        ),
        optimiser=OptimiserConfig(name="sgd", options=("momentum=0.9", "nesterov=true"), clip=1.0),
    )
    again = through_json(config)
    assert again == config and type(again.data.pairs.names) is type(again.data.mix) is tuple
    assert type(again.optimiser.options) is tuple
    assert again.model.swapped == again.model.build().swapped == ("squeeze", "order")
    assert configs.from_json({"model": {}}).model.swapped == ()  # of a run from before there were parts to swap
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
        ({"model": {"levels": 3}}, "AHMFConfig has no field levels"),
        ({"model": 3}, "TrainConfig.model is 3: it must be a AHMFConfig or a DADAConfig or a DSDMSRConfig"),
        ([], r"TrainConfig is \[\]"),
        ({"steps": "3"}, "TrainConfig.steps is '3': it must be"),
        ({"steps": True}, "TrainConfig.steps is True"),
        ({"steps": 0}, "TrainConfig.steps is 0: it must be positive"),
        ({"model": {"scale": 3}}, "AHMFConfig.scale is 3: choose one of 2, 4, 8, 16, 32"),
        ({"model": {"num_levels": 0}}, "AHMFConfig.num_levels is 0"),
        ({"model": {"unroll": "some"}}, "AHMFConfig.unroll is 'some'"),
        ({"model": {"remat": 1}}, "AHMFConfig.remat is 1"),
        ({"model": {"swapped": "order"}}, "AHMFConfig.swapped is 'order': it must be"),
        (
            {"model": {"swapped": ["std"]}},
            "AHMFConfig.swapped has 'std', which is no part: choose among guidance_head, ",
        ),
        ({"model": {"swapped": [3]}}, "AHMFConfig.swapped has 3, which is no part"),
        ({"model": {"swapped": ["order", "order"]}}, "AHMFConfig.swapped has 'order' more than once"),
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
        ({"data": {"pairs": {"names": [1]}}}, r"PairsConfig.names is \(1,\)"),
        ({"model": {"remat": True}}, "AHMFConfig.remat is True: choose one of none, convs, blocks"),
        ({"optimiser": {"name": 3}}, "OptimiserConfig.name is 3: choose one of adam, adamw, lion, muon, any str"),
        ({"optimiser": {"options": ["b1"]}}, "OptimiserConfig.options has 'b1': write KEY=NUMBER, KEY=true or KEY=f"),
        ({"optimiser": {"options": ["=3"]}}, "OptimiserConfig.options has '=3'"),
        ({"optimiser": {"options": ["b1=inf"]}}, "OptimiserConfig.options has 'b1=inf'"),
        ({"optimiser": {"options": "b1=1"}}, "OptimiserConfig.options is 'b1=1'"),
        ({"optimiser": {"warmup": 1.0}}, "OptimiserConfig.warmup is 1.0"),
        ({"optimiser": {"warmup": 0.8}}, "OptimiserConfig.warmup is 0.8: it must end before halve_at, 0.8"),
        ({"optimiser": {"warmup": 0.1, "schedule": "onecycle"}}, "onecycle has a rise of its own: set peak_at"),
        ({"optimiser": {"stairs": 1}}, "OptimiserConfig.stairs is 1: it must be at least 2"),
        ({"optimiser": {"l2": -1.0}}, "OptimiserConfig.l2 is -1.0"),
        ({"optimiser": {"loss_weight": 0.0}}, "OptimiserConfig.loss_weight is 0.0: it must be positive"),
        (
            {"data": {"augment": {"rotate": 90.0}}},
            "Augmentation.rotate is 90.0: it must be a number from 0 to 45, in deg",
        ),
        (
            {"data": {"augment": {"rotate": 5.0}, "degrade": {"lidar_lines": 16}}},
            "rotate is 5 and lidar_lines 16: the lines lie in the rows",
        ),
        ({"optimiser": {"peak_at": 0.0}}, "OptimiserConfig.peak_at is 0.0"),
        ({"optimiser": {"final_fraction": 1.1}}, "OptimiserConfig.final_fraction is 1.1"),
        ({"optimiser": {"step_factor": 0.0}}, "OptimiserConfig.step_factor is 0.0"),
        ({"optimiser": {"weight_decay": -0.1}}, "OptimiserConfig.weight_decay is -0.1: it must not be negative"),
        ({"optimiser": {"schedule": "linear"}}, "schedule is 'linear': choose one of constant, step, staircase, cos"),
        ({"optimiser": {"learning_rate": 0.0}}, "OptimiserConfig.learning_rate is 0.0"),
        ({"optimiser": {"clip": -1.0}}, "OptimiserConfig.clip is -1.0"),
        ({"scaling": "none"}, "TrainConfig.scaling is 'none': choose one of range, sample, largest, truth"),
        ({"edge_weight": math.nan}, "TrainConfig.edge_weight is nan"),
        ({"ema": 1.0}, "TrainConfig.ema is 1.0"),
        ({"accumulate": 0}, "TrainConfig.accumulate is 0: it must be positive"),
        ({"accumulate": 3}, "TrainConfig.accumulate is 3: it must divide DataConfig.batch_size, 16"),
        ({"mesh": "data=0"}, "TrainConfig.mesh is 'data=0': write auto, or as data=4,spatial=2"),
        ({"keep_last": 0}, "TrainConfig.keep_last is 0"),
        ({"seed": -1}, "TrainConfig.seed is -1: it must be a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "TrainConfig.seed is 4294967296: it must be a whole number from 0 to 4294967295"),
        ({"seed": 10**400}, "TrainConfig.seed is 10+: it must be a whole number from 0 to 4294967295"),
        ({"optimiser": {"clip": 10**400}}, "OptimiserConfig.clip is larger than any float: give at most 1.8e"),
        ({"data": {"pairs": {"invalid": -(10**400)}}}, "PairsConfig.invalid is larger than any float"),
        ({"optimiser": {"options": [f"b1={10**400}"]}}, "OptimiserConfig.options has 'b1=10+': write KEY=NUMBER"),
        (
            {"model": {"swapped": ["halving"], "fusion": "concat"}},
            "AHMFConfig.swapped has 'halving', and with fusion concat there is no FRB: leave one of the two out",
        ),
        (
            {"model": {"swapped": ["gru_layers"], "recurrence": "none"}},
            "AHMFConfig.swapped has 'gru_layers', and with recurrence none there is no ConvGRU",
        ),
        ({"keep_best": -1}, "TrainConfig.keep_best is -1"),
        ({"samples": -1}, "TrainConfig.samples is -1"),
        ({"on_nonfinite": "ignore"}, "TrainConfig.on_nonfinite is 'ignore': choose one of stop, skip"),
        ({"on_save_error": "ignore"}, "TrainConfig.on_save_error is 'ignore': choose one of stop, continue"),
        (
            {"validation_protocol": "best"},
            "validation_protocol is 'best': choose one of run, float, area, ahmf_table1, "
            "ahmf_table2, ahmf_table3, ahmf_table4, b6, dscsan, dscsan_noisy, dsdmsr, dsdmsr_dtu",
        ),
        ({"loss": "l2"}, "TrainConfig.loss is 'l2': choose one of l1, mse, charbonnier"),
        ({"loss": None}, "TrainConfig.loss is None: choose one of l1"),
        ({"stage_weights": 1.0}, "TrainConfig.stage_weights is 1.0: it must be a tuple of a number"),
        (
            {"stage_weights": [1.0]},
            r"stage_weights is \(1.0,\), but .*, makes no stages: .* train one of dsdmsr, dscsan$",
        ),
        (
            {"stage_weights": [1.0], "model": {"name": "dscsan", "scale": 2}},
            r"but DSCSAN x2, .*, makes no stages: give none \(--stage-weights with nothing after it\)$",
        ),
        (
            {"stage_weights": [1.0, 1.0], "model": {"name": "dsdmsr"}},
            r"stage_weights is \(1.0, 1.0\), but DSDMSR x8, srcnn makes 3 stages: give as many weights, coarse to fine",
        ),
        ({"stage_weights": [1.0, -1.0]}, r"stage_weights is \(1.0, -1.0\): none may be negative"),
        ({"stage_weights": [math.nan]}, r"stage_weights is \(nan,\): none may be negative, and all must be finite"),
        ({"stage_kernel": "bicubic"}, "TrainConfig.stage_kernel is 'bicubic': choose one of matlab_bicubic, "),
        ({"model": {"name": "dsdmsr", "scale": 32}}, "DSDMSRConfig.scale is 32: choose one of 2, 4, 8, 16"),
        ({"model": {"name": "dsdmsr"}, "output_scale": 0.5}, "DSDMSR x8, srcnn, has no last convolution that corrects"),
        (
            {"stage_kernel": "area", "model": {"name": "dsdmsr"}},
            "TrainConfig.stage_kernel is 'area', but no stage is supervised: set stage_weights, or leave it out",
        ),
        ({"optimiser": {"clip_norm": "l1"}}, "OptimiserConfig.clip_norm is 'l1', but clip is 0: set it, or leave"),
        ({"optimiser": {"clip_of": "step"}}, "OptimiserConfig.clip_of is 'step', but clip is 0: set it"),
        ({"optimiser": {"clip_norm": "max"}}, "OptimiserConfig.clip_norm is 'max': choose one of l2, l1"),
        ({"output_scale": math.inf}, "TrainConfig.output_scale is inf: it must be positive"),
        ({"data": {"patch_size": 64.0}}, "DataConfig.patch_size is 64.0: it must be a whole number"),
        ({"data": {"patch_width": -8}}, "DataConfig.patch_width is -8: it must not be negative"),
        (
            {"data": {"patch_width": 322, "augment": {"flips": "none"}}},
            "DataConfig.patch_width is 322: it must be a multiple of the scale, 4",
        ),
        ({"data": {"patch_width": 320}}, "flips is 'all', which transposes, and patches are 256 x 320: choose mirror"),
        ({"data": {"pairs": {"range": 0}}}, "PairsConfig.range is 0: it must be positive"),
        ({"data": {"pairs": {"invalid": "nan"}}}, "PairsConfig.invalid is 'nan': it must be a number or None"),
    ],
)
def test_what_is_wrong_is_named(values, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse some first
    with pytest.raises(InputError, match=said):
        configs.from_json(values)


def test_a_configuration_in_python_is_checked_as_from_json(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for make, said in (
        (lambda: TrainConfig(steps="3"), "TrainConfig.steps is '3': it must be a whole number"),
        (lambda: TrainConfig(model=DataConfig()), "TrainConfig.model is .*: it must be a AHMFConfig"),
        (lambda: AHMFConfig(scale=4.0), "AHMFConfig.scale is 4.0: choose one of 2, 4"),
        (lambda: OptimiserConfig(learning_rate=True), "OptimiserConfig.learning_rate is True: it must be a number"),
        (lambda: DataConfig(mix=["scenes"]), "it must be a tuple of text"),
    ):
        with pytest.raises(InputError, match=said):
            make()
    assert OptimiserConfig(learning_rate=1).learning_rate == 1


def test_what_can_decay_kernels_alone():
    assert {name for name in configs._optimisers() if decays(name)} == set(configs.DECAYING)


def decays(name):
    try:
        OptimiserConfig(name=name, weight_decay=0.1).build(10)
    except InputError as error:
        assert "has none for kernels alone" in str(error) or "cannot be used" in str(error)
        return False
    return True


def test_lists_that_are_written_twice_agree():
    from ahmf_jax import variants
    from ahmf_jax.losses import LOSSES
    from ahmf_jax.models import ahmf
    from ahmf_jax.scaling import Scaling

    def choices(cls, name):
        return typing.get_args(typing.get_type_hints(cls)[name])

    assert choices(AHMFConfig, "scale") == ahmf.SCALES
    for name, type_ in (
        ("variant", variants.Variant),
        ("fusion", ahmf.Fusion),
        ("recurrence", ahmf.Recurrence),
        ("remat", ahmf.Remat),
    ):
        assert choices(AHMFConfig, name) == typing.get_args(type_)
    assert set(choices(TrainConfig, "loss")) == set(LOSSES)
    assert choices(TrainConfig, "scaling") == typing.get_args(Scaling)
    # A field of the network that the configuration forgets could not be set, nor would a run remember it.
    fields = {f.name for f in dataclasses.fields(AHMF)} - {"parent", "name"}
    assert {f.name for f in dataclasses.fields(AHMFConfig)} == fields
    defaults = {f.name: f.default for f in dataclasses.fields(AHMF) if f.name in fields - {"scale", "dtype"}}
    assert {f.name: f.default for f in dataclasses.fields(AHMFConfig) if f.name in defaults} == defaults
    fields = {f.name: f.default for f in dataclasses.fields(DSDMSR) if f.name not in ("parent", "name", "dtype")}
    ours = {f.name: f.default for f in dataclasses.fields(DSDMSRConfig)}
    assert {**fields, "dtype": "float32"} == ours
    assert choices(DSDMSRConfig, "scale") == dsdmsr.SCALES
    for name, type_ in (("unit", dsdmsr.Unit), ("fusion", dsdmsr.Fusion), ("combine", dsdmsr.Combine)):
        assert choices(DSDMSRConfig, name) == typing.get_args(type_)
    for scale in dsdmsr.SCALES:
        assert DSDMSRConfig(scale).stages == DSDMSR(scale).steps
    assert {name: cls.guided for name, cls in configs.MODELS.items()} == {
        name: cls.guided for name, cls in MODELS.items()
    }
    for name in datasets.DATASETS:
        assert datasets.builder_class(name).INFO.name == name


def test_everything_can_be_said_on_the_command_line():
    import tyro

    said = (
        "--model.remat convs --model.swapped order squeeze --optimiser.name sgd --optimiser.options momentum=0.9 "
        "nesterov=true --optimiser.schedule cosine --optimiser.warmup 0.05 --mesh data=4,spatial=2 --fsdp "
        "--accumulate 2 --ema 0.999 --edge-weight 0.1 --on-nonfinite skip --on-save-error continue --keep-last 3 "
        "--keep-best 2 "
        "--start-from runs/a --samples 0 --data.augment.rotate 15 --data.augment.flips mirror"
    )
    # As the command has it: the recipe says which model it is.
    found = tyro.cli(TrainConfig, args=said.split(), default=TrainConfig(), config=(tyro.conf.AvoidSubcommands,))
    assert found.data.augment == Augmentation("mirror", rotate=15.0)
    assert found.optimiser == OptimiserConfig("sgd", ("momentum=0.9", "nesterov=true"), schedule="cosine", warmup=0.05)
    assert found.model.swapped == ("squeeze", "order")
    assert (found.model.remat, found.mesh, found.fsdp, found.accumulate) == ("convs", "data=4,spatial=2", True, 2)
    assert (found.start_from, found.ema, found.samples) == ("runs/a", 0.999, 0)


def test_stages_are_supervised_from_the_command_line():
    import tyro

    recipe = TrainConfig(model=DSDMSRConfig(), stage_weights=(1.0, 1.0, 1.0))
    said = "--model.unit vdsr --model.scale 4 --stage-weights 0.5 1 "
    said += "--optimiser.clip 1 --optimiser.clip-norm l1 --optimiser.clip-of step"
    found = tyro.cli(TrainConfig, args=said.split(), default=recipe, config=(tyro.conf.AvoidSubcommands,))
    assert found.model == DSDMSRConfig(4, "vdsr")
    assert (found.optimiser.clip_norm, found.optimiser.clip_of) == ("l1", "step")
    # Truths are made as low resolution is, unless it is said how.
    assert found.supervision == {"stage_weights": (0.5, 1.0), "stage_kernel": "matlab_bicubic"}
    said = "--stage-kernel area --data.degrade.kernel torch_bilinear"
    found = tyro.cli(TrainConfig, args=said.split(), default=recipe, config=(tyro.conf.AvoidSubcommands,))
    assert found.supervision["stage_kernel"] == "area"
    config = TrainConfig(model=DSDMSRConfig())
    assert config.supervision == {} and through_json(config) == config


@pytest.mark.parametrize(
    "text",
    [
        "data=4",
        "spatial=8",
        "data=4,spatial=2",
        "spatial=2,data=4",
        "data=0",
        "data=-1",
        "data",
        "4x2",
        "data=4,",
        "data=2,data=2",
        "batch=4",
        "data=1000000",
        "",
    ],
)
def test_a_mesh_is_what_the_library_reads(text):
    from ahmf_jax.sharding import parse_mesh

    try:
        parse_mesh(text)
    except InputError:
        with pytest.raises(InputError, match=r"TrainConfig\.mesh"):
            TrainConfig(mesh=text)
    else:
        assert TrainConfig(mesh=text).mesh == text


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


def test_schedules_by_hand():
    def found(**fields):
        return rates(OptimiserConfig(learning_rate=1e-2, **fields), 10)

    near = functools.partial(np.testing.assert_allclose, rtol=2e-4)
    near(found(schedule="constant"), [1e-2] * 10)
    # Two steps up, in thirds, none at 0; then the largest.
    near(found(schedule="constant", warmup=0.2), [1e-2 / 3, 2e-2 / 3] + [1e-2] * 8)
    near(found(schedule="step", halve_at=0.5, step_factor=0.1), [1e-2] * 5 + [1e-3] * 5)
    # The rise moves the first steps, and not the place of the fall.
    near(found(schedule="step", halve_at=0.5, warmup=0.2), [1e-2 / 3, 2e-2 / 3] + [1e-2] * 3 + [5e-3] * 5)
    stairs = [1e-2] * 4 + [9e-3] * 3 + [8.1e-3] * 3  # where a part begins within a step, the next whole one is lower
    near(found(schedule="staircase", stairs=3, step_factor=0.9), stairs)
    near(found(schedule="staircase", stairs=3, step_factor=0.9, warmup=0.2), [1e-2 / 3, 2e-2 / 3, *stairs[2:]])
    near(found(schedule="staircase", stairs=20, step_factor=0.9), [1e-2 * 0.81**n for n in range(10)])
    cosine = [1e-2 * (1 + math.cos(math.pi * n / 10)) / 2 for n in range(10)]
    near(found(schedule="cosine"), cosine)
    near(found(schedule="cosine", final_fraction=0.2), [2e-3 + 0.8 * rate for rate in cosine])
    near(found(schedule="cosine", warmup=0.2)[2:], [1e-2 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)])
    assert np.isfinite(rates(OptimiserConfig(schedule="cosine", warmup=0.9), 1)).all()


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


def test_muon_treats_each_level_of_a_stack_as_on_its_own():
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    stacked = jnp.asarray(
        rng.normal(size=(3, 3, 3, 2, 4)) * np.array([1, 10, 0.1])[:, None, None, None, None], jnp.float32
    )
    built = OptimiserConfig(name="muon", learning_rate=1e-2).build(10)

    def updates(gradient):
        params = jax.tree.map(jnp.zeros_like, gradient)
        state = built.init(params)
        for _ in range(2):
            found, state = built.update(gradient, state, params)
        return found

    apart = updates({f"level_{n}": kernel for n, kernel in enumerate(stacked)})
    together = updates({"levels": stacked, "bias": jnp.ones((3, 4)) * jnp.array([1, 5, 0.1, 2])})
    for n in range(3):
        np.testing.assert_allclose(together["levels"][n], apart[f"level_{n}"], rtol=1e-4, atol=1e-8)
    # A stack of biases is no matrix: their updates are Adam's, all of one size.
    np.testing.assert_allclose(together["bias"], together["bias"][0, 0], rtol=1e-5)
    assert together["bias"][0, 0] < -5e-3


def tree():
    """A kernel, a stack of two, and what else there is, all ones."""
    import jax.numpy as jnp

    shapes = {"kernel": (3, 3, 2, 2), "kernels": (2, 1, 1, 2, 2), "bias": (2,), "biases": (2, 2), "slope": ()}
    return {name: jnp.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "lamb"])
def test_kernels_decay_and_nothing_else(name):
    import jax
    import jax.numpy as jnp

    built = OptimiserConfig(name=name, learning_rate=1e-2, weight_decay=0.5).build(10)
    params = tree()
    updates, _ = built.update(jax.tree.map(jnp.zeros_like, params), built.init(params), params)
    for key, update in updates.items():
        if name == "lamb" and key in ("kernel", "kernels"):
            assert (update < 0).all()  # of a size that it makes that of the weights
        else:
            np.testing.assert_allclose(update, -5e-3 if key in ("kernel", "kernels") else 0, rtol=1e-6, err_msg=key)


def test_the_named_optimisers_are_optaxs():
    import jax
    import optax

    params = tree()
    gradient = jax.tree.map(lambda x: 0.3 * x, params)
    for config, expected in (
        (OptimiserConfig("adam", schedule="constant"), optax.adam(1e-4)),
        (OptimiserConfig("adamw", ("b2=0.5",), 1e-3, "constant"), optax.adamw(1e-3, b2=0.5, weight_decay=0)),
        (OptimiserConfig("lion", schedule="constant"), optax.lion(1e-4, weight_decay=0)),
        (OptimiserConfig("sgd", ("momentum=0.9", "nesterov=True"), 0.1, "constant"), optax.sgd(0.1, 0.9, True)),
        (OptimiserConfig("novograd", schedule="constant"), optax.novograd(1e-4)),
        (OptimiserConfig("adafactor", ("factored=false",), 0.1, "constant"), optax.adafactor(0.1, factored=False)),
    ):
        built = config.build(10)
        states, found = (built.init(params), expected.init(params)), []
        for _ in range(3):
            (a, one), (b, other) = (
                o.update(gradient, s, params) for o, s in zip((built, expected), states, strict=True)
            )
            states = (one, other)
            found.append((a, b))
        for a, b in found:
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), a, b)


@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "muon", "adafactor", "novograd"])
def test_moments_are_float32(name):
    import jax

    state = OptimiserConfig(name=name).build(10).init(tree())
    assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "sdg"}, r"OptimiserConfig.name is 'sdg': choose one of adabelief, .*adafactor, .*muon, .*sgd"),
        ({"name": "scale_by_adam"}, r"choose one of"),
        ({"name": "noisy_sgd"}, r"choose one of"),  # draws random numbers
        ({"name": "adam", "options": ("beta=0.9",)}, r"options has beta: adam has b1, b2, eps, eps_root, nesterov"),
        ({"name": "adam", "options": ("learning_rate=1",)}, r"options has learning_rate: adam has b1"),
        ({"name": "adamw", "options": ("weight_decay=1",)}, r"options has weight_decay: adamw has b1"),
        ({"name": "muon", "options": ("adam_learning_rate=1",)}, r"options has adam_learning_rate: muon has ns_steps"),
        ({"name": "sgd", "options": ("nesterov=1",)}, r"options has nesterov=1: sgd has nesterov=False"),
        ({"name": "adam", "options": ("b1=true",)}, r"options has b1=True: adam has b1=0.9"),
        ({"name": "sgd", "weight_decay": 0.1}, r"weight_decay is 0.1, but sgd has none for kernels alone: .*as adamw"),
        ({"name": "lbfgs"}, r"name lbfgs .* cannot be used \(.*\): it must do with a schedule, gradients and param"),
        ({"name": "rprop"}, r"name rprop .* cannot be used"),
    ],
)
def test_an_optimiser_that_cannot_be_built(fields, said):
    config = OptimiserConfig(**fields)
    with pytest.raises(InputError, match=said) as caught:
        config.build(10)
    assert "\n" not in str(caught.value)


def test_clipping_bounds_the_whole_gradient():
    import jax.numpy as jnp

    built = OptimiserConfig(clip=1.0).build(10)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    _, state = built.update({"a": jnp.asarray(30.0), "b": jnp.asarray(40.0)}, built.init(params), params)
    means = state[1][0].mu
    np.testing.assert_allclose([float(means["a"]), float(means["b"])], [0.06, 0.08], rtol=1e-5)


def test_the_loss_is_weighed_then_clipped_then_l2_added():
    import jax.numpy as jnp

    # Adam's first moment after a step is a tenth of the gradient that it saw.
    def seen(**fields):
        built = OptimiserConfig(**fields).build(10)
        params = {"kernel": jnp.full((1, 1, 1, 1), 3.0), "bias": jnp.array([-2.0])}
        grads = {"kernel": jnp.full((1, 1, 1, 1), 30.0), "bias": jnp.array([40.0])}
        _, state = built.update(grads, built.init(params), params)
        means = (state[-1] if set(fields) - {"name"} else state)[0].mu
        return [10 * float(means[name].ravel()[0]) for name in ("kernel", "bias")]

    def near(found, *want):
        np.testing.assert_allclose(found, want, rtol=1e-5)

    near(seen(), 30, 40)
    near(seen(l2=0.1), 30 + 0.3, 40 - 0.2)  # biases too
    near(seen(l2=0.1, clip=1.0), 0.6 + 0.3, 0.8 - 0.2)  # what is added is not clipped
    near(seen(l2=0.1, loss_weight=10.0), 300 + 0.3, 400 - 0.2)  # nor weighed
    near(seen(loss_weight=0.01, clip=1.0), 0.3, 0.4)  # it is weighed first: 0.5 is below the limit
    near(seen(loss_weight=0.1, clip=1.0, l2=1.0), 3.6, -1.2)


def test_l2_is_pytorchs_weight_decay():
    torch = pytest.importorskip("torch")
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32) * 1e-3
    theirs = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.Adam([theirs], lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(adam, step_size=2, gamma=0.5)
    config = OptimiserConfig(
        learning_rate=1e-2, schedule="staircase", stairs=3, step_factor=0.5, loss_weight=10.0, clip=0.01, l2=1e-2
    )
    built, ours = config.build(6), {"x": jnp.asarray(start)}
    state = built.init(ours)
    for gradient in gradients:
        theirs.grad = torch.tensor(10 * gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 0.01)
        adam.step()
        schedule.step()
        updates, state = built.update({"x": jnp.asarray(gradient)}, state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours["x"], theirs.detach().numpy(), rtol=1e-4)
    assert np.abs(ours["x"] - start).min() > 5e-3


@pytest.mark.parametrize("schedule", ["constant", "staircase"])
def test_sgd_with_the_l1_norm_of_the_step_clipped_is_pytorchs(schedule):
    """As `dsdmsr_vdsr_dtu_x8` has it: the bound is 1 over the rate, which a staircase lowers."""
    torch = pytest.importorskip("torch")
    import jax.numpy as jnp
    import optax

    recipe = configs.load("dsdmsr_vdsr_dtu_x8").optimiser
    config = dataclasses.replace(recipe, schedule=schedule, clip=0.01, stairs=3, step_factor=0.5)
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2), "b": (4,)}
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    sgd = torch.optim.SGD(theirs.values(), lr=1e-2, momentum=0.9, weight_decay=1e-4)
    steps = torch.optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.5)
    built, ours = config.build(6), {name: jnp.asarray(value) for name, value in start.items()}
    state, clipped = built.init(ours), []
    # In the first and third pair of steps the norm is below the bound that the rate gives, and above without it.
    for size in (0.05, 0.2, 0.2, 0.3, 0.2, 0.5):
        gradient = {name: (size * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        bound = 0.01 / steps.get_last_lr()[-1]
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), bound, norm_type=1.0)
        clipped.append(float(norm) > bound)
        sgd.step()
        if schedule == "staircase":
            steps.step()
        updates, state = built.update({name: jnp.asarray(g) for name, g in gradient.items()}, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, parameter in theirs.items():
            np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=2e-6, atol=1e-7)
    assert (
        clipped
        == {
            "constant": [False, True, True, True, True, True],
            "staircase": [False, True, False, True, False, True],
        }[schedule]
    )


def test_the_l1_norm_is_of_all_parameters():
    import jax.numpy as jnp

    built = OptimiserConfig(name="sgd", learning_rate=1.0, schedule="constant", clip=1.4, clip_norm="l1").build(10)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
    state = built.init(params)
    for gradient, wanted in (([3.0, -4.0], [0.6, -0.8]), ([0.6, 0.0], [0.6, 0.0]), ([0.0, 0.0], [0.0, 0.0])):
        a, b = map(jnp.asarray, gradient)
        updates, state = built.update({"a": a, "b": jnp.stack([b, 0 * b])}, state, params)
        np.testing.assert_allclose([-updates["a"], -updates["b"][0]], wanted, rtol=1e-6)


def test_numbers_of_one_program():
    import jax
    import jax.numpy as jnp

    fields = {"loss_weight": 10.0, "clip": 0.01, "l2": 1e-2}
    config, other = OptimiserConfig(**fields), OptimiserConfig(loss_weight=2.0, clip=0.5, l2=1e-3)
    assert config.numbers() == fields and OptimiserConfig().numbers() == {}
    params, grads = {"x": jnp.array([3.0, -2.0])}, {"x": jnp.array([0.3, 0.1])}

    @jax.jit
    def traced(numbers):
        built = config.made(config.rate(10), numbers)
        return built.update(grads, built.init(params), params)

    for one in (config, other):
        built = one.build(10)
        updates, state = built.update(grads, built.init(params), params)
        found, kept = traced(one.numbers())
        np.testing.assert_allclose(found["x"], updates["x"], rtol=1e-5)
        assert jax.tree.structure(kept) == jax.tree.structure(state)
