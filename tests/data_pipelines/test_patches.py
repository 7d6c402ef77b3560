"""Patches: each is a crop of the degraded whole, however it is turned, and lies where the rule says."""

import itertools

import numpy as np
import pytest

from ahmf_jax import resample
from data_pipelines import patches
from data_pipelines.datasets import Example
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
    image, scale, size = example(), 4, 5
    guide, depth, mask = (np.ascontiguousarray(turned(array, *turns)) for array in image[:3])
    whole_lr, whole_mask = degrade(depth, mask, scale, kernel)
    rows, columns = np.indices((12, 16))
    places = turned(np.stack([rows, columns], -1), *turns)
    for top, left in itertools.product((0, 3, 12 - size), (0, 6, 16 - size)):  # at the borders and inside
        patch = patches.cut(image, top, left, size, scale, Degradation(kernel), 10.0, RNG, *turns)
        cut_area = (places >= [top, left]).all(-1) & (places < [top + size, left + size]).all(-1)
        y, x = np.argwhere(cut_area)[0]
        lr, hr = np.s_[y : y + size, x : x + size], np.s_[y * 4 : (y + size) * 4, x * 4 : (x + size) * 4]
        np.testing.assert_allclose(patch.depth_lr[..., 0], whole_lr[lr], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(patch.mask_lr[..., 0], whole_mask[lr])
        np.testing.assert_array_equal(patch.depth_hr[..., 0], depth[hr])
        np.testing.assert_array_equal(patch.mask_hr[..., 0], mask[hr])
        np.testing.assert_array_equal(patch.guide, guide[hr])


def test_a_flip_keeps_the_sampling_of_nearest():
    image = example(known=1.1)
    for kernel, offset in (("nearest_first", 0), ("nearest_center", 1), ("nearest_last", 3)):
        for turns in itertools.product([False, True], repeat=3):
            patch = patches.cut(image, 2, 3, 4, 4, Degradation(kernel), 10.0, RNG, *turns)
            np.testing.assert_array_equal(patch.depth_lr, patch.depth_hr[offset::4, offset::4])


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
    found = positions(example(16, 24, known=1.1), 2, 4, 1, 3000)
    counts = np.zeros((3, 5))
    np.add.at(counts, tuple(found.T), 1)
    assert counts.min() > 140 and counts.max() < 260  # 200 each


def test_candidates_prefer_edges():
    depth = np.zeros((64, 64), np.float32)
    depth[40:48, 40:48] = 5
    image = Example(np.zeros((64, 64, 3), np.uint8), depth, np.ones((64, 64), bool), "square")
    touching = [
        np.mean([abs(y - 10) < 4 and abs(x - 10) < 4 for y, x in positions(image, 3, 4, n, 400)]) for n in (1, 20)
    ]
    assert touching[0] < 0.35 and touching[1] > 0.8


def test_mostly_unknown_patches_are_avoided_where_others_are():
    image = example(64, 64, known=1.1)
    image.mask[:, :40] = False
    image.depth[:, :32] = RNG.uniform(0, 100, (64, 32))  # full of edges, of which none is real
    found = positions(image, 4, 4, 4, 300)
    known = [image.mask[4 * y : 4 * y + 16, 4 * x : 4 * x + 16].mean() for y, x in found]
    assert np.mean(np.array(known) >= 0.5) > 0.95
    nothing = image._replace(mask=np.zeros((64, 64), bool))
    assert positions(nothing, 4, 4, 4, 3).shape == (3, 2)


def test_the_only_position_is_found():
    np.testing.assert_array_equal(positions(example(16, 16), 4, 4, 3, 5), np.zeros((5, 2)))
