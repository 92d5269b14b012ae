"""Networks that turn frames into features; loaded when they are first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .efficientnet import SIZE, EfficientNetLite0, load_efficientnet

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 16  # frames


class EfficientNetFeatures:
    """Features `f 1280` of frames by EfficientNet-Lite0: a stand-in for DINO and CLIP that needs no download.

    Frames are squeezed to 224x224, with anti-aliasing, whatever their aspect.
    """

    name = "EfficientNet-Lite0"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """WeightsError: the package with the weights is not installed, or is another one."""
        self.device = torch.device(device)
        self.network: EfficientNetLite0 = load_efficientnet(self.device)

    @torch.inference_mode()
    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`f h w 3` -> `f 1280`."""
        parts = [self._some(frames[start : start + AT_ONCE]) for start in range(0, len(frames), AT_ONCE)]
        return np.concatenate(parts)

    def _some(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        pictures: Tensor = torch.from_numpy(np.array(frames)).to(self.device).permute(0, 3, 1, 2).float()
        pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        features: NDArray[np.float32] = self.network((pictures - 127) / 128).cpu().numpy()
        return features
