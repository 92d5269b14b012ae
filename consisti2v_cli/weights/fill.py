"""Tensors from the files of a part into a module without numbers: strictly, and without a second copy in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.model import rotary_frequencies, unused_tensor

from .store import BYTES, FREQUENCIES, PRECISIONS, Header, read_header
from .tensors import CODES, fault

_GROUP = 2**26  # bytes of a file that are converted before it is opened again
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_NAMED_IN_MESSAGE = 5  # tensors, before the rest is only counted


def fill(module: nn.Module, files: Sequence[Path], part: str, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module on the meta device the tensors of its files, which must be exactly those it has."""
    tensors: dict[str, Tensor] = {}
    for path, names in survey(module, files, part).items():
        for some in _in_groups(path, names, partial(_changes, part, device=device, dtype=dtype)):
            for name, tensor in stored_tensors(path, some, part, dtype):
                tensors[name] = _placed(name, tensor, device, dtype, layout(part, tuple(tensor.shape), device))
                del tensor  # with the last of those that are converted, their part of the file leaves the memory
    module.load_state_dict(tensors, assign=True)
    _restore_buffers(module)


def _in_groups(
    path: Path, names: Mapping[str, str], changes: Callable[[str, str, tuple[int, ...]], bool]
) -> Iterator[dict[str, str]]:
    """The tensors of a file in the order in which to read them.

    Those that stay as they are come first, and stay in the file, which is mapped into memory. For each group of the
    others it is opened again: what was read of it so far, and copied, must not stay in memory too.
    """
    header = read_header(path)
    changing = {stored: changes(name, header.dtypes[stored], header.shapes[stored]) for stored, name in names.items()}
    if staying := {stored: name for stored, name in names.items() if not changing[stored]}:
        yield staying
    group: dict[str, str] = {}
    taken = 0
    for stored in (stored for stored in names if changing[stored]):
        group[stored] = names[stored]
        taken += math.prod(header.shapes[stored]) * BYTES[header.dtypes[stored]]
        if taken >= _GROUP:
            yield group
            group, taken = {}, 0
    if group:
        yield group


def _changes(
    part: str, name: str, stored: str, shape: tuple[int, ...], *, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether a stored tensor is used in another place, kind or order than the file has it in."""
    wanted = torch.float32 if name.endswith(FREQUENCIES) else dtype
    converted = stored in PRECISIONS and stored != CODES[wanted]
    return device.type != "cpu" or converted or layout(part, shape, device) != torch.preserve_format


def layout(part: str, shape: tuple[int, ...], device: torch.device) -> torch.memory_format:
    """How a tensor lies in memory: a kernel of convolution with its channels last where they are so in what it meets.

    The network has them last; the autoencoder's convolutions bring them there by themselves, on a CPU.
    """
    if part == "text_encoder" or (part == "vae" and device.type != "cpu") or math.prod(shape[2:]) == 1:
        return torch.preserve_format
    return _CHANNELS_LAST.get(len(shape), torch.preserve_format)


def stored_tensors(
    path: Path, names: Mapping[str, str], part: str, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file under the module's names; WeightsError where one is not finite, in `dtype` too."""
    try:
        with safe_open(path, framework="pt") as file:
            for stored, name in names.items():
                tensor = file.get_tensor(stored)
                target = tensor.dtype if dtype is None or name.endswith(FREQUENCIES) else dtype
                if problem := fault(tensor, target):
                    raise WeightsError(f"{part}/{path.name} cannot be used: {name} {problem}.")
                yield name, tensor
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{part}/{path.name} is damaged or cannot be read: {error}") from error


def survey(module: nn.Module, files: Sequence[Path], part: str) -> dict[Path, dict[str, str]]:
    """Which tensors to take from each file, and the module's names for them; from the headers alone.

    Raises:
        WeightsError: the files do not have exactly the tensors of the module: names file and tensors.
    """
    state = module.state_dict()
    rename = _renamer(part, state)
    absent = dict.fromkeys(state)
    taken: dict[Path, dict[str, str]] = {}
    problems = []
    for path in files:
        header, taken[path] = read_header(path), {}
        extra, wrong = [], []
        for stored in header.shapes:
            name = rename(stored)
            if name in absent:
                del absent[name]
                taken[path][stored] = name
                wrong += _misfit(name, state[name], header, stored)
            elif name is not None:  # or there twice
                extra.append(name)
        problems += [f"{part}/{path.name} has unknown {_listed(extra)}"] if extra else []
        problems += [f"{part}/{path.name} has {_listed(wrong)}"] if wrong else []
    if absent:
        problems.insert(0, f"{_listed([f'{part}/{path.name}' for path in files])} lacks {_listed([*absent])}")
    if problems:
        raise WeightsError(f"The weights do not fit the network: {'; '.join(problems)}.")
    return taken


def _misfit(name: str, expected: Tensor, header: Header, stored: str) -> list[str]:
    """What is wrong with a stored tensor's shape or kind, in words."""
    shape = header.shapes[stored]
    if shape != tuple(expected.shape):
        return [f"{name} {list(shape)} instead of {list(expected.shape)}"]
    if (header.dtypes[stored] in PRECISIONS) != expected.is_floating_point():
        return [f"{name} of the type {header.dtypes[stored]} instead of {str(expected.dtype).removeprefix('torch.')}"]
    return []


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_IN_MESSAGE
    return ", ".join(names[:_NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def _placed(name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """A stored tensor where and as what it is used. Rotary frequencies stay float32."""
    if not name.endswith(FREQUENCIES):
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, memory_format=layout)
    if tensor.dtype != torch.float32:  # rounded when the file was written
        tensor = rotary_frequencies(4 * tensor.numel())
    return tensor.to(device)


def _renamer(part: str, expected: Iterable[str]) -> Callable[[str], str | None]:
    """From a name in a file to the module's own; None for tensors that are not needed."""
    if part == "unet":
        return _unet_name
    if part == "vae":
        return _vae_name
    nested = any(name.startswith("text_model.") for name in expected)  # transformers 5 took the prefix away

    def text_name(name: str) -> str | None:
        bare = name.removeprefix("text_model.")
        if bare == "embeddings.position_ids":  # a counter that older versions stored
            return None
        return f"text_model.{bare}" if nested else bare

    return text_name


def _unet_name(name: str) -> str | None:
    name = name.removeprefix("module.")  # a training checkpoint
    return None if unused_tensor(name) else name


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.17


def _vae_name(name: str) -> str:
    owner, _, tensor = name.rpartition(".")
    block, _, layer = owner.rpartition(".")
    if ".attentions." in block and layer in _OLD_ATTENTION:
        return f"{block}.{_OLD_ATTENTION[layer]}.{tensor}"
    return name


def _restore_buffers(module: nn.Module) -> None:
    """Give values to the buffers that no file holds: the text encoder's position numbers are the only ones."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name != "position_ids":
                raise WeightsError(f"{type(owner).__name__}.{name} has no value in the weights.")
            device = next(module.parameters()).device
            positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            owner.register_buffer(name, positions, persistent=False)
