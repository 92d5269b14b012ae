"""More frames a second: as long as before, the given frames among them, those in between where things moved to."""

import sys

import imageio_ffmpeg
import numpy as np
import pytest
from moving_photos import Passes, moving, psnr

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.media.smooth import smoothed

RATES = [(8, 24), (8, 30), (8, 12.5), (24, 8), (8, 8), (8, 3), (30000 / 1001, 60), (1, 0.5)]


@pytest.mark.parametrize(("fps", "target"), RATES)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_clip_stays_as_long_as_it_was(fps, target, count):
    clip = moving(frames=7, width=64, height=48)[:count]
    made = list(smoothed(clip, fps, target))
    assert len(made) == max(1, round(count / fps * target))
    assert np.array_equal(made[0], clip[0])


@pytest.mark.parametrize(("fps", "target", "count"), [(24, 1, 100), (24, 1, 11), (120, 7, 90), (8, 120, 30)])
def test_rates_far_apart(fps, target, count):
    clip = np.repeat(moving(frames=10, width=32, height=32), 10, axis=0)[:count]
    made = list(smoothed(clip, fps, target))
    assert len(made) == max(1, round(count / fps * target))
    for number, frame in enumerate(made):
        assert psnr(frame, clip[min(int(number / target * fps), count - 1)]) > 20


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 16), (31, 33), (100, 8), (64, 47)])
def test_any_size(size):
    width, height = size
    clip = moving(frames=4, width=128, height=64)[:, :height, :width]
    made = list(smoothed(clip, 8, 16))
    assert [frame.shape for frame in made] == [(height, width, 3)] * 8
    assert all(np.array_equal(made[2 * number], frame) for number, frame in enumerate(clip))


@pytest.mark.parametrize("zoom", [False, True], ids=["slid", "zoomed"])
def test_things_are_where_they_moved_to(zoom):
    truth = moving(frames=21, zoom=zoom)
    given = truth[::2]
    made = list(smoothed(given, 8, 16))
    assert all(np.array_equal(made[2 * number], frame) for number, frame in enumerate(given))
    blended = (given[:-1].astype(float) + given[1:]) / 2
    assert psnr(made[1:20:2], truth[1:20:2]) > psnr(blended, truth[1::2]) + 3
    assert np.array_equal(made[-1], given[-1])


def test_it_streams_and_can_be_gone_through_again():
    frames = Passes(np.broadcast_to(moving(frames=2)[0], (400, 256, 256, 3)))
    made = smoothed(frames, 8, 24)
    passing = iter(made)
    for _ in range(30):
        next(passing)
    passing.close()
    assert frames.taken < 60  # 10 of them are shown; the rest is on its way
    short = smoothed(moving(frames=3, width=64, height=64), 8, 24)
    assert np.array_equal(list(short), list(short))


def test_what_goes_wrong_with_the_frames_is_said():
    class Broken:
        def __iter__(self):
            yield from moving(frames=5, width=64, height=64)
            raise KeyError("the sixth")

    with pytest.raises(KeyError, match="the sixth"):
        list(smoothed(Broken(), 8, 24))
    with pytest.raises(RequestError, match="at least one frame"):
        list(smoothed([], 8, 24))


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_an_ffmpeg_that_breaks_off_is_no_short_clip(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\n"{imageio_ffmpeg.get_ffmpeg_exe()}" "$@" | head -c 100000\necho no more >&2\nexit 9\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(ConsistI2VError, match="no more"):
        list(smoothed(moving(frames=30, width=64, height=64), 8, 24))


def test_no_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    with pytest.raises(ConsistI2VError, match="gone"):
        list(smoothed(moving(frames=3, width=64, height=64), 8, 24))


@pytest.mark.parametrize("rates", [(0, 8), (8, 0), (-1, 8), (8, float("nan"))])
def test_impossible_rates(rates):
    with pytest.raises(RequestError, match="above 0"):
        smoothed(moving(frames=2, width=32, height=32), *rates)
