"""DADA x8 on DIML, by the paper's recipe: Metzger et al., CVPR 2023, with the settings of the authors' code.

    ahmf data prepare diml --from DIR
    ahmf train dada_diml_x8 --model.encoder-weights resnet50.pth
    ahmf evaluate runs/dada_diml_x8 --dataset diml --split dada/test --protocol dada

1,440 images are 180 steps an epoch: 300 epochs, the rate times 0.9 every 6, a validation every 2.

Different from the authors:

- the diffusion begins with a cubic convolution, kept within the depths that were measured, not with a piecewise cubic
  on triangles (`--model.initial griddata`);
- depth near 0 is raised in the sample that has some, not in all of its batch, and holes do not count as 0
  (`--model.shift batch`);
- whole images are validated, not random patches that are mirrored and turned;
- a patch is turned about its own middle, wholly in the image; theirs is of the upright rectangle in the turned image;
- of nine places for a patch the first is taken that is at least half known, not any. None is drawn anew, as by the
  authors.

Other scales: `--model.scale 4`.
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig

# 1154.29 mm, the authors' standard deviation of the data, in units of its range.
DEVIATION = 1154.29 / 10_000

config = TrainConfig(
    model=DADAConfig(scale=8, initial="cubic", shift="sample", deviation=DEVIATION),
    data=DataConfig(
        dataset="diml",
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
