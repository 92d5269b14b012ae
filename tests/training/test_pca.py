"""The autoencoder's starting point: its latents are the principal components of the photos' blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from consisti2v_cli.training.autoencoder import fix_deviation
from consisti2v_cli.training.pca import start_from_components
from consisti2v_cli.training.photos import PhotoSource

FACTOR, LATENTS = 4, 4


@pytest.fixture(scope="module")
def photos() -> Tensor:
    source = PhotoSource("tests/fixtures/heldout", size=64, device="cpu")
    return source.draw(64, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def latents(photos: Tensor) -> Tensor:
    vae = AutoencoderKL(
        block_out_channels=[16, 48, 64],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=LATENTS,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    start_from_components(vae, photos)
    with torch.no_grad():
        posterior = vae.encode(photos).latent_dist
    assert posterior.logvar.max() < -7
    return posterior.mode()


def blocks(photos: Tensor) -> Tensor:
    return F.pixel_unshuffle(photos, FACTOR).permute(0, 2, 3, 1).flatten(0, 2).double()


def left_over(codes: Tensor, wanted: Tensor) -> float:
    """Mean squared error of the best affine decoding of codes."""
    codes = torch.cat([codes, torch.ones(len(codes), 1, dtype=codes.dtype)], dim=1)
    solution = torch.linalg.lstsq(codes, wanted).solution
    return (codes @ solution - wanted).square().mean().item()


def test_latents_have_deviation_one_and_do_not_repeat_each_other(latents: Tensor) -> None:
    values = latents.transpose(0, 1).flatten(1)
    assert torch.allclose(values.std(1), torch.ones(LATENTS), atol=0.15)
    assert (torch.corrcoef(values) - torch.eye(LATENTS)).abs().max() < 0.2


def test_they_keep_what_the_principal_components_keep(photos: Tensor, latents: Tensor) -> None:
    wanted = blocks(photos)
    centred = wanted - wanted.mean(0)
    axes = torch.linalg.eigh(torch.cov(centred.T)).eigenvectors[:, -LATENTS:]
    best = left_over(centred @ axes, wanted)
    codes = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    assert left_over(codes, wanted) < 1.1 * best


def test_the_deviation_it_was_trained_with_is_the_one_it_says(photos: Tensor) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(latent_channels=LATENTS, block_out_channels=[16], norm_num_groups=4)
    with torch.no_grad():
        before = vae.encode(photos[:2]).latent_dist
        fix_deviation(vae, 0.03)
        after = vae.encode(photos[:2]).latent_dist
    assert torch.equal(after.mean, before.mean)
    assert torch.allclose(after.std, torch.tensor(0.03))
