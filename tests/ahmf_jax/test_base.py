"""What every model does with what it is given."""

import re

import jaxtyping
import numpy as np
import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.models import MODELS


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (1, 4, 5), (1, 4, 5, 2)])
@pytest.mark.parametrize("name", MODELS)
def test_depth_of_another_shape_is_named(monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the depth first
    model = MODELS[name](scale=2)
    with pytest.raises(InputError, match=rf"shape {re.escape(str(shape))}: \(batch, height, width, 1\) is needed"):
        model.apply({"params": {}}, np.ones(shape, np.float32), np.ones((1, 8, 10, 3), np.float32))
