"""A whole model in miniature, with made-up weights, written in the layout of the released one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from consisti2v_cli.model import UNetConfig, VideoUNet

MAX_TOKENS = 16
LATENT_CHANNELS = 6  # neither Stable Diffusion's 4 channels nor its 0.18215: nothing may count on them
SCALING = 0.5
SETTINGS = {"native_size": 64, "frames": 4, "fps": 8, "steps": 2, "guidance": 3.0, "layout_strength": 850}

UNET = {
    "_class_name": "VideoLDMUNet3DConditionModel",
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": [2, 2],
    "n_temp_heads": 4,
    "norm_num_groups": 8,
}
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 16],
    "norm_num_groups": 4,
    "latent_channels": LATENT_CHANNELS,
    "scaling_factor": SCALING,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_TOKENS,
    "projection_dim": 24,
}


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """Write a model of a few hundred thousand parameters; the same seed, the same weights."""
    torch.manual_seed(seed)
    vocabulary = _write_tokenizer(folder / "tokenizer")
    _write_part(folder / "unet", "diffusion_pytorch_model", _unet(), UNET)
    _write_part(folder / "vae", "diffusion_pytorch_model", _vae(), VAE)
    config = TEXT_ENCODER | {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    _write_part(folder / "text_encoder", "model", _text_encoder(config), config)
    _write_json(folder / "consisti2v.json", SETTINGS)
    return folder


def _unet() -> torch.nn.Module:
    unet = VideoUNet(UNetConfig.from_dict(UNET))
    for name, parameter in unet.named_parameters():
        if name.endswith("alpha"):  # 1 at the beginning of training: frames would not see each other
            torch.nn.init.uniform_(parameter, 0.2, 0.8)
        elif parameter.ndim > 1 and not parameter.any():  # zero at the beginning of training
            torch.nn.init.normal_(parameter, std=0.05)
    return unet


def _vae() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE)


def _text_encoder(config: dict[str, Any]) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config))


def _write_part(place: Path, stem: str, module: torch.nn.Module, config: dict[str, Any]) -> None:
    _write_json(place / "config.json", config)
    tensors = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, place / f"{stem}.safetensors", metadata={"format": "pt"})


def _write_tokenizer(place: Path) -> int:
    """A CLIP byte-level BPE with a handful of merges; returns the size of its vocabulary."""
    letters = _byte_letters()
    merges = ["t h", "th e</w>", "o a", "b oa", "boa t</w>", "l e", "f t</w>", "le ft</w>"]
    words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    _write_json(place / "vocab.json", {word: index for index, word in enumerate(words)})
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    _write_json(
        place / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": MAX_TOKENS,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
    )
    return len(words)


def _byte_letters() -> list[str]:
    """The printable character that byte-level BPE puts in the place of each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
