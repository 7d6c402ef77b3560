"""DSCSAN x8 for noisy depth, the paper's Table 2: `dscsan_x8` with noise of 5 grey levels on the low resolution.

    ahmf train dscsan_noisy_x8
    ahmf evaluate runs/dscsan_noisy_x8 --dataset test10 --protocol dscsan_noisy

The stages' truths have no noise.
"""

import dataclasses

from data_pipelines.degrade import Degradation
from experiments.configs.dscsan_x8 import config as x8

config = dataclasses.replace(
    x8,
    data=dataclasses.replace(x8.data, degrade=Degradation(noise_sigma=5 / 255)),
    validation_protocol="dscsan_noisy",
)
