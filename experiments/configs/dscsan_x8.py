"""DSCSAN x8, 20.5 million parameters. The network and this recipe are our reconstruction: docs/dscsan.md.

    ahmf data prepare pairs --from DIR --depth 'sintel_*.png' --guide '' --stretch --name sintel_depth
    ahmf data prepare middlebury --from DIR
    ahmf train dscsan_x8
    ahmf evaluate runs/dscsan_x8 --dataset test10 --protocol dscsan

That it converges in 50 to 60 epochs is in the paper's text; what an epoch is, and on what it is trained, is not. Here
are 80 epochs of 1,000 steps of 16 patches, on the maps of Sintel and Middlebury's scenes of 2006 (the ten images of the
test are of 2001, 2003 and 2005), without patches that have holes. Adam begins at 1e-4 and halves it every 20 epochs;
the absolute error of every stage counts alike.

On a GPU; `dscsan_short_x4` is the one for a laptop. `dscsan_x2`, `dscsan_x4` and `dscsan_noisy_x8` are the other models
of the paper's tables.
"""

from data_pipelines.augment import Augmentation
from experiments.config import DataConfig, DSCSANConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DSCSANConfig(scale=8),
    data=DataConfig(
        dataset="sintel_depth",
        train="train[:45]",
        validation="train[45:]",
        mix=("middlebury",),
        augment=Augmentation(min_known=1.0),
        patch_size=256,
    ),
    optimiser=OptimiserConfig(learning_rate=1e-4, schedule="staircase", stairs=4),
    steps=80_000,
    stage_weights=(1.0, 1.0),
    validation_protocol="dscsan",
    validate_every=1000,
)
