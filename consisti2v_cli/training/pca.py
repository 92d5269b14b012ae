"""A starting point for the autoencoder: an encoder that computes the principal components of pixel blocks.

A random autoencoder takes thousands of steps to become as good as this linear code; from here it only gets better.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONSTANT = 10.0  # of channels that hold a group norm's deviation still; components have deviation 1


@torch.no_grad()
def start_from_components(vae: AutoencoderKL, photos: Tensor) -> None:
    """Set the encoder's weights so that its latents are the photos' first principal components, each of deviation 1.

    Every resnet starts as the identity. Down the levels the convolutions gather blocks of 2x2 into their principal
    components. Before the last norm each component stands as a pair `x, -x`, beside constants that keep the norm's
    scale fixed: `silu(x) - silu(-x) = x` then undoes the nonlinearity.

    Args:
        vae: an `AutoencoderKL` without attention, two or more levels, the last two of different width.
        photos: `b 3 h w` in [-1, 1], a hundred or more.
    """
    encoder = vae.encoder
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            _clear(module)
    _embed(encoder.conv_in)
    x = encoder.conv_in(photos)
    *gathering, last = encoder.down_blocks
    for level in gathering:
        x = _through(level.resnets, x)
        conv = level.downsamplers[0].conv
        keep = _count(encoder.conv_norm_out) if level is gathering[-1] else conv.out_channels
        _gather(conv, x, min(keep, conv.out_channels))
        x = level.downsamplers[0](x)
    _pair(last.resnets[0].conv_shortcut, x, encoder.conv_norm_out)
    _read_pairs(encoder.conv_out, encoder.conv_norm_out, vae.config.latent_channels)
    _embed(vae.quant_conv)
    _embed(vae.post_quant_conv)


def _clear(conv: Any) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)


def _through(resnets: Any, x: Tensor) -> Tensor:
    """Let channels pass through resnets that do nothing."""
    for resnet in resnets:
        if resnet.conv_shortcut is not None:
            _embed(resnet.conv_shortcut)
            x = resnet.conv_shortcut(x)
    return x


def _embed(conv: Any) -> None:
    """Copy each channel, as far as there are any, and leave the others 0."""
    _clear(conv)
    centre = conv.kernel_size[0] // 2
    for channel in range(min(conv.in_channels, conv.out_channels)):
        conv.weight[channel, channel, centre, centre] = 1


def _gather(conv: Any, x: Tensor, keep: int) -> None:
    """Make a stride-2 convolution (padded behind) give the `keep` first components of 2x2 blocks, deviation 1 each."""
    blocks = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).flatten(0, 2).double()  # n (c 2 2)
    mean = blocks.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov((blocks - mean).T))
    used = min(keep, int((variances > 1e-9 * variances[-1]).sum()))
    # Orthonormal coordinates on the way, so that small components stay small until the last level
    axes = axes[:, -used:].flip(1)
    _clear(conv)
    conv.weight[:used, :, :2, :2] = axes.T.unflatten(1, (-1, 2, 2)).to(conv.weight)
    conv.bias[:used] = -(axes.T @ mean).to(conv.bias)


def _pairs(norm: nn.GroupNorm) -> tuple[int, int]:
    """Channels of a group, and pairs of components in it: one pair's room is left for the constants."""
    size = norm.num_channels // norm.num_groups
    return size, (size - 2) // 2


def _count(norm: nn.GroupNorm) -> int:
    return norm.num_groups * _pairs(norm)[1]


def _pair(conv: Any, x: Tensor, norm: nn.GroupNorm) -> None:
    """Lay component `k` out as `x, -x` in group `k % groups`, scaled to deviation 1, with constants at its end."""
    size, pairs = _pairs(norm)
    _clear(conv)
    deviation = x.std((0, 2, 3))
    for k in range(min(pairs * norm.num_groups, conv.in_channels)):
        if deviation[k] > 1e-4:
            at = k % norm.num_groups * size + k // norm.num_groups * 2
            conv.weight[at, k] = 1 / deviation[k]
            conv.weight[at + 1, k] = -1 / deviation[k]
    conv.bias[size - 2 :: size] = CONSTANT
    conv.bias[size - 1 :: size] = -CONSTANT


def _read_pairs(conv: Any, norm: nn.GroupNorm, latents: int) -> None:
    """Undo norm and SiLU for the first components: the latents' means; their log variance starts at -8."""
    size, pairs = _pairs(norm)
    scale = math.sqrt((2 * pairs + 2 * CONSTANT**2) / size)
    _clear(conv)
    for k in range(latents):
        at = k % norm.num_groups * size + k // norm.num_groups * 2
        conv.weight[k, at, 1, 1] = scale
        conv.weight[k, at + 1, 1, 1] = -scale
    conv.bias[latents:] = -8
