"""Frames `f h w 3`, uint8, RGB -> what each network is given, as VBench and the authors' scripts do it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from consisti2v_cli.evaluation.metrics import middle_frames

from . import c3d, i3d, raft

Frames = NDArray[np.uint8]

SIDE = 224  # pixels: the short side for DINO and CLIP
VICLIP_FRAMES = 8
OWL_SIDE, BLIP_SIDE = 960, 384  # pixels
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of RGB, 0 to 1
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def dino_pictures(frames: Frames) -> Tensor:
    """For DINO: `f 3 224 w` or `f 3 h 224`. The short side becomes 224, bilinear, without smoothing; nothing is cut."""
    levels = _levels(frames)
    resized = F.interpolate(levels, _short_side(levels), mode="bilinear", align_corners=False)
    return _normalised(resized, IMAGENET)


def i2v_pictures(frames: Frames) -> Tensor:
    """For DINO beside a photo: `f 3 224 224`, bicubic to a short side of 256, without smoothing, the middle of it."""
    levels = _levels(frames)
    resized = F.interpolate(levels, _short_side(levels, 256), mode="bicubic", align_corners=False)
    return _normalised(_middle(resized), IMAGENET)


def owl_pictures(frames: Frames) -> Tensor:
    """For OWLv2: `f 3 960 960`, made square by grey to the right or below, bilinear, smoothed."""
    levels = _levels(frames)
    height, width = levels.shape[-2:]
    square = F.pad(levels, (0, max(0, height - width), 0, max(0, width - height)), value=127.5)
    resized = F.interpolate(square, (OWL_SIDE, OWL_SIDE), mode="bilinear", antialias=True, align_corners=False)
    return _normalised(resized, CLIP)


def blip_pictures(frames: Frames) -> Tensor:
    """For BLIP: `f 3 384 384`, bicubic, smoothed; the aspect is not kept."""
    side = (BLIP_SIDE, BLIP_SIDE)
    resized = F.interpolate(_levels(frames), side, mode="bicubic", antialias=True, align_corners=False)
    return _normalised(resized.clamp(0, 255), CLIP)


def clip_pictures(frames: Frames, *, rounded: bool = False) -> Tensor:
    """For CLIP, as VBench has it: `f 3 224 224`, bicubic, without smoothing, the middle.

    Args:
        rounded: levels become whole again after the resize, 0 to 255, as of pictures in uint8 (overall consistency);
            otherwise they stay as they are, overshoot included (background consistency).
    """
    levels = _levels(frames)
    resized = F.interpolate(levels, _short_side(levels), mode="bicubic", align_corners=False)
    if rounded:
        resized = resized.round().clamp(0, 255)
    return _normalised(_middle(resized), CLIP)


def clipsim_pictures(frames: Frames) -> Tensor:
    """For CLIPSIM, as CLIP's own processor has it: `f 3 224 224`, bicubic and smoothed by Pillow, the middle."""
    height, width = frames.shape[1:3]
    new_height, new_width = _fitted(height, width)
    top, left = (new_height - SIDE) // 2, (new_width - SIDE) // 2
    images = (Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BICUBIC) for frame in frames)
    resized = np.stack([np.asarray(image)[top : top + SIDE, left : left + SIDE] for image in images])
    return _normalised(_levels(resized), CLIP)


def raft_frames(frames: Frames) -> Tensor:
    """For RAFT: `f 3 h w`, 0 to 255, the border repeated on both sides, so that both sides are multiples of 8.

    The odd row or column goes last. Flow is used with its padding, as VBench does.
    """
    levels = _levels(frames)
    rows, columns = (-side % raft.STEP for side in levels.shape[-2:])
    sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(levels, sides, mode="replicate")


def viclip_clip(frames: Frames) -> Tensor:
    """For ViCLIP: `3 8 224 224`, the middle frames of 8 equal spans, each as a picture in uint8 for CLIP."""
    return clip_pictures(frames[middle_frames(VICLIP_FRAMES, len(frames))], rounded=True).transpose(0, 1)


def i3d_clip(frames: Frames) -> Tensor:
    """For I3D: `3 f 224 224`, -1 to 1, bilinear, without smoothing; the aspect is not kept."""
    resized = F.interpolate(_levels(frames), (i3d.SIDE, i3d.SIDE), mode="bilinear", align_corners=False)
    return (resized / 127.5 - 1).transpose(0, 1)


def inception_pictures(frames: Frames) -> Tensor:
    """For Inception: `f 3 h w`, 0 to 255; the network resizes them itself."""
    return _levels(frames)


def c3d_clip(frames: Frames) -> Tensor:
    """For C3D: `3 16 112 112`, BGR, 0 to 255, bilinear, without smoothing, the corners kept; the aspect is not.

    TGAN2 turns RGB, `(level - 128) / 128`, into BGR times 128, resizes by Chainer, which lets the corner pixels meet,
    adds 128, and subtracts the mean clip: the first and the third cancel, and the network has the last.

    Raises:
        ValueError: there are not 16 frames.
    """
    if len(frames) != c3d.FRAMES:
        raise ValueError(f"C3D needs {c3d.FRAMES} frames, not {len(frames)}")
    resized = F.interpolate(_levels(frames), (c3d.SIDE, c3d.SIDE), mode="bilinear", align_corners=True)
    return resized.flip(1).transpose(0, 1)


def _levels(frames: Frames) -> Tensor:
    """`f h w 3` -> `f 3 h w`, 0 to 255, float32."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()


def _middle(pictures: Tensor) -> Tensor:
    """The middle 224x224; half a pixel is rounded to even, as torchvision does."""
    top, left = (round((side - SIDE) / 2) for side in pictures.shape[-2:])
    return pictures[..., top : top + SIDE, left : left + SIDE]


def _fitted(height: int, width: int, short: int = SIDE) -> tuple[int, int]:
    """Height and width, once the short side is `short`; the long one is cut to whole pixels."""
    shortest = min(height, width)
    return short * height // shortest, short * width // shortest


def _short_side(pictures: Tensor, short: int = SIDE) -> tuple[int, int]:
    return _fitted(pictures.shape[-2], pictures.shape[-1], short)


def _normalised(levels: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    return (levels / 255 - mean) / deviation
