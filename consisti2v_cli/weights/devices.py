"""Where a model runs, and in which precision. Torch is imported where a device is looked for, not before."""

from __future__ import annotations

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
    """The precision of a `--dtype` value for a device; auto: fp16, and fp32 on a CPU."""
    if name == "auto":
        return "fp32" if device == "cpu" else "fp16"
    return name
