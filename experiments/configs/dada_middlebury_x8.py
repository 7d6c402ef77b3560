"""DADA x8 on Middlebury, by the paper's recipe: Metzger et al., CVPR 2023, with the settings of the authors' code.

    ahmf data prepare middlebury --quantity depth --size full --name middlebury_depth
    ahmf train dada_middlebury_x8 --model.encoder-weights resnet50.pth
    ahmf evaluate runs/dada_middlebury_x8 --dataset middlebury_depth --split dada/test --protocol dada

40 scenes with both views are 80 images, so an epoch is 10 steps: 4,500 epochs, the rate times 0.9 every 100, a
validation every 10. Other scales: `--model.scale 4`. The encoder of the paper starts from ImageNet's weights.

Different from the authors:

- the diffusion begins with a cubic convolution, kept within the depths that were measured, not with a piecewise cubic
  on triangles (`--model.initial griddata`);
- depth near 0 is raised in the sample that has some, not in all of its batch, and holes do not count as 0
  (`--model.shift batch`);
- whole images are validated, not tiles;
- a patch is turned about its own middle, not the image's, and none of its known depth is mixed with what fills holes;
- of nine places for a patch the first is taken that is at least half known, not any. What has less than 0.9 of its
  low-resolution samples or 0.8 of its pixels known is then drawn anew, up to 31 times, as by the authors.

On a GPU, for days; `dada_short_x8` is the one for a laptop.
"""

from data_pipelines.augment import Augmentation
from data_pipelines.degrade import Degradation
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig

# 1122.7 mm, the authors' standard deviation of the data, in units of its range.
DEVIATION = 1122.7 / 10_000

config = TrainConfig(
    model=DADAConfig(scale=8, initial="cubic", shift="sample", deviation=DEVIATION),
    data=DataConfig(
        dataset="middlebury_depth",
        train="dada/train",
        validation="dada/validation",
        degrade=Degradation("area"),
        augment=Augmentation("mirror", rotate=15, corners="unknown", min_known=0.8, min_known_lr=0.9),
        patch_size=256,
        batch_size=8,
    ),
    # The factor 10 of the authors' loss is on depth divided by the deviation.
    optimiser=OptimiserConfig(
        learning_rate=1e-4,
        schedule="staircase",
        stairs=45,
        step_factor=0.9,
        loss_weight=10 / DEVIATION,
        clip=0.01,
        l2=1e-5,
    ),
    steps=45_000,
    seed=12345,
    validate_every=100,
)
