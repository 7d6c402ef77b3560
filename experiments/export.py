"""`ahmf export`: a trained model as a file for another program, which is run before the file gets its name.

What is written is loaded again as its user will load it, and compared with the original on images of three sizes. One
that differs is not left behind.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.writing import atomic_folder, atomic_write
from experiments import config as configs

# Largest difference that is rounding, of the range, or of the largest depth that the model makes, if more, as it
# may be before it is trained: of a network, and of a model that iterates, where it adds up: 9,024 iterations of DADA in
# float32 are 3e-5 from float64 on these images, whatever program does them.
TOLERANCE, ITERATED = 1e-5, 1e-4
# Batch, height and width of the low-resolution depth that is compared; thousands of iterations are slow in PyTorch.
SIZES = ((2, 7, 11), (1, 1, 2), (1, 24, 40))
ITERATED_SIZES = ((2, 3, 5), (1, 1, 2), (1, 7, 11))
PROGRAM, WEIGHTS = "model.pt2", "weights.safetensors"
# The fields of a DADA that are about its network, and its training: nothing to one without learning.
LEARNED = ("encoder", "channels", "enlarge", "gradient_iterations", "gradient", "batch_norm")

# (B, h, w, 1) depth in the model's unit and (B, scale h, scale w, C) guide in [0, 1] -> (B, scale h, scale w, 1) depth.
Runs = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Differs(RuntimeError):
    """What was exported does not compute what the model does: a failure of ours, of which no file is left."""


def to_safetensors(source: Path, out: Path) -> None:
    """Writes a run or a bundle as a bundle that tells where it comes from."""
    from ahmf_jax.export import bundle, load_bundle

    with _checked(source, out, ".safetensors") as export:
        data = bundle(export.trained)
        export.write(data)
        export.compare(_original(load_bundle(export.temp)))
    export.say(f"{len(data):,} bytes")
    print(f'import ahmf_jax; depth = ahmf_jax.load("{out}")({", ".join(export.inputs)})')


def to_stablehlo(source: Path, out: Path) -> None:
    """Writes a StableHLO program of any sizes, for every platform."""
    _require("stablehlo", "flatbuffers")
    import jax

    from ahmf_jax import stablehlo

    with _checked(source, out, ".stablehlo") as export:
        data = stablehlo.serialize(export.trained)
        export.write(data)
        program = jax.jit(jax.export.deserialize(bytearray(export.temp.read_bytes())).call)
        export.compare(lambda *images: np.asarray(program(*images[: len(export.inputs)])))
    export.say(f"{len(data):,} bytes, for {', '.join(stablehlo.PLATFORMS)}")
    print("import jax, jax.export, pathlib")
    print(f'program = jax.jit(jax.export.deserialize(bytearray(pathlib.Path("{out}").read_bytes())).call)')
    print(f"depth = program({', '.join(export.inputs)})")


def to_onnx(source: Path, out: Path) -> None:
    """Writes an ONNX graph of any sizes."""
    _require("onnx", "onnx", "onnxruntime", extra="[onnx]")
    import onnxruntime

    from ahmf_jax import onnx_graph

    with _checked(source, out, ".onnx") as export:
        model = onnx_graph.build(export.as_plain())
        data = model.SerializeToString()
        export.write(data)
        session = onnxruntime.InferenceSession(str(export.temp), providers=["CPUExecutionProvider"])

        def run(*images: np.ndarray) -> np.ndarray:
            (depth,) = session.run(None, dict(zip(export.inputs, map(_nchw, images), strict=False)))
            return np.moveaxis(depth, 1, -1)

        export.compare(run)
    export.say(f"{len(data):,} bytes, {len(model.graph.node)} nodes, opset {onnx_graph.OPSET}")
    print("import onnxruntime")
    print(f'session = onnxruntime.InferenceSession("{out}", providers=["CPUExecutionProvider"])')
    given = ", ".join(f'"{name}": {name}' for name in export.inputs)
    print(f"(depth,) = session.run(None, {{{given}}})")


def to_torch(source: Path, out: Path) -> None:
    """Writes a folder with a program of any sizes for PyTorch, and the weights by the authors' names if it has any."""
    _require("torch", "torch", extra="[torch]")
    import torch
    from safetensors.numpy import save

    from ahmf_jax import torch_modules, torch_weights
    from ahmf_jax.export import bundle_header

    with _checked(source, out, "") as export:
        trained = export.as_plain()
        module = torch_modules.InUnits(
            torch_modules.network(trained.model, trained.params), trained.range, trained.scaling
        )
        data = torch_modules.serialize(module, trained.model.scale, trained.guide_channels)
        export.write(data, PROGRAM)
        if trained.params:
            weights = torch_weights.to_torch(trained.model, trained.params)
            export.write(save(weights, {"format": "pt", **bundle_header(trained)}), WEIGHTS)
        program = torch.export.load(export.temp / PROGRAM).module()

        def run(*images: np.ndarray) -> np.ndarray:
            depth = program(*(torch.from_numpy(_nchw(image)) for image in images[: len(export.inputs)]))
            return np.moveaxis(depth.numpy(), 1, -1)

        export.compare(run)
    export.say(f"{PROGRAM}, {len(data):,} bytes" + (f", and {WEIGHTS}" if trained.params else ""))
    print("import torch")
    print(f'depth = torch.export.load("{out / PROGRAM}").module()({", ".join(export.inputs)})')


def described(source: Path) -> Iterator[str]:
    """What a bundle or a run says of itself, line by line."""
    import jax

    from ahmf_jax.export import model_fields, read_header
    from ahmf_jax.models import name_of

    trained = load(source)
    header = read_header(source) if source.is_file() else {}
    idle = LEARNED if getattr(trained.model, "features", "") == "rgb" else ()
    fields = ", ".join(f"{k} {v}" for k, v in model_fields(trained.model).items() if k not in idle)
    count = sum(x.size for x in jax.tree.leaves(trained.params))
    guide = f"for a guide of {trained.guide_channels} channels" if trained.model.guided else "for depth without a guide"
    lines = {
        "model": f"{name_of(trained.model)}, {fields}",
        "weights": f"{count:,}, {guide}",
        "depth": f"in {trained.unit}, {trained.range:g} count as 1, scaling {trained.scaling}",
        "origin": trained.origin,
        **{f"training {name}": _text(value) for name, value in trained.training.items()},
        **{f"validation {name}": _text(value) for name, value in trained.metrics.items()},
    }
    if header:
        lines["written by"] = f"ahmf-jax {header.get('version', '(not stated)')}, format {header['format']}"
    width = max(map(len, lines))
    for name, value in lines.items():
        line = f"{name:{width}}  {value or '(not stated)'}"
        yield line if line.isprintable() else ascii(line)[1:-1]  # a file's words are not for the terminal to obey


def load(source: Path) -> Trained:
    """The model of a run's folder, a bundle or a name; of a run with what it was trained on and how well it did."""
    from ahmf_jax.upsample import load_trained

    trained = load_trained(source)
    if not source.is_dir():
        return trained
    training, metrics = history(source, trained.training["step"])
    return dataclasses.replace(trained, training=training, metrics=metrics)


def history(run: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run's weights of that step were trained on, and their validation figures with the protocol, as JSON."""
    from ahmf_jax.checkpoint import read_facts
    from experiments.protocols import PROTOCOLS, run_protocol

    config = configs.of_run(run)
    data = config.data
    training: dict[str, Any] = {
        "dataset": data.dataset,
        "split": data.train,
        "degradation": str(data.degrade),
        "patch_size": data.patch_size,
        "batch_size": data.batch_size,
        "step": step,
    }
    if data.patch_width:
        training["patch_width"] = data.patch_width
    if data.mix:
        training["mix"] = list(data.mix)
    lines = [line for line in read_facts(run, step)["lines"] if line["step"] == step and "validation_mae" in line]
    if not lines:
        return training, {}
    name = config.validation_protocol
    protocol = run_protocol(data.degrade) if name == "run" else PROTOCOLS[name]
    figures = {key.removeprefix("validation_"): v for key, v in lines[-1].items() if key.startswith("validation_")}
    return training, {
        "dataset": data.dataset,
        "split": data.validation,
        "step": step,
        **figures,
        "protocol": str(protocol),
    }


class _Export:
    """A file or folder that is being written beside its place, of a model."""

    def __init__(self, trained: Trained, out: Path, temp: Path) -> None:
        self.trained, self.out, self.temp = trained, out, temp
        self._differences: list[str] = []
        self._changed: dict[str, Any] = {}
        self._started = time.perf_counter()

    @property
    def inputs(self) -> list[str]:
        """What a program of the model takes, in order."""
        return ["depth_lr", "guide"] if self.trained.model.guided else ["depth_lr"]

    def as_plain(self) -> Trained:
        """The model with all its iterations, for a program that has no other way; it is compared with the original."""
        from ahmf_jax.export import model_fields, plain

        made = plain(self.trained)
        kept = model_fields(made.model)
        self._changed = {k: v for k, v in model_fields(self.trained.model).items() if v != kept[k]}
        return made

    def write(self, data: bytes, name: str = "") -> None:
        """Writes the file, or one of the folder's, and has the disk hold it."""
        with (self.temp / name if name else self.temp).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def compare(self, exported: Runs) -> None:
        """Runs what was exported beside the original.

        Raises:
          Differs: by more than rounding.
          InputError: so does a model whose settings the program does not have (`as_plain`).
        """
        trained = self.trained
        original = _original(trained)
        sizes, tolerance = (ITERATED_SIZES, ITERATED) if trained.model.iterates else (SIZES, TOLERANCE)
        for size in sizes:
            depth_lr, guide = _scene(size, trained)
            wanted, found = original(depth_lr, guide), exported(depth_lr, guide)
            difference = float(np.abs(found - wanted).max()) / max(trained.range, float(np.abs(wanted).max()))
            shown = "x".join(map(str, size))
            # Also where it is no number.
            if found.shape != wanted.shape or not difference <= tolerance:
                if self._changed:
                    fields = " and ".join(f"{name}={value}" for name, value in self._changed.items())
                    raise InputError(
                        f"{self.out} is not written: such a program does all iterations on the fine image, and this "
                        f"model, with {fields}, does not: on {shown} samples they differ by {difference:.1e} of the "
                        "range; train one with --model.start fine --model.tolerance 0, or export stablehlo, which "
                        "keeps both"
                    )
                raise Differs(
                    f"{self.out} is not written: on {shown} samples it differs from the model by {difference:.1e} of "
                    f"the range, and {tolerance:g} would be rounding"
                )
            self._differences.append(f"{difference:.1e} on {shown} samples")

    def say(self, what: str) -> None:
        """Prints what was written, and how it compares."""
        print(f"{self.out}: {what}; {time.perf_counter() - self._started:.0f} s")
        print(f"largest difference from the model, of the range: {', '.join(self._differences)}")


@contextlib.contextmanager
def _checked(source: Path, out: Path, suffix: str) -> Iterator[_Export]:
    """An export to `out`, a folder where it has no suffix, that appears there when the body is through."""
    from ahmf_jax.export import check_portable
    from ahmf_jax.scaling import is_leak

    if out.suffix != suffix:
        what = f"a {suffix} file" if suffix else "a folder, which has no suffix"
        raise InputError(f"{out}: is written as {what}: change the name")
    if not suffix and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: is there already: name a new folder, or remove it")
    # The place first: what is wrong with it is told before the work is done.
    with (atomic_write if suffix else atomic_folder)(out) as temp:
        trained = load(source)
        if is_leak(trained.scaling):
            raise InputError(
                f"{source} was trained with scaling {trained.scaling} and must be told the smallest and largest true "
                "depth of each image, which no sensor knows: export a model trained with scaling sample, largest or "
                "range"
            )
        if suffix != ".safetensors":
            check_portable(trained, str(source))
        yield _Export(trained, out, temp)


def _original(trained: Trained) -> Runs:
    """The model in this process, at full precision."""
    import jax

    from ahmf_jax.upsample import Upsampler

    upsampler = Upsampler(trained)

    def run(depth_lr: np.ndarray, guide: np.ndarray) -> np.ndarray:
        batch = {"depth_lr": depth_lr / np.float32(trained.range), "guide": guide}
        with jax.default_matmul_precision("highest"):
            return upsampler.batch({**batch, "mask_lr": np.ones(depth_lr.shape, bool)}) * np.float32(trained.range)

    return run


def _scene(size: tuple[int, int, int], trained: Trained) -> tuple[np.ndarray, np.ndarray]:
    """Smooth surfaces with edges between them, in the model's unit, and a textured guide that has the same edges."""
    batch, height, width = size
    scale, channels = trained.model.scale, trained.guide_channels
    rng = np.random.default_rng(0)
    y, x = (np.linspace(-1, 1, scale * n, dtype=np.float32) for n in (height, width))
    place = np.stack(np.broadcast_arrays(y[:, None], x, np.float32(1)), -1)
    depth = np.zeros((batch, *place.shape[:2], 1), np.float32)
    guide = np.zeros((batch, *place.shape[:2], channels), np.float32)
    for i in range(batch):
        for _ in range(6):
            side = (place @ rng.normal(size=3) > 0)[..., None]
            surface = 0.5 + place @ rng.uniform(-0.13, 0.13, 3)
            depth[i] = np.where(side, surface[..., None], depth[i])
            guide[i] = np.where(side, rng.uniform(0.1, 0.9, channels), guide[i])
    guide += 0.2 * rng.random(guide.shape, np.float32) - 0.1
    return trained.range * depth[:, scale // 2 :: scale, scale // 2 :: scale], guide


def _nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _require(kind: str, *packages: str, extra: str = "") -> None:
    missing = [package for package in packages if not _installed(package)]
    if missing:
        raise InputError(
            f"ahmf export {kind} needs {' and '.join(packages)}, and {' and '.join(missing)} is not installed: "
            f"pip install 'ahmf-jax{extra}'"
        )


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
