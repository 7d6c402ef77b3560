"""A model's weights as one tree: its parameters and, beside them, what its BatchNorms have averaged in training.

Flax keeps the two apart, as an optimiser moves only the first. Files, converters and whoever uses a trained model want
both: there they are one tree, that of the parameters, in which the averages stand under a name of their own.
"""

from collections.abc import Mapping
from typing import Any

STATISTICS = "batch_stats"


def join(params: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of these parameters and statistics, of which there may be none."""
    return {**params, STATISTICS: statistics} if statistics else dict(params)


def split(weights: Mapping[str, Any]) -> dict[str, Any]:
    """What `model.apply` is given: the weights as Flax's collections."""
    params = {name: value for name, value in weights.items() if name != STATISTICS}
    return {"params": params} | {name: weights[name] for name in weights if name == STATISTICS}
