"""Folders and videos: the values of single images, whatever is wrong with a frame named, and the rest done."""

import threading

import numpy as np
import pytest

from ahmf_jax import upsample
from ahmf_jax.temporal import Temporal
from data_pipelines.files import read_depth, write_depth, write_picture
from experiments import sequence
from experiments import upsample as files_in_out

RNG = np.random.default_rng(3)
SMOOTH = 12 * np.add.outer(np.arange(6.0), np.arange(8.0)) + 20


@pytest.fixture
def video(tmp_path):
    """Four frames of 6 x 8 samples, frame 10 last, and a still picture."""
    folder = tmp_path / "video"
    for name in ("depth", "rgb"):
        (folder / name).mkdir(parents=True)
    guide = RNG.integers(0, 256, (24, 32, 3), np.uint8)
    for number in (8, 9, 10, 11):
        noise = RNG.integers(0, 2, SMOOTH.shape)
        write_depth(folder / "depth" / f"{number}.png", (SMOOTH + noise).astype(np.uint8))
        write_picture(folder / "rgb" / f"{number}.png", guide)
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_video_has_the_values_of_its_frames(ahmf, bundle, video, tmp_path):
    out = tmp_path / "out"
    ended = ahmf("upsample", bundle, "--sequence", video, "--out", out)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("4 of 4 frames in ") and ended.out.endswith("; 1 compiled program\n")
    assert files(out) == ["10.png", "11.png", "8.png", "9.png"]
    model = upsample.load(bundle)
    for number in (8, 9, 10, 11):
        inputs = read_depth(video / "depth" / f"{number}.png"), files_in_out.read_guide(video / f"rgb/{number}.png")
        np.testing.assert_array_equal(read_depth(out / f"{number}.png"), model(*inputs))


def test_frames_that_fail_are_named_and_the_rest_is_done(ahmf, bundle, video, tmp_path):
    (video / "rgb" / "8.png").unlink()
    (video / "rgb" / "9.png").write_bytes(b"damaged")
    write_depth(video / "depth" / "12.png", SMOOTH[:5].astype(np.uint8))
    write_picture(video / "rgb" / "12.png", np.zeros((20, 32, 3), np.uint8))
    ended = ahmf("upsample", bundle, "--sequence", video, "--out", tmp_path / "out")
    assert ended.code == 1
    lines = ended.err.splitlines()
    assert lines[0].startswith(f"ahmf: frame 8: {video / 'depth/8.png'}: has no colour picture")
    assert lines[1].startswith(f"ahmf: frame 9: {video / 'rgb/9.png'}: is no readable .png file")
    assert lines[2].startswith(f"ahmf: frame 12: {video / 'depth/12.png'}: is 8 x 5 pixels, and the first frame 8 x 6")
    assert lines[3:] == ["ahmf: 3 of 5 frames failed: 8, 9, 12"]
    assert files(tmp_path / "out") == ["10.png", "11.png"]
    # As folders of images, which may be of any size, the last is none.
    folders = "--depth", video / "depth", "--guide", video / "rgb", "--out", tmp_path / "out"
    assert ahmf("upsample", bundle, *folders).err.splitlines()[-1] == "ahmf: 2 of 5 frames failed: 8, 9"
    assert files(tmp_path / "out") == ["10.png", "11.png", "12.png"]


def test_everything_that_is_written(ahmf, bundle, video, tmp_path):
    mask = np.full((*SMOOTH.shape, 3), 255, np.uint8)
    mask[2, 3] = 0
    write_picture(tmp_path / "mask.png", mask)
    names = ("picture", "confidence", "spread", "ply")
    outputs = [part for name in names for part in (f"--{name}", tmp_path / name)]
    more = "--mask", tmp_path / "mask.png", "--intrinsics", "30,30,15.5,11.5"
    ended = ahmf("upsample", bundle, "--sequence", video, "--out", tmp_path / "out", *outputs, *more)
    assert ended.code == 0, ended.err
    for name, suffix in (*zip(names, (".png", ".png", ".tif", ".ply"), strict=True), ("out", ".png")):
        assert files(tmp_path / name) == [f"{number}{suffix}" for number in ("10", "11", "8", "9")]
    assert (read_depth(tmp_path / "out" / "8.png")[8:12, 12:16] == 0).all()
    # Masks of the frames' own, and one that is missing.
    (tmp_path / "masks").mkdir()
    for name in ("8_mask", "9", "10"):
        write_picture(tmp_path / "masks" / f"{name}.png", mask)
    ended = ahmf("upsample", bundle, "--sequence", video, "--out", tmp_path / "out", "--mask", tmp_path / "masks")
    assert ended.err.splitlines()[-1] == "ahmf: 1 of 4 frames failed: 11"


def test_temporal_blends_in_the_order_of_the_frames(ahmf, bundle, video, tmp_path):
    assert ahmf("upsample", bundle, "--sequence", video, "--out", tmp_path / "out", "--temporal").code == 0
    model, temporal = upsample.load(bundle), Temporal()
    for number in (8, 9, 10, 11):
        guide = files_in_out.read_guide(video / f"rgb/{number}.png")
        result = model.run(read_depth(video / f"depth/{number}.png"), guide)
        wanted = temporal.blend(result.depth, guide, result.mask)
        np.testing.assert_array_equal(read_depth(tmp_path / "out" / f"{number}.png"), wanted)


class Fake:
    """A model that repeats the depth, and calls `at` before each frame."""

    def __init__(self, at):
        self.at, self.engine, self.called = at, self, 0
        self.compilations = 1

    def run(self, depth, guide, **_options):
        self.called += 1
        self.at(self.called)
        high = depth.repeat(4, 0).repeat(4, 1)
        return upsample.Result(high, np.ones(depth.shape, bool), guide, slice(None), slice(None), 4.0)


def jobs(video, out):
    return sequence.plan(sequence_frames(video), sequence.Folders(out))


def sequence_frames(video):
    from data_pipelines.rgbd import open_sequence

    return open_sequence(video)


def test_interrupted_it_leaves_whole_files_alone(video, tmp_path):
    def interrupt(call):
        if call == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sequence.upsample_sequence(
            Fake(interrupt), jobs(video, tmp_path / "out"), files_in_out.Settings(), one_size=True
        )
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]
    assert files(tmp_path / "out") == ["8.png", "9.png"]
    for name in ("8", "9"):
        assert read_depth(tmp_path / "out" / f"{name}.png").shape == (24, 32)


def test_reading_runs_ahead_by_a_few_frames_and_no_more(video, tmp_path, monkeypatch, capsys):
    for number in range(12, 30):
        write_depth(video / "depth" / f"{number}.png", SMOOTH.astype(np.uint8))
        write_picture(video / "rgb" / f"{number}.png", np.zeros((24, 32, 3), np.uint8))
    started, ahead = [], []
    real = files_in_out.read
    monkeypatch.setattr(files_in_out, "read", lambda *args: started.append(1) or real(*args))

    def look(call):
        # The frame that is read next is started as soon as a thread is free.
        limit = call + sequence.AHEAD - 1
        for _ in range(200):
            if len(started) >= min(limit, 22):
                break
            threading.Event().wait(0.01)
        ahead.append(len(started) - call)

    assert not sequence.upsample_sequence(
        Fake(look), jobs(video, tmp_path / "out"), files_in_out.Settings(), one_size=True
    )
    assert max(ahead) == sequence.AHEAD - 1 and len(files(tmp_path / "out")) == 22


def test_results_that_wait_to_be_written_are_few(video, tmp_path, monkeypatch, capsys):
    for number in range(12, 30):
        write_depth(video / "depth" / f"{number}.png", SMOOTH.astype(np.uint8))
        write_picture(video / "rgb" / f"{number}.png", np.zeros((24, 32, 3), np.uint8))
    written, waiting = [], []

    def slow(*_):
        threading.Event().wait(0.02)
        written.append(1)

    monkeypatch.setattr(files_in_out, "write", slow)
    model = Fake(lambda call: waiting.append(call - 1 - len(written)))
    sequence.upsample_sequence(model, jobs(video, tmp_path / "out"), files_in_out.Settings(), one_size=True)
    assert max(waiting) <= sequence.AHEAD and len(written) == 22


def test_a_write_that_fails_is_a_frame_that_fails(video, tmp_path, capsys):
    todo = jobs(video, tmp_path / "out")
    (tmp_path / "out" / "9.png").mkdir()
    failed = sequence.upsample_sequence(Fake(lambda _: None), todo, files_in_out.Settings(), one_size=True)
    assert failed == ["9"] and "frame 9: " in capsys.readouterr().err
    assert files(tmp_path / "out") == ["10.png", "11.png", "8.png"]


def test_frames_for_which_memory_runs_out_are_named(video, tmp_path, capsys):
    def full(call):
        if call == 2:
            raise MemoryError("Unable to allocate 9 TiB")

    todo = jobs(video, tmp_path / "out")
    assert sequence.upsample_sequence(Fake(full), todo, files_in_out.Settings(), one_size=True) == ["9"]
    assert "rgb/9.png: memory ran out (Unable to allocate 9 TiB): free some" in capsys.readouterr().err


def test_what_is_refused_before_anything_is_written(refused, bundle, video, tmp_path):
    out = tmp_path / "out"
    options = "upsample", bundle, "--sequence", video
    refused(*options, "--out", video / "depth", said=r"depth/8.png: is named twice")
    refused(*options, "--out", out, "--confidence", out, said=r"8.png: is named twice")
    refused(*options, "--out", tmp_path / "no" / "out", said="there is no folder")
    refused(*options, "--out", video / "rgb" / "8.png", said="is a file")
    refused("upsample", bundle, "--sequence", tmp_path / "no", "--out", out, said="there is no such folder")
    refused(
        "upsample", bundle, "--depth", video / "depth", "--guide", video / "rgb/8.png", "--out", out, said="is a fo"
    )
    refused(*options, "--depth", video, "--out", out, said="--sequence is instead of")
    refused(*options, "--out", out, "--mask", tmp_path / "no", said="no: there is no such file or folder")
    refused("upsample", bundle, "--guide", video, "--out", out, said="--depth and --guide are needed")
    assert files(video) == [f"{half}/{number}.png" for half in ("depth", "rgb") for number in ("10", "11", "8", "9")]
    assert not out.exists() or files(out) == []
