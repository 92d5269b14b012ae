"""How the network is computed: whether attention and the compiler that were asked for work here."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

from consisti2v_cli.errors import RequestError
from consisti2v_cli.model import BACKENDS, VideoUNet
from consisti2v_cli.state import cache_folder


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


def compile_network(unet: VideoUNet, device: torch.device) -> None:
    """Have the network compiled when it is first used; what was compiled once is kept for later runs.

    Raises:
        RequestError: there is nothing here that compiles for this device.
    """
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise RequestError(
            "--compile needs a C++ compiler, such as g++, and finds none; without it the clip is made too."
        )
    if device.type == "cuda" and not find_spec("triton"):
        raise RequestError("--compile needs triton on cuda: pip install triton; without it the clip is made too.")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    unet.compile(dynamic=False)
