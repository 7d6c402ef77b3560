"""ToFMark: millimetres as the HDF5 files hold them, in the order of the files."""

import h5py
import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.datasets import open_dataset, prepare


def write(path, seeds, guide_size=(5, 8), dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = np.stack([np.random.default_rng(seed).uniform(400, 1000, (1, 5, 8)) for seed in seeds]).astype(dtype)
    depth[:, 0, 1, 2:4] = -1
    rgb = np.stack([400 + 600 * np.random.default_rng(9 + seed).random((1, *guide_size)) for seed in seeds])
    with h5py.File(path, "w") as file:
        file.create_dataset("depth_hr", data=depth, compression="gzip")
        file.create_dataset("rgb", data=rgb.astype(np.float32), compression="gzip")
        file.create_dataset("depth_mr_bl", data=depth)  # of the ToF camera: left alone
    return depth[:, 0], rgb[:, 0].astype(np.float32)


@pytest.mark.parametrize("groups", [((0,), (1,), (2,)), ((0, 1, 2),)])
def test_scenes_come_back_as_stored(tmp_path, groups):
    folder = tmp_path / "gdsr/test_data/tofmark"
    stored = [write(folder / f"tofmark_{number:06d}.h5", group) for number, group in enumerate(groups)]
    depths, intensities = (np.concatenate([part[i] for part in stored]) for i in (0, 1))
    prepared = prepare("tofmark", tmp_path / "data", tmp_path / "gdsr")
    info = prepared.info
    assert (info.unit, info.range, info.invalid, info.fill) == ("mm", 2000.0, 0.0, "nearest")
    assert "ICCV 2013" in info.citation
    dataset = open_dataset("tofmark", "test", tmp_path / "data")
    assert dataset.names == ("Books", "Devil", "Shark")
    for example, depth, intensity in zip(dataset, depths, intensities, strict=True):
        np.testing.assert_array_equal(example.mask, depth > 0)
        assert not example.mask[1, 2:4].any() and example.mask.sum() == 38
        np.testing.assert_array_equal(example.depth[example.mask], depth[depth > 0])
        assert example.guide.min() == 0 and example.guide.max() == 255
        scaled = (intensity - intensity.min()) / (intensity.max() - intensity.min()) * 255
        np.testing.assert_allclose(example.guide[..., 1], scaled, atol=0.5001)
        np.testing.assert_array_equal(example.guide[..., 0], example.guide[..., 2])


def test_the_file_itself(tmp_path):
    write(tmp_path / "tofmark_0.h5", (0, 1, 2))
    assert prepare("tofmark", tmp_path / "data", tmp_path / "tofmark_0.h5").counts == {"test": 3}


def test_wrong_files(tmp_path):
    with pytest.raises(InputError, match=r"its tofmark\*.h5 hold 0 images, and the set has 3 \(Books, Devil, Shark\)"):
        prepare("tofmark", tmp_path / "data", tmp_path)
    write(tmp_path / "a/tofmark_0.h5", (0, 1))
    with pytest.raises(InputError, match=r"hold 2 images, and the set has 3"):
        prepare("tofmark", tmp_path / "data", tmp_path / "a")
    write(tmp_path / "b/tofmark_0.h5", (0, 1, 2), guide_size=(5, 9))
    with pytest.raises(InputError, match=r"rgb has shape \(3, 1, 5, 9\) and depth_hr \(3, 1, 5, 8\)"):
        prepare("tofmark", tmp_path / "data", tmp_path / "b")
    write(tmp_path / "c/tofmark_0.h5", (0, 1, 2), dtype=np.float64)
    with pytest.raises(InputError, match=r"tofmark_0.h5: .*depth_hr"):
        prepare("tofmark", tmp_path / "data", tmp_path / "c")
    file = tmp_path / "c/tofmark_0.h5"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(InputError, match=r"tofmark_0.h5"):
        prepare("tofmark", tmp_path / "data", tmp_path / "c")
    write(tmp_path / "d/tofmark_0.h5", (0, 1, 2))
    with h5py.File(tmp_path / "d/tofmark_0.h5", "r+") as changed:
        changed["rgb"][1] = 7
    with pytest.raises(InputError, match=r"image 1 of rgb is of one value"):
        prepare("tofmark", tmp_path / "data", tmp_path / "d")
    with pytest.raises(InputError, match="made from files that no program may fetch"):
        prepare("tofmark", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
