"""DADA x8 on NYU v2, by the paper's recipe: Metzger et al., CVPR 2023, with the settings of the authors' code.

    ahmf data prepare nyu_v2
    ahmf train dada_nyu_v2_x8 --model.encoder-weights resnet50.pth
    ahmf evaluate runs/dada_nyu_v2_x8 --dataset nyu_v2 --split dada/test --protocol dada

849 images are 107 steps an epoch: 550 epochs, the rate times 0.9 every 10, a validation every 4.

Different from the authors:

- the diffusion begins with a cubic convolution, kept within the depths that were measured, not with a piecewise cubic
  on triangles (`--model.initial griddata`);
- depth near 0 is raised in the sample that has some, not in all of its batch, and holes do not count as 0
  (`--model.shift batch`);
- whole images are validated, not random patches that are mirrored and turned;
- a patch is turned about its own middle, wholly in the image; theirs is of the upright rectangle in the turned image;
- every batch is full: the authors' last of an epoch has one image;
- of nine places for a patch the first is taken that is at least half known, not any. None is drawn anew, as by the
  authors.

Other scales: `--model.scale 4`.
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig

# 1.38605 m, the authors' standard deviation of the data, in units of its range.
DEVIATION = 1.38605 / 10

config = TrainConfig(
    model=DADAConfig(scale=8, initial="cubic", shift="sample", deviation=DEVIATION),
    data=DataConfig(
        dataset="nyu_v2",
        train="dada/train",
        validation="dada/validation",
        degrade=Degradation("area"),
        augment=Augmentation("mirror", rotate=15, corners="inside", min_known=0),
        patch_size=256,
        batch_size=8,
    ),
    # The factor 10 of the authors' loss is on depth divided by the deviation.
    optimiser=OptimiserConfig(
        learning_rate=1e-4,
        schedule="staircase",
        stairs=55,
        step_factor=0.9,
        loss_weight=10 / DEVIATION,
        clip=0.01,
        l2=1e-5,
    ),
    steps=58_850,
    seed=12345,
    validate_every=428,
)
