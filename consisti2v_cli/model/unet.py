"""The video U-Net of ConsistI2V (paper, section 3 and figure 2): parts in `blocks.py`, here levels and whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import BACKENDS, Attention, CrossAttention, TextKeysValues, for_branches
from .blocks import (
    FeedForward,
    FrameConv2d,
    FrameGroupNorm,
    SpatialResnet,
    SpatialTransformer,
    TemporalResnet,
    TemporalTransformer,
)
from .config import UNetConfig


class Level(nn.Module):
    """The layers of one level, each a resnet and a transformer in space and one of each in time.

    `channels` are those going in and out of each layer; without `heads` there are no transformers.
    """

    gradient_checkpointing = False

    def __init__(self, channels: list[tuple[int, int]], heads: int | None, config: UNetConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(SpatialResnet(c_in, c_out, config) for c_in, c_out in channels)
        self.conv3ds = nn.ModuleList(TemporalResnet(c_out, config) for _, c_out in channels)
        self.attentions = nn.ModuleList(SpatialTransformer(c_out, heads, config) for _, c_out in channels if heads)
        self.tempo_attns = nn.ModuleList(TemporalTransformer(c_out, config) for _, c_out in channels if heads)

    def layer(self, i: int, x: Tensor, emb: Tensor, text: TextKeysValues) -> Tensor:
        """Layer `i`: `b f h w c` -> `b f h w c'`."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # nothing here draws random numbers, whose state would be read, which a capture forbids
            kept: Tensor = checkpoint(self._layer, i, x, emb, text, use_reentrant=False, preserve_rng_state=False)
            return kept
        return self._layer(i, x, emb, text)

    def _layer(self, i: int, x: Tensor, emb: Tensor, text: TextKeysValues) -> Tensor:
        x = self.resnets[i](x, emb)
        x = self.conv3ds[i](x)
        if i < len(self.attentions):
            x = self.attentions[i](x, text)
        if i < len(self.tempo_attns):
            x = self.tempo_attns[i](x, text)
        return x


class DownLevel(Level):
    """Layers, then half the size."""

    def __init__(self, c_in: int, c_out: int, heads: int | None, downsample: bool, config: UNetConfig) -> None:
        super().__init__([(c_in if i == 0 else c_out, c_out) for i in range(config.layers_per_block)], heads, config)
        self.downsamplers = nn.ModuleList([Downsample(c_out)] if downsample else [])

    def forward(self, x: Tensor, emb: Tensor, text: TextKeysValues) -> list[Tensor]:
        """The output of each layer and of the downsampler: skips, the last of which goes on."""
        outputs = self.first_layers(len(self.resnets), x, emb, text)
        for downsample in self.downsamplers:
            outputs.append(downsample(outputs[-1]))
        return outputs

    def first_layers(self, count: int, x: Tensor, emb: Tensor, text: TextKeysValues) -> list[Tensor]:
        """The outputs of the first layers."""
        outputs = [x]
        for i in range(count):
            outputs.append(self.layer(i, outputs[-1], emb, text))
        return outputs[1:]


class MidLevel(Level):
    """Two layers; only the first has a transformer, and none looks along time."""

    def __init__(self, channels: int, heads: int, config: UNetConfig) -> None:
        super().__init__([(channels, channels)] * 2, None, config)
        self.attentions.append(SpatialTransformer(channels, heads, config))

    def forward(self, x: Tensor, emb: Tensor, text: TextKeysValues) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, x, emb, text)
        return x


class UpLevel(Level):
    """Layers that each take a skip, then twice the size. `skips`: the skips' channels, in the order they are taken."""

    def __init__(
        self, c_in: int, c_out: int, skips: list[int], heads: int | None, upsample: bool, config: UNetConfig
    ) -> None:
        before = [c_in] + [c_out] * (len(skips) - 1)
        super().__init__([(c + skip, c_out) for c, skip in zip(before, skips, strict=True)], heads, config)
        self.upsamplers = nn.ModuleList([Upsample(c_out)] if upsample else [])

    def forward(self, x: Tensor, skips: list[Tensor], emb: Tensor, text: TextKeysValues) -> Tensor:
        """Takes its skips off the end of the list."""
        for i in range(len(self.resnets)):
            x = self.joined(i, x, skips.pop(), emb, text)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[2:4])
        return x

    def joined(self, i: int, x: Tensor, skip: Tensor, emb: Tensor, text: TextKeysValues) -> Tensor:
        """Layer `i` of a feature map and its skip."""
        return self.layer(i, torch.cat([x, for_branches(skip, x.shape[0])], dim=-1), emb, text)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest neighbour to the size of the skip that follows, so that odd sizes work, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        images = x.flatten(0, 1).permute(0, 3, 1, 2)  # (b f) c h w
        larger = F.interpolate(images, size=size, mode="nearest").permute(0, 2, 3, 1)
        return self.conv(larger.unflatten(0, x.shape[:2]))  # type: ignore[no-any-return]


class Embedding(nn.Module):
    """Sinusoidal projection of one number a video (cosines first), then a two-layer SiLU MLP."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, value: Tensor) -> Tensor:
        half = self.channels // 2
        frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=value.device))
        angles = value.float()[:, None] * frequencies
        wave = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(wave)))  # type: ignore[no-any-return]


@dataclass
class DeepFeatures:
    """What the deep layers gave at an earlier step. They change slowly from step to step, so that steps in between may
    compute the shallow layers alone (after Ma et al., "DeepCache"; not in the paper).
    """

    layers: int = 2  # of the last level that every step computes, at least 1; of the first level, one less
    kept: Tensor | None = None  # what goes into the first of them; None: the next pass computes all, and keeps it


class VideoUNet(nn.Module):
    """Predicts the noise of frames 2..f from their noisy latents, the clean first frame, and the text.

    Module names are the released checkpoint's, so its tensors load as they are (see `unused_tensor`).
    """

    shares_branches = True  # of guidance: one batch of latents will do for several texts

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, heads = config.block_out_channels, config.num_heads
        last = len(widths) - 1
        self.conv_in = FrameConv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = Embedding(widths[0], config.time_embedding_dim)
        if config.use_frame_stride_condition:
            self.frame_stride_embedding = Embedding(widths[0], config.time_embedding_dim)

        self.down_blocks = nn.ModuleList()
        skips, c_in = [widths[0]], widths[0]
        for i, c_out in enumerate(widths):
            self.down_blocks.append(DownLevel(c_in, c_out, heads[i] if i < last else None, i < last, config))
            skips += [c_out] * (config.layers_per_block + (i < last))
            c_in = c_out
        self.mid_block = MidLevel(c_in, heads[last], config)
        self.up_blocks = nn.ModuleList()
        for i in reversed(range(len(widths))):
            taken = [skips.pop() for _ in range(config.layers_per_block + 1)]
            self.up_blocks.append(UpLevel(c_in, widths[i], taken, heads[i] if i < last else None, i > 0, config))
            c_in = widths[i]

        self.conv_norm_out = FrameGroupNorm(config.norm_num_groups, c_in, eps=config.norm_eps)
        self.conv_out = FrameConv2d(c_in, config.out_channels, 3, padding=1)
        for index, layer in enumerate(self._cross_attentions()):
            layer.index = index

    def forward(
        self,
        latents: Tensor,
        timestep: int | Tensor,
        text: Tensor | TextKeysValues,
        *,
        first_frame: Tensor,
        frame_stride: int | Tensor = 3,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """Predict the noise (or whatever the checkpoint was trained to predict) of frames 2..f.

        Branches of guidance that differ in their text alone are given as a text for each: what comes before the first
        look at the text is computed once for all of them.

        Args:
            latents: noisy latents of frames 2..f, `b c f-1 h w`, any number of frames and any size.
            timestep: 0..999, one value or one a video (`b`).
            text: the text condition `b tokens width`, or of several branches, one behind the other,
                `branches*b tokens width`; or `project_text` of it, made once a clip.
            first_frame: the clean latent of the first frame, `b c 1 h w`.
            frame_stride: how much happens between frames, 1..5, one value or one a video.
            deep: of an earlier step of the same clip and branches, to be used again; or empty, to be filled.

        Returns:
            `b c f-1 h w`; of several branches `branches*b c f-1 h w`.
        """
        keys_values = self.project_text(text) if isinstance(text, Tensor) else text
        emb = self._embed(latents, timestep, frame_stride)
        x = self.conv_in(torch.cat([first_frame, latents], dim=2).permute(0, 2, 3, 4, 1).contiguous())  # b f h w c
        x = self._levels(x, emb, keys_values, deep)
        noise: Tensor = self.conv_out(F.silu(self.conv_norm_out(x[:, 1:])))
        return noise.permute(0, 4, 1, 2, 3)

    def _levels(self, x: Tensor, emb: Tensor, text: TextKeysValues, deep: DeepFeatures | None) -> Tensor:
        """Down, through the middle and up; of deep levels what is kept, if there is any."""
        first: Any = self.down_blocks[0]
        last: Any = self.up_blocks[-1]
        cut = len(last.resnets) - (deep.layers if deep else 0)  # layers before it are deep
        skips = [x]
        if deep is None or deep.kept is None:
            for level in self.down_blocks:
                skips += level(skips[-1], emb, text)
            x = self.mid_block(skips[-1], emb, text)
            for level in self.up_blocks[:-1]:
                x = level(x, skips, emb, text)
            for i in range(cut):
                x = last.joined(i, x, skips.pop(), emb, text)
        else:
            skips += first.first_layers(deep.layers - 1, x, emb, text)
            x = deep.kept
        if deep is not None:
            deep.kept = x
        for i in range(cut, len(last.resnets)):
            x = last.joined(i, x, skips.pop(), emb, text)
        return x

    def project_text(self, text: Tensor) -> TextKeysValues:
        """The text's keys and values in every cross-attention: they depend on neither step, frame nor position."""
        return tuple(layer.project(text) for layer in self._cross_attentions())

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training computes the activations inside a layer twice instead of keeping them."""
        return self.mid_block.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Level):
                module.gradient_checkpointing = on

    def set_attention(self, backend: str) -> None:
        """Choose how attention is computed: a key of `BACKENDS` (KeyError otherwise)."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = BACKENDS[backend]

    def set_feed_forward_chunks(self, chunks: int) -> None:
        """Choose into how many pieces feed-forward layers cut their tokens, which saves memory; 1: none."""
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.chunks = chunks

    def _cross_attentions(self) -> list[CrossAttention]:
        return [module for module in self.modules() if isinstance(module, CrossAttention)]

    def _embed(self, latents: Tensor, timestep: int | Tensor, frame_stride: int | Tensor) -> Tensor:
        def one_a_video(value: int | Tensor) -> Tensor:
            return torch.as_tensor(value, device=latents.device).expand(latents.shape[0])

        emb: Tensor = self.time_embedding(one_a_video(timestep))
        if self.config.use_frame_stride_condition:
            emb = emb + self.frame_stride_embedding(one_a_video(frame_stride))
        return emb


def unused_tensor(name: str) -> bool:
    """Whether a checkpoint's tensor takes no part in inference: the released one has 74 such."""
    return name.endswith("rotary_bias.relative_attention_bias.weight") or (
        "conv3ds." in name and ".time_emb_proj." in name
    )
