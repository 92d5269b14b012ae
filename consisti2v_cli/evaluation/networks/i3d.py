"""I3D (Carreira and Zisserman 2017) on Kinetics-400, as Frechet video distances use it.

Module names are those of TATS's i3d_pretrained_400.pt, and so is the epsilon of its batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import fill, read_tensors

CLASSES = 400
SIDE = 224  # pixels: of the frames
FEWEST = 9  # frames: the last pool spans two steps of eight

# Channels in; of the branches: 1x1, 1x1 before 3x3, 3x3, 1x1 before the other 3x3, that 3x3, 1x1 after the pool
MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
# Kernel and stride of the pools that stand before a layer
POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
LAST_POOL = (2, 7, 7)


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around `b c f h w`, so that a window's output is the input over the stride, rounded up, as TensorFlow does.

    The odd one goes last.
    """
    sides: list[int] = []
    for side, k, s in zip(x.shape[:1:-1], reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-side // s) - 1) * s + k - side, 0)
        sides += [missing // 2, missing - missing // 2]
    return F.pad(x, sides)


def pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Largest values of windows; zeros around are harmless, since all that is pooled is positive."""
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class Unit3D(nn.Module):
    """Convolution with "same" padding; then, but for the last one, batch norm and ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, last: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(c_in, c_out, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(c_out, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return h if self.bn is None else F.relu(self.bn(h))


class Mixed(nn.Module):
    """Four branches side by side, joined by channels."""

    def __init__(self, c_in: int, c0: int, c1a: int, c1b: int, c2a: int, c2b: int, c3b: int) -> None:
        super().__init__()
        self.b0 = Unit3D(c_in, c0)
        self.b1a, self.b1b = Unit3D(c_in, c1a), Unit3D(c1a, c1b, 3)
        self.b2a, self.b2b = Unit3D(c_in, c2a), Unit3D(c2a, c2b, 3)
        self.b3b = Unit3D(c_in, c3b)

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        for name, channels in MIXED.items():
            self.add_module(name, Mixed(*channels))
        self.logits = Unit3D(1024, CLASSES, last=True)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of Kinetics' 400 classes, the mean over time.

        Args:
            clips: `b 3 f 224 224`, RGB, -1 to 1; 9 frames or more.

        Returns:
            `b 400`.

        Raises:
            ValueError: another size, or fewer frames.
        """
        if clips.shape[-2:] != (SIDE, SIDE) or clips.shape[2] < FEWEST:
            raise ValueError(f"I3D needs {FEWEST} or more frames of {SIDE}x{SIDE} pixels")
        x = self.Conv3d_1a_7x7(clips)
        for name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3", *MIXED):
            x = self.get_submodule(name)(pool_same(x, *POOLS[name]) if name in POOLS else x)
        return self.classify(x)

    def classify(self, maps: Tensor) -> Tensor:
        """`b 1024 f 7 7`, as the last layer leaves them -> `b 400`; no dropout, which is for training."""
        out: Tensor = self.logits(F.avg_pool3d(maps, LAST_POOL, 1))  # b 400 f-1 1 1
        return out.mean(dim=(2, 3, 4))


def load_i3d(path: Path, device: torch.device | str = "cpu") -> I3D:
    """I3D with the weights of i3d_pretrained_400.pt. WeightsError: not a file, or not its tensors."""
    with torch.device("meta"):
        network = I3D()
    return fill(network, read_tensors(path), path, device=device)
