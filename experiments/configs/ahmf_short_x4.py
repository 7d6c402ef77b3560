"""AHMF x4 on two CPU cores.

    ahmf data prepare middlebury --from DIR
    ahmf train ahmf_short_x4
"""

from experiments.config import DataConfig, ModelConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=ModelConfig(scale=4, num_levels=4, features=32),
    data=DataConfig(
        dataset="middlebury", train="train+train_2003", patch_size=64, batch_size=16, edge_candidates=8
    ),
    optimiser=OptimiserConfig(name="muon", learning_rate=5e-3, schedule="onecycle"),
    steps=9_000,
    scaling="sample",
    output_scale=0.1,
    checkpoint_every=1000,
)
