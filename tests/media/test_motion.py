"""The camera's motion is found in clips whose motion is known, and nothing is found where nothing can be."""

import itertools
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from consisti2v_cli.camera import DIRECTIONS, Motion, asked_motion, pan_path, zoom_path
from consisti2v_cli.media.crops import crop_windows
from consisti2v_cli.media.motion import camera_motion, describe_motion

FIXTURES = Path(__file__).parents[1] / "fixtures"
PHOTOS = {
    path.stem: np.asarray(Image.open(path).convert("RGB"))
    for path in [FIXTURES / "boat.jpg", FIXTURES / "coffee.jpg", *sorted((FIXTURES / "heldout").glob("*.jpg"))]
}
SQUARE = (128, 128)


def pan(photo, direction="left", amount=0.3, *, size=SQUARE, frames=16):
    """A clip, and the motion in it."""
    windows = pan_path(photo.shape[1::-1], size, direction, amount, "linear", frames)
    return crop_windows(photo, windows, *size), asked_motion(windows)


def zoom(photo, way="in", ratio=1.5, *, center=(0.5, 0.5), size=SQUARE, frames=16, ease="linear"):
    windows = zoom_path(photo.shape[1::-1], size, way, ratio, center, ease, frames)
    return crop_windows(photo, windows, *size), asked_motion(windows)


def spoilt(frames, *, noise=4.0, gain=0.9, drift=25.0):
    """With noise of its own in each frame, and brightness and contrast that change over the clip."""
    count = len(frames)
    levels = frames * np.linspace(1, gain, count)[:, None, None, None]
    levels += np.linspace(0, drift, count)[:, None, None, None]
    levels += np.random.default_rng(0).normal(0, noise, frames.shape)
    return levels.clip(0, 255).round().astype(np.uint8)


def off(frames, asked):
    """How far what is found is off: percentage points of the frame, and percent of the zoom factor."""
    found = camera_motion(frames)
    assert found.certain
    way = max(abs(found.right - asked.right), abs(found.down - asked.down))
    return way, 100 * abs(found.zoom / asked.zoom - 1)


def test_there_are_photos():
    assert len(PHOTOS) >= 18


@pytest.mark.parametrize("spoil", [lambda frames: frames, spoilt], ids=["clean", "spoilt"])
def test_pans_over_photos_are_found(spoil):
    cases = [(direction, amount) for amount in (0.1, 0.3, 0.6) for direction in DIRECTIONS]
    ways = []
    for index, photo in enumerate(PHOTOS.values()):
        frames, asked = pan(photo, *cases[index % len(cases)])
        way, factor = off(spoil(frames), asked)
        ways.append(way)
        assert factor < 1
    assert max(ways) < 1
    assert np.median(ways) < 0.2


@pytest.mark.parametrize("spoil", [lambda frames: frames, spoilt], ids=["clean", "spoilt"])
def test_zooms_over_photos_are_found(spoil):
    cases = [("in", 1.2), ("out", 2.0), ("in", 1.5), ("out", 1.2), ("in", 2.0), ("out", 1.5)]
    factors = []
    for index, photo in enumerate(PHOTOS.values()):
        frames, asked = zoom(photo, *cases[index % len(cases)])
        way, factor = off(spoil(frames), asked)
        factors.append(factor)
        assert way < 1
    assert max(factors) < 2
    assert np.median(factors) < 0.5


def test_still_clips_have_no_motion():
    for photo in list(PHOTOS.values())[::3]:
        frames, still = pan(photo, amount=0)
        assert off(frames, still) == pytest.approx((0, 0), abs=1e-3)
        assert off(spoilt(frames), still) == pytest.approx((0, 0), abs=0.2)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (256, 256), (320, 192), (200, 356), (640, 640), (512, 64)])
def test_frames_of_any_size(size):
    photo = PHOTOS["boat"]
    way, factor = off(*pan(photo, "up-right", size=size))
    assert max(way, factor) < 1
    way, factor = off(*zoom(photo, "in", 1.5, center=(0.7, 0.3), size=size))
    assert max(way, factor) < 1


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.25])  # of the frame in one step
def test_slow_and_fast_pans(share):
    frames, asked = pan(PHOTOS["coffee"], "right", 15 * share, size=(256, 256))
    way, factor = off(frames, asked)
    assert way < max(0.1, 0.01 * asked.right)
    assert factor < 0.5


@pytest.mark.parametrize(("ratio", "frames"), [(10, 16), (3, 6)])
def test_fast_zooms(ratio, frames):
    """Steps by up to a third, which each take the one before as a hint."""
    photo = PHOTOS["opencv-astra_color"]
    way, factor = off(*zoom(photo, "out", ratio, center=(0.4, 0.6), ease="in-out", frames=frames))
    assert max(way, factor) < 1


def test_two_frames_are_enough():
    way, factor = off(*pan(PHOTOS["boat"], "down", 0.1, frames=2))
    assert max(way, factor) < 0.2


def test_shifts_by_whole_pixels_are_found_without_any_resampling():
    photo = PHOTOS["boat"]
    frames = [photo[100 + 2 * index : 228 + 2 * index, 300 - 3 * index : 428 - 3 * index] for index in range(16)]
    found = camera_motion(frames)
    assert (found.right, found.down) == pytest.approx((-100 * 45 / 128, 100 * 30 / 128), abs=0.05)
    assert found.zoom == pytest.approx(1, abs=1e-3)


def test_a_clip_backwards_has_the_opposite_motion():
    for frames, _ in (pan(PHOTOS["boat"], "up-left"), zoom(PHOTOS["boat"], "in", 1.5, center=(0.8, 0.4))):
        there, back = camera_motion(frames), camera_motion(frames[::-1])
        assert (back.right, back.down) == pytest.approx((-there.right, -there.down), abs=0.2)
        assert back.zoom == pytest.approx(1 / there.zoom, rel=5e-3)


def test_there_and_back_is_no_motion():
    frames, _ = pan(PHOTOS["coffee"], "right", 0.3, frames=8)
    way, factor = off(np.concatenate([frames, frames[::-1]]), Motion(0, 0, 1))
    assert max(way, factor) < 0.1


def test_a_thing_that_moves_by_itself_does_not_count():
    frames, asked = pan(PHOTOS["opencv-fruits"], "left", size=(256, 256))
    thing = PHOTOS["opencv-baboon"][:90, :90]
    for index, frame in enumerate(frames):
        left = 10 + 9 * index
        frame[80:170, left : left + 90] = thing[:, : 256 - left]
    way, factor = off(frames, asked)
    assert max(way, factor) < 1


@pytest.mark.parametrize("name", ["boat", "coffee"])
def test_blocks_that_stand_still_do_not_hold_back_slow_motion(name):
    """Strong compression quantises blocks of 8 pixels, and decoders of latents have a grid of 8 as well."""
    for frames, asked in (pan(PHOTOS[name], "down", 0.1), zoom(PHOTOS[name], "in", 1.2)):
        way, factor = off([compressed(frame, quality=8) for frame in frames], asked)
        assert max(way, factor) < 1


def compressed(frame, quality):
    file = BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_blurred_frames():
    frames, asked = pan(PHOTOS["boat"], "left", size=(256, 256))
    blurred = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(8))) for frame in frames]
    way, factor = off(blurred, asked)
    assert max(way, factor) < 1


def test_little_texture_under_much_noise():
    frames, asked = pan(PHOTOS["opencv-apple"], "left", size=(256, 256))
    way, factor = off(spoilt(frames, noise=40), asked)
    assert max(way, factor) < 1


def test_dark_and_pale_clips():
    frames, asked = pan(PHOTOS["boat"], "left")
    for pale in (frames // 6, 255 - frames // 6):
        way, factor = off(pale, asked)
        assert max(way, factor) < 1


def random_frames(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def stripes():
    wave = (127 + 90 * np.sin(np.arange(400) / 3)).astype(np.uint8)
    return pan(np.tile(wave[None, :, None], (400, 1, 3)), "down")[0]


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((16, 64, 64, 3), np.uint8),
        np.full((16, 256, 256, 3), 130, np.uint8) + random_frames((16, 256, 256, 3)) // 128,
        np.tile(np.linspace(0, 255, 128).astype(np.uint8)[None, None, :, None], (16, 128, 1, 3)),
        random_frames((16, 128, 128, 3)),
        stripes(),
        random_frames((4, 8, 8, 3)),
        random_frames((4, 1, 300, 3)),
    ],
    ids=["black", "nearly flat", "gradient", "unrelated", "stripes", "tiny", "one row"],
)
def test_nothing_is_certain_where_frames_show_too_little(frames):
    assert camera_motion(frames) == Motion(0, 0, 1, certain=False)


def test_photos_that_have_nothing_in_common_do_not_hang_together():
    pictures = [pan(photo, amount=0, frames=2)[0][0] for photo in PHOTOS.values()]
    assert not any(camera_motion(pair).certain for pair in itertools.pairwise(pictures))


def test_frames_without_a_thread_are_not_certain():
    first, second = (pan(PHOTOS[name], "left", frames=8)[0] for name in ("boat", "coffee"))
    mixed = [frame for pair in zip(first, second, strict=True) for frame in pair]
    assert not camera_motion(mixed).certain


def test_a_gap_is_bridged():
    frames, asked = pan(PHOTOS["boat"], "left", frames=24)
    frames[9] = 0
    way, factor = off(frames, asked)
    assert max(way, factor) < 1


def test_frames_may_come_one_by_one():
    frames, _ = pan(PHOTOS["boat"], "left")
    assert camera_motion(frame for frame in frames) == camera_motion(frames)
    assert camera_motion(frames[:1]) == Motion(0, 0, 1)
    with pytest.raises(ValueError, match="no frames"):
        camera_motion([])


@pytest.mark.parametrize(
    ("asked", "found", "sentence"),
    [
        (
            Motion(-30, 0, 1),
            Motion(-27.2, 0.3, 1.004),
            "Camera: asked for 30 % of the width to the left, found 27 %; no zoom.",
        ),
        (
            Motion(30, -30, 1),
            Motion(28.1, -4.4, 1.051),
            "Camera: asked for 30 % of the width to the right and 30 % of the height up, found 28 % and 4.4 %; "
            "also a zoom in by 1.05.",
        ),
        (
            Motion(0, 30, 1),
            Motion(-3, -2, 1),
            "Camera: asked for 30 % of the height down, found 2 % of the height up; also 3 % of the width to the left.",
        ),
        (Motion(0, 0, 1.5), Motion(0.2, 0.1, 1.43), "Camera: asked for a zoom in by 1.50, found 1.43."),
        (Motion(0, 0, 1 / 1.5), Motion(0, 0, 0.7), "Camera: asked for a zoom out by 1.50, found 1.43."),
        (Motion(0, 0, 1.5), Motion(0, 0, 0.8), "Camera: asked for a zoom in by 1.50, found a zoom out by 1.25."),
        (
            Motion(12, 0, 1.5),
            Motion(0.04, 0, 1),
            "Camera: asked for a zoom in by 1.50 and 12 % of the width to the right, found 1.00 and 0 %.",
        ),
        (
            Motion(12, -8, 2),
            Motion(11, -7.6, 1.9),
            "Camera: asked for a zoom in by 2.00, 12 % of the width to the right and 8 % of the height up, "
            "found 1.90, 11 % and 7.6 %.",
        ),
        (Motion(0, 0, 1), Motion(0.2, 0, 1), "Camera: asked to stay still, found no motion."),
        (
            Motion(0, 0, 1),
            Motion(5, 0, 1),
            "Camera: asked to stay still, found 5 % of the width to the right.",
        ),
        (
            Motion(-30, 0, 1),
            Motion(0, 0, 1, certain=False),
            "Camera: asked for 30 % of the width to the left; what became of it cannot be told from the frames.",
        ),
    ],
)
def test_motion_in_words(asked, found, sentence):
    assert describe_motion(asked, found) == sentence
