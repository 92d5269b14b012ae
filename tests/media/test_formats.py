"""Each format is what it promises to be, to other programs too."""

import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from moving_photos import moving, psnr
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.video import STREAMABLE, WRITERS, probe, read_frames, read_video, write_video

PHOTOS = ("boat.jpg", "coffee.jpg", "heldout/opencv-fruits.jpg")
LOSSY = ("mp4", "gif", "webm", "webp")


@pytest.fixture(scope="module")
def clip():
    """12 frames of 96x64."""
    return moving(frames=12, width=96, height=64, zoom=True)


def content(path):
    """The bytes of a file, or of all files of a folder."""
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else path.read_bytes()


def shown_by_pillow(path):
    with Image.open(path) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


@pytest.mark.parametrize("zoom", [False, True], ids=["slid", "zoomed"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_a_gif_is_smaller_than_pillows_and_closer_to_the_frames(tmp_path, photo, zoom):
    frames = moving(photo, zoom=zoom)
    pictures = [Image.fromarray(frame) for frame in frames]
    pillows = tmp_path / "pillow.gif"
    pictures[0].save(pillows, save_all=True, append_images=pictures[1:], duration=125, loop=0)
    ours = write_video(tmp_path / "ours.gif", frames, 8)
    assert ours.stat().st_size < pillows.stat().st_size
    assert psnr(shown_by_pillow(ours), frames) > psnr(shown_by_pillow(pillows), frames) + 0.5


def test_a_gif_of_few_colours_is_exact(tmp_path):
    frames = np.zeros((3, 20, 30, 3), np.uint8)
    frames[1, 5:9] = (250, 10, 20)
    frames[2, :, 4:8] = (1, 2, 3)
    path = write_video(tmp_path / "clip.gif", frames, 8)
    assert np.array_equal(shown_by_pillow(path), frames)


def test_an_animated_webp(tmp_path, clip):
    path = write_video(tmp_path / "clip.webp", clip, 24, comment="a recipe")
    with Image.open(path) as image:
        assert (image.format, image.n_frames, image.info["loop"]) == ("WEBP", 12, 0)
    assert psnr(shown_by_pillow(path), clip) > 34
    assert probe(path).fps == pytest.approx(24, rel=0.02)  # it counts in milliseconds


def test_a_webp_takes_little_where_nothing_moves(tmp_path, clip):
    still = np.repeat(clip[:1], 12, axis=0)
    moves, stands = (write_video(tmp_path / f"{i}.webp", frames, 8) for i, frames in enumerate((clip, still)))
    assert stands.stat().st_size < moves.stat().st_size / 4


def test_png_frames(tmp_path, clip):
    path = write_video(tmp_path / "boat", clip, 12.5, format="png", comment="a recipe")
    assert path == tmp_path / "boat"
    assert sorted(file.name for file in path.iterdir()) == [f"{number:04d}.png" for number in range(1, 13)]
    assert np.array_equal(read_video(path)[0], clip)
    assert probe(path).fps == 12.5
    with Image.open(path / "0007.png") as image:
        assert image.text["Comment"] == "a recipe"


def test_png_frames_by_the_suffix(tmp_path, clip):
    assert write_video(tmp_path / "boat.png", clip[:2], 8) == tmp_path / "boat"


@pytest.mark.parametrize(("format", "codec"), [("mp4", "h264"), ("webm", "vp9"), ("mov", "prores")])
def test_what_ffmpeg_says(tmp_path, clip, format, codec):
    path = write_video(tmp_path / f"clip.{format}", clip, 12)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", path]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    (stream,) = (line for line in shown.splitlines() if "Stream #0:0" in line)
    assert f"Video: {codec}" in stream
    assert {"mov": "yuv422p10le"}.get(format, "yuv420p") in stream
    assert "bt709" in stream
    assert "12 fps" in stream


@pytest.mark.parametrize(("quality", "name"), [(30, "apco"), (60, "apcs"), (85, "apcn"), (95, "apch")])
def test_quality_chooses_the_kind_of_prores(clip, quality, name, encoded):
    assert name.encode() in encoded(clip, 8, "mov", quality=quality)


@pytest.mark.parametrize("format", LOSSY)
def test_quality_is_size_and_likeness(tmp_path, clip, format):
    sizes, likeness = [], []
    for quality in (1, 40, 85, 100):
        path = write_video(tmp_path / f"{quality}.{format}", clip, 8, quality=quality)
        sizes.append(path.stat().st_size)
        likeness.append(psnr(read_video(path)[0], clip))
    ups = 3 if format == "gif" else 4  # 85 and above have all colours there are
    assert sizes[:ups] == sorted(set(sizes))
    assert likeness[:ups] == sorted(set(likeness))
    assert likeness[2] > 32


@pytest.mark.parametrize("format", WRITERS)
def test_same_frames_and_options_same_bytes(tmp_path, clip, format):
    options = {"format": format, "comment": "a recipe", "quality": 70}
    first, second = (write_video(tmp_path / name, clip, 8, **options) for name in ("one", "two"))
    assert content(first) == content(second)
    assert content(write_video(tmp_path / "three", clip[:, ::-1], 8, **options)) != content(first)


@pytest.mark.parametrize("format", STREAMABLE)
def test_a_stream_is_the_file(tmp_path, clip, format, encoded):
    path = write_video(tmp_path / f"clip.{format}", clip, 8, comment="a recipe", quality=60)
    assert encoded(clip, 8, format, comment="a recipe", quality=60) == path.read_bytes()


def test_frames_in_a_folder_are_no_stream(clip, encoded):
    with pytest.raises(RequestError, match=re.escape("mp4, gif, webm, webp, mov")):
        encoded(clip, 8, "png")


@pytest.mark.parametrize("format", [name for name in WRITERS if name != "mp4"])
def test_odd_sides(tmp_path, clip, format):
    odd = np.ascontiguousarray(clip[:3, :47, :63])
    frames = list(read_frames(write_video(tmp_path / "clip", odd, 8, format=format)))
    assert [frame.shape for frame in frames] == [(47, 63, 3)] * 3
    assert psnr(frames, odd) > 30


@pytest.mark.parametrize("format", WRITERS)
def test_a_single_frame(tmp_path, clip, format):
    path = write_video(tmp_path / "clip", clip[:1], 8, format=format, comment="a recipe")
    assert psnr(list(read_frames(path)), clip[:1]) > 30


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_quality_has_bounds(tmp_path, clip, quality):
    with pytest.raises(RequestError, match="1 to 100"):
        write_video(tmp_path / "clip.mp4", clip, 8, quality=quality)
