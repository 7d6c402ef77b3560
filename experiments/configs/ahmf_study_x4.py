"""The recipe of the studies: x4, small enough that dozens of trainings take two CPU cores an hour or two.

    ahmf data prepare middlebury --from DIR
    ahmf study levels ahmf_study_x4 --levels 1 2 4 8 --seeds 3
    ahmf study ablation ahmf_study_x4 --seeds 3

What was measured is in docs/results/levels.md and docs/results/ablation.md.

`ahmf_short_x4` with half the features, half the batch and fewer steps, and so a larger learning rate, the demo's.
"""

from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=AHMFConfig(scale=4, num_levels=4, features=16),
    data=DataConfig(dataset="middlebury", train="train+train_2003", patch_size=64, batch_size=8, edge_candidates=8),
    optimiser=OptimiserConfig(name="muon", learning_rate=1e-2, schedule="onecycle"),
    steps=600,
    scaling="sample",
    output_scale=0.1,
    checkpoint_every=300,
    validate_every=300,
)
