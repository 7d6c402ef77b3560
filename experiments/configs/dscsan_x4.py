"""DSCSAN x4, 13.6 million parameters: `dscsan_x8` at this scale, with patches of 192.

ahmf train dscsan_x4
ahmf evaluate runs/dscsan_x4 --dataset test10 --protocol dscsan
"""

import dataclasses

from experiments.config import DSCSANConfig
from experiments.configs.dscsan_x8 import config as x8

config = dataclasses.replace(
    x8, model=DSCSANConfig(scale=4), data=dataclasses.replace(x8.data, patch_size=192), stage_weights=(1.0,)
)
