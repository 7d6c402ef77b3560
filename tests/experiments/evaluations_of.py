"""Evaluations as tests make them up."""

from experiments.evaluations import Evaluation, ImageNumbers
from experiments.protocols import PROTOCOLS

SIX = ("art", "books", "dolls", "laundry", "moebius", "reindeer")
TEN = (*SIX, "cones", "teddy", "tsukuba", "venus")
SIZES = {"cones": (374, 450), "teddy": (374, 450), "tsukuba": (288, 384), "venus": (382, 434)}


def sized(names, scale):
    """`(name, height, width)` of the ten images, cut to a multiple of the scale as an evaluation does."""
    whole = [(name, *SIZES.get(name.rpartition("/")[2].lower(), (1080, 1320))) for name in names]
    return [(name, height // scale * scale, width // scale * scale) for name, height, width in whole]


def evaluation(images, protocol="ahmf_table1", scale=4, *, values=None, floors=None, method="AHMF", **fields):
    """An evaluation of images given as `(name, height, width)`; `values` and `floors` are by image and metric."""
    preset = PROTOCOLS[protocol]
    metrics = preset.metrics

    def numbers(i, name):
        ours = (values or {}).get(name) or {metric: 1.0 + i for metric in metrics}
        floor = (floors or {}).get(name) or {metric: 2.0 + i for metric in metrics}
        return ours, floor

    measured = tuple(ImageNumbers(n, *numbers(i, n), height, width) for i, (n, height, width) in enumerate(images))
    known = {
        "weights": f"runs/{method}",
        "origin": f"step 1 of {method}",
        "dataset": "test10",
        "split": "",
        "unit": "cm" if preset.unit == "cm" else "grey levels",
        **fields,
    }
    return Evaluation(
        method=method,
        scale=scale,
        protocol=protocol,
        protocol_text=str(preset),
        protocol_fields={"floor": preset.floor},
        metrics=metrics,
        images=measured,
        mean=ImageNumbers("mean", *numbers(0, "mean"), 0, 0),
        **known,
    )
