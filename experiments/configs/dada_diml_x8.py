"""DADA x8 on DIML, by the paper's recipe: Metzger et al., CVPR 2023, with the settings of the authors' code.

    ahmf data prepare diml --from DIR
    ahmf train dada_diml_x8 --model.encoder-weights resnet50.pth
    ahmf evaluate runs/dada_diml_x8 --dataset diml --split dada/test --protocol dada

1,440 images are 180 steps an epoch: 300 epochs, the rate times 0.9 every 6, a validation every 2. Of what is different
from the authors, and of other scales, `dada_middlebury_x8` tells.
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig

# 1154.29 mm, the authors' standard deviation of the data, in units of its range.
DEVIATION = 1154.29 / 10_000

config = TrainConfig(
    model=DADAConfig(scale=8, deviation=DEVIATION),
    data=DataConfig(
        dataset="diml",
        train="dada/train",
        validation="dada/validation",
        degrade=Degradation("area"),
        augment=Augmentation("mirror", rotate=15),
        patch_size=256,
        batch_size=8,
    ),
    # The factor 10 of the authors' loss is on depth divided by the deviation.
    optimiser=OptimiserConfig(
        learning_rate=1e-4,
        schedule="staircase",
        stairs=50,
        step_factor=0.9,
        loss_weight=10 / DEVIATION,
        clip=0.01,
        l2=1e-5,
    ),
    steps=54_000,
    seed=12345,
    validate_every=360,
)
