"""How much memory a clip needs, estimated from the headers of the model's files; and the plan that keeps to it."""

from __future__ import annotations

import math
from dataclasses import replace

from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.plans import ALL_AT_ONCE, OWN_MEMORY, TILE, MemoryPlan, plans_for
from consisti2v_cli.recipe import Recipe
from consisti2v_cli.weights import ModelFolder
from consisti2v_cli.weights.folder import STEMS, read_object, weight_files
from consisti2v_cli.weights.store import read_header

GIB = 2**30

# Measured on a CPU: Python with torch, diffusers and transformers, and what torch loads when it first computes.
BASELINE = 550 * 2**20
LAYOUT_BASELINE = 60 * 2**20  # Python with numpy and Pillow
PHOTO_BYTES = 10  # a pixel of the photo: as it is decoded, and as its parts are cropped
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Counted by tests/benchmarks/memory.py: 24.5 feature maps of the network's first level, 19 with its wide layers cut in
# pieces, and 3 of the decoder's last level but one, measured as 3.8 on a CPU; and a tenth for what allocators round up.
NETWORK_MAPS = 27
CHUNKED_MAPS = 21
DECODER_MAPS = 4
WORKSPACE = 256 * 2**20  # on a graphics card: what its libraries take beside tensors
USABLE = 0.92  # of a graphics card: a desktop takes some of it
STREAMED = 3  # how many of the largest layers are on the device at a time: one computes, one comes, one goes


def choose_plan(
    recipe: Recipe, folder: ModelFolder, size: tuple[int, int], vram: float | None = None
) -> tuple[MemoryPlan, int]:
    """The fastest plan that keeps to a budget, or the smallest one if none does; and the bytes that it takes at its
    peak: of the device, if that has memory of its own, otherwise of the machine.

    Args:
        recipe: with its size resolved.
        folder: the model's.
        size: the photo's width and height; it is read before the model is loaded.
        vram: the budget in GiB; by default most of the device's own memory, be it free or not, so that the same recipe
            is computed in the same way each time; no limit on a CPU.

    Raises:
        RequestError: a budget that is no number above 0.
        WeightsError: a header or a configuration is damaged.
    """
    if vram is not None and not 0 < vram < math.inf:
        raise RequestError(f"vram is {vram}; possible: numbers above 0, in GiB.")
    budget = vram * GIB if vram is not None else _own_memory(recipe.device)
    if budget is None or recipe.layout_only:
        return ALL_AT_ONCE, estimate(recipe, folder, size)
    plans = (replace(plan, tiled=tiled) for plan in plans_for(recipe.device) for tiled in (False, True))
    needs: dict[MemoryPlan, int] = {}
    for plan in plans:
        needs[plan] = estimate(recipe, folder, size, plan)
        if needs[plan] <= budget:
            return plan, needs[plan]
    smallest = min(reversed(needs), key=lambda plan: needs[plan])  # the last of those that take as much
    return smallest, needs[smallest]


def estimate(recipe: Recipe, folder: ModelFolder, size: tuple[int, int], plan: MemoryPlan = ALL_AT_ONCE) -> int:
    """Bytes at the peak, as in `choose_plan`: weights, and a network pass or the decoding of a frame, whichever takes
    more; of the machine's memory also those of the program.
    """
    photo = PHOTO_BYTES * size[0] * size[1]
    if recipe.layout_only:
        return LAYOUT_BASELINE + photo + 3 * recipe.frames * _pixels(recipe)
    numbers = {part: _numbers(folder, part) for part in STEMS}
    weights = {part: sum(numbers[part]) * (BYTES["fp32"] if part == "vae" else BYTES[recipe.dtype]) for part in STEMS}
    network, decoder = _network_bytes(recipe, folder, plan), _decoder_bytes(recipe, folder, plan)
    if recipe.device.partition(":")[0] not in OWN_MEMORY:
        return BASELINE + max(photo, sum(weights.values()) + max(network, decoder))
    unet = STREAMED * max(numbers["unet"]) * BYTES[recipe.dtype] if plan.streamed else weights["unet"]
    if not plan.parts_apart:
        return WORKSPACE + unet + weights["vae"] + weights["text_encoder"] + max(network, decoder)
    unet_waits = 0 if plan.streamed else unet
    return WORKSPACE + max(unet + network, unet_waits + weights["vae"] + decoder, unet_waits + weights["text_encoder"])


def _own_memory(device: str) -> float | None:
    """Bytes of a device's own memory that a clip may take; None where it has none."""
    if device.partition(":")[0] not in OWN_MEMORY:
        return None
    import torch

    return USABLE * float(torch.cuda.get_device_properties(device).total_memory)


def _numbers(folder: ModelFolder, part: str) -> list[int]:
    """How many numbers each tensor of a part has."""
    headers = map(read_header, weight_files(folder, part))
    return [math.prod(shape) for header in headers for shape in header.shapes.values()]


def _network_bytes(recipe: Recipe, folder: ModelFolder, plan: MemoryPlan) -> int:
    from consisti2v_cli.diffusion import Guidance

    width = BYTES[recipe.dtype]
    branches = Guidance(recipe.guidance, recipe.image_guidance, recipe.guidance_rescale).branches
    positions: int = _pixels(recipe) // 4 ** (len(_configured(folder, "vae", "block_out_channels")) - 1)
    tokens = (1 if plan.branches_apart else branches) * recipe.frames * positions
    maps = NETWORK_MAPS if plan.feed_forward_chunks == 1 else CHUNKED_MAPS
    taken = maps * tokens * _configured(folder, "unet", "block_out_channels")[0] * width
    if recipe.attention == "math":  # keeps all scores, and their float32 softmax
        heads = _configured(folder, "unet", "attention_head_dim")  # their number, in spite of the name
        taken += tokens * 2 * positions * heads[0] * (width + 4)
    return taken


def _decoder_bytes(recipe: Recipe, folder: ModelFolder, plan: MemoryPlan) -> int:
    pixels = min(_pixels(recipe), TILE**2) if plan.tiled else _pixels(recipe)
    return DECODER_MAPS * pixels * 2 * _configured(folder, "vae", "block_out_channels")[0] * BYTES["fp32"]


def _configured(folder: ModelFolder, part: str, name: str) -> list[int]:
    """The whole numbers, one or several, that a part's configuration has under a name."""
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
