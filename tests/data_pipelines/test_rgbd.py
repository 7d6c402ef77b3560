"""RGB-D folders: every layout's halves find each other, in order, and none that misses the other is dropped."""

from pathlib import Path

import pytest

from ahmf_jax.errors import InputError
from data_pipelines.rgbd import open_sequence, pair_folders


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(folder, frames):
    return [
        (frame.name, *(half and half.relative_to(folder).as_posix() for half in (frame.depth, frame.guide)))
        for frame in frames
    ]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            ("depth/10.png", "depth/9.png", "rgb/9.jpg", "rgb/10.jpg", "rgb/.hidden.jpg", "rgb/notes.txt"),
            [("9", "depth/9.png", "rgb/9.jpg"), ("10", "depth/10.png", "rgb/10.jpg")],
        ),
        (("Depth/a.exr", "Color/a.png"), [("a", "Depth/a.exr", "Color/a.png")]),
        (
            ("depth/frame-000001.depth.png", "color/frame-000001.color.jpg"),
            [("frame-000001.depth", "depth/frame-000001.depth.png", "color/frame-000001.color.jpg")],
        ),
        (
            ("depth/0000001-000000000000.png", "image/0000001-000000033369.jpg"),
            [("0000001-000000000000", "depth/0000001-000000000000.png", "image/0000001-000000033369.jpg")],
        ),
        (
            ("depth/depth_7.png", "images/rgb_7.png", "images/rgb_8.png"),
            [("depth_7", "depth/depth_7.png", "images/rgb_7.png"), ("rgb_8", None, "images/rgb_8.png")],
        ),
        (
            ("a_depth.png", "a_rgb.png", "b_depth.npy", "c_color.jpg", "readme.txt", "mask.png"),
            [
                ("a_depth", "a_depth.png", "a_rgb.png"),
                ("b_depth", "b_depth.npy", None),
                ("c_color", None, "c_color.jpg"),
            ],
        ),
    ],
)
def test_layouts(tmp_path, names, wanted):
    make(tmp_path, *names)
    assert found(tmp_path, open_sequence(tmp_path)) == wanted


@pytest.mark.parametrize(
    "names", [("depth/10.png", "depth/9.exr", "cover_rgb.png"), ("10_depth.png", "9_depth.npy", "cover.png")]
)
def test_without_pictures(tmp_path, names):
    make(tmp_path, *names)
    ten, nine, *_ = names
    wanted = [(Path(name).stem, name, None) for name in (nine, ten)]
    assert found(tmp_path, open_sequence(tmp_path, colour=False)) == wanted
    with pytest.raises(InputError, match="no colour pictures are found"):
        open_sequence(tmp_path)


def test_pictures_that_are_there_are_taken_by_all(tmp_path):
    make(tmp_path, "depth/9.png", "rgb/9.png", "depth/10.png")
    wanted = [("9", "depth/9.png", "rgb/9.png"), ("10", "depth/10.png", None)]
    assert found(tmp_path, open_sequence(tmp_path, colour=False)) == wanted == found(tmp_path, open_sequence(tmp_path))
    with pytest.raises(InputError, match="no depth maps are found"):
        open_sequence(make(tmp_path / "rgb alone", "rgb/9.png"), colour=False)


def test_a_list_of_depth_alone(tmp_path):
    make(tmp_path, "depth/2.png", "depth/1.png")
    (tmp_path / "depth.txt").write_text("1.0 depth/2.png\n2.0 depth/1.png\n")
    wanted = [("2", "depth/2.png", None), ("1", "depth/1.png", None)]  # as the list has them
    assert found(tmp_path, open_sequence(tmp_path, colour=False)) == wanted


def test_folders_of_other_names_and_places(tmp_path):
    make(tmp_path, "low/1.npy", "left/1.png", "depth/1.npy")
    wanted = [("1", "low/1.npy", "left/1.png")]
    assert found(tmp_path, open_sequence(tmp_path, "low", "left")) == wanted
    assert found(tmp_path, pair_folders(tmp_path / "low", tmp_path / "left")) == wanted
    with pytest.raises(InputError, match="there is no folder right in it"):
        open_sequence(tmp_path, "low", "right")


def test_tum_pairs_by_the_nearest_time_and_no_picture_twice(tmp_path):
    make(tmp_path, "depth/x.png")
    (tmp_path / "depth.txt").write_text(
        "# timestamp filename\n1.000 depth/1.png\n1.015 depth/2.png\n2.000 depth/4.png\n1.900 depth/3.png\n"
    )
    # The picture at 1.012 is within 0.02 s of two maps, and nearer to the second.
    (tmp_path / "rgb.txt").write_text("1.012 rgb/1.png\n1.921 rgb/3.png\n2.019 rgb/4.png\n5.0 rgb/5.png\n")
    assert found(tmp_path, open_sequence(tmp_path)) == [
        ("1", "depth/1.png", None),
        ("2", "depth/2.png", "rgb/1.png"),
        ("3", "depth/3.png", None),
        ("4", "depth/4.png", "rgb/4.png"),
    ]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("1.0 ../../x.png", "leads out"),
        ("1.0 /x.png", "leads out"),
        ("one x.png", "line 1"),
        ("1.0", "line 1"),
        ("1.0 a b", "line 1"),
        ("# x", "no file"),
    ],
)
def test_a_list_that_makes_no_sense(tmp_path, line, word):
    (tmp_path / "rgb.txt").write_text("1.0 rgb/1.png\n")
    (tmp_path / "depth.txt").write_text(f"{line}\n")
    with pytest.raises(InputError, match=f"^{tmp_path / 'depth.txt'}: .*{word}"):
        open_sequence(tmp_path)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ((), "no depth maps"),
        (("depth/a.png",), "no colour pictures"),
        (("rgb/a.png",), "no depth maps"),
        (("depth/a.png", "rgb/a.txt"), "no colour pictures"),
        (("depth/a.png", "depth/a.npy", "rgb/a.png"), "keep one of them"),
    ],
)
def test_what_is_no_sequence(tmp_path, names, line):
    make(tmp_path, *names)
    with pytest.raises(InputError, match=f"^{tmp_path}.*{line}"):
        open_sequence(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        open_sequence(tmp_path / "no")
