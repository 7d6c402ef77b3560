"""Batches: an endless, resumable stream of training patches, and whole images for evaluation.

A batch is a dict of NumPy arrays: `depth_lr` (B, h, w, 1), `guide` (B, sh, sw, 3) in [0, 1], `depth_hr` (B, sh, sw,
1), all float32, and `mask_lr`, `mask_hr`, bool, True = known. Depth is divided by the data set's range.
"""

import functools

import grain
import numpy as np

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from data_pipelines import patches
from data_pipelines.datasets.base import ByteCache, Dataset, DatasetInfo, Example
from data_pipelines.degrade import add_noise, degrade

# Threads that make batches. They share the interpreter's lock with the training loop, so more would not help.
THREADS = 2
ENDLESS = 2**62
# The summed-area tables of this many bytes are kept: enough for thousands of images.
TABLE_BYTES = 2**29

Batch = dict[str, np.ndarray]


def train_loader(
    dataset: Dataset,
    *,
    scale: int,
    patch_size: int,
    batch_size: int,
    kernel: str = "matlab_bicubic",
    noise_sigma: float = 0.0,
    edge_candidates: int = 1,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 8,
) -> grain.DatasetIterator[Batch]:
    """An endless stream of batches of random patches.

    Every image is visited once an epoch, in an order shuffled anew. A patch depends on `seed` and its place in the
    stream alone, never on timing. `get_state()` of the iterator gives a small dict that JSON can hold; after
    `set_state(state)` on an iterator that was made with the same arguments, the stream goes on as if it had never
    stopped.

    Args:
      dataset: what to train on.
      scale: the factor between LR and HR.
      patch_size: the side of an HR patch, a multiple of `scale`.
      batch_size: patches per batch of this process.
      kernel: how LR is made, one of `resample.KERNELS`.
      noise_sigma: of the noise on LR, in units of the range (`degrade.add_noise`).
      edge_candidates: random positions drawn for a patch, the one with the most depth edges wins; 1 is purely random.
      seed: of the whole stream.
      process_index, process_count: this process's share: the processes' batches together are the stream that a
        single process would see with a `process_count` times larger batch.
      prefetch: batches made ahead, in threads.

    Raises:
      InputError: an argument out of its range; while iterating, an image smaller than the patch.
    """
    if not len(dataset):
        raise InputError(f"data set {dataset.info.name} has no examples in this split: choose another")
    for option, value in (
        ("scale", scale),
        ("patch_size", patch_size),
        ("batch_size", batch_size),
        ("edge_candidates", edge_candidates),
        ("process_count", process_count),
        ("prefetch", prefetch),
    ):
        if value < 1:
            raise InputError(f"{option} {value}: must be at least 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: must be from 0 to {2**32 - 1}")
    if patch_size % scale:
        raise InputError(f"patch_size {patch_size}: must be a multiple of the scale {scale}")
    if kernel not in resample.KERNELS:
        raise InputError(f"kernel {kernel!r} is not known: choose one of {', '.join(resample.KERNELS)}")
    if not noise_sigma >= 0:
        raise InputError(f"noise_sigma {noise_sigma}: must be 0 or above, in units of the depth range")
    if not 0 <= process_index < process_count:
        raise InputError(f"process_index {process_index}: must be from 0 to {process_count - 1} for {process_count}")
    sample = PatchSampler(dataset, scale, patch_size, kernel, noise_sigma, edge_candidates)
    order = functools.partial(_image_number, len(dataset), seed)
    stream = grain.MapDataset.range(ENDLESS).seed(seed).map(order).random_map(sample)
    stream = stream[process_index::process_count].batch(batch_size)
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=prefetch)))


def _image_number(count: int, seed: int, place: int) -> int:
    """Which of `count` images stands at a place of the endless stream: every epoch is a permutation of its own."""
    # Grain's own shuffle takes 0.5 ms for each index of 40, and 9 ms of 2: it is made for long data sets.
    return int(_permutation(count, seed, place // count)[place % count])


@functools.lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


class PatchSampler:
    """Image number and random generator -> one patch, as a batch's dict without the batch axis."""

    def __init__(
        self, dataset: Dataset, scale: int, patch_size: int, kernel: str, noise_sigma: float, edge_candidates: int
    ):
        self.dataset = dataset
        self.scale = scale
        self.size = patch_size // scale
        self.kernel = kernel
        self.noise_sigma = noise_sigma
        self.edge_candidates = edge_candidates
        self._tables = ByteCache(TABLE_BYTES)

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        """Cuts the patch."""
        example = patches.crop_to_multiple(self.dataset[index], self.scale)
        height, width = example.depth.shape
        if min(height, width) < self.size * self.scale:
            raise InputError(
                f"{example.name}: {height} x {width} (cut to a multiple of {self.scale}) is smaller than the patch of "
                f"{self.size * self.scale}: choose a smaller patch_size"
            )
        info = self.dataset.info
        step = patches.EDGE_STEP * info.range
        table = self._tables.get(index, lambda: patches.edge_table(example, self.scale, step))
        top, left = patches.choose(table, self.size, self.scale, self.edge_candidates, rng)
        turns = rng.random(3) < 0.5
        patch = patches.cut(example, top, left, self.size, self.scale, self.kernel, *turns)
        return _normalise(patch, info, self.noise_sigma, rng)


def whole_example(
    example: Example, info: DatasetInfo, *, scale: int, kernel: str, noise_sigma: float = 0.0, seed: int = 0
) -> Batch:
    """A whole image as a batch of one, for validation and evaluation.

    Args:
      example, info: the image, and what its depth means.
      scale: rows at the bottom and columns at the right are cut until it divides both sizes.
      kernel: how LR is made, one of `resample.KERNELS`.
      noise_sigma: of the noise on LR, in units of the range.
      seed: of the noise.

    Raises:
      InputError: an unknown kernel, or an image smaller than `scale`.
    """
    height, width = example.depth.shape
    if min(height, width) < scale:
        raise InputError(
            f"{example.name}: {height} x {width} is smaller than the scale {scale}: choose a smaller scale"
        )
    example = patches.crop_to_multiple(example, scale)
    depth_lr, mask_lr = degrade(example.depth, example.mask, scale, kernel)
    patch = patches.Patch(
        depth_lr[..., None], example.guide, example.depth[..., None], mask_lr[..., None], example.mask[..., None]
    )
    batch = _normalise(patch, info, noise_sigma, np.random.default_rng(seed))
    return {name: array[None] for name, array in batch.items()}


def _normalise(patch: patches.Patch, info: DatasetInfo, noise_sigma: float, rng: np.random.Generator) -> Batch:
    scale = np.float32(info.range)
    return {
        "depth_lr": add_noise(patch.depth_lr / scale, noise_sigma, rng),
        "guide": patch.guide / np.float32(255),
        "depth_hr": patch.depth_hr / scale,
        "mask_lr": np.ascontiguousarray(patch.mask_lr),
        "mask_hr": np.ascontiguousarray(patch.mask_hr),
    }
