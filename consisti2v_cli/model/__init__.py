"""The network of ConsistI2V in plain torch."""

from .attention import BACKENDS, rotary_frequencies
from .config import UNetConfig
from .unet import DeepFeatures, VideoUNet, unused_tensor

__all__ = ["BACKENDS", "DeepFeatures", "UNetConfig", "VideoUNet", "rotary_frequencies", "unused_tensor"]
