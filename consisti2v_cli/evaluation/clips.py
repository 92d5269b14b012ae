"""The clips of a folder: their frames, their recipes, and the pictures that they were made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consisti2v_cli.errors import RequestError
from consisti2v_cli.kinds import MOVING, PICTURES, suffixes
from consisti2v_cli.layout import camera_frames, first_picture
from consisti2v_cli.media.image import read_image
from consisti2v_cli.media.metadata import read_recipe
from consisti2v_cli.media.scratch import FRAME_NAME
from consisti2v_cli.media.video import kind_of, read_video
from consisti2v_cli.recipe import CAMERA, Recipe, from_json
from consisti2v_cli.state import content_sha256, find_source, recipe_of

SUFFIXES = (*suffixes("video"), *(suffix for kind in PICTURES if kind.key in MOVING for suffix in kind.suffixes))


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
        for text in self._recipes():
            with suppress(RequestError):
                return from_json(text)
        return None

    def _recipes(self) -> Iterator[str]:
        """Texts that may be its recipe. A film may carry another program's comment."""
        with suppress(RequestError, OSError):
            yield read_recipe(self.path) or ""
        with suppress(OSError, UnicodeDecodeError):
            yield self.path.with_suffix(".json").read_text(encoding="utf-8")
        yield recipe_of(self.path) or ""

    def read(self) -> Footage:
        """Its frames. RequestError: it cannot be read."""
        frames, fps = read_video(self.path)
        return Footage(frames, fps)

    def first_picture(self, height: int, width: int) -> NDArray[np.uint8]:
        """What its first frame should show, `height width 3`: the photo, fitted, or what the camera sees of it.

        Raises:
            RequestError: there is no recipe, the photo is not found or no longer the same, or it began from a film.
        """
        recipe, source = self.photo()
        photo = read_image(source, background=recipe.background)
        sized = replace(recipe, width=width, height=height)
        return camera_frames(sized, photo)[0] if recipe.command in CAMERA else first_picture(sized, photo)

    def photo(self) -> tuple[Recipe, Path]:
        """Its recipe, and the file that it was made from. RequestError as in `first_picture`."""
        recipe = self.recipe
        if recipe is None:
            raise RequestError("no recipe")
        source = self._source(recipe)
        if recipe.command == "extend" and (recipe.start != "image" or kind_of(source) == "film"):
            raise RequestError("no first frame: it goes on from a film")
        return recipe, source

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
        raise RequestError(f"There is no folder or clip {folder}.")
    if not folder.is_dir() or _holds_frames(folder):
        if kind_of(folder) == "image":  # which raises where it is neither, or no file at all
            raise RequestError(f"{folder} is a picture; a clip is needed, or a folder of clips.")
        return [Clip(folder, folder.name)]
    try:
        os.listdir(folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be opened: {error.strerror}.") from error
    found = [Clip(path, path.relative_to(folder).as_posix()) for path in sorted(_below(folder))]
    if not found:
        raise RequestError(f"There are no clips in {folder} ({', '.join(SUFFIXES)}, or folders of numbered PNGs).")
    return found


def _below(folder: Path) -> Iterator[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        yield folder  # why it cannot be read is said of it as of a clip
        return
    for path in entries:
        if path.name.startswith(".") or (path.is_symlink() and path.is_dir()):  # which may lead in a circle
            continue
        if path.is_dir():
            if _holds_frames(path):
                yield path
            else:
                yield from _below(path)
        elif path.suffix.lower() in SUFFIXES and _is_there(path) and _may_move(path):
            yield path


def _is_there(path: Path) -> bool:
    """Whether it is a file, or a link to nothing, which is reported; pipes and the like would never end."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _may_move(path: Path) -> bool:
    """Whether a file is a clip: a picture that does not move is none. Of others, what cannot be read is reported."""
    if path.suffix.lower() in suffixes("video"):
        return True
    try:
        return kind_of(path) == "film"
    except RequestError:
        return path.suffix.lower() in (".gif", ".webp")  # damaged: others are more likely photos


def _holds_frames(folder: Path) -> bool:
    with suppress(OSError):
        return any(FRAME_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return False
