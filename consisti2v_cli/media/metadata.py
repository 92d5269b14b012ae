"""The recipe inside the file: the comment tag of an MP4, the comment of a GIF."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import imageio_ffmpeg
from PIL import Image, UnidentifiedImageError

from consisti2v_cli.errors import RequestError

_SUB_BLOCK = 255  # bytes; GIF cuts its data into such blocks


def read_recipe(path: Path | str) -> str | None:
    """The comment that a film file carries: for those made here, the recipe as JSON. None where there is none.

    Raises:
        RequestError: the file is missing, or no film that can be read.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    with path.open("rb") as file:
        is_gif = file.read(6) in (b"GIF87a", b"GIF89a")
    return _read_gif(path) if is_gif else _read_container(path)


def with_gif_comment(gif: bytes, comment: str) -> bytes:
    """A GIF with a comment extension in front of its first frame.

    Args:
        gif: a whole GIF89a file.
        comment: any text; stored as UTF-8.
    """
    text = comment.encode()
    blocks = [text[i : i + _SUB_BLOCK] for i in range(0, len(text), _SUB_BLOCK)]
    extension = b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\x00"
    flags = gif[10]
    palette = 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
    start = 13 + palette  # header, screen descriptor, global palette
    return gif[:start] + extension + gif[start:]


def _read_gif(path: Path) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                comment = image.info.get("comment")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise RequestError(f"{path.name} cannot be read: {error}.") from error
    if isinstance(comment, bytes):
        return comment.decode("utf-8", errors="replace")
    return comment


def _read_container(path: Path) -> str | None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", "-f", "ffmetadata", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise RequestError(f"{path.name} is no film that can be read.")
    return _parse_ffmetadata(done.stdout.decode("utf-8", errors="replace")).get("comment")


def _parse_ffmetadata(text: str) -> dict[str, str]:
    """The global tags of ffmpeg's own metadata format: lines of `key=value`, a backslash before special characters."""
    tags: dict[str, str] = {}
    key: str | None = None
    word = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            word += next(characters, "")
        elif character == "=" and key is None:
            key, word = word, ""
        elif character == "\n":
            if key is None and word.startswith("["):  # chapters and streams follow
                break
            if key is not None:
                tags[key] = word
            key, word = None, ""
        else:
            word += character
    return tags
