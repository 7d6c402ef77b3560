"""A first search: optimiser, learning rate and schedule of a small network, on the demo's generated scenes.

    ahmf data prepare scenes
    ahmf study search learning_rate

Twelve trials of 150 steps, the bad ones given up at a half.
"""

from experiments.config import AHMFConfig, DataConfig, OptimiserConfig, TrainConfig
from experiments.studies.space import Between, Choose, Pruning, Space

space = Space(
    config=TrainConfig(
        model=AHMFConfig(scale=4, num_levels=2, features=8),
        data=DataConfig(dataset="scenes", patch_size=32, batch_size=8, edge_candidates=8),
        optimiser=OptimiserConfig(name="muon", learning_rate=1e-2, schedule="onecycle"),
        steps=150,
        scaling="sample",
        output_scale=0.1,
        checkpoint_every=75,
        validate_every=75,
    ),
    fields={
        "optimiser.name": Choose("adam", "muon"),
        "optimiser.learning_rate": Between(1e-4, 1e-1, log=True),
        "optimiser.schedule": Choose("cosine", "onecycle"),
        "optimiser.peak_at": Between(0.05, 0.5),  # of onecycle alone, as the configuration knows
        "optimiser.final_fraction": Between(0.0, 0.2),  # of cosine
    },
    trials=12,
    random=6,
    pruning=Pruning(trials=4),
)
