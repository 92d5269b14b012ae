"""C3D (Tran et al. 2015), trained on Sports-1M and UCF-101: what inception scores of clips ask.

The weights are those of TGAN2's conv3d_deepnetA_ucf.npz and mean2.npz; layers have the paper's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.errors import WeightsError

from .files import fill, read_tensors

FRAMES, SIDE = 16, 112  # of the clips
MEAN_SIDE = 128  # pixels: of the stored mean, whose centre is taken
POOLED = 4  # the side after five pools
LAYERS = (("conv1a",), ("conv2a",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))  # between pools
PARTS = {"W": "weight", "b": "bias"}  # Chainer's names, and torch's


@dataclass(frozen=True)
class C3DSizes:
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # channels before each pool
    hidden: int = 4096
    classes: int = 101


class C3D(nn.Module):
    mean: Tensor

    def __init__(self, sizes: C3DSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or C3DSizes()
        c_in = 3
        for names, width in zip(LAYERS, sizes.widths, strict=True):
            for name in names:
                self.add_module(name, nn.Conv3d(c_in, width, 3, padding=1))
                c_in = width
        self.fc6 = nn.Linear(c_in * POOLED**2, sizes.hidden)
        self.fc7 = nn.Linear(sizes.hidden, sizes.hidden)
        self.fc8 = nn.Linear(sizes.hidden, sizes.classes)
        self.register_buffer("mean", torch.zeros(3, FRAMES, SIDE, SIDE))  # BGR

    def forward(self, clips: Tensor) -> Tensor:
        """Probabilities of the classes `b 101` for clips `b 3 16 112 112`: BGR, 0 to 255; no dropout."""
        x = clips - self.mean
        for number, names in enumerate(LAYERS):
            for name in names:
                x = F.relu(self.get_submodule(name)(x))
            x = pool(x, 1 if number == 0 else 2)
        x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        return F.softmax(self.fc8(x), dim=-1)


def pool(x: Tensor, frames: int) -> Tensor:
    """The largest of `frames` x 2 x 2; windows that stand over the end count too, so that 7 becomes 4."""
    return F.max_pool3d(x, (frames, 2, 2), ceil_mode=True)


def load_c3d(path: Path, mean_path: Path, device: torch.device | str = "cpu", sizes: C3DSizes | None = None) -> C3D:
    """C3D with the arrays of two files of numpy's.

    Args:
        path: `conv1a/W`, `conv1a/b`, ... `fc8/b`.
        mean_path: `mean`, `3 16 128 128`: the mean clip, BGR.

    Raises:
        WeightsError: a file is missing or damaged, or has other arrays: names some of them.
    """
    with torch.device("meta"):
        network = C3D(sizes)
    tensors = {_renamed(name): tensor for name, tensor in read_tensors(path).items()}
    return fill(network, tensors | {"mean": _read_mean(mean_path)}, path, device=device)


def _renamed(name: str) -> str:
    layer, _, part = name.rpartition("/")
    return f"{layer}.{PARTS[part]}" if part in PARTS else name


def _read_mean(path: Path) -> Tensor:
    mean = read_tensors(path).get("mean")
    shape = (3, FRAMES, MEAN_SIDE, MEAN_SIDE)
    if mean is None or tuple(mean.shape) != shape:
        found = "none" if mean is None else list(mean.shape)
        raise WeightsError(f"{path} needs an array mean {list(shape)}; there is {found}.")
    start = (MEAN_SIDE - SIDE) // 2
    return mean[..., start : start + SIDE, start : start + SIDE]
