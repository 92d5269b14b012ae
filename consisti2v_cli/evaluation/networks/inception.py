"""Inception-v3 (Szegedy et al. 2016) of 2015-12-05, as Frechet inception distances use it.

It differs from the paper's network in its pools (TensorFlow's averages do not count the padding, and the last block
takes the largest value). Module names are those of pytorch-fid's pt_inception-2015-12-05-6726825d.pth.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import fill, read_tensors

SIDE = 299  # pixels
CHANNELS = 2048  # of the features
UNUSED = ("fc.",)  # the classifier of 1008 classes


class Conv(nn.Module):
    """Convolution, batch norm, ReLU. Padding keeps the size, unless it is `valid`, or there is a stride."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, *, valid: bool = False
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid or stride > 1 else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(c_in, c_out, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def average(x: Tensor) -> Tensor:
    """Means of 3 x 3 windows, of those pixels alone that are inside."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    def __init__(self, c_in: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(c_in, 64)
        self.branch5x5_1, self.branch5x5_2 = Conv(c_in, 48), Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c_in, 64), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(c_in, pool)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], dim=1)


class BlockB(nn.Module):
    """Halves the size."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(c_in, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c_in, 64), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], dim=1)


class BlockC(nn.Module):
    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(c_in, 192)
        self.branch7x7_1, self.branch7x7_2 = Conv(c_in, c), Conv(c, c, (1, 7))
        self.branch7x7_3 = Conv(c, 192, (7, 1))
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(c_in, c), Conv(c, c, (7, 1))
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(c, c, (1, 7)), Conv(c, c, (7, 1))
        self.branch7x7dbl_5 = Conv(c, 192, (1, 7))
        self.branch_pool = Conv(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], dim=1)


class BlockD(nn.Module):
    """Halves the size."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(c_in, 192), Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(c_in, 192), Conv(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1)), Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], dim=1)


class BlockE(nn.Module):
    def __init__(self, c_in: int, *, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.branch1x1 = Conv(c_in, 320)
        self.branch3x3_1 = Conv(c_in, 384)
        self.branch3x3_2a, self.branch3x3_2b = Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c_in, 448), Conv(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))
        self.branch_pool = Conv(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(F.max_pool2d(x, 3, 1, 1) if self.largest else average(x)),
        ]
        return torch.cat(branches, dim=1)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = Conv(32, 32, 3, valid=True), Conv(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80), Conv(80, 192, 3, valid=True)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, largest=False), BlockE(2048, largest=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features `n 2048`, the mean over the picture, of `n 3 h w`, RGB, 0 to 255, of any size."""
        x = (resize(pictures, SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        maps: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return maps.mean(dim=(2, 3))


def resize(pictures: Tensor, side: int) -> Tensor:
    """Bilinear, as TensorFlow 1 does it: the top left pixels meet, and nothing is smoothed before.

    The pixel `i` of the result is taken from `i * old / side`; `n c h w` -> `n c side side`.
    """
    return _resize_last(_resize_last(pictures, side).mT, side).mT


def _resize_last(x: Tensor, size: int) -> Tensor:
    old = x.shape[-1]
    place = torch.arange(size, device=x.device, dtype=torch.float32) * (old / size)
    lower = place.long()
    upper = (lower + 1).clamp(max=old - 1)
    return torch.lerp(x[..., lower], x[..., upper], (place - lower).to(x.dtype))


def load_inception(path: Path, device: torch.device | str = "cpu") -> Inception:
    """Inception with pytorch-fid's weights. WeightsError: not a file, or not its tensors."""
    with torch.device("meta"):
        network = Inception()
    return fill(network, read_tensors(path), path, device=device, unused=UNUSED)
