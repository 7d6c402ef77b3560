"""Augmentation: what a rotated patch is made of, where it may lie, and which patches are drawn anew."""

import hashlib
import itertools
import math

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import patches
from data_pipelines.augment import PLAIN, Augmentation, rotated
from data_pipelines.datasets import Dataset, DatasetInfo, Example
from data_pipelines.degrade import Degradation, degrade, degrade_guide
from data_pipelines.loader import DRAWS, train_loader

RNG = np.random.default_rng(5)
DEGREE = math.pi / 180
ALONE = Degradation("area", lr_from="patch")
ARGS = {"scale": 4, "patch_size": 16, "batch_size": 4, "degradation": ALONE}


def image(height=40, width=48, known=1.0):
    depth = RNG.uniform(1, 9, (height, width)).astype(np.float32)
    guide = RNG.integers(0, 256, (height, width, 3), np.uint8)
    return Example(guide, depth, RNG.random((height, width)) < known, "noise")


def places(top, left, size, degrees):
    """Row and column in the image of each pixel of the turned rectangle, in the words of its docstring."""
    middle = complex(left + (size[1] - 1) / 2, -(top + (size[0] - 1) / 2))  # the imaginary axis goes up
    rows, columns = np.indices(size)
    there = (columns + left - 1j * (rows + top)) - middle
    found = middle + there * np.exp(-1j * math.radians(degrees))
    return -found.imag, found.real


def weights(example, rows, columns):
    """The four samples of each place, clipped to the image: (row, column, weight, whether it is in the image)."""
    height, width = example.depth.shape
    y, x = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for i, j in itertools.product((0, 1), repeat=2):
        weight = np.abs(1 - i - (rows - y)) * np.abs(1 - j - (columns - x))
        inside = (y + i >= 0) & (y + i < height) & (x + j >= 0) & (x + j < width)
        yield (y + i).clip(0, height - 1), (x + j).clip(0, width - 1), weight, inside


def test_what_is_seen_turns_counter_clockwise():
    # Fails with the other sign, and with a middle that is half a pixel off.
    example = image()
    for degrees, turns in ((90, 1), (180, 2), (-90, -1)):
        guide, depth, mask = rotated(*example[:3], 8, 11, (17, 17), degrees)
        part = np.s_[8:25, 11:28]
        np.testing.assert_array_equal(guide, np.rot90(example.guide[part], turns))
        np.testing.assert_allclose(depth, np.rot90(example.depth[part], turns), rtol=1e-4)
        assert mask.all()


@pytest.mark.parametrize("degrees", [7.3, -15.0, 41.0])
@pytest.mark.parametrize("size", [(18, 18), (11, 24)])
@pytest.mark.parametrize("top, left", [(10, 12), (-5, 30)])  # inside, and partly beyond
def test_depth_and_guide_are_bilinear_and_known_where_all_samples_are(degrees, top, left, size):
    example = image(known=0.9)
    guide, depth, mask = rotated(*example[:3], top, left, size, degrees)
    want_depth, want_guide, known = np.zeros(size), np.zeros((*size, 3)), np.ones(size, bool)
    for y, x, weight, inside in weights(example, *places(top, left, size, degrees)):
        want_depth += weight * example.depth[y, x]
        want_guide += weight[..., None] * example.guide[y, x]
        known &= (weight < 1e-4) | (inside & example.mask[y, x])
    np.testing.assert_allclose(depth, want_depth, atol=1e-3)
    np.testing.assert_allclose(guide, want_guide, atol=0.51 + 1e-2)
    np.testing.assert_array_equal(mask, known)
    assert 0.15 < mask.mean() < 0.9 and depth.dtype == np.float32 and guide.dtype == np.uint8 and mask.dtype == bool


def test_no_known_depth_is_mixed_with_what_fills_a_hole():
    example = image(known=0.9)
    filled = np.where(example.mask, example.depth, np.float32(1e6))
    (_, one, mask), (_, other, _) = (
        rotated(example.guide, d, example.mask, 9, 9, (20, 20), 11.0) for d in (filled, -filled)
    )
    np.testing.assert_array_less(one[mask], 10)
    np.testing.assert_array_equal(one[mask], -other[mask])
    assert mask.sum() > 100 and one[~mask].max() > 100


def test_a_rotated_patch_is_degraded_then():
    example = image(known=0.9)
    patch = patches.cut(
        example, 2, 3, (5, 5), 4, ALONE, 10.0, np.random.default_rng(0), False, True, True, degrees=12.0
    )
    guide, depth, mask = (x[:, ::-1].swapaxes(0, 1) for x in rotated(*example[:3], 8, 12, (20, 20), 12.0))
    np.testing.assert_array_equal(patch.depth_hr[..., 0], depth)
    np.testing.assert_array_equal(patch.mask_hr[..., 0], mask)
    np.testing.assert_array_equal(patch.guide, guide)
    depth_lr, mask_lr = degrade(depth, mask, 4, "area")
    np.testing.assert_array_equal(patch.depth_lr[..., 0], depth_lr)
    np.testing.assert_array_equal(patch.mask_lr[..., 0], mask_lr)
    # By hand: the mean of what is known of a block.
    blocks = np.where(mask, depth, np.nan).reshape(5, 4, 5, 4)
    np.testing.assert_allclose(depth_lr[mask_lr], np.nanmean(blocks, axis=(1, 3))[mask_lr], rtol=1e-5)


@pytest.mark.parametrize("turns", [(False, False, False), (True, False, True)])
def test_a_rotated_patch_is_a_crop_of_all_that_is_not_chance(turns):
    # Fails where the patch is degraded without what is around it.
    example, scale, size = image(64, 64, known=0.9), 4, 5
    how = Degradation("matlab_bicubic", multipath_blur=1.0, guide_shift=3, guide_blur=1.0)
    cut = patches.cut(example, 5, 6, (size, size), scale, how, 10.0, np.random.default_rng(0), *turns, degrees=12.0)
    # A larger square about the same middle, degraded as a whole.
    around = Example(*rotated(*example[:3], 4, 8, (52, 52), 12.0), "")
    whole = patches.cut(around, 0, 0, (13, 13), scale, how, 10.0, np.random.default_rng(0), *turns)
    inside = slice(4, 9), slice(4, 9)
    np.testing.assert_allclose(cut.depth_lr, whole.depth_lr[inside], rtol=1e-4)
    np.testing.assert_array_equal(cut.mask_lr, whole.mask_lr[inside])
    for name in ("guide", "depth_hr", "mask_hr"):
        one, other = (getattr(patch, name).astype(float) for patch in (cut, whole))
        tolerance = 1 if name == "guide" else 1e-3  # of interpolation: a level where it is rounded
        np.testing.assert_allclose(one, other[16:36, 16:36], atol=tolerance)
    alone = Degradation("matlab_bicubic", lr_from="patch")
    other = patches.cut(example, 5, 6, (size, size), scale, alone, 10.0, np.random.default_rng(0), *turns, degrees=12.0)
    want = degrade(other.depth_hr[..., 0], other.mask_hr[..., 0], scale, "matlab_bicubic")[0]
    np.testing.assert_array_equal(other.depth_lr[..., 0], want)


def test_the_guide_of_another_camera_is_displaced_after_the_rotation():
    example = image()
    shifted, straight = (
        patches.cut(
            example,
            *(3, 3, (4, 4), 4),
            Degradation("area", "patch", guide_shift=shift, guide_blur=1.0),
            *(10.0, np.random.default_rng(0)),
            degrees=9.0,
        ).guide.astype(int)
        for shift in (3, 0)
    )
    # What is displaced into the patch is seen around it: nothing of its own border goes on. (One level of rounding.)
    assert np.abs(shifted[:, 3:] - straight[:, :-3]).max() <= 1
    around = rotated(*example[:3], 4, 4, (32, 32), 9.0)[0]
    blurred = degrade_guide(around, Degradation(guide_blur=1.0), slice(0, 32), slice(0, 32)).astype(int)
    assert np.abs(shifted[:, :3] - blurred[8:24, 5:8]).max() <= 1


def corners_inside(grid, size, scale, top, left, degrees):
    rows, columns = places(top * scale, left * scale, (size[0] * scale, size[1] * scale), degrees)
    height, width = (n * scale - 1 for n in grid)
    slack = 1e-4
    return min(rows.min(), columns.min()) > -slack and rows.max() < height + slack and columns.max() < width + slack


# Image and patch in samples of 4 pixels, and the pixels that are free beside the patch, in whole samples on each side.
@pytest.mark.parametrize(
    ("grid", "size", "rooms"),
    [
        ((5, 9), (5, 5), (0, 8)),
        ((6, 6), (5, 5), (0, 0)),
        ((11, 14), (9, 9), (4, 8)),
        ((12, 11), (9, 9), (4, 4)),
        ((20, 30), (5, 5), (28, 48)),
        ((5, 9), (5, 9), (0, 0)),
        ((9, 13), (5, 9), (8, 8)),
        ((13, 9), (9, 5), (8, 8)),
        ((16, 17), (4, 16), (24, 0)),
        ((16, 18), (4, 16), (24, 4)),  # there is room for every angle at the sides, but for no small one
    ],
)
def test_inside_a_patch_is_wholly_in_the_image_by_a_smaller_angle_where_need_be(grid, size, rooms):
    how, scale, rng = Augmentation(rotate=30), 4, np.random.default_rng(1)
    angles = []
    for _ in range(200):
        degrees, border = how.angle(grid, size, scale, rng)
        angles.append(degrees)
        ends = ((beside, n - side - beside) for n, side, beside in zip(grid, size, border, strict=True))
        for top, left in itertools.product(*ends):
            assert border[0] <= top and border[1] <= left
            assert corners_inside(grid, size, scale, top, left, degrees), (degrees, border)
    # The widest angle by trial: up to where the turned rectangle still fits between.
    tried = np.arange(0, 30.01, 0.1)
    turn = np.array(
        [[np.cos(tried * DEGREE), np.sin(tried * DEGREE)], [np.sin(tried * DEGREE), np.cos(tried * DEGREE)]]
    )
    half = (np.array(size) * scale - 1) / 2
    beyond = np.einsum("ijn,j->in", turn, half) - half[:, None]
    fits = np.logical_and.accumulate((beyond <= np.array(rooms)[:, None] + 1e-9).all(0))
    assert max(map(abs, angles)) == pytest.approx(tried[fits].max(), abs=0.5)
    assert min(angles) < 0 < max(angles) if fits[1] else max(map(abs, angles)) < 1e-6


def test_a_rectangle_is_not_transposed():
    for flips, most in (("mirror", 2), ("none", 1)):
        example = image(16, 24)
        found = take(loader(example, patch_width=24, augmentation=Augmentation(flips)), 10)
        assert len({b["guide"][i].tobytes() for b in found for i in range(4)}) == most
    with pytest.raises(
        InputError, match=r"flips is 'all', which transposes, and patches are 16 x 24: choose mirror or"
    ):
        loader(image(), patch_width=24)
    PLAIN.check_patch((24, 24))


def test_with_unknown_corners_a_patch_may_be_anywhere():
    how, rng = Augmentation(rotate=10, corners="unknown"), np.random.default_rng(1)
    drawn = [how.angle((5, 9), (5, 5), 4, rng) for _ in range(500)]
    angles = np.array([degrees for degrees, _ in drawn])
    assert {border for _, border in drawn} == {(0, 0)}
    assert angles.std() == pytest.approx(10 / math.sqrt(3), rel=0.1) and np.abs(angles).max() < 10


class Stored:
    """Images kept in memory, 0 where depth is unknown."""

    def __init__(self, *images):
        self.images = images
        self.names = [f"image{n}" for n in range(len(images))]

    def __len__(self):
        return len(self.images)

    def read(self, index):
        return (*self.images[index], self.names[index])


def stored(example):
    return example.guide, np.where(example.mask, example.depth, np.float32(0))


def loader(*examples, **more):
    dataset = Dataset(DatasetInfo("memory", "m", 10.0, 0.0, "none", ""), Stored(*map(stored, examples)))
    return train_loader(dataset, **ARGS | more)


def take(batches, count):
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


@pytest.mark.parametrize("flips, seen", [("none", 1), ("mirror", 2), ("all", 8)])
def test_flips(flips, seen):
    y, x = np.indices((16, 16))
    example = image(16, 16)._replace(guide=np.stack([10 * y, 10 * x, 0 * x], -1).astype(np.uint8))
    found = {
        b["guide"][i].tobytes() for b in take(loader(example, augmentation=Augmentation(flips)), 20) for i in range(4)
    }
    assert len(found) == seen
    plain = (example.guide / np.float32(255)).tobytes()
    mirrored = (example.guide[:, ::-1] / np.float32(255)).tobytes()
    assert plain in found and (mirrored in found) == (flips != "none")


def test_a_rotated_stream_follows_from_its_seed_and_place():
    examples = [image(known=0.95), image(30, 44, known=0.95)]
    how = Augmentation("mirror", rotate=15, min_known=0.7)
    args = {"augmentation": how, "seed": 3}
    whole = take(loader(*examples, **args), 6)
    second = loader(*examples, **args)
    second.set_state({"examples": 12})
    for one, other in zip(whole[3:], take(second, 3), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    # What is told of a batch is what it is made of.
    for row, said in enumerate(second.describe(16)):
        example = examples[int(said["image"][-1])]
        guide = rotated(*example[:3], said["top"], said["left"], (said["height"],) * 2, said["degrees"])[0]
        guide = guide[:, ::-1] if said["mirrored"] else guide
        np.testing.assert_array_equal(whole[4]["guide"][row], guide / np.float32(255))
        assert abs(said["degrees"]) <= 15 and not said["upside_down"] and not said["transposed"]
    straight = take(loader(*examples, seed=3), 1)[0]
    assert not np.array_equal(straight["guide"], whole[0]["guide"])
    assert [said["degrees"] for said in loader(*examples, seed=3).describe(0)] == [0.0] * 4


def test_patches_with_too_little_known_depth_are_drawn_anew():
    example = image(64, 64)
    example.mask[:, :44] = RNG.random((64, 44)) < 0.3
    shares = {}
    for least in (0.0, 0.8):
        how = Augmentation("none", rotate=15, min_known=least, min_known_lr=least)
        batches = take(loader(example, augmentation=how), 25)
        shares[least] = np.array(
            [[b[name][i].mean() for name in ("mask_lr", "mask_hr")] for b in batches for i in range(4)]
        )
    assert shares[0.8].min() >= 0.8
    assert shares[0.0].min() < 0.7
    # The low resolution has a share of its own: of a block one pixel is enough.
    how = Augmentation("none", min_known=0.0, min_known_lr=0.999)
    masks = [b["mask_lr"][i] for b in take(loader(example, augmentation=how), 10) for i in range(4)]
    assert np.mean([mask.all() for mask in masks]) > 0.9


def test_none_is_drawn_anew_unless_the_recipe_asks_for_it(monkeypatch):
    """Of an image that is nowhere half known, as before there was augmentation: the digest is of version d3a0527."""
    rng = np.random.default_rng(5)
    y, x = np.indices((48, 64), np.uint8)
    depth = rng.integers(1, 200, (48, 64)) / 20 * (rng.random((48, 64)) < 0.3)
    example = Example(np.stack([3 * y, 3 * x, y ^ x], -1), depth.astype(np.float32), depth > 0, "sparse")
    cuts, cut = [], patches.cut

    def counted(*args, **more):
        cuts.append(args)
        return cut(*args, **more)

    monkeypatch.setattr(patches, "cut", counted)
    # What each value is depends on no rounding.
    how = Degradation("nearest_first", dropouts=0.2)
    digest = hashlib.sha256()
    for batch in take(loader(example, degradation=how, edge_candidates=3, seed=3, prefetch=1), 3):
        for name in sorted(batch):
            digest.update(batch[name].tobytes())
    assert digest.hexdigest()[:16] == "0a50fd4af3a5264a"
    assert len(cuts) < 5 * DRAWS  # 4 patches each of 3 batches and of those made ahead, not 32 times as many


def test_where_no_patch_has_enough_the_best_is_taken():
    example = image(32, 32)
    example.mask[:] = RNG.random((32, 32)) < 0.2
    batches = loader(example, augmentation=Augmentation("none", min_known=0.9))
    shares = np.array([b["mask_hr"][i].mean() for b in take(batches, 5) for i in range(4)])
    every = [example.mask[4 * y : 4 * y + 16, 4 * x : 4 * x + 16].mean() for y in range(5) for x in range(5)]
    assert DRAWS == 32
    np.testing.assert_allclose(shares, max(every))  # of 25 positions, 32 draws of 9 each find it


def test_options_that_cannot_be():
    lines = r"Augmentation.rotate is 5 and lidar_lines 3: .*; leave Augmentation.rotate or Degradation.lidar_lines out"
    with pytest.raises(InputError, match=lines):
        loader(image(), degradation=Degradation(lidar_lines=3), augmentation=Augmentation(rotate=5))
    PLAIN.check_beside(Degradation(lidar_lines=3))
    for wrong, said in (
        ({"rotate": 46.0}, "Augmentation.rotate is 46.0: it must be a number from 0 to 45, in degrees"),
        ({"flips": "some"}, "Augmentation.flips is 'some'"),
        ({"min_known_lr": 1.5}, "Augmentation.min_known_lr is 1.5"),
        ({"corners": "unknown"}, "corners is 'unknown', but no patch is rotated: set Augmentation.rotate, or leave it"),
    ):
        with pytest.raises(InputError, match=said):
            Augmentation(**wrong)
