"""Protocols: everything that a number depends on besides the method, as values, and those of the literature by name.

Papers that say "bicubic, MAE" mean different things; two numbers can be compared when their protocols agree and the
data do. What proves a preset is its floor: interpolation measured by it gives the figures that are recorded for the
data, where there are some (`ahmf doctor --floors`).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.metrics import METRICS
from ahmf_jax.units import in_metres
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.degrade import Degradation, Kernel

# Noise of so many grey levels, which Degradation wants as a part of the range.
SIGMA_5 = 5 / 255


@dataclass(frozen=True)
class Protocol:
    """How a number is made."""

    degrade: Degradation = field(default_factory=Degradation)
    """How low resolution is made; chance is seeded by the image's place in the data set."""
    floor: Kernel = "matlab_bicubic"
    """The interpolation that stands beside the method."""
    rounding: Literal["uint8", "none"] = "none"
    """`uint8`: the output is rounded and clipped to 0..255, as the truth is, for sets whose range is 255."""
    clip: bool = False
    """Whether the output is clipped to the range, from 0."""
    border: int = 0
    """Pixels left out on every side."""
    mask: Literal["known", "all"] = "known"
    """`known`: pixels whose truth is known; `all`: every pixel, an unknown one having a truth of 0."""
    pe_threshold: float = 5.0
    """PE is the share of the pixels whose error is at least this, in grey levels: 255ths of the range."""
    unit: Literal["grey", "cm", "grey_or_cm", "data"] = "data"
    """Of the numbers: `grey` levels, for sets whose range is 255; `cm`, for lengths; whichever of the two the data
    have; or the data's own."""
    tile: int = 0
    """Side of the squares that images are cut into first, row by row, each an image then, what is left over at the
    right and the bottom being dropped; 0: whole images, cut to a multiple of the scale."""
    averaging: Literal["images", "pixels", "batches"] = "images"
    """Of what the mean is: the images' numbers; all pixels; or the numbers of `batch` images in a row, each number over
    all of their pixels and the last batch as heavy as the others."""
    batch: int = 32
    """Images in a batch, for averaging over batches."""
    metrics: tuple[str, ...] = ("mae", "rmse", "psnr", "pe")
    """What the protocol is about, of `ahmf_jax.metrics.METRICS`; the others are recorded beside it."""
    about: str = ""
    """Of which data, and where the protocol comes from."""

    def __post_init__(self) -> None:
        """Checks the names of the metrics."""
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise InputError(f"Protocol.metrics is {self.metrics!r}: choose of {', '.join(METRICS)}")

    def __str__(self) -> str:
        """One line that says all of it, but for `about`."""
        parts = (
            str(self.degrade),
            self.tile and f"of each {self.tile} x {self.tile} tile",
            f"floor by {self.floor}",
            "output rounded to uint8" if self.rounding == "uint8" else "output not rounded",
            self.clip and "clipped to the range",
            f"border {self.border} px",
            "known pixels" if self.mask == "known" else "all pixels, unknown ones being 0",
            f"PSNR peak = the data's range, PE: errors of {self.pe_threshold:g} / 255 of it and more",
            {
                "images": "mean over images",
                "pixels": "mean over all pixels",
                "batches": f"mean over batches of {self.batch}",
            }[self.averaging],
        )
        return ", ".join(part for part in parts if part)

    def unit_of(self, info: DatasetInfo) -> tuple[str, float]:
        """What numbers on that data set are printed in, and the factor from its own unit.

        Raises:
          InputError: the protocol does not fit the data set.
        """
        length = in_metres(info.unit)
        grey = is_grey(info)
        there, remedy = f"{info.name} has a range of {info.range:g} {info.unit}", "use --protocol float"
        if self.rounding == "uint8" and not grey:
            raise InputError(f"this protocol rounds to uint8, and {there}: {remedy}")
        if self.unit == "data":
            return "grey levels" if info.unit == "grey level" else info.unit, 1.0
        if self.unit != "cm" and grey:
            return "grey levels", 1.0
        if self.unit != "grey" and length is not None:
            return "cm", 100 * length
        wanted = {"grey": "a range of 255", "cm": "a length", "grey_or_cm": "a length, or a range of 255"}[self.unit]
        if self.unit == "cm":
            remedy = (
                "prepare the data as depth, where they tell it (Middlebury's: `ahmf data prepare middlebury --quantity "
                "depth --name middlebury_depth`), or use --protocol area"
            )
        raise InputError(f"this protocol wants depth that is {wanted}, and {there}: {remedy}")


PRESETS_OF_AHMF = "AHMF (Zhong et al., TIP 2022)"
PROTOCOLS = {
    "ahmf_table1": Protocol(
        rounding="uint8",
        unit="grey",
        about=f"{PRESETS_OF_AHMF}, Table I, by the authors' test program: MSG-Net's set B, six scenes of 1080 x 1320",
    ),
    "ahmf_table2": Protocol(
        degrade=Degradation(noise_sigma=SIGMA_5),
        rounding="uint8",
        unit="grey",
        about=f"{PRESETS_OF_AHMF}, Table II: the same scenes, with Gaussian noise of 5 grey levels on the LR depth",
    ),
    "ahmf_table3": Protocol(
        rounding="uint8",
        unit="grey",
        about=f"{PRESETS_OF_AHMF}, Table III: the six images of Lu et al. (CVPR 2014)",
    ),
    "ahmf_table4": Protocol(
        degrade=Degradation("nearest_first"),
        floor="pillow_bicubic",
        border=6,
        unit="grey_or_cm",
        metrics=("rmse", "mae"),
        about=f"{PRESETS_OF_AHMF}, Table IV: Middlebury's 30 images and the 6 of Lu et al., NYU v2's 449 in cm",
    ),
    "b6": Protocol(
        degrade=Degradation("pillow_bicubic"),
        floor="pillow_bicubic",
        border=6,
        unit="grey_or_cm",
        metrics=("rmse", "mae"),
        about="DKN (Kim et al., IJCV 2021), SGNet and most papers since: NYU v2's 449 in cm, Middlebury's 30, Lu's 6",
    ),
    "dscsan": Protocol(
        rounding="uint8",
        mask="all",
        unit="grey",
        metrics=("psnr", "pe"),
        about="DSCSAN (Acta Electronica Sinica 2023), Table 1: MSG-Net's sets B and C, ten images",
    ),
    "dscsan_noisy": Protocol(
        degrade=Degradation(noise_sigma=SIGMA_5),
        rounding="uint8",
        mask="all",
        pe_threshold=10.0,
        unit="grey",
        metrics=("psnr", "pe"),
        about="DSCSAN, Table 2 (x8): the same with Gaussian noise of 5 grey levels on the low resolution",
    ),
    "dada": Protocol(
        degrade=Degradation("area"),
        floor="torch_bicubic",
        unit="cm",
        tile=256,
        averaging="batches",
        batch=32,
        metrics=("mse", "mae"),
        about="DADA (Metzger et al., CVPR 2023), Tables 1 and 2: distances of Middlebury, NYU v2 and DIML",
    ),
    "dsdmsr": Protocol(
        degrade=Degradation("torch_bilinear"),
        floor="torch_bilinear",
        clip=True,
        mask="all",
        unit="grey",
        metrics=("psnr", "mae", "rmse"),
        about="DSDMSR (Song et al., TCSVT 2019) as its PyTorch implementation measures, on maps of the truth's size",
    ),
    "dsdmsr_dtu": Protocol(
        degrade=Degradation("torch_bilinear", reduce=2),
        floor="torch_bilinear",
        clip=True,
        mask="all",
        unit="grey",
        metrics=("psnr", "mae", "rmse"),
        about="the same on DTU as that prepares it: 80 x 64 and the truth of 640 x 512, both of maps of 1280 x 1024",
    ),
    "float": Protocol(about="this project's, for any data"),
    "area": Protocol(
        degrade=Degradation("area"),
        about="this project's, for any data, with block means as a sensor that averages has them",
    ),
}


def is_grey(info: DatasetInfo) -> bool:
    """Whether depth is in grey levels of 0..255."""
    return info.range == 255 and in_metres(info.unit) is None


def choose_protocol(name: str | None, info: DatasetInfo, trained_on: Degradation | None) -> tuple[str, Protocol]:
    """A protocol and its name.

    Args:
      name: one of `PROTOCOLS`; "run": the low resolution that the model was trained on, output not rounded, no border;
        or None: "ahmf_table1" for depth of 0..255, "float" for other depth.
      info: what the depth means.
      trained_on: how the low resolution was made that the model was trained on, where that is recorded; for "run".

    Raises:
      InputError: an unknown name, or "run" without a record of it.
    """
    name = name or ("ahmf_table1" if is_grey(info) else "float")
    if name == "run":
        if trained_on is None:
            raise InputError(
                "--protocol run: only a run's folder says what low resolution a model was trained on: give the run's "
                f"folder, or choose one of {', '.join(PROTOCOLS)}"
            )
        return name, run_protocol(trained_on)
    if name not in PROTOCOLS:
        raise InputError(f"--protocol {name}: choose one of {', '.join(PROTOCOLS)}, or run")
    return name, PROTOCOLS[name]


def run_protocol(degrade: Degradation) -> Protocol:
    """The protocol "run": the low resolution that a run is trained on, output not rounded, no border."""
    return Protocol(degrade, about="the low resolution that the run was trained on")


def rounded(depth: np.ndarray, protocol: Protocol, depth_range: float) -> np.ndarray:
    """The output as the protocol measures it; depth in the data set's unit."""
    if protocol.rounding == "uint8":
        return np.clip(np.rint(depth), 0, 255)
    return np.clip(depth, 0, depth_range) if protocol.clip else depth
