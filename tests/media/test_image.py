"""Every kind of photo becomes upright 8-bit RGB; what is no photo is a message that names it."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin
from pillow_heif import from_bytes, register_heif_opener

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import PICTURES, listed_pictures
from consisti2v_cli.media import image, pictures
from consisti2v_cli.media.image import fit_image, read_image, read_size
from consisti2v_cli.media.metadata import read_recipe

pytest.importorskip("pillow_jxl", reason="install JPEG XL's plugin: pip install '.[test]'")
register_heif_opener()


def gradient(width, height):
    """Red grows to the right, green downwards: `height width 3`."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([x, y, (x + y) / 2], axis=-1).round().astype(np.uint8)


# How each EXIF orientation must be turned to stand upright, as numpy operations.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


TURNED = ("jpg", "png", "webp", "avif", "tiff", "heic", "jxl")  # the formats that say how they are turned


@pytest.mark.parametrize("suffix", TURNED)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright_once(tmp_path, suffix, orientation):
    stored = Image.fromarray(gradient(96, 64))
    stored.getexif()[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    exif = {} if suffix in ("heic", "jxl") else {"exif": stored.getexif()}  # these two take the picture's own
    stored.save(path, **exif, **({} if suffix in ("png", "tiff") else {"quality": 95}))
    expected = UPRIGHT[orientation](gradient(96, 64)).astype(int)
    pixels = read_image(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 3
    assert read_size(path) == (pixels.shape[1], pixels.shape[0])


def test_exif_of_a_heic_does_not_turn_it(tmp_path):
    """The format has properties of its own for that; what EXIF says is for people's information."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(96, 64)).save(tmp_path / "told.heic", exif=exif)
    assert read_size(tmp_path / "told.heic") == (96, 64)
    assert read_image(tmp_path / "told.heic").shape == (64, 96, 3)


@pytest.mark.parametrize("suffix", [kind.suffixes[0] for kind in PICTURES if kind.key not in ("psd", "ico")])
def test_every_format_is_read(photo, suffix):
    pixels = read_image(photo(f"photo.{suffix}"))
    assert pixels.shape == (64, 96, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - gradient(96, 64).astype(int)).mean() < 12


def test_the_largest_picture_of_an_icon(tmp_path):
    large = Image.fromarray(gradient(64, 64))
    large.save(tmp_path / "icon.ico", sizes=[(16, 16), (64, 64), (32, 32)])
    assert (read_image(tmp_path / "icon.ico") == gradient(64, 64)).all()


def test_a_layered_drawing_is_read_flat(tmp_path):
    """A PSD with its flat picture, uncompressed: planes of red, green and blue."""
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 64, 96, 8, 3)
    (tmp_path / "flat.psd").write_bytes(header + bytes(14) + gradient(96, 64).transpose(2, 0, 1).tobytes())
    assert (read_image(tmp_path / "flat.psd") == gradient(96, 64)).all()


def test_a_motion_photo_is_a_photo(photo):
    """A video behind the picture, as phones store it."""
    path = photo("motion.jpg", quality=95)
    plain = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(1000))
    assert (read_image(path) == plain).all()


@pytest.mark.parametrize(("name", "mode"), [("p.png", "P"), ("l.png", "L"), ("cmyk.jpg", "CMYK"), ("one.png", "1")])
def test_every_mode_becomes_rgb(photo, name, mode):
    pixels = read_image(photo(name, mode=mode)).astype(int)
    expected = np.asarray(Image.fromarray(gradient(96, 64)).convert(mode).convert("RGB")).astype(int)
    assert np.abs(pixels - expected).mean() < 6


def test_alpha_is_laid_over_the_background(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, :2] = (255, 0, 0, 255)
    rgba[:, 2] = (0, 0, 255, 51)  # a fifth
    Image.fromarray(rgba).save(tmp_path / "layer.png")
    white, black = (read_image(tmp_path / "layer.png", background=colour) for colour in ("white", "#000000"))
    assert white[0].tolist() == [[255, 0, 0], [255, 0, 0], [204, 204, 255], [255, 255, 255]]
    assert black[0].tolist() == [[255, 0, 0], [255, 0, 0], [0, 0, 51], [0, 0, 0]]


def test_transparency_of_a_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "key.png", transparency=0)
    assert read_image(tmp_path / "key.png", background="#010203")[0].tolist() == [[1, 2, 3], [200, 100, 50]]


def test_16_bits_keep_their_scale(tmp_path):
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_dark_16_bit_image_stays_dark(tmp_path):
    Image.fromarray(np.full((2, 2), 200, np.uint16)).save(tmp_path / "dark.tiff")
    assert read_image(tmp_path / "dark.tiff").max() == 1


def test_float_samples(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "float.tiff")
    assert read_image(tmp_path / "float.tiff")[0, :, 0].tolist() == [0, 128, 255]


def test_first_frame_of_an_animation(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "two.gif", save_all=True, append_images=[blue])
    assert read_image(tmp_path / "two.gif")[0, 0].tolist() == [255, 0, 0]


def test_colour_profiles(tmp_path):
    """sRGB to sRGB changes nothing, and a useless profile is ignored."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(gradient(16, 16))
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert np.abs(read_image(tmp_path / "srgb.png").astype(int) - gradient(16, 16)).max() <= 1
    assert (read_image(tmp_path / "broken.png") == gradient(16, 16)).all()


def display_p3():
    """A colour profile of phones' wide gamut, Display P3, by the least that ICC asks for: three colours, a gamma."""

    def s15(*numbers):
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    columns = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))  # adapted to D50
    tags = {b"wtpt": b"XYZ \0\0\0\0" + s15(0.9642, 1, 0.8249)}
    tags |= {
        name: b"XYZ \0\0\0\0" + s15(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    }
    tags |= {name: b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(2.2 * 256)) for name in (b"rTRC", b"gTRC", b"bTRC")}
    tags |= {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + bytes(81),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    table, body, place = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = place + len(body)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + s15(0.9642, 1, 0.8249).ljust(60, b"\0") + table + body


@pytest.mark.parametrize("suffix", ["heic", "avif", "jpg", "png", "webp", "tiff"])
def test_wide_gamut_becomes_srgb(tmp_path, suffix):
    """The matrix from Display P3 to sRGB, and both gammas, say what a colour becomes."""
    wide = np.array([200, 100, 60])
    matrix = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    linear = matrix @ (wide / 255) ** 2.2
    expected = 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    options = {} if suffix in ("png", "tiff") else {"quality": 95}
    Image.new("RGB", (32, 32), tuple(wide)).save(tmp_path / f"p3.{suffix}", icc_profile=display_p3(), **options)
    assert np.abs(read_image(tmp_path / f"p3.{suffix}")[16, 16] - expected).max() < 5
    assert np.abs(expected - wide).max() > 10


def test_10_bits_and_alpha_of_a_heic(tmp_path):
    deep = (gradient(96, 64).astype(np.uint16) * 257).tobytes()
    from_bytes("RGB;16", (96, 64), deep).save(tmp_path / "deep.heic", quality=95)
    assert np.abs(read_image(tmp_path / "deep.heic") - gradient(96, 64).astype(int)).mean() < 3
    half = Image.fromarray(gradient(96, 64)).convert("RGBA")
    half.putalpha(0)
    half.save(tmp_path / "clear.heic", quality=95)
    assert np.abs(read_image(tmp_path / "clear.heic", background="lime") - np.array([0, 255, 0])).max() < 4


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "icc"])
def test_a_picture_with_large_notes(tmp_path, kind):
    """Programs keep whole workflows in a PNG's texts, and large profiles; the pixels are sound."""
    notes = PngImagePlugin.PngInfo()
    text = "workflow " * 250_000
    if kind == "iTXt":
        notes.add_itxt("workflow", text, zip=True)
    elif kind != "icc":
        notes.add_text("workflow", text, zip=kind == "zTXt")
    profile = {"icc_profile": bytes(1_500_000)} if kind == "icc" else {}
    Image.fromarray(gradient(16, 16)).save(tmp_path / "noted.png", pnginfo=notes, **profile)
    assert (read_image(tmp_path / "noted.png") == gradient(16, 16)).all()
    assert read_recipe(tmp_path / "noted.png") is None


def test_texts_that_would_fill_the_memory_are_refused(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("bomb", "0" * 70_000_000, zip=True)
    Image.fromarray(gradient(16, 16)).save(tmp_path / "bomb.png", pnginfo=notes)
    with pytest.raises(RequestError, match=r"^bomb\.png cannot be read: "):
        read_image(tmp_path / "bomb.png")


def test_content_instead_of_a_file(photo):
    path = photo("photo.png")
    assert (read_image(path.read_bytes()) == read_image(path)).all()


@pytest.mark.parametrize("cut", [0, 1, 30, 400])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff"])
def test_truncated_files_are_refused_by_name(photo, suffix, cut):
    path = photo(f"cut.{suffix}", size=(200, 150))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RequestError, match=f"cut.{suffix}"):
        read_image(path)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam")
    with pytest.raises(RequestError, match=rf"letter\.jpg is no image that can be read \({listed_pictures()}\)"):
        read_image(tmp_path / "letter.jpg")
    with pytest.raises(RequestError, match=r"no image absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(RequestError, match="folder"):
        read_image(tmp_path, name="folder")
    with pytest.raises(RequestError, match="stdin"):
        read_image(b"", name="stdin")


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack"),
        KeyError(274),
        zlib.error("-3"),
        AttributeError("tag"),
        EOFError("end"),
        RecursionError("deep"),
        ZeroDivisionError("division\nby zero"),
        AssertionError(),
    ],
    ids=repr,
)
def test_whatever_pillow_raises_names_the_file_in_one_line(photo, monkeypatch, error):
    def damaged(*_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", damaged)
    with pytest.raises(RequestError, match=r"^photo\.jpg cannot be read: .+\.$") as raised:
        read_image(photo())
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"no exif", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_photos_with_broken_exif_are_read_as_they_lie(photo, exif):
    path = photo("odd.jpg", exif=exif, quality=95)
    assert read_size(path) == (96, 64)
    assert np.abs(read_image(path) - gradient(96, 64).astype(int)).mean() < 3


def test_an_orientation_that_does_not_exist_is_none(photo):
    assert read_image(photo("odd.jpg", orientation=9)).shape == (64, 96, 3)


def test_pipes_and_folders_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_size, read_image):
        with pytest.raises(RequestError, match=r"pipe\.png is no ordinary file"):
            read(tmp_path / "pipe.png")
        with pytest.raises(RequestError, match="is a folder"):
            read(tmp_path)


def test_formats_that_run_other_programs_are_no_images(tmp_path):
    """Pillow would hand PostScript to Ghostscript."""
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n"
    (tmp_path / "drawing.png").write_bytes(drawing)
    with pytest.raises(RequestError, match=r"drawing\.png is a EPS document"):
        read_image(tmp_path / "drawing.png")


def test_photos_of_two_pictures_are_read(tmp_path):
    """As phones store them: JPEG, with a second picture behind the first (MPO)."""
    first, second = (Image.fromarray(gradient(96, 64)[:: 1 - 2 * turn]) for turn in (0, 1))
    first.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(read_image(tmp_path / "phone.jpg") - gradient(96, 64).astype(int)).mean() < 3


LARGE = {  # what of a large image must be as it is in a small one
    "rgb.png": "RGB",
    "rgb.jpg": "RGB",
    "palette.gif": "P",
    "cmyk.jpg": "CMYK",
    "alpha.png": "RGBA",
    "grey.png": "LA",
    "deep.png": "I;16",
    "float.tiff": "F",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_images_are_reduced(tmp_path, monkeypatch, name):
    """Converted in bands, and brought below the most that is kept by a whole number."""
    small = Image.fromarray(gradient(50, 40)).convert("L" if LARGE[name] in ("I;16", "F") else LARGE[name])
    if LARGE[name] in ("I;16", "F"):
        kind = np.uint16 if LARGE[name] == "I;16" else np.float32
        small = Image.fromarray(np.asarray(small).astype(kind) * kind(257))
    large = small.resize((300, 240), Image.Resampling.NEAREST)
    large.save(tmp_path / name)
    whole = read_image(tmp_path / name)
    monkeypatch.setattr(image, "_BAND", 1000)
    assert (read_image(tmp_path / name) == whole).all()
    monkeypatch.setattr(image, "KEPT_PIXELS", 300 * 240 // 30)
    reduced = read_image(tmp_path / name)
    assert reduced.shape in ((40, 50, 3), (30, 38, 3), (24, 30, 3))
    assert reduced.shape[0] * reduced.shape[1] <= 300 * 240 // 30
    expected = np.asarray(Image.fromarray(whole).resize(reduced.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(reduced - expected).mean() < 3


def test_more_pixels_than_memory_can_hold_are_refused_from_the_header(photo, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 96 * 64 - 1)
    monkeypatch.setitem(pictures.MOST_PIXELS_OF, "webp", 96 * 64)
    for read in (read_size, read_image):
        assert read(photo("fits.webp")) is not None
        with pytest.raises(RequestError, match=r"large\.png has too many pixels.*96x64"):
            read(photo("large.png"))


def test_unknown_colour(photo):
    with pytest.raises(RequestError, match="blurple"):
        read_image(photo(), background="blurple")


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (128, 32), (33, 200), (8, 8)])
def test_the_size_is_exact(fit, size):
    assert fit_image(gradient(96, 64), *size, fit).shape == (size[1], size[0], 3)


def test_crop_keeps_the_middle():
    wide = gradient(300, 100)
    square = fit_image(wide, 100, 100)
    assert np.abs(square.astype(int) - wide[:, 100:200]).max() <= 1


def test_pad_shows_everything_on_the_background():
    padded = fit_image(np.full((50, 100, 3), 200, np.uint8), 100, 100, "pad", background="black")
    assert (padded[:25] == 0).all()
    assert (padded[25:75] == 200).all()
    assert (padded[75:] == 0).all()


def test_reducing_does_not_alias():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: must become even grey
    small = fit_image(stripes, 100, 100).astype(int)
    assert np.abs(small - 127.5).max() < 12


def test_a_photo_of_200_megapixels(tmp_path):
    """JPEGs are decoded at a smaller size at once."""
    Image.new("RGB", (16320, 12240), "teal").save(tmp_path / "large.jpg")
    pixels = read_image(tmp_path / "large.jpg")
    assert pixels.shape == (6120, 8160, 3)
    assert np.abs(pixels[::500, ::500] - np.array([0, 128, 128])).max() < 4
