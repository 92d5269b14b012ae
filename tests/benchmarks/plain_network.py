"""The video U-Net computed the plain way: what step_speed.py measures `consisti2v_cli.model.VideoUNet` against.

It does what the paper's section 3 says as it says it, and shares nothing: the first frame's tokens are repeated for
every frame, the window's gathered for every position, the text's repeated for every frame and every position; keys and
values are projected from them all, at every step and for every guidance branch. Written apart from `VideoUNet`, with
nothing of it but the configuration; its modules have the checkpoint's names, so that one state dict fits both.

Feature maps are `(b f) c h w`; tokens are `(b f) (h w) C` in spatial and `(b h w) f C` in temporal transformers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consisti2v_cli.model import UNetConfig

Number = int | Tensor  # one for all videos, or one a video


def rotary_frequencies(width: int) -> Tensor:
    """What pair `j` of the first half of the channels turns by from one frame to the next: width / 4 numbers."""
    return 10000.0 ** (-torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))


def sinusoidal_table(f: int, width: int, like: Tensor) -> Tensor:
    """What is added to the tokens of each frame where there is no rotation: f C."""
    frames, pairs = torch.arange(f, device=like.device), torch.arange(width // 2, device=like.device)
    angles = frames[:, None] / 10000 ** (pairs / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


def sinusoidal_projection(values: Tensor, width: int) -> Tensor:
    """Timesteps or frame strides, `b`, as `b width`: cosines first."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=values.device) / half)
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def window(tokens: Tensor, h: int, w: int) -> Tensor:
    """The 8 neighbours of each position in the first frame: (b h w) f C -> (b h w) 8 C."""
    first = tokens[:, 0].unflatten(0, (-1, h, w)).permute(0, 3, 1, 2)
    padded = F.pad(first, (1, 1, 1, 1), mode="replicate")
    neighbours = [padded[:, :, y : y + h, x : x + w] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack(neighbours).permute(1, 3, 4, 0, 2).flatten(0, 2)


def blend(alpha: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return alpha.clamp(0, 1) * x + (1 - alpha.clamp(0, 1)) * y


class Embedding(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, values: Number, b: int) -> Tensor:
        weight = self.linear_1.weight
        values = torch.as_tensor(values, device=weight.device).expand(b)
        projected = sinusoidal_projection(values, weight.shape[1]).to(weight.dtype)
        return self.linear_2(F.silu(self.linear_1(projected)))


class Resnet(nn.Module):
    def __init__(self, config: UNetConfig, inputs: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_num_groups, inputs, eps=config.norm_eps)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_embedding_dim, width)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, width, eps=config.norm_eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class TemporalResnet(nn.Module):
    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.norm1 = nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        self.conv1 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        self.norm2 = nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        self.conv2 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor, f: int) -> Tensor:
        y = over_time(self.conv1, F.silu(self.norm1(x)), f)
        y = over_time(self.conv2, F.silu(self.norm2(y)), f)
        return blend(self.alpha, x, x + y)


def over_time(convolution: nn.Conv3d, x: Tensor, f: int) -> Tensor:
    return convolution(x.unflatten(0, (-1, f)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)


class Rotary(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", rotary_frequencies(width))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn the pairs of the first half of the channels of `n tokens C`."""
        angles = positions[:, None] * self.freqs
        turning, still = x.chunk(2, dim=-1)
        a, b = turning.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)
        return torch.cat([turned.flatten(-2).to(x.dtype), still], dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.rotary_emb = Rotary(width) if rotary else None

    def forward(self, x: Tensor, context: Tensor, context_is_text: bool = False) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.rotary_emb:
            frames = torch.arange(x.shape[1], device=x.device)
            q = self.rotary_emb(q, frames)
            if not context_is_text:  # behind the frames come the window's tokens, at position 0
                k = self.rotary_emb(k, F.pad(frames, (0, k.shape[1] - len(frames))))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        a, gate = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(gate)


class Block(nn.Module):
    def __init__(self, width: int, text_width: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads, rotary)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, text_width, heads, rotary)
        self.norm3 = nn.LayerNorm(width)
        self.ff = nn.ModuleDict({"net": nn.Sequential(GEGLU(width), nn.Identity(), nn.Linear(4 * width, width))})


class Transformer(nn.Module):
    def __init__(self, config: UNetConfig, width: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Block(width, config.cross_attention_dim, heads, rotary)])
        self.proj_out = nn.Linear(width, width)


class SpatialTransformer(Transformer):
    def forward(self, x: Tensor, text: Tensor, f: int) -> Tensor:
        size, text, block = x.shape[2:], text.repeat_interleave(f, 0), self.transformer_blocks[0]
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        z = block.norm1(y)
        y = y + block.attn1(z, self.context(z, f))
        y = y + block.attn2(block.norm2(y), text)
        y = y + block.ff["net"](block.norm3(y))
        return x + self.proj_out(y).transpose(1, 2).unflatten(2, size)

    def context(self, tokens: Tensor, f: int) -> Tensor:
        if self.config.first_frame_condition_mode == "input_only":
            return tokens
        return torch.cat([tokens, tokens[::f].repeat_interleave(f, 0)], dim=1)


class TemporalTransformer(Transformer):
    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__(config, width, config.n_temp_heads, rotary=config.temp_pos_embedding == "rotary")
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, text: Tensor, f: int) -> Tensor:
        (h, w), block = x.shape[2:], self.transformer_blocks[0]
        text = text.repeat_interleave(h * w, 0)
        y = self.norm(x).unflatten(0, (-1, f)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        y = self.proj_in(y)
        z = self.placed(block.norm1(y))
        y = y + block.attn1(z, self.context(z, h, w))
        y = y + block.attn2(self.placed(block.norm2(y)), text, context_is_text=True)
        y = y + block.ff["net"](block.norm3(y))
        y = self.proj_out(y).unflatten(0, (-1, h, w)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return blend(self.alpha, x, x + y)

    def placed(self, tokens: Tensor) -> Tensor:
        sinusoidal = self.config.temp_pos_embedding == "sinusoidal"
        return tokens + sinusoidal_table(*tokens.shape[1:], tokens) if sinusoidal else tokens

    def context(self, tokens: Tensor, h: int, w: int) -> Tensor:
        if not self.config.augment_temporal_attention:
            return tokens
        return torch.cat([tokens, window(tokens, h, w)], dim=1)


class Level(nn.Module):
    """The layers of one level; `inputs` are the channels that come into each, `heads` is 0 without attention."""

    def __init__(self, config: UNetConfig, inputs: list[int], width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.resnets = nn.ModuleList(Resnet(config, channels, width) for channels in inputs)
        self.conv3ds = nn.ModuleList(TemporalResnet(config, width) for _ in inputs)
        if heads:
            self.attentions = nn.ModuleList(SpatialTransformer(config, width, heads) for _ in inputs)
            self.tempo_attns = nn.ModuleList(TemporalTransformer(config, width) for _ in inputs)

    def layer(self, i: int, x: Tensor, embedding: Tensor, text: Tensor, f: int) -> Tensor:
        x = self.conv3ds[i](self.resnets[i](x, embedding), f)
        return self.tempo_attns[i](self.attentions[i](x, text, f), text, f) if self.heads else x


class MidBlock(Level):
    def __init__(self, config: UNetConfig, width: int, heads: int) -> None:
        super().__init__(config, [width, width], width, heads=0)
        self.attentions = nn.ModuleList([SpatialTransformer(config, width, heads)])

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor, f: int) -> Tensor:
        x = self.attentions[0](self.layer(0, x, embedding, text, f), text, f)
        return self.layer(1, x, embedding, text, f)


def resampler(width: int, stride: int) -> nn.ModuleList:
    return nn.ModuleList([nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, stride=stride, padding=1)})])


class PlainNetwork(nn.Module):
    """Called as `VideoUNet` is, with text that is not projected."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths, layers = config.block_out_channels, config.layers_per_block
        heads = [*config.num_heads[:-1], 0]  # the deepest level has no attention
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = Embedding(widths[0], config.time_embedding_dim)
        if config.use_frame_stride_condition:
            self.frame_stride_embedding = Embedding(widths[0], config.time_embedding_dim)
        self.down_blocks, self.up_blocks, x, skips = nn.ModuleList(), nn.ModuleList(), widths[0], [widths[0]]
        for i, width in enumerate(widths):
            self.down_blocks.append(Level(config, [x] + [width] * (layers - 1), width, heads[i]))
            skips += [width] * layers
            if i < len(widths) - 1:
                self.down_blocks[-1].downsamplers = resampler(width, stride=2)
                skips.append(width)
            x = width
        self.mid_block = MidBlock(config, x, config.num_heads[-1])
        for i, width in reversed(list(enumerate(widths))):
            inputs = [(width if j else x) + skips.pop() for j in range(layers + 1)]
            self.up_blocks.append(Level(config, inputs, width, heads[i]))
            if i:
                self.up_blocks[-1].upsamplers = resampler(width, stride=1)
            x = width
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, x, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(x, config.out_channels, 3, padding=1)

    def forward(
        self, latents: Tensor, timestep: Number, text: Tensor, *, first_frame: Tensor, frame_stride: Number = 3
    ) -> Tensor:
        """The noise predicted in frames 2..f: b c f-1 h w -> b c f-1 h w."""
        video = torch.cat([first_frame, latents], dim=2)
        b, f = video.shape[0], video.shape[2]
        embedding = self.time_embedding(timestep, b)
        if hasattr(self, "frame_stride_embedding"):
            embedding = embedding + self.frame_stride_embedding(frame_stride, b)
        embedding = embedding.repeat_interleave(f, 0)
        x = self.conv_in(video.transpose(1, 2).flatten(0, 1))
        skips = [x]
        for level in self.down_blocks:
            for i in range(len(level.resnets)):
                x = level.layer(i, x, embedding, text, f)
                skips.append(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0]["conv"](x)
                skips.append(x)
        x = self.mid_block(x, embedding, text, f)
        for level in self.up_blocks:
            for i in range(len(level.resnets)):
                x = level.layer(i, torch.cat([x, skips.pop()], dim=1), embedding, text, f)
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0]["conv"](F.interpolate(x, size=skips[-1].shape[2:], mode="nearest"))
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x.unflatten(0, (b, f)).transpose(1, 2)[:, :, 1:]
