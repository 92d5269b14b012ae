"""Comments are found in any container of the MP4 and Matroska families, whoever wrote it, however damaged it is."""

import random
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from consisti2v_cli.media.containers import read_comment
from consisti2v_cli.media.video import write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    """Run ffmpeg on a short test picture: encode("name.mkv", "-metadata", "comment=...") -> the file."""
    folder = tmp_path_factory.mktemp("containers")

    def encode(name, *options):
        source = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=8:d=1"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, "-pix_fmt", "yuv420p", *options]
        subprocess.run([*command, folder / name], check=True)
        return folder / name

    return encode


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", []),
        ("first.mp4", ["-movflags", "+faststart"]),
        ("pieces.mp4", ["-movflags", "frag_keyframe+empty_moov"]),
        ("keys.mp4", ["-movflags", "use_metadata_tags"]),
        ("plain.mov", []),
        ("keys.mov", ["-movflags", "use_metadata_tags"]),
        ("apple.m4v", []),
        ("plain.mkv", []),
        ("live.mkv", ["-live", "1"]),
        ("live.webm", ["-live", "1", "-c:v", "libvpx-vp9"]),
        ("last.mkv", ["-cues_to_front", "1"]),
    ],
)
def test_a_comment_of_another_program(encode, name, options):
    assert read_comment(encode(name, *options, "-metadata", "comment=船は left")) == "船は left"
    assert read_comment(encode(name, *options, "-metadata", "title=no comment")) is None


def test_a_track_has_comments_of_its_own(encode):
    assert read_comment(encode("track.mkv", "-metadata:s:v", "comment=the track's")) is None


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    """Nothing but headers: 8 GB of pictures in front of the tags cost nothing, and no program is started."""
    path = tmp_path / "large.mov"
    small = write_video(tmp_path / "small.mov", FRAMES, 8, comment="a recipe").read_bytes()
    index = small.index(b"moov") - 4
    with path.open("wb") as file:
        file.write(b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + b"\0\0\0\1mdat" + (2**33).to_bytes(8, "big"))
        file.seek(20 + 2**33)  # a hole, which takes no room
        file.write(small[index:])
    monkeypatch.setattr(subprocess, "Popen", None)
    assert read_comment(path) == "a recipe"


@pytest.mark.parametrize("format", ["mp4", "mov", "webm"])
def test_damage_is_no_comment(tmp_path, format):
    whole = write_video(tmp_path / f"clip.{format}", FRAMES, 8, comment="a recipe" * 20).read_bytes()
    damaged = tmp_path / "damaged"
    dice = random.Random(0)
    for _ in range(300):
        data = bytearray(whole[: dice.randrange(len(whole))] if dice.random() < 0.3 else whole)
        for _ in range(dice.randrange(1, 20)):
            if data:
                data[dice.randrange(len(data))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
        damaged.write_bytes(data)
        found = read_comment(damaged)
        assert found is None or isinstance(found, str)


def test_other_files_have_none(tmp_path):
    for content in (b"", b"abc", b"Dear Sir or Madam, moov", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08ftyp"):
        (tmp_path / "other").write_bytes(content)
        assert read_comment(tmp_path / "other") is None
