"""The configurations that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.training import settings
from consisti2v_cli.training.settings import read_file
from consisti2v_cli.training.synthetic import parse_motions

PRESETS = sorted(path.stem for path in (Path(settings.__file__).with_name("presets")).glob("*.toml"))
LARGEST = 30e6  # bytes of all weights in half precision


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_describes_a_small_model_whose_parts_fit_together(name: str) -> None:
    file = read_file(name)
    with torch.device("meta"):
        unet = VideoUNet(UNetConfig.from_dict(file.network.model))
        vae = AutoencoderKL(**file.autoencoder.model)
        text = CLIPTextModel(
            CLIPTextConfig(
                **file.text.model,
                vocab_size=file.text.vocabulary,
                max_position_embeddings=file.text.tokens,
            )
        )
    assert unet.config.in_channels == vae.config.latent_channels
    assert unet.config.cross_attention_dim == text.config.hidden_size
    assert 2 * sum(weights.numel() for part in (unet, vae, text) for weights in part.parameters()) <= LARGEST


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_stages_last_as_long_as_the_training(name: str) -> None:
    network = read_file(name).network
    assert sum(stage.steps for stage in network.stages()) == network.steps
    for stage in network.stages():
        assert parse_motions(stage.motions)
        assert 0 <= stage.videos < 1
    assert network.stages()[-1].frames == read_file(name).settings["frames"]
