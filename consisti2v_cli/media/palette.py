"""The colours of a GIF: ffmpeg's palette for the clip, drawn nearer to its pixels, and the nearest colour of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COLOURS = 255  # of 256: the last one means "as before" to an animated GIF

_BITS = 6  # of each channel, by which colours are counted
_ROUNDS = 5  # of k-means; ten gain less than a tenth of a decibel
_BLOCK = 8192  # colours that are compared with a palette at once
_UNKNOWN = 255


class ColourCount:
    """How often each colour comes, in 2**18 bins with their means: 8 MB, however long the film is."""

    def __init__(self) -> None:
        self._count = np.zeros(1 << 3 * _BITS)
        self._sums = np.zeros((3, 1 << 3 * _BITS))

    def watch(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Pass frames on, counting their colours."""
        for frame in frames:
            pixels = frame.reshape(-1, 3)
            coarse = (pixels >> (8 - _BITS)).astype(np.int64)
            bins = (coarse[:, 0] << 2 * _BITS) | (coarse[:, 1] << _BITS) | coarse[:, 2]
            self._count += np.bincount(bins, minlength=len(self._count))
            for channel, sums in enumerate(self._sums):
                sums += np.bincount(bins, weights=pixels[:, channel], minlength=len(sums))
            yield frame

    def refine(self, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Move a palette to where the colours are: k-means, which lowers the squared error with every round.

        Args:
            palette: `colours 3`, to begin with.

        Returns:
            `colours 3`.
        """
        used = np.flatnonzero(self._count)
        count = self._count[used]
        means = (self._sums[:, used] / count).T
        centres = palette.astype(np.float64)
        for _ in range(_ROUNDS):
            nearest = _nearest(means, centres)
            weight = np.bincount(nearest, weights=count, minlength=len(centres))
            for channel in range(3):
                total = np.bincount(nearest, weights=count * means[:, channel], minlength=len(centres))
                centres[:, channel] = np.where(weight > 0, total / np.maximum(weight, 1), centres[:, channel])
        return centres.round().astype(np.uint8)


class ColourTable:
    """Pixels -> the nearest colours of a palette. Each of the 2**24 colours is looked for once a film: 16 MB."""

    def __init__(self, palette: NDArray[np.uint8]) -> None:
        """`palette`: `colours 3`, at most `MOST_COLOURS`."""
        self._palette = palette.astype(np.float32)  # sums of squares of bytes are exact in it
        self._table = np.full(1 << 24, _UNKNOWN, np.uint8)

    def indices(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`h w 3` -> `h w`."""
        pixels = frame.astype(np.int32)
        colours = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
        found: NDArray[np.uint8] = self._table[colours]
        if (unknown := found == _UNKNOWN).any():
            new = np.unique(colours[unknown])
            channels = np.stack([new >> 16, (new >> 8) & 255, new & 255], axis=-1)
            self._table[new] = _nearest(channels.astype(np.float32), self._palette)
            found = self._table[colours]
        return found


def _nearest(colours: NDArray[np.floating], palette: NDArray[np.floating]) -> NDArray[np.intp]:
    """For each of `n 3` colours the index of the nearest in `m 3`, the first of equals."""
    lengths = (palette**2).sum(axis=1)
    found = np.empty(len(colours), np.intp)
    for start in range(0, len(colours), _BLOCK):
        block = slice(start, start + _BLOCK)
        found[block] = (lengths - 2 * colours[block] @ palette.T).argmin(axis=1)
    return found
