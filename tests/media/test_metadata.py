"""A recipe comes out of a file as it went in."""

import json

import numpy as np
import pytest
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import WRITERS, read_video, write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)

COMMENTS = {
    "plain": '{"prompt": "the boat drifts left"}',
    "marks": r"""{"p": "a=b; c#d \\ 'q' \"r\" [x] \n %s $HOME"}""",
    "lines": "one\ntwo\n\n[three]\n;four\n#five\n\\six\\",
    "tongues": "Böötchen, 船は左へ, قارب, 🚤",
    "bracket": "[begins like a section]",
    "long": json.dumps({"prompt": "left " * 5000}),
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


def test_a_gif_of_another_tool(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "other.gif", comment=b"made elsewhere")
    assert read_recipe(tmp_path / "other.gif") == "made elsewhere"


def test_what_is_no_film(tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    (tmp_path / "cut.gif").write_bytes(b"GIF89a\x01")
    for name in ("letter.mp4", "cut.gif", "absent.mp4"):
        with pytest.raises(RequestError, match=name):
            read_recipe(tmp_path / name)
