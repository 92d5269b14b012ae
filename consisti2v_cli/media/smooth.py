"""More frames a second: ffmpeg draws those in between along the motion that it finds."""

from __future__ import annotations

import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import repeat
from threading import Event, Thread
from typing import IO, TYPE_CHECKING

import numpy as np

from consisti2v_cli.errors import RequestError

from .ffmpeg import executable, failure, raw_input
from .footage import Footage, Frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 8  # pixels; blocks of 16 are 2 dB further from true frames on slid and zoomed photos
_SMALLEST = 32  # pixels; minterpolate refuses sides that have less than two blocks of 16
_PLANES = [1, 0, 2]  # green first: minterpolate looks for motion in its first plane, and takes the others along
_MORE = 4  # repetitions of the last frame that push it through the filter


def smoothed(frames: Frames, fps: float, target: float) -> Frames:
    """A clip with another number of frames a second and the same length.

    Motion is found by ffmpeg's minterpolate. Frames that fall on one of the given are equal to it, the first one
    always; after the last given frame it stands still. No more than a few frames are in memory at a time.

    Args:
        frames: each `h w 3`, in any size; gone through as often as the result is.
        fps: of the frames.
        target: frames a second of the result.

    Returns:
        round(n / fps * target) frames for n, at least one; each `h w 3`.

    Raises:
        RequestError: a rate is not above zero.
    """
    if not (fps > 0 and target > 0):
        raise RequestError(f"Frames a second are {fps:g}, wanted are {target:g}; both must be above 0.")
    return _Smoothed(frames, Fraction(fps).limit_denominator(1001), Fraction(target).limit_denominator(1001))


class _Smoothed:
    def __init__(self, frames: Frames, fps: Fraction, target: Fraction) -> None:
        self.frames, self.fps, self.target = frames, fps, target

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        footage = Footage(self.frames, float(self.fps))
        if self.fps == self.target:
            return iter(footage)
        return _interpolate(footage, self.fps, self.target)


def _interpolate(footage: Footage, fps: Fraction, target: Fraction) -> Iterator[NDArray[np.uint8]]:
    width, height = (max(_SMALLEST, side + -side % _BLOCK) for side in (footage.width, footage.height))
    motion = f"minterpolate=fps={target}:mi_mode=mci:mb_size={_BLOCK}"
    output = ["-vf", motion, "-f", "rawvideo", "-pix_fmt", "yuv444p", "-"]
    command = [executable(), "-v", "error", "-nostdin", *raw_input(width, height, fps, "yuv444p"), *output]
    with tempfile.TemporaryFile() as words:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=words, start_new_session=True)
        assert process.stdin
        assert process.stdout
        feeder = _Feeder(process.stdin, footage, (height, width))
        try:
            feeder.start()
            yield from _read(process, feeder, target / fps, words)
        finally:
            process.kill()
            feeder.stop()
            process.stdout.close()
            process.wait()


def _read(
    process: subprocess.Popen[bytes], feeder: _Feeder, ratio: Fraction, words: IO[bytes]
) -> Iterator[NDArray[np.uint8]]:
    """As many frames as the clip is long: what is drawn past its end is made of repetitions of the last frame."""
    assert process.stdout
    height, width = feeder.size
    count = 0
    waiting: deque[NDArray[np.uint8]] = deque()  # frames that may be past the end, as long as that is not known
    frame = None
    while not (feeder.counted and count >= feeder.wanted(ratio)):
        data = process.stdout.read(3 * height * width)
        if len(data) < 3 * height * width:
            break
        frame = feeder.cut(np.frombuffer(data, np.uint8).reshape(3, height, width))
        waiting.append(frame)
        while waiting and count < feeder.wanted(ratio):
            yield waiting.popleft()
            count += 1
    else:
        return
    feeder.join()
    if feeder.error is not None:
        raise feeder.error
    if process.wait() or frame is None:
        raise failure(process.returncode, words)
    yield from repeat(frame, feeder.wanted(ratio) - count)


class _Feeder(Thread):
    """Hands frames to ffmpeg while others are taken from it. Sides are extended by their last pixels to fit."""

    def __init__(self, pipe: IO[bytes], footage: Footage, size: tuple[int, int]) -> None:
        super().__init__(daemon=True)
        self.pipe, self.footage, self.size = pipe, footage, size
        self.count = 0  # frames so far
        self.counted = False  # all of them
        self.error: BaseException | None = None
        self._stopped = Event()

    def run(self) -> None:
        try:
            with suppress(BrokenPipeError):  # what was wanted is there
                self._feed()
        except BaseException as error:
            self.error = error
        finally:
            with suppress(OSError):
                self.pipe.close()

    def _feed(self) -> None:
        planes = None
        for frame in self.footage:
            if self._stopped.is_set():
                return
            self.count += 1
            planes = self._padded(frame)
            self.pipe.write(planes)
        self.counted = True
        for _ in range(_MORE):
            assert planes is not None
            self.pipe.write(planes)

    def wanted(self, ratio: Fraction) -> int:
        """How many frames the clip has by now."""
        return max(1, round(self.count * ratio))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _padded(self, frame: NDArray[np.uint8]) -> memoryview:
        """`h w 3` -> planes `3 height width`."""
        below, beside = self.size[0] - frame.shape[0], self.size[1] - frame.shape[1]
        padded = np.pad(frame, ((0, below), (0, beside), (0, 0)), mode="edge")
        return np.ascontiguousarray(padded[..., _PLANES].transpose(2, 0, 1)).data

    def cut(self, planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Planes -> `h w 3`, the extension cut off."""
        picture = planes[:, : self.footage.height, : self.footage.width].transpose(1, 2, 0)
        return np.ascontiguousarray(picture[..., _PLANES])
