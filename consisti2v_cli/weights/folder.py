"""The layout of a model folder: which files make a part, what is missing, and its settings. JSON and names only."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from consisti2v_cli.errors import WeightsError

from .cache import hub_hash
from .store import is_ours

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
BIN_STEMS = STEMS | {"text_encoder": "pytorch_model"}
TOKENIZER_FILES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})  # either is enough
HALVED = ("unet", "text_encoder")  # kept in half precision on request; the autoencoder's decoder overflows in it
HALVES = ("fp16", "bf16")
SETTINGS_FILE = "consisti2v.json"
SCHEDULE_FILE = "scheduler/scheduler_config.json"

_INDEX = re.compile(r"\.(safetensors|bin)\.index(\.\w+)?\.json$")
_SHARD = re.compile(r"-\d+-of-\d+")
_VARIANTS = {  # which files are taken for a precision, best first; "": full precision
    "fp32": ("", "fp16", "bf16"),
    "fp16": ("fp16", "", "bf16"),
    "bf16": ("bf16", "", "fp16"),
}


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
    values = read_object(path)
    known = {field.name: type(field.default) for field in fields(ModelSettings)}
    for name, value in values.items():
        kinds = (int, float) if known.get(name) is float else (known.get(name, type(None)),)
        if name not in known or isinstance(value, bool) or not isinstance(value, kinds):
            raise WeightsError(f"{path}: {name} = {value!r} is no setting; possible are {', '.join(known)}.")
    return ModelSettings(**values)


def vae_factor(folder: ModelFolder | Path) -> int:
    """How many pixels one latent covers, along each side: 2 for every level of the autoencoder but the last."""
    path = _path(folder) / "vae" / "config.json"
    levels = read_object(path).get("block_out_channels", [0])
    if not isinstance(levels, list) or not levels:
        raise WeightsError(f"{path} is damaged: block_out_channels is {levels!r}.")
    return int(2 ** (len(levels) - 1))


def check_configurations(folder: ModelFolder | Path) -> None:
    """Read all settings and configurations of a model. WeightsError naming the first that is damaged."""
    read_settings(folder)
    for part in STEMS:
        read_object(_path(folder) / part / "config.json")
    vae_factor(folder)
    if (_path(folder) / SCHEDULE_FILE).is_file():
        read_object(_path(folder) / SCHEDULE_FILE)


def read_json(path: Path) -> Any:
    """Parse a JSON file; WeightsError naming it where that fails."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged or cannot be read: {error}.") from None


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds an object; WeightsError naming it where it is anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is damaged: a JSON object is expected.")
    return content


def pick_weights(names: Iterable[str], part: str, kind: str = "safetensors", dtype: str | None = None) -> list[str]:
    """Of the file names in a part's folder, those that hold its weights; an index comes first, its shards follow.

    The plain file is preferred, then shards, then a variant such as `.fp16`, then a single file of any other name.
    For a `dtype` of half precision its own variant comes first, and the other half precision after the plain files.
    `kind` is `safetensors` or `bin`. Empty where there are none.
    """
    variants = _VARIANTS[dtype or "fp32"]
    stem = (STEMS if kind == "safetensors" else BIN_STEMS)[part]
    names = sorted(names)
    candidates = {}
    others = []
    for name in names:
        index = _INDEX.search(name)
        if not name.endswith(f".{kind}") and (index is None or index[1] != kind):
            continue
        variant = variant_of(name, stem)
        if variant is None:
            others.append(name)
        elif not _SHARD.search(name):
            rank = variants.index(variant) if variant in variants else len(variants)
            candidates[rank, index is not None, name] = variant
    if not candidates:
        return others if len(others) == 1 and not _INDEX.search(others[0]) else []
    best = min(candidates)
    if not best[1]:
        return [best[2]]
    shards = [n for n in names if _SHARD.search(n) and n.endswith(kind) and variant_of(n, stem) == candidates[best]]
    return [best[2], *shards]


def is_half(name: str, part: str) -> bool:
    """Whether a file name is that of weights in half precision, beside those in full precision."""
    return variant_of(name, STEMS[part]) in HALVES


def variant_of(name: str, stem: str) -> str | None:
    """`fp16` of `STEM.fp16.safetensors`, `STEM-1-of-2.fp16.safetensors`, `STEM.safetensors.index.fp16.json`; or ''.

    None where the name has another stem.
    """
    if not re.match(re.escape(stem) + r"[.-]", name):
        return None
    rest = _SHARD.sub("", name[len(stem) :])
    words = [word for word in rest.split(".") if word not in ("", "safetensors", "bin", "index", "json")]
    return ".".join(words)


def copy_name(part: str, dtype: str) -> str:
    """The name of a part's copy in half precision."""
    return f"{STEMS[part]}.{dtype}.safetensors"


def weight_files(folder: ModelFolder | Path, part: str, dtype: str | None = None) -> list[Path]:
    """The safetensors files of a part, shards resolved through their index; which of several, see `pick_weights`.

    A copy that we made is passed over where what it was made from has changed since.

    Raises:
        WeightsError: some are missing.
    """
    place = _path(folder) / part
    names = file_names(place)
    picked = pick_weights(names, part, dtype=dtype)
    if not picked:
        raise WeightsError(f"The model in {_path(folder)} lacks {part}/{STEMS[part]}.safetensors.")
    if is_stale(place, part, picked[0]):
        picked = pick_weights(names, part)
    if not _INDEX.search(picked[0]):
        return [place / picked[0]]
    wanted = index_files(place / picked[0])
    absent = [name for name in wanted if not (place / name).is_file()]
    if absent:
        raise WeightsError(f"The model in {_path(folder)} lacks {', '.join(f'{part}/{n}' for n in absent)}.")
    return [place / name for name in wanted]


def is_stale(place: Path, part: str, name: str) -> bool:
    """Whether a file in a part's folder is a copy of our own of which the originals are there, and newer.

    What the hub gave never changes, and may have come again later.
    """
    originals = pick_weights(file_names(place), part)
    if name in originals or not is_ours(place / name):
        return False
    written = (place / name).stat().st_mtime_ns
    changing = [place / original for original in originals if hub_hash(place / original) is None]
    return any(original.stat().st_mtime_ns > written for original in changing)


def missing(folder: Path) -> list[str]:
    """What a folder lacks of a whole model, in words; empty for a complete one. Contents are not checked."""
    lacking = []
    for part in STEMS:
        names = file_names(folder / part)
        if "config.json" not in names:
            lacking.append(f"{part}/config.json")
        if pick_weights(names, part):
            try:
                weight_files(folder, part)
            except WeightsError:
                lacking.append(f"some of the weights in {part}/")
        else:
            lacking.append(f"{part}/{STEMS[part]}.safetensors")
    if not any(files <= set(file_names(folder / "tokenizer")) for files in TOKENIZER_FILES):
        lacking.append("tokenizer/tokenizer.json")
    return lacking


def convertible(names: Collection[str], part: str) -> list[str]:
    """The `.bin` files of a part that has no safetensors: `fetch` converts them, rendering does not read them."""
    return [] if pick_weights(names, part) else pick_weights(names, part, "bin")


def index_files(index: Path) -> list[str]:
    """The shards that an index names, each once and none outside of the index's own folder."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} is damaged: it has no weight_map.")
    names = sorted({str(name) for name in weight_map.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise WeightsError(f"{index} names {outside[0]}, which lies outside of its folder.")
    return names


def file_names(place: Path) -> list[str]:
    """The files in a folder, sorted; dangling links are none. Empty where there is no folder."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_file()) if place.is_dir() else []


def _path(folder: ModelFolder | Path) -> Path:
    return folder.path if isinstance(folder, ModelFolder) else folder
