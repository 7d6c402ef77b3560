"""`ahmf demo`: the whole story on generated scenes, and a page that tells it."""

import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ahmf_jax import torch_weights, upsample
from ahmf_jax.errors import InputError
from data_pipelines import datasets
from data_pipelines.files import read_depth, read_guide, write_depth, write_picture
from data_pipelines.loader import whole_example
from experiments import config as configs
from experiments import convert
from experiments.commands.evaluate import Evaluate
from experiments.evaluate import evaluate
from experiments.report.make import report
from experiments.report.page import Example
from experiments.train import train
from experiments.upsample import upsample_file

MARK = ".ahmf-demo"  # only a folder that holds this is ever emptied


def demo(out: Path) -> None:
    """Trains, evaluates, super-resolves, converts, and writes `index.html`; each step is timed and printed."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose a folder with --out")
    if out.exists() and not (out / MARK).exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and no earlier demo's: choose another folder with --out")
    try:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        (out / MARK).touch()
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder with --out") from None
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", flush=True)

    config = configs.load("demo")
    model = configs.ahmf(config)
    data_dir, run, scale = out / "data", out / "run", model.scale
    counts = datasets.prepare("scenes", data_dir).counts
    say("generated scenes: " + ", ".join(f"{n} {split}" for split, n in counts.items()))

    train(config, run, data_dir=data_dir)
    say(f"trained {config.steps} steps: {run}")

    test = datasets.open_dataset("scenes", "test", data_dir)
    say(f"evaluated on {len(test)} scenes that it has not seen:")
    found = evaluate(Evaluate(str(run), "scenes", "test", protocol="float", name="AHMF", data_dir=data_dir))
    mae, floor = found.mean.metrics["mae"], found.mean.floor["mae"]
    gain = 1 - mae / floor
    print(f"mean absolute error {gain:.0%} below bicubic's", flush=True)

    # As a user would: depth in millimetres in a 16-bit PNG, and a colour picture.
    batch = whole_example(test[0], test.info, scale=scale, degradation=config.data.degrade)
    files = {name: out / f"{name}.png" for name in ("depth_lr", "guide", "depth_hr", "side_by_side")}
    millimetres = np.rint(batch["depth_lr"][0, ..., 0] * test.info.range * 1000)
    write_depth(files["depth_lr"], np.clip(millimetres, 0, 65535).astype(np.uint16))
    write_picture(files["guide"], np.rint(batch["guide"][0] * 255).astype(np.uint8))
    upsample_file(run, files["depth_lr"], files["guide"], files["depth_hr"], picture=files["side_by_side"])
    truth = batch["depth_hr"][0, ..., 0] * test.info.range * 1000
    off = np.abs(read_depth(files["depth_hr"]).astype(np.float64) - truth).mean()
    say(f"super-resolved {files['depth_lr']} to {files['depth_hr']}: mean error {off:.1f} mm")

    say("converted: " + conversion(run, out, files["depth_lr"], files["guide"]))

    lead = (
        f"On {len(test)} generated scenes that it has not seen, the mean absolute error is {mae:.4f} {found.unit}, "
        f"{gain:.0%} below bicubic's {floor:.4f} {found.unit}. A small AHMF (m = {model.num_levels}, "
        f"{model.features} features) trained for {config.steps} steps; everything on this page took "
        f"{time.perf_counter() - started:.0f} seconds."
    )
    page = report(
        [run],
        out / "index.html",
        title=f"Guided depth super-resolution, x{scale}",
        lead=lead,
        example=Example(
            "One's own images",
            "16-bit millimetres in, 16-bit millimetres out.",
            f"ahmf upsample {run} --depth {files['depth_lr']} --guide {files['guide']} --out depth_hr.png",
            files["side_by_side"],
            "guide, bicubic and AHMF",
        ),
    ).page
    say(f"open {page}")


def conversion(run: Path, out: Path, depth: Path, guide: Path) -> str:
    """To PyTorch's names and back; says how the weights came through, and where torch is there, runs the twin."""
    torch_file, back = out / "ahmf_torch.safetensors", out / "ahmf_back.safetensors"
    convert.to_torch(run, torch_file)
    original = upsample.load_trained(run)
    convert.from_torch(torch_file, back, original.scaling, original.range, original.unit)
    there = torch_weights.to_torch(original.model, original.params)
    again = upsample.load_trained(back)
    same = torch_weights.to_torch(again.model, again.params)
    if there.keys() != same.keys() or any(not np.array_equal(there[k], same[k]) for k in there):
        raise RuntimeError("weights changed on the way to PyTorch's names and back")
    text = f"{len(there)} tensors to PyTorch's names and back, bit for bit the same"
    try:
        import torch

        from ahmf_jax.torch_modules import AHMF
    except ImportError:
        return f"{text} (torch is not installed, so its twin was not run)"
    m = original.model
    twin = AHMF(m.scale, m.num_levels, m.features, m.variant)
    twin.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in there.items()})
    depth_lr = read_depth(depth).astype(np.float32)[None, None]
    depth_lr = (depth_lr - depth_lr.min()) / (depth_lr.max() - depth_lr.min())
    colour = read_guide(guide).astype(np.float32).transpose(2, 0, 1)[None] / 255
    with torch.no_grad():
        theirs = twin(torch.from_numpy(depth_lr), torch.from_numpy(colour)).numpy()[0, 0]
    depth_nhwc, colour_nhwc = (jnp.asarray(x.transpose(0, 2, 3, 1)) for x in (depth_lr, colour))
    ours, _ = m.apply({"params": jax.tree.map(jnp.asarray, original.params)}, depth_nhwc, colour_nhwc)
    return f"{text}; PyTorch's twin gives the same depth to {np.abs(theirs - np.asarray(ours)[0, ..., 0]).max():.1e}"
