"""How the network is computed: whether attention and the compiler that were asked for work here."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

from consisti2v_cli.errors import RequestError
from consisti2v_cli.model import BACKENDS, VideoUNet
from consisti2v_cli.state import cache_folder

MOST_SHAPES = 256  # sizes, and kinds of steps, that are compiled in a run


def check_attention(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise RequestError for a way to compute attention that there is not, or that does not work on this device."""
    if attention not in BACKENDS:
        raise RequestError(f"attention is {attention!r}; possible: {', '.join(BACKENDS)}.")
    if attention != "xformers":
        return
    if not find_spec("xformers"):
        raise RequestError("attention is 'xformers', which is not installed: pip install '.[xformers]'")
    trial = torch.zeros(1, 1, 8, 64, device=device, dtype=dtype)  # b heads n d
    try:
        BACKENDS[attention](trial, trial, trial)
    except Exception as error:  # built for another torch, another CUDA, no CUDA: whatever its libraries raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            f"attention is 'xformers', which does not work with torch {torch.__version__} on {device}: {reason[:200]}; "
            "--attention sdpa does."
        ) from error


def check_compiler(device: torch.device) -> None:
    """Raise RequestError where nothing is here that compiles a network for a device."""
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):  # triton calls one too
        raise RequestError(
            "Compiling needs a C++ compiler, such as g++, and finds none. Without --compile (training: compile = "
            "false) all works too, more slowly."
        )
    if device.type == "cuda" and not find_spec("triton"):
        raise RequestError(
            "Compiling needs triton on cuda: pip install triton. Without --compile (training: compile = false) all "
            "works too, more slowly."
        )


def compile_network(unet: VideoUNet) -> None:
    """Have a network compiled when it is first used."""
    keep_compiled()
    unet.compile(dynamic=False)


def keep_compiled() -> None:
    """Have torch keep what it compiles for later runs."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, MOST_SHAPES)  # beyond it, torch would stop to compile without a word
