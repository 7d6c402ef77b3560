"""AHMF x4 by the paper's recipe (section VI): batch 16 of 256 x 256 patches, L1, Adam 1e-4, halved at 4/5.

    ahmf train ahmf_paper_x4

The paper does not say how long an epoch is. The authors' later survey code walks its list of images 32
times in one; with this data set's 42 images and batch 16 that is 84 steps an epoch, 21,000 in all. On two
CPU cores a step takes several seconds, so this recipe wants a GPU; `ahmf_short_x4` is the one for a laptop.
Other scales: `--model.scale 8`.
"""

from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=AHMFConfig(scale=4, num_levels=4, features=64),
    data=DataConfig(dataset="middlebury", train="train+train_2003", patch_size=256, batch_size=16),
    optimiser=OptimiserConfig(learning_rate=1e-4, schedule="step", halve_at=0.8),
    steps=21_000,
)
