"""DSCSAN x2, 6.8 million parameters: `dscsan_x8` at this scale, with patches of 128. Its only stage is its output.

ahmf train dscsan_x2
ahmf evaluate runs/dscsan_x2 --dataset test10 --protocol dscsan
"""

import dataclasses

from experiments.config import DSCSANConfig
from experiments.configs.dscsan_x8 import config as x8

config = dataclasses.replace(
    x8, model=DSCSANConfig(scale=2), data=dataclasses.replace(x8.data, patch_size=128), stage_weights=()
)
