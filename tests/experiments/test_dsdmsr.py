"""DSDMSR, trained: supervised stages, with and without colour, its recipes and its protocol."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from ahmf_jax import checkpoint
from data_pipelines.augment import Augmentation
from data_pipelines.datasets import DatasetInfo, Example
from data_pipelines.degrade import Degradation
from data_pipelines.files import write_depth, write_picture
from experiments import config as configs
from experiments import validation
from experiments.config import DataConfig, DSDMSRConfig, OptimiserConfig, PairsConfig, TrainConfig
from experiments.evaluate import measure, whole_batch
from experiments.protocols import PROTOCOLS
from experiments.together import Item, program, train_together
from experiments.train import Task, _step_flops, train

TINY = TrainConfig(
    model=DSDMSRConfig(2),
    data=DataConfig(degrade=Degradation("torch_bilinear"), patch_size=8, batch_size=2),
    optimiser=OptimiserConfig(learning_rate=1e-3, schedule="constant"),
    steps=4,
    loss="mse",
    stage_weights=(0.5,),
    log_every=1,
    checkpoint_every=2,
    validate_every=2,
    samples=0,
    mesh="data=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two maps to train on and one to validate, smooth but for a step, each with its guide."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for split, names in (("train", "ab"), ("validation", "c")):
        (folder / split).mkdir()
        for name in names:
            depth = np.add.outer(
                rng.integers(1, 5) * np.arange(16), np.where(np.arange(20) < rng.integers(6, 14), 20, 90)
            )
            write_depth(folder / split / f"{name}_depth.png", depth.astype(np.uint8))
            write_picture(folder / split / f"{name}_rgb.png", rng.integers(0, 256, (16, 20, 3), np.uint8))
    return folder


def on(folder, guide="", **fields):
    data = dataclasses.replace(TINY.data, dataset=str(folder), pairs=PairsConfig(guide=guide))
    return dataclasses.replace(TINY, data=data, **fields)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train(on(folder), tmp_path_factory.mktemp("run") / "plain")


def lines(run):
    """What training logged, without what is of this machine."""
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "loss", "loss_final", "loss_x2", "mae", "grad_norm", "validation_mae")
    return [{name: line[name] for name in names if name in line} for line in logged]


def assert_same(run, other, tolerance=0.0):
    ours, theirs = (checkpoint.read_params(path, 4)[0] for path in (run, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs)


def test_each_term_of_the_loss_is_logged(run):
    trained = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    for line in trained:
        assert line["loss"] == pytest.approx(line["loss_final"] + 0.5 * line["loss_x2"], rel=1e-5)
    assert trained[0]["loss_x2"] != pytest.approx(trained[0]["loss_final"], rel=0.01)
    assert trained[-1]["loss"] < trained[0]["loss"]


def test_colour_makes_no_difference(run, folder, tmp_path):
    with_colour = train(on(folder, "*_rgb.png"), tmp_path / "colour")
    assert_same(run, with_colour)
    assert lines(run) == lines(with_colour)


def test_a_run_that_is_gone_on_with_is_one_that_never_stopped(run, folder, tmp_path):
    class Enough(Exception):
        """Ends a run at its first validation."""

    def enough(step, means):
        raise Enough

    with pytest.raises(Enough):
        train(on(folder), tmp_path / "run", on_validation=enough)
    train(on(folder), tmp_path / "run")
    assert_same(run, tmp_path / "run")
    assert lines(run) == lines(tmp_path / "run")


def test_a_run_on_whole_frames(folder, tmp_path, monkeypatch):
    config = on(folder, "*_rgb.png", steps=2, stage_kernel="area")
    data = dataclasses.replace(config.data, patch_size=16, patch_width=20, augment=Augmentation("none"))
    config = dataclasses.replace(config, data=data)
    task = Task(config, None)
    batch = next(task.batches)
    task.batches.close()
    assert batch["depth_hr"].shape == (2, 16, 20, 1)
    assert batch["guide"].shape == (2, 16, 20, 0), "colour that the model does not read is not loaded"
    assert _step_flops(task.model, 2, (16, 20)) == pytest.approx(1.25 * _step_flops(task.model, 2, (16, 16)), rel=0.01)
    kernels, validate = [], validation.validate
    monkeypatch.setattr(
        validation, "validate", lambda *args, **how: kernels.append(how["stage_kernel"]) or validate(*args, **how)
    )
    assert [line["step"] for line in lines(train(config, tmp_path / "run")) if "loss" in line] == [1, 2]
    assert kernels == ["area"], "its pictures have the truths that it is supervised by"


def test_runs_in_one_program(run, folder, tmp_path):
    other = on(folder, seed=1, optimiser=dataclasses.replace(TINY.optimiser, learning_rate=1e-4))
    items = [Item(on(folder), tmp_path / "one"), Item(other, tmp_path / "two")]
    train_together(items, finished=lambda item, error: None, devices=jax.devices()[:1])
    assert_same(run, tmp_path / "one", 1e-5)
    for ours, theirs in zip(lines(tmp_path / "one"), lines(run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert lines(tmp_path / "two") != lines(run)


def test_what_must_be_the_same_in_one_program():
    clipped = dataclasses.replace(TINY.optimiser, clip=1.0)
    base = dataclasses.replace(TINY, optimiser=clipped)
    kernel = dataclasses.replace(TINY.data, degrade=Degradation("area"))
    for changed in (
        {"stage_weights": (1.0,)},
        {"stage_weights": ()},
        {"stage_kernel": "area"},
        {"data": kernel},  # which makes the stages' truths
        {"data": dataclasses.replace(TINY.data, patch_width=10, augment=Augmentation("none"))},
        {"optimiser": dataclasses.replace(clipped, clip_norm="l1")},
        {"optimiser": dataclasses.replace(clipped, clip_of="step")},
    ):
        assert program(dataclasses.replace(base, **changed)) != program(base), changed
    # Nor is there a difference where they have no say.
    one, two = (dataclasses.replace(base, stage_weights=(), data=data) for data in (base.data, kernel))
    assert program(one) == program(two)


def test_a_guided_model_wants_colour(refused, recipe, folder, tmp_path):
    said = r"has no colour, which ahmf is guided by: choose one that has, or a model of depth alone \(dsdmsr, dscsan\)"
    refused("train", recipe, "--data.dataset", folder, "--data.pairs.guide", "", "--out", tmp_path / "run", said=said)
    assert not (tmp_path / "run").exists()


def test_weights_of_stages_that_there_are_not(refused, recipe):
    said = "--stage-weights is .*, but .*, makes no stages: leave it out, or train one of dsdmsr"
    refused("train", recipe, "--stage-weights", "1", said=said)
    said = "--stage-weights is .*, but DSDMSR x4, vdsr makes 2 stages: give as many weights, coarse to fine"
    refused("train", "dsdmsr_short_x8", "--model.scale", "4", said=said)


@pytest.mark.parametrize(("name", "unit", "batch", "epochs"), [("", "srcnn", 32, 200), ("vdsr_", "vdsr", 16, 80)])
def test_the_published_recipes(name, unit, batch, epochs):
    config = configs.load(f"dsdmsr_{name}dtu_x8")
    assert config.model == DSDMSRConfig(8, unit) and config.loss == "mse" and config.stage_weights == (1, 1, 1)
    assert config.data.batch_size == batch
    assert (config.data.train, config.data.validation) == ("dsdmsr/train", "dsdmsr/validation")
    assert config.supervision["stage_kernel"] == config.data.degrade.kernel == "torch_bilinear"
    assert config.data.augment == Augmentation("none") and config.scaling == "range"
    # Whole frames of 512 x 640, which are a half of what is stored.
    assert config.data.patch == (512, 640) and config.data.degrade.reduce == 2
    assert config.data.degrade == PROTOCOLS["dsdmsr_dtu"].degrade
    epoch = config.validate_every
    # 6,348 maps, what is left over of an epoch is dropped.
    assert epoch == 6348 // batch and config.steps == epochs * epoch
    optimiser, rate = config.optimiser, config.optimiser.rate(config.steps)
    if unit == "srcnn":
        assert optimiser == OptimiserConfig("adam", learning_rate=1e-3, schedule="constant")
        return
    assert optimiser.options == ("momentum=0.9",) and optimiser.l2 == 1e-4
    assert (optimiser.clip, optimiser.clip_norm, optimiser.clip_of) == (1, "l1", "step")
    found = [float(rate(20 * n * epoch - back)) for n in range(1, 4) for back in (1, 0)]
    np.testing.assert_allclose(found, [1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5], rtol=1e-5)
    constant = dataclasses.replace(optimiser, schedule="constant").rate(config.steps)
    assert {float(constant(step)) for step in (0, config.steps - 1)} == {float(np.float32(1e-2))}


def test_the_protocol_by_hand():
    """PSNR of the clamped output, every pixel, the background too, of the truth's own borders, for a peak of 1."""
    protocol, info = PROTOCOLS["dsdmsr"], DatasetInfo("maps", "grey level", 255.0, 0.0, "", "", colour=False)
    depth = np.tile(np.float32([[0, 51], [102, 255]]), (4, 4))
    mask = depth > 0  # what stands there is no depth, and counts as 0
    example = Example(np.zeros((8, 8, 0), np.uint8), depth + 7 * ~mask, mask, "a")
    batch = whole_batch(example, 0, info, 4, protocol)
    assert batch["mask_hr"].all()
    np.testing.assert_allclose(batch["depth_hr"][0, ..., 0], depth / 255, rtol=1e-6)
    # Linear shrinking by 4 takes the mean of the inner 2 x 2 of a block.
    np.testing.assert_allclose(batch["depth_lr"], 102 / 255, rtol=1e-6)
    prediction = batch["depth_hr"].copy()
    prediction[0, 0, 0] = -1.0  # clamped to what is true
    prediction[0, 1, 1] = 3.0
    prediction[0, 0, 1] += 0.1
    found = measure(prediction, batch, info.range, protocol)
    assert found.count == 64
    assert found.psnr(info.range) == pytest.approx(10 * math.log10(1 / (0.1**2 / 64)), rel=1e-5)
    assert protocol.averaging == "images" and protocol.border == 0 and protocol.floor == "torch_bilinear"


def test_the_protocol_of_dtu_by_hand():
    """Low resolution and truth are both of what is stored, the four pixels at the centre of each block."""
    protocol, info = PROTOCOLS["dsdmsr_dtu"], DatasetInfo("maps", "grey level", 255.0, None, "", "", colour=False)
    depth = np.random.default_rng(3).integers(0, 256, (32, 48)).astype(np.float32)
    example = Example(np.zeros((32, 48, 0), np.uint8), depth, np.ones((32, 48), bool), "a")
    batch = whole_batch(example, 0, info, 8, protocol)

    def centre(side):
        inner = depth.reshape(32 // side, side, 48 // side, side)[:, side // 2 - 1 : side // 2 + 1]
        return inner[..., side // 2 - 1 : side // 2 + 1].mean((1, 3)) / 255

    np.testing.assert_allclose(batch["depth_lr"][0, ..., 0], centre(16), rtol=1e-5)
    np.testing.assert_allclose(batch["depth_hr"][0, ..., 0], centre(2), rtol=1e-5)
    assert batch["guide"].shape == (1, 16, 24, 0)
    # But for that it is the other.
    assert (
        dataclasses.replace(protocol, degrade=PROTOCOLS["dsdmsr"].degrade, about=PROTOCOLS["dsdmsr"].about)
        == (PROTOCOLS["dsdmsr"])
    )
