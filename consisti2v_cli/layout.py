"""The pictures that a clip begins from: the photo at the frame's size, or a camera's path over it. No torch."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from consisti2v_cli.camera import Window, pan_path, zoom_path
from consisti2v_cli.clip import Clip
from consisti2v_cli.media.crops import crop_windows
from consisti2v_cli.media.image import fit_image, read_image
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.resolve import Source
from consisti2v_cli.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def first_picture(recipe: Recipe, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo `h w 3`, fitted to the size of a resolved recipe: `height width 3`."""
    width, height = sides(recipe)
    return fit_image(photo, width, height, recipe.fit, background=recipe.background)


def camera_path(recipe: Recipe, size: tuple[int, int]) -> list[Window]:
    """The windows that the camera of a resolved `pan` or `zoom` recipe sees, one a frame.

    Args:
        recipe: resolved.
        size: width and height of the photo, in pixels.
    """
    frame = sides(recipe)
    if recipe.command == "pan":
        return pan_path(size, frame, recipe.direction, recipe.amount, recipe.ease, recipe.frames)
    centre = (recipe.center_x, recipe.center_y)
    return zoom_path(size, frame, recipe.zoom, recipe.ratio, centre, recipe.ease, recipe.frames)


def camera_frames(recipe: Recipe, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The layout video of camera motion (paper, section 5.5): crops of a photo `h w 3` -> `f height width 3`."""
    height, width, _ = photo.shape
    return crop_windows(photo, camera_path(recipe, (width, height)), *sides(recipe))


def layout_clip(recipe: Recipe, source: Source) -> Clip:
    """The layout video itself as a clip, which takes no model. RequestError for an unreadable image."""
    photo = read_image(source, background=recipe.background, name=recipe.input_name)
    libraries = {package: version(package) for package in ("numpy", "pillow")}
    return Clip(camera_frames(recipe, photo), replace(recipe, versions={"consisti2v": __version__, **libraries}))


def sides(recipe: Recipe) -> tuple[int, int]:
    """Width and height of a resolved recipe."""
    if recipe.width is None or recipe.height is None:
        raise ValueError("the recipe's size is not resolved")
    return recipe.width, recipe.height
