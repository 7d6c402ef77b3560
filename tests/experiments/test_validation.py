"""Validations of a run: they agree with evaluations, add up over processes, and stop at a signal."""

import dataclasses
import functools
import json
import typing

import numpy as np
import pytest
from PIL import Image

from ahmf_jax import memory, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.models import DADA
from data_pipelines.datasets import open_dataset, open_pairs
from data_pipelines.degrade import Degradation
from experiments import evaluate, methods, validation
from experiments.config import DataConfig, TrainConfig
from experiments.pictures import CAPTION, Made, validation_picture
from experiments.protocols import PROTOCOLS, Protocol, run_protocol

NEAREST = Protocol(Degradation("nearest_first"), floor="nearest_first", rounding="uint8")


class Fake:
    """Stands in for a method: a function of the batch."""

    name = origin = "fake"
    scale = 2

    def __init__(self, function):
        self.batch = function


class Network:
    """Stands in for a model: everywhere `value`, in units of the range."""

    guided = True
    scale = 2
    bytes_per_sample = 0.0

    def apply(self, variables, depth_lr, guide, mask_lr):
        import jax.numpy as jnp

        return jnp.full((*guide.shape[:3], 1), variables["params"]["value"]), {}


def validated(dataset, protocol=NEAREST, places=None, **options):
    examples = ((i, dataset[i]) for i in (range(len(dataset)) if places is None else places))
    params = {"value": np.float32(105.4 / 255)}
    return validation.validate(Network(), "range", params, examples, dataset.info, protocol, **options)


@pytest.mark.parametrize("rounding", ["uint8", "none"])
def test_a_validation_is_the_mean_row_of_an_evaluation(pairs, rounding):
    dataset, protocol = open_pairs(pairs), dataclasses.replace(NEAREST, rounding=rounding)
    fake = Fake(lambda b: np.full_like(b["depth_hr"], 105.4 / 255))
    mean = evaluate.measure_all(fake, dataset, "", protocol).mean
    means = validated(dataset, protocol).means
    wanted = {n: mean.metrics[n] for n in ("mae", "rmse")} | {f"floor_{n}": mean.floor[n] for n in ("mae", "rmse")}
    assert means == pytest.approx(wanted, rel=1e-6)
    assert means["floor_mae"] == pytest.approx((7.5 + 150 / 16) / 2)


def test_what_processes_find_adds_up(pairs):
    dataset = open_pairs(pairs)
    shares = [validated(dataset, places=[i]) for i in range(2)]
    again = [validation.Validation(**json.loads(json.dumps(share.sums))) for share in shares]
    total = again[0] + again[1] + validation.Validation()  # a process more than there are images
    assert total == validated(dataset) and total.images == 2
    assert shares[0].means["mae"] != total.means["mae"]


def test_the_floor_is_measured_once_a_run(pairs, monkeypatch):
    dataset, floors, calls = open_pairs(pairs), {}, []
    interpolate = methods.interpolate
    monkeypatch.setattr(validation, "interpolate", lambda *args: calls.append(args) or interpolate(*args))
    first, second = (validated(dataset, floors=floors) for _ in range(2))
    assert len(calls) == 2 and first == second == validated(dataset)


def test_a_signal_ends_a_validation_before_the_next_image(pairs):
    class Stop:
        requested = False

    def examples():
        yield 0, dataset[0]
        Stop.requested = True
        yield 1, dataset[1]
        raise AssertionError

    dataset, params = open_pairs(pairs), {"value": np.float32(0)}
    assert validation.validate(Network(), "range", params, examples(), dataset.info, NEAREST, stop=Stop) is None
    Stop.requested = False
    assert validated(dataset, stop=Stop).images == 2


def test_an_image_without_a_known_pixel_is_not_counted(pairs):
    depth = np.zeros((4, 4), np.uint8)
    depth[0, 0] = 100  # outside the border
    Image.fromarray(depth).save(pairs / "b_depth.png")
    dataset, inside = open_pairs(pairs, invalid=0), dataclasses.replace(NEAREST, border=1)
    found = validated(dataset, inside, samples=2)
    assert found.images == 1 and found.means["mae"] == pytest.approx(5)
    assert [sample.name for sample in found.samples] == ["a", "b"]
    with pytest.raises(InputError, match=r"no image to validate on has known depth: choose another --data.validation"):
        validated(dataset, inside, places=[1]).means  # noqa: B018


def test_the_first_images_are_kept_with_what_was_made_of_them(pairs):
    dataset = open_pairs(pairs)
    assert validated(dataset).samples == ()
    (sample,) = validated(dataset, samples=1).samples
    assert sample.name == "a" and sample.prediction.depth.shape == (1, 4, 4, 1)
    assert sample.prediction.stages is None, "a model that makes none"
    np.testing.assert_allclose(sample.prediction.depth, 105.4 / 255, rtol=1e-6)
    np.testing.assert_allclose(sample.batch["depth_hr"][0, ..., 0] * 255, dataset[0].depth, rtol=1e-6)


@pytest.mark.parametrize("guided", [True, False])
def test_colour_is_handed_to_a_guided_model_alone_and_shown_of_any(pairs, guided):
    handed = []

    class Handed(Staged):
        def apply(self, variables, depth_lr, guide, mask_lr):
            handed.append(guide.shape)
            return super().apply(variables, depth_lr, guide, mask_lr)

    Handed.guided = guided
    dataset = open_pairs(pairs)
    protocol = Protocol(Degradation("torch_bilinear"), "torch_bilinear")
    found = validation.validate(Handed(), "range", {}, [(0, dataset[0])], dataset.info, protocol, samples=1)
    assert handed == [(1, 4, 4, 3 * guided)]
    np.testing.assert_array_equal(np.rint(255 * found.samples[0].batch["guide"][0]), dataset[0].guide)


class Staged:
    """Stands in for a model that makes two maps on its way: 0.2 and 0.3 everywhere, and 0.4 in the end."""

    guided = False
    scale = 4
    bytes_per_sample = 0.0

    def apply(self, variables, depth_lr, guide, mask_lr):
        import jax.numpy as jnp

        two, four = (jnp.full((1, n * depth_lr.shape[1], n * depth_lr.shape[2], 1), v) for n, v in ((2, 0.2), (4, 0.3)))
        return four + 0.1, {"stages": (two, four)}


def test_the_stages_of_a_model_are_kept_beside_their_truths(pairs):
    dataset = open_pairs(pairs)
    protocol = Protocol(Degradation("torch_bilinear"), "torch_bilinear", clip=True)
    examples = [(i, dataset[i]) for i in range(2)]
    args = Staged(), "range", {}, examples, dataset.info, protocol
    found = validation.validate(*args, samples=2)
    depth, stages = found.samples[1].prediction
    np.testing.assert_allclose(depth, 0.4, rtol=1e-6)
    assert [stage.name for stage in stages.stages] == ["x2", "x4", "output"]
    two, four, output = stages.stages
    np.testing.assert_allclose(two.depth, np.full((2, 2), 51), rtol=1e-6)
    np.testing.assert_allclose(output.depth, np.full((4, 4), 102), rtol=1e-6)
    # The second image: 2 x 2 blocks of 100 and three times 110, the first with one of 140.
    np.testing.assert_allclose(two.truth, [[115, 107.5], [107.5, 107.5]], rtol=1e-6)
    np.testing.assert_array_equal(four.truth, dataset[1].depth)
    other = validation.validate(*args, samples=2, stage_kernel="nearest_first").samples[1].prediction.stages
    np.testing.assert_allclose(other.stages[0].truth, dataset[1].depth[::2, ::2], rtol=1e-6)
    np.testing.assert_allclose(other.low, stages.low)
    np.testing.assert_allclose(stages.low, [[115]], rtol=1e-6)  # the mean of the middle four
    assert stages.measure.unit == "grey levels" and stages.measure.range == 255 and not stages.is_part
    mse = np.mean((102 - dataset[1].depth) ** 2)
    assert stages.psnr(output) == pytest.approx(10 * np.log10(255**2 / mse))
    picture = validation_picture(found.samples[1].batch, found.samples[1].prediction)
    row = validation_picture(found.samples[1].batch, Made(depth))
    np.testing.assert_array_equal(picture[: row.shape[0], : row.shape[1]], row)
    below = stages.picture()
    np.testing.assert_array_equal(picture[row.shape[0] :], below)
    maps = {name: image for name, image in found.samples[1].batch.items() if image.ndim == 4}
    *large, depth = (image.repeat(100, 1).repeat(400, 2) for image in (*maps.values(), depth))
    picture = validation_picture(dict(zip(maps, large, strict=True)), Made(depth, stages))
    assert picture.shape == (CAPTION + 43 + below.shape[0], below.shape[1], 3), "the row is no wider"


def test_chance_in_a_validation_is_that_of_an_evaluation(pairs):
    dataset, seen = open_pairs(pairs), []
    protocol = Protocol(Degradation("nearest_first", noise_sigma=0.1), "nearest_first", "uint8")
    evaluate.measure_all(Fake(lambda b: seen.append(b["depth_lr"]) or b["depth_hr"]), dataset, "", protocol)
    (second,) = validated(dataset, protocol, places=[1], samples=1).samples
    np.testing.assert_array_equal(second.batch["depth_lr"], seen[1])


def test_an_image_that_memory_would_not_hold_is_validated_in_tiles(tmp_path, monkeypatch):
    """The second image alone, with the numbers of the whole; what is not in memory is never computed at once."""
    rng = np.random.default_rng(0)
    for name, width in (("a", 8), ("b", 400)):
        Image.fromarray(rng.integers(100, 200, (8, width), np.uint8)).save(tmp_path / f"{name}_depth.png")
        Image.fromarray(rng.integers(0, 256, (8, width, 3), np.uint8)).save(tmp_path / f"{name}_rgb.png")
    dataset = open_pairs(tmp_path)
    model = DADA(scale=2, features="rgb", iterations=5)
    args = model, "range", {}, [(i, dataset[i]) for i in range(2)], dataset.info, NEAREST
    whole = validation.validate(*args, samples=2)
    run_whole, run_in_tiles, sizes = validation._whole(), upsample.Upsampler.batch, []

    def spied(name, run, *given):
        sizes.append((name, given[-1]["depth_lr"].shape[2]))
        return run(*given)

    monkeypatch.setattr(validation, "_whole", lambda: functools.partial(spied, "whole", run_whole))
    monkeypatch.setattr(upsample.Upsampler, "batch", lambda *given: spied("tiles", run_in_tiles, *given))
    monkeypatch.setattr(memory, "free", lambda device: 1.9 * model.bytes_per_sample * 4 * 200)
    found = validation.validate(*args, samples=2)
    assert sizes == [("whole", 4), ("tiles", 200)]
    assert found.means == pytest.approx(whole.means, abs=1e-4) and found.images == 2
    for sample, wanted in zip(found.samples, whole.samples, strict=True):
        np.testing.assert_allclose(sample.prediction.depth, wanted.prediction.depth, atol=1e-6)


def test_the_protocol_of_a_validation(pairs, data_dir):
    dataset = open_pairs(pairs)
    config = TrainConfig(data=DataConfig(degrade=Degradation("area")))
    assert validation.validation_protocol(config, dataset) == run_protocol(Degradation("area"))
    names = typing.get_args(typing.get_type_hints(TrainConfig)["validation_protocol"])
    # A validation is of whole images, and its mean over them.
    assert set(names) == {"run", *(name for name, p in PROTOCOLS.items() if not p.tile and p.averaging == "images")}
    for name in set(names) - {"run"}:
        config = dataclasses.replace(config, validation_protocol=name)
        assert validation.validation_protocol(config, dataset) == PROTOCOLS[name]
    config = TrainConfig(validation_protocol="ahmf_table1")
    with pytest.raises(InputError, match=r"scenes has a range of 10 m: use --validation-protocol float"):
        validation.validation_protocol(config, open_dataset("scenes", "test", data_dir))
    with pytest.raises(InputError, match=r"a is smaller than the protocol's border of 6 pixels twice"):
        validated(dataset, PROTOCOLS["b6"])
