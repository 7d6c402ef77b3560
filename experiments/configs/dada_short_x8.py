"""DADA x8 with a small encoder that sees the image as it is, on two CPU cores: half an hour.

    ahmf data prepare middlebury --from DIR
    ahmf train dada_short_x8
    ahmf evaluate runs/dada_short_x8 --dataset DIR --pairs.names art books dolls laundry moebius reindeer

What was measured is in docs/results/dada.md.
"""

from data_pipelines.degrade import Degradation
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DADAConfig(scale=8, encoder="resnet18", channels=32, enlarge=1, iterations=2000, gradient_iterations=256),
    data=DataConfig(dataset="middlebury", degrade=Degradation("area"), patch_size=128, batch_size=4, edge_candidates=4),
    optimiser=OptimiserConfig(learning_rate=1e-3, schedule="onecycle"),
    steps=2_000,
    scaling="largest",
    validate_every=400,
)
