"""DSCSAN x4 on two CPU cores: the small network, a group of two blocks in a stage, 32 features.

    ahmf data prepare pairs --from DIR --depth 'sintel_*.png' --guide '' --stretch --name sintel_depth
    ahmf data prepare middlebury --from DIR
    ahmf train dscsan_short_x4
    ahmf evaluate runs/dscsan_short_x4 --dataset test10 --protocol dscsan

What was measured is in docs/results/dscsan.md.
"""

from experiments.config import DataConfig, DSCSANConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DSCSANConfig(scale=4, groups=1, blocks=2, features=32),
    data=DataConfig(
        dataset="sintel_depth",
        train="train[:45]",
        validation="train[45:]",
        mix=("middlebury",),
        patch_size=128,
        batch_size=4,
        edge_candidates=4,
    ),
    optimiser=OptimiserConfig(name="muon", learning_rate=2e-3, schedule="onecycle"),
    steps=3_000,
    stage_weights=(1.0,),
    output_scale=0.1,
    validation_protocol="dscsan",
    validate_every=1000,
)
