"""Films out and in, through the ffmpeg that imageio-ffmpeg carries: one small writer a format behind one lookup."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import imageio_ffmpeg
import numpy as np

from consisti2v_cli.errors import ConsistI2VError, RequestError, TakenError

from .metadata import with_gif_comment

if TYPE_CHECKING:
    from numpy.typing import NDArray

Frames = Iterable["NDArray[np.uint8]"]  # each h w 3; an array f h w 3 is one too

CRF = 17  # constant quality of H.264: 0 is lossless, 18 is where most people see no loss
GIF_FASTEST = 50  # frames a second; players slow down anything faster

_THREADS = "4"  # fixed: H.264 made with another number of threads is another file
_EXACT = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]  # no dates, no version numbers
_SCALER = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"


def write_video(
    path: Path | str,
    frames: Frames,
    fps: float,
    *,
    format: str | None = None,
    comment: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a film. It appears under its name only when it is whole. Same frames, same bytes.

    Args:
        path: the file.
        frames: `uint8`, each `h w 3`, all of one size.
        fps: frames a second.
        format: a key of `WRITERS`; by the suffix of `path` otherwise.
        comment: text for the file's own metadata, such as the recipe.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        RequestError: unknown format, size or frame rate impossible for it.
        TakenError: the file exists, perhaps since the writing began.
        ConsistI2VError: the encoder failed; in its own words.
    """
    path = Path(path)
    format = (format or path.suffix.removeprefix(".")).lower()
    if format not in WRITERS:
        raise RequestError(f"{path.name}: unknown format {format!r}; possible: {', '.join(WRITERS)}.")
    with _appearing(path, format, overwrite) as temporary:
        WRITERS[format](temporary, frames, fps, comment)
    return path


def encode_video(frames: Frames, fps: float, format: str, *, comment: str | None = None) -> bytes:
    """The bytes of the file that `write_video` would write."""
    with tempfile.TemporaryDirectory(prefix="consisti2v-") as folder:
        return write_video(Path(folder) / "clip", frames, fps, format=format, comment=comment).read_bytes()


def check_format(format: str, width: int, height: int, fps: float) -> None:
    """Raise RequestError if films of that size and rate cannot be written; before any work is done."""
    if format not in WRITERS:
        raise RequestError(f"Unknown format {format!r}; possible: {', '.join(WRITERS)}.")
    if format == "mp4" and (width % 2 or height % 2):
        raise RequestError(f"MP4 cannot be {width}x{height}; both sides must be even.")
    if format == "gif" and fps > GIF_FASTEST:
        raise RequestError(f"A GIF plays at most {GIF_FASTEST} frames a second, not {fps:g}.")


@dataclass(frozen=True)
class VideoInfo:
    """What a film's header says."""

    width: int  # as shown, after the container's rotation
    height: int
    fps: float


def probe(path: Path | str) -> VideoInfo:
    """Size and frame rate of a film (or animated image). RequestError if it cannot be read."""
    options = ["-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"]
    with _decoder(Path(path), options) as stream:
        words = stream.readline().decode("ascii", errors="replace").split()
    if words[:1] != ["YUV4MPEG2"]:
        raise RequestError(f"{Path(path).name} is no film that can be read.")
    fields = {word[0]: word[1:] for word in words[1:]}
    rate = Fraction(*map(int, fields["F"].split(":")))
    return VideoInfo(int(fields["W"]), int(fields["H"]), float(rate))


def read_frames(path: Path | str) -> Iterator[NDArray[np.uint8]]:
    """The frames of a film as they are stored, none doubled or dropped, each `h w 3`, upright.

    Raises:
        RequestError: the file is missing or no film.
    """
    options = ["-fps_mode", "passthrough", "-vf", f"scale={_SCALER},format=rgb24", "-f", "image2pipe", "-c:v", "ppm"]
    count = 0
    with _decoder(Path(path), [*options, "-"]) as stream:
        while header := stream.readline():
            width, height = map(int, stream.readline().split())
            stream.readline()  # the maximum, 255
            data = stream.read(3 * width * height)
            if header != b"P6\n" or len(data) != 3 * width * height:
                break
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            count += 1
    if not count:
        raise RequestError(f"{Path(path).name} is no film that can be read.")


def read_video(path: Path | str) -> tuple[NDArray[np.uint8], float]:
    """All frames of a film, `f h w 3`, and its frames a second. RequestError if it cannot be read."""
    return np.stack(list(read_frames(path))), probe(path).fps


def _write_mp4(path: Path, frames: Frames, fps: float, comment: str | None) -> None:
    """H.264 that every player shows: 4:2:0, BT.709 colours and tagged so, index in front."""
    convert = f"scale=in_range=full:out_range=tv:out_color_matrix=bt709:{_SCALER},format=yuv420p"
    tags = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    quality = ["-c:v", "libx264", "-preset", "medium", "-crf", str(CRF), "-threads", _THREADS]
    note = ["-metadata", f"comment={comment}"] if comment else []
    options = ["-vf", f"{convert},{tags}", *quality, *_EXACT, *note, "-movflags", "+faststart"]
    _encode("mp4", options, path, frames, fps)


def _write_gif(path: Path, frames: Frames, fps: float, comment: str | None) -> None:
    """One palette for the clip, no dithering: smaller and closer to the frames than dithered ones."""
    palettes = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=none:diff_mode=rectangle"
    _encode("gif", ["-filter_complex", palettes, *_EXACT, "-loop", "0"], path, frames, fps)
    if comment:
        path.write_bytes(with_gif_comment(path.read_bytes(), comment))


Writer = Callable[[Path, Frames, float, str | None], None]
WRITERS: dict[str, Writer] = {"mp4": _write_mp4, "gif": _write_gif}


def _encode(format: str, options: list[str], path: Path, frames: Frames, fps: float) -> None:
    """Pipe frames into ffmpeg."""
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise RequestError("A film needs at least one frame.")
    height, width, _ = first.shape
    check_format(format, width, height, fps)
    rate = Fraction(fps).limit_denominator(1001)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", str(rate), "-i", "pipe:0"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *source, *options]
    with tempfile.TemporaryFile() as words:
        # A session of its own: Ctrl-C is for us, a film that is being written gets finished.
        process = subprocess.Popen(
            [*command, "-f", format, f"file:{path}"], stdin=subprocess.PIPE, stderr=words, start_new_session=True
        )
        assert process.stdin
        try:
            _feed(process.stdin, chain([first], rest), first.shape)
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode:
            words.seek(0)
            lines = words.read().decode(errors="replace").split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), f"exit {process.returncode}")
            raise ConsistI2VError(f"The film could not be encoded: {reason}")


def _feed(pipe: IO[bytes], frames: Frames, shape: tuple[int, ...]) -> None:
    with suppress(BrokenPipeError):  # ffmpeg gave up, and says why
        for frame in frames:
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(f"a frame is {frame.dtype} {frame.shape}, the first one is {shape}; all must be uint8")
            pipe.write(np.ascontiguousarray(frame).data)
    with suppress(BrokenPipeError):
        pipe.close()


@contextmanager
def _appearing(path: Path, format: str, overwrite: bool) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` when the block ends well, removed when it does not."""
    _check_free(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConsistI2VError(f"{path.parent} cannot be made: {error.strerror}.") from error
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}.part.{format}")
    try:
        yield temporary
        _check_free(path, overwrite)
        os.replace(temporary, path)
    except OSError as error:
        raise ConsistI2VError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise TakenError(f"{path} exists already and is not overwritten.")


@contextmanager
def _decoder(path: Path, options: list[str]) -> Iterator[IO[bytes]]:
    """What ffmpeg makes of a file, as a stream; ffmpeg ends with the block."""
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", f"file:{path}", "-map", "0:v:0"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    try:
        yield process.stdout
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
