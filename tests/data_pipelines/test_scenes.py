"""Generated scenes: the same from the same seed, depth that is exact, and a data set of the asked-for size."""

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare
from data_pipelines.datasets.scenes import builder as scenes
from data_pipelines.datasets.scenes.builder import FAR, Solid, render


def test_a_seed_is_a_scene():
    guide, depth = render((0, 1), 48, 64)
    assert guide.shape == (48, 64, 3) and guide.dtype == np.uint8
    assert depth.shape == (48, 64) and depth.dtype == np.float32
    again = render(np.random.default_rng((0, 1)), 48, 64)
    np.testing.assert_array_equal(again[0], guide)
    np.testing.assert_array_equal(again[1], depth)
    assert (render((0, 2), 48, 64)[1] != depth).any()


@pytest.mark.parametrize("seed", range(8))
def test_depth_is_positive_finite_and_cluttered(seed):
    guide, depth = render(seed, 96, 120)
    assert np.isfinite(depth).all() and depth.min() > 0.3 and depth.max() < FAR
    edges = np.abs(np.diff(depth, axis=1)) > 0.1
    assert edges.sum() > 96 // 2, "hardly a depth edge"
    assert guide.std() > 10 and 15 < guide.mean() < 240


def solve(kind, centre=(0.0, 0.0, 5.0), size=(1.0, 1.0, 1.0), turn=None, ray=(0.0, 0.0, 1.0)):
    solid = Solid(kind, np.array(centre), np.array(size), np.eye(3) if turn is None else turn, 0)
    t, o, d = scenes._meet(solid, np.zeros(3), np.array([ray], np.float32))
    normal = scenes._normal(solid, o + t[:, None] * d) if np.isfinite(t).all() else None
    return t[0], None if normal is None else normal[0]


@pytest.mark.parametrize(
    ("what", "depth", "normal"),
    [
        ({"kind": "sphere"}, 4, (0, 0, -1)),
        ({"kind": "sphere", "size": (2.0, 1.0, 0.5)}, 4.5, (0, 0, -1)),
        ({"kind": "sphere", "centre": (0.6, 0.0, 5.0)}, 4.2, (-0.6, 0, -0.8)),  # 0.6, 0.8, 1
        ({"kind": "sphere", "centre": (1.01, 0.0, 5.0)}, np.inf, None),
        ({"kind": "box", "size": (1.0, 1.0, 0.25)}, 4.75, (0, 0, -1)),
        ({"kind": "box", "turn": scenes._rotation(np.pi / 4, 0, 0), "centre": (0.1, 0, 5)}, 5.1 - np.sqrt(2), None),
        ({"kind": "box", "centre": (1.2, 0.0, 5.0)}, np.inf, None),
        ({"kind": "cylinder", "size": (0.5, 9.0, 0.5)}, 4.5, (0, 0, -1)),
        ({"kind": "cylinder", "turn": scenes._rotation(0, np.pi / 2, 0)}, 4, (0, 0, -1)),  # onto a lid
        ({"kind": "cylinder", "centre": (0.0, 1.2, 5.0)}, np.inf, None),  # over its top
        ({"kind": "sphere", "centre": (0.0, 0.0, -5.0)}, np.inf, None),  # behind the camera
        # Depth is along the axis, not along the ray: a wall is flat.
        ({"kind": "box", "size": (9.0, 9.0, 1.0), "ray": (0.7, -0.4, 1.0)}, 4, (0, 0, -1)),
    ],
)
def test_rays_meet_solids_where_geometry_says(what, depth, normal):
    t, found = solve(**what)
    np.testing.assert_allclose(t, depth, rtol=1e-5)
    if normal is not None:
        np.testing.assert_allclose(found, normal, atol=1e-5)


def test_a_room_without_things_has_flat_walls(monkeypatch):
    monkeypatch.setattr(scenes, "_furnish", lambda *args: [])
    _, depth = render(3, 64, 80)
    # 1 / depth of a plane is linear in the pixel: its second differences vanish except across a corner of the room.
    bend = np.abs(np.diff(1 / depth.astype(np.float64), 2, axis=1))
    assert np.mean(bend < 1e-5) > 0.9


def test_no_window_cuts_a_solid(monkeypatch):
    whole = render(5, 60, 80)[1]
    monkeypatch.setattr(scenes, "_window", lambda *args: (slice(None), slice(None)))
    np.testing.assert_allclose(render(5, 60, 80)[1], whole, rtol=1e-5)


def test_prepare_and_open(tmp_path):
    options = {"height": 32, "width": 40, "train": 3, "validation": 2, "test": 1}
    assert prepare("scenes", tmp_path, **options).counts == {"train": 3, "validation": 2, "test": 1}
    train = open_dataset("scenes", "train", tmp_path)
    assert train.names == ("train-00000", "train-00001", "train-00002")
    assert (train.info.unit, train.info.range, train.info.invalid) == ("m", 10.0, None)
    guide, depth = render((0, 0, 2), 32, 40)
    np.testing.assert_array_equal(train[2].depth, depth)
    np.testing.assert_array_equal(train[2].guide, guide)
    assert train[2].mask.all()
    everything = open_dataset("scenes", "train+validation+test", tmp_path)
    assert len({example.depth.tobytes() for example in everything}) == 6
    # Preparing again replaces what was there.
    assert prepare("scenes", tmp_path, **options | {"train": 1, "seed": 9}).counts["train"] == 1
    assert (open_dataset("scenes", "train", tmp_path)[0].depth != train[0].depth).any()


def test_asking_wrongly(tmp_path):
    with pytest.raises(InputError, match=r"scenes has no option 'depth': its options are: height, width, train"):
        prepare("scenes", tmp_path, depth=3)
    with pytest.raises(InputError, match=r"scenes option height 8: must be a whole number, at least 16"):
        prepare("scenes", tmp_path, height=8)
    with pytest.raises(InputError, match="scenes is generated and reads no files"):
        prepare("scenes", tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"'scene' is not known: choose one of scenes, middlebury"):
        prepare("scene", tmp_path)
    with pytest.raises(InputError, match=r"build it first .`ahmf data prepare scenes`"):
        open_dataset("scenes", "train", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.*: cannot be written"):
        prepare("scenes", tmp_path / "file", height=16)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
