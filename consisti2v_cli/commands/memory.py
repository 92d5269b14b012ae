"""How much memory a model and a clip need, from the headers of the files: an estimate; and how much there is."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.recipe import Recipe

if TYPE_CHECKING:
    from consisti2v_cli.weights import ModelFolder

# Measured on a CPU: Python with torch, diffusers and transformers, and what torch loads when it first computes.
BASELINE = 550 * 2**20
LAYOUT_BASELINE = 60 * 2**20  # Python with numpy and Pillow
PHOTO_BYTES = 10  # a pixel of the photo: as it is decoded, and as its parts are cropped
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Measured on a CPU: 27 feature maps of the network's first level, and 3.8 of the decoder's last level but one.
NETWORK_MAPS = 32
DECODER_MAPS = 4


def estimate_memory(recipe: Recipe, folder: ModelFolder, size: tuple[int, int]) -> int:
    """Bytes of the program, the weights, and of a network pass or the decoding of a frame, whichever takes more.

    Args:
        recipe: with its size resolved.
        folder: the model's.
        size: the photo's width and height; it is read before the model is loaded.

    Raises:
        WeightsError: a header or a configuration is damaged.
    """
    from consisti2v_cli.weights.folder import STEMS, weight_files
    from consisti2v_cli.weights.store import read_header

    photo = PHOTO_BYTES * size[0] * size[1]
    if recipe.layout_only:
        return LAYOUT_BASELINE + photo + 3 * recipe.frames * _pixels(recipe)
    width = BYTES[recipe.dtype]
    weights = 0
    for part in STEMS:
        headers = map(read_header, weight_files(folder, part))
        numbers = sum(math.prod(shape) for header in headers for shape in header.shapes.values())
        weights += numbers * (BYTES["fp32"] if part == "vae" else width)
    clip = max(_network_bytes(recipe, folder, width), _decoder_bytes(recipe, folder))
    return BASELINE + max(photo, weights + clip)


def machine_memory(device: str) -> int | None:
    """Bytes of memory that a device has in all; None where that cannot be found out."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    with suppress(OSError, ValueError, AttributeError):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with suppress(OSError, ValueError):  # a container's own limit
            return min(there, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
        return there
    return None


def spell(count: int) -> str:
    """Bytes for people: 1.5 GB, 300 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _network_bytes(recipe: Recipe, folder: ModelFolder, width: int) -> int:
    from consisti2v_cli.diffusion import Guidance

    branches = Guidance(recipe.guidance, recipe.image_guidance, recipe.guidance_rescale).branches
    positions: int = _pixels(recipe) // 4 ** (len(_configured(folder, "vae", "block_out_channels")) - 1)
    maps = branches * recipe.frames * positions
    taken = NETWORK_MAPS * maps * _configured(folder, "unet", "block_out_channels")[0] * width
    if recipe.attention == "math":  # keeps all scores, and their float32 softmax
        heads = _configured(folder, "unet", "attention_head_dim")  # their number, in spite of the name
        taken += maps * 2 * positions * heads[0] * (width + 4)
    return taken


def _decoder_bytes(recipe: Recipe, folder: ModelFolder) -> int:
    return DECODER_MAPS * _pixels(recipe) * 2 * _configured(folder, "vae", "block_out_channels")[0] * BYTES["fp32"]


def _configured(folder: ModelFolder, part: str, name: str) -> list[int]:
    """The whole numbers, one or several, that a part's configuration has under a name."""
    from consisti2v_cli.weights.folder import read_object

    path = folder.path / part / "config.json"
    value = read_object(path).get(name)
    values = value if isinstance(value, list) else [value]
    numbers = [number for number in values if isinstance(number, int)]
    if not numbers or len(numbers) < len(values):
        raise WeightsError(f"{path} is damaged: {name} is {value!r}.")
    return numbers


def _pixels(recipe: Recipe) -> int:
    if recipe.width is None or recipe.height is None:
        raise ValueError("the recipe's size is not resolved")
    return recipe.width * recipe.height
