"""Windows over a still picture -> the frames that they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from consisti2v_cli.camera import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUPPORT = 3  # pixels that Lanczos looks at on either side, of the smaller of both pictures


def crop_windows(pixels: NDArray[np.uint8], windows: Sequence[Window], width: int, height: int) -> NDArray[np.uint8]:
    """Show parts of a picture at one size, with anti-aliasing. Windows may begin and end within pixels.

    Args:
        pixels: `h w 3`.
        windows: within the picture, of any size above 0.
        width, height: of the frames.

    Returns:
        `f height width 3`, a frame for each window.
    """
    return np.stack([_show(pixels, window, (width, height)) for window in windows])


def _show(pixels: NDArray[np.uint8], window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
    top, bottom = _surroundings(window.top, window.height, size[1], pixels.shape[0])
    left, right = _surroundings(window.left, window.width, size[0], pixels.shape[1])
    part = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    box = (
        max(0.0, window.left - left),
        max(0.0, window.top - top),
        min(part.width, window.left + window.width - left),
        min(part.height, window.top + window.height - top),
    )
    return np.asarray(part.resize(size, Image.Resampling.LANCZOS, box=box))


def _surroundings(begin: float, extent: float, size: int, picture: int) -> tuple[int, int]:
    """All pixels that the filter looks at on one axis.

    Counting from these instead of the picture's corner keeps boxes exact: Pillow holds them in single precision, which
    at pixel 20000 knows steps of 0.002 only.
    """
    reach = _SUPPORT * max(1.0, extent / size) + 1
    return max(0, math.floor(begin - reach)), min(picture, math.ceil(begin + extent + reach))
