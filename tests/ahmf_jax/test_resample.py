"""The resampling kernels against the programs they are named after, and what holds for all of them."""

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ahmf_jax import InputError, resample

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "matlab_imresize.npz"
SIZES = [
    ((12, 18), (3, 6)),
    ((12, 18), (5, 7)),
    ((6, 5), (24, 20)),
    ((6, 5), (8, 13)),
    ((9, 8), (4, 16)),
    ((1, 3), (4, 1)),
]
BICUBIC = ("matlab_bicubic", "pillow_bicubic", "torch_bicubic")


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def resized(x: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    return resample.resize(x[..., None], size, kernel)[..., 0]


@pytest.mark.skipif(not REFERENCE.exists(), reason="shared/reference is not beside this checkout")
@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_matlab_bicubic_is_matlabs_imresize(scale: int) -> None:
    reference = np.load(REFERENCE)
    x, down, up = reference["input"], reference[f"down_x{scale}"], reference[f"up_x{scale}"]
    assert np.abs(resized(x, down.shape, "matlab_bicubic") - down).max() <= 1e-12
    assert np.abs(resized(down, up.shape, "matlab_bicubic") - up).max() <= 1e-12


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_pillow_bicubic_is_pillows_and_jaxs(before: tuple[int, int], after: tuple[int, int]) -> None:
    x = image(*before).astype(np.float32)
    ours = resized(x, after, "pillow_bicubic")
    pillow = np.asarray(Image.fromarray(x, mode="F").resize(after[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ours, pillow, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours, jax.image.resize(x, after, "cubic"), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_torchs_kernels_are_torchs(before: tuple[int, int], after: tuple[int, int], mode: str) -> None:
    torch = pytest.importorskip("torch")
    x = image(*before)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(x)[None, None], after, mode=mode, align_corners=False)
    np.testing.assert_allclose(resized(x, after, f"torch_{mode}"), theirs[0, 0].numpy(), rtol=0, atol=1e-12)


def test_torch_bilinear_takes_the_middle_of_a_cell() -> None:
    x = image(16, 24)
    middle = x.reshape(2, 8, 3, 8)[:, 3:5, :, 3:5].mean((1, 3))
    np.testing.assert_allclose(resized(x, (2, 3), "torch_bilinear"), middle, rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
def test_nearest_takes_the_sample_its_name_says(scale: int) -> None:
    x = image(2 * scale, 3 * scale)
    for name, offset in (("first", 0), ("center", (scale - 1) // 2), ("last", scale - 1)):
        np.testing.assert_array_equal(resized(x, (2, 3), f"nearest_{name}"), x[offset::scale, offset::scale])
        enlarged = resized(x, (4 * scale, 6 * scale), f"nearest_{name}")
        np.testing.assert_array_equal(enlarged, x.repeat(2, 0).repeat(2, 1))


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    x = image(8, 12)
    blocks = x.reshape(2, 4, 3, 4).mean((1, 3))
    np.testing.assert_allclose(resized(x, (2, 3), "area"), blocks, rtol=0, atol=1e-15)
    row = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])  # five to two: each covers two and a half
    np.testing.assert_allclose(resized(row, (1, 2), "area"), [[(1 + 2 + 2) / 2.5, (2 + 8 + 16) / 2.5]], rtol=1e-15)


@pytest.mark.parametrize("kernel", resample.KERNELS)
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_numpy_and_jax_agree_and_constants_stay(kernel: str, before: tuple[int, int], after: tuple[int, int]) -> None:
    x = image(2, *before, 3).astype(np.float32)
    ours, jaxs = resample.resize(x, after, kernel), resample.resize(jnp.asarray(x), after, kernel)
    assert type(ours) is np.ndarray and isinstance(jaxs, jax.Array)
    assert ours.dtype == jaxs.dtype == np.float32 and ours.shape == (2, *after, 3)
    np.testing.assert_allclose(ours, jaxs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[1, ..., 2], resized(x[1, ..., 2], after, kernel), rtol=0, atol=1e-6)
    np.testing.assert_allclose(resized(np.full(before, 0.7), after, kernel), 0.7, rtol=1e-14)


@pytest.mark.parametrize("kernel", [*BICUBIC, "torch_bilinear", "area"])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_flipped_in_flipped_out(kernel: str, before: tuple[int, int], after: tuple[int, int]) -> None:
    x = image(*before)
    flipped = resized(x[::-1, ::-1], after, kernel)
    np.testing.assert_allclose(flipped, resized(x, after, kernel)[::-1, ::-1], rtol=0, atol=1e-14)


def test_nearest_first_and_last_are_each_others_mirror_image() -> None:
    x = image(8, 12)
    np.testing.assert_array_equal(
        resized(x[::-1, ::-1], (2, 3), "nearest_first"), resized(x, (2, 3), "nearest_last")[::-1, ::-1]
    )


@pytest.mark.parametrize("kernel", BICUBIC)
def test_a_shift_shifts_and_ramps_stay(kernel: str) -> None:
    x = image(1, 40)
    shifted = resized(np.roll(x, 4, 1), (1, 10), kernel)
    np.testing.assert_allclose(shifted[0, 4:-3], resized(x, (1, 10), kernel)[0, 3:-4], rtol=0, atol=1e-14)
    if kernel == "torch_bicubic":  # of Keys' kernels only that with a = -0.5 keeps straight lines
        return
    ramp = np.arange(40.0)[None]
    for width, scale in ((160, 0.25), (10, 4)):
        inside = slice(width // 5, -width // 5)
        exact = (np.arange(width) + 0.5) * scale - 0.5
        np.testing.assert_allclose(resized(ramp, (1, width), kernel)[0, inside], exact[inside], rtol=1e-12)


def test_the_three_bicubics_differ() -> None:
    x = image(8, 8)
    for size in ((4, 4), (16, 16)):
        a, b, c = (resized(x, size, kernel) for kernel in BICUBIC)
        assert min(np.abs(a - b).max(), np.abs(a - c).max(), np.abs(b - c).max()) > 1e-3


def test_the_kernel_inside_jit_and_in_bfloat16() -> None:
    x = jnp.asarray(image(6, 6, 1), jnp.float32)
    fn = jax.jit(lambda x: resample.resize(x, (3, 3), "matlab_bicubic"))
    np.testing.assert_allclose(fn(x), resample.resize(x, (3, 3), "matlab_bicubic"), rtol=0, atol=1e-7)
    low = fn(x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), fn(x), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("factor", "kernel"),
    [
        (2, "torch_bicubic"),
        (3, "torch_bicubic"),
        (16, "torch_bicubic"),
        (2, "torch_bilinear"),
        (5, "torch_bilinear"),
        (2, "matlab_bicubic"),
        (3, "matlab_bicubic"),
    ],
)
def test_sizes_that_are_symbols(factor: int, kernel: str) -> None:
    """One program for axes of every length: the border is that of each, clamped or mirrored."""

    def enlarge(x: Any) -> Any:
        return resample.resize(x, (factor * x.shape[-3], factor * x.shape[-2]), kernel)

    height, width = jax.export.symbolic_shape("height, width")
    program = jax.export.export(jax.jit(enlarge))(jax.ShapeDtypeStruct((2, height, width, 1), jnp.float32))
    for size in ((1, 1), (2, 3), (5, 9)):
        x = image(2, *size, 1).astype(np.float32)
        np.testing.assert_allclose(program.call(x), enlarge(x), rtol=0, atol=4e-7)


@pytest.mark.parametrize(
    ("rows", "kernel"),
    [
        ("height", "pillow_bicubic"),
        ("height", "area"),
        ("height + 1", "matlab_bicubic"),
        ("height + 1", "torch_bicubic"),
        ("2 * width", "torch_bilinear"),
    ],
)
def test_symbols_that_are_no_whole_factor_or_another_kernels(rows: str, kernel: str) -> None:
    shape = jax.export.symbolic_shape(f"height, width, {rows}")
    x = jax.ShapeDtypeStruct((*shape[:2], 1), jnp.float32)
    with pytest.raises(InputError, match=f"cannot resample height samples to .* with {kernel}: .* whole factor"):
        jax.eval_shape(lambda x: resample.resize(x, (shape[2], x.shape[1]), kernel), x)


def test_the_matrix_is_shared_and_cannot_be_spoilt() -> None:
    matrix = resample.matrix(6, 3, "area")
    assert resample.matrix(6, 3, "area") is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


@pytest.mark.parametrize(
    ("x", "size", "kernel", "message"),
    [
        (np.zeros((4, 4, 1), np.uint8), (2, 2), "area", "uint8 values: convert"),
        (np.zeros((4, 4, 1), bool), (2, 2), "area", "bool values: convert"),
        (np.zeros((4, 4, 1)), (2, 2), "bicubic", "'bicubic' is not known.*matlab_bicubic, pillow_bicubic"),
        (np.zeros((4, 4, 1)), (2, 0), "area", "4 samples to 0"),
        (np.zeros((0, 4, 1)), (2, 2), "area", "0 samples to 2"),
    ],
)
def test_what_cannot_be_resampled(x: Any, size: tuple[int, int], kernel: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resample.resize(x, size, kernel)
