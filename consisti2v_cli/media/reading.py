"""Films in: videos and animated pictures of any kind that ffmpeg or Pillow reads, and folders of frames."""

from __future__ import annotations

import re
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import MOVING, how_to_export, of_file

from .ffmpeg import SCALER, address, decoder, executable
from .metadata import FRAME_RATE
from .pictures import open_picture
from .scratch import frame_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_FILMS = re.compile(r"tty|bin|xbin|adf|idf|ico|fits|image2|.*_pipe")  # text as ANSI art, and pictures
MOST_BYTES = 3_000_000_000  # of the frames of a film that is held in memory
_USUAL_RATE = 25.0  # ffmpeg's own for numbered pictures that do not say
_TAIL = "-5"  # seconds from a film's end where its last frame is looked for first


@dataclass(frozen=True)
class VideoInfo:
    """What a film's header says."""

    width: int  # as shown, after the container's rotation
    height: int
    fps: float


def kind_of(path: Path | str) -> Literal["image", "film"]:
    """Whether a file is a picture or a film, by its content: what moves is a film, a folder of frames too.

    A HEIC or TIFF is a picture, however many of them it holds.

    Raises:
        RequestError: it is missing, or neither.
    """
    path = Path(path)
    if path.is_dir():
        frame_files(path)
        return "film"
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    kind = of_file(path)
    if kind is None or kind.family == "video":
        if not _is_film_for_ffmpeg(path):
            raise RequestError(f"{path.name} is neither a picture nor a film that can be read.")
        return "film"
    if advice := how_to_export(kind):
        raise RequestError(f"{path.name} {advice}")
    if kind.key not in MOVING:
        return "image"
    with open_picture(path) as image:
        return "film" if getattr(image, "is_animated", False) else "image"


def probe(path: Path | str) -> VideoInfo:
    """Size and frame rate of a film, animated picture, or folder of frames. RequestError if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        return _probe_frames(path)
    if _is_webp(path):
        return _probe_webp(path)
    options = ["-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"]
    with decoder(path, options) as stream:
        words = stream.readline().decode("ascii", errors="replace").split()
    if words[:1] != ["YUV4MPEG2"]:
        raise RequestError(f"{path.name} is no film that can be read.")
    fields = {word[0]: word[1:] for word in words[1:]}
    rate = Fraction(*map(int, fields["F"].split(":")))
    return VideoInfo(int(fields["W"]), int(fields["H"]), float(rate))


def read_frames(path: Path | str) -> Iterator[NDArray[np.uint8]]:
    """The frames of a film as they are stored, none doubled or dropped, each `h w 3`, upright.

    Raises:
        RequestError: the file is missing or no film.
    """
    path = Path(path)
    if path.is_dir():
        frames = _read_folder(path)
    elif _is_webp(path):
        frames = _read_webp(path)
    else:
        frames = _decode(path)
    count = 0
    for count, frame in enumerate(frames, start=1):  # noqa: B007
        yield frame
    if not count:
        raise RequestError(f"{path.name} is no film that can be read.")


def read_video(path: Path | str) -> tuple[NDArray[np.uint8], float]:
    """All frames of a film, `f h w 3`, and its frames a second.

    Raises:
        RequestError: it cannot be read, its frames differ in size, or they take more than `MOST_BYTES`.
    """
    frames, taken = [], 0
    for frame in read_frames(path):
        frames.append(frame)
        taken += frame.nbytes
        if frame.shape != frames[0].shape:
            raise RequestError(f"{Path(path).name}: its frames differ in size.")
        if taken > MOST_BYTES:
            raise RequestError(f"{Path(path).name} is too long: more than {len(frames) - 1} such frames do not fit.")
    return np.stack(frames), probe(path).fps


def read_last_frame(path: Path | str) -> NDArray[np.uint8]:
    """The last frame of a film, `h w 3`, with no more than two in memory. RequestError if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        return _read_still(frame_files(path)[-1])
    if path.is_file() and not _is_webp(path):
        for frame in deque(_decode(path, before=["-sseof", _TAIL]), maxlen=1):
            return frame
    return deque(read_frames(path), maxlen=1)[0]  # no end to seek from, or nothing but sound near it


def _decode(path: Path, *, before: Sequence[str] = ()) -> Iterator[NDArray[np.uint8]]:
    options = [
        "-fps_mode",
        "passthrough",
        "-vf",
        f"scale={SCALER},format=rgb24",
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-",
    ]
    with decoder(path, options, before=before) as stream:
        while header := stream.readline():
            width, height = map(int, stream.readline().split())
            stream.readline()  # the maximum, 255
            data = stream.read(3 * width * height)
            if header != b"P6\n" or len(data) != 3 * width * height:
                break
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _read_folder(folder: Path) -> Iterator[NDArray[np.uint8]]:
    return map(_read_still, frame_files(folder))


def _read_still(path: Path) -> NDArray[np.uint8]:
    with open_picture(path) as image:
        return np.asarray(image.convert("RGB"))


def _read_webp(path: Path) -> Iterator[NDArray[np.uint8]]:
    """By Pillow: ffmpeg reads animated WebP since its version 9 only."""
    with open_picture(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            yield np.asarray(image.convert("RGB"))


def _probe_frames(folder: Path) -> VideoInfo:
    with open_picture(frame_files(folder)[0]) as image:
        try:
            rate = float(image.info.get(FRAME_RATE, _USUAL_RATE))
        except ValueError:
            rate = _USUAL_RATE
        return VideoInfo(*image.size, rate)


def _probe_webp(path: Path) -> VideoInfo:
    with open_picture(path) as image:
        frames, milliseconds = getattr(image, "n_frames", 1), 0
        for number in range(frames):
            image.seek(number)
            image.load()
            milliseconds += int(image.info.get("duration", 0))
        return VideoInfo(*image.size, 1000 * frames / milliseconds if milliseconds else _USUAL_RATE)


def _is_webp(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


def _is_film_for_ffmpeg(path: Path) -> bool:
    source = ["-protocol_whitelist", "file,pipe", "-i", address(path), "-map", "0:V:0"]
    command = [executable(), "-hide_banner", "-nostdin", *source, "-frames:v", "1", "-f", "rawvideo", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    named = re.search(rb"^Input #0, (.+), from ", done.stderr, re.MULTILINE)
    return bool(done.stdout and named and not _NO_FILMS.fullmatch(named[1].decode()))
