"""Noise, FrameInit, guidance and sampling: functions of tensors and of any denoiser."""

from .frameinit import MASKS, frameinit_noise, low_pass_mask
from .guidance import Guidance
from .noise import NOISES, draw_noise, mixed_noise, progressive_noise
from .sampling import Denoiser, sample
from .schedule import SAMPLERS, alphas_cumprod, make_scheduler

__all__ = [
    "MASKS",
    "NOISES",
    "SAMPLERS",
    "Denoiser",
    "Guidance",
    "alphas_cumprod",
    "draw_noise",
    "frameinit_noise",
    "low_pass_mask",
    "make_scheduler",
    "mixed_noise",
    "progressive_noise",
    "sample",
]
