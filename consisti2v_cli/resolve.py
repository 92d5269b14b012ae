"""Settle what a recipe leaves open, from headers and hashes: before a model is loaded, and without torch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from consisti2v_cli.errors import RequestError
from consisti2v_cli.media.image import parse_colour, read_size
from consisti2v_cli.recipe import CAMERA, CAMERA_LAYOUT, CHOICES, Recipe, check
from consisti2v_cli.weights import ModelFolder, ModelSettings, read_settings
from consisti2v_cli.weights.folder import STEMS, vae_factor
from consisti2v_cli.weights.registry import BUNDLED

PARTS = (*STEMS, "tokenizer", "scheduler")
SAMPLES, SAMPLE = 17, 2**16  # how many places of a model's file are looked at, and bytes there

LCM_STEPS = 50  # of the distillation: there are no timesteps in between

Source = Path | str | bytes  # a file, or a file's content


def resolve(recipe: Recipe, source: Source, folder: ModelFolder, *, size: tuple[int, int] | None = None) -> Recipe:
    """Settle what depends on the source and the model, and check everything. Hashes the source.

    Width and height, where both are open, cover the model's native area in the picture's own aspect. The input's name
    and hash are filled in; the model's name becomes one without folders, and gets its revision.

    Args:
        recipe: what to make.
        source: what it is made from.
        folder: the model's.
        size: width and height of the source's picture; by default read from the header of the image that it is.

    Raises:
        RequestError: a value that cannot be rendered, an unreadable image.
        WeightsError: the model's settings are damaged.
    """
    if not isinstance(source, (str, Path, bytes)):
        raise RequestError(f"An image is a path or the bytes of a file, not {type(source).__name__}.")
    width, height = recipe.width, recipe.height
    if (width is None) != (height is None):
        raise RequestError("Width and height are given together or not at all.")
    name = recipe.input_name or ("image" if isinstance(source, bytes) else Path(source).name)
    size = size or read_size(source, name=name)
    settings = read_settings(folder)
    if width is None or height is None:
        width, height = native_size(*size, settings)
    factor = vae_factor(folder)
    if (width % factor or height % factor) and not recipe.layout_only:
        raise RequestError(f"The size is {width}x{height}; possible for this model: multiples of {factor}.")
    check_sampler(recipe.sampler, recipe.steps, settings)
    parse_colour(recipe.background)
    recipe = replace(
        recipe,
        width=width,
        height=height,
        input_name=name,
        input_sha256=sha256(source),
        model=folder.name,
        revision=folder.revision or local_revision(folder.path),
    )
    check(recipe)
    return recipe


def model_defaults(folder: ModelFolder, command: str = "animate") -> dict[str, Any]:
    """The recipe's fields of which a model, or a command of camera motion, has defaults of its own."""
    defaults = asdict(read_settings(folder))
    del defaults["native_size"]
    return defaults | (CAMERA_LAYOUT if command in CAMERA else {})


def native_size(width: int, height: int, settings: ModelSettings) -> tuple[int, int]:
    """The model's native area in a picture's aspect, sides rounded to 32 pixels, or to 16 for small models.

    Pictures longer than 16:1 or 1:16 are treated as if they were just that.
    """
    step = 32 if settings.native_size >= 256 else 16
    stretch = min(max((width / height) ** 0.5, 1 / 4), 4)
    sides = (settings.native_size * stretch, settings.native_size / stretch)
    return (max(step, round(sides[0] / step) * step), max(step, round(sides[1] / step) * step))


def check_sampler(sampler: str, steps: int, settings: ModelSettings) -> None:
    """Raise RequestError for a sampler, or a number of its steps, that the model's weights were not made for."""
    if sampler != "lcm":
        return
    if settings.sampler != "lcm":
        others = ", ".join(name for name in CHOICES["sampler"] if name != "lcm")
        raise RequestError(f"sampler is 'lcm', which needs weights distilled for it; possible: {others}.")
    if steps > LCM_STEPS:
        raise RequestError(f"steps is {steps}; possible with the sampler lcm: 1 to {LCM_STEPS}.")


def local_revision(folder: Path) -> str | None:
    """What tells the contents of a model folder from others, as a hub's commit does; None for the bundled model."""
    if folder == BUNDLED:
        return None
    files = sorted(file for part in PARTS for file in (folder / part).glob("*") if file.is_file())
    marks = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return f"local-{_digest(folder, marks)}"


@lru_cache
def _digest(folder: Path, marks: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files by their names, sizes and samples of their bytes: the beginning, the end, and places in between."""
    digest = hashlib.sha256()
    for name, size, _ in marks:
        digest.update(f"{Path(name).relative_to(folder).as_posix()} {size}\n".encode())
        with Path(name).open("rb") as file:
            for place in range(SAMPLES):
                file.seek(max(0, size - SAMPLE) * place // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]


def sha256(source: Source) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with Path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
