"""A file stays under its limit, as large and good as that allows, and says what it took."""

import re

import pytest
from moving_photos import Passes, moving
from PIL import Image

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.video import read_frames, write_video

BOUNDED = ("gif", "webp", "mp4")
A_PASS = {"gif": 2, "webp": 1, "mp4": 1}  # how often the frames are gone through for one encoding
NOTICE = re.compile(
    r"(?P<warning>Warning: )?clip\.(gif|webp|mp4): ((?P<colours>\d+) colours|quality (?P<quality>\d+))"
    r"( and (?P<width>\d+)x(?P<height>\d+) pixels of \d+x\d+)? to stay under (?P<limit>[\d.]+ (kB|MB))"
)


@pytest.fixture(scope="module")
def clip():
    """10 frames of 160x120."""
    return moving("coffee.jpg", frames=10, width=160, height=120)


@pytest.mark.parametrize("format", BOUNDED)
@pytest.mark.parametrize("share", [0.7, 0.3, 0.12])
def test_a_limit_is_kept_and_used(tmp_path, clip, format, share, encoded):
    free = len(encoded(clip, 8, format, comment="a recipe"))
    limit, notices, frames = int(free * share), [], Passes(clip)
    path = write_video(
        tmp_path / f"clip.{format}", frames, 8, comment="a recipe", max_bytes=limit, on_notice=notices.append
    )
    assert limit / 2 < path.stat().st_size <= limit
    assert len(list(read_frames(path))) == len(clip)
    assert read_recipe(path) == "a recipe"
    assert frames.passes <= 10 * A_PASS[format]
    (notice,) = notices
    said = NOTICE.fullmatch(notice)
    assert said
    height, width, _ = next(read_frames(path)).shape
    assert (width, height) == ((int(said["width"]), int(said["height"])) if said["width"] else (160, 120))
    assert width / height == pytest.approx(160 / 120, rel=0.04)
    assert bool(said["warning"]) is (width < 80)
    assert int(said["quality"] or 1) < 100
    if format == "mp4":
        assert width % 2 == height % 2 == 0


@pytest.mark.parametrize("format", BOUNDED)
def test_what_fits_is_encoded_once_and_says_nothing(tmp_path, clip, format, encoded):
    frames, notices = Passes(clip), []
    path = write_video(tmp_path / f"clip.{format}", frames, 8, max_bytes=10_000_000, on_notice=notices.append)
    assert frames.passes == A_PASS[format]
    assert notices == []
    assert path.read_bytes() == encoded(clip, 8, format)


@pytest.mark.parametrize("format", BOUNDED)
def test_a_limit_that_no_film_keeps(tmp_path, clip, format):
    with pytest.raises(ConsistI2VError, match=r"clip\.\w+ cannot be kept under 200 bytes: at .* takes \d+ ") as caught:
        write_video(tmp_path / f"clip.{format}", clip, 8, max_bytes=200)
    assert not isinstance(caught.value, RequestError)
    assert list(tmp_path.iterdir()) == []


def test_colours_are_those_of_the_gif(tmp_path, clip, encoded):
    free, notices = len(encoded(clip, 8, "gif")), []
    path = write_video(tmp_path / "clip.gif", clip, 8, max_bytes=int(free * 0.8), on_notice=notices.append)
    colours = int(NOTICE.fullmatch(notices[0])["colours"])
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors()) <= colours


def test_a_limit_gives_the_same_bytes_again(clip, encoded):
    free = len(encoded(clip, 8, "webp"))
    first, second = (encoded(clip, 8, "webp", max_bytes=free // 3) for _ in range(2))
    assert first == second
    assert len(first) <= free // 3


@pytest.mark.parametrize("format", ["webm", "mov", "png"])
def test_other_formats_have_no_limit(tmp_path, clip, format):
    with pytest.raises(RequestError, match="gif, webp, mp4"):
        write_video(tmp_path / "clip", clip, 8, format=format, max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_come_only_once(tmp_path, clip):
    with pytest.raises(ValueError, match="only once"):
        write_video(tmp_path / "clip.gif", iter(clip), 8)
    assert list(tmp_path.iterdir()) == []
