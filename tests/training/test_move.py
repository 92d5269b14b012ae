"""The script that moves a network to another autoencoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from benchmarks.move_network import move
from PIL import Image
from safetensors.torch import load_file, save_file

from consisti2v_cli.weights.load import load_part


def test_a_network_says_the_same_of_latents_that_are_turned(model_copy: Path, tmp_path: Path) -> None:
    """The other autoencoder is the same one with its latents mixed: the maps explain all, and undo it."""
    other, photos, out = tmp_path / "other", tmp_path / "photos", tmp_path / "out"
    (model_copy / "scheduler").mkdir()
    (model_copy / "consisti2v.json").write_text('{"native_size": 64}')
    shutil.copytree(model_copy / "vae", other / "vae")
    weights = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
    channels = weights["quant_conv.weight"].shape[0] // 2
    turn = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(1))).Q
    mean = weights["quant_conv.weight"][:channels]
    weights["quant_conv.weight"][:channels] = torch.einsum("dc,ciyx->diyx", turn, mean)
    weights["quant_conv.bias"][:channels] = turn @ weights["quant_conv.bias"][:channels]
    save_file(weights, other / "vae" / "diffusion_pytorch_model.safetensors")
    photos.mkdir()
    for number in range(3):
        coarse = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(coarse.numpy()).resize((96, 80)).save(photos / f"{number}.png")

    assert move(model_copy, other, photos, out) == pytest.approx((1, 1), abs=1e-4)
    before, after = load_part(model_copy, "unet"), load_part(out, "unet")
    generator = torch.Generator().manual_seed(2)
    latents, first = torch.randn(1, channels, 2, 8, 8, generator=generator), torch.zeros(1, channels, 1, 8, 8)
    text = torch.randn(1, 5, before.config.cross_attention_dim, generator=generator)
    turned = torch.einsum("dc,bcfyx->bdfyx", turn, latents)
    expected = torch.einsum("dc,bcfyx->bdfyx", turn, before(latents, 500, text, first_frame=first))
    assert torch.allclose(after(turned, 500, text, first_frame=first), expected, atol=1e-3)
