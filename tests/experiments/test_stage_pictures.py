"""Stages in pictures: they are the model's, their truths those of training, and a part is as in the whole."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahmf_jax import losses, memory
from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import DADA, DSCSAN, DSDMSR
from ahmf_jax.resample import resize
from ahmf_jax.scaling import offset_and_span
from experiments.benchmark_programs import random_params
from experiments.figures import Crop
from experiments.pictures import CAPTION, GAP, depth_colours, heat_colours
from experiments.protocols import Protocol
from experiments.stage_pictures import Measure, Stage, Stages, central, compared, watch

GREY = Measure("grey levels", 255.0, Protocol(clip=True), "torch_bilinear")


@functools.cache
def scene(columns=64):
    """A DSDMSR x2, and what it is shown: (8, `columns`) pixels, one sample and one pixel of which are unknown."""
    model = DSDMSR(2)
    trained = Trained(model, random_params(model), "sample", "grey level", 255.0)
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(columns) < columns // 2, 60, 180) + rng.integers(0, 9, (8, columns)).astype(np.float32)
    low = resize(truth[..., None], (4, columns // 2), "torch_bilinear")[..., 0]
    known = np.ones(low.shape, bool)
    known[2, 3], truth[1, 7] = False, np.nan
    return trained, low, known, np.zeros((8, columns, 3), np.uint8), truth


@functools.cache
def whole():
    return watch(*scene(), GREY)


def test_the_stages_are_what_the_model_makes():
    trained, low, known, _, truth = scene()
    given = low[None, ..., None] / np.float32(255)
    offset, span = offset_and_span(given, known[None, ..., None], "sample")
    output, aux = jax.jit(trained.model.apply)({"params": trained.params}, jnp.asarray((given - offset) / span))
    found = whole()
    assert [stage.name for stage in found.stages] == ["x2", "output"] and not found.is_part
    for stage, made in zip(found.stages, (*aux["stages"], output), strict=True):
        wanted = np.clip(255 * (made * span + offset)[0, ..., 0], 0, 255)
        np.testing.assert_allclose(stage.depth, wanted, atol=1e-3)
        np.testing.assert_array_equal(stage.truth, truth)
        error = (stage.depth - truth)[np.isfinite(truth)]
        assert stage.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert found.psnr(stage) == pytest.approx(20 * math.log10(255 / stage.rmse))
    np.testing.assert_array_equal(np.isnan(found.low), ~known)
    assert found.stages[0].depth.std() > 1, "nothing is shown"


def test_a_part_is_what_it_is_in_the_whole_image():
    crop = Crop(40, 2, 16, 4)
    part = watch(*scene(), GREY, crop)
    assert part.is_part and part.low.shape == (2, 8)
    for stage, of_whole in zip(part.stages, whole().stages, strict=True):
        np.testing.assert_allclose(stage.depth, of_whole.depth[2:6, 40:56], atol=1e-3)
        np.testing.assert_array_equal(stage.truth, of_whole.truth[2:6, 40:56])


@pytest.mark.parametrize("block", ["brb", "rcab"])
def test_a_part_has_the_statistics_and_the_gates_of_the_whole_image(block):
    """Bright columns far from the part, further than the reach, change its gates, and what it is."""
    *_, guide, truth = scene(256)
    model = DSCSAN(2, groups=1, blocks=1, features=4, block=block)
    assert 2 * model.reach < 100
    trained = Trained(model, random_params(model), "range", "grey level", 255.0)
    low = resize(np.nan_to_num(truth, nan=60)[..., None], (4, 128), "torch_bilinear")[..., 0]
    of_whole, part, elsewhere = (
        watch(trained, depth, np.ones_like(depth, bool), guide, truth, GREY, crop)
        for depth, crop in (
            (low, None),
            (low, Crop(0, 0, 16, 8)),
            (np.where(np.arange(128) > 100, 255, low), Crop(0, 0, 16, 8)),
        )
    )
    assert part.is_part and [stage.name for stage in part.stages] == ["output"]
    np.testing.assert_allclose(part.stages[0].depth, of_whole.stages[0].depth[:, :16], atol=1e-3)
    strips = [np.stack([strip.values for strip in found.gates.strips]) for found in (of_whole, part, elsewhere)]
    np.testing.assert_allclose(strips[0], strips[1], atol=1e-6)
    assert np.abs(strips[0] - strips[2]).max() > 1e-4
    sheet = part.picture()
    below = part.gates.picture()
    np.testing.assert_array_equal(sheet[-len(below) :, : below.shape[1]], below)


def test_what_would_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 1000)
    with pytest.raises(
        InputError, match=r"^it takes about 0\.0 GiB, and 0\.0 are free: free some, or use a larger machine$"
    ):
        watch(*scene(), GREY)


def test_the_truth_of_a_stage_is_that_of_training():
    truth = np.arange(96, dtype=np.float32).reshape(8, 12)
    truth[0, 0] = np.nan
    maps = [np.full((2, 2), -5, np.float32), np.zeros((4, 4), np.float32)]
    measure = GREY._replace(kernel="nearest_first")
    found = compared(np.zeros((2, 3), np.float32), maps, truth, measure, Crop(0, 0, 4, 4))
    x2, output = found.stages
    given = jnp.asarray(truth)[None, ..., None]
    ((wanted, known),) = losses.stage_truths(given, jnp.isfinite(given), [(4, 6)], "nearest_first")
    np.testing.assert_array_equal(np.isnan(x2.truth), [[True, False], [False, False]])
    np.testing.assert_array_equal(x2.truth[1:], np.asarray(wanted)[0, 1:2, :2, 0])
    assert not bool(known[0, 0, 0, 0]) and x2.truth[1, 1] == 26
    np.testing.assert_array_equal(output.truth, truth[:4, :4])
    assert not x2.depth.any(), "the protocol clips"


def test_the_middle():
    assert central(1080, 1320, 8) == Crop(528, 408, 256, 256)
    assert central(24, 512, 8) == Crop(128, 0, 256, 24)
    assert central(600, 600, 24) == Crop(168, 168, 240, 240)


def test_the_picture_has_a_column_for_each_stage():
    truth = np.full((4, 8), 50, np.float32)
    truth[:, 4:] = 150
    truth[0, 0] = np.nan
    stages = Stage("x2", truth[::2, ::2] + 10, truth[::2, ::2]), Stage("output", truth - 2, truth)
    found = Stages(truth[::4, ::4], stages, GREY)
    assert found.span == (50, 150) and found.largest == 2
    wide, tall = 28 * 8, 28 * 4
    sheet = found.picture()
    assert sheet.shape == (3 * (CAPTION + tall) + CAPTION + 1, 3 * wide + 2 * GAP, 3)

    def cell(row, column):
        top, left = CAPTION + row * (CAPTION + tall), column * (wide + GAP)
        return sheet[top : top + tall, left : left + wide]

    def large(picture):
        by = wide // picture.shape[1]
        return picture.repeat(by, 0).repeat(by, 1)

    assert (cell(0, 0)[:, wide // 2 :] == depth_colours(np.array([[150]]), 50, 150)[0, 0]).all()
    for column, stage in enumerate(stages, 1):
        for row, values in enumerate((stage.depth, stage.truth)):
            wanted = depth_colours(values, 50, 150, np.isfinite(values))
            np.testing.assert_array_equal(cell(row, column), large(wanted))
        np.testing.assert_array_equal(cell(2, column), large(heat_colours(stage.error, 2)))
    assert found.text(stages[1]) == "PSNR 42.11 dB, RMSE 2.000"
    for column in (1, 2):
        left = column * (wide + GAP)
        assert (sheet[-CAPTION:, left : left + wide] < 128).any(), "its numbers are missing"


def test_what_is_not_known_is_not_said():
    truth = np.full((2, 2), np.nan, np.float32)
    nothing = Stage("output", np.float32([[1, 2], [3, 4]]), truth)
    found = Stages(np.zeros((1, 1), np.float32), (nothing,), GREY)
    assert found.span == (1, 4) and found.text(nothing) == "" and found.largest == 1
    assert found.picture().shape[1] > 0
    right = Stage("output", nothing.depth, nothing.depth)
    assert found.text(right) == "PSNR inf dB, RMSE 0.000"
    unranged = GREY._replace(range=math.nan)
    off = Stage("output", nothing.depth + 2, nothing.depth)
    assert Stages(found.low, (off,), unranged).text(off) == "RMSE 2.000"
    np.testing.assert_array_equal(unranged.prepare(np.array([-1.0, 300])), [0, 300])
    np.testing.assert_array_equal(GREY.prepare(np.array([-1.0, 300])), [0, 255])


def test_what_cannot_be_shown():
    trained, low, known, guide, truth = scene()
    with pytest.raises(InputError, match=r"makes no 8 x 62 pixels of \(4, 32\) samples"):
        watch(trained, low, known, guide, truth[:, 2:], GREY)
    dada = Trained(DADA(2, features="rgb", iterations=1), {}, "largest")
    with pytest.raises(InputError, match=r"guide of \(8, 64, 0\): give one of \(8, 64, 3\)$"):
        watch(dada, low, known, guide[..., :0], truth, GREY)
    with pytest.raises(InputError, match="makes no stages on its way, and has no gates"):
        watch(dada, low, known, guide, truth, GREY)
