"""Protocols: what they print, what they fit, and that the presets are what their sources say."""

import dataclasses
import typing

import pytest

from ahmf_jax.errors import InputError
from data_pipelines.datasets import DatasetInfo
from data_pipelines.degrade import Degradation
from experiments.config import ProtocolName
from experiments.protocols import PROTOCOLS, Protocol, choose_protocol, run_protocol

GREY = DatasetInfo("grey", "grey level", 255.0, 0, "", "")
METRES = DatasetInfo("metres", "m", 10.0, 0, "", "")
MILLIMETRES = DatasetInfo("millimetres", "mm", 4000.0, 0, "", "")
PIXELS = DatasetInfo("pixels", "pixel", 64.0, 0, "", "")


def test_one_line_says_all_that_a_number_depends_on():
    assert str(PROTOCOLS["ahmf_table1"]) == (
        "LR by matlab_bicubic, floor by matlab_bicubic, output rounded to uint8, border 0 px, known pixels, PSNR peak "
        "= the data's range, PE: errors of 5 / 255 of it and more, mean over images"
    )
    # Two protocols that differ have lines that differ, but for what is printed and in which unit.
    lines = [str(dataclasses.replace(p, metrics=("mae",), unit="data", about="")) for p in PROTOCOLS.values()]
    shared = {"ahmf_table1": "ahmf_table3"}  # Table III's is Table I's, on other images
    assert len(set(lines)) == len(PROTOCOLS) - len(shared)
    assert "of each 256 x 256 tile" in lines[list(PROTOCOLS).index("dada")]
    assert "mean over batches of 32" in str(PROTOCOLS["dada"]) and "all pixels" in str(PROTOCOLS["dscsan"])


def test_noise_is_five_grey_levels():
    for name in ("ahmf_table2", "dscsan_noisy"):
        assert PROTOCOLS[name].degrade == Degradation("matlab_bicubic", noise_sigma=5 / 255)
    assert (PROTOCOLS["dscsan"].pe_threshold, PROTOCOLS["dscsan_noisy"].pe_threshold) == (5, 10)


@pytest.mark.parametrize(
    ("unit", "info", "printed"),
    [
        ("grey", GREY, ("grey levels", 1)),
        ("grey_or_cm", GREY, ("grey levels", 1)),
        ("grey_or_cm", METRES, ("cm", 100)),
        ("cm", MILLIMETRES, ("cm", 0.1)),
        ("data", MILLIMETRES, ("mm", 1)),
        ("data", PIXELS, ("pixel", 1)),
    ],
)
def test_units(unit, info, printed):
    name, factor = Protocol(unit=unit).unit_of(info)
    assert name == printed[0] and factor == pytest.approx(printed[1])


@pytest.mark.parametrize(
    ("protocol", "info", "said"),
    [
        (Protocol(unit="grey"), METRES, "wants depth that is a range of 255, and metres has a range of 10 m"),
        (Protocol(unit="cm"), GREY, "wants depth that is a length, and grey has a range of 255 grey level"),
        (Protocol(unit="cm"), PIXELS, "a range of 64 pixel: prepare .* --quantity depth --name .* --protocol area$"),
        (Protocol(unit="grey_or_cm"), PIXELS, "a length, or a range of 255, and pixels has a range of 64 pixel"),
        (
            Protocol(rounding="uint8"),
            PIXELS,
            "rounds to uint8, and pixels has a range of 64 pixel: use --protocol float",
        ),
    ],
)
def test_data_that_do_not_fit(protocol, info, said):
    with pytest.raises(InputError, match=said):
        protocol.unit_of(info)


def test_the_choice():
    assert choose_protocol(None, GREY, None) == ("ahmf_table1", PROTOCOLS["ahmf_table1"])
    assert choose_protocol(None, METRES, None) == ("float", PROTOCOLS["float"])
    area = Degradation("area")
    assert choose_protocol("run", METRES, area) == ("run", run_protocol(area))
    with pytest.raises(InputError, match=r"--protocol run: only a run's folder says .* choose one of ahmf_table1, "):
        choose_protocol("run", METRES, None)
    with pytest.raises(InputError, match=r"--protocol b7: choose one of ahmf_table1, .*, or run"):
        choose_protocol("b7", METRES, None)
    # The command line lists them by hand, so that its help costs nothing.
    assert set(typing.get_args(ProtocolName)) == {"run", *PROTOCOLS}


def test_metrics_that_are_not_there():
    with pytest.raises(InputError, match=r"Protocol.metrics is \('mea',\): choose of mae, rmse"):
        Protocol(metrics=("mea",))
