"""What a save costs the training: `python -m tests.save_cost`.

The network of the paper's size (64 features, four levels, Adam) is trained on one batch of random numbers. Printed are
the state's size, the time that `save` holds the loop up, the time until the checkpoint is complete, and how much longer
the steps take that run meanwhile: what a save a minute costs in all, as a share of the minute. Steps with and without a
save alternate, so that a busy machine slows both.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax

from ahmf_jax.checkpoint import CONFIG, Checkpoints
from ahmf_jax.models import AHMF
from ahmf_jax.sharding import make_mesh
from ahmf_jax.state import create_state
from ahmf_jax.train import lowered_step


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description="Measures what a save costs the training")
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--patch-size", type=int, default=64, help="of the guide")
    options = parser.parse_args()
    model, size = AHMF(scale=4, num_levels=4, features=64), options.patch_size
    state = create_state(model, optax.adam(1e-4), make_mesh(1, 1, jax.devices()[:1]), ema_decay=0.999)
    rng = np.random.default_rng(0)
    shapes = {"depth_lr": (size // 4, size // 4, 1), "guide": (size, size, 3), "depth_hr": (size, size, 1)}
    batch = {name: rng.random((options.batch_size, *shape), np.float32) for name, shape in shapes.items()}
    batch |= {f"mask_{name}": batch[f"depth_{name}"] >= 0 for name in ("lr", "hr")}
    step_fn = lowered_step(state, batch).compile()

    def steps(count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(count):
            state, metrics = step_fn(state, batch)
            jax.block_until_ready(metrics)
        return time.perf_counter() - start

    once = steps(3) / 3
    during = max(3, round(2 / once))  # two seconds of training: a save is over by then
    held, complete, extra = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(json.dumps({}))
        with Checkpoints(folder) as checkpoints:
            for _ in range(options.saves):
                without = steps(during)
                start = time.perf_counter()
                checkpoints.save(state, {"examples": 0}, None)
                held.append(time.perf_counter() - start)
                with_save = steps(during)
                checkpoints.wait()
                complete.append(time.perf_counter() - start)
                extra.append(with_save - without)
    megabytes = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    cost = statistics.median(held) + max(statistics.median(extra), 0)
    print(f"state {megabytes:.1f} MB in {len(jax.tree.leaves(state))} arrays; a step takes {once:.2f} s")
    print(f"a save holds the loop up for {1000 * statistics.median(held):.0f} ms (at most {1000 * max(held):.0f})")
    print(f"the {during} steps meanwhile take {1000 * statistics.median(extra):+.0f} ms longer")
    print(f"complete within {statistics.median(complete):.2f} s")
    print(f"a save a minute costs {100 * cost / 60:.2f} % of the time")


if __name__ == "__main__":
    main()
