"""Runs that are trained together: each is the run that it would be alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ahmf_jax import checkpoint
from ahmf_jax.errors import InputError
from data_pipelines.degrade import Degradation
from experiments.config import DataConfig, ModelConfig, OptimiserConfig, TrainConfig
from experiments.together import Item, program, train_together
from experiments.train import train

BASE = TrainConfig(
    model=ModelConfig(scale=4, num_levels=1, features=2, fusion="concat", recurrence="none"),
    data=DataConfig(dataset="scenes", patch_size=16, batch_size=4),
    optimiser=OptimiserConfig(learning_rate=1e-3),
    steps=50,
    scaling="sample",
    output_scale=0.1,
    log_every=10,
    checkpoint_every=1000,
    validate_every=1000,
    samples=0,
    mesh="data=1",
)


def differing(base):
    """Four configurations of one program that have as little else in common as can be."""
    rates = [
        {"learning_rate": 1e-3},
        {"learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.2},
        {"learning_rate": 2e-3, "schedule": "onecycle"},
        {"learning_rate": 5e-4, "schedule": "constant"},
    ]
    noise = [Degradation(), Degradation(noise_sigma=0.02), Degradation(dropouts=0.1), Degradation(guide_shift=2)]
    return [
        dataclasses.replace(
            base,
            seed=number,
            edge_weight=0.5 * number,
            output_scale=0.1 + 0.1 * number,
            data=dataclasses.replace(base.data, degrade=noise[number], edge_candidates=1 + number),
            optimiser=dataclasses.replace(base.optimiser, **rates[number]),
        )
        for number in range(4)
    ]


class Journal:
    """What `train_together` told."""

    def __init__(self):
        self.ended = {}

    def finished(self, item, error):
        assert item.out not in self.ended
        self.ended[item.out] = error


def together(configs, folder, data_dir, **options):
    journal = Journal()
    items = [Item(config, folder / str(number)) for number, config in enumerate(configs)]
    train_together(items, data_dir=data_dir, finished=journal.finished, **options)
    return [item.out for item in items], journal


def difference(run, other, step):
    a, b = (checkpoint.read_params(path, step)[0] for path in (run, other))
    return max(
        float(np.max(np.abs(x - y) / np.maximum(1, np.abs(x))))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_together(tmp_path, data_dir):
    configs = differing(BASE)
    assert len({program(config) for config in configs}) == 1
    runs, journal = together(configs, tmp_path / "together", data_dir)
    print(journal.ended)
    for number, config in enumerate(configs):
        alone = train(config, tmp_path / "alone" / str(number), data_dir=data_dir)
        print(number, difference(alone, runs[number], 50))
