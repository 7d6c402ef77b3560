"""Pictures of the diffusion: each shows what the model has after so many iterations, and says so."""

import dataclasses
import functools
import io
import itertools
import math

import jax
import numpy as np
import pytest
from PIL import Image

from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF, DADA
from ahmf_jax.state import init_params
from ahmf_jax.upsample import Upsampler
from ahmf_jax.variables import split
from experiments import diffusion_pictures as pictures
from experiments import figures
from experiments.diffusion_pictures import watch
from experiments.figures import Crop
from experiments.pictures import CAPTION, GAP, depth_colours, heat_colours

SCALE = 4
RGB = Trained(DADA(SCALE, features="rgb", iterations=150, deviation=0.8), {}, scaling="largest", unit="m", range=10.0)


@functools.cache
def scene(height=16, width=20, far=0.0):
    """Low resolution, its mask, a guide and the truth: two planes of two colours; nothing is known in a corner."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    truth = (4 + 0.05 * columns + 0.02 * rows).astype(np.float32)
    truth[:, width // 2 - 1 :] += 3
    truth[:, :8] -= far
    guide = rng.integers(0, 12, (height, width, 3)).astype(np.uint8)
    guide[:, width // 2 - 1 :] += 200
    low = truth.reshape(height // SCALE, SCALE, width // SCALE, SCALE).mean((1, 3))
    known = np.ones(low.shape, bool)
    known[0, -1] = False
    truth[:3, -4:] = np.nan
    return low, known, guide, truth


@functools.cache
def watched():
    low, known, guide, truth = scene()
    return watch(RGB, low, known, guide, truth=truth)


def test_each_frame_is_what_the_model_gives_after_so_many_iterations():
    low, known, guide, truth = scene()
    found = watched()
    assert found.counts[0] == 0 and found.counts[-1] == 150 and 100 in found.counts
    assert all(a < b for a, b in itertools.pairwise(found.counts))
    assert [found.counts[i] for i in found.stills] == [0, 100, 150]
    batch = {"depth_lr": low[None, ..., None] / 10, "mask_lr": known[None, ..., None], "guide": guide[None] / 255}
    for i in (0, found.counts.index(100), -1):
        model = RGB.model.clone(iterations=found.counts[i])
        whole = Upsampler(Trained(model, {}, scaling="largest")).batch(batch)[0, ..., 0] * 10
        np.testing.assert_allclose(found.depths[i], whole, rtol=2e-6)
    assert found.errors[-1] < 0.5 * found.errors[0], "the guide's edge is the depth's"
    there = np.isfinite(truth)
    assert found.errors[0] == pytest.approx(np.abs(found.depths[0] - truth)[there].mean(), rel=1e-6)
    assert found.span == (truth[there].min(), truth[there].max()) and found.unit == "m"
    # Nothing passes between the planes, nearly everything inside them.
    assert found.ch[:, 8].max() < 0.01 < 0.2 < np.median(found.ch) and found.cv.shape == (15, 20)
    assert found.ch[:, 8].shape == (16,) and found.ch.shape == (16, 19)


def test_depth_that_is_raised_is_lowered_again():
    low, known, guide, _ = scene(far=4.1)
    found = watch(RGB, low, known, guide)
    batch = {"depth_lr": low[None, ..., None] / 10, "mask_lr": known[None, ..., None], "guide": guide[None] / 255}
    whole = Upsampler(RGB).batch(batch)[0, ..., 0] * 10
    np.testing.assert_allclose(found.depths[-1], whole, rtol=1e-5, atol=1e-5)


def test_another_unit_is_the_same_diffusion():
    low, known, guide, truth = scene()
    found = watch(RGB, 100 * low, known, guide, truth=100 * truth, unit="cm")
    np.testing.assert_allclose(found.depths, 100 * watched().depths, rtol=1e-5)
    ranged = Trained(RGB.model, {}, unit="m", range=10.0)
    in_metres, in_cm = (watch(ranged, by * low, known, guide, unit=u) for by, u in ((1, "m"), (100, "cm")))
    np.testing.assert_allclose(in_cm.depths, 100 * in_metres.depths, rtol=1e-5)
    np.testing.assert_allclose(in_cm.ch, in_metres.ch, rtol=1e-4)


def test_a_part_is_what_it_is_in_the_whole_image():
    # What is far away from the part is so near the camera that all depth is raised before it is scaled.
    low, known, guide, truth = scene(32, 224, far=4.1)
    whole = watch(RGB, low, known, guide, truth=truth)
    crop = Crop(160, 0, 64, 32)
    part = watch(RGB, low, known, guide, truth=truth, crop=crop)
    inside = slice(0, 32), slice(160, 224)
    np.testing.assert_allclose(part.depths, whole.depths[:, *inside], rtol=1e-5)
    np.testing.assert_array_equal(part.cv, whole.cv[:31, 160:])
    np.testing.assert_array_equal(part.ch, whole.ch[:, 160:])
    np.testing.assert_array_equal(part.guide, guide[inside])
    np.testing.assert_array_equal(part.truth, truth[inside])
    for at in (0, 32):
        part = watch(RGB, low, known, guide, crop=Crop(at, 0, 32, 32))
        np.testing.assert_allclose(part.depths, whole.depths[:, :, at : at + 32], atol=1e-4)


def test_a_hole_larger_than_the_window_is_that_of_the_whole_image():
    low, known, guide, truth = scene(32, 224)
    known = known & (np.arange(56) < 20)  # the part's window begins at sample 24
    whole = watch(RGB, low, known, guide, truth=truth)
    assert whole.depths.min() > 4
    crop = Crop(160, 0, 64, 32)
    steps = []
    part = watch(RGB, low, known, guide, truth=truth, crop=crop, progress=lambda *step: steps.append(step))
    np.testing.assert_allclose(part.depths, whole.depths[:, :, 160:], rtol=1e-5)
    np.testing.assert_array_equal(part.ch, whole.ch[:, 160:])
    assert (part.is_part, part.measure) == (True, "MAE of this part")
    assert (whole.is_part, whole.measure) == (False, "MAE")
    assert steps == [(count, 150) for count in part.counts]
    scipys = dataclasses.replace(RGB, model=RGB.model.clone(initial="griddata"))
    low, known, guide, _ = scene(32, 224)
    whole, part = (watch(scipys, low, known, guide, crop=c) for c in (None, crop))
    np.testing.assert_allclose(part.depths, whole.depths[:, :, 160:], rtol=1e-5)


def test_a_learned_model():
    model = DADA(SCALE, "learned", "resnet18", 2, enlarge=1, iterations=2, gradient_iterations=3, deviation=0.7)
    shapes, rng = jax.eval_shape(lambda: init_params(model)), np.random.default_rng(0)

    def drawn(path, leaf):
        ones = path[-1].key in ("var", "scale")
        return np.ones(leaf.shape, np.float32) if ones else rng.normal(0, 0.1, leaf.shape).astype(np.float32)

    weights = {**jax.tree_util.tree_map_with_path(drawn, shapes), "log_contrast": np.float32(15)}  # as its features
    low, known, guide, truth = scene(32, 32)
    found = watch(Trained(model, weights, unit="m", range=10.0), low, known, guide, truth=truth)
    depth, aux = jax.jit(model.apply)(
        split(weights), low[None, ..., None] / 10, guide[None] / np.float32(255), mask_lr=known[None, ..., None]
    )
    assert found.counts == (0, 1, 2, 3, 4, 5), "those without a gradient and those with one"
    np.testing.assert_allclose(found.depths[-1], 10 * depth[0, ..., 0], rtol=1e-5)
    np.testing.assert_allclose(found.cv, aux["cv"][0, ..., 0], rtol=1e-4)
    assert found.cv.std() > 0.01 and not np.allclose(found.depths[-1], found.depths[0], rtol=1e-3)


def test_the_animation_says_and_shows_each_frame():
    found = watched()
    with Image.open(io.BytesIO(pictures.animation(found))) as moving:
        assert moving.n_frames == len(found.counts) and moving.info["loop"] == 0
        assert moving.size == (2 * 20 + GAP, 16 + CAPTION)
        for i in (0, len(found.counts) - 1):
            moving.seek(i)
            moving.load()
            shown = np.asarray(moving.convert("RGB")).astype(int)
            expected = depth_colours(found.depths[i], *found.span), heat_colours(found.error(i), found.largest)
            for left, picture in zip((0, 20 + GAP), expected, strict=True):
                assert np.abs(shown[CAPTION:, left : left + 20] - picture).mean() < 25, "of lossy compression"
    unknown = watch(RGB, *scene()[:3])
    with Image.open(io.BytesIO(pictures.animation(unknown))) as moving:
        assert moving.size == (20, 16 + CAPTION), "no truth, no errors"


def test_the_figure():
    found = watched()
    drawn = pictures.figure(found)
    shown = {axes.get_title(): axes.images[0] for axes in drawn.axes if axes.images}
    errors = [f"MAE {found.errors[i]:#.4g}" for i in found.stills]
    stills = ["before the first iteration", "100 iterations", "150 iterations"]
    assert list(shown) == [
        "guide",
        "truth",
        "cv: with the pixel below",
        "ch: with the pixel at the right",
        *itertools.chain(*zip(stills, errors, strict=True)),
    ]
    np.testing.assert_array_equal(shown["cv: with the pixel below"].get_array(), found.cv)
    for title, error, i in zip(stills, errors, found.stills, strict=True):
        np.testing.assert_array_equal(shown[title].get_array(), found.depths[i])
        assert shown[title].get_clim() == found.span
        wrong = shown[error].get_array()
        np.testing.assert_array_equal(wrong.mask, np.isnan(found.truth))
        assert shown[error].get_clim() == (0, found.largest)
    before, curve = drawn.axes[-1].lines
    np.testing.assert_array_equal(curve.get_xydata(), np.transpose([found.counts[1:], found.errors[1:]]))
    assert set(before.get_ydata()) == {found.errors[0]} and drawn.axes[-1].get_xscale() == "log"
    bars = [axes.get_ylabel() for axes in drawn.axes if not axes.images]
    assert bars == ["coefficient", "depth (m)", "error (m)", "MAE (m)"]
    pdf, png = figures.files(drawn)
    assert figures.MARKS[".pdf"] in pdf and figures.MARKS[".png"] in png
    assert figures.files(pictures.figure(found)) == (pdf, png)


def test_without_a_truth_there_are_no_errors():
    found = watch(RGB, *scene()[:3])
    assert all(math.isnan(error) for error in found.errors)
    assert found.span == (found.depths[-1].min(), found.depths[-1].max())
    titles = [axes.get_title() for axes in pictures.figure(found).axes if axes.images]
    assert "truth" not in titles and not any("MAE" in title for title in titles)


def test_what_cannot_be_shown():
    low, known, guide, _ = scene()
    with pytest.raises(InputError, match="does not diffuse: only DADA"):
        watch(Trained(AHMF(4, num_levels=1, features=2), {}), low, known, guide)
    with pytest.raises(InputError, match=r"cannot take \(4, 5\) samples with a guide of \(12, 20, 3\)"):
        watch(RGB, low, known, guide[:12])
    with pytest.raises(InputError, match=r"needs it above 0"):
        watch(RGB, low - 6, known, guide)
    with pytest.raises(InputError, match=r"beyond the model's range of 10 m"):
        watch(Trained(RGB.model, {}, unit="m", range=10.0), 3 * low, known, guide)
