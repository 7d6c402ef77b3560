"""AHMF by itself: sizes, fields, options that must not change the numbers, precision and independence.

That the numbers are right is test_parity.py's.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from ahmf_jax import InputError
from ahmf_jax.layers import compiler_options
from ahmf_jax.models import AHMF
from ahmf_jax.resample import resize
from ahmf_jax.state import init_params

TINY: dict[str, Any] = {"scale": 2, "num_levels": 3, "features": 2}


@functools.cache
def random_params(model: AHMF, guide_channels: int = 3) -> Any:
    """Of the right shapes, and quickly: compiling the initialisation takes far longer than anything here."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, model, guide_channels=guide_channels))
    # Kernels keep the size of what passes through them, so that no gate is shut and no PReLU sees one sign alone.
    return jax.tree.map(
        lambda x: rng.normal(0, np.prod(x.shape[-4:-1]) ** -0.5 if x.ndim > 3 else 0.3, x.shape).astype(x.dtype),
        shapes,
    )


def images(model: AHMF, batch: int = 2, guide_channels: int = 3, size: tuple[int, int] = (3, 5)) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    s, (h, w) = model.scale, size
    return (
        jnp.asarray(rng.random((batch, h, w, 1)), jnp.float32),
        jnp.asarray(rng.random((batch, s * h, s * w, guide_channels)), jnp.float32),
    )


@functools.cache
def compiled(model: AHMF, gradient: bool = False) -> Callable[..., Any]:
    """`(params, depth, guide) -> (output, aux)`, or the gradient and the output; compiled once for all tests."""

    def loss(params: Any, depth: Any, guide: Any) -> tuple[Any, Any]:
        output, _ = model.apply({"params": params}, depth, guide)
        return jnp.mean(jnp.square(output)), output

    def forward(params: Any, depth: Any, guide: Any) -> tuple[Any, Any]:
        return model.apply({"params": params}, depth, guide)

    fn = jax.grad(loss, has_aux=True) if gradient else forward
    # Compiling is all that takes time here, and optimisation is half of that.
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    return jax.jit(fn, compiler_options=options | (compiler_options(model.remat) or {}))


def assert_close(a: Any, b: Any, tolerance: float) -> None:
    """Leaf by leaf, relative to the largest value of the leaf; by NumPy, which compiles nothing for each shape."""
    a, b = jax.device_get((a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        largest = max(float(np.abs(x).max()), 1e-6)
        assert float(np.abs(x - y).max()) <= tolerance * largest, jax.tree_util.keystr(path)


@pytest.mark.parametrize(("scale", "count"), [(4, 2_538_922), (8, 3_358_444), (16, 5_750_830)])
def test_the_release_has_the_published_number_of_parameters(scale: int, count: int) -> None:
    shapes = jax.eval_shape(lambda: init_params(AHMF(scale=scale)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 3}, "scale 3 is not one of 2, 4, 8, 16, 32"),
        ({"num_levels": 0}, "num_levels is 0: .* at least 1"),
        ({"features": 7}, "features is 7: an even number"),
        ({"features": 0}, "features is 0"),
        ({"variant": "published"}, "variant 'published' is not one of release, paper"),
        ({"fusion": "feb+frb"}, "fusion 'feb.frb' is not one of feb_frb, feb, frb, concat"),
        ({"recurrence": "bidirectional"}, "recurrence 'bidirectional' is not one of both, forward, backward, none"),
        ({"unroll": 0}, 'unroll is 0: .* at least 1, or "auto"'),
        ({"remat": "all"}, "remat 'all' is not one of none, convs, blocks"),
    ],
)
def test_a_wrong_field_fails_at_construction(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse a name first
    with pytest.raises(InputError, match=message):
        AHMF(**{**TINY, **fields})


def test_a_guide_of_another_size() -> None:
    model = AHMF(**TINY)
    depth, _ = images(model)
    with pytest.raises(InputError, match="guide is 6 x 8, but a depth of 3 x 5 at x2 needs a guide of 6 x 10"):
        model.apply({"params": {}}, depth, jnp.zeros((2, 6, 8, 3)))


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_a_loop_over_levels_changes_no_number(variant: Any) -> None:
    full, partly = (AHMF(**TINY, variant=variant, unroll=unroll) for unroll in ("auto", 2))
    given = random_params(full), *images(full)
    assert_close(compiled(partly)(*given), compiled(full)(*given), 1e-5)


def test_recomputing_halves_the_memory_and_changes_no_number() -> None:
    """By the compiler's own figures, in a loop and unrolled; recomputing merged with the first time would save none."""
    fields: dict[str, Any] = {"scale": 2, "num_levels": 4, "features": 4, "fusion": "frb", "recurrence": "forward"}
    given = random_params(AHMF(**fields)), *images(AHMF(**fields), size=(16, 16))
    bytes_of, results = {}, {}
    for unroll, remat in [("auto", "none"), ("auto", "blocks"), (1, "none"), (1, "convs"), (1, "blocks")]:
        program = compiled(AHMF(**fields, unroll=unroll, remat=remat), gradient=True).lower(*given).compile()
        bytes_of[unroll, remat] = program.memory_analysis().temp_size_in_bytes
        results[unroll, remat] = program(*given)
    for result in results.values():
        assert_close(result, results["auto", "none"], 1e-4)
    for unroll in ("auto", 1):
        assert bytes_of[unroll, "blocks"] <= bytes_of[unroll, "none"] / 2, bytes_of
    assert bytes_of[1, "blocks"] < bytes_of[1, "convs"] < bytes_of[1, "none"], bytes_of


def test_a_rolled_program_is_as_long_for_32_levels_as_for_4() -> None:
    """What is compiled, the gradient and Adam included: it is this that the compiler's time goes with."""

    def text(num_levels: int) -> str:
        model = AHMF(scale=2, num_levels=num_levels, features=2, unroll=1, remat="blocks")
        optimiser = optax.adam(1e-3)

        def step(params: Any, state: Any, depth: Any, guide: Any) -> Any:
            gradient = jax.grad(lambda p: model.apply({"params": p}, depth, guide)[0].mean())(params)
            return optimiser.update(gradient, state)

        params = jax.eval_shape(lambda: init_params(model))
        return jax.jit(step).lower(params, jax.eval_shape(optimiser.init, params), *images(model)).as_text()

    short, long = text(4), text(32)
    assert long.count("stablehlo.convolution") == short.count("stablehlo.convolution") > 20
    assert long.count("\n") <= 1.25 * short.count("\n")


def test_every_level_starts_from_its_own_numbers() -> None:
    def draw() -> Any:
        params = init_params(AHMF(scale=2, num_levels=3, features=8, fusion="concat"))
        slopes = [x for path, x in jax.tree_util.tree_leaves_with_path(params) if "negative_slope" in str(path[-1])]
        return params["depth_levels"]["conv"]["kernel"], params["bhfc"]["refine"]["conv_2"]["kernel"], slopes

    # What is not asked for is not compiled either.
    twice, thrice, slopes = jax.jit(draw)()
    for stack, entries in ((twice, 2), (thrice, 3)):
        kernel = np.asarray(stack).reshape(entries, -1)
        bound = (3 * 3 * 8) ** -0.5  # PyTorch's, for the fan-in of one level and not of the stack
        assert np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(1), bound / 3**0.5, rtol=0.1)
        assert np.abs(np.corrcoef(kernel) - np.eye(entries)).max() < 0.2
    assert {float(value) for x in slopes for value in np.ravel(x)} == {0.25}


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_bfloat16_is_close_and_gives_float32(variant: Any) -> None:
    model = AHMF(**TINY, variant=variant)
    low = AHMF(**TINY, variant=variant, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: init_params(low))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params, (depth, guide) = random_params(model), images(model)
    exact, aux = compiled(model)(params, depth, guide)
    rounded, low_aux = compiled(low)(params, depth, guide)
    assert rounded.dtype == jnp.float32
    assert low_aux["fused"][0].dtype == low_aux["attention"][1]["depth"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(low_aux["depth_bicubic"], aux["depth_bicubic"])  # the depth itself is not rounded
    assert_close(rounded - aux["depth_bicubic"], aux["residual"], 0.05)
    assert float(jnp.abs(rounded - exact).max()) > 0, "the arithmetic was float32 after all"


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of the program, and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_in_bfloat16_convolutions_are_bfloat16_and_sums_over_pixels_float32(variant: Any) -> None:
    """In the gradient too: those of biases and slopes sum over a batch of images, and would lose most of it."""
    model = AHMF(**TINY, variant=variant, dtype=jnp.bfloat16, unroll=1)
    params = jax.eval_shape(lambda: init_params(model))
    gradient = jax.grad(lambda p, *given: model.apply({"params": p}, *given)[0].mean())
    found = list(equations(jax.make_jaxpr(gradient)(params, *images(model)).jaxpr))
    convolutions = {e.invars[0].aval.dtype for e in found if e.primitive.name == "conv_general_dilated"}
    assert convolutions == {jnp.dtype("bfloat16")}
    # A sum over one entry only drops an axis.
    sums = [(e.invars[0].aval, e.params["axes"]) for e in found if e.primitive.name == "reduce_sum"]
    rounded = [x for x, axes in sums if x.dtype == jnp.bfloat16 and {1, 2} & {*axes} and x.shape[1] > 1]
    assert len(sums) > 20 and not rounded


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_gradients_are_finite_on_constant_images(variant: Any) -> None:
    model = AHMF(**TINY, variant=variant)
    params, (depth, guide) = random_params(model), images(model)
    # Without biases black images make constant features, whose spread is exactly 0: zero padding cannot tell.
    unbiased = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if path[-1].key == "bias" else x, params)
    for weights, value in ((params, 0.0), (params, 0.5), (unbiased, 0.0)):
        results = compiled(model, gradient=True)(weights, jnp.full_like(depth, value), jnp.full_like(guide, value))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))


def test_the_intermediates_and_their_names() -> None:
    model = AHMF(**TINY)
    params, (depth, guide) = random_params(model), images(model)
    output, aux = compiled(model)(params, depth, guide)
    assert aux.keys() == {"level_features", "attention", "pooled", "fused", "refined", "residual", "depth_bicubic"}
    assert list(aux["attention"]) == [1, 2, 3] and aux["attention"][2].keys() == {"depth", "guide"}
    assert aux["attention"][2]["guide"].shape == (2, 2)
    lists = [aux["level_features"]["depth"], aux["level_features"]["guide"], aux["fused"], aux["refined"]]
    assert [x.shape for features in lists for x in features] == 12 * [(2, 3, 5, 2)]
    np.testing.assert_allclose(output, aux["depth_bicubic"] + aux["residual"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(aux["depth_bicubic"], resize(depth, (6, 10), "torch_bicubic"), rtol=0, atol=1e-6)
    assert all(float(x.min()) > 0 and float(x.max()) < 1 for x in jax.tree.leaves(aux["attention"]))  # sigmoids
    assert model.level_order == [3, 2, 1] and AHMF(**TINY, variant="paper").level_order == [1, 2, 3]


def test_without_recalibration_there_is_no_attention() -> None:
    model = AHMF(scale=2, num_levels=1, features=2, fusion="concat", recurrence="none")
    params, (depth, guide) = random_params(model), images(model)
    _, aux = compiled(model)(params, depth, guide)
    assert aux["attention"] == {1: {}}


@pytest.mark.parametrize(
    ("variant", "num_levels", "guide_channels"), [("release", 1, 1), ("paper", 1, 4), ("release", 2, 4)]
)
def test_a_samples_result_is_its_own(variant: Any, num_levels: int, guide_channels: int) -> None:
    """Also with one level, guides of other channels than three, and odd sizes that are not square."""
    model = AHMF(scale=2, num_levels=num_levels, features=2, variant=variant)
    params = random_params(model, guide_channels)
    depth, guide = images(model, 3, guide_channels, (5, 3))

    def run(depth: Any, guide: Any) -> Any:
        return compiled(model)(params, depth, guide)[0]

    together = run(depth, guide)
    assert together.shape == (3, 10, 6, 1)
    changed = run(depth.at[1:].set(0.9), guide.at[1:].set(0.1))
    np.testing.assert_allclose(changed[0], together[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(depth[:1], guide[:1])[0], together[0], rtol=0, atol=1e-6)
    assert float(jnp.abs(changed[1] - together[1]).max()) > 1e-3
    # The guide matters, each of its channels.
    for channel in range(guide_channels):
        other = run(depth, guide.at[..., channel].add(0.3))
        assert float(jnp.abs(other - together).max()) > 1e-6


def test_every_parameter_counts() -> None:
    model = AHMF(**TINY)
    params, (depth, guide) = random_params(model), images(model)
    gradient, _ = jax.device_get(compiled(model, gradient=True)(params, depth, guide))
    # But for slopes, which have a gradient only where something negative came by.
    leaves = [
        (jax.tree_util.keystr(path), x)
        for path, x in jax.tree_util.tree_leaves_with_path(gradient)
        if path[-1].key != "negative_slope"
    ]
    assert len(leaves) > 50
    for name, x in leaves:
        # Each level's entry by itself: of the stacks, which all but the ends and the recurrence are.
        entries = x[None] if any(part in name for part in ("level_1", "gru", "reconstruction")) else x
        assert all(float(np.abs(entry).max()) > 0 for entry in entries), name
