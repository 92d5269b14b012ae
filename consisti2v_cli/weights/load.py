"""From a model folder to modules: strictly, from safetensors alone, and without a second copy in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from consisti2v_cli.diffusion import make_scheduler
from consisti2v_cli.errors import ConsistI2VError, RequestError, WeightsError, lacks_memory
from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.plans import ALL_AT_ONCE, OWN_MEMORY, MemoryPlan, next_plan

from .backends import check_attention, check_compiler, compile_network
from .devices import use_cores
from .fill import fill, stored_tensors, survey
from .folder import (
    SCHEDULE_FILE,
    STEMS,
    ModelFolder,
    check_configurations,
    missing,
    read_object,
    read_settings,
    weight_files,
)
from .hub import mend_command
from .loaded import Model
from .offload import arrange, make_room

__all__ = ["DTYPES", "Model", "load_model", "load_part", "read_settings"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(
    folder: ModelFolder | Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "fp32",
    attention: str = "sdpa",
    compile: bool = False,
    plan: MemoryPlan = ALL_AT_ONCE,
    on_part: Callable[[str, int, int], None] | None = None,
) -> Model:
    """Load all parts of a model.

    Args:
        folder: from `find` or `require`, or a path.
        dtype: a key of `DTYPES`, for the network and the text encoder.
        attention: how the network computes attention: a key of `consisti2v_cli.model.BACKENDS`.
        compile: the network is compiled by torch when it is first used, for the sizes that it then meets.
        plan: what is done to need less memory; parts that wait on the CPU are never elsewhere.
        on_part: called with "loading", the parts done, and the parts in all.

    Raises:
        WeightsError: a part is missing, damaged, or its tensors are not exactly the network's: names them.
        RequestError: unknown attention or dtype, or one that does not work here; nothing here that compiles.
        ConsistI2VError: Python runs without docstrings, which diffusers needs.
    """
    if not isinstance(folder, ModelFolder):
        folder = ModelFolder(Path(folder), Path(folder).resolve().name)
    if lacking := missing(folder.path):
        raise WeightsError(f"The model in {folder.path} is not complete: {', '.join(lacking)} missing.")
    if sys.flags.optimize > 1:
        raise ConsistI2VError("Python runs with -OO or PYTHONOPTIMIZE=2, under which diffusers cannot work; unset it.")
    place = torch.device(device)
    kind = _dtype(dtype)
    check_attention(attention, place, kind)
    if compile:
        check_compiler(place)
    if place.type == "cpu":
        use_cores()
    with _advice_to_mend(folder):
        check_configurations(folder)  # all of them, before the first of the weights
        schedule = read_schedule(folder.path)
        parts, plan = _load_parts(folder, place, kind, plan, on_part or _ignore)
        tokenizer = _load_tokenizer(folder.path / "tokenizer")
    parts["unet"].set_attention(attention)
    if compile:
        compile_network(parts["unet"])
    if on_part:
        on_part("loading", len(STEMS), len(STEMS))
    model = Model(
        folder=folder,
        **parts,
        tokenizer=tokenizer,
        scheduler_config=schedule,
        settings=read_settings(folder),
        device=place,
        dtype=kind,
        attention=attention,
        compiled=compile,
        plan=plan,
    )
    arrange(model)
    return model


def _load_parts(
    folder: ModelFolder,
    device: torch.device,
    dtype: torch.dtype,
    plan: MemoryPlan,
    on_part: Callable[[str, int, int], None],
) -> tuple[dict[str, Any], MemoryPlan]:
    """The parts where a plan wants them, and the plan: the next one where the device has no room for them."""
    while True:
        parts: dict[str, Any] = {}
        try:
            for done, part in enumerate(STEMS):
                on_part("loading", done, len(STEMS))
                waits = plan.streamed if part == "unet" else plan.parts_apart
                where, precision = torch.device("cpu") if waits else device, torch.float32 if part == "vae" else dtype
                parts[part] = load_part(folder, part, device=where, dtype=precision)
            return parts, plan
        except (RuntimeError, MemoryError) as error:
            smaller = next_plan(plan, str(device)) if lacks_memory(error) and device.type in OWN_MEMORY else None
            if smaller is None:
                raise
        plan = smaller
        parts.clear()
        make_room(device)


def _ignore(stage: str, done: int, total: int) -> None:
    pass


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
    fill(module, weight_files(path, part, precision), part, torch.device(device), dtype)
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
    for path, names in survey(_empty(folder, part), files, part).items():
        for _, tensor in stored_tensors(path, names, part):
            on_bytes(tensor.nbytes)


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
