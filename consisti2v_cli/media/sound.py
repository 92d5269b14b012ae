"""The sound of a video, under the pictures that are made of it: copied where a format holds it, else encoded again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .ffmpeg import address
from .probe import probe_stream

COPIED = {  # by format, the codecs that it holds, as ffmpeg calls them
    "mp4": ("aac", "mp3", "ac3", "eac3", "alac"),
    "mov": ("aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le", "pcm_s16be", "pcm_s24be"),
    "webm": ("opus", "vorbis"),
}
_ENCODED = {
    "mp4": ["-c:a", "aac", "-b:a", "192k"],
    "mov": ["-c:a", "aac", "-b:a", "192k"],
    "webm": ["-c:a", "libopus", "-b:a", "128k", "-af", "aformat=channel_layouts=mono|stereo|5.1|7.1"],
}


@dataclass(frozen=True)
class Soundtrack:
    """A part of a video's sound."""

    source: Path
    codec: str
    number: int  # among the tracks of sound
    begin: float  # seconds from the beginning of the source
    seconds: float  # how long it lasts

    def input(self) -> list[str]:
        """ffmpeg's options that read it, as one more input."""
        span = ["-ss", f"{self.begin:.6f}"] if self.begin > 0 else []
        return ["-protocol_whitelist", "file,pipe", *span, "-t", f"{self.seconds:.6f}", "-i", address(self.source)]

    def output(self, format: str, place: int) -> list[str]:
        """ffmpeg's options that write it. `place`: the number of its input."""
        codec = ["-c:a", "copy"] if self.codec in COPIED[format] else _ENCODED[format]
        return ["-map", f"{place}:a:{self.number}", *codec, "-flags:a", "+bitexact"]


def soundtrack_of(source: Path, begin: float, seconds: float) -> Soundtrack | None:
    """So many seconds of a video's sound; None where it has none, or is a folder of frames."""
    stream = probe_stream(source) if source.is_file() else None
    if stream is None or stream.sound is None or seconds <= 0:
        return None
    return Soundtrack(source, stream.sound.codec, stream.sound.number, begin, seconds)
