"""Attention over space, time, first frame and text (paper, sections 3.3, 3.4, A.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # each b n c
TextKeysValues = tuple[KeysValues, ...]  # one pair for every cross-attention of the network, in module order

MOST_HEADS = 65_535  # that CUDA's kernels take at a time


def _math_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The definition, spelled out: takes most memory, yet trains fastest on a CPU, where sequences are short."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return torch.matmul(scores.softmax(-1), value)


def _xformers_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    from xformers.ops import memory_efficient_attention

    split = [t.transpose(1, 2) for t in (query, key, value)]  # b n heads d
    out: Tensor = memory_efficient_attention(*split)
    return out.transpose(1, 2)


Backend = Callable[[Tensor, Tensor, Tensor], Tensor]  # b heads n d, b heads m d, b heads m d -> b heads n d
BACKENDS: dict[str, Backend] = {
    "sdpa": F.scaled_dot_product_attention,
    "math": _math_attention,
    "xformers": _xformers_attention,
}


class Attention(nn.Module):
    """Projections and heads, under the checkpoint's names; subclasses say who looks at whom."""

    def __init__(self, channels: int, heads: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.backend: Backend = BACKENDS["sdpa"]
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Projected queries `b n c`, keys and values `b m c` -> `b n c`."""
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        out = self.backend(query, key, value).transpose(1, 2).flatten(2)
        return self.to_out[0](out)  # type: ignore[no-any-return]


class SpatialSelfAttention(Attention):
    """Every frame looks at itself and at the first frame (paper, section 3.3)."""

    def __init__(self, channels: int, heads: int, first_frame: bool) -> None:
        super().__init__(channels, heads)
        self.first_frame = first_frame

    def forward(self, x: Tensor) -> Tensor:
        """`b f n c` -> `b f n c`, with `n` the positions of a frame."""
        query, key, value = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.first_frame:
            # The first frame's keys and values are projected with its own tokens, once for all frames.
            key, value = (torch.cat([t, t[:, :1].expand_as(t)], dim=2) for t in (key, value))
        return self.attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)).view_as(x)


class TemporalSelfAttention(Attention):
    """Every position looks along time and at a 3x3 window of the first frame (paper, section 3.4)."""

    def __init__(self, channels: int, heads: int, window: bool, positions: nn.Module) -> None:
        super().__init__(channels, heads)
        self.window = window
        self.rotary_emb = positions

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`b f n c` -> `b f n c`, with `n = height width` of `size`."""
        x = self.rotary_emb.add_to(x)  # type: ignore[operator]
        query, key, value = self.rotary_emb(self.to_q(x)), self.to_k(x), self.to_v(x)
        rotated = self.rotary_emb(key)
        if self.window:
            # The window's tokens are first-frame tokens at position 0: gather their projections, which
            # the rotation by 0 leaves as they are.
            around = [neighbours(t[:, 0], size) for t in (key, value)]  # b 8 n c
            key, value = torch.cat([rotated, around[0]], dim=1), torch.cat([value, around[1]], dim=1)
        else:
            key = rotated
        # To attention, the heads of all positions are heads: of the tokens as they lie in memory, none is moved.
        heads = [t.unflatten(-1, (self.heads, -1)).flatten(2, 3).transpose(1, 2) for t in (query, key, value)]
        out = [self.backend(*some) for some in zip(*(t.split(MOST_HEADS, dim=1) for t in heads), strict=True)]
        whole = out[0] if len(out) == 1 else torch.cat(out, dim=1)  # b (n heads) f d
        return self.to_out[0](whole.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class CrossAttention(Attention):
    """Looks at the text. The text's keys and values depend on nothing else: `project` them once a clip."""

    index: int  # place of this layer's keys and values in `TextKeysValues`; set by the network

    def __init__(self, channels: int, heads: int, text_channels: int) -> None:
        super().__init__(channels, heads, text_channels)

    def project(self, text: Tensor) -> KeysValues:
        """`b tokens width` -> keys and values, each `b tokens c`: where the weights lie, be it for a while only."""
        return F.linear(text, self.to_k.weight), F.linear(text, self.to_v.weight)

    def forward(self, x: Tensor, text: TextKeysValues) -> Tensor:
        """`b f n c` -> `branches f n c`: all tokens of a video share one set of keys and values in each branch."""
        key, value = text[self.index]
        query = self.positioned(self.to_q(self.placed(x))).flatten(1, 2)
        out: Tensor = self.attend(for_branches(query, key.shape[0]), key, value)
        return out.unflatten(1, x.shape[1:3])  # type: ignore[no-any-return]

    def placed(self, x: Tensor) -> Tensor:
        """Positions that are added to the tokens: none in space."""
        return x

    def positioned(self, query: Tensor) -> Tensor:
        """Positions that turn the queries: none in space."""
        return query


class TemporalCrossAttention(CrossAttention):
    """Cross-attention whose queries know their frame; the text's keys have no position."""

    def __init__(self, channels: int, heads: int, text_channels: int, positions: nn.Module) -> None:
        super().__init__(channels, heads, text_channels)
        self.rotary_emb = positions

    def placed(self, x: Tensor) -> Tensor:
        return self.rotary_emb.add_to(x)  # type: ignore[operator, no-any-return]

    def positioned(self, query: Tensor) -> Tensor:
        return self.rotary_emb(query)  # type: ignore[no-any-return]


class RotaryPositions(nn.Module):
    """Rotary embedding of the frame index on the first half of the channels, before the split into heads.

    Adjacent channels are a pair; pair `j` of `c / 4` turns by `frame * 10000^(-2j / (c / 2))` (paper, A.1).
    """

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", rotary_frequencies(channels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryPositions:
        """Move with the module, but stay float32 whatever the weights' type."""
        freqs = self.freqs
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not freqs.is_meta:
            self.freqs = freqs.to(self.freqs.device)
        return self

    def add_to(self, x: Tensor) -> Tensor:
        """Rotary positions add nothing to the tokens."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Turn projected tokens `b f n c` by their frame, in float32."""
        frames = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angles = torch.outer(frames, self.freqs.float())  # f c/4
        angles = torch.cat([angles, torch.zeros_like(angles)], dim=-1)[:, None]  # f 1 c/2: the rest stays as it is
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))
        return turned.flatten(-2).to(x.dtype)


class SinusoidalPositions(nn.Module):
    """A fixed table of sines and cosines that is added to the tokens; turns nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def add_to(self, x: Tensor) -> Tensor:
        """Add row `p` of the table to frame `p` of tokens `b f n c`."""
        frames = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        pair = torch.arange(self.channels // 2, device=x.device, dtype=torch.float32)
        angles = torch.outer(frames, 10000.0 ** (-pair / self.channels))  # as trained: j / c, not 2j / c
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return x + table[:, None].to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return x


POSITIONS: dict[str, type[RotaryPositions] | type[SinusoidalPositions]] = {
    "rotary": RotaryPositions,
    "sinusoidal": SinusoidalPositions,
}


def rotary_frequencies(channels: int) -> Tensor:
    """The `rotary_emb.freqs` of a layer with that many channels: `c / 4` values, float32."""
    rotated = channels // 2
    return 10000.0 ** (-torch.arange(0, rotated, 2, dtype=torch.float32) / rotated)


def neighbours(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The 8 tokens around each position of a map, its border replicated: `b n c` -> `b 8 n c`."""
    height, width = size
    rows = tokens.unflatten(1, size)
    taller = torch.cat([rows[:, :1], rows, rows[:, -1:]], dim=1)
    padded = torch.cat([taller[:, :, :1], taller, taller[:, :, -1:]], dim=2)
    around = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack(around, dim=1).flatten(2, 3)


def for_branches(x: Tensor, branches: int) -> Tensor:
    """What all branches of guidance have in common, once for each: `b ...` -> `branches ...`, branch after branch.

    `branches` is a multiple of `b`, and counts all videos' branches.
    """
    if x.shape[0] in (1, branches):
        return x.expand(branches, *x.shape[1:])
    return x.repeat(branches // x.shape[0], *[1] * (x.ndim - 1))
