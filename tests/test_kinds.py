"""What a file is, told by its content; by its name where that must decide."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from consisti2v_cli import kinds
from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.image import read_image, read_size
from consisti2v_cli.media.reading import kind_of


def tiff(**entries):
    """The first directory of a TIFF with these tags, each one a long."""
    tags = sorted((getattr(kinds, f"_{name}"), value) for name, value in entries.items())
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(4)


RAW = {
    "a.dng": tiff(DNG_VERSION=0x0401, MAKE=200),
    "b.nef": tiff(SUBFILE_TYPE=1, MAKE=200, SUB_IFDS=300),
    "c.cr2": b"II*\0\x10\0\0\0CR\2\0",
    "d.cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "e.raf": b"FUJIFILMCCD-RAW 0201",
    "f.orf": b"IIRO\x08\0\0\0",
    "g.rw2": b"IIU\0\x18\0\0\0",
    "no name.tif": tiff(SUBFILE_TYPE=1, MAKE=200, SUB_IFDS=300),
    "small.ARW": tiff(MAKE=200),  # told by its name
}
DRAWINGS = {
    "a.svg": b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="http://www.w3.org/2000/svg">',
    "b.svg": b"\xef\xbb\xbf  <svg>",
    "c.svgz": b"\x1f\x8b\x08\0",
    "d.pdf": b"%PDF-1.7",
    "e.ai": b"%PDF-1.5",
    "f.eps": b"%!PS-Adobe-3.0 EPSF-3.0",
}


@pytest.mark.parametrize("name", [*RAW, *DRAWINGS])
def test_what_must_be_exported_first_says_so(tmp_path, name):
    path = tmp_path / name
    path.write_bytes((RAW | DRAWINGS)[name].ljust(600, b"\0"))
    said = "RAW photo.*develop and export it as JPEG" if name in RAW else "document.*export it as PNG"
    for read in (read_image, read_size, kind_of):
        with pytest.raises(RequestError, match=rf"^{name} is a .*{said}"):
            read(path)


@pytest.mark.parametrize(
    ("start", "key"),
    [
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf", "heic"),
        (b"\0\0\0\x1cftypmsf1\0\0\0\0msf1hevcmiaf", "heic"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "mov"),
        (b"\0\0\0\x14ftypisom\0\0\0\0isom", "mp4"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "mov"),
        (b"G" + bytes(187) + b"G", "ts"),
        (bytes(4) + b"G" + bytes(187 + 4) + b"G", "ts"),
        (b"Dear Sir or Madam", None),
        (b"BMW drives off", None),
        (b"", None),
        (tiff(MAKE=200, SUB_IFDS=300), "tiff"),  # a large picture with smaller ones, as of a scanner
    ],
)
def test_kinds_by_content(start, key):
    found = kinds.by_content(start)
    assert (found and found.key) == key


def test_names_do_not_deceive():
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    for name in ("photo.jpg", "photo.nef", "photo.mp4", "photo", "photo.tga"):
        assert kinds.by_content(picture.getvalue(), name).key == "png"


def test_no_suffix_means_two_things():
    suffixes = [suffix for kind in kinds.KINDS for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_the_readme_lists_the_kinds_that_are_read():
    readme = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())
    assert kinds.listed_pictures() in readme
