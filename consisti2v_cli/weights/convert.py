"""Turn `.bin` weights into safetensors, once, without running anything that is stored in them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from consisti2v_cli.errors import WeightsError

from .folder import BIN_STEMS, STEMS, read_json


def convert_part(place: Path, part: str, bins: Sequence[str]) -> list[str]:
    """Write a part's `.bin` files as safetensors into the same folder.

    Args:
        place: the part's folder.
        part: its name: `unet`, `vae` or `text_encoder`.
        bins: the name of one file, or of an index and the shards behind it.

    Returns:
        The names of the files written.

    Raises:
        WeightsError: a file is damaged, or holds anything but tensors.
    """
    stem = STEMS[part]
    if len(bins) == 1:
        target = f"{stem}.safetensors"
        _convert_file(place / bins[0], place / target)
        return [target]
    index, *shards = bins
    renamed = {shard: f"{stem}{shard[len(BIN_STEMS[part]) :].removesuffix('.bin')}.safetensors" for shard in shards}
    for shard, target in renamed.items():
        _convert_file(place / shard, place / target)
    content = read_json(place / index)
    content["weight_map"] = {name: renamed[shard] for name, shard in content["weight_map"].items()}
    target = f"{stem}.safetensors.index.json"
    (place / target).write_text(json.dumps(content))
    return [target, *renamed.values()]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file or training checkpoint, by name. WeightsError if it holds anything else."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsError(f"{path} holds more than tensors and is not read.") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # a training checkpoint, beside its step and epoch
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds more than tensors and is not read.")
    return dict(content)


def _convert_file(source: Path, path: Path) -> None:
    """Write safetensors under a temporary name first, so that a half-written file is never taken for a whole one."""
    tensors = read_tensors(source)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        own = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        save_file(own, temporary, metadata={"format": "pt"})
        shutil.copymode(source, temporary)  # safetensors writes for the owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
