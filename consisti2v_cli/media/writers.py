"""One small writer a format, behind one lookup. Same frames and options, same bytes: no dates, no version numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from consisti2v_cli.errors import RequestError

from .ffmpeg import SCALER, address, encode, raw_input
from .footage import Footage
from .metadata import add_gif_comment, add_webp_description, container_note, png_note
from .palette import MOST_COLOURS, ColourCount, ColourTable
from .sound import COPIED, Soundtrack

GIF_FASTEST = 50  # frames a second; players slow down anything faster

# Encoders' own scales, between quality 1, 85 (where most people see no loss) and 100
CRF = ((1, 85, 100), (47, 17, 5))  # H.264: 0 would be lossless, which players do not show
VP9_CRF = ((1, 85, 100), (60, 14, 4))
COLOUR_BITS = ((1, 85), (2, 8))  # GIF: 4 to 256 colours
PRORES = ((40, 70, 90), ("0", "1", "2", "3"))  # below 40: proxy, below 70: LT, below 90: 422, then HQ

_THREADS = ["-threads", "4"]  # fixed: H.264 made with another number of threads is another file
_EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact"]


@dataclass(frozen=True)
class Options:
    """How a film is written."""

    quality: int = 85  # 1 to 100
    comment: str | None = None  # text for the file's own metadata
    sound: Soundtrack | None = None  # for the formats of `WITH_SOUND`


Writer = Callable[[Path, Footage, Options], None]


def write_mp4(path: Path, footage: Footage, options: Options) -> None:
    """H.264 that every player shows: 4:2:0, BT.709 colours and tagged so, index in front."""
    quality = f"{np.interp(options.quality, *CRF):.1f}"
    codec = ["-c:v", "libx264", "-preset", "medium", "-crf", quality, "-movflags", "+faststart"]
    _write_container("mp4", "yuv420p", codec, path, footage, options)


def write_webm(path: Path, footage: Footage, options: Options) -> None:
    """VP9 at constant quality."""
    quality = f"{np.interp(options.quality, *VP9_CRF):.0f}"
    codec = ["-c:v", "libvpx-vp9", "-crf", quality, "-b:v", "0", "-deadline", "good", "-cpu-used", "2"]
    _write_container("webm", "yuv420p", codec, path, footage, options)


def write_mov(path: Path, footage: Footage, options: Options) -> None:
    """ProRes 422 for editing: every frame by itself, 10 bits."""
    steps, profiles = PRORES
    profile = profiles[bisect_right(steps, options.quality)]
    codec = ["-c:v", "prores_ks", "-profile:v", profile, "-vendor", "apl0"]
    _write_container("mov", "yuv422p10le", codec, path, footage, options)


def write_gif(path: Path, footage: Footage, options: Options) -> None:
    """One palette for the clip, no dithering: smaller and closer to the frames than dithered ones."""
    palette = _clip_palette(path, footage, gif_colours(options.quality))
    table = ColourTable(palette)
    entries = np.zeros((256, 4), np.uint8)  # blue, green, red, alpha; those left over are transparent
    entries[: len(palette)] = np.insert(palette[:, ::-1], 3, 255, axis=1)
    pictures = (table.indices(frame).tobytes() + entries.tobytes() for frame in footage)
    source = raw_input(footage.width, footage.height, footage.fps, "pal8")
    encode([*source, *_EXACT, "-loop", "0", "-f", "gif", address(path)], pictures)
    if options.comment:
        add_gif_comment(path, options.comment)


def write_webp(path: Path, footage: Footage, options: Options) -> None:
    """Lossy frames, each only where it differs from the one before."""
    codec = ["-vf", "format=bgra", "-c:v", "libwebp_anim", "-quality", str(options.quality), "-compression_level", "4"]
    _encode(["webp", *codec, "-loop", "0"], path, footage)
    if options.comment:
        add_webp_description(path, options.comment, (footage.width, footage.height))


def write_png(path: Path, footage: Footage, options: Options) -> None:
    """A folder of frames, 0001.png and on, without loss; each carries the comment and the frame rate."""
    path.mkdir()
    note = png_note(footage.fps, options.comment)
    for number, frame in enumerate(footage, start=1):
        Image.fromarray(frame).save(path / f"{number:04d}.png", pnginfo=note)


WRITERS: dict[str, Writer] = {
    "mp4": write_mp4,
    "gif": write_gif,
    "webm": write_webm,
    "webp": write_webp,
    "mov": write_mov,
    "png": write_png,
}
WITH_SOUND = tuple(COPIED)  # the formats that hold sound
FOLDERS = ("png",)  # the formats that are folders of files
STREAMABLE = tuple(format for format in WRITERS if format not in FOLDERS)


def gif_colours(quality: int) -> int:
    """How many colours a GIF of that quality has."""
    return round(2 ** float(np.interp(quality, *COLOUR_BITS)))


def check_format(format: str, width: int, height: int, fps: float) -> None:
    """Raise RequestError if films of that size and rate cannot be written; before any work is done."""
    if format not in WRITERS:
        raise RequestError(f"Unknown format {format!r}; possible: {', '.join(WRITERS)}.")
    if format == "mp4" and (width % 2 or height % 2):
        raise RequestError(f"MP4 cannot be {width}x{height}; both sides must be even.")
    if format == "gif" and fps > GIF_FASTEST:
        raise RequestError(f"A GIF plays at most {GIF_FASTEST} frames a second, not {fps:g}.")


def _write_container(
    format: str, pixels: str, codec: list[str], path: Path, footage: Footage, options: Options
) -> None:
    """A film in BT.709 colours, tagged so, with the comment among its tags."""
    convert = f"scale=in_range=full:out_range=tv:out_color_matrix=bt709:{SCALER},format={pixels}"
    tags = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    inputs, tagged = container_note(path.with_name("note"), format, options.comment)
    heard: list[str] = []
    if options.sound:
        heard = options.sound.output(format, 2 if inputs else 1)
        inputs = [*inputs, *options.sound.input()]
    streams = [*inputs, "-map", "0:v", *heard, *tagged]
    _encode([format, *streams, "-vf", f"{convert},{tags}", *codec, *_THREADS], path, footage)


def _encode(codec: list[str], path: Path, footage: Footage) -> None:
    format, *rest = codec
    source = raw_input(footage.width, footage.height, footage.fps)
    encode([*source, *rest, *_EXACT, "-f", format, address(path)], (frame.data for frame in footage))


def _clip_palette(path: Path, footage: Footage, colours: int) -> np.ndarray:
    """ffmpeg's palette for all frames, refined in the same pass: `colours 3`."""
    colours = min(colours, MOST_COLOURS)
    count = ColourCount()
    found = path.with_name("palette")
    find = ["-vf", f"palettegen=max_colors={colours}:reserve_transparent=0:stats_mode=full"]
    source = raw_input(footage.width, footage.height, footage.fps)
    output = ["-f", "rawvideo", "-pix_fmt", "rgba", address(found)]
    encode([*source, *find, *output], (frame.data for frame in count.watch(footage)))
    palette = np.frombuffer(found.read_bytes(), np.uint8).reshape(-1, 4)[:colours, :3]
    return count.refine(palette)
