"""Text files that people write, whatever their editor puts in front."""

from __future__ import annotations

import codecs
from pathlib import Path


def decode_text(data: bytes) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def read_text_file(path: Path | str) -> str:
    """A file's text, as of `decode_text`, with line ends of Unix. OSError where it cannot be read."""
    return decode_text(Path(path).read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
