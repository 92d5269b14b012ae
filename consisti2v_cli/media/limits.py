"""Files that must not be larger than so many bytes: first quality is lowered, then the picture's size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from consisti2v_cli.errors import ConsistI2VError

from .footage import Footage
from .writers import WRITERS, Options, gif_colours

LOWEST = {"gif": 57, "webp": 30, "mp4": 35}  # below that quality a smaller picture looks better; a GIF has 64 colours

SMALL = 1 / 2  # of the sides: below that a person is warned

_SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8)  # of the sides
_SHORTEST = 16  # pixels; no side gets shorter than that
_STEP = 5  # of quality, from one encoding to the next better one

Size = tuple[int, int]
Candidate = TypeVar("Candidate")


def write_within(limit: int, path: Path, footage: Footage, options: Options, format: str, name: str) -> str | None:
    """Write a film of at most `limit` bytes, as large and then as good as that allows.

    A film that fits as it is takes one encoding. Else one more tells whether lower quality is enough, up to four find
    the size where it is not, and up to four the quality.

    Args:
        limit: bytes.
        path: the file, in a folder that is free for others too.
        footage: gone through once or twice for each encoding.
        options: the quality is the highest.
        format: a key of `LOWEST`.
        name: of the file, for messages.

    Returns:
        A sentence about what was lowered; None where nothing was.

    Raises:
        ConsistI2VError: even the smallest picture of the lowest quality is larger.
    """
    trial = _Trial(limit, path, footage, options, format)
    full, best, lowest = (footage.width, footage.height), options.quality, min(LOWEST[format], options.quality)
    if trial.fits(full, best):
        return None
    sizes = _smaller(full, even=format == "mp4")
    if lowest == best or not trial.fits(full, lowest):
        size = _first(sizes, lambda size: trial.fits(size, lowest))
        if size is None and not trial.fits(sizes[-1], 1):
            raise ConsistI2VError(
                f"{name} cannot be kept under {spell_bytes(limit)}: at {trial.spelled} it still takes "
                f"{spell_bytes(trial.length)}. Ask for fewer frames, or allow more."
            )
    size = trial.size
    above = range(best - _STEP * (size == full), trial.quality, -_STEP)
    _first(above, lambda quality: trial.fits(size, quality))
    warning = "Warning: " if size[0] < full[0] * SMALL else ""
    return f"{warning}{name}: {trial.kept} to stay under {spell_bytes(limit)}"


def spell_bytes(count: int) -> str:
    """A file's size for people: 8.0 MB, 300 kB, 12 bytes."""
    if count >= 1_000_000:
        return f"{count / 1_000_000:.1f} MB"
    return f"{count / 1000:.0f} kB" if count >= 1000 else f"{count} bytes"


class _Trial:
    """Encodings of one film, of which the last one that fitted is kept."""

    def __init__(self, limit: int, path: Path, footage: Footage, options: Options, format: str) -> None:
        self.limit, self.path, self.footage, self.options, self.format = limit, path, footage, options, format
        self.size = (footage.width, footage.height)  # of what is kept
        self.quality = options.quality
        self.length = 0  # of the last one, in bytes
        self.spelled = ""  # the last one's size and quality
        self.kept = ""

    def fits(self, size: Size, quality: int) -> bool:
        attempt = self.path.with_name("attempt")
        WRITERS[self.format](attempt, self.footage.resized(*size), replace(self.options, quality=quality))
        self.length = attempt.stat().st_size
        self.spelled = self._spell(size, quality)
        if self.length > self.limit:
            return False
        os.replace(attempt, self.path)
        self.size, self.quality, self.kept = size, quality, self.spelled
        return True

    def _spell(self, size: Size, quality: int) -> str:
        """Quality, and the size where it is another than the film's: 64 colours and 192x144 pixels of 256x192."""
        words = f"{gif_colours(quality)} colours" if self.format == "gif" else f"quality {quality}"
        if size == (self.footage.width, self.footage.height):
            return words
        return f"{words} and {size[0]}x{size[1]} pixels of {self.footage.width}x{self.footage.height}"


def _smaller(full: Size, *, even: bool) -> list[Size]:
    """The sizes in steps below the full one, in its aspect."""
    step = 2 if even else 1
    shares = [share for share in _SHARES if min(full) * share >= _SHORTEST] or [1.0]
    width, height = full
    return [
        (max(step, round(width * share / step) * step), max(step, round(height * share / step) * step))
        for share in shares
    ]


def _first(candidates: Sequence[Candidate], fits: Callable[[Candidate], bool]) -> Candidate | None:
    """The first candidate that fits, where all after it do too. By bisection: it is the last one that was found to."""
    found, low, high = None, 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            found, high = candidates[middle], middle
        else:
            low = middle + 1
    return found
