"""Safetensors files, without torch: the headers of any, and files of our own that carry their hash inside.

The format: 8 bytes with the length of a JSON header, the header, and the tensors one behind the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consisti2v_cli.errors import WeightsError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
PRECISIONS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}  # as people write them
FREQUENCIES = "rotary_emb.freqs"  # how the names of tensors end that stay float32 whatever the weights' type

_HEADER_LIMIT = 100_000_000  # bytes, as the format's own readers have it
_HASH, _SOURCE = "consisti2v.sha256", "consisti2v.source"
_NO_HASH = "0" * 64  # stands where the hash comes, while it is computed
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how files of torch.save begin
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # the format's own words: F32, F16, ...
    metadata: dict[str, str]
    text: bytes  # as it stands in the file

    @property
    def precisions(self) -> set[str]:
        """The floating-point types of the weights: fp32, fp16, ..."""
        dtypes = {dtype for name, dtype in self.dtypes.items() if not name.endswith(FREQUENCIES)}
        return {PRECISIONS[dtype] for dtype in dtypes if dtype in PRECISIONS}

    @property
    def is_ours(self) -> bool:
        """Whether the file was written by `write_tensors`."""
        return _HASH in self.metadata


def read_header(path: Path) -> Header:
    """Read a file's header, and compare the lengths that it names with the file's own.

    Raises:
        WeightsError: it is no safetensors file, or a damaged one; names it.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start.startswith(_PICKLES):
                raise WeightsError(f"{name} is a pickle under the name of a safetensors file, and is not read.")
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > _HEADER_LIMIT:
                raise ValueError("it is no safetensors file")
            text = file.read(length)
            size = os.fstat(file.fileno()).st_size
        content: dict[str, Any] = json.loads(text)
        metadata = content.pop("__metadata__", {})
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in content.items()}
        dtypes = {name: str(entry["dtype"]) for name, entry in content.items()}
        end = max((int(entry["data_offsets"][1]) for entry in content.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(f"{name} is damaged or cannot be read: {error}") from None
    if size != 8 + length + end:
        raise WeightsError(f"{name} is damaged: it has {size} bytes instead of {8 + length + end}.")
    return Header(shapes, dtypes, metadata if isinstance(metadata, dict) else {}, text)


def write_tensors(
    path: Path,
    dtypes: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]],
    read: Callable[[str], bytes | memoryview],
    source: str,
) -> None:
    """Write a safetensors file that carries its own hash, one tensor after the other in memory.

    It has a temporary name of its own until it is whole. What an earlier attempt left under that name is overwritten,
    so two processes must not write the same file.

    Args:
        path: where to.
        dtypes: each tensor's type, a key of `BYTES`.
        shapes: each tensor's.
        read: gives a tensor's numbers, by name.
        source: what it was made from, for the curious.
    """
    order = sorted(dtypes, key=lambda name: (-BYTES[dtypes[name]], name))  # aligned, as the format's own writer does
    text = _header_text(order, dtypes, shapes, {_HASH: _NO_HASH, _SOURCE: source, "format": "pt"})
    digest = hashlib.sha256(text)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                numbers = read(name)
                digest.update(numbers)
                file.write(numbers)
            file.seek(8 + text.index(_NO_HASH.encode()))
            file.write(digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _header_text(
    order: Sequence[str],
    dtypes: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]],
    metadata: Mapping[str, str],
) -> bytes:
    content: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        begin, end = end, end + BYTES[dtypes[name]] * math.prod(shapes[name])
        content[name] = {"dtype": dtypes[name], "shape": list(shapes[name]), "data_offsets": [begin, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def is_ours(path: Path) -> bool:
    """Whether a file is one of `write_tensors`, as far as its header tells."""
    if path.suffix != ".safetensors" or path.is_symlink() or not path.is_file():
        return False
    try:
        return read_header(path).is_ours
    except WeightsError:
        return False


def own_hash_holds(path: Path, header: Header, on_bytes: Callable[[int], object] = lambda count: None) -> bool:
    """Whether a file of `write_tensors` is still as it was written.

    Args:
        path: the file.
        header: its own.
        on_bytes: called with the number of bytes read since the last call.
    """
    written = str(header.metadata[_HASH])
    digest = hashlib.sha256(header.text.replace(written.encode(), _NO_HASH.encode(), 1))
    with path.open("rb") as file:
        file.seek(8 + len(header.text))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest() == written


def size_in_words(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
