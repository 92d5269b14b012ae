"""Windows become frames: exactly where they copy, smoothly where they slide, without moire where they shrink."""

import numpy as np
import pytest

from consisti2v_cli.camera import DIRECTIONS, ZOOMS, Window, pan_path, zoom_path
from consisti2v_cli.media.crops import crop_windows


def waves(width, height, period):
    """A sine along the width: `height width 3`."""
    wave = 127.5 + 100 * np.sin(2 * np.pi * np.arange(width) / period)
    return np.tile(wave.round().astype(np.uint8)[None, :, None], (height, 1, 3))


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_windows_of_whole_pixels_are_copies():
    pixels = noise(60, 40)
    frames = crop_windows(pixels, [Window(0, 0, 32, 24), Window(13, 9, 32, 24), Window(28, 16, 32, 24)], 32, 24)
    assert frames.shape == (3, 24, 32, 3)
    assert frames.dtype == np.uint8
    assert (frames[0] == pixels[:24, :32]).all()
    assert (frames[1] == pixels[9:33, 13:45]).all()
    assert (frames[2] == pixels[16:, 28:]).all()


@pytest.mark.parametrize(("step", "scale"), [(0.1, 1), (0.05, 1), (0.37, 1), (0.1, 1.25), (0.1, 2), (0.1, 0.8)])
def test_a_slow_pan_slides_by_parts_of_pixels(step, scale):
    """Measured as the phase of a wave; `scale`: picture pixels to a pixel of the frame."""
    period, width = 20, 200
    windows = [Window(50 + step * index, 4, width * scale, 30 * scale) for index in range(20)]
    frames = crop_windows(waves(500, 80, period), windows, width, 30)
    rows = frames[:, 15, :, 0].astype(float)
    cycles = width * scale / period
    turned = np.exp(-2j * np.pi * cycles * (np.arange(width) + 0.5) / width) * np.hanning(width)
    phase = np.unwrap(np.angle((rows - 127.5) @ turned))
    way = (phase - phase[0]) * period / (2 * np.pi)  # picture pixels
    assert np.abs(way - step * np.arange(20)).max() < 0.05


@pytest.mark.parametrize("scale", [2.7, 4, 4.7])
def test_fine_patterns_turn_grey_and_not_into_moire(scale):
    board = np.tile((np.indices((480, 480)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3)
    windows = [Window(10.3 + 0.3 * index, 10.7, 64 * scale, 64 * scale) for index in range(4)]
    frames = crop_windows(board, windows, 64, 64)
    assert abs(frames.astype(int) - 127).max() <= 2


def test_columns_finer_than_the_frame_turn_grey():
    frames = crop_windows(waves(600, 600, 2.3), [Window(20.5, 20.5, 500, 500)], 150, 150)
    assert abs(frames.astype(int) - 127).max() <= 3


def test_enlarged_pictures_stay_smooth():
    frame = crop_windows(waves(100, 20, 25), [Window(40, 5, 10, 10)], 200, 200)[0].astype(int)
    assert np.abs(np.diff(frame[100, :, 0])).max() <= 3  # a nearest pixel would jump by 25


def test_pixels_beside_the_window_take_part_in_its_borders():
    pixels = noise(100, 100)
    whole = crop_windows(pixels, [Window(10, 10, 80, 80)], 160, 160)[0]
    part = crop_windows(pixels, [Window(30, 30, 40, 40)], 80, 80)[0]
    assert (part == whole[40:120, 40:120]).all()


def test_far_places_are_as_exact_as_near_ones():
    """In single precision, pixel 19000 and windows of a hundredth of a pixel would not go together."""
    pixels = np.zeros((1, 20000, 3), np.uint8)
    pixels[:, 1::2] = 200
    near, far = (crop_windows(pixels, [Window(at, 0.4, 0.01, 0.01)], 64, 64)[0] for at in (1000.745, 19000.745))
    assert (near == far).all()


@pytest.mark.parametrize("picture", [(1, 20000), (20000, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("frame", [(64, 64), (512, 16), (16, 512)])
def test_extreme_pictures_work(picture, frame):
    pixels = np.full((picture[1], picture[0], 3), 77, np.uint8)
    paths = [pan_path(picture, frame, direction, 5, "linear", 3) for direction in DIRECTIONS]
    paths += [zoom_path(picture, frame, zoom, 10, (0.9, 1), "linear", 3) for zoom in ZOOMS]
    for windows in paths:
        frames = crop_windows(pixels, windows, *frame)
        assert frames.shape == (3, frame[1], frame[0], 3)
        assert (frames == 77).all()
