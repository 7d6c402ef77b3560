"""The filters that need no training: their equations on small images, holes, and wrong input."""

import itertools
import math
import sys

import numpy as np
import pytest

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.models import classical
from ahmf_jax.models.classical import FILTERS, Classical

GIVEN = {
    "guided_filter": {"radius": 2, "eps": 1e-3},
    "joint_bilateral": {"sigma_space": 1.0, "sigma_color": 0.2},
    "joint_bilateral_upsampling": {"radius": 1, "sigma_space": 0.6, "sigma_color": 0.2},
    "fast_global_smoother": {"smoothness": 5.0, "sigma_color": 20.0},
    "fast_bilateral_solver": {"sigma_space": 2, "sigma_luma": 16, "sigma_chroma": 16, "smoothness": 2.0},
}


def small(scale=2, h=5, w=6, seed=0, holes=0.0):
    """A batch of one with random depth, a guide of 8 bits and holes."""
    rng = np.random.default_rng(seed)
    mask = rng.random((1, h, w, 1)) >= holes
    return {
        "depth_lr": rng.uniform(0.2, 0.8, (1, h, w, 1)).astype(np.float32),
        "guide": rng.integers(0, 256, (1, scale * h, scale * w, 3)).astype(np.float32) / 255,
        "mask_lr": mask,
    }


def filtered(name, batch, scale=2, **changed):
    return Classical(name, scale, **GIVEN[name] | changed).batch(batch)


def bicubic(batch):
    return resample.resize(batch["depth_lr"], batch["guide"].shape[1:3], "matlab_bicubic")


def test_every_filter_is_tested():
    assert GIVEN.keys() == FILTERS.keys() == classical.LIBRARIES.keys()


@pytest.mark.parametrize("name", FILTERS)
def test_a_constant_stays(name):
    batch = small(holes=0.3)
    batch["depth_lr"] = np.where(batch["mask_lr"], np.float32(0.37), np.float32(0.9))
    result = filtered(name, batch)
    assert result.shape == (1, 10, 12, 1) and result.dtype == np.float32
    np.testing.assert_allclose(result, 0.37, atol=2e-5)


@pytest.mark.parametrize("name", FILTERS)
def test_what_stands_in_a_hole_is_not_read(name):
    batch = small(holes=0.3)
    other = {**batch, "depth_lr": np.where(batch["mask_lr"], batch["depth_lr"], 5.0).astype(np.float32)}
    assert not batch["mask_lr"].all()
    np.testing.assert_array_equal(filtered(name, batch), filtered(name, other))


@pytest.mark.parametrize("name", FILTERS)
def test_a_hole_has_no_weight(name):
    """One hole that is filled from a sample far from all others: its neighbours in colour must not see that."""
    batch = small(h=7, w=7)
    batch["depth_lr"][:] = 0.2
    batch["depth_lr"][0, 3, :3] = 0.9
    batch["guide"][:] = 0.5
    filled = {**batch, "depth_lr": batch["depth_lr"].copy()}
    filled["depth_lr"][0, 3, 3] = 0.9
    hole = {**batch, "mask_lr": batch["mask_lr"].copy()}
    hole["mask_lr"][0, 3, 3] = False
    # Inside the hole, and next to it on the side that is away from the sample it is filled from.
    at = (0, slice(6, 8), slice(6, 10))
    assert filtered(name, hole)[at].mean() < filtered(name, filled)[at].mean() - 1e-3


@pytest.mark.parametrize("name", FILTERS)
def test_an_edge_of_the_guide_sharpens_the_depth(name):
    depth = np.full((1, 8, 8, 1), 0.2, np.float32)
    depth[:, :, 4:] = 0.8
    truth = depth.repeat(4, 1).repeat(4, 2)
    guide = np.concatenate([truth, 1 - truth, truth], -1)
    batch = {"depth_lr": depth, "guide": guide, "mask_lr": np.ones(depth.shape, bool)}
    wide = {"joint_bilateral": {"sigma_space": 3.0}, "guided_filter": {"radius": 6}}.get(name, {})
    error = np.abs(filtered(name, batch, 4, **wide) - truth).mean()
    assert error < 0.9 * np.abs(bicubic(batch) - truth).mean()


@pytest.mark.parametrize("name", FILTERS)
def test_a_batch_is_its_images(name):
    one, two = small(seed=1, holes=0.2), small(seed=2)
    both = {key: np.concatenate([one[key], two[key]]) for key in one}
    expected = np.concatenate([filtered(name, one), filtered(name, two)])
    np.testing.assert_array_equal(filtered(name, both), expected)


@pytest.mark.parametrize(("scale", "holes"), [(2, 0.0), (3, 0.4)])
def test_joint_bilateral_upsampling_is_the_papers_equation(scale, holes):
    batch = small(scale, holes=holes)
    depth, guide, mask = (batch[name][0] for name in ("depth_lr", "guide", "mask_lr"))
    h, w, _ = depth.shape
    radius, space, color = 2, 0.7, 0.3
    low, high = (scale - 1) // 2, scale // 2
    expected = np.empty((scale * h, scale * w))
    for y, x in np.ndindex(expected.shape):
        total = norm = 0.0
        for i, j in itertools.product(range(h), range(w)):
            if not mask[i, j] or max(abs(i - y // scale), abs(j - x // scale)) > radius:
                continue
            near = [(scale * i + a, scale * j + b) for a in (low, high) for b in (low, high)]
            colour = np.mean([guide[at] for at in near], 0)
            away = ((y + 0.5) / scale - i - 0.5) ** 2 + ((x + 0.5) / scale - j - 0.5) ** 2
            unlike = ((guide[y, x] - colour) ** 2).sum()
            weight = math.exp(-away / (2 * space**2) - unlike / (2 * color**2))
            total, norm = total + weight * depth[i, j, 0], norm + weight
        expected[y, x] = total / norm
    result = filtered("joint_bilateral_upsampling", batch, scale, radius=radius, sigma_space=space, sigma_color=color)
    np.testing.assert_allclose(result[0, ..., 0], expected, rtol=2e-5)


def test_weights_that_all_vanish_leave_the_best_sample():
    """exp(-x) is zero in float32 from x = 104 on."""
    batch = small()
    result = filtered("joint_bilateral_upsampling", batch, sigma_color=1e-4)
    assert np.isfinite(result).all() and set(result.ravel()) <= set(batch["depth_lr"].ravel())


def test_the_joint_bilateral_filter_adds_the_channels_and_has_a_round_window():
    batch = small()
    guide, start = batch["guide"][0].astype(np.float64), bicubic(batch)[0, ..., 0]
    y, x, reach = 5, 6, 2
    total = norm = 0.0
    for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
        if i * i + j * j <= reach * reach:
            unlike = np.abs(guide[y + i, x + j] - guide[y, x]).sum()
            weight = math.exp(-(i * i + j * j) / (2 * 1.0**2) - unlike**2 / (2 * 0.2**2))
            total, norm = total + weight * start[y + i, x + j], norm + weight
    assert filtered("joint_bilateral", batch)[0, y, x, 0] == pytest.approx(total / norm, rel=1e-4)


@pytest.mark.parametrize("contrast", [1.0, 0.1])
def test_the_guided_filter_is_a_regression_in_each_window(contrast):
    """Of faint colours too, of which OpenCV would make a box blur were they given in 0..1."""
    import cv2

    batch, radius, eps = small(h=8, w=8), 2, 1e-4
    batch["guide"] = (0.5 + contrast * (batch["guide"] - 0.5)).astype(np.float32)
    guide, start = batch["guide"][0].astype(np.float64), bicubic(batch)[0, ..., 0].astype(np.float64)
    padded, samples = (np.pad(x, [(radius, radius)] * 2 + [(0, 0)], "symmetric") for x in (guide, start[..., None]))
    slopes, offsets = np.empty((16, 16, 3)), np.empty((16, 16))
    for y, x in np.ndindex(16, 16):
        window = slice(y, y + 2 * radius + 1), slice(x, x + 2 * radius + 1)
        colours, values = padded[window].reshape(-1, 3), samples[window].ravel()
        spread = colours - colours.mean(0)
        slopes[y, x] = np.linalg.solve(
            spread.T @ spread / len(values) + eps * np.eye(3), spread.T @ values / len(values)
        )
        offsets[y, x] = values.mean() - slopes[y, x] @ colours.mean(0)
    blur = {"ksize": (2 * radius + 1,) * 2, "ddepth": -1, "borderType": cv2.BORDER_REFLECT}
    expected = (cv2.boxFilter(slopes, **blur) * guide).sum(-1) + cv2.boxFilter(offsets, **blur)
    np.testing.assert_allclose(filtered("guided_filter", batch, eps=eps)[0, ..., 0], expected, atol=1e-5)


def test_the_bilateral_solver_minimises_what_it_says():
    """Against dense matrices made from a dictionary of cells."""
    batch = small(h=4, w=4, holes=0.2)
    # Few colours, so that there are cells to share; two of them differ in chrominance alone, or nearly.
    palette = np.array([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [0.7, 0.15, 0.2], [0.1, 0.4, 0.3]], np.float32)
    batch["guide"] = palette[np.random.default_rng(3).integers(0, 4, (1, 8, 8))]
    size, luma, chroma, smoothness = 4, 64, 64, 3.0
    import cv2

    levels = np.rint(batch["guide"][0] * 255).astype(np.uint8)
    colour = cv2.cvtColor(levels, cv2.COLOR_RGB2YCrCb)
    keys = [
        (y // size, x // size, *(int(c) // side for c, side in zip(colour[y, x], (luma, chroma, chroma), strict=True)))
        for y, x in np.ndindex(8, 8)
    ]
    cells = sorted(set(keys))
    splat = np.array([[key == cell for key in keys] for cell in cells], float)
    blur = np.array([[float(np.abs(np.subtract(a, b)).sum() == 1) for a in cells] for b in cells])
    blur += 10 * np.eye(len(cells))
    mass, balance = splat.sum(1), np.ones(len(cells))
    for _ in range(classical.BALANCING_STEPS):
        balance = np.sqrt(balance * mass / (blur @ balance))
    between = balance[:, None] * blur * balance
    known = batch["mask_lr"][0, ..., 0]
    from ahmf_jax.holes import fill_holes

    filled = fill_holes(batch["depth_lr"][0, ..., 0], known)
    target = resample.resize(filled[..., None], (8, 8), "matlab_bicubic").ravel()
    confidence = known.repeat(2, 0).repeat(2, 1).ravel().astype(float)
    matrix = smoothness * (np.diag(between.sum(1)) - between) + np.diag(splat @ confidence)
    expected = np.linalg.solve(matrix, splat @ (confidence * target)) @ splat
    result = filtered(
        "fast_bilateral_solver", batch, sigma_space=size, sigma_luma=luma, sigma_chroma=chroma, smoothness=smoothness
    )
    np.testing.assert_allclose(result.ravel(), expected, atol=1e-4)


def test_a_solver_that_does_not_converge_says_so(monkeypatch):
    sides = {"sigma_space": 2, "sigma_luma": 128, "sigma_chroma": 128}
    filtered("fast_bilateral_solver", small(h=8, w=8), **sides, smoothness=32.0)
    monkeypatch.setattr(classical, "SOLVER_STEPS", 3)
    with pytest.raises(InputError, match=r"smoothness 32: not solved after 3 steps: choose less smoothness, or larger"):
        filtered("fast_bilateral_solver", small(h=8, w=8), **sides, smoothness=32.0)


@pytest.mark.parametrize("table", [classical.PARAMETERS, classical.NOISY])
def test_parameters_of_every_filter_and_scale(table):
    assert table.keys() == FILTERS.keys()
    for name, scales in table.items():
        assert {4, 8, 16} <= scales.keys()
        for scale, parameters in scales.items():
            assert parameters.keys() == GIVEN[name].keys(), (name, scale)
            ours = Classical(name, scale, noisy=table is classical.NOISY)
            assert ours.parameters == parameters
            for key, value in parameters.items():
                assert f"{key} {value:g}" in ours.origin
            assert ("noise" in ours.origin) == (table is classical.NOISY)


def test_wrong_input():
    with pytest.raises(InputError, match=r"filter 'median' is not known: choose one of guided_filter, joint_bil"):
        Classical("median", 4)
    with pytest.raises(InputError, match=r"guided_filter has no parameters for x5 \(it has them for x4"):
        Classical("guided_filter", 5)
    with pytest.raises(InputError, match=r"guided_filter with radius: its parameters are radius, eps: give all"):
        Classical("guided_filter", 4, radius=3)
    with pytest.raises(InputError, match=r"with radius, eps, sigma: its parameters are"):
        Classical("guided_filter", 4, radius=3, eps=0.1, sigma=1)
    with pytest.raises(InputError, match=r"x0: the scale must be at least 1"):
        Classical("guided_filter", 0)
    with pytest.raises(InputError, match=r"x4 of depth of 5 x 6: the guide must be 20 x 24, and is 10 x 12"):
        filtered("guided_filter", small(scale=2), 4)
    nothing = small()
    nothing["mask_lr"][:] = False
    with pytest.raises(InputError, match="no known sample at all"):
        filtered("guided_filter", nothing)


def test_opencv_without_its_contributed_modules(monkeypatch):
    import cv2

    monkeypatch.delattr(cv2, "ximgproc")
    monkeypatch.setitem(sys.modules, "cv2.ximgproc", None)
    classical._ximgproc.cache_clear()
    with pytest.raises(InputError, match=r"uninstall every opencv-python\* package, then install opencv-contrib"):
        filtered("guided_filter", small())
