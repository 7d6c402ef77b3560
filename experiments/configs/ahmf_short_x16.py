"""AHMF x16 on two CPU cores: some minutes.

    ahmf data prepare middlebury --from DIR
    ahmf train ahmf_short_x16
    ahmf evaluate runs/ahmf_short_x16 --dataset DIR --pairs.names art books dolls laundry moebius reindeer

What was measured is in docs/results/middlebury.md.

A quarter of the rate of x4 and x8, at which the network did not leave bicubic: probably because one update size serves
all kernels, and the 5 x 5 kernels of x16 move much further with it for their own size.
"""

from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=AHMFConfig(scale=16, num_levels=4, features=32),
    data=DataConfig(dataset="middlebury", train="train+train_2003", patch_size=128, batch_size=4, edge_candidates=8),
    optimiser=OptimiserConfig(name="muon", learning_rate=1.5e-3, schedule="onecycle"),
    steps=1_500,
    scaling="sample",
    output_scale=0.1,
    validate_every=1500,
)
