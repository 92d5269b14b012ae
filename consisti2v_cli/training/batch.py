"""What the training loop is fed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

STRIDES = 5  # strides are 1 to 5


@dataclass(frozen=True)
class Batch:
    """Clips of one draw, all of the same size."""

    frames: Tensor  # b f 3 h w, float32 in [-1, 1], on the training device
    captions: list[str]  # one sentence a clip; speaks of what is seen: "left" means that the content moves left
    motions: list[str]  # the class of motion of each clip, "" when it is not known
    strides: Tensor  # b, int64, on the training device: frames of the source between two frames of the clip, 1 to 5


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Few numbers from the CPU to the training device, behind what that has yet to do, without waiting for it.

    CUDA has its own copy of them when this returns; other devices may not, and are waited for.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


class ClipSource(Protocol):
    """Where clips come from. The same state of the generator gives the same batch, bit for bit."""

    def draw(self, batch: int, frames: int, generator: Generator) -> Batch:
        """Draw `batch` clips of `frames` frames with a generator that lives on the CPU."""
        ...
