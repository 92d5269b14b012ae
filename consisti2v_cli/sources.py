"""What a long clip begins with: an image, or the end of a film, made here or elsewhere. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from consisti2v_cli.errors import RequestError
from consisti2v_cli.layout import first_picture
from consisti2v_cli.media.image import read_image
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.scratch import frame_files
from consisti2v_cli.media.sound import Soundtrack, soundtrack_of
from consisti2v_cli.media.video import Timing, kind_of, read_frames, read_last_frame, read_timing
from consisti2v_cli.recipe import Recipe, from_json
from consisti2v_cli.resolve import resolve
from consisti2v_cli.state import content_sha256, kept_latent, recipe_of
from consisti2v_cli.weights import ModelFolder
from consisti2v_cli.weights.folder import read_json, vae_factor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Beginning:
    """What a long clip begins with."""

    source: Path | bytes  # a file, a folder of PNG frames, or an image's content
    name: str  # of it, for the recipe
    picture: NDArray[np.uint8]  # h w 3 at its own size: the image, or the film's last frame
    film: bool  # whether the source is one
    recipe: Recipe | None = None  # of a film that was made here
    latent: NDArray[np.float32] | None = None  # c h w: the exact one of the picture, where it was kept

    def front(self, recipe: Recipe) -> SourceFrames | None:
        """The source film's frames without the last one, as they stand in front of a film; None for an image."""
        if not self.film or not isinstance(self.source, Path):
            return None
        return SourceFrames(self.source, self._timing, recipe)

    def length(self, recipe: Recipe) -> int:
        """How many frames a film has that begins with it, with those in front."""
        front = self.front(recipe) if recipe.join else None
        return (len(front) if front else 0) + recipe.chunks * (recipe.frames - 1) + 1

    @cached_property
    def _timing(self) -> Timing:
        """When the film's frames are shown: made here, as its recipe says, which files round. Found out once: all of
        the film has to be decoded for that.
        """
        assert isinstance(self.source, Path)
        timing = read_timing(self.source)
        if not self.recipe:
            return timing
        rate = self.recipe.smooth or self.recipe.fps
        return Timing(tuple(number / rate for number in range(len(timing.starts))), timing.offset)


def begin(source: Path | str | bytes, *, name: str = "", background: str = "white") -> Beginning:
    """Look at what a long clip begins with.

    Args:
        source: an image, a film, a folder of PNG frames as they are made here, or an image's content.
        name: what to call it in messages; the file's name by default.
        background: colour behind transparent pixels.

    Raises:
        RequestError: missing, damaged, or neither image nor film.
    """
    if isinstance(source, bytes):
        name = name or "image"
        return Beginning(source, name, read_image(source, background=background, name=name), film=False)
    path = Path(source)
    name = name or path.resolve().name
    if kind_of(path) == "image":
        return Beginning(path, name, read_image(path, background=background, name=name), film=False)
    picture = read_last_frame(path, background=background)
    return Beginning(path, name, picture, film=True, recipe=_own_recipe(path))


def settle(recipe: Recipe, beginning: Beginning, model: ModelFolder) -> tuple[Recipe, Beginning]:
    """Resolve a recipe of `extend`, and find the exact latent that it goes on from, if that was kept.

    Returns:
        The recipe, whose `start` says what the film begins from; and the beginning, with its latent.

    Raises:
        RequestError, WeightsError: as `resolve`.
    """
    height, width, _ = beginning.picture.shape
    folder = beginning.source if isinstance(beginning.source, Path) and beginning.source.is_dir() else None
    file = frame_files(folder)[-1] if folder else beginning.source
    recipe = resolve(replace(recipe, input_name=beginning.name), file, model, size=(width, height))
    if folder:
        recipe = replace(recipe, input_sha256=content_sha256(folder))
    if not beginning.film or isinstance(beginning.source, bytes):
        return replace(recipe, start="image"), beginning
    again = recipe.start == "frame"  # a recipe that is made once more, and was made without the latent
    latent = None if again else kept_latent(beginning.source, recipe)
    if latent is None or latent.shape != _latent_shape(recipe, model):
        return replace(recipe, start="frame"), beginning
    return replace(recipe, start="latent"), replace(beginning, latent=latent)


def prompt_of(recipe: Recipe, chunk: int) -> str:
    """The prompt of a chunk, counted from 1: the recipe's own, or the last one that begins at or before the chunk."""
    begun = [int(number) for number in recipe.prompt_at if int(number) <= chunk]
    return {int(number): text for number, text in recipe.prompt_at.items()}[max(begun)] if begun else recipe.prompt


class SourceFrames:
    """The frames of a film but for the last one, which a longer film begins with: fitted to that one's size, at their
    own times, so many a second as it has. Read from the file each time that they are gone through.
    """

    def __init__(self, source: Path, timing: Timing, recipe: Recipe) -> None:
        """
        Args:
            source: a film, or a folder of PNG frames.
            timing: of its frames.
            recipe: of the longer film, resolved.
        """
        self._source = source
        self._timing = timing
        self._starts = timing.starts
        self._recipe = recipe
        self._slack = min(_ROUNDING, _SHARE / recipe.fps)

    def __len__(self) -> int:
        return max(0, math.ceil((self._starts[-1] - self._slack) * self._recipe.fps))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Of the frames that are wanted, number n is the one that the source shows n / fps seconds after its first."""
        shown = 0
        ends = (*self._starts[1:], math.inf)
        frames = read_frames(self._source, background=self._recipe.background)
        for end, frame in zip(ends, frames, strict=False):
            fitted = None
            while shown < len(self) and shown / self._recipe.fps + self._slack < end:
                fitted = first_picture(self._recipe, frame) if fitted is None else fitted
                yield fitted
                shown += 1

    @property
    def soundtrack(self) -> Soundtrack | None:
        """What is heard with these frames; None where the film has no sound."""
        return soundtrack_of(self._source, self._timing.offset, len(self) / self._recipe.fps)


_ROUNDING = 0.011  # seconds by which files round a frame's time: GIF to hundredths
_SHARE = 0.25  # of the time between two frames, which rounding never takes more of


def _own_recipe(path: Path) -> Recipe | None:
    """The recipe of a film that was made here: the one in it, or the one that is remembered."""
    with suppress(RequestError):
        if text := read_recipe(path):
            return from_json(text)
    with suppress(RequestError):
        if text := recipe_of(path):
            return from_json(text)
    return None


def _latent_shape(recipe: Recipe, model: ModelFolder) -> tuple[int, ...]:
    """Channels, height and width of a frame's latent."""
    channels = read_json(model.path / "vae" / "config.json").get("latent_channels", 4)
    factor = vae_factor(model)
    return (channels, (recipe.height or 0) // factor, (recipe.width or 0) // factor)
