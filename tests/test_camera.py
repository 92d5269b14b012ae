"""Camera paths stay within the picture, keep the frame's shape, and arrive."""

import itertools
import math

import pytest

from consisti2v_cli.camera import (
    DIRECTIONS,
    EASES,
    ZOOMS,
    Motion,
    Window,
    asked_motion,
    enlargement,
    pan_path,
    zoom_path,
)

PICTURES = [(640, 480), (512, 512), (300, 900), (7, 5), (1, 1), (1, 20000), (20000, 1)]
FRAMES = [(256, 256), (320, 192), (128, 224), (4096, 16)]


def assert_fits(windows, picture, frame):
    """Every window has the frame's aspect and lies within the picture."""
    for window in windows:
        assert window.width > 0
        assert window.width / window.height == pytest.approx(frame[0] / frame[1], rel=1e-12)
        assert window.left >= -1e-9
        assert window.top >= -1e-9
        assert window.left + window.width <= picture[0] + 1e-9
        assert window.top + window.height <= picture[1] + 1e-9


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ease", EASES)
def test_pans_stay_within_the_picture_and_go_the_whole_way(direction, ease):
    right, down = DIRECTIONS[direction]
    for picture, frame, amount in itertools.product(PICTURES, FRAMES, (0, 0.01, 0.3, 1, 5)):
        windows = pan_path(picture, frame, direction, amount, ease, 7)
        assert len(windows) == 7
        assert_fits(windows, picture, frame)
        assert {window.width for window in windows} == {windows[0].width}
        asked = asked_motion(windows)
        assert asked.right == pytest.approx(100 * amount * right, abs=1e-6)
        assert asked.down == pytest.approx(100 * amount * down, abs=1e-6)
        assert asked.zoom == 1


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("ease", EASES)
def test_zooms_stay_within_the_picture_and_reach_their_ratio(zoom, ease):
    centers = [(0.5, 0.5), (0, 0), (1, 0.3), (0.2, 0.9)]
    for picture, frame, center, ratio in itertools.product(PICTURES, FRAMES, centers, (1, 1.01, 1.5, 10)):
        windows = zoom_path(picture, frame, zoom, ratio, center, ease, 7)
        assert len(windows) == 7
        assert_fits(windows, picture, frame)
        assert asked_motion(windows).zoom == pytest.approx(ratio if zoom == "in" else 1 / ratio)


@pytest.mark.parametrize(
    ("direction", "horizontal", "vertical"),
    [
        ("left", -1, 0),
        ("right", 1, 0),
        ("up", 0, -1),
        ("down", 0, 1),
        ("up-left", -1, -1),
        ("up-right", 1, -1),
        ("down-left", -1, 1),
        ("down-right", 1, 1),
    ],
)
def test_the_camera_goes_where_the_direction_says(direction, horizontal, vertical):
    for before, after in itertools.pairwise(pan_path((640, 480), (256, 256), direction, 0.3, "linear", 16)):
        assert (after.left > before.left) - (after.left < before.left) == horizontal
        assert (after.top > before.top) - (after.top < before.top) == vertical


def test_there_are_eight_directions():
    assert len(DIRECTIONS) == 8


def test_windows_of_a_pan_are_as_large_as_the_path_allows():
    assert pan_path((1280, 512), (256, 256), "left", 0.3, "linear", 2)[0].height == 512  # wide enough as it is
    square = pan_path((650, 650), (256, 256), "right", 0.3, "linear", 2)
    assert square[0].width == pytest.approx(500)
    assert (square[0].left, square[-1].left + square[-1].width) == pytest.approx((0, 650))
    both = pan_path((650, 1000), (256, 256), "down-right", 0.3, "linear", 2)
    assert both[0].width == pytest.approx(500)


def test_the_path_of_a_pan_lies_in_the_middle():
    for direction in DIRECTIONS:
        windows = pan_path((1000, 500), (200, 300), direction, 0.25, "linear", 2)
        middle = [(begin + end) / 2 for begin, end in zip(windows[0].center, windows[-1].center, strict=True)]
        assert middle == pytest.approx([500, 250])


def test_a_linear_pan_has_equal_steps():
    lefts = [window.left for window in pan_path((640, 480), (256, 256), "left", 0.3, "linear", 16)]
    steps = [after - before for before, after in itertools.pairwise(lefts)]
    assert steps == pytest.approx([steps[0]] * 15)


def test_a_linear_zoom_looks_equally_fast_all_the_way():
    widths = [window.width for window in zoom_path((640, 480), (256, 256), "in", 1.5, (0.5, 0.5), "linear", 16)]
    assert widths[0] == 480
    assert widths[-1] == pytest.approx(320)
    steps = [before / after for before, after in itertools.pairwise(widths)]
    assert steps == pytest.approx([1.5 ** (1 / 15)] * 15)


def test_zooming_out_is_zooming_in_backwards():
    into, out = (zoom_path((640, 480), (320, 192), zoom, 2, (0.8, 0.3), "linear", 9) for zoom in ZOOMS)
    for one, other in zip(into, reversed(out), strict=True):
        assert (one.left, one.top, one.width) == pytest.approx((other.left, other.top, other.width))


@pytest.mark.parametrize("center", [(0.5, 0.5), (0.6, 0.45), (0.95, 0.1), (0, 1)])
def test_one_point_of_a_zoom_stays_where_it_is_in_the_frame(center):
    windows = zoom_path((640, 480), (256, 256), "in", 2, center, "in-out", 9)
    first, last = windows[0], windows[-1]
    for axis, side in (("left", "width"), ("top", "height")):
        begins, sides = ([getattr(window, name) for window in windows] for name in (axis, side))
        share = (getattr(last, axis) - getattr(first, axis)) / (getattr(first, side) - getattr(last, side))
        points = [begin + share * side for begin, side in zip(begins, sides, strict=True)]
        assert points == pytest.approx([points[0]] * 9)


def test_a_zoom_ends_around_its_center_as_far_as_the_borders_allow():
    assert zoom_path((640, 480), (256, 256), "in", 2, (0.6, 0.4), "linear", 5)[-1].center == pytest.approx((384, 192))
    corner = zoom_path((640, 480), (256, 256), "in", 2, (1, 0), "linear", 5)
    assert corner[0] == Window(160, 0, 480, 480)
    assert corner[-1] == Window(400, 0, 240, 240)


@pytest.mark.parametrize("ease", EASES)
def test_eases_begin_and_end_exactly_and_never_turn_back(ease):
    curve = [EASES[ease](index / 100) for index in range(101)]
    assert (curve[0], curve[-1]) == (0, 1)
    assert curve == sorted(curve)


def test_eases_are_slow_where_they_say():
    first = {name: ease(0.1) for name, ease in EASES.items()}
    last = {name: 1 - ease(0.9) for name, ease in EASES.items()}
    assert first["in"] < first["linear"] < first["out"]
    assert last["out"] < last["linear"] < last["in"]
    assert first["in-out"] == pytest.approx(last["in-out"])
    assert first["in-out"] < 0.05


def test_enlargement_is_that_of_the_smallest_window():
    assert enlargement(zoom_path((640, 480), (240, 240), "in", 4, (0.5, 0.5), "linear", 5), (240, 240)) == 2
    assert enlargement([Window(0, 0, 512, 512)], (256, 256)) == 0.5


def test_a_path_backwards_has_the_opposite_motion():
    windows = zoom_path((640, 480), (256, 256), "in", 2, (0.9, 0.2), "linear", 5)
    there, back = asked_motion(windows), asked_motion(windows[::-1])
    assert (back.right, back.down) == pytest.approx((-there.right, -there.down))
    assert back.zoom == pytest.approx(1 / there.zoom)


def test_motion_is_measured_in_frames():
    slid = [Window(0, 10, 200, 100), Window(50, 0, 200, 100)]
    assert asked_motion(slid) == Motion(right=25, down=-10, zoom=1)
    closer = asked_motion(
        [Window(0, 0, 400, 400), Window(200, 0, 100, 100)]
    )  # centres 50 right, 150 up, in views of 200
    assert (closer.right, closer.down, closer.zoom) == pytest.approx((25, -75, 4))


@pytest.mark.parametrize(
    "path",
    [
        lambda: pan_path((10, 10), (5, 5), "sideways", 0.3, "linear", 5),
        lambda: pan_path((10, 10), (5, 5), "left", -0.1, "linear", 5),
        lambda: pan_path((10, 10), (5, 5), "left", math.nan, "linear", 5),
        lambda: pan_path((10, 10), (5, 5), "left", 0.3, "sudden", 5),
        lambda: pan_path((10, 10), (5, 5), "left", 0.3, "linear", 1),
        lambda: pan_path((0, 10), (5, 5), "left", 0.3, "linear", 5),
        lambda: zoom_path((10, 10), (5, 5), "around", 2, (0.5, 0.5), "linear", 5),
        lambda: zoom_path((10, 10), (5, 5), "in", 0.9, (0.5, 0.5), "linear", 5),
        lambda: zoom_path((10, 10), (5, 5), "in", math.inf, (0.5, 0.5), "linear", 5),
        lambda: zoom_path((10, 10), (5, 5), "in", 2, (1.1, 0.5), "linear", 5),
    ],
)
def test_impossible_paths_are_refused(path):
    with pytest.raises(ValueError, match="no "):
        path()
