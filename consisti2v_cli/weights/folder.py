"""The layout of a model folder: which files make a part, what is missing, and its settings. JSON and names only."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from consisti2v_cli.errors import WeightsError

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
BIN_STEMS = STEMS | {"text_encoder": "pytorch_model"}
TOKENIZER_FILES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})  # either is enough
SETTINGS_FILE = "consisti2v.json"

_INDEX = re.compile(r"\.(safetensors|bin)\.index(\.\w+)?\.json$")
_SHARD = re.compile(r"-\d+-of-\d+")
_VARIANT_RANK = {"": 0, "fp16": 1, "bf16": 2}


@dataclass(frozen=True)
class ModelFolder:
    """Where a model's files lie: `unet/ vae/ text_encoder/ tokenizer/` and perhaps `scheduler/`."""

    path: Path
    name: str  # as it was asked for; a local folder's base name
    revision: str | None = None  # the hub's commit


@dataclass(frozen=True)
class ModelSettings:
    """What a model was made for (`consisti2v.json` in its folder); the defaults are the paper's. Names as in Recipe."""

    native_size: int = 256  # pixels: side of the square whose area suits the model
    frames: int = 16
    fps: float = 8
    steps: int = 50
    sampler: str = "ddim"
    motion: int = 3
    guidance: float = 7.5
    image_guidance: float = 1.0
    guidance_rescale: float = 0.0
    layout_strength: int = 850
    layout_cutoff: float = 0.25
    noise: str = "mixed"
    noise_correlation: float = 1.0


def read_settings(folder: ModelFolder | Path) -> ModelSettings:
    """Read a folder's `consisti2v.json`; without one the paper's settings hold. WeightsError on unknown keys."""
    path = _path(folder) / SETTINGS_FILE
    if not path.is_file():
        return ModelSettings()
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is damaged: a JSON object is expected.")
    known = {field.name: type(field.default) for field in fields(ModelSettings)}
    for name, value in values.items():
        kinds = (int, float) if known.get(name) is float else (known.get(name, type(None)),)
        if name not in known or isinstance(value, bool) or not isinstance(value, kinds):
            raise WeightsError(f"{path}: {name} = {value!r} is no setting; possible are {', '.join(known)}.")
    return ModelSettings(**values)


def vae_factor(folder: ModelFolder | Path) -> int:
    """How many pixels one latent covers, along each side: 2 for every level of the autoencoder but the last."""
    levels = read_json(_path(folder) / "vae" / "config.json").get("block_out_channels", [0])
    return int(2 ** (len(levels) - 1))


def read_json(path: Path) -> Any:
    """Parse a JSON file; WeightsError naming it where that fails."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or cannot be read: {error}.") from None


def pick_weights(names: Iterable[str], part: str, kind: str = "safetensors") -> list[str]:
    """Of the file names in a part's folder, those that hold its weights; an index comes first, its shards follow.

    The plain file is preferred, then shards, then a variant such as `.fp16`, then a single file of any other name.
    `kind` is `safetensors` or `bin`. Empty where there are none.
    """
    stem = (STEMS if kind == "safetensors" else BIN_STEMS)[part]
    names = sorted(names)
    candidates = {}
    others = []
    for name in names:
        index = _INDEX.search(name)
        if not name.endswith(f".{kind}") and (index is None or index[1] != kind):
            continue
        variant = _variant(name, stem)
        if variant is None:
            others.append(name)
        elif not _SHARD.search(name):
            candidates[_VARIANT_RANK.get(variant, 3), index is not None, name] = variant
    if not candidates:
        return others if len(others) == 1 and not _INDEX.search(others[0]) else []
    best = min(candidates)
    if not best[1]:
        return [best[2]]
    shards = [n for n in names if _SHARD.search(n) and n.endswith(kind) and _variant(n, stem) == candidates[best]]
    return [best[2], *shards]


def _variant(name: str, stem: str) -> str | None:
    """`fp16` of `STEM.fp16.safetensors`, `STEM-1-of-2.fp16.safetensors`, `STEM.safetensors.index.fp16.json`; or ''.

    None where the name has another stem.
    """
    if not re.match(re.escape(stem) + r"[.-]", name):
        return None
    rest = _SHARD.sub("", name[len(stem) :])
    words = [word for word in rest.split(".") if word not in ("", "safetensors", "bin", "index", "json")]
    return ".".join(words)


def weight_files(folder: ModelFolder | Path, part: str) -> list[Path]:
    """The safetensors files of a part, shards resolved through their index. WeightsError where some are missing."""
    place = _path(folder) / part
    picked = pick_weights(_names(place), part)
    if not picked:
        raise WeightsError(f"The model in {_path(folder)} lacks {part}/{STEMS[part]}.safetensors.")
    if not _INDEX.search(picked[0]):
        return [place / picked[0]]
    wanted = _index_files(place / picked[0])
    absent = [name for name in wanted if not (place / name).is_file()]
    if absent:
        raise WeightsError(f"The model in {_path(folder)} lacks {', '.join(f'{part}/{n}' for n in absent)}.")
    return [place / name for name in wanted]


def missing(folder: Path) -> list[str]:
    """What a folder lacks of a whole model, in words; empty for a complete one. Contents are not checked."""
    lacking = []
    for part in STEMS:
        names = _names(folder / part)
        if "config.json" not in names:
            lacking.append(f"{part}/config.json")
        if pick_weights(names, part):
            try:
                weight_files(folder, part)
            except WeightsError:
                lacking.append(f"some of the weights in {part}/")
        else:
            lacking.append(f"{part}/{STEMS[part]}.safetensors")
    if not any(files <= set(_names(folder / "tokenizer")) for files in TOKENIZER_FILES):
        lacking.append("tokenizer/tokenizer.json")
    return lacking


def convertible(names: Collection[str], part: str) -> list[str]:
    """The `.bin` files of a part that has no safetensors: `fetch` converts them, rendering does not read them."""
    return [] if pick_weights(names, part) else pick_weights(names, part, "bin")


def _index_files(index: Path) -> list[str]:
    """The shards that an index names, each once and none outside of the index's own folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} is damaged: it has no weight_map.")
    names = sorted({str(name) for name in weight_map.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise WeightsError(f"{index} names {outside[0]}, which lies outside of its folder.")
    return names


def _names(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.is_file()) if place.is_dir() else []


def _path(folder: ModelFolder | Path) -> Path:
    return folder.path if isinstance(folder, ModelFolder) else folder
