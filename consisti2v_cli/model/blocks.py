"""What a level of the network is made of: resnets and transformers in space and in time.

Feature maps are `b f h w c` with all frames of a video, the first one included. With the channels last, convolutions
in space and in time, norms, linear layers and both kinds of tokens are views of one and the same memory: nothing is
moved between the spatial and the temporal view. (On CUDA, torch's own group norm moves them all the same, unless the
network is compiled.)
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import (
    POSITIONS,
    CrossAttention,
    SpatialSelfAttention,
    TemporalCrossAttention,
    TemporalSelfAttention,
    TextKeysValues,
    for_branches,
)
from .config import UNetConfig

FINE_EPS = 1e-6  # of the group norms of temporal resnets and of all transformers


class FrameGroupNorm(nn.GroupNorm):
    """Group norm over each frame by itself."""

    def forward(self, x: Tensor) -> Tensor:
        images = x.flatten(0, 1).permute(0, 3, 1, 2)  # (b f) c h w
        return super().forward(images).permute(0, 2, 3, 1).view(x.shape)


class FrameConv2d(nn.Conv2d):
    """Convolution of each frame by itself."""

    def forward(self, x: Tensor) -> Tensor:
        images = x.flatten(0, 1).permute(0, 3, 1, 2)  # (b f) c h w
        out: Tensor = super().forward(images).permute(0, 2, 3, 1)
        return out.unflatten(0, x.shape[:2])  # type: ignore[no-any-return]


class TemporalConv3d(nn.Conv3d):
    """Convolution along time only: kernel 3, padded with zeros. Computed in two dimensions: time, and all of space."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        planes = x.flatten(2, 3).permute(0, 3, 1, 2)  # b c f (h w)
        out = F.conv2d(planes, self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return out.permute(0, 2, 3, 1).view(x.shape)


class SpatialResnet(nn.Module):
    """Stable Diffusion's resnet, every frame by itself; `emb` is the sum of time and stride embedding."""

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig) -> None:
        super().__init__()
        norm = partial(FrameGroupNorm, config.norm_num_groups, eps=config.norm_eps)
        self.norm1 = norm(in_channels)
        self.conv1 = FrameConv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_embedding_dim, out_channels)
        self.norm2 = norm(out_channels)
        self.conv2 = FrameConv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = FrameConv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + for_branches(self.time_emb_proj(F.silu(emb)), h.shape[0])[:, None, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h  # type: ignore[no-any-return]


class TemporalMix(nn.Module):
    """Mixes a module that looks along time with its input: `alpha x + (1 - alpha) module(x)`, alpha in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))  # at the start of training the network is exactly the image model

    def mix(self, x: Tensor, change: Tensor) -> Tensor:
        """`module(x)` is `x + change`."""
        return x + (1 - self.alpha.clamp(0, 1)).to(change.dtype) * change


class TemporalResnet(TemporalMix):
    """Resnet whose convolutions run along time; gets no time embedding."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = FrameGroupNorm(config.norm_num_groups, channels, eps=FINE_EPS)
        self.conv1 = TemporalConv3d(channels)
        self.norm2 = FrameGroupNorm(config.norm_num_groups, channels, eps=FINE_EPS)
        self.conv2 = TemporalConv3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.mix(x, h)


class GEGLU(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return F.gelu(gate).mul_(x)  # in place: these are the widest tensors of the network


class FeedForward(nn.Module):
    """`a * gelu(gate)`, four times as wide as the tokens, with the exact erf."""

    chunks = 1  # of the frames, one after the other: what is inside is the widest of the network

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.chunks == 1:
            return self.net(x)  # type: ignore[no-any-return]
        return torch.cat([self.net(part) for part in x.flatten(0, 1).chunk(self.chunks)]).view_as(x)


class SpatialBlock(nn.Module):
    """Self-attention with the first frame, attention to the text, feed-forward: tokens `b f n c`."""

    def __init__(self, channels: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SpatialSelfAttention(channels, heads, config.first_frame_condition_mode == "concat")
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, heads, config.cross_attention_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: TextKeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        change = self.attn2(self.norm2(x), text)  # from here on, the branches of guidance differ
        x = for_branches(x, change.shape[0]) + change
        return x + self.ff(self.norm3(x))  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """The same along time, with the first frame's window: tokens `b f n c`."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        heads, positions = config.n_temp_heads, POSITIONS[config.temp_pos_embedding]
        self.norm1 = nn.LayerNorm(channels)
        window = config.augment_temporal_attention
        self.attn1 = TemporalSelfAttention(channels, heads, window, positions(channels))
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TemporalCrossAttention(channels, heads, config.cross_attention_dim, positions(channels))
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: TextKeysValues, size: tuple[int, int]) -> Tensor:
        x = x + self.attn1(self.norm1(x), size)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))  # type: ignore[no-any-return]


class SpatialTransformer(nn.Module):
    """Group norm, linear in, one block over the positions of each frame, linear out, residual."""

    def __init__(self, channels: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = FrameGroupNorm(config.norm_num_groups, channels, eps=FINE_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, heads, config)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: TextKeysValues) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2, 3))  # b f (h w) c
        change = self.proj_out(self.transformer_blocks[0](tokens, text)).unflatten(2, x.shape[2:4])
        return for_branches(x, change.shape[0]) + change  # type: ignore[no-any-return]


class TemporalTransformer(TemporalMix):
    """Group norm, linear in, one block over the frames at each position, linear out, residual, mix."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = FrameGroupNorm(config.norm_num_groups, channels, eps=FINE_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, config)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: TextKeysValues) -> Tensor:
        size = (x.shape[2], x.shape[3])
        tokens = self.proj_in(self.norm(x).flatten(2, 3))  # b f (h w) c
        tokens = self.proj_out(self.transformer_blocks[0](tokens, text, size))
        return self.mix(x, tokens.unflatten(2, size))
