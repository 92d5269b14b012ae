"""The clips of a folder: their frames, their recipes, and the pictures that they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.image import fit_image, read_image
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.scratch import FRAME_NAME
from consisti2v_cli.media.video import kind_of, read_video
from consisti2v_cli.recipe import Recipe, from_json
from consisti2v_cli.state import content_sha256, find_source, recipe_of

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".png", ".ts", ".webm", ".webp")


@dataclass(frozen=True)
class Clip:
    """A file with a clip, or a folder with its frames; what it holds is read when it is asked for."""

    path: Path
    name: str  # within the folder that is judged, with / between its parts

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, or of all frames' names and bytes."""
        return content_sha256(self.path)

    @cached_property
    def recipe(self) -> Recipe | None:
        """How it was made: from its metadata, a NAME.json beside it, or this machine's memory."""
        beside = self.path.with_suffix(".json")
        text = None
        with suppress(RequestError, OSError):
            text = read_recipe(self.path)
        if not text and beside.is_file():
            with suppress(OSError, UnicodeDecodeError):
                text = beside.read_text(encoding="utf-8")
        with suppress(RequestError):
            return from_json(text or recipe_of(self.path) or "")
        return None

    def read(self) -> Footage:
        """Its frames. RequestError: it cannot be read."""
        frames, fps = read_video(self.path)
        return Footage(frames, fps)

    def first_picture(self, height: int, width: int) -> NDArray[np.uint8]:
        """The picture that it was made from, as the recipe fits it to the clip, `height width 3`.

        Raises:
            RequestError: there is no recipe, or the picture is not found, or is no longer the same.
        """
        recipe = self.recipe
        if recipe is None:
            raise RequestError("no recipe")
        source = self._source(recipe)
        picture = read_image(source, background=recipe.background)
        return fit_image(picture, width, height, recipe.fit, background=recipe.background)

    def _source(self, recipe: Recipe) -> Path:
        """The file whose hash the recipe has: where it was used last, or beside the clip under its name."""
        beside = self.path.with_name(recipe.input_name or "?")
        if beside.is_file() and content_sha256(beside) == recipe.input_sha256:
            return beside
        source = find_source(recipe.input_sha256)
        if source is None:
            raise RequestError(f"no first frame: {recipe.input_name or 'its picture'} is not found")
        return source


@dataclass(frozen=True)
class Footage:
    """What a clip shows."""

    frames: NDArray[np.uint8]  # f h w 3
    fps: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]

    def every(self, step: int) -> Footage:
        """Each `step`-th frame."""
        return replace(self, frames=self.frames[::step], fps=self.fps / step)


def find_clips(folder: Path) -> list[Clip]:
    """All clips below a folder in the order of their names; or the one that `folder` itself is.

    Raises:
        RequestError: there is no such folder, or no clip in it.
    """
    if not folder.exists():
        raise RequestError(f"There is no folder {folder}.")
    if folder.is_file() or _holds_frames(folder):
        kind_of(folder)  # which says what is wrong with it
        return [Clip(folder, folder.name)]
    found = [Clip(path, path.relative_to(folder).as_posix()) for path in sorted(_below(folder))]
    if not found:
        raise RequestError(f"There are no clips in {folder} ({', '.join(SUFFIXES)}, or folders of numbered PNGs).")
    return found


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if _holds_frames(path):
                yield path
            else:
                yield from _below(path)
        elif path.suffix.lower() in SUFFIXES and _may_move(path):
            yield path


def _may_move(path: Path) -> bool:
    """Whether a file is a clip: a picture that does not move is none. Of others, what cannot be read is reported."""
    if path.suffix.lower() not in (".png", ".webp"):
        return True
    with suppress(RequestError):
        return kind_of(path) == "film"
    return False


def _holds_frames(folder: Path) -> bool:
    return any(FRAME_NAME.fullmatch(entry.name) for entry in folder.iterdir())
