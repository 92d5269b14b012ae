"""Clips for tests of media: a photo under a camera that slides or closes in; and how far two clips are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FIXTURES = Path(__file__).parent / "fixtures"


def moving(photo: str = "boat.jpg", frames: int = 16, width: int = 256, height: int = 256, *, zoom: bool = False):
    """`frames height width 3`."""
    with Image.open(FIXTURES / photo) as opened:
        picture = opened.convert("RGB")
    share = 0.7 * min(picture.width / width, picture.height / height)
    made = []
    for step in np.linspace(0, 1, frames):
        closer = share * (1 - 0.35 * step) if zoom else share
        room_x, room_y = picture.width - width * closer, picture.height - height * closer
        left, top = (room_x / 2, room_y / 2) if zoom else (room_x / 2 * step, room_y / 2 * (1 - step))
        box = (left, top, left + width * closer, top + height * closer)
        made.append(np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box=box)))
    return np.stack(made)


def psnr(one, other) -> float:
    """In decibels."""
    error = np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


class Passes:
    """Frames that count how often they are gone through, and how many of them were taken."""

    def __init__(self, frames) -> None:
        self.frames = frames
        self.passes = 0
        self.taken = 0

    def __iter__(self):
        self.passes += 1
        for frame in self.frames:
            self.taken += 1
            yield frame
