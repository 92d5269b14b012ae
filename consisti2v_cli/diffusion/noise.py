"""Noise for the frames of a clip (paper, A.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def mixed_noise(shared: Tensor, independent: Tensor, correlation: float) -> Tensor:
    """Mix one draw shared by all frames with a draw of its own for each.

    Args:
        shared: `b c 1 h w`.
        independent: `b c f h w`.
        correlation: the paper's alpha, 0 or more; 0 makes the frames independent.

    Returns:
        `b c f h w`, unit variance.
    """
    common, own = _shares(correlation)
    return common * shared + own * independent


def progressive_noise(independent: Tensor, correlation: float) -> Tensor:
    """Each frame is the one before, in part, plus a fresh draw: `b c f h w` -> `b c f h w`, unit variance."""
    common, own = _shares(correlation)
    frames = [independent[:, :, 0]]
    for fresh in independent[:, :, 1:].unbind(2):
        frames.append(common * frames[-1] + own * fresh)
    return torch.stack(frames, dim=2)


def draw_noise(
    kind: str,
    frames: int,
    channels: int,
    height: int,
    width: int,
    *,
    generator: Generator,
    correlation: float = 1.0,
    batch: int = 1,
) -> Tensor:
    """Draw float32 noise `b c f h w` on the generator's device. From the CPU's a seed means the same on every device.

    `kind` is a key of `NOISES`: `mixed`, `progressive`, or `vanilla` for independent frames (KeyError otherwise).
    """
    return NOISES[kind]((batch, channels, frames, height, width), correlation, generator)


def _shares(correlation: float) -> tuple[float, float]:
    common = correlation**2 / (1 + correlation**2)
    return math.sqrt(common), math.sqrt(1 - common)


Shape = tuple[int, int, int, int, int]


def _vanilla(shape: Shape, correlation: float, generator: Generator) -> Tensor:
    return _normal(shape, generator)


def _mixed(shape: Shape, correlation: float, generator: Generator) -> Tensor:
    batch, channels, _, height, width = shape
    shared = _normal((batch, channels, 1, height, width), generator)
    return mixed_noise(shared, _normal(shape, generator), correlation)


def _progressive(shape: Shape, correlation: float, generator: Generator) -> Tensor:
    return progressive_noise(_normal(shape, generator), correlation)


def _normal(shape: Shape, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


NOISES: dict[str, Callable[[Shape, float, Generator], Tensor]] = {
    "mixed": _mixed,
    "progressive": _progressive,
    "vanilla": _vanilla,
}
