"""Units and ranges, by hand."""

import re
from pathlib import Path
from typing import Any

import pytest

from ahmf_jax import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import AHMF
from ahmf_jax.units import SENSORS, conversion, depth_of_one, in_metres

MODEL = AHMF(scale=2, num_levels=1, features=2)


@pytest.mark.parametrize(
    ("unit", "metres"),
    [
        ("m", 1), ("Metres", 1), ("meter", 1), ("mm", 1e-3), ("0.2 mm", 2e-4), ("0.25mm", 2.5e-4),
        ("millimetres", 1e-3),
        ("cm", 0.01), ("2 m", 2), ("inches", 0.0254), ("ft", 0.3048), ("feet", 0.3048), ("grey level", None),
        ("pixel", None), ("furlong", None), ("0 mm", None), ("", None), ("-1 m", None), ("2", None),
    ],
)  # fmt: skip
def test_lengths(unit: str, metres: float | None) -> None:
    assert in_metres(unit) == (None if metres is None else pytest.approx(metres))


@pytest.mark.parametrize(
    ("unit", "into", "factor"),
    [("mm", "m", 1e-3), ("m", "mm", 1000), ("0.2 mm", "m", 2e-4), ("cm", "mm", 10), ("Grey levels", "grey level", 1),
     ("gray level", "grey level", 1), ("px", "pixel", 1), ("metre", "m", 1)],
)  # fmt: skip
def test_conversion(unit: str, into: str, factor: float) -> None:
    assert conversion(unit, into) == pytest.approx(factor)


@pytest.mark.parametrize(("unit", "into"), [("mm", "grey level"), ("pixel", "m"), ("grey level", "pixel")])
def test_what_does_not_convert(unit: str, into: str) -> None:
    with pytest.raises(InputError, match=rf"depth in {unit}s? cannot be turned into {into}s?: both must be lengths"):
        conversion(unit, into)


def one(unit: str | None, depth_range: Any, largest: float = 3.0, **fields: Any) -> float:
    return depth_of_one(Trained(MODEL, {}, **{"unit": "m", "range": 10.0, **fields}), unit, depth_range, largest)


@pytest.mark.parametrize(
    ("unit", "depth_range", "largest", "expected"),
    [
        (None, None, 3.0, 10.0),
        ("mm", None, 3000.0, 10_000.0),
        ("0.2 mm", None, 3000.0, 50_000.0),
        ("mm", 5000, 3000.0, 5000.0),
        ("mm", "kinect_v2", 3000.0, 4500.0),
        (None, "kinect_v2", 3.0, 4.5),
        ("cm", "lr", 321.0, 321.0),
        ("m", "lr", 0.0, 1.0),
        ("pixel", "lr", 60.0, 60.0),
        ("pixel", 64.0, 60.0, 64.0),
    ],
)
def test_what_counts_as_one(unit: str | None, depth_range: Any, largest: float, expected: float) -> None:
    assert one(unit, depth_range, largest) == pytest.approx(expected)


def test_a_model_of_the_samples_own_span_takes_any_unit() -> None:
    for unit, depth_range in (("mm", None), ("pixel", None), (None, "kinect_v1"), ("grey level", "azure_kinect_nfov")):
        assert one(unit, depth_range, 3000.0, scaling="sample") == 3000
    with pytest.raises(InputError, match="unit 'mmm' is not known"):
        one("mmm", None, scaling="sample")


@pytest.mark.parametrize(
    ("unit", "depth_range", "message"),
    [
        ("parsec", None, r"the unit 'parsec' is not known: give m, cm, mm, .*'grey level' or 'pixel'"),
        ("grey level", None, "depth in grey levels cannot be turned into m: both must be lengths"),
        ("pixel", "kinect_v1", "depth in pixels cannot be turned into m"),
        (
            None,
            "kinect",
            r"'kinect' is no number, not 'lr' and no sensor that is known: kinect_v1, kinect_v2",
        ),
        (None, 0, "the range is 0.0: a positive depth"),
        ("m", "realsense_d435", r"reaches 3.1, beyond the model's range of 3 m: .*--range"),
        ("mm", None, None),
    ],
)
def test_what_cannot_be_used(unit: str | None, depth_range: Any, message: str | None) -> None:
    if message is None:
        assert one(unit, depth_range, 3.1) == 10_000
        return
    with pytest.raises(InputError, match=message):
        one(unit, depth_range, 3.1)


def test_a_unit_of_the_data_set_s_own_is_its_own() -> None:
    own = Trained(MODEL, {}, unit="furlong", range=10.0)
    assert depth_of_one(own, "furlongs", None, 3.0) == depth_of_one(own, None, None, 3.0) == 10


def test_sensors_see_metres() -> None:
    assert all(1 < reach < 10 for reach in SENSORS.values())


def test_the_page_has_every_sensor_and_its_reach() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sensors.md").read_text()
    stated = {name: float(reach) for name, reach in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE)}
    assert stated == SENSORS
