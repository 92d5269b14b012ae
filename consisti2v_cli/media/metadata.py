"""The recipe inside the file: a comment tag in films, a GIF's comment, text in PNG frames, WebP's EXIF description."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import of_file

from .containers import read_comment
from .ffmpeg import address
from .pictures import open_picture
from .scratch import frame_files

FRAME_RATE = "Frame rate"  # the key of a PNG frame's other text

_COMMENT = "Comment"  # a PNG's standard key
_DESCRIPTION = 0x010E  # EXIF's ImageDescription
_SUB_BLOCK = 255  # bytes; GIF cuts its data into such blocks
_QUICKTIME_MOST = 60_000  # bytes of a classic tag, whose length has 16 bits


def read_recipe(path: Path | str) -> str | None:
    """The comment that a film carries: for those made here, the recipe as JSON. None where there is none.

    Args:
        path: a film, a folder of PNG frames, or one of these frames.

    Raises:
        RequestError: it is missing, or no film or picture that can be read.
    """
    path = Path(path)
    if path.is_dir():
        path = frame_files(path)[0]
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    try:
        kind = of_file(path)
        if kind is None:
            raise RequestError(f"{path.name} is no film or picture that can be read.")
        if kind.family == "video":
            return read_comment(path)
    except OSError as error:
        raise RequestError(f"{path.name} cannot be read: {error.strerror}.") from error
    if kind.key not in _PICTURES:
        return None
    with open_picture(path) as image:
        return _PICTURES[kind.key](image)


def container_note(note: Path, format: str, comment: str | None) -> tuple[list[str], list[str]]:
    """ffmpeg's options that put a comment, and no other tag, into a film: those of its second input, and of the output.

    Args:
        note: a file to be written and read by ffmpeg; unlike an argument it may be as long as it likes.
        format: mp4, mov or webm.
        comment: any text; line ends become those of Unix.
    """
    if not comment:
        return [], ["-map_metadata", "-1"]
    text = comment.replace("\r\n", "\n").replace("\r", "\n")
    escaped = re.sub(r"([=;#\\\n])", r"\\\1", text).encode(errors="replace")
    note.write_bytes(b";FFMETADATA1\ncomment=" + escaped)  # a line end would be taken into a last backslash
    by_keys = ["-movflags", "use_metadata_tags"] if format == "mov" and len(escaped) > _QUICKTIME_MOST else []
    return ["-f", "ffmetadata", "-i", address(note)], ["-map_metadata", "1", *by_keys]


def add_gif_comment(path: Path, comment: str) -> None:
    """Put a comment extension, in UTF-8, in front of a GIF's first frame."""
    text = comment.encode(errors="replace")
    blocks = [text[i : i + _SUB_BLOCK] for i in range(0, len(text), _SUB_BLOCK)]
    extension = b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\x00"
    commented = path.with_name("commented")
    with path.open("rb") as old, commented.open("wb") as new:
        header = old.read(13)  # signature and screen descriptor
        palette = old.read(3 * 2 ** ((header[10] & 7) + 1)) if header[10] & 0x80 else b""
        new.write(header + palette + extension)
        shutil.copyfileobj(old, new, 1 << 20)
    os.replace(commented, path)


def add_webp_description(path: Path, text: str, size: tuple[int, int]) -> None:
    """Append EXIF with the text, in UTF-8, as its description. `size`: width and height."""
    exif = Image.Exif()
    exif[_DESCRIPTION] = text.encode(errors="replace")
    content = exif.tobytes().removeprefix(b"Exif\x00\x00")
    with path.open("r+b") as file:
        if file.read(16)[12:] != b"VP8X":  # a single frame, in the simple format, which has no metadata
            file.seek(12)
            picture = file.read()
            canvas = b"".join((side - 1).to_bytes(3, "little") for side in size)
            file.seek(12)
            file.write(b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + canvas + picture)
        file.seek(20)
        flags = file.read(1)[0]
        file.seek(20)
        file.write(bytes([flags | 0x08]))  # it has EXIF
        file.seek(0, os.SEEK_END)
        file.write(b"EXIF" + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2))
        length = file.tell() - 8
        file.seek(4)
        file.write(length.to_bytes(4, "little"))


def png_note(fps: float, comment: str | None) -> PngInfo:
    """The text chunks of a PNG frame."""
    note = PngInfo()
    note.add_text(FRAME_RATE, f"{fps!r}")
    if comment:
        note.add_itxt(_COMMENT, comment.encode(errors="replace").decode(), zip=True)
    return note


def _from_gif(image: Image.Image) -> str | None:
    comment = image.info.get("comment")
    return comment.decode("utf-8", errors="replace") if isinstance(comment, bytes) else comment


def _from_png(image: Image.Image) -> str | None:
    comment = image.info.get(_COMMENT)
    return None if comment is None else str(comment)


def _from_webp(image: Image.Image) -> str | None:
    description = image.getexif().get(_DESCRIPTION)  # Pillow takes its bytes for Latin-1
    if not isinstance(description, str):
        return None
    return description.encode("latin-1", errors="replace").decode("utf-8", errors="replace")


_PICTURES: dict[str, Callable[[Image.Image], str | None]] = {"gif": _from_gif, "png": _from_png, "webp": _from_webp}
