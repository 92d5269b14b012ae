"""Opening picture files of every kind that is read; whatever goes wrong is a RequestError that names the file."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from consisti2v_cli.errors import ConsistI2VError, RequestError
from consisti2v_cli.kinds import START, Kind, by_content, how_to_export, listed_pictures, of_file

Source = Path | str | bytes  # a file, or a file's content

# More pixels are refused: they would take more than about a gigabyte to decode. Some decoders hold several copies.
# Large JPEGs are decoded at half their size: 200 million pixels took 0.55 GB, or 0.8 to 1.4 GB of a progressive file.
MOST_PIXELS = 120_000_000
MOST_PIXELS_OF = {"jpeg": 250_000_000, "heic": 100_000_000, "webp": 55_000_000, "avif": 55_000_000}

# Pillow's own bounds for a PNG's texts and colour profile, 1 MB each, are too low for the workflows that programs keep
# there. These are bounds on what is unpacked, against files that are made to fill the memory.
PngImagePlugin.MAX_TEXT_CHUNK = 64_000_000
PngImagePlugin.MAX_TEXT_MEMORY = 256_000_000


@contextmanager
def open_picture(source: Source, name: str = "") -> Iterator[Image.Image]:
    """Open a picture; its kind is told by its content.

    Args:
        source: path, or the file's content.
        name: what to call it in messages; the file's name by default.

    Raises:
        RequestError: it is missing, no picture, impossibly large, or whatever the decoder says until the block ends.
    """
    name = name or (Path(source).name if isinstance(source, str | Path) else "the image")
    try:
        with warnings.catch_warnings(), _own_bounds():
            warnings.simplefilter("ignore")  # large photos, odd metadata: what cannot be read is an error anyway
            kind = _picture_kind(source, name)
            content = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(content, formats=[_with_decoder(kind, name)]) as image:
                _check_pixels(image, kind, name)
                yield image
    except ConsistI2VError:
        raise
    except UnidentifiedImageError:
        raise RequestError(f"{name} cannot be read: this {kind.name} is damaged, or of an unknown version.") from None
    except FileNotFoundError:
        raise RequestError(f"There is no image {name}.") from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        reason = "the end of the file is missing" if "truncated" in reason.lower() else reason.rstrip(".")
        raise RequestError(f"{name} cannot be read: {reason}.") from error


def _picture_kind(source: Source, name: str) -> Kind:
    """The kind of a picture; RequestError, with what to do, for any other file."""
    if isinstance(source, bytes):
        kind = by_content(source[:START])
    else:
        _check_file(Path(source), name)
        kind = of_file(Path(source))
    if kind is None:
        raise RequestError(f"{name} is no image that can be read ({listed_pictures()}).")
    if advice := how_to_export(kind):
        raise RequestError(f"{name} {advice}")
    if kind.family == "video":
        raise RequestError(f"{name} is a film, and an image is expected; consisti2v extend goes on from a film.")
    return kind


def _check_file(path: Path, name: str) -> None:
    """A folder is no image, and a pipe would be waited for forever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise RequestError(f"{name} is a folder; an image is expected.")
    if not stat.S_ISREG(mode):
        raise RequestError(f"{name} is no ordinary file but a pipe or a device; an image is expected.")


def _with_decoder(kind: Kind, name: str) -> str:
    """Pillow's name for a kind of pictures, the decoder of which is ready then."""
    if kind.key == "heic":
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    elif kind.key == "jxl":
        try:
            import pillow_jxl  # noqa: F401  # registers itself
        except ImportError:
            raise RequestError(
                f"{name} is a JPEG XL picture, which needs the extra jxl: pip install 'consisti2v-cli[jxl]'"
            ) from None
    return kind.decoder


def _check_pixels(image: Image.Image, kind: Kind, name: str) -> None:
    most = MOST_PIXELS_OF.get(kind.key, MOST_PIXELS)
    if image.width * image.height > most:
        size = f"{image.width}x{image.height}; possible: {most // 10**6} million"
        raise RequestError(f"{name} has too many pixels; make it smaller first ({size}).")


@contextmanager
def _own_bounds() -> Iterator[None]:
    """Without Pillow's bound on pixels: ours, by kind, hold instead."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
