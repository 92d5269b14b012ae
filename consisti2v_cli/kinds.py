"""Kinds of files that people have: pictures, videos, and what is neither, told by content and by name.

The one table of them: what is read, what the messages and `--help` list, and what a folder's scan takes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

START = 4096  # bytes of a file that tell its kind

Family = Literal["picture", "video", "raw", "drawing"]


@dataclass(frozen=True)
class Kind:
    """A kind of files."""

    key: str  # as `consisti2v info` prints it
    name: str  # as people write it
    family: Family
    suffixes: tuple[str, ...]
    magic: re.Pattern[bytes] | None = None  # how such files begin; None where only the name tells
    decoder: str = ""  # Pillow's name for a picture's format
    extra: str = ""  # of this package, which reads it; "" where no extra is needed


def _kind(key: str, name: str, family: Family, suffixes: str, magic: bytes | None = None, **more: str) -> Kind:
    pattern = re.compile(magic, re.DOTALL) if magic is not None else None
    return Kind(key, name, family, tuple(f".{suffix}" for suffix in suffixes.split()), pattern, **more)


_AVIF = rb"....ftyp(....){0,20}?avi[fs]"  # as the major brand, or a compatible one
_HEIC = rb"....ftyp(he[iv][a-z]|mif1|msf1)"
_SVG = rb"(\xef\xbb\xbf)?\s*(<\?xml.*?|<!--.*?)?\s*(<!DOCTYPE svg.*?)?<svg[\s>]"
_GZIP = b"\x1f\x8b"
_TIFF = rb"II\*\0|MM\0\*|II\+\0|MM\0\+"

KINDS = (  # the first one whose magic matches is taken
    _kind("jpeg", "JPEG", "picture", "jpg jpeg jpe jfif mpo", rb"\xff\xd8\xff", decoder="JPEG"),
    _kind("png", "PNG", "picture", "png apng", rb"\x89PNG\r\n\x1a\n", decoder="PNG"),
    _kind("webp", "WebP", "picture", "webp", rb"RIFF....WEBP", decoder="WEBP"),
    _kind("avif", "AVIF", "picture", "avif avifs", _AVIF, decoder="AVIF"),
    _kind("heic", "HEIC", "picture", "heic heif hif heics heifs", _HEIC, decoder="HEIF"),
    _kind("cr2", "RAW", "raw", "cr2", rb"II\*\0....CR"),
    _kind("cr3", "RAW", "raw", "cr3 crm", rb"....ftypcrx "),
    _kind("raf", "RAW", "raw", "raf", rb"FUJIFILMCCD-RAW"),
    _kind("orf", "RAW", "raw", "orf", rb"IIR[OS]|MMOR"),
    _kind("rw2", "RAW", "raw", "rw2 rwl raw", rb"IIU\0"),
    _kind("x3f", "RAW", "raw", "x3f", rb"FOVb"),
    _kind("mrw", "RAW", "raw", "mrw", rb"\0MRM"),
    _kind("raw", "RAW", "raw", "dng nef nrw arw sr2 srf pef srw 3fr fff iiq erf kdc dcr mef mos"),  # kinds of TIFF
    _kind("tiff", "TIFF", "picture", "tif tiff", _TIFF, decoder="TIFF"),
    _kind("bmp", "BMP", "picture", "bmp dib", rb"BM....\0\0\0\0", decoder="BMP"),
    _kind("gif", "GIF", "picture", "gif", rb"GIF8[79]a", decoder="GIF"),
    _kind(
        "jp2",
        "JPEG 2000",
        "picture",
        "jp2 j2k jpf jpx j2c jpc",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        decoder="JPEG2000",
    ),
    _kind("psd", "PSD", "picture", "psd", rb"8BPS\0\x01", decoder="PSD"),
    _kind("ico", "ICO", "picture", "ico", rb"\x00\x00\x01\x00[^\x00]\x00", decoder="ICO"),
    _kind("tga", "TGA", "picture", "tga icb vda vst", decoder="TGA"),
    _kind("jxl", "JPEG XL", "picture", "jxl", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", decoder="JXL", extra="jxl"),
    _kind("pdf", "PDF", "drawing", "pdf ai", rb"%PDF"),
    _kind("eps", "EPS", "drawing", "eps ps", rb"%!PS|\xc5\xd0\xd3\xc6"),
    _kind(
        "svg", "SVG", "drawing", "svg svgz", rb"(\xef\xbb\xbf)?\s*(<\?xml.*?|<!--.*?)?\s*(<!DOCTYPE svg.*?)?<svg[\s>]"
    ),
    _kind("mov", "MOV", "video", "mov qt", rb"....ftypqt  |....(moov|mdat|wide|free|skip|pnot)"),
    _kind("mp4", "MP4", "video", "mp4 m4v 3gp 3g2", rb"....ftyp"),
    _kind("webm", "WebM", "video", "webm", rb"\x1aE\xdf\xa3.{,60}webm"),
    _kind("mkv", "Matroska", "video", "mkv", rb"\x1aE\xdf\xa3"),
    _kind("avi", "AVI", "video", "avi", rb"RIFF....AVI "),
    _kind("mpeg", "MPEG", "video", "mpg mpeg vob", rb"\x00\x00\x01[\xb3\xba]"),
    _kind("ts", "MPEG-TS", "video", "ts mts m2ts", rb"(....)?\x47.{187}(....)?\x47"),
    _kind("flv", "FLV", "video", "flv", rb"FLV\x01"),
    _kind("wmv", "WMV", "video", "wmv asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    _kind("ogv", "Ogg", "video", "ogv ogg", rb"OggS"),
    _kind("y4m", "Y4M", "video", "y4m", rb"YUV4MPEG2"),
    _kind("dv", "DV", "video", "dv", rb"\x1f\x07\x00"),
)
MOVING = ("gif", "webp", "png", "avif")  # kinds of pictures that may be animated
PICTURES = tuple(kind for kind in KINDS if kind.family == "picture")

_BY_SUFFIX = {suffix: kind for kind in KINDS for suffix in kind.suffixes}
_SUBFILE_TYPE, _MAKE, _SUB_IFDS, _DNG_VERSION = 0xFE, 0x10F, 0x14A, 0xC612  # tags of TIFF

_EXPORT = {  # what to do with files of a family that is not read
    "raw": "is a RAW photo, which holds no finished picture; develop and export it as JPEG or TIFF first, with the "
    "camera's own program, darktable, or Lightroom.",
    "drawing": "is a {name} document, not a picture; export it as PNG at the size you need first, for example with "
    "Inkscape.",
}


def suffixes(*families: Family) -> tuple[str, ...]:
    """The suffixes, such as `.jpg`, of the kinds of some families."""
    return tuple(suffix for kind in KINDS if kind.family in families for suffix in kind.suffixes)


def listed_pictures() -> str:
    """The kinds of pictures that are read, for people: 'JPEG, PNG, ... and, with the extra jxl, JPEG XL'."""
    plain = ", ".join(kind.name for kind in PICTURES if not kind.extra)
    return plain + "".join(f", and with the extra {kind.extra} {kind.name}" for kind in PICTURES if kind.extra)


def by_name(name: str) -> Kind | None:
    """The kind that a file's name promises."""
    return _BY_SUFFIX.get(os.path.splitext(name)[1].lower())


def by_content(start: bytes, name: str = "") -> Kind | None:
    """The kind of a file that begins with these bytes.

    Args:
        start: its first `START` bytes, or all of it.
        name: of the file; decides where content does not: between TIFF and the RAW formats made of it, and for TGA.
    """
    named = by_name(name)
    found = next((kind for kind in KINDS if kind.magic and kind.magic.match(start)), None)
    if found is None:
        return _without_magic(start, named)
    if found.key == "tiff" and (_is_raw_tiff(start) or (named and named.family == "raw")):
        return _BY_SUFFIX[".dng"]
    return found


def of_file(path: Path) -> Kind | None:
    """The kind of a file, from its first bytes. OSError where it cannot be read."""
    with path.open("rb") as file:
        return by_content(file.read(START), path.name)


def how_to_export(kind: Kind) -> str | None:
    """What a person does with a file of a kind that is never read, as the end of a sentence; None for other kinds."""
    sentence = _EXPORT.get(kind.family)
    return sentence and sentence.format(name=kind.name)


def _without_magic(start: bytes, named: Kind | None) -> Kind | None:
    """The kind of a file whose beginning is no proof, though its name may be right."""
    if named and named.key == "tga" and _is_tga(start):
        return named
    return named if named and named.key == "svg" and start.startswith(_GZIP) else None


def _is_raw_tiff(start: bytes) -> bool:
    """Whether a TIFF's first directory is a camera's: a DNG's, or that of a small picture beside the raw one."""
    order: Literal["little", "big"] = "little" if start[:1] == b"I" else "big"

    def number(place: int, length: int) -> int:
        return int.from_bytes(start[place : place + length], order)

    place = number(4, 4)
    entries = {
        number(at, 2): number(at + 8, 4 if number(at + 2, 2) == 4 else 2)  # its value, if it is one long or short
        for at in range(place + 2, min(place + 2 + 12 * number(place, 2), len(start) - 11), 12)
    }
    is_small = entries.get(_SUBFILE_TYPE, 0) & 1
    return _DNG_VERSION in entries or bool(is_small and _MAKE in entries and _SUB_IFDS in entries)


def _is_tga(start: bytes) -> bool:
    """Whether the numbers of a TGA's header, which has no magic, are possible ones."""
    if len(start) < 18:
        return False
    map_type, image_type, depth = start[1], start[2], start[16]
    mapped = image_type in (1, 9)
    sized = int.from_bytes(start[12:14], "little") and int.from_bytes(start[14:16], "little")
    return bool(sized) and map_type == mapped and image_type in (1, 2, 3, 9, 10, 11) and depth in (8, 16, 24, 32)
