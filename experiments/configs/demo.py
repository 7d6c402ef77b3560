"""The demo's recipe: x4 on generated scenes, small and short.

    ahmf demo

Expect about half of bicubic's error on scenes it has not seen, after some two minutes on two cores.
"""

from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=AHMFConfig(scale=4, num_levels=4, features=16),
    data=DataConfig(dataset="scenes", patch_size=64, batch_size=8, edge_candidates=8),
    optimiser=OptimiserConfig(name="muon", learning_rate=1e-2, schedule="onecycle"),
    steps=900,
    scaling="sample",
    output_scale=0.1,
    log_every=10,
    validate_every=300,
)
