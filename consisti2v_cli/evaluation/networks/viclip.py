"""ViCLIP (InternVid, Wang et al. 2023): features of videos and of texts in one space.

CLIP's towers, where the patches of all frames attend to each other together. Module names are those of
ViClip-InternVid-10M-FLT.pth and of ViCLIP-L-14-hf's model.safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consisti2v_cli.errors import WeightsError

from .files import fill, read_tensors

UNUSED = ("temp",)  # the temperature of training


@dataclass(frozen=True)
class ViCLIPSizes:
    side: int = 224  # pixels
    patch: int = 14  # pixels
    frames: int = 8
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vocabulary: int = 49408
    context: int = 32  # tokens
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    features: int = 768


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)
        out: Tensor = self.c_proj(h * torch.sigmoid(1.702 * h))  # QuickGELU
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`b tokens c` -> the same; `mask` is added to what the softmax sees."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTower(nn.Module):
    def __init__(self, sizes: ViCLIPSizes) -> None:
        super().__init__()
        width, kernel = sizes.vision_width, (1, sizes.patch, sizes.patch)
        self.conv1 = nn.Conv3d(3, width, kernel, kernel, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((sizes.side // sizes.patch) ** 2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, sizes.frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, sizes.vision_layers, sizes.vision_heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, sizes.features))

    def forward(self, clips: Tensor) -> Tensor:
        """`b 3 f h w` -> features `b c`, of the one class token of a clip."""
        patches = self.conv1(clips).flatten(3).permute(0, 2, 3, 1)  # b f patches c
        patches = patches + self.positional_embedding[1:] + self.temporal_positional_embedding[:, :, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(clips), 1, -1)
        x = self.transformer(self.ln_pre(torch.cat([first, patches.flatten(1, 2)], dim=1)))
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class TextTower(nn.Module):
    def __init__(self, sizes: ViCLIPSizes) -> None:
        super().__init__()
        width = sizes.text_width
        self.token_embedding = nn.Embedding(sizes.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(sizes.context, width))
        self.transformer = Transformer(width, sizes.text_layers, sizes.text_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, sizes.features))

    def forward(self, tokens: Tensor) -> Tensor:
        """`b context` -> features `b c`, of the end token, which has the largest number."""
        x = self.token_embedding(tokens) + self.positional_embedding
        future = torch.full((tokens.shape[1],) * 2, -torch.inf, device=x.device, dtype=x.dtype).triu(1)
        x = self.ln_final(self.transformer(x, future))
        ends = x[torch.arange(len(tokens), device=x.device), tokens.argmax(dim=-1)]
        out: Tensor = ends @ self.text_projection
        return out


class ViCLIP(nn.Module):
    def __init__(self, sizes: ViCLIPSizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or ViCLIPSizes()
        self.vision_encoder = VisionTower(self.sizes)
        self.text_encoder = TextTower(self.sizes)

    def video_features(self, clips: Tensor) -> Tensor:
        """Features of clips, not normalised.

        Args:
            clips: `b 3 8 224 224`, as `preprocess.viclip_clip` makes them.

        Returns:
            `b 768`.

        Raises:
            ValueError: another size, or another number of frames.
        """
        wanted = (3, self.sizes.frames, self.sizes.side, self.sizes.side)
        if clips.shape[1:] != wanted:
            raise ValueError(f"ViCLIP needs clips of {list(wanted)}, not {list(clips.shape[1:])}")
        return self.vision_encoder(clips)  # type: ignore[no-any-return]

    def text_features(self, tokens: Tensor) -> Tensor:
        """`b 32`, as `tokenize` makes them -> `b 768`, not normalised."""
        return self.text_encoder(tokens)  # type: ignore[no-any-return]


def tokenize(tokenizer: Any, texts: Sequence[str], context: int = 32) -> Tensor:
    """Tokens `b context`: begin, text, end, zeros; of long texts the end of the text is left out."""
    tokens = torch.zeros(len(texts), context, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        numbers = tokenizer(text, truncation=True, max_length=context)["input_ids"]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def load_tokenizer(folder: Path, vocabulary: int = 49408) -> Any:
    """CLIP's tokenizer from a folder with tokenizer.json, or vocab.json and merges.txt.

    Raises:
        WeightsError: they are missing or damaged, or are another network's.
    """
    from transformers import CLIPTokenizer  # here, since it takes seconds

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises whatever its parts do
        raise WeightsError(f"{folder} has no tokenizer that can be read: {error}") from error
    if len(tokenizer) != vocabulary or tokenizer.eos_token_id != vocabulary - 1:
        raise WeightsError(f"The tokenizer in {folder} has {len(tokenizer)} tokens instead of CLIP's {vocabulary}.")
    return tokenizer


def load_viclip(path: Path, device: torch.device | str = "cpu", sizes: ViCLIPSizes | None = None) -> ViCLIP:
    """ViCLIP with the weights of a published file. WeightsError: not a file, or not its tensors."""
    with torch.device("meta"):
        network = ViCLIP(sizes)
    return fill(network, read_tensors(path), path, device=device, unused=UNUSED)
