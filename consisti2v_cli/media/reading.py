"""Films in: videos and animated pictures of any kind that ffmpeg or Pillow reads, and folders of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import MOVING, how_to_export, of_file

from .ffmpeg import SCALER, decoder
from .image import lay_over, parse_colour, upright_rgb
from .metadata import FRAME_RATE
from .pictures import open_picture
from .probe import HD, Stream, probe_stream
from .scratch import frame_files

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

MOST_BYTES = 3_000_000_000  # of the frames of a film that is held in memory
_USUAL_RATE = 25.0  # ffmpeg's own for numbered pictures that do not say
_TAIL = "-5"  # seconds from a film's end where its last frame is looked for first
_STILL = 100  # milliseconds that a frame of an animated picture is shown which does not say, as browsers do

# HDR -> SDR: 203 nits, where HDR videos have what is white in SDR (ITU-R BT.2408), become white again. Up to 90 % of
# that light nothing changes; what is brighter, up to 1,000 nits, is pressed into the rest: SDR's white becomes 250.
_TONE_MAP = (
    "zscale=transferin={transfer}:primariesin=bt2020:matrixin=bt2020nc:transfer=linear:npl=203,format=gbrpf32le,"
    "zscale=primaries=bt709,tonemap=mobius:param=0.9:peak=4.926:desat=0,zscale=transfer=bt709:matrix=gbr:range=full"
)


@dataclass(frozen=True)
class VideoInfo:
    """What a film's header says."""

    width: int  # as shown: upright, with square pixels
    height: int
    fps: float  # on average


@dataclass(frozen=True)
class Timing:
    """When a film's frames are shown."""

    starts: tuple[float, ...]  # of each frame, in seconds since the first one
    offset: float  # seconds from the beginning of the file, and of its sound, to the first frame


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
        if probe_stream(path) is None:
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
        with open_picture(frame_files(path)[0]) as image:
            return VideoInfo(*image.size, _folder_rate(path))
    if _is_animation(path):
        with open_picture(path) as image:
            size = image.size
        return VideoInfo(*size, _mean_rate(_animation_lengths(path)))
    stream = _stream(path)
    return VideoInfo(*stream.size, stream.fps or _USUAL_RATE)


def read_frames(path: Path | str, *, background: str = "white") -> Iterator[NDArray[np.uint8]]:
    """The frames of a film as they are stored, none doubled or dropped, each `h w 3`: upright, with square pixels,
    in SDR, and without alpha.

    Args:
        path: a film, an animated picture, or a folder of frames.
        background: colour behind transparent pixels.

    Raises:
        RequestError: the file is missing or no film.
    """
    path = Path(path)
    frames: Iterator[NDArray[np.uint8]]
    if path.is_dir():
        frames = (_read_still(file, background) for file in frame_files(path))
    elif _is_animation(path):
        frames = _read_animation(path, background)
    else:
        frames = _decode(path, background)
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


def read_last_frame(path: Path | str, *, background: str = "white") -> NDArray[np.uint8]:
    """The last frame of a film, `h w 3`, with no more than two in memory. RequestError if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        return _read_still(frame_files(path)[-1], background)
    if path.is_file() and not _is_animation(path):
        for frame in deque(_decode(path, background, before=["-sseof", _TAIL]), maxlen=1):
            return frame
    return deque(read_frames(path, background=background), maxlen=1)[0]  # no end to seek from, or only sound near it


def read_timing(path: Path | str) -> Timing:
    """When each frame of a film is shown. RequestError if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        rate = _folder_rate(path)
        return Timing(tuple(number / rate for number in range(len(frame_files(path)))), 0.0)
    if _is_animation(path):
        starts = np.cumsum([0.0, *_animation_lengths(path)[:-1]])
        return Timing(tuple(starts.tolist()), 0.0)
    unit, found = Fraction(1), []
    with decoder(path, ["-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framecrc", "-"]) as stream:
        for line in stream:
            words = line.decode("ascii", errors="replace").replace(",", " ").split()
            if words[:1] == ["#tb"]:
                unit = Fraction(words[2])
            elif words[:1] == ["0"]:
                found.append(float(int(words[2]) * unit))
    if not found:
        raise RequestError(f"{path.name} is no film that can be read.")
    return Timing(tuple(start - found[0] for start in found), found[0])


def _stream(path: Path) -> Stream:
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    stream = probe_stream(path)
    if stream is None:
        raise RequestError(f"{path.name} is no film that can be read.")
    return stream


def _decode(path: Path, background: str, *, before: Sequence[str] = ()) -> Iterator[NDArray[np.uint8]]:
    stream = _stream(path)
    if stream.alpha and stream.codec in ("vp8", "vp9"):  # ffmpeg's own decoders leave the alpha out
        before = ["-c:v", "libvpx" if stream.codec == "vp8" else "libvpx-vp9", *before]
    output = ["-f", "image2pipe", "-c:v", "pam" if stream.alpha else "ppm", "-"]
    options = ["-fps_mode", "passthrough", "-vf", ",".join(_filters(stream)), *output]
    colour = parse_colour(background)
    with decoder(path, options, before=before) as pipe:
        while (picture := _read_pam(pipe) if stream.alpha else _read_ppm(pipe)) is not None:
            yield lay_over(picture, colour) if stream.alpha else picture


def _filters(stream: Stream) -> Iterator[str]:
    """ffmpeg's filters from stored pictures to upright RGB with square pixels, in the colours that players show."""
    if not stream.progressive:
        yield "bwdif=mode=send_frame:deint=interlaced"  # passes on what is not marked as interlaced
    if stream.is_hdr:
        yield _TONE_MAP.format(transfer=stream.transfer)
    shape = "w=round(iw*max(1\\,sar+not(sar))):h=round(ih/min(1\\,sar+not(sar))):" if stream.sar != 1 else ""
    is_hd = stream.width >= HD[0] or stream.height > HD[1]
    is_yuv = stream.pixels.startswith(("yuv", "nv", "p0", "uyvy", "yuyv"))
    matrix = f"in_color_matrix={'bt709' if is_hd else 'bt601'}:" if is_yuv and not stream.matrix else ""
    yield f"scale={shape}{matrix}{SCALER},format={'rgba' if stream.alpha else 'rgb24'}"


def _read_ppm(pipe: IO[bytes]) -> NDArray[np.uint8] | None:
    """The next picture, `h w 3`; None behind the last whole one."""
    if pipe.readline() != b"P6\n":
        return None
    width, height = map(int, pipe.readline().split())
    pipe.readline()  # the maximum, 255
    return _pixels(pipe, height, width, 3)


def _read_pam(pipe: IO[bytes]) -> NDArray[np.uint8] | None:
    """The next picture with alpha, `h w 4`; None behind the last whole one."""
    header = {}
    while (line := pipe.readline().decode("ascii", errors="replace").split()) not in ([], ["ENDHDR"]):
        header[line[0]] = line[-1]
    return _pixels(pipe, int(header["HEIGHT"]), int(header["WIDTH"]), 4) if "WIDTH" in header else None


def _pixels(pipe: IO[bytes], height: int, width: int, channels: int) -> NDArray[np.uint8] | None:
    data = pipe.read(channels * width * height)
    if len(data) != channels * width * height:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, channels)


def _read_still(path: Path, background: str) -> NDArray[np.uint8]:
    with open_picture(path) as image:
        return upright_rgb(image, background)


def _is_animation(path: Path) -> bool:
    """Whether a file is of a kind of pictures that may move: these are Pillow's, whatever ffmpeg makes of them."""
    if not path.is_file():
        return False
    kind = of_file(path)
    return kind is not None and kind.key in MOVING


def _read_animation(path: Path, background: str) -> Iterator[NDArray[np.uint8]]:
    with open_picture(path) as image:
        for number in _frame_numbers(image):
            image.seek(number)
            yield upright_rgb(image, background)


def _frame_numbers(image: Image.Image) -> range:
    """The numbers of an animation's frames: an APNG may have a picture in front that is none of them."""
    return range(1 if image.info.get("default_image") else 0, getattr(image, "n_frames", 1))


def _animation_lengths(path: Path) -> list[float]:
    """How long each frame of an animated picture is shown, in seconds."""
    with open_picture(path) as image:
        lengths = []
        for number in _frame_numbers(image):
            image.seek(number)
            image.load()
            lengths.append((float(image.info.get("duration") or 0) or _STILL) / 1000)
        return lengths


def _mean_rate(lengths: Sequence[float]) -> float:
    """Frames a second on average: a whole number where one is meant, since GIF rounds to hundredths of a second."""
    total = sum(lengths)
    whole = max(1, round(len(lengths) / total))
    return whole if abs(len(lengths) / whole - total) < 0.015 else len(lengths) / total


def _folder_rate(folder: Path) -> float:
    """Frames a second of a folder of frames, which the first one says."""
    with open_picture(frame_files(folder)[0]) as image:
        try:
            return float(image.info.get(FRAME_RATE, _USUAL_RATE))
        except ValueError:
            return _USUAL_RATE
