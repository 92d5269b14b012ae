"""The ffmpeg that imageio-ffmpeg carries: pictures into it, pictures out of it, its failures in a sentence."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from consisti2v_cli.errors import ConsistI2VError, RequestError

SCALER = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"

_DISK = ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EACCES", "EIO", "ENOENT", "ENOTDIR", "ESTALE")  # what goes wrong there
_DISK_CODES = [getattr(errno, name) for name in _DISK if hasattr(errno, name)]


def executable() -> str:
    """The ffmpeg program. ConsistI2VError where there is none that starts."""
    try:
        program: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        program = "ffmpeg"
    if not shutil.which(program):
        raise ConsistI2VError(f"There is no {program}, which writes and reads films; reinstall imageio-ffmpeg.")
    return program


def address(path: Path) -> str:
    """A file for ffmpeg, which would take a name such as `a:b.mp4` for an address."""
    return f"file:{path}"


def raw_input(width: int, height: int, fps: float | Fraction, pixels: str = "rgb24") -> list[str]:
    """The options for raw pictures from standard input, in front of the others."""
    rate = Fraction(fps).limit_denominator(1001)
    layout = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-framerate", str(rate)]
    return [*layout, "-i", "pipe:0"]


def encode(options: Sequence[str], pictures: Iterable[bytes | memoryview]) -> None:
    """Run an ffmpeg that writes a file from pictures in its standard input.

    Args:
        options: inputs, first of them `raw_input`, codecs, and the file.
        pictures: raw, one by one.

    Raises:
        OSError: the disk is full, the folder gone, or the like.
        ConsistI2VError: the encoder failed otherwise; in its own words.
    """
    with tempfile.TemporaryFile() as words:
        # A session of its own: Ctrl-C is for us, a film that is being written gets finished.
        process = subprocess.Popen(
            [executable(), "-v", "error", "-nostdin", "-y", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,
        )
        assert process.stdin
        try:
            for picture in pictures:
                try:
                    process.stdin.write(picture)
                except BrokenPipeError:  # ffmpeg gave up, and says why
                    break
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(OSError):
                process.stdin.close()
            process.wait()
        if process.returncode:
            raise failure(process.returncode, words)


def failure(code: int, stderr: IO[bytes]) -> Exception:
    """What an ffmpeg that ended with a code has to say: the disk's reason where it names one, else its last line."""
    stderr.seek(0)
    words = stderr.read().decode(errors="replace")
    if hasattr(signal, "SIGXFSZ") and code == -signal.SIGXFSZ:
        return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    for reason in _DISK_CODES:
        if os.strerror(reason) in words:
            return OSError(reason, os.strerror(reason))
    if 256 - code in _DISK_CODES:  # the code of a process has 8 bits; its words are lost where TMPDIR is full too
        return OSError(256 - code, os.strerror(256 - code))
    end = f"ffmpeg was ended by signal {-code}" if code < 0 else f"ffmpeg ended with {code}"
    last = next((line.strip() for line in reversed(words.split("\n")) if line.strip()), end)
    return ConsistI2VError(f"The film could not be encoded: {last}")


@contextmanager
def decoder(path: Path, options: Sequence[str], *, before: Sequence[str] = ()) -> Iterator[IO[bytes]]:
    """What ffmpeg makes of a film's pictures, as a stream; ffmpeg ends with the block. It reads files, no addresses.

    Args:
        path: the film.
        options: of the output; the last one is `-`.
        before: options of the input.

    Raises:
        RequestError: there is no such file.
    """
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    source = ["-protocol_whitelist", "file,pipe", *before, "-i", address(path), "-map", "0:V:0"]
    process = subprocess.Popen(
        [executable(), "-v", "error", "-nostdin", *source, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    try:
        yield process.stdout
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
