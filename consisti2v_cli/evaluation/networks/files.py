"""Tensors of published files into networks: strictly, in float32, and without running anything that a file holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from consisti2v_cli.errors import WeightsError, lacks_memory
from consisti2v_cli.weights.tensors import fault

Network = TypeVar("Network", bound=nn.Module)

_COUNTER = "num_batches_tracked"  # of batch norms: counts their training, and some files leave it out
_WRAPPERS = ("model", "state_dict")  # under which training scripts keep the tensors
_NAMED_IN_MESSAGE = 5  # tensors, before the rest is only counted


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU.

    Args:
        path: `.safetensors`, `.npz`, or else a file of torch's.

    Raises:
        WeightsError: it is missing, damaged, or holds something other than tensors.
    """
    try:
        stored = _READERS.get(path.suffix.lower(), _read_torch)(path)
    except Exception as error:  # what damaged files raise is as varied as the damage
        if lacks_memory(error):
            raise
        raise WeightsError(f"{path} is missing, damaged, or no file of tensors: {error}") from error
    if not stored or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise WeightsError(f"{path} does not hold tensors by their names, and nothing else.")
    return stored


def _read_torch(path: Path) -> dict[str, Tensor]:
    stored = torch.load(path, weights_only=True, map_location="cpu")
    for wrapper in _WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
    if not isinstance(stored, Mapping):
        raise ValueError("it holds no names")
    return {str(name).removeprefix("module."): tensor for name, tensor in stored.items()}


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        found = np.load(path, allow_pickle=False)
    except ValueError:  # numpy takes what is no archive for a pickle, and offers to run it
        raise ValueError("it is no archive of arrays") from None
    if isinstance(found, np.ndarray):
        raise ValueError("it holds no names")
    with found as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {".safetensors": load_file, ".npz": _read_npz}


def fill(
    network: Network,
    tensors: Mapping[str, Tensor],
    source: Path | str,
    *,
    device: torch.device | str = "cpu",
    unused: Sequence[str] = (),
) -> Network:
    """Give a network its tensors, which must be exactly those that it has.

    Args:
        network: best on the meta device, where it has no numbers yet.
        source: where the tensors are from, for messages.
        unused: beginnings of the names of tensors that may be there and are not needed.

    Returns:
        The network itself, in float32, in evaluation mode, without gradients.

    Raises:
        WeightsError: tensors are missing, unknown, of another shape, or not finite: names some of them.
    """
    state = network.state_dict()
    wanted = {name for name in state if not name.endswith(_COUNTER)}
    given = {name for name in tensors if not name.endswith(_COUNTER) and not name.startswith(tuple(unused))}
    problems = [
        *_about("lacks", wanted - given),
        *_about("has unknown", given - wanted),
        *_about("has", _misfits(state, tensors, sorted(wanted & given))),
    ]
    if problems:
        raise WeightsError(f"{source} does not fit {type(network).__name__}: it {'; it '.join(problems)}.")
    filled = {name: tensors[name].to(device, torch.float32) for name in wanted}
    filled |= {name: torch.zeros((), dtype=torch.long, device=device) for name in state.keys() - wanted}
    network.load_state_dict(filled, assign=True)
    return network.eval().requires_grad_(False)


def _misfits(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """What is wrong with tensors that are known, in words."""
    found = []
    for name in names:
        tensor, shape = tensors[name], list(state[name].shape)
        if list(tensor.shape) != shape:
            found.append(f"{name} {list(tensor.shape)} instead of {shape}")
        elif not tensor.is_floating_point():
            found.append(f"{name} of the type {str(tensor.dtype).removeprefix('torch.')}")
        elif problem := fault(tensor, torch.float32):
            found.append(f"{name} that {problem}")
    return found


def _about(verb: str, names: Iterable[str]) -> list[str]:
    """A clause that names some tensors; none where there are none."""
    listed = sorted(names)
    more = len(listed) - _NAMED_IN_MESSAGE
    words = ", ".join(listed[:_NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
    return [f"{verb} {words}"] if listed else []
