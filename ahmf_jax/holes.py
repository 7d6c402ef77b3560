"""Unknown depth: what to put there so that a filter or a network can run over it. NumPy and SciPy only."""

import numpy as np
from scipy import ndimage

from ahmf_jax.errors import InputError


def fill_nearest(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The depth map (H, W) with every unknown sample replaced by the nearest known one (Euclidean distance).

    Args:
      depth: (H, W), any dtype; what stands where `mask` is False does not matter, NaN included.
      mask: (H, W) bool, True = known.

    Raises:
      InputError: no sample is known.
    """
    if mask.all():
        return depth
    if not mask.any():
        raise InputError("no sample of the depth map is known: nothing to fill the holes from")
    rows, columns = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return depth[rows, columns]
