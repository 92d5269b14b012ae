"""The objectives against the formulas written out by hand, and the network's loss on a fixed batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from consisti2v_cli.diffusion import alphas_cumprod, make_scheduler
from consisti2v_cli.model import UNetConfig, VideoUNet
from consisti2v_cli.training import objective
from consisti2v_cli.training.autoencoder import fold_statistics
from consisti2v_cli.training.batch import Batch
from consisti2v_cli.training.loop import Draw
from consisti2v_cli.training.network import NetworkPart, initialise
from consisti2v_cli.training.settings import NetworkSettings
from consisti2v_cli.training.text import train_tokenizer

LEVELS = torch.tensor([0.9, 0.2])


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 2, 2, generator=generator), torch.randn(2, 3, 4, 2, 2, generator=generator)


def test_noise_and_targets_by_hand(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean, noise = clips
    noisy = objective.add_noise(clean, noise, LEVELS)
    velocity = objective.target("v_prediction", clean, noise, LEVELS)
    for clip, level in enumerate(LEVELS.tolist()):
        torch.testing.assert_close(noisy[clip], level**0.5 * clean[clip] + (1 - level) ** 0.5 * noise[clip])
        torch.testing.assert_close(velocity[clip], level**0.5 * noise[clip] - (1 - level) ** 0.5 * clean[clip])
    assert objective.target("epsilon", clean, noise, LEVELS) is noise


def test_noising_is_diffusers(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean, noise = clips
    timesteps = torch.tensor([10, 850])
    levels, scheduler = alphas_cumprod()[timesteps], make_scheduler("ddim")
    torch.testing.assert_close(objective.add_noise(clean, noise, levels), scheduler.add_noise(clean, noise, timesteps))
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(objective.target("v_prediction", clean, noise, levels), velocity)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_predicted_clean_undoes_the_target(kind: str, clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean, noise = clips
    noisy, wanted = objective.add_noise(clean, noise, LEVELS), objective.target(kind, clean, noise, LEVELS)
    torch.testing.assert_close(objective.predicted_clean(kind, wanted, noisy, LEVELS), clean, atol=1e-5, rtol=1e-5)


def test_min_snr_weights_by_hand() -> None:
    # snr: 9 and 0.25
    expected = torch.tensor([5 / 9, 1.0])
    torch.testing.assert_close(objective.min_snr_weights("epsilon", LEVELS, 5.0), expected)
    expected = torch.tensor([5 / 10, 0.25 / 1.25])
    torch.testing.assert_close(objective.min_snr_weights("v_prediction", LEVELS, 5.0), expected)


def test_the_loss_is_a_mean_over_clips_with_their_weights() -> None:
    predicted = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1).expand(2, 3, 4, 2, 2)
    assert objective.diffusion_loss(predicted, torch.zeros_like(predicted)).item() == 5
    weighted = objective.diffusion_loss(predicted, torch.zeros_like(predicted), torch.tensor([1.0, 0.5]))
    assert weighted.item() == 2.75


def test_timesteps_keep_to_their_range_and_lean_to_high_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    even = objective.draw_timesteps(20_000, generator, low=400, high=900)
    assert (even.min().item(), even.max().item()) == (400, 899)
    assert even.float().mean().item() == pytest.approx(649.5, abs=4)
    leaning = objective.draw_timesteps(20_000, generator, power=2)
    assert leaning.float().mean().item() == pytest.approx(2 / 3 * 1000, abs=6)


def test_captions_and_first_frames_are_dropped_as_often_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    captions = objective.drop_captions(["left"] * 10_000, 0.1, generator)
    assert captions.count("") == pytest.approx(1000, abs=120)
    first, noisy = torch.zeros(10_000, 1, 1, 1, 1), torch.ones(10_000, 1, 1, 1, 1)
    assert objective.drop_images(first, noisy, 0.1, generator).sum().item() == pytest.approx(1000, abs=120)
    assert torch.equal(objective.drop_images(first, noisy, 0.0, generator), first)


def test_psnr_of_a_known_difference() -> None:
    pictures = torch.zeros(1, 3, 8, 8) + 1 / 255  # level 128 of 255
    shifted = pictures + 2 * 10 / 255
    expected = 20 * torch.log10(torch.tensor(255 / 10))
    torch.testing.assert_close(objective.signal_to_noise(shifted, pictures), expected[None])


def test_folding_statistics_changes_latents_as_told_and_pictures_not_at_all() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=2).double().eval()
    pictures = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    mean = torch.tensor([0.5, -1, 2, 0], dtype=torch.float64)
    deviation = torch.tensor([0.1, 2, 1, 5], dtype=torch.float64)
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        decoded = vae.decode(before.mean).sample
        fold_statistics(vae, mean, deviation)
        after = vae.encode(pictures).latent_dist
    shape = (1, -1, 1, 1)
    torch.testing.assert_close(after.mean, (before.mean - mean.view(shape)) / deviation.view(shape))
    torch.testing.assert_close(after.std, before.std / deviation.view(shape))
    torch.testing.assert_close(vae.decode(after.mean).sample, decoded)


def test_a_fresh_network_predicts_0_and_mixes_by_alpha() -> None:
    unet = VideoUNet(tiny_unet())
    initialise(unet, 0.5)
    alphas = [parameter for name, parameter in unet.named_parameters() if name.endswith("alpha")]
    assert alphas
    assert all(alpha.item() == 0.5 for alpha in alphas)
    predicted = unet(torch.randn(1, 4, 2, 4, 4), 5, torch.randn(1, 3, 16), first_frame=torch.randn(1, 4, 1, 4, 4))
    assert not predicted.any()


def test_the_networks_loss_on_a_fixed_batch_falls(tmp_path: Path) -> None:
    part = network_part(tmp_path)
    optimizer = torch.optim.AdamW(part.groups(), lr=2e-3)
    draw = Draw(0, "network", 0)
    losses = []
    for _ in range(30):
        loss, _ = part.loss(part.module, draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        part.constrain()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def tiny_unet() -> UNetConfig:
    return UNetConfig(
        block_out_channels=(16, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        num_heads=(2, 2),
        n_temp_heads=4,
        norm_num_groups=4,
    )


class NoisePictures:
    """Clips that show nothing; the same generator gives the same one, which can be learned by heart."""

    def draw(self, batch: int, frames: int, generator: torch.Generator) -> Batch:
        pictures = torch.rand(batch, frames, 3, 16, 16, generator=generator) * 2 - 1
        return Batch(pictures, ["left", "right"], ["left", "right"], torch.ones(batch, dtype=torch.long))


def network_part(folder: Path) -> NetworkPart:
    """A network on a random autoencoder and text encoder."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["left", "right"], 520, 8)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=8,
        eos_token_id=tokenizer.eos_token_id,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    nn.init.normal_(vae.quant_conv.weight, std=3.0)
    vae.save_pretrained(folder / "vae")
    settings = NetworkSettings(batch=2, model=tiny_unet().to_dict(), alpha=0.5)
    return NetworkPart(settings, [NoisePictures()], folder, torch.device("cpu"), about={})
