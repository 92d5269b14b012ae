"""Any photo -> `uint8` RGB, `height width 3`: turned upright, without alpha, in sRGB; and fitted to a size."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, ImageColor

from consisti2v_cli.errors import RequestError

from .pictures import Source, open_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT_PIXELS = 51_000_000  # larger images are reduced; the largest frame has a third of that

_ORIENTATION = 0x0112  # EXIF
_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {  # bring `h w 3` with this orientation upright
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
_TURNED_BY_DECODER = ("TIFF", "HEIF")
_SWAPPED = (5, 6, 7, 8)  # orientations that swap width and height
_BAND = 2_000_000  # pixels that are converted at a time
_WIDE_SCALES = (1.0, 255.0, 65535.0, 2.0**31 - 1)  # what white may be where samples are wider than 8 bits


def read_image(source: Source, *, background: str = "white", name: str = "") -> NDArray[np.uint8]:
    """Read an image file, of an animated one the first frame.

    Args:
        source: path, or the file's content.
        background: colour behind transparent pixels: a name or `#rrggbb`.
        name: what to call the image in messages; the file's name by default.

    Returns:
        `height width 3`, upright, sRGB; of more than `KEPT_PIXELS`, reduced by a whole number.

    Raises:
        RequestError: the file is missing, no image, damaged, or impossibly large; an unknown colour.
    """
    parse_colour(background)  # a wrong one is said before anything else
    with open_picture(source, name) as image:
        return upright_rgb(image, background)


def upright_rgb(image: Image.Image, background: str = "white") -> NDArray[np.uint8]:
    """The current frame of an opened picture, as `read_image` has it."""
    turn = _TURNS.get(_orientation(image))
    if (factor := _factor(image)) > 1:
        image.draft(None, (image.width // factor, image.height // factor))  # JPEGs are decoded smaller at once
    image.load()
    pixels = _convert(image, parse_colour(background))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def lay_over(pixels: NDArray[np.uint8], colour: Colour) -> NDArray[np.uint8]:
    """Pictures with alpha, `h w 4`, over a colour: `h w 3`."""
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + np.array(colour, np.uint16) * (255 - alpha) + 127) // 255).astype(np.uint8)


def read_size(source: Source, *, name: str = "") -> tuple[int, int]:
    """Width and height of an image after its EXIF rotation, from its header. RequestError as in `read_image`."""
    with open_picture(source, name) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SWAPPED else (width, height)


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


def _orientation(image: Image.Image) -> int:
    """Of the EXIF data, 1 to 8; 1, which is upright, where they are damaged, or the decoder turns the picture."""
    if image.format in _TURNED_BY_DECODER:
        return 1
    with suppress(Exception):
        found = image.getexif().get(_ORIENTATION, 1)
        return int(found) if found in _TURNS else 1
    return 1


def _factor(image: Image.Image) -> int:
    return math.ceil(math.sqrt(image.width * image.height / KEPT_PIXELS))


def _convert(image: Image.Image, background: Colour) -> NDArray[np.uint8]:
    """Any mode -> `h w 3`, reduced where it is very large; in bands, which take less memory than the whole."""
    factor = max(1, _factor(image))
    rows = max(1, _BAND // (image.width * factor)) * factor
    bands = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    white = _white(image, bands) if _is_wide(image) else 0.0
    parts = []
    for band in bands:
        part = image.crop(band)
        rgb = _wide_to_grey(part, white).convert("RGB") if _is_wide(image) else _to_rgb(part, background)
        parts.append(np.asarray(rgb.reduce(factor) if factor > 1 else rgb))
    return np.concatenate(parts)


def _to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """Any mode of 8 bits a sample -> RGB."""
    if not image.has_transparency_data:
        return _to_srgb(image)
    layered = image.convert("RGBA")  # a palette or key colour becomes alpha
    colours = _to_srgb(Image.merge("RGB", layered.split()[:3]), image.info.get("icc_profile"))
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(colours, mask=layered.getchannel("A"))
    return canvas


def _is_wide(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))  # 16 or 32 bits a sample, or float


def _white(image: Image.Image, bands: list[tuple[int, int, int, int]]) -> float:
    """What stands for white in wide samples: the least usual maximum that fits."""
    highest = max(float(np.nanmax(np.asarray(image.crop(band)), initial=0)) for band in bands)
    usual = _WIDE_SCALES[2:] if image.mode.startswith("I") else _WIDE_SCALES
    return next((scale for scale in usual if highest <= scale), highest)


def _wide_to_grey(image: Image.Image, white: float) -> Image.Image:
    """16 or 32 bits a sample, or float -> 8 bits, in proportion."""
    samples = np.asarray(image).astype(np.float64)
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
