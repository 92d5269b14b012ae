"""Films that are written can be read again: how many frames, how large, how fast, and what they show."""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from moving_photos import psnr
from PIL import Image

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.media.video import (
    WRITERS,
    check_format,
    probe,
    read_frames,
    read_video,
    write_video,
)

BOAT = Path(__file__).parents[1] / "fixtures" / "boat.jpg"


@pytest.fixture(scope="module")
def frames():
    """A photo that moves to the left, 6 frames of 64x48."""
    with Image.open(BOAT) as boat:
        picture = np.asarray(boat.convert("RGB").resize((64, 48)))
    return np.stack([np.roll(picture, -k, axis=1) for k in range(6)])


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("fps", [8, 12.5, 25])
def test_what_was_written_is_read_again(tmp_path, frames, format, fps):
    path = write_video(tmp_path / f"clip.{format}", frames, fps)
    again, rate = read_video(path)
    assert again.shape == frames.shape
    assert rate == pytest.approx(fps, rel=0.05 if format == "gif" else 1e-6)  # GIF counts in hundredths of a second
    assert psnr(again, frames) > 32
    assert np.abs((again.astype(float) - frames).mean(axis=(0, 1, 2))).max() < 1.5  # colours do not drift
    info = probe(path)
    assert (info.width, info.height) == (64, 48)


def test_an_mp4_that_every_player_shows(tmp_path, frames):
    content = write_video(tmp_path / "clip.mp4", frames, 8).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # index in front: plays while it loads
    assert b"avc1" in content
    colr = content.index(b"colr")
    assert content[colr + 4 : colr + 14] == b"nclx" + bytes([0, 1, 0, 1, 0, 1])  # BT.709, three times


def test_a_gif_shows_all_frames_for_ever(tmp_path, frames):
    path = write_video(tmp_path / "clip.gif", frames, 10)
    with Image.open(path) as image:
        assert image.n_frames == len(frames)
        assert image.info["loop"] == 0
        assert image.info["duration"] == 100
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[0]).mean() < 6


def test_frames_one_by_one(tmp_path, frames):
    path = write_video(tmp_path / "clip.mp4", iter(frames), 8)
    stream = read_frames(path)
    assert next(stream).shape == (48, 64, 3)
    stream.close()  # ends the decoder
    assert len(list(read_frames(path))) == 6


def test_one_frame_is_a_film_too(tmp_path, frames):
    again, _ = read_video(write_video(tmp_path / "still.mp4", frames[:1], 8))
    assert len(again) == 1


def test_nothing_is_overwritten_unasked(tmp_path, frames):
    path = tmp_path / "clip.mp4"
    path.write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        write_video(path, frames, 8)
    assert path.read_text() == "mine"
    write_video(path, frames, 8, overwrite=True)
    assert len(list(read_frames(path))) == 6


def test_nothing_half_written_is_left(tmp_path, frames):
    def broken():
        yield frames[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", broken(), 8)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "clip.mp4", [frames[0], frames[0][:10]], 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_permissions_are_those_of_any_new_file(tmp_path, frames):
    (tmp_path / "other").touch()
    path = write_video(tmp_path / "clip.gif", frames, 8, comment="x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_the_encoders_own_words(tmp_path):
    wide = np.zeros((1, 2, 70_000, 3), np.uint8)
    with pytest.raises(ConsistI2VError, match=r"could not be encoded: .+"):
        write_video(tmp_path / "clip.gif", wide, 8)
    assert list(tmp_path.iterdir()) == []


def test_impossible_films(tmp_path, frames):
    with pytest.raises(RequestError, match="mp4, gif"):
        write_video(tmp_path / "clip.mpeg", frames, 8)
    with pytest.raises(RequestError, match="even"):
        check_format("mp4", 63, 48, 8)
    with pytest.raises(RequestError, match="at most 50"):
        check_format("gif", 64, 48, 60)
    with pytest.raises(RequestError, match="at least one frame"):
        write_video(tmp_path / "clip.mp4", [], 8)
    check_format("gif", 63, 47, 50)


def test_what_is_no_film(tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    for read in (probe, read_video):
        with pytest.raises(RequestError, match=r"letter\.mp4"):
            read(tmp_path / "letter.mp4")
        with pytest.raises(RequestError, match=r"absent\.mp4"):
            read(tmp_path / "absent.mp4")
