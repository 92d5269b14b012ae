"""A recipe comes out of a file as it went in."""

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import WRITERS, read_frames, read_video, write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)

COMMENTS = {
    "plain": '{"prompt": "the boat drifts left"}',
    "marks": r"""{"p": "a=b; c#d \\ 'q' \"r\" [x] \n %s $HOME"}""",
    "lines": "one\ntwo\n\n[three]\n;four\n#five\n\\six\\",
    "tongues": "Böötchen, 船は左へ, قارب, 🚤",
    "backslashes": "a\\\nb\\\\\nc=\\=\\;\\#\\\\",
    "edges": "\n  begins and ends with spaces and lines \n\n",
    "markup": "<p>&amp;\x01 \t\x7f</p>",
    "bracket": "[begins like a section]",
    "long": json.dumps({"prompt": "left " * 5000}),
    "longer than an argument": json.dumps({"prompt": "é; " * 60_000}, ensure_ascii=False),
    "block": "x" * 255,
    "two blocks": "y" * 510,
}


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("name", COMMENTS)
def test_a_comment_survives(tmp_path, format, name):
    path = write_video(tmp_path / f"clip.{format}", FRAMES, 8, comment=COMMENTS[name])
    assert read_recipe(path) == COMMENTS[name]
    assert len(read_video(path)[0]) == 3


@pytest.mark.parametrize("format", WRITERS)
def test_no_comment(tmp_path, format):
    assert read_recipe(write_video(tmp_path / f"clip.{format}", FRAMES, 8)) is None


@pytest.mark.parametrize("name", ["plain", "marks", "lines", "tongues", "long"])
@pytest.mark.parametrize("format", ["mp4", "mov", "webm"])
def test_a_comment_survives_a_copy_by_ffmpeg(tmp_path, format, name):
    path = write_video(tmp_path / f"clip.{format}", FRAMES, 8, comment=COMMENTS[name])
    copied = tmp_path / f"copied.{format}"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-c", "copy", copied], check=True)
    assert read_recipe(copied) == COMMENTS[name]


def test_every_frame_of_a_folder_carries_the_recipe(tmp_path):
    path = write_video(tmp_path / "clip", FRAMES, 8, format="png", comment=COMMENTS["tongues"])
    assert [read_recipe(frame) for frame in path.iterdir()] == [COMMENTS["tongues"]] * 3


@pytest.mark.parametrize("format", WRITERS)
def test_a_comment_of_a_single_frame(tmp_path, format):
    path = write_video(tmp_path / "clip", FRAMES[:1], 8, format=format, comment=COMMENTS["tongues"])
    assert read_recipe(path) == COMMENTS["tongues"]
    assert len(list(read_frames(path))) == 1


@pytest.mark.parametrize("format", WRITERS)
def test_text_that_is_no_unicode_does_no_harm(tmp_path, format):
    path = write_video(tmp_path / "clip", FRAMES, 8, format=format, comment="a\udce4b")
    assert read_recipe(path) == "a?b"


def test_a_photo_has_no_recipe(tmp_path):
    for suffix in ("png", "webp", "jpg", "gif"):
        Image.fromarray(FRAMES[0]).save(tmp_path / f"photo.{suffix}")
        assert read_recipe(tmp_path / f"photo.{suffix}") is None


def test_a_gif_of_another_tool(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "other.gif", comment=b"made elsewhere")
    assert read_recipe(tmp_path / "other.gif") == "made elsewhere"


def test_what_is_no_film(tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    (tmp_path / "cut.gif").write_bytes(b"GIF89a\x01")
    (tmp_path / "cut.webp").write_bytes(b"RIFF\x20\0\0\0WEBPVP8X")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    Image.fromarray(FRAMES[0]).save(tmp_path / "exif.webp", exif=b"II*\0\x08\0")
    (tmp_path / "folder").mkdir()
    for name in ("letter.mp4", "cut.gif", "cut.webp", "cut.png", "exif.webp", "absent.mp4", "folder"):
        with pytest.raises(RequestError, match=name):
            read_recipe(tmp_path / name)
