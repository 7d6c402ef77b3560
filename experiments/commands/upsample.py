"""`ahmf upsample`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ahmf_jax.errors import InputError

if TYPE_CHECKING:
    from experiments.upsample import Settings

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Super-resolve depth of one's own with colour pictures of the same view, or without where the model reads none.

    One image: --depth, --guide and --out are files. Many: they are folders, whose files are paired by name. A video:
    --sequence is its folder (depth/ and rgb/, TUM's depth.txt and rgb.txt, or NAME_depth.* and NAME_rgb.*), and --out
    is one. For both, --picture, --confidence, --spread and --ply are folders, too; a frame that fails is named, the
    others are done, and the status is 1.
    """

    weights: tyro.conf.Positional[Path]
    """A run's folder or a .safetensors file; or dada_rgb_x8, DADA without learning, of that scale."""
    depth: Path | None = None
    """Low-resolution depth: 8- or 16-bit PNG, TIFF, EXR, NPY, PFM or DPT."""
    guide: Path | None = None
    """Colour picture, the factor times as high and wide: PNG, JPEG, TIFF, BMP, PPM, WebP or NPY. Not needed by models
    of depth alone (DSDMSR), which close holes by it if it is there."""
    sequence: Path | None = None
    """A video's folder, instead of --depth and --guide; its frames are of one size. A model of depth alone needs no
    pictures in it."""
    out: Path
    """High-resolution depth, in the dtype and unit of the low: PNG, TIFF, EXR, NPY or PFM. Floating point that the
    format does not hold (float64: NPY alone) is written as float32."""

    invalid: float | None = None
    """Depth value that means unknown, such as 0 or nan; without it, 0 is a depth, and a note says how often."""
    mask: Path | None = None
    """Picture of the depth's size, white where depth is known; for many, one or a folder."""
    holes: Literal["keep", "fill"] = "keep"
    """What becomes of unknown depth: it stays unknown, or is filled."""
    unit: str | None = None
    """Of the depth: mm, cm, m, '0.2 mm', ...; the model's by default."""
    range: str | None = None
    """Depth that the model takes for 1: a number, lr (the map's own largest) or a sensor, such as kinect_v2; its
    training data's by default. Of no effect on models with scaling=sample."""
    factor: float | None = None
    """How many times larger the result is, such as 3 or 2.7; the model's scale by default."""
    fit: Literal["crop", "resample"] | None = None
    """What to do with a guide of another size, which is refused by default."""
    consistent: Flag = False
    """Make the means of the result over the known samples those of the input."""
    temporal: Flag = False
    """Of a video: blend each frame with the last where nothing moved, against flicker."""

    picture: Path | None = None
    """Also write guide, bicubic and result side by side: PNG."""
    confidence: Path | None = None
    """Also write the distance to the nearest known sample, in samples of the low resolution: NPY, TIFF, PFM or EXR;
    PNG in hundredths of a sample."""
    spread: Path | None = None
    """Also write the standard deviation over four flips of the input, in the depth's unit, and make the result their
    mean; takes four times as long: NPY, TIFF, PFM or EXR."""
    ply: Path | None = None
    """Also write a point cloud, coloured by the guide, in the depth's unit; takes --intrinsics."""
    intrinsics: str | None = None
    """Of the guide, in its pixels (without one, of the result): fx,fy,cx,cy, Open3D's JSON, or a text file with the
    3 x 3 matrix."""

    channel: str | None = None
    """Channel of an EXR that is the depth; by default the one called Z or depth, or the only one."""
    tile: int | None = None
    """Side of the tiles that are computed one by one, in samples; by default as large as memory allows."""
    devices: int | None = None
    """Devices that share each image's rows; one by default."""
    max_pixels: int = 2**27
    """Refuse images that claim more pixels than this."""

    def __call__(self) -> None:
        """Writes the files."""
        many = self._many()
        from data_pipelines.clouds import read_intrinsics
        from experiments import upsample

        options = {
            **{"invalid": self.invalid, "holes": self.holes, "unit": self.unit, "depth_range": _number(self.range)},
            **{"factor": self.factor, "fit": self.fit, "consistent": self.consistent},
            **{"tile": self.tile, "bucket": many},
        }
        camera = None if self.intrinsics is None else read_intrinsics(self.intrinsics)
        settings = upsample.Settings(options, self.max_pixels, self.channel, camera)
        if many:
            self._sequence(settings)
            return
        assert self.depth is not None, "or there would be many"
        extras = self.mask, self.picture, self.confidence, self.spread, self.ply
        files = upsample.Files(self.depth, self.guide, self.out, *extras)
        upsample.upsample_files(self.weights, files, settings, self.devices)
        print(self.out)

    def _many(self) -> bool:
        """Whether folders are meant; InputError where the options do not go together."""
        pair = [path for path in (self.depth, self.guide) if path is not None]
        if self.sequence is not None and pair:
            raise InputError("--sequence is instead of --depth and --guide: leave out one or the others")
        if self.sequence is None and self.depth is None:
            raise InputError("--depth and --guide are needed (two files or two folders), or --sequence")
        folders = [path for path in pair if path.is_dir()]
        if len(folders) == 1 < len(pair):
            other = next(path for path in pair if path not in folders)
            raise InputError(f"{folders[0]} is a folder and {other} is none: name two files or two folders")
        many = self.sequence is not None or bool(folders)
        if self.temporal and not many:
            raise InputError("--temporal is for a video: name its folder with --sequence, or leave it out")
        if (self.ply is None) != (self.intrinsics is None):
            raise InputError("--ply and --intrinsics go together: a point cloud needs a camera, and nothing else does")
        if self.max_pixels < 1 or (self.tile is not None and self.tile < 1):
            raise InputError("--max-pixels and --tile take a whole number from 1: give another")
        return many

    def _sequence(self, settings: "Settings") -> None:
        """Writes a folder's or a video's; ends with status 1 where a frame failed."""
        from ahmf_jax.temporal import Temporal
        from data_pipelines.opening import some
        from data_pipelines.rgbd import depth_alone, open_sequence, pair_folders
        from experiments import sequence, upsample

        upsampler = upsample.load(self.weights, self.devices)
        upsample.check_colour(self.weights, upsampler, self.sequence is not None or self.guide is not None)
        guided = upsampler.trained.guide_channels > 0
        if self.sequence is not None:
            frames = open_sequence(self.sequence, colour=guided)
        else:
            assert self.depth is not None, "or there would be a sequence"
            frames = depth_alone(self.depth) if self.guide is None else pair_folders(self.depth, self.guide)
        extras = self.mask, self.picture, self.confidence, self.spread, self.ply
        colour = guided or any(frame.guide is not None for frame in frames)
        folders = sequence.Folders(self.out, *extras)
        with sequence.no_empty_folders(folders):
            jobs = sequence.plan(frames, folders, colour=colour)
            failed = sequence.upsample_sequence(
                upsampler,
                jobs,
                settings,
                one_size=self.sequence is not None,
                temporal=Temporal() if self.temporal else None,
            )
        if failed:
            print(f"ahmf: {len(failed)} of {len(jobs)} frames failed: {some(failed)}", file=sys.stderr)
            sys.exit(1)


def _number(text: str | None) -> float | str | None:
    """The number that the text is, or the text."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
