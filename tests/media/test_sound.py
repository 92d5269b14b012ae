"""The sound of a source stays under its part of a longer video."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.media.probe import probe_stream
from consisti2v_cli.media.sound import soundtrack_of
from consisti2v_cli.media.video import read_video, stream_video, write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (16, 48, 64, 3), np.uint8)
RATE = 8000  # of the sound that is looked at


def ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def source(path, *options, sound="sine=f=440:d=2:r=44100", filters="anull"):
    """A video of 2 s with sound."""
    pictures = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=8:d=2", "-f", "lavfi", "-i", sound]
    ffmpeg(*pictures, "-af", filters, "-pix_fmt", "yuv420p", *options, path)
    return path


def heard(path, track=0):
    """A file's sound, as samples from -1 to 1, one channel."""
    data = ffmpeg("-i", path, "-map", f"0:a:{track}", "-ac", "1", "-ar", RATE, "-f", "f32le", "-")
    return np.frombuffer(data, np.float32)


def pitch(samples):
    """The strongest frequency, in Hz."""
    return np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))) * RATE / len(samples)


WAYS = [  # of the source's sound, and what becomes of it
    ("a.mp4", ["-c:a", "aac"], {"mp4": "aac", "mov": "aac", "webm": "opus"}),
    ("b.webm", ["-c:v", "libvpx-vp9", "-c:a", "libopus", "-ar", "48000"], {"mp4": "aac", "webm": "opus"}),
    ("c.mov", ["-c:a", "pcm_s16le"], {"mp4": "aac", "mov": "pcm_s16le"}),
    ("d.mkv", ["-c:a", "flac", "-ac", "6"], {"mp4": "aac", "webm": "opus"}),
]


@pytest.mark.parametrize(("name", "options", "formats"), WAYS)
def test_sound_is_kept_as_long_as_its_part(tmp_path, name, options, formats):
    path = source(tmp_path / name, *options)
    for format, codec in formats.items():
        sound = soundtrack_of(path, 0.0, 1.0)
        made = write_video(tmp_path / f"made.{format}", FRAMES, 8, sound=sound, comment="a recipe")
        assert probe_stream(made).sound.codec == codec
        samples = heard(made)
        assert abs(len(samples) / RATE - 1.0) < 0.1
        assert abs(pitch(samples) - 440) < 5
        assert len(read_video(made)[0]) == 16


def test_sound_is_in_time(tmp_path):
    """A click after 0.75 s of the source; the source's pictures begin 0.25 s after its sound."""
    click = "aevalsrc='0.9*between(t,0.75,0.76)':d=2:s=44100"
    path = source(tmp_path / "a.mov", "-c:a", "pcm_s16le", sound=click)
    for begin in (0.0, 0.25):
        made = write_video(tmp_path / f"{begin}.mov", FRAMES, 8, sound=soundtrack_of(path, begin, 1.5))
        assert abs(np.argmax(np.abs(heard(made))) / RATE - (0.75 - begin)) < 0.03


def test_the_default_track_is_taken(tmp_path):
    tracks = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=8:d=1"]
    for pitched in (330, 660):
        tracks += ["-f", "lavfi", "-i", f"sine=f={pitched}:d=1:r=44100"]
    flags = ["-disposition:a:0", "0", "-disposition:a:1", "default"]
    ffmpeg(*tracks, "-map", "0", "-map", "1", "-map", "2", *flags, "-pix_fmt", "yuv420p", tmp_path / "a.mkv")
    made = write_video(tmp_path / "made.mp4", FRAMES, 8, sound=soundtrack_of(tmp_path / "a.mkv", 0.0, 1.0))
    assert abs(pitch(heard(made)) - 660) < 5


def test_the_same_bytes_each_time(tmp_path):
    path = source(tmp_path / "a.mkv", "-c:a", "flac")
    sound = soundtrack_of(path, 0.0, 1.0)
    made = [write_video(tmp_path / f"{n}.mp4", FRAMES, 8, sound=sound).read_bytes() for n in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("format", ["gif", "webp", "png"])
def test_formats_without_sound_say_so(tmp_path, format):
    path, notices = source(tmp_path / "a.mp4"), []
    sound = soundtrack_of(path, 0.0, 1.0)
    made = write_video(tmp_path / "made", FRAMES[:2], 8, format=format, sound=sound, on_notice=notices.append)
    assert notices == [f"made is without sound, which {format} cannot hold."]
    assert len(read_video(made)[0]) == 2


def test_a_bound_holds_with_sound(tmp_path):
    sound = soundtrack_of(source(tmp_path / "a.mp4"), 0.0, 2.0)
    made = write_video(tmp_path / "made.mp4", FRAMES, 8, sound=sound, max_bytes=60_000, on_notice=print)
    assert made.stat().st_size <= 60_000
    assert probe_stream(made).sound.codec == "aac"


def test_no_sound(tmp_path):
    silent = write_video(tmp_path / "silent.mp4", FRAMES, 8)
    assert soundtrack_of(silent, 0.0, 1.0) is None
    assert soundtrack_of(tmp_path, 0.0, 1.0) is None


def test_no_room_for_what_is_streamed(tmp_path, monkeypatch):
    """ffmpeg ends with the system's number for a full disk, and where its words go is full too."""
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\ncat > /dev/null\nexit 228\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConsistI2VError, match=rf"put together in {tmp_path}: No space left on device; TMPDIR names"):
        stream_video((tmp_path / "out").open("wb"), FRAMES, 8, "mp4")
