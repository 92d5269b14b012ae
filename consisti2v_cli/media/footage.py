"""The frames of a film on their way to an encoder: checked one by one, never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from consisti2v_cli.errors import ConsistI2VError, RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Frames = Iterable["NDArray[np.uint8]"]  # each h w 3; an array f h w 3 is one too


class Footage:
    """Frames of one size that can be gone through as often as those it is made of.

    The first frame is taken when it is made, and belongs to the first pass: nothing is made twice to learn the size.
    """

    def __init__(self, frames: Frames, fps: float) -> None:
        """
        Args:
            frames: `uint8`, each `h w 3`, all of one size.
            fps: frames a second.

        Raises:
            RequestError: there is no frame.
        """
        self.fps = fps
        self._frames = frames
        passing = _read(frames)
        first = next(passing, None)
        if first is None:
            raise RequestError("A film needs at least one frame.")
        self.height, self.width = first.shape[:2]
        self._begun: Iterator[NDArray[np.uint8]] | None = chain([first], passing)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        passing, self._begun = self._begun, None
        if passing is None:
            if isinstance(self._frames, Iterator):
                raise ValueError("the frames can be gone through only once, and this film needs several passes")
            passing = _read(self._frames)
        shape = (self.height, self.width, 3)
        for frame in passing:
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(f"a frame is {frame.dtype} {frame.shape}, the first one is {shape}; all must be uint8")
            yield np.ascontiguousarray(frame)

    def resized(self, width: int, height: int) -> Footage:
        """The same film in another size, anti-aliased, made frame by frame."""
        return (
            self if (width, height) == (self.width, self.height) else Footage(_Resized(self, (width, height)), self.fps)
        )


class _Resized:
    def __init__(self, footage: Footage, size: tuple[int, int]) -> None:
        self.footage = footage
        self.size = size

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for frame in self.footage:
            yield np.asarray(Image.fromarray(frame).resize(self.size, Image.Resampling.LANCZOS))


def _read(frames: Frames) -> Iterator[NDArray[np.uint8]]:
    """The frames; a file of theirs that cannot be read is no failure of the file that is written."""
    passing = iter(frames)
    while True:
        try:
            frame = next(passing)
        except StopIteration:
            return
        except OSError as error:
            raise ConsistI2VError(f"The frames cannot be read: {error}.") from error
        yield frame
