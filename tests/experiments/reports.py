"""Evaluations and runs as the tests of the report make them up, small and with names that nobody should trust."""

import json

import numpy as np

from ahmf_jax import resample
from experiments import evaluations
from experiments.evaluations import Evaluation, ImageNumbers

EVIL = """<script>alert("x")</script>'&"""
NAMES = ("easy", EVIL, "hard")
HEIGHT, WIDTH, SCALE = 48, 64, 4


def scene(name, whole=True):
    """The arrays of an image but for the prediction: a plane and a box in front of it, a corner unknown."""
    rng = np.random.default_rng(len(name))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    depth = 40.0 + 0.5 * columns + 0.25 * rows
    depth[12:30, 20:45] = 150
    depth = np.rint(depth) if whole else depth / 64 + 1
    mask = np.ones(depth.shape, bool)
    mask[:5, :6] = False
    low = resample.resize(depth[..., None], (HEIGHT // SCALE, WIDTH // SCALE), "matlab_bicubic")
    floor = resample.resize(low, depth.shape, "matlab_bicubic")[..., 0]
    low = low[..., 0]
    return {
        "guide": rng.integers(0, 255, (*depth.shape, 3)).astype(np.uint8),
        "depth_lr": (np.rint(low) if whole else low).astype(np.float32),
        "mask_lr": np.ones(low.shape, bool),
        "depth_hr": np.where(mask, depth, 0).astype(np.float32),
        "mask_hr": mask,
        "floor": (np.rint(floor) if whole else floor).astype(np.float32),
    }


def predicted(arrays, bad, whole=True):
    """A prediction that is off by `bad` in a block at x 40, y 16, and right elsewhere."""
    prediction = arrays["depth_hr"].copy()
    prediction[16:24, 40:48] += bad if whole else bad / 64
    return prediction


def numbers(prediction, arrays):
    error = np.abs(prediction - arrays["depth_hr"])[arrays["mask_hr"]].astype(np.float64)
    return {"mae": float(error.mean()), "rmse": float(np.sqrt((error**2).mean()))}


def write_evaluation(folder, method="AHMF", factor=1.0, names=NAMES, keep=None, whole=True, colour=True, **fields):
    """Writes an evaluation whose image i is off by 4 * (i + 1) * factor in a block."""
    images, kept = [], {}
    for i, name in enumerate(names):
        arrays = scene(name, whole)
        arrays["prediction"] = predicted(arrays, 4 * (i + 1) * factor, whole).astype(np.float32)
        numbers_of = numbers(arrays["prediction"], arrays), numbers(arrays["floor"], arrays)
        images.append(ImageNumbers(name, *numbers_of, HEIGHT, WIDTH))
        if not colour:
            arrays["guide"] = arrays["guide"][..., :0]
        if keep is None or i < keep:
            kept[i] = arrays
    mean = ImageNumbers(
        "mean",
        *(
            {m: float(np.mean([getattr(i, kind)[m] for i in images])) for m in ("mae", "rmse")}
            for kind in ("metrics", "floor")
        ),
        0,
        0,
    )
    known = {
        "weights": f"runs/{method}",
        "origin": "step 3",
        "scale": SCALE,
        "dataset": f"set {EVIL}",
        "split": "test",
        "unit": "grey levels" if whole else "m",
        "protocol": "float",
        "protocol_text": "as it is",
        "protocol_fields": {"border": 0, "floor": "matlab_bicubic"},
        "metrics": ("mae", "rmse"),
        "made": {"command": f"ahmf evaluate {EVIL}", "seconds": 1.5},
        "notes": (f"note {EVIL}",),
        **fields,
    }
    evaluation = Evaluation(method=method, images=tuple(images), mean=mean, **known)
    folder.parent.mkdir(parents=True, exist_ok=True)
    evaluations.write(evaluation, folder, kept)
    return folder


def write_sources(folder):
    """Writes two methods on three images, and the run of one of them; gives what a report is made of."""
    run = write_run(folder / "run")
    write_evaluation(run / "evaluations" / "a")
    write_evaluation(folder / "b", method=f"B {EVIL}", factor=2.0)
    return [run, folder / "b"]


def write_run(folder, steps=6):
    """Writes what a run leaves of its training."""
    folder.mkdir(parents=True)
    lines = [{"step": s, "loss": 1 / s} for s in range(1, steps + 1)]
    lines += [{"step": s, "validation_mae": 0.5 / s, "validation_floor_mae": 0.4} for s in range(2, steps + 1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"trained": {"unit": "m"}, "train": {"steps": steps}}))
    return folder


def write_diffused(folder, **fields):
    """Writes an evaluation of the learning-free DADA, whose images are other methods' too."""
    return write_evaluation(folder, **{"method": "dada_rgb", "weights": "dada_rgb", **fields})
