"""How much memory a model and a clip need, from the headers of the files: an estimate for `--dry-run`."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from consisti2v_cli.errors import WeightsError

from .folder import STEMS, ModelFolder, read_json, weight_files

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

MAPS = 40  # feature maps of the network's first level that live at once: skips, feed-forward, queries and keys
DECODER_MAPS = 5  # feature maps of the decoder's last level that live at once
_HEADER_LIMIT = 100_000_000  # bytes, as the format's own readers have it


def weights_bytes(folder: ModelFolder, dtype: str) -> int:
    """Memory of all parts: the autoencoder in float32, the others in `dtype` (a key of `BYTES`)."""
    total = 0
    for part in STEMS:
        size = BYTES["fp32" if part == "vae" else dtype]
        total += size * sum(_values(path) for path in weight_files(folder, part))
    return total


def working_bytes(
    folder: ModelFolder, *, width: int, height: int, frames: int, branches: int, dtype: str, attention: str
) -> int:
    """Memory at the peak beside the weights, roughly: of a network pass or of decoding one frame.

    Args:
        width, height: of the clip in pixels.
        branches: of guidance: 1, 2 or 3.
        attention: `math` keeps all scores, the others do not.
    """
    unet, vae = (read_json(folder.path / part / "config.json") for part in ("unet", "vae"))
    widths = unet.get("block_out_channels", [320])
    positions = (width * height) // 4 ** (len(vae.get("block_out_channels", [0])) - 1)
    network = MAPS * branches * frames * positions * widths[0] * BYTES[dtype]
    if attention == "math":
        network += branches * frames * _heads(unet) * positions * 2 * positions * (BYTES[dtype] + 4)
    decoder = DECODER_MAPS * width * height * 2 * vae.get("block_out_channels", [128])[0] * BYTES["fp32"]
    return int(max(network, decoder))


def _heads(unet: dict[str, Any]) -> int:
    heads = unet.get("attention_head_dim", 5)
    return int(heads if isinstance(heads, int) else heads[0])


def _values(path: Path) -> int:
    """How many numbers a safetensors file holds. WeightsError if its header is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_LIMIT:
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path.parent.name}/{path.name} is damaged or cannot be read: {error}") from None
