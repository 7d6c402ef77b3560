"""DSDMSR x8 on two CPU cores: half an hour.

    ahmf data prepare pairs --from DIR --depth 'sintel_*.png' --guide '' --stretch --name sintel_depth
    ahmf train dsdmsr_short_x8
    ahmf evaluate runs/dsdmsr_short_x8 --dataset sintel_depth --split 'train[45:]' --protocol dsdmsr

DIR holds the 58 maps of Sintel that come with MSG-Net (Hui et al., ECCV 2016); the last 13 are of other places than the
rest, by the pictures.

Beside the published recipes: VDSR's units, which begin with what they are given (`output_scale`) and are ahead of
SRCNN's in the same time; Muon for the kernels, and a one-cycle rate; one patch in a step rather than many smaller ones,
as a unit sees 10 samples to either side, and of a small patch hardly more than its border; the mean of the stages is
fused, not their sum.

What was measured is in docs/results/dsdmsr.md.
"""

from data_pipelines.degrade import Degradation
from experiments.config import DataConfig, DSDMSRConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DSDMSRConfig(scale=8, unit="vdsr", combine="mean"),
    data=DataConfig(
        dataset="sintel_depth",
        train="train[:45]",
        validation="train[45:]",
        degrade=Degradation("torch_bilinear"),
        patch_size=128,
        batch_size=1,
        edge_candidates=4,
    ),
    optimiser=OptimiserConfig(name="muon", learning_rate=2e-3, schedule="onecycle"),
    steps=3_000,
    loss="mse",
    stage_weights=(1.0, 1.0, 1.0),
    output_scale=0.01,
    validation_protocol="dsdmsr",
    validate_every=1000,
)
