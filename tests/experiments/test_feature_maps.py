"""Figure 10: the maps are the network's own, level by level; what is drawn is these; always the same bytes."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from ahmf_jax import export, memory
from ahmf_jax.errors import InputError
from ahmf_jax.scaling import MIN_SPAN
from ahmf_jax.upsample import dada_rgb
from experiments import feature_maps as module
from experiments.feature_maps import feature_maps, means, read_batch, write
from tests import exports

HEIGHT, WIDTH, SCALE = 6, 8, 2


@functools.cache
def trained():
    """A release network, whose intermediates come deepest level first, with depth in metres up to 10."""
    return exports.trained("sample", scale=SCALE, num_levels=3, fusion="concat", recurrence="none")


@functools.cache
def batch():
    depth, guide = exports.images(trained(), 2, HEIGHT, WIDTH)
    mask = np.ones(depth.shape, bool)
    mask[0, 0, :3] = False
    return {"depth_lr": depth / np.float32(exports.RANGE), "guide": guide, "mask_lr": mask}


@functools.cache
def figure():
    return feature_maps(trained(), batch())


def test_the_maps_are_the_networks_features_level_by_level():
    maps = means(trained(), batch())
    assert maps.before.shape == maps.after.shape == (3, HEIGHT, WIDTH)
    depth, mask = batch()["depth_lr"][0], batch()["mask_lr"][0]
    low, span = depth[mask].min(), np.ptp(depth[mask])
    assert span > MIN_SPAN
    model, params = trained().model, jax.tree.map(jax.numpy.asarray, trained().params)
    given = jax.numpy.asarray((depth - low)[None] / span), jax.numpy.asarray(batch()["guide"][:1])
    with jax.disable_jit():
        _, aux = model.apply({"params": params}, *given)
    for level in (1, 2, 3):
        place = model.level_order.index(level)
        for found, name in zip(maps, ("fused", "refined"), strict=True):
            np.testing.assert_allclose(found[level - 1], aux[name][place][0].mean(-1), rtol=1e-4, atol=1e-6)
    assert np.abs(maps.before[0] - maps.before[2]).max() > 1e-3, "the order of the levels cannot be told"


def test_what_is_drawn():
    panels = [axes for axes in figure().axes if axes.images]
    guide, depth, *levels = panels
    assert (guide.get_title(), depth.get_title()) == ("guide", "LR (x2), m")
    np.testing.assert_allclose(guide.images[0].get_array(), batch()["guide"][0])
    shown = depth.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), ~batch()["mask_lr"][0, ..., 0])
    np.testing.assert_allclose(shown.compressed(), 10 * batch()["depth_lr"][0][batch()["mask_lr"][0]], rtol=1e-6)
    assert [axes.get_title() for axes in levels] == ["before BHFC", "", "", "after BHFC", "", ""]
    assert [axes.get_ylabel() for axes in levels] == ["level 1", "level 2", "level 3", "", "", ""]
    for axes, values in zip(levels, np.concatenate(means(trained(), batch())), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), values)
        np.testing.assert_allclose(axes.images[0].get_clim(), np.percentile(values, (1, 99)))
    boxes = [axes.get_position() for axes in panels]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_one_level_has_room_for_what_is_given():
    one = module._layout(
        module.Maps(*np.zeros((2, 1, HEIGHT, WIDTH))), np.zeros((12, 16, 1)), np.zeros((HEIGHT, WIDTH)), trained()
    )
    assert min(axes.get_position().y0 for axes in one.axes) >= 0 and len(one.axes) == 2 + 2 * 2


def test_the_files(tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        write(figure(), tmp_path / f"a{suffix}")
        write(figure(), tmp_path / f"b{suffix}")
        data = (tmp_path / f"a{suffix}").read_bytes()
        assert data.startswith(start) and data == (tmp_path / f"b{suffix}").read_bytes()
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).std() > 20
    assert ">after BHFC</text>" in (tmp_path / "a.svg").read_text(), "text is drawn as shapes"
    assert b"/FontFile2" in (tmp_path / "a.pdf").read_bytes()
    with pytest.raises(InputError, match=r"a.jpg: pictures are written as .png, .pdf or .svg: change the suffix"):
        write(figure(), tmp_path / "a.jpg")
    with pytest.raises(InputError, match="nowhere"):
        write(figure(), tmp_path / "nowhere" / "a.png")


def test_a_batch_from_files(tmp_path):
    depth = batch()["depth_lr"][0, ..., 0] * np.float32(exports.RANGE)
    depth[2, 3] = -1
    guide = np.rint(255 * batch()["guide"][0]).astype(np.uint8)
    np.save(tmp_path / "depth.npy", depth)
    Image.fromarray(guide).save(tmp_path / "guide.png")
    found = read_batch(trained(), tmp_path / "depth.npy", tmp_path / "guide.png", invalid=-1)
    known = found["mask_lr"][0, ..., 0]
    assert (~known).sum() == 1 and not known[2, 3]
    given = found["depth_lr"][0, ..., 0]
    # A model of scaling "sample" takes any unit: the largest value stands for it.
    np.testing.assert_allclose(given[known], depth[known] / depth.max(), rtol=1e-6)
    assert given[known].min() <= given[2, 3] <= 1, "the hole is not filled"
    np.testing.assert_allclose(found["guide"][0], guide / 255, atol=1e-6)
    Image.fromarray(guide[:-1]).save(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"cut.png: is 16 x 11 pixels, .*depth.npy at x2 it must be 16 x 12: crop"):
        read_batch(trained(), tmp_path / "depth.npy", tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"depth.npy with .*guide.png: the invalid value is -1e\+300"):
        read_batch(trained(), tmp_path / "depth.npy", tmp_path / "guide.png", invalid=-1e300)


def test_the_command(ahmf, refused, tmp_path):
    """It draws what the functions do, of the files that it is given."""
    export.save_bundle(tmp_path / "w.safetensors", trained())
    depth = batch()["depth_lr"][0, ..., 0] * np.float32(exports.RANGE)
    depth[2, 3] = -1
    np.save(tmp_path / "depth.npy", depth)
    Image.fromarray(np.rint(255 * batch()["guide"][0]).astype(np.uint8)).save(tmp_path / "guide.png")
    given = "study", "maps", tmp_path / "w.safetensors", "--depth", tmp_path / "depth.npy"
    given += "--guide", tmp_path / "guide.png", "--invalid", "-1", "--out"
    ended = ahmf(*given, tmp_path / "maps.png")
    assert (ended.code, ended.out.strip()) == (0, str(tmp_path / "maps.png")), ended.err
    files = tmp_path / "depth.npy", tmp_path / "guide.png"
    write(feature_maps(trained(), read_batch(trained(), *files, invalid=-1)), tmp_path / "wanted.png")
    assert (tmp_path / "maps.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()
    refused(*given, tmp_path / "maps.bmp", said=r"maps.bmp: pictures are written as .png, .pdf or .svg")


def test_what_there_is_no_memory_for(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 1000.0)
    with pytest.raises(InputError, match=r"maps of 6 x 8 samples take about 0.0 GiB, and 0.0 are free: give a part"):
        means(trained(), batch())


def test_a_model_without_levels(refused, tmp_path):
    said = r"feature maps are of AHMF's levels, and DADA x2, learning-free has none: give an AHMF"
    with pytest.raises(InputError, match=said):
        means(dada_rgb(2), batch())
    files = "--depth", tmp_path / "no.png", "--guide", tmp_path / "no.png"
    refused("study", "maps", "dada_rgb_x2", *files, "--out", tmp_path / "maps.png", said=said)
