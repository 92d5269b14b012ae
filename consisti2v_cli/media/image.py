"""Any photo -> `uint8` RGB, `height width 3`: turned upright, without alpha, in sRGB; and fitted to a size."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from consisti2v_cli.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Source = Path | str | bytes  # a file, or a file's content

_ORIENTATION = 0x0112  # EXIF
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
_DAMAGED = (  # what Pillow's decoders raise
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    struct.error,
    zlib.error,
)
_WIDE_SCALES = (1.0, 255.0, 65535.0, 2.0**31 - 1)  # what white may be where samples are wider than 8 bits


def read_image(source: Source, *, background: str = "white", name: str = "") -> NDArray[np.uint8]:
    """Read an image file, of an animated one the first frame.

    Args:
        source: path, or the file's content.
        background: colour behind transparent pixels: a name or `#rrggbb`.
        name: what to call the image in messages; the file's name by default.

    Returns:
        `height width 3`, upright, sRGB.

    Raises:
        RequestError: the file is missing, no image, damaged, or impossibly large; an unknown colour.
    """
    colour = parse_colour(background)
    with _opened(source, name) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return np.asarray(_to_rgb(upright, colour)).copy()


def read_size(source: Source, *, name: str = "") -> tuple[int, int]:
    """Width and height of an image after its EXIF rotation, from its header. RequestError as in `read_image`."""
    with _opened(source, name) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def parse_colour(text: str) -> tuple[int, int, int]:
    """`white` or `#ffffff` -> (255, 255, 255). RequestError for anything that is no colour."""
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise RequestError(f"background is {text!r}; possible: a colour's name, such as white, or #rrggbb.") from None
    return red, green, blue


def fit_image(
    pixels: NDArray[np.uint8], width: int, height: int, fit: str = "crop", *, background: str = "white"
) -> NDArray[np.uint8]:
    """Bring an image to a size, with anti-aliasing.

    Args:
        pixels: `h w 3`.
        width, height: of the result.
        fit: a key of `FITS`: `crop` cuts off what stands over, `pad` adds background, `stretch` distorts.
        background: colour beside padded images.

    Returns:
        `height width 3`.
    """
    image = Image.fromarray(pixels)
    return np.asarray(FITS[fit](image, (width, height), parse_colour(background))).copy()


Size = tuple[int, int]
Colour = tuple[int, int, int]


def _crop(image: Image.Image, size: Size, colour: Colour) -> Image.Image:
    share = min(image.width / size[0], image.height / size[1])
    width, height = size[0] * share, size[1] * share
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))


def _pad(image: Image.Image, size: Size, colour: Colour) -> Image.Image:
    share = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    canvas = Image.new("RGB", size, colour)
    canvas.paste(image.resize(inner, Image.Resampling.LANCZOS), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas


def _stretch(image: Image.Image, size: Size, colour: Colour) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


FITS: dict[str, Callable[[Image.Image, Size, Colour], Image.Image]] = {
    "crop": _crop,
    "pad": _pad,
    "stretch": _stretch,
}


@contextmanager
def _opened(source: Source, name: str) -> Iterator[Image.Image]:
    """Open an image; everything that goes wrong until the block ends is a RequestError that names it."""
    name = name or (Path(source).name if isinstance(source, str | Path) else "the image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large photos, odd metadata: what cannot be read is an error anyway
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except UnidentifiedImageError:
        raise RequestError(f"{name} is no image that can be read (JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF).") from None
    except Image.DecompressionBombError as error:
        raise RequestError(f"{name} has too many pixels; make it smaller first ({error}).") from None
    except FileNotFoundError:
        raise RequestError(f"There is no image {name}.") from None
    except _DAMAGED as error:
        raise RequestError(f"{name} cannot be read: {error}.") from error


def _to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """Any mode -> RGB."""
    if image.mode.startswith(("I", "F")):
        return _wide_to_grey(image).convert("RGB")
    if not image.has_transparency_data:
        return _to_srgb(image)
    layered = image.convert("RGBA")  # a palette or key colour becomes alpha
    colours = _to_srgb(Image.merge("RGB", layered.split()[:3]), image.info.get("icc_profile"))
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(colours, mask=layered.getchannel("A"))
    return canvas


def _wide_to_grey(image: Image.Image) -> Image.Image:
    """16 or 32 bits a sample, or float -> 8 bits, in proportion. White is the least usual maximum that fits."""
    samples = np.asarray(image).astype(np.float64)
    highest = float(np.nanmax(samples, initial=0))
    usual = _WIDE_SCALES[2:] if image.mode.startswith("I") else _WIDE_SCALES
    white = next((scale for scale in usual if highest <= scale), highest)
    grey = np.nan_to_num(samples / white * 255, nan=0.0, posinf=255.0, neginf=0.0)
    return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """To RGB, through the image's own colour profile where it has one that works."""
    profile = profile or image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            own = ImageCms.ImageCmsProfile(BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")
