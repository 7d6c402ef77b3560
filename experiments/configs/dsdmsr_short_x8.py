"""DSDMSR x8 on two CPU cores: half an hour.

ahmf data prepare pairs --from DIR --name sintel_depth --depth 'sintel_*.png' --guide '' --stretch
ahmf train dsdmsr_short_x8
ahmf evaluate runs/dsdmsr_short_x8 --dataset DIR --protocol dsdmsr
"""

from data_pipelines.degrade import Degradation
from experiments.config import DataConfig, DSDMSRConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DSDMSRConfig(scale=8, unit="srcnn", combine="mean"),
    data=DataConfig(
        dataset="sintel_depth",
        train="train[:50]",
        validation="train[50:]",
        degrade=Degradation("torch_bilinear"),
        patch_size=64,
        batch_size=16,
        edge_candidates=4,
    ),
    optimiser=OptimiserConfig(name="muon", learning_rate=2e-3, schedule="onecycle"),
    steps=1_500,
    loss="mse",
    stage_weights=(1.0, 1.0, 1.0),
    validation_protocol="dsdmsr",
    validate_every=500,
)
