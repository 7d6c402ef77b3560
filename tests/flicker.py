"""Measures how steady super-resolved depth is over time, with and without `ahmf_jax.temporal`.

    python -m tests.flicker RUN_OR_BUNDLE

Two generated sequences with exact depth, at x4: a camera that stands still before a room in which a ball moves, and a
camera that moves sideways past a room, a pixel a frame. Every frame has noise of its own, in the colours and, as a
time-of-flight sensor has it, in the depth. A weights file of scale 4 super-resolves them; without one, the bicubic
interpolation does. Printed for each setting:

  flicker  the standard deviation over time at points of the scene that nothing moved over, mean over them, in mm
  static   the mean absolute error at those points, mm
  moving   the same on the ball and where it was in the eight frames before; for the moving camera: everywhere
"""

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ahmf_jax import resample
from ahmf_jax.temporal import Temporal
from ahmf_jax.upsample import load
from data_pipelines.datasets.scenes.builder import FAR, render
from data_pipelines.degrade import Degradation, measure

SCALE, HEIGHT, WIDTH = 4, 192, 256
WARM_UP = 8  # frames after which the blending has settled
SENSOR = Degradation(kernel="area", tof_sigma=0.01)  # 9 mm at 3 m
CAMERA_NOISE = 2.0  # 8-bit levels


class Frame(NamedTuple):
    """A frame of a sequence.

    Attributes:
      guide: (H, W, 3) uint8.
      truth: (H, W) metres.
      depth: (H, W) metres, super-resolved from noisy depth.
      moving: (H, W) bool.
    """

    guide: np.ndarray
    truth: np.ndarray
    depth: np.ndarray
    moving: np.ndarray


def ball(seed: int, frames: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(guide, depth, moving) of a still camera: a ball with the texture of another room crosses the image."""
    guide, depth = render(seed, HEIGHT, WIDTH)
    paint, _ = render(seed + 1000, HEIGHT, WIDTH)
    radius = 28
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1] / radius
    round_ = x**2 + y**2 < 1
    bulge = np.sqrt(np.maximum(0, 1 - x**2 - y**2))
    texture = (paint[: 2 * radius + 1, : 2 * radius + 1] * (0.5 + 0.5 * bulge[..., None])).astype(np.uint8)
    near = 0.7 * float(np.quantile(depth, 0.1))
    sequence, covered = [], []
    for frame in range(frames):
        left, top = 10 + 3 * frame, HEIGHT // 2 - radius
        place = slice(top, top + 2 * radius + 1), slice(left, left + 2 * radius + 1)
        now, seen, where = depth.copy(), guide.copy(), np.zeros(depth.shape, bool)
        now[place][round_] = (near + 0.004 * frame - 0.1 * bulge)[round_]
        seen[place][round_] = texture[round_]
        where[place] = round_
        covered.append(where)
        sequence.append((seen, now, np.any(covered[-9:], 0)))
    return sequence


def pan(seed: int, frames: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(guide, depth, moving) of a camera that moves a pixel a frame; everything moves."""
    guide, depth = render(seed, HEIGHT, WIDTH + frames)
    return [(guide[:, i : i + WIDTH], depth[:, i : i + WIDTH], np.ones((HEIGHT, WIDTH), bool)) for i in range(frames)]


def super_resolved(sequence: list[tuple[np.ndarray, np.ndarray, np.ndarray]], model: Any, seed: int) -> list[Frame]:
    """The frames with fresh noise, by a model or, without one, bicubic."""
    rng, result = np.random.default_rng(seed), []
    for guide, truth, moving in sequence:
        noisy = guide + rng.normal(0, CAMERA_NOISE, guide.shape)
        guide = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        span = np.array([truth.min(), truth.max()])
        low, _ = measure(truth, np.ones(truth.shape, bool), SCALE, SENSOR, FAR, span, rng)
        if model is None:
            depth = resample.resize(low[..., None], truth.shape, "matlab_bicubic")[..., 0]
        else:
            depth = model(low, guide, unit="m")
        result.append(Frame(guide, truth, depth, moving))
    return result


def millimetres(frames: list[Frame], temporal: Temporal | None, shift: int) -> tuple[float, float, float]:
    """`(flicker, static, moving)`; a point of the scene moves `shift` pixels to the left in a frame."""
    outputs = []
    for frame in frames:
        mask = np.ones(frame.depth.shape, bool)
        outputs.append(frame.depth if temporal is None else temporal.blend(frame.depth, frame.guide, mask))
    errors = np.stack([o - f.truth for o, f in zip(outputs, frames, strict=True)])[WARM_UP:]
    moving = np.stack([f.moving for f in frames])[WARM_UP:]
    count = len(errors)
    if shift:  # the errors at points of the scene, where all frames show them
        errors = np.stack([e[:, count - 1 - i : WIDTH - i] for i, e in enumerate(errors)])
        still = np.ones(errors.shape[1:], bool)
        return 1000 * float(errors.std(0).mean()), float("nan"), 1000 * float(np.abs(errors).mean())
    still = ~moving.any(0)
    return (
        1000 * float(errors.std(0)[still].mean()),
        1000 * float(np.abs(errors[:, still]).mean()),
        1000 * float(np.abs(errors[moving]).mean()),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--strength", type=float, nargs="*", default=[0.5, 0.8, 0.9])
    parser.add_argument("--guide-tolerance", type=float, nargs="*", default=[4.0])
    parser.add_argument("--depth-tolerance", type=float, nargs="*", default=[0.01])
    args = parser.parse_args()
    model = load(args.weights) if args.weights else None
    settings = [None, *itertools.product(args.strength, args.guide_tolerance, args.depth_tolerance)]
    print(f"{'strength':>8} {'guide':>6} {'depth':>6} | ball: flicker static moving | pan: flicker  error   (mm)")
    sequences = [
        (super_resolved(make(seed, args.frames), model, seed), make is pan)
        for make in (ball, pan)
        for seed in range(args.scenes)
    ]
    for setting in settings:
        figures = {False: [], True: []}  # type: dict[bool, list[tuple[float, float, float]]]
        for frames, panned in sequences:
            temporal = None if setting is None else Temporal(*setting)
            figures[panned].append(millimetres(frames, temporal, int(panned)))
        (flicker, static, moving), (wobble, _, error) = (np.mean(figures[panned], 0) for panned in (False, True))
        name = f"{'none':>8} {'':6} {'':6}" if setting is None else "{:8g} {:6g} {:6g}".format(*setting)
        print(f"{name} | {flicker:13.2f} {static:6.2f} {moving:6.2f} | {wobble:12.2f} {error:6.2f}", flush=True)


if __name__ == "__main__":
    main()
