"""Depth as colours, and pictures in rows."""

import numpy as np

from experiments.pictures import (
    _ANCHORS,
    _HEAT,
    CAPTION,
    GAP,
    Made,
    depth_colours,
    error_colours,
    grid,
    heat_colours,
    side_by_side,
    validation_picture,
)


def test_depth_runs_from_dark_to_bright():
    colours = depth_colours(np.linspace(2, 4, 50, dtype=np.float32)[None], 2, 4)
    assert colours.dtype == np.uint8 and colours.shape == (1, 50, 3)
    np.testing.assert_array_equal(colours[0, 0], _ANCHORS[0])
    np.testing.assert_array_equal(colours[0, -1], _ANCHORS[-1])
    brightness = colours[0].astype(int) @ [3, 6, 1]
    assert (np.diff(brightness) >= 0).all()
    half = depth_colours(np.array([[2 + 2 * 2.5 / 7]]), 2, 4)[0, 0]  # halfway between the third colour and the fourth
    np.testing.assert_allclose(half, (_ANCHORS[2] + _ANCHORS[3]) / 2, atol=0.51)


def test_what_lies_outside_or_is_unknown():
    depth = np.array([[-9.0, 99.0, np.nan, np.inf]])
    mask = np.array([[True, True, True, False]])
    found = depth_colours(depth, 0, 1, mask)[0]
    np.testing.assert_array_equal(found, [_ANCHORS[0], _ANCHORS[-1], _ANCHORS[0], (128, 128, 128)])
    np.testing.assert_array_equal(depth_colours(np.full((1, 2), 5), 5, 5)[0], [_ANCHORS[0]] * 2)  # a constant map


def test_errors_are_grey():
    found = error_colours(np.array([[0.0, 0.5, 1.0, 7.0]]), 1.0)
    np.testing.assert_array_equal(found[0, :, 0], [0, 128, 255, 255])
    assert (found == found[..., :1]).all()
    assert not error_colours(np.zeros((2, 2)), 0.0).any()


def test_large_errors_are_bright_and_unknown_ones_grey():
    found = heat_colours(np.array([[0.0, 1.0, 7.0, np.nan]]), 1.0)[0]
    np.testing.assert_array_equal(found, [_HEAT[0], _HEAT[-1], _HEAT[-1], (128, 128, 128)])
    brightness = heat_colours(np.linspace(0, 2, 50)[None], 2)[0].astype(int) @ [3, 6, 1]
    assert (np.diff(brightness) >= 0).all()
    masked = heat_colours(np.array([[0.0, 1.0]]), 1.0, np.array([[False, True]]))[0]
    np.testing.assert_array_equal(masked, [(128, 128, 128), _HEAT[-1]])


def test_pictures_stand_where_they_should():
    red, blue = np.zeros((8, 6, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = side_by_side([("a", red), ("b", blue)])
    assert sheet.shape == (8 + CAPTION, 6 + GAP + 10, 3)
    np.testing.assert_array_equal(sheet[CAPTION:, :6], red)
    np.testing.assert_array_equal(sheet[CAPTION:, 6 + GAP :], blue.repeat(2, 0).repeat(2, 1))
    assert (sheet[CAPTION:, 6 : 6 + GAP] == 255).all()
    assert (sheet[:CAPTION] == 0).all(-1).any(), "no caption"
    assert side_by_side([("a", red)], height=16).shape == (16 + CAPTION, 12, 3)


def test_rows_stand_one_above_the_other():
    picture = np.zeros((8, 40, 3), np.uint8)
    sheet = grid([[("a", picture), ("b", picture)], [("c", picture)]])
    assert sheet.shape == (2 * (8 + CAPTION), 80 + GAP, 3)
    assert not sheet[-8:, :40].any() and (sheet[-8:, 40:] == 255).all()


def test_the_picture_of_a_validation():
    truth = np.array([[2.0, 2.0, 4.0, 4.0], [2.0, 9.0, 4.0, 4.0]], np.float32)
    mask = np.ones((1, 2, 4, 1), bool)
    mask[0, 1, 1] = False  # its value has no say in the colours
    batch = {
        "guide": np.full((1, 2, 4, 3), [1.0, 0.5, 0.0], np.float32),
        "depth_hr": truth[None, ..., None],
        "mask_hr": mask,
        "depth_lr": np.array([[[[2.0], [4.0]]]], np.float32),
        "mask_lr": np.ones((1, 1, 2, 1), bool),
    }
    prediction = truth[None, ..., None] + np.array([0, 0.04, 0.2, 9, 0, 0, 0, 0], np.float32).reshape(1, 2, 4, 1)
    sheet = validation_picture(batch, Made(prediction))
    assert sheet.dtype == np.uint8 and sheet.shape == (2 + CAPTION, 5 * 4 + 4 * GAP, 3)
    guide, low, ours, target, error = (sheet[CAPTION:, n * (4 + GAP) : n * (4 + GAP) + 4] for n in range(5))
    assert (guide == [255, 128, 0]).all()
    np.testing.assert_array_equal(low, depth_colours(np.array([[2, 2, 4, 4]] * 2), 2, 4))
    np.testing.assert_array_equal(target, depth_colours(truth, 2, 4, mask[0, ..., 0]))
    np.testing.assert_array_equal(ours, depth_colours(prediction[0, ..., 0], 2, 4))
    np.testing.assert_array_equal(error[..., 0], [[0, 51, 255, 255], [0, 0, 0, 0]])
    large = {name: array.repeat(200, 1).repeat(200, 2) for name, array in batch.items()}
    assert validation_picture(large, Made(large["depth_hr"])).shape == (320 + CAPTION, 5 * 640 + 4 * GAP, 3)
    nothing = {**batch, "mask_hr": np.zeros_like(mask)}
    assert (validation_picture(nothing, Made(prediction))[CAPTION:, -4:] == 0).all()
    colourless = {**batch, "guide": batch["guide"][..., :0]}
    without = validation_picture(colourless, Made(prediction))
    np.testing.assert_array_equal(without[CAPTION:], sheet[CAPTION:, 4 + GAP :])
