"""DSDMSR x8 with VDSR's units on DTU, by the recipe of the PyTorch implementation, with the schedule that it intends.

    ahmf data prepare dtu --from DIR --size 1280x1024 --name dtu_1280x1024
    ahmf train dsdmsr_vdsr_dtu_x8
    ahmf evaluate runs/dsdmsr_vdsr_dtu_x8 --dataset dtu_1280x1024 --split dsdmsr/validation --protocol dsdmsr_dtu

asrimanth/DSDMSR-PyTorch, `train_dtu_vdsr.py`: 6,348 maps, 16 in a step, are 396 steps an epoch; 80 epochs, a validation
each; SGD with momentum; the gradient's L1 norm is clipped to 1 over the rate.

The program makes a schedule, a tenth of the rate every 20 epochs as VDSR has it (Kim et al., CVPR 2016), but never
steps it: its rate stays 0.01, and the clipping at 100. This recipe steps it, and as the clipping reads the schedule's
rate, it goes on to 1,000, 10,000 and 100,000. The program as it runs:

    ahmf train dsdmsr_vdsr_dtu_x8 --optimiser.schedule constant

What else is different is told in `dsdmsr_dtu_x8`.
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DataConfig, DSDMSRConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DSDMSRConfig(scale=8, unit="vdsr"),
    data=DataConfig(
        dataset="dtu_1280x1024",
        train="dsdmsr/train",
        validation="dsdmsr/validation",
        degrade=Degradation("torch_bilinear", reduce=2),
        augment=Augmentation("none"),
        patch_size=512,
        patch_width=640,
        batch_size=16,
    ),
    optimiser=OptimiserConfig(
        name="sgd",
        options=("momentum=0.9",),
        learning_rate=1e-2,
        schedule="staircase",
        stairs=4,
        step_factor=0.1,
        clip=1.0,
        clip_norm="l1",
        clip_of="step",
        l2=1e-4,
    ),
    steps=31_680,
    loss="mse",
    stage_weights=(1.0, 1.0, 1.0),
    seed=42,
    validate_every=396,
)
