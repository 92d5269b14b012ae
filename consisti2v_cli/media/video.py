"""Films out, through the writer of their format; and what else there is to films, under one roof."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from consisti2v_cli.errors import ConsistI2VError, RequestError

from .footage import Footage, Frames
from .limits import LOWEST, write_within
from .reading import Timing, VideoInfo, kind_of, probe, read_frames, read_last_frame, read_timing, read_video
from .scratch import appearing, remove_leftovers
from .sound import Soundtrack
from .writers import FOLDERS, STREAMABLE, WITH_SOUND, WRITERS, Options, check_format

__all__ = [
    "STREAMABLE",
    "WRITERS",
    "Frames",
    "Timing",
    "VideoInfo",
    "check_format",
    "kind_of",
    "probe",
    "read_frames",
    "read_last_frame",
    "read_timing",
    "read_video",
    "remove_leftovers",
    "stream_video",
    "write_video",
]

OnNotice = Callable[[str], None]
OnFinished = Callable[[Path, Path], None]  # a name, and the file or folder that is whole and gets it next


def write_video(
    path: Path | str,
    frames: Frames,
    fps: float,
    *,
    format: str | None = None,
    comment: str | None = None,
    overwrite: bool = False,
    quality: int = 85,
    max_bytes: int | None = None,
    sound: Soundtrack | None = None,
    on_notice: OnNotice | None = None,
    on_finished: OnFinished | None = None,
) -> Path:
    """Write a film. It appears under its name only when it is whole. Same frames and options, same bytes.

    Args:
        path: the file; for png the folder of the frames, where a suffix .png is left out.
        frames: `uint8`, each `h w 3`, all of one size; gif and `max_bytes` go through them more than once.
        fps: frames a second.
        format: a key of `WRITERS`; by the suffix of `path` otherwise.
        comment: text for the file's own metadata, such as the recipe.
        overwrite: whether an existing file, or a folder of frames, may be replaced.
        quality: of the encoder, 1 to 100. PNG is always without loss.
        max_bytes: upper bound of the file, for gif, webp and mp4: quality is lowered for it, then the size.
        sound: what is heard, from the beginning on.
        on_notice: called with a sentence about what was lowered, or sound that the format cannot hold.
        on_finished: called with the path, and the whole file that gets that name next: who writes down then what it
            is knows it again, wherever the process is killed.

    Returns:
        The path.

    Raises:
        RequestError: unknown format; size, frame rate, quality or bound impossible for it; no place for a film.
        TakenError: the file exists, perhaps since the writing began.
        ConsistI2VError: the encoder or the disk failed, in their own words; or even the smallest film is too large.
    """
    path = Path(path)
    if format is None:
        format = path.suffix.removeprefix(".")
        path = path.with_suffix("") if format.lower() in FOLDERS else path
    format = format.lower()
    _check(path, format, quality, max_bytes)
    if sound and format not in WITH_SOUND:
        (on_notice or _ignore)(f"{path.name} is without sound, which {format} cannot hold.")
        sound = None
    options = Options(quality, comment, sound)
    notice = None
    with appearing(path, overwrite=overwrite, folder=format in FOLDERS) as made:
        footage = Footage(frames, fps)
        check_format(format, footage.width, footage.height, fps)
        if max_bytes is None:
            WRITERS[format](made, footage, options)
        else:
            notice = write_within(max_bytes, made, footage, options, format, path.name)
        if on_finished:
            on_finished(path, made)
    if notice and on_notice:
        on_notice(notice)
    return path


def stream_video(
    stream: IO[bytes],
    frames: Frames,
    fps: float,
    format: str,
    *,
    comment: str | None = None,
    quality: int = 85,
    max_bytes: int | None = None,
    sound: Soundtrack | None = None,
    on_notice: OnNotice | None = None,
) -> None:
    """Write the bytes of the file that `write_video` would write, once that is whole: players want its index first.

    Raises:
        RequestError: a format that is a folder.
        BrokenPipeError: nobody reads the stream any more.
        ConsistI2VError: as in `write_video`, or the stream cannot be written.
    """
    if format.lower() in FOLDERS:
        raise RequestError(f"{format} is a folder of frames, no stream; possible: {', '.join(STREAMABLE)}.")
    try:
        with tempfile.TemporaryDirectory(prefix="consisti2v-", ignore_cleanup_errors=True) as folder:
            path = write_video(
                Path(folder) / f"clip.{format.lower()}",
                frames,
                fps,
                format=format,
                comment=comment,
                quality=quality,
                max_bytes=max_bytes,
                sound=sound,
                on_notice=on_notice,
            )
            with path.open("rb") as film:
                _send(film, stream)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _no_room(error) from error
    except ConsistI2VError as error:
        if isinstance(error.__cause__, OSError) and tempfile.gettempdir() in str(error):
            raise _no_room(error.__cause__) from error
        raise


def _no_room(error: OSError) -> ConsistI2VError:
    place = tempfile.gettempdir()
    return ConsistI2VError(
        f"The film cannot be put together in {place}: {error.strerror}; TMPDIR names another folder for it."
    )


def _send(film: IO[bytes], stream: IO[bytes]) -> None:
    try:
        shutil.copyfileobj(film, stream)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        is_stdout = stream is getattr(sys.stdout, "buffer", None)
        name = "standard output" if is_stdout else getattr(stream, "name", "the stream")
        raise ConsistI2VError(f"{name} cannot be written: {error.strerror or error}.") from error


def _check(path: Path, format: str, quality: int, max_bytes: int | None) -> None:
    if format not in WRITERS:
        raise RequestError(f"{path.name}: unknown format {format!r}; possible: {', '.join(WRITERS)}.")
    if not 1 <= quality <= 100:
        raise RequestError(f"quality is {quality}; possible: 1 to 100.")
    if max_bytes is not None and format not in LOWEST:
        raise RequestError(f"{path.name}: the size of {format} files cannot be bounded; possible: {', '.join(LOWEST)}.")


def _ignore(_: str) -> None:
    pass
