"""The comment tag of an MP4, MOV, WebM, or Matroska file, read from its bytes: no process, and no more than headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LONGEST = 64_000_000  # bytes of a comment: more is damage

_ISO_MEDIA = re.compile(rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL)  # MP4, MOV, and all of their family
_MATROSKA = re.compile(rb"\x1a\x45\xdf\xa3")
_COMMENT_KEYS = (b"comment", b"com.apple.quicktime.comment")

# Matroska's elements (RFC 9559)
_SEGMENT, _CLUSTER, _TAGS, _TAG, _TARGETS = 0x18538067, 0x1F43B675, 0x1254C367, 0x7373, 0x63C0
_SIMPLE_TAG, _TAG_NAME, _TAG_STRING = 0x67C8, 0x45A3, 0x4487
_TARGET_IDS = (0x63C5, 0x63C9, 0x63C4, 0x63C6)  # of a track, edition, chapter, attachment: such tags are theirs alone


@dataclass(frozen=True)
class Span:
    """The content of a box or element in a file, from `begin` to before `end`."""

    kind: bytes | int
    begin: int
    end: int


def read_comment(path: Path) -> str | None:
    """The comment of a container; None where it has none, or where the file is of another kind, or damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
        whole = Span(b"", 0, file.seek(0, 2))
        read = next((read for magic, read in _READERS if magic.match(start)), None)
        comment = read(file, whole) if read else None
    return None if comment is None else comment.decode("utf-8", errors="replace")


def _iso_comment(file: IO[bytes], whole: Span) -> bytes | None:
    """ISO/IEC 14496-12: `moov` has tags as iTunes or QuickTime keep them, in itself or in its user data."""
    for moov in _boxes(file, whole, b"moov"):
        for place in (*_boxes(file, moov, b"udta"), moov):
            for meta in _boxes(file, place, b"meta"):
                if (comment := _listed_comment(file, _inner_meta(file, meta))) is not None:
                    return comment
            for text in _boxes(file, place, b"\xa9cmt"):
                return _content(file, text, skip=4)  # length and language
    return None


def _listed_comment(file: IO[bytes], meta: Span) -> bytes | None:
    """Of `ilst`, whose entries are named by their kind, or by their number among `keys`, counted from 1."""
    kinds = [b"\xa9cmt"]
    for keys in _boxes(file, meta, b"keys"):
        entries = _boxes(file, Span(b"", keys.begin + 8, keys.end))  # behind version and count
        names = [(_content(file, entry) or b"").lower() for entry in entries]
        kinds += [number.to_bytes(4, "big") for number, name in enumerate(names, start=1) if name in _COMMENT_KEYS]
    for tags in _boxes(file, meta, b"ilst"):
        for tag in _boxes(file, tags):
            if tag.kind in kinds:
                for value in _boxes(file, tag, b"data"):
                    return _content(file, value, skip=8)  # behind type and locale
    return None


def _inner_meta(file: IO[bytes], meta: Span) -> Span:
    """What is in a `meta` box: behind version and flags, which QuickTime's own lacks."""
    file.seek(meta.begin + 4)
    return meta if file.read(4) == b"hdlr" else Span(meta.kind, meta.begin + 4, meta.end)


def _boxes(file: IO[bytes], parent: Span, kind: bytes | None = None) -> Iterator[Span]:
    """The boxes in another one; of one kind, or all."""
    place = parent.begin
    while place + 8 <= parent.end:
        file.seek(place)
        header = file.read(16)
        size, begin = int.from_bytes(header[:4], "big"), place + 8
        if size == 1:
            size, begin = int.from_bytes(header[8:], "big"), place + 16
        end = place + size if size else parent.end  # 0: up to the end
        if end < begin or end > parent.end:
            return
        if kind in (None, header[4:8]):
            yield Span(header[4:8], begin, end)
        place = end


def _matroska_comment(file: IO[bytes], whole: Span) -> bytes | None:
    """RFC 9559: the tag COMMENT that is about the whole file."""
    for segment in _elements(file, whole, _SEGMENT):
        for tags in _elements(file, segment, _TAGS):
            for tag in _elements(file, tags, _TAG):
                targets = [entry.kind for target in _elements(file, tag, _TARGETS) for entry in _elements(file, target)]
                if any(kind in _TARGET_IDS for kind in targets):
                    continue
                for entry in _elements(file, tag, _SIMPLE_TAG):
                    parts = {part.kind: part for part in _elements(file, entry)}
                    if (_content(file, parts.get(_TAG_NAME)) or b"").upper() == b"COMMENT":
                        return _content(file, parts.get(_TAG_STRING))
    return None


def _elements(file: IO[bytes], parent: Span, kind: int | None = None) -> Iterator[Span]:
    """The EBML elements in another one (RFC 8794); of one kind, or all. What a cluster of unknown size holds is
    listed beside it.
    """
    place = parent.begin
    while place < parent.end:
        file.seek(place)
        header = file.read(12)  # an identifier of up to 4 bytes, a size of up to 8
        found, id_length = _number(header, keep_marker=True)
        size, size_length = _number(header[id_length:])
        if not (id_length and size_length):
            return
        begin = place + id_length + size_length
        unknown = size == (1 << 7 * size_length) - 1
        end = parent.end if unknown else begin + size
        if end > parent.end:
            return
        if kind in (None, found):
            yield Span(found, begin, end)
        place = begin if unknown and found == _CLUSTER else end


def _number(data: bytes, *, keep_marker: bool = False) -> tuple[int, int]:
    """An EBML number of variable length, and its length; (0, 0) for none."""
    length = 9 - data[0].bit_length() if data and data[0] else 0
    if not length or length > len(data):
        return 0, 0
    value = int.from_bytes(data[:length], "big")
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), length


def _content(file: IO[bytes], span: Span | None, *, skip: int = 0) -> bytes | None:
    if span is None or not 0 <= span.end - span.begin - skip <= LONGEST:
        return None
    file.seek(span.begin + skip)
    return file.read(span.end - span.begin - skip)


_READERS: list[tuple[re.Pattern[bytes], Callable[[IO[bytes], Span], bytes | None]]] = [
    (_ISO_MEDIA, _iso_comment),
    (_MATROSKA, _matroska_comment),
]
