"""DADA x8 with a small encoder, on two CPU cores.

ahmf data prepare middlebury --from DIR
ahmf train dada_short_x8
ahmf evaluate runs/dada_short_x8 --dataset DIR --pairs.names art books dolls laundry moebius reindeer
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DADAConfig(scale=8, encoder="resnet18", iterations=1000, gradient_iterations=128),
    data=DataConfig(
        dataset="middlebury",
        train="train+train_2003",
        degrade=Degradation("area"),
        augment=Augmentation("mirror", rotate=15),
        patch_size=128,
        batch_size=4,
        edge_candidates=8,
    ),
    optimiser=OptimiserConfig(learning_rate=1e-3, schedule="onecycle", clip=1.0),
    steps=1_000,
    validate_every=250,
)
