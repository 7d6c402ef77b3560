"""`ahmf demo`: the whole story on generated scenes, and a page that tells it."""

import html
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahmf_jax import resample, torch_weights, upsample
from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole
from data_pipelines import datasets
from data_pipelines.degrade import Degradation
from data_pipelines.files import read_depth, read_guide, write_depth, write_picture
from data_pipelines.loader import whole_example
from experiments import config as configs
from experiments import convert, evaluate
from experiments.evaluations import Evaluation
from experiments.methods import Network
from experiments.pictures import curve, depth_colours, error_colours, grid
from experiments.protocols import PROTOCOLS
from experiments.run_log import METRICS
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
    data_dir, run, scale = out / "data", out / "run", config.model.scale
    counts = datasets.prepare("scenes", data_dir).counts
    say("generated scenes: " + ", ".join(f"{n} {split}" for split, n in counts.items()))

    train(config, run, data_dir=data_dir)
    say(f"trained {config.steps} steps: {run}")

    upsampler = upsample.load(run)
    test = datasets.open_dataset("scenes", "test", data_dir)
    protocol = PROTOCOLS["float"]
    found = evaluate.measure_all(Network(run), test, "float", protocol, split="test", weights=str(run))
    gain = 1 - found.mean.metrics["mae"] / found.mean.floor["mae"]
    say(f"evaluated on {len(test)} scenes that it has not seen ({protocol}):")
    print(evaluate.table(found))
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

    pictures = []
    for i in range(min(4, len(test))):
        name = f"scene_{i}.png"
        write_picture(out / name, story(upsampler, test[i], test.info, config.data.degrade))
        pictures.append(name)
    write_page(out, found, gain, pictures, time.perf_counter() - started, config)
    say(f"open {out / 'index.html'}")


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


def story(
    upsampler: Any, example: datasets.Example, info: datasets.DatasetInfo, degradation: Degradation
) -> np.ndarray:
    """One scene: guide, LR depth, bicubic, AHMF, truth, and the two errors; (H, W, 3) uint8."""
    batch = whole_example(example, info, scale=upsampler.scale, degradation=degradation)
    truth, low = batch["depth_hr"][0, ..., 0], batch["depth_lr"][0, ..., 0]
    ours = upsampler.batch(batch)[0, ..., 0]
    bicubic = resample.resize(batch["depth_lr"], truth.shape, "matlab_bicubic")[0, ..., 0]
    enlarged = resample.resize(batch["depth_lr"], truth.shape, "nearest_first")[0, ..., 0]
    span = float(truth.min()), float(truth.max())
    largest = 0.1 * (span[1] - span[0])
    return grid(
        [
            [
                ("colour guide", np.rint(batch["guide"][0] * 255).astype(np.uint8)),
                ("bicubic", depth_colours(bicubic, *span)),
                ("AHMF", depth_colours(ours, *span)),
                ("truth", depth_colours(truth, *span)),
            ],
            [
                (f"depth, {low.shape[1]} x {low.shape[0]}", depth_colours(enlarged, *span)),
                ("error of bicubic", error_colours(np.abs(bicubic - truth), largest)),
                ("error of AHMF", error_colours(np.abs(ours - truth), largest)),
            ],
        ]
    )


def write_page(
    out: Path,
    found: Evaluation,
    gain: float,
    pictures: Sequence[str],
    seconds: float,
    config: configs.TrainConfig,
) -> None:
    """Writes `index.html`, which needs nothing but the pictures beside it."""
    body = "".join(
        f"<tr{' class=mean' if r.name == 'mean' else ''}><td>{html.escape(r.name)}</td><td>{r.metrics['mae']:.4f}</td>"
        f"<td>{r.floor['mae']:.4f}</td>"
        f"<td>{r.metrics['rmse']:.4f}</td><td>{r.floor['rmse']:.4f}</td></tr>"
        for r in (*found.images, found.mean)
    )
    images = "".join(
        f'<p><img src="{name}" alt="guide, depth, bicubic, AHMF, truth and errors"></p>' for name in pictures
    )
    mean, unit = found.mean, found.unit
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ahmf_jax demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }}
img {{ width: 100%; height: auto }} svg {{ max-width: 640px; width: 100% }}
table {{ border-collapse: collapse }} td, th {{ padding: .2em 1em; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }} .mean td {{ font-weight: bold }}
.big {{ font-size: 1.4em }}
</style>
<h1>Guided depth super-resolution, x{config.model.scale}</h1>
<p class="big">On {len(found.images)} generated scenes that it has not seen, the mean absolute error is
<b>{mean.metrics["mae"]:.4f} {unit}</b>, {gain:.0%} below bicubic's {mean.floor["mae"]:.4f} {unit}.</p>
<p>A small AHMF (m = {config.model.num_levels}, {config.model.features} features) trained for {config.steps} steps;
everything on this page took {seconds:.0f} seconds. Errors:
black is none, white is a tenth of the scene's depth or more.</p>
{images}
<h2>Training</h2>
{curve(out / "run" / METRICS, unit)}
<h2>Numbers</h2>
<p>Protocol: {html.escape(found.protocol_text)}. In {unit}.</p>
<table><tr><th>scene</th><th>MAE</th><th>bicubic</th><th>RMSE</th><th>bicubic</th></tr>{body}</table>
<h2>One's own images</h2>
<p><code>ahmf upsample {out / "run"} --depth {out}/depth_lr.png --guide {out}/guide.png --out depth_hr.png</code>:
16-bit millimetres in, 16-bit millimetres out.</p>
<p><img src="side_by_side.png" alt="guide, bicubic and AHMF"></p>
</html>
"""
    write_whole(out / "index.html", page.encode())
