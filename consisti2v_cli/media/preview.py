"""Small pictures of latents: a linear map to colours, learned from the one picture whose latent is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGE = 1e-3  # share of the variance that latents have in all: directions that a plain picture lacks stay small


def fit_colours(latent: NDArray[np.floating], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Learn the linear map that comes nearest to a picture's colours, from its latent: no autoencoder is needed.

    Ridge regression on the picture, averaged down to one pixel a latent. Fits any latent space in which one latent
    describes one block of pixels, and whose channels have about unit variance.

    Args:
        latent: `c h w`, as the network sees it.
        pixels: `H W 3`, the picture that it is the latent of.

    Returns:
        `c+1 3`: what each channel adds to red, green and blue (0..255), and in the last row the constant.
    """
    channels, height, width = latent.shape
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    colours = np.asarray(small, dtype=np.float64).reshape(-1, 3)
    values = latent.astype(np.float64).reshape(channels, -1).T
    middle, grey = values.mean(0), colours.mean(0)
    values = values - middle
    squares = values.T @ values + RIDGE * len(values) * np.eye(channels)
    weights = np.linalg.solve(squares, values.T @ (colours - grey))
    return np.vstack([weights, grey - middle @ weights])


def paint(latents: NDArray[np.floating], colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Latents `c f h w` -> small frames `f h w 3` by a map from `fit_colours`. What is not finite becomes black."""
    with np.errstate(invalid="ignore"):
        painted = np.tensordot(latents.astype(np.float64), colours[:-1], (0, 0)) + colours[-1]
    levels: NDArray[np.float64] = np.nan_to_num(painted, nan=0, posinf=0, neginf=0).clip(0, 255).round()
    return levels.astype(np.uint8)


def strip(frames: NDArray[np.uint8], columns: int = 4, height: int = 192) -> NDArray[np.uint8]:
    """Lay a few frames of a clip side by side, from the first to the last.

    Args:
        frames: `f h w 3`.
        columns: how many are shown, or all where there are fewer.
        height: of the result, in pixels; smaller frames are enlarged smoothly.

    Returns:
        `height width 3`, with narrow black gaps between the frames.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int))
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    gap = np.zeros((height, max(1, height // 16), 3), dtype=np.uint8)
    parts: list[NDArray[np.uint8]] = []
    for frame in frames[chosen]:
        enlarged = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        parts += [gap, np.asarray(enlarged)]
    return np.concatenate(parts[1:], axis=1)
