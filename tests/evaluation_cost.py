"""What an evaluation costs beside the network's own time: reading, shrinking, measuring, and keeping the images.

    python -m tests.evaluation_cost WEIGHTS DATASET [--names art books ...] [--rounds 5]

Each round runs the network alone over all images, whose low resolution is in memory, then the whole evaluation without
and with what it keeps for a report; everything is compiled before.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data_pipelines.datasets import open_pairs
from experiments.evaluate import measure_all, whole_batch
from experiments.evaluations import IMAGES
from experiments.methods import Network
from experiments.protocols import PROTOCOLS


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    network, protocol = Network(args.weights), PROTOCOLS["ahmf_table1"]

    def evaluated(keep: int) -> None:
        dataset = open_pairs(args.dataset, names=args.names)  # anew: an opened one keeps what it has read
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / IMAGES).mkdir()
            measure_all(network, dataset, "ahmf_table1", protocol, keep=keep, folder=Path(folder))

    dataset = open_pairs(args.dataset, names=args.names)
    batches = [whole_batch(dataset[i], i, dataset.info, network.scale, protocol) for i in range(len(dataset))]
    runs: dict[str, Callable[[], object]] = {
        "the network alone": lambda: [network.batch(batch) for batch in batches],
        "the evaluation": lambda: evaluated(0),
        "and its images kept": lambda: evaluated(-1),
    }
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run))
    own = statistics.median(seconds["the network alone"])
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name}: {median:.2f} s ({min(found):.2f} - {max(found):.2f}), {median / own:.3f} of the network's own")


if __name__ == "__main__":
    main()
