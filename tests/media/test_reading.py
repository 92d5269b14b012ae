"""Films and pictures are told apart by what is in them, and their last frame found without holding the rest."""

import os
import shutil
import socket
import tracemalloc

import numpy as np
import pytest
from moving_photos import FIXTURES, moving, psnr
from PIL import Image

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.video import WRITERS, kind_of, probe, read_frames, read_last_frame, read_video, write_video


@pytest.fixture(scope="module")
def clip():
    """9 frames of 64x48."""
    return moving(frames=9, width=64, height=48)


def save(path, frames, **options):
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, **({"save_all": True, "append_images": rest, "duration": 125} if rest else {}), **options)
    return path


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_written_here_is_a_film(tmp_path, clip, format):
    assert kind_of(write_video(tmp_path / "clip", clip, 8, format=format)) == "film"


def test_the_name_says_nothing(tmp_path, clip):
    write_video(tmp_path / "photo.jpg", clip, 8, format="mp4")
    write_video(tmp_path / "photo.webp", clip, 8, format="gif")
    save(tmp_path / "still.gif", clip[:1])
    shutil.copy(FIXTURES / "boat.jpg", tmp_path / "film.mp4")
    kinds = {name: kind_of(tmp_path / name) for name in ("photo.jpg", "photo.webp", "still.gif", "film.mp4")}
    assert kinds == {"photo.jpg": "film", "photo.webp": "film", "still.gif": "image", "film.mp4": "image"}


def test_what_moves_is_a_film_and_what_has_pages_is_not(tmp_path, clip):
    for name in ("a.png", "a.webp", "a.gif"):
        assert kind_of(save(tmp_path / name, clip)) == "film"
        assert kind_of(save(tmp_path / f"still-{name}", clip[:1])) == "image"
    assert kind_of(save(tmp_path / "pages.tiff", clip)) == "image"
    assert kind_of(save(tmp_path / "phone.jpg", clip[:2], format="MPO")) == "image"


def test_a_film_of_one_frame_is_a_film(tmp_path, clip):
    assert kind_of(write_video(tmp_path / "clip.mp4", clip[:1], 8)) == "film"


def test_neither(tmp_path):
    (tmp_path / "page.png").write_text("<!DOCTYPE html><title>Not found</title>")
    (tmp_path / "notes.txt").write_text("Dear \x1b[1mSir\x1b[0m\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(3).bytes(5000))
    (tmp_path / "folder").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # never opened: nobody writes into it
    for name in ("page.png", "notes.txt", "empty.mp4", "noise.mp4", "folder", "pipe", "absent.mp4"):
        with pytest.raises(RequestError, match=name):
            kind_of(tmp_path / name)


@pytest.mark.parametrize("format", ["EPS", "PPM", "PCX"])
def test_frames_of_formats_that_are_not_for_photos(tmp_path, clip, format):
    """One of Pillow's runs a program."""
    frame = tmp_path / "frames" / "0001.png"
    frame.parent.mkdir()
    Image.fromarray(clip[0]).save(frame, format=format)
    for read, path in (
        (kind_of, frame),
        (read_video, frame.parent),
        (read_last_frame, frame.parent),
        (probe, frame.parent),
    ):
        with pytest.raises(RequestError, match=r"0001\.png"):
            read(path)


def test_a_list_of_addresses_is_not_followed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/0.ts"
        (tmp_path / "film.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
        for read in (kind_of, read_video, read_last_frame):
            with pytest.raises(RequestError, match=r"film\.mp4"):
                read(tmp_path / "film.mp4")
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("format", WRITERS)
def test_the_last_frame(tmp_path, clip, format):
    path = write_video(tmp_path / "clip", clip, 8, format=format)
    assert np.array_equal(read_last_frame(path), list(read_frames(path))[-1])
    assert psnr(read_last_frame(path), clip[-1]) > 30


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp"])
def test_the_last_frame_of_another_tools_picture(tmp_path, clip, name):
    path = save(tmp_path / name, clip)
    assert len(list(read_frames(path))) == len(clip)
    assert psnr(read_last_frame(path), clip[-1]) > 30
    assert probe(path).fps == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("format", ["mp4", "gif", "webp"])
def test_the_last_frame_of_a_long_film_takes_little_memory(tmp_path, format):
    still = moving(frames=2, width=320, height=240)[0]
    frames = [np.roll(still, -number, axis=1) for number in range(160)]
    path = write_video(tmp_path / "clip", frames, 8, format=format)
    tracemalloc.start()
    last = read_last_frame(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert psnr(last, frames[-1]) > 28
    assert peak < 12 * still.nbytes  # all of them are 160


def test_no_last_frame(tmp_path):
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam")
    (tmp_path / "cut.webp").write_bytes(b"RIFF\x20\0\0\0WEBPVP8X")
    for name in ("letter.mp4", "cut.webp", "absent.mp4"):
        with pytest.raises(RequestError, match=name):
            read_last_frame(tmp_path / name)
