"""Turn `.bin` weights into safetensors, without running anything that is stored in them; and halve the precision."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from consisti2v_cli.errors import WeightsError

from .folder import BIN_STEMS, HALVES, STEMS, copy_name, index_files, read_object, weight_files
from .store import BYTES, FREQUENCIES, PRECISIONS, read_header, write_tensors
from .tensors import CODES, fault

_FIRST_SENTENCE = re.compile(r"(?<=[.!?])\s|\n")  # what comes behind it is torch's advice, which suits nobody here
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def convert_part(place: Path, part: str, bins: Sequence[str]) -> list[str]:
    """Write a part's `.bin` files as safetensors into the same folder.

    Args:
        place: the part's folder.
        part: its name: `unet`, `vae` or `text_encoder`.
        bins: the name of one file, or of an index and the shards behind it.

    Returns:
        The names of the files written.

    Raises:
        WeightsError: a file is damaged, or holds anything but tensors of finite numbers.
    """
    stem = STEMS[part]
    if len(bins) == 1:
        target = f"{stem}.safetensors"
        _convert_file(place / bins[0], place / target)
        return [target]
    index, shards = bins[0], index_files(place / bins[0])
    renamed = {shard: f"{stem}{shard[len(BIN_STEMS[part]) :].removesuffix('.bin')}.safetensors" for shard in shards}
    for shard, target in renamed.items():
        _convert_file(place / shard, place / target)
    content = read_object(place / index)
    content["weight_map"] = {name: renamed[shard] for name, shard in content["weight_map"].items()}
    target = f"{stem}.safetensors.index.json"
    _write_json(place / target, content)
    return [target, *renamed.values()]


def halve_part(
    folder: Path, part: str, dtype: str, on_bytes: Callable[[int], object] = lambda count: None
) -> str | None:
    """Write a part's weights once more, in half precision, as one file beside those there are.

    Loading it gives the same numbers as loading the originals in that precision. One tensor at a time is in memory.

    Args:
        folder: the model's.
        part: its name.
        dtype: `fp16` or `bf16`.
        on_bytes: called with the number of bytes of the originals that were worked off since the last call.

    Returns:
        The name of the file; None where the weights are in half precision as they are.

    Raises:
        WeightsError: a file is damaged, or holds a number that is not finite or too large for `dtype`.
    """
    originals = _Originals(weight_files(folder, part))
    if originals.are_half:
        return None
    if not all(file.name.startswith(STEMS[part]) for file in originals.headers):
        raise WeightsError(f"Copies are made of weights named {STEMS[part]}: {folder / part} has another name.")
    target = next(code for code, precision in PRECISIONS.items() if precision == dtype)
    codes = {name: _halved(name, code, target) for name, code in originals.codes.items()}
    with originals as tensors:

        def read(name: str) -> memoryview:
            file, tensor = tensors(name)
            changed = codes[name] != originals.codes[name]
            on_bytes(tensor.nbytes)
            return _numbers(f"{part}/{file.name}", name, tensor, _HALF[dtype] if changed else tensor.dtype)

        write_tensors(folder / part / copy_name(part, dtype), codes, originals.shapes, read, originals.names)
    return copy_name(part, dtype)


class _Originals:
    """The tensors of a part, from one file or several; to be read within a `with`."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.headers = {file: read_header(file) for file in files}
        self.names = ", ".join(file.name for file in files)
        self.codes = {name: code for header in self.headers.values() for name, code in header.dtypes.items()}
        self.shapes = {name: shape for header in self.headers.values() for name, shape in header.shapes.items()}
        self.opened = ExitStack()

    @property
    def are_half(self) -> bool:
        """Whether all weights are in half precision."""
        return all(header.precisions <= set(HALVES) for header in self.headers.values())

    def __enter__(self) -> Callable[[str], tuple[Path, Tensor]]:
        try:
            opened = {file: self.opened.enter_context(safe_open(file, framework="pt")) for file in self.headers}
        except SafetensorError as error:
            self.opened.close()
            raise WeightsError(f"{self.names} is damaged or cannot be read: {error}") from None
        place = {name: file for file, header in self.headers.items() for name in header.shapes}
        return lambda name: (place[name], opened[place[name]].get_tensor(name))

    def __exit__(self, *error: object) -> None:
        self.opened.close()


def _halved(name: str, code: str, target: str) -> str:
    """The type that a tensor gets in a copy of half precision."""
    if code not in BYTES:
        raise WeightsError(f"{name} is of the type {code}, which is not known here.")
    return target if code in PRECISIONS and not name.endswith(FREQUENCIES) else code


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file or training checkpoint, by name. WeightsError if it holds anything else."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of is an error below
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsError(f"{path} holds more than tensors and is not read.") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise WeightsError(f"{path} holds more than tensors (a program) and is not read.") from None
        raise WeightsError(f"{path} is damaged: {_FIRST_SENTENCE.split(str(error), 1)[0]}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # a training checkpoint, beside its step and epoch
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds more than tensors ({_kind(content)}) and is not read.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.dtype not in CODES or value.is_sparse:
            raise WeightsError(f"{path} holds more than tensors ({name!r} is {_kind(value)}) and is not read.")
        if value.nbytes > path.stat().st_size:  # one number, repeated for ever
            raise WeightsError(f"{path} is damaged: {name} claims to have {value.numel()} numbers.")
    return dict(content)


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of the type {type(value).__name__}"


def _convert_file(source: Path, path: Path) -> None:
    tensors = read_tensors(source)
    write_tensors(
        path,
        {name: CODES[tensor.dtype] for name, tensor in tensors.items()},
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        lambda name: _numbers(str(source), name, tensors[name], tensors[name].dtype),
        source.name,
    )


def _numbers(file: str, name: str, tensor: Tensor, dtype: torch.dtype) -> memoryview:
    """A tensor's numbers as they are written to a file; WeightsError where they are not finite."""
    if problem := fault(tensor, dtype):
        raise WeightsError(f"{file} is damaged: {name} {problem}.")
    flat = tensor.detach().to(dtype).contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)
