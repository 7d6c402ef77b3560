"""DSDMSR x8 with SRCNN's units on DTU, by the recipe of the PyTorch implementation: Adam 1e-3, constant.

    ahmf data prepare dtu --from DIR --size 1280x1024 --name dtu_1280x1024
    ahmf train dsdmsr_dtu_x8
    ahmf evaluate runs/dsdmsr_dtu_x8 --dataset dtu_1280x1024 --split dsdmsr/validation --protocol dsdmsr_dtu

How the paper (Song et al., TCSVT 2019) trains is not followed but asrimanth/DSDMSR-PyTorch, `train_dtu.py`: 6,348 maps,
32 in a step, are 198 steps an epoch; 200 epochs, a validation each; the squared error of every stage, and of the fused
map, with weight 1. Each map is seen whole: low resolution is 80 x 64 and the truth 640 x 512, both made of 1280 x 1024.

Different from it:

- 1280 x 1024 is rounded to 8 bits and what is made of it is not, where each published size is rounded by itself;
- the truths of the stages are made of the 640 x 512 of the last, not of 1280 x 1024;
- the first values and the order of the maps are others, and the 12 maps that are left over of an epoch in whole steps
  are not dropped: the step goes on with the next epoch's;
- the checkpoint that is kept is that of the smallest MAE of the output, not of the smallest loss of all stages.

The published lists, which it follows, have views of every scan in both: `--data.train train --data.validation
validation` is the split by scan. `dsdmsr/validation_sub` are the 300 maps of the published pictures.

On a GPU; `dsdmsr_short_x8` is the one for a laptop. Other scales: `--model.scale 16 --stage-weights 1 1 1 1`.
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DataConfig, DSDMSRConfig, OptimiserConfig, TrainConfig

config = TrainConfig(
    model=DSDMSRConfig(scale=8, unit="srcnn"),
    data=DataConfig(
        dataset="dtu_1280x1024",
        train="dsdmsr/train",
        validation="dsdmsr/validation",
        degrade=Degradation("torch_bilinear", reduce=2),
        augment=Augmentation("none"),
        patch_size=512,
        patch_width=640,
        batch_size=32,
    ),
    optimiser=OptimiserConfig(learning_rate=1e-3, schedule="constant"),
    steps=39_600,
    loss="mse",
    stage_weights=(1.0, 1.0, 1.0),
    seed=123,
    validate_every=198,
)
