"""From a model folder to modules: strictly, from safetensors alone, and without a second copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from consisti2v_cli.diffusion import make_scheduler
from consisti2v_cli.errors import RequestError, WeightsError
from consisti2v_cli.model import UNetConfig, VideoUNet, rotary_frequencies, unused_tensor

from .backends import check_attention, compile_network
from .folder import (
    SCHEDULE_FILE,
    STEMS,
    ModelFolder,
    ModelSettings,
    check_configurations,
    missing,
    read_object,
    read_settings,
    weight_files,
)
from .hub import mend_command
from .store import FREQUENCIES, PRECISIONS, Header, read_header
from .tensors import fault

__all__ = ["DTYPES", "Model", "load_model", "load_part", "read_settings"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_NAMED_IN_MESSAGE = 5  # tensors, before the rest is only counted


@dataclass(frozen=True)
class Model:
    """The parts of a model, ready to run on `device`."""

    folder: ModelFolder
    unet: VideoUNet
    vae: Any  # diffusers.AutoencoderKL, float32: its decoder overflows in half precision
    text_encoder: Any  # transformers.CLIPTextModel
    tokenizer: Any  # transformers.CLIPTokenizer
    scheduler_config: dict[str, Any] | None  # None: the released model's schedule
    settings: ModelSettings
    device: torch.device
    dtype: torch.dtype  # of network and text encoder
    attention: str  # how the network computes it
    compiled: bool = False

    @property
    def max_tokens(self) -> int:
        """How many tokens of text the model reads, start and end included."""
        positions = int(self.text_encoder.config.max_position_embeddings)
        return min(positions, int(self.tokenizer.model_max_length))


def load_model(
    folder: ModelFolder | Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "fp32",
    attention: str = "sdpa",
    compile: bool = False,
    on_part: Callable[[str, int, int], None] | None = None,
) -> Model:
    """Load all parts of a model.

    Args:
        folder: from `find` or `require`, or a path.
        dtype: a key of `DTYPES`, for the network and the text encoder.
        attention: how the network computes attention: a key of `consisti2v_cli.model.BACKENDS`.
        compile: the network is compiled by torch when it is first used, for the sizes that it then meets.
        on_part: called with "loading", the parts done, and the parts in all.

    Raises:
        WeightsError: a part is missing, damaged, or its tensors are not exactly the network's: names them.
        RequestError: unknown attention or dtype, or one that does not work here; nothing here that compiles.
    """
    if not isinstance(folder, ModelFolder):
        folder = ModelFolder(Path(folder), Path(folder).resolve().name)
    if lacking := missing(folder.path):
        raise WeightsError(f"The model in {folder.path} is not complete: {', '.join(lacking)} missing.")
    place = torch.device(device)
    kind = _dtype(dtype)
    parts: dict[str, Any] = {}
    with _advice_to_mend(folder):
        check_configurations(folder)  # all of them, before the first of the weights
        schedule = read_schedule(folder.path)
        for done, part in enumerate(STEMS):
            if on_part:
                on_part("loading", done, len(STEMS))
            parts[part] = load_part(folder, part, device=place, dtype=torch.float32 if part == "vae" else kind)
        tokenizer = _load_tokenizer(folder.path / "tokenizer")
    check_attention(attention, place, kind)
    parts["unet"].set_attention(attention)
    if compile:
        compile_network(parts["unet"], place)
    if on_part:
        on_part("loading", len(STEMS), len(STEMS))
    return Model(
        folder=folder,
        **parts,
        tokenizer=tokenizer,
        scheduler_config=schedule,
        settings=read_settings(folder),
        device=place,
        dtype=kind,
        attention=attention,
        compiled=compile,
    )


@contextmanager
def _advice_to_mend(folder: ModelFolder) -> Iterator[None]:
    """Add to a WeightsError how the files of the cache are checked and mended."""
    try:
        yield
    except WeightsError as error:
        if folder.revision is None:
            raise
        raise WeightsError(f"{error}\nTo check the files and mend them: {mend_command(folder)}") from error


def load_part(
    folder: ModelFolder | Path, part: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """Load `unet`, `vae` or `text_encoder`, in evaluation mode, without gradients. WeightsError as in `load_model`.

    Of several files, those stored in `dtype` are taken.
    """
    path = folder.path if isinstance(folder, ModelFolder) else folder
    module = _empty(path, part)
    precision = next((name for name, kind in DTYPES.items() if kind == dtype), None)
    _fill(module, weight_files(path, part, precision), part, torch.device(device), dtype)
    return module.eval().requires_grad_(False)


def _empty(folder: Path, part: str) -> nn.Module:
    """A part as its configuration describes it, on the meta device: without numbers."""
    path = folder / part / "config.json"
    config = read_object(path)
    try:
        with torch.device("meta"):
            return _BUILDERS[part](config)
    except Exception as error:  # the libraries raise whatever they meet
        raise WeightsError(f"{path} describes no {part} that can be built: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _build_unet(config: dict[str, Any]) -> nn.Module:
    return VideoUNet(UNetConfig.from_dict(config))


def _build_vae(config: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(config)  # type: ignore[no-any-return]


def _build_text_encoder(config: dict[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig.from_dict(config))  # type: ignore[no-any-return]


_BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "unet": _build_unet,
    "vae": _build_vae,
    "text_encoder": _build_text_encoder,
}


def check_part(folder: Path, part: str, files: Sequence[Path], on_bytes: Callable[[int], object]) -> None:
    """Find out whether a part could be loaded, one tensor at a time. WeightsError as in `load_model`.

    Args:
        folder: the model's.
        part: `unet`, `vae` or `text_encoder`.
        files: its weights.
        on_bytes: called with the number of bytes read since the last call.
    """
    for path, names in _survey(_empty(folder, part), files, part).items():
        for _, tensor in _stored(path, names, part):
            on_bytes(tensor.nbytes)


def _fill(module: nn.Module, files: Sequence[Path], part: str, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module on the meta device the tensors of its files, which must be exactly those it has."""
    tensors: dict[str, Tensor] = {}
    for path, names in _survey(module, files, part).items():
        for name, tensor in _stored(path, names, part, dtype):
            tensors[name] = _placed(name, tensor, device, dtype)
    module.load_state_dict(tensors, assign=True)
    _restore_buffers(module)


def _stored(
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


def _survey(module: nn.Module, files: Sequence[Path], part: str) -> dict[Path, dict[str, str]]:
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


def _placed(name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A stored tensor where and as what it is used. Rotary frequencies stay float32."""
    if not name.endswith(FREQUENCIES):
        return tensor.to(device, dtype if tensor.is_floating_point() else None)
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


def _load_tokenizer(place: Path) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the library raises whatever its parsers raise
        raise WeightsError(f"The tokenizer in {place} is damaged: {error}") from error


def read_schedule(folder: Path) -> dict[str, Any] | None:
    """A model's `scheduler_config.json`, None where it has none. WeightsError where no schedule comes of it."""
    path = folder / SCHEDULE_FILE
    if not path.is_file():
        return None
    config = read_object(path)
    try:
        make_scheduler("ddim", config)
    except Exception as error:  # the library raises whatever it meets
        raise WeightsError(f"{path} describes no schedule: {_first_line(error)}") from error
    return config


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise RequestError(f"dtype is {dtype!r}; possible: {', '.join(DTYPES)}.")
    return DTYPES[dtype]
