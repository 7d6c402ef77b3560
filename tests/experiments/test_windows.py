"""What a model is given of a part of an image: its margins, at places where a window can begin, in one size."""

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from ahmf_jax.export import Trained
from ahmf_jax.models import DADA, DSDMSR
from experiments.figures import Crop
from experiments.windows import _around, part, window

STRIDED = Trained(DADA(4, channels=1, enlarge=1), {}, "largest")  # its windows begin at multiples of 32 pixels


@pytest.mark.parametrize(("end", "margin", "step", "scale"), [(400, 24, 8, 8), (400, 16, 8, 4), (132, 16, 8, 4)])
def test_margins_are_there_and_windows_equally_long(end, margin, step, scale):
    lengths = set()
    for first in range(0, end - 32 + 1, scale):
        found = _around(first, 32, end, margin, step, scale)
        assert found.start % step == 0 and found.start <= max(first - margin, 0), first
        assert min(first + 32 + margin, end) <= found.stop <= end, first
        lengths.add(found.stop - found.start)
    assert len(lengths) == 1, "each length is a program"
    assert lengths.pop() <= 32 + 2 * margin + 2 * (step - scale)
    assert _around(0, 32, 60, 24, 4, 4) == slice(0, 60)


def test_what_is_given_is_that_of_the_place():
    rng = np.random.default_rng(0)
    low = rng.uniform(1, 2, (48, 64)).astype(np.float32)
    known = rng.random(low.shape) < 0.9
    guide = rng.integers(0, 256, (192, 256, 3), np.uint8)
    crop = Crop(132, 100, 16, 32)
    given = window(STRIDED, low, known, guide, crop, one=10.0)
    model = STRIDED.model
    top, left = crop.y - given.place.y, crop.x - given.place.x
    assert top % 32 == left % 32 == 0 and (given.crop, given.place[2:]) == (crop, crop[2:])
    scaled = np.float32(low / 10) / np.max(low / 10, where=known, initial=0)
    rows, columns = slice(100 // 4, 132 // 4), slice(132 // 4, 148 // 4)
    np.testing.assert_allclose(given.inside(given.images["depth_lr"]), scaled[rows, columns], rtol=1e-6)
    np.testing.assert_array_equal(given.inside(given.images["mask_lr"]), known[rows, columns])
    colours = given.images["guide"][..., :1]
    np.testing.assert_array_equal(given.inside(colours), guide[100:132, 132:148, 0].astype(np.float32) / 255)
    np.testing.assert_allclose(given.depth(given.images["depth_lr"]), low[rows, columns], rtol=1e-6)
    whole = np.where(known, low, 0)[None, ..., None] / np.float32(10)
    assert set(given.told) == set(model.of_whole(whole, known[None, ..., None]))
    np.testing.assert_array_equal(part(low, crop, 192), low[rows, columns])


def test_a_model_that_reads_no_guide_takes_any():
    trained = Trained(DSDMSR(2), {}, "range", "m", 10.0)
    low, guide = np.ones((4, 6), np.float32), np.zeros((8, 12, 3), np.uint8)
    given = window(trained, low, low > 0, guide)
    assert given.images["guide"].shape == (1, 8, 12, 0) and given.crop == Crop(0, 0, 12, 8) and given.one == 10
    with pytest.raises(InputError, match=r"cannot take \(4, 6\) samples with a guide of \(8, 10, 3\): give one of"):
        window(trained, low, low > 0, guide[:, :10])
