"""Where a model runs, and in which precision. Torch is imported where a device is looked for, not before."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from consisti2v_cli.errors import RequestError


def choose_device(name: str = "auto") -> str:
    """The device of a `--device` value; auto: cuda, else mps, else cpu. RequestError if this machine lacks it."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, found in there.items() if found)
    kind, _, index = name.partition(":")
    number = int(index) if index.isdecimal() else -1 if index else 0
    if not there.get(kind) or number < 0 or (kind == "cuda" and number >= torch.cuda.device_count()):
        possible = ", ".join(kind for kind, found in there.items() if found)
        raise RequestError(f"device is {name!r}, which this machine does not have; possible: {possible}.")
    return name


def choose_dtype(name: str, device: str) -> str:
    """The precision of a `--dtype` value for a device; auto: fp16, on a CPU bf16 if it computes with that, or fp32."""
    if name == "auto":
        return "fp16" if device != "cpu" else "bf16" if computes_bf16() else "fp32"
    return name


def computes_bf16() -> bool:
    """Whether the processor multiplies bfloat16 numbers faster than float32 ones: with AVX512-BF16, or AMX."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # older versions of torch lack some
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def usable_cores() -> int:
    """How many cores this process may use: of those it sees, and of a container's share."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(seen, round(int(share) / int(period))))
    return seen


def use_cores() -> None:
    """Give torch no more threads than there are cores for them: it does not see a container's share."""
    import torch

    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
