"""Gates in pictures: a row for each attention, a strip for each scale, a cell for each channel."""

import numpy as np
import pytest

from ahmf_jax.models import AHMF, DSCSAN
from experiments.gate_pictures import HIGH, gates
from experiments.pictures import CAPTION, GAP, WIDEST


def drawn(attentions, channels=4):
    values = np.random.default_rng(0).random((attentions, 2, 3, channels)).astype(np.float32)
    return values, list(values)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (DSCSAN(2, groups=2), ["group 1", "group 2"]),
        (DSCSAN(4, groups=1), ["stage 1, group 1", "stage 2, group 1"]),
        (DSCSAN(4, groups=2, progressive=False), ["group 1", "group 2"]),
    ],
)
def test_every_attention_is_a_row(model, names):
    values, attention = drawn(2)
    found = gates(model, attention)
    assert [strip.name for strip in found.strips] == [
        f"{name}, cells of {cell}" for name in names for cell in (1, 2, 4)
    ]
    for strip, of_scale in zip(found.strips, values[:, 0].reshape(6, 4), strict=True):
        np.testing.assert_array_equal(strip.values, of_scale)


def test_a_strip_has_a_cell_for_each_channel():
    values, attention = drawn(1)
    values[0, 0, 1] = 0, 0.25, 0.5, 1
    found = gates(DSCSAN(2, groups=1), attention)
    assert found.strips[1].text == "mean 0.44, 0.00 to 1.00"
    wide = WIDEST
    sheet = found.picture()
    assert sheet.shape == (CAPTION + HIGH + CAPTION + 1, 3 * wide + 2 * GAP, 3)
    second = sheet[CAPTION : CAPTION + HIGH, wide + GAP : 2 * wide + GAP]
    for channel, grey in enumerate((0, 64, 128, 255)):
        np.testing.assert_array_equal(second[:, channel * wide // 4 : (channel + 1) * wide // 4], grey)
    for column in range(3):
        left = column * (wide + GAP)
        assert (sheet[-CAPTION:, left : left + wide] < 128).any(), "its numbers are missing"


def test_what_has_none():
    assert gates(AHMF(4), ()) is None
    assert gates(DSCSAN(4, attention=False), ()) is None
