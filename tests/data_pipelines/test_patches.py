"""Patches: each is a crop of the degraded whole, however it is turned, and lies where the rule says."""

import itertools

import numpy as np
import pytest

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from data_pipelines import patches
from data_pipelines.augment import rotated
from data_pipelines.datasets import Example
from data_pipelines.datasets.base import no_colour
from data_pipelines.datasets.dtu.builder import centre_mean
from data_pipelines.degrade import Degradation, degrade

RNG = np.random.default_rng(2)


def example(height=48, width=64, known=0.8):
    depth = RNG.uniform(0, 10, (height, width)).astype(np.float32)
    guide = RNG.integers(0, 256, (height, width, 3), np.uint8)
    return Example(guide, depth, RNG.random((height, width)) < known, "noise")


def turned(array, flip_rows, flip_columns, transpose):
    array = array[::-1] if flip_rows else array
    array = array[:, ::-1] if flip_columns else array
    return array.swapaxes(0, 1) if transpose else array


@pytest.mark.parametrize("kernel", resample.KERNELS)
@pytest.mark.parametrize("turns", list(itertools.product([False, True], repeat=3)))
def test_a_patch_is_a_crop_of_the_turned_and_degraded_image(kernel, turns):
    # The turned image is degraded as a whole, and holds the patch where the cut area has gone. For nearest_first this
    # fails if a finished patch is flipped instead: its samples would be the last of each block.
    image, scale, (height, width) = example(), 4, (5, 3)
    wanted = (width, height) if turns[2] else (height, width)
    guide, depth, mask = (np.ascontiguousarray(turned(array, *turns)) for array in image[:3])
    whole_lr, whole_mask = degrade(depth, mask, scale, kernel)
    rows, columns = np.indices((12, 16))
    places = turned(np.stack([rows, columns], -1), *turns)
    for top, left in itertools.product((0, 3, 12 - height), (0, 6, 16 - width)):  # at the borders and inside
        patch = patches.cut(image, top, left, (height, width), scale, Degradation(kernel), 10.0, RNG, *turns)
        assert patch.depth_lr.shape == (*wanted, 1)
        cut_area = (places >= [top, left]).all(-1) & (places < [top + height, left + width]).all(-1)
        y, x = np.argwhere(cut_area)[0]
        bottom, right = y + wanted[0], x + wanted[1]
        lr, hr = np.s_[y:bottom, x:right], np.s_[y * 4 : bottom * 4, x * 4 : right * 4]
        np.testing.assert_allclose(patch.depth_lr[..., 0], whole_lr[lr], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(patch.mask_lr[..., 0], whole_mask[lr])
        np.testing.assert_array_equal(patch.depth_hr[..., 0], depth[hr])
        np.testing.assert_array_equal(patch.mask_hr[..., 0], mask[hr])
        np.testing.assert_array_equal(patch.guide, guide[hr])


def test_a_flip_keeps_the_sampling_of_nearest():
    image = example(known=1.1)
    for kernel, offset in (("nearest_first", 0), ("nearest_center", 1), ("nearest_last", 3)):
        for turns in itertools.product([False, True], repeat=3):
            patch = patches.cut(image, 2, 3, (4, 4), 4, Degradation(kernel), 10.0, RNG, *turns)
            np.testing.assert_array_equal(patch.depth_lr, patch.depth_hr[offset::4, offset::4])


def rng():
    return np.random.default_rng(3)


def test_a_patch_has_the_images_span_wherever_it_is_cut():
    image = example(known=0.9)
    image.depth[~image.mask] = 99  # what fills a hole is not known
    image.mask[0, 0], image.depth[0, 0] = True, -1
    image.mask[47, 63], image.depth[47, 63] = True, 12
    for top, left in ((0, 0), (4, 5)):
        patch = patches.cut(image, top, left, (5, 5), 4, Degradation(), 10.0, rng())
        np.testing.assert_array_equal(patch.span, [-1, 12])
    assert patch.span.dtype == np.float32
    np.testing.assert_array_equal(patches.edge_table(image, 4, 0.1).span, [-1, 12])
    np.testing.assert_array_equal(patches.whole(image, 4, Degradation(), 10.0, rng()).span, [-1, 12])
    kept = patches.cut(image, 0, 0, (5, 5), 4, Degradation(), 10.0, rng(), span=np.array([2, 3], np.float32))
    np.testing.assert_array_equal(kept.span, [2, 3])
    np.testing.assert_array_equal(patches.known_span(image._replace(mask=np.zeros_like(image.mask))), [-1, 99])


def test_noise_of_the_image_is_by_its_span():
    image = example(known=1.1)
    image.depth[:] = 5
    image.depth[-1, -1] = 7  # far from the patch
    noisy = Degradation("area", noise_sigma=0.1, noise_of="image")
    patch = patches.cut(image, 0, 0, (11, 11), 4, noisy, 100.0, rng())
    assert patch.depth_lr.min() == 5  # clipped there
    assert patch.depth_lr.std() == pytest.approx(0.2 * np.sqrt(0.5 - 0.5 / np.pi), rel=0.2)  # half of a Gaussian


def test_low_resolution_and_truth_may_both_be_made_of_what_is_stored():
    """DSDMSR on DTU: of 1280 x 1024, here a tenth of it, the network is given a sixteenth and finds a half."""
    rng = np.random.default_rng(8)
    grey = rng.integers(0, 256, (96, 128)).astype(np.float32)
    image = Example(no_colour(grey.shape), grey, np.ones(grey.shape, bool), "stored")
    how = Degradation("torch_bilinear", reduce=2)
    patch = patches.whole(image, 8, how, 255.0, rng)
    np.testing.assert_allclose(patch.depth_lr[..., 0], centre_mean(grey, 16), rtol=1e-6)
    np.testing.assert_allclose(patch.depth_hr[..., 0], centre_mean(grey, 2), rtol=1e-6)
    assert patch.depth_lr.shape == (6, 8, 1) and patch.depth_hr.shape == patch.mask_hr.shape == (48, 64, 1)
    assert patch.guide.shape == (48, 64, 0) and patch.mask_hr.all()
    # Which the truth's own low resolution is not.
    assert np.abs(centre_mean(centre_mean(grey, 2), 8) - patch.depth_lr[..., 0]).max() > 30
    assert str(how) == "LR by torch_bilinear, of 2 times the resolution of the truth"
    for wrong in (0, 17, 1.5):
        with pytest.raises(InputError, match=f"Degradation.reduce is {wrong}: it must be a whole number from 1 to 16"):
            Degradation(reduce=wrong)


@pytest.mark.parametrize("kernel", ["matlab_bicubic", "nearest_first", "torch_bilinear", "area"])
@pytest.mark.parametrize("turns", [(False, False, False), (True, False, True), (False, True, False)])
def test_a_patch_is_a_crop_where_its_truth_is_reduced(kernel, turns):
    image, scale, size, step = example(), 2, 3, 4
    how = Degradation(kernel, reduce=2, guide_shift=2)
    guide, depth, mask = (np.ascontiguousarray(turned(array, *turns)) for array in image[:3])
    whole = patches.whole(image._replace(guide=guide, depth=depth, mask=mask), scale, how, 10.0, rng())
    places = turned(np.stack(np.indices((48 // step, 64 // step)), -1), *turns)
    for top, left in itertools.product((0, 4, 12 - size), (0, 6, 16 - size)):
        patch = patches.cut(image, top, left, (size, size), scale, how, 10.0, rng(), *turns)
        y, x = np.argwhere((places >= [top, left]).all(-1) & (places < [top + size, left + size]).all(-1))[0]
        lr, hr = np.s_[y : y + size, x : x + size], np.s_[y * 2 : (y + size) * 2, x * 2 : (x + size) * 2]
        for name, part in (("depth_lr", lr), ("mask_lr", lr), ("depth_hr", hr), ("mask_hr", hr), ("guide", hr)):
            wanted = getattr(whole, name)[part]
            np.testing.assert_allclose(getattr(patch, name), wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    # Colour is that of the blocks, as the depth is by `area`.
    blocks = image.guide.reshape(24, 2, 32, 2, 3).mean((1, 3))
    plain = patches.whole(image, scale, Degradation(kernel, reduce=2), 10.0, rng())
    assert np.abs(plain.guide - blocks).max() <= 0.5 and plain.guide.dtype == np.uint8
    np.testing.assert_array_equal(plain.depth_hr[..., 0], degrade(image.depth, image.mask, 2, kernel)[0])


@pytest.mark.parametrize("lr_from", ["image", "patch"])
def test_a_rotated_patch_whose_truth_is_reduced(lr_from):
    # Fails where the square that is turned is that of the truth, or ends where the patch does.
    image = example(64, 64, known=1.1)
    how = Degradation("matlab_bicubic", lr_from=lr_from, reduce=2)
    cut = patches.cut(image, 5, 6, (5, 5), 2, how, 10.0, rng(), degrees=12.0)
    around = Example(*rotated(*image[:3], 4, 8, (52, 52), 12.0), "")
    wanted = patches.whole(around, 2, how, 10.0, rng())
    for name in ("depth_hr", "guide"):
        one, other = (getattr(patch, name).astype(float) for patch in (cut, wanted))
        np.testing.assert_allclose(one, other[8:18, 8:18], atol=2e-3 if name == "depth_hr" else 1, err_msg=name)
    if lr_from == "image":
        np.testing.assert_allclose(cut.depth_lr, wanted.depth_lr[4:9, 4:9], atol=2e-3)


@pytest.mark.parametrize("kernel", resample.KERNELS)
def test_a_patch_degraded_alone_differs_at_its_border_only(kernel):
    image = example(known=1.1)
    alone = patches.cut(image, 2, 3, (9, 9), 4, Degradation(kernel, "patch"), 10.0, rng())
    inside = patches.cut(image, 2, 3, (9, 9), 4, Degradation(kernel, "image"), 10.0, rng())
    want = degrade(image.depth[8:44, 12:48], image.mask[8:44, 12:48], 4, kernel)[0]
    np.testing.assert_array_equal(alone.depth_lr[..., 0], want)
    np.testing.assert_allclose(alone.depth_lr[2:-2, 2:-2], inside.depth_lr[2:-2, 2:-2], rtol=1e-5)
    differs = not np.allclose(alone.depth_lr, inside.depth_lr, rtol=1e-3)
    assert differs == (kernel in ("matlab_bicubic", "pillow_bicubic"))  # the others read no other block


@pytest.mark.parametrize("transpose", [False, True])
def test_a_patch_is_a_crop_of_all_that_is_not_chance(transpose):
    image = example()
    how = Degradation(
        "pillow_bicubic",
        multipath_blur=1.0,
        lidar_lines=7,
        guide_shift=-3,
        guide_blur=1.0,
        guide_exposure=0.5,
    )
    cut = patches.cut(image, 2, 3, (7, 7), 4, how, 10.0, rng(), transpose=transpose)
    guide, depth, mask = (np.ascontiguousarray(turned(array, False, False, transpose)) for array in image[:3])
    whole = patches.whole(image._replace(guide=guide, depth=depth, mask=mask), 4, how, 10.0, rng())
    top, left = (3, 2) if transpose else (2, 3)
    lr, hr = np.s_[top : top + 7, left : left + 7], np.s_[top * 4 : top * 4 + 28, left * 4 : left * 4 + 28]
    np.testing.assert_array_equal(cut.mask_lr, whole.mask_lr[lr])
    lines = cut.mask_lr.any((1, 2))  # they are rows, in a transposed patch too
    assert cut.mask_lr[lines].mean() > 0.9 and 0 < lines.sum() < 7
    np.testing.assert_allclose(cut.depth_lr[cut.mask_lr], whole.depth_lr[lr][cut.mask_lr], rtol=1e-4)
    for name in ("guide", "depth_hr", "mask_hr"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[hr])


def test_the_guide_is_displaced_to_the_right_of_the_patch_that_is_returned():
    image = example()
    for turns in itertools.product([False, True], repeat=3):
        straight, shifted = (
            patches.cut(image, 2, 3, (6, 6), 4, Degradation(guide_shift=n), 10.0, rng(), *turns).guide for n in (0, 2)
        )
        np.testing.assert_array_equal(shifted[:, 2:], straight[:, :-2])


def test_a_whole_image_is_the_degradation_itself():
    image = example()
    whole = patches.whole(image, 4, Degradation("area"), 10.0, rng())
    depth_lr, mask_lr = degrade(image.depth, image.mask, 4, "area")
    for got, want in zip(whole, (depth_lr, image.guide, image.depth, mask_lr, image.mask), strict=False):
        np.testing.assert_array_equal(got.reshape(want.shape), want)
    assert [array.shape for array in whole] == [
        (12, 16, 1),
        (48, 64, 3),
        (48, 64, 1),
        (12, 16, 1),
        (48, 64, 1),
        (2,),
    ]
    assert whole.guide.dtype == np.uint8 and whole.depth_lr.dtype == np.float32 and whole.mask_lr.dtype == bool
    with pytest.raises(InputError, match="scale 5 does not divide 48 x 64"):
        patches.whole(image, 5, Degradation(), 10.0, rng())


def test_a_patch_follows_from_its_place_and_its_generator():
    image = example(known=0.9)
    how = Degradation(
        noise_sigma=0.05, tof_sigma=0.01, flying_pixels=0.5, dropouts=0.2, guide_blur=1.0, multipath_blur=0.5
    )
    first, again = (patches.cut(image, 1, 2, (8, 8), 4, how, 10.0, rng()) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other = patches.cut(image, 1, 2, (8, 8), 4, how, 10.0, np.random.default_rng(4))
    assert (other.mask_lr != first.mask_lr).any() and (other.depth_lr != first.depth_lr).mean() > 0.9
    np.testing.assert_array_equal(other.guide, first.guide)


def test_crop_to_multiple_cuts_bottom_and_right():
    image = example(50, 67)
    cropped = patches.crop_to_multiple(image, 4)
    np.testing.assert_array_equal(cropped.depth, image.depth[:48, :64])
    np.testing.assert_array_equal(cropped.guide, image.guide[:48, :64])
    np.testing.assert_array_equal(cropped.mask, image.mask[:48, :64])
    assert cropped.name == image.name


def test_the_table_counts_edges_and_known_pixels():
    depth = np.zeros((8, 8), np.float32)
    depth[:, 3:] = 1  # a step between columns 2 and 3
    depth[5:, 3:] = 1.05  # a step too small to count
    image = Example(np.zeros((8, 8, 3), np.uint8), depth, np.ones((8, 8), bool), "step")
    table = patches.edge_table(image, 4, 0.1)
    np.testing.assert_array_equal(table.edges, [[0, 0, 0], [0, 4, 4], [0, 8, 8]])
    np.testing.assert_array_equal(table.known, [[0, 0, 0], [0, 16, 32], [0, 32, 64]])
    # Beside a hole an edge still counts; within one it does not.
    beside, within = image.mask.copy(), image.mask.copy()
    beside[:, 3:] = False
    within[:, 2:4] = False
    for mask, edges in ((beside, 8), (within, 0)):
        assert patches.edge_table(image._replace(mask=mask), 4, 0.1).edges[-1, -1] == edges
        assert patches.edge_table(image._replace(depth=depth.T, mask=mask.T), 4, 0.1).edges[-1, -1] == edges


def positions(image, size, scale, candidates, count, step=0.1):
    table = patches.edge_table(image, scale, step)
    rng = np.random.default_rng(0)
    return np.array([patches.choose(table, size, scale, candidates, rng) for _ in range(count)])


def test_one_candidate_is_uniform_over_every_position():
    found = positions(example(16, 24, known=1.1), (2, 3), 4, 1, 3000)
    counts = np.zeros((3, 4))
    np.add.at(counts, tuple(found.T), 1)
    assert counts.min() > 180 and counts.max() < 320  # 250 each


def test_candidates_prefer_edges():
    depth = np.zeros((64, 64), np.float32)
    depth[40:48, 40:48] = 5
    image = Example(np.zeros((64, 64, 3), np.uint8), depth, np.ones((64, 64), bool), "square")
    touching = [
        np.mean([abs(y - 10) < 4 and abs(x - 10) < 4 for y, x in positions(image, (3, 3), 4, n, 400)]) for n in (1, 20)
    ]
    assert touching[0] < 0.35 and touching[1] > 0.8


def test_mostly_unknown_patches_are_avoided_where_others_are():
    image = example(64, 64, known=1.1)
    image.mask[:, :40] = False
    image.depth[:, :32] = RNG.uniform(0, 100, (64, 32))  # full of edges, of which none is real
    found = positions(image, (4, 4), 4, 4, 300)
    known = [image.mask[4 * y : 4 * y + 16, 4 * x : 4 * x + 16].mean() for y, x in found]
    assert np.mean(np.array(known) >= 0.5) > 0.95
    nothing = image._replace(mask=np.zeros((64, 64), bool))
    assert positions(nothing, (4, 4), 4, 4, 3).shape == (3, 2)


def test_the_only_position_is_found():
    np.testing.assert_array_equal(positions(example(16, 24), (4, 6), 4, 3, 5), np.zeros((5, 2)))


def test_known_pixels_are_counted_in_the_whole_rectangle():
    # The only edge is in the topmost of three patches of 8 x 24: that is taken, unless it is mostly unknown.
    image = example(16, 24, known=1.1)
    image.depth[:], image.depth[0] = 1, 9
    np.testing.assert_array_equal(positions(image, (2, 6), 4, 60, 20), np.zeros((20, 2)))
    image.mask[2:8] = False
    assert set(positions(image, (2, 6), 4, 60, 20)[:, 0]) <= {1, 2}
