"""How much memory a model and a clip need, from the headers of the files: an estimate for `--dry-run`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.recipe import Recipe

if TYPE_CHECKING:
    from consisti2v_cli.weights import ModelFolder

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Measured on a CPU: 27 feature maps of the network's first level, and 3.8 of the decoder's last level but one.
NETWORK_MAPS = 32
DECODER_MAPS = 4
HEADER_LIMIT = 100_000_000  # bytes, as the format's own readers have it


def estimate_memory(recipe: Recipe, folder: ModelFolder) -> int:
    """Bytes of the weights, and of a network pass or the decoding of a frame, whichever takes more.

    Args:
        recipe: with its size resolved.
        folder: the model's.

    Raises:
        WeightsError: a header is damaged.
    """
    from consisti2v_cli.weights.folder import STEMS, read_json, weight_files

    width = BYTES[recipe.dtype]
    weights = 0
    for part in STEMS:
        numbers = sum(_count_numbers(file) for file in weight_files(folder, part))
        weights += numbers * (BYTES["fp32"] if part == "vae" else width)
    network, autoencoder = (read_json(folder.path / part / "config.json") for part in ("unet", "vae"))
    return weights + max(_network_bytes(recipe, network, autoencoder, width), _decoder_bytes(recipe, autoencoder))


def _network_bytes(recipe: Recipe, network: dict[str, Any], autoencoder: dict[str, Any], width: int) -> int:
    from consisti2v_cli.diffusion import Guidance

    branches = Guidance(recipe.guidance, recipe.image_guidance, recipe.guidance_rescale).branches
    positions: int = _pixels(recipe) // 4 ** (len(autoencoder["block_out_channels"]) - 1)
    maps = branches * recipe.frames * positions
    taken = NETWORK_MAPS * maps * int(network["block_out_channels"][0]) * width
    if recipe.attention == "math":  # keeps all scores, and their float32 softmax
        heads = network["attention_head_dim"]  # their number, in spite of the name
        taken += maps * 2 * positions * int(heads if isinstance(heads, int) else heads[0]) * (width + 4)
    return taken


def _decoder_bytes(recipe: Recipe, autoencoder: dict[str, Any]) -> int:
    return int(DECODER_MAPS * _pixels(recipe) * 2 * autoencoder["block_out_channels"][0] * BYTES["fp32"])


def _pixels(recipe: Recipe) -> int:
    if recipe.width is None or recipe.height is None:
        raise ValueError("the recipe's size is not resolved")
    return recipe.width * recipe.height


def _count_numbers(file: Path) -> int:
    """How many numbers a safetensors file holds: 8 bytes give the length of its JSON header, which lists the shapes."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > HEADER_LIMIT:
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(stream.read(length))
        shapes = (entry["shape"] for name, entry in header.items() if name != "__metadata__")
        return sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file.parent.name}/{file.name} is damaged or cannot be read: {error}") from None
