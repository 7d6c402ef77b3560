"""DADA's loop: the authors' numbers, PyTorch's twin, what every iteration keeps, and the gradients in three ways."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from ahmf_jax import InputError, diffusion
from ahmf_jax.diffusion import adjust, coefficients, diffuse, spread
from ahmf_jax.sharding import make_mesh, place_batch

# Each of which is a program of its own; any number of first iterations is the same.
CHOICES = ("after", "rate", "gradient", "tolerance", "start")
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "dada_rgb_x8.npz"


class Sample(NamedTuple):
    """The arrays that `diffuse` takes."""

    image: jax.Array
    cv: jax.Array
    ch: jax.Array
    source: jax.Array
    mask: jax.Array


def run(*arrays: Any, **options: Any) -> Any:
    """`diffuse`, compiled once for each shape and choice."""
    return _compiled(*map(jnp.asarray, arrays), **options)


_compiled = jax.jit(diffuse, static_argnames=CHOICES)


def draw(scale: int, h: int, w: int, batch: int = 2, known: float = 0.7, dtype: Any = jnp.float32) -> Sample:
    """Depth between 1 and 2, coefficients of all sizes, some samples unknown."""
    rng = np.random.default_rng(0)
    height, width = scale * h, scale * w

    def uniform(low: float, high: float, *size: int) -> jax.Array:
        return jnp.asarray(rng.uniform(low, high, (batch, *size, 1)), dtype)

    return Sample(
        image=uniform(1, 2, height, width),
        cv=10 ** uniform(-3, 0, height - 1, width),
        ch=10 ** uniform(-3, 0, height, width - 1),
        source=uniform(1, 2, h, w),
        mask=uniform(0, 1, h, w) < known,
    )


def means(image: Any, sample: Sample) -> np.ndarray:
    """Of the blocks, in float64."""
    b, h, w, _ = sample.source.shape
    return np.asarray(image, np.float64).reshape(b, h, image.shape[1] // h, w, image.shape[2] // w, 1).mean((2, 4))


def test_the_coefficients_of_four_pixels() -> None:
    """d = (1 + 3) / 2 and (0.5 + 3) / 2 downwards, 0.5 / 2 and 0 to the right; K = 0.5."""
    features = np.zeros((1, 2, 2, 2), np.float32)
    features[0, 1, :] = 1, 3
    features[0, 0, 1] = 0.5, 0
    cv, ch = coefficients(jnp.asarray(features), 0.5)
    np.testing.assert_allclose(cv[0, :, :, 0], np.array([[1 / (1 + 4**2), 1 / (1 + 3.5**2)]]), rtol=1e-6)
    np.testing.assert_allclose(ch[0, :, :, 0], [[1 / 1.25], [1.0]], rtol=1e-6)


def test_the_authors_numbers() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not there")
    with np.load(REFERENCE) as file:
        given = {name: np.moveaxis(file[name], 1, -1) for name in file.files if file[name].ndim == 4}
        contrast, iterations = float(file["K"]), int(file["iterations"])
    cv, ch = coefficients(jnp.concatenate([given["guide"], given["y_bicubic"]], -1), contrast)
    np.testing.assert_allclose(cv, given["cv"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ch, given["ch"], rtol=0, atol=1e-6)
    mask = given["mask_lr"] > 0.5
    assert not mask.all()
    image, used = run(given["y_bicubic"], cv, ch, given["source"], mask, before=iterations)
    np.testing.assert_allclose(image, given["y_pred"], rtol=1e-5)
    assert used == iterations


def test_one_step_of_diffusion_on_three_pixels() -> None:
    """Both differences are taken from the old image: 0.2 * 0.5 * (4 - 1) to the left, 0.2 * 1 * (9 - 4) further on."""
    image = jnp.array([1, 4, 9], jnp.float32).reshape(1, 1, 3, 1)
    ch = jnp.array([0.5, 1], jnp.float32).reshape(1, 1, 2, 1)
    cv = jnp.zeros((1, 0, 3, 1), jnp.float32)
    np.testing.assert_allclose(np.ravel(spread(image, cv, ch, 0.2)), [1.3, 4 - 0.3 + 1, 8], rtol=1e-6)
    np.testing.assert_allclose(
        np.ravel(spread(image.swapaxes(1, 2), ch.swapaxes(1, 2), cv.swapaxes(1, 2), 0.2)), [1.3, 4.7, 8], rtol=1e-6
    )


def test_the_adjustment_of_two_blocks() -> None:
    image = jnp.array([[1, 3, 5, 6], [2, 2, 7, 8]], jnp.float32).reshape(1, 2, 4, 1)
    source = jnp.array([4, np.nan], jnp.float32).reshape(1, 1, 2, 1)
    adjusted = adjust(image, source, ~jnp.isnan(source))[0, :, :, 0]
    np.testing.assert_allclose(adjusted, [[2, 6, 5, 6], [4, 4, 7, 8]], rtol=1e-6)


@pytest.mark.parametrize(("scale", "h", "w"), [(2, 7, 5), (3, 3, 6), (4, 5, 3), (8, 3, 5), (16, 1, 3), (32, 3, 1)])
def test_the_twin(scale: int, h: int, w: int) -> None:
    torch = pytest.importorskip("torch")
    from ahmf_jax.torch_modules import diffusion as twin

    sample = draw(scale, h, w)
    image, _ = run(*sample, before=200)
    tensors = (torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy()) for x in sample)
    expected = np.moveaxis(twin.diffuse(*tensors, before=200).numpy(), 1, -1)
    np.testing.assert_allclose(image, expected, rtol=5e-6)
    assert np.abs(expected / sample.image - 1).max() > 0.1


def test_the_twins_gradient() -> None:
    torch = pytest.importorskip("torch")
    from ahmf_jax.torch_modules import diffusion as twin

    sample = draw(4, 2, 3)
    weights = np.random.default_rng(1).normal(size=sample.image.shape).astype(np.float32)
    image, *others = (torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy()) for x in sample)
    links = [x.requires_grad_() for x in others[:2]]
    result = twin.diffuse(image, *links, *others[2:], before=10, after=10)
    expected = torch.autograd.grad((result * torch.from_numpy(np.moveaxis(weights, -1, 1).copy())).sum(), links)
    found = gradients(sample, weights, before=10, after=10)
    for name in ("cv", "ch"):
        theirs = np.moveaxis(expected[name == "ch"].numpy(), 1, -1)
        np.testing.assert_allclose(found[name], theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_every_step_keeps_what_is_known() -> None:
    sample = draw(8, 3, 5)

    def step(image: Any, _: None) -> Any:
        moved = spread(image, sample.cv, sample.ch)
        return adjust(moved, sample.source, sample.mask), (moved, adjust(moved, sample.source, sample.mask))

    image, (moved, images) = jax.jit(lambda image: lax.scan(step, image, length=100))(sample.image)
    mask = np.asarray(sample.mask)
    span = np.ptp(sample.source[mask])
    for before, after in zip(moved, images, strict=True):
        apart = np.abs(means(after, sample) - sample.source)
        assert apart[mask].max() <= 1e-5 * span
        block = ~np.repeat(np.repeat(mask, 8, 1), 8, 2)
        np.testing.assert_allclose(np.asarray(after)[block], np.asarray(before)[block], rtol=1e-6)
    np.testing.assert_allclose(image, run(*sample, before=100)[0], rtol=2e-6)


def test_diffusion_loses_and_makes_no_depth() -> None:
    sample = draw(4, 3, 5)
    image = jax.jit(lambda image: lax.fori_loop(0, 500, lambda _, x: spread(x, sample.cv, sample.ch), image))
    total, before = (np.asarray(x, np.float64).sum((1, 2, 3)) for x in (image(sample.image), sample.image))
    np.testing.assert_allclose(total, before, rtol=2e-6)


def test_it_is_stable_at_a_quarter_and_not_above() -> None:
    """A chequerboard is what grows first: it turns over in every step, and beyond a quarter grows."""
    board = jnp.asarray(np.indices((1, 16, 16, 1)).sum(0) % 2 + 1, jnp.float32)
    ones = jnp.ones_like(board)

    @jax.jit
    def largest(rate: Any) -> Any:  # traced, and so not checked
        def step(_: Any, image: Any) -> Any:
            return spread(image, ones[:, 1:], ones[:, :, 1:], rate)

        return jnp.abs(lax.fori_loop(0, 400, step, board)).max()

    assert largest(0.24) < 1.51 and largest(0.25) <= 2.001
    assert largest(0.26) > 1e3


@pytest.mark.parametrize("rate", [0.26, 0.0, -0.1, float("nan")])
def test_a_rate_that_diverges_is_refused(rate: float) -> None:
    sample = draw(2, 1, 2)
    with pytest.raises(InputError, match=r"rate .*: the diffusion is stable up to 0.25"):
        run(*sample, before=1, rate=rate)
    for given in (rate, np.float32(rate), jnp.float32(rate)):
        with pytest.raises(InputError, match="rate"):
            unchecked(spread)(*sample[:3], given)


@pytest.mark.parametrize("contrast", [0.0, -1.0, float("nan"), float("inf")])
def test_a_contrast_that_is_not_above_zero_is_refused(contrast: float) -> None:
    for given in (contrast, np.float32(contrast), jnp.float32(contrast)):
        with pytest.raises(InputError, match=r"contrast .*: the features' differences are divided by it; give more"):
            unchecked(coefficients)(jnp.ones((1, 2, 2, 3)), given)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"before": -1}, "before -1: give 0 or more"),
        ({"before": jnp.int32(-3)}, "before -3: give 0 or more"),
        ({"after": -2}, "after -2: give 0 or more"),
        ({"tolerance": float("nan")}, "tolerance nan: give 0 or more"),
        ({"gradient": "exact"}, "gradient 'exact': choose one of unrolled, implicit"),
        ({"start": "rough"}, "start 'rough': choose one of fine, coarse"),
    ],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any], message: str) -> None:
    with jax.disable_jit(), pytest.raises(InputError, match=message):
        unchecked(diffuse)(*draw(2, 1, 2), **{"before": 1} | wrong)


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without the tests' check of annotations, which would be the first to refuse a name."""
    return getattr(function, "__wrapped__", function)


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 15), (4, 12), (3, 2)])
def test_sizes_that_do_not_fit_are_refused(height: int, width: int) -> None:
    source = jnp.ones((1, 2, 3, 1))
    with pytest.raises(InputError, match=f"an image of {height} x {width} for samples of 2 x 3"):
        adjust(jnp.ones((1, height, width, 1)), source, source > 0)


@pytest.mark.parametrize("start", ["fine", "coarse"])
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_what_stands_in_a_hole_has_no_influence(gradient: Any, start: Any) -> None:
    """Not on the image, and not on the gradient; also where it is no number."""
    sample = draw(4, 2, 3)
    weights = np.ones_like(sample.image)
    options = {"before": 20, "after": 5, "gradient": gradient, "start": start}
    results = []
    for value in (0, 1e30, -1e30, np.nan):
        other = sample._replace(source=jnp.where(sample.mask, sample.source, value))
        results.append((run(*other, **options)[0], gradients(other, weights, **options)))
    for image, found in results:
        np.testing.assert_array_equal(image, results[0][0])
        assert all(jnp.isfinite(found[name]).all() and found[name].any() for name in ("cv", "ch"))
        jax.tree.map(np.testing.assert_array_equal, found, results[0][1])


def test_an_image_of_holes_only_spreads_out() -> None:
    sample = draw(4, 2, 3, known=0)
    image, _ = run(*sample, before=20)
    expected = sample.image
    for _ in range(20):
        expected = spread(expected, sample.cv, sample.ch)
    np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_a_block_of_zeros_stays_so_and_spoils_no_other() -> None:
    sample = draw(4, 2, 3, known=1)
    sample = sample._replace(source=sample.source.at[:, 0, 0].set(0))
    image = np.asarray(run(*sample, before=300, after=1)[0])
    assert not image[:, :4, :4].any() and np.isfinite(image).all()
    np.testing.assert_allclose(means(image, sample), sample.source, atol=1e-6)
    assert all(np.isfinite(x).all() for x in gradients(sample, sample.image, before=10, after=10).values())


def test_a_constant_becomes_the_samples_in_one_iteration() -> None:
    sample = draw(4, 2, 3, known=1)
    image, _ = run(jnp.ones_like(sample.image), *sample[1:], before=1)
    np.testing.assert_allclose(image, np.repeat(np.repeat(sample.source, 4, 1), 4, 2), rtol=1e-6)


def test_one_program_for_any_count() -> None:
    sample = draw(4, 2, 3)
    traced = []

    @jax.jit
    def once(count: Any) -> Any:
        traced.append(count)
        return diffuse(*sample, before=count, after=2)

    for count in (0, 1, 7):
        image, used = once(count)
        np.testing.assert_allclose(image, run(*sample, before=count + 2)[0], rtol=1e-6)
        assert used == count + 2
    assert len(traced) == 1
    image, used = diffuse(*sample, before=0)  # a number of Python's
    np.testing.assert_array_equal(image, sample.image)
    assert used == 0


def gradients(sample: Sample, weights: Any, **options: Any) -> dict[str, Any]:
    """Of a weighted sum of the result, by everything that is a number."""

    numbers = {name: value for name, value in sample._asdict().items() if name != "mask"}
    return _gradients(numbers, sample.mask, weights, **options)


@functools.partial(jax.jit, static_argnames=CHOICES)
def _gradients(numbers: dict[str, Any], mask: Any, weights: Any, **options: Any) -> dict[str, Any]:
    def total(numbers: dict[str, Any]) -> Any:
        return jnp.sum(diffuse(mask=mask, **numbers, **options)[0] * weights)

    return jax.grad(total)(numbers)


def plain(image: Any, cv: Any, ch: Any, sample: Sample, count: int, rate: float = diffusion.RATE) -> Any:
    """The same iterations as they are defined, for JAX to differentiate."""
    b, h, w, _ = sample.source.shape
    for _ in range(count):
        down, right = rate * cv * jnp.diff(image, axis=1), rate * ch * jnp.diff(image, axis=2)
        image = image.at[:, 1:].add(-down).at[:, :-1].add(down).at[:, :, 1:].add(-right).at[:, :, :-1].add(right)
        blocks = image.reshape(b, h, image.shape[1] // h, w, image.shape[2] // w, 1)
        ratio = jnp.where(sample.mask, sample.source / (blocks.mean((2, 4)) + 1e-8), 1)
        image = (blocks * ratio[:, :, None, :, None]).reshape(image.shape)
    return image


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("after", [1, 2, 9, 11])
def test_the_unrolled_gradient_is_that_of_the_definition(after: int) -> None:
    """Counts of one segment, of whole segments, and of some that leave a rest."""
    sample = draw(2, 2, 3, dtype=float)
    weights = np.random.default_rng(1).normal(size=sample.image.shape)
    middle, _ = run(*sample, before=3)

    def total(cv: Any, ch: Any) -> Any:
        return jnp.sum(plain(middle, cv, ch, sample, after) * weights)

    expected = jax.jit(jax.grad(total, (0, 1)))(sample.cv, sample.ch)
    found = gradients(sample, weights, before=3, after=after)
    for name, theirs in zip(("cv", "ch"), expected, strict=True):
        np.testing.assert_allclose(found[name], theirs, rtol=1e-9, atol=1e-12)
        assert np.abs(theirs).max() > 1e-3
    assert not found["image"].any() and not found["source"].any()


@pytest.mark.usefixtures("float64")
def test_finite_differences() -> None:
    """Of the contrast too, through the coefficients."""
    sample = draw(2, 2, 3, dtype=float)
    rng = np.random.default_rng(1)
    features, weights = jnp.asarray(rng.normal(size=(*sample.image.shape[:3], 3))), rng.normal(size=sample.image.shape)

    @jax.jit
    def total(contrast: Any, features: Any) -> Any:
        links = coefficients(features, contrast)
        return jnp.sum(diffuse(sample.image, *links, sample.source, sample.mask, before=0, after=7)[0] * weights)

    by_contrast, by_features = jax.jit(jax.grad(total, (0, 1)))(0.5, features)
    direction, step = rng.normal(size=features.shape), 1e-6
    expected = (total(0.5, features + step * direction) - total(0.5, features - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(by_features * direction), expected, rtol=1e-7)
    expected = (total(0.5 + step, features) - total(0.5 - step, features)) / (2 * step)
    np.testing.assert_allclose(by_contrast, expected, rtol=1e-7)
    assert abs(expected) > 1e-3


@pytest.mark.usefixtures("float64")
def test_the_implicit_gradient_is_the_unrolled_one_where_both_converge() -> None:
    sample = draw(4, 2, 3, dtype=float)
    sample = sample._replace(cv=jnp.sqrt(sample.cv), ch=jnp.sqrt(sample.ch))  # which converges sooner
    weights = np.random.default_rng(1).normal(size=sample.image.shape)
    unrolled = gradients(sample, weights, before=6000, after=3000)
    implicit = gradients(sample, weights, before=6000, after=3000, gradient="implicit")
    early = gradients(sample, weights, before=6000, after=3000, gradient="implicit", tolerance=1e-7)
    few = gradients(sample, weights, before=9000, after=30, gradient="implicit")
    for name in ("cv", "ch"):
        size = np.abs(unrolled[name]).max()
        np.testing.assert_allclose(implicit[name], unrolled[name], rtol=0, atol=1e-9 * size)
        np.testing.assert_allclose(early[name], unrolled[name], rtol=0, atol=1e-4 * size)
        assert np.abs(few[name] - unrolled[name]).max() > 1e-3 * size  # it takes many terms
        assert size > 1e-2
    assert not implicit["image"].any() and not implicit["source"].any()


def test_it_ends_when_nothing_changes_any_more() -> None:
    sample = draw(4, 2, 3, known=1)
    sample = sample._replace(cv=jnp.sqrt(sample.cv), ch=jnp.sqrt(sample.ch))
    whole, used = run(*sample, before=8000)
    assert used == 8000
    image, used = run(*sample, before=8000, tolerance=1e-4)
    assert used % 64 == 0 and 64 < used < 4000
    np.testing.assert_allclose(image, whole, rtol=3e-3)
    image, sooner = run(*sample, before=8000, tolerance=1e-2, after=3)
    assert 64 < sooner < used and (sooner - 3) % 64 == 0
    short, used = run(*sample, before=100, tolerance=1e-9)  # the last interval is of 36
    assert used == 100
    np.testing.assert_allclose(short, run(*sample, before=100)[0], rtol=1e-6)


def test_a_batch_ends_with_its_last_sample() -> None:
    sample = draw(4, 2, 3, known=1)
    sample = sample._replace(cv=sample.cv.at[0].set(1), ch=sample.ch.at[0].set(1))  # the first is still much sooner
    alone = [run(*(x[i : i + 1] for x in sample), before=8000, tolerance=1e-3)[1] for i in (0, 1)]
    assert run(*sample, before=8000, tolerance=1e-3)[1] == max(alone) > min(alone)


def test_the_coefficients_of_blocks() -> None:
    """Two columns of resistances 1, 2, 4 and 1, 1, 1: from centre to centre 0.5 + 2 + 2 and 2, where 2 is usual."""
    cv = jnp.array([[1, 1], [0.5, 1], [0.25, 1]]).reshape(1, 3, 2, 1)
    np.testing.assert_allclose(np.ravel(diffusion._halved(cv)), [(2 / 4.5 + 1) / 2], rtol=1e-6)
    np.testing.assert_allclose(diffusion._halved(jnp.full((2, 7, 6, 1), 0.3)), 0.3, rtol=1e-6)


@pytest.mark.parametrize("scale", [4, 6, 8])
def test_a_coarse_start_reaches_the_same_point_sooner(scale: int) -> None:
    sample = draw(scale, 2, 3)
    sample = sample._replace(cv=jnp.sqrt(sample.cv), ch=jnp.sqrt(sample.ch))
    end, _ = run(*sample, before=20000)
    coarse, used = run(*sample, before=20000, start="coarse")
    np.testing.assert_allclose(coarse, end, rtol=1e-4)
    assert used == 20000
    np.testing.assert_allclose(run(*sample, before=0, start="coarse")[0], sample.image, rtol=1e-6)
    apart = [np.abs(run(*sample, before=100, start=start)[0] - end).mean() for start in ("fine", "coarse")]
    assert apart[1] < 0.8 * apart[0]


@pytest.mark.parametrize("scale", [2, 3])
def test_there_is_no_coarse_start_without_blocks(scale: int) -> None:
    sample = draw(scale, 2, 3)
    np.testing.assert_array_equal(*(run(*sample, before=5, start=start)[0] for start in ("fine", "coarse")))


def test_on_several_devices() -> None:
    """A batch divided over four devices: the same numbers, and no pixel leaves its device."""
    sample = draw(4, 2, 3, batch=4)

    def both(arrays: dict[str, Any]) -> Any:
        def total(cv: Any, ch: Any) -> Any:
            image, used = run(**arrays | {"cv": cv, "ch": ch}, before=70, after=5, tolerance=1e-9, start="coarse")
            return jnp.sum(image**2), (image, used)

        return jax.grad(total, (0, 1), has_aux=True)(arrays["cv"], arrays["ch"])

    arrays = sample._asdict()
    single = jax.jit(both)(arrays)
    placed = place_batch(jax.device_get(arrays), make_mesh(4))
    compiled = jax.jit(both).lower(placed).compile()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), compiled(placed), single)
    assert compiled(placed)[1][0].sharding.is_equivalent_to(placed["image"].sharding, 4)
    text = str(compiled.as_text())
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize("options", [{}, {"tolerance": 1e-4, "start": "coarse"}])
def test_sizes_that_are_only_symbols(options: dict[str, Any]) -> None:
    """What `jax.export` keeps for any batch and image."""
    b, h, w = export.symbolic_shape("b, h, w")
    sizes = [(b, 8 * h, 8 * w, 1), (b, 8 * h - 1, 8 * w, 1), (b, 8 * h, 8 * w - 1, 1), (b, h, w, 1)]
    described = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    described += [jax.ShapeDtypeStruct((b, h, w, 1), bool), jax.ShapeDtypeStruct((), jnp.int32)]
    program = export.export(jax.jit(lambda *x: diffuse(*x[:5], before=x[5], **options)))(*described)
    sample = draw(8, 2, 3)
    image, used = program.call(*sample, np.int32(9))
    np.testing.assert_allclose(image, run(*sample, before=9, **options)[0], rtol=1e-6)
    assert used == 9


def test_the_memory_of_a_gradient() -> None:
    """Some 3 sqrt(after) images, not `after`: what the compiler plans for 400 iterations holds fewer than 100."""
    sample = draw(8, 4, 4, batch=1)

    def total(cv: Any, ch: Any) -> Any:
        return jnp.sum(diffuse(sample.image, cv, ch, sample.source, sample.mask, before=0, after=400)[0])

    plan: Any = jax.jit(jax.grad(total, (0, 1))).lower(sample.cv, sample.ch).compile().memory_analysis()
    assert plan.temp_size_in_bytes < 100 * sample.image.nbytes
