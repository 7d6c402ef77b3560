"""What can be measured, by name: interpolations, guided filters, trained models, and other programs' results."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from data_pipelines.datasets.info import DatasetInfo
from data_pipelines.degrade import Degradation
from experiments import config as configs
from experiments.protocols import PROTOCOLS
from experiments.protocols import Protocol as HowMeasured

BICUBIC = "bicubic"  # the floor of the protocol, which may be another kernel
# What people call the others, and which of the kernels that is.
ALIASES = {"nearest": "nearest_center", "bilinear": "torch_bilinear"}
DADA_RGB = "dada_rgb"  # the learning-free DADA


class Method(Protocol):
    """Anything that makes high resolution of a batch.

    Attributes:
      name: what to call it in a table.
      scale: the factor.
      origin: in words: where it comes from, and with which parameters.
      guided: whether it reads the guide.
    """

    name: str
    scale: int
    origin: str
    guided: bool

    def batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The depth (B, H, W, 1) in units of the range, of `depth_lr`, `mask_lr` and `guide`."""


class Interpolation:
    """An interpolation, whose numbers are a protocol's floor."""

    guided = False

    def __init__(self, kernel: str, scale: int, name: str = ""):
        self.kernel, self.scale, self.name = kernel, scale, name or kernel
        self.origin = "interpolation" if self.name == kernel else f"interpolation by {kernel}"

    def batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The low-resolution depth up-sampled."""
        return interpolate(batch, self.kernel)


def interpolate(batch: Mapping[str, np.ndarray], kernel: str) -> np.ndarray:
    """The low-resolution depth of a batch up-sampled to the guide's size."""
    return resample.resize(batch["depth_lr"], batch["guide"].shape[1:3], kernel)


class Network:
    """A trained model: a run's folder (its best checkpoint), a weights file, or the learning-free "dada_rgb_x8".

    `model` says in a few words which it is, `parameters` how many numbers it has; `guided` and `keeps_means` are the
    model's.
    """

    def __init__(self, weights: Path, name: str = ""):
        import jax

        from ahmf_jax import scaling, upsample

        self._upsampler: Any = upsample.load(weights)
        trained = self._upsampler.trained
        self.name = name or weights.resolve().name.removesuffix(".safetensors")
        self.scale: int = trained.model.scale
        self.origin = trained.origin
        self.model = trained.model.summary()
        self.parameters: int = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
        self.guided: bool = trained.model.guided
        self.keeps_means: bool = trained.model.keeps_means
        if scaling.is_leak(trained.scaling):
            self.origin += ", told the smallest and largest TRUE depth of each image: a leak"

    def batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The super-resolved depth."""
        return self._upsampler.batch(batch)


def trained_on(weights: Path) -> Degradation | None:
    """How the low resolution was made that a run was trained on; None of a file, which has no record of it."""
    return configs.of_run(weights).data.degrade if weights.is_dir() else None


def own_protocol(run: Path, info: DatasetInfo) -> str:
    """The protocol that a run was validated by, if it fits the data; else "run"."""
    name = configs.of_run(run).validation_protocol
    if name != "run":
        try:
            PROTOCOLS[name].unit_of(info)
        except InputError:  # it is for other data
            name = "run"
    return name


def named_methods() -> tuple[str, ...]:
    """The methods that have a name and are no path, whatever lies in the working folder."""
    from ahmf_jax.models import classical

    return BICUBIC, *ALIASES, *resample.KERNELS, *classical.FILTERS, DADA_RGB


def run_folder(name: str) -> Path | None:
    """The run that a method's name means; None where it is no folder, or the name of something else."""
    return Path(name) if name and name not in named_methods() and Path(name).is_dir() else None


def open_method(name: str, scale: int | None, protocol: HowMeasured) -> Method:
    """The method of that name.

    Args:
      name: "bicubic" (the protocol's floor, called by its kernel where that is another), "nearest", "bilinear", a
        kernel of `ahmf_jax.resample`, a filter of `ahmf_jax.models.classical`, "dada_rgb", or a path: a run's folder
        or a .safetensors file.
      scale: the factor, for what fits any; a trained model has its own.
      protocol: by which it will be measured.

    Raises:
      InputError: there is none of that name; no scale where one is needed, or another than the model's.
    """
    from ahmf_jax.models import classical
    from ahmf_jax.upsample import LEARNING_FREE

    kernel = protocol.floor if name == BICUBIC else ALIASES.get(name, name)
    if name in named_methods():
        if scale is None:
            raise InputError(f"{name} fits any scale: give one with --scale, as in --scale 4")
        if scale < 2:
            raise InputError(f"--scale {scale}: must be at least 2")
        if name == DADA_RGB:
            return Network(Path(f"{DADA_RGB}_x{scale}"), name)
        if kernel in classical.FILTERS:
            return classical.Classical(name, scale, noisy=protocol.degrade.noise_sigma > 0)
        if name == BICUBIC and BICUBIC not in kernel:
            name = kernel  # called what it is
        return Interpolation(kernel, scale, name)
    if not (Path(name).exists() or re.fullmatch(LEARNING_FREE, name)):
        known = ", ".join(named_methods())
        raise InputError(f"{name} is no method ({known}), and no run's folder or weights file is there: check the name")
    network = Network(Path(name))
    if scale not in (None, network.scale):
        raise InputError(f"--scale {scale}: {name} is a model of x{network.scale}: leave it out")
    return network


def open_methods(names: Sequence[str], scale: int | None, protocol: HowMeasured) -> dict[str, Method]:
    """Methods of one scale, by what to call them; without a scale, that of the trained models among them.

    Raises:
      InputError: none is named, or one twice; no method of a name; models of several scales; no scale.
    """
    if not names:
        raise InputError("name what to measure: runs, weights, interpolations or filters")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice: name it once")
    models = {name: open_method(name, scale, protocol) for name in names if name not in named_methods()}
    scales = {name: model.scale for name, model in models.items()}
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} is x{of}" for name, of in scales.items())
        raise InputError(f"methods of several scales cannot be compared ({listed}): name those of one scale")
    scale = next(iter(scales.values()), scale)
    methods = {name: models.get(name) or open_method(name, scale, protocol) for name in names}
    called = Counter(method.name for method in methods.values())
    return {method.name if called[method.name] == 1 else name: method for name, method in methods.items()}


class Predictions:
    """Another program's results: a folder with one depth map for each image, named after it.

    The file of an image is the one whose name, without its ending and in lower case, is the image's with any separators
    made `_`; or its last part, where no other image has the same; or begins with either and goes on after a `_` or `-`
    (`art_depth.png`) without being another image's name.
    """

    def __init__(self, folder: Path, images: Sequence[str], scale: int, name: str = "", factor: float = 1.0):
        """Finds the files; reads none.

        Args:
          folder: with the files.
          images: the names of all images that will be asked for.
          scale: the factor, of the low resolution that they were made from.
          name: what to call it; the folder's by default.
          factor: from the files' unit to that of the data.

        Raises:
          InputError: no such folder; images without a file, or with several.
        """
        from data_pipelines.files import DEPTH_SUFFIXES

        if not folder.is_dir():
            raise InputError(f"--predictions {folder}: there is no such folder")
        self.name, self.scale = name or folder.resolve().name, scale
        self.origin = f"predictions in {folder}"
        self._folder, self._factor = folder, factor
        files: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in DEPTH_SUFFIXES:
                files.setdefault(path.stem.lower(), []).append(path)
        self._files: dict[str, Path] = {}
        missing = []
        called = _names(images)
        for image in images:
            found = _matching(files, image, called)
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise InputError(f"--predictions {folder}: {image} may be any of {names}: leave one of them there")
            if found:
                self._files[image] = found[0]
            else:
                missing.append(image)
        if missing:
            listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise InputError(
                f"--predictions {folder}: {len(missing)} of {len(images)} images have no file: {listed}: name each "
                f"after its image, such as {missing[0].replace('/', '_')}.png (also {', '.join(DEPTH_SUFFIXES)})"
            )

    def read(self, image: str, size: tuple[int, int], uncut: tuple[int, int]) -> np.ndarray:
        """The depth (H, W) of an image, float64 in the unit of the data.

        Args:
          image: its name.
          size: (H, W) that is measured.
          uncut: the size of the truth before it was cut to a multiple of the scale at the right and the bottom.

        Raises:
          InputError: the file cannot be read, or has another size.
        """
        from data_pipelines.files import read_depth

        path = self._files[image]
        depth = read_depth(path)
        if depth.shape not in (size, uncut):
            sizes = " or ".join(dict.fromkeys(f"{height} x {width}" for height, width in (size, uncut)))
            raise InputError(
                f"{path}: is {depth.shape[0]} x {depth.shape[1]} (height x width), and {image} is {sizes}: give "
                "predictions of the size of the truth"
            )
        return depth[: size[0], : size[1]].astype(np.float64) * self._factor


def _names(images: Sequence[str]) -> dict[str, list[str]]:
    """What an image's file may be called: its name with separators made `_`, and its last part if no other has it."""
    parts = {image: image.lower().split("/") for image in images}
    last = Counter(of[-1] for of in parts.values())
    return {
        image: list(dict.fromkeys(("_".join(of), *([of[-1]] if last[of[-1]] == 1 else ()))))
        for image, of in parts.items()
    }


def _matching(files: Mapping[str, Sequence[Path]], image: str, names: Mapping[str, Sequence[str]]) -> list[Path]:
    """The files that may be meant, of the first way of naming by which there is one."""
    for name in names[image]:
        if name in files:
            return list(files[name])
    others = {name for other, of in names.items() if other != image for name in of}
    free = {stem: paths for stem, paths in files.items() if stem not in others}
    for name in names[image]:
        found = [path for stem, paths in free.items() if stem.startswith((f"{name}_", f"{name}-")) for path in paths]
        if found:
            return found
    return []
