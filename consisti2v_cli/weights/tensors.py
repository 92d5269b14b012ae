"""What the tensors of a file may hold: finite numbers that fit the precision they are used in."""

from __future__ import annotations

import torch
from torch import Tensor

CODES = {  # the words of safetensors
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_EXPONENT = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}  # all of its bits are set where a number is not finite


def fault(tensor: Tensor, dtype: torch.dtype) -> str | None:
    """What forbids using a stored tensor as `dtype`, in words that follow its name; None where nothing does.

    It reads every number once: `torch.isfinite` takes 10 times as long.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    mask = _EXPONENT.get(tensor.dtype)
    if mask is not None and torch.finfo(dtype).max >= torch.finfo(tensor.dtype).max:
        bits = tensor.view(torch.int16) if tensor.dim() else tensor.reshape(1).view(torch.int16)
        finite = int((bits & mask).max()) < mask
        return None if finite else "holds numbers that are not finite"
    extremes = torch.stack(torch.aminmax(tensor))
    if not torch.isfinite(extremes).all():
        return "holds numbers that are not finite"
    if not torch.isfinite(extremes.to(dtype)).all():
        return f"holds numbers that are too large for {str(dtype).removeprefix('torch.')}"
    return None
