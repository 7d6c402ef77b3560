"""calib.txt: its numbers come back, and whatever is wrong with it is one line that names the file."""

import pytest

from ahmf_jax.errors import InputError
from data_pipelines.calib import Calibration, read_calibration

TEXT = """cam0=[1000.5 0 320.25; 0 1000.5 240.75; 0 0 1]
cam1=[1000.5 0 355.5; 0 1000.5 240.75; 0 0 1]
doffs=35.25
baseline=150.125
width=640
height=480
ndisp=90
isint=0
vmin=10
vmax=80
dyavg=0.5
dymax=1.25
"""


def test_every_number_comes_back_with_its_meaning(tmp_path):
    path = tmp_path / "calib.txt"
    wanted = Calibration(
        focal=1000.5, baseline=150.125, doffs=35.25, width=640, height=480, ndisp=90, cx0=320.25, cx1=355.5, cy=240.75
    )
    for text in (TEXT, TEXT.replace("\n", "\r\n"), TEXT.replace("=", " = ") + "\n\n"):
        path.write_bytes(text.encode())
        assert read_calibration(path) == wanted
    path.write_text(TEXT.replace("doffs=35.25", "doffs=-1.5e1"))
    assert read_calibration(str(path)).doffs == -15


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("doffs=35.25\n", "", "it lacks doffs"),
        ("doffs=35.25\nbaseline=150.125\n", "", "it lacks doffs, baseline"),
        ("doffs=35.25", "doffs=nan", "doffs is no finite number"),
        ("doffs=35.25", "doffs=1e999", "doffs is no finite number"),
        ("doffs=35.25", "doffs=1_0", "doffs is no finite number"),
        ("doffs=35.25", "doffs=35.25\ndoffs=0", "doffs stands there twice"),
        ("baseline=150.125", "baseline=0", "baseline is 0.0, not positive"),
        ("baseline=150.125", "baseline=-3", "not positive"),
        ("width=640", "width=640.0", "width is no positive whole number"),
        ("height=480", "height=0", "height is no positive whole number"),
        ("ndisp=90", "ndisp=9999999", "ndisp is no positive whole number"),
        ("cam0=[1000.5 0", "cam0=[1000.5 1", "cam0 is not [f 0 cx; 0 f cy; 0 0 1]"),
        ("cam0=[1000.5", "cam0=[-1000.5", "two focal lengths"),
        ("cam0=[1000.5 0 320.25; 0 1000.5", "cam0=[0 0 320.25; 0 0", "cam0 is 0.0, not positive"),
        ("cam1=[1000.5 0 355.5; 0 1000.5", "cam1=[999 0 355.5; 0 999", "rectify the views"),
        ("isint=0", "isint 0", "line 8 is not 'name=value'"),
        ("isint=0", "is\u00ednt=0", "line 8 is not 'name=value'"),
        ("isint=0", "x" * 5000, "more than 4096 bytes"),
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path, old, new, word):
    path = tmp_path / "calib.txt"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new), encoding="latin-1")
    with pytest.raises(InputError) as caught:
        read_calibration(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and word in line


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"calib.txt: there is no such file"):
        read_calibration(tmp_path / "calib.txt")
