"""What a video's header says: its pictures' shape, colours and rate, and its sound; as ffmpeg prints it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .ffmpeg import address, executable

HDR_TRANSFERS = ("arib-std-b67", "smpte2084")  # HLG and PQ (ITU-R BT.2100)
HD = (1280, 576)  # above this width or height, colours that are not tagged are BT.709's, else BT.601's, as for players

_NO_VIDEOS = re.compile(r"tty|bin|xbin|adf|idf|ico|fits|image2|.*_pipe")  # text as ANSI art, and pictures
_STREAM = re.compile(r"^  Stream #0:\d+.*?: (Video|Audio): (.*)$")
_SIZE = re.compile(r"(?:^|, )(\d+)x(\d+)(?:[ ,]|$)")
_SAR = re.compile(r"SAR (\d+):(\d+)")
_RATE = re.compile(r"([\d.]+)(k?) fps")
_ALPHA = re.compile(r"yuva|rgba|argb|bgra|abgr|gbrap|ya\d|ayuv|rgb32|pal8")


@dataclass(frozen=True)
class Sound:
    """A video's sound."""

    codec: str  # as ffmpeg calls it: aac, opus, pcm_s16le
    number: int  # among the tracks of sound


@dataclass(frozen=True)
class Stream:
    """A video's pictures, as they are stored."""

    codec: str
    pixels: str  # ffmpeg's pixel format
    width: int
    height: int
    sar: float  # how many times as wide as high a pixel is
    fps: float | None  # frames a second, on average; None where nothing says
    quarter_turn: bool  # shown on its side
    transfer: str  # the transfer function's name; "" where it is not tagged
    matrix: str  # of luma and chroma; "" where it is not tagged
    progressive: bool
    alpha: bool
    sound: Sound | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown: with square pixels, upright."""
        width = self.width * max(1.0, self.sar)
        height = self.height / min(1.0, self.sar)
        shown = round(width), round(height)
        return shown[::-1] if self.quarter_turn else shown

    @property
    def is_hdr(self) -> bool:
        return self.transfer in HDR_TRANSFERS


def probe_stream(path: Path) -> Stream | None:
    """A video's pictures; None for a file that has none. Asked for once, until the file changes.

    Raises:
        OSError: there is no such file.
    """
    state = path.stat()
    return _probe(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=1000)
def _probe(path: Path, *_state: int) -> Stream | None:
    source = ["-protocol_whitelist", "file,pipe", "-i", address(path)]
    command = [executable(), "-hide_banner", "-nostdin", *source]  # without an output it fails, having said all
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return parse_banner(done.stderr.decode(errors="replace"))


def parse_banner(text: str) -> Stream | None:
    """The first video of what ffmpeg says of its input that is no cover picture; None without one."""
    if (named := re.search(r"^Input #0, (.+), from ", text, re.MULTILINE)) and _NO_VIDEOS.fullmatch(named[1]):
        return None
    found: list[str] = []  # the video's line, and those about it
    sounds: list[str] = []
    about: list[str] = []
    for line in text.splitlines():
        if not (stream := _STREAM.match(line)):
            about.append(line)
            continue
        about = [stream[2]]
        if stream[1] == "Audio":
            sounds.append(stream[2])
        elif not found and "(attached pic)" not in line and "(still image)" not in line:
            found = about
    return _stream(found[0], "\n".join(found[1:]), _sound(sounds)) if found else None


def _stream(line: str, about: str, sound: Sound | None) -> Stream | None:
    codec, _, rest = line.partition(",")
    pixels, tags = re.match(r" *(\w*)(?:\(([^)]*)\))?", rest).groups()  # type: ignore[union-attr]
    size = _SIZE.search(line)
    if size is None:
        return None
    words = (tags or "").split(", ")
    colours = next((word for word in words if "/" in word), "")
    # One name stands for matrix, primaries and transfer where they are the same.
    matrix, _, transfer = colours.split("/") if colours else ("", "", "")
    known = next((word for word in words if word.startswith(("bt", "smpte", "fcc", "gbr", "ycgco"))), "")
    sar, turned = _SAR.search(line), re.search(r"rotation of (-?[\d.]+) degrees", about)
    rate = _RATE.search(line)
    return Stream(
        codec=codec.split()[0],
        pixels=pixels,
        width=int(size[1]),
        height=int(size[2]),
        sar=int(sar[1]) / int(sar[2]) if sar and int(sar[1]) and int(sar[2]) else 1.0,
        fps=exact_rate(float(rate[1]) * (1000 if rate[2] else 1)) if rate else None,
        quarter_turn=turned is not None and round(float(turned[1])) % 180 != 0,
        transfer=_tag(transfer or known),
        matrix=_tag(matrix or known),
        progressive="progressive" in words,
        alpha=bool(_ALPHA.match(pixels)) or re.search(r"alpha_mode +: 1", about) is not None,
        sound=sound,
    )


def _tag(word: str) -> str:
    return "" if word in ("unknown", "reserved") else word


def _sound(lines: list[str]) -> Sound | None:
    """The track that is the default one, else the first."""
    if not lines:
        return None
    number = next((number for number, line in enumerate(lines) if line.endswith("(default)")), 0)
    return Sound(re.split(r"[ ,]", lines[number])[0], number)


def exact_rate(rate: float) -> float:
    """Frames a second, which ffmpeg prints with two digits: 29.97 -> 30000/1001."""
    for whole in (24, 30, 48, 60, 120):
        if abs(rate - whole * 1000 / 1001) < 0.006:
            return whole * 1000 / 1001
    return rate
