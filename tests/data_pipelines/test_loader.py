"""The loader: the batch, a stream made by its seed alone, resuming, sharing between processes, bad input."""

import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines.datasets import Dataset, DatasetInfo
from data_pipelines.degrade import degrade
from data_pipelines.loader import train_loader, whole_example

INFO = DatasetInfo("memory", "m", 4.0, 0.0, "none", "")
ARGS = {"scale": 2, "patch_size": 8, "batch_size": 3}


class Memory:
    """Images of different sizes; the guide holds the image's number plus 1, the row and the column of each pixel."""

    def __init__(self, sizes=((20, 25), (16, 16), (31, 18), (12, 40), (9, 8))):
        rng = np.random.default_rng(0)
        self.images = []
        for number, (height, width) in enumerate(sizes):
            guide = np.stack([np.full((height, width), number + 1), *np.indices((height, width))], -1).astype(np.uint8)
            depth = rng.uniform(0.1, 4, (height, width)).astype(np.float32)
            depth[rng.random(depth.shape) < 0.1] = 0
            self.images.append((guide, depth, f"image{number}"))
        self.names = [name for *_, name in self.images]

    def __len__(self):
        return len(self.images)

    def read(self, index):
        return self.images[index]


@pytest.fixture
def dataset():
    return Dataset(INFO, Memory())


def take(loader, count):
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_the_batch_is_the_contract(dataset):
    (batch,) = take(train_loader(dataset, scale=4, patch_size=8, batch_size=3), 1)
    assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
        "depth_lr": ((3, 2, 2, 1), "float32"),
        "guide": ((3, 8, 8, 3), "float32"),
        "depth_hr": ((3, 8, 8, 1), "float32"),
        "mask_lr": ((3, 2, 2, 1), "bool"),
        "mask_hr": ((3, 8, 8, 1), "bool"),
    }
    assert all(array.flags.c_contiguous for array in batch.values())


def test_values_come_from_the_images_and_are_divided_by_the_range(dataset):
    seen = set()
    for batch in take(train_loader(dataset, **ARGS, kernel="nearest_last"), 20):
        np.testing.assert_array_equal(batch["depth_lr"], batch["depth_hr"][:, 1::2, 1::2])
        np.testing.assert_array_equal(batch["mask_lr"], batch["mask_hr"][:, 1::2, 1::2])
        for guide, depth, mask in zip(batch["guide"], batch["depth_hr"], batch["mask_hr"], strict=True):
            number = round(float(guide[0, 0, 0]) * 255) - 1
            image = dataset[number]
            rows, columns = np.round(guide[..., 1:] * 255).astype(int).transpose(2, 0, 1)
            np.testing.assert_array_equal(depth[..., 0], image.depth[rows, columns] / np.float32(4))
            np.testing.assert_array_equal(mask[..., 0], image.mask[rows, columns])
            seen.add(number)
    assert seen == set(range(5))


def test_every_epoch_visits_every_image_once_and_in_another_order(dataset):
    batches = take(train_loader(dataset, scale=2, patch_size=8, batch_size=5), 4)
    orders = [tuple(np.round(batch["guide"][:, 0, 0, 0] * 255).astype(int)) for batch in batches]
    assert all(sorted(order) == [1, 2, 3, 4, 5] for order in orders)
    assert len(set(orders)) > 1


def test_the_seed_makes_the_stream(dataset):
    args = ARGS | {"noise_sigma": 0.05, "edge_candidates": 3}
    one = take(train_loader(dataset, **args, seed=7), 6)
    assert_same(one, take(train_loader(dataset, **args, seed=7, prefetch=1), 6))
    other = take(train_loader(dataset, **args, seed=8), 6)
    assert any((a["guide"] != b["guide"]).any() for a, b in zip(one, other, strict=True))
    # Within an epoch and between epochs, patches differ.
    assert len({batch["depth_hr"].tobytes() for batch in one}) == 6


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resuming_is_never_having_stopped(dataset, stop):
    args = ARGS | {"noise_sigma": 0.05, "edge_candidates": 3, "seed": 3}
    whole = take(train_loader(dataset, **args), 9)
    first = train_loader(dataset, **args)
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    second = train_loader(Dataset(INFO, Memory()), **args)
    next(second)  # also where it has already moved
    second.set_state(state)
    assert_same(take(second, 9 - stop), whole[stop:])


def test_processes_share_one_stream(dataset):
    together = take(train_loader(dataset, scale=2, patch_size=8, batch_size=6, noise_sigma=0.1), 5)
    shares = [
        take(train_loader(dataset, **ARGS, noise_sigma=0.1, process_index=i, process_count=2), 5) for i in range(2)
    ]
    for batch, *parts in zip(together, *shares, strict=True):
        for key in batch:
            for i, part in enumerate(parts):
                np.testing.assert_array_equal(part[key], batch[key][i::2])


def test_noise_is_in_units_of_the_range(dataset):
    clean, noisy = (take(train_loader(dataset, **ARGS, noise_sigma=sigma), 30) for sigma in (0, 0.02))
    difference = np.concatenate([(b["depth_lr"] - a["depth_lr"]).ravel() for a, b in zip(clean, noisy, strict=True)])
    assert abs(difference.std() - 0.02) < 0.002
    for a, b in zip(clean, noisy, strict=True):
        np.testing.assert_array_equal(a["depth_hr"], b["depth_hr"])


def test_a_small_image_is_named():
    loader = train_loader(Dataset(INFO, Memory(((20, 20), (9, 30)))), scale=4, patch_size=12, batch_size=2)
    with pytest.raises(InputError, match=r"image1: 9 x 30|image1: 8 x 28 .* smaller than the patch of 12"):
        list(itertools.islice(loader, 3))
    loader.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 3}, "patch_size 8: must be a multiple of the scale 3"),
        ({"scale": 0}, "scale 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"edge_candidates": 0}, "edge_candidates 0"),
        ({"kernel": "cubic"}, "kernel 'cubic'"),
        ({"noise_sigma": -1}, "noise_sigma -1"),
        ({"noise_sigma": float("nan")}, "noise_sigma nan"),
        ({"seed": -1}, "seed -1"),
        ({"process_index": 2, "process_count": 2}, "process_index 2: must be from 0 to 1"),
        ({"prefetch": 0}, "prefetch 0"),
    ],
)
def test_arguments_out_of_range(dataset, wrong, message):
    with pytest.raises(InputError, match=message):
        train_loader(dataset, **ARGS | wrong)


def test_no_examples():
    with pytest.raises(InputError, match="memory has no examples"):
        train_loader(Dataset(INFO, Memory(())), **ARGS)


@pytest.mark.parametrize("kernel", ["matlab_bicubic", "area"])
def test_a_whole_example(dataset, kernel):
    image = dataset[2]  # 31 x 18
    batch = whole_example(image, INFO, scale=4, kernel=kernel)
    depth_lr, mask_lr = degrade(image.depth[:28, :16], image.mask[:28, :16], 4, kernel)
    np.testing.assert_allclose(batch["depth_lr"][0, ..., 0], depth_lr / 4, rtol=1e-6)
    np.testing.assert_array_equal(batch["mask_lr"][0, ..., 0], mask_lr)
    np.testing.assert_array_equal(batch["depth_hr"][0, ..., 0], image.depth[:28, :16] / np.float32(4))
    np.testing.assert_array_equal(batch["mask_hr"][0, ..., 0], image.mask[:28, :16])
    np.testing.assert_allclose(batch["guide"][0], image.guide[:28, :16] / 255.0, rtol=1e-6)
    assert {array.dtype.name for array in batch.values()} == {"float32", "bool"}


def test_a_whole_example_is_noisy_by_its_seed(dataset):
    args = {"scale": 2, "kernel": "area", "noise_sigma": 0.1}
    one, again, other = (whole_example(dataset[0], INFO, **args, seed=seed)["depth_lr"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_a_whole_example_smaller_than_the_scale(dataset):
    with pytest.raises(InputError, match="image4: 9 x 8 is smaller than the scale 16"):
        whole_example(dataset[4], INFO, scale=16, kernel="area")


def test_a_dataset_keeps_what_it_decoded_within_its_limit_and_pickles(dataset):
    assert dataset[0] is dataset[0] and dataset[-1] is dataset[4]
    small = Dataset(INFO, Memory(), cache_bytes=dataset[0].depth.nbytes * 2)  # guide and mask are as large again
    assert small[0] is small[0]
    first = small[0]
    assert small[3] is not None and small[0] is not first
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.names == dataset.names and copy.info == dataset.info
    np.testing.assert_array_equal(copy[1].depth, dataset[1].depth)
    with pytest.raises(ValueError, match="read-only"):
        dataset[0].depth[0] = 1
    with pytest.raises(IndexError):
        dataset[5]
    assert len(list(dataset)) == 5


def test_holes_are_filled_and_masked():
    class Holes(Memory):
        def read(self, index):
            depth = np.array([[0, np.nan, 2], [np.inf, 3, 3]], np.float32)
            return np.zeros((2, 3, 3), np.uint8), depth, "holes"

    image = Dataset(INFO, Holes())[0]
    np.testing.assert_array_equal(image.mask, [[0, 0, 1], [0, 1, 1]])
    assert np.isin(image.depth, [2, 3]).all()


def test_importing_starts_no_backend():
    script = (
        "import data_pipelines.loader, sys\n"
        "bridge = sys.modules.get('jax._src.xla_bridge')\n"
        "assert bridge is None or not bridge._backends\n"
        "assert 'tensorflow' not in sys.modules and 'tensorflow_datasets' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
