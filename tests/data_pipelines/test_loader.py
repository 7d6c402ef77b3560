"""The loader: the batch, a stream made by its seed alone, resuming, sharing, mixing, records that cannot be read."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from data_pipelines import patches
from data_pipelines.augment import Augmentation
from data_pipelines.datasets import Dataset, DatasetInfo
from data_pipelines.datasets.base import no_colour
from data_pipelines.degrade import Degradation, degrade
from data_pipelines.loader import MAX_BLOCK, Order, train_loader, whole_example

INFO = DatasetInfo("memory", "m", 4.0, 0.0, "none", "")
PLAIN, NOISY = Degradation(), Degradation(noise_sigma=0.05)
ARGS = {"scale": 2, "patch_size": 8, "batch_size": 3, "degradation": PLAIN}
# Everything that is left to chance.
CHANCE = ARGS | {"degradation": NOISY, "edge_candidates": 3, "seed": 3}


class Memory:
    """Images of different sizes; the guide holds the image's number plus 1, the row and the column of each pixel."""

    def __init__(self, sizes=((20, 25), (16, 16), (31, 18), (12, 40), (9, 8)), first=0, bad=()):
        rng = np.random.default_rng(0)
        self.images = []
        self.bad = bad
        for number, (height, width) in enumerate(sizes, first):
            guide = np.stack([np.full((height, width), number + 1), *np.indices((height, width))], -1).astype(np.uint8)
            depth = rng.uniform(0.1, 4, (height, width)).astype(np.float32)
            depth[rng.random(depth.shape) < 0.1] = 0
            self.images.append((guide, depth, f"image{number}"))
        self.names = [name for *_, name in self.images]

    def __len__(self):
        return len(self.images)

    def read(self, index):
        if index in self.bad:
            raise InputError(f"record {index} (image{index}) is damaged")
        return self.images[index]


@pytest.fixture
def dataset():
    return Dataset(INFO, Memory())


def take(loader, count):
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


def numbers(batch):
    """The number of each patch's image."""
    return (np.round(batch["guide"][:, 0, 0, 0] * 255).astype(int) - 1).tolist()


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_the_batch_is_the_contract(dataset):
    (batch,) = take(train_loader(dataset, **ARGS | {"scale": 4}), 1)
    assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
        "depth_lr": ((3, 2, 2, 1), "float32"),
        "guide": ((3, 8, 8, 3), "float32"),
        "depth_hr": ((3, 8, 8, 1), "float32"),
        "mask_lr": ((3, 2, 2, 1), "bool"),
        "mask_hr": ((3, 8, 8, 1), "bool"),
        "depth_span": ((3, 2), "float32"),
    }
    assert all(array.flags.c_contiguous for array in batch.values())


def test_values_come_from_the_images_and_are_divided_by_the_range(dataset):
    seen = set()
    for batch in take(train_loader(dataset, **ARGS | {"degradation": Degradation("nearest_last")}), 20):
        np.testing.assert_array_equal(batch["depth_lr"], batch["depth_hr"][:, 1::2, 1::2])
        np.testing.assert_array_equal(batch["mask_lr"], batch["mask_hr"][:, 1::2, 1::2])
        parts = (batch[name] for name in ("guide", "depth_hr", "mask_hr", "depth_span"))
        for number, guide, depth, mask, span in zip(numbers(batch), *parts, strict=True):
            image = dataset[number]
            rows, columns = np.round(guide[..., 1:] * 255).astype(int).transpose(2, 0, 1)
            np.testing.assert_array_equal(depth[..., 0], image.depth[rows, columns] / np.float32(4))
            np.testing.assert_array_equal(mask[..., 0], image.mask[rows, columns])
            cropped = (part[: len(part) // 2 * 2, : part.shape[1] // 2 * 2] for part in image[1:3])
            known = np.extract(*reversed(tuple(cropped)))
            np.testing.assert_array_equal(span, np.array([known.min(), known.max()]) / np.float32(4))
            seen.add(number)
    assert seen == set(range(5))


def test_every_epoch_visits_every_image_once_and_in_another_order(dataset):
    orders = [tuple(numbers(batch)) for batch in take(train_loader(dataset, **ARGS | {"batch_size": 5}), 4)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(orders)) > 1


def test_the_seed_makes_the_stream(dataset):
    one = take(train_loader(dataset, **CHANCE), 6)
    assert_same(one, take(train_loader(dataset, **CHANCE, prefetch=1), 6))
    other = take(train_loader(dataset, **CHANCE | {"seed": 8}), 6)
    assert any((a["guide"] != b["guide"]).any() for a, b in zip(one, other, strict=True))
    # Within an epoch and between epochs, patches differ.
    assert len({batch["depth_hr"].tobytes() for batch in one}) == 6


def mixed():
    """Five images and, three times as often each, two others of another range."""
    others = Dataset(DatasetInfo("others", "mm", 8.0, None, "none", ""), Memory(((20, 20), (16, 30)), first=10))
    return [(Dataset(INFO, Memory()), 1), (others, 3)]


class Colourless(Memory):
    """The same depth."""

    def read(self, index):
        _, depth, name = super().read(index)
        return no_colour(depth.shape), depth, name


def colourless():
    return Dataset(dataclasses.replace(INFO, name="depths", colour=False), Colourless())


def test_without_colour_the_stream_is_the_same_but_for_it(dataset):
    # Turned, rotated, and with a guide that is spoilt: wherever colours are cut, there are none.
    how = Degradation(noise_sigma=0.05, guide_blur=1.0, guide_shift=2, guide_exposure=1.0)
    args = CHANCE | {"degradation": how, "augmentation": Augmentation(rotate=10.0)}
    coloured = take(train_loader(dataset, **args), 4)
    for source, workers in ((colourless(), 0), (dataset.without_colour(), 0), (dataset.without_colour(), 1)):
        found = take(train_loader(source, **args, workers=workers), 4)
        assert {(b["guide"].shape, str(b["guide"].dtype)) for b in found} == {((3, 8, 8, 0), "float32")}
        assert_same([{**b, "guide": 0} for b in found], [{**b, "guide": 0} for b in coloured])


def test_colour_that_nobody_reads_is_not_cut(dataset, monkeypatch):
    channels, cut = set(), patches.cut

    def seen(example, *args, **more):
        channels.add(example.guide.shape[2])
        return cut(example, *args, **more)

    monkeypatch.setattr(patches, "cut", seen)
    take(train_loader(dataset.without_colour(), **ARGS), 2)
    assert channels == {0}


def test_what_is_kept_with_colour_and_without_is_told_apart(dataset):
    depths = dataset.without_colour()
    assert dataset[0].guide.shape == (20, 25, 3) and depths[0].guide.shape == (20, 25, 0)
    assert dataset[0].guide.shape == (20, 25, 3) and depths.cache is dataset.cache
    for one, other in zip(depths, dataset, strict=True):
        np.testing.assert_array_equal(one.depth, other.depth)
    assert not depths.info.colour and dataset.info.colour and depths.without_colour() is depths


def test_a_size_is_the_sources_or_the_images(dataset):
    assert [dataset.size(i) for i in range(2)] == [(20, 25), dataset[1].depth.shape]
    assert dataset.without_colour().size(0) == (20, 25)


def test_sets_with_and_without_colour_are_one_stream_where_none_is_read(dataset):
    with pytest.raises(InputError, match=r"^data set depths has no colour, and memory has: train on sets that all "):
        train_loader([(dataset, 1), (colourless(), 1)], **ARGS)
    both = [(dataset.without_colour(), 1), (colourless(), 1)]
    found = take(train_loader(both, **ARGS | {"batch_size": 10}), 2)
    assert all(batch["guide"].shape == (10, 8, 8, 0) for batch in found)


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resuming_is_never_having_stopped(stop):
    whole = take(train_loader(mixed(), **CHANCE), 9)
    first = train_loader(mixed(), **CHANCE)
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    assert state == {"examples": 3 * stop}
    first.close()
    second = train_loader(mixed(), **CHANCE)
    next(second)  # also where it has already moved
    second.set_state(state)
    assert_same(take(second, 9 - stop), whole[stop:])


def test_processes_share_every_batch_and_may_change_in_number():
    args = CHANCE | {"batch_size": 6}
    together = take(train_loader(mixed(), **args), 5)
    shares = [train_loader(mixed(), **args, process_index=i, process_count=3) for i in range(3)]
    for batch in together[:2]:
        parts = [next(share) for share in shares]
        assert_same([batch], [{key: np.concatenate([part[key] for part in parts]) for key in batch}])
    state = shares[1].get_state()
    assert state == shares[0].get_state() == {"examples": 12}  # in the middle of the second epoch
    halves = [train_loader(mixed(), **args, process_index=i, process_count=2) for i in range(2)]
    for half in halves:
        half.set_state(state)
    for batch, *parts in zip(together[2:], *(take(half, 3) for half in halves), strict=True):
        assert_same([batch], [{key: np.concatenate([part[key] for part in parts]) for key in batch}])
    for share in shares:
        share.close()


def test_worker_processes_change_nothing(capfd):
    """Neither the batches, nor what is passed over, nor how that is told; and they end with the loader."""
    args = CHANCE | {"on_corrupt": "skip"}
    data = [(Dataset(INFO, Memory(bad=(2,))), 1), mixed()[1]]
    threads = train_loader(data, **args)
    wanted = take(threads, 7)
    told = capfd.readouterr().err
    workers = train_loader(data, **args, workers=2)
    found = [next(workers) for _ in range(3)]
    assert_same(found, wanted[:3])
    workers.set_state({"examples": 12})  # not where the workers' shares of a round begin
    assert_same([next(workers) for _ in range(3)], wanted[4:])
    assert workers.skipped == threads.skipped == {"memory: image2": "record 2 (image2) is damaged"}
    assert capfd.readouterr().err == told == "skipped, 1 so far: record 2 (image2) is damaged\n"
    workers.close()
    assert not multiprocessing.active_children()


def status(process):
    try:
        with open(f"/proc/{process}/status") as file:
            return file.read()
    except OSError:
        return ""


def test_noise_is_in_units_of_the_range(dataset):
    kinds = (PLAIN, Degradation(noise_sigma=0.02))
    clean, noisy = (take(train_loader(dataset, **ARGS | {"degradation": kind}), 30) for kind in kinds)
    difference = np.concatenate([(b["depth_lr"] - a["depth_lr"]).ravel() for a, b in zip(clean, noisy, strict=True)])
    assert abs(difference.std() - 0.02) < 0.002
    for a, b in zip(clean, noisy, strict=True):
        np.testing.assert_array_equal(a["depth_hr"], b["depth_hr"])


def test_a_truth_that_is_reduced_comes_in_batches_of_its_own_size(dataset):
    how = Degradation("area", reduce=2)
    seen = set()
    for batch in take(train_loader(dataset, **CHANCE | {"degradation": how, "patch_size": 4, "batch_size": 5}), 3):
        assert batch["depth_lr"].shape == (5, 2, 2, 1) and batch["depth_hr"].shape == (5, 4, 4, 1)
        assert batch["guide"].shape == (5, 4, 4, 3) and batch["mask_hr"].shape == (5, 4, 4, 1)
        for number, truth, guide in zip(numbers(batch), batch["depth_hr"], batch["guide"], strict=True):
            height, width = (n - n % 4 for n in dataset[number].depth.shape)
            image = dataset[number]
            reduced, _ = degrade(image.depth[:height, :width], image.mask[:height, :width], 2, "area")
            # The mean of two rows' numbers, 2 i and 2 i + 1, is rounded to even.
            rows, columns = (np.round(guide[..., 1:] * 255).astype(int) // 2).transpose(2, 0, 1)
            np.testing.assert_allclose(truth[..., 0], reduced[rows, columns] / 4, rtol=1e-5)
            seen.add(number)
    assert seen == set(range(5))
    loader = train_loader(dataset, **ARGS | {"degradation": how, "patch_size": 8})
    with pytest.raises(InputError, match=r"image\d: .* \(cut to a multiple of 4\) is smaller than the patch of 16"):
        list(itertools.islice(loader, 3))
    loader.close()
    whole = whole_example(dataset[2], INFO, scale=4, degradation=how)  # 31 x 18
    assert whole["depth_lr"].shape == (1, 3, 2, 1) and whole["depth_hr"].shape == (1, 12, 8, 1)
    with pytest.raises(InputError, match="image4: 9 x 8 is smaller than the scale 16"):
        whole_example(dataset[4], INFO, scale=8, degradation=how)


def whole_frames(**more):
    """Images of two heights, each as wide as the other and as a patch."""
    args = ARGS | {"patch_size": 12, "patch_width": 20, "batch_size": 4, "augmentation": Augmentation("none")}
    return train_loader(Dataset(INFO, Memory(((12, 20), (25, 20)))), **args | more)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_patch_may_be_a_rectangle_and_a_whole_image(workers):
    tops = set()
    loader = whole_frames(degradation=Degradation("area", reduce=1), workers=workers)
    for batch in take(loader, 8):
        assert batch["depth_lr"].shape == batch["mask_lr"].shape == (4, 6, 10, 1)
        assert batch["guide"].shape == (4, 12, 20, 3) and batch["depth_hr"].shape == batch["mask_hr"].shape
        for row, number in enumerate(numbers(batch)):
            image = loader._sampler.datasets[0][number]
            if number == 0:
                whole = whole_example(image, INFO, scale=2, degradation=Degradation("area"))
                for name in whole:
                    np.testing.assert_array_equal(batch[name][row], whole[name][0], err_msg=name)
            else:
                top = round(batch["guide"][row, 0, 0, 1] * 255)
                tops.add(top)
                want = image.depth[top : top + 12] / np.float32(4)
                np.testing.assert_array_equal(batch["depth_hr"][row, ..., 0], want)
    assert tops <= set(range(0, 13, 2)) and len(tops) > 3
    said = loader.describe(0)[0]
    assert (said["left"], said["height"], said["width"], said["transposed"]) == (0, 12, 20, False)


def test_a_width_of_the_height_is_a_square(dataset):
    assert_same(*(take(train_loader(dataset, **CHANCE, patch_width=width), 3) for width in (0, 8)))


def test_a_rectangle_that_an_image_is_too_small_for():
    for more in ({"patch_size": 14}, {"patch_width": 22}):
        loader = whole_frames(**more)
        with pytest.raises(
            InputError, match=r"image\d: \d+ x 20 .* smaller than the patch of 1[24] x 2[02]: choose a sma"
        ):
            list(itertools.islice(loader, 3))
        loader.close()


def test_a_small_image_is_named():
    args = ARGS | {"scale": 4, "patch_size": 12, "on_corrupt": "skip"}  # it is no fault of the image
    loader = train_loader(Dataset(INFO, Memory(((20, 20), (9, 30)))), **args)
    with pytest.raises(InputError, match=r"image1: 9 x 30|image1: 8 x 28 .* smaller than the patch of 12"):
        list(itertools.islice(loader, 3))
    loader.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 3}, "patch_size 8: must be a multiple of the scale 3"),
        ({"patch_width": 9}, "patch_width 9: must be a multiple of the scale 2"),
        ({"patch_width": -8}, "patch_width -8: must be at least 0"),
        ({"patch_width": 10}, "patches are 8 x 10: choose mirror or none, or patches that are square"),
        ({"scale": 0}, "scale 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"edge_candidates": 0}, "edge_candidates 0"),
        ({"seed": -1}, "seed -1"),
        ({"batch_size": 4, "process_index": 2, "process_count": 2}, "process_index 2: must be from 0 to 1"),
        ({"process_count": 2}, "batch_size 3: must be a multiple of the 2 processes that share it"),
        ({"workers": -1}, "workers -1: must be at least 0"),
        ({"on_corrupt": "ignore"}, "on_corrupt 'ignore': choose stop or skip"),
        ({"prefetch": 0}, "prefetch 0"),
    ],
)
def test_arguments_out_of_range(dataset, wrong, message):
    with pytest.raises(InputError, match=message):
        train_loader(dataset, **ARGS | wrong)


def test_no_examples(dataset):
    with pytest.raises(InputError, match="memory has no examples"):
        train_loader([(dataset, 1), (Dataset(INFO, Memory(())), 1)], **ARGS)
    with pytest.raises(InputError, match="no data set to train on"):
        train_loader([], **ARGS)


def test_a_mixture_keeps_its_shares_and_every_epoch():
    order = Order([3, 5, 2], [1, 0.5, 4], seed=1)  # 3 : 2.5 : 8
    places = [order.draw(place) for place in range(27_000)]
    counts = Counter(number for number, _ in places)
    np.testing.assert_allclose([counts[n] for n in range(3)], [6000, 5000, 16000], atol=2)
    for number in range(3):
        draws = [draw for n, draw in places if n == number]
        assert draws == list(range(len(draws)))
    # Shuffled: one image of the last set stands behind each of the others by turns.
    assert len({tuple(n for n, _ in places[i : i + 4]) for i in range(0, 400, 4)}) > 20
    epochs = [[order.image(1, 5 * epoch + i, 0) for i in range(5)] for epoch in range(20)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs) and len(set(map(tuple, epochs))) > 5
    assert [order.image(1, 7, step) for step in range(5)] == [epochs[1][i] for i in (2, 3, 4, 0, 1)]


def test_with_equal_weights_every_image_of_all_sets_comes_once():
    order = Order([3, 5, 2], [1, 1, 1], seed=1)
    for block in range(0, 100, 10):
        drawn = [(number, order.image(number, draw, 0)) for number, draw in map(order.draw, range(block, block + 10))]
        assert sorted(drawn) == [(n, i) for n, count in enumerate((3, 5, 2)) for i in range(count)]


def test_a_mixture_divides_each_depth_by_its_own_range():
    sets = [dataset for dataset, _ in mixed()]
    drawn = Counter()
    for batch in take(train_loader(mixed(), **ARGS), 22):
        for number, depth, guide in zip(numbers(batch), batch["depth_hr"], batch["guide"], strict=True):
            image, depth_range = (sets[1][number - 10], 8) if number >= 10 else (sets[0][number], 4)
            rows, columns = np.round(guide[..., 1:] * 255).astype(int).transpose(2, 0, 1)
            np.testing.assert_array_equal(depth[..., 0], image.depth[rows, columns] / np.float32(depth_range))
            drawn[number] += 1
    np.testing.assert_allclose([drawn[n] for n in (0, 1, 2, 3, 4, 10, 11)], [6] * 5 + [18] * 2, atol=1)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none(dataset, weight):
    with pytest.raises(InputError, match=rf"weight {weight}: must be above 0"):
        train_loader([(dataset, 1), (dataset, weight)], **ARGS)


def test_a_weight_that_would_fill_the_memory(dataset):
    with pytest.raises(InputError, match=rf"weight 1e-09: .* less than 1 of {MAX_BLOCK} patches"):
        train_loader([(dataset, 1), (dataset, 1e-9)], **ARGS)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_that_cannot_be_read_stops(workers):
    loader = train_loader(Dataset(INFO, Memory(bad=(3,))), **ARGS, workers=workers)
    with pytest.raises(InputError, match=r"^record 3 \(image3\) is damaged$"):
        list(itertools.islice(loader, 3))
    loader.close()


def test_what_cannot_be_read_is_replaced_by_the_next_of_its_epoch(capsys):
    args = ARGS | {"batch_size": 5}
    whole = [numbers(batch) for batch in take(train_loader(Dataset(INFO, Memory()), **args), 8)]
    loader = train_loader(Dataset(INFO, Memory(bad=(1, 3))), **args, on_corrupt="skip")
    found = [numbers(batch) for batch in take(loader, 8)]
    for there, here in zip(whole, found, strict=True):
        circle = there + there
        for place, number in enumerate(there):
            assert here[place] == next(n for n in circle[place:] if n not in (1, 3)), number
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line[line.index("record") :] for line in lines) == [
        f"record {i} (image{i}) is damaged" for i in (1, 3)
    ]
    assert [line[: line.index(":")] for line in lines] == ["skipped, 1 so far", "skipped, 2 so far"]


def test_where_nothing_can_be_read_it_stops():
    loader = train_loader(Dataset(INFO, Memory(bad=range(5))), **ARGS, on_corrupt="skip")
    with pytest.raises(InputError, match=r"memory: none of its 5 examples can be read: record \d"):
        next(loader)
    loader.close()


def test_a_cache_that_cannot_be_written_is_told_of_once(tmp_path, capsys):
    class Stored(Memory):
        cache_dir = tmp_path / "decoded"

        def key(self, index):
            return str(index)

    (tmp_path / "decoded").touch()  # a file in the place of the folder
    loader = train_loader(Dataset(INFO, Stored()).kept_on_disk(), **CHANCE)
    assert_same(take(loader, 4), take(train_loader(Dataset(INFO, Memory()), **CHANCE), 4))
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"{tmp_path}/decoded: decoded images are kept in memory alone: ")


WORKERS = """
import multiprocessing, sys, time
sys.path.insert(0, sys.argv[1])
from test_loader import *
if __name__ == "__main__":
    loader = train_loader(Dataset(INFO, Memory()), **ARGS, workers=1)
    next(loader)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_workers_outlive_an_interrupt_but_not_their_trainer(tmp_path):
    """The trainer answers signals, and needs its batches until it has; killed, it leaves no process behind."""
    (tmp_path / "trainer.py").write_text(WORKERS)
    root, here = (os.path.abspath(os.path.join(os.path.dirname(__file__), *up)) for up in (("..", ".."), ()))
    trainer = subprocess.Popen(
        [sys.executable, tmp_path / "trainer.py", here],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": root},
    )
    with trainer:
        workers = [int(p) for p in trainer.stdout.readline().split()]
        assert workers
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(workers[-1], number)
        time.sleep(0.5)
        assert "State:\tZ" not in status(workers[-1]) != ""
        trainer.kill()
    end = time.monotonic() + 20
    while any(status(p) for p in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(status(p) for p in workers)


@pytest.mark.parametrize("kernel", ["matlab_bicubic", "area"])
def test_a_whole_example(dataset, kernel):
    image = dataset[2]  # 31 x 18
    batch = whole_example(image, INFO, scale=4, degradation=Degradation(kernel))
    depth_lr, mask_lr = degrade(image.depth[:28, :16], image.mask[:28, :16], 4, kernel)
    np.testing.assert_allclose(batch["depth_lr"][0, ..., 0], depth_lr / 4, rtol=1e-6)
    np.testing.assert_array_equal(batch["mask_lr"][0, ..., 0], mask_lr)
    np.testing.assert_array_equal(batch["depth_hr"][0, ..., 0], image.depth[:28, :16] / np.float32(4))
    np.testing.assert_array_equal(batch["mask_hr"][0, ..., 0], image.mask[:28, :16])
    np.testing.assert_allclose(batch["guide"][0], image.guide[:28, :16] / 255.0, rtol=1e-6)
    assert {array.dtype.name for array in batch.values()} == {"float32", "bool"}


def test_a_whole_example_without_colour(dataset):
    args = {"scale": 4, "degradation": Degradation("area", guide_blur=1.0)}
    whole = whole_example(dataset[2], INFO, **args)
    for image in (colourless()[2], dataset.without_colour()[2]):
        found = whole_example(image, INFO, **args)
        assert found["guide"].shape == (1, 28, 16, 0) and found["guide"].dtype == np.float32
        assert_same([{**found, "guide": 0}], [{**whole, "guide": 0}])


def test_a_whole_example_is_noisy_by_its_seed(dataset):
    args = {"scale": 2, "degradation": NOISY}
    one, again, other = (whole_example(dataset[0], INFO, **args, seed=seed)["depth_lr"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_a_whole_example_smaller_than_the_scale(dataset):
    with pytest.raises(InputError, match="image4: 9 x 8 is smaller than the scale 16"):
        whole_example(dataset[4], INFO, scale=16, degradation=PLAIN)


def test_a_dataset_keeps_what_it_decoded_within_its_limit_and_pickles(dataset):
    assert dataset[0].depth is dataset[0].depth and dataset[-1].depth is dataset[4].depth
    small = Dataset(INFO, Memory(), cache_bytes=dataset[0].depth.nbytes * 2)  # guide and mask are as large again
    first = small[0]
    assert small[0].depth is first.depth
    assert small[3] is not None and small[0].depth is not first.depth
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
