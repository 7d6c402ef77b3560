"""Training from weights: what is taken, what is left at random, and what is said of it."""

import copy

import jax
import numpy as np
import pytest
from flax import traverse_util

from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained, save_bundle
from ahmf_jax.models import AHMF
from ahmf_jax.state import init_params
from experiments import finetune


def shapes(scale=4, num_levels=4, features=2, **fields):
    model = AHMF(scale=scale, num_levels=num_levels, features=features, **fields)
    return model, jax.eval_shape(lambda: init_params(model))


def drawn(seed, **fields):
    """A network's parameters as a run has them, every number another."""
    model, tree = shapes(**fields)
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tree)


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_the_same_network_is_taken_whole():
    (_, source), (_, new) = drawn(0), drawn(1)
    before = copy.deepcopy(new)
    taken, report = finetune.take(new, source)
    jax.tree.map(np.testing.assert_array_equal, taken, source)
    jax.tree.map(np.testing.assert_array_equal, new, before)  # what was given stays as it was
    assert list(report.lines()) == [f"taken: all {len(flat(source))} arrays"]
    # And is the run's own: what trains on must not write into what it started from.
    assert not any(np.shares_memory(a, b) for a, b in zip(jax.tree.leaves(taken), jax.tree.leaves(source), strict=True))


def test_another_scale_takes_what_has_no_say_in_it():
    (_, source), (_, new) = drawn(0, num_levels=2), drawn(1, num_levels=2, scale=8)
    taken, report = finetune.take(new, source)
    a, b, c = flat(taken), flat(source), flat(new)
    # x4 has two stages of 1 x 1, x8 three of 3 x 3: no kernel of theirs fits, and a bias goes with its kernel.
    stages = {name for name in a if "/down_" in name or "/up_" in name}
    slopes = {name for name in stages if name.endswith("negative_slope") and "_2_" not in name}
    for name in a:
        np.testing.assert_array_equal(a[name], (c if name in stages - slopes else b)[name], err_msg=name)
    assert report.arrays == (len(a) - len(stages - slopes), len(a))
    assert report.values[0] == sum(a[name].size for name in a if name not in stages - slopes)
    lines = list(report.lines())
    assert "random: reconstruction/up_2 (the weights have none)" in lines
    assert "random: reconstruction/up_0/conv (its kernel is (1, 1, 2, 8) in the weights, (3, 3, 2, 8) here)" in lines
    assert lines[0].startswith(f"taken: {report.arrays[0]} of {len(a)} arrays, ")


def test_more_levels_start_with_those_there_are():
    (_, source), (_, new) = drawn(0), drawn(1, num_levels=6)
    taken, report = finetune.take(new, source)
    a, b, c = flat(taken), flat(source), flat(new)
    for name in a:
        if name.startswith(("mmaf/", "bhfc/refine/", "depth_levels/", "guide_levels/")):
            levels = len(b[name])
            assert len(a[name]) == levels + 2
            np.testing.assert_array_equal(a[name][:levels], b[name], err_msg=name)
            np.testing.assert_array_equal(a[name][levels:], c[name][levels:], err_msg=name)
        elif name.startswith("reconstruction/reduce/"):
            np.testing.assert_array_equal(a[name], c[name])  # it mixes the levels, of which there are others
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert report.levels == {"depth_levels": (3, 5), "guide_levels": (3, 5), "mmaf": (4, 6), "bhfc/refine": (4, 6)}
    assert list(report.random) == ["reconstruction/reduce"] and not report.unused
    assert "taken in part: mmaf, the first 4 of 6 levels; the others are random" in report.lines()


def test_fewer_levels_and_one_level():
    _, source = drawn(0)
    two, report = finetune.take(drawn(1, num_levels=2)[1], source)
    np.testing.assert_array_equal(two["mmaf"]["frb"]["squeeze"]["conv"]["kernel"],
                                  source["mmaf"]["frb"]["squeeze"]["conv"]["kernel"][:2])  # fmt: skip
    assert not report.levels  # all that there are here
    _, report = finetune.take(drawn(1, num_levels=1)[1], source)
    assert report.unused == ("depth_levels", "guide_levels")
    _, report = finetune.take(source, drawn(1, num_levels=1)[1])
    assert report.random["depth_levels"] == report.random["guide_levels"] == "the weights have none"
    assert "not used" not in "".join(report.lines())


def test_what_is_missing_is_named_once():
    (_, source), (_, new) = drawn(0, recurrence="forward"), drawn(1)
    _, report = finetune.take(new, source)
    assert report.random == {"bhfc/backward_gru": "the weights have none"}
    _, report = finetune.take(source, new)
    assert report.unused == ("bhfc/backward_gru",) and list(report.lines())[-1] == "not used: bhfc/backward_gru"


def test_what_does_not_fit_is_refused():
    (_, source), (_, new) = drawn(0), drawn(1, features=4)
    with pytest.raises(InputError, match=r"no kernel .* fits this network \(.*is \(3, 3, .*use the features they have"):
        finetune.take(new, source)
    source["mmaf"]["residual"]["conv_2"]["kernel"][1, 0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"mmaf/residual/conv_2/kernel holds what is no finite number"):
        finetune.take(drawn(1)[1], source)


def test_a_file_to_start_from(tmp_path):
    model, source = drawn(0, num_levels=1)
    save_bundle(tmp_path / "a.safetensors", Trained(model, source, "sample", "m", 10.0, "a test"))
    said: list[str] = []
    taken = finetune.start(str(tmp_path / "a.safetensors"), drawn(1, num_levels=1)[1], said.append)
    jax.tree.map(np.testing.assert_array_equal, taken, source)
    assert said == [
        f"starting from {tmp_path / 'a.safetensors'}: x4, m = 1, scaling sample, 10 m = 1",
        f"taken: all {len(flat(source))} arrays",
    ]
    with pytest.raises(InputError, match=r"--start-from: .*b.safetensors does not exist"):
        finetune.start(str(tmp_path / "b.safetensors"), source, said.append)
    with pytest.raises(InputError, match=r"--start-from: no kernel"):
        finetune.start(str(tmp_path / "a.safetensors"), drawn(1, num_levels=1, features=4)[1], said.append)


def test_the_first_loss_is_that_of_the_weights(tmp_path):
    """The state starts from the weights, and so does their average; the optimiser knows nothing yet."""
    from ahmf_jax.sharding import make_mesh
    from ahmf_jax.state import create_state
    from ahmf_jax.train import train_step
    from experiments.config import OptimiserConfig

    model, source = drawn(0, num_levels=1, fusion="concat", recurrence="none")
    save_bundle(tmp_path / "a.safetensors", Trained(model, source))
    rng = np.random.default_rng(0)
    batch = {
        "depth_lr": rng.random((1, 2, 2, 1), np.float32),
        "depth_hr": rng.random((1, 8, 8, 1), np.float32),
        "guide": rng.random((1, 8, 8, 3), np.float32),
        "mask_lr": np.ones((1, 2, 2, 1), bool),
        "mask_hr": np.ones((1, 8, 8, 1), bool),
    }
    output, _ = jax.jit(model.apply)({"params": source}, batch["depth_lr"], batch["guide"])
    state = create_state(
        model,
        OptimiserConfig().build(10),
        make_mesh(1),
        start_from=lambda params: finetune.start(str(tmp_path / "a.safetensors"), params, lambda line: None),
        ema_decay=0.9,
    )
    for tree in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(tree), source)
    assert not any(np.any(x) for x in jax.tree.leaves(state.opt_state))
    _, metrics = jax.jit(train_step)(state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(np.abs(output - batch["depth_hr"]).mean()), rel=1e-5)
