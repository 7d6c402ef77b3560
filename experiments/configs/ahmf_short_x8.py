"""AHMF x8 on two CPU cores: a quarter of an hour.

    ahmf data prepare middlebury --from DIR
    ahmf train ahmf_short_x8
    ahmf evaluate runs/ahmf_short_x8 --dataset DIR --pairs.names art books dolls laundry moebius reindeer

What was measured is in docs/results/middlebury.md.
"""

from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=AHMFConfig(scale=8, num_levels=4, features=32),
    data=DataConfig(dataset="middlebury", train="train+train_2003", patch_size=128, batch_size=8, edge_candidates=8),
    optimiser=OptimiserConfig(name="muon", learning_rate=6e-3, schedule="onecycle"),
    steps=2_500,
    scaling="sample",
    output_scale=0.1,
    validate_every=1000,
)
