"""Camera paths over a still picture (paper, section 5.5): windows that slide for a pan, shrink or grow for a zoom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Size = tuple[int, int]  # width and height, in pixels

EASES: dict[str, Callable[[float], float]] = {  # share of the time -> share of the path, both from 0 to 1
    "linear": lambda t: t,
    "in": lambda t: t * t,  # begins slowly
    "out": lambda t: 1 - (1 - t) ** 2,  # ends slowly
    "in-out": lambda t: t * t * (3 - 2 * t),
}

DIRECTIONS: dict[str, tuple[int, int]] = {  # of the camera: right, down
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up-left": (-1, -1),
    "up-right": (1, -1),
    "down-left": (-1, 1),
    "down-right": (1, 1),
}

ZOOMS = ("in", "out")


@dataclass(frozen=True)
class Window:
    """The part of a picture that one frame shows, in pixels of the picture; its borders may lie within pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def center(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass(frozen=True)
class Motion:
    """How far a camera went over a clip, from the first view to the last.

    The way from centre to centre is measured against the views' size: where they differ, the geometric mean of both.
    So a clip played backwards has the opposite motion.
    """

    right: float  # percent of the frame's width; negative: to the left
    down: float  # percent of the frame's height; negative: up
    zoom: float  # how much larger things are in the last view than in the first; below 1: zoomed out
    certain: bool = True  # False: found in frames that do not tell, and so worth nothing


def pan_path(
    picture_size: Size, frame_size: Size, direction: str, amount: float, ease: str, frames: int
) -> list[Window]:
    """Windows of one size that slide over a picture; the last one is at the far end of the path.

    The windows are as large as the path allows, and the path lies in the middle of the picture.

    Args:
        picture_size, frame_size: width and height; the windows have the frame's aspect.
        direction: a key of `DIRECTIONS`: where the camera goes, so that what it shows goes the other way.
        amount: the way along each axis of the direction, as a share of the window's side; 0 or more.
        ease: a key of `EASES`.
        frames: how many windows, at least 2.

    Raises:
        ValueError: a value out of its range, an unknown name.
    """
    _check(picture_size, frame_size, frames)
    if direction not in DIRECTIONS or not 0 <= amount < float("inf"):
        raise ValueError(f"no pan: direction {direction!r}, amount {amount}")
    right, down = DIRECTIONS[direction]
    room = (1 + amount * abs(right), 1 + amount * abs(down))  # the path's extent in windows
    scale = min(picture_size[axis] / (frame_size[axis] * room[axis]) for axis in (0, 1))
    width, height = frame_size[0] * scale, frame_size[1] * scale
    middle = ((picture_size[0] - width) / 2, (picture_size[1] - height) / 2)
    windows = []
    for progress in _progress(ease, frames):
        way = amount * (progress - 0.5)  # from minus to plus one half of the path
        left = _between(middle[0] + right * way * width, picture_size[0] - width)
        top = _between(middle[1] + down * way * height, picture_size[1] - height)
        windows.append(Window(left, top, width, height))
    return windows


def zoom_path(
    picture_size: Size, frame_size: Size, zoom: str, ratio: float, center: tuple[float, float], ease: str, frames: int
) -> list[Window]:
    """Windows that shrink to a part of a picture, or grow from it.

    The wide end is the largest window of the frame's aspect, the narrow one `ratio` times smaller; both lie as close
    around `center` as the picture's borders allow. Position is linear in size, so that one point stays where it is in
    the frame, and size is exponential in time, so that the zoom looks equally fast all the way.

    Args:
        picture_size, frame_size: width and height; the windows have the frame's aspect.
        zoom: `in`, from wide to narrow, or `out`.
        ratio: of the wide end to the narrow one, 1 or more.
        center: what is zoomed at, from the left and from the top, as shares of the picture, each 0 to 1.
        ease: a key of `EASES`.
        frames: how many windows, at least 2.

    Raises:
        ValueError: a value out of its range, an unknown name.
    """
    _check(picture_size, frame_size, frames)
    if zoom not in ZOOMS or not 1 <= ratio < float("inf") or not all(0 <= share <= 1 for share in center):
        raise ValueError(f"no zoom: {zoom!r} by {ratio} at {center}")
    scale = min(picture_size[axis] / frame_size[axis] for axis in (0, 1))  # picture pixels to a pixel of the frame
    wide, narrow = (_around(center, picture_size, frame_size, each) for each in (scale, scale / ratio))
    windows = []
    for progress in _progress(ease, frames):
        size = ratio ** -(progress if zoom == "in" else 1 - progress)  # 1 at the wide end, 1 / ratio at the narrow one
        nearness = (1 - size) / (1 - 1 / ratio) if ratio > 1 else 0.0
        width, height = wide.width * size, wide.height * size
        left = _between(wide.left + (narrow.left - wide.left) * nearness, picture_size[0] - width)
        top = _between(wide.top + (narrow.top - wide.top) * nearness, picture_size[1] - height)
        windows.append(Window(left, top, width, height))
    return windows


def enlargement(windows: Sequence[Window], frame_size: Size) -> float:
    """By how much the picture's pixels are enlarged at most, where windows become frames; 1 or less: not at all."""
    return max(max(frame_size[0] / window.width, frame_size[1] / window.height) for window in windows)


def asked_motion(windows: Sequence[Window]) -> Motion:
    """The motion of a path, as `media.motion.camera_motion` finds it in the clip."""
    first, last = windows[0], windows[-1]
    right, down = (end - begin for begin, end in zip(first.center, last.center, strict=True))
    return Motion(
        right=100 * right / (first.width * last.width) ** 0.5,
        down=100 * down / (first.height * last.height) ** 0.5,
        zoom=first.width / last.width,
    )


def _progress(ease: str, frames: int) -> list[float]:
    """The share of the path that lies behind the camera at each frame: from exactly 0 to exactly 1."""
    if ease not in EASES:
        raise ValueError(f"no ease: {ease!r}")
    return [EASES[ease](index / (frames - 1)) for index in range(frames)]


def _around(center: tuple[float, float], picture_size: Size, frame_size: Size, scale: float) -> Window:
    """The window whose middle is as near to a point, in shares of the picture, as the picture's borders allow."""
    width, height = frame_size[0] * scale, frame_size[1] * scale
    left = _between(center[0] * picture_size[0] - width / 2, picture_size[0] - width)
    top = _between(center[1] * picture_size[1] - height / 2, picture_size[1] - height)
    return Window(left, top, width, height)


def _between(value: float, highest: float) -> float:
    return max(0.0, min(value, highest))  # `highest` may be a rounding error below 0


def _check(picture_size: Size, frame_size: Size, frames: int) -> None:
    if min(*picture_size, *frame_size) < 1 or frames < 2:
        raise ValueError(f"no path: {frames} frames of {frame_size} over {picture_size}")
