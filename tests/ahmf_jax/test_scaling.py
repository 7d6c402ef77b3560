"""What the network sees of a depth map, by hand and by its invariances."""

from typing import Any, get_args

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ahmf_jax import InputError
from ahmf_jax.scaling import MIN_SPAN, Scaling, is_leak, offset_and_span, predict

KNOWN = jnp.ones((2, 3, 4, 1), bool)


def depths(seed: int = 0) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).random((2, 3, 4, 1)), jnp.float32)


class Doubler:
    """A model that is not linear, and says what it was given."""

    seen: Any = None

    def apply(self, variables: Any, depth_lr: Any, guide: Any, mask_lr: Any) -> tuple[Any, dict[str, Any]]:
        self.seen = depth_lr
        return jnp.square(depth_lr).repeat(2, 1).repeat(2, 2) + variables["params"]["offset"] + guide, {}


def test_range_is_the_identity() -> None:
    offset, span = offset_and_span(depths(), KNOWN, "range")
    assert offset.shape == span.shape == (2, 1, 1, 1)
    assert not offset.any() and (span == 1).all()


def test_sample_is_each_samples_own_span_over_what_is_known() -> None:
    depth = depths().at[0, 0, 0].set(-9.0).at[1, 2, 1].set(99.0).at[1, 0, 0].set(jnp.nan)
    mask = KNOWN.at[0, 0, 0].set(False).at[1, 2, 1].set(False).at[1, 0, 0].set(False)
    offset, span = offset_and_span(depth, mask, "sample")
    for i in range(2):
        known = np.asarray(depth)[i][np.asarray(mask)[i]]
        assert offset[i, 0, 0, 0] == known.min()
        assert span[i, 0, 0, 0] == known.max() - known.min()


def test_a_flat_and_an_unknown_sample() -> None:
    depth = jnp.full((3, 3, 4, 1), 0.5).at[2, 0, 0].add(MIN_SPAN / 2)
    mask = jnp.ones(depth.shape, bool).at[1].set(False)
    offset, span = offset_and_span(depth, mask, "sample")
    np.testing.assert_array_equal(offset.ravel(), [0.5, 0, 0.5])
    np.testing.assert_array_equal(span.ravel(), [MIN_SPAN, 1, MIN_SPAN])


@pytest.mark.parametrize(("scale", "shift"), [(0.25, 0.0), (1.0, 0.375), (0.5, -0.25), (16.0, 3.0)])
def test_an_affine_change_of_the_depth_is_the_same_change_of_the_result(scale: float, shift: float) -> None:
    guide = jnp.asarray(np.random.default_rng(1).random((2, 6, 8, 1)), jnp.float32)

    def result(depth: Any) -> Any:
        model = Doubler()
        batch = {"depth_lr": depth, "mask_lr": KNOWN, "guide": guide}
        output, offset, span, *_ = predict(model, "sample", {"offset": 0.5}, batch)
        assert model.seen.min() == 0 and model.seen.max() == pytest.approx(1)
        return output * span + offset

    np.testing.assert_allclose(result(scale * depths() + shift), scale * result(depths()) + shift, rtol=1e-5, atol=1e-6)


def test_samples_do_not_see_each_other() -> None:
    both = jnp.concatenate([depths()[:1], 50 * depths(1)[:1]])
    alone = offset_and_span(both[:1], KNOWN[:1], "sample")
    for a, b in zip(offset_and_span(both, KNOWN, "sample"), alone, strict=True):
        assert a[0] == b[0]


def test_truth_is_the_span_of_the_batch_whatever_the_sample_holds() -> None:
    spans = jnp.array([[0.25, 0.75], [0.5, 0.5]])
    offset, span = offset_and_span(depths(), ~KNOWN, "truth", spans)
    np.testing.assert_array_equal(offset.reshape(2), [0.25, 0.5])
    np.testing.assert_array_equal(span.reshape(2), [0.5, MIN_SPAN])  # a flat image is not stretched without end


def test_a_prediction_by_truth_reads_the_batch() -> None:
    guide, model = jnp.zeros((2, 6, 8, 1)), Doubler()
    batch = {"depth_lr": depths(), "mask_lr": KNOWN, "guide": guide, "depth_span": jnp.array([[0.5, 0.75], [0, 2]])}
    output, offset, span, *_ = predict(model, "truth", {"offset": 0.0}, batch)
    np.testing.assert_allclose(model.seen[0], (depths()[0] - 0.5) / 0.25, rtol=1e-6)
    np.testing.assert_allclose(model.seen[1], depths()[1] / 2, rtol=1e-6)
    np.testing.assert_allclose((output * span + offset)[1, ::2, ::2], (depths()[1] / 2) ** 2 * 2, rtol=1e-6)
    predict(model, "sample", {"offset": 0.0}, batch)
    assert model.seen.min() == 0 and model.seen.max() == 1  # the others do not look at it


def test_a_sensor_has_no_truth() -> None:
    batch = {"depth_lr": depths(), "mask_lr": KNOWN, "guide": jnp.zeros((2, 6, 8, 1))}
    with pytest.raises(InputError, match=r"'truth' needs the ground truth's .* sample, largest or range"):
        predict(Doubler(), "truth", {"offset": 0.5}, batch)


def test_the_leak_is_named() -> None:
    assert [is_leak(scaling) for scaling in get_args(Scaling)] == [False, False, False, True]


def test_another_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the name first
    with pytest.raises(InputError, match="scaling 'log' is not one of range, sample, largest, truth"):
        offset_and_span(depths(), KNOWN, "log")  # type: ignore[arg-type]


def test_by_the_largest_depth_0_stays_and_what_is_unknown_has_no_say() -> None:
    depth = depths().at[0, 0, 0].set(7.0)
    mask = jnp.ones_like(depth, bool).at[0, 0, 0].set(False).at[1].set(False)
    offset, span = offset_and_span(depth, mask, "largest")
    assert np.array_equal(offset, np.zeros((2, 1, 1, 1)))
    assert float(span[0, 0, 0, 0]) == float(depth[0].at[0, 0].set(0).max()) and float(span[1, 0, 0, 0]) == 1
    for largest in (1e-30, 1e-3, 1e3):  # in any unit
        one = np.full((1, 2, 2, 1), largest, np.float32)
        assert offset_and_span(one, np.ones(one.shape, bool), "largest")[1].item() == one[0, 0, 0, 0]
    _, span = offset_and_span(0 * one, np.ones(one.shape, bool), "largest")
    assert span.item() > 0, "zeros are divided by something"
